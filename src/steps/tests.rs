//! Tests of the training kinds from end to end, without the engine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};

use super::eval_loss::EvalLoss;
use super::lora_train::LoraTrain;
use super::model_init::ModelInit;
use super::model_train::ModelTrain;
use super::tokenizer_train::TokenizerTrain;
use crate::data::{Content, Message, Role, Row, write_rows};
use crate::ml::generate::{Generator, Options, Sampling};
use crate::ml::merge::merge;
use crate::step::{Context, Input, Registry, Step, StepError};

/// Runs a step and returns the folder with its outputs.
fn run<S: Step>(
    folder: &Path,
    name: &str,
    params: Value,
    inputs: &[(&str, PathBuf)],
    threads: usize,
) -> Result<PathBuf, StepError> {
    let out = folder.join(name);
    std::fs::create_dir_all(&out).unwrap();
    let mut registry = Registry::new();
    registry.add::<S>();
    let given = params.as_object().unwrap().clone();
    let resolved = registry.get(S::KIND).unwrap().resolve(given);
    let resolved = resolved.map_err(|e| StepError::new(format!("{:?}: {}", e.field, e.message)))?;
    let params: S::Params = serde_json::from_value(Value::Object(resolved)).unwrap();
    let inputs: Vec<Input> = inputs
        .iter()
        .map(|(port, path)| {
            // `port` or `port/label`.
            let (port, label) = port.split_once('/').unwrap_or((port, port));
            Input {
                port: port.to_owned(),
                label: label.to_owned(),
                path: path.clone(),
            }
        })
        .collect();
    let cancel = AtomicBool::new(false);
    let mut context = Context {
        inputs: &inputs,
        out: &out,
        checkpoint: None,
        threads,
        cancel: &cancel,
        sink: &mut (),
        facts: BTreeMap::new(),
    };
    S::run(&params, &mut context)?;
    Ok(out)
}

/// Questions with one right answer each.
fn rows(task: &str, shift: usize, path: &Path) -> Vec<Row> {
    let names = ["alpha", "beta", "gamma", "delta"];
    let rows: Vec<Row> = (0..4)
        .map(|i| {
            let content = Content::Messages(vec![
                Message::new(Role::User, format!("{task} {}?", names[i])),
                Message::new(Role::Assistant, names[(i + shift) % 4]),
            ]);
            Row::new(content, BTreeMap::new(), format!("test:{i}"))
        })
        .collect();
    write_rows(path, &rows).unwrap();
    rows
}

/// A tokenizer, a small base and two data sets.
struct Fixture {
    folder: tempfile::TempDir,
    tokenizer: PathBuf,
    base: PathBuf,
    first: (PathBuf, Vec<Row>),
    second: (PathBuf, Vec<Row>),
}

fn fixture() -> Fixture {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let text = folder.join("text.md");
    std::fs::write(&text, "alpha beta gamma delta what next? ".repeat(4)).unwrap();
    let (first, second) = (folder.join("first.jsonl"), folder.join("second.jsonl"));
    let first = (first.clone(), rows("what", 1, &first));
    let second = (second.clone(), rows("next", 2, &second));
    let echo = folder.join("echo.jsonl");
    rows("say", 0, &echo);
    let texts = [("text", text.clone()), ("text", first.0.clone())];
    let tokenizer = json!({"vocab_size": 280});
    let tokenizer = run::<TokenizerTrain>(folder, "t", tokenizer, &texts, 2).unwrap();
    let tokenizer = tokenizer.join("tokenizer");
    let small = json!({
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.1, "seed": 1
    });
    let inputs = [("tokenizer", tokenizer.clone())];
    let base = run::<ModelInit>(folder, "init", small, &inputs, 2).unwrap();
    let inputs = [
        ("model", base.join("model")),
        ("tokenizer", tokenizer.clone()),
        ("train", text),
        ("train", echo),
    ];
    let params = json!({
        "max_steps": 150, "epochs": 0, "max_length": 64, "batch_tokens": 256, "learning_rate": 1e-2
    });
    let base = run::<ModelTrain>(folder, "base", params, &inputs, 2).unwrap();
    Fixture {
        tokenizer,
        base: base.join("model"),
        first,
        second,
        folder: temporary,
    }
}

fn lora(f: &Fixture, name: &str, data: &Path, extra: Value, threads: usize) -> PathBuf {
    try_lora(f, name, data, extra, threads).unwrap()
}

fn try_lora(
    f: &Fixture,
    name: &str,
    data: &Path,
    extra: Value,
    threads: usize,
) -> Result<PathBuf, StepError> {
    let mut params = json!({
        "max_steps": 120, "epochs": 0, "max_length": 64, "batch_tokens": 128,
        "learning_rate": 1e-2, "rank": 8, "seed": 7, "eval_every": 60,
    });
    let mut inputs = vec![
        ("model", f.base.clone()),
        ("tokenizer", f.tokenizer.clone()),
        ("train", data.to_owned()),
        ("validation", data.to_owned()),
    ];
    for (key, value) in extra.as_object().unwrap() {
        match key.as_str() {
            "adapter" => inputs.push(("adapter", PathBuf::from(value.as_str().unwrap()))),
            _ => params[key] = value.clone(),
        }
    }
    run::<LoraTrain>(f.folder.path(), name, params, &inputs, threads)
}

fn read_json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn adapter_bytes(out: &Path) -> Vec<Vec<u8>> {
    [
        "adapter_config.json",
        "adapter_model.safetensors",
        "retune.json",
    ]
    .map(|name| std::fs::read(out.join("adapter").join(name)).unwrap())
    .to_vec()
}

const GREEDY: Options = Options {
    max_new_tokens: 12,
    sampling: Sampling {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seed: 0,
    },
    stop: Vec::new(),
    stop_ids: Vec::new(),
};

#[test]
fn two_stages_learn_their_answers() {
    let f = fixture();
    let first = lora(&f, "one", &f.first.0, json!({}), 2);
    let report = read_json(first.join("training.json"));
    assert_eq!(report["steps"], 120);
    let loss = |name: &str| report[name].as_f64().unwrap();
    assert!(loss("last_loss") < 0.2 * loss("first_loss"), "{report}");
    assert_eq!(report["validation"].as_array().unwrap().len(), 2);
    assert_eq!(report["rows"]["rows"], 4);
    assert_eq!(report["origins"]["test"]["rows"], 4);
    assert_eq!(report["origins"]["test"]["tokens"], report["tokens"]);
    assert_eq!(
        report["origins"]["test"]["loss_tokens"],
        report["loss_tokens"]
    );
    assert_eq!(report["config"]["optimizer"], "adamw");
    let log = std::fs::read_to_string(first.join("log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 122);

    let adapter = first.join("adapter");
    let extra = json!({"adapter": adapter.to_str().unwrap(), "max_steps": 150});
    let second = lora(&f, "two", &f.second.0, extra, 2);
    let mut generator = Generator::open(&f.base, &f.tokenizer, None).unwrap();
    let untrained = generator.answer_loss(&f.first.1[0]).unwrap();
    generator.set_adapter(Some(&adapter)).unwrap();
    for row in &f.first.1 {
        let answer = generator.generate(row.prompt(), &GREEDY).unwrap();
        assert_eq!(Some(answer.text.as_str()), row.answer());
        let loss = generator.answer_loss(row).unwrap();
        assert!(loss.nats_per_token < 0.5 * untrained.nats_per_token);
        assert_eq!(loss.tokens, answer.token_ids.len() + 1);
    }
    generator
        .set_adapter(Some(&second.join("adapter")))
        .unwrap();
    let prompts: Vec<&[Message]> = f.second.1.iter().map(Row::prompt).collect();
    let together = generator.generate_batch(&prompts, &GREEDY).unwrap();
    for (row, answer) in f.second.1.iter().zip(&together) {
        assert_eq!(Some(answer.text.as_str()), row.answer());
        assert_eq!(&generator.generate(row.prompt(), &GREEDY).unwrap(), answer);
    }
    retention(&f, &adapter, &second.join("adapter"));
    let sampling = Sampling {
        seed: 3,
        temperature: 1.5,
        top_p: 0.95,
        ..Sampling::default()
    };
    let warm = Options { sampling, ..GREEDY };
    let once = generator.generate_batch(&prompts, &warm).unwrap();
    assert_eq!(once, generator.generate_batch(&prompts, &warm).unwrap());
}

/// What the second stage leaves of the first one, measured on the first one's rows.
fn retention(f: &Fixture, first: &Path, second: &Path) {
    let inputs = [
        ("model", f.base.clone()),
        ("tokenizer", f.tokenizer.clone()),
        ("adapters/stage1", first.to_owned()),
        ("adapters/stage2", second.to_owned()),
        ("rows", f.first.0.clone()),
    ];
    let params = json!({"baseline": "stage1", "samples": 200});
    let run = |name, threads| {
        run::<EvalLoss>(f.folder.path(), name, params.clone(), &inputs, threads).unwrap()
    };
    let out = run("retention", 2);
    let found = read_json(out.join("loss.json"));
    let loss = |model: &str| found["models"][model]["loss"].as_f64().unwrap();
    assert!(loss("stage1") < 0.5 * loss("base"), "{found}");
    assert!(loss("stage1") < loss("stage2"), "{found}");
    assert!(found["models"]["stage1"]["change"].is_null());
    let change = &found["models"]["stage2"]["change"];
    assert_eq!(change["loss"], loss("stage2") - loss("stage1"));
    assert!(change["worse_rows"].as_u64().unwrap() > 0, "{found}");
    let generator = Generator::open(&f.base, &f.tokenizer, Some(first)).unwrap();
    let row = generator.answer_loss(&f.first.1[2]).unwrap();
    let lines = std::fs::read_to_string(out.join("losses.jsonl")).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 12, "three models, four rows");
    assert_eq!(lines[6]["model"], "stage1");
    assert_eq!(lines[6]["loss"], row.nats_per_token);
    let again = run("again", 1);
    for name in ["loss.json", "losses.jsonl"] {
        let read = |out: &Path| std::fs::read(out.join(name)).unwrap();
        assert!(read(&out) == read(&again), "{name}");
    }
}

#[test]
fn an_adapter_has_the_same_bytes_for_any_number_of_threads() {
    let f = fixture();
    let extra = || json!({"max_steps": 12, "dropout": 0.1, "accumulation": 2});
    let bytes = adapter_bytes(&lora(&f, "a1", &f.first.0, extra(), 1));
    for (name, threads) in [("a1 again", 1), ("a2", 2), ("a3", 3)] {
        let other = adapter_bytes(&lora(&f, name, &f.first.0, extra(), threads));
        assert!(other == bytes, "{name}, {threads} threads");
    }
}

#[test]
fn blocks_that_are_run_again_give_the_same_adapter_and_the_plan_is_recorded() {
    let f = fixture();
    let made = |name, checkpointing: bool| {
        let extra = json!({
            "max_steps": 12, "dropout": 0.1, "neftune_alpha": 5.0,
            "gradient_checkpointing": checkpointing
        });
        let out = lora(&f, name, &f.first.0, extra, 2);
        let memory = read_json(out.join("training.json"))["memory"].clone();
        (adapter_bytes(&out), memory)
    };
    let (kept, again) = (made("kept", false), made("again", true));
    assert!(kept.0 == again.0);
    let activations = |memory: &Value| memory["activations"].as_u64().unwrap();
    assert!(activations(&again.1) < activations(&kept.1));
    let parts = kept.1.as_object().unwrap();
    let sum: u64 = parts.values().map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(Some(sum), kept.1["total"].as_u64().map(|total| 2 * total));
}

#[test]
fn an_adapter_with_magnitudes_learns_and_is_merged() {
    let f = fixture();
    let extra = json!({"dora": true});
    let out = lora(&f, "dora", &f.first.0, extra, 2);
    let adapter = out.join("adapter");
    let config = read_json(adapter.join("adapter_config.json"));
    assert_eq!(config["use_dora"], true);
    let merged = f.folder.path().join("merged");
    merge(&f.base, &adapter, &merged, None).unwrap();
    let mut with = Generator::open(&f.base, &f.tokenizer, Some(&adapter)).unwrap();
    let inside = Generator::open(&merged, &f.tokenizer, None).unwrap();
    for row in &f.first.1 {
        let answer = with.generate(row.prompt(), &GREEDY).unwrap();
        assert_eq!(Some(answer.text.as_str()), row.answer());
        assert_eq!(inside.generate(row.prompt(), &GREEDY).unwrap(), answer);
        let losses = [&with, &inside].map(|g| g.answer_loss(row).unwrap().nats_per_token);
        assert!((losses[0] - losses[1]).abs() < 1e-4, "{losses:?}");
    }
    // Another stage begins with it, and only as what it is.
    let more = |dora: bool| {
        let extra = json!({"adapter": adapter.to_str().unwrap(), "dora": dora, "max_steps": 10});
        try_lora(&f, "more", &f.second.0, extra, 2)
    };
    let refused = more(false).unwrap_err().to_string();
    assert!(
        refused.contains("dora is not that of the adapter"),
        "{refused}"
    );
    let second = more(true).unwrap().join("adapter");
    with.set_adapter(Some(&second)).unwrap();
}

/// Refused by what `config.json` says, before any weight is read.
#[test]
fn training_that_does_not_fit_is_refused_with_what_would_help() {
    let f = fixture();
    let config = f.base.join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let huge = text.replace(
        "\"intermediate_size\": 48",
        "\"intermediate_size\": 10000000000",
    );
    assert_ne!(huge, text);
    std::fs::write(&config, huge).unwrap();
    let error = try_lora(&f, "huge", &f.first.0, json!({}), 1).unwrap_err();
    assert!(error.message.starts_with("training would hold"), "{error}");
    assert!(error.message.contains("weights "), "{error}");
    let hint = error.hint.unwrap();
    assert!(
        hint.starts_with("gradient_checkpointing = true would hold"),
        "{hint}"
    );
}

#[cfg(feature = "candle")]
#[test]
fn candle_trains_the_same_adapter_but_for_rounding() {
    let f = fixture();
    let extra = |backend| json!({"max_steps": 20, "dropout": 0.1, "backend": backend});
    let ours = lora(&f, "ours", &f.first.0, extra("cpu"), 2);
    let theirs = lora(&f, "theirs", &f.first.0, extra("candle"), 2);
    let (ours, theirs) = (
        read_json(ours.join("training.json")),
        read_json(theirs.join("training.json")),
    );
    for field in ["first_loss", "last_loss"] {
        let (a, b) = (
            ours[field].as_f64().unwrap(),
            theirs[field].as_f64().unwrap(),
        );
        assert!((a - b).abs() < 1e-3, "{field}: {a} and {b}");
    }
}

#[test]
fn wrong_inputs_are_refused_with_the_reason() {
    let f = fixture();
    let error = |extra: Value| {
        let error = try_lora(&f, "bad", &f.first.0, extra, 1).unwrap_err();
        error.to_string()
    };
    let refused = error(json!({"target_modules": ["query"]}));
    assert!(refused.contains("'query' is no linear layer"), "{refused}");
    let refused = error(json!({"layers": [5]}));
    assert!(refused.contains("there is no layer 5"), "{refused}");
    let refused = error(json!({"max_length": 100}));
    assert!(refused.contains("context is 64 tokens"), "{refused}");
    let refused = error(json!({"max_length": 3}));
    assert!(refused.contains("cut off before their answer"), "{refused}");
    let refused = error(json!({"learning_rate": 1e30, "clip_norm": 0.0}));
    assert!(refused.contains("not finite, on its own for"), "{refused}");
    assert!(
        refused.contains("from test:"),
        "the row is named: {refused}"
    );
    for (field, value) in [("rank", 0), ("batch_tokens", 3), ("max_length", 1)] {
        let refused = error(json!({field: value}));
        assert!(refused.contains(field), "{refused}");
    }

    let empty = f.folder.path().join("empty.jsonl");
    std::fs::write(&empty, "").unwrap();
    let refused = try_lora(&f, "bad", &empty, json!({}), 1).unwrap_err();
    assert!(
        refused
            .message
            .contains("empty.jsonl: there is no row in it"),
        "{refused}"
    );

    let made = lora(
        &f,
        "made",
        &f.first.0,
        json!({"max_steps": 1, "warmup_steps": 0}),
        1,
    );
    let adapter = made.join("adapter");
    let refused = error(json!({"adapter": adapter.to_str().unwrap(), "rank": 4}));
    assert!(
        refused.contains("rank is not that of the adapter"),
        "{refused}"
    );
    let config = f.base.join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("10000.0", "20000.0")).unwrap();
    let refused = error(json!({"adapter": adapter.to_str().unwrap()}));
    assert!(refused.contains("trained on another base"), "{refused}");
}

/// The model's files and its configuration contradict each other.
#[test]
fn a_model_that_is_not_whole_is_refused_with_the_file_and_the_tensor() {
    let f = fixture();
    let (config, weights) = (f.base.join("config.json"), f.base.join("model.safetensors"));
    let (text, bytes) = (
        std::fs::read_to_string(&config).unwrap(),
        std::fs::read(&weights).unwrap(),
    );
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        std::fs::write(&config, text.replace(from, to)).unwrap();
        let error = try_lora(&f, "bad", &f.first.0, json!({}), 1).unwrap_err();
        std::fs::write(&config, &text).unwrap();
        error.message
    };
    let refused = with("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    assert!(
        refused.contains("model.safetensors: the tensor 'model.layers.2."),
        "{refused}"
    );
    assert!(refused.contains("is missing;"), "{refused}");
    let refused = with("\"intermediate_size\": 48", "\"intermediate_size\": 40");
    assert!(
        refused.contains("has shape [48, 32], not [40, 32]"),
        "{refused}"
    );
    let vocabulary = text.split("\"vocab_size\": ").nth(1).unwrap();
    let vocabulary = vocabulary
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap();
    let refused = with(
        &format!("\"vocab_size\": {vocabulary}"),
        "\"vocab_size\": 270",
    );
    assert!(
        refused.contains("the model has only 270 tokens; use the tokenizer"),
        "{refused}"
    );
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let error = try_lora(&f, "bad", &f.first.0, json!({}), 1).unwrap_err();
    assert!(error.message.contains("model.safetensors"), "{error}");
    assert!(error.message.contains("may be cut off"), "{error}");
}
