//! Operations without long sums: addition, gated activations, soft caps, rotary
//! embedding with the change of layout, dropout, AdamW.

use std::sync::OnceLock;

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

/// What the gate of an MLP passes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x); the MLP is then called SwiGLU.
    Silu,
    /// GELU in its tanh form; the MLP is then called GeGLU.
    GeluTanh,
}

/// activation(gate) · up.
pub fn gated(isa: Isa, activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let forward = match activation {
        Activation::Silu => swiglu_forward,
        Activation::GeluTanh => geglu_forward,
    };
    out.par_chunks_mut(CHUNK)
        .zip(gate.par_chunks(CHUNK))
        .zip(up.par_chunks(CHUNK))
        .for_each(|((out, gate), up)| forward(isa, gate, up, out));
}

/// Replaces `gate` and `up` by their gradients, given that of the output.
pub fn gated_backward(
    isa: Isa,
    activation: Activation,
    gate: &mut [f32],
    up: &mut [f32],
    grad: &[f32],
) {
    let gradients = match activation {
        Activation::Silu => swiglu_gradients,
        Activation::GeluTanh => geglu_gradients,
    };
    gate.par_chunks_mut(CHUNK)
        .zip(up.par_chunks_mut(CHUNK))
        .zip(grad.par_chunks(CHUNK))
        .for_each(|((gate, up), grad)| gradients(isa, gate, up, grad));
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

/// The two constants of GELU's tanh form, ½x(1 + tanh(√(2/π)(x + 0.044715 x³))),
/// doubled because ½(1 + tanh u) = sigmoid(2u).
const GELU: [f32; 2] = [1.595_769, 0.044_715];

dispatched! {
    fn geglu_forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
        let n = out.len();
        let (gate, up) = (&gate[..n], &up[..n]);
        for i in 0..n {
            let x = gate[i];
            let inner = GELU[0] * x * (GELU[1] * x).mul_add(x, 1.0);
            out[i] = x * lanes::sigmoid(inner) * up[i];
        }
    }
}

dispatched! {
    fn geglu_gradients(gate: &mut [f32], up: &mut [f32], grad: &[f32]) {
        let n = grad.len();
        let (gate, up) = (&mut gate[..n], &mut up[..n]);
        for i in 0..n {
            let x = gate[i];
            let inner = GELU[0] * x * (GELU[1] * x).mul_add(x, 1.0);
            let slope = GELU[0] * (3.0 * GELU[1] * x).mul_add(x, 1.0);
            let sigmoid = lanes::sigmoid(inner);
            let gelu = x * sigmoid;
            gate[i] = grad[i] * up[i] * (sigmoid + gelu * (1.0 - sigmoid) * slope);
            up[i] = grad[i] * gelu;
        }
    }
}

/// x ← cap · tanh(x / cap).
pub fn soft_cap(isa: Isa, x: &mut [f32], cap: f32) {
    x.par_chunks_mut(CHUNK)
        .for_each(|x| soft_cap_part(isa, x, cap));
}

dispatched! {
    /// [`soft_cap`] on one thread.
    pub fn soft_cap_part(x: &mut [f32], cap: f32) {
        for x in x {
            *x = cap * lanes::tanh(*x / cap);
        }
    }
}

dispatched! {
    /// The gradient of the `capped` numbers → that of the numbers before, on one thread.
    pub fn soft_cap_gradient(grad: &mut [f32], capped: &[f32], cap: f32) {
        let n = grad.len();
        let capped = &capped[..n];
        for i in 0..n {
            let tanh = capped[i] / cap;
            grad[i] *= 1.0 - tanh * tanh;
        }
    }
}

/// How the frequencies of a rotary embedding are stretched for longer contexts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RotaryScaling {
    /// Not at all.
    None,
    /// All are divided by the same factor (Chen et al., 2023).
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Low ones are divided, high ones kept, those between interpolated (Llama 3.1).
    Llama3 {
        /// What low frequencies are divided by.
        factor: f64,
        /// Turns in the original context below which a frequency is low.
        low: f64,
        /// Turns in the original context above which a frequency is high.
        high: f64,
        /// The original context.
        original: usize,
    },
}

impl RotaryScaling {
    /// Scales one frequency, in f32 as the reference models do.
    fn apply(self, frequency: f32) -> f32 {
        match self {
            RotaryScaling::None => frequency,
            RotaryScaling::Linear { factor } => frequency / factor as f32,
            RotaryScaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => {
                let context = original as f32;
                let wavelength = (2.0 * std::f64::consts::PI) as f32 / frequency;
                if wavelength > context / low as f32 {
                    frequency / factor as f32
                } else if wavelength < context / high as f32 {
                    frequency
                } else {
                    let smooth = (context / wavelength - low as f32) / (high - low) as f32;
                    (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
                }
            }
        }
    }
}

/// Positions whose cosines and sines are made at once.
const POSITIONS: usize = 256;

/// Cosines and sines of the rotary embedding, made when they are first asked
/// for: a model with a long context costs no more than what is used of it.
pub struct Rotary {
    frequencies: Vec<f32>,
    /// By block of positions, [positions, cosines and sines, width / 2].
    tables: Vec<OnceLock<Vec<f32>>>,
}

impl Rotary {
    /// Tables for `positions` positions of heads of `width` (Su et al., 2021,
    /// in the half-split form of GPT-NeoX).
    pub fn new(positions: usize, width: usize, theta: f64, scaling: RotaryScaling) -> Self {
        let frequency = |i| 1.0 / libm::pow(theta, 2.0 * i as f64 / width as f64) as f32;
        let frequencies = (0..width / 2).map(|i| scaling.apply(frequency(i)));
        let blocks = 0..positions.div_ceil(POSITIONS);
        Rotary {
            frequencies: frequencies.collect(),
            tables: blocks.map(|_| OnceLock::new()).collect(),
        }
    }

    fn table(&self, block: usize) -> Vec<f32> {
        let half = self.frequencies.len();
        let mut table = vec![0.0; POSITIONS * 2 * half];
        for (i, row) in table.chunks_exact_mut(2 * half).enumerate() {
            let position = (block * POSITIONS + i) as f32;
            let (cos, sin) = row.split_at_mut(half);
            for (i, frequency) in self.frequencies.iter().enumerate() {
                // The angle is rounded to f32 as in the reference models.
                let (s, c) = libm::sincos(f64::from(position * frequency));
                (cos[i], sin[i]) = (c as f32, s as f32);
            }
        }
        table
    }

    /// Cosines and sines at a position, each [width / 2].
    pub fn at(&self, position: u32) -> (&[f32], &[f32]) {
        let (block, row) = (position as usize / POSITIONS, position as usize % POSITIONS);
        let table = self.tables[block].get_or_init(|| self.table(block));
        let half = self.frequencies.len();
        table[row * 2 * half..][..2 * half].split_at(half)
    }

    /// Rotates one head of one token; `back` turns the other way.
    pub fn rotate(&self, head: &mut [f32], position: u32, back: bool) {
        let (cos, sin) = self.at(position);
        let sign = if back { -1.0 } else { 1.0 };
        let half = cos.len();
        let (first, second) = head.split_at_mut(half);
        for i in 0..half {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// -6 to 6 in small steps.
    fn numbers() -> Vec<f32> {
        (-600..=600).map(|i| i as f32 * 0.01).collect()
    }

    fn slope(f: impl Fn(f64) -> f64, x: f32) -> f64 {
        let x = f64::from(x);
        (f(x + 1e-5) - f(x - 1e-5)) / 2e-5
    }

    fn close(name: &str, x: f32, found: f32, wanted: f64) {
        let error = (f64::from(found) - wanted).abs() / wanted.abs().max(1.0);
        assert!(error < 2e-6, "{name}({x}): {found} for {wanted}");
    }

    #[test]
    fn gates_agree_with_their_definitions_and_their_slopes() {
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let gelu = |x: f64| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        };
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let f = match activation {
                Activation::Silu => silu,
                Activation::GeluTanh => gelu,
            };
            let gate = numbers();
            let (up, grad) = (vec![2.0; gate.len()], vec![3.0; gate.len()]);
            let mut out = vec![0.0; gate.len()];
            gated(Isa::detect(), activation, &gate, &up, &mut out);
            let (mut dgate, mut dup) = (gate.clone(), up);
            gated_backward(Isa::detect(), activation, &mut dgate, &mut dup, &grad);
            for (i, x) in gate.into_iter().enumerate() {
                close("gate", x, out[i], 2.0 * f(f64::from(x)));
                close("slope", x, dgate[i], 6.0 * slope(f, x));
                close("other slope", x, dup[i], 3.0 * f(f64::from(x)));
            }
        }
    }

    #[test]
    fn soft_caps_agree_with_their_definition_and_their_slopes() {
        let cap = |x: f64| 2.5 * (x / 2.5).tanh();
        let (before, isa) = (numbers(), Isa::detect());
        let mut capped = before.clone();
        soft_cap(isa, &mut capped, 2.5);
        let mut grad = vec![3.0; before.len()];
        soft_cap_gradient(isa, &mut grad, &capped, 2.5);
        for (i, x) in before.into_iter().enumerate() {
            close("cap", x, capped[i], cap(f64::from(x)));
            close("slope", x, grad[i], 3.0 * slope(cap, x));
        }
    }

    #[test]
    fn a_rotary_table_does_not_depend_on_what_was_asked_before() {
        let new = || Rotary::new(1000, 8, 1e4, RotaryScaling::None);
        let (forwards, backwards) = (new(), new());
        for position in 0..1000 {
            forwards.at(position);
            backwards.at(999 - position);
        }
        for position in 0..1000 {
            assert_eq!(forwards.at(position), backwards.at(position));
        }
        let (cos, sin) = forwards.at(700);
        assert!((f64::from(cos[0]) - 700f64.cos()).abs() < 1e-7);
        assert!((f64::from(sin[1]) - 70f64.sin()).abs() < 1e-5);
    }

    #[test]
    fn scaled_frequencies_are_those_of_the_reference() {
        let frequencies = |scaling| Rotary::new(1, 8, 1e4, scaling).frequencies;
        let linear = RotaryScaling::Linear { factor: 4.0 };
        assert_eq!(frequencies(linear), [0.25, 0.025, 0.0025, 0.00025]);
        let llama3 = RotaryScaling::Llama3 {
            factor: 8.0,
            low: 1.0,
            high: 4.0,
            original: 200,
        };
        // Wavelengths 6.3 (high), 63 (between), 628 and 6283 (low).
        let [high, between, low, lowest] = frequencies(llama3)[..] else {
            panic!("four frequencies")
        };
        let smooth = (200.0 / 62.831_85 - 1.0) / 3.0;
        let wanted = (1.0 - smooth) * 0.1 / 8.0 + smooth * 0.1;
        assert!((between - wanted).abs() < 1e-7, "{between}");
        assert_eq!([high, low, lowest], [1.0, 0.01 / 8.0, 0.001 / 8.0]);
    }
}
