//! Parquet: records of any such file, and rows in one fixed form.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use arrow_array::builder::{ListBuilder, StringBuilder, StructBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Map, Value};

use super::jsonl::Sorted;
use super::{Content, DataError, Message, Row};
use crate::files;

/// Rows of a batch that goes to the writer.
const BATCH: usize = 4096;
/// Rows of a row group.
const GROUP: usize = 64 << 10;
/// Bytes of a row group at most, before they are packed.
const GROUP_BYTES: usize = 64 << 20;

/// The records of a Parquet file, each as a JSON object, with their number
/// from 1. Times become texts, bytes base64; what is null stays so.
pub fn each_record(
    label: &str,
    file: File,
    each: &mut dyn FnMut(u64, Map<String, Value>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let fault = |row: u64, e: &dyn std::fmt::Display| DataError::Line {
        path: label.to_owned(),
        line: row,
        message: format!("the Parquet file cannot be read from this row on: {e}"),
    };
    let reader = guarded(|| SerializedFileReader::new(file)).map_err(|e| DataError::Document {
        path: label.to_owned(),
        at: "its footer".to_owned(),
        message: format!("this is no whole Parquet file: {e}"),
    })?;
    let mut row = 0;
    for group in 0..reader.num_row_groups() {
        let group = guarded(|| reader.get_row_group(group)).map_err(|e| fault(row + 1, &e))?;
        let mut rows = guarded(|| group.get_row_iter(None)).map_err(|e| fault(row + 1, &e))?;
        while let Some(record) =
            guarded(|| rows.next().transpose()).map_err(|e| fault(row + 1, &e))?
        {
            row += 1;
            match record.to_json_value() {
                Value::Object(map) => each(row, map)?,
                _ => return Err(fault(row, &"a row is no record")),
            }
        }
    }
    Ok(())
}

/// The library's own checks end in a panic on some broken files; here that is
/// one more way to say that the file is broken.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    let read = std::panic::AssertUnwindSafe(read);
    match std::panic::catch_unwind(read) {
        Ok(read) => read.map_err(|e| e.to_string()),
        Err(_) => Err("its pages contradict its description".to_owned()),
    }
}

/// Rows on their way into a Parquet file, packed and written by a thread of their own.
pub struct RowsWriter {
    path: PathBuf,
    batch: Columns,
    to: SyncSender<RecordBatch>,
    writer: JoinHandle<Result<(), ParquetError>>,
}

impl RowsWriter {
    /// Creates the file. The same rows give the same bytes.
    pub fn create(path: &Path) -> Result<Self, DataError> {
        let file = files::create(path)?;
        let level = ZstdLevel::try_new(3).map_err(|e| wrong(path, &e))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_created_by("retune rows 1".to_owned())
            .set_max_row_group_row_count(Some(GROUP))
            .build();
        let mut writer = ArrowWriter::try_new(file, Arc::new(schema()), Some(properties))
            .map_err(|e| wrong(path, &e))?;
        let (to, batches) = sync_channel::<RecordBatch>(2);
        let write = move || {
            for batch in batches {
                writer.write(&batch)?;
                if writer.in_progress_size() > GROUP_BYTES {
                    writer.flush()?;
                }
            }
            writer.close().map(drop)
        };
        Ok(RowsWriter {
            path: path.to_owned(),
            batch: Columns::default(),
            to,
            writer: std::thread::spawn(write),
        })
    }

    /// Adds a row.
    pub fn row(&mut self, row: &Row) -> Result<(), DataError> {
        self.batch.row(row)?;
        if self.batch.rows < BATCH {
            return Ok(());
        }
        self.send()
    }

    fn send(&mut self) -> Result<(), DataError> {
        let batch = self.batch.finish().map_err(|e| wrong(&self.path, &e))?;
        // A writer that is gone says why at the end.
        let _ = self.to.send(batch);
        Ok(())
    }

    /// Writes what is left and the file's end.
    pub fn finish(mut self) -> Result<(), DataError> {
        if self.batch.rows > 0 {
            self.send()?;
        }
        drop(self.to);
        match self.writer.join() {
            Ok(written) => written.map_err(|e| wrong(&self.path, &e)),
            Err(_) => Err(wrong(&self.path, &"the writer ended early")),
        }
    }
}

fn wrong(path: &Path, why: &dyn std::fmt::Display) -> DataError {
    DataError::Invalid(format!("failed to write {}: {why}", path.display()))
}

fn turn() -> Fields {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Fields::from(vec![text("role"), text("content")])
}

fn turns() -> DataType {
    let item = Field::new("item", DataType::Struct(turn()), false);
    DataType::List(Arc::new(item))
}

/// id, messages, text, prompt, chosen, rejected, meta (a JSON object), origin.
fn schema() -> Schema {
    let field = |name: &str, ty: DataType, empty: bool| Field::new(name, ty, empty);
    Schema::new(vec![
        field("id", DataType::Utf8, false),
        field("messages", turns(), true),
        field("text", DataType::Utf8, true),
        field("prompt", turns(), true),
        field("chosen", DataType::Utf8, true),
        field("rejected", DataType::Utf8, true),
        field("meta", DataType::Utf8, false),
        field("origin", DataType::Utf8, false),
    ])
}

/// A list of turns for every row.
type Turns = ListBuilder<StructBuilder>;

/// The columns of a batch.
struct Columns {
    rows: usize,
    id: StringBuilder,
    messages: Turns,
    text: StringBuilder,
    prompt: Turns,
    chosen: StringBuilder,
    rejected: StringBuilder,
    meta: StringBuilder,
    origin: StringBuilder,
}

impl Default for Columns {
    fn default() -> Self {
        let turns = || {
            let item = Field::new("item", DataType::Struct(turn()), false);
            ListBuilder::new(StructBuilder::from_fields(turn(), 0)).with_field(Arc::new(item))
        };
        Columns {
            rows: 0,
            id: StringBuilder::new(),
            messages: turns(),
            text: StringBuilder::new(),
            prompt: turns(),
            chosen: StringBuilder::new(),
            rejected: StringBuilder::new(),
            meta: StringBuilder::new(),
            origin: StringBuilder::new(),
        }
    }
}

impl Columns {
    fn row(&mut self, row: &Row) -> Result<(), DataError> {
        self.rows += 1;
        self.id.append_value(row.id.to_string());
        let (messages, text, preference) = match &row.content {
            Content::Messages(messages) => (Some(messages), None, None),
            Content::Text(text) => (None, Some(text), None),
            Content::Preference {
                prompt,
                chosen,
                rejected,
            } => (None, None, Some((prompt, chosen, rejected))),
        };
        append(&mut self.messages, messages);
        self.text.append_option(text);
        append(&mut self.prompt, preference.map(|(prompt, ..)| prompt));
        self.chosen
            .append_option(preference.map(|(_, chosen, _)| chosen));
        self.rejected
            .append_option(preference.map(|(.., rejected)| rejected));
        let meta: std::collections::BTreeMap<&str, Sorted<'_>> = row
            .meta
            .iter()
            .map(|(name, value)| (name.as_str(), Sorted(value)))
            .collect();
        let meta = serde_json::to_string(&meta);
        self.meta
            .append_value(meta.map_err(|e| DataError::Invalid(e.to_string()))?);
        self.origin.append_value(&row.origin);
        Ok(())
    }

    fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        self.rows = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.id.finish()),
            Arc::new(self.messages.finish()),
            Arc::new(self.text.finish()),
            Arc::new(self.prompt.finish()),
            Arc::new(self.chosen.finish()),
            Arc::new(self.rejected.finish()),
            Arc::new(self.meta.finish()),
            Arc::new(self.origin.finish()),
        ];
        RecordBatch::try_new(Arc::new(schema()), columns)
    }
}

fn append(turns: &mut Turns, messages: Option<&Vec<Message>>) {
    for message in messages.into_iter().flatten() {
        let turn = turns.values();
        for (at, text) in [message.role.name(), &message.content]
            .into_iter()
            .enumerate()
        {
            if let Some(column) = turn.field_builder::<StringBuilder>(at) {
                column.append_value(text);
            }
        }
        turn.append(true);
    }
    turns.append(messages.is_some());
}
