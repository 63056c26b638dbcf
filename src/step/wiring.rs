//! The steps of a pipeline as they are wired, for kinds that look at what their inputs come from.

use super::{Params, PortType};

/// A step before anything runs.
#[derive(Debug, Clone, Copy)]
pub struct Wired<'a> {
    /// Its name.
    pub name: &'a str,
    /// The name of its kind.
    pub kind: &'a str,
    /// Its effective parameters.
    pub params: &'a Params,
}

/// One thing behind an input port of a step.
#[derive(Debug, Clone, Copy)]
pub struct WiredInput<'a> {
    /// The port.
    pub port: &'a str,
    /// Its label, on ports that have them.
    pub label: &'a str,
    /// The step whose output it is, by its number, and the type of that
    /// output; none for what is no step's.
    pub from: Option<(usize, PortType)>,
}

/// The steps of a pipeline, by their numbers.
pub trait Wiring {
    /// A step.
    fn step(&self, step: usize) -> Wired<'_>;
    /// What it reads.
    fn inputs(&self, step: usize) -> Vec<WiredInput<'_>>;
}
