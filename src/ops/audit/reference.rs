//! What results are compared with: the records, somebody's lock file, release folder or project.

use std::path::{Path, PathBuf};

use crate::graph::CACHE;
use crate::graph::{Graph, Node, StepId};
use crate::hash::Digest;
use crate::ops::workspace::PIPELINES;
use crate::ops::{OpsError, Workspace};
use crate::record::{Against, Lock, LockError, LockedStep};
use crate::store::{Artifact, Entry, Key, LocalStore, Shape, StatCache, Store};

/// What results are compared with.
pub(super) enum Reference {
    /// The project's own records.
    Records,
    /// A lock file, and the store that holds what it speaks of where that can
    /// be had.
    Lock {
        against: Against,
        lock: Lock,
        store: Option<Box<LocalStore>>,
    },
    /// A folder that should be the first output of a step.
    Folder {
        against: Against,
        step: StepId,
        path: PathBuf,
    },
}

/// An output as it should be.
pub(super) struct Expected {
    /// Its path in the step's folder.
    pub path: String,
    /// Its digest.
    pub digest: Digest,
    /// File or folder, where that is known.
    pub shape: Option<Shape>,
    /// Where its content can be had.
    pub content: Content,
}

/// Where the content of an expected output can be had.
pub(super) enum Content {
    /// Nowhere, or perhaps in the own store by its digest.
    Unknown,
    /// In a store.
    Stored(Artifact),
    /// At a path.
    At(PathBuf),
}

impl Reference {
    /// Finds out what is at `path`.
    pub fn find(
        workspace: &Workspace,
        graph: &Graph,
        path: &Path,
        targets: &[StepId],
    ) -> Result<Self, OpsError> {
        let shown = path.display().to_string();
        let meta = std::fs::metadata(path).map_err(|source| OpsError::Reference {
            path: path.to_owned(),
            source,
        })?;
        if !meta.is_dir() {
            return Ok(Reference::Lock {
                against: Against::Lock { path: shown },
                lock: read(path)?,
                store: None,
            });
        }
        let lock = workspace.lock_file();
        let name = lock.file_name().unwrap_or_default();
        let theirs = path.join(PIPELINES).join(name);
        if theirs.is_file() {
            return Ok(Reference::Lock {
                against: Against::Project { path: shown },
                lock: read(&theirs)?,
                store: Some(Box::new(LocalStore::look(&path.join(CACHE))?)),
            });
        }
        Ok(Reference::Folder {
            against: Against::Folder { path: shown },
            step: whose(graph, path, targets)?,
            path: path.to_owned(),
        })
    }

    /// What it is, for the report.
    pub fn against(&self) -> Against {
        match self {
            Reference::Records => Against::Records,
            Reference::Lock { against, .. } | Reference::Folder { against, .. } => against.clone(),
        }
    }

    /// The only step that can be compared; none if all can.
    pub fn only(&self) -> Option<StepId> {
        match self {
            Reference::Folder { step, .. } => Some(*step),
            _ => None,
        }
    }

    /// The outputs of a step as they should be, and the key they are said to
    /// have; or why that is not known.
    pub fn expected(
        &self,
        node: &Node,
        entry: &Entry,
    ) -> Result<(Vec<Expected>, Option<Key>), String> {
        match self {
            Reference::Records => {
                let outputs = entry.outputs.iter().map(|output| Expected {
                    path: output.path.clone(),
                    digest: output.artifact.digest,
                    shape: Some(output.artifact.shape),
                    content: Content::Stored(output.artifact),
                });
                Ok((outputs.collect(), None))
            }
            Reference::Lock { lock, store, .. } => match lock.steps.get(&node.name) {
                Some(step) => Ok((locked(step, store.as_deref()), Some(step.key))),
                None => Err("the lock file does not have it".to_owned()),
            },
            Reference::Folder { path, .. } => {
                let output = node.outputs.first().ok_or("it has no output")?;
                let content = StatCache::empty().content(path);
                let content = content.map_err(|error| error.to_string())?;
                let expected = Expected {
                    path: output.path.clone(),
                    digest: content.digest,
                    shape: Some(content.shape),
                    content: Content::At(path.clone()),
                };
                Ok((vec![expected], None))
            }
        }
    }

    /// The store that expected content lies in, if it is not the own one.
    pub fn store(&self) -> Option<&LocalStore> {
        match self {
            Reference::Lock { store, .. } => store.as_deref(),
            _ => None,
        }
    }
}

fn read(path: &Path) -> Result<Lock, LockError> {
    Ok(Lock::read(path)?.unwrap_or_default())
}

/// The outputs of a lock file, with their artifacts where a store knows them.
fn locked(step: &LockedStep, store: Option<&LocalStore>) -> Vec<Expected> {
    let entry = store.and_then(|store| store.entry(&step.key));
    let artifact = |path: &str, digest: &Digest| {
        let outputs = entry.iter().flat_map(|entry| &entry.outputs);
        let same = |output: &&crate::store::Output| {
            output.path == path && output.artifact.digest == *digest
        };
        let found = outputs.clone().find(same).map(|output| output.artifact);
        found.filter(|artifact| store.is_some_and(|store| store.holds(artifact)))
    };
    let outputs = step.outputs.iter().map(|(path, digest)| {
        let artifact = artifact(path, digest);
        Expected {
            path: path.clone(),
            digest: *digest,
            shape: artifact.map(|artifact| artifact.shape),
            content: artifact.map_or(Content::Unknown, Content::Stored),
        }
    });
    outputs.collect()
}

/// The kind whose output is a release.
const RELEASE: &str = "release.folder";

/// The step whose output the folder should be: the one that was named, or else
/// the only one that makes a release.
fn whose(graph: &Graph, path: &Path, targets: &[StepId]) -> Result<StepId, OpsError> {
    let releases = || graph.ids().filter(|id| graph.node(*id).kind == RELEASE);
    let candidates: Vec<StepId> = match targets {
        [] => releases().collect(),
        named => named.to_vec(),
    };
    match &candidates[..] {
        [only] => Ok(*only),
        several => Err(OpsError::WhoseFolder {
            path: path.to_owned(),
            steps: several
                .iter()
                .map(|id| graph.node(*id).name.to_string())
                .collect(),
        }),
    }
}
