//! How results came to be: records, results that are not reproducible, and what differs between runs.

mod support;

use std::process::Command;

use serde_json::Value;
use support::{Run, Space};

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

/// A step on a folder.
const FOLDER: &str = "[steps.a]\nuses = 'command'\n\
    run = 'cat ${inputs.data}/*.txt | sort > out.txt'\n\
    inputs = { data = 'data/app' }\noutputs = { text = 'out.txt' }\n";

#[test]
fn a_folder_that_differs_is_explained_down_to_its_files() {
    let space = Space::new(FOLDER);
    for n in 0..30 {
        space.write(&format!("data/app/{n:02}.txt"), &format!("{n}\n"));
    }
    space.write("data/app/sub/deep", "deep\n");
    space.built(&[]);
    space.write("data/app/03.txt", "other\n");
    space.write("data/app/sub/deep", "deeper\n");
    space.write("data/app/new.txt", "new\n");
    space.remove("data/app/29.txt");
    space.built(&[]);
    let run = space.retune(&["diff", "last~1", "last"]);
    let data: String = run.out.split_inclusive('\n').skip(3).take(5).collect();
    let short = |line: &str| match line.rsplit_once(": ") {
        Some((file, change)) if change.contains('→') => format!("{file}: A → B\n"),
        _ => line.to_owned(),
    };
    let data: String = data.split_inclusive('\n').map(short).collect();
    assert_eq!(
        data,
        "      2 of 31 files changed: 03.txt, sub/deep (+1 added, 1 removed)\n        \
         03.txt: A → B\n        sub/deep: A → B\n        new.txt: added\n        \
         29.txt: removed\n",
        "{run}"
    );
    let found = diff(&space, &["last~1", "last"]);
    let files = &found["steps"][0]["data"][0]["files"];
    assert_eq!(files["files"].as_array().unwrap().len(), 4, "{found:#}");
    // All of many are in the JSON, and ten on the screen.
    for n in 0..20 {
        space.write(&format!("data/app/{n:02}.txt"), "another\n");
    }
    space.built(&[]);
    let run = space.retune(&["diff", "last~1", "last"]);
    let more = "        and 10 more files (--json has all)\n";
    assert!(run.out.contains(more), "{run}");
    let found = diff(&space, &["last~1", "last"]);
    let files = &found["steps"][0]["data"][0]["files"];
    assert_eq!(files["files"].as_array().unwrap().len(), 20, "{found:#}");
    // Without a listing only the digests are known, and that is said.
    for object in support::files(&space.path("cache/objects")) {
        if std::fs::read(&object)
            .unwrap()
            .starts_with(b"retune listing")
        {
            std::fs::remove_file(object).unwrap();
        }
    }
    let run = space.retune(&["diff", "last~1", "last"]);
    let note = "      neither content is listed in the store any more\n";
    assert!(run.out.contains(note), "{run}");
}

#[test]
fn a_key_that_ran_again_is_compared_with_its_own_first_result() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\nrun = 'wc -l < OUTSIDE/times > n.txt'\n\
         outputs = { n = 'n.txt' }\n",
    );
    std::fs::write(space.outside("times"), "1\n").unwrap();
    space.built(&[]);
    std::fs::write(space.outside("times"), "1\n2\n").unwrap();
    space.built(&["--force", "a"]);
    let found = diff(&space, &["last~1", "last"]);
    let step = &found["steps"][0];
    assert_eq!(step["change"], "not-reproducible", "{found:#}");
    assert_eq!(step["outputs"][0]["path"], "n.txt");
    let run = space.retune(&["diff", "last~1", "last"]);
    assert!(run.out.contains("the same key, other outputs\n"), "{run}");
    // When the first record is gone, the second is not passed off for it.
    let first = space
        .records("a")
        .iter()
        .map(|record| record["run"].as_str().unwrap().to_owned())
        .min();
    let first = first.unwrap();
    for object in support::files(&space.path("cache/objects")) {
        let text = std::fs::read_to_string(&object).unwrap_or_default();
        if text.starts_with('{') && text.contains(&first) {
            std::fs::remove_file(object).unwrap();
        }
    }
    let run = space.retune(&["diff", "last~1", "last"]);
    let unknown = "a  the same key; its outputs are not known\n    note: ";
    assert!(run.out.contains(unknown), "{run}");
    assert!(run.out.contains("it ran again in "), "{run}");
    assert!(run.out.ends_with("\n0 steps the same\n"), "{run}");
}

fn git(space: &Space, arguments: &[&str]) {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(space.path("."));
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "Somebody");
        command.env(format!("GIT_{who}_EMAIL"), "somebody@example.org");
    }
    let run = Run::of(&mut command);
    assert_eq!(run.code, Some(0), "git {arguments:?}: {run}");
}

#[test]
fn revisions_can_be_compared_with_the_data_they_had() {
    let space = Space::new(MEASURED);
    space.write(".gitignore", "/cache/\n");
    git(&space, &["init", "-q", "-b", "main"]);
    for rows in [
        "{\"a\":1}\n{\"a\":2}\n",
        "{\"a\":1}\n{\"a\":3}\n{\"a\":4}\n",
    ] {
        space.write("data/rows.jsonl", rows);
        // The record names the commit that has the data.
        git(&space, &["add", "."]);
        git(&space, &["commit", "-q", "-m", "data"]);
        space.built(&[]);
        git(&space, &["add", "."]);
        git(&space, &["commit", "-q", "-m", "built"]);
    }
    let found = diff(&space, &["HEAD~2", "HEAD"]);
    assert_eq!(found["old"]["kind"], "commit", "{found:#}");
    assert_eq!(found["same"], 1, "{found:#}");
    let data = &found["steps"][1]["data"][0];
    assert_eq!(data["from"], "data/rows.jsonl", "{found:#}");
    let rows = ["old", "new", "added", "removed"].map(|n| data["rows"][n].as_u64());
    assert_eq!(rows, [Some(2), Some(3), Some(2), Some(1)], "{found:#}");
    // A revision and a lock file.
    let found = diff(&space, &["HEAD", "pipelines/main.lock"]);
    assert_eq!(found["steps"].as_array().unwrap().len(), 0, "{found:#}");
}

#[test]
fn long_settings_fit_on_a_screen_and_show_where_they_differ() {
    let words: String = (0..30).map(|n| format!("word{n} ")).collect();
    let space = Space::new(&format!(
        "[steps.a]\nuses = 'command'\nrun = 'echo {words}end > out.txt'\n\
         outputs = {{ text = 'out.txt' }}\n"
    ));
    space.built(&[]);
    space.edit("end >", "finish >");
    space.built(&[]);
    let run = space.retune(&["diff", "last~1", "last"]);
    assert!(run.out.contains("    /params/run:\n      - …"), "{run}");
    assert!(run.out.contains("word29 end > out.txt"), "{run}");
    assert!(run.out.contains("word29 finish > out.txt"), "{run}");
    for line in run.out.lines().filter(|line| !line.contains("output ")) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}
