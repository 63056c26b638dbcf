//! Inputs: what the strings behind a step's ports refer to, and whether it fits.

use std::collections::HashMap;

use globset::Glob;
use serde_json::Value;

use super::build::Checked;
use super::check::describe;
use super::layout::{BadPath, Outs, is_glob, normal};
use super::{BadHubRef, HubRef, InputRef, Origin, StepId};
use crate::pipeline::{
    Address, Cell, Cells, Diagnostic, Field, Pipeline, RawStep, Spans, closest, listed, pair,
    suggest,
};
use crate::step::{Arity, InPort, OutPort, PortType};

/// Wires the ports of all steps.
pub(super) struct Wiring<'a> {
    pub pipeline: &'a Pipeline,
    pub index: HashMap<&'a str, usize>,
    /// The steps that are the cells of a matrix, by its name in the file.
    pub cells: HashMap<&'a str, Vec<usize>>,
    pub steps: &'a [Checked<'a>],
    pub outs: &'a Outs,
    /// Of each pair the first step reads from the second.
    pub needs: Vec<(StepId, StepId)>,
    pub faults: &'a mut Vec<Diagnostic>,
}

/// The label of an input and what it comes from, or what is wrong with it.
type Found = Result<(String, Origin), Box<Diagnostic>>;

/// The same for each cell that a reference means.
type AllFound = Result<Vec<(String, Origin)>, Box<Diagnostic>>;

/// Where an input is asked for.
struct Place<'a> {
    step: usize,
    port: &'a InPort,
    label: Option<&'a str>,
    spans: &'a Spans,
}

impl Wiring<'_> {
    /// The inputs of a step, in the order of its kind's ports.
    pub(super) fn inputs(&mut self, step: usize) -> Vec<InputRef> {
        let steps = self.steps;
        let mut inputs = Vec::new();
        for port in steps[step].ports() {
            let before = self.faults.len();
            if port.arity == Arity::Lineage {
                inputs.push(InputRef {
                    port: port.name.to_owned(),
                    label: port.name.to_owned(),
                    ty: port.ty,
                    from: Origin::Lineage,
                });
            } else if let Some(field) = steps[step].raw.field(port.name) {
                self.port(step, port, field, &mut inputs);
                for fault in &mut self.faults[before..] {
                    fault.note = fault.note.take().or_else(|| field.origin());
                }
            }
        }
        inputs
    }

    fn port(&mut self, step: usize, port: &InPort, field: &Field, inputs: &mut Vec<InputRef>) {
        let place = |label, spans| Place {
            step,
            port,
            label,
            spans,
        };
        match (port.arity, &field.value) {
            (_, Value::Null) => {}
            (Arity::Labelled, Value::Object(map)) => {
                let start = inputs.len();
                for (label, value) in map {
                    let spans = field.spans.value(label);
                    inputs.extend(self.input(&place(Some(label), spans), value));
                }
                inputs[start..].sort_by(|a, b| a.label.cmp(&b.label));
            }
            (Arity::Labelled, value @ Value::String(text)) if gathers(text) => {
                let start = inputs.len();
                inputs.extend(self.input(&place(None, &field.spans), value));
                inputs[start..].sort_by(|a, b| a.label.cmp(&b.label));
            }
            (Arity::Many, Value::Array(items)) if !items.is_empty() => {
                for (i, value) in items.iter().enumerate() {
                    inputs.extend(self.input(&place(None, field.spans.item(i)), value));
                }
            }
            (Arity::One | Arity::Optional | Arity::Many, value @ Value::String(_)) => {
                inputs.extend(self.input(&place(None, &field.spans), value));
            }
            (_, value) => self.faults.push(wrong_shape(port, field, value)),
        }
    }

    fn input(&mut self, place: &Place<'_>, value: &Value) -> Vec<InputRef> {
        let port = place.port;
        let label = |found| place.label.map_or(found, str::to_owned);
        let one = |(found, from)| vec![(label(found), from)];
        let outcome = match value {
            Value::Null => return Vec::new(),
            Value::String(text) if text.starts_with('@') => self.step_outputs(place, &text[1..]),
            Value::String(text) if text.starts_with(HubRef::SCHEME) => hub(text).map(one),
            Value::String(text) => self.path(port, text).map(one),
            _ => Err(
                Diagnostic::error(None, format!("'{}' must hold strings", port.name))
                    .label(format!("is {}", describe(value)))
                    .into(),
            ),
        };
        match outcome {
            Ok(found) => {
                let input = |(label, from)| InputRef {
                    port: port.name.to_owned(),
                    label,
                    ty: port.ty,
                    from,
                };
                found.into_iter().map(input).collect()
            }
            Err(mut fault) => {
                // A fault without a message has been reported elsewhere.
                if !fault.message.is_empty() {
                    fault.span = place.spans.span.clone();
                    self.faults.push(*fault);
                }
                Vec::new()
            }
        }
    }

    /// What `@step`, `@step.output` or `@step[cells].output` refers to.
    fn step_outputs(&mut self, place: &Place<'_>, text: &str) -> AllFound {
        let (address, rest) = Address::leading(text).map_err(|bad| {
            Diagnostic::error(None, format!("not a reference to a step: {bad}"))
                .hint("write \"@STEP[AXIS=VALUE].OUTPUT\"".to_owned())
        })?;
        let output = match (rest, rest.strip_prefix('.')) {
            ("", _) => None,
            (_, Some(output)) => Some(output),
            (rest, None) => {
                let message = format!("not a reference to a step: '{rest}' stands behind the ']'");
                return Err(Diagnostic::error(None, message).into());
            }
        };
        let steps = self.select(place, &address, output)?;
        let one_by_name = steps.len() == 1 && self.names_one(&address, steps[0]);
        let mut found = Vec::with_capacity(steps.len());
        for &step in &steps {
            let (reference, origin) = self.step_output(place, step, output)?;
            let cell = self.steps[step].raw.name.cell();
            let label = match (place.label, cell) {
                (None, Some(cell)) if place.port.arity == Arity::Labelled => cell.to_owned(),
                (None, _) => reference,
                (Some(label), Some(_)) if !one_by_name => cell_label(label, self.steps[step].raw),
                (Some(label), _) => label.to_owned(),
            };
            found.push((label, origin));
        }
        Ok(found)
    }

    /// Whether an address cannot mean more than one cell whatever is added to
    /// the matrix.
    fn names_one(&self, address: &Address, step: usize) -> bool {
        match (&address.cells, &self.steps[step].raw.cell) {
            (Cells::Unsaid, _) | (_, None) => true,
            (cells, Some(cell)) => cells.exact(cell).is_some(),
        }
    }

    /// The steps that an address means for a port.
    fn select(
        &self,
        place: &Place<'_>,
        address: &Address,
        output: Option<&str>,
    ) -> Result<Vec<usize>, Box<Diagnostic>> {
        let name = &*address.base;
        let Some(all) = self.cells.get(name) else {
            return match (self.index.get(name), &address.cells) {
                (Some(&step), Cells::Unsaid) => Ok(vec![step]),
                (Some(_), _) => Err(no_matrix(name).into()),
                (None, _) => Err(self.unknown_step(name).into()),
            };
        };
        let cells = || -> Vec<&Cell> { all.iter().filter_map(|&at| self.cell(at)).collect() };
        let chosen = match &address.cells {
            Cells::Unsaid => return self.paired(place, name, all, output),
            Cells::All => all.clone(),
            wanted => {
                let exact = self.cell(all[0]).and_then(|like| wanted.exact(like));
                let exact = exact.and_then(|text| self.index.get(&*format!("{name}[{text}]")));
                let meant = |at: &usize| self.cell(*at).is_some_and(|cell| wanted.contains(cell));
                match exact {
                    Some(&step) => vec![step],
                    None => all.iter().copied().filter(meant).collect(),
                }
            }
        };
        if chosen.is_empty() {
            let (message, hint) = address.cells.missing(&cells());
            return Err(Diagnostic::error(None, message)
                .label(format!("not in the matrix of '{name}'"))
                .hint(hint)
                .into());
        }
        let takes_one = matches!(place.port.arity, Arity::One | Arity::Optional);
        if takes_one && chosen.len() > 1 {
            let chosen: Vec<&Cell> = chosen.iter().filter_map(|&at| self.cell(at)).collect();
            return Err(takes_one_cell(place.port, name, &chosen, output).into());
        }
        Ok(chosen)
    }

    fn cell(&self, step: usize) -> Option<&Cell> {
        self.steps[step].raw.cell.as_ref()
    }

    /// The one cell of another step that belongs to this step's own cell.
    fn paired(
        &self,
        place: &Place<'_>,
        name: &str,
        all: &[usize],
        output: Option<&str>,
    ) -> Result<Vec<usize>, Box<Diagnostic>> {
        let own = self.cell(place.step);
        let text = own.and_then(|own| pair(own, self.cell(all[0])?));
        let cells = || -> Vec<&Cell> { all.iter().filter_map(|&at| self.cell(at)).collect() };
        match text {
            None => Err(takes_one_cell(place.port, name, &cells(), output).into()),
            Some(text) => match self.index.get(&*format!("{name}[{text}]")) {
                Some(&step) => Ok(vec![step]),
                None => {
                    let message = format!("'{name}' has no cell [{text}]");
                    let label = format!("needed by '{}'", self.steps[place.step].raw.name);
                    let fault = Diagnostic::error(None, message).label(label);
                    Err(fault.hint(listed(&cells())).into())
                }
            },
        }
    }

    /// An output of one step.
    fn step_output(&mut self, place: &Place<'_>, from: usize, output: Option<&str>) -> Found {
        let steps = self.steps;
        let name = steps[from].raw.name.as_str();
        self.needs
            .push((StepId::new(place.step), StepId::new(from)));
        // A step with faults of its own: they are reported, this is not one.
        let Some(outputs) = steps[from].outputs() else {
            return Err(Diagnostic::error(None, "").into());
        };
        let at = match output {
            None => 0,
            Some(output) => outputs
                .iter()
                .position(|port| port.name == output)
                .ok_or_else(|| unknown_output(name, output, outputs))?,
        };
        let found = outputs
            .get(at)
            .ok_or_else(|| Diagnostic::error(None, format!("the step '{name}' has no outputs")))?;
        if !found.ty.fits(place.port.ty) {
            return Err(misfit(place.port, name, found, outputs).into());
        }
        let origin = Origin::Step {
            step: StepId::new(from),
            output: at,
        };
        Ok((format!("@{name}.{}", found.name), origin))
    }

    fn unknown_step(&self, name: &str) -> Diagnostic {
        let names = self.pipeline.steps.iter().map(|raw| raw.name.base());
        let hint = match closest(name, names.clone()) {
            Some(near) => Some(format!("did you mean '@{near}'?")),
            None => suggest(name, names, "the steps are"),
        };
        Diagnostic::error(None, format!("there is no step '{name}'"))
            .label("refers to a step that does not exist")
            .hint(hint)
    }

    fn path(&self, port: &InPort, text: &str) -> Found {
        let path = normal(text).map_err(|bad| bad_path(text, bad))?;
        if is_glob(&path) {
            if port.arity != Arity::Many {
                return Err(single(port).into());
            }
            Glob::new(&path).map_err(|e| {
                Diagnostic::error(None, "the path is not a valid glob").label(e.kind().to_string())
            })?;
        }
        if let Some(raw) = self.outs.owner(&path, self.pipeline) {
            return Err(not_by_path(raw).into());
        }
        Ok((path.clone(), Origin::Path(path)))
    }
}

/// The label of one of several cells behind a label: a folder's holds them all.
fn cell_label(label: &str, raw: &RawStep) -> String {
    match (label.ends_with('/'), raw.name.cell()) {
        (true, _) => {
            let folder = raw.name.folder();
            format!("{label}{}", folder.rsplit('/').next().unwrap_or_default())
        }
        (false, cell) => format!("{label}[{}]", cell.unwrap_or_default()),
    }
}

/// Whether a string behind a labelled port can stand without a label: the
/// cells are labels enough.
fn gathers(text: &str) -> bool {
    let address = text.strip_prefix('@').map(Address::leading);
    matches!(address, Some(Ok((Address { cells, .. }, _))) if cells != Cells::Unsaid)
}

fn no_matrix(name: &str) -> Diagnostic {
    Diagnostic::error(None, format!("the step '{name}' has no matrix"))
        .label("has no cells to choose from")
        .hint(format!("write \"@{name}\""))
}

/// Several cells where one is needed, or where it is not said that all are meant.
fn takes_one_cell(port: &InPort, name: &str, cells: &[&Cell], output: Option<&str>) -> Diagnostic {
    let output = output.map_or(String::new(), |output| format!(".{output}"));
    let takes_one = matches!(port.arity, Arity::One | Arity::Optional);
    let (message, all) = match takes_one {
        true => (
            format!(
                "'{}' takes one input, and '{name}' is {} cells",
                port.name,
                cells.len()
            ),
            String::new(),
        ),
        false => (
            format!(
                "it is not said which of the {} cells of '{name}' are meant",
                cells.len()
            ),
            format!("\"@{name}[*]{output}\" takes all\n"),
        ),
    };
    let one = cells.first().map_or(String::new(), |cell| cell.text());
    Diagnostic::error(None, message)
        .label("stands for all cells of a matrix")
        .note(listed(cells))
        .hint(format!(
            "{all}\"@{name}[{one}]{output}\" takes one\n\
             matrix = \"@{name}\" in this step pairs each of its cells with one"
        ))
}

fn not_by_path(raw: &RawStep) -> Diagnostic {
    let message = format!(
        "the path reaches into the outputs of the step '{}'",
        raw.name
    );
    Diagnostic::error(None, message)
        .label("holds what a step writes")
        .hint(format!("refer to the step instead: \"@{}\"", raw.name))
}

fn single(port: &InPort) -> Diagnostic {
    Diagnostic::error(None, format!("'{}' takes one input, not a glob", port.name))
        .label("may match any number of files")
        .hint("name the file or the folder".to_owned())
}

fn bad_path(text: &str, bad: BadPath) -> Diagnostic {
    let message = match bad {
        BadPath::Escapes => "the path leads out of the project".to_owned(),
        BadPath::Empty if !text.is_empty() => "the path is the whole project".to_owned(),
        bad => format!("the path {bad}"),
    };
    let hint = match bad {
        BadPath::Empty if text.is_empty() => "name a file or a folder",
        BadPath::Empty => "name what is needed of it: the project also holds what steps write",
        _ => {
            "paths are relative to the project root, so that a build does not depend on where \
             the project lies"
        }
    };
    Diagnostic::error(None, message).hint(hint.to_owned())
}

fn hub(text: &str) -> Found {
    let reference = HubRef::parse(text).map_err(|bad| {
        let hint = match bad {
            BadHubRef::Unpinned => "add the commit behind the name: OWNER/NAME@COMMIT".to_owned(),
            BadHubRef::Branch(_) => "name a commit or a tag, whose content stays".to_owned(),
            BadHubRef::Malformed(_) => "write hf://[datasets/]OWNER/NAME@COMMIT[/PATH]".to_owned(),
        };
        Diagnostic::error(None, bad.to_string()).hint(hint)
    })?;
    Ok((reference.to_string(), Origin::Hub(reference)))
}

fn wrong_shape(port: &InPort, field: &Field, value: &Value) -> Diagnostic {
    let name = port.name;
    let (takes, example) = match port.arity {
        Arity::Labelled => (
            "a table of inputs",
            format!("{name} = {{ label = \"@step\" }}"),
        ),
        Arity::Many => (
            "one or more inputs",
            format!("{name} = [\"@step\", \"data/*.txt\"]"),
        ),
        _ => ("one input", format!("{name} = \"@step.output\"")),
    };
    let label = match value {
        Value::Array(items) if items.is_empty() => "is an empty array".to_owned(),
        value => format!("is {}", describe(value)),
    };
    Diagnostic::error(field.value_span(), format!("'{name}' takes {takes}"))
        .label(label)
        .hint(format!("write it like: {example}"))
}

fn unknown_output(step: &str, output: &str, outputs: &[OutPort]) -> Diagnostic {
    let names = outputs.iter().map(|port| port.name.as_str());
    let hint = match closest(output, names) {
        Some(near) => Some(format!("did you mean '@{step}.{near}'?")),
        None => Some(format!("its outputs are: {}", list(outputs))),
    };
    Diagnostic::error(None, format!("the step '{step}' has no output '{output}'"))
        .label("refers to an output that does not exist")
        .hint(hint)
}

fn misfit(port: &InPort, step: &str, found: &OutPort, outputs: &[OutPort]) -> Diagnostic {
    let message = format!("'{}' takes {}", port.name, noun(port.ty));
    let fitting: Vec<String> = outputs
        .iter()
        .filter(|output| output.ty.fits(port.ty))
        .map(|output| format!("'@{step}.{}'", output.name))
        .collect();
    let hint = match &fitting[..] {
        [] => format!("no output of '{step}' fits; they are: {}", list(outputs)),
        [one] => format!("{one} fits"),
        many => format!("these fit: {}", many.join(", ")),
    };
    Diagnostic::error(None, message)
        .label(format!("'@{step}.{}' is {}", found.name, noun(found.ty)))
        .hint(hint)
}

/// Outputs with their types: `train (dataset), report (metrics)`.
fn list(outputs: &[OutPort]) -> String {
    let items: Vec<String> = outputs
        .iter()
        .map(|output| format!("{} ({})", output.name, output.ty))
        .collect();
    items.join(", ")
}

/// A type with its article.
pub(super) fn noun(ty: PortType) -> &'static str {
    match ty {
        PortType::Findings => "findings",
        PortType::Dataset => "a dataset",
        PortType::Generations => "generations",
        PortType::Model => "a model",
        PortType::Adapter => "an adapter",
        PortType::Tokenizer => "a tokenizer",
        PortType::Metrics => "metrics",
        PortType::Log => "a training log",
        PortType::Document => "a document",
        PortType::Folder => "a folder",
        PortType::File => "a file",
        PortType::Any => "a file or a folder",
    }
}
