//! Intervals and tests: Wilson, exact McNemar, and the seeded bootstrap.

/// Confidence of every interval here.
pub const CONFIDENCE: f64 = 0.95;
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
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Some((quantile(&sorted, tail), quantile(&sorted, 1.0 - tail)))
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

    // The expected values of this module come from scipy 1.17.1
    // (binomtest), by `tests/interop/eval_reference.py`.

    #[test]
    fn wilson_agrees_with_scipy() {
        for (count, n, low, high) in [
            (0, 10, 0.0, 0.27753279986288926),
            (10, 10, 0.7224672001371109, 1.0),
            (3, 25, 0.041668171504403606, 0.29955793920927326),
            (81, 263, 0.2552885198782742, 0.36620957698280004),
            (1, 1, 0.20654931437723745, 1.0),
            (500, 1000, 0.4690696003681042, 0.5309303996318958),
        ] {
            let interval = wilson(count, n).unwrap();
            close(interval.0, low);
            close(interval.1, high);
        }
        assert_eq!(wilson(0, 0), None);
    }

    #[test]
    fn mcnemar_agrees_with_scipy() {
        for (gained, lost, p) in [
            (5, 15, 0.04138946533203125),
            (0, 0, 1.0),
            (0, 6, 0.03125),
            (10, 10, 1.0),
            (3, 100, 3.593419195462753e-26),
            (121, 59, 4.4344492637551645e-06),
            (1000, 1200, 2.1817026407914194e-05),
        ] {
            close(mcnemar_exact(gained, lost), p);
            close(mcnemar_exact(lost, gained), p);
        }
    }

    #[test]
    fn the_bootstrap_is_pinned_by_its_seed() {
        let values = [1.0, 2.0, 4.0, 8.0];
        let mean = |draw: &[usize]| draw.iter().map(|i| values[*i]).sum::<f64>() / 4.0;
        let first = bootstrap(4, 3, 7, mean);
        assert_eq!(first, bootstrap(4, 3, 7, mean));
        assert_ne!(first, bootstrap(4, 3, 8, mean));
        assert_eq!(first, [3.75, 1.75, 3.0]);
        assert!(bootstrap(0, 3, 7, mean).is_empty());
    }

    #[test]
    fn the_bootstrap_covers_the_mean_of_normal_like_data() {
        // The standard error of the mean of 0..100 is 28.87 / 10.
        let mean = |draw: &[usize]| draw.iter().sum::<usize>() as f64 / 100.0;
        let values = bootstrap(100, 4000, 1, mean);
        let (low, high) = percentile_interval(&values).unwrap();
        assert!((low - (49.5 - 1.96 * 2.887)).abs() < 0.4, "{low}");
        assert!((high - (49.5 + 1.96 * 2.887)).abs() < 0.4, "{high}");
        assert_eq!(bootstrap_p(&[1.0; 99]), Some(0.02));
        assert_eq!(bootstrap_p(&[1.0, -1.0]), Some(1.0));
        assert_eq!(percentile_interval(&[1.0, f64::NAN]), None);
    }

    proptest! {
        #[test]
        fn a_wilson_interval_holds_its_share(n in 1u64..5000, part in 0.0..=1.0f64) {
            let count = (part * n as f64).round() as u64;
            let (low, high) = wilson(count, n).unwrap();
            let p = count as f64 / n as f64;
            prop_assert!(0.0 <= low && low <= p && p <= high && high <= 1.0);
        }
    }
}
