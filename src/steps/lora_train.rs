//! `lora.train`: trains an adapter on the answers of conversations, from nothing or from another adapter.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::training::{self, StepObserver, common};
use crate::ml;
use crate::ml::adapter::{self, Base};
use crate::ml::batch::LossOn;
#[cfg(feature = "candle")]
use crate::ml::candle::{CandleCore, Place};
use crate::ml::kernels::Isa;
use crate::ml::lora::{ALL_LINEAR, Lora, LoraConfig};
use crate::ml::model::Decoder;
use crate::ml::optim::Schedule;
use crate::ml::tokenizer::Tokenizer;
use crate::ml::train::{self, Core, Data, LoraCore, Options, Report, Summary, TrainError, flops};
use crate::step::{
    Context, FieldError, Gpus, InPort, OutPort, PortType, Resources, Resumes, Step, StepError,
};

/// The kind.
pub struct LoraTrain;

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
    /// Peak learning rate.
    #[serde(default = "default_learning_rate")]
    learning_rate: f64,
    /// How the learning rate goes after the warm-up.
    #[serde(default)]
    schedule: Schedule,
    /// Steps over which the learning rate rises to its peak.
    #[serde(default = "default_warmup")]
    warmup_steps: u64,
    /// Times the data is gone through; 0 for as often as `max_steps` takes.
    #[serde(default = "default_epochs")]
    epochs: u64,
    /// Optimizer steps after which to end; 0 for no such end.
    #[serde(default)]
    max_steps: u64,
    /// Longest sequence in tokens; longer rows are cut off, longer texts split.
    #[serde(default = "default_max_length")]
    max_length: usize,
    /// Most tokens in a micro-batch; rows are packed into it.
    #[serde(default = "default_batch_tokens")]
    batch_tokens: usize,
    /// Micro-batches in an optimizer step.
    #[serde(default = "one")]
    accumulation: usize,
    /// AdamW's decay of the first moment.
    #[serde(default = "default_beta1")]
    beta1: f64,
    /// AdamW's decay of the second moment.
    #[serde(default = "default_beta2")]
    beta2: f64,
    /// Added to the root of AdamW's second moment.
    #[serde(default = "default_eps")]
    eps: f64,
    /// AdamW's decoupled weight decay, on matrices only.
    #[serde(default = "default_weight_decay")]
    weight_decay: f64,
    /// Greatest norm of the gradient; greater ones are scaled down; 0 for any.
    #[serde(default = "default_clip_norm")]
    clip_norm: f64,
    /// Steps between validations; 0 for one at the end alone.
    #[serde(default)]
    eval_every: u64,
    /// Steps between lines of the log.
    #[serde(default = "default_log_every")]
    log_every: u64,
    /// Seed of the adapter's first values, the order of the data, and dropout.
    #[serde(default)]
    seed: u64,
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

fn default_learning_rate() -> f64 {
    1e-3
}

fn default_warmup() -> u64 {
    5
}

fn default_epochs() -> u64 {
    3
}

fn default_max_length() -> usize {
    512
}

fn default_batch_tokens() -> usize {
    2048
}

fn one() -> usize {
    1
}

fn default_beta1() -> f64 {
    0.9
}

fn default_beta2() -> f64 {
    0.999
}

fn default_eps() -> f64 {
    1e-8
}

fn default_weight_decay() -> f64 {
    0.0
}

fn default_clip_norm() -> f64 {
    1.0
}

fn default_log_every() -> u64 {
    1
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
        if !params.backend.is_built_in() {
            let name = params.backend.name();
            let message = format!(
                "is \"{name}\", which this build was made without: build with --features {name}"
            );
            return Err(FieldError::new("backend", message));
        }
        common!(params).check()
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
    let common = common!(params);
    let model = context.input("model")?.to_owned();
    let decoder = Decoder::open(&model, Isa::detect()).map_err(TrainError::from)?;
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
    #[cfg(feature = "candle")]
    if backend != Backend::Cpu {
        context.fact("device", backend.place().describe());
    }
    let mut observer = StepObserver::new(context)?;
    let mut run = |core: &mut dyn Core| {
        let (data, checkpoints) = (&data.train, checkpoints.as_mut());
        train::train(
            core,
            data,
            validation,
            options,
            isa,
            &mut observer,
            checkpoints,
        )
    };
    let trained = match backend {
        Backend::Cpu => {
            let mut core = LoraCore { decoder, lora };
            let summary = run(&mut core)?;
            (core.lora, summary)
        }
        #[cfg(feature = "candle")]
        Backend::Candle | Backend::Cuda | Backend::Metal => {
            let mut core = CandleCore::new(decoder, Some(lora), backend.place())?;
            let summary = run(&mut core)?;
            let lora = core.into_lora().expect("it was made with an adapter");
            (lora, summary)
        }
        #[cfg(not(feature = "candle"))]
        _ => return Err(StepError::new("this build was made without candle")),
    };
    observer.finish()?;
    Ok(trained)
}
