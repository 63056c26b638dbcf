//! The gate: what would make training on rows a waste of time, counted and shown before it begins.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::encoding::faults_of;
use super::key::prompt_digest;
use super::near::{Banding, Near, NearOptions, estimate, near, signature};
use super::nearest::nearest;
use super::page::{Cell, Excerpt, Page, Verdict};
use super::places::Places;
use super::shingle::{Frequencies, View, jaccard, shingles};
use super::{DataError, Row, RowId};

/// Characters around what is wrong.
const AROUND: usize = 60;
/// Characters of a text of which nothing in particular is wrong.
const START: usize = 240;

/// A limit, and what happens over it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// The largest share of rows that may be at fault, 0 to 1.
    pub share: f64,
    /// Over it the check fails, or only warns.
    pub fails: bool,
}

/// A pattern that no answer (or prompt) should hold.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// Its name in the report.
    pub name: String,
    /// What it looks for.
    pub regex: Regex,
}

/// An answer that does what its prompt forbids, or leaves out what it asks for.
#[derive(Debug, Clone)]
pub struct Contradiction {
    /// Its name in the report.
    pub name: String,
    /// Rows whose prompt this is found in are looked at.
    pub prompt: Regex,
    /// Their answers must not hold this.
    pub forbidden: Option<Regex>,
    /// Their answers must hold this.
    pub required: Option<Regex>,
}

/// What is checked. A check that is none is not made.
#[derive(Debug, Clone, Default)]
pub struct CheckOptions {
    /// The least share of distinct prompts among all rows, and whether fewer fail.
    pub distinct_prompts: Option<(f64, bool)>,
    /// Rows whose content an earlier row has.
    pub duplicates: Option<Limit>,
    /// Rows that are nearly an earlier one.
    pub near: Option<(NearOptions, View, Limit)>,
    /// Answers with a placeholder.
    pub placeholders: Option<(Vec<Pattern>, Limit)>,
    /// Rows without an answer, or with an empty one.
    pub empty: Option<Limit>,
    /// Answers that contradict their prompt; the limit is of the rows whose prompt has it.
    pub contradictions: Option<(Vec<Contradiction>, Limit)>,
    /// Answers that repeat their prompt: of their 5-grams at least this share, and the limit.
    pub copies: Option<(f64, Limit)>,
    /// Broken encodings.
    pub encoding: Option<Limit>,
    /// A metadata field, the largest share of one value, and the least share of any.
    pub balance: Option<(String, Limit, f64)>,
    /// Rows that stand in another data set: how near, what of them.
    pub leaks: Option<(f64, View, Limit)>,
    /// 5-grams that more than this share of the rows hold are boilerplate.
    pub boilerplate: f64,
    /// How many rows a check shows.
    pub examples: usize,
}

/// A row that a check shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The row.
    pub row: RowId,
    /// Where it is from.
    pub origin: String,
    /// What is wrong with it.
    pub what: String,
    /// Parts of it, each under its name, with what is wrong marked.
    pub parts: Vec<(String, Excerpt)>,
    /// The other rows of its cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
}

/// The rows that are near a first one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Where they are from, the first 1,000 of them.
    pub origins: Vec<String>,
    /// The Jaccard similarity of the first of them to the row, 0 to 1.
    pub similarity: f64,
    /// The same as MinHash estimates it.
    pub estimate: f64,
}

/// What one check came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Its name, as in the pipeline file.
    pub check: String,
    /// What it counts, in words.
    pub about: String,
    /// How it came out.
    pub verdict: Verdict,
    /// Rows at fault.
    pub count: u64,
    /// Rows that were looked at.
    pub of: u64,
    /// The share of the two, 0 to 1.
    pub share: f64,
    /// The share that may be; for distinct prompts the share that must be.
    pub limit: f64,
    /// The count by rule, value or data set, where there are several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by: BTreeMap<String, u64>,
    /// The first rows at fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<Example>,
}

/// The gate's report. `report.json` is this record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Version of this file's format.
    pub format: u32,
    /// How the whole came out: as its worst check.
    pub verdict: Verdict,
    /// Rows that were checked.
    pub rows: u64,
    /// The checks in their order.
    pub checks: Vec<CheckResult>,
}

/// Checks the rows of a file; `against` are other data sets, each with its
/// label, that must not hold the same rows. Temporary files are made in `folder`.
pub fn check(
    rows: &Path,
    against: &[(String, std::path::PathBuf)],
    options: &CheckOptions,
    folder: &Path,
) -> Result<CheckReport, DataError> {
    let mut files = vec![rows];
    files.extend(against.iter().map(|(_, path)| path.as_path()));
    let own = Places::read(&[rows], |_, _| Ok(()), |()| Ok(()))?;
    if own.len() == 0 {
        let message = format!("{} has no rows: there is nothing to check", rows.display());
        return Err(DataError::Invalid(message));
    }
    let mut checks = each_alone(&own, options)?;
    checks.extend(near_rows(&own, options, folder)?);
    if let (Some(leaks), false) = (&options.leaks, against.is_empty()) {
        let mut ids = Vec::new();
        let id = |_, row: Row| Ok(row.id.0.prefix());
        let places = Places::read(&files, id, |id| {
            ids.push(id);
            Ok(())
        })?;
        checks.push(leaked(&places, &ids, against, leaks, options)?);
    }
    let verdict = checks.iter().map(|check| check.verdict).max();
    Ok(CheckReport {
        format: 1,
        verdict: verdict.unwrap_or(Verdict::Pass),
        rows: own.len() as u64,
        checks,
    })
}

/// What a row is at fault for: the check, what it is, and how to show it.
struct Fault {
    check: usize,
    by: Option<String>,
    what: String,
    parts: Vec<(String, Excerpt)>,
}

/// What a pass over the rows finds out about one.
struct Seen {
    id: RowId,
    origin: String,
    prompt: u64,
    /// The checks that looked at it, whatever they found.
    looked: Vec<usize>,
    faults: Vec<Fault>,
    label: Option<String>,
}

/// The checks that look at rows one by one.
fn each_alone(places: &Places, options: &CheckOptions) -> Result<Vec<CheckResult>, DataError> {
    let checks = row_checks(options);
    let mut tallies: Vec<Tally> = checks
        .iter()
        .map(|check| Tally::new(check, options))
        .collect();
    let mut identity = Identity::default();
    let mut labels: BTreeMap<String, u64> = BTreeMap::new();
    let work = |_, row: Row| Ok(look(&row, &checks, options));
    places.each(work, |seen| {
        identity.add(&seen);
        for &check in &seen.looked {
            tallies[check].of += 1;
        }
        for fault in seen.faults {
            let check = fault.check;
            tallies[check].add(fault, seen.id, &seen.origin);
        }
        if options.balance.is_some() {
            *labels.entry(seen.label.unwrap_or_default()).or_default() += 1;
        }
        Ok(())
    })?;
    let mut results = identity.results(places, options)?;
    results.extend(tallies.into_iter().map(Tally::result));
    if let Some((field, limit, least)) = &options.balance {
        results.push(balance(field, *limit, *least, labels, places.len() as u64));
    }
    Ok(results)
}

/// A check of single rows.
enum RowCheck<'a> {
    Placeholders(&'a [Pattern], Limit),
    Empty(Limit),
    Contradictions(&'a [Contradiction], Limit),
    Copies(f64, Limit),
    Encoding(Limit),
}

fn row_checks(options: &CheckOptions) -> Vec<RowCheck<'_>> {
    let mut checks = Vec::new();
    if let Some(limit) = options.empty {
        checks.push(RowCheck::Empty(limit));
    }
    if let Some((patterns, limit)) = &options.placeholders {
        checks.push(RowCheck::Placeholders(patterns, *limit));
    }
    if let Some((rules, limit)) = &options.contradictions {
        checks.push(RowCheck::Contradictions(rules, *limit));
    }
    if let Some((share, limit)) = options.copies {
        checks.push(RowCheck::Copies(share, limit));
    }
    if let Some(limit) = options.encoding {
        checks.push(RowCheck::Encoding(limit));
    }
    checks
}

fn look(row: &Row, checks: &[RowCheck<'_>], options: &CheckOptions) -> Seen {
    let mut seen = Seen {
        id: row.id,
        origin: row.origin.clone(),
        prompt: prompt_digest(row).prefix(),
        looked: Vec::new(),
        faults: Vec::new(),
        label: options
            .balance
            .as_ref()
            .and_then(|(field, ..)| row.meta_text(field)),
    };
    for (at, check) in checks.iter().enumerate() {
        let (looked, faults) = check.look(row);
        if looked {
            seen.looked.push(at);
        }
        for (by, what, parts) in faults {
            seen.faults.push(Fault {
                check: at,
                by,
                what,
                parts,
            });
        }
    }
    seen
}

type Found = (Option<String>, String, Vec<(String, Excerpt)>);

impl RowCheck<'_> {
    /// The name in the pipeline file and what is counted.
    fn words(&self) -> (&'static str, &'static str, Limit) {
        match self {
            RowCheck::Placeholders(_, limit) => {
                ("placeholders", "answers with a placeholder", *limit)
            }
            RowCheck::Empty(limit) => (
                "empty",
                "rows without an answer or with an empty text",
                *limit,
            ),
            RowCheck::Contradictions(_, limit) => (
                "contradictions",
                "answers that do what their prompt forbids, or not what it asks for",
                *limit,
            ),
            RowCheck::Copies(_, limit) => ("copies", "answers that repeat their prompt", *limit),
            RowCheck::Encoding(limit) => ("encoding", "rows with broken characters", *limit),
        }
    }

    /// Whether the row is one that the check looks at, and what is wrong with it.
    fn look(&self, row: &Row) -> (bool, Vec<Found>) {
        match self {
            RowCheck::Placeholders(patterns, _) => (true, placeholders(row, patterns)),
            RowCheck::Empty(_) => (true, empty(row).into_iter().collect()),
            RowCheck::Contradictions(rules, _) => contradictions(row, rules),
            RowCheck::Copies(share, _) => match copies(row, *share) {
                None => (false, Vec::new()),
                Some(found) => (true, found.into_iter().collect()),
            },
            RowCheck::Encoding(_) => (true, encoding(row)),
        }
    }
}

/// The answer, or the whole of a plain text.
fn answer(row: &Row) -> &str {
    row.answer().or_else(|| row.texts().next()).unwrap_or("")
}

fn prompt(row: &Row) -> String {
    let messages: Vec<&str> = row.prompt().iter().map(|m| m.content.as_str()).collect();
    messages.join("\n")
}

fn placeholders(row: &Row, patterns: &[Pattern]) -> Vec<Found> {
    let text = answer(row);
    let one = |pattern: &Pattern| {
        let spans: Vec<Range<usize>> = pattern.regex.find_iter(text).map(|m| m.range()).collect();
        let count = match spans.len() {
            0 => return None,
            1 => String::new(),
            n => format!(", {n} times"),
        };
        let what = format!("{}{count}", pattern.name);
        let shown = Excerpt::around(text, &spans, AROUND);
        Some((
            Some(pattern.name.clone()),
            what,
            vec![("answer".to_owned(), shown)],
        ))
    };
    patterns.iter().filter_map(one).collect()
}

fn empty(row: &Row) -> Option<Found> {
    let no_answer = matches!(row.content, super::Content::Messages(_)) && row.answer().is_none();
    let what = match (no_answer, row.texts().any(|text| text.trim().is_empty())) {
        (true, _) => "no answer: the last message is not the assistant's",
        (_, true) => "an empty text",
        _ => return None,
    };
    Some((
        None,
        what.to_owned(),
        vec![("prompt".to_owned(), Excerpt::start(&prompt(row), START))],
    ))
}

fn contradictions(row: &Row, rules: &[Contradiction]) -> (bool, Vec<Found>) {
    let (asked, text) = (prompt(row), answer(row));
    let mut looked = false;
    let mut found = Vec::new();
    for rule in rules {
        let Some(asks) = rule.prompt.find(&asked) else {
            continue;
        };
        looked = true;
        let prompt = Excerpt::around(&asked, std::slice::from_ref(&asks.range()), AROUND);
        let forbidden = rule.forbidden.as_ref().and_then(|regex| regex.find(text));
        let shown = match (forbidden, &rule.required) {
            (Some(held), _) => Excerpt::around(text, std::slice::from_ref(&held.range()), AROUND),
            (None, Some(required)) if !required.is_match(text) => Excerpt::start(text, START),
            _ => continue,
        };
        let parts = vec![("prompt".to_owned(), prompt), ("answer".to_owned(), shown)];
        found.push((Some(rule.name.clone()), rule.name.clone(), parts));
    }
    (looked, found)
}

/// None where there is no prompt to repeat.
fn copies(row: &Row, share: f64) -> Option<Option<Found>> {
    let text = row.answer().filter(|_| !row.prompt().is_empty())?;
    let (asked, own) = (shingles(row, View::Prompt), shingles(row, View::Answer));
    let both = own
        .iter()
        .filter(|shingle| asked.binary_search(shingle).is_ok())
        .count();
    let held = both as f64 / own.len() as f64;
    Some((held >= share).then(|| {
        let what = format!("{:.0} % of the answer stands in the prompt", held * 100.0);
        let parts = vec![
            ("prompt".to_owned(), Excerpt::start(&prompt(row), START)),
            ("answer".to_owned(), Excerpt::start(text, START)),
        ];
        (None, what, parts)
    }))
}

fn encoding(row: &Row) -> Vec<Found> {
    let mut by: BTreeMap<&'static str, Vec<(String, Excerpt)>> = BTreeMap::new();
    for text in row.texts() {
        for (kind, spans) in faults_of(text) {
            let shown = ("text".to_owned(), Excerpt::around(text, &spans, AROUND));
            by.entry(kind).or_default().push(shown);
        }
    }
    by.into_iter()
        .map(|(kind, parts)| (Some(kind.to_owned()), kind.to_owned(), parts))
        .collect()
}

/// Counts of one check while rows go past.
struct Tally {
    result: CheckResult,
    of: u64,
    fails: bool,
    most: usize,
    last: Option<String>,
}

impl Tally {
    fn new(check: &RowCheck<'_>, options: &CheckOptions) -> Self {
        let (name, about, limit) = check.words();
        Tally {
            result: CheckResult::new(name, about, limit.share),
            of: 0,
            fails: limit.fails,
            most: options.examples,
            last: None,
        }
    }

    fn add(&mut self, fault: Fault, row: RowId, origin: &str) {
        // A row counts once, however many rules it breaks.
        if self.last.as_deref() != Some(origin) {
            self.result.count += 1;
            self.last = Some(origin.to_owned());
        }
        if let Some(by) = fault.by {
            *self.result.by.entry(by).or_default() += 1;
        }
        if self.result.examples.len() < self.most {
            self.result.examples.push(Example {
                row,
                origin: origin.to_owned(),
                what: fault.what,
                parts: fault.parts,
                cluster: None,
            });
        }
    }

    fn result(mut self) -> CheckResult {
        self.result.judge(self.of, self.fails);
        self.result
    }
}

impl CheckResult {
    fn new(check: &str, about: &str, limit: f64) -> Self {
        CheckResult {
            check: check.to_owned(),
            about: about.to_owned(),
            verdict: Verdict::Pass,
            count: 0,
            of: 0,
            share: 0.0,
            limit,
            by: BTreeMap::new(),
            examples: Vec::new(),
        }
    }

    /// The verdict on the count.
    fn judge(&mut self, of: u64, fails: bool) {
        self.of = of;
        self.share = if of > 0 {
            self.count as f64 / of as f64
        } else {
            0.0
        };
        if self.share > self.limit {
            self.verdict = if fails { Verdict::Fail } else { Verdict::Warn };
        }
    }
}

/// Which rows and prompts are the same: 64 bits of each id, and the number of the row.
#[derive(Default)]
struct Identity {
    ids: Vec<(u64, u32)>,
    prompts: Vec<u64>,
}

impl Identity {
    fn add(&mut self, seen: &Seen) {
        self.ids.push((seen.id.0.prefix(), self.ids.len() as u32));
        self.prompts.push(seen.prompt);
    }

    fn results(
        mut self,
        places: &Places,
        options: &CheckOptions,
    ) -> Result<Vec<CheckResult>, DataError> {
        let mut results = Vec::new();
        let rows = places.len() as u64;
        if let Some((least, fails)) = options.distinct_prompts {
            let mut result = CheckResult::new(
                "distinct_prompts",
                "distinct prompts (a share that must be reached)",
                least,
            );
            self.prompts.sort_unstable();
            self.prompts.dedup();
            (result.count, result.of) = (self.prompts.len() as u64, rows);
            result.share = result.count as f64 / rows as f64;
            if result.share < least {
                result.verdict = if fails { Verdict::Fail } else { Verdict::Warn };
            }
            results.push(result);
        }
        if let Some(limit) = options.duplicates {
            let mut result = CheckResult::new(
                "duplicates",
                "rows whose content an earlier row has",
                limit.share,
            );
            self.ids.sort_unstable();
            let mut later: Vec<(u32, u32)> = Vec::new();
            for run in self.ids.chunk_by(|a, b| a.0 == b.0) {
                later.extend(run[1..].iter().map(|(_, row)| (*row, run[0].1)));
            }
            later.sort_unstable();
            result.count = later.len() as u64;
            for (row, first) in later.iter().take(options.examples) {
                let (row, first) = (places.row(*row as usize)?, places.row(*first as usize)?);
                let what = format!("the same as {}", first.origin);
                result.examples.push(example(&row, what, View::Row));
            }
            result.judge(rows, limit.fails);
            results.push(result);
        }
        Ok(results)
    }
}

/// A row of which nothing in particular is marked.
fn example(row: &Row, what: String, view: View) -> Example {
    let text = view.texts(row).join("\n");
    Example {
        row: row.id,
        origin: row.origin.clone(),
        what,
        parts: vec![(view.name().to_owned(), Excerpt::start(&text, START))],
        cluster: None,
    }
}

fn balance(
    field: &str,
    limit: Limit,
    least: f64,
    labels: BTreeMap<String, u64>,
    rows: u64,
) -> CheckResult {
    let about = format!("rows with the most frequent value of `{field}`");
    let mut result = CheckResult::new("balance", &about, limit.share);
    let missing = labels.get("").copied().unwrap_or(0);
    let named = || labels.iter().filter(|(name, _)| !name.is_empty());
    result.count = named().map(|(_, n)| *n).max().unwrap_or(0);
    result.judge(rows, limit.fails);
    let rare = named().any(|(_, n)| (*n as f64) < least * rows as f64);
    if missing > 0 || rare {
        result.verdict = if limit.fails {
            Verdict::Fail
        } else {
            Verdict::Warn
        };
    }
    if missing > 0 {
        result.about = format!("{about} ({missing} rows have none)");
    } else if rare {
        result.about = format!("{about} (a value has less than {:.1} %)", least * 100.0);
    }
    result.by = labels
        .into_iter()
        .map(|(name, n)| {
            (
                if name.is_empty() {
                    "(none)".to_owned()
                } else {
                    name
                },
                n,
            )
        })
        .collect();
    result
}

/// Rows that are nearly an earlier one: all but the first of each cluster.
fn near_rows(
    places: &Places,
    options: &CheckOptions,
    folder: &Path,
) -> Result<Option<CheckResult>, DataError> {
    let Some((by, view, limit)) = &options.near else {
        return Ok(None);
    };
    let Banding { bands, rows } = by.banding;
    let about = format!(
        "rows that are at least {} similar ({}) to an earlier one (MinHash-LSH, {bands} × {rows})",
        by.threshold,
        view.name()
    );
    let mut result = CheckResult::new("near_duplicates", &about, limit.share);
    let frequencies = Frequencies::of(places, *view, options.boilerplate)?;
    let found: Near = near(places, &frequencies, by, folder)?;
    result.count = found.links.len() as u64;
    let mut groups = found.groups();
    groups.sort_by_key(|group| (std::cmp::Reverse(group.len()), group[0]));
    result.by.insert("clusters".to_owned(), groups.len() as u64);
    if let Some(largest) = groups.first() {
        result
            .by
            .insert("largest cluster".to_owned(), largest.len() as u64);
    }
    for group in groups.iter().take(options.examples) {
        result.examples.push(cluster(places, group, *view)?);
    }
    result.judge(places.len() as u64, limit.fails);
    Ok(Some(result))
}

/// A cluster by its first two rows and the origins of all.
fn cluster(places: &Places, group: &[usize], view: View) -> Result<Example, DataError> {
    /// Origins that are kept, and those that are named in a sentence.
    const KEPT: usize = 1000;
    const NAMED: usize = 8;
    let (first, second) = (places.row(group[0])?, places.row(group[1])?);
    let (a, b) = (shingles(&first, view), shingles(&second, view));
    let similarity = jaccard(&a, &b);
    let mut origins = Vec::new();
    for &row in group[1..].iter().take(KEPT) {
        origins.push(places.row(row)?.origin);
    }
    let named = &origins[..origins.len().min(NAMED)];
    let more = match group.len() - 1 - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let what = format!("{} rows: also {}{more}", group.len(), named.join(", "));
    let mut shown = example(&first, what, view);
    let text = view.texts(&second).join("\n");
    let name = format!("{}, {similarity:.2} similar to the first", second.origin);
    shown.parts.push((name, Excerpt::start(&text, START)));
    shown.cluster = Some(Cluster {
        origins,
        similarity,
        estimate: estimate(&signature(&a), &signature(&b)),
    });
    Ok(shown)
}

/// Rows of other data sets that stand in this one; `ids` has 64 bits of each row's.
fn leaked(
    places: &Places,
    ids: &[u64],
    against: &[(String, std::path::PathBuf)],
    (threshold, view, limit): &(f64, View, Limit),
    options: &CheckOptions,
) -> Result<CheckResult, DataError> {
    let about = format!(
        "rows of {} that are at least {threshold} similar ({}) to a row here",
        against
            .iter()
            .map(|(label, _)| label.as_str())
            .collect::<Vec<_>>()
            .join(", "),
        view.name()
    );
    let mut result = CheckResult::new("leaks", &about, limit.share);
    let frequencies = Frequencies::of(places, *view, options.boilerplate)?;
    let files = 1..against.len() + 1;
    let found = nearest(places, &frequencies, 0..1, files, *threshold)?;
    let bounds = places.bounds();
    let mut own = ids[..bounds[1]].to_vec();
    own.sort_unstable();
    for (at, near) in found.iter().enumerate() {
        let Some(near) = near else { continue };
        let number = bounds[1] + at;
        let set = bounds.partition_point(|&first| first <= number) - 2;
        let label = &against[set].0;
        result.count += 1;
        *result.by.entry(label.clone()).or_default() += 1;
        if own.binary_search(&ids[number]).is_ok() {
            *result
                .by
                .entry(format!("{label}: the same row"))
                .or_default() += 1;
        }
        if result.examples.len() < options.examples {
            let (row, other) = (places.row(number)?, places.row(near.other)?);
            let what = format!(
                "of {label}, {:.2} similar to {}",
                near.similarity, other.origin
            );
            let mut shown = example(&row, what, *view);
            let text = view.texts(&other).join("\n");
            shown
                .parts
                .push((other.origin.clone(), Excerpt::start(&text, START)));
            result.examples.push(shown);
        }
    }
    result.judge(found.len() as u64, limit.fails);
    Ok(result)
}

impl CheckReport {
    /// What a build that stops here says: each failed check with its count, its
    /// limit and the first rows. None when nothing failed.
    pub fn complaint(&self) -> Option<String> {
        let failed: Vec<String> = self
            .checks
            .iter()
            .filter(|check| check.verdict == Verdict::Fail)
            .map(CheckResult::complaint)
            .collect();
        (!failed.is_empty()).then(|| format!("the data does not pass:\n{}", failed.join("\n")))
    }

    /// The page.
    pub fn html(&self) -> String {
        let mut page = Page::new("Data check", Some(self.verdict));
        let head = ["check", "result", "rows", "of", "share", "limit", "counts"];
        let lines: Vec<Vec<Cell>> = self.checks.iter().map(CheckResult::line).collect();
        page.table(&head, &lines);
        for check in self
            .checks
            .iter()
            .filter(|check| !check.examples.is_empty())
        {
            page.heading(&check.check, Some(check.verdict))
                .text(&check.about);
            if check.by.len() > 1 {
                let by: Vec<Vec<Cell>> = check
                    .by
                    .iter()
                    .map(|(name, n)| vec![Cell::code(name), Cell::Count(*n)])
                    .collect();
                page.table(&["", "rows"], &by);
            }
            let (shown, count) = (check.examples.len(), check.count);
            page.fold(
                &format!("{shown} of {count}"),
                check.verdict != Verdict::Pass,
                |page| {
                    for example in &check.examples {
                        let parts: Vec<(&str, Excerpt)> = example
                            .parts
                            .iter()
                            .map(|(name, e)| (name.as_str(), e.clone()))
                            .collect();
                        page.row(&example.origin, &example.what, &parts);
                    }
                },
            );
        }
        page.finish()
    }
}

impl CheckResult {
    fn complaint(&self) -> String {
        let sign = if self.check == "distinct_prompts" {
            "at least"
        } else {
            "at most"
        };
        let mut lines = vec![format!(
            "{}: {} of {} ({:.1} %, {sign} {:.1} %): {}",
            self.check,
            self.count,
            self.of,
            self.share * 100.0,
            self.limit * 100.0,
            self.about
        )];
        for example in self.examples.iter().take(3) {
            lines.push(format!("  {}: {}", example.origin, example.what));
        }
        lines.join("\n")
    }

    fn line(&self) -> Vec<Cell> {
        vec![
            Cell::code(&self.check),
            Cell::Verdict(self.verdict),
            Cell::Count(self.count),
            Cell::Count(self.of),
            Cell::Share(self.share),
            Cell::Share(self.limit),
            Cell::text(&self.about),
        ]
    }
}
