//! Comparing what came out of a step with what should have: digests first, and where they differ the contents.

use std::path::{Path, PathBuf};

use super::rebuild::Task;
use super::reference::{Content, Expected, Reference};
use crate::compare::{Difference, Tolerance, What, compare};
use crate::record::{OutputAudit, StepAudit, StepResult, step_result};
use crate::store::{Artifact, LocalStore, StatCache, Store};

/// What came out of a step.
#[derive(Clone, Copy)]
pub(super) enum Found<'a> {
    /// Outputs that were just made, in this folder.
    Rebuilt(&'a Path),
    /// The recorded ones, in the store.
    Recorded,
}

/// Compares outputs.
pub(super) struct Judge<'a> {
    pub store: &'a LocalStore,
    pub reference: &'a Reference,
    /// Where expected outputs are put to be read.
    pub scratch: PathBuf,
}

/// A step of which nothing was compared yet.
pub(super) fn empty(task: &Task<'_>) -> StepAudit {
    StepAudit {
        step: task.node.name.clone(),
        kind: task.node.kind.clone(),
        key: Some(task.decided.key),
        result: StepResult::Same,
        why: None,
        seconds: None,
        threads: None,
        outputs: Vec::new(),
        failure: None,
        undeclared: Vec::new(),
    }
}

impl Judge<'_> {
    /// Compares all outputs of a step.
    pub fn step(&self, task: &Task<'_>, found: Found<'_>) -> StepAudit {
        let audited = empty(task);
        let (expected, key) = match self.reference.expected(task.node, &task.entry) {
            Ok(expected) => expected,
            Err(why) => {
                return StepAudit {
                    result: StepResult::CouldNotTell,
                    why: Some(why),
                    ..audited
                };
            }
        };
        let mut outputs: Vec<OutputAudit> = expected
            .iter()
            .map(|expected| self.output(task, expected, found))
            .collect();
        if self.reference.only().is_none() {
            outputs.extend(self.unexpected(task, &expected, found));
        }
        // A step without outputs has nothing that could differ.
        let result = step_result(&outputs);
        let other = key.is_some_and(|key| key != task.decided.key);
        StepAudit {
            result,
            why: self.remark(result, key.is_some(), other),
            outputs,
            ..audited
        }
    }

    /// What the keys say of a comparison with somebody else's lock file.
    fn remark(&self, result: StepResult, keyed: bool, other: bool) -> Option<String> {
        let text = match (result, keyed, other) {
            (StepResult::Differs, _, true) => {
                "the keys differ too: other parameters, inputs or kind than theirs"
            }
            (_, _, true) => "the keys differ, and yet the outputs do not",
            (StepResult::Differs, true, false) => {
                "the same key: it is not reproducible, or one of the two is damaged"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }

    /// Outputs that the reference does not know.
    fn unexpected(
        &self,
        task: &Task<'_>,
        expected: &[Expected],
        found: Found<'_>,
    ) -> Vec<OutputAudit> {
        let known = |path: &str| expected.iter().any(|expected| expected.path == path);
        let outputs = task.entry.outputs.iter().filter(|o| !known(&o.path));
        outputs
            .map(|output| OutputAudit {
                found: self
                    .artifact(task, &output.path, found)
                    .ok()
                    .flatten()
                    .map(|artifact| artifact.digest.to_string()),
                ..blank(task, &output.path)
            })
            .collect()
    }

    fn output(&self, task: &Task<'_>, expected: &Expected, found: Found<'_>) -> OutputAudit {
        let audited = OutputAudit {
            expected: Some(expected.digest.to_string()),
            ..blank(task, &expected.path)
        };
        let path = &expected.path;
        let artifact = match self.artifact(task, path, found) {
            Ok(Some(artifact)) => artifact,
            Ok(None) => {
                let differences = vec![Difference::new(path, What::Removed)];
                return OutputAudit {
                    differences,
                    ..audited
                };
            }
            Err(why) => {
                let differences = vec![Difference::new(path, What::Unreadable { why })];
                return OutputAudit {
                    differences,
                    ..audited
                };
            }
        };
        let same_shape = expected.shape.is_none_or(|shape| shape == artifact.shape);
        let same = expected.digest == artifact.digest && same_shape;
        OutputAudit {
            found: Some(artifact.digest.to_string()),
            differences: match same {
                true => Vec::new(),
                false => self.explain(task, expected, &artifact, found),
            },
            ..audited
        }
    }

    /// What came out at an output's path; none if nothing did.
    fn artifact(
        &self,
        task: &Task<'_>,
        path: &str,
        found: Found<'_>,
    ) -> Result<Option<Artifact>, String> {
        match found {
            Found::Rebuilt(out) => match StatCache::empty().content(&out.join(path)) {
                Ok(artifact) => Ok(Some(artifact)),
                Err(error) if error.is_missing() => Ok(None),
                Err(error) => Err(error.to_string()),
            },
            Found::Recorded => {
                let mut outputs = task.entry.outputs.iter();
                let output = outputs.find(|output| output.path == path);
                Ok(output.map(|output| output.artifact))
            }
        }
    }

    /// How an output differs, as far as the contents can be had.
    fn explain(
        &self,
        task: &Task<'_>,
        expected: &Expected,
        artifact: &Artifact,
        found: Found<'_>,
    ) -> Vec<Difference> {
        let scratch = self.scratch.join(task.at.to_string());
        let path = &expected.path;
        let old = self.expected(expected, artifact, &scratch.join("old").join(path));
        let new = match found {
            Found::Rebuilt(out) => Some(out.join(path)),
            Found::Recorded => self.place(self.store, artifact, &scratch.join("new").join(path)),
        };
        let tolerance = tolerance(task, path);
        let mut differences = match (&old, &new) {
            (Some(old), Some(new)) => compare(path, old, new, &tolerance),
            _ => Vec::new(),
        };
        if differences.is_empty() {
            let (old, new) = (expected.digest, artifact.digest);
            differences.push(Difference::new(path, What::Digest { old, new }));
        }
        // A scratch folder that stays is removed with the audit's own.
        let _ = crate::files::remove(&scratch);
        differences
    }

    /// The expected content at a path, where it can be had.
    fn expected(&self, expected: &Expected, found: &Artifact, place: &Path) -> Option<PathBuf> {
        let store = self.reference.store().unwrap_or(self.store);
        match &expected.content {
            Content::At(path) => Some(path.clone()),
            Content::Stored(artifact) => self.place(store, artifact, place),
            Content::Unknown => {
                // Of the same shape, most likely, and perhaps in the own store.
                let artifact = Artifact {
                    digest: expected.digest,
                    ..*found
                };
                self.place(self.store, &artifact, place)
            }
        }
    }

    fn place(&self, store: &LocalStore, artifact: &Artifact, path: &Path) -> Option<PathBuf> {
        let placed = store.holds(artifact) && store.place(artifact, path).is_ok();
        placed.then(|| path.to_owned())
    }
}

/// An output of which nothing is known yet.
fn blank(task: &Task<'_>, path: &str) -> OutputAudit {
    let mut ports = task.node.outputs.iter();
    let port = ports.find(|port| port.path == path);
    OutputAudit {
        path: path.to_owned(),
        name: port.map_or(String::new(), |port| port.name.clone()),
        expected: None,
        found: None,
        tolerance: tolerance(task, path).words(),
        differences: Vec::new(),
    }
}

/// The declared tolerance of an output.
fn tolerance(task: &Task<'_>, path: &str) -> Tolerance {
    let mut ports = task.node.outputs.iter();
    let port = ports.find(|port| port.path == path);
    let declared = port.and_then(|port| task.node.settings.tolerance.get(&port.name));
    declared.cloned().unwrap_or_default()
}
