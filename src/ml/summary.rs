//! What a training run tells: its progress, its log, and what it came to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::batch::{RowCounts, Sequences};
use super::config::ModelConfig;
use super::memory::Plan;
use super::model::Loss;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub total: u64,
    /// Tokens read so far.
    pub tokens: u64,
    /// Of the last step, nats per counted token.
    pub loss: f64,
    /// In the last step.
    pub learning_rate: f64,
    /// Of the last step, before clipping.
    pub grad_norm: f64,
}

impl Progress {
    /// The same for the log.
    pub(super) fn line(self) -> LogLine {
        LogLine::Step {
            step: self.step,
            tokens: self.tokens,
            loss: self.loss,
            learning_rate: self.learning_rate,
            grad_norm: self.grad_norm,
        }
    }
}

/// One line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogLine {
    /// What a step did.
    Step {
        /// Its number, from 1.
        step: u64,
        /// Tokens read so far.
        tokens: u64,
        /// Nats per counted token, over the step's micro-batches.
        loss: f64,
        /// In this step.
        learning_rate: f64,
        /// Before clipping.
        grad_norm: f64,
    },
    /// What a validation gave.
    Validation {
        /// Steps done.
        step: u64,
        /// Nats per counted token.
        validation_loss: f64,
    },
}

/// A validation's result.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Steps done.
    pub step: u64,
    /// Nats per counted token.
    pub loss: f64,
}

/// What a training run came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Optimizer steps.
    pub steps: u64,
    /// Times the data was gone through, fractions counted by steps.
    pub epochs: f64,
    /// Tokens read, with repetition.
    pub tokens: u64,
    /// Tokens that counted for the loss, with repetition.
    pub loss_tokens: u64,
    /// Of the first step.
    pub first_loss: f64,
    /// Of the last step.
    pub last_loss: f64,
    /// The least of all steps.
    pub min_loss: f64,
    /// The gradient's norm in the last step, before clipping.
    pub last_grad_norm: f64,
    /// The greatest of all steps.
    pub max_grad_norm: f64,
    /// Steps whose gradient was scaled down to `clip_norm`.
    pub clipped_steps: u64,
    /// All validations; none without validation rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validation: Vec<Validation>,
    /// The one with the least loss, the first of equals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Validation>,
    /// Where and why the run ended before its last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// The step after which the weights are those of the result, where it is
    /// not the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_step: Option<u64>,
}

/// A run that ended early.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stopped {
    /// Steps done.
    pub step: u64,
    /// Steps that were planned.
    pub planned: u64,
    /// Why, for people.
    pub reason: String,
}

impl Summary {
    /// Before the first step.
    pub(super) fn empty() -> Self {
        Summary {
            steps: 0,
            epochs: 0.0,
            tokens: 0,
            loss_tokens: 0,
            first_loss: f64::NAN,
            last_loss: f64::NAN,
            min_loss: f64::INFINITY,
            last_grad_norm: f64::NAN,
            max_grad_norm: 0.0,
            clipped_steps: 0,
            validation: Vec::new(),
            best: None,
            stopped: None,
            kept_step: None,
        }
    }

    /// Counts a step.
    pub(super) fn add(&mut self, step: u64, loss: Loss, grad_norm: f64, clipped: bool) {
        self.steps = step;
        self.last_grad_norm = grad_norm;
        self.max_grad_norm = self.max_grad_norm.max(grad_norm);
        self.clipped_steps += u64::from(clipped);
        self.loss_tokens += loss.tokens as u64;
        self.last_loss = loss.mean();
        self.min_loss = self.min_loss.min(self.last_loss);
        if step == 1 {
            self.first_loss = self.last_loss;
        }
    }
}

/// `training.json`: what was asked for, what was done and what came of it.
#[derive(Debug, Serialize)]
pub struct Report<'a, C: Serialize> {
    /// Version of this format: 2 (1 had no `origins` and counted linear layers
    /// alone, the head for every token).
    pub format: u32,
    /// The parameters of the step as they took effect; the step's record says
    /// of each whether it was given, overridden or a default.
    pub config: &'a C,
    /// What the run came to.
    #[serde(flatten)]
    pub summary: Summary,
    /// What became of the training rows.
    pub rows: RowCounts,
    /// What was really read of each file that rows came from, `@` being findings.
    pub origins: BTreeMap<String, Share>,
    /// Elements that were trained.
    pub trainable_parameters: usize,
    /// Elements of the model and, where there is one, its adapter.
    pub total_parameters: usize,
    /// What the run was to hold in memory, where that was known before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Plan>,
    /// Floating-point operations of linear layers and attention, forward and
    /// backward; norms, validation, and what is computed twice to save memory
    /// are not counted.
    pub flops: u64,
}

/// What a run read of some of its rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Share {
    /// Rows, or pieces of a long text.
    pub rows: usize,
    /// Tokens, with repetition.
    pub tokens: u64,
    /// Tokens that counted for the loss, with repetition.
    pub loss_tokens: u64,
    /// Of all tokens that were read.
    pub share: f64,
}

/// What a run read, by where it came from; `times` says how often each
/// sequence was read.
pub fn origins(data: &Sequences, times: &[u32]) -> BTreeMap<String, Share> {
    let mut origins: BTreeMap<String, Share> = BTreeMap::new();
    let mut total = 0;
    for ((sequence, row), times) in data.all.iter().zip(&data.rows).zip(times) {
        let tokens = u64::from(*times) * sequence.tokens.len() as u64;
        let share = origins.entry(row.source().to_owned()).or_default();
        share.rows += 1;
        share.tokens += tokens;
        share.loss_tokens += u64::from(*times) * sequence.counted() as u64;
        total += tokens;
    }
    for share in origins.values_mut() {
        share.share = share.tokens as f64 / (total as f64).max(1.0);
    }
    origins
}

/// What of a run its operations are counted from.
pub struct Work<'a> {
    /// The model's shape.
    pub config: &'a ModelConfig,
    /// [`super::model::Decoder::linear_weights`].
    pub weights: usize,
    /// Elements of the adapter; none when all weights are trained.
    pub adapter: Option<usize>,
    /// What was read.
    pub data: &'a Sequences,
    /// How often each sequence of it was read.
    pub times: &'a [u32],
}

impl Work<'_> {
    /// [`Report::flops`]: a weight costs 2 operations a token forward, 2 for
    /// the gradient of its input and, where it is trained, 2 for its own; the
    /// head only for tokens that count. A query and a key it sees cost 4 for
    /// each element of a head forward (score and sum) and 8 backward.
    pub fn flops(&self) -> u64 {
        let config = self.config;
        let head = (config.vocab_size * config.hidden_size) as u64;
        let blocks = self.weights as u64 - head;
        let width = (config.heads * config.head_dim) as u64;
        let (mut tokens, mut counted, mut pairs) = (0, 0, 0);
        for (sequence, times) in self.data.all.iter().zip(self.times) {
            let times = u64::from(*times);
            tokens += times * sequence.tokens.len() as u64;
            counted += times * sequence.counted() as u64;
            pairs += times * self.pairs(sequence.tokens.len() as u64);
        }
        let each = if self.adapter.is_some() { 4 } else { 6 };
        let adapter = self.adapter.unwrap_or(0) as u64;
        each * (blocks * tokens + head * counted) + 6 * adapter * tokens + 12 * width * pairs
    }

    /// Queries with keys they see, in all blocks.
    fn pairs(&self, length: u64) -> u64 {
        let layers = self.config.attention.iter();
        let seen = layers.map(|layer| {
            let window = layer.window.map_or(length, |w| length.min(w as u64));
            window * (window + 1) / 2 + (length - window) * window
        });
        seen.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ml::batch::{RowRef, Sequence};
    use crate::ml::tests;
    use crate::ml::{config::Family, kernels::Isa};

    fn counted(config: &ModelConfig, adapter: Option<usize>) -> u64 {
        let data = Sequences {
            all: vec![tests::sequence(10, 67, 4, 1), tests::sequence(30, 67, 0, 2)],
            ..Sequences::default()
        };
        Work {
            config,
            weights: tests::random_decoder(config, Isa::detect()).linear_weights(),
            adapter,
            data: &data,
            times: &[2, 1],
        }
        .flops()
    }

    /// Counted one by one.
    #[test]
    fn operations_are_those_of_the_products() {
        let mut config = tests::config(Family::Llama);
        let linear = 2 * (24 * 24 + 2 * 12 * 24 + 24 * 24 + 3 * 40 * 24);
        let (tokens, answers, head) = (50, 42, 67 * 24);
        let pairs = 2 * (2 * 55 + 465);
        let attention = 12 * 24 * pairs;
        let both = linear * tokens + head * answers;
        assert_eq!(counted(&config, None), 6 * both + attention);
        let lora = 4 * both + 6 * 100 * tokens + attention;
        assert_eq!(counted(&config, Some(100)), lora);
        // A window of 20 hides 10 + 9 + … + 1 keys of the long sequence.
        config.attention[0].window = Some(20);
        assert_eq!(counted(&config, Some(100)), lora - 12 * 24 * 55);
    }

    #[test]
    fn shares_are_those_of_what_was_read() {
        let row = |origin: &str| RowRef {
            id: crate::data::Content::Text(String::new()).id(),
            origin: origin.to_owned(),
        };
        let sequence = |n| Sequence {
            tokens: vec![0; n],
            targets: vec![0; n],
        };
        let data = Sequences {
            all: vec![sequence(10), sequence(20), sequence(30)],
            rows: vec![row("a.jsonl:1"), row("@f"), row("a.jsonl:9")],
            ..Sequences::default()
        };
        let origins = origins(&data, &[1, 2, 0]);
        let names: Vec<&str> = origins.keys().map(String::as_str).collect();
        assert_eq!(names, ["@", "a.jsonl"]);
        assert_eq!((origins["@"].tokens, origins["@"].share), (40, 0.8));
        assert_eq!(
            (origins["a.jsonl"].rows, origins["a.jsonl"].tokens),
            (2, 10)
        );
    }
}
