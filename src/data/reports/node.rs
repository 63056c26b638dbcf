//! A value inside a JSON document that knows where it is, so that every fault names file and JSON path.

use serde_json::{Map, Value};

use crate::data::DataError;

/// A value and its place.
#[derive(Clone)]
pub struct Node<'a> {
    file: &'a str,
    at: String,
    value: &'a Value,
}

impl<'a> Node<'a> {
    /// The root of a document.
    pub fn root(file: &'a str, value: &'a Value) -> Self {
        Node {
            file,
            at: "$".to_owned(),
            value,
        }
    }

    /// The value itself.
    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// File and JSON path, for a finding's origin.
    pub fn origin(&self) -> String {
        format!("{} {}", self.file, self.at)
    }

    /// An error at this place.
    pub fn fault(&self, message: impl Into<String>) -> DataError {
        DataError::Document {
            path: self.file.to_owned(),
            at: self.at.clone(),
            message: message.into(),
        }
    }

    fn wrong(&self, wanted: &str) -> DataError {
        let is = match self.value {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.fault(format!("expected {wanted}, found {is}"))
    }

    /// The object here.
    pub fn object(&self) -> Result<&'a Map<String, Value>, DataError> {
        self.value
            .as_object()
            .ok_or_else(|| self.wrong("an object"))
    }

    /// The string here.
    pub fn str(&self) -> Result<&'a str, DataError> {
        self.value.as_str().ok_or_else(|| self.wrong("a string"))
    }

    /// The non-negative whole number here, also when it is written as a string.
    pub fn u64(&self) -> Result<u64, DataError> {
        self.value
            .as_u64()
            .or_else(|| self.value.as_str()?.trim().parse().ok())
            .ok_or_else(|| self.wrong("a whole number that is not negative"))
    }

    /// The number here, also when it is written as a string.
    pub fn f64(&self) -> Result<f64, DataError> {
        self.value
            .as_f64()
            .or_else(|| self.value.as_str()?.trim().parse().ok())
            .filter(|x| x.is_finite())
            .ok_or_else(|| self.wrong("a number"))
    }

    /// The items of the list here.
    pub fn items(&self) -> Result<Vec<Node<'a>>, DataError> {
        let list = self.value.as_array().ok_or_else(|| self.wrong("a list"))?;
        let item = |(i, value)| Node {
            file: self.file,
            at: format!("{}[{i}]", self.at),
            value,
        };
        Ok(list.iter().enumerate().map(item).collect())
    }

    /// A field that may be missing or null.
    pub fn get(&self, name: &str) -> Result<Option<Node<'a>>, DataError> {
        let value = self.object()?.get(name).filter(|v| !v.is_null());
        Ok(value.map(|value| Node {
            file: self.file,
            at: format!("{}.{name}", self.at),
            value,
        }))
    }

    /// A field that must be there.
    pub fn field(&self, name: &str) -> Result<Node<'a>, DataError> {
        self.get(name)?
            .ok_or_else(|| self.fault(format!("missing field `{name}`")))
    }

    /// A string field that must be there.
    pub fn text(&self, name: &str) -> Result<String, DataError> {
        Ok(self.field(name)?.str()?.to_owned())
    }

    /// A string field that may be missing; an empty string is missing too.
    pub fn opt_text(&self, name: &str) -> Result<Option<String>, DataError> {
        let Some(node) = self.get(name)? else {
            return Ok(None);
        };
        let text = node.str()?;
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    /// A whole number field that may be missing.
    pub fn opt_u64(&self, name: &str) -> Result<Option<u64>, DataError> {
        self.get(name)?.map(|node| node.u64()).transpose()
    }

    /// The items of a list field that may be missing.
    pub fn list(&self, name: &str) -> Result<Vec<Node<'a>>, DataError> {
        self.get(name)?.map_or(Ok(Vec::new()), |node| node.items())
    }

    /// The strings of a field that is a list of strings, a single string, or missing.
    pub fn strings(&self, name: &str) -> Result<Vec<String>, DataError> {
        match self.get(name)? {
            None => Ok(Vec::new()),
            Some(node) if node.value.is_string() => Ok(vec![node.str()?.to_owned()]),
            Some(node) => node
                .items()?
                .iter()
                .map(|n| Ok(n.str()?.to_owned()))
                .collect(),
        }
    }
}
