//! Alarms: what a reader must know before believing a number.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::generation::Generation;
use super::score::{Options, Score, Scores, Unit};
use crate::data::RowId;

/// Below this p-value a change counts as one.
const SIGNIFICANT: f64 = 0.05;

/// One alarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// What kind of trouble.
    pub kind: AlarmKind,
    /// The models it is about.
    pub models: Vec<String>,
    /// One sentence for a person.
    pub message: String,
}

/// The kinds of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// Models that should differ wrote the same text on every row.
    IdenticalOutputs,
    /// A metric is zero for every model.
    AllZero,
    /// A metric has the same value for every model.
    AllEqual,
    /// Too few rows.
    SmallSample,
    /// Too many answers were cut off.
    Truncated,
    /// There is nothing to compare with.
    NoBaseline,
    /// A metric is not better than the baseline's beyond chance.
    NoImprovement,
    /// A metric is worse than the baseline's beyond chance.
    Worse,
}

impl Alarm {
    fn new(kind: AlarmKind, models: &[&str], message: String) -> Self {
        let models = models.iter().map(|model| (*model).to_owned()).collect();
        Alarm {
            kind,
            models,
            message,
        }
    }
}

/// An alarm for every set of two or more models that wrote the same text on
/// every row. Works on any generations, also incomplete ones.
pub fn identical_outputs(generations: &[Generation]) -> Vec<Alarm> {
    let mut order: Vec<&str> = Vec::new();
    let mut outputs: BTreeMap<&str, BTreeMap<RowId, &str>> = BTreeMap::new();
    for generation in generations {
        if !outputs.contains_key(generation.model.as_str()) {
            order.push(&generation.model);
        }
        let texts = outputs.entry(&generation.model).or_default();
        texts.insert(generation.row, &generation.text);
    }
    let mut alarms = Vec::new();
    while let Some(first) = order.first().copied() {
        let same: Vec<&str> = order
            .iter()
            .copied()
            .filter(|model| outputs[model] == outputs[first])
            .collect();
        order.retain(|model| !same.contains(model));
        if same.len() > 1 {
            let message = format!(
                "{} wrote the same text on all {} rows",
                list(&same),
                outputs[first].len()
            );
            alarms.push(Alarm::new(AlarmKind::IdenticalOutputs, &same, message));
        }
    }
    alarms
}

/// All alarms that the numbers themselves give.
pub(super) fn of_scores(scores: &Scores, options: &Options) -> Vec<Alarm> {
    let mut alarms = small_samples(scores, options);
    if scores.baseline.is_none() {
        let message = "there is no baseline: no number shows what training changed".to_owned();
        alarms.push(Alarm::new(AlarmKind::NoBaseline, &[], message));
    }
    alarms.extend(constant_metrics(scores));
    alarms.extend(truncated(scores, options));
    alarms.extend(changes(scores));
    alarms
}

fn small_samples(scores: &Scores, options: &Options) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let limit = options.small_sample;
    if scores.rows < limit {
        let message = format!("only {} rows were scored, fewer than {limit}", scores.rows);
        alarms.push(Alarm::new(AlarmKind::SmallSample, &[], message));
    }
    let Some(first) = scores.models.first() else {
        return alarms;
    };
    for (by, groups) in &first.by {
        let small: Vec<String> = groups
            .iter()
            .filter(|(_, group)| group.n < limit)
            .map(|(value, group)| format!("{value} ({})", group.n))
            .collect();
        if !small.is_empty() {
            let message = format!("by {by}, fewer than {limit} rows for {}", small.join(", "));
            alarms.push(Alarm::new(AlarmKind::SmallSample, &[], message));
        }
    }
    alarms
}

/// Metrics that cannot tell the models apart. The share of truncated answers
/// is left out: that all models finish is good news.
fn constant_metrics(scores: &Scores) -> Vec<Alarm> {
    let Some((first, others)) = scores.models.split_first() else {
        return Vec::new();
    };
    let models: Vec<&str> = scores.models.iter().map(|m| m.model.as_str()).collect();
    let mut alarms = Vec::new();
    for score in first.overall.metrics.iter().filter(|s| is_quality(s)) {
        let mut values = others.iter().map(|m| m.overall.get(&score.name));
        if !values.all(|other| other.is_some_and(|other| other.value == score.value)) {
            continue;
        }
        let name = label(&score.name);
        if score.value == 0.0 {
            let message = format!("{name} is zero for {}", list(&models));
            alarms.push(Alarm::new(AlarmKind::AllZero, &models, message));
        } else if !others.is_empty() {
            let message = format!("{name} is exactly the same for {}", list(&models));
            alarms.push(Alarm::new(AlarmKind::AllEqual, &models, message));
        }
    }
    alarms
}

fn truncated(scores: &Scores, options: &Options) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    for model in &scores.models {
        let Some(share) = model.overall.get("truncated") else {
            continue;
        };
        if share.value > options.truncated_limit {
            let message = format!(
                "{} did not finish {} of {} answers within the token limit",
                model.model,
                share.count.unwrap_or_default(),
                share.n
            );
            alarms.push(Alarm::new(AlarmKind::Truncated, &[&model.model], message));
        }
    }
    alarms
}

/// Which metrics got worse, and which did not get better.
fn changes(scores: &Scores) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let baseline = scores.baseline.as_deref().unwrap_or_default();
    for model in &scores.models {
        let (mut worse, mut same) = (Vec::new(), Vec::new());
        for score in model.overall.metrics.iter().filter(|s| is_quality(s)) {
            let Some(change) = &score.change else {
                continue;
            };
            let better = (change.value > 0.0) == score.higher_is_better && change.value != 0.0;
            let name = label(&score.name);
            match change.p < SIGNIFICANT {
                true if better => {}
                true => worse.push(name),
                false => same.push(name),
            }
        }
        let name = &model.model;
        if !worse.is_empty() {
            let message = format!("{name} is worse than {baseline} in {}", worse.join(", "));
            alarms.push(Alarm::new(AlarmKind::Worse, &[name], message));
        }
        if !same.is_empty() {
            let same = same.join(", ");
            let message = format!("{name} shows no improvement over {baseline} in {same}");
            alarms.push(Alarm::new(AlarmKind::NoImprovement, &[name], message));
        }
    }
    alarms
}

/// Whether a score says how good the answers are. Perplexity says what the
/// loss says.
fn is_quality(score: &Score) -> bool {
    score.name != "truncated" && score.unit != Unit::Perplexity
}

/// The name of a metric for people.
pub(super) fn label(metric: &str) -> String {
    match metric {
        "exact_match" => "exact match".to_owned(),
        "normalised_match" => "normalised match".to_owned(),
        "chrf" => "chrF".to_owned(),
        "truncated" => "unfinished answers".to_owned(),
        other => other.strip_prefix("field.").unwrap_or(other).to_owned(),
    }
}

fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
