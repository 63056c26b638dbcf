//! Two files of which nothing more is known: where they begin to differ.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use serde::Serialize;

use super::count;
use crate::files::{self, FileError, PathContext};

/// Where two files begin to differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BytesDifference {
    /// The first byte that differs, from 0; the length of the shorter file
    /// where that is the beginning of the other.
    pub offset: u64,
    /// How many bytes differ up to the end of the shorter file.
    pub differing: u64,
    /// Bytes before.
    pub old_size: u64,
    /// Bytes now.
    pub new_size: u64,
}

impl BytesDifference {
    pub(super) fn line(&self) -> String {
        let sizes = match self.old_size == self.new_size {
            true => format!("of {}", count(self.old_size as usize, "byte")),
            false => format!("sizes {} → {}", self.old_size, self.new_size),
        };
        format!("first differs at byte {}, {sizes}", self.offset)
    }
}

/// Reads both to the end; none when they are the same.
pub(super) fn difference(old: &Path, new: &Path) -> Result<Option<BytesDifference>, FileError> {
    let (mut a, mut b) = (open(old)?, open(new)?);
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    let mut found = BytesDifference {
        offset: 0,
        differing: 0,
        old_size: 0,
        new_size: 0,
    };
    let mut first = None;
    loop {
        let n = fill(&mut a, &mut left).on("read", old)?;
        let m = fill(&mut b, &mut right).on("read", new)?;
        let both = n.min(m);
        if left[..both] != right[..both] {
            let pairs = left[..both].iter().zip(&right[..both]).enumerate();
            for (at, _) in pairs.filter(|(_, (x, y))| x != y) {
                first.get_or_insert(found.old_size + at as u64);
                found.differing += 1;
            }
        }
        found.old_size += n as u64;
        found.new_size += m as u64;
        if both < PIECE {
            break;
        }
    }
    found.old_size += drain(&mut a).on("read", old)?;
    found.new_size += drain(&mut b).on("read", new)?;
    found.offset = match first {
        Some(at) => at,
        None if found.old_size == found.new_size => return Ok(None),
        None => found.old_size.min(found.new_size),
    };
    Ok(Some(found))
}

/// How much is read at a time.
pub(super) const PIECE: usize = 1 << 20;

fn open(path: &Path) -> Result<BufReader<File>, FileError> {
    Ok(BufReader::new(files::open(path)?))
}

fn drain(reader: &mut impl Read) -> io::Result<u64> {
    io::copy(reader, &mut io::sink())
}

/// Reads until the buffer is full or the reader is at its end.
pub(super) fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn between(old: &[u8], new: &[u8]) -> Option<BytesDifference> {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&a, old).unwrap();
        std::fs::write(&b, new).unwrap();
        difference(&a, &b).unwrap()
    }

    proptest! {
        #[test]
        fn the_first_difference_is_found(
            a in prop::collection::vec(0..3u8, 0..20),
            b in prop::collection::vec(0..3u8, 0..20),
        ) {
            let found = between(&a, &b);
            prop_assert_eq!(found.is_none(), a == b);
            if let Some(found) = found {
                let at = found.offset as usize;
                prop_assert_eq!(&a[..at], &b[..at]);
                prop_assert_ne!(a.get(at), b.get(at));
                let differing = a.iter().zip(&b).filter(|(x, y)| x != y).count();
                prop_assert_eq!(found.differing, differing as u64);
                prop_assert_eq!((found.old_size, found.new_size), (a.len() as u64, b.len() as u64));
            }
        }
    }

    #[test]
    fn differences_beyond_a_piece_are_found() {
        let old = vec![0; 2 * PIECE + 5];
        let mut new = old.clone();
        new[PIECE + 3] = 1;
        new.push(9);
        let found = between(&old, &new).unwrap();
        assert_eq!((found.offset, found.differing), (PIECE as u64 + 3, 1));
        assert_eq!(found.new_size, found.old_size + 1);
        let longer = [&old[..], &vec![7; PIECE + 1]].concat();
        let found = between(&old, &longer).unwrap();
        assert_eq!(
            (found.offset, found.new_size),
            (old.len() as u64, longer.len() as u64)
        );
        let words = found.line();
        assert_eq!(
            words,
            "first differs at byte 2097157, sizes 2097157 → 3145734"
        );
    }
}
