//! What is different between two runs, lock files or commits: plain data.

use serde::Serialize;

use crate::compare::{Difference, KeyChange};
use crate::hash::Digest;
use crate::pipeline::StepName;
use crate::plan::FileChanges;
use crate::store::Key;

/// The version of the comparison's JSON. 1: the first. 2: `files` of an input
/// that is a folder, and `unknown` changes.
pub const DIFF_FORMAT: u32 = 2;

/// What is different between two states of a pipeline.
#[derive(Debug, Clone, Serialize)]
pub struct StateDiff {
    /// [`DIFF_FORMAT`].
    pub format: u32,
    /// The first.
    pub old: StateName,
    /// The second.
    pub new: StateName,
    /// The steps that differ, by name.
    pub steps: Vec<StepDiff>,
    /// How many steps are the same.
    pub same: usize,
    /// What differs in the environment in which steps ran.
    pub environment: Vec<EnvironmentChange>,
}

/// What a state is a state of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StateName {
    /// `run`, `lock` or `commit`.
    pub kind: &'static str,
    /// The run's name, the file's path, the commit.
    pub name: String,
}

/// How a step differs.
#[derive(Debug, Clone, Serialize)]
pub struct StepDiff {
    /// The step.
    pub step: StepName,
    /// In a word.
    pub change: StepChange,
    /// Its key in both.
    pub keys: [Option<Key>; 2],
    /// How it ended in both, where they are runs.
    pub ends: [Option<&'static str>; 2],
    /// Kind, version, parameters and declared variables that differ.
    pub settings: Vec<KeyChange>,
    /// Inputs that differ.
    pub data: Vec<DataChange>,
    /// Outputs that differ.
    pub outputs: Vec<OutputChange>,
    /// What is not known, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// How a step differs, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepChange {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// It has another key.
    Changed,
    /// The key is the same and the outputs are not.
    NotReproducible,
    /// The key is the same, and whether the outputs are is not known.
    Unknown,
    /// Only how it ended differs.
    Ended,
}

/// An input that differs.
#[derive(Debug, Clone, Serialize)]
pub struct DataChange {
    /// The port, with its label.
    pub input: String,
    /// Where it comes from.
    pub from: String,
    /// Its digest in both.
    pub digests: [Option<Digest>; 2],
    /// What came and went, where both contents can be had and are rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowCounts>,
    /// The files that changed, came or went, where it is a folder and both
    /// listings can be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<FileChanges>,
    /// What is not known, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// How many rows there are, and how many came and went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RowCounts {
    /// In the first.
    pub old: usize,
    /// In the second.
    pub new: usize,
    /// Only in the second.
    pub added: usize,
    /// Only in the first.
    pub removed: usize,
}

/// An output that differs.
#[derive(Debug, Clone, Serialize)]
pub struct OutputChange {
    /// Its path in the step's folder.
    pub path: String,
    /// Its digest in both.
    pub digests: [Option<Digest>; 2],
    /// What a data set gained, lost and shifted, in sentences; of rows alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<String>,
    /// How it differs, where both contents can be had.
    pub differences: Vec<Difference>,
    /// What is not known, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Something that differs in the environment.
#[derive(Debug, Clone, Serialize)]
pub struct EnvironmentChange {
    /// What, by its JSON pointer in the record's environment.
    #[serde(flatten)]
    pub change: KeyChange,
    /// The steps that ran so.
    pub steps: Vec<StepName>,
}

impl StateDiff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.environment.is_empty()
    }
}
