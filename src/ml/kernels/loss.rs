//! Softmax cross-entropy on rows of logits.

use rayon::prelude::*;

use super::isa::{Isa, dispatched};
use super::lanes;

/// Replaces each row of logits by `scale` · (softmax - one-hot of its target),
/// and returns each row's loss in nats.
pub fn cross_entropy(isa: Isa, logits: &mut [f32], targets: &[u32], scale: f32) -> Vec<f32> {
    let vocabulary = logits.len() / targets.len();
    logits
        .par_chunks_mut(vocabulary)
        .zip(targets)
        .map(|(row, target)| cross_entropy_row(isa, row, *target as usize, scale))
        .collect()
}

dispatched! {
    fn cross_entropy_row(row: &mut [f32], target: usize, scale: f32) -> f32 {
        let max = lanes::max(row);
        let wanted = row[target];
        for x in row.iter_mut() {
            *x = lanes::exp(*x - max);
        }
        let sum = lanes::sum(row);
        let factor = scale / sum;
        for x in row.iter_mut() {
            *x *= factor;
        }
        row[target] -= scale;
        (libm::log(f64::from(sum)) - f64::from(wanted - max)) as f32
    }
}
