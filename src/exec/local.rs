//! The local executor: each job a program that a keeper starts, with nothing of this process but what it is given.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, PipeReader, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Stop;
use super::job::{End, Job, JobResult, WorkFolder};
use super::keeper::{Keeper, Launch, Report, Stopper};
use super::sandbox::{self, Judged};
use super::{Executor, Running, STEP_VERB, descriptors};
use crate::files::{self, PathContext};
use crate::step::{Progress, StepError};

/// Starts jobs on this machine.
pub struct LocalExecutor {
    /// This program, which built-in kinds and keepers re-enter.
    program: PathBuf,
    /// What starts it, whatever lies at its path by then.
    door: PathBuf,
    /// What every child gets of the environment.
    environment: Vec<(OsString, OsString)>,
    /// Keepers that have no step at the moment: made when they are needed, and
    /// kept for the next step.
    idle: Arc<Mutex<Vec<Keeper>>>,
    /// Where programs were found, by `PATH` and name.
    found: Mutex<HashMap<(OsString, String), PathBuf>>,
}

/// Variables every child gets when they are set: programs are found by the
/// one, and their libraries and caches by the others. Like the programs
/// themselves they are not part of a key.
const PASSED_ON: [&str; 5] = ["PATH", "HOME", "LD_LIBRARY_PATH", "HF_HOME", "HF_ENDPOINT"];

/// Tells Python not to write byte code beside its sources: these are inputs,
/// and an input that changes while it is used fails the step.
const NO_BYTECODE: &str = "PYTHONDONTWRITEBYTECODE";

/// Where programs are looked for when there is no `PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

impl LocalExecutor {
    /// An executor whose built-in kinds and keepers re-enter `program` by its
    /// hidden verbs (see `ops::step_process`); `environment` is this process's.
    pub fn new(program: PathBuf, environment: impl Iterator<Item = (OsString, OsString)>) -> Self {
        descriptors::raise();
        let passed = environment
            .filter(|(name, _)| name.to_str().is_some_and(|name| PASSED_ON.contains(&name)));
        let mut environment: Vec<_> = passed.collect();
        environment.push(("LANG".into(), "C.UTF-8".into()));
        environment.push(("TZ".into(), "UTC".into()));
        // What runs, though another may have been put in its place.
        let is_this =
            cfg!(target_os = "linux") && std::env::current_exe().is_ok_and(|this| this == program);
        let door = match is_this {
            true => "/proc/self/exe".into(),
            false => program.clone(),
        };
        LocalExecutor {
            program,
            door,
            environment,
            idle: Arc::default(),
            found: Mutex::default(),
        }
    }

    /// Gives every child these variables too, or in place of others.
    pub fn with_variables(mut self, variables: &[(OsString, OsString)]) -> Self {
        self.environment.extend_from_slice(variables);
        self
    }

    /// The whole environment of a job.
    fn environment(&self, job: &Job, folder: &WorkFolder) -> BTreeMap<OsString, OsString> {
        let mut environment: BTreeMap<_, _> = self.environment.iter().cloned().collect();
        environment.insert("TMPDIR".into(), folder.tmp().into());
        environment.insert("RAYON_NUM_THREADS".into(), job.threads.to_string().into());
        if job.program.is_some() {
            environment.insert(NO_BYTECODE.into(), "1".into());
        }
        let declared = job.environment.iter();
        environment.extend(declared.map(|(name, value)| (name.into(), value.into())));
        environment
    }

    /// The program and its arguments, behind the sandbox if it is to be held.
    fn command(
        &self,
        job: &Job,
        folder: &WorkFolder,
        environment: &BTreeMap<OsString, OsString>,
    ) -> Result<Vec<OsString>, StepError> {
        if let Some(program) = &job.program {
            return sandbox::command_line(&self.program, job, program, folder, environment);
        }
        let bytes = serde_json::to_vec(job).expect("plain data");
        files::write(&folder.job(), bytes)?;
        let program = self.program.clone().into();
        Ok(vec![program, STEP_VERB.into(), folder.job().into()])
    }

    fn launch(&self, job: &Job, folder: &WorkFolder) -> Result<Launch, StepError> {
        let environment = self.environment(job, folder);
        let command = self.command(job, folder, &environment)?;
        let name = command.first().cloned().unwrap_or_default();
        let path = environment.get(OsStr::new("PATH"));
        let path = path.map_or(DEFAULT_PATH.as_ref(), |path| &**path);
        let program = match name == self.program {
            true => self.door.clone(),
            false => self.find(&name, path).map_err(|e| not_started(&name, &e))?,
        };
        let text = |text: OsString| {
            CString::new(text.into_vec()).map_err(|e| not_started(&name, &e.into()))
        };
        let variable = |(mut name, value): (OsString, OsString)| {
            name.push("=");
            name.push(value);
            name
        };
        let environment = environment.into_iter().map(variable);
        Ok(Launch {
            number: 0,
            program: text(program.into())?,
            arguments: command.into_iter().map(text).collect::<Result<_, _>>()?,
            environment: environment.map(text).collect::<Result<_, _>>()?,
            folder: text(folder.out().into())?,
        })
    }

    /// The path of a program; looked for once per name.
    fn find(&self, name: &OsStr, path: &OsStr) -> io::Result<PathBuf> {
        if name.as_bytes().contains(&b'/') {
            return Ok(name.into());
        }
        let known = (path.to_owned(), name.to_string_lossy().into_owned());
        let mut found = lock(&self.found);
        if let Some(program) = found.get(&known) {
            return Ok(program.clone());
        }
        let program = search(name, path)?;
        found.insert(known, program.clone());
        Ok(program)
    }

    fn keeper(&self) -> io::Result<Keeper> {
        let idle = lock(&self.idle).pop();
        idle.map_or_else(|| Keeper::start(&self.door, &self.program), Ok)
    }
}

impl Drop for LocalExecutor {
    fn drop(&mut self) {
        // All together, for each of them takes a moment to end.
        lock(&self.idle).iter().for_each(Keeper::dismiss);
    }
}

/// The first executable file of that name along `path`. Relative folders in it
/// would mean some below the step's own, which is empty.
fn search(name: &OsStr, path: &OsStr) -> io::Result<PathBuf> {
    let mut refused = None;
    for folder in std::env::split_paths(path).filter(|folder| folder.is_absolute()) {
        let program = folder.join(name);
        let Ok(meta) = fs::metadata(&program) else {
            continue;
        };
        if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
            return Ok(program);
        }
        refused.get_or_insert(program);
    }
    // Starting what is no program says why it cannot be.
    refused.ok_or_else(|| rustix::io::Errno::NOENT.into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

fn not_started(program: &OsStr, error: &io::Error) -> StepError {
    StepError {
        message: format!("failed to start {}", program.to_string_lossy()),
        causes: vec![error.to_string()],
        hint: (error.kind() == io::ErrorKind::NotFound)
            .then(|| "is it installed and on PATH?".to_owned()),
    }
}

fn no_keeper(error: &io::Error) -> StepError {
    StepError {
        message: "failed to start the process that keeps the step".to_owned(),
        causes: vec![error.to_string()],
        hint: None,
    }
}

impl Executor for LocalExecutor {
    fn start(&self, job: &Job, folder: &WorkFolder) -> Result<Box<dyn Running>, StepError> {
        let launch = self.launch(job, folder)?;
        let log = File::options().append(true).create(true).open(folder.log());
        let log = log.on("create", &folder.log())?;
        let pipe = match &job.program {
            Some(_) => None,
            None => Some(io::pipe().map_err(|e| no_keeper(&e))?),
        };
        let (progress, output) = pipe.unzip();
        let name = launch.arguments.first().map(|name| name.to_bytes());
        let name = OsStr::from_bytes(name.unwrap_or_default()).to_owned();
        let mut keeper = self.keeper().map_err(|e| no_keeper(&e))?;
        let files = [
            output.as_ref().map_or(log.as_fd(), AsFd::as_fd),
            log.as_fd(),
        ];
        let stopper = keeper.launch(launch, files).map_err(|e| no_keeper(&e))?;
        Ok(Box::new(LocalJob {
            name,
            keeper,
            stopper,
            idle: Arc::clone(&self.idle),
            progress,
            folder: folder.clone(),
            is_program: job.program.is_some(),
            judged: Judged::of(job),
        }))
    }
}

struct LocalJob {
    /// What was started, for messages.
    name: OsString,
    keeper: Keeper,
    stopper: Stopper,
    /// Where the keeper goes afterwards.
    idle: Arc<Mutex<Vec<Keeper>>>,
    /// What a built-in kind reports.
    progress: Option<PipeReader>,
    folder: WorkFolder,
    is_program: bool,
    judged: Judged,
}

impl Running for LocalJob {
    fn stopper(&self) -> Box<dyn Fn(Stop) + Send> {
        let stopper = self.stopper.clone();
        Box::new(move |stop| stopper.stop(stop))
    }

    fn wait(mut self: Box<Self>, progress: &mut dyn FnMut(Progress)) -> JobResult {
        let pipe = self.progress.take().map(BufReader::new);
        let told = pipe.and_then(|pipe| relay(pipe, &self.folder, progress));
        let report = match self.keeper.wait() {
            Ok(report) => report,
            // It is not used again.
            Err(_) => return failed(keeper_died()),
        };
        lock(&self.idle).push(self.keeper);
        let (status, peak) = match report {
            Report::NotStarted(number) => {
                let error = io::Error::from_raw_os_error(number);
                return failed(not_started(&self.name, &error));
            }
            Report::Ended { status, peak } => (ExitStatus::from_raw(status), peak),
        };
        let mut result = match self.is_program {
            true => sandbox::judge(&self.judged, &self.folder, program_result(status)),
            false => read_result(&self.folder)
                .or(told)
                .unwrap_or_else(|| failed(died(status))),
        };
        result.peak_memory = Some(peak);
        result
    }
}

fn keeper_died() -> StepError {
    StepError::new("the process that keeps the step died, and the step with it")
        .hint("it was killed, perhaps because memory ran out: build again")
}

/// Hands on progress; whatever else appears on standard output is logged, but
/// for a result that could not be written.
fn relay(
    stdout: impl BufRead,
    folder: &WorkFolder,
    progress: &mut dyn FnMut(Progress),
) -> Option<JobResult> {
    let mut log: Option<File> = None;
    let mut told = None;
    for line in stdout.lines().map_while(Result::ok) {
        if let Ok(parsed) = serde_json::from_str(&line) {
            progress(parsed);
            continue;
        }
        if let Ok(result) = serde_json::from_str(&line) {
            told = Some(result);
            continue;
        }
        if log.is_none() {
            log = File::options().append(true).open(folder.log()).ok();
        }
        if let Some(log) = &mut log {
            // A log that cannot be written must not fail the step.
            let _ = writeln!(log, "{line}");
        }
    }
    told
}

fn read_result(folder: &WorkFolder) -> Option<JobResult> {
    let bytes = std::fs::read(folder.result()).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn program_result(status: ExitStatus) -> JobResult {
    if status.success() {
        return JobResult::bare(End::Finished);
    }
    failed(died(status))
}

fn failed(error: StepError) -> JobResult {
    JobResult::bare(End::Failed { error })
}

fn died(status: ExitStatus) -> StepError {
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let error = StepError::new(format!("the step's process was killed by signal {signal}"));
            match signal {
                9 => error.hint("the system kills processes like this when memory runs out"),
                _ => error,
            }
        }
        (None, Some(code)) => StepError::new(format!("the program ended with exit code {code}")),
        (None, None) => StepError::new("the program did not end well"),
    }
}
