//! The sandbox: what a step may touch, what holds it to that, and the naming of what it touched beside it.
//!
//! A program is started through this one (`retune __sandbox RULES PROGRAM …`,
//! [`enter`]): a child takes the rules upon itself (Landlock, then a system
//! call filter) and becomes the program, while its parent answers the filter's
//! questions: it looks at the paths of each call, names those that are not
//! declared and refuses them. What it does not see, Landlock refuses all the
//! same. A built-in kind takes the rules upon itself ([`hold_worker`]) and
//! names what was refused in its own errors.

mod report;
mod rules;

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod enter;
#[cfg(target_os = "linux")]
mod filter;
#[cfg(target_os = "linux")]
mod landlock;
#[cfg(target_os = "linux")]
mod notify;
#[cfg(target_os = "linux")]
mod watcher;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::job::{End, Job, JobResult, WorkFolder};
use crate::files::{self, PathContext};
use crate::step::{Program, Sandbox, StepError};

use report::Report;
pub use report::{Access, What};
use rules::Rules;

/// The hidden verb that [`enter`] stands behind.
pub const VERB: &str = "__sandbox";

/// What a program is started under.
#[derive(Debug, Serialize, Deserialize)]
struct Guard {
    rules: Rules,
    mode: Mode,
    /// The work folder, into which the report is written.
    folder: OsString,
}

/// What is done about accesses that are not declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Mode {
    /// They are refused.
    Hold {
        /// Whether the program is not started where it cannot be held.
        required: bool,
    },
    /// They are only told of.
    Watch,
}

/// The program of a job as it is to be started: through this program
/// (`retune`) if it is to be held or watched. `environment` is what it gets.
pub fn command_line(
    retune: &Path,
    job: &Job,
    program: &Program,
    folder: &WorkFolder,
    environment: &BTreeMap<OsString, OsString>,
) -> Result<Vec<OsString>, StepError> {
    let (argv, wanted) = (&program.argv, program.sandbox.as_ref());
    let plain = || argv.iter().map(OsString::from).collect();
    let mode = match (job.trace, wanted) {
        (true, _) => Mode::Watch,
        (false, Some(sandbox)) => Mode::Hold {
            required: sandbox.required,
        },
        (false, None) => return Ok(plain()),
    };
    if !cfg!(target_os = "linux") {
        return match mode {
            Mode::Hold { required: false } => Ok(plain()),
            _ => Err(unavailable("it needs Linux")),
        };
    }
    // Rules name what is there.
    files::create_dir(&folder.tmp())?;
    let log = fs::File::options()
        .append(true)
        .create(true)
        .open(folder.log());
    log.on("create", &folder.log())?;
    let free = Sandbox::default();
    let rules = Rules::of_program(job, argv, wanted.unwrap_or(&free), folder, environment)?;
    let guard = Guard {
        rules,
        mode,
        folder: folder.path().into(),
    };
    let path = folder.guard();
    let bytes = postcard::to_stdvec(&guard).expect("plain data");
    files::write(&path, bytes)?;
    let head = [retune.into(), VERB.into(), path.into()];
    Ok(head
        .into_iter()
        .chain(argv.iter().map(OsString::from))
        .collect())
}

/// What a program that was held or watched did, put into its job's result.
pub fn judge(job: &Judged, folder: &WorkFolder, mut result: JobResult) -> JobResult {
    let report = match (&job.mode, cfg!(target_os = "linux")) {
        (None, _) => return result,
        (Some(_), false) => {
            result.warnings.push(job.without("this system has none"));
            return result;
        }
        (Some(_), true) => Report::read(folder),
    };
    let Some(report) = report else {
        // Killed with its watcher; otherwise nobody vouches for it.
        if result.end == End::Finished {
            let error = StepError::new("the sandbox's watcher ended before the program did");
            result.end = End::Failed { error };
        }
        return result;
    };
    result.sandbox = report.held.clone();
    if let Some(lacking) = &report.lacking {
        result.warnings.push(job.without(lacking));
    }
    if let Some(error) = report.failed {
        result.refused = true;
        result.end = End::Failed { error };
        return result;
    }
    if job.mode == Some(Mode::Watch) {
        result.accesses = report.accesses;
    } else if let Some(error) = report::refusal(job, &report, &result.end) {
        result.refused = report.is_fatal();
        result.end = End::Failed { error };
    }
    result
}

/// What of a job is needed to judge it when it has ended.
#[derive(Debug, Clone)]
pub struct Judged {
    mode: Option<Mode>,
    step: String,
    project: std::path::PathBuf,
}

impl Judged {
    /// Keeps what is needed of a job.
    pub fn of(job: &Job) -> Self {
        let sandbox = job.program.as_ref().and_then(|p| p.sandbox.as_ref());
        let mode = match (&job.program, job.trace, sandbox) {
            (Some(_), true, _) => Some(Mode::Watch),
            (_, _, Some(sandbox)) => Some(Mode::Hold {
                required: sandbox.required,
            }),
            _ => None,
        };
        Judged {
            mode,
            step: job.step.clone(),
            project: job.project.clone(),
        }
    }

    fn without(&self, why: &str) -> String {
        format!("{} ran without its full sandbox: {why}", self.step)
    }
}

/// A sandbox that cannot be had.
fn unavailable(why: &str) -> StepError {
    StepError::new(format!("the sandbox cannot be had here: {why}"))
        .hint("`sandbox = \"if-available\"` goes on without it where it cannot be had")
}

/// Holds this thread, which is about to do a built-in kind's work, and the
/// threads it starts, to the job. Says what holds it, for the record.
pub fn hold_worker(job: &Job, folder: &WorkFolder, network: bool) -> String {
    #[cfg(target_os = "linux")]
    {
        enter::hold_worker(&Rules::of_worker(job, folder, network))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (job, folder, network);
        NONE.to_owned()
    }
}

/// The interface of Landlock that this kernel has; none without Landlock.
pub fn landlock_abi() -> Option<u32> {
    #[cfg(target_os = "linux")]
    {
        Some(landlock::kernel_abi()).filter(|abi| *abi > 0)
    }
    #[cfg(not(target_os = "linux"))]
    {
        None
    }
}

/// What the record says of a step that nothing held.
pub const NONE: &str = "none";

/// The process behind [`VERB`]: holds or watches a program and ends as it ends.
pub fn enter(guard: &Path, argv: &[OsString]) -> ExitCode {
    #[cfg(target_os = "linux")]
    {
        enter::enter(guard, argv)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (guard, argv);
        ExitCode::FAILURE
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
