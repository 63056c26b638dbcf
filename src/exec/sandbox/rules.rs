//! The rules: which files and folders a step may read and write, and whether it may use the network.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exec::job::{Job, WorkFolder};
use crate::step::{Sandbox, StepError};

/// Where the system and installed software are: programs, libraries, their
/// settings, certificates, and what the kernel tells. Read by any step; no
/// part of a key, like the programs themselves.
pub const SYSTEM: [&str; 19] = [
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/usr",
    "/etc",
    "/opt",
    "/nix",
    "/gnu",
    "/proc",
    "/sys",
    "/run/current-system",
    "/run/opengl-driver",
    "/run/systemd/resolve",
    "/run/systemd/userdb",
    "/run/nscd",
    "/var/lib/ca-certificates",
];

/// Devices that belong to no file of anybody's.
const DEVICES: [&str; 11] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
    // POSIX semaphores and shared memory, without which programs of several
    // processes do not work.
    "/dev/shm",
    "/dev/dri",
    "/dev/kfd",
];

/// Sockets of the system by which users and groups are looked up.
const SOCKETS: [&str; 2] = ["/run/nscd", "/run/systemd/userdb"];

/// Folders of programs that the system's packages fill, whose links lead to
/// the system again.
const PACKAGED: [&str; 4] = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];

/// Parts of an installation's prefix beside its programs.
const PARTS: [&str; 4] = ["lib", "lib64", "libexec", "include"];

/// What a step may touch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The system, read.
    pub system: Paths,
    /// Read and run.
    pub read: Paths,
    /// Read, run, written, removed.
    pub write: Paths,
    /// Whether the network may be used.
    pub network: bool,
}

/// Files, and folders with all below them: real paths, without links.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths(BTreeSet<OsString>);

impl Paths {
    /// Adds a path, with links followed; what is not there is left out.
    fn add(&mut self, path: &Path) -> bool {
        match fs::canonicalize(path) {
            Ok(real) => self.0.insert(real.into()),
            Err(_) => false,
        }
    }

    /// Whether a real path is one of these or below one.
    pub fn cover(&self, path: &Path) -> bool {
        path.ancestors()
            .any(|part| self.0.contains(part.as_os_str()))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(Path::new)
    }
}

impl Rules {
    /// The rules of a job's program.
    pub fn of_program(
        job: &Job,
        argv: &[String],
        sandbox: &Sandbox,
        folder: &WorkFolder,
        environment: &BTreeMap<OsString, OsString>,
    ) -> Result<Self, StepError> {
        let found = |name: &str| environment.get(OsStr::new(name)).cloned();
        let home = found("HOME").map(PathBuf::from);
        let personal = Personal::new(job, home.as_deref());
        let mut rules = Rules::base(job, &personal);
        rules.write.add(&folder.out());
        rules.write.add(&folder.tmp());
        // `> /dev/stderr` opens the log again.
        rules.write.add(&folder.log());
        for place in std::env::split_paths(&found("PATH").unwrap_or_default()) {
            rules.installation(&place, &personal, true);
        }
        rules.program(&argv[0], &folder.out(), &personal);
        for place in std::env::split_paths(&found("LD_LIBRARY_PATH").unwrap_or_default()) {
            if place.is_absolute() && !personal.holds(&place) {
                rules.read.add(&place);
            }
        }
        rules.allow(sandbox, job, home.as_deref())?;
        Ok(rules)
    }

    /// The rules of a built-in kind.
    pub fn of_worker(job: &Job, folder: &WorkFolder, network: bool) -> Self {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        let personal = Personal::new(job, variable("HOME").as_deref());
        let mut rules = Rules::base(job, &personal);
        rules.write.add(folder.path());
        rules.network = network;
        if let Ok(program) = std::env::current_exe() {
            rules.read.add(&program);
        }
        for place in std::env::split_paths(&std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default())
        {
            rules.read.add(&place);
        }
        if network {
            let usual = variable("HOME").map(|home| home.join(".cache/huggingface"));
            if let Some(hub) = variable("HF_HOME").or(usual) {
                // Only what is there can be allowed, and the first fetch makes it.
                let _ = fs::create_dir_all(&hub);
                rules.write.add(&hub);
            }
        }
        rules
    }

    /// What every step may touch: the system, devices, its inputs, its checkpoint.
    fn base(job: &Job, personal: &Personal) -> Self {
        let mut rules = Rules::default();
        for place in SYSTEM {
            spread(Path::new(place), &job.project, &mut rules.system);
        }
        rules.settings(Path::new("/etc"), personal);
        for device in DEVICES {
            rules.write.add(Path::new(device));
        }
        for entry in fs::read_dir("/dev").into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b"nvidia") {
                rules.write.add(&entry.path());
            }
        }
        for input in &job.inputs {
            rules.input(&input.path);
        }
        if let Some(checkpoint) = &job.checkpoint {
            rules.write.add(&checkpoint.folder);
        }
        rules
    }

    /// Files that links in the system's settings lead to are settings, too:
    /// `resolv.conf` is often such a link.
    pub(super) fn settings(&mut self, folder: &Path, personal: &Personal) {
        for target in links(folder) {
            if target.is_file() && !personal.owns(&target) {
                self.system.add(&target);
            }
        }
    }

    /// An input and what the links in it lead to: its digest follows them, too.
    fn input(&mut self, path: &Path) {
        if !self.read.add(path) {
            return;
        }
        let mut folders = vec![path.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    Ok(kind) if kind.is_symlink() && self.read.add(&entry.path()) => {
                        folders.push(entry.path());
                    }
                    _ => {}
                }
            }
        }
    }

    /// The program itself, where it is not found by `PATH`.
    fn program(&mut self, name: &str, cwd: &Path, personal: &Personal) {
        if !name.contains('/') {
            return;
        }
        let path = cwd.join(name);
        self.read.add(&path);
        let real = fs::canonicalize(&path).ok();
        for place in [path.parent(), real.as_deref().and_then(Path::parent)] {
            if let Some(place) = place.filter(|place| is_programs(place)) {
                self.installation(place, personal, false);
            }
        }
    }

    /// A folder of programs and the installation it is part of.
    fn installation(&mut self, place: &Path, personal: &Personal, follow: bool) {
        let Ok(real) = fs::canonicalize(place) else {
            return;
        };
        let seen = self.read.cover(&real) || PACKAGED.iter().any(|it| real == Path::new(it));
        if !place.is_absolute() || seen || personal.holds(&real) {
            return;
        }
        if !self.system.cover(&real) {
            self.read.add(&real);
            if let Some(prefix) = real.parent().filter(|_| is_programs(&real)) {
                self.prefix(prefix, real.ends_with("shims"), personal);
            }
        }
        for target in follow.then(|| links(&real)).into_iter().flatten() {
            if !self.system.cover(&target)
                && let Some(parent) = target.parent()
            {
                self.read.add(&target);
                if is_programs(parent) {
                    self.installation(parent, personal, false);
                }
            }
        }
    }

    fn prefix(&mut self, prefix: &Path, shims: bool, personal: &Personal) {
        let settings = fs::read_to_string(prefix.join("pyvenv.cfg"));
        let whole = shims || settings.is_ok() || prefix.join("conda-meta").is_dir();
        if whole && !personal.holds(prefix) {
            spread(prefix, &personal.project, &mut self.read);
        } else if !personal.holds(prefix) {
            for part in PARTS {
                self.read.add(&prefix.join(part));
            }
        }
        // A virtual environment borrows its interpreter's library.
        let settings = settings.unwrap_or_default();
        let mut fields = settings.lines().filter_map(|line| line.split_once('='));
        if let Some((_, place)) = fields.find(|(name, _)| name.trim() == "home") {
            self.installation(Path::new(place.trim()), personal, false);
        }
    }

    /// What the pipeline file allows beside.
    fn allow(
        &mut self,
        sandbox: &Sandbox,
        job: &Job,
        home: Option<&Path>,
    ) -> Result<(), StepError> {
        self.network = sandbox.network;
        let place = |text: &str| match (text.strip_prefix("~/"), home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => job.project.join(text),
        };
        for text in &sandbox.read {
            self.read.add(&place(text));
        }
        for text in &sandbox.write {
            let path = place(text);
            if fs::canonicalize(&path).is_err() {
                let message = format!("sandbox.write names {text}, which is not there");
                return Err(StepError::new(message)
                    .hint("only what is there can be allowed to be written: create it first"));
            }
            self.write.add(&path);
        }
        Ok(())
    }

    /// Whether a real path may be read, listed or run.
    pub fn may_read(&self, path: &Path) -> bool {
        self.system.cover(path) || self.read.cover(path) || self.write.cover(path)
    }

    /// Whether a real path may be written.
    pub fn may_write(&self, path: &Path) -> bool {
        self.write.cover(path)
    }

    /// Whether the socket at a real path may be talked to.
    pub fn may_connect(&self, path: &Path) -> bool {
        self.network
            || self.write.cover(path)
            || SOCKETS.iter().any(|socket| path.starts_with(socket))
    }
}

/// Folders that no installation is: the project and the user's home.
pub(super) struct Personal {
    project: PathBuf,
    home: Option<PathBuf>,
}

impl Personal {
    pub(super) fn new(job: &Job, home: Option<&Path>) -> Self {
        Personal {
            project: job.project.clone(),
            home: home.and_then(|home| fs::canonicalize(home).ok()),
        }
    }

    /// Whether a real path lies in one of them.
    fn owns(&self, path: &Path) -> bool {
        let mut folders = self.home.iter().chain([&self.project]);
        folders.any(|folder| path.starts_with(folder))
    }

    /// Whether the project or the home are this or lie below it.
    fn holds(&self, path: &Path) -> bool {
        let mut folders = self.home.iter().chain([&self.project]);
        folders.any(|folder| folder.starts_with(path))
    }
}

/// What the links in a folder lead to.
fn links(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let links = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
    links.filter_map(|link| fs::canonicalize(link.path()).ok())
}

fn is_programs(place: &Path) -> bool {
    ["bin", "sbin", "shims"]
        .iter()
        .any(|name| place.ends_with(name))
}

/// Adds `place`, but nothing of what lies at `hole` below it.
fn spread(place: &Path, hole: &Path, into: &mut Paths) {
    let Ok(real) = fs::canonicalize(place) else {
        return;
    };
    if !hole.starts_with(&real) {
        into.add(&real);
    } else if hole != real {
        for entry in fs::read_dir(&real).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                spread(&entry.path(), hole, into);
            }
        }
    }
}
