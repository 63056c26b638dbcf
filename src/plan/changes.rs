//! What changed inside of an input: the files of a folder, or the many things behind one port.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hash::Digest;
use crate::store::{Artifact, Listing, Shape};

/// How many files are named where nobody asked for all.
pub const EXAMPLES: usize = 3;

/// How two sets of files differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChanges {
    /// How many there are now.
    pub total: usize,
    /// How many are in both and differ.
    pub changed: usize,
    /// How many are new.
    pub added: usize,
    /// How many are gone.
    pub removed: usize,
    /// Some of them, or all: those that changed first, by path.
    pub files: Vec<FileChange>,
}

/// A file that changed, came or went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// Below the folder, or the label among the inputs of a port.
    pub path: String,
    /// What it was; none when it is new.
    pub old: Option<Digest>,
    /// What it is; none when it is gone.
    pub new: Option<Digest>,
}

impl FileChange {
    /// Changed before added before removed.
    fn rank(&self) -> u8 {
        match (self.old, self.new) {
            (Some(_), Some(_)) => 0,
            (None, _) => 1,
            _ => 2,
        }
    }
}

impl FileChanges {
    /// No files yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changed + self.added + self.removed == 0
    }

    /// Takes note of a file that is there now.
    pub fn present(&mut self) {
        self.total += 1;
    }

    /// Takes note of a difference.
    pub fn push(&mut self, path: String, old: Option<Digest>, new: Option<Digest>) {
        match (old, new) {
            (Some(_), Some(_)) => self.changed += 1,
            (None, _) => self.added += 1,
            (Some(_), None) => self.removed += 1,
        }
        self.files.push(FileChange { path, old, new });
    }

    /// Sorts the files, and keeps `limit` of them.
    pub fn finish(mut self, limit: usize) -> Self {
        let order = |a: &FileChange, b: &FileChange| {
            let rank = a.rank().cmp(&b.rank());
            rank.then_with(|| a.path.cmp(&b.path))
        };
        self.files.sort_by(order);
        self.files.truncate(limit);
        self
    }

    /// The words, where each is one of many `noun`s (may be empty).
    pub fn words(&self, noun: &str) -> String {
        let Self {
            total,
            changed,
            added,
            removed,
            ..
        } = self;
        let (one, many) = match noun {
            "" => (String::new(), String::new()),
            noun => (format!(" {noun}"), format!(" {noun}s")),
        };
        let of = |n: &usize| if *n == 1 { &one } else { &many };
        let head = match (changed, added, removed) {
            (0, added, 0) => format!("{added}{} added", of(added)),
            (0, 0, removed) => format!("{removed}{} removed", of(removed)),
            (0, added, removed) => format!("{added}{} added, {removed} removed", of(added)),
            (changed, ..) => format!("{changed} of {total}{many} changed"),
        };
        let more = match (changed, added, removed) {
            (0, ..) | (_, 0, 0) => String::new(),
            (_, added, 0) => format!(" (+{added} added)"),
            (_, 0, removed) => format!(" ({removed} removed)"),
            (_, added, removed) => format!(" (+{added} added, {removed} removed)"),
        };
        head + &self.examples() + &more
    }

    /// `: a, b` for all that the head counts, `, e.g. a, b` for some.
    fn examples(&self) -> String {
        let told = match self.changed {
            0 => self.added + self.removed,
            changed => changed,
        };
        let named: Vec<&str> = self.files[..self.files.len().min(told).min(EXAMPLES)]
            .iter()
            .map(|file| file.path.as_str())
            .collect();
        match named.len() {
            0 => String::new(),
            n if n == told => format!(": {}", named.join(", ")),
            _ => format!(", e.g. {}", named.join(", ")),
        }
    }
}

impl fmt::Display for FileChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.old, self.new) {
            (Some(old), Some(new)) if old == new => {
                write!(f, "{}: same content, other name or mode", self.path)
            }
            (Some(old), Some(new)) => write!(f, "{}: {} → {}", self.path, old.short(), new.short()),
            (None, _) => write!(f, "{}: added", self.path),
            (_, None) => write!(f, "{}: removed", self.path),
        }
    }
}

/// Compares two folders, each given by the listing of a folder's digest.
///
/// None when a listing cannot be had: then only the digests are known.
pub fn compare_folders(
    old: &Listing,
    new: &Listing,
    listing: &dyn Fn(&Digest) -> Option<Listing>,
    limit: usize,
) -> Option<FileChanges> {
    let mut changes = FileChanges::new();
    let mut walk = Walk {
        listing,
        changes: &mut changes,
    };
    walk.folders("", Some(old), Some(new))?;
    Some(changes.finish(limit))
}

struct Walk<'a> {
    listing: &'a dyn Fn(&Digest) -> Option<Listing>,
    changes: &'a mut FileChanges,
}

impl Walk<'_> {
    /// Both listings are sorted by name.
    fn folders(&mut self, at: &str, old: Option<&Listing>, new: Option<&Listing>) -> Option<()> {
        let mut old = old.map_or(&[][..], |l| &l.entries).iter().peekable();
        let mut new = new.map_or(&[][..], |l| &l.entries).iter().peekable();
        loop {
            let side = match (old.peek(), new.peek()) {
                (None, None) => return Some(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.name.cmp(&b.name),
            };
            let a = (side != Ordering::Greater).then(|| old.next()).flatten();
            let b = (side != Ordering::Less).then(|| new.next()).flatten();
            let name = String::from_utf8_lossy(&a.or(b)?.name);
            let path = match at {
                "" => name.into_owned(),
                at => format!("{at}/{name}"),
            };
            self.entry(path, a.map(|e| &e.artifact), b.map(|e| &e.artifact))?;
        }
    }

    fn entry(
        &mut self,
        path: String,
        old: Option<&Artifact>,
        new: Option<&Artifact>,
    ) -> Option<()> {
        let folder = |a: Option<&Artifact>| a.is_some_and(|a| a.shape == Shape::Folder);
        if !folder(old) && !folder(new) {
            self.file(path, old, new);
            return Some(());
        }
        if old == new {
            // Only how many files there are is of interest.
            let inner = (self.listing)(&new?.digest)?;
            return self.folders(&path, Some(&inner), Some(&inner));
        }
        let inner = |a: Option<&Artifact>| match a.filter(|a| a.shape == Shape::Folder) {
            Some(artifact) => Some(Some((self.listing)(&artifact.digest)?)),
            None => Some(None),
        };
        let (before, now) = (inner(old)?, inner(new)?);
        let file = |a: Option<&Artifact>| a.filter(|a| a.shape != Shape::Folder).copied();
        if let (None, None) = (file(old), file(new)) {
            return self.folders(&path, before.as_ref(), now.as_ref());
        }
        // A file took a folder's place, or the other way round.
        self.file(path.clone(), file(old).as_ref(), file(new).as_ref());
        self.folders(&path, before.as_ref(), now.as_ref())
    }

    fn file(&mut self, path: String, old: Option<&Artifact>, new: Option<&Artifact>) {
        if new.is_some() {
            self.changes.present();
        }
        let what = |a: Option<&Artifact>| a.map(|a| (a.digest, a.shape));
        if what(old) != what(new) {
            let digest = |a: Option<&Artifact>| a.map(|a| a.digest);
            self.changes.push(path, digest(old), digest(new));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ListEntry;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, HashMap};

    /// A tree by the paths of its files, and the listings of its folders.
    fn tree(files: &BTreeMap<String, u8>, all: &mut HashMap<Digest, Listing>) -> Listing {
        let mut folders: BTreeMap<String, BTreeMap<String, u8>> = BTreeMap::new();
        let mut entries = Vec::new();
        for (path, content) in files {
            match path.split_once('/') {
                Some((folder, rest)) => {
                    let folder = folders.entry(folder.to_owned()).or_default();
                    folder.insert(rest.to_owned(), *content);
                }
                None => entries.push(ListEntry {
                    name: path.clone().into_bytes(),
                    artifact: Artifact {
                        digest: Digest::of(&[*content]),
                        shape: Shape::File,
                        size: 1,
                    },
                }),
            }
        }
        for (name, files) in folders {
            let artifact = tree(&files, all).artifact();
            let name = name.into_bytes();
            entries.push(ListEntry { name, artifact });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let listing = Listing { entries };
        all.insert(listing.artifact().digest, listing.clone());
        listing
    }

    fn compare(old: &[(&str, u8)], new: &[(&str, u8)]) -> String {
        let map = |files: &[(&str, u8)]| files.iter().map(|(p, c)| (p.to_string(), *c)).collect();
        let mut all = HashMap::new();
        let (old, new) = (tree(&map(old), &mut all), tree(&map(new), &mut all));
        let found = |digest: &Digest| all.get(digest).cloned();
        let changes = compare_folders(&old, &new, &found, EXAMPLES).unwrap();
        changes.words("file")
    }

    #[test]
    fn the_words() {
        let old = [("a", 1), ("b", 1), ("c", 1), ("sub/d", 1), ("sub/e", 1)];
        for (new, words) in [
            (
                &[("a", 2), ("b", 1), ("c", 1), ("sub/d", 1), ("sub/e", 1)][..],
                "1 of 5 files changed: a",
            ),
            (
                &[("a", 2), ("b", 2), ("c", 2), ("sub/d", 2), ("x", 1)],
                "4 of 5 files changed, e.g. a, b, c (+1 added, 1 removed)",
            ),
            (
                &[("a", 1), ("b", 1), ("c", 1)],
                "2 files removed: sub/d, sub/e",
            ),
            (
                &[
                    ("a", 1),
                    ("b", 1),
                    ("c", 1),
                    ("sub/d", 1),
                    ("sub/e", 1),
                    ("z", 1),
                ],
                "1 file added: z",
            ),
            (
                &[("a", 1), ("b", 1), ("c", 1), ("sub/d", 1), ("z", 1)],
                "1 file added, 1 removed: z, sub/e",
            ),
        ] {
            assert_eq!(compare(&old, new), words);
        }
    }

    #[test]
    fn without_a_listing_nothing_is_claimed() {
        let files = |content| [("sub/a".to_owned(), content)].into();
        let mut all = HashMap::new();
        let (old, new) = (tree(&files(1), &mut all), tree(&files(2), &mut all));
        assert_eq!(compare_folders(&old, &new, &|_| None, 3), None);
    }

    fn files() -> impl Strategy<Value = BTreeMap<String, u8>> {
        let path = prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4);
        prop::collection::btree_map(path.prop_map(|p| p.join("/")), 0..3_u8, 0..9).prop_map(|all| {
            // No path is both a file and a folder.
            let inside = |path: &str| all.keys().any(|p| p.starts_with(&format!("{path}/")));
            let keep = all.iter().filter(|(path, _)| !inside(path));
            keep.map(|(path, content)| (path.clone(), *content))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn counts_are_those_of_the_sets(old in files(), new in files()) {
            let mut all = HashMap::new();
            let (a, b) = (tree(&old, &mut all), tree(&new, &mut all));
            let found = |digest: &Digest| all.get(digest).cloned();
            let changes = compare_folders(&a, &b, &found, usize::MAX).unwrap();
            let changed = new.iter().filter(|(p, c)| old.get(*p).is_some_and(|o| o != *c)).count();
            let added = new.keys().filter(|p| !old.contains_key(*p)).count();
            let removed = old.keys().filter(|p| !new.contains_key(*p)).count();
            prop_assert_eq!(changes.total, new.len());
            prop_assert_eq!((changes.changed, changes.added, changes.removed), (changed, added, removed));
            prop_assert_eq!(changes.files.len(), changed + added + removed);
        }
    }
}
