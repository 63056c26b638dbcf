//! The lock file `pipelines/NAME.lock`: which key each step stands at and the digests behind it, deterministic and meant for git.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Deserialize;

use crate::files::{self, FileError};
use crate::hash::Digest;
use crate::pipeline::StepName;
use crate::store::Key;

/// The version of the file. 1: per step `key`, `sources`, `outputs`; a cell of
/// a matrix is a step whose quoted name has the cell behind it.
pub const FORMAT: u32 = 1;

/// What the lock file says, step by step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    /// The steps by name.
    pub steps: BTreeMap<StepName, LockedStep>,
}

/// What the lock file says of a step.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedStep {
    /// The key.
    pub key: Key,
    /// Inputs from outside by relative path or reference.
    #[serde(default)]
    pub sources: BTreeMap<String, Digest>,
    /// Outputs by path in the step's folder.
    #[serde(default)]
    pub outputs: BTreeMap<String, Digest>,
}

/// The lock file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is damaged, or the rest of a merge is in it.
    #[error("{path} is not a lock file")]
    Damaged {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: toml::de::Error,
    },
    /// It was written by a newer retune.
    #[error("{path} has format {format}, and this program knows format {FORMAT}")]
    Newer {
        /// The file.
        path: String,
        /// Its format.
        format: u32,
    },
}

#[derive(Deserialize)]
struct Head {
    format: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[expect(dead_code, reason = "read by Head")]
    format: u32,
    #[serde(default)]
    steps: BTreeMap<StepName, LockedStep>,
}

impl Lock {
    /// Reads a lock file; none if there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, LockError> {
        let text = match files::read_text(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let shown = || path.display().to_string();
        let damaged = |source| LockError::Damaged {
            path: shown(),
            source,
        };
        let head: Head = toml::from_str(&text).map_err(damaged)?;
        if head.format != FORMAT {
            return Err(LockError::Newer {
                path: shown(),
                format: head.format,
            });
        }
        let file: File = toml::from_str(&text).map_err(damaged)?;
        Ok(Some(Lock { steps: file.steps }))
    }

    /// The file's text: one block per step, sorted, so that a merge of two
    /// branches conflicts only in steps that both changed.
    pub fn to_text(&self) -> String {
        let mut text = String::from(
            "# Made by `retune build` and meant for git. Digests are blake3.\nformat = 1\n",
        );
        for (name, step) in &self.steps {
            // Writing to a string cannot fail.
            let name = match name.cell() {
                Some(_) => toml::Value::String(name.to_string()).to_string(),
                None => name.to_string(),
            };
            let _ = write!(text, "\n[steps.{name}]\nkey = \"{}\"\n", step.key);
            for (title, digests) in [("sources", &step.sources), ("outputs", &step.outputs)] {
                for (path, digest) in digests {
                    let path = toml::Value::String(path.clone());
                    let _ = writeln!(text, "{title}.{path} = \"{digest}\"");
                }
            }
        }
        text
    }

    /// Whether the file says exactly this.
    pub fn is_at(&self, path: &Path) -> bool {
        std::fs::read(path).is_ok_and(|old| old == self.to_text().as_bytes())
    }

    /// Writes the file unless it says this already.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        match self.is_at(path) {
            true => Ok(()),
            false => files::write_atomic(path, self.to_text().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> Lock {
        let step = LockedStep {
            key: Key(Digest::of(b"key")),
            sources: BTreeMap::from([("data/a \"b\".json".into(), Digest::of(b"a"))]),
            outputs: BTreeMap::from([("rows.jsonl".into(), Digest::of(b"rows"))]),
        };
        Lock {
            steps: BTreeMap::from([("rows".parse().unwrap(), step)]),
        }
    }

    #[test]
    fn round_trip_and_look() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.lock");
        assert_eq!(Lock::read(&path).unwrap(), None);
        lock().write(&path).unwrap();
        assert_eq!(Lock::read(&path).unwrap(), Some(lock()));
        let text = lock().to_text();
        assert!(text.contains("\n[steps.rows]\nkey = \""), "{text}");
        assert!(text.contains("\noutputs.\"rows.jsonl\" = \""), "{text}");
    }

    #[test]
    fn a_merge_conflict_and_a_newer_format_are_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.lock");
        std::fs::write(&path, "<<<<<<< ours\nformat = 1\n").unwrap();
        assert!(matches!(Lock::read(&path), Err(LockError::Damaged { .. })));
        std::fs::write(&path, "format = 2\nnew = 1\n").unwrap();
        assert!(matches!(
            Lock::read(&path),
            Err(LockError::Newer { format: 2, .. })
        ));
    }
}
