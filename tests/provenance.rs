//! How results came to be: records, results that are not reproducible, and what differs between runs.

mod support;

use serde_json::Value;
use support::Space;

// record

#[test]
fn a_record_says_how_a_result_came_to_be() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\nrun = 'echo $WHO; cp ${inputs.text} out.txt'\n\
         inputs = { text = 'data/text.txt' }\noutputs = { text = 'out.txt' }\nenv = ['WHO']\n",
    );
    space.write("data/text.txt", "hello\n");
    let run = space.retune(&["record", "a"]);
    assert_eq!(run.code, Some(5), "{run}");
    assert!(run.err.contains("hint: build it: retune build a"), "{run}");
    let built = space.build_with(&[], |command| {
        command.env("WHO", "me");
    });
    assert_eq!(built.code, Some(0), "{built}");
    let run = space.retune(&["record", "a"]);
    assert_eq!(run.code, Some(0), "{run}");
    for part in [
        "a (command 1)\n",
        "  run   ",
        "pipeline file\n",
        "\nvariables\n  WHO  me\n",
        "inputs[text]  ",
        "  data/text.txt\n",
        "\noutputs\n  out.txt  ",
        "  6 bytes\n",
        "machine.architecture",
    ] {
        assert!(run.out.contains(part), "{part:?} is not in\n{run}");
    }
    let run = space.retune(&["record", "a", "--json"]);
    let records: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(records[0]["manifest"]["environment"]["WHO"], "me");
    assert_eq!(records[0], space.records("a")[0]);
}

// not reproducible

#[test]
fn a_result_that_differs_from_the_one_before_is_told_and_named() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\n\
         run = 'date +%s%N > now.txt; echo x > same.txt'\n\
         outputs = { now = 'now.txt', same = 'same.txt' }\n",
    );
    space.built(&[]);
    let run = space.built(&["--force", "a", "-q"]);
    let told = run.of_kind("not-reproducible");
    assert_eq!(
        told.len(),
        1,
        "once, though the lock file says the same: {run}"
    );
    assert_eq!(
        (&told[0]["step"], &told[0]["known"]),
        (&"a".into(), &"store".into())
    );
    let outputs = told[0]["outputs"].as_array().unwrap();
    assert_eq!(outputs.len(), 1, "{outputs:?}");
    assert_eq!(outputs[0]["path"], "now.txt");
    assert!(
        run.err.contains("not reproducible: a gave other outputs"),
        "quiet, too: {run}"
    );
}

#[test]
fn a_lock_file_with_another_result_for_the_same_key_is_not_silently_rewritten() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\nrun = 'date +%s%N > now.txt'\n\
         outputs = { now = 'now.txt' }\n",
    );
    space.built(&[]);
    let theirs = space.read("pipelines/main.lock");
    // Somebody else builds the same and commits the lock file.
    space.remove("cache");
    let run = space.built(&[]);
    let told = run.of_kind("not-reproducible");
    assert_eq!(told.len(), 1, "{run}");
    assert_eq!(
        (&told[0]["step"], &told[0]["known"]),
        (&"a".into(), &"lock".into())
    );
    let known = told[0]["outputs"][0]["known"].as_str().unwrap();
    assert!(theirs.contains(known), "{known}");
    // Found in place, which runs nothing, is no reason to be silent either.
    space.write("pipelines/main.lock", &theirs);
    let run = space.built(&[]);
    assert_eq!(run.of_kind("not-reproducible").len(), 1, "{run}");
    assert_eq!(space.built(&[]).of_kind("not-reproducible").len(), 0);
    // Another key gives other outputs by right.
    space.edit("date", "true; date");
    assert_eq!(space.built(&[]).of_kind("not-reproducible").len(), 0);
}

// diff

/// Rows are selected, and then measured.
const MEASURED: &str = r#"
[params]
n = 2
[steps.rows]
uses = "command"
run = "head -n ${params.n} ${inputs.rows} > rows.jsonl"
inputs = { rows = "data/rows.jsonl" }
outputs = { rows = "rows.jsonl" }
[steps.metrics]
uses = "command"
run = '''echo "{\"rows\": $(wc -l < ${inputs.rows})}" > metrics.json'''
inputs = { rows = "@rows" }
outputs = { metrics = "metrics.json" }
[steps.steady]
uses = "command"
run = "echo x > x"
outputs = { x = "x" }
"#;

fn diff(space: &Space, arguments: &[&str]) -> Value {
    let run = space.retune(&[&["diff", "--json"], arguments].concat());
    assert_eq!(run.code, Some(0), "{run}");
    serde_json::from_str(&run.out).unwrap()
}

#[test]
fn two_runs_differ_by_a_parameter_and_what_comes_of_it() {
    let space = Space::new(MEASURED);
    space.write("data/rows.jsonl", "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
    space.built(&[]);
    space.built(&["--set", "params.n=3"]);
    let found = diff(&space, &["last~1", "last"]);
    assert_eq!(found["same"], 1, "{found:#}");
    let [metrics, rows] = &found["steps"].as_array().unwrap()[..] else {
        panic!("{found:#}");
    };
    assert_eq!(rows["change"], "changed");
    assert_eq!(rows["settings"][0]["path"], "/params/run");
    assert_eq!(rows["outputs"][0]["differences"][0]["added"], 1);
    assert_eq!(metrics["settings"].as_array().unwrap().len(), 0);
    let data = &metrics["data"][0];
    assert_eq!(
        (&data["from"], &data["rows"]["added"]),
        (&"@rows.rows".into(), &1.into())
    );
    let change = &metrics["outputs"][0]["differences"][0]["changes"][0];
    assert_eq!(
        (&change["path"], &change["old"], &change["new"]),
        (&"/rows".into(), &2.into(), &3.into())
    );
    let run = space.retune(&["diff", "last~1", "last"]);
    assert!(run.out.contains("/rows: 2 → 3\n"), "{run}");
    assert!(
        run.out.contains("rows 2 → 3: 1 added, 0 removed\n"),
        "{run}"
    );
    assert!(run.out.ends_with("1 step the same\n"), "{run}");
}

#[test]
fn lock_files_can_be_compared_and_unknown_names_are_refused() {
    let space = Space::new(MEASURED);
    space.write("data/rows.jsonl", "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
    space.built(&[]);
    let lock = space.read("pipelines/main.lock");
    space.write("old.lock", &lock);
    space.write("data/rows.jsonl", "{\"a\":0}\n{\"a\":2}\n{\"a\":3}\n");
    space.built(&[]);
    let found = diff(&space, &["old.lock", "pipelines/main.lock"]);
    assert_eq!(
        (&found["old"]["kind"], &found["same"]),
        (&"lock".into(), &1.into()),
        "{found:#}"
    );
    let data = &found["steps"][1]["data"][0];
    assert_eq!(data["from"], "data/rows.jsonl");
    assert_eq!(data["rows"], Value::Null, "the old content is nowhere");
    let note = data["note"].as_str();
    assert_eq!(note, Some("the old content is not to be had any more"));
    assert_eq!(
        diff(&space, &["last", "last"])["steps"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    let run = space.retune(&["diff", "nothing-like-that", "last"]);
    assert!(
        run.code != Some(0) && run.err.contains("'nothing-like-that'"),
        "{run}"
    );
}
