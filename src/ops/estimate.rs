//! How long a build would take, by the times of earlier runs: the longest chain of steps, and a rehearsal of the schedule.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use serde::Serialize;

use crate::graph::{Graph, StepId};
use crate::pipeline::StepName;
use crate::plan::{PlannedStep, Verdict};

/// How long a build would take at most, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// From the beginning to the end, in milliseconds.
    pub millis: u64,
    /// All steps one after another.
    pub work_millis: u64,
    /// How many steps would run whose time is not known; they count as nothing.
    pub unknown: usize,
    /// The steps of the longest chain, first to last.
    pub chain: Vec<StepName>,
    /// How long that chain takes.
    pub chain_millis: u64,
}

/// Estimates, and marks the steps of the longest chain. None when no time is
/// known. `ids` are those of `steps`, in build order.
pub(super) fn estimate(
    graph: &Graph,
    ids: &[StepId],
    steps: &mut [PlannedStep],
    jobs: usize,
) -> Option<Estimate> {
    let mut times: Vec<Option<u64>> = vec![None; graph.nodes.len()];
    let mut known = false;
    let mut unknown = 0;
    for (id, step) in ids.iter().zip(&*steps) {
        if matches!(step.verdict, Verdict::Run { .. } | Verdict::Maybe { .. }) {
            known |= step.millis.is_some();
            unknown += usize::from(step.millis.is_none());
            times[id.index()] = Some(step.millis.unwrap_or(0));
        }
    }
    if !known {
        return None;
    }
    let below = below(graph, ids, &times);
    let chain = chain(graph, ids, &times, &below);
    for (id, step) in ids.iter().zip(steps.iter_mut()) {
        step.critical = chain.contains(id);
    }
    let name = |id: &StepId| graph.node(*id).name.clone();
    Some(Estimate {
        millis: rehearse(graph, ids, &times, &below, jobs.max(1)),
        work_millis: times.iter().flatten().sum(),
        unknown,
        chain_millis: chain.first().map_or(0, |id| below[id.index()]),
        chain: chain.iter().map(name).collect(),
    })
}

/// The time from the start of a step to the end of the longest chain below it.
fn below(graph: &Graph, ids: &[StepId], times: &[Option<u64>]) -> Vec<u64> {
    let mut below = vec![0; times.len()];
    for id in ids.iter().rev() {
        let dependents = graph.dependents(*id).iter();
        let longest = dependents.map(|d| below[d.index()]).max().unwrap_or(0);
        below[id.index()] = longest + times[id.index()].unwrap_or(0);
    }
    below
}

/// The longest chain of steps that would run; the first found of equals.
fn chain(graph: &Graph, ids: &[StepId], times: &[Option<u64>], below: &[u64]) -> Vec<StepId> {
    let runs = |id: &&StepId| times[id.index()].is_some();
    // Of equal ones the first: `max_by_key` would take the last.
    let longest = |ids: &mut dyn Iterator<Item = &StepId>| {
        ids.min_by_key(|id| Reverse(below[id.index()])).copied()
    };
    let mut chain = Vec::new();
    let mut next = longest(&mut ids.iter().filter(runs));
    while let Some(id) = next {
        chain.push(id);
        next = longest(&mut graph.dependents(id).iter().filter(runs));
    }
    chain
}

/// When the last step would end, with so many at once, the one with most
/// below it first, as the scheduler has it.
fn rehearse(
    graph: &Graph,
    ids: &[StepId],
    times: &[Option<u64>],
    below: &[u64],
    jobs: usize,
) -> u64 {
    let waits = |id: StepId| {
        let needed = graph.dependencies(id).iter();
        needed.filter(|up| times[up.index()].is_some()).count()
    };
    let mut waiting: Vec<usize> = vec![0; times.len()];
    let mut ready = BinaryHeap::new();
    for &id in ids.iter().filter(|id| times[id.index()].is_some()) {
        waiting[id.index()] = waits(id);
        if waiting[id.index()] == 0 {
            ready.push((below[id.index()], Reverse(id)));
        }
    }
    let mut running: BinaryHeap<Reverse<(u64, StepId)>> = BinaryHeap::new();
    let mut now = 0;
    loop {
        while running.len() < jobs
            && let Some((_, Reverse(id))) = ready.pop()
        {
            running.push(Reverse((now + times[id.index()].unwrap_or(0), id)));
        }
        let Some(Reverse((end, id))) = running.pop() else {
            return now;
        };
        now = end;
        for &next in graph.dependents(id) {
            let left = &mut waiting[next.index()];
            if times[next.index()].is_some() && *left > 0 {
                *left -= 1;
                if *left == 0 {
                    ready.push((below[next.index()], Reverse(next)));
                }
            }
        }
    }
}
