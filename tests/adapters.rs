//! What an adapter can become, as a pipeline runs it: converted, merged, and giving the same answers.

mod support;

use std::collections::BTreeMap;

use std::path::Path;

use retune::data::{Content, Message, Role, Row, write_rows};
use retune::ml::adapter::{self, Base};
use retune::ml::batch::{Batch, IGNORE, Sequence};
use retune::ml::gguf::{Gguf, Value as Pair};
use retune::ml::kernels::Isa;
use retune::ml::model::{Decoder, Gradients};
use retune::ml::tensors::Tensors;
use serde_json::Value;
use support::{Space, files};

const PIPELINE: &str = r#"
[pipeline]
seed = 3

[steps.tokenizer]
uses = "tokenizer.train"
text = ["data/text.md"]
vocab_size = 280

[steps.base]
uses = "model.init"
tokenizer = "@tokenizer"
model_type = "llama"
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 64
initializer_range = 0.1

[steps.adapter]
uses = "lora.train"
model = "@base"
tokenizer = "@tokenizer"
train = "data/rows.jsonl"
rank = 4
rslora = true
target_modules = ["*.self_attn.*", "model.layers.1.mlp.down_proj"]
learning_rate = 2e-2
epochs = 0
max_steps = 80
max_length = 64

[steps.mlx]
uses = "adapter.convert"
adapter = "@adapter"
model = "@base"
to = "mlx"

[steps.back]
uses = "adapter.convert"
adapter = "@mlx"
model = "@base"
to = "peft"

[steps.gguf]
uses = "adapter.convert"
adapter = "@adapter"
model = "@base"
to = "gguf"
dtype = "f16"

[steps.merged]
uses = "adapter.merge"
model = "@base"
adapter = "@adapter"
tokenizer = "@tokenizer"

[steps.with]
uses = "eval.generate"
model = "@base"
tokenizer = "@tokenizer"
adapters = { adapter = "@adapter" }
rows = "data/rows.jsonl"
max_new_tokens = 12

[steps.without]
uses = "eval.generate"
model = "@merged"
tokenizer = "@tokenizer"
rows = "data/rows.jsonl"
max_new_tokens = 12
"#;

fn space() -> Space {
    let space = Space::new(PIPELINE);
    space.write(
        "data/text.md",
        &"alpha beta gamma delta what next? ".repeat(4),
    );
    let names = ["alpha", "beta", "gamma", "delta"];
    let row = |i: usize| {
        let content = Content::Messages(vec![
            Message::new(Role::User, format!("what next {}?", names[i])),
            Message::new(Role::Assistant, names[(i + 1) % 4]),
        ]);
        Row::new(content, BTreeMap::new(), format!("test:{i}"))
    };
    let rows: Vec<Row> = (0..4).map(row).collect();
    write_rows(&space.path("data/rows.jsonl"), &rows).unwrap();
    space
}

/// The answers and losses of a model, in the order of rows.
fn answers(space: &Space, step: &str, model: &str) -> Vec<(String, f64)> {
    let text = space.read(&format!("cache/out/main/{step}/generations.jsonl"));
    let rows = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.filter(|row| row["model"] == model)
        .map(|row| {
            (
                row["text"].as_str().unwrap().to_owned(),
                row["loss"].as_f64().unwrap(),
            )
        })
        .collect()
}

#[test]
fn an_adapter_is_trained_converted_and_merged_and_the_answers_stay_the_same() {
    let space = space();
    space.built(&[]);
    let with = answers(&space, "with", "adapter");
    let without = answers(&space, "without", "base");
    let base = answers(&space, "with", "base");
    assert_eq!(with.len(), 4);
    for ((ours, merged), base) in with.iter().zip(&without).zip(&base) {
        assert_eq!(ours.0, merged.0);
        assert!((ours.1 - merged.1).abs() < 1e-4, "{ours:?} {merged:?}");
        assert!(
            ours.1 < 0.7 * base.1,
            "the adapter has learnt: {ours:?} {base:?}"
        );
    }

    let out = |path: &str| space.path(&format!("cache/out/main/{path}"));
    let content = |folder: &str| -> Vec<Vec<u8>> {
        let paths = files(&out(folder));
        paths
            .iter()
            .map(|path| std::fs::read(path).unwrap())
            .collect()
    };
    assert_eq!(
        content("back/adapter"),
        content("adapter/adapter"),
        "MLX and back"
    );
    let config: Value =
        serde_json::from_str(&space.read("cache/out/main/mlx/mlx/adapter_config.json")).unwrap();
    assert_eq!(
        config["lora_parameters"]["scale"],
        16.0 / 2.0,
        "alpha / √rank"
    );
    let gguf = Gguf::read(&out("gguf/adapter.gguf")).unwrap();
    assert_eq!(gguf.get("adapter.lora.alpha"), Some(&Pair::Float(32.0)));
    assert_eq!(gguf.tensors.len(), 2 * 9);
    assert!(out("merged/model/tokenizer.json").exists());

    // Once merged, never again, and no adapter of the base fits any more.
    space.pipeline(&format!(
        "{PIPELINE}\n[steps.twice]\nuses = 'adapter.merge'\nmodel = '@merged'\nadapter = '@adapter'\n"
    ));
    let run = space.build(&[]);
    assert_eq!(
        (run.code, run.steps("step-failed")),
        (Some(1), vec!["twice"]),
        "{run}"
    );
    assert!(run.err.contains("is already in the model"), "{run}");
    assert!(run.err.contains("use the model as it is"), "{run}");
}

#[test]
fn a_pattern_that_matches_nothing_says_what_there_is() {
    let space = space();
    space.edit("\"*.self_attn.*\"", "\"*.attention.*\"");
    let run = space.build(&["adapter"]);
    assert_eq!(
        (run.code, run.steps("step-failed")),
        (Some(1), vec!["adapter"]),
        "{run}"
    );
    assert!(
        run.err
            .contains("the pattern '*.attention.*' matches no linear layer"),
        "{run}"
    );
    assert!(run.err.contains("self_attn.q_proj"), "{run}");
}

/// What PEFT 0.21 wrote (see `tests/interop/peft_fixture.py`), with its logits.
#[test]
fn adapters_that_peft_made_give_its_logits() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/peft");
    let text = std::fs::read_to_string(folder.join("logits.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let tokens = expected["tokens"].as_array().unwrap().iter();
    let tokens: Vec<u32> = tokens.map(|token| token.as_u64().unwrap() as u32).collect();
    let targets = vec![IGNORE; tokens.len()];
    let batch = Batch::new(&[Sequence { tokens, targets }]);
    let model = folder.join("base");
    let decoder = Decoder::open(&model, Isa::detect()).unwrap();
    let base = Base::of(&model).unwrap();
    let plain = decoder.logits(None, &batch);
    for (name, last) in expected["last"].as_object().unwrap() {
        let lora = adapter::read(&folder.join(name), &decoder.config, &base).unwrap();
        let logits = decoder.logits(Some(&lora), &batch);
        let last: Vec<f32> = last
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap() as f32)
            .collect();
        let at = logits.len() - last.len();
        let greatest = |ours: &[f32]| {
            ours.iter()
                .zip(&last)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max)
        };
        let difference = greatest(&logits[at..]);
        assert!(difference < 1e-4, "{name}: {difference:e}");
        assert!(greatest(&plain[at..]) > 1e-2, "{name} changes something");
    }
}

/// Loss and gradients of PEFT 0.21 with `use_dora` (see `tests/interop/peft_fixture.py`).
#[test]
fn an_adapter_with_magnitudes_has_the_gradients_of_peft() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/peft");
    let text = std::fs::read_to_string(folder.join("logits.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let tokens = expected["tokens"].as_array().unwrap().iter();
    let tokens: Vec<u32> = tokens.map(|token| token.as_u64().unwrap() as u32).collect();
    let targets = tokens[1..].iter().copied().chain([IGNORE]).collect();
    let batch = Batch::new(&[Sequence { tokens, targets }]);
    let model = folder.join("base");
    let decoder = Decoder::open(&model, Isa::detect()).unwrap();
    let base = Base::of(&model).unwrap();
    let lora = adapter::read(&folder.join("dora"), &decoder.config, &base).unwrap();
    let mut ours = lora.tensors.zeros_like();
    let gradients = Gradients {
        weights: None,
        lora: Some(&mut ours),
    };
    let scale = 1.0 / batch.counted() as f32;
    let loss = decoder.gradients(Some(&lora), &batch, None, scale, gradients);
    let mut theirs = ours.zeros_like();
    let reference = [folder.join("dora.safetensors")];
    theirs.read(&reference).unwrap();
    let mut wanted = Tensors::default();
    let id = wanted.push("loss".into(), vec![1]);
    wanted.read(&reference).unwrap();
    assert!((loss.mean() - f64::from(wanted.get(id)[0])).abs() < 1e-5);
    assert_eq!(theirs.iter().count(), 3 * 14, "of all linear layers");
    for (ours, theirs) in ours.iter().zip(theirs.iter()) {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let pairs = ours.data.iter().zip(&theirs.data);
        let error: f64 = pairs.map(|(a, b)| square(a - b)).sum();
        let norm: f64 = theirs.data.iter().map(|b| square(*b)).sum();
        let error = (error / norm).sqrt();
        assert!(error < 1e-5, "{} is off by {error:e}", ours.name);
    }
}
