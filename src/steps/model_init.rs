//! `model.init`: a new decoder with seeded random weights, sized for a tokenizer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::ml::config::{Family, ModelConfig, Sizes};
use crate::ml::kernels::Isa;
use crate::ml::model::Decoder;
use crate::ml::tokenizer::Tokenizer;
use crate::step::{Context, FieldError, InPort, OutPort, PortType, Step, StepError};

/// The kind.
pub struct ModelInit;

/// Its parameters, named as in `config.json`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The family whose architecture is used.
    #[serde(default)]
    model_type: ModelType,
    /// Width of the residual stream.
    #[serde(default = "default_hidden_size")]
    hidden_size: usize,
    /// Width of the MLP.
    #[serde(default = "default_intermediate_size")]
    intermediate_size: usize,
    /// Number of blocks.
    #[serde(default = "default_layers")]
    num_hidden_layers: usize,
    /// Query heads.
    #[serde(default = "default_heads")]
    num_attention_heads: usize,
    /// Key and value heads; as many as query heads when not given.
    #[serde(default)]
    num_key_value_heads: Option<usize>,
    /// The longest sequence.
    #[serde(default = "default_positions")]
    max_position_embeddings: usize,
    /// Added under the root of every norm.
    #[serde(default = "default_eps")]
    rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    #[serde(default = "default_theta")]
    rope_theta: f64,
    /// Whether the head shares the embedding's weights.
    #[serde(default)]
    tie_word_embeddings: bool,
    /// Standard deviation of the random weights.
    #[serde(default = "default_range")]
    initializer_range: f64,
    /// Seed of the random weights.
    #[serde(default)]
    seed: u64,
}

/// A family that can be initialized.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ModelType {
    /// OLMo-2: norms behind attention and MLP, normalized queries and keys.
    #[default]
    Olmo2,
    /// Llama: norms before attention and MLP.
    Llama,
    /// Mistral: like Llama, with a sliding window of 4096 tokens.
    Mistral,
    /// Qwen 2: like Llama, with biases for queries, keys and values.
    Qwen2,
    /// Qwen 3: like Llama, with queries and keys normalized head by head.
    Qwen3,
    /// SmolLM 3: like Llama, with every fourth block ignorant of positions.
    SmolLm3,
    /// Gemma 2: norms on both sides, soft caps, a sliding window in every other block.
    Gemma2,
    /// Gemma 3: norms on both sides, two rotary bases, a sliding window in five of six blocks.
    #[serde(rename = "gemma3_text")]
    Gemma3,
}

impl From<ModelType> for Family {
    fn from(name: ModelType) -> Self {
        match name {
            ModelType::Olmo2 => Family::Olmo2,
            ModelType::Llama => Family::Llama,
            ModelType::Mistral => Family::Mistral,
            ModelType::Qwen2 => Family::Qwen2,
            ModelType::Qwen3 => Family::Qwen3,
            ModelType::SmolLm3 => Family::SmolLm3,
            ModelType::Gemma2 => Family::Gemma2,
            ModelType::Gemma3 => Family::Gemma3,
        }
    }
}

fn default_hidden_size() -> usize {
    128
}

fn default_intermediate_size() -> usize {
    384
}

fn default_layers() -> usize {
    4
}

fn default_heads() -> usize {
    4
}

fn default_positions() -> usize {
    512
}

fn default_eps() -> f64 {
    1e-6
}

fn default_theta() -> f64 {
    10_000.0
}

fn default_range() -> f64 {
    0.02
}

impl Params {
    fn config(&self, vocab_size: usize) -> ModelConfig {
        let mut config = Family::from(self.model_type).config(Sizes {
            vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim: self.hidden_size / self.num_attention_heads.max(1),
            max_positions: self.max_position_embeddings,
        });
        config.norm_eps = self.rms_norm_eps;
        config.ropes[0].theta = self.rope_theta;
        config.tied = self.tie_word_embeddings;
        config
    }
}

impl Step for ModelInit {
    type Params = Params;
    const KIND: &'static str = "model.init";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Makes a new decoder with seeded random weights.";

    fn inputs() -> Vec<InPort> {
        let about = "the tokenizer the model must have room for";
        vec![InPort::one("tokenizer", PortType::Tokenizer, about)]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![OutPort::new("model", PortType::Model, "model")]
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        let heads = params.num_attention_heads;
        if heads == 0 || !params.hidden_size.is_multiple_of(heads) {
            let message = "must divide hidden_size";
            return Err(FieldError::new("num_attention_heads", message));
        }
        for (field, value) in [
            ("rms_norm_eps", params.rms_norm_eps),
            ("rope_theta", params.rope_theta),
            ("initializer_range", params.initializer_range),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(FieldError::new(field, "must be above 0"));
            }
        }
        let fault = params.config(1).check().err();
        fault.map_or(Ok(()), |e| {
            Err(FieldError {
                field: None,
                message: e.to_string(),
            })
        })
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let tokenizer = Tokenizer::open(context.input("tokenizer")?)?;
        let config = params.config(tokenizer.id_bound());
        let range = params.initializer_range as f32;
        let decoder = Decoder::init(config, params.seed, range, Isa::detect());
        let folder = context.output("model");
        files::create_dir(&folder)?;
        decoder.config.write(&folder, tokenizer.special_ids())?;
        decoder.weights.write(&folder.join("model.safetensors"))?;
        context.fact("parameters", decoder.weights.elements());
        Ok(())
    }
}
