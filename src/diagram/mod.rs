//! Drawings of pipelines that a person wants to look at: layered, coloured by state, as SVG and as an HTML page.
//!
//! Plain data in, text out. [`layout`] places boxes, `group` folds many
//! alike steps into one box.

mod group;
mod html;
mod layout;
mod svg;

use std::fmt::Write;

pub use html::html;
pub use layout::{Gaps, Layout, Point, Size, layout};
pub use svg::svg;

/// A pipeline to be drawn.
#[derive(Debug, Clone, Default)]
pub struct Diagram {
    /// The pipeline's name.
    pub title: String,
    /// What is said below it.
    pub subtitle: String,
    /// The steps, each after those it needs.
    pub steps: Vec<Step>,
    /// Which step needs which: `(from, to)` by index, `from < to`.
    pub edges: Vec<(usize, usize)>,
}

/// A step to be drawn.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// What state it is in.
    pub state: State,
    /// How long it takes, in words; empty where that is not known.
    pub time: String,
    /// Whether it is on the longest chain.
    pub critical: bool,
    /// What else there is to say: heading and text.
    pub facts: Vec<(&'static str, String)>,
}

/// What state a step is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Nothing is to be done.
    UpToDate,
    /// Its outputs would be put back from the store.
    Restore,
    /// Whether it runs depends on others.
    Maybe,
    /// It would run.
    Run,
    /// It cannot run, because another cannot.
    Blocked,
    /// It cannot run.
    Error,
    /// It would run, and failed or was stopped the last time.
    Failed,
    /// It runs now.
    Running,
}

impl State {
    /// All, the quiet ones first.
    pub const ALL: [State; 8] = [
        State::UpToDate,
        State::Restore,
        State::Maybe,
        State::Run,
        State::Blocked,
        State::Error,
        State::Failed,
        State::Running,
    ];

    /// The words for it.
    pub fn words(self) -> &'static str {
        match self {
            State::UpToDate => "up to date",
            State::Restore => "to restore",
            State::Maybe => "may run",
            State::Run => "to run",
            State::Blocked => "blocked",
            State::Error => "cannot run",
            State::Failed => "failed last time",
            State::Running => "running",
        }
    }

    /// The class of its colours.
    fn class(self) -> &'static str {
        match self {
            State::UpToDate => "ok",
            State::Restore => "restore",
            State::Maybe => "maybe",
            State::Run => "run",
            State::Blocked => "blocked",
            State::Error | State::Failed => "bad",
            State::Running => "running",
        }
    }
}

/// How many steps are in each state; those of none are left out.
fn counts<'a>(steps: impl Iterator<Item = &'a Step>) -> Vec<(State, usize)> {
    let mut counts = [0; State::ALL.len()];
    for step in steps {
        counts[step.state as usize] += 1;
    }
    let all = State::ALL.into_iter().zip(counts);
    all.filter(|(_, n)| *n > 0).collect()
}

/// Adds text as XML wants it.
fn escape(to: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => to.push_str("&amp;"),
            '<' => to.push_str("&lt;"),
            '>' => to.push_str("&gt;"),
            '"' => to.push_str("&quot;"),
            '\n' | '\t' => to.push(c),
            // XML has no way to write them.
            c if c.is_control() => to.push(' '),
            c => to.push(c),
        }
    }
}

/// The text as XML wants it.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    escape(&mut escaped, text);
    escaped
}

/// Everything about a step, for a tooltip.
fn tooltip(step: &Step) -> String {
    let mut text = format!("{} ({})\n{}", step.name, step.kind, step.state.words());
    for (heading, fact) in &step.facts {
        let _ = write!(text, "\n{heading}: {fact}");
    }
    text
}
