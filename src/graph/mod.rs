//! The graph of steps: kinds looked up, fields checked, inputs wired to outputs, in an order to run them.
//!
//! [`Graph::build`] checks a pipeline against the kinds of a registry and
//! reports everything that is wrong at once. A graph is plain data: it can be
//! cached, and it holds compact arrays, so that walking 10,000 steps is cheap.

mod build;
mod check;
mod hub;
mod kept;
mod layout;
mod order;
mod schema;
mod settings;
mod wiring;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::pipeline::{
    Cell, Diagnostics, Overrides, Pipeline, PipelineName, Source, StepName, ValueSource,
};
use crate::step::{OutPort, Params, PortType, Purity, Registry};

pub use hub::{BadHubRef, HubRef};
pub use layout::{CACHE, is_glob};
pub use schema::schema;
pub use settings::{Retry, Settings};

use order::Links;

/// A step of a graph: its index in [`Graph::nodes`], which is the order of the file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StepId(u32);

impl StepId {
    /// The index in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }

    fn new(index: usize) -> Self {
        StepId(u32::try_from(index).expect("a file of steps has fewer than 2^32 bytes"))
    }
}

impl fmt::Debug for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// What an input comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// An output of another step.
    Step {
        /// The step.
        step: StepId,
        /// The index in its [`Node::outputs`].
        output: usize,
    },
    /// A file, a folder or a glob, relative to the project root, without `.`
    /// and `..`, with `/` between its components.
    Path(String),
    /// A pinned reference to the Hub.
    Hub(HubRef),
    /// How the other inputs came to be, supplied by the engine.
    Lineage,
}

/// One thing behind an input port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRef {
    /// The port.
    pub port: String,
    /// For labelled ports the label. For the others the path relative to the
    /// project root, `@step.output`, or the Hub reference.
    pub label: String,
    /// What the port takes.
    pub ty: PortType,
    /// What it comes from.
    pub from: Origin,
}

/// A step, checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: StepName,
    /// Which cell of its matrix it is, if it has one.
    pub cell: Option<Cell>,
    /// The name of its kind.
    pub kind: String,
    /// The version of its kind.
    pub version: u32,
    /// Whether its result may be cached.
    pub purity: Purity,
    /// What it is for, in the words of the file's author.
    pub description: String,
    /// The effective parameters, defaults filled in.
    #[serde(with = "as_text")]
    pub params: Params,
    /// Where each parameter's value comes from; the same keys as `params`.
    pub sources: BTreeMap<String, ValueSource>,
    /// What it reads: by port in the kind's order, within a port in the order
    /// of the file (labelled ports: sorted by label).
    pub inputs: Vec<InputRef>,
    /// What it writes, with normal relative paths.
    pub outputs: Vec<OutPort>,
    /// The environment variables that enter its key, sorted.
    pub environment: Vec<String>,
    /// The folder where its outputs appear, relative to the project root; none
    /// for the default, `out/PIPELINE/STEP` in the store's folder.
    pub out: Option<String>,
    /// How it runs; no part of its key.
    pub settings: Settings,
    /// The line of the file on which it starts, from 1.
    pub line: usize,
}

/// A checked pipeline: steps without cycles, each input wired to something
/// that exists in the pipeline or is outside of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// The pipeline's name.
    pub name: PipelineName,
    /// The pipeline's description.
    pub description: String,
    /// The pipeline's seed.
    pub seed: u64,
    /// Where the seed comes from.
    pub seed_source: ValueSource,
    /// The pools that steps may ask for, with their sizes.
    pub pools: BTreeMap<String, u64>,
    /// The folders that steps name for their outputs, in the order of the
    /// file, relative to the project root.
    pub outs: Vec<String>,
    /// Whether large outputs in place are the files of the store.
    pub hard_links: bool,
    /// The steps in the order of the file.
    pub nodes: Vec<Node>,
    order: Vec<StepId>,
    by_name: Vec<StepId>,
    upstream: Links,
    downstream: Links,
}

impl Graph {
    /// Checks a pipeline against the kinds of `registry`. Fails with
    /// everything that is wrong.
    pub fn build(pipeline: &Pipeline, registry: &Registry) -> Result<Graph, Diagnostics> {
        let mut faults = Vec::new();
        match build::build(pipeline, registry, &mut faults) {
            Some(graph) if faults.is_empty() => Ok(graph),
            _ => Err(Diagnostics::new(pipeline.source.clone(), faults)),
        }
    }

    /// Reads and checks a pipeline file in one go, so that the faults of both
    /// are reported together. The diagnostics beside a graph are warnings.
    pub fn load(
        source: Source,
        overrides: &Overrides,
        registry: &Registry,
    ) -> Result<(Graph, Diagnostics), Diagnostics> {
        let (pipeline, mut faults) = Pipeline::read(source, overrides)?;
        let graph = build::build(&pipeline, registry, &mut faults);
        let list = pipeline.warnings;
        match graph {
            Some(graph) if faults.is_empty() => {
                Ok((graph, Diagnostics::new(pipeline.source, list)))
            }
            _ => Err(Diagnostics::new(pipeline.source, faults)),
        }
    }

    /// The step behind an id of this graph.
    pub fn node(&self, id: StepId) -> &Node {
        &self.nodes[id.index()]
    }

    /// All ids, in the order of the file.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = StepId> + use<> {
        (0..self.nodes.len()).map(StepId::new)
    }

    /// All steps, each after the steps it reads from; where that leaves a
    /// choice, in the order of the file.
    pub fn order(&self) -> &[StepId] {
        &self.order
    }

    /// The steps that a step reads from, each once, in the order of the file.
    pub fn dependencies(&self, id: StepId) -> &[StepId] {
        self.upstream.of(id)
    }

    /// The steps that read from a step, each once, in the order of the file.
    pub fn dependents(&self, id: StepId) -> &[StepId] {
        self.downstream.of(id)
    }

    /// The step of that name.
    pub fn find(&self, name: &StepName) -> Option<StepId> {
        let found = self
            .by_name
            .binary_search_by(|&id| self.node(id).name.cmp(name));
        found.ok().map(|at| self.by_name[at])
    }

    /// The cells of the matrix of the step that the file calls `base`, in the
    /// matrix's order; nothing for a step without one.
    pub fn cells(&self, base: &str) -> Vec<StepId> {
        let prefix = format!("{base}[");
        let name = |id: &StepId| self.node(*id).name.as_str();
        let start = self.by_name.partition_point(|id| name(id) < &*prefix);
        let rest = self.by_name[start..].iter();
        let mut cells: Vec<StepId> = rest
            .take_while(|id| name(id).starts_with(&prefix))
            .copied()
            .collect();
        cells.sort_unstable();
        cells
    }

    /// The targets and every step that they need.
    pub fn closure(&self, targets: impl IntoIterator<Item = StepId>) -> StepSet {
        StepSet::reach(self.nodes.len(), targets, &self.upstream)
    }

    /// The given steps and every step that needs one of them.
    pub fn cone(&self, changed: impl IntoIterator<Item = StepId>) -> StepSet {
        StepSet::reach(self.nodes.len(), changed, &self.downstream)
    }
}

/// A set of the steps of one graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepSet(Vec<bool>);

impl StepSet {
    /// Of a graph of so many steps the given ones and all that links lead to.
    fn reach(steps: usize, from: impl IntoIterator<Item = StepId>, links: &Links) -> Self {
        let mut set = StepSet(vec![false; steps]);
        let mut waiting: Vec<StepId> = from.into_iter().collect();
        while let Some(id) = waiting.pop() {
            if !std::mem::replace(&mut set.0[id.index()], true) {
                waiting.extend_from_slice(links.of(id));
            }
        }
        set
    }

    /// Whether a step is in the set.
    pub fn contains(&self, id: StepId) -> bool {
        self.0.get(id.index()).copied().unwrap_or(false)
    }

    /// The steps in the set, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = StepId> {
        let member = |(index, &inside): (usize, &bool)| inside.then(|| StepId::new(index));
        self.0.iter().enumerate().filter_map(member)
    }

    /// How many steps are in the set.
    pub fn len(&self) -> usize {
        self.0.iter().filter(|&&inside| inside).count()
    }

    /// Whether no step is in the set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Parameters as JSON text, so that a format without self-description can hold them.
mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de, ser};

    use crate::step::Params;

    pub(super) fn serialize<S: Serializer>(params: &Params, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&serde_json::to_string(params).map_err(ser::Error::custom)?)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Params, D::Error> {
        serde_json::from_str(&String::deserialize(from)?).map_err(de::Error::custom)
    }
}
