//! Looking at large pipelines: reasons down to the file, plans that go on, drawings, profiles.

mod support;

use serde_json::Value;
use support::{Run, Space};

/// Two steps on a folder and a glob, and one after them.
const PIPELINE: &str = r#"
[steps.folder]
uses = "command"
run = "echo folder >> RUNS; ls -R ${inputs.data} > list.txt"
inputs = { data = "data/app" }
outputs = { list = "list.txt" }

[steps.after]
uses = "command"
run = "echo after >> RUNS; wc -l < ${inputs.list} > n.txt"
inputs = { list = "@folder" }
outputs = { n = "n.txt" }
"#;

fn space(files: usize) -> Space {
    let space = Space::new(PIPELINE);
    for n in 0..files {
        space.write(&format!("data/app/{n:03}.txt"), &format!("{n}\n"));
    }
    space.write("data/app/sub/deep.txt", "deep\n");
    space
}

fn without_digests(run: &Run) -> String {
    let words = run.out.split_inclusive([' ', '\n']);
    let shown = |word: &str| {
        let bare = word.trim();
        let hex = bare.len() >= 12 && bare.bytes().all(|b| b.is_ascii_hexdigit());
        if hex {
            word.replace(bare, "DIGEST")
        } else {
            word.to_owned()
        }
    };
    words.map(shown).collect()
}

#[test]
fn why_names_the_files_of_a_folder() {
    let space = space(30);
    space.built(&[]);
    space.write("data/app/003.txt", "other\n");
    space.write("data/app/sub/deep.txt", "deeper\n");
    space.write("data/app/new.txt", "new\n");
    space.remove("data/app/029.txt");
    let why = space.retune(&["why", "folder"]);
    insta::assert_snapshot!(without_digests(&why), @"
    folder (command): would run, because
      input inputs[data]: 2 of 31 files changed: 003.txt, sub/deep.txt (+1 added, 1 removed)
        003.txt: DIGEST → DIGEST
        sub/deep.txt: DIGEST → DIGEST
        new.txt: added
        029.txt: removed
      key DIGEST
    ");
    let json = space.retune(&["why", "folder", "--json"]);
    let json: Value = serde_json::from_str(&json.out).unwrap();
    let files = &json["reasons"][0]["files"];
    let counts = ["total", "changed", "added", "removed"].map(|n| files[n].as_u64().unwrap());
    assert_eq!(counts, [31, 2, 1, 1]);
    assert_eq!(files["files"][0]["path"], "003.txt");
    assert_eq!(files["files"][0]["old"].as_str().unwrap().len(), 64);
}

#[test]
fn why_all_names_every_file() {
    let space = space(40);
    space.built(&[]);
    for n in 0..40 {
        space.write(&format!("data/app/{n:03}.txt"), "other\n");
    }
    let lines = |arguments: &[&str]| space.retune(arguments).out.lines().count();
    assert_eq!(lines(&["why", "folder"]), 3 + 10);
    assert_eq!(lines(&["why", "folder", "--all"]), 3 + 40);
    let plan = space.retune(&["plan"]);
    let told = "input inputs[data]: 40 of 41 files changed, e.g. 000.txt, 001.txt, 002.txt";
    assert!(plan.out.contains(told), "{plan}");
}

#[test]
fn a_folder_whose_listing_is_gone_is_told_by_its_digests() {
    let space = space(3);
    space.built(&[]);
    for object in support::files(&space.path("cache/objects")) {
        let listing = std::fs::read(&object)
            .unwrap()
            .starts_with(b"retune listing");
        if listing {
            std::fs::remove_file(object).unwrap();
        }
    }
    space.write("data/app/000.txt", "other\n");
    let why = space.retune(&["why", "folder"]);
    insta::assert_snapshot!(without_digests(&why), @"
    folder (command): would run, because
      input inputs[data]: DIGEST → DIGEST
      key DIGEST
    ");
}

#[test]
fn a_plan_goes_on_past_a_missing_source() {
    let space = space(1);
    space.edit(
        "[steps.after]",
        "[steps.other]\nuses = 'command'\nrun = 'touch x'\noutputs = { x = 'x' }\n\n[steps.after]",
    );
    space.remove("data/app");
    let plan = space.retune(&["plan"]);
    assert_eq!(plan.code, Some(5), "{plan}");
    insta::assert_snapshot!(plan.out, @"
    STEP    KIND     VERDICT     WHY
    folder  command  error       input 'inputs': data/app does not exist
    other   command  run         never built
    after   command  blocked     folder cannot run
    ");
    insta::assert_snapshot!(plan.err, @"3 steps: 1 run, 1 error, 1 blocked");
    let why = space.retune(&["why", "after"]);
    assert_eq!(why.code, Some(5), "{why}");
    let build = space.build(&["-k"]);
    assert_eq!(build.code, Some(1), "{build}");
    assert_eq!(build.steps("step-failed"), ["folder"]);
    assert_eq!(build.steps("step-finished"), ["other"]);
}

#[test]
fn a_plan_estimates_by_earlier_times() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\nrun = 'sleep 0.2; touch a'\noutputs = { a = 'a' }\n\
         [steps.b]\nuses = 'command'\nrun = 'sleep 0.1; cat ${inputs.a} > b'\n\
         inputs = { a = '@a' }\noutputs = { b = 'b' }\n",
    );
    let plan = space.retune(&["plan"]);
    assert_eq!(plan.err, "2 steps: 2 run\n", "no time is known yet");
    space.built(&[]);
    let plan = space.retune(&["plan", "--force", "a"]);
    assert!(plan.err.contains("\nat most about "), "{plan}");
    assert!(plan.err.contains("\nlongest chain: a → b ("), "{plan}");
    let steps = space.retune(&["plan", "--force", "a", "--json"]);
    let steps: Vec<Value> = serde_json::from_str(&steps.out).unwrap();
    assert!(steps[0]["millis"].as_u64().unwrap() >= 200, "{steps:?}");
    assert!(
        steps.iter().all(|step| step["critical"] == true),
        "{steps:?}"
    );
}

// Drawings

#[test]
fn a_drawing_shows_every_state() {
    let space = space(2);
    let svg = |arguments: &[&str]| {
        let run = space.retune(arguments);
        assert_eq!(run.code, Some(0), "{run}");
        assert!(
            run.out.starts_with("<?xml") && run.out.ends_with("</svg>\n"),
            "{run}"
        );
        run.out
    };
    let states = |svg: &str| {
        let steps = svg.split("<a href=\"#step-").skip(1);
        let state = |step: &str| step.split('\n').nth(1).unwrap().to_owned();
        steps.map(state).collect::<Vec<_>>()
    };
    let drawn = svg(&["graph", "--format", "svg"]);
    assert_eq!(states(&drawn), ["to run", "to run"]);
    space.built(&[]);
    let drawn = svg(&["graph", "--format", "svg"]);
    assert!(drawn.contains("outputs: list.txt ("), "{drawn}");
    assert!(drawn.contains("last made in: 20"), "{drawn}");
    space.write("data/app/000.txt", "other\n");
    let drawn = svg(&["graph", "--format", "svg"]);
    assert!(drawn.contains("why: input inputs[data]: 1 of 3 files changed: 000.txt"));
    space.edit("ls -R", "false; ls -R");
    space.edit("echo folder", "exit 3; echo folder");
    space.build(&[]);
    let drawn = svg(&["graph", "--format", "svg"]);
    assert!(drawn.contains("class=\"step bad"), "{drawn}");
}

#[test]
fn a_page_is_whole_in_itself() {
    let space = space(2);
    let page = space.retune(&["graph", "--format", "html"]);
    assert_eq!(page.code, Some(0), "{page}");
    assert!(page.out.starts_with("<!DOCTYPE html>") && page.out.ends_with("</html>\n"));
    for part in [
        "<tr id=\"step-folder\">",
        "<tr id=\"step-after\">",
        "<svg ",
        "<script>",
    ] {
        assert!(page.out.contains(part), "{part}");
    }
}

// Profiles

/// The events of a trace, which are what the description of the trace event
/// format allows: the fields of each phase and no others, of the right types;
/// spans of a lane that nest; waits that begin before they end, once each;
/// lanes and processes that have a name.
fn checked(trace: &Value) -> Vec<Value> {
    let object = trace.as_object().unwrap();
    let fields: Vec<&str> = object.keys().map(String::as_str).collect();
    assert_eq!(fields, ["displayTimeUnit", "traceEvents"]);
    assert_eq!(trace["displayTimeUnit"], "ms");
    let events = trace["traceEvents"].as_array().unwrap();
    events.iter().for_each(check_fields);
    let of_phase = |phase: &'static str| events.iter().filter(move |e| e["ph"] == phase);
    let named = |what: &str, event: &Value| {
        of_phase("M")
            .any(|m| m["name"] == what && m["pid"] == event["pid"] && m["tid"] == event["tid"])
    };
    for span in of_phase("X") {
        assert!(named("thread_name", span), "{span}");
    }
    assert!(of_phase("M").any(|m| m["name"] == "process_name"));
    check_nesting(&of_phase("X").collect::<Vec<_>>());
    let mut waits: Vec<&Value> = Vec::new();
    for event in events {
        let same = |wait: &&Value| ["cat", "id", "name"].iter().all(|f| wait[*f] == event[*f]);
        let open = waits.iter().position(same);
        match (event["ph"].as_str().unwrap(), open) {
            ("b", None) => waits.push(event),
            ("e", Some(at)) => {
                let begun = waits.remove(at)["ts"].as_u64();
                assert!(begun <= event["ts"].as_u64(), "{event}");
            }
            ("b" | "e", _) => panic!("not a pair: {event}"),
            _ => {}
        }
    }
    assert!(waits.is_empty(), "never ends: {waits:?}");
    let counted: Vec<u64> = of_phase("C").map(|e| e["ts"].as_u64().unwrap()).collect();
    assert!(
        counted.is_sorted(),
        "a counter goes back in time: {counted:?}"
    );
    events.clone()
}

fn check_fields(event: &Value) {
    let fields: Vec<&str> = event
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let wanted: &[&str] = match event["ph"].as_str().unwrap() {
        "X" => &["args", "cat", "dur", "name", "ph", "pid", "tid", "ts"],
        "C" => &["args", "cat", "name", "ph", "pid", "tid", "ts"],
        "b" | "e" => &["args", "cat", "id", "name", "ph", "pid", "tid", "ts"],
        "M" => &["args", "name", "ph", "pid", "tid"],
        phase => panic!("{phase} is no phase of this trace: {event}"),
    };
    let mut fields = fields;
    fields.sort();
    assert_eq!(fields, wanted, "{event}");
    for (field, value) in event.as_object().unwrap() {
        let fits = match field.as_str() {
            "args" => value.is_object(),
            "dur" | "pid" | "tid" | "ts" => value.is_u64(),
            _ => value.as_str().is_some_and(|text| !text.is_empty()),
        };
        assert!(fits, "{field} of {event}");
    }
    if event["ph"] == "C" {
        let mut values = event["args"].as_object().unwrap().values();
        assert!(values.all(Value::is_u64), "{event}");
    }
}

fn check_nesting(spans: &[&Value]) {
    let of = |span: &Value| {
        let number = |field| span[field].as_u64().unwrap();
        (number("tid"), number("ts"), number("ts") + number("dur"))
    };
    for (i, a) in spans.iter().enumerate() {
        for b in &spans[..i] {
            let ((lane, from, to), (other, start, end)) = (of(a), of(b));
            let beside = to <= start || end <= from;
            let inside = start <= from && to <= end || from <= start && end <= to;
            assert!(lane != other || beside || inside, "{a}\n{b}");
        }
    }
}

/// The checked events of a build's profile, however the build ended.
fn profile(space: &Space, arguments: &[&str]) -> Vec<Value> {
    let file = space.outside("profile.json");
    space.build(&[&["--profile", file.to_str().unwrap()], arguments].concat());
    checked(&serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap())
}

#[test]
fn a_profile_has_spans_that_nest() {
    let space = space(2);
    let events = profile(&space, &[]);
    let spans: Vec<&Value> = events.iter().filter(|event| event["ph"] == "X").collect();
    let named = |name: &str| spans.iter().filter(|span| span["name"] == name).count();
    for name in ["folder", "after", "load", "open"] {
        assert_eq!(named(name), 1, "{name}: {spans:?}");
    }
    assert!(named("decide") >= 2 && named("store") == 2 && named("commit") >= 1);
    let counters = events.iter().filter(|event| event["ph"] == "C");
    let most = counters
        .map(|c| c["args"]["running"].as_u64().unwrap())
        .max();
    assert_eq!(most, Some(1), "one needs the other");
    // Of a build that does nothing, too.
    assert!(
        profile(&space, &[])
            .iter()
            .all(|event| event["name"] != "folder")
    );
}

#[test]
fn a_profile_of_retries_failures_and_steps_at_once_is_as_strict() {
    let step = |name: &str, run: &str, more: &str| {
        format!(
            "[steps.{name}]\nuses = 'command'\nrun = '{run}'\noutputs = {{ x = 'x' }}\n{more}\n"
        )
    };
    let space = Space::new(
        &[
            step("slow", "sleep 0.2; touch x", ""),
            step("fine", "sleep 0.1; touch x", ""),
            step(
                "again",
                "mkdir OUTSIDE/once && exit 3; touch x",
                "retry = { times = 1, wait = 0 }",
            ),
            step("bad", "exit 3", ""),
            step("after", "touch x", "inputs = { bad = \"@bad\" }"),
        ]
        .concat(),
    );
    let events = profile(&space, &["-k", "-j", "3"]);
    let spans = |name: &str| {
        let spans = events
            .iter()
            .filter(|e| e["ph"] == "X" && e["name"] == name);
        let ends: Vec<&str> = spans.map(|e| e["args"]["end"].as_str().unwrap()).collect();
        ends
    };
    assert_eq!(spans("again"), ["tried again", "finished"]);
    assert_eq!(spans("bad"), ["failed"]);
    assert_eq!(spans("slow"), ["finished"]);
    assert_eq!(spans("after").len(), 0);
}
