//! Paths to fields of records, such as `answers.text[0]`.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::strict::kind;

/// A path to a value of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPath {
    first: String,
    rest: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Field(String),
    Item(usize),
}

/// A text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no path of a field: names are joined by dots, items of lists are [0], [1], …")]
pub struct BadPath(String);

impl FieldPath {
    /// The field of the record that it goes through first.
    pub fn first(&self) -> &str {
        &self.first
    }
}

impl FromStr for FieldPath {
    type Err = BadPath;

    fn from_str(text: &str) -> Result<Self, BadPath> {
        let bad = || BadPath(text.to_owned());
        let mut parts = Vec::new();
        for name in text.split('.') {
            let (name, mut items) = name.split_at(name.find('[').unwrap_or(name.len()));
            if name.is_empty() {
                return Err(bad());
            }
            parts.push(Part::Field(name.to_owned()));
            while !items.is_empty() {
                let (item, rest) = items[1..].split_once(']').ok_or_else(bad)?;
                parts.push(Part::Item(item.parse().map_err(|_| bad())?));
                if !rest.is_empty() && !rest.starts_with('[') {
                    return Err(bad());
                }
                items = rest;
            }
        }
        match parts.remove(0) {
            Part::Field(first) => Ok(FieldPath { first, rest: parts }),
            Part::Item(_) => Err(bad()),
        }
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.first)?;
        for part in &self.rest {
            match part {
                Part::Field(name) => write!(f, ".{name}")?,
                Part::Item(at) => write!(f, "[{at}]")?,
            }
        }
        Ok(())
    }
}

/// The value at a path, if it is there; an error where the path goes through
/// something that has no such parts.
pub fn pull(object: &Map<String, Value>, path: &FieldPath) -> Result<Option<Value>, String> {
    let Some(mut value) = object.get(&path.first) else {
        return Ok(None);
    };
    for part in &path.rest {
        let next = match (part, value) {
            (Part::Field(name), Value::Object(map)) => map.get(name),
            (Part::Item(at), Value::Array(items)) => items.get(*at),
            (_, Value::Null) => None,
            (_, other) => {
                return Err(format!(
                    "field `{path}`: there is {} on the way to it",
                    kind(other)
                ));
            }
        };
        match next {
            Some(next) => value = next,
            None => return Ok(None),
        }
    }
    Ok(Some(value.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_and_followed() {
        let object = serde_json::json!({"a": {"b": [1, {"c": "x"}]}});
        let object = object.as_object().unwrap();
        let get = |path: &str| pull(object, &path.parse().unwrap());
        assert_eq!(get("a.b[1].c"), Ok(Some("x".into())));
        assert_eq!(get("a.b[2].c"), Ok(None));
        assert_eq!(get("z"), Ok(None));
        assert!(
            get("a.b.c")
                .unwrap_err()
                .contains("there is a list on the way")
        );
        for bad in ["", ".", "a..b", "a[", "a[x]", "[0]", "a[0]b"] {
            assert!(bad.parse::<FieldPath>().is_err(), "{bad}");
        }
        assert_eq!(
            "a.b[1].c".parse::<FieldPath>().unwrap().to_string(),
            "a.b[1].c"
        );
    }
}
