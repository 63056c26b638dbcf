//! `lora.train`: trains an adapter on the answers of conversations, from nothing or from another adapter.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::training::{self, StepObserver, training_params};
use crate::ml;
use crate::ml::adapter::{self, Base};
use crate::ml::batch::LossOn;
use crate::ml::kernels::Isa;
use crate::ml::lora::{ALL_LINEAR, Lora, LoraConfig};
use crate::ml::matrix::Dtype;
use crate::ml::model::Decoder;
use crate::ml::tokenizer::Tokenizer;
use crate::ml::train::{self, Data, LoraCore, Options, Report, Summary, TrainError, flops};
use crate::step::{
    Context, FieldError, InPort, OutPort, PortType, Resources, Resumes, Step, StepError,
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
    /// candle's automatic differentiation.
    Candle,
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
            target_modules: self.target_modules.clone(),
            layers: self.layers.clone(),
        }
    }
}

impl Step for LoraTrain {
    type Params = Params;
    const KIND: &'static str = "lora.train";
    const VERSION: u32 = 2;
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

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("adapter", PortType::Adapter, "adapter"),
            OutPort::new("log", PortType::Log, "log.jsonl"),
            OutPort::new("metrics", PortType::Metrics, "training.json"),
        ]
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
        if params.backend == Backend::Candle && params.dtype != Dtype::F32 {
            let message = "must be \"f32\" with backend \"candle\"";
            return Err(FieldError::new("dtype", message));
        }
        if params.backend == Backend::Candle && !cfg!(feature = "candle") {
            let message = "is \"candle\", which this build was made without";
            return Err(FieldError::new("backend", message));
        }
        params.common().check()
    }

    fn resources(_: &Params) -> Resources {
        Resources::all_cpus()
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        ml::with_threads(context.threads, || run(params, context))?
    }
}

fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
    let common = params.common();
    let model = context.input("model")?.to_owned();
    let decoder = Decoder::open_as(&model, Isa::detect(), params.dtype);
    let decoder = decoder.map_err(TrainError::from)?;
    let tokenizer = Tokenizer::open(context.input("tokenizer")?)?;
    let base = Base::of(&model)?;
    let lora = begin(params, context, &decoder, &base)?;
    let data = Data::read(
        &decoder,
        &tokenizer,
        &[("train", context.input("train")?)],
        context.optional("validation"),
        common.max_length,
        LossOn::Completion,
    )?;
    let frozen = decoder.linear_weights();
    let total = decoder.weights.elements();
    let (lora, summary) = train(
        params.backend,
        decoder,
        lora,
        &data,
        &common.options,
        context,
    )?;
    adapter::write(&context.output("adapter"), &lora, &base)?;
    let trained = lora.tensors.elements();
    let report = Report {
        format: 1,
        config: params,
        flops: flops(summary.tokens, frozen, trained),
        summary,
        rows: data.train.counts,
        trainable_parameters: trained,
        total_parameters: total + trained,
    };
    training::write_report(&context.output("training.json"), &report)
}

/// A new adapter, or the one to begin with, which must be what the parameters say.
fn begin(
    params: &Params,
    context: &Context<'_>,
    decoder: &Decoder,
    base: &Base,
) -> Result<Lora, StepError> {
    let wanted = params.lora().resolve(&decoder.config)?;
    let Some(folder) = context.optional("adapter") else {
        return Ok(Lora::init(wanted, &decoder.config, params.seed));
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
            "the adapter has rank {}, alpha {}, rslora {}, target_modules {:?}, layers {:?}",
            found.rank, found.alpha, found.rank_stabilized, found.target_modules, found.layers
        )));
    }
    lora.config.dropout = wanted.dropout;
    Ok(lora)
}

fn train(
    backend: Backend,
    decoder: Decoder,
    lora: Lora,
    data: &Data,
    options: &Options,
    context: &mut Context<'_>,
) -> Result<(Lora, Summary), StepError> {
    let isa = decoder.isa();
    let validation = data.validation.as_ref();
    let mut checkpoints = training::checkpoints(context);
    let mut observer = StepObserver::new(context)?;
    let trained = match backend {
        Backend::Cpu => {
            let mut core = LoraCore { decoder, lora };
            let summary = train::train(
                &mut core,
                &data.train,
                validation,
                options,
                isa,
                &mut observer,
                checkpoints.as_mut(),
            )?;
            core.decoder.unchanged().map_err(TrainError::from)?;
            (core.lora, summary)
        }
        #[cfg(feature = "candle")]
        Backend::Candle => {
            let mut core = ml::candle::CandleCore::new(decoder, Some(lora))?;
            let summary = train::train(
                &mut core,
                &data.train,
                validation,
                options,
                isa,
                &mut observer,
                checkpoints.as_mut(),
            )?;
            (
                core.into_lora().expect("it was made with an adapter"),
                summary,
            )
        }
        #[cfg(not(feature = "candle"))]
        Backend::Candle => return Err(StepError::new("this build was made without candle")),
    };
    observer.finish()?;
    Ok(trained)
}
