//! The most similar row of other files, found exactly: no sketch, nothing is missed.
//!
//! Two sets of similarity t or more share one of their rarest
//! |x| − ⌈t·|x|⌉ + 1 shingles, in any order of rarity that is the same for all
//! (Chaudhuri, Ganti, Kaushik 2006; Bayardo, Ma, Srikant 2007). So only those
//! are indexed and looked up. The one side is indexed in parts that fit the
//! memory, the other goes past as a stream.

use std::ops::Range;

use super::places::Places;
use super::shingle::{Frequencies, Shingles, jaccard};
use super::{DataError, Row};

/// Shingles of an indexed part, all rows together: about 16 bytes each.
const PART: usize = 12 << 20;

/// What a row is most similar to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nearest {
    /// The row of the other side, by its number; the first of several.
    pub other: usize,
    /// Their Jaccard similarity.
    pub similarity: f64,
}

/// For each row of the files `right` the most similar row of the files `left`,
/// where one is at least `floor` similar (above 0). Files are meant by their
/// place among those of `places`.
pub fn nearest(
    places: &Places,
    frequencies: &Frequencies,
    left: Range<usize>,
    right: Range<usize>,
    floor: f64,
) -> Result<Vec<Option<Nearest>>, DataError> {
    let bounds = places.bounds();
    let rows = bounds[right.start]..bounds[right.end];
    let mut best: Vec<Option<Nearest>> = vec![None; rows.len()];
    let mut part = Part::new(rows.start);
    let load = |_, row: Row| Ok(frequencies.distinctive(&row));
    places.each_of(right, load, |set| {
        part.add(set, frequencies, floor);
        if part.sets.shingles() >= PART {
            let next = Part::new(part.first + part.sets.len());
            let whole = std::mem::replace(&mut part, next);
            whole.compare(
                places,
                frequencies,
                left.clone(),
                floor,
                &mut best,
                rows.start,
            )?;
        }
        Ok(())
    })?;
    part.compare(places, frequencies, left, floor, &mut best, rows.start)?;
    Ok(best)
}

/// Sets one behind the other.
#[derive(Default)]
struct Sets {
    all: Vec<u64>,
    ends: Vec<usize>,
}

impl Sets {
    fn push(&mut self, set: &[u64]) {
        self.all.extend_from_slice(set);
        self.ends.push(self.all.len());
    }

    fn get(&self, at: usize) -> &[u64] {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.all[start..self.ends[at]]
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn shingles(&self) -> usize {
        self.all.len()
    }
}

/// Rows of the one side, and where their rarest shingles stand.
struct Part {
    /// The number of the first row.
    first: usize,
    sets: Sets,
    /// (shingle, row of this part), sorted once all are there.
    rare: Vec<(u64, u32)>,
}

impl Part {
    fn new(first: usize) -> Self {
        Part {
            first,
            sets: Sets::default(),
            rare: Vec::new(),
        }
    }

    fn add(&mut self, set: Shingles, frequencies: &Frequencies, floor: f64) {
        let row = self.sets.len() as u32;
        self.sets.push(&set);
        let rarest = rarest(set, frequencies, floor);
        self.rare
            .extend(rarest.into_iter().map(|shingle| (shingle, row)));
    }

    /// Lets the other side go past and keeps what is more similar than before.
    fn compare(
        mut self,
        places: &Places,
        frequencies: &Frequencies,
        left: Range<usize>,
        floor: f64,
        best: &mut [Option<Nearest>],
        base: usize,
    ) -> Result<(), DataError> {
        if self.sets.len() == 0 {
            return Ok(());
        }
        self.rare.sort_unstable();
        let index = Index::new(&self.rare);
        let work = |number, row: Row| {
            let set = frequencies.distinctive(&row);
            let mut met: Vec<u32> = Vec::new();
            for shingle in rarest(set.clone(), frequencies, floor) {
                met.extend(index.rows(&self.rare, shingle));
            }
            met.sort_unstable();
            met.dedup();
            let similar = |at: u32| {
                let other = self.sets.get(at as usize);
                let (small, large) = (set.len().min(other.len()), set.len().max(other.len()));
                if (small as f64) < floor * large as f64 {
                    return None;
                }
                let similarity = jaccard(&set, other);
                (similarity >= floor).then_some((at, similarity))
            };
            let found: Vec<(u32, f64)> = met.into_iter().filter_map(similar).collect();
            Ok((number, found))
        };
        places.each_of(left, work, |(other, found)| {
            for (at, similarity) in found {
                let best = &mut best[self.first - base + at as usize];
                if best.is_none_or(|best| similarity > best.similarity) {
                    *best = Some(Nearest { other, similarity });
                }
            }
            Ok(())
        })
    }
}

/// Where a shingle begins in a sorted list, found by its upper bits.
struct Index {
    shift: u32,
    starts: Vec<u32>,
}

impl Index {
    fn new(rare: &[(u64, u32)]) -> Self {
        let bits = rare.len().max(2).ilog2();
        let shift = 64 - bits;
        let mut starts = vec![0u32; (1 << bits) + 1];
        for (shingle, _) in rare {
            starts[(shingle >> shift) as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        Index { shift, starts }
    }

    fn rows<'a>(&self, rare: &'a [(u64, u32)], shingle: u64) -> impl Iterator<Item = u32> + 'a {
        let at = (shingle >> self.shift) as usize;
        let bucket = &rare[self.starts[at] as usize..self.starts[at + 1] as usize];
        let from = bucket.partition_point(|(other, _)| *other < shingle);
        let same = bucket[from..]
            .iter()
            .take_while(move |(other, _)| *other == shingle);
        same.map(|(_, row)| *row)
    }
}

/// The shingles of which similar sets must share one.
fn rarest(mut set: Shingles, frequencies: &Frequencies, floor: f64) -> Shingles {
    // A hair less, so that rounding never shortens what is looked up.
    let shared = (floor * set.len() as f64 - 1e-9).ceil().max(1.0) as usize;
    let count = set.len() - shared.min(set.len()) + 1;
    set.sort_unstable_by_key(|&shingle| (frequencies.rarity(shingle), shingle));
    set.truncate(count);
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Content;
    use crate::data::near::tests::listed;
    use crate::data::shingle::View;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_nearest_is_that_of_all(
            seeds in prop::collection::vec((0u32..4, prop::collection::vec((0usize..20, 0u32..90), 0..6)), 4..30),
            cut in 1usize..3, floor in 0.1f64..1.0,
        ) {
            let rows: Vec<Row> = seeds.iter().map(|(base, edits)| {
                let mut words: Vec<u32> = (0..20).map(|i| base * 20 + i).collect();
                for (at, word) in edits { words[*at] = *word; }
                let words: Vec<String> = words.iter().map(|w| format!("{}{}", (b'a' + (w % 26) as u8) as char, (b'a' + (w / 26) as u8) as char)).collect();
                Row::new(Content::Text(words.join(" ")), Default::default(), "t:1")
            }).collect();
            let (left, right) = rows.split_at(rows.len() * cut / 3);
            let (_folder, places) = listed(&[left, right]);
            let frequencies = Frequencies::of(&places, View::Row, 1.0).unwrap();
            let found = nearest(&places, &frequencies, 0..1, 1..2, floor).unwrap();
            let sets: Vec<Shingles> = rows.iter().map(|row| frequencies.distinctive(row)).collect();
            for (i, found) in found.iter().enumerate() {
                let mut wanted: Option<Nearest> = None;
                for other in 0..left.len() {
                    let similarity = jaccard(&sets[other], &sets[left.len() + i]);
                    if similarity >= floor && wanted.is_none_or(|w| similarity > w.similarity) {
                        wanted = Some(Nearest { other, similarity });
                    }
                }
                prop_assert_eq!(*found, wanted);
            }
        }
    }
}
