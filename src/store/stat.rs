//! The stat cache: digests of files whose stat tuple has not changed since they were hashed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use super::object::{Artifact, ListEntry, Listing, Shape};
use crate::files::{self, FileError, PathContext, Stat};
use crate::hash::Digest;

/// Why a path has no content digest.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// It was written to between the first and the last byte read.
    #[error("{} changed while it was read", .0.display())]
    Changed(PathBuf),
    /// A socket, a device, a pipe.
    #[error("{} is neither a file nor a folder", .0.display())]
    Special(PathBuf),
    /// Symbolic links that lead back to a folder above them.
    #[error("{} leads back to a folder that holds it", .0.display())]
    Loop(PathBuf),
}

impl ContentError {
    /// Whether the path does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, ContentError::File(e) if e.kind() == io::ErrorKind::NotFound)
    }
}

/// What is told of the listings of folders.
type Listed<'a> = &'a mut dyn FnMut(Digest, &[u8]);

#[derive(Clone, Copy)]
struct Known {
    stat: Stat,
    digest: Digest,
    /// When the hashing began, nanoseconds since the epoch.
    hashed_ns: i64,
}

/// Digests by path. Entries are believed only while [`Stat`] is equal in every
/// field and the file was hashed clearly after its last change; a file whose
/// times lie within the clock's granularity of the hashing could have been
/// changed again without a trace (git calls this "racily clean").
pub struct StatCache {
    file: PathBuf,
    known: Mutex<State>,
}

#[derive(Default)]
struct State {
    map: HashMap<Box<[u8]>, Known>,
    dirty: bool,
}

/// Kernels stamp files with a clock that ticks every 1–10 ms.
const FINE_GRANULARITY_NS: i64 = 20_000_000;
/// Some file systems keep whole seconds, or two.
const COARSE_GRANULARITY_NS: i64 = 2_100_000_000;

impl Known {
    fn is_racy(&self) -> bool {
        let newest = self.stat.mtime_ns.max(self.stat.ctime_ns);
        let coarse = newest % 1_000_000 == 0;
        let granularity = if coarse {
            COARSE_GRANULARITY_NS
        } else {
            FINE_GRANULARITY_NS
        };
        self.hashed_ns < newest.saturating_add(granularity)
    }
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_nanos() as i64)
}

impl StatCache {
    /// Loads the cache kept in `file`; one that is absent, of another version
    /// or damaged is empty.
    pub fn open(file: &Path) -> Self {
        let map = fs::read(file).ok().and_then(|bytes| decode(&bytes));
        StatCache {
            file: file.to_owned(),
            known: Mutex::new(State {
                map: map.unwrap_or_default(),
                dirty: false,
            }),
        }
    }

    /// A cache that knows nothing and is kept nowhere: everything is hashed.
    pub fn empty() -> Self {
        Self::open(Path::new("/dev/null"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.known.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Writes the cache back if it learnt anything.
    pub fn save(&self) -> Result<(), FileError> {
        let mut state = self.lock();
        if state.dirty {
            files::write_atomic(&self.file, &encode(&state.map))?;
            state.dirty = false;
        }
        Ok(())
    }

    /// The content of a file or folder, following symbolic links.
    pub fn content(&self, path: &Path) -> Result<Artifact, ContentError> {
        self.content_listed(path, &mut |_, _| {})
    }

    /// Like [`StatCache::content`]; `listed` is given the digest and the bytes
    /// of the listing of every folder, each after those inside of it.
    pub fn content_listed(
        &self,
        path: &Path,
        listed: Listed<'_>,
    ) -> Result<Artifact, ContentError> {
        self.content_within(path, &mut Vec::new(), listed)
    }

    /// `above` holds (device, inode) of the folders on the way down.
    fn content_within(
        &self,
        path: &Path,
        above: &mut Vec<(u64, u64)>,
        listed: Listed<'_>,
    ) -> Result<Artifact, ContentError> {
        let mut stat = Stat::of(path).on("read", path)?;
        if stat.is_symlink() {
            let target = fs::canonicalize(path).on("follow the link", path)?;
            stat = Stat::of(&target).on("read", path)?;
        }
        if stat.is_file() {
            return self.file_content(path, stat);
        }
        if !stat.is_dir() {
            return Err(ContentError::Special(path.to_owned()));
        }
        let id = (stat.dev, stat.ino);
        if above.contains(&id) {
            return Err(ContentError::Loop(path.to_owned()));
        }
        above.push(id);
        let listing = self.listing_within(path, above, listed)?;
        above.pop();
        let bytes = listing.to_bytes();
        let artifact = listing.artifact_of(&bytes);
        listed(artifact.digest, &bytes);
        Ok(artifact)
    }

    /// The listing of a folder.
    pub fn listing(&self, path: &Path) -> Result<Listing, ContentError> {
        self.listing_within(path, &mut Vec::new(), &mut |_, _| {})
    }

    fn listing_within(
        &self,
        path: &Path,
        above: &mut Vec<(u64, u64)>,
        listed: Listed<'_>,
    ) -> Result<Listing, ContentError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path).on("list", path)? {
            names.push(entry.on("list", path)?.file_name());
        }
        names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        let entries = names.into_iter().map(|name| {
            Ok(ListEntry {
                artifact: self.content_within(&path.join(&name), above, listed)?,
                name: name.as_bytes().to_vec(),
            })
        });
        Ok(Listing {
            entries: entries.collect::<Result<_, ContentError>>()?,
        })
    }

    fn file_content(&self, path: &Path, stat: Stat) -> Result<Artifact, ContentError> {
        let (digest, stat) = match self.recall(path, &stat) {
            Some(digest) => (digest, stat),
            None => self.hash(path)?,
        };
        Ok(Artifact {
            digest,
            shape: shape_of(&stat),
            size: stat.size,
        })
    }

    /// The digest of a file if its stat tuple still vouches for it.
    fn recall(&self, path: &Path, stat: &Stat) -> Option<Digest> {
        let state = self.lock();
        let known = state.map.get(path.as_os_str().as_bytes())?;
        (known.stat == *stat && !known.is_racy()).then_some(known.digest)
    }

    /// The digest, and the stat tuple of what was read.
    fn hash(&self, path: &Path) -> Result<(Digest, Stat), ContentError> {
        let hashed_ns = now_ns();
        let mut file = File::open(path).on("open", path)?;
        let before = Stat::of_file(&file).on("read", path)?;
        let (digest, size) = Digest::of_reader(&mut file).on("read", path)?;
        let after = Stat::of_file(&file).on("read", path)?;
        if before != after || size != after.size {
            return Err(ContentError::Changed(path.to_owned()));
        }
        self.learn_at(path, after, digest, hashed_ns);
        Ok((digest, after))
    }

    /// Notes the digest of an object of the store, which nobody else writes to,
    /// so that it need not be read back.
    pub(super) fn vouch(&self, path: &Path, digest: Digest) -> Result<(), FileError> {
        let stat = Stat::of(path).on("read", path)?;
        self.learn_at(path, stat, digest, i64::MAX);
        Ok(())
    }

    /// Forgets a path that is gone.
    pub(super) fn forget(&self, path: &Path) {
        self.lock().map.remove(path.as_os_str().as_bytes());
    }

    /// Notes the digest of a file that this process has just put in place.
    pub fn learn(&self, path: &Path, digest: Digest) -> Result<(), FileError> {
        let stat = Stat::of(path).on("read", path)?;
        self.learn_at(path, stat, digest, now_ns());
        Ok(())
    }

    fn learn_at(&self, path: &Path, stat: Stat, digest: Digest, hashed_ns: i64) {
        let known = Known {
            stat,
            digest,
            hashed_ns,
        };
        let mut state = self.lock();
        state.map.insert(path.as_os_str().as_bytes().into(), known);
        state.dirty = true;
    }
}

fn shape_of(stat: &Stat) -> Shape {
    if stat.is_executable() {
        Shape::Executable
    } else {
        Shape::File
    }
}

/// Version 1: magic, records of (path length u32, path, stat, digest,
/// hashed_ns), then the first eight bytes of the blake3 of all that.
const MAGIC: &[u8] = b"retune stat 1\n";

/// Bytes of a record behind its path: dev, ino, size, mtime, ctime, mode, digest, hashed_ns.
const RECORD: usize = 8 * 5 + 4 + 32 + 8;

fn encode(map: &HashMap<Box<[u8]>, Known>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + map.len() * (RECORD + 64));
    bytes.extend_from_slice(MAGIC);
    for (path, known) in map {
        let stat = &known.stat;
        bytes.extend_from_slice(&(path.len() as u32).to_le_bytes());
        bytes.extend_from_slice(path);
        for n in [stat.dev, stat.ino, stat.size] {
            bytes.extend_from_slice(&n.to_le_bytes());
        }
        bytes.extend_from_slice(&stat.mtime_ns.to_le_bytes());
        bytes.extend_from_slice(&stat.ctime_ns.to_le_bytes());
        bytes.extend_from_slice(&stat.mode.to_le_bytes());
        bytes.extend_from_slice(known.digest.as_bytes());
        bytes.extend_from_slice(&known.hashed_ns.to_le_bytes());
    }
    let check = Digest::of(&bytes).prefix();
    bytes.extend_from_slice(&check.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<HashMap<Box<[u8]>, Known>> {
    let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
    if Digest::of(body).prefix().to_le_bytes() != check {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let mut map = HashMap::with_capacity(rest.len() / (RECORD + 64));
    while !rest.is_empty() {
        let (length, tail) = rest.split_at_checked(4)?;
        let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
        let (path, tail) = tail.split_at_checked(length)?;
        let (record, tail) = tail.split_at_checked(RECORD)?;
        map.insert(path.into(), decode_record(record)?);
        rest = tail;
    }
    Some(map)
}

fn decode_record(record: &[u8]) -> Option<Known> {
    let u64_at = |at: usize| Some(u64::from_le_bytes(record[at..at + 8].try_into().ok()?));
    let i64_at = |at: usize| Some(i64::from_le_bytes(record[at..at + 8].try_into().ok()?));
    Some(Known {
        stat: Stat {
            dev: u64_at(0)?,
            ino: u64_at(8)?,
            size: u64_at(16)?,
            mtime_ns: i64_at(24)?,
            ctime_ns: i64_at(32)?,
            mode: u32::from_le_bytes(record[40..44].try_into().ok()?),
        },
        digest: Digest::from_bytes(record[44..76].try_into().ok()?),
        hashed_ns: i64_at(76)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    fn space() -> (tempfile::TempDir, StatCache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = StatCache::open(&folder.path().join("stat"));
        (folder, cache)
    }

    #[test]
    fn a_same_size_edit_with_restored_mtime_is_seen() {
        let (folder, cache) = space();
        let path = folder.path().join("f");
        fs::write(&path, "aaaa").unwrap();
        let mtime = fs::metadata(&path).unwrap().modified().unwrap();
        std::thread::sleep(Duration::from_millis(30));
        let old = cache.content(&path).unwrap();
        fs::write(&path, "bbbb").unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(mtime)
            .unwrap();
        assert_ne!(cache.content(&path).unwrap(), old);
    }

    #[test]
    fn an_edit_right_after_hashing_is_seen_even_when_the_stat_is_the_same() {
        let (folder, cache) = space();
        let path = folder.path().join("f");
        fs::write(&path, "aaaa").unwrap();
        let stat = Stat::of(&path).unwrap();
        // A digest taken within the clock's tick of the write is not believed.
        cache.learn_at(&path, stat, Digest::of(b"something else"), stat.mtime_ns);
        assert_eq!(cache.content(&path).unwrap().digest, Digest::of(b"aaaa"));
    }

    #[test]
    fn an_unchanged_file_is_not_read_again() {
        let (folder, cache) = space();
        let path = folder.path().join("f");
        fs::write(&path, "aaaa").unwrap();
        let stat = Stat::of(&path).unwrap();
        let planted = Digest::of(b"planted");
        cache.learn_at(&path, stat, planted, stat.ctime_ns + COARSE_GRANULARITY_NS);
        assert_eq!(cache.content(&path).unwrap().digest, planted);
        cache.save().unwrap();
        let again = StatCache::open(&folder.path().join("stat"));
        assert_eq!(again.content(&path).unwrap().digest, planted);
    }

    #[test]
    fn a_damaged_cache_is_empty_not_wrong() {
        let (folder, cache) = space();
        let path = folder.path().join("f");
        fs::write(&path, "aaaa").unwrap();
        cache.content(&path).unwrap();
        cache.save().unwrap();
        let file = folder.path().join("stat");
        let good = fs::read(&file).unwrap();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            assert!(decode(&bad).is_none(), "flipped byte {i}");
            assert!(decode(&good[..i]).is_none(), "cut at {i}");
        }
    }

    #[test]
    fn a_folder_is_its_names_contents_and_exec_bits() {
        let (folder, cache) = space();
        let dir = folder.path().join("d");
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/a"), "1").unwrap();
        let first = cache.content(&dir).unwrap();
        fs::rename(dir.join("sub/a"), dir.join("sub/b")).unwrap();
        let renamed = cache.content(&dir).unwrap();
        assert_ne!(first, renamed);
        let mut mode = fs::metadata(dir.join("sub/b")).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
        fs::set_permissions(dir.join("sub/b"), mode).unwrap();
        assert_ne!(cache.content(&dir).unwrap(), renamed);
    }

    #[test]
    fn links_are_followed_and_loops_refused() {
        let (folder, cache) = space();
        let dir = folder.path().join("d");
        fs::create_dir(&dir).unwrap();
        fs::write(folder.path().join("real"), "1").unwrap();
        symlink(folder.path().join("real"), dir.join("link")).unwrap();
        let listing = cache.listing(&dir).unwrap();
        assert_eq!(listing.entries[0].artifact.digest, Digest::of(b"1"));
        symlink(&dir, dir.join("loop")).unwrap();
        assert!(matches!(cache.content(&dir), Err(ContentError::Loop(_))));
        fs::remove_file(dir.join("loop")).unwrap();
        symlink("nowhere", dir.join("dangling")).unwrap();
        assert!(cache.content(&dir).unwrap_err().is_missing());
    }

    #[test]
    fn a_socket_is_no_content() {
        let (folder, cache) = space();
        let path = folder.path().join("s");
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(
            cache.content(&path),
            Err(ContentError::Special(_))
        ));
    }
}
