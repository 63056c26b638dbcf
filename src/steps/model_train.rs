//! `model.train`: trains all weights of a model, on texts and on whole conversations.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::training::{self, Sizes, training_params};
use crate::files;
use crate::ml;
use crate::ml::batch::LossOn;
use crate::ml::config::ModelConfig;
use crate::ml::kernels::Isa;
use crate::ml::matrix::Dtype;
use crate::ml::model::Decoder;
use crate::ml::saved::SavedError;
use crate::ml::tensors::Tensors;
use crate::ml::tokenizer::Tokenizer;
use crate::ml::train::{Data, FullCore, TrainError};
use crate::step::{
    Context, FieldError, InPort, OutPort, PortType, Resources, Resumes, Step, StepError,
};

/// The kind.
pub struct ModelTrain;

training_params! {
    /// Its parameters.
    #[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Params {}
    warmup_steps = 10,
    epochs = 1,
    beta2 = 0.95,
    weight_decay = 0.1,
}

impl Step for ModelTrain {
    type Params = Params;
    const KIND: &'static str = "model.train";
    const VERSION: u32 = 2;
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

    fn outputs(params: &Params) -> Vec<OutPort> {
        let model = OutPort::new("model", PortType::Model, "model");
        training::outputs(model, &params.common())
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
    let memory = Some(common.plan_memory(&config, None, Dtype::F32, &data, context)?);
    let mut decoder = Decoder::open(&model, isa).map_err(TrainError::from)?;
    decoder.checkpointing = common.gradient_checkpointing;
    let write = |folder: &Path, weights: &Tensors| -> Result<(), SavedError> {
        config.write(folder, tokenizer.special_ids())?;
        Ok(weights.write(&folder.join("model.safetensors"))?)
    };
    let mut core = FullCore { decoder };
    let summary = training::run(&mut core, &data, &common, isa, &write, context)?;
    let decoder = core.decoder;
    let folder = context.output("model");
    files::create_dir(&folder)?;
    write(&folder, &decoder.weights).map_err(TrainError::from)?;
    let elements = decoder.weights.elements();
    let sizes = Sizes {
        config: &config,
        linear: decoder.linear_weights(),
        adapter: None,
        trainable: elements,
        total: elements,
        memory,
    };
    training::write_report(params, &common, &data, summary, &sizes, context)
}
