//! The pipeline file from its text to the graph, on kinds that exist for tests alone.

mod errors;
mod matrix;
mod schema;

use std::collections::BTreeMap;

use proptest::prelude::*;
use schemars::JsonSchema;
use serde_json::json;

use retune::graph::{Graph, Node, Origin, StepId};
use retune::pipeline::{Diagnostics, Overrides, Pipeline, Source, ValueSource};
use retune::step::{Context, FieldError, InPort, OutPort, PortType, Registry, Step, StepError};
use retune::steps::Command;

/// Declares a kind for tests that does nothing.
macro_rules! kind {
    ($kind:ident, $name:literal, $params:ty, [$($in:expr),*], [$($out:expr),*] $(, $check:expr)?) => {
        struct $kind;

        impl Step for $kind {
            type Params = $params;
            const KIND: &'static str = $name;
            const VERSION: u32 = 1;
            const ABOUT: &'static str = "For tests.";

            fn inputs() -> Vec<InPort> {
                vec![$($in),*]
            }

            fn outputs(_: &$params) -> Vec<OutPort> {
                vec![$($out),*]
            }

            $(fn check(params: &$params) -> Result<(), FieldError> {
                $check(params)
            })?

            fn run(_: &$params, _: &mut Context<'_>) -> Result<(), StepError> {
                Ok(())
            }
        }
    };
}

use PortType::{Adapter, Any, Dataset, Document, File, Metrics, Model, Tokenizer};

#[derive(Debug, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// How rows are laid out.
#[derive(Debug, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Layout {
    /// Messages.
    Chat,
    PromptCompletion,
    Text,
}

#[derive(Debug, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Import {
    /// How the rows are laid out.
    schema: Layout,
    /// How many rows to read at most.
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    rename: BTreeMap<String, String>,
}

#[derive(Debug, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Split {
    /// The part of the rows that goes to the test set.
    #[serde(default = "tenth")]
    #[schemars(range(min = 0.0, max = 1.0))]
    test: f64,
    #[serde(default = "tenth")]
    validation: f64,
    seed: u64,
}

fn tenth() -> f64 {
    0.1
}

fn check_split(split: &Split) -> Result<(), FieldError> {
    match split.test + split.validation < 1.0 {
        true => Ok(()),
        false => Err(FieldError::new("test", "leaves nothing to train on")),
    }
}

#[derive(Debug, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Train {
    /// The highest learning rate.
    learning_rate: f64,
    /// How often the rows are seen.
    #[serde(default = "one")]
    epochs: u32,
    #[serde(default)]
    lora: Lora,
    #[serde(default)]
    packing: bool,
    #[serde(default)]
    precision: Option<Precision>,
    seed: u64,
}

fn one() -> u32 {
    1
}

#[derive(Debug, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Lora {
    #[serde(default = "eight")]
    rank: u8,
    #[serde(default)]
    targets: Vec<String>,
}

impl Default for Lora {
    fn default() -> Self {
        Lora {
            rank: 8,
            targets: Vec::new(),
        }
    }
}

fn eight() -> u8 {
    8
}

#[derive(Debug, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "lowercase", tag = "type", deny_unknown_fields)]
enum Precision {
    Full,
    Mixed {
        /// The factor of the loss.
        scale: f64,
    },
}

kind!(
    ImportKind,
    "data.import",
    Import,
    [InPort::many("files", File, "the files to read")],
    [
        OutPort::new("rows", Dataset, "rows.jsonl"),
        OutPort::new("summary", Metrics, "summary.json")
    ]
);
kind!(
    SplitKind,
    "data.split",
    Split,
    [InPort::one("rows", Dataset, "the rows to split")],
    [
        OutPort::new("train", Dataset, "train.jsonl"),
        OutPort::new("test", Dataset, "test.jsonl"),
        OutPort::new("report", Metrics, "leaks.json")
    ],
    check_split
);
kind!(
    InitKind,
    "model.init",
    Nothing,
    [],
    [
        OutPort::new("model", Model, "model"),
        OutPort::new("tokenizer", Tokenizer, "tokenizer")
    ]
);
kind!(
    TrainKind,
    "lora.train",
    Train,
    [
        InPort::one("model", Model, "the base model"),
        InPort::one("train", Dataset, "the rows to train on"),
        InPort::optional("adapter", Adapter, "the adapter to start from")
    ],
    [
        OutPort::new("adapter", Adapter, "adapter"),
        OutPort::new("metrics", Metrics, "training.json")
    ]
);
kind!(
    CardKind,
    "release.card",
    Nothing,
    [
        InPort::labelled("metrics", Metrics, "what was measured"),
        InPort::lineage()
    ],
    [OutPort::new("card", Document, "README.md")]
);
kind!(
    FolderKind,
    "release.folder",
    Nothing,
    [InPort::labelled("files", Any, "what goes into the release")],
    [OutPort::new("release", PortType::Folder, "release")]
);

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry
        .add::<ImportKind>()
        .add::<SplitKind>()
        .add::<InitKind>()
        .add::<TrainKind>()
        .add::<CardKind>()
        .add::<FolderKind>()
        .add::<Command>();
    registry
}

fn source(text: &str) -> Source {
    Source {
        path: "pipelines/test.toml".to_owned(),
        text: text.to_owned(),
    }
}

fn load_with(text: &str, set: &[(&str, &str)], env: &[(&str, &str)]) -> Result<Graph, Diagnostics> {
    let pair = |&(a, b): &(&str, &str)| (a.to_owned(), b.to_owned());
    let overrides = Overrides {
        set: set.iter().map(pair).collect(),
        env: env.iter().map(pair).collect(),
    };
    Graph::load(source(text), &overrides, &registry()).map(|(graph, _)| graph)
}

fn load(text: &str) -> Graph {
    load_with(text, &[], &[]).unwrap_or_else(|faults| panic!("{faults}"))
}

/// What a person reads of a bad pipeline; held to 80 columns, except where
/// the file itself is wider.
fn faults(text: &str) -> String {
    faults_with(text, &[], &[])
}

fn faults_with(text: &str, set: &[(&str, &str)], env: &[(&str, &str)]) -> String {
    let shown = load_with(text, set, env).unwrap_err().to_string();
    for line in shown.lines() {
        assert!(line.chars().count() <= 80, "wider than 80 columns: {line}");
    }
    shown
}

fn node<'a>(graph: &'a Graph, name: &str) -> &'a Node {
    graph.node(graph.find(&name.parse().unwrap()).unwrap())
}

const GOOD: &str = r#"
[pipeline]
name = "good"
seed = 7

[params]
rate = 5e-6

[steps.import]
uses = "data.import"
files = ["data/a.jsonl", "data/more/*.jsonl"]
schema = "chat"

[steps.split]
uses = "data.split"
rows = "@import"
seed = 3

[steps.base]
uses = "model.init"

[steps.stage1]
uses = "lora.train"
description = "The first stage."
model = "@base"
train = "@split.train"
learning_rate = "${params.rate}"

[steps.stage2]
uses = "lora.train"
model = "hf://allenai/OLMo-2-0425-1B@a1b2c3"
train = "@split"
adapter = "@stage1.adapter"
learning_rate = 1
lora = { rank = 4 }

[steps.card]
uses = "release.card"
out = "release/"
metrics = { two = "@stage2.metrics", one = "@stage1.metrics" }
"#;

#[test]
fn a_pipeline_becomes_a_graph() {
    let graph = load(GOOD);
    let names: Vec<&str> = graph
        .order()
        .iter()
        .map(|&id| graph.node(id).name.as_str())
        .collect();
    assert_eq!(
        names,
        ["import", "split", "base", "stage1", "stage2", "card"]
    );
    let stage2 = node(&graph, "stage2");
    assert_eq!(stage2.kind, "lora.train");
    assert_eq!(stage2.out, None);
    assert_eq!(stage2.line, 29);
    assert_eq!(stage2.params["learning_rate"], json!(1.0));
    assert_eq!(stage2.params["lora"], json!({"rank": 4, "targets": []}));
    let labels: Vec<&str> = stage2
        .inputs
        .iter()
        .map(|input| input.label.as_str())
        .collect();
    let hub = "hf://allenai/OLMo-2-0425-1B@a1b2c3";
    assert_eq!(labels, [hub, "@split.train", "@stage1.adapter"]);
    assert!(matches!(&stage2.inputs[0].from, Origin::Hub(hub) if hub.revision == "a1b2c3"));
    let stage1 = graph.find(&"stage1".parse().unwrap()).unwrap();
    let from = Origin::Step {
        step: stage1,
        output: 0,
    };
    assert_eq!(stage2.inputs[2].from, from);
    let card = node(&graph, "card");
    assert_eq!(card.out.as_deref(), Some("release"));
    let labels: Vec<&str> = card
        .inputs
        .iter()
        .map(|input| input.label.as_str())
        .collect();
    assert_eq!(labels, ["one", "two", "lineage"]);
    assert_eq!(card.inputs[2].from, Origin::Lineage);
}

#[test]
fn neighbours_closures_and_cones() {
    let graph = load(GOOD);
    let id = |name: &str| graph.find(&name.parse().unwrap()).unwrap();
    let names = |ids: &mut dyn Iterator<Item = StepId>| {
        let names: Vec<String> = ids.map(|id| graph.node(id).name.to_string()).collect();
        names.join(" ")
    };
    let ids = |ids: &[StepId]| names(&mut ids.iter().copied());
    assert_eq!(ids(graph.dependencies(id("stage2"))), "split stage1");
    assert_eq!(ids(graph.dependents(id("split"))), "stage1 stage2");
    assert_eq!(ids(graph.dependencies(id("import"))), "");
    let needed = graph.closure([id("stage1")]);
    assert_eq!(names(&mut needed.iter()), "import split base stage1");
    let affected = graph.cone([id("stage1"), id("base")]);
    assert_eq!(names(&mut affected.iter()), "base stage1 stage2 card");
    assert_eq!(affected.len(), 4);
    assert!(affected.contains(id("card")) && !affected.contains(id("split")));
    assert!(graph.find(&"none".parse().unwrap()).is_none());
}

#[test]
fn every_value_knows_its_source() {
    let set = [("steps.stage1.epochs", "3")];
    let env = [
        ("RETUNE_PARAMS__RATE", "1e-4"),
        ("RETUNE_STEPS__STAGE2__LORA__RANK", "16"),
    ];
    let graph = load_with(GOOD, &set, &env).unwrap();
    let stage1 = node(&graph, "stage1");
    assert_eq!(stage1.params["learning_rate"], json!(1e-4));
    assert_eq!(stage1.params["epochs"], json!(3));
    assert_eq!(stage1.params["seed"], json!(7));
    let source = |node: &Node, key: &str| node.sources[key].clone();
    let variable = |name: &str| ValueSource::Env(name.to_owned());
    assert_eq!(
        source(stage1, "learning_rate"),
        variable("RETUNE_PARAMS__RATE")
    );
    assert_eq!(source(stage1, "epochs"), ValueSource::CommandLine);
    assert_eq!(source(stage1, "seed"), ValueSource::Pipeline);
    assert_eq!(source(stage1, "packing"), ValueSource::Default);
    let stage2 = node(&graph, "stage2");
    assert_eq!(stage2.params["lora"]["rank"], json!(16));
    assert_eq!(
        source(stage2, "lora"),
        variable("RETUNE_STEPS__STAGE2__LORA__RANK")
    );
    assert_eq!(source(stage2, "learning_rate"), ValueSource::File);
    let split = node(&graph, "split");
    assert_eq!(split.params["seed"], json!(3));
    assert_eq!(source(split, "seed"), ValueSource::File);
    let keys = |node: &Node| {
        (
            node.params.keys().cloned().collect(),
            node.sources.keys().cloned().collect(),
        )
    };
    let (params, sources): (std::collections::BTreeSet<_>, std::collections::BTreeSet<_>) =
        keys(stage2);
    assert_eq!(params, sources);
}

#[test]
fn comments_key_order_and_blanks_do_not_show() {
    let other = r#"
# A comment.
pipeline.seed = 7
pipeline.name = "good"
params = { rate = 0.000005 }
steps.import = { schema = 'chat', files = [ "./data/a.jsonl", "data//more/*.jsonl", ], uses = "data.import" }

[steps.split]
seed     = 0x3   # three
rows     = "@import.rows"
uses     = "data.split"
[steps.base]
uses = "model.init"
[steps.stage1]
train = "@split"
learning_rate = "${params.rate}"
model = "@base.model"
description = """The first stage."""
uses = "lora.train"
[steps.stage2]
learning_rate = 1.0
model = "hf://models/allenai/OLMo-2-0425-1B@a1b2c3"
train = "@split.train"
adapter = "@stage1"
uses = "lora.train"
[steps.stage2.lora]
rank = 4
[steps.card]
uses = "release.card"
out = "release"
[steps.card.metrics]
one = "@stage1.metrics"
two = "@stage2.metrics"
"#;
    let strip = |mut graph: Graph| {
        for node in &mut graph.nodes {
            node.line = 0;
        }
        graph
    };
    assert_eq!(strip(load(GOOD)), strip(load(other)));
}

#[test]
fn a_graph_can_be_cached() {
    let graph = load(GOOD);
    let bytes = graph.to_bytes().unwrap();
    assert_eq!(Graph::from_bytes(&bytes).unwrap(), graph);
}

#[test]
fn only_referenced_params_enter_a_step() {
    let text = "[params]\na = 1e-3\nb = 2\n[steps.x]\nuses = 'lora.train'\n\
                model = 'm'\ntrain = 't'\nlearning_rate = '${params.a}'\n\
                [steps.y]\nuses = 'command'\nrun = 'echo ${params.b}'\n";
    let before = load(text);
    let after = load_with(text, &[("params.b", "3")], &[]).unwrap();
    assert_eq!(before.nodes[0], after.nodes[0]);
    assert_eq!(after.nodes[1].params["run"], json!("echo 3"));
    assert_eq!(after.nodes[1].sources["run"], ValueSource::CommandLine);
}

#[test]
fn an_empty_pipeline_is_one() {
    let graph = load("");
    assert_eq!(graph.name.as_str(), "test");
    assert!(graph.order().is_empty());
}

fn large(steps: usize) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for i in 0..steps {
        let input = match i {
            0 => "data/a.txt".to_owned(),
            _ => format!("@step{}", i - 1),
        };
        let other = format!("@step{}", i / 2);
        let other = if i == 0 { "data/b.txt" } else { &other };
        writeln!(
            text,
            "[steps.step{i}]\nuses = \"command\"\nrun = \"cat ${{inputs.a}} > ${{outputs.out}}\"\n\
             inputs = {{ a = \"{input}\", b = \"{other}\" }}\noutputs = {{ out = \"out.txt\" }}\n"
        )
        .unwrap();
    }
    text
}

#[test]
fn ten_thousand_steps_build() {
    let source = source(&large(10_000));
    let start = std::time::Instant::now();
    let pipeline = Pipeline::parse(source, &Overrides::default()).unwrap();
    let parsed = start.elapsed();
    let graph = Graph::build(&pipeline, &registry()).unwrap();
    let built = start.elapsed() - parsed;
    eprintln!("parsed in {parsed:?}, built in {built:?}");
    assert_eq!(graph.order().len(), 10_000);
    assert_eq!(graph.dependencies(graph.order()[9_999]).len(), 2);
    assert_eq!(graph.nodes[9_999].line, 9_999 * 6 + 1);
}

#[test]
fn a_chain_that_closes_is_reported_however_long() {
    let text = large(1_000).replace("b = \"@step", "b = \"data/");
    let text = text.replacen("data/a.txt", "@step999", 1);
    let faults = load_with(&text, &[], &[]).unwrap_err();
    assert_eq!(faults.list.len(), 1);
    assert_eq!(faults.list[0].message, "1000 steps wait for each other");
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = load_with(&text, &[], &[]).map_err(|faults| faults.to_string());
    }

    #[test]
    fn no_near_pipeline_panics(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..24),
        path in "(steps|params|pipeline)(\\.[a-z${}.]{0,6}){0,3}",
        value in "\\PC{0,12}",
    ) {
        let text = pieces.concat();
        let variable = format!("RETUNE_{}", path.replace('.', "__"));
        let set = [(path.as_str(), value.as_str())];
        let env = [(variable.as_str(), value.as_str())];
        let shown = |graph: Result<Graph, Diagnostics>| graph.map_err(|faults| faults.render(true));
        let _ = shown(load_with(&text, &[], &[]));
        let _ = shown(load_with(&text, &set, &[]));
        let _ = shown(load_with(&text, &[], &env));
    }
}

/// Parts that make texts that are nearly pipelines.
const PIECES: &[&str] = &[
    "[pipeline]\n",
    "[params]\n",
    "[steps.a]\n",
    "[steps.b]\n",
    "[steps.ä]\n",
    "[[steps]]\n",
    "uses = \"command\"\n",
    "uses = \"lora.train\"\n",
    "uses = \"data.split\"\n",
    "uses = 3\n",
    "run = \"${inputs.x} ${outputs.y} ${params.\"\n",
    "run = ['ä', '${params.rate}']\n",
    "inputs = { x = \"@a\", z = \"@b.y\" }\n",
    "inputs.x = \"hf://a\"\n",
    "outputs = { y = \"../y\" }\n",
    "outputs.y = { path = \"y\", type = \"model\" }\n",
    "rate = 5e-6\n",
    "seed = 1\n",
    "seed = nan\n",
    "rows = \"@a\"\n",
    "out = \"a/b\"\n",
    "learning_rate = \"${params.rate}\"\n",
    "train = [1, {}]\n",
    "\u{feff}",
    "\r\n",
    "x.y.z = 1\n",
    "\"",
    "'''",
    "= 1\n",
    "# ä\n",
    "[steps.a.inputs]\n",
    "date = 2024-01-01\n",
];
