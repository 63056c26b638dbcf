//! The engine as a crate: the example with a kind of its own, run as a program.

mod support;

use std::path::PathBuf;
use std::process::Command;

use support::Run;

/// The example's program. `cargo test` builds it; a run of this file alone may
/// not have.
fn example() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let program = own
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/own_kind");
    if !program.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--example", "own_kind"]);
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().unwrap().success());
    }
    program
}

const PIPELINE: &str = r#"
[steps.count]
uses = "words.count"
matrix = { shortest = [0, 3] }
shortest = "${matrix.shortest}"
text = "@text"

[steps.text]
uses = "command"
run = "echo one or two > text"
outputs = { text = "text" }
"#;

#[test]
fn an_own_kind_runs_in_the_programs_own_processes() {
    let space = support::Space::new(PIPELINE);
    let program = example();
    let build = || Run::of(Command::new(&program).arg(space.path("")));
    let first = build();
    assert_eq!(first.code, Some(0), "{first}");
    insta::assert_snapshot!(sorted(&first.out), @"
    count[shortest=0]: 3 words
    count[shortest=3]: 2 words
    ran count[shortest=0]
    ran count[shortest=3]
    ran text
    ");
    let again = build();
    insta::assert_snapshot!(again.out, @"
    count[shortest=0]: 3 words
    count[shortest=3]: 2 words
    ");
    // The plain program does not know the kind and says so.
    let plain = space.retune(&["plan"]);
    assert_eq!(plain.code, Some(3), "{plain}");
    assert!(
        plain.err.contains("there is no kind 'words.count'"),
        "{plain}"
    );
}

#[test]
fn the_kind_of_the_example_takes_less_than_forty_lines() {
    let text = include_str!("../examples/own_kind.rs");
    let start = text.find("/// Every field").unwrap();
    let end = text.find("// The program:").unwrap();
    let lines = text[start..end]
        .lines()
        .filter(|line| !line.trim().is_empty());
    // Four more register and hand it over.
    assert!(lines.count() + 4 < 40);
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}
