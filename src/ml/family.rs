//! Families of decoders, read from and written as Hugging Face's `config.json`.
//!
//! Every field of the file is understood, known not to change what the model
//! computes, or refused: a field that is passed over in silence would be
//! another model.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::config::{ConfigError, LayerAttention, ModelConfig, NormPlacement, QkNorm, Rope};
use super::kernels::elementwise::{Activation, RotaryScaling};
use crate::files;

/// A family of decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `allenai/OLMo-2-*`.
    Olmo2,
    /// Llama 2 and 3, SmolLM 2, and what else calls itself so.
    Llama,
    /// Mistral 7B and its like, with or without a sliding window.
    Mistral,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3, dense.
    Qwen3,
    /// SmolLM 3, some of whose blocks know no positions.
    SmolLm3,
    /// Gemma 2.
    Gemma2,
    /// Gemma 3 that reads text alone.
    Gemma3,
}

/// The sizes of a decoder.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
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
}

/// Token ids that `config.json` repeats for other programs.
#[derive(Debug, Clone, Copy, Default)]
pub struct SpecialIds {
    /// Ends a message or text.
    pub eos: Option<u32>,
    /// Fills up batches.
    pub pad: Option<u32>,
}

/// The window of the families that have one and of a file that does not say.
const WINDOW: usize = 4096;
/// The first block with a window in a Qwen model that does not say.
const QWEN_WINDOW_FROM: usize = 28;
/// One of so many blocks of SmolLM 3 knows no positions.
const SMOLLM3_INTERVAL: usize = 4;
/// One of so many blocks of Gemma 3 sees everything.
const GEMMA3_PATTERN: usize = 6;

impl Family {
    /// All of them.
    pub const ALL: [Family; 8] = [
        Family::Olmo2,
        Family::Llama,
        Family::Mistral,
        Family::Qwen2,
        Family::Qwen3,
        Family::SmolLm3,
        Family::Gemma2,
        Family::Gemma3,
    ];

    /// `model_type` in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Family::Olmo2 => "olmo2",
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::SmolLm3 => "smollm3",
            Family::Gemma2 => "gemma2",
            Family::Gemma3 => "gemma3_text",
        }
    }

    fn architecture(self) -> &'static str {
        match self {
            Family::Olmo2 => "Olmo2ForCausalLM",
            Family::Llama => "LlamaForCausalLM",
            Family::Mistral => "MistralForCausalLM",
            Family::Qwen2 => "Qwen2ForCausalLM",
            Family::Qwen3 => "Qwen3ForCausalLM",
            Family::SmolLm3 => "SmolLM3ForCausalLM",
            Family::Gemma2 => "Gemma2ForCausalLM",
            Family::Gemma3 => "Gemma3ForCausalLM",
        }
    }

    fn parse(name: &str) -> Result<Self, String> {
        let known = Family::ALL.into_iter().find(|family| family.name() == name);
        known.ok_or_else(|| {
            let hint = match name {
                "gemma3" => " (this one reads images too: its text part alone is gemma3_text)",
                _ => "",
            };
            let [first @ .., last] = Family::ALL.map(Family::name);
            let first = first.join(", ");
            format!("model_type is '{name}'{hint}, but only {first} and {last} can be trained")
        })
    }

    fn is_gemma(self) -> bool {
        matches!(self, Family::Gemma2 | Family::Gemma3)
    }

    fn is_qwen(self) -> bool {
        matches!(self, Family::Qwen2 | Family::Qwen3)
    }

    /// A decoder of the family as a `config.json` means it that says nothing but its sizes.
    pub fn config(self, sizes: Sizes) -> ModelConfig {
        let gemma = self.is_gemma();
        let theta = match self {
            Family::SmolLm3 => 2e6,
            Family::Gemma3 => 1e6,
            _ => 1e4,
        };
        let mut ropes = vec![Rope::plain(theta)];
        if self == Family::Gemma3 {
            ropes.push(Rope::plain(1e4));
        }
        let mut config = ModelConfig {
            family: self,
            vocab_size: sizes.vocab_size,
            hidden_size: sizes.hidden_size,
            intermediate_size: sizes.intermediate_size,
            layers: sizes.layers,
            heads: sizes.heads,
            kv_heads: sizes.kv_heads,
            head_dim: sizes.head_dim,
            max_positions: sizes.max_positions,
            norm_eps: 1e-6,
            norm_plus_one: gemma,
            norm_placement: match self {
                Family::Olmo2 => NormPlacement::Post,
                _ if gemma => NormPlacement::Both,
                _ => NormPlacement::Pre,
            },
            qk_norm: match self {
                Family::Olmo2 => QkNorm::Whole,
                Family::Qwen3 | Family::Gemma3 => QkNorm::PerHead,
                _ => QkNorm::None,
            },
            ropes,
            attention: Vec::new(),
            query_scalar: gemma.then_some(256.0),
            attention_cap: (self == Family::Gemma2).then_some(50.0),
            logit_cap: (self == Family::Gemma2).then_some(30.0),
            activation: match gemma {
                true => Activation::GeluTanh,
                false => Activation::Silu,
            },
            scaled_embedding: gemma,
            tied: gemma || self == Family::SmolLm3,
            qkv_bias: self == Family::Qwen2,
            o_bias: false,
            mlp_bias: false,
        };
        config.attention = Layers::of(self).attention(sizes.layers);
        config
    }
}

/// Which blocks have a sliding window, and which know positions.
struct Layers {
    family: Family,
    window: Option<usize>,
    /// A window from this block on.
    from: usize,
    /// Every so many blocks one is different.
    pattern: usize,
    /// Block by block, when the file says so.
    sliding: Option<Vec<bool>>,
    /// Block by block, when the file says so.
    positions: Option<Vec<bool>>,
}

impl Layers {
    /// What a file means that says nothing.
    fn of(family: Family) -> Self {
        let window = matches!(family, Family::Mistral | Family::Gemma2 | Family::Gemma3);
        Layers {
            family,
            window: window.then_some(WINDOW),
            from: QWEN_WINDOW_FROM,
            pattern: match family {
                Family::SmolLm3 => SMOLLM3_INTERVAL,
                Family::Gemma3 => GEMMA3_PATTERN,
                _ => 2,
            },
            sliding: None,
            positions: None,
        }
    }

    fn read(family: Family, layers: usize, fields: &mut Fields) -> Result<Self, String> {
        let mut all = Layers::of(family);
        if matches!(family, Family::Olmo2 | Family::Llama) {
            return Ok(all);
        }
        let window = match family {
            Family::SmolLm3 => None,
            _ => Some(WINDOW),
        };
        all.window = fields.nullable("sliding_window", window)?;
        if family == Family::Mistral {
            return Ok(all);
        }
        if family.is_qwen() || family == Family::SmolLm3 {
            let used = fields.take("use_sliding_window")?.unwrap_or(false);
            all.window = all.window.filter(|_| used);
            all.from = fields.take("max_window_layers")?.unwrap_or(all.from);
        }
        let pattern = match family {
            Family::SmolLm3 => fields.take("no_rope_layer_interval")?,
            Family::Gemma3 => fields.take("sliding_window_pattern")?,
            _ => None,
        };
        all.pattern = pattern.unwrap_or(all.pattern);
        if all.pattern == 0 {
            return Err("a pattern of every 0 layers means nothing".to_owned());
        }
        all.sliding = sliding(fields, layers)?;
        let needed = match &all.sliding {
            Some(sliding) => sliding.contains(&true),
            None => family.is_gemma(),
        };
        if needed && all.window.is_none() {
            let message = "some layers have a sliding window, but there is no sliding_window";
            return Err(message.to_owned());
        }
        if family == Family::SmolLm3 {
            let flags: Option<Vec<u8>> = fields.take("no_rope_layers")?;
            all.positions = flags.map(|flags| flags.into_iter().map(|flag| flag != 0).collect());
            if all
                .positions
                .as_ref()
                .is_some_and(|some| some.len() < layers)
            {
                return Err(format!(
                    "no_rope_layers is shorter than the {layers} layers"
                ));
            }
        }
        Ok(all)
    }

    fn attention(&self, layers: usize) -> Vec<LayerAttention> {
        (0..layers).map(|layer| self.layer(layer)).collect()
    }

    fn layer(&self, layer: usize) -> LayerAttention {
        let regular = !(layer + 1).is_multiple_of(self.pattern);
        let positions = match &self.positions {
            Some(positions) => positions[layer],
            None => self.family != Family::SmolLm3 || regular,
        };
        let sliding = match (&self.sliding, self.family) {
            (Some(sliding), _) => sliding[layer],
            (None, Family::Olmo2 | Family::Llama) => false,
            (None, Family::Mistral) => true,
            (None, Family::Qwen2 | Family::Qwen3) => layer >= self.from,
            (None, Family::SmolLm3) => !positions,
            (None, Family::Gemma2 | Family::Gemma3) => regular,
        };
        let local = usize::from(sliding && self.family == Family::Gemma3);
        LayerAttention {
            window: self.window.filter(|_| sliding),
            rope: positions.then_some(local),
        }
    }
}

const SLIDING: &str = "sliding_attention";
const FULL: &str = "full_attention";

/// The field `layer_types`, if it is there.
fn sliding(fields: &mut Fields, layers: usize) -> Result<Option<Vec<bool>>, String> {
    let Some(types) = fields.take::<Vec<String>>("layer_types")? else {
        return Ok(None);
    };
    if types.len() != layers {
        let n = types.len();
        return Err(format!(
            "layer_types names {n} layers, but there are {layers}"
        ));
    }
    let parse = |name: String| match name.as_str() {
        SLIDING => Ok(true),
        FULL => Ok(false),
        _ => Err(format!(
            "layer_types has '{name}', but only {FULL} and {SLIDING} are known"
        )),
    };
    types
        .into_iter()
        .map(parse)
        .collect::<Result<_, _>>()
        .map(Some)
}

/// Fields of `config.json` that change nothing of what a model computes.
const HARMLESS: &[&str] = &[
    "architectures",
    "bos_token_id",
    "cache_implementation",
    "do_sample",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "label2id",
    "max_length",
    "min_length",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "repetition_penalty",
    "return_dict",
    "temperature",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

/// The fields of a JSON object that nobody has asked for yet.
struct Fields {
    /// What their names begin with in messages.
    prefix: String,
    map: Map<String, Value>,
}

impl Fields {
    fn new(prefix: &str, map: Map<String, Value>) -> Self {
        let prefix = prefix.to_owned();
        Fields { prefix, map }
    }

    /// A field's value; nothing when it is missing or null.
    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, String> {
        let value = self.map.remove(name).unwrap_or(Value::Null);
        serde_json::from_value(value).map_err(|e| format!("{}{name}: {e}", self.prefix))
    }

    /// A field's value, or `missing`; nothing when it is null.
    fn nullable<T: DeserializeOwned>(
        &mut self,
        name: &str,
        missing: Option<T>,
    ) -> Result<Option<T>, String> {
        match self.map.contains_key(name) {
            true => self.take(name),
            false => Ok(missing),
        }
    }

    fn need<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, String> {
        let missing = || format!("the field `{}{name}` is missing", self.prefix);
        let missing = missing();
        self.take(name)?.ok_or(missing)
    }

    /// Refuses what is left unless it is known to be harmless, or switched off.
    fn finish(self, harmless: &[&str], whose: &str) -> Result<(), String> {
        let off = |value: &Value| matches!(value, Value::Null | Value::Bool(false));
        let unknown = self.map.iter().filter(|(name, value)| {
            !off(value) && !harmless.contains(&name.as_str()) && !name.starts_with('_')
        });
        match unknown.map(|(name, _)| name).min() {
            None => Ok(()),
            Some(name) => Err(format!(
                "the field `{}{name}` is not known for {whose}; if it does not change what the model computes, take it out",
                self.prefix
            )),
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
        let map = serde_json::from_str(&files::read_text(&path)?);
        let map = map.map_err(|e| bad(e.to_string()))?;
        let config = parse(Fields::new("", map)).map_err(bad)?;
        config.check().map_err(|e| bad(e.to_string()))?;
        Ok(config)
    }
}

fn parse(mut fields: Fields) -> Result<ModelConfig, String> {
    let family = Family::parse(&fields.need::<String>("model_type")?)?;
    if fields.take::<Value>("quantization_config")?.is_some() {
        return Err("the model is quantized; take the one it was made of".to_owned());
    }
    let sizes = sizes(&mut fields, family)?;
    let mut config = family.config(sizes);
    config.norm_eps = fields.need("rms_norm_eps")?;
    config.tied = fields.take("tie_word_embeddings")?.unwrap_or(config.tied);
    read_biases(&mut config, &mut fields)?;
    read_activation(&mut config, &mut fields)?;
    read_scores(&mut config, &mut fields)?;
    read_ropes(&mut config, &mut fields)?;
    let layers = Layers::read(family, sizes.layers, &mut fields)?;
    config.attention = layers.attention(sizes.layers);
    fields.finish(HARMLESS, &format!("{} models", family.name()))?;
    Ok(config)
}

fn sizes(fields: &mut Fields, family: Family) -> Result<Sizes, String> {
    let hidden_size: usize = fields.need("hidden_size")?;
    let heads: usize = fields.need("num_attention_heads")?;
    // Where the reference model's default is a number of its own, it must be said.
    let fixed_heads = !matches!(family, Family::Olmo2 | Family::Llama);
    let fixed_width = family.is_gemma() || family == Family::Qwen3;
    Ok(Sizes {
        vocab_size: fields.need("vocab_size")?,
        hidden_size,
        intermediate_size: fields.need("intermediate_size")?,
        layers: fields.need("num_hidden_layers")?,
        heads,
        kv_heads: match fixed_heads {
            true => fields.need("num_key_value_heads")?,
            false => fields.take("num_key_value_heads")?.unwrap_or(heads),
        },
        head_dim: match fixed_width {
            true => fields.need("head_dim")?,
            false => fields
                .take("head_dim")?
                .unwrap_or(hidden_size / heads.max(1)),
        },
        max_positions: fields.need("max_position_embeddings")?,
    })
}

fn read_biases(config: &mut ModelConfig, fields: &mut Fields) -> Result<(), String> {
    if !matches!(config.family, Family::Mistral | Family::Qwen2) {
        config.qkv_bias = fields.take("attention_bias")?.unwrap_or(false);
        config.o_bias = config.qkv_bias;
    }
    if matches!(config.family, Family::Llama | Family::SmolLm3) {
        config.mlp_bias = fields.take("mlp_bias")?.unwrap_or(false);
    }
    Ok(())
}

fn read_activation(config: &mut ModelConfig, fields: &mut Fields) -> Result<(), String> {
    let act: Option<String> = fields.take("hidden_act")?;
    // Gemma's files have an older field beside the one that counts.
    let (field, act) = match config.family.is_gemma() {
        true => ("hidden_activation", fields.take("hidden_activation")?),
        false => ("hidden_act", act),
    };
    config.activation = match act.as_deref() {
        None => config.activation,
        Some("silu") => Activation::Silu,
        Some("gelu_pytorch_tanh") => Activation::GeluTanh,
        Some(act) => {
            return Err(format!(
                "{field} is '{act}', but only silu and gelu_pytorch_tanh are known"
            ));
        }
    };
    Ok(())
}

fn read_scores(config: &mut ModelConfig, fields: &mut Fields) -> Result<(), String> {
    if let Some(dropout) = fields
        .take("attention_dropout")?
        .filter(|p: &f64| *p != 0.0)
    {
        return Err(format!(
            "attention_dropout is {dropout}, but attention drops nothing here; set it to 0"
        ));
    }
    if !config.family.is_gemma() {
        return Ok(());
    }
    let scalar = fields.take("query_pre_attn_scalar")?;
    config.query_scalar = scalar.or(config.query_scalar);
    config.logit_cap = fields.nullable("final_logit_softcapping", config.logit_cap)?;
    if config.family == Family::Gemma2 {
        config.attention_cap = fields.nullable("attn_logit_softcapping", config.attention_cap)?;
    }
    Ok(())
}

/// Rotary embeddings: `rope_theta` and `rope_scaling`, or `rope_parameters` as
/// newer versions of transformers write them.
fn read_ropes(config: &mut ModelConfig, fields: &mut Fields) -> Result<(), String> {
    whole_heads(fields)?;
    let theta = fields.take("rope_theta")?;
    config.ropes[0].theta = theta.unwrap_or(config.ropes[0].theta);
    if let [_, local] = config.ropes.as_mut_slice() {
        let theta = fields.take("rope_local_base_freq")?;
        local.theta = theta.unwrap_or(local.theta);
    }
    let scaling: Option<Map<String, Value>> = fields.take("rope_scaling")?;
    let parameters: Option<Map<String, Value>> = fields.take("rope_parameters")?;
    let (name, map) = match (scaling, parameters) {
        (None, None) => return Ok(()),
        (Some(map), None) => ("rope_scaling", map),
        (None, Some(map)) => ("rope_parameters", map),
        (Some(_), Some(_)) => {
            return Err("rope_scaling and rope_parameters are both given; keep one".to_owned());
        }
    };
    let mut nested = Fields::new(&format!("{name}."), map);
    if config.ropes.len() == 1 || name == "rope_scaling" {
        config.ropes[0] = rope(nested, config.ropes[0], config.max_positions)?;
        return Ok(());
    }
    for (rope_config, layers) in config.ropes.iter_mut().zip([FULL, SLIDING]) {
        if let Some(map) = nested.take(layers)? {
            let fields = Fields::new(&format!("{name}.{layers}."), map);
            *rope_config = rope(fields, *rope_config, config.max_positions)?;
        }
    }
    // The older form, in which files are written, has no place for it.
    if config.ropes[1].scaling != RotaryScaling::None {
        return Err(format!("{name}.{SLIDING} is scaled, which is not known"));
    }
    nested.finish(&[], "rotary embeddings")
}

fn rope(mut fields: Fields, before: Rope, positions: usize) -> Result<Rope, String> {
    whole_heads(&mut fields)?;
    let theta = fields.take("rope_theta")?.unwrap_or(before.theta);
    let older: Option<String> = fields.take("type")?;
    let kind = fields.take("rope_type")?.or(older);
    let scaling = match kind.as_deref().unwrap_or("default") {
        "default" => RotaryScaling::None,
        "linear" => RotaryScaling::Linear {
            factor: fields.need("factor")?,
        },
        "llama3" => RotaryScaling::Llama3 {
            factor: fields.need("factor")?,
            low: fields.need("low_freq_factor")?,
            high: fields.need("high_freq_factor")?,
            original: fields
                .take("original_max_position_embeddings")?
                .unwrap_or(positions),
        },
        kind => {
            return Err(format!(
                "{}rope_type is '{kind}', but only default, linear and llama3 are known",
                fields.prefix
            ));
        }
    };
    fields.finish(&[], "rotary embeddings of its type")?;
    Ok(Rope { theta, scaling })
}

/// Refuses rotary embeddings of a part of each head.
fn whole_heads(fields: &mut Fields) -> Result<(), String> {
    let part: Option<f64> = fields.take("partial_rotary_factor")?;
    match part.filter(|part| *part != 1.0) {
        None => Ok(()),
        Some(part) => Err(format!(
            "{}partial_rotary_factor is {part}, but only whole heads are rotated here",
            fields.prefix
        )),
    }
}

/// `config.json` as written; the order of fields is that of the file.
#[derive(Serialize)]
struct Written<'a> {
    architectures: [&'a str; 1],
    attention_bias: bool,
    attention_dropout: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    attn_logit_softcapping: Option<Option<f64>>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    final_logit_softcapping: Option<Option<f64>>,
    head_dim: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    hidden_act: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hidden_activation: Option<&'a str>,
    hidden_size: usize,
    initializer_range: f64,
    intermediate_size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer_types: Option<Vec<&'a str>>,
    max_position_embeddings: usize,
    mlp_bias: bool,
    model_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_rope_layers: Option<Vec<u8>>,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    num_key_value_heads: usize,
    pad_token_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_pre_attn_scalar: Option<Value>,
    rms_norm_eps: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rope_local_base_freq: Option<f64>,
    rope_scaling: Option<WrittenScaling<'a>>,
    rope_theta: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sliding_window: Option<Option<usize>>,
    tie_word_embeddings: bool,
    torch_dtype: &'a str,
    use_cache: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    use_sliding_window: Option<bool>,
    vocab_size: usize,
}

/// `rope_scaling` as written.
#[derive(Serialize)]
struct WrittenScaling<'a> {
    factor: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    high_freq_factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    low_freq_factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_max_position_embeddings: Option<usize>,
    rope_type: &'a str,
}

impl<'a> WrittenScaling<'a> {
    fn new(scaling: RotaryScaling) -> Option<Self> {
        let (factor, turns, rope_type) = match scaling {
            RotaryScaling::None => return None,
            RotaryScaling::Linear { factor } => (factor, None, "linear"),
            RotaryScaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => (factor, Some((low, high, original)), "llama3"),
        };
        Some(WrittenScaling {
            factor,
            high_freq_factor: turns.map(|(_, high, _)| high),
            low_freq_factor: turns.map(|(low, _, _)| low),
            original_max_position_embeddings: turns.map(|(_, _, original)| original),
            rope_type,
        })
    }
}

impl ModelConfig {
    /// Writes `config.json` into the folder `model`.
    pub fn write(&self, model: &Path, ids: SpecialIds) -> Result<(), ConfigError> {
        let family = self.family;
        let windows = !matches!(family, Family::Olmo2 | Family::Llama);
        let typed = windows && family != Family::Mistral;
        let window = self.attention.iter().find_map(|layer| layer.window);
        let layer_type = |layer: &LayerAttention| layer.window.map_or(FULL, |_| SLIDING);
        let positions = self
            .attention
            .iter()
            .map(|layer| u8::from(layer.rope.is_some()));
        let act = match self.activation {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
        };
        let written = Written {
            architectures: [family.architecture()],
            attention_bias: self.o_bias,
            attention_dropout: 0.0,
            attn_logit_softcapping: (family == Family::Gemma2).then_some(self.attention_cap),
            bos_token_id: None,
            eos_token_id: ids.eos,
            final_logit_softcapping: family.is_gemma().then_some(self.logit_cap),
            head_dim: self.head_dim,
            hidden_act: (!family.is_gemma()).then_some(act),
            hidden_activation: family.is_gemma().then_some(act),
            hidden_size: self.hidden_size,
            initializer_range: 0.02,
            intermediate_size: self.intermediate_size,
            layer_types: typed.then(|| self.attention.iter().map(layer_type).collect()),
            max_position_embeddings: self.max_positions,
            mlp_bias: self.mlp_bias,
            model_type: family.name(),
            no_rope_layers: (family == Family::SmolLm3).then(|| positions.collect()),
            num_attention_heads: self.heads,
            num_hidden_layers: self.layers,
            num_key_value_heads: self.kv_heads,
            pad_token_id: ids.pad,
            query_pre_attn_scalar: self.query_scalar.map(whole),
            rms_norm_eps: self.norm_eps,
            rope_local_base_freq: self.ropes.get(1).map(|rope| rope.theta),
            rope_scaling: WrittenScaling::new(self.ropes[0].scaling),
            rope_theta: self.ropes[0].theta,
            sliding_window: windows.then_some(window),
            tie_word_embeddings: self.tied,
            torch_dtype: "float32",
            use_cache: true,
            use_sliding_window: (family.is_qwen() || family == Family::SmolLm3)
                .then_some(window.is_some()),
            vocab_size: self.vocab_size,
        };
        files::write(&model.join("config.json"), pretty_json(&written))?;
        Ok(())
    }
}

/// A number, without a point where it needs none: some readers insist on integers.
fn whole(number: f64) -> Value {
    match number as u64 {
        integer if integer as f64 == number => Value::from(integer),
        _ => Value::from(number),
    }
}

/// JSON for people, ending in a newline. The order of fields is the struct's.
pub(super) fn pretty_json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("plain structs serialize");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A file of a family with these fields added, or changed.
    fn read(family: &str, more: Value) -> Result<ModelConfig, String> {
        let mut file = json!({
            "model_type": family, "vocab_size": 100, "hidden_size": 32, "intermediate_size": 40,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 8, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        });
        let fields = file.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        let config = parse(Fields::new("", fields.clone()))?;
        config.check().map_err(|e| e.to_string())?;
        Ok(config)
    }

    fn refused(family: &str, more: Value) -> String {
        read(family, more).unwrap_err()
    }

    fn windows(config: &ModelConfig) -> Vec<usize> {
        let windows = config.attention.iter().map(|layer| layer.window);
        windows.map(|window| window.unwrap_or(0)).collect()
    }

    fn ropes(config: &ModelConfig) -> Vec<Option<usize>> {
        config.attention.iter().map(|layer| layer.rope).collect()
    }

    #[test]
    fn a_file_of_every_family_is_read_back_as_it_was_written() {
        for (name, config) in crate::ml::tests::configs() {
            // The test's own mixture of two families.
            if name == "norm per head" {
                continue;
            }
            let folder = tempfile::tempdir().unwrap();
            config.write(folder.path(), SpecialIds::default()).unwrap();
            assert_eq!(ModelConfig::read(folder.path()).unwrap(), config, "{name}");
        }
    }

    /// Excerpts of the files of published models, with all fields that matter.
    #[test]
    fn published_models_are_understood() {
        let llama = json!({
            "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
            "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu",
            "initializer_range": 0.02, "mlp_bias": false, "pretraining_tp": 1,
            "rope_scaling": {
                "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3",
            },
            "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
            "transformers_version": "4.45.0.dev0", "use_cache": true,
        });
        let config = read("llama", llama).unwrap();
        assert!(config.tied && !config.qkv_bias && windows(&config) == [0; 4]);
        let llama3 = RotaryScaling::Llama3 {
            factor: 32.0,
            low: 1.0,
            high: 4.0,
            original: 8192,
        };
        assert_eq!(
            config.ropes,
            [Rope {
                theta: 5e5,
                scaling: llama3
            }]
        );

        let qwen = json!({
            "attention_dropout": 0.0, "hidden_act": "silu", "max_window_layers": 70,
            "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": false,
            "use_mrope": false, "use_sliding_window": false,
        });
        let config = read("qwen2", qwen).unwrap();
        assert!(config.qkv_bias && !config.o_bias && windows(&config) == [0; 4]);

        let smollm = json!({
            "is_llama_config": true, "rope_interleaved": false, "rope_scaling": null,
            "rope_theta": 130000, "transformers.js_config": { "dtype": "q4" },
        });
        assert_eq!(
            read("llama", smollm).unwrap().ropes,
            [Rope::plain(130_000.0)]
        );

        let mistral = json!({ "rope_theta": 1000000.0, "sliding_window": null });
        assert_eq!(windows(&read("mistral", mistral).unwrap()), [0; 4]);
        assert_eq!(windows(&read("mistral", json!({})).unwrap()), [4096; 4]);

        let smollm = json!({
            "layer_types": ["full_attention", "full_attention", "full_attention", "full_attention"],
            "max_window_layers": 28, "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0],
            "pretraining_tp": 2, "rope_theta": 5000000.0, "sliding_window": null, "use_sliding_window": false,
        });
        let config = read("smollm3", smollm).unwrap();
        assert_eq!(ropes(&config), [Some(0), Some(0), Some(0), None]);
        assert!(config.tied);

        let gemma = json!({
            "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid",
            "final_logit_softcapping": 30.0, "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 224,
            "rope_theta": 10000.0, "sliding_window": 4096,
        });
        let config = read("gemma2", gemma).unwrap();
        assert_eq!(windows(&config), [4096, 0, 4096, 0]);
        assert_eq!(config.query_scalar, Some(224.0));
        assert_eq!(
            (config.attention_cap, config.logit_cap),
            (Some(50.0), Some(30.0))
        );

        let gemma = json!({
            "attn_logit_softcapping": null, "cache_implementation": "hybrid",
            "final_logit_softcapping": null, "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 256, "rope_local_base_freq": 10000, "rope_scaling": null,
            "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 3,
        });
        let config = read("gemma3_text", gemma).unwrap();
        assert_eq!(windows(&config), [512, 512, 0, 512]);
        assert_eq!(ropes(&config), [Some(1), Some(1), Some(0), Some(1)]);
        assert_eq!(config.ropes, [Rope::plain(1e6), Rope::plain(1e4)]);
    }

    #[test]
    fn an_older_file_means_what_it_meant() {
        let older = json!({ "rope_scaling": { "type": "linear", "factor": 2.0 } });
        let linear = RotaryScaling::Linear { factor: 2.0 };
        assert_eq!(read("llama", older).unwrap().ropes[0].scaling, linear);
        let caps = json!({ "attn_logit_softcapping": null });
        let config = read("gemma2", caps).unwrap();
        assert_eq!((config.attention_cap, config.logit_cap), (None, Some(30.0)));
        let window = json!({ "use_sliding_window": true, "max_window_layers": 2 });
        assert_eq!(windows(&read("qwen3", window).unwrap()), [0, 0, 4096, 4096]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let rope = |scaling: Value| refused("llama", json!({ "rope_scaling": scaling }));
        let sliding = json!([
            "sliding_attention",
            "full_attention",
            "full_attention",
            "full_attention"
        ]);
        let both = json!({ "rope_scaling": { "rope_type": "default" }, "rope_parameters": {} });
        let local = json!({ "rope_parameters": { "sliding_attention": { "rope_type": "linear", "factor": 2 } } });
        let messages = [
            refused("gpt_oss", json!({})),
            refused("gemma3", json!({})),
            refused("llama", json!({ "vocab_size": null })),
            refused("llama", json!({ "vocab_size": "many" })),
            refused("qwen3", json!({ "head_dim": null })),
            refused("mistral", json!({ "num_key_value_heads": null })),
            refused("llama", json!({ "quantization_config": { "bits": 4 } })),
            refused("llama", json!({ "hidden_act": "relu" })),
            refused("gemma2", json!({ "hidden_activation": "gelu" })),
            refused("llama", json!({ "attention_dropout": 0.1 })),
            refused("llama", json!({ "partial_rotary_factor": 0.5 })),
            refused("llama", json!({ "rope_interleaved": true })),
            refused("llama", json!({ "sliding_window": 4096 })),
            refused("olmo2", json!({ "clip_qkv": 8.0 })),
            refused("gemma3_text", json!({ "attn_logit_softcapping": 50.0 })),
            refused(
                "gemma3_text",
                json!({ "use_bidirectional_attention": true }),
            ),
            refused("gemma2", json!({ "final_logit_softcapping": 0.0 })),
            refused("gemma2", json!({ "sliding_window": null })),
            refused("mistral", json!({ "sliding_window": 0 })),
            refused("qwen2", json!({ "layer_types": sliding })),
            refused("qwen2", json!({ "layer_types": ["full_attention"] })),
            refused(
                "qwen3",
                json!({ "layer_types": ["a", "a", "a", "chunked_attention"] }),
            ),
            refused("smollm3", json!({ "no_rope_layers": [1, 0] })),
            refused("smollm3", json!({ "no_rope_layer_interval": 0 })),
            rope(json!({ "rope_type": "yarn", "factor": 4.0 })),
            rope(json!({ "type": "dynamic", "factor": 2.0 })),
            rope(json!({ "rope_type": "linear" })),
            rope(json!({ "rope_type": "linear", "factor": -1 })),
            rope(json!({ "rope_type": "default", "mrope_section": [1, 2] })),
            rope(
                json!({ "rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1 }),
            ),
            rope(json!({ "rope_type": "linear", "factor": 2, "partial_rotary_factor": 0.25 })),
            refused("llama", both),
            refused("gemma3_text", local),
        ];
        insta::assert_snapshot!(messages.join("\n"), @r#"
        model_type is 'gpt_oss', but only olmo2, llama, mistral, qwen2, qwen3, smollm3, gemma2 and gemma3_text can be trained
        model_type is 'gemma3' (this one reads images too: its text part alone is gemma3_text), but only olmo2, llama, mistral, qwen2, qwen3, smollm3, gemma2 and gemma3_text can be trained
        the field `vocab_size` is missing
        vocab_size: invalid type: string "many", expected usize
        the field `head_dim` is missing
        the field `num_key_value_heads` is missing
        the model is quantized; take the one it was made of
        hidden_act is 'relu', but only silu and gelu_pytorch_tanh are known
        hidden_activation is 'gelu', but only silu and gelu_pytorch_tanh are known
        attention_dropout is 0.1, but attention drops nothing here; set it to 0
        partial_rotary_factor is 0.5, but only whole heads are rotated here
        the field `rope_interleaved` is not known for llama models; if it does not change what the model computes, take it out
        the field `sliding_window` is not known for llama models; if it does not change what the model computes, take it out
        the field `clip_qkv` is not known for olmo2 models; if it does not change what the model computes, take it out
        the field `attn_logit_softcapping` is not known for gemma3_text models; if it does not change what the model computes, take it out
        the field `use_bidirectional_attention` is not known for gemma3_text models; if it does not change what the model computes, take it out
        soft caps and query_pre_attn_scalar must be above 0
        some layers have a sliding window, but there is no sliding_window
        a sliding window of 0 tokens sees nothing
        some layers have a sliding window, but there is no sliding_window
        layer_types names 1 layers, but there are 4
        layer_types has 'a', but only full_attention and sliding_attention are known
        no_rope_layers is shorter than the 4 layers
        a pattern of every 0 layers means nothing
        rope_scaling.rope_type is 'yarn', but only default, linear and llama3 are known
        rope_scaling.rope_type is 'dynamic', but only default, linear and llama3 are known
        the field `rope_scaling.factor` is missing
        bases and factors of rotary embeddings must be above 0, and high_freq_factor above low_freq_factor
        the field `rope_scaling.mrope_section` is not known for rotary embeddings of its type; if it does not change what the model computes, take it out
        bases and factors of rotary embeddings must be above 0, and high_freq_factor above low_freq_factor
        rope_scaling.partial_rotary_factor is 0.25, but only whole heads are rotated here
        rope_scaling and rope_parameters are both given; keep one
        rope_parameters.sliding_attention is scaled, which is not known
        "#);
    }
}
