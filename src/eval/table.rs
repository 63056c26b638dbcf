//! Scores as Markdown for people (`scores.md`).

use std::collections::BTreeSet;
use std::fmt::Write;

use super::alarm::label;
use super::score::{Change, Group, Score, Scores, Unit};

/// All scores as one document: alarms first, then all rows, then each group.
pub fn markdown(scores: &Scores) -> String {
    let mut text = String::from("# Scores\n\n");
    let _ = writeln!(text, "{}\n", preamble(scores));
    if !scores.alarms.is_empty() {
        text.push_str("## Alarms\n\n");
        for alarm in &scores.alarms {
            let _ = writeln!(text, "- {}", escaped(&alarm.message));
        }
        text.push('\n');
    }
    text.push_str("## All rows\n\n");
    let overall = scores.models.iter().map(|m| (m.model.as_str(), &m.overall));
    text.push_str(&table(overall.collect()));
    let fields: BTreeSet<&String> = scores.models.iter().flat_map(|m| m.by.keys()).collect();
    for by in fields {
        let _ = write!(text, "\n## By {}\n", escaped(by));
        let values: BTreeSet<&String> = scores
            .models
            .iter()
            .filter_map(|m| m.by.get(by))
            .flat_map(|values| values.keys())
            .collect();
        for value in values {
            let _ = write!(text, "\n### {}\n\n", escaped(value));
            let groups = scores.models.iter().filter_map(|m| {
                let group = m.by.get(by)?.get(value)?;
                Some((m.model.as_str(), group))
            });
            text.push_str(&table(groups.collect()));
        }
    }
    text
}

fn preamble(scores: &Scores) -> String {
    let mut text = format!(
        "{} rows. In brackets {:.0} % intervals: Wilson's for shares, else percentiles of {} bootstrap resamples.",
        scores.rows,
        100.0 * scores.confidence,
        scores.samples
    );
    if let Some(baseline) = &scores.baseline {
        let _ = write!(
            text,
            " Δ is the difference to {}, row by row, with the p-value of McNemar's exact test for shares and of the paired bootstrap otherwise.",
            escaped(baseline)
        );
    }
    text
}

/// One row per model, one column per metric that any of them has.
fn table(groups: Vec<(&str, &Group)>) -> String {
    let mut names: Vec<&str> = Vec::new();
    for score in groups.iter().flat_map(|(_, group)| &group.metrics) {
        if !names.contains(&score.name.as_str()) {
            names.push(&score.name);
        }
    }
    let mut text = String::from("| model | n |");
    for name in &names {
        let _ = write!(text, " {} |", escaped(&label(name)));
    }
    text.push_str("\n|---|---:|");
    text.push_str(&"---|".repeat(names.len()));
    text.push('\n');
    for (model, group) in groups {
        let _ = write!(text, "| {} | {} |", escaped(model), group.n);
        for name in &names {
            let cell = group.get(name).map_or("not measured".to_owned(), cell);
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    text
}

fn cell(score: &Score) -> String {
    let mut cell = number(score.value, score.unit);
    if let Some(interval) = score.interval {
        let (low, high) = (interval.low, interval.high);
        let _ = write!(
            cell,
            " [{}, {}]",
            number(low, score.unit),
            number(high, score.unit)
        );
    }
    if let Some(change) = &score.change {
        let _ = write!(cell, "<br>{}", delta(change, score.unit));
    }
    cell
}

fn delta(change: &Change, unit: Unit) -> String {
    let sign = if change.value < 0.0 { "−" } else { "+" };
    // The difference of two shares is in percentage points.
    let size = number(change.value.abs(), unit).replace('%', "pp");
    format!("Δ {sign}{size}, p = {}", p_value(change.p))
}

fn p_value(p: f64) -> String {
    if p < 0.0001 {
        format!("{p:.0e}")
    } else {
        format!("{p:.4}")
    }
}

fn number(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Proportion => format!("{:.1} %", 100.0 * value),
        Unit::Points => format!("{value:.1}"),
        Unit::NatsPerToken => format!("{value:.3}"),
        Unit::Perplexity => format!("{value:.2}"),
    }
}

/// Text that cannot break out of a table cell.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('|', "\\|")
        .replace('<', "&lt;")
        .replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Alarm, AlarmKind, FORMAT, Interval, ModelScores, Test};
    use std::collections::BTreeMap;

    #[test]
    fn a_table_shows_value_interval_and_change_or_that_nothing_was_measured() {
        let loss = Score {
            name: "loss".into(),
            unit: Unit::NatsPerToken,
            higher_is_better: false,
            n: 40,
            count: None,
            tokens: Some(99),
            value: 1.25,
            interval: Some(Interval {
                low: 1.0,
                high: 1.5,
            }),
            change: Some(Change {
                value: -0.5,
                interval: None,
                test: Test::PairedBootstrap,
                p: 0.002,
                gained: None,
                lost: None,
            }),
        };
        let model = |name: &str, metrics| ModelScores {
            model: name.into(),
            overall: Group { n: 40, metrics },
            by: BTreeMap::new(),
        };
        let scores = Scores {
            format: FORMAT,
            rows: 40,
            baseline: Some("base".into()),
            confidence: 0.95,
            samples: 100,
            models: vec![model("base", vec![]), model("a|b", vec![loss])],
            alarms: vec![Alarm {
                kind: AlarmKind::AllZero,
                models: vec![],
                message: "x < y".into(),
            }],
        };
        let text = markdown(&scores);
        assert!(text.contains("- x &lt; y\n"), "{text}");
        assert!(text.contains("| base | 40 | not measured |"), "{text}");
        assert!(
            text.contains("| a\\|b | 40 | 1.250 [1.000, 1.500]<br>Δ −0.500, p = 0.0020 |"),
            "{text}"
        );
    }
}
