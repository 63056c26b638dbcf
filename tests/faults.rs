//! What goes wrong: killed builds and steps, bad outputs, interrupts, damaged files. The next build goes on from it.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{Running, Space, is_alive, wait_for};

/// A step that copies its input to its output, waiting for the file `go` if
/// its input says `wait`.
const COPY: &str = r#"
[steps.copy]
uses = "command"
run = '''
echo copy >> RUNS
head -n 1 ${inputs.text} > ${outputs.text}
echo $$ > OUTSIDE/pid
if grep -q wait ${inputs.text}; then
    while ! test -e OUTSIDE/go; do sleep 0.02; done
fi
cat ${inputs.text} > ${outputs.text}
'''
inputs = { text = "data/text.txt" }
outputs = { text = "copy.txt" }
"#;

const OUT: &str = "cache/out/main/copy/copy.txt";

/// [`COPY`], built once.
fn copy() -> Space {
    let space = Space::new(COPY);
    space.write("data/text.txt", "one\n");
    assert_eq!(space.rerun(), ["copy"]);
    fs::remove_file(space.outside("pid")).unwrap();
    space
}

/// [`COPY`] in the middle of its step, and the step's process.
fn in_the_middle(space: &Space) -> (Running, String) {
    space.write("data/text.txt", "two\nwait\n");
    let running = space.start(&["build", "--grace", "30"]);
    let pid = wait_for("the step's start", || {
        let pid = fs::read_to_string(space.outside("pid")).ok()?;
        pid.ends_with('\n').then(|| pid.trim().to_owned())
    });
    (running, pid)
}

/// Lets the step of [`COPY`] go on.
fn go(space: &Space) {
    fs::write(space.outside("go"), "").unwrap();
}

/// One step that runs `script`, with one output `out.txt`.
fn script(script: &str) -> Space {
    Space::new(&format!(
        "[steps.a]\nuses = 'command'\nrun = '''echo a >> RUNS\n{script}\n'''\n\
         outputs = {{ text = 'out.txt' }}\n"
    ))
}

// Killed

#[test]
fn a_build_killed_in_the_middle_of_a_step_goes_on_with_the_next_one() {
    let space = copy();
    let (running, pid) = in_the_middle(&space);
    running.signal(Signal::KILL);
    assert_eq!(running.end().signal, Some(9));
    wait_for("the step dies with its build", || {
        (!is_alive(&pid)).then_some(())
    });
    assert_eq!(
        space.read(OUT),
        "one\n",
        "the last good output is untouched"
    );
    space.ran();
    go(&space);
    let run = space.built(&[]);
    assert_eq!(space.ran(), ["copy"]);
    let reasons = format!("{:?}", run.reasons("copy"));
    assert!(reasons.contains("did-not-finish"), "{reasons}");
    assert_eq!(run.of_kind("waiting").len(), 0, "no lock is left");
    assert_eq!(space.read(OUT), "two\nwait\n");
    let work = fs::read_dir(space.path("cache/work")).map_or(0, Iterator::count);
    assert_eq!(work, 0, "no work folder is left");
}

#[test]
fn a_killed_build_leaves_the_store_whole() {
    let space = copy();
    let (running, _) = in_the_middle(&space);
    running.signal(Signal::KILL);
    running.end();
    assert_eq!(space.retune(&["verify"]).code, Some(0));
    space.write("data/text.txt", "one\n");
    space.ran();
    let run = space.built(&[]);
    assert_eq!(
        (run.total("up_to_date"), space.ran().len()),
        (1, 0),
        "{run}"
    );
}

#[test]
fn a_step_whose_process_is_killed_fails_with_a_hint() {
    let space = copy();
    let (running, pid) = in_the_middle(&space);
    kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    let run = running.end();
    assert_eq!(run.code, Some(1), "{run}");
    assert!(run.err.contains("was killed by signal 9"), "{run}");
    assert!(
        run.err
            .contains("hint: the system kills processes like this when memory runs out")
    );
    assert_eq!(space.read(OUT), "one\n");
}

// Failing steps

#[test]
fn a_step_that_fails_after_a_part_of_its_output_never_counts() {
    let space = Space::new(
        r#"
        [steps.a]
        uses = "command"
        run = "echo a >> RUNS; echo part > out.txt; cat ${inputs.text} >> out.txt; test ! -e OUTSIDE/bad"
        inputs = { text = "data/text.txt" }
        outputs = { text = "out.txt" }
        [steps.b]
        uses = "command"
        run = "echo b >> RUNS; cp ${inputs.text} b.txt"
        inputs = { text = "@a" }
        outputs = { text = "b.txt" }
        "#,
    );
    space.write("data/text.txt", "one\n");
    assert_eq!(space.rerun(), ["a", "b"]);
    space.write("data/text.txt", "two\n");
    fs::write(space.outside("bad"), "").unwrap();
    for _ in 0..3 {
        let run = space.build(&[]);
        assert_eq!(
            (run.code, space.ran()),
            (Some(1), vec!["a".to_owned()]),
            "{run}"
        );
        assert_eq!((run.total("failed"), run.total("skipped")), (1, 1));
        assert_eq!(space.read("cache/out/main/a/out.txt"), "part\none\n");
        assert_eq!(space.read("cache/out/main/b/b.txt"), "part\none\n");
        assert_eq!(space.retune(&["plan", "--check"]).code, Some(2));
    }
    fs::remove_file(space.outside("bad")).unwrap();
    let run = space.built(&[]);
    assert_eq!(space.ran(), ["a", "b"], "{run}");
    assert_eq!(space.read("cache/out/main/b/b.txt"), "part\ntwo\n");
}

#[test]
fn the_end_of_a_failed_steps_log_is_shown_and_the_whole_kept() {
    let space = script("for i in $(seq 40); do echo line $i; done; echo last words >&2; exit 7");
    let run = space.build(&[]);
    assert!(
        run.err.contains("the program ended with exit code 7"),
        "{run}"
    );
    assert!(run.err.contains("line 40\n  | last words"), "{run}");
    assert!(!run.err.contains("line 10\n"), "{run}");
    let failed = run.of_kind("step-failed")[0];
    let log = fs::read_to_string(failed["log"].as_str().unwrap()).unwrap();
    assert!(
        log.starts_with("line 1\n") && log.ends_with("last words\n"),
        "{log}"
    );
}

#[test]
fn a_missing_output_is_a_failure() {
    let space = script("echo x > wrong.txt");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1));
    assert!(
        run.err.contains("output 'text' (out.txt) was not written"),
        "{run}"
    );
    assert_eq!(space.build(&[]).code, Some(1), "and again");
    assert_eq!(space.ran(), ["a", "a"]);
}

#[test]
fn an_output_of_the_wrong_shape_is_a_failure() {
    let run = script("mkdir out.txt").build(&[]);
    assert_eq!(run.code, Some(1));
    assert!(
        run.err
            .contains("output 'text' (out.txt) is a folder, not a file"),
        "{run}"
    );
    let space = script("echo x > out");
    space.edit("'out.txt'", "'out/'");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("is a file, not a folder"), "{run}");
}

#[test]
fn an_output_behind_a_link_is_a_failure_and_stays_where_it_is() {
    let space = script("ln -s OUTSIDE/theirs out");
    space.edit("'out.txt'", "'out/keep.txt'");
    fs::create_dir(space.outside("theirs")).unwrap();
    fs::write(space.outside("theirs/keep.txt"), "theirs\n").unwrap();
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(run.err.contains("lies behind a symbolic link"), "{run}");
    let kept = fs::read_to_string(space.outside("theirs/keep.txt"));
    assert_eq!(kept.unwrap(), "theirs\n");
}

#[test]
fn a_link_as_an_output_is_a_failure() {
    let space = script("ln -s /etc/passwd out.txt");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(
        run.err
            .contains("hint: an output may hold files and folders only"),
        "{run}"
    );
    let space = script("mkdir out; ln -s /etc/passwd out/link");
    space.edit("'out.txt'", "'out/'");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(run.err.contains("out/link"), "{run}");
}

#[test]
fn an_output_with_another_name_is_not_shared_with_the_store() {
    let space = Space::new(
        r#"
        [steps.a]
        uses = "command"
        run = '''
        echo good > file; ln file OUTSIDE/file
        mkdir -p folder/sub; echo good too > folder/sub/x; ln folder/sub/x OUTSIDE/x
        chmod +x folder/sub/x
        '''
        outputs = { file = "file", folder = { path = "folder", type = "folder" } }
        "#,
    );
    space.built(&[]);
    for name in ["file", "x"] {
        let path = space.outside(name);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert!(mode & 0o200 != 0, "left as it was: {mode:o}");
        fs::write(path, "evil\n").unwrap();
    }
    let verified = space.retune(&["cache", "verify"]);
    assert_eq!(verified.code, Some(0), "{verified}");
    space.remove("cache/out");
    space.built(&[]);
    assert_eq!(space.read("cache/out/main/a/file"), "good\n");
    let x = space.path("cache/out/main/a/folder/sub/x");
    assert_eq!(fs::read_to_string(&x).unwrap(), "good too\n");
    assert!(fs::metadata(x).unwrap().permissions().mode() & 0o100 != 0);
}

#[test]
fn a_program_that_is_not_there_is_a_failure_with_a_hint() {
    let space = script("");
    space.pipeline("[steps.a]\nuses = 'command'\nrun = ['no-such-program']\n");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("failed to start no-such-program"), "{run}");
    assert!(
        run.err.contains("hint: is it installed and on PATH?"),
        "{run}"
    );
}

#[test]
fn a_missing_input_is_a_failure_that_names_it() {
    let space = Space::new(COPY);
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(run.err.contains("data/text.txt does not exist"), "{run}");
    assert_eq!(space.ran().len(), 0);
}

#[test]
fn an_input_that_changes_while_its_step_runs_is_noticed() {
    let space = copy();
    let (running, _) = in_the_middle(&space);
    space.write("data/text.txt", "three\nwait\n");
    go(&space);
    let run = running.end();
    // Its result was made of a mixture: it must not be believed for either text.
    let believed = |text: &str| {
        space.write("data/text.txt", text);
        space.ran();
        space.built(&[]);
        (space.ran().is_empty()).then(|| space.read(OUT))
    };
    for text in ["two\nwait\n", "three\nwait\n"] {
        if let Some(out) = believed(text) {
            assert_eq!(out, text, "believed after\n{run}");
        }
    }
}

/// Runs a shell script in the project.
fn shell(space: &Space, script: &str) {
    let mut command = std::process::Command::new("sh");
    command.args(["-ec", script]).current_dir(space.path(""));
    assert!(command.status().unwrap().success(), "{script}");
}

#[test]
fn an_input_that_is_put_back_before_its_step_ends_is_noticed() {
    let space = Space::new(
        r#"
        [steps.a]
        uses = "command"
        run = '''
        touch OUTSIDE/begun; while ! test -e OUTSIDE/read; do sleep 0.02; done
        cat ${inputs.text} ${inputs.folder}/* ${inputs.link} > out.txt
        touch OUTSIDE/done; while ! test -e OUTSIDE/end; do sleep 0.02; done
        '''
        inputs = { text = "data/text", folder = "data/folder", link = "data/link" }
        outputs = { text = "out.txt" }
        "#,
    );
    space.write("data/text", "one\n");
    space.write("data/folder/sub", "two\n");
    space.write("data/three", "three\n");
    space.write("data/four", "four\n");
    shell(&space, "ln -s three data/link");
    for (change, undo) in [
        ("echo bad > data/text", "echo one > data/text"),
        // With its time and its number put back.
        (
            "cp -p data/text data/kept; echo bad > data/text",
            "cp -p data/kept data/text",
        ),
        (
            "mv data/text data/kept; echo bad > data/text",
            "mv data/kept data/text",
        ),
        ("echo bad > data/folder/sub", "echo two > data/folder/sub"),
        ("echo bad > data/folder/new", "rm data/folder/new"),
        ("ln -sfn four data/link", "ln -sfn three data/link"),
    ] {
        let running = space.start(&["build"]);
        let begun = |name: &str| {
            let path = space.outside(name);
            wait_for(name, || path.exists().then_some(()));
        };
        begun("begun");
        shell(&space, change);
        fs::write(space.outside("read"), "").unwrap();
        begun("done");
        shell(&space, undo);
        fs::write(space.outside("end"), "").unwrap();
        let run = running.end();
        assert_eq!(run.code, Some(1), "{change}: {run}");
        assert!(run.err.contains("again what it was"), "{change}: {run}");
        space.built(&[]);
        assert_eq!(space.read("cache/out/main/a/out.txt"), "one\ntwo\nthree\n");
        for name in ["begun", "done", "read", "end"] {
            fs::remove_file(space.outside(name)).unwrap();
        }
        space.remove("cache");
    }
}

#[test]
fn a_step_that_only_reads_its_input_is_built() {
    let space = Space::new(
        r#"
        [steps.small]
        uses = "command"
        run = "head -c 2000000 /dev/zero > s"
        outputs = { s = "s" }
        [steps.one]
        uses = "command"
        run = "cp ${inputs.s} out; cat ${inputs.text} >> out"
        inputs = { s = "@small", text = "data/text" }
        outputs = { out = "out" }
        [steps.two]
        uses = "command"
        run = "ln ${inputs.s} out"
        inputs = { s = "@small" }
        outputs = { out = "out" }
        "#,
    );
    space.write("data/text", "one\n");
    // The result is a link of the store to what the others have too.
    space.built(&["-j4"]);
    space.edit("cp ${inputs.s}", "cp  ${inputs.s}");
    space.built(&["-j4"]);
}

#[test]
fn what_a_step_leaves_running_is_ended_with_it() {
    let space = script("sleep 300 & echo $! > OUTSIDE/pid; echo x > out.txt");
    let start = Instant::now();
    space.built(&[]);
    assert!(start.elapsed() < Duration::from_secs(60));
    let pid = fs::read_to_string(space.outside("pid")).unwrap();
    wait_for("the end of the process", || (!is_alive(&pid)).then_some(()));
}

const THREE: &str = r#"
[steps.bad]
uses = "command"
run = "echo bad >> RUNS; exit 1"
[steps.below]
uses = "command"
run = "echo below >> RUNS"
inputs = { x = "@good", y = "@worse" }
[steps.good]
uses = "command"
run = "echo good >> RUNS; echo x > x"
outputs = { x = "x" }
[steps.worse]
uses = "command"
run = "echo worse >> RUNS; exit 2"
inputs = { x = "@good" }
outputs = { x = "x" }
"#;

#[test]
fn keep_going_runs_all_that_does_not_need_a_failed_step() {
    let space = Space::new(THREE);
    let run = space.build(&["--keep-going", "-j1"]);
    assert_eq!(run.code, Some(1));
    assert_eq!(space.ran(), ["bad", "good", "worse"]);
    assert_eq!(run.steps("step-failed"), ["bad", "worse"]);
    let skipped = run.of_kind("step-skipped");
    assert_eq!(skipped.len(), 1);
    assert_eq!(
        (&skipped[0]["step"], &skipped[0]["because"]),
        (&"below".into(), &"worse".into())
    );
    assert!(
        run.err.contains("failed: "),
        "both are named at the end: {run}"
    );
}

#[test]
fn without_keep_going_nothing_is_begun_after_a_failure() {
    let space = Space::new(THREE);
    let run = space.build(&["-j1"]);
    assert_eq!(run.code, Some(1));
    assert_eq!(
        (run.total("failed"), run.total("skipped") + run.total("ran")),
        (1, 3)
    );
    assert_eq!(space.ran().iter().filter(|step| *step != "good").count(), 1);
}

// Interrupted

#[test]
fn ctrl_c_stops_a_build_and_the_next_one_goes_on() {
    for signal in [Signal::INT, Signal::TERM] {
        let space = copy();
        let (running, pid) = in_the_middle(&space);
        let start = Instant::now();
        running.signal(signal);
        let run = running.end();
        assert!(
            start.elapsed() < Duration::from_secs(25),
            "the step complied at once"
        );
        assert_eq!(run.code, Some(130), "{run}");
        assert_eq!(run.steps("step-cancelled"), ["copy"]);
        assert_eq!(run.total("cancelled"), 1);
        assert!(!is_alive(&pid));
        assert_eq!(space.read(OUT), "one\n");
        go(&space);
        space.ran();
        assert_eq!(space.rerun(), ["copy"]);
        assert_eq!(space.read(OUT), "two\nwait\n");
    }
}

#[test]
fn a_step_that_does_not_stop_is_killed_after_the_grace() {
    let space = script("trap '' TERM; echo x > OUTSIDE/pid; while :; do sleep 0.1; done");
    let running = space.start(&["build", "--grace", "0.3"]);
    wait_for("the step's start", || {
        space.outside("pid").exists().then_some(())
    });
    running.signal(Signal::INT);
    let run = running.end();
    assert_eq!(run.code, Some(130), "{run}");
    assert_eq!(run.of_kind("stopping")[0]["grace"], 0.3);
    assert_eq!(run.steps("step-cancelled"), ["a"]);
}

#[test]
fn a_second_ctrl_c_ends_the_build_at_once() {
    let space = script("trap '' TERM; echo $$ > OUTSIDE/pid; while :; do sleep 0.1; done");
    let running = space.start(&["build", "--grace", "300"]);
    let pid = wait_for("the step's start", || {
        fs::read_to_string(space.outside("pid"))
            .ok()
            .filter(|pid| pid.ends_with('\n'))
    });
    running.signal(Signal::INT);
    running.wait_for("stopping", 1);
    running.signal(Signal::INT);
    assert_eq!(running.end().code, Some(130));
    wait_for("the step dies too", || (!is_alive(&pid)).then_some(()));
}

// At the same time

#[test]
fn a_second_build_waits_and_then_has_nothing_to_do() {
    let space = copy();
    let (first, _) = in_the_middle(&space);
    let second = space.start(&["build"]);
    let waiting = second.wait_for("waiting", 1);
    let holder = waiting["holder"].as_str().unwrap().to_owned();
    assert!(
        holder.starts_with("process ") && holder.contains("'main'"),
        "{holder}"
    );
    go(&space);
    assert_eq!(first.end().total("ran"), 1);
    let run = second.end();
    assert_eq!((run.code, run.total("up_to_date")), (Some(0), 1), "{run}");
    assert!(run.err.contains("waiting for process "), "{run}");
    assert_eq!(space.ran(), ["copy"]);
}

#[test]
fn a_build_that_waited_builds_what_the_pipeline_says_then() {
    let space = copy();
    let (first, _) = in_the_middle(&space);
    let second = space.start(&["build"]);
    second.wait_for("waiting", 1);
    let late = "[steps.late]\nuses = 'command'\nrun = 'echo late >> RUNS'\n";
    space.pipeline(&(space.read("pipelines/main.toml") + late));
    go(&space);
    assert_eq!(first.end().total("ran"), 1);
    let run = second.end();
    assert_eq!((run.code, run.total("ran")), (Some(0), 1), "{run}");
    assert_eq!(space.ran(), ["copy", "late"]);
}

#[test]
fn a_waiting_build_can_be_interrupted() {
    let space = copy();
    let (first, _) = in_the_middle(&space);
    let second = space.start(&["build"]);
    second.wait_for("waiting", 1);
    second.signal(Signal::INT);
    let run = second.end();
    assert_eq!(run.code, Some(130), "{run}");
    go(&space);
    assert_eq!(first.end().code, Some(0));
}

#[test]
fn a_plan_does_not_wait_for_a_build() {
    let space = copy();
    let (running, _) = in_the_middle(&space);
    let plan = space.retune(&["plan", "--check"]);
    assert_eq!(plan.code, Some(2), "{plan}");
    go(&space);
    assert_eq!(running.end().code, Some(0));
}

// Damaged files of our own

/// The journal's file.
fn journal(space: &Space) -> std::path::PathBuf {
    let found = fs::read_dir(space.path("cache")).unwrap().flatten();
    let mut found = found.map(|entry| entry.path());
    let is = |path: &std::path::PathBuf| path.file_name().is_some_and(|name| name == "journal");
    found.find(is).expect("cache/journal")
}

#[test]
fn a_torn_end_of_the_journal_is_cut_off() {
    let space = copy();
    let path = journal(&space);
    let whole = fs::read(&path).unwrap();
    let mut torn = whole.clone();
    torn.extend_from_slice(&whole[whole.len() - 20..whole.len() - 3]);
    fs::write(&path, torn).unwrap();
    let run = space.built(&[]);
    assert_eq!(space.ran().len(), 0);
    assert!(
        run.err
            .contains("warning: the last 17 bytes of the store's journal"),
        "{run}"
    );
    assert_eq!(space.built(&[]).of_kind("warning").len(), 0, "said once");
}

#[test]
fn a_journal_cut_short_costs_only_what_was_lost() {
    let space = copy();
    let path = journal(&space);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    let run = space.built(&[]);
    assert!(run.err.contains("warning: "), "{run}");
    assert_eq!(space.read(OUT), "one\n");
    assert_eq!(space.rerun().len(), run.total("ran") as usize);
    assert_eq!(space.retune(&["verify"]).code, Some(0));
}

#[test]
fn a_damaged_stat_cache_costs_only_time() {
    let space = copy();
    let found = fs::read_dir(space.path("cache")).unwrap().flatten();
    let stats = found.map(|entry| entry.path());
    let stats: Vec<_> = stats
        .filter(|path| path.to_string_lossy().contains("stat"))
        .collect();
    assert_eq!(stats.len(), 1, "{stats:?}");
    for damage in [&b""[..], b"rubbish", &[0xff; 4096]] {
        fs::write(&stats[0], damage).unwrap();
        assert_eq!(space.rerun().len(), 0);
    }
    let mut bytes = fs::read(&stats[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(&stats[0], bytes).unwrap();
    assert_eq!(space.rerun().len(), 0);
}

#[test]
fn a_damaged_lock_file_is_named() {
    let space = copy();
    space.write("pipelines/main.lock", "<<<<<<< HEAD\nformat = 1\n");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(5), "{run}");
    assert!(
        run.err
            .contains("pipelines/main.lock has a merge conflict in line 1"),
        "{run}"
    );
    assert!(run.err.contains("hint: `retune lock --repair`"), "{run}");
    space.remove("pipelines/main.lock");
    assert_eq!(space.rerun().len(), 0);
}

#[test]
fn a_lock_file_of_a_newer_program_is_not_overwritten() {
    let space = copy();
    let newer = space
        .read("pipelines/main.lock")
        .replace("format = 1", "format = 99");
    space.write("pipelines/main.lock", &newer);
    let run = space.build(&[]);
    assert_eq!(run.code, Some(5), "{run}");
    assert!(run.err.contains("hint: install a newer retune"), "{run}");
    assert_eq!(space.read("pipelines/main.lock"), newer);
}

#[test]
fn a_store_that_cannot_be_written_is_said() {
    let space = copy();
    let cache = space.path("cache");
    let mode = |mode| fs::set_permissions(&cache, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o555);
    let denied = fs::write(cache.join("probe"), "").is_err();
    if denied {
        space.write("data/text.txt", "two\n");
        let run = space.build(&[]);
        assert_eq!(run.code, Some(5), "{run}");
        assert!(run.err.contains("cache"), "{run}");
    }
    mode(0o755);
}

#[test]
fn a_cache_that_is_a_file_is_said() {
    let space = Space::new(COPY);
    space.write("data/text.txt", "one\n");
    space.write("cache", "");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(5), "{run}");
    assert!(
        run.err.starts_with("error: failed to ") && run.err.contains("/cache"),
        "{run}"
    );
}

// What a step's neighbours and its user do meanwhile

#[test]
fn a_program_that_ends_well_when_told_to_stop_is_not_built() {
    let space = script(
        "trap 'echo partial > out.txt; exit 0' TERM; echo x > OUTSIDE/pid
while ! test -e OUTSIDE/go; do sleep 0.05; done; echo whole > out.txt",
    );
    let running = space.start(&["build", "--grace", "30"]);
    wait_for("the step's start", || {
        space.outside("pid").exists().then_some(())
    });
    running.signal(Signal::INT);
    let run = running.end();
    assert_eq!((run.code, run.total("cancelled")), (Some(130), 1), "{run}");
    go(&space);
    space.ran();
    assert_eq!(space.rerun(), ["a"], "it is not taken for built");
    assert_eq!(space.read("cache/out/main/a/out.txt"), "whole\n");
}

#[test]
fn a_step_that_writes_to_its_input_cannot_poison_another() {
    let space = Space::new(
        r#"
        [steps.small]
        uses = "command"
        run = "echo good > s.txt"
        outputs = { s = "s.txt" }
        [steps.evil]
        uses = "command"
        run = "chmod +w ${inputs.s}; echo EVIL > ${inputs.s}; echo done > e.txt"
        inputs = { s = "@small" }
        outputs = { e = "e.txt" }
        [steps.victim]
        uses = "command"
        run = "cat ${inputs.s} ${inputs.e} > v.txt"
        inputs = { s = "@small", e = "@evil" }
        outputs = { v = "v.txt" }
        "#,
    );
    let run = space.build(&["-k"]);
    assert_eq!(run.steps("step-failed"), ["evil"], "{run}");
    assert!(run.err.contains("changed while the step ran"), "{run}");
    assert!(!space.exists("cache/out/main/victim/v.txt"));
    space.edit("chmod +w ${inputs.s}; echo EVIL > ${inputs.s}; ", "");
    space.built(&[]);
    assert_eq!(space.read("cache/out/main/victim/v.txt"), "good\ndone\n");
}

#[test]
fn a_result_that_cannot_be_put_in_place_is_kept() {
    let space = Space::new(
        r#"
        [steps.a]
        uses = "command"
        run = "echo a >> RUNS; echo dear > a.txt"
        out = "data/taken"
        outputs = { a = "a.txt" }
        "#,
    );
    space.write("data/taken", "a file where the folder belongs\n");
    let run = space.build(&[]);
    assert_eq!((run.code, run.steps("step-failed")), (Some(1), vec!["a"]));
    assert!(run.err.contains("could not be put in place"), "{run}");
    assert_eq!(space.ran(), ["a"]);
    space.remove("data/taken");
    let run = space.built(&[]);
    assert_eq!(run.steps("step-restored"), ["a"], "{run}");
    assert_eq!(
        (space.ran().len(), space.read("data/taken/a.txt")),
        (0, "dear\n".into())
    );
}

/// What is promised to be durable is found under its name after a power failure.
#[test]
fn the_names_of_the_lock_file_and_the_journal_are_made_durable() {
    if !support::has_strace() {
        return;
    }
    let space = Space::new(COPY);
    space.write("data/text.txt", "one\n");
    let build = || {
        let calls = space.outside("calls");
        let mut command = std::process::Command::new("strace");
        command.args([
            "--quiet=all",
            "-f",
            "-y",
            "-e",
            "trace=fsync,rename,renameat,renameat2",
            "-o",
        ]);
        command.arg(&calls).arg(support::program()).arg("build");
        command
            .current_dir(space.path(""))
            .stdin(std::process::Stdio::null());
        let run = support::Run::of(&mut command);
        assert_eq!(run.code, Some(0), "{run}");
        fs::read_to_string(calls).unwrap()
    };
    let synced = |calls: &str, folder: &str| {
        let folder = format!("{}>)", space.path(folder).display());
        let of_folder = |line: &&str| line.contains("fsync(") && line.contains(&folder);
        calls.lines().filter(of_folder).count()
    };
    let calls = build();
    assert_eq!(synced(&calls, "cache"), 1, "the journal is new: {calls}");
    let renamed = calls.find("pipelines/main.lock\"").expect("it is renamed");
    assert_eq!(synced(&calls[renamed..], "pipelines"), 1, "{calls}");
    // And not without need.
    let calls = build();
    assert_eq!(
        synced(&calls, "cache") + synced(&calls, "pipelines"),
        0,
        "{calls}"
    );
}

#[test]
fn looking_at_a_project_makes_no_store() {
    let space = Space::new(COPY);
    space.write("data/text.txt", "one\n");
    for verb in ["plan", "verify", "graph", "status", "runs"] {
        space.retune(&[verb]);
        assert!(!space.exists("cache"), "{verb}");
    }
}
