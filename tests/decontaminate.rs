//! `data.decontaminate` as a pipeline runs it.

mod support;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use support::Space;

const PIPELINE: &str = r#"
[pipeline]
name = "main"

[steps.train]
uses = "data.import"
schema = "chat"
files = ["train.jsonl"]

[steps.eval]
uses = "data.import"
schema = "chat"
files = ["eval.jsonl"]

[steps.clean]
uses = "data.decontaminate"
rows = "@train"
against = { ours = "@eval" }
references = { public = "bench.jsonl.gz" }
"#;

fn chat(prompt: &str, answer: &str) -> Value {
    json!({"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]})
}

fn lines(rows: &[Value]) -> String {
    rows.iter().fold(String::new(), |mut text, row| {
        writeln!(text, "{row}").unwrap();
        text
    })
}

fn sentence(word: &str, n: usize) -> String {
    let words: Vec<String> = (0..n).map(|i| format!("{word}{i}")).collect();
    words.join(" ")
}

fn gzip(path: &Path, text: &str) {
    let mut to = GzEncoder::new(std::fs::File::create(path).unwrap(), Compression::default());
    to.write_all(text.as_bytes()).unwrap();
    to.finish().unwrap();
}

/// 30 clean rows, one with an evaluation row of ours in it, one with a public one.
fn space() -> Space {
    let space = Space::new(PIPELINE);
    let mut train: Vec<Value> = (0..30)
        .map(|i| chat(&sentence(&format!("clean{i}x"), 40), "fine"))
        .collect();
    train[7] = chat(
        &format!("Please solve: {}", sentence("secret", 40).to_uppercase()),
        "ok",
    );
    train[20] = chat(
        "tell me a fact",
        &format!("It is known: {} and 1889.", sentence("public", 30)),
    );
    space.write("train.jsonl", &lines(&train));
    let eval = [
        chat(&sentence("secret", 40), "ok"),
        chat(&sentence("other", 40), "ok"),
    ];
    space.write("eval.jsonl", &lines(&eval));
    let record = json!({
        "eval_key": "facts", "eval_instance_index": 3, "split": "test", "doc_id": 1,
        "fingerprint": "00", "question": sentence("public", 30), "answer": "1889",
    });
    gzip(&space.path("bench.jsonl.gz"), &lines(&[record]));
    space
}

fn report(space: &Space) -> Value {
    serde_json::from_str(&space.read("cache/out/main/clean/report.json")).unwrap()
}

/// What a build that must fail says.
fn refused(space: &Space) -> String {
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1), "{run}");
    run.err
}

#[test]
fn contaminated_rows_go_and_every_match_is_listed() {
    let space = space();
    space.built(&[]);
    let report = report(&space);
    assert_eq!(report["contaminated"], 2);
    assert_eq!(report["removed"], 2);
    assert_eq!(report["sets"]["ours"]["found"], 1);
    assert_eq!(report["sets"]["facts"]["training_rows"], 1);
    let kept = space.read("cache/out/main/clean/rows.jsonl");
    assert_eq!(kept.lines().count(), 28);
    assert!(!kept.contains("SECRET3") && !kept.contains("public3"));
    let removed = space.read("cache/out/main/clean/removed.jsonl");
    assert!(removed.contains("SECRET3") && removed.contains("public3"));
    let matches = space.read("cache/out/main/clean/matches.jsonl");
    let first: Value = serde_json::from_str(matches.lines().next().unwrap()).unwrap();
    assert_eq!(first["origin"], "train.jsonl:8");
    assert_eq!(first["eval_origin"], "eval.jsonl:1");
    assert_eq!(first["rules"], json!(["13-gram", "8-gram", "weighted"]));
    let page = space.read("cache/out/main/clean/report.html");
    assert!(page.contains("<mark>SECRET0 SECRET1"), "{page}");
}

#[test]
fn a_pipeline_may_refuse_contaminated_data() {
    let space = space();
    space.edit(
        "rows = \"@train\"\n",
        "rows = \"@train\"\naction = \"fail\"\n",
    );
    let error = refused(&space);
    for part in [
        "2 hold one",
        "train.jsonl:8",
        "eval.jsonl:1 of ours",
        "action = \"remove\"",
    ] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    space.edit("action = \"fail\"\n", "action = \"report\"\n");
    space.built(&[]);
    assert_eq!(report(&space)["removed"], 0);
    assert_eq!(
        space
            .read("cache/out/main/clean/rows.jsonl")
            .lines()
            .count(),
        30
    );
}

#[test]
fn a_record_that_is_not_decons_is_named() {
    let space = space();
    gzip(
        &space.path("bench.jsonl.gz"),
        "{\"eval_key\":\"x\",\"split\":\"test\",\"eval_instance_index\":0}\n",
    );
    let error = refused(&space);
    assert!(
        error.contains("public:1") && error.contains("missing field `question`"),
        "{error}"
    );
}

/// The published data sets whose faults are known (the README beside them).
#[test]
fn the_test_rows_of_a_published_project_are_found_in_its_training_rows() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/webauthn/datasets");
    if !data.is_dir() {
        eprintln!("skipped: {} is not there", data.display());
        return;
    }
    let space = Space::new(PIPELINE);
    for (from, to) in [
        ("train_dataset.jsonl", "train.jsonl"),
        ("test_dataset.jsonl", "eval.jsonl"),
    ] {
        space.write(to, &std::fs::read_to_string(data.join(from)).unwrap());
    }
    space.edit("references = { public = \"bench.jsonl.gz\" }\n", "");
    space.built(&[]);
    let report = report(&space);
    let found = report["sets"]["ours"]["found"].as_u64().unwrap();
    // 22 of the 25 have a prompt that is at least 0.9 similar in training.
    assert!((22..=25).contains(&found), "{report:#}");
}
