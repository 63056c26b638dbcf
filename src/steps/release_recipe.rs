//! `release.recipe`: what ran, as a pipeline file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::release::{Lineage, recipe};
use crate::step::{Context, InPort, OutPort, PortType, Step, StepError};

/// The kind.
pub struct ReleaseRecipe;

/// Parameters of `release.recipe`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {}

impl Step for ReleaseRecipe {
    type Params = Params;
    const KIND: &'static str = "release.recipe";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Writes a pipeline file that runs everything upstream again, with the expected digests as comments.";

    fn inputs() -> Vec<InPort> {
        vec![
            InPort::many("of", PortType::Any, "what the recipe is for"),
            InPort::lineage(),
        ]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![OutPort::new("recipe", PortType::Document, "recipe.toml")]
    }

    fn run(_: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let lineage = Lineage::read(context.input("lineage")?)?;
        files::write(&context.output("recipe.toml"), recipe(&lineage)?)?;
        Ok(())
    }
}
