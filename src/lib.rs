//! `retune` is `make` for open fine-tuning.
//!
//! This page is the map of the crate. Data flows one way,
//! **pipeline → graph → plan → exec → record**; a module may import only what
//! the table in `tests/layering.rs` allows it.

pub mod cli;
pub mod event;
pub mod exec;
pub mod files;
pub mod graph;
pub mod hash;
#[cfg(feature = "hub")]
pub mod hub;
pub mod ops;
pub mod pipeline;
pub mod plan;
pub mod record;
pub mod report;
pub mod step;
pub mod steps;
pub mod store;
pub mod watch;
