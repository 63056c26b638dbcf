//! Statistics of data sets: rows, lengths, tokens, duplicates, languages and what the metadata counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;
use tokenizers::Tokenizer;

use super::key::prompt_digest;
use super::language::{code_languages, natural_language};
use super::page::{Cell, Page};
use super::stream::each_row;
use super::{Content, DataError, Row};
use crate::hash::Digest;

/// What is counted.
#[derive(Debug, Clone)]
pub struct StatsOptions {
    /// Metadata fields whose values are counted; a list counts once for each item.
    pub by: Vec<String>,
    /// Metadata fields that are true or false, or numbers, of which shares and
    /// means are taken.
    pub ratios: Vec<String>,
    /// Whether the languages of texts are estimated.
    pub languages: bool,
    /// A row with more tokens is counted as too long.
    pub max_length: Option<usize>,
    /// `tokenizer.json`.
    pub tokenizer: Option<PathBuf>,
}

/// The statistics of several data sets. `stats.json` is this record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// Version of this file's format.
    pub format: u32,
    /// Each data set by its label.
    pub datasets: BTreeMap<String, DatasetStats>,
    /// All of them together.
    pub total: DatasetStats,
}

/// The statistics of one data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatasetStats {
    /// Rows.
    pub rows: u64,
    /// Rows that are conversations.
    pub chat_rows: u64,
    /// Rows whose content an earlier row has.
    pub duplicates: u64,
    /// Distinct prompts (of plain text, distinct texts).
    pub distinct_prompts: u64,
    /// Distinct answers; absent without conversations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distinct_answers: Option<u64>,
    /// Characters (Unicode scalar values) of a row; absent without rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub characters: Option<Distribution>,
    /// Tokens of a row's messages or text, without what a chat template adds;
    /// absent without a tokenizer or rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Distribution>,
    /// Tokens of the answers alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_tokens: Option<Distribution>,
    /// The limit and how many rows are over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub too_long: Option<TooLong>,
    /// Rows by the values of each metadata field; rows without the field are
    /// not counted.
    pub by: BTreeMap<String, BTreeMap<String, u64>>,
    /// Shares and means of metadata fields.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ratios: BTreeMap<String, Ratio>,
    /// Rows by the language of their prose, as trigrams estimate it from its
    /// first words; `unknown` where there is too little of it to say. Of the
    /// first 2,000 rows all are looked at, of later ones one in 32.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub languages: BTreeMap<String, u64>,
    /// Rows by the names on their code fences; a row counts once for each.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub code_languages: BTreeMap<String, u64>,
    /// How many rows have each number of tokens, or without a tokenizer of
    /// characters: what charts are drawn of.
    #[serde(skip)]
    pub lengths: BTreeMap<u64, u64>,
}

/// What a metadata field that is true or false, or a number, comes to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Ratio {
    /// Rows that have the field.
    pub rows: u64,
    /// Rows for which it is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub yes: Option<u64>,
    /// Their share of all rows, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// The mean of its numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
}

/// Rows over a limit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TooLong {
    /// Tokens a row may have.
    pub max_length: u64,
    /// Rows with more.
    pub rows: u64,
    /// Their share, 0 to 1.
    pub share: f64,
}

/// How values are distributed; a percentile is the nearest rank, a value that occurs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Distribution {
    /// Sum.
    pub sum: u64,
    /// Mean.
    pub mean: f64,
    /// Least.
    pub min: u64,
    /// Half of the values are at most this.
    pub p50: u64,
    /// 90 in 100 are at most this.
    pub p90: u64,
    /// 95 in 100 are at most this.
    pub p95: u64,
    /// 99 in 100 are at most this.
    pub p99: u64,
    /// Greatest.
    pub max: u64,
}

impl Distribution {
    /// The distribution of values, given how often each occurs; none of no values.
    pub fn of(counts: &BTreeMap<u64, u64>) -> Option<Self> {
        let (min, max) = (*counts.first_key_value()?.0, *counts.last_key_value()?.0);
        let n: u64 = counts.values().sum();
        let sum: u64 = counts.iter().map(|(value, count)| value * count).sum();
        let rank = |percent: u64| {
            let wanted = (n * percent).div_ceil(100).max(1);
            let mut met = 0;
            let found = counts.iter().find(|(_, count)| {
                met += **count;
                met >= wanted
            });
            found.map_or(max, |(value, _)| *value)
        };
        Some(Distribution {
            sum,
            mean: sum as f64 / n as f64,
            min,
            p50: rank(50),
            p90: rank(90),
            p95: rank(95),
            p99: rank(99),
            max,
        })
    }
}

/// Loads `tokenizer.json`.
fn load(path: &Path) -> Result<Tokenizer, DataError> {
    Tokenizer::from_file(path).map_err(|e| {
        DataError::Invalid(format!(
            "failed to load the tokenizer {}: {e}",
            path.display()
        ))
    })
}

fn count(tokenizer: &Tokenizer, text: &str) -> Result<u64, DataError> {
    let encoding = tokenizer.encode_fast(text, false);
    encoding
        .map(|encoding| encoding.len() as u64)
        .map_err(|e| DataError::Invalid(format!("failed to tokenize: {e}")))
}

/// What is counted of one row.
struct Fact {
    id: u64,
    prompt: u64,
    answer: Option<u64>,
    chat: bool,
    characters: u64,
    tokens: Option<u64>,
    answer_tokens: Option<u64>,
    /// The values of each field of `by`.
    by: Vec<Vec<String>>,
    /// The value of each field of `ratios`.
    ratios: Vec<Option<Value>>,
    language: Option<&'static str>,
    code: Vec<String>,
}

impl Fact {
    fn of(
        number: u64,
        row: &Row,
        tokenizer: Option<&Tokenizer>,
        options: &StatsOptions,
    ) -> Result<Self, DataError> {
        let (mut tokens, mut answer_tokens) = (None, None);
        if let Some(tokenizer) = tokenizer {
            let mut all = 0;
            for text in row.texts() {
                all += count(tokenizer, text)?;
            }
            tokens = Some(all);
            answer_tokens = row
                .answer()
                .map(|text| count(tokenizer, text))
                .transpose()?;
        }
        Ok(Fact {
            id: row.id.0.prefix(),
            prompt: prompt_digest(row).prefix(),
            answer: row
                .answer()
                .map(|text| Digest::of(text.as_bytes()).prefix()),
            chat: !matches!(row.content, Content::Text(_)),
            characters: row.texts().map(|text| text.chars().count() as u64).sum(),
            tokens,
            answer_tokens,
            by: options.by.iter().map(|field| values(row, field)).collect(),
            ratios: options
                .ratios
                .iter()
                .map(|field| row.meta.get(field).cloned())
                .collect(),
            language: (options.languages && is_looked_at(number)).then(|| natural_language(row)),
            code: if options.languages {
                code_languages(row)
            } else {
                Vec::new()
            },
        })
    }
}

/// Whether the language of a row is estimated, which takes longer than all else
/// of it: of the first rows all, of later ones one in so many.
fn is_looked_at(number: u64) -> bool {
    const ALL: u64 = 2000;
    const ONE_IN: u64 = 32;
    number < ALL || number.is_multiple_of(ONE_IN)
}

/// The values of a metadata field; a list has several.
fn values(row: &Row, field: &str) -> Vec<String> {
    match row.meta.get(field) {
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| match item {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            })
            .collect(),
        _ => row.meta_text(field).into_iter().collect(),
    }
}

/// Counts while the rows of a data set go past: 24 bytes for each row, and
/// numbers by value.
#[derive(Default, Clone)]
struct Tally {
    ids: Vec<u64>,
    prompts: Vec<u64>,
    answers: Vec<u64>,
    chats: u64,
    characters: BTreeMap<u64, u64>,
    tokens: BTreeMap<u64, u64>,
    answer_tokens: BTreeMap<u64, u64>,
    by: Vec<BTreeMap<String, u64>>,
    ratios: Vec<(u64, u64, u64, f64)>,
    languages: BTreeMap<String, u64>,
    code: BTreeMap<String, u64>,
}

impl Tally {
    fn add(&mut self, fact: Fact) {
        let count =
            |counts: &mut BTreeMap<u64, u64>, value: u64| *counts.entry(value).or_default() += 1;
        self.ids.push(fact.id);
        self.prompts.push(fact.prompt);
        self.answers.extend(fact.answer);
        self.chats += u64::from(fact.chat);
        count(&mut self.characters, fact.characters);
        fact.tokens
            .into_iter()
            .for_each(|n| count(&mut self.tokens, n));
        fact.answer_tokens
            .into_iter()
            .for_each(|n| count(&mut self.answer_tokens, n));
        self.by.resize_with(fact.by.len(), BTreeMap::new);
        for (counts, values) in self.by.iter_mut().zip(fact.by) {
            for value in values {
                *counts.entry(value).or_default() += 1;
            }
        }
        self.ratios.resize(fact.ratios.len(), (0, 0, 0, 0.0));
        for ((rows, yes, numbers, sum), value) in self.ratios.iter_mut().zip(fact.ratios) {
            *rows += u64::from(value.is_some());
            *yes += u64::from(value == Some(Value::Bool(true)));
            if let Some(number) = value.as_ref().and_then(Value::as_f64) {
                *numbers += 1;
                *sum += number;
            }
        }
        if let Some(language) = fact.language {
            *self.languages.entry(language.to_owned()).or_default() += 1;
        }
        for name in fact.code {
            *self.code.entry(name).or_default() += 1;
        }
    }

    /// Adds what another data set came to; the long lists are moved, not copied,
    /// where there are none yet.
    fn join(&mut self, mut other: Tally) {
        let append = |into: &mut Vec<u64>, from: &mut Vec<u64>| match into.is_empty() {
            true => std::mem::swap(into, from),
            false => into.append(from),
        };
        append(&mut self.ids, &mut other.ids);
        append(&mut self.prompts, &mut other.prompts);
        append(&mut self.answers, &mut other.answers);
        let sum = |into: &mut BTreeMap<u64, u64>, from: &BTreeMap<u64, u64>| {
            from.iter()
                .for_each(|(value, n)| *into.entry(*value).or_default() += n);
        };
        let names = |into: &mut BTreeMap<String, u64>, from: &BTreeMap<String, u64>| {
            from.iter()
                .for_each(|(name, n)| *into.entry(name.clone()).or_default() += n);
        };
        self.chats += other.chats;
        sum(&mut self.characters, &other.characters);
        sum(&mut self.tokens, &other.tokens);
        sum(&mut self.answer_tokens, &other.answer_tokens);
        self.by
            .resize_with(self.by.len().max(other.by.len()), BTreeMap::new);
        self.by
            .iter_mut()
            .zip(&other.by)
            .for_each(|(into, from)| names(into, from));
        self.ratios
            .resize(self.ratios.len().max(other.ratios.len()), (0, 0, 0, 0.0));
        for (into, from) in self.ratios.iter_mut().zip(&other.ratios) {
            *into = (
                into.0 + from.0,
                into.1 + from.1,
                into.2 + from.2,
                into.3 + from.3,
            );
        }
        names(&mut self.languages, &other.languages);
        names(&mut self.code, &other.code);
    }

    fn stats(&mut self, options: &StatsOptions) -> DatasetStats {
        let rows = self.ids.len() as u64;
        let too_long = options
            .max_length
            .filter(|_| !self.tokens.is_empty())
            .map(|max| {
                let over: u64 = self.tokens.range(max as u64 + 1..).map(|(_, n)| n).sum();
                TooLong {
                    max_length: max as u64,
                    rows: over,
                    share: over as f64 / rows as f64,
                }
            });
        let lengths = if self.tokens.is_empty() {
            &self.characters
        } else {
            &self.tokens
        };
        self.by.resize_with(options.by.len(), BTreeMap::new);
        self.ratios.resize(options.ratios.len(), (0, 0, 0, 0.0));
        DatasetStats {
            rows,
            chat_rows: self.chats,
            duplicates: rows - distinct(&mut self.ids),
            distinct_prompts: distinct(&mut self.prompts),
            distinct_answers: (self.chats > 0).then(|| distinct(&mut self.answers)),
            characters: Distribution::of(&self.characters),
            tokens: Distribution::of(&self.tokens),
            answer_tokens: Distribution::of(&self.answer_tokens),
            too_long,
            by: options.by.iter().cloned().zip(self.by.clone()).collect(),
            ratios: options
                .ratios
                .iter()
                .cloned()
                .zip(&self.ratios)
                .filter(|(_, (have, ..))| *have > 0)
                .map(|(name, ratio)| (name, Ratio::of(*ratio, rows)))
                .collect(),
            languages: self.languages.clone(),
            code_languages: self.code.clone(),
            lengths: lengths.clone(),
        }
    }
}

impl Ratio {
    fn of((rows, yes, numbers, sum): (u64, u64, u64, f64), all: u64) -> Self {
        let truths = numbers < rows;
        Ratio {
            rows,
            yes: truths.then_some(yes),
            share: truths.then(|| yes as f64 / all as f64),
            mean: (numbers > 0).then(|| sum / numbers as f64),
        }
    }
}

/// How many different numbers there are.
fn distinct(numbers: &mut [u64]) -> u64 {
    numbers.par_sort_unstable();
    numbers.chunk_by(|a, b| a == b).count() as u64
}

/// The statistics of labelled data sets, each alone and all together.
pub fn stats(datasets: &[(String, PathBuf)], options: &StatsOptions) -> Result<Stats, DataError> {
    let tokenizer = options.tokenizer.as_deref().map(load).transpose()?;
    let mut by_label = BTreeMap::new();
    let mut all = Tally::default();
    for (label, path) in datasets {
        let mut tally = Tally::default();
        let work = |number, row: Row| Fact::of(number, &row, tokenizer.as_ref(), options);
        each_row(path, work, |fact| {
            tally.add(fact);
            Ok(())
        })?;
        by_label.insert(label.clone(), tally.stats(options));
        all.join(tally);
    }
    Ok(Stats {
        format: 2,
        datasets: by_label,
        total: all.stats(options),
    })
}

impl Stats {
    /// The page; `charts` are drawings that belong to it.
    pub fn html(&self, charts: &[String]) -> String {
        let mut page = Page::new("Data sets", None);
        let mut sets: Vec<(&str, &DatasetStats)> = self
            .datasets
            .iter()
            .map(|(label, set)| (label.as_str(), set))
            .collect();
        if sets.len() > 1 {
            sets.push(("together", &self.total));
        }
        let head = [
            "data set",
            "rows",
            "duplicates",
            "distinct prompts",
            "distinct answers",
            "tokens",
            "median",
            "95 %",
            "most",
            "too long",
        ];
        page.table(
            &head,
            &sets
                .iter()
                .map(|(label, set)| set.line(label))
                .collect::<Vec<_>>(),
        );
        for chart in charts {
            page.drawing(chart);
        }
        for (field, counts) in &self.total.by {
            if !counts.is_empty() {
                page.heading(&format!("By {field}"), None);
                self.counts(&mut page, &sets, counts.keys(), |set, name| {
                    set.by.get(field)?.get(name).copied()
                });
            }
        }
        if !self.total.ratios.is_empty() {
            let lines: Vec<Vec<Cell>> = sets
                .iter()
                .flat_map(|(label, set)| set.ratio_lines(label))
                .collect();
            page.heading("Ratios", None).table(
                &["data set", "field", "rows", "true", "share", "mean"],
                &lines,
            );
        }
        if !self.total.languages.is_empty() {
            page.heading(
                "Languages of the prose (estimated; of large data sets in a sample)",
                None,
            );
            self.counts(
                &mut page,
                &sets,
                self.total.languages.keys(),
                |set, name| set.languages.get(name).copied(),
            );
        }
        if !self.total.code_languages.is_empty() {
            page.heading("Languages of code fences", None);
            self.counts(
                &mut page,
                &sets,
                self.total.code_languages.keys(),
                |set, name| set.code_languages.get(name).copied(),
            );
        }
        page.finish()
    }

    /// A table of counts: a line for each name, a column for each data set.
    fn counts<'a>(
        &self,
        page: &mut Page,
        sets: &[(&str, &DatasetStats)],
        names: impl Iterator<Item = &'a String>,
        of: impl Fn(&DatasetStats, &str) -> Option<u64>,
    ) {
        let mut head = vec![""];
        head.extend(sets.iter().map(|(label, _)| *label));
        let line = |name: &String| {
            let mut line = vec![Cell::code(name)];
            line.extend(
                sets.iter()
                    .map(|(_, set)| Cell::Count(of(set, name).unwrap_or(0))),
            );
            line
        };
        let mut lines: Vec<Vec<Cell>> = names.map(line).collect();
        let total = |line: &[Cell]| match line.last() {
            Some(Cell::Count(n)) => std::cmp::Reverse(*n),
            _ => std::cmp::Reverse(0),
        };
        lines.sort_by_key(|line| total(line));
        page.table(&head, &lines);
    }
}

impl DatasetStats {
    fn line(&self, label: &str) -> Vec<Cell> {
        let tokens = |of: fn(&Distribution) -> u64| {
            self.tokens
                .as_ref()
                .map_or(Cell::Missing, |t| Cell::Count(of(t)))
        };
        vec![
            Cell::code(label),
            Cell::Count(self.rows),
            Cell::Count(self.duplicates),
            Cell::Count(self.distinct_prompts),
            self.distinct_answers.map_or(Cell::Missing, Cell::Count),
            tokens(|t| t.sum),
            tokens(|t| t.p50),
            tokens(|t| t.p95),
            tokens(|t| t.max),
            self.too_long
                .as_ref()
                .map_or(Cell::Missing, |over| Cell::Share(over.share)),
        ]
    }

    fn ratio_lines(&self, label: &str) -> Vec<Vec<Cell>> {
        let line = |(field, ratio): (&String, &Ratio)| {
            vec![
                Cell::code(label),
                Cell::code(field),
                Cell::Count(ratio.rows),
                ratio.yes.map_or(Cell::Missing, Cell::Count),
                ratio.share.map_or(Cell::Missing, Cell::Share),
                ratio
                    .mean
                    .map_or(Cell::Missing, |mean| Cell::text(format!("{mean:.3}"))),
            ]
        };
        self.ratios.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Message, Role, write_rows};
    use serde_json::json;

    /// A tokenizer of whole words.
    const WORDS: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],
        "normalizer":null,"pre_tokenizer":{"type":"WhitespaceSplit"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"[UNK]":0,"a":1,"b":2},"unk_token":"[UNK]"}}"#;

    fn row(prompt: &str, answer: &str, cwe: Value) -> Row {
        let messages = vec![
            Message::new(Role::User, prompt),
            Message::new(Role::Assistant, answer),
        ];
        Row::new(
            Content::Messages(messages),
            BTreeMap::from([("cwe".into(), cwe)]),
            "x:1",
        )
    }

    #[test]
    fn tokens_duplicates_and_values_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, WORDS).unwrap();
        let options = StatsOptions {
            by: vec!["cwe".into()],
            ratios: vec!["enhanced".into(), "score".into()],
            languages: true,
            max_length: Some(3),
            tokenizer: Some(path),
        };
        let mut train = [
            row("a b", "a", json!(["CWE-1", "CWE-2"])),
            row("a b", "a", json!(["CWE-1"])),
            row("a a a", "b b b", json!("CWE-9")),
        ];
        train[0].meta.insert("enhanced".into(), true.into());
        train[1].meta.insert("enhanced".into(), false.into());
        train[2].meta.insert("score".into(), 0.5.into());
        let sets = [("train", &train[..]), ("test", &[])].map(|(label, rows)| {
            let path = folder.path().join(label);
            write_rows(&path, rows).unwrap();
            (label.to_owned(), path)
        });
        let stats = stats(&sets, &options).unwrap();
        let train = &stats.datasets["train"];
        assert_eq!(
            (train.rows, train.duplicates, train.distinct_prompts),
            (3, 1, 2)
        );
        let tokens = train.tokens.as_ref().unwrap();
        assert_eq!((tokens.sum, tokens.p50, tokens.max), (12, 3, 6));
        assert_eq!(train.answer_tokens.as_ref().unwrap().sum, 5);
        assert_eq!(train.too_long.as_ref().unwrap().rows, 1);
        assert_eq!(
            train.by["cwe"],
            BTreeMap::from([
                ("CWE-1".into(), 2),
                ("CWE-2".into(), 1),
                ("CWE-9".into(), 1)
            ])
        );
        assert_eq!(
            stats.datasets["test"].tokens, None,
            "nothing measured, nothing said"
        );
        assert_eq!(stats.total.rows, 3);
        let enhanced = &train.ratios["enhanced"];
        assert_eq!(
            (enhanced.rows, enhanced.yes, enhanced.share),
            (2, Some(1), Some(1.0 / 3.0))
        );
        assert_eq!(
            (train.ratios["score"].yes, train.ratios["score"].mean),
            (None, Some(0.5))
        );
        assert_eq!(train.languages["unknown"], 3);
        let page = stats.html(&[]);
        assert!(
            page.contains("not measured") && page.contains("CWE-9"),
            "{page}"
        );
    }

    #[test]
    fn percentiles_are_values_that_occur() {
        let all = Distribution::of(&(1..=100).map(|n| (n, 1)).collect()).unwrap();
        assert_eq!((all.p50, all.p90, all.p99, all.max), (50, 90, 99, 100));
        assert_eq!(Distribution::of(&[(7, 1)].into()).unwrap().p50, 7);
        assert_eq!(Distribution::of(&BTreeMap::new()), None);
    }
}
