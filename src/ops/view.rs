//! A pipeline with the state of every step, for drawings.

use std::collections::BTreeSet;

use super::estimate::{Estimate, estimate};
use super::runs::{is_unfinished, running_now};
use super::{BuildOptions, OpsError, Workspace, inspect};
use crate::diagram::State;
use crate::graph::{Graph, Node, Origin, StepId};
use crate::hash::Digest;
use crate::pipeline::{Overrides, PipelineName, StepName};
use crate::plan::{Detail, EXAMPLES, PlannedStep, Verdict};
use crate::store::{LocalStore, Output, Store};

/// A pipeline and the state it is in.
#[derive(Debug, Clone)]
pub struct GraphView {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// What it is for, in the words of the file's author.
    pub description: String,
    /// The steps in build order.
    pub steps: Vec<StepView>,
    /// Which step needs which, by index in `steps`.
    pub edges: Vec<(usize, usize)>,
    /// How long a build would take.
    pub estimate: Option<Estimate>,
}

/// A step and the state it is in.
#[derive(Debug, Clone)]
pub struct StepView {
    /// What a plan says.
    pub planned: PlannedStep,
    /// The state.
    pub state: State,
    /// What it is for, in the words of the file's author.
    pub description: String,
    /// What it reads: the port and where from.
    pub inputs: Vec<String>,
    /// Its current outputs.
    pub outputs: Vec<Output>,
    /// The run that made them.
    pub made_in: Option<String>,
}

/// Looks at the state of every step.
pub fn view(workspace: &Workspace, overrides: &Overrides) -> Result<GraphView, OpsError> {
    let (graph, _) = workspace.load(overrides)?;
    let store = workspace.look_into_store()?;
    let ids = graph.order();
    let detail = Detail {
        folders: true,
        files: EXAMPLES,
    };
    let mut planned = inspect::dry_run(workspace, &graph, ids, &[], detail)?;
    let jobs = BuildOptions::default().limits.jobs;
    let estimate = estimate(&graph, ids, &mut planned, jobs);
    let running = running_now(workspace)?;
    let running: BTreeSet<&StepName> = running.iter().map(|running| &running.step).collect();
    let look = |(planned, id): (PlannedStep, &StepId)| {
        let node = graph.node(*id);
        let (outputs, made_in) = made(&store, &graph, node);
        let unfinished = is_unfinished(&store, &graph.name, &node.name);
        StepView {
            state: state(&planned.verdict, running.contains(&node.name), unfinished),
            planned,
            description: node.description.clone(),
            inputs: inputs(&graph, node),
            outputs,
            made_in,
        }
    };
    Ok(GraphView {
        pipeline: graph.name.clone(),
        description: graph.description.clone(),
        steps: planned.into_iter().zip(ids).map(look).collect(),
        edges: edges(&graph),
        estimate,
    })
}

fn state(verdict: &Verdict, running: bool, unfinished: bool) -> State {
    match verdict {
        _ if running => State::Running,
        Verdict::UpToDate => State::UpToDate,
        Verdict::Restore { .. } => State::Restore,
        Verdict::Error { .. } => State::Error,
        Verdict::Blocked { .. } => State::Blocked,
        _ if unfinished => State::Failed,
        Verdict::Run { .. } => State::Run,
        Verdict::Maybe { .. } => State::Maybe,
    }
}

/// The edges, by position in build order.
fn edges(graph: &Graph) -> Vec<(usize, usize)> {
    let mut at = vec![0; graph.nodes.len()];
    for (i, id) in graph.order().iter().enumerate() {
        at[id.index()] = i;
    }
    let order = graph.order().iter().enumerate();
    let of = |(i, id): (usize, &StepId)| {
        let needed = graph.dependencies(*id).iter();
        needed.map(|up| (at[up.index()], i)).collect::<Vec<_>>()
    };
    order.flat_map(of).collect()
}

/// `train ← split.test`, `rows ← data/rows.jsonl`.
fn inputs(graph: &Graph, node: &Node) -> Vec<String> {
    let shown = |input: &crate::graph::InputRef| {
        let from = match &input.from {
            Origin::Step { step, output } => {
                let from = graph.node(*step);
                format!("{}.{}", from.name, from.outputs[*output].name)
            }
            Origin::Path(path) => path.clone(),
            Origin::Hub(hub) => hub.to_string(),
            Origin::Lineage => return None,
        };
        Some(format!("{} ← {from}", input.port))
    };
    node.inputs.iter().filter_map(shown).collect()
}

/// A step's current outputs, and the run that made them.
fn made(store: &LocalStore, graph: &Graph, node: &Node) -> (Vec<Output>, Option<String>) {
    #[derive(serde::Deserialize)]
    struct Recorded {
        run: String,
    }
    let entry = store.with_index(|index| {
        let key = index
            .step(graph.name.as_str(), node.name.as_str())?
            .current?;
        index.entry(&key)
    });
    let Some(entry) = entry else {
        return (Vec::new(), None);
    };
    let record = |digest: &Digest| {
        let bytes = store.get(digest).ok()?;
        serde_json::from_slice::<Recorded>(&bytes).ok()
    };
    let made_in = record(&entry.record).map(|recorded| recorded.run);
    (entry.outputs, made_in)
}
