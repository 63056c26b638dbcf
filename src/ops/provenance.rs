//! The provenance of a step's current result, as its record has it.

use serde_json::Value;

use super::workspace::find_step;
use super::{OpsError, Workspace};
use crate::graph::StepId;
use crate::pipeline::{Overrides, StepName};
use crate::record::{StoredRecord, read_record};
use crate::store::{Key, Store};

/// The record of a result.
#[derive(Debug, Clone)]
pub struct Provenance {
    /// The step.
    pub step: StepName,
    /// The key of its current result.
    pub key: Key,
    /// The record, as far as this program understands it.
    pub record: StoredRecord,
    /// The whole record.
    pub json: Value,
}

/// The records of the current results of a step, or of all its cells.
pub fn provenance(
    workspace: &Workspace,
    overrides: &Overrides,
    step: &str,
) -> Result<Vec<Provenance>, OpsError> {
    let (graph, _) = workspace.load(overrides)?;
    let store = workspace.look_into_store()?;
    let one = |id: StepId| {
        let step = &graph.node(id).name;
        let unbuilt = || OpsError::NoRecord {
            step: step.to_string(),
        };
        let entry = store.with_index(|index| {
            let key = index.step(graph.name.as_str(), step.as_str())?.current?;
            Some((key, index.entry(&key)?))
        });
        let (key, entry) = entry.ok_or_else(unbuilt)?;
        let bytes = store.get(&entry.record)?;
        let record = read_record(&bytes).ok_or_else(unbuilt)?;
        let json = serde_json::from_slice(&bytes).map_err(|_| unbuilt())?;
        Ok(Provenance {
            step: step.clone(),
            key,
            record,
            json,
        })
    };
    find_step(&graph, step)?.into_iter().map(one).collect()
}
