//! The cells of a matrix: the values that tell them apart, their text, and addresses that select some of them.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use super::diagnostic::{closest, suggest};
use super::name::is_name;
use super::value::parse_override;
use crate::hash::Digest;

/// A value whose text is longer than this has a digest in the cell's name.
const LONGEST_VALUE: usize = 48;

/// One value of an axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Coordinate {
    /// The axis.
    pub axis: Box<str>,
    /// The step whose matrix declares the axis.
    pub of: Box<str>,
    /// The value.
    #[serde(with = "as_text")]
    pub value: Value,
    /// The value as the cell's name has it.
    pub text: Box<str>,
}

/// A cell: a value for each axis, sorted by axis.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell(pub Vec<Coordinate>);

impl Cell {
    /// What stands in brackets behind the step's name: `lr=1e-4,rank=8`.
    pub fn text(&self) -> String {
        let pairs = self.0.iter().map(|at| (&*at.axis, &*at.text));
        joined(pairs)
    }

    /// The value of an axis.
    pub fn get(&self, axis: &str) -> Option<&Coordinate> {
        self.0.iter().find(|at| &*at.axis == axis)
    }

    /// The cell that a step's name spells out; none where the name has none,
    /// or spells it in another way than [`Cell::text`] does.
    pub(super) fn of_name(base: &str, text: &str) -> Option<Cell> {
        let mut cell = Cell::default();
        for (axis, text) in pairs(text).ok()? {
            let value = parse_override(text).ok()?;
            let known = spelling(text) == text;
            let coordinate = Coordinate {
                axis: axis.into(),
                of: base.into(),
                value,
                text: text.into(),
            };
            cell.0.push(known.then_some(coordinate)?);
        }
        (cell.text() == text && cell.0.is_sorted_by(|a, b| a.axis < b.axis)).then_some(cell)
    }
}

fn joined<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (axis, value) in pairs {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{axis}={value}");
    }
    text
}

/// A value as a cell's name has it: the same text for equal values, however
/// the file writes them (`0.0001`, `1e-4`); short; read back by [`Address`].
pub(super) fn canonical(value: &Value) -> String {
    let text = match value {
        Value::String(text) if is_bare(text) => text.clone(),
        value => toml(value),
    };
    if text.len() <= LONGEST_VALUE {
        return text;
    }
    let plain = text.chars().filter(|c| c.is_ascii_alphanumeric());
    let start: String = plain.take(16).collect();
    format!("{start}~{}", Digest::of(text.as_bytes()).short())
}

/// Whether a text is a value that [`canonical`] cut.
fn is_shortened(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.split_once('~').is_some_and(|(start, digest)| {
        start.bytes().all(|b| b.is_ascii_alphanumeric())
            && digest.len() == 12
            && digest.bytes().all(hex)
    })
}

/// Whether a string can stand without quotes and still be told from a number.
fn is_bare(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.+-/:@%".contains(&b);
    !text.is_empty()
        && text.bytes().all(plain)
        && parse_override(text).is_ok_and(|value| value.as_str() == Some(text))
}

/// A value as TOML without spaces.
fn toml(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => self::number(number),
        Value::String(text) => quoted(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(toml).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(map) => {
            let entry = |(key, value): (&String, &Value)| match is_name(key) {
                true => format!("{key}={}", toml(value)),
                false => format!("{}={}", quoted(key), toml(value)),
            };
            let mut entries: Vec<String> = map.iter().map(entry).collect();
            entries.sort_unstable();
            format!("{{{}}}", entries.join(","))
        }
    }
}

/// A string in quotes, as JSON and TOML have it, on one line.
fn quoted(text: &str) -> String {
    let json = Value::from(text).to_string();
    let mut quoted = String::with_capacity(json.len());
    for c in json.chars() {
        match c.is_control() {
            true => drop(write!(quoted, "\\u{:04X}", u32::from(c))),
            false => quoted.push(c),
        }
    }
    quoted
}

/// The shortest text of a number: whole numbers in digits, others with an
/// exponent only where that is shorter.
fn number(number: &Number) -> String {
    if number.is_i64() || number.is_u64() {
        return number.to_string();
    }
    let value = number.as_f64().unwrap_or_default();
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return format!("{value:.0}").replace("-0", "0");
    }
    let (plain, exponent) = (value.to_string(), format!("{value:e}"));
    match exponent.len() < plain.len() {
        true => exponent,
        false => plain,
    }
}

/// A value as JSON text, so that a format without self-description can hold it.
mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use serde_json::Value;

    pub(super) fn serialize<S: Serializer>(value: &Value, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.to_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Value, D::Error> {
        serde_json::from_str(&String::deserialize(from)?).map_err(de::Error::custom)
    }
}

/// Which steps are meant: `split`, `stage1`, `stage1[*]`, `stage1[rank=8]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Address {
    /// The step as the pipeline file names it.
    pub base: String,
    /// Which of its cells.
    pub cells: Cells,
}

/// Which cells of a matrix are meant.
#[derive(Debug, Clone, PartialEq)]
pub enum Cells {
    /// It is not said.
    Unsaid,
    /// All: `[*]`.
    All,
    /// Those in which the axes have these values, as written.
    Where(Vec<(String, String)>),
}

/// A text is no address of steps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// The bracket does not end.
    #[error("there is a '[' without its ']'")]
    Open,
    /// There is something behind the bracket.
    #[error("'{0}' stands behind the ']'")]
    Behind(String),
    /// A part in the bracket is not `AXIS=VALUE`.
    #[error("'{0}' is not AXIS=VALUE")]
    Pair(String),
    /// An axis stands twice.
    #[error("the axis '{0}' stands twice")]
    Twice(String),
}

impl Address {
    /// Reads a text that is an address and nothing else.
    pub fn parse(text: &str) -> Result<Self, BadAddress> {
        let (address, rest) = Self::leading(text)?;
        match rest {
            "" => Ok(address),
            rest => Err(BadAddress::Behind(rest.to_owned())),
        }
    }

    /// Reads the address that a text starts with; gives what is behind it.
    pub(crate) fn leading(text: &str) -> Result<(Self, &str), BadAddress> {
        let end = text.find(['[', '.']).unwrap_or(text.len());
        let (base, rest) = text.split_at(end);
        let (cells, rest) = match rest.strip_prefix('[') {
            None => (Cells::Unsaid, rest),
            Some(inner) => {
                let close = close(inner).ok_or(BadAddress::Open)?;
                (Cells::parse(&inner[..close])?, &inner[close + 1..])
            }
        };
        let base = base.to_owned();
        Ok((Address { base, cells }, rest))
    }
}

impl Cells {
    fn parse(text: &str) -> Result<Self, BadAddress> {
        if text.trim() == "*" {
            return Ok(Cells::All);
        }
        let pairs = pairs(text)?;
        let mut seen: Vec<(String, String)> = Vec::with_capacity(pairs.len());
        for (axis, value) in pairs {
            if seen.iter().any(|(other, _)| other == axis) {
                return Err(BadAddress::Twice(axis.to_owned()));
            }
            seen.push((axis.to_owned(), value.to_owned()));
        }
        Ok(Cells::Where(seen))
    }

    /// The text of the cell that is meant, if every axis of `like` is given.
    /// (Of values that are written in an unusual way it may be another text.)
    pub(crate) fn exact(&self, like: &Cell) -> Option<String> {
        let Cells::Where(wanted) = self else {
            return None;
        };
        let mut texts = Vec::with_capacity(like.0.len());
        for coordinate in &like.0 {
            let axis = &*coordinate.axis;
            let (_, value) = wanted.iter().find(|(name, _)| name == axis)?;
            texts.push((axis, spelling(value)));
        }
        let whole = wanted.len() == texts.len();
        whole.then(|| joined(texts.iter().map(|(axis, text)| (*axis, &**text))))
    }

    /// Whether a cell is among those that are meant.
    pub(crate) fn contains(&self, cell: &Cell) -> bool {
        match self {
            Cells::Unsaid | Cells::All => true,
            Cells::Where(wanted) => wanted.iter().all(|(axis, value)| {
                let found = cell.get(axis);
                found.is_some_and(|found| equals(found, value))
            }),
        }
    }

    /// Why none of the cells is meant: the axis or value that does not exist,
    /// with what there is.
    pub(crate) fn missing(&self, cells: &[&Cell]) -> (String, Option<String>) {
        let Cells::Where(wanted) = self else {
            return ("there are no cells".to_owned(), None);
        };
        let axes: Vec<&str> = cells.first().map_or(Vec::new(), |cell| {
            cell.0.iter().map(|at| &*at.axis).collect()
        });
        for (axis, value) in wanted {
            if !axes.contains(&&**axis) {
                let hint = suggest(axis, axes.iter().copied(), "the axes are");
                return (format!("the matrix has no axis '{axis}'"), hint);
            }
            let found = cells.iter().filter_map(|cell| cell.get(axis));
            if !found.clone().any(|found| equals(found, value)) {
                let mut values: Vec<&str> = Vec::new();
                for found in found {
                    if !values.contains(&&*found.text) {
                        values.push(&found.text);
                    }
                }
                let hint = values_hint(axis, value, &values);
                return (format!("no cell has {axis}={value}"), Some(hint));
            }
        }
        let text = joined(wanted.iter().map(|(axis, value)| (&**axis, &**value)));
        (format!("there is no cell [{text}]"), Some(listed(cells)))
    }
}

fn values_hint(axis: &str, wrong: &str, values: &[&str]) -> String {
    match closest(wrong, values.iter().copied()) {
        Some(near) if near.parse::<f64>().is_err() => format!("did you mean {axis}={near}?"),
        _ => format!("its values are: {}", some(values.iter().copied())),
    }
}

/// The first of many, separated by commas.
fn some<'a>(texts: impl ExactSizeIterator<Item = &'a str>) -> String {
    const LISTED: usize = 16;
    let more = match texts.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(", … and {more} more"),
    };
    let first: Vec<&str> = texts.take(LISTED).collect();
    first.join(", ") + &more
}

/// The cells of a matrix, for a message.
pub(crate) fn listed(cells: &[&Cell]) -> String {
    const LISTED: usize = 8;
    let mut lines = vec!["its cells are:".to_owned()];
    lines.extend(
        cells
            .iter()
            .take(LISTED)
            .map(|cell| format!("[{}]", cell.text())),
    );
    if cells.len() > LISTED {
        lines.push(format!("… and {} more", cells.len() - LISTED));
    }
    lines.join("\n")
}

/// The text that the value of an axis has if it means what `written` says.
fn spelling(written: &str) -> String {
    if is_shortened(written) {
        return written.to_owned();
    }
    parse_override(written).map_or_else(|_| written.to_owned(), |value| canonical(&value))
}

/// Whether a value is meant by a text: by its own text, by that of an equal
/// value, or, for a string that looks like a number, without its quotes.
fn equals(found: &Coordinate, written: &str) -> bool {
    *found.text == *written
        || found.value.as_str() == Some(written)
        || *found.text == *spelling(written)
}

/// The pairs of `a=1,b="x,y"`.
fn pairs(text: &str) -> Result<Vec<(&str, &str)>, BadAddress> {
    let pair = |part: &'_ str| -> Option<(usize, usize)> {
        let at = part.find('=')?;
        (is_name(part[..at].trim()) && !part[at + 1..].trim().is_empty()).then_some((at, at + 1))
    };
    let part = |part| match pair(part) {
        Some((end, start)) => Ok((part[..end].trim(), part[start..].trim())),
        None => Err(BadAddress::Pair(part.trim().to_owned())),
    };
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(comma) = outside(rest, ',') {
        found.push(part(&rest[..comma])?);
        rest = &rest[comma + 1..];
    }
    found.push(part(rest)?);
    Ok(found)
}

/// Where the bracket ends that is open at the start of `text`.
pub(crate) fn close(text: &str) -> Option<usize> {
    outside(text, ']')
}

/// The first `wanted` that is neither in quotes nor in brackets of its own.
fn outside(text: &str, wanted: char) -> Option<usize> {
    let (mut depth, mut quote, mut escaped) = (0_usize, None, false);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, c) if c == wanted && depth == 0 => return Some(at),
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn cell(pairs: &[(&str, Value)]) -> Cell {
        let coordinate = |(axis, value): &(&str, Value)| Coordinate {
            axis: (*axis).into(),
            of: "s".into(),
            text: canonical(value).into(),
            value: value.clone(),
        };
        Cell(pairs.iter().map(coordinate).collect())
    }

    #[test]
    fn equal_values_have_one_text() {
        for (values, text) in [
            (vec![json!(0.0001), json!(1e-4)], "1e-4"),
            (vec![json!(0.1), json!(1e-1)], "0.1"),
            (vec![json!(8), json!(8.0)], "8"),
            (vec![json!(100000), json!(1e5)], "100000"),
            (vec![json!(-0.0), json!(0)], "0"),
            (vec![json!(2.5e-4)], "2.5e-4"),
            (vec![json!(1e300)], "1e300"),
            (vec![json!(true)], "true"),
            (vec![json!("fast")], "fast"),
            (vec![json!("data/a.jsonl")], "data/a.jsonl"),
            (vec![json!("true")], "\"true\""),
            (vec![json!("8")], "\"8\""),
            (vec![json!("a,b")], "\"a,b\""),
            (vec![json!("")], "\"\""),
            (vec![json!(["q_proj", "v_proj"])], "[\"q_proj\",\"v_proj\"]"),
            (vec![json!({"b": 1, "a c": [0.5]})], "{\"a c\"=[0.5],b=1}"),
        ] {
            for value in values {
                assert_eq!(canonical(&value), text, "{value}");
            }
        }
        let long = canonical(&json!("a long text ".repeat(20)));
        assert!(
            long.starts_with("alongtextalongte~") && long.len() == 29,
            "{long}"
        );
    }

    #[test]
    fn addresses_are_read() {
        let address = |text: &str| Address::parse(text).unwrap();
        assert_eq!(address("a").cells, Cells::Unsaid);
        assert_eq!(address("a[*]").cells, Cells::All);
        let pairs = |pairs: &[(&str, &str)]| {
            let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
            Cells::Where(pairs.iter().map(pair).collect())
        };
        assert_eq!(
            address("a[lr=0.5, b=\"x],y\"]").cells,
            pairs(&[("lr", "0.5"), ("b", "\"x],y\"")])
        );
        assert_eq!(
            address("a[t=[\"q\",\"v\"],u=1]").cells,
            pairs(&[("t", "[\"q\",\"v\"]"), ("u", "1")])
        );
        let (found, rest) = Address::leading("a[lr=0.5].out.x").unwrap();
        assert_eq!((&*found.base, rest), ("a", ".out.x"));
        for bad in [
            "a[",
            "a[x=1",
            "a[]",
            "a[x]",
            "a[x=]",
            "a[=1]",
            "a[x=1]b",
            "a[x=1,x=2]",
            "a.b",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn any_equal_value_selects_a_cell() {
        let cell = cell(&[
            ("lr", json!(1e-4)),
            ("tag", json!("8")),
            ("who", json!("a b")),
        ]);
        for good in [
            "lr=1e-4",
            "lr=0.0001",
            "lr=1.0e-4,tag=8",
            "tag=\"8\"",
            "who=a b",
            "who=\"a b\"",
        ] {
            assert!(
                Address::parse(&format!("s[{good}]"))
                    .unwrap()
                    .cells
                    .contains(&cell),
                "{good}"
            );
        }
        for bad in ["lr=1e-5", "rank=8", "lr=1e-4,tag=9"] {
            assert!(
                !Address::parse(&format!("s[{bad}]"))
                    .unwrap()
                    .cells
                    .contains(&cell),
                "{bad}"
            );
        }
        let whole = Address::parse("s[who='a b', tag=\"8\", lr=0.0001]").unwrap();
        assert_eq!(whole.cells.exact(&cell), Some(cell.text()));
    }

    proptest! {
        #[test]
        fn a_cell_is_read_back_from_its_name(number in any::<f64>(), text in ".{0,30}", flag in any::<bool>()) {
            prop_assume!(number.is_finite());
            let cell = cell(&[
                ("flag", json!(flag)), ("list", json!([text, flag])),
                ("number", json!(number)), ("text", json!(text)),
            ]);
            let found = Address::parse(&format!("s[{}]", cell.text())).unwrap();
            prop_assert!(found.cells.contains(&cell), "{}", cell.text());
            prop_assert_eq!(found.cells.exact(&cell).map(|t| t == cell.text()), Some(true));
        }
    }
}
