//! Two files or folders as a whole: what came, what went, and how the rest differs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Difference, Tolerance, What, bytes, json, rows, tensors, text};
use crate::files::{FileError, PathContext};

/// How what is at `new` differs from what is at `old`; empty when it does not.
/// `name` is what the differences call it. Files of folders come by name.
pub fn compare(name: &str, old: &Path, new: &Path, tolerance: &Tolerance) -> Vec<Difference> {
    match entries(name, old, new, tolerance) {
        Ok(found) => found,
        Err(error) => vec![unreadable(name, &error)],
    }
}

fn unreadable(name: &str, error: &FileError) -> Difference {
    let why = error.to_string();
    Difference::new(name, What::Unreadable { why })
}

fn entries(
    name: &str,
    old: &Path,
    new: &Path,
    tolerance: &Tolerance,
) -> Result<Vec<Difference>, FileError> {
    let (was, is) = match (stat(old)?, stat(new)?) {
        (None, None) => return Ok(Vec::new()),
        (Some(_), None) => return Ok(vec![Difference::new(name, What::Removed)]),
        (None, Some(_)) => return Ok(vec![Difference::new(name, What::Added)]),
        (Some(was), Some(is)) => (shape(&was), shape(&is)),
    };
    if was == FOLDER && is == FOLDER {
        return folder(name, old, new, tolerance);
    }
    let mut found = Vec::new();
    if was != is {
        found.push(Difference::new(name, What::Shape { old: was, new: is }));
    }
    if was != FOLDER && is != FOLDER {
        found.extend(compare_files(name, old, new, tolerance));
    }
    Ok(found)
}

fn stat(path: &Path) -> Result<Option<Metadata>, FileError> {
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.on("read", path).map(Some),
    }
}

const FOLDER: &str = "a folder";

fn shape(meta: &Metadata) -> &'static str {
    match () {
        () if meta.is_dir() => FOLDER,
        () if meta.permissions().mode() & 0o100 != 0 => "an executable file",
        () => "a file",
    }
}

fn folder(
    name: &str,
    old: &Path,
    new: &Path,
    tolerance: &Tolerance,
) -> Result<Vec<Difference>, FileError> {
    let mut names: BTreeMap<OsString, ()> = BTreeMap::new();
    for folder in [old, new] {
        for entry in fs::read_dir(folder).on("list", folder)? {
            names.insert(entry.on("list", folder)?.file_name(), ());
        }
    }
    let mut found = Vec::new();
    for file in names.keys() {
        let name = format!("{name}/{}", file.to_string_lossy());
        found.extend(compare(&name, &old.join(file), &new.join(file), tolerance));
    }
    Ok(found)
}

/// How two files differ; none when their bytes are the same.
pub fn compare_files(
    name: &str,
    old: &Path,
    new: &Path,
    tolerance: &Tolerance,
) -> Option<Difference> {
    match explain(name, old, new, tolerance) {
        Ok(found) => found,
        Err(error) => Some(unreadable(name, &error)),
    }
}

fn explain(
    name: &str,
    old: &Path,
    new: &Path,
    tolerance: &Tolerance,
) -> Result<Option<Difference>, FileError> {
    let Some(bytes) = bytes::difference(old, new)? else {
        return Ok(None);
    };
    let told = |what, within| {
        Ok(Some(Difference {
            path: name.to_owned(),
            within,
            what,
        }))
    };
    let named = |ending: &str| name.ends_with(ending) || new.to_string_lossy().ends_with(ending);
    if let Some((found, within)) = tensors::difference(old, new, tolerance)? {
        return told(What::Tensors(found), within);
    }
    // A number alone in a file, or on a line of one, is more likely a text.
    let (document, lines) = (named(".json"), named(".jsonl"));
    if !lines && let Some((found, within)) = json::difference(old, new, tolerance, !document) {
        return told(What::Json(found), within);
    }
    if let Some((found, within)) = rows::difference(old, new, tolerance, !lines)? {
        return told(What::Rows(found), within);
    }
    if let Some(found) = text::difference(old, new) {
        return told(What::Text(found), false);
    }
    told(What::Bytes(bytes), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(found: &[Difference]) -> Vec<String> {
        let line = |d: &Difference| format!("{}: {}", d.path, d.lines()[0]);
        found.iter().map(line).collect()
    }

    #[test]
    fn folders_are_explained_file_by_file() {
        let space = tempfile::tempdir().unwrap();
        let make = |name: &str, files: &[(&str, &[u8])]| {
            let folder = space.path().join(name);
            for (path, bytes) in files {
                let path = folder.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            folder
        };
        let old = make(
            "old",
            &[
                ("a.json", b"{\"x\":1}"),
                ("b/log.jsonl", b"{\"x\":1}\n{\"x\":2}\n"),
                ("b/gone", b""),
                ("c.txt", b"one\n"),
                ("d.bin", b"\xff\0one"),
                ("run.sh", b"#!"),
                ("same", b"same"),
            ],
        );
        let new = make(
            "new",
            &[
                ("a.json", b"{\"x\":2}"),
                ("b/log.jsonl", b"{\"x\":1}\n{\"x\":3}\n"),
                ("b/new", b""),
                ("c.txt", b"two\n"),
                ("d.bin", b"\xff\0two"),
                ("run.sh", b"#!"),
                ("same", b"same"),
            ],
        );
        let script = new.join("run.sh");
        fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
        let bitwise = Tolerance::default();
        let found = compare("out", &old, &new, &bitwise);
        insta::assert_snapshot!(words(&found).join("\n"), @r"
        out/a.json: /x: 1 → 2
        out/b/gone: not there any more
        out/b/log.jsonl: row 2 /x: 2 → 3
        out/b/new: was not there before
        out/c.txt: first differs at line 1, of 1
        out/d.bin: first differs at byte 2, of 5 bytes
        out/run.sh: was a file, is an executable file
        ");
        assert!(compare("out", &old, &old, &bitwise).is_empty());
        assert!(compare("out", &old.join("no"), &new.join("no"), &bitwise).is_empty());
        let found = compare("out", &old.join("same"), &new, &bitwise);
        assert_eq!(words(&found), ["out: was a file, is a folder"]);
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let space = tempfile::tempdir().unwrap();
        let (a, b) = (space.path().join("a"), space.path().join("a/b"));
        fs::write(&a, "").unwrap();
        let found = compare("out", &a, &b, &Tolerance::default());
        assert!(
            matches!(found[0].what, What::Unreadable { .. }),
            "{found:?}"
        );
        assert!(!found[0].within);
    }
}
