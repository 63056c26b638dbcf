//! The proof of a split: exact, near and group leaks between each pair of splits, counted from the written files without the code that made them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::key::{GroupKey, prompt_digest};
use super::nearest::{Nearest, nearest};
use super::page::{Cell, Page, Verdict};
use super::places::Places;
use super::shingle::{Frequencies, View};
use super::split::{SPLITS, SplitOptions};
use super::{DataError, Row};
use crate::hash::Digest;

/// How many leaks of a pair are listed; all are counted.
const LISTED: usize = 20;
/// From this similarity on rows are compared, though only those from the
/// split's own limit on are leaks.
pub const SIMILAR: f64 = 0.5;

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
    /// The highest similarity of a row of `right` to a row of `left`, 0 to 1;
    /// absent when none is at least 0.5 similar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub highest_similarity: Option<f64>,
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
    /// What the test split holds, to be frozen in the pipeline file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_digest: Option<Digest>,
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

/// Looks for leaks between the files of splits (train, validation, test). A row
/// is compared with every row that could be as similar as that: no sketch,
/// nothing is missed.
pub fn find_leaks(splits: [&Path; 3], options: &SplitOptions) -> Result<LeakReport, DataError> {
    let groups = GroupKey::all(&options.group, "group")?;
    let mut parts: [Facts; 3] = Default::default();
    let mut places = Places::default();
    for (split, (path, part)) in splits.iter().zip(&mut parts).enumerate() {
        let work = |_, row: Row| Fact::of(&row, &groups);
        // Rows of train are only looked for, never looked up.
        places.add(path, work, |fact| {
            part.add(fact, split > 0);
            Ok(())
        })?;
        part.sort();
    }
    let bounds = places.bounds();
    let frequencies = Frequencies::of(&places, View::Row, options.boilerplate)?;
    let mut pairs = Vec::new();
    for left in 0..3 {
        // The files behind it are compared with it in one pass.
        let floor = SIMILAR.min(options.near);
        let near = nearest(&places, &frequencies, left..left + 1, left + 1..3, floor)?;
        for right in left + 1..3 {
            let from = bounds[left + 1];
            let near = &near[bounds[right] - from..bounds[right + 1] - from];
            let pair = Pair {
                splits: (left, right),
                places: &places,
                left: &parts[left],
                right: &parts[right],
                first: bounds[right],
                options,
                groups: &groups,
            };
            pairs.push(pair.report(near)?);
        }
    }
    let rows = SPLITS.iter().enumerate();
    Ok(LeakReport {
        format: 1,
        seed: options.seed,
        group: options.group.clone(),
        near: options.near,
        boilerplate: options.boilerplate,
        rows: rows
            .map(|(i, name)| ((*name).to_owned(), (bounds[i + 1] - bounds[i]) as u64))
            .collect(),
        units: None,
        test_digest: None,
        pairs,
    })
}

/// What is compared of a row beside its words: 64 bits of digests.
struct Fact {
    id: u64,
    prompt: u64,
    answer: Option<u64>,
    /// One for each group.
    groups: Vec<Option<u64>>,
}

fn short(text: &str) -> u64 {
    Digest::of(text.as_bytes()).prefix()
}

impl Fact {
    fn of(row: &Row, groups: &[GroupKey]) -> Result<Self, DataError> {
        let group = |key: &GroupKey| Ok(key.get(row)?.map(|value| short(&value)));
        Ok(Fact {
            id: row.id.0.prefix(),
            prompt: prompt_digest(row).prefix(),
            answer: row.answer().map(short),
            groups: groups.iter().map(group).collect::<Result<_, DataError>>()?,
        })
    }
}

/// The facts of one split, sorted, each once.
#[derive(Default)]
struct Facts {
    ids: Vec<u64>,
    prompts: Vec<u64>,
    answers: Vec<u64>,
    groups: Vec<Vec<u64>>,
    /// Id and prompt of each row, in the order of the file.
    rows: Vec<(u64, u64)>,
}

impl Facts {
    fn add(&mut self, fact: Fact, row: bool) {
        self.ids.push(fact.id);
        self.prompts.push(fact.prompt);
        self.answers.extend(fact.answer);
        if row {
            self.rows.push((fact.id, fact.prompt));
        }
        self.groups.resize_with(fact.groups.len(), Vec::new);
        for (groups, group) in self.groups.iter_mut().zip(fact.groups) {
            groups.extend(group);
        }
    }

    fn sort(&mut self) {
        let lists = [&mut self.ids, &mut self.prompts, &mut self.answers];
        for list in lists.into_iter().chain(&mut self.groups) {
            list.par_sort_unstable();
            list.dedup();
        }
    }
}

/// What both of two sorted lists hold.
fn common<'a>(left: &'a [u64], right: &'a [u64]) -> impl Iterator<Item = u64> + 'a {
    let (small, large) = if left.len() < right.len() {
        (left, right)
    } else {
        (right, left)
    };
    small
        .iter()
        .copied()
        .filter(|value| large.binary_search(value).is_ok())
}

/// Two splits that are compared.
struct Pair<'a> {
    /// Their places among [`SPLITS`].
    splits: (usize, usize),
    places: &'a Places,
    left: &'a Facts,
    right: &'a Facts,
    /// The number of the first row of the right one.
    first: usize,
    options: &'a SplitOptions,
    groups: &'a [GroupKey],
}

impl Pair<'_> {
    fn report(&self, near: &[Option<Nearest>]) -> Result<PairReport, DataError> {
        let (left, right) = self.names();
        let mut report = PairReport {
            left: left.to_owned(),
            right: right.to_owned(),
            exact: 0,
            near: 0,
            group: 0,
            shared_answers: common(&self.left.answers, &self.right.answers).count() as u64,
            highest_similarity: None,
            leaks: Vec::new(),
        };
        let mut same: Vec<(usize, u64, bool)> = Vec::new();
        for (at, ((id, prompt), near)) in self.right.rows.iter().zip(near).enumerate() {
            let known = self.left.prompts.binary_search(prompt).is_ok();
            if known {
                report.exact += 1;
                if same.len() < LISTED {
                    let whole = self.left.ids.binary_search(id).is_ok();
                    same.push((self.first + at, *prompt, whole));
                }
            }
            let Some(near) = near else {
                continue;
            };
            let highest = report.highest_similarity.unwrap_or(0.0);
            report.highest_similarity = Some(highest.max(near.similarity));
            if near.similarity >= self.options.near && !known {
                report.near += 1;
                if report.leaks.len() < LISTED {
                    report.leaks.push(self.near(self.first + at, near)?);
                }
            }
        }
        let mut leaks = self.same(&same)?;
        leaks.append(&mut report.leaks);
        report.leaks = leaks;
        self.shared_groups(&mut report)?;
        report.leaks.truncate(LISTED);
        Ok(report)
    }

    fn names(&self) -> (&'static str, &'static str) {
        (SPLITS[self.splits.0], SPLITS[self.splits.1])
    }

    /// The first row of the left split for which `key` gives each of some
    /// numbers: looked for only once something leaks.
    fn first_rows(
        &self,
        wanted: &[u64],
        key: impl Fn(&Row) -> Result<Option<u64>, DataError> + Sync,
    ) -> Result<HashMap<u64, usize>, DataError> {
        let mut found = HashMap::new();
        if wanted.is_empty() {
            return Ok(found);
        }
        let left = self.splits.0;
        let work = |number, row: Row| Ok((number, key(&row)?));
        self.places.each_of(left..left + 1, work, |(number, key)| {
            if let Some(key) = key.filter(|key| wanted.contains(key)) {
                found.entry(key).or_insert(number);
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn same(&self, rows: &[(usize, u64, bool)]) -> Result<Vec<String>, DataError> {
        let wanted: Vec<u64> = rows.iter().map(|(_, prompt, _)| *prompt).collect();
        let others = self.first_rows(&wanted, |row| Ok(Some(prompt_digest(row).prefix())))?;
        let (left, right) = self.names();
        let mut told = Vec::new();
        for (row, prompt, whole) in rows {
            let what = if *whole { "the row" } else { "the prompt" };
            let other = others
                .get(prompt)
                .map_or(Ok(String::new()), |other| self.name(*other))?;
            told.push(format!(
                "{what} of {right} {} also stands in {left} as {other}",
                self.name(*row)?
            ));
        }
        Ok(told)
    }

    fn name(&self, number: usize) -> Result<String, DataError> {
        let row = self.places.row(number)?;
        Ok(format!("{} ({})", row.id.0.short(), row.origin))
    }

    fn near(&self, row: usize, near: &Nearest) -> Result<String, DataError> {
        let names = self.names();
        Ok(format!(
            "{} of {} is {:.2} similar to {} of {}",
            self.name(row)?,
            names.1,
            near.similarity,
            self.name(near.other)?,
            names.0
        ))
    }

    fn shared_groups(&self, report: &mut PairReport) -> Result<(), DataError> {
        let sides = self.left.groups.iter().zip(&self.right.groups);
        let (left, right) = self.names();
        for ((field, key), (a, b)) in self.options.group.iter().zip(self.groups).zip(sides) {
            let both: Vec<u64> = common(a, b).collect();
            report.group += both.len() as u64;
            let told = &both[..both.len().min(LISTED)];
            let rows = self.first_rows(told, |row| Ok(key.get(row)?.map(|value| short(&value))))?;
            for row in told.iter().filter_map(|value| rows.get(value)) {
                let value = key.get(&self.places.row(*row)?)?.unwrap_or_default();
                report
                    .leaks
                    .push(format!("{field} '{value}' stands in {left} and in {right}"));
            }
        }
        Ok(())
    }
}

impl LeakReport {
    /// The page.
    pub fn html(&self) -> String {
        let verdict = if self.leaks() == 0 {
            Verdict::Pass
        } else {
            Verdict::Fail
        };
        let mut page = Page::new("Split", Some(verdict));
        page.text(&format!(
            "Rows were kept together by equal prompt, by {}, and from a similarity of {} on. \
             The written files were compared again, pair by pair, by another way than they were made.",
            match self.group.is_empty() {
                true => "no group".to_owned(),
                false => format!("group ({})", self.group.join(", ")),
            },
            self.near
        ));
        if let Some(digest) = self.test_digest {
            page.text(&format!(
                "To freeze the test split: frozen_test = \"{digest}\""
            ));
        }
        let total: u64 = self.rows.values().sum();
        let sizes: Vec<Vec<Cell>> = SPLITS
            .iter()
            .filter_map(|name| Some((name, *self.rows.get(*name)?)))
            .map(|(name, n)| {
                vec![
                    Cell::code(*name),
                    Cell::Count(n),
                    Cell::Share(n as f64 / total.max(1) as f64),
                ]
            })
            .collect();
        page.heading("Sizes", None)
            .table(&["split", "rows", "share"], &sizes);
        let head = [
            "splits",
            "exact",
            "near",
            "group",
            "answers in both",
            "highest similarity",
        ];
        let pairs: Vec<Vec<Cell>> = self.pairs.iter().map(PairReport::line).collect();
        page.heading("Leaks", None).table(&head, &pairs);
        for pair in self.pairs.iter().filter(|pair| !pair.leaks.is_empty()) {
            let lines: Vec<Vec<Cell>> = pair
                .leaks
                .iter()
                .map(|leak| vec![Cell::text(leak)])
                .collect();
            page.table(&[&format!("{} and {}", pair.left, pair.right)], &lines);
        }
        page.finish()
    }
}

impl PairReport {
    fn line(&self) -> Vec<Cell> {
        let counts = [self.exact, self.near, self.group, self.shared_answers];
        let mut line = vec![Cell::code(format!("{}, {}", self.left, self.right))];
        line.extend(counts.map(Cell::Count));
        line.push(Cell::text(match self.highest_similarity {
            Some(highest) => format!("{highest:.3}"),
            None => format!("below {SIMILAR}"),
        }));
        line
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
        let report = crate::data::split::tests::leaks([&train, &validation, &test], &options);
        let [to_validation, to_test, between] = report.pairs.as_slice() else {
            panic!("three pairs");
        };
        assert_eq!(
            (to_validation.exact, to_validation.near, to_validation.group),
            (0, 0, 1)
        );
        assert_eq!((to_test.exact, to_test.near, to_test.group), (2, 1, 0));
        assert_eq!(to_test.shared_answers, 2);
        assert_eq!(to_test.highest_similarity, Some(1.0));
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
