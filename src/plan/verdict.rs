//! What a plan says of a step, and why: plain data with one presenter.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::changes::{FileChange, FileChanges};
use crate::hash::Digest;
use crate::pipeline::{StepName, ValueSource};

/// What has to be done for a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// The outputs on disk are the ones its key stands for.
    UpToDate,
    /// The store holds the outputs of this key: they are put back, not made again.
    Restore {
        /// What changed since the step was last current.
        reasons: Vec<Reason>,
    },
    /// The step has to run.
    Run {
        /// What changed since the step was last built.
        reasons: Vec<Reason>,
    },
    /// Known only when other steps have run: if their outputs come out
    /// unchanged, nothing is done here.
    Maybe {
        /// The direct inputs that are not known yet.
        waits_for: Vec<StepName>,
    },
    /// Only in plans: it cannot run, because an input from outside cannot be
    /// had.
    Error {
        /// What is wrong, and why, outermost first.
        causes: Vec<String>,
    },
    /// Only in plans: it cannot run, because a step that it needs cannot.
    Blocked {
        /// The step at fault.
        by: StepName,
    },
}

impl Verdict {
    /// One word for tables.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::UpToDate => "up to date",
            Verdict::Restore { .. } => "restore",
            Verdict::Run { .. } => "run",
            Verdict::Maybe { .. } => "maybe",
            Verdict::Error { .. } => "error",
            Verdict::Blocked { .. } => "blocked",
        }
    }

    /// Whether the step cannot run.
    pub fn is_error(&self) -> bool {
        matches!(self, Verdict::Error { .. } | Verdict::Blocked { .. })
    }

    /// Why, for the verdicts that have reasons.
    pub fn reasons(&self) -> &[Reason] {
        match self {
            Verdict::Restore { reasons } | Verdict::Run { reasons } => reasons,
            Verdict::UpToDate
            | Verdict::Maybe { .. }
            | Verdict::Error { .. }
            | Verdict::Blocked { .. } => &[],
        }
    }
}

/// One thing that makes a step's last result no longer the right one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum Reason {
    /// It has never finished.
    NeverBuilt,
    /// The user asked for it.
    Forced,
    /// It failed or was interrupted the last time.
    DidNotFinish,
    /// The step uses another kind than before.
    Kind {
        /// The kind it was built with.
        old: String,
        /// The kind it uses now.
        new: String,
    },
    /// The kind's meaning changed.
    KindVersion {
        /// The version it was built with.
        old: u32,
        /// The version of this program.
        new: u32,
    },
    /// A parameter changed.
    Param {
        /// Its name.
        name: String,
        /// The value it was built with; none when it is new.
        old: Option<Value>,
        /// The value now; none when it is gone.
        new: Option<Value>,
        /// Where the new value comes from.
        source: Option<ValueSource>,
    },
    /// The content behind an input changed.
    Input {
        /// The port, with the label or path where it has one.
        port: String,
        /// What it was; none when the input is new.
        old: Option<Digest>,
        /// What it is; none when the input is gone.
        new: Option<Digest>,
        /// What changed inside of a folder, where that can be told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        files: Option<FileChanges>,
    },
    /// The same inputs are in another order.
    InputOrder,
    /// Some of the many inputs of a port changed.
    Inputs {
        /// The port.
        port: String,
        /// Which ones, by label or path.
        changes: FileChanges,
    },
    /// A declared environment variable changed.
    Environment {
        /// The variable.
        name: String,
        /// The value it was built with; none when it was not set.
        old: Option<String>,
        /// The value now; none when it is not set.
        new: Option<String>,
    },
    /// An output is not where it belongs.
    OutputMissing {
        /// Relative to the project.
        path: String,
    },
    /// An output is not what the step wrote.
    OutputEdited {
        /// Relative to the project.
        path: String,
    },
    /// The store no longer holds an output of this key, or holds it damaged.
    ObjectLost {
        /// The output.
        path: String,
    },
    /// The store no longer knows the result of this key.
    ResultLost,
}

impl Reason {
    /// The files that changed, of a reason that is about many.
    pub fn files(&self) -> &[FileChange] {
        match self {
            Reason::Input {
                files: Some(changes),
                ..
            }
            | Reason::Inputs { changes, .. } => &changes.files,
            _ => &[],
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NeverBuilt => write!(f, "never built"),
            Reason::Forced => write!(f, "forced"),
            Reason::DidNotFinish => write!(f, "did not finish the last time"),
            Reason::Kind { old, new } => write!(f, "kind: {old} → {new}"),
            Reason::KindVersion { old, new } => write!(f, "kind version: {old} → {new}"),
            Reason::Param {
                name,
                old,
                new,
                source,
            } => {
                write!(f, "param {name}: ")?;
                change(f, old.as_ref(), new.as_ref())?;
                match source {
                    Some(source) => write!(f, " ({source})"),
                    None => Ok(()),
                }
            }
            Reason::Input {
                port,
                files: Some(files),
                ..
            } if !files.is_empty() => write!(f, "input {port}: {}", files.words("file")),
            Reason::Input { port, old, new, .. } => {
                write!(f, "input {port}: ")?;
                change(f, old.map(|d| d.short()), new.map(|d| d.short()))
            }
            Reason::InputOrder => write!(f, "the inputs are in another order"),
            Reason::Inputs { port, changes } => write!(f, "input {port}: {}", changes.words("")),
            Reason::Environment { name, old, new } => {
                write!(f, "environment {name}: ")?;
                change(f, old.as_ref(), new.as_ref())
            }
            Reason::OutputMissing { path } => write!(f, "output {path}: missing"),
            Reason::OutputEdited { path } => write!(f, "output {path}: edited"),
            Reason::ObjectLost { path } => write!(f, "output {path}: lost from the store"),
            Reason::ResultLost => write!(f, "its result is no longer in the store"),
        }
    }
}

fn change<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    old: Option<T>,
    new: Option<T>,
) -> fmt::Result {
    match (old, new) {
        (Some(old), Some(new)) => write!(f, "{old} → {new}"),
        (None, Some(new)) => write!(f, "added {new}"),
        (Some(old), None) => write!(f, "removed {old}"),
        (None, None) => write!(f, "unset"),
    }
}
