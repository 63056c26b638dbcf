//! Secrets and personal data in rows: found by rules, reported without being repeated, redacted.
//!
//! [`rules`] reads gitleaks' rule files, [`builtin`] has rules of our own,
//! [`personal`] knows what must add up (cards, IBANs) and what is nobody's
//! (documentation addresses), [`text`] looks through one text, and [`report`]
//! goes through the rows of a file.

mod builtin;
mod personal;
mod report;
mod rules;
mod text;

pub use personal::Personal;
pub use report::{Allowed, Hit, ScanAction, ScanFiles, ScanOptions, ScanReport, scan};
pub use rules::{Rule, RuleSet};
