//! The training loop, the same for all weights and for adapters, on the CPU core and on candle.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::adapter::AdapterError;
use super::batch::{self, Batch, BatchError, LossOn, Sequences, StepPlan};
use super::blame::{self, Blame, Place};
use super::checkpoint::{Checkpoints, Position, State};
use super::config::ModelConfig;
use super::kernels::Isa;
use super::lora::{Lora, LoraError};
use super::model::{Decoder, Dropout, Gradients, Loss, ModelError};
use super::optim::{AdamW, Optimizer, Precision, Schedule, gradient_norm};
use super::saved::{Results, Saved, SavedError};
use super::stopping::{EarlyStopping, Keep, Watch};
use super::summary::{LogLine, Progress, Stopped, Summary, Validation};
use super::tensors::{TensorError, Tensors};
use super::tokenizer::{Tokenizer, TokenizerError};
use crate::data::{Content, DataError, Row, read_rows};
use crate::files::{self, FileError};

/// What computes losses and gradients. The loop does everything else.
pub trait Core {
    /// The tensors that are trained.
    fn params(&mut self) -> &mut Tensors;

    /// The loss of a batch, without dropout.
    fn loss(&mut self, batch: &Batch) -> Result<Loss, CoreError>;

    /// The loss of a batch; `scale` times the gradient of its sum is added to
    /// `gradients`, which is shaped as [`Core::params`].
    fn gradients(
        &mut self,
        batch: &Batch,
        dropout: Dropout,
        scale: f32,
        gradients: &mut Tensors,
    ) -> Result<Loss, CoreError>;

    /// The first module whose output for a batch is not finite, where the core can tell.
    fn first_not_finite(&mut self, _: &Batch) -> Option<Place> {
        None
    }
}

/// A core failed; the text is the library's.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CoreError(pub String);

/// Trains all weights on the CPU.
pub struct FullCore {
    /// The model.
    pub decoder: Decoder,
}

impl Core for FullCore {
    fn params(&mut self) -> &mut Tensors {
        &mut self.decoder.weights
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss, CoreError> {
        Ok(self.decoder.loss(None, batch))
    }

    fn first_not_finite(&mut self, batch: &Batch) -> Option<Place> {
        self.decoder.first_not_finite(None, batch)
    }

    fn gradients(
        &mut self,
        batch: &Batch,
        dropout: Dropout,
        scale: f32,
        gradients: &mut Tensors,
    ) -> Result<Loss, CoreError> {
        let gradients = Gradients {
            weights: Some(gradients),
            lora: None,
        };
        let dropout = Some(dropout);
        Ok(self
            .decoder
            .gradients(None, batch, dropout, scale, gradients))
    }
}

/// Trains an adapter on the CPU.
pub struct LoraCore {
    /// The frozen model.
    pub decoder: Decoder,
    /// The adapter.
    pub lora: Lora,
}

impl Core for LoraCore {
    fn params(&mut self) -> &mut Tensors {
        &mut self.lora.tensors
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss, CoreError> {
        Ok(self.decoder.loss(Some(&self.lora), batch))
    }

    fn first_not_finite(&mut self, batch: &Batch) -> Option<Place> {
        self.decoder.first_not_finite(Some(&self.lora), batch)
    }

    fn gradients(
        &mut self,
        batch: &Batch,
        dropout: Dropout,
        scale: f32,
        gradients: &mut Tensors,
    ) -> Result<Loss, CoreError> {
        let gradients = Gradients {
            weights: None,
            lora: Some(gradients),
        };
        let (lora, dropout) = (Some(&self.lora), Some(dropout));
        Ok(self
            .decoder
            .gradients(lora, batch, dropout, scale, gradients))
    }
}

/// How to train.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Options {
    /// Seed of order and dropout.
    pub seed: u64,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// How it goes.
    pub schedule: Schedule,
    /// Steps over which it rises to its peak.
    pub warmup_steps: u64,
    /// AdamW's other settings.
    pub adamw: AdamW,
    /// How its moments are kept.
    pub optimizer: Precision,
    /// Greatest gradient norm; 0 for any.
    pub clip_norm: f64,
    /// Times the data is gone through, unless `max_steps` ends it sooner.
    pub epochs: u64,
    /// Steps after which to end; data is gone through as often as that takes
    /// when `epochs` is 0.
    pub max_steps: u64,
    /// Most tokens in a micro-batch.
    pub batch_tokens: usize,
    /// Micro-batches in a step.
    pub accumulation: usize,
    /// Steps between validations; 0 for one at the end alone.
    pub eval_every: u64,
    /// Steps between lines of the log.
    pub log_every: u64,
    /// Noise on the embeddings, as [`Dropout::neftune_alpha`].
    pub neftune_alpha: f64,
    /// When to end before the last step.
    pub early_stopping: EarlyStopping,
    /// Which weights are the result.
    pub keep: Keep,
}

/// What a run keeps on its way.
#[derive(Default)]
pub struct Keeping<'k, 'r> {
    /// What it goes on from when it is interrupted.
    pub checkpoints: Option<&'k mut Checkpoints>,
    /// What it had come to after every so many steps.
    pub results: Option<&'k mut Results<'r>>,
}

/// What a training run is told about and asked.
pub trait Observer {
    /// A line for the log.
    fn line(&mut self, line: &LogLine) -> Result<(), FileError>;
    /// How far the run is; called after every step.
    fn progress(&mut self, progress: Progress);
    /// Whether to stop.
    fn cancelled(&self) -> bool;
    /// The run goes on from a checkpoint: so many steps and tokens are done.
    fn resumed(&mut self, step: u64, tokens: u64);
    /// Something a person should know that stops nothing.
    fn warning(&mut self, message: &str);
}

/// Training failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The model cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Rows cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Rows cannot be trained on.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The adapter cannot be put on the model.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// The adapter folder cannot be used.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// Weights cannot be written.
    #[error(transparent)]
    Weights(#[from] TensorError),
    /// An intermediate result cannot be written.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// Something needs validations, and there are no rows for them.
    #[error("{field} needs validations, but there are no validation rows")]
    NoValidation {
        /// The parameter that needs them.
        field: &'static str,
    },
    /// Another file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The core failed.
    #[error("failed to compute step {step}")]
    Core {
        /// The step.
        step: u64,
        /// Why.
        source: CoreError,
    },
    /// There is nothing to train on or to validate with.
    #[error("{}: there is no row in it; look at what the step before left out", path.display())]
    NoRows {
        /// The file.
        path: PathBuf,
    },
    /// The tokenizer has more tokens than the model.
    #[error(
        "the tokenizer has ids up to {}, but the model has only {vocabulary} tokens; use the tokenizer it was made for", tokens - 1
    )]
    Vocabulary {
        /// The tokenizer's greatest id, plus one.
        tokens: usize,
        /// The model's.
        vocabulary: usize,
    },
    /// Rows may be longer than the model's context.
    #[error(
        "max_length is {max_length}, but the model's context is {context} tokens; set max_length to {context} or less"
    )]
    Context {
        /// Asked for.
        max_length: usize,
        /// The model's.
        context: usize,
    },
    /// The loss or a gradient is not a number.
    #[error(
        "the {what} of step {step} is not finite{blame}; lower learning_rate or clip_norm, or raise warmup_steps"
    )]
    NotFinite {
        /// The loss or a gradient's name.
        what: String,
        /// The step.
        step: u64,
        /// Where it began.
        blame: Box<Blame>,
    },
    /// The user asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Trains: the data in a seeded order, a step of AdamW after every
/// `accumulation` micro-batches, a validation now and then. A run with
/// checkpoints goes on from the one that is there and ends with the same bits
/// as one that was never interrupted.
pub fn train(
    core: &mut dyn Core,
    data: &Sequences,
    validation: Option<&Sequences>,
    options: &Options,
    isa: Isa,
    observer: &mut dyn Observer,
    mut keeping: Keeping<'_, '_>,
) -> Result<Summary, TrainError> {
    options.need(validation)?;
    let (plan, per_epoch) = plan(data, options);
    let total = plan.len() as u64;
    let mut run = Run::begin(core, data, options, isa, observer, &mut keeping)?;
    run.total = total;
    for step_plan in plan.iter().skip(run.at.step as usize) {
        run.checkpoint(&mut keeping)?;
        let loss = run.step(step_plan)?;
        let step = run.at.step;
        let due = options.eval_every > 0 && step.is_multiple_of(options.eval_every);
        let validated = match validation.filter(|_| due || step == total) {
            Some(validation) => Some(run.validate(validation)?),
            None => None,
        };
        if let Some(results) = keeping.results.as_deref_mut().filter(|r| r.due(step)) {
            run.save(results, loss, validated)?;
        }
        if run.stop() {
            break;
        }
    }
    Ok(run.end(per_epoch))
}

/// A run that is going on.
struct Run<'a> {
    core: &'a mut dyn Core,
    data: &'a Sequences,
    options: &'a Options,
    isa: Isa,
    observer: &'a mut dyn Observer,
    optimizer: Optimizer,
    gradients: Tensors,
    /// Steps that are planned.
    total: u64,
    at: Position,
    /// What was trained as it was after the best validation.
    best: Option<Tensors>,
}

impl<'a> Run<'a> {
    /// At the start, or where its checkpoint is.
    fn begin(
        core: &'a mut dyn Core,
        data: &'a Sequences,
        options: &'a Options,
        isa: Isa,
        observer: &'a mut dyn Observer,
        keeping: &mut Keeping<'_, '_>,
    ) -> Result<Self, TrainError> {
        check_results(keeping, observer)?;
        let mut optimizer = Optimizer::with(options.adamw, options.optimizer, core.params(), isa);
        let checkpoints = keeping.checkpoints.as_deref_mut();
        let found = checkpoints.and_then(|there| there.resume(core.params(), &mut optimizer));
        let (at, best) = match found {
            None => (start(), None),
            Some((at, best)) => {
                for line in &at.lines {
                    observer.line(line)?;
                }
                observer.resumed(at.step, at.summary.tokens);
                (at, best)
            }
        };
        let gradients = core.params().zeros_like();
        Ok(Run {
            core,
            data,
            options,
            isa,
            observer,
            optimizer,
            gradients,
            total: 0,
            at,
            best,
        })
    }

    /// Writes a checkpoint when it is time for one, or when the run is to stop.
    fn checkpoint(&mut self, keeping: &mut Keeping<'_, '_>) -> Result<(), TrainError> {
        let cancelled = self.observer.cancelled();
        if let Some(checkpoints) = keeping.checkpoints.as_deref_mut()
            && (cancelled || checkpoints.due(self.at.step))
        {
            let state = State {
                params: self.core.params(),
                best: self.best.as_ref(),
                optimizer: &self.optimizer,
            };
            let mut saved = checkpoints.save(&self.at, state);
            if cancelled {
                saved = saved.and(checkpoints.settle());
            }
            if let Err(error) = saved {
                let message = format!("no checkpoint was written: {error}");
                self.observer.warning(&message);
            }
        }
        if cancelled {
            return Err(TrainError::Cancelled);
        }
        if let (Some(checkpoints), Some(results)) = (&keeping.checkpoints, &mut keeping.results)
            && let Some(step) = checkpoints.settled()
        {
            results.settled(step)?;
        }
        Ok(())
    }

    /// One step of the optimizer.
    fn step(&mut self, plan: &StepPlan) -> Result<Loss, TrainError> {
        let (options, step) = (self.options, self.at.step + 1);
        let loss = self.accumulate(plan, step)?;
        let norm = match finite(loss, &self.gradients, self.isa) {
            Ok(norm) => norm,
            Err(what) => return Err(self.blame(what, loss, plan)),
        };
        let factor = options
            .schedule
            .factor(step - 1, options.warmup_steps, self.total);
        let learning_rate = options.learning_rate * factor;
        let clip = clip_factor(norm, options.clip_norm);
        self.optimizer
            .step(self.core.params(), &self.gradients, learning_rate, clip);

        self.at.step = step;
        self.at.summary.add(step, loss, norm, clip < 1.0);
        let progress = Progress {
            step,
            total: self.total,
            tokens: self.at.summary.tokens,
            loss: loss.mean(),
            learning_rate,
            grad_norm: norm,
        };
        if step.is_multiple_of(options.log_every.max(1)) || step == 1 || step == self.total {
            self.line(progress.line())?;
        }
        self.observer.progress(progress);
        Ok(loss)
    }

    /// Which rows and which part of the model made `what` no number.
    fn blame(&mut self, what: String, loss: Loss, plan: &StepPlan) -> TrainError {
        let step = self.at.step + 1;
        if !loss.sum.is_finite() {
            self.gradients.clear();
        }
        match blame::find(self.core, self.data, plan, &mut self.gradients, self.isa) {
            Err(source) => TrainError::Core { step, source },
            Ok(blame) => TrainError::NotFinite {
                what,
                step,
                blame: Box::new(blame),
            },
        }
    }

    /// Loss and gradients of a step's micro-batches.
    fn accumulate(&mut self, plan: &StepPlan, step: u64) -> Result<Loss, TrainError> {
        let of = |numbers: &Vec<usize>| Batch::new(numbers.iter().map(|n| &self.data.all[*n]));
        let batches: Vec<Batch> = plan.batches.iter().map(of).collect();
        let counted: usize = batches.iter().map(Batch::counted).sum();
        let scale = 1.0 / counted as f32;
        self.gradients.clear();
        let mut loss = Loss::default();
        for batch in &batches {
            let dropout = Dropout {
                seed: self.options.seed,
                step: self.at.micro_batch,
                neftune_alpha: self.options.neftune_alpha,
            };
            let part = self
                .core
                .gradients(batch, dropout, scale, &mut self.gradients);
            loss = loss.plus(part.map_err(|source| TrainError::Core { step, source })?);
            self.at.micro_batch += 1;
            self.at.summary.tokens += batch.len() as u64;
        }
        Ok(loss)
    }

    /// The loss of the validation rows; keeps the weights if they are the best.
    fn validate(&mut self, validation: &Sequences) -> Result<f64, TrainError> {
        let (options, step) = (self.options, self.at.step);
        let loss = evaluate(self.core, validation, options.batch_tokens)
            .map_err(|source| TrainError::Core { step, source })?
            .mean();
        self.line(LogLine::Validation {
            step,
            validation_loss: loss,
        })?;
        let found = Validation { step, loss };
        self.at.summary.validation.push(found);
        let best = self.at.watch.see(found, options.early_stopping.min_delta);
        if best && options.keep == Keep::Best {
            self.best = Some(self.core.params().clone());
        }
        Ok(loss)
    }

    fn line(&mut self, line: LogLine) -> Result<(), TrainError> {
        self.observer.line(&line)?;
        self.at.lines.push(line);
        Ok(())
    }

    /// Writes an intermediate result.
    fn save(
        &mut self,
        results: &mut Results<'_>,
        loss: Loss,
        validation_loss: Option<f64>,
    ) -> Result<(), TrainError> {
        let saved = Saved {
            step: self.at.step,
            tokens: self.at.summary.tokens,
            loss: loss.mean(),
            validation_loss,
        };
        results.save(saved, self.core.params())?;
        self.at.results = results.there().to_vec();
        Ok(())
    }

    /// Whether the run has stopped getting better.
    fn stop(&mut self) -> bool {
        let (step, planned) = (self.at.step, self.total);
        let reason = self.at.watch.stop(self.options.early_stopping);
        let Some(reason) = reason.filter(|_| step < planned) else {
            return false;
        };
        self.at.summary.stopped = Some(Stopped {
            step,
            planned,
            reason,
        });
        true
    }

    /// What it came to; leaves the weights that are the result.
    fn end(mut self, per_epoch: usize) -> Summary {
        let mut summary = self.at.summary;
        summary.epochs = self.at.step as f64 / per_epoch as f64;
        summary.best = self.at.watch.best;
        if let (Some(weights), Some(best)) = (self.best.take(), summary.best)
            && best.step != self.at.step
        {
            *self.core.params() = weights;
            summary.kept_step = Some(best.step);
        }
        summary
    }
}

/// Where a run begins that goes on from nothing.
fn start() -> Position {
    Position {
        step: 0,
        micro_batch: 0,
        summary: Summary::empty(),
        lines: Vec::new(),
        watch: Watch::default(),
        results: Vec::new(),
    }
}

/// Takes over the intermediate results of an earlier attempt; without all of
/// them the run begins anew.
fn check_results(
    keeping: &mut Keeping<'_, '_>,
    observer: &mut dyn Observer,
) -> Result<(), TrainError> {
    let Some(results) = keeping.results.as_deref_mut() else {
        return Ok(());
    };
    let checkpoints = keeping.checkpoints.as_deref_mut();
    let known = checkpoints.as_ref().and_then(|there| there.found());
    let known = known.map_or(Vec::new(), |position| position.results.clone());
    if !results.restore(&known)? {
        observer.warning("starting anew: an intermediate result is not what it was");
        results.restore(&[])?;
        if let Some(checkpoints) = checkpoints {
            checkpoints.forget();
        }
    }
    Ok(())
}

/// How often each sequence is read in the first `steps` steps of a run.
pub fn times(data: &Sequences, options: &Options, steps: u64) -> Vec<u32> {
    let mut times = vec![0; data.all.len()];
    let (plan, _) = plan(data, options);
    for number in plan.iter().take(steps as usize).flat_map(|s| &s.batches) {
        number.iter().for_each(|n| times[*n] += 1);
    }
    times
}

impl Options {
    /// Refuses to wait for validations that never come.
    fn need(&self, validation: Option<&Sequences>) -> Result<(), TrainError> {
        let field = match (self.early_stopping.patience, self.keep) {
            (0, Keep::Last) => return Ok(()),
            (0, Keep::Best) => "keep = \"best\"",
            _ => "early_stopping_patience",
        };
        match validation {
            Some(_) => Ok(()),
            None => Err(TrainError::NoValidation { field }),
        }
    }
}

/// All steps of a run, and how many an epoch has (the first one's count:
/// packing differs a little from epoch to epoch).
fn plan(data: &Sequences, options: &Options) -> (Vec<StepPlan>, usize) {
    let Options {
        seed,
        batch_tokens,
        accumulation,
        ..
    } = *options;
    let mut plan: Vec<StepPlan> = Vec::new();
    let mut per_epoch = 0;
    let limit = match options.max_steps {
        0 => usize::MAX,
        steps => steps as usize,
    };
    let epochs = match (options.epochs, options.max_steps) {
        (0, 0) => 1,
        (0, _) => u64::MAX,
        (epochs, _) => epochs,
    };
    for epoch in 0..epochs {
        if plan.len() >= limit {
            break;
        }
        let steps = batch::plan_epoch(&data.all, seed, epoch, batch_tokens, accumulation);
        if epoch == 0 {
            per_epoch = steps.len();
        }
        plan.extend(steps);
    }
    plan.truncate(limit);
    (plan, per_epoch.max(1))
}

/// The most tokens in a micro-batch of a run.
pub fn largest_batch(data: &Sequences, options: &Options) -> usize {
    let tokens = |batch: &Vec<usize>| batch.iter().map(|n| data.all[*n].tokens.len()).sum();
    let (plan, _) = plan(data, options);
    let batches = plan.iter().flat_map(|step| &step.batches);
    batches.map(tokens).max().unwrap_or(0)
}

/// The gradients' norm, or what is not finite.
fn finite(loss: Loss, gradients: &Tensors, isa: Isa) -> Result<f64, String> {
    if !loss.sum.is_finite() {
        return Err("loss".to_owned());
    }
    match gradient_norm(gradients, isa) {
        (norm, None) => Ok(norm),
        (_, Some(name)) => {
            let name = blame::first_gradient(gradients, isa).unwrap_or(name);
            Err(format!("gradient of '{name}'"))
        }
    }
}

fn clip_factor(norm: f64, limit: f64) -> f64 {
    if limit > 0.0 && norm > limit {
        limit / norm
    } else {
        1.0
    }
}

/// The loss of all sequences.
pub fn evaluate(
    core: &mut dyn Core,
    data: &Sequences,
    batch_tokens: usize,
) -> Result<Loss, CoreError> {
    let mut loss = Loss::default();
    for numbers in batch::pack(&data.all, 0..data.all.len(), batch_tokens) {
        let batch = Batch::new(numbers.iter().map(|n| &data.all[*n]));
        loss = loss.plus(core.loss(&batch)?);
    }
    Ok(loss)
}

/// Training and validation rows, ready for a model.
pub struct Data {
    /// What is trained on.
    pub train: Sequences,
    /// What is validated on.
    pub validation: Option<Sequences>,
}

impl Data {
    /// Reads and encodes rows (`.jsonl`) and plain texts (any other file),
    /// after checking that tokenizer, lengths and model fit each other.
    pub fn read(
        config: &ModelConfig,
        tokenizer: &Tokenizer,
        train: &[(&str, &Path)],
        validation: Option<&Path>,
        max_length: usize,
        loss_on: LossOn,
    ) -> Result<Self, TrainError> {
        if tokenizer.id_bound() > config.vocab_size {
            return Err(TrainError::Vocabulary {
                tokens: tokenizer.id_bound(),
                vocabulary: config.vocab_size,
            });
        }
        if max_length > config.max_positions {
            return Err(TrainError::Context {
                max_length,
                context: config.max_positions,
            });
        }
        let some = |rows: Vec<Row>, path: &Path| match rows.is_empty() {
            true => Err(TrainError::NoRows {
                path: path.to_owned(),
            }),
            false => Ok(rows),
        };
        let mut rows = Vec::new();
        for (label, path) in train {
            rows.extend(some(read_texts(label, path)?, path)?);
        }
        let encode = |rows: &[Row]| Sequences::encode(rows, tokenizer, max_length, loss_on);
        Ok(Data {
            train: encode(&rows)?,
            validation: match validation {
                None => None,
                Some(path) => Some(encode(&some(read_rows(path)?, path)?)?),
            },
        })
    }
}

/// Rows of a data set, or a whole file as one row of text whose origin is `label`.
pub fn read_texts(label: &str, path: &Path) -> Result<Vec<Row>, TrainError> {
    if path.extension().is_some_and(|e| e == "jsonl") {
        return Ok(read_rows(path)?);
    }
    let content = Content::Text(files::read_text(path)?);
    Ok(vec![Row::new(content, Default::default(), label)])
}
