//! The kinds, one file each: thin glue from parameters and ports to the rooms that do the work.

mod lora_train;
mod model_init;
mod model_train;
mod tokenizer_train;
mod training;

use crate::step::Registry;

/// Adds every kind of this crate to a registry.
pub fn register(registry: &mut Registry) {
    registry.add::<tokenizer_train::TokenizerTrain>();
    registry.add::<model_init::ModelInit>();
    registry.add::<model_train::ModelTrain>();
    registry.add::<lora_train::LoraTrain>();
}

#[cfg(test)]
mod tests;
