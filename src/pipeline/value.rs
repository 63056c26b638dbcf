//! TOML values as JSON values, with the place of every part and the source of the whole.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};
use toml::de::{DeFloat, DeInteger, DeTable, DeValue};

use super::diagnostic::{Diagnostic, Span};

/// Where an effective value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueSource {
    /// The kind's default.
    Default,
    /// `[pipeline] seed`, for a `seed` that the step does not set.
    Pipeline,
    /// The pipeline file.
    File,
    /// The environment variable of that name.
    Env(String),
    /// `--set` on the command line.
    CommandLine,
}

impl ValueSource {
    /// The stronger of two: what decides the value of a field that refers to
    /// a parameter of another source.
    fn rank(&self) -> u8 {
        match self {
            ValueSource::Default => 0,
            ValueSource::Pipeline => 1,
            ValueSource::File => 2,
            ValueSource::Env(_) => 3,
            ValueSource::CommandLine => 4,
        }
    }

    pub(super) fn strengthen(&mut self, other: &ValueSource) {
        if other.rank() > self.rank() {
            *self = other.clone();
        }
    }
}

impl fmt::Display for ValueSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueSource::Default => f.write_str("default"),
            ValueSource::Pipeline => f.write_str("seed of the pipeline"),
            ValueSource::File => f.write_str("pipeline file"),
            ValueSource::Env(variable) => write!(f, "environment variable {variable}"),
            ValueSource::CommandLine => f.write_str("command line"),
        }
    }
}

/// Where a value and its parts are written; no place for what is not in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spans {
    /// The value itself.
    pub span: Option<Span>,
    /// The items of an array.
    pub items: Vec<Spans>,
    /// The keys of a table and their values.
    pub entries: BTreeMap<String, (Option<Span>, Spans)>,
}

impl Spans {
    /// One place for all parts.
    pub(super) fn at(span: Option<Span>) -> Self {
        Spans {
            span,
            ..Spans::default()
        }
    }

    /// The place of an array's item; of the array where the item has none.
    pub fn item(&self, index: usize) -> &Spans {
        self.items.get(index).unwrap_or(self)
    }

    /// The place of a table's value; of the table where the value has none.
    pub fn value(&self, key: &str) -> &Spans {
        self.entries.get(key).map_or(self, |(_, spans)| spans)
    }

    /// The place of a table's key; of the table where the key has none.
    pub fn key(&self, key: &str) -> Option<Span> {
        match self.entries.get(key) {
            Some((span, _)) => span.clone(),
            None => self.span.clone(),
        }
    }
}

/// A key of the pipeline file and its value, overrides applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// The key.
    pub key: String,
    /// Where the key is written, if it is in the file.
    pub key_span: Option<Span>,
    /// The value, references to `[params]` replaced.
    pub value: Value,
    /// Where the value and its parts are written.
    pub spans: Spans,
    /// Where the value comes from.
    pub source: ValueSource,
}

impl Field {
    /// Where the value is written, if it is in the file.
    pub fn value_span(&self) -> Option<Span> {
        self.spans.span.clone()
    }

    /// For a value that is not, or not only, from the file: where it is from.
    pub fn origin(&self) -> Option<String> {
        match self.source {
            ValueSource::Env(_) | ValueSource::CommandLine => Some(format!(
                "the value of '{}' comes from the {}: {}",
                self.key, self.source, self.value
            )),
            _ => None,
        }
    }
}

/// The keys of one table.
pub(super) type Fields = BTreeMap<String, Field>;

/// Reads a table's entries, reporting values that JSON does not know.
pub(super) fn fields(table: &DeTable<'_>, faults: &mut Vec<Diagnostic>) -> Fields {
    table
        .iter()
        .map(|(key, value)| {
            let mut spans = Spans::default();
            let field = Field {
                key: key.get_ref().to_string(),
                key_span: Some(key.span()),
                value: convert(value.get_ref(), value.span(), &mut spans, faults),
                spans,
                source: ValueSource::File,
            };
            (field.key.clone(), field)
        })
        .collect()
}

/// Reads the text of an override: a TOML value, or else the text itself.
pub(super) fn parse_override(text: &str) -> Result<Value, String> {
    let Ok(value) = DeValue::parse(text) else {
        return Ok(Value::String(text.to_owned()));
    };
    if matches!(value.get_ref(), DeValue::Datetime(_)) {
        return Ok(Value::String(text.to_owned()));
    }
    let mut faults = Vec::new();
    let value = convert(
        value.get_ref(),
        value.span(),
        &mut Spans::default(),
        &mut faults,
    );
    match faults.into_iter().next() {
        Some(fault) => Err(fault.message),
        None => Ok(value),
    }
}

/// Converts a value and notes where it stands. What cannot be converted is
/// reported and becomes null, which no TOML value is.
fn convert(
    value: &DeValue<'_>,
    span: Span,
    spans: &mut Spans,
    faults: &mut Vec<Diagnostic>,
) -> Value {
    spans.span = Some(span.clone());
    let scalar = match value {
        DeValue::String(text) => Ok(Value::String(text.to_string())),
        DeValue::Boolean(value) => Ok(Value::Bool(*value)),
        DeValue::Integer(integer) => self::integer(integer),
        DeValue::Float(float) => self::float(float),
        DeValue::Datetime(_) => Err(Diagnostic::error(None, "there are no dates in a pipeline")
            .hint("write it as a string, in quotes".to_owned())
            .into()),
        DeValue::Array(array) => {
            let items = array.iter().map(|item| {
                let mut inner = Spans::default();
                let value = convert(item.get_ref(), item.span(), &mut inner, faults);
                spans.items.push(inner);
                value
            });
            Ok(Value::Array(items.collect()))
        }
        DeValue::Table(table) => {
            let mut map = Map::new();
            for (key, value) in table {
                let mut inner = Spans::default();
                let converted = convert(value.get_ref(), value.span(), &mut inner, faults);
                let name = key.get_ref().to_string();
                map.insert(name.clone(), converted);
                spans.entries.insert(name, (Some(key.span()), inner));
            }
            Ok(Value::Object(map))
        }
    };
    scalar.unwrap_or_else(|mut fault| {
        fault.span = Some(span);
        faults.push(*fault);
        Value::Null
    })
}

fn integer(integer: &DeInteger<'_>) -> Result<Value, Box<Diagnostic>> {
    let (text, radix) = (integer.as_str(), integer.radix());
    i64::from_str_radix(text, radix)
        .map(Value::from)
        .or_else(|_| u64::from_str_radix(text, radix).map(Value::from))
        .map_err(|_| {
            Diagnostic::error(None, format!("the integer {integer} is out of range")).into()
        })
}

fn float(float: &DeFloat<'_>) -> Result<Value, Box<Diagnostic>> {
    let number = float
        .as_str()
        .parse::<f64>()
        .ok()
        .and_then(Number::from_f64);
    number.map(Value::Number).ok_or_else(|| {
        Diagnostic::error(None, format!("the number {float} is not finite"))
            .hint("numbers lie between about -1.8e308 and 1.8e308".to_owned())
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn overrides_are_toml_values_or_bare_strings() {
        for (text, value) in [
            ("5e-5", json!(5e-5)),
            ("5e-6", json!(0.000005)),
            ("-3", json!(-3)),
            ("1_000", json!(1000)),
            ("0xff", json!(255)),
            ("18446744073709551615", json!(u64::MAX)),
            ("true", json!(true)),
            ("[1, 2]", json!([1, 2])),
            ("{ a = 1 }", json!({"a": 1})),
            ("\"5e-5\"", json!("5e-5")),
            ("fast", json!("fast")),
            ("@split.train", json!("@split.train")),
            ("data/*.jsonl", json!("data/*.jsonl")),
            ("2024-01-01", json!("2024-01-01")),
            ("[1, 2", json!("[1, 2")),
            ("1 2", json!("1 2")),
            ("", json!("")),
        ] {
            assert_eq!(parse_override(text).unwrap(), value, "{text}");
        }
        for text in ["nan", "-inf", "1e999", "99999999999999999999"] {
            assert!(parse_override(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_strongest_source_wins() {
        let mut source = ValueSource::File;
        source.strengthen(&ValueSource::Env("RETUNE_PARAMS__LR".to_owned()));
        assert_eq!(source.to_string(), "environment variable RETUNE_PARAMS__LR");
        source.strengthen(&ValueSource::File);
        assert!(matches!(source, ValueSource::Env(_)));
        let json = serde_json::to_value(&source).unwrap();
        assert_eq!(json, json!({"env": "RETUNE_PARAMS__LR"}));
    }
}
