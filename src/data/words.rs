//! Words and word n-grams of texts as 64-bit hashes.
//!
//! A word is a run of letters and digits, in lower case; what stands between
//! words does not count. This is how n-gram overlap is usually taken
//! (lm-evaluation-harness strips punctuation and case as well). Hashes are
//! XXH3 (its specification fixes every bit), so they are the same everywhere.

use std::ops::Range;

use twox_hash::XxHash3_64;

/// A multiplier for polynomial hashes; odd, from the fractional part of the golden ratio.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

/// The words of a text: the byte range of each, and the hash of its lower case.
pub fn words(text: &str) -> impl Iterator<Item = (Range<usize>, u64)> {
    let mut lower = String::new();
    ranges(text).map(move |range| {
        lower.clear();
        let word = &text[range.clone()];
        if word.is_ascii() {
            lower.push_str(word);
            lower.make_ascii_lowercase();
        } else {
            lower.extend(word.chars().flat_map(char::to_lowercase));
        }
        (range, XxHash3_64::oneshot(lower.as_bytes()))
    })
}

/// As [`words`], the hashes alone, with each run of digits as one `0`: so that
/// texts which differ in a line number or a version have the same words.
pub fn normal_words(text: &str) -> impl Iterator<Item = u64> {
    let mut normal = String::new();
    ranges(text).map(move |range| {
        normal.clear();
        let mut push = |c: char| match c {
            c if !c.is_numeric() => normal.push(c),
            _ if normal.ends_with('0') => {}
            _ => normal.push('0'),
        };
        text[range]
            .chars()
            .flat_map(char::to_lowercase)
            .for_each(&mut push);
        XxHash3_64::oneshot(normal.as_bytes())
    })
}

/// The byte ranges of the words of a text.
fn ranges(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = &text[at..];
        let start = at + rest.find(char::is_alphanumeric)?;
        let word = &text[start..];
        let end = word.find(|c: char| !c.is_alphanumeric());
        at = end.map_or(text.len(), |end| start + end);
        Some(start..at)
    })
}

/// The hash of each run of `n` words, in order; none when there are fewer.
pub fn grams(words: &[u64], n: usize) -> Vec<u64> {
    if n == 0 || words.len() < n {
        return Vec::new();
    }
    let leaving = BASE.wrapping_pow(n as u32 - 1);
    let mut sum = words[..n].iter().fold(0, append);
    let mut all = Vec::with_capacity(words.len() - n + 1);
    all.push(mix(sum));
    for (old, new) in words.iter().zip(&words[n..]) {
        let rest = sum.wrapping_sub(old.wrapping_mul(leaving));
        sum = append(rest, new);
        all.push(mix(sum));
    }
    all
}

fn append(sum: u64, word: &u64) -> u64 {
    sum.wrapping_mul(BASE).wrapping_add(*word)
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014).
pub const fn mix(value: u64) -> u64 {
    let mut z = value;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hashes(text: &str) -> Vec<u64> {
        words(text).map(|(_, hash)| hash).collect()
    }

    #[test]
    fn case_and_punctuation_do_not_count_and_the_hash_is_pinned() {
        assert_eq!(hashes("Hello, World!"), hashes("hello   world"));
        assert_eq!(hashes("ÄRGER"), hashes("ärger"));
        assert_ne!(hashes("a b"), hashes("b a"));
        assert!(hashes("--- …").is_empty());
        let found: Vec<_> = words(" x-Ärger9 ").map(|(range, _)| range).collect();
        assert_eq!(found, [1..2, 3..10]);
        assert_eq!(
            grams(&hashes("the quick brown"), 2),
            [9_484_889_266_626_325_192, 4_337_023_499_110_847_123]
        );
    }

    proptest! {
        #[test]
        fn a_rolled_gram_is_that_of_its_words(words in prop::collection::vec(any::<u64>(), 0..40), n in 1usize..14) {
            let rolled = grams(&words, n);
            let alone: Vec<u64> = words.windows(n).map(|run| grams(run, n)[0]).collect();
            prop_assert_eq!(rolled, alone);
        }
    }
}
