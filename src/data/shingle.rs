//! Shingles: what rows are compared by. Word 5-grams with digits normalised, without those of a template.
//!
//! Rows made by templates share most of their words, so similarity is taken
//! over what tells rows apart: 5-grams that occur in more than a given share of
//! all rows are left out. A row of which nothing would be left is compared with
//! all its 5-grams.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use super::places::Places;
use super::words::{grams, normal_words};
use super::{DataError, Row};

/// Words in a shingle.
pub const WORDS: usize = 5;
/// A shingle is boilerplate only when at least this many rows hold it, or else
/// in a small data set every pair of duplicates would count as boilerplate.
const MIN_BOILERPLATE_ROWS: usize = 16;
/// Counters over which shingles are spread.
const COUNTERS: usize = 1 << 20;

/// The shingles of a row: sorted, distinct 64-bit hashes.
pub type Shingles = Vec<u64>;

/// What of a row is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum View {
    /// All its messages, or its text.
    Row,
    /// What comes before the answer; of plain text all of it.
    Prompt,
    /// The answer; of plain text all of it.
    Answer,
}

impl View {
    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            View::Row => "row",
            View::Prompt => "prompt",
            View::Answer => "answer",
        }
    }

    /// The texts that it shows of a row.
    pub fn texts(self, row: &Row) -> Vec<&str> {
        let prompt = || row.prompt().iter().map(|message| message.content.as_str());
        match self {
            View::Prompt if !row.prompt().is_empty() => prompt().collect(),
            View::Answer if row.answer().is_some() => row.answer().into_iter().collect(),
            _ => row.texts().collect(),
        }
    }
}

/// The word 5-grams of a row, digits normalised; a shorter row is one shingle.
pub fn shingles(row: &Row, view: View) -> Shingles {
    let texts = view.texts(row);
    let words: Vec<u64> = texts.into_iter().flat_map(normal_words).collect();
    let mut all = match words.len() {
        n if n >= WORDS => grams(&words, WORDS),
        0 => vec![0],
        n => grams(&words, n),
    };
    all.sort_unstable();
    all.dedup();
    all
}

/// Jaccard similarity of two sorted sets.
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                both += 1;
                i += 1;
                j += 1;
            }
        }
    }
    let union = a.len() + b.len() - both;
    if union == 0 {
        1.0
    } else {
        both as f64 / union as f64
    }
}

/// How often shingles occur, and which of them are a template's.
pub struct Frequencies {
    view: View,
    /// Each shingle adds to one of these; several may share one.
    counters: Vec<u32>,
    /// Shingles of more rows than the limit.
    common: HashSet<u64>,
}

impl Frequencies {
    /// Counts the shingles of all rows; `boilerplate` is the share of rows, 0
    /// to 1, above which a shingle is a template's (with 1 none is).
    ///
    /// The memory does not grow with the rows: shared counters say which
    /// shingles could be over the limit, and only those are counted exactly.
    pub fn of(places: &Places, view: View, boilerplate: f64) -> Result<Self, DataError> {
        let counters: Vec<AtomicU32> = (0..COUNTERS).map(|_| AtomicU32::new(0)).collect();
        let add = |_, row: Row| {
            for shingle in shingles(&row, view) {
                counters[at(shingle)].fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        places.each(add, |()| Ok(()))?;
        let mut frequencies = Frequencies {
            view,
            counters: counters.into_iter().map(AtomicU32::into_inner).collect(),
            common: HashSet::new(),
        };
        let limit = ((places.len() as f64 * boilerplate) as usize).max(MIN_BOILERPLATE_ROWS);
        let limit = if boilerplate < 1.0 { limit } else { usize::MAX };
        if frequencies.counters.iter().any(|&n| n as usize > limit) {
            frequencies.common = frequencies.over(places, limit)?;
        }
        Ok(frequencies)
    }

    /// The shingles that more than `limit` rows hold.
    fn over(&self, places: &Places, limit: usize) -> Result<HashSet<u64>, DataError> {
        let mut counts: HashMap<u64, usize> = HashMap::new();
        let possible = |_, row: Row| {
            let mut all = shingles(&row, self.view);
            all.retain(|&shingle| self.rarity(shingle) as usize > limit);
            Ok(all)
        };
        places.each(possible, |all| {
            for shingle in all {
                *counts.entry(shingle).or_default() += 1;
            }
            Ok(())
        })?;
        let over = counts.into_iter().filter(|(_, n)| *n > limit);
        Ok(over.map(|(shingle, _)| shingle).collect())
    }

    /// The shingles that tell a row apart.
    pub fn distinctive(&self, row: &Row) -> Shingles {
        let all = shingles(row, self.view);
        if self.common.is_empty() {
            return all;
        }
        let mut own = all.clone();
        own.retain(|shingle| !self.common.contains(shingle));
        if own.is_empty() { all } else { own }
    }

    /// At least the number of rows that hold a shingle.
    pub fn rarity(&self, shingle: u64) -> u32 {
        self.counters[at(shingle)]
    }
}

fn at(shingle: u64) -> usize {
    shingle as usize % COUNTERS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Content;
    use crate::data::near::tests::listed;

    fn row(text: &str) -> Row {
        Row::new(Content::Text(text.into()), Default::default(), "t:1")
    }

    #[test]
    fn digits_and_case_do_not_tell_rows_apart() {
        let a = shingles(&row("The file app.kt line 12 holds a secret"), View::Row);
        let b = shingles(&row("the file app.kt line 9981 holds a secret"), View::Row);
        assert_eq!(a, b);
        assert_eq!(shingles(&row("x1y22"), View::Row).len(), 1);
        assert_eq!(shingles(&row(""), View::Row).len(), 1);
    }

    #[test]
    fn boilerplate_is_left_out_of_large_sets_only() {
        let text = |i: usize| {
            let own: String = (0..8)
                .map(|w| format!("word{}{} ", (b'a' + w) as char, "z".repeat(i)))
                .collect();
            row(&format!(
                "please look at this finding and say what to do {own}"
            ))
        };
        let similar = |count: usize| {
            let rows: Vec<Row> = (0..count).map(text).collect();
            let (_folder, places) = listed(&[&rows]);
            let frequencies = Frequencies::of(&places, View::Row, 0.1).unwrap();
            let sets: Vec<Shingles> = rows
                .iter()
                .map(|row| frequencies.distinctive(row))
                .collect();
            jaccard(&sets[0], &sets[1])
        };
        assert!(similar(4) > 0.2);
        assert_eq!(similar(60), 0.0);
    }
}
