//! `matrix`: one step of the file to one step for each cell, so that everything after sees plain steps.
//!
//! A matrix is a table of axes with their values; its cells are all
//! combinations, less those that `exclude` matches, and those that `include`
//! adds. `from = "@step"`, or that string in place of the table, takes over the
//! cells of another step's matrix, which an axis of one's own multiplies.
//!
//! `"${matrix.AXIS}"` in a field stands for the cell's value as
//! `"${params.NAME}"` stands for a parameter's. Nothing else of the matrix gets
//! into a step, and so nothing else of it can get into a key: cells that are
//! added or removed change no other cell.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::cell::{Cell, Cells, Coordinate, canonical};
use super::diagnostic::{Diagnostic, Source, Span, closest, suggest};
use super::name::is_name;
use super::overrides::replace_at;
use super::reference::{MATRIX, References};
use super::value::{Field, Fields, Spans, ValueSource};
use super::{DraftStep, RawStep};

/// How many cells a matrix may have.
const LIMIT: usize = 100_000;

/// The keys of a matrix that are not axes.
const RESERVED: [&str; 3] = ["from", "include", "exclude"];

/// Faults of which each place is reported once, however many cells share it.
#[derive(Default)]
pub(crate) struct OncePerPlace(HashSet<(Option<Span>, String)>);

impl OncePerPlace {
    /// Removes those of the faults from `start` on whose place had one already.
    pub(crate) fn keep(&mut self, faults: &mut Vec<Diagnostic>, start: usize) {
        let mut at = 0;
        faults.retain(|fault| {
            at += 1;
            let message = match &fault.span {
                Some(_) => String::new(),
                None => fault.message.clone(),
            };
            at <= start || self.0.insert((fault.span.clone(), message))
        });
    }
}

/// A value of an axis, shared by the cells that have it.
struct Choice {
    at: Coordinate,
    spans: Spans,
    source: ValueSource,
}

/// The cells of a step, each a choice for each axis, sorted by axis.
struct Matrix {
    axes: Vec<Axis>,
    cells: Vec<Vec<Arc<Choice>>>,
}

/// An axis and the step whose matrix declares it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Axis {
    name: Box<str>,
    of: Box<str>,
}

/// A change of the fields of some cells alone, by `--set`.
pub(super) struct CellOverride {
    /// The cells.
    pub cells: Cells,
    /// The keys that lead to the value.
    pub path: Vec<String>,
    /// The value; its key is what the user wrote.
    pub field: Field,
}

/// Expands every step that has a matrix. Gives the steps in the order of the
/// file, the cells of one in the order of its axes' values.
pub(super) fn expand(
    steps: Vec<DraftStep>,
    file: &Source,
    warnings: &mut Vec<Diagnostic>,
    faults: &mut Vec<Diagnostic>,
) -> Vec<RawStep> {
    named_cells(&steps, faults);
    let mut matrices = Matrices::new(&steps);
    for at in 0..steps.len() {
        matrices.resolve(at, warnings, faults);
    }
    let found = matrices.found;
    let mut raw = Vec::with_capacity(steps.len());
    for (step, matrix) in steps.into_iter().zip(found) {
        match matrix {
            Found::Matrix(matrix) => {
                let matrix = matrix.as_deref();
                expand_step(step, matrix, file, &mut raw, warnings, faults);
            }
            _ => raw.push(plain(step, file, faults)),
        }
    }
    raw
}

/// Reports steps that the file names as cells of another of its steps.
fn named_cells(steps: &[DraftStep], faults: &mut Vec<Diagnostic>) {
    let cells = steps.iter().filter(|step| step.name.cell().is_some());
    let mut whole: Option<HashSet<&str>> = None;
    for cell in cells {
        let names = || steps.iter().map(|step| step.name.as_str()).collect();
        if whole.get_or_insert_with(names).contains(cell.name.base()) {
            let message = format!(
                "'{}' and '{}' exclude each other",
                cell.name.base(),
                cell.name
            );
            let fault = Diagnostic::error(cell.span.clone(), message);
            faults.push(fault.label("would be a cell of the other step"));
        }
    }
}

/// A step without a matrix. One that the file names as a cell is that cell.
fn plain(mut step: DraftStep, file: &Source, faults: &mut Vec<Diagnostic>) -> RawStep {
    let before = faults.len();
    let cell = step.name.cell().map(|text| {
        let cell = Cell::of_name(step.name.base(), text);
        cell.unwrap_or_else(|| {
            faults.push(misspelt(&step));
            Cell::default()
        })
    });
    let values = match &cell {
        Some(cell) => cell.0.iter().map(|at| literal(at, &step.span)).collect(),
        None => Fields::new(),
    };
    let mut references = References::new(&MATRIX, &values, file);
    for field in step.fields.values_mut() {
        references.resolve(field, faults);
    }
    for change in &step.overrides {
        faults.push(
            Diagnostic::error(
                None,
                format!("{}: the step has no matrix", change.field.key),
            )
            .hint(format!(
                "write steps.{}.{}",
                step.name,
                change.path.join(".")
            )),
        );
    }
    step.faulty |= faults.len() > before;
    step.finish(cell, faults)
}

fn literal(at: &Coordinate, span: &Span) -> (String, Field) {
    let field = Field {
        key: at.axis.to_string(),
        key_span: Some(span.clone()),
        value: at.value.clone(),
        spans: Spans::default(),
        source: ValueSource::File,
    };
    (field.key.clone(), field)
}

fn misspelt(step: &DraftStep) -> Diagnostic {
    let message = format!("'{}' cannot be the name of a step", step.name);
    Diagnostic::error(step.span.clone(), message)
        .label("not a cell as retune writes it")
        .hint(
            "a cell names its axes in order, each with the shortest text of its value: \
             stage1[lr=1e-4,rank=8]"
                .to_owned(),
        )
}

/// What is known of the matrix of a step.
enum Found {
    /// Nothing yet.
    Not,
    /// It is being resolved: one that needs it is in a circle.
    Begun,
    /// There is none.
    None,
    /// None if it has faults.
    Matrix(Option<Arc<Matrix>>),
}

struct Matrices<'a> {
    steps: &'a [DraftStep],
    index: HashMap<&'a str, usize>,
    found: Vec<Found>,
}

impl<'a> Matrices<'a> {
    fn new(steps: &'a [DraftStep]) -> Self {
        let names = steps.iter().enumerate();
        Matrices {
            steps,
            index: names.map(|(i, step)| (step.name.as_str(), i)).collect(),
            found: steps.iter().map(|_| Found::Not).collect(),
        }
    }

    /// Resolves a step's matrix and, before it, those that it takes over; not
    /// by recursion, which a long chain would take too deep.
    fn resolve(
        &mut self,
        step: usize,
        warnings: &mut Vec<Diagnostic>,
        faults: &mut Vec<Diagnostic>,
    ) {
        let mut chain = vec![step];
        while let Some(&at) = chain.last() {
            let Some(field) = self.steps[at].fields.get(MATRIX_KEY) else {
                self.found[at] = Found::None;
                chain.pop();
                continue;
            };
            let parent = self.parent(at, field, faults);
            match parent {
                Parent::None => {}
                Parent::Is(parent) if matches!(self.found[parent], Found::Not) => {
                    self.found[at] = Found::Begun;
                    chain.push(parent);
                    continue;
                }
                Parent::Is(parent) if matches!(self.found[parent], Found::Begun) => {
                    faults.push(circle(field));
                    self.found[at] = Found::Matrix(None);
                    chain.pop();
                    continue;
                }
                Parent::Is(_) => {}
                Parent::Wrong => {
                    self.found[at] = Found::Matrix(None);
                    chain.pop();
                    continue;
                }
            }
            self.found[at] = Found::Matrix(self.matrix(at, field, parent, warnings, faults));
            chain.pop();
        }
    }

    fn matrix(
        &self,
        at: usize,
        field: &Field,
        parent: Parent,
        warnings: &mut Vec<Diagnostic>,
        faults: &mut Vec<Diagnostic>,
    ) -> Option<Arc<Matrix>> {
        let parent = match parent {
            Parent::Is(parent) => match &self.found[parent] {
                Found::Matrix(matrix) => Some(matrix.as_ref()?),
                _ => {
                    faults.push(without_matrix(field, self.steps[parent].name.as_str()));
                    return None;
                }
            },
            _ => None,
        };
        if field.value.is_string() {
            return parent.cloned();
        }
        let before = faults.len();
        let step = &self.steps[at];
        let matrix = Reader {
            of: step.name.base().into(),
            field,
            warnings,
            faults,
        }
        .read(parent.map(|parent| &**parent))?;
        (faults.len() == before).then(|| Arc::new(matrix))
    }

    /// The step whose cells are taken over.
    fn parent(&self, at: usize, field: &Field, faults: &mut Vec<Diagnostic>) -> Parent {
        let (value, spans) = match &field.value {
            Value::Object(map) => match map.get("from") {
                Some(value) => (value, field.spans.value("from")),
                None => return Parent::None,
            },
            value => (value, &field.spans),
        };
        let wrong = match value {
            Value::Null => return Parent::Wrong,
            Value::String(text) if text.starts_with('@') => match self.index.get(&text[1..]) {
                Some(&parent) if parent == at => circle(field),
                Some(&parent) => return Parent::Is(parent),
                None => self.unknown(&text[1..]),
            },
            _ => not_a_matrix(field, spans),
        };
        let place = spans.span.clone();
        faults.push(Diagnostic {
            span: place,
            ..wrong.note(field.origin())
        });
        Parent::Wrong
    }

    fn unknown(&self, name: &str) -> Diagnostic {
        let names = self.steps.iter();
        let names = names.filter(|step| step.fields.contains_key(MATRIX_KEY));
        let names: Vec<&str> = names.map(|step| step.name.as_str()).collect();
        let hint = match closest(name, names.iter().copied()) {
            Some(near) => Some(format!("did you mean '@{near}'?")),
            None => suggest(name, names.iter().copied(), "steps with a matrix are"),
        };
        Diagnostic::error(None, format!("there is no step '{name}'"))
            .label("takes over the matrix of a step that does not exist")
            .hint(hint)
    }
}

/// The field of a step.
pub(super) const MATRIX_KEY: &str = "matrix";

#[derive(Clone, Copy)]
enum Parent {
    None,
    Is(usize),
    /// It was reported.
    Wrong,
}

fn circle(field: &Field) -> Diagnostic {
    Diagnostic::error(field.value_span(), "the matrix takes over its own cells")
        .label("comes back to this step")
}

fn without_matrix(field: &Field, parent: &str) -> Diagnostic {
    Diagnostic::error(
        field.value_span(),
        format!("the step '{parent}' has no matrix"),
    )
    .label("has no cells to take over")
    .note(field.origin())
}

fn not_a_matrix(field: &Field, spans: &Spans) -> Diagnostic {
    let message = match field.value.is_object() {
        true => "'matrix.from' must be a step",
        false => "'matrix' must be a table of axes, or a step",
    };
    Diagnostic::error(spans.span.clone(), message)
        .hint("write { lr = [1e-4, 5e-5], rank = [8, 16] }, or \"@STEP\"".to_owned())
}

/// Reads the table of one matrix.
struct Reader<'a> {
    /// The step.
    of: Box<str>,
    field: &'a Field,
    warnings: &'a mut Vec<Diagnostic>,
    faults: &'a mut Vec<Diagnostic>,
}

/// What a table of a cell says.
type Given = BTreeMap<String, Arc<Choice>>;

impl Reader<'_> {
    fn fault(&mut self, span: Option<Span>, message: impl Into<String>) -> &mut Diagnostic {
        let fault = Diagnostic::error(span, message).note(self.field.origin());
        self.faults.push(fault);
        self.faults.last_mut().expect("it was just pushed")
    }

    fn own(&self, axis: &str) -> Axis {
        Axis {
            name: axis.into(),
            of: self.of.clone(),
        }
    }

    fn read(&mut self, parent: Option<&Matrix>) -> Option<Matrix> {
        let field = self.field;
        let table = field.value.as_object()?;
        let before = self.faults.len();
        let mut own: Vec<(Box<str>, Vec<Arc<Choice>>)> = Vec::new();
        for (axis, values) in table
            .iter()
            .filter(|(key, _)| !RESERVED.contains(&key.as_str()))
        {
            if let Some(choices) = self.axis(axis, values, parent) {
                own.push((axis.as_str().into(), choices));
            }
        }
        let mut axes = parent.map_or(Vec::new(), |parent| parent.axes.clone());
        axes.extend(own.iter().map(|(axis, _)| self.own(axis)));
        axes.sort();
        let included = self.cells("include", table);
        if axes.is_empty() && included.first().is_some_and(|(_, given)| !given.is_empty()) {
            // Without axes the cells are those that are listed.
            axes = included[0].1.keys().map(|axis| self.own(axis)).collect();
        } else if axes.is_empty() && self.faults.len() == before {
            self.fault(field.value_span(), "the matrix has no axes")
                .hint = Some("write matrix = { lr = [1e-4, 5e-5] }".to_owned());
        }
        if self.faults.len() > before {
            return None;
        }
        let listed_only = own.is_empty() && parent.is_none();
        let mut matrix = match listed_only {
            true => Matrix {
                axes,
                cells: Vec::new(),
            },
            false => Matrix {
                cells: self.product(parent, &own)?,
                axes,
            },
        };
        self.exclude(table, &mut matrix);
        self.include(included, &mut matrix);
        if matrix.cells.is_empty() && self.faults.len() == before {
            self.fault(field.value_span(), "the matrix has no cells")
                .label = "every cell is excluded".to_owned();
        }
        Some(matrix)
    }

    /// The values of one axis.
    fn axis(
        &mut self,
        axis: &str,
        values: &Value,
        parent: Option<&Matrix>,
    ) -> Option<Vec<Arc<Choice>>> {
        let field = self.field;
        let (key, spans) = (field.spans.key(axis), field.spans.value(axis));
        if !is_name(axis) {
            self.fault(key, format!("'{axis}' cannot be the name of an axis"))
                .hint = Some("names are letters, digits, '-' and '_'".to_owned());
            return None;
        }
        if parent.is_some_and(|parent| parent.axes.iter().any(|other| *other.name == *axis)) {
            let message = format!("the axis '{axis}' is taken over from another step");
            self.fault(key, message).label = "is there already".to_owned();
            return None;
        }
        let items = match values {
            Value::Array(items) if !items.is_empty() => items,
            Value::Null => return None,
            Value::Array(_) => {
                self.fault(
                    spans.span.clone(),
                    format!("the axis '{axis}' has no values"),
                );
                return None;
            }
            value => {
                let hint = format!("write {axis} = [{}]", canonical(value));
                let message = format!("the axis '{axis}' must be a list of values");
                self.fault(spans.span.clone(), message).hint = Some(hint);
                return None;
            }
        };
        let mut seen: HashMap<Box<str>, Option<Span>> = HashMap::new();
        let mut choices = Vec::with_capacity(items.len());
        for (i, value) in items.iter().enumerate() {
            let spans = spans.item(i);
            if value
                .as_str()
                .is_some_and(|text| text.contains(MATRIX.open))
            {
                self.fault(spans.span.clone(), "an axis cannot refer to another one");
                return None;
            }
            let choice = self.choice(axis, value, spans)?;
            let text = choice.at.text.clone();
            if let Some(first) = seen.insert(text.clone(), spans.span.clone()) {
                let fault = self.fault(
                    spans.span.clone(),
                    format!("the axis '{axis}' has {text} twice"),
                );
                fault
                    .also
                    .extend(first.map(|first| (first, "the first".to_owned())));
                return None;
            }
            choices.push(choice);
        }
        Some(choices)
    }

    /// None for a value that was reported where it became null.
    fn choice(&self, axis: &str, value: &Value, spans: &Spans) -> Option<Arc<Choice>> {
        let at = Coordinate {
            axis: axis.into(),
            of: self.of.clone(),
            text: canonical(value).into(),
            value: (!value.is_null()).then(|| value.clone())?,
        };
        Some(Arc::new(Choice {
            at,
            spans: spans.clone(),
            source: self.field.source.clone(),
        }))
    }

    /// All combinations: the parent's cells, each with all of the own axes.
    fn product(
        &mut self,
        parent: Option<&Matrix>,
        own: &[(Box<str>, Vec<Arc<Choice>>)],
    ) -> Option<Vec<Vec<Arc<Choice>>>> {
        let start = parent.map_or(1, |parent| parent.cells.len());
        let mut sizes = own.iter().map(|(_, choices)| choices.len());
        let size = sizes.try_fold(start, usize::checked_mul);
        if size.is_none_or(|size| size > LIMIT) {
            let message = format!("the matrix has more than {LIMIT} cells");
            self.fault(self.field.value_span(), message);
            return None;
        }
        let mut cells = parent.map_or_else(|| vec![Vec::new()], |parent| parent.cells.clone());
        for (_, choices) in own {
            let longer = |cell: &Vec<Arc<Choice>>, choice: &Arc<Choice>| {
                let mut cell = cell.clone();
                cell.push(Arc::clone(choice));
                cell
            };
            cells = cells
                .iter()
                .flat_map(|cell| choices.iter().map(move |choice| longer(cell, choice)))
                .collect();
        }
        for cell in &mut cells {
            cell.sort_by(|a, b| a.at.axis.cmp(&b.at.axis));
        }
        Some(cells)
    }

    /// The tables in the list behind `include` or `exclude`, with their places.
    fn cells(&mut self, key: &str, table: &Map<String, Value>) -> Vec<(Option<Span>, Given)> {
        let spans = self.field.spans.value(key);
        let items = match table.get(key) {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => {
                self.fault(
                    spans.span.clone(),
                    format!("'{key}' must be a list of cells"),
                )
                .hint = Some(format!("write {key} = [{{ lr = 1e-4, rank = 8 }}]"));
                return Vec::new();
            }
        };
        let mut cells = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            let spans = spans.item(i);
            let Some(map) = item.as_object() else {
                if !item.is_null() {
                    self.fault(spans.span.clone(), format!("'{key}' must hold tables"));
                }
                continue;
            };
            let choice = |(axis, value): (&String, &Value)| {
                Some((axis.clone(), self.choice(axis, value, spans.value(axis))?))
            };
            let given: Option<Given> = map.iter().map(choice).collect();
            cells.extend(given.map(|given| (spans.span.clone(), given)));
        }
        cells
    }

    /// Whether every axis that is given is one of the matrix.
    fn known(&mut self, given: &Given, axes: &[Axis], key: &str) -> bool {
        let known = |axis: &str| axes.iter().any(|known| *known.name == *axis);
        let wrong = given.iter().find(|(axis, _)| !known(axis));
        let Some((axis, choice)) = wrong else {
            return true;
        };
        let known = axes.iter().map(|axis| &*axis.name);
        let hint = suggest(axis, known, "the axes are");
        let fault = self.fault(
            choice.spans.span.clone(),
            format!("the matrix has no axis '{axis}'"),
        );
        fault.label = format!("in a cell of '{key}'");
        fault.hint = hint;
        false
    }

    fn exclude(&mut self, table: &Map<String, Value>, matrix: &mut Matrix) {
        for (span, given) in self.cells("exclude", table) {
            if !self.known(&given, &matrix.axes, "exclude") {
                continue;
            }
            let before = matrix.cells.len();
            let matches = |choice: &Arc<Choice>| {
                let wanted = given.get(&*choice.at.axis);
                wanted.is_none_or(|wanted| wanted.at.text == choice.at.text)
            };
            matrix.cells.retain(|cell| !cell.iter().all(matches));
            if matrix.cells.len() == before {
                let warning = Diagnostic::warning(span, "an exclusion matches no cell");
                self.warnings.push(warning.label("has no effect"));
            }
        }
    }

    fn include(&mut self, included: Vec<(Option<Span>, Given)>, matrix: &mut Matrix) {
        let text = |cell: &[Arc<Choice>]| -> Vec<Box<str>> {
            cell.iter().map(|choice| choice.at.text.clone()).collect()
        };
        let mut there: HashSet<Vec<Box<str>>> = match included.is_empty() {
            true => HashSet::new(),
            false => matrix.cells.iter().map(|cell| text(cell)).collect(),
        };
        for (span, given) in included {
            if !self.known(&given, &matrix.axes, "include") {
                continue;
            }
            if let Some(axis) = matrix
                .axes
                .iter()
                .find(|axis| !given.contains_key(&*axis.name))
            {
                let message = format!("the cell has no value for the axis '{}'", axis.name);
                self.fault(span, message).label = "must name every axis".to_owned();
                continue;
            }
            let cell = given.into_values().zip(&matrix.axes);
            let cell: Vec<Arc<Choice>> = cell.map(|(choice, axis)| choice.on(axis)).collect();
            if !there.insert(text(&cell)) {
                self.fault(span, "the matrix has this cell already").label =
                    "is there twice".to_owned();
                continue;
            }
            matrix.cells.push(cell);
        }
        if matrix.cells.len() > LIMIT {
            self.fault(
                self.field.value_span(),
                format!("the matrix has more than {LIMIT} cells"),
            );
        }
    }
}

/// One step for each cell.
fn expand_step(
    mut step: DraftStep,
    matrix: Option<&Matrix>,
    file: &Source,
    raw: &mut Vec<RawStep>,
    warnings: &mut Vec<Diagnostic>,
    faults: &mut Vec<Diagnostic>,
) {
    let field = step.fields.remove(MATRIX_KEY);
    let Some(matrix) = matrix else {
        // Reported already; one step stands for all its cells.
        step.faulty = true;
        for field in step.fields.values_mut() {
            References::new(&MATRIX, &Fields::new(), file).resolve(field, &mut Vec::new());
        }
        raw.push(step.finish(None, faults));
        return;
    };
    let mut once = OncePerPlace::default();
    let start = faults.len();
    if matrix.cells.len() > 1 {
        same_folder(&mut step, faults);
    }
    // Those taken over are there to find the cells that belong together.
    let own = matrix
        .axes
        .iter()
        .filter(|axis| *axis.of == *step.name.base());
    let mut unused: Vec<&str> = own.map(|axis| &*axis.name).collect();
    let mut applied = vec![false; step.overrides.len()];
    for choices in &matrix.cells {
        let before = faults.len();
        let cell = Cell(choices.iter().map(|choice| choice.at.clone()).collect());
        let mut own = step.cell(&cell, &mut applied, faults);
        let values = choices
            .iter()
            .map(|choice| (choice.at.axis.to_string(), choice.field()));
        let values: Fields = values.collect();
        let mut references = References::new(&MATRIX, &values, file);
        for field in own.fields.values_mut() {
            references.resolve(field, faults);
        }
        if !unused.is_empty() {
            let still: HashSet<&str> = references
                .unused()
                .map(|field| field.key.as_str())
                .collect();
            unused.retain(|axis| still.contains(axis));
        }
        own.faulty |= faults.len() > before;
        raw.push(own.finish(Some(cell), faults));
        once.keep(faults, start.max(before));
    }
    unmatched(&step, matrix, &applied, faults);
    if faults.len() == start {
        warnings.extend(unused.iter().map(|axis| no_effect(axis, field.as_ref())));
    }
}

impl Choice {
    /// The same value on an axis that may be another step's.
    fn on(self: Arc<Self>, axis: &Axis) -> Arc<Self> {
        if self.at.of == axis.of {
            return self;
        }
        let mut at = self.at.clone();
        at.of = axis.of.clone();
        Arc::new(Choice {
            at,
            spans: self.spans.clone(),
            source: self.source.clone(),
        })
    }

    /// The value as References take it.
    fn field(&self) -> Field {
        Field {
            key: self.at.axis.to_string(),
            key_span: None,
            value: self.at.value.clone(),
            spans: self.spans.clone(),
            source: self.source.clone(),
        }
    }
}

impl DraftStep {
    /// The step of one cell, with what the command line changes of it.
    fn cell(&self, cell: &Cell, applied: &mut [bool], faults: &mut Vec<Diagnostic>) -> DraftStep {
        let mut own = DraftStep {
            name: self.name.with_cell(&cell.text()),
            span: self.span.clone(),
            fields: self.fields.clone(),
            overrides: Vec::new(),
            faulty: self.faulty,
        };
        for (change, applied) in self.overrides.iter().zip(applied) {
            if change.cells.contains(cell) {
                *applied = true;
                let done = replace_at(&mut own.fields, &change.path, &change.field);
                faults.extend(done.err().map(|fault| fault.report(&change.field.key)));
            }
        }
        own
    }
}

/// A folder that is the same for all cells.
fn same_folder(step: &mut DraftStep, faults: &mut Vec<Diagnostic>) {
    let Some(out) = step.fields.get_mut("out") else {
        return;
    };
    let text = out.value.as_str();
    if text.is_some_and(|text| !text.contains(MATRIX.open)) {
        let message = format!(
            "all cells of '{}' would write to the same folder",
            step.name
        );
        faults.push(
            Diagnostic::error(out.value_span(), message)
                .label("does not depend on the cell")
                .note(out.origin())
                .hint(format!(
                    "name the axes in it: out = \"{}/${{matrix.AXIS}}\"",
                    text.unwrap_or_default()
                )),
        );
        // So that it is not reported of each pair of cells as well.
        out.value = Value::Null;
    }
}

/// Overrides of cells that are not there.
fn unmatched(step: &DraftStep, matrix: &Matrix, applied: &[bool], faults: &mut Vec<Diagnostic>) {
    for (change, _) in step
        .overrides
        .iter()
        .zip(applied)
        .filter(|(_, applied)| !**applied)
    {
        let at = |choices: &Vec<Arc<Choice>>| Cell(choices.iter().map(|c| c.at.clone()).collect());
        let cells: Vec<Cell> = matrix.cells.iter().map(at).collect();
        let cells: Vec<&Cell> = cells.iter().collect();
        let (message, hint) = change.cells.missing(&cells);
        let message = format!("{}: {message}", change.field.key);
        faults.push(Diagnostic::error(None, message).hint(hint));
    }
}

fn no_effect(axis: &str, field: Option<&Field>) -> Diagnostic {
    let key = field.and_then(|field| field.spans.key(axis));
    Diagnostic::warning(key, format!("the axis '{axis}' is not used"))
        .label("cells that differ in it alone are the same")
        .hint(format!("refer to it as \"${{matrix.{axis}}}\""))
}

/// Whether a cell has all the axes of another step's cell, from the same
/// matrix: then the two belong together. Gives the text of that other cell.
pub(crate) fn pair(own: &Cell, other: &Cell) -> Option<String> {
    let mut paired = other.clone();
    for coordinate in &mut paired.0 {
        let mine = own.get(&coordinate.axis)?;
        if mine.of != coordinate.of {
            return None;
        }
        coordinate.text = mine.text.clone();
    }
    Some(paired.text())
}
