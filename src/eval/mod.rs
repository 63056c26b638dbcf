//! Evaluation: generations of models on held-out rows, and scores that can be believed.
//!
//! [`Generation`] is one line of `generations.jsonl`; [`score`] turns the
//! generations of several models on the same rows into [`Scores`]
//! (`scores.json`), each number with its n, an interval and, where there is a
//! baseline, a paired comparison; [`table::markdown`] shows them to people.
//!
//! [`losses()`] does the same for the losses of answers alone.
//!
//! A number that was not measured is absent; zero is written only where zero
//! was measured.

mod alarm;
pub mod chrf;
mod fields;
mod generation;
mod losses;
mod score;
pub mod stats;
mod summary;
pub mod table;

pub use alarm::{Alarm, AlarmKind, identical_outputs};
pub use fields::{field, normalise};
pub use generation::{BASE, Finish, Generation, read, write};
pub use losses::{LossChange, LossError, Losses, ModelLoss, RowLoss, losses};
pub use score::{
    Change, FORMAT, Group, Interval, ModelScores, Options, Score, ScoreError, Scores, Test, Unit,
    score,
};
pub use summary::{ModelSummary, Summary, summary};
