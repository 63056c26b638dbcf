//! `retune` is `make` for open fine-tuning.
//!
//! This page is the map of the crate. Data flows one way,
//! **pipeline → graph → plan → exec → record**; a module may import only what
//! the table in `tests/layering.rs` allows it.

pub mod data;
pub mod files;
pub mod hash;
pub mod ml;
pub mod pipeline;
pub mod step;
pub mod steps;
pub mod store;
