//! Softmax cross-entropy on rows of logits.

use rayon::prelude::*;

use super::isa::{Isa, dispatched};
use super::{elementwise, lanes};

/// Replaces each row of logits by `scale` · (softmax - one-hot of its target),
/// and returns each row's loss in nats. With a soft `cap`, the loss is that of
/// the capped logits, and the rows become the gradient of the uncapped ones.
pub fn cross_entropy(
    isa: Isa,
    logits: &mut [f32],
    targets: &[u32],
    scale: f32,
    cap: Option<f32>,
) -> Vec<f32> {
    let vocabulary = logits.len() / targets.len();
    logits
        .par_chunks_mut(vocabulary)
        .zip(targets)
        .map(|(row, target)| match cap {
            None => cross_entropy_row(isa, row, *target as usize, scale),
            Some(cap) => {
                elementwise::soft_cap_part(isa, row, cap);
                let capped = row.to_vec();
                let loss = cross_entropy_row(isa, row, *target as usize, scale);
                elementwise::soft_cap_gradient(isa, row, &capped, cap);
                loss
            }
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(row: &[f64], target: usize, cap: Option<f32>) -> f64 {
        let capped = |x: &f64| match cap.map(f64::from) {
            Some(cap) => cap * (x / cap).tanh(),
            None => *x,
        };
        let row: Vec<f64> = row.iter().map(capped).collect();
        row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[target]
    }

    #[test]
    fn losses_and_their_slopes_agree_with_the_definition() {
        for cap in [None, Some(2.0)] {
            let logits: Vec<f32> = (0..2 * 19)
                .map(|i| (i * 7 % 19) as f32 * 0.4 - 3.0)
                .collect();
            let (targets, mut rows) = ([4, 17], logits.clone());
            let losses = cross_entropy(Isa::detect(), &mut rows, &targets, 0.5, cap);
            for (which, target) in targets.into_iter().enumerate() {
                let row = &logits[which * 19..][..19];
                let mut row: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
                let target = target as usize;
                let wanted = loss(&row, target, cap);
                assert!((f64::from(losses[which]) - wanted).abs() < 1e-5);
                for i in 0..19 {
                    let before = row[i];
                    row[i] = before + 1e-5;
                    let above = loss(&row, target, cap);
                    row[i] = before - 1e-5;
                    let slope = 0.5 * (above - loss(&row, target, cap)) / 2e-5;
                    row[i] = before;
                    let found = f64::from(rows[which * 19 + i]);
                    assert!((found - slope).abs() < 1e-6, "{cap:?}: {found} {slope}");
                }
            }
        }
    }
}
