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
    waiting(&running, 2);
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

/// Two steps that wait for a file before they end, and one that needs both.
const SLOW: &str = r#"
[steps.first]
uses = "command"
run = "echo first >> RUNS; cp ${inputs.text} out"
inputs = { text = "data/first" }
outputs = { text = "out" }

[steps.slow]
uses = "command"
run = "echo slow >> RUNS; while [ ! -e OUTSIDE/go-slow ]; do sleep 0.02; done; cat ${inputs.text} ${inputs.own} > out"
inputs = { text = "@first", own = "data/own" }
outputs = { text = "out" }

[steps.other]
uses = "command"
run = "echo other >> RUNS; while [ ! -e OUTSIDE/go-other ]; do sleep 0.02; done; cp ${inputs.text} out"
inputs = { text = "data/other" }
outputs = { text = "out" }

[steps.last]
uses = "command"
run = "echo last >> RUNS; cat ${inputs.slow} ${inputs.other} > out"
inputs = { slow = "@slow", other = "@other" }
outputs = { text = "out" }
"#;

const LAST: &str = "cache/out/main/last/out";

/// A `watch` in whose first build `slow` and `other` run.
fn slowly(options: &[&str]) -> (Space, Running) {
    let space = Space::new(SLOW);
    for name in ["first", "own", "other"] {
        space.write(&format!("data/{name}"), &format!("{name} one\n"));
    }
    let running = space.start(&[&["watch", "-j", "4"], options].concat());
    running.wait_for("step-started", 3);
    (space, running)
}

fn go(space: &Space, step: &str) {
    fs::write(space.outside(&format!("go-{step}")), "").unwrap();
}

fn names(running: &Running, kind: &str) -> Vec<String> {
    let events = running.events().into_iter();
    let events = events.filter(|event| event["event"] == kind);
    events
        .map(|event| event["step"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_running_step_whose_input_changed_is_stopped_and_the_others_go_on() {
    let (space, running) = slowly(&[]);
    space.write("data/own", "own two\n");
    running.wait_for("step-cancelled", 1);
    assert_eq!(names(&running, "step-cancelled"), ["slow"]);
    go(&space, "slow");
    go(&space, "other");
    until(&space, &running, LAST, "first one\nown two\nother one\n");
    waiting(&running, 1);
    assert_eq!(space.ran(), ["first", "last", "other", "slow", "slow"]);
    let run = end(running);
    assert!(run.err.contains("stopped: slow"), "{run}");
    assert!(run.err.contains("  stopped: it changed\n"), "{run}");
    assert_eq!(run.of_kind("step-cancelled")[0]["changed"], "slow");
    assert!(run.err.contains("going on first: other"), "{run}");
    assert!(run.of_kind("step-failed").is_empty(), "{run}");
    assert_eq!(space.rerun().len(), 0);
}

#[test]
fn a_running_step_is_stopped_when_a_step_above_it_became_stale() {
    let (space, running) = slowly(&[]);
    space.write("data/first", "first two\n");
    running.wait_for("step-cancelled", 1);
    assert_eq!(names(&running, "step-cancelled"), ["slow"]);
    go(&space, "slow");
    go(&space, "other");
    until(&space, &running, LAST, "first two\nown one\nother one\n");
    waiting(&running, 1);
    assert_eq!(
        space.ran(),
        ["first", "first", "last", "other", "slow", "slow"]
    );
    let run = end(running);
    assert_eq!(run.of_kind("step-cancelled")[0]["changed"], "first");
}

#[test]
fn a_running_step_is_stopped_when_its_block_is_edited_or_gone() {
    let (space, running) = slowly(&[]);
    space.edit("cat ${inputs.text} ${inputs.own}", "cat  ${inputs.own}");
    running.wait_for("step-cancelled", 1);
    assert_eq!(names(&running, "step-cancelled"), ["slow"]);
    go(&space, "slow");
    go(&space, "other");
    until(&space, &running, LAST, "own one\nother one\n");
    end(running);
}

#[test]
fn what_concerns_no_running_step_stops_none() {
    let (space, running) = slowly(&[]);
    // The same content of what none of them reads, and the block of a step
    // that was not begun.
    space.write("data/first", "first one\n");
    space.edit("echo last", "echo  last");
    std::thread::sleep(Duration::from_millis(600));
    go(&space, "slow");
    go(&space, "other");
    until(&space, &running, LAST, "first one\nown one\nother one\n");
    waiting(&running, 1);
    // It was put off, not stopped, and ran as it is now.
    assert_eq!(names(&running, "step-cancelled"), ["last"]);
    assert_eq!(space.ran(), ["first", "last", "other", "slow"]);
    end(running);
}

#[test]
fn a_running_step_whose_input_is_written_again_is_stopped_once() {
    let (space, running) = slowly(&[]);
    // It may have read what was there in between.
    space.write("data/own", "own two\n");
    space.write("data/own", "own one\n");
    running.wait_for("step-cancelled", 1);
    assert_eq!(names(&running, "step-cancelled"), ["slow"]);
    go(&space, "other");
    running.wait_for("step-started", 4);
    go(&space, "slow");
    until(&space, &running, LAST, "first one\nown one\nother one\n");
    waiting(&running, 1);
    end(running);
    assert_eq!(space.ran(), ["first", "last", "other", "slow", "slow"]);
}

#[test]
fn a_step_that_touches_its_own_input_does_not_run_for_ever() {
    let space = Space::new(
        r#"
[steps.a]
uses = "command"
run = "echo a >> RUNS; touch ${inputs.text}; sleep 0.3; cp ${inputs.text} out"
inputs = { text = "data/text" }
outputs = { text = "out" }
"#,
    );
    space.write("data/text", "one\n");
    let running = space.start(&["watch"]);
    waiting(&running, 1);
    std::thread::sleep(Duration::from_millis(600));
    assert!(space.ran().len() <= 3, "{}", running.err());
    let said = running.err();
    assert!(said.contains("needs a copy of it"), "{said}");
    space.edit("touch ${inputs.text}; ", "");
    until(&space, &running, "cache/out/main/a/out", "one\n");
    end(running);
}

#[test]
fn a_change_can_wait_for_the_end_of_the_build() {
    let (space, running) = slowly(&["--on-change", "queue"]);
    space.write("data/first", "first two\n");
    std::thread::sleep(Duration::from_millis(600));
    go(&space, "slow");
    go(&space, "other");
    until(&space, &running, LAST, "first two\nown one\nother one\n");
    waiting(&running, 2);
    assert!(names(&running, "step-cancelled").is_empty());
    assert_eq!(
        space.ran(),
        ["first", "first", "last", "last", "other", "slow", "slow"]
    );
    end(running);
}

#[test]
fn ctrl_c_while_a_recalled_build_runs_out_ends_it() {
    let (space, running) = slowly(&[]);
    space.write("data/own", "own two\n");
    running.wait_for("step-cancelled", 1);
    end(running);
    assert!(!space.exists(LAST));
}

#[test]
fn what_was_to_run_in_any_case_runs_after_a_change_too() {
    let (space, running) = slowly(&[]);
    go(&space, "slow");
    go(&space, "other");
    waiting(&running, 1);
    end(running);
    for step in ["slow", "other"] {
        fs::remove_file(space.outside(&format!("go-{step}"))).unwrap();
    }
    space.ran();
    let running = space.start(&["watch", "--force", "slow", "--force", "last"]);
    running.wait_for("step-started", 1);
    // The step above changes, and gives what it gave before.
    space.edit("echo first", "echo  first");
    running.wait_for("step-cancelled", 1);
    go(&space, "slow");
    waiting(&running, 1);
    assert_eq!(space.ran(), ["first", "last", "slow", "slow"]);
    end(running);
}

#[test]
fn a_checkpoint_survives_that_its_step_is_stopped() {
    let space = Space::new(
        r#"
[steps.first]
uses = "command"
run = "echo first >> RUNS; tr a-z A-Z < ${inputs.text} > out"
inputs = { text = "data/first" }
outputs = { text = "out" }

[steps.count]
uses = "command"
run = "echo count >> RUNS; cp ${inputs.text} out; if [ -e ${checkpoint}/half ]; then echo resumed >> RUNS; else touch ${checkpoint}/half OUTSIDE/half; sleep 300; fi"
inputs = { text = "@first" }
outputs = { text = "out" }
checkpoint = true
"#,
    );
    space.write("data/first", "one\n");
    let running = space.start(&["watch"]);
    wait_for("half of it", || {
        space.outside("half").exists().then_some(())
    });
    // Stale for what it reads from, until that turns out to be the same.
    space.write("data/first", "oNe\n");
    until(&space, &running, "cache/out/main/count/out", "ONE\n");
    waiting(&running, 1);
    assert_eq!(space.ran(), ["count", "count", "first", "first", "resumed"]);
    let run = end(running);
    assert_eq!(run.of_kind("step-cancelled")[0]["changed"], "first");
}

#[test]
fn a_step_that_waits_for_another_attempt_does_not_wait_on_after_a_change() {
    let space = Space::new(
        r#"
[steps.first]
uses = "command"
run = "echo first >> RUNS; grep good ${inputs.text} > out"
inputs = { text = "data/first" }
outputs = { text = "out" }
retry = { times = 1, wait = "5m" }
"#,
    );
    for (bad, mend) in [("bad\n", true), ("bad again\n", false)] {
        space.write("data/first", bad);
        let running = space.start(&["watch"]);
        running.wait_for("step-retried", 1);
        match mend {
            true => space.write("data/first", "good\n"),
            false => space.edit("grep good", "cat"),
        }
        waiting(&running, 1);
        let run = end(running);
        assert!(run.of_kind("step-failed").is_empty(), "{run}");
        assert_eq!(run.of_kind("step-cancelled")[0]["changed"], "first");
        assert_eq!(space.ran(), ["first", "first"]);
    }
}

#[test]
fn a_step_that_is_added_is_built_next_and_stops_nothing() {
    let (space, running) = slowly(&[]);
    let step = "[steps.new]\nuses = 'command'\nrun = 'echo new >> RUNS; touch new'\n\
                outputs = { text = 'new' }\n";
    space.pipeline(&(space.read("pipelines/main.toml") + step));
    wait_for("the notice", || {
        running
            .err()
            .contains("the build starts anew")
            .then_some(())
    });
    go(&space, "slow");
    go(&space, "other");
    waiting(&running, 1);
    assert_eq!(space.ran(), ["first", "last", "new", "other", "slow"]);
    let run = end(running);
    let cancelled = run.of_kind("step-cancelled");
    assert_eq!(cancelled.len(), 1, "{run}");
    assert_eq!(cancelled[0]["step"], "last");
    assert_eq!(cancelled[0]["changed"], "new");
}

#[test]
fn a_folder_that_is_replaced_while_its_step_runs_is_looked_into() {
    let space = Space::new(&SLOW.replace(
        "cat ${inputs.text} ${inputs.own}",
        "cat ${inputs.own}/deep/*",
    ));
    space.write("data/own/deep/a", "one\n");
    space.write("data/first", "");
    space.write("data/other", "");
    let running = space.start(&["watch", "-j", "4"]);
    running.wait_for("step-started", 3);
    // The same in another folder, which stops nothing, and then a change in it.
    space.write("data/next/deep/a", "one\n");
    fs::rename(space.path("data/own"), space.path("data/old")).unwrap();
    fs::rename(space.path("data/next"), space.path("data/own")).unwrap();
    std::thread::sleep(Duration::from_millis(600));
    space.write("data/own/deep/a", "two\n");
    running.wait_for("step-cancelled", 1);
    assert_eq!(names(&running, "step-cancelled"), ["slow"]);
    go(&space, "slow");
    go(&space, "other");
    until(&space, &running, LAST, "two\n");
    end(running);
}
