//! One block of the decoder: forward, what it keeps, and backward.
//!
//! What is cheap to make again in the backward pass is not kept: normalized
//! inputs, the product of gate and up, the sum in the middle where the branch
//! before it is kept, and rotated heads where their inputs are. All of it
//! comes out with the bits it had.

use std::borrow::Cow;

use super::kernels::attention::{self, Qkv, Saved, Shape};
use super::kernels::elementwise::{self, Rotary};
use super::layout::{BranchNorms, Slot};
use super::model::{Gradients, Pass};
use super::tensors::TensorId;

/// What the forward pass of a block keeps for the backward pass.
pub(super) struct Block {
    input: Vec<f32>,
    /// Queries and keys: rotated, heads first, or where they are normalized
    /// as their projections gave them, which the norms' gradients need.
    queries: Vec<f32>,
    keys: Vec<f32>,
    /// Heads first.
    values: Vec<f32>,
    lse: Vec<f32>,
    attended: Vec<f32>,
    middle: Middle,
    gate: Vec<f32>,
    up: Vec<f32>,
    /// Output of down; only its norm needs it.
    mlp_output: Vec<f32>,
}

/// The residual stream between attention and the MLP.
enum Middle {
    /// Itself.
    Stream(Vec<f32>),
    /// The output of attention, whose norm, which needs it, and the block's input make it.
    Branch(Vec<f32>),
}

/// Queries, keys and values, heads first.
struct Heads<'a>([Cow<'a, [f32]>; 3]);

impl Heads<'_> {
    fn qkv(&self) -> Qkv<'_> {
        let [q, k, v] = &self.0;
        Qkv { q, k, v }
    }
}

/// Attention's half of a block.
struct Attention {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    lse: Vec<f32>,
    attended: Vec<f32>,
    /// Output of o.
    output: Vec<f32>,
}

impl Block {
    /// Bytes of what is kept.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let (Middle::Stream(middle) | Middle::Branch(middle)) = &self.middle;
        let all = [
            &self.input,
            &self.queries,
            &self.keys,
            &self.values,
            &self.lse,
            &self.attended,
            middle,
            &self.gate,
            &self.up,
            &self.mlp_output,
        ];
        all.map(|x| size_of_val(x.as_slice())).iter().sum()
    }
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

    /// A branch's input: the residual stream, normalized where the branch has a norm for it.
    fn before<'a>(&self, norms: BranchNorms, x: &'a [f32]) -> Cow<'a, [f32]> {
        match norms.before {
            Some(id) => Cow::Owned(self.decoder.norm(id, x)),
            None => Cow::Borrowed(x),
        }
    }

    /// The residual stream behind a branch.
    fn after(&self, norms: BranchNorms, branch: Cow<'_, [f32]>, stream: &[f32]) -> Vec<f32> {
        let mut sum = match norms.after {
            Some(id) => self.decoder.norm(id, &branch),
            None => branch.into_owned(),
        };
        elementwise::add(&mut sum, stream);
        sum
    }

    /// One block; returns what it keeps and the residual stream behind it.
    pub(super) fn block(&self, layer: usize, input: Vec<f32>) -> (Block, Vec<f32>) {
        let ids = &self.decoder.layout.layers[layer];
        let (block, middle) = self.first_half(layer, input);
        let branch = self.down(layer, &block.gate, &block.up);
        match ids.mlp_norms.after {
            None => (block, self.after(ids.mlp_norms, branch.into(), &middle)),
            Some(_) => {
                let output = self.after(ids.mlp_norms, (&branch).into(), &middle);
                let mlp_output = branch;
                (
                    Block {
                        mlp_output,
                        ..block
                    },
                    output,
                )
            }
        }
    }

    /// The residual stream behind a block of which nothing is kept.
    pub(super) fn output(&self, layer: usize, input: &[f32]) -> Vec<f32> {
        let ids = &self.decoder.layout.layers[layer];
        let branch = self.attention(layer, input).output;
        let middle = self.after(ids.attention_norms, branch.into(), input);
        let (gate, up) = self.gate_and_up(layer, &middle);
        let branch = self.down(layer, &gate, &up);
        self.after(ids.mlp_norms, branch.into(), &middle)
    }

    /// What [`Pass::block`] kept, made again.
    pub(super) fn again(&self, layer: usize, input: Vec<f32>) -> Block {
        let (mut block, _) = self.first_half(layer, input);
        let norms = self.decoder.layout.layers[layer].mlp_norms;
        if norms.after.is_some() {
            block.mlp_output = self.down(layer, &block.gate, &block.up);
        }
        block
    }

    /// A block up to gate and up, and the residual stream in its middle.
    fn first_half(&self, layer: usize, input: Vec<f32>) -> (Block, Vec<f32>) {
        let norms = self.decoder.layout.layers[layer].attention_norms;
        let attention = self.attention(layer, &input);
        let branch = attention.output;
        let (middle, stream) = match norms.after {
            Some(_) => {
                let stream = self.after(norms, (&branch).into(), &input);
                (Middle::Branch(branch), stream)
            }
            None => {
                let stream = self.after(norms, branch.into(), &input);
                (Middle::Stream(stream.clone()), stream)
            }
        };
        let (gate, up) = self.gate_and_up(layer, &stream);
        let block = Block {
            input,
            queries: attention.queries,
            keys: attention.keys,
            values: attention.values,
            lse: attention.lse,
            attended: attention.attended,
            middle,
            gate,
            up,
            mlp_output: Vec::new(),
        };
        (block, stream)
    }

    fn attention(&self, layer: usize, input: &[f32]) -> Attention {
        let ids = &self.decoder.layout.layers[layer];
        let x = self.before(ids.attention_norms, input);
        let mut queries = self.linear(layer, Slot::Q, &x);
        let mut keys = self.linear(layer, Slot::K, &x);
        let values = self.linear(layer, Slot::V, &x);
        drop(x);
        let values = self.heads_first(layer, &values, false);
        if ids.qk_norms.is_none() {
            queries = self.heads_first(layer, &queries, true);
            keys = self.heads_first(layer, &keys, true);
        }
        let (attended, lse) = self.attend(layer, &self.heads(layer, &queries, &keys, &values));
        let output = self.linear(layer, Slot::O, &attended);
        Attention {
            queries,
            keys,
            values,
            lse,
            attended,
            output,
        }
    }

    fn gate_and_up(&self, layer: usize, middle: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let norms = self.decoder.layout.layers[layer].mlp_norms;
        let x = self.before(norms, middle);
        let gate = self.linear(layer, Slot::Gate, &x);
        let up = self.linear(layer, Slot::Up, &x);
        (gate, up)
    }

    /// What gate lets through of up.
    fn product(&self, gate: &[f32], up: &[f32]) -> Vec<f32> {
        let mut product = vec![0.0; gate.len()];
        let activation = self.decoder.config.activation;
        elementwise::gated(self.decoder.isa(), activation, gate, up, &mut product);
        product
    }

    fn down(&self, layer: usize, gate: &[f32], up: &[f32]) -> Vec<f32> {
        self.linear(layer, Slot::Down, &self.product(gate, up))
    }

    /// The gradient of a block's input from that of its output.
    pub(super) fn block_backward(
        &self,
        layer: usize,
        block: Block,
        mut grad: Vec<f32>,
        gradients: &mut Gradients<'_>,
    ) -> Vec<f32> {
        let norms = self.decoder.layout.layers[layer].attention_norms;
        let Block {
            input,
            queries,
            keys,
            values,
            lse,
            attended,
            middle,
            gate,
            up,
            mlp_output,
        } = block;
        let (stream, output) = match middle {
            Middle::Stream(stream) => (stream, Vec::new()),
            Middle::Branch(branch) => (self.after(norms, (&branch).into(), &input), branch),
        };
        let mlp = Mlp {
            middle: stream,
            gate,
            up,
            output: mlp_output,
        };
        let dx = self.mlp_backward(layer, mlp, &grad, gradients);
        elementwise::add(&mut grad, &dx);
        drop(dx);
        let attention = Attention {
            queries,
            keys,
            values,
            lse,
            attended,
            output,
        };
        let dx = self.attention_backward(layer, &input, attention, &grad, gradients);
        elementwise::add(&mut grad, &dx);
        grad
    }

    /// The gradient of the MLP's input, its norms included, from that of the block's output.
    fn mlp_backward(
        &self,
        layer: usize,
        mlp: Mlp,
        grad: &[f32],
        gradients: &mut Gradients<'_>,
    ) -> Vec<f32> {
        let decoder = self.decoder;
        let norms = decoder.layout.layers[layer].mlp_norms;
        let Mlp {
            middle,
            mut gate,
            mut up,
            output,
        } = mlp;
        let mut branch = Cow::Borrowed(grad);
        if let Some(id) = norms.after {
            decoder.norm_backward(id, &output, branch.to_mut(), gradients);
        }
        drop(output);
        let x = self.product(&gate, &up);
        let mut product = vec![0.0; x.len()];
        self.linear_backward(layer, Slot::Down, &x, &branch, &mut product, gradients);
        drop((x, branch));
        let activation = decoder.config.activation;
        elementwise::gated_backward(decoder.isa(), activation, &mut gate, &mut up, &product);
        drop(product);
        let x = self.before(norms, &middle);
        let mut dx = vec![0.0; x.len()];
        self.linear_backward(layer, Slot::Gate, &x, &gate, &mut dx, gradients);
        drop(gate);
        self.linear_backward(layer, Slot::Up, &x, &up, &mut dx, gradients);
        if let Some(id) = norms.before {
            decoder.norm_backward(id, &middle, &mut dx, gradients);
        }
        dx
    }

    /// The gradient of attention's input, its norms included, from that of its output.
    fn attention_backward(
        &self,
        layer: usize,
        input: &[f32],
        kept: Attention,
        grad: &[f32],
        gradients: &mut Gradients<'_>,
    ) -> Vec<f32> {
        let decoder = self.decoder;
        let norms = decoder.layout.layers[layer].attention_norms;
        let mut branch = Cow::Borrowed(grad);
        if let Some(id) = norms.after {
            decoder.norm_backward(id, &kept.output, branch.to_mut(), gradients);
        }
        let x = &kept.attended;
        let mut attended = vec![0.0; x.len()];
        self.linear_backward(layer, Slot::O, x, &branch, &mut attended, gradients);
        drop(branch);
        let [q, k, v] = self.attend_backward(layer, kept, attended, gradients);
        let x = self.before(norms, input);
        let mut dx = vec![0.0; x.len()];
        self.linear_backward(layer, Slot::Q, &x, &q, &mut dx, gradients);
        drop(q);
        self.linear_backward(layer, Slot::K, &x, &k, &mut dx, gradients);
        self.linear_backward(layer, Slot::V, &x, &v, &mut dx, gradients);
        if let Some(id) = norms.before {
            decoder.norm_backward(id, input, &mut dx, gradients);
        }
        dx
    }

    /// [tokens, heads, width] → [heads, tokens, width], rotated where the block rotates.
    fn heads_first(&self, layer: usize, x: &[f32], rotated: bool) -> Vec<f32> {
        let (tokens, width) = (self.tokens(), self.decoder.config.head_dim);
        let rotary = self.rotary(layer).filter(|_| rotated);
        let mut out = vec![0.0; x.len()];
        elementwise::split_heads(x, tokens, width, rotary, &mut out);
        out
    }

    /// What attention reads, of queries and keys as [`Block`] keeps them.
    fn heads<'a>(&self, layer: usize, q: &'a [f32], k: &'a [f32], v: &'a [f32]) -> Heads<'a> {
        let head = |x: &'a [f32], id: Option<TensorId>| match id {
            None => Cow::Borrowed(x),
            Some(id) => {
                let normed = self.decoder.norm(id, x);
                Cow::Owned(self.heads_first(layer, &normed, true))
            }
        };
        let norms = self.decoder.layout.layers[layer].qk_norms;
        Heads([
            head(q, norms.map(|ids| ids[0])),
            head(k, norms.map(|ids| ids[1])),
            Cow::Borrowed(v),
        ])
    }

    /// Attended values, tokens first, and the log-sum-exp of the scores.
    fn attend(&self, layer: usize, heads: &Heads<'_>) -> (Vec<f32>, Vec<f32>) {
        let shape = self.shape(layer);
        let (sequences, isa) = (&self.batch.sequences, self.decoder.isa());
        let qkv = heads.qkv();
        let mut out = vec![0.0; qkv.q.len()];
        let mut lse = vec![0.0; shape.heads * shape.tokens];
        attention::attention(isa, shape, qkv, sequences, &mut out, &mut lse);
        let mut attended = vec![0.0; out.len()];
        elementwise::merge_heads(&out, shape.tokens, shape.width, None, &mut attended);
        (attended, lse)
    }

    /// Gradients of the outputs of q, k and v.
    fn attend_backward(
        &self,
        layer: usize,
        kept: Attention,
        grad: Vec<f32>,
        gradients: &mut Gradients<'_>,
    ) -> [Vec<f32>; 3] {
        let (decoder, shape) = (self.decoder, self.shape(layer));
        let isa = decoder.isa();
        let mut delta = vec![0.0; kept.lse.len()];
        attention::output_dot_gradient(isa, shape, &kept.attended, &grad, &mut delta);
        drop(kept.attended);
        let grad_heads = self.heads_first(layer, &grad, false);
        drop(grad);
        let heads = self.heads(layer, &kept.queries, &kept.keys, &kept.values);
        let qkv = heads.qkv();
        let [mut dq, mut dk, mut dv] = [qkv.q, qkv.k, qkv.v].map(|x| vec![0.0; x.len()]);
        let saved = Saved {
            lse: &kept.lse,
            delta: &delta,
            grad: &grad_heads,
        };
        let sequences = &self.batch.sequences;
        attention::attention_backward(isa, shape, qkv, sequences, saved, &mut dq, &mut dk, &mut dv);
        drop((heads, grad_heads));
        let rotary = self.rotary(layer);
        let mut merge = |heads: Vec<f32>, rotary, norm: Option<(TensorId, &[f32])>| {
            let mut out = vec![0.0; heads.len()];
            elementwise::merge_heads(&heads, shape.tokens, shape.width, rotary, &mut out);
            drop(heads);
            if let Some((id, x)) = norm {
                decoder.norm_backward(id, x, &mut out, gradients);
            }
            out
        };
        let norms = decoder.layout.layers[layer].qk_norms;
        [
            merge(dq, rotary, norms.map(|ids| (ids[0], &kept.queries[..]))),
            merge(dk, rotary, norms.map(|ids| (ids[1], &kept.keys[..]))),
            merge(dv, None, None),
        ]
    }
}

/// What the gradient of the MLP needs.
struct Mlp {
    middle: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    /// Output of down.
    output: Vec<f32>,
}
