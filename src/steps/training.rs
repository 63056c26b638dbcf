//! What the training kinds share: the log, progress, and the checks of common parameters.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use crate::files::{self, FileError, PathContext};
use crate::ml::checkpoint::Checkpoints;
use crate::ml::train::{LogLine, Observer, Options, Progress};
use crate::step::{Context, FieldError, StepError};

/// Writes the log and passes progress and cancellation on.
pub struct StepObserver<'a, 'b> {
    context: &'a mut Context<'b>,
    log: BufWriter<File>,
    path: std::path::PathBuf,
    started: Instant,
    last: Option<Progress>,
    /// Tokens that an earlier attempt read.
    earlier: u64,
}

/// The checkpoints of a step that was given a place for them.
pub fn checkpoints(context: &mut Context<'_>) -> Option<Checkpoints> {
    let place = context.checkpoint?;
    let (checkpoints, found) = Checkpoints::open(&place.folder, place.binding, place.every);
    if let Err(error) = found {
        let error = StepError::from(error);
        eprintln!("warning: starting anew, for the checkpoint cannot be used: {error:?}");
        context.fact("checkpoint", "unusable, started anew");
    }
    Some(checkpoints)
}

impl<'a, 'b> StepObserver<'a, 'b> {
    /// Writes to the output `log.jsonl`.
    pub fn new(context: &'a mut Context<'b>) -> Result<Self, FileError> {
        let path = context.output("log.jsonl");
        Ok(StepObserver {
            log: BufWriter::new(files::create(&path)?),
            context,
            path,
            started: Instant::now(),
            last: None,
            earlier: 0,
        })
    }

    fn speed(&self, tokens: u64) -> f64 {
        let own = tokens.saturating_sub(self.earlier);
        own as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }

    /// Completes the log and records the speed.
    pub fn finish(mut self) -> Result<(), FileError> {
        self.log.flush().on("write", &self.path)?;
        if let Some(last) = self.last {
            let speed = self.speed(last.tokens);
            self.context.fact("tokens_per_second", speed.round());
        }
        Ok(())
    }
}

impl Observer for StepObserver<'_, '_> {
    fn line(&mut self, line: &LogLine) -> Result<(), FileError> {
        serde_json::to_writer(&mut self.log, line)
            .map_err(std::io::Error::from)
            .and_then(|()| self.log.write_all(b"\n"))
            .on("write", &self.path)
    }

    fn progress(&mut self, progress: Progress) {
        let thousands = self.speed(progress.tokens) / 1000.0;
        let message = format!("loss {:.3} · {thousands:.1}k tok/s", progress.loss);
        self.context
            .progress(progress.step, progress.total, message);
        self.last = Some(progress);
    }

    fn cancelled(&self) -> bool {
        self.context.checkpoint_cancel().is_err()
    }

    fn resumed(&mut self, step: u64, tokens: u64) {
        self.earlier = tokens;
        self.started = Instant::now();
        self.context.fact("resumed_at", step);
    }

    fn warning(&mut self, message: &str) {
        eprintln!("warning: {message}");
    }
}

/// The parameters that both training kinds have.
#[derive(Debug, Clone)]
pub struct Common {
    /// As in [`Options`].
    pub options: Options,
    /// Longest sequence.
    pub max_length: usize,
}

impl Common {
    /// Refuses values that cannot be meant.
    pub fn check(&self) -> Result<(), FieldError> {
        let options = &self.options;
        let above = |field, value: f64| match value > 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(FieldError::new(field, "must be above 0")),
        };
        let not_below = |field, value: f64| match value >= 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(FieldError::new(field, "must not be below 0")),
        };
        let share = |field, value: f64| match (0.0..1.0).contains(&value) {
            true => Ok(()),
            false => Err(FieldError::new(field, "must be at least 0 and below 1")),
        };
        above("learning_rate", options.learning_rate)?;
        share("beta1", options.adamw.beta1)?;
        share("beta2", options.adamw.beta2)?;
        above("eps", options.adamw.eps)?;
        not_below("weight_decay", options.adamw.weight_decay)?;
        not_below("clip_norm", options.clip_norm)?;
        above("accumulation", options.accumulation as f64)?;
        above("log_every", options.log_every as f64)?;
        if self.max_length < 2 {
            return Err(FieldError::new("max_length", "must be at least 2"));
        }
        if options.batch_tokens < self.max_length {
            let message = "must be at least max_length, so that every row fits a micro-batch";
            return Err(FieldError::new("batch_tokens", message));
        }
        if options.epochs == 0 && options.max_steps == 0 {
            let message = "must be above 0 when max_steps does not end the run";
            return Err(FieldError::new("epochs", message));
        }
        if options.max_steps > 0 && options.warmup_steps > options.max_steps {
            let message = "must not be greater than max_steps";
            return Err(FieldError::new("warmup_steps", message));
        }
        Ok(())
    }
}

/// Builds [`Common`] from a parameter struct that has its fields.
macro_rules! common {
    ($params:expr) => {{
        let params = $params;
        $crate::steps::training::Common {
            max_length: params.max_length,
            options: $crate::ml::train::Options {
                seed: params.seed,
                learning_rate: params.learning_rate,
                schedule: params.schedule,
                warmup_steps: params.warmup_steps,
                adamw: $crate::ml::optim::AdamW {
                    beta1: params.beta1,
                    beta2: params.beta2,
                    eps: params.eps,
                    weight_decay: params.weight_decay,
                },
                clip_norm: params.clip_norm,
                epochs: params.epochs,
                max_steps: params.max_steps,
                batch_tokens: params.batch_tokens,
                accumulation: params.accumulation,
                eval_every: params.eval_every,
                log_every: params.log_every,
            },
        }
    }};
}

pub(super) use common;

/// Writes `training.json`.
pub fn write_report(path: &Path, report: &impl serde::Serialize) -> Result<(), StepError> {
    let text = serde_json::to_string_pretty(report)?;
    Ok(files::write(path, text + "\n")?)
}
