//! `verify` and `audit`: what differs from the records is found and named.

mod support;

use std::fs;

use rustix::process::Signal;
use serde_json::Value;
use support::{Space, wait_for};

/// Two steps that always give the same, one behind the other.
const STEADY: &str = r#"
[steps.first]
uses = "command"
run = "echo first >> RUNS; mkdir out; cat ${inputs.text} > out/one; echo two > out/two"
inputs = { text = "data/text.txt" }
outputs = { folder = "out/" }

[steps.second]
uses = "command"
run = "echo second >> RUNS; sort ${inputs.folder}/one > ${outputs.text}"
inputs = { folder = "@first" }
outputs = { text = "second.txt" }
"#;

const SECOND: &str = "cache/out/main/second/second.txt";

fn steady() -> Space {
    let space = Space::new(STEADY);
    space.write("data/text.txt", "b\na\n");
    assert_eq!(space.rerun(), ["first", "second"]);
    space
}

/// A step that runs `script`, built once.
fn built(script: &str) -> Space {
    let space = Space::new(&format!(
        "[steps.a]\nuses = 'command'\nrun = '''{script}'''\noutputs = {{ text = 'out.txt' }}\n"
    ));
    space.built(&[]);
    space
}

/// The faults that `verify` finds, as `step output place`.
fn faults(space: &Space) -> Vec<String> {
    let run = space.retune(&["verify", "--json"]);
    let report: Value = serde_json::from_str(&run.out).unwrap_or_else(|e| panic!("{e}: {run}"));
    let faults = report["faults"].as_array().unwrap();
    assert_eq!(run.code, Some(i32::from(!faults.is_empty())), "{run}");
    let text = |fault: &Value, field: &str| fault[field].as_str().unwrap().to_owned();
    let line = |fault| {
        ["step", "output", "place"]
            .map(|field| text(fault, field))
            .join(" ")
    };
    faults.iter().map(line).collect()
}

// verify

#[test]
fn verify_agrees_right_after_a_build() {
    let space = steady();
    let run = space.retune(&["verify"]);
    assert_eq!((run.code, run.out.as_str()), (Some(0), ""), "{run}");
    assert!(
        run.err.ends_with("digests checked, no difference\n"),
        "{run}"
    );
}

#[test]
fn verify_finds_an_edited_output() {
    let space = steady();
    space.write(SECOND, "edited\n");
    assert_eq!(faults(&space), ["second second.txt output"]);
    let run = space.retune(&["verify"]);
    assert!(
        run.out.starts_with("✗ second second.txt (output)\n"),
        "{run}"
    );
}

#[test]
fn verify_finds_a_missing_output() {
    let space = steady();
    space.remove(SECOND);
    assert_eq!(faults(&space), ["second second.txt output"]);
    let run = space.retune(&["verify"]);
    assert!(run.out.contains("is missing"), "{run}");
}

#[test]
fn verify_finds_a_damaged_object() {
    let space = steady();
    let object = space.objects("two\n").remove(0);
    fs::remove_file(&object).unwrap();
    fs::write(&object, "too\n").unwrap();
    assert_eq!(faults(&space), ["first out/two store"]);
}

#[test]
fn verify_finds_a_lost_object() {
    let space = steady();
    fs::remove_file(space.objects("two\n").remove(0)).unwrap();
    assert_eq!(faults(&space), ["first out/two store"]);
}

#[test]
fn verify_finds_a_lock_that_disagrees() {
    let space = steady();
    let lock = space.read("pipelines/main.lock");
    let digest = lock.split('"').rfind(|part| part.len() == 64).unwrap();
    let last = if digest.ends_with('0') { "1" } else { "0" };
    let other = format!("{}{last}", &digest[..63]);
    space.write("pipelines/main.lock", &lock.replace(digest, &other));
    let found = faults(&space);
    assert!(
        !found.is_empty() && found.iter().all(|fault| fault.ends_with(" lock")),
        "{found:?}"
    );
}

#[test]
fn verify_says_what_was_never_built() {
    let space = Space::new(STEADY);
    space.write("data/text.txt", "b\na\n");
    space.built(&["first"]);
    let run = space.retune(&["verify"]);
    assert_eq!(
        (run.code, run.out.as_str()),
        (Some(0), "- second has no result yet\n")
    );
}

#[test]
fn verify_changes_nothing() {
    let space = steady();
    space.write(SECOND, "edited\n");
    space.retune(&["verify"]);
    assert_eq!(space.read(SECOND), "edited\n");
    assert_eq!(space.ran().len(), 0);
}

// audit

#[test]
fn an_audit_of_steady_steps_agrees() {
    let space = steady();
    // The first build that finds a store keeps the graph there.
    space.built(&[]);
    let before = support::files(&space.path(""));
    let run = space.retune(&["audit"]);
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(run.out, "first   same\nsecond  same\n");
    assert!(run.err.ends_with("2 steps: 2 the same\n"), "{run}");
    assert_eq!(space.ran(), ["first", "second"], "it did them again");
    assert_eq!(
        support::files(&space.path("")),
        before,
        "nothing new in the project"
    );
    assert_eq!(space.rerun().len(), 0, "what was built still stands");
}

#[test]
fn an_audit_names_the_output_and_the_line_that_differ() {
    let space = built("echo same > out.txt; head -c 9 /dev/urandom | od -An -tx1 >> out.txt");
    let run = space.retune(&["audit"]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(run.out.starts_with("a  differs\n"), "{run}");
    assert!(
        run.out.contains("out.txt") && run.out.contains("line 2"),
        "{run}"
    );
    assert!(
        run.err.ends_with("1 step: 0 the same, 1 different\n"),
        "{run}"
    );
}

#[test]
fn an_audit_finds_a_step_that_writes_the_time() {
    let space = built("date +%s%N > out.txt");
    let run = space.retune(&["audit"]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(run.out.contains("line 1"), "{run}");
}

#[test]
fn an_audit_finds_a_step_that_writes_its_own_path() {
    let space = built("pwd > out.txt");
    let run = space.retune(&["audit"]);
    assert_eq!(run.code, Some(1), "{run}");
}

#[test]
fn an_audit_finds_a_step_that_writes_the_paths_of_its_inputs() {
    let space = steady();
    space.edit("sort ${inputs.folder}/one >", "echo ${inputs.folder} >");
    space.built(&[]);
    let run = space.retune(&["audit"]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(
        run.out.starts_with("first   same\nsecond  differs\n"),
        "{run}"
    );
}

#[test]
fn an_audit_shows_a_difference_at_the_step_that_causes_it() {
    let space = Space::new(
        r#"
        [steps.first]
        uses = "command"
        run = "date +%s%N > out.txt"
        outputs = { text = "out.txt" }
        [steps.second]
        uses = "command"
        run = "cp ${inputs.text} out.txt"
        inputs = { text = "@first" }
        outputs = { text = "out.txt" }
        "#,
    );
    space.built(&[]);
    let run = space.retune(&["audit", "--json"]);
    let rows: Vec<Value> = serde_json::from_str(&run.out).unwrap();
    let results = rows.iter().map(|row| row["result"].as_str().unwrap());
    assert_eq!(results.collect::<Vec<_>>(), ["differs", "same"]);
    let only = space.retune(&["audit", "second"]);
    assert_eq!(
        (only.code, only.out.as_str()),
        (Some(0), "second  same\n"),
        "{only}"
    );
}

#[test]
fn an_audit_says_how_a_step_fails_that_had_worked() {
    let space = built("test ! -e OUTSIDE/bad || { echo no luck >&2; exit 3; }; echo x > out.txt");
    fs::write(space.outside("bad"), "").unwrap();
    let run = space.retune(&["audit"]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(
        run.out
            .contains("it failed: the program ended with exit code 3\n"),
        "{run}"
    );
    assert!(run.out.contains("| no luck\n"), "{run}");
}

#[test]
fn an_audit_of_what_was_never_built_says_so() {
    let space = Space::new(STEADY);
    space.write("data/text.txt", "b\na\n");
    let run = space.retune(&["audit"]);
    assert_eq!(run.code, Some(1), "nothing was compared: {run}");
    assert!(
        run.out
            .contains("first   no result: it has no current result: build first"),
        "{run}"
    );
    assert!(
        run.out
            .contains("second  no result: its input first has no current result"),
        "{run}"
    );
    assert_eq!(space.ran().len(), 0);
}

#[test]
fn every_step_that_an_audit_begins_is_told_to_end() {
    let space = steady();
    let run = space.start(&["audit"]).end();
    assert_eq!(run.steps("step-started"), ["first", "second"]);
    assert_eq!(run.steps("step-finished"), ["first", "second"]);
}

#[test]
fn an_audit_takes_no_edited_output_for_an_input() {
    let space = steady();
    space.write("cache/out/main/first/out/one", "edited\n");
    let run = space.retune(&["audit"]);
    assert_eq!(run.code, Some(0), "the recorded inputs count: {run}");
}

#[test]
fn an_audit_can_be_interrupted() {
    let space =
        built("test -e OUTSIDE/slow && echo x > OUTSIDE/begun && sleep 300; echo x > out.txt");
    fs::write(space.outside("slow"), "").unwrap();
    let running = space.start(&["audit"]);
    wait_for("the step's start", || {
        space.outside("begun").exists().then_some(())
    });
    running.signal(Signal::INT);
    let run = running.end();
    assert_eq!(run.code, Some(130), "{run}");
    assert_eq!(run.steps("step-cancelled"), ["a"]);
    assert!(
        run.out.contains("not audited: the audit was stopped"),
        "{run}"
    );
}
