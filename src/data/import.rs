//! Rows from JSON lines files of other makers, by a declared schema.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use super::jsonl::{Lines, Sorted};
use super::{Content, DataError, Message, Role, Row};

/// How a file writes its examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// `messages`: a list of `{"role", "content"}`, the last by the assistant.
    Chat,
    /// `prompt` and `completion`.
    PromptCompletion,
    /// `instruction`, perhaps `input`, and `output`.
    Alpaca,
    /// `text`.
    Text,
}

/// What was imported. `summary.json` is this record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowsSummary {
    /// Version of this file's format.
    pub format: u32,
    /// Rows written.
    pub rows: u64,
    /// Rows by file.
    pub files: BTreeMap<String, u64>,
    /// Rows whose content an earlier row has; they are kept, for
    /// `data.split` to hold together and `data.stats` to count.
    pub duplicates: u64,
}

/// Reads files of one schema into rows, in their order. What the schema does
/// not name goes into the row's metadata (a `meta` or `metadata` object entry
/// by entry). A missing, ill-typed or empty field is an error with file, line
/// and field. `files` holds a label (what errors and origins call the file)
/// and a path each.
pub fn import_rows(
    files: &[(String, PathBuf)],
    schema: Schema,
) -> Result<(Vec<Row>, RowsSummary), DataError> {
    let (mut rows, mut seen) = (Vec::new(), std::collections::BTreeSet::new());
    let mut summary = RowsSummary {
        format: 1,
        rows: 0,
        files: BTreeMap::new(),
        duplicates: 0,
    };
    for (label, path) in files {
        let before = rows.len();
        for line in Lines::<Map<String, Value>>::open(path)? {
            let (number, object) = line?;
            let row = row(label, number, object, schema).map_err(|message| DataError::Line {
                path: label.clone(),
                line: number,
                message,
            })?;
            summary.duplicates += u64::from(!seen.insert(row.id));
            rows.push(row);
        }
        *summary.files.entry(label.clone()).or_default() += (rows.len() - before) as u64;
    }
    summary.rows = rows.len() as u64;
    Ok((rows, summary))
}

fn row(
    label: &str,
    line: u64,
    mut object: Map<String, Value>,
    schema: Schema,
) -> Result<Row, String> {
    let content = match schema {
        Schema::Chat => Content::Messages(messages(&mut object)?),
        Schema::PromptCompletion => {
            let prompt = text(&mut object, "prompt")?;
            pair(prompt, text(&mut object, "completion")?)
        }
        Schema::Alpaca => {
            let mut prompt = text(&mut object, "instruction")?;
            match object.remove("input") {
                None | Some(Value::Null) => {}
                Some(Value::String(input)) if input.trim().is_empty() => {}
                Some(Value::String(input)) => prompt = format!("{prompt}\n\n{input}"),
                Some(other) => return Err(wrong("input", "a string", &other)),
            }
            pair(prompt, text(&mut object, "output")?)
        }
        Schema::Text => Content::Text(text(&mut object, "text")?),
    };
    Ok(Row::new(content, meta(object)?, format!("{label}:{line}")))
}

fn pair(prompt: String, answer: String) -> Content {
    Content::Messages(vec![
        Message::new(Role::User, prompt),
        Message::new(Role::Assistant, answer),
    ])
}

fn wrong(field: &str, wanted: &str, found: &Value) -> String {
    let mut found = serde_json::to_string(&Sorted(found)).unwrap_or_default();
    if found.len() > 40 {
        found = found.chars().take(40).collect::<String>() + "…";
    }
    format!("field `{field}`: expected {wanted}, found {found}")
}

fn text(object: &mut Map<String, Value>, field: &str) -> Result<String, String> {
    match object.remove(field) {
        Some(Value::String(text)) if text.trim().is_empty() => {
            Err(format!("field `{field}` is empty"))
        }
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong(field, "a string", &other)),
        None => Err(format!("missing field `{field}`")),
    }
}

fn messages(object: &mut Map<String, Value>) -> Result<Vec<Message>, String> {
    let items = match object.remove("messages") {
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong("messages", "a list", &other)),
        None => return Err("missing field `messages`".to_owned()),
    };
    let mut messages: Vec<Message> = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let message: Message =
            serde_json::from_value(item).map_err(|e| format!("field `messages[{i}]`: {e}"))?;
        if message.content.trim().is_empty() {
            return Err(format!("field `messages[{i}].content` is empty"));
        }
        messages.push(message);
    }
    match messages.last() {
        Some(last) if last.role == Role::Assistant => Ok(messages),
        Some(_) => Err("field `messages`: the last message is not the assistant's".to_owned()),
        None => Err("field `messages` is empty".to_owned()),
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

    fn import(text: &str, schema: Schema) -> Result<(Vec<Row>, RowsSummary), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, text).unwrap();
        import_rows(&[("d/a.jsonl".into(), path)], schema).map_err(|e| e.to_string())
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
                "`messages[1]`: invalid type: null",
            ),
            (
                ok.replace("assistant", "user"),
                "the last message is not the assistant's",
            ),
            (
                ok.replace("\"content\":\"u\"", "\"text\":\"u\""),
                "`messages[0]`: unknown field `text`",
            ),
            (
                r#"{"messages":"x"}"#.to_owned(),
                "expected a list, found \"x\"",
            ),
            ("[1]".to_owned(), "invalid type"),
        ] {
            let error = import(&format!("{ok}\n{line}\n"), Schema::Chat).unwrap_err();
            assert!(error.contains(message), "{error}");
            assert!(error.contains(":2"), "{error}");
        }
    }
}
