//! The decision: what has to be done for a step whose inputs are known.

use super::verdict::{Reason, Verdict};
use crate::store::{Key, StepState};

/// Everything a decision rests on.
#[derive(Debug)]
pub struct Standing<'a> {
    /// The key for the inputs and parameters as they are now.
    pub key: Key,
    /// Whether the user asked for the step to run.
    pub forced: bool,
    /// Where the step stood after it last ran or was restored.
    pub state: Option<&'a StepState>,
    /// What the store has for `key`.
    pub stored: Stored,
    /// What is on disk where the outputs of `key` belong.
    pub outputs: Vec<Fault>,
}

/// What the store has for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// All outputs.
    Whole,
    /// An entry, but this output's objects are missing or damaged.
    Lost(String),
    /// Nothing.
    Nothing,
}

/// An output that is not what it should be; the path is relative to the project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is there.
    Missing(String),
    /// Something else is there.
    Edited(String),
}

/// Decides. Pure, and shared by the dry run and the executor.
///
/// `differences` compares the key's manifest with that of the step's last
/// result; it is asked only when the key is not the current one.
pub fn decide(standing: &Standing<'_>, differences: impl FnOnce() -> Vec<Reason>) -> Verdict {
    if standing.forced {
        return Verdict::Run {
            reasons: vec![Reason::Forced],
        };
    }
    let current = standing.state.and_then(|state| state.current);
    let is_current = current == Some(standing.key);
    let whole = standing.stored == Stored::Whole;
    if is_current && whole && standing.outputs.is_empty() {
        return Verdict::UpToDate;
    }
    let mut reasons = Vec::new();
    match current {
        None => reasons.push(Reason::NeverBuilt),
        Some(_) if !is_current => reasons.extend(differences()),
        Some(_) => {}
    }
    if is_current {
        reasons.extend(standing.outputs.iter().map(Fault::reason));
    }
    if whole {
        return Verdict::Restore { reasons };
    }
    if let Stored::Lost(path) = &standing.stored {
        reasons.push(Reason::ObjectLost { path: path.clone() });
    }
    if is_current && standing.stored == Stored::Nothing {
        reasons.push(Reason::ResultLost);
    }
    let unfinished = standing.state.and_then(|state| state.unfinished);
    if unfinished == Some(standing.key) {
        reasons.push(Reason::DidNotFinish);
    }
    Verdict::Run { reasons }
}

impl Fault {
    fn reason(&self) -> Reason {
        match self {
            Fault::Missing(path) => Reason::OutputMissing { path: path.clone() },
            Fault::Edited(path) => Reason::OutputEdited { path: path.clone() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Digest;

    fn key(name: &str) -> Key {
        Key(Digest::of(name.as_bytes()))
    }

    fn state(current: Option<&str>, unfinished: Option<&str>) -> StepState {
        StepState {
            current: current.map(key),
            unfinished: unfinished.map(key),
        }
    }

    fn verdict(state: Option<&StepState>, stored: Stored, outputs: Vec<Fault>) -> Verdict {
        let standing = Standing {
            key: key("now"),
            forced: false,
            state,
            stored,
            outputs,
        };
        decide(&standing, || vec![Reason::KindVersion { old: 1, new: 2 }])
    }

    fn words(verdict: &Verdict) -> (&'static str, Vec<String>) {
        let reasons = verdict.reasons().iter().map(|r| r.to_string());
        (verdict.word(), reasons.collect())
    }

    #[test]
    fn never_built_runs() {
        let verdict = verdict(None, Stored::Nothing, vec![]);
        assert_eq!(words(&verdict), ("run", vec!["never built".into()]));
    }

    #[test]
    fn current_and_intact_is_up_to_date() {
        let state = state(Some("now"), None);
        assert_eq!(
            verdict(Some(&state), Stored::Whole, vec![]),
            Verdict::UpToDate
        );
    }

    #[test]
    fn an_older_result_of_the_same_key_is_restored() {
        let state = state(Some("before"), None);
        let verdict = verdict(Some(&state), Stored::Whole, vec![]);
        assert_eq!(
            words(&verdict),
            ("restore", vec!["kind version: 1 → 2".into()])
        );
    }

    #[test]
    fn a_new_key_runs_and_says_what_changed() {
        let state = state(Some("before"), None);
        let verdict = verdict(Some(&state), Stored::Nothing, vec![]);
        assert_eq!(words(&verdict), ("run", vec!["kind version: 1 → 2".into()]));
    }

    #[test]
    fn missing_and_edited_outputs_are_restored() {
        let state = state(Some("now"), None);
        let faults = vec![Fault::Missing("a".into()), Fault::Edited("b".into())];
        let verdict = verdict(Some(&state), Stored::Whole, faults);
        assert_eq!(
            words(&verdict),
            (
                "restore",
                vec!["output a: missing".into(), "output b: edited".into()]
            )
        );
    }

    #[test]
    fn a_lost_object_runs_again_even_when_the_output_is_in_place() {
        let state = state(Some("now"), None);
        let verdict = verdict(Some(&state), Stored::Lost("a".into()), vec![]);
        assert_eq!(
            words(&verdict),
            ("run", vec!["output a: lost from the store".into()])
        );
    }

    #[test]
    fn a_result_that_was_given_up_is_made_again() {
        let state = state(Some("now"), None);
        let verdict = verdict(Some(&state), Stored::Nothing, vec![]);
        assert_eq!(
            words(&verdict),
            ("run", vec!["its result is no longer in the store".into()])
        );
    }

    #[test]
    fn a_failed_step_runs_again() {
        let state = state(Some("before"), Some("now"));
        let verdict = verdict(Some(&state), Stored::Nothing, vec![]);
        assert_eq!(verdict.word(), "run");
        assert!(
            words(&verdict)
                .1
                .contains(&"did not finish the last time".into())
        );
    }

    #[test]
    fn force_runs_whatever_else() {
        let state = state(Some("now"), None);
        let standing = Standing {
            key: key("now"),
            forced: true,
            state: Some(&state),
            stored: Stored::Whole,
            outputs: vec![],
        };
        let verdict = decide(&standing, Vec::new);
        assert_eq!(words(&verdict), ("run", vec!["forced".into()]));
    }
}
