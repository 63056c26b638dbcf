//! The pass over the training rows and what it found: rows kept and removed, matches, and a page for people.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::index::{Index, MIDDLE};
use super::reference::{Reference, References};
use super::scan::{Match, Rule, Rules, joined};
use crate::data::page::{Cell, Excerpt, Page, Verdict};
use crate::data::words::words;
use crate::data::{
    Blocks, DataError, Line, LineWriter, Row, RowId, each_line, parse_line, to_line,
};

/// Characters around what agrees.
const AROUND: usize = 120;
/// Characters of an evaluation row in a report.
const SHOWN: usize = 400;

/// How training rows are compared.
#[derive(Debug, Clone)]
pub struct OverlapOptions {
    /// Which overlaps count.
    pub rules: Rules,
    /// Grams that more than this share of the evaluation rows hold are a template's.
    pub common: f64,
    /// Whether contaminated rows are left out of the result.
    pub remove: bool,
    /// How many matches the report shows; the matches file has all.
    pub examples: usize,
}

/// A training row that holds an evaluation row. `matches.jsonl` has one a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contamination {
    /// The training row.
    pub row: RowId,
    /// Where it is from.
    pub origin: String,
    /// The evaluation set.
    pub eval_key: String,
    /// The split its record names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// The evaluation row within the set, from 0.
    pub eval_instance_index: u64,
    /// Where the evaluation row is from.
    pub eval_origin: String,
    /// The rules by which the row counts.
    pub rules: Vec<Rule>,
    /// decon's score, 0 to 1.
    pub contamination_score: f64,
    /// Weighted overlap of the question, 0 to 1.
    pub question_overlap: f64,
    /// Weighted overlap of the answer, 0 to 1; absent without an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_overlap: Option<f64>,
    /// Weighted overlap of the passage, 0 to 1; absent without a passage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passage_overlap: Option<f64>,
    /// Share of the evaluation row's 8-grams, 0 to 1.
    pub shared_8_grams: f64,
    /// Places that hold a 13-gram.
    pub shared_13_grams: u64,
    /// The training text around what agrees.
    pub training: Excerpt,
    /// The start of the evaluation row's question.
    pub evaluation: Excerpt,
}

/// What one evaluation set came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetReport {
    /// Its rows.
    pub rows: u64,
    /// Rows whose question has fewer than 8 words: only a prompt that is the
    /// same counts for them.
    pub brief: u64,
    /// Its rows that some training row holds.
    pub found: u64,
    /// Training rows that hold one of its rows.
    pub training_rows: u64,
}

/// What was found. `report.json` is this record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OverlapReport {
    /// Version of this file's format.
    pub format: u32,
    /// Training rows.
    pub rows: u64,
    /// Training rows that hold an evaluation row.
    pub contaminated: u64,
    /// Rows left out of the result.
    pub removed: u64,
    /// Training row and evaluation row that agree.
    pub matches: u64,
    /// Contaminated rows by rule; a row may count for several.
    pub by_rule: BTreeMap<String, u64>,
    /// Each evaluation set.
    pub sets: BTreeMap<String, SetReport>,
    /// 5-, 8- and 13-grams that were left out as a template's.
    pub common_grams: [u64; 3],
    /// The first matches.
    pub examples: Vec<Contamination>,
}

/// Where the pass writes.
pub struct OverlapFiles<'a> {
    /// The rows of the result.
    pub kept: &'a Path,
    /// The rows that were left out.
    pub removed: &'a Path,
    /// All matches.
    pub matches: &'a Path,
}

/// Compares the training rows of a file with evaluation rows, and writes the
/// rows that stay, those that go, and what agrees.
pub fn decontaminate(
    rows: &Path,
    references: &References,
    options: &OverlapOptions,
    to: &OverlapFiles<'_>,
) -> Result<OverlapReport, DataError> {
    if references.rows.is_empty() {
        let message =
            "there is no evaluation row to compare with: `against` and `references` are empty";
        return Err(DataError::Invalid(message.to_owned()));
    }
    let index = Index::new(references, options.common);
    let mut tally = Tally::new(references, &index);
    let (mut kept, mut removed, mut matches) = (
        LineWriter::create(to.kept)?,
        LineWriter::create(to.removed)?,
        LineWriter::create(to.matches)?,
    );
    let work = |line: Line<'_>| {
        let row: Row = parse_line(rows, line)?;
        let found = index.scan(&row, &options.rules);
        let told: Vec<Contamination> = found.iter().map(|m| tell(&row, m, references)).collect();
        let items: Vec<usize> = found.iter().map(|m| m.item).collect();
        Ok((line.bytes.to_vec(), items, told))
    };
    each_line(Blocks::open(rows)?, work, |(line, items, told)| {
        match options.remove && !told.is_empty() {
            true => removed.line(&line)?,
            false => kept.line(&line)?,
        }
        for one in &told {
            matches.line(&to_line(one)?)?;
        }
        tally.add(&items, told, references, options.examples);
        Ok(())
    })?;
    tally.report.removed = removed.lines();
    for file in [kept, removed, matches] {
        file.finish()?;
    }
    Ok(tally.finish(references))
}

/// A match in words.
fn tell(row: &Row, found: &Match, references: &References) -> Contamination {
    let of = &references.rows[found.item];
    let text = joined(row);
    Contamination {
        row: row.id,
        origin: row.origin.clone(),
        eval_key: references.sets[of.set].clone(),
        split: of.split.clone(),
        eval_instance_index: of.index,
        eval_origin: of.origin.clone(),
        rules: found.rules.clone(),
        contamination_score: found.score,
        question_overlap: found.question,
        answer_overlap: found.answer,
        passage_overlap: found.passage,
        shared_8_grams: found.eight,
        shared_13_grams: found.thirteen as u64,
        training: Excerpt::around(&text, &bytes(&text, &found.words), AROUND),
        evaluation: Excerpt::start(&of.question, SHOWN),
    }
}

/// The byte ranges of ranges of words.
fn bytes(text: &str, ranges: &[Range<usize>]) -> Vec<Range<usize>> {
    let places: Vec<Range<usize>> = words(text).map(|(range, _)| range).collect();
    let one = |range: &Range<usize>| {
        let first = places.get(range.start)?;
        let last = places.get(range.end.min(places.len()).checked_sub(1)?)?;
        Some(first.start..last.end)
    };
    ranges.iter().filter_map(one).collect()
}

/// Counts while the rows go past.
struct Tally {
    report: OverlapReport,
    found: BTreeSet<usize>,
}

impl Tally {
    fn new(references: &References, index: &Index) -> Self {
        let mut sets: BTreeMap<String, SetReport> = BTreeMap::new();
        for (row, item) in references.rows.iter().zip(&index.items) {
            let set = sets.entry(references.sets[row.set].clone()).or_default();
            set.rows += 1;
            set.brief += u64::from(item.question.words.len() < MIDDLE);
        }
        let common = [&index.short, &index.middle, &index.long].map(|p| p.common as u64);
        Tally {
            found: BTreeSet::new(),
            report: OverlapReport {
                format: 1,
                rows: 0,
                contaminated: 0,
                removed: 0,
                matches: 0,
                by_rule: BTreeMap::new(),
                sets,
                common_grams: common,
                examples: Vec::new(),
            },
        }
    }

    fn add(
        &mut self,
        items: &[usize],
        told: Vec<Contamination>,
        references: &References,
        examples: usize,
    ) {
        let report = &mut self.report;
        report.rows += 1;
        report.contaminated += u64::from(!told.is_empty());
        report.matches += told.len() as u64;
        let rules: BTreeSet<Rule> = told.iter().flat_map(|one| one.rules.clone()).collect();
        for rule in rules {
            *report.by_rule.entry(rule.name().to_owned()).or_default() += 1;
        }
        let sets: BTreeSet<usize> = items.iter().map(|&i| references.rows[i].set).collect();
        for set in sets {
            let set = report.sets.entry(references.sets[set].clone()).or_default();
            set.training_rows += 1;
        }
        self.found.extend(items);
        let room = examples.saturating_sub(report.examples.len());
        report.examples.extend(told.into_iter().take(room));
    }

    fn finish(mut self, references: &References) -> OverlapReport {
        for &item in &self.found {
            let Reference { set, .. } = references.rows[item];
            let set = self.report.sets.entry(references.sets[set].clone());
            set.or_default().found += 1;
        }
        self.report
    }
}

impl OverlapReport {
    /// The page.
    pub fn html(&self) -> String {
        let verdict = match (self.contaminated, self.removed) {
            (0, _) => Verdict::Pass,
            (found, removed) if found == removed => Verdict::Warn,
            _ => Verdict::Fail,
        };
        let mut page = Page::new("Contamination", Some(verdict));
        page.text(&self.sentence());
        page.heading("Evaluation sets", None);
        let sets: Vec<Vec<Cell>> = self.sets.iter().map(set_line).collect();
        let head = [
            "set",
            "rows",
            "too short for grams",
            "found in training",
            "training rows that hold one",
        ];
        page.table(&head, &sets);
        let rules: Vec<Vec<Cell>> = self
            .by_rule
            .iter()
            .map(|(rule, n)| vec![Cell::code(rule), Cell::Count(*n)])
            .collect();
        if !rules.is_empty() {
            page.heading("By rule", None)
                .table(&["rule", "training rows"], &rules);
            page.heading("What agrees", None);
        }
        if self.matches > self.examples.len() as u64 {
            page.text(&format!(
                "The first {} of {} matches; the matches file has all.",
                self.examples.len(),
                self.matches
            ));
        }
        for one in &self.examples {
            page.row(
                &one.origin,
                &note(one),
                &[
                    ("training row", one.training.clone()),
                    ("evaluation question", one.evaluation.clone()),
                ],
            );
        }
        page.finish()
    }

    /// What a step that may not go on says: the count and the first rows.
    pub fn complaint(&self) -> String {
        let mut lines = vec![self.sentence()];
        for one in self.examples.iter().take(3) {
            lines.push(format!("{}: {}", one.origin, note(one)));
        }
        lines.push(
            "remove them with `action = \"remove\"`, or take another evaluation set".to_owned(),
        );
        lines.join("\n")
    }

    /// The result in one sentence.
    pub fn sentence(&self) -> String {
        let evaluation: u64 = self.sets.values().map(|set| set.rows).sum();
        let what = match (self.contaminated, self.removed) {
            (0, _) => "none holds one".to_owned(),
            (n, 0) => format!("{n} hold one and stay in the result"),
            (n, _) => format!("{n} hold one and were removed"),
        };
        format!(
            "{} training rows were compared with {evaluation} evaluation rows: {what}.",
            self.rows
        )
    }
}

fn set_line((name, set): (&String, &SetReport)) -> Vec<Cell> {
    let counts = [set.rows, set.brief, set.found, set.training_rows];
    let mut line = vec![Cell::code(name)];
    line.extend(counts.map(Cell::Count));
    line
}

fn note(one: &Contamination) -> String {
    let rules: Vec<&str> = one.rules.iter().map(|rule| rule.name()).collect();
    format!(
        "{} · {} of {} · score {:.2} · 8-grams {:.0} %",
        rules.join(", "),
        one.eval_origin,
        one.eval_key,
        one.contamination_score,
        one.shared_8_grams * 100.0
    )
}
