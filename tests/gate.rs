//! `data.check` as a pipeline runs it: what a gate lets through, what it stops, and what it then says.

mod support;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};
use support::{Run, Space};

const PIPELINE: &str = r#"
[pipeline]
name = "main"

[steps.train]
uses = "data.import"
schema = "chat"
files = ["train.jsonl"]

[steps.test]
uses = "data.import"
schema = "chat"
files = ["test.jsonl"]

[steps.gate]
uses = "data.check"
rows = "@train"
against = { test = "@test" }

[steps.after]
uses = "command"
command = ["sh", "-c", "wc -l < \"$IN\" > \"$OUT\""]
inputs = { IN = "@gate" }
outputs = { OUT = "count" }
"#;

fn chat(prompt: &str, answer: &str) -> Value {
    json!({"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]})
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

/// Words that no two topics share.
fn words(topic: &str, from: usize, n: usize) -> String {
    let letters = |mut i: usize| {
        let mut word = String::new();
        for _ in 0..4 {
            word.push((b'a' + (i % 26) as u8) as char);
            i /= 26;
        }
        word
    };
    let words: Vec<String> = (from..from + n)
        .map(|i| format!("{topic}{}", letters(i * 7919)))
        .collect();
    words.join(" ")
}

fn clean(i: usize) -> Value {
    chat(&words("ask", i * 100, 30), &words("say", i * 100, 30))
}

fn space(train: &[Value], test: &[Value]) -> Space {
    let space = Space::new(&PIPELINE[..PIPELINE.find("[steps.after]").unwrap()]);
    space.write("train.jsonl", &lines(train));
    space.write("test.jsonl", &lines(test));
    space
}

/// The report of a gate that passed.
fn report(space: &Space) -> Value {
    serde_json::from_str(&space.read("cache/out/main/gate/report.json")).unwrap()
}

/// The report that a gate which failed has left.
fn left_behind(space: &Space) -> Value {
    let runs = space.path("cache/runs");
    let mut found: Vec<PathBuf> = std::fs::read_dir(runs)
        .unwrap()
        .map(|run| run.unwrap().path().join("gate.failed/report.json"))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    serde_json::from_str(&std::fs::read_to_string(found.last().unwrap()).unwrap()).unwrap()
}

fn count(report: &Value, check: &str) -> u64 {
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|result| result["check"] == check);
    found.unwrap_or_else(|| panic!("no {check} in {report:#}"))["count"]
        .as_u64()
        .unwrap()
}

fn refused(space: &Space) -> Run {
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1), "{run}");
    run
}

#[test]
fn clean_rows_pass_as_they_are() {
    let train: Vec<Value> = (0..40).map(clean).collect();
    let space = space(&train, &[clean(100)]);
    space.built(&[]);
    let report = report(&space);
    assert_eq!(report["verdict"], "pass", "{report:#}");
    assert_eq!(
        space.read("cache/out/main/gate/rows.jsonl"),
        space.read("cache/out/main/train/rows.jsonl")
    );
    assert!(
        space
            .read("cache/out/main/gate/report.html")
            .contains("<b class=\"pass\">")
    );
}

#[test]
fn a_gate_that_fails_names_rows_and_leaves_its_report() {
    let mut train: Vec<Value> = (0..40).map(clean).collect();
    train[5] = chat(&words("ask", 99_000, 30), "// TODO: implement this");
    train[9] = clean(8);
    let space = space(&train, &[clean(3)]);
    let run = refused(&space);
    for part in [
        "the data does not pass:",
        "duplicates: 1 of 40 (2.5 %, at most 0.0 %)",
        "train.jsonl:10: the same as train.jsonl:9",
        "placeholders: 1 of 40",
        "train.jsonl:6: TODO",
        "leaks: 1 of 1 (100.0 %",
        "test.jsonl:1: of test, 1.00 similar to train.jsonl:4",
        "its report is",
        "gate.failed/report.html",
    ] {
        assert!(run.err.contains(part), "{part} is not in {run}");
    }
    assert_eq!(count(&left_behind(&space), "placeholders"), 1);
    assert!(!space.exists("cache/out/main/gate/rows.jsonl"));
    // What is only warned of lets the build go on.
    space.edit(
        "against = { test = \"@test\" }\n",
        "against = { test = \"@test\" }\nduplicates = { action = \"warn\" }\nplaceholders = { max_share = 0.05 }\nleaks = { action = \"off\" }\n",
    );
    space.built(&[]);
    let report = report(&space);
    assert_eq!(report["verdict"], "warn");
    assert!(
        space
            .read("cache/out/main/gate/report.html")
            .contains("the same as train.jsonl:9")
    );
}

#[test]
fn a_rule_that_cannot_be_is_refused_before_anything_runs() {
    let space = space(&[clean(1)], &[clean(2)]);
    space.edit(
        "against = { test = \"@test\" }\n",
        "against = { test = \"@test\" }\n[steps.gate.placeholders]\npatterns = { mine = \"(\" }\n",
    );
    let run = space.build(&[]);
    assert_eq!(run.code, Some(3), "{run}");
    assert!(run.err.contains("'mine' is no regular expression"), "{run}");
}

#[test]
fn hundreds_of_rows_with_two_prompts_are_stopped() {
    let rows: Vec<Value> = (0..300)
        .map(|i| {
            chat(
                ["Fix unknown in unknown.", "Explain unknown."][i % 2],
                &words("say", i * 100, 30),
            )
        })
        .collect();
    let space = space(&rows, &[clean(1)]);
    let run = refused(&space);
    assert!(
        run.err
            .contains("distinct_prompts: 2 of 300 (0.7 %, at least 50.0 %)"),
        "{run}"
    );
}

/// The published data sets, imported and cleaned of nothing.
fn webauthn(options: &str) -> Option<Space> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/webauthn/datasets");
    if !data.is_dir() {
        eprintln!("skipped: {} is not there", data.display());
        return None;
    }
    let space = Space::new(&PIPELINE[..PIPELINE.find("[steps.after]").unwrap()]);
    for (from, to) in [
        ("train_dataset.jsonl", "train.jsonl"),
        ("test_dataset.jsonl", "test.jsonl"),
    ] {
        space.write(to, &std::fs::read_to_string(data.join(from)).unwrap());
    }
    space.edit(
        "against = { test = \"@test\" }\n",
        &format!("against = {{ test = \"@test\" }}\n{options}"),
    );
    Some(space)
}

#[test]
fn the_known_faults_of_published_data_are_found_with_their_counts() {
    let Some(space) = webauthn("leaks = { on = \"prompt\", threshold = 0.8 }\n") else {
        return;
    };
    refused(&space);
    let report = left_behind(&space);
    let checks = report["checks"].as_array().unwrap();
    let of = |check: &str| {
        checks
            .iter()
            .find(|result| result["check"] == check)
            .unwrap()
    };
    assert_eq!(of("placeholders")["by"]["TODO"], 258);
    assert_eq!(of("leaks")["by"]["test: the same row"], 8);
    assert_eq!(of("leaks")["count"], 22, "{:#}", of("leaks"));
}

#[test]
fn answers_that_do_what_their_prompt_forbids_are_found_with_their_count() {
    let rule = r#"
[steps.gate.contradictions]
rules = [{ name = "alternatives", prompt = "", forbidden = "(?m)^#{3} Alternative Approaches" }]
"#;
    let Some(space) = webauthn(rule) else { return };
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/webauthn/datasets");
    let all: String = ["train", "validation", "test"]
        .iter()
        .map(|name| std::fs::read_to_string(data.join(format!("{name}_dataset.jsonl"))).unwrap())
        .collect();
    space.write("train.jsonl", &all);
    refused(&space);
    assert_eq!(count(&left_behind(&space), "contradictions"), 387);
}

/// A fault and how it is planted in a row.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Planted {
    Duplicate,
    Near,
    Placeholder,
    Copy,
    Broken,
    Leak,
    Contradiction,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Faulty sets made by rule: all that was planted is found, and nothing else.
    #[test]
    fn planted_faults_are_found_and_none_is_invented(
        planted in prop::collection::btree_map(0usize..60, prop::sample::select(vec![
            Planted::Duplicate, Planted::Near, Planted::Placeholder, Planted::Copy,
            Planted::Broken, Planted::Leak, Planted::Contradiction,
        ]), 0..25),
    ) {
        let mut train: Vec<Value> = (0..60).map(clean).collect();
        let mut test = vec![clean(900)];
        for (&i, fault) in &planted {
            // The row it is made of stands further on and is clean.
            let other = 1000 + i;
            match fault {
                Planted::Duplicate => { train[i] = clean(other); train.push(clean(other)); }
                Planted::Near => {
                    train[i] = clean(other);
                    let near = clean(other).to_string().replacen("say", "said", 1);
                    train.push(serde_json::from_str(&near).unwrap());
                }
                Planted::Placeholder => train[i] = chat(&words("ask", other * 100, 30), &format!("{} FIXME", words("say", other * 100, 20))),
                Planted::Copy => train[i] = chat(&words("ask", other * 100, 30), &words("ask", other * 100, 30)),
                Planted::Broken => train[i] = chat(&words("ask", other * 100, 30), &format!("{} cafÃ©", words("say", other * 100, 20))),
                Planted::Leak => { train[i] = clean(other); test.push(clean(other)); }
                Planted::Contradiction => train[i] = chat(&format!("{} no lists", words("ask", other * 100, 30)), &format!("- a\n{}", words("say", other * 100, 20))),
            }
        }
        // Prompts with the rule that are kept.
        train.push(chat(&format!("{} no lists", words("ask", 777_700, 30)), &words("say", 777_700, 20)));
        let space = space(&train, &test);
        space.edit("against = { test = \"@test\" }\n", "against = { test = \"@test\" }\nexamples = 100\n\
            duplicates = { action = \"warn\" }\nnear_duplicates = { threshold = 0.7, bands = 28, rows = 4 }\nplaceholders = { action = \"warn\" }\ncopies = { action = \"warn\" }\n\
            encoding = { action = \"warn\" }\nleaks = { action = \"warn\" }\n[steps.gate.contradictions]\naction = \"warn\"\n\
            rules = [{ name = \"lists\", prompt = \"no lists\", forbidden = \"(?m)^- \" }]\n");
        space.built(&[]);
        let report = report(&space);
        let wanted = |fault: Planted| planted.values().filter(|&&f| f == fault).count() as u64;
        for (check, number) in [
            ("duplicates", wanted(Planted::Duplicate)),
            ("near_duplicates", wanted(Planted::Duplicate) + wanted(Planted::Near)),
            ("placeholders", wanted(Planted::Placeholder)),
            ("copies", wanted(Planted::Copy)),
            ("encoding", wanted(Planted::Broken)),
            ("leaks", wanted(Planted::Leak)),
            ("contradictions", wanted(Planted::Contradiction)),
            ("empty", 0),
        ] {
            prop_assert_eq!(count(&report, check), number, "{} {:?} {:#}", check, planted, report);
        }
    }
}
