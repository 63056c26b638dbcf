//! What the store keeps: artifacts, the Merkle listing of a folder, and the entry a key leads to.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hash::Digest;

/// The digest of everything that makes a step's result what it is; what a
/// result is stored under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub Digest);

impl Key {
    /// The first 12 hex characters: enough for a person to compare.
    pub fn short(&self) -> String {
        self.0.short()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a digest stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// A file; the digest is that of its bytes.
    File,
    /// An executable file; the digest is that of its bytes.
    Executable,
    /// A folder; the digest is that of its [`Listing`].
    Folder,
}

/// A file or folder by content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Artifact {
    /// The content digest.
    pub digest: Digest,
    /// What the digest stands for.
    pub shape: Shape,
    /// Bytes in all files.
    pub size: u64,
}

/// One output of a finished step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Relative to the step's output folder.
    pub path: String,
    /// What is there.
    pub artifact: Artifact,
}

/// What the store holds under a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The outputs in the order of the ports.
    pub outputs: Vec<Output>,
    /// The record of the execution, an object of its own.
    pub record: Digest,
    /// How long the execution took, in milliseconds; for scheduling only.
    pub millis: u64,
}

/// The Merkle listing of a folder: one line per entry, sorted by name.
///
/// Its bytes are an object like any other; the folder's digest is theirs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The entries, sorted by the bytes of their names.
    pub entries: Vec<ListEntry>,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListEntry {
    /// The file name's bytes, which need not be UTF-8.
    pub name: Vec<u8>,
    /// What is there.
    pub artifact: Artifact,
}

const LISTING_MAGIC: &[u8] = Listing::MAGIC;

/// Bytes of an entry before its name: shape, size, digest, length of the name.
const ENTRY_HEAD: usize = 1 + 8 + 32 + 4;

/// An object that should be a listing is not one.
#[derive(Debug, thiserror::Error)]
#[error("object {0:?} is not a folder listing")]
pub struct BadListing(pub Digest);

impl Listing {
    /// What the bytes of every listing begin with.
    pub(super) const MAGIC: &[u8; 17] = b"retune listing 1\n";

    /// The listing's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let entries = self.entries.iter();
        Self::bytes_of(entries.map(|entry| (&entry.name[..], entry.artifact)))
    }

    /// The bytes of the listing with these entries, which are sorted by name.
    pub(super) fn bytes_of<'a>(entries: impl Iterator<Item = (&'a [u8], Artifact)>) -> Vec<u8> {
        let mut bytes = LISTING_MAGIC.to_vec();
        for (name, artifact) in entries {
            bytes.push(match artifact.shape {
                Shape::File => b'f',
                Shape::Executable => b'x',
                Shape::Folder => b'd',
            });
            bytes.extend_from_slice(&artifact.size.to_le_bytes());
            bytes.extend_from_slice(artifact.digest.as_bytes());
            bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
            bytes.extend_from_slice(name);
        }
        bytes
    }

    /// Reads a listing back; `digest` is for the error only.
    pub fn from_bytes(bytes: &[u8], digest: Digest) -> Result<Self, BadListing> {
        Self::parse(bytes).ok_or(BadListing(digest))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(LISTING_MAGIC)?;
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (head, tail) = rest.split_at_checked(ENTRY_HEAD)?;
            let shape = match head[0] {
                b'f' => Shape::File,
                b'x' => Shape::Executable,
                b'd' => Shape::Folder,
                _ => return None,
            };
            let size = u64::from_le_bytes(head[1..9].try_into().ok()?);
            let digest = Digest::from_bytes(head[9..41].try_into().ok()?);
            let length = u32::from_le_bytes(head[41..45].try_into().ok()?) as usize;
            let (name, tail) = tail.split_at_checked(length)?;
            // A name is one path component: a damaged or hostile listing must
            // not reach outside of the folder it is put into.
            if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
                return None;
            }
            entries.push(ListEntry {
                name: name.to_vec(),
                artifact: Artifact {
                    digest,
                    shape,
                    size,
                },
            });
            rest = tail;
        }
        Some(Listing { entries })
    }

    /// The artifact this listing describes.
    pub fn artifact(&self) -> Artifact {
        self.artifact_of(&self.to_bytes())
    }

    /// The artifact, by the listing's bytes.
    pub(super) fn artifact_of(&self, bytes: &[u8]) -> Artifact {
        Artifact {
            digest: Digest::of(bytes),
            shape: Shape::Folder,
            size: self.entries.iter().map(|e| e.artifact.size).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn artifact() -> impl Strategy<Value = Artifact> {
        (any::<[u8; 32]>(), 0..3, any::<u32>()).prop_map(|(digest, shape, size)| Artifact {
            digest: Digest::from_bytes(digest),
            shape: [Shape::File, Shape::Executable, Shape::Folder][shape as usize],
            size: u64::from(size),
        })
    }

    proptest! {
        #[test]
        fn listings_round_trip(entries in prop::collection::vec((prop::collection::vec(1..47u8, 1..9), artifact()), 0..9)) {
            let entries = entries.into_iter()
                .map(|(name, artifact)| ListEntry { name: name.iter().map(|b| b + 64).collect(), artifact })
                .collect();
            let listing = Listing { entries };
            let bytes = listing.to_bytes();
            prop_assert_eq!(Listing::from_bytes(&bytes, Digest::of(b"")).unwrap(), listing);
        }

        #[test]
        fn damaged_listings_are_refused_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..99), magic: bool) {
            if magic {
                bytes.splice(0..0, LISTING_MAGIC.iter().copied());
            }
            let _ = Listing::from_bytes(&bytes, Digest::of(b""));
        }
    }

    #[test]
    fn a_name_that_leaves_the_folder_is_refused() {
        for name in ["..", ".", "a/b", ""] {
            let listing = Listing {
                entries: vec![ListEntry {
                    name: name.into(),
                    artifact: Listing::default().artifact(),
                }],
            };
            assert!(Listing::from_bytes(&listing.to_bytes(), Digest::of(b"")).is_err());
        }
    }
}
