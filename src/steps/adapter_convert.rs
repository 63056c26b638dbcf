//! `adapter.convert`: an adapter in another program's format.

use std::path::Path;

use safetensors::Dtype;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ml::adapter::{self, Base};
use crate::ml::config::ModelConfig;
use crate::ml::llama_cpp::{self, Width};
use crate::ml::lora::Lora;
use crate::ml::mlx;
use crate::step::{Context, FieldError, InPort, OutPort, PortType, Step, StepError};

/// The kind.
pub struct AdapterConvert;

/// Its parameters.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The format to convert to.
    to: Format,
    /// The type of the matrices; PEFT's are always f32.
    #[serde(default)]
    dtype: Type,
}

/// A program's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// A folder for Hugging Face's PEFT.
    Peft,
    /// A folder for mlx-lm.
    Mlx,
    /// A file for llama.cpp.
    Gguf,
}

/// A type of numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Type {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits.
    F16,
}

impl Step for AdapterConvert {
    type Params = Params;
    const KIND: &'static str = "adapter.convert";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Converts an adapter between PEFT and MLX, or to GGUF for llama.cpp.";

    fn inputs() -> Vec<InPort> {
        vec![
            InPort::one(
                "adapter",
                PortType::Adapter,
                "the adapter, as PEFT or mlx-lm stores it",
            ),
            InPort::one("model", PortType::Model, "its base, which stays as it is"),
        ]
    }

    fn outputs(params: &Params) -> Vec<OutPort> {
        vec![match params.to {
            Format::Peft => OutPort::new("adapter", PortType::Adapter, "adapter"),
            Format::Mlx => OutPort::new("adapter", PortType::Folder, "mlx"),
            Format::Gguf => OutPort::new("adapter", PortType::File, "adapter.gguf"),
        }]
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        match (params.to, params.dtype) {
            (Format::Peft, Type::F16) => Err(FieldError::new("dtype", "must be f32 for peft")),
            _ => Ok(()),
        }
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let model = context.input("model")?;
        let config = ModelConfig::read(model)?;
        let base = Base::of(model)?;
        let (lora, trained_on) = open(context.input("adapter")?, &config, &base)?;
        let of = Base {
            name: trained_on.name.or(base.name),
            revision: trained_on.revision.or(base.revision),
            digest: trained_on.digest,
        };
        let dtype = match params.dtype {
            Type::F32 => (Dtype::F32, Width::F32),
            Type::F16 => (Dtype::F16, Width::F16),
        };
        match params.to {
            Format::Peft => adapter::write(&context.output("adapter"), &lora, &of)?,
            Format::Mlx => mlx::write(&context.output("mlx"), &lora, &config, &of, dtype.0)?,
            Format::Gguf => {
                let path = context.output("adapter.gguf");
                llama_cpp::write(&path, &lora, model, &config, &of, dtype.1)?;
            }
        }
        Ok(())
    }
}

/// Reads an adapter of either format, which its files tell.
fn open(folder: &Path, config: &ModelConfig, base: &Base) -> Result<(Lora, Base), StepError> {
    match folder.join(mlx::WEIGHTS).exists() {
        true => Ok(mlx::read(folder, config, base)?),
        false => Ok(adapter::read_with_base(folder, config, base)?),
    }
}
