//! What an audit found: plain data, the same for the terminal, the JSON and the HTML.

use serde::Serialize;

use super::environment::Environment;
use crate::compare::{Difference, Gap};
use crate::pipeline::{PipelineName, StepName};
use crate::step::StepError;
use crate::store::Key;

/// The version of the report's JSON. 1: the first.
pub const AUDIT_FORMAT: u32 = 1;

/// What an audit found.
#[derive(Debug, Clone, Serialize)]
pub struct AuditReport {
    /// [`AUDIT_FORMAT`].
    pub format: u32,
    /// The pipeline.
    pub pipeline: PipelineName,
    /// When it began, RFC 3339 in UTC.
    pub started: String,
    /// What it comes to.
    pub verdict: AuditVerdict,
    /// What the results were compared with.
    pub against: Against,
    /// Whether steps were done again; if not, the recorded results were compared.
    pub rebuilt: bool,
    /// What was different from the build on purpose.
    pub noise: Vec<Varied>,
    /// The steps, in build order.
    pub steps: Vec<StepAudit>,
    /// Where it was done.
    pub environment: Environment,
}

/// What an audit comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditVerdict {
    /// Everything that was compared is the same, or within declared tolerances.
    Same,
    /// Something differs.
    Differs,
    /// Nothing that was compared differs, but something could not be compared.
    CouldNotTell,
}

/// What results are compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Against {
    /// The project's own records.
    Records,
    /// A lock file.
    Lock {
        /// The file.
        path: String,
    },
    /// A folder, such as somebody's release.
    Folder {
        /// The folder.
        path: String,
    },
    /// Another project, by its lock file and its store.
    Project {
        /// Its root.
        path: String,
    },
}

impl Against {
    /// In words.
    pub fn words(&self) -> String {
        match self {
            Against::Records => "the records of the build".to_owned(),
            Against::Lock { path } => format!("the lock file {path}"),
            Against::Folder { path } => format!("the folder {path}"),
            Against::Project { path } => format!("the project {path}"),
        }
    }
}

/// Something that was different from the build on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Varied {
    /// What.
    pub what: String,
    /// In the build.
    pub build: String,
    /// In the audit.
    pub audit: String,
}

/// What an audit found of a step.
#[derive(Debug, Clone, Serialize)]
pub struct StepAudit {
    /// The step.
    pub step: StepName,
    /// Its kind.
    pub kind: String,
    /// What its result is stored under; none when it has no result.
    pub key: Option<Key>,
    /// What it comes to.
    pub result: StepResult,
    /// Why it could not be compared, or what to know of the comparison.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How long it took to do it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// How many threads it might use in the build and in the audit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<(usize, usize)>,
    /// Its outputs.
    pub outputs: Vec<OutputAudit>,
    /// How it failed in the audit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<AuditFailure>,
    /// What its program touched without declaring it, if it was traced:
    /// `read data/secret.txt`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub undeclared: Vec<String>,
}

/// What an audit found of a step, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepResult {
    /// Every output is the same, bit for bit.
    Same,
    /// Some outputs differ, as far as their declared tolerance allows.
    WithinTolerance,
    /// Some outputs differ, or it failed.
    Differs,
    /// It is not meant to be audited: it acts on the world.
    NotAudited,
    /// There was nothing to compare, or nothing to compare with.
    CouldNotTell,
}

impl StepResult {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            StepResult::Same => "same",
            StepResult::WithinTolerance => "within tolerance",
            StepResult::Differs => "differs",
            StepResult::NotAudited => "not audited",
            StepResult::CouldNotTell => "could not tell",
        }
    }
}

/// What an audit found of an output.
#[derive(Debug, Clone, Serialize)]
pub struct OutputAudit {
    /// Its path in the step's folder.
    pub path: String,
    /// Its name in the pipeline file.
    pub name: String,
    /// The digest that was expected; none when it is not known.
    pub expected: Option<String>,
    /// The digest that came out; none when there is none.
    pub found: Option<String>,
    /// The declared tolerance in words; `bitwise` by default.
    pub tolerance: String,
    /// Every file that differs.
    pub differences: Vec<Difference>,
}

impl OutputAudit {
    /// What it comes to.
    pub fn result(&self) -> StepResult {
        match &self.differences[..] {
            [] if self.expected.is_none() => StepResult::CouldNotTell,
            [] => StepResult::Same,
            all if all.iter().all(|d| d.within) => StepResult::WithinTolerance,
            _ => StepResult::Differs,
        }
    }

    /// How far numbers are apart at most, where that was measured.
    pub fn gap(&self) -> Option<Gap> {
        let gaps = self.differences.iter().filter_map(Difference::gap);
        gaps.reduce(Gap::max)
    }
}

/// How a step failed that had worked in the build.
#[derive(Debug, Clone, Serialize)]
pub struct AuditFailure {
    /// Why.
    pub error: StepError,
    /// The last lines of its log.
    pub log_tail: Vec<String>,
}

impl StepAudit {
    /// A step of which nothing was compared.
    pub fn without(step: &StepName, kind: &str, result: StepResult, why: String) -> Self {
        StepAudit {
            step: step.clone(),
            kind: kind.to_owned(),
            key: None,
            result,
            why: Some(why),
            seconds: None,
            threads: None,
            outputs: Vec::new(),
            failure: None,
            undeclared: Vec::new(),
        }
    }
}

/// The result of a step by those of its outputs.
pub fn step_result(outputs: &[OutputAudit]) -> StepResult {
    let any = |result| outputs.iter().any(|output| output.result() == result);
    [
        StepResult::Differs,
        StepResult::CouldNotTell,
        StepResult::WithinTolerance,
    ]
    .into_iter()
    .find(|result| any(*result))
    .unwrap_or(StepResult::Same)
}

impl AuditReport {
    /// What steps come to.
    pub fn verdict_of(steps: &[StepAudit]) -> AuditVerdict {
        let any = |result| steps.iter().any(|step| step.result == result);
        let compared = any(StepResult::Same) || any(StepResult::WithinTolerance);
        match () {
            () if any(StepResult::Differs) => AuditVerdict::Differs,
            () if any(StepResult::CouldNotTell) || !compared => AuditVerdict::CouldNotTell,
            () => AuditVerdict::Same,
        }
    }

    /// How many steps came to that.
    pub fn number(&self, result: StepResult) -> usize {
        self.steps.iter().filter(|s| s.result == result).count()
    }
}
