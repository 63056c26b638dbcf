//! `gc`: what anything needs stays, what nothing needs goes, and what is gone is simply made again.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use support::{Running, Space, files};

const PIPELINE: &str = r#"
[steps.rows]
uses = "command"
run = "echo rows >> RUNS; mkdir rows; cp ${inputs.text} rows/a; echo same > rows/b"
inputs = { text = "data/text" }
outputs = { rows = "rows/" }

[steps.count]
uses = "command"
run = "echo count >> RUNS; echo counting; wc -c < ${inputs.rows}/a > count"
inputs = { rows = "@rows" }
outputs = { count = "count" }
"#;

const OUT: &str = "cache/out/main/rows/rows/a";

fn project() -> Space {
    let space = Space::new(PIPELINE);
    text(&space, "one");
    space
}

/// Another text of another length, so that both steps make something else.
fn text(space: &Space, text: &str) {
    space.write("data/text", &format!("{text}\n"));
}

/// Builds a state and forgets which steps ran for it.
fn state(space: &Space, name: &str) {
    text(space, name);
    space.built(&[]);
    space.ran();
}

fn gc(space: &Space, options: &[&str]) -> Value {
    let run = space.retune(&[&["gc", "--json"], options].concat());
    assert_eq!(run.code, Some(0), "{run}");
    serde_json::from_str(&run.out).unwrap()
}

fn count(report: &Value, what: &str) -> u64 {
    report["garbage"][what]["count"].as_u64().unwrap_or(0)
}

#[track_caller]
fn git(space: &Space, arguments: &[&str]) {
    let run = space.git(arguments);
    assert_eq!(run.code, Some(0), "git {arguments:?}: {run}");
}

fn objects(space: &Space) -> BTreeSet<PathBuf> {
    files(&space.path("cache/objects")).into_iter().collect()
}

/// Everything below a folder with its size and time of change.
fn snapshot(space: &Space) -> Vec<(PathBuf, u64)> {
    let files = files(&space.path("cache")).into_iter();
    let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
    files.map(|path| (path.clone(), size(&path))).collect()
}

#[test]
fn looking_deletes_nothing_and_says_how_much_would_go() {
    let space = project();
    state(&space, "one");
    state(&space, "two, longer");
    let before = snapshot(&space);
    let run = space.retune(&["gc", "--keep-runs", "0"]);
    assert_eq!(run.code, Some(0), "{run}");
    assert!(run.out.contains("results that no lock file"), "{run}");
    assert!(run.err.contains("would go; `retune gc --delete`"), "{run}");
    assert_eq!(snapshot(&space), before);
    let report = gc(&space, &["--keep-runs", "0"]);
    assert_eq!(
        (count(&report, "results"), &report["deleted"]),
        (2, &Value::Bool(false))
    );
    assert_eq!(snapshot(&space), before);
}

#[test]
fn what_goes_is_gone_and_what_stays_is_whole() {
    let space = project();
    state(&space, "one");
    state(&space, "two, longer");
    let before: u64 = files(&space.path("cache/objects"))
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    let report = gc(&space, &["--keep-runs", "0", "--delete"]);
    let after: u64 = files(&space.path("cache/objects"))
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    assert_eq!(report["garbage"]["results"]["bytes"], before - after);
    assert_eq!(report["kept"]["bytes"], after);
    assert_eq!(space.objects("one\n").len(), 0);
    assert_eq!(space.objects("same\n").len(), 1, "both results share it");
    assert_eq!(space.rerun().len(), 0, "the current state stays");
    let verify = space.retune(&["verify"]);
    assert_eq!(verify.code, Some(0), "{verify}");
    // What is gone is made again, and the current state restored from the store.
    text(&space, "one");
    assert_eq!(space.rerun(), ["count", "rows"]);
    text(&space, "two, longer");
    assert_eq!(space.rerun().len(), 0);
    assert_eq!(space.read(OUT), "two, longer\n");
    assert_eq!(
        count(&gc(&space, &["--delete"]), "results"),
        0,
        "of recent runs"
    );
}

#[test]
fn results_of_the_last_runs_stay() {
    let space = project();
    for name in ["one", "two, longer", "three, even longer"] {
        state(&space, name);
        // Runs are told apart by second and process.
        thread::sleep(Duration::from_millis(1100));
    }
    let report = gc(&space, &["--keep-runs", "2", "--delete"]);
    assert_eq!(count(&report, "results"), 2, "{report}");
    text(&space, "two, longer");
    assert_eq!(space.rerun().len(), 0);
    text(&space, "one");
    assert_eq!(space.rerun(), ["count", "rows"]);
}

#[test]
fn lock_files_of_branches_tags_stashes_and_worktrees_hold_their_results() {
    let space = project();
    space.write(".gitignore", "/cache/\n");
    git(&space, &["init", "-q", "-b", "main"]);
    let commit = || {
        git(&space, &["add", "."]);
        git(&space, &["commit", "-q", "-m", "state"]);
    };
    state(&space, "on main");
    commit();
    git(&space, &["checkout", "-q", "-b", "side"]);
    state(&space, "on a branch");
    commit();
    git(&space, &["checkout", "-q", "--detach", "main"]);
    state(&space, "under a tag");
    commit();
    git(&space, &["tag", "-a", "v1", "-m", "tag"]);
    git(&space, &["checkout", "-q", "--detach", "main"]);
    state(&space, "lost with its commit");
    commit();
    git(&space, &["checkout", "-q", "main"]);
    state(&space, "in an old stash");
    git(&space, &["stash", "-q"]);
    // A lock file that git does not know of, in a stash that is not the newest.
    git(&space, &["rm", "-q", "--cached", "pipelines/main.lock"]);
    git(&space, &["commit", "-q", "-m", "without"]);
    state(&space, "unknown in a stash");
    git(&space, &["stash", "-q", "-u"]);
    git(&space, &["reset", "-q", "--hard", "HEAD~"]);
    state(&space, "in a stash");
    git(&space, &["stash", "-q"]);
    // A lock file whose content has another name, too, that comes before its own.
    git(&space, &["checkout", "-q", "-b", "named", "main"]);
    state(&space, "twice in a branch");
    fs::create_dir(space.path("a")).unwrap();
    fs::copy(space.path("pipelines/main.lock"), space.path("a/copy")).unwrap();
    commit();
    git(&space, &["checkout", "-q", "main"]);
    // A worktree with a lock file that nobody committed.
    let other = space.outside("other");
    git(&space, &["worktree", "add", "-q", other.to_str().unwrap()]);
    state(&space, "in a worktree");
    fs::copy(
        space.path("pipelines/main.lock"),
        other.join("pipelines/main.lock"),
    )
    .unwrap();
    git(&space, &["checkout", "-q", "--", "."]);
    state(&space, "on main");
    let report = gc(&space, &["--keep-runs", "0", "--delete"]);
    assert_eq!(count(&report, "results"), 2, "{report}");
    assert_eq!(
        report["branches"], 6,
        "main, side, named, other, stash, v1: {report}"
    );
    for name in [
        "on a branch",
        "under a tag",
        "in a stash",
        "in an old stash",
        "unknown in a stash",
        "twice in a branch",
        "in a worktree",
        "on main",
    ] {
        text(&space, name);
        assert_eq!(space.rerun().len(), 0, "{name}");
    }
    text(&space, "lost with its commit");
    assert_eq!(space.rerun(), ["count", "rows"]);
}

#[test]
fn both_sides_of_a_merge_in_progress_hold_their_results() {
    let space = project();
    space.write(".gitignore", "/cache/\n");
    state(&space, "one");
    let one = space.read("pipelines/main.lock");
    state(&space, "two, longer");
    let two = space.read("pipelines/main.lock");
    state(&space, "three, even longer");
    space.write(
        "pipelines/main.lock",
        &format!("<<<<<<< ours\n{one}=======\n{two}>>>>>>> theirs\n"),
    );
    let report = gc(&space, &["--keep-runs", "0", "--delete"]);
    assert_eq!(count(&report, "results"), 0, "{report}");
}

#[test]
fn a_repository_that_git_cannot_read_stops_it() {
    let space = project();
    state(&space, "one");
    state(&space, "two, longer");
    fs::create_dir(space.path(".git")).unwrap();
    let before = snapshot(&space);
    let run = space.retune(&["gc", "--delete", "--keep-runs", "0"]);
    assert_eq!(run.code, Some(5), "{run}");
    assert!(run.err.contains("failed to look for lock files"), "{run}");
    assert!(run.err.contains("nothing was deleted"), "{run}");
    let objects = |list: Vec<(PathBuf, u64)>| {
        let objects = list
            .into_iter()
            .filter(|(path, _)| path.starts_with(space.path("cache/objects")));
        objects.collect::<Vec<_>>()
    };
    assert_eq!(objects(snapshot(&space)), objects(before));
}

#[test]
fn a_size_is_reached_by_the_oldest_results_first_and_never_by_needed_ones() {
    let space = project();
    for n in 0..4 {
        text(&space, &format!("{n}{}", "x".repeat(40_000 + n)));
        space.built(&[]);
        thread::sleep(Duration::from_millis(20));
    }
    space.ran();
    let report = gc(
        &space,
        &["--keep-runs", "0", "--max-size", "130kB", "--delete"],
    );
    assert!(
        report["kept"]["bytes"].as_u64().unwrap() <= 130_000,
        "{report}"
    );
    assert!(
        report["kept"]["bytes"].as_u64().unwrap() > 85_000,
        "{report}"
    );
    text(&space, &format!("2{}", "x".repeat(40_002)));
    assert_eq!(space.rerun().len(), 0, "a newer one stayed");
    text(&space, &format!("0{}", "x".repeat(40_000)));
    assert_eq!(space.rerun(), ["count", "rows"], "the oldest went");
    let report = gc(
        &space,
        &["--keep-runs", "0", "--max-size", "1kB", "--delete"],
    );
    assert!(report["over"].as_u64().unwrap() > 39_000, "{report}");
    assert_eq!(space.rerun().len(), 0);
}

#[test]
fn what_killed_runs_left_goes_and_edited_outputs_only_on_request() {
    let space = project();
    state(&space, "one");
    space.write("cache/objects/ab/.new-1-1", "half");
    space.write("cache/objects/ab/cdef", "no object");
    space.write("cache/graphs/gone", "a pipeline that is gone");
    space.write("cache/snapshots/gone", "what it came to");
    space.write("cache/snapshots/main.123", "half written");
    space.write("cache/journal.damaged", "damaged");
    space.write(
        &format!("cache/checkpoints/{}/state", "ab".repeat(32)),
        "state",
    );
    let orphan = blake3_of("nobody's");
    space.write(
        &format!("cache/objects/{}/{}", &orphan[..2], &orphan[2..]),
        "nobody's",
    );
    space.write(OUT, "edited by hand\n");
    space.built(&[]);
    space.write("cache/work/killed-rows/out/half", "half");
    let edited = files(&space.path("cache/edited"));
    assert_eq!(edited.len(), 2, "the whole folder");
    let report = gc(&space, &["--delete"]);
    for (what, n) in [
        ("work", 1),
        ("strays", 2),
        ("orphans", 1),
        ("graphs", 3),
        ("damaged", 1),
        ("checkpoints", 1),
        ("edited", 0),
    ] {
        assert_eq!(count(&report, what), n, "{what} in {report}");
    }
    assert!(!space.exists("cache/work/killed-rows") && !space.exists("cache/graphs/gone"));
    assert!(space.exists("cache/graphs/main") && edited[0].exists());
    assert_eq!(files(&space.path("cache/snapshots")).len(), 1);
    assert_eq!(count(&gc(&space, &["--delete", "--edited"]), "edited"), 1);
    assert!(!edited[0].exists());
    assert_eq!(space.rerun().len(), 0);
    let nothing = space.retune(&["gc", "--delete"]);
    assert!(nothing.err.contains("nothing to delete"), "{nothing}");
}

fn blake3_of(text: &str) -> String {
    retune::hash::Digest::of(text.as_bytes()).to_string()
}

#[test]
fn a_checkpoint_that_a_step_can_go_on_from_stays() {
    let space = project();
    space.edit("wc -c", "exit 1; wc -c");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1), "{run}");
    let key = run.of_kind("step-started").last().unwrap()["key"]
        .as_str()
        .unwrap()
        .to_owned();
    space.write(&format!("cache/checkpoints/{key}/state"), "state");
    gc(&space, &["--delete"]);
    assert!(space.exists(&format!("cache/checkpoints/{key}/state")));
}

#[test]
fn steps_and_pipelines_that_are_gone_hold_nothing() {
    let space = project();
    space.write(
        "pipelines/second.toml",
        &space.read("pipelines/main.toml").replace("wc -c", "wc -l"),
    );
    for pipeline in ["main", "second"] {
        space.built(&["-p", pipeline]);
    }
    space.ran();
    let gc = |space: &Space| gc(space, &["-p", "main", "--keep-runs", "0", "--delete"]);
    assert_eq!(count(&gc(&space), "results"), 0);
    space.remove("pipelines/second.toml");
    assert_eq!(
        count(&gc(&space), "results"),
        0,
        "its lock file is still there"
    );
    space.remove("pipelines/second.lock");
    assert_eq!(
        count(&gc(&space), "results"),
        1,
        "they share the first step"
    );
    assert_eq!(space.rerun().len(), 0);
}

#[test]
fn a_pipeline_elsewhere_in_the_project_keeps_its_results() {
    let space = project();
    state(&space, "one");
    let text = space.read("pipelines/main.toml").replace("wc -c", "wc -l");
    space.write("models/small.v1/second.toml", &text);
    let second = ["-p", "models/small.v1/second.toml"];
    space.built(&second);
    space.ran();
    // Another program's lock file is none of ours.
    space.write("models/Cargo.lock", &blake3_of("a package"));
    let report = gc(&space, &["--keep-runs", "0", "--delete"]);
    assert_eq!(count(&report, "results"), 0, "{report}");
    assert_eq!(report["lock_files"], 2, "{report}");
    assert_eq!(space.built(&second).total("up_to_date"), 2);
    // Without its file it still has the lock file.
    space.remove("models/small.v1/second.toml");
    let report = gc(&space, &["--keep-runs", "0", "--delete"]);
    assert_eq!(count(&report, "results"), 0, "{report}");
    space.remove("models/small.v1/second.lock");
    let report = gc(&space, &["--keep-runs", "0", "--delete"]);
    assert_eq!(count(&report, "results"), 1, "they share the first step");
    assert_eq!(count(&report, "graphs"), 0, "went with the step before");
}

#[test]
fn a_pipeline_that_is_broken_at_the_moment_loses_nothing() {
    let space = project();
    state(&space, "one");
    space.remove("pipelines/main.lock");
    let whole = space.read("pipelines/main.toml");
    space.pipeline("[steps.rows\n");
    let report = gc(&space, &["--keep-runs", "0", "--delete"]);
    assert_eq!(count(&report, "results"), 0, "{report}");
    space.write("pipelines/main.toml", &whole);
    assert_eq!(space.rerun().len(), 0);
}

#[test]
fn a_store_outside_of_the_project_keeps_what_other_projects_stand_at() {
    let [one, two] = [project(), project()];
    let store = one.outside("shared-store");
    let store = store.to_str().unwrap();
    text(&two, "another project's");
    two.pipeline(
        &PIPELINE
            .replace("steps.rows]", "steps.lines]")
            .replace("@rows", "@lines"),
    );
    for space in [&one, &two] {
        space.built(&["--cache", store]);
        space.ran();
    }
    // However it is named.
    for store in [store, "../shared-store"] {
        let report = gc(&one, &["--cache", store, "--keep-runs", "0", "--delete"]);
        assert_eq!(count(&report, "results"), 0, "{report}");
    }
    for space in [&one, &two] {
        space.built(&["--cache", store]);
        assert_eq!(space.ran().len(), 0);
    }
}

#[test]
fn it_waits_for_a_build_that_runs() {
    let space = project();
    space.edit(
        "echo rows >>",
        "while [ ! -e OUTSIDE/go ]; do sleep 0.05; done; echo rows >>",
    );
    let build = space.start(&["build"]);
    build.wait_for("step-started", 1);
    let looking = space.retune(&["gc", "--json"]);
    assert_eq!(looking.code, Some(0), "{looking}");
    let looking: Value = serde_json::from_str(&looking.out).unwrap();
    assert_eq!(count(&looking, "work"), 0, "it is at work: {looking}");
    let mut command = space.command(&["gc", "--delete", "--json"]);
    let err = fs::File::create(space.outside("gc.err")).unwrap();
    let mut waiting = command
        .stdout(std::process::Stdio::piped())
        .stderr(err)
        .spawn()
        .unwrap();
    support::wait_for("that it waits", || {
        let said = fs::read_to_string(space.outside("gc.err")).unwrap();
        said.contains("waiting for process").then_some(())
    });
    assert!(waiting.try_wait().unwrap().is_none());
    fs::write(space.outside("go"), "").unwrap();
    assert_eq!(build.end().code, Some(0));
    let done = waiting.wait_with_output().unwrap();
    assert!(done.status.success());
    assert_eq!(space.retune(&["verify"]).code, Some(0));
}

#[test]
fn a_collection_killed_half_way_leaves_a_store_that_works() {
    let space = project();
    for n in 0..30 {
        text(&space, &"x".repeat(n));
        space.built(&[]);
    }
    space.ran();
    for _ in 0..5 {
        let mut child = space
            .command(&["gc", "--delete", "--keep-runs", "0"])
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(7));
        let _ = child.kill();
        child.wait().unwrap();
        let check = space.retune(&["cache", "verify"]);
        assert_eq!(check.code, Some(0), "{check}");
    }
    let report = gc(&space, &["--delete", "--keep-runs", "0"]);
    assert_eq!(report["kept"]["count"], 2, "{report}");
    assert_eq!(space.rerun().len(), 0);
}

/// Builds, collections and a watch at once, for a while: nothing fails, and the
/// end is that of an undisturbed build.
#[test]
fn builds_collections_and_a_watch_at_once() {
    let space = project();
    state(&space, "one");
    let watch: Running = space.start(&["watch"]);
    watch.wait_for("run-finished", 1);
    let until = Instant::now() + Duration::from_secs(6);
    thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < until {
                let run = space.retune(&["gc", "--delete", "--keep-runs", "0"]);
                assert_eq!(run.code, Some(0), "{run}");
            }
        });
        scope.spawn(|| {
            while Instant::now() < until {
                let run = space.retune(&["cache", "verify"]);
                // What is just being deleted may be missed by a look without
                // the lock; damage would be something else.
                let damaged = run.out.replace("    is missing\n", "");
                assert!(!damaged.contains("    is "), "{run}");
            }
        });
        let mut n = 0;
        while Instant::now() < until {
            n += 1;
            text(&space, &"y".repeat(n % 7));
            let run = space.retune(&["build", "-q"]);
            assert!(
                run.code == Some(0) || run.err.contains("changed while"),
                "{run}"
            );
        }
    });
    watch.signal(Signal::INT);
    let watched = watch.end();
    assert_eq!(watched.code, Some(0), "{watched}");
    state(&space, "the end");
    gc(&space, &["--delete", "--keep-runs", "0"]);
    assert_eq!(space.retune(&["verify"]).code, Some(0));
    let check = space.retune(&["cache", "verify"]);
    assert_eq!(check.code, Some(0), "{check}");
    let here = objects(&space).len();
    let fresh = project();
    state(&fresh, "the end");
    assert_eq!(
        here,
        objects(&fresh).len(),
        "as many objects as an undisturbed build has"
    );
}
