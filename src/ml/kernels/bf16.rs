//! bf16 as the processor's dot product takes it: how f32 is rounded, what a multiply-add is.
//!
//! The definition is that of `VDPBF16PS` and `VCVTNE2PS2BF16` (Intel SDM vol. 2):
//! round to nearest even whatever the thread's mode is, numbers below 2⁻¹²⁶ are
//! zeros of their sign on the way in and on the way out. A NaN stays one; which
//! one is not defined.

use super::isa::{Isa, Level};

/// The least normal number.
const LEAST: f32 = f32::MIN_POSITIVE;

/// The nearest bf16 as its bits, ties to even; ±0 for numbers below 2⁻¹²⁶.
#[inline(always)]
pub fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let even = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let rounded = if x.abs() < LEAST {
        bits & 0x8000_0000
    } else {
        even
    };
    let quiet = bits | 0x0040_0000;
    ((if x.is_nan() { quiet } else { rounded }) >> 16) as u16
}

/// A bf16 number in f32, exactly.
#[inline(always)]
pub fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// As [`widen`], but ±0 for numbers below 2⁻¹²⁶, which is what a product sees.
#[inline(always)]
pub fn factor(bits: u16) -> f32 {
    let x = widen(bits);
    if x.abs() < LEAST {
        f32::from_bits(x.to_bits() & 0x8000_0000)
    } else {
        x
    }
}

/// Rounds a slice: [`round`] of every element.
pub fn round_all(x: &[f32], out: &mut [u16]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = round(*x);
    }
}

/// a·b + sum, rounded once; ±0 when that, rounded with exponents without end, is
/// below 2⁻¹²⁶. All three must be zero or at least that.
pub fn multiply_add(a: f32, b: f32, sum: f32) -> f32 {
    const UP: f32 = (1u128 << 64) as f32;
    let result = a.mul_add(b, sum);
    if result == 0.0 || result.abs() > LEAST || result.is_nan() {
        return result;
    }
    // One factor is below 1, since otherwise the result could not be so small,
    // and the sum is about as small as the product: none of this overflows.
    let (small, other) = if a.abs() < 1.0 { (a, b) } else { (b, a) };
    let above = (small * UP).mul_add(other, sum * UP);
    if above.abs() < LEAST * UP {
        0.0f32.copysign(above)
    } else {
        result
    }
}

/// The sum with the two products of a pair of pairs added: odd elements first, then even ones.
pub fn dot_pair(sum: f32, a: u32, b: u32) -> f32 {
    let (even, odd) = (|x: u32| factor(x as u16), |x: u32| factor((x >> 16) as u16));
    multiply_add(even(a), even(b), multiply_add(odd(a), odd(b), sum))
}

/// Rounds elements 2i and 2i + 1 of `x` into the low and high half of word i.
pub fn round_pairs(isa: Isa, x: &[f32], out: &mut [u32]) {
    assert_eq!(out.len(), x.len().div_ceil(2));
    let done = match isa.0 {
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "an Isa exists only where the processor has it")]
        Level::Avx512Bf16 => unsafe { x86::round_pairs(x, out) },
        _ => 0,
    };
    for (out, pair) in out[done / 2..].iter_mut().zip(x[done..].chunks(2)) {
        let odd = pair.get(1).map_or(0, |x| round(*x));
        *out = u32::from(round(pair[0])) | u32::from(odd) << 16;
    }
}

/// Whether no sum of products of numbers of at least these [`magnitude`]s can
/// come below 2⁻¹²⁶ without being zero, so that plain multiply-adds are exact.
#[inline(always)]
pub fn plain(a: u32, b: u32) -> bool {
    // Products are multiples of 2^(their exponents - 14), and so are their sums.
    (a >> 24) + (b >> 24) >= 2 * 127 + 14 - 126
}

/// The least magnitude among the numbers that are not zero, comparable, its exponent in the high byte.
#[inline(always)]
pub fn magnitude(x: impl Iterator<Item = u32>) -> u32 {
    // A zero becomes the greatest of all.
    x.map(|bits| (bits << 1).wrapping_sub(1))
        .fold(u32::MAX, u32::min)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Whole blocks of 32; returns how many elements those are.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn round_pairs(x: &[f32], out: &mut [u32]) -> usize {
        for (x, out) in x.chunks_exact(32).zip(out.chunks_exact_mut(16)) {
            #[expect(unsafe_code, reason = "32 elements are read and 16 words written")]
            // SAFETY: the chunks have these lengths; both vector types are 512 plain bits.
            unsafe {
                let low = _mm512_loadu_ps(x.as_ptr());
                let high = _mm512_loadu_ps(x.as_ptr().add(16));
                let both = _mm512_cvtne2ps_pbh(high, low);
                let both = std::mem::transmute::<__m512bh, __m512i>(both);
                _mm512_storeu_si512(out.as_mut_ptr().cast(), both);
            }
        }
        x.len() / 32 * 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ml::rng::Stream;

    #[test]
    fn rounding_is_that_of_the_half_crate_but_for_what_is_too_small() {
        for i in 0..2_000_000u64 {
            let x = f32::from_bits(Stream::new(1, "round", 0, "").u32(i));
            let (ours, theirs) = (round(x), half::bf16::from_f32(x).to_bits());
            match x.is_nan() {
                true => assert!(widen(ours).is_nan()),
                false if x.abs() < LEAST => assert_eq!(ours, theirs & 0x8000, "{x:e}"),
                false => assert_eq!(ours, theirs, "{x:e}"),
            }
        }
    }

    /// Bits of any number, with exponents that are often at the ends or cancel.
    fn any(stream: &Stream, i: u64) -> u32 {
        let bits = stream.u32(i);
        let exponent = match stream.u32(i + 1) % 8 {
            0 => 0,
            1 => 255,
            2 => 1 + stream.u32(i + 2) % 24,
            3 => 254 - stream.u32(i + 2) % 24,
            4 | 5 => 50 + stream.u32(i + 2) % 28,
            _ => 120 + stream.u32(i + 2) % 14,
        };
        let mantissa = match stream.u32(i + 3) % 4 {
            0 => 0,
            _ => bits & 0x007f_ffff,
        };
        bits & 0x8000_0000 | exponent << 23 | mantissa
    }

    /// The definition, to nearest even and with wide exponents, by integers.
    fn exact(a: f32, b: f32, sum: f32) -> f32 {
        // The product is exact in f64; the rounding of the sum to odd in f64 (53
        // bits) makes the second rounding, to f32's 24 bits, that of the whole.
        let product = f64::from(a) * f64::from(b);
        let total = product + f64::from(sum);
        let back = total - product;
        let error = (product - (total - back)) + (f64::from(sum) - back);
        let odd = match error != 0.0 && total.to_bits() & 1 == 0 && total.is_finite() {
            true if (error > 0.0) == (total > 0.0) => f64::from_bits(total.to_bits() | 1),
            true => f64::from_bits(total.to_bits() - 1),
            false => total,
        };
        // Scaled away from f32's least exponents, rounded, and looked at again.
        let scaled = (odd * 2f64.powi(64)) as f32;
        match scaled.abs() < LEAST * 2f32.powi(64) {
            true => 0.0f32.copysign(odd as f32),
            false => odd as f32,
        }
    }

    #[test]
    fn a_multiply_add_is_rounded_once_and_never_too_small() {
        let stream = Stream::new(2, "madd", 0, "");
        for i in (0..8_000_000).step_by(12) {
            let number = |i| f32::from_bits(any(&stream, i));
            let (a, b) = (factor(round(number(i))), factor(round(number(i + 4))));
            let sum = number(i + 8);
            let sum = if sum.abs() < LEAST { 0.0 } else { sum };
            let (found, wanted) = (multiply_add(a, b, sum), exact(a, b, sum));
            let same = found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan();
            assert!(same, "{a:e} · {b:e} + {sum:e} = {found:e}, not {wanted:e}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn hardware(sum: [f32; 16], a: [u32; 16], b: [u32; 16]) -> [f32; 16] {
        use std::arch::x86_64::*;
        #[expect(unsafe_code, reason = "arrays and vectors of 512 plain bits")]
        // SAFETY: all types are 64 bytes of numbers.
        unsafe {
            let pairs = |x| std::mem::transmute::<[u32; 16], __m512bh>(x);
            let sum = std::mem::transmute::<[f32; 16], __m512>(sum);
            let sum = _mm512_dpbf16_ps(sum, pairs(a), pairs(b));
            std::mem::transmute::<__m512, [f32; 16]>(sum)
        }
    }

    /// Where the processor has the instruction, it is the definition.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_definition_is_what_the_processor_does() {
        if !std::is_x86_feature_detected!("avx512bf16") {
            return;
        }
        let stream = Stream::new(3, "hardware", 0, "");
        let pair = |i| (any(&stream, i) >> 16) | (any(&stream, i + 4) & 0xffff_0000);
        for i in (0..16_000_000).step_by(16 * 20) {
            let at = |lane: usize| i + 20 * lane as u64;
            let mut sum: [f32; 16] =
                std::array::from_fn(|lane| f32::from_bits(any(&stream, at(lane))));
            let a: [u32; 16] = std::array::from_fn(|lane| pair(at(lane) + 4));
            let b: [u32; 16] = std::array::from_fn(|lane| pair(at(lane) + 12));
            // A sum is never too small: it comes from such a product or is zero.
            sum.iter_mut()
                .filter(|x| x.abs() < LEAST)
                .for_each(|x| *x = 0.0);
            #[expect(unsafe_code, reason = "asked for above")]
            let found = unsafe { hardware(sum, a, b) };
            for lane in 0..16 {
                let (x, y, sum, found) = (a[lane], b[lane], sum[lane], found[lane]);
                let wanted = dot_pair(sum, x, y);
                let same = found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan();
                assert!(
                    same,
                    "{sum:e} + {x:08x} · {y:08x} = {found:e}, not {wanted:e}"
                );
            }
        }
    }
}
