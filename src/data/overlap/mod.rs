//! Contamination: training rows that hold evaluation rows, by n-gram overlap, with the words that agree.
//!
//! The evaluation rows are indexed in memory; the training rows stream past.
//! Three definitions stand side by side: a shared 13-gram (GPT-3), a share of
//! the 8-grams (PaLM), and IDF-weighted 5-grams over question, answer and
//! passage (AI2's decon). Differences to decon 0.3: words instead of BPE tokens,
//! every 5-gram is looked up instead of every tenth, an IDF of `ln(1 + N/df)`
//! instead of `ln(N/df)` (which weighs nothing when there is one row), and
//! answers are also looked for before the question.

mod index;
mod reference;
mod report;
mod scan;

pub use reference::{Reference, References};
pub use report::{
    Contamination, OverlapFiles, OverlapOptions, OverlapReport, SetReport, decontaminate,
};
pub use scan::{Match, Rule, Rules};
