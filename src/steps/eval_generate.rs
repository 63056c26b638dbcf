//! `eval.generate`: what the base model and its adapters answer to held-out rows.

use std::path::PathBuf;
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{labelled, write_json};
use crate::data::{self, Row};
use crate::eval::{self, BASE, Generation};
use crate::ml;
use crate::ml::generate::{Finish, Generator, Options, Sampling};
use crate::step::{Context, FieldError, InPort, OutPort, PortType, Resources, Step, StepError};

/// Rows between two reports of progress.
const BATCH: usize = 16;

/// The kind.
pub struct EvalGenerate;

/// Parameters of `eval.generate`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Whether the base model without an adapter answers first, so that every
    /// adapter can be compared with it.
    #[serde(default = "yes")]
    baseline: bool,
    /// The most tokens an answer may have.
    #[serde(default = "max_new_tokens")]
    max_new_tokens: usize,
    /// 0 takes the most likely token; above, tokens are drawn from the
    /// distribution whose logits are divided by it.
    #[serde(default)]
    temperature: f64,
    /// With a temperature: the smallest set of tokens whose probability
    /// reaches this is drawn from; 1 keeps all.
    #[serde(default = "one")]
    top_p: f64,
    /// With a temperature: the most likely tokens that are drawn from; 0 keeps all.
    #[serde(default)]
    top_k: usize,
    /// With a temperature: tokens less likely than this share of the most
    /// likely one are not drawn; 0 keeps all.
    #[serde(default)]
    min_p: f64,
    /// Above 1, tokens that prompt or answer hold already become less likely.
    #[serde(default = "one")]
    repetition_penalty: f64,
    /// Texts that end an answer; they are no part of it.
    #[serde(default)]
    stop: Vec<String>,
    /// Seed of the draws.
    #[serde(default)]
    seed: u64,
}

fn yes() -> bool {
    true
}

fn max_new_tokens() -> usize {
    256
}

fn one() -> f64 {
    1.0
}

impl Params {
    fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        }
    }

    fn options(&self) -> Options {
        Options {
            max_new_tokens: self.max_new_tokens,
            sampling: self.sampling(),
            stop: self.stop.clone(),
            stop_ids: Vec::new(),
        }
    }
}

/// A base model with its adapters, and the rows that they are judged by.
pub(super) fn inputs(adapters: &'static str) -> Vec<InPort> {
    vec![
        InPort::one("model", PortType::Model, "the base model"),
        InPort::one("tokenizer", PortType::Tokenizer, "its tokenizer"),
        InPort::labelled("adapters", PortType::Adapter, adapters),
        InPort::one(
            "rows",
            PortType::Dataset,
            "chat rows, each ending with the answer",
        ),
    ]
}

impl Step for EvalGenerate {
    type Params = Params;
    const KIND: &'static str = "eval.generate";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Lets the base model and each adapter answer every row, and measures the loss of the expected answers.";

    fn inputs() -> Vec<InPort> {
        inputs("adapters of the model; the label names the model in all scores")
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("generations", PortType::Generations, "generations.jsonl"),
            OutPort::new("metrics", PortType::Metrics, "generation.json"),
        ]
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        if params.max_new_tokens == 0 {
            return Err(FieldError::new("max_new_tokens", "must be at least 1"));
        }
        if params.stop.iter().any(String::is_empty) {
            return Err(FieldError::new("stop", "must not hold an empty text"));
        }
        let checked = params.sampling().check();
        checked.map_err(|bad| FieldError::new(bad.option, format!("must be {}", bad.wanted)))?;
        Ok(())
    }

    fn resources(_: &Params) -> Resources {
        Resources::all_cpus()
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let generations = ml::with_threads(context.threads, || answer_all(params, context))??;
        let summary = eval::summary(&generations);
        eval::write(&context.output("generations.jsonl"), &generations)?;
        write_json(&context.output("generation.json"), &summary)
    }
}

/// The base model, if wanted, and then each adapter, on all rows.
fn answer_all(params: &Params, context: &mut Context<'_>) -> Result<Vec<Generation>, StepError> {
    let models = models(params.baseline, context)?;
    let rows = data::read_rows(context.input("rows")?)?;
    let mut generator =
        Generator::open(context.input("model")?, context.input("tokenizer")?, None)?;
    let options = params.options();
    let total = (models.len() * rows.len()) as u64;
    let mut generations = Vec::with_capacity(models.len() * rows.len());
    let (start, mut tokens) = (Instant::now(), 0);
    for (label, adapter) in &models {
        generator.set_adapter(adapter.as_deref())?;
        for rows in rows.chunks(BATCH) {
            context.checkpoint_cancel()?;
            for generation in answer(&generator, label, rows, &options)? {
                tokens += generation.tokens;
                generations.push(generation);
            }
            let speed = tokens as f64 / start.elapsed().as_secs_f64();
            let message = format!("{label} · {speed:.0} tok/s");
            context.progress(generations.len() as u64, total, message);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    context.fact("generated_tokens", tokens);
    context.fact("tokens_per_second", (tokens as f64 / seconds).round());
    Ok(generations)
}

/// The models' names with their adapters, the base model first.
pub(super) fn models(
    base: bool,
    context: &Context<'_>,
) -> Result<Vec<(String, Option<PathBuf>)>, StepError> {
    let mut models = Vec::new();
    if base {
        models.push((BASE.to_owned(), None));
    }
    for (label, path) in labelled(context, "adapters") {
        if label == BASE {
            let message = format!("the label '{BASE}' is the name of the base model");
            return Err(StepError::new(message).hint("give the adapter another label"));
        }
        models.push((label, Some(path)));
    }
    if models.is_empty() {
        let message = "there is no model: no adapter is given and the base model is left out";
        return Err(StepError::new(message));
    }
    Ok(models)
}

/// One model's answers to some rows.
fn answer(
    generator: &Generator,
    model: &str,
    rows: &[Row],
    options: &Options,
) -> Result<Vec<Generation>, StepError> {
    // The loss comes first: it fails on a row that has no answer or is too
    // long, and says which one that is.
    let losses = rows
        .iter()
        .map(|row| generator.answer_loss(row).map_err(|e| at_row(row, e)))
        .collect::<Result<Vec<_>, _>>()?;
    let prompts: Vec<&[data::Message]> = rows.iter().map(Row::prompt).collect();
    let answers = generator.generate_batch(&prompts, options)?;
    let mut generations = Vec::with_capacity(rows.len());
    for ((row, loss), answer) in rows.iter().zip(losses).zip(answers) {
        generations.push(Generation {
            row: row.id,
            model: model.to_owned(),
            prompt: generator.render(row.prompt())?,
            expected: row.answer().unwrap_or_default().to_owned(),
            text: answer.text,
            finish: match answer.finish {
                Finish::Stop => eval::Finish::Stop,
                Finish::Length | Finish::Interrupted => eval::Finish::Length,
            },
            tokens: answer.token_ids.len() as u64,
            loss: Some(loss.nats_per_token),
            answer_tokens: loss.tokens as u64,
            meta: row.meta.clone(),
        });
    }
    Ok(generations)
}

/// The error with the row it is about.
pub(super) fn at_row(row: &Row, error: ml::generate::GenerateError) -> StepError {
    let mut error = StepError::from(error);
    error.message = format!("row {} ({}): {}", row.id, row.origin, error.message);
    error
}
