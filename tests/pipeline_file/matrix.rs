//! Matrices from the text to the graph: cells, names, wiring, and what a person reads of bad ones.

use insta::assert_snapshot;
use serde_json::json;

use super::{faults, faults_with, load, load_with, node, registry, source};
use retune::graph::{Graph, Origin};
use retune::pipeline::Overrides;

/// A training step with a matrix and what is put behind it.
fn sweep(matrix: &str, rest: &str) -> String {
    format!(
        "[steps.base]\nuses = 'model.init'\n\
         [steps.train]\nuses = 'lora.train'\nmodel = '@base.model'\ntrain = 'rows.jsonl'\n\
         matrix = {matrix}\nlearning_rate = '${{matrix.lr}}'\n{rest}"
    )
}

const CARD: &str = "[steps.card]\nuses = 'release.card'\n";

fn names(graph: &Graph) -> Vec<&str> {
    graph.nodes.iter().map(|node| node.name.as_str()).collect()
}

/// The labels of a step's inputs with the steps they come from.
fn wired(graph: &Graph, name: &str) -> Vec<String> {
    let inputs = node(graph, name).inputs.iter();
    let from = |origin: &Origin| match origin {
        Origin::Step { step, .. } => graph.node(*step).name.to_string(),
        other => format!("{other:?}"),
    };
    inputs
        .map(|input| format!("{} < {}", input.label, from(&input.from)))
        .collect()
}

#[test]
fn cells_are_named_by_their_values() {
    let graph = load(&sweep(
        "{ rank = [8, 4], lr = [1e-4, 0.5] }",
        "lora = { rank = '${matrix.rank}' }",
    ));
    assert_eq!(
        names(&graph),
        [
            "base",
            "train[lr=1e-4,rank=8]",
            "train[lr=1e-4,rank=4]",
            "train[lr=0.5,rank=8]",
            "train[lr=0.5,rank=4]",
        ]
    );
    let cell = node(&graph, "train[lr=0.5,rank=4]");
    assert_eq!(cell.params["learning_rate"], json!(0.5));
    assert_eq!(cell.params["lora"]["rank"], json!(4));
    assert_eq!(
        cell.cell.as_ref().unwrap().get("lr").unwrap().value,
        json!(0.5)
    );
}

#[test]
fn a_list_of_cells_needs_no_axes() {
    let graph = load(&sweep(
        "{ include = [{ lr = 1, n = 1 }, { lr = 2, n = 3 }] }",
        "epochs = '${matrix.n}'",
    ));
    assert_eq!(
        names(&graph),
        ["base", "train[lr=1,n=1]", "train[lr=2,n=3]"]
    );
}

#[test]
fn a_matrix_is_taken_over_and_multiplied() {
    let text = sweep(
        "{ lr = [1, 2], exclude = [{ lr = 2, n = 1 }], n = [1, 2] }",
        "epochs = '${matrix.n}'\n",
    ) + "[steps.second]\nuses = 'lora.train'\nmatrix = { from = '@train', seed = [1, 2] }\n\
           model = '@base'\ntrain = 'rows.jsonl'\nadapter = '@train'\nlearning_rate = 1\nseed = '${matrix.seed}'\n\
           [steps.third]\nuses = 'lora.train'\nmatrix = '@train'\n\
           model = '@base'\ntrain = 'rows.jsonl'\nadapter = '@train'\nlearning_rate = '${matrix.lr}'\n";
    let graph = load(&text);
    assert_eq!(
        names(&graph)[4..],
        [
            "second[lr=1,n=1,seed=1]",
            "second[lr=1,n=1,seed=2]",
            "second[lr=1,n=2,seed=1]",
            "second[lr=1,n=2,seed=2]",
            "second[lr=2,n=2,seed=1]",
            "second[lr=2,n=2,seed=2]",
            "third[lr=1,n=1]",
            "third[lr=1,n=2]",
            "third[lr=2,n=2]",
        ]
    );
    let adapter = |name| wired(&graph, name).pop().unwrap();
    assert_eq!(
        adapter("second[lr=1,n=2,seed=2]"),
        "@train[lr=1,n=2].adapter < train[lr=1,n=2]"
    );
    assert_eq!(
        adapter("third[lr=2,n=2]"),
        "@train[lr=2,n=2].adapter < train[lr=2,n=2]"
    );
}

#[test]
fn cells_are_chosen_and_gathered() {
    let matrix = "{ lr = [0.5, 1], n = [1, 2] }";
    let with = |rest: &str| load(&sweep(matrix, &format!("epochs = '${{matrix.n}}'\n{rest}")));
    let graph = with(&format!(
        "{CARD}metrics = {{ a = '@train[n=2,lr=0.50].metrics', b = '@train[n=1].metrics' }}\n"
    ));
    assert_eq!(
        wired(&graph, "card")[..3],
        [
            "a < train[lr=0.5,n=2]",
            "b[lr=0.5,n=1] < train[lr=0.5,n=1]",
            "b[lr=1,n=1] < train[lr=1,n=1]",
        ]
    );
    let graph = with(&format!("{CARD}metrics = '@train[*].metrics'\n"));
    assert_eq!(wired(&graph, "card")[0], "lr=0.5,n=1 < train[lr=0.5,n=1]");
    let graph =
        with("[steps.out]\nuses = 'release.folder'\nfiles = { 'adapters/' = '@train[*]' }\n");
    assert_eq!(
        wired(&graph, "out")[3],
        "adapters/lr=1,n=2 < train[lr=1,n=2]"
    );
    let graph = with(
        "[steps.import]\nuses = 'data.import'\nschema = 'chat'\nfiles = ['x', '@train[*].metrics']\n",
    );
    let want = [
        "train[lr=0.5,n=1]",
        "train[lr=0.5,n=2]",
        "train[lr=1,n=1]",
        "train[lr=1,n=2]",
    ];
    let got = wired(&graph, "import");
    assert!(
        got[1..]
            .iter()
            .zip(want)
            .all(|(got, want)| got.ends_with(want)),
        "{got:?}"
    );
    let graph = with(
        "[steps.last]\nuses = 'lora.train'\nmatrix = { lr = [0.5] }\nmodel = '@base'\ntrain = 'x'\n\
                      adapter = '@train[lr=${matrix.lr},n=2]'\nlearning_rate = 1\n",
    );
    assert!(wired(&graph, "last[lr=0.5]")[2].ends_with("< train[lr=0.5,n=2]"));
}

#[test]
fn a_step_may_be_named_as_a_cell() {
    let graph = load(
        "[steps.'a[n=1]']\nuses = 'model.init'\n[steps.b]\nuses = 'release.folder'\nfiles = { x = '@a[n=1]' }\n",
    );
    assert_eq!(wired(&graph, "b"), ["x < a[n=1]"]);
    assert_snapshot!(faults("[steps.a]\nuses = 'model.init'\n[steps.'a[n=1]']\nuses = 'model.init'\n[steps.'b[n=1.0]']\nuses = 'model.init'\n"), @r"
        error: 'a' and 'a[n=1]' exclude each other
         --> pipelines/test.toml:3:8
          |
        3 | [steps.'a[n=1]']
          |        ^^^^^^^^ would be a cell of the other step

        error: 'b[n=1.0]' cannot be the name of a step
         --> pipelines/test.toml:5:8
          |
        5 | [steps.'b[n=1.0]']
          |        ^^^^^^^^^^ not a cell as retune writes it
          |
          = help: a cell names its axes in order, each with the shortest text of
                  its value: stage1[lr=1e-4,rank=8]
        ");
}

#[test]
fn bad_matrices() {
    let fault = |matrix: &str| faults(&sweep(matrix, "")) + "\n\n";
    let all = [
        "{ lr = [] }",
        "{}",
        "3",
        "{ lr = 1 }",
        "{ lr = [1, 2, 1.0] }",
        "'@bse'",
        "'@base'",
        "'@train'",
        "{ lr = [1], exclude = [{ rl = 1 }] }",
        "{ lr = [1], exclude = [{ lr = 1 }] }",
        "{ lr = [1], n = [1], include = [{ lr = 2 }] }",
        "{ lr = [1], include = [{ lr = 1 }] }",
        "{ rate = [1] }",
        "{ 'a b' = [1], lr = [1] }",
    ]
    .map(fault)
    .concat();
    assert_snapshot!(all, @r#"
        error: the axis 'lr' has no values
         --> pipelines/test.toml:7:17
          |
        7 | matrix = { lr = [] }
          |                 ^^

        error: the matrix has no axes
         --> pipelines/test.toml:7:10
          |
        7 | matrix = {}
          |          ^^
          |
          = help: write matrix = { lr = [1e-4, 5e-5] }

        error: 'matrix' must be a table of axes, or a step
         --> pipelines/test.toml:7:10
          |
        7 | matrix = 3
          |          ^
          |
          = help: write { lr = [1e-4, 5e-5], rank = [8, 16] }, or "@STEP"

        error: the axis 'lr' must be a list of values
         --> pipelines/test.toml:7:17
          |
        7 | matrix = { lr = 1 }
          |                 ^
          |
          = help: write lr = [1]

        error: the axis 'lr' has 1 twice
         --> pipelines/test.toml:7:24
          |
        7 | matrix = { lr = [1, 2, 1.0] }
          |                  -     ^^^
          |                  |
          |                  the first

        error: there is no step 'bse'
         --> pipelines/test.toml:7:10
          |
        7 | matrix = '@bse'
          |          ^^^^^^ takes over the matrix of a step that does not exist
          |
          = help: steps with a matrix are: train

        error: the step 'base' has no matrix
         --> pipelines/test.toml:7:10
          |
        7 | matrix = '@base'
          |          ^^^^^^^ has no cells to take over

        error: the matrix takes over its own cells
         --> pipelines/test.toml:7:10
          |
        7 | matrix = '@train'
          |          ^^^^^^^^ comes back to this step

        error: the matrix has no axis 'rl'
         --> pipelines/test.toml:7:40
          |
        7 | matrix = { lr = [1], exclude = [{ rl = 1 }] }
          |                                        ^ in a cell of 'exclude'
          |
          = help: the axes are: lr

        error: the matrix has no cells
         --> pipelines/test.toml:7:10
          |
        7 | matrix = { lr = [1], exclude = [{ lr = 1 }] }
          |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ every cell is excluded

        error: the cell has no value for the axis 'n'
         --> pipelines/test.toml:7:42
          |
        7 | matrix = { lr = [1], n = [1], include = [{ lr = 2 }] }
          |                                          ^^^^^^^^^^ must name every axis

        error: the matrix has this cell already
         --> pipelines/test.toml:7:33
          |
        7 | matrix = { lr = [1], include = [{ lr = 1 }] }
          |                                 ^^^^^^^^^^ is there twice

        error: unknown axis 'lr'
         --> pipelines/test.toml:8:18
          |
        8 | learning_rate = '${matrix.lr}'
          |                  ^^^^^^^^^^^^ not an axis of the step's matrix
          |
          = help: the axes are: rate

        error: 'a b' cannot be the name of an axis
         --> pipelines/test.toml:7:12
          |
        7 | matrix = { 'a b' = [1], lr = [1] }
          |            ^^^^^
          |
          = help: names are letters, digits, '-' and '_'
        "#);
}

#[test]
fn a_bad_value_is_shown_where_it_stands_and_once() {
    assert_snapshot!(faults(&sweep("{ lr = [1, 'fast'], n = [1, 2, 3] }", "epochs = '${matrix.n}'\nrnk = 3")), @r#"
        error: 'learning_rate' must be a number
         --> pipelines/test.toml:7:21
          |
        7 | matrix = { lr = [1, 'fast'], n = [1, 2, 3] }
          |                     ^^^^^^ is the string "fast"

        error: unknown field 'rnk'
          --> pipelines/test.toml:10:1
           |
        10 | rnk = 3
           | ^^^ not a field of lora.train
           |
           = help: its fields are: adapter, description, epochs, learning_rate,
                   lora, matrix, model, out, packing, precision, seed, train, uses
        "#);
}

#[test]
fn bad_references_to_cells() {
    let fault = |reference: &str| {
        let card = format!("{CARD}metrics = {{ a = '{reference}' }}\n");
        faults(&sweep("{ lr = [1, 2] }", &card)) + "\n\n"
    };
    let all = [
        "@train.metrics",
        "@train[rl=1].metrics",
        "@train[lr=3].metrics",
        "@train[lr=1",
        "@train[lr=1]x",
        "@base[*].model",
        "@trian[*]",
        "@train[*].adaptr",
    ]
    .map(fault)
    .concat();
    assert_snapshot!(all, @r#"
        error: it is not said which of the 2 cells of 'train' are meant
          --> pipelines/test.toml:11:17
           |
        11 | metrics = { a = '@train.metrics' }
           |                 ^^^^^^^^^^^^^^^^ stands for all cells of a matrix
           |
           = note: its cells are:
                   [lr=1]
                   [lr=2]
           = help: "@train[*].metrics" takes all
                   "@train[lr=1].metrics" takes one
                   matrix = "@train" in this step pairs each of its cells with one

        error: the matrix has no axis 'rl'
          --> pipelines/test.toml:11:17
           |
        11 | metrics = { a = '@train[rl=1].metrics' }
           |                 ^^^^^^^^^^^^^^^^^^^^^^ not in the matrix of 'train'
           |
           = help: the axes are: lr

        error: no cell has lr=3
          --> pipelines/test.toml:11:17
           |
        11 | metrics = { a = '@train[lr=3].metrics' }
           |                 ^^^^^^^^^^^^^^^^^^^^^^ not in the matrix of 'train'
           |
           = help: its values are: 1, 2

        error: not a reference to a step: there is a '[' without its ']'
          --> pipelines/test.toml:11:17
           |
        11 | metrics = { a = '@train[lr=1' }
           |                 ^^^^^^^^^^^^^
           |
           = help: write "@STEP[AXIS=VALUE].OUTPUT"

        error: not a reference to a step: 'x' stands behind the ']'
          --> pipelines/test.toml:11:17
           |
        11 | metrics = { a = '@train[lr=1]x' }
           |                 ^^^^^^^^^^^^^^^

        error: the step 'base' has no matrix
          --> pipelines/test.toml:11:17
           |
        11 | metrics = { a = '@base[*].model' }
           |                 ^^^^^^^^^^^^^^^^ has no cells to choose from
           |
           = help: write "@base"

        error: there is no step 'trian'
          --> pipelines/test.toml:11:17
           |
        11 | metrics = { a = '@trian[*]' }
           |                 ^^^^^^^^^^^ refers to a step that does not exist
           |
           = help: did you mean '@train'?

        error: the step 'train[lr=1]' has no output 'adaptr'
          --> pipelines/test.toml:11:17
           |
        11 | metrics = { a = '@train[*].adaptr' }
           |                 ^^^^^^^^^^^^^^^^^^ refers to an output that does not exist
           |
           = help: did you mean '@train[lr=1].adapter'?
        "#);
    let one = "[steps.second]\nuses = 'lora.train'\nmodel = '@base'\ntrain = 'x'\nlearning_rate = 1\nadapter = '@train[*]'\n";
    assert_snapshot!(faults(&sweep("{ lr = [1, 2] }", one)), @r#"
        error: 'adapter' takes one input, and 'train' is 2 cells
          --> pipelines/test.toml:14:11
           |
        14 | adapter = '@train[*]'
           |           ^^^^^^^^^^^ stands for all cells of a matrix
           |
           = note: its cells are:
                   [lr=1]
                   [lr=2]
           = help: "@train[lr=1]" takes one
                   matrix = "@train" in this step pairs each of its cells with one
        "#);
}

#[test]
fn bad_uses_of_axes() {
    assert_snapshot!(faults("[params]\na = '${matrix.x}'\n[steps.a]\nuses = 'command'\nrun = 'x ${matrix.y}'\n\
        [steps.b]\nuses = 'command'\nmatrix = { y = [1, 2] }\nrun = '${matrix.z} ${params.a} $${matrix.q}'\nout = 'there'\n"), @r#"
        error: a parameter cannot refer to an axis
         --> pipelines/test.toml:2:6
          |
        2 | a = '${matrix.x}'
          |      ^^^^^^^^^^^ is the same for all cells
          |
          = help: refer to the axis in the step that has the matrix

        error: unknown axis 'y'
         --> pipelines/test.toml:5:10
          |
        5 | run = 'x ${matrix.y}'
          |          ^^^^^^^^^^^ not an axis of the step's matrix
          |
          = help: add a matrix to the step: matrix = { y = […] }

        error: unknown axis 'z'
         --> pipelines/test.toml:9:8
          |
        9 | run = '${matrix.z} ${params.a} $${matrix.q}'
          |        ^^^^^^^^^^^ not an axis of the step's matrix
          |
          = help: the axes are: y

        error: all cells of 'b' would write to the same folder
          --> pipelines/test.toml:10:7
           |
        10 | out = 'there'
           |       ^^^^^^^ does not depend on the cell
           |
           = help: name the axes in it: out = "there/${matrix.AXIS}"
        "#);
}

#[test]
fn overlapping_folders_of_cells_are_one_fault() {
    assert_snapshot!(faults(&sweep("{ lr = [1, 2], n = [1, 2] }", "epochs = '${matrix.n}'\nout = 'o/${matrix.lr}'\n")), @r"
        error: 'train[lr=1,n=1]' and 'train[lr=1,n=2]' write to the same folder
          --> pipelines/test.toml:10:7
           |
        10 | out = 'o/${matrix.lr}'
           |       ^^^^^^^^^^^^^^^^
           |       |
           |       the folder of 'train[lr=1,n=2]'
           |       the folder of 'train[lr=1,n=1]'
        ");
}

#[test]
fn what_has_no_effect_is_a_warning() {
    let text = sweep(
        "{ lr = [1], n = [1, 2], exclude = [{ lr = 1, n = 3 }] }",
        "",
    );
    let (_, warnings) = Graph::load(source(&text), &Overrides::default(), &registry()).unwrap();
    assert_snapshot!(warnings.to_string(), @r#"
        warning: the axis 'n' is not used
         --> pipelines/test.toml:7:22
          |
        7 | matrix = { lr = [1], n = [1, 2], exclude = [{ lr = 1, n = 3 }] }
          |                      ^ cells that differ in it alone are the same
          |
          = help: refer to it as "${matrix.n}"

        warning: an exclusion matches no cell
         --> pipelines/test.toml:7:45
          |
        7 | matrix = { lr = [1], n = [1, 2], exclude = [{ lr = 1, n = 3 }] }
          |                                             ^^^^^^^^^^^^^^^^^ has no effect
        "#);
}

#[test]
fn the_matrix_of_an_override() {
    let text = sweep("{ lr = [1, 2] }", "");
    let graph = load_with(
        &text,
        &[("steps.train.matrix.lr", "[3]"), ("params.x", "1")],
        &[],
    );
    assert!(graph.is_err());
    let graph = load_with(&text, &[("steps.train.matrix.lr", "[3]")], &[]).unwrap();
    assert_eq!(names(&graph), ["base", "train[lr=3]"]);
    let cell = [("steps.train[lr=0.2e1].epochs", "7")];
    let graph = load_with(&text, &cell, &[]).unwrap();
    assert_eq!(node(&graph, "train[lr=2]").params["epochs"], json!(7));
    assert_eq!(node(&graph, "train[lr=1]").params["epochs"], json!(1));
    let wrong = [
        ("steps.train[lr=3].epochs", "7"),
        ("steps.base[x=1].a", "1"),
        ("steps.train[lr=1].matrix", "1"),
    ];
    assert_snapshot!(faults_with(&text, &wrong, &[]), @r"
        error: --set steps.base[x=1].a: the step has no matrix
         |
         = help: write steps.base.a

        error: --set steps.train[lr=1].matrix: a cell cannot change the matrix

        error: --set steps.train[lr=3].epochs: no cell has lr=3
         |
         = help: its values are: 1, 2
        ");
}

#[test]
fn ten_thousand_cells_build() {
    let hundred: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let axis = hundred.join(", ");
    let matrix = format!("{{ lr = [{axis}], n = [{axis}] }}");
    let rest = "[steps.last]\nuses = 'lora.train'\nmatrix = '@train'\nmodel = '@base'\ntrain = 'x'\n\
                adapter = '@train'\nlearning_rate = '${matrix.lr}'\n[steps.all]\nuses = 'data.import'\nschema = 'chat'\n\
                files = '@last[*].metrics'\n";
    let graph = load(&sweep(
        &matrix,
        &format!("epochs = '${{matrix.n}}'\n{rest}"),
    ));
    assert_eq!(graph.nodes.len(), 20_002);
    assert_eq!(node(&graph, "all").inputs.len(), 10_000);
    let many = format!("{{ lr = [{axis}], n = [{axis}], m = [{axis}] }}");
    assert!(faults(&sweep(&many, "")).contains("more than 100000 cells"));
}

#[test]
fn settings_may_depend_on_the_cell() {
    let text = sweep(
        "{ lr = [1, 2], first = [5, -3] }",
        "priority = '${matrix.first}'\n",
    );
    let graph = load(&text);
    let priority = |name| node(&graph, name).settings.priority;
    assert_eq!(priority("train[first=5,lr=2]"), 5);
    assert_eq!(priority("train[first=-3,lr=1]"), -3);
    let wrong = faults(&text.replace("-3", "'x'"));
    assert_eq!(wrong.matches("error:").count(), 1, "{wrong}");
}
