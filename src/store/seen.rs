//! What was seen at paths: files with stat tuples and digests, folders as flat trees of them, so that looking again costs one stat a file.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::prelude::*;
use rustix::fs::{CWD, Dir, Mode, OFlags, openat};

use super::object::{Artifact, Listing, Shape};
use super::stat::ContentError;
use crate::files::{FileError, PathContext, Stat};
use crate::hash::Digest;

/// The digest of a file, and what has to be unchanged for it to be believed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    /// The stat tuple of the file that was hashed.
    pub stat: Stat,
    /// The digest.
    pub digest: Digest,
    /// When the hashing began, nanoseconds since the epoch.
    pub hashed_ns: i64,
}

/// Kernels stamp files with a clock that ticks every 1–10 ms.
const FINE_GRANULARITY_NS: i64 = 20_000_000;
/// Some file systems keep whole seconds, or two.
pub(super) const COARSE_GRANULARITY_NS: i64 = 2_100_000_000;

impl Known {
    /// Whether a file that now has the tuple `stat` still has this digest.
    ///
    /// A file whose times lie within the clock's granularity of the hashing
    /// could have been changed again without a trace (git calls this "racily
    /// clean"). So could, after the clock was set back, one whose times lie
    /// after it.
    pub fn vouches_for(&self, stat: &Stat) -> bool {
        self.stat == *stat && !self.is_racy()
    }

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

    /// The file by content.
    pub fn artifact(&self) -> Artifact {
        let shape = if self.stat.is_dir() {
            Shape::Folder
        } else if self.stat.is_executable() {
            Shape::Executable
        } else {
            Shape::File
        };
        Artifact {
            digest: self.digest,
            shape,
            size: self.stat.size,
        }
    }

    /// A folder: nothing of its own stat tuple counts.
    fn folder(artifact: &Artifact) -> Self {
        let stat = Stat {
            dev: 0,
            ino: 0,
            size: artifact.size,
            mtime_ns: 0,
            ctime_ns: 0,
            mode: 0o040000,
        };
        Known {
            stat,
            digest: artifact.digest,
            hashed_ns: 0,
        }
    }
}

pub(super) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_nanos() as i64)
}

/// How a file was hashed.
pub(super) enum Hashed {
    Known(Known),
    /// It was written to between the first and the last byte read.
    Changed,
}

/// Smaller files are read in one go.
const SMALL: u64 = 512 * 1024;

/// How often a file is read whose inode changed meanwhile, but not its times: as
/// a rule it got or lost a name, which is no change of what is in it.
const LOOKS: usize = 5;

/// Hashes the file `name` in `dir`, whose stat tuple was `before`.
pub(super) fn hash_at(
    dir: impl AsFd,
    name: &[u8],
    before: &Stat,
    buffer: &mut Vec<u8>,
) -> io::Result<Hashed> {
    let hashed_ns = now_ns();
    let file = File::from(openat(
        &dir,
        name,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?);
    let known = |digest, stat| Known {
        stat,
        digest,
        hashed_ns,
    };
    if before.size < SMALL {
        buffer.clear();
        buffer.reserve_exact(before.size as usize + 1);
        let n = (&file).take(before.size + 1).read_to_end(buffer)?;
        // As much as was there before and is there after: the whole file.
        if n as u64 == before.size && Stat::of_file(&file)? == *before {
            return Ok(Hashed::Known(known(Digest::of(buffer), *before)));
        }
    }
    for _ in 0..LOOKS {
        (&file).rewind()?;
        let before = Stat::of_file(&file)?;
        let (digest, size) = match Digest::of_open(&file) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(Hashed::Changed),
            other => other?,
        };
        let after = Stat::of_file(&file)?;
        if before == after && size == after.size {
            return Ok(Hashed::Known(known(digest, after)));
        }
        let ctime_ns = after.ctime_ns;
        if after != (Stat { ctime_ns, ..before }) {
            break;
        }
    }
    Ok(Hashed::Changed)
}

/// What looking again found, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Every stat tuple vouches for its file.
    Nothing,
    /// Files had to be read again, and came out the same.
    Touched,
    /// Files have other content, which is noted.
    Content,
    /// Something is missing, is new, is of another type or cannot be read; the
    /// row is not right any more.
    Shape,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Node {
    name_at: u32,
    name_len: u32,
    /// How many of the nodes that follow lie below this one.
    below: u32,
    known: Known,
}

/// Files and folders in one row: a folder is followed by all that lies below
/// it, the entries sorted by the bytes of their names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    nodes: Vec<Node>,
    names: Vec<u8>,
}

impl Row {
    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The name of a node in its folder.
    pub fn name(&self, at: usize) -> &[u8] {
        let node = &self.nodes[at];
        &self.names[node.name_at as usize..][..node.name_len as usize]
    }

    /// What is known of a node.
    pub fn known(&self, at: usize) -> &Known {
        &self.nodes[at].known
    }

    /// The node behind all that lies below this one.
    pub fn next(&self, at: usize) -> usize {
        at + 1 + self.nodes[at].below as usize
    }

    fn push(&mut self, name: &[u8], known: Known) -> usize {
        let name_at = self.names.len() as u32;
        self.names.extend_from_slice(name);
        self.nodes.push(Node {
            name_at,
            name_len: name.len() as u32,
            below: 0,
            known,
        });
        self.nodes.len() - 1
    }

    /// A row of one file.
    pub fn file(name: &[u8], known: Known) -> Self {
        let mut row = Row::default();
        row.push(name, known);
        row
    }

    /// Appends a node of another row with all that lies below it, under
    /// another name; gives its place.
    pub fn append(&mut self, name: &[u8], other: &Row, at: usize) -> usize {
        let place = self.push(name, *other.known(at));
        for i in at + 1..other.next(at) {
            let child = self.push(other.name(i), *other.known(i));
            self.nodes[child].below = other.nodes[i].below;
        }
        self.nodes[place].below = other.nodes[at].below;
        place
    }

    /// Replaces a node and all below it by the first of another row, where
    /// that has the same names; tells whether it had.
    pub fn replace(&mut self, at: usize, other: &Row) -> bool {
        let below = self.next(at) - at;
        let alike = |i: usize| {
            self.nodes[at + i].below == other.nodes[i].below
                && (i == 0 || self.name(at + i) == other.name(i))
        };
        if other.next(0) != below || !(0..below).all(alike) {
            return false;
        }
        for i in 0..below {
            self.nodes[at + i].known = *other.known(i);
        }
        true
    }

    /// The entries of a folder.
    pub fn children(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        let (mut child, end) = (at + 1, self.next(at));
        std::iter::from_fn(move || {
            let this = child;
            (this < end).then(|| {
                child = self.next(this);
                this
            })
        })
    }

    /// The listing of a folder.
    pub fn listing(&self, at: usize) -> Listing {
        let entry = |child| super::object::ListEntry {
            name: self.name(child).to_vec(),
            artifact: self.known(child).artifact(),
        };
        Listing {
            entries: self.children(at).map(entry).collect(),
        }
    }

    /// Tells of the listings of a folder and of those below it, each after
    /// those inside of it.
    pub(super) fn listings(&self, at: usize, listed: &mut dyn FnMut(Digest, &[u8])) {
        if !self.known(at).stat.is_dir() {
            return;
        }
        for child in self.children(at) {
            self.listings(child, listed);
        }
        let entries = self.children(at);
        let entries = entries.map(|child| (self.name(child), self.known(child).artifact()));
        listed(self.known(at).digest, &Listing::bytes_of(entries));
    }

    /// The stat tuples of the files.
    pub(super) fn stats(&self) -> Vec<Stat> {
        let stats = self.nodes.iter().map(|node| node.known.stat);
        stats.filter(|stat| !stat.is_dir()).collect()
    }

    /// The paths of the folders, all of which lie below `path` or are it.
    pub(super) fn folders(&self, path: &Path) -> Vec<PathBuf> {
        let mut folders: Vec<(usize, PathBuf)> = Vec::new();
        let mut found = Vec::new();
        for at in 0..self.nodes.len() {
            if !self.known(at).stat.is_dir() {
                continue;
            }
            while folders.last().is_some_and(|(end, _)| *end <= at) {
                folders.pop();
            }
            let folder = match folders.last() {
                None => path.to_owned(),
                Some((_, above)) => above.join(std::ffi::OsStr::from_bytes(self.name(at))),
            };
            found.push(folder.clone());
            folders.push((self.next(at), folder));
        }
        found
    }

    /// The folder by the content of its entries.
    fn digest_folder(&mut self, at: usize) {
        let entries = self.children(at);
        let entries = entries.map(|child| (self.name(child), self.known(child).artifact()));
        let digest = Digest::of(&Listing::bytes_of(entries));
        let sizes = self.children(at).map(|child| self.known(child).stat.size);
        let artifact = Artifact {
            digest,
            shape: Shape::Folder,
            size: sizes.sum(),
        };
        self.nodes[at].known = Known::folder(&artifact);
    }

    /// Looks again at a node, whose name leads from `dir` to it, and at all
    /// that lies below it: what has changed is read again and noted.
    pub fn look(&mut self, at: usize, dir: impl AsFd, buffer: &mut Vec<u8>) -> Change {
        self.look_at(at, dir.as_fd(), buffer)
            .unwrap_or(Change::Shape)
    }

    fn look_at(
        &mut self,
        at: usize,
        dir: std::os::fd::BorrowedFd<'_>,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Change> {
        if self.known(at).stat.is_dir() {
            return self.look_into(at, dir, buffer);
        }
        let stat = Stat::at(dir, self.name(at))?;
        let known = *self.known(at);
        if known.vouches_for(&stat) {
            return Ok(Change::Nothing);
        }
        if !stat.is_file() {
            return Ok(Change::Shape);
        }
        let Hashed::Known(now) = hash_at(dir, self.name(at), &stat, buffer)? else {
            return Ok(Change::Shape);
        };
        self.nodes[at].known = now;
        Ok(match now.artifact() == known.artifact() {
            true => Change::Touched,
            false => Change::Content,
        })
    }

    fn look_into(
        &mut self,
        at: usize,
        dir: std::os::fd::BorrowedFd<'_>,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Change> {
        let folder = open_folder(dir, self.name(at))?;
        let (mut worst, mut count, mut child) = (Change::Nothing, 0, at + 1);
        while child < self.next(at) {
            worst = worst.max(self.look_at(child, folder.as_fd(), buffer)?);
            if worst == Change::Shape {
                return Ok(worst);
            }
            child = self.next(child);
            count += 1;
        }
        // All that was there still is: as many entries are the same entries.
        let mut entries = 0;
        for entry in Dir::new(folder)? {
            entries += usize::from(!is_dots(entry?.file_name().to_bytes()));
        }
        if entries != count {
            return Ok(Change::Shape);
        }
        if worst == Change::Content {
            self.digest_folder(at);
        }
        Ok(worst)
    }

    /// The folder at `path`, with what `old` knows of it already.
    pub(super) fn of_folder(path: &Path, old: Option<&Row>) -> Result<Row, ContentError> {
        let mut build = Build {
            row: Row::default(),
            above: Vec::new(),
        };
        let name = path.as_os_str().as_bytes();
        build.folder(CWD.as_fd(), path, name, old.map(|old| (old, 0)))?;
        Ok(build.row)
    }

    /// A folder that was just made at `made` and is to be put at `path`; its
    /// listings `listing` gives.
    pub(super) fn of_made<E: From<FileError>>(
        made: &Path,
        path: &Path,
        digest: &Digest,
        listing: &dyn Fn(&Digest) -> Result<Listing, E>,
    ) -> Result<Row, E> {
        let mut row = Row::default();
        row.made(made, path.as_os_str().as_bytes(), digest, listing)?;
        Ok(row)
    }

    fn made<E: From<FileError>>(
        &mut self,
        path: &Path,
        name: &[u8],
        digest: &Digest,
        listing: &dyn Fn(&Digest) -> Result<Listing, E>,
    ) -> Result<(), E> {
        let listing_here = listing(digest)?;
        let at = self.push(name, Known::folder(&Listing::default().artifact()));
        for entry in &listing_here.entries {
            let child = path.join(std::ffi::OsStr::from_bytes(&entry.name));
            if entry.artifact.shape == Shape::Folder {
                self.made(&child, &entry.name, &entry.artifact.digest, listing)?;
                continue;
            }
            let known = Known {
                stat: Stat::of(&child).on("read", &child)?,
                digest: entry.artifact.digest,
                hashed_ns: now_ns(),
            };
            self.push(&entry.name, known);
        }
        self.nodes[at].below = (self.nodes.len() - at - 1) as u32;
        self.digest_folder(at);
        Ok(())
    }
}

fn is_dots(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

fn open_folder(dir: std::os::fd::BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty())?)
}

/// From this many files on they are hashed by all cores.
const MANY: usize = 64;

/// Walks a folder into a row.
struct Build {
    row: Row,
    /// (device, inode) of the folders on the way down.
    above: Vec<(u64, u64)>,
}

impl Build {
    fn folder(
        &mut self,
        dir: std::os::fd::BorrowedFd<'_>,
        path: &Path,
        name: &[u8],
        old: Option<(&Row, usize)>,
    ) -> Result<(), ContentError> {
        let folder = open_folder(dir, name).on("list", path)?;
        let stat = Stat::at(&folder, b".").on("read", path)?;
        if self.above.contains(&(stat.dev, stat.ino)) {
            return Err(ContentError::Loop(path.to_owned()));
        }
        self.above.push((stat.dev, stat.ino));
        let at = self
            .row
            .push(name, Known::folder(&Listing::default().artifact()));
        let mut to_hash = Vec::new();
        let mut old = Old::new(old);
        for name in names(&folder, path)? {
            let child = || path.join(std::ffi::OsStr::from_bytes(&name));
            let old = old.find(&name);
            let stat = stat_of(&folder, &name, child)?;
            if stat.is_dir() {
                self.folder(folder.as_fd(), &child(), &name, old)?;
                continue;
            }
            if !stat.is_file() {
                return Err(ContentError::Special(child()));
            }
            let known = old.map(|(row, at)| *row.known(at));
            let known = known.filter(|known| known.vouches_for(&stat));
            let unhashed = Known {
                stat,
                digest: Digest::from_bytes([0; 32]),
                hashed_ns: 0,
            };
            let place = self.row.push(&name, known.unwrap_or(unhashed));
            if known.is_none() {
                to_hash.push(place);
            }
        }
        self.hash(&folder, path, &to_hash)?;
        self.row.nodes[at].below = (self.row.nodes.len() - at - 1) as u32;
        self.row.digest_folder(at);
        self.above.pop();
        Ok(())
    }

    fn hash(&mut self, folder: &OwnedFd, path: &Path, nodes: &[usize]) -> Result<(), ContentError> {
        let row = &self.row;
        let hash = |buffer: &mut Vec<u8>, &at: &usize| {
            let child = || path.join(std::ffi::OsStr::from_bytes(row.name(at)));
            match hash_at(folder, row.name(at), &row.known(at).stat, buffer) {
                Ok(Hashed::Known(known)) => Ok(known),
                Ok(Hashed::Changed) => Err(ContentError::Changed(child())),
                Err(e) => Err(Err::<(), _>(e).on("read", &child()).unwrap_err().into()),
            }
        };
        let hashed: Vec<Result<Known, ContentError>> = if nodes.len() < MANY {
            let mut buffer = Vec::new();
            nodes.iter().map(|at| hash(&mut buffer, at)).collect()
        } else {
            let nodes = nodes.par_iter().with_min_len(MANY / 4);
            nodes.map_init(Vec::new, hash).collect()
        };
        for (&at, known) in nodes.iter().zip(hashed) {
            self.row.nodes[at].known = known?;
        }
        Ok(())
    }
}

fn stat_of(folder: &OwnedFd, name: &[u8], path: impl Fn() -> PathBuf) -> Result<Stat, FileError> {
    match Stat::at(folder, name) {
        Ok(stat) => Ok(stat),
        Err(e) => {
            let link = std::fs::symlink_metadata(path()).is_ok_and(|meta| meta.is_symlink());
            let action = if link { "follow the link" } else { "read" };
            Err(e).on(action, &path())
        }
    }
}

fn names(folder: &OwnedFd, path: &Path) -> Result<Vec<Vec<u8>>, FileError> {
    let mut names = Vec::new();
    let entries = Dir::read_from(folder)
        .map_err(io::Error::from)
        .on("list", path)?;
    for entry in entries {
        let entry = entry.map_err(io::Error::from).on("list", path)?;
        let name = entry.file_name().to_bytes();
        if !is_dots(name) {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// What an earlier look knows of the entries of a folder, asked in their order.
struct Old<'a> {
    row: Option<&'a Row>,
    next: usize,
    end: usize,
}

impl<'a> Old<'a> {
    fn new(old: Option<(&'a Row, usize)>) -> Self {
        Old {
            row: old.map(|(row, _)| row),
            next: old.map_or(0, |(_, at)| at + 1),
            end: old.map_or(0, |(row, at)| row.next(at)),
        }
    }

    fn find(&mut self, name: &[u8]) -> Option<(&'a Row, usize)> {
        let row = self.row?;
        while self.next < self.end {
            let here = self.next;
            match row.name(here).cmp(name) {
                std::cmp::Ordering::Less => self.next = row.next(here),
                std::cmp::Ordering::Equal => return Some((row, here)),
                std::cmp::Ordering::Greater => return None,
            }
        }
        None
    }
}

/// Bytes of a node on disk: length of the name, nodes below, stat tuple, digest, time of hashing.
const NODE: usize = 4 + 4 + KNOWN;
/// Bytes of a [`Known`] on disk.
const KNOWN: usize = 8 * 5 + 4 + 32 + 8;

impl Known {
    fn write(&self, bytes: &mut Vec<u8>) {
        let stat = &self.stat;
        for n in [stat.dev, stat.ino, stat.size] {
            bytes.extend_from_slice(&n.to_le_bytes());
        }
        bytes.extend_from_slice(&stat.mtime_ns.to_le_bytes());
        bytes.extend_from_slice(&stat.ctime_ns.to_le_bytes());
        bytes.extend_from_slice(&stat.mode.to_le_bytes());
        bytes.extend_from_slice(self.digest.as_bytes());
        bytes.extend_from_slice(&self.hashed_ns.to_le_bytes());
    }

    fn parse(record: &[u8; KNOWN]) -> Self {
        let eight = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&record[at..at + 8]);
            eight
        };
        let mut mode = [0; 4];
        mode.copy_from_slice(&record[40..44]);
        let mut digest = [0; 32];
        digest.copy_from_slice(&record[44..76]);
        Known {
            stat: Stat {
                dev: u64::from_le_bytes(eight(0)),
                ino: u64::from_le_bytes(eight(8)),
                size: u64::from_le_bytes(eight(16)),
                mtime_ns: i64::from_le_bytes(eight(24)),
                ctime_ns: i64::from_le_bytes(eight(32)),
                mode: u32::from_le_bytes(mode),
            },
            digest: Digest::from_bytes(digest),
            hashed_ns: i64::from_le_bytes(eight(76)),
        }
    }
}

impl Row {
    /// Appends the row's bytes: how many nodes, how many bytes of names, the
    /// nodes, the names.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        bytes.reserve(8 + self.nodes.len() * NODE + self.names.len());
        bytes.extend_from_slice(&(self.nodes.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.names.len() as u32).to_le_bytes());
        for node in &self.nodes {
            bytes.extend_from_slice(&node.name_len.to_le_bytes());
            bytes.extend_from_slice(&node.below.to_le_bytes());
            node.known.write(bytes);
        }
        bytes.extend_from_slice(&self.names);
    }

    /// Reads a row from the start of `bytes`; also gives what follows it.
    pub fn parse(bytes: &[u8]) -> Option<(Row, &[u8])> {
        let (count, bytes) = take_u32(bytes)?;
        let (names, bytes) = take_u32(bytes)?;
        let (records, bytes) = bytes.split_at_checked((count as usize).checked_mul(NODE)?)?;
        let (names, bytes) = bytes.split_at_checked(names as usize)?;
        let mut nodes = Vec::with_capacity(count as usize);
        let mut name_at = 0_u32;
        for record in records.chunks_exact(NODE) {
            let (name_len, record) = take_u32(record)?;
            let (below, record) = take_u32(record)?;
            nodes.push(Node {
                name_at,
                name_len,
                below,
                known: Known::parse(record.try_into().ok()?),
            });
            name_at = name_at.checked_add(name_len)?;
        }
        let row = Row {
            nodes,
            names: names.to_vec(),
        };
        (name_at as usize == row.names.len() && row.is_nested()).then_some((row, bytes))
    }

    /// Whether everything lies within the folder above it.
    fn is_nested(&self) -> bool {
        let mut ends = Vec::new();
        for at in 0..self.nodes.len() {
            while ends.last().is_some_and(|&end| end <= at) {
                ends.pop();
            }
            let end = self.next(at);
            if end > ends.last().copied().unwrap_or(self.nodes.len()) {
                return false;
            }
            if self.nodes[at].below > 0 {
                ends.push(end);
            }
        }
        true
    }
}

/// The number at the start of `bytes`, and what follows it.
pub(crate) fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*head), rest))
}
