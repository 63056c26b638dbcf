//! The release: recipe, card, loss chart and the folder that holds them, made only from what was recorded.
//!
//! [`Lineage`] is how the inputs came to be (the engine writes it);
//! [`recipe`] makes `recipe.toml` from it, [`card`] makes `README.md` from it
//! and from metrics files, [`chart`] draws `loss.svg` from training logs, [`bars`]
//! the lengths and categories of rows, and [`folder`] collects files under a `MANIFEST.json`.

pub mod bars;
pub mod card;
pub mod chart;
pub mod folder;
mod front;
mod lineage;
mod recipe;

pub use front::Front;
pub use lineage::{
    Lineage, LineageError, LineageInput, LineageOutput, LineageStep, Origin, PipelineInfo,
};
pub use recipe::{RecipeError, recipe};
