//! Causal attention over sequences packed one behind the other, forward and backward.
//!
//! Tokens attend within their own sequence only (block-diagonal), so packing
//! needs no padding and changes no result. Scores exist for 64 queries at a
//! time; the backward pass makes them again from the saved log-sum-exp, as in
//! FlashAttention (Dao et al., 2022).

use std::ops::Range;

use rayon::prelude::*;

use super::gemm::{View, gemm_serial};
use super::isa::{Isa, dispatched};
use super::lanes;

/// Queries whose scores are held at once.
const QUERIES: usize = 64;

/// The sizes of an attention layer.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Tokens in all sequences together.
    pub tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub width: usize,
}

impl Shape {
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn head(&self) -> usize {
        self.tokens * self.width
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }
}

/// Queries, keys and values, each [heads, tokens, width].
#[derive(Clone, Copy)]
pub struct Qkv<'a> {
    /// Queries, rotated.
    pub q: &'a [f32],
    /// Keys, rotated.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
}

/// Writes the attended values [heads, tokens, width] and the log-sum-exp of
/// every query's scores [heads, tokens].
pub fn attention(
    isa: Isa,
    shape: Shape,
    qkv: Qkv<'_>,
    sequences: &[Range<usize>],
    out: &mut [f32],
    lse: &mut [f32],
) {
    out.par_chunks_mut(shape.head())
        .zip(lse.par_chunks_mut(shape.tokens))
        .enumerate()
        .for_each(|(head, (out, lse))| {
            let kv = head / shape.group();
            let q = &qkv.q[head * shape.head()..][..shape.head()];
            let k = &qkv.k[kv * shape.head()..][..shape.head()];
            let v = &qkv.v[kv * shape.head()..][..shape.head()];
            let mut scores = Vec::new();
            for sequence in sequences {
                for rows in blocks(sequence) {
                    let keys = sequence.start..rows.end;
                    raw_scores(isa, shape, q, k, &rows, &keys, &mut scores);
                    softmax(
                        isa,
                        &mut scores,
                        keys.len(),
                        shape.scale(),
                        &mut lse[rows.clone()],
                    );
                    let p = View::new(&scores, rows.len(), keys.len());
                    let o = &mut out[rows.start * shape.width..rows.end * shape.width];
                    gemm_serial(isa, p, part(v, &keys, shape.width), o, shape.width, false);
                }
            }
        });
}

/// Queries in blocks of [`QUERIES`].
fn blocks(sequence: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let end = sequence.end;
    sequence
        .clone()
        .step_by(QUERIES)
        .map(move |start| start..(start + QUERIES).min(end))
}

fn part<'a>(head: &'a [f32], rows: &Range<usize>, width: usize) -> View<'a> {
    View::new(
        &head[rows.start * width..rows.end * width],
        rows.len(),
        width,
    )
}

/// Q·Kᵀ for some queries, [rows, keys].
fn raw_scores(
    isa: Isa,
    shape: Shape,
    q: &[f32],
    k: &[f32],
    rows: &Range<usize>,
    keys: &Range<usize>,
    scores: &mut Vec<f32>,
) {
    scores.resize(rows.len() * keys.len(), 0.0);
    let (q, k) = (part(q, rows, shape.width), part(k, keys, shape.width));
    gemm_serial(isa, q, k.t(), scores, keys.len(), false);
}

dispatched! {
    /// Scores → probabilities, causal: row i of the block sees all keys but the last `rows - 1 - i`.
    fn softmax(scores: &mut [f32], keys: usize, scale: f32, lse: &mut [f32]) {
        let rows = lse.len();
        for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
            let (seen, hidden) = row.split_at_mut(keys - rows + 1 + i);
            let max = lanes::max(seen) * scale;
            for x in seen.iter_mut() {
                *x = lanes::exp(*x * scale - max);
            }
            let sum = lanes::sum(seen);
            let inverse = 1.0 / sum;
            for x in seen.iter_mut() {
                *x *= inverse;
            }
            hidden.fill(0.0);
            lse[i] = max + libm::log(f64::from(sum)) as f32;
        }
    }
}

/// What the backward pass of attention starts from.
#[derive(Clone, Copy)]
pub struct Saved<'a> {
    /// Log-sum-exp of the scores, [heads, tokens].
    pub lse: &'a [f32],
    /// Σ over the width of output · its gradient, [heads, tokens].
    pub delta: &'a [f32],
    /// The gradient of the output, [heads, tokens, width].
    pub grad: &'a [f32],
}

/// Writes the gradients of queries, keys and values, in their layouts.
#[expect(clippy::too_many_arguments, reason = "three inputs and three outputs")]
pub fn attention_backward(
    isa: Isa,
    shape: Shape,
    qkv: Qkv<'_>,
    sequences: &[Range<usize>],
    saved: Saved<'_>,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    dq.par_chunks_mut(shape.group() * shape.head())
        .zip(dk.par_chunks_mut(shape.head()))
        .zip(dv.par_chunks_mut(shape.head()))
        .enumerate()
        .for_each(|(kv, ((dq, dk), dv))| {
            dk.fill(0.0);
            dv.fill(0.0);
            for (i, dq) in dq.chunks_exact_mut(shape.head()).enumerate() {
                let head = Head::new(shape, qkv, saved, kv * shape.group() + i);
                let mut buffers = (Vec::new(), Vec::new());
                for sequence in sequences {
                    for rows in blocks(sequence) {
                        let keys = sequence.start..rows.end;
                        head.block(isa, shape, rows, keys, &mut buffers, dq, dk, dv);
                    }
                }
            }
        });
}

/// The slices of one query head.
struct Head<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    grad: &'a [f32],
    lse: &'a [f32],
    delta: &'a [f32],
}

impl<'a> Head<'a> {
    fn new(shape: Shape, qkv: Qkv<'a>, saved: Saved<'a>, head: usize) -> Self {
        let size = shape.head();
        let kv = head / shape.group();
        Head {
            q: &qkv.q[head * size..][..size],
            k: &qkv.k[kv * size..][..size],
            v: &qkv.v[kv * size..][..size],
            grad: &saved.grad[head * size..][..size],
            lse: &saved.lse[head * shape.tokens..][..shape.tokens],
            delta: &saved.delta[head * shape.tokens..][..shape.tokens],
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one block of three gradients")]
    fn block(
        &self,
        isa: Isa,
        shape: Shape,
        rows: Range<usize>,
        keys: Range<usize>,
        (p, ds): &mut (Vec<f32>, Vec<f32>),
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &mut [f32],
    ) {
        let width = shape.width;
        let of = |range: &Range<usize>| range.start * width..range.end * width;
        raw_scores(isa, shape, self.q, self.k, &rows, &keys, p);
        raw_scores(isa, shape, self.grad, self.v, &rows, &keys, ds);
        let (lse, delta) = (&self.lse[rows.clone()], &self.delta[rows.clone()]);
        score_gradients(isa, p, ds, keys.len(), shape.scale(), lse, delta);
        let p = View::new(p, rows.len(), keys.len());
        let ds = View::new(ds, rows.len(), keys.len());
        let (grad, q) = (part(self.grad, &rows, width), part(self.q, &rows, width));
        gemm_serial(isa, p.t(), grad, &mut dv[of(&keys)], width, true);
        gemm_serial(isa, ds.t(), q, &mut dk[of(&keys)], width, true);
        let k = part(self.k, &keys, width);
        gemm_serial(isa, ds, k, &mut dq[of(&rows)], width, false);
    }
}

dispatched! {
    /// Raw scores → probabilities in `p`; their gradients → those of the raw scores in `ds`.
    fn score_gradients(
        p: &mut [f32], ds: &mut [f32], keys: usize, scale: f32, lse: &[f32], delta: &[f32],
    ) {
        let rows = lse.len();
        for (i, (p, ds)) in p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys)).enumerate() {
            let seen = keys - rows + 1 + i;
            let (lse, delta) = (lse[i], delta[i]);
            for j in 0..seen {
                p[j] = lanes::exp(p[j] * scale - lse);
                ds[j] = p[j] * (ds[j] - delta) * scale;
            }
            p[seen..].fill(0.0);
            ds[seen..].fill(0.0);
        }
    }
}

/// [`Saved::delta`] from the output and its gradient, both [tokens, heads, width].
pub fn output_dot_gradient(isa: Isa, shape: Shape, out: &[f32], grad: &[f32], delta: &mut [f32]) {
    delta
        .par_chunks_mut(shape.tokens)
        .enumerate()
        .for_each(|(head, delta)| head_dots(isa, shape, head, out, grad, delta));
}

dispatched! {
    fn head_dots(shape: Shape, head: usize, out: &[f32], grad: &[f32], delta: &mut [f32]) {
        for (t, delta) in delta.iter_mut().enumerate() {
            let start = (t * shape.heads + head) * shape.width;
            let head = start..start + shape.width;
            *delta = lanes::dot(&out[head.clone()], &grad[head]);
        }
    }
}

dispatched! {
    /// One query against `keys` cached keys and values of its head, rows
    /// `stride` elements apart; writes the attended value.
    pub fn attend_cached(
        q: &[f32], k: &[f32], v: &[f32], keys: usize, stride: usize, scores: &mut Vec<f32>, out: &mut [f32],
    ) {
        let width = q.len();
        let scale = 1.0 / (width as f32).sqrt();
        scores.clear();
        for key in 0..keys {
            scores.push(lanes::dot(q, &k[key * stride..key * stride + width]) * scale);
        }
        let max = lanes::max(scores);
        for x in scores.iter_mut() {
            *x = lanes::exp(*x - max);
        }
        let inverse = 1.0 / lanes::sum(scores);
        out.fill(0.0);
        for (key, p) in scores.iter().enumerate() {
            let p = p * inverse;
            for (out, v) in out.iter_mut().zip(&v[key * stride..key * stride + width]) {
                *out = p.mul_add(*v, *out);
            }
        }
    }
}
