//! The stat cache: digests of files whose stat tuple has not changed since they were hashed.
//!
//! Format 2: the line `retune stat 2`, then blocks, of which a later one
//! overrules an earlier one. A block is the length of what follows (`u64`), the
//! first eight bytes of its blake3, how many records there are (`u32`), an
//! index of (first eight bytes of the blake3 of the path, place of the record)
//! sorted by the former, and the records: length of the path (`u32`), path, a
//! [`Row`]; an empty row for a path that is gone. Looking up reads nothing but
//! the index and the record that is asked for, and learning appends a block.
//! (Format 1 was one block of files without an index; it is not read any more.)

use std::collections::{HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::fs::CWD;

use super::object::{Artifact, Listing, Shape};
use super::seen::{Change, Hashed, Known, Row, hash_at, now_ns, take_u32};
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

/// The stat tuples of all that lies at a path. While they stay as they are
/// nobody has written there, not even what was there already.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace(Vec<Stat>);

/// Digests by path. An entry is believed only while [`Known::vouches_for`] the
/// file as it is now.
pub struct StatCache {
    file: PathBuf,
    state: Mutex<State>,
}

/// What is told of the listings of folders.
pub(super) type Listed<'a> = &'a mut dyn FnMut(Digest, &[u8]);

/// What is known of a path; none for one that is gone.
type Record = Option<Arc<Row>>;

#[derive(Default)]
struct State {
    /// What the file says; none while it has not been asked.
    kept: Option<Kept>,
    learnt: HashMap<Box<[u8]>, Record>,
    /// Paths that were looked at a moment ago: the next question about one is
    /// answered from that look.
    fresh: HashSet<Box<[u8]>>,
    dirty: bool,
}

impl State {
    fn kept(&mut self, file: &Path) -> &Kept {
        self.kept.get_or_insert_with(|| Kept::read(file))
    }
}

impl StatCache {
    /// The cache kept in `file`, which is read when it is first asked; one that
    /// is absent, of another version or damaged is empty.
    pub fn open(file: &Path) -> Self {
        StatCache {
            file: file.to_owned(),
            state: Mutex::default(),
        }
    }

    /// A cache that knows nothing and is kept nowhere: everything is hashed.
    pub fn empty() -> Self {
        Self::open(Path::new("/dev/null"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Writes down what was learnt: only that, unless the file has come to be
    /// in many pieces.
    pub fn save(&self) -> Result<(), FileError> {
        let state = &mut *self.lock();
        if !state.dirty {
            return Ok(());
        }
        state.dirty = false;
        let scattered = state.kept.as_ref().is_some_and(Kept::is_scattered);
        if !scattered && append(&self.file, &state.learnt) {
            return Ok(());
        }
        let kept = state.kept.take().unwrap_or_else(|| Kept::read(&self.file));
        let learnt = std::mem::take(&mut state.learnt);
        let mut bytes = MAGIC.to_vec();
        write_block(&mut bytes, &kept.merged_with(learnt));
        files::write_cache(&self.file, &bytes)
    }

    /// The content of a file or folder, following symbolic links.
    pub fn content(&self, path: &Path) -> Result<Artifact, ContentError> {
        if let Some(row) = self.fresh(path) {
            return Ok(row.known(0).artifact());
        }
        let stat = self.stat(path)?;
        if stat.is_dir() {
            return Ok(self.folder(path)?.known(0).artifact());
        }
        if !stat.is_file() {
            return Err(ContentError::Special(path.to_owned()));
        }
        let known = match self.recall(path) {
            Some(row) if row.known(0).vouches_for(&stat) => *row.known(0),
            _ => self.hash(path, &stat)?,
        };
        Ok(known.artifact())
    }

    /// The content of a file that was written a moment ago, of which nothing
    /// can be known, and of which nobody will ask again.
    pub(super) fn content_of_unseen(&self, path: &Path) -> Result<Artifact, ContentError> {
        let stat = Stat::of(path).on("read", path)?;
        if !stat.is_file() {
            return Err(ContentError::Special(path.to_owned()));
        }
        Ok(read(path, &stat)?.artifact())
    }

    /// Like [`StatCache::content`], but a small file is read where what is kept
    /// would have to be read first, which may be a thousand times as long.
    pub(super) fn content_or_read(&self, path: &Path) -> Result<Artifact, ContentError> {
        let stat = self.stat(path)?;
        match stat.is_file() && stat.size <= CHEAP && self.must_be_read_for(path) {
            true => Ok(self.hash(path, &stat)?.artifact()),
            false => self.content(path),
        }
    }

    fn must_be_read_for(&self, path: &Path) -> bool {
        let state = &*self.lock();
        state.kept.is_none() && !state.learnt.contains_key(path.as_os_str().as_bytes())
    }

    /// Like [`StatCache::content`]; `listed` is given the digest and the bytes
    /// of the listing of every folder, each after those inside of it.
    pub fn content_listed(
        &self,
        path: &Path,
        listed: Listed<'_>,
    ) -> Result<Artifact, ContentError> {
        let row = match self.fresh(path) {
            Some(row) => row,
            None if self.stat(path)?.is_dir() => self.folder(path)?,
            None => return self.content(path),
        };
        row.listings(0, listed);
        Ok(row.known(0).artifact())
    }

    fn stat(&self, path: &Path) -> Result<Stat, FileError> {
        let stat = Stat::of(path).on("read", path)?;
        if !stat.is_symlink() {
            return Ok(stat);
        }
        Stat::at(CWD, path.as_os_str().as_bytes()).on("follow the link", path)
    }

    /// The listing of a folder.
    pub fn listing(&self, path: &Path) -> Result<Listing, ContentError> {
        Ok(self.folder(path)?.listing(0))
    }

    /// All that lies in a folder.
    pub(super) fn folder(&self, path: &Path) -> Result<Arc<Row>, ContentError> {
        let mut change = Change::Shape;
        let mut row = self.recall(path).unwrap_or_default();
        if !row.is_empty() && row.known(0).stat.is_dir() {
            // Not copied unless somebody else looks at the same folder.
            self.lock().learnt.remove(path.as_os_str().as_bytes());
            change = Arc::make_mut(&mut row).look(0, CWD, &mut Vec::new());
        }
        if change == Change::Shape {
            let old = Some(&*row).filter(|row| !row.is_empty());
            row = Arc::new(Row::of_folder(path, old)?);
        }
        self.put(path, row.clone(), change != Change::Nothing);
        Ok(row)
    }

    /// What was last seen at a path.
    pub(crate) fn recall(&self, path: &Path) -> Option<Arc<Row>> {
        let path = path.as_os_str().as_bytes();
        let state = &mut *self.lock();
        match state.learnt.get(path) {
            Some(record) => record.clone(),
            None => state.kept(&self.file).find(path).map(Arc::new),
        }
    }

    /// Whether anything is known of a path.
    pub fn knows(&self, path: &Path) -> bool {
        let path = path.as_os_str().as_bytes();
        let state = &mut *self.lock();
        match state.learnt.get(path) {
            Some(record) => record.is_some(),
            None => state.kept(&self.file).holds(path),
        }
    }

    fn put(&self, path: &Path, row: Arc<Row>, is_new: bool) {
        let state = &mut *self.lock();
        state
            .learnt
            .insert(path.as_os_str().as_bytes().into(), Some(row));
        state.dirty |= is_new;
    }

    /// Reads a file and notes what was found.
    fn hash(&self, path: &Path, stat: &Stat) -> Result<Known, ContentError> {
        let known = read(path, stat)?;
        self.learn_known(path, known);
        Ok(known)
    }

    /// The trace of a path as it was when its content was last asked for.
    ///
    /// Of a path that is `ours`, which nobody replaces but this program, only
    /// what a write to a file changes is told: another link to the file, as the
    /// store makes, is none.
    pub fn trace(&self, path: &Path, ours: bool) -> Trace {
        let row = self.recall(path).unwrap_or_default();
        let mut stats = row.stats();
        match ours {
            true => stats.iter_mut().for_each(|stat| {
                (stat.ctime_ns, stat.mode) = (0, 0);
            }),
            false => {
                // A link that leads elsewhere, and names that come and go.
                stats.extend(Stat::of(path));
                stats.extend(row.folders(path).iter().flat_map(|path| Stat::of(path)));
            }
        }
        Trace(stats)
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
        let path = path.as_os_str().as_bytes();
        let state = &mut *self.lock();
        // Most paths that are forgotten were learnt in this run only.
        match state.kept(&self.file).holds(path) {
            true => drop(state.learnt.insert(path.into(), None)),
            false => drop(state.learnt.remove(path)),
        }
    }

    /// What is to be noted of an artifact that this process has just made at
    /// `made`, where nobody else writes, and is about to put at `path`: with
    /// [`StatCache::learn_row`], once it is there. Whatever is edited from then
    /// on has other times than those seen here, and the moment of hashing is
    /// before it, so that an edit is never taken for what was made. A file whose
    /// inode change time the move itself sets (all common file systems do that)
    /// is hashed once more when it is next looked at.
    pub(super) fn made<E: From<FileError>>(
        made: &Path,
        path: &Path,
        artifact: &Artifact,
        listing: &dyn Fn(&Digest) -> Result<Listing, E>,
    ) -> Result<Row, E> {
        if artifact.shape == Shape::Folder {
            return Row::of_made(made, path, &artifact.digest, listing);
        }
        let known = Known {
            stat: Stat::of(made).on("read", made)?,
            digest: artifact.digest,
            hashed_ns: now_ns(),
        };
        Ok(Row::file(path.as_os_str().as_bytes(), known))
    }

    /// Notes what somebody else saw at a path; `is_new` if it is not known here yet.
    pub(crate) fn learn_row(&self, path: &Path, row: Row, is_new: bool) {
        self.put(path, Arc::new(row), is_new);
    }

    /// Notes that what is known of a path was seen a moment ago.
    pub(crate) fn refresh(&self, path: &Path) {
        let path = path.as_os_str().as_bytes();
        self.lock().fresh.insert(path.into());
    }

    fn fresh(&self, path: &Path) -> Option<Arc<Row>> {
        let path = path.as_os_str().as_bytes();
        let state = &mut *self.lock();
        let fresh = state.fresh.remove(path);
        state.learnt.get(path)?.clone().filter(|_| fresh)
    }

    /// Takes over what another cache of the same file has learnt.
    pub(crate) fn absorb(&self, other: StatCache) {
        let other = other.state.into_inner().unwrap_or_else(|e| e.into_inner());
        let state = &mut *self.lock();
        state.learnt.extend(other.learnt);
        state.fresh.extend(other.fresh);
        state.dirty |= other.dirty;
    }

    fn learn_at(&self, path: &Path, stat: Stat, digest: Digest, hashed_ns: i64) {
        let known = Known {
            stat,
            digest,
            hashed_ns,
        };
        self.learn_known(path, known);
    }

    fn learn_known(&self, path: &Path, known: Known) {
        let row = Row::file(path.as_os_str().as_bytes(), known);
        self.put(path, Arc::new(row), true);
    }
}

/// The digest of a file, and the stat tuple of what was read.
fn read(path: &Path, stat: &Stat) -> Result<Known, ContentError> {
    let name = path.as_os_str().as_bytes();
    match hash_at(CWD, name, stat, &mut Vec::new()).on("read", path)? {
        Hashed::Changed => Err(ContentError::Changed(path.to_owned())),
        Hashed::Known(known) => Ok(known),
    }
}

/// Bytes of a file that is as quick to read as to look up.
const CHEAP: u64 = 16 << 10;

const MAGIC: &[u8] = b"retune stat 2\n";
/// Before a block: its length and its check.
const BLOCK_HEAD: usize = 8 + 8;
/// Of the index: the check of a path and the place of its record.
const PLACE: usize = 8 + 4;
/// More blocks than this are merged into one.
const MOST_BLOCKS: usize = 16;

/// What the file holds, as it lies there.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    /// Where the whole blocks lie in `bytes`.
    blocks: Vec<std::ops::Range<usize>>,
}

impl Kept {
    /// Reads the file as far as it is whole.
    fn read(file: &Path) -> Self {
        let mut kept = Kept {
            bytes: fs::read(file).unwrap_or_default(),
            blocks: Vec::new(),
        };
        if !kept.bytes.starts_with(MAGIC) {
            return Kept::default();
        }
        let mut at = MAGIC.len();
        while let Some(block) = whole_block(&kept.bytes, at) {
            at = block.end;
            kept.blocks.push(block);
        }
        kept
    }

    fn is_scattered(&self) -> bool {
        let first = self.blocks.first().map_or(0, ExactSizeIterator::len);
        self.blocks.len() > MOST_BLOCKS || self.bytes.len() > 2 * first + (1 << 16)
    }

    fn block(&self, block: &std::ops::Range<usize>) -> Block<'_> {
        Block::of(&self.bytes[block.clone()]).unwrap_or_default()
    }

    fn record(&self, path: &[u8]) -> Option<&[u8]> {
        let check = Digest::of(path).prefix();
        let mut blocks = self.blocks.iter().rev().map(|block| self.block(block));
        blocks.find_map(|block| block.find(path, check))
    }

    fn holds(&self, path: &[u8]) -> bool {
        self.record(path).is_some()
    }

    fn find(&self, path: &[u8]) -> Option<Row> {
        let row = Row::parse(self.record(path)?)?.0;
        (!row.is_empty()).then_some(row)
    }

    /// Everything, newest last.
    fn merged_with(&self, learnt: HashMap<Box<[u8]>, Record>) -> HashMap<Box<[u8]>, Record> {
        let mut all = HashMap::new();
        for block in &self.blocks {
            for (path, row) in self.block(block).records() {
                let row = Row::parse(row).map(|(row, _)| row);
                let row = row.filter(|row| !row.is_empty());
                all.insert(path.into(), row.map(Arc::new));
            }
        }
        all.extend(learnt);
        all.retain(|_, record| record.is_some());
        all
    }
}

/// The block that starts at `at`, if it is whole.
fn whole_block(bytes: &[u8], at: usize) -> Option<std::ops::Range<usize>> {
    let (head, rest) = bytes.get(at..)?.split_at_checked(BLOCK_HEAD)?;
    let length = usize::try_from(u64::from_le_bytes(head[..8].try_into().ok()?)).ok()?;
    let payload = rest.get(..length)?;
    let start = at + BLOCK_HEAD;
    (Digest::of(payload).prefix().to_le_bytes() == head[8..]).then_some(start..start + length)
}

#[derive(Default)]
struct Block<'a> {
    index: &'a [u8],
    records: &'a [u8],
}

impl<'a> Block<'a> {
    fn of(payload: &'a [u8]) -> Option<Self> {
        let (count, rest) = take_u32(payload)?;
        let (index, records) = rest.split_at_checked((count as usize).checked_mul(PLACE)?)?;
        Some(Block { index, records })
    }

    fn check(&self, i: usize) -> u64 {
        let mut check = [0; 8];
        check.copy_from_slice(&self.index[i * PLACE..][..8]);
        u64::from_le_bytes(check)
    }

    /// The path of a record and what follows it.
    fn record(&self, i: usize) -> Option<(&'a [u8], &'a [u8])> {
        let (place, _) = take_u32(&self.index[i * PLACE + 8..])?;
        let (length, rest) = take_u32(self.records.get(place as usize..)?)?;
        rest.split_at_checked(length as usize)
    }

    fn len(&self) -> usize {
        self.index.len() / PLACE
    }

    fn find(&self, path: &[u8], check: u64) -> Option<&'a [u8]> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            match self.check(middle) < check {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        let same = (low..self.len()).take_while(|&i| self.check(i) == check);
        let mut records = same.filter_map(|i| self.record(i));
        records.find(|(of, _)| *of == path).map(|(_, row)| row)
    }

    fn records(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + '_ {
        (0..self.len()).filter_map(|i| self.record(i))
    }
}

fn write_block(bytes: &mut Vec<u8>, records: &HashMap<Box<[u8]>, Record>) {
    let mut sorted: Vec<_> = records
        .iter()
        .map(|(path, record)| (Digest::of(path).prefix(), path, record))
        .collect();
    sorted.sort_unstable_by_key(|(check, path, _)| (*check, *path));
    let mut index = Vec::with_capacity(sorted.len() * PLACE);
    let start = bytes.len();
    bytes.extend_from_slice(&[0; BLOCK_HEAD]);
    bytes.extend_from_slice(&(sorted.len() as u32).to_le_bytes());
    let index_at = bytes.len();
    bytes.resize(index_at + sorted.len() * PLACE, 0);
    let records_at = bytes.len();
    for (check, path, record) in sorted {
        let place = (bytes.len() - records_at) as u32;
        index.extend_from_slice(&check.to_le_bytes());
        index.extend_from_slice(&place.to_le_bytes());
        bytes.extend_from_slice(&(path.len() as u32).to_le_bytes());
        bytes.extend_from_slice(path);
        match record {
            Some(row) => row.write(bytes),
            None => Row::default().write(bytes),
        }
    }
    bytes[index_at..records_at].copy_from_slice(&index);
    let payload = &bytes[start + BLOCK_HEAD..];
    let (length, check) = (payload.len() as u64, Digest::of(payload).prefix());
    bytes[start..start + 8].copy_from_slice(&length.to_le_bytes());
    bytes[start + 8..start + BLOCK_HEAD].copy_from_slice(&check.to_le_bytes());
}

/// Appends what was learnt to a file that is there; false where that cannot be
/// done. A torn end hides what is appended to it, which costs time only.
fn append(file: &Path, learnt: &HashMap<Box<[u8]>, Record>) -> bool {
    let Ok(mut kept) = OpenOptions::new().read(true).append(true).open(file) else {
        return false;
    };
    let mut magic = [0; MAGIC.len()];
    if io::Read::read_exact(&mut kept, &mut magic).is_err() || magic != *MAGIC {
        return false;
    }
    let mut bytes = Vec::new();
    write_block(&mut bytes, learnt);
    kept.write_all(&bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::seen::COARSE_GRANULARITY_NS;
    use std::fs::File;
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
    fn another_name_for_a_file_while_it_is_hashed_is_no_change_of_it() {
        let (folder, _) = space();
        let path = folder.path().join("f");
        fs::write(&path, vec![7; 8 << 20]).unwrap();
        let (done, ended) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let ended = ended;
                let name = folder.path().join("g");
                while ended.recv_timeout(Duration::from_millis(25)).is_err() {
                    fs::hard_link(&path, &name).unwrap();
                    fs::remove_file(&name).unwrap();
                }
            });
            for _ in 0..60 {
                StatCache::empty().content(&path).unwrap();
            }
            done.send(()).unwrap();
        });
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
            fs::write(&file, &bad).unwrap();
            assert!(
                StatCache::open(&file).recall(&path).is_none(),
                "flipped byte {i}"
            );
            fs::write(&file, &good[..i]).unwrap();
            assert!(StatCache::open(&file).recall(&path).is_none(), "cut at {i}");
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
