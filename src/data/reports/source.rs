//! The code around a finding, read from the scanned source.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use crate::data::DataError;
use crate::data::finding::Finding;
use crate::files;

/// The longest excerpt taken over, in lines; a finding on a whole file is cut.
const MAX_LINES: usize = 40;

/// Gives every finding whose file lies in `root` its code, and the lines
/// around it; returns how many files of findings were not there.
pub fn add(findings: &mut [Finding], root: &Path, around: usize) -> Result<u64, DataError> {
    let mut texts: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut missing = 0;
    for finding in findings {
        let (Some(file), Some(start)) = (&finding.file, finding.start_line) else {
            missing += 1;
            continue;
        };
        if !texts.contains_key(file) {
            texts.insert(file.clone(), read(root, file)?);
        }
        let Some(text) = texts.get(file).and_then(Option::as_deref) else {
            missing += 1;
            continue;
        };
        let end = finding.end_line.unwrap_or(start);
        let lines: Vec<&str> = text.lines().collect();
        if start == 0 || start as usize > lines.len() || end < start {
            return Err(DataError::Invalid(format!(
                "failed to find the code of {}: {file} has {} lines, the finding is on {start} to {end}; \
                 the source is not the one that was scanned",
                finding.origin,
                lines.len()
            )));
        }
        let (first, last) = (start as usize - 1, (end as usize).min(lines.len()));
        finding.code = Some(excerpt(&lines, first, last));
        finding.context = Some(excerpt(&lines, first.saturating_sub(around), last + around));
    }
    Ok(missing)
}

fn excerpt(lines: &[&str], from: usize, to: usize) -> String {
    let to = to.min(lines.len()).min(from + MAX_LINES);
    lines[from..to].join("\n")
}

/// The text of a file below `root`; none when there is none, or when the name
/// leaves the root, or it is not text.
fn read(root: &Path, file: &str) -> Result<Option<String>, DataError> {
    let relative = Path::new(file);
    let inside = relative
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !inside || !root.join(relative).is_file() {
        return Ok(None);
    }
    Ok(String::from_utf8(files::read(&root.join(relative))?).ok())
}
