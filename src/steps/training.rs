//! What the training kinds share: parameters, outputs, the log, progress, and the run itself.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::write_json;
use crate::files::{self, FileError, PathContext};
use crate::ml::checkpoint::{Cadence, Checkpoints};
use crate::ml::config::ModelConfig;
use crate::ml::kernels::Isa;
use crate::ml::lora::LoraConfig;
use crate::ml::matrix::Dtype;
use crate::ml::memory::{self, Plan};
use crate::ml::saved::{self, Results};
use crate::ml::stopping::Keep;
use crate::ml::summary::{LogLine, Progress, Report, Summary, Work, origins};
use crate::ml::tensorboard::{self, EventWriter};
use crate::ml::train::{self, Core, Data, Keeping, Observer, Options, TrainError};
use crate::step::{Context, Every, FieldError, OutPort, PortType, StepError};

/// The folder of intermediate results.
const CHECKPOINTS: &str = "checkpoints";

/// The outputs of a training kind; `first` is what it trains.
pub fn outputs(first: OutPort, common: &Common) -> Vec<OutPort> {
    let mut outputs = vec![
        first,
        OutPort::new("log", PortType::Log, "log.jsonl"),
        OutPort::new("metrics", PortType::Metrics, "training.json"),
        OutPort::new("events", PortType::File, tensorboard::FILE),
    ];
    if common.save_every > 0 {
        outputs.push(OutPort::new(CHECKPOINTS, PortType::Folder, CHECKPOINTS));
    }
    outputs
}

/// Trains, with a log, and with checkpoints and intermediate results where
/// they are wanted; `write` writes one of these.
pub fn run(
    core: &mut dyn Core,
    data: &Data,
    common: &Common,
    isa: Isa,
    write: &saved::Write<'_>,
    context: &mut Context<'_>,
) -> Result<Summary, StepError> {
    let mut checkpoints = checkpoints(context);
    let out = context.output(CHECKPOINTS);
    let beside = checkpoints
        .as_ref()
        .map(|place| place.folder().join("results"));
    let (every, keep) = (common.save_every, common.keep_checkpoints);
    let mut results =
        (every > 0).then(|| Results::new(every, keep, beside.as_deref(), &out, write));
    let mut observer = StepObserver::new(context)?;
    let summary = train::train(
        core,
        &data.train,
        data.validation.as_ref(),
        &common.options,
        isa,
        &mut observer,
        Keeping {
            checkpoints: checkpoints.as_mut(),
            results: results.as_mut(),
        },
    )
    .map_err(explained)?;
    observer.finish(checkpoints.as_ref())?;
    if let Some(results) = results {
        results.finish(&out).map_err(TrainError::from)?;
    }
    if let Some(stopped) = &summary.stopped {
        context.fact("stopped_at", stopped.step);
        context.fact("stopped_because", stopped.reason.as_str());
    }
    if let Some(step) = summary.kept_step {
        context.fact("kept_step", step);
    }
    Ok(summary)
}

fn explained(error: TrainError) -> StepError {
    let hint = match &error {
        TrainError::NoValidation { .. } => Some("give the step an input `validation`"),
        _ => None,
    };
    let error = StepError::from(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// What a report says of the model.
pub struct Sizes<'a> {
    /// Its shape.
    pub config: &'a ModelConfig,
    /// Multiply-adds a token takes in its linear layers and head.
    pub linear: usize,
    /// Elements of the adapter, where one is trained.
    pub adapter: Option<usize>,
    /// Elements that are trained.
    pub trainable: usize,
    /// Elements in all.
    pub total: usize,
    /// What the run was to hold in memory, where that was known before.
    pub memory: Option<Plan>,
}

/// Writes `training.json`, and into the record what of it people look for.
pub fn write_report(
    params: &impl Serialize,
    common: &Common,
    data: &Data,
    summary: Summary,
    sizes: &Sizes<'_>,
    context: &mut Context<'_>,
) -> Result<(), StepError> {
    let times = train::times(&data.train, &common.options, summary.steps);
    let work = Work {
        config: sizes.config,
        weights: sizes.linear,
        adapter: sizes.adapter,
        data: &data.train,
        times: &times,
    };
    let report = Report {
        format: 2,
        config: params,
        flops: work.flops(),
        summary,
        rows: data.train.counts,
        origins: origins(&data.train, &times),
        trainable_parameters: sizes.trainable,
        total_parameters: sizes.total,
        memory: sizes.memory,
    };
    context.fact("loss", rounded(report.summary.last_loss));
    if report.rows.truncated > 0 {
        context.fact("truncated_rows", report.rows.truncated);
    }
    write_json(&context.output("training.json"), &report)
}

/// Writes the log and passes progress and cancellation on.
struct StepObserver<'a, 'b> {
    context: &'a mut Context<'b>,
    log: BufWriter<File>,
    path: PathBuf,
    events: EventWriter,
    started: Instant,
    last: Option<Progress>,
    /// Tokens that an earlier attempt read.
    earlier: u64,
}

/// The checkpoints of a step that was given a place for them.
fn checkpoints(context: &mut Context<'_>) -> Option<Checkpoints> {
    let place = context.checkpoint?;
    let every = match place.every {
        Every::Time(time) => Cadence::Time(time),
        Every::Steps(steps) => Cadence::Steps(steps),
    };
    let (checkpoints, found) = Checkpoints::open(&place.folder, place.binding, every);
    if let Err(error) = found {
        let error = StepError::from(error);
        eprintln!("warning: starting anew, for the checkpoint cannot be used: {error:?}");
        context.fact("checkpoint", "unusable, started anew");
    }
    Some(checkpoints)
}

impl<'a, 'b> StepObserver<'a, 'b> {
    /// Writes to the outputs `log.jsonl` and `events.out.tfevents…`.
    fn new(context: &'a mut Context<'b>) -> Result<Self, FileError> {
        let path = context.output("log.jsonl");
        Ok(StepObserver {
            log: BufWriter::new(files::create(&path)?),
            events: EventWriter::create(&context.output(tensorboard::FILE))?,
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

    /// Completes the logs and records the speed, and what checkpoints took of it.
    fn finish(mut self, checkpoints: Option<&Checkpoints>) -> Result<(), FileError> {
        self.log.flush().on("write", &self.path)?;
        self.events.finish()?;
        if let Some(last) = self.last {
            let own = last.tokens.saturating_sub(self.earlier);
            let seconds = self.started.elapsed().as_secs_f64().max(1e-9);
            let speed = own as f64 / seconds;
            self.context.fact("tokens_per_second", speed.round());
            if let Some(checkpoints) = checkpoints {
                let share = checkpoints.waited().as_secs_f64() / seconds;
                self.context.fact("waited_for_checkpoints", rounded(share));
            }
        }
        Ok(())
    }
}

impl Observer for StepObserver<'_, '_> {
    fn line(&mut self, line: &LogLine) -> Result<(), FileError> {
        self.events.line(line)?;
        serde_json::to_writer(&mut self.log, line)
            .map_err(std::io::Error::from)
            .and_then(|()| self.log.write_all(b"\n"))
            .on("write", &self.path)
    }

    fn progress(&mut self, progress: Progress) {
        let message = message(&progress, self.speed(progress.tokens));
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

/// To four decimals: for people.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// What stands beside the bar, short enough for a terminal of 80 columns.
fn message(progress: &Progress, tokens_per_second: f64) -> String {
    let speed = match tokens_per_second {
        few if few < 1000.0 => format!("{few:.0}"),
        many => format!("{:.1}k", many / 1000.0),
    };
    format!(
        "loss {} lr {:.1e} grad {} {speed} tok/s",
        short(progress.loss, 3),
        progress.learning_rate,
        short(progress.grad_norm, 2),
    )
}

/// A number with fewer decimals the larger it is.
fn short(value: f64, decimals: usize) -> String {
    let less = [10.0, 100.0, 1000.0]
        .iter()
        .filter(|limit| value >= **limit)
        .count();
    format!("{value:.0$}", decimals.saturating_sub(less))
}

/// The parameters that both training kinds have.
#[derive(Debug, Clone)]
pub struct Common {
    /// As in [`Options`].
    pub options: Options,
    /// Longest sequence.
    pub max_length: usize,
    /// Steps between intermediate results; 0 for none.
    pub save_every: u64,
    /// How many of the last ones are kept; 0 for all.
    pub keep_checkpoints: usize,
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
        self.check_validation()?;
        if self.keep_checkpoints > 0 && self.save_every == 0 {
            let message = "says how many are kept, but save_every is 0: there are none";
            return Err(FieldError::new("keep_checkpoints", message));
        }
        if options.max_steps > 0 && options.warmup_steps > options.max_steps {
            let message = "must not be greater than max_steps";
            return Err(FieldError::new("warmup_steps", message));
        }
        Ok(())
    }

    /// Whether there are validations where something depends on them.
    fn check_validation(&self) -> Result<(), FieldError> {
        let options = &self.options;
        let stopping = options.early_stopping;
        if !(stopping.min_delta >= 0.0 && stopping.min_delta.is_finite()) {
            let message = "must not be below 0";
            return Err(FieldError::new("early_stopping_min_delta", message));
        }
        let needs = match (stopping.patience > 0, options.keep) {
            (true, _) => "early_stopping_patience",
            (_, Keep::Best) => "keep",
            _ if stopping.min_delta > 0.0 => {
                let message = "does nothing without early_stopping_patience";
                return Err(FieldError::new("early_stopping_min_delta", message));
            }
            _ => return Ok(()),
        };
        match options.eval_every {
            0 => {
                let message = "needs validations on the way: set eval_every";
                Err(FieldError::new(needs, message))
            }
            _ => Ok(()),
        }
    }

    /// What a run on our own kernels will hold, for its record; an error that
    /// says what would help where that is more than is free.
    pub fn plan_memory(
        &self,
        config: &ModelConfig,
        adapter: Option<&LoraConfig>,
        dtype: Dtype,
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
            dtype,
            optimizer: self.options.optimizer,
            keep: self.options.keep,
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
            /// How the optimizer keeps its moments.
            #[serde(default)]
            optimizer: $crate::ml::optim::Precision,
            /// Validations in a row without improvement after which to end; 0
            /// for never. Needs `eval_every` and the input `validation`.
            #[serde(default)]
            early_stopping_patience: u64,
            /// How much less the validation loss has to be than the best one
            /// before it to count as an improvement.
            #[serde(default)]
            early_stopping_min_delta: f64,
            /// Which weights are the result: those after the last step, or
            /// those with the least validation loss.
            #[serde(default)]
            keep: $crate::ml::stopping::Keep,
            /// Steps between intermediate results, in the output `checkpoints`;
            /// 0 for none.
            #[serde(default)]
            save_every: u64,
            /// How many of the last ones are kept, besides that with the least
            /// validation loss; 0 for all.
            #[serde(default)]
            keep_checkpoints: usize,
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
                    save_every: self.save_every,
                    keep_checkpoints: self.keep_checkpoints,
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
                        optimizer: self.optimizer,
                        early_stopping: $crate::ml::stopping::EarlyStopping {
                            patience: self.early_stopping_patience,
                            min_delta: self.early_stopping_min_delta,
                        },
                        keep: self.keep,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_beside_the_bar_are_short() {
        let mut progress = Progress {
            step: 1,
            total: 2,
            tokens: 3,
            loss: 2.3104,
            learning_rate: 5e-5,
            grad_norm: 0.834,
        };
        let words = message(&progress, 5120.0);
        assert_eq!(words, "loss 2.310 lr 5.0e-5 grad 0.83 5.1k tok/s");
        progress.loss = 12.3456;
        progress.grad_norm = 123.4;
        let words = message(&progress, 512.4);
        assert_eq!(words, "loss 12.35 lr 5.0e-5 grad 123 512 tok/s");
    }
}
