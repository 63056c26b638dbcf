//! A graph as bytes, of which the part that a change may reach can be read without the rest.
//!
//! Behind an outline (postcard) of everything but the steps, with the place
//! where each step ends, the steps follow in the order of the file (postcard).

use std::collections::BTreeMap;

use super::order::{Links, place};
use super::{Graph, Node, Origin, StepId, StepSet};
use crate::pipeline::{PipelineName, StepName, ValueSource};

/// Name, description, seed and where it comes from; pools, output folders, hard
/// links; order, order by name, upstream, downstream; where each step ends.
type Outline = (
    (PipelineName, String, u64, ValueSource),
    (BTreeMap<String, u64>, Vec<String>, bool),
    (Vec<StepId>, Vec<StepId>, Links, Links),
    Vec<u32>,
);

/// The outline of some bytes and the bytes of the steps.
struct Kept<'a> {
    outline: Outline,
    steps: &'a [u8],
}

impl Graph {
    /// The graph as bytes; none where it holds something that cannot be
    /// written, or more than 4 GiB.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let mut steps = Vec::new();
        let mut ends = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            steps = postcard::to_extend(node, steps).ok()?;
            ends.push(u32::try_from(steps.len()).ok()?);
        }
        let outline = (
            (&self.name, &self.description, self.seed, &self.seed_source),
            (&self.pools, &self.outs, self.hard_links),
            (&self.order, &self.by_name, &self.upstream, &self.downstream),
            ends,
        );
        let mut bytes = postcard::to_stdvec(&outline).ok()?;
        bytes.append(&mut steps);
        Some(bytes)
    }

    /// The graph of [`Graph::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Graph> {
        let kept = Kept::from_bytes(bytes)?;
        let ids = (0..kept.outline.3.len()).map(StepId::new);
        let nodes = ids.map(|id| kept.node(id)).collect::<Option<_>>()?;
        Some(kept.graph(nodes))
    }

    /// Of the graph of [`Graph::to_bytes`] the named steps, those below them,
    /// and those that these read from, the last without their inputs; ids are
    /// those of the part. None where a step is not in the graph.
    pub fn part_from_bytes(bytes: &[u8], named: &[StepName]) -> Option<Graph> {
        let kept = Kept::from_bytes(bytes)?;
        let named: Option<Vec<StepId>> = named.iter().map(|name| kept.find(name)).collect();
        let (reached, part) = kept.reach(named?)?;
        let mut nodes = Vec::with_capacity(part.len());
        for &id in &part {
            let mut node = kept.node(id)?;
            if !reached.contains(id) {
                node.inputs.clear();
            }
            for input in &mut node.inputs {
                if let Origin::Step { step, .. } = &mut input.from {
                    *step = place(&part, *step)?;
                }
            }
            nodes.push(node);
        }
        let part_of = |ids: &[StepId]| ids.iter().filter_map(|id| place(&part, *id)).collect();
        let graph = kept.graph(nodes);
        Some(Graph {
            order: part_of(&graph.order),
            by_name: part_of(&graph.by_name),
            upstream: graph.upstream.among(&part),
            downstream: graph.downstream.among(&part),
            ..graph
        })
    }
}

impl<'a> Kept<'a> {
    fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        let (outline, steps) = postcard::take_from_bytes::<Outline>(bytes).ok()?;
        Some(Kept { outline, steps })
    }

    /// The outline with these steps.
    fn graph(self, nodes: Vec<Node>) -> Graph {
        let ((name, description, seed, seed_source), settings, links, _) = self.outline;
        let (pools, outs, hard_links) = settings;
        let (order, by_name, upstream, downstream) = links;
        Graph {
            name,
            description,
            seed,
            seed_source,
            pools,
            outs,
            hard_links,
            nodes,
            order,
            by_name,
            upstream,
            downstream,
        }
    }

    /// The bytes of a step.
    fn bytes(&self, id: StepId) -> Option<&'a [u8]> {
        let ends = &self.outline.3;
        let start = match id.index() {
            0 => 0,
            index => *ends.get(index - 1)?,
        };
        self.steps
            .get(start as usize..*ends.get(id.index())? as usize)
    }

    fn node(&self, id: StepId) -> Option<Node> {
        postcard::from_bytes(self.bytes(id)?).ok()
    }

    /// The step of that name, which is what a step begins with.
    fn find(&self, name: &StepName) -> Option<StepId> {
        let by_name = &self.outline.2.1;
        let name_of = |id: &StepId| {
            let name = postcard::take_from_bytes::<&str>(self.bytes(*id)?);
            Some(name.ok()?.0)
        };
        let found = by_name.binary_search_by(|id| name_of(id).cmp(&Some(name.as_str())));
        Some(by_name[found.ok()?])
    }

    /// The given steps with those below them; and these with those that they
    /// read from, in the order of the file.
    fn reach(&self, named: Vec<StepId>) -> Option<(StepSet, Vec<StepId>)> {
        let steps = self.outline.3.len();
        let (_, _, upstream, downstream) = &self.outline.2;
        if upstream.len() != steps || downstream.len() != steps {
            return None;
        }
        let reached = StepSet::reach(steps, named, downstream);
        let mut part: Vec<StepId> = reached.iter().collect();
        part.extend(reached.iter().flat_map(|id| upstream.of(id)));
        part.sort_unstable();
        part.dedup();
        Some((reached, part))
    }
}
