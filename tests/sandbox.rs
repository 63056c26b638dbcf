//! The sandbox: what a command does not declare it cannot have, and is told the name of.
//!
//! Without Landlock in the kernel these tests say so and do nothing.
#![cfg(target_os = "linux")]

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};

use rustix::process::Signal;
use support::{Run, Space, can_hold};

/// A project with `data/ok.txt` and `data/secret.txt` and a step `a` that is
/// held, declares the first and runs `script`; `more` are further fields.
fn space(script: &str, more: &str) -> Space {
    let space = Space::new(&format!(
        "[steps.a]\nuses = 'command'\nrun = '''\n{script}\n'''\n\
         inputs = {{ ok = 'data/ok.txt' }}\noutputs = {{ out = 'out.txt' }}\n{more}\n"
    ));
    space.write("data/ok.txt", "ok\n");
    space.write("data/secret.txt", "secret\n");
    let text = space.read("pipelines/main.toml");
    let project = space.path("");
    let project = project.to_str().unwrap().trim_end_matches('/');
    space.write("pipelines/main.toml", &text.replace("PROJECT", project));
    space
}

fn held(script: &str) -> Space {
    space(script, "sandbox = true")
}

/// What went wrong with step `a`: the message and the hint.
#[track_caller]
fn refused(space: &Space) -> (String, String) {
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1), "{run}");
    error(&run)
}

#[track_caller]
fn error(run: &Run) -> (String, String) {
    let failed = run.of_kind("step-failed");
    let text = |field: &str| failed[0]["error"][field].as_str().unwrap_or("").to_owned();
    (text("message"), text("hint"))
}

/// The message of a step that was refused this.
fn undeclared(what: &str) -> String {
    format!("step a {what}, which it does not declare")
}

const READ_SECRET: &str = "read data/secret.txt";

#[test]
fn a_program_that_is_held_is_asked_to_stop_in_a_group_of_its_own_too() {
    if !can_hold() {
        return;
    }
    let space = Space::new(
        r#"
        [steps.a]
        uses = "command"
        run = ["setsid", "sh", "-c", "trap 'echo x > ${checkpoint}/saved; exit' TERM; echo x > ${checkpoint}/begun; while :; do sleep 0.05; done"]
        sandbox = true
        checkpoint = true
        "#,
    );
    let kept = |name: &str| {
        let files = support::files(&space.path("cache/checkpoints"));
        files.iter().any(|file| file.ends_with(name))
    };
    let running = space.start(&["build", "--grace", "300"]);
    support::wait_for("the step's start", || kept("begun").then_some(()));
    running.signal(Signal::INT);
    let run = running.end();
    assert_eq!(run.code, Some(130), "{run}");
    assert!(kept("saved"), "{run}");
}

// What is declared

#[test]
fn what_is_declared_works() {
    if !can_hold() {
        return;
    }
    let space = held(
        "set -e\n\
         mkdir deep deep/er; cat ${inputs.ok} > deep/x; mv deep/x deep/er/y; cp deep/er/y $TMPDIR/z\n\
         printf '#!/bin/sh\\nexec cat $TMPDIR/z\\n' > $TMPDIR/tool; chmod +x $TMPDIR/tool\n\
         echo said > /dev/stderr; echo x > /dev/null; head -c 4 /dev/urandom | wc -c > n\n\
         (sleep 0 & wait); sed s/o/0/ ${inputs.ok} | sort | awk '{print}' > s; rm -r deep\n\
         $TMPDIR/tool > out.txt; ln -s out.txt link",
    );
    space.built(&[]);
    assert_eq!(space.read("cache/out/main/a/out.txt"), "ok\n");
    let record = &space.records("a")[0];
    let held = record["sandbox"].as_str().unwrap();
    assert!(held.starts_with("landlock abi "), "{held}");
    assert!(held.ends_with(", seccomp"), "{held}");
}

#[test]
fn a_folder_and_what_its_links_lead_to_are_one_input() {
    if !can_hold() {
        return;
    }
    let space = space(
        "cat ${inputs.all}/sub/x ${inputs.all}/link/y > out.txt; cat PROJECT/data/secret.txt",
        "sandbox = true",
    );
    space.edit("ok = 'data/ok.txt'", "all = 'data/all'");
    space.write("data/all/sub/x", "x\n");
    space.write("elsewhere/y", "y\n");
    symlink("../../elsewhere", space.path("data/all/link")).unwrap();
    assert_eq!(refused(&space).0, undeclared(READ_SECRET));
    space.edit("; cat", " # ");
    space.built(&[]);
    assert_eq!(space.read("cache/out/main/a/out.txt"), "x\ny\n");
}

#[test]
fn what_the_table_allows_works() {
    if !can_hold() {
        return;
    }
    let space = space(
        "cat PROJECT/data/secret.txt > out.txt; echo more >> PROJECT/notes/log",
        "sandbox = { read = ['data/secret.txt'], write = ['notes'] }",
    );
    let (message, hint) = refused(&space);
    assert_eq!(message, "sandbox.write names notes, which is not there");
    assert!(hint.contains("create it first"), "{hint}");
    space.write("notes/log", "");
    space.built(&[]);
    assert_eq!(space.read("notes/log"), "more\n");
}

#[test]
fn programs_of_an_installation_on_the_path_work() {
    if !can_hold() {
        return;
    }
    let space = held("hello > out.txt");
    let tool = "#!/bin/sh\ncat \"$(dirname \"$0\")/../lib/words\"\n";
    for (file, text) in [("tools/bin/hello", tool), ("tools/lib/words", "hello\n")] {
        let path = space.outside(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = std::env::var("PATH").unwrap();
    let mut command = space.command(&["build"]);
    command.env(
        "PATH",
        format!("{}:{path}", space.outside("tools/bin").display()),
    );
    let run = Run::of(&mut command);
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(space.read("cache/out/main/a/out.txt"), "hello\n");
}

// Reads

#[test]
fn an_undeclared_read_fails_and_is_named() {
    if !can_hold() {
        return;
    }
    let space = held("cat PROJECT/data/secret.txt > out.txt");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1), "{run}");
    let (message, hint) = error(&run);
    assert_eq!(message, undeclared(READ_SECRET));
    let wanted = "add it to `inputs`, or allow it: sandbox = { read = [\"data/secret.txt\"] }";
    assert_eq!(hint, wanted);
    assert!(
        run.err
            .contains("step a read data/secret.txt, which it does not declare"),
        "{run}"
    );
    assert!(run.err.contains("hint: add it to `inputs`"), "{run}");
    // As the user would mend it.
    space.edit(
        "ok = 'data/ok.txt'",
        "ok = 'data/ok.txt', secret = 'data/secret.txt'",
    );
    space.built(&[]);
}

#[test]
fn a_refused_read_fails_the_step_even_if_the_program_goes_on() {
    if !can_hold() {
        return;
    }
    let space = held("cat PROJECT/data/secret.txt > out.txt 2>/dev/null || echo default > out.txt");
    assert_eq!(refused(&space).0, undeclared(READ_SECRET));
    assert!(!space.exists("cache/out/main/a/out.txt"));
}

#[test]
fn what_was_refused_is_not_tried_again() {
    if !can_hold() {
        return;
    }
    let space = space(
        "cat PROJECT/data/secret.txt > out.txt",
        "sandbox = true\nretry = { times = 2, wait = 0 }",
    );
    let run = space.build(&[]);
    assert_eq!(error(&run).0, undeclared(READ_SECRET));
    assert_eq!(run.of_kind("step-retried").len(), 0, "{run}");
    // A failure of its own is.
    space.edit("cat ", "exit 3; cat ");
    let run = space.build(&[]);
    assert_eq!(error(&run).0, "the program ended with exit code 3");
    assert_eq!(run.of_kind("step-retried").len(), 2, "{run}");
}

#[test]
fn no_way_around_leads_to_an_undeclared_file() {
    if !can_hold() {
        return;
    }
    for way in [
        "cat ../../../../data/secret.txt",
        "cat $(dirname ${inputs.ok})/secret.txt",
        "ln -s PROJECT/data/secret.txt l; cat l",
        "ln -s PROJECT/data d; cat d/secret.txt",
        "cat /proc/self/root/PROJECT/data/secret.txt",
        "cat /proc/self/cwd/../../../../data/secret.txt",
        "exec 3< .; cat /proc/self/fd/3/../../../../data/secret.txt",
        "(cd /; cat ./PROJECT/data/secret.txt)",
        "sh -c \"sh -c 'cat PROJECT/data/secret.txt' & wait\"",
        "ln PROJECT/data/secret.txt s; cat s",
    ] {
        let space = held(&format!("{way} > out.txt; true"));
        let (message, _) = refused(&space);
        assert_eq!(message, undeclared(READ_SECRET), "{way}");
        assert!(!space.exists("cache/out/main/a/out.txt"), "{way}");
    }
}

/// Builds where `/opt`, a part of the system, is the folder `opt` beside the
/// project; none where that cannot be arranged.
fn build_with_opt(space: &Space) -> Option<Run> {
    let mount = format!("mount --bind {} /opt", space.outside("opt").display());
    let script = format!("{mount} && exec \"$@\"");
    let within = [
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        &script,
        "sh",
    ];
    if !support::can_unshare(&within) {
        eprintln!("SKIPPED: nothing can be mounted here");
        return None;
    }
    Some(space.start_within("unshare", &within, &["build"]).end())
}

#[test]
fn a_link_of_the_system_that_leads_out_of_it_is_named_with_its_target() {
    if !can_hold() {
        return;
    }
    let space = held("cat /opt/settings > out.txt; true");
    fs::create_dir(space.outside("opt")).unwrap();
    fs::create_dir(space.outside("far")).unwrap();
    fs::write(space.outside("far/away"), "x").unwrap();
    symlink(space.outside("far/away"), space.outside("opt/settings")).unwrap();
    let Some(run) = build_with_opt(&space) else {
        return;
    };
    assert_eq!(run.code, Some(1), "{run}");
    let (message, hint) = error(&run);
    let away = space.outside("far/away");
    let wanted = format!("read {} through /opt/settings", away.display());
    assert_eq!(message, undeclared(&wanted));
    assert_eq!(hint, "allow it: sandbox = { read = [\"/opt/settings\"] }");
    space.edit("sandbox = true", "sandbox = { read = ['/opt/settings'] }");
    assert_eq!(build_with_opt(&space).unwrap().code, Some(0));
}

#[test]
fn an_undeclared_program_does_not_run() {
    if !can_hold() {
        return;
    }
    let space = held("PROJECT/tool.sh > out.txt");
    space.write("tool.sh", "#!/bin/sh\necho ran\n");
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(space.path("tool.sh"), mode).unwrap();
    assert_eq!(refused(&space).0, undeclared("ran tool.sh"));
    space.edit("ok = 'data/ok.txt'", "tool = 'tool.sh'");
    space.edit(
        &space.path("tool.sh").display().to_string(),
        "${inputs.tool}",
    );
    space.built(&[]);
}

#[test]
fn a_listing_is_refused_but_left_to_the_program() {
    if !can_hold() {
        return;
    }
    let space = held("ls PROJECT > out.txt || echo empty > out.txt");
    space.built(&[]);
    assert_eq!(space.read("cache/out/main/a/out.txt"), "empty\n");
    space.edit("|| echo empty > out.txt", "");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(
        run.err
            .contains("let it not list ., which it does not declare"),
        "{run}"
    );
}

// Writes

#[test]
fn an_undeclared_write_fails_is_named_and_not_done() {
    if !can_hold() {
        return;
    }
    for (way, named) in [
        ("echo x > PROJECT/new", "wrote new"),
        ("echo x >> PROJECT/data/secret.txt", "wrote data/secret.txt"),
        (
            "truncate -s 0 PROJECT/data/secret.txt",
            "wrote data/secret.txt",
        ),
        ("rm -f PROJECT/data/secret.txt", "wrote data/secret.txt"),
        ("chmod 777 PROJECT/data/secret.txt", "wrote data/secret.txt"),
        (
            "touch -d 2001-01-01 PROJECT/data/secret.txt",
            "wrote data/secret.txt",
        ),
        ("mkdir PROJECT/new", "wrote new"),
        ("ln -s x PROJECT/new", "wrote new"),
        ("echo x > y; mv y PROJECT/new", "wrote new"),
        ("mv ${inputs.ok} here", "wrote data/ok.txt"),
        ("echo x > y; cp y ${inputs.ok}", "wrote data/ok.txt"),
        (
            "echo x > ../result.json",
            "wrote cache/work/RUN-1/result.json",
        ),
    ] {
        let space = held(&format!("{way}; echo done > out.txt"));
        let before = fs::metadata(space.path("data/secret.txt")).unwrap();
        let (message, hint) = refused(&space);
        let run = message
            .split("cache/work/")
            .nth(1)
            .and_then(|rest| rest.split("-1/").next());
        let message = message.replace(run.unwrap_or("RUN"), "RUN");
        assert_eq!(message, undeclared(named), "{way}");
        assert!(hint.contains("sandbox = { write = ["), "{hint}");
        assert!(!space.exists("new"), "{way}");
        assert_eq!(space.read("data/ok.txt"), "ok\n");
        assert_eq!(space.read("data/secret.txt"), "secret\n");
        let after = fs::metadata(space.path("data/secret.txt")).unwrap();
        assert_eq!(before.permissions(), after.permissions(), "{way}");
        assert_eq!(
            before.modified().unwrap(),
            after.modified().unwrap(),
            "{way}"
        );
    }
}

// The network

#[test]
fn the_network_fails_and_is_named() {
    if !can_hold() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let tcp = format!("bash -c 'echo hi > /dev/tcp/127.0.0.1/{port}'; echo done > out.txt");
    let space = held(&tcp);
    let (message, hint) = refused(&space);
    assert_eq!(
        message,
        undeclared(&format!("connected to 127.0.0.1:{port}"))
    );
    assert_eq!(hint, "allow it: sandbox = { network = true }");
    space.edit("sandbox = true", "sandbox = { network = true }");
    space.built(&[]);
    let space = held("bash -c 'echo hi > /dev/udp/127.0.0.1/9'; echo done > out.txt");
    assert_eq!(refused(&space).0, undeclared("opened a UDP socket"));
}

// Keys, ends and requests

#[test]
fn the_environment_is_the_same_with_a_sandbox_and_without() {
    if !can_hold() {
        return;
    }
    let space = space("env | grep -v -e TMPDIR -e PWD | sort > out.txt", "");
    space.built(&[]);
    let without = space.read("cache/out/main/a/out.txt");
    assert!(without.contains("PYTHONDONTWRITEBYTECODE=1\n"), "{without}");
    space.edit("outputs", "sandbox = true\noutputs");
    space.built(&[]);
    assert_eq!(space.read("cache/out/main/a/out.txt"), without);
}

#[test]
fn python_leaves_its_sources_alone() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\nrun = ['python3', '${inputs.scripts}/main.py']\n\
         inputs = { scripts = 'scripts' }\noutputs = { out = 'out.txt' }\n",
    );
    space.write(
        "scripts/main.py",
        "import helper\nopen('out.txt', 'w').write(helper.X)\n",
    );
    space.write("scripts/helper.py", "X = 'x'\n");
    let run = space.build(&[]);
    if run.err.contains("failed to start python3") {
        eprintln!("SKIPPED: there is no python3");
        return;
    }
    assert_eq!(run.code, Some(0), "{run}");
    assert!(!space.exists("scripts/__pycache__"));
}

#[test]
fn turning_it_on_runs_the_step_and_turning_it_off_restores_it() {
    if !can_hold() {
        return;
    }
    let space = space("echo a >> RUNS; cat ${inputs.ok} > out.txt", "");
    assert_eq!(space.rerun(), ["a"]);
    space.edit("outputs", "sandbox = false\noutputs");
    assert_eq!(space.build(&[]).total("up_to_date"), 1);
    space.edit("sandbox = false", "sandbox = { write = ['OUTSIDE'] }");
    let run = space.built(&[]);
    assert_eq!(space.ran(), ["a"]);
    assert_eq!(run.reasons("a")[0]["name"], "sandbox", "{run}");
    space.edit("sandbox = { write", "# { write");
    assert_eq!(space.built(&[]).total("ran"), 0);
}

#[test]
fn exit_codes_and_signals_are_the_programs_own() {
    if !can_hold() {
        return;
    }
    let space = held("exit 7");
    assert_eq!(refused(&space).0, "the program ended with exit code 7");
    let space = held("kill -KILL $$");
    let message = refused(&space).0;
    assert_eq!(message, "the step's process was killed by signal 9");
    let space = held("true");
    space.edit("run = '''\ntrue\n'''", "run = ['no-such-program']");
    let (message, hint) = refused(&space);
    assert_eq!(message, "failed to start no-such-program");
    assert_eq!(hint, "is it installed and on PATH?");
}

#[test]
fn a_held_program_is_asked_to_stop_and_may_tidy_up() {
    if !can_hold() {
        return;
    }
    let space = space(
        "trap 'echo tidy > OUTSIDE/said; exit 1' TERM; echo go > OUTSIDE/said\n\
         while true; do sleep 0.05; done",
        "sandbox = { write = ['OUTSIDE'] }",
    );
    let running = space.start(&["build"]);
    support::wait_for("the program", || {
        space.outside("said").exists().then_some(())
    });
    running.signal(Signal::INT);
    let run = running.end();
    assert_eq!(run.code, Some(130), "{run}");
    assert_eq!(run.steps("step-cancelled"), ["a"], "{run}");
    assert_eq!(fs::read_to_string(space.outside("said")).unwrap(), "tidy\n");
}

#[test]
fn if_available_holds_where_it_can() {
    if !can_hold() {
        return;
    }
    let space = space(
        "cat PROJECT/data/secret.txt > out.txt",
        "sandbox = 'if-available'",
    );
    assert_eq!(refused(&space).0, undeclared(READ_SECRET));
}

#[test]
fn a_wrong_value_is_refused_with_its_line() {
    let space = space("true", "sandbox = 'yes'");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(3), "{run}");
    let wanted = "'sandbox' must be true or false or \"if-available\" or a table";
    assert!(run.err.contains(wanted), "{run}");
}

// Tracing

#[test]
fn an_audit_with_a_trace_tells_what_was_not_declared() {
    let space = space(
        "cat ${inputs.ok} ../../../../data/secret.txt > out.txt; echo x > PROJECT/new",
        "",
    );
    space.built(&[]);
    space.remove("new");
    let run = space.retune(&["audit", "--trace", "--json"]);
    assert_eq!(run.code, Some(1), "{run}");
    let report: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    let undeclared = &report["steps"][0]["undeclared"];
    assert_eq!(
        *undeclared,
        serde_json::json!(["read data/secret.txt", "wrote new"]),
        "{run}"
    );
    let run = space.retune(&["audit", "--trace"]);
    assert!(run.out.contains("    it read data/secret.txt\n"), "{run}");
}

#[test]
fn a_trace_finds_what_a_script_imports() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\nrun = ['python3', '${inputs.script}']\n\
         inputs = { script = 'scripts/main.py' }\noutputs = { out = 'out.txt' }\n",
    );
    space.write(
        "scripts/main.py",
        "import helper\nopen('out.txt', 'w').write(helper.X)\n",
    );
    space.write("scripts/helper.py", "X = 'x'\n");
    if space.build(&[]).code != Some(0) {
        eprintln!("SKIPPED: there is no python3");
        return;
    }
    let run = space.retune(&["audit", "--trace"]);
    assert!(run.out.contains("    it read scripts/helper.py\n"), "{run}");
}

#[test]
fn a_trace_of_a_clean_step_is_silent() {
    let space = space("cat ${inputs.ok} > $TMPDIR/x; sort $TMPDIR/x > out.txt", "");
    space.built(&[]);
    let run = space.retune(&["audit", "--trace"]);
    assert_eq!(run.code, Some(0), "{run}");
    assert!(run.out.contains("same"), "{run}");
}

// Built-in kinds

#[test]
fn built_in_kinds_are_held_too_and_their_record_says_so() {
    if !can_hold() {
        return;
    }
    let space = Space::new("[steps.recipe]\nuses = 'release.recipe'\nof = ['data/rows.jsonl']\n");
    space.write("data/rows.jsonl", "");
    space.built(&[]);
    let held = space.records("recipe")[0]["sandbox"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(held.starts_with("landlock abi "), "{held}");
}
