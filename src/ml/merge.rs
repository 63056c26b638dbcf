//! A base with an adapter merged into it, W + scale · B·A, written as a model folder of its own.
//!
//! With DoRA each row is then given its magnitude for a norm.
//!
//! Every element is summed in f64 in the order of the ranks and rounded once
//! to f32 and then to the type of the file, so that the bits do not depend on
//! threads. Files are gone through tensor by tensor: the base need not fit
//! into memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use safetensors::Dtype;
use serde_json::Value;

use super::adapter::{self, AdapterError, Base};
use super::config::{ConfigError, ModelConfig, pretty_json};
use super::lora::Lora;
use super::origin::{Merged, Origin, OriginError};
use super::tensors::{TensorError, model_files};
use super::weights::{Described, Sink, Source, narrow, widen};
use crate::files::{self, FileError};
use crate::hash::{Digest, Encoder};

/// The index of a sharded model.
const INDEX: &str = "model.safetensors.index.json";

/// Files of a tokenizer.
pub const TOKENIZER: [&str; 9] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// How a model is generated with by other programs.
pub const GENERATION: &str = "generation_config.json";

/// An adapter cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The base's configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its tensors cannot be used.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// The adapter cannot be used.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// What the base says of itself cannot be used.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// The adapter is in the base already.
    #[error(
        "the adapter {} is already in the model {}: it was merged into {}",
        adapter.display(), model.display(), base.short()
    )]
    Again {
        /// The adapter folder.
        adapter: PathBuf,
        /// The model folder.
        model: PathBuf,
        /// Digest of the base it was merged into.
        base: Digest,
    },
    /// A merged value has no place in the type of the file.
    #[error("a merged value of '{tensor}' is too large for {dtype}")]
    TooLarge {
        /// The tensor.
        tensor: String,
        /// The type.
        dtype: String,
    },
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Weights that were changed.
    pub merged: usize,
    /// All tensors.
    pub tensors: usize,
}

/// Writes the model in the folder `model` with the adapter in it to the folder
/// `out`, its floating tensors as `dtype` where one is given.
pub fn merge(
    model: &Path,
    adapter: &Path,
    out: &Path,
    dtype: Option<Dtype>,
) -> Result<Summary, MergeError> {
    let config = ModelConfig::read(model)?;
    let mut origin = Origin::read(model)?;
    let (lora, trained_on) = adapter::open(adapter, &config)?;
    let digest = digest(&lora);
    if let Some(before) = origin.merged.iter().find(|before| before.adapter == digest) {
        return Err(MergeError::Again {
            adapter: adapter.to_owned(),
            model: model.to_owned(),
            base: before.base,
        });
    }
    let base = Base::of(model)?;
    base.check(adapter, &trained_on)?;
    files::create_dir(out)?;
    let summary = weights(model, out, &lora, dtype)?;
    write_config(model, out, dtype)?;
    copy(&[GENERATION], model, out)?;
    copy(&TOKENIZER, model, out)?;
    origin.merged.push(Merged {
        base: base.digest.expect("a folder has a digest"),
        adapter: digest,
    });
    origin.write(out)?;
    Ok(summary)
}

/// Copies those of the files that are there.
pub fn copy(names: &[&str], from: &Path, to: &Path) -> Result<(), FileError> {
    for name in names {
        let path = from.join(name);
        if path.exists() {
            files::write(&to.join(name), files::read(&path)?)?;
        }
    }
    Ok(())
}

/// The digest of what an adapter does, whatever its files look like.
fn digest(lora: &Lora) -> Digest {
    let modules: Vec<_> = lora.modules().collect();
    let mut encoder = Encoder::new("retune.adapter.1");
    encoder.list(modules.len());
    for (module, pair) in modules {
        encoder.str(&module.to_string());
        encoder.u64(lora.scale(module).to_bits());
        for id in [pair.a, pair.b].into_iter().chain(pair.magnitude) {
            let values = lora.tensors.get(id);
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            encoder.digest(&Digest::of(&bytes));
        }
    }
    encoder.digest_of()
}

/// Goes through the files of the weights.
fn weights(
    model: &Path,
    out: &Path,
    lora: &Lora,
    dtype: Option<Dtype>,
) -> Result<Summary, MergeError> {
    let named = lora
        .modules()
        .map(|(module, pair)| (format!("{module}.weight"), (module, pair)));
    let mut wanted: BTreeMap<_, _> = named.collect();
    let mut summary = Summary {
        merged: wanted.len(),
        tensors: 0,
    };
    let mut size = 0;
    for path in model_files(model)? {
        let mut source = Source::open(&path)?;
        let described: Vec<Described> = source
            .tensors()
            .iter()
            .map(|(name, info)| Described {
                name: name.clone(),
                dtype: dtype
                    .filter(|_| is_floating(info.dtype))
                    .unwrap_or(info.dtype),
                shape: info.shape.clone(),
            })
            .collect();
        let format = source.format().unwrap_or("pt").to_owned();
        let name = path.file_name().unwrap_or_default();
        let mut sink = Sink::create(&out.join(name), &format, &described)?;
        for tensor in &described {
            let merged = wanted.remove(&tensor.name);
            let bytes = match merged {
                None => unchanged(&mut source, tensor)?,
                Some((module, pair)) => {
                    let (a, b) = (lora.tensors.tensor(pair.a), lora.tensors.get(pair.b));
                    let (outputs, inputs) = (b.len() / pair.rank, a.shape[1]);
                    let mut weight = source.shaped(&tensor.name, &[outputs, inputs])?;
                    let magnitude = pair.magnitude.map(|id| lora.tensors.get(id));
                    let scale = lora.scale(module);
                    add_product(&mut weight, &a.data, b, pair.rank, scale, magnitude);
                    narrowed(tensor, &weight)?
                }
            };
            size += bytes.len();
            sink.put(&bytes)?;
        }
        sink.finish()?;
        summary.tensors += described.len();
    }
    if let Some(name) = wanted.into_keys().next() {
        let path = model.to_owned();
        return Err(TensorError::Missing { path, name }.into());
    }
    write_index(model, out, size)?;
    Ok(summary)
}

fn is_floating(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// The bytes of a tensor that is not merged into, in the type it is to have.
fn unchanged(source: &mut Source, tensor: &Described) -> Result<Vec<u8>, MergeError> {
    let found = source.tensors()[&tensor.name].dtype;
    let bytes = source.read(&tensor.name)?;
    match widen(found, &bytes) {
        Some(values) if found != tensor.dtype => narrowed(tensor, &values),
        _ => Ok(bytes),
    }
}

fn narrowed(tensor: &Described, values: &[f32]) -> Result<Vec<u8>, MergeError> {
    narrow(tensor.dtype, values).ok_or_else(|| MergeError::TooLarge {
        tensor: tensor.name.clone(),
        dtype: format!("{:?}", tensor.dtype),
    })
}

/// weight += scale · B·A; A is [rank, inputs] and B [outputs, rank]. Where
/// there is a `magnitude` \[outputs\], every row then has that norm.
fn add_product(
    weight: &mut [f32],
    a: &[f32],
    b: &[f32],
    rank: usize,
    scale: f64,
    magnitude: Option<&[f32]>,
) {
    let inputs = a.len() / rank;
    let rows = weight.par_chunks_mut(inputs).zip(b.par_chunks(rank));
    rows.enumerate().for_each_init(
        || vec![0.0f64; inputs],
        |sums, (n, (row, b))| {
            sums.fill(0.0);
            for (b, a) in b.iter().zip(a.chunks_exact(inputs)) {
                let b = f64::from(*b);
                sums.iter_mut()
                    .zip(a)
                    .for_each(|(sum, a)| *sum += b * f64::from(*a));
            }
            for (w, sum) in row.iter().zip(sums.iter_mut()) {
                *sum = f64::from(*w) + scale * *sum;
            }
            let factor = magnitude.map(|all| of_norm(sums, f64::from(all[n])));
            for (w, sum) in row.iter_mut().zip(sums.iter()) {
                *w = (factor.unwrap_or(1.0) * sum) as f32;
            }
        },
    );
}

/// What a row must be multiplied with to be of the norm `wanted`; 0 for a row of zeros.
fn of_norm(row: &[f64], wanted: f64) -> f64 {
    let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
    if norm > 0.0 { wanted / norm } else { 0.0 }
}

/// The index names the same files; only their size may be another.
fn write_index(model: &Path, out: &Path, size: usize) -> Result<(), MergeError> {
    let path = model.join(INDEX);
    if !path.exists() {
        return Ok(());
    }
    let mut index = parse(&path)?;
    index["metadata"]["total_size"] = size.into();
    Ok(files::write(&out.join(INDEX), pretty_json(&index))?)
}

/// The configuration as it was, but for the type of the weights.
fn write_config(model: &Path, out: &Path, dtype: Option<Dtype>) -> Result<(), MergeError> {
    const NAME: &str = "config.json";
    let path = model.join(NAME);
    let Some(dtype) = dtype else {
        return Ok(copy(&[NAME], model, out)?);
    };
    let mut config = parse(&path)?;
    let name = match dtype {
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
        _ => "float32",
    };
    let field = if config["dtype"].is_string() {
        "dtype"
    } else {
        "torch_dtype"
    };
    config[field] = name.into();
    Ok(files::write(&out.join(NAME), pretty_json(&config))?)
}

fn parse(path: &Path) -> Result<Value, MergeError> {
    let text = files::read_text(path)?;
    let parsed: Result<Value, _> = serde_json::from_str(&text);
    let message = match parsed {
        Ok(value) if value.is_object() => return Ok(value),
        Ok(_) => "it is no object".to_owned(),
        Err(error) => error.to_string(),
    };
    let path = path.to_owned();
    Err(TensorError::Format { path, message }.into())
}
