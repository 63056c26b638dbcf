//! The readers of `data.import` on files that were damaged at random: rows or an error with the file, never a panic.

#![cfg(feature = "parquet")]

use std::io::Write as _;
use std::path::PathBuf;

use proptest::prelude::*;
use retune::data::{DataError, LineWriter, RowSink, RowsOptions, RowsWriter, Schema, import_rows};

/// A file of each format with the same rows.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let lines: String = (0..40)
        .map(|i| format!("{{\"prompt\":\"ask {i} \\u00e9\",\"completion\":\"say {i}\",\"meta\":{{\"n\":[{i},null,1.5]}}}}\n"))
        .collect();
    let items: Vec<&str> = lines.lines().collect();
    let table: String = (0..40)
        .map(|i| format!("ask {i},\"say, \"\"{i}\"\"\",{i}\n"))
        .collect();
    let mut seeds = vec![
        ("a.jsonl", lines.clone().into_bytes()),
        (
            "a.json",
            format!("[\n{}\n]", items.join(",\n")).into_bytes(),
        ),
        (
            "a.csv",
            format!("prompt,completion,n\n{table}").into_bytes(),
        ),
        ("a.jsonl.gz", gzip(lines.as_bytes())),
        (
            "a.jsonl.zst",
            zstd::encode_all(lines.as_bytes(), 3).unwrap(),
        ),
        ("a.tar", tarred(&lines)),
        ("a.zip", zipped(&lines)),
    ];
    seeds.push(("a.parquet", parquet(&lines)));
    seeds
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

fn tarred(lines: &str) -> Vec<u8> {
    let mut to = tar::Builder::new(Vec::new());
    for name in ["one.jsonl", "two/three.jsonl.gz"] {
        let bytes = if name.ends_with("gz") {
            gzip(lines.as_bytes())
        } else {
            lines.into()
        };
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        to.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    to.into_inner().unwrap()
}

fn zipped(lines: &str) -> Vec<u8> {
    let mut to = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    to.start_file("one.jsonl", options).unwrap();
    to.write_all(lines.as_bytes()).unwrap();
    to.finish().unwrap().into_inner()
}

/// Our own Parquet file of such rows; its texts are read back below.
fn parquet(lines: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (
        folder.path().join("a.jsonl"),
        folder.path().join("a.parquet"),
    );
    std::fs::write(&from, lines).unwrap();
    let mut table = RowsWriter::create(&to).unwrap();
    let options = RowsOptions::new(Schema::PromptCompletion);
    import_rows(&[("a.jsonl".into(), from)], &options, &mut [&mut table]).unwrap();
    table.finish().unwrap();
    std::fs::read(&to).unwrap()
}

/// Imports bytes as a file of that name: how many rows, or what is wrong.
fn import(name: &str, bytes: &[u8]) -> Result<u64, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, bytes).unwrap();
    let schema = if name == "a.parquet" {
        Schema::Chat
    } else {
        Schema::PromptCompletion
    };
    let mut lines = LineWriter::create(&folder.path().join("rows")).unwrap();
    let sinks: &mut [&mut dyn RowSink] = &mut [&mut lines];
    let files: &[(String, PathBuf)] = &[(name.to_owned(), path)];
    Ok(import_rows(files, &RowsOptions::new(schema), sinks)?.rows)
}

#[test]
fn the_seeds_are_whole() {
    for (name, bytes) in seeds() {
        let wanted = if name == "a.tar" { 80 } else { 40 };
        assert_eq!(import(name, &bytes).unwrap(), wanted, "{name}");
    }
}

/// What happens to a file: bytes changed, cut out, doubled, or the end gone.
#[derive(Debug, Clone)]
enum Damage {
    Set(usize, u8),
    Cut(usize, usize),
    Double(usize, usize),
    End(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<usize>();
    prop_oneof![
        4 => (at, any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        1 => (any::<usize>(), 1usize..40).prop_map(|(at, n)| Damage::Cut(at, n)),
        1 => (any::<usize>(), 1usize..40).prop_map(|(at, n)| Damage::Double(at, n)),
        1 => any::<usize>().prop_map(Damage::End),
    ]
}

fn damaged(bytes: &[u8], all: &[Damage]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for one in all {
        if bytes.is_empty() {
            break;
        }
        let len = bytes.len();
        match *one {
            Damage::Set(at, byte) => bytes[at % len] = byte,
            Damage::Cut(at, n) => drop(bytes.drain(at % len..(at % len + n).min(len))),
            Damage::Double(at, n) => {
                let part = bytes[at % len..(at % len + n).min(len)].to_vec();
                bytes.splice(at % len..at % len, part);
            }
            Damage::End(at) => bytes.truncate(at % len),
        }
    }
    bytes
}

/// `RETUNE_FUZZ_CASES` makes it long.
fn cases() -> u32 {
    let asked = std::env::var("RETUNE_FUZZ_CASES").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn damage_gives_rows_or_an_error_that_names_the_file(
        all in prop::collection::vec(damage(), 1..6),
    ) {
        // The Parquet library tells of some damage by a panic, which is caught and told.
        std::panic::set_hook(Box::new(|_| {}));
        for (name, bytes) in SEEDS.iter() {
            let bytes = damaged(bytes, &all);
            if let Err(error) = import(name, &bytes) {
                let text = error.to_string();
                prop_assert!(text.contains("a.") || text.contains("file"), "{} {}", name, text);
            }
        }
    }
}

static SEEDS: std::sync::LazyLock<Vec<(&str, Vec<u8>)>> = std::sync::LazyLock::new(seeds);
