//! What is kept of runs and can be asked for later: the list, logs of steps, the state of everything.

mod support;

use std::fs;
use std::io::Read;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;
use support::{Space, wait_for};

const PIPELINE: &str = r#"
[steps.first]
uses = "command"
run = "echo said by first; echo first >> RUNS; cp ${inputs.text} a.txt"
inputs = { text = "data/text.txt" }
outputs = { a = "a.txt" }

[steps.second]
uses = "command"
run = "echo said by second; echo second >> RUNS; test -e OUTSIDE/good && cp ${inputs.a} b.txt"
inputs = { a = "@first" }
outputs = { b = "b.txt" }

[steps.quiet]
uses = "command"
run = "touch q"
outputs = { q = "q" }
"#;

fn space() -> Space {
    let space = Space::new(PIPELINE);
    space.write("data/text.txt", "one\n");
    fs::write(space.outside("good"), "").unwrap();
    space
}

fn runs(space: &Space) -> Vec<Value> {
    let run = space.retune(&["runs", "--json"]);
    assert_eq!(run.code, Some(0), "{run}");
    serde_json::from_str(&run.out).unwrap()
}

fn results(space: &Space) -> Vec<String> {
    let result = |run: &Value| run["result"].as_str().unwrap().to_owned();
    runs(space).iter().map(result).collect()
}

#[test]
fn runs_are_listed_the_last_one_first() {
    let space = space();
    assert_eq!(space.retune(&["runs"]).out, "");
    space.built(&[]);
    space.built(&[]);
    assert_eq!(results(&space), ["fine"], "a run that did nothing is none");
    space.write("data/text.txt", "two\n");
    fs::remove_file(space.outside("good")).unwrap();
    assert_eq!(space.build(&[]).code, Some(1));
    assert_eq!(results(&space), ["failed", "fine"]);
    let listed = space.retune(&["runs"]);
    let lines: Vec<&str> = listed.out.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    assert!(lines[0].starts_with("RUN "), "{listed}");
    assert!(lines[1].ends_with("failed  1 failed, 1 ran"), "{listed}");
    assert!(lines[2].ends_with("fine    3 ran"), "{listed}");
    assert!(
        lines.iter().all(|line| line.chars().count() <= 80),
        "{listed}"
    );
    assert_eq!(space.retune(&["runs", "-n", "1"]).out.lines().count(), 2);
    let last = &runs(&space)[0];
    assert_eq!(
        (&last["verb"], &last["pipeline"]),
        (&"build".into(), &"main".into())
    );
    assert_eq!(last["summary"]["failed"], 1);
}

#[test]
fn a_run_keeps_the_key_of_every_step() {
    let space = space();
    space.built(&[]);
    let keys = |run: usize| {
        let name = runs(&space)[run]["run"].as_str().unwrap().to_owned();
        let events = space.read(&format!("cache/runs/{name}/events.jsonl"));
        let mut keys = std::collections::BTreeMap::new();
        for line in events.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            if let (Some(step), Some(key)) = (line["step"].as_str(), line["key"].as_str()) {
                keys.insert(step.to_owned(), key.to_owned());
            }
            for pair in line["up-to-date"].as_array().into_iter().flatten() {
                let part = |i: usize| pair[i].as_str().unwrap().to_owned();
                keys.insert(part(0), part(1));
            }
        }
        keys
    };
    let before = keys(0);
    space.write("data/text.txt", "two\n");
    space.built(&[]);
    let after = keys(0);
    assert_eq!(before.len(), 3);
    assert_eq!(after["quiet"], before["quiet"], "{after:?}");
    assert_ne!(after["first"], before["first"], "{after:?}");
    let lock = space.read("pipelines/main.lock");
    assert!(
        after.values().all(|key| lock.contains(key)),
        "{lock}\n{after:?}"
    );
}

#[test]
fn a_killed_run_is_told_of_as_such() {
    let space = space();
    space.edit("echo said by first;", "echo said by first; sleep 60;");
    let running = space.start(&["build"]);
    running.wait_for("step-started", 1);
    wait_for("the run's log", || (!runs(&space).is_empty()).then_some(()));
    assert_eq!(results(&space), ["running"]);
    running.signal(Signal::KILL);
    assert_eq!(running.end().signal, Some(9));
    wait_for("the lock to be free", || {
        (results(&space) == ["killed"]).then_some(())
    });
    let name = runs(&space)[0]["run"].as_str().unwrap().to_owned();
    let path = space.path(&format!("cache/runs/{name}/events.jsonl"));
    let mut torn = fs::read(&path).unwrap();
    torn.truncate(torn.len() - 7);
    fs::write(&path, torn).unwrap();
    assert_eq!(results(&space), ["killed"]);
    assert_eq!(space.retune(&["status"]).code, Some(0));
}

#[test]
fn the_log_of_the_last_execution() {
    let space = space();
    let log = |arguments: &[&str]| {
        let run = space.retune(&[&["log"], arguments].concat());
        (run.code, run.out, run.err)
    };
    let (code, out, err) = log(&["first"]);
    assert_eq!((code, out.as_str()), (Some(4), ""));
    insta::assert_snapshot!(err, @"error: step 'first' has not run yet");
    space.built(&[]);
    space.built(&[]);
    assert_eq!(log(&["first"]).1, "said by first\n", "up to date by now");
    let (code, out, err) = log(&["quiet"]);
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (Some(0), "", "quiet printed nothing\n")
    );
    space.edit("said by second", "about to fail");
    fs::remove_file(space.outside("good")).unwrap();
    assert_eq!(space.build(&[]).code, Some(1));
    assert_eq!(log(&["second"]).1, "about to fail\n");
    assert_eq!(log(&["second", "--run", "last~1"]).1, "said by second\n");
    let (code, _, err) = log(&["first", "--run", "last"]);
    assert_eq!(code, Some(4));
    assert!(err.contains("step 'first' did not run in 20"), "{err}");
    let (code, _, err) = log(&["frist"]);
    assert_eq!(code, Some(4));
    assert!(err.contains("did you mean 'first'?"), "{err}");
    let json = log(&["second", "--json"]).1;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["end"], &json["text"]),
        (&"failed".into(), &"about to fail\n".into())
    );
}

#[test]
fn a_log_outlives_its_run() {
    let space = space();
    space.built(&[]);
    space.remove("cache/runs");
    let log = space.retune(&["log", "first"]);
    assert_eq!(
        (log.code, log.out.as_str()),
        (Some(0), "said by first\n"),
        "{log}"
    );
}

#[test]
fn a_running_step_is_followed_to_its_end() {
    let space = space();
    space.edit(
        "echo said by first;",
        "echo one; until test -e OUTSIDE/go; do sleep 0.02; done; echo two;",
    );
    let running = space.start(&["build"]);
    running.wait_for("step-started", 1);
    let mut command = space.command(&["log", "-f", "first"]);
    let mut follow = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = follow.stdout.take().unwrap();
    let mut seen = [0; 4];
    out.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"one\n", "before the step ends");
    fs::write(space.outside("go"), "").unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "two\n");
    assert!(follow.wait().unwrap().success());
    assert_eq!(running.end().code, Some(0));
    let log = space.retune(&["log", "-f", "first"]);
    assert_eq!(log.out, "one\ntwo\n", "what has ended is printed: {log}");
}

#[test]
fn a_step_is_followed_through_its_attempts() {
    let space = space();
    // The second attempt is over before anybody can look.
    space.edit(
        "echo said by first;",
        "n=$(ls -d OUTSIDE/try* 2>/dev/null | wc -l); mkdir OUTSIDE/try$n; echo attempt $n; \
         test $n != 0 || until test -e OUTSIDE/go; do sleep 0.02; done; test $n = 2 || exit 3;",
    );
    space.edit(
        "[steps.first]",
        "[steps.first]\nretry = { times = 2, wait = '20ms' }",
    );
    let running = space.start(&["build", "first"]);
    running.wait_for("step-started", 1);
    let mut command = space.command(&["log", "-f", "first"]);
    let mut follow = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = follow.stdout.take().unwrap();
    let mut seen = [0; 10];
    out.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"attempt 0\n", "before the first attempt ends");
    fs::write(space.outside("go"), "").unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "attempt 1\nattempt 2\n");
    assert!(follow.wait().unwrap().success());
    assert_eq!(running.end().code, Some(0));
}

#[test]
fn a_build_that_is_refused_leaves_no_run() {
    let space = space();
    space.edit("[steps.first]", "[steps.first]\nresources = { gpus = 4 }");
    let run = space.retune(&["build", "--gpus", "0"]);
    assert!(
        run.code != Some(0) && run.err.contains("nothing was run"),
        "{run}"
    );
    assert_eq!(runs(&space).len(), 0);
}

#[test]
fn the_state_of_everything() {
    let space = space();
    let status = || {
        let run = space.retune(&["status"]);
        assert_eq!(run.code, Some(0), "{run}");
        assert!(
            run.out.lines().all(|line| line.chars().count() <= 80),
            "{run}"
        );
        // Times and names of runs differ.
        let line = |line: &str| match line.starts_with("last run  20") {
            true => format!("last run  RUN{}", &line[line.find(": ").unwrap()..]),
            false => line.to_owned(),
        };
        let shown: Vec<String> = run.out.lines().map(line).collect();
        shown.join("\n")
    };
    insta::assert_snapshot!(status(), @"
    pipeline  main: 3 steps
    steps     3 to run
    last run  none
    store     0 results, 0 B of outputs
    ");
    fs::remove_file(space.outside("good")).unwrap();
    space.build(&[]);
    let failed = status();
    assert!(
        failed.contains("\nfailed    second when last run\n"),
        "{failed}"
    );
    assert!(
        failed.contains("\nlast run  RUN: build failed after 0"),
        "{failed}"
    );
    fs::write(space.outside("good"), "").unwrap();
    space.built(&[]);
    let fine = status();
    assert!(fine.contains("\nsteps     3 up to date\n"), "{fine}");
    assert!(
        fine.ends_with("\nstore     3 results, 4 B of outputs"),
        "{fine}"
    );
}

#[test]
fn the_state_while_a_build_runs() {
    let space = space();
    space.edit(
        "echo said by first;",
        "until test -e OUTSIDE/go; do sleep 0.02; done;",
    );
    let running = space.start(&["build", "-j1", "first"]);
    running.wait_for("step-started", 1);
    let status = || -> Value {
        let run = space.retune(&["status", "--json"]);
        serde_json::from_str(&run.out).unwrap_or_else(|e| panic!("{e}: {run}"))
    };
    let status = wait_for("a running step", || {
        let status = status();
        status["running"].get(0).is_some().then_some(status)
    });
    assert_eq!(status["running"][0]["step"], "first");
    assert!(
        status["building"].as_str().unwrap().contains("at 'main'"),
        "{status}"
    );
    assert_eq!(status["unfinished"], Value::Array(Vec::new()));
    let drawn = space.retune(&["graph", "--format", "svg"]).out;
    assert!(drawn.contains("class=\"step running"), "{drawn}");
    fs::write(space.outside("go"), "").unwrap();
    assert_eq!(running.end().code, Some(0));
}
