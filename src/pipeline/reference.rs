//! `${params.NAME}` and `${matrix.AXIS}` in the strings of a step: a whole string takes the typed value, part of one its text.

use std::collections::BTreeSet;

use serde_json::Value;

use super::diagnostic::{Diagnostic, Source, Span, suggest};
use super::value::{Field, Fields, Spans, ValueSource};

/// What is referred to.
pub(super) struct Scope {
    /// What a reference starts with. A second `$` before it escapes it.
    pub open: &'static str,
    /// One of the values.
    noun: &'static str,
    /// Where they are.
    place: &'static str,
    /// All of them.
    all: &'static str,
    /// Whether a fault in a value is shown where the value stands and not
    /// where it is referred to: one of the values of an axis may be at fault.
    points_at_value: bool,
}

/// References to `[params]`.
pub(super) const PARAMS: Scope = Scope {
    open: "${params.",
    noun: "parameter",
    place: "not in [params]",
    all: "the parameters are",
    points_at_value: false,
};

/// References to the axes of the step's matrix.
pub(super) const MATRIX: Scope = Scope {
    open: "${matrix.",
    noun: "axis",
    place: "not an axis of the step's matrix",
    all: "the axes are",
    points_at_value: true,
};

/// Replaces references and remembers which values were used.
pub(super) struct References<'a> {
    scope: &'static Scope,
    params: &'a Fields,
    file: &'a Source,
    used: BTreeSet<&'a str>,
}

impl<'a> References<'a> {
    pub(super) fn new(scope: &'static Scope, params: &'a Fields, file: &'a Source) -> Self {
        References {
            scope,
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

    /// The values that nothing has referred to.
    pub(super) fn unused(&self) -> impl Iterator<Item = &'a Field> {
        self.params
            .values()
            .filter(|param| !self.used.contains(param.key.as_str()))
    }

    fn value(
        &mut self,
        value: &mut Value,
        spans: &mut Spans,
        source: &mut ValueSource,
        faults: &mut Vec<Diagnostic>,
    ) {
        match value {
            Value::String(text) if text.contains(self.scope.open) => {
                match self.string(text, source) {
                    Ok((replaced, place)) => {
                        *value = replaced;
                        if let Some(place) = place {
                            *spans = place;
                        }
                    }
                    Err(fault) => {
                        faults.push(fault.at(spans.span.clone(), self.file));
                        *value = Value::Null;
                    }
                }
            }
            Value::Array(items) => {
                let place = spans.span.clone();
                for (i, item) in items.iter_mut().enumerate() {
                    let mut whole = Spans::at(place.clone());
                    let spans = spans.items.get_mut(i).unwrap_or(&mut whole);
                    self.value(item, spans, source, faults);
                }
            }
            Value::Object(map) => {
                let place = spans.span.clone();
                for (key, item) in map.iter_mut() {
                    let mut whole = Spans::at(place.clone());
                    let entry = spans.entries.get_mut(key);
                    let spans = entry.map_or(&mut whole, |(_, spans)| spans);
                    self.value(item, spans, source, faults);
                }
            }
            _ => {}
        }
    }

    /// The value, and where it stands if not here.
    fn string(
        &mut self,
        text: &str,
        source: &mut ValueSource,
    ) -> Result<(Value, Option<Spans>), Fault> {
        let open = self.scope.open;
        if let Some(name) = self.scope.whole(text) {
            let param = self.param(name)?;
            source.strengthen(&param.source);
            let there = self.scope.points_at_value && param.spans.span.is_some();
            return Ok((param.value.clone(), there.then(|| param.spans.clone())));
        }
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(open) {
            let inner = &rest[at + open.len()..];
            if rest[..at].ends_with('$') {
                result.push_str(&rest[..at - 1]);
                result.push_str(open);
                rest = inner;
                continue;
            }
            result.push_str(&rest[..at]);
            let end = inner.find('}').ok_or_else(|| self.scope.unclosed(inner))?;
            let param = self.param(&inner[..end])?;
            result.push_str(&self.scope.embed(param)?);
            source.strengthen(&param.source);
            rest = &inner[end + 1..];
        }
        result.push_str(rest);
        Ok((Value::String(result), None))
    }

    fn param(&mut self, name: &str) -> Result<&'a Field, Fault> {
        match self.params.get(name) {
            Some(param) => {
                self.used.insert(&param.key);
                Ok(param)
            }
            None => Err(self.scope.unknown(name, self.params)),
        }
    }
}

impl Scope {
    /// The name, when `text` is one reference and nothing else.
    fn whole<'t>(&self, text: &'t str) -> Option<&'t str> {
        let name = text.strip_prefix(self.open)?.strip_suffix('}')?;
        (!name.contains('}')).then_some(name)
    }

    /// A value as a part of a longer string.
    fn embed(&self, param: &Field) -> Result<String, Fault> {
        match &param.value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(value) => Ok(value.to_string()),
            _ => Err(Fault {
                text: format!("{}{}}}", self.open, param.key),
                message: format!(
                    "the {} '{}' does not fit into a string",
                    self.noun, param.key
                ),
                label: "is an array or a table".to_owned(),
                hint: Some(
                    "a reference that is the whole string takes the value as it is".to_owned(),
                ),
            }),
        }
    }

    fn unknown(&self, name: &str, known: &Fields) -> Fault {
        let hint = suggest(name, known.keys().map(String::as_str), self.all);
        let add = match self.points_at_value {
            true => format!("add a matrix to the step: matrix = {{ {name} = […] }}"),
            false => format!("add '{name} = …' to a [params] table"),
        };
        Fault {
            text: format!("{}{name}}}", self.open),
            message: format!("unknown {} '{name}'", self.noun),
            label: self.place.to_owned(),
            hint: hint.or(Some(add)),
        }
    }

    fn unclosed(&self, inner: &str) -> Fault {
        let Scope { open, noun, .. } = self;
        let article = if *noun == "axis" { "an" } else { "a" };
        Fault {
            text: format!("{open}{inner}"),
            message: format!("a reference to {article} {noun} has no '}}'"),
            label: String::new(),
            hint: Some(format!(
                "write '{open}NAME}}', or '${open}' for these characters"
            )),
        }
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
