//! The kinds of steps, one file each: thin glue from ports to domain code.

mod command;
mod data_build;
mod data_import;
mod data_split;
mod data_stats;
mod findings_import;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::files;
use crate::step::{Context, Registry, StepError};

pub use command::Command;

/// Adds every built-in kind.
pub fn register(registry: &mut Registry) {
    registry.add::<Command>();
    registry.add::<findings_import::FindingsImport>();
    registry.add::<data_import::DataImport>();
    registry.add::<data_build::DataBuild>();
    registry.add::<data_split::DataSplit>();
    registry.add::<data_stats::DataStats>();
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
