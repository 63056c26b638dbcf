//! The Hub: fetching pinned revisions into the standard Hugging Face cache.
//!
//! The official client does the transfer and honours `HF_ENDPOINT`, `HF_HOME`
//! and `HF_TOKEN`. What it leaves behind after an interruption cannot be told
//! from a complete snapshot, so a fetch that finished is noted in a file of
//! our own, and only a noted one counts as being here.

use std::fmt;
use std::path::{Path, PathBuf};

use hf_hub::{HFClientSync, HFError};

use crate::files::{self, FileError};
use crate::hash::Encoder;

/// A repository, or a file or folder in it, at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Whether it is a dataset repository rather than a model.
    pub dataset: bool,
    /// `owner/name`.
    pub repo: String,
    /// A commit, tag or branch.
    pub revision: String,
    /// A file or folder in it; everything without.
    pub path: Option<String>,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.dataset { "datasets/" } else { "" };
        write!(f, "hf://{kind}{}@{}", self.repo, self.revision)?;
        match &self.path {
            Some(path) => write!(f, "/{path}"),
            None => Ok(()),
        }
    }
}

/// A reference could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The client or the Hub refused.
    #[error("the Hub did not give {reference}")]
    Client {
        /// What was asked for.
        reference: String,
        /// Why.
        #[source]
        source: Box<HFError>,
    },
    /// The revision has no such path.
    #[error("{0} has no such file or folder")]
    NoSuchPath(String),
    /// The note of the fetch could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Fetches references and remembers in `notes` which are complete.
pub struct Hub {
    notes: PathBuf,
}

impl Hub {
    /// A hub whose notes are kept in the folder `notes`.
    pub fn new(notes: PathBuf) -> Self {
        Hub { notes }
    }

    fn note(&self, reference: &Reference) -> PathBuf {
        let mut encoder = Encoder::new("retune hub");
        encoder.str(&reference.to_string());
        self.notes.join(encoder.digest_of().to_string())
    }

    /// Where a reference is that was fetched completely before.
    pub fn cached(&self, reference: &Reference) -> Option<PathBuf> {
        let path = PathBuf::from(files::read_text(&self.note(reference)).ok()?);
        path.exists().then_some(path)
    }

    /// Fetches a reference and says where it is.
    pub fn fetch(&self, reference: &Reference) -> Result<PathBuf, HubError> {
        let failed = |source| HubError::Client {
            reference: reference.to_string(),
            source: Box::new(source),
        };
        let snapshot = download(reference).map_err(failed)?;
        let path = match &reference.path {
            Some(path) => snapshot.join(path),
            None => snapshot,
        };
        if !path.exists() {
            return Err(HubError::NoSuchPath(reference.to_string()));
        }
        let note = path.to_string_lossy();
        files::write_atomic(&self.note(reference), note.as_bytes())?;
        Ok(path)
    }
}

/// Fetches files of a model repository, those of the names that it has, and
/// says in which folder they are.
pub fn fetch_files(repo: &str, revision: &str, names: &[&str]) -> Result<PathBuf, HubError> {
    let reference = Reference {
        dataset: false,
        repo: repo.to_owned(),
        revision: revision.to_owned(),
        path: None,
    };
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let snapshot = snapshot(&reference, Some(names));
    snapshot.map_err(|source| HubError::Client {
        reference: reference.to_string(),
        source: Box::new(source),
    })
}

/// The folder of the snapshot, with at least the referenced part of it.
fn download(reference: &Reference) -> Result<PathBuf, HFError> {
    snapshot(reference, reference.path.as_deref().map(patterns))
}

/// The folder of the snapshot, with at least what the patterns match.
fn snapshot(reference: &Reference, patterns: Option<Vec<String>>) -> Result<PathBuf, HFError> {
    let client = HFClientSync::new()?;
    let (owner, name) = reference
        .repo
        .split_once('/')
        .unwrap_or(("", &reference.repo));
    let revision = reference.revision.clone();
    if reference.dataset {
        let repo = client.dataset(owner, name);
        let download = repo.snapshot_download().revision(revision);
        download.maybe_allow_patterns(patterns).send()
    } else {
        let repo = client.model(owner, name);
        let download = repo.snapshot_download().revision(revision);
        download.maybe_allow_patterns(patterns).send()
    }
}

/// Globs for a path that may be a file or a folder.
fn patterns(path: &str) -> Vec<String> {
    vec![path.to_owned(), format!("{}/**", Path::new(path).display())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference() -> Reference {
        Reference {
            dataset: true,
            repo: "alice/rows".into(),
            revision: "v1".into(),
            path: Some("train.jsonl".into()),
        }
    }

    #[test]
    fn only_a_noted_fetch_that_is_still_there_counts() {
        let space = tempfile::tempdir().unwrap();
        let hub = Hub::new(space.path().join("notes"));
        assert_eq!(hub.cached(&reference()), None);
        let file = space.path().join("train.jsonl");
        files::write(&file, "{}").unwrap();
        let note = hub.note(&reference());
        files::write_atomic(&note, file.to_str().unwrap().as_bytes()).unwrap();
        assert_eq!(hub.cached(&reference()), Some(file.clone()));
        let other = Reference {
            revision: "v2".into(),
            ..reference()
        };
        assert_eq!(hub.cached(&other), None);
        files::remove(&file).unwrap();
        assert_eq!(hub.cached(&reference()), None);
    }
}
