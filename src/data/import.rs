//! Rows from files of other makers, by a declared schema: a missing or ill-typed field is an error with its place, and nothing defaults.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::field::{FieldPath, pull};
use super::items::Items;
use super::jsonl::Sorted;
use super::source::{Format, Source, each_source};
use super::stream::{Blocks, Line, LineWriter, each_line, parse_line, to_line};
use super::strict::{Strict, kind};
use super::{Content, DataError, Message, Role, Row};
use crate::files::PathContext;

/// Records that are worked on side by side.
const BATCH: usize = 1024;
/// Bytes of such records, about.
const BATCH_BYTES: usize = 4 << 20;
/// Dropped records that the summary lists; all are counted.
const LISTED: usize = 1000;

/// How a file writes its examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// `messages`: a list of `{"role", "content"}`, the last by the assistant.
    Chat,
    /// `prompt` and `completion`, each a text or a list of messages.
    PromptCompletion,
    /// `instruction`, perhaps `input`, and `output`.
    Alpaca,
    /// `text`.
    Text,
    /// `prompt`, `chosen` and `rejected`, each a text or a list of messages;
    /// without `prompt` it is what the two lists begin with alike (as TRL has it).
    Preference,
}

/// What becomes of a preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// It stays one.
    Both,
    /// A chat row with the better answer.
    Chosen,
    /// A chat row with the worse answer.
    Rejected,
}

/// Where a file has what the schema names: paths such as `answers.text[0]`, by
/// the schema's own names. What is not listed is where the schema says.
#[derive(Debug, Clone, Default)]
pub struct FieldNames {
    /// Paths by the schema's names.
    pub paths: BTreeMap<String, FieldPath>,
    /// The field of a message with its role, `role` by itself.
    pub role: Option<String>,
    /// The field of a message with its text, `content` by itself.
    pub content: Option<String>,
    /// Other names of roles.
    pub roles: BTreeMap<String, Role>,
    /// A system message that every row begins with.
    pub system: Option<String>,
}

/// What a metadata field has to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Required {
    /// A text that is not empty.
    Text,
    /// A number without a fraction.
    Integer,
    /// Any number.
    Number,
    /// True or false.
    Bool,
    /// A list.
    List,
    /// One of these texts.
    OneOf(Vec<String>),
}

/// How files are imported.
#[derive(Debug, Clone)]
pub struct RowsOptions {
    /// How they write their examples.
    pub schema: Schema,
    /// Where they have them.
    pub fields: FieldNames,
    /// What becomes of preferences.
    pub take: Take,
    /// Metadata that every row must have.
    pub require: BTreeMap<String, Required>,
    /// What the files are, where their names do not say.
    pub format: Option<Format>,
    /// The field of a JSON document with the list of rows.
    pub list: Option<String>,
    /// Records at fault that are dropped, counted and listed; 0: the first is an error.
    pub max_faults: u64,
    /// Whether a file may have no rows.
    pub allow_empty: bool,
}

impl RowsOptions {
    /// The schema as it is, and nothing dropped.
    pub fn new(schema: Schema) -> Self {
        RowsOptions {
            schema,
            fields: FieldNames::default(),
            take: Take::Both,
            require: BTreeMap::new(),
            format: None,
            list: None,
            max_faults: 0,
            allow_empty: false,
        }
    }
}

/// What was imported. `summary.json` is this record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsSummary {
    /// Version of this file's format.
    pub format: u32,
    /// Rows written.
    pub rows: u64,
    /// Rows by file.
    pub files: BTreeMap<String, u64>,
    /// Rows whose content an earlier row has; they are kept, for
    /// `data.split` to hold together and `data.check` to count.
    pub duplicates: u64,
    /// Records at fault that were dropped.
    pub dropped: u64,
    /// The first of them, each with its place and what is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
    /// Files of folders and archives that are in no known format.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// Where rows go, one after the other.
pub trait RowSink {
    /// The next row, and its line in the canonical format.
    fn row(&mut self, row: &Row, line: &[u8]) -> Result<(), DataError>;
}

impl RowSink for LineWriter {
    fn row(&mut self, _: &Row, line: &[u8]) -> Result<(), DataError> {
        self.line(line)
    }
}

#[cfg(feature = "parquet")]
impl RowSink for super::parquet::RowsWriter {
    fn row(&mut self, row: &Row, _: &[u8]) -> Result<(), DataError> {
        super::parquet::RowsWriter::row(self, row)
    }
}

/// Reads files (also archives and folders) of one schema into rows, in their
/// order. What the schema does not name goes into the row's metadata (a `meta`
/// or `metadata` object entry by entry). A missing, ill-typed or empty field is
/// an error with file, line and field. `files` holds a label (what errors and
/// origins call the file) and a path each.
pub fn import_rows(
    files: &[(String, PathBuf)],
    options: &RowsOptions,
    sinks: &mut [&mut dyn RowSink],
) -> Result<RowsSummary, DataError> {
    let mut import = Import {
        options,
        sinks,
        ids: Vec::new(),
        summary: RowsSummary {
            format: 2,
            ..RowsSummary::default()
        },
    };
    for (label, path) in files {
        let before = import.summary.rows + import.summary.dropped;
        let left_out = each_source(label, path, options.format, &mut |source| {
            import.source(source)
        })?;
        import.summary.left_out.extend(left_out);
        let found = import.summary.rows + import.summary.dropped - before;
        if found == 0 && !options.allow_empty {
            return Err(DataError::Invalid(format!(
                "{label} has no rows; `allow_empty = true` takes it as it is"
            )));
        }
    }
    import.ids.par_sort_unstable();
    let distinct = import.ids.chunk_by(|a, b| a == b).count() as u64;
    import.summary.duplicates = import.summary.rows - distinct;
    Ok(import.summary)
}

/// A record of a table, whatever it holds.
pub struct Record {
    /// The file.
    pub label: String,
    /// The line, or in Parquet the row.
    pub place: u64,
    /// Its fields.
    pub fields: Map<String, Value>,
}

/// The records of files in any format, in their order, held in memory.
pub fn read_records(files: &[(String, PathBuf)]) -> Result<Vec<Record>, DataError> {
    let mut all = Vec::new();
    for (label, path) in files {
        each_source(label, path, None, &mut |source| {
            let label = source.label.clone();
            each_raw(source, None, &mut |place, _, raw| {
                let fields = match raw {
                    Raw::Fields(fields) => fields,
                    Raw::Json(bytes) => {
                        let line = Line {
                            number: place,
                            start: 0,
                            bytes: &bytes,
                        };
                        parse_line::<Strict>(Path::new(&label), line)?.0
                    }
                };
                all.push(Record {
                    label: label.clone(),
                    place,
                    fields,
                });
                Ok(())
            })
        })?;
    }
    Ok(all)
}

/// Hands the records of a file to `each`: its place, its size, and what it is.
fn each_raw(
    source: Source,
    list: Option<&str>,
    each: &mut dyn FnMut(u64, usize, Raw) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let label = source.label.clone();
    match source.format {
        Format::JsonLines => {
            let stream = text(&label, source.bytes.stream())?;
            for block in Blocks::new(Path::new(&label), stream) {
                for line in block?.lines() {
                    each(
                        line.number,
                        line.bytes.len(),
                        Raw::Json(line.bytes.to_vec()),
                    )?;
                }
            }
            Ok(())
        }
        Format::Json => {
            let stream = text(&label, source.bytes.stream())?;
            let mut items = Items::new(Path::new(&label), stream);
            while let Some((line, item)) = items.next_item(list)? {
                each(line, item.len(), Raw::Json(item))?;
            }
            Ok(())
        }
        Format::Separated(by) => separated(&label, by, text(&label, source.bytes.stream())?, each),
        Format::Parquet => parquet(&label, source, each),
    }
}

#[cfg(feature = "parquet")]
fn parquet(
    label: &str,
    source: Source,
    each: &mut dyn FnMut(u64, usize, Raw) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let file = source.bytes.file(label)?;
    super::parquet::each_record(label, file, &mut |row, record| {
        let size = record
            .values()
            .map(|value| value.as_str().map_or(64, str::len))
            .sum();
        each(row, size, Raw::Fields(record))
    })
}

#[cfg(not(feature = "parquet"))]
fn parquet(
    label: &str,
    _: Source,
    _: &mut dyn FnMut(u64, usize, Raw) -> Result<(), DataError>,
) -> Result<(), DataError> {
    Err(DataError::Invalid(format!(
        "{label} is Parquet, which this retune was built without (cargo feature `parquet`)"
    )))
}

/// An import on its way.
struct Import<'a, 'b> {
    options: &'a RowsOptions,
    sinks: &'a mut [&'b mut dyn RowSink],
    /// 64 bits of each row's id.
    ids: Vec<u64>,
    summary: RowsSummary,
}

/// A record before it is a row.
enum Raw {
    Json(Vec<u8>),
    Fields(Map<String, Value>),
}

/// What became of a record.
type Made = Result<(Row, Vec<u8>), DataError>;

impl Import<'_, '_> {
    fn source(&mut self, source: Source) -> Result<(), DataError> {
        let (label, options) = (source.label.clone(), self.options);
        self.summary.files.entry(label.clone()).or_default();
        match source.format {
            Format::JsonLines => {
                let stream = text(&label, source.bytes.stream())?;
                let blocks = Blocks::new(Path::new(&label), stream);
                // A fault of the record is one result, a fault of the file ends it.
                let work = |line: Line<'_>| Ok(made(&label, line, options));
                each_line(blocks, work, |made| self.add(&label, made)).map(drop)
            }
            _ => {
                let mut batch = Batch::new(self, &label);
                each_raw(source, options.list.as_deref(), &mut |place, size, raw| {
                    batch.push(place, size, raw)
                })?;
                batch.flush()
            }
        }
    }

    /// Passes a row on, or counts what kept it from being one.
    fn add(&mut self, label: &str, made: Made) -> Result<(), DataError> {
        match made {
            Ok((row, line)) => {
                self.ids.push(row.id.0.prefix());
                self.summary.rows += 1;
                *self.summary.files.entry(label.to_owned()).or_default() += 1;
                self.sinks
                    .iter_mut()
                    .try_for_each(|sink| sink.row(&row, &line))
            }
            Err(fault @ DataError::Line { .. }) if self.options.max_faults > 0 => {
                self.summary.dropped += 1;
                if self.summary.dropped > self.options.max_faults {
                    return Err(DataError::Invalid(format!(
                        "more than {} records are at fault, the last of them: {fault}",
                        self.options.max_faults
                    )));
                }
                if self.summary.faults.len() < LISTED {
                    self.summary.faults.push(fault.to_string());
                }
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }
}

/// Records that are worked on side by side.
struct Batch<'i, 'a, 'b> {
    import: &'i mut Import<'a, 'b>,
    label: String,
    pending: Vec<(u64, Raw)>,
    bytes: usize,
}

impl<'i, 'a, 'b> Batch<'i, 'a, 'b> {
    fn new(import: &'i mut Import<'a, 'b>, label: &str) -> Self {
        Batch {
            import,
            label: label.to_owned(),
            pending: Vec::new(),
            bytes: 0,
        }
    }

    fn push(&mut self, place: u64, size: usize, raw: Raw) -> Result<(), DataError> {
        self.pending.push((place, raw));
        self.bytes += size;
        match self.pending.len() >= BATCH || self.bytes >= BATCH_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), DataError> {
        self.bytes = 0;
        let (label, options) = (self.label.as_str(), self.import.options);
        let pending = std::mem::take(&mut self.pending);
        let done: Vec<Made> = pending
            .into_par_iter()
            .map(|(place, raw)| match raw {
                Raw::Fields(fields) => convert(label, place, fields, options),
                Raw::Json(bytes) => {
                    let line = Line {
                        number: place,
                        start: 0,
                        bytes: &bytes,
                    };
                    made(label, line, options)
                }
            })
            .collect();
        let import = &mut *self.import;
        done.into_iter()
            .try_for_each(|made| import.add(label, made))
    }
}

/// A stream of text: without a byte order mark, and not in another encoding.
fn text(label: &str, stream: Box<dyn Read + Send>) -> Result<Box<dyn Read + Send>, DataError> {
    let path = Path::new(label);
    let mut stream = BufReader::with_capacity(256 << 10, stream);
    let head = stream.fill_buf().on("read", path)?;
    let wide = match head {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        [0, b, ..] | [b, 0, ..] => b.is_ascii_graphic(),
        _ => false,
    };
    if wide {
        return Err(DataError::line(
            path,
            1,
            "the file is UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8",
        ));
    }
    if head.starts_with(&[0xef, 0xbb, 0xbf]) {
        stream.consume(3);
    }
    Ok(Box::new(stream))
}

/// The records of a table whose first line has the names.
fn separated(
    label: &str,
    by: u8,
    stream: Box<dyn Read + Send>,
    each: &mut dyn FnMut(u64, usize, Raw) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut reader = csv::ReaderBuilder::new().delimiter(by).from_reader(stream);
    let names = reader
        .headers()
        .map_err(|e| table_fault(label, &e))?
        .clone();
    let mut seen = std::collections::BTreeSet::new();
    if let Some(name) = names
        .iter()
        .find(|name| name.is_empty() || !seen.insert(*name))
    {
        let what = if name.is_empty() {
            "a column has no name".to_owned()
        } else {
            format!("the column `{name}` stands twice")
        };
        return Err(DataError::line(Path::new(label), 1, what));
    }
    let mut record = csv::StringRecord::new();
    while reader
        .read_record(&mut record)
        .map_err(|e| table_fault(label, &e))?
    {
        let place = record.position().map_or(0, csv::Position::line);
        let fields = names.iter().zip(&record);
        let fields: Map<String, Value> = fields
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        each(place, record.as_slice().len(), Raw::Fields(fields))?;
    }
    Ok(())
}

fn table_fault(label: &str, error: &csv::Error) -> DataError {
    let line = error.position().map_or(1, csv::Position::line);
    let message = match error.kind() {
        csv::ErrorKind::Utf8 { .. } => {
            "not UTF-8; it may be Latin-1 or Windows-1252: iconv -f WINDOWS-1252 -t UTF-8 converts it".to_owned()
        }
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("the record has {len} fields, the first line names {expected_len}")
        }
        _ => error.to_string(),
    };
    DataError::line(Path::new(label), line, message)
}

/// A row and its line, of a JSON object.
fn made(label: &str, line: Line<'_>, options: &RowsOptions) -> Made {
    let Strict(object) = parse_line(Path::new(label), line)?;
    convert(label, line.number, object, options)
}

fn convert(label: &str, place: u64, object: Map<String, Value>, options: &RowsOptions) -> Made {
    let row = row(label, place, object, options)
        .map_err(|message| DataError::line(Path::new(label), place, message))?;
    let line = to_line(&row)?;
    Ok((row, line))
}

fn row(
    label: &str,
    line: u64,
    mut object: Map<String, Value>,
    options: &RowsOptions,
) -> Result<Row, String> {
    let mut record = Taken {
        fields: &options.fields,
        object: &mut object,
        taken: Vec::new(),
    };
    let content = record.content(options)?;
    let taken = record.taken;
    for name in taken {
        object.remove(&name);
    }
    let mut meta = meta(object)?;
    for (name, required) in &options.require {
        required.check(name, meta.get_mut(name))?;
    }
    Ok(Row::new(content, meta, format!("{label}:{line}")))
}

/// A record that is taken apart.
struct Taken<'a> {
    fields: &'a FieldNames,
    object: &'a mut Map<String, Value>,
    /// Fields of the record of which something was used: they are no metadata.
    taken: Vec<String>,
}

impl Taken<'_> {
    /// What the schema calls `name`, with the name it has in this file.
    fn get(&mut self, name: &str) -> Result<(String, Option<Value>), String> {
        match self.fields.paths.get(name) {
            None => Ok((name.to_owned(), self.object.remove(name))),
            Some(path) => {
                self.taken.push(path.first().to_owned());
                Ok((path.to_string(), pull(self.object, path)?))
            }
        }
    }

    fn text(&mut self, name: &str) -> Result<String, String> {
        let (field, value) = self.get(name)?;
        full(&field, value)
    }

    /// A text that may be missing, null or empty.
    fn some_text(&mut self, name: &str) -> Result<Option<String>, String> {
        let (field, value) = self.get(name)?;
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(&field, "a string", &other)),
        }
    }

    fn content(&mut self, options: &RowsOptions) -> Result<Content, String> {
        let content = match options.schema {
            Schema::Chat => Content::Messages(self.chat()?),
            Schema::PromptCompletion => {
                let mut messages = self.turns("prompt", Role::User)?;
                messages.extend(self.turns("completion", Role::Assistant)?);
                Content::Messages(messages)
            }
            Schema::Alpaca => {
                let mut prompt = self.text("instruction")?;
                if let Some(input) = self.some_text("input")? {
                    prompt = format!("{prompt}\n\n{input}");
                }
                let turns = [
                    (Role::User, prompt),
                    (Role::Assistant, self.text("output")?),
                ];
                Content::Messages(turns.map(|(role, text)| Message::new(role, text)).into())
            }
            Schema::Text => Content::Text(self.text("text")?),
            Schema::Preference => self.preference(options.take)?,
        };
        let system = self.fields.system.clone();
        let system = match self.fields.paths.contains_key("system") {
            true => self.some_text("system")?.or(system),
            false => system,
        };
        Ok(match (system, content) {
            (Some(system), Content::Messages(turns)) => Content::Messages(led(&system, turns)),
            (
                Some(system),
                Content::Preference {
                    prompt,
                    chosen,
                    rejected,
                },
            ) => Content::Preference {
                prompt: led(&system, prompt),
                chosen,
                rejected,
            },
            (_, content) => content,
        })
    }

    fn chat(&mut self) -> Result<Vec<Message>, String> {
        let (field, value) = self.get("messages")?;
        let messages = self.messages(&field, value)?;
        match messages.last().map(|last| last.role) {
            Some(Role::Assistant) => Ok(messages),
            _ => Err(format!(
                "field `{field}`: the last message is not the assistant's"
            )),
        }
    }

    /// A text as one message by `role`, or a list of messages.
    fn turns(&mut self, name: &str, role: Role) -> Result<Vec<Message>, String> {
        let (field, value) = self.get(name)?;
        match value {
            Some(Value::Array(_)) => self.messages(&field, value),
            value => Ok(vec![Message::new(role, full(&field, value)?)]),
        }
    }

    fn messages(&self, field: &str, value: Option<Value>) -> Result<Vec<Message>, String> {
        let items = match value {
            Some(Value::Array(items)) => items,
            Some(other) => return Err(wrong(field, "a list", &other)),
            None => return Err(format!("missing field `{field}`")),
        };
        if items.is_empty() {
            return Err(format!("field `{field}` is empty"));
        }
        let one = |(i, item)| self.message(&format!("{field}[{i}]"), item);
        items.into_iter().enumerate().map(one).collect()
    }

    fn message(&self, field: &str, item: Value) -> Result<Message, String> {
        let Value::Object(mut item) = item else {
            return Err(wrong(field, "an object", &item));
        };
        let (role, content) = (self.fields.role.as_deref(), self.fields.content.as_deref());
        let (role, content) = (role.unwrap_or("role"), content.unwrap_or("content"));
        let speaker = full(&format!("{field}.{role}"), item.remove(role))?;
        let text = full(&format!("{field}.{content}"), item.remove(content))?;
        // What else a message has would be lost: calls of tools, images, names.
        if let Some((name, _)) = item.iter().find(|(_, value)| !value.is_null()) {
            return Err(format!(
                "field `{field}`: unknown field `{name}`, expected `{role}` and `{content}`"
            ));
        }
        let role = match self.fields.roles.get(&speaker) {
            Some(role) => *role,
            None => Role::of_name(&speaker).ok_or_else(|| {
                format!("field `{field}.{role}`: unknown role '{speaker}', expected system, user or assistant")
            })?,
        };
        Ok(Message::new(role, text))
    }

    fn preference(&mut self, take: Take) -> Result<Content, String> {
        let mut prompt = match self.get("prompt")? {
            (_, None | Some(Value::Null)) => Vec::new(),
            (field, value @ Some(Value::Array(_))) => self.messages(&field, value)?,
            (field, value) => vec![Message::new(Role::User, full(&field, value)?)],
        };
        let mut chosen = self.turns("chosen", Role::Assistant)?;
        let mut rejected = self.turns("rejected", Role::Assistant)?;
        let alike = chosen
            .iter()
            .zip(&rejected)
            .take_while(|(a, b)| a == b)
            .count();
        let alike = alike.min(chosen.len() - 1).min(rejected.len() - 1);
        prompt.extend(chosen.drain(..alike));
        rejected.drain(..alike);
        match (&chosen[..], &rejected[..]) {
            ([chosen], [rejected])
                if chosen.role == Role::Assistant && rejected.role == Role::Assistant && !prompt.is_empty() => {
                    let answer = match take {
                        Take::Both => {
                            return Ok(Content::Preference {
                                prompt,
                                chosen: chosen.content.clone(),
                                rejected: rejected.content.clone(),
                            });
                        }
                        Take::Chosen => chosen,
                        Take::Rejected => rejected,
                    };
                    prompt.push(answer.clone());
                    Ok(Content::Messages(prompt))
                }
            _ if prompt.is_empty() => Err("missing field `prompt`, and `chosen` and `rejected` begin with no message alike".to_owned()),
            _ => Err("fields `chosen` and `rejected`: they are not one answer of the assistant each, to the same prompt".to_owned()),
        }
    }
}

/// Messages with a system message first, in place of one they may have.
fn led(system: &str, turns: Vec<Message>) -> Vec<Message> {
    let first = Message::new(Role::System, system);
    let rest = turns
        .into_iter()
        .skip_while(|turn| turn.role == Role::System);
    std::iter::once(first).chain(rest).collect()
}

fn wrong(field: &str, wanted: &str, found: &Value) -> String {
    let mut shown = serde_json::to_string(&Sorted(found)).unwrap_or_default();
    if shown.len() > 40 {
        shown = shown.chars().take(40).collect::<String>() + "…";
    }
    format!(
        "field `{field}`: expected {wanted}, found {} {shown}",
        kind(found)
    )
}

/// A text that is there and says something.
fn full(field: &str, value: Option<Value>) -> Result<String, String> {
    match value {
        Some(Value::String(text)) if text.trim().is_empty() => {
            Err(format!("field `{field}` is empty"))
        }
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong(field, "a string", &other)),
        None => Err(format!("missing field `{field}`")),
    }
}

impl Required {
    /// Checks a value; a text that a table has for a number becomes the number.
    fn check(&self, name: &str, value: Option<&mut Value>) -> Result<(), String> {
        let Some(value) = value else {
            return Err(format!("missing field `{name}`, which `require` asks for"));
        };
        if let (Required::Integer | Required::Number | Required::Bool, Value::String(text)) =
            (self, &*value)
            && let Ok(read @ (Value::Number(_) | Value::Bool(_))) =
                serde_json::from_str(text.trim())
        {
            *value = read;
        }
        let (holds, wanted) = match self {
            Required::Text => (
                value.as_str().is_some_and(|text| !text.trim().is_empty()),
                "a string that is not empty",
            ),
            Required::Integer => (value.is_i64() || value.is_u64(), "an integer"),
            Required::Number => (value.is_number(), "a number"),
            Required::Bool => (value.is_boolean(), "true or false"),
            Required::List => (value.is_array(), "a list"),
            Required::OneOf(names) => {
                let known = value
                    .as_str()
                    .is_some_and(|text| names.iter().any(|name| name == text));
                if !known {
                    return Err(wrong(name, &format!("one of {}", names.join(", ")), value));
                }
                (true, "")
            }
        };
        if holds {
            Ok(())
        } else {
            Err(wrong(name, wanted, value))
        }
    }
}

fn meta(object: Map<String, Value>) -> Result<BTreeMap<String, Value>, String> {
    let mut meta = BTreeMap::new();
    let mut put = |name: String, value: Value| match meta.insert(name.clone(), value) {
        None => Ok(()),
        Some(_) => Err(format!(
            "field `{name}` stands twice, inside and outside of the metadata"
        )),
    };
    for (name, value) in object {
        match value {
            Value::Object(inner) if name == "meta" || name == "metadata" => {
                for (name, value) in inner {
                    put(name, value)?;
                }
            }
            value => put(name, value)?,
        }
    }
    Ok(meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Vec<Row>);

    impl RowSink for Kept {
        fn row(&mut self, row: &Row, line: &[u8]) -> Result<(), DataError> {
            let line = std::str::from_utf8(line).unwrap();
            assert_eq!(&serde_json::from_str::<Row>(line).unwrap(), row);
            self.0.push(row.clone());
            Ok(())
        }
    }

    fn import_as(
        name: &str,
        bytes: &[u8],
        options: &RowsOptions,
    ) -> Result<(Vec<Row>, RowsSummary), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, bytes).unwrap();
        assert!(name.contains('.'), "the name says what it is");
        let mut kept = Kept::default();
        let summary = import_rows(&[(name.into(), path)], options, &mut [&mut kept]);
        Ok((kept.0, summary.map_err(|e| e.to_string())?))
    }

    fn import(text: &str, schema: Schema) -> Result<(Vec<Row>, RowsSummary), String> {
        import_as("d/a.jsonl", text.as_bytes(), &RowsOptions::new(schema))
    }

    fn mapped(paths: &[(&str, &str)], schema: Schema) -> RowsOptions {
        let mut options = RowsOptions::new(schema);
        let path = |(name, path): &(&str, &str)| ((*name).to_owned(), path.parse().unwrap());
        options.fields.paths = paths.iter().map(path).collect();
        options
    }

    #[test]
    fn every_schema_gives_rows_with_origin_and_meta() {
        let line = r#"{"prompt":"p","completion":"c","metadata":{"tool":"t"},"n":1}"#;
        let (rows, summary) =
            import(&format!("{line}\n{line}\n"), Schema::PromptCompletion).unwrap();
        assert_eq!(rows[1].origin, "d/a.jsonl:2");
        assert_eq!(rows[0].answer(), Some("c"));
        assert_eq!(rows[0].meta_text("tool").as_deref(), Some("t"));
        assert_eq!(rows[0].meta_text("n").as_deref(), Some("1"));
        assert_eq!((summary.rows, summary.duplicates), (2, 1));
        let alpaca = r#"{"instruction":"i","input":"x","output":"o"}"#;
        let (rows, _) = import(alpaca, Schema::Alpaca).unwrap();
        assert_eq!(rows[0].prompt()[0].content, "i\n\nx");
        let (rows, _) = import(r#"{"text":"t"}"#, Schema::Text).unwrap();
        assert_eq!(rows[0].content, Content::Text("t".into()));
    }

    #[test]
    fn nothing_defaults() {
        let ok =
            r#"{"messages":[{"role":"user","content":"u"},{"role":"assistant","content":"a"}]}"#;
        for (line, message) in [
            (r#"{"message":[]}"#.to_owned(), "missing field `messages`"),
            (
                ok.replace("\"a\"", "\" \""),
                "`messages[1].content` is empty",
            ),
            (
                ok.replace("\"a\"", "null"),
                "`messages[1].content`: expected a string, found null",
            ),
            (
                ok.replace("assistant", "user"),
                "the last message is not the assistant's",
            ),
            (
                ok.replace("\"content\":\"u\"", "\"text\":\"u\""),
                "missing field `messages[0].content`",
            ),
            (
                r#"{"messages":"x"}"#.to_owned(),
                "expected a list, found a string \"x\"",
            ),
            ("[1]".to_owned(), "expected an object, found a list"),
        ] {
            let error = import(&format!("{ok}\n{line}\n"), Schema::Chat).unwrap_err();
            assert!(error.contains(message), "{error}");
            assert!(error.contains(":2"), "{error}");
        }
    }

    #[test]
    fn preferences_come_in_all_forms() {
        let explicit = r#"{"prompt":"p","chosen":"good","rejected":"bad"}"#;
        let implicit = r#"{"chosen":[{"role":"user","content":"p"},{"role":"assistant","content":"good"}],"rejected":[{"role":"user","content":"p"},{"role":"assistant","content":"bad"}]}"#;
        let text = format!("{explicit}\n{implicit}\n");
        let (rows, summary) = import(&text, Schema::Preference).unwrap();
        assert_eq!(rows[0].id, rows[1].id);
        assert_eq!(summary.duplicates, 1);
        assert_eq!(
            (rows[0].answer(), rows[0].prompt().len()),
            (Some("good"), 1)
        );
        assert_eq!(rows[0].texts().collect::<Vec<_>>(), ["p", "good", "bad"]);
        let mut options = RowsOptions::new(Schema::Preference);
        options.take = Take::Rejected;
        let (rows, _) = import_as("a.jsonl", text.as_bytes(), &options).unwrap();
        assert!(matches!(&rows[0].content, Content::Messages(m) if m[1].content == "bad"));
        let error = import(r#"{"chosen":"a","rejected":"b"}"#, Schema::Preference).unwrap_err();
        assert!(error.contains("missing field `prompt`"), "{error}");
    }

    #[test]
    fn fields_are_where_the_mapping_says() {
        let mut options = mapped(&[("messages", "conversations")], Schema::Chat);
        options.fields.role = Some("from".into());
        options.fields.content = Some("value".into());
        options.fields.roles = [
            ("human".into(), Role::User),
            ("gpt".into(), Role::Assistant),
        ]
        .into();
        options.fields.system = Some("be brief".into());
        let line =
            r#"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}],"n":1}"#;
        let (rows, _) = import_as("a.jsonl", line.as_bytes(), &options).unwrap();
        assert_eq!(rows[0].texts().collect::<Vec<_>>(), ["be brief", "q", "a"]);
        assert_eq!(rows[0].meta.keys().collect::<Vec<_>>(), ["n"]);
        let options = mapped(
            &[("prompt", "question"), ("completion", "answers.text[1]")],
            Schema::PromptCompletion,
        );
        let line = r#"{"question":"q","answers":{"text":["x","y"]},"id":"7"}"#;
        let (rows, _) = import_as("a.jsonl", line.as_bytes(), &options).unwrap();
        assert_eq!(
            (rows[0].answer(), rows[0].meta_text("id").as_deref()),
            (Some("y"), Some("7"))
        );
        let error =
            import_as("a.jsonl", line.replace(",\"y\"", "").as_bytes(), &options).unwrap_err();
        assert!(error.contains("missing field `answers.text[1]`"), "{error}");
    }

    #[test]
    fn what_is_required_is_checked_by_type() {
        let mut options = RowsOptions::new(Schema::Text);
        options.require = [
            ("n".to_owned(), Required::Integer),
            (
                "severity".to_owned(),
                Required::OneOf(vec!["low".into(), "high".into()]),
            ),
        ]
        .into();
        let good = r#"{"text":"t","n":3,"severity":"low"}"#;
        for (line, message) in [
            (
                good.replace("3", "3.5"),
                "`n`: expected an integer, found a number 3.5",
            ),
            (
                good.replace("low", "odd"),
                "`severity`: expected one of low, high, found a string \"odd\"",
            ),
            (
                good.replace("\"n\":3,", ""),
                "missing field `n`, which `require` asks for",
            ),
        ] {
            let error = import_as("a.jsonl", line.as_bytes(), &options).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        // In a table everything is text.
        let (rows, _) = import_as("a.csv", b"text,n,severity\nt,4,low\n", &options).unwrap();
        assert_eq!(rows[0].meta["n"], 4);
    }

    #[test]
    fn dropped_records_are_counted_and_listed_and_never_more_than_allowed() {
        let text = "{\"text\":\"a\"}\n{\"text\":\"\"}\nnonsense\n{\"text\":\"b\"}\n";
        let mut options = RowsOptions::new(Schema::Text);
        options.max_faults = 2;
        let (rows, summary) = import_as("a.jsonl", text.as_bytes(), &options).unwrap();
        assert_eq!((rows.len(), summary.dropped), (2, 2));
        assert!(summary.faults[0].contains("a.jsonl:2") && summary.faults[1].contains("a.jsonl:3"));
        options.max_faults = 1;
        let error = import_as("a.jsonl", text.as_bytes(), &options).unwrap_err();
        assert!(
            error.contains("more than 1 records are at fault") && error.contains("a.jsonl:3"),
            "{error}"
        );
    }

    #[test]
    fn tables_and_documents_keep_their_lines() {
        let options = RowsOptions::new(Schema::PromptCompletion);
        let table = "prompt,completion,tool\n\"two\nlines\",c,x\np,\"c, d\",y\n";
        let (rows, _) = import_as("a.csv", table.as_bytes(), &options).unwrap();
        assert_eq!(
            (rows[0].origin.as_str(), rows[1].origin.as_str()),
            ("a.csv:2", "a.csv:4")
        );
        assert_eq!(rows[1].answer(), Some("c, d"));
        let document = "[\n{\"prompt\":\"p\",\"completion\":\"c\"},\n\n{\"prompt\":\"q\",\"completion\":\"c\"}]";
        let (rows, _) = import_as("a.json", document.as_bytes(), &options).unwrap();
        assert_eq!(rows[1].origin, "a.json:4");
        let mut options = options;
        options.list = Some("data".into());
        let inside = format!("{{\"version\":1,\"data\":{document}}}");
        assert_eq!(
            import_as("a.json", inside.as_bytes(), &options)
                .unwrap()
                .0
                .len(),
            2
        );
    }

    #[test]
    fn bad_files_say_what_and_where() {
        let text = RowsOptions::new(Schema::Text);
        let wide: Vec<u8> = "{\"text\":\"a\"}"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let with_mark = [&[0xff, 0xfe][..], &wide].concat();
        let packed = {
            let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            std::io::Write::write_all(&mut to, "{\"text\":\"a\"}\n".repeat(5000).as_bytes())
                .unwrap();
            to.finish().unwrap()
        };
        let deep = format!(
            "{{\"text\":\"a\",\"m\":{}{}}}",
            "[".repeat(10_000),
            "]".repeat(10_000)
        );
        for (name, bytes, message) in [
            ("a.jsonl", &wide[..], "a.jsonl:1): the file is UTF-16"),
            ("a.jsonl", &with_mark[..], "the file is UTF-16"),
            (
                "a.jsonl",
                b"{\"text\":\"caf\xe9\"}\n",
                "not UTF-8 from byte 13",
            ),
            (
                "a.csv",
                b"text\ncaf\xe9\n",
                "a.csv:2): not UTF-8; it may be Latin-1",
            ),
            (
                "a.csv",
                b"text,b\nx\n",
                "the record has 1 fields, the first line names 2",
            ),
            (
                "a.csv",
                b"text,text\nx,y\n",
                "the column `text` stands twice",
            ),
            (
                "a.jsonl",
                b"{\"text\":\"a\",\"text\":\"b\"}\n",
                "the key `text` stands twice",
            ),
            ("a.jsonl", b"{\"text\":\"a\0b\"}\n", "control character"),
            ("a.jsonl", deep.as_bytes(), "recursion limit exceeded"),
            (
                "a.json",
                deep.as_bytes(),
                "expected '[', the beginning of a list of rows",
            ),
            ("a.jsonl", b"", "a.jsonl has no rows; `allow_empty = true`"),
            (
                "a.jsonl",
                b"{\"text\":\"a\"}\n\n",
                "a.jsonl:2): the line is blank",
            ),
            (
                "a.jsonl.gz",
                &packed[..packed.len() / 2],
                "failed to read a.jsonl.gz",
            ),
            ("a.txt", b"x", "a.txt has no ending of a known format"),
            (
                "a.parquet",
                b"PAR1 not really PAR1",
                "this is no whole Parquet file",
            ),
        ] {
            let error = import_as(name, bytes, &text).unwrap_err();
            assert!(error.contains(message), "{name} {message}: {error}");
        }
        let (rows, _) = import_as("a.jsonl.gz", &packed, &text).unwrap();
        assert_eq!(rows.len(), 5000);
        let marked = b"\xef\xbb\xbf{\"text\":\"a\"}\n";
        assert_eq!(import_as("a.jsonl", marked, &text).unwrap().0.len(), 1);
    }

    #[test]
    fn archives_are_read_and_what_leaves_them_is_refused() {
        let archive = |name: &str| {
            let mut to = tar::Builder::new(Vec::new());
            let text = b"{\"text\":\"a\"}\n";
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            // As no honest program would write it.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            to.append(&header, &text[..]).unwrap();
            to.into_inner().unwrap()
        };
        let text = RowsOptions::new(Schema::Text);
        let (rows, _) = import_as("a.tar", &archive("d/x.jsonl"), &text).unwrap();
        assert_eq!(rows[0].origin, "a.tar!d/x.jsonl:1");
        let (_, summary) = import_as("a.tar", &archive("d/x.jsonl"), &text).unwrap();
        assert!(summary.left_out.is_empty());
        for name in ["../x.jsonl", "/etc/x.jsonl", "a/../../x.jsonl"] {
            let error = import_as("a.tar", &archive(name), &text).unwrap_err();
            assert!(error.contains("names a place outside of it"), "{error}");
        }
    }
}
