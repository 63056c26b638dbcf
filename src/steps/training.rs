//! What the training kinds share: the log, progress, and the checks of common parameters.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use crate::files::{self, FileError, PathContext};
use crate::ml::checkpoint::Checkpoints;
use crate::ml::config::ModelConfig;
use crate::ml::lora::LoraConfig;
use crate::ml::memory::{self, Plan};
use crate::ml::train::{self, Data, LogLine, Observer, Options, Progress};
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
    /// Whether blocks are run again in the backward pass.
    pub gradient_checkpointing: bool,
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
        not_below("neftune_alpha", options.neftune_alpha)?;
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

    /// What a run on our own kernels will hold, for its record; an error that
    /// says what would help where that is more than is free.
    pub fn plan_memory(
        &self,
        config: &ModelConfig,
        adapter: Option<&LoraConfig>,
        data: &Data,
        context: &mut Context<'_>,
    ) -> Result<Plan, StepError> {
        let lengths = || data.train.all.iter().map(|sequence| sequence.tokens.len());
        let run = memory::Run {
            config,
            adapter,
            tokens: train::largest_batch(&data.train, &self.options),
            longest: lengths().max().unwrap_or(0),
            data: lengths().sum(),
            checkpointing: self.gradient_checkpointing,
        };
        let plan = Plan::new(&run);
        context.fact("planned_memory", plan.total);
        match plan.check(&run, memory::free()) {
            Ok(()) => Ok(plan),
            Err(error) => {
                let hint = error.hint();
                Err(StepError::from(error).hint(hint))
            }
        }
    }
}

/// A parameter struct of a training kind: its own fields, then those that all
/// of them have, with the defaults in which the kinds differ. A nested struct
/// would show in the pipeline file, and serde's `flatten` would take what is
/// unknown without a word. [`Common`] comes out of `common()`.
macro_rules! training_params {
    (
        $(#[$struct_attribute:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$attribute:meta])* $field:ident: $type:ty,)*
        }
        warmup_steps = $warmup:literal,
        epochs = $epochs:literal,
        beta2 = $beta2:literal,
        weight_decay = $decay:literal,
    ) => {
        $(#[$struct_attribute])*
        $visibility struct $name {
            $($(#[$attribute])* $field: $type,)*
            /// Peak learning rate.
            #[serde(default = "defaults::learning_rate")]
            learning_rate: f64,
            /// How the learning rate goes after the warm-up.
            #[serde(default)]
            schedule: $crate::ml::optim::Schedule,
            /// Steps over which the learning rate rises to its peak.
            #[serde(default = "defaults::warmup_steps")]
            warmup_steps: u64,
            /// Times the data is gone through; 0 for as often as `max_steps` takes.
            #[serde(default = "defaults::epochs")]
            epochs: u64,
            /// Optimizer steps after which to end; 0 for no such end.
            #[serde(default)]
            max_steps: u64,
            /// Longest sequence in tokens; longer rows are cut off, longer texts split.
            #[serde(default = "defaults::max_length")]
            max_length: usize,
            /// Most tokens in a micro-batch; rows are packed into it.
            #[serde(default = "defaults::batch_tokens")]
            batch_tokens: usize,
            /// Micro-batches in an optimizer step.
            #[serde(default = "defaults::one")]
            accumulation: usize,
            /// AdamW's decay of the first moment.
            #[serde(default = "defaults::beta1")]
            beta1: f64,
            /// AdamW's decay of the second moment.
            #[serde(default = "defaults::beta2")]
            beta2: f64,
            /// Added to the root of AdamW's second moment.
            #[serde(default = "defaults::eps")]
            eps: f64,
            /// AdamW's decoupled weight decay, on matrices only.
            #[serde(default = "defaults::weight_decay")]
            weight_decay: f64,
            /// Whether each block is run again in the backward pass: one more forward
            /// pass, much less memory, the same result.
            #[serde(default)]
            gradient_checkpointing: bool,
            /// Noise on the embeddings in training (NEFTune): uniform within this by the
            /// root of a sequence's elements; 0 for none, 5 in the paper.
            #[serde(default)]
            neftune_alpha: f64,
            /// Greatest norm of the gradient; greater ones are scaled down; 0 for any.
            #[serde(default = "defaults::clip_norm")]
            clip_norm: f64,
            /// Steps between validations; 0 for one at the end alone.
            #[serde(default)]
            eval_every: u64,
            /// Steps between lines of the log.
            #[serde(default = "defaults::log_every")]
            log_every: u64,
            /// Seed of the order of the data and of all other chance.
            #[serde(default)]
            seed: u64,
        }

        /// Where the kinds differ; what they share is behind it.
        mod defaults {
            pub(super) use $crate::steps::training::defaults::*;

            pub(super) fn warmup_steps() -> u64 {
                $warmup
            }

            pub(super) fn epochs() -> u64 {
                $epochs
            }

            pub(super) fn beta2() -> f64 {
                $beta2
            }

            pub(super) fn weight_decay() -> f64 {
                $decay
            }
        }

        impl $name {
            /// The parameters that all training kinds have.
            fn common(&self) -> $crate::steps::training::Common {
                $crate::steps::training::Common {
                    max_length: self.max_length,
                    gradient_checkpointing: self.gradient_checkpointing,
                    options: $crate::ml::train::Options {
                        seed: self.seed,
                        learning_rate: self.learning_rate,
                        schedule: self.schedule,
                        warmup_steps: self.warmup_steps,
                        adamw: $crate::ml::optim::AdamW {
                            beta1: self.beta1,
                            beta2: self.beta2,
                            eps: self.eps,
                            weight_decay: self.weight_decay,
                        },
                        clip_norm: self.clip_norm,
                        epochs: self.epochs,
                        max_steps: self.max_steps,
                        batch_tokens: self.batch_tokens,
                        accumulation: self.accumulation,
                        eval_every: self.eval_every,
                        log_every: self.log_every,
                        neftune_alpha: self.neftune_alpha,
                    },
                }
            }
        }
    };
}

pub(super) use training_params;

/// Defaults of all training kinds.
pub mod defaults {
    /// For adapters and small models.
    pub fn learning_rate() -> f64 {
        1e-3
    }

    /// In tokens.
    pub fn max_length() -> usize {
        512
    }

    /// Four of the longest sequences.
    pub fn batch_tokens() -> usize {
        2048
    }

    /// No accumulation.
    pub fn one() -> usize {
        1
    }

    /// As the paper has it.
    pub fn beta1() -> f64 {
        0.9
    }

    /// As the paper has it.
    pub fn eps() -> f64 {
        1e-8
    }

    /// As most recipes have it.
    pub fn clip_norm() -> f64 {
        1.0
    }

    /// Every step.
    pub fn log_every() -> u64 {
        1
    }
}

/// Writes `training.json`.
pub fn write_report(path: &Path, report: &impl serde::Serialize) -> Result<(), StepError> {
    let text = serde_json::to_string_pretty(report)?;
    Ok(files::write(path, text + "\n")?)
}
