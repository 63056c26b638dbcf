//! What a decoder looks like: its sizes, and the switches in which the families differ.

use super::kernels::attention::Scoring;
use super::kernels::elementwise::{Activation, RotaryScaling};
use crate::files::FileError;

pub(super) use super::family::pretty_json;
pub use super::family::{Family, Sizes, SpecialIds};

/// Where the norms of a block stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before attention and MLP (Llama).
    Pre,
    /// On their outputs, before the residual is added (OLMo-2).
    Post,
    /// Both (Gemma 2).
    Both,
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

/// A rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How they are stretched.
    pub scaling: RotaryScaling,
}

impl Rope {
    /// A rotary embedding that is not stretched.
    pub fn plain(theta: f64) -> Self {
        let scaling = RotaryScaling::None;
        Rope { theta, scaling }
    }
}

/// What a block's attention sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerAttention {
    /// The latest tokens, a token itself among them; all when none is given.
    pub window: Option<usize>,
    /// Its place in [`ModelConfig::ropes`]; none for a block that knows no positions.
    pub rope: Option<usize>,
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
    /// Whether norms are stored as what is added to one.
    pub norm_plus_one: bool,
    /// Where the norms of a block stand.
    pub norm_placement: NormPlacement,
    /// Which queries and keys are normalized together.
    pub qk_norm: QkNorm,
    /// The rotary embeddings in use.
    pub ropes: Vec<Rope>,
    /// What each block's attention sees.
    pub attention: Vec<LayerAttention>,
    /// Scores are divided by its root; by that of `head_dim` when none is given.
    pub query_scalar: Option<f64>,
    /// Soft cap of attention's scores.
    pub attention_cap: Option<f64>,
    /// Soft cap of the logits.
    pub logit_cap: Option<f64>,
    /// What gates pass through.
    pub activation: Activation,
    /// Whether embeddings are multiplied with the root of `hidden_size`.
    pub scaled_embedding: bool,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether o has a bias.
    pub o_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
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

impl ModelConfig {
    /// Checks that the sizes fit each other.
    pub fn check(&self) -> Result<(), ConfigError> {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let caps = [self.attention_cap, self.logit_cap, self.query_scalar];
        let windows = self.attention.iter().map(|layer| layer.window);
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
        } else if windows.flatten().any(|window| window == 0) {
            "a sliding window of 0 tokens sees nothing"
        } else if !caps.into_iter().flatten().all(positive) {
            "soft caps and query_pre_attn_scalar must be above 0"
        } else if !self.ropes.iter().all(|rope| rope.is_sound()) {
            "bases and factors of rotary embeddings must be above 0, and high_freq_factor above low_freq_factor"
        } else {
            return Ok(());
        };
        Err(ConfigError::Shape(fault.to_owned()))
    }

    /// How a block's queries and keys become scores.
    pub fn scoring(&self, layer: usize) -> Scoring {
        let scale = match self.query_scalar {
            None => 1.0 / (self.head_dim as f32).sqrt(),
            Some(scalar) => (1.0 / scalar.sqrt()) as f32,
        };
        Scoring {
            scale,
            window: self.attention[layer].window.unwrap_or(usize::MAX),
            cap: self.attention_cap.map(|cap| cap as f32),
        }
    }

    /// What embeddings are multiplied with.
    pub fn embedding_scale(&self) -> Option<f32> {
        let root = (self.hidden_size as f64).sqrt() as f32;
        self.scaled_embedding.then_some(root)
    }
}

impl Rope {
    fn is_sound(&self) -> bool {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let scaling = match self.scaling {
            RotaryScaling::None => true,
            RotaryScaling::Linear { factor } => positive(factor),
            RotaryScaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => {
                positive(factor) && positive(low) && high > low && high.is_finite() && original > 0
            }
        };
        positive(self.theta) && scaling
    }
}
