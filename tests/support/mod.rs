//! A project in a temporary folder, the real program run in it, and what came of each run.

#![expect(dead_code, reason = "each file of tests uses a part of this")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use retune::hash::Digest;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long a test waits for what must happen: much more than it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `found` gives something.
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A project with one pipeline, `pipelines/main.toml`.
///
/// In pipelines `RUNS` stands for a file outside of the project, to which
/// steps append their name, so that [`Space::ran`] can tell who really ran;
/// `OUTSIDE` stands for the folder that file is in.
pub struct Space {
    folder: tempfile::TempDir,
    project: PathBuf,
}

impl Space {
    /// A project whose pipeline is `text`.
    pub fn new(text: &str) -> Self {
        let space = Space::empty();
        space.pipeline(text);
        space
    }

    /// A project without anything.
    pub fn empty() -> Self {
        let folder = tempfile::Builder::new().prefix("retune-").tempdir();
        let folder = folder.unwrap();
        let project = folder.path().canonicalize().unwrap().join("project");
        fs::create_dir(&project).unwrap();
        Space { folder, project }
    }

    /// Replaces the pipeline.
    pub fn pipeline(&self, text: &str) {
        let outside = self.outside("");
        let outside = outside.to_str().unwrap().trim_end_matches('/');
        let text = text
            .replace("RUNS", &format!("{outside}/runs"))
            .replace("OUTSIDE", outside);
        self.write("pipelines/main.toml", &text);
    }

    /// Replaces a part of the pipeline, which must be there.
    pub fn edit(&self, from: &str, to: &str) {
        let text = self.read("pipelines/main.toml");
        assert!(text.contains(from), "{from:?} is not in\n{text}");
        self.pipeline(&text.replace(from, to));
    }

    /// A path in the project.
    pub fn path(&self, path: &str) -> PathBuf {
        self.project.join(path)
    }

    /// A path beside the project.
    pub fn outside(&self, path: &str) -> PathBuf {
        self.project.parent().unwrap().join(path)
    }

    /// Writes a file of the project.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Outputs are read-only; a program that edits one replaces it.
        let _ = fs::remove_file(&path);
        fs::write(path, text).unwrap();
    }

    /// Reads a file of the project.
    pub fn read(&self, path: &str) -> String {
        let path = self.path(path);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Whether something is there.
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Removes a file or folder of the project.
    pub fn remove(&self, path: &str) {
        let path = self.path(path);
        match path.is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }

    /// Moves the project to another folder.
    pub fn move_to(&mut self, name: &str) {
        let place = self.outside(name);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::rename(&self.project, &place).unwrap();
        self.project = place;
    }

    /// The steps that ran since this was last asked, sorted.
    pub fn ran(&self) -> Vec<String> {
        let runs = self.folder.path().join("runs");
        let text = fs::read_to_string(&runs).unwrap_or_default();
        let _ = fs::remove_file(runs);
        let mut ran: Vec<String> = text.lines().map(str::to_owned).collect();
        ran.sort();
        ran
    }

    /// The program, to be run in the project with a bare environment.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).current_dir(&self.project);
        command.env_clear().stdin(Stdio::null());
        for name in ["PATH", "HOME"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command
    }

    /// Runs the program.
    pub fn retune(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(arguments))
    }

    /// Runs git in the project, as somebody without settings of their own.
    pub fn git(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(&self.project);
        command.env_clear().env("HOME", self.outside(""));
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "Somebody");
            command.env(format!("GIT_{who}_EMAIL"), "somebody@example.org");
        }
        Run::of(&mut command)
    }

    /// Runs `build` and reads its events.
    pub fn build(&self, arguments: &[&str]) -> Run {
        self.build_with(arguments, |_| {})
    }

    /// Runs `build` in an environment of its own.
    pub fn build_with(&self, arguments: &[&str], prepare: impl FnOnce(&mut Command)) -> Run {
        let events = self.outside("events");
        let mut command = self.command(&["build", "--events"]);
        command.arg(&events).args(arguments);
        prepare(&mut command);
        let mut run = Run::of(&mut command);
        run.events = read_events(&events);
        run
    }

    /// Builds all, which must succeed.
    #[track_caller]
    pub fn built(&self, arguments: &[&str]) -> Run {
        let run = self.build(arguments);
        assert_eq!(run.code, Some(0), "{run}");
        run
    }

    /// Builds all, which must succeed, and says which steps ran.
    #[track_caller]
    pub fn rerun(&self) -> Vec<String> {
        self.built(&[]);
        self.ran()
    }

    /// Starts a verb that runs steps and leaves it running.
    pub fn start(&self, arguments: &[&str]) -> Running {
        self.start_command(self.command(&arguments[..1]), arguments)
    }

    /// Starts a verb that runs steps in an environment of its own.
    pub fn start_with(&self, arguments: &[&str], prepare: impl FnOnce(&mut Command)) -> Running {
        let mut command = self.command(&arguments[..1]);
        prepare(&mut command);
        self.start_command(command, arguments)
    }

    /// As [`Space::start`], through another program that starts what follows
    /// its own arguments.
    pub fn start_within(&self, program: &str, within: &[&str], arguments: &[&str]) -> Running {
        let plain = self.command(&arguments[..1]);
        let mut command = Command::new(program);
        command
            .args(within)
            .arg(plain.get_program())
            .args(plain.get_args());
        command.current_dir(&self.project).stdin(Stdio::null());
        command.env_clear();
        for (name, value) in plain.get_envs() {
            command.envs(value.map(|value| (name, value)));
        }
        self.start_command(command, arguments)
    }

    fn start_command(&self, mut command: Command, arguments: &[&str]) -> Running {
        let (_, rest) = arguments.split_first().unwrap();
        let n = (1..).find(|n| !self.outside(&format!("events.{n}")).exists());
        let n = n.unwrap();
        let events = self.outside(&format!("events.{n}"));
        let (out, err) = (
            self.outside(&format!("out.{n}")),
            self.outside(&format!("err.{n}")),
        );
        command.arg("--events").arg(&events).args(rest);
        command.stdout(fs::File::create(&out).unwrap());
        command.stderr(fs::File::create(&err).unwrap());
        fs::write(&events, "").unwrap();
        Running {
            child: command.spawn().unwrap(),
            events,
            out,
            err,
        }
    }

    /// Waits until no process is at work in the project any more: what a
    /// killed build had started dies a moment after it.
    pub fn wait_until_idle(&self) {
        wait_for("the end of all processes in the project", || {
            let processes = fs::read_dir("/proc").unwrap().flatten();
            let mut places = processes.filter_map(|p| fs::read_link(p.path().join("cwd")).ok());
            let busy = places.any(|place| place.starts_with(&self.project));
            (!busy).then_some(())
        });
    }

    /// The records in the store, as JSON, of executions of `step`.
    pub fn records(&self, step: &str) -> Vec<Value> {
        files(&self.path("cache/objects"))
            .iter()
            .filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok())
            .filter(|record: &Value| record["step"] == step && !record["manifest"].is_null())
            .collect()
    }

    /// The objects in the store whose content is `text`.
    pub fn objects(&self, text: &str) -> Vec<PathBuf> {
        let mut files = files(&self.path("cache/objects"));
        files.retain(|path| fs::read(path).is_ok_and(|bytes| bytes == text.as_bytes()));
        files
    }
}

/// Whether the kernel can hold a step in the sandbox; says so if it cannot.
#[cfg(target_os = "linux")]
pub fn can_hold() -> bool {
    let abi = retune::exec::landlock_abi();
    let enough = abi.is_some_and(|abi| abi >= 3);
    if !enough {
        eprintln!("SKIPPED: this kernel's Landlock has interface {abi:?}, and 3 is needed");
    }
    enough
}

/// Whether `unshare` with these arguments can start a program.
pub fn can_unshare(within: &[&str]) -> bool {
    let probe = Command::new("unshare").args(within).arg("true").output();
    probe.is_ok_and(|probe| probe.status.success())
}

/// Whether `strace` can make calls fail here; says so where it cannot.
pub fn has_strace() -> bool {
    let version = Command::new("strace")
        .args(["-e", "trace=none", "true"])
        .output();
    let there = version.is_ok_and(|output| output.status.success());
    if !there {
        println!("skipped: there is no strace, or it may not trace here");
    }
    there
}

/// Every output with its digest, and the lock file, by path in the project.
pub fn results(space: &Space) -> BTreeMap<String, Digest> {
    let root = space.path("");
    let mut paths = files(&space.path("cache/out"));
    paths.push(space.path("pipelines/main.lock"));
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        (name, Digest::of(&fs::read(&path).unwrap()))
    };
    paths.into_iter().map(read).collect()
}

/// The program under test: `RETUNE_BIN`, such as a release build for long runs,
/// or else the one that belongs to the tests.
pub fn program() -> PathBuf {
    let other = std::env::var_os("RETUNE_BIN").map(PathBuf::from);
    other.unwrap_or_else(|| env!("CARGO_BIN_EXE_retune").into())
}

/// All files below a folder, sorted.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => drop(found.insert(path)),
            }
        }
    }
    found.into_iter().collect()
}

fn read_events(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    // A last line without its end is still being written.
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    text[..whole].lines().map(parse).collect()
}

/// What came of one run of the program.
#[derive(Debug)]
pub struct Run {
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// The lines of `--events`.
    pub events: Vec<Value>,
}

impl Run {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Run::new(output.status, &output.stdout, &output.stderr, Vec::new())
    }

    fn new(status: ExitStatus, out: &[u8], err: &[u8], events: Vec<Value>) -> Self {
        Run {
            code: status.code(),
            signal: status.signal(),
            out: String::from_utf8(out.to_owned()).unwrap(),
            err: String::from_utf8(err.to_owned()).unwrap(),
            events,
        }
    }

    /// The events of one kind.
    pub fn of_kind(&self, kind: &str) -> Vec<&Value> {
        let events = self.events.iter();
        events.filter(|event| event["event"] == kind).collect()
    }

    /// The steps of the events of one kind, sorted.
    pub fn steps(&self, kind: &str) -> Vec<&str> {
        let events = self.of_kind(kind).into_iter();
        let mut steps: Vec<&str> = events.filter_map(|event| event["step"].as_str()).collect();
        steps.sort();
        steps
    }

    /// A number of the summary at the end.
    pub fn total(&self, name: &str) -> u64 {
        let end = self.of_kind("run-finished");
        end[0]["summary"][name].as_u64().unwrap()
    }

    /// The reasons why a step ran or was restored.
    pub fn reasons(&self, step: &str) -> Vec<Value> {
        let decided = self.of_kind("step-decided");
        let decided = decided.into_iter().find(|event| event["step"] == step);
        let reasons = decided.map(|event| event["verdict"]["reasons"].clone());
        match reasons {
            Some(Value::Array(reasons)) => reasons,
            _ => Vec::new(),
        }
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Run {
            code,
            signal,
            out,
            err,
            ..
        } = self;
        write!(
            f,
            "code {code:?}, signal {signal:?}\n--- out\n{out}--- err\n{err}"
        )
    }
}

/// A run in progress; it is killed when the test is done with it.
pub struct Running {
    child: Child,
    events: PathBuf,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    /// The events so far.
    pub fn events(&self) -> Vec<Value> {
        read_events(&self.events)
    }

    /// How many events of a kind there are so far.
    pub fn count(&self, kind: &str) -> usize {
        let events = self.events();
        events.iter().filter(|event| event["event"] == kind).count()
    }

    /// Waits for the `n`-th event of a kind.
    pub fn wait_for(&self, kind: &str, n: usize) -> Value {
        wait_for(&format!("event {kind} number {n}\n{}", self.err()), || {
            let mut events = self.events().into_iter();
            events
                .by_ref()
                .filter(|event| event["event"] == kind)
                .nth(n - 1)
        })
    }

    /// Standard error so far.
    pub fn err(&self) -> String {
        fs::read_to_string(&self.err).unwrap()
    }

    /// The driver's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end.
    pub fn end(mut self) -> Run {
        let status = wait_for("the end of the run", || self.child.try_wait().unwrap());
        let read = |path| fs::read(path).unwrap();
        Run::new(status, &read(&self.out), &read(&self.err), self.events())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process is there and not a zombie.
pub fn is_alive(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.trim()));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}
