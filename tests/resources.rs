//! What steps are given of the machine, and what becomes of those that fail or take too long.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Space, wait_for};

/// A pipeline of steps that note when they begin and end, with what they see.
fn noting(steps: &[(&str, &str)]) -> Space {
    let step = |(name, settings): &(&str, &str)| {
        format!(
            "[steps.{name}]\nuses = 'command'\nrun = '''\n\
             echo \"begin {name} $CUDA_VISIBLE_DEVICES\" >> RUNS\nsleep 0.3\n\
             echo \"end {name} $CUDA_VISIBLE_DEVICES\" >> RUNS\n\
             echo {name} > o\n'''\noutputs = {{ o = 'o' }}\n{settings}\n"
        )
    };
    let steps: Vec<String> = steps.iter().map(step).collect();
    Space::new(&steps.concat())
}

/// The lines of `RUNS` in the order in which they were written.
fn notes(space: &Space) -> Vec<String> {
    let text = std::fs::read_to_string(space.outside("runs")).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The most steps that were at it at the same time.
fn most_at_once(notes: &[String]) -> usize {
    let mut now: usize = 0;
    let mut most = 0;
    for note in notes {
        match note.starts_with("begin") {
            true => now += 1,
            false => now -= 1,
        }
        most = most.max(now);
    }
    most
}

/// A step that fails its first `failures` times and then writes how often it was tried.
fn failing(failures: u32, settings: &str) -> Space {
    Space::new(&format!(
        "[steps.a]\nuses = 'command'\nrun = '''\n\
         echo a >> RUNS\nn=$(cat OUTSIDE/n 2>/dev/null || echo 0)\n\
         echo try $n\necho $((n + 1)) > OUTSIDE/n\n\
         test $n -ge {failures} || exit 7\necho $n > o\n'''\n\
         outputs = {{ o = 'o' }}\n{settings}\n"
    ))
}

// Admission

/// `n` steps that run `script` and write a folder
/// each, and how many files they may have open.
fn together(n: usize, script: &str) -> Space {
    let step = |i: usize| {
        format!(
            "[steps.s{i}]\nuses = 'command'\nrun = '''{script}\nmkdir -p d/e; echo {i} > d/e/x; \
             echo {i} > d/y; ulimit -Sn > n'''\n\
             outputs = {{ d = {{ path = 'd', type = 'folder' }}, n = 'n' }}\n"
        )
    };
    Space::new(&(0..n).map(step).collect::<String>())
}

#[test]
fn steps_get_the_limit_of_open_files_that_the_build_was_given() {
    let all = "touch OUTSIDE/$$; while test $(ls OUTSIDE | grep -c '^[0-9]*$') -lt 40; do sleep 0.05; done";
    let space = together(40, all);
    let within = ["-c", "ulimit -Sn 64; exec \"$0\" \"$@\""];
    let run = space.start_within("sh", &within, &["build", "-j40"]).end();
    assert_eq!((run.code, run.total("ran")), (Some(0), 40), "{run}");
    assert!(!run.err.contains("ulimit"), "{run}");
    assert_eq!(space.read("cache/out/main/s7/n"), "64\n");
}

#[test]
fn where_few_files_may_be_open_fewer_steps_run_at_once() {
    let space = together(40, "sleep 0.1");
    let within = ["-c", "ulimit -n 64; exec \"$0\" \"$@\""];
    let run = space.start_within("sh", &within, &["build", "-j40"]).end();
    assert_eq!((run.code, run.total("ran")), (Some(0), 40), "{run}");
    assert!(
        run.err.contains("not more than 10 steps run at once"),
        "{run}"
    );
}

#[test]
fn steps_together_never_have_more_cpus_than_there_are() {
    let two = "resources = { cpus = 2 }";
    let space = noting(&[("a", two), ("b", two), ("c", two), ("d", two)]);
    space.built(&["-j", "8", "--cpus", "5"]);
    assert_eq!(most_at_once(&notes(&space)), 2);
}

#[test]
fn a_pool_is_shared_and_the_command_line_can_resize_it() {
    let one = "resources = { pools = { disk = 1 } }";
    let space = noting(&[("a", one), ("b", one), ("c", one)]);
    let text = space.read("pipelines/main.toml");
    space.pipeline(&format!("[pipeline]\npools = {{ disk = 1 }}\n{text}"));
    space.built(&["-j", "8"]);
    assert_eq!(most_at_once(&notes(&space)), 1);
    space.ran();
    space.built(&[
        "-j", "8", "--pool", "disk=3", "--force", "a", "--force", "b", "--force", "c",
    ]);
    assert_eq!(most_at_once(&notes(&space)), 3);
    let run = space.build(&["--pool", "dsk=3"]);
    assert_eq!(run.code, Some(4), "{run}");
    assert!(run.err.contains("did you mean 'disk'?"), "{run}");
}

#[test]
fn gpus_are_handed_out_by_id_and_nobody_shares_a_whole_one() {
    let (one, two, half) = (
        "resources = { gpus = 1 }",
        "resources = { gpus = 2 }",
        "resources = { gpus = 0.5 }",
    );
    let space = noting(&[
        ("a", one),
        ("b", one),
        ("c", two),
        ("d", half),
        ("e", half),
        ("f", half),
        ("none", ""),
    ]);
    let run = space.built(&["-j", "8", "--cpus", "8", "--gpus", "3,5"]);
    let mut held: BTreeMap<String, f64> = BTreeMap::new();
    for note in notes(&space) {
        let [what, step, ids] = note.splitn(3, ' ').collect::<Vec<_>>()[..] else {
            panic!("{note}");
        };
        let share = if "def".contains(step) { 0.5 } else { 1.0 };
        let ids: Vec<&str> = ids.split(',').filter(|id| !id.is_empty()).collect();
        let wanted = match step {
            "none" => 0,
            "c" => 2,
            _ => 1,
        };
        assert_eq!(ids.len(), wanted, "{note}");
        for id in ids {
            assert!(["3", "5"].contains(&id), "{note}");
            let now = held.entry(id.to_owned()).or_default();
            *now += if what == "begin" { share } else { -share };
            assert!(*now <= 1.0, "{id} is used {now} times: {note}");
        }
    }
    let started = run.of_kind("step-started");
    let of = |step: &str| {
        let event = started.iter().find(|event| event["step"] == step).unwrap();
        event["resources"].clone()
    };
    assert_eq!(of("c")["gpus"], json!(["3", "5"]));
    assert_eq!(of("d")["gpu_share"], 0.5);
    assert_eq!(
        space.records("c")[0]["resources"]["gpus"],
        json!(["3", "5"])
    );
}

#[test]
fn the_gpus_of_the_environment_are_those_that_there_are() {
    let space = noting(&[("a", "resources = { gpus = 2 }")]);
    let with = |list: &'static str| {
        let list = move |command: &mut std::process::Command| {
            command.env("CUDA_VISIBLE_DEVICES", list);
        };
        space.build_with(&[], list)
    };
    let run = with("1");
    assert_eq!(run.code, Some(3), "{run}");
    assert_eq!(with("4,6,7").code, Some(0));
    assert_eq!(notes(&space)[0], "begin a 4,6");
}

#[test]
fn a_step_may_use_as_many_threads_as_it_has_cpus() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\nrun = 'echo $RAYON_NUM_THREADS $OMP_NUM_THREADS > o'\n\
         outputs = { o = 'o' }\nresources = { cpus = 3 }\n\
         [steps.b]\nuses = 'command'\nrun = 'echo $OMP_NUM_THREADS > o'\n\
         outputs = { o = 'o' }\n",
    );
    space.built(&["--cpus", "4"]);
    assert_eq!(space.read("cache/out/main/a/o"), "3 3\n");
    assert_eq!(space.read("cache/out/main/b/o"), "1\n");
}

#[test]
fn higher_priority_goes_first() {
    let space = noting(&[
        ("a", ""),
        ("b", "priority = 5"),
        ("c", "priority = 7"),
        ("d", "priority = -1"),
    ]);
    space.built(&["-j", "1"]);
    let begun = notes(&space);
    let begun = begun.iter().filter(|note| note.starts_with("begin"));
    let order: String = begun
        .map(|note| note["begin ".len()..].trim().to_owned())
        .collect();
    assert_eq!(order, "cbad");
}

#[test]
fn more_than_there_is_is_refused_before_anything_runs() {
    let space = noting(&[("a", ""), ("b", "resources = { cpus = 64, gpus = 3 }")]);
    let run = space.build(&["--cpus", "2", "--gpus", "0,1"]);
    assert_eq!(run.code, Some(3), "{run}");
    insta::assert_snapshot!(run.err, @r#"
    main: 2 steps, 2 at a time
    error: nothing was run, for this machine has less than steps ask for:
             pipelines/main.toml:20: b asks for 64 cpus, but there are 2
             pipelines/main.toml:20: b asks for 3 gpus, but there are 2
    hint: ask for less, or say what there is: --cpus, --memory, --gpus, --pool
    "#);
    assert_eq!(space.ran(), [""; 0]);
}

#[test]
fn what_is_up_to_date_needs_nothing() {
    let space = noting(&[("a", "resources = { cpus = 4, gpus = 1 }")]);
    space.built(&["--cpus", "4", "--gpus", "0"]);
    let run = space.built(&["--cpus", "1", "--gpus", ""]);
    assert_eq!(run.total("up_to_date"), 1);
    space.remove("cache/out/main/a/o");
    let run = space.built(&["--cpus", "1", "--gpus", ""]);
    assert_eq!(run.total("restored"), 1);
}

#[test]
fn how_a_step_runs_is_no_part_of_its_key() {
    let space = noting(&[("a", "priority = 1")]);
    space.built(&[]);
    space.ran();
    space.edit(
        "priority = 1",
        "priority = 9\ntimeout = '1h'\nretry = { times = 2 }\n\
         resources = { cpus = 1, memory = '1MiB' }\ncheckpoint = true",
    );
    assert_eq!(space.built(&[]).total("up_to_date"), 1);
    assert_eq!(space.ran(), [""; 0]);
}

#[test]
fn two_steps_with_one_key_do_the_work_once() {
    let same = "uses = 'command'\nrun = '''echo x >> RUNS\nsleep 0.2\necho x > o'''\n\
                outputs = { o = 'o' }\n";
    let space = Space::new(&format!("[steps.a]\n{same}[steps.b]\n{same}"));
    let run = space.built(&["-j", "4"]);
    assert_eq!(space.ran(), ["x"]);
    assert_eq!((run.total("ran"), run.total("restored")), (1, 1));
}

// Trying again

#[test]
fn a_step_that_fails_is_tried_again_after_growing_waits() {
    let space = failing(2, "retry = { times = 3, wait = '100ms', factor = 3 }");
    let start = Instant::now();
    let run = space.built(&[]);
    assert!(start.elapsed() >= Duration::from_millis(400), "it waited");
    assert_eq!(space.ran(), ["a", "a", "a"]);
    assert_eq!(run.total("ran"), 1);
    let retried = run.of_kind("step-retried");
    let told: Vec<_> = retried
        .iter()
        .map(|event| {
            (
                event["attempt"].as_u64().unwrap(),
                event["wait"].as_f64().unwrap(),
            )
        })
        .collect();
    assert_eq!(told, [(1, 0.1), (2, 0.3)]);
    assert_eq!(retried[0]["attempts"], 4);
    assert_eq!(retried[1]["log_tail"], json!(["try 1"]));
    let log = retried[0]["log"].as_str().unwrap();
    assert_eq!(
        std::fs::read_to_string(log).unwrap(),
        "try 0\n",
        "kept apart"
    );
    let attempts: Vec<_> = run
        .of_kind("step-started")
        .iter()
        .map(|e| e["attempt"].clone())
        .collect();
    assert_eq!(attempts, [1, 2, 3]);
    let record = &space.records("a")[0];
    let failed = record["failed_attempts"].as_array().unwrap();
    assert_eq!(failed.len(), 2);
    assert_eq!(
        failed[0]["error"]["message"],
        "the program ended with exit code 7"
    );
    assert!(
        run.err.contains("attempt 1 of 4 failed; again in 0.10 s"),
        "{run}"
    );
}

#[test]
fn a_step_that_keeps_failing_fails() {
    let space = failing(9, "retry = { times = 2, wait = 0 }");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1), "{run}");
    assert_eq!(space.ran(), ["a", "a", "a"]);
    assert_eq!(run.total("failed"), 1);
    assert_eq!(run.steps("step-failed"), ["a"]);
    // The next build begins to count anew.
    assert_eq!(space.build(&[]).of_kind("step-retried").len(), 2);
}

#[test]
fn later_attempts_get_more() {
    let space = failing(
        2,
        "resources = { memory = '1MiB' }\n\
         retry = { times = 2, wait = 0, grow = 3, resources = { cpus = 2, memory = '2MiB' } }",
    );
    let run = space.built(&["--cpus", "2"]);
    let given: Vec<(Value, Value)> = run
        .of_kind("step-started")
        .iter()
        .map(|event| {
            (
                event["resources"]["cpus"].clone(),
                event["resources"]["memory"].clone(),
            )
        })
        .collect();
    let mib = |n: u64| json!(n << 20);
    assert_eq!(
        given,
        [(json!(1), mib(1)), (json!(2), mib(2)), (json!(2), mib(6))]
    );
    // Up to the machine's, and there it stays.
    space.edit(
        "resources = { cpus = 2, memory = '2MiB' }",
        "resources = { cpus = 2 }",
    );
    std::fs::remove_file(space.outside("n")).unwrap();
    let run = space.built(&["--cpus", "2", "--memory", "2MiB", "--force", "a"]);
    let memory = |event: &Value| event["resources"]["memory"].clone();
    let given: Vec<Value> = run
        .of_kind("step-started")
        .iter()
        .map(|e| memory(e))
        .collect();
    assert_eq!(given, [mib(1), mib(2), mib(2)], "{run}");
    space.edit("cpus = 2 }", "cpus = 9 }");
    space.edit("'1MiB'", "'3MiB'");
    let run = space.build(&["--cpus", "2", "--force", "a"]);
    assert_eq!(run.code, Some(3), "{run}");
    assert!(
        run.err
            .contains("9 cpus, but there are 2 (when tried again)"),
        "{run}"
    );
}

#[test]
fn nothing_else_waits_for_a_step_that_rests() {
    let space = failing(1, "retry = { times = 1, wait = '1s' }");
    let text = space.read("pipelines/main.toml");
    space.pipeline(&format!(
        "{text}[steps.b]\nuses = 'command'\nrun = 'echo b >> RUNS; echo b > o'\noutputs = {{ o = 'o' }}\n"
    ));
    space.built(&["-j", "1"]);
    let order = std::fs::read_to_string(space.outside("runs")).unwrap();
    assert_eq!(order, "a\nb\na\n");
}

#[test]
fn ctrl_c_ends_a_run_whose_step_rests() {
    let space = failing(9, "retry = { times = 9, wait = '1h', max_wait = '1h' }");
    let running = space.start(&["build"]);
    running.wait_for("step-retried", 1);
    running.signal(rustix::process::Signal::INT);
    let run = running.end();
    assert_eq!(run.code, Some(130), "{run}");
    assert_eq!(run.total("cancelled"), 1);
}

// Time

#[test]
fn a_step_that_ignores_the_request_to_stop_is_killed() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\nrun = '''\ntrap 'echo asked' TERM\necho $$ > OUTSIDE/pid\n\
         while :; do sleep 0.05; done\n'''\noutputs = { o = 'o' }\ntimeout = '200ms'\n",
    );
    let run = space.build(&["--grace", "0.3"]);
    assert_eq!(run.code, Some(1), "{run}");
    let failed = run.of_kind("step-failed");
    let message = failed[0]["error"]["message"].as_str().unwrap();
    assert_eq!(
        message,
        "it took longer than its timeout of 200ms and was stopped"
    );
    assert!(failed[0]["log_tail"].to_string().contains("asked"), "{run}");
    let pid = std::fs::read_to_string(space.outside("pid")).unwrap();
    wait_for("the step is gone", || {
        (!support::is_alive(&pid)).then_some(())
    });
}

#[test]
fn a_timeout_is_a_failure_that_may_be_retried() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\nrun = '''\necho a >> RUNS\n\
         if ! test -e OUTSIDE/slow; then touch OUTSIDE/slow; sleep 60; fi\necho a > o\n'''\n\
         outputs = { o = 'o' }\ntimeout = 2\nretry = { times = 1, wait = 0 }\n",
    );
    let run = space.built(&[]);
    assert_eq!(space.ran(), ["a", "a"]);
    assert_eq!(run.of_kind("step-retried").len(), 1);
}

#[test]
fn a_step_in_time_is_left_alone() {
    let space = noting(&[("a", "timeout = '1min'")]);
    assert_eq!(space.built(&[]).total("ran"), 1);
}

// The file

/// What is said about the settings of a step.
fn refused(settings: &str) -> String {
    let space = noting(&[("a", settings)]);
    let run = space.retune(&["plan"]);
    assert_eq!(run.code, Some(3), "{run}");
    run.err
}

#[test]
fn settings_are_checked_where_they_stand() {
    insta::assert_snapshot!(refused("resources = { cpu = 2 }"), @r#"
    error: unknown field 'resources.cpu'
      --> pipelines/main.toml:10:15
       |
    10 | resources = { cpu = 2 }
       |               ^^^ not a field of 'resources'
       |
       = help: did you mean 'cpus'?
    "#);
    insta::assert_snapshot!(refused("resources = { gpus = 1.5, memory = 'much' }"), @r#"
    error: 'resources.gpus' must be whole or, for a share of one, below 1
      --> pipelines/main.toml:10:22
       |
    10 | resources = { gpus = 1.5, memory = 'much' }
       |                      ^^^
    
    error: 'resources.memory' cannot be 'much': expected an amount such as 8GiB, 512MiB or 1.5GB
      --> pipelines/main.toml:10:36
       |
    10 | resources = { gpus = 1.5, memory = 'much' }
       |                                    ^^^^^^
    "#);
    insta::assert_snapshot!(refused("resources = { pools = { disk = 1 } }"), @r#"
    error: there is no pool 'disk'
      --> pipelines/main.toml:10:25
       |
    10 | resources = { pools = { disk = 1 } }
       |                         ^^^^
       |
       = help: declare it: [pipeline] pools = { disk = 1 }
    "#);
    insta::assert_snapshot!(refused("retry = { wait = '1s' }\ntimeout = 'soon'"), @r#"
    error: 'retry' lacks the field 'times'
      --> pipelines/main.toml:10:9
       |
    10 | retry = { wait = '1s' }
       |         ^^^^^^^^^^^^^^^
    
    error: 'timeout' cannot be 'soon': expected a time such as 90s, 10min or 2h 30min
      --> pipelines/main.toml:11:11
       |
    11 | timeout = 'soon'
       |           ^^^^^^
    "#);
    insta::assert_snapshot!(refused("priorty = 1"), @r#"
    error: unknown field 'priorty'
      --> pipelines/main.toml:10:1
       |
    10 | priorty = 1
       | ^^^^^^^ not a field of command
       |
       = help: did you mean 'priority'?
    "#);
    insta::assert_snapshot!(refused("timeout = 0"), @r#"
    error: 'timeout' must be above 0
      --> pipelines/main.toml:10:11
       |
    10 | timeout = 0
       |           ^
    "#);
}
