//! A linear layer with its adapter: the product, its gradient, and what dropout drops.

use super::kernels::{Isa, Term, View, elementwise, gemm, sum_of_products};
use super::layout::{LinearIds, Module, Slot};
use super::lora::{Lora, PairIds};
use super::model::{Dropout, Gradients, Pass};
use super::rng::Stream;
use super::tensors::Tensors;

impl Pass<'_> {
    fn linear_parts(&self, layer: usize, slot: Slot) -> (LinearIds, usize, usize) {
        let (outputs, inputs) = slot.size(&self.decoder.config);
        let ids = self.decoder.layout.layers[layer].linear[slot as usize];
        (ids, outputs, inputs)
    }

    fn pair(&self, layer: usize, slot: Slot) -> Option<(&Lora, PairIds)> {
        let lora = self.lora?;
        Some((lora, lora.pair(layer, slot)?))
    }

    /// y = x·Wᵀ + bias + scale · drop(x)·Aᵀ·Bᵀ.
    pub(super) fn linear(&self, layer: usize, slot: Slot, x: &[f32]) -> Vec<f32> {
        if let Some(y) = self.dora(layer, slot, x) {
            return y;
        }
        let (ids, outputs, inputs) = self.linear_parts(layer, slot);
        let (isa, tokens) = (self.decoder.isa(), self.tokens());
        let mut y = vec![0.0; tokens * outputs];
        let frozen = Term {
            a: View::new(x, tokens, inputs),
            b: self.decoder.matrix(ids.weight).t(),
        };
        let bias = ids.bias.map(|id| self.decoder.weights.get(id));
        let Some((lora, pair)) = self.pair(layer, slot) else {
            sum_of_products(isa, &[frozen], &mut y, outputs, false);
            if let Some(bias) = bias {
                elementwise::add_bias(&mut y, bias);
            }
            return y;
        };
        let low = self.lowered(lora, pair, layer, slot, x);
        let adapter = Term {
            a: View::new(&low, tokens, pair.rank),
            b: View::new(lora.tensors.get(pair.b), outputs, pair.rank)
                .t()
                .into(),
        };
        match bias {
            None => sum_of_products(isa, &[frozen, adapter], &mut y, outputs, false),
            Some(bias) => {
                sum_of_products(isa, &[frozen], &mut y, outputs, false);
                elementwise::add_bias(&mut y, bias);
                sum_of_products(isa, &[adapter], &mut y, outputs, true);
            }
        }
        y
    }

    /// scale · drop(x)·Aᵀ, [tokens, rank].
    pub(super) fn lowered(
        &self,
        lora: &Lora,
        pair: PairIds,
        layer: usize,
        slot: Slot,
        x: &[f32],
    ) -> Vec<f32> {
        let (tokens, rank) = (self.tokens(), pair.rank);
        let inputs = x.len() / tokens;
        let dropped = self.drop(lora, layer, slot, x);
        let x = dropped.as_deref().unwrap_or(x);
        let a = View::new(lora.tensors.get(pair.a), rank, inputs);
        let mut low = vec![0.0; tokens * rank];
        let x = View::new(x, tokens, inputs);
        gemm(self.decoder.isa(), x, a.t(), &mut low, rank, false);
        elementwise::scale(&mut low, pair.scale);
        low
    }

    /// x with dropout, where there is any.
    pub(super) fn drop(
        &self,
        lora: &Lora,
        layer: usize,
        slot: Slot,
        x: &[f32],
    ) -> Option<Vec<f32>> {
        let stream = dropout_stream(self.dropout?, lora, Module { layer, slot })?;
        let mut x = x.to_vec();
        elementwise::dropout(&mut x, lora.config.dropout, &stream);
        Some(x)
    }

    /// Adds the gradient of `x` to `dx` and those of the weights where wanted.
    pub(super) fn linear_backward(
        &self,
        layer: usize,
        slot: Slot,
        x: &[f32],
        grad: &[f32],
        dx: &mut [f32],
        gradients: &mut Gradients<'_>,
    ) {
        if self.dora_backward(Module { layer, slot }, x, grad, dx, gradients) {
            return;
        }
        let (ids, outputs, inputs) = self.linear_parts(layer, slot);
        let (isa, tokens) = (self.decoder.isa(), self.tokens());
        let dy = View::new(grad, tokens, outputs);
        let frozen = Term {
            a: dy,
            b: self.decoder.matrix(ids.weight),
        };
        if let Some(weights) = gradients.weights.as_deref_mut() {
            let x = View::new(x, tokens, inputs);
            gemm(isa, dy.t(), x, weights.get_mut(ids.weight), inputs, true);
            if let Some(bias) = ids.bias {
                elementwise::add_columns(grad, weights.get_mut(bias));
            }
        }
        match self.pair(layer, slot) {
            None => sum_of_products(isa, &[frozen], dx, inputs, true),
            Some((lora, pair)) => {
                let (module, tensors) = (Module { layer, slot }, gradients.lora.as_deref_mut());
                self.pair_backward(lora, pair, module, x, dy, dx, Some(frozen), tensors);
            }
        }
    }

    /// The adapter's part of the gradient, summed in one go with `frozen`, where that is given.
    #[expect(clippy::too_many_arguments, reason = "the parts of one gradient")]
    pub(super) fn pair_backward(
        &self,
        lora: &Lora,
        pair: PairIds,
        module: Module,
        x: &[f32],
        dy: View<'_>,
        dx: &mut [f32],
        frozen: Option<Term<'_>>,
        tensors: Option<&mut Tensors>,
    ) {
        let (isa, tokens) = (self.decoder.isa(), self.tokens());
        let inputs = x.len() / tokens;
        let dlow = self.lowered_gradient(lora, pair, dy);
        let dlow = View::new(&dlow, tokens, pair.rank);
        if let Some(tensors) = tensors {
            self.pair_gradients(lora, pair, module, x, dy, dlow, tensors);
        }
        let a = View::new(lora.tensors.get(pair.a), pair.rank, inputs);
        let adapter = Term {
            a: dlow,
            b: a.into(),
        };
        match self.dropout.and_then(|d| dropout_stream(d, lora, module)) {
            None => {
                let terms: Vec<Term<'_>> = frozen.into_iter().chain([adapter]).collect();
                sum_of_products(isa, &terms, dx, inputs, true);
            }
            Some(stream) => {
                if let Some(frozen) = frozen {
                    sum_of_products(isa, &[frozen], dx, inputs, true);
                }
                let mut through = vec![0.0; tokens * inputs];
                sum_of_products(isa, &[adapter], &mut through, inputs, false);
                elementwise::dropout(&mut through, lora.config.dropout, &stream);
                elementwise::add(dx, &through);
            }
        }
    }

    /// The gradient of drop(x)·Aᵀ, [tokens, rank].
    fn lowered_gradient(&self, lora: &Lora, pair: PairIds, dy: View<'_>) -> Vec<f32> {
        let b = View::new(lora.tensors.get(pair.b), dy.cols(), pair.rank);
        let mut dlow = vec![0.0; dy.rows() * pair.rank];
        gemm(self.decoder.isa(), dy, b, &mut dlow, pair.rank, false);
        elementwise::scale(&mut dlow, pair.scale);
        dlow
    }

    /// Adds the gradients of A and B.
    #[expect(clippy::too_many_arguments, reason = "the parts of two gradients")]
    fn pair_gradients(
        &self,
        lora: &Lora,
        pair: PairIds,
        module: Module,
        x: &[f32],
        dy: View<'_>,
        dlow: View<'_>,
        tensors: &mut Tensors,
    ) {
        let (isa, tokens, rank) = (self.decoder.isa(), self.tokens(), pair.rank);
        let inputs = x.len() / tokens;
        let low = self.lowered(lora, pair, module.layer, module.slot, x);
        let low = View::new(&low, tokens, rank);
        gemm_transposed(isa, low.t(), dy, tensors.get_mut(pair.b));
        let dropped = self.drop(lora, module.layer, module.slot, x);
        let x = View::new(dropped.as_deref().unwrap_or(x), tokens, inputs);
        gemm(isa, dlow.t(), x, tensors.get_mut(pair.a), inputs, true);
    }
}

/// Cᵀ ← Cᵀ + A·B, with C [n, m] row-major: for few rows, which are the fast way
/// around. The sums are those of the product Bᵀ·Aᵀ, whose factors only change places.
fn gemm_transposed(isa: Isa, a: View<'_>, b: View<'_>, c: &mut [f32]) {
    let (m, n) = (a.rows(), b.cols());
    let mut across = vec![0.0; m * n];
    for (j, c) in c.chunks_exact(m).enumerate() {
        for (i, c) in c.iter().enumerate() {
            across[i * n + j] = *c;
        }
    }
    gemm(isa, a, b, &mut across, n, true);
    for (j, c) in c.chunks_exact_mut(m).enumerate() {
        for (i, c) in c.iter_mut().enumerate() {
            *c = across[i * n + j];
        }
    }
}

/// The numbers that drop a module's inputs; none when nothing is dropped.
pub fn dropout_stream(dropout: Dropout, lora: &Lora, module: Module) -> Option<Stream> {
    let module = module.to_string();
    (lora.config.dropout > 0.0).then(|| Stream::new(dropout.seed, "dropout", dropout.step, &module))
}
