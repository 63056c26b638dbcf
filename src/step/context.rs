//! What a running step sees: its inputs, an empty output folder, progress and cancellation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::StepError;
use crate::hash::Digest;

/// One thing behind an input port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The port.
    pub port: String,
    /// For labelled ports the label. For the others the path relative to the
    /// project root as the pipeline file means it (never absolute), or
    /// `@step.output`.
    pub label: String,
    /// Where to read it; not to be written into any output.
    pub path: PathBuf,
}

/// A folder that outlives failed and stopped attempts of one key. It is no
/// part of the outputs, and no other key ever sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The folder.
    pub folder: PathBuf,
    /// Stands for the key: what was written for another one is not to be used.
    pub binding: Digest,
    /// How often to write.
    pub every: Every,
}

/// How often a step writes a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Every {
    /// At most so often.
    Time(Duration),
    /// After so many of the units in which it reports its progress.
    Steps(u64),
}

/// How far a running step is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all; 0 when that is not known.
    pub total: u64,
    /// What a person wants to read beside the bar: `loss 2.31 · 5.1k tok/s`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Where progress goes.
pub trait ProgressSink: Send {
    /// Called at most a few times a second by well-behaved steps.
    fn progress(&mut self, progress: &Progress);
}

impl ProgressSink for () {
    fn progress(&mut self, _: &Progress) {}
}

/// The user asked the run to stop.
#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// Everything a step may touch while it runs.
pub struct Context<'a> {
    /// The inputs in the order of ports.
    pub inputs: &'a [Input],
    /// The empty folder into which every declared output is written.
    pub out: &'a Path,
    /// Where to keep what another attempt goes on from.
    pub checkpoint: Option<&'a Checkpoint>,
    /// How many threads the step may use; must not show in any output.
    pub threads: usize,
    /// Set when the run is to stop.
    pub cancel: &'a AtomicBool,
    /// Where progress goes.
    pub sink: &'a mut dyn ProgressSink,
    /// What the step measured about itself, for its record.
    pub facts: BTreeMap<String, Value>,
}

impl Context<'_> {
    /// The path behind a port that takes exactly one thing.
    pub fn input(&self, port: &str) -> Result<&Path, StepError> {
        self.optional(port)
            .ok_or_else(|| StepError::new(format!("the input '{port}' is missing")))
    }

    /// The path behind an optional port.
    pub fn optional(&self, port: &str) -> Option<&Path> {
        let input = self.inputs.iter().find(|input| input.port == port)?;
        Some(&input.path)
    }

    /// Everything behind a port that takes many things.
    pub fn all<'b>(&'b self, port: &'b str) -> impl Iterator<Item = &'b Input> {
        self.inputs.iter().filter(move |input| input.port == port)
    }

    /// Where an output with the given path (see [`super::OutPort::path`]) is written.
    pub fn output(&self, path: &str) -> PathBuf {
        self.out.join(path)
    }

    /// Reports progress.
    pub fn progress(&mut self, done: u64, total: u64, message: impl Into<String>) {
        self.sink.progress(&Progress {
            done,
            total,
            message: message.into(),
        });
    }

    /// Puts a measured value into the step's record.
    pub fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// Fails when the user asked to stop.
    pub fn checkpoint_cancel(&self) -> Result<(), Cancelled> {
        if self.cancel.load(Ordering::Relaxed) {
            Err(Cancelled)
        } else {
            Ok(())
        }
    }
}
