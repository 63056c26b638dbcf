//! `cache stats` and `cache verify`: what the store holds, what is wrong with it, and mending that; and a store that cannot be written to.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::{Run, Space, files};

const PIPELINE: &str = r#"
[steps.rows]
uses = "command"
run = "echo rows >> RUNS; echo talking; mkdir -p rows/deep; cp ${inputs.text} rows/a; cp ${inputs.text} rows/deep/b; echo c > rows/c"
inputs = { text = "data/text" }
outputs = { rows = "rows/" }

[steps.count]
uses = "command"
run = "echo count >> RUNS; wc -c < ${inputs.rows}/a > count"
inputs = { rows = "@rows" }
outputs = { count = "count" }
"#;

fn built() -> Space {
    let space = Space::new(PIPELINE);
    space.write("data/text", "some text\n");
    space.built(&[]);
    space.ran();
    space
}

fn json(run: &Run) -> Value {
    serde_json::from_str(&run.out).unwrap_or_else(|e| panic!("{e}: {run}"))
}

fn verify(space: &Space, options: &[&str]) -> (Option<i32>, Value) {
    let run = space.retune(&[&["cache", "verify", "--json"], options].concat());
    (run.code, json(&run))
}

/// What was done about each fault, by what needed the object.
fn mended(report: &Value) -> Vec<(String, String)> {
    let faults = report["damage"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap_or("nothing").to_owned();
    let mut found: Vec<_> = faults
        .map(|fault| (text(&fault["needed_by"][0]), text(&fault["mended"])))
        .collect();
    found.sort();
    found
}

fn overwrite(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// The object that holds a listing or record with this in it.
fn object_with(space: &Space, part: &[u8]) -> PathBuf {
    let objects = files(&space.path("cache/objects"));
    let holds = |path: &&PathBuf| {
        let bytes = fs::read(path).unwrap();
        bytes.windows(part.len()).any(|window| window == part)
    };
    objects.iter().find(holds).unwrap().clone()
}

#[test]
fn a_sound_store_is_said_to_be_sound() {
    let space = built();
    let (code, report) = verify(&space, &[]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["objects"], files(&space.path("cache/objects")).len());
    assert_eq!(
        (&report["results"], mended(&report).len()),
        (&Value::from(2), 0)
    );
    let run = space.retune(&["cache", "verify"]);
    assert!(run.err.contains("all sound"), "{run}");
    assert_eq!(run.out, "");
}

#[test]
fn a_damaged_object_is_named_and_taken_again_from_the_output_in_place() {
    let space = built();
    let object = &space.objects("some text\n")[0];
    overwrite(object, b"SOME TEXT\n");
    let (code, report) = verify(&space, &[]);
    assert_eq!(code, Some(1), "{report}");
    assert_eq!(
        mended(&report),
        [("main/rows rows/a".into(), "nothing".into())]
    );
    assert_eq!(report["damage"][0]["needed_by"][1], "main/rows rows/deep/b");
    assert_eq!(
        fs::read(object).unwrap(),
        b"SOME TEXT\n",
        "looking mends nothing"
    );
    let (code, report) = verify(&space, &["--repair"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(
        mended(&report),
        [("main/rows rows/a".into(), "retaken".into())]
    );
    assert_eq!(fs::read(object).unwrap(), b"some text\n");
    let aside = files(&space.path("cache/damaged"));
    assert_eq!(fs::read(&aside[0]).unwrap(), b"SOME TEXT\n");
    assert_eq!(verify(&space, &[]).0, Some(0));
    assert_eq!(space.rerun().len(), 0);
    // And the mended object is good for a restore.
    space.remove("cache/out");
    assert_eq!(space.rerun().len(), 0);
    assert_eq!(space.read("cache/out/main/rows/rows/deep/b"), "some text\n");
}

#[test]
fn a_lost_object_is_mended_though_its_output_in_place_hides_the_loss() {
    let space = built();
    for path in files(&space.path("cache/objects")) {
        let bytes = fs::read(&path).unwrap();
        // All but the records: they are nowhere else.
        if !bytes.starts_with(b"{") {
            fs::remove_file(path).unwrap();
        }
    }
    assert_eq!(space.rerun().len(), 0, "every output is in place");
    let (code, report) = verify(&space, &["--repair"]);
    assert_eq!(code, Some(0), "{report}");
    // Two listings, three files, and the log.
    let mended = mended(&report);
    assert_eq!(mended.len(), 6, "{mended:?}");
    assert!(
        mended.iter().all(|(_, done)| done == "retaken"),
        "{mended:?}"
    );
    assert_eq!(verify(&space, &[]).0, Some(0));
    space.remove("cache/out");
    assert_eq!(space.rerun().len(), 0);
}

#[test]
fn what_cannot_be_had_again_is_given_up_and_rebuilt() {
    let space = built();
    fs::remove_file(&space.objects("c\n")[0]).unwrap();
    space.write("cache/out/main/rows/rows/c", "edited\n");
    let (code, report) = verify(&space, &["--repair"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(
        mended(&report),
        [("main/rows rows/c".into(), "given-up".into())]
    );
    let why = space.retune(&["why", "rows"]);
    assert!(why.out.contains("no longer in the store"), "{why}");
    assert_eq!(space.rerun(), ["rows"]);
    assert_eq!(verify(&space, &[]).0, Some(0));
    assert_eq!(space.read("cache/out/main/rows/rows/c"), "c\n");
}

#[test]
fn a_lost_listing_is_made_again_and_shows_what_else_is_gone() {
    let space = built();
    // The record speaks of `deep`, too; a listing has its length before it.
    fs::remove_file(object_with(&space, b"\0\0\0deep")).unwrap();
    fs::remove_file(&space.objects("c\n")[0]).unwrap();
    let (code, report) = verify(&space, &[]);
    assert_eq!((code, mended(&report).len()), (Some(1), 1), "{report}");
    let (code, report) = verify(&space, &["--repair"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(
        mended(&report),
        [
            ("main/rows rows".into(), "retaken".into()),
            ("main/rows rows/c".into(), "retaken".into())
        ]
    );
    assert_eq!(verify(&space, &[]).0, Some(0));
}

#[test]
fn a_lost_record_is_said_and_gives_up_no_result() {
    let space = built();
    fs::remove_file(object_with(&space, b"\"step\": \"count\"")).unwrap();
    let (code, report) = verify(&space, &["--repair"]);
    assert_eq!(code, Some(1), "{report}");
    assert_eq!(space.rerun().len(), 0);
    let run = space.retune(&["cache", "verify"]);
    assert!(run.out.contains("record"), "{run}");
    space.built(&["--force", "count"]);
    assert_eq!(verify(&space, &[]).0, Some(0));
}

#[test]
fn a_damaged_object_that_nothing_needs_is_moved_aside() {
    let space = built();
    let name = "ab".to_owned() + &"0".repeat(62);
    space.write(&format!("cache/objects/ab/{}", &name[2..]), "not that");
    let (code, report) = verify(&space, &["--repair"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(mended(&report), [("nothing".into(), "moved-aside".into())]);
    assert_eq!(space.read(&format!("cache/damaged/{name}")), "not that");
}

#[test]
fn every_object_damaged_in_turn_is_found_and_the_project_comes_back() {
    let space = built();
    for path in files(&space.path("cache/objects")) {
        let bytes = fs::read(&path).unwrap();
        for damage in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut bad = bytes.clone();
            bad[damage] ^= 0x20;
            overwrite(&path, &bad);
            let (code, report) = verify(&space, &[]);
            assert_eq!(
                code,
                Some(1),
                "byte {damage} of {}: {report}",
                path.display()
            );
            overwrite(&path, &bytes);
        }
        overwrite(&path, &[]);
        verify(&space, &["--repair"]);
        let records = bytes.starts_with(b"{");
        assert_eq!(space.rerun().len(), 0, "{}", path.display());
        if records {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(verify(&space, &[]).0, Some(0), "{}", path.display());
    }
}

#[test]
fn stats_count_what_is_there() {
    let space = built();
    space.write("data/text", "another text\n");
    space.built(&[]);
    let run = space.retune(&["cache", "stats", "--json"]);
    assert_eq!(run.code, Some(0), "{run}");
    let stats = json(&run);
    let objects = files(&space.path("cache/objects"));
    let bytes: u64 = objects
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    assert_eq!(
        (&stats["objects"], &stats["bytes"]),
        (&objects.len().into(), &bytes.into())
    );
    assert_eq!(
        (&stats["results"], &stats["kinds"][0]["name"]),
        (&4.into(), &"command".into())
    );
    // 10 + 10 + 2 and 13 + 13 + 2 bytes, and two counts of 3.
    assert_eq!(stats["unshared_bytes"], 22 + 28 + 6);
    // `c` is in both, and `a` is `deep/b`.
    assert_eq!(stats["steps"][0]["name"], "main/rows");
    assert_eq!(stats["steps"][0]["bytes"], 10 + 13 + 2);
    assert_eq!(stats["ages"][0]["name"], "today");
    assert!(stats["journal_bytes"].as_u64().unwrap() > 100);
    // What is in place now: `a`, `deep/b`, `c` and the count.
    assert_eq!(stats["in_place"], 13 + 13 + 2 + 3);
    assert_eq!(stats["copies"], stats["in_place"]);
    let run = space.retune(&["cache", "stats"]);
    assert!(run.out.contains("main/rows"), "{run}");
    assert!(run.out.contains("31 B of it copies"), "{run}");
}

const LARGE: &str = r#"
[pipeline]
hard_links = false

[steps.large]
uses = "command"
run = "echo large >> RUNS; head -c 2000000 /dev/zero > out"
outputs = { out = "out" }
"#;

/// Turns on the executable bits, or writes something of the same size.
fn change(space: &Space, what: &str) {
    let path = space.path("cache/out/main/large/out");
    match what {
        "mode" => fs::set_permissions(&path, fs::Permissions::from_mode(0o555)).unwrap(),
        _ => overwrite(&path, &[1; 2_000_000]),
    }
}

fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap())
}

/// Whether the output is the store's own file.
fn is_linked(space: &Space) -> bool {
    let object = &space.objects(&"\0".repeat(2_000_000))[0];
    inode(object) == inode(&space.path("cache/out/main/large/out"))
}

#[test]
fn what_is_done_to_a_large_output_is_not_done_to_the_store() {
    let space = Space::new(LARGE);
    assert_eq!(space.rerun(), ["large"]);
    assert!(!is_linked(&space));
    for what in ["content", "mode"] {
        change(&space, what);
        let (code, report) = verify(&space, &[]);
        assert_eq!(code, Some(0), "{what}: {report}");
        let run = space.built(&[]);
        assert_eq!(run.total("restored"), 1, "{what}: {run}");
        assert_eq!(space.built(&[]).total("up_to_date"), 1, "{what}");
    }
    assert_eq!(space.ran(), Vec::<String>::new());
    assert_eq!(verify(&space, &[]).0, Some(0));
}

#[test]
fn a_large_output_is_the_stores_file_where_the_pipeline_says_so() {
    let space = Space::new(LARGE);
    space.edit("hard_links = false", "hard_links = true");
    assert_eq!(space.rerun(), ["large"]);
    if !is_linked(&space) {
        eprintln!("skipped: this file system shares blocks");
        return;
    }
    let stats = json(&space.retune(&["cache", "stats", "--json"]));
    assert_eq!(stats["in_place"], 2_000_000);
    assert_eq!(stats["copies"], 0);
    assert_eq!(space.built(&[]).total("up_to_date"), 1);
    // The mode is that of the object as well, and is put right with it.
    change(&space, "mode");
    assert_eq!(space.built(&[]).total("restored"), 1);
    assert_eq!(space.built(&[]).total("up_to_date"), 1);
    assert_eq!(space.ran(), Vec::<String>::new());
    // The content is gone: that is noticed, and it is made again.
    change(&space, "content");
    assert_eq!(verify(&space, &[]).0, Some(1));
    assert_eq!(space.rerun(), ["large"]);
    assert_eq!(verify(&space, &[]).0, Some(0));
    assert!(is_linked(&space));
    // Not any more from the next time on that it is put in place.
    space.edit("hard_links = true", "hard_links = false");
    assert_eq!(space.built(&[]).total("up_to_date"), 1);
    space.remove("cache/out");
    assert_eq!(space.built(&[]).total("restored"), 1);
    assert!(!is_linked(&space));
}

#[test]
fn verbs_about_the_store_need_no_pipeline() {
    let space = Space::empty();
    for verb in [&["cache", "stats"][..], &["cache", "verify"], &["gc"]] {
        let run = space.retune(verb);
        assert_eq!(run.code, Some(0), "{run}");
    }
    assert!(!space.exists("cache"), "looking makes nothing");
}

/// Runs the program with these arguments.
type Retune = Box<dyn Fn(&[&str]) -> Run>;

/// The program where it cannot write to the store, which is mounted read-only
/// for it alone, or belongs to somebody else. None where neither is to be had.
fn read_only(space: &Space) -> Option<Retune> {
    // Others may not be let into the folder that the program is in.
    let retune = space.outside("retune");
    fs::copy(support::program(), &retune).ok()?;
    let cache = space.path("cache");
    let (cache, project) = (cache.to_str()?.to_owned(), space.path("."));
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && exec \"$@\"";
    let unshared = retune.clone();
    let unshare = move |user: bool, arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(user.then_some("--map-root-user"));
        command.args(["--mount", "sh", "-c", script, &cache]);
        command.arg(&unshared).args(arguments).current_dir(&project);
        command
    };
    for user in [false, true] {
        let probe = Run::of(unshare(user, &["--version"]).stdin(std::process::Stdio::null()));
        if probe.code == Some(0) {
            return Some(Box::new(move |arguments| {
                Run::of(&mut unshare(user, arguments))
            }));
        }
    }
    // Without mounts, somebody else than the owner may only read.
    let project = space.path(".");
    let as_nobody = move |arguments: &[&str]| {
        let mut command = Command::new(&retune);
        command.args(arguments).current_dir(&project);
        command.uid(65534).gid(65534);
        command
    };
    fs::set_permissions(space.outside(""), fs::Permissions::from_mode(0o755)).ok()?;
    let probe = as_nobody(&["--version"]).output();
    let may = probe.is_ok_and(|probe| probe.status.success());
    may.then(|| -> Retune { Box::new(move |arguments| Run::of(&mut as_nobody(arguments))) })
}

#[test]
fn looking_works_with_a_store_that_cannot_be_written_and_building_says_what_is_wrong() {
    let space = built();
    let Some(retune) = read_only(&space) else {
        eprintln!("skipped: neither a mount namespace nor another user is to be had");
        return;
    };
    for verb in [
        &["plan"][..],
        &["plan", "--check"],
        &["why", "rows"],
        &["verify"],
        &["graph"],
        &["cache", "stats"],
        &["cache", "verify"],
        &["lock", "--check"],
        &["gc"],
    ] {
        let run = retune(verb);
        assert_eq!(run.code, Some(0), "{verb:?}: {run}");
    }
    // Also what is known of a change, which is remembered nowhere.
    space.write("data/text", "another text\n");
    let plan = retune(&["plan", "--check"]);
    assert_eq!(plan.code, Some(2), "{plan}");
    for verb in [
        &["build"][..],
        &["gc", "--delete"],
        &["cache", "verify", "--repair"],
    ] {
        let run = retune(verb);
        assert_eq!(run.code, Some(5), "{verb:?}: {run}");
        assert!(run.err.contains("the store"), "{verb:?}: {run}");
        assert!(run.err.contains("cannot be written"), "{verb:?}: {run}");
        assert!(run.err.contains("hint: "), "{verb:?}: {run}");
    }
    assert_eq!(space.rerun(), ["count", "rows"]);
}
