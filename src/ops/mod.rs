//! One function per user action, and the registry of kinds they work with.

mod audit;
mod build;
mod cache;
mod diff;
mod estimate;
mod gc;
mod graph;
mod graph_cache;
mod init;
mod inspect;
mod lock;
mod lock_files;
mod provenance;
mod runs;
mod snapshot;
mod table;
mod talk;
mod verify;
mod view;
mod watch;
mod workspace;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use crate::exec::{Impossible, KEEPER_VERB, SANDBOX_VERB, STEP_VERB};
use crate::files::FileError;
use crate::graph::HubRef;
use crate::pipeline::{Diagnostics, StepName};
use crate::plan::Hub;
use crate::record::LockError;
use crate::step::Registry;
use crate::store::StoreError;

pub use crate::data::{Message, Role};
pub use crate::exec::Limits;
pub use crate::ml::generate::{Finish, Generation, Generator, Options, Prompt, Sampling, Session};
pub use crate::ml::with_threads;
pub use crate::record::{AuditReport, AuditVerdict, RunError};
pub use crate::store::Output;
pub use crate::watch::{Changed, WatchError, Watched};
pub use audit::{AuditOptions, NoiseLevel, audit};
pub use build::{BuildOptions, build};
pub use cache::{CacheStats, CheckOptions, CheckReport, Damage, Group, Mended, check, stats};
pub use diff::diff;
pub use estimate::Estimate;
pub use gc::{Amount, Garbage, GcOptions, GcReport, gc};
pub use graph::{GraphFormat, graph};
pub use init::{InitError, Written, init};
pub use inspect::{Plan, plan, warnings, watched, why};
pub use lock::{LockFinding, LockReport, LockStanding, check_lock, merge_locks, repair_lock};
pub use provenance::{Provenance, provenance};
pub use runs::{
    Following, LogSource, RunInfo, RunResult, RunningStep, Status, StepLog, StoreSize, following,
    logs, runs, status,
};
pub use table::{Row, Standing, Table, table};
pub use talk::{Choice, Finder, Located, Question, Talk, TalkError, open_model, questions};
pub use verify::{VerifyFault, VerifyReport, verify};
pub use view::{GraphView, StepView, view};
pub use watch::{Notice, OnChange, watch};
pub use workspace::Workspace;

/// A user action could not be done.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// The project folder cannot be named.
    #[error("failed to find the folder {}", .path.display())]
    Root {
        /// As given.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no pipeline file.
    #[error("there is no pipeline in {}", .0.display())]
    NoPipeline(PathBuf),
    /// Several pipelines, and none is the default.
    #[error("there are several pipelines: {}", .0.join(", "))]
    WhichPipeline(Vec<String>),
    /// No pipeline has that name.
    #[error("there is no pipeline '{name}'")]
    NoSuchPipeline {
        /// As given.
        name: String,
        /// Those in `pipelines/`.
        known: Vec<String>,
    },
    /// No step has that name.
    #[error("there is no step '{name}'")]
    NoSuchStep {
        /// As given.
        name: String,
        /// The most similar one.
        closest: Option<String>,
    },
    /// A text cannot be the address of a step.
    #[error("'{text}' names no step: {why}")]
    BadAddress {
        /// As given.
        text: String,
        /// Why.
        why: String,
    },
    /// The step has no such cell.
    #[error("step '{step}': {message}")]
    NoSuchCell {
        /// The step.
        step: String,
        /// What is not there.
        message: String,
        /// What is.
        hint: Option<String>,
    },
    /// No pool has that name.
    #[error("the pipeline has no pool '{name}'")]
    NoSuchPool {
        /// As given.
        name: String,
        /// The most similar one.
        closest: Option<String>,
    },
    /// Steps ask for more than this machine has.
    #[error("{}", impossible(.file, .steps))]
    Impossible {
        /// The pipeline file.
        file: PathBuf,
        /// The steps.
        steps: Vec<Impossible>,
    },
    /// The pipeline file is wrong.
    #[error("{0}")]
    Pipeline(#[from] Diagnostics),
    /// No run is meant, or it cannot be read.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A run did not run that step.
    #[error("step '{step}' did not run in {run}")]
    NotInRun {
        /// The step.
        step: StepName,
        /// The run.
        run: String,
    },
    /// A step never ran, or all that told of it was removed.
    #[error("step '{0}' has not run yet")]
    NeverRun(StepName),
    /// What to compare with is not there.
    #[error("failed to read {}", .path.display())]
    Reference {
        /// As given.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Which step's output a folder should be is not known.
    #[error("which step made {} is not clear", .path.display())]
    WhoseFolder {
        /// As given.
        path: PathBuf,
        /// The steps that might have.
        steps: Vec<String>,
    },
    /// A step has no result whose record could be shown.
    #[error("there is no record of '{step}'")]
    NoRecord {
        /// The step.
        step: String,
    },
    /// The lock file cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store is for looking only.
    #[error("the store in {} cannot be written to", .path.display())]
    ReadOnlyStore {
        /// The store's folder.
        path: PathBuf,
        /// What was tried.
        #[source]
        source: FileError,
    },
    /// Git did not tell what the branches need.
    #[error("failed to look for lock files with `{command}`: {why}")]
    Git {
        /// What was run.
        command: String,
        /// What it said.
        why: String,
    },
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// This program's own path is not known.
    #[error("failed to find this program's own path")]
    OwnPath(#[source] std::io::Error),
}

impl OpsError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            OpsError::NoPipeline(_) => {
                Some("`retune init` writes the quick start's pipeline and data".to_owned())
            }
            OpsError::WhichPipeline(_) => Some("choose one with -p NAME".to_owned()),
            OpsError::NoSuchPipeline { known, .. } if !known.is_empty() => {
                Some(format!("there are: {}", known.join(", ")))
            }
            OpsError::Impossible { .. } => Some(
                "ask for less, or say what there is: --cpus, --memory, --gpus, --pool".to_owned(),
            ),
            OpsError::NoSuchStep { closest, .. } | OpsError::NoSuchPool { closest, .. } => closest
                .as_ref()
                .map(|name| format!("did you mean '{name}'?")),
            OpsError::NoSuchCell { hint, .. } => hint.clone(),
            OpsError::BadAddress { .. } => {
                Some("a cell is named like 'stage1[lr=1e-4,rank=8]', in quotes".to_owned())
            }
            OpsError::NoRecord { step } => Some(format!("build it: retune build {step}")),
            OpsError::WhoseFolder { steps, .. } => Some(match &steps[..] {
                [] => "name the step: audit STEP --against FOLDER".to_owned(),
                steps => format!("name one of: {}", steps.join(", ")),
            }),
            OpsError::Lock(LockError::Conflict { .. } | LockError::Damaged { .. }) => Some(
                "`retune lock --repair` makes it anew from the pipeline, the store and what both sides agree on"
                    .to_owned(),
            ),
            OpsError::ReadOnlyStore { .. } => Some(
                "make it writable, or use another store with --cache DIR; plan, why, graph and verify need only read it"
                    .to_owned(),
            ),
            OpsError::Git { .. } => Some(
                "nothing was deleted: this project is in a git repository, and results that its branches need are not to be lost"
                    .to_owned(),
            ),
            OpsError::Lock(LockError::Newer { .. }) => Some("install a newer retune".to_owned()),
            OpsError::Run(RunError::NoSuch(_) | RunError::Ambiguous { .. }) => {
                Some("`retune runs` lists them; `last` and `last~1` are names, too".to_owned())
            }
            _ => None,
        }
    }
}

/// What each step asks for and cannot have, on a line of its own.
fn impossible(file: &Path, steps: &[Impossible]) -> String {
    let lines = steps.iter().flat_map(|Impossible { step, line, lacks }| {
        let place = format!("{}:{line}", file.display());
        let lacks = lacks.iter();
        lacks.map(move |lack| format!("\n  {place}: {step} asks for {lack}"))
    });
    let lines: String = lines.collect();
    format!("nothing was run, for this machine has less than steps ask for:{lines}")
}

/// All built-in kinds.
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    crate::steps::register(&mut registry);
    registry
}

/// The JSON schema of the pipeline file with these kinds.
pub fn schema(registry: &Registry) -> serde_json::Value {
    crate::graph::schema(registry)
}

/// Name, version and purpose of every kind.
pub fn kinds(registry: &Registry) -> Vec<(String, u32, String)> {
    let line = |kind: &dyn crate::step::Kind| {
        (
            kind.name().to_owned(),
            kind.version(),
            kind.about().to_owned(),
        )
    };
    registry.iter().map(line).collect()
}

/// The process of one step: does the job in a file, leaves its result beside it.
pub fn worker(job: &Path, registry: &Registry) -> ExitCode {
    match crate::exec::work(job, registry) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Does the work of one step, or keeps steps, if this process was started for
/// that, and then gives what `main` has to return; none in the process that a user started.
///
/// A step runs as a child process that re-enters the running program, so that
/// a program which builds with [`build`] calls this first, with the same kinds.
pub fn step_process(registry: &Registry) -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let verb = arguments.next()?;
    let rest: Vec<_> = arguments.collect();
    match &rest[..] {
        [] if verb == KEEPER_VERB => Some(crate::exec::keep(None)),
        [files] if verb == KEEPER_VERB => Some(crate::exec::keep(Some(files))),
        [job] if verb == STEP_VERB => Some(worker(Path::new(job), registry)),
        [guard, program @ ..] if verb == SANDBOX_VERB && !program.is_empty() => {
            Some(crate::exec::enter(Path::new(guard), program))
        }
        _ => None,
    }
}

type HubError = Box<dyn std::error::Error + Send + Sync>;

/// Looks references up among those fetched before and, where it may, on the
/// Hub.
struct HubAccess<'a> {
    #[cfg_attr(not(feature = "hub"), expect(dead_code))]
    notes: PathBuf,
    /// Set by the user to stop; without it nothing is fetched.
    #[cfg_attr(not(feature = "hub"), expect(dead_code))]
    fetch: Option<&'a AtomicBool>,
}

impl<'a> HubAccess<'a> {
    fn new(workspace: &Workspace, fetch: Option<&'a AtomicBool>) -> Self {
        HubAccess {
            notes: workspace.cache.join("hub"),
            fetch,
        }
    }
}

impl Hub for HubAccess<'_> {
    #[cfg(feature = "hub")]
    fn locate(&self, reference: &HubRef) -> Result<Option<PathBuf>, HubError> {
        let hub = crate::hub::Hub::new(self.notes.clone());
        let wanted = crate::hub::Reference {
            dataset: reference.dataset,
            repo: reference.repo.clone(),
            revision: reference.revision.clone(),
            path: reference.path.clone(),
        };
        match (hub.cached(&wanted), self.fetch) {
            (Some(path), _) => Ok(Some(path)),
            (None, Some(stop)) => fetch(hub, wanted, stop).map(Some),
            (None, None) => Ok(None),
        }
    }

    #[cfg(not(feature = "hub"))]
    fn locate(&self, _: &HubRef) -> Result<Option<PathBuf>, HubError> {
        Err("this program was built without the feature `hub`".into())
    }
}

/// Fetches on a thread that is left to itself when the user stops: the client
/// cannot be interrupted, and what it did not finish does not count.
#[cfg(feature = "hub")]
fn fetch(
    hub: crate::hub::Hub,
    wanted: crate::hub::Reference,
    stop: &AtomicBool,
) -> Result<PathBuf, HubError> {
    use std::sync::atomic::Ordering;
    use std::sync::mpsc::{RecvTimeoutError, channel};
    const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(50);
    let (sender, fetched) = channel();
    std::thread::spawn(move || {
        // Nobody may be waiting any more.
        let _ = sender.send(hub.fetch(&wanted));
    });
    loop {
        match fetched.recv_timeout(LOOK_EVERY) {
            Ok(fetched) => return Ok(fetched?),
            Err(RecvTimeoutError::Timeout) if !stop.load(Ordering::Relaxed) => {}
            Err(RecvTimeoutError::Timeout) => return Err("it was stopped".into()),
            Err(RecvTimeoutError::Disconnected) => return Err("the Hub's client failed".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::SETTINGS;

    #[test]
    fn no_kind_has_a_field_with_the_name_of_a_setting() {
        for kind in registry().iter() {
            let schema = kind.schema();
            let fields = schema["properties"].as_object().into_iter().flatten();
            let fields = fields.map(|(name, _)| name.clone());
            let ports = kind.inputs().into_iter().map(|port| port.name.to_owned());
            for name in fields.chain(ports) {
                let (kind, name) = (kind.name(), name.as_str());
                assert!(!SETTINGS.contains(&name), "{kind} has the field {name}");
            }
        }
    }
}
