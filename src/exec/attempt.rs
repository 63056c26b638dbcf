//! Attempts: how long one may take, and whether another follows one that failed.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::Stop;
use super::finish::last_lines;
use super::run::{Ended, Flight, Run};
use super::stop::Stopping;
use crate::event::{Event, FailedAttempt};
use crate::graph::StepId;
use crate::step::StepError;
use crate::store::{Note, Store, StoreError};

/// How long an attempt may take, and what was done about it.
#[derive(Debug)]
pub(super) struct TimeLimit {
    limit: Option<Duration>,
    /// When it is over; none if that is never.
    over: Option<Instant>,
    /// When the step is killed that was asked to stop.
    kill: Option<Instant>,
}

impl TimeLimit {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        TimeLimit {
            limit,
            over: limit.and_then(|limit| Instant::now().checked_add(limit)),
            kill: None,
        }
    }

    /// What is to be done now.
    fn check(&mut self, now: Instant, grace: Duration) -> Option<Stop> {
        match (self.over, self.kill) {
            (_, Some(kill)) => (now >= kill).then_some(Stop::Kill),
            (Some(over), None) if now >= over => {
                self.kill = Some(now + grace);
                Some(Stop::Ask)
            }
            _ => None,
        }
    }

    /// The error of a step that was asked to stop for it.
    pub(super) fn exceeded(&self) -> Option<StepError> {
        let limit = self.limit.filter(|_| self.kill.is_some())?;
        let limit = jiff::SignedDuration::try_from(limit).unwrap_or(jiff::SignedDuration::MAX);
        let message = format!("it took longer than its timeout of {limit:#} and was stopped");
        Some(StepError::new(message))
    }
}

impl Run<'_, '_> {
    /// Stops the steps whose time is over.
    pub(super) fn notice_time_limits(&mut self) {
        let (now, grace) = (Instant::now(), self.with.options.grace);
        for (_, flight) in &mut self.flights {
            // How long its outputs take to take in is not its own time.
            if !flight.over.load(Ordering::Acquire)
                && let Some(stop) = flight.limit.check(now, grace)
            {
                flight.stop(stop);
            }
        }
    }

    /// An attempt failed: the step is tried again, or that was it.
    pub(super) fn failed(
        &mut self,
        id: StepId,
        flight: Flight,
        ended: &Ended,
        error: StepError,
        log: Option<PathBuf>,
    ) -> Result<(), StoreError> {
        let (node, key) = (self.node(id), flight.decided.key);
        let attempt = self.queue().attempt(id);
        let wait = node.settings.wait_after(attempt);
        let again = matches!(self.stopping, Stopping::No) && !ended.result.refused;
        let Some(wait) = wait.filter(|_| again) else {
            return self.fail(id, error, log, Some(key));
        };
        let store = self.with.around.store;
        store.note(Note::Failed(self.step_ref(node), key))?;
        let log = log.map(|log| set_apart(log, attempt));
        self.emit(Event::StepRetried {
            step: node.name.clone(),
            attempt,
            attempts: node.settings.attempts(),
            error: error.clone(),
            wait: wait.as_secs_f64(),
            log_tail: last_lines(log.as_deref()),
            log,
        });
        let since = flight.started.duration_since(UNIX_EPOCH);
        let failed = FailedAttempt {
            error,
            started_ms: since.map_or(0, |d| d.as_millis() as u64),
            millis: ended.millis,
            resources: flight.grant,
        };
        self.rest(id, flight.decided, failed, wait);
        Ok(())
    }
}

/// Less than this free is a full disk: a message would need a block of it.
const FULL: u64 = 4096;

/// Says that what the program said is lost, where its log could not be kept: it
/// has none because there was no room for one, or it could not be moved.
pub(super) fn log_lost(error: &mut StepError, log: &Path, cache: &Path) {
    let free = rustix::fs::statvfs(cache).map(|disk| disk.f_bavail * disk.f_frsize);
    let full = free.is_ok_and(|free| free < FULL);
    let has_log = std::fs::metadata(log).is_ok_and(|log| log.len() > 0);
    if !full && !has_log {
        return;
    }
    let why = if full {
        ": no space is left on the disk of "
    } else {
        " in "
    };
    let cause = format!("its log could not be kept{why}{}", cache.display());
    error.causes.push(cause);
    let hint = "free some space and build again";
    error.hint.get_or_insert_with(|| hint.to_owned());
}

/// Gives the log of an attempt a name that the next one's does not have:
/// `STEP.attempt-1.log`.
fn set_apart(log: PathBuf, attempt: u32) -> PathBuf {
    let apart = log.with_extension(format!("attempt-{attempt}.log"));
    match crate::files::rename(&log, &apart) {
        Ok(()) => apart,
        // The next attempt's log will replace it, and that is all.
        Err(_) => log,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_asked_once_and_killed_after_the_grace_period() {
        let (second, grace) = (Duration::from_secs(1), Duration::from_secs(5));
        let mut limit = TimeLimit::new(Some(second));
        let start = limit.over.unwrap() - second;
        assert_eq!(limit.check(start, grace), None);
        assert!(limit.exceeded().is_none());
        assert_eq!(limit.check(start + second, grace), Some(Stop::Ask));
        assert_eq!(limit.check(start + second * 2, grace), None);
        assert_eq!(limit.check(start + second * 6, grace), Some(Stop::Kill));
        assert!(limit.exceeded().unwrap().message.contains("of 1s and"));
        let never = TimeLimit::new(None).check(start + second * 1_000_000, grace);
        assert_eq!(never, None);
    }
}
