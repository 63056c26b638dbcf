//! Talking to models: `generate` and `chat`, from steps and folders, on pipes.

mod support;

use std::fs;
use std::io::{BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};

use retune::ml::config::{Family, Sizes, SpecialIds};
use retune::ml::kernels::Isa;
use retune::ml::model::Decoder;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{Run, Space};

const PIPELINE: &str = r#"
[steps.rows]
uses = "data.import"
files = ["rows.jsonl"]
schema = "chat"

[steps.tokenizer]
uses = "tokenizer.train"
text = ["@rows"]
vocab_size = 300

[steps.tuned]
uses = "lora.train"
model = "model"
tokenizer = "@tokenizer"
train = "@rows"
rank = 8
learning_rate = 5e-2
epochs = 0
max_steps = 60
warmup_steps = 1
max_length = 64
batch_tokens = 256

[steps.later]
uses = "lora.train"
model = "model"
tokenizer = "@tokenizer"
train = "@rows"
"#;

/// A project with a random model, an adapter that knows one answer, and a
/// step that was never built.
fn space() -> Space {
    let space = Space::new(PIPELINE);
    let row = |n: usize| {
        let content = |role: &str, text: &str| json!({"role": role, "content": text});
        let question = content("user", &format!("one two {n}"));
        let messages = [question, content("assistant", "three four")];
        format!("{}\n", json!({ "messages": messages }))
    };
    space.write("rows.jsonl", &(0..6).map(row).collect::<String>());
    model(&space, "model", |_| {});
    space.built(&["tuned"]);
    space
}

/// A random model in a folder, after some change.
fn model(space: &Space, folder: &str, change: impl FnOnce(&mut Decoder)) {
    let mut config = Family::Llama.config(Sizes {
        vocab_size: 320,
        hidden_size: 32,
        intermediate_size: 48,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        max_positions: 20_000,
    });
    config.tied = false;
    let folder = space.path(folder);
    fs::create_dir(&folder).unwrap();
    let mut decoder = Decoder::init(config, 1, 0.1, Isa::detect());
    change(&mut decoder);
    decoder
        .weights
        .write(&folder.join("model.safetensors"))
        .unwrap();
    decoder
        .config
        .write(&folder, SpecialIds::default())
        .unwrap();
}

/// A model that, drawing from its 40 likeliest tokens, never ends by itself:
/// the logits of special tokens are 0, and half of all are above.
fn endless(space: &Space) {
    model(space, "endless", |decoder| {
        let head = decoder.layout.head;
        decoder.weights.get_mut(head)[..3 * 32].fill(0.0);
    });
}

const ENDLESS: [&str; 10] = [
    "-m",
    "endless",
    "--tokenizer",
    "@tokenizer",
    "-n",
    "19000",
    "-t",
    "1.5",
    "--top-k",
    "40",
];

/// Runs the program with something on standard input.
fn fed(space: &Space, arguments: &[&str], input: &str) -> Run {
    let mut command = space.command(arguments);
    let path = space.outside("input");
    fs::write(&path, input).unwrap();
    Run::of(command.stdin(fs::File::open(path).unwrap()))
}

#[track_caller]
fn answered(run: &Run, out: &str) {
    assert_eq!((run.code, run.out.as_str()), (Some(0), out), "{run}");
}

fn lines(run: &Run) -> Vec<Value> {
    assert_eq!(run.code, Some(0), "{run}");
    let lines = run.out.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_step_answers_wherever_the_prompt_comes_from() {
    let space = space();
    let answer = "three four\n";
    answered(
        &space.retune(&["generate", "-m", "@tuned", "one two 3"]),
        answer,
    );
    answered(
        &space.retune(&["generate", "--adapter", "@tuned", "one two 3"]),
        answer,
    );
    let run = space.retune(&["generate", "-m", "@tuned.adapter", "-q", "one two 3"]);
    answered(&run, answer);
    assert_eq!(run.err, "");
    answered(
        &fed(&space, &["generate", "-m", "@tuned"], "one two 3\n"),
        answer,
    );
    // By paths alone, from a place that is no project.
    let adapter = space.path("cache/out/main/tuned/adapter");
    let tokenizer = space.path("cache/out/main/tokenizer/tokenizer");
    let there = space.outside("elsewhere");
    fs::create_dir(&there).unwrap();
    let mut command = space.command(&["generate", "one two 3", "--threads", "1"]);
    command
        .current_dir(there)
        .arg("--model")
        .arg(space.path("model"));
    command
        .arg("--adapter")
        .arg(adapter)
        .arg("--tokenizer")
        .arg(tokenizer);
    answered(&Run::of(&mut command), answer);
}

#[test]
fn a_file_of_prompts_is_answered_line_by_line() {
    let space = space();
    let file = concat!(
        r#"{"messages":[{"role":"user","content":"one two 1"},{"role":"assistant","content":"no"}]}"#,
        "\n",
        r#"{"prompt":"one two 2"}"#,
        "\n",
        r#"{"text":"one"}"#,
        "\n",
    );
    space.write("asked.jsonl", file);
    let arguments = ["generate", "-m", "@tuned", "-n", "6", "--json"];
    let run = space.retune(&[&arguments[..], &["--file", "asked.jsonl"]].concat());
    let all = lines(&run);
    assert_eq!(all.len(), 3);
    for (n, line) in all.iter().enumerate() {
        assert_eq!((&line["prompt"], &line["sample"]), (&n.into(), &0.into()));
    }
    for line in &all[..2] {
        assert_eq!(
            (&line["text"], &line["finish"]),
            (&"three four".into(), &"stop".into())
        );
        assert!(
            line["prompt_tokens"].as_u64().unwrap()
                > line["token_ids"].as_array().unwrap().len() as u64
        );
    }
    assert!(run.err.contains("tokens/s"), "{run}");
    let from_pipe = fed(
        &space,
        &[&arguments[..], &["--file", "-", "--threads", "3"]].concat(),
        file,
    );
    assert_eq!(lines(&from_pipe), all, "whatever the number of threads");
    let samples = [
        "--samples",
        "5",
        "-t",
        "1.5",
        "--top-p",
        "0.9",
        "--seed",
        "4",
        "--raw",
        "one",
    ];
    let drawn = lines(&space.retune(&[&arguments[..], &samples].concat()));
    assert_eq!(drawn.len(), 5);
    assert_eq!(drawn[4]["sample"], 4);
    assert!(drawn.iter().any(|line| line["text"] != drawn[0]["text"]));
    assert_eq!(
        lines(&space.retune(&[&arguments[..], &samples].concat())),
        drawn
    );
}

#[test]
fn what_the_model_advises_is_taken_and_told() {
    let space = space();
    let advice = r#"{"do_sample": true, "temperature": 3.0, "top_k": 40, "max_new_tokens": 3}"#;
    space.write("model/generation_config.json", advice);
    let model = [
        "generate",
        "--tokenizer",
        "@tokenizer",
        "-m",
        "model",
        "--raw",
        "--json",
    ];
    let run = space.retune(&[&model[..], &["one"]].concat());
    let told = "as the model advises: temperature 3, top_k 40, max_new_tokens 3\n";
    assert!(run.err.starts_with(told), "{run}");
    assert!(lines(&run)[0]["token_ids"].as_array().unwrap().len() <= 3);
    let run = space.retune(&[&model[..], &["-t", "0", "-n", "5", "one"]].concat());
    assert!(
        run.err.starts_with("as the model advises: top_k 40\n"),
        "{run}"
    );
    let greedy = lines(&run);
    assert_eq!(
        greedy,
        lines(&space.retune(&[&model[..], &["-t", "0", "-n", "5", "one"]].concat()))
    );
    space.write("model/generation_config.json", "[");
    let run = space.retune(&[&model[..], &["one"]].concat());
    assert_eq!(run.code, Some(5), "{run}");
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let space = space();
    let refused = |arguments: &[&str], code: i32, reasons: &[&str]| {
        let run = space.retune(&[&["generate"], arguments].concat());
        assert_eq!((run.code, run.out.as_str()), (Some(code), ""), "{run}");
        for reason in reasons {
            assert!(run.err.contains(reason), "{reason:?} is not in {run}");
        }
    };
    refused(
        &["x"],
        4,
        &[
            "there is no model to talk to",
            "hint: give one with --model",
        ],
    );
    refused(
        &["-m", "tuned", "x"],
        4,
        &["there is no model in", "is written @tuned"],
    );
    refused(&["-m", "nowhere", "x"], 4, &["there is no model in"]);
    refused(&["-m", "@tunde", "x"], 4, &["did you mean 'tuned'?"]);
    refused(
        &["-m", "@later", "x"],
        4,
        &["step 'later' has no adapter yet", "retune build later"],
    );
    refused(
        &["-m", "@rows", "x"],
        4,
        &["step 'rows' makes no model", "it makes rows"],
    );
    refused(
        &["-m", "model", "x"],
        4,
        &["no tokenizer beside the model", "--tokenizer"],
    );
    refused(&["-m", "@tuned"], 4, &["there is no prompt"]);
    refused(&["-m", "@tuned", "--file", "none"], 5, &["failed to read"]);
    refused(
        &["-m", "@tuned", "--top-p", "2", "x"],
        4,
        &["top_p must be above 0"],
    );
    refused(
        &["-m", "@tuned", "--stop-token", "<none>", "x"],
        4,
        &["no token '<none>'"],
    );
    refused(
        &["-m", "hf://nobody/nothing@main", "x"],
        5,
        &["is a branch"],
    );
    space.write("bad.jsonl", "{\"prompt\":\"x\"}\n{}\n");
    refused(
        &["-m", "@tuned", "--file", "bad.jsonl"],
        4,
        &["bad.jsonl:2: expected `messages`"],
    );
    let long = "word ".repeat(20_000);
    space.write("long.jsonl", &json!({ "prompt": long }).to_string());
    refused(
        &["-m", "@tuned", "--file", "long.jsonl"],
        4,
        &["does not fit the model's context"],
    );
}

#[test]
fn a_script_of_turns_is_answered_turn_by_turn() {
    let space = space();
    let chat = ["chat", "-m", "@tuned", "-n", "8"];
    let script = "one two 1\n\n/reset\none two 2\n/quit\nnever\n";
    answered(&fed(&space, &chat, script), "three four\nthree four\n");
    // Without /quit the end of the input ends it; the adapter makes the answer.
    let script =
        "one two 1\n/adapter none\n/reset\none two 1\n/adapter\n/adapter 1\n/reset\none two 1\n";
    let base = ["chat", "-a", "@tuned", "-n", "8"];
    let run = fed(&space, &base, script);
    assert_eq!(run.code, Some(0), "{run}");
    assert!(
        run.out.starts_with("three four\n") && run.out.ends_with("three four\n"),
        "{run}"
    );
    assert!(run.out.matches("three four").count() == 2, "{run}");
    assert!(run.err.contains("1  @tuned"), "{run}");
    // What goes wrong is told, and the rest is answered.
    let run = fed(&space, &chat, "/nonsense\n/adapter nowhere\none two 1\n");
    assert_eq!(
        (run.code, run.out.as_str()),
        (Some(1), "three four\n"),
        "{run}"
    );
    assert!(
        run.err.contains("no command /nonsense") && run.err.contains("there is no adapter in"),
        "{run}"
    );
    let system = fed(&space, &chat, "/system be brief\none two 1\n");
    let given = fed(
        &space,
        &[&chat[..], &["--system", "be brief"]].concat(),
        "one two 1\n",
    );
    answered(&system, &given.out);
}

/// A verb whose answer takes very long, after its first words.
fn begun(space: &Space, arguments: &[&str], input: &str) -> (Child, BufReader<ChildStdout>) {
    endless(space);
    let path = space.outside("input");
    fs::write(&path, input).unwrap();
    let mut command = space.command(&[arguments, &ENDLESS[..]].concat());
    command.stdin(fs::File::open(path).unwrap());
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_exact(&mut [0; 10]).unwrap();
    (child, out)
}

fn interrupt(child: &Child) {
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
}

#[test]
fn text_comes_as_it_is_written_and_an_interrupt_ends_it() {
    let space = space();
    let (mut child, mut out) = begun(&space, &["generate", "--raw", "one"], "");
    interrupt(&child);
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(rest.ends_with(b"\n"), "the line is ended");
}

#[test]
fn an_interrupt_stops_an_answer_and_not_the_conversation() {
    let space = space();
    let turns = "one two\n/reset\none two\n/reset\none two\n";
    let (mut child, mut out) = begun(&space, &["chat"], turns);
    let reader = std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
    // Three answers: more than one interrupt may hit the same.
    let mut interrupts = 0;
    let status = support::wait_for("the end of the turns", || {
        interrupt(&child);
        interrupts += 1;
        child.try_wait().unwrap()
    });
    assert_eq!(status.code(), Some(0));
    assert!(interrupts >= 3, "{interrupts}");
    reader.join().unwrap().unwrap();
}

#[test]
fn a_reader_that_goes_away_ends_the_answer() {
    let space = space();
    let (mut child, out) = begun(&space, &["generate", "--raw", "one"], "");
    drop(out);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
