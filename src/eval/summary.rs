//! What came out of a generation run, before anything is scored (`generation.json`).

use serde::{Deserialize, Serialize};

use super::alarm::{Alarm, identical_outputs};
use super::generation::{Finish, Generation};

/// `generation.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of this format: 1.
    pub format: u32,
    /// The models in their order.
    pub models: Vec<ModelSummary>,
    /// What a reader must know.
    pub alarms: Vec<Alarm>,
}

/// The answers of one model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSummary {
    /// The model.
    pub model: String,
    /// Its answers.
    pub rows: u64,
    /// Tokens it wrote.
    pub tokens: u64,
    /// Answers cut off by the limit.
    pub truncated: u64,
    /// Answers without any text.
    pub empty: u64,
}

/// Sums up generations.
pub fn summary(generations: &[Generation]) -> Summary {
    let mut models: Vec<ModelSummary> = Vec::new();
    for generation in generations {
        let known = models.iter().position(|m| m.model == generation.model);
        let at = known.unwrap_or_else(|| {
            models.push(ModelSummary {
                model: generation.model.clone(),
                rows: 0,
                tokens: 0,
                truncated: 0,
                empty: 0,
            });
            models.len() - 1
        });
        let model = &mut models[at];
        model.rows += 1;
        model.tokens += generation.tokens;
        model.truncated += u64::from(generation.finish == Finish::Length);
        model.empty += u64::from(generation.text.trim().is_empty());
    }
    Summary {
        format: 1,
        models,
        alarms: identical_outputs(generations),
    }
}
