//! The contents behind digests: from the store, from the project, from the project's history.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::state::git;
use crate::files::{self, FileError, PathContext};
use crate::hash::Digest;
use crate::ops::Workspace;
use crate::plan::{InputContent, Provenance};
use crate::store::{Artifact, Listing, LocalStore, Store};

/// Finds contents by digest and puts them where they can be read.
pub(super) struct Contents<'a> {
    workspace: &'a Workspace,
    store: &'a LocalStore,
    folder: tempfile::TempDir,
    taken: AtomicUsize,
}

impl<'a> Contents<'a> {
    pub fn new(workspace: &'a Workspace, store: &'a LocalStore) -> Result<Self, FileError> {
        let folder = tempfile::Builder::new().prefix("retune-diff-").tempdir();
        Ok(Contents {
            workspace,
            store,
            folder: folder.on("create a folder in", &std::env::temp_dir())?,
            taken: AtomicUsize::new(0),
        })
    }

    /// A place of its own for a file of that name.
    fn place(&self, name: &str) -> PathBuf {
        let n = self.taken.fetch_add(1, Ordering::Relaxed);
        self.folder.path().join(n.to_string()).join(name)
    }

    /// An artifact of the store.
    pub fn stored(&self, artifact: &Artifact, name: &str) -> Option<PathBuf> {
        let path = self.place(name);
        let placed = self.store.holds(artifact) && self.store.place(artifact, &path).is_ok();
        placed.then_some(path)
    }

    /// The listing of a folder, where the store has it.
    pub fn listing(&self, digest: &Digest) -> Option<Listing> {
        self.store.kept_listing(digest)
    }

    /// The file behind an input: an output in the store, or a source as it is
    /// in the project now or was at the commit that the record names.
    pub fn input(
        &self,
        input: &InputContent,
        from: &Provenance,
        commit: Option<&str>,
    ) -> Option<PathBuf> {
        let artifact = Artifact {
            digest: input.digest,
            shape: input.shape,
            size: 0,
        };
        if let Some(path) = self.stored(&artifact, &input.file) {
            return Some(path);
        }
        let Provenance::Path(source) = from else {
            return None;
        };
        let now = self.workspace.root.join(source);
        if Digest::of_file(&now).is_ok_and(|(digest, _)| digest == input.digest) {
            return Some(now);
        }
        for commit in commit.into_iter().chain(["HEAD"]) {
            let bytes = git(
                &self.workspace.root,
                &["show", &format!("{commit}:./{source}")],
            );
            let bytes = bytes.filter(|bytes| Digest::of(bytes) == input.digest);
            if let Some(bytes) = bytes {
                let path = self.place(&input.file);
                fs::create_dir_all(path.parent()?).ok()?;
                files::write(&path, bytes).ok()?;
                return Some(path);
            }
        }
        None
    }
}
