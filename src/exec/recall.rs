//! Recalling: when a watch tells of a change, what it makes stale is stopped while the rest of a run goes on.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::Stop;
use super::run::Run;
use super::state::State;
use super::stop::Stopping;
use crate::event::Event;
use crate::graph::{Graph, Node, Origin, StepId};
use crate::pipeline::StepName;
use crate::plan::ResolvedInput;

/// Tells a run that what it reads may have changed since it began.
#[derive(Default)]
pub struct Recall {
    asked: Mutex<Option<Asked>>,
    /// Whether a step goes on whose input is again what it was.
    patient: bool,
    /// Whether the result of a step was lost to such an input.
    touched: AtomicBool,
}

#[derive(Default)]
struct Asked {
    /// The pipeline as it is now; none if it cannot be read at the moment.
    now: Option<Graph>,
}

impl Recall {
    /// For a round after one that lost the result of a step because an input of
    /// it had been written to without being another one now: it may be the step
    /// that writes there, and would be stopped for ever.
    pub fn patient() -> Self {
        Recall {
            patient: true,
            ..Recall::default()
        }
    }

    /// Whether the result of a step was lost because of such an input.
    pub fn touched(&self) -> bool {
        self.touched.load(Ordering::Relaxed)
    }

    pub(super) fn note_touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    /// Asks the run to look at its inputs again, and to compare its graph with
    /// what the pipeline file says now.
    pub fn ask(&self, now: Option<Graph>) {
        let mut asked = self.asked.lock().unwrap_or_else(|e| e.into_inner());
        let before = asked.take().and_then(|asked| asked.now);
        *asked = Some(Asked {
            now: now.or(before),
        });
    }

    fn take(&self) -> Option<Asked> {
        self.asked.lock().unwrap_or_else(|e| e.into_inner()).take()
    }
}

/// Why and until when a running step is stopped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recalled {
    /// The stale step: itself, or one above it.
    pub(super) by: StepId,
    /// When it is killed.
    kill_at: Instant,
}

impl Run<'_, '_> {
    /// Stops the running steps that are stale, and begins no more if any step
    /// is: the run ends when the others have.
    pub(super) fn notice_recall(&mut self) {
        let now = Instant::now();
        for (_, flight) in &mut self.flights {
            if flight.recalled.is_some_and(|it| now >= it.kill_at) {
                flight.stop(Stop::Kill);
            }
        }
        let Some(asked) = self.with.recall.and_then(Recall::take) else {
            return;
        };
        let stale = self.stale(asked.now.as_ref());
        let new = asked.now.and_then(|now| new_step(self.with.graph, &now));
        let first = stale.first().map(|id| self.node(*id).name.clone());
        let Some(changed) = first.or(new) else { return };
        let is_news = matches!(self.stopping, Stopping::No);
        if is_news {
            self.stopping = Stopping::Recalled(changed);
        }
        let stopped = self.recall_flights(&stale, now);
        if is_news || !stopped.is_empty() {
            self.tell_recall(&stopped);
        }
    }

    /// Asks those to stop that are stale or below a stale step, once.
    fn recall_flights(&mut self, stale: &BTreeSet<StepId>, now: Instant) -> Vec<StepId> {
        let kill_at = now + self.with.options.grace;
        let mut stopped = Vec::new();
        for (id, flight) in &mut self.flights {
            if flight.recalled.is_none()
                && let Some(by) = nearest_above(self.with.graph, *id, stale)
            {
                flight.recalled = Some(Recalled { by, kill_at });
                flight.stop(Stop::Ask);
                stopped.push(*id);
            }
        }
        stopped
    }

    fn tell_recall(&mut self, stopped: &[StepId]) {
        let going_on = self.flights.iter();
        let going_on = going_on.filter(|(_, flight)| flight.recalled.is_none());
        let going_on: Vec<StepId> = going_on.map(|(id, _)| *id).collect();
        let mut message = "inputs changed, and the build starts anew".to_owned();
        for (what, ids) in [("stopped", stopped), ("going on first", &going_on)] {
            if !ids.is_empty() {
                let names: Vec<&str> = ids.iter().map(|id| self.node(*id).name.as_str()).collect();
                message.push_str(&format!("; {what}: {}", names.join(", ")));
            }
        }
        self.emit(Event::Warning { message });
    }

    /// The steps that are other ones now, and those that were decided from
    /// what is not so any more. One that waits for its turn is none: it is
    /// looked at once more when it starts.
    fn stale(&self, now: Option<&Graph>) -> BTreeSet<StepId> {
        let graph = self.with.graph;
        let is_other = |id: StepId| {
            let same = |now: &Graph| is_same(graph, graph.node(id), now);
            !now.is_none_or(same)
        };
        let is_stale = |id: &StepId| {
            is_other(*id)
                || self
                    .decided_from(*id)
                    .is_some_and(|inputs| self.changed(*id, inputs))
                || self.is_touched(*id)
        };
        self.steps.iter().copied().filter(is_stale).collect()
    }

    /// The inputs that a step has its outputs from, runs with, or failed with
    /// and is to be tried again.
    fn decided_from(&self, id: StepId) -> Option<&[ResolvedInput]> {
        match self.states[id.index()] {
            State::Done => Some(&self.planner.settled(id)?.inputs),
            State::Running => {
                let (_, flight) = self.flights.iter().find(|(other, _)| *other == id)?;
                Some(&flight.decided.inputs)
            }
            State::Resting => Some(&self.queue.as_ref()?.decided(id)?.inputs),
            _ => None,
        }
    }

    /// Whether a running step may have read what is not there any more.
    fn is_touched(&self, id: StepId) -> bool {
        let flight = self.flights.iter().find(|(other, _)| *other == id);
        let Some((recall, (_, flight))) = self.with.recall.zip(flight) else {
            return false;
        };
        let is_touched = !recall.patient
            && flight.recalled.is_none()
            && self
                .planner
                .inputs(id)
                .is_ok_and(|now| self.touched(flight, &now).is_some());
        if is_touched {
            recall.note_touch();
        }
        is_touched
    }

    /// Whether what is behind a step's inputs is not what it was.
    fn changed(&self, id: StepId, inputs: &[ResolvedInput]) -> bool {
        self.planner.inputs(id).map_or(true, |now| now != *inputs)
    }
}

/// A step that `now` has and `before` has not.
fn new_step(before: &Graph, now: &Graph) -> Option<StepName> {
    let is_new = |node: &&Node| before.find(&node.name).is_none();
    now.nodes.iter().find(is_new).map(|node| node.name.clone())
}

/// Whether a step of one graph would do the same in another, with the same inputs.
fn is_same(before: &Graph, old: &Node, now: &Graph) -> bool {
    let Some(id) = now.find(&old.name) else {
        return false;
    };
    let new = now.node(id);
    let inputs = |graph: &Graph, node: &Node| -> Vec<_> {
        let from = |from: &Origin| match from {
            Origin::Step { step, output } => Err((graph.node(*step).name.clone(), *output)),
            other => Ok(other.clone()),
        };
        let inputs = node.inputs.iter();
        inputs
            .map(|input| (input.port.clone(), input.label.clone(), from(&input.from)))
            .collect()
    };
    (&old.kind, old.version, &old.params) == (&new.kind, new.version, &new.params)
        && (&old.outputs, &old.environment, &old.out) == (&new.outputs, &new.environment, &new.out)
        && inputs(before, old) == inputs(now, new)
}

/// The step itself or the nearest one above it that is among `steps`.
fn nearest_above(graph: &Graph, id: StepId, steps: &BTreeSet<StepId>) -> Option<StepId> {
    let mut seen = BTreeSet::from([id]);
    let mut level = vec![id];
    while !level.is_empty() {
        if let Some(found) = level.iter().find(|id| steps.contains(id)) {
            return Some(*found);
        }
        let above = level.iter().flat_map(|id| graph.dependencies(*id));
        level = above.copied().filter(|id| seen.insert(*id)).collect();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_told_once() {
        let recall = Recall::default();
        assert!(recall.take().is_none());
        recall.ask(None);
        recall.ask(None);
        assert!(recall.take().is_some());
        assert!(recall.take().is_none());
    }
}
