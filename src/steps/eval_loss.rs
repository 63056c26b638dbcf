//! `eval.loss`: how likely the base model and its adapters find the answers of held-out rows.

use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::eval_generate::{at_row, inputs, models};
use super::write_json;
use crate::data::{self, Row};
use crate::eval::{self, BASE, RowLoss};
use crate::ml;
use crate::ml::generate::Generator;
use crate::step::{Context, FieldError, InPort, OutPort, PortType, Resources, Step, StepError};

/// The kind.
pub struct EvalLoss;

/// Parameters of `eval.loss`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Whether the base model without an adapter is measured too.
    #[serde(default = "yes")]
    base: bool,
    /// The model that the others are compared with: `base` or an adapter's label.
    #[serde(default = "base")]
    baseline: String,
    /// Bootstrap resamples behind the intervals.
    #[serde(default = "samples")]
    samples: usize,
    /// Seed of the bootstrap.
    #[serde(default)]
    seed: u64,
}

fn yes() -> bool {
    true
}

fn base() -> String {
    BASE.to_owned()
}

fn samples() -> usize {
    1000
}

impl Step for EvalLoss {
    type Params = Params;
    const KIND: &'static str = "eval.loss";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Measures loss and perplexity of the expected answers under the base model and each adapter, row by row, and compares them.";

    fn inputs() -> Vec<InPort> {
        inputs("adapters of the model; the label names the model")
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("metrics", PortType::Metrics, "loss.json"),
            OutPort::new("losses", PortType::File, "losses.jsonl"),
        ]
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        if params.samples < 100 {
            return Err(FieldError::new("samples", "must be at least 100"));
        }
        if !params.base && params.baseline == BASE {
            let message = "is the base model, which `base = false` leaves out";
            return Err(FieldError::new("baseline", message));
        }
        Ok(())
    }

    fn resources(_: &Params) -> Resources {
        Resources::all_cpus()
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let measured = ml::with_threads(context.threads, || measure(params, context))??;
        let losses = eval::losses(&measured, &params.baseline, params.samples, params.seed)?;
        write_json(&context.output("loss.json"), &losses)?;
        let lines: Vec<RowLoss> = measured.into_iter().flat_map(|(_, rows)| rows).collect();
        Ok(data::write_jsonl(&context.output("losses.jsonl"), &lines)?)
    }
}

/// Every model's losses, the base model's first.
fn measure(
    params: &Params,
    context: &mut Context<'_>,
) -> Result<Vec<(String, Vec<RowLoss>)>, StepError> {
    let models = models(params.base, context)?;
    let rows = data::read_rows(context.input("rows")?)?;
    let mut generator =
        Generator::open(context.input("model")?, context.input("tokenizer")?, None)?;
    let total = (models.len() * rows.len()) as u64;
    let (start, mut tokens, mut done) = (Instant::now(), 0, 0);
    let mut measured = Vec::with_capacity(models.len());
    for (label, adapter) in models {
        generator.set_adapter(adapter.as_deref())?;
        let mut losses = Vec::with_capacity(rows.len());
        for row in &rows {
            context.checkpoint_cancel()?;
            let loss = loss(&generator, &label, row)?;
            (tokens, done) = (tokens + loss.tokens, done + 1);
            losses.push(loss);
            let speed = tokens as f64 / start.elapsed().as_secs_f64().max(1e-9);
            context.progress(done, total, format!("{label} · {speed:.0} tok/s"));
        }
        measured.push((label, losses));
    }
    context.fact("answer_tokens", tokens);
    Ok(measured)
}

/// One model's loss of one row's answer.
fn loss(generator: &Generator, model: &str, row: &Row) -> Result<RowLoss, StepError> {
    let loss = generator.answer_loss(row).map_err(|e| at_row(row, e))?;
    Ok(RowLoss {
        row: row.id,
        model: model.to_owned(),
        loss: loss.nats_per_token,
        tokens: loss.tokens as u64,
    })
}
