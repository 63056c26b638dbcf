//! The decoder: one forward and one backward pass written by hand over the kernels.
//!
//! Activations are row-major, one row a token; a batch is sequences packed one
//! behind the other. The backward pass walks the forward pass line by line.

use std::borrow::Cow;
use std::path::Path;

use super::batch::{Batch, IGNORE};
use super::config::{ConfigError, ModelConfig};
use super::kernels::attention::{self, Qkv, Saved, Shape};
use super::kernels::elementwise::{self, Rotary};
use super::kernels::{Isa, Operand, Term, View, gemm, loss, norm, sum_of_products};
use super::layout::{BranchNorms, Layout, Slot};
use super::load::load;
use super::lora::Lora;
use super::matrix::{Dtype, Half};
use super::rng::Stream;
use super::tensors::{Tensor, TensorError, TensorId, Tensors, model_files};

/// Rows of logits that exist at once.
const LOGIT_ROWS: usize = 256;

/// A decoder with its weights.
pub struct Decoder {
    /// Shape and switches.
    pub config: ModelConfig,
    /// Where each weight is.
    pub layout: Layout,
    /// All weights.
    pub weights: Tensors,
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

/// The numbers that drop inputs of adapters in one micro-batch.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the micro-batch in the run.
    pub step: u64,
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

/// What the forward pass of one block keeps for the backward pass.
struct Block {
    input: Vec<f32>,
    /// Input of q, k and v; empty when that is `input`.
    attention_input: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    /// Rotated and normalized, heads first.
    heads: [Vec<f32>; 3],
    lse: Vec<f32>,
    attended: Vec<f32>,
    /// Output of o; only its norm needs it.
    attention_output: Vec<f32>,
    middle: Vec<f32>,
    /// Input of gate and up; empty when that is `middle`.
    mlp_input: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    product: Vec<f32>,
    /// Output of down; only its norm needs it.
    mlp_output: Vec<f32>,
}

/// A branch's normalized input, or the residual stream where there is no norm.
fn or<'a>(normed: &'a [f32], stream: &'a [f32]) -> &'a [f32] {
    match normed.is_empty() {
        true => stream,
        false => normed,
    }
}

/// What a forward pass leaves behind.
pub struct Tape {
    blocks: Vec<Block>,
    /// Residual stream after the last block.
    last: Vec<f32>,
    /// Normalized `last`, the head's input.
    normed: Vec<f32>,
}

/// One pass over one batch: what all steps of it share.
pub(super) struct Pass<'a> {
    pub(super) decoder: &'a Decoder,
    pub(super) lora: Option<&'a Lora>,
    batch: &'a Batch,
    pub(super) dropout: Option<Dropout>,
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
        let tape = self.forward(lora, batch, None);
        self.head(&tape, batch, 0.0, None).0
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
        let tape = self.forward(lora, batch, dropout);
        let (loss, grad) = self.head(&tape, batch, scale, Some(&mut gradients));
        self.backward(lora, batch, dropout, tape, grad, gradients);
        loss
    }

    /// Logits [tokens, vocabulary] of a batch.
    pub fn logits(&self, lora: Option<&Lora>, batch: &Batch) -> Vec<f32> {
        let tape = self.forward(lora, batch, None);
        let normed = View::new(&tape.normed, batch.len(), self.config.hidden_size);
        let mut logits = self.head_logits(normed);
        self.cap_logits(&mut logits);
        logits
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

    fn forward(&self, lora: Option<&Lora>, batch: &Batch, dropout: Option<Dropout>) -> Tape {
        let pass = Pass {
            decoder: self,
            lora,
            batch,
            dropout,
        };
        let mut x = self.embed(batch.tokens.iter().copied());
        let mut blocks = Vec::with_capacity(self.config.layers);
        for layer in 0..self.config.layers {
            let (block, output) = pass.block(layer, x);
            blocks.push(block);
            x = output;
        }
        let normed = self.norm(self.layout.norm, &x);
        Tape {
            blocks,
            last: x,
            normed,
        }
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

    fn norm_backward(
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
        tape: &Tape,
        batch: &Batch,
        scale: f32,
        mut gradients: Option<&mut Gradients<'_>>,
    ) -> (Loss, Vec<f32>) {
        let (hidden, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        let rows: Vec<usize> = (0..batch.len())
            .filter(|row| batch.targets[*row] != IGNORE)
            .collect();
        let mut loss = Loss::default();
        let mut grad = vec![
            0.0;
            if gradients.is_some() {
                tape.normed.len()
            } else {
                0
            }
        ];
        for rows in rows.chunks(LOGIT_ROWS) {
            let n = rows.len();
            let targets: Vec<u32> = rows.iter().map(|row| batch.targets[*row]).collect();
            let x = gather(&tape.normed, rows, hidden);
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
        lora: Option<&Lora>,
        batch: &Batch,
        dropout: Option<Dropout>,
        tape: Tape,
        mut grad: Vec<f32>,
        mut gradients: Gradients<'_>,
    ) {
        let pass = Pass {
            decoder: self,
            lora,
            batch,
            dropout,
        };
        self.norm_backward(self.layout.norm, &tape.last, &mut grad, &mut gradients);
        for (layer, block) in tape.blocks.into_iter().enumerate().rev() {
            grad = pass.block_backward(layer, block, grad, &mut gradients);
        }
        if let Some(weights) = gradients.weights {
            let hidden = self.config.hidden_size;
            if let Some(factor) = self.config.embedding_scale() {
                elementwise::scale(&mut grad, factor);
            }
            let embed = weights.get_mut(self.layout.embed);
            for (token, grad) in batch.tokens.iter().zip(grad.chunks_exact(hidden)) {
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

impl Pass<'_> {
    pub(super) fn tokens(&self) -> usize {
        self.batch.len()
    }

    fn shape(&self, layer: usize) -> Shape {
        Shape {
            tokens: self.tokens(),
            heads: self.decoder.config.heads,
            kv_heads: self.decoder.config.kv_heads,
            width: self.decoder.config.head_dim,
            scoring: self.decoder.config.scoring(layer),
        }
    }

    /// Tables and positions for the queries and keys of a block.
    fn rotary(&self, layer: usize) -> Option<(&Rotary, &[u32])> {
        let rotary = self.decoder.rotary(layer)?;
        Some((rotary, self.batch.positions.as_slice()))
    }

    /// A branch's input, normalized; empty when it is the residual stream itself.
    fn before(&self, norms: BranchNorms, x: &[f32]) -> Vec<f32> {
        let normed = norms.before.map(|id| self.decoder.norm(id, x));
        normed.unwrap_or_default()
    }

    /// What a branch adds to the residual stream, and its output if that is normalized first.
    fn after(&self, norms: BranchNorms, output: Vec<f32>) -> (Vec<f32>, Vec<f32>) {
        match norms.after {
            None => (output, Vec::new()),
            Some(id) => (self.decoder.norm(id, &output), output),
        }
    }

    /// One block; returns what it keeps and the residual stream behind it.
    fn block(&self, layer: usize, input: Vec<f32>) -> (Block, Vec<f32>) {
        let decoder = self.decoder;
        let ids = &decoder.layout.layers[layer];

        let attention_input = self.before(ids.attention_norms, &input);
        let x = or(&attention_input, &input);
        let q = self.linear(layer, Slot::Q, x);
        let k = self.linear(layer, Slot::K, x);
        let v = self.linear(layer, Slot::V, x);
        let heads = self.split(layer, &q, &k, &v);
        let (attended, lse) = self.attend(layer, &heads);
        let output = self.linear(layer, Slot::O, &attended);
        let (mut middle, attention_output) = self.after(ids.attention_norms, output);
        elementwise::add(&mut middle, &input);

        let mlp_input = self.before(ids.mlp_norms, &middle);
        let x = or(&mlp_input, &middle);
        let gate = self.linear(layer, Slot::Gate, x);
        let up = self.linear(layer, Slot::Up, x);
        let mut product = vec![0.0; gate.len()];
        let activation = decoder.config.activation;
        elementwise::gated(decoder.isa, activation, &gate, &up, &mut product);
        let output = self.linear(layer, Slot::Down, &product);
        let (mut output, mlp_output) = self.after(ids.mlp_norms, output);
        elementwise::add(&mut output, &middle);

        let block = Block {
            input,
            attention_input,
            q,
            k,
            heads,
            lse,
            attended,
            attention_output,
            middle,
            mlp_input,
            gate,
            up,
            product,
            mlp_output,
        };
        (block, output)
    }

    /// The gradient of a block's input from that of its output.
    fn block_backward(
        &self,
        layer: usize,
        mut block: Block,
        mut grad: Vec<f32>,
        gradients: &mut Gradients<'_>,
    ) -> Vec<f32> {
        let dx = self.mlp_backward(layer, &mut block, &grad, gradients);
        elementwise::add(&mut grad, &dx);
        let dx = self.attention_backward(layer, &block, &grad, gradients);
        elementwise::add(&mut grad, &dx);
        grad
    }

    /// The gradient of the MLP's input, its norms included, from that of the block's output.
    fn mlp_backward(
        &self,
        layer: usize,
        block: &mut Block,
        grad: &[f32],
        gradients: &mut Gradients<'_>,
    ) -> Vec<f32> {
        let decoder = self.decoder;
        let norms = decoder.layout.layers[layer].mlp_norms;
        let mut branch = grad.to_vec();
        if let Some(id) = norms.after {
            decoder.norm_backward(id, &block.mlp_output, &mut branch, gradients);
        }
        let x = &block.product;
        let mut product = vec![0.0; x.len()];
        self.linear_backward(layer, Slot::Down, x, &branch, &mut product, gradients);
        let mut gate = std::mem::take(&mut block.gate);
        let mut up = std::mem::take(&mut block.up);
        let activation = decoder.config.activation;
        elementwise::gated_backward(decoder.isa, activation, &mut gate, &mut up, &product);
        let x = or(&block.mlp_input, &block.middle);
        let mut dx = vec![0.0; x.len()];
        self.linear_backward(layer, Slot::Gate, x, &gate, &mut dx, gradients);
        self.linear_backward(layer, Slot::Up, x, &up, &mut dx, gradients);
        if let Some(id) = norms.before {
            decoder.norm_backward(id, &block.middle, &mut dx, gradients);
        }
        dx
    }

    /// The gradient of attention's input, its norms included, from that of its output.
    fn attention_backward(
        &self,
        layer: usize,
        block: &Block,
        grad: &[f32],
        gradients: &mut Gradients<'_>,
    ) -> Vec<f32> {
        let decoder = self.decoder;
        let norms = decoder.layout.layers[layer].attention_norms;
        let mut branch = grad.to_vec();
        if let Some(id) = norms.after {
            decoder.norm_backward(id, &block.attention_output, &mut branch, gradients);
        }
        let x = &block.attended;
        let mut attended = vec![0.0; x.len()];
        self.linear_backward(layer, Slot::O, x, &branch, &mut attended, gradients);
        let [q, k, v] = self.attend_backward(layer, block, &attended, gradients);
        let x = or(&block.attention_input, &block.input);
        let mut dx = vec![0.0; x.len()];
        self.linear_backward(layer, Slot::Q, x, &q, &mut dx, gradients);
        self.linear_backward(layer, Slot::K, x, &k, &mut dx, gradients);
        self.linear_backward(layer, Slot::V, x, &v, &mut dx, gradients);
        if let Some(id) = norms.before {
            decoder.norm_backward(id, &block.input, &mut dx, gradients);
        }
        dx
    }

    /// Normalizes and rotates queries and keys, and puts all three heads first.
    fn split(&self, layer: usize, q: &[f32], k: &[f32], v: &[f32]) -> [Vec<f32>; 3] {
        let decoder = self.decoder;
        let (tokens, width) = (self.tokens(), decoder.config.head_dim);
        let rotary = self.rotary(layer);
        let norms = decoder.layout.layers[layer].qk_norms;
        let split = |x: &[f32], id: Option<TensorId>, rotary| {
            let mut out = vec![0.0; x.len()];
            match id {
                None => elementwise::split_heads(x, tokens, width, rotary, &mut out),
                Some(id) => {
                    let normed = decoder.norm(id, x);
                    elementwise::split_heads(&normed, tokens, width, rotary, &mut out);
                }
            }
            out
        };
        [
            split(q, norms.map(|ids| ids[0]), rotary),
            split(k, norms.map(|ids| ids[1]), rotary),
            split(v, None, None),
        ]
    }

    /// Attended values, tokens first, and the log-sum-exp of the scores.
    fn attend(&self, layer: usize, [q, k, v]: &[Vec<f32>; 3]) -> (Vec<f32>, Vec<f32>) {
        let shape = self.shape(layer);
        let mut heads = vec![0.0; q.len()];
        let mut lse = vec![0.0; shape.heads * shape.tokens];
        let sequences = &self.batch.sequences;
        let isa = self.decoder.isa;
        attention::attention(isa, shape, Qkv { q, k, v }, sequences, &mut heads, &mut lse);
        let mut attended = vec![0.0; q.len()];
        elementwise::merge_heads(&heads, shape.tokens, shape.width, None, &mut attended);
        (attended, lse)
    }

    /// Gradients of the outputs of q, k and v.
    fn attend_backward(
        &self,
        layer: usize,
        block: &Block,
        grad: &[f32],
        gradients: &mut Gradients<'_>,
    ) -> [Vec<f32>; 3] {
        let (decoder, shape) = (self.decoder, self.shape(layer));
        let isa = decoder.isa;
        let mut delta = vec![0.0; block.lse.len()];
        attention::output_dot_gradient(isa, shape, &block.attended, grad, &mut delta);
        let mut grad_heads = vec![0.0; grad.len()];
        elementwise::split_heads(grad, shape.tokens, shape.width, None, &mut grad_heads);
        let [q, k, v] = &block.heads;
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        let saved = Saved {
            lse: &block.lse,
            delta: &delta,
            grad: &grad_heads,
        };
        let sequences = &self.batch.sequences;
        let qkv = Qkv { q, k, v };
        attention::attention_backward(isa, shape, qkv, sequences, saved, &mut dq, &mut dk, &mut dv);
        let rotary = self.rotary(layer);
        let mut merge = |heads: &[f32], rotary, norm: Option<(TensorId, &[f32])>| {
            let mut out = vec![0.0; heads.len()];
            elementwise::merge_heads(heads, shape.tokens, shape.width, rotary, &mut out);
            if let Some((id, x)) = norm {
                decoder.norm_backward(id, x, &mut out, gradients);
            }
            out
        };
        let norms = decoder.layout.layers[layer].qk_norms;
        [
            merge(&dq, rotary, norms.map(|ids| (ids[0], block.q.as_slice()))),
            merge(&dk, rotary, norms.map(|ids| (ids[1], block.k.as_slice()))),
            merge(&dv, None, None),
        ]
    }
}
