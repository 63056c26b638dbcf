//! What would be done and why: key manifests, the decision, and the dry run.

mod changes;
mod decide;
mod inputs;
mod key;
mod lineage;
mod planner;
mod verdict;

pub use crate::store::Key;
pub use changes::{EXAMPLES, FileChange, FileChanges, compare_folders};
pub use decide::{Fault, Standing, Stored, decide};
pub use inputs::{Hub, InputError, Provenance, ResolvedInput, expand, glob_base};
pub use key::{Comparison, FORMAT, InputContent, Manifest};
pub use planner::{Decided, Detail, LINEAGE_FILE, PlannedStep, Planner, Settled, Surroundings};
pub use verdict::{Reason, Verdict};
