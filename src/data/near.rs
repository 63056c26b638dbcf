//! Near-duplicates: MinHash-LSH proposes, the exact Jaccard similarity decides.
//!
//! Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", §3.3–3.4. A pair
//! of similarity s meets in one of b bands of r hashes with the chance
//! 1 − (1 − s^r)^b. Rows go past as a stream; what is kept of each is a number a
//! band on disk and some twenty bytes in memory, and a row that is compared is
//! read again where it lies.

use std::path::Path;

use rayon::prelude::*;
use twox_hash::XxHash3_64;

use super::columns::Columns;
use super::places::Places;
use super::shingle::{Frequencies, Shingles, jaccard};
use super::words::mix;
use super::{DataError, Row};

/// Hash functions of a MinHash signature.
pub const HASHES: usize = 112;
/// The chance of missing a pair of exactly the wanted similarity stays below this.
const MISS: f64 = 1e-4;
/// Rows of a bucket up to which all pairs are compared.
const ALL_PAIRS: usize = 64;
/// Different clusters of a larger bucket that a row is compared with.
const CLUSTERS: usize = 64;
/// Buckets that are worked on side by side before their links are joined.
const AT_ONCE: usize = 4096;

/// How the hashes of a signature are cut into bands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Banding {
    /// Bands.
    pub bands: usize,
    /// Hashes in a band; bands × rows is at most [`HASHES`].
    pub rows: usize,
}

impl Banding {
    /// 14 bands of 8: what FineWeb and others take.
    pub const USUAL: Banding = Banding { bands: 14, rows: 8 };

    /// The longest bands that keep the chance of a miss at `threshold`,
    /// `(1 − t^r)^(112/r)`, below 1 in 10,000.
    pub fn for_threshold(threshold: f64) -> Self {
        let miss = |r: usize| (1.0 - threshold.powi(r as i32)).powi((HASHES / r) as i32);
        let rows = [16, 14, 8, 7, 4, 2].into_iter().find(|&r| miss(r) < MISS);
        let rows = rows.unwrap_or(1);
        Banding {
            bands: HASHES / rows,
            rows,
        }
    }
}

/// What counts as near.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NearOptions {
    /// Similarity from which on rows are near, 0 (exclusive) to 1.
    pub threshold: f64,
    /// How candidates are found.
    pub banding: Banding,
}

/// Two rows that are near: one of those that hold a cluster together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// The earlier row, by its number.
    pub first: usize,
    /// The later row.
    pub second: usize,
    /// Their Jaccard similarity.
    pub similarity: f64,
}

/// Rows that belong together.
pub struct Near {
    /// Each row's cluster.
    pub clusters: UnionFind,
    /// What holds the clusters together: one link less than a cluster has rows.
    pub links: Vec<Link>,
}

/// Puts near rows together.
///
/// Guaranteed: rows with the same shingles are together; every link is a pair
/// of at least the threshold; in a bucket of up to 64 rows all pairs are
/// compared. In a larger bucket a row is compared with one row of each of the
/// latest 64 clusters there, so a chain that only another row of a cluster
/// would continue can be missed. Temporary files are made in `folder`.
pub fn near(
    places: &Places,
    frequencies: &Frequencies,
    options: &NearOptions,
    folder: &Path,
) -> Result<Near, DataError> {
    let Banding { bands, rows } = options.banding;
    // The first column is of the whole set, the others are of the bands.
    let mut columns = Columns::new(folder, 1 + bands)?;
    let work = |_, row: Row| {
        let set = frequencies.distinctive(&row);
        let mut numbers = vec![hash_of(&set)];
        numbers.extend(
            signature(&set)
                .chunks_exact(rows)
                .take(bands)
                .map(hash_of_band),
        );
        Ok(numbers)
    };
    places.each(work, |numbers| Ok(columns.push(&numbers)?))?;
    let mut near = Near {
        clusters: UnionFind::new(places.len()),
        links: Vec::new(),
    };
    let mut same = columns.column(0)?;
    let alone = near.join_same(&mut same);
    drop(same);
    for band in 1..columns.count() {
        let mut column = columns.column(band)?;
        column.retain(|(_, row)| alone[*row as usize]);
        column.par_sort_unstable();
        let buckets: Vec<&[(u64, u32)]> = column
            .chunk_by(|a, b| a.0 == b.0)
            .filter(|bucket| bucket.len() > 1)
            .collect();
        for some in buckets.chunks(AT_ONCE) {
            let known = &near.clusters;
            let found: Vec<Vec<Link>> = some
                .par_iter()
                .map(|bucket| bucket_links(bucket, known, places, frequencies, options.threshold))
                .collect::<Result<_, DataError>>()?;
            near.add(found.into_iter().flatten());
        }
    }
    near.links.sort_by_key(|link| (link.second, link.first));
    Ok(near)
}

impl Near {
    /// Joins rows with the same set; returns for each row whether it stands for
    /// all that are the same.
    fn join_same(&mut self, sets: &mut [(u64, u32)]) -> Vec<bool> {
        let mut alone = vec![true; sets.len()];
        sets.par_sort_unstable();
        for run in sets.chunk_by(|a, b| a.0 == b.0) {
            for (_, row) in &run[1..] {
                alone[*row as usize] = false;
                self.add([Link {
                    first: run[0].1 as usize,
                    second: *row as usize,
                    similarity: 1.0,
                }]);
            }
        }
        alone
    }

    fn add(&mut self, links: impl IntoIterator<Item = Link>) {
        for link in links {
            if self.clusters.join(link.first, link.second) {
                self.links.push(link);
            }
        }
    }

    /// The clusters of more than one row: their rows, in order.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        let mut rows: Vec<usize> = self
            .links
            .iter()
            .flat_map(|link| [link.first, link.second])
            .collect();
        rows.sort_unstable();
        rows.dedup();
        let mut keyed: Vec<(usize, usize)> = rows
            .into_iter()
            .map(|row| (self.clusters.find(row), row))
            .collect();
        keyed.sort_unstable();
        let groups = keyed.chunk_by(|a, b| a.0 == b.0);
        groups
            .map(|group| group.iter().map(|(_, row)| *row).collect())
            .collect()
    }
}

/// The near pairs of a bucket that are not together already.
fn bucket_links(
    bucket: &[(u64, u32)],
    known: &UnionFind,
    places: &Places,
    frequencies: &Frequencies,
    threshold: f64,
) -> Result<Vec<Link>, DataError> {
    let first = known.find(bucket[0].1 as usize);
    if bucket
        .iter()
        .all(|(_, row)| known.find(*row as usize) == first)
    {
        return Ok(Vec::new());
    }
    let load = |row: usize| -> Result<Shingles, DataError> {
        Ok(frequencies.distinctive(&places.row(row)?))
    };
    let mut met: Vec<Met> = Vec::new();
    let mut links = Vec::new();
    for (_, row) in bucket {
        let row = *row as usize;
        let mut own = Met {
            row,
            cluster: known.find(row),
            set: load(row)?,
        };
        for at in (0..met.len()).rev() {
            if met[at].cluster == own.cluster {
                continue;
            }
            let similarity = jaccard(&met[at].set, &own.set);
            if similarity >= threshold {
                links.push(Link {
                    first: met[at].row,
                    second: row,
                    similarity,
                });
                let (old, new) = (met[at].cluster, own.cluster);
                let joined = met
                    .iter_mut()
                    .chain([&mut own])
                    .filter(|m| m.cluster == new || m.cluster == old);
                joined.for_each(|m| m.cluster = old);
            }
        }
        met.push(own);
        if bucket.len() > ALL_PAIRS {
            keep_latest(&mut met);
        }
    }
    Ok(links)
}

/// A row of a bucket.
struct Met {
    row: usize,
    cluster: usize,
    set: Shingles,
}

/// Keeps one row of each cluster, and the latest clusters.
fn keep_latest(met: &mut Vec<Met>) {
    let latest = met.last().map(|m| m.cluster);
    if let Some(at) = met[..met.len() - 1]
        .iter()
        .position(|m| Some(m.cluster) == latest)
    {
        met.remove(at);
    }
    if met.len() > CLUSTERS {
        met.remove(0);
    }
}

fn hash_of(set: &[u64]) -> u64 {
    XxHash3_64::oneshot(bytemuck::cast_slice(set))
}

fn hash_of_band(band: &[u32]) -> u64 {
    XxHash3_64::oneshot(bytemuck::cast_slice(band))
}

/// The least value of each hash function over a set: multiply-add-shift
/// (Dietzfelbinger 1996) with fixed odd multipliers, 32 bits of each product.
pub fn signature(set: &[u64]) -> [u32; HASHES] {
    let mut least = [u32::MAX; HASHES];
    for &shingle in set {
        for (least, (multiplier, plus)) in least.iter_mut().zip(&FUNCTIONS) {
            let hash = (shingle.wrapping_mul(*multiplier).wrapping_add(*plus) >> 32) as u32;
            *least = (*least).min(hash);
        }
    }
    least
}

/// The multipliers and addends of the hash functions.
static FUNCTIONS: [(u64, u64); HASHES] = functions();

const fn functions() -> [(u64, u64); HASHES] {
    let mut all = [(0, 0); HASHES];
    let mut n = 0;
    while n < HASHES {
        let seed = 2 * n as u64 + 1;
        all[n] = (
            mix(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1,
            mix((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        );
        n += 1;
    }
    all
}

/// The share of equal hashes, which estimates the Jaccard similarity with a
/// standard error of `√(s(1 − s)/112)`.
pub fn estimate(a: &[u32; HASHES], b: &[u32; HASHES]) -> f64 {
    let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
    same as f64 / HASHES as f64
}

/// Sets of things that belong together.
#[derive(Debug, Clone)]
pub struct UnionFind(Vec<u32>);

impl UnionFind {
    /// `n` things, each alone.
    pub fn new(n: usize) -> Self {
        UnionFind((0..n as u32).collect())
    }

    /// The smallest thing of the set that `i` is in.
    pub fn find(&self, mut i: usize) -> usize {
        while self.0[i] as usize != i {
            i = self.0[i] as usize;
        }
        i
    }

    /// As [`UnionFind::find`], and the way there becomes shorter.
    pub fn root(&mut self, mut i: usize) -> usize {
        while self.0[i] as usize != i {
            self.0[i] = self.0[self.0[i] as usize];
            i = self.0[i] as usize;
        }
        i
    }

    /// Puts two sets together; false when they were.
    pub fn join(&mut self, a: usize, b: usize) -> bool {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b) as u32;
        a != b
    }

    /// Joins all things with the same number.
    pub fn join_equal(&mut self, numbers: &mut [(u64, u32)]) {
        numbers.par_sort_unstable();
        for run in numbers.chunk_by(|a, b| a.0 == b.0) {
            for (_, thing) in &run[1..] {
                self.join(run[0].1 as usize, *thing as usize);
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::data::shingle::View;
    use crate::data::{Content, write_rows};
    use proptest::prelude::*;
    use std::path::PathBuf;

    /// Rows in files of a temporary folder.
    pub fn listed(files: &[&[Row]]) -> (tempfile::TempDir, Places) {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..files.len())
            .map(|i| folder.path().join(i.to_string()))
            .collect();
        for (path, rows) in paths.iter().zip(files) {
            write_rows(path, rows).unwrap();
        }
        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        let places = Places::read(&paths, |_, _| Ok(()), |()| Ok(())).unwrap();
        (folder, places)
    }

    fn text(words: &[u32]) -> Row {
        let letter = |w: u32| (b'a' + (w % 26) as u8) as char;
        let words: Vec<String> = words
            .iter()
            .map(|&w| [letter(w), letter(w / 26), 'x'].iter().collect())
            .collect();
        Row::new(Content::Text(words.join(" ")), Default::default(), "t:1")
    }

    fn found(rows: &[Row], threshold: f64) -> (Near, Vec<Shingles>) {
        let (folder, places) = listed(&[rows]);
        let frequencies = Frequencies::of(&places, View::Row, 1.0).unwrap();
        let options = NearOptions {
            threshold,
            banding: Banding::for_threshold(threshold),
        };
        let near = near(&places, &frequencies, &options, folder.path()).unwrap();
        (
            near,
            rows.iter()
                .map(|row| frequencies.distinctive(row))
                .collect(),
        )
    }

    #[test]
    fn a_band_is_as_long_as_recall_allows() {
        let rows = |t| Banding::for_threshold(t).rows;
        assert_eq!((rows(0.8), rows(0.9), rows(0.1)), (4, 7, 1));
    }

    #[test]
    fn a_signature_estimates_the_similarity() {
        let set = |from: u64, n: u64| (from..from + n).map(|i| mix(i + 1)).collect::<Vec<u64>>();
        let mut off = 0.0;
        for trial in 0..200 {
            let (a, b) = (set(trial * 1000, 100), set(trial * 1000 + 25, 100));
            off += estimate(&signature(&a), &signature(&b)) - 75.0 / 125.0;
        }
        // 200 estimates with a standard error of 0.046 each.
        assert!((off / 200.0).abs() < 4.0 * 0.0463 / 200f64.sqrt(), "{off}");
    }

    #[test]
    fn a_large_bucket_is_not_compared_pair_by_pair() {
        // One word of 120 differs: all are near to all, and nothing is the same.
        let rows: Vec<Row> = (0..2000u32)
            .map(|i| {
                let mut words: Vec<u32> = (0..120).collect();
                words[60] = 200 + i % 400;
                words[61] = 200 + i / 400;
                text(&words)
            })
            .collect();
        let (near, _) = found(&rows, 0.8);
        assert_eq!(near.groups().len(), 1);
        assert_eq!(near.links.len(), 1999);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn clusters_are_those_of_all_pairs(
            seeds in prop::collection::vec((0u32..6, prop::collection::vec((0usize..40, 0u32..600), 0..5)), 2..40),
        ) {
            let rows: Vec<Row> = seeds.iter().map(|(base, edits)| {
                let mut words: Vec<u32> = (0..40).map(|i| base * 50 + i).collect();
                for (at, word) in edits { words[*at] = *word; }
                text(&words)
            }).collect();
            let (near, sets) = found(&rows, 0.7);
            let mut wanted = UnionFind::new(rows.len());
            for i in 0..rows.len() {
                for j in 0..i {
                    if jaccard(&sets[i], &sets[j]) >= 0.7 { wanted.join(i, j); }
                }
            }
            for i in 0..rows.len() {
                prop_assert_eq!(near.clusters.find(i), wanted.find(i));
            }
            for link in &near.links {
                prop_assert_eq!(link.similarity, jaccard(&sets[link.first], &sets[link.second]));
            }
        }
    }
}
