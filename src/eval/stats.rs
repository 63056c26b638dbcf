//! Intervals and tests: Wilson, exact McNemar, and the seeded bootstrap.

/// The two-sided 95 % quantile of the standard normal distribution.
const Z95: f64 = 1.959_963_984_540_054;

/// The 95 % Wilson score interval of `count` successes in `n` trials
/// (Wilson 1927), or none without trials.
pub fn wilson(count: u64, n: u64) -> Option<(f64, f64)> {
    if n == 0 {
        return None;
    }
    let (n, p) = (n as f64, count as f64 / n as f64);
    let z2 = Z95 * Z95;
    let centre = p + z2 / (2.0 * n);
    let spread = Z95 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    let low = ((centre - spread) / scale).max(0.0);
    let high = ((centre + spread) / scale).min(1.0);
    // At the ends the bound is exact; rounding must not move it inside.
    let low = if count == 0 { 0.0 } else { low };
    let high = if p == 1.0 { 1.0 } else { high };
    Some((low, high))
}

/// The two-sided p-value of McNemar's exact test (McNemar 1947): of the
/// `gained + lost` rows on which two models differ, is the split even?
/// 1 when they never differ.
pub fn mcnemar_exact(gained: u64, lost: u64) -> f64 {
    let n = gained + lost;
    let fewer = gained.min(lost);
    let ln_half_n = n as f64 * 0.5f64.ln();
    let mut ln_choose = 0.0;
    let mut tail = 0.0;
    for i in 0..=fewer {
        if i > 0 {
            ln_choose += ((n - i + 1) as f64).ln() - (i as f64).ln();
        }
        tail += (ln_choose + ln_half_n).exp();
    }
    (2.0 * tail).min(1.0)
}

/// SplitMix64 (Steele, Lea and Flood 2014): small, seeded, the same everywhere.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..n`; the bias of the multiplication is below n / 2⁶⁴.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

/// The value of `statistic` on each of `samples` bootstrap resamples of `n`
/// units (Efron 1979); it receives the indices drawn, with replacement.
///
/// The draws depend on `n` and `seed` alone, so two statistics of the same
/// rows are resampled in pairs: their element-wise difference is the paired
/// bootstrap.
pub fn bootstrap(
    n: usize,
    samples: usize,
    seed: u64,
    mut statistic: impl FnMut(&[usize]) -> f64,
) -> Vec<f64> {
    if n == 0 {
        return Vec::new();
    }
    let mut random = SplitMix(seed);
    let mut draw = vec![0; n];
    (0..samples)
        .map(|_| {
            draw.iter_mut().for_each(|i| *i = random.below(n));
            statistic(&draw)
        })
        .collect()
}

/// The 95 % percentile interval of bootstrap values; none when there are no
/// values or one of them is no number.
pub fn percentile_interval(values: &[f64]) -> Option<(f64, f64)> {
    if values.is_empty() || values.iter().any(|v| v.is_nan()) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some((quantile(&sorted, 0.025), quantile(&sorted, 0.975)))
}

/// Linear interpolation between order statistics (Hyndman and Fan's type 7).
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let below = sorted[at.floor() as usize];
    let above = sorted[at.ceil() as usize];
    below + (above - below) * at.fract()
}

/// The two-sided bootstrap p-value of differences that should straddle zero
/// if there were no effect, with the +1 that keeps it above 0.
pub fn bootstrap_p(differences: &[f64]) -> Option<f64> {
    if differences.is_empty() || differences.iter().any(|d| d.is_nan()) {
        return None;
    }
    let at_most = differences.iter().filter(|d| **d <= 0.0).count();
    let at_least = differences.iter().filter(|d| **d >= 0.0).count();
    let tail = (at_most.min(at_least) + 1) as f64 / (differences.len() + 1) as f64;
    Some((2.0 * tail).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{a} is not {b}");
    }
}
