//! Operations without long sums: addition, SwiGLU, rotary embedding with the change of layout, dropout, AdamW.

use rayon::prelude::*;

use super::isa::{Isa, dispatched};
use super::{ROWS, lanes};
use crate::ml::rng::Stream;

/// Elements a parallel task takes at once.
const CHUNK: usize = 8192;

/// a ← a + b.
pub fn add(a: &mut [f32], b: &[f32]) {
    a.par_chunks_mut(CHUNK)
        .zip(b.par_chunks(CHUNK))
        .for_each(|(a, b)| {
            for (a, b) in a.iter_mut().zip(b) {
                *a += b;
            }
        });
}

/// a ← a · factor.
pub fn scale(a: &mut [f32], factor: f32) {
    for a in a {
        *a *= factor;
    }
}

/// Adds `bias` to every row of x.
pub fn add_bias(x: &mut [f32], bias: &[f32]) {
    for row in x.chunks_exact_mut(bias.len()) {
        for (x, b) in row.iter_mut().zip(bias) {
            *x += b;
        }
    }
}

/// total ← total + the sum of the rows of x, from the first to the last.
pub fn add_columns(x: &[f32], total: &mut [f32]) {
    for row in x.chunks_exact(total.len()) {
        for (total, x) in total.iter_mut().zip(row) {
            *total += x;
        }
    }
}

/// silu(gate) · up.
pub fn swiglu(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(CHUNK)
        .zip(gate.par_chunks(CHUNK))
        .zip(up.par_chunks(CHUNK))
        .for_each(|((out, gate), up)| swiglu_forward(isa, gate, up, out));
}

dispatched! {
    fn swiglu_forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
        let n = out.len();
        let (gate, up) = (&gate[..n], &up[..n]);
        for i in 0..n {
            out[i] = gate[i] * lanes::sigmoid(gate[i]) * up[i];
        }
    }
}

/// Replaces `gate` and `up` by their gradients, given that of the output.
pub fn swiglu_backward(isa: Isa, gate: &mut [f32], up: &mut [f32], grad: &[f32]) {
    gate.par_chunks_mut(CHUNK)
        .zip(up.par_chunks_mut(CHUNK))
        .zip(grad.par_chunks(CHUNK))
        .for_each(|((gate, up), grad)| swiglu_gradients(isa, gate, up, grad));
}

dispatched! {
    fn swiglu_gradients(gate: &mut [f32], up: &mut [f32], grad: &[f32]) {
        let n = grad.len();
        let (gate, up) = (&mut gate[..n], &mut up[..n]);
        for i in 0..n {
            let sigmoid = lanes::sigmoid(gate[i]);
            let silu = gate[i] * sigmoid;
            gate[i] = grad[i] * up[i] * (sigmoid + silu * (1.0 - sigmoid));
            up[i] = grad[i] * silu;
        }
    }
}

/// Cosines and sines of the rotary embedding, [positions, width / 2].
pub struct Rotary {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl Rotary {
    /// Tables for `positions` positions of heads of `width` (Su et al., 2021,
    /// in the half-split form of GPT-NeoX).
    pub fn new(positions: usize, width: usize, theta: f64) -> Self {
        let half = width / 2;
        let mut rotary = Rotary {
            cos: Vec::with_capacity(positions * half),
            sin: Vec::with_capacity(positions * half),
            half,
        };
        let frequencies: Vec<f32> = (0..half)
            .map(|i| 1.0 / libm::pow(theta, 2.0 * i as f64 / width as f64) as f32)
            .collect();
        for position in 0..positions {
            for frequency in &frequencies {
                // The angle is rounded to f32 as in the reference models.
                let (sin, cos) = libm::sincos(f64::from(position as f32 * frequency));
                rotary.cos.push(cos as f32);
                rotary.sin.push(sin as f32);
            }
        }
        rotary
    }

    /// Cosines and sines at a position, each [width / 2].
    pub fn at(&self, position: u32) -> (&[f32], &[f32]) {
        let start = position as usize * self.half;
        let part = start..start + self.half;
        (&self.cos[part.clone()], &self.sin[part])
    }

    /// Rotates one head of one token; `back` turns the other way.
    pub fn rotate(&self, head: &mut [f32], position: u32, back: bool) {
        let (cos, sin) = self.at(position);
        let sign = if back { -1.0 } else { 1.0 };
        let (first, second) = head.split_at_mut(self.half);
        for i in 0..self.half {
            let (a, b, s) = (first[i], second[i], sin[i] * sign);
            first[i] = a * cos[i] - b * s;
            second[i] = b * cos[i] + a * s;
        }
    }
}

/// [tokens, heads, width] → [heads, tokens, width], rotating when `rotary` is given.
pub fn split_heads(
    x: &[f32],
    tokens: usize,
    width: usize,
    rotary: Option<(&Rotary, &[u32])>,
    out: &mut [f32],
) {
    let heads = x.len() / (tokens * width);
    out.par_chunks_mut(tokens * width)
        .enumerate()
        .for_each(|(head, out)| {
            for (t, out) in out.chunks_exact_mut(width).enumerate() {
                let start = (t * heads + head) * width;
                out.copy_from_slice(&x[start..start + width]);
                if let Some((rotary, positions)) = rotary {
                    rotary.rotate(out, positions[t], false);
                }
            }
        });
}

/// [heads, tokens, width] → [tokens, heads, width], rotating back when `rotary` is given.
pub fn merge_heads(
    x: &[f32],
    tokens: usize,
    width: usize,
    rotary: Option<(&Rotary, &[u32])>,
    out: &mut [f32],
) {
    let heads = x.len() / (tokens * width);
    let row = heads * width;
    out.par_chunks_mut(ROWS * row)
        .enumerate()
        .for_each(|(block, out)| {
            for (i, out) in out.chunks_exact_mut(row).enumerate() {
                let t = block * ROWS + i;
                for (head, out) in out.chunks_exact_mut(width).enumerate() {
                    let start = (head * tokens + t) * width;
                    out.copy_from_slice(&x[start..start + width]);
                    if let Some((rotary, positions)) = rotary {
                        rotary.rotate(out, positions[t], true);
                    }
                }
            }
        });
}

/// Zeroes each element with probability `p` and scales the others by
/// 1 / (1 - p). Element i's fate is number i of the stream, so that the same
/// call on the gradient repeats the mask.
pub fn dropout(x: &mut [f32], p: f64, stream: &Stream) {
    let limit = (p * (1u64 << 32) as f64) as u64;
    let keep = (1.0 / (1.0 - p)) as f32;
    x.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, x)| {
        let first = (chunk * CHUNK / 4) as u64;
        for (block, four) in x.chunks_mut(4).enumerate() {
            let random = stream.block(first + block as u64);
            for (x, random) in four.iter_mut().zip(random) {
                *x *= if u64::from(random) < limit { 0.0 } else { keep };
            }
        }
    });
}

/// What one step of AdamW does to every element.
#[derive(Debug, Clone, Copy)]
pub struct AdamStep {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay, times the learning rate.
    pub weight_decay: f32,
    /// 1 / (1 - beta1ᵗ).
    pub correction1: f32,
    /// 1 / (1 - beta2ᵗ).
    pub correction2: f32,
    /// What gradients are multiplied with first (clipping).
    pub clip: f32,
}

/// AdamW (Loshchilov and Hutter, 2019) on one tensor and its two moments.
pub fn adamw(isa: Isa, step: AdamStep, x: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
    x.par_chunks_mut(CHUNK)
        .zip(grad.par_chunks(CHUNK))
        .zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)))
        .for_each(|((x, grad), (m, v))| adamw_chunk(isa, step, x, grad, m, v));
}

dispatched! {
    fn adamw_chunk(step: AdamStep, x: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
        let n = x.len();
        let (grad, m, v) = (&grad[..n], &mut m[..n], &mut v[..n]);
        let kept = 1.0 - step.learning_rate * step.weight_decay;
        for i in 0..n {
            let g = grad[i] * step.clip;
            m[i] = step.beta1 * m[i] + (1.0 - step.beta1) * g;
            v[i] = step.beta2 * v[i] + (1.0 - step.beta2) * g * g;
            let root = (v[i] * step.correction2).sqrt() + step.eps;
            x[i] = x[i] * kept - step.learning_rate * (m[i] * step.correction1) / root;
        }
    }
}

/// Σ xᵢ² in f64: blocks of a fixed size, added from the first to the last.
pub fn sum_of_squares(isa: Isa, x: &[f32]) -> f64 {
    let parts: Vec<f64> = x
        .par_chunks(CHUNK)
        .map(|x| f64::from(squares(isa, x)))
        .collect();
    parts.iter().sum()
}

dispatched! {
    fn squares(x: &[f32]) -> f32 {
        lanes::dot(x, x)
    }
}
