//! Adapters as llama.cpp loads them: a GGUF file with its names, its order of rows and its idea of a scale.
//!
//! llama.cpp multiplies with alpha / rank, so that the alpha of a
//! rank-stabilized adapter is written as alpha · √rank. Its architectures of
//! the Llama kind turn pairs of neighbouring elements of a head where Hugging
//! Face's turn halves: the rows of q and k, and so of their B, are in another
//! order there.

use std::path::Path;

use half::f16;
use serde::Deserialize;

use super::adapter::{AdapterError, Base};
use super::config::ModelConfig;
use super::gguf::{Data, Gguf, GgufError, Tensor, Value};
use super::layout::{Module, Slot};
use super::lora::Lora;
use crate::files;

/// The type of the matrices in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 32 bits: the values as they are.
    F32,
    /// 16 bits, rounded.
    F16,
}

/// How llama.cpp has a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    /// Whether the rows of q and k are in another order.
    permuted: bool,
}

/// By the class that `config.json` names.
const ARCHITECTURES: [(&str, &str, bool); 8] = [
    ("Gemma2ForCausalLM", "gemma2", false),
    ("Gemma3ForCausalLM", "gemma3", false),
    ("LlamaForCausalLM", "llama", true),
    ("MistralForCausalLM", "llama", true),
    ("Olmo2ForCausalLM", "olmo2", false),
    ("Qwen2ForCausalLM", "qwen2", false),
    ("Qwen3ForCausalLM", "qwen3", false),
    ("SmolLM3ForCausalLM", "smollm3", true),
];

/// An adapter cannot be written for llama.cpp.
#[derive(Debug, thiserror::Error)]
pub enum LlamaCppError {
    /// The file cannot be written.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The base cannot be used.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The base is of an architecture that is not known here.
    #[error("{path}: the architecture {found} cannot be converted for llama.cpp (known: {known})")]
    Architecture {
        /// The base's `config.json`.
        path: String,
        /// What it names.
        found: String,
        /// What could be converted.
        known: String,
    },
    /// The adapter has more than one scale times rank.
    #[error(
        "llama.cpp has one alpha for the whole adapter, but {module} would need {own} and the rest {rest}"
    )]
    Alphas {
        /// A module.
        module: String,
        /// Its alpha.
        own: f64,
        /// That of the rest.
        rest: f64,
    },
    /// It has no magnitudes.
    #[error(
        "llama.cpp knows no DoRA, and an adapter without its magnitudes is another one; \
         merge it into its base with adapter.merge and convert the model"
    )]
    Dora,
    /// A value has no place in 16 bits.
    #[error("a value of '{0}' is too large for f16; write f32 instead")]
    TooLarge(String),
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    architectures: Vec<String>,
}

impl Architecture {
    fn of(model: &Path) -> Result<Self, LlamaCppError> {
        let path = model.join("config.json");
        let text = files::read_text(&path).map_err(AdapterError::from)?;
        let raw: Raw = serde_json::from_str(&text).map_err(|e| AdapterError::Content {
            path: path.clone(),
            message: e.to_string(),
        })?;
        let found = raw.architectures.join(", ");
        let known = ARCHITECTURES.iter().find(|(class, ..)| *class == found);
        match known {
            Some((_, name, permuted)) => Ok(Architecture {
                name,
                permuted: *permuted,
            }),
            None => Err(LlamaCppError::Architecture {
                path: path.display().to_string(),
                found: format!("'{found}'"),
                known: ARCHITECTURES.map(|(class, ..)| class).join(", "),
            }),
        }
    }
}

/// Writes an adapter for the model in the folder `model`.
pub fn write(
    path: &Path,
    lora: &Lora,
    model: &Path,
    config: &ModelConfig,
    base: &Base,
    width: Width,
) -> Result<(), LlamaCppError> {
    if lora.config.dora {
        return Err(LlamaCppError::Dora);
    }
    let architecture = Architecture::of(model)?;
    let alpha = alpha(lora)?;
    let mut tensors = Vec::new();
    for (module, pair) in lora.modules() {
        for (part, id) in [("a", pair.a), ("b", pair.b)] {
            let tensor = lora.tensors.tensor(id);
            let mut values = tensor.data.clone();
            let heads = heads(module.slot, config);
            if let (true, "b", Some(heads)) = (architecture.permuted, part, heads) {
                values = permuted(&values, heads, pair.rank);
            }
            tensors.push(Tensor {
                name: format!("{}.lora_{part}", name(module)),
                shape: tensor.shape.clone(),
                data: data(&tensor.name, values, width)?,
            });
        }
    }
    let pairs = pairs(architecture, alpha, base, width);
    Ok(Gguf { pairs, tensors }.write(path)?)
}

/// What llama.cpp divides by the rank; exact for all modules or none.
fn alpha(lora: &Lora) -> Result<f64, LlamaCppError> {
    let rest = lora.config.scale_of(lora.config.rank, lora.config.alpha) * lora.config.rank as f64;
    for (module, pair) in lora.modules() {
        let own = lora.scale(module) * pair.rank as f64;
        if (own - rest).abs() > 1e-9 * rest.abs() {
            let module = module.to_string();
            return Err(LlamaCppError::Alphas { module, own, rest });
        }
    }
    // Without rank stabilization the product may be off by a rounding.
    Ok(match lora.config.rank_stabilized {
        true => rest,
        false => lora.config.alpha,
    })
}

fn pairs(
    architecture: Architecture,
    alpha: f64,
    base: &Base,
    width: Width,
) -> Vec<(String, Value)> {
    let text = |text: &str| Value::Text(text.to_owned());
    let file_type = match width {
        Width::F32 => 0,
        Width::F16 => 1,
    };
    let mut pairs = vec![
        ("general.architecture", text(architecture.name)),
        ("general.type", text("adapter")),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", Value::Float(alpha as f32)),
        ("general.file_type", Value::Unsigned(file_type)),
    ];
    if let Some((organization, name)) = base.name.as_deref().and_then(|name| name.split_once('/')) {
        pairs.push(("general.base_model.count", Value::Unsigned(1)));
        pairs.push(("general.base_model.0.name", text(name)));
        pairs.push(("general.base_model.0.organization", text(organization)));
        if let Some(revision) = &base.revision {
            pairs.push(("general.base_model.0.version", text(revision)));
        }
    }
    pairs.push(("general.quantization_version", Value::Unsigned(2)));
    let named = pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value));
    named.collect()
}

/// llama.cpp's name of a module's weight.
pub fn name(module: Module) -> String {
    let name = match module.slot {
        Slot::Q => "attn_q",
        Slot::K => "attn_k",
        Slot::V => "attn_v",
        Slot::O => "attn_output",
        Slot::Gate => "ffn_gate",
        Slot::Up => "ffn_up",
        Slot::Down => "ffn_down",
    };
    format!("blk.{}.{name}.weight", module.layer)
}

/// The heads among which the rows of a module may be in another order.
fn heads(slot: Slot, config: &ModelConfig) -> Option<usize> {
    match slot {
        Slot::Q => Some(config.heads),
        Slot::K => Some(config.kv_heads),
        _ => None,
    }
}

/// Rows in llama.cpp's order: of each head, row i of the first half and row i
/// of the second become neighbours.
fn permuted(rows: &[f32], heads: usize, columns: usize) -> Vec<f32> {
    let half = rows.len() / columns / heads / 2;
    let mut out = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(2 * half * columns) {
        for i in 0..half {
            for row in [i, half + i] {
                out.extend_from_slice(&head[row * columns..][..columns]);
            }
        }
    }
    out
}

fn data(name: &str, values: Vec<f32>, width: Width) -> Result<Data, LlamaCppError> {
    if width == Width::F32 {
        return Ok(Data::F32(values));
    }
    let halves: Vec<f16> = values.iter().map(|x| f16::from_f32(*x)).collect();
    let mut pairs = values.iter().zip(&halves);
    match pairs.any(|(x, half)| x.is_finite() && !half.is_finite()) {
        true => Err(LlamaCppError::TooLarge(name.to_owned())),
        false => Ok(Data::F16(halves)),
    }
}
