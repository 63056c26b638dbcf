//! Records: the provenance of every execution, the lock file, and comparing digests.
//!
//! | file | written by |
//! |---|---|
//! | a record, an object of the store | [`ProvenanceRecorder`] |
//! | `pipelines/NAME.lock` | [`Lock`] |

mod audit;
mod environment;
mod lock;
mod provenance;

pub use audit::{
    AUDIT_FORMAT, Against, AuditFailure, AuditReport, AuditVerdict, OutputAudit, StepAudit,
    StepResult, Varied, step_result,
};
pub use environment::{Environment, Program};
pub use lock::{Lock, LockError, LockedStep, Salvaged};
pub use provenance::ProvenanceRecorder;
