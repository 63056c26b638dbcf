//! Models of other families, end to end: synthetic folders are fine-tuned, adapted and asked.

mod support;

use std::fs;

use retune::ml::config::{Family, ModelConfig, Sizes, SpecialIds};
use retune::ml::kernels::Isa;
use retune::ml::model::Decoder;
use serde_json::Value;
use support::Space;

/// A small model of a family whose windows are shorter than the rows.
fn config(family: Family) -> ModelConfig {
    let mut config = family.config(Sizes {
        vocab_size: 320,
        hidden_size: 16,
        intermediate_size: 32,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 12,
        max_positions: 64,
    });
    for layer in &mut config.attention {
        layer.window = layer.window.map(|_| 8);
    }
    config.query_scalar = config.query_scalar.map(|_| 12.0);
    config
}

fn space(family: Family) -> Space {
    let space = Space::new(
        r#"
[steps.rows]
uses = "data.import"
files = ["rows.jsonl"]
schema = "chat"

[steps.tokenizer]
uses = "tokenizer.train"
text = ["@rows"]
vocab_size = 300

[steps.base]
uses = "model.train"
model = "model"
tokenizer = "@tokenizer"
train = "@rows"
epochs = 0
max_steps = 4
warmup_steps = 1
max_length = 64
batch_tokens = 128

[steps.adapter]
uses = "lora.train"
model = "@base"
tokenizer = "@tokenizer"
train = "@rows"
rank = 4
learning_rate = 3e-2
epochs = 0
max_steps = 12
warmup_steps = 1
max_length = 64
batch_tokens = 256

[steps.answers]
uses = "eval.generate"
model = "@base"
tokenizer = "@tokenizer"
adapters = { trained = "@adapter" }
rows = "@rows"
max_new_tokens = 6
"#,
    );
    let row = |n: usize| {
        let content = |role: &str, text: &str| serde_json::json!({"role": role, "content": text});
        let question = content("user", &format!("one two {n}"));
        let messages = [question, content("assistant", "three four")];
        format!("{}\n", serde_json::json!({ "messages": messages }))
    };
    space.write("rows.jsonl", &(0..6).map(row).collect::<String>());
    let model = space.path("model");
    fs::create_dir(&model).unwrap();
    let decoder = Decoder::init(config(family), 1, 0.1, Isa::detect());
    let weights = model.join("model.safetensors");
    decoder.weights.write(&weights).unwrap();
    decoder.config.write(&model, SpecialIds::default()).unwrap();
    space
}

/// Mean loss of the rows' answers, by model.
fn losses(space: &Space) -> [f64; 2] {
    let text = space.read("cache/out/main/answers/generations.jsonl");
    let rows: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    ["base", "trained"].map(|model| {
        let own: Vec<&Value> = rows.iter().filter(|row| row["model"] == model).collect();
        assert_eq!(own.len(), 6, "{text}");
        own.iter()
            .map(|row| row["loss"].as_f64().unwrap())
            .sum::<f64>()
            / 6.0
    })
}

#[test]
fn models_of_other_families_are_trained_adapted_and_asked() {
    for family in [Family::Qwen3, Family::Gemma3] {
        let space = space(family);
        let run = space.built(&[]);
        assert_eq!(run.total("ran"), 5, "{run}");
        let [base, trained] = losses(&space);
        assert!(trained < base, "{family:?}: {base} → {trained}");
        let written = ModelConfig::read(&space.path("cache/out/main/base/model")).unwrap();
        assert_eq!(written, config(family));
        assert_eq!(space.built(&[]).total("ran"), 0);
    }
}

#[test]
fn a_model_that_is_not_understood_is_refused_with_its_field() {
    let space = space(Family::Qwen3);
    let config = space.read("model/config.json");
    let scaled = "\"rope_scaling\": { \"rope_type\": \"yarn\", \"factor\": 4.0 }";
    space.write(
        "model/config.json",
        &config.replace("\"rope_scaling\": null", scaled),
    );
    let run = space.build(&["base"]);
    assert_eq!(run.code, Some(1), "{run}");
    let message = "rope_scaling.rope_type is 'yarn', but only default, linear and llama3 are known";
    assert!(run.err.contains(message), "{run}");
}
