//! From rows to a release folder without the engine: two stages, scores, chart, recipe and card.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};

use crate::data::{Content, Message, Role, Row, write_rows};
use crate::hash::Digest;
use crate::step::{Arity, Context, Input, Registry, StepError};

/// An input: port, label, and where it comes from (`step/path` or a file).
type Wire<'a> = (&'a str, &'a str, &'a str);

/// Runs steps in a folder and tells their lineage as the engine would.
struct Bench {
    folder: tempfile::TempDir,
    registry: Registry,
    steps: Vec<Value>,
}

impl Bench {
    fn new() -> Self {
        let mut registry = Registry::new();
        super::register(&mut registry);
        Bench {
            folder: tempfile::tempdir().unwrap(),
            registry,
            steps: Vec::new(),
        }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    fn run(
        &mut self,
        name: &str,
        kind: &str,
        params: Value,
        wires: &[Wire<'_>],
    ) -> Result<BTreeMap<String, Value>, StepError> {
        let kind = self.registry.get(kind).expect("a known kind");
        let params = kind.resolve(params.as_object().unwrap().clone())?;
        let mut inputs: Vec<Input> = wires
            .iter()
            .map(|(port, label, from)| Input {
                port: (*port).to_owned(),
                label: (*label).to_owned(),
                path: self.path(from),
            })
            .collect();
        if kind.inputs().iter().any(|p| p.arity == Arity::Lineage) {
            let lineage = json!({"format": 1, "pipeline": {"name": "test", "description": "", "seed": 0}, "steps": self.steps});
            std::fs::write(self.path("lineage.json"), lineage.to_string()).unwrap();
            inputs.push(Input {
                port: "lineage".into(),
                label: "lineage".into(),
                path: self.path("lineage.json"),
            });
        }
        let out = self.path(name);
        std::fs::create_dir_all(&out).unwrap();
        let cancel = AtomicBool::new(false);
        let mut context = Context {
            inputs: &inputs,
            out: &out,
            checkpoint: None,
            threads: 2,
            cancel: &cancel,
            sink: &mut (),
            facts: BTreeMap::new(),
        };
        kind.run(&params, &mut context)?;
        let facts = context.facts;
        let outputs: Vec<Value> = kind
            .outputs(&params)?
            .iter()
            .map(|o| json!({"port": o.name, "type": o.ty.name(), "path": o.path, "digest": digest(&out.join(&o.path)), "size": 1}))
            .collect();
        let inputs: Vec<Value> = wires
            .iter()
            .map(|(port, label, from)| {
                let from_json = match from.split_once('/') {
                    Some((step, _)) => json!({"step": step}),
                    None => json!({"path": from}),
                };
                json!({"port": port, "label": label, "from": from_json, "digest": digest(&self.path(from))})
            })
            .collect();
        let version = kind.version();
        let step = json!({"name": name, "kind": kind.name(), "version": version, "params": params, "inputs": inputs, "outputs": outputs});
        self.steps.push(step);
        Ok(facts)
    }

    fn text(&self, relative: &str) -> String {
        std::fs::read_to_string(self.path(relative)).unwrap()
    }
}

/// The digest of a file, and something like one of a folder.
fn digest(path: &Path) -> Digest {
    match path.is_dir() {
        true => Digest::of(path.file_name().unwrap().as_encoded_bytes()),
        false => Digest::of_file(path).unwrap().0,
    }
}

fn rows(from: usize, to: usize) -> Vec<Row> {
    let row = |i: usize| {
        let level = ["HIGH", "LOW"][i % 2];
        let messages = vec![
            Message::new(Role::User, format!("Finding {i} of kind {}", i % 2)),
            Message::new(Role::Assistant, format!("Severity: {level}")),
        ];
        let meta = BTreeMap::from([("severity".to_owned(), Value::from(level))]);
        Row::new(Content::Messages(messages), meta, format!("made:{i}"))
    };
    (from..to).map(row).collect()
}

/// Everything up to the generations of base, stage 1 and stage 2.
fn trained() -> Bench {
    let mut bench = Bench::new();
    write_rows(&bench.path("train.jsonl"), &rows(0, 40)).unwrap();
    write_rows(&bench.path("test.jsonl"), &rows(40, 52)).unwrap();
    let train = ("train", "train.jsonl", "train.jsonl");
    let tokenizer = ("tokenizer", "@tokenizer", "tokenizer/tokenizer");
    let model = ("model", "@model", "model/model");
    let text = ("text", "train.jsonl", "train.jsonl");
    let size = json!({"vocab_size": 300});
    bench
        .run("tokenizer", "tokenizer.train", size, &[text])
        .unwrap();
    let tiny = json!({"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2});
    bench
        .run("model", "model.init", tiny, &[tokenizer])
        .unwrap();
    let stage = json!({"rank": 2, "epochs": 0, "max_steps": 6, "learning_rate": 0.02});
    let wires = [model, tokenizer, train];
    bench
        .run("stage1", "lora.train", stage.clone(), &wires)
        .unwrap();
    let start = ("adapter", "@stage1", "stage1/adapter");
    let wires = [model, tokenizer, train, start];
    bench.run("stage2", "lora.train", stage, &wires).unwrap();
    let wires = [
        model,
        tokenizer,
        ("adapters", "stage1", "stage1/adapter"),
        ("adapters", "stage2", "stage2/adapter"),
        ("rows", "test.jsonl", "test.jsonl"),
    ];
    let short = json!({"max_new_tokens": 4});
    let facts = bench
        .run("generate", "eval.generate", short, &wires)
        .unwrap();
    assert!(facts["tokens_per_second"].as_f64().unwrap() > 0.0);
    bench
}

#[test]
fn from_rows_to_a_release() {
    let mut bench = trained();
    let generations = crate::eval::read(&bench.path("generate/generations.jsonl")).unwrap();
    let expected: Vec<(&str, _)> = ["base", "stage1", "stage2"]
        .into_iter()
        .flat_map(|model| rows(40, 52).into_iter().map(move |row| (model, row.id)))
        .collect();
    let found: Vec<(&str, _)> = generations.iter().map(|g| (&*g.model, g.row)).collect();
    assert_eq!(
        found, expected,
        "models in order, rows in the order of the file"
    );

    let by = json!({"by": ["severity"], "fields": ["Severity"], "samples": 100});
    let wires = [
        ("generations", "@generate", "generate/generations.jsonl"),
        ("rows", "test.jsonl", "test.jsonl"),
    ];
    bench.run("score", "eval.score", by, &wires).unwrap();
    let scores: crate::eval::Scores =
        serde_json::from_str(&bench.text("score/scores.json")).unwrap();
    let loss = |i: usize| scores.models[i].overall.get("loss").unwrap().value;
    assert!(
        loss(2) < loss(0),
        "two stages of training lower the held-out loss"
    );
    assert!(bench.text("score/scores.md").contains("| stage2 | 12 |"));

    let logs = [
        ("logs", "stage 1", "stage1/log.jsonl"),
        ("logs", "stage 2", "stage2/log.jsonl"),
    ];
    bench.run("chart", "chart.loss", json!({}), &logs).unwrap();
    let of = [("of", "@score", "score/scores.json")];
    bench
        .run("recipe", "release.recipe", json!({}), &of)
        .unwrap();
    let recipe: toml::Table = bench.text("recipe/recipe.toml").parse().unwrap();
    assert_eq!(
        recipe["steps"]["stage2"]["adapter"].as_str(),
        Some("@stage1")
    );
    let told = [
        ("metrics", "stage1", "stage1/training.json"),
        ("metrics", "stage2", "stage2/training.json"),
        ("metrics", "scores", "score/scores.json"),
        ("charts", "charts/loss.svg", "chart/loss.svg"),
    ];
    let title = json!({"title": "Tiny", "recipe": "recipe.toml"});
    bench.run("card", "release.card", title, &told).unwrap();
    let card = bench.text("card/README.md");
    assert!(
        !card.contains("Course of the training: not measured"),
        "{card}"
    );
    assert!(
        card.contains("| last_loss |") && card.contains("| stage2 | 12 |"),
        "{card}"
    );
    let files = [
        ("files", "README.md", "card/README.md"),
        ("files", "recipe.toml", "recipe/recipe.toml"),
        ("files", "charts/loss.svg", "chart/loss.svg"),
        ("files", "stage2", "stage2/adapter"),
    ];
    bench
        .run("release", "release.folder", json!({}), &files)
        .unwrap();
    let manifest = bench.text("release/release/MANIFEST.json");
    for path in [
        "README.md",
        "charts/loss.svg",
        "stage2/adapter_model.safetensors",
    ] {
        assert!(manifest.contains(path), "{manifest}");
    }
    if let Some(folder) = std::env::var_os("RETUNE_TEST_RELEASE") {
        let copied = std::process::Command::new("cp")
            .arg("-r")
            .arg(bench.path(""))
            .arg(folder)
            .status();
        assert!(copied.unwrap().success());
    }
}

#[test]
fn an_adapter_may_not_be_called_base_and_without_models_there_is_an_error() {
    let mut bench = Bench::new();
    let faulty = |bench: &mut Bench, params: Value, wires: &[Wire<'_>]| {
        let result = bench.run("generate", "eval.generate", params, wires);
        result.unwrap_err().message
    };
    let base = [("adapters", "base", "x")];
    assert!(faulty(&mut bench, json!({}), &base).contains("name of the base model"));
    let fault = faulty(&mut bench, json!({"baseline": false}), &[]);
    assert!(fault.contains("there is no model"), "{fault}");
    let fault = faulty(&mut bench, json!({"top_p": 0.0}), &[]);
    assert!(fault.contains("at most 1"), "{fault}");
}
