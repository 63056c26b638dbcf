//! Lock files in git: a merge conflicts in steps that both sides changed, and such a file is made anew.

mod support;

use std::fs;

use support::Space;

/// Steps that read a file each, and one that reads them all.
fn pipeline(steps: &str) -> String {
    let mut text = String::new();
    for step in steps.chars() {
        text.push_str(&format!(
            "[steps.{step}]\nuses = 'command'\nrun = 'echo {step} >> RUNS; cp ${{inputs.text}} out'\n\
             inputs = {{ text = 'data/{step}' }}\noutputs = {{ text = 'out' }}\n"
        ));
    }
    let inputs: Vec<String> = steps.chars().map(|s| format!("{s} = '@{s}'")).collect();
    text + &format!(
        "[steps.join]\nuses = 'command'\nrun = 'echo join >> RUNS; cat {} > out'\n\
         inputs = {{ {} }}\noutputs = {{ text = 'out' }}\n",
        steps
            .chars()
            .map(|s| format!("${{inputs.{s}}}"))
            .collect::<Vec<_>>()
            .join(" "),
        inputs.join(", ")
    )
}

#[track_caller]
fn done(space: &Space, arguments: &[&str]) {
    let run = space.git(arguments);
    assert_eq!(run.code, Some(0), "git {arguments:?}: {run}");
}

/// A repository with a build of steps a to d on branch `main`.
fn repository() -> Space {
    let space = Space::new(&pipeline("bdfh"));
    for step in "bdfh".chars() {
        space.write(&format!("data/{step}"), &format!("{step} one\n"));
    }
    space.write(".gitignore", "/cache/\n");
    space.built(&[]);
    done(&space, &["init", "-q", "-b", "main"]);
    commit(&space);
    space
}

fn commit(space: &Space) {
    done(space, &["add", "."]);
    done(space, &["commit", "-q", "-m", "state"]);
}

/// Makes a change on a branch of its own, builds, commits, and goes back.
fn on_branch(space: &Space, name: &str, change: impl FnOnce(&Space)) {
    done(space, &["checkout", "-q", "-b", name, "main"]);
    change(space);
    space.built(&[]);
    commit(space);
    done(space, &["checkout", "-q", "main"]);
}

fn lock(space: &Space) -> String {
    space.read("pipelines/main.lock")
}

/// The lines of the lock file between git's marks.
fn in_conflict(text: &str) -> Vec<&str> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        match line.get(..7) {
            Some("<<<<<<<") => inside = true,
            Some(">>>>>>>") => inside = false,
            _ if inside => lines.push(line),
            _ => {}
        }
    }
    lines
}

/// What the lock file says once everything is built.
fn truth(space: &Space) -> String {
    space.remove("pipelines/main.lock");
    space.built(&[]);
    lock(space)
}

#[test]
fn neighbours_that_changed_on_two_branches_merge_without_a_conflict_of_their_own() {
    let space = repository();
    on_branch(&space, "left", |space| space.write("data/b", "b two\n"));
    on_branch(&space, "right", |space| space.write("data/d", "d two\n"));
    done(&space, &["merge", "-q", "left"]);
    let merge = space.git(&["merge", "-q", "right"]);
    // Both rebuilt `join`, each from its own half.
    assert_eq!(merge.code, Some(1), "{merge}");
    let text = lock(&space);
    let conflict = in_conflict(&text).join("\n");
    assert!(!conflict.contains("[steps."), "{text}");
    assert_eq!(conflict.matches("key = ").count(), 2, "{text}");
    for verb in ["build", "verify"] {
        let run = space.retune(&[verb]);
        assert_eq!(run.code, Some(5), "{run}");
        assert!(run.err.contains("merge conflict in line"), "{run}");
        assert!(run.err.contains("hint: `retune lock --repair`"), "{run}");
    }
    let repair = space.retune(&["lock", "--repair"]);
    assert_eq!(repair.code, Some(0), "{repair}");
    assert!(repair.out.contains("join: left out"), "{repair}");
    assert!(repair.err.contains("4 from the store"), "{repair}");
    space.ran();
    assert_eq!(space.rerun(), ["join"]);
    let text = lock(&space);
    assert_eq!(text, truth(&space));
    assert_eq!(space.retune(&["lock", "--check"]).code, Some(0));
}

#[test]
fn steps_added_and_removed_beside_changed_ones_merge() {
    let space = repository();
    // Without the step that depends on all, which every change touches.
    let alone = |steps: &str| {
        let text = pipeline(steps);
        text[..text.find("[steps.join]").unwrap()].to_owned()
    };
    space.pipeline(&alone("bdfh"));
    space.built(&[]);
    commit(&space);
    on_branch(&space, "left", |space| {
        space.write("data/c", "c one\n");
        space.write("data/f", "f two\n");
        space.pipeline(&alone("bcdfh"));
    });
    on_branch(&space, "right", |space| {
        space.write("data/d", "d two\n");
        space.pipeline(&alone("bdf"));
    });
    done(&space, &["merge", "-q", "left"]);
    // The pipeline file is for its author to merge; the lock file merges.
    let merge = space.git(&["merge", "-q", "right"]);
    let text = lock(&space);
    assert!(!text.contains("<<<<<<<"), "{merge}\n{text}");
    space.pipeline(&alone("bcdf"));
    let check = space.retune(&["lock", "--check"]);
    assert_eq!(check.code, Some(0), "{check}");
    assert_eq!(text, truth(&space));
}

#[test]
fn with_the_merge_driver_only_steps_that_both_changed_conflict() {
    let space = repository();
    let driver = format!("{} lock --merge %O %A %B", env!("CARGO_BIN_EXE_retune"));
    done(&space, &["config", "merge.retune.driver", &driver]);
    space.write(".gitattributes", "/pipelines/*.lock merge=retune\n");
    commit(&space);
    // Both add a step at the same place of the file, which a merge of lines
    // could not tell from a conflict, and both change `join`.
    on_branch(&space, "left", |space| {
        space.write("data/c", "c one\n");
        space.pipeline(&pipeline("bcdfh"));
    });
    on_branch(&space, "right", |space| {
        space.write("data/h", "h two\n");
        space.pipeline(
            &pipeline("bdfh")
                .replace("steps.d]", "steps.cx]")
                .replace("'@d'", "'@cx'"),
        );
    });
    done(&space, &["merge", "-q", "left"]);
    let merge = space.git(&["merge", "right"]);
    assert_eq!(merge.code, Some(1), "{merge}");
    assert!(
        merge.err.contains("both sides changed 1 step: join"),
        "{merge}"
    );
    let text = lock(&space);
    let conflict = in_conflict(&text);
    let steps: Vec<&&str> = conflict
        .iter()
        .filter(|line| line.starts_with("[steps."))
        .collect();
    assert_eq!(steps, [&"[steps.join]", &"[steps.join]"], "{text}");
    assert!(
        text.contains("\n[steps.c]\n") && text.contains("\n[steps.cx]\n"),
        "{text}"
    );
    assert!(!text.contains("\n[steps.d]\n"), "{text}");
}

#[test]
fn without_a_store_what_is_certain_is_kept_and_the_rest_said() {
    let space = repository();
    on_branch(&space, "left", |space| {
        space.write("data/b", "b two\n");
        space.write("data/d", "d two\n");
    });
    on_branch(&space, "right", |space| {
        space.write("data/b", "b three\n");
        space.write("data/f", "f two\n");
    });
    done(&space, &["merge", "-q", "left"]);
    let merge = space.git(&["merge", "-q", "right"]);
    assert_eq!(merge.code, Some(1), "{merge}");
    space.write("data/b", "b three\n");
    space.remove("cache");
    let repair = space.retune(&["lock", "--repair", "--json"]);
    assert_eq!(repair.code, Some(0), "{repair}");
    let report: serde_json::Value = serde_json::from_str(&repair.out).unwrap();
    let standing = |step: &str| {
        let steps = report["steps"].as_array().unwrap().iter();
        let found = steps.into_iter().find(|found| found["step"] == step);
        found.unwrap()["standing"].as_str().unwrap().to_owned()
    };
    for step in ["b", "d", "f", "h"] {
        assert_eq!(standing(step), "kept", "{repair}");
    }
    assert_eq!(standing("join"), "left-out");
    let text = lock(&space);
    let fresh = truth(&space);
    let kept = text.trim_end_matches("# The end.\n");
    let join = fresh.find("\n[steps.join]").unwrap();
    assert_eq!(kept.trim_end(), fresh[..join].trim_end());
}

#[test]
fn check_tells_what_the_file_does_not_say() {
    let space = repository();
    assert_eq!(space.retune(&["lock", "--check"]).code, Some(0));
    let text = lock(&space);
    let block = |step: &str| {
        let start = text.find(&format!("\n[steps.{step}]")).unwrap();
        let end = text[start + 1..].find("\n\n").unwrap();
        text[start..start + end + 2].to_owned()
    };
    let gone = block("b").replace("steps.b]", "steps.zz]");
    space.write(
        "pipelines/main.lock",
        &text
            .replace(&block("d"), "")
            .replace("\n# The end", &format!("{gone}\n# The end")),
    );
    space.write("data/f", "f two\n");
    let check = space.retune(&["lock", "--check"]);
    assert_eq!(check.code, Some(2), "{check}");
    let lines: Vec<&str> = check.out.lines().collect();
    assert_eq!(lines.len(), 4, "{check}");
    assert_eq!(lines[0], "d: not in the lock file");
    assert!(lines[1].starts_with("f: the lock file has key "), "{check}");
    assert_eq!(lines[2], "join: cannot be told before f is built");
    assert_eq!(lines[3], "zz: in the lock file, and not in the pipeline");
}

#[test]
fn a_damaged_file_is_made_anew_and_a_newer_one_left_alone() {
    let space = repository();
    let whole = lock(&space);
    for damaged in [
        "",
        "rubbish",
        &whole[..whole.len() / 2],
        &whole.replace("key", "kez"),
    ] {
        space.write("pipelines/main.lock", damaged);
        let repair = space.retune(&["lock", "--repair"]);
        assert_eq!(repair.code, Some(0), "{repair}");
        assert_eq!(lock(&space), whole);
    }
    let newer = whole.replace("format = 1", "format = 99");
    space.write("pipelines/main.lock", &newer);
    let repair = space.retune(&["lock", "--repair"]);
    assert_eq!(repair.code, Some(5), "{repair}");
    assert_eq!(lock(&space), newer);
    assert!(fs::metadata(space.path("cache/journal")).is_ok());
}
