//! How two versions of a data set differ: rows that came, went and changed, and what that shifts.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::jsonl::Sorted;
use super::key::prompt_digest;
use super::page::{Cell, Excerpt, Page};
use super::places::Places;
use super::stats::Distribution;
use super::{DataError, Row};
use crate::hash::Digest;

/// Characters of a row that is shown.
const START: usize = 300;

/// What is compared.
#[derive(Debug, Clone)]
pub struct DiffOptions {
    /// Metadata fields whose values are counted on both sides.
    pub by: Vec<String>,
    /// How many rows of each sort are shown.
    pub examples: usize,
}

/// A row on one or both sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiffRow {
    /// Its origin before; absent for an added row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Its origin now; absent for a removed row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
    /// Its text, or what differs of it, before and now.
    pub parts: Vec<(String, Excerpt)>,
}

/// How the values of a field are distributed on both sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shift {
    /// Rows by value, before and now.
    pub values: BTreeMap<String, (u64, u64)>,
    /// Half of the sum of the differences of shares: 0 when they are the same,
    /// 1 when nothing is common (total variation distance).
    pub distance: f64,
}

/// How two data sets differ. `diff.json` is this record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DataDiff {
    /// Version of this file's format.
    pub format: u32,
    /// Rows before and now.
    pub rows: (u64, u64),
    /// Rows whose content is on both sides.
    pub kept: u64,
    /// Of these, rows with other metadata or from elsewhere.
    pub other_metadata: u64,
    /// Rows with other content whose origin or prompt stayed.
    pub changed: u64,
    /// Rows that came.
    pub added: u64,
    /// Rows that went.
    pub removed: u64,
    /// Characters of a row, before and now.
    pub characters: (Option<Distribution>, Option<Distribution>),
    /// The fields that were counted.
    pub by: BTreeMap<String, Shift>,
    /// The first of each sort: `changed`, `added`, `removed`, `other_metadata`.
    pub examples: BTreeMap<String, Vec<DiffRow>>,
}

/// What is known of a row: 64 bits of digests.
struct Fact {
    id: u64,
    origin: u64,
    prompt: u64,
    meta: u64,
    characters: u64,
    by: Vec<Option<String>>,
}

impl Fact {
    fn of(row: &Row, by: &[String]) -> Result<Self, DataError> {
        let short = |text: &str| Digest::of(text.as_bytes()).prefix();
        let meta: BTreeMap<&str, Sorted<'_>> = row
            .meta
            .iter()
            .map(|(name, value)| (name.as_str(), Sorted(value)))
            .collect();
        let meta = serde_json::to_string(&meta).map_err(|e| DataError::Invalid(e.to_string()))?;
        Ok(Fact {
            id: row.id.0.prefix(),
            origin: short(&row.origin),
            prompt: prompt_digest(row).prefix(),
            meta: short(&format!("{}\n{meta}", row.origin)),
            characters: row.texts().map(|text| text.chars().count() as u64).sum(),
            by: by.iter().map(|field| row.meta_text(field)).collect(),
        })
    }
}

/// One side.
struct Side {
    places: Places,
    facts: Vec<(u64, u64, u64, u64)>,
    characters: BTreeMap<u64, u64>,
    by: Vec<BTreeMap<String, u64>>,
}

impl Side {
    fn read(path: &Path, by: &[String]) -> Result<Self, DataError> {
        let (mut facts, mut characters) = (Vec::new(), BTreeMap::new());
        let mut counts = vec![BTreeMap::new(); by.len()];
        let work = |_, row: Row| Fact::of(&row, by);
        let places = Places::read(&[path], work, |fact: Fact| {
            facts.push((fact.id, fact.origin, fact.prompt, fact.meta));
            *characters.entry(fact.characters).or_default() += 1;
            for (counts, value) in counts.iter_mut().zip(fact.by) {
                if let Some(value) = value {
                    *counts.entry(value).or_default() += 1;
                }
            }
            Ok(())
        })?;
        Ok(Side {
            places,
            facts,
            characters,
            by: counts,
        })
    }
}

/// Pairs of rows with the same number, each row once, in order; what has no
/// partner stays in the lists.
fn pair(
    old: &mut Vec<usize>,
    new: &mut Vec<usize>,
    key: impl Fn(bool, usize) -> u64,
) -> Vec<(usize, usize)> {
    let mut waiting: HashMap<u64, Vec<usize>> = HashMap::new();
    for &row in old.iter().rev() {
        waiting.entry(key(true, row)).or_default().push(row);
    }
    let mut pairs = Vec::new();
    new.retain(
        |&row| match waiting.get_mut(&key(false, row)).and_then(Vec::pop) {
            Some(other) => {
                pairs.push((other, row));
                false
            }
            None => true,
        },
    );
    let mut left: Vec<usize> = waiting.into_values().flatten().collect();
    left.sort_unstable();
    *old = left;
    pairs
}

/// Compares two files of rows.
pub fn diff(before: &Path, now: &Path, options: &DiffOptions) -> Result<DataDiff, DataError> {
    let (a, b) = (
        Side::read(before, &options.by)?,
        Side::read(now, &options.by)?,
    );
    let mut old: Vec<usize> = (0..a.facts.len()).collect();
    let mut new: Vec<usize> = (0..b.facts.len()).collect();
    // Copies of a row are paired with those that are the same in all first.
    let whole = |fact: &(u64, u64, u64, u64)| fact.0 ^ fact.3.rotate_left(1);
    let side = |is_old: bool, row: usize| if is_old { &a.facts[row] } else { &b.facts[row] };
    let same = pair(&mut old, &mut new, |is_old, row| whole(side(is_old, row)));
    let moved = pair(&mut old, &mut new, |is_old, row| side(is_old, row).0);
    let mut changed = pair(&mut old, &mut new, |is_old, row| side(is_old, row).1);
    changed.extend(pair(&mut old, &mut new, |is_old, row| side(is_old, row).2));
    changed.sort_by_key(|(_, now)| *now);
    let mut examples = BTreeMap::new();
    let some = options.examples;
    examples.insert(
        "changed".to_owned(),
        shown(&a, &b, changed.iter().take(some), false)?,
    );
    examples.insert(
        "other_metadata".to_owned(),
        shown(&a, &b, moved.iter().take(some), true)?,
    );
    let alone = |side: &Side, rows: &[usize], is_old: bool| -> Result<Vec<DiffRow>, DataError> {
        rows.iter()
            .take(some)
            .map(|&row| one(&side.places.row(row)?, is_old))
            .collect()
    };
    examples.insert("removed".to_owned(), alone(&a, &old, true)?);
    examples.insert("added".to_owned(), alone(&b, &new, false)?);
    examples.retain(|_, rows| !rows.is_empty());
    let counts = options.by.iter().cloned().zip(a.by.iter().zip(&b.by));
    Ok(DataDiff {
        format: 1,
        rows: (a.facts.len() as u64, b.facts.len() as u64),
        kept: (same.len() + moved.len()) as u64,
        other_metadata: moved.len() as u64,
        changed: changed.len() as u64,
        added: new.len() as u64,
        removed: old.len() as u64,
        characters: (
            Distribution::of(&a.characters),
            Distribution::of(&b.characters),
        ),
        by: counts
            .filter(|(_, (old, new))| !(old.is_empty() && new.is_empty()))
            .map(|(field, (old, new))| (field, Shift::of(old, new)))
            .collect(),
        examples,
    })
}

impl Shift {
    fn of(old: &BTreeMap<String, u64>, new: &BTreeMap<String, u64>) -> Self {
        let mut values: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (name, n) in old {
            values.entry(name.clone()).or_default().0 = *n;
        }
        for (name, n) in new {
            values.entry(name.clone()).or_default().1 = *n;
        }
        let total = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>().max(1) as f64;
        let (all_old, all_new) = (total(old), total(new));
        let apart = values
            .values()
            .map(|(a, b)| (*a as f64 / all_old - *b as f64 / all_new).abs());
        Shift {
            distance: apart.sum::<f64>() / 2.0,
            values,
        }
    }
}

fn joined(row: &Row) -> String {
    row.texts().collect::<Vec<_>>().join("\n")
}

fn one(row: &Row, is_old: bool) -> Result<DiffRow, DataError> {
    let origin = Some(row.origin.clone());
    Ok(DiffRow {
        before: origin.clone().filter(|_| is_old),
        now: origin.filter(|_| !is_old),
        parts: vec![("row".to_owned(), Excerpt::start(&joined(row), START))],
    })
}

/// Pairs of rows, with what differs in text or metadata.
fn shown<'a>(
    a: &Side,
    b: &Side,
    pairs: impl Iterator<Item = &'a (usize, usize)>,
    metadata: bool,
) -> Result<Vec<DiffRow>, DataError> {
    let mut all = Vec::new();
    for (old, new) in pairs {
        let (old, new) = (a.places.row(*old)?, b.places.row(*new)?);
        let meta = |row: &Row| {
            let values = row.meta.keys();
            let values =
                values.map(|name| format!("{name} = {}", row.meta_text(name).unwrap_or_default()));
            values.collect::<Vec<_>>().join("\n")
        };
        let (x, y) = match metadata {
            true => (meta(&old), meta(&new)),
            false => (joined(&old), joined(&new)),
        };
        let (left, right) = apart(&x, &y);
        let mark = |text: &str, range| Excerpt::around(text, std::slice::from_ref(&range), 80);
        all.push(DiffRow {
            parts: vec![
                ("before".to_owned(), mark(&x, left)),
                ("now".to_owned(), mark(&y, right)),
            ],
            before: Some(old.origin),
            now: Some(new.origin),
        });
    }
    Ok(all)
}

/// What is left of two texts without what they begin and end with alike.
fn apart(a: &str, b: &str) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
    let same = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let start = a.floor_char_boundary(same).min(b.floor_char_boundary(same));
    let behind = a[start..].bytes().rev().zip(b[start..].bytes().rev());
    let same = behind.take_while(|(x, y)| x == y).count();
    let end = |text: &str| text.ceil_char_boundary(text.len() - same);
    (start..end(a), start..end(b))
}

impl DataDiff {
    /// What changed, in a few sentences.
    pub fn sentences(&self) -> Vec<String> {
        let mut all = vec![format!(
            "rows {} → {}: {} added, {} removed, {} changed, {} with other metadata",
            self.rows.0, self.rows.1, self.added, self.removed, self.changed, self.other_metadata
        )];
        if let (Some(before), Some(now)) = &self.characters
            && before != now
        {
            all.push(format!(
                "characters of a row: mean {:.1} → {:.1}, median {} → {}",
                before.mean, now.mean, before.p50, now.p50
            ));
        }
        for (field, shift) in self.by.iter().filter(|(_, shift)| shift.distance > 0.0) {
            all.push(format!(
                "{field}: {:.1} % of the shares moved",
                shift.distance * 100.0
            ));
        }
        all
    }

    /// The page.
    pub fn html(&self) -> String {
        let mut page = Page::new("What changed in the data", None);
        let count = |name: &str, n: u64| vec![Cell::text(name), Cell::Count(n)];
        page.table(
            &["", "rows"],
            &[
                count("before", self.rows.0),
                count("now", self.rows.1),
                count("in both", self.kept),
                count("in both, with other metadata", self.other_metadata),
                count("changed", self.changed),
                count("added", self.added),
                count("removed", self.removed),
            ],
        );
        let side = |name: &str, lengths: &Option<Distribution>| match lengths {
            Some(l) => vec![
                Cell::text(name),
                Cell::text(format!("{:.1}", l.mean)),
                Cell::Count(l.p50),
                Cell::Count(l.p95),
                Cell::Count(l.max),
            ],
            None => vec![Cell::text(name), Cell::Missing],
        };
        page.heading("Characters of a row", None);
        page.table(
            &["", "mean", "median", "95 %", "most"],
            &[
                side("before", &self.characters.0),
                side("now", &self.characters.1),
            ],
        );
        for (field, shift) in &self.by {
            page.heading(
                &format!(
                    "By {field}: {:.1} % of the shares moved",
                    shift.distance * 100.0
                ),
                None,
            );
            let lines: Vec<Vec<Cell>> = shift
                .values
                .iter()
                .map(|(name, (a, b))| vec![Cell::code(name), Cell::Count(*a), Cell::Count(*b)])
                .collect();
            page.table(&["", "before", "now"], &lines);
        }
        for (sort, rows) in &self.examples {
            page.heading(&sort.replace('_', " "), None);
            for row in rows {
                let origin = row
                    .now
                    .as_ref()
                    .or(row.before.as_ref())
                    .map_or("", String::as_str);
                let note = match (&row.before, &row.now) {
                    (Some(before), Some(now)) if before != now => format!("before: {before}"),
                    _ => String::new(),
                };
                let parts: Vec<(&str, Excerpt)> = row
                    .parts
                    .iter()
                    .map(|(name, e)| (name.as_str(), e.clone()))
                    .collect();
                page.row(origin, &note, &parts);
            }
        }
        page.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Content, Message, Role, write_rows};
    use proptest::prelude::*;

    fn chat(prompt: &str, answer: &str, tool: &str, origin: &str) -> Row {
        let turns = vec![
            Message::new(Role::User, prompt),
            Message::new(Role::Assistant, answer),
        ];
        Row::new(
            Content::Messages(turns),
            [("tool".to_owned(), tool.into())].into(),
            origin,
        )
    }

    fn run(old: &[Row], new: &[Row]) -> DataDiff {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        write_rows(&a, old).unwrap();
        write_rows(&b, new).unwrap();
        let options = DiffOptions {
            by: vec!["tool".into()],
            examples: 5,
        };
        diff(&a, &b, &options).unwrap()
    }

    #[test]
    fn rows_are_followed_by_content_origin_and_prompt() {
        let old = [
            chat("p1", "a1", "x", "f:1"),
            chat("p2", "a2", "x", "f:2"),
            chat("p3", "a3", "x", "f:3"),
            chat("p4", "a4", "x", "f:4"),
            chat("p5", "a5", "x", "f:5"),
        ];
        let new = [
            chat("p1", "a1", "x", "f:1"),
            chat("p2", "a2", "y", "f:2"),
            chat("other", "thing", "x", "f:3"),
            chat("p4", "better", "x", "g:9"),
            chat("p6", "a6", "y", "g:1"),
        ];
        let found = run(&old, &new);
        assert_eq!(
            (
                found.kept,
                found.other_metadata,
                found.changed,
                found.added,
                found.removed
            ),
            (2, 1, 2, 1, 1)
        );
        let changed = &found.examples["changed"];
        assert_eq!(
            (changed[1].before.as_deref(), changed[1].now.as_deref()),
            (Some("f:4"), Some("g:9"))
        );
        assert_eq!(changed[1].parts[1].1.plain(), "p4\nbetter");
        assert!(
            changed[1].parts[1]
                .1
                .pieces()
                .iter()
                .any(|piece| piece.marked && piece.text == "better")
        );
        assert!((found.by["tool"].distance - 0.4).abs() < 1e-12);
        let page = found.html();
        assert!(
            page.contains("40.0 % of the shares moved") && page.contains("f:5"),
            "{page}"
        );
    }

    proptest! {
        #[test]
        fn all_rows_are_accounted_for(a in prop::collection::vec((0u8..6, 0u8..3, 0u8..9), 0..20), b in prop::collection::vec((0u8..6, 0u8..3, 0u8..9), 0..20)) {
            let rows = |all: &[(u8, u8, u8)]| all.iter().map(|(p, t, o)| chat(&format!("p{}", p / 2), &format!("a{p}"), &format!("t{t}"), &format!("f:{o}"))).collect::<Vec<_>>();
            let (a, b) = (rows(&a), rows(&b));
            let found = run(&a, &b);
            prop_assert_eq!(found.kept + found.changed + found.removed, a.len() as u64);
            prop_assert_eq!(found.kept + found.changed + found.added, b.len() as u64);
            let same = run(&a, &a);
            prop_assert_eq!((same.kept, same.other_metadata), (a.len() as u64, 0));
        }
    }
}
