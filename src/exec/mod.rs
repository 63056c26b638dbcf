//! Execution: the scheduler, the one door through which steps run, and their outputs' way into the store.

mod admit;
mod attempt;
mod checkpoint;
mod crew;
mod descriptors;
mod finish;
mod job;
mod keeper;
mod keeping;
mod launch;
mod local;
mod machine;
mod outputs;
mod queue;
mod recall;
mod run;
mod sandbox;
mod start;
mod state;
mod stop;
mod worker;

pub use job::{End, Job, JobResult, Share, WorkFolder, prepare};
pub use keeper::VERB as KEEPER_VERB;
pub use keeping::keep;
pub use local::LocalExecutor;
pub use machine::{Limits, visible_gpus};
pub use queue::Impossible;
pub use recall::Recall;
pub use run::{Options, RunError, Runner};
pub use sandbox::{Access, NONE as NO_SANDBOX, VERB as SANDBOX_VERB, What, enter, landlock_abi};
pub use worker::work;

use serde::{Deserialize, Serialize};

use crate::step::{Progress, StepError};

/// The hidden verb by which a step's process re-enters this program; the path
/// of its job follows.
pub const STEP_VERB: &str = "__step";

/// Starts jobs somewhere: as child processes today, on a cluster later.
pub trait Executor: Sync {
    /// Starts a job whose files are in `folder`.
    fn start(&self, job: &Job, folder: &WorkFolder) -> Result<Box<dyn Running>, StepError>;
}

/// A job that was started.
pub trait Running: Send {
    /// Something that stops the job from another thread.
    fn stopper(&self) -> Box<dyn Fn(Stop) + Send>;

    /// Waits for the end, handing on progress.
    fn wait(self: Box<Self>, progress: &mut dyn FnMut(Progress)) -> JobResult;
}

/// How to stop a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// It may finish what it is at and write a checkpoint.
    Ask,
    /// At once.
    Kill,
}
