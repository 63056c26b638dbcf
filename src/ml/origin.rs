//! Where a model folder comes from: `retune.json` beside its files.
//!
//! No part of a model's own files has room for it, and what a folder was made
//! of is what an adapter for it has to say.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::pretty_json;
use crate::files::{self, FileError};
use crate::hash::Digest;

/// Version of the file: 1, `{format, repo, revision, merged}`.
const FORMAT: u32 = 1;

/// The file's name.
pub const FILE: &str = "retune.json";

/// What a model folder says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    format: u32,
    /// `OWNER/NAME` on the Hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// The commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The adapters that were merged into it, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged: Vec<Merged>,
}

/// An adapter that is in a model's weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merged {
    /// Digest of the model it was merged into.
    pub base: Digest,
    /// Digest of the adapter.
    pub adapter: Digest,
}

/// A model's `retune.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not what it should be.
    #[error("{}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl Origin {
    /// A repository on the Hub at a commit.
    pub fn hub(repo: &str, revision: &str) -> Self {
        Origin {
            repo: Some(repo.to_owned()),
            revision: Some(revision.to_owned()),
            ..Origin::default()
        }
    }

    /// What the folder `model` says; nothing where it has no such file.
    pub fn read(model: &Path) -> Result<Self, OriginError> {
        let path = model.join(FILE);
        if !path.exists() {
            return Ok(Origin::default());
        }
        let bad = |message: String| OriginError::Content {
            path: path.clone(),
            message,
        };
        let text = files::read_text(&path)?;
        let origin: Origin = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        match origin.format > FORMAT {
            true => Err(bad(format!(
                "format {} is newer than this build",
                origin.format
            ))),
            false => Ok(origin),
        }
    }

    /// Writes the file into the folder `model`.
    pub fn write(&self, model: &Path) -> Result<(), FileError> {
        let written = Origin {
            format: FORMAT,
            ..self.clone()
        };
        files::write(&model.join(FILE), pretty_json(&written))
    }

    /// The model's name on the Hub, which a model with something merged into it has none of.
    pub fn name(&self) -> Option<(&str, Option<&str>)> {
        let repo = self.repo.as_deref().filter(|_| self.merged.is_empty())?;
        Some((repo, self.revision.as_deref()))
    }
}
