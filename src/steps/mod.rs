//! The kinds of steps, one file each: thin glue from ports to domain code.

mod adapter_convert;
mod adapter_merge;
mod chart_loss;
mod command;
mod data_augment;
mod data_build;
mod data_check;
mod data_decontaminate;
mod data_diff;
mod data_import;
mod data_license;
mod data_mix;
mod data_scan;
mod data_select;
mod data_split;
mod data_stats;
mod eval_generate;
mod eval_loss;
mod eval_score;
mod findings_import;
mod lora_train;
mod model_fetch;
mod model_init;
mod model_train;
mod release_card;
mod release_folder;
mod release_recipe;
mod tokenizer_train;
mod training;

#[cfg(test)]
mod release_tests;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::files;
use crate::step::{Context, Registry, StepError};

pub use command::Command;

/// Adds every built-in kind.
pub fn register(registry: &mut Registry) {
    registry
        .add::<Command>()
        .add::<findings_import::FindingsImport>()
        .add::<data_import::DataImport>()
        .add::<data_augment::DataAugment>()
        .add::<data_diff::DataDiff>()
        .add::<data_mix::DataMix>()
        .add::<data_build::DataBuild>()
        .add::<data_check::DataCheck>()
        .add::<data_decontaminate::DataDecontaminate>()
        .add::<data_scan::DataScan>()
        .add::<data_license::DataLicense>()
        .add::<data_select::DataSelect>()
        .add::<data_split::DataSplit>()
        .add::<data_stats::DataStats>()
        .add::<tokenizer_train::TokenizerTrain>()
        .add::<model_fetch::ModelFetch>()
        .add::<model_init::ModelInit>()
        .add::<model_train::ModelTrain>()
        .add::<lora_train::LoraTrain>()
        .add::<adapter_convert::AdapterConvert>()
        .add::<adapter_merge::AdapterMerge>()
        .add::<eval_generate::EvalGenerate>()
        .add::<eval_loss::EvalLoss>()
        .add::<eval_score::EvalScore>()
        .add::<chart_loss::ChartLoss>()
        .add::<release_recipe::ReleaseRecipe>()
        .add::<release_card::ReleaseCard>()
        .add::<release_folder::ReleaseFolder>();
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
mod tests;
