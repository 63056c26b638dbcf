//! Holds the sources to the table of who may import whom (the map in `src/lib.rs`).
//!
//! Change the table when the design changes, never to let a shortcut through.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each top-level module with the modules it may import, in the order of the map.
const TABLE: &[(&str, &[&str])] = &[
    ("hash", &[]),
    ("files", &["hash"]),
    ("compare", &["hash", "files"]),
    ("data", &["hash", "files"]),
    ("ml", &["hash", "files", "data"]),
    ("eval", &["hash", "files", "data"]),
    ("hub", &["hash", "files"]),
    ("release", &["hash", "files", "data"]),
    ("pipeline", &["hash"]),
    ("step", &["hash"]),
    ("graph", &["compare", "pipeline", "step"]),
    ("store", &["hash", "files"]),
    (
        "plan",
        &["hash", "files", "pipeline", "step", "graph", "store"],
    ),
    ("event", &["hash", "pipeline", "step", "store", "plan"]),
    (
        "exec",
        &[
            "hash", "files", "hub", "pipeline", "step", "graph", "store", "plan", "event",
        ],
    ),
    (
        "record",
        &[
            "hash", "files", "compare", "pipeline", "step", "graph", "store", "plan", "event",
        ],
    ),
    (
        "report",
        &[
            "hash", "compare", "pipeline", "step", "plan", "event", "record",
        ],
    ),
    ("diagram", &[]),
    (
        "steps",
        &[
            "hash", "files", "data", "ml", "eval", "hub", "release", "step",
        ],
    ),
    ("watch", &["files"]),
    (
        "ops",
        &[
            "hash", "files", "compare", "data", "ml", "hub", "pipeline", "step", "graph", "store",
            "plan", "event", "exec", "record", "diagram", "steps", "watch",
        ],
    ),
    (
        "cli",
        &[
            "hash", "files", "pipeline", "step", "plan", "event", "report", "diagram", "ops",
        ],
    ),
];

#[test]
fn modules_import_only_what_the_table_allows() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let table: BTreeMap<&str, BTreeSet<&str>> = TABLE
        .iter()
        .map(|(module, allowed)| (*module, allowed.iter().copied().collect()))
        .collect();
    let mut faults = Vec::new();
    for file in rust_files(&source) {
        let module = module_of(&file, &source);
        if module == "lib" || module == "main" {
            continue;
        }
        let Some(allowed) = table.get(module.as_str()) else {
            faults.push(format!(
                "{} belongs to no module of the table",
                file.display()
            ));
            continue;
        };
        for (line, imported) in imports(&fs::read_to_string(&file).unwrap()) {
            if imported != module
                && table.contains_key(imported.as_str())
                && !allowed.contains(imported.as_str())
            {
                faults.push(format!(
                    "{}:{line}: {module} must not import {imported}",
                    file.display()
                ));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_table_has_no_cycle() {
    for (i, (module, allowed)) in TABLE.iter().enumerate() {
        for other in *allowed {
            let above = TABLE[..i].iter().any(|(name, _)| name == other);
            assert!(above, "{module} may only import rows above it, not {other}");
        }
    }
}

#[test]
fn every_module_opens_with_one_line_that_says_what_it_owns() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in rust_files(&source) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(
            text.starts_with("//! "),
            "{} has no opening line",
            file.display()
        );
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The top-level module a source file belongs to.
fn module_of(file: &Path, source: &Path) -> String {
    let first = file
        .strip_prefix(source)
        .unwrap()
        .components()
        .next()
        .unwrap();
    let name = first.as_os_str().to_str().unwrap();
    name.trim_end_matches(".rs").to_owned()
}

/// Top-level modules named behind `crate::` (outside of comments), with their lines.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap();
        for (at, _) in code.match_indices("crate::") {
            let rest = &code[at + "crate::".len()..];
            let names: Vec<&str> = match rest.strip_prefix('{') {
                Some(group) => group.split([',', '}']).map(str::trim).collect(),
                None => vec![rest],
            };
            for name in names {
                let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
                let name = &name[..end.unwrap_or(name.len())];
                if !name.is_empty() {
                    found.push((number + 1, name.to_owned()));
                }
            }
        }
    }
    found
}
