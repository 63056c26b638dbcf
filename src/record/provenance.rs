//! The record of one execution: what ran, on what, with which values from where, and what came of it.

use std::path::Path;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::environment::Environment;
use crate::event::{Execution, Recorder};

/// The version of the record's JSON. 1: the execution's fields, `environment`.
/// 2: `resources` and `failed_attempts`.
pub const FORMAT: u32 = 2;

#[derive(Serialize)]
struct Record<'a> {
    format: u32,
    #[serde(flatten)]
    execution: &'a Execution,
    environment: &'a Environment,
}

/// A record as the store has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct StoredRecord {
    /// The execution.
    #[serde(flatten)]
    pub execution: Execution,
    /// Where and with what it ran; records of other programs may know more of it.
    #[serde(default)]
    pub environment: Value,
}

/// Reads a record; none where the bytes are not one. What a newer program adds
/// is passed over.
pub fn read_record(bytes: &[u8]) -> Option<StoredRecord> {
    serde_json::from_slice(bytes).ok()
}

/// Makes records for one run; looks at the environment once, when the first
/// step has finished.
pub struct ProvenanceRecorder<'a> {
    root: &'a Path,
    environment: OnceLock<Environment>,
}

impl<'a> ProvenanceRecorder<'a> {
    /// A recorder for the project at `root`.
    pub fn new(root: &'a Path) -> Self {
        ProvenanceRecorder {
            root,
            environment: OnceLock::new(),
        }
    }
}

impl Recorder for ProvenanceRecorder<'_> {
    fn record(&self, execution: &Execution) -> Vec<u8> {
        let environment = self
            .environment
            .get_or_init(|| Environment::capture(self.root));
        let record = Record {
            format: FORMAT,
            execution,
            environment,
        };
        serde_json::to_vec_pretty(&record).expect("plain data")
    }
}
