//! `--set` and `RETUNE_…` variables: which value of the file they replace.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::cell::{Address, Cells, close};
use super::diagnostic::{Diagnostic, closest, suggest};
use super::matrix::{CellOverride, MATRIX_KEY};
use super::value::{Field, Fields, Spans, ValueSource, parse_override};
use super::{Draft, DraftStep};

/// Values that replace those of the pipeline file. The command line beats the
/// environment, and both beat the file.
///
/// A value is read as TOML (`5e-5`, `true`, `[1, 2]`, `"text"`) and, where it
/// is not TOML, taken as a bare string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Paths and values of `--set`: `steps.NAME.FIELD`, `params.NAME`,
    /// `pipeline.seed`, `pipeline.hard_links`, and for some cells of a matrix
    /// `steps.NAME[AXIS=VALUE].FIELD`. Of two for the same path the later one
    /// holds.
    pub set: Vec<(String, String)>,
    /// Environment variables: `RETUNE_STEPS__NAME__FIELD`,
    /// `RETUNE_PARAMS__NAME`, `RETUNE_PIPELINE__SEED`,
    /// `RETUNE_PIPELINE__HARD_LINKS`. The case does not matter and `-` is
    /// written `_`. Other variables are ignored.
    pub env: BTreeMap<String, String>,
}

const PREFIX: &str = "RETUNE_";
const TABLES: [&str; 3] = ["PIPELINE", "PARAMS", "STEPS"];

/// Applies all overrides to the draft and reports those that match nothing.
pub(super) fn apply(draft: &mut Draft, overrides: &Overrides, faults: &mut Vec<Diagnostic>) {
    for (variable, text) in &overrides.env {
        let source = ValueSource::Env(variable.clone());
        let outcome = variable_path(draft, variable)
            .and_then(|path| path.map_or(Ok(()), |path| set(draft, &path, text, &source)));
        faults.extend(outcome.err().map(|fault| fault.report(variable)));
    }
    for (path, text) in &overrides.set {
        let origin = format!("--set {path}");
        let outcome = argument_path(draft, path).and_then(|path| match path {
            Path::Cells(step, cells, path) => set_cells(draft, step, cells, path, text, &origin),
            path => set(draft, &path, text, &ValueSource::CommandLine),
        });
        faults.extend(outcome.err().map(|fault| fault.report(&origin)));
    }
}

/// What an override replaces.
enum Path {
    /// A key of `[pipeline]`.
    Header(&'static str),
    Param(String),
    /// The index of the step, the field, and keys of tables within it.
    Field(usize, Vec<String>),
    /// The same in some cells of the step alone.
    Cells(usize, Cells, Vec<String>),
}

pub(super) struct Fault {
    message: String,
    hint: Option<String>,
}

impl Fault {
    fn new(message: impl Into<String>, hint: Option<String>) -> Self {
        Fault {
            message: message.into(),
            hint,
        }
    }

    pub(super) fn report(self, origin: &str) -> Diagnostic {
        Diagnostic::error(None, format!("{origin}: {}", self.message)).hint(self.hint)
    }
}

const FORMS: &str =
    "one can set steps.NAME.FIELD, params.NAME, pipeline.seed and pipeline.hard_links";

/// What can be set of `[pipeline]`.
const HEADER: [&str; 2] = ["seed", "hard_links"];

/// What the path of a `--set` names.
fn argument_path(draft: &Draft, path: &str) -> Result<Path, Fault> {
    let parts = parts(path);
    match parts[..] {
        ["pipeline", name] => header(|key| key == name, || FORMS.to_owned()),
        ["params", name] if draft.params.contains_key(name) => Ok(Path::Param(name.to_owned())),
        ["params", name] => Err(Fault::new(
            format!("there is no parameter '{name}'"),
            suggest(
                name,
                draft.params.keys().map(String::as_str),
                "the parameters are",
            ),
        )),
        ["steps", name, ref field @ ..] if !field.is_empty() && !field.contains(&"") => {
            let field = field.iter().map(|&part| part.to_owned()).collect();
            step_path(draft, name, field)
        }
        _ => Err(Fault::new("nothing has that name", Some(FORMS.to_owned()))),
    }
}

/// The key of `[pipeline]` that is meant.
fn header(is_meant: impl Fn(&str) -> bool, forms: impl Fn() -> String) -> Result<Path, Fault> {
    let key = HEADER.into_iter().find(|key| is_meant(key));
    key.map(Path::Header).ok_or_else(|| {
        let message = "of [pipeline] only seed and hard_links can be set";
        Fault::new(message, Some(forms()))
    })
}

/// The path and the value of a `PATH=VALUE`: apart at the first `=` that is
/// not in the brackets of a cell.
pub(crate) fn assignment(text: &str) -> Option<(&str, &str)> {
    let mut at = 0;
    while let Some(found) = text[at..].find(['=', '[']) {
        let found = at + found;
        if text[found..].starts_with('=') {
            return Some((&text[..found], &text[found + 1..]));
        }
        at = found + 1 + close(&text[found + 1..])? + 1;
    }
    None
}

/// The parts between the dots of a path, other than those in brackets.
fn parts(path: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while let Some(found) = path[at..].find(['.', '[']) {
        let (found, open) = (at + found, path[at + found..].starts_with('['));
        at = found + 1;
        if open {
            at += close(&path[at..]).map_or(path.len() - at, |end| end + 1);
        } else {
            parts.push(&path[start..found]);
            start = at;
        }
    }
    parts.push(&path[start..]);
    parts
}

/// The field of a step or of some of its cells.
fn step_path(draft: &Draft, name: &str, field: Vec<String>) -> Result<Path, Fault> {
    let named = |name: &str| {
        draft
            .steps
            .iter()
            .position(|step| step.name.as_str() == name)
    };
    if let Some(step) = named(name) {
        return Ok(Path::Field(step, field));
    }
    let address = Address::parse(name).map_err(|bad| Fault::new(bad.to_string(), None))?;
    let Some(step) = named(&address.base) else {
        return Err(Fault::new(
            format!("there is no step '{}'", address.base),
            suggest(&address.base, draft.step_names(), "the steps are"),
        ));
    };
    match address.cells {
        _ if field[0] == MATRIX_KEY => Err(Fault::new("a cell cannot change the matrix", None)),
        Cells::Unsaid | Cells::All => Ok(Path::Field(step, field)),
        cells => Ok(Path::Cells(step, cells, field)),
    }
}

/// Upper case with `_` for `-`: how names appear in variables.
fn shout(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

/// What a variable names; none when it is not an override at all.
fn variable_path(draft: &Draft, variable: &str) -> Result<Option<Path>, Fault> {
    let Some((table, name)) = variable
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once("__"))
    else {
        return Ok(None);
    };
    let name = shout(name);
    match table.to_ascii_uppercase().as_str() {
        "PIPELINE" => {
            let forms = || format!("as {PREFIX}PIPELINE__SEED and {PREFIX}PIPELINE__HARD_LINKS");
            header(|key| shout(key) == name, forms).map(Some)
        }
        "PARAMS" => param_variable(draft, &name).map(Some),
        "STEPS" => step_variable(draft, &name).map(Some),
        other => match closest(other, TABLES) {
            Some(table) => Err(Fault::new(
                format!("there is no table '{}'", other.to_ascii_lowercase()),
                Some(format!("did you mean '{PREFIX}{table}__{name}'?")),
            )),
            None => Ok(None),
        },
    }
}

fn param_variable(draft: &Draft, name: &str) -> Result<Path, Fault> {
    let matching: Vec<&String> = draft
        .params
        .keys()
        .filter(|key| shout(key) == name)
        .collect();
    match matching[..] {
        [key] => Ok(Path::Param(key.clone())),
        [] => {
            let names: Vec<String> = draft.params.keys().map(|key| shout(key)).collect();
            Err(Fault::new(
                "no parameter has that name",
                suggest_variable(name, &names, "PARAMS__", ""),
            ))
        }
        _ => Err(ambiguous(matching.iter().map(|key| key.as_str()))),
    }
}

fn step_variable(draft: &Draft, name: &str) -> Result<Path, Fault> {
    let names: Vec<String> = draft.step_names().map(shout).collect();
    // A step's name may itself hold `__`: the longest match is meant.
    let field = |step: &String| name.strip_prefix(step.as_str())?.strip_prefix("__");
    let matching = |step: &&String| field(step).is_some_and(|field| !field.is_empty());
    let Some(longest) = names.iter().filter(matching).max_by_key(|step| step.len()) else {
        let (step, rest) = name.split_once("__").unwrap_or((name, "FIELD"));
        return Err(Fault::new(
            "no step has that name",
            suggest_variable(step, &names, "STEPS__", &format!("__{rest}")),
        ));
    };
    let steps: Vec<usize> = (0..names.len()).filter(|&i| names[i] == *longest).collect();
    let [step] = steps[..] else {
        let same = steps.iter().map(|&i| draft.steps[i].name.as_str());
        return Err(ambiguous(same));
    };
    let parts = field(longest).unwrap_or_default().split("__");
    Ok(Path::Field(step, spelling(&draft.steps[step], parts)))
}

/// The keys as the file spells them, or else in lower case.
fn spelling<'a>(step: &DraftStep, parts: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut path = Vec::new();
    let mut table: Option<&Map<String, Value>> = None;
    for part in parts {
        let mut keys: Box<dyn Iterator<Item = &String>> = match (path.is_empty(), table) {
            (true, _) => Box::new(step.fields.keys()),
            (false, Some(table)) => Box::new(table.keys()),
            (false, None) => Box::new(std::iter::empty()),
        };
        let key = keys.find(|key| shout(key) == part).cloned();
        let key = key.unwrap_or_else(|| part.to_ascii_lowercase());
        table = match (path.is_empty(), table) {
            (true, _) => step
                .fields
                .get(&key)
                .and_then(|field| field.value.as_object()),
            (false, table) => table.and_then(|table| table.get(&key)?.as_object()),
        };
        path.push(key);
    }
    path
}

fn suggest_variable(wrong: &str, names: &[String], table: &str, rest: &str) -> Option<String> {
    let names = names.iter().map(String::as_str);
    match closest(wrong, names.clone()) {
        Some(name) => Some(format!("did you mean '{PREFIX}{table}{name}{rest}'?")),
        None => suggest(wrong, names, "the names are"),
    }
}

fn ambiguous<'a>(names: impl Iterator<Item = &'a str>) -> Fault {
    let names: Vec<&str> = names.collect();
    Fault::new(
        format!("it may mean each of: {}", names.join(", ")),
        Some("use --set, which takes names as they are".to_owned()),
    )
}

fn parse(text: &str) -> Result<Value, Fault> {
    parse_override(text).map_err(|message| {
        let hint = format!("write \"{text}\" in quotes if text is meant");
        Fault::new(message, Some(hint))
    })
}

/// Leaves a change of some cells to when the cells are known.
fn set_cells(
    draft: &mut Draft,
    step: usize,
    cells: Cells,
    path: Vec<String>,
    text: &str,
    origin: &str,
) -> Result<(), Fault> {
    let field = Field {
        key: origin.to_owned(),
        key_span: None,
        value: parse(text)?,
        spans: Spans::default(),
        source: ValueSource::CommandLine,
    };
    draft.steps[step]
        .overrides
        .push(CellOverride { cells, path, field });
    Ok(())
}

fn set(draft: &mut Draft, path: &Path, text: &str, source: &ValueSource) -> Result<(), Fault> {
    let value = parse(text)?;
    match path {
        Path::Header(key) => replace(&mut draft.pipeline, key, value, source),
        Path::Param(name) => replace(&mut draft.params, name, value, source),
        Path::Field(step, path) | Path::Cells(step, _, path) => {
            return put(&mut draft.steps[*step].fields, path, value, source);
        }
    }
    Ok(())
}

/// Sets what `path` leads to.
pub(super) fn replace_at(fields: &mut Fields, path: &[String], field: &Field) -> Result<(), Fault> {
    put(fields, path, field.value.clone(), &field.source)
}

fn put(
    fields: &mut Fields,
    path: &[String],
    value: Value,
    source: &ValueSource,
) -> Result<(), Fault> {
    match path {
        [] => {}
        [key] => replace(fields, key, value, source),
        [key, rest @ ..] => return replace_within(fields, key, rest, value, source),
    }
    Ok(())
}

fn replace(fields: &mut Fields, key: &str, value: Value, source: &ValueSource) {
    let key_span = fields.get(key).and_then(|field| field.key_span.clone());
    let field = Field {
        key: key.to_owned(),
        key_span,
        value,
        spans: Spans::default(),
        source: source.clone(),
    };
    fields.insert(key.to_owned(), field);
}

/// Sets a key of a table within a field, making the tables that are not there.
fn replace_within(
    fields: &mut Fields,
    key: &str,
    rest: &[String],
    value: Value,
    source: &ValueSource,
) -> Result<(), Fault> {
    if !fields.contains_key(key) {
        replace(fields, key, Value::Object(Map::new()), source);
    }
    let Some(field) = fields.get_mut(key) else {
        return Ok(());
    };
    let not_a_table = |key: &str| Fault::new(format!("'{key}' is not a table"), None);
    let (last, tables) = rest.split_last().ok_or_else(|| not_a_table(key))?;
    let mut map = field
        .value
        .as_object_mut()
        .ok_or_else(|| not_a_table(key))?;
    let mut spans = &mut field.spans;
    for table in tables {
        let entry = map.entry(table.clone());
        let inner = entry.or_insert_with(|| Value::Object(Map::new()));
        map = inner.as_object_mut().ok_or_else(|| not_a_table(table))?;
        spans = &mut spans.entries.entry(table.clone()).or_default().1;
    }
    map.insert(last.clone(), value);
    let place = spans.entries.entry(last.clone()).or_default();
    place.1 = Spans::default();
    field.source.strengthen(source);
    Ok(())
}
