//! The lock file `pipelines/NAME.lock`: which key each step stands at and the digests behind it, deterministic and meant for git.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use serde::Deserialize;

use crate::files::{self, FileError};
use crate::hash::Digest;
use crate::pipeline::StepName;
use crate::store::Key;

/// The version of the file. 1: per step `key`, `sources`, `outputs`; a cell of
/// a matrix is a step whose quoted name has the cell behind it.
pub const FORMAT: u32 = 1;

/// The first lines of every lock file.
const OPENING: &str =
    "# Made by `retune build` and meant for git. Digests are blake3.\nformat = 1\n";
/// What lock files of every format, and those with a conflict, have in them.
const MARK: &[u8] = b"# Made by `retune build`";
/// The last line: a merge then finds an unchanged line behind every step.
const CLOSING: &str = "\n# The end.\n";
/// What git puts before, between and behind the two sides of a conflict.
const MARKS: [&str; 4] = ["<<<<<<<", "|||||||", "=======", ">>>>>>>"];

/// What the lock file says, step by step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    /// The steps by name.
    pub steps: BTreeMap<StepName, LockedStep>,
}

/// What the lock file says of a step.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedStep {
    /// The key.
    pub key: Key,
    /// Inputs from outside by relative path or reference.
    #[serde(default)]
    pub sources: BTreeMap<String, Digest>,
    /// Outputs by path in the step's folder.
    #[serde(default)]
    pub outputs: BTreeMap<String, Digest>,
}

/// The lock file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A merge left both sides in it.
    #[error("{path} has a merge conflict in line {line}")]
    Conflict {
        /// The file.
        path: String,
        /// The line where the first conflict begins, from 1.
        line: usize,
    },
    /// It is damaged.
    #[error("{path} is not a lock file")]
    Damaged {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: toml::de::Error,
    },
    /// It was written by a newer retune.
    #[error("{path} has format {format}, and this program knows format {FORMAT}")]
    Newer {
        /// The file.
        path: String,
        /// Its format.
        format: u32,
    },
}

#[derive(Deserialize)]
struct Head {
    format: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[expect(dead_code, reason = "read by Head")]
    format: u32,
    #[serde(default)]
    steps: BTreeMap<StepName, LockedStep>,
}

impl Lock {
    /// Whether a file's bytes are those of a lock file, of whatever format and
    /// in whatever state, and not of another program's.
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.windows(MARK.len()).any(|window| window == MARK)
    }

    /// Reads a lock file; none if there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, LockError> {
        let text = match files::read_text(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let shown = || path.display().to_string();
        if let Some(line) = conflict(&text) {
            return Err(LockError::Conflict {
                path: shown(),
                line,
            });
        }
        let damaged = |source| LockError::Damaged {
            path: shown(),
            source,
        };
        let head: Head = toml::from_str(&text).map_err(damaged)?;
        if head.format != FORMAT {
            return Err(LockError::Newer {
                path: shown(),
                format: head.format,
            });
        }
        let file: File = toml::from_str(&text).map_err(damaged)?;
        Ok(Some(Lock { steps: file.steps }))
    }

    /// The file's text: one block per step, sorted. Between the lines that
    /// change of two steps lie at least two that do not, so that git merges
    /// changes of neighbours.
    pub fn to_text(&self) -> String {
        let mut text = String::from(OPENING);
        for (name, step) in &self.steps {
            text.push_str(&step.to_text(name));
        }
        text.push_str(CLOSING);
        text
    }

    /// Refuses a file with a merge conflict in it, and says nothing about any
    /// other: that costs a build next to nothing.
    pub fn refuse_conflict(path: &Path) -> Result<(), LockError> {
        // What cannot be read is told when it is needed.
        let text = std::fs::read_to_string(path).unwrap_or_default();
        match conflict(&text) {
            Some(line) => Err(LockError::Conflict {
                path: path.display().to_string(),
                line,
            }),
            None => Ok(()),
        }
    }

    /// Refuses a file of a newer program, and says nothing about any other.
    pub fn refuse_newer(path: &Path) -> Result<(), LockError> {
        match Self::read(path) {
            Err(newer @ LockError::Newer { .. }) => Err(newer),
            _ => Ok(()),
        }
    }

    /// What can be read of a damaged file, or of both sides of a conflict.
    pub fn salvage(text: &str) -> Salvaged {
        let [ours, theirs] = sides(text);
        Salvaged {
            ours: Lock::whole_blocks(&ours),
            theirs: Lock::whole_blocks(&theirs),
        }
    }

    /// The steps whose block can be read; of two for one step the first.
    fn whole_blocks(text: &str) -> Lock {
        let mut lock = Lock::default();
        let (_, mut rest) = split_before(text, "[steps.");
        while !rest.is_empty() {
            let (block, next) = split_before(&rest[1..], "[steps.");
            rest = next;
            // A block without the empty line behind it was cut short.
            if !block.contains("\n\n") {
                continue;
            }
            // Its first byte, `[`, was left out.
            let block = toml::from_str(&format!("format = {FORMAT}\n[{block}"));
            for (name, step) in block.map_or_else(|_| BTreeMap::new(), |file: File| file.steps) {
                lock.steps.entry(name).or_insert(step);
            }
        }
        lock
    }

    /// Merges the changes of two sides since `base`, step by step, and names
    /// the steps that both changed, each in its own way.
    pub fn merge(base: &Lock, ours: &Lock, theirs: &Lock) -> (Lock, Vec<StepName>) {
        let mut merged = Lock::default();
        let mut conflicts = Vec::new();
        let names: BTreeSet<&StepName> = ours.steps.keys().chain(theirs.steps.keys()).collect();
        for name in names {
            let [base, ours, theirs] = [base, ours, theirs].map(|lock| lock.steps.get(name));
            let step = match (ours == theirs, ours == base, theirs == base) {
                (true, ..) | (_, _, true) => ours,
                (_, true, _) => theirs,
                _ => {
                    conflicts.push(name.clone());
                    continue;
                }
            };
            let step = step.map(|step| (name.clone(), step.clone()));
            merged.steps.extend(step);
        }
        (merged, conflicts)
    }

    /// The text of a merge, with git's marks around the steps in `conflicts`.
    pub fn merged_text(&self, conflicts: &[StepName], ours: &Lock, theirs: &Lock) -> String {
        let names: BTreeSet<&StepName> = self.steps.keys().chain(conflicts).collect();
        let mut text = String::from(OPENING);
        for name in names {
            let block = |lock: &Lock| lock.steps.get(name).map(|step| step.to_text(name));
            if let Some(block) = block(self) {
                text.push_str(&block);
                continue;
            }
            let [ours, theirs] = [ours, theirs].map(|lock| block(lock).unwrap_or_default());
            let _ = write!(
                text,
                "<<<<<<< ours\n{ours}=======\n{theirs}>>>>>>> theirs\n"
            );
        }
        text.push_str(CLOSING);
        text
    }

    /// The text of a lock file with these steps' blocks in the place of the
    /// old ones; none where one of them has none.
    pub fn replace_in(text: &str, steps: &BTreeMap<StepName, LockedStep>) -> Option<String> {
        let mut result = String::with_capacity(text.len() + 64);
        let mut rest = text;
        // Blocks are sorted as the map is.
        for (name, step) in steps {
            let block = step.to_text(name);
            let header = block[1..].find('\n')? + 2;
            let at = rest.find(&block[..header])?;
            result.push_str(&rest[..at]);
            result.push_str(&block);
            // A block has no empty line in it.
            let end = rest[at + 1..].find("\n\n").map(|end| at + 2 + end);
            rest = &rest[end.unwrap_or(rest.len())..];
        }
        result.push_str(rest);
        Some(result)
    }

    /// The digest of the file, if it says exactly this.
    pub fn is_at(&self, path: &Path) -> Option<Digest> {
        let old = std::fs::read(path).ok()?;
        (old == self.to_text().as_bytes()).then(|| Digest::of(&old))
    }

    /// Writes the file unless it says this already; gives the digest of its text.
    pub fn write(&self, path: &Path) -> Result<Digest, FileError> {
        if let Some(digest) = self.is_at(path) {
            return Ok(digest);
        }
        let text = self.to_text();
        files::write_durable(path, text.as_bytes())?;
        Ok(Digest::of(text.as_bytes()))
    }
}

impl LockedStep {
    fn to_text(&self, name: &StepName) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n[steps.{}]\nkey = \"{}\"\n",
            bare_or_quoted(name.as_str()),
            self.key
        );
        for (title, digests) in [("sources", &self.sources), ("outputs", &self.outputs)] {
            for (path, digest) in digests {
                let path = toml::Value::String(path.clone());
                let _ = writeln!(text, "{title}.{path} = \"{digest}\"");
            }
        }
        text
    }
}

/// A name as a key of a TOML table.
fn bare_or_quoted(name: &str) -> Cow<'_, str> {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    match name.bytes().all(bare) {
        true => name.into(),
        false => toml::Value::String(name.to_owned()).to_string().into(),
    }
}

/// What two sides of a merge say; the same where there is no conflict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// The side that was merged into.
    pub ours: Lock,
    /// The side that was merged.
    pub theirs: Lock,
}

/// The line, from 1, with the first mark of a conflict.
fn conflict(text: &str) -> Option<usize> {
    let begins = text.starts_with(MARKS[0]);
    let at = begins.then_some(0);
    // The usual case is a long file without one, and this search is fast.
    let at = at.or_else(|| Some(text.find("\n<<<<<<<")? + 1))?;
    Some(text[..at].matches('\n').count() + 1)
}

/// The two texts that a conflicted one was made from.
fn sides(text: &str) -> [String; 2] {
    let mut sides = [String::new(), String::new()];
    // Which sides a line belongs to.
    let mut on = [true, true];
    for line in text.split_inclusive('\n') {
        match MARKS.iter().position(|mark| line.starts_with(mark)) {
            Some(0) => on = [true, false],
            Some(1) => on = [false, false],
            Some(2) => on = [false, true],
            Some(_) => on = [true, true],
            None => {
                for (side, _) in sides.iter_mut().zip(on).filter(|(_, on)| *on) {
                    side.push_str(line);
                }
            }
        }
    }
    sides
}

/// Cuts a text in two before the first line that begins with `start`.
fn split_before<'a>(text: &'a str, start: &str) -> (&'a str, &'a str) {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.starts_with(start) {
            return text.split_at(at);
        }
        at += line.len();
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> Lock {
        let step = LockedStep {
            key: Key(Digest::of(b"key")),
            sources: BTreeMap::from([("data/a \"b\".json".into(), Digest::of(b"a"))]),
            outputs: BTreeMap::from([("rows.jsonl".into(), Digest::of(b"rows"))]),
        };
        Lock {
            steps: BTreeMap::from([("rows".parse().unwrap(), step)]),
        }
    }

    #[test]
    fn round_trip_and_look() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.lock");
        assert_eq!(Lock::read(&path).unwrap(), None);
        lock().write(&path).unwrap();
        assert_eq!(Lock::read(&path).unwrap(), Some(lock()));
        let text = lock().to_text();
        assert!(text.contains("\n[steps.rows]\nkey = \""), "{text}");
        assert!(text.contains("\noutputs.\"rows.jsonl\" = \""), "{text}");
    }

    #[test]
    fn a_merge_conflict_damage_and_a_newer_format_are_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.lock");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Lock::read(&path)
        };
        let conflict = read("format = 1\n<<<<<<< ours\n");
        assert!(matches!(conflict, Err(LockError::Conflict { line: 2, .. })));
        assert!(Lock::refuse_conflict(&path).is_err());
        let damaged = read("format = 1\n[steps");
        assert!(matches!(damaged, Err(LockError::Damaged { .. })));
        Lock::refuse_conflict(&path).unwrap();
        let newer = read("format = 2\nnew = 1\n");
        assert!(matches!(newer, Err(LockError::Newer { format: 2, .. })));
    }

    /// A lock in which each step's key is that of the word beside it.
    fn of(steps: &[(&str, &str)]) -> Lock {
        let step = |(name, word): &(&str, &str)| {
            let step = LockedStep {
                key: Key(Digest::of(word.as_bytes())),
                sources: BTreeMap::new(),
                outputs: BTreeMap::from([("out".into(), Digest::of(word.as_bytes()))]),
            };
            (name.parse().unwrap(), step)
        };
        Lock {
            steps: steps.iter().map(step).collect(),
        }
    }

    #[test]
    fn a_merge_conflicts_only_in_steps_that_both_changed() {
        let base = of(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]);
        let ours = of(&[("a", "2"), ("b", "1"), ("c", "2"), ("d", "1"), ("e", "1")]);
        let theirs = of(&[("b", "3"), ("c", "3"), ("d", "1"), ("f", "1")]);
        let (merged, conflicts) = Lock::merge(&base, &ours, &theirs);
        let names: Vec<&str> = conflicts.iter().map(StepName::as_str).collect();
        assert_eq!(names, ["a", "c"], "changed and removed; changed twice");
        assert_eq!(
            merged,
            of(&[("b", "3"), ("d", "1"), ("e", "1"), ("f", "1")])
        );
        let text = merged.merged_text(&conflicts, &ours, &theirs);
        let both = Lock::salvage(&text);
        let step = |lock: &Lock, name: &str| lock.steps.get(&name.parse().unwrap()).cloned();
        assert_eq!(step(&both.ours, "a"), step(&ours, "a"));
        assert_eq!(step(&both.theirs, "a"), None);
        assert_eq!(step(&both.ours, "c"), step(&ours, "c"));
        assert_eq!(step(&both.theirs, "c"), step(&theirs, "c"));
        assert_eq!(step(&both.ours, "f"), step(&theirs, "f"));
    }

    #[test]
    fn a_merge_of_the_same_is_the_same() {
        let lock = of(&[("a", "1"), ("b", "2")]);
        let (merged, conflicts) = Lock::merge(&Lock::default(), &lock, &lock);
        assert_eq!((merged.to_text(), conflicts), (lock.to_text(), Vec::new()));
        let (merged, conflicts) = Lock::merge(&lock, &of(&[("b", "2")]), &lock);
        assert_eq!((merged, conflicts), (of(&[("b", "2")]), Vec::new()));
    }

    #[test]
    fn whole_blocks_of_a_damaged_file_are_saved() {
        let text = of(&[("a", "1"), ("b", "2"), ("c", "3")]).to_text();
        let damaged = text
            .replacen("key = \"", "key = ", 2)
            .replacen("key = ", "key = \"", 1);
        let saved = Lock::salvage(&damaged);
        assert_eq!(saved.ours, of(&[("a", "1"), ("c", "3")]));
        for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            let Salvaged { ours, .. } = Lock::salvage(&text[..at]);
            let whole = of(&[("a", "1"), ("b", "2"), ("c", "3")]);
            for (name, step) in &ours.steps {
                assert_eq!(whole.steps[name], *step, "cut at {at}");
            }
        }
    }

    #[test]
    fn both_sides_of_a_conflict_in_any_style() {
        let text = "a\n<<<<<<< x\nb\n||||||| y\nc\n=======\nd\n>>>>>>> z\ne\n";
        assert_eq!(sides(text), ["a\nb\ne\n", "a\nd\ne\n"]);
    }
}
