//! The record of one execution: what ran, on what, with which values from where, and what came of it.

use std::path::Path;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::environment::Environment;
use crate::event::{Execution, Recorder};

/// The version of the record's JSON. 1: the execution's fields, `environment`.
/// 2: `resources` and `failed_attempts`. 3: `sandbox`, which is nothing in the
/// records of before.
pub const FORMAT: u32 = 3;

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A record of the first format, field by field.
    fn first() -> Value {
        let digest = "ab".repeat(32);
        json!({
            "format": 1, "run": "20250101-000000.000", "pipeline": "p", "step": "s",
            "key": digest,
            "manifest": {
                "format": 1, "kind": "command", "version": 1, "params": {"run": "true"},
                "inputs": [], "environment": {},
            },
            "sources": {}, "inputs_from": [], "outputs": [], "started_ms": 1, "millis": 2,
            "peak_memory": null, "threads": 1, "facts": {}, "log": null,
            "environment": {"machine": {"cores": 2}},
        })
    }

    #[test]
    fn records_of_every_format_are_read() {
        let read = |record: &Value| read_record(record.to_string().as_bytes()).unwrap();
        let mut record = first();
        let one = read(&record);
        assert_eq!(one.execution.step.as_str(), "s");
        assert_eq!(one.environment["machine"]["cores"], 2);
        assert_eq!(
            (
                one.execution.sandbox.as_str(),
                one.execution.failed_attempts.len()
            ),
            ("", 0)
        );
        record["format"] = json!(2);
        record["resources"] = json!(one.execution.resources);
        assert_eq!(read(&record), one);
        record["format"] = json!(3);
        record["sandbox"] = json!("landlock abi 7");
        assert_eq!(read(&record).execution.sandbox, "landlock abi 7");
        // Of a newer one what is known.
        record["format"] = json!(FORMAT + 1);
        record["news"] = json!({"a": 1});
        assert_eq!(read(&record).execution.sandbox, "landlock abi 7");
    }

    #[test]
    fn what_is_written_is_the_newest_format() {
        let stored = read_record(first().to_string().as_bytes()).unwrap();
        let recorder = ProvenanceRecorder::new(Path::new("/"));
        let bytes = recorder.record(&stored.execution);
        let record: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            (&record["format"], &record["sandbox"]),
            (&json!(3), &json!(""))
        );
        assert_eq!(read_record(&bytes).unwrap().execution, stored.execution);
    }
}
