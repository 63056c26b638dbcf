//! Checkpoints: what an interrupted step has done is not done again, and its result is the same.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use support::{Running, Space, files, is_alive, wait_for};

/// A step that counts to 8 in its checkpoint folder, noting each number it
/// reaches; where the file `OUTSIDE/stop-N` is, it does at N what that says.
const COUNT: &str = r#"
[steps.count]
uses = "command"
run = '''
echo start >> RUNS
echo $$ > OUTSIDE/pid
test "${checkpoint}" = "$RETUNE_CHECKPOINT" || exit 3
n=$(cat ${checkpoint}/n 2>/dev/null || echo 0)
while test $n -lt 8; do
    if test -e OUTSIDE/stop-$n; then . OUTSIDE/stop-$n; fi
    n=$((n + 1))
    echo $n > ${checkpoint}/new
    mv ${checkpoint}/new ${checkpoint}/n
    echo $n >> RUNS
done
cat ${inputs.text} > ${outputs.text}
echo $n >> ${outputs.text}
'''
inputs = { text = "data/text.txt" }
outputs = { text = "out.txt" }
checkpoint = true
"#;

const OUT: &str = "cache/out/main/count/out.txt";

fn count(settings: &str) -> Space {
    let space = Space::new(&format!("{COUNT}{settings}\n"));
    space.write("data/text.txt", "text\n");
    space
}

/// Lets the step do something when it has reached `n`; it finds the place gone afterwards.
fn at(space: &Space, n: u32, what: &str) {
    let place = space.outside(&format!("stop-{n}"));
    let text = format!("rm {}\n{what}\n", place.display());
    fs::write(place, text).unwrap();
}

/// What the step did since this was last asked.
fn done(space: &Space) -> String {
    let runs = space.outside("runs");
    let text = fs::read_to_string(&runs).unwrap_or_default();
    let _ = fs::remove_file(runs);
    text.replace('\n', " ")
}

fn checkpoints(space: &Space) -> Vec<PathBuf> {
    let folder = space.path("cache/checkpoints");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Starts a build and waits until the step hangs where it was told to.
fn hanging(space: &Space, n: u32) -> (Running, String) {
    at(
        space,
        n,
        &format!("touch {}; sleep 60", space.outside("hangs").display()),
    );
    let running = space.start(&["build", "--grace", "0.2"]);
    let hangs = space.outside("hangs");
    wait_for("the step hangs", || hangs.exists().then_some(()));
    fs::remove_file(hangs).unwrap();
    let pid = fs::read_to_string(space.outside("pid")).unwrap();
    (running, pid)
}

#[track_caller]
fn ends_well_from(space: &Space, n: u32) {
    done(space);
    space.built(&[]);
    let rest: String = (n + 1..=8).map(|n| format!("{n} ")).collect();
    assert_eq!(done(space), format!("start {rest}"));
    assert_eq!(space.read(OUT), "text\n8\n");
    assert!(checkpoints(space).is_empty(), "it is of no use any more");
    assert_eq!(space.built(&[]).total("up_to_date"), 1);
}

#[test]
fn undisturbed_it_counts_once_and_leaves_nothing() {
    let space = count("");
    ends_well_from(&space, 0);
}

#[test]
fn a_failed_step_goes_on_from_its_checkpoint() {
    let space = count("");
    at(&space, 5, "exit 1");
    assert_eq!(space.build(&[]).code, Some(1));
    assert_eq!(done(&space), "start 1 2 3 4 5 ");
    ends_well_from(&space, 5);
}

#[test]
fn a_retry_goes_on_from_the_checkpoint_of_the_attempt_before() {
    let space = count("retry = { times = 2, wait = 0 }");
    at(&space, 2, "exit 1");
    at(&space, 6, "kill -9 $$");
    space.built(&[]);
    assert_eq!(done(&space), "start 1 2 start 3 4 5 6 start 7 8 ");
    assert_eq!(space.read(OUT), "text\n8\n");
    assert!(checkpoints(&space).is_empty());
}

#[test]
fn a_step_whose_time_is_over_goes_on_from_its_checkpoint() {
    let space = count("timeout = 2");
    at(&space, 3, "sleep 60");
    let run = space.build(&["--grace", "0.1"]);
    assert_eq!(run.code, Some(1), "{run}");
    ends_well_from(&space, 3);
}

#[test]
fn an_interrupted_step_goes_on_from_its_checkpoint() {
    let space = count("");
    let (running, _) = hanging(&space, 4);
    running.signal(Signal::INT);
    assert_eq!(running.end().code, Some(130));
    ends_well_from(&space, 4);
}

#[test]
fn a_killed_build_goes_on_from_its_steps_checkpoint() {
    let space = count("");
    let (running, pid) = hanging(&space, 7);
    running.signal(Signal::KILL);
    running.end();
    wait_for("the step dies with it", || (!is_alive(&pid)).then_some(()));
    ends_well_from(&space, 7);
}

#[test]
fn another_key_begins_anew_and_the_first_one_goes_on() {
    let space = count("");
    at(&space, 5, "exit 1");
    assert_eq!(space.build(&[]).code, Some(1));
    space.write("data/text.txt", "other\n");
    done(&space);
    space.built(&[]);
    assert_eq!(done(&space), "start 1 2 3 4 5 6 7 8 ");
    assert_eq!(checkpoints(&space).len(), 1, "that of the first key");
    space.write("data/text.txt", "text\n");
    ends_well_from(&space, 5);
}

#[test]
fn a_forced_step_begins_anew() {
    let space = count("");
    at(&space, 5, "exit 1");
    assert_eq!(space.build(&[]).code, Some(1));
    done(&space);
    space.built(&["--force", "count"]);
    assert_eq!(done(&space), "start 1 2 3 4 5 6 7 8 ");
}

#[test]
fn an_audit_begins_anew() {
    let space = count("");
    space.built(&[]);
    done(&space);
    let run = space.retune(&["audit"]);
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(done(&space), "start 1 2 3 4 5 6 7 8 ");
}

#[test]
fn only_kinds_that_can_keep_checkpoints_may_be_asked_to() {
    let space = Space::new(
        "[steps.a]\nuses = 'data.stats'\ndatasets = { a = 'data/text.txt' }\ncheckpoint = true\n",
    );
    let run = space.retune(&["plan"]);
    assert_eq!(run.code, Some(3), "{run}");
    insta::assert_snapshot!(run.err, @r"
    error: 'checkpoint' cannot be had: data.stats keeps no checkpoints
     --> pipelines/main.toml:4:14
      |
    4 | checkpoint = true
      |              ^^^^
    ");
}

#[test]
fn without_the_setting_there_is_no_checkpoint() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\nrun = 'checkpoint=mine; echo ${checkpoint}$RETUNE_CHECKPOINT > o'\n\
         outputs = { o = 'o' }\n",
    );
    space.built(&[]);
    assert_eq!(space.read("cache/out/main/a/o"), "mine\n");
    assert!(checkpoints(&space).is_empty());
}

// Training

/// A small model, trained, and an adapter on it.
fn training() -> Space {
    let space = Space::new(
        r#"
[pipeline]
seed = 5

[steps.rows]
uses = "data.import"
files = ["data/rows.jsonl"]
schema = "chat"

[steps.tokenizer]
uses = "tokenizer.train"
text = ["@rows"]
vocab_size = 300

[steps.start]
uses = "model.init"
tokenizer = "@tokenizer"
num_hidden_layers = 1
hidden_size = 16
intermediate_size = 32
num_attention_heads = 2
max_position_embeddings = 32

[steps.base]
uses = "model.train"
model = "@start"
tokenizer = "@tokenizer"
train = "@rows"
epochs = 0
max_steps = 12
warmup_steps = 2
max_length = 32
batch_tokens = 64
save_every = 5
checkpoint = "0s"

[steps.adapter]
uses = "lora.train"
model = "@base"
tokenizer = "@tokenizer"
train = "@rows"
validation = "@rows"
dropout = 0.1
epochs = 0
max_steps = 12
warmup_steps = 2
max_length = 32
batch_tokens = 64
eval_every = 5
early_stopping_patience = 2
keep = "best"
save_every = 2
keep_checkpoints = 2
checkpoint = "0s"
"#,
    );
    let rows: String = (0..40)
        .map(|n| {
            format!(
                "{{\"messages\":[{{\"role\":\"user\",\"content\":\"number {n} of many\"}},\
                 {{\"role\":\"assistant\",\"content\":\"the answer is {}\"}}]}}\n",
                n * 7
            )
        })
        .collect();
    space.write("data/rows.jsonl", &rows);
    space
}

/// Every output, by its path.
fn outputs(space: &Space) -> BTreeMap<PathBuf, Vec<u8>> {
    let folder = space.path("cache/out");
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).unwrap();
        (path.strip_prefix(&folder).unwrap().to_owned(), bytes)
    };
    files(&folder).into_iter().map(read).collect()
}

#[test]
fn training_that_is_killed_at_random_steps_ends_with_the_same_digests() {
    let undisturbed = training();
    undisturbed.built(&[]);
    let adapter = "cache/out/main/adapter/checkpoints/step-000012/adapter_model.safetensors";
    assert!(undisturbed.exists(adapter));
    let model = "cache/out/main/base/checkpoints/step-000010/model.safetensors";
    assert!(undisturbed.exists(model));
    let space = training();
    let mut disturbed = 0;
    // Builds are killed, or asked to stop, after so many milliseconds of training.
    for (n, millis) in [30, 90, 10, 60, 45, 120, 5, 75].into_iter().enumerate() {
        let running = space.start(&["build", "--grace", "20"]);
        let done = wait_for("training, or the end", || {
            let events = running.events();
            let at = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
            let over = at("run-finished") > 0;
            (over || at("step-progress") > 0).then_some(over)
        });
        if done {
            break;
        }
        std::thread::sleep(Duration::from_millis(millis));
        running.signal(if n % 3 == 2 {
            Signal::INT
        } else {
            Signal::KILL
        });
        running.end();
        disturbed += 1;
    }
    assert!(disturbed > 1, "it was over before it could be disturbed");
    space.built(&[]);
    let (ours, theirs) = (outputs(&space), outputs(&undisturbed));
    assert_eq!(
        ours.keys().collect::<Vec<_>>(),
        theirs.keys().collect::<Vec<_>>()
    );
    for (path, bytes) in &ours {
        assert!(bytes == &theirs[path], "{} differs", path.display());
    }
    assert!(checkpoints(&space).is_empty());
}

#[test]
fn training_goes_on_where_it_was_killed_and_says_so() {
    let space = training();
    space.built(&["base"]);
    let running = space.start(&["build"]);
    // The adapter has a checkpoint as soon as its first step is done.
    let state = wait_for("a checkpoint", || {
        let folder = checkpoints(&space).into_iter().next()?;
        Some(folder.join("training.state")).filter(|path| path.exists())
    });
    running.signal(Signal::KILL);
    running.end();
    let kept = fs::read(&state).unwrap();
    let run = space.built(&[]);
    let finished = run.of_kind("step-finished");
    let at = finished[0]["facts"]["resumed_at"].as_u64();
    assert!(at.is_some_and(|at| (1..12).contains(&at)), "{finished:?}");
    let good = outputs(&space);

    // A damaged one is named, and the result is what it is without one.
    let mut damaged = kept;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    space.edit("eval_every = 5", "eval_every = 6");
    space.built(&[]);
    space.edit("eval_every = 6", "eval_every = 5");
    space.remove("cache/journal");
    space.remove("cache/objects");
    fs::create_dir_all(state.parent().unwrap()).unwrap();
    fs::write(&state, damaged).unwrap();
    let run = space.built(&[]);
    let adapter = run.of_kind("step-finished");
    let adapter = adapter
        .iter()
        .find(|event| event["step"] == "adapter")
        .unwrap();
    assert_eq!(adapter["facts"]["checkpoint"], "unusable, started anew");
    assert!(adapter["facts"]["resumed_at"].is_null());
    let (name, log) = ("adapter.log", files(&space.path("cache/runs")));
    let log = log.iter().rfind(|path| path.ends_with(name)).unwrap();
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("training.state is damaged"), "{log}");
    assert!(outputs(&space) == good);
}
