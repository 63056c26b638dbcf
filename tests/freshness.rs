//! What reruns a step and what does not: one test for each rule, through the real program.

mod support;

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use support::Space;

/// `left` and `right` read a file each, `join` reads both of them, `end` reads `join`.
const PIPELINE: &str = r#"
[pipeline]
description = "two branches and what joins them"

[params]
greeting = "hello"
unused = 1

[steps.left]
uses = "command"
run = "echo left >> RUNS; cat ${inputs.text} > ${outputs.text}; echo z $MARK${MARK+!} >> ${outputs.text}"
inputs = { text = "data/left.txt" }
outputs = { text = "left.txt" }
env = ["MARK"]

[steps.right]
uses = "command"
run = "echo right >> RUNS; (echo ${params.greeting}; cat ${inputs.text}) > ${outputs.text}"
inputs = { text = "data/right.txt" }
outputs = { text = "right.txt" }

[steps.join]
uses = "command"
run = "echo join >> RUNS; cat ${inputs.left} ${inputs.right} | sort | head -n 1 > ${outputs.text}"
inputs = { left = "@left", right = "@right" }
outputs = { text = "join.txt" }

[steps.end]
uses = "command"
run = "echo end >> RUNS; cp ${inputs.text} ${outputs.text}"
inputs = { text = "@join" }
outputs = { text = "end.txt" }
"#;

const NOTHING: [&str; 0] = [];
const LEFT: &str = "cache/out/main/left/left.txt";
const END: &str = "cache/out/main/end/end.txt";

/// The project, built once.
fn space() -> Space {
    let space = Space::new(PIPELINE);
    space.write("data/left.txt", "l\n");
    space.write("data/right.txt", "r\n");
    assert_eq!(space.rerun(), ["end", "join", "left", "right"]);
    assert_eq!(space.rerun(), NOTHING, "a second build has nothing to do");
    space
}

/// A project with one step that reads `inputs`, built once.
fn reader(inputs: &str) -> Space {
    let space = Space::new(&format!(
        r#"
        [steps.list]
        uses = "command"
        run = "echo list >> RUNS; echo done > ${{outputs.text}}"
        inputs = {inputs}
        outputs = {{ text = "list.txt" }}
        "#
    ));
    space.write("data/a.txt", "a\n");
    space.write("data/b.txt", "b\n");
    assert_eq!(space.rerun(), ["list"]);
    assert_eq!(space.rerun(), NOTHING);
    space
}

// What is part of a key

#[test]
fn the_content_of_an_input_is_part_of_the_key() {
    let space = space();
    space.write("data/left.txt", "k\n");
    let run = space.built(&[]);
    // join's first line stays the same: `end` has nothing to do.
    assert_eq!(space.ran(), ["join", "left"]);
    let reasons = run.reasons("left");
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert_eq!(reasons[0]["reason"], "input");
    assert_eq!(reasons[0]["port"], "inputs[text]");
    assert_ne!(reasons[0]["old"], reasons[0]["new"]);
}

#[test]
fn the_value_of_a_parameter_is_part_of_the_key() {
    let space = Space::new(
        r#"
        [steps.a]
        uses = "command"
        run = ["sh", "-c", "echo a >> RUNS; echo one > a.txt"]
        outputs = { text = "a.txt" }
        "#,
    );
    assert_eq!(space.rerun(), ["a"]);
    space.edit("echo one", "echo two");
    let run = space.built(&[]);
    assert_eq!(space.ran(), ["a"]);
    let reason = &run.reasons("a")[0];
    assert_eq!(
        (&reason["reason"], &reason["name"]),
        (&json!("param"), &json!("run"))
    );
    assert_eq!(space.read("cache/out/main/a/a.txt"), "two\n");
}

#[test]
fn the_text_of_a_command_is_part_of_the_key() {
    let space = space();
    space.edit("cp ${inputs.text}", "cp  ${inputs.text}");
    assert_eq!(space.rerun(), ["end"]);
}

#[test]
fn a_referenced_parameter_is_part_of_the_key() {
    let space = space();
    space.edit("greeting = \"hello\"", "greeting = \"good day\"");
    let run = space.built(&[]);
    assert_eq!(space.ran(), ["end", "join", "right"]);
    assert_eq!(run.total("up_to_date"), 1);
    assert_eq!(space.read(END), "good day\n".to_owned());
}

#[test]
fn the_declared_outputs_are_part_of_the_key() {
    let space = space();
    space.edit(r#"{ text = "end.txt" }"#, r#"{ text = "last.txt" }"#);
    assert_eq!(space.rerun(), ["end"]);
    assert_eq!(space.read("cache/out/main/end/last.txt"), "hello\n");
}

#[test]
fn a_declared_environment_variable_is_part_of_the_key() {
    let space = space();
    let run = space.build_with(&[], |command| {
        command.env("MARK", "x");
    });
    assert_eq!(space.ran(), ["join", "left"]);
    let reason = json!({"reason": "environment", "name": "MARK", "old": null, "new": "x"});
    assert_eq!(run.reasons("left"), [reason]);
    let again = space.build_with(&[], |command| {
        command.env("MARK", "x");
    });
    assert_eq!((again.code, space.ran().len()), (Some(0), 0));
    space.build_with(&[], |command| {
        command.env("MARK", "y");
    });
    assert_eq!(space.ran(), ["join", "left"]);
}

#[test]
fn an_empty_variable_is_not_an_unset_one() {
    let space = space();
    let run = space.build_with(&[], |command| {
        command.env("MARK", "");
    });
    assert_eq!(space.ran(), ["join", "left"], "{run}");
}

#[test]
fn the_names_of_declared_variables_are_part_of_the_key() {
    let space = space();
    space.edit(r#"env = ["MARK"]"#, r#"env = ["MARK", "OTHER"]"#);
    assert_eq!(space.rerun(), ["left"]);
}

#[test]
fn an_added_input_is_part_of_the_key() {
    let space = reader(r#"{ a = "data/a.txt" }"#);
    space.edit(
        r#"{ a = "data/a.txt" }"#,
        r#"{ a = "data/a.txt", b = "data/b.txt" }"#,
    );
    let run = space.built(&[]);
    assert_eq!(space.ran(), ["list"]);
    let reason = &run.reasons("list")[0];
    assert_eq!(
        (&reason["port"], &reason["old"]),
        (&json!("inputs[b]"), &Value::Null)
    );
}

#[test]
fn a_removed_input_is_part_of_the_key() {
    let space = reader(r#"{ a = "data/a.txt", b = "data/b.txt" }"#);
    space.edit(
        r#"{ a = "data/a.txt", b = "data/b.txt" }"#,
        r#"{ a = "data/a.txt" }"#,
    );
    let run = space.built(&[]);
    assert_eq!(space.ran(), ["list"]);
    let reason = &run.reasons("list")[0];
    assert_eq!(
        (&reason["port"], &reason["new"]),
        (&json!("inputs[b]"), &Value::Null)
    );
}

#[test]
fn the_label_of_an_input_is_part_of_the_key() {
    let space = reader(r#"{ a = "data/a.txt" }"#);
    space.edit(r#"{ a = "data/a.txt" }"#, r#"{ other = "data/a.txt" }"#);
    assert_eq!(space.rerun(), ["list"]);
}

#[test]
fn swapped_inputs_are_another_key() {
    let space = reader(r#"{ a = "data/a.txt", b = "data/b.txt" }"#);
    space.edit(
        r#"{ a = "data/a.txt", b = "data/b.txt" }"#,
        r#"{ a = "data/b.txt", b = "data/a.txt" }"#,
    );
    assert_eq!(space.rerun(), ["list"]);
}

#[test]
fn a_file_added_to_an_input_folder_is_part_of_the_key() {
    let space = reader(r#"{ folder = "data" }"#);
    space.write("data/deep/new.txt", "new\n");
    assert_eq!(space.rerun(), ["list"]);
    space.write("data/deep/new.txt", "newer\n");
    assert_eq!(space.rerun(), ["list"]);
    fs::rename(
        space.path("data/deep/new.txt"),
        space.path("data/deep/renamed.txt"),
    )
    .unwrap();
    assert_eq!(space.rerun(), ["list"], "names in a folder are content");
}

#[test]
fn a_file_removed_from_an_input_folder_restores_the_older_result() {
    let space = reader(r#"{ folder = "data" }"#);
    space.write("data/new.txt", "new\n");
    assert_eq!(space.rerun(), ["list"]);
    space.remove("data/new.txt");
    let run = space.built(&[]);
    assert_eq!(
        (space.ran().len(), run.steps("step-restored")),
        (0, vec!["list"])
    );
}

#[test]
fn a_file_that_a_glob_gains_or_loses_is_part_of_the_key() {
    let space = Space::new(
        r#"
        [steps.rows]
        uses = "data.import"
        files = ["data/*.jsonl"]
        schema = "text"
        "#,
    );
    let row = |text: &str| format!("{{\"text\":\"{text}\"}}\n");
    space.write("data/a.jsonl", &row("a"));
    space.write("data/b.jsonl", &row("b"));
    let first = space.build(&[]);
    assert_eq!(first.steps("step-finished"), ["rows"], "{first}");
    space.write("data/other.txt", "not matched\n");
    assert_eq!(space.built(&[]).total("up_to_date"), 1);
    space.write("data/c.jsonl", &row("c"));
    assert_eq!(space.built(&[]).steps("step-finished"), ["rows"]);
    space.remove("data/a.jsonl");
    assert_eq!(space.built(&[]).steps("step-finished"), ["rows"]);
}

#[test]
fn the_executable_bit_of_an_input_is_part_of_the_key() {
    use std::os::unix::fs::PermissionsExt;
    let space = reader(r#"{ a = "data/a.txt" }"#);
    let mode =
        |mode| fs::set_permissions(space.path("data/a.txt"), fs::Permissions::from_mode(mode));
    mode(0o755).unwrap();
    assert_eq!(space.rerun(), ["list"]);
    mode(0o700).unwrap();
    assert_eq!(space.rerun(), NOTHING, "who else may read it is not");
}

#[test]
fn a_same_size_edit_with_its_time_put_back_is_noticed() {
    let space = reader(r#"{ a = "data/a.txt" }"#);
    let path = space.path("data/a.txt");
    let modified = || fs::metadata(&path).unwrap().modified().unwrap();
    let before = modified();
    let file = fs::File::options().write(true).open(&path).unwrap();
    std::io::Write::write_all(&mut &file, b"z").unwrap();
    file.set_modified(before).unwrap();
    drop(file);
    assert_eq!(
        (modified(), space.read("data/a.txt")),
        (before, "z\n".to_owned())
    );
    assert_eq!(space.rerun(), ["list"]);
}

#[test]
fn an_input_edited_right_after_a_build_is_noticed() {
    let space = reader(r#"{ a = "data/a.txt" }"#);
    for i in 0..5 {
        // In place, the same size, as soon as the build is over.
        fs::write(space.path("data/a.txt"), format!("{i}\n")).unwrap();
        assert_eq!(space.rerun(), ["list"], "edit {i}");
    }
}

// What is not

#[test]
fn comments_and_white_space_are_not_part_of_a_key() {
    let space = space();
    space.edit(
        "[steps.left]",
        "# a comment\n\n  [ steps . left ]  # another\n",
    );
    assert_eq!(space.rerun(), NOTHING);
}

#[test]
fn the_way_a_value_is_written_is_not_part_of_a_key() {
    let space = space();
    space.edit(r#"inputs = { text = "@join" }"#, "inputs.text = '@join'");
    space.edit(
        r#"outputs = { text = "end.txt" }"#,
        "[steps.end.outputs]\ntext = \"\\u0065nd.txt\"",
    );
    assert_eq!(space.rerun(), NOTHING);
}

#[test]
fn the_order_of_keys_is_not_part_of_a_key() {
    let space = space();
    space.edit(
        r#"left = "@left", right = "@right""#,
        r#"right = "@right", left = "@left""#,
    );
    space.edit("uses = \"command\"\n", "");
    let text = space.read("pipelines/main.toml");
    let text = text.replace("outputs = ", "uses = \"command\"\noutputs = ");
    space.pipeline(&text);
    assert_eq!(space.rerun(), NOTHING);
}

#[test]
fn the_order_of_steps_is_not_part_of_a_key() {
    let space = space();
    let text = space.read("pipelines/main.toml");
    let mut parts: Vec<&str> = text.split("[steps.").collect();
    parts[1..].reverse();
    space.pipeline(&parts.join("\n[steps."));
    assert_eq!(space.rerun(), NOTHING);
}

#[test]
fn descriptions_are_not_part_of_a_key() {
    let space = space();
    space.edit("two branches and what joins them", "something else");
    space.edit(
        "[steps.left]",
        "[steps.left]\ndescription = \"the left one\"",
    );
    assert_eq!(space.rerun(), NOTHING);
}

#[test]
fn parameters_that_no_step_refers_to_are_not_part_of_a_key() {
    let space = space();
    space.edit("unused = 1", "unused = 2\nmore = \"x\"");
    assert_eq!(space.rerun(), NOTHING);
}

#[test]
fn the_name_of_a_parameter_is_not_part_of_a_key() {
    let space = space();
    space.edit("greeting", "salute");
    assert_eq!(space.rerun(), NOTHING);
}

#[test]
fn undeclared_variables_are_not_part_of_a_key_and_not_seen() {
    let space = space();
    let run = space.build_with(&["--force", "left"], |command| {
        command
            .env("UNDECLARED", "x")
            .env("TZ", "Asia/Tokyo")
            .env("LANG", "de_DE.UTF-8");
    });
    assert_eq!(space.ran(), ["left"], "{run}");
    assert_eq!(run.of_kind("step-finished")[0]["unchanged"], true);
}

#[test]
fn locale_and_time_zone_are_not_part_of_a_key() {
    let space = space();
    space.build_with(&[], |command| {
        command
            .env("TZ", "Asia/Tokyo")
            .env("LANG", "tr_TR.UTF-8")
            .env("LC_ALL", "C");
    });
    assert_eq!(space.ran(), NOTHING);
}

#[test]
fn a_step_sees_the_same_locale_and_time_zone_everywhere() {
    let space = Space::new(
        r#"
        [steps.env]
        uses = "command"
        run = "env | grep -v -e ^TMPDIR= -e ^PWD= -e ^OLDPWD= -e ^_= -e ^SHLVL= | sort > env.txt"
        outputs = { env = "env.txt" }
        "#,
    );
    let build = |zone, language| {
        let prepare = |command: &mut std::process::Command| {
            command
                .env("TZ", zone)
                .env("LANG", language)
                .env("LC_ALL", language);
        };
        let run = space.build_with(&["--force", "env"], prepare);
        assert_eq!(run.code, Some(0), "{run}");
        space.read("cache/out/main/env/env.txt")
    };
    let here = build("UTC", "C");
    assert_eq!(here, build("Asia/Tokyo", "tr_TR.UTF-8"));
    assert!(
        here.contains("LANG=C.UTF-8\n") && here.contains("TZ=UTC\n"),
        "{here}"
    );
}

#[test]
fn the_times_of_inputs_are_not_part_of_a_key() {
    let space = space();
    let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for path in ["data/left.txt", "data/right.txt", "pipelines/main.toml"] {
        let file = fs::File::options()
            .append(true)
            .open(space.path(path))
            .unwrap();
        file.set_modified(long_ago).unwrap();
    }
    assert_eq!(space.rerun(), NOTHING);
}

#[test]
fn the_same_content_written_again_is_no_change() {
    let space = space();
    space.write("data/left.txt", "l\n");
    assert_eq!(space.rerun(), NOTHING);
}

#[test]
fn another_folder_with_the_same_file_is_no_change_for_a_labelled_input() {
    let space = space();
    space.write("other/left.txt", "l\n");
    space.edit("data/left.txt", "other/left.txt");
    assert_eq!(space.rerun(), NOTHING);
}

#[test]
fn the_number_of_jobs_is_not_part_of_a_key() {
    let space = space();
    for jobs in ["-j1", "-j7"] {
        space.built(&[jobs]);
        assert_eq!(space.ran(), NOTHING);
    }
}

#[test]
fn the_number_of_threads_is_not_part_of_a_key() {
    let space = space();
    space.build_with(&[], |command| {
        command.env("RAYON_NUM_THREADS", "1");
    });
    assert_eq!(space.ran(), NOTHING);
}

#[test]
fn the_folder_of_the_project_is_not_part_of_a_key() {
    let mut space = space();
    space.move_to("somewhere/else");
    assert_eq!(space.rerun(), NOTHING);
}

#[test]
fn the_current_folder_is_not_part_of_a_key() {
    let space = space();
    let project = space.path("");
    let run = space.build_with(&["-C", project.to_str().unwrap()], |command| {
        command.current_dir("/");
    });
    assert_eq!((run.code, space.ran().len()), (Some(0), 0), "{run}");
}

#[test]
fn the_name_of_a_step_is_not_part_of_the_keys_of_its_readers() {
    let space = space();
    space.edit("[steps.left]", "[steps.west]");
    space.edit("\"@left\"", "\"@west\"");
    let run = space.built(&[]);
    assert_eq!(space.ran(), NOTHING, "the result is known under its key");
    assert_eq!(run.steps("step-restored"), ["west"]);
    assert_eq!(space.read("cache/out/main/west/left.txt"), "l\nz\n");
}

#[test]
fn the_place_of_the_outputs_is_not_part_of_a_key() {
    let space = space();
    space.edit("[steps.end]", "[steps.end]\nout = \"release\"");
    let run = space.built(&[]);
    assert_eq!(
        (space.ran().len(), run.steps("step-restored")),
        (0, vec!["end"])
    );
    assert_eq!(space.read("release/end.txt"), "hello\n");
}

// What is done instead of running

#[test]
fn an_unchanged_output_stops_the_rebuild() {
    let space = space();
    space.edit(
        "cat ${inputs.text} > ${outputs.text};",
        "cat < ${inputs.text} > ${outputs.text};",
    );
    let run = space.built(&[]);
    assert_eq!(space.ran(), ["left"]);
    assert_eq!(run.of_kind("step-finished")[0]["unchanged"], true);
    assert_eq!(run.total("up_to_date"), 3);
}

#[test]
fn an_older_state_is_restored_and_not_made_again() {
    let space = space();
    let before = space.read(END);
    space.edit("greeting = \"hello\"", "greeting = \"a\"");
    space.write("data/left.txt", "k\n");
    space.edit("head -n 1", "tail -n 1");
    assert_eq!(space.rerun(), ["end", "join", "left", "right"]);
    assert_ne!(space.read(END), before);

    space.edit("greeting = \"a\"", "greeting = \"hello\"");
    space.write("data/left.txt", "l\n");
    space.edit("tail -n 1", "head -n 1");
    let run = space.built(&[]);
    assert_eq!(space.ran(), NOTHING);
    assert_eq!(run.steps("step-restored"), ["end", "join", "left", "right"]);
    assert_eq!(
        (space.read(END), space.read(LEFT)),
        (before, "l\nz\n".to_owned())
    );
    assert_eq!(space.built(&[]).total("up_to_date"), 4);
}

#[test]
fn an_edited_output_is_put_back_and_the_edit_kept_aside() {
    let space = space();
    space.write(LEFT, "mine\n");
    let run = space.built(&[]);
    assert_eq!(space.ran(), NOTHING);
    assert_eq!(space.read(LEFT), "l\nz\n");
    let aside = run.of_kind("output-set-aside")[0];
    assert_eq!(
        (&aside["step"], &aside["path"]),
        (&json!("left"), &json!(LEFT))
    );
    assert_eq!(space.read(aside["kept"].as_str().unwrap()), "mine\n");
    assert!(run.err.contains("was edited and is put back"), "{run}");

    space.write(LEFT, "mine again\n");
    let second = space.built(&[]);
    let second = second.of_kind("output-set-aside")[0]["kept"]
        .as_str()
        .unwrap();
    assert_eq!(space.read(second), "mine again\n");
    assert_eq!(
        space.read(aside["kept"].as_str().unwrap()),
        "mine\n",
        "both are kept"
    );
}

#[test]
fn an_edited_output_is_kept_aside_when_the_step_runs_again_too() {
    let space = space();
    space.write(LEFT, "mine\n");
    space.write("data/left.txt", "k\n");
    let run = space.built(&[]);
    assert_eq!(space.ran(), ["join", "left"]);
    let aside = run.of_kind("output-set-aside");
    assert_eq!(aside.len(), 1, "{run}");
    assert_eq!(space.read(aside[0]["kept"].as_str().unwrap()), "mine\n");
    assert_eq!(space.read(LEFT), "k\nz\n");
}

#[test]
fn a_same_size_edit_of_an_output_with_its_time_put_back_is_noticed() {
    let space = space();
    let before = fs::metadata(space.path(LEFT)).unwrap().modified().unwrap();
    space.write(LEFT, "x\nz\n");
    let file = fs::File::options()
        .append(true)
        .open(space.path(LEFT))
        .unwrap();
    file.set_modified(before).unwrap();
    let run = space.built(&[]);
    assert_eq!(
        (run.steps("step-restored"), space.read(LEFT)),
        (vec!["left"], "l\nz\n".to_owned())
    );
}

#[test]
fn a_deleted_output_is_put_back() {
    let space = space();
    space.remove(LEFT);
    let run = space.built(&[]);
    assert_eq!(
        (space.ran().len(), run.steps("step-restored")),
        (0, vec!["left"])
    );
    assert_eq!(
        run.reasons("left"),
        [json!({"reason": "output-missing", "path": LEFT})]
    );
    assert_eq!(space.read(LEFT), "l\nz\n");

    space.remove("cache/out");
    let run = space.built(&[]);
    assert_eq!((space.ran().len(), run.total("restored")), (0, 4));
}

#[test]
fn a_file_added_to_an_output_folder_is_kept_aside() {
    let space = Space::new(
        r#"
        [steps.a]
        uses = "command"
        run = "echo a >> RUNS; mkdir out; echo one > out/one; echo two > out/two"
        outputs = { folder = "out/" }
        "#,
    );
    assert_eq!(space.rerun(), ["a"]);
    space.write("cache/out/main/a/out/three", "three\n");
    let run = space.built(&[]);
    assert_eq!(
        (space.ran().len(), run.steps("step-restored")),
        (0, vec!["a"])
    );
    let kept = run.of_kind("output-set-aside")[0]["kept"].as_str().unwrap();
    assert_eq!(space.read(&format!("{kept}/three")), "three\n");
    assert!(!space.exists("cache/out/main/a/out/three"));
    assert_eq!(space.read("cache/out/main/a/out/two"), "two\n");
}

#[test]
fn a_result_lost_from_the_store_is_made_again() {
    let space = space();
    let objects = space.objects("l\nz\n");
    assert_eq!(objects.len(), 1, "{objects:?}");
    fs::remove_file(&objects[0]).unwrap();
    assert_eq!(space.rerun(), NOTHING, "the output itself is in place");
    space.remove(LEFT);
    let run = space.built(&[]);
    assert_eq!(space.ran(), ["left"], "{run}");
    let lost = json!({"reason": "object-lost", "path": "left.txt"});
    assert!(
        run.reasons("left").contains(&lost),
        "{:?}",
        run.reasons("left")
    );
    assert_eq!(space.objects("l\nz\n").len(), 1);
    assert_eq!(space.rerun(), NOTHING);
}

#[test]
fn a_damaged_object_is_never_put_in_place() {
    let space = space();
    let object = space.objects("l\nz\n").remove(0);
    fs::remove_file(&object).unwrap();
    fs::write(&object, "x\nz\n").unwrap();
    space.remove(LEFT);
    let run = space.built(&[]);
    assert_eq!(
        (space.ran(), space.read(LEFT)),
        (vec!["left".to_owned()], "l\nz\n".to_owned()),
        "{run}"
    );
    assert_eq!(space.objects("x\nz\n").len(), 0);
}

#[test]
fn a_lost_cache_folder_is_a_fresh_start() {
    let space = space();
    space.remove("cache");
    assert_eq!(space.rerun(), ["end", "join", "left", "right"]);
}

// What the user asks for

#[test]
fn a_forced_step_runs_and_stops_the_rebuild_when_nothing_changed() {
    let space = space();
    let run = space.built(&["--force", "left"]);
    assert_eq!(space.ran(), ["left"]);
    assert_eq!(run.reasons("left"), [json!({"reason": "forced"})]);
    assert_eq!(space.rerun(), NOTHING);
}

#[test]
fn targets_are_built_with_what_they_need_and_nothing_else() {
    let space = Space::new(PIPELINE);
    space.write("data/left.txt", "l\n");
    space.write("data/right.txt", "r\n");
    space.built(&["left"]);
    assert_eq!(space.ran(), ["left"]);
    space.built(&["join"]);
    assert_eq!(space.ran(), ["join", "right"]);
    assert!(!space.exists(END));
}

#[test]
fn a_value_from_the_command_line_enters_the_key() {
    let space = space();
    let run = space.built(&["--set", "params.greeting=good day"]);
    assert_eq!(space.ran(), ["end", "join", "right"]);
    let source = run.reasons("right")[0]["source"].to_string();
    assert!(source.contains("command"), "{source}");
    // Without it the older result is put back.
    let run = space.built(&[]);
    assert_eq!((space.ran().len(), run.total("restored")), (0, 3));
}

#[test]
fn a_value_from_the_environment_enters_the_key() {
    let space = space();
    let prepare = |command: &mut std::process::Command| {
        command.env("RETUNE_PARAMS__GREETING", "good day");
    };
    let run = space.build_with(&[], prepare);
    assert_eq!(space.ran(), ["end", "join", "right"], "{run}");
    let source = run.reasons("right")[0]["source"].to_string();
    assert!(source.contains("RETUNE_PARAMS__GREETING"), "{source}");
}

#[test]
fn the_command_line_wins_over_the_environment() {
    let space = space();
    let run = space.build_with(&["--set", "params.greeting=a"], |command| {
        command.env("RETUNE_PARAMS__GREETING", "b");
    });
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(space.read("cache/out/main/right/right.txt"), "a\nr\n");
}

#[test]
fn the_value_that_the_file_has_already_is_no_change() {
    let space = space();
    space.built(&["--set", "params.greeting=hello"]);
    assert_eq!(space.ran(), NOTHING);
}

#[test]
fn records_hold_every_effective_value_with_its_source() {
    let space = space();
    space.built(&[
        "--set",
        "steps.end.run=echo end >> /dev/null; echo x > ${outputs.text}",
    ]);
    let records = space.records("end");
    assert_eq!(records.len(), 2, "one for each execution");
    let set = |record: &&Value| record["sources"]["run"].to_string().contains("command");
    let record = records
        .iter()
        .find(set)
        .unwrap_or_else(|| panic!("{records:#?}"));
    let params = record["manifest"]["params"].to_string();
    assert!(params.contains("echo x >"), "{params}");
    let file = records.iter().find(|record| !set(record)).unwrap();
    assert!(
        file["sources"]["run"].to_string().contains("file"),
        "{file:#}"
    );
    assert!(
        file["sources"]["env"].to_string().contains("default"),
        "{file:#}"
    );
}

// What is said beforehand

#[test]
fn plan_and_why_say_what_a_build_will_do() {
    let space = space();
    assert_eq!(space.retune(&["plan", "--check"]).code, Some(0));
    space.edit("greeting = \"hello\"", "greeting = \"good day\"");
    let plan = space.retune(&["plan", "--check", "--json"]);
    assert_eq!(plan.code, Some(2), "{plan}");
    let steps: Vec<Value> = serde_json::from_str(&plan.out).unwrap();
    let verdict = |name: &str| {
        let step = steps.iter().find(|step| step["name"] == name).unwrap();
        step["verdict"]
            .as_str()
            .unwrap_or_else(|| panic!("{step}"))
            .to_owned()
    };
    let verdicts = ["left", "right", "join", "end"].map(verdict);
    assert_eq!(verdicts, ["up-to-date", "run", "maybe", "maybe"]);
    let why = space.retune(&["why", "right"]);
    assert!(
        why.out.contains("hello") && why.out.contains("good day"),
        "{why}"
    );
    assert_eq!(space.ran(), NOTHING, "a plan runs nothing");
    assert_eq!(space.rerun(), ["end", "join", "right"]);
}

#[test]
fn a_plan_changes_nothing_on_disk() {
    let space = Space::new(PIPELINE);
    space.write("data/left.txt", "l\n");
    space.write("data/right.txt", "r\n");
    let plan = space.retune(&["plan"]);
    assert_eq!(plan.code, Some(0), "{plan}");
    assert!(!space.exists("cache/out") && !space.exists("pipelines/main.lock"));
}

#[test]
fn the_lock_file_is_the_same_for_the_same_state() {
    let space = space();
    let lock = space.read("pipelines/main.lock");
    space.remove("cache");
    space.remove("pipelines/main.lock");
    space.built(&["-j1"]);
    assert_eq!(space.read("pipelines/main.lock"), lock);
    let project = space.path("");
    assert!(!lock.contains(project.to_str().unwrap()), "{lock}");
}
