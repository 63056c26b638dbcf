//! `${params.NAME}` in the strings of a step: a whole string takes the typed value, part of one its text.

use std::collections::BTreeSet;

use serde_json::Value;

use super::diagnostic::{Diagnostic, Source, Span, suggest};
use super::value::{Field, Fields, Spans, ValueSource};

/// What a reference starts with. A second `$` before it escapes it.
const OPEN: &str = "${params.";

/// Replaces references and remembers which parameters were used.
pub(super) struct References<'a> {
    params: &'a Fields,
    file: &'a Source,
    used: BTreeSet<&'a str>,
}

impl<'a> References<'a> {
    pub(super) fn new(params: &'a Fields, file: &'a Source) -> Self {
        References {
            params,
            file,
            used: BTreeSet::new(),
        }
    }

    /// Replaces every reference in a field.
    pub(super) fn resolve(&mut self, field: &mut Field, faults: &mut Vec<Diagnostic>) {
        let Field {
            value,
            spans,
            source,
            ..
        } = field;
        self.value(value, spans, source, faults);
    }

    /// The parameters that nothing has referred to.
    pub(super) fn unused(&self) -> impl Iterator<Item = &'a Field> {
        self.params
            .values()
            .filter(|param| !self.used.contains(param.key.as_str()))
    }

    fn value(
        &mut self,
        value: &mut Value,
        spans: &Spans,
        source: &mut ValueSource,
        faults: &mut Vec<Diagnostic>,
    ) {
        match value {
            Value::String(text) if text.contains(OPEN) => match self.string(text, source) {
                Ok(replaced) => *value = replaced,
                Err(fault) => {
                    faults.push(fault.at(spans.span.clone(), self.file));
                    *value = Value::Null;
                }
            },
            Value::Array(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    self.value(item, spans.item(i), source, faults);
                }
            }
            Value::Object(map) => {
                for (key, item) in map.iter_mut() {
                    self.value(item, spans.value(key), source, faults);
                }
            }
            _ => {}
        }
    }

    fn string(&mut self, text: &str, source: &mut ValueSource) -> Result<Value, Fault> {
        if let Some(name) = whole(text) {
            let param = self.param(name)?;
            source.strengthen(&param.source);
            return Ok(param.value.clone());
        }
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(OPEN) {
            let inner = &rest[at + OPEN.len()..];
            if rest[..at].ends_with('$') {
                result.push_str(&rest[..at - 1]);
                result.push_str(OPEN);
                rest = inner;
                continue;
            }
            result.push_str(&rest[..at]);
            let end = inner.find('}').ok_or_else(|| Fault::open(inner))?;
            let param = self.param(&inner[..end])?;
            result.push_str(&embed(param)?);
            source.strengthen(&param.source);
            rest = &inner[end + 1..];
        }
        result.push_str(rest);
        Ok(Value::String(result))
    }

    fn param(&mut self, name: &str) -> Result<&'a Field, Fault> {
        match self.params.get(name) {
            Some(param) => {
                self.used.insert(&param.key);
                Ok(param)
            }
            None => Err(Fault {
                text: format!("{OPEN}{name}}}"),
                message: format!("unknown parameter '{name}'"),
                label: "not in [params]".to_owned(),
                hint: suggest(
                    name,
                    self.params.keys().map(String::as_str),
                    "the parameters are",
                )
                .or_else(|| Some(format!("add '{name} = …' to a [params] table"))),
            }),
        }
    }
}

/// The name, when `text` is one reference and nothing else.
fn whole(text: &str) -> Option<&str> {
    let name = text.strip_prefix(OPEN)?.strip_suffix('}')?;
    (!name.contains('}')).then_some(name)
}

/// A parameter's value as a part of a longer string.
fn embed(param: &Field) -> Result<String, Fault> {
    match &param.value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        _ => Err(Fault {
            text: format!("{OPEN}{}}}", param.key),
            message: format!("the parameter '{}' does not fit into a string", param.key),
            label: "is an array or a table".to_owned(),
            hint: Some("a reference that is the whole string takes the value as it is".to_owned()),
        }),
    }
}

/// Why a string could not be replaced, and the part of it that is at fault.
struct Fault {
    text: String,
    message: String,
    label: String,
    hint: Option<String>,
}

impl Fault {
    fn open(inner: &str) -> Self {
        Fault {
            text: format!("{OPEN}{inner}"),
            message: "a reference to a parameter has no '}'".to_owned(),
            label: String::new(),
            hint: Some("write '${params.NAME}', or '$${params.' for these characters".to_owned()),
        }
    }

    fn at(self, span: Option<Span>, file: &Source) -> Diagnostic {
        let span = span.map(|span| within(file, span, &self.text));
        Diagnostic::error(span, self.message)
            .label(self.label)
            .hint(self.hint)
    }
}

/// Where `part` stands within a value, or the whole value where it is written
/// in another way.
pub(crate) fn within(file: &Source, span: Span, part: &str) -> Span {
    let found = file
        .text
        .get(span.clone())
        .and_then(|value| value.find(part));
    match found {
        Some(at) => span.start + at..span.start + at + part.len(),
        None => span,
    }
}
