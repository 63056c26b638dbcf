//! The graph as text, Graphviz dot or Mermaid.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write;

use super::{OpsError, Workspace};
use crate::graph::{Graph, StepId};
use crate::pipeline::{Overrides, StepName};

/// How to write a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraphFormat {
    /// One line a step, in build order.
    Text,
    /// Graphviz.
    Dot,
    /// Mermaid, as Markdown viewers draw it.
    Mermaid,
}

/// The pipeline's graph.
pub fn graph(
    workspace: &Workspace,
    overrides: &Overrides,
    format: GraphFormat,
) -> Result<String, OpsError> {
    let (graph, _) = workspace.load(overrides)?;
    Ok(match format {
        GraphFormat::Text => text(&graph),
        GraphFormat::Dot => dot(&graph),
        GraphFormat::Mermaid => mermaid(&graph),
    })
}

fn text(graph: &Graph) -> String {
    let groups = groups(graph);
    let name = |group: &[StepId]| names(graph, group).join(", ");
    let kind = |group: &[StepId]| match group.len() {
        1 => graph.node(group[0]).kind.clone(),
        n => format!("{} ×{n}", graph.node(group[0]).kind),
    };
    let widest = |of: &dyn Fn(&[StepId]) -> String| {
        let lengths = groups.iter().map(|group| of(group).chars().count());
        lengths.max().unwrap_or(0)
    };
    let (names_width, kinds_width) = (widest(&name), widest(&kind));
    let mut text = String::new();
    for group in &groups {
        let (name, kind) = (name(group), kind(group));
        let mut line = format!("{name:names_width$}  {kind:kinds_width$}");
        let needed = group.iter().flat_map(|id| graph.dependencies(*id));
        let needed: BTreeSet<StepId> = needed.copied().collect();
        let inputs = names(graph, &needed.into_iter().collect::<Vec<_>>());
        if !inputs.is_empty() {
            let _ = write!(line, "  ← {}", inputs.join(", "));
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// The steps in build order, the cells of a matrix together.
fn groups(graph: &Graph) -> Vec<Vec<StepId>> {
    let mut groups: Vec<Vec<StepId>> = Vec::new();
    let mut at: HashMap<&str, usize> = HashMap::new();
    for &id in graph.order() {
        let node = graph.node(id);
        let group = *at.entry(node.name.base()).or_insert(groups.len());
        match groups.get_mut(group) {
            Some(cells) => cells.push(id),
            None => groups.push(vec![id]),
        }
    }
    groups
}

/// The names of steps; all cells of a matrix are one.
fn names(graph: &Graph, ids: &[StepId]) -> Vec<String> {
    let there: HashSet<StepId> = ids.iter().copied().collect();
    let mut whole: HashMap<&str, bool> = HashMap::new();
    let mut names = Vec::new();
    for &id in ids {
        let name = &graph.node(id).name;
        if name.cell().is_none() {
            names.push(name.to_string());
            continue;
        }
        let told = whole.contains_key(name.base());
        let whole = *whole.entry(name.base()).or_insert_with(|| {
            let all = graph.cells(name.base());
            all.len() > 1 && all.iter().all(|cell| there.contains(cell))
        });
        match (whole, told) {
            (true, true) => {}
            (true, false) => names.push(format!("{}[*]", name.base())),
            (false, _) => names.push(name.to_string()),
        }
    }
    names
}

/// Every edge with the names of the outputs that flow along it.
fn edges(graph: &Graph) -> Vec<(StepId, StepId, String)> {
    let mut edges = Vec::new();
    for &id in graph.order() {
        for &from in graph.dependencies(id) {
            let mut outputs: Vec<&str> = Vec::new();
            for input in &graph.node(id).inputs {
                if let crate::graph::Origin::Step { step, output } = input.from
                    && step == from
                {
                    outputs.push(&graph.node(from).outputs[output].name);
                }
            }
            outputs.sort_unstable();
            outputs.dedup();
            edges.push((from, id, outputs.join(", ")));
        }
    }
    edges
}

fn dot(graph: &Graph) -> String {
    let mut text = format!(
        "digraph \"{}\" {{\n  rankdir=LR;\n  node [shape=box];\n",
        graph.name
    );
    for &id in graph.order() {
        let node = graph.node(id);
        let _ = writeln!(
            text,
            "  \"{0}\" [label=\"{0}\\n{1}\"];",
            quoted(&node.name),
            node.kind
        );
    }
    for (from, to, label) in edges(graph) {
        let (from, to) = (&graph.node(from).name, &graph.node(to).name);
        let (from, to) = (quoted(from), quoted(to));
        let _ = writeln!(text, "  \"{from}\" -> \"{to}\" [label=\"{label}\"];");
    }
    text + "}\n"
}

/// A name as Graphviz has it in quotes.
fn quoted(name: &StepName) -> String {
    name.as_str().replace('\\', "\\\\").replace('"', "\\\"")
}

fn mermaid(graph: &Graph) -> String {
    let mut text = String::from("flowchart LR\n");
    for &id in graph.order() {
        let node = graph.node(id);
        let _ = writeln!(
            text,
            "  s{}[\"{}<br/>{}\"]",
            id.index(),
            node.name.as_str().replace('"', "#quot;"),
            node.kind
        );
    }
    for (from, to, label) in edges(graph) {
        let _ = writeln!(text, "  s{} -->|{label}| s{}", from.index(), to.index());
    }
    text
}
