//! The log of a run as TensorBoard reads it: records of `Event` messages with scalars.
//!
//! A record is the length of its data as u64, the masked CRC-32C of these eight
//! bytes, the data, and its masked CRC-32C, all little-endian (TensorFlow's
//! `lib/io/record_writer`). The messages are those of `event.proto` and
//! `summary.proto`, of which four fields are needed.
//!
//! An event's `wall_time` is its step, as so many seconds: the clock has no
//! place in a result, so that TensorBoard's axis *Relative* shows steps.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::summary::LogLine;
use crate::files::{self, FileError, PathContext};

/// TensorBoard reads files whose name has `tfevents` in it.
pub const FILE: &str = "events.out.tfevents.0.retune";

/// Field numbers with their wire types.
mod field {
    pub const WALL_TIME: u8 = 1 << 3 | 1;
    pub const STEP: u8 = 2 << 3;
    pub const FILE_VERSION: u8 = 3 << 3 | 2;
    pub const SUMMARY: u8 = 5 << 3 | 2;
    pub const VALUE: u8 = 1 << 3 | 2;
    pub const TAG: u8 = 1 << 3 | 2;
    pub const SIMPLE_VALUE: u8 = 2 << 3 | 5;
}

/// Writes one file.
pub struct EventWriter {
    out: BufWriter<File>,
    path: PathBuf,
}

impl EventWriter {
    /// Begins the file.
    pub fn create(path: &Path) -> Result<Self, FileError> {
        let mut writer = EventWriter {
            out: BufWriter::new(files::create(path)?),
            path: path.to_owned(),
        };
        let mut event = head(0);
        bytes(&mut event, field::FILE_VERSION, b"brain.Event:2");
        writer.record(&event)?;
        Ok(writer)
    }

    /// Writes a line of the log.
    pub fn line(&mut self, line: &LogLine) -> Result<(), FileError> {
        let event = match *line {
            LogLine::Step {
                step,
                loss,
                learning_rate,
                grad_norm,
                ..
            } => event(
                step,
                &[
                    ("loss", loss),
                    ("learning_rate", learning_rate),
                    ("grad_norm", grad_norm),
                ],
            ),
            LogLine::Validation {
                step,
                validation_loss,
            } => event(step, &[("validation_loss", validation_loss)]),
        };
        self.record(&event)
    }

    /// Completes the file.
    pub fn finish(mut self) -> Result<(), FileError> {
        self.out.flush().on("write", &self.path)
    }

    fn record(&mut self, data: &[u8]) -> Result<(), FileError> {
        self.out.write_all(&record(data)).on("write", &self.path)
    }
}

/// Data with its length and both checks.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked(data).to_le_bytes());
    record
}

/// CRC-32C, turned and shifted: a check of data that holds checks stays good.
fn masked(data: &[u8]) -> u32 {
    let crc = crc32c::crc32c(data);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// An event with scalars.
fn event(step: u64, scalars: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let mut entry = Vec::new();
        bytes(&mut entry, field::TAG, tag.as_bytes());
        entry.push(field::SIMPLE_VALUE);
        entry.extend((*value as f32).to_le_bytes());
        bytes(&mut summary, field::VALUE, &entry);
    }
    let mut event = head(step);
    bytes(&mut event, field::SUMMARY, &summary);
    event
}

/// Time and step of an event; zeros are left out, as proto3 has it.
fn head(step: u64) -> Vec<u8> {
    if step == 0 {
        return Vec::new();
    }
    let mut event = vec![field::WALL_TIME];
    event.extend((step as f64).to_le_bytes());
    event.push(field::STEP);
    varint(&mut event, step);
    event
}

fn bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4.
    #[test]
    fn the_check_is_that_of_the_standard() {
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c::crc32c(&[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c::crc32c(&rising), 0x46dd_794e);
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }

    /// Written by TensorBoard's own `RecordWriter` and `event_pb2`
    /// (tensorboard 2.21, protobuf 7), see `tests/interop/tfevents.py`.
    #[test]
    fn a_file_has_the_bytes_that_tensorboard_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let mut writer = EventWriter::create(&path).unwrap();
        writer
            .line(&LogLine::Step {
                step: 300,
                tokens: 9,
                loss: 2.5,
                learning_rate: 0.125,
                grad_norm: 0.75,
            })
            .unwrap();
        writer
            .line(&LogLine::Validation {
                step: 300,
                validation_loss: 2.25,
            })
            .unwrap();
        writer.finish().unwrap();
        let hex: String = files::read(&path)
            .unwrap()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        insta::assert_snapshot!(hex, @"0f000000000000006d532b091a0d627261696e2e4576656e743a32fc9851294300000000000000b18525a0090000000000c0724010ac022a350a0b0a046c6f737315000020400a140a0d6c6561726e696e675f72617465150000003e0a100a09677261645f6e6f726d150000403f1998d38f2600000000000000734fe300090000000000c0724010ac022a180a160a0f76616c69646174696f6e5f6c6f73731500001040ed0e73d6");
    }
}
