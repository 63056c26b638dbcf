//! Keeping the store in order: what it holds, what refers to what, and taking objects out or in again.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::local::{LocalStore, Store, StoreError};
use super::object::{Artifact, Entry, Listing, Shape};
use crate::files::{self, FileError, PathContext};
use crate::hash::Digest;

/// What lies in the folder of the objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// The objects with their sizes in bytes.
    pub objects: BTreeMap<Digest, u64>,
    /// Files that are no objects: left over by runs that were killed.
    pub strays: Vec<PathBuf>,
}

impl Holdings {
    /// Bytes of all objects.
    pub fn bytes(&self) -> u64 {
        self.objects.values().sum()
    }
}

impl LocalStore {
    /// Looks at every object's name and size; reads none.
    pub fn holdings(&self) -> Result<Holdings, FileError> {
        let mut holdings = Holdings::default();
        for folder in list(self.objects_folder())? {
            if !folder.is_dir() {
                holdings.strays.push(folder);
                continue;
            }
            for path in list(&folder)? {
                let meta = match fs::symlink_metadata(&path) {
                    // A build that is just moving it into place.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                    meta => meta.on("read", &path)?,
                };
                match named(&folder, &path).filter(|_| meta.is_file()) {
                    Some(digest) => drop(holdings.objects.insert(digest, meta.len())),
                    None => holdings.strays.push(path),
                }
            }
        }
        holdings.strays.sort();
        Ok(holdings)
    }

    /// Removes an object.
    pub fn drop_object(&self, digest: &Digest) -> Result<(), FileError> {
        let path = self.object_path(digest);
        files::remove(&path)?;
        self.stats().forget(&path);
        // Fails while there are others in it, which is most of the time.
        let _ = fs::remove_dir(path.parent().unwrap_or(&path));
        Ok(())
    }

    /// Moves an object out of the way into `folder`, for whoever wants to know
    /// what was in it.
    pub fn set_object_aside(&self, digest: &Digest, folder: &Path) -> Result<(), FileError> {
        let path = self.object_path(digest);
        files::create_dir(folder)?;
        files::rename(&path, &folder.join(digest.to_string()))?;
        self.stats().forget(&path);
        Ok(())
    }

    /// Takes the file at `path` in as the object `digest`, if that is what it
    /// is; the file stays where it is.
    pub fn adopt(&self, path: &Path, digest: &Digest) -> Result<bool, StoreError> {
        let object = self.object_path(digest);
        let folder = object.parent().unwrap_or(Path::new("."));
        files::create_dir(folder)?;
        let copy = folder.join(format!(".adopted-{}", std::process::id()));
        self.copy(path, &copy, 0o444)?;
        // The copy, not the file: that may change between the two.
        let (found, _) = Digest::of_file(&copy).on("read", &copy)?;
        if found != *digest {
            files::remove(&copy)?;
            return Ok(false);
        }
        self.take(&copy)?;
        Ok(true)
    }

    /// The listing that an object is; none for any other object, and for one
    /// that is not there.
    pub fn listing_object(&self, digest: &Digest) -> Option<Listing> {
        // Most objects are no listings, and some of them are large.
        let mut start = [0; Listing::MAGIC.len()];
        let mut file = fs::File::open(self.object_path(digest)).ok()?;
        file.read_exact(&mut start).ok()?;
        if start != *Listing::MAGIC {
            return None;
        }
        Listing::from_bytes(&self.get(digest).ok()?, *digest).ok()
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries
            .on("list", folder)?
            .map(|entry| Ok(entry.on("list", folder)?.path()))
            .collect(),
    }
}

/// The digest that an object's path stands for.
fn named(folder: &Path, path: &Path) -> Option<Digest> {
    let (start, rest) = (folder.file_name()?.to_str()?, path.file_name()?.to_str()?);
    let digest: Digest = format!("{start}{rest}").parse().ok()?;
    // Upper case would parse, too, but is not what the store writes.
    (digest.to_string() == format!("{start}{rest}")).then_some(digest)
}

/// How often each object is referred to: by entries, by the listings that are
/// themselves referred to, and from outside.
#[derive(Debug, Default)]
pub struct References {
    counts: HashMap<Digest, usize>,
    children: HashMap<Digest, Vec<Digest>>,
}

impl References {
    /// Adds what an entry refers to; `log` is that of its record.
    pub fn add_entry(&mut self, store: &LocalStore, entry: &Entry, log: Option<Digest>) {
        for digest in directly(entry, log) {
            self.add(store, digest);
        }
    }

    /// Adds a reference to an object, and to what is in it if it is a folder.
    pub fn add(&mut self, store: &LocalStore, digest: Digest) {
        let mut open = vec![digest];
        while let Some(digest) = open.pop() {
            let count = self.counts.entry(digest).or_default();
            *count += 1;
            if *count > 1 {
                continue;
            }
            if let Some(listing) = store.listing_object(&digest) {
                let inside = listing.entries.iter().map(|entry| entry.artifact.digest);
                let inside: Vec<Digest> = inside.collect();
                open.extend(&inside);
                self.children.insert(digest, inside);
            }
        }
    }

    /// Takes an entry's references away; gives the objects to which none is left.
    pub fn remove_entry(&mut self, entry: &Entry, log: Option<Digest>) -> Vec<Digest> {
        let mut free = Vec::new();
        let mut open = directly(entry, log);
        while let Some(digest) = open.pop() {
            let Some(count) = self.counts.get_mut(&digest) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&digest);
                free.push(digest);
                open.extend(self.children.remove(&digest).unwrap_or_default());
            }
        }
        free
    }

    /// Whether anything refers to an object.
    pub fn has(&self, digest: &Digest) -> bool {
        self.counts.contains_key(digest)
    }
}

/// The objects an entry itself refers to.
fn directly(entry: &Entry, log: Option<Digest>) -> Vec<Digest> {
    let outputs = entry.outputs.iter().map(|output| output.artifact.digest);
    outputs.chain([entry.record]).chain(log).collect()
}

/// Every object behind an artifact, with the path below it (empty for the
/// artifact itself). What is behind a listing that cannot be read is not told.
pub fn walk(store: &LocalStore, artifact: &Artifact, found: &mut dyn FnMut(&Path, Artifact)) {
    walk_below(store, artifact, Path::new(""), found);
}

fn walk_below(
    store: &LocalStore,
    artifact: &Artifact,
    path: &Path,
    found: &mut dyn FnMut(&Path, Artifact),
) {
    found(path, *artifact);
    if artifact.shape != Shape::Folder {
        return;
    }
    let listing = store.listing_object(&artifact.digest);
    for entry in listing.map_or(Vec::new(), |listing| listing.entries) {
        let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&entry.name[..]);
        walk_below(store, &entry.artifact, &path.join(name), found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Output;

    struct Space {
        folder: tempfile::TempDir,
        store: LocalStore,
    }

    impl Space {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (store, _) = LocalStore::open(&folder.path().join("cache")).unwrap();
            Space { folder, store }
        }

        /// An entry whose output is a folder with these files.
        fn entry(&self, files: &[&str]) -> Entry {
            let made = self.folder.path().join("made");
            fs::create_dir(&made).unwrap();
            for text in files {
                fs::write(made.join(text), text).unwrap();
            }
            let output = Output {
                path: "out".into(),
                artifact: self.store.take(&made).unwrap(),
            };
            Entry {
                record: self.store.put(files.concat().as_bytes()).unwrap(),
                outputs: vec![output],
                millis: 1,
            }
        }
    }

    #[test]
    fn what_two_entries_share_goes_with_the_second() {
        let space = Space::new();
        let (one, two) = (space.entry(&["a", "b"]), space.entry(&["b", "c"]));
        let mut references = References::default();
        references.add_entry(&space.store, &one, None);
        references.add_entry(&space.store, &two, None);
        let all = space.store.holdings().unwrap();
        assert_eq!(all.objects.len(), 7, "3 files, 2 listings, 2 records");
        assert!(all.objects.keys().all(|digest| references.has(digest)));
        let free = references.remove_entry(&one, None);
        assert_eq!(free.len(), 3);
        assert!(free.contains(&Digest::of(b"a")) && !free.contains(&Digest::of(b"b")));
        assert_eq!(references.remove_entry(&two, None).len(), 4);
        assert!(!all.objects.keys().any(|digest| references.has(digest)));
    }

    #[test]
    fn what_is_held_from_outside_stays_with_all_that_is_in_it() {
        let space = Space::new();
        let entry = space.entry(&["a", "b"]);
        let mut references = References::default();
        references.add(&space.store, entry.outputs[0].artifact.digest);
        references.add_entry(&space.store, &entry, None);
        assert_eq!(references.remove_entry(&entry, None), [entry.record]);
        assert!(references.has(&Digest::of(b"a")));
    }

    #[test]
    fn objects_are_counted_and_strays_told_from_them() {
        let space = Space::new();
        let kept = space.store.put(b"kept").unwrap();
        let folder = space.store.object_path(&kept);
        let folder = folder.parent().unwrap();
        fs::write(folder.join(".new-1-2"), "half").unwrap();
        fs::write(folder.join("ABC"), "not ours").unwrap();
        let holdings = space.store.holdings().unwrap();
        assert_eq!(holdings.objects, BTreeMap::from([(kept, 4)]));
        assert_eq!((holdings.bytes(), holdings.strays.len()), (4, 2));
        space.store.drop_object(&kept).unwrap();
        assert!(space.store.holdings().unwrap().objects.is_empty());
        assert!(space.store.get(&kept).is_err());
    }

    #[test]
    fn a_lost_object_is_taken_in_again_only_from_the_same_bytes() {
        let space = Space::new();
        let path = space.folder.path().join("file");
        fs::write(&path, "content").unwrap();
        let digest = Digest::of(b"content");
        assert!(!space.store.adopt(&path, &Digest::of(b"else")).unwrap());
        assert!(space.store.adopt(&path, &digest).unwrap());
        assert_eq!(space.store.get(&digest).unwrap(), b"content");
        assert_eq!(fs::read(&path).unwrap(), b"content");
        assert!(space.store.holdings().unwrap().strays.is_empty());
    }

    #[test]
    fn a_walk_names_every_file_of_a_folder() {
        let space = Space::new();
        let entry = space.entry(&["a", "b"]);
        let mut paths = Vec::new();
        walk(&space.store, &entry.outputs[0].artifact, &mut |path, _| {
            paths.push(path.display().to_string());
        });
        assert_eq!(paths, ["", "a", "b"]);
    }
}
