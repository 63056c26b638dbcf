//! The journal: an append-only file of checked records from which the store's index is rebuilt at every start.
//!
//! Format 2: the line `retune journal 2`, then per record a `u32` length, the
//! first eight bytes of the blake3 of the payload, and the payload (postcard).
//! A torn or damaged tail is cut off at the last good record and said so; a
//! journal of a newer format is refused, never overwritten. (Format 1 wrote
//! digests as text; it is read, and rewritten when it is opened for writing.)

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::object::{Entry, Key};
use crate::files::{self, FileError, PathContext};
use crate::hash::Digest;

const MAGIC: &[u8] = b"retune journal 2\n";
const FIRST_MAGIC: &[u8] = b"retune journal 1\n";
const MAGIC_START: &[u8] = b"retune journal ";
const HEAD: usize = 4 + 8;
/// A record above this is damage, not data.
const LONGEST: usize = 64 << 20;

/// Which step of which pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StepRef {
    /// The pipeline's name.
    pub pipeline: String,
    /// The step's name.
    pub step: String,
}

/// A step's pipeline and name, where they lie.
type StepName<'a> = (&'a str, &'a str);

impl StepRef {
    fn as_ref(&self) -> StepName<'_> {
        (&self.pipeline, &self.step)
    }
}

/// Who has finished an entry of a compacted journal, in which it does not matter.
const NOBODY: StepName<'static> = ("", "");

/// One line of history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Note {
    /// A step began to run for a key.
    Started(StepRef, Key),
    /// A step that had started gave these outputs.
    Finished(StepRef, Key, Entry),
    /// A step's outputs were put back from the store, or found in place.
    Restored(StepRef, Key),
    /// A step that had started failed.
    Failed(StepRef, Key),
    /// The outputs of a key can no longer be had.
    Lost(Key),
}

/// The beginning of a [`Note`] as it is written; behind that of
/// [`Note::Finished`] the entry follows.
#[derive(Deserialize)]
enum Head<'a> {
    Started(#[serde(borrow)] StepName<'a>, Key),
    Finished(StepName<'a>, Key),
    Restored(StepName<'a>, Key),
    Failed(StepName<'a>, Key),
    Lost(Key),
}

/// Where a step stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepState {
    /// The key its outputs in place stand for.
    pub current: Option<Key>,
    /// The key it last began to run for without finishing.
    pub unfinished: Option<Key>,
}

/// What the journal says, for look-up. Few of a long history's entries are
/// asked for, so those that were read stay as they were written until then.
#[derive(Debug, Default)]
pub struct Index {
    /// The file that was read.
    bytes: Vec<u8>,
    entries: HashMap<Key, Place>,
    steps: HashMap<String, HashMap<String, StepState>>,
    /// Records read or written since the journal was last compacted.
    notes: usize,
}

/// Where an entry is.
#[derive(Debug)]
enum Place {
    /// In the file that was read, in a record whose check fitted.
    Written { at: usize, length: usize },
    /// Here: it is new.
    New(Entry),
}

impl Index {
    /// What the store holds under a key.
    pub fn entry(&self, key: &Key) -> Option<Entry> {
        self.read(self.entries.get(key)?)
    }

    /// What cannot be read counts as lost, and is made again.
    fn read(&self, place: &Place) -> Option<Entry> {
        match place {
            Place::Written { at, length } => {
                postcard::from_bytes(self.bytes.get(*at..)?.get(..*length)?).ok()
            }
            Place::New(entry) => Some(entry.clone()),
        }
    }

    /// Where a step stands.
    pub fn step(&self, pipeline: &str, step: &str) -> Option<&StepState> {
        self.steps.get(pipeline)?.get(step)
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = (&Key, Entry)> {
        let entries = self.entries.iter();
        entries.filter_map(|(key, place)| Some((key, self.read(place)?)))
    }

    /// Where every step stands, by pipeline and step.
    pub fn steps(&self) -> impl Iterator<Item = (&str, &str, &StepState)> {
        self.steps.iter().flat_map(|(pipeline, steps)| {
            let of_step = move |(step, state)| (pipeline.as_str(), String::as_str(step), state);
            steps.iter().map(of_step)
        })
    }

    /// How many records the journal has and how many it would need.
    pub fn length(&self) -> (usize, usize) {
        (self.notes, self.shortest())
    }

    /// Forgets results, and where steps stand.
    pub fn forget(&mut self, keys: &[Key], steps: &[StepRef]) {
        for key in keys {
            self.entries.remove(key);
        }
        for StepRef { pipeline, step } in steps {
            if let Some(steps) = self.steps.get_mut(pipeline) {
                steps.remove(step);
            }
        }
    }

    /// Takes note of what happened.
    pub fn apply(&mut self, note: Note) {
        let head = match &note {
            Note::Started(step, key) => Head::Started(step.as_ref(), *key),
            Note::Finished(step, key, _) => Head::Finished(step.as_ref(), *key),
            Note::Restored(step, key) => Head::Restored(step.as_ref(), *key),
            Note::Failed(step, key) => Head::Failed(step.as_ref(), *key),
            Note::Lost(key) => Head::Lost(*key),
        };
        self.apply_head(&head);
        if let Note::Finished(_, key, entry) = note {
            self.entries.insert(key, Place::New(entry));
        }
    }

    /// All of a note but the entry.
    fn apply_head(&mut self, head: &Head<'_>) {
        self.notes += 1;
        match *head {
            Head::Finished(NOBODY, _) | Head::Restored(NOBODY, _) => {}
            Head::Started(step, key) | Head::Failed(step, key) => {
                self.state(step).unfinished = Some(key);
            }
            Head::Finished(step, key) | Head::Restored(step, key) => {
                *self.state(step) = StepState {
                    current: Some(key),
                    unfinished: None,
                };
            }
            Head::Lost(key) => {
                self.entries.remove(&key);
            }
        }
    }

    fn state(&mut self, (pipeline, step): StepName<'_>) -> &mut StepState {
        // No name is copied that is there.
        if !self.steps.contains_key(pipeline) {
            self.steps.insert(pipeline.to_owned(), HashMap::new());
        }
        let steps = self.steps.get_mut(pipeline).expect("it is there by now");
        if !steps.contains_key(step) {
            steps.insert(step.to_owned(), StepState::default());
        }
        steps.get_mut(step).expect("it is there by now")
    }

    /// How long the shortest history is that leads to this index.
    fn shortest(&self) -> usize {
        let states = self.steps.values().flat_map(HashMap::values);
        let of_step = |s: &StepState| s.current.iter().count() + s.unfinished.iter().count();
        self.entries.len() + states.map(of_step).sum::<usize>()
    }

    /// The shortest history that leads to this index.
    fn notes(&self) -> Vec<Note> {
        let mut finished = BTreeMap::new();
        let mut later = BTreeMap::new();
        for (pipeline, steps) in &self.steps {
            for (step, state) in steps {
                let step = StepRef {
                    pipeline: pipeline.clone(),
                    step: step.clone(),
                };
                if let Some(key) = state.current {
                    finished.insert(step.clone(), key);
                }
                if let Some(key) = state.unfinished {
                    later.insert(step, key);
                }
            }
        }
        let nobody = || StepRef {
            pipeline: NOBODY.0.to_owned(),
            step: NOBODY.1.to_owned(),
        };
        let entries: BTreeMap<_, _> = self.entries().collect();
        let mut notes: Vec<Note> = entries
            .into_iter()
            .map(|(key, entry)| Note::Finished(nobody(), *key, entry))
            .collect();
        notes.extend(finished.into_iter().map(|(s, k)| Note::Restored(s, k)));
        notes.extend(later.into_iter().map(|(s, k)| Note::Started(s, k)));
        notes
    }
}

/// The journal's file.
pub struct Journal {
    path: PathBuf,
    file: File,
    /// How long it is, and how much of that is durable.
    length: u64,
    durable: u64,
    /// Set when a failed write may have left a part of a record at the end.
    torn: bool,
}

/// The journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// It was written by a newer retune.
    #[error("{} was written by a newer retune", .0.display())]
    Newer(PathBuf),
}

/// What opening a journal found.
pub struct Opened {
    /// The journal, ready for more.
    pub journal: Journal,
    /// What it says.
    pub index: Index,
    /// How many bytes of a torn or damaged tail were cut off.
    pub cut: u64,
}

/// What the bytes of a journal came to.
struct Replayed {
    index: Index,
    /// How many bytes at the start are good.
    good: usize,
    /// Whether they are of an older format.
    old: bool,
}

fn replay(path: &Path, bytes: Vec<u8>) -> Result<Replayed, JournalError> {
    let mut index = Index::default();
    let mut good = MAGIC.len();
    let old = bytes.starts_with(FIRST_MAGIC);
    if old {
        while let Some((payload, length)) = record(&bytes[good..])
            && let Some(note) = first::note(payload)
        {
            index.apply(note);
            good += length;
        }
    } else if bytes.starts_with(MAGIC) {
        while let Some((payload, length)) = record(&bytes[good..])
            && let Ok((head, entry)) = postcard::take_from_bytes::<Head<'_>>(payload)
        {
            index.apply_head(&head);
            if let Head::Finished(_, key) = head {
                let (at, length) = (good + length - entry.len(), entry.len());
                index.entries.insert(key, Place::Written { at, length });
            }
            good += length;
        }
    } else if bytes.starts_with(MAGIC_START) && bytes.contains(&b'\n') {
        return Err(JournalError::Newer(path.to_owned()));
    } else {
        good = 0;
    }
    index.bytes = bytes;
    Ok(Replayed { index, good, old })
}

impl Journal {
    /// What a journal says, without touching it: for those who do not hold the
    /// build lock. What a build is just appending may be missing.
    pub fn read(path: &Path) -> Result<Index, JournalError> {
        match files::read(path) {
            Ok(bytes) => Ok(replay(path, bytes)?.index),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Index::default()),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens the journal for writing, creating it if there is none. Only under
    /// the build lock: it may cut a damaged tail and rewrite the file.
    pub fn open(path: &Path) -> Result<Opened, JournalError> {
        if let Some(folder) = path.parent() {
            files::create_dir(folder)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .on("open", path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).on("read", path)?;
        let mut journal = Journal {
            path: path.to_owned(),
            file,
            length: bytes.len() as u64,
            durable: bytes.len() as u64,
            torn: false,
        };
        let Replayed { index, good, old } = replay(path, bytes)?;
        let cut = (index.bytes.len() - good) as u64;
        if cut > 0 {
            // Kept for whoever wants to know what was in it.
            files::write_atomic(&path.with_extension("damaged"), &index.bytes)?;
        }
        if cut > 0 || good == 0 {
            journal.cut_at(good)?;
        }
        let mut opened = Opened {
            journal,
            index,
            cut,
        };
        match old {
            true => opened.journal.rewrite(&mut opened.index)?,
            false => opened.compact_if_worth_it()?,
        }
        Ok(opened)
    }

    fn cut_at(&mut self, good: usize) -> Result<(), FileError> {
        self.file.set_len(good as u64).on("cut", &self.path)?;
        if good == 0 {
            self.file.write_all(MAGIC).on("write", &self.path)?;
            files::sync_folder(&self.path)?;
        }
        self.length = (good.max(MAGIC.len())) as u64;
        self.sync()
    }

    /// Appends notes; durable only after [`Journal::sync`]. All of them or, when
    /// that fails, none; where not even that can be had, nothing more is
    /// appended, for it would stand behind what nobody can read.
    pub fn append(&mut self, notes: &[Note]) -> Result<(), FileError> {
        let mut bytes = Vec::new();
        for note in notes {
            write_note(&mut bytes, note);
        }
        if self.torn {
            let why = "an earlier write failed half-way and could not be undone";
            return Err(io::Error::other(why)).on("append to", &self.path);
        }
        let written = self.file.write_all(&bytes);
        match written {
            Ok(()) => self.length += bytes.len() as u64,
            Err(_) => self.take_back(self.length),
        }
        written.on("append to", &self.path)
    }

    /// Makes everything appended so far durable. When that fails, what was
    /// appended since the last time is not there any more: the system may have
    /// dropped it and would not say so again.
    pub fn sync(&mut self) -> Result<(), FileError> {
        let synced = self.file.sync_data();
        match synced {
            Ok(()) => self.durable = self.length,
            Err(_) => self.take_back(self.durable),
        }
        synced.on("sync", &self.path)
    }

    fn take_back(&mut self, length: u64) {
        self.torn = self.file.set_len(length).is_err();
        self.length = length;
    }

    /// Has writes go to another file, and gives the one that they went to.
    #[cfg(test)]
    pub(super) fn divert(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }
}

impl Opened {
    /// Rewrites a journal that is mostly history.
    fn compact_if_worth_it(&mut self) -> Result<(), FileError> {
        if self.index.notes < 3 * self.index.shortest() + 1000 {
            return Ok(());
        }
        self.journal.rewrite(&mut self.index)
    }
}

impl Journal {
    /// Replaces the journal by the shortest one that leads to `index`; durable
    /// afterwards.
    pub fn rewrite(&mut self, index: &mut Index) -> Result<(), FileError> {
        let notes = index.notes();
        let mut bytes = MAGIC.to_vec();
        for note in &notes {
            write_note(&mut bytes, note);
        }
        files::write_durable(&self.path, &bytes)?;
        let file = OpenOptions::new().append(true).open(&self.path);
        self.file = file.on("open", &self.path)?;
        (self.length, self.durable) = (bytes.len() as u64, bytes.len() as u64);
        self.torn = false;
        index.notes = notes.len();
        Ok(())
    }
}

fn write_note(bytes: &mut Vec<u8>, note: &Note) {
    let payload = postcard::to_stdvec(note).expect("notes are plain data");
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&Digest::of(&payload).prefix().to_le_bytes());
    bytes.extend_from_slice(&payload);
}

/// The payload of the first record of `bytes` and the record's length, or
/// nothing if it is not whole.
fn record(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    let payload = rest.get(..length).filter(|_| length <= LONGEST)?;
    let fits = Digest::of(payload).prefix().to_le_bytes() == head[4..];
    fits.then_some((payload, HEAD + length))
}

/// Notes of format 1, whose digests are text.
mod first {
    use serde::Deserialize;

    use super::{Note, StepRef};
    use crate::store::object::{Artifact, Entry, Key, Output, Shape};

    type Text<'a> = &'a str;
    type OldOutput<'a> = (String, (Text<'a>, Shape, u64));

    #[derive(Deserialize)]
    enum Old<'a> {
        Started(StepRef, #[serde(borrow)] Text<'a>),
        Finished(StepRef, Text<'a>, (Vec<OldOutput<'a>>, Text<'a>, u64)),
        Restored(StepRef, Text<'a>),
        Failed(StepRef, Text<'a>),
        Lost(Text<'a>),
    }

    pub(super) fn note(payload: &[u8]) -> Option<Note> {
        let key = |text: Text<'_>| Some(Key(text.parse().ok()?));
        Some(match postcard::from_bytes(payload).ok()? {
            Old::Started(step, text) => Note::Started(step, key(text)?),
            Old::Finished(step, text, (outputs, record, millis)) => {
                let outputs: Option<_> = outputs.into_iter().map(output).collect();
                let (outputs, record) = (outputs?, record.parse().ok()?);
                let entry = Entry {
                    outputs,
                    record,
                    millis,
                };
                Note::Finished(step, key(text)?, entry)
            }
            Old::Restored(step, text) => Note::Restored(step, key(text)?),
            Old::Failed(step, text) => Note::Failed(step, key(text)?),
            Old::Lost(text) => Note::Lost(key(text)?),
        })
    }

    fn output((path, (digest, shape, size)): OldOutput<'_>) -> Option<Output> {
        let digest = digest.parse().ok()?;
        let artifact = Artifact {
            digest,
            shape,
            size,
        };
        Some(Output { path, artifact })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::store::object::{Artifact, Output, Shape};
    use std::fs;

    fn step(name: &str) -> StepRef {
        StepRef {
            pipeline: "p".into(),
            step: name.into(),
        }
    }

    fn entry(text: &str) -> Entry {
        let artifact = Artifact {
            digest: Digest::of(text.as_bytes()),
            shape: Shape::File,
            size: text.len() as u64,
        };
        Entry {
            outputs: vec![Output {
                path: "out".into(),
                artifact,
            }],
            record: Digest::of(b"record"),
            millis: 7,
        }
    }

    fn notes() -> Vec<Note> {
        let (a, b) = (Key(Digest::of(b"a")), Key(Digest::of(b"b")));
        vec![
            Note::Started(step("x"), a),
            Note::Finished(step("x"), a, entry("1")),
            Note::Started(step("x"), b),
            Note::Finished(step("x"), b, entry("2")),
            Note::Restored(step("x"), a),
            Note::Started(step("y"), b),
        ]
    }

    fn append(opened: &mut Opened, notes: Vec<Note>) {
        opened.journal.append(&notes).unwrap();
        for note in notes {
            opened.index.apply(note);
        }
    }

    fn check(index: &Index) {
        let (a, b) = (Key(Digest::of(b"a")), Key(Digest::of(b"b")));
        assert_eq!(index.entry(&a), Some(entry("1")));
        assert_eq!(index.entry(&b), Some(entry("2")));
        assert_eq!(index.step("p", "x").unwrap().current, Some(a));
        assert_eq!(index.step("p", "y").unwrap().unfinished, Some(b));
        assert_eq!(index.step("p", "z"), None);
    }

    #[test]
    fn what_was_appended_is_there_after_opening_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut opened = Journal::open(&path).unwrap();
        append(&mut opened, notes());
        check(&opened.index);
        check(&Journal::open(&path).unwrap().index);
    }

    #[test]
    fn a_torn_or_flipped_tail_is_cut_and_the_rest_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut opened = Journal::open(&path).unwrap();
        append(&mut opened, notes());
        let whole = fs::read(&path).unwrap();
        for cut in MAGIC.len()..whole.len() {
            let mut bytes = whole[..cut].to_vec();
            fs::write(&path, &bytes).unwrap();
            let kept = Journal::open(&path).unwrap();
            assert!(kept.index.notes < notes().len());
            assert_eq!(fs::metadata(&path).unwrap().len() + kept.cut, cut as u64);
            bytes = whole.clone();
            bytes[cut] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            assert!(Journal::open(&path).unwrap().cut > 0, "flipped byte {cut}");
        }
    }

    #[test]
    fn a_journal_can_go_on_after_a_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut opened = Journal::open(&path).unwrap();
        append(&mut opened, notes());
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let mut opened = Journal::open(&path).unwrap();
        let last = notes().pop().unwrap();
        append(&mut opened, vec![last]);
        let again = Journal::open(&path).unwrap();
        assert_eq!(again.cut, 0);
        check(&again.index);
    }

    #[test]
    fn reading_touches_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        assert!(Journal::read(&path).unwrap().entries.is_empty());
        assert!(!path.exists());
        let mut opened = Journal::open(&path).unwrap();
        for _ in 0..400 {
            append(&mut opened, notes());
        }
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend(b"half a rec");
        fs::write(&path, &bytes).unwrap();
        check(&Journal::read(&path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn a_newer_journal_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        fs::write(&path, "retune journal 3\nwhatever").unwrap();
        assert!(matches!(Journal::open(&path), Err(JournalError::Newer(_))));
        assert_eq!(fs::read(&path).unwrap(), b"retune journal 3\nwhatever");
    }

    /// The notes as the first format wrote them.
    fn in_format_1() -> Vec<u8> {
        let old = |note: &Note| {
            let text = |digest: &Digest| digest.to_string();
            match note {
                Note::Started(s, k) => postcard::to_stdvec(&(0u8, s, text(&k.0))),
                Note::Finished(s, k, e) => {
                    let output = |o: &Output| {
                        let a = o.artifact;
                        (o.path.clone(), (text(&a.digest), a.shape, a.size))
                    };
                    let outputs: Vec<_> = e.outputs.iter().map(output).collect();
                    let entry = (outputs, text(&e.record), e.millis);
                    postcard::to_stdvec(&(1u8, s, text(&k.0), entry))
                }
                Note::Restored(s, k) => postcard::to_stdvec(&(2u8, s, text(&k.0))),
                Note::Failed(s, k) => postcard::to_stdvec(&(3u8, s, text(&k.0))),
                Note::Lost(k) => postcard::to_stdvec(&(4u8, text(&k.0))),
            }
        };
        let mut bytes = FIRST_MAGIC.to_vec();
        for note in &notes() {
            let payload = old(note).unwrap();
            bytes.extend((payload.len() as u32).to_le_bytes());
            bytes.extend(Digest::of(&payload).prefix().to_le_bytes());
            bytes.extend(payload);
        }
        bytes
    }

    #[test]
    fn a_journal_of_format_1_is_read_and_goes_on_in_format_2() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut bytes = in_format_1();
        fs::write(&path, &bytes).unwrap();
        check(&Journal::read(&path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), bytes, "reading touches nothing");
        check(&Journal::open(&path).unwrap().index);
        assert!(fs::read(&path).unwrap().starts_with(MAGIC));
        check(&Journal::open(&path).unwrap().index);
        let whole = bytes.len();
        bytes.extend(b"half a rec");
        fs::write(&path, &bytes).unwrap();
        let opened = Journal::open(&path).unwrap();
        assert_eq!(opened.cut, (bytes.len() - whole) as u64);
        check(&opened.index);
        check(&Journal::open(&path).unwrap().index);
    }

    #[test]
    fn compaction_keeps_the_meaning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut opened = Journal::open(&path).unwrap();
        for _ in 0..400 {
            append(&mut opened, notes());
        }
        let long = fs::metadata(&path).unwrap().len();
        check(&Journal::open(&path).unwrap().index);
        assert!(fs::metadata(&path).unwrap().len() < long / 50);
        assert_eq!(opened.index.shortest(), opened.index.notes().len());
        let compacted = Journal::open(&path).unwrap().index;
        check(&compacted);
        let mut steps: Vec<_> = compacted.steps().map(|(p, s, _)| (p, s)).collect();
        steps.sort();
        assert_eq!(steps, [("p", "x"), ("p", "y")], "and nobody else");
    }

    /// A file as long as the journal, which can be cut and takes nothing more.
    #[cfg(target_os = "linux")]
    pub(in crate::store) fn full(length: u64) -> File {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
        let file = memfd_create("full", MemfdFlags::ALLOW_SEALING).unwrap();
        let mut file = File::from(file);
        file.set_len(length).unwrap();
        io::Seek::seek(&mut file, io::SeekFrom::End(0)).unwrap();
        fcntl_add_seals(&file, SealFlags::GROW).unwrap();
        file
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut opened = Journal::open(&path).unwrap();
        append(&mut opened, notes());
        let length = fs::metadata(&path).unwrap().len();
        let good = opened.journal.divert(full(length));
        let error = opened.journal.append(&notes()).unwrap_err();
        assert!(error.to_string().contains("failed to append to"));
        opened.journal.divert(good);
        append(&mut opened, notes());
        let again = Journal::open(&path).unwrap();
        assert_eq!((again.cut, again.index.notes), (0, 2 * notes().len()));
        // What can neither be written to nor cut takes no more.
        let good = opened.journal.divert(File::open(&path).unwrap());
        opened.journal.append(&notes()).unwrap_err();
        opened.journal.divert(good);
        let error = opened.journal.append(&notes()).unwrap_err();
        let why = std::error::Error::source(&error).unwrap().to_string();
        assert!(why.contains("an earlier write failed half-way"), "{why}");
        // Until it is made anew.
        opened.journal.rewrite(&mut opened.index).unwrap();
        append(&mut opened, notes());
        assert_eq!(Journal::open(&path).unwrap().cut, 0);
    }
}
