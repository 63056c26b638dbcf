//! `adapter.merge`: a base with an adapter in its weights, as a model of its own.

use safetensors::Dtype;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ml;
use crate::ml::merge::{self, MergeError};
use crate::step::{Context, InPort, OutPort, PortType, Resources, Step, StepError};

/// The kind.
pub struct AdapterMerge;

/// Its parameters.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The type of the merged model's weights.
    #[serde(default)]
    dtype: Type,
}

/// A type of weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Type {
    /// The base's own, tensor by tensor.
    #[default]
    Keep,
    /// 32 bits.
    F32,
    /// 16 bits, of which five are the exponent.
    F16,
    /// 16 bits, of which eight are the exponent.
    Bf16,
}

impl Step for AdapterMerge {
    type Params = Params;
    const KIND: &'static str = "adapter.merge";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Merges an adapter into its base: a model that needs no adapter.";

    fn inputs() -> Vec<InPort> {
        vec![
            InPort::one("model", PortType::Model, "the base, which stays as it is"),
            InPort::one(
                "adapter",
                PortType::Adapter,
                "an adapter of it, as PEFT stores it",
            ),
            InPort::optional(
                "tokenizer",
                PortType::Tokenizer,
                "to be put into the model's folder where the base's has none",
            ),
        ]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![OutPort::new("model", PortType::Model, "model")]
    }

    fn resources(_: &Params) -> Resources {
        Resources::all_cpus()
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let dtype = match params.dtype {
            Type::Keep => None,
            Type::F32 => Some(Dtype::F32),
            Type::F16 => Some(Dtype::F16),
            Type::Bf16 => Some(Dtype::BF16),
        };
        let (model, adapter) = (context.input("model")?, context.input("adapter")?);
        let out = context.output("model");
        let threads = context.threads;
        let merged = ml::with_threads(threads, || merge::merge(model, adapter, &out, dtype))?;
        let summary = merged.map_err(|error| {
            let again = matches!(error, MergeError::Again { .. });
            let error = StepError::from(error);
            match again {
                true => error.hint("use the model as it is, or merge into the base"),
                false => error,
            }
        })?;
        if let Some(tokenizer) = context.optional("tokenizer") {
            merge::copy(&merge::TOKENIZER, tokenizer, &out)?;
        }
        context.fact("merged_weights", summary.merged);
        Ok(())
    }
}
