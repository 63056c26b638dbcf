//! Two texts: the first lines that differ, with what stands around them.

use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Serialize;
use similar::{ChangeTag, TextDiff};

use super::brief;
use crate::files;

/// Lines around a difference.
const AROUND: usize = 2;
/// How many lines from the first difference on are looked at.
const WINDOW: usize = 60;
/// How many lines are told.
const SHOWN: usize = 16;
/// A line longer than this is no line of a text.
const LONGEST: usize = 1 << 20;

/// Where two texts begin to differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TextDifference {
    /// The first line that differs, from 1.
    pub line: usize,
    /// Lines before.
    pub old_lines: usize,
    /// Lines now.
    pub new_lines: usize,
    /// The first difference as `diff -u` shows one: each line with ` `, `-`
    /// or `+` before it.
    pub hunk: Vec<String>,
}

impl TextDifference {
    pub(super) fn lines(&self) -> Vec<String> {
        let lines = match self.old_lines == self.new_lines {
            true => format!("of {}", self.old_lines),
            false => format!("lines {} → {}", self.old_lines, self.new_lines),
        };
        let mut told = vec![format!("first differs at line {}, {lines}", self.line)];
        told.extend(self.hunk.iter().map(|line| brief(line)));
        told
    }
}

/// Compares two files as text; none where one of them is not UTF-8.
pub(super) fn difference(old: &Path, new: &Path) -> Option<TextDifference> {
    let (a, b) = (Lines::open(old)?, Lines::open(new)?);
    let (mut a, mut b) = (a, b);
    let mut before: Vec<String> = Vec::new();
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut line = 0;
    // The beginning that they share.
    loop {
        let (x, y) = (a.next()?, b.next()?);
        if x == y && x.is_some() {
            line += 1;
            if before.len() == AROUND {
                before.remove(0);
            }
            before.extend(x);
            continue;
        }
        left.extend(x);
        right.extend(y);
        break;
    }
    let from = line;
    for (lines, window) in [(&mut a, &mut left), (&mut b, &mut right)] {
        while window.len() < WINDOW
            && let Some(line) = lines.next()?
        {
            window.push(line);
        }
    }
    let old_lines = from + left.len() + a.rest()?;
    let new_lines = from + right.len() + b.rest()?;
    Some(TextDifference {
        line: from + 1,
        old_lines,
        new_lines,
        hunk: hunk(&before, &left, &right),
    })
}

/// The first hunk of two windows that begin where the texts differ.
fn hunk(before: &[String], left: &[String], right: &[String]) -> Vec<String> {
    let (left, right): (Vec<&str>, Vec<&str>) = (
        left.iter().map(String::as_str).collect(),
        right.iter().map(String::as_str).collect(),
    );
    let diff = TextDiff::from_slices(&left, &right);
    let mut lines: Vec<String> = before.iter().map(|line| format!(" {line}")).collect();
    let ops = diff.grouped_ops(AROUND).into_iter().next();
    for op in ops.unwrap_or_default() {
        for change in diff.iter_changes(&op) {
            let sign = match change.tag() {
                ChangeTag::Equal => ' ',
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
            };
            lines.push(format!("{sign}{}", change.value()));
        }
    }
    let more = lines.len().saturating_sub(SHOWN);
    if more > 0 {
        lines.truncate(SHOWN);
        lines.push(format!(" … {more} more lines"));
    }
    lines
}

struct Lines(BufReader<std::fs::File>);

impl Lines {
    fn open(path: &Path) -> Option<Self> {
        Some(Lines(BufReader::new(files::open(path).ok()?)))
    }

    /// The next line; none where the file turns out to be no text.
    fn next(&mut self) -> Option<Option<String>> {
        let mut line = Vec::new();
        let n = self.0.read_until(b'\n', &mut line).ok()?;
        if n == 0 {
            return Some(None);
        }
        // The last line of a file may lack its end, which is a difference too.
        let text = match line.strip_suffix(b"\n") {
            Some(whole) => whole.to_vec(),
            None => [&line[..], " (no newline at the end)".as_bytes()].concat(),
        };
        let text = (text.len() <= LONGEST && !text.contains(&0)).then_some(text)?;
        Some(Some(String::from_utf8(text).ok()?))
    }

    /// How many lines are left.
    fn rest(&mut self) -> Option<usize> {
        let mut n = 0;
        while self.next()?.is_some() {
            n += 1;
        }
        Some(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(old: &[u8], new: &[u8]) -> Option<TextDifference> {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&a, old).unwrap();
        std::fs::write(&b, new).unwrap();
        difference(&a, &b)
    }

    #[test]
    fn the_first_hunk_with_its_surroundings() {
        let text = |lines: &[&str]| lines.join("\n") + "\n";
        let old = text(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"]);
        let new = text(&["a", "b", "c", "D", "x", "e", "f", "g", "h", "i", "K"]);
        let found = between(old.as_bytes(), new.as_bytes()).unwrap();
        insta::assert_snapshot!(found.lines().join("\n"), @"
        first differs at line 4, of 11
         b
         c
        -d
        +D
        +x
         e
         f
        ");
    }

    #[test]
    fn a_missing_end_of_line_is_told() {
        let found = between(b"a\nb\n", b"a\nb").unwrap();
        assert_eq!(found.hunk, [" a", "-b", "+b (no newline at the end)"]);
        let found = between(b"a\n", b"a\nb\n").unwrap();
        assert_eq!((found.line, found.old_lines, found.new_lines), (2, 1, 2));
    }

    #[test]
    fn what_is_no_text_is_left_to_others() {
        assert!(between(b"a\n\xff\n", b"a\nb\n").is_none());
        assert!(between(b"a\0b", b"a\n").is_none());
    }
}
