//! Adapters as PEFT stores them, bound to the base they were trained on.
//!
//! Beside PEFT's two files lies `retune.json` with the digest of the base:
//! PEFT's own configuration has no field for it, and older versions refuse
//! fields they do not know. Where that file is, it decides whether an adapter
//! belongs to a base; elsewhere the names of the bases do, where both have one.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::{ModelConfig, pretty_json};
use super::lora::{Lora, LoraError};
use super::origin::{Origin, OriginError};
use super::peft;
use super::tensors::{self, TensorError, model_files};
use crate::files::{self, FileError, PathContext};
use crate::hash::{Digest, Encoder};

/// Version of `retune.json`: 1, `{format, base}`.
const FORMAT: u32 = 1;

/// PEFT's two files.
pub const CONFIG: &str = "adapter_config.json";
/// The matrices.
pub const WEIGHTS: &str = "adapter_model.safetensors";

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
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// What the base says of itself cannot be used.
    #[error(transparent)]
    Origin(#[from] OriginError),
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
        "the adapter {} was trained on another base: on {}, not on {}; give the model it was trained on",
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
    /// It says that it belongs to a model of another name.
    #[error(
        "the adapter {} was trained on another base: its base_model_name_or_path is {trained_on}, and the model is {given}; give the model it was trained on",
        path.display()
    )]
    OtherName {
        /// The adapter folder.
        path: PathBuf,
        /// What it names.
        trained_on: String,
        /// The base at hand.
        given: String,
    },
}

/// A base, or what an adapter says of the one it was trained on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Base {
    /// Of its content.
    pub digest: Option<Digest>,
    /// On the Hub, `OWNER/NAME`; elsewhere whatever PEFT was given.
    pub name: Option<String>,
    /// The commit on the Hub.
    pub revision: Option<String>,
}

impl Base {
    /// The base in the folder `model`.
    pub fn of(model: &Path) -> Result<Self, AdapterError> {
        let digest = Some(base_digest(model)?);
        let origin = Origin::read(model)?;
        let (name, revision) = origin.name().unzip();
        Ok(Base {
            digest,
            name: name.map(str::to_owned),
            revision: revision.flatten().map(str::to_owned),
        })
    }

    /// Refuses an adapter of another base.
    pub(super) fn check(&self, folder: &Path, trained_on: &Base) -> Result<(), AdapterError> {
        let path = folder.to_owned();
        if let (Some(given), Some(trained_on)) = (self.digest, trained_on.digest) {
            return match given == trained_on {
                true => Ok(()),
                false => Err(AdapterError::OtherBase {
                    path,
                    trained_on,
                    given,
                }),
            };
        }
        let hub = |base: &Base| base.name.clone().filter(|name| is_hub_name(name));
        match (hub(self), hub(trained_on)) {
            (Some(given), Some(trained_on)) if !given.eq_ignore_ascii_case(&trained_on) => {
                Err(AdapterError::OtherName {
                    path,
                    trained_on,
                    given,
                })
            }
            _ => Ok(()),
        }
    }
}

/// Whether a name has the form `OWNER/NAME`; a path of somebody's machine has another.
fn is_hub_name(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('\\');
    let split = name.split_once('/');
    split.is_some_and(|(owner, name)| part(owner) && part(name) && !name.contains('/'))
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

/// `retune.json`.
#[derive(Serialize, Deserialize)]
struct Binding {
    format: u32,
    base: Digest,
}

/// Writes an adapter folder; `retune.json` only where the base's digest is known.
pub fn write(folder: &Path, lora: &Lora, base: &Base) -> Result<(), AdapterError> {
    files::create_dir(folder)?;
    let text = peft::write(lora, base.name.as_deref(), base.revision.as_deref());
    files::write(&folder.join(CONFIG), text)?;
    if let Some(base) = base.digest {
        let format = FORMAT;
        let binding = pretty_json(&Binding { format, base });
        files::write(&folder.join("retune.json"), binding)?;
    }
    lora.tensors.write(&folder.join(WEIGHTS))?;
    Ok(())
}

/// Reads an adapter folder for a base model. One that names another base is
/// refused; one that names none (made by another program) is taken when its
/// tensors fit.
pub fn read(folder: &Path, model: &ModelConfig, base: &Base) -> Result<Lora, AdapterError> {
    Ok(read_with_base(folder, model, base)?.0)
}

/// As [`read`], with what the adapter says of its base.
pub fn read_with_base(
    folder: &Path,
    model: &ModelConfig,
    base: &Base,
) -> Result<(Lora, Base), AdapterError> {
    // The base comes first: tensors that do not fit are no surprise on another one.
    base.check(folder, &trained_on(folder)?)?;
    open(folder, model)
}

/// Reads an adapter folder for a model of the right shape, whichever base it is.
pub fn open(folder: &Path, model: &ModelConfig) -> Result<(Lora, Base), AdapterError> {
    let trained_on = trained_on(folder)?;
    let path = folder.join(CONFIG);
    let read = peft::read(&files::read_text(&path)?, model);
    let read = read.map_err(|message| AdapterError::Content { path, message })?;
    let mut lora = Lora::with_exceptions(read.config, read.exceptions, model);
    let path = folder.join(WEIGHTS);
    if !path.exists() && folder.join("adapter_model.bin").exists() {
        return Err(AdapterError::Content {
            path,
            message: "it is not there, only adapter_model.bin, which is a Python pickle; \
                      save the adapter with safe_serialization=True"
                .to_owned(),
        });
    }
    lora.tensors.read(std::slice::from_ref(&path))?;
    refuse_others(&path, &lora)?;
    Ok((lora, trained_on))
}

/// What an adapter folder says of its base.
fn trained_on(folder: &Path) -> Result<Base, AdapterError> {
    let path = folder.join(CONFIG);
    let named: Named = parse(&path, &files::read_text(&path)?)?;
    Ok(Base {
        digest: bound_to(folder)?,
        name: named.base_model_name_or_path,
        revision: named.revision,
    })
}

/// The digest of the base that an adapter was trained on, where it says so.
fn bound_to(folder: &Path) -> Result<Option<Digest>, AdapterError> {
    let path = folder.join("retune.json");
    if !path.exists() {
        return Ok(None);
    }
    let binding: Binding = parse(&path, &files::read_text(&path)?)?;
    match binding.format > FORMAT {
        false => Ok(Some(binding.base)),
        true => Err(AdapterError::Content {
            path,
            message: format!("format {} is newer than this build", binding.format),
        }),
    }
}

/// What `adapter_config.json` says of the base.
#[derive(Deserialize)]
struct Named {
    base_model_name_or_path: Option<String>,
    revision: Option<String>,
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

fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, AdapterError> {
    serde_json::from_str(text).map_err(|e| AdapterError::Content {
        path: path.to_owned(),
        message: e.to_string(),
    })
}
