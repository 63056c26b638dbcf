//! `tokenizer.train`: a byte-level BPE tokenizer with a chat template.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ml::{self, tokenizer, train};
use crate::step::{Context, FieldError, InPort, OutPort, PortType, Resources, Step, StepError};

/// The kind.
pub struct TokenizerTrain;

/// Its parameters.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Most tokens, the 256 bytes and the special tokens included.
    #[serde(default = "default_vocab_size")]
    vocab_size: usize,
    /// Pairs seen fewer times are not merged.
    #[serde(default = "default_min_frequency")]
    min_frequency: u64,
}

fn default_vocab_size() -> usize {
    1536
}

fn default_min_frequency() -> u64 {
    2
}

impl Step for TokenizerTrain {
    type Params = Params;
    const KIND: &'static str = "tokenizer.train";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Trains a byte-level BPE tokenizer with a ChatML template.";

    fn inputs() -> Vec<InPort> {
        let about = "data sets (.jsonl) or plain texts to learn from";
        vec![InPort::many("text", PortType::Any, about)]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![OutPort::new("tokenizer", PortType::Tokenizer, "tokenizer")]
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        if params.vocab_size < 259 {
            let message = "must be at least 259: 256 bytes and 3 special tokens";
            return Err(FieldError::new("vocab_size", message));
        }
        if params.min_frequency == 0 {
            return Err(FieldError::new("min_frequency", "must be at least 1"));
        }
        Ok(())
    }

    fn resources(_: &Params) -> Resources {
        Resources::all_cpus()
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let mut texts = Vec::new();
        for input in context.all("text") {
            for row in train::read_texts(&input.label, &input.path)? {
                texts.extend(row.texts().map(str::to_owned));
            }
        }
        context.checkpoint_cancel()?;
        let folder = context.output("tokenizer");
        let (size, frequency) = (params.vocab_size, params.min_frequency);
        ml::with_threads(context.threads, || {
            tokenizer::train(&texts, size, frequency, &folder)
        })??;
        Ok(())
    }
}
