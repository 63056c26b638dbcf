//! Causal attention over sequences packed one behind the other, forward and backward.
//!
//! Tokens attend within their own sequence only (block-diagonal), so packing
//! needs no padding and changes no result. Scores exist for 64 queries at a
//! time; the backward pass makes them again from the saved log-sum-exp, as in
//! FlashAttention (Dao et al., 2022). Keys that a sliding window hides from
//! all 64 are passed over.

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
    /// How queries and keys become scores.
    pub scoring: Scoring,
}

/// How queries and keys become scores, and which of them do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scoring {
    /// What products are multiplied with.
    pub scale: f32,
    /// The latest keys that a query sees, its own among them; `usize::MAX` for all.
    pub window: usize,
    /// Scores become cap · tanh(score / cap).
    pub cap: Option<f32>,
}

impl Scoring {
    /// Of the first `end` keys, those that the query of the last one sees.
    #[inline(always)]
    pub fn seen(self, end: usize) -> Range<usize> {
        end.saturating_sub(self.window)..end
    }
}

impl Shape {
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn head(&self) -> usize {
        self.tokens * self.width
    }

    /// The keys that any of the queries `rows` of a sequence sees.
    fn keys(&self, sequence: &Range<usize>, rows: &Range<usize>) -> Range<usize> {
        let first = self.scoring.seen(rows.start + 1).start;
        first.max(sequence.start)..rows.end
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
                    let keys = shape.keys(sequence, &rows);
                    raw_scores(isa, shape, q, k, &rows, &keys, &mut scores);
                    let lse = &mut lse[rows.clone()];
                    softmax(isa, &mut scores, keys.len(), shape.scoring, lse);
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
    /// Scores → probabilities, causal: row i of the block sees none of the last
    /// `rows - 1 - i` keys, and none before its window.
    fn softmax(scores: &mut [f32], keys: usize, scoring: Scoring, lse: &mut [f32]) {
        let rows = lse.len();
        for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
            let range = scoring.seen(keys - rows + 1 + i);
            row[..range.start].fill(0.0);
            row[range.end..].fill(0.0);
            let seen = &mut row[range];
            let mut scale = scoring.scale;
            if let Some(cap) = scoring.cap {
                for x in seen.iter_mut() {
                    *x = cap * lanes::tanh(*x * scale / cap);
                }
                scale = 1.0;
            }
            let max = lanes::max(seen) * scale;
            for x in seen.iter_mut() {
                *x = lanes::exp(*x * scale - max);
            }
            let sum = lanes::sum(seen);
            let inverse = 1.0 / sum;
            for x in seen.iter_mut() {
                *x *= inverse;
            }
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
                        let keys = shape.keys(sequence, &rows);
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
        score_gradients(isa, p, ds, keys.len(), shape.scoring, lse, delta);
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
        p: &mut [f32], ds: &mut [f32], keys: usize, scoring: Scoring, lse: &[f32], delta: &[f32],
    ) {
        let (rows, scale) = (lse.len(), scoring.scale);
        for (i, (p, ds)) in p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys)).enumerate() {
            let seen = scoring.seen(keys - rows + 1 + i);
            let (lse, delta) = (lse[i], delta[i]);
            for row in [&mut *p, &mut *ds] {
                row[..seen.start].fill(0.0);
                row[seen.end..].fill(0.0);
            }
            let (p, ds) = (&mut p[seen.clone()], &mut ds[seen]);
            match scoring.cap {
                None => {
                    for (p, ds) in p.iter_mut().zip(ds) {
                        *p = lanes::exp(*p * scale - lse);
                        *ds = *p * (*ds - delta) * scale;
                    }
                }
                Some(cap) => {
                    for (p, ds) in p.iter_mut().zip(ds) {
                        let tanh = lanes::tanh(*p * scale / cap);
                        *p = lanes::exp(cap * tanh - lse);
                        *ds = *p * (*ds - delta) * scale * (1.0 - tanh * tanh);
                    }
                }
            }
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
    /// One query against the `keys` cached keys and values of its head up to
    /// its own, rows `stride` elements apart; writes the attended value.
    pub fn attend_cached(
        q: &[f32], k: &[f32], v: &[f32], keys: usize, stride: usize, scoring: Scoring,
        scores: &mut Vec<f32>, out: &mut [f32],
    ) {
        let width = q.len();
        let seen = scoring.seen(keys);
        scores.clear();
        for key in seen.clone() {
            scores.push(lanes::dot(q, &k[key * stride..key * stride + width]) * scoring.scale);
        }
        if let Some(cap) = scoring.cap {
            for x in scores.iter_mut() {
                *x = cap * lanes::tanh(*x / cap);
            }
        }
        let max = lanes::max(scores);
        for x in scores.iter_mut() {
            *x = lanes::exp(*x - max);
        }
        let inverse = 1.0 / lanes::sum(scores);
        out.fill(0.0);
        for (key, p) in seen.zip(scores.iter()) {
            let p = p * inverse;
            for (out, v) in out.iter_mut().zip(&v[key * stride..key * stride + width]) {
                *out = p.mul_add(*v, *out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ml::rng::Stream;

    /// Attention as it is written in papers, in f64: [heads, tokens, width].
    fn reference(shape: Shape, [q, k, v]: &[Vec<f64>; 3], sequences: &[Range<usize>]) -> Vec<f64> {
        let (width, scoring) = (shape.width, shape.scoring);
        let mut out = vec![0.0; q.len()];
        for head in 0..shape.heads {
            let row = |x: &[f64], head: usize, t: usize| {
                x[(head * shape.tokens + t) * width..][..width].to_vec()
            };
            let kv = head / shape.group();
            for sequence in sequences {
                for t in sequence.clone() {
                    let seen = sequence
                        .clone()
                        .filter(|s| *s <= t && t - *s < scoring.window);
                    let score = |s: usize| {
                        let (q, k) = (row(q, head, t), row(k, kv, s));
                        let dot: f64 = q.iter().zip(&k).map(|(a, b)| a * b).sum();
                        let score = dot * f64::from(scoring.scale);
                        match scoring.cap.map(f64::from) {
                            Some(cap) => cap * (score / cap).tanh(),
                            None => score,
                        }
                    };
                    let weights: Vec<(usize, f64)> = seen.map(|s| (s, score(s).exp())).collect();
                    let sum: f64 = weights.iter().map(|(_, w)| w).sum();
                    for (s, weight) in weights {
                        let out = &mut out[(head * shape.tokens + t) * width..][..width];
                        for (out, v) in out.iter_mut().zip(row(v, kv, s)) {
                            *out += weight / sum * v;
                        }
                    }
                }
            }
        }
        out
    }

    fn random(name: &str, n: usize) -> Vec<f32> {
        let mut out = vec![0.0; n];
        Stream::new(7, "test", 0, name).normal(0.0, 1.5, &mut out);
        out
    }

    fn check(name: &str, isa: Isa, scoring: Scoring) {
        // One sequence is longer than a block of queries, one shorter than any window.
        let (sequences, tokens) = ([0..81, 81..84], 84);
        let shape = Shape {
            tokens,
            heads: 2,
            kv_heads: 1,
            width: 4,
            scoring,
        };
        let size = tokens * shape.width;
        let inputs = [random("q", 2 * size), random("k", size), random("v", size)];
        let [q, k, v] = &inputs;
        let qkv = Qkv { q, k, v };
        let (mut out, mut lse) = (vec![0.0; 2 * size], vec![0.0; 2 * tokens]);
        attention(isa, shape, qkv, &sequences, &mut out, &mut lse);
        let mut exact = inputs
            .clone()
            .map(|x| x.iter().map(|x| f64::from(*x)).collect());
        let wanted = reference(shape, &exact, &sequences);
        for (out, wanted) in out.iter().zip(&wanted) {
            assert!(
                (f64::from(*out) - wanted).abs() < 1e-5,
                "{name}: {out} {wanted}"
            );
        }

        let grad = random("grad", 2 * size);
        let mut delta = vec![0.0; 2 * tokens];
        for (t, delta) in delta.iter_mut().enumerate() {
            let part = t * shape.width..(t + 1) * shape.width;
            *delta = lanes::dot(&out[part.clone()], &grad[part]);
        }
        let saved = Saved {
            lse: &lse,
            delta: &delta,
            grad: &grad,
        };
        let [mut dq, mut dk, mut dv] = inputs.clone();
        attention_backward(
            isa, shape, qkv, &sequences, saved, &mut dq, &mut dk, &mut dv,
        );
        for (which, gradient) in [dq, dk, dv].into_iter().enumerate() {
            for i in (0..gradient.len()).step_by(13) {
                let mut loss = |by: f64| -> f64 {
                    exact[which][i] += by;
                    let out = reference(shape, &exact, &sequences);
                    out.iter().zip(&grad).map(|(o, g)| o * f64::from(*g)).sum()
                };
                let (above, below) = (loss(1e-5), loss(-2e-5));
                loss(1e-5);
                let slope = (above - below) / 2e-5;
                let found = f64::from(gradient[i]);
                let error = (found - slope).abs() / slope.abs().max(1.0);
                assert!(
                    error < 1e-4,
                    "{name}: input {which}, element {i}: {found} {slope}"
                );
            }
        }
    }

    #[test]
    fn every_way_of_scoring_agrees_with_its_definition_and_its_slopes() {
        let plain = Scoring {
            scale: 0.5,
            window: usize::MAX,
            cap: None,
        };
        let cap = Some(1.5);
        for (name, scoring) in [
            ("plain", plain),
            ("window", Scoring { window: 9, ..plain }),
            ("window of one", Scoring { window: 1, ..plain }),
            (
                "window longer than a block",
                Scoring {
                    window: 70,
                    ..plain
                },
            ),
            ("cap", Scoring { cap, ..plain }),
            (
                "window and cap",
                Scoring {
                    window: 9,
                    cap,
                    ..plain
                },
            ),
        ] {
            check(name, Isa::detect(), scoring);
        }
    }
}
