//! Random numbers as a function of (seed, stream, step, tensor) and position: Philox4x32-10.
//!
//! There is no hidden state to save or to share between threads: the i-th
//! number of a stream is the same whoever asks for it, in whatever order.

use crate::hash::Encoder;

/// Where the numbers of one use come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
}

impl Stream {
    /// The numbers for `tensor` at `step` of the stream `name`.
    pub fn new(seed: u64, name: &str, step: u64, tensor: &str) -> Self {
        let mut encoder = Encoder::new("retune.rng.1");
        encoder.u64(seed).str(name).u64(step).str(tensor);
        let key = encoder.digest_of().prefix();
        Stream {
            key: [key as u32, (key >> 32) as u32],
        }
    }

    /// The four 32-bit numbers of block `index`.
    #[inline]
    pub fn block(&self, index: u64) -> [u32; 4] {
        philox([index as u32, (index >> 32) as u32, 0, 0], self.key)
    }

    /// The `index`-th 32-bit number.
    pub fn u32(&self, index: u64) -> u32 {
        self.block(index / 4)[(index % 4) as usize]
    }

    /// The `index`-th number in [0, 1), with 24 random bits.
    pub fn uniform(&self, index: u64) -> f32 {
        (self.u32(index) >> 8) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// The `index`-th number in [0, 1), with 53 random bits.
    pub fn uniform64(&self, index: u64) -> f64 {
        let block = self.block(index);
        let bits = u64::from(block[0]) << 32 | u64::from(block[1]);
        (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Fills `out` with numbers of the normal distribution (Box–Muller).
    pub fn normal(&self, mean: f32, deviation: f32, out: &mut [f32]) {
        const UNIT: f64 = 1.0 / (1u64 << 32) as f64;
        for (index, four) in out.chunks_mut(4).enumerate() {
            let block = self.block(index as u64);
            let mut values = [0.0; 4];
            for pair in 0..2 {
                // Shifted by half a unit: the logarithm never sees 0.
                let u = (f64::from(block[2 * pair]) + 0.5) * UNIT;
                let v = f64::from(block[2 * pair + 1]) * UNIT;
                let radius = libm::sqrt(-2.0 * libm::log(u));
                let (sin, cos) = libm::sincos(std::f64::consts::TAU * v);
                values[2 * pair] = radius * cos;
                values[2 * pair + 1] = radius * sin;
            }
            for (out, value) in four.iter_mut().zip(values) {
                *out = mean + deviation * value as f32;
            }
        }
    }

    /// Fills `out` with numbers of the uniform distribution on [-`bound`, `bound`).
    pub fn symmetric(&self, bound: f32, out: &mut [f32]) {
        for (index, out) in out.iter_mut().enumerate() {
            *out = (2.0 * self.uniform(index as u64) - 1.0) * bound;
        }
    }

    /// Puts `items` into a random order (Fisher–Yates).
    pub fn shuffle<T>(&self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = (self.uniform64(i as u64) * (i + 1) as f64) as usize;
            items.swap(i, j.min(i));
        }
    }
}

/// Philox4x32 with ten rounds (Salmon et al., "Parallel random numbers: as
/// easy as 1, 2, 3", SC 2011).
#[inline]
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key[0] = key[0].wrapping_add(0x9E37_79B9);
        key[1] = key[1].wrapping_add(0xBB67_AE85);
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with the method's reference code.
    #[test]
    fn philox_gives_its_known_answers() {
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let base = Stream::new(1, "dropout", 2, "q").block(0);
        for other in [
            Stream::new(2, "dropout", 2, "q"),
            Stream::new(1, "init", 2, "q"),
            Stream::new(1, "dropout", 3, "q"),
            Stream::new(1, "dropout", 2, "k"),
        ] {
            assert_ne!(other.block(0), base);
        }
    }

    #[test]
    fn normal_numbers_have_the_asked_moments() {
        let mut values = vec![0.0; 40_000];
        Stream::new(7, "test", 0, "").normal(1.0, 2.0, &mut values);
        let n = values.len() as f64;
        let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let variance = values
            .iter()
            .map(|x| (f64::from(*x) - mean).powi(2))
            .sum::<f64>()
            / n;
        assert!((mean - 1.0).abs() < 0.04, "{mean}");
        assert!((variance - 4.0).abs() < 0.12, "{variance}");
    }

    #[test]
    fn a_shuffle_keeps_the_items_and_moves_them() {
        let mut items: Vec<u32> = (0..100).collect();
        Stream::new(7, "order", 0, "").shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
