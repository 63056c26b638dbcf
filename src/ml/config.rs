//! What a decoder looks like, read from and written as Hugging Face's `config.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::{self, FileError};

/// Where the norms of a block stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before attention and MLP (Llama).
    Pre,
    /// On their outputs, before the residual is added (OLMo-2).
    Post,
}

/// Which queries and keys are normalized together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None are.
    None,
    /// All heads of a token (OLMo-2).
    Whole,
    /// Each head (Qwen 3).
    PerHead,
}

/// A family of decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// `allenai/OLMo-2-*`.
    Olmo2,
    /// Llama 2 and 3, without scaled rotary embeddings.
    Llama,
}

/// A decoder's shape and switches.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family, which fixes the switches that `config.json` leaves open.
    pub family: Family,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// The longest sequence.
    pub max_positions: usize,
    /// Added under the root of every norm.
    pub norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Whether q, k, v and o have biases.
    pub attention_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
    /// Where the norms of a block stand.
    pub norm_placement: NormPlacement,
    /// Which queries and keys are normalized together.
    pub qk_norm: QkNorm,
}

/// A `config.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not what it should be.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// The sizes contradict each other.
    #[error("{0}")]
    Shape(String),
}

/// The fields of `config.json` that matter here; others are left alone.
#[derive(Deserialize)]
struct Raw {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_parameters: Option<RopeParameters>,
    rope_scaling: Option<Value>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    hidden_act: Option<String>,
}

/// Where newer versions of transformers keep the rotary base.
#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

/// `config.json` as written; the order of fields is that of the file.
#[derive(Serialize)]
struct Written<'a> {
    architectures: [&'a str; 1],
    attention_bias: bool,
    attention_dropout: f64,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    head_dim: usize,
    hidden_act: &'a str,
    hidden_size: usize,
    initializer_range: f64,
    intermediate_size: usize,
    max_position_embeddings: usize,
    mlp_bias: bool,
    model_type: &'a str,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    num_key_value_heads: usize,
    pad_token_id: Option<u32>,
    rms_norm_eps: f64,
    rope_scaling: Option<()>,
    rope_theta: f64,
    tie_word_embeddings: bool,
    torch_dtype: &'a str,
    use_cache: bool,
    vocab_size: usize,
}

/// Token ids that `config.json` repeats for other programs.
#[derive(Debug, Clone, Copy, Default)]
pub struct SpecialIds {
    /// Ends a message or text.
    pub eos: Option<u32>,
    /// Fills up batches.
    pub pad: Option<u32>,
}

impl Family {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "olmo2" => Some(Family::Olmo2),
            "llama" => Some(Family::Llama),
            _ => None,
        }
    }

    /// Where the family's norms stand.
    pub fn norm_placement(self) -> NormPlacement {
        match self {
            Family::Olmo2 => NormPlacement::Post,
            Family::Llama => NormPlacement::Pre,
        }
    }

    /// Which of its queries and keys are normalized.
    pub fn qk_norm(self) -> QkNorm {
        match self {
            Family::Olmo2 => QkNorm::Whole,
            Family::Llama => QkNorm::None,
        }
    }
}

impl ModelConfig {
    /// Reads `config.json` in the folder `model`.
    pub fn read(model: &Path) -> Result<Self, ConfigError> {
        let path = model.join("config.json");
        let bad = |message: String| ConfigError::Content {
            path: path.display().to_string(),
            message,
        };
        let raw: Raw =
            serde_json::from_str(&files::read_text(&path)?).map_err(|e| bad(e.to_string()))?;
        let config = Self::from_raw(raw).map_err(bad)?;
        config.check().map_err(|e| bad(e.to_string()))?;
        Ok(config)
    }

    fn from_raw(raw: Raw) -> Result<Self, String> {
        let family = Family::parse(&raw.model_type).ok_or_else(|| {
            format!(
                "model_type is '{}', but only olmo2 and llama can be trained",
                raw.model_type
            )
        })?;
        if let Some(act) = raw.hidden_act.filter(|act| act != "silu") {
            return Err(format!("hidden_act is '{act}', but only silu is known"));
        }
        let scaled = raw.rope_scaling.is_some_and(|scaling| !scaling.is_null());
        let parameters = raw.rope_parameters;
        let kind = parameters.as_ref().and_then(|p| p.rope_type.as_deref());
        if scaled || kind.is_some_and(|kind| kind != "default") {
            return Err("rope_scaling is set, but scaled rotary embeddings are not known".into());
        }
        let theta = raw
            .rope_theta
            .or_else(|| parameters.and_then(|p| p.rope_theta));
        Ok(ModelConfig {
            family,
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            kv_heads: raw.num_key_value_heads.unwrap_or(raw.num_attention_heads),
            head_dim: raw
                .head_dim
                .unwrap_or(raw.hidden_size / raw.num_attention_heads.max(1)),
            max_positions: raw.max_position_embeddings,
            norm_eps: raw.rms_norm_eps,
            rope_theta: theta.unwrap_or(10_000.0),
            tied: raw.tie_word_embeddings,
            attention_bias: raw.attention_bias,
            mlp_bias: raw.mlp_bias,
            norm_placement: family.norm_placement(),
            qk_norm: family.qk_norm(),
        })
    }

    /// Checks that the sizes fit each other.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fault = if [
            self.vocab_size,
            self.hidden_size,
            self.intermediate_size,
            self.layers,
            self.heads,
            self.kv_heads,
            self.max_positions,
        ]
        .contains(&0)
        {
            "a size of the model is 0"
        } else if !self.heads.is_multiple_of(self.kv_heads) {
            "the number of attention heads is not a multiple of the key/value heads"
        } else if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            "the width of a head must be even and above 0"
        } else {
            return Ok(());
        };
        Err(ConfigError::Shape(fault.to_owned()))
    }

    /// Writes `config.json` into the folder `model`.
    pub fn write(&self, model: &Path, ids: SpecialIds) -> Result<(), ConfigError> {
        let (architecture, model_type) = match self.family {
            Family::Olmo2 => ("Olmo2ForCausalLM", "olmo2"),
            Family::Llama => ("LlamaForCausalLM", "llama"),
        };
        let written = Written {
            architectures: [architecture],
            attention_bias: self.attention_bias,
            attention_dropout: 0.0,
            bos_token_id: None,
            eos_token_id: ids.eos,
            head_dim: self.head_dim,
            hidden_act: "silu",
            hidden_size: self.hidden_size,
            initializer_range: 0.02,
            intermediate_size: self.intermediate_size,
            max_position_embeddings: self.max_positions,
            mlp_bias: self.mlp_bias,
            model_type,
            num_attention_heads: self.heads,
            num_hidden_layers: self.layers,
            num_key_value_heads: self.kv_heads,
            pad_token_id: ids.pad,
            rms_norm_eps: self.norm_eps,
            rope_scaling: None,
            rope_theta: self.rope_theta,
            tie_word_embeddings: self.tied,
            torch_dtype: "float32",
            use_cache: true,
            vocab_size: self.vocab_size,
        };
        files::write(&model.join("config.json"), pretty_json(&written))?;
        Ok(())
    }
}

/// JSON for people, ending in a newline. The order of fields is the struct's.
pub(super) fn pretty_json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("plain structs serialize");
    text.push('\n');
    text
}
