//! The queue: steps that are to run, those that rest before another attempt, and what each is given.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::admit::{Admission, Rank};
use super::machine::Machine;
use super::run::{Run, RunError, Runner};
use super::state::Change;
use crate::event::{Event, FailedAttempt};
use crate::graph::StepId;
use crate::pipeline::StepName;
use crate::plan::Decided;
use crate::step::Grant;
use crate::store::Key;

/// What a step is assumed to take that never ran.
const UNKNOWN_MILLIS: u64 = 1000;

/// Steps that are to run.
pub(super) struct Queue {
    pub(super) machine: Machine,
    admission: Admission<StepId>,
    /// Their way to the end of the graph, in milliseconds.
    weights: Vec<u64>,
    decided: BTreeMap<StepId, Decided>,
    /// Attempts that failed, of steps that are tried again.
    failed: BTreeMap<StepId, Vec<FailedAttempt>>,
    /// Until when steps rest before another attempt.
    resting: Vec<(Instant, StepId)>,
    /// Steps that would do what a running one is doing, with its key.
    twins: Vec<(Key, StepId)>,
    /// Whether it is known that nothing asks for more than there is.
    possible: bool,
}

/// A step that asks for more than there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impossible {
    /// The step.
    pub step: StepName,
    /// The line of the file that asks for it, from 1.
    pub line: usize,
    /// What it asks for, and what there is.
    pub lacks: Vec<String>,
}

impl Queue {
    pub(super) fn new(with: &Runner<'_>, steps: &[StepId]) -> Self {
        let nodes = steps.iter().map(|id| with.graph.node(*id));
        let with_gpus = nodes.clone().any(|node| {
            let first = &node.settings.resources.gpus;
            let later = node
                .settings
                .retry
                .as_ref()
                .map(|retry| retry.resources.gpus);
            !first.is_none() || later.is_some_and(|gpus| !gpus.is_none())
        });
        let machine = Machine::look(
            &with.options.limits,
            with.graph.pools.clone(),
            with_gpus,
            with.around.environment,
        );
        Queue {
            admission: Admission::new(machine.capacity.clone()),
            machine,
            weights: weights(with, steps),
            decided: BTreeMap::new(),
            failed: BTreeMap::new(),
            resting: Vec::new(),
            twins: Vec::new(),
            possible: false,
        }
    }

    /// Which attempt of a step is the next one, from 1.
    pub(super) fn attempt(&self, id: StepId) -> u32 {
        1 + self.failed_attempts(id).len() as u32
    }

    /// The attempts of a step that failed in this run.
    pub(super) fn failed_attempts(&self, id: StepId) -> &[FailedAttempt] {
        self.failed.get(&id).map_or(&[], |failed| failed)
    }

    /// What was decided of a step that waits for its turn, or rests.
    pub(super) fn decided(&self, id: StepId) -> Option<&Decided> {
        self.decided.get(&id)
    }

    /// Gives back what a step was given.
    pub(super) fn release(&mut self, id: StepId) {
        self.admission.release(id);
    }

    /// How long until a step has rested enough; none when none rests.
    pub(super) fn next_wake(&self) -> Option<Duration> {
        let first = self.resting.iter().map(|(until, _)| *until).min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }
}

impl Run<'_, '_> {
    pub(super) fn queue(&mut self) -> &mut Queue {
        if self.queue.is_none() {
            let mut queue = Queue::new(self.with, self.steps);
            if let Some(message) = queue.machine.warning.take() {
                self.emit(Event::Warning { message });
            }
            self.queue = Some(queue);
        }
        self.queue.as_mut().expect("made above")
    }

    /// A step is to run as soon as it has its turn.
    pub(super) fn enqueue(&mut self, id: StepId, decided: Decided) {
        self.change(id, Change::Queue);
        let settings = &self.node(id).settings;
        let queue = self.queue();
        let rank = Rank {
            priority: settings.priority,
            weight: queue.weights[id.index()],
            order: std::cmp::Reverse(id.index()),
        };
        let asked = settings.resources(queue.attempt(id));
        queue.decided.insert(id, decided);
        queue.admission.offer(id, rank, &asked);
    }

    /// The next step to start, with what it was decided and is given.
    pub(super) fn next_queued(&mut self) -> Result<Option<(StepId, Decided, Grant)>, RunError> {
        if self.queue.is_none() {
            return Ok(None);
        }
        self.refuse_the_impossible()?;
        let flying = &self.flights;
        let Some(queue) = &mut self.queue else {
            return Ok(None);
        };
        while let Some((id, grant)) = queue.admission.next() {
            let Some(decided) = queue.decided.remove(&id) else {
                queue.admission.release(id);
                continue;
            };
            if !flying
                .iter()
                .any(|(_, flight)| flight.decided.key == decided.key)
            {
                return Ok(Some((id, decided, grant)));
            }
            // It will have the result of the other one.
            queue.admission.release(id);
            queue.twins.push((decided.key, id));
        }
        Ok(None)
    }

    /// Before anything runs: whether all that may run can ever run here.
    fn refuse_the_impossible(&mut self) -> Result<(), RunError> {
        let Some(queue) = self.queue.as_mut().filter(|queue| !queue.possible) else {
            return Ok(());
        };
        queue.possible = true;
        let open = self
            .steps
            .iter()
            .filter(|id| !self.states[id.index()].is_final());
        let impossible: Vec<Impossible> = open
            .filter_map(|id| impossible(self.with, queue, *id))
            .collect();
        match impossible.is_empty() {
            true => Ok(()),
            false => Err(RunError::Impossible(impossible)),
        }
    }

    /// A step rests before it is tried again.
    pub(super) fn rest(
        &mut self,
        id: StepId,
        decided: Decided,
        failed: FailedAttempt,
        wait: Duration,
    ) {
        self.change(id, Change::Rest);
        let queue = self.queue();
        queue.failed.entry(id).or_default().push(failed);
        queue.decided.insert(id, decided);
        let now = Instant::now();
        let until = now
            .checked_add(wait)
            .unwrap_or(now + Duration::from_secs(1 << 31));
        queue.resting.push((until, id));
    }

    /// Queues the steps that have rested enough.
    pub(super) fn wake_rested(&mut self) {
        let Some(queue) = &mut self.queue else { return };
        let now = Instant::now();
        let (awake, resting): (Vec<_>, Vec<_>) = std::mem::take(&mut queue.resting)
            .into_iter()
            .partition(|(until, _)| *until <= now);
        queue.resting = resting;
        for (_, id) in awake {
            if let Some(decided) = self.queue().decided.remove(&id) {
                self.enqueue(id, decided);
            }
        }
    }

    /// A running step has ended: what it was given is free, and its twins are
    /// looked at again.
    pub(super) fn landed(&mut self, id: StepId, key: Key) {
        let queue = self.queue();
        queue.release(id);
        let (twins, others): (Vec<_>, Vec<_>) = std::mem::take(&mut queue.twins)
            .into_iter()
            .partition(|(other, _)| *other == key);
        queue.twins = others;
        for (_, twin) in twins {
            self.reconsider(twin);
        }
    }

    /// A queued step is to be decided again.
    pub(super) fn reconsider(&mut self, id: StepId) {
        self.change(id, Change::Reconsider);
        self.ready.push_back(id);
    }
}

fn impossible(with: &Runner<'_>, queue: &Queue, id: StepId) -> Option<Impossible> {
    let node = with.graph.node(id);
    let mut lacks = queue.machine.capacity.lacks(&node.settings.resources);
    if let Some(retry) = &node.settings.retry {
        let mut later = retry.resources.clone();
        if node.settings.memory_is_grown() {
            // Grows up to the machine's.
            later.memory = later.memory.min(queue.machine.capacity.memory);
        }
        let later = queue.machine.capacity.lacks(&later);
        let new = later.into_iter().filter(|lack| !lacks.contains(lack));
        let new: Vec<String> = new
            .map(|lack| format!("{lack} (when tried again)"))
            .collect();
        lacks.extend(new);
    }
    (!lacks.is_empty()).then(|| Impossible {
        step: node.name.clone(),
        line: node.settings.resources_line.unwrap_or(node.line),
        lacks,
    })
}

/// How long the longest way from each step to the end of the graph takes, by
/// the times of earlier runs.
fn weights(with: &Runner<'_>, steps: &[StepId]) -> Vec<u64> {
    let graph = with.graph;
    let mut weights = vec![0; graph.nodes.len()];
    for &id in steps.iter().rev() {
        let below = graph.dependents(id).iter().map(|d| weights[d.index()]);
        weights[id.index()] = below.max().unwrap_or(0) + duration(with, id);
    }
    weights
}

fn duration(with: &Runner<'_>, id: StepId) -> u64 {
    let (pipeline, step) = (with.graph.name.as_str(), with.graph.node(id).name.as_str());
    with.around.store.with_index(|index| {
        let key = index.step(pipeline, step).and_then(|state| state.current);
        let entry = key.and_then(|key| index.entry(&key));
        entry.map_or(UNKNOWN_MILLIS, |entry| entry.millis.max(1))
    })
}
