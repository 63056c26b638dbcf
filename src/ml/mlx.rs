//! Adapters as mlx-lm stores them: `adapters.safetensors`, whose matrices are those of PEFT transposed.
//!
//! mlx-lm knows one rank and one scale for the whole adapter. It puts the
//! adapter on the modules named by `keys`, either in the last `num_layers`
//! blocks or, where a key is a whole path, on just that module.
//!
//! `retune.json` beside it keeps what mlx-lm's configuration has no place for:
//! the base, and the alpha of which the scale was made.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::adapter::{AdapterError, Base};
use super::config::{ModelConfig, pretty_json};
use super::layout::Module;
use super::lora::{Lora, LoraConfig};
use super::target;
use super::weights::{Described, Sink, Source, narrow};
use crate::files;
use crate::hash::Digest;

/// Version of the `retune.json` beside an MLX adapter: 1, the fields of [`Beside`].
const FORMAT: u32 = 1;

/// The file of the matrices, by which an MLX folder is known.
pub const WEIGHTS: &str = "adapters.safetensors";
const CONFIG: &str = "adapter_config.json";
const BESIDE: &str = "retune.json";

/// `adapter_config.json`; the order of fields is that of their names.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(default = "lora")]
    fine_tune_type: String,
    lora_parameters: Parameters,
    num_layers: i64,
}

/// What mlx-lm calls plain adapters.
fn lora() -> String {
    "lora".to_owned()
}

/// What it calls those with magnitudes, each of which is a tensor `m`.
const DORA: &str = "dora";

#[derive(Serialize, Deserialize)]
struct Parameters {
    #[serde(default)]
    dropout: f64,
    #[serde(default)]
    keys: Option<Vec<String>>,
    rank: usize,
    scale: f64,
}

/// `retune.json` beside an MLX adapter.
#[derive(Serialize, Deserialize)]
struct Beside {
    format: u32,
    lora_alpha: f64,
    use_rslora: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base_model_name_or_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
}

/// Writes an MLX folder, the matrices as `dtype`.
pub fn write(
    folder: &Path,
    lora: &Lora,
    model: &ModelConfig,
    base: &Base,
    dtype: Dtype,
) -> Result<(), AdapterError> {
    let config = &lora.config;
    let content = |name: &str, message: String| AdapterError::Content {
        path: folder.join(name),
        message,
    };
    if let Some(other) = lora.exceptions.first() {
        let message = format!(
            "MLX has one rank and one scale for the whole adapter, but {} has rank {} and alpha {}, \
             the rest rank {} and alpha {}",
            other.module, other.rank, other.alpha, config.rank, config.alpha
        );
        return Err(content(CONFIG, message));
    }
    files::create_dir(folder)?;
    let modules: Vec<Module> = lora.modules().map(|(module, _)| module).collect();
    let (keys, num_layers) = keys(&modules, model);
    let written = Written {
        fine_tune_type: match config.dora {
            true => DORA.to_owned(),
            false => self::lora(),
        },
        lora_parameters: Parameters {
            dropout: config.dropout,
            keys: Some(keys),
            rank: config.rank,
            scale: config.scale_of(config.rank, config.alpha),
        },
        num_layers,
    };
    files::write(&folder.join(CONFIG), pretty_json(&written))?;
    let beside = Beside {
        format: FORMAT,
        lora_alpha: config.alpha,
        use_rslora: config.rank_stabilized,
        base: base.digest,
        base_model_name_or_path: base.name.clone(),
        revision: base.revision.clone(),
    };
    files::write(&folder.join(BESIDE), pretty_json(&beside))?;
    write_weights(&folder.join(WEIGHTS), lora, dtype)
}

/// `keys` and `num_layers` that put an adapter on these modules and no others.
fn keys(modules: &[Module], model: &ModelConfig) -> (Vec<String>, i64) {
    let (names, layers) = target::naming(modules, model);
    let layers = layers.unwrap_or_else(|| (0..model.layers).collect());
    let last = layers.last() == Some(&(model.layers - 1));
    let run = layers.windows(2).all(|pair| pair[1] == pair[0] + 1);
    let slots = modules.len() / layers.len();
    if last && run && names.len() == slots {
        let of_block = |module: &&Module| module.layer == layers[0];
        let prefix = format!("model.layers.{}.", layers[0]);
        let paths = modules.iter().filter(of_block).map(Module::to_string);
        let mut keys: Vec<String> = paths.map(|path| path[prefix.len()..].to_owned()).collect();
        keys.sort();
        return (keys, layers.len() as i64);
    }
    let mut keys: Vec<String> = modules.iter().map(Module::to_string).collect();
    keys.sort();
    (keys, model.layers as i64)
}

fn write_weights(path: &Path, lora: &Lora, dtype: Dtype) -> Result<(), AdapterError> {
    let mut tensors = BTreeMap::new();
    for (module, pair) in lora.modules() {
        for (part, id) in [("a", pair.a), ("b", pair.b)] {
            let tensor = lora.tensors.tensor(id);
            let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
            let values = transposed(&tensor.data, rows, columns);
            let stored = stored(path, &tensor.name, vec![columns, rows], &values, dtype)?;
            tensors.insert(format!("{module}.lora_{part}"), stored);
        }
        if let Some(tensor) = pair.magnitude.map(|id| lora.tensors.tensor(id)) {
            let shape = tensor.shape.clone();
            let stored = stored(path, &tensor.name, shape, &tensor.data, dtype)?;
            tensors.insert(format!("{module}.m"), stored);
        }
    }
    let described = tensors.iter().map(|(name, (shape, _))| Described {
        name: name.clone(),
        dtype,
        shape: shape.clone(),
    });
    let mut sink = Sink::create(path, "mlx", &described.collect::<Vec<_>>())?;
    for (_, bytes) in tensors.values() {
        sink.put(bytes)?;
    }
    Ok(sink.finish()?)
}

/// A tensor as the file has it: its shape and the bytes of its values.
fn stored(
    path: &Path,
    name: &str,
    shape: Vec<usize>,
    values: &[f32],
    dtype: Dtype,
) -> Result<(Vec<usize>, Vec<u8>), AdapterError> {
    let bytes = narrow(dtype, values).ok_or_else(|| too_large(path, name, dtype))?;
    Ok((shape, bytes))
}

/// The error for a value that a type has no room for.
pub fn too_large(path: &Path, tensor: &str, dtype: Dtype) -> AdapterError {
    AdapterError::Content {
        path: path.to_owned(),
        message: format!("a value of '{tensor}' is too large for {dtype:?}"),
    }
}

/// [rows, columns] as [columns, rows].
fn transposed(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let at = |i: usize| data[i % rows * columns + i / rows];
    (0..data.len()).map(at).collect()
}

/// Reads an MLX folder for a base model, with what it says of its base.
pub fn read(folder: &Path, model: &ModelConfig, base: &Base) -> Result<(Lora, Base), AdapterError> {
    let path = folder.join(CONFIG);
    let bad = |message: String| AdapterError::Content {
        path: path.clone(),
        message,
    };
    let fields: Value =
        serde_json::from_str(&files::read_text(&path)?).map_err(|e| bad(e.to_string()))?;
    if let Some(kind) = fields["fine_tune_type"]
        .as_str()
        .filter(|kind| !["lora", DORA].contains(kind))
    {
        return Err(bad(format!(
            "fine_tune_type is \"{kind}\", but only \"lora\" and \"dora\" are known here"
        )));
    }
    let written: Written = serde_json::from_value(fields).map_err(|e| bad(e.to_string()))?;
    let parameters = written.lora_parameters;
    if parameters.rank == 0 {
        return Err(bad("the rank is 0".into()));
    }
    let beside = beside(folder)?;
    let trained_on = beside.as_ref().map_or_else(Base::default, |beside| Base {
        digest: beside.base,
        name: beside.base_model_name_or_path.clone(),
        revision: beside.revision.clone(),
    });
    base.check(folder, &trained_on)?;
    let path = folder.join(WEIGHTS);
    let mut source = Source::open(&path)?;
    let modules = modules(&path, &source, model, written.fine_tune_type == DORA)?;
    let (target_modules, layers) = target::naming(&modules, model);
    let mut config = LoraConfig {
        rank: parameters.rank,
        alpha: parameters.scale * parameters.rank as f64,
        rank_stabilized: false,
        dropout: parameters.dropout,
        dora: written.fine_tune_type == DORA,
        target_modules,
        layers,
    };
    if let Some(beside) = beside {
        // Only while the scale is still the one that was made of it.
        let kept = LoraConfig {
            alpha: beside.lora_alpha,
            rank_stabilized: beside.use_rslora,
            ..config.clone()
        };
        if kept.scale_of(kept.rank, kept.alpha) == parameters.scale {
            config = kept;
        }
    }
    let mut lora = Lora::zeros(config, model);
    let pairs: Vec<_> = lora.modules().collect();
    for (module, pair) in pairs {
        for (part, id) in [("a", pair.a), ("b", pair.b)] {
            let name = format!("{module}.lora_{part}");
            let shape = &lora.tensors.tensor(id).shape;
            let (rows, columns) = (shape[0], shape[1]);
            let wanted = vec![columns, rows];
            let values = source.shaped(&name, &wanted)?;
            let values = transposed(&values, columns, rows);
            lora.tensors.get_mut(id).copy_from_slice(&values);
        }
        if let Some(id) = pair.magnitude {
            let shape = lora.tensors.tensor(id).shape.clone();
            let values = source.shaped(&format!("{module}.m"), &shape)?;
            lora.tensors.get_mut(id).copy_from_slice(&values);
        }
    }
    Ok((lora, trained_on))
}

fn beside(folder: &Path) -> Result<Option<Beside>, AdapterError> {
    let path = folder.join(BESIDE);
    if !path.exists() {
        return Ok(None);
    }
    let bad = |message: String| AdapterError::Content {
        path: path.clone(),
        message,
    };
    let text = files::read_text(&path)?;
    let beside: Beside = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    match beside.format > FORMAT {
        true => Err(bad(format!(
            "format {} is newer than this build",
            beside.format
        ))),
        false => Ok(Some(beside)),
    }
}

/// The modules that the file has matrices for; a tensor of anything else is an error.
fn modules(
    path: &Path,
    source: &Source,
    model: &ModelConfig,
    dora: bool,
) -> Result<Vec<Module>, AdapterError> {
    let all = target::all(model);
    let mut found = vec![false; all.len()];
    for name in source.tensors().keys() {
        let module = name
            .strip_suffix(".lora_a")
            .or(name.strip_suffix(".lora_b"))
            .or(name.strip_suffix(".m").filter(|_| dora));
        let at = module.and_then(|path| all.iter().position(|module| module.to_string() == path));
        let Some(at) = at else {
            return Err(AdapterError::Content {
                path: path.to_owned(),
                message: format!("the tensor '{name}' belongs to no linear layer of the model"),
            });
        };
        found[at] = true;
    }
    let found = all.into_iter().zip(found).filter(|(_, found)| *found);
    let modules: Vec<Module> = found.map(|(module, _)| module).collect();
    match modules.is_empty() {
        true => Err(AdapterError::Content {
            path: path.to_owned(),
            message: "it holds no tensor".to_owned(),
        }),
        false => Ok(modules),
    }
}
