//! The states of a step in a run, and the one function for all transitions.

/// Where a step stands in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// This many of its inputs are not known yet.
    Waiting(u32),
    /// All its inputs are known; not yet decided.
    Ready,
    /// Decided to run; waits for a place.
    Queued,
    /// Its process runs.
    Running,
    /// An attempt failed; it waits for the time of the next one.
    Resting,
    /// It has its outputs, one way or another.
    Done,
    /// It ran, or tried to, and has no outputs.
    Failed,
    /// It was not tried because an input failed.
    Skipped,
    /// The run was stopped before it had its outputs.
    Cancelled,
}

/// What can happen to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// One more of its inputs is known.
    InputKnown,
    /// It was decided to run.
    Queue,
    /// An input changed while it waited for a place.
    Reconsider,
    /// Its process was started.
    Start,
    /// It failed and is tried again later.
    Rest,
    /// It has its outputs.
    Finish,
    /// It failed.
    Fail,
    /// One of its inputs failed.
    Skip,
    /// The run is being stopped.
    Cancel,
}

impl State {
    /// The state after `change`.
    ///
    /// # Panics
    /// On a change that cannot happen in this state: a fault in the scheduler.
    pub fn after(self, change: Change) -> State {
        use Change::*;
        use State::*;
        match (self, change) {
            (Waiting(1), InputKnown) => Ready,
            (Waiting(n), InputKnown) => Waiting(n - 1),
            (Ready | Resting, Queue) => Queued,
            (Queued, Reconsider) => Ready,
            (Queued, Start) => Running,
            (Running, Rest) => Resting,
            (Ready | Running, Finish) => Done,
            (Ready | Queued | Running, Fail) => Failed,
            (Waiting(_) | Ready | Queued | Resting, Skip) => Skipped,
            (Waiting(_) | Ready | Queued | Running | Resting, Cancel) => Cancelled,
            (state, change) => unreachable!("{change:?} cannot happen to a step that is {state:?}"),
        }
    }

    /// Whether nothing can happen to the step any more.
    pub fn is_final(self) -> bool {
        use State::*;
        matches!(self, Done | Failed | Skipped | Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::{Change::*, State::*};

    #[test]
    fn the_usual_ways_through() {
        let ran = [InputKnown, InputKnown, Queue, Start, Finish];
        let end = ran.into_iter().fold(Waiting(2), |s, c| s.after(c));
        assert_eq!(end, Done);
        assert_eq!(Ready.after(Finish), Done);
        assert_eq!(Waiting(3).after(Skip), Skipped);
        assert_eq!(Running.after(Cancel), Cancelled);
        let again = [Queue, Start, Rest, Queue, Start, Finish];
        assert_eq!(again.into_iter().fold(Ready, |s, c| s.after(c)), Done);
    }

    #[test]
    #[should_panic(expected = "cannot happen")]
    fn a_finished_step_cannot_start() {
        Done.after(Start);
    }
}
