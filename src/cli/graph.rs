//! `retune graph`: the steps and what they need of each other.

use super::Session;
use super::args::{Format, Graph};
use super::exit::Exit;
use super::problem::Failure;
use crate::diagram::{self, Diagram, Step};
use crate::ops::{self, GraphFormat, GraphView, StepView};
use crate::plan::{Reason, Verdict};
use crate::report::{bytes, count, duration};

/// How many inputs or outputs of a step are named.
const NAMED: usize = 6;

pub(super) fn run(session: &Session, args: &Graph) -> Result<Exit, Failure> {
    let workspace = session.workspace()?;
    let overrides = session.overrides();
    let text = |format| ops::graph(&workspace, &overrides, format);
    let drawing = || Ok::<_, Failure>(diagram(&ops::view(&workspace, &overrides)?));
    let text = match args.format {
        Format::Text => text(GraphFormat::Text)?,
        Format::Dot => text(GraphFormat::Dot)?,
        Format::Mermaid => text(GraphFormat::Mermaid)?,
        Format::Svg => diagram::svg(&drawing()?, args.all),
        Format::Html => diagram::html(&drawing()?),
    };
    session.output.print(&text)?;
    Ok(Exit::Fine)
}

fn diagram(view: &GraphView) -> Diagram {
    let mut subtitle = count(view.steps.len(), "step");
    if let Some(estimate) = &view.estimate {
        let seconds = estimate.millis as f64 / 1000.0;
        subtitle.push_str(&format!(
            " · a build takes at most about {}",
            duration(seconds)
        ));
        if estimate.unknown > 0 {
            let unknown = count(estimate.unknown, "step");
            subtitle.push_str(&format!(" and {unknown} not timed yet"));
        }
    }
    if !view.description.is_empty() {
        subtitle = format!("{} · {subtitle}", view.description);
    }
    Diagram {
        title: view.pipeline.to_string(),
        subtitle,
        steps: view.steps.iter().map(step).collect(),
        edges: view.edges.clone(),
    }
}

fn step(step: &StepView) -> Step {
    let planned = &step.planned;
    let millis = planned.millis;
    Step {
        name: planned.name.to_string(),
        kind: planned.kind.clone(),
        state: step.state,
        time: millis.map_or(String::new(), |millis| duration(millis as f64 / 1000.0)),
        critical: planned.critical,
        facts: facts(step),
    }
}

fn facts(step: &StepView) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let mut add = |heading, text: String| {
        if !text.is_empty() {
            facts.push((heading, text));
        }
    };
    add("why", why(&step.planned.verdict));
    add("for", step.description.clone());
    add("inputs", named(step.inputs.iter().cloned()));
    let output =
        |output: &crate::ops::Output| format!("{} ({})", output.path, bytes(output.artifact.size));
    add("outputs", named(step.outputs.iter().map(output)));
    let key = step.planned.key.as_ref();
    add("key", key.map_or(String::new(), |key| key.to_string()));
    add("last made in", step.made_in.clone().unwrap_or_default());
    facts
}

fn why(verdict: &Verdict) -> String {
    match verdict {
        Verdict::UpToDate => String::new(),
        Verdict::Run { reasons } | Verdict::Restore { reasons } => {
            named(reasons.iter().map(Reason::to_string))
        }
        Verdict::Maybe { waits_for } => {
            format!(
                "waits for {}",
                named(waits_for.iter().map(|name| name.to_string()))
            )
        }
        Verdict::Error { causes } => causes.join(": "),
        Verdict::Blocked { by } => format!("{by} cannot run"),
    }
}

/// The first few, and how many more there are.
fn named(all: impl ExactSizeIterator<Item = String>) -> String {
    let more = all.len().saturating_sub(NAMED);
    let mut named = all.take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        named.push_str(&format!(" and {more} more"));
    }
    named
}
