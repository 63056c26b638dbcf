//! Scores of models on the same rows: per metric a value, its n, an interval, and a paired comparison.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::alarm::{self, Alarm};
use super::chrf::Counts;
use super::fields::{field, normalise};
use super::generation::{BASE, Finish, Generation};
use super::stats;
use crate::data::{Row, RowId};

/// Version of `scores.json`. 1: the first.
pub const FORMAT: u32 = 1;

/// What to score and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Meta fields by whose values the rows are also scored apart.
    pub by: Vec<String>,
    /// Names of `Name: value` lines whose accuracy is measured.
    pub fields: Vec<String>,
    /// The model that the others are compared with.
    pub baseline: String,
    /// Bootstrap resamples.
    pub samples: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
    /// The share of unfinished answers above which there is an alarm.
    pub truncated_limit: f64,
    /// The number of rows below which there is an alarm.
    pub small_sample: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            by: Vec::new(),
            fields: Vec::new(),
            baseline: BASE.to_owned(),
            samples: 1000,
            seed: 0,
            truncated_limit: 0.1,
            small_sample: 30,
        }
    }
}

/// `scores.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// [`FORMAT`].
    pub format: u32,
    /// How many rows were scored.
    pub rows: u64,
    /// The model that the others are compared with; absent when it is not
    /// among the models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// Confidence of all intervals.
    pub confidence: f64,
    /// Bootstrap resamples behind the intervals that are not Wilson's.
    pub samples: u64,
    /// The models in the order of the generations.
    pub models: Vec<ModelScores>,
    /// What a reader must know before believing the numbers.
    pub alarms: Vec<Alarm>,
}

/// The scores of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelScores {
    /// [`BASE`] or the adapter's label.
    pub model: String,
    /// On all rows.
    pub overall: Group,
    /// By meta field, then by its value.
    pub by: BTreeMap<String, BTreeMap<String, Group>>,
}

/// The scores of one model on some rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// How many rows.
    pub n: u64,
    /// What was measured, always in the same order; what was not is absent.
    pub metrics: Vec<Score>,
}

impl Group {
    /// The score of that name.
    pub fn get(&self, name: &str) -> Option<&Score> {
        self.metrics.iter().find(|score| score.name == name)
    }
}

/// What the value of a score means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A share of rows, 0 to 1.
    Proportion,
    /// chrF, 0 to 100.
    Points,
    /// Mean loss per answer token.
    NatsPerToken,
    /// The exponential of a mean loss.
    Perplexity,
}

/// One measured value. Numbers are rounded to six significant digits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// `exact_match`, `normalised_match`, `field.NAME`, `chrf`, `loss`,
    /// `perplexity` or `truncated`.
    pub name: String,
    /// What the value means.
    pub unit: Unit,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// How many rows the value was measured on.
    pub n: u64,
    /// For proportions, on how many of them it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// For losses, the tokens they are the mean of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// The value.
    pub value: f64,
    /// Its 95 % interval: Wilson's for proportions, else the bootstrap's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// The comparison with the baseline, row by row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
}

/// A 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A value minus the baseline's on the same rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The difference.
    pub value: f64,
    /// Its interval by the paired bootstrap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// The test that gave `p`.
    pub test: Test,
    /// Its two-sided p-value.
    pub p: f64,
    /// For proportions, rows on which it holds now and did not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gained: Option<u64>,
    /// For proportions, rows on which it held before and does not now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
}

/// A paired test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// McNemar's exact test.
    McnemarExact,
    /// The paired bootstrap.
    PairedBootstrap,
}

/// The generations and the rows do not belong together.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// There is nothing to score.
    #[error("there are no {0} to score")]
    Empty(&'static str),
    /// A row cannot be scored.
    #[error(
        "row {0} ({1}) has no answer to compare with; only chat rows that end with the assistant can be scored"
    )]
    NoAnswer(RowId, String),
    /// The dataset holds a row twice.
    #[error("the dataset holds row {0} twice")]
    DuplicateRow(RowId),
    /// A model lacks rows, has some twice, or answers rows of another dataset.
    #[error("the generations of '{model}' are not those of the dataset: {}", problems(.missing, .duplicate, .unknown))]
    Mismatch {
        /// The model.
        model: String,
        /// Rows without a generation.
        missing: Vec<RowId>,
        /// Rows with more than one.
        duplicate: Vec<RowId>,
        /// Generations without a row.
        unknown: Vec<RowId>,
    },
    /// A generation was made for another answer than the row's.
    #[error("the generation of '{model}' for row {row} expects another answer than the row holds")]
    OtherAnswer {
        /// The model.
        model: String,
        /// The row.
        row: RowId,
    },
    /// The baseline is not among the models.
    #[error("the baseline '{0}' is not among the models: {1}")]
    NoBaseline(String, String),
    /// A meta field to group by is on no row.
    #[error("no row has the meta field '{0}' to group by; there are: {1}")]
    NoMeta(String, String),
    /// A field to score is in no expected answer.
    #[error("no expected answer has a line '{0}: …' to score")]
    NoField(String),
}

fn problems(missing: &[RowId], duplicate: &[RowId], unknown: &[RowId]) -> String {
    let parts = [
        ("missing", missing),
        ("more than once", duplicate),
        ("not in the dataset", unknown),
    ];
    let mut text = Vec::new();
    for (what, ids) in parts.into_iter().filter(|(_, ids)| !ids.is_empty()) {
        let shown: Vec<String> = ids.iter().take(5).map(RowId::to_string).collect();
        let dots = if ids.len() > 5 { ", …" } else { "" };
        text.push(format!("{} {what} ({}{dots})", ids.len(), shown.join(", ")));
    }
    text.join("; ")
}

/// Scores every model on exactly the rows of the dataset.
pub fn score(
    rows: &[Row],
    generations: &[Generation],
    options: &Options,
) -> Result<Scores, ScoreError> {
    let expected = answers(rows)?;
    check_options(rows, &expected, options)?;
    let models = align(rows, &expected, generations)?;
    let names: Vec<&str> = models.iter().map(|(name, _)| *name).collect();
    let baseline = names.iter().position(|name| *name == options.baseline);
    if baseline.is_none() && options.baseline != BASE {
        let known = names.join(", ");
        return Err(ScoreError::NoBaseline(options.baseline.clone(), known));
    }
    let judged: Vec<Vec<Judged>> = models
        .iter()
        .map(|(_, answers)| judge_all(answers, &expected, options))
        .collect();
    let mut scores = Scores {
        format: FORMAT,
        rows: rows.len() as u64,
        baseline: baseline.map(|i| names[i].to_owned()),
        confidence: stats::CONFIDENCE,
        samples: options.samples as u64,
        models: names
            .iter()
            .map(|name| ModelScores {
                model: (*name).to_owned(),
                overall: Group {
                    n: 0,
                    metrics: Vec::new(),
                },
                by: BTreeMap::new(),
            })
            .collect(),
        alarms: Vec::new(),
    };
    let all: Vec<usize> = (0..rows.len()).collect();
    let overall = score_group(&judged, &all, baseline, options);
    for (model, group) in scores.models.iter_mut().zip(overall) {
        model.overall = group;
    }
    for by in &options.by {
        for (value, members) in group_rows(rows, by) {
            let groups = score_group(&judged, &members, baseline, options);
            for (model, group) in scores.models.iter_mut().zip(groups) {
                let values = model.by.entry(by.clone()).or_default();
                values.insert(value.clone(), group);
            }
        }
    }
    scores.alarms = alarm::identical_outputs(generations);
    scores.alarms.extend(alarm::of_scores(&scores, options));
    Ok(scores)
}

/// The rows' answers, each row once.
fn answers(rows: &[Row]) -> Result<Vec<&str>, ScoreError> {
    if rows.is_empty() {
        return Err(ScoreError::Empty("rows"));
    }
    let mut seen = BTreeSet::new();
    rows.iter()
        .map(|row| {
            if !seen.insert(row.id) {
                return Err(ScoreError::DuplicateRow(row.id));
            }
            row.answer()
                .ok_or_else(|| ScoreError::NoAnswer(row.id, row.origin.clone()))
        })
        .collect()
}

fn check_options(rows: &[Row], expected: &[&str], options: &Options) -> Result<(), ScoreError> {
    for by in &options.by {
        if rows.iter().all(|row| row.meta_text(by).is_none()) {
            let known: BTreeSet<&str> = rows
                .iter()
                .flat_map(|row| row.meta.keys().map(String::as_str))
                .collect();
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            return Err(ScoreError::NoMeta(by.clone(), known));
        }
    }
    for name in &options.fields {
        if expected.iter().all(|answer| field(answer, name).is_none()) {
            return Err(ScoreError::NoField(name.clone()));
        }
    }
    Ok(())
}

/// The generations of each model in the order of the rows; the models in the
/// order of their first generation.
fn align<'a>(
    rows: &[Row],
    expected: &[&str],
    generations: &'a [Generation],
) -> Result<Vec<(&'a str, Vec<&'a Generation>)>, ScoreError> {
    let mut order: Vec<&str> = Vec::new();
    let mut of: BTreeMap<&str, BTreeMap<RowId, Vec<&Generation>>> = BTreeMap::new();
    for generation in generations {
        if !of.contains_key(generation.model.as_str()) {
            order.push(&generation.model);
        }
        let answers = of.entry(&generation.model).or_default();
        answers.entry(generation.row).or_default().push(generation);
    }
    if order.is_empty() {
        return Err(ScoreError::Empty("generations"));
    }
    order
        .into_iter()
        .map(|model| Ok((model, align_model(model, rows, expected, &of[model])?)))
        .collect()
}

fn align_model<'a>(
    model: &str,
    rows: &[Row],
    expected: &[&str],
    answers: &BTreeMap<RowId, Vec<&'a Generation>>,
) -> Result<Vec<&'a Generation>, ScoreError> {
    let ids: BTreeSet<RowId> = rows.iter().map(|row| row.id).collect();
    let missing: Vec<RowId> = rows
        .iter()
        .map(|row| row.id)
        .filter(|id| !answers.contains_key(id))
        .collect();
    let duplicate: Vec<RowId> = answers
        .iter()
        .filter(|(_, all)| all.len() > 1)
        .map(|(id, _)| *id)
        .collect();
    let unknown: Vec<RowId> = answers
        .keys()
        .filter(|id| !ids.contains(id))
        .copied()
        .collect();
    if !(missing.is_empty() && duplicate.is_empty() && unknown.is_empty()) {
        return Err(ScoreError::Mismatch {
            model: model.to_owned(),
            missing,
            duplicate,
            unknown,
        });
    }
    let aligned: Vec<&Generation> = rows.iter().map(|row| answers[&row.id][0]).collect();
    match aligned
        .iter()
        .zip(expected)
        .find(|(g, e)| g.expected != **e)
    {
        Some((other, _)) => Err(ScoreError::OtherAnswer {
            model: model.to_owned(),
            row: other.row,
        }),
        None => Ok(aligned),
    }
}

/// The value under which rows without the meta field are grouped.
const NOT_GIVEN: &str = "(not given)";

fn group_rows(rows: &[Row], by: &str) -> BTreeMap<String, Vec<usize>> {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        let value = row.meta_text(by).unwrap_or_else(|| NOT_GIVEN.to_owned());
        groups.entry(value).or_default().push(i);
    }
    groups
}

/// What is found out about one answer.
struct Judged {
    exact: bool,
    normalised: bool,
    /// For each scored field, whether it is right; none when the expected
    /// answer does not have it.
    fields: Vec<Option<bool>>,
    chrf: Counts,
    loss: Option<Loss>,
    truncated: bool,
}

/// Loss of one or several answers.
#[derive(Clone, Copy, Default)]
struct Loss {
    nats: f64,
    tokens: u64,
}

fn judge_all(answers: &[&Generation], expected: &[&str], options: &Options) -> Vec<Judged> {
    let judge =
        |(generation, expected): (&&Generation, &&str)| judge(generation, expected, options);
    answers.iter().zip(expected).map(judge).collect()
}

fn judge(generation: &Generation, expected: &str, options: &Options) -> Judged {
    let right = |name: &String| {
        let expected = field(expected, name)?;
        Some(field(&generation.text, name).is_some_and(|value| value == expected))
    };
    let tokens = generation.answer_tokens;
    Judged {
        exact: generation.text.trim() == expected.trim(),
        normalised: normalise(&generation.text) == normalise(expected),
        fields: options.fields.iter().map(right).collect(),
        chrf: Counts::of(&generation.text, expected),
        loss: generation.loss.filter(|_| tokens > 0).map(|mean| Loss {
            nats: mean * tokens as f64,
            tokens,
        }),
        truncated: generation.finish == Finish::Length,
    }
}

/// One metric of one model on some rows, with what a comparison needs.
struct Measured {
    score: Score,
    /// The rows it was measured on.
    rows: Vec<usize>,
    /// For proportions, whether it holds, row by row.
    hits: Option<Vec<bool>>,
    /// Its bootstrap values; those of another model on the same rows pair up.
    resampled: Vec<f64>,
}

/// The groups of all models on the same rows.
fn score_group(
    models: &[Vec<Judged>],
    rows: &[usize],
    baseline: Option<usize>,
    options: &Options,
) -> Vec<Group> {
    let mut measured: Vec<Vec<Measured>> = models
        .iter()
        .map(|judged| measure(judged, rows, options))
        .collect();
    if let Some(baseline) = baseline {
        let changes: Vec<Vec<Option<Change>>> = measured
            .iter()
            .map(|metrics| compare_all(metrics, &measured[baseline]))
            .collect();
        for (i, changes) in changes
            .into_iter()
            .enumerate()
            .filter(|(i, _)| *i != baseline)
        {
            for (metric, change) in measured[i].iter_mut().zip(changes) {
                metric.score.change = change;
            }
        }
    }
    measured
        .into_iter()
        .map(|metrics| Group {
            n: rows.len() as u64,
            metrics: with_perplexity(metrics),
        })
        .collect()
}

fn measure(judged: &[Judged], rows: &[usize], options: &Options) -> Vec<Measured> {
    let sample = Sample {
        judged,
        rows,
        options,
    };
    let mut metrics = vec![
        sample.proportion("exact_match", true, |j| Some(j.exact)),
        sample.proportion("normalised_match", true, |j| Some(j.normalised)),
    ];
    for (i, name) in options.fields.iter().enumerate() {
        metrics.push(sample.proportion(&format!("field.{name}"), true, |j| j.fields[i]));
    }
    metrics.push(sample.chrf());
    metrics.push(sample.loss());
    metrics.push(sample.proportion("truncated", false, |j| Some(j.truncated)));
    metrics.into_iter().flatten().collect()
}

/// Some rows of one model.
struct Sample<'a> {
    judged: &'a [Judged],
    rows: &'a [usize],
    options: &'a Options,
}

impl Sample<'_> {
    /// The rows on which `part` was measured, and what it was there.
    fn parts<T>(&self, part: impl Fn(&Judged) -> Option<T>) -> (Vec<usize>, Vec<T>) {
        let measured = |i: &usize| Some((*i, part(&self.judged[*i])?));
        self.rows.iter().filter_map(measured).unzip()
    }

    fn resample(&self, n: usize, statistic: impl FnMut(&[usize]) -> f64) -> Vec<f64> {
        stats::bootstrap(n, self.options.samples, self.options.seed, statistic)
    }

    fn proportion(
        &self,
        name: &str,
        higher_is_better: bool,
        hit: impl Fn(&Judged) -> Option<bool>,
    ) -> Option<Measured> {
        let (rows, hits) = self.parts(hit);
        let n = hits.len();
        let count = hits.iter().filter(|hit| **hit).count() as u64;
        let interval = stats::wilson(count, n as u64)?;
        let resampled = self.resample(n, |draw| {
            draw.iter().filter(|i| hits[**i]).count() as f64 / n as f64
        });
        Some(Measured {
            score: Score {
                name: name.to_owned(),
                unit: Unit::Proportion,
                higher_is_better,
                n: n as u64,
                count: Some(count),
                tokens: None,
                value: rounded(count as f64 / n as f64),
                interval: Some(Interval::rounded(interval)),
                change: None,
            },
            rows,
            hits: Some(hits),
            resampled,
        })
    }

    /// chrF of the corpus: the counts of all answers added up, then scored.
    fn chrf(&self) -> Option<Measured> {
        let (rows, counts) = self.parts(|j| Some(j.chrf));
        let corpus = |counts: &mut dyn Iterator<Item = &Counts>| {
            let mut sum = Counts::default();
            counts.for_each(|c| sum.add(c));
            sum.score()
        };
        let value = corpus(&mut counts.iter());
        let resampled = self.resample(counts.len(), |draw| {
            corpus(&mut draw.iter().map(|i| &counts[*i]))
        });
        mean("chrf", Unit::Points, true, rows, value, resampled)
    }

    /// The mean loss over the tokens of all expected answers.
    fn loss(&self) -> Option<Measured> {
        let (rows, losses) = self.parts(|j| j.loss);
        let total = |losses: &mut dyn Iterator<Item = &Loss>| {
            losses.fold(Loss::default(), |sum, loss| Loss {
                nats: sum.nats + loss.nats,
                tokens: sum.tokens + loss.tokens,
            })
        };
        let per_token = |sum: Loss| sum.nats / sum.tokens as f64;
        let all = total(&mut losses.iter());
        let resampled = self.resample(losses.len(), |draw| {
            per_token(total(&mut draw.iter().map(|i| &losses[*i])))
        });
        let mut measured = mean(
            "loss",
            Unit::NatsPerToken,
            false,
            rows,
            per_token(all),
            resampled,
        )?;
        measured.score.tokens = Some(all.tokens);
        Some(measured)
    }
}

/// A metric whose interval is the bootstrap's; none without rows.
fn mean(
    name: &str,
    unit: Unit,
    higher_is_better: bool,
    rows: Vec<usize>,
    value: f64,
    resampled: Vec<f64>,
) -> Option<Measured> {
    (!rows.is_empty()).then(|| Measured {
        score: Score {
            name: name.to_owned(),
            unit,
            higher_is_better,
            n: rows.len() as u64,
            count: None,
            tokens: None,
            value: rounded(value),
            interval: stats::percentile_interval(&resampled).map(Interval::rounded),
            change: None,
        },
        rows,
        hits: None,
        resampled,
    })
}

/// Each metric against the baseline's of the same name.
fn compare_all(metrics: &[Measured], baseline: &[Measured]) -> Vec<Option<Change>> {
    let partner = |ours: &Measured| baseline.iter().find(|b| b.score.name == ours.score.name);
    metrics
        .iter()
        .map(|ours| partner(ours).and_then(|theirs| compare(ours, theirs)))
        .collect()
}

/// Ours minus theirs; none unless both were measured on the same rows.
fn compare(ours: &Measured, theirs: &Measured) -> Option<Change> {
    if ours.rows != theirs.rows {
        return None;
    }
    let pairs = ours.resampled.iter().zip(&theirs.resampled);
    let differences: Vec<f64> = pairs.map(|(a, b)| a - b).collect();
    let mut change = Change {
        value: rounded(ours.score.value - theirs.score.value),
        interval: stats::percentile_interval(&differences).map(Interval::rounded),
        test: Test::PairedBootstrap,
        p: 1.0,
        gained: None,
        lost: None,
    };
    match (&ours.hits, &theirs.hits) {
        (Some(ours), Some(theirs)) => {
            let pairs = || ours.iter().zip(theirs);
            let gained = pairs().filter(|(a, b)| **a && !**b).count() as u64;
            let lost = pairs().filter(|(a, b)| !**a && **b).count() as u64;
            change.test = Test::McnemarExact;
            change.p = rounded(stats::mcnemar_exact(gained, lost));
            (change.gained, change.lost) = (Some(gained), Some(lost));
        }
        _ => change.p = rounded(stats::bootstrap_p(&differences)?),
    }
    Some(change)
}

/// Adds the perplexity behind the loss it comes from. It has no comparison of
/// its own: that of the loss says the same.
fn with_perplexity(metrics: Vec<Measured>) -> Vec<Score> {
    let mut scores = Vec::with_capacity(metrics.len() + 1);
    for Measured { score, .. } in metrics {
        let perplexity = (score.unit == Unit::NatsPerToken).then(|| Score {
            name: "perplexity".to_owned(),
            unit: Unit::Perplexity,
            value: rounded(score.value.exp()),
            interval: score
                .interval
                .map(|i| Interval::rounded((i.low.exp(), i.high.exp()))),
            change: None,
            ..score.clone()
        });
        scores.push(score);
        scores.extend(perplexity);
    }
    scores
}

impl Interval {
    fn rounded((low, high): (f64, f64)) -> Self {
        Interval {
            low: rounded(low),
            high: rounded(high),
        }
    }
}

/// Six significant digits: more is noise, and the last bits of `exp` and `ln`
/// differ between machines.
fn rounded(x: f64) -> f64 {
    format!("{x:.5e}").parse().unwrap_or(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Content, Message, Role};
    use crate::eval::AlarmKind;
    use serde_json::Value;

    /// `n` rows whose answer is `Severity: HIGH` or `LOW`, by turns.
    fn rows(n: usize) -> Vec<Row> {
        let row = |i: usize| {
            let answer = format!("Severity: {}\nFix {i}", ["HIGH", "LOW"][i % 2]);
            let messages = vec![
                Message::new(Role::User, format!("Finding {i}")),
                Message::new(Role::Assistant, answer),
            ];
            let tool = ["semgrep", "bandit"][i % 2];
            let meta = BTreeMap::from([("tool".to_owned(), Value::from(tool))]);
            Row::new(Content::Messages(messages), meta, format!("r:{i}"))
        };
        (0..n).map(row).collect()
    }

    /// What `model` answers: right on the first `right` rows, else wrong.
    fn answers(rows: &[Row], model: &str, right: usize, loss: Option<f64>) -> Vec<Generation> {
        let answer = |(i, row): (usize, &Row)| {
            let expected = row.answer().unwrap().to_owned();
            let wrong = format!("Severity: none of {model}");
            Generation {
                row: row.id,
                model: model.to_owned(),
                prompt: String::new(),
                text: if i < right { expected.clone() } else { wrong },
                expected,
                finish: if i % 20 == 19 {
                    Finish::Length
                } else {
                    Finish::Stop
                },
                tokens: 3,
                loss: loss.map(|l| l + (i % 7) as f64 / 100.0),
                answer_tokens: 2 + (i % 3) as u64,
                meta: BTreeMap::new(),
            }
        };
        rows.iter().enumerate().map(answer).collect()
    }

    fn two_models(n: usize) -> (Vec<Row>, Vec<Generation>) {
        let rows = rows(n);
        let mut generations = answers(&rows, BASE, n / 10, Some(2.0));
        generations.extend(answers(&rows, "stage1", n / 2, Some(1.0)));
        (rows, generations)
    }

    fn options() -> Options {
        Options {
            by: vec!["tool".into()],
            fields: vec!["Severity".into()],
            samples: 200,
            ..Options::default()
        }
    }

    fn kinds(scores: &Scores) -> Vec<AlarmKind> {
        scores.alarms.iter().map(|alarm| alarm.kind).collect()
    }

    #[test]
    fn a_better_model_is_shown_better_and_raises_no_alarm() {
        let (rows, generations) = two_models(80);
        let scores = score(&rows, &generations, &options()).unwrap();
        assert_eq!(scores.alarms, [], "{:?}", scores.alarms);
        let stage1 = &scores.models[1].overall;
        let exact = stage1.get("exact_match").unwrap();
        assert_eq!((exact.count, exact.n, exact.value), (Some(40), 80, 0.5));
        let change = exact.change.as_ref().unwrap();
        assert_eq!((change.gained, change.lost), (Some(32), Some(0)));
        assert_eq!(change.test, Test::McnemarExact);
        assert_eq!(change.p, 4.65661e-10, "2 · 0.5³²");
        let loss = stage1.get("loss").unwrap();
        assert!(loss.change.as_ref().unwrap().interval.unwrap().high < 0.0);
        assert_eq!(loss.tokens, Some(239));
        let perplexity = stage1.get("perplexity").unwrap().value;
        assert!((perplexity - loss.value.exp()).abs() < 1e-4);
        let bandit = &scores.models[1].by["tool"]["bandit"];
        assert_eq!(
            (bandit.n, bandit.get("field.Severity").unwrap().n),
            (40, 40)
        );
        assert!(
            scores.models[0]
                .overall
                .get("chrf")
                .unwrap()
                .change
                .is_none()
        );
    }

    #[test]
    fn the_loss_is_the_mean_over_tokens_not_over_rows() {
        let rows = rows(2);
        let mut generations = answers(&rows, BASE, 0, None);
        (generations[0].loss, generations[0].answer_tokens) = (Some(1.0), 3);
        (generations[1].loss, generations[1].answer_tokens) = (Some(2.0), 1);
        let scores = score(&rows, &generations, &Options::default()).unwrap();
        assert_eq!(scores.models[0].overall.get("loss").unwrap().value, 1.25);
    }

    #[test]
    fn what_was_not_measured_is_absent() {
        let rows = rows(40);
        let scores = score(&rows, &answers(&rows, BASE, 9, None), &Options::default()).unwrap();
        let json = serde_json::to_string(&scores).unwrap();
        assert!(
            !json.contains("loss") && !json.contains("perplexity"),
            "{json}"
        );
        assert!(!json.contains("change"), "{json}");
        assert_eq!(scores, serde_json::from_str(&json).unwrap());
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let (rows, generations) = two_models(33);
        let json = || {
            let scores = score(&rows, &generations, &options()).unwrap();
            serde_json::to_string(&scores).unwrap()
        };
        assert_eq!(json(), json());
    }

    #[test]
    fn ids_must_match_exactly_and_the_wrong_ones_are_named() {
        let (rows, mut generations) = two_models(40);
        let other = Content::Text("x".into()).id();
        let (lost, twice) = (generations[3].row, generations[4].row);
        generations[3].row = twice;
        generations[50].row = other;
        let fault = score(&rows, &generations, &options())
            .unwrap_err()
            .to_string();
        assert!(fault.contains("of 'base'"), "{fault}");
        assert!(fault.contains(&format!("1 missing ({lost})")), "{fault}");
        assert!(
            fault.contains(&format!("1 more than once ({twice})")),
            "{fault}"
        );
        generations[3].row = lost;
        let fault = score(&rows, &generations, &options())
            .unwrap_err()
            .to_string();
        assert!(
            fault.contains(&format!("1 not in the dataset ({other})")),
            "{fault}"
        );
    }

    #[test]
    fn an_answer_to_an_edited_row_is_refused() {
        let (rows, mut generations) = two_models(40);
        generations[5].expected.push('!');
        let fault = score(&rows, &generations, &options()).unwrap_err();
        assert!(matches!(fault, ScoreError::OtherAnswer { .. }), "{fault}");
    }

    #[test]
    fn unknown_names_are_errors_not_zeros() {
        let (rows, generations) = two_models(40);
        let with = |change: fn(&mut Options)| {
            let mut options = options();
            change(&mut options);
            score(&rows, &generations, &options)
                .unwrap_err()
                .to_string()
        };
        assert!(with(|o| o.by = vec!["tol".into()]).ends_with("there are: tool"));
        assert!(with(|o| o.fields = vec!["CWE".into()]).contains("'CWE: …'"));
        assert!(with(|o| o.baseline = "x".into()).ends_with("base, stage1"));
    }

    #[test]
    fn alarms_fire_on_planted_faults() {
        let rows = rows(20);
        let mut generations = answers(&rows, BASE, 0, Some(1.0));
        let copy = |g: &Generation| Generation {
            model: "stage1".into(),
            ..g.clone()
        };
        generations.extend(generations.clone().iter().map(copy));
        generations
            .iter_mut()
            .for_each(|g| g.finish = Finish::Length);
        let kinds = kinds(&score(&rows, &generations, &options()).unwrap());
        for kind in [
            AlarmKind::IdenticalOutputs,
            AlarmKind::SmallSample,
            AlarmKind::AllZero,
            AlarmKind::AllEqual,
            AlarmKind::Truncated,
            AlarmKind::NoImprovement,
        ] {
            assert!(kinds.contains(&kind), "{kind:?} is silent");
        }
        assert!(!kinds.contains(&AlarmKind::NoBaseline));
        assert!(!kinds.contains(&AlarmKind::Worse));
    }

    #[test]
    fn a_worse_model_and_a_missing_baseline_raise_alarms() {
        let rows = rows(40);
        let mut generations = answers(&rows, BASE, 30, Some(1.0));
        generations.extend(answers(&rows, "stage1", 3, Some(2.0)));
        let worse = score(&rows, &generations, &Options::default()).unwrap();
        assert_eq!(kinds(&worse), [AlarmKind::Worse]);
        let alone = answers(&rows, "stage1", 3, Some(2.0));
        let alone = score(&rows, &alone, &Options::default()).unwrap();
        assert_eq!(kinds(&alone), [AlarmKind::NoBaseline]);
    }
}
