//! The short way of a build that changes little: it is taken, and it says and does what the long way does.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;
use support::{Run, Space, files};

const PIPELINE: &str = r#"
[params]
word = "hello"

[steps.left]
uses = "command"
run = "head -c 4 ${inputs.text} > ${outputs.text}; echo $MARK >> ${outputs.text}"
inputs = { text = "data/left.txt" }
outputs = { text = "left.txt" }
env = ["MARK"]

[steps.folder]
uses = "command"
run = "cat ${inputs.all}/*.txt ${inputs.all}/sub/* > ${outputs.text}; mkdir ${outputs.more}; echo m > ${outputs.more}/m"
inputs = { all = "data/all" }
outputs = { text = "folder.txt", more = { path = "more", type = "folder" } }

[steps.rows]
uses = "data.import"
files = ["data/rows/*.jsonl"]
schema = "text"

[steps.join]
uses = "command"
run = "(cat ${inputs.left} ${inputs.folder}; echo ${params.word}) | sort | tail -n 2 > ${outputs.text}"
inputs = { left = "@left", folder = "@folder.text" }
outputs = { text = "join.txt" }

[steps.end]
uses = "command"
run = "grep -q go ${inputs.may} && cp ${inputs.text} ${outputs.text}"
inputs = { text = "@join", may = "data/may.txt" }
outputs = { text = "end.txt" }
out = "results"
"#;

/// The project, not built yet.
fn space() -> Space {
    let space = Space::new(PIPELINE);
    space.write("data/left.txt", "left, and what head does not see\n");
    space.write("data/all/a.txt", "a\n");
    space.write("data/all/sub/b.txt", "b\n");
    space.write("data/rows/one.jsonl", "{\"text\":\"one\"}\n");
    space.write("data/may.txt", "go\n");
    space
}

/// Lets the clock's grain pass, so that digests taken now are believed later.
fn settle(space: &Space) {
    std::thread::sleep(Duration::from_millis(30));
    space.built(&[]);
    std::thread::sleep(Duration::from_millis(30));
    space.built(&[]);
}

/// Builds and says whether that went the long way, on which the graph is needed.
fn at_length(space: &Space, arguments: &[&str]) -> bool {
    let _ = fs::remove_dir_all(space.path("cache/graphs"));
    space.built(arguments);
    space.exists("cache/graphs")
}

#[test]
fn a_build_that_changes_nothing_is_short() {
    let space = space();
    space.built(&[]);
    settle(&space);
    assert!(!at_length(&space, &[]));
    space.write("data/may.txt", "go\n");
    assert!(!at_length(&space, &[]), "a touched file is the same file");
    let all = space.build(&[]);
    assert_eq!(all.total("up_to_date"), 5);
    assert_eq!(all.steps("step-decided").len(), 5);
}

#[test]
fn a_damaged_snapshot_is_none() {
    let space = space();
    space.built(&[]);
    settle(&space);
    let file = space.path("cache/snapshots/main");
    let good = fs::read(&file).unwrap();
    for at in [0, 20, 30, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        for bytes in [&bad[..], &good[..at]] {
            fs::write(&file, bytes).unwrap();
            assert!(at_length(&space, &[]), "byte {at}");
        }
    }
    settle(&space);
    assert!(!at_length(&space, &[]));
}

#[test]
fn a_pipeline_file_edited_while_it_is_built_is_built_the_next_time() {
    let space = Space::empty();
    let edit = format!(
        "echo a >> {0}; sed -i s/unread/read/ {1}; echo > ${{outputs.o}}",
        space.outside("runs").display(),
        space.path("pipelines/main.toml").display()
    );
    space.pipeline(&format!(
        "[pipeline]\ndescription = \"unread\"\n[steps.a]\nuses = \"command\"\nrun = \"{edit}\"\noutputs = {{ o = \"o\" }}\n"
    ));
    assert_eq!(space.rerun(), ["a"]);
    assert!(space.read("pipelines/main.toml").contains("\"read\""));
    assert!(
        at_length(&space, &[]),
        "what was built is not what is there"
    );
}

/// What a build came to, without what differs from run to run.
#[derive(Debug, PartialEq)]
struct Outcome {
    code: Option<i32>,
    summary: Value,
    /// What was told of each step, in order.
    told: BTreeMap<String, Vec<Value>>,
    others: Vec<String>,
    lock: String,
    files: BTreeMap<String, (u32, Vec<u8>)>,
}

fn outcome(space: &Space, run: &Run) -> Outcome {
    let mut told: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut others = Vec::new();
    for event in &run.events {
        let kind = event["event"].as_str().unwrap().to_owned();
        let Some(step) = event["step"].as_str() else {
            others.push(kind);
            continue;
        };
        let mut event = event.clone();
        for varies in [
            "time",
            "seconds",
            "peak_memory",
            "log",
            "facts",
            "kept",
            "eta",
            "work",
            "record",
        ] {
            event.as_object_mut().unwrap().remove(varies);
        }
        if kind != "step-progress" {
            told.entry(step.to_owned()).or_default().push(event);
        }
    }
    let mut found = BTreeMap::new();
    for path in [space.path("cache/out"), space.path("results")] {
        for file in files(&path) {
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            let name = file.strip_prefix(space.path("")).unwrap();
            let bytes = fs::read(&file).unwrap();
            found.insert(name.display().to_string(), (mode, bytes));
        }
    }
    let end = run.of_kind("run-finished");
    Outcome {
        code: run.code,
        summary: end
            .first()
            .map_or(Value::Null, |end| end["summary"].clone()),
        told,
        others,
        lock: fs::read_to_string(space.path("pipelines/main.lock")).unwrap_or_default(),
        files: found,
    }
}

/// A small generator of numbers, the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % sides
    }
}

/// A kind of edit, told apart by a number, and how often it was made.
fn edit(space: &Space, kind: usize, n: usize) {
    let word = ["alpha", "bravo", "delta"][n % 3];
    match kind {
        0 => {}
        1 => space.write("data/left.txt", &space.read("data/left.txt")),
        2 => space.write("data/left.txt", &format!("left, {word}\n")),
        3 => space.write("data/left.txt", &format!("{word}\n")),
        4 => space.write("data/all/a.txt", &format!("{word}\n")),
        5 => space.write(&format!("data/all/sub/{word}"), "new\n"),
        6 if space.exists(&format!("data/all/sub/{word}")) => {
            space.remove(&format!("data/all/sub/{word}"));
        }
        7 => space.write(&format!("data/rows/{word}.jsonl"), "{\"text\":\"more\"}\n"),
        8 if space.exists(&format!("data/rows/{word}.jsonl")) => {
            space.remove(&format!("data/rows/{word}.jsonl"));
        }
        9 => same_times(space, "data/all/sub/b.txt", ["b\n", "c\n"][n % 2]),
        10 if space.exists("cache/out/main/join/join.txt") => {
            space.remove("cache/out/main/join/join.txt");
        }
        11 => space.write("results/end.txt", "edited\n"),
        12 => space.write("cache/out/main/folder/more/extra", "x\n"),
        13 => space.write("data/may.txt", ["stop\n", "go\n"][n % 2]),
        14 => {
            let text = space.read("pipelines/main.toml");
            let old = text.lines().nth(2).unwrap();
            space.edit(old, &format!("word = \"{word}\""));
        }
        15 => space.write("pipelines/main.lock", "format = 1\n"),
        16 if space.exists("cache/stat") => space.remove("cache/stat"),
        17 => drop(space.build(&["left"])),
        18 => mode(space, "data/left.txt", [0o644, 0o755][n % 2]),
        19 if space.exists("cache/objects") => space.remove("cache/objects"),
        20 => {
            space.write("pipelines/other.toml", "[steps.o]\nuses = \"command\"\nrun = \"echo > ${outputs.o}\"\noutputs = {o = \"o\"}\n");
            space.build(&["-p", "other"]);
        }
        21 if space.exists("cache/journal") => space.remove("cache/journal"),
        _ => {}
    }
}

const EDITS: usize = 22;

fn same_times(space: &Space, path: &str, text: &str) {
    let modified = fs::metadata(space.path(path)).unwrap().modified().unwrap();
    space.write(path, text);
    let file = File::options().write(true).open(space.path(path)).unwrap();
    file.set_modified(modified).unwrap();
}

fn mode(space: &Space, path: &str, mode: u32) {
    fs::set_permissions(space.path(path), fs::Permissions::from_mode(mode)).unwrap();
}

/// Two projects live through the same edits; of one the snapshot is always gone.
#[test]
fn the_short_way_says_and_does_what_the_long_way_does() {
    let (short, long) = (space(), space());
    let mut dice = Dice(3);
    for round in 0..3 * EDITS {
        // Every kind at least once, and then some at random, one to three at a time.
        let mut kinds = vec![round % EDITS];
        kinds.extend((0..dice.roll(3)).map(|_| dice.roll(EDITS)));
        let variable = ["x", "y"][usize::from(dice.roll(5) == 0)];
        let n = dice.roll(6);
        for &kind in &kinds {
            edit(&short, kind, n);
            edit(&long, kind, n);
        }
        let _ = fs::remove_dir_all(long.path("cache/snapshots"));
        let build = |space: &Space| {
            let run = space.build_with(&["-k", "-j1"], |command| {
                command.env("MARK", variable);
            });
            outcome(space, &run)
        };
        let (short, long) = (build(&short), build(&long));
        assert_eq!(short, long, "round {round}: edits {kinds:?}, number {n}");
    }
}

/// `b` reads the source as well and was not to be built: it has to be asked.
#[test]
fn a_source_edited_while_a_part_is_built_is_not_missed() {
    let space = Space::new(
        r#"
        [steps.x]
        uses = "command"
        run = "if grep -q edit ${inputs.x}; then sleep 0.3; echo two > OUTSIDE/project/data/s.txt; fi; cp ${inputs.x} x"
        inputs = { x = "data/x.txt" }
        outputs = { x = "x" }
        [steps.a]
        uses = "command"
        run = "cat ${inputs.x} ${inputs.s} > a"
        inputs = { x = "@x", s = "data/s.txt" }
        outputs = { a = "a" }
        [steps.b]
        uses = "command"
        run = "cp ${inputs.s} b"
        inputs = { s = "data/s.txt" }
        outputs = { b = "b" }
        "#,
    );
    space.write("data/x.txt", "x\n");
    space.write("data/s.txt", "one\n");
    space.built(&[]);
    space.built(&[]);
    space.write("data/x.txt", "edit\n");
    space.built(&[]);
    space.built(&[]);
    assert_eq!(space.read("cache/out/main/a/a"), "edit\ntwo\n");
    assert_eq!(space.read("cache/out/main/b/b"), "two\n");
}

/// The second build need not parse the pipeline, and the first change decodes a part of it.
#[test]
fn the_graph_is_kept_by_the_first_build() {
    let space =
        Space::new("[steps.a]\nuses = 'command'\nrun = 'echo a > a'\noutputs = { a = 'a' }\n");
    space.built(&[]);
    assert!(space.path("cache/graphs/main").is_file());
}
