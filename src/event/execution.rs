//! One execution of a step, as the executor saw it: what a record is made from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::hash::Digest;
use crate::pipeline::{PipelineName, StepName, ValueSource};
use crate::plan::{Key, Manifest, Provenance};
use crate::step::{Grant, StepError};
use crate::store::Output;

/// One execution of a step that finished.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    /// The run it belongs to.
    pub run: String,
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The step.
    pub step: StepName,
    /// What its result is stored under.
    pub key: Key,
    /// Everything that entered the key.
    pub manifest: Manifest,
    /// Where each effective parameter came from.
    pub sources: BTreeMap<String, ValueSource>,
    /// Where each input of the manifest came from, in the same order.
    pub inputs_from: Vec<Provenance>,
    /// The outputs.
    pub outputs: Vec<Output>,
    /// When it started, milliseconds since the epoch.
    pub started_ms: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// Peak resident memory of its process in bytes, where it is known.
    pub peak_memory: Option<u64>,
    /// How many threads it might use.
    pub threads: usize,
    /// What it was given of the machine.
    #[serde(default)]
    pub resources: Grant,
    /// The attempts of the same run that failed before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_attempts: Vec<FailedAttempt>,
    /// What held it to what it declares: `landlock abi 7, seccomp` or `none`.
    #[serde(default)]
    pub sandbox: String,
    /// What the step measured about itself.
    pub facts: BTreeMap<String, Value>,
    /// The log, an object of the store; none when nothing was logged.
    pub log: Option<Digest>,
}

/// An attempt that failed and was followed by another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailedAttempt {
    /// Why.
    pub error: StepError,
    /// When it started, milliseconds since the epoch.
    pub started_ms: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// What it was given of the machine.
    pub resources: Grant,
}

/// Turns executions into records.
pub trait Recorder {
    /// The bytes of the record, which the store keeps as an object. They hold
    /// the execution's manifest under `manifest`.
    fn record(&self, execution: &Execution) -> Vec<u8>;
}
