//! What a person reads of every kind of bad pipeline.

use insta::assert_snapshot;

use super::{faults, faults_with, load, load_with, registry, source};
use retune::graph::Graph;
use retune::pipeline::{Overrides, Severity};

#[test]
fn unknown_table() {
    assert_snapshot!(faults("[step.a]\nuses = 'command'\n"), @r#"
    error: unknown key 'step'
     --> pipelines/test.toml:1:2
      |
    1 | [step.a]
      |  ^^^^ not a table of a pipeline
      |
      = help: did you mean 'steps'?
"#);
}

#[test]
fn unknown_key_of_the_pipeline() {
    assert_snapshot!(faults("[pipeline]\nname = 'a'\nsed = 3\n"), @r#"
    error: unknown key 'sed'
     --> pipelines/test.toml:3:1
      |
    3 | sed = 3
      | ^^^ not a key of [pipeline]
      |
      = help: did you mean 'seed'?
"#);
}

#[test]
fn unknown_field() {
    assert_snapshot!(faults(r#"
[steps.stage1]
uses = "lora.train"
model = "base"
train = "rows.jsonl"
learning_rat = 5e-6
learning_rate = 5e-6
lora = { rnk = 8 }
"#), @r#"
    error: unknown field 'learning_rat'
     --> pipelines/test.toml:6:1
      |
    6 | learning_rat = 5e-6
      | ^^^^^^^^^^^^ not a field of lora.train
      |
      = help: did you mean 'learning_rate'?

    error: unknown field 'lora.rnk'
     --> pipelines/test.toml:8:10
      |
    8 | lora = { rnk = 8 }
      |          ^^^ not a field of 'lora'
      |
      = help: did you mean 'rank'?
"#);
}

#[test]
fn unknown_field_like_no_other() {
    assert_snapshot!(faults("[steps.a]\nuses = 'model.init'\nwidth = 3\n"), @r#"
    error: unknown field 'width'
     --> pipelines/test.toml:3:1
      |
    3 | width = 3
      | ^^^^^ not a field of model.init
      |
      = help: its fields are: description, matrix, out, uses
"#);
}

#[test]
fn several_at_once() {
    assert_snapshot!(faults(r#"
[pipeline]
names = "x"

[steps.import]
uses = "data.import"
files = "../rows.jsonl"
schema = "chats"

[steps.split]
uses = "data.splt"
rows = "@import"

[steps.stage1]
uses = "lora.train"
model = "@imprt"
train = "@split.trian"
learning_rate = "fast"
"#), @r#"
    error: unknown key 'names'
     --> pipelines/test.toml:3:1
      |
    3 | names = "x"
      | ^^^^^ not a key of [pipeline]
      |
      = help: did you mean 'name'?

    error: the path leads out of the project
     --> pipelines/test.toml:7:9
      |
    7 | files = "../rows.jsonl"
      |         ^^^^^^^^^^^^^^^
      |
      = help: paths are relative to the project root, so that a build does not
              depend on where the project lies

    error: 'schema' must be one of "prompt-completion", "text", "chat"
     --> pipelines/test.toml:8:10
      |
    8 | schema = "chats"
      |          ^^^^^^^ is the string "chats"
      |
      = help: did you mean 'chat'?

    error: there is no kind 'data.splt'
      --> pipelines/test.toml:11:8
       |
    11 | uses = "data.splt"
       |        ^^^^^^^^^^^ not a kind of step
       |
       = help: did you mean 'data.split'?

    error: there is no step 'imprt'
      --> pipelines/test.toml:16:9
       |
    16 | model = "@imprt"
       |         ^^^^^^^^ refers to a step that does not exist
       |
       = help: did you mean '@import'?

    error: 'learning_rate' must be a number
      --> pipelines/test.toml:18:17
       |
    18 | learning_rate = "fast"
       |                 ^^^^^^ is the string "fast"
"#);
}

#[test]
fn missing_fields() {
    assert_snapshot!(faults("[steps.stage1]\nuses = 'lora.train'\nepochs = 2\n"), @r#"
    error: the step 'stage1' lacks 'model', 'train', 'learning_rate'
     --> pipelines/test.toml:1:8
      |
    1 | [steps.stage1]
      |        ^^^^^^ needed by lora.train
      |
      = help: model: the base model (model)
              train: the rows to train on (dataset)
              learning_rate: The highest learning rate.
"#);
}

#[test]
fn missing_uses() {
    assert_snapshot!(faults("[steps.a]\nrows = 'x'\n[steps.b]\nuses = 'data.split'\nrows = '@a.x'\n"), @r#"
    error: the step 'a' does not say what it does
     --> pipelines/test.toml:1:8
      |
    1 | [steps.a]
      |        ^ 'uses' is missing
      |
      = help: add: uses = "KIND"
"#);
}

#[test]
fn unknown_kind() {
    assert_snapshot!(faults("[steps.a]\nuses = \"lora.trian\"\n[steps.b]\nuses = 'zzz'\n"), @r#"
    error: there is no kind 'lora.trian'
     --> pipelines/test.toml:2:8
      |
    2 | uses = "lora.trian"
      |        ^^^^^^^^^^^^ not a kind of step
      |
      = help: did you mean 'lora.train'?

    error: there is no kind 'zzz'
     --> pipelines/test.toml:4:8
      |
    4 | uses = 'zzz'
      |        ^^^^^ not a kind of step
      |
      = help: the kinds are: command, data.import, data.split, lora.train,
              model.init, release.card, release.folder
"#);
}

#[test]
fn wrong_types() {
    assert_snapshot!(faults(r#"
[steps.stage1]
uses = "lora.train"
model = ["base"]
train = 3
learning_rate = "5e-6"
epochs = 2.0
packing = "true"
lora = { rank = 300, targets = "q_proj" }
precision = { type = "mixd" }
"#), @r#"
    error: 'model' takes one input
     --> pipelines/test.toml:4:9
      |
    4 | model = ["base"]
      |         ^^^^^^^^ is an array
      |
      = help: write it like: model = "@step.output"

    error: 'train' takes one input
     --> pipelines/test.toml:5:9
      |
    5 | train = 3
      |         ^ is the number 3
      |
      = help: write it like: train = "@step.output"

    error: 'learning_rate' must be a number
     --> pipelines/test.toml:6:17
      |
    6 | learning_rate = "5e-6"
      |                 ^^^^^^ is the string "5e-6"
      |
      = help: write it without quotes: 5e-6

    error: 'epochs' must be an integer
     --> pipelines/test.toml:7:10
      |
    7 | epochs = 2.0
      |          ^^^ is the number 2.0
      |
      = help: write 2

    error: 'packing' must be true or false
     --> pipelines/test.toml:8:11
      |
    8 | packing = "true"
      |           ^^^^^^ is the string "true"
      |
      = help: write it without quotes: true

    error: 'lora.rank' must be at most 255
     --> pipelines/test.toml:9:17
      |
    9 | lora = { rank = 300, targets = "q_proj" }
      |                 ^^^ is the number 300

    error: 'lora.targets' must be an array
     --> pipelines/test.toml:9:32
      |
    9 | lora = { rank = 300, targets = "q_proj" }
      |                                ^^^^^^^^ is the string "q_proj"
      |
      = help: write ["q_proj"]

    error: 'precision.type' must be one of "full", "mixed"
      --> pipelines/test.toml:10:22
       |
    10 | precision = { type = "mixd" }
       |                      ^^^^^^ is the string "mixd"
       |
       = help: did you mean 'mixed'?
"#);
}

#[test]
fn values_out_of_range() {
    assert_snapshot!(faults(r#"
[steps.split]
uses = "data.split"
rows = "rows.jsonl"
test = 1.5

[steps.stage1]
uses = "lora.train"
model = "base"
train = "rows.jsonl"
learning_rate = 1
epochs = -1
precision = { type = "mixed" }
"#), @r#"
    error: 'test' must be at most 1
     --> pipelines/test.toml:5:8
      |
    5 | test = 1.5
      |        ^^^ is the number 1.5

    error: 'epochs' must be at least 0
      --> pipelines/test.toml:12:10
       |
    12 | epochs = -1
       |          ^^ is the number -1

    error: 'precision' lacks the field 'scale'
      --> pipelines/test.toml:13:13
       |
    13 | precision = { type = "mixed" }
       |             ^^^^^^^^^^^^^^^^^^
"#);
}

#[test]
fn a_check_of_the_kind() {
    assert_snapshot!(faults(r#"
[steps.split]
uses = "data.split"
rows = "rows.jsonl"
test = 0.9
validation = 0.2
"#), @r#"
    error: 'test' leaves nothing to train on
     --> pipelines/test.toml:5:8
      |
    5 | test = 0.9
      |        ^^^
"#);
}

#[test]
fn unknown_step() {
    assert_snapshot!(faults(r#"
[steps.import]
uses = "data.import"
files = "a.jsonl"
schema = "text"

[steps.split]
uses = "data.split"
rows = "@imports"

[steps.split2]
uses = "data.split"
rows = "@xyz"
"#), @r#"
    error: there is no step 'imports'
     --> pipelines/test.toml:9:8
      |
    9 | rows = "@imports"
      |        ^^^^^^^^^^ refers to a step that does not exist
      |
      = help: did you mean '@import'?

    error: there is no step 'xyz'
      --> pipelines/test.toml:13:8
       |
    13 | rows = "@xyz"
       |        ^^^^^^ refers to a step that does not exist
       |
       = help: the steps are: import, split, split2
"#);
}

#[test]
fn unknown_output() {
    assert_snapshot!(faults(r#"
[steps.import]
uses = "data.import"
files = "a.jsonl"
schema = "text"

[steps.split]
uses = "data.split"
rows = "@import.row"

[steps.split2]
uses = "data.split"
rows = "@import.xyz"
"#), @r#"
    error: the step 'import' has no output 'row'
     --> pipelines/test.toml:9:8
      |
    9 | rows = "@import.row"
      |        ^^^^^^^^^^^^^ refers to an output that does not exist
      |
      = help: did you mean '@import.rows'?

    error: the step 'import' has no output 'xyz'
      --> pipelines/test.toml:13:8
       |
    13 | rows = "@import.xyz"
       |        ^^^^^^^^^^^^^ refers to an output that does not exist
       |
       = help: its outputs are: rows (dataset), summary (metrics)
"#);
}

#[test]
fn wrong_wiring() {
    assert_snapshot!(faults(r#"
[steps.base]
uses = "model.init"

[steps.import]
uses = "data.import"
files = "a.jsonl"
schema = "text"

[steps.stage1]
uses = "lora.train"
model = "@base.tokenizer"
train = "@import.summary"
adapter = "@import"
learning_rate = 1e-4
"#), @r#"
    error: 'model' takes a model
      --> pipelines/test.toml:12:9
       |
    12 | model = "@base.tokenizer"
       |         ^^^^^^^^^^^^^^^^^ '@base.tokenizer' is a tokenizer
       |
       = help: '@base.model' fits

    error: 'train' takes a dataset
      --> pipelines/test.toml:13:9
       |
    13 | train = "@import.summary"
       |         ^^^^^^^^^^^^^^^^^ '@import.summary' is metrics
       |
       = help: '@import.rows' fits

    error: 'adapter' takes an adapter
      --> pipelines/test.toml:14:11
       |
    14 | adapter = "@import"
       |           ^^^^^^^^^ '@import.rows' is a dataset
       |
       = help: no output of 'import' fits; they are: rows (dataset), summary
               (metrics)
"#);
}

#[test]
fn wrong_number_of_inputs() {
    assert_snapshot!(faults(r#"
[steps.import]
uses = "data.import"
files = []
schema = "text"

[steps.split]
uses = "data.split"
rows = "data/*.jsonl"

[steps.card]
uses = "release.card"
metrics = ["a.json"]
lineage = "b.json"
"#), @r#"
    error: 'files' takes one or more inputs
     --> pipelines/test.toml:4:9
      |
    4 | files = []
      |         ^^ is an empty array
      |
      = help: write it like: files = ["@step", "data/*.txt"]

    error: 'rows' takes one input, not a glob
     --> pipelines/test.toml:9:8
      |
    9 | rows = "data/*.jsonl"
      |        ^^^^^^^^^^^^^^ may match any number of files
      |
      = help: name the file or the folder

    error: 'metrics' takes a table of inputs
      --> pipelines/test.toml:13:11
       |
    13 | metrics = ["a.json"]
       |           ^^^^^^^^^^ is an array
       |
       = help: write it like: metrics = { label = "@step" }

    error: unknown field 'lineage'
      --> pipelines/test.toml:14:1
       |
    14 | lineage = "b.json"
       | ^^^^^^^ not a field of release.card
       |
       = help: its fields are: description, matrix, metrics, out, uses
"#);
}

#[test]
fn paths_outside_of_the_project() {
    assert_snapshot!(faults(r#"
[steps.import]
uses = "data.import"
files = ["/etc/rows.jsonl", "../rows.jsonl", "~/rows.jsonl", "", "a[.jsonl"]
schema = "text"
"#), @r#"
    error: the path is absolute
     --> pipelines/test.toml:4:10
      |
    4 | files = ["/etc/rows.jsonl", "../rows.jsonl", "~/rows.jsonl", "", "a[.jsonl"]
      |          ^^^^^^^^^^^^^^^^^
      |
      = help: paths are relative to the project root, so that a build does not
              depend on where the project lies

    error: the path leads out of the project
     --> pipelines/test.toml:4:29
      |
    4 | files = ["/etc/rows.jsonl", "../rows.jsonl", "~/rows.jsonl", "", "a[.jsonl"]
      |                             ^^^^^^^^^^^^^^^
      |
      = help: paths are relative to the project root, so that a build does not
              depend on where the project lies

    error: the path is absolute
     --> pipelines/test.toml:4:46
      |
    4 | files = ["/etc/rows.jsonl", "../rows.jsonl", "~/rows.jsonl", "", "a[.jsonl"]
      |                                              ^^^^^^^^^^^^^^
      |
      = help: paths are relative to the project root, so that a build does not
              depend on where the project lies

    error: the path is empty
     --> pipelines/test.toml:4:62
      |
    4 | files = ["/etc/rows.jsonl", "../rows.jsonl", "~/rows.jsonl", "", "a[.jsonl"]
      |                                                              ^^
      |
      = help: name a file or a folder

    error: the path is not a valid glob
     --> pipelines/test.toml:4:66
      |
    4 | files = ["/etc/rows.jsonl", "../rows.jsonl", "~/rows.jsonl", "", "a[.jsonl"]
      |                                                                  ^^^^^^^^^^
      |
      = note: unclosed character class; missing ']'
"#);
}

#[test]
fn outputs_read_by_path() {
    assert_snapshot!(faults(r#"
[pipeline]
name = "demo"

[steps.first]
uses = "command"
run = "true"
out = "release"
outputs = { rows = "rows.jsonl" }

[steps.second]
uses = "command"
run = "true"
inputs = { a = "release/rows.jsonl", b = "cache/out/demo/third", c = "." }

[steps.third]
uses = "data.import"
files = ["cache/out/demo/second/*.txt", "**/*.jsonl"]
schema = "text"
"#), @r#"
    error: the path reaches into the outputs of the step 'first'
      --> pipelines/test.toml:14:16
       |
    14 | inputs = { a = "release/rows.jsonl", b = "cache/out/demo/third", c = "." }
       |                ^^^^^^^^^^^^^^^^^^^^ holds what a step writes
       |
       = help: refer to the step instead: "@first"

    error: the path reaches into the outputs of the step 'third'
      --> pipelines/test.toml:14:42
       |
    14 | inputs = { a = "release/rows.jsonl", b = "cache/out/demo/third", c = "." }
       |                                          ^^^^^^^^^^^^^^^^^^^^^^
       |
       = note: holds what a step writes
       = help: refer to the step instead: "@third"

    error: the path is the whole project
      --> pipelines/test.toml:14:70
       |
    14 | inputs = { a = "release/rows.jsonl", b = "cache/out/demo/third", c = "." }
       |                                                                      ^^^
       |
       = help: name what is needed of it: the project also holds what steps
               write

    error: the path reaches into the outputs of the step 'second'
      --> pipelines/test.toml:18:10
       |
    18 | files = ["cache/out/demo/second/*.txt", "**/*.jsonl"]
       |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ holds what a step writes
       |
       = help: refer to the step instead: "@second"
"#);
}

#[test]
fn unpinned_hub_reference() {
    assert_snapshot!(faults(r#"
[steps.stage1]
uses = "lora.train"
model = "hf://allenai/OLMo-2-0425-1B"
train = "hf://datasets/allenai/tulu@main/train.jsonl"
adapter = "hf://allenai@abc"
learning_rate = 1e-4
"#), @r#"
    error: a Hub reference needs a revision
     --> pipelines/test.toml:4:9
      |
    4 | model = "hf://allenai/OLMo-2-0425-1B"
      |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: add the commit behind the name: OWNER/NAME@COMMIT

    error: 'main' is a branch, not a pinned revision
     --> pipelines/test.toml:5:9
      |
    5 | train = "hf://datasets/allenai/tulu@main/train.jsonl"
      |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: name a commit or a tag, whose content stays

    error: not a Hub reference: the repository is not OWNER/NAME
     --> pipelines/test.toml:6:11
      |
    6 | adapter = "hf://allenai@abc"
      |           ^^^^^^^^^^^^^^^^^^
      |
      = help: write hf://[datasets/]OWNER/NAME@COMMIT[/PATH]
"#);
}

#[test]
fn duplicate_outputs() {
    assert_snapshot!(faults(r#"
[steps.a]
uses = "command"
run = "true"
outputs = { one = "x.txt", two = "./x.txt" }

[steps.b]
uses = "command"
run = "true"
out = "release"

[steps.b.outputs]
model = "model/"
weights = { path = "model/w.bin", type = "file" }

[steps.c]
uses = "release.folder"
out = "release/inner/"
files = {}

[steps.d]
uses = "release.folder"
out = "release"
"#), @r#"
    error: two outputs of the step 'a' have the same path
     --> pipelines/test.toml:5:34
      |
    5 | outputs = { one = "x.txt", two = "./x.txt" }
      |                   -------        ^^^^^^^^^ the path of 'two' is x.txt
      |                   |
      |                   the path of 'one' is x.txt

    error: two outputs of the step 'b' lie in each other
      --> pipelines/test.toml:14:20
       |
    13 | model = "model/"
       |         -------- the path of 'model' is model
    14 | weights = { path = "model/w.bin", type = "file" }
       |                    ^^^^^^^^^^^^^ the path of 'weights' is model/w.bin

    error: 'b' and 'c' write to folders that lie in each other
      --> pipelines/test.toml:18:7
       |
    10 | out = "release"
       |       --------- the folder of 'b'
    ...
    18 | out = "release/inner/"
       |       ^^^^^^^^^^^^^^^^ the folder of 'c'

    error: 'b' and 'd' write to the same folder
      --> pipelines/test.toml:23:7
       |
    10 | out = "release"
       |       --------- the folder of 'b'
    ...
    23 | out = "release"
       |       ^^^^^^^^^ the folder of 'd'
"#);
}

#[test]
fn escaping_outputs() {
    assert_snapshot!(faults(r#"
[steps.a]
uses = "command"
run = "true"
out = "../elsewhere"
outputs = { one = "../x.txt", two = "/tmp/x.txt", three = { path = "" } }

[steps.b]
uses = "command"
run = "true"
out = "cache/objects"
"#), @r#"
    error: the folder 'out' leads out of the project
     --> pipelines/test.toml:5:7
      |
    5 | out = "../elsewhere"
      |       ^^^^^^^^^^^^^^
      |
      = help: it is a folder relative to the project root, by default
              cache/out/test/a

    error: the output 'one' leaves the step's folder
     --> pipelines/test.toml:6:19
      |
    6 | outputs = { one = "../x.txt", two = "/tmp/x.txt", three = { path = "" } }
      |                   ^^^^^^^^^^ must lie in the step's own folder
      |
      = help: a path here is relative to the step's output folder, without
              '..'

    error: the path of the output 'two' is absolute
     --> pipelines/test.toml:6:37
      |
    6 | outputs = { one = "../x.txt", two = "/tmp/x.txt", three = { path = "" } }
      |                                     ^^^^^^^^^^^^
      |
      = note: must lie in the step's own folder
      = help: a path here is relative to the step's output folder, without
              '..'

    error: the path of the output 'three' is empty
     --> pipelines/test.toml:6:68
      |
    6 | outputs = { one = "../x.txt", two = "/tmp/x.txt", three = { path = "" } }
      |                                                                    ^^
      |
      = note: must lie in the step's own folder
      = help: a path here is relative to the step's output folder, without
              '..'

    error: the folder 'out' lies in cache/, which holds the store
      --> pipelines/test.toml:11:7
       |
    11 | out = "cache/objects"
       |       ^^^^^^^^^^^^^^^
       |
       = help: it is a folder relative to the project root, by default
               cache/out/test/b
"#);
}

#[test]
fn a_cycle() {
    assert_snapshot!(faults(r#"
[steps.a]
uses = "command"
run = "true"
inputs = { x = "@c.x" }
outputs = { x = "x" }

[steps.b]
uses = "command"
run = "true"
inputs = { x = "@a.x" }
outputs = { x = "x" }

[steps.c]
uses = "command"
run = "true"
inputs = { x = "@b.x" }
outputs = { x = "x" }

[steps.d]
uses = "command"
run = "true"
inputs = { x = "@d.x" }
outputs = { x = "x" }
"#), @r#"
    error: 3 steps wait for each other
      --> pipelines/test.toml:2:8
       |
     2 | [steps.a]
       |        ^ reads from 'c'
    ...
     8 | [steps.b]
       |        - reads from 'a'
    ...
    14 | [steps.c]
       |        - reads from 'b'
       |
       = note: each reads from the next: a → c → b → a

    error: the step 'd' reads its own output
      --> pipelines/test.toml:20:8
       |
    20 | [steps.d]
       |        ^ needs itself
"#);
}

#[test]
fn bad_toml() {
    assert_snapshot!(faults("[steps.a\nuses = 'x'\nrun = \n"), @r#"
    error: the file is not TOML: unclosed table, expected `]`
     --> pipelines/test.toml:1:9
      |
    1 | [steps.a
      |         ^
"#);
}

#[test]
fn duplicate_step() {
    assert_snapshot!(faults("[steps.a]\nuses = 'model.init'\n[steps.a]\nuses = 'model.init'\n"), @r#"
    error: the file is not TOML: duplicate key
     --> pipelines/test.toml:3:8
      |
    3 | [steps.a]
      |        ^
"#);
}

#[test]
fn bad_names() {
    assert_snapshot!(faults(r#"
pipeline = 3
[params]
"a b" = 3
[steps."a/b"]
uses = "model.init"
[steps]
x = 1
"#), @r#"
    error: 'pipeline' must be a table
     --> pipelines/test.toml:2:1
      |
    2 | pipeline = 3
      | ^^^^^^^^ is an integer

    error: 'a b' cannot be the name of a parameter
     --> pipelines/test.toml:4:1
      |
    4 | "a b" = 3
      | ^^^^^ not a name
      |
      = help: names are letters, digits, '-' and '_', the first one a letter
              or a digit

    error: 'a/b' cannot be the name of a step
     --> pipelines/test.toml:5:8
      |
    5 | [steps."a/b"]
      |        ^^^^^ not a name
      |
      = help: names are letters, digits, '-' and '_', the first one a letter
              or a digit

    error: 'x' must be a table
     --> pipelines/test.toml:8:1
      |
    8 | x = 1
      | ^ is an integer
"#);
}

#[test]
fn numbers_that_are_none() {
    assert_snapshot!(faults(r#"
[pipeline]
seed = -1
[steps.a]
uses = "lora.train"
model = "m"
train = "t"
learning_rate = nan
epochs = 99999999999999999999
lora.rank = inf
packing = 2024-01-01
"#), @r#"
    error: 'seed' must be an integer that is not negative
     --> pipelines/test.toml:3:8
      |
    3 | seed = -1
      |        ^^

    error: the number nan is not finite
     --> pipelines/test.toml:8:17
      |
    8 | learning_rate = nan
      |                 ^^^
      |
      = help: numbers lie between about -1.8e308 and 1.8e308

    error: the integer 99999999999999999999 is out of range
     --> pipelines/test.toml:9:10
      |
    9 | epochs = 99999999999999999999
      |          ^^^^^^^^^^^^^^^^^^^^

    error: the number inf is not finite
      --> pipelines/test.toml:10:13
       |
    10 | lora.rank = inf
       |             ^^^
       |
       = help: numbers lie between about -1.8e308 and 1.8e308

    error: there are no dates in a pipeline
      --> pipelines/test.toml:11:11
       |
    11 | packing = 2024-01-01
       |           ^^^^^^^^^^
       |
       = help: write it as a string, in quotes
"#);
}

#[test]
fn bad_references_to_params() {
    assert_snapshot!(faults(r#"
[params]
rate = 5e-6
list = [1, 2]
again = "${params.rate}"
[steps.a]
uses = "lora.train"
model = "m"
train = "${params.list}"
learning_rate = "${params.raet}"
epochs = "${param.rate}"
[steps.b]
uses = "command"
run = "echo ${params.list} ä ${params.rate"
[steps.c]
uses = "command"
run = ["echo", "${params.list} ${params.again}"]
"#), @r#"
    error: a parameter cannot refer to another one
     --> pipelines/test.toml:5:10
      |
    5 | again = "${params.rate}"
      |          ^^^^^^^^^^^^^^
      |
      = help: write '$${params.' for these characters

    error: 'train' takes one input
     --> pipelines/test.toml:9:9
      |
    9 | train = "${params.list}"
      |         ^^^^^^^^^^^^^^^^ is an array
      |
      = help: write it like: train = "@step.output"

    error: unknown parameter 'raet'
      --> pipelines/test.toml:10:18
       |
    10 | learning_rate = "${params.raet}"
       |                  ^^^^^^^^^^^^^^ not in [params]
       |
       = help: did you mean 'rate'?

    error: 'epochs' must be an integer
      --> pipelines/test.toml:11:10
       |
    11 | epochs = "${param.rate}"
       |          ^^^^^^^^^^^^^^^ is the string "${param.rate}"
       |
       = help: a parameter is referred to as "${params.NAME}"

    error: the parameter 'list' does not fit into a string
      --> pipelines/test.toml:14:13
       |
    14 | run = "echo ${params.list} ä ${params.rate"
       |             ^^^^^^^^^^^^^^ is an array or a table
       |
       = help: a reference that is the whole string takes the value as it is

    error: the parameter 'list' does not fit into a string
      --> pipelines/test.toml:17:17
       |
    17 | run = ["echo", "${params.list} ${params.again}"]
       |                 ^^^^^^^^^^^^^^ is an array or a table
       |
       = help: a reference that is the whole string takes the value as it is
"#);
}

#[test]
fn unknown_labels_in_a_command() {
    assert_snapshot!(faults(r#"
[steps.a]
uses = "command"
run = "convert ${inputs.row} ${outputs.tabel} ${HOME}"
inputs = { rows = "rows.jsonl" }
outputs = { table = "table.csv" }
[steps.b]
uses = "command"
run = ["cat", "${inputs.rows}"]
"#), @r#"
    error: the step 'a' has no input 'row'
     --> pipelines/test.toml:4:16
      |
    4 | run = "convert ${inputs.row} ${outputs.tabel} ${HOME}"
      |                ^^^^^^^^^^^^^
      |
      = help: did you mean 'rows'?

    error: the step 'a' has no output 'tabel'
     --> pipelines/test.toml:4:30
      |
    4 | run = "convert ${inputs.row} ${outputs.tabel} ${HOME}"
      |                              ^^^^^^^^^^^^^^^^
      |
      = help: did you mean 'table'?

    error: the step 'b' has no input 'rows'
     --> pipelines/test.toml:9:16
      |
    9 | run = ["cat", "${inputs.rows}"]
      |                ^^^^^^^^^^^^^^
      |
      = help: declare it: inputs = { rows = "…" }
"#);
}

#[test]
fn bad_fields_of_a_command() {
    assert_snapshot!(faults(r#"
[steps.a]
uses = "command"
run = 3
outputs = { a = 1, b = { path = "b", type = "modle" }, c = { type = "file" } }
[steps.b]
uses = "command"
run = ""
outputs = { x = { path = "x", typ = "file" } }
[steps.c]
uses = "command"
run = "x"
env = ["A", "B=c"]
"#), @r#"
    error: 'run' must be a string or an array
     --> pipelines/test.toml:4:7
      |
    4 | run = 3
      |       ^ is the number 3

    error: 'outputs.a' must be a string or a table
     --> pipelines/test.toml:5:17
      |
    5 | outputs = { a = 1, b = { path = "b", type = "modle" }, c = { type = "file...
      |                 ^ is the number 1

    error: 'outputs.b.type' has a value that it cannot have
     --> pipelines/test.toml:5:45
      |
    5 | ... path = "b", type = "modle" }, c = { type = "file" } }
      |                        ^^^^^^^ is the string "modle"
      |
      = help: did you mean 'model'?

    error: 'outputs.c' lacks the field 'path'
     --> pipelines/test.toml:5:60
      |
    5 | ...b", type = "modle" }, c = { type = "file" } }
      |                              ^^^^^^^^^^^^^^^^^

    error: unknown field 'outputs.x.typ'
     --> pipelines/test.toml:9:31
      |
    9 | outputs = { x = { path = "x", typ = "file" } }
      |                               ^^^ not a field of 'outputs.x'
      |
      = help: did you mean 'type'?

    error: 'env' must hold names of environment variables, not 'B=c'
      --> pipelines/test.toml:13:7
       |
    13 | env = ["A", "B=c"]
       |       ^^^^^^^^^^^^
"#);
}

const SMALL: &str = r#"
[params]
rate = 5e-6
[steps.stage1]
uses = "lora.train"
model = "m"
train = "t"
learning_rate = "${params.rate}"
"#;

#[test]
fn unknown_set() {
    let set = [
        ("steps.stage2.epochs", "3"),
        ("steps.stage1.epoch", "3"),
        ("params.rat", "1"),
        ("stage1.epochs", "3"),
        ("steps.stage1", "3"),
        ("pipeline.name", "x"),
    ];
    assert_snapshot!(faults_with(SMALL, &set, &[]), @r#"
    error: --set params.rat: there is no parameter 'rat'
     |
     = help: did you mean 'rate'?

    error: --set pipeline.name: of [pipeline] only seed and hard_links can be set
     |
     = help: one can set steps.NAME.FIELD, params.NAME, pipeline.seed and
             pipeline.hard_links

    error: --set stage1.epochs: nothing has that name
     |
     = help: one can set steps.NAME.FIELD, params.NAME, pipeline.seed and
             pipeline.hard_links

    error: --set steps.stage1: nothing has that name
     |
     = help: one can set steps.NAME.FIELD, params.NAME, pipeline.seed and
             pipeline.hard_links

    error: --set steps.stage2.epochs: there is no step 'stage2'
     |
     = help: did you mean 'stage1'?

    error: unknown field 'epoch'
     |
     = note: the value of 'epoch' comes from the command line: 3
     = help: did you mean 'epochs'?
"#);
}

#[test]
fn unknown_variable() {
    let env = [
        ("RETUNE_STEPS__STAGE2__EPOCHS", "3"),
        ("RETUNE_STEPS__STAGE1__EPOCH", "3"),
        ("RETUNE_PARAMS__RAET", "3"),
        ("RETUNE_PARAM__RATE", "3"),
        ("RETUNE_PIPELINE__NAME", "3"),
        ("RETUNE_LOG", "debug"),
    ];
    assert_snapshot!(faults_with(SMALL, &[], &env), @r#"
    error: RETUNE_PARAMS__RAET: no parameter has that name
     |
     = help: did you mean 'RETUNE_PARAMS__RATE'?

    error: RETUNE_PARAM__RATE: there is no table 'param'
     |
     = help: did you mean 'RETUNE_PARAMS__RATE'?

    error: RETUNE_PIPELINE__NAME: of [pipeline] only seed and hard_links can be set
     |
     = help: as RETUNE_PIPELINE__SEED and RETUNE_PIPELINE__HARD_LINKS

    error: RETUNE_STEPS__STAGE2__EPOCHS: no step has that name
     |
     = help: did you mean 'RETUNE_STEPS__STAGE1__EPOCHS'?

    error: unknown field 'epoch'
     |
     = note: the value of 'epoch' comes from the environment variable
             RETUNE_STEPS__STAGE1__EPOCH: 3
     = help: did you mean 'epochs'?
"#);
}

#[test]
fn bad_values_of_overrides() {
    let set = [
        ("steps.stage1.epochs", "many"),
        ("params.rate", "fast"),
        ("pipeline.seed", "-1"),
        ("steps.stage1.train", "@stage2"),
        ("steps.stage1.model.x", "1"),
        ("steps.stage1.lora.rank", "nan"),
    ];
    let env = [("RETUNE_STEPS__STAGE1__LORA__RANK", "1000")];
    assert_snapshot!(faults_with(SMALL, &set, &env), @r#"
    error: 'epochs' must be an integer
     |
     = note: the value of 'epochs' comes from the command line: "many"

    error: 'lora.rank' must be at most 255
     |
     = note: the value of 'lora' comes from the environment variable
             RETUNE_STEPS__STAGE1__LORA__RANK: {"rank":1000}

    error: 'seed' must be an integer that is not negative
     |
     = note: the value of 'seed' comes from the command line: -1

    error: --set steps.stage1.lora.rank: the number nan is not finite
     |
     = help: write "nan" in quotes if text is meant

    error: --set steps.stage1.model.x: 'model' is not a table

    error: there is no step 'stage2'
     |
     = note: the value of 'train' comes from the command line: "@stage2"
     = help: did you mean '@stage1'?

    error: 'learning_rate' must be a number
     --> pipelines/test.toml:8:17
      |
    8 | learning_rate = "${params.rate}"
      |                 ^^^^^^^^^^^^^^^^ is the string "fast"
      |
      = note: the value of 'learning_rate' comes from the command line: "fast"
"#);
}

#[test]
fn names_that_variables_cannot_tell_apart() {
    let text = "[params]\na-b = 1\na_b = 2\n[steps.x]\nuses = 'command'\n\
                run = '${params.a-b} ${params.a_b}'\n";
    assert_snapshot!(faults_with(text, &[], &[("RETUNE_PARAMS__A_B", "3")]), @r#"
    error: RETUNE_PARAMS__A_B: it may mean each of: a-b, a_b
     |
     = help: use --set, which takes names as they are
"#);
}

#[test]
fn an_unused_parameter_is_a_warning() {
    let text = "[params]\nrate = 1\n[steps.a]\nuses = 'model.init'\n";
    let (graph, warnings) = Graph::load(source(text), &Overrides::default(), &registry()).unwrap();
    assert_eq!(graph.nodes.len(), 1);
    assert_eq!(warnings.errors(), 0);
    assert!(
        warnings
            .list
            .iter()
            .all(|d| d.severity == Severity::Warning)
    );
    assert_snapshot!(warnings, @r#"
    warning: the parameter 'rate' is not used
     --> pipelines/test.toml:2:1
      |
    2 | rate = 1
      | ^^^^ no step refers to it
      |
      = help: refer to it as "${params.rate}"
"#);
}

#[test]
fn many_faults_are_cut_short() {
    let text: String = (0..30).map(|i| format!("[steps.s{i}]\n")).collect();
    let shown = faults(&text);
    assert_eq!(shown.matches("does not say what it does").count(), 20);
    assert!(shown.ends_with("… and 10 more"), "{shown}");
}

#[test]
fn colour_is_only_colour() {
    let faults = load_with("[steps.a]\nuses = 'x'\n", &[], &[]).unwrap_err();
    let coloured = faults.render(true);
    assert!(coloured.contains("\u{1b}["));
    let plain = anstream::adapter::strip_str(&coloured).to_string();
    assert_eq!(plain, faults.render(false));
}

#[test]
fn what_looks_odd_but_is_right() {
    let text = r#"
[params]
text = "$${params.x}"
name = "ä b"
[steps.a]
uses = "command"
run = "${HOME} $${params.x} ${params.name}! ${params.text} $${inputs.x} ${x%.y}"
env = ["HOME", "A", "HOME"]
out = "./some//where/"
outputs.x = "./x//y/"
"#;
    let graph = load(text);
    let node = &graph.nodes[0];
    let run = "${HOME} ${params.x} ä b! ${params.x} $${inputs.x} ${x%.y}";
    assert_eq!(node.params["run"], run);
    assert_eq!(node.environment, ["A", "HOME"]);
    assert_eq!(node.out.as_deref(), Some("some/where"));
    assert_eq!(node.outputs[0].path, "x/y");
}
