//! A linear layer with its adapter: the product, its gradient, and what dropout drops.

use super::kernels::{View, elementwise, gemm};
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
        let weights = &self.decoder.weights;
        let mut y = vec![0.0; tokens * outputs];
        let w = View::new(weights.get(ids.weight), outputs, inputs);
        gemm(
            isa,
            View::new(x, tokens, inputs),
            w.t(),
            &mut y,
            outputs,
            false,
        );
        if let Some(bias) = ids.bias {
            elementwise::add_bias(&mut y, weights.get(bias));
        }
        if let Some((lora, pair)) = self.pair(layer, slot) {
            let rank = pair.rank;
            let low = self.lowered(lora, pair, layer, slot, x);
            let b = View::new(lora.tensors.get(pair.b), outputs, rank);
            gemm(
                isa,
                View::new(&low, tokens, rank),
                b.t(),
                &mut y,
                outputs,
                true,
            );
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
        let w = View::new(self.decoder.weights.get(ids.weight), outputs, inputs);
        gemm(isa, dy, w, dx, inputs, true);
        if let Some(weights) = gradients.weights.as_deref_mut() {
            let x = View::new(x, tokens, inputs);
            gemm(isa, dy.t(), x, weights.get_mut(ids.weight), inputs, true);
            if let Some(bias) = ids.bias {
                elementwise::add_columns(grad, weights.get_mut(bias));
            }
        }
        if let Some((lora, pair)) = self.pair(layer, slot) {
            let tensors = gradients.lora.as_deref_mut();
            self.pair_backward(lora, pair, Module { layer, slot }, x, dy, dx, tensors);
        }
    }

    /// The adapter's part of [`Pass::linear_backward`].
    #[expect(clippy::too_many_arguments, reason = "the parts of one gradient")]
    pub(super) fn pair_backward(
        &self,
        lora: &Lora,
        pair: PairIds,
        module: Module,
        x: &[f32],
        dy: View<'_>,
        dx: &mut [f32],
        tensors: Option<&mut Tensors>,
    ) {
        let (isa, tokens, rank) = (self.decoder.isa(), self.tokens(), pair.rank);
        let (outputs, inputs) = module.slot.size(&self.decoder.config);
        let b = View::new(lora.tensors.get(pair.b), outputs, rank);
        let mut dlow = vec![0.0; tokens * rank];
        gemm(isa, dy, b, &mut dlow, rank, false);
        elementwise::scale(&mut dlow, pair.scale);
        let dlow = View::new(&dlow, tokens, rank);
        if let Some(tensors) = tensors {
            let low = self.lowered(lora, pair, module.layer, module.slot, x);
            let low = View::new(&low, tokens, rank);
            gemm(isa, dy.t(), low, tensors.get_mut(pair.b), rank, true);
            let dropped = self.drop(lora, module.layer, module.slot, x);
            let x = View::new(dropped.as_deref().unwrap_or(x), tokens, inputs);
            gemm(isa, dlow.t(), x, tensors.get_mut(pair.a), inputs, true);
        }
        let a = View::new(lora.tensors.get(pair.a), rank, inputs);
        match self.dropout.and_then(|d| dropout_stream(d, lora, module)) {
            None => gemm(isa, dlow, a, dx, inputs, true),
            Some(stream) => {
                let mut through = vec![0.0; tokens * inputs];
                gemm(isa, dlow, a, &mut through, inputs, false);
                elementwise::dropout(&mut through, lora.config.dropout, &stream);
                elementwise::add(dx, &through);
            }
        }
    }
}

/// The numbers that drop a module's inputs; none when nothing is dropped.
pub fn dropout_stream(dropout: Dropout, lora: &Lora, module: Module) -> Option<Stream> {
    let module = module.to_string();
    (lora.config.dropout > 0.0).then(|| Stream::new(dropout.seed, "dropout", dropout.step, &module))
}
