//! The kinds, one file each: thin glue from parameters and ports to the rooms that do the work.

mod chart_loss;
mod eval_generate;
mod eval_score;
mod lora_train;
mod model_init;
mod model_train;
mod release_card;
mod release_folder;
mod release_recipe;
mod tokenizer_train;
mod training;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::files;
use crate::step::{Context, Registry, StepError};

/// Adds every kind of this crate to a registry.
pub fn register(registry: &mut Registry) {
    registry.add::<tokenizer_train::TokenizerTrain>();
    registry.add::<model_init::ModelInit>();
    registry.add::<model_train::ModelTrain>();
    registry.add::<lora_train::LoraTrain>();
    registry.add::<eval_generate::EvalGenerate>();
    registry.add::<eval_score::EvalScore>();
    registry.add::<chart_loss::ChartLoss>();
    registry.add::<release_recipe::ReleaseRecipe>();
    registry.add::<release_card::ReleaseCard>();
    registry.add::<release_folder::ReleaseFolder>();
}

/// Label and path of everything behind a port.
fn labelled(context: &Context<'_>, port: &str) -> Vec<(String, PathBuf)> {
    let pair = |input: &crate::step::Input| (input.label.clone(), input.path.clone());
    context.all(port).map(pair).collect()
}

/// Writes one JSON object for people to read too: indented, with a last newline.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), StepError> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(files::write(path, text)?)
}

#[cfg(test)]
mod release_tests;
