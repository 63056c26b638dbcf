//! AdamW over named tensors, learning-rate schedules and clipping.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::eightbit::{self, BLOCK, EightBit, SIGNED, UNSIGNED};
use super::kernels::Isa;
use super::kernels::elementwise::{AdamStep, adamw, sum_of_squares};
use super::tensors::Tensors;

/// How the learning rate goes after the warm-up.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// It falls to zero in a straight line.
    Linear,
    /// It falls to zero along half a cosine.
    #[default]
    Cosine,
}

impl Schedule {
    /// What the peak rate is multiplied with at `step`, the first being 0.
    pub fn factor(self, step: u64, warmup: u64, total: u64) -> f64 {
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        let rest = total.saturating_sub(warmup).max(1);
        let done = (step - warmup) as f64 / rest as f64;
        match self {
            Schedule::Constant => 1.0,
            Schedule::Linear => (1.0 - done).max(0.0),
            Schedule::Cosine => 0.5 * (1.0 + libm::cos(std::f64::consts::PI * done.min(1.0))),
        }
    }
}

/// AdamW's settings besides the learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; norms and biases are spared.
    pub weight_decay: f64,
}

/// How the moments are kept.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As f32: eight bytes for each trained weight.
    #[default]
    AdamW,
    /// In eight bits with a scale for each block of 256: two bytes for each
    /// trained weight, in tensors of 4096 and more.
    AdamW8bit,
}

/// Smaller tensors keep f32 moments, as in the paper's own code: they cost
/// little, and norms and biases are sensitive.
const LEAST_EIGHT_BIT: usize = 4096;

/// The moments of one tensor.
#[derive(Debug, Clone, PartialEq)]
enum Moments {
    Full { first: Vec<f32>, second: Vec<f32> },
    Eight { first: EightBit, second: EightBit },
}

impl Moments {
    fn zeros(precision: Precision, length: usize) -> Self {
        match precision {
            Precision::AdamW8bit if length >= LEAST_EIGHT_BIT => Moments::Eight {
                first: EightBit::zeros(&SIGNED, length),
                second: EightBit::zeros(&UNSIGNED, length),
            },
            _ => Moments::Full {
                first: vec![0.0; length],
                second: vec![0.0; length],
            },
        }
    }

    fn step(&mut self, isa: Isa, step: AdamStep, x: &mut [f32], grad: &[f32]) {
        match self {
            Moments::Full { first, second } => adamw(isa, step, x, grad, first, second),
            Moments::Eight { first, second } => adamw_eight(isa, step, x, grad, first, second),
        }
    }
}

/// AdamW's step with moments in eight bits: each block is read, taken a step
/// with in f32, and written again, so that no f32 copy of all of it exists.
fn adamw_eight(
    isa: Isa,
    step: AdamStep,
    x: &mut [f32],
    grad: &[f32],
    first: &mut EightBit,
    second: &mut EightBit,
) {
    let first = first.codes.par_chunks_mut(BLOCK).zip(&mut first.scales);
    let second = second.codes.par_chunks_mut(BLOCK).zip(&mut second.scales);
    x.par_chunks_mut(BLOCK)
        .zip(grad.par_chunks(BLOCK))
        .zip(first.zip(second))
        .with_min_len(16)
        .for_each(|((x, grad), ((m_codes, m_scale), (v_codes, v_scale)))| {
            let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
            let (m, v) = (&mut m[..x.len()], &mut v[..x.len()]);
            eightbit::read_block(&SIGNED, m_codes, *m_scale, m);
            eightbit::read_block(&UNSIGNED, v_codes, *v_scale, v);
            adamw(isa, step, x, grad, m, v);
            *m_scale = eightbit::write_block(&SIGNED, m, m_codes);
            *v_scale = eightbit::write_block(&UNSIGNED, v, v_codes);
        });
}

/// A piece of a run's state, in an order that a checkpoint keeps.
#[derive(Debug)]
pub enum Part<'a> {
    /// Values.
    Floats(&'a [f32]),
    /// Numbers of eight bits.
    Bytes(&'a [u8]),
}

/// As [`Part`], to be filled.
#[derive(Debug)]
pub enum PartMut<'a> {
    /// Values.
    Floats(&'a mut [f32]),
    /// Numbers of eight bits.
    Bytes(&'a mut [u8]),
}

/// The moments of an AdamW run.
pub struct Optimizer {
    settings: AdamW,
    isa: Isa,
    moments: Vec<Moments>,
    /// beta1ᵗ and beta2ᵗ, by multiplication: a power function differs by platform.
    powers: (f64, f64),
}

impl Optimizer {
    /// Moments of zero for `params`, as f32.
    pub fn new(settings: AdamW, params: &Tensors, isa: Isa) -> Self {
        Self::with(settings, Precision::AdamW, params, isa)
    }

    /// Moments of zero for `params`, kept as `precision` says.
    pub fn with(settings: AdamW, precision: Precision, params: &Tensors, isa: Isa) -> Self {
        let moments = params
            .iter()
            .map(|tensor| Moments::zeros(precision, tensor.data.len()));
        Optimizer {
            settings,
            isa,
            moments: moments.collect(),
            powers: (1.0, 1.0),
        }
    }

    /// Bytes of all moments.
    pub fn bytes(&self) -> usize {
        let bytes = |part| match part {
            Part::Floats(values) => size_of_val(values),
            Part::Bytes(codes) => codes.len(),
        };
        self.parts().into_iter().map(bytes).sum()
    }

    /// All moments, piece by piece.
    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = Vec::new();
        for moments in &self.moments {
            match moments {
                Moments::Full { first, second } => {
                    parts.extend([first, second].map(|moment| Part::Floats(moment)));
                }
                Moments::Eight { first, second } => {
                    for moment in [first, second] {
                        parts.push(Part::Bytes(&moment.codes));
                        parts.push(Part::Floats(&moment.scales));
                    }
                }
            }
        }
        parts
    }

    /// All moments, piece by piece, to fill.
    pub(super) fn parts_mut(&mut self) -> Vec<PartMut<'_>> {
        let mut parts = Vec::new();
        for moments in &mut self.moments {
            match moments {
                Moments::Full { first, second } => {
                    parts.extend([first, second].map(|moment| PartMut::Floats(moment)));
                }
                Moments::Eight { first, second } => {
                    for moment in [first, second] {
                        parts.push(PartMut::Bytes(&mut moment.codes));
                        parts.push(PartMut::Floats(&mut moment.scales));
                    }
                }
            }
        }
        parts
    }

    /// beta1ᵗ and beta2ᵗ.
    pub(super) fn powers(&self) -> (f64, f64) {
        self.powers
    }

    /// Sets beta1ᵗ and beta2ᵗ.
    pub(super) fn set_powers(&mut self, powers: (f64, f64)) {
        self.powers = powers;
    }

    /// One step; gradients are multiplied by `clip` first.
    pub fn step(
        &mut self,
        params: &mut Tensors,
        gradients: &Tensors,
        learning_rate: f64,
        clip: f64,
    ) {
        let settings = self.settings;
        self.powers.0 *= settings.beta1;
        self.powers.1 *= settings.beta2;
        let step = AdamStep {
            learning_rate: learning_rate as f32,
            beta1: settings.beta1 as f32,
            beta2: settings.beta2 as f32,
            eps: settings.eps as f32,
            weight_decay: 0.0,
            correction1: (1.0 / (1.0 - self.powers.0)) as f32,
            correction2: (1.0 / (1.0 - self.powers.1)) as f32,
            clip: clip as f32,
        };
        let both = params.iter_mut().zip(gradients.iter());
        for ((param, gradient), moments) in both.zip(&mut self.moments) {
            let matrix = param.shape.len() > 1;
            let step = AdamStep {
                weight_decay: if matrix {
                    settings.weight_decay as f32
                } else {
                    0.0
                },
                ..step
            };
            moments.step(self.isa, step, &mut param.data, &gradient.data);
        }
    }
}

/// The Euclidean norm of all gradients, and of the tensors whose gradient is
/// not finite the first one's name.
pub fn gradient_norm(gradients: &Tensors, isa: Isa) -> (f64, Option<&str>) {
    let mut total = 0.0;
    let mut bad = None;
    for tensor in gradients.iter() {
        let sum = sum_of_squares(isa, &tensor.data);
        if bad.is_none() && !sum.is_finite() {
            bad = Some(tensor.name.as_str());
        }
        total += sum;
    }
    (total.sqrt(), bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ml::rng::Stream;

    #[test]
    fn schedules_warm_up_and_fall() {
        for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine] {
            assert_eq!(schedule.factor(0, 4, 20), 0.25);
            assert_eq!(schedule.factor(3, 4, 20), 1.0);
            assert_eq!(schedule.factor(4, 4, 20), 1.0);
        }
        assert_eq!(Schedule::Constant.factor(19, 4, 20), 1.0);
        assert_eq!(Schedule::Linear.factor(12, 4, 20), 0.5);
        assert!((Schedule::Cosine.factor(12, 4, 20) - 0.5).abs() < 1e-12);
        assert_eq!(Schedule::Linear.factor(30, 4, 20), 0.0);
    }

    /// Against the formulas of the paper in f64.
    #[test]
    fn adamw_follows_its_formulas() {
        let settings = AdamW {
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.1,
        };
        let mut params = Tensors::default();
        let id = params.push("w".into(), vec![1, 3]);
        params.get_mut(id).copy_from_slice(&[1.0, -2.0, 0.5]);
        let mut gradients = params.zeros_like();
        let mut optimizer = Optimizer::new(settings, &params, Isa::detect());
        let mut exact = [(1.0f64, 0.0, 0.0), (-2.0, 0.0, 0.0), (0.5, 0.0, 0.0)];
        for t in 1..=5 {
            let g: Vec<f32> = (0..3).map(|i| (i as f32 - 0.7) * t as f32).collect();
            gradients.get_mut(id).copy_from_slice(&g);
            optimizer.step(&mut params, &gradients, 0.05, 0.5);
            for ((x, m, v), g) in exact.iter_mut().zip(&g) {
                let g = f64::from(*g) * 0.5;
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.99 * *v + 0.01 * g * g;
                let m = *m / (1.0 - 0.9f64.powi(t));
                let v = *v / (1.0 - 0.99f64.powi(t));
                *x = *x * (1.0 - 0.05 * 0.1) - 0.05 * m / (v.sqrt() + 1e-8);
            }
        }
        for (x, (exact, ..)) in params.get(id).iter().zip(exact) {
            assert!((f64::from(*x) - exact).abs() < 1e-5, "{x} is not {exact}");
        }
    }

    /// A least-squares fit of 20,000 weights by noisy gradients.
    fn fit(precision: Precision, isa: Isa, threads: usize) -> (Vec<f32>, f64, usize) {
        let settings = AdamW {
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.0,
        };
        let mut params = Tensors::default();
        let id = params.push("w".into(), vec![4, 5001]);
        let goal: Vec<f32> = (0..20_004).map(|i| (i % 97) as f32 / 48.0 - 1.0).collect();
        let mut gradients = params.zeros_like();
        let mut optimizer = Optimizer::with(settings, precision, &params, isa);
        crate::ml::with_threads(threads, || {
            for step in 0..200u64 {
                let mut noise = vec![0.0; goal.len()];
                Stream::new(1, "noise", step, "").normal(0.0, 0.1, &mut noise);
                let values = params.get(id).iter().zip(&goal).zip(&noise);
                let found: Vec<f32> = values.map(|((x, y), e)| x - y + e).collect();
                gradients.get_mut(id).copy_from_slice(&found);
                optimizer.step(&mut params, &gradients, 0.02, 1.0);
            }
        })
        .unwrap();
        let errors = params.get(id).iter().zip(&goal).map(|(x, y)| x - y);
        let loss = errors.map(|e| f64::from(e * e)).sum::<f64>() / goal.len() as f64;
        (params.get(id).to_vec(), loss, optimizer.bytes())
    }

    #[test]
    fn eight_bits_converge_as_f32_does_with_a_quarter_of_the_memory() {
        let (_, full, full_bytes) = fit(Precision::AdamW, Isa::detect(), 2);
        let (_, eight, eight_bytes) = fit(Precision::AdamW8bit, Isa::detect(), 2);
        assert!(full < 0.01 && eight < 1.25 * full + 1e-4, "{full} {eight}");
        assert_eq!(full_bytes, 8 * 20_004);
        assert_eq!(eight_bytes, 2 * (20_004 + 4 * 79));
    }

    #[test]
    fn bits_of_eight_bits_do_not_depend_on_threads_or_instruction_set() {
        let (first, ..) = fit(Precision::AdamW8bit, Isa::detect(), 1);
        for isa in Isa::available() {
            for threads in [1, 3] {
                let (other, ..) = fit(Precision::AdamW8bit, isa, threads);
                assert!(first == other, "{isa:?}, {threads} threads");
            }
        }
    }

    #[test]
    fn the_norm_names_the_tensor_that_is_not_finite() {
        let mut gradients = Tensors::default();
        let a = gradients.push("a".into(), vec![2]);
        gradients.push("b".into(), vec![1]);
        gradients.get_mut(a).copy_from_slice(&[3.0, 4.0]);
        assert_eq!(gradient_norm(&gradients, Isa::detect()), (5.0, None));
        gradients.get_mut(a)[0] = f32::NAN;
        assert_eq!(gradient_norm(&gradients, Isa::detect()).1, Some("a"));
    }
}
