//! PEFT's `adapter_config.json`: read as PEFT understands it, written as PEFT writes it.
//!
//! The order of keys is that of their names, so that the bytes are stable;
//! PEFT itself writes `target_modules` in an order that changes between runs.

use std::collections::BTreeMap;
use std::fmt;

use regex::Regex;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::config::{ModelConfig, pretty_json};
use super::layout::Module;
use super::lora::{Exception, Lora, LoraConfig};
use super::target;

/// The version of PEFT whose fields are written.
const PEFT_VERSION: &str = "0.21.2";

/// Fields that, if set, make an adapter something that is not known here.
const REFUSED: [&str; 16] = [
    "modules_to_save",
    "fan_in_fan_out",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "megatron_config",
    "loftq_config",
    "invocation_string",
];

/// Fields that change nothing about what a finished adapter computes, or are read.
const KNOWN: [&str; 27] = [
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
];

/// Ways to begin an adapter that leave the base as it is. The others change
/// its weights, so that the adapter alone does not say what was trained.
const BEGUN: [&str; 4] = ["gaussian", "orthogonal", "eva", "mica"];

/// What an `adapter_config.json` says, for one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// What the adapter is like, resolved.
    pub config: LoraConfig,
    /// Modules with a rank or alpha of their own.
    pub exceptions: Vec<Exception>,
}

/// The fields that are read.
#[derive(Deserialize)]
struct Raw {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    init_lora_weights: Value,
    #[serde(default)]
    target_modules: Value,
    #[serde(default)]
    exclude_modules: Value,
    #[serde(default)]
    layers_to_transform: Value,
    #[serde(default)]
    layers_pattern: Value,
    #[serde(default)]
    rank_pattern: Option<Ordered>,
    #[serde(default)]
    alpha_pattern: Option<Ordered>,
}

/// A JSON object of numbers in the order of the file, which decides which pattern comes first.
#[derive(Default)]
struct Ordered(Vec<(String, f64)>);

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Ordered;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of numbers")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Ordered(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// Reads the text of an `adapter_config.json` for a model.
pub fn read(text: &str, model: &ModelConfig) -> Result<Read, String> {
    let fields: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let raw: Raw = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if raw.peft_type != "LORA" {
        return Err(format!("peft_type is {}, not LORA", raw.peft_type));
    }
    refuse_unknown(&fields)?;
    refuse_others(&raw)?;
    if raw.r == 0 {
        return Err("r is 0".into());
    }
    let modules = targeted(&raw, model)?;
    let (target_modules, layers) = target::naming(&modules, model);
    let config = LoraConfig {
        rank: raw.r,
        alpha: raw.lora_alpha,
        rank_stabilized: raw.use_rslora,
        dropout: raw.lora_dropout,
        dora: raw.use_dora,
        target_modules,
        layers,
    };
    Ok(Read {
        exceptions: exceptions(&raw, &modules)?,
        config,
    })
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

fn refuse_unknown(fields: &BTreeMap<String, Value>) -> Result<(), String> {
    let unknown = |name: &str| REFUSED.contains(&name) || !KNOWN.contains(&name);
    let mut set = fields.iter().filter(|(_, value)| is_set(value));
    match set.find(|(name, _)| unknown(name)) {
        None => Ok(()),
        Some((name, value)) => Err(format!(
            "{name} is {value}, and an adapter with it is more than LoRA matrices: that is not known here"
        )),
    }
}

fn refuse_others(raw: &Raw) -> Result<(), String> {
    if let Some(bias) = raw.bias.as_deref().filter(|bias| *bias != "none") {
        return Err(format!(
            "bias is \"{bias}\", but only \"none\" is known here"
        ));
    }
    match raw.init_lora_weights.as_str() {
        Some(begun) if !BEGUN.contains(&begun) => Err(format!(
            "init_lora_weights is \"{begun}\", which changes the base's weights: convert the \
             adapter to plain LoRA first (save_pretrained with path_initial_model_for_weight_conversion)"
        )),
        _ => Ok(()),
    }
}

/// The modules that PEFT would put the adapter on, of those that are linear layers of blocks.
fn targeted(raw: &Raw, model: &ModelConfig) -> Result<Vec<Module>, String> {
    let layers = layers(raw)?;
    let excluded = match &raw.exclude_modules {
        Value::Null => Names::List(Vec::new()),
        value => Names::new("exclude_modules", value)?,
    };
    let wanted = Names::new("target_modules", &raw.target_modules)?;
    if matches!(wanted, Names::Pattern(_)) && layers.is_some() {
        return Err(
            "layers_to_transform cannot be given with a target_modules that is a pattern".into(),
        );
    }
    let mut modules = target::all(model);
    modules.retain(|module| {
        let path = module.to_string();
        let within = layers.as_ref().is_none_or(|layers| layers.hold(&path));
        within && wanted.mean(&path) && !excluded.mean(&path)
    });
    match modules.is_empty() {
        true => Err(format!(
            "target_modules {} is no linear layer of the model ({})",
            raw.target_modules,
            target::there(model)
        )),
        false => Ok(modules),
    }
}

/// How PEFT names modules: by the ends of their paths, or by a pattern for the whole path.
enum Names {
    All,
    List(Vec<String>),
    Pattern(Regex),
}

impl Names {
    fn new(field: &str, value: &Value) -> Result<Self, String> {
        match value {
            Value::String(all) if all.eq_ignore_ascii_case(target::ALL_LINEAR) => Ok(Names::All),
            Value::String(pattern) => Ok(Names::Pattern(whole(field, pattern)?)),
            Value::Array(items) => {
                let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
                let texts: Option<Vec<String>> = texts.collect();
                texts
                    .map(Names::List)
                    .ok_or_else(|| format!("{field} holds something that is no text"))
            }
            _ => Err(format!("{field} is neither a list of names nor a pattern")),
        }
    }

    fn mean(&self, path: &str) -> bool {
        match self {
            Names::All => true,
            Names::List(names) => names.iter().any(|name| target::names(name, path)),
            Names::Pattern(pattern) => pattern.is_match(path),
        }
    }
}

fn whole(field: &str, pattern: &str) -> Result<Regex, String> {
    compile(field, pattern, format!("^(?:{pattern})$"))
}

fn compile(field: &str, pattern: &str, regex: String) -> Result<Regex, String> {
    Regex::new(&regex).map_err(|_| format!("{field}: the pattern '{pattern}' cannot be read here"))
}

/// `layers_to_transform` with `layers_pattern`.
struct Layers {
    numbers: Vec<u64>,
    patterns: Vec<Regex>,
}

fn layers(raw: &Raw) -> Result<Option<Layers>, String> {
    let numbers = match &raw.layers_to_transform {
        Value::Array(items) => items.iter().map(Value::as_u64).collect(),
        Value::Null => return Ok(None),
        one => one.as_u64().map(|number| vec![number]),
    };
    let numbers: Vec<u64> =
        numbers.ok_or("layers_to_transform holds something that is no layer")?;
    if numbers.is_empty() {
        return Ok(None);
    }
    let names: Vec<&str> = match &raw.layers_pattern {
        Value::String(one) if !one.is_empty() => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let patterns = names.into_iter().map(|name| {
        let regex = format!(r"^(?:|.*?\.){name}\.(?P<layer>\d+)\.");
        compile("layers_pattern", name, regex)
    });
    let mut patterns = patterns.collect::<Result<Vec<_>, _>>()?;
    if patterns.is_empty() {
        patterns.push(Regex::new(r"^.*?\.[^.]*\.(?P<layer>\d+)\.").expect("it is fixed"));
    }
    Ok(Some(Layers { numbers, patterns }))
}

impl Layers {
    fn hold(&self, path: &str) -> bool {
        let captures = self
            .patterns
            .iter()
            .find_map(|pattern| pattern.captures(path));
        let layer = captures.and_then(|found| found["layer"].parse().ok());
        layer.is_some_and(|layer: u64| self.numbers.contains(&layer))
    }
}

/// `rank_pattern` and `alpha_pattern` for each module that they mean.
fn exceptions(raw: &Raw, modules: &[Module]) -> Result<Vec<Exception>, String> {
    let compiled = |field: &str, ordered: &Option<Ordered>| {
        let pairs = ordered.iter().flat_map(|ordered| &ordered.0);
        let pairs = pairs.map(|(key, value)| {
            Ok((
                compile(field, key, format!(r"^(?:.*\.)?(?:{key})$"))?,
                *value,
            ))
        });
        pairs.collect::<Result<Vec<(Regex, f64)>, String>>()
    };
    let ranks = compiled("rank_pattern", &raw.rank_pattern)?;
    let alphas = compiled("alpha_pattern", &raw.alpha_pattern)?;
    let mut exceptions = Vec::new();
    for module in modules {
        let path = module.to_string();
        let of = |pairs: &[(Regex, f64)]| {
            let found = pairs.iter().find(|(pattern, _)| pattern.is_match(&path));
            found.map(|(_, value)| *value)
        };
        let rank = of(&ranks).unwrap_or(raw.r as f64);
        if rank < 1.0 || rank.fract() != 0.0 {
            return Err(format!("rank_pattern gives {module} a rank of {rank}"));
        }
        let (rank, alpha) = (rank as usize, of(&alphas).unwrap_or(raw.lora_alpha));
        if rank != raw.r || alpha != raw.lora_alpha {
            let module = *module;
            exceptions.push(Exception {
                module,
                rank,
                alpha,
            });
        }
    }
    Ok(exceptions)
}

/// `adapter_config.json` as written: every field of PEFT's `LoraConfig`, in order of name.
#[derive(Serialize)]
struct Written<'a> {
    alora_invocation_tokens: Option<()>,
    alpha_pattern: BTreeMap<String, Number>,
    arrow_config: Option<()>,
    auto_mapping: Option<()>,
    base_model_name_or_path: Option<&'a str>,
    bias: &'a str,
    corda_config: Option<()>,
    ensure_weight_tying: bool,
    eva_config: Option<()>,
    exclude_modules: Option<()>,
    fan_in_fan_out: bool,
    inference_mode: bool,
    init_lora_weights: bool,
    kasa_config: Option<()>,
    layer_replication: Option<()>,
    layers_pattern: Option<&'a str>,
    layers_to_transform: Option<&'a [usize]>,
    loftq_config: BTreeMap<(), ()>,
    lora_alpha: Number,
    lora_bias: bool,
    lora_dropout: f64,
    lora_ga_config: Option<()>,
    megatron_config: Option<()>,
    megatron_core: &'a str,
    modules_to_save: Option<()>,
    monteclora_config: Option<()>,
    peft_type: &'a str,
    peft_version: &'a str,
    qalora_group_size: u32,
    r: usize,
    rank_pattern: BTreeMap<String, usize>,
    revision: Option<&'a str>,
    target_modules: &'a [String],
    target_parameters: Option<()>,
    task_type: &'a str,
    trainable_token_indices: Option<()>,
    use_bdlora: Option<()>,
    use_dora: bool,
    use_qalora: bool,
    use_rslora: bool,
    velora_config: Option<()>,
}

/// A number without a fraction is an integer, as in what PEFT writes of one.
#[derive(Serialize)]
#[serde(untagged)]
enum Number {
    Integer(i64),
    Fraction(f64),
}

impl Number {
    fn new(value: f64) -> Self {
        match value.fract() == 0.0 && value.abs() < 1e15 {
            true => Number::Integer(value as i64),
            false => Number::Fraction(value),
        }
    }
}

/// The text of an adapter's `adapter_config.json`.
pub fn write(lora: &Lora, base: Option<&str>, revision: Option<&str>) -> String {
    let config = &lora.config;
    let others = || lora.exceptions.iter();
    // PEFT takes these keys as patterns: a whole path with its dots escaped means that module alone.
    let key = |other: &Exception| regex::escape(&other.module.to_string());
    pretty_json(&Written {
        alora_invocation_tokens: None,
        alpha_pattern: others()
            .filter(|other| other.alpha != config.alpha)
            .map(|other| (key(other), Number::new(other.alpha)))
            .collect(),
        arrow_config: None,
        auto_mapping: None,
        base_model_name_or_path: base,
        bias: "none",
        corda_config: None,
        ensure_weight_tying: false,
        eva_config: None,
        exclude_modules: None,
        fan_in_fan_out: false,
        inference_mode: true,
        init_lora_weights: true,
        kasa_config: None,
        layer_replication: None,
        layers_pattern: config.layers.as_ref().map(|_| "layers"),
        layers_to_transform: config.layers.as_deref(),
        loftq_config: BTreeMap::new(),
        lora_alpha: Number::new(config.alpha),
        lora_bias: false,
        lora_dropout: config.dropout,
        lora_ga_config: None,
        megatron_config: None,
        megatron_core: "megatron.core",
        modules_to_save: None,
        monteclora_config: None,
        peft_type: "LORA",
        peft_version: PEFT_VERSION,
        qalora_group_size: 16,
        r: config.rank,
        rank_pattern: others()
            .filter(|other| other.rank != config.rank)
            .map(|other| (key(other), other.rank))
            .collect(),
        revision,
        target_modules: &config.target_modules,
        target_parameters: None,
        task_type: "CAUSAL_LM",
        trainable_token_indices: None,
        use_bdlora: None,
        use_dora: config.dora,
        use_qalora: false,
        use_rslora: config.rank_stabilized,
        velora_config: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ml::config::Family;
    use crate::ml::tests::config;
    use serde_json::json;

    /// As PEFT 0.21 writes one, with some fields changed.
    fn text(changes: Value) -> String {
        let mut fields = json!({
            "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null,
            "auto_mapping": null, "base_model_name_or_path": "o/n", "bias": "none",
            "corda_config": null, "ensure_weight_tying": false, "eva_config": null,
            "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true,
            "init_lora_weights": true, "layer_replication": null, "layers_pattern": null,
            "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 16,
            "lora_bias": false, "lora_dropout": 0.1, "megatron_config": null,
            "megatron_core": "megatron.core", "modules_to_save": null, "peft_type": "LORA",
            "peft_version": "0.21.2", "qalora_group_size": 16, "r": 8, "rank_pattern": {},
            "revision": "abc", "target_modules": ["v_proj", "q_proj"],
            "target_parameters": null, "task_type": "CAUSAL_LM",
            "trainable_token_indices": null, "use_dora": false, "use_qalora": false,
            "use_rslora": false
        });
        for (name, value) in changes.as_object().unwrap() {
            fields[name] = value.clone();
        }
        fields.to_string()
    }

    fn targets(changes: Value) -> Result<String, String> {
        let read = read(&text(changes), &config(Family::Llama))?;
        let (names, layers) = (read.config.target_modules, read.config.layers);
        Ok(format!("{} {layers:?}", names.join(" ")))
    }

    #[test]
    fn targets_are_those_that_peft_finds() {
        let all = "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj";
        for (changes, expected) in [
            (json!({}), "q_proj v_proj None".to_owned()),
            (
                json!({"target_modules": "all-linear"}),
                format!("{all} None"),
            ),
            (
                json!({"target_modules": r".*layers\.1\..*\.(q|k)_proj"}),
                "k_proj q_proj Some([1])".into(),
            ),
            // A pattern is for the whole path.
            (
                json!({"target_modules": r"(.*\.)?(up|down)_proj|.*o_proj"}),
                "down_proj o_proj up_proj None".into(),
            ),
            (
                json!({"layers_to_transform": 1}),
                "q_proj v_proj Some([1])".into(),
            ),
            (
                json!({"layers_to_transform": [0, 9], "layers_pattern": "layers"}),
                "q_proj v_proj Some([0])".into(),
            ),
            (
                json!({"layers_to_transform": [0], "layers_pattern": ["h", "layers"]}),
                "q_proj v_proj Some([0])".into(),
            ),
            (
                json!({"target_modules": ["model.layers.1.mlp.up_proj"]}),
                "up_proj Some([1])".into(),
            ),
            (
                json!({"target_modules": "all-linear", "exclude_modules": ["mlp.up_proj", "gate_proj"]}),
                "down_proj k_proj o_proj q_proj v_proj None".into(),
            ),
            (
                json!({"exclude_modules": r".*\.0\..*"}),
                "q_proj v_proj Some([1])".into(),
            ),
        ] {
            assert_eq!(targets(changes.clone()), Ok(expected), "{changes}");
        }
        for (changes, expected) in [
            (json!({"target_modules": "q_proj"}), "is no linear layer"),
            (
                json!({"target_modules": ["query"]}),
                "is no linear layer of the model (each of",
            ),
            (json!({"target_modules": "(?!a)"}), "cannot be read here"),
            (
                json!({"target_modules": "q", "layers_to_transform": [1]}),
                "cannot be given",
            ),
            (
                json!({"layers_to_transform": [1], "layers_pattern": "h"}),
                "is no linear layer",
            ),
            (json!({"layers_to_transform": ["a"]}), "no layer"),
            (json!({"target_modules": null}), "neither a list"),
            (json!({"r": 0}), "r is 0"),
        ] {
            let error = targets(changes.clone()).unwrap_err();
            assert!(error.contains(expected), "{changes}: {error}");
        }
    }

    #[test]
    fn what_is_more_than_lora_is_refused_by_name() {
        for (name, value) in [
            ("fan_in_fan_out", json!(true)),
            ("modules_to_save", json!(["lm_head"])),
            ("lora_bias", json!(true)),
            ("layer_replication", json!([[0, 2]])),
            ("trainable_token_indices", json!([1])),
            ("bias", json!("all")),
            ("init_lora_weights", json!("pissa_niter_4")),
            ("peft_type", json!("LOHA")),
            ("something_of_tomorrow", json!(3)),
        ] {
            let error = targets(json!({name: value})).unwrap_err();
            assert!(error.contains(name), "{name}: {error}");
        }
        let harmless = json!({"init_lora_weights": "gaussian", "something_of_tomorrow": null});
        assert!(targets(harmless).is_ok());
    }

    #[test]
    fn patterns_of_ranks_and_alphas_hold_in_the_order_of_the_file() {
        let model = config(Family::Llama);
        let changes = json!({"target_modules": ["q_proj", "up_proj"]});
        let patterns =
            r#""rank_pattern":{"layers.1.*":2,"q_proj":4},"alpha_pattern":{"up_proj":3.5}"#;
        let text = text(changes)
            .replace(r#""rank_pattern":{}"#, patterns)
            .replace(r#""alpha_pattern":{},"#, "");
        let read = super::read(&text, &model).unwrap();
        let found: Vec<String> = read
            .exceptions
            .iter()
            .map(|other| format!("{} {} {}", other.module, other.rank, other.alpha))
            .collect();
        assert_eq!(
            found,
            [
                "model.layers.0.self_attn.q_proj 4 16",
                "model.layers.0.mlp.up_proj 8 3.5",
                "model.layers.1.self_attn.q_proj 2 16",
                "model.layers.1.mlp.up_proj 2 3.5",
            ]
        );
        // What is written means the same.
        let lora = Lora::with_exceptions(read.config.clone(), read.exceptions.clone(), &model);
        let written = write(&lora, Some("o/n"), Some("abc"));
        assert_eq!(super::read(&written, &model).unwrap(), read);
    }

    #[test]
    fn every_field_of_peft_is_written_in_order_and_the_bytes_are_pinned() {
        let model = config(Family::Llama);
        let read = super::read(&text(json!({"layers_to_transform": [1]})), &model).unwrap();
        let written = write(&Lora::zeros(read.config, &model), Some("o/n"), None);
        let names: Vec<&str> = written
            .lines()
            .filter_map(|line| line.strip_prefix("  \"")?.split('"').next())
            .collect();
        assert!(names.is_sorted() && names.len() == 41, "{names:?}");
        insta::assert_snapshot!(written.replace('\n', "").replace("  ", " "), @r#"{ "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null, "base_model_name_or_path": "o/n", "bias": "none", "corda_config": null, "ensure_weight_tying": false, "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true, "kasa_config": null, "layer_replication": null, "layers_pattern": "layers", "layers_to_transform": [  1 ], "loftq_config": {}, "lora_alpha": 16, "lora_bias": false, "lora_dropout": 0.1, "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core", "modules_to_save": null, "monteclora_config": null, "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 8, "rank_pattern": {}, "revision": null, "target_modules": [  "q_proj",  "v_proj" ], "target_parameters": null, "task_type": "CAUSAL_LM", "trainable_token_indices": null, "use_bdlora": null, "use_dora": false, "use_qalora": false, "use_rslora": false, "velora_config": null}"#);
    }
}
