//! `verify` and `audit`: what differs from the records is found and named.

mod support;

use std::fs;

use rustix::process::Signal;
use serde_json::Value;
use support::{Space, wait_for};

/// Two steps that always give the same, one behind the other.
const STEADY: &str = r#"
[steps.first]
uses = "command"
run = "echo first >> RUNS; mkdir out; cat ${inputs.text} > out/one; echo two > out/two"
inputs = { text = "data/text.txt" }
outputs = { folder = "out/" }

[steps.second]
uses = "command"
run = "echo second >> RUNS; sort ${inputs.folder}/one > ${outputs.text}"
inputs = { folder = "@first" }
outputs = { text = "second.txt" }
"#;

const SECOND: &str = "cache/out/main/second/second.txt";

fn steady() -> Space {
    let space = Space::new(STEADY);
    space.write("data/text.txt", "b\na\n");
    assert_eq!(space.rerun(), ["first", "second"]);
    space
}

/// A step that runs `script`, built once.
fn built(script: &str) -> Space {
    let space = Space::new(&format!(
        "[steps.a]\nuses = 'command'\nrun = '''{script}'''\noutputs = {{ text = 'out.txt' }}\n"
    ));
    space.built(&[]);
    space
}

/// The faults that `verify` finds, as `step output place`.
fn faults(space: &Space) -> Vec<String> {
    let run = space.retune(&["verify", "--json"]);
    let report: Value = serde_json::from_str(&run.out).unwrap_or_else(|e| panic!("{e}: {run}"));
    let faults = report["faults"].as_array().unwrap();
    assert_eq!(run.code, Some(i32::from(!faults.is_empty())), "{run}");
    let text = |fault: &Value, field: &str| fault[field].as_str().unwrap().to_owned();
    let line = |fault| {
        ["step", "output", "place"]
            .map(|field| text(fault, field))
            .join(" ")
    };
    faults.iter().map(line).collect()
}

// verify

#[test]
fn verify_agrees_right_after_a_build() {
    let space = steady();
    let run = space.retune(&["verify"]);
    assert_eq!((run.code, run.out.as_str()), (Some(0), ""), "{run}");
    assert!(
        run.err.ends_with("digests checked, no difference\n"),
        "{run}"
    );
}

#[test]
fn verify_finds_an_edited_output() {
    let space = steady();
    space.write(SECOND, "edited\n");
    assert_eq!(faults(&space), ["second second.txt output"]);
    let run = space.retune(&["verify"]);
    assert!(
        run.out.starts_with("✗ second second.txt (output)\n"),
        "{run}"
    );
}

#[test]
fn verify_finds_a_missing_output() {
    let space = steady();
    space.remove(SECOND);
    assert_eq!(faults(&space), ["second second.txt output"]);
    let run = space.retune(&["verify"]);
    assert!(run.out.contains("is missing"), "{run}");
}

#[test]
fn verify_finds_a_damaged_object() {
    let space = steady();
    let object = space.objects("two\n").remove(0);
    fs::remove_file(&object).unwrap();
    fs::write(&object, "too\n").unwrap();
    assert_eq!(faults(&space), ["first out/two store"]);
}

#[test]
fn verify_finds_a_lost_object() {
    let space = steady();
    fs::remove_file(space.objects("two\n").remove(0)).unwrap();
    assert_eq!(faults(&space), ["first out/two store"]);
}

#[test]
fn verify_finds_a_lock_that_disagrees() {
    let space = steady();
    let lock = space.read("pipelines/main.lock");
    let digest = lock.split('"').rfind(|part| part.len() == 64).unwrap();
    let last = if digest.ends_with('0') { "1" } else { "0" };
    let other = format!("{}{last}", &digest[..63]);
    space.write("pipelines/main.lock", &lock.replace(digest, &other));
    let found = faults(&space);
    assert!(
        !found.is_empty() && found.iter().all(|fault| fault.ends_with(" lock")),
        "{found:?}"
    );
}

#[test]
fn verify_says_what_was_never_built() {
    let space = Space::new(STEADY);
    space.write("data/text.txt", "b\na\n");
    space.built(&["first"]);
    let run = space.retune(&["verify"]);
    assert_eq!(
        (run.code, run.out.as_str()),
        (Some(0), "- second has no result yet\n")
    );
}

#[test]
fn verify_changes_nothing() {
    let space = steady();
    space.write(SECOND, "edited\n");
    space.retune(&["verify"]);
    assert_eq!(space.read(SECOND), "edited\n");
    assert_eq!(space.ran().len(), 0);
}

// audit

/// The report of an audit, as JSON, with its exit code.
fn audit(space: &Space, arguments: &[&str]) -> (Option<i32>, Value) {
    let run = space.retune(&[&["audit", "--json"], arguments].concat());
    let report = serde_json::from_str(&run.out).unwrap_or_else(|e| panic!("{e}: {run}"));
    (run.code, report)
}

/// The result of each step of a report.
fn results(report: &Value) -> Vec<&str> {
    let steps = report["steps"].as_array().unwrap().iter();
    steps.map(|step| step["result"].as_str().unwrap()).collect()
}

/// The first difference of the first output of a step.
fn difference(report: &Value, step: usize) -> &Value {
    &report["steps"][step]["outputs"][0]["differences"][0]
}

#[test]
fn an_audit_of_steady_steps_agrees() {
    let space = steady();
    // A build of a part looks at the graph and keeps it.
    space.built(&["second"]);
    let before = support::files(&space.path(""));
    let run = space.retune(&["audit"]);
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(run.out, "first   same\nsecond  same\n");
    assert!(run.err.ends_with("2 steps: 2 the same\n"), "{run}");
    assert_eq!(space.ran(), ["first", "second"], "it did them again");
    assert_eq!(
        support::files(&space.path("")),
        before,
        "nothing new in the project"
    );
    assert_eq!(space.rerun().len(), 0, "what was built still stands");
}

#[test]
fn an_audit_does_several_steps_at_once() {
    let space = steady();
    let run = space.retune(&["audit", "-j", "2"]);
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(run.out, "first   same\nsecond  same\n");
}

#[test]
fn an_audit_names_the_output_and_the_line_that_differ() {
    let space = built("echo same > out.txt; head -c 9 /dev/urandom | od -An -tx1 >> out.txt");
    let run = space.retune(&["audit"]);
    assert_eq!(run.code, Some(1), "{run}");
    let start = "a  differs\n    out.txt: first differs at line 2, of 2\n       same\n      - ";
    assert!(run.out.starts_with(start), "{run}");
    assert!(
        run.err.ends_with("1 step: 0 the same, 1 different\n"),
        "{run}"
    );
}

/// Each of these scripts writes something that a result must not depend on.
/// What only noise brings to light is not found without it.
#[test]
fn an_audit_finds_what_a_step_must_not_depend_on() {
    for (script, found_without_noise) in [
        ("date +%s%N > out.txt", true),
        ("od -An -N8 -tx1 /dev/urandom > out.txt", true),
        ("pwd > out.txt", true),
        ("echo $TMPDIR > out.txt", true),
        ("umask > out.txt", false),
        ("echo $RAYON_NUM_THREADS > out.txt", false),
        ("nproc > out.txt", false),
        ("echo $HOME > out.txt", false),
        ("env | cut -d= -f1 | sort > out.txt", false),
    ] {
        let space = built(script);
        let (code, report) = audit(&space, &[]);
        let found = (code, results(&report));
        assert_eq!(found, (Some(1), vec!["differs"]), "{script}");
        let found = difference(&report, 0);
        assert_eq!(found["kind"], "text", "{script}");
        assert_eq!(found["path"], "out.txt", "{script}");
        assert!(!found["hunk"].as_array().unwrap().is_empty(), "{script}");
        let (code, _) = audit(&space, &["--noise", "none"]);
        assert_eq!(code == Some(1), found_without_noise, "{script}: {code:?}");
    }
}

#[test]
fn an_audit_finds_a_step_that_writes_the_times_of_its_inputs() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\n\
         run = 'stat -c %Y ${inputs.folder}/x > out.txt'\n\
         inputs = { folder = 'data/folder' }\noutputs = { text = 'out.txt' }\n",
    );
    space.write("data/folder/x", "x");
    space.built(&[]);
    let (code, report) = audit(&space, &[]);
    assert_eq!(code, Some(1), "{report:#}");
    let now = difference(&report, 0)["hunk"][1].as_str().unwrap();
    assert!(now.starts_with("+10"), "a day in 2001 to 2004: {now}");
}

#[test]
fn time_zone_and_locale_of_commands_are_fixed_unless_all_noise_is_asked_for() {
    let space = built("date -d @0 +%H > out.txt; echo $LANG >> out.txt");
    assert_eq!(audit(&space, &[]).0, Some(0));
    let (code, report) = audit(&space, &["--noise", "all"]);
    assert_eq!(code, Some(1));
    let found = difference(&report, 0);
    assert_eq!(found["hunk"][0], "-00", "{found}");
    let what = |report: &Value| -> Vec<String> {
        let noise = report["noise"].as_array().unwrap().iter();
        let what = noise.map(|varied| varied["what"].as_str().unwrap().to_owned());
        what.collect()
    };
    assert!(what(&report).contains(&"TZ".to_owned()));
    let (_, report) = audit(&space, &[]);
    assert!(what(&report).contains(&"TZ of built-in kinds".to_owned()));
    let (_, report) = audit(&space, &["--noise", "none"]);
    assert_eq!(what(&report), ["working folder", "TMPDIR"]);
}

#[test]
fn a_declared_variable_is_not_noise() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\nrun = 'echo $OMP_NUM_THREADS > out.txt'\n\
         env = ['OMP_NUM_THREADS']\noutputs = { text = 'out.txt' }\n",
    );
    let threads = |command: &mut std::process::Command| {
        command.env("OMP_NUM_THREADS", "7");
    };
    assert_eq!(space.build_with(&[], threads).code, Some(0));
    let mut command = space.command(&["audit"]);
    threads(&mut command);
    let run = support::Run::of(&mut command);
    assert_eq!(run.code, Some(0), "{run}");
}

#[test]
fn an_audit_lets_no_step_write_into_the_users_files() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\n\
         run = 'test -e OUTSIDE/bad && echo damage > ${inputs.text}; echo x > out.txt'\n\
         inputs = { text = 'data/text.txt' }\noutputs = { text = 'out.txt' }\n",
    );
    space.write("data/text.txt", "precious\n");
    space.built(&[]);
    fs::write(space.outside("bad"), "").unwrap();
    assert_eq!(audit(&space, &[]).0, Some(0));
    assert_eq!(space.read("data/text.txt"), "precious\n");
}

#[test]
fn an_audit_finds_a_step_that_writes_the_paths_of_its_inputs() {
    let space = steady();
    space.edit("sort ${inputs.folder}/one >", "echo ${inputs.folder} >");
    space.built(&[]);
    let (code, report) = audit(&space, &[]);
    assert_eq!((code, results(&report)), (Some(1), vec!["same", "differs"]));
}

#[test]
fn an_audit_shows_a_difference_at_the_step_that_causes_it() {
    let space = Space::new(
        r#"
        [steps.first]
        uses = "command"
        run = "date +%s%N > out.txt"
        outputs = { text = "out.txt" }
        [steps.second]
        uses = "command"
        run = "cp ${inputs.text} out.txt"
        inputs = { text = "@first" }
        outputs = { text = "out.txt" }
        "#,
    );
    space.built(&[]);
    let (_, report) = audit(&space, &[]);
    assert_eq!(results(&report), ["differs", "same"]);
    let only = space.retune(&["audit", "second"]);
    assert_eq!(
        (only.code, only.out.as_str()),
        (Some(0), "second  same\n"),
        "{only}"
    );
}

#[test]
fn differences_are_explained_by_what_the_files_are() {
    let space = Space::new(
        r#"
        [steps.metrics]
        uses = "command"
        run = '''echo '{"loss": 0.5, "pid": '$$'}' > metrics.json'''
        outputs = { metrics = "metrics.json" }
        [steps.rows]
        uses = "command"
        run = '''echo '{"a":1}' > rows.jsonl; echo '{"a":'$$'}' >> rows.jsonl'''
        outputs = { rows = "rows.jsonl" }
        [steps.bytes]
        uses = "command"
        run = '''printf '\377\000same' > out.bin; od -An -N8 -tx1 /dev/urandom >> out.bin'''
        outputs = { bytes = "out.bin" }
        [steps.folder]
        uses = "command"
        run = "mkdir out; echo x > out/same; echo x > out/$$; echo $$ > out/pid.txt"
        outputs = { folder = "out/" }
        "#,
    );
    space.built(&[]);
    let (code, report) = audit(&space, &[]);
    assert_eq!((code, results(&report)), (Some(1), vec!["differs"; 4]));
    let metrics = difference(&report, 0);
    assert_eq!(metrics["kind"], "json");
    assert_eq!(metrics["changes"].as_array().unwrap().len(), 1);
    assert_eq!(metrics["changes"][0]["path"], "/pid");
    let rows = difference(&report, 1);
    assert_eq!(rows["kind"], "rows");
    assert_eq!(
        (&rows["first"]["row"], &rows["differing"]),
        (&2.into(), &1.into())
    );
    assert_eq!(rows["first"]["changes"][0]["path"], "/a");
    let bytes = difference(&report, 2);
    assert_eq!(bytes["kind"], "bytes");
    assert!(bytes["offset"].as_u64().unwrap() >= 6, "{bytes}");
    let folder = &report["steps"][3]["outputs"][0]["differences"];
    let folder = folder.as_array().unwrap();
    let mut kinds: Vec<_> = folder.iter().map(|d| d["kind"].as_str().unwrap()).collect();
    kinds.sort();
    assert_eq!(kinds, ["added", "removed", "text"], "{folder:#?}");
}

#[test]
fn an_audit_says_how_a_step_fails_that_had_worked() {
    let space = built("test ! -e OUTSIDE/bad || { echo no luck >&2; exit 3; }; echo x > out.txt");
    fs::write(space.outside("bad"), "").unwrap();
    let run = space.retune(&["audit"]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(
        run.out
            .contains("it failed: the program ended with exit code 3\n"),
        "{run}"
    );
    assert!(run.out.contains("| no luck\n"), "{run}");
}

#[test]
fn an_audit_tries_a_step_again_as_a_build_does() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\nretry = { times = 1, wait = '10ms' }\noutputs = { text = 'out.txt' }\n\
         run = 'mkdir OUTSIDE/tried 2>/dev/null && exit 3; echo x > out.txt'\n",
    );
    space.built(&[]);
    fs::remove_dir(space.outside("tried")).unwrap();
    let run = space.start(&["audit"]).end();
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(run.steps("step-started"), ["a", "a"]);
}

#[test]
fn an_audit_of_what_was_never_built_could_not_tell() {
    let space = Space::new(STEADY);
    space.write("data/text.txt", "b\na\n");
    let run = space.retune(&["audit"]);
    assert_eq!(run.code, Some(6), "nothing was compared: {run}");
    assert!(
        run.out
            .contains("first   could not tell: it has no current result: build first"),
        "{run}"
    );
    assert!(
        run.out
            .contains("second  could not tell: its input first has no current result"),
        "{run}"
    );
    assert_eq!(space.ran().len(), 0);
}

#[test]
fn every_step_that_an_audit_begins_is_told_to_end() {
    let space = steady();
    let run = space.start(&["audit"]).end();
    assert_eq!(run.steps("step-started"), ["first", "second"]);
    assert_eq!(run.steps("step-finished"), ["first", "second"]);
}

#[test]
fn an_audit_takes_no_edited_output_for_an_input() {
    let space = steady();
    space.write("cache/out/main/first/out/one", "edited\n");
    let run = space.retune(&["audit"]);
    assert_eq!(run.code, Some(0), "the recorded inputs count: {run}");
}

#[test]
fn an_audit_can_be_interrupted() {
    let space =
        built("test -e OUTSIDE/slow && echo x > OUTSIDE/begun && sleep 300; echo x > out.txt");
    fs::write(space.outside("slow"), "").unwrap();
    let running = space.start(&["audit"]);
    wait_for("the step's start", || {
        space.outside("begun").exists().then_some(())
    });
    running.signal(Signal::INT);
    let run = running.end();
    assert_eq!(run.code, Some(130), "{run}");
    assert_eq!(run.steps("step-cancelled"), ["a"]);
    assert!(
        run.out.contains("could not tell: the audit was stopped"),
        "{run}"
    );
}

// audit --report

#[test]
fn the_report_is_a_page_and_json() {
    let space = built("date +%s%N > out.txt");
    let run = space.retune(&["audit", "--report", "found/here"]);
    assert_eq!(run.code, Some(1), "{run}");
    let page = space.read("found/here/audit.html");
    assert!(page.contains("<title>audit of main: differs</title>"));
    assert!(!page.contains("<script"));
    let json: Value = serde_json::from_str(&space.read("found/here/audit.json")).unwrap();
    assert_eq!(json["verdict"], "differs");
    assert_eq!(json["format"], 1);
    assert_eq!(json["steps"][0]["outputs"][0]["tolerance"], "bitwise");
}

// audit --against

/// The steady project built somewhere else, with another text.
fn other(text: &str) -> Space {
    let space = Space::new(STEADY);
    space.write("data/text.txt", text);
    space.built(&[]);
    space
}

#[test]
fn an_audit_against_a_lock_file_of_the_same_agrees() {
    let (ours, theirs) = (steady(), other("b\na\n"));
    let lock = theirs.path("pipelines/main.lock");
    let lock = lock.to_str().unwrap();
    ours.ran();
    let (code, report) = audit(&ours, &["--against", lock]);
    // `RUNS` stands for a path in the script, so the keys are not the same.
    assert_eq!((code, results(&report)), (Some(0), vec!["same", "same"]));
    assert_eq!((&report["rebuilt"], ours.ran().len()), (&true.into(), 2));
    assert_eq!(report["against"]["kind"], "lock");
    let (code, report) = audit(&ours, &["--against", lock, "--no-rebuild"]);
    assert_eq!((code, results(&report)), (Some(0), vec!["same", "same"]));
    assert_eq!((&report["rebuilt"], ours.ran().len()), (&false.into(), 0));
}

#[test]
fn an_audit_against_another_project_explains_by_its_store() {
    let (ours, theirs) = (steady(), other("b\nc\n"));
    let project = theirs.path("");
    let (code, report) = audit(&ours, &["--against", project.to_str().unwrap()]);
    let differ = vec!["differs", "differs"];
    assert_eq!((code, results(&report)), (Some(1), differ));
    let found = difference(&report, 0);
    assert_eq!(found["path"], "out/one");
    assert_eq!(found["hunk"][1], "-c", "theirs is what is expected");
    let why = report["steps"][0]["why"].as_str().unwrap();
    assert!(why.starts_with("the keys differ too"), "{why}");
    let lock = theirs.path("pipelines/main.lock");
    let (code, report) = audit(&ours, &["--against", lock.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert_eq!(
        difference(&report, 1)["kind"],
        "digest",
        "only digests are known"
    );
}

#[test]
fn an_audit_against_a_lock_file_with_the_same_key_says_not_reproducible() {
    let space = built("date +%s%N > out.txt");
    let lock = space.read("pipelines/main.lock");
    space.write("theirs.lock", &lock);
    space.built(&["--force", "a"]);
    let (code, report) = audit(&space, &["--against", "theirs.lock", "--no-rebuild"]);
    assert_eq!(code, Some(1));
    let why = report["steps"][0]["why"].as_str().unwrap();
    assert!(
        why.starts_with("the same key: it is not reproducible"),
        "{why}"
    );
    assert_eq!(
        difference(&report, 0)["kind"],
        "text",
        "the old result is in the store still"
    );
}

#[test]
fn an_audit_against_a_lock_file_that_lacks_a_step_could_not_tell() {
    let ours = steady();
    let lock = ours.read("pipelines/main.lock");
    let cut = lock.find("[steps.second]").unwrap();
    ours.write("theirs.lock", &lock[..cut]);
    let (code, report) = audit(&ours, &["--against", "theirs.lock"]);
    let found = vec!["same", "could-not-tell"];
    assert_eq!((code, results(&report)), (Some(6), found));
    let run = ours.retune(&["audit", "--against", "nowhere.lock"]);
    assert_eq!(run.code, Some(5), "{run}");
    assert!(run.err.contains("nowhere.lock"), "{run}");
}

#[test]
fn an_audit_against_a_folder_compares_it_with_an_output() {
    let space = steady();
    for (name, text) in [("one", "b\na\n"), ("two", "two\n")] {
        space.write(&format!("theirs/{name}"), text);
    }
    let run = space.retune(&["audit", "--against", "theirs"]);
    assert_eq!(run.code, Some(4), "which step made it is not said: {run}");
    assert!(run.err.contains("hint: name the step"), "{run}");
    let (code, report) = audit(&space, &["first", "--against", "theirs"]);
    assert_eq!((code, results(&report)), (Some(0), vec!["same"]));
    space.write("theirs/two", "three\n");
    space.write("theirs/more", "");
    for rebuild in [&["--no-rebuild"][..], &[]] {
        let arguments = [&["first", "--against", "theirs"], rebuild].concat();
        let (code, report) = audit(&space, &arguments);
        assert_eq!((code, results(&report)), (Some(1), vec!["differs"]));
        let found = &report["steps"][0]["outputs"][0]["differences"];
        let told = |n: usize, field: &str| found[n][field].as_str().unwrap().to_owned();
        assert_eq!(
            (told(0, "path"), told(0, "kind")),
            ("out/more".into(), "removed".into())
        );
        assert_eq!(
            (told(1, "path"), told(1, "kind")),
            ("out/two".into(), "text".into())
        );
    }
}

// tolerance

#[test]
fn a_declared_tolerance_is_made_use_of_and_told() {
    let space = Space::new(
        r#"
        [steps.a]
        uses = "command"
        run = """printf '{"loss": 0.500%s, "name": "x", "seconds": %s}' $$ $$ > metrics.json"""
        outputs = { metrics = "metrics.json" }
        tolerances = { metrics = { max_abs = 1e-3, ignore = ["/seconds"] } }
        "#,
    );
    space.built(&[]);
    let (code, report) = audit(&space, &[]);
    assert_eq!(
        (code, results(&report)),
        (Some(0), vec!["within-tolerance"])
    );
    let output = &report["steps"][0]["outputs"][0];
    assert_eq!(output["tolerance"], "max_abs 1e-3, ignore /seconds");
    let found = difference(&report, 0);
    assert_eq!(found["within"], true);
    let measured = found["gap"]["max_abs"].as_f64().unwrap();
    assert!(
        measured > 0.0 && measured < 1e-3,
        "{measured}: of what is not ignored"
    );
    let run = space.retune(&["audit", "--report", "found"]);
    assert!(run.out.starts_with("a  within tolerance\n"), "{run}");
    assert!(
        run.out.contains("/loss: ") && run.out.contains("numbers: max abs "),
        "{run}"
    );
    assert!(
        run.err.contains("the same, within declared tolerances"),
        "{run}"
    );
    assert!(space.read("found/audit.html").contains("within tolerance"));
    // It is no part of the key, and what it does not cover is a difference.
    space.edit("max_abs = 1e-3", "max_abs = 1e-12");
    assert_eq!(space.built(&[]).total("up_to_date"), 1);
    let (code, report) = audit(&space, &[]);
    assert_eq!((code, results(&report)), (Some(1), vec!["differs"]));
    let changes = difference(&report, 0)["changes"].as_array().unwrap();
    let within = changes
        .iter()
        .map(|change| change["within"].as_bool().unwrap());
    assert_eq!(within.collect::<Vec<_>>(), [false, true], "{changes:?}");
}

#[test]
fn a_tolerance_of_what_is_no_output_is_refused() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\nrun = 'echo x > x'\noutputs = { x = 'x' }\n\
         tolerances = { y = { max_abs = 1 }, x = { ignore = ['seconds'], max_rel = -1 } }\n",
    );
    let run = space.retune(&["plan"]);
    assert_eq!(run.code, Some(3), "{run}");
    assert!(
        run.err
            .contains("'tolerances.x.max_rel' must be at least 0"),
        "{run}"
    );
    space.edit(", max_rel = -1", "");
    let run = space.retune(&["plan"]);
    for fault in [
        "'tolerances.y' is no output of the step, which has: x",
        "'tolerances.x.ignore' must hold JSON pointers such as /seconds, not 'seconds'",
    ] {
        assert!(run.err.contains(fault), "{fault}\n{run}");
    }
}
