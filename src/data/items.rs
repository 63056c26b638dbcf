//! The items of a large JSON document, cut out one after the other without reading it whole.
//!
//! A document is a list, or an object with a list in one of its fields. Only
//! strings and brackets are looked at; each item is parsed where it is used, so
//! what is wrong inside of it is said there, with the item's line.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::DataError;
use super::stream::{MAX_LINE, too_long};
use crate::files::PathContext;

/// The items of a list, each as its bytes with the line on which it begins.
pub struct Items<R> {
    label: PathBuf,
    reader: BufReader<R>,
    line: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Before the list.
    Before,
    /// Behind `[` or an item.
    Inside { first: bool },
    /// Behind the list.
    Done,
}

impl<R: Read> Items<R> {
    /// The items of what `reader` gives, which `label` stands for in errors.
    pub fn new(label: &Path, reader: R) -> Self {
        Items {
            label: label.to_owned(),
            reader: BufReader::with_capacity(256 << 10, reader),
            line: 1,
            state: State::Before,
        }
    }

    fn fault(&self, message: impl Into<String>) -> DataError {
        DataError::line(&self.label, self.line, message)
    }

    fn peek(&mut self) -> Result<Option<u8>, DataError> {
        let buffer = self.reader.fill_buf().on("read", &self.label)?;
        Ok(buffer.first().copied())
    }

    fn bump(&mut self, byte: u8) {
        self.reader.consume(1);
        self.line += u64::from(byte == b'\n');
    }

    /// The next byte that is no white space, not taken yet.
    fn next_sign(&mut self) -> Result<Option<u8>, DataError> {
        while let Some(byte) = self.peek()? {
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            self.bump(byte);
        }
        Ok(None)
    }

    fn expect(&mut self, wanted: u8, what: &str) -> Result<(), DataError> {
        match self.next_sign()? {
            Some(byte) if byte == wanted => {
                self.bump(byte);
                Ok(())
            }
            Some(byte) => {
                Err(self.fault(format!("expected {what}, found '{}'", byte.escape_ascii())))
            }
            None => Err(self.fault(format!(
                "the file ends where {what} should stand: it is not whole"
            ))),
        }
    }

    /// Takes one value, whatever it is; its bytes go to `value`.
    fn value(&mut self, value: &mut Vec<u8>) -> Result<(), DataError> {
        let (mut depth, mut string, mut escaped) = (0usize, false, false);
        let begun = self.line;
        loop {
            let Some(byte) = self.peek()? else {
                return match depth == 0 && !string && !value.is_empty() {
                    true => Ok(()),
                    false => Err(self.fault("the file ends inside of a value: it is not whole")),
                };
            };
            if depth == 0 && !string && !value.is_empty() && matches!(byte, b',' | b']' | b'}') {
                return Ok(());
            }
            self.bump(byte);
            if value.len() >= MAX_LINE {
                return Err(too_long(&self.label, begun));
            }
            value.push(byte);
            match byte {
                _ if escaped => escaped = false,
                b'\\' if string => escaped = true,
                b'"' => string = !string,
                _ if string => {}
                b'[' | b'{' => depth += 1,
                b']' | b'}' => {
                    depth = depth
                        .checked_sub(1)
                        .ok_or_else(|| self.fault("a bracket too many"))?;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
    }

    /// Goes to the list: the document itself, or its field `field`.
    fn enter(&mut self, field: Option<&str>) -> Result<(), DataError> {
        let Some(field) = field else {
            return self.expect(b'[', "'[', the beginning of a list of rows");
        };
        self.expect(
            b'{',
            "'{', the beginning of the object with the list of rows",
        )?;
        if self.next_sign()? == Some(b'}') {
            return Err(self.fault(format!("the document has no field `{field}`")));
        }
        loop {
            self.expect_peek(b'"', "the name of a field")?;
            let mut name = Vec::new();
            self.string(&mut name)?;
            self.expect(b':', "':'")?;
            self.next_sign()?;
            if serde_json::from_slice::<String>(&name).is_ok_and(|name| name == field) {
                return self.expect(b'[', &format!("'[', the list in `{field}`"));
            }
            self.value(&mut Vec::new())?;
            match self.next_sign()? {
                Some(b',') => {
                    self.bump(b',');
                    self.next_sign()?;
                }
                _ => return Err(self.fault(format!("the document has no field `{field}`"))),
            }
        }
    }

    fn expect_peek(&mut self, wanted: u8, what: &str) -> Result<(), DataError> {
        match self.next_sign()? {
            Some(byte) if byte == wanted => Ok(()),
            _ => Err(self.fault(format!("expected {what}"))),
        }
    }

    /// Takes a string with its quotes.
    fn string(&mut self, out: &mut Vec<u8>) -> Result<(), DataError> {
        let mut escaped = false;
        while let Some(byte) = self.peek()? {
            self.bump(byte);
            out.push(byte);
            if out.len() > MAX_LINE {
                return Err(too_long(&self.label, self.line));
            }
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' if out.len() > 1 => return Ok(()),
                _ => {}
            }
        }
        Err(self.fault("the file ends inside of a string: it is not whole"))
    }

    /// The next item; `field` is where the list is, the document itself without.
    pub fn next_item(&mut self, field: Option<&str>) -> Result<Option<(u64, Vec<u8>)>, DataError> {
        if self.state == State::Before {
            self.enter(field)?;
            self.state = State::Inside { first: true };
        }
        let State::Inside { first } = self.state else {
            return Ok(None);
        };
        match self.next_sign()? {
            Some(b']') => {
                self.bump(b']');
                self.state = State::Done;
                return Ok(None);
            }
            _ if first => {}
            _ => {
                self.expect(b',', "',' or ']' behind an item")?;
                self.next_sign()?;
            }
        }
        self.state = State::Inside { first: false };
        let (line, mut item) = (self.line, Vec::new());
        self.value(&mut item)?;
        Ok(Some((line, item)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn items(text: &str, field: Option<&str>) -> Result<Vec<(u64, Value)>, String> {
        let mut items = Items::new(Path::new("d.json"), text.as_bytes());
        let mut all = Vec::new();
        while let Some((line, bytes)) = items.next_item(field).map_err(|e| e.to_string())? {
            all.push((
                line,
                serde_json::from_slice(&bytes).map_err(|e| e.to_string())?,
            ));
        }
        Ok(all)
    }

    #[test]
    fn items_come_with_the_line_they_begin_on() {
        let text = "[\n {\"a\": \"]},\\\"\"},\n\n  {\"b\": [1, {\"c\": 2}]}, 3\n]\n";
        let found = items(text, None).unwrap();
        assert_eq!(
            found,
            [
                (2, json!({"a": "]},\""})),
                (4, json!({"b": [1, {"c": 2}]})),
                (4, json!(3))
            ]
        );
        let inside = format!("{{\"version\": {{\"x\": [1]}}, \"data\": {text}}}");
        assert_eq!(items(&inside, Some("data")).unwrap(), found);
        assert!(items("[]", None).unwrap().is_empty());
    }

    #[test]
    fn a_document_that_is_not_whole_says_where() {
        for (text, field, message) in [
            (
                "[{\"a\": 1},\n{\"a\"",
                None,
                "d.json:2): the file ends inside of a value",
            ),
            (
                "[1,\n2",
                None,
                "the file ends where ',' or ']' behind an item",
            ),
            (
                "{\"a\": 1}",
                None,
                "expected '[', the beginning of a list of rows, found '{'",
            ),
            ("{\"a\": 1}", Some("data"), "no field `data`"),
            (
                "{\"data\": 1}",
                Some("data"),
                "the list in `data`, found '1'",
            ),
            ("", None, "the file ends where '['"),
            ("[1 2]", None, "trailing characters"),
        ] {
            let error = items(text, field).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_list_is_read_as_serde_json_does(list in prop::collection::vec(any_json(), 0..8), pretty in any::<bool>()) {
            let value = Value::Array(list.clone());
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let found: Vec<Value> = items(&text, None).unwrap().into_iter().map(|(_, v)| v).collect();
            prop_assert_eq!(found, list);
        }

        #[test]
        fn any_bytes_give_items_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut items = Items::new(Path::new("d.json"), bytes.as_slice());
            let found = std::iter::from_fn(|| items.next_item(Some("a")).ok().flatten()).take(300).count();
            prop_assert!(found <= bytes.len());
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
