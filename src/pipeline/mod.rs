//! The pipeline file: TOML text to a [`Pipeline`] with spans, overrides applied and `[params]` filled in.
//!
//! Three tables are known: `[pipeline]` (`name`, `description`, `seed`,
//! `pools`, `hard_links`), `[params]`, and `[steps.NAME]` with `uses`,
//! `description`, `out`, the settings ([`SETTINGS`]) and the fields of the
//! step's kind, which the graph checks.
//!
//! `"${params.NAME}"` in any string of a step stands for the parameter: as the
//! whole string for its typed value, within a longer string for its text.
//! `$${params.` stands for the characters `${params.`. `"${matrix.AXIS}"` does
//! the same for the step's matrix, which makes one step of each cell. Other
//! `${…}` are left to the step's kind.

mod cell;
mod diagnostic;
mod matrix;
mod name;
mod overrides;
mod reference;
mod settings;
pub mod units;
mod value;

use serde_json::Value;
use toml::de::{DeTable, DeValue};

pub use cell::{Address, BadAddress, Cell, Cells, Coordinate};
pub use diagnostic::{Diagnostic, Diagnostics, Severity, Source, Span, closest, suggest};
pub use name::{BadName, PipelineName, StepName};
pub use overrides::Overrides;
pub use settings::{RawSettings, SETTINGS};
pub use value::{Field, Spans, ValueSource};

pub(crate) use cell::listed;
pub(crate) use matrix::{OncePerPlace, pair};
pub(crate) use name::is_name;
pub(crate) use overrides::assignment;
pub(crate) use reference::within;

use matrix::CellOverride;
use reference::{MATRIX, PARAMS, References};
use value::Fields;

/// A pipeline as its file and the overrides say it, not yet checked against
/// the kinds of its steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// `[pipeline] name`, or else the stem of the file's name.
    pub name: PipelineName,
    /// `[pipeline] description`.
    pub description: String,
    /// `[pipeline] seed`, 0 by default: the seed of every step that has none.
    pub seed: u64,
    /// Where the seed comes from.
    pub seed_source: ValueSource,
    /// `[pipeline] pools`: what steps share that the machine knows nothing of.
    pub pools: Option<Field>,
    /// `[pipeline] hard_links`: whether large outputs in place are the files of
    /// the store.
    pub hard_links: bool,
    /// The steps in the order of the file, one for each cell of a matrix.
    pub steps: Vec<RawStep>,
    /// What has no effect, such as a parameter that nothing refers to.
    pub warnings: Vec<Diagnostic>,
    /// The file.
    pub source: Source,
}

/// A step as the file says it.
#[derive(Debug, Clone, PartialEq)]
pub struct RawStep {
    /// Its name.
    pub name: StepName,
    /// Which cell of its matrix it is, if it has one.
    pub cell: Option<Cell>,
    /// Where the name is written.
    pub name_span: Span,
    /// The name of its kind.
    pub uses: String,
    /// Where `uses` has its value, if that is in the file.
    pub uses_span: Option<Span>,
    /// What it is for, in the words of the file's author.
    pub description: String,
    /// Where its outputs appear, if not at the default place.
    pub out: Option<Field>,
    /// How it runs.
    pub settings: RawSettings,
    /// Every other field, sorted by key.
    pub fields: Vec<Field>,
    /// Whether something in it has been reported already, so that a null
    /// among its values or a missing `uses` is no second fault.
    pub faulty: bool,
}

impl RawStep {
    /// The field of that name.
    pub fn field(&self, key: &str) -> Option<&Field> {
        let at = self
            .fields
            .binary_search_by(|field| field.key.as_str().cmp(key));
        at.ok().map(|at| &self.fields[at])
    }
}

impl Pipeline {
    /// Reads a pipeline file.
    ///
    /// Fails with everything that is wrong with it (the warnings among it),
    /// as far as that can be told without knowing the kinds.
    pub fn parse(source: Source, overrides: &Overrides) -> Result<Pipeline, Diagnostics> {
        let (mut pipeline, mut faults) = Self::read(source, overrides)?;
        if faults.is_empty() {
            return Ok(pipeline);
        }
        faults.append(&mut pipeline.warnings);
        Err(Diagnostics::new(pipeline.source, faults))
    }

    /// Like [`Pipeline::parse`], but also gives what could be read of a file
    /// with faults, so that a later stage can report its own beside them.
    /// Fails only where the text is not TOML.
    pub fn read(
        source: Source,
        overrides: &Overrides,
    ) -> Result<(Pipeline, Vec<Diagnostic>), Diagnostics> {
        let mut faults = Vec::new();
        let mut draft = match syntax(&source.text) {
            Ok(document) => Draft::new(&document, &mut faults),
            Err(list) => return Err(Diagnostics::new(source, list)),
        };
        overrides::apply(&mut draft, overrides, &mut faults);
        let warnings = draft.fill_in(&source, &mut faults);
        let pipeline = draft.finish(source, warnings, &mut faults);
        Ok((pipeline, faults))
    }
}

/// Parses TOML, reporting the first fault of each line.
fn syntax(text: &str) -> Result<DeTable<'_>, Vec<Diagnostic>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(document.into_inner());
    }
    let mut list: Vec<Diagnostic> = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let same_line = |other: &Diagnostic| {
            let other = other.span.clone().unwrap_or(0..0);
            let (a, b) = (other.start.min(span.start), other.start.max(span.start));
            !text.get(a..b).unwrap_or_default().contains('\n')
        };
        let follows = |other: &Diagnostic| {
            error.message() == DUPLICATE && follows(text, other.span.as_ref(), &span)
        };
        if !list.iter().any(|other| same_line(other) || follows(other)) {
            let message = format!("the file is not TOML: {}", error.message());
            list.push(Diagnostic::error(span, message));
        }
    }
    Err(list)
}

/// How the parser names a key that is there already.
const DUPLICATE: &str = "duplicate key";

/// Whether the fault at `later` is in the table whose header has a fault at
/// `header`: the keys of a table that is there already are there already too.
fn follows(text: &str, header: Option<&Span>, later: &Span) -> bool {
    let Some(header) = header else {
        return false;
    };
    let before = text.get(..header.start).unwrap_or_default();
    let line = before.rfind('\n').map_or(0, |end| end + 1);
    let is_header = text[line..].trim_start().starts_with('[');
    let between = text.get(header.end..later.start).unwrap_or_default();
    is_header && !between.contains("\n[")
}

/// The tables of the file before the parameters are filled in.
struct Draft {
    pipeline: Fields,
    params: Fields,
    steps: Vec<DraftStep>,
}

struct DraftStep {
    name: StepName,
    span: Span,
    fields: Fields,
    /// What the command line changes in some of its cells.
    overrides: Vec<CellOverride>,
    faulty: bool,
}

impl Draft {
    fn new(document: &DeTable<'_>, faults: &mut Vec<Diagnostic>) -> Self {
        let mut draft = Draft {
            pipeline: Fields::new(),
            params: Fields::new(),
            steps: Vec::new(),
        };
        for (key, value) in document {
            let name = key.get_ref().as_ref();
            if !["pipeline", "params", "steps"].contains(&name) {
                faults.push(unknown_table(name, key.span()));
                continue;
            }
            let Some(table) = table(name, key.span(), value.get_ref(), faults) else {
                continue;
            };
            match name {
                "pipeline" => draft.pipeline = value::fields(table, faults),
                "params" => draft.params = params(table, faults),
                _ => draft.steps = steps(table, faults),
            }
        }
        draft
    }

    fn step_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.steps.iter().map(|step| step.name.as_str())
    }

    /// Replaces the references to parameters; gives a warning for each
    /// parameter without one.
    fn fill_in(&mut self, file: &Source, faults: &mut Vec<Diagnostic>) -> Vec<Diagnostic> {
        // Parameters do not refer to each other; this reports where one tries
        // to and takes away the escapes.
        let none = Fields::new();
        for param in self.params.values_mut() {
            let before = faults.len();
            References::new(&PARAMS, &none, file).resolve(param, faults);
            for fault in &mut faults[before..] {
                fault.message = "a parameter cannot refer to another one".to_owned();
                fault.label = String::new();
                fault.hint = Some("write '$${params.' for these characters".to_owned());
            }
            let before = faults.len();
            References::new(&MATRIX, &none, file).resolve(&mut param.clone(), faults);
            for fault in &mut faults[before..] {
                fault.message = "a parameter cannot refer to an axis".to_owned();
                fault.label = "is the same for all cells".to_owned();
                fault.hint = Some("refer to the axis in the step that has the matrix".to_owned());
            }
        }
        let mut references = References::new(&PARAMS, &self.params, file);
        for step in &mut self.steps {
            let before = faults.len();
            let overrides = step.overrides.iter_mut().map(|change| &mut change.field);
            for field in step.fields.values_mut().chain(overrides) {
                references.resolve(field, faults);
            }
            step.faulty |= faults.len() > before;
        }
        let warning = |param: &Field| {
            let message = format!("the parameter '{}' is not used", param.key);
            Diagnostic::warning(param.key_span.clone(), message)
                .label("no step refers to it")
                .hint(format!("refer to it as \"${{params.{}}}\"", param.key))
        };
        references.unused().map(warning).collect()
    }

    fn finish(
        self,
        source: Source,
        mut warnings: Vec<Diagnostic>,
        faults: &mut Vec<Diagnostic>,
    ) -> Pipeline {
        let mut header = self.pipeline;
        let name = take_string(&mut header, "name", faults);
        let description = take_string(&mut header, "description", faults);
        let seed = header.remove("seed");
        let pools = header.remove("pools");
        let hard_links = header.remove("hard_links");
        for field in header.values() {
            faults.push(unknown_key(field));
        }
        Pipeline {
            name: pipeline_name(name, &source, faults),
            description: description.map(|(text, _)| text).unwrap_or_default(),
            seed_source: seed
                .as_ref()
                .map_or(ValueSource::Default, |field| field.source.clone()),
            seed: seed.map_or(0, |field| seed_value(&field, faults)),
            pools,
            hard_links: hard_links.is_some_and(|field| truth(&field, faults)),
            steps: matrix::expand(self.steps, &source, &mut warnings, faults),
            warnings,
            source,
        }
    }
}

impl DraftStep {
    fn finish(mut self, cell: Option<Cell>, faults: &mut Vec<Diagnostic>) -> RawStep {
        let before = faults.len();
        let missing = !self.fields.contains_key("uses");
        if missing {
            let message = format!("the step '{}' does not say what it does", self.name);
            let fault = Diagnostic::error(self.span.clone(), message)
                .label("'uses' is missing")
                .hint("add: uses = \"KIND\"".to_owned());
            faults.push(fault);
        }
        let uses = take_string(&mut self.fields, "uses", faults);
        let description = take_string(&mut self.fields, "description", faults);
        let out = self.fields.remove("out");
        let settings = RawSettings::take(&mut self.fields);
        let (uses, uses_span) = uses.unwrap_or_default();
        RawStep {
            name: self.name,
            cell,
            name_span: self.span,
            uses,
            uses_span,
            description: description.map(|(text, _)| text).unwrap_or_default(),
            out,
            settings,
            fields: self.fields.into_values().collect(),
            faulty: self.faulty || faults.len() > before,
        }
    }
}

fn unknown_table(name: &str, span: Span) -> Diagnostic {
    let known = ["pipeline", "params", "steps"];
    Diagnostic::error(span, format!("unknown key '{name}'"))
        .label("not a table of a pipeline")
        .hint(suggest(name, known, "the tables are"))
}

fn unknown_key(field: &Field) -> Diagnostic {
    let known = ["name", "description", "seed", "pools", "hard_links"];
    Diagnostic::error(
        field.key_span.clone(),
        format!("unknown key '{}'", field.key),
    )
    .label("not a key of [pipeline]")
    .hint(suggest(&field.key, known, "its keys are"))
}

/// The table behind a key, or a report that there is something else.
fn table<'a, 'i>(
    name: &str,
    key: Span,
    value: &'a DeValue<'i>,
    faults: &mut Vec<Diagnostic>,
) -> Option<&'a DeTable<'i>> {
    if let DeValue::Table(table) = value {
        return Some(table);
    }
    let fault = Diagnostic::error(key, format!("'{name}' must be a table"))
        .label(format!("is {}", article(value.type_str())));
    faults.push(fault);
    None
}

fn article(noun: &str) -> String {
    let vowel = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}

fn params(table: &DeTable<'_>, faults: &mut Vec<Diagnostic>) -> Fields {
    let mut params = value::fields(table, faults);
    params.retain(|_, param| {
        let good = is_name(&param.key);
        if !good {
            faults.push(bad_name(&param.key, param.key_span.clone(), "parameter"));
        }
        good
    });
    params
}

fn steps(table: &DeTable<'_>, faults: &mut Vec<Diagnostic>) -> Vec<DraftStep> {
    let mut steps = Vec::with_capacity(table.len());
    for (key, value) in table {
        let text = key.get_ref().as_ref();
        let Some(table) = self::table(text, key.span(), value.get_ref(), faults) else {
            continue;
        };
        let Ok(name) = text.parse() else {
            faults.push(bad_name(text, Some(key.span()), "step"));
            continue;
        };
        let before = faults.len();
        let fields = value::fields(table, faults);
        steps.push(DraftStep {
            name,
            span: key.span(),
            fields,
            overrides: Vec::new(),
            faulty: faults.len() > before,
        });
    }
    steps.sort_by_key(|step| step.span.start);
    steps
}

fn bad_name(name: &str, span: Option<Span>, what: &str) -> Diagnostic {
    Diagnostic::error(span, format!("'{name}' cannot be the name of a {what}"))
        .label("not a name")
        .hint(
            "names are letters, digits, '-' and '_', the first one a letter or a digit".to_owned(),
        )
}

/// Removes a field that must be a string.
fn take_string(
    fields: &mut Fields,
    key: &str,
    faults: &mut Vec<Diagnostic>,
) -> Option<(String, Option<Span>)> {
    let field = fields.remove(key)?;
    match field.value {
        Value::String(text) => Some((text, field.spans.span)),
        // Reported where it became null.
        Value::Null => None,
        _ => {
            let message = format!("'{key}' must be a string");
            faults.push(
                Diagnostic::error(field.value_span(), message)
                    .label("is not a string")
                    .note(field.origin()),
            );
            None
        }
    }
}

fn pipeline_name(
    given: Option<(String, Option<Span>)>,
    source: &Source,
    faults: &mut Vec<Diagnostic>,
) -> PipelineName {
    let file = source.path.rsplit(['/', '\\']).next().unwrap_or_default();
    let stem = file.split('.').next().unwrap_or_default();
    let (text, span) = given.unwrap_or_else(|| (stem.to_owned(), None));
    text.parse().unwrap_or_else(|_| {
        faults.push(bad_name(&text, span, "pipeline"));
        PipelineName::fallback()
    })
}

fn seed_value(field: &Field, faults: &mut Vec<Diagnostic>) -> u64 {
    if field.value.is_null() {
        return 0;
    }
    field.value.as_u64().unwrap_or_else(|| {
        let message = "'seed' must be an integer that is not negative";
        faults.push(Diagnostic::error(field.value_span(), message).note(field.origin()));
        0
    })
}

fn truth(field: &Field, faults: &mut Vec<Diagnostic>) -> bool {
    if field.value.is_null() {
        return false;
    }
    field.value.as_bool().unwrap_or_else(|| {
        let message = format!("'{}' must be true or false", field.key);
        faults.push(Diagnostic::error(field.value_span(), message).note(field.origin()));
        false
    })
}

#[cfg(test)]
mod tests;
