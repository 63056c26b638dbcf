//! The folders in which steps keep what another attempt of the same key goes on from.

use std::path::{Path, PathBuf};

use super::run::Run;
use crate::files;
use crate::graph::StepId;
use crate::step::{Checkpoint, StepError};
use crate::store::Key;

/// Where the checkpoint of a key is kept in the store's folder `cache`.
pub fn checkpoint_folder(cache: &Path, key: Key) -> PathBuf {
    cache.join("checkpoints").join(key.0.to_string())
}

impl Run<'_, '_> {
    /// The place for checkpoints of a step that keeps some. A forced step
    /// begins anew: what it would go on from may be why it was forced.
    pub(super) fn checkpoint(
        &mut self,
        id: StepId,
        key: Key,
    ) -> Result<Option<Checkpoint>, StepError> {
        let Some(every) = self.node(id).settings.checkpoint else {
            return Ok(None);
        };
        let folder = checkpoint_folder(self.with.around.cache, key);
        if self.forced.contains(&id) && self.queue().attempt(id) == 1 {
            files::remove(&folder)?;
        }
        // It may have been kept for a result that was not durable yet.
        self.spent.retain(|spent| *spent != folder);
        self.about_to_go.retain(|spent| *spent != folder);
        files::create_dir(&folder)?;
        Ok(Some(Checkpoint {
            folder,
            binding: key.0,
            every,
        }))
    }

    /// Removes the checkpoints of steps whose results are durable.
    pub(super) fn remove_spent(&mut self) {
        for folder in self.about_to_go.drain(..) {
            // What stays is found by the store's upkeep.
            let _ = files::remove(&folder);
        }
    }
}
