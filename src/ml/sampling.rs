//! The next token from logits: the processors of Hugging Face's `transformers`, in its order.
//!
//! Repetition penalty, temperature, top-k, top-p, min-p, then one draw. Weights
//! are f64 and ranked by (weight, lowest id first), so that a token depends on
//! the logits, the options and the draw alone.

use std::cmp::Ordering;

/// Tokens that are ranked before anybody knows whether more are needed.
const HEAD: usize = 512;

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the most likely token, the lowest id among equals.
    pub temperature: f64,
    /// The most likely tokens that are kept, equals of the last one too; 0 keeps all.
    pub top_k: usize,
    /// The smallest set of most likely tokens whose probability reaches this is kept; 1 keeps all.
    pub top_p: f64,
    /// Tokens less likely than this share of the most likely one are dropped; 0 keeps all.
    pub min_p: f64,
    /// Logits of tokens that prompt or answer hold are divided by it, or multiplied where below 0; 1 changes nothing.
    pub repetition_penalty: f64,
    /// Seed of the draws; the same seed and prompt give the same text.
    pub seed: u64,
}

impl Default for Sampling {
    /// The most likely token.
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

/// A sampling option has a value that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option} must be {wanted}")]
pub struct BadSampling {
    /// The option, as files and the command line name it.
    pub option: &'static str,
    /// What it must be.
    pub wanted: &'static str,
}

impl Sampling {
    /// Checks every option.
    pub fn check(&self) -> Result<(), BadSampling> {
        let bad = |option, wanted| Err(BadSampling { option, wanted });
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return bad("temperature", "0 or above");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad("top_p", "above 0 and at most 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return bad("min_p", "from 0 to 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return bad("repetition_penalty", "above 0");
        }
        Ok(())
    }

    /// Whether the most likely token is taken and no number drawn.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// The next token at `draw` ∈ [0, 1). `seen` are the tokens so far, prompt included.
    pub fn pick(&self, logits: &mut [f32], seen: &[u32], draw: f64) -> u32 {
        self.penalize(logits, seen);
        if self.is_greedy() {
            return greedy(logits);
        }
        let kept = self.kept(logits);
        let mut left = draw * kept.iter().map(|(weight, _)| weight).sum::<f64>();
        for (weight, token) in &kept {
            left -= weight;
            if left < 0.0 {
                return *token;
            }
        }
        kept.last().map_or(0, |(_, token)| *token)
    }

    /// Applies the repetition penalty, once to each token that was seen.
    fn penalize(&self, logits: &mut [f32], seen: &[u32]) {
        if self.repetition_penalty == 1.0 {
            return;
        }
        let penalty = self.repetition_penalty as f32;
        let mut tokens = seen.to_vec();
        tokens.sort_unstable();
        tokens.dedup();
        for token in tokens {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = match *logit < 0.0 {
                    true => *logit * penalty,
                    false => *logit / penalty,
                };
            }
        }
    }

    /// The tokens that may be drawn, the likeliest first, with weights that
    /// are 1 for the likeliest.
    fn kept(&self, logits: &[f32]) -> Vec<(f64, u32)> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weigh = |logit: &f32| libm::exp(f64::from(logit - max) / self.temperature);
        let weights = logits.iter().map(weigh).zip(0..);
        // A weight of 0 is never drawn, nor is that of a logit that is no number.
        let mut weights: Vec<(f64, u32)> = weights.filter(|(weight, _)| *weight > 0.0).collect();
        if self.top_k > 0 && self.top_k < weights.len() {
            self.keep_top_k(&mut weights);
        }
        let total: f64 = weights.iter().map(|(weight, _)| weight).sum();
        let mut sorted = 0;
        let (mut above, mut count) = (0.0, 0);
        while count < weights.len() {
            if count == sorted {
                sorted = rank_more(&mut weights, sorted);
            }
            let weight = weights[count].0;
            // What is likelier reaches top_p already. `min_p` compares with
            // the likeliest, whose weight is 1.
            if count > 0 && (above >= self.top_p * total || weight < self.min_p) {
                break;
            }
            above += weight;
            count += 1;
        }
        weights.truncate(count);
        weights
    }

    fn keep_top_k(&self, weights: &mut Vec<(f64, u32)>) {
        let last = weights.select_nth_unstable_by(self.top_k - 1, rank).1.0;
        weights.retain(|(weight, _)| *weight >= last);
        weights.sort_unstable_by_key(|(_, token)| *token);
    }
}

/// The likelier first; among equals the lower id.
fn rank(a: &(f64, u32), b: &(f64, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Ranks more of `weights`, of which the first `sorted` are ranked; returns how many are then.
fn rank_more(weights: &mut [(f64, u32)], sorted: usize) -> usize {
    let rest = &mut weights[sorted..];
    if sorted == 0 && rest.len() > 4 * HEAD {
        rest.select_nth_unstable_by(HEAD, rank);
        rest[..HEAD].sort_unstable_by(rank);
        return HEAD;
    }
    rest.sort_unstable_by(rank);
    weights.len()
}

/// The most likely token; the lowest id among equals.
pub fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ml::rng::Stream;
    use serde_json::Value;

    fn sampling(temperature: f64) -> Sampling {
        Sampling {
            temperature,
            ..Sampling::default()
        }
    }

    /// Made by `tests/interop/sampling.py` with the processors of `transformers`.
    #[test]
    fn what_is_kept_is_what_transformers_keeps() {
        let text = include_str!("../../tests/fixtures/sampling.json");
        let cases: Vec<Value> = serde_json::from_str(text).unwrap();
        assert!(cases.len() >= 20);
        for case in cases {
            let number = |name: &str| case["options"][name].as_f64();
            let options = Sampling {
                temperature: number("temperature").unwrap_or(1.0),
                top_k: number("top_k").unwrap_or(0.0) as usize,
                top_p: number("top_p").unwrap_or(1.0),
                min_p: number("min_p").unwrap_or(0.0),
                repetition_penalty: number("repetition_penalty").unwrap_or(1.0),
                seed: 0,
            };
            let name = &case["options"];
            let list = |name: &str| case[name].as_array().unwrap().clone();
            let floats = |name: &str| -> Vec<f64> {
                list(name).iter().map(|x| x.as_f64().unwrap()).collect()
            };
            let mut logits: Vec<f32> = floats("logits").iter().map(|x| *x as f32).collect();
            let seen: Vec<u32> = floats("seen").iter().map(|x| *x as u32).collect();
            options.penalize(&mut logits, &seen);
            let kept = options.kept(&logits);
            let total: f64 = kept.iter().map(|(weight, _)| weight).sum();
            let mut ours = vec![0.0; logits.len()];
            for (weight, token) in kept {
                ours[token as usize] = weight / total;
            }
            for (ours, theirs) in ours.iter().zip(floats("probabilities")) {
                assert_eq!(*ours == 0.0, theirs == 0.0, "{name}: another set");
                assert!((ours - theirs).abs() < 2e-6, "{name}: {ours} {theirs}");
            }
        }
    }

    #[test]
    fn draws_fall_by_the_tokens_shares() {
        let mut logits: Vec<f32> = [0.5f32, 0.3, 0.15, 0.05].iter().map(|p| p.ln()).collect();
        let nucleus = Sampling {
            top_p: 0.9,
            ..sampling(1.0)
        };
        let mut counts = [0; 4];
        for i in 0..1000 {
            counts[nucleus.pick(&mut logits, &[], f64::from(i) / 1000.0) as usize] += 1;
        }
        assert_eq!(counts[3], 0, "outside of the nucleus");
        assert!((counts[0] - 526_i32).abs() < 3, "{counts:?}");
        assert_eq!(sampling(0.0).pick(&mut logits, &[], 0.99), 0);
        assert_eq!(sampling(0.01).pick(&mut logits, &[], 0.99), 0, "cold");
    }

    #[test]
    fn ranking_a_part_first_changes_nothing() {
        let mut logits = vec![0.0; 5000];
        Stream::new(1, "test", 0, "").normal(0.0, 2.0, &mut logits);
        for (top_p, min_p, top_k) in [
            (1.0, 0.0, 0),
            (0.99, 0.0, 0),
            (0.5, 0.0, 0),
            (1.0, 0.01, 700),
        ] {
            let options = Sampling {
                top_p,
                min_p,
                top_k,
                ..sampling(1.3)
            };
            let kept = options.kept(&logits);
            assert!(kept.is_sorted_by(|a, b| rank(a, b) == Ordering::Less));
            let total: f64 = kept.iter().map(|(weight, _)| weight).sum();
            for share in [0.0, 0.3, 0.999_999] {
                let mut left = share * total;
                let wanted = kept.iter().find(|(weight, _)| {
                    left -= weight;
                    left < 0.0
                });
                let token = options.pick(&mut logits.clone(), &[], share);
                assert_eq!(token, wanted.unwrap().1);
            }
        }
    }

    #[test]
    fn logits_that_are_no_numbers_are_never_drawn() {
        let mut logits = [f32::NAN, 1.0, f32::NEG_INFINITY];
        assert_eq!(sampling(1.0).pick(&mut logits, &[], 0.999), 1);
        let mut none = [f32::NAN; 3];
        assert_eq!(sampling(1.0).pick(&mut none, &[], 0.5), 0);
    }

    #[test]
    fn values_that_mean_nothing_are_refused() {
        let bad = |change: fn(&mut Sampling)| {
            let mut options = sampling(1.0);
            change(&mut options);
            options.check().unwrap_err().option
        };
        assert_eq!(bad(|s| s.temperature = -1.0), "temperature");
        assert_eq!(bad(|s| s.temperature = f64::NAN), "temperature");
        assert_eq!(bad(|s| s.top_p = 0.0), "top_p");
        assert_eq!(bad(|s| s.min_p = 1.5), "min_p");
        assert_eq!(bad(|s| s.repetition_penalty = 0.0), "repetition_penalty");
        assert_eq!(sampling(1.0).check(), Ok(()));
    }
}
