//! Text from a model: greedy and seeded sampling with a key/value cache, an adapter switched at run time.
//!
//! The public face that evaluation uses. The bodies follow; the signatures stay.

use std::path::Path;

use crate::data::{Message, Row};

/// How an answer is generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The most tokens an answer may have, the end token not counted.
    pub max_new_tokens: usize,
    /// How the next token is chosen.
    pub sampling: Sampling,
}

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum Sampling {
    /// The most likely token; the lowest id among equals.
    Greedy,
    /// Drawn from the nucleus of the tempered distribution.
    Seeded {
        /// Seed of the draws; the same seed gives the same text.
        seed: u64,
        /// Logits are divided by it; above 0.
        temperature: f64,
        /// Smallest set of tokens whose probability reaches this is kept; 1 keeps all.
        top_p: f64,
    },
}

/// Why generation ended. Serializes as `stop` or `length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// A stop token came.
    Stop,
    /// `max_new_tokens` or the model's context was reached.
    Length,
}

/// One generated answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The answer, special tokens left out.
    pub text: String,
    /// Its tokens, without the stop token.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// The loss of a row's answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerLoss {
    /// Mean nats per answer token, the end token included.
    pub nats_per_token: f64,
    /// How many tokens that are.
    pub tokens: usize,
}

/// A model with its tokenizer and, if wanted, an adapter.
pub struct Generator {}

/// Failed to open a model or to generate.
#[derive(Debug, thiserror::Error)]
#[error("")]
pub struct GenerateError {}

impl Generator {
    /// Opens a model folder, a tokenizer folder and, if given, an adapter folder.
    pub fn open(model: &Path, tokenizer: &Path, adapter: Option<&Path>) -> Result<Self, GenerateError>;
    /// Puts another adapter (or none) on the same base, without reading the base again.
    pub fn set_adapter(&mut self, adapter: Option<&Path>) -> Result<(), GenerateError>;
    /// The prompt as the model sees it, generation prompt included.
    pub fn render(&self, messages: &[Message]) -> Result<String, GenerateError>;
    /// One answer.
    pub fn generate(&self, messages: &[Message], options: &Options) -> Result<Generation, GenerateError>;
    /// Many answers at once: the same texts as one by one, sooner.
    pub fn generate_batch(&self, prompts: &[&[Message]], options: &Options) -> Result<Vec<Generation>, GenerateError>;
    /// Mean loss of the row's answer given its prompt.
    pub fn answer_loss(&self, row: &Row) -> Result<AnswerLoss, GenerateError>;
}
