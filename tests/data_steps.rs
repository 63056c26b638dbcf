//! The data kinds as a pipeline runs them, on the quick start's own data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use retune::data;
use retune::step::{Context, Input, Params, Registry, StepError};
use serde_json::{Value, json};

/// Runs a step with fields as a pipeline file gives them; inputs are (port, label, path).
fn run(
    kind: &str,
    params: Value,
    inputs: &[(&str, &str, PathBuf)],
    out: &Path,
) -> Result<(), StepError> {
    let mut registry = Registry::new();
    retune::steps::register(&mut registry);
    let kind = registry.get(kind).unwrap();
    let fields: Params = params.as_object().unwrap().clone();
    let params = kind.resolve(fields).map_err(StepError::from)?;
    let inputs: Vec<Input> = inputs
        .iter()
        .map(|(port, label, path)| Input {
            port: (*port).to_owned(),
            label: (*label).to_owned(),
            path: path.clone(),
        })
        .collect();
    std::fs::create_dir_all(out).unwrap();
    let mut context = Context {
        inputs: &inputs,
        out,
        checkpoint: None,
        threads: 2,
        cancel: &AtomicBool::new(false),
        sink: &mut (),
        facts: BTreeMap::new(),
    };
    kind.run(&params, &mut context)
}

fn quickstart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/quickstart")
}

/// The files of a folder of the quick start behind a port, sorted by name.
fn files(port: &'static str, folder: &str) -> Vec<(&'static str, String, PathBuf)> {
    let mut found: Vec<_> = std::fs::read_dir(quickstart().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (port, format!("data/quickstart/{folder}/{name}"), path)
        })
        .collect();
    found.sort();
    found
}

fn borrowed<'a>(
    inputs: &'a [(&'static str, String, PathBuf)],
) -> Vec<(&'static str, &'a str, PathBuf)> {
    inputs
        .iter()
        .map(|(port, label, path)| (*port, label.as_str(), path.clone()))
        .collect()
}

/// Findings, rows and splits of the quick start below `out`.
fn build(out: &Path) {
    let mut inputs = files("reports", "reports");
    inputs.push((
        "source",
        "data/quickstart/app".to_owned(),
        quickstart().join("app"),
    ));
    run(
        "findings.import",
        json!({"context_lines": 2}),
        &borrowed(&inputs),
        &out.join("findings"),
    )
    .unwrap();
    let mut inputs = files("templates", "templates");
    inputs.push((
        "findings",
        "@findings".to_owned(),
        out.join("findings/findings.jsonl"),
    ));
    inputs.push((
        "tables",
        "advice".to_owned(),
        quickstart().join("advice.toml"),
    ));
    run(
        "data.build",
        json!({}),
        &borrowed(&inputs),
        &out.join("rows"),
    )
    .unwrap();
    let rows = [("rows", "@rows", out.join("rows/rows.jsonl"))];
    let params =
        json!({"seed": 7, "group": ["file"], "near": 0.8, "validation": 0.1, "test": 0.15});
    run("data.split", params, &rows, &out.join("split")).unwrap();
}

#[test]
fn the_quick_start_gives_rows_that_do_not_leak_and_the_same_bytes_every_time() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    build(&one);
    build(&two);
    for path in [
        "findings/findings.jsonl",
        "findings/summary.json",
        "rows/rows.jsonl",
        "rows/summary.json",
        "split/train.jsonl",
        "split/validation.jsonl",
        "split/test.jsonl",
        "split/leaks.json",
    ] {
        let read = |root: &Path| std::fs::read(root.join(path)).unwrap();
        assert!(read(&one) == read(&two), "{path} differs");
        let text = String::from_utf8(read(&one)).unwrap();
        assert!(
            !text.contains(folder.path().to_str().unwrap()),
            "{path} holds a path of this machine"
        );
    }
    let rows = data::read_rows(&one.join("rows/rows.jsonl")).unwrap();
    assert!((300..600).contains(&rows.len()), "{} rows", rows.len());
    let leaks: Value =
        serde_json::from_slice(&std::fs::read(one.join("split/leaks.json")).unwrap()).unwrap();
    for pair in leaks["pairs"].as_array().unwrap() {
        assert_eq!(
            (&pair["exact"], &pair["near"], &pair["group"]),
            (&json!(0), &json!(0), &json!(0))
        );
    }
    let datasets = ["train", "validation", "test"]
        .map(|name| ("datasets", name, one.join(format!("split/{name}.jsonl"))));
    run("data.stats", json!({}), &datasets, &one.join("stats")).unwrap();
    let stats: Value =
        serde_json::from_slice(&std::fs::read(one.join("stats/stats.json")).unwrap()).unwrap();
    assert_eq!(stats["total"]["rows"], rows.len());
    assert_eq!(stats["total"]["duplicates"], 0);
    if let Some(keep) = std::env::var_os("RETUNE_TEST_KEEP") {
        let _ = std::process::Command::new("cp")
            .arg("-r")
            .arg(&one)
            .arg(keep)
            .status();
    }
}

#[test]
fn every_rule_of_the_quick_start_has_advice() {
    let reports: Vec<_> = files("reports", "reports")
        .into_iter()
        .map(|(_, label, path)| (label, path))
        .collect();
    let (findings, _) = data::import_findings(&reports, &data::ImportOptions::default()).unwrap();
    let advice: toml::Table = std::fs::read_to_string(quickstart().join("advice.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let rules: std::collections::BTreeSet<&str> =
        findings.iter().map(|f| f.rule.as_str()).collect();
    let told: std::collections::BTreeSet<&str> = advice.keys().map(String::as_str).collect();
    assert_eq!(rules, told);
}

#[test]
fn parameters_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, params, message) in [
        ("data.split", json!({"near": 0.0}), "must be above 0"),
        (
            "data.split",
            json!({"validation": 0.5, "test": 0.5}),
            "leaves nothing for training",
        ),
        ("data.split", json!({"nere": 0.5}), "unknown field `nere`"),
        (
            "findings.import",
            json!({"tolerance": 2.0}),
            "must lie between 0 and 1",
        ),
        ("data.import", json!({}), "missing field `schema`"),
        (
            "data.import",
            json!({"schema": "xml"}),
            "unknown variant `xml`",
        ),
    ] {
        let error = run(kind, params, &[], folder.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains(message), "{error}");
    }
}

/// The reports and data sets of a real project, kept outside of the repository.
fn webauthn() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/webauthn");
    if !root.is_dir() {
        eprintln!("skipped: {} is not there", root.display());
        return None;
    }
    Some(root)
}

#[test]
fn published_splits_leak_and_the_same_rows_split_anew_do_not() {
    let Some(root) = webauthn() else { return };
    let folder = tempfile::tempdir().unwrap();
    let options = data::SplitOptions {
        seed: 42,
        validation: 0.1,
        test: 0.1,
        group: vec!["vulnerability_id".to_owned()],
        near: 0.8,
        boilerplate: 0.1,
        stratify: None,
    };
    let published = ["train", "validation", "test"].map(|name| {
        let out = folder.path().join(name);
        let file = root.join(format!("datasets/{name}_dataset.jsonl"));
        run(
            "data.import",
            json!({"schema": "chat"}),
            &[("files", name, file)],
            &out,
        )
        .unwrap();
        out.join("rows.jsonl")
    });
    let paths = published.each_ref().map(PathBuf::as_path);
    let rows: Vec<_> = paths
        .iter()
        .map(|path| data::read_rows(path).unwrap())
        .collect();
    assert_eq!([rows[0].len(), rows[1].len(), rows[2].len()], [448, 62, 25]);
    let report = data::find_leaks([paths[0], paths[1], paths[2]], &options).unwrap();
    let train_test = &report.pairs[1];
    // Of 25 test rows 8 are copies of training rows and 10 share the answer.
    let counts = (train_test.exact, train_test.near, train_test.shared_answers);
    assert_eq!(counts, (8, 4, 10), "{train_test:?}");
    assert!(report.check().is_err());
    let all = folder.path().join("all.jsonl");
    data::write_rows(&all, &rows.concat()).unwrap();
    let anew = ["a", "b", "c"].map(|name| folder.path().join(name));
    let anew = [0, 1, 2].map(|i| anew[i].as_path());
    data::split(&all, &options, anew).unwrap();
    assert_eq!(data::find_leaks(anew, &options).unwrap().leaks(), 0);
}

#[test]
fn real_reports_become_rows_that_do_not_leak() {
    let Some(root) = webauthn() else { return };
    let mut reports = Vec::new();
    for folder in std::fs::read_dir(root.join("scanner_reports")).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            reports.push((
                "reports",
                path.strip_prefix(&root).unwrap().display().to_string(),
                path,
            ));
        }
    }
    reports.sort();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let params = json!({"expect": {"trivy": 168, "semgrep": 214, "gitleaks": 0}});
    run(
        "findings.import",
        params,
        &borrowed(&reports),
        &out.join("findings"),
    )
    .unwrap();
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/templates");
    let inputs = [
        ("findings", "@findings", out.join("findings/findings.jsonl")),
        (
            "templates",
            "analysis.jinja",
            templates.join("analysis.jinja"),
        ),
        (
            "templates",
            "upgrade.jinja",
            templates.join("upgrade.jinja"),
        ),
    ];
    run("data.build", json!({}), &inputs, &out.join("rows")).unwrap();
    let rows = data::read_rows(&out.join("rows/rows.jsonl")).unwrap();
    let netty = rows
        .iter()
        .filter_map(|row| row.answer())
        .find(|a| a.contains("from 4.1.106.Final"));
    assert!(
        netty.is_some_and(|answer| answer.contains("to 4.1.1")),
        "stays on its branch: {netty:?}"
    );
    let input = [("rows", "@rows", out.join("rows/rows.jsonl"))];
    let params = json!({"seed": 42, "group": ["group"], "stratify": "tool"});
    run("data.split", params, &input, &out.join("split")).unwrap();
}
