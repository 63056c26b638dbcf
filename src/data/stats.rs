//! Statistics of data sets: rows, lengths, tokens, duplicates and what the metadata counts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;
use tokenizers::Tokenizer;

use super::key::prompt_digest;
use super::{Content, DataError, Row};

/// What is counted.
#[derive(Debug, Clone)]
pub struct StatsOptions {
    /// Metadata fields whose values are counted; a list counts once for each item.
    pub by: Vec<String>,
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
    /// The distribution of some values, none of no values.
    pub fn of(mut values: Vec<u64>) -> Option<Self> {
        values.sort_unstable();
        let (min, max) = (*values.first()?, *values.last()?);
        let sum: u64 = values.iter().sum();
        let rank = |percent: usize| values[(values.len() * percent).div_ceil(100).max(1) - 1];
        Some(Distribution {
            sum,
            mean: sum as f64 / values.len() as f64,
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

/// Tokens of each row, and of each answer.
fn tokens(rows: &[&Row], tokenizer: &Tokenizer) -> Result<(Vec<u64>, Vec<u64>), DataError> {
    let one = |row: &&Row| {
        let mut all = 0;
        for text in row.texts() {
            all += count(tokenizer, text)?;
        }
        let answer = row
            .answer()
            .map(|text| count(tokenizer, text))
            .transpose()?;
        Ok((all, answer))
    };
    let counted: Vec<(u64, Option<u64>)> =
        rows.par_iter().map(one).collect::<Result<_, DataError>>()?;
    let answers = counted.iter().filter_map(|(_, answer)| *answer).collect();
    Ok((counted.iter().map(|(all, _)| *all).collect(), answers))
}

fn dataset(
    rows: &[&Row],
    tokenizer: Option<&Tokenizer>,
    options: &StatsOptions,
) -> Result<DatasetStats, DataError> {
    let ids: BTreeSet<_> = rows.iter().map(|row| row.id).collect();
    let prompts: BTreeSet<_> = rows.iter().map(|row| prompt_digest(row)).collect();
    let answers: BTreeSet<&str> = rows.iter().filter_map(|row| row.answer()).collect();
    let chat = rows
        .iter()
        .filter(|row| matches!(row.content, Content::Messages(_)))
        .count();
    let characters = |row: &&Row| row.texts().map(|text| text.chars().count() as u64).sum();
    let (lengths, answer_lengths) = match tokenizer {
        Some(tokenizer) => tokens(rows, tokenizer)?,
        None => (Vec::new(), Vec::new()),
    };
    let too_long = options
        .max_length
        .filter(|_| !lengths.is_empty())
        .map(|max| {
            let over = lengths.iter().filter(|&&n| n > max as u64).count();
            TooLong {
                max_length: max as u64,
                rows: over as u64,
                share: over as f64 / lengths.len() as f64,
            }
        });
    Ok(DatasetStats {
        rows: rows.len() as u64,
        chat_rows: chat as u64,
        duplicates: (rows.len() - ids.len()) as u64,
        distinct_prompts: prompts.len() as u64,
        distinct_answers: (chat > 0).then_some(answers.len() as u64),
        characters: Distribution::of(rows.iter().map(characters).collect()),
        tokens: Distribution::of(lengths),
        answer_tokens: Distribution::of(answer_lengths),
        too_long,
        by: options
            .by
            .iter()
            .map(|field| (field.clone(), values(rows, field)))
            .collect(),
    })
}

/// How often each value of a metadata field occurs.
fn values(rows: &[&Row], field: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for row in rows {
        let names = match row.meta.get(field) {
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| match item {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                })
                .collect(),
            _ => row.meta_text(field).into_iter().collect::<Vec<_>>(),
        };
        for name in names {
            *counts.entry(name).or_default() += 1;
        }
    }
    counts
}

/// The statistics of labelled data sets, each alone and all together.
pub fn stats(datasets: &[(String, Vec<Row>)], options: &StatsOptions) -> Result<Stats, DataError> {
    let tokenizer = options.tokenizer.as_deref().map(load).transpose()?;
    let mut by_label = BTreeMap::new();
    for (label, rows) in datasets {
        let rows: Vec<&Row> = rows.iter().collect();
        by_label.insert(label.clone(), dataset(&rows, tokenizer.as_ref(), options)?);
    }
    let all: Vec<&Row> = datasets.iter().flat_map(|(_, rows)| rows).collect();
    Ok(Stats {
        format: 1,
        datasets: by_label,
        total: dataset(&all, tokenizer.as_ref(), options)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Message, Role};
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
            max_length: Some(3),
            tokenizer: Some(path),
        };
        let train = vec![
            row("a b", "a", json!(["CWE-1", "CWE-2"])),
            row("a b", "a", json!(["CWE-1"])),
            row("a a a", "b b b", json!("CWE-9")),
        ];
        let stats = stats(
            &[("train".into(), train), ("test".into(), vec![])],
            &options,
        )
        .unwrap();
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
    }

    #[test]
    fn percentiles_are_values_that_occur() {
        let all = Distribution::of((1..=100).collect()).unwrap();
        assert_eq!((all.p50, all.p90, all.p99, all.max), (50, 90, 99, 100));
        assert_eq!(Distribution::of(vec![7]).unwrap().p50, 7);
        assert_eq!(Distribution::of(vec![]), None);
    }
}
