//! The decoder: one forward and one backward pass written by hand over the kernels.
//!
//! Activations are row-major, one row a token; a batch is sequences packed one
//! behind the other. The backward pass walks the forward pass line by line,
//! block by block ([`super::block`]).

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use super::batch::{Batch, IGNORE};
use super::blame::Place;
use super::block::Block;
use super::config::{ConfigError, ModelConfig};
use super::dora::Magnitudes;
use super::kernels::elementwise::{self, Rotary};
use super::kernels::{Isa, Operand, Term, View, gemm, loss, norm, sum_of_products};
use super::layout::{Layout, Slot};
use super::load::load;
use super::lora::Lora;
use super::matrix::{Dtype, Half};
use super::rng::Stream;
use super::tensors::{Tensor, TensorError, TensorId, Tensors, model_files};

/// Rows of logits that exist at once.
pub(super) const LOGIT_ROWS: usize = 256;

/// A decoder with its weights.
pub struct Decoder {
    /// Shape and switches.
    pub config: ModelConfig,
    /// Where each weight is.
    pub layout: Layout,
    /// All weights.
    pub weights: Tensors,
    /// Whether the forward pass keeps no more than each block's input, and the
    /// backward pass runs the block again ("Training deep nets with sublinear
    /// memory cost", Chen et al., 2016). The bits are the same either way.
    pub checkpointing: bool,
    /// Matrices that are bf16, by their tensor, which is empty then; none at all in f32.
    halves: Vec<Option<Half>>,
    /// As [`ModelConfig::ropes`].
    rotaries: Vec<Rotary>,
    isa: Isa,
}

/// A model cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Its configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its weights cannot be used.
    #[error(transparent)]
    Weights(#[from] TensorError),
}

/// What training adds of chance to one micro-batch.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the micro-batch in the run.
    pub step: u64,
    /// Noise on the embeddings is uniform within this by the root of a
    /// sequence's elements ("NEFTune", Jain et al., 2023); 0 for none.
    pub neftune_alpha: f64,
}

impl Dropout {
    /// Adds the noise to the embeddings of a batch, [tokens, hidden]. Element i
    /// of the batch has number i of the micro-batch's stream.
    pub fn add_noise(&self, batch: &Batch, embeddings: &mut [f32]) {
        if self.neftune_alpha <= 0.0 || batch.is_empty() {
            return;
        }
        let hidden = embeddings.len() / batch.len();
        let stream = Stream::new(self.seed, "neftune", self.step, "");
        for sequence in &batch.sequences {
            let elements = sequence.start * hidden..sequence.end * hidden;
            let bound = (self.neftune_alpha / (elements.len() as f64).sqrt()) as f32;
            for (i, x) in elements.clone().zip(&mut embeddings[elements]) {
                *x += (2.0 * stream.uniform(i as u64) - 1.0) * bound;
            }
        }
    }
}

/// What the loss of some tokens is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Loss {
    /// Nats, over all counted tokens.
    pub sum: f64,
    /// Tokens that count.
    pub tokens: usize,
}

impl Loss {
    /// Nats per token.
    pub fn mean(&self) -> f64 {
        self.sum / self.tokens.max(1) as f64
    }

    /// Both together.
    pub fn plus(self, other: Loss) -> Loss {
        Loss {
            sum: self.sum + other.sum,
            tokens: self.tokens + other.tokens,
        }
    }
}

/// Where gradients are added: for all weights, for an adapter, or for both.
#[derive(Default)]
pub struct Gradients<'a> {
    /// Shaped as [`Decoder::weights`].
    pub weights: Option<&'a mut Tensors>,
    /// Shaped as [`Lora::tensors`].
    pub lora: Option<&'a mut Tensors>,
}

/// What a forward pass leaves behind.
struct Tape {
    /// None where no gradient is wanted.
    blocks: Vec<Kept>,
    /// Residual stream after the last block.
    last: Vec<f32>,
}

/// What is kept of a block for the backward pass.
enum Kept {
    /// Its input, of which the rest is made again.
    Input(Vec<f32>),
    /// All that is not cheap to make again.
    Block(Box<Block>),
}

/// Whether a backward pass follows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follows {
    Nothing,
    Backward,
}

/// One pass over one batch: what all steps of it share.
pub(super) struct Pass<'a> {
    pub(super) decoder: &'a Decoder,
    pub(super) lora: Option<&'a Lora>,
    pub(super) batch: &'a Batch,
    pub(super) dropout: Option<Dropout>,
    /// Of an adapter that has them.
    pub(super) magnitudes: Option<Magnitudes>,
}

impl Decoder {
    /// A decoder with weights of zeros.
    pub fn zeros(config: ModelConfig, isa: Isa) -> Self {
        let (layout, weights) = Layout::new(&config);
        let (positions, width) = (config.max_positions, config.head_dim);
        let ropes = config.ropes.iter();
        let rotaries = ropes.map(|rope| Rotary::new(positions, width, rope.theta, rope.scaling));
        Decoder {
            layout,
            weights,
            checkpointing: false,
            halves: Vec::new(),
            rotaries: rotaries.collect(),
            config,
            isa,
        }
    }

    /// A new decoder: norms one, biases zero, everything else normal with deviation `range`.
    pub fn init(config: ModelConfig, seed: u64, range: f32, isa: Isa) -> Self {
        let mut decoder = Self::zeros(config, isa);
        for tensor in decoder.weights.iter_mut() {
            if tensor.name.ends_with(".bias") {
                continue;
            } else if tensor.shape.len() == 1 {
                let one = if decoder.config.norm_plus_one {
                    0.0
                } else {
                    1.0
                };
                tensor.data.fill(one);
            } else {
                Stream::new(seed, "init", 0, &tensor.name).normal(0.0, range, &mut tensor.data);
            }
        }
        decoder
    }

    /// Opens a folder with `config.json` and safetensors, in f32.
    pub fn open(model: &Path, isa: Isa) -> Result<Self, ModelError> {
        Self::open_as(model, isa, Dtype::F32)
    }

    /// As [`Decoder::open`], with matrices in `dtype`. Those in bf16 cannot be trained.
    pub fn open_as(model: &Path, isa: Isa, dtype: Dtype) -> Result<Self, ModelError> {
        let mut decoder = Self::zeros(ModelConfig::read(model)?, isa);
        let tied = decoder.config.tied;
        // Older files hold the rotary frequencies too, and some the head twice.
        let spare = |name: &str| {
            name.ends_with(".rotary_emb.inv_freq") || (tied && name == "lm_head.weight")
        };
        decoder.halves = load(&mut decoder.weights, &model_files(model)?, spare, dtype)?;
        Ok(decoder)
    }

    /// The same decoder with its matrices rounded to bf16.
    pub fn rounded(mut self) -> Self {
        let half = |tensor: &mut Tensor| {
            let [rows, cols] = tensor.shape[..] else {
                return None;
            };
            let data = std::mem::take(&mut tensor.data);
            (data.len() == rows * cols).then(|| Half::rounded(rows, cols, &data))
        };
        self.halves = self.weights.iter_mut().map(half).collect();
        self
    }

    /// An error if a file that matrices are mapped from was written to since.
    pub fn unchanged(&self) -> Result<(), ModelError> {
        for half in self.halves.iter().flatten() {
            half.file().map_or(Ok(()), |file| file.unchanged())?;
        }
        Ok(())
    }

    /// A matrix as the right side of a product, [outputs, inputs].
    pub fn matrix(&self, id: TensorId) -> Operand<'_> {
        if let Some(half) = self.half(id) {
            return half.operand();
        }
        let tensor = self.weights.tensor(id);
        View::new(&tensor.data, tensor.shape[0], tensor.shape[1]).into()
    }

    /// Rows of a matrix in f32.
    pub(super) fn rows(&self, id: TensorId, rows: Range<usize>) -> Cow<'_, [f32]> {
        let tensor = self.weights.tensor(id);
        match self.half(id) {
            Some(half) => rows.flat_map(|row| half.row(row)).collect(),
            None => {
                let width = tensor.shape[1];
                Cow::Borrowed(&tensor.data[rows.start * width..rows.end * width])
            }
        }
    }

    fn half(&self, id: TensorId) -> Option<&Half> {
        self.halves.get(id.index())?.as_ref()
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The tables of a block's rotary embedding.
    pub fn rotary(&self, layer: usize) -> Option<&Rotary> {
        let rope = self.config.attention[layer].rope?;
        Some(&self.rotaries[rope])
    }

    /// Multiply-adds a token takes in all linear layers and the head.
    pub fn linear_weights(&self) -> usize {
        let blocks: usize = Slot::ALL
            .iter()
            .map(|slot| slot.size(&self.config))
            .map(|(outputs, inputs)| outputs * inputs)
            .sum();
        self.config.layers * blocks + self.config.vocab_size * self.config.hidden_size
    }

    /// The loss of a batch, without dropout.
    pub fn loss(&self, lora: Option<&Lora>, batch: &Batch) -> Loss {
        let pass = self.pass(lora, batch, None);
        let normed = self.head_input(&pass);
        self.head(&normed, batch, 0.0, None).0
    }

    /// The loss of a batch; `scale` times the gradient of its sum is added to `gradients`.
    pub fn gradients(
        &self,
        lora: Option<&Lora>,
        batch: &Batch,
        dropout: Option<Dropout>,
        scale: f32,
        mut gradients: Gradients<'_>,
    ) -> Loss {
        let pass = self.pass(lora, batch, dropout);
        let tape = self.forward(&pass, Follows::Backward);
        let normed = self.norm(self.layout.norm, &tape.last);
        let (loss, grad) = self.head(&normed, batch, scale, Some(&mut gradients));
        drop(normed);
        self.backward(&pass, tape, grad, gradients);
        loss
    }

    /// Logits [tokens, vocabulary] of a batch.
    pub fn logits(&self, lora: Option<&Lora>, batch: &Batch) -> Vec<f32> {
        let normed = self.head_input(&self.pass(lora, batch, None));
        let normed = View::new(&normed, batch.len(), self.config.hidden_size);
        let mut logits = self.head_logits(normed);
        self.cap_logits(&mut logits);
        logits
    }

    fn pass<'a>(
        &'a self,
        lora: Option<&'a Lora>,
        batch: &'a Batch,
        dropout: Option<Dropout>,
    ) -> Pass<'a> {
        Pass {
            decoder: self,
            lora,
            batch,
            dropout,
            magnitudes: lora.and_then(|lora| Magnitudes::of(self, lora)),
        }
    }

    /// The first module whose output for a batch is not finite.
    pub fn first_not_finite(&self, lora: Option<&Lora>, batch: &Batch) -> Option<Place> {
        let bad = |x: &[f32]| !elementwise::sum_of_squares(self.isa, x).is_finite();
        let place = |module: String| Some(Place::of(module, self, lora));
        let pass = self.pass(lora, batch, None);
        let mut x = self.embed(batch.tokens.iter().copied());
        if bad(&x) {
            return place("model.embed_tokens".to_owned());
        }
        for layer in 0..self.config.layers {
            x = pass.output(layer, &x);
            if bad(&x) {
                return place(format!("model.layers.{layer}"));
            }
        }
        let normed = self.norm(self.layout.norm, &x);
        if bad(&normed) {
            return place("model.norm".to_owned());
        }
        let (loss, _) = self.head(&normed, batch, 0.0, None);
        match loss.sum.is_finite() {
            true => None,
            false => place("lm_head".to_owned()),
        }
    }

    /// Caps logits where the model does.
    pub fn cap_logits(&self, logits: &mut [f32]) {
        if let Some(cap) = self.config.logit_cap {
            elementwise::soft_cap(self.isa, logits, cap as f32);
        }
    }

    /// The residual stream in front of the first block.
    pub fn embed(&self, tokens: impl ExactSizeIterator<Item = u32>) -> Vec<f32> {
        let hidden = self.config.hidden_size;
        let embed = self.weights.get(self.layout.embed);
        let mut x = Vec::with_capacity(tokens.len() * hidden);
        for token in tokens {
            match self.half(self.layout.embed) {
                Some(half) => x.extend(half.row(token as usize)),
                None => x.extend_from_slice(&embed[token as usize * hidden..][..hidden]),
            }
        }
        if let Some(factor) = self.config.embedding_scale() {
            elementwise::scale(&mut x, factor);
        }
        x
    }

    /// x·Wᵀ of the head, [rows, vocabulary].
    fn head_logits(&self, x: View<'_>) -> Vec<f32> {
        let vocabulary = self.config.vocab_size;
        let mut logits = vec![0.0; x.rows() * vocabulary];
        let b = self.matrix(self.layout.head).t();
        sum_of_products(
            self.isa,
            &[Term { a: x, b }],
            &mut logits,
            vocabulary,
            false,
        );
        logits
    }

    /// What the head reads, where no backward pass follows.
    fn head_input(&self, pass: &Pass<'_>) -> Vec<f32> {
        let tape = self.forward(pass, Follows::Nothing);
        self.norm(self.layout.norm, &tape.last)
    }

    fn forward(&self, pass: &Pass<'_>, follows: Follows) -> Tape {
        let mut x = self.embed(pass.batch.tokens.iter().copied());
        if let Some(chance) = pass.dropout {
            chance.add_noise(pass.batch, &mut x);
        }
        let mut blocks = Vec::new();
        for layer in 0..self.config.layers {
            x = match (follows, self.checkpointing) {
                (Follows::Nothing, _) => pass.output(layer, &x),
                (Follows::Backward, true) => {
                    let output = pass.output(layer, &x);
                    blocks.push(Kept::Input(x));
                    output
                }
                (Follows::Backward, false) => {
                    let (block, output) = pass.block(layer, x);
                    blocks.push(Kept::Block(Box::new(block)));
                    output
                }
            };
        }
        Tape { blocks, last: x }
    }

    /// Bytes of what a forward pass keeps of the blocks.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self, lora: Option<&Lora>, batch: &Batch) -> usize {
        let tape = self.forward(&self.pass(lora, batch, None), Follows::Backward);
        let bytes = tape.blocks.iter().map(|kept| match kept {
            Kept::Input(input) => size_of_val(input.as_slice()),
            Kept::Block(block) => block.bytes(),
        });
        bytes.sum()
    }

    /// Normalized rows of the norm's width.
    pub fn norm(&self, weight: TensorId, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        let eps = self.config.norm_eps as f32;
        norm::rms_norm(self.isa, x, &self.norm_weight(weight), eps, &mut out);
        out
    }

    /// What a norm multiplies with.
    fn norm_weight(&self, weight: TensorId) -> Cow<'_, [f32]> {
        let weight = self.weights.get(weight);
        match self.config.norm_plus_one {
            true => weight.iter().map(|w| 1.0 + w).collect(),
            false => Cow::Borrowed(weight),
        }
    }

    pub(super) fn norm_backward(
        &self,
        weight: TensorId,
        x: &[f32],
        grad: &mut [f32],
        gradients: &mut Gradients<'_>,
    ) {
        let eps = self.config.norm_eps as f32;
        let total = gradients.weights.as_deref_mut();
        let total = total.map(|weights| weights.get_mut(weight));
        norm::rms_norm_backward(self.isa, x, &self.norm_weight(weight), eps, grad, total);
    }

    /// Loss of the batch, and the gradient of the head's input when gradients
    /// are wanted. Only rows with a target pass through the head.
    fn head(
        &self,
        normed: &[f32],
        batch: &Batch,
        scale: f32,
        mut gradients: Option<&mut Gradients<'_>>,
    ) -> (Loss, Vec<f32>) {
        let (hidden, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        let rows: Vec<usize> = (0..batch.len())
            .filter(|row| batch.targets[*row] != IGNORE)
            .collect();
        let mut loss = Loss::default();
        let mut grad = vec![0.0; if gradients.is_some() { normed.len() } else { 0 }];
        for rows in rows.chunks(LOGIT_ROWS) {
            let n = rows.len();
            let targets: Vec<u32> = rows.iter().map(|row| batch.targets[*row]).collect();
            let x = gather(normed, rows, hidden);
            let view = View::new(&x, n, hidden);
            let mut logits = self.head_logits(view);
            let cap = self.config.logit_cap.map(|cap| cap as f32);
            let losses = loss::cross_entropy(self.isa, &mut logits, &targets, scale, cap);
            loss.sum += losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
            loss.tokens += n;
            let Some(gradients) = gradients.as_deref_mut() else {
                continue;
            };
            let dlogits = View::new(&logits, n, vocabulary);
            let mut dx = vec![0.0; n * hidden];
            let back = Term {
                a: dlogits,
                b: self.matrix(self.layout.head),
            };
            sum_of_products(self.isa, &[back], &mut dx, hidden, false);
            for (row, dx) in rows.iter().zip(dx.chunks_exact(hidden)) {
                grad[row * hidden..][..hidden].copy_from_slice(dx);
            }
            if let Some(weights) = gradients.weights.as_deref_mut() {
                let dhead = weights.get_mut(self.layout.head);
                gemm(self.isa, dlogits.t(), view, dhead, hidden, true);
            }
        }
        (loss, grad)
    }

    fn backward(
        &self,
        pass: &Pass<'_>,
        tape: Tape,
        mut grad: Vec<f32>,
        mut gradients: Gradients<'_>,
    ) {
        self.norm_backward(self.layout.norm, &tape.last, &mut grad, &mut gradients);
        drop(tape.last);
        for (layer, kept) in tape.blocks.into_iter().enumerate().rev() {
            let block = match kept {
                Kept::Block(block) => *block,
                Kept::Input(input) => pass.again(layer, input),
            };
            grad = pass.block_backward(layer, block, grad, &mut gradients);
        }
        if let Some(weights) = gradients.weights {
            let hidden = self.config.hidden_size;
            if let Some(factor) = self.config.embedding_scale() {
                elementwise::scale(&mut grad, factor);
            }
            let embed = weights.get_mut(self.layout.embed);
            for (token, grad) in pass.batch.tokens.iter().zip(grad.chunks_exact(hidden)) {
                let row = &mut embed[*token as usize * hidden..][..hidden];
                row.iter_mut().zip(grad).for_each(|(sum, x)| *sum += x);
            }
        }
    }
}

fn gather(x: &[f32], rows: &[usize], width: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len() * width);
    for row in rows {
        out.extend_from_slice(&x[row * width..(row + 1) * width]);
    }
    out
}
