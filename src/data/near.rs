//! Near-duplicates: word 5-grams, MinHash-LSH candidates, and the exact Jaccard similarity that decides.
//!
//! Rows made by templates share most of their words, so similarity is taken
//! over what tells rows apart: 5-grams that occur in more than a given share of
//! all rows are left out. Digits are normalised, so that rows which differ in a
//! line number or a version alone are near. A row of which nothing would be
//! left is compared with all its 5-grams.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::Row;
use crate::hash::Digest;

/// Words in a shingle.
const WORDS: usize = 5;
/// Hash functions of a MinHash signature.
const HASHES: usize = 112;
/// A shingle is boilerplate only when at least this many rows hold it, or else
/// in a small data set every pair of duplicates would count as boilerplate.
const MIN_BOILERPLATE_ROWS: usize = 16;
/// The chance of missing a pair of exactly the wanted similarity stays below this.
const MISS: f64 = 1e-4;

/// The shingles of a row: sorted, distinct 64-bit hashes.
pub type Shingles = Vec<u64>;

/// The word 5-grams of a row's messages or text, digits normalised; a shorter
/// row is one shingle.
pub fn shingles(row: &Row) -> Shingles {
    let mut words = Vec::new();
    for text in row.texts() {
        words.extend(
            text.split(|c: char| !c.is_alphanumeric())
                .filter(|w| !w.is_empty())
                .map(normal),
        );
    }
    let gram = |words: &[String]| Digest::of(words.join(" ").as_bytes()).prefix();
    let mut grams: Vec<u64> = if words.len() < WORDS {
        vec![gram(&words)]
    } else {
        words.windows(WORDS).map(gram).collect()
    };
    grams.sort_unstable();
    grams.dedup();
    grams
}

/// A word in lower case, each run of digits as one `0`.
fn normal(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    for c in word.chars().flat_map(char::to_lowercase) {
        match c {
            c if !c.is_numeric() => out.push(c),
            _ if out.ends_with('0') => {}
            _ => out.push('0'),
        }
    }
    out
}

/// The shingles that tell each row apart: those held by more than
/// `boilerplate` (a share, 0 to 1) of all rows are left out.
pub fn distinctive(rows: &[Row], boilerplate: f64) -> Vec<Shingles> {
    let all: Vec<Shingles> = rows.par_iter().map(shingles).collect();
    let mut held: BTreeMap<u64, usize> = BTreeMap::new();
    for shingle in all.iter().flatten() {
        *held.entry(*shingle).or_default() += 1;
    }
    let limit = ((rows.len() as f64 * boilerplate) as usize).max(MIN_BOILERPLATE_ROWS);
    let keep = |full: &Shingles| {
        let own: Shingles = full.iter().copied().filter(|s| held[s] <= limit).collect();
        if own.is_empty() { full.clone() } else { own }
    };
    all.par_iter().map(keep).collect()
}

/// Jaccard similarity of two sorted sets.
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                both += 1;
                i += 1;
                j += 1;
            }
        }
    }
    let union = a.len() + b.len() - both;
    if union == 0 {
        1.0
    } else {
        both as f64 / union as f64
    }
}

/// Pairs `(i, j)`, `i < j`, with a similarity of at least `threshold` (0 to 1):
/// MinHash-LSH (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets",
/// §3.3–3.4) proposes, the exact similarity decides. A pair at the threshold is
/// missed with a chance below 1 in 10,000.
pub fn near_pairs(sets: &[Shingles], threshold: f64) -> Vec<(usize, usize)> {
    let rows_per_band = band_rows(threshold);
    let signatures: Vec<Vec<u64>> = sets.par_iter().map(|set| signature(set)).collect();
    let mut candidates = BTreeSet::new();
    for band in 0..HASHES / rows_per_band {
        let at = band * rows_per_band..(band + 1) * rows_per_band;
        let mut buckets: BTreeMap<&[u64], Vec<usize>> = BTreeMap::new();
        for (i, signature) in signatures.iter().enumerate() {
            buckets.entry(&signature[at.clone()]).or_default().push(i);
        }
        for bucket in buckets.values() {
            for (n, &i) in bucket.iter().enumerate() {
                candidates.extend(bucket[n + 1..].iter().map(|&j| (i, j)));
            }
        }
    }
    let near = |&(i, j): &(usize, usize)| jaccard(&sets[i], &sets[j]) >= threshold;
    candidates.into_iter().filter(near).collect()
}

/// The largest number of rows in a band that keeps the chance of a miss at
/// `threshold`, `(1 − t^r)^(112/r)`, below the limit.
fn band_rows(threshold: f64) -> usize {
    let miss = |r: usize| (1.0 - threshold.powi(r as i32)).powi((HASHES / r) as i32);
    [16, 14, 8, 7, 4, 2]
        .into_iter()
        .find(|&r| miss(r) < MISS)
        .unwrap_or(1)
}

/// The minimum of each hash function over a set.
fn signature(set: &[u64]) -> Vec<u64> {
    let least = |n: u64| set.iter().map(|&s| mix(s, n)).min().unwrap_or(u64::MAX);
    (0..HASHES as u64).map(least).collect()
}

/// The n-th hash of a value: the finaliser of SplitMix64 (Steele, Lea, Flood,
/// 2014) at the n-th step from it.
fn mix(value: u64, n: u64) -> u64 {
    let mut z = value.wrapping_add((n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Sets of things that belong together.
pub struct UnionFind(Vec<usize>);

impl UnionFind {
    /// `n` things, each alone.
    pub fn new(n: usize) -> Self {
        UnionFind((0..n).collect())
    }

    /// The smallest thing of the set that `i` is in.
    pub fn root(&mut self, mut i: usize) -> usize {
        while self.0[i] != i {
            self.0[i] = self.0[self.0[i]];
            i = self.0[i];
        }
        i
    }

    /// Puts two sets together.
    pub fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Content;
    use proptest::prelude::*;

    fn row(text: &str) -> Row {
        Row::new(Content::Text(text.into()), BTreeMap::new(), "t:1")
    }

    #[test]
    fn digits_and_case_do_not_tell_rows_apart() {
        let a = shingles(&row("The file app.kt line 12 holds a secret"));
        let b = shingles(&row("the file app.kt line 9981 holds a secret"));
        assert_eq!(a, b);
        assert_eq!(shingles(&row("x1y22")).len(), 1);
    }

    #[test]
    fn boilerplate_is_left_out_of_large_sets_only() {
        let text = |i: usize| {
            let own: String = (0..8)
                .map(|w| {
                    format!(
                        "word{}{} ",
                        "abcdefgh".chars().nth(w).unwrap(),
                        "z".repeat(i)
                    )
                })
                .collect();
            row(&format!(
                "please look at this finding and say what to do {own}"
            ))
        };
        let few: Vec<Row> = (0..4).map(text).collect();
        let many: Vec<Row> = (0..60).map(text).collect();
        let similar = |rows: &[Row]| {
            let sets = distinctive(rows, 0.1);
            jaccard(&sets[0], &sets[1])
        };
        assert!(similar(&few) > 0.2);
        assert_eq!(similar(&many), 0.0);
    }

    #[test]
    fn a_band_is_as_long_as_recall_allows() {
        assert_eq!(band_rows(0.8), 4);
        assert_eq!(band_rows(0.9), 7);
        assert_eq!(band_rows(0.1), 1);
    }

    proptest! {
        #[test]
        fn every_near_pair_is_found(
            sets in prop::collection::vec(prop::collection::btree_set(0u64..30, 1..25), 2..20),
        ) {
            let sets: Vec<Shingles> = sets.iter().map(|s| s.iter().map(|&x| mix(x, 7)).collect::<BTreeSet<_>>().into_iter().collect()).collect();
            let found: BTreeSet<_> = near_pairs(&sets, 0.8).into_iter().collect();
            for i in 0..sets.len() {
                for j in i + 1..sets.len() {
                    let near = jaccard(&sets[i], &sets[j]) >= 0.8;
                    prop_assert_eq!(near, found.contains(&(i, j)));
                }
            }
        }
    }
}
