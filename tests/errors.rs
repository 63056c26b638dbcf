//! What a person reads when the input is wrong, word for word, and the exit code.

mod support;

use support::{Run, Space};

/// Exit code and standard error, with the project's path left out.
fn shown(space: &Space, run: &Run) -> String {
    let project = space.path("");
    let project = project.to_str().unwrap().trim_end_matches('/');
    assert_eq!(run.out, "", "{run}");
    format!(
        "exit {}\n{}",
        run.code.unwrap(),
        run.err.replace(project, "PROJECT")
    )
}

/// What `build` says to a pipeline.
fn build(pipeline: &str) -> String {
    let space = Space::new(pipeline);
    let shown = shown(&space, &space.retune(&["build"]));
    assert!(!space.exists("cache"), "nothing is begun");
    shown
}

/// What is said to arguments.
fn said(space: &Space, arguments: &[&str]) -> String {
    shown(space, &space.retune(arguments))
}

const GOOD: &str = "[steps.a]\nuses = 'command'\nrun = 'true'\n";

// The pipeline file

#[test]
fn not_toml() {
    insta::assert_snapshot!(build("[steps.a\nuses = 'command'\n"), @"
    exit 3
    error: the file is not TOML: unclosed table, expected `]`
     --> pipelines/main.toml:1:9
      |
    1 | [steps.a
      |         ^
    ");
}

#[test]
fn an_unknown_table() {
    insta::assert_snapshot!(build(
        "[parms]\nx = 1\n[steps.a]\nuses = 'command'\nrun = 'true'\n"
    ), @"
    exit 3
    error: unknown key 'parms'
     --> pipelines/main.toml:1:2
      |
    1 | [parms]
      |  ^^^^^ not a table of a pipeline
      |
      = help: did you mean 'params'?
    ");
}

#[test]
fn an_unknown_key_of_the_pipeline() {
    insta::assert_snapshot!(build(
        "[pipeline]\nsede = 1\n[steps.a]\nuses = 'command'\nrun = 'true'\n"
    ), @"
    exit 3
    error: unknown key 'sede'
     --> pipelines/main.toml:2:1
      |
    2 | sede = 1
      | ^^^^ not a key of [pipeline]
      |
      = help: did you mean 'seed'?
    ");
}

#[test]
fn an_unknown_key_of_a_step() {
    insta::assert_snapshot!(build(
        "[steps.a]\nuses = 'command'\nrum = 'true'\nrun = 'true'\n"
    ), @"
    exit 3
    error: unknown field 'rum'
     --> pipelines/main.toml:3:1
      |
    3 | rum = 'true'
      | ^^^ not a field of command
      |
      = help: did you mean 'run'?
    ");
}

#[test]
fn several_errors_at_once() {
    insta::assert_snapshot!(build(
        "[steps.a]\nuses = 'comand'\n[steps.b]\nuses = 'command'\nrun = 1\ninputs = { x = '@c' }\n"
    ), @"
    exit 3
    error: there is no kind 'comand'
     --> pipelines/main.toml:2:8
      |
    2 | uses = 'comand'
      |        ^^^^^^^^ not a kind of step
      |
      = help: did you mean 'command'?

    error: 'run' must be a string or an array
     --> pipelines/main.toml:5:7
      |
    5 | run = 1
      |       ^ is the number 1

    error: there is no step 'c'
     --> pipelines/main.toml:6:16
      |
    6 | inputs = { x = '@c' }
      |                ^^^^ refers to a step that does not exist
      |
      = help: the steps are: a, b
    ");
}

#[test]
fn a_missing_field() {
    insta::assert_snapshot!(build("[steps.a]\nuses = 'command'\n"), @"
    exit 3
    error: the step 'a' lacks 'run'
     --> pipelines/main.toml:1:8
      |
    1 | [steps.a]
      |        ^ needed by command
      |
      = help: run: A script for `sh -c`, or a program and its arguments as an
              array.
    ");
}

#[test]
fn a_missing_kind() {
    insta::assert_snapshot!(build("[steps.a]\nrun = 'true'\n"), @r#"
    exit 3
    error: the step 'a' does not say what it does
     --> pipelines/main.toml:1:8
      |
    1 | [steps.a]
      |        ^ 'uses' is missing
      |
      = help: add: uses = "KIND"
    "#);
}

#[test]
fn a_wrong_type() {
    insta::assert_snapshot!(build(
        "[steps.a]\nuses = 'command'\nrun = 'true'\nenv = 'PATH'\n"
    ), @r#"
    exit 3
    error: 'env' must be an array
     --> pipelines/main.toml:4:7
      |
    4 | env = 'PATH'
      |       ^^^^^^ is the string "PATH"
      |
      = help: write ["PATH"]
    "#);
}

#[test]
fn an_unknown_kind() {
    insta::assert_snapshot!(build("[steps.a]\nuses = 'comand'\nrun = 'true'\n"), @"
    exit 3
    error: there is no kind 'comand'
     --> pipelines/main.toml:2:8
      |
    2 | uses = 'comand'
      |        ^^^^^^^^ not a kind of step
      |
      = help: did you mean 'command'?
    ");
}

#[test]
fn an_unknown_step() {
    insta::assert_snapshot!(build(
        "[steps.first]\nuses = 'command'\nrun = 'echo > x'\noutputs = { x = 'x' }\n\
         [steps.b]\nuses = 'command'\nrun = 'true'\ninputs = { x = '@frist' }\n"
    ), @"
    exit 3
    error: there is no step 'frist'
     --> pipelines/main.toml:8:16
      |
    8 | inputs = { x = '@frist' }
      |                ^^^^^^^^ refers to a step that does not exist
      |
      = help: did you mean '@first'?
    ");
}

#[test]
fn an_unknown_output() {
    insta::assert_snapshot!(build(
        "[steps.a]\nuses = 'command'\nrun = 'echo > x'\noutputs = { text = 'x' }\n\
         [steps.b]\nuses = 'command'\nrun = 'true'\ninputs = { x = '@a.txt' }\n"
    ), @"
    exit 3
    error: the step 'a' has no output 'txt'
     --> pipelines/main.toml:8:16
      |
    8 | inputs = { x = '@a.txt' }
      |                ^^^^^^^^ refers to an output that does not exist
      |
      = help: did you mean '@a.text'?
    ");
}

#[test]
fn an_output_of_a_step_that_has_none() {
    insta::assert_snapshot!(build(
        "[steps.a]\nuses = 'command'\nrun = 'true'\n\
         [steps.b]\nuses = 'command'\nrun = 'true'\ninputs = { x = '@a' }\n"
    ), @"
    exit 3
    error: the step 'a' has no outputs
     --> pipelines/main.toml:7:16
      |
    7 | inputs = { x = '@a' }
      |                ^^^^
    ");
}

#[test]
fn two_outputs_at_one_path() {
    insta::assert_snapshot!(build(
        "[steps.a]\nuses = 'command'\nrun = 'true'\noutputs = { one = 'x', two = './x' }\n"
    ), @"
    exit 3
    error: two outputs of the step 'a' have the same path
     --> pipelines/main.toml:4:30
      |
    4 | outputs = { one = 'x', two = './x' }
      |                   ---        ^^^^^ the path of 'two' is x
      |                   |
      |                   the path of 'one' is x
    ");
}

#[test]
fn two_steps_at_one_folder() {
    insta::assert_snapshot!(build(
        "[steps.a]\nuses = 'command'\nrun = 'true'\nout = 'release'\n\
         [steps.b]\nuses = 'command'\nrun = 'true'\nout = 'release'\n"
    ), @"
    exit 3
    error: 'a' and 'b' write to the same folder
     --> pipelines/main.toml:8:7
      |
    4 | out = 'release'
      |       --------- the folder of 'a'
    ...
    8 | out = 'release'
      |       ^^^^^^^^^ the folder of 'b'
    ");
}

#[test]
fn an_output_that_leaves_the_steps_folder() {
    insta::assert_snapshot!(build(
        "[steps.a]\nuses = 'command'\nrun = 'true'\noutputs = { one = '../x', two = '/etc/x' }\n"
    ), @"
    exit 3
    error: the output 'one' leaves the step's folder
     --> pipelines/main.toml:4:19
      |
    4 | outputs = { one = '../x', two = '/etc/x' }
      |                   ^^^^^^ must lie in the step's own folder
      |
      = help: a path here is relative to the step's output folder, without
              '..'

    error: the path of the output 'two' is absolute
     --> pipelines/main.toml:4:33
      |
    4 | outputs = { one = '../x', two = '/etc/x' }
      |                                 ^^^^^^^^ must lie in the step's own folder
      |
      = help: a path here is relative to the step's output folder, without
              '..'
    ");
}

#[test]
fn a_folder_outside_of_the_project() {
    insta::assert_snapshot!(build(
        "[steps.a]\nuses = 'command'\nrun = 'true'\nout = '../release'\n"
    ), @"
    exit 3
    error: the folder 'out' leads out of the project
     --> pipelines/main.toml:4:7
      |
    4 | out = '../release'
      |       ^^^^^^^^^^^^
      |
      = help: it is a folder relative to the project root, by default
              cache/out/main/a
    ");
}

#[test]
fn a_cycle_names_every_step_on_it() {
    insta::assert_snapshot!(build(
        "[steps.a]\nuses = 'command'\nrun = 'true'\ninputs = { x = '@c' }\noutputs = { x = 'x' }\n\
         [steps.b]\nuses = 'command'\nrun = 'true'\ninputs = { x = '@a' }\noutputs = { x = 'x' }\n\
         [steps.c]\nuses = 'command'\nrun = 'true'\ninputs = { x = '@b' }\noutputs = { x = 'x' }\n"
    ), @"
    exit 3
    error: 3 steps wait for each other
      --> pipelines/main.toml:1:8
       |
     1 | [steps.a]
       |        ^ reads from 'c'
    ...
     6 | [steps.b]
       |        - reads from 'a'
    ...
    11 | [steps.c]
       |        - reads from 'b'
       |
       = note: each reads from the next: a → c → b → a
    ");
}

#[test]
fn a_step_that_reads_itself() {
    insta::assert_snapshot!(build(
        "[steps.a]\nuses = 'command'\nrun = 'true'\ninputs = { x = '@a' }\noutputs = { x = 'x' }\n"
    ), @"
    exit 3
    error: the step 'a' reads its own output
     --> pipelines/main.toml:1:8
      |
    1 | [steps.a]
      |        ^ needs itself
    ");
}

#[test]
fn a_step_defined_twice() {
    insta::assert_snapshot!(build(
        "[steps.a]\nuses = 'command'\nrun = 'true'\n[steps.a]\nuses = 'command'\nrun = 'true'\n"
    ), @"
    exit 3
    error: the file is not TOML: duplicate key
     --> pipelines/main.toml:4:8
      |
    4 | [steps.a]
      |        ^
    ");
}

#[test]
fn an_unknown_parameter() {
    insta::assert_snapshot!(build(
        "[params]\nname = 'x'\n[steps.a]\nuses = 'command'\nrun = 'echo ${params.nane}'\n"
    ), @r#"
    exit 3
    error: unknown parameter 'nane'
     --> pipelines/main.toml:5:13
      |
    5 | run = 'echo ${params.nane}'
      |             ^^^^^^^^^^^^^^ not in [params]
      |
      = help: did you mean 'name'?
    "#);
}

#[test]
fn an_unknown_label_in_a_command() {
    insta::assert_snapshot!(build(
        "[steps.a]\nuses = 'command'\nrun = 'cat ${inputs.txt}'\ninputs = { text = 'x' }\n"
    ), @"
    exit 3
    error: the step 'a' has no input 'txt'
     --> pipelines/main.toml:3:12
      |
    3 | run = 'cat ${inputs.txt}'
      |            ^^^^^^^^^^^^^
      |
      = help: did you mean 'text'?
    ");
}

#[test]
fn a_bad_step_name() {
    insta::assert_snapshot!(build("[steps.'../a']\nuses = 'command'\nrun = 'true'\n"), @"
    exit 3
    error: '../a' cannot be the name of a step
     --> pipelines/main.toml:1:8
      |
    1 | [steps.'../a']
      |        ^^^^^^ not a name
      |
      = help: names are letters, digits, '-' and '_', the first one a letter
              or a digit
    ");
}

#[test]
fn a_hub_reference_without_its_revision() {
    insta::assert_snapshot!(build(
        "[steps.a]\nuses = 'command'\nrun = 'true'\ninputs = { m = 'hf://owner/model' }\n"
    ), @"
    exit 3
    error: a Hub reference needs a revision
     --> pipelines/main.toml:4:16
      |
    4 | inputs = { m = 'hf://owner/model' }
      |                ^^^^^^^^^^^^^^^^^^
      |
      = help: add the commit behind the name: OWNER/NAME@COMMIT
    ");
}

#[test]
fn an_absolute_input() {
    insta::assert_snapshot!(build(
        "[steps.a]\nuses = 'command'\nrun = 'true'\ninputs = { x = '/etc/passwd', y = '../x' }\n"
    ), @"
    exit 3
    error: the path is absolute
     --> pipelines/main.toml:4:16
      |
    4 | inputs = { x = '/etc/passwd', y = '../x' }
      |                ^^^^^^^^^^^^^
      |
      = help: paths are relative to the project root, so that a build does not
              depend on where the project lies

    error: the path leads out of the project
     --> pipelines/main.toml:4:35
      |
    4 | inputs = { x = '/etc/passwd', y = '../x' }
      |                                   ^^^^^^
      |
      = help: paths are relative to the project root, so that a build does not
              depend on where the project lies
    ");
}

#[test]
fn no_steps() {
    let space = Space::new("[pipeline]\nname = 'empty'\n");
    let run = space.retune(&["build"]);
    assert_eq!(run.code, Some(0), "{run}");
    assert!(run.err.contains("empty: nothing to do in "), "{run}");
}

// Overrides

#[test]
fn an_override_of_nothing() {
    let space = Space::new(GOOD);
    insta::assert_snapshot!(said(&space, &["plan", "--set", "steps.b.run=true"]), @"
    exit 3
    error: --set steps.b.run: there is no step 'b'
     |
     = help: the steps are: a
    ");
    insta::assert_snapshot!(said(&space, &["plan", "--set", "steps.a.rnu=true"]), @"
    exit 3
    error: unknown field 'rnu'
     |
     = note: the value of 'rnu' comes from the command line: true
     = help: its fields are: description, env, inputs, matrix, out, outputs,
             run, sandbox, uses
    ");
    insta::assert_snapshot!(said(&space, &["plan", "--set", "params.x=1"]), @"
    exit 3
    error: --set params.x: there is no parameter 'x'
    ");
    insta::assert_snapshot!(said(&space, &["plan", "--set", "step.a.run=true"]), @"
    exit 3
    error: --set step.a.run: nothing has that name
     |
     = help: one can set steps.NAME.FIELD, params.NAME, pipeline.seed and
             pipeline.hard_links
    ");
}

#[test]
fn an_override_of_a_wrong_type() {
    let space = Space::new(GOOD);
    insta::assert_snapshot!(said(&space, &["plan", "--set", "steps.a.env=1"]), @"
    exit 3
    error: 'env' must be an array
     |
     = note: the value of 'env' comes from the command line: 1
    ");
}

#[test]
fn an_override_in_the_environment_that_fits_nothing() {
    let space = Space::new(GOOD);
    let mut command = space.command(&["plan"]);
    let run = Run::of(command.env("RETUNE_STEPS__B__RUN", "true"));
    insta::assert_snapshot!(shown(&space, &run), @"
    exit 3
    error: RETUNE_STEPS__B__RUN: no step has that name
     |
     = help: the names are: A
    ");
}

// The command line

#[test]
fn no_pipeline() {
    insta::assert_snapshot!(said(&Space::empty(), &["build"]), @"
    exit 4
    error: there is no pipeline in PROJECT/pipelines
    hint: `retune init` writes the quick start's pipeline and data
    ");
}

#[test]
fn several_pipelines() {
    let space = Space::new(GOOD);
    space.write("pipelines/other.toml", GOOD);
    insta::assert_snapshot!(said(&space, &["build"]), @"
    exit 4
    error: there are several pipelines: main, other
    hint: choose one with -p NAME
    ");
    assert_eq!(space.retune(&["plan", "-p", "other"]).code, Some(0));
}

#[test]
fn an_unknown_pipeline() {
    insta::assert_snapshot!(said(&Space::new(GOOD), &["build", "-p", "mian"]), @"
    exit 4
    error: there is no pipeline 'mian'
    hint: there are: main
    ");
}

#[test]
fn an_unknown_step_on_the_command_line() {
    let space = Space::new(&GOOD.replace("steps.a", "steps.stage1"));
    insta::assert_snapshot!(said(&space, &["build", "stag1"]), @"
    exit 4
    error: there is no step 'stag1'
    hint: did you mean 'stage1'?
    ");
    insta::assert_snapshot!(said(&space, &["build", "--force", "stag1"]), @"
    exit 4
    error: there is no step 'stag1'
    hint: did you mean 'stage1'?
    ");
    insta::assert_snapshot!(said(&space, &["why", "stage2"]), @"
    exit 4
    error: there is no step 'stage2'
    hint: did you mean 'stage1'?
    ");
}

#[test]
fn an_unknown_verb() {
    insta::assert_snapshot!(said(&Space::new(GOOD), &["biuld"]), @"
    exit 4
    error: unrecognized subcommand 'biuld'

      tip: a similar subcommand exists: 'build'

    Usage: retune [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
}

#[test]
fn a_folder_that_is_not_there() {
    insta::assert_snapshot!(said(&Space::new(GOOD), &["-C", "nowhere", "build"]), @"
    exit 4
    error: failed to find the folder nowhere
      1: No such file or directory (os error 2)
    ");
}

#[test]
fn a_stale_plan_is_exit_code_2() {
    let space = Space::new(GOOD);
    assert_eq!(space.retune(&["plan"]).code, Some(0));
    assert_eq!(space.retune(&["plan", "--check"]).code, Some(2));
    space.built(&[]);
    assert_eq!(space.retune(&["plan", "--check"]).code, Some(0));
}

// The files that steps read

#[test]
fn a_missing_input() {
    let space = Space::new(
        "[steps.a]\nuses = 'command'\nrun = 'true'\ninputs = { text = 'data/text.txt' }\n",
    );
    let plan = space.retune(&["plan"]);
    assert_eq!(plan.code, Some(5), "{plan}");
    insta::assert_snapshot!(plan.out, @"
    STEP  KIND     VERDICT     WHY
    a     command  error       input 'inputs': data/text.txt does not exist
    ");
}
