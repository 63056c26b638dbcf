//! Comparing two states of the pipeline: runs, lock files, commits.

mod content;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use super::{OpsError, Workspace};
use crate::compare::{Difference, KeyChange, Tolerance, compare, json_changes, rows_between};
use crate::data::{self, DiffOptions};
use crate::hash::Digest;
use crate::pipeline::StepName;
use crate::plan::{FileChanges, InputContent, Provenance, compare_folders};
use crate::record::{
    DIFF_FORMAT, DataChange, EnvironmentChange, OutputChange, RowCounts, StateDiff, StepChange,
    StepDiff, StoredRecord,
};
use crate::store::Shape;

use content::Contents;
use state::{State, StepState};

/// What is different between two states; each is the name of a run, a lock
/// file, a project's folder, or a git revision.
pub fn diff(workspace: &Workspace, old: &str, new: &str) -> Result<StateDiff, OpsError> {
    let store = workspace.look_into_store()?;
    let old = State::find(workspace, &store, old)?;
    let new = State::find(workspace, &store, new)?;
    let comparison = Comparison {
        contents: Contents::new(workspace, &store)?,
        old: &old,
        new: &new,
    };
    let names: BTreeSet<&StepName> = old.steps.keys().chain(new.steps.keys()).collect();
    let mut steps = Vec::new();
    for name in &names {
        steps.extend(comparison.step(name));
    }
    Ok(StateDiff {
        format: DIFF_FORMAT,
        same: names.len() - steps.len(),
        steps,
        environment: environment(&old, &new),
        old: old.name,
        new: new.name,
    })
}

struct Comparison<'a> {
    contents: Contents<'a>,
    old: &'a State,
    new: &'a State,
}

impl Comparison<'_> {
    /// How a step differs; none if it does not.
    fn step(&self, name: &StepName) -> Option<StepDiff> {
        let (old, new) = (self.old.steps.get(name), self.new.steps.get(name));
        let mut found = StepDiff {
            step: name.clone(),
            change: StepChange::Changed,
            keys: [old, new].map(|step| step.and_then(|step| step.key)),
            ends: [old, new].map(|step| step.and_then(|step| step.end)),
            settings: Vec::new(),
            data: Vec::new(),
            outputs: Vec::new(),
            notes: Vec::new(),
        };
        let (Some(old), Some(new)) = (old, new) else {
            found.change = match old {
                Some(_) => StepChange::Removed,
                None => StepChange::Added,
            };
            return Some(found);
        };
        for (state, step) in [(self.old, old), (self.new, new)] {
            let why = step.note.as_ref();
            found
                .notes
                .extend(why.map(|why| format!("{}: {why}", state.name.name)));
        }
        found.outputs = self.outputs(old, new);
        if old.key == new.key {
            found.change = match (found.outputs.is_empty(), old.end == new.end) {
                (true, _) if old.unknown || new.unknown => StepChange::Unknown,
                (true, true) => return None,
                (true, false) if !failed(old) && !failed(new) => return None,
                (true, false) => StepChange::Ended,
                (false, _) => StepChange::NotReproducible,
            };
            return Some(found);
        }
        if let (Some(a), Some(b)) = (&old.record, &new.record) {
            found.settings = settings(a, b);
            found.data = self.data(a, b);
        }
        Some(found)
    }

    fn outputs(&self, old: &StepState, new: &StepState) -> Vec<OutputChange> {
        let paths: BTreeSet<&String> = old.outputs.keys().chain(new.outputs.keys()).collect();
        // A state that does not tell of outputs has none to compare.
        if old.outputs.is_empty() || new.outputs.is_empty() {
            return Vec::new();
        }
        let changed = |path: &&String| old.outputs.get(*path) != new.outputs.get(*path);
        paths
            .into_iter()
            .filter(changed)
            .map(|path| {
                let digests = [old, new].map(|step| step.outputs.get(path).copied());
                let explained = match digests {
                    [Some(_), Some(_)] => self.explain(path, old, new),
                    _ => Ok((Vec::new(), Vec::new())),
                };
                OutputChange {
                    path: path.clone(),
                    digests,
                    note: explained.as_ref().err().cloned(),
                    rows: explained
                        .as_ref()
                        .map_or(Vec::new(), |(rows, _)| rows.clone()),
                    differences: explained.map_or(Vec::new(), |(_, differences)| differences),
                }
            })
            .collect()
    }

    /// How an output differs, or whose content cannot be had.
    fn explain(
        &self,
        path: &str,
        old: &StepState,
        new: &StepState,
    ) -> Result<(Vec<String>, Vec<Difference>), String> {
        let place = |step: &StepState| {
            let artifact = step.artifact(path)?;
            self.contents.stored(&artifact, path)
        };
        let [a, b] = both([place(old), place(new)], "in the store")?;
        Ok((
            data_set(path, &a, &b),
            compare(path, &a, &b, &Tolerance::default()),
        ))
    }

    fn data(&self, old: &StoredRecord, new: &StoredRecord) -> Vec<DataChange> {
        let (a, b) = (inputs(old), inputs(new));
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        let mut found = Vec::new();
        for name in names {
            let (was, is) = (a.get(name), b.get(name));
            let digests = [was, is].map(|input| input.map(|(content, _)| content.digest));
            if digests[0] == digests[1] {
                continue;
            }
            let from = is.or(was).map(|(_, from)| from.to_string());
            let mut change = DataChange {
                input: name.clone(),
                from: from.unwrap_or_default(),
                digests,
                rows: None,
                files: None,
                note: None,
            };
            if let (Some(was), Some(is)) = (was, is)
                && let Err(why) = self.look_inside(&mut change, (old, was), (new, is))
            {
                change.note = Some(why);
            }
            found.push(change);
        }
        found
    }

    /// What differs inside of an input, or why that cannot be told.
    fn look_inside(
        &self,
        change: &mut DataChange,
        old: (&StoredRecord, &Content<'_>),
        new: (&StoredRecord, &Content<'_>),
    ) -> Result<(), String> {
        let ((_, (was, _)), (_, (is, _))) = (old, new);
        if was.shape == Shape::Folder && is.shape == Shape::Folder {
            change.files = Some(self.files(was, is)?);
        } else if has_rows(was) && has_rows(is) {
            change.rows = Some(self.rows(old, new)?);
        }
        Ok(())
    }

    fn files(&self, was: &InputContent, is: &InputContent) -> Result<FileChanges, String> {
        let listing = |digest: &Digest| self.contents.listing(digest);
        let [a, b] = both(
            [listing(&was.digest), listing(&is.digest)],
            "listed in the store",
        )?;
        let found = compare_folders(&a, &b, &listing, usize::MAX);
        found.ok_or_else(|| "a folder in it is not listed in the store any more".to_owned())
    }

    fn rows(
        &self,
        (old, was): (&StoredRecord, &Content<'_>),
        (new, is): (&StoredRecord, &Content<'_>),
    ) -> Result<RowCounts, String> {
        let a = self.contents.input(was.0, was.1, old.commit());
        let b = self.contents.input(is.0, is.1, new.commit());
        let [a, b] = both([a, b], "to be had")?;
        let counts = rows_between(&a, &b).map_err(|error| error.to_string())?;
        let (old, new, removed, added) = counts;
        Ok(RowCounts {
            old,
            new,
            added,
            removed,
        })
    }
}

/// An input's content, and where it comes from.
type Content<'a> = (&'a InputContent, &'a Provenance);

fn has_rows(input: &InputContent) -> bool {
    input.shape != Shape::Folder && input.file.ends_with(".jsonl")
}

/// What changed in a data set; nothing where the files are none.
fn data_set(path: &str, old: &Path, new: &Path) -> Vec<String> {
    let fields = ["task", "tool", "severity", "language", "source"];
    let options = DiffOptions {
        by: fields.map(str::to_owned).into(),
        examples: 0,
    };
    match path.ends_with(".jsonl") {
        true => data::diff(old, new, &options).map_or(Vec::new(), |diff| diff.sentences()),
        false => Vec::new(),
    }
}

/// Both contents, or which of them is missing.
fn both<T>(contents: [Option<T>; 2], place: &str) -> Result<[T; 2], String> {
    match contents {
        [Some(old), Some(new)] => Ok([old, new]),
        [old, new] => Err(match (old, new) {
            (None, None) => format!("neither content is {place} any more"),
            (None, _) => format!("the old content is not {place} any more"),
            _ => format!("the new content is not {place} any more"),
        }),
    }
}

fn failed(step: &StepState) -> bool {
    matches!(
        step.end,
        Some("failed" | "skipped" | "cancelled" | "running" | "open")
    )
}

/// Kind, version, parameters and declared variables.
fn settings(old: &StoredRecord, new: &StoredRecord) -> Vec<KeyChange> {
    let value = |record: &StoredRecord| {
        let manifest = &record.execution.manifest;
        json!({
            "kind": manifest.kind,
            "version": manifest.version,
            "params": manifest.params,
            "environment": manifest.environment,
        })
    };
    json_changes(&value(old), &value(new))
}

/// Inputs by port and label; several of one name by their position.
fn inputs(record: &StoredRecord) -> BTreeMap<String, Content<'_>> {
    let contents = record.execution.manifest.inputs.iter();
    let mut found = BTreeMap::new();
    for (content, from) in contents.zip(&record.execution.inputs_from) {
        let base = match content.label.as_str() {
            "" => content.port.clone(),
            label => format!("{}[{label}]", content.port),
        };
        let numbered = (2..).map(|n| format!("{base}#{n}"));
        let mut names = std::iter::once(base.clone()).chain(numbered);
        let name = names.find(|name| !found.contains_key(name));
        found.extend(name.map(|name| (name, (content, from))));
    }
    found
}

/// What differs in the environments of the steps that both have, each told once.
fn environment(old: &State, new: &State) -> Vec<EnvironmentChange> {
    let mut found: Vec<EnvironmentChange> = Vec::new();
    for (name, before) in &old.steps {
        let now = new.steps.get(name).and_then(|step| step.record.as_ref());
        let (Some(before), Some(now)) = (&before.record, now) else {
            continue;
        };
        for change in json_changes(&before.environment, &now.environment) {
            match found.iter_mut().find(|known| known.change == change) {
                Some(known) => known.steps.push(name.clone()),
                None => found.push(EnvironmentChange {
                    change,
                    steps: vec![name.clone()],
                }),
            }
        }
    }
    found
}

/// The digests of a step's outputs.
type Outputs = BTreeMap<String, Digest>;

impl StoredRecord {
    /// The commit that was checked out when the step ran.
    fn commit(&self) -> Option<&str> {
        self.environment
            .pointer("/project/commit")
            .and_then(Value::as_str)
    }
}
