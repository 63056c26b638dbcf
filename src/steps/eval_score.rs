//! `eval.score`: generations against the answers of their dataset.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::write_json;
use crate::step::{Context, FieldError, InPort, OutPort, PortType, Step, StepError};
use crate::{data, eval, files};

/// The kind.
pub struct EvalScore;

/// Parameters of `eval.score`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Meta fields by whose values the rows are also scored apart, `["tool", "severity"]`.
    #[serde(default)]
    by: Vec<String>,
    /// Names of `Name: value` lines of the answers whose accuracy is measured.
    #[serde(default)]
    fields: Vec<String>,
    /// The model that the others are compared with.
    #[serde(default = "base")]
    baseline: String,
    /// Bootstrap resamples behind the intervals of chrF and loss.
    #[serde(default = "samples")]
    samples: usize,
    /// Seed of the bootstrap.
    #[serde(default)]
    seed: u64,
    /// The share of unfinished answers above which an alarm is raised.
    #[serde(default = "truncated_limit")]
    truncated_limit: f64,
    /// The number of rows below which an alarm is raised.
    #[serde(default = "small_sample")]
    small_sample: u64,
}

fn base() -> String {
    eval::BASE.to_owned()
}

fn samples() -> usize {
    1000
}

fn truncated_limit() -> f64 {
    0.1
}

fn small_sample() -> u64 {
    30
}

impl Step for EvalScore {
    type Params = Params;
    const KIND: &'static str = "eval.score";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Scores generations: exact match, chrF, fields, held-out loss; each with n, interval and paired comparison to the baseline.";

    fn inputs() -> Vec<InPort> {
        vec![
            InPort::one(
                "generations",
                PortType::Generations,
                "what the models answered",
            ),
            InPort::one("rows", PortType::Dataset, "exactly the rows they answered"),
        ]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("scores", PortType::Metrics, "scores.json"),
            OutPort::new("table", PortType::Document, "scores.md"),
        ]
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        if params.samples < 100 {
            return Err(FieldError::new("samples", "must be at least 100"));
        }
        if !(0.0..=1.0).contains(&params.truncated_limit) {
            return Err(FieldError::new(
                "truncated_limit",
                "must be between 0 and 1",
            ));
        }
        Ok(())
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let rows = data::read_rows(context.input("rows")?)?;
        let generations = eval::read(context.input("generations")?)?;
        let options = eval::Options {
            by: params.by.clone(),
            fields: params.fields.clone(),
            baseline: params.baseline.clone(),
            samples: params.samples,
            seed: params.seed,
            truncated_limit: params.truncated_limit,
            small_sample: params.small_sample,
        };
        let scores = eval::score(&rows, &generations, &options)?;
        context.fact("alarms", scores.alarms.len());
        write_json(&context.output("scores.json"), &scores)?;
        files::write(&context.output("scores.md"), eval::table::markdown(&scores))?;
        Ok(())
    }
}
