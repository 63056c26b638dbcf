//! The proof of a split: exact, near and group leaks between each pair of splits, counted without the code that made it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::near::{distinctive, jaccard};
use super::split::{SPLITS, SplitOptions, prompt_digest};
use super::{DataError, Row};

/// How many leaks of a pair are listed; all are counted.
const LISTED: usize = 20;

/// What a pair of splits shares. `leaks.json` is a list of these.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairReport {
    /// The one split.
    pub left: String,
    /// The other.
    pub right: String,
    /// Rows of `right` whose content or prompt is also a row's of `left`.
    pub exact: u64,
    /// Rows of `right` that are nearly a row of `left`.
    pub near: u64,
    /// Values of group fields that both hold.
    pub group: u64,
    /// Distinct answers that both hold. No leak by itself: rows of one rule
    /// may well be answered alike. It says how far the right split can be
    /// answered by heart.
    pub shared_answers: u64,
    /// The highest similarity of a row of `right` to a row of `left`, 0 to 1.
    pub highest_similarity: f64,
    /// The first leaks, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leaks: Vec<String>,
}

/// The report on a split. `leaks.json` is this record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeakReport {
    /// Version of this file's format.
    pub format: u32,
    /// Seed of the assignment.
    pub seed: u64,
    /// The fields rows were kept together by.
    pub group: Vec<String>,
    /// From this similarity on rows were kept together.
    pub near: f64,
    /// 5-grams in more than this share of the rows did not count.
    pub boilerplate: f64,
    /// Rows by split.
    pub rows: BTreeMap<String, u64>,
    /// Units of rows that belong together; absent when only the leaks were looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units: Option<u64>,
    /// Each pair of splits.
    pub pairs: Vec<PairReport>,
}

impl LeakReport {
    /// All leaks of all pairs.
    pub fn leaks(&self) -> u64 {
        self.pairs
            .iter()
            .map(|pair| pair.exact + pair.near + pair.group)
            .sum()
    }

    /// Fails when anything leaks, naming the first rows.
    pub fn check(&self) -> Result<(), DataError> {
        let listed: Vec<&str> = self
            .pairs
            .iter()
            .flat_map(|p| &p.leaks)
            .map(String::as_str)
            .collect();
        if listed.is_empty() {
            return Ok(());
        }
        Err(DataError::Invalid(format!(
            "the splits leak in {} places:\n{}",
            self.leaks(),
            listed.join("\n")
        )))
    }
}

/// Looks for leaks between splits (train, validation, test). Every pair of rows
/// that shares a distinctive 5-gram is compared, by an inverted index: no
/// sketch, nothing is missed.
pub fn find_leaks(splits: &[&[Row]; 3], options: &SplitOptions) -> LeakReport {
    let all: Vec<Row> = splits
        .iter()
        .flat_map(|rows| rows.iter().cloned())
        .collect();
    let sets = distinctive(&all, options.boilerplate);
    let mut start = 0;
    let mut parts = Vec::new();
    for rows in splits {
        parts.push((*rows, &sets[start..start + rows.len()]));
        start += rows.len();
    }
    let mut pairs = Vec::new();
    for left in 0..3 {
        for right in left + 1..3 {
            let names = (SPLITS[left], SPLITS[right]);
            pairs.push(compare(names, parts[left], parts[right], options));
        }
    }
    LeakReport {
        format: 1,
        seed: options.seed,
        group: options.group.clone(),
        near: options.near,
        boilerplate: options.boilerplate,
        rows: SPLITS
            .iter()
            .zip(splits)
            .map(|(name, rows)| ((*name).to_owned(), rows.len() as u64))
            .collect(),
        units: None,
        pairs,
    }
}

type Part<'a> = (&'a [Row], &'a [Vec<u64>]);

fn compare(
    names: (&str, &str),
    left: Part<'_>,
    right: Part<'_>,
    options: &SplitOptions,
) -> PairReport {
    let mut report = PairReport {
        left: names.0.to_owned(),
        right: names.1.to_owned(),
        exact: 0,
        near: 0,
        group: 0,
        shared_answers: 0,
        highest_similarity: 0.0,
        leaks: Vec::new(),
    };
    let name = |row: &Row| format!("{} ({})", row.id.0.short(), row.origin);
    let ids: BTreeSet<_> = left.0.iter().map(|row| row.id).collect();
    let prompts: BTreeMap<_, _> = left.0.iter().map(|row| (prompt_digest(row), row)).collect();
    let mut index: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (i, set) in left.1.iter().enumerate() {
        for shingle in set {
            index.entry(*shingle).or_default().push(i);
        }
    }
    for (row, set) in right.0.iter().zip(right.1) {
        let same = prompts.get(&prompt_digest(row));
        if let Some(other) = same {
            report.exact += 1;
            let what = if ids.contains(&row.id) {
                "the row"
            } else {
                "the prompt"
            };
            let (left, right) = (name(other), name(row));
            report.leaks.push(format!(
                "{what} of {} {right} also stands in {} as {left}",
                names.1, names.0
            ));
        }
        let Some((other, similarity)) = nearest(set, &index, left.1) else {
            continue;
        };
        report.highest_similarity = report.highest_similarity.max(similarity);
        if similarity >= options.near && same.is_none() {
            report.near += 1;
            let (left, right) = (name(&left.0[other]), name(row));
            report.leaks.push(format!(
                "{right} of {} is {similarity:.2} similar to {left} of {}",
                names.1, names.0
            ));
        }
    }
    shared_groups(&mut report, left.0, right.0, options);
    let answers = |rows: &[Row]| {
        rows.iter()
            .filter_map(|r| r.answer().map(str::to_owned))
            .collect::<BTreeSet<_>>()
    };
    report.shared_answers = answers(left.0).intersection(&answers(right.0)).count() as u64;
    report.leaks.truncate(LISTED);
    report
}

/// The most similar set that shares a shingle, and how similar it is.
fn nearest(
    set: &[u64],
    index: &BTreeMap<u64, Vec<usize>>,
    sets: &[Vec<u64>],
) -> Option<(usize, f64)> {
    let meeting: BTreeSet<usize> = set
        .iter()
        .filter_map(|s| index.get(s))
        .flatten()
        .copied()
        .collect();
    meeting
        .into_iter()
        .map(|i| (i, jaccard(set, &sets[i])))
        .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))
}

fn shared_groups(report: &mut PairReport, left: &[Row], right: &[Row], options: &SplitOptions) {
    for field in &options.group {
        let values = |rows: &[Row]| {
            rows.iter()
                .filter_map(|row| row.meta_text(field))
                .collect::<BTreeSet<_>>()
        };
        for value in values(left).intersection(&values(right)) {
            report.group += 1;
            let (a, b) = (&report.left, &report.right);
            report
                .leaks
                .push(format!("{field} '{value}' stands in {a} and in {b}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Content, Message, Role};

    fn row(prompt: &str, answer: &str, file: &str) -> Row {
        let messages = vec![
            Message::new(Role::User, prompt),
            Message::new(Role::Assistant, answer),
        ];
        let meta = BTreeMap::from([("file".to_owned(), file.into())]);
        Row::new(Content::Messages(messages), meta, "x:1")
    }

    #[test]
    fn planted_leaks_are_all_found() {
        let options = SplitOptions {
            seed: 0,
            validation: 0.1,
            test: 0.1,
            group: vec!["file".into()],
            near: 0.8,
            boilerplate: 0.1,
            stratify: None,
        };
        let long =
            "one two three four five six seven eight nine ten eleven twelve at line 3 of main";
        let train = [
            row("same row", "a", "f1"),
            row("same prompt", "a", "f2"),
            row(long, "the end", "f3"),
        ];
        let validation = [
            row("nothing in common here at all", "b", "f4"),
            row("quite another", "c", "f3"),
        ];
        let test = [
            row("same row", "a", "f5"),
            row("same prompt", "other", "f6"),
            row(&long.replace("line 3", "line 77"), "the end", "f7"),
        ];
        let report = find_leaks(&[&train, &validation, &test], &options);
        let [to_validation, to_test, between] = report.pairs.as_slice() else {
            panic!("three pairs");
        };
        assert_eq!(
            (to_validation.exact, to_validation.near, to_validation.group),
            (0, 0, 1)
        );
        assert_eq!((to_test.exact, to_test.near, to_test.group), (2, 1, 0));
        assert_eq!(to_test.shared_answers, 2);
        assert_eq!(to_test.highest_similarity, 1.0);
        assert_eq!((between.exact, between.near, between.group), (0, 0, 0));
        assert_eq!(report.leaks(), 4);
        let error = report.check().unwrap_err().to_string();
        for part in [
            "leak in 4 places",
            "file 'f3' stands in train and in validation",
            "the prompt of test",
            "1.00 similar",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
}
