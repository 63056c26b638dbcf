//! Training through the engine: two stages and what the second leaves of the first, records, early ends.

mod support;

use serde_json::Value;
use support::Space;

/// A base model and two stages, as in `docs/training.md`.
const STAGES: &str = r#"
[pipeline]
seed = 3

[steps.tokenizer]
uses = "tokenizer.train"
text = ["data/first.jsonl", "data/second.jsonl"]
vocab_size = 300

[steps.start]
uses = "model.init"
tokenizer = "@tokenizer"
num_hidden_layers = 1
hidden_size = 32
intermediate_size = 48
num_attention_heads = 2
max_position_embeddings = 64

[steps.base]
uses = "model.train"
model = "@start"
tokenizer = "@tokenizer"
train = ["data/first.jsonl", "data/second.jsonl"]
epochs = 0
max_steps = 4
max_length = 64
batch_tokens = 128
warmup_steps = 2

[steps.stage1]
uses = "lora.train"
model = "@base"
tokenizer = "@tokenizer"
train = "data/first.jsonl"
validation = "data/first.jsonl"
epochs = 0
max_steps = 80
max_length = 64
batch_tokens = 256
learning_rate = 2e-2
eval_every = 20

[steps.stage2]
uses = "lora.train"
model = "@base"
adapter = "@stage1"
tokenizer = "@tokenizer"
train = "data/second.jsonl"
epochs = 0
max_steps = 40
max_length = 64
batch_tokens = 256
learning_rate = 2e-2

[steps.retention]
uses = "eval.loss"
model = "@base"
tokenizer = "@tokenizer"
adapters = { stage1 = "@stage1", stage2 = "@stage2" }
rows = "data/first.jsonl"
baseline = "stage1"
samples = 200
"#;

/// Questions of one kind; the answers are shifted by stage.
fn rows(task: &str, shift: usize) -> String {
    let names = ["alpha", "beta", "gamma", "delta"];
    let row = |i: usize| {
        serde_json::json!({"messages": [
            {"role": "user", "content": format!("{task} {}?", names[i])},
            {"role": "assistant", "content": names[(i + shift) % 4]},
        ]})
    };
    (0..4).map(|i| row(i).to_string() + "\n").collect()
}

fn stages() -> Space {
    let imported = |name: &str| {
        format!(
            "\n[steps.{name}]\nuses = \"data.import\"\nfiles = [\"data/{name}.jsonl\"]\nschema = \"chat\"\n"
        )
    };
    let text = STAGES
        .replace("\"data/first.jsonl\"", "\"@first\"")
        .replace("\"data/second.jsonl\"", "\"@second\"");
    let space = Space::new(&(text + &imported("first") + &imported("second")));
    space.write("data/first.jsonl", &rows("what", 1));
    space.write("data/second.jsonl", &rows("next", 2));
    space
}

fn json(space: &Space, path: &str) -> Value {
    serde_json::from_str(&space.read(&format!("cache/out/main/{path}"))).unwrap()
}

#[test]
fn a_second_stage_is_held_against_the_first_one() {
    let space = stages();
    space.built(&[]);
    let found = json(&space, "retention/loss.json");
    let loss = |model: &str| found["models"][model]["loss"].as_f64().unwrap();
    assert!(loss("stage1") < loss("base"), "{found}");
    assert!(loss("stage1") < loss("stage2"), "{found}");
    let forgotten = found["models"]["stage2"]["change"]["loss"]
        .as_f64()
        .unwrap();
    assert!(forgotten > 0.0, "{found}");
    // What was really read of each file is told.
    let report = json(&space, "base/training.json");
    let origins = report["origins"].as_object().unwrap();
    let names: Vec<&str> = origins.keys().map(String::as_str).collect();
    assert_eq!(names, ["data/first.jsonl", "data/second.jsonl"]);
    let shares = origins
        .values()
        .map(|share| share["share"].as_f64().unwrap());
    assert!((shares.sum::<f64>() - 1.0).abs() < 1e-12);
    assert!(space.exists("cache/out/main/base/events.out.tfevents.0.retune"));
    assert!(!space.exists("cache/out/main/base/checkpoints"));
}

#[test]
fn a_record_says_of_every_parameter_where_it_came_from() {
    let space = stages();
    space.built(&["stage1", "--set", "steps.stage1.rank=4"]);
    let record = &space.records("stage1")[0];
    for (name, source) in [
        ("rank", "command_line"),
        ("max_steps", "file"),
        ("seed", "pipeline"),
        ("beta2", "default"),
        ("optimizer", "default"),
    ] {
        assert_eq!(record["sources"][name], source, "{name}");
    }
    let params = record["manifest"]["params"].as_object().unwrap();
    let sources = record["sources"].as_object().unwrap();
    let without: Vec<_> = params
        .keys()
        .filter(|name| !sources.contains_key(*name))
        .collect();
    assert!(without.is_empty(), "{without:?}");
    let report = json(&space, "stage1/training.json");
    assert_eq!(
        report["config"].as_object(),
        Some(params),
        "and its values are those"
    );
    for name in [
        "tokens",
        "epochs",
        "flops",
        "max_grad_norm",
        "clipped_steps",
    ] {
        assert!(report[name].is_number(), "{name}: {report}");
    }
    assert_eq!(report["rows"]["truncated"], 0);
    for fact in ["loss", "tokens_per_second", "waited_for_checkpoints"] {
        assert!(record["facts"][fact].is_number(), "{fact}: {record}");
    }
    assert!(record["peak_memory"].as_u64().unwrap() > 1 << 20);
}

#[test]
fn early_stopping_without_what_it_needs_is_refused() {
    let space = stages();
    space.edit("eval_every = 20", "early_stopping_patience = 2");
    let run = space.build(&["stage1"]);
    assert_eq!(run.code, Some(3), "{run}");
    let message = "'early_stopping_patience' needs validations on the way: set eval_every";
    assert!(run.err.contains(message), "{run}");
    space.edit(
        "validation = \"@first\"\n",
        "eval_every = 20\nkeep = \"best\"\n",
    );
    let run = space.build(&["stage1"]);
    assert_eq!(run.code, Some(1), "{run}");
    let message = "early_stopping_patience needs validations, but there are no validation rows";
    assert!(run.err.contains(message), "{run}");
    assert!(
        run.err
            .contains("hint: give the step an input `validation`"),
        "{run}"
    );
}

#[test]
fn a_run_that_ends_early_says_so_in_its_record() {
    let space = stages();
    space.edit(
        "eval_every = 20",
        "eval_every = 1\nearly_stopping_patience = 2\nearly_stopping_min_delta = 3.0\nkeep = \"best\"",
    );
    space.built(&["stage1"]);
    let report = json(&space, "stage1/training.json");
    assert_eq!(report["stopped"]["step"], 3, "{report}");
    assert_eq!(report["stopped"]["planned"], 80);
    let record = &space.records("stage1")[0];
    assert_eq!(record["facts"]["stopped_at"], 3);
    assert_eq!(
        record["facts"]["stopped_because"],
        report["stopped"]["reason"]
    );
}
