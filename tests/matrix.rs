//! `matrix` from the file to the table of results: which cells run, where they are found, who reads them.

mod support;

use serde_json::Value;
use support::{Run, Space};

const SWEEP: &str = r#"
[steps.base]
uses = "command"
run = "echo base >> RUNS; echo base > model"
outputs = { model = "model" }

[steps.train]
uses = "command"
matrix = { lr = [1e-4, 5e-5], rank = [8, 16] }
run = "echo 'train ${matrix.lr} ${matrix.rank}' >> RUNS; echo ${matrix.lr} ${matrix.rank} > adapter; printf '{\"loss\": ${matrix.rank}.5, \"note\": \"x\"}' > loss.json"
inputs = { model = "@base" }
outputs = { adapter = "adapter", loss = { path = "loss.json", type = "metrics" } }

[steps.score]
uses = "command"
matrix = "@train"
run = "echo 'score ${matrix.lr} ${matrix.rank}' >> RUNS; cp ${inputs.adapter} score"
inputs = { adapter = "@train.adapter" }
outputs = { score = "score" }

[steps.best]
uses = "command"
run = "echo best >> RUNS; cp ${inputs.adapter} best"
inputs = { adapter = "@train[lr=1e-4, rank=16]" }
outputs = { best = "best" }

[steps.all]
uses = "command"
run = "echo all >> RUNS; cat ${inputs.scores[*]} > all"
inputs = { scores = "@score[*]" }
outputs = { all = "all" }
"#;

const CELLS: [&str; 4] = [
    "train[lr=1e-4,rank=16]",
    "train[lr=1e-4,rank=8]",
    "train[lr=5e-5,rank=16]",
    "train[lr=5e-5,rank=8]",
];

fn keys(space: &Space) -> Vec<(String, Value)> {
    let plan: Value = serde_json::from_str(&space.retune(&["plan", "--json"]).out).unwrap();
    let key = |step: &Value| {
        (
            step["name"].as_str().unwrap().to_owned(),
            step["key"].clone(),
        )
    };
    plan.as_array().unwrap().iter().map(key).collect()
}

#[test]
fn every_cell_is_a_step() {
    let space = Space::new(SWEEP);
    let run = space.built(&[]);
    assert_eq!(run.total("ran"), 11, "{run}");
    assert_eq!(run.steps("step-finished")[7..], CELLS);
    assert_eq!(space.ran().len(), 11);
    assert_eq!(space.rerun(), [""; 0]);
    // Each in a folder of its own, readable and without a need for quotes.
    assert_eq!(
        space.read("cache/out/main/train/lr=1e-4,rank=8/adapter"),
        "0.0001 8\n"
    );
    // The four cells in the order of the matrix.
    let all = "0.0001 8\n0.0001 16\n0.00005 8\n0.00005 16\n";
    let mut lines: Vec<&str> = all.lines().collect();
    lines.sort_unstable();
    let got = space.read("cache/out/main/all/all");
    let mut found: Vec<&str> = got.lines().collect();
    found.sort_unstable();
    assert_eq!(found, lines);
    assert_eq!(space.read("cache/out/main/best/best"), "0.0001 16\n");
}

#[test]
fn cells_come_and_go_and_the_others_stay() {
    let space = Space::new(SWEEP);
    space.built(&[]);
    space.ran();
    let before = keys(&space);
    space.edit("[1e-4, 5e-5]", "[1e-4, 5e-5, 1e-5]");
    let run = space.built(&[]);
    let new = [
        "all",
        "score 0.00001 16",
        "score 0.00001 8",
        "train 0.00001 16",
        "train 0.00001 8",
    ];
    assert_eq!(space.ran(), new, "{run}");
    let after = keys(&space);
    for (name, key) in before.iter().filter(|(name, _)| name != "all") {
        assert!(after.contains(&(name.clone(), key.clone())), "{name}");
    }
    // Written in another way and in another order it is the same.
    space.edit(
        "lr = [1e-4, 5e-5, 1e-5], rank = [8, 16]",
        "rank = [16, 8], lr = [0.00001, 0.0001, 0.00005]",
    );
    assert_eq!(space.rerun(), [""; 0]);
    // Back again: the gathering step's result is restored, not made.
    space.edit("[0.00001, 0.0001, 0.00005]", "[1e-4, 5e-5]");
    assert_eq!(space.rerun(), [""; 0]);
}

#[test]
fn exclude_and_include_change_single_cells() {
    let space = Space::new(SWEEP);
    space.edit(
        "rank = [8, 16] }",
        "rank = [8, 16], exclude = [{ lr = 5e-5 }], include = [{ lr = 1, rank = 2 }] }",
    );
    let run = space.built(&["train"]);
    let ran = [
        "base",
        "train[lr=1,rank=2]",
        "train[lr=1e-4,rank=16]",
        "train[lr=1e-4,rank=8]",
    ];
    assert_eq!(run.steps("step-finished"), ran);
}

#[test]
fn an_address_selects_cells() {
    let space = Space::new(SWEEP);
    let finished = |address: &str| -> Vec<String> {
        let run = space.built(&["--force", address, address]);
        let steps = run.steps("step-finished").into_iter();
        steps
            .filter(|step| *step != "base")
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(finished("train[lr=0.0001,rank=8]"), [CELLS[1]]);
    assert_eq!(finished("train[rank=16]"), [CELLS[0], CELLS[2]]);
    assert_eq!(finished("train"), CELLS);
    assert_eq!(finished("train[*]"), CELLS);
    let why = space.retune(&["why", "train[rank=8, lr=1e-4]"]);
    assert!(
        why.out
            .starts_with("train[lr=1e-4,rank=8] (command): up to date"),
        "{why}"
    );
    let why = space.retune(&["why", "train", "--json"]);
    let steps: Value = serde_json::from_str(&why.out).unwrap();
    assert_eq!(steps.as_array().unwrap().len(), 4, "{why}");
    let audit = space.retune(&["audit", "train[rank=8]"]);
    assert_eq!(audit.code, Some(0), "{audit}");
    assert!(audit.out.contains("train[lr=1e-4,rank=8]"), "{audit}");
}

#[test]
fn a_wrong_address_is_wrong_usage() {
    let space = Space::new(SWEEP);
    let mut said = String::new();
    for address in [
        "trian[lr=1]",
        "train[rnk=8]",
        "train[rank=9]",
        "train[lr",
        "base[x=1]",
        "train[lr=1e-4,rank=8,lr=1]",
    ] {
        let run = space.retune(&["build", address]);
        assert_eq!(run.code, Some(4), "{run}");
        said.push_str(&run.err);
    }
    insta::assert_snapshot!(said, @r"
        error: there is no step 'trian'
        hint: did you mean 'train'?
        error: step 'train': the matrix has no axis 'rnk'
        hint: did you mean 'rank'?
        error: step 'train': no cell has rank=9
        hint: its values are: 8, 16
        error: 'train[lr' names no step: there is a '[' without its ']'
        hint: a cell is named like 'stage1[lr=1e-4,rank=8]', in quotes
        error: step 'base': it has no matrix
        error: 'train[lr=1e-4,rank=8,lr=1]' names no step: the axis 'lr' stands twice
        hint: a cell is named like 'stage1[lr=1e-4,rank=8]', in quotes
        ");
}

#[test]
fn the_lock_has_a_block_for_each_cell() {
    let space = Space::new(SWEEP);
    space.built(&[]);
    let lock = space.read("pipelines/main.lock");
    for cell in CELLS {
        assert!(
            lock.contains(&format!("\n[steps.\"{cell}\"]\nkey = ")),
            "{lock}"
        );
    }
    let verify = space.retune(&["verify"]);
    assert_eq!(verify.code, Some(0), "{verify}");
    // A lock file is read back before some steps are built alone.
    space.write("pipelines/main.lock", &lock);
    space.edit("echo base > model", "echo bas > model");
    space.built(&["train[rank=8]"]);
    let mixed = space.read("pipelines/main.lock");
    assert!(mixed.contains(CELLS[0]) && mixed != lock, "{mixed}");
}

#[test]
fn a_step_and_its_cell_share_a_result() {
    let plain =
        "[steps.a]\nuses = 'command'\nrun = 'echo a8 >> RUNS; echo 8 > x'\noutputs = { x = 'x' }\n";
    let space = Space::new(plain);
    assert_eq!(space.rerun(), ["a8"]);
    space.pipeline(
        &plain
            .replace('8', "${matrix.n}")
            .replace("run =", "matrix = { n = [8, 9] }\nrun ="),
    );
    let run = space.built(&[]);
    assert_eq!(
        (space.ran(), run.total("restored")),
        (vec!["a9".to_owned()], 1)
    );
}

#[test]
fn values_that_are_no_file_names() {
    let text = "[steps.a]\nuses = 'command'\nmatrix = { t = ['../x', 'a b', 'LONG', 'ü', '\"', 'a,b=c]'] }\n\
                run = ['sh', '-c', 'printf %s \"$1\" > x', '-', '${matrix.t}']\noutputs = { x = 'x' }\n";
    let space = Space::new(&text.replace("LONG", &"long ".repeat(99)));
    let run = space.built(&[]);
    assert_eq!(run.total("ran"), 6, "{run}");
    let outs = support::files(&space.path("cache/out/main"));
    assert_eq!(outs.len(), 6);
    for out in &outs {
        let path = out
            .strip_prefix(space.path("cache/out/main/a"))
            .unwrap()
            .to_str()
            .unwrap();
        assert!(
            path.is_ascii() && path.len() < 100 && path.matches('/').count() == 1,
            "{path}"
        );
    }
    let mut texts: Vec<String> = outs
        .iter()
        .map(|out| std::fs::read_to_string(out).unwrap())
        .collect();
    texts.sort();
    assert_eq!(texts[..3], ["\"", "../x", "a b"]);
    assert_eq!(
        space
            .built(&["a[t=a b]", "a[t=\"../x\"]"])
            .total("up_to_date"),
        2
    );
    // Everything that is kept about the cells is read back.
    assert_eq!(space.built(&[]).total("up_to_date"), 6);
    assert_eq!(space.retune(&["verify"]).code, Some(0));
}

#[test]
fn overrides_reach_all_cells_some_or_the_matrix() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\nmatrix = { n = [1, 2] }\nrun = 'echo ${matrix.n} > x'\noutputs = { x = 'x' }\n",
    );
    let outs = |set: &[&str], env: Option<(&str, &str)>| -> String {
        let mut arguments = Vec::new();
        for set in set {
            arguments.extend(["--set", set]);
        }
        let run = space.build_with(&arguments, |command| {
            command.envs(env);
        });
        assert_eq!(run.code, Some(0), "{run}");
        let finished = run.steps("step-finished").join(" ");
        let restored = run.steps("step-restored").join(" ");
        format!("{finished}|{restored}")
    };
    assert_eq!(outs(&[], None), "a[n=1] a[n=2]|");
    assert_eq!(outs(&["steps.a.matrix.n=[2, 3]"], None), "a[n=3]|");
    assert_eq!(
        outs(&[], Some(("RETUNE_STEPS__A__MATRIX__N", "[4]"))),
        "a[n=4]|"
    );
    let one = "steps.a[n=1].run=echo one > x";
    assert_eq!(outs(&[one], None), "a[n=1]|");
    assert_eq!(space.read("cache/out/main/a/n=1/x"), "one\n");
    assert_eq!(
        outs(&["steps.a.run=echo ${matrix.n}${matrix.n} > x"], None),
        "a[n=1] a[n=2]|"
    );
    assert_eq!(space.read("cache/out/main/a/n=2/x"), "22\n");
    let run = space.retune(&["plan", "--set", "steps.a[n=7].run=x"]);
    assert_eq!(run.code, Some(3));
    insta::assert_snapshot!(run.err, @r"
        error: --set steps.a[n=7].run: no cell has n=7
         |
         = help: its values are: 1, 2
        ");
}

#[test]
fn the_table_shows_what_the_current_results_measured() {
    let space = Space::new(SWEEP);
    space.built(&["train"]);
    let table = |arguments: &[&str]| space.retune(&[&["table"], arguments].concat());
    let redact = |text: &str| {
        let seconds = regex::Regex::new(r"\d+\.\d+ s").unwrap();
        seconds.replace_all(text, "0.00 s").into_owned()
    };
    insta::assert_snapshot!(redact(&table(&["train", "--sort", "-loss"]).out), @r"
        train
        lr    rank  STATE    loss    TIME
        1e-4  16    current  16.5  0.00 s
        5e-5  16    current  16.5  0.00 s
        1e-4  8     current   8.5  0.00 s
        5e-5  8     current   8.5  0.00 s
        ");
    // Other parameters: there is a result, but not of these.
    space.edit("printf", "printf ''; printf");
    insta::assert_snapshot!(redact(&table(&["train"]).out), @r"
        train
        lr    rank  STATE  TIME
        1e-4  8     stale     -
        1e-4  16    stale     -
        5e-5  8     stale     -
        5e-5  16    stale     -
        ");
    space.built(&["train[rank=8]"]);
    let csv = table(&["train", "score", "--csv"]).out;
    let csv = regex::Regex::new(r"current,[0-9.]+,")
        .unwrap()
        .replace_all(&csv, "current,0.01,")
        .into_owned();
    insta::assert_snapshot!(csv, @r"
        step,lr,rank,state,seconds,loss
        train,0.0001,8,current,0.01,8.5
        train,0.0001,16,stale,,
        train,0.00005,8,current,0.01,8.5
        train,0.00005,16,stale,,
        score,0.0001,8,not built,,
        score,0.0001,16,not built,,
        score,0.00005,8,not built,,
        score,0.00005,16,not built,,
        ");
    let json: Value = serde_json::from_str(&table(&["train", "--json"]).out).unwrap();
    assert_eq!(json[0]["rows"][0]["cell"]["lr"], 1e-4);
    assert_eq!(json[0]["rows"][0]["metrics"]["loss"], 8.5);
    assert_eq!(json[0]["rows"][1]["metrics"], serde_json::json!({}));
    assert_eq!(json[0]["rows"][1]["seconds"], Value::Null);
    let wrong = table(&["train", "--sort", "los"]);
    assert_eq!(wrong.code, Some(4), "{wrong}");
}

#[test]
fn one_failed_cell_fails_alone() {
    let space = Space::new(SWEEP);
    space.edit(
        "echo ${matrix.lr} ${matrix.rank} > adapter",
        "test ${matrix.rank} = 8; echo ${matrix.lr} ${matrix.rank} > adapter",
    );
    space.edit("run = \"echo 'train", "run = \"set -e; echo 'train");
    let run = space.build(&["-k"]);
    assert_eq!(run.code, Some(1), "{run}");
    assert_eq!(run.steps("step-failed"), [CELLS[0], CELLS[2]]);
    assert_eq!(run.steps("step-skipped").len(), 4, "{run}");
    let log = support::files(&space.path("cache/runs"));
    assert!(
        log.iter().all(|path| !path.to_str().unwrap().contains('[')),
        "{log:?}"
    );
    let rows = space.retune(&["table", "train", "--json"]).out;
    let rows: Value = serde_json::from_str(&rows).unwrap();
    let states = rows[0]["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["state"].as_str().unwrap());
    assert_eq!(
        states.collect::<Vec<_>>(),
        ["current", "unfinished", "current", "unfinished"]
    );
}

#[test]
fn the_recipe_of_a_matrix_is_what_ran() {
    let space = Space::new(SWEEP);
    space.pipeline(
        &(SWEEP.to_owned() + "[steps.recipe]\nuses = 'release.recipe'\nof = ['@all', '@best']\n"),
    );
    space.built(&[]);
    space.ran();
    let outs = support::files(&space.path("cache/out/main/recipe"));
    let recipe = std::fs::read_to_string(&outs[0]).unwrap();
    space.write("pipelines/recipe.toml", &recipe);
    let run = Run::of(&mut space.command(&["build", "-p", "recipe"]));
    assert_eq!(run.code, Some(0), "{run}\n{recipe}");
    assert_eq!(space.ran(), [""; 0], "{recipe}");
    let table = space.retune(&["table", "train", "-p", "recipe", "--columns", "loss"]);
    assert!(table.out.contains("5e-5"), "{table}");
}

#[test]
fn a_plan_of_cells_fits_the_screen() {
    let space = Space::new(SWEEP);
    let plan = space.retune(&["plan"]);
    for line in plan.out.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let graph = space.retune(&["graph"]);
    insta::assert_snapshot!(graph.out, @r"
        base      command
        train[*]  command ×4  ← base
        score[*]  command ×4  ← train[*]
        best      command     ← train[lr=1e-4,rank=16]
        all       command     ← score[*]
        ");
}

#[test]
fn lora_training_runs_in_a_matrix() {
    let space = Space::new(
        r#"
[steps.tokenizer]
uses = "tokenizer.train"
text = ["text.txt"]
vocab_size = 300

[steps.rows]
uses = "data.import"
files = ["rows.jsonl"]
schema = "chat"

[steps.base]
uses = "model.init"
tokenizer = "@tokenizer"
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 64

[steps.stage1]
uses = "lora.train"
matrix = { rate = [1e-3, 2e-3], rank = [2], targets = [["q_proj", "v_proj"]] }
model = "@base"
tokenizer = "@tokenizer"
train = "@rows"
rank = "${matrix.rank}"
target_modules = "${matrix.targets}"
learning_rate = "${matrix.rate}"
max_steps = 2
warmup_steps = 0
epochs = 0
max_length = 64
batch_tokens = 64
"#,
    );
    space.write(
        "text.txt",
        &"one two three four five six seven eight\n".repeat(20),
    );
    let row = |n: usize| {
        let content = |role: &str, text: &str| serde_json::json!({"role": role, "content": text});
        let question = content("user", &format!("one two {n}"));
        let messages = [question, content("assistant", "three four")];
        format!("{}\n", serde_json::json!({ "messages": messages }))
    };
    space.write("rows.jsonl", &(0..8).map(row).collect::<String>());
    let run = space.built(&[]);
    assert_eq!(run.total("ran"), 5, "{run}");
    let table = space.retune(&["table", "stage1", "--json"]);
    let table: Value = serde_json::from_str(&table.out).unwrap();
    let rows = table[0]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{table}");
    for row in rows {
        assert_eq!(row["state"], "current");
        assert!(row["seconds"].as_f64().is_some(), "{row}");
        assert_eq!(row["cell"]["targets"][1], "v_proj");
        let numbers = row["metrics"].as_object().unwrap();
        assert!(numbers.values().any(|value| value.is_f64()), "{row}");
    }
    assert_ne!(rows[0]["metrics"], rows[1]["metrics"]);
    space.edit("rank = [2]", "rank = [2, 4]");
    let run = space.built(&[]);
    assert_eq!(run.steps("step-finished").len(), 2, "{run}");
    assert!(
        run.steps("step-finished")
            .iter()
            .all(|step| step.contains("rank=4")),
        "{run}"
    );
}

#[test]
fn what_is_measured_under_the_name_of_an_axis_has_a_column_of_its_own() {
    let space = Space::new(
        "[steps.train]\nuses = 'command'\nmatrix = { lr = [1, 2] }\n\
         run = 'printf \"{\\\"lr\\\": ${matrix.lr}0, \\\"loss\\\": 3}\" > m.json'\n\
         outputs = { m = { path = 'm.json', type = 'metrics' } }\n",
    );
    space.built(&[]);
    let csv = space.retune(&["table", "train", "--csv"]);
    let heading = csv.out.lines().next().unwrap();
    assert_eq!(heading, "step,lr,state,seconds,loss,metrics.lr", "{csv}");
    assert!(csv.out.contains(",3,20\n"), "{csv}");
}
