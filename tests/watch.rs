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

#[test]
fn a_change_that_is_undone_before_the_build_starts_runs_nothing() {
    let (space, running) = watching();
    space.write("data/left.txt", "l2\n");
    space.write("data/left.txt", "l1\n");
    waiting(&running, 2);
    assert!(space.ran().is_empty());
    end(running);
}

#[test]
fn an_input_that_is_yet_to_be_made_is_waited_for() {
    let space = Space::new(&PIPELINE.replace("data/right", "later/deep/right"));
    space.write("data/left.txt", "l1\n");
    let running = space.start(&["watch"]);
    waiting(&running, 1);
    assert!(
        running.err().contains("does not exist"),
        "{}",
        running.err()
    );
    space.write("later/deep/right/text.txt", "r1\n");
    until(&space, &running, JOIN, "l1\nr1\n");
    space.remove("later");
    waiting(&running, 3);
    space.write("later/deep/right/text.txt", "r2\n");
    until(&space, &running, JOIN, "l1\nr2\n");
    end(running);
}

#[test]
fn a_pipeline_file_replaced_by_renaming_is_read_again() {
    let (space, running) = watching();
    let text = space.read("pipelines/main.toml");
    for i in 2..4 {
        space.write(
            "pipelines/new",
            &text.replace(
                "> ${outputs.text}",
                &format!("> ${{outputs.text}}; echo {i} >> ${{outputs.text}}"),
            ),
        );
        fs::rename(
            space.path("pipelines/new"),
            space.path("pipelines/main.toml"),
        )
        .unwrap();
        until(&space, &running, JOIN, &format!("l1\nr1\n{i}\n"));
    }
    end(running);
}

#[test]
fn a_linked_input_counts_where_it_leads_and_where_the_link_is() {
    let (space, running) = watching();
    space.write("elsewhere/a.txt", "a1\n");
    space.write("elsewhere/b.txt", "b1\n");
    let link = |to: &str| {
        std::os::unix::fs::symlink(space.path(to), space.path("data/new")).unwrap();
        fs::rename(space.path("data/new"), space.path("data/left.txt")).unwrap();
    };
    link("elsewhere/a.txt");
    until(&space, &running, JOIN, "a1\nr1\n");
    space.write("elsewhere/a.txt", "a2\n");
    until(&space, &running, JOIN, "a2\nr1\n");
    link("elsewhere/b.txt");
    until(&space, &running, JOIN, "b1\nr1\n");
    space.write("elsewhere/b.txt", "b2\n");
    until(&space, &running, JOIN, "b2\nr1\n");
    end(running);
}

/// Stops the program while so much happens that the system's queue of events
/// runs over, and lets it go on.
#[test]
fn lost_events_are_made_up_for_by_looking_at_everything() {
    let (space, running) = watching();
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events");
    let queue: usize = queue.ok().and_then(|n| n.trim().parse().ok()).unwrap_or(0);
    if !(1..=40_000).contains(&queue) {
        eprintln!("skipped: the queue holds {queue} events");
        return;
    }
    running.signal(Signal::STOP);
    // Each file gives more events than one, and two of the same file in turn
    // are not merged into one.
    for i in 0..=queue / 2 {
        fs::write(space.path(&format!("data/right/{}", i % 50)), "noise\n").unwrap();
    }
    for i in 0..50 {
        fs::remove_file(space.path(&format!("data/right/{i}"))).unwrap();
    }
    // The event of this one has no place any more.
    space.write("data/left.txt", "l2\n");
    running.signal(Signal::CONT);
    until(&space, &running, JOIN, "l2\nr1\n");
    let said = running.err();
    assert!(said.contains("changes were lost"), "{said}");
    space.write("data/left.txt", "l3\n");
    until(&space, &running, JOIN, "l3\nr1\n");
    end(running);
}

#[test]
fn where_the_system_watches_no_more_files_are_looked_at() {
    let space = Space::new(PIPELINE);
    space.write("data/left.txt", "l1\n");
    space.write("data/right/text.txt", "r1\n");
    for (limit, hint) in [
        ("max_inotify_watches", "max_user_watches"),
        ("max_inotify_instances", "max_user_instances"),
    ] {
        let script = format!("echo 0 > /proc/sys/user/{limit} && exec \"$0\" \"$@\"");
        let within = ["-r", "-U", "sh", "-c", &script];
        if !support::can_unshare(&within) {
            eprintln!("skipped: no user namespace is to be had");
            return;
        }
        space.write("data/left.txt", "l1\n");
        let running = space.start_within("unshare", &within, &["watch"]);
        waiting(&running, 1);
        let said = running.err();
        assert!(said.contains("looking at the files instead"), "{said}");
        assert!(said.contains(hint), "{said}");
        space.write("data/left.txt", "l2\n");
        until(&space, &running, JOIN, "l2\nr1\n");
        space.write("data/right/more.txt", "r2\n");
        space.remove("data/right/text.txt");
        until(&space, &running, JOIN, "l2\nr2\n");
        waiting(&running, 2);
        end(running);
        space.remove("data/right/more.txt");
        space.write("data/right/text.txt", "r1\n");
    }
}
