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
