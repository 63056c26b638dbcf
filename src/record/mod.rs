//! Records: the provenance of every execution, the lock file, the logs of runs, and comparing digests.
//!
//! | file | written by |
//! |---|---|
//! | a record, an object of the store | [`ProvenanceRecorder`] |
//! | `pipelines/NAME.lock` | [`Lock`] |
//! | `cache/runs/RUN/events.jsonl` | [`RunLog`] |

mod audit;
mod diff;
mod environment;
mod lock;
mod provenance;
mod run_log;
mod runs;

pub use audit::{
    AUDIT_FORMAT, Against, AuditFailure, AuditReport, AuditVerdict, OutputAudit, StepAudit,
    StepResult, Varied, step_result,
};
pub use diff::{
    DIFF_FORMAT, DataChange, EnvironmentChange, OutputChange, RowCounts, StateDiff, StateName,
    StepChange, StepDiff,
};
pub use environment::{Environment, Program};
pub use lock::{Lock, LockError, LockedStep, Salvaged};
pub use provenance::{ProvenanceRecorder, StoredRecord, read_record};
pub use run_log::{RUN_FORMAT, RUNS, RunHeader, RunLog, stamp};
pub use runs::{
    RunError, RunLine, RunRecord, StepEnd, StepInRun, attempt_log, find_run, list_runs, step_log,
};
