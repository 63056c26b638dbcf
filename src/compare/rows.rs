//! Two files with a JSON value on each line: the first row that differs, and which rows came and went.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::json::{KeyChange, Walk};
use super::{Gap, TOLD, Tolerance, count};
use crate::files::{self, FileError, PathContext};

/// How two files of rows differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RowsDifference {
    /// Rows before.
    pub old: usize,
    /// Rows now.
    pub new: usize,
    /// How many rows are only in the old file, wherever they stand.
    pub removed: usize,
    /// How many rows are only in the new file.
    pub added: usize,
    /// How many rows differ from the row at the same place.
    pub differing: usize,
    /// The first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<FirstRow>,
    /// How far numbers are apart at most in rows at the same place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
}

/// The first row that differs from the one at the same place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FirstRow {
    /// Its number, from 1.
    pub row: usize,
    /// What differs in it; empty where only the bytes do.
    pub changes: Vec<KeyChange>,
}

impl RowsDifference {
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(first) = &self.first {
            let changes = first.changes.iter().take(TOLD);
            lines.extend(changes.map(|change| format!("row {} {}", first.row, change.line())));
            match first.changes.len() {
                0 => lines.push(format!("row {}: the same values in other bytes", first.row)),
                n if n > TOLD => lines.push(format!("row {}: {} more keys", first.row, n - TOLD)),
                _ => {}
            }
        }
        let rows = match self.old == self.new {
            true => count(self.new, "row"),
            false => format!("rows {} → {}", self.old, self.new),
        };
        let moved = self.added == 0 && self.removed == 0 && self.old == self.new;
        lines.push(match moved {
            true => format!("{rows}, the same ones in another order"),
            false => format!(
                "{rows}, {} in place, {} added, {} removed",
                differ(self.differing),
                self.added,
                self.removed
            ),
        });
        lines.extend(self.gap.map(|gap| format!("numbers: {gap}")));
        lines
    }
}

fn differ(n: usize) -> String {
    match n {
        1 => "1 differs".to_owned(),
        n => format!("{n} differ"),
    }
}

/// Compares two files row by row; none where one of them does not hold a JSON
/// value (or, if asked for, an object) on each line that differs. The second
/// value says whether the tolerance covers all.
pub(super) fn difference(
    old: &Path,
    new: &Path,
    tolerance: &Tolerance,
    objects: bool,
) -> Result<Option<(RowsDifference, bool)>, FileError> {
    let mut walk = Walk::new(tolerance);
    let mut first = None;
    let (mut differing, mut bitwise_only) = (0, true);
    let (mut a, mut b) = (Lines::open(old)?, Lines::open(new)?);
    let mut balance = Balance::default();
    let mut rows = (0, 0);
    loop {
        let (left, right) = (a.next()?, b.next()?);
        rows.0 += usize::from(left.is_some());
        rows.1 += usize::from(right.is_some());
        if left == right {
            match left {
                None => break,
                Some(_) => continue,
            }
        }
        balance.note(left.as_deref(), right.as_deref());
        let values = [&left, &right].map(|line| line.as_deref().map(serde_json::from_slice));
        let [x, y] = values.map(|value: Option<serde_json::Result<Value>>| value.transpose());
        let (Ok(x), Ok(y)) = (x, y) else {
            return Ok(None);
        };
        let foreign = |value: &Value| objects && !value.is_object();
        if x.iter().chain(&y).any(foreign) {
            return Ok(None);
        }
        differing += 1;
        let covered = walk.within;
        match (x, y) {
            (Some(x), Some(y)) => walk.values("", &x, &y),
            _ => bitwise_only = false,
        }
        // A row that no tolerance covers is told before one that is covered.
        let worse = covered && !walk.within;
        if (first.is_none() || worse) && left.is_some() && right.is_some() {
            let changes = walk.changes.clone();
            first = Some(FirstRow {
                row: rows.0,
                changes,
            });
        }
        // Only the first row's changes are kept.
        walk.changes.clear();
    }
    let (removed, added) = balance.totals();
    let within = walk.within && bitwise_only && !tolerance.is_bitwise();
    let found = RowsDifference {
        old: rows.0,
        new: rows.1,
        removed,
        added,
        differing,
        first,
        gap: walk.gap,
    };
    Ok(Some((found, within)))
}

/// How many rows came and went between two files of lines, wherever they
/// stand: (rows before, rows now, removed, added).
pub fn rows_between(old: &Path, new: &Path) -> Result<(usize, usize, usize, usize), FileError> {
    let (mut a, mut b) = (Lines::open(old)?, Lines::open(new)?);
    let mut balance = Balance::default();
    let mut rows = (0, 0);
    loop {
        let (left, right) = (a.next()?, b.next()?);
        if left.is_none() && right.is_none() {
            break;
        }
        rows.0 += usize::from(left.is_some());
        rows.1 += usize::from(right.is_some());
        balance.note(left.as_deref(), right.as_deref());
    }
    let (removed, added) = balance.totals();
    Ok((rows.0, rows.1, removed, added))
}

/// How much more often each line stands in the new file than in the old one.
/// Lines are known by a hash: with 64 bits, two of a billion lines are taken
/// for each other once in forty times, and then a count is off by one.
#[derive(Default)]
struct Balance {
    state: RandomState,
    lines: HashMap<u64, i64>,
}

impl Balance {
    fn note(&mut self, old: Option<&[u8]>, new: Option<&[u8]>) {
        if old == new {
            return;
        }
        for (line, step) in [(old, -1), (new, 1)] {
            if let Some(line) = line {
                let count = self.lines.entry(self.state.hash_one(line)).or_default();
                *count += step;
                if *count == 0 {
                    self.lines.remove(&self.state.hash_one(line));
                }
            }
        }
    }

    /// How many rows were removed and added.
    fn totals(&self) -> (usize, usize) {
        let sum = |sign: i64| {
            let of_sign = self.lines.values().map(|count| (count * sign).max(0));
            of_sign.sum::<i64>() as usize
        };
        (sum(-1), sum(1))
    }
}

/// The lines of a file that hold more than white space.
struct Lines<'a> {
    path: &'a Path,
    reader: BufReader<std::fs::File>,
}

impl<'a> Lines<'a> {
    fn open(path: &'a Path) -> Result<Self, FileError> {
        let reader = BufReader::new(files::open(path)?);
        Ok(Lines { path, reader })
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, FileError> {
        self.line().on("read", self.path)
    }

    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        while self.reader.read_until(b'\n', &mut line)? > 0 {
            if !line.trim_ascii().is_empty() {
                line.truncate(line.trim_ascii_end().len());
                return Ok(Some(line));
            }
            line.clear();
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn between(old: &str, new: &str, tolerance: &Tolerance) -> Option<(RowsDifference, bool)> {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&a, old).unwrap();
        std::fs::write(&b, new).unwrap();
        difference(&a, &b, tolerance, false).unwrap()
    }

    fn words(old: &str, new: &str) -> String {
        let found = between(old, new, &Tolerance::default()).unwrap().0;
        found.lines().join("\n")
    }

    #[test]
    fn the_first_differing_row_and_the_counts() {
        let old = "{\"a\":1}\n{\"a\":2,\"b\":\"x\"}\n{\"a\":3}\n";
        let new = "{\"a\":1}\n{\"a\":2.5,\"b\":\"x\"}\n{\"a\":4}\n{\"a\":5}\n";
        insta::assert_snapshot!(words(old, new), @r"
        row 2 /a: 2 → 2.5
        rows 3 → 4, 3 differ in place, 3 added, 2 removed
        numbers: max abs 1.00, max rel 0.250
        ");
        assert_eq!(
            words("1\n2\n", "2\n1\n").lines().nth(1),
            Some("2 rows, the same ones in another order")
        );
        assert_eq!(
            words("{\"a\": 1}\n", "{\"a\":1}\n").lines().next(),
            Some("row 1: the same values in other bytes")
        );
        assert!(between("not json\n", "1\n", &Tolerance::default()).is_none());
    }

    #[test]
    fn a_tolerance_covers_rows_in_place_but_no_other_number_of_rows() {
        let tolerance = Tolerance {
            ignore: vec!["/time".into()],
            ..Tolerance::default()
        };
        let old = "{\"a\":1,\"time\":3}\n";
        assert!(
            between(old, "{\"a\":1,\"time\":4}\n", &tolerance)
                .unwrap()
                .1
        );
        assert!(
            !between(old, "{\"a\":2,\"time\":4}\n", &tolerance)
                .unwrap()
                .1
        );
        let longer = "{\"a\":1,\"time\":4}\n{\"a\":1,\"time\":4}\n";
        assert!(!between(old, longer, &tolerance).unwrap().1);
    }

    proptest! {
        #[test]
        fn rows_that_came_and_went_are_counted(
            old in prop::collection::vec(0..4u8, 0..12),
            new in prop::collection::vec(0..4u8, 0..12),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let write = |name: &str, rows: &[u8]| {
                let path = folder.path().join(name);
                let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
                std::fs::write(&path, text).unwrap();
                path
            };
            let (a, b) = (write("a", &old), write("b", &new));
            let (before, now, removed, added) = rows_between(&a, &b).unwrap();
            prop_assert_eq!((before, now), (old.len(), new.len()));
            let often = |rows: &[u8], row: u8| rows.iter().filter(|r| **r == row).count();
            let gone = (0..4).map(|r| often(&old, r).saturating_sub(often(&new, r))).sum::<usize>();
            let came = (0..4).map(|r| often(&new, r).saturating_sub(often(&old, r))).sum::<usize>();
            prop_assert_eq!((removed, added), (gone, came));
        }
    }
}
