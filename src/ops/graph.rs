//! The graph as text, Graphviz dot or Mermaid.

use std::fmt::Write;

use super::{OpsError, Workspace};
use crate::graph::{Graph, Node, StepId};
use crate::pipeline::Overrides;

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
    let widest = |of: fn(&Node) -> usize| graph.nodes.iter().map(of).max().unwrap_or(0);
    let name = widest(|node| node.name.as_str().len());
    let kind = widest(|node| node.kind.len());
    let mut text = String::new();
    for &id in graph.order() {
        let node = graph.node(id);
        let mut line = format!("{:name$}  {:kind$}", node.name.as_str(), node.kind);
        let inputs = names(graph, graph.dependencies(id));
        if !inputs.is_empty() {
            let _ = write!(line, "  ← {}", inputs.join(", "));
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn names(graph: &Graph, ids: &[StepId]) -> Vec<String> {
    ids.iter()
        .map(|id| graph.node(*id).name.to_string())
        .collect()
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
            node.name, node.kind
        );
    }
    for (from, to, label) in edges(graph) {
        let (from, to) = (&graph.node(from).name, &graph.node(to).name);
        let _ = writeln!(text, "  \"{from}\" -> \"{to}\" [label=\"{label}\"];");
    }
    text + "}\n"
}

fn mermaid(graph: &Graph) -> String {
    let mut text = String::from("flowchart LR\n");
    for &id in graph.order() {
        let node = graph.node(id);
        let _ = writeln!(
            text,
            "  s{}[\"{}<br/>{}\"]",
            id.index(),
            node.name,
            node.kind
        );
    }
    for (from, to, label) in edges(graph) {
        let _ = writeln!(text, "  s{} -->|{label}| s{}", from.index(), to.index());
    }
    text
}
