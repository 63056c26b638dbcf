//! `lora.train`: trains an adapter on the answers of conversations, from nothing or from another adapter.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::training::{self, Sizes, training_params};
use crate::ml;
use crate::ml::adapter::{self, Base};
use crate::ml::batch::LossOn;
#[cfg(feature = "candle")]
use crate::ml::candle::{CandleCore, Place};
use crate::ml::config::ModelConfig;
use crate::ml::dora;
use crate::ml::kernels::Isa;
use crate::ml::lora::{ALL_LINEAR, Lora, LoraConfig};
use crate::ml::matrix::Dtype;
use crate::ml::model::Decoder;
use crate::ml::summary::Summary;
use crate::ml::tensors::Tensors;
use crate::ml::tokenizer::Tokenizer;
use crate::ml::train::{Data, LoraCore, TrainError};
use crate::step::{
    Context, FieldError, Gpus, InPort, OutPort, PortType, Resources, Resumes, Step, StepError,
};

/// The kind.
pub struct LoraTrain;

training_params! {
    /// Its parameters, named as in PEFT where it has them.
    #[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Params {
        /// Rank of the update.
        #[serde(default = "default_rank")]
        rank: usize,
        /// Numerator of the scale alpha / rank.
        #[serde(default = "default_alpha")]
        alpha: f64,
        /// Whether the scale is alpha / √rank instead (rsLoRA).
        #[serde(default)]
        rslora: bool,
        /// Probability with which an input of the adapter is dropped.
        #[serde(default)]
        dropout: f64,
        /// Whether every adapted row has a magnitude of its own (DoRA).
        #[serde(default)]
        dora: bool,
        /// The modules to adapt: names or ends of paths (`q_proj`, `self_attn.q_proj`),
        /// globs that the whole path matches (`*.mlp.*`, `model.layers.{0,1}.*`), or
        /// `all-linear`.
        #[serde(default = "default_targets")]
        target_modules: Vec<String>,
        /// The blocks to adapt, from 0; all when not given.
        #[serde(default)]
        layers: Option<Vec<usize>>,
        /// What computes: our own kernels or candle.
        #[serde(default)]
        backend: Backend,
        /// What the frozen matrices are held and multiplied in: `f32`, or `bf16` in
        /// half the memory and about twice as fast; all else is f32 either way.
        #[serde(default, skip_serializing_if = "Dtype::is_f32")]
        dtype: Dtype,
    }
    warmup_steps = 5,
    epochs = 3,
    beta2 = 0.999,
    weight_decay = 0.0,
}

/// What computes losses and gradients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Backend {
    /// Our own kernels: the same bits on every processor.
    #[default]
    Cpu,
    /// candle's automatic differentiation, on the processor.
    Candle,
    /// candle on an NVIDIA GPU.
    Cuda,
    /// candle on an Apple GPU.
    Metal,
}

impl Backend {
    #[cfg(feature = "candle")]
    fn place(self) -> Place {
        match self {
            Backend::Cpu | Backend::Candle => Place::Cpu,
            Backend::Cuda => Place::Cuda,
            Backend::Metal => Place::Metal,
        }
    }

    #[cfg(feature = "candle")]
    fn is_built_in(self) -> bool {
        self.place().is_built_in()
    }

    #[cfg(not(feature = "candle"))]
    fn is_built_in(self) -> bool {
        self == Backend::Cpu
    }

    /// As the pipeline file writes it; the feature it needs is called the same.
    fn name(self) -> &'static str {
        match self {
            Backend::Cpu => "cpu",
            Backend::Candle => "candle",
            Backend::Cuda => "cuda",
            Backend::Metal => "metal",
        }
    }
}

fn default_rank() -> usize {
    8
}

fn default_alpha() -> f64 {
    16.0
}

fn default_targets() -> Vec<String> {
    vec![ALL_LINEAR.to_owned()]
}

impl Params {
    fn lora(&self) -> LoraConfig {
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha,
            rank_stabilized: self.rslora,
            dropout: self.dropout,
            dora: self.dora,
            target_modules: self.target_modules.clone(),
            layers: self.layers.clone(),
        }
    }
}

impl Step for LoraTrain {
    type Params = Params;
    const KIND: &'static str = "lora.train";
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "Trains a LoRA adapter on the answers of conversations.";

    const RESUMES: Resumes = Resumes::Always;

    fn inputs() -> Vec<InPort> {
        vec![
            InPort::one("model", PortType::Model, "the base, which stays as it is"),
            InPort::one("tokenizer", PortType::Tokenizer, "the base's tokenizer"),
            InPort::one("train", PortType::Dataset, "rows to train on"),
            InPort::optional("validation", PortType::Dataset, "rows to validate on"),
            InPort::optional(
                "adapter",
                PortType::Adapter,
                "an adapter of the same base to begin with",
            ),
        ]
    }

    fn outputs(params: &Params) -> Vec<OutPort> {
        let adapter = OutPort::new("adapter", PortType::Adapter, "adapter");
        training::outputs(adapter, &params.common())
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        if params.rank == 0 {
            return Err(FieldError::new("rank", "must be at least 1"));
        }
        if !(params.alpha > 0.0 && params.alpha.is_finite()) {
            return Err(FieldError::new("alpha", "must be above 0"));
        }
        if !(0.0..1.0).contains(&params.dropout) {
            return Err(FieldError::new("dropout", "must be at least 0 and below 1"));
        }
        if params.target_modules.is_empty() {
            return Err(FieldError::new("target_modules", "must name a module"));
        }
        if params.backend != Backend::Cpu && params.dtype != Dtype::F32 {
            let message = "must be \"f32\" unless backend is \"cpu\"";
            return Err(FieldError::new("dtype", message));
        }
        if !params.backend.is_built_in() {
            let name = params.backend.name();
            let message = format!(
                "is \"{name}\", which this build was made without: build with --features {name}"
            );
            return Err(FieldError::new("backend", message));
        }
        if params.backend != Backend::Cpu && params.gradient_checkpointing {
            let message = "is for the backend \"cpu\"";
            return Err(FieldError::new("gradient_checkpointing", message));
        }
        params.common().check()
    }

    fn resources(params: &Params) -> Resources {
        match params.backend {
            Backend::Cuda => Resources {
                gpus: Gpus::new(1.0).unwrap_or_default(),
                ..Resources::default()
            },
            _ => Resources::all_cpus(),
        }
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        ml::with_threads(context.threads, || run(params, context))?
    }
}

fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
    let common = params.common();
    let model = context.input("model")?.to_owned();
    let config = ModelConfig::read(&model)?;
    let wanted = params.lora().resolve(&config)?;
    let tokenizer = Tokenizer::open(context.input("tokenizer")?)?;
    let data = Data::read(
        &config,
        &tokenizer,
        &[("train", context.input("train")?)],
        context.optional("validation"),
        common.max_length,
        LossOn::Completion,
    )?;
    let memory = match params.backend {
        Backend::Cpu => {
            Some(common.plan_memory(&config, Some(&wanted), params.dtype, &data, context)?)
        }
        // What candle holds is not known before.
        _ => None,
    };
    let decoder = Decoder::open_as(&model, Isa::detect(), params.dtype);
    let mut decoder = decoder.map_err(TrainError::from)?;
    decoder.checkpointing = common.gradient_checkpointing;
    let base = Base::of(&model)?;
    let lora = begin(wanted, params.seed, context, &decoder, &base)?;
    let linear = decoder.linear_weights();
    let total = decoder.weights.elements();
    let (lora, summary) = train(params, decoder, lora, &data, &base, context)?;
    adapter::write(&context.output("adapter"), &lora, &base)?;
    let trained = lora.tensors.elements();
    let sizes = Sizes {
        config: &config,
        linear,
        adapter: Some(trained),
        trainable: trained,
        total: total + trained,
        memory,
    };
    training::write_report(params, &common, &data, summary, &sizes, context)
}

/// A new adapter, or the one to begin with, which must be what the parameters say.
fn begin(
    wanted: LoraConfig,
    seed: u64,
    context: &Context<'_>,
    decoder: &Decoder,
    base: &Base,
) -> Result<Lora, StepError> {
    let Some(folder) = context.optional("adapter") else {
        let mut lora = Lora::init(wanted, &decoder.config, seed);
        dora::begin(&mut lora, decoder);
        return Ok(lora);
    };
    let mut lora = adapter::read(folder, &decoder.config, base)?;
    let found = &lora.config;
    if let Some(other) = lora.exceptions.first() {
        let message = "the adapter to begin with has a rank_pattern or alpha_pattern";
        return Err(StepError::new(message).hint(format!(
            "{} has rank {} and alpha {} there; here all modules have the same",
            other.module, other.rank, other.alpha
        )));
    }
    let fault = [
        ("rank", wanted.rank == found.rank),
        ("alpha", wanted.alpha == found.alpha),
        ("rslora", wanted.rank_stabilized == found.rank_stabilized),
        ("dora", wanted.dora == found.dora),
        (
            "target_modules",
            wanted.target_modules == found.target_modules,
        ),
        ("layers", wanted.layers == found.layers),
    ]
    .into_iter()
    .find(|(_, same)| !same);
    if let Some((field, _)) = fault {
        let message = format!("{field} is not that of the adapter to begin with");
        return Err(StepError::new(message).hint(format!(
            "the adapter has rank {}, alpha {}, rslora {}, dora {}, target_modules {:?}, layers {:?}",
            found.rank,
            found.alpha,
            found.rank_stabilized,
            found.dora,
            found.target_modules,
            found.layers
        )));
    }
    lora.config.dropout = wanted.dropout;
    Ok(lora)
}

fn train(
    params: &Params,
    decoder: Decoder,
    lora: Lora,
    data: &Data,
    base: &Base,
    context: &mut Context<'_>,
) -> Result<(Lora, Summary), StepError> {
    let (common, isa) = (params.common(), decoder.isa());
    let mut shape = lora.clone();
    shape.tensors = Tensors::default();
    let write = |folder: &Path, tensors: &Tensors| {
        let mut lora = shape.clone();
        lora.tensors = tensors.clone();
        Ok(adapter::write(folder, &lora, base)?)
    };
    match params.backend {
        Backend::Cpu => {
            let mut core = LoraCore { decoder, lora };
            let summary = training::run(&mut core, data, &common, isa, &write, context)?;
            core.decoder.unchanged().map_err(TrainError::from)?;
            Ok((core.lora, summary))
        }
        #[cfg(feature = "candle")]
        Backend::Candle | Backend::Cuda | Backend::Metal => {
            let place = params.backend.place();
            context.fact("device", place.describe());
            let mut core = CandleCore::new(decoder, Some(lora), place)?;
            let summary = training::run(&mut core, data, &common, isa, &write, context)?;
            let lora = core.into_lora().expect("it was made with an adapter");
            Ok((lora, summary))
        }
        #[cfg(not(feature = "candle"))]
        _ => Err(StepError::new("this build was made without candle")),
    }
}
