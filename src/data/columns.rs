//! Numbers that are kept for every row and looked at a column at a time: on disk, in files nobody else sees.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::files::{FileError, PathContext};

/// Columns of 64-bit numbers, one number of each for every row.
///
/// The files are unlinked as soon as they are made: whatever ends the process,
/// nothing of them stays.
pub struct Columns {
    folder: PathBuf,
    files: Vec<BufWriter<File>>,
}

impl Columns {
    /// `count` empty columns in files of `folder`.
    pub fn new(folder: &Path, count: usize) -> Result<Self, FileError> {
        let one = |_| {
            let file = tempfile::tempfile_in(folder).on("create a temporary file in", folder)?;
            Ok(BufWriter::with_capacity(64 << 10, file))
        };
        Ok(Columns {
            folder: folder.to_owned(),
            files: (0..count).map(one).collect::<Result<_, FileError>>()?,
        })
    }

    /// How many columns there are.
    pub fn count(&self) -> usize {
        self.files.len()
    }

    /// The numbers of the next row, one of each column.
    pub fn push(&mut self, numbers: &[u64]) -> Result<(), FileError> {
        assert_eq!(numbers.len(), self.files.len(), "a number of each column");
        for (file, number) in self.files.iter_mut().zip(numbers) {
            let written = file.write_all(&number.to_le_bytes());
            written.on("write a temporary file in", &self.folder)?;
        }
        Ok(())
    }

    /// A column, as (number, row).
    pub fn column(&mut self, at: usize) -> Result<Vec<(u64, u32)>, FileError> {
        let file = &mut self.files[at];
        let mut read = || -> std::io::Result<Vec<(u64, u32)>> {
            file.flush()?;
            let file = file.get_mut();
            let rows = file.stream_position()? / 8;
            file.rewind()?;
            let mut from = std::io::BufReader::with_capacity(1 << 20, &mut *file);
            let mut all = Vec::with_capacity(rows as usize);
            let mut number = [0; 8];
            for row in 0..rows as u32 {
                from.read_exact(&mut number)?;
                all.push((u64::from_le_bytes(number), row));
            }
            drop(from);
            file.seek(std::io::SeekFrom::Start(rows * 8))?;
            Ok(all)
        };
        read().on("read a temporary file in", &self.folder)
    }
}
