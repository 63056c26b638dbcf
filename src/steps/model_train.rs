//! `model.train`: trains all weights of a model, on texts and on whole conversations.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::training::{self, StepObserver, training_params};
use crate::files;
use crate::ml;
use crate::ml::batch::LossOn;
use crate::ml::config::ModelConfig;
use crate::ml::kernels::Isa;
use crate::ml::model::Decoder;
use crate::ml::tokenizer::Tokenizer;
use crate::ml::train::{self, Data, FullCore, Report, TrainError, flops};
use crate::step::{
    Context, FieldError, InPort, OutPort, PortType, Resources, Resumes, Step, StepError,
};

/// The kind.
pub struct ModelTrain;

training_params! {
    /// Its parameters.
    #[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Params {
    }
    warmup_steps = 10,
    epochs = 1,
    beta2 = 0.95,
    weight_decay = 0.1,
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
    let isa = Isa::detect();
    let model = context.input("model")?.to_owned();
    let config = ModelConfig::read(&model)?;
    let tokenizer = Tokenizer::open(context.input("tokenizer")?)?;
    let texts: Vec<_> = context.all("train").cloned().collect();
    let texts: Vec<_> = texts
        .iter()
        .map(|input| (input.label.as_str(), input.path.as_path()))
        .collect();
    let validation = context.optional("validation");
    let data = Data::read(
        &config,
        &tokenizer,
        &texts,
        validation,
        common.max_length,
        LossOn::Everything,
    )?;
    let memory = Some(common.plan_memory(&config, None, &data, context)?);
    let mut decoder = Decoder::open(&model, isa).map_err(TrainError::from)?;
    decoder.checkpointing = common.gradient_checkpointing;
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
        memory,
    };
    training::write_report(&context.output("training.json"), &report)
}
