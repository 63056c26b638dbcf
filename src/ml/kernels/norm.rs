//! RMSNorm, forward and backward, over rows of any width (a whole token or one head).

use rayon::prelude::*;

use super::isa::{Isa, dispatched};
use super::{ROWS, lanes};

/// out = x / rms(x) · weight, row by row; the width is that of `weight`.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let block = ROWS * weight.len();
    out.par_chunks_mut(block)
        .zip(x.par_chunks(block))
        .for_each(|(out, x)| forward(isa, x, weight, eps, out));
}

/// Turns the gradient of the norm's output in `grad` into that of its input.
/// When `grad_weight` is given, the gradient of the weight is added to it.
pub fn rms_norm_backward(
    isa: Isa,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    grad: &mut [f32],
    grad_weight: Option<&mut [f32]>,
) {
    let width = weight.len();
    let block = ROWS * width;
    if let Some(total) = grad_weight {
        let parts: Vec<Vec<f32>> = grad
            .par_chunks(block)
            .zip(x.par_chunks(block))
            .map(|(grad, x)| weight_gradient(isa, x, eps, grad, width))
            .collect();
        for part in parts {
            for (total, part) in total.iter_mut().zip(part) {
                *total += part;
            }
        }
    }
    grad.par_chunks_mut(block)
        .zip(x.par_chunks(block))
        .for_each(|(grad, x)| backward(isa, x, weight, eps, grad));
}

/// 1 / rms of one row.
#[inline(always)]
fn scale(x: &[f32], eps: f32) -> f32 {
    1.0 / (lanes::dot(x, x) / x.len() as f32 + eps).sqrt()
}

dispatched! {
    fn forward(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let width = weight.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let scale = scale(x, eps);
            for i in 0..width {
                out[i] = x[i] * scale * weight[i];
            }
        }
    }
}

dispatched! {
    fn backward(x: &[f32], weight: &[f32], eps: f32, grad: &mut [f32]) {
        let width = weight.len();
        for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact_mut(width)) {
            let scale = scale(x, eps);
            for i in 0..width {
                grad[i] *= weight[i];
            }
            let along = lanes::dot(grad, x) * scale * scale * scale / width as f32;
            for i in 0..width {
                grad[i] = grad[i] * scale - x[i] * along;
            }
        }
    }
}

dispatched! {
    fn weight_gradient(x: &[f32], eps: f32, grad: &[f32], width: usize) -> Vec<f32> {
        let mut total = vec![0.0f32; width];
        for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
            let scale = scale(x, eps);
            for i in 0..width {
                total[i] = (x[i] * scale).mul_add(grad[i], total[i]);
            }
        }
        total
    }
}
