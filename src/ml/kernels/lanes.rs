//! Reductions in a fixed order and own `exp` and `tanh`: the building blocks whose bits everything else inherits.
//!
//! All are inlined into functions compiled per instruction set.

/// How many partial sums a reduction keeps.
const LANES: usize = 16;

/// Adds the lanes pairwise, halves first.
#[inline(always)]
fn tree(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = combine(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Runs `step` over all elements, element i into lane i mod 16, then adds the lanes.
#[inline(always)]
fn reduce(
    n: usize,
    start: f32,
    step: impl Fn(f32, usize) -> f32,
    combine: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut lanes = [start; LANES];
    let whole = n / LANES * LANES;
    let mut base = 0;
    while base < whole {
        for (lane, value) in lanes.iter_mut().enumerate() {
            *value = step(*value, base + lane);
        }
        base += LANES;
    }
    for (lane, i) in (whole..n).enumerate() {
        lanes[lane] = step(lanes[lane], i);
    }
    tree(lanes, combine)
}

/// Σ aᵢ bᵢ.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len();
    let b = &b[..n];
    reduce(n, 0.0, |sum, i| a[i].mul_add(b[i], sum), |x, y| x + y)
}

/// Σ aᵢ.
#[inline(always)]
pub fn sum(a: &[f32]) -> f32 {
    reduce(a.len(), 0.0, |sum, i| sum + a[i], |x, y| x + y)
}

/// The greatest element; -∞ for none. A NaN may be passed over.
#[inline(always)]
pub fn max(a: &[f32]) -> f32 {
    let greater = |x: f32, y: f32| if y > x { y } else { x };
    reduce(a.len(), f32::NEG_INFINITY, |m, i| greater(m, a[i]), greater)
}

/// eˣ to about one unit in the last place; 0 below -87.3, clamped above 88; a NaN stays one.
///
/// Cody–Waite reduction to |r| ≤ ln 2 / 2 and the degree-five minimax
/// polynomial of Cephes' `expf`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    let clamped = if x > 88.0 { 88.0 } else { x };
    let n = (clamped * LOG2_E).round_ties_even();
    let r = n.mul_add(-0.693_359_4, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_5e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    // Adding 1.5 · 2²³ leaves the integer n in the low bits of the sum: a
    // conversion that vectorizes, unlike a saturating cast.
    let exponent = ((n + 12_582_912.0).to_bits() as i32).wrapping_sub(0x4b40_0000);
    let scale = f32::from_bits((exponent.wrapping_add(127) as u32) << 23);
    if x < -87.3 { 0.0 } else { y * scale }
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// tanh x to about two units in the last place.
///
/// Cephes' `tanhf`: an odd polynomial near 0, elsewhere by way of [`exp`].
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let square = x * x;
    let mut p = -5.704_988_7e-3_f32;
    p = p.mul_add(square, 2.063_909e-2);
    p = p.mul_add(square, -5.373_971_6e-2);
    p = p.mul_add(square, 1.333_144_2e-1);
    p = p.mul_add(square, -3.333_328e-1);
    let near = (p * square).mul_add(x, x);
    let magnitude = x.abs();
    let far = 1.0 - 2.0 / (exp(magnitude + magnitude) + 1.0);
    if magnitude < 0.625 {
        near
    } else {
        far.copysign(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tanh_is_within_three_units_in_the_last_place() {
        for i in -40_000..40_000 {
            let x = i as f32 * 0.0005;
            let exact = f64::from(x).tanh();
            let error = (f64::from(tanh(x)) - exact).abs() / exact.abs().max(1e-30);
            assert!(error < 3.6e-7 || i == 0, "tanh({x}) is off by {error:e}");
        }
        assert_eq!(tanh(0.0), 0.0);
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert_eq!(tanh(f32::NEG_INFINITY), -1.0);
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in -87_000..88_000 {
            let x = i as f32 * 0.001;
            let exact = f64::from(x).exp();
            let error = ((f64::from(exp(x)) - exact) / exact).abs();
            assert!(error < 2.4e-7, "exp({x}) is off by {error:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(1000.0).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_take_every_element_once() {
        for n in 0..100 {
            let a: Vec<f32> = (1..=n).map(|i| i as f32).collect();
            let total = (n * (n + 1) / 2) as f32;
            assert_eq!(sum(&a), total);
            assert_eq!(dot(&a, &vec![2.0; n]), 2.0 * total);
            assert_eq!(max(&a), if n == 0 { f32::NEG_INFINITY } else { n as f32 });
        }
    }
}
