//! The recorded inputs of a step under other paths than the build had, with other times and in another order.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::noise::Noise;
use crate::files::{self, FileError, PathContext};
use crate::store::{Artifact, Listing, Shape, Store, StoreError};

/// Files up to this size are copied where blocks cannot be shared, so that
/// they can have times of their own and nobody else's file can be written to.
const COPY_UP_TO: u64 = 64 << 20;

/// Puts an artifact of the store at `path`.
pub(super) fn artifact(
    store: &dyn Store,
    artifact: &Artifact,
    path: &Path,
    noise: &Noise,
) -> Result<(), StoreError> {
    if artifact.shape != Shape::Folder {
        store.place(artifact, path)?;
        return Ok(own(path, noise)?);
    }
    files::create_dir(path)?;
    let listing = Listing::from_bytes(&store.get(&artifact.digest)?, artifact.digest)?;
    for entry in listing.entries.iter().rev() {
        let child = path.join(std::ffi::OsStr::from_bytes(&entry.name));
        self::artifact(store, &entry.artifact, &child, noise)?;
    }
    Ok(())
}

/// Makes a file one that nobody else has, if it is not too large, and gives it
/// another time.
fn own(path: &Path, noise: &Noise) -> Result<(), FileError> {
    let meta = fs::metadata(path).on("read", path)?;
    if meta.nlink() > 1 {
        if meta.len() > COPY_UP_TO {
            return Ok(());
        }
        let copy = path.with_extension("copy");
        fs::copy(path, &copy).on("copy", path)?;
        files::rename(&copy, path)?;
    }
    noise.touch(path)
}

/// The source at `source` below the new folder `place`: no symbolic links,
/// which a step could tell from files.
pub(super) fn source(place: &Path, source: &Path, noise: &Noise) -> Result<PathBuf, FileError> {
    files::create_dir(place)?;
    let path = place.join(source.file_name().unwrap_or_default());
    mirror(source, &path, noise)?;
    Ok(path)
}

fn mirror(source: &Path, path: &Path, noise: &Noise) -> Result<(), FileError> {
    let real = fs::canonicalize(source).on("find", source)?;
    let meta = fs::metadata(&real).on("read", &real)?;
    if !meta.is_dir() {
        return file(&real, meta.len(), path, noise);
    }
    files::create_dir(path)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(&real).on("list", &real)? {
        names.push(entry.on("list", &real)?.file_name());
    }
    names.sort();
    for name in names.iter().rev() {
        mirror(&real.join(name), &path.join(name), noise)?;
    }
    Ok(())
}

fn file(real: &Path, size: u64, path: &Path, noise: &Noise) -> Result<(), FileError> {
    if size > COPY_UP_TO && fs::hard_link(real, path).is_ok() {
        return Ok(());
    }
    fs::copy(real, path).on("copy", real)?;
    noise.touch(path)
}
