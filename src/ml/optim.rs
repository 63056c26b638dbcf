//! AdamW over named tensors, learning-rate schedules and clipping.

use serde::{Deserialize, Serialize};

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

/// The moments of an AdamW run.
pub struct Optimizer {
    settings: AdamW,
    isa: Isa,
    first: Tensors,
    second: Tensors,
    /// beta1ᵗ and beta2ᵗ, by multiplication: a power function differs by platform.
    powers: (f64, f64),
}

impl Optimizer {
    /// Moments of zero for `params`.
    pub fn new(settings: AdamW, params: &Tensors, isa: Isa) -> Self {
        Optimizer {
            settings,
            isa,
            first: params.zeros_like(),
            second: params.zeros_like(),
            powers: (1.0, 1.0),
        }
    }

    /// The first and the second moments.
    pub(super) fn moments(&self) -> (&Tensors, &Tensors) {
        (&self.first, &self.second)
    }

    /// The first and the second moments, to change.
    pub(super) fn moments_mut(&mut self) -> (&mut Tensors, &mut Tensors) {
        (&mut self.first, &mut self.second)
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
        let moments = self.first.iter_mut().zip(self.second.iter_mut());
        for ((param, gradient), (m, v)) in params.iter_mut().zip(gradients.iter()).zip(moments) {
            let matrix = param.shape.len() > 1;
            let step = AdamStep {
                weight_decay: if matrix {
                    settings.weight_decay as f32
                } else {
                    0.0
                },
                ..step
            };
            adamw(
                self.isa,
                step,
                &mut param.data,
                &gradient.data,
                &mut m.data,
                &mut v.data,
            );
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
