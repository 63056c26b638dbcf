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
pub fn words(text: &str) -> Words<'_> {
    Words::new(text, false)
}

/// As [`words`], the hashes alone, with each run of digits as one `0`: so that
/// texts which differ in a line number or a version have the same words.
pub fn normal_words(text: &str) -> impl Iterator<Item = u64> {
    Words::new(text, true).map(|(_, hash)| hash)
}

/// The words of a text, one after the other.
pub struct Words<'a> {
    text: &'a str,
    at: usize,
    /// Whether runs of digits are one `0`.
    fold: bool,
    /// The word as it is hashed.
    word: Vec<u8>,
}

impl<'a> Words<'a> {
    fn new(text: &'a str, fold: bool) -> Self {
        Words {
            text,
            at: 0,
            fold,
            word: Vec::with_capacity(32),
        }
    }

    /// The character at a place that is not ASCII's.
    fn wide(&self, at: usize) -> char {
        self.text[at..].chars().next().unwrap_or('\0')
    }

    /// Goes to the beginning of the next word; false when there is none.
    fn skip(&mut self) -> bool {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if byte.is_ascii() {
                if byte.is_ascii_alphanumeric() {
                    return true;
                }
                self.at += 1;
                continue;
            }
            let c = self.wide(self.at);
            if c.is_alphanumeric() {
                return true;
            }
            self.at += c.len_utf8();
        }
        false
    }

    /// Goes to the end of the word and gathers it.
    fn gather(&mut self) {
        let bytes = self.text.as_bytes();
        self.word.clear();
        while let Some(&byte) = bytes.get(self.at) {
            if byte.is_ascii_digit() && self.fold {
                self.push_zero();
            } else if byte.is_ascii_alphanumeric() {
                self.word.push(byte.to_ascii_lowercase());
            } else if byte.is_ascii() {
                return;
            } else {
                let c = self.wide(self.at);
                if !c.is_alphanumeric() {
                    return;
                }
                self.push_wide(c);
                self.at += c.len_utf8() - 1;
            }
            self.at += 1;
        }
    }

    fn push_wide(&mut self, c: char) {
        for c in c.to_lowercase() {
            match c.is_numeric() && self.fold {
                true => self.push_zero(),
                false => self.word.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }

    fn push_zero(&mut self) {
        if self.word.last() != Some(&b'0') {
            self.word.push(b'0');
        }
    }
}

impl Iterator for Words<'_> {
    type Item = (Range<usize>, u64);

    fn next(&mut self) -> Option<Self::Item> {
        if !self.skip() {
            return None;
        }
        let start = self.at;
        self.gather();
        Some((start..self.at, XxHash3_64::oneshot(&self.word)))
    }
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
        let normal = |text: &str| normal_words(text).collect::<Vec<_>>();
        assert_eq!(normal("V1.20 ä²3x"), normal("v7.9 Ä0x"));
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
