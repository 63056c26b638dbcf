//! Which validation of a run was the best, and whether the run has stopped getting better.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::summary::Validation;

/// Which weights are a run's result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Those after the last step.
    #[default]
    Last,
    /// Those with the least validation loss, as `load_best_model_at_end` has it.
    Best,
}

/// When a run ends before its last step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct EarlyStopping {
    /// Validations in a row without improvement; 0 for never.
    pub patience: u64,
    /// How much less the loss has to be to count as an improvement.
    pub min_delta: f64,
}

/// What the validations so far came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// The one with the least loss, the first of equals.
    pub best: Option<Validation>,
    /// Validations since the last improvement.
    pub without: u64,
}

impl Watch {
    /// Takes a validation in; tells whether it is the best so far. As in the
    /// callback of transformers, any lower loss is the best one, and the
    /// validations are counted that did not beat the best one before them by
    /// `min_delta`.
    pub fn see(&mut self, found: Validation, min_delta: f64) -> bool {
        let (lower, enough) = match self.best {
            None => (!found.loss.is_nan(), true),
            Some(best) => {
                let lower = found.loss < best.loss;
                (lower, lower && best.loss - found.loss >= min_delta)
            }
        };
        self.without = if enough { 0 } else { self.without + 1 };
        if lower {
            self.best = Some(found);
        }
        lower
    }

    /// Why the run is to end, if it is.
    pub fn stop(&self, rule: EarlyStopping) -> Option<String> {
        let best = self.best?;
        let over = rule.patience > 0 && self.without >= rule.patience;
        over.then(|| {
            format!(
                "{} validations in a row were not below the best loss before them by {} or more; \
                 the best is {:.6} after step {}",
                self.without, rule.min_delta, best.loss, best.step
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps that are the best so far, and the one after which the run ends.
    fn course(losses: &[f64], patience: u64, min_delta: f64) -> (Vec<u64>, Option<u64>) {
        let rule = EarlyStopping {
            patience,
            min_delta,
        };
        let (mut watch, mut best) = (Watch::default(), Vec::new());
        for (step, loss) in (1..).zip(losses) {
            if watch.see(Validation { step, loss: *loss }, min_delta) {
                best.push(step);
            }
            if watch.stop(rule).is_some() {
                return (best, Some(step));
            }
        }
        (best, None)
    }

    #[test]
    fn it_stops_after_as_many_validations_as_it_has_patience_for() {
        let losses = [3.0, 2.0, 2.5, 2.0, 1.9, 1.95, 1.95];
        assert_eq!(course(&losses, 2, 0.0), (vec![1, 2], Some(4)));
        assert_eq!(course(&losses, 3, 0.0), (vec![1, 2, 5], None));
        assert_eq!(course(&losses, 0, 0.0), (vec![1, 2, 5], None));
    }

    #[test]
    fn a_small_improvement_is_the_best_but_no_reason_to_go_on() {
        let losses = [3.0, 2.75, 2.5, 2.25];
        assert_eq!(course(&losses, 2, 0.5), (vec![1, 2, 3], Some(3)));
        assert_eq!(course(&losses, 2, 0.25), (vec![1, 2, 3, 4], None));
    }

    #[test]
    fn a_loss_that_is_no_number_is_never_the_best() {
        assert_eq!(course(&[f64::NAN, 2.0, f64::NAN], 3, 0.0).0, [2]);
    }
}
