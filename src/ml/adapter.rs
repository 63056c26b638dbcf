//! Adapters as PEFT stores them, bound to the base they were trained on.
//!
//! Beside PEFT's two files lies `retune.json` with the digest of the base:
//! PEFT's own configuration has no field for it, and older versions refuse
//! fields they do not know.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::{ModelConfig, pretty_json};
use super::lora::{Lora, LoraConfig, LoraError};
use super::tensors::{self, TensorError, model_files};
use crate::files::{self, FileError, PathContext};
use crate::hash::{Digest, Encoder};

/// Version of `retune.json`: 1, `{format, base}`.
const FORMAT: u32 = 1;

/// An adapter folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its tensors cannot be used.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// It does not fit the model.
    #[error("{}: {source}", path.display())]
    Lora {
        /// The configuration file.
        path: PathBuf,
        /// Why.
        source: LoraError,
    },
    /// A file is not what it should be.
    #[error("{}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// It was trained on another base.
    #[error(
        "the adapter {} was trained on another base: on {}, not on {}",
        path.display(), trained_on.short(), given.short()
    )]
    OtherBase {
        /// The adapter folder.
        path: PathBuf,
        /// Digest of its base.
        trained_on: Digest,
        /// Digest of the base at hand.
        given: Digest,
    },
}

/// The digest of a model's content: its configuration and its weights, in order of name.
pub fn base_digest(model: &Path) -> Result<Digest, AdapterError> {
    let mut paths = vec![model.join("config.json")];
    paths.extend(model_files(model)?);
    let mut encoder = Encoder::new("retune.base.1");
    encoder.list(paths.len());
    for path in paths {
        let (digest, size) = Digest::of_file(&path).on("read", &path)?;
        encoder.digest(&digest).u64(size);
    }
    Ok(encoder.digest_of())
}

/// `adapter_config.json` as written: every field PEFT's `LoraConfig` needs, in order of name.
#[derive(Serialize)]
struct Written<'a> {
    auto_mapping: Option<()>,
    base_model_name_or_path: Option<&'a str>,
    bias: &'a str,
    fan_in_fan_out: bool,
    inference_mode: bool,
    init_lora_weights: bool,
    layers_pattern: Option<&'a str>,
    layers_to_transform: Option<&'a [usize]>,
    lora_alpha: f64,
    lora_dropout: f64,
    modules_to_save: Option<()>,
    peft_type: &'a str,
    r: usize,
    revision: Option<&'a str>,
    target_modules: &'a [String],
    task_type: &'a str,
    use_dora: bool,
    use_rslora: bool,
}

/// The fields of `adapter_config.json` that matter here.
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
    target_modules: Vec<String>,
    #[serde(default)]
    layers_to_transform: Option<Vec<usize>>,
    #[serde(default)]
    rank_pattern: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    alpha_pattern: serde_json::Map<String, serde_json::Value>,
}

/// `retune.json`.
#[derive(Serialize, Deserialize)]
struct Binding {
    format: u32,
    base: Digest,
}

/// Writes an adapter folder.
pub fn write(folder: &Path, lora: &Lora, base: Digest) -> Result<(), AdapterError> {
    let config = &lora.config;
    let written = Written {
        auto_mapping: None,
        base_model_name_or_path: None,
        bias: "none",
        fan_in_fan_out: false,
        inference_mode: true,
        init_lora_weights: true,
        layers_pattern: config.layers.as_ref().map(|_| "layers"),
        layers_to_transform: config.layers.as_deref(),
        lora_alpha: config.alpha,
        lora_dropout: config.dropout,
        modules_to_save: None,
        peft_type: "LORA",
        r: config.rank,
        revision: None,
        target_modules: &config.target_modules,
        task_type: "CAUSAL_LM",
        use_dora: false,
        use_rslora: config.rank_stabilized,
    };
    let binding = Binding {
        format: FORMAT,
        base,
    };
    files::create_dir(folder)?;
    files::write(&folder.join("adapter_config.json"), pretty_json(&written))?;
    files::write(&folder.join("retune.json"), pretty_json(&binding))?;
    lora.tensors
        .write(&folder.join("adapter_model.safetensors"))?;
    Ok(())
}

/// Reads an adapter folder for a base model. An adapter that names another
/// base is refused; one that names none (made by another program) is taken
/// when its tensors fit.
pub fn read(folder: &Path, model: &ModelConfig, base: Digest) -> Result<Lora, AdapterError> {
    check_base(folder, base)?;
    let path = folder.join("adapter_config.json");
    let raw: Raw = parse(&path)?;
    let bad = |message: String| AdapterError::Content {
        path: path.clone(),
        message,
    };
    if raw.peft_type != "LORA" {
        return Err(bad(format!("peft_type is {}, not LORA", raw.peft_type)));
    }
    let patterned = !raw.rank_pattern.is_empty() || !raw.alpha_pattern.is_empty();
    let biased = raw.bias.is_some_and(|bias| bias != "none");
    if raw.use_dora || patterned || biased {
        let what = "use_dora, rank_pattern, alpha_pattern or bias";
        return Err(bad(format!("{what} is set, which is not known here")));
    }
    let config = LoraConfig {
        rank: raw.r,
        alpha: raw.lora_alpha,
        rank_stabilized: raw.use_rslora,
        dropout: raw.lora_dropout,
        target_modules: raw.target_modules,
        layers: raw.layers_to_transform,
    };
    let config = config.resolve(model).map_err(|source| AdapterError::Lora {
        path: path.clone(),
        source,
    })?;
    let mut lora = Lora::zeros(config, model);
    let path = folder.join("adapter_model.safetensors");
    lora.tensors.read(std::slice::from_ref(&path))?;
    refuse_others(&path, &lora)?;
    Ok(lora)
}

fn check_base(folder: &Path, given: Digest) -> Result<(), AdapterError> {
    let path = folder.join("retune.json");
    if !path.exists() {
        return Ok(());
    }
    let binding: Binding = parse(&path)?;
    if binding.format > FORMAT {
        return Err(AdapterError::Content {
            path,
            message: format!("format {} is newer than this build", binding.format),
        });
    }
    match binding.base == given {
        true => Ok(()),
        false => Err(AdapterError::OtherBase {
            path: folder.to_owned(),
            trained_on: binding.base,
            given,
        }),
    }
}

/// A tensor that would be ignored is an error: the adapter would not be what was trained.
fn refuse_others(path: &Path, lora: &Lora) -> Result<(), AdapterError> {
    let known = |name: &String| lora.tensors.iter().any(|tensor| tensor.name == *name);
    match tensors::names(path)?.into_iter().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => Err(AdapterError::Content {
            path: path.to_owned(),
            message: format!("the tensor '{name}' belongs to no targeted module of the model"),
        }),
    }
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, AdapterError> {
    serde_json::from_str(&files::read_text(path)?).map_err(|e| AdapterError::Content {
        path: path.to_owned(),
        message: e.to_string(),
    })
}
