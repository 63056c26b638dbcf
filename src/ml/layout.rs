//! Which tensors a decoder has, under the names Hugging Face gives them.

use std::fmt;

use super::config::{ModelConfig, NormPlacement, QkNorm};
use super::tensors::{TensorId, Tensors};

/// The linear layers of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Attention's output.
    O,
    /// The MLP's gate.
    Gate,
    /// The MLP's other input.
    Up,
    /// The MLP's output.
    Down,
}

impl Slot {
    /// All of them, in the order in which a block uses them.
    pub const ALL: [Slot; 7] = [
        Slot::Q,
        Slot::K,
        Slot::V,
        Slot::O,
        Slot::Gate,
        Slot::Up,
        Slot::Down,
    ];

    /// The module's last name, as `target_modules` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Slot::Q => "q_proj",
            Slot::K => "k_proj",
            Slot::V => "v_proj",
            Slot::O => "o_proj",
            Slot::Gate => "gate_proj",
            Slot::Up => "up_proj",
            Slot::Down => "down_proj",
        }
    }

    fn parent(self) -> &'static str {
        match self {
            Slot::Q | Slot::K | Slot::V | Slot::O => "self_attn",
            Slot::Gate | Slot::Up | Slot::Down => "mlp",
        }
    }

    /// Outputs and inputs.
    pub fn size(self, config: &ModelConfig) -> (usize, usize) {
        let hidden = config.hidden_size;
        let queries = config.heads * config.head_dim;
        let keys = config.kv_heads * config.head_dim;
        match self {
            Slot::Q => (queries, hidden),
            Slot::K | Slot::V => (keys, hidden),
            Slot::O => (hidden, queries),
            Slot::Gate | Slot::Up => (config.intermediate_size, hidden),
            Slot::Down => (hidden, config.intermediate_size),
        }
    }

    fn has_bias(self, config: &ModelConfig) -> bool {
        match self.parent() {
            "mlp" => config.mlp_bias,
            _ if self == Slot::O => config.o_bias,
            _ => config.qkv_bias,
        }
    }
}

/// One linear layer of the model; displays as its module path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Module {
    /// The block.
    pub layer: usize,
    /// The layer in it.
    pub slot: Slot,
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parent, name) = (self.slot.parent(), self.slot.name());
        write!(f, "model.layers.{}.{parent}.{name}", self.layer)
    }
}

/// The tensors of a linear layer.
#[derive(Debug, Clone, Copy)]
pub struct LinearIds {
    /// [outputs, inputs].
    pub weight: TensorId,
    /// \[outputs\].
    pub bias: Option<TensorId>,
}

/// The norms of attention or of the MLP.
#[derive(Debug, Clone, Copy)]
pub struct BranchNorms {
    /// Of its input.
    pub before: Option<TensorId>,
    /// Of its output.
    pub after: Option<TensorId>,
}

/// The tensors of a block.
#[derive(Debug, Clone)]
pub struct LayerIds {
    /// By [`Slot`].
    pub linear: [LinearIds; 7],
    /// Around attention.
    pub attention_norms: BranchNorms,
    /// Around the MLP.
    pub mlp_norms: BranchNorms,
    /// Of queries and keys.
    pub qk_norms: Option<[TensorId; 2]>,
}

/// The tensors of a decoder.
#[derive(Debug, Clone)]
pub struct Layout {
    /// [vocabulary, hidden].
    pub embed: TensorId,
    /// By block.
    pub layers: Vec<LayerIds>,
    /// Before the head.
    pub norm: TensorId,
    /// [vocabulary, hidden]; the embedding when tied.
    pub head: TensorId,
}

impl Layout {
    /// The layout for `config`, with all its tensors as zeros.
    pub fn new(config: &ModelConfig) -> (Self, Tensors) {
        let mut tensors = Tensors::default();
        let vocabulary = vec![config.vocab_size, config.hidden_size];
        let embed = tensors.push("model.embed_tokens.weight".into(), vocabulary.clone());
        let layers = (0..config.layers)
            .map(|layer| layer_ids(config, layer, &mut tensors))
            .collect();
        let norm = tensors.push("model.norm.weight".into(), vec![config.hidden_size]);
        let head = if config.tied {
            embed
        } else {
            tensors.push("lm_head.weight".into(), vocabulary)
        };
        let layout = Layout {
            embed,
            layers,
            norm,
            head,
        };
        (layout, tensors)
    }
}

fn layer_ids(config: &ModelConfig, layer: usize, tensors: &mut Tensors) -> LayerIds {
    let linear = Slot::ALL.map(|slot| {
        let (outputs, inputs) = slot.size(config);
        let module = Module { layer, slot };
        LinearIds {
            weight: tensors.push(format!("{module}.weight"), vec![outputs, inputs]),
            bias: slot
                .has_bias(config)
                .then(|| tensors.push(format!("{module}.bias"), vec![outputs])),
        }
    });
    let [attention_names, mlp_names] = norm_names(config.norm_placement);
    let mut norm = |name: &str, width: usize| {
        tensors.push(format!("model.layers.{layer}.{name}.weight"), vec![width])
    };
    let mut around = |[before, after]: [Option<&str>; 2]| BranchNorms {
        before: before.map(|name| norm(name, config.hidden_size)),
        after: after.map(|name| norm(name, config.hidden_size)),
    };
    let (attention_norms, mlp_norms) = (around(attention_names), around(mlp_names));
    let widths = match config.qk_norm {
        QkNorm::None => None,
        QkNorm::Whole => Some([config.heads, config.kv_heads].map(|n| n * config.head_dim)),
        QkNorm::PerHead => Some([config.head_dim; 2]),
    };
    let qk_norms = widths.map(|[q, k]| [norm("self_attn.q_norm", q), norm("self_attn.k_norm", k)]);
    LayerIds {
        linear,
        attention_norms,
        mlp_norms,
        qk_norms,
    }
}

/// Before and after attention, before and after the MLP.
fn norm_names(placement: NormPlacement) -> [[Option<&'static str>; 2]; 2] {
    const INPUT: Option<&str> = Some("input_layernorm");
    const ATTENTION: Option<&str> = Some("post_attention_layernorm");
    const BEFORE_MLP: Option<&str> = Some("pre_feedforward_layernorm");
    const MLP: Option<&str> = Some("post_feedforward_layernorm");
    match placement {
        // What Llama calls "post attention" stands before the MLP.
        NormPlacement::Pre => [[INPUT, None], [ATTENTION, None]],
        NormPlacement::Post => [[None, ATTENTION], [None, MLP]],
        NormPlacement::Both => [[INPUT, ATTENTION], [BEFORE_MLP, MLP]],
    }
}
