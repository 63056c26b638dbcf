//! Numbers in eight bits each, block by block: how an optimizer's moments are kept small.
//!
//! Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (ICLR 2022):
//! a block of [`BLOCK`] values is divided by its greatest magnitude, and each
//! quotient becomes the number of the nearest of 256 values that lie close
//! together near 0 (a dynamic tree of 7 bits of exponent and fraction). Nothing
//! is rounded by chance. Beyond the paper: what is above 0 stays above 0 in the
//! unsigned code, because the root of a second moment is divided by.

use std::sync::LazyLock;

/// Values that share a scale.
pub const BLOCK: usize = 256;

/// The 256 values that a byte stands for, and where one ends and the next begins.
pub struct Code {
    values: [f32; 256],
    bounds: [f32; 255],
    /// The number of 0.
    zero: u8,
}

/// For numbers of either sign.
pub static SIGNED: LazyLock<Code> = LazyLock::new(|| Code::dynamic(true));

/// For numbers that are never below 0.
pub static UNSIGNED: LazyLock<Code> = LazyLock::new(|| Code::dynamic(false));

/// Powers of ten from 10⁻⁶ to 1: a power function differs by platform.
const POWERS: [f64; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

impl Code {
    /// The dynamic map of the paper: for each power of ten twice as many values
    /// as for the one below, evenly between a tenth of it and it, and 0 and 1.
    fn dynamic(signed: bool) -> Self {
        let mut values = vec![0.0, 1.0];
        for (i, power) in POWERS.into_iter().enumerate() {
            let count = if signed { 1 << i } else { 2 << i };
            for k in 0..count {
                let value = (0.1 + 0.9 * (f64::from(k) + 0.5) / f64::from(count)) * power;
                values.push(value);
                if signed {
                    values.push(-value);
                }
            }
        }
        values.sort_by(f64::total_cmp);
        let mut code = Code {
            values: [0.0; 256],
            bounds: [0.0; 255],
            zero: 0,
        };
        for (i, value) in values.iter().enumerate() {
            code.values[i] = *value as f32;
            if *value == 0.0 {
                code.zero = i as u8;
            }
        }
        for (i, bound) in code.bounds.iter_mut().enumerate() {
            *bound = ((values[i] + values[i + 1]) / 2.0) as f32;
        }
        code
    }

    /// The number of the value nearest to `x`; the lower one's in the middle of two.
    #[inline]
    fn nearest(&self, x: f32) -> u8 {
        let mut low = 0;
        for half in [128, 64, 32, 16, 8, 4, 2, 1] {
            low += half * usize::from(x > self.bounds[low + half - 1]);
        }
        low as u8
    }
}

/// One tensor in eight bits.
#[derive(Debug, Clone, PartialEq)]
pub struct EightBit {
    /// A number each.
    pub codes: Vec<u8>,
    /// The greatest magnitude of each block.
    pub scales: Vec<f32>,
}

impl EightBit {
    /// `length` zeros.
    pub fn zeros(code: &Code, length: usize) -> Self {
        EightBit {
            codes: vec![code.zero; length],
            scales: vec![0.0; length.div_ceil(BLOCK)],
        }
    }
}

/// The values of one block.
pub fn read_block(code: &Code, codes: &[u8], scale: f32, out: &mut [f32]) {
    for (out, number) in out.iter_mut().zip(codes) {
        *out = code.values[usize::from(*number)] * scale;
    }
}

/// Puts the values of one block into `codes`; gives their scale.
pub fn write_block(code: &Code, values: &[f32], codes: &mut [u8]) -> f32 {
    let scale = values.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    if scale == 0.0 {
        codes.fill(code.zero);
        return scale;
    }
    let least = code.zero + u8::from(code.zero == 0);
    for (number, value) in codes.iter_mut().zip(values) {
        *number = code.nearest(value / scale);
        if code.zero == 0 && *value > 0.0 {
            *number = (*number).max(least);
        }
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the numbers of the paper's reference code, `create_dynamic_map`.
    #[test]
    fn the_codes_are_those_of_the_paper() {
        let signed = &SIGNED.values;
        assert_eq!((signed[127], SIGNED.zero), (0.0, 127));
        assert_eq!(signed[255], 1.0);
        assert!((signed[254] - 0.992_968_8).abs() < 1e-7, "{}", signed[254]);
        assert!((signed[0] + 0.992_968_8).abs() < 1e-7, "{}", signed[0]);
        assert!((signed[128] - 5.5e-7).abs() < 1e-12, "{}", signed[128]);
        let unsigned = &UNSIGNED.values;
        assert_eq!((unsigned[0], unsigned[255]), (0.0, 1.0));
        assert!((unsigned[1] - 3.25e-7).abs() < 1e-12, "{}", unsigned[1]);
        assert!((unsigned[254] - 0.996_484_4).abs() < 1e-7);
        for code in [&*SIGNED, &*UNSIGNED] {
            assert!(code.values.is_sorted() && code.bounds.is_sorted());
        }
    }

    #[test]
    fn every_value_comes_back_and_others_go_to_the_nearest() {
        for code in [&*SIGNED, &*UNSIGNED] {
            for (i, value) in code.values.iter().enumerate() {
                assert_eq!(usize::from(code.nearest(*value)), i);
            }
            for i in 0..2000 {
                let x = i as f32 / 1000.0 - 1.0;
                let x = if code.zero == 0 { x.abs() } else { x };
                let found = (code.values[usize::from(code.nearest(x))] - x).abs();
                let least = code.values.iter().map(|v| (v - x).abs());
                assert!(found <= least.fold(9.0, f32::min) + 1e-7, "{x}");
            }
        }
    }

    #[test]
    fn a_block_keeps_its_greatest_value_and_what_is_above_zero() {
        let mut codes = [0; 4];
        let values = [4.0, 1e-9, 0.0, 2.0];
        let scale = write_block(&UNSIGNED, &values, &mut codes);
        assert_eq!((scale, codes[0], codes[1], codes[2]), (4.0, 255, 1, 0));
        let mut back = [0.0; 4];
        read_block(&UNSIGNED, &codes, scale, &mut back);
        assert_eq!((back[0], back[2]), (4.0, 0.0));
        assert!((back[3] - 2.0).abs() < 0.02);
        assert_eq!(write_block(&SIGNED, &[0.0; 4], &mut codes), 0.0);
        assert_eq!(codes, [127; 4]);
    }
}
