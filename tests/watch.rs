//! `watch`: a change reruns what depends on it, and nothing ends the loop but the user.

mod support;

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use support::{Running, Space, wait_for};

const PIPELINE: &str = r#"
[steps.left]
uses = "command"
run = "echo left >> RUNS; cp ${inputs.text} ${outputs.text}"
inputs = { text = "data/left.txt" }
outputs = { text = "left.txt" }

[steps.right]
uses = "command"
run = "echo right >> RUNS; cp ${inputs.folder}/* ${outputs.text}"
inputs = { folder = "data/right" }
outputs = { text = "right.txt" }

[steps.join]
uses = "command"
run = "echo join >> RUNS; cat ${inputs.left} ${inputs.right} > ${outputs.text}"
inputs = { left = "@left", right = "@right" }
outputs = { text = "join.txt" }
"#;

const JOIN: &str = "cache/out/main/join/join.txt";

/// A `watch` whose first build is over.
fn watching() -> (Space, Running) {
    let space = Space::new(PIPELINE);
    space.write("data/left.txt", "l1\n");
    space.write("data/right/text.txt", "r1\n");
    let running = space.start(&["watch"]);
    waiting(&running, 1);
    assert_eq!(space.ran(), ["join", "left", "right"]);
    (space, running)
}

/// Waits until the `n`-th round is over.
fn waiting(running: &Running, n: usize) {
    wait_for(&format!("the end of round {n}\n{}", running.err()), || {
        (running.err().matches("watching ").count() >= n).then_some(())
    });
}

/// Waits until a step wrote this.
fn until(space: &Space, running: &Running, path: &str, text: &str) {
    wait_for(&format!("{text:?} in {path}\n{}", running.err()), || {
        (fs::read_to_string(space.path(path)).ok()? == text).then_some(())
    });
}

/// Ends the loop as a user does.
fn end(running: Running) -> support::Run {
    running.signal(Signal::INT);
    let run = running.end();
    assert_eq!(run.code, Some(0), "{run}");
    run
}

#[test]
fn a_change_reruns_what_depends_on_it_and_nothing_else() {
    let (space, running) = watching();
    space.write("data/left.txt", "l2\n");
    until(&space, &running, JOIN, "l2\nr1\n");
    waiting(&running, 2);
    assert_eq!(space.ran(), ["join", "left"]);
    let run = end(running);
    assert!(run.err.contains("changed: data/left.txt\n"), "{run}");
}

#[test]
fn a_file_saved_by_renaming_is_noticed_again_and_again() {
    let (space, running) = watching();
    for i in 2..5 {
        // As editors do: the new text beside it, then over it.
        space.write("data/.left.txt.swp", &format!("l{i}\n"));
        fs::rename(
            space.path("data/.left.txt.swp"),
            space.path("data/left.txt"),
        )
        .unwrap();
        until(&space, &running, JOIN, &format!("l{i}\nr1\n"));
    }
    end(running);
}

#[test]
fn a_change_in_an_input_folder_is_noticed() {
    let (space, running) = watching();
    space.write("data/right/text.txt", "r2\n");
    until(&space, &running, JOIN, "l1\nr2\n");
    end(running);
}

#[test]
fn a_pipeline_broken_for_a_moment_is_survived() {
    let (space, running) = watching();
    let text = space.read("pipelines/main.toml");
    space.pipeline("[steps.left\nuses = ");
    wait_for("the complaint", || {
        running.err().contains("error: ").then_some(())
    });
    waiting(&running, 2);
    // Inputs are still watched.
    space.pipeline(&text.replace("echo join", "echo  join"));
    wait_for("the step that was edited", || {
        (space.ran() == ["join"]).then_some(())
    });
    space.write("data/left.txt", "l2\n");
    until(&space, &running, JOIN, "l2\nr1\n");
    end(running);
}

#[test]
fn a_failed_step_is_survived_and_mended() {
    let (space, running) = watching();
    space.remove("data/right/text.txt");
    running.wait_for("step-failed", 1);
    space.write("data/right/text.txt", "r2\n");
    until(&space, &running, JOIN, "l1\nr2\n");
    end(running);
}

#[test]
fn a_step_added_while_watching_is_built_and_its_inputs_watched() {
    let (space, running) = watching();
    space.write("other/new.txt", "n1\n");
    let step = "[steps.new]\nuses = 'command'\nrun = 'cp ${inputs.text} new.txt'\n\
                inputs = { text = 'other/new.txt' }\noutputs = { text = 'new.txt' }\n";
    let text = space.read("pipelines/main.toml") + step;
    space.pipeline(&text);
    until(&space, &running, "cache/out/main/new/new.txt", "n1\n");
    space.write("other/new.txt", "n2\n");
    until(&space, &running, "cache/out/main/new/new.txt", "n2\n");
    end(running);
}

#[test]
fn its_own_outputs_start_no_round() {
    let (space, running) = watching();
    space.write("data/left.txt", "l2\n");
    until(&space, &running, JOIN, "l2\nr1\n");
    waiting(&running, 2);
    // Long enough for several rounds, had the outputs started any.
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(running.count("run-started"), 2, "{}", running.err());
    end(running);
}

#[test]
fn outputs_outside_of_the_cache_start_no_round_either() {
    let space =
        Space::new(&PIPELINE.replace("[steps.join]", "[steps.join]\nout = \"data/release\""));
    space.write("data/left.txt", "l1\n");
    space.write("data/right/text.txt", "r1\n");
    let running = space.start(&["watch"]);
    waiting(&running, 1);
    space.write("data/left.txt", "l2\n");
    until(&space, &running, "data/release/join.txt", "l2\nr1\n");
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(running.count("run-started"), 2, "{}", running.err());
    end(running);
}

#[test]
fn ctrl_c_ends_it_with_success_and_tells_of_the_rounds() {
    let (space, running) = watching();
    let run = end(running);
    assert_eq!(run.out, "");
    assert_eq!((run.signal, run.of_kind("run-finished").len()), (None, 1));
    assert!(run.err.contains("Ctrl-C ends it"), "{run}");
    let summary: &Value = &run.of_kind("run-finished")[0]["summary"];
    assert_eq!(summary["ran"], 3);
    assert_eq!(space.rerun().len(), 0, "what it built counts");
}

#[test]
fn ctrl_c_in_the_middle_of_a_step_ends_it_too() {
    let (space, running) = watching();
    space.edit(
        "echo join >>",
        "echo x > OUTSIDE/begun; sleep 300; echo join >>",
    );
    wait_for("the step's start", || {
        space.outside("begun").exists().then_some(())
    });
    end(running);
    assert_eq!(space.read(JOIN), "l1\nr1\n");
}
