//! What goes to which stream, and how: data on standard output, the rest on standard error, nothing that a pipe cannot take.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;
use support::{Run, Space};

const PIPELINE: &str = r#"
[steps.first]
uses = "command"
run = "echo first >> RUNS; cp ${inputs.text} ${outputs.text}; echo said by the step"
inputs = { text = "data/text.txt" }
outputs = { text = "first.txt" }

[steps.a-step-with-a-rather-long-name-that-tables-must-bear]
uses = "command"
run = "cp ${inputs.text} ${outputs.text} && echo and a command line that is much longer than any screen is wide, so it has to be cut somewhere"
inputs = { text = "@first" }
outputs = { text = "second.txt" }
"#;

fn space() -> Space {
    let space = Space::new(PIPELINE);
    space.write("data/text.txt", "one\n");
    space
}

/// Runs a verb; nothing it prints may hold an escape code.
fn plain(space: &Space, arguments: &[&str]) -> Run {
    let run = space.retune(arguments);
    assert!(
        !run.out.contains('\x1b') && !run.err.contains('\x1b'),
        "{arguments:?}: {run}"
    );
    run
}

#[test]
fn a_build_writes_nothing_to_standard_output() {
    let space = space();
    let run = plain(&space, &["build"]);
    assert_eq!((run.code, run.out.as_str()), (Some(0), ""), "{run}");
    assert!(run.err.contains("2 steps: 2 ran"), "{run}");
    assert!(
        !run.err.contains("said by the step"),
        "what steps print is kept: {run}"
    );
    assert_eq!(plain(&space, &["build", "-q"]).err, "");
}

#[test]
fn verbose_names_the_steps_that_are_up_to_date() {
    let space = space();
    space.built(&[]);
    let quiet = plain(&space, &["build"]);
    assert!(!quiet.err.contains("first "), "{quiet}");
    let run = plain(&space, &["build", "-v"]);
    let listed = run
        .err
        .lines()
        .filter(|line| line.ends_with("  up to date"));
    assert_eq!(listed.count(), 2, "{run}");
    let events = space.built(&[]);
    assert_eq!(
        events.of_kind("step-decided").len(),
        2,
        "each step's decision is told"
    );
}

#[test]
fn results_are_on_standard_output() {
    let space = space();
    space.built(&[]);
    for arguments in [
        &["plan"][..],
        &["why", "first"],
        &["graph"],
        &["graph", "--format", "dot"],
        &["graph", "--format", "mermaid"],
        &["schema"],
        &["kinds"],
        &["audit"],
        &["--help"],
        &["--version"],
    ] {
        let run = plain(&space, arguments);
        assert_eq!(run.code, Some(0), "{arguments:?}: {run}");
        assert!(
            !run.out.is_empty() && run.out.ends_with('\n'),
            "{arguments:?}: {run}"
        );
    }
}

#[test]
fn json_output_is_json_and_nothing_else() {
    let space = space();
    space.built(&["first"]);
    for arguments in [
        &["plan", "--json"][..],
        &["why", "first", "--json"],
        &["verify", "--json"],
        &["audit", "--json"],
        &["kinds", "--json"],
        &["schema"],
    ] {
        let run = plain(&space, arguments);
        let parsed: Result<Value, _> = serde_json::from_str(&run.out);
        assert!(parsed.is_ok(), "{arguments:?}: {run}");
    }
}

#[test]
fn colour_is_used_only_when_asked_for() {
    let space = space();
    let coloured = space.retune(&["--color", "always", "plan"]);
    assert!(coloured.out.contains('\x1b'), "{coloured}");
    plain(&space, &["--color", "never", "plan"]);
    let mut command = space.command(&["plan"]);
    let run = Run::of(command.env("NO_COLOR", "1").env("CLICOLOR_FORCE", "0"));
    assert!(!run.out.contains('\x1b'), "{run}");
    let mut command = space.command(&["--color", "always", "plan"]);
    let run = Run::of(command.env("NO_COLOR", "1"));
    assert!(
        run.out.contains('\x1b'),
        "what is asked for explicitly wins: {run}"
    );
}

#[test]
fn errors_are_plain_on_a_pipe() {
    let space = space();
    space.edit("uses = \"command\"", "uses = \"comand\"");
    let run = plain(&space, &["build"]);
    assert_eq!((run.code, run.out.as_str()), (Some(3), ""), "{run}");
    assert!(run.err.contains("there is no kind 'comand'"), "{run}");
}

#[test]
fn tables_and_lines_fit_80_columns() {
    let space = space();
    let fits = |run: Run| {
        for line in run.out.lines().chain(run.err.lines()) {
            assert!(line.chars().count() <= 80, "{line}\nin {run}");
        }
    };
    fits(space.retune(&["plan"]));
    fits(space.retune(&["build"]));
    fits(space.retune(&["plan"]));
    space.edit(
        "cp ${inputs.text} ${outputs.text} &&",
        "cp -f ${inputs.text} ${outputs.text} &&",
    );
    // A plan says reasons in full; what happens in a build is one line.
    fits(space.retune(&["build"]));
    fits(space.retune(&["--help"]));
    fits(space.retune(&["build", "--help"]));
    fits(space.retune(&["kinds"]));
}

#[test]
fn events_are_json_lines_in_the_documented_shape() {
    let space = space();
    let run = space.built(&[]);
    let kinds: Vec<&str> = run
        .events
        .iter()
        .map(|e| e["event"].as_str().unwrap())
        .collect();
    assert_eq!(kinds.first(), Some(&"run-started"));
    assert_eq!(kinds.last(), Some(&"run-finished"));
    let of_first = run.events.iter().filter(|event| event["step"] == "first");
    let order: Vec<&str> = of_first
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    assert_eq!(order, ["step-decided", "step-started", "step-finished"]);
    for event in &run.events {
        let time = event["time"].as_str().unwrap();
        assert!(
            time.len() == 24 && time.ends_with('Z') && time.contains('T'),
            "{event}"
        );
    }
    let started = run.of_kind("run-started")[0];
    assert_eq!(
        (&started["pipeline"], &started["steps"]),
        (&"main".into(), &2.into())
    );
    let finished = run.of_kind("step-finished")[0];
    assert_eq!(finished["key"].as_str().unwrap().len(), 64);
    assert!(
        finished["seconds"].is_f64() && finished["facts"].is_object(),
        "{finished}"
    );
    for number in [
        "up_to_date",
        "restored",
        "ran",
        "failed",
        "skipped",
        "cancelled",
    ] {
        run.total(number);
    }
}

#[test]
fn events_may_go_to_standard_output() {
    let space = space();
    let run = space.retune(&["build", "--events", "-"]);
    let lines = run
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert!(lines.count() > 4, "{run}");
}

#[test]
fn events_that_cannot_be_written_are_said() {
    let space = space();
    let run = space.retune(&["build", "--events", "no/such/folder/events"]);
    assert_eq!(run.code, Some(5), "{run}");
    assert!(
        run.err
            .starts_with("error: failed to create no/such/folder/events"),
        "{run}"
    );
    assert_eq!(space.ran().len(), 0, "and nothing is begun");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let space = space();
    for arguments in [
        &["schema"][..],
        &["plan"],
        &["graph"],
        &["kinds"],
        &["--help"],
    ] {
        let mut command = space.command(arguments);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!err.contains("panicked"), "{arguments:?}: {err}");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {err}");
    }
}

#[test]
fn a_build_without_anyone_reading_goes_on() {
    let space = space();
    let mut command = space.command(&["build"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(space.ran(), ["first"]);
    assert_eq!(space.retune(&["plan", "--check"]).code, Some(0));
}

#[test]
fn a_full_device_is_said() {
    let space = space();
    let Ok(full) = fs::File::options().write(true).open("/dev/full") else {
        return;
    };
    let mut command = space.command(&["schema"]);
    let output = command
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{err}");
    assert!(err.contains("failed to write the result"), "{err}");
}

#[test]
fn lines_appear_as_things_happen() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\nrun = 'while ! test -e OUTSIDE/go; do sleep 0.02; done'\n",
    );
    let mut command = space.command(&["build"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let seen = lines.find(|line| line.as_ref().unwrap().trim_start().starts_with("a "));
    assert!(seen.is_some(), "the step's start is told before its end");
    fs::write(space.outside("go"), "").unwrap();
    assert!(lines.any(|line| line.unwrap().contains("1 ran")));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
