//! From a pipeline to a graph: kinds, fields, inputs, order.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use super::check::{check, required};
use super::layout::{self, Outs};
use super::order::{self, Order};
use super::settings::{Checker, Settings, Usual};
use super::wiring::Wiring;
use super::{Graph, InputRef, Node, StepId};
use crate::pipeline::{
    Diagnostic, Field, OncePerPlace, Pipeline, RawStep, SETTINGS, Source, Span, Spans, ValueSource,
    closest, is_name, suggest, within,
};
use crate::step::{
    self, Arity, FieldError, InPort, Kind, Mention, OutPort, Params, Registry, Shape, Wired,
    WiredInput,
};

/// Builds the graph, reporting all faults. What it returns is sound only if
/// there were none.
pub(super) fn build(
    pipeline: &Pipeline,
    registry: &Registry,
    faults: &mut Vec<Diagnostic>,
) -> Option<Graph> {
    let kinds = kinds(pipeline, registry);
    let mut settings = Checker::new(pools(pipeline, faults));
    let steps = checked(pipeline, &kinds, &mut settings, registry, faults);
    let outs = Outs::new(pipeline, faults);
    let names = pipeline.steps.iter().enumerate();
    let mut wiring = Wiring {
        pipeline,
        index: names.map(|(i, raw)| (raw.name.as_str(), i)).collect(),
        cells: cells(pipeline),
        steps: &steps,
        outs: &outs,
        needs: Vec::new(),
        faults,
    };
    let mut once = Vec::new();
    let mut inputs: Vec<Vec<InputRef>> = Vec::with_capacity(steps.len());
    for (at, step) in steps.iter().enumerate() {
        let before = wiring.faults.len();
        inputs.push(wiring.inputs(at));
        report_once(&mut once, step.raw, wiring.faults, before);
    }
    let needs = wiring.needs;
    let mut once = Vec::new();
    for (step, inputs) in steps.iter().zip(&inputs) {
        let before = faults.len();
        if let Some(shape) = &step.shape {
            mentions(step.raw, shape, inputs, &pipeline.source, faults);
        }
        report_once(&mut once, step.raw, faults, before);
    }
    let order = match order::order(steps.len(), needs) {
        Ok(order) => order,
        Err(cycles) => {
            faults.extend(cycles.iter().map(|cycle| cycle_fault(cycle, pipeline)));
            return None;
        }
    };
    if !faults.is_empty() {
        return None;
    }
    let mut graph = assemble(pipeline, steps, inputs, outs, order)?;
    graph.pools = settings.into_pools();
    look_back(&graph, pipeline, registry, faults);
    faults.is_empty().then_some(graph)
}

/// The pools of `[pipeline]`.
fn pools(pipeline: &Pipeline, faults: &mut Vec<Diagnostic>) -> BTreeMap<String, u64> {
    let Some(field) = &pipeline.pools else {
        return BTreeMap::new();
    };
    let schema = pools_schema();
    let before = faults.len();
    check(&schema, &field.value, &field.spans, "pools", faults);
    let pools = field.value.as_object().into_iter().flatten();
    for (name, _) in pools.clone().filter(|(name, _)| !is_name(name)) {
        let message = format!("'{name}' cannot be the name of a pool");
        faults.push(Diagnostic::error(field.spans.key(name), message).label("not a name"));
    }
    if faults.len() > before {
        return BTreeMap::new();
    }
    let size = |(name, size): (&String, &Value)| Some((name.clone(), size.as_u64()?));
    pools.filter_map(size).collect()
}

/// The JSON schema of `[pipeline] pools`.
pub(super) fn pools_schema() -> Value {
    json!({
        "description": "What steps share that the machine knows nothing of, and how much of it \
                        there is.",
        "type": "object",
        "additionalProperties": { "type": "integer", "minimum": 1 },
    })
}

fn checked<'a>(
    pipeline: &'a Pipeline,
    kinds: &'a HashMap<&'a str, KindInfo<'a>>,
    settings: &mut Checker,
    registry: &Registry,
    faults: &mut Vec<Diagnostic>,
) -> Vec<Checked<'a>> {
    let mut once = Vec::new();
    let check = |raw| {
        let before = faults.len();
        let mut checked = Checked::new(raw, kinds, registry, pipeline, faults);
        checked.settings = settings.settings(&raw.settings, checked.usual(), faults);
        report_once(&mut once, raw, faults, before);
        checked
    };
    pipeline.steps.iter().map(check).collect()
}

/// The faults of the cells of the latest matrix, by its step's name.
type Once<'a> = Vec<(&'a str, OncePerPlace)>;

/// Of the faults from `start` on, which are those of one step, keeps those
/// that no cell before it in the same matrix has at the same place.
fn report_once<'a>(
    once: &mut Once<'a>,
    raw: &'a RawStep,
    faults: &mut Vec<Diagnostic>,
    start: usize,
) {
    if raw.cell.is_none() || faults.len() == start {
        return;
    }
    let base = raw.name.base();
    if once.last().is_none_or(|(last, _)| *last != base) {
        once.clear();
        once.push((base, OncePerPlace::default()));
    }
    if let Some((_, seen)) = once.last_mut() {
        seen.keep(faults, start);
    }
}

/// The steps that are the cells of a matrix, by the name of that.
fn cells(pipeline: &Pipeline) -> HashMap<&str, Vec<usize>> {
    let mut cells: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, raw) in pipeline.steps.iter().enumerate() {
        if raw.cell.is_some() {
            cells.entry(raw.name.base()).or_default().push(at);
        }
    }
    cells
}

/// A kind and what is asked of it for every step that uses it.
struct KindInfo<'a> {
    kind: &'a dyn Kind,
    schema: Value,
    ports: Vec<InPort>,
}

impl KindInfo<'_> {
    fn properties(&self) -> Option<&Map<String, Value>> {
        self.schema["properties"].as_object()
    }

    fn param(&self, key: &str) -> Option<&Value> {
        self.properties()?.get(key)
    }

    /// The port that a field of that name fills.
    fn port(&self, key: &str) -> Option<&InPort> {
        let written = |port: &&InPort| port.arity != Arity::Lineage && port.name == key;
        self.ports.iter().find(written)
    }
}

fn kinds<'a>(pipeline: &Pipeline, registry: &'a Registry) -> HashMap<&'a str, KindInfo<'a>> {
    let mut kinds = HashMap::new();
    for raw in &pipeline.steps {
        if let Some(kind) = registry.get(&raw.uses) {
            kinds.entry(kind.name()).or_insert_with(|| KindInfo {
                kind,
                schema: kind.schema(),
                ports: kind.inputs(),
            });
        }
    }
    kinds
}

/// A step whose fields have been checked.
pub(super) struct Checked<'a> {
    pub raw: &'a RawStep,
    kind: Option<&'a KindInfo<'a>>,
    /// None when its kind or its fields have faults.
    shape: Option<Shape>,
    seeded: bool,
    settings: Settings,
}

impl<'a> Checked<'a> {
    fn new(
        raw: &'a RawStep,
        kinds: &'a HashMap<&'a str, KindInfo<'a>>,
        registry: &Registry,
        pipeline: &Pipeline,
        faults: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut checked = Checked {
            raw,
            kind: kinds.get(raw.uses.as_str()),
            shape: None,
            seeded: false,
            settings: Settings::default(),
        };
        let Some(kind) = checked.kind else {
            // An empty kind is a missing one and reported as that.
            if !raw.uses.is_empty() || !raw.faulty {
                faults.push(unknown_kind(raw, registry));
            }
            return checked;
        };
        let before = faults.len();
        let mut fields = params(raw, kind, faults);
        faults.extend(missing(raw, kind));
        if faults.len() > before || raw.faulty {
            return checked;
        }
        if !fields.contains_key("seed") && kind.param("seed").is_some() {
            fields.insert("seed".to_owned(), pipeline.seed.into());
            checked.seeded = true;
        }
        match kind.kind.shape(fields) {
            Ok(mut shape) => {
                layout::outputs(raw, &mut shape.outputs, faults);
                checked.shape = Some(shape);
            }
            Err(error) => faults.push(refused(raw, error)),
        }
        checked
    }

    /// The input ports of its kind.
    pub(super) fn ports(&self) -> &'a [InPort] {
        self.kind.map_or(&[], |kind| &kind.ports)
    }

    /// How its kind says that it runs.
    fn usual(&self) -> Usual<'_> {
        Usual {
            kind: &self.raw.uses,
            resources: self.shape.as_ref().map(|shape| shape.resources.clone()),
            resumes: self.kind.map(|kind| kind.kind.resumes()),
            outputs: self.outputs(),
        }
    }

    /// Its outputs, unless its fields have faults.
    pub(super) fn outputs(&self) -> Option<&[OutPort]> {
        self.shape.as_ref().map(|shape| &shape.outputs[..])
    }

    fn source_of(&self, param: &str) -> ValueSource {
        match self.raw.field(param) {
            Some(field) => field.source.clone(),
            None if self.seeded && param == "seed" => ValueSource::Pipeline,
            None => ValueSource::Default,
        }
    }
}

fn unknown_kind(raw: &RawStep, registry: &Registry) -> Diagnostic {
    let span = raw
        .uses_span
        .clone()
        .unwrap_or_else(|| raw.name_span.clone());
    let names: Vec<&str> = registry.iter().map(|kind| kind.name()).collect();
    Diagnostic::error(span, format!("there is no kind '{}'", raw.uses))
        .label("not a kind of step")
        .hint(suggest(&raw.uses, names.iter().copied(), "the kinds are"))
}

/// The parameters among a step's fields, checked one by one.
fn params(raw: &RawStep, kind: &KindInfo<'_>, faults: &mut Vec<Diagnostic>) -> Params {
    let mut params = Params::new();
    for field in &raw.fields {
        if let Some(schema) = kind.param(&field.key) {
            let before = faults.len();
            check(schema, &field.value, &field.spans, &field.key, faults);
            for fault in &mut faults[before..] {
                fault.note = field.origin();
            }
            params.insert(field.key.clone(), field.value.clone());
        } else if kind.port(&field.key).is_none() {
            faults.push(unknown_field(field, kind));
        }
    }
    params
}

fn unknown_field(field: &Field, kind: &KindInfo<'_>) -> Diagnostic {
    let params = kind
        .properties()
        .into_iter()
        .flat_map(Map::keys)
        .map(String::as_str);
    let ports = kind
        .ports
        .iter()
        .filter(|port| port.arity != Arity::Lineage);
    let mut known: Vec<&str> = params.chain(ports.map(|port| port.name)).collect();
    known.extend(["description", "matrix", "out", "uses"]);
    // Settings are the same for all kinds: named only where one may be meant.
    let all = known.iter().chain(&SETTINGS).copied();
    let hint = match closest(&field.key, all) {
        Some(name) => Some(format!("did you mean '{name}'?")),
        None => suggest(&field.key, known.iter().copied(), "its fields are"),
    };
    Diagnostic::error(
        field.key_span.clone(),
        format!("unknown field '{}'", field.key),
    )
    .label(format!("not a field of {}", kind.kind.name()))
    .note(field.origin())
    .hint(hint)
}

/// One report for all required fields that a step lacks.
fn missing(raw: &RawStep, kind: &KindInfo<'_>) -> Option<Diagnostic> {
    let mut lines = Vec::new();
    for port in &kind.ports {
        let needed = matches!(port.arity, Arity::One | Arity::Many);
        if needed && raw.field(port.name).is_none() {
            lines.push((port.name, format!("{} ({})", port.about, port.ty)));
        }
    }
    let schema = kind.schema.as_object();
    for name in schema.into_iter().flat_map(required) {
        if name != "seed" && raw.field(name).is_none() {
            let about = kind
                .param(name)
                .and_then(|param| param["description"].as_str());
            let about = about
                .unwrap_or("a parameter")
                .lines()
                .next()
                .unwrap_or_default();
            lines.push((name, about.to_owned()));
        }
    }
    if lines.is_empty() {
        return None;
    }
    let names: Vec<String> = lines.iter().map(|(name, _)| format!("'{name}'")).collect();
    let about: Vec<String> = lines
        .iter()
        .map(|(name, about)| format!("{name}: {about}"))
        .collect();
    let message = format!("the step '{}' lacks {}", raw.name, names.join(", "));
    let fault = Diagnostic::error(raw.name_span.clone(), message)
        .label(format!("needed by {}", kind.kind.name()))
        .hint(about.join("\n"));
    Some(fault)
}

/// What a kind refuses about its parameters as a whole.
fn refused(raw: &RawStep, error: FieldError) -> Diagnostic {
    let Some(path) = error.field else {
        let message = format!("{} refuses the fields of '{}'", raw.uses, raw.name);
        return Diagnostic::error(raw.name_span.clone(), message).label(error.message);
    };
    let mut parts = path.split('.');
    let field = parts.next().and_then(|key| raw.field(key));
    let span = match field {
        Some(field) => parts.fold(&field.spans, Spans::value).span.clone(),
        None => Some(raw.name_span.clone()),
    };
    Diagnostic::error(span, format!("'{path}' {}", error.message))
        .note(field.and_then(|field| field.origin()))
}

/// Lets the kinds that ask for it see what their inputs come from.
fn look_back(
    graph: &Graph,
    pipeline: &Pipeline,
    registry: &Registry,
    faults: &mut Vec<Diagnostic>,
) {
    for (at, (node, raw)) in graph.nodes.iter().zip(&pipeline.steps).enumerate() {
        let Some(kind) = registry.get(&node.kind).filter(|kind| kind.looks_back()) else {
            continue;
        };
        if let Err(error) = kind.check_wiring(&node.params, at, graph) {
            faults.push(refused(raw, error));
        }
    }
}

impl step::Wiring for Graph {
    fn step(&self, step: usize) -> Wired<'_> {
        let node = &self.nodes[step];
        Wired {
            name: node.name.as_str(),
            kind: &node.kind,
            params: &node.params,
        }
    }

    fn inputs(&self, step: usize) -> Vec<WiredInput<'_>> {
        let inputs = self.nodes[step].inputs.iter();
        let wired = inputs.map(|input| WiredInput {
            port: &input.port,
            label: &input.label,
            from: match input.from {
                super::Origin::Step { step, output } => {
                    let ty = self.nodes[step.index()].outputs[output].ty;
                    Some((step.index(), ty))
                }
                _ => None,
            },
        });
        wired.collect()
    }
}

/// Checks the labels that parameters mention.
fn mentions(
    raw: &RawStep,
    shape: &Shape,
    inputs: &[InputRef],
    file: &Source,
    faults: &mut Vec<Diagnostic>,
) {
    for mention in &shape.mentions {
        let (what, label, known): (_, _, Vec<&str>) = match mention {
            Mention::Input(label) => ("input", label, labels(raw, inputs)),
            Mention::Inputs(label) => ("gathered input", label, gathered(inputs)),
            Mention::Output(label) => {
                let names = shape.outputs.iter().map(|output| output.name.as_str());
                ("output", label, names.collect())
            }
        };
        if known.contains(&label.as_str()) {
            continue;
        }
        let text = mention.to_string();
        let span = raw
            .fields
            .iter()
            .find_map(|field| find(&field.value, &field.spans, &text));
        let span = span.map(|span| within(file, span, &text));
        let hint = suggest(label, known, &format!("its {what}s are"))
            .unwrap_or_else(|| declare(mention, label));
        let message = format!("the step '{}' has no {what} '{label}'", raw.name);
        faults.push(Diagnostic::error(span, message).hint(hint));
    }
}

fn declare(mention: &Mention, label: &str) -> String {
    match mention {
        Mention::Input(_) => format!("declare it: inputs = {{ {label} = \"…\" }}"),
        Mention::Inputs(_) => format!("declare it: inputs = {{ {label} = \"@STEP[*]\" }}"),
        Mention::Output(_) => format!("declare it: outputs = {{ {label} = \"…\" }}"),
    }
}

/// The labels of a step's inputs, and those of inputs that are at fault.
fn labels<'a>(raw: &'a RawStep, inputs: &'a [InputRef]) -> Vec<&'a str> {
    let table = raw
        .field("inputs")
        .and_then(|field| field.value.as_object());
    let keys = table.into_iter().flat_map(Map::keys).map(String::as_str);
    let gathered = gathered(inputs);
    let wired = inputs.iter().map(|input| input.label.as_str());
    let mut labels: Vec<&str> = keys
        .filter(|key| !gathered.contains(key))
        .chain(wired)
        .collect();
    labels.sort_unstable();
    labels.dedup();
    labels
}

/// The labels that stand for several cells of a step.
fn gathered(inputs: &[InputRef]) -> Vec<&str> {
    let base = |input: &'_ InputRef| input.label.find('[');
    let mut labels: Vec<&str> = inputs
        .iter()
        .filter_map(|input| Some(&input.label[..base(input)?]))
        .collect();
    labels.sort_unstable();
    labels.dedup();
    labels
}

/// Where the string stands in which `text` occurs.
fn find(value: &Value, spans: &Spans, text: &str) -> Option<Span> {
    match value {
        Value::String(string) if string.contains(text) => spans.span.clone(),
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.find_map(|(i, item)| find(item, spans.item(i), text))
        }
        Value::Object(map) => map
            .iter()
            .find_map(|(key, value)| find(value, spans.value(key), text)),
        _ => None,
    }
}

fn cycle_fault(cycle: &[StepId], pipeline: &Pipeline) -> Diagnostic {
    /// How many steps of a cycle are pointed at; all are named.
    const SHOWN: usize = 8;
    let step = |at: usize| &pipeline.steps[cycle[at % cycle.len()].index()];
    let first = step(0);
    if cycle.len() == 1 {
        let message = format!("the step '{}' reads its own output", first.name);
        return Diagnostic::error(first.name_span.clone(), message).label("needs itself");
    }
    let names: Vec<&str> = (0..=cycle.len()).map(|at| step(at).name.as_str()).collect();
    let message = format!("{} steps wait for each other", cycle.len());
    let reads = |at: usize| format!("reads from '{}'", step(at + 1).name);
    let mut fault = Diagnostic::error(first.name_span.clone(), message)
        .label(reads(0))
        .note(format!("each reads from the next: {}", names.join(" → ")));
    for at in 1..cycle.len().min(SHOWN) {
        fault = fault.also(step(at).name_span.clone(), reads(at));
    }
    fault
}

fn assemble(
    pipeline: &Pipeline,
    steps: Vec<Checked<'_>>,
    inputs: Vec<Vec<InputRef>>,
    outs: Outs,
    order: Order,
) -> Option<Graph> {
    let mut lines = Lines::new(&pipeline.source.text);
    let mut nodes = Vec::with_capacity(steps.len());
    for ((step, inputs), out) in steps.into_iter().zip(inputs).zip(outs.folders) {
        nodes.push(node(step, inputs, out, &mut lines)?);
    }
    let mut by_name: Vec<StepId> = (0..nodes.len()).map(StepId::new).collect();
    by_name.sort_by(|a, b| nodes[a.index()].name.cmp(&nodes[b.index()].name));
    Some(Graph {
        name: pipeline.name.clone(),
        description: pipeline.description.clone(),
        seed: pipeline.seed,
        seed_source: pipeline.seed_source.clone(),
        pools: BTreeMap::new(),
        outs: nodes.iter().filter_map(|node| node.out.clone()).collect(),
        hard_links: pipeline.hard_links,
        nodes,
        order: order.order,
        by_name,
        upstream: order.upstream,
        downstream: order.downstream,
    })
}

fn node(
    mut step: Checked<'_>,
    inputs: Vec<InputRef>,
    out: Option<String>,
    lines: &mut Lines<'_>,
) -> Option<Node> {
    let kind = step.kind?.kind;
    let mut shape = step.shape.take()?;
    shape.environment.sort_unstable();
    shape.environment.dedup();
    let keys = shape.params.keys();
    let sources: BTreeMap<_, _> = keys.map(|key| (key.clone(), step.source_of(key))).collect();
    let line = lines.of(step.raw.name_span.start);
    let mut settings = step.settings;
    settings.resources_line = lines.beyond(step.raw.settings.field("resources"));
    Some(Node {
        name: step.raw.name.clone(),
        cell: step.raw.cell.clone(),
        kind: kind.name().to_owned(),
        version: kind.version(),
        purity: kind.purity(),
        description: step.raw.description.clone(),
        params: shape.params,
        sources,
        inputs,
        outputs: shape.outputs,
        environment: shape.environment,
        out,
        settings,
        line,
    })
}

/// Line numbers of rising positions, counted in one pass.
struct Lines<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Lines {
            text: text.as_bytes(),
            at: 0,
            line: 1,
        }
    }

    fn of(&mut self, byte: usize) -> usize {
        let passed = self.text.get(self.at..byte).unwrap_or_default();
        self.line += passed.iter().filter(|&&b| b == b'\n').count();
        self.at = self.at.max(byte);
        self.line
    }

    /// The line of a field that stands further on.
    fn beyond(&self, field: Option<&Field>) -> Option<usize> {
        let byte = field?.key_span.as_ref()?.start;
        let between = self.text.get(self.at..byte)?.iter();
        Some(self.line + between.filter(|&&b| b == b'\n').count())
    }
}
