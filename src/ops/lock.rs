//! The lock file itself: whether it says what the pipeline and the store say, making it anew, and merging two of them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::build::locked;
use super::inspect::surroundings;
use super::workspace::environment;
use super::{HubAccess, OpsError, Workspace};
use crate::files;
use crate::pipeline::{Overrides, StepName};
use crate::plan::{Planner, Verdict};
use crate::record::{Lock, LockedStep, Salvaged};
use crate::store::Key;

/// What was found for each step, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LockReport {
    /// The steps.
    pub steps: Vec<LockFinding>,
    /// Whether the file was written.
    pub written: bool,
}

impl LockReport {
    /// Whether the file says all that it should, and nothing else.
    pub fn is_current(&self) -> bool {
        let fine = |finding: &LockFinding| {
            matches!(
                finding.standing,
                LockStanding::Known | LockStanding::Unknown { .. }
            )
        };
        self.steps.iter().all(fine)
    }
}

/// What was found for one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockFinding {
    /// The step.
    pub step: StepName,
    /// Where it stands.
    #[serde(flatten)]
    pub standing: LockStanding,
}

/// Where a step stands in the lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "standing")]
pub enum LockStanding {
    /// The file says what the pipeline and the store say.
    Known,
    /// The file says something, and its key cannot be told here: its inputs
    /// have to be built first.
    Unknown {
        /// The inputs that are not known.
        waits_for: Vec<StepName>,
    },
    /// The file says something else.
    Other {
        /// What it says.
        locked: Key,
        /// The key by the pipeline and the inputs as they are.
        now: Key,
    },
    /// The same key, but the store has other outputs for it.
    OtherOutputs,
    /// The file says nothing of this step.
    Absent,
    /// The file speaks of a step that the pipeline does not have.
    Gone,
    /// Repaired: from the store's result for the present key.
    FromStore,
    /// Repaired: the store has no result, but a side says one for the present key.
    Kept,
    /// Repaired: its key cannot be told here, and both sides, or the only one
    /// that speaks of it, say the same.
    KeptAsIs,
    /// Repaired: nothing is known for certain; the next build says it.
    LeftOut,
}

/// What the present pipeline and the store know of a step.
enum Present {
    /// Its key and its result.
    Result(LockedStep),
    /// Its key.
    Key(Key),
    /// Neither, before these were built.
    Nothing(Vec<StepName>),
}

/// Compares the lock file with the pipeline and the store.
pub fn check_lock(workspace: &Workspace, overrides: &Overrides) -> Result<LockReport, OpsError> {
    let lock = Lock::read(&workspace.lock_file())?.unwrap_or_default();
    let present = present(workspace, overrides)?;
    let mut steps: Vec<LockFinding> = present
        .iter()
        .map(|(step, present)| LockFinding {
            standing: standing(lock.steps.get(step), present),
            step: step.clone(),
        })
        .collect();
    let gone = lock.steps.keys().filter(|step| !present.contains_key(step));
    steps.extend(gone.map(|step| LockFinding {
        step: step.clone(),
        standing: LockStanding::Gone,
    }));
    steps.sort_by(|a, b| a.step.cmp(&b.step));
    Ok(LockReport {
        steps,
        written: false,
    })
}

fn standing(locked: Option<&LockedStep>, present: &Present) -> LockStanding {
    let Some(locked) = locked else {
        return LockStanding::Absent;
    };
    let other = |now: Key| LockStanding::Other {
        locked: locked.key,
        now,
    };
    match present {
        Present::Result(now) if now == locked => LockStanding::Known,
        Present::Result(now) if now.key == locked.key => LockStanding::OtherOutputs,
        Present::Result(now) => other(now.key),
        Present::Key(now) if *now == locked.key => LockStanding::Known,
        Present::Key(now) => other(*now),
        Present::Nothing(waits_for) => LockStanding::Unknown {
            waits_for: waits_for.clone(),
        },
    }
}

/// Makes the lock file anew: from the store what it knows; else from the file,
/// or the two sides of a conflict in it, what is certain. The rest is left out.
pub fn repair_lock(workspace: &Workspace, overrides: &Overrides) -> Result<LockReport, OpsError> {
    let path = workspace.lock_file();
    let old = match files::read(&path) {
        Ok(bytes) => Lock::salvage(&String::from_utf8_lossy(&bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Salvaged::default(),
        Err(e) => return Err(e.into()),
    };
    // A newer program's file is not to be replaced by less than it says.
    Lock::refuse_newer(&path)?;
    let mut lock = Lock::default();
    let mut report = LockReport::default();
    for (step, present) in present(workspace, overrides)? {
        let sides = [&old.ours, &old.theirs].map(|side| side.steps.get(&step));
        let (kept, standing) = settle(present, sides);
        lock.steps.extend(kept.map(|kept| (step.clone(), kept)));
        report.steps.push(LockFinding { step, standing });
    }
    report.written = lock.is_at(&path).is_none();
    lock.write(&path)?;
    Ok(report)
}

/// What a repaired file says of a step.
fn settle(present: Present, sides: [Option<&LockedStep>; 2]) -> (Option<LockedStep>, LockStanding) {
    match present {
        Present::Result(now) => (Some(now), LockStanding::FromStore),
        Present::Key(now) => {
            let fits = sides.into_iter().flatten().find(|side| side.key == now);
            match fits {
                Some(side) => (Some(side.clone()), LockStanding::Kept),
                None => (None, LockStanding::LeftOut),
            }
        }
        Present::Nothing(_) => match sides {
            [Some(ours), Some(theirs)] if ours != theirs => (None, LockStanding::LeftOut),
            [Some(side), _] | [None, Some(side)] => (Some(side.clone()), LockStanding::KeptAsIs),
            [None, None] => (None, LockStanding::LeftOut),
        },
    }
}

/// What is known of every step of the pipeline without running any.
fn present(
    workspace: &Workspace,
    overrides: &Overrides,
) -> Result<BTreeMap<StepName, Present>, OpsError> {
    let (graph, _) = workspace.load(overrides)?;
    let store = workspace.look_into_store()?;
    let environment = environment();
    let hub = HubAccess::new(workspace, None);
    let around = surroundings(workspace, &store, &environment, &hub);
    let mut planner = Planner::new(&graph, around);
    let plan = planner.dry_run(graph.order(), &|_| false);
    let mut found = BTreeMap::new();
    for (id, planned) in graph.order().iter().zip(plan) {
        let present = match (planner.settled(*id), planned.key, planned.verdict) {
            (Some(settled), ..) => Present::Result(locked(settled)),
            (None, Some(key), _) => Present::Key(key),
            (None, None, Verdict::Maybe { waits_for }) => Present::Nothing(waits_for),
            (None, None, _) => Present::Nothing(unknown_inputs(&graph, &planner, *id)),
        };
        found.insert(planned.name, present);
    }
    Ok(found)
}

fn unknown_inputs(
    graph: &crate::graph::Graph,
    planner: &Planner<'_>,
    id: crate::graph::StepId,
) -> Vec<StepName> {
    let needed = graph.dependencies(id).iter();
    needed
        .filter(|step| planner.settled(**step).is_none())
        .map(|step| graph.node(*step).name.clone())
        .collect()
}

/// A merge driver for git: merges two lock files step by step into `ours` and
/// names the steps that both sides changed, around which it leaves marks.
pub fn merge_locks(base: &Path, ours: &Path, theirs: &Path) -> Result<Vec<StepName>, OpsError> {
    let read = |path: &Path| match files::read(path) {
        // Added on both sides: git gives an empty base.
        Ok(bytes) if bytes.is_empty() => Ok(Lock::default()),
        Ok(_) => Ok(Lock::read(path)?.unwrap_or_default()),
        Err(e) => Err(OpsError::from(e)),
    };
    let [base, mine, yours] = [read(base)?, read(ours)?, read(theirs)?];
    let (merged, conflicts) = Lock::merge(&base, &mine, &yours);
    let text = merged.merged_text(&conflicts, &mine, &yours);
    files::write_durable(ours, text.as_bytes())?;
    Ok(conflicts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Digest;

    fn step(word: &str) -> LockedStep {
        LockedStep {
            key: Key(Digest::of(word.as_bytes())),
            sources: BTreeMap::new(),
            outputs: BTreeMap::new(),
        }
    }

    #[test]
    fn the_store_has_the_last_word_and_certainty_the_next() {
        let [a, b] = [step("a"), step("b")];
        let settled = |present, sides| {
            let (kept, standing) = settle(present, sides);
            (kept.map(|step| step.key), standing)
        };
        assert_eq!(
            settled(Present::Result(step("c")), [Some(&a), Some(&b)]),
            (Some(step("c").key), LockStanding::FromStore)
        );
        assert_eq!(
            settled(Present::Key(b.key), [Some(&a), Some(&b)]),
            (Some(b.key), LockStanding::Kept)
        );
        let out = (None, LockStanding::LeftOut);
        assert_eq!(
            settled(Present::Key(step("c").key), [Some(&a), Some(&a)]),
            out,
            "both sides are out of date"
        );
        let unknown = || Present::Nothing(Vec::new());
        assert_eq!(settled(unknown(), [Some(&a), Some(&b)]), out);
        assert_eq!(settled(unknown(), [None, None]), out);
        let as_is = (Some(a.key), LockStanding::KeptAsIs);
        assert_eq!(settled(unknown(), [Some(&a), Some(&a)]), as_is);
        assert_eq!(settled(unknown(), [None, Some(&a)]), as_is);
    }
}
