//! `model.train`: trains all weights of a model, on texts and on whole conversations.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::training::{self, StepObserver, common};
use crate::files;
use crate::ml;
use crate::ml::batch::LossOn;
use crate::ml::kernels::Isa;
use crate::ml::model::Decoder;
use crate::ml::optim::Schedule;
use crate::ml::tokenizer::Tokenizer;
use crate::ml::train::{self, Data, FullCore, Report, TrainError, flops};
use crate::step::{
    Context, FieldError, InPort, OutPort, PortType, Resources, Resumes, Step, StepError,
};

/// The kind.
pub struct ModelTrain;

/// Its parameters.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
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
    /// Seed of the order of the data.
    #[serde(default)]
    seed: u64,
}

fn default_learning_rate() -> f64 {
    1e-3
}

fn default_warmup() -> u64 {
    10
}

fn default_epochs() -> u64 {
    1
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
    0.95
}

fn default_eps() -> f64 {
    1e-8
}

fn default_weight_decay() -> f64 {
    0.1
}

fn default_clip_norm() -> f64 {
    1.0
}

fn default_log_every() -> u64 {
    1
}

impl Step for ModelTrain {
    type Params = Params;
    const KIND: &'static str = "model.train";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Trains all weights of a model to predict texts and conversations.";

    const RESUMES: Resumes = Resumes::Always;

    fn inputs() -> Vec<InPort> {
        vec![
            InPort::one("model", PortType::Model, "the model to begin with"),
            InPort::one("tokenizer", PortType::Tokenizer, "the model's tokenizer"),
            InPort::many("train", PortType::Any, "data sets (.jsonl) or plain texts"),
            InPort::optional("validation", PortType::Dataset, "rows to validate on"),
        ]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("model", PortType::Model, "model"),
            OutPort::new("log", PortType::Log, "log.jsonl"),
            OutPort::new("metrics", PortType::Metrics, "training.json"),
        ]
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        common!(params).check()
    }

    fn resources(_: &Params) -> Resources {
        Resources::all_cpus()
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        ml::with_threads(context.threads, || run(params, context))?
    }
}

fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
    let common = common!(params);
    let isa = Isa::detect();
    let decoder = Decoder::open(context.input("model")?, isa).map_err(TrainError::from)?;
    let tokenizer = Tokenizer::open(context.input("tokenizer")?)?;
    let texts: Vec<_> = context.all("train").collect();
    let texts: Vec<_> = texts
        .iter()
        .map(|input| (input.label.as_str(), input.path.as_path()))
        .collect();
    let validation = context.optional("validation");
    let data = Data::read(
        &decoder,
        &tokenizer,
        &texts,
        validation,
        common.max_length,
        LossOn::Everything,
    )?;
    let mut core = FullCore { decoder };
    let mut checkpoints = training::checkpoints(context);
    let mut observer = StepObserver::new(context)?;
    let summary = train::train(
        &mut core,
        &data.train,
        data.validation.as_ref(),
        &common.options,
        isa,
        &mut observer,
        checkpoints.as_mut(),
    )?;
    observer.finish()?;
    let decoder = core.decoder;
    let folder = context.output("model");
    files::create_dir(&folder)?;
    decoder.config.write(&folder, tokenizer.special_ids())?;
    decoder.weights.write(&folder.join("model.safetensors"))?;
    let report = Report {
        format: 1,
        config: params,
        flops: flops(summary.tokens, 0, decoder.linear_weights()),
        summary,
        rows: data.train.counts,
        trainable_parameters: decoder.weights.elements(),
        total_parameters: decoder.weights.elements(),
    };
    training::write_report(&context.output("training.json"), &report)
}
