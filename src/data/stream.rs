//! JSON lines of any size: read in blocks, worked on by all cores, handed on in order.
//!
//! A whole file is never in memory: as many blocks as there are threads are
//! read, worked on side by side, and given to one consumer in the order of the
//! file. So what is made of a file does not depend on the number of threads,
//! and of several faults the first of the file is the one reported.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::jsonl::json_message;
use super::{DataError, Row};
use crate::files::{self, PathContext};

/// Bytes that a block has at least, the last of a file aside.
const BLOCK: usize = 1 << 20;
/// Bytes that one line may have. More is hardly an example, and what holds a
/// line in memory has to hold all of it.
pub const MAX_LINE: usize = 64 << 20;

/// A line of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its number, from 1.
    pub number: u64,
    /// The place of its first byte in the file.
    pub start: u64,
    /// Its bytes, without its end.
    pub bytes: &'a [u8],
}

/// Whole lines of a file.
pub struct Block {
    /// The number of the first line, from 1.
    first: u64,
    /// The place of the first byte in the file.
    start: u64,
    bytes: Vec<u8>,
}

impl Block {
    /// Its lines.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let text = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        let lines = (!self.bytes.is_empty()).then(|| text.split(|&b| b == b'\n'));
        let numbered = (self.first..).zip(lines.into_iter().flatten());
        numbered.scan(self.start, |next, (number, bytes)| {
            let start = *next;
            *next += bytes.len() as u64 + 1;
            Some(Line {
                number,
                start,
                bytes,
            })
        })
    }
}

/// The blocks of a file, in order.
pub struct Blocks<R> {
    label: PathBuf,
    reader: R,
    next_line: u64,
    next_start: u64,
    /// What was read behind the last whole line.
    rest: Vec<u8>,
    ended: bool,
}

impl Blocks<File> {
    /// Opens `path`.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Ok(Blocks::new(path, files::open(path)?))
    }
}

impl<R: Read> Blocks<R> {
    /// The blocks of what `reader` gives; `label` stands for it in errors.
    pub fn new(label: &Path, reader: R) -> Self {
        Blocks {
            label: label.to_owned(),
            reader,
            next_line: 1,
            next_start: 0,
            rest: Vec::new(),
            ended: false,
        }
    }

    /// Reads until there is a whole line and a block's worth of bytes.
    fn fill(&mut self) -> Result<Option<Block>, DataError> {
        let mut bytes = std::mem::take(&mut self.rest);
        let mut end = 0;
        while !self.ended && (end == 0 || bytes.len() < BLOCK) {
            let before = bytes.len();
            let mut part = (&mut self.reader).take(BLOCK as u64);
            let read = part.read_to_end(&mut bytes).on("read", &self.label)?;
            self.ended = read == 0;
            if let Some(at) = memchr::memrchr(b'\n', &bytes[before..]) {
                end = before + at + 1;
            }
            if end == 0 && bytes.len() > MAX_LINE {
                return Err(too_long(&self.label, self.next_line));
            }
        }
        if self.ended {
            end = bytes.len();
        }
        if end == 0 {
            return Ok(None);
        }
        self.rest = bytes.split_off(end);
        let (first, start) = (self.next_line, self.next_start);
        self.next_line += memchr::memchr_iter(b'\n', &bytes).count() as u64;
        self.next_start += bytes.len() as u64;
        Ok(Some(Block {
            first,
            start,
            bytes,
        }))
    }
}

impl<R: Read> Iterator for Blocks<R> {
    type Item = Result<Block, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.fill().transpose()
    }
}

/// The fault of a line that has more than [`MAX_LINE`] bytes.
pub fn too_long(label: &Path, line: u64) -> DataError {
    let mib = MAX_LINE >> 20;
    let message =
        format!("the line has more than {mib} MiB, which is the most an example may have");
    DataError::line(label, line, message)
}

/// Works on every line on all cores and hands the results to `sink` in the
/// order of the file. Returns the number of lines.
pub fn each_line<R, T, W, S>(mut blocks: Blocks<R>, work: W, mut sink: S) -> Result<u64, DataError>
where
    R: Read,
    T: Send,
    W: Fn(Line<'_>) -> Result<T, DataError> + Sync,
    S: FnMut(T) -> Result<(), DataError>,
{
    let at_once = rayon::current_num_threads();
    let mut lines = 0;
    loop {
        let mut group = Vec::with_capacity(at_once);
        for block in blocks.by_ref().take(at_once) {
            group.push(block?);
        }
        if group.is_empty() {
            return Ok(lines);
        }
        let done: Vec<Result<Vec<T>, DataError>> = group
            .par_iter()
            .map(|block| block.lines().map(&work).collect())
            .collect();
        for results in done {
            for result in results? {
                lines += 1;
                sink(result)?;
            }
        }
    }
}

/// One value of a line; `label` stands for the file in errors.
pub fn parse_line<T: DeserializeOwned>(label: &Path, line: Line<'_>) -> Result<T, DataError> {
    let fault = |message: String| DataError::line(label, line.number, message);
    let text = std::str::from_utf8(line.bytes).map_err(|e| {
        let at = e.valid_up_to() + 1;
        fault(format!(
            "not UTF-8 from byte {at} of the line; if it is Latin-1 or Windows-1252, \
             iconv -f WINDOWS-1252 -t UTF-8 converts it"
        ))
    })?;
    if text.trim().is_empty() {
        let message = "the line is blank; every line is one JSON object";
        return Err(fault(message.to_owned()));
    }
    serde_json::from_str(text).map_err(|e| fault(json_message(&e)))
}

/// Works on every row of a canonical file on all cores (`work` sees the row's
/// place in the file, from 0) and hands the results to `sink` in the order of
/// the file. Returns the number of rows.
pub fn each_row<T, W, S>(path: &Path, work: W, sink: S) -> Result<u64, DataError>
where
    T: Send,
    W: Fn(u64, Row) -> Result<T, DataError> + Sync,
    S: FnMut(T) -> Result<(), DataError>,
{
    let row = |line: Line<'_>| work(line.number - 1, parse_line(path, line)?);
    each_line(Blocks::open(path)?, row, sink)
}

/// A JSON lines file that is being written, line by line.
pub struct LineWriter {
    path: PathBuf,
    to: BufWriter<File>,
    lines: u64,
}

impl LineWriter {
    /// Creates or empties the file.
    pub fn create(path: &Path) -> Result<Self, DataError> {
        Ok(LineWriter {
            path: path.to_owned(),
            to: BufWriter::with_capacity(256 << 10, files::create(path)?),
            lines: 0,
        })
    }

    /// Writes what is one line already, without its end.
    pub fn line(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.lines += 1;
        let written = self.to.write_all(bytes);
        Ok(written
            .and_then(|()| self.to.write_all(b"\n"))
            .on("write", &self.path)?)
    }

    /// Writes one value as compact JSON. To write many, serialise them in
    /// [`each_row`]'s `work`, which runs on all cores, and write the lines.
    pub fn value(&mut self, value: &impl Serialize) -> Result<(), DataError> {
        self.line(&to_line(value)?)
    }

    /// The number of lines so far.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Hands the last bytes to the system.
    pub fn finish(mut self) -> Result<(), DataError> {
        Ok(self.to.flush().on("write", &self.path)?)
    }
}

/// A value as one line of compact JSON, without its end.
pub fn to_line(value: &impl Serialize) -> Result<Vec<u8>, DataError> {
    serde_json::to_vec(value)
        .map_err(|e| DataError::Invalid(format!("failed to write a value as JSON: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(text: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut all = Vec::new();
        let work = |line: Line<'_>| {
            let end = line.start as usize + line.bytes.len();
            assert_eq!(&text[line.start as usize..end], line.bytes);
            Ok((line.number, line.bytes.to_vec()))
        };
        let blocks = Blocks::new(Path::new("t"), text);
        let count = each_line(blocks, work, |line| {
            all.push(line);
            Ok(())
        });
        assert_eq!(count.unwrap(), all.len() as u64);
        all
    }

    #[test]
    fn a_last_line_needs_no_end_and_blank_lines_count() {
        assert!(lines(b"").is_empty());
        assert_eq!(
            lines(b"a\n\nb"),
            [(1, b"a".to_vec()), (2, b"".to_vec()), (3, b"b".to_vec())]
        );
        assert_eq!(lines(b"\n"), [(1, b"".to_vec())]);
    }

    #[test]
    fn the_first_fault_of_the_file_is_reported() {
        let text = "1\n".repeat(BLOCK) + "x\ny\n" + &"1\n".repeat(BLOCK);
        let work = |line: Line<'_>| parse_line::<u8>(Path::new("t.jsonl"), line);
        let blocks = Blocks::new(Path::new("t.jsonl"), text.as_bytes());
        let error = each_line(blocks, work, |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains(&format!("t.jsonl:{}", BLOCK + 1)), "{error}");
    }

    #[test]
    fn a_line_without_an_end_in_sight_is_an_error_not_memory() {
        let endless = std::io::repeat(b'x').take(1 << 40);
        let head: &[u8] = b"ok\n";
        let blocks = Blocks::new(Path::new("t.jsonl"), head.chain(endless));
        let error = each_line(blocks, |_| Ok(()), |()| Ok(())).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("t.jsonl:2") && error.contains("64 MiB"),
            "{error}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn lines_of_any_length_come_whole_and_in_order(
            lengths in prop::collection::vec(0usize..2_000_000, 1..6),
        ) {
            let wanted: Vec<Vec<u8>> = lengths.iter().map(|&n| vec![b'a' + (n % 20) as u8; n]).collect();
            let text = wanted.join(&b'\n');
            let found: Vec<Vec<u8>> = lines(&[text.as_slice(), b"\n"].concat()).into_iter().map(|(_, l)| l).collect();
            prop_assert_eq!(found, wanted);
        }
    }
}
