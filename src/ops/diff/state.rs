//! A state of a pipeline to compare: a run, a lock file, or the lock file of a commit.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::Outputs;
use crate::files::{self, PathContext};
use crate::hash::Digest;
use crate::ops::workspace::PIPELINES;
use crate::ops::{OpsError, Workspace};
use crate::pipeline::StepName;
use crate::record::{
    Lock, RunError, RunRecord, StateName, StepEnd, StoredRecord, find_run, read_record,
};
use crate::store::{Artifact, Key, LocalStore, Store};

/// A state of a pipeline.
pub(super) struct State {
    pub name: StateName,
    pub steps: BTreeMap<StepName, StepState>,
}

/// A step in a state.
#[derive(Default)]
pub(super) struct StepState {
    pub key: Option<Key>,
    /// How it ended, where the state is a run.
    pub end: Option<&'static str>,
    /// The record of the result, where the store has it.
    pub record: Option<StoredRecord>,
    pub outputs: Outputs,
    /// What is not known, and why.
    pub note: Option<String>,
    /// Whether the outputs are not known, or those of a later result.
    pub unknown: bool,
}

impl StepState {
    /// What an output was, where that is known.
    pub fn artifact(&self, path: &str) -> Option<Artifact> {
        let digest = self.outputs.get(path)?;
        let outputs = &self.record.as_ref()?.execution.outputs;
        let found = outputs.iter().find(|output| output.path == path)?;
        // Of another digest the shape is most likely the same.
        Some(Artifact {
            digest: *digest,
            ..found.artifact
        })
    }
}

impl State {
    /// The state that `wanted` names: a run first, then a path, then a commit.
    pub fn find(workspace: &Workspace, store: &LocalStore, wanted: &str) -> Result<Self, OpsError> {
        let unknown = match find_run(&workspace.cache, wanted) {
            Ok(run) => return Self::of_run(workspace, store, &run),
            Err(error) => error,
        };
        let path = workspace.root.join(wanted);
        if path.exists() {
            return Self::of_path(workspace, store, wanted, &path);
        }
        match Self::of_commit(workspace, store, wanted)? {
            Some(state) => Ok(state),
            None => Err(unknown.into()),
        }
    }

    fn of_run(workspace: &Workspace, store: &LocalStore, run: &str) -> Result<Self, OpsError> {
        let told = RunRecord::read(&workspace.cache, run)?;
        let steps = told.steps.into_iter().map(|(name, step)| {
            let mut state = StepState {
                key: step.key,
                end: Some(word(step.end)),
                ..StepState::default()
            };
            let ended = matches!(
                step.end,
                StepEnd::Ran | StepEnd::Restored | StepEnd::UpToDate
            );
            match step.key.filter(|_| ended) {
                Some(key) => {
                    state.record(store, &key, step.record);
                    state.later(run, step.end);
                    state.own_outputs();
                }
                None => {
                    let how = word(step.end);
                    state.note = Some(format!("{how}, so there is no record of it"));
                }
            }
            (name, state)
        });
        Ok(State {
            name: StateName {
                kind: "run",
                name: run.to_owned(),
            },
            steps: steps.collect(),
        })
    }

    fn of_path(
        workspace: &Workspace,
        store: &LocalStore,
        wanted: &str,
        path: &Path,
    ) -> Result<Self, OpsError> {
        let lock = workspace.lock_file();
        let name = lock.file_name().unwrap_or_default();
        let file = match path.is_dir() {
            true => path.join(PIPELINES).join(name),
            false => path.to_owned(),
        };
        let lock = Lock::read(&file)?.ok_or_else(|| RunError::NoSuch(wanted.to_owned()))?;
        Ok(Self::of_lock(store, lock, "lock", wanted.to_owned()))
    }

    /// The lock file as a commit has it; none if there is no such commit, or
    /// no lock file in it.
    fn of_commit(
        workspace: &Workspace,
        store: &LocalStore,
        wanted: &str,
    ) -> Result<Option<Self>, OpsError> {
        // A name that git would take for an option is no revision.
        if wanted.starts_with('-') {
            return Ok(None);
        }
        let lock = workspace.lock_file();
        let lock = files::relative(&lock, &workspace.root).display();
        let Some(bytes) = git(&workspace.root, &["show", &format!("{wanted}:./{lock}")]) else {
            return Ok(None);
        };
        let folder = tempfile::tempdir().on("create a folder in", &std::env::temp_dir())?;
        let file = folder.path().join("lock");
        files::write(&file, bytes)?;
        let lock = Lock::read(&file)?.unwrap_or_default();
        Ok(Some(Self::of_lock(
            store,
            lock,
            "commit",
            wanted.to_owned(),
        )))
    }

    fn of_lock(store: &LocalStore, lock: Lock, kind: &'static str, name: String) -> Self {
        let steps = lock.steps.into_iter().map(|(name, step)| {
            let mut state = StepState {
                key: Some(step.key),
                ..StepState::default()
            };
            state.record(store, &step.key, None);
            state.outputs = step.outputs;
            state.unknown = false;
            (name, state)
        });
        State {
            steps: steps.collect(),
            name: StateName { kind, name },
        }
    }
}

impl StepState {
    /// Reads the record of a key's result: the very one where it is told which
    /// and the store still has it, else the one of the last result.
    fn record(&mut self, store: &LocalStore, key: &Key, told: Option<Digest>) {
        let read = |record: Digest| read_record(&store.get(&record).ok()?);
        let last = || store.entry(key).and_then(|entry| read(entry.record));
        self.record = told.and_then(read).or_else(last);
        if self.record.is_none() {
            self.note = Some("the store no longer has the record of this result".to_owned());
            self.unknown = true;
        }
    }

    /// The outputs are those of the record.
    fn own_outputs(&mut self) {
        let outputs = self.record.iter().flat_map(|r| &r.execution.outputs);
        let outputs = outputs.map(|output| (output.path.clone(), output.artifact.digest));
        self.outputs = outputs.collect();
    }

    /// Says that a key was run again, where only the later record is known.
    /// Names of runs sort by time.
    fn later(&mut self, run: &str, end: StepEnd) {
        let of = self
            .record
            .as_ref()
            .map(|record| record.execution.run.as_str());
        let ran_here = end == StepEnd::Ran;
        if let Some(of) = of.filter(|of| *of > run || (ran_here && *of != run)) {
            self.note = Some(format!(
                "it ran again in {of} for the same key, and only that result is known"
            ));
            self.unknown = true;
        }
    }
}

fn word(end: StepEnd) -> &'static str {
    match end {
        StepEnd::UpToDate => "up-to-date",
        StepEnd::Restored => "restored",
        StepEnd::Ran => "ran",
        StepEnd::Failed => "failed",
        StepEnd::Skipped => "skipped",
        StepEnd::Cancelled => "cancelled",
        StepEnd::Running => "running",
        StepEnd::Open => "open",
    }
}

/// What git says; none where it fails.
pub(super) fn git(root: &Path, arguments: &[&str]) -> Option<Vec<u8>> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(arguments)
        .output();
    output.ok().filter(|o| o.status.success()).map(|o| o.stdout)
}
