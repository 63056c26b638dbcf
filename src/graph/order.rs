//! Cycles and the order of the steps, on petgraph; neighbours as two flat arrays.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use serde::{Deserialize, Serialize};

use super::StepId;

/// For every step a sorted list of others, one after the other in one array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Links {
    /// Where each step's list ends in `targets`.
    ends: Vec<u32>,
    targets: Vec<StepId>,
}

impl Links {
    /// From pairs that are sorted and of which none occurs twice.
    fn new(steps: usize, pairs: &[(StepId, StepId)]) -> Self {
        let mut ends = vec![0; steps];
        for (from, _) in pairs {
            ends[from.index()] += 1;
        }
        let mut total = 0;
        for end in &mut ends {
            total += *end;
            *end = total;
        }
        let targets = pairs.iter().map(|&(_, to)| to).collect();
        Links { ends, targets }
    }

    /// The links among the steps at `kept`, which is sorted, as they are
    /// numbered there.
    pub(super) fn among(&self, kept: &[StepId]) -> Self {
        let mut pairs = Vec::new();
        for (new, id) in kept.iter().enumerate() {
            let to = self.of(*id).iter().filter_map(|to| place(kept, *to));
            pairs.extend(to.map(|to| (StepId::new(new), to)));
        }
        Links::new(kept.len(), &pairs)
    }

    /// Of how many steps these are the links.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn of(&self, id: StepId) -> &[StepId] {
        let start = match id.index() {
            0 => 0,
            index => self.ends[index - 1] as usize,
        };
        &self.targets[start..self.ends[id.index()] as usize]
    }
}

/// The place of a step in a sorted list, as the number of a step there.
pub(super) fn place(kept: &[StepId], id: StepId) -> Option<StepId> {
    kept.binary_search(&id).ok().map(StepId::new)
}

/// The steps in an order in which they can run, and who needs whom.
pub(super) struct Order {
    pub order: Vec<StepId>,
    pub upstream: Links,
    pub downstream: Links,
}

/// Orders `steps` steps of which, for each pair, the first reads from the
/// second. Fails with one shortest cycle for each group of steps that need
/// each other; a cycle lists each step before the one it reads from.
pub(super) fn order(
    steps: usize,
    mut needs: Vec<(StepId, StepId)>,
) -> Result<Order, Vec<Vec<StepId>>> {
    needs.sort_unstable();
    needs.dedup();
    let edges = needs.iter().map(|&(step, from)| (from.0, step.0));
    let mut graph = DiGraph::<(), (), u32>::with_capacity(steps, needs.len());
    for _ in 0..steps {
        graph.add_node(());
    }
    graph.extend_with_edges(edges);
    let order = topological(&graph);
    if order.len() < steps {
        return Err(cycles(&graph));
    }
    let upstream = Links::new(steps, &needs);
    let mut feeds: Vec<_> = needs.into_iter().map(|(step, from)| (from, step)).collect();
    feeds.sort_unstable();
    Ok(Order {
        order,
        upstream,
        downstream: Links::new(steps, &feeds),
    })
}

/// Always the first step of the file that is ready (Kahn's algorithm with a
/// heap); shorter than the graph when that has a cycle.
fn topological(graph: &DiGraph<(), (), u32>) -> Vec<StepId> {
    let mut waits_for: Vec<usize> = graph
        .node_indices()
        .map(|node| graph.neighbors_directed(node, petgraph::Incoming).count())
        .collect();
    let mut ready: BinaryHeap<Reverse<NodeIndex<u32>>> = graph
        .node_indices()
        .filter(|node| waits_for[node.index()] == 0)
        .map(Reverse)
        .collect();
    let mut order = Vec::with_capacity(graph.node_count());
    while let Some(Reverse(node)) = ready.pop() {
        order.push(StepId::new(node.index()));
        for next in graph.neighbors(node) {
            waits_for[next.index()] -= 1;
            if waits_for[next.index()] == 0 {
                ready.push(Reverse(next));
            }
        }
    }
    order
}

/// One shortest cycle through the first step of every strongly connected
/// component. (Kosaraju's algorithm: petgraph's version does not recurse, so
/// that a long chain does not exhaust the stack.)
fn cycles(graph: &DiGraph<(), (), u32>) -> Vec<Vec<StepId>> {
    let mut cycles: Vec<Vec<StepId>> = kosaraju_scc(graph)
        .into_iter()
        .filter_map(|component| shortest_cycle(graph, &component))
        .collect();
    cycles.sort_unstable();
    cycles
}

/// Walks from the component's first step to what it reads from, breadth first,
/// until the step comes up again.
fn shortest_cycle(
    graph: &DiGraph<(), (), u32>,
    component: &[NodeIndex<u32>],
) -> Option<Vec<StepId>> {
    let inside: BTreeSet<_> = component.iter().copied().collect();
    let first = *inside.first()?;
    let mut came_from = std::collections::BTreeMap::new();
    let mut waiting = VecDeque::from([first]);
    while let Some(node) = waiting.pop_front() {
        let mut needed: Vec<_> = graph
            .neighbors_directed(node, petgraph::Incoming)
            .filter(|needed| inside.contains(needed))
            .collect();
        needed.sort_unstable();
        if needed.contains(&first) {
            let mut cycle = vec![node];
            let mut at = node;
            while let Some(&previous) = came_from.get(&at) {
                cycle.push(previous);
                at = previous;
            }
            cycle.reverse();
            return Some(cycle.iter().map(|node| StepId::new(node.index())).collect());
        }
        for next in needed {
            if next != first && !came_from.contains_key(&next) {
                came_from.insert(next, node);
                waiting.push_back(next);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: &[usize]) -> Vec<StepId> {
        numbers.iter().copied().map(StepId::new).collect()
    }

    fn pairs(pairs: &[(usize, usize)]) -> Vec<(StepId, StepId)> {
        let id = StepId::new;
        pairs.iter().map(|&(a, b)| (id(a), id(b))).collect()
    }

    #[test]
    fn ties_follow_the_file() {
        let order = order(5, pairs(&[(0, 4), (2, 4), (2, 4), (1, 0)]))
            .ok()
            .unwrap();
        assert_eq!(order.order, ids(&[3, 4, 0, 1, 2]));
        assert_eq!(order.upstream.of(StepId::new(2)), ids(&[4]));
        assert_eq!(order.downstream.of(StepId::new(4)), ids(&[0, 2]));
        assert_eq!(order.downstream.of(StepId::new(3)), ids(&[]));
    }

    #[test]
    fn a_cycle_is_listed_from_reader_to_read() {
        // 1 reads from 2, 2 from 3, 3 from 1; 0 reads from the cycle.
        let cycle = order(4, pairs(&[(0, 1), (1, 2), (2, 3), (3, 1)]))
            .err()
            .unwrap();
        assert_eq!(cycle, vec![ids(&[1, 2, 3])]);
        let own = order(2, pairs(&[(1, 1)])).err().unwrap();
        assert_eq!(own, vec![ids(&[1])]);
        let two = order(4, pairs(&[(0, 1), (1, 0), (2, 3), (3, 2)]))
            .err()
            .unwrap();
        assert_eq!(two, vec![ids(&[0, 1]), ids(&[2, 3])]);
    }

    #[test]
    fn a_long_cycle_does_not_exhaust_the_stack() {
        let steps = 200_000;
        let ring: Vec<_> = (0..steps).map(|i| (i, (i + 1) % steps)).collect();
        let cycle = order(steps, pairs(&ring)).err().unwrap();
        assert_eq!(cycle[0].len(), steps);
    }
}
