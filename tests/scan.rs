//! `data.scan` and `data.license` as a pipeline runs them, and the release that they are for.

mod support;

use serde_json::json;
use support::Space;

const PIPELINE: &str = r#"
[pipeline]
name = "main"

[steps.rows]
uses = "data.import"
schema = "text"
files = ["rows.jsonl"]

[steps.scan]
uses = "data.scan"
rows = "@rows"
secrets = "redact"

[steps.release]
uses = "release.folder"
files = { "data.jsonl" = "@scan.rows" }
"#;

/// A token that no scanner of sources takes for one here.
fn token() -> String {
    ["gh", "p_", "q8Zr2Lw9Xc4Vb7Nm1Kj5Hg3Fd6Sa0PoIuYtR"].concat()
}

fn space() -> Space {
    let space = Space::new(PIPELINE);
    let rows = [
        json!({"text": format!("push with {} please", token()), "license": "MIT"}),
        json!({"text": "write to ann@corp.io", "license": "CC-BY-NC-4.0"}),
    ];
    space.write("rows.jsonl", &rows.map(|row| format!("{row}\n")).concat());
    space
}

#[test]
fn what_is_released_was_looked_through() {
    let space = space();
    space.built(&[]);
    let rows = space.read("cache/out/main/release/release/data.jsonl");
    assert!(
        rows.contains("push with <SECRET_1> please") && rows.contains("<EMAIL_1>"),
        "{rows}"
    );
    for (from, to, message) in [
        (
            "\"@scan.rows\"",
            "\"@rows\"",
            "'data.jsonl' holds rows that no data.scan has looked through",
        ),
        (
            "secrets = \"redact\"",
            "secrets = \"report\"",
            "'scan' leaves what it finds (`secrets = \"report\"`)",
        ),
        (
            "secrets = \"redact\"",
            "actions = { email = \"off\" }",
            "'scan' leaves what it finds (`email = \"off\"`)",
        ),
    ] {
        space.pipeline(&PIPELINE.replace(from, to));
        let run = space.build(&[]);
        assert_eq!(run.code, Some(3), "{run}");
        assert!(
            run.err.contains(message) && run.err.contains("unscanned"),
            "{run}"
        );
    }
    // Said aloud, it may be.
    space.pipeline(PIPELINE);
    space.edit(
        "{ \"data.jsonl\" = \"@scan.rows\" }",
        "{ \"data.jsonl\" = \"@rows\" }\nunscanned = { \"data.jsonl\" = \"made by hand\" }",
    );
    space.built(&[]);
    let manifest = space.read("cache/out/main/release/release/MANIFEST.json");
    assert!(
        manifest.contains("\"data.jsonl\": \"made by hand\""),
        "{manifest}"
    );
}

#[test]
fn a_secret_stops_the_build_and_is_not_repeated() {
    let space = space();
    space.edit("secrets = \"redact\"\n", "");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(
        run.err
            .contains("rows.jsonl:1: github-token in text at byte 10, fingerprint"),
        "{run}"
    );
    assert!(!run.err.contains(&token()), "{run}");
    let print = run.err.split("fingerprint ").nth(1).unwrap()[..16].to_owned();
    space.edit(
        "rows = \"@rows\"\n",
        &format!(
            "rows = \"@rows\"\nallow = [{{ fingerprint = \"{print}\", reason = \"revoked\" }}]\n"
        ),
    );
    space.built(&[]);
    let hits = space.read("cache/out/main/scan/hits.jsonl");
    assert!(
        hits.contains("\"allowed\":\"revoked\"") && !hits.contains(&token()),
        "{hits}"
    );
}

#[test]
fn rules_of_gitleaks_are_taken() {
    let space = space();
    space.write("rules.toml", "[[rules]]\nid = \"polite\"\ndescription = \"d\"\nregex = '''p(leas)e'''\nkeywords = [\"please\"]\n");
    space.edit(
        "secrets = \"redact\"\n",
        "secrets = \"redact\"\nbuiltin = false\nrules = { own = \"rules.toml\" }\n",
    );
    space.built(&[]);
    let rows = space.read("cache/out/main/scan/rows.jsonl");
    assert!(
        rows.contains("p<SECRET_1>e") && rows.contains(&token()),
        "{rows}"
    );
    space.edit("builtin = false\n", "actions = { polit = \"redact\" }\n");
    let run = space.build(&[]);
    assert!(
        run.err
            .contains("there is no rule or kind of personal data 'polit'"),
        "{run}"
    );
}

#[test]
fn licences_that_conflict_stop_the_build() {
    let space = space();
    space.edit("[steps.release]", "[steps.license]\nuses = \"data.license\"\nrows = \"@scan.rows\"\nrelease = \"apache-2.0\"\n\n[steps.release]");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(
        run.err
            .contains("1 rows under CC-BY-NC-4.0: it forbids commercial use"),
        "{run}"
    );
    space.edit(
        "release = \"apache-2.0\"\n",
        "release = \"apache-2.0\"\nconflicts = \"warn\"\n",
    );
    space.built(&[]);
    space.edit("release = \"apache-2.0\"\n", "release = \"apache 2\"\n");
    let run = space.build(&[]);
    assert_eq!(run.code, Some(3), "{run}");
    assert!(
        run.err.contains("'apache 2' is no SPDX licence expression"),
        "{run}"
    );
}
