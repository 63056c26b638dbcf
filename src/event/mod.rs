//! What happens in a run, as plain data: the executor sends events, the recorder and the reporters only receive them.

mod execution;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::hash::Digest;
use crate::pipeline::{PipelineName, StepName};
use crate::plan::{Key, Verdict};
use crate::step::{Grant, Progress, StepError};

pub use execution::{Execution, FailedAttempt, Recorder};

/// One thing that happened, in the order in which it happened.
///
/// `--events FILE` writes one JSON object a line:
/// `{"time":"…","event":"step-started",…}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// Another build holds the project's lock; this one waits.
    Waiting {
        /// Who holds it, in words.
        holder: String,
    },
    /// The graph is known and the run begins.
    RunStarted {
        /// Names the run's folder under `cache/runs`.
        run: String,
        /// The pipeline.
        pipeline: PipelineName,
        /// How many steps the targets need.
        steps: usize,
        /// How many steps may run at once.
        jobs: usize,
    },
    /// A step's inputs are known and it was decided what to do.
    StepDecided {
        /// The step.
        step: StepName,
        /// What its result is, or will be, stored under.
        key: Key,
        /// What will be done, and why.
        verdict: Verdict,
    },
    /// A step's process was started.
    StepStarted {
        /// The step.
        step: StepName,
        /// Its kind.
        kind: String,
        /// What its result will be stored under.
        key: Key,
        /// Which attempt of this run it is, from 1.
        attempt: u32,
        /// What it was given of the machine.
        resources: Grant,
        /// Its work folder, relative to the store's folder; an audit has none there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        work: Option<PathBuf>,
    },
    /// A running step reported how far it is.
    StepProgress {
        /// The step.
        step: StepName,
        /// How far.
        progress: Progress,
    },
    /// A step ran, and its outputs are in the store and in place.
    StepFinished {
        /// The step.
        step: StepName,
        /// What its result is stored under.
        key: Key,
        /// Wall time in seconds.
        seconds: f64,
        /// Peak resident memory of its process in bytes, where it is known.
        peak_memory: Option<u64>,
        /// What the step measured about itself.
        facts: BTreeMap<String, Value>,
        /// Whether every output is the same as before this run.
        unchanged: bool,
        /// Its record, an object of the store; an audit keeps none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        record: Option<Digest>,
    },
    /// A step's outputs were put back from the store.
    StepRestored {
        /// The step.
        step: StepName,
        /// What they are stored under.
        key: Key,
    },
    /// An attempt failed, and the step is tried again after a wait.
    StepRetried {
        /// The step.
        step: StepName,
        /// Which attempt failed, from 1.
        attempt: u32,
        /// How many there are at most.
        attempts: u32,
        /// Why.
        error: StepError,
        /// Seconds until it is tried again.
        wait: f64,
        /// The last lines of its log.
        log_tail: Vec<String>,
        /// Where the whole log is.
        log: Option<PathBuf>,
    },
    /// A step failed; its last good outputs are untouched.
    StepFailed {
        /// The step.
        step: StepName,
        /// Why.
        error: StepError,
        /// The last lines of its log.
        log_tail: Vec<String>,
        /// Where the whole log is.
        log: Option<PathBuf>,
    },
    /// A step was not tried because one of its inputs failed.
    StepSkipped {
        /// The step.
        step: StepName,
        /// The step that failed.
        because: StepName,
    },
    /// A step was stopped, or not begun, because the user asked the run to stop
    /// or because something changed that a watch looks at.
    StepCancelled {
        /// The step.
        step: StepName,
        /// The step whose inputs or definition changed: of one that was
        /// stopped, itself or one above it. None if the user asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        changed: Option<StepName>,
    },
    /// Something on disk differed from what the step had written and was set
    /// aside before the right output was put in its place.
    OutputSetAside {
        /// The step.
        step: StepName,
        /// The output, relative to the project.
        path: String,
        /// Where the edited version is now, relative to the project.
        kept: String,
    },
    /// The user asked the run to stop; running steps have this long to comply.
    Stopping {
        /// Seconds until they are killed.
        grace: f64,
    },
    /// A part of the work that is not a step's own has ended; told only when a
    /// profile is written.
    PhaseEnded {
        /// Which part.
        phase: Phase,
        /// The step it was done for; none for what is done for all.
        step: Option<StepName>,
        /// How long it took.
        seconds: f64,
    },
    /// A result differs from the one that is known for the same key: the step
    /// is not reproducible.
    NotReproducible {
        /// The step.
        step: StepName,
        /// The key.
        key: Key,
        /// Where the other result is known from.
        known: Known,
        /// The outputs that differ.
        outputs: Vec<OtherOutput>,
    },
    /// Something a person should know that stops nothing.
    Warning {
        /// What.
        message: String,
    },
    /// The run is over.
    RunFinished {
        /// How many steps ended how.
        summary: Summary,
        /// Wall time in seconds.
        seconds: f64,
    },
}

/// What a run does besides running steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Reading and checking the pipeline file, or its cached graph.
    Load,
    /// Opening the store.
    Open,
    /// Finding and hashing a step's inputs, and deciding what to do.
    Decide,
    /// Putting a step's outputs back from the store.
    Restore,
    /// Hashing a step's outputs and taking them into the store.
    Store,
    /// Making results durable.
    Commit,
}

impl Phase {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Load => "load",
            Phase::Open => "open",
            Phase::Decide => "decide",
            Phase::Restore => "restore",
            Phase::Store => "store",
            Phase::Commit => "commit",
        }
    }
}

/// An event and when it happened: a line of `--events` and of a run's
/// `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stamped<E = Event> {
    /// RFC 3339 in UTC, to the millisecond.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub event: E,
}

/// Where a result is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Known {
    /// The store: it ran before.
    Store,
    /// The lock file: it ran before, perhaps on another machine.
    Lock,
}

/// An output that came out in another way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherOutput {
    /// Its path in the step's folder.
    pub path: String,
    /// The digest that is known; none where no such output is.
    pub known: Option<Digest>,
    /// The digest now; none where there is no such output.
    pub now: Option<Digest>,
}

impl OtherOutput {
    /// The outputs that differ between two results, by path.
    pub fn between(
        known: &BTreeMap<String, Digest>,
        now: &BTreeMap<String, Digest>,
    ) -> Vec<OtherOutput> {
        let paths: BTreeSet<&String> = known.keys().chain(now.keys()).collect();
        let differs = |path: &&String| known.get(*path) != now.get(*path);
        let paths = paths.into_iter().filter(differs);
        paths
            .map(|path| OtherOutput {
                path: path.clone(),
                known: known.get(path).copied(),
                now: now.get(path).copied(),
            })
            .collect()
    }
}

/// How many steps ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Nothing was to be done.
    pub up_to_date: usize,
    /// Outputs were put back from the store.
    pub restored: usize,
    /// Ran and finished.
    pub ran: usize,
    /// Ran and failed.
    pub failed: usize,
    /// Not tried because an input failed.
    pub skipped: usize,
    /// Stopped or not begun, on the user's request or for a change.
    pub cancelled: usize,
}

impl Summary {
    /// Whether every step has its outputs.
    pub fn complete(&self) -> bool {
        self.failed + self.skipped + self.cancelled == 0
    }
}

/// Where events go. Called from one thread, in order.
pub trait Sink {
    /// Takes note of an event.
    fn event(&mut self, event: &Event);
}

impl<F: FnMut(&Event)> Sink for F {
    fn event(&mut self, event: &Event) {
        self(event)
    }
}
