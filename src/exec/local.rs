//! The local executor: each job a child process in a process group of its own.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use super::Stop;
use super::job::{End, FORMAT, Job, JobResult, WorkFolder};
use super::worker::peak_memory;
use super::{Executor, Running, STEP_VERB};
use crate::files::{self, PathContext};
use crate::step::{Progress, StepError};

/// Starts jobs as children of this process.
pub struct LocalExecutor {
    /// This program, which built-in kinds re-enter.
    program: PathBuf,
    /// What every child gets of the environment.
    environment: Vec<(OsString, OsString)>,
}

/// Variables every child gets when they are set: programs are found by the
/// one, and their libraries and caches by the others. Like the programs
/// themselves they are not part of a key.
const PASSED_ON: [&str; 5] = ["PATH", "HOME", "LD_LIBRARY_PATH", "HF_HOME", "HF_ENDPOINT"];

impl LocalExecutor {
    /// An executor whose built-in kinds re-enter `program` by the hidden verb
    /// `__step`; `environment` is this process's.
    pub fn new(program: PathBuf, environment: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let passed = environment
            .filter(|(name, _)| name.to_str().is_some_and(|name| PASSED_ON.contains(&name)));
        let mut environment: Vec<_> = passed.collect();
        environment.push(("LANG".into(), "C.UTF-8".into()));
        environment.push(("TZ".into(), "UTC".into()));
        LocalExecutor {
            program,
            environment,
        }
    }

    /// Gives every child these variables too, or in place of others.
    pub fn with_variables(mut self, variables: &[(OsString, OsString)]) -> Self {
        self.environment.extend_from_slice(variables);
        self
    }

    fn command(&self, job: &Job, folder: &WorkFolder) -> Result<Command, StepError> {
        let log = files::create(&folder.log())?;
        let mut command = match &job.program {
            Some(program) => {
                let mut command = Command::new(&program.argv[0]);
                command.args(&program.argv[1..]);
                command.stdout(log.try_clone().on("open", &folder.log())?);
                command
            }
            None => {
                let bytes = serde_json::to_vec(job).expect("plain data");
                files::write(&folder.job(), bytes)?;
                let mut command = Command::new(&self.program);
                command.arg(STEP_VERB).arg(folder.job());
                command.stdout(Stdio::piped());
                command
            }
        };
        command.stdin(Stdio::null()).stderr(log);
        command.current_dir(folder.out()).process_group(0);
        self.set_environment(&mut command, job, folder)?;
        Ok(command)
    }

    fn set_environment(
        &self,
        command: &mut Command,
        job: &Job,
        folder: &WorkFolder,
    ) -> Result<(), StepError> {
        files::create_dir(&folder.tmp())?;
        command
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("TMPDIR", folder.tmp())
            .env("RAYON_NUM_THREADS", job.threads.to_string())
            .envs(&job.environment);
        Ok(())
    }
}

impl Executor for LocalExecutor {
    fn start(&self, job: &Job, folder: &WorkFolder) -> Result<Box<dyn Running>, StepError> {
        let mut command = self.command(job, folder)?;
        if job.program.is_some() {
            die_with_parent(&mut command);
        }
        let child = command.spawn().map_err(|e| {
            let program = command.get_program().to_string_lossy().into_owned();
            StepError {
                message: format!("failed to start {program}"),
                causes: vec![e.to_string()],
                hint: (e.kind() == std::io::ErrorKind::NotFound)
                    .then(|| "is it installed and on PATH?".to_owned()),
            }
        })?;
        Ok(Box::new(LocalJob {
            group: Pid::from_child(&child),
            inherited: peak_memory().unwrap_or(u64::MAX),
            child,
            folder: folder.clone(),
            is_program: job.program.is_some(),
        }))
    }
}

/// Programs other than this one cannot ask for it themselves.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "a hook between fork and exec has no safe face")]
fn die_with_parent(command: &mut Command) {
    use rustix::process::set_parent_process_death_signal;
    // SAFETY: the hook makes one system call and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: &mut Command) {}

struct LocalJob {
    child: Child,
    group: Pid,
    /// This process's own peak when it started the child, which inherits it.
    inherited: u64,
    folder: WorkFolder,
    is_program: bool,
}

impl Running for LocalJob {
    fn stopper(&self) -> Box<dyn Fn(Stop) + Send> {
        let group = self.group;
        Box::new(move |stop| {
            let signal = match stop {
                Stop::Ask => Signal::TERM,
                Stop::Kill => Signal::KILL,
            };
            // It may have ended by itself meanwhile.
            let _ = kill_process_group(group, signal);
        })
    }

    fn wait(mut self: Box<Self>, progress: &mut dyn FnMut(Progress)) -> JobResult {
        if let Some(stdout) = self.child.stdout.take() {
            relay(BufReader::new(stdout), &self.folder, progress);
        }
        let (status, peak_memory) = match wait_with_usage(self.child) {
            Ok(end) => end,
            Err(error) => {
                return failed(StepError::new(format!(
                    "failed to wait for the step: {error}"
                )));
            }
        };
        // What the step left running in the background must not go on writing.
        let _ = kill_process_group(self.group, Signal::KILL);
        let mut result = if self.is_program {
            program_result(status)
        } else {
            read_result(&self.folder, status)
        };
        // A smaller peak cannot be told from the inherited one.
        let measured = peak_memory.filter(|peak| *peak > self.inherited);
        result.peak_memory = result.peak_memory.or(measured);
        result
    }
}

/// Hands on progress; whatever else appears on standard output is logged.
fn relay(stdout: impl BufRead, folder: &WorkFolder, progress: &mut dyn FnMut(Progress)) {
    let mut log: Option<File> = None;
    for line in stdout.lines().map_while(Result::ok) {
        if let Ok(parsed) = serde_json::from_str(&line) {
            progress(parsed);
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
}

fn read_result(folder: &WorkFolder, status: ExitStatus) -> JobResult {
    let read = std::fs::read(folder.result()).ok();
    read.and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_else(|| failed(died(status)))
}

/// Waits for a child; also says how much memory it held at most, in bytes.
fn wait_with_usage(child: Child) -> std::io::Result<(ExitStatus, Option<u64>)> {
    use wait4::Wait4;
    let end = child.wait4()?;
    let peak = (end.rusage.maxrss > 0).then_some(end.rusage.maxrss);
    Ok((end.status, peak))
}

fn program_result(status: ExitStatus) -> JobResult {
    if status.success() {
        return JobResult {
            format: FORMAT,
            end: End::Finished,
            facts: Default::default(),
            peak_memory: None,
        };
    }
    failed(died(status))
}

fn failed(error: StepError) -> JobResult {
    JobResult {
        format: FORMAT,
        end: End::Failed { error },
        facts: Default::default(),
        peak_memory: None,
    }
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
