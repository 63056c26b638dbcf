//! What an audit makes different from the build on purpose: everything that no step may depend on.
//!
//! A build promises commands a fixed `LANG` and `TZ`, an empty working folder
//! and no environment beyond what is documented. That is left alone, unless
//! all noise is asked for; everything else is different in an audit. Built-in
//! kinds promise more, so they get another `LANG` and `TZ` as well.

use std::ffi::OsString;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Mode;

use crate::files::{FileError, PathContext};
use crate::record::Varied;

/// How much is made different.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NoiseLevel {
    /// Only the folder is another one.
    None,
    /// Everything that is not promised to be fixed.
    #[default]
    Usual,
    /// Also the time zone and the locale of commands, which a build fixes:
    /// shows what would come out differently when run by hand.
    All,
}

type Variables = Vec<(OsString, OsString)>;

/// The noise of one audit.
pub(super) struct Noise {
    level: NoiseLevel,
    /// Variables for commands.
    pub commands: Variables,
    /// Variables for built-in kinds.
    pub kinds: Variables,
    /// The time that files of inputs are given.
    pub mtime: Option<SystemTime>,
    /// What is different, for the report.
    pub varied: Vec<Varied>,
    _umask: Option<Umask>,
}

/// Libraries of numeric programs that read their thread count from the
/// environment; `nproc` reads the first.
const THREAD_VARIABLES: [&str; 3] = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"];

impl Noise {
    /// Makes the noise; `folder` is where files for it may lie. The process's
    /// umask is another one until this is dropped.
    pub fn make(level: NoiseLevel, folder: &Path) -> Result<Self, FileError> {
        let mut noise = Noise {
            level,
            commands: Vec::new(),
            kinds: Vec::new(),
            mtime: None,
            varied: Vec::new(),
            _umask: None,
        };
        noise.tell(
            "working folder",
            "in the store",
            "elsewhere, with a longer path",
        );
        noise.tell("TMPDIR", "in the store", "elsewhere");
        if level == NoiseLevel::None {
            return Ok(noise);
        }
        noise.home(folder)?;
        noise.variables();
        noise.place();
        noise.umask();
        let random = random() % 100_000_000;
        let mtime = UNIX_EPOCH + Duration::from_secs(1_000_000_000 + random);
        noise.mtime = Some(mtime);
        noise.tell(
            "times of input files",
            "their own",
            "some day in 2001 to 2004",
        );
        noise.tell(
            "order in which input folders were filled",
            "by name",
            "backwards",
        );
        noise.tell(
            "threads of a step",
            "as granted",
            "one fewer, or two instead of one",
        );
        Ok(noise)
    }

    fn tell(&mut self, what: &str, build: &str, audit: &str) {
        self.varied.push(Varied {
            what: what.to_owned(),
            build: build.to_owned(),
            audit: audit.to_owned(),
        });
    }

    fn set(&mut self, name: &str, value: impl Into<OsString>) {
        let value = value.into();
        self.commands.push((name.into(), value.clone()));
        self.kinds.push((name.into(), value));
    }

    /// The same home under another path, for tools and caches live in it.
    fn home(&mut self, folder: &Path) -> Result<(), FileError> {
        let Some(home) = std::env::var_os("HOME") else {
            return Ok(());
        };
        let link = folder.join("another-home");
        std::os::unix::fs::symlink(&home, &link).on("create", &link)?;
        self.set("HOME", &link);
        self.tell("HOME", &home.to_string_lossy(), "a link to it");
        Ok(())
    }

    fn variables(&mut self) {
        let mut names = Vec::new();
        for value in ["", "1", "zażółć gęślą jaźń", "a b\tc"] {
            let name = format!("NOISE_{:016X}", random());
            self.set(&name, format!("{value}{:x}", random()));
            names.push(name);
        }
        self.tell("other variables", "none", &names.join(" "));
    }

    /// Time zone and locale.
    fn place(&mut self) {
        const ZONE: &str = "Pacific/Kiritimati";
        // Where there is no time zone database the zone is given by rule.
        let known = Path::new("/usr/share/zoneinfo").join(ZONE).exists();
        let zone = if known { ZONE } else { "LINT-14" };
        let locale = locale();
        let mut whose = " of built-in kinds";
        for (name, value) in [("TZ", zone), ("LANG", &locale), ("LC_ALL", &locale)] {
            self.kinds.push((name.into(), value.into()));
            if self.level == NoiseLevel::All {
                self.commands.push((name.into(), value.into()));
                whose = "";
            }
        }
        self.tell(&format!("TZ{whose}"), "UTC", zone);
        self.tell(
            &format!("LANG and LC_ALL{whose}"),
            "C.UTF-8 and unset",
            &locale,
        );
    }

    fn umask(&mut self) {
        let umask = Umask::change();
        let (build, audit) = (umask.words(umask.was), umask.words(umask.is));
        self.tell("umask", &build, &audit);
        self._umask = Some(umask);
    }

    /// How many threads a step may use that had `recorded` in the build.
    pub fn threads(&self, recorded: usize) -> usize {
        match (self.level, recorded) {
            (NoiseLevel::None, n) => n,
            (_, 0 | 1) => 2,
            (_, n) => n - 1,
        }
    }

    /// The variables that say how many threads.
    pub fn thread_variables(&self, threads: usize) -> Vec<(String, String)> {
        if self.level == NoiseLevel::None {
            return Vec::new();
        }
        let set = |name: &&str| (name.to_string(), threads.to_string());
        THREAD_VARIABLES.iter().map(set).collect()
    }

    /// Gives a file its other time, where it is ours to change.
    pub fn touch(&self, path: &Path) -> Result<(), FileError> {
        let Some(time) = self.mtime else {
            return Ok(());
        };
        let times = fs::FileTimes::new().set_modified(time);
        let file = fs::File::open(path).on("open", path)?;
        file.set_times(times).on("set the times of", path)
    }
}

/// A locale that is installed and not the plain one; the one with the dotless i
/// by preference.
fn locale() -> String {
    let output = Command::new("locale").arg("-a").output();
    let list = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let list = list.unwrap_or_default();
    let plain = |name: &&str| !name.starts_with("C.") && !matches!(*name, "C" | "POSIX");
    let mut names = list.lines().filter(plain);
    let turkish = names.clone().find(|name| name.starts_with("tr_TR.utf"));
    turkish.or(names.next()).unwrap_or("C").to_owned()
}

fn random() -> u64 {
    // The keys of every state are random.
    RandomState::new().hash_one(0)
}

/// Another umask for this process, until it is dropped.
struct Umask {
    was: Mode,
    is: Mode,
}

impl Umask {
    fn change() -> Self {
        // It cannot be asked for without being set.
        let was = rustix::process::umask(Mode::from_raw_mode(0o077));
        let is = match was.as_raw_mode() {
            0o077 => Mode::from_raw_mode(0o022),
            _ => Mode::from_raw_mode(0o077),
        };
        rustix::process::umask(is);
        Umask { was, is }
    }

    fn words(&self, mode: Mode) -> String {
        format!("{:03o}", mode.as_raw_mode())
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        rustix::process::umask(self.was);
    }
}

/// The folder of one audit, whose path is longer than any of the build's.
pub(super) fn elsewhere(folder: &Path) -> PathBuf {
    folder.join("another-folder-at-quite-some-distance-from-the-one-of-the-build")
}
