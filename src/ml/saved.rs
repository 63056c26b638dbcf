//! Intermediate results: what a run had come to after every so many of its steps.
//!
//! A run that keeps checkpoints keeps these beside them until it is over, so
//! that one that goes on finds what was written before it was interrupted, and
//! takes it only if it is what its checkpoint says it was.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::adapter::AdapterError;
use super::config::{ConfigError, pretty_json};
use super::tensors::{TensorError, Tensors};
use crate::files::{self, FileError, PathContext};
use crate::hash::{Digest, Encoder};

/// The file in each folder that says what it is of: [`Saved`] with a `format`, 1.
pub const ABOUT: &str = "checkpoint.json";

/// Writes the trained tensors as a folder that other programs read.
pub type Write<'a> = dyn Fn(&Path, &Tensors) -> Result<(), SavedError> + Sync + 'a;

/// An intermediate result cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// The adapter cannot be written.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The weights cannot be written.
    #[error(transparent)]
    Weights(#[from] TensorError),
    /// The model's configuration cannot be written.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What an intermediate result is of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Steps done.
    pub step: u64,
    /// Tokens read.
    pub tokens: u64,
    /// Of that step, nats per counted token.
    pub loss: f64,
    /// After that step, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
}

/// One that is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// What it is of.
    pub saved: Saved,
    /// Of its files.
    pub digest: Digest,
}

/// The intermediate results of one run.
pub struct Results<'a> {
    every: u64,
    keep: usize,
    folder: PathBuf,
    /// Whether they have to survive a power failure.
    durable: bool,
    write: &'a Write<'a>,
    there: Vec<Kept>,
    /// Those that are not kept any longer but that a checkpoint on the disk
    /// may know, with the step at which that was decided.
    stale: Vec<(u64, Saved)>,
}

impl<'a> Results<'a> {
    /// Writes one after every `every` steps and keeps the last `keep` (0 for
    /// all) and the one with the least validation loss. They are kept in
    /// `beside`, a folder of the run's checkpoints, until [`Results::finish`];
    /// without one in `out` from the beginning.
    pub fn new(
        every: u64,
        keep: usize,
        beside: Option<&Path>,
        out: &Path,
        write: &'a Write<'a>,
    ) -> Self {
        Results {
            every,
            keep,
            folder: beside.unwrap_or(out).to_owned(),
            durable: beside.is_some(),
            write,
            there: Vec::new(),
            stale: Vec::new(),
        }
    }

    /// Whether one is to be written after this step.
    pub(super) fn due(&self, step: u64) -> bool {
        self.every > 0 && step.is_multiple_of(self.every)
    }

    /// Those that are there, from the first to the last.
    pub(super) fn there(&self) -> &[Kept] {
        &self.there
    }

    /// Takes over what an earlier attempt left and its checkpoint knows of, and
    /// removes everything else; false if something is not what it was.
    pub(super) fn restore(&mut self, known: &[Kept]) -> Result<bool, SavedError> {
        for kept in known {
            let folder = self.place(kept.saved.step);
            if !folder.is_dir() || digest(&folder)? != kept.digest {
                return Ok(false);
            }
        }
        self.there = known.to_vec();
        self.stale.clear();
        let names: BTreeSet<String> = known.iter().map(|kept| name(kept.saved.step)).collect();
        for other in names_in(&self.folder)?.difference(&names) {
            files::remove(&self.folder.join(other))?;
        }
        Ok(true)
    }

    /// Writes the one of this step and removes those that are not kept any longer.
    pub(super) fn save(&mut self, saved: Saved, params: &Tensors) -> Result<(), SavedError> {
        let folder = self.place(saved.step);
        files::remove(&folder)?;
        files::create_dir(&folder)?;
        (self.write)(&folder, params)?;
        files::write(&folder.join(ABOUT), about(&saved))?;
        if self.durable {
            for file in names_in(&folder)? {
                let path = folder.join(file);
                files::open(&path)?.sync_all().on("sync", &path)?;
            }
            files::sync_folder(&folder.join(ABOUT))?;
            files::sync_folder(&folder)?;
        }
        let digest = digest(&folder)?;
        self.there.push(Kept { saved, digest });
        self.prune()
    }

    fn prune(&mut self) -> Result<(), SavedError> {
        let best = self
            .there
            .iter()
            .filter_map(|kept| Some((kept.saved.validation_loss?, kept.saved.step)))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, step)| step);
        let last = match self.keep {
            0 => 0,
            keep => self.there.len().saturating_sub(keep),
        };
        let now = self.there.last().map_or(0, |kept| kept.saved.step);
        for (i, kept) in std::mem::take(&mut self.there).into_iter().enumerate() {
            match i >= last || Some(kept.saved.step) == best {
                true => self.there.push(kept),
                false => self.stale.push((now, kept.saved)),
            }
        }
        match self.durable {
            true => Ok(()),
            false => self.settled(now),
        }
    }

    /// Removes what the checkpoint of this step, which is on the disk, does not know.
    pub(super) fn settled(&mut self, step: u64) -> Result<(), SavedError> {
        for (decided, saved) in std::mem::take(&mut self.stale) {
            match decided <= step {
                true => files::remove(&self.place(saved.step))?,
                false => self.stale.push((decided, saved)),
            }
        }
        Ok(())
    }

    /// Puts all of them into `out`.
    pub fn finish(&self, out: &Path) -> Result<(), SavedError> {
        files::create_dir(out)?;
        if self.folder == out {
            return Ok(());
        }
        for kept in &self.there {
            let (from, to) = (self.place(kept.saved.step), out.join(name(kept.saved.step)));
            files::create_dir(&to)?;
            for file in names_in(&from)? {
                let (from, to) = (from.join(&file), to.join(&file));
                std::fs::copy(&from, &to).on("copy", &from)?;
            }
        }
        Ok(())
    }

    fn place(&self, step: u64) -> PathBuf {
        self.folder.join(name(step))
    }
}

fn name(step: u64) -> String {
    format!("step-{step:06}")
}

fn about(saved: &Saved) -> String {
    #[derive(Serialize)]
    struct About<'a> {
        format: u32,
        #[serde(flatten)]
        saved: &'a Saved,
    }
    pretty_json(&About { format: 1, saved })
}

/// Names in a folder, sorted; none where there is no folder.
fn names_in(folder: &Path) -> Result<BTreeSet<String>, FileError> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.on("read folder", folder)?,
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = entry.on("read folder", folder)?.file_name();
        names.insert(name.to_string_lossy().into_owned());
    }
    Ok(names)
}

/// The digest of a folder's files and their names.
fn digest(folder: &Path) -> Result<Digest, SavedError> {
    let names = names_in(folder)?;
    let mut encoder = Encoder::new("retune.saved.1");
    encoder.list(names.len());
    for name in names {
        let path = folder.join(&name);
        let (digest, size) = Digest::of_file(&path).on("read", &path)?;
        encoder.str(&name).digest(&digest).u64(size);
    }
    Ok(encoder.digest_of())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, params: &Tensors) -> Result<(), SavedError> {
        Ok(params.write(&folder.join("w.safetensors"))?)
    }

    fn save(results: &mut Results<'_>, step: u64, validation_loss: Option<f64>) {
        let mut params = Tensors::default();
        params.push("w".into(), vec![step as usize]);
        let saved = Saved {
            step,
            tokens: 10 * step,
            loss: 1.0,
            validation_loss,
        };
        results.save(saved, &params).unwrap();
    }

    #[test]
    fn the_last_ones_and_the_best_one_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (beside, out) = (folder.path().join("beside"), folder.path().join("out"));
        let mut results = Results::new(10, 2, Some(&beside), &out, &write);
        assert!(results.due(20) && !results.due(25));
        for (step, loss) in [
            (10, Some(2.0)),
            (20, Some(1.5)),
            (30, None),
            (40, Some(1.5)),
            (50, Some(3.0)),
        ] {
            save(&mut results, step, loss);
        }
        let steps = results.there().iter().map(|kept| kept.saved.step);
        assert_eq!(steps.collect::<Vec<_>>(), [20, 40, 50]);
        // Those of before are there as long as a checkpoint may know them.
        assert_eq!(names_in(&beside).unwrap().len(), 5);
        results.settled(30).unwrap();
        assert_eq!(names_in(&beside).unwrap().len(), 4);
        results.settled(50).unwrap();
        assert_eq!(names_in(&beside).unwrap().len(), 3);
        results.finish(&out).unwrap();
        let names: Vec<_> = names_in(&out).unwrap().into_iter().collect();
        assert_eq!(names, ["step-000020", "step-000040", "step-000050"]);
        let about = files::read_text(&out.join("step-000020").join(ABOUT)).unwrap();
        let about: serde_json::Value = serde_json::from_str(&about).unwrap();
        let wanted = serde_json::json!({
            "format": 1, "step": 20, "tokens": 200, "loss": 1.0, "validation_loss": 1.5
        });
        assert_eq!(about, wanted);
    }

    #[test]
    fn what_an_attempt_left_is_taken_over_only_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path();
        let again = || Results::new(1, 0, Some(place), Path::new("out"), &write);
        let mut results = again();
        save(&mut results, 1, None);
        let known = results.there().to_vec();
        save(&mut results, 2, None);
        // The second was written after the checkpoint.
        let mut resumed = again();
        assert!(resumed.restore(&known).unwrap());
        assert_eq!(names_in(place).unwrap().len(), 1);
        files::write(&place.join("step-000001").join(ABOUT), "{}").unwrap();
        assert!(!again().restore(&known).unwrap());
        files::remove(&place.join("step-000001")).unwrap();
        assert!(!again().restore(&known).unwrap());
        assert!(again().restore(&[]).unwrap());
    }
}
