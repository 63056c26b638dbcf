//! chrF, the character n-gram F-score (Popović 2015), with sacrebleu's defaults.
//!
//! Character n-grams of order 1 to 6 with white space removed, β = 2, no word
//! n-grams, averaged over the orders that occur on both sides ("effective
//! order"). Sacrebleu's signature of this setting is
//! `nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no`; `tests/interop/eval_reference.py`
//! compares against it.

/// The largest order of n-grams.
pub const ORDER: usize = 6;
/// How much more recall counts than precision.
const BETA: f64 = 2.0;
/// 21 bits hold any `char`, so an n-gram up to [`ORDER`] fits a `u128` exactly.
const CHAR_BITS: u32 = 21;

/// The n-gram counts of one or several answers; counts add up to those of a
/// corpus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts([Order; ORDER]);

/// Counts of one order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Order {
    hypothesis: u64,
    reference: u64,
    matches: u64,
}

impl Counts {
    /// The counts of one answer against its reference.
    pub fn of(hypothesis: &str, reference: &str) -> Self {
        let (hypothesis, reference) = (visible(hypothesis), visible(reference));
        let mut counts = Counts::default();
        for (i, order) in counts.0.iter_mut().enumerate() {
            let (ours, theirs) = (ngrams(&hypothesis, i + 1), ngrams(&reference, i + 1));
            *order = Order {
                // Without any reference n-gram of this order there is nothing to hit.
                hypothesis: if theirs.is_empty() {
                    0
                } else {
                    ours.len() as u64
                },
                reference: theirs.len() as u64,
                matches: common(&ours, &theirs),
            };
        }
        counts
    }

    /// Adds the counts of another answer.
    pub fn add(&mut self, other: &Counts) {
        for (sum, order) in self.0.iter_mut().zip(&other.0) {
            sum.hypothesis += order.hypothesis;
            sum.reference += order.reference;
            sum.matches += order.matches;
        }
    }

    /// The score, 0 to 100.
    pub fn score(&self) -> f64 {
        let both = |order: &&Order| order.hypothesis > 0 && order.reference > 0;
        let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
        for order in self.0.iter().filter(both) {
            precision += order.matches as f64 / order.hypothesis as f64;
            recall += order.matches as f64 / order.reference as f64;
            orders += 1.0;
        }
        if precision + recall == 0.0 {
            return 0.0;
        }
        let (precision, recall) = (precision / orders, recall / orders);
        let weight = BETA * BETA;
        100.0 * (1.0 + weight) * precision * recall / (weight * precision + recall)
    }
}

/// The characters that are not white space. The four ASCII separators
/// U+001C to U+001F count as white space, as they do in Python.
fn visible(text: &str) -> Vec<char> {
    text.chars()
        .filter(|c| !c.is_whitespace() && !('\u{1c}'..='\u{1f}').contains(c))
        .collect()
}

/// All n-grams, each packed into an integer, sorted.
fn ngrams(text: &[char], n: usize) -> Vec<u128> {
    let pack = |gram: &[char]| {
        gram.iter().fold(0, |packed, c| {
            packed << CHAR_BITS | u128::from(u32::from(*c))
        })
    };
    let mut grams: Vec<u128> = text.windows(n).map(pack).collect();
    grams.sort_unstable();
    grams
}

/// The size of the intersection of two sorted multisets.
fn common(a: &[u128], b: &[u128]) -> u64 {
    let (mut i, mut j, mut count) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                count += 1;
                i += 1;
                j += 1;
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Expected values: sacrebleu 2.6.0, by `tests/interop/eval_reference.py`.
    const PAIRS: &[(&str, &str, f64)] = &[
        (
            "Upgrade netty to 4.1.124.Final",
            "Upgrade netty to 4.1.118.Final",
            81.05260989681278,
        ),
        (
            "the cat sat on the mat",
            "the cat is on the mat",
            64.5779420625287,
        ),
        ("", "abc", 0.0),
        ("abc", "", 0.0),
        ("ab", "abcdefgh", 23.404255319148938),
        (
            "Größe über 10 µm — ok",
            "Grösse über 10 μm - ok",
            40.70967681054992,
        ),
        ("fun <T> f() {}", "fun <T> f(): T {\n}\n", 67.38132016243523),
        ("same", "same", 100.0),
        ("xyz", "abc", 0.0),
    ];
    const CORPUS: f64 = 61.211856713325844;

    #[test]
    fn agrees_with_sacrebleu() {
        let mut corpus = Counts::default();
        for (hypothesis, reference, expected) in PAIRS {
            let counts = Counts::of(hypothesis, reference);
            corpus.add(&counts);
            let score = counts.score();
            assert!((score - expected).abs() < 1e-9, "{hypothesis}: {score}");
        }
        assert!((corpus.score() - CORPUS).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn a_score_lies_between_none_and_all(a in ".{0,20}", b in ".{0,20}") {
            let score = Counts::of(&a, &b).score();
            prop_assert!((0.0..=100.0 + 1e-9).contains(&score));
            let same = Counts::of(&a, &a).score();
            prop_assert!(same == 0.0 || (same - 100.0).abs() < 1e-9);
        }
    }
}
