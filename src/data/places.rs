//! The rows of files by their number: passed over in order, or read again one at a time where they lie.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::stream::{Blocks, Line, each_line, parse_line};
use super::{DataError, Row};
use crate::files::{self, PathContext};

/// Files of rows, seen as one list. A row is known by its number in all of
/// them; eight bytes for each are kept, and nothing else.
#[derive(Default)]
pub struct Places {
    files: Vec<Listed>,
    /// The first byte of each row in its file.
    starts: Vec<u64>,
}

struct Listed {
    path: PathBuf,
    file: File,
    /// Its rows are those from here on.
    first: usize,
    size: u64,
}

impl Places {
    /// Passes over the rows of `files` for the first time. `work` sees each
    /// row's number and is done on all cores, `sink` gets the results in order.
    pub fn read<T, W, S>(files: &[&Path], work: W, mut sink: S) -> Result<Self, DataError>
    where
        T: Send,
        W: Fn(usize, Row) -> Result<T, DataError> + Sync,
        S: FnMut(T) -> Result<(), DataError>,
    {
        let mut places = Places::default();
        for path in files {
            places.add(path, &work, &mut sink)?;
        }
        Ok(places)
    }

    /// Adds a file and passes over its rows for the first time.
    pub fn add<T, W, S>(&mut self, path: &Path, work: W, mut sink: S) -> Result<(), DataError>
    where
        T: Send,
        W: Fn(usize, Row) -> Result<T, DataError> + Sync,
        S: FnMut(T) -> Result<(), DataError>,
    {
        let file = files::open(path)?;
        let size = file.metadata().on("read", path)?.len();
        let first = self.starts.len();
        let starts = &mut self.starts;
        let one = |line: Line<'_>| {
            let number = first + line.number as usize - 1;
            Ok((line.start, work(number, parse_line(path, line)?)?))
        };
        each_line(Blocks::open(path)?, one, |(start, done)| {
            starts.push(start);
            sink(done)
        })?;
        self.files.push(Listed {
            path: path.to_owned(),
            file,
            first,
            size,
        });
        match u32::try_from(self.len()) {
            Ok(_) => Ok(()),
            Err(_) => Err(DataError::Invalid(format!(
                "{} rows are more than can be compared at once (4 294 967 295)",
                self.len()
            ))),
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// The number of the first row of each file, and that behind the last.
    pub fn bounds(&self) -> Vec<usize> {
        let firsts = self.files.iter().map(|file| file.first);
        firsts.chain([self.len()]).collect()
    }

    /// Passes over the rows of all files again.
    pub fn each<T, W, S>(&self, work: W, sink: S) -> Result<(), DataError>
    where
        T: Send,
        W: Fn(usize, Row) -> Result<T, DataError> + Sync,
        S: FnMut(T) -> Result<(), DataError>,
    {
        self.each_of(0..self.files.len(), work, sink)
    }

    /// Passes over the rows of some of the files.
    pub fn each_of<T, W, S>(
        &self,
        some: std::ops::Range<usize>,
        work: W,
        mut sink: S,
    ) -> Result<(), DataError>
    where
        T: Send,
        W: Fn(usize, Row) -> Result<T, DataError> + Sync,
        S: FnMut(T) -> Result<(), DataError>,
    {
        for listed in &self.files[some] {
            let one = |line: Line<'_>| {
                let number = listed.first + line.number as usize - 1;
                work(number, parse_line(&listed.path, line)?)
            };
            each_line(Blocks::open(&listed.path)?, one, &mut sink)?;
        }
        Ok(())
    }

    /// Passes over the lines of all files as they are.
    pub fn each_line_as_it_is(
        &self,
        mut sink: impl FnMut(usize, &[u8]) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        for listed in &self.files {
            for block in Blocks::open(&listed.path)? {
                for line in block?.lines() {
                    sink(listed.first + line.number as usize - 1, line.bytes)?;
                }
            }
        }
        Ok(())
    }

    /// The row with a number.
    pub fn row(&self, number: usize) -> Result<Row, DataError> {
        let at = self.files.partition_point(|file| file.first <= number);
        let listed = &self.files[at - 1];
        let start = self.starts[number];
        let next = self.files.get(at).map_or(self.len(), |file| file.first);
        let end = match number + 1 < next {
            true => self.starts[number + 1],
            false => listed.size,
        };
        let mut bytes = vec![0; (end - start) as usize];
        let read = listed.file.read_exact_at(&mut bytes, start);
        read.on("read", &listed.path)?;
        let line = Line {
            number: (number - listed.first) as u64 + 1,
            start,
            bytes: bytes.strip_suffix(b"\n").unwrap_or(&bytes),
        };
        parse_line(&listed.path, line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Content, write_rows};

    #[test]
    fn a_row_is_found_again_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let rows: Vec<Row> = (0..7)
            .map(|i| Row::new(Content::Text("x".repeat(i + 1)), Default::default(), "t:1"))
            .collect();
        let paths: Vec<PathBuf> = ["a", "b", "c"].map(|name| folder.path().join(name)).into();
        for (path, rows) in paths.iter().zip([&rows[..3], &[], &rows[3..]]) {
            write_rows(path, rows).unwrap();
        }
        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        let mut seen = Vec::new();
        let places = Places::read(
            &paths,
            |n, row| Ok((n, row)),
            |one| {
                seen.push(one);
                Ok(())
            },
        )
        .unwrap();
        assert_eq!((places.len(), places.bounds()), (7, vec![0, 3, 3, 7]));
        for (n, row) in seen {
            assert_eq!(places.row(n).unwrap(), row);
            assert_eq!(row, rows[n]);
        }
    }
}
