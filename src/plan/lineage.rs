//! The lineage file: how every input of a step came to be, as far as that is reproducible.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::inputs::{Provenance, ResolvedInput};
use super::planner::Settled;
use crate::graph::{Graph, StepId};
use crate::hash::Digest;

#[derive(Serialize)]
struct Lineage<'a> {
    format: u32,
    pipeline: Pipeline<'a>,
    steps: Vec<Step<'a>>,
}

#[derive(Serialize)]
struct Pipeline<'a> {
    name: &'a str,
    description: &'a str,
    seed: u64,
}

#[derive(Serialize)]
struct Step<'a> {
    name: &'a str,
    kind: &'a str,
    version: u32,
    params: Value,
    inputs: Vec<Input<'a>>,
    outputs: Vec<StepOutput<'a>>,
}

#[derive(Serialize)]
struct Input<'a> {
    port: &'a str,
    /// The label of a labelled port, else the reference as a pipeline file
    /// would write it.
    label: String,
    /// None for what the engine supplies itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a Provenance>,
    digest: Digest,
}

#[derive(Serialize)]
struct StepOutput<'a> {
    port: &'a str,
    #[serde(rename = "type")]
    ty: &'a str,
    path: &'a str,
    digest: Digest,
    size: u64,
}

/// The lineage file of everything upstream of `id`, all of which is settled.
///
/// Holds digests, parameters and relative paths alone, so that its own digest
/// can enter a key.
pub fn lineage<'a>(
    graph: &Graph,
    id: StepId,
    settled: impl Fn(StepId) -> Option<&'a Settled>,
) -> Vec<u8> {
    let upstream = graph.closure(graph.dependencies(id).iter().copied());
    let steps = graph
        .order()
        .iter()
        .filter(|step| upstream.contains(**step));
    let document = Lineage {
        format: 1,
        pipeline: Pipeline {
            name: graph.name.as_str(),
            description: &graph.description,
            seed: graph.seed,
        },
        steps: steps
            .filter_map(|step| Some(describe(graph, *step, settled(*step)?)))
            .collect(),
    };
    let mut bytes = serde_json::to_vec_pretty(&document).expect("plain data");
    bytes.push(b'\n');
    bytes
}

fn describe<'a>(graph: &'a Graph, id: StepId, settled: &'a Settled) -> Step<'a> {
    let node = graph.node(id);
    let outputs = node.outputs.iter().zip(&settled.outputs);
    Step {
        name: node.name.as_str(),
        kind: &node.kind,
        version: node.version,
        params: sorted(&Value::Object(node.params.clone())),
        inputs: settled.inputs.iter().map(describe_input).collect(),
        outputs: outputs
            .map(|(port, output)| StepOutput {
                port: &port.name,
                ty: port.ty.name(),
                path: &output.path,
                digest: output.artifact.digest,
                size: output.artifact.size,
            })
            .collect(),
    }
}

fn describe_input(input: &ResolvedInput) -> Input<'_> {
    let label = match &input.from {
        Provenance::Step { step, output } if input.label.is_empty() => format!("@{step}.{output}"),
        _ => input.label.clone(),
    };
    let engine = matches!(input.from, Provenance::Engine(_));
    Input {
        port: &input.port,
        label,
        from: (!engine).then_some(&input.from),
        digest: input.artifact.digest,
    }
}

/// The value with all its maps sorted, whatever map type is in use.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let entries: BTreeMap<&String, &Value> = map.iter().collect();
            let mut result = Map::new();
            for (key, value) in entries {
                result.insert(key.clone(), sorted(value));
            }
            Value::Object(result)
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}
