//! The training loop, the same for all weights and for adapters, on the CPU core and on candle.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::adapter::AdapterError;
use super::batch::{self, Batch, BatchError, LossOn, RowCounts, Sequences, StepPlan};
use super::blame::{self, Blame, Place};
use super::checkpoint::{Checkpoints, Position};
use super::config::ModelConfig;
use super::kernels::Isa;
use super::lora::{Lora, LoraError};
use super::memory::Plan;
use super::model::{Decoder, Dropout, Gradients, Loss, ModelError};
use super::optim::{AdamW, Optimizer, Schedule, gradient_norm};
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

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub total: u64,
    /// Tokens read so far.
    pub tokens: u64,
    /// Of the last step, nats per counted token.
    pub loss: f64,
}

/// One line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogLine {
    /// What a step did.
    Step {
        /// Its number, from 1.
        step: u64,
        /// Tokens read so far.
        tokens: u64,
        /// Nats per counted token, over the step's micro-batches.
        loss: f64,
        /// In this step.
        learning_rate: f64,
        /// Before clipping.
        grad_norm: f64,
    },
    /// What a validation gave.
    Validation {
        /// Steps done.
        step: u64,
        /// Nats per counted token.
        validation_loss: f64,
    },
}

/// A validation's result.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Steps done.
    pub step: u64,
    /// Nats per counted token.
    pub loss: f64,
}

/// What a training run came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Optimizer steps.
    pub steps: u64,
    /// Times the data was gone through, fractions counted by steps.
    pub epochs: f64,
    /// Tokens read, with repetition.
    pub tokens: u64,
    /// Tokens that counted for the loss, with repetition.
    pub loss_tokens: u64,
    /// Of the first step.
    pub first_loss: f64,
    /// Of the last step.
    pub last_loss: f64,
    /// The least of all steps.
    pub min_loss: f64,
    /// All validations; none without validation rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validation: Vec<Validation>,
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
    mut checkpoints: Option<&mut Checkpoints>,
) -> Result<Summary, TrainError> {
    let (plan, per_epoch) = plan(data, options);
    let total = plan.len() as u64;
    let mut optimizer = Optimizer::new(options.adamw, core.params(), isa);
    let mut gradients = core.params().zeros_like();
    let mut at = begin(core, &mut optimizer, observer, checkpoints.as_deref_mut())?;
    for step_plan in plan.iter().skip(at.step as usize) {
        let cancelled = observer.cancelled();
        if let Some(checkpoints) = checkpoints.as_deref_mut()
            && (cancelled || checkpoints.due())
            && let Err(error) = checkpoints.save(&at, core.params(), &optimizer)
        {
            observer.warning(&format!("no checkpoint was written: {error}"));
        }
        if cancelled {
            return Err(TrainError::Cancelled);
        }
        let step = at.step + 1;
        let failed = |source| TrainError::Core { step, source };
        let batches: Vec<Batch> = step_plan
            .batches
            .iter()
            .map(|numbers| Batch::new(numbers.iter().map(|n| &data.all[*n])))
            .collect();
        let counted: usize = batches.iter().map(Batch::counted).sum();
        let scale = 1.0 / counted as f32;

        gradients.clear();
        let mut loss = Loss::default();
        for batch in &batches {
            let dropout = Dropout {
                seed: options.seed,
                step: at.micro_batch,
                neftune_alpha: options.neftune_alpha,
            };
            let part = core.gradients(batch, dropout, scale, &mut gradients);
            loss = loss.plus(part.map_err(failed)?);
            at.micro_batch += 1;
            at.summary.tokens += batch.len() as u64;
        }
        let norm = match finite(loss, &gradients, isa) {
            Ok(norm) => norm,
            Err(what) => {
                if !loss.sum.is_finite() {
                    gradients.clear();
                }
                let found = blame::find(core, data, step_plan, &mut gradients, isa);
                let blame = Box::new(found.map_err(failed)?);
                return Err(TrainError::NotFinite { what, step, blame });
            }
        };
        let factor = options
            .schedule
            .factor(step - 1, options.warmup_steps, total);
        let learning_rate = options.learning_rate * factor;
        let clip = clip_factor(norm, options.clip_norm);
        optimizer.step(core.params(), &gradients, learning_rate, clip);

        at.step = step;
        at.summary.add(step, loss);
        if step.is_multiple_of(options.log_every.max(1)) || step == 1 || step == total {
            let line = LogLine::Step {
                step,
                tokens: at.summary.tokens,
                loss: loss.mean(),
                learning_rate,
                grad_norm: norm,
            };
            observer.line(&line)?;
            at.lines.push(line);
        }
        observer.progress(Progress {
            step,
            total,
            tokens: at.summary.tokens,
            loss: loss.mean(),
        });
        let due = options.eval_every > 0 && step.is_multiple_of(options.eval_every);
        if let Some(validation) = validation.filter(|_| due || step == total) {
            let loss = evaluate(core, validation, options.batch_tokens).map_err(failed)?;
            let line = LogLine::Validation {
                step,
                validation_loss: loss.mean(),
            };
            observer.line(&line)?;
            at.lines.push(line);
            let loss = loss.mean();
            at.summary.validation.push(Validation { step, loss });
        }
    }
    at.summary.epochs = total as f64 / per_epoch as f64;
    Ok(at.summary)
}

/// Where a run begins: at the start, or where its checkpoint is.
fn begin(
    core: &mut dyn Core,
    optimizer: &mut Optimizer,
    observer: &mut dyn Observer,
    checkpoints: Option<&mut Checkpoints>,
) -> Result<Position, TrainError> {
    let found = checkpoints.and_then(|there| there.resume(core.params(), optimizer));
    let Some(at) = found else {
        return Ok(Position {
            step: 0,
            micro_batch: 0,
            summary: Summary::empty(),
            lines: Vec::new(),
        });
    };
    for line in &at.lines {
        observer.line(line)?;
    }
    observer.resumed(at.step, at.summary.tokens);
    Ok(at)
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

impl Summary {
    fn empty() -> Self {
        Summary {
            steps: 0,
            epochs: 0.0,
            tokens: 0,
            loss_tokens: 0,
            first_loss: f64::NAN,
            last_loss: f64::NAN,
            min_loss: f64::INFINITY,
            validation: Vec::new(),
        }
    }

    fn add(&mut self, step: u64, loss: Loss) {
        self.steps = step;
        self.loss_tokens += loss.tokens as u64;
        self.last_loss = loss.mean();
        self.min_loss = self.min_loss.min(self.last_loss);
        if step == 1 {
            self.first_loss = self.last_loss;
        }
    }
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

/// `training.json`: what was asked for, what was done and what came of it.
#[derive(Debug, Serialize)]
pub struct Report<'a, C: Serialize> {
    /// Version of this format: 1.
    pub format: u32,
    /// The parameters of the step as they took effect.
    pub config: &'a C,
    /// What the run came to.
    #[serde(flatten)]
    pub summary: Summary,
    /// What became of the training rows.
    pub rows: RowCounts,
    /// Elements that were trained.
    pub trainable_parameters: usize,
    /// Elements of the model and, where there is one, its adapter.
    pub total_parameters: usize,
    /// What the run was to hold in memory, where that was known before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Plan>,
    /// Floating-point operations of all linear layers, forward and backward;
    /// attention, norms and validation are not counted.
    pub flops: u64,
}

/// [`Report::flops`]: a token costs 2 operations a weight forward, 2 for the
/// gradient of its input and, where the weight is trained, 2 for its own.
pub fn flops(tokens: u64, frozen: usize, trained: usize) -> u64 {
    tokens * (4 * frozen as u64 + 6 * trained as u64)
}
