//! Chat templates rendered as Hugging Face's `apply_chat_template` renders them.
//!
//! Templates are written for Jinja2 and Python. The engine is minijinja, with
//! Python's methods on values, Python's way to print them, and the tags,
//! filters and functions that `transformers` adds. Two things differ, on
//! purpose or by the engine: `strftime_now` tells a fixed date (see [`TODAY`]),
//! and a map that a template itself writes out is sorted by key.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use jiff::civil::{Date, date};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat;
use regex::Regex;

use crate::data::Message;

/// The date that `strftime_now` tells where none is given: a clock in a prompt
/// would make texts and trained adapters irreproducible. It is the date that
/// the templates of Llama 3 fall back to where there is no clock.
pub const TODAY: Date = date(2024, 7, 26);

/// The name under which the template is kept.
const NAME: &str = "chat_template";

/// A chat template, ready to render.
pub struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Reads a template; the error says what is wrong on which line.
    pub fn new(source: &str) -> Result<Self, String> {
        let mut environment = Environment::new();
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        environment.set_syntax(syntax.build().expect("the usual delimiters are valid"));
        environment.set_unknown_method_callback(python_method);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_formatter(|out, _, value| Ok(out.write_str(&python_str(value))?));
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        environment.add_test("iterable", is_iterable);
        environment.add_test("sequence", is_sequence);
        let added = environment.add_template_owned(NAME, adapted(source));
        added.map_err(|error| describe(&error))?;
        let mut template = ChatTemplate { environment };
        template.set_today(TODAY);
        Ok(template)
    }

    /// Makes `strftime_now` tell another date.
    pub fn set_today(&mut self, today: Date) {
        let now = move |format: String| {
            jiff::fmt::strtime::format(&format, today.at(0, 0, 0, 0))
                .map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
        };
        self.environment.add_function("strftime_now", now);
    }

    /// Renders messages; `prompt` adds the words that open an answer, `tokens`
    /// are the special tokens with their names. The error is a description.
    pub fn render<'a>(
        &self,
        messages: &[Message],
        prompt: bool,
        tokens: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<String, String> {
        let turn = |message: &Message| Value::from_object(Turn(message.clone()));
        let named = |(name, text): (&str, &str)| (name.to_owned(), Value::from(text));
        let mut variables: BTreeMap<String, Value> = tokens.into_iter().map(named).collect();
        let messages: Vec<Value> = messages.iter().map(turn).collect();
        for (name, value) in [
            ("messages", Value::from(messages)),
            ("add_generation_prompt", Value::from(prompt)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ] {
            variables.insert(name.to_owned(), value);
        }
        let template = self.environment.get_template(NAME);
        let rendered = template.and_then(|template| template.render(Value::from(variables)));
        rendered.map_err(|error| describe(&error))
    }
}

/// What went wrong, in one line.
fn describe(error: &Error) -> String {
    let what = match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) if error.kind() != ErrorKind::InvalidOperation => {
            format!("{what} (line {line} of the template)")
        }
        _ => what,
    }
}

/// The source with what minijinja does not read as Jinja2 does.
///
/// `{% generation %}` only marks the answer's tokens; a `with` block has the
/// same scope. In a string a backslash at the end of a line joins it with the
/// next.
fn adapted(source: &str) -> String {
    static TAG: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("the pattern is valid")
    });
    let with = |found: &regex::Captures<'_>| {
        let end = found.get(2).map_or("", |end| end.as_str());
        format!("{{%{} {end}with {}%}}", &found[1], &found[3])
    };
    let source = TAG.replace_all(source, with);
    match source.contains("\\\n") {
        true => joined_strings(&source),
        false => source.into_owned(),
    }
}

/// The source without line ends behind backslashes in the strings of its tags.
fn joined_strings(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut tag: Option<&str> = None;
    let mut string: Option<char> = None;
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let mut taken = c.len_utf8();
        match (tag, string) {
            (None, _) => {
                let begun = [("{{", "}}"), ("{%", "%}"), ("{#", "#}")];
                let begun = begun.into_iter().find(|(open, _)| rest.starts_with(open));
                tag = begun.map(|(_, close)| close);
            }
            (Some(_), Some(quote)) => match c {
                '\\' if rest[1..].starts_with('\n') => {
                    rest = &rest[2..];
                    continue;
                }
                '\\' => taken += rest[1..].chars().next().map_or(0, char::len_utf8),
                c if c == quote => string = None,
                _ => {}
            },
            (Some(close), None) if rest.starts_with(close) => tag = None,
            (Some("#}"), None) => {}
            (Some(_), None) => string = Some(c).filter(|c| ['"', '\''].contains(c)),
        }
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

/// A message as templates see it: a map whose keys keep their order.
#[derive(Debug)]
struct Turn(Message);

impl Object for Turn {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "role" => Some(Value::from(self.0.role.name())),
            "content" => Some(Value::from(self.0.content.as_str())),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["role", "content"])
    }
}

/// Python's methods on strings, lists and maps.
fn python_method(
    state: &mut State,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    match (value.as_str(), method) {
        (Some(text), "title") => Ok(Value::from(python_title(text))),
        _ => pycompat::unknown_method_callback(state, value, method, arguments),
    }
}

/// Python's `str.title`: every letter behind none is a capital.
fn python_title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        match inside {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        inside = c.is_alphabetic();
    }
    out
}

/// Jinja2's test: whether Python can iterate over it.
fn is_iterable(value: &Value) -> bool {
    !matches!(
        value.kind(),
        ValueKind::None | ValueKind::Bool | ValueKind::Number
    ) && (value.is_undefined() || value.try_iter().is_ok() || value.as_str().is_some())
}

/// Jinja2's test: whether it has a length and can be indexed.
fn is_sequence(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Map | ValueKind::String
    )
}

/// How a template refuses messages.
fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Python's `str(value)`; nothing for what is undefined.
fn python_str(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::String => value.as_str().unwrap_or_default().to_owned(),
        _ => {
            let mut out = String::new();
            python_repr(value, &mut out);
            out
        }
    }
}

/// Python's `repr(value)`.
fn python_repr(value: &Value, out: &mut String) {
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number if !value.is_integer() => out.push_str(&python_float(value)),
        ValueKind::String => repr_string(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq => {
            out.push('[');
            for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                python_repr(&item, out);
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                python_repr(&key, out);
                out.push_str(": ");
                python_repr(&value.get_item(&key).unwrap_or_default(), out);
            }
            out.push('}');
        }
        _ => {
            // A string takes every text.
            let _ = write!(out, "{value}");
        }
    }
}

fn repr_string(text: &str, out: &mut String) {
    let quote = match text.contains('\'') && !text.contains('"') {
        true => '"',
        false => '\'',
    };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// Python's way to write a float: as short as it can be read back, with an
/// exponent below 1e-4 and from 1e16 on.
fn python_float(value: &Value) -> String {
    let x = f64::try_from(value.clone()).unwrap_or(f64::NAN);
    let magnitude = x.abs();
    if !x.is_finite() {
        return match x.is_nan() {
            true => "nan".to_owned(),
            false => if x > 0.0 { "inf" } else { "-inf" }.to_owned(),
        };
    }
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{x:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{x:?}")
}

/// How `tojson` writes: Python's `json.dumps` with these arguments.
struct Json {
    ascii: bool,
    sorted: bool,
    indent: Option<String>,
    between: String,
    behind_key: String,
}

/// `tojson` as `transformers` defines it.
fn to_json(value: &Value, arguments: Kwargs) -> Result<Value, Error> {
    let indent: Option<Value> = arguments.get("indent")?;
    let indent = indent.filter(|indent| !indent.is_none() && !indent.is_undefined());
    let indent = indent.map(|indent| match indent.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(usize::try_from(indent).unwrap_or(0)),
    });
    let separators: Option<Vec<String>> = arguments.get("separators")?;
    let (between, behind_key) = match separators.as_deref() {
        Some([between, behind_key]) => (between.clone(), behind_key.clone()),
        _ if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        _ => (", ".to_owned(), ": ".to_owned()),
    };
    let json = Json {
        ascii: arguments
            .get::<Option<bool>>("ensure_ascii")?
            .unwrap_or(false),
        sorted: arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        between,
        behind_key,
    };
    arguments.assert_all_used()?;
    let mut out = String::new();
    json.value(value, 0, &mut out)?;
    Ok(Value::from(out))
}

impl Json {
    fn value(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
            ValueKind::Number => {
                let number = python_float(value);
                out.push_str(match &*number {
                    "nan" => "NaN",
                    "inf" => "Infinity",
                    "-inf" => "-Infinity",
                    number => number,
                });
            }
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.map(|item| (None, item)).collect();
                self.items(['[', ']'], items, depth, out)?;
            }
            ValueKind::Map => {
                let pair = |key: Value| Ok((Some(python_str(&key)), value.get_item(&key)?));
                let pairs: Result<Vec<_>, Error> = value.try_iter()?.map(pair).collect();
                let mut pairs = pairs?;
                if self.sorted {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.items(['{', '}'], pairs, depth, out)?;
            }
            kind => {
                let message = format!("{kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    fn items(
        &self,
        [open, close]: [char; 2],
        items: Vec<(Option<String>, Value)>,
        depth: usize,
        out: &mut String,
    ) -> Result<(), Error> {
        out.push(open);
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
        };
        let empty = items.is_empty();
        for (i, (key, item)) in items.into_iter().enumerate() {
            out.push_str(if i > 0 { &self.between } else { "" });
            line(depth + 1, out);
            if let Some(key) = key {
                self.string(&key, out);
                out.push_str(&self.behind_key);
            }
            self.value(&item, depth + 1, out)?;
        }
        if !empty {
            line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // A string takes every text.
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Role;
    use serde::Deserialize;

    /// What `tests/interop/templates.py` writes.
    #[derive(Deserialize)]
    struct Rendered {
        name: String,
        template: String,
        tokens: BTreeMap<String, String>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        messages: Vec<Message>,
        prompt: bool,
        /// None where `transformers` raises an error.
        expected: Option<String>,
    }

    impl Rendered {
        fn all(text: &str) -> Vec<Self> {
            let lines = text.lines();
            lines
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        }

        /// What is different, case by case.
        fn differences(&self) -> Vec<String> {
            let template = ChatTemplate::new(&self.template);
            let difference = |case: &Case| {
                let tokens = self.tokens.iter().map(|(k, v)| (k.as_str(), v.as_str()));
                let template = template.as_ref().map_err(String::clone);
                let ours = template.and_then(|t| t.render(&case.messages, case.prompt, tokens));
                match (&ours, &case.expected) {
                    (Ok(ours), Some(theirs)) if ours == theirs => None,
                    (Err(_), None) => None,
                    (_, theirs) => Some(format!("{}:\n{ours:?}\nnot\n{theirs:?}", self.name)),
                }
            };
            self.cases.iter().filter_map(difference).collect()
        }
    }

    #[test]
    fn own_templates_are_rendered_as_transformers_renders_them() {
        let all = Rendered::all(include_str!("../../tests/fixtures/templates.jsonl"));
        assert!(all.iter().map(|one| one.cases.len()).sum::<usize>() > 150);
        let differences: Vec<String> = all.iter().flat_map(Rendered::differences).collect();
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }

    /// Over other people's templates: `RETUNE_TEMPLATES` names a file of cases.
    #[test]
    fn given_templates_are_rendered_as_transformers_renders_them() {
        let Some(path) = std::env::var_os("RETUNE_TEMPLATES") else {
            return;
        };
        let all = Rendered::all(&std::fs::read_to_string(path).unwrap());
        let differ = |one: &&Rendered| !one.differences().is_empty();
        let names: Vec<&str> = all.iter().filter(differ).map(|one| &*one.name).collect();
        let first = all
            .iter()
            .filter_map(|one| one.differences().into_iter().next());
        let first: Vec<String> = first.collect();
        println!("{} templates, of which differ: {names:?}", all.len());
        assert!(first.is_empty(), "{}", first.join("\n"));
    }

    fn render(template: &str) -> Result<String, String> {
        let messages = [Message::new(Role::User, "why?")];
        ChatTemplate::new(template)?.render(&messages, true, [("eos_token", "</s>")])
    }

    #[test]
    fn a_refusal_is_told_in_the_templates_words() {
        let refused = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
        assert_eq!(refused, "roles must alternate");
        let unknown = render("{{ nothing.of(it) }}").unwrap_err();
        assert!(unknown.contains("line 1"), "{unknown}");
        assert!(ChatTemplate::new("{% if %}").is_err());
    }

    #[test]
    fn the_date_is_fixed_unless_another_is_given() {
        let text = "{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d') }}";
        assert_eq!(render(text).unwrap(), "26 Jul 2024 2024-07-26");
        let mut template = ChatTemplate::new(text).unwrap();
        template.set_today(date(2026, 1, 2));
        let rendered = template.render(&[], false, []).unwrap();
        assert_eq!(rendered, "02 Jan 2026 2026-01-02");
        assert!(render("{{ strftime_now('%!') }}").is_err());
    }
}
