//! A step's processes: how they are started, what they get, and that nothing of them outlives the step or its build.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::{Pid, Signal, kill_process};
use support::{Running, Space, is_alive, wait_for};

/// A pipeline of one step that runs `script` and has one output, `out.txt`.
fn script(script: &str) -> Space {
    Space::new(&format!(
        "[steps.a]\nuses = 'command'\nrun = '''{script}\n'''\noutputs = {{ text = 'out.txt' }}\n"
    ))
}

/// A script that starts what is hard to find: a child of a child, one in a
/// session of its own, and one that has nothing of its parents any more; each
/// writes its number to a file outside.
const FAMILY: &str = "
(sh -c 'echo $$ > OUTSIDE/child.pid; while :; do sleep 0.1; done' & wait) &
setsid sh -c 'echo $$ > OUTSIDE/session.pid; while :; do sleep 0.1; done' &
(setsid env -i PATH=\"$PATH\" sh -c 'cd /; trap \"\" TERM HUP INT
  echo $$ > OUTSIDE/daemon.pid; while :; do sleep 0.1; done' &) &
echo $$ > OUTSIDE/step.pid
for name in child session daemon; do while ! test -s OUTSIDE/$name.pid; do sleep 0.02; done; done
";

const NAMES: [&str; 4] = ["step", "child", "session", "daemon"];

/// The numbers of the processes of [`FAMILY`], all of which are there.
fn family(space: &Space) -> Vec<String> {
    let pid = |name: &&str| {
        wait_for(&format!("the start of {name}"), || {
            let pid = fs::read_to_string(space.outside(&format!("{name}.pid"))).ok()?;
            pid.ends_with('\n').then(|| pid.trim().to_owned())
        })
    };
    NAMES.iter().map(pid).collect()
}

fn wait_for_their_end(pids: &[String]) {
    for (name, pid) in NAMES.iter().zip(pids) {
        wait_for(&format!("the end of {name}"), || {
            (!is_alive(pid)).then_some(())
        });
    }
}

/// A build in the middle of a step with a [`FAMILY`].
fn in_the_middle(space: &Space) -> (Running, Vec<String>) {
    let running = space.start(&["build", "--grace", "300"]);
    let pids = family(space);
    assert!(pids.iter().all(|pid| is_alive(pid)));
    (running, pids)
}

#[test]
fn nothing_of_a_step_outlives_a_killed_build() {
    let space = script(&format!("{FAMILY} sleep 300"));
    let (running, pids) = in_the_middle(&space);
    running.signal(Signal::KILL);
    assert_eq!(running.end().signal, Some(9));
    wait_for_their_end(&pids);
}

/// The parent of a process.
fn parent(pid: &str) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    rest.split_whitespace().nth(1).unwrap().to_owned()
}

fn kill(pid: &str) {
    kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
}

/// Processes with this in their environment.
fn marked(mark: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let is_marked = |pid: &String| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .windows(mark.len())
            .any(|part| part == mark.as_bytes())
    };
    let names = processes.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(is_marked).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_of_a_step_outlives_its_driver_its_keeper_or_both() {
    for killed in [
        &["keeper"][..],
        &["driver", "keeper"],
        &["driver", "guard"],
        &["keeper", "driver"],
    ] {
        let space = script(&format!("export MARK=OUTSIDE\n{FAMILY} sleep 300"));
        let (running, pids) = in_the_middle(&space);
        let keeper = parent(&pids[0]);
        let guard = parent(&keeper);
        assert_eq!(
            fs::read_to_string(format!("/proc/{guard}/comm")).unwrap(),
            "step-guard\n"
        );
        for who in killed {
            match *who {
                "driver" => running.signal(Signal::KILL),
                "keeper" => kill(&keeper),
                _ => kill(&guard),
            }
        }
        let run = running.end();
        let driver = killed.contains(&"driver");
        assert_eq!(run.signal, driver.then_some(9), "{killed:?}: {run}");
        wait_for_their_end(&pids);
        let mark = format!("MARK={}", space.outside("").display());
        wait_for(&format!("the end of all after {killed:?}"), || {
            marked(mark.trim_end_matches('/')).is_empty().then_some(())
        });
        wait_for("the end of the guard", || {
            (!is_alive(&guard) && !is_alive(&keeper)).then_some(())
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_keeper_goes_on_without_its_guard() {
    let space = script("while ! test -e OUTSIDE/go; do sleep 0.02; done; echo x > out.txt");
    space.edit("while", "echo $PPID > OUTSIDE/keeper; while");
    let running = space.start(&["build"]);
    let keeper = wait_for("the keeper", || {
        let text = fs::read_to_string(space.outside("keeper")).ok()?;
        text.ends_with('\n').then(|| text.trim().to_owned())
    });
    kill(&parent(&keeper));
    fs::write(space.outside("go"), "").unwrap();
    let run = running.end();
    assert_eq!(run.code, Some(0), "{run}");
    wait_for("the keeper's end", || (!is_alive(&keeper)).then_some(()));
}

#[test]
fn nothing_of_a_step_outlives_a_second_ctrl_c() {
    let space = script(&format!(
        "trap '' TERM\n{FAMILY} while :; do sleep 0.1; done"
    ));
    let (running, pids) = in_the_middle(&space);
    running.signal(Signal::INT);
    running.wait_for("stopping", 1);
    assert!(is_alive(&pids[0]), "it was asked only");
    running.signal(Signal::INT);
    assert_eq!(running.end().code, Some(130));
    wait_for_their_end(&pids);
}

#[test]
fn nothing_that_a_step_started_outlives_it() {
    let space = script(&format!("{FAMILY} echo x > out.txt"));
    space.built(&[]);
    for pid in family(&space) {
        assert!(!is_alive(&pid), "ended before the build does");
    }
}

#[test]
fn a_step_whose_keeper_is_killed_fails_and_the_build_goes_on() {
    let space = Space::new(
        r#"
        [steps.a]
        uses = "command"
        run = "echo $PPID > OUTSIDE/keeper; echo $$ > OUTSIDE/a.pid; sleep 300"
        [steps.b]
        uses = "command"
        run = "while ! test -e OUTSIDE/killed; do sleep 0.02; done; echo b > b"
        outputs = { b = "b" }
        [steps.c]
        uses = "command"
        run = "cat ${inputs.b} > c"
        inputs = { b = "@b" }
        outputs = { c = "c" }
        "#,
    );
    let running = space.start(&["build", "-k", "-j2"]);
    let read = |name: &str| {
        wait_for(name, || {
            let text = fs::read_to_string(space.outside(name)).ok()?;
            text.ends_with('\n').then(|| text.trim().to_owned())
        })
    };
    let (pid, keeper) = (read("a.pid"), read("keeper"));
    let keeper = Pid::from_raw(keeper.parse().unwrap()).unwrap();
    kill_process(keeper, Signal::KILL).unwrap();
    let failed = running.wait_for("step-failed", 1);
    assert_eq!(failed["step"], "a");
    fs::write(space.outside("killed"), "").unwrap();
    let run = running.end();
    assert_eq!(run.code, Some(1), "{run}");
    assert!(
        run.err.contains("the process that keeps the step died"),
        "{run}"
    );
    assert_eq!(space.read("cache/out/main/c/c"), "b\n");
    wait_for("the step dies too", || (!is_alive(&pid)).then_some(()));
}

#[test]
fn a_build_goes_on_with_the_program_that_it_began_with() {
    let space = Space::new(
        r#"
        [steps.a]
        uses = "command"
        run = "touch OUTSIDE/begun; while ! test -e OUTSIDE/go; do sleep 0.02; done; echo x > x"
        outputs = { x = "x" }
        [steps.plain]
        uses = "command"
        run = "cat ${inputs.x} > y; echo x > OUTSIDE/one; while ! test -e OUTSIDE/two; do sleep 0.02; done"
        inputs = { x = "@a" }
        outputs = { y = "y" }
        [steps.held]
        uses = "command"
        run = "cat ${inputs.x} > y"
        inputs = { x = "@a" }
        outputs = { y = "y" }
        sandbox = "if-available"
        [steps.built-in]
        uses = "data.import"
        files = ["@rows"]
        schema = "text"
        [steps.rows]
        uses = "command"
        run = "cat ${inputs.x} > /dev/null; echo '{\"text\":\"x\"}' > rows.jsonl; while ! test -e OUTSIDE/one; do sleep 0.02; done; touch OUTSIDE/two"
        inputs = { x = "@a" }
        outputs = { rows = "rows.jsonl" }
        "#,
    );
    let program = space.outside("retune");
    fs::copy(support::program(), &program).unwrap();
    let plain = space.command(&["build"]);
    let mut command = std::process::Command::new(&program);
    command.args(["build", "-j4"]).current_dir(space.path(""));
    command.env_clear().envs(
        plain
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let mut child = command.spawn().unwrap();
    let begun = space.outside("begun");
    wait_for("the first step", || begun.exists().then_some(()));
    let other = space.outside("other");
    fs::write(&other, "#!/bin/sh\nexit 7\n").unwrap();
    fs::set_permissions(&other, PermissionsExt::from_mode(0o755)).unwrap();
    fs::rename(&other, &program).unwrap();
    fs::write(space.outside("go"), "").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(space.exists("cache/out/main/held/y"));
}

#[test]
fn what_a_shell_started_may_finish_when_it_is_asked_to_stop() {
    let slow = |name: &str| {
        format!(
            "trap \"sleep 0.3; echo saved > OUTSIDE/{name}.saved; exit\" TERM
             echo x > OUTSIDE/{name}.begun; while :; do sleep 0.05; done"
        )
    };
    // One in the group of the shell, which is gone at once, and one that is not.
    let space = script(&format!(
        "sh -c '{}' & setsid sh -c '{}' & wait",
        slow("child"),
        slow("session")
    ));
    let running = space.start(&["build", "--grace", "300"]);
    for name in ["child.begun", "session.begun"] {
        let begun = space.outside(name);
        wait_for(name, || begun.exists().then_some(()));
    }
    running.signal(Signal::INT);
    let run = running.end();
    assert_eq!((run.code, run.total("cancelled")), (Some(130), 1), "{run}");
    for name in ["child.saved", "session.saved"] {
        assert!(space.outside(name).exists(), "{name}: {run}");
    }
}

#[test]
fn what_does_not_finish_when_it_is_asked_to_stop_is_killed_after_the_grace() {
    let space = script(&format!("{FAMILY} sleep 300"));
    let running = space.start(&["build", "--grace", "1"]);
    let pids = family(&space);
    running.signal(Signal::INT);
    assert_eq!(running.end().code, Some(130));
    wait_for_their_end(&pids);
}

#[test]
fn a_long_log_is_not_held_in_memory() {
    let space = script("head -c 200M /dev/zero; echo x > out.txt");
    let within = ["-c", "ulimit -d 150000; exec \"$0\" \"$@\""];
    let run = space.start_within("sh", &within, &["build"]).end();
    assert_eq!(run.code, Some(0), "{run}");
    let record = &space.records("a")[0];
    assert!(!record["log"].is_null(), "{record}");
}

/// A file of holes that takes a while to hash.
const LARGE: &str = "truncate -s 400M";

#[test]
fn the_time_that_outputs_take_is_not_the_steps() {
    let space = Space::new(&format!(
        r#"
        [steps.a]
        uses = "command"
        run = "echo a >> RUNS; {LARGE} out; echo $$ > OUTSIDE/pid"
        outputs = {{ out = "out" }}
        timeout = "200ms"
        "#
    ));
    space.built(&[]);
    space.edit("timeout = \"200ms\"", "");
    space.edit("echo a >>", "echo  a >>");
    fs::remove_file(space.outside("pid")).unwrap();
    space.ran();
    let running = space.start(&["build"]);
    wait_for("the end of the program", || {
        let pid = fs::read_to_string(space.outside("pid")).ok()?;
        (pid.ends_with('\n') && !is_alive(pid.trim())).then_some(())
    });
    running.signal(Signal::INT);
    let run = running.end();
    assert_eq!(run.total("cancelled"), 0, "{run}");
    assert_eq!(space.rerun(), ["a"], "what was finished before is kept");
}

#[test]
fn nothing_is_begun_after_ctrl_c_while_an_input_was_read() {
    let space = Space::new(
        r#"
        [steps.a]
        uses = "command"
        run = "echo a >> RUNS"
        inputs = { large = "large" }
        "#,
    );
    let large = fs::File::create(space.path("large")).unwrap();
    large.set_len(400 << 20).unwrap();
    let running = space.start(&["build"]);
    running.wait_for("run-started", 1);
    running.signal(Signal::INT);
    let run = running.end();
    assert_eq!(run.code, Some(130), "{run}");
    assert!(run.of_kind("step-started").is_empty(), "{run}");
    assert_eq!(space.ran().len(), 0);
}

#[test]
fn a_program_gets_no_input_and_both_outputs_in_one_log() {
    let space = script(
        "readlink /proc/self/fd/0; echo one; echo two >&2; echo three
test \"$(ls /proc/self/fd | wc -l)\" = 4 || ls -l /proc/self/fd
echo x > out.txt; exit 3",
    );
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1), "{run}");
    let log = run.of_kind("step-failed")[0]["log"].as_str().unwrap();
    let log = fs::read_to_string(log).unwrap();
    assert_eq!(log, "/dev/null\none\ntwo\nthree\n");
}

#[test]
fn a_program_is_told_of_a_closed_pipe_by_the_usual_signal() {
    let space = script("sh -c 'kill -PIPE $$'; echo $? > out.txt");
    space.built(&[]);
    assert_eq!(space.read("cache/out/main/a/out.txt"), "141\n");
    let run = script("kill -PIPE $$").build(&[]);
    assert!(run.err.contains("was killed by signal 13"), "{run}");
}

#[test]
fn a_script_without_its_interpreter_is_run_by_the_shell() {
    let space = Space::new(
        r#"
        [steps.a]
        uses = "command"
        run = ["OUTSIDE/tool", "with", "two words"]
        outputs = { text = "out.txt" }
        "#,
    );
    let tool = space.outside("tool");
    fs::write(&tool, "printf '%s|' \"$@\" > out.txt\n").unwrap();
    fs::set_permissions(&tool, PermissionsExt::from_mode(0o755)).unwrap();
    space.built(&[]);
    assert_eq!(space.read("cache/out/main/a/out.txt"), "with|two words|");
}

#[test]
fn a_program_that_may_not_be_run_is_said() {
    let space = Space::new("[steps.a]\nuses = 'command'\nrun = ['OUTSIDE/tool']\n");
    fs::write(space.outside("tool"), "#!/bin/sh\n").unwrap();
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("failed to start /"), "{run}");
    assert!(run.err.contains("Permission denied"), "{run}");
    assert!(!run.err.contains("is it installed"), "{run}");
}

#[test]
fn a_program_is_found_along_the_path_that_the_step_has() {
    let space = Space::new(
        r#"
        [steps.a]
        uses = "command"
        run = ["tool"]
        env = ["PATH"]
        outputs = { text = "out.txt" }
        "#,
    );
    let mut folders = Vec::new();
    for name in ["one", "two"] {
        let folder = space.outside(name);
        fs::create_dir(&folder).unwrap();
        let tool = folder.join("tool");
        fs::write(&tool, format!("#!/bin/sh\necho {name} > out.txt\n")).unwrap();
        fs::set_permissions(&tool, PermissionsExt::from_mode(0o755)).unwrap();
        folders.push(folder);
    }
    // Not a program, so looked past.
    fs::set_permissions(folders[0].join("tool"), PermissionsExt::from_mode(0o644)).unwrap();
    let path = std::env::join_paths(&folders).unwrap();
    let run = space.build_with(&[], |command| {
        command.env("PATH", &path);
    });
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(space.read("cache/out/main/a/out.txt"), "two\n");
}

#[test]
fn the_peak_memory_of_a_program_is_its_own() {
    let space = Space::new(
        r#"
        [steps.small]
        uses = "command"
        run = "echo x > x"
        outputs = { x = "x" }
        [steps.large]
        uses = "command"
        run = "dd if=/dev/zero of=x bs=80M count=1; truncate -s 1 x"
        outputs = { x = "x" }
        [steps.small-again]
        uses = "command"
        run = "cat ${inputs.x} > y"
        inputs = { x = "@large" }
        outputs = { y = "y" }
        "#,
    );
    let run = space.built(&["-j1"]);
    let peak = |step: &str| {
        let finished = run.of_kind("step-finished");
        let event = finished.iter().find(|event| event["step"] == step);
        event.unwrap()["peak_memory"].as_u64().unwrap() >> 10
    };
    for step in ["small", "small-again"] {
        let peak = peak(step);
        assert!((500..20_000).contains(&peak), "{step}: {peak} KiB");
    }
    let large = peak("large");
    assert!((80 << 10..120 << 10).contains(&large), "{large} KiB");
}

#[test]
fn a_step_finds_nothing_of_another_in_its_folders() {
    let space = Space::new(
        r#"
        [steps.a]
        uses = "command"
        run = "echo x > x; echo junk > junk; mkdir -p d/e; echo t > $TMPDIR/t; mkdir ../new; umask 077"
        outputs = { x = "x" }
        [steps.b]
        uses = "command"
        run = "(ls -A . $TMPDIR; ls -A ..) > ${outputs.list}"
        inputs = { x = "@a" }
        outputs = { list = "list" }
        "#,
    );
    space.built(&["-j1"]);
    let list = space.read("cache/out/main/b/list");
    assert!(list.contains("list\n"), "its own only: {list}");
    for other in ["x", "junk", "d", "t", "new"] {
        let mut lines = list.lines();
        assert!(lines.all(|line| line != other), "{other} is left: {list}");
    }
    let work = fs::read_dir(space.path("cache/work")).map_or(0, Iterator::count);
    assert_eq!(work, 0, "no work folder is left");
}
