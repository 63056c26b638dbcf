//! DoRA: an adapter that also learns how long each row of an adapted weight is.
//!
//! Liu et al., "DoRA: weight-decomposed low-rank adaptation", 2024, computed
//! as PEFT's `use_dora` does. With n = ‖W + s·B·A‖, the norm of each row, which
//! is a constant to the backward pass (section 4.3), and a magnitude m:
//!
//! y = m/n · (W + s·B·A)·x + bias, or with dropout
//! y = W·x + bias + (m/n - 1) · W·drop(x) + m/n · s·B·A·drop(x).

use std::borrow::Cow;

use rayon::prelude::*;

use super::kernels::{Operand, Term, View, elementwise, gemm, sum_of_products};
use super::layout::{Module, Slot};
use super::linear::dropout_stream;
use super::lora::{Lora, PairIds};
use super::model::{Decoder, Gradients, Pass};
use super::tensors::TensorId;

/// Rows of an adapted weight that exist at once.
const ROWS: usize = 256;

/// What one module's outputs are multiplied with, and of what that is made.
pub(super) struct Magnitude {
    id: TensorId,
    /// ‖W + s·B·A‖, \[outputs\].
    norms: Vec<f32>,
    /// m/n, \[outputs\]; 0 for a row that is zero.
    factors: Vec<f32>,
}

/// The magnitudes of all modules of an adapter, while its tensors stay as they are.
pub(super) struct Magnitudes(Vec<[Option<Magnitude>; 7]>);

/// A module with a magnitude.
struct Adapted<'a> {
    module: Module,
    lora: &'a Lora,
    pair: PairIds,
    magnitude: &'a Magnitude,
}

impl Magnitudes {
    /// None where the adapter has none.
    pub(super) fn of(decoder: &Decoder, lora: &Lora) -> Option<Self> {
        if !lora.config.dora {
            return None;
        }
        let of = |layer, slot| {
            let pair = lora.pair(layer, slot)?;
            let id = pair.magnitude?;
            let norms = norms(decoder, lora, Module { layer, slot }, pair);
            let pairs = lora.tensors.get(id).iter().zip(&norms);
            let factor = |(m, n): (&f32, &f32)| if *n > 0.0 { m / n } else { 0.0 };
            let factors = pairs.map(factor).collect();
            Some(Magnitude { id, norms, factors })
        };
        let layers = 0..decoder.config.layers;
        Some(Magnitudes(
            layers
                .map(|layer| Slot::ALL.map(|slot| of(layer, slot)))
                .collect(),
        ))
    }

    /// That of a module.
    fn get(&self, layer: usize, slot: Slot) -> Option<&Magnitude> {
        self.0[layer][slot as usize].as_ref()
    }

    /// What a module's outputs are multiplied with.
    pub(super) fn factors(&self, layer: usize, slot: Slot) -> Option<&[f32]> {
        Some(&self.get(layer, slot)?.factors)
    }
}

/// Sets every magnitude to the norm of its row of W + s·B·A, so that a new
/// adapter changes nothing yet.
pub fn begin(lora: &mut Lora, decoder: &Decoder) {
    let modules: Vec<(Module, PairIds)> = lora.modules().collect();
    for (module, pair) in modules {
        if let Some(id) = pair.magnitude {
            let norms = norms(decoder, lora, module, pair);
            lora.tensors.get_mut(id).copy_from_slice(&norms);
        }
    }
}

/// ‖W + s·B·A‖ of a module, row by row.
pub(super) fn norms(decoder: &Decoder, lora: &Lora, module: Module, pair: PairIds) -> Vec<f32> {
    let (isa, rank) = (decoder.isa(), pair.rank);
    let (outputs, inputs) = module.slot.size(&decoder.config);
    let id = decoder.layout.layers[module.layer].linear[module.slot as usize].weight;
    let a = View::new(lora.tensors.get(pair.a), rank, inputs);
    let b = lora.tensors.get(pair.b).chunks(ROWS * rank);
    let mut norms = Vec::with_capacity(outputs);
    for (i, b) in b.enumerate() {
        let rows = b.len() / rank;
        let weight = decoder.rows(id, i * ROWS..i * ROWS + rows);
        let mut sum = vec![0.0; weight.len()];
        gemm(isa, View::new(b, rows, rank), a, &mut sum, inputs, false);
        let lines = sum.par_chunks_mut(inputs).zip(weight.par_chunks(inputs));
        let lengths = lines.map(|(sum, weight)| {
            for (sum, w) in sum.iter_mut().zip(weight) {
                *sum = w + pair.scale * *sum;
            }
            elementwise::sum_of_squares(isa, sum).sqrt() as f32
        });
        norms.extend(lengths.collect::<Vec<f32>>());
    }
    norms
}

/// x ← x · factors, each row of x.
pub(super) fn scale_columns(x: &mut [f32], factors: &[f32]) {
    x.par_chunks_mut(factors.len()).for_each(|row| {
        for (x, factor) in row.iter_mut().zip(factors) {
            *x *= factor;
        }
    });
}

impl Pass<'_> {
    fn adapted(&self, layer: usize, slot: Slot) -> Option<Adapted<'_>> {
        let magnitude = self.magnitudes.as_ref()?.get(layer, slot)?;
        let lora = self.lora?;
        Some(Adapted {
            module: Module { layer, slot },
            lora,
            pair: lora.pair(layer, slot)?,
            magnitude,
        })
    }

    /// The output of a module that has a magnitude.
    pub(super) fn dora(&self, layer: usize, slot: Slot, x: &[f32]) -> Option<Vec<f32>> {
        let adapted = self.adapted(layer, slot)?;
        let factors = &adapted.magnitude.factors;
        let dropped = self.drop(adapted.lora, layer, slot, x);
        let mut y = match &dropped {
            None => {
                let mut y = self.base(adapted.module, x);
                self.add_update(&adapted, x, &mut y);
                scale_columns(&mut y, factors);
                y
            }
            Some(dropped) => {
                let base = self.base(adapted.module, dropped);
                let mut update = vec![0.0; base.len()];
                self.add_update(&adapted, x, &mut update);
                let mut y = self.base(adapted.module, x);
                let rows = y.par_chunks_mut(factors.len());
                let parts = base.par_chunks(factors.len());
                let parts = parts.zip(update.par_chunks(factors.len()));
                rows.zip(parts).for_each(|(y, (base, update))| {
                    for (i, y) in y.iter_mut().enumerate() {
                        *y += (factors[i] - 1.0) * base[i] + factors[i] * update[i];
                    }
                });
                y
            }
        };
        if let Some(bias) = self.decoder.layout.layers[layer].linear[slot as usize].bias {
            elementwise::add_bias(&mut y, self.decoder.weights.get(bias));
        }
        Some(y)
    }

    /// W·x.
    fn base(&self, module: Module, x: &[f32]) -> Vec<f32> {
        let (outputs, _) = module.slot.size(&self.decoder.config);
        let mut y = vec![0.0; self.tokens() * outputs];
        let product = Term {
            a: View::new(x, self.tokens(), x.len() / self.tokens()),
            b: self.weight(module).t(),
        };
        sum_of_products(self.decoder.isa(), &[product], &mut y, outputs, false);
        y
    }

    /// W, [outputs, inputs].
    fn weight(&self, module: Module) -> Operand<'_> {
        let ids = &self.decoder.layout.layers[module.layer];
        self.decoder.matrix(ids.linear[module.slot as usize].weight)
    }

    /// y ← y + s·B·A·drop(x).
    fn add_update(&self, adapted: &Adapted<'_>, x: &[f32], y: &mut [f32]) {
        let Adapted {
            module, lora, pair, ..
        } = *adapted;
        let (outputs, _) = module.slot.size(&self.decoder.config);
        let low = self.lowered(lora, pair, module.layer, module.slot, x);
        let low = View::new(&low, self.tokens(), pair.rank);
        let b = View::new(lora.tensors.get(pair.b), outputs, pair.rank);
        gemm(self.decoder.isa(), low, b.t(), y, outputs, true);
    }

    /// The gradient of [`Pass::dora`]: adds that of `x` to `dx` and those of the
    /// weights where wanted. False where the module has no magnitude.
    pub(super) fn dora_backward(
        &self,
        Module { layer, slot }: Module,
        x: &[f32],
        grad: &[f32],
        dx: &mut [f32],
        gradients: &mut Gradients<'_>,
    ) -> bool {
        let Some(adapted) = self.adapted(layer, slot) else {
            return false;
        };
        self.magnitude_backward(&adapted, x, grad, gradients);
        let factors = &adapted.magnitude.factors;
        let mut scaled = grad.to_vec();
        scale_columns(&mut scaled, factors);
        let stream = self
            .dropout
            .and_then(|dropout| dropout_stream(dropout, adapted.lora, adapted.module));
        match stream {
            None => {
                self.base_backward(adapted.module, &scaled, dx, true);
                self.weight_backward(adapted.module, x, &scaled, gradients);
            }
            Some(stream) => {
                self.base_backward(adapted.module, grad, dx, true);
                self.weight_backward(adapted.module, x, grad, gradients);
                // What comes through the dropped inputs: (m/n - 1) · W·drop(x).
                let p = adapted.lora.config.dropout;
                let pairs = scaled.iter().zip(grad);
                let rest: Vec<f32> = pairs.map(|(scaled, grad)| scaled - grad).collect();
                let mut through = vec![0.0; dx.len()];
                self.base_backward(adapted.module, &rest, &mut through, false);
                elementwise::dropout(&mut through, p, &stream);
                elementwise::add(dx, &through);
                if gradients.weights.is_some() {
                    let mut dropped = x.to_vec();
                    elementwise::dropout(&mut dropped, p, &stream);
                    self.weight_backward(adapted.module, &dropped, &rest, gradients);
                }
            }
        }
        let bias = self.decoder.layout.layers[layer].linear[slot as usize].bias;
        if let (Some(weights), Some(bias)) = (gradients.weights.as_deref_mut(), bias) {
            elementwise::add_columns(grad, weights.get_mut(bias));
        }
        let dy = View::new(&scaled, self.tokens(), factors.len());
        let tensors = gradients.lora.as_deref_mut();
        self.pair_backward(
            adapted.lora,
            adapted.pair,
            adapted.module,
            x,
            dy,
            dx,
            None,
            tensors,
        );
        true
    }

    /// Adds the gradient of a module's magnitude where it is wanted.
    fn magnitude_backward(
        &self,
        adapted: &Adapted<'_>,
        x: &[f32],
        grad: &[f32],
        gradients: &mut Gradients<'_>,
    ) {
        let Some(tensors) = gradients.lora.as_deref_mut() else {
            return;
        };
        let Module { layer, slot } = adapted.module;
        let seen = match self.drop(adapted.lora, layer, slot, x) {
            Some(dropped) => Cow::Owned(dropped),
            None => Cow::Borrowed(x),
        };
        let mut u = self.base(adapted.module, &seen);
        self.add_update(adapted, x, &mut u);
        let outputs = adapted.magnitude.norms.len();
        let rows = u.par_chunks_mut(outputs).zip(grad.par_chunks(outputs));
        rows.for_each(|(u, grad)| u.iter_mut().zip(grad).for_each(|(u, grad)| *u *= grad));
        let mut sums = vec![0.0; outputs];
        elementwise::add_columns(&u, &mut sums);
        let total = tensors.get_mut(adapted.magnitude.id);
        let parts = sums.iter().zip(&adapted.magnitude.norms);
        for (total, (sum, norm)) in total.iter_mut().zip(parts) {
            *total += if *norm > 0.0 { sum / norm } else { 0.0 };
        }
    }

    /// dx ← grad·W, or dx + grad·W when `accumulate`.
    fn base_backward(&self, module: Module, grad: &[f32], dx: &mut [f32], accumulate: bool) {
        let (outputs, inputs) = module.slot.size(&self.decoder.config);
        let product = Term {
            a: View::new(grad, self.tokens(), outputs),
            b: self.weight(module),
        };
        sum_of_products(self.decoder.isa(), &[product], dx, inputs, accumulate);
    }

    /// dW ← dW + gradᵀ·x where it is wanted.
    fn weight_backward(
        &self,
        module: Module,
        x: &[f32],
        grad: &[f32],
        gradients: &mut Gradients<'_>,
    ) {
        let Some(weights) = gradients.weights.as_deref_mut() else {
            return;
        };
        let (outputs, inputs) = module.slot.size(&self.decoder.config);
        let ids = &self.decoder.layout.layers[module.layer];
        let weight = ids.linear[module.slot as usize].weight;
        let dy = View::new(grad, self.tokens(), outputs);
        let x = View::new(x, self.tokens(), inputs);
        let dw = weights.get_mut(weight);
        gemm(self.decoder.isa(), dy.t(), x, dw, inputs, true);
    }
}
