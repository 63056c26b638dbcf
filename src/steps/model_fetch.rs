//! `model.fetch`: a model of the Hub at one commit, as outputs: what training needs of it and no more.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::files::{self, PathContext};
use crate::ml::origin::Origin;
use crate::ml::{merge, tensors};
use crate::step::{Context, FieldError, InPort, OutPort, PortType, Step, StepError};

/// The kind.
pub struct ModelFetch;

/// Its parameters.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The model on the Hub, `OWNER/NAME`.
    repo: String,
    /// The commit: all 40 digits, because tags and branches move.
    revision: String,
}

/// What is fetched beside the weights and the tokenizer.
const CONFIG: [&str; 3] = [
    "config.json",
    "model.safetensors.index.json",
    merge::GENERATION,
];

impl Step for ModelFetch {
    type Params = Params;
    const KIND: &'static str = "model.fetch";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Fetches a model of the Hub at a commit: configuration, tokenizer, safetensors.";
    const NETWORK: bool = true;

    fn inputs() -> Vec<InPort> {
        Vec::new()
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("model", PortType::Model, "model"),
            OutPort::new("tokenizer", PortType::Tokenizer, "tokenizer"),
        ]
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        let parts: Vec<&str> = params.repo.split('/').collect();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let good = |part: &&str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(allowed)
        };
        if parts.len() != 2 || !parts.iter().all(good) {
            return Err(FieldError::new("repo", "must be OWNER/NAME"));
        }
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        match params.revision.len() == 40 && params.revision.bytes().all(digit) {
            true => Ok(()),
            false => Err(FieldError::new(
                "revision",
                "must be a commit, 40 hexadecimal digits: branches and tags move",
            )),
        }
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let wanted: Vec<&str> = CONFIG.into_iter().chain(merge::TOKENIZER).collect();
        let snapshot = fetch(params, &wanted)?;
        if !snapshot.join("config.json").exists() {
            let message = format!("{} has no config.json at {}", params.repo, params.revision);
            return Err(StepError::new(message));
        }
        let paths = tensors::model_files(&snapshot)?;
        let names = paths.iter().map(|path| file_name(path));
        let weights = names.collect::<Result<Vec<&str>, _>>()?;
        context.checkpoint_cancel()?;
        let snapshot = fetch(params, &weights)?;
        let model = context.output("model");
        files::create_dir(&model)?;
        merge::copy(&wanted, &snapshot, &model)?;
        for (n, name) in weights.iter().enumerate() {
            context.checkpoint_cancel()?;
            context.progress(n as u64, weights.len() as u64, *name);
            let from = snapshot.join(name);
            if !from.exists() {
                let message = format!("{} has no {name} at {}", params.repo, params.revision);
                return Err(StepError::new(message).hint("only safetensors can be used"));
            }
            std::fs::copy(&from, model.join(name)).on("copy", &from)?;
        }
        Origin::hub(&params.repo, &params.revision).write(&model)?;
        let tokenizer = context.output("tokenizer");
        files::create_dir(&tokenizer)?;
        merge::copy(&merge::TOKENIZER, &snapshot, &tokenizer)?;
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            if !tokenizer.join(name).exists() {
                let message = format!("{} has no {name} at {}", params.repo, params.revision);
                return Err(StepError::new(message));
            }
        }
        Ok(())
    }
}

/// A file of the repository's top folder: an index is not to lead anywhere else.
fn file_name(path: &Path) -> Result<&str, StepError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let plain =
        |name: &&str| name.ends_with(".safetensors") && !name.contains(['*', '?', '[', '{']);
    name.filter(plain)
        .ok_or_else(|| StepError::new(format!("the index of the weights names {}", path.display())))
}

#[cfg(feature = "hub")]
fn fetch(params: &Params, names: &[&str]) -> Result<std::path::PathBuf, StepError> {
    let fetched = crate::hub::fetch_files(&params.repo, &params.revision, names);
    Ok(fetched?)
}

#[cfg(not(feature = "hub"))]
fn fetch(_: &Params, _: &[&str]) -> Result<std::path::PathBuf, StepError> {
    Err(StepError::new(
        "this program was built without the feature `hub`",
    ))
}
