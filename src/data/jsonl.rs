//! JSON lines: a streaming reader with the file and line in every error, and a canonical writer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::stream::{Line, MAX_LINE, parse_line, too_long};
use super::{DataError, Row};
use crate::files::{self, PathContext};

/// A JSON value that is written with the keys of its maps sorted, whatever
/// order serde_json was built to keep.
pub struct Sorted<'a>(pub &'a Value);

impl Serialize for Sorted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(items) => serializer.collect_seq(items.iter().map(Sorted)),
            Value::Object(map) => {
                let sorted: BTreeMap<&str, Sorted<'_>> =
                    map.iter().map(|(k, v)| (k.as_str(), Sorted(v))).collect();
                sorted.serialize(serializer)
            }
            plain => plain.serialize(serializer),
        }
    }
}

/// The objects of a JSON lines file one after the other, with their line
/// numbers from 1. Blank lines, broken UTF-8 and values of another shape are
/// errors; nothing is skipped.
pub struct Lines<T> {
    path: PathBuf,
    reader: BufReader<File>,
    number: u64,
    buffer: Vec<u8>,
    of: PhantomData<fn() -> T>,
}

/// The rows of a file, one after the other.
pub type Rows = Lines<Row>;

impl<T: DeserializeOwned> Lines<T> {
    /// Opens `path`.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Ok(Lines {
            path: path.to_owned(),
            reader: BufReader::with_capacity(256 * 1024, files::open(path)?),
            number: 0,
            buffer: Vec::new(),
            of: PhantomData,
        })
    }
}

impl<T: DeserializeOwned> Iterator for Lines<T> {
    type Item = Result<(u64, T), DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.buffer.clear();
        let mut line = (&mut self.reader).take(MAX_LINE as u64 + 1);
        match line
            .read_until(b'\n', &mut self.buffer)
            .on("read", &self.path)
        {
            Ok(n) if n > MAX_LINE => {
                self.number += 1;
                Some(Err(too_long(&self.path, self.number)))
            }
            Ok(0) => None,
            Ok(_) => {
                self.number += 1;
                let line = Line {
                    number: self.number,
                    start: 0,
                    bytes: self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer),
                };
                let value = parse_line(&self.path, line);
                Some(value.map(|value| (self.number, value)))
            }
            Err(e) => Some(Err(e.into())),
        }
    }
}

/// serde_json's message with its "at line 1 column n" turned into the column
/// alone: the line is the file's.
pub(super) fn json_message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(message) => format!("{message} (column {})", error.column()),
        None => text,
    }
}

/// Reads a whole JSON lines file.
pub fn read_jsonl<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, DataError> {
    Lines::open(path)?
        .map(|item| item.map(|(_, value)| value))
        .collect()
}

/// Writes one compact JSON object a line.
pub fn write_jsonl<T: Serialize>(path: &Path, items: &[T]) -> Result<(), DataError> {
    let mut writer = BufWriter::with_capacity(256 * 1024, files::create(path)?);
    for item in items {
        serde_json::to_writer(&mut writer, item)
            .map_err(std::io::Error::from)
            .and_then(|()| writer.write_all(b"\n"))
            .on("write", path)?;
    }
    writer.flush().on("write", path)?;
    Ok(())
}

/// Reads a whole file of rows. Each row's id is checked against its content.
pub fn read_rows(path: &Path) -> Result<Vec<Row>, DataError> {
    read_jsonl(path)
}

/// Writes rows in their order, canonically: the same rows give the same bytes.
pub fn write_rows(path: &Path, rows: &[Row]) -> Result<(), DataError> {
    write_jsonl(path, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Content, Message, Role};
    use proptest::prelude::*;

    fn read(text: &[u8]) -> Result<Vec<Row>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        std::fs::write(&path, text).unwrap();
        let folder = format!("{}/", folder.path().display());
        read_rows(&path).map_err(|e| e.to_string().replace(&folder, ""))
    }

    fn text_row(text: &str) -> Row {
        Row::new(Content::Text(text.into()), BTreeMap::new(), "x:1")
    }

    #[test]
    fn faults_name_the_file_the_line_and_the_field() {
        let good = serde_json::to_string(&text_row("a")).unwrap();
        let id = text_row("a").id;
        for (line, message) in [
            (String::from("{"), "EOF while parsing"),
            (String::new(), "the line is blank"),
            (good.replace("\"meta\":{},", ""), "missing field `meta`"),
            (
                good.replace("\"text\":\"a\",", ""),
                "missing field `messages` or `text`",
            ),
            (
                good.replace("\"origin\"", "\"orgin\""),
                "unknown field `orgin`",
            ),
            (good.replace("\"a\"", "\"b\""), "the row was edited"),
            (good.replace("\"a\"", "1"), "invalid type: integer `1`"),
            (good.replace(&id.to_string(), "zz"), "is not a digest"),
            (
                good.replace(
                    "\"text\":\"a\"",
                    "\"messages\":[{\"role\":\"robot\",\"content\":\"\"}]",
                ),
                "unknown variant `robot`",
            ),
            (
                good.replace("\"text\":\"a\"", "\"messages\":[]"),
                "`messages` is empty",
            ),
        ] {
            let error = read(format!("{good}\n{line}\n").as_bytes()).unwrap_err();
            assert!(error.contains("r.jsonl:2"), "{error}");
            assert!(error.contains(message), "{error}");
        }
        let error = read(b"{\"id\":\"\xff\"}\n").unwrap_err();
        assert!(
            error.contains("r.jsonl:1") && error.contains("not UTF-8 from byte 8"),
            "{error}"
        );
    }

    #[test]
    fn an_empty_file_has_no_rows_and_a_last_line_needs_no_newline() {
        assert_eq!(read(b"").unwrap(), []);
        let good = serde_json::to_string(&text_row("a")).unwrap();
        assert_eq!(read(good.as_bytes()).unwrap(), [text_row("a")]);
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>()
                .prop_filter("finite", |x| x.is_finite())
                .prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,3}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn rows() -> impl Strategy<Value = Row> {
        let role = prop_oneof![Just(Role::System), Just(Role::User), Just(Role::Assistant)];
        let message = (role, any::<String>()).prop_map(|(role, content)| Message { role, content });
        let content = prop_oneof![
            any::<String>().prop_map(Content::Text),
            prop::collection::vec(message, 1..4).prop_map(Content::Messages),
        ];
        (
            content,
            prop::collection::btree_map(".{0,3}", values(), 0..3),
            any::<String>(),
        )
            .prop_map(|(content, meta, origin)| Row::new(content, meta, origin))
    }

    proptest! {
        #[test]
        fn rows_round_trip(rows in prop::collection::vec(rows(), 0..5)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("r.jsonl");
            write_rows(&path, &rows).unwrap();
            prop_assert_eq!(read_rows(&path).unwrap(), rows);
        }

        #[test]
        fn the_reader_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
