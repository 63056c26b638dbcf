//! How likely models find the right answers: the losses of rows, and what they come to (`loss.json`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::stats::{bootstrap, percentile_interval};
use crate::data::RowId;

/// One line of `losses.jsonl`: what one model's loss of one row's answer is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowLoss {
    /// The row's id.
    pub row: RowId,
    /// [`super::BASE`] or the adapter's label.
    pub model: String,
    /// Mean nats per token of the answer, its end token included.
    pub loss: f64,
    /// How many tokens that are.
    pub tokens: u64,
}

/// `loss.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// Version of this format: 1.
    pub format: u32,
    /// The model that the others are compared with.
    pub baseline: String,
    /// By the model's name.
    pub models: BTreeMap<String, ModelLoss>,
}

/// What one model's losses come to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelLoss {
    /// Rows measured.
    pub rows: u64,
    /// Tokens of their answers.
    pub tokens: u64,
    /// Mean nats per token, over all tokens.
    pub loss: f64,
    /// e to the power of that.
    pub perplexity: f64,
    /// Against the baseline; none of the baseline itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<LossChange>,
}

/// A model's losses less the baseline's, row by row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossChange {
    /// Of the mean loss; above 0 the model is worse.
    pub loss: f64,
    /// Its 95 % interval by the paired bootstrap over rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<(f64, f64)>,
    /// Rows whose loss is less than the baseline's.
    pub better_rows: u64,
    /// Rows whose loss is greater.
    pub worse_rows: u64,
}

/// Losses cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum LossError {
    /// There is nothing to measure.
    #[error("there are no rows")]
    NoRows,
    /// No model has the name.
    #[error("the baseline '{baseline}' is none of the models: {models}")]
    NoBaseline {
        /// The name.
        baseline: String,
        /// The models there are.
        models: String,
    },
}

/// Sums up the losses of models, each given with its name, on the same rows in
/// the same order.
pub fn losses(
    models: &[(String, Vec<RowLoss>)],
    baseline: &str,
    samples: usize,
    seed: u64,
) -> Result<Losses, LossError> {
    let reference = models.iter().find(|(name, _)| name == baseline);
    let (_, reference) = reference.ok_or_else(|| {
        let names: Vec<&str> = models.iter().map(|(name, _)| name.as_str()).collect();
        LossError::NoBaseline {
            baseline: baseline.to_owned(),
            models: names.join(", "),
        }
    })?;
    if reference.is_empty() {
        return Err(LossError::NoRows);
    }
    let mut found = BTreeMap::new();
    for (name, rows) in models {
        let all: Vec<usize> = (0..rows.len()).collect();
        let loss = mean(rows, &all);
        let change = (name != baseline).then(|| change(rows, reference, samples, seed));
        let model = ModelLoss {
            rows: rows.len() as u64,
            tokens: rows.iter().map(|row| row.tokens).sum(),
            loss,
            perplexity: libm::exp(loss),
            change,
        };
        found.insert(name.clone(), model);
    }
    Ok(Losses {
        format: 1,
        baseline: baseline.to_owned(),
        models: found,
    })
}

/// Nats per token over some of the rows.
fn mean(rows: &[RowLoss], some: &[usize]) -> f64 {
    let (mut nats, mut tokens) = (0.0, 0);
    for row in some.iter().map(|i| &rows[*i]) {
        nats += row.loss * row.tokens as f64;
        tokens += row.tokens;
    }
    nats / tokens as f64
}

fn change(rows: &[RowLoss], reference: &[RowLoss], samples: usize, seed: u64) -> LossChange {
    let difference = |some: &[usize]| mean(rows, some) - mean(reference, some);
    let all: Vec<usize> = (0..rows.len()).collect();
    let pairs = || rows.iter().zip(reference);
    LossChange {
        loss: difference(&all),
        interval: percentile_interval(&bootstrap(rows.len(), samples, seed, difference)),
        better_rows: pairs().filter(|(a, b)| a.loss < b.loss).count() as u64,
        worse_rows: pairs().filter(|(a, b)| a.loss > b.loss).count() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Digest;

    fn model(name: &str, losses: &[(f64, u64)]) -> (String, Vec<RowLoss>) {
        let rows = losses
            .iter()
            .enumerate()
            .map(|(i, (loss, tokens))| RowLoss {
                row: RowId(Digest::of(&[i as u8])),
                model: name.to_owned(),
                loss: *loss,
                tokens: *tokens,
            });
        (name.to_owned(), rows.collect())
    }

    #[test]
    fn means_are_over_tokens_and_changes_over_rows() {
        let models = [
            model("a", &[(1.0, 3), (2.0, 1), (0.5, 4)]),
            model("b", &[(2.0, 3), (1.0, 1), (0.5, 4)]),
        ];
        let found = losses(&models, "a", 200, 1).unwrap();
        let (a, b) = (&found.models["a"], &found.models["b"]);
        assert_eq!((a.rows, a.tokens, a.loss), (3, 8, 7.0 / 8.0));
        assert_eq!((a.perplexity, &a.change), (libm::exp(7.0 / 8.0), &None));
        let change = b.change.as_ref().unwrap();
        assert_eq!(change.loss, 0.25);
        assert_eq!((change.better_rows, change.worse_rows), (1, 1));
        let (low, high) = change.interval.unwrap();
        assert!(low < 0.25 && 0.25 < high, "{low} {high}");
    }

    #[test]
    fn a_baseline_that_is_not_there_and_no_rows_are_errors() {
        let models = [model("a", &[(1.0, 3)])];
        let error = losses(&models, "base", 100, 1).unwrap_err().to_string();
        assert_eq!(error, "the baseline 'base' is none of the models: a");
        assert!(matches!(
            losses(&[model("a", &[])], "a", 100, 1),
            Err(LossError::NoRows)
        ));
    }
}
