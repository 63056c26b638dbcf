//! What a person or a program sees of a run: bars, plain lines, JSON lines, problems and tables.
//!
//! Every reporter is a [`Sink`] and only receives. The words of a line are
//! written once, in [`words`](self); bars and plain lines differ in what moves.

mod audit;
mod bars;
mod change;
mod diff;
mod json;
mod plain;
mod problem;
mod profile;
mod provenance;
mod style;
mod table;
#[cfg(test)]
mod tests;
mod words;

pub use audit::{audit_html, audit_sentence, audit_text, audit_verdict};
pub use bars::Bars;
pub use diff::diff_text;
pub use json::JsonLines;
pub use plain::Plain;
pub use problem::Problem;
pub use profile::Profile;
pub use provenance::provenance_text;
pub use style::Palette;
pub use table::{explain, table};
pub use words::{Words, ago, bytes, count, duration};

use crate::event::{Event, Sink};

/// Hands every event to each of several sinks, in their order.
#[derive(Default)]
pub struct Tee<'a>(Vec<&'a mut dyn Sink>);

impl<'a> Tee<'a> {
    /// Hands events to nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a sink.
    pub fn with(mut self, sink: &'a mut dyn Sink) -> Self {
        self.0.push(sink);
        self
    }
}

impl Sink for Tee<'_> {
    fn event(&mut self, event: &Event) {
        for sink in &mut self.0 {
            sink.event(event);
        }
    }
}
