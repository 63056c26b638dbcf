//! Failing and stopping: what a failure does to the steps below, and how a run ends before all is done.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Stop;
use super::finish::last_lines;
use super::run::Run;
use super::state::{Change, State};
use crate::event::Event;
use crate::graph::StepId;
use crate::pipeline::StepName;
use crate::step::StepError;
use crate::store::{Key, Note, Store, StoreError};

/// Whether a run goes on.
pub(super) enum Stopping {
    No,
    /// A step failed and the others are not to be begun.
    Draining(StepId),
    /// Inputs changed: what is stale is stopped, and the others are not to be
    /// begun before another round. Names a step that changed.
    Recalled(StepName),
    /// The user asked; when the running ones are killed.
    Cancelled(Instant),
}

impl Run<'_, '_> {
    pub(super) fn fail(
        &mut self,
        id: StepId,
        error: StepError,
        log: Option<PathBuf>,
        key: Option<Key>,
    ) -> Result<(), StoreError> {
        let node = self.node(id);
        if let Some(key) = key {
            self.with
                .around
                .store
                .note(Note::Failed(self.step_ref(node), key))?;
        }
        self.change(id, Change::Fail);
        self.summary.failed += 1;
        self.emit(Event::StepFailed {
            step: node.name.clone(),
            error,
            log_tail: last_lines(log.as_deref()),
            log,
        });
        self.skip_below(id);
        if !self.with.options.keep_going && matches!(self.stopping, Stopping::No) {
            self.stopping = Stopping::Draining(id);
        }
        Ok(())
    }

    pub(super) fn skip_below(&mut self, failed: StepId) {
        for id in self.with.graph.cone([failed]).iter() {
            let state = self.states[id.index()];
            if id != failed && !state.is_final() && state != State::Running {
                self.skip(id, failed);
            }
        }
    }

    pub(super) fn skip(&mut self, id: StepId, failed: StepId) {
        self.change(id, Change::Skip);
        self.summary.skipped += 1;
        self.emit(Event::StepSkipped {
            step: self.node(id).name.clone(),
            because: self.node(failed).name.clone(),
        });
    }

    /// `changed` is the step whose change is the reason, if it is not the user.
    pub(super) fn cancel(&mut self, id: StepId, changed: Option<StepName>) {
        self.change(id, Change::Cancel);
        self.summary.cancelled += 1;
        let step = self.node(id).name.clone();
        self.emit(Event::StepCancelled { step, changed });
    }

    /// The store failed: nothing that still runs could be kept.
    pub(super) fn abandon(&mut self) {
        self.stop_all(Stop::Kill);
        // What finished before is worth a last attempt.
        let _ = self.with.around.store.commit();
    }

    fn stop_all(&mut self, how: Stop) {
        let flights = self.flights.iter_mut();
        flights.for_each(|(_, flight)| flight.stop(how));
    }

    pub(super) fn notice_cancel(&mut self) {
        let now = Instant::now();
        match self.stopping {
            Stopping::Cancelled(kill_at) if now >= kill_at => {
                self.stop_all(Stop::Kill);
            }
            Stopping::Cancelled(_) => {}
            _ if self.with.cancel.load(Ordering::Relaxed) => {
                let grace = self.with.options.grace;
                self.stopping = Stopping::Cancelled(now + grace);
                let grace = grace.as_secs_f64();
                self.emit(Event::Stopping { grace });
                self.stop_all(Stop::Ask);
            }
            _ => {}
        }
    }

    /// What was not begun when the run ended early.
    pub(super) fn close_the_rest(&mut self) {
        for &id in self.steps {
            if self.states[id.index()].is_final() {
                continue;
            }
            match &self.stopping {
                Stopping::Draining(failed) => self.skip(id, *failed),
                Stopping::Recalled(changed) => self.cancel(id, Some(changed.clone())),
                _ => self.cancel(id, None),
            }
        }
    }
}
