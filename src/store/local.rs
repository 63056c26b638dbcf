//! The store in a local folder: objects by digest, and putting them in place.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::journal::{Index, Journal, JournalError, Note, StepRef};
use super::object::{Artifact, BadListing, Entry, Key, Listing, Shape};
use super::stat::{ContentError, StatCache};
use crate::files::{self, FileError, PathContext};
use crate::hash::Digest;

/// Files from this size on may be hard-linked into place; smaller ones are
/// cheaper to copy.
const LINK_FROM: u64 = 1 << 20;

/// Above this many new objects one `syncfs` is cheaper than a sync for each.
const SYNC_EACH_UP_TO: usize = 8;

/// The store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A path could not be hashed.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// An object is not in the store, or its bytes are not what its name says.
    #[error("object {0:?} is {1}")]
    Object(Digest, &'static str),
    /// A folder's listing is damaged.
    #[error(transparent)]
    Listing(#[from] BadListing),
    /// The system failed to make objects durable, and would not fail again
    /// although they may be lost.
    #[error("objects could not be made durable before; nothing that needs them is kept")]
    NotDurable,
    /// The store was opened to look at.
    #[error("the store was opened to look at, not to write")]
    ReadOnly,
}

/// Keeps results by digest and knows which key gave which.
///
/// A small face, so that a test can put a store behind it that fails at the
/// n-th operation, and so that a shared store can come later.
pub trait Store: Send + Sync {
    /// Takes the file or folder at `path` into the store; `path` is gone
    /// afterwards. Returns what it was.
    fn take(&self, path: &Path) -> Result<Artifact, StoreError>;
    /// Stores bytes as an object.
    fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError>;
    /// The bytes of an object, checked against its digest.
    fn get(&self, digest: &Digest) -> Result<Vec<u8>, StoreError>;
    /// Puts an artifact at `path`, replacing what is there.
    fn place(&self, artifact: &Artifact, path: &Path) -> Result<(), StoreError>;
    /// Whether every object of the artifact is there and undamaged.
    fn holds(&self, artifact: &Artifact) -> bool;
    /// Adds to the history; durable after [`Store::commit`].
    fn note(&self, note: Note) -> Result<(), StoreError>;
    /// Makes new objects durable, then the history that speaks of them.
    fn commit(&self) -> Result<(), StoreError>;
}

/// The store under `cache/`.
pub struct LocalStore {
    objects: PathBuf,
    stats: StatCache,
    log: Mutex<Log>,
    /// Objects written since the last commit.
    fresh: Mutex<Vec<PathBuf>>,
    /// One commit at a time; whether objects could not be made durable once.
    committing: Mutex<bool>,
    /// Set once the file system has said that it cannot share blocks.
    no_reflink: AtomicBool,
    /// Whether large files may be hard-linked into place.
    hard_links: AtomicBool,
    temporary: AtomicU64,
}

struct Log {
    /// None for a store that is only looked at.
    journal: Option<Journal>,
    index: Index,
    waiting: Vec<Note>,
}

impl LocalStore {
    /// Opens the store in `folder` for writing, creating it if there is none;
    /// only under the build lock. Also says how many bytes of a damaged journal
    /// had to be cut off.
    pub fn open(folder: &Path) -> Result<(Self, u64), StoreError> {
        let opened = Journal::open(&folder.join("journal"))?;
        let store = Self::with(folder, Some(opened.journal), opened.index);
        Ok((store, opened.cut))
    }

    /// Opens the store in `folder` to look at: nothing is written, not even
    /// when there is no store.
    pub fn look(folder: &Path) -> Result<Self, StoreError> {
        let index = Journal::read(&folder.join("journal"))?;
        Ok(Self::with(folder, None, index))
    }

    fn with(folder: &Path, journal: Option<Journal>, index: Index) -> Self {
        LocalStore {
            objects: folder.join("objects"),
            stats: StatCache::open(&folder.join("stat")),
            log: Mutex::new(Log {
                journal,
                index,
                waiting: Vec::new(),
            }),
            fresh: Mutex::default(),
            committing: Mutex::default(),
            no_reflink: AtomicBool::new(false),
            hard_links: AtomicBool::new(false),
            temporary: AtomicU64::new(0),
        }
    }

    /// The digests of files by stat tuple, for inputs as well as outputs.
    pub fn stats(&self) -> &StatCache {
        &self.stats
    }

    /// Says whether large files that are put in place may be hard links of their
    /// objects where the file system cannot share blocks. They take no room then,
    /// and whoever writes into one writes into the store, which notices that and
    /// has lost the object.
    pub fn use_hard_links(&self, may: bool) {
        self.hard_links.store(may, Ordering::Relaxed);
    }

    /// Looks something up in the history, uncommitted notes included.
    pub fn with_index<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.lock().index)
    }

    /// What is stored under a key.
    pub fn entry(&self, key: &Key) -> Option<Entry> {
        self.with_index(|index| index.entry(key))
    }

    /// Forgets results, and where steps stand, and compacts the journal;
    /// durable afterwards. Their objects stay.
    pub fn forget(&self, keys: &[Key], steps: &[StepRef]) -> Result<(), StoreError> {
        self.commit()?;
        let log = &mut *self.lock();
        let journal = log.journal.as_mut().ok_or(StoreError::ReadOnly)?;
        log.index.forget(keys, steps);
        Ok(journal.rewrite(&mut log.index)?)
    }

    /// The folder of the objects.
    pub(super) fn objects_folder(&self) -> &Path {
        &self.objects
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Where an object lies.
    pub fn object_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        self.objects.join(&hex[..2]).join(&hex[2..])
    }

    fn fresh_object(&self, path: PathBuf) {
        let mut fresh = self.fresh.lock().unwrap_or_else(|e| e.into_inner());
        fresh.push(path);
    }

    fn take_file(&self, path: &Path, artifact: &Artifact) -> Result<(), StoreError> {
        let object = self.object_path(&artifact.digest);
        if self.intact(&artifact.digest) {
            // It may come from a run that was killed before it was durable.
            self.fresh_object(object);
            return Ok(files::remove(path)?);
        }
        let parent = object.parent().unwrap_or(&self.objects);
        fs::set_permissions(path, Permissions::from_mode(0o444)).on("protect", path)?;
        match fs::rename(path, &object) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                files::create_dir(parent)?;
                fs::rename(path, &object).on("store", path)?;
            }
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
                files::create_dir(parent)?;
                self.copy(path, &object, 0o444)?;
                files::remove(path)?;
            }
            other => other.on("store", path)?,
        }
        self.stats.vouch(&object, artifact.digest)?;
        self.fresh_object(object);
        Ok(())
    }

    fn take_folder(&self, path: &Path, listing: &Listing) -> Result<(), StoreError> {
        for entry in &listing.entries {
            let child = path.join(std::ffi::OsStr::from_bytes(&entry.name));
            match entry.artifact.shape {
                Shape::Folder => {
                    let inner = self.stats.listing(&child)?;
                    self.take_folder(&child, &inner)?;
                }
                Shape::File | Shape::Executable => self.take_file(&child, &entry.artifact)?,
            }
        }
        self.put(&listing.to_bytes())?;
        self.stats.forget(path);
        Ok(files::remove(path)?)
    }

    /// Whether an object is there with the right bytes. Trusts the stat cache:
    /// reads the object only if it was touched since it was stored.
    fn intact(&self, digest: &Digest) -> bool {
        let found = self.stats.content_or_read(&self.object_path(digest));
        found.is_ok_and(|artifact| artifact.digest == *digest)
    }

    /// Writes an object that is not there yet.
    fn write_object(&self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let object = self.object_path(&digest);
        if self.intact(&digest) {
            return Ok(());
        }
        let parent = object.parent().unwrap_or(&self.objects);
        let n = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = parent.join(format!(".new-{}-{n}", std::process::id()));
        let mut file = match files::create(&temporary) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                files::create_dir(parent)?;
                files::create(&temporary)?
            }
            other => other?,
        };
        file.write_all(bytes).on("write", &temporary)?;
        let mode = Permissions::from_mode(0o444);
        file.set_permissions(mode).on("protect", &temporary)?;
        drop(file);
        fs::rename(&temporary, &object).on("store", &object)?;
        Ok(self.stats.vouch(&object, digest)?)
    }

    /// Keeps the listing of a folder of the user's, so that a later `why` can
    /// say which files changed. Not made durable, for nothing depends on it.
    pub fn keep_listing(&self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        self.write_object(digest, bytes)
    }

    /// The listing of a folder, if it was kept.
    pub fn kept_listing(&self, digest: &Digest) -> Option<Listing> {
        let bytes = self.get(digest).ok()?;
        Listing::from_bytes(&bytes, *digest).ok()
    }

    fn place_file(&self, artifact: &Artifact, path: &Path) -> Result<(), StoreError> {
        if !self.intact(&artifact.digest) {
            return Err(StoreError::Object(artifact.digest, "missing or damaged"));
        }
        let object = self.object_path(&artifact.digest);
        let executable = artifact.shape == Shape::Executable;
        let mode = if executable { 0o555 } else { 0o444 };
        if self.reflink(&object, path, mode)? {
            return Ok(());
        }
        // A hard link shares the mode, so an executable is always copied.
        let may_link = !executable && self.hard_links.load(Ordering::Relaxed);
        if may_link && artifact.size >= LINK_FROM && hard_link(&object, path)? {
            return Ok(());
        }
        Ok(self.copy(&object, path, mode)?)
    }

    /// Shares the object's blocks with a new file; false where the file system
    /// cannot.
    fn reflink(&self, from: &Path, to: &Path, mode: u32) -> Result<bool, FileError> {
        if self.no_reflink.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let source = files::open(from)?;
        let target = files::create(to)?;
        if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
            self.no_reflink.store(true, Ordering::Relaxed);
            files::remove(to)?;
            return Ok(false);
        }
        let mode = Permissions::from_mode(mode);
        target.set_permissions(mode).on("protect", to)?;
        Ok(true)
    }

    pub(super) fn copy(&self, from: &Path, to: &Path, mode: u32) -> Result<(), FileError> {
        let mut source = files::open(from)?;
        let mut target = files::create(to)?;
        io::copy(&mut source, &mut target).on("write", to)?;
        let mode = Permissions::from_mode(mode);
        target.set_permissions(mode).on("protect", to)
    }

    fn place_folder(&self, digest: &Digest, path: &Path) -> Result<(), StoreError> {
        let listing = Listing::from_bytes(&self.get(digest)?, *digest)?;
        files::create_dir(path)?;
        for entry in &listing.entries {
            let child = path.join(std::ffi::OsStr::from_bytes(&entry.name));
            self.place_new(&entry.artifact, &child)?;
        }
        Ok(())
    }

    /// Puts an artifact where nothing is.
    fn place_new(&self, artifact: &Artifact, path: &Path) -> Result<(), StoreError> {
        match artifact.shape {
            Shape::Folder => self.place_folder(&artifact.digest, path),
            Shape::File | Shape::Executable => self.place_file(artifact, path),
        }
    }

    fn sync_fresh(&self) -> Result<(), FileError> {
        let mut fresh = self.fresh.lock().unwrap_or_else(|e| e.into_inner());
        let paths = std::mem::take(&mut *fresh);
        drop(fresh);
        if paths.len() > SYNC_EACH_UP_TO {
            let folder = files::open(&self.objects)?;
            return rustix::fs::syncfs(&folder)
                .map_err(io::Error::from)
                .on("sync", &self.objects);
        }
        // The objects, their folders, and the folder in which those may be new.
        let paths: BTreeSet<&Path> = paths.iter().flat_map(|p| p.ancestors().take(3)).collect();
        for path in paths {
            files::open(path)?.sync_all().on("sync", path)?;
        }
        Ok(())
    }
}

impl Store for LocalStore {
    fn take(&self, path: &Path) -> Result<Artifact, StoreError> {
        if !fs::symlink_metadata(path).on("read", path)?.is_dir() {
            let artifact = self.stats.content_of_unseen(path)?;
            self.take_file(path, &artifact)?;
            return Ok(artifact);
        }
        refuse_links(path)?;
        let artifact = self.stats.content(path)?;
        self.take_folder(path, &self.stats.listing(path)?)?;
        Ok(artifact)
    }

    fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        self.write_object(digest, bytes)?;
        // One that is there may come from a run that was killed before it was durable.
        self.fresh_object(self.object_path(&digest));
        Ok(digest)
    }

    fn get(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.object_path(digest);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Object(*digest, "missing"));
            }
            other => other.on("read", &path)?,
        };
        if Digest::of(&bytes) != *digest {
            return Err(StoreError::Object(*digest, "damaged"));
        }
        Ok(bytes)
    }

    fn place(&self, artifact: &Artifact, path: &Path) -> Result<(), StoreError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        files::create_dir(folder)?;
        let temporary = folder.join(temporary_name(path));
        files::remove(&temporary)?;
        self.place_new(artifact, &temporary)?;
        // Seen before it is where somebody may edit it.
        let listing = |digest: &Digest| -> Result<Listing, StoreError> {
            Ok(Listing::from_bytes(&self.get(digest)?, *digest)?)
        };
        let row = StatCache::made(&temporary, path, artifact, &listing)?;
        let old = replace(&temporary, path)?;
        self.stats.learn_row(path, row, true);
        match old {
            Some(old) => Ok(files::remove(&old)?),
            None => Ok(()),
        }
    }

    fn holds(&self, artifact: &Artifact) -> bool {
        match artifact.shape {
            Shape::File | Shape::Executable => self.intact(&artifact.digest),
            Shape::Folder => {
                let listing = self
                    .get(&artifact.digest)
                    .ok()
                    .and_then(|bytes| Listing::from_bytes(&bytes, artifact.digest).ok());
                listing.is_some_and(|l| l.entries.iter().all(|e| self.holds(&e.artifact)))
            }
        }
    }

    fn note(&self, note: Note) -> Result<(), StoreError> {
        let log = &mut *self.lock();
        // Later steps of this run can go on at once, but what speaks of outputs
        // must not become durable before they are.
        log.index.apply(note.clone());
        if matches!(note, Note::Finished(..) | Note::Restored(..)) {
            log.waiting.push(note);
            return Ok(());
        }
        match &mut log.journal {
            Some(journal) => Ok(journal.append(&[note])?),
            None => Err(StoreError::ReadOnly),
        }
    }

    fn commit(&self) -> Result<(), StoreError> {
        let mut failed = self.committing.lock().unwrap_or_else(|e| e.into_inner());
        let count = self.lock().waiting.len();
        if count == 0 {
            return Ok(());
        }
        if *failed {
            return Err(StoreError::NotDurable);
        }
        *failed = true;
        self.sync_fresh()?;
        *failed = false;
        // Notes that came meanwhile wait for their objects; all wait on if this
        // fails, for the next commit.
        let log = &mut *self.lock();
        let journal = log.journal.as_mut().ok_or(StoreError::ReadOnly)?;
        journal.append(&log.waiting[..count])?;
        journal.sync()?;
        log.waiting.drain(..count);
        Ok(())
    }
}

/// The name under which the new content of a path is made. The same each time,
/// so that what a killed build left there goes with the next one.
fn temporary_name(path: &Path) -> std::ffi::OsString {
    const PREFIX: &str = ".retune-new-";
    const LONGEST: usize = 255;
    let name = path.file_name().unwrap_or_default();
    let mut temporary = std::ffi::OsString::from(PREFIX);
    match PREFIX.len() + name.len() <= LONGEST {
        true => temporary.push(name),
        false => temporary.push(Digest::of(name.as_bytes()).to_string()),
    }
    temporary
}

/// Links a file of the store to a place; false where that cannot be done. Its
/// object is hashed again when it is next asked for: nothing else vouches for
/// what is within everybody's reach.
fn hard_link(object: &Path, path: &Path) -> Result<bool, FileError> {
    // Somebody may have changed the mode at another place of the same file.
    fs::set_permissions(object, Permissions::from_mode(0o444)).on("protect", object)?;
    Ok(fs::hard_link(object, path).is_ok())
}

/// Symbolic links in an output would make it depend on what they point to.
fn refuse_links(path: &Path) -> Result<(), StoreError> {
    let meta = fs::symlink_metadata(path).on("read", path)?;
    if meta.is_symlink() {
        return Err(ContentError::Special(path.to_owned()).into());
    }
    if meta.is_dir() {
        for entry in fs::read_dir(path).on("list", path)? {
            refuse_links(&entry.on("list", path)?.path())?;
        }
    }
    Ok(())
}

/// Puts `new` at `path`; a folder that is there is exchanged in one step. Gives
/// the place of what was there, which is to be removed.
fn replace(new: &Path, path: &Path) -> Result<Option<PathBuf>, FileError> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let there = fs::symlink_metadata(path).ok();
    if let Some(meta) = there
        && (meta.is_dir() || fs::symlink_metadata(new).is_ok_and(|m| m.is_dir()))
    {
        if renameat_with(CWD, new, CWD, path, RenameFlags::EXCHANGE).is_ok() {
            return Ok(Some(new.to_owned()));
        }
        files::remove(path)?;
    }
    fs::rename(new, path).on("replace", path)?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> (tempfile::TempDir, LocalStore) {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = LocalStore::open(&folder.path().join("cache")).unwrap();
        (folder, store)
    }

    #[test]
    fn a_folder_taken_in_comes_out_the_same() {
        let (folder, store) = space();
        let made = folder.path().join("made");
        fs::create_dir_all(made.join("sub/empty")).unwrap();
        fs::write(made.join("a"), "small").unwrap();
        fs::write(made.join("sub/big"), vec![7; 3 << 20]).unwrap();
        fs::write(made.join("run.sh"), "#!/bin/sh").unwrap();
        fs::set_permissions(made.join("run.sh"), Permissions::from_mode(0o755)).unwrap();
        let artifact = store.take(&made).unwrap();
        assert!(!made.exists());
        let placed = folder.path().join("placed");
        for _ in 0..2 {
            store.place(&artifact, &placed).unwrap();
            assert_eq!(StatCache::empty().content(&placed).unwrap(), artifact);
        }
        assert!(placed.join("sub/empty").is_dir());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_replaces_a_folder_and_the_other_way_round() {
        let (folder, store) = space();
        let make = |name: &str, dir: bool| {
            let path = folder.path().join("made");
            if dir {
                fs::create_dir(&path).unwrap();
                fs::write(path.join(name), name).unwrap();
            } else {
                fs::write(&path, name).unwrap();
            }
            store.take(&path).unwrap()
        };
        let (file, dir) = (make("f", false), make("d", true));
        let at = folder.path().join("at");
        for artifact in [file, dir, file, file, dir, dir] {
            store.place(&artifact, &at).unwrap();
            assert_eq!(StatCache::empty().content(&at).unwrap(), artifact);
        }
    }

    #[test]
    fn a_damaged_object_is_not_handed_out() {
        let (folder, store) = space();
        let made = folder.path().join("made");
        fs::write(&made, "content").unwrap();
        let artifact = store.take(&made).unwrap();
        let object = store.object_path(&artifact.digest);
        fs::set_permissions(&object, Permissions::from_mode(0o644)).unwrap();
        fs::write(&object, "CONTENT").unwrap();
        assert!(!store.holds(&artifact));
        assert!(store.place(&artifact, &made).is_err());
        fs::write(&made, "content").unwrap();
        store.take(&made).unwrap();
        assert!(store.holds(&artifact), "taking it in again mends the store");
    }

    #[test]
    fn an_edit_through_a_hard_link_is_noticed() {
        let (folder, store) = space();
        let path = folder.path().join("big");
        fs::write(&path, vec![1; 2 << 20]).unwrap();
        let artifact = store.take(&path).unwrap();
        store.place(&artifact, &path).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, vec![2; 2 << 20]).unwrap();
        assert!(store.place(&artifact, &path).is_err() || store.holds(&artifact));
    }

    #[test]
    fn links_in_outputs_are_refused() {
        let (folder, store) = space();
        let made = folder.path().join("made");
        fs::create_dir(&made).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", made.join("link")).unwrap();
        assert!(store.take(&made).is_err());
    }

    /// A step, a key and what the store may be told of it.
    fn result(store: &LocalStore) -> (StepRef, Key, Entry) {
        let step = StepRef {
            pipeline: "p".into(),
            step: "s".into(),
        };
        let entry = Entry {
            outputs: Vec::new(),
            record: store.put(b"{}").unwrap(),
            millis: 1,
        };
        (step, Key(Digest::of(b"key")), entry)
    }

    #[test]
    fn history_is_known_at_once_and_kept_after_commit() {
        let (folder, store) = space();
        let (step, key, entry) = result(&store);
        store.note(Note::Started(step.clone(), key)).unwrap();
        store
            .note(Note::Finished(step, key, entry.clone()))
            .unwrap();
        assert_eq!(store.entry(&key), Some(entry.clone()));
        let (other, _) = LocalStore::open(&folder.path().join("cache")).unwrap();
        assert_eq!(other.entry(&key), None, "not durable before the commit");
        store.commit().unwrap();
        let (other, cut) = LocalStore::open(&folder.path().join("cache")).unwrap();
        assert_eq!((other.entry(&key), cut), (Some(entry), 0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn history_that_could_not_be_written_is_written_by_the_next_commit() {
        let (folder, store) = space();
        let (step, key, entry) = result(&store);
        store
            .note(Note::Finished(step, key, entry.clone()))
            .unwrap();
        let divert = |file| store.lock().journal.as_mut().unwrap().divert(file);
        let journal = folder.path().join("cache/journal");
        let length = fs::metadata(&journal).unwrap().len();
        let good = divert(super::super::journal::tests::full(length));
        assert!(store.commit().is_err());
        divert(good);
        store.commit().unwrap();
        let (other, cut) = LocalStore::open(&folder.path().join("cache")).unwrap();
        assert_eq!((other.entry(&key), cut), (Some(entry), 0));
    }

    #[test]
    fn what_speaks_of_objects_that_may_be_lost_is_never_committed() {
        let (folder, store) = space();
        let step = StepRef {
            pipeline: "p".into(),
            step: "s".into(),
        };
        let record = store.put(b"{}").unwrap();
        let entry = Entry {
            outputs: Vec::new(),
            record,
            millis: 1,
        };
        let key = Key(Digest::of(b"key"));
        store.note(Note::Finished(step, key, entry)).unwrap();
        let object = store.object_path(&record);
        fs::rename(&object, folder.path().join("away")).unwrap();
        assert!(store.commit().is_err());
        fs::rename(folder.path().join("away"), &object).unwrap();
        assert!(matches!(store.commit(), Err(StoreError::NotDurable)));
        let (other, _) = LocalStore::open(&folder.path().join("cache")).unwrap();
        assert_eq!(other.entry(&key), None);
    }
}
