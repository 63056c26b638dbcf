//! Mixes: rows of several data sets by declared shares of the result.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::stream::{Blocks, LineWriter, each_row};
use super::{DataError, Row};
use crate::hash::Encoder;

/// How data sets are mixed.
#[derive(Debug, Clone)]
pub struct MixOptions {
    /// The share of the result that each data set is to have; they sum to 1.
    pub shares: BTreeMap<String, f64>,
    /// Rows of the result; none: as many as there are without a row twice.
    pub rows: Option<u64>,
    /// Whether rows may stand several times where a data set has too few.
    pub repeat: bool,
    /// Seed of the choice.
    pub seed: u64,
}

/// What a data set has in a mix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixPart {
    /// Rows that there were.
    pub of: u64,
    /// Rows in the result, each copy counted.
    pub rows: u64,
    /// The declared share, 0 to 1.
    pub share: f64,
    /// The share of the result's rows that came of it, 0 to 1.
    pub real_share: f64,
    /// Its share of the result's characters, 0 to 1.
    pub real_share_of_characters: f64,
}

/// A mix. `summary.json` is this record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixSummary {
    /// Version of this file's format.
    pub format: u32,
    /// Rows of the result.
    pub rows: u64,
    /// Each data set.
    pub datasets: BTreeMap<String, MixPart>,
}

/// Rows that a data set has and gives.
struct Source<'a> {
    label: &'a str,
    path: &'a PathBuf,
    /// A seeded rank of each row, and its characters.
    ranks: Vec<(u64, u32)>,
    wanted: u64,
}

/// Mixes the rows of data sets into a file: label by label, in their order.
/// Every data set has its share of the result to within one row; which of its
/// rows they are depends on the seed and on the rows alone.
pub fn mix(
    datasets: &[(String, PathBuf)],
    options: &MixOptions,
    to: LineWriter,
) -> Result<MixSummary, DataError> {
    check(datasets, options)?;
    let mut sources = Vec::with_capacity(datasets.len());
    for (label, path) in datasets {
        sources.push(Source::read(label, path, options.seed)?);
    }
    let total = total(&sources, options)?;
    let wanted = apportion(
        total,
        sources
            .iter()
            .map(|source| options.shares[source.label])
            .collect(),
    );
    for (source, wanted) in sources.iter_mut().zip(wanted) {
        let have = source.ranks.len() as u64;
        if wanted > have && !options.repeat || wanted > 0 && have == 0 {
            return Err(DataError::Invalid(format!(
                "'{}' has {have} rows, and its share asks for {wanted}; ask for fewer `rows`, or let rows \
                 stand several times by `repeat = true`",
                source.label
            )));
        }
        source.wanted = wanted;
    }
    let mut to = to;
    let mut characters = Vec::new();
    for source in &sources {
        characters.push(source.write(&mut to)?);
    }
    to.finish()?;
    let all: u64 = characters.iter().sum();
    let part = |(source, characters): (&Source<'_>, &u64)| {
        let part = MixPart {
            of: source.ranks.len() as u64,
            rows: source.wanted,
            share: options.shares[source.label],
            real_share: source.wanted as f64 / total.max(1) as f64,
            real_share_of_characters: *characters as f64 / all.max(1) as f64,
        };
        (source.label.to_owned(), part)
    };
    Ok(MixSummary {
        format: 1,
        rows: total,
        datasets: sources.iter().zip(&characters).map(part).collect(),
    })
}

fn check(datasets: &[(String, PathBuf)], options: &MixOptions) -> Result<(), DataError> {
    let invalid = |message: String| Err(DataError::Invalid(message));
    if let Some((label, _)) = datasets
        .iter()
        .find(|(label, _)| !options.shares.contains_key(label))
    {
        return invalid(format!("`shares` says nothing of '{label}'"));
    }
    let known = |label: &String| datasets.iter().any(|(other, _)| other == label);
    match options.shares.keys().find(|label| !known(label)) {
        Some(label) => invalid(format!(
            "`shares` names '{label}', which is no data set of the mix"
        )),
        None => Ok(()),
    }
}

/// Rows of the result: what is asked for, or the most of which no row stands twice.
fn total(sources: &[Source<'_>], options: &MixOptions) -> Result<u64, DataError> {
    if let Some(rows) = options.rows {
        return Ok(rows);
    }
    let most = |source: &Source<'_>| {
        let share = options.shares[source.label];
        (share > 0.0).then(|| source.ranks.len() as f64 / share)
    };
    let least = sources
        .iter()
        .filter_map(most)
        .fold(f64::INFINITY, f64::min);
    // What rounding up could ask for beyond what there is.
    let mut total = (least + 1e-9) as u64;
    let fits = |total: u64| {
        let shares = sources
            .iter()
            .map(|source| options.shares[source.label])
            .collect();
        let wanted = apportion(total, shares);
        wanted
            .iter()
            .zip(sources)
            .all(|(wanted, source)| *wanted <= source.ranks.len() as u64)
    };
    while total > 0 && !fits(total) {
        total -= 1;
    }
    match total {
        0 => Err(DataError::Invalid(
            "a data set of the mix has no rows".to_owned(),
        )),
        total => Ok(total),
    }
}

/// Whole numbers by shares (largest remainders, the first of several): each is
/// within one of its share, and they sum to the total.
fn apportion(total: u64, shares: Vec<f64>) -> Vec<u64> {
    let exact: Vec<f64> = shares.iter().map(|share| share * total as f64).collect();
    let mut whole: Vec<u64> = exact.iter().map(|n| (n + 1e-9).floor() as u64).collect();
    let mut order: Vec<usize> = (0..exact.len()).collect();
    order.sort_by(|&a, &b| {
        let rest = |i: usize| exact[i] - whole[i] as f64;
        rest(b).total_cmp(&rest(a)).then(a.cmp(&b))
    });
    let missing = total.saturating_sub(whole.iter().sum());
    for &at in order.iter().take(missing as usize) {
        whole[at] += 1;
    }
    whole
}

impl<'a> Source<'a> {
    fn read(label: &'a str, path: &'a PathBuf, seed: u64) -> Result<Self, DataError> {
        let mut ranks = Vec::new();
        let rank = |number, row: Row| {
            let mut encoder = Encoder::new("retune.mix.1");
            // Copies of a row that the data set has itself are drawn apart.
            encoder.u64(seed).str(label).digest(&row.id.0).u64(number);
            let characters: usize = row.texts().map(|text| text.chars().count()).sum();
            Ok((encoder.digest_of().prefix(), characters as u32))
        };
        each_row(path, rank, |rank| {
            ranks.push(rank);
            Ok(())
        })?;
        Ok(Source {
            label,
            path,
            ranks,
            wanted: 0,
        })
    }

    /// Writes the chosen rows; returns their characters.
    fn write(&self, to: &mut LineWriter) -> Result<u64, DataError> {
        let have = self.ranks.len() as u64;
        if self.wanted == 0 {
            return Ok(0);
        }
        let (whole, rest) = (self.wanted / have, self.wanted % have);
        let mut order: Vec<u32> = (0..have as u32).collect();
        order.sort_unstable_by_key(|&row| (self.ranks[row as usize].0, row));
        let mut copies = vec![whole; have as usize];
        for &row in &order[..rest as usize] {
            copies[row as usize] += 1;
        }
        let mut characters = 0;
        for block in Blocks::open(self.path)? {
            for line in block?.lines() {
                let row = line.number as usize - 1;
                for _ in 0..copies[row] {
                    to.line(line.bytes)?;
                    characters += u64::from(self.ranks[row].1);
                }
            }
        }
        Ok(characters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Content, read_rows, write_rows};
    use proptest::prelude::*;

    fn run(
        sizes: &[(&str, usize, f64)],
        rows: Option<u64>,
        repeat: bool,
    ) -> Result<(Vec<Row>, MixSummary), String> {
        let folder = tempfile::tempdir().unwrap();
        let datasets: Vec<(String, PathBuf)> = sizes
            .iter()
            .map(|(label, n, _)| {
                let path = folder.path().join(label);
                let row = |i| {
                    Row::new(
                        Content::Text(format!("{label} {i}")),
                        BTreeMap::new(),
                        "t:1",
                    )
                };
                write_rows(&path, &(0..*n).map(row).collect::<Vec<_>>()).unwrap();
                ((*label).to_owned(), path)
            })
            .collect();
        let options = MixOptions {
            shares: sizes
                .iter()
                .map(|(label, _, share)| ((*label).to_owned(), *share))
                .collect(),
            rows,
            repeat,
            seed: 3,
        };
        let to = folder.path().join("mixed");
        let summary = mix(&datasets, &options, LineWriter::create(&to).unwrap())
            .map_err(|e| e.to_string())?;
        Ok((read_rows(&to).unwrap(), summary))
    }

    #[test]
    fn a_share_is_of_the_result_not_of_the_source() {
        // "15 % replay" of 1,000 new rows and 900 old ones.
        let (rows, summary) =
            run(&[("new", 1000, 0.85), ("replay", 900, 0.15)], None, false).unwrap();
        assert_eq!(rows.len(), 1176);
        let replay = &summary.datasets["replay"];
        assert_eq!((replay.rows, replay.of), (176, 900));
        assert!((replay.real_share - 0.15).abs() <= 1.0 / 1176.0);
    }

    #[test]
    fn too_few_rows_are_an_error_unless_they_may_repeat() {
        let sizes = [("new", 10, 0.5), ("replay", 2, 0.5)];
        assert_eq!(run(&sizes, None, false).unwrap().0.len(), 4);
        let error = run(&sizes, Some(20), false).unwrap_err();
        assert!(
            error.contains("'replay' has 2 rows, and its share asks for 10"),
            "{error}"
        );
        let (rows, summary) = run(&sizes, Some(20), true).unwrap();
        assert_eq!((rows.len(), summary.datasets["replay"].rows), (20, 10));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_share_is_kept_to_within_a_row(a in 1usize..60, b in 1usize..60, c in 1usize..60, cut in 1u32..98, cut2 in 1u32..98) {
            let (low, high) = (cut.min(cut2) as f64 / 100.0, cut.max(cut2) as f64 / 100.0);
            let sizes = [("a", a, low), ("b", b, high - low), ("c", c, 1.0 - high)];
            let Ok((rows, summary)) = run(&sizes, None, false) else { return Ok(()) };
            prop_assert_eq!(rows.len() as u64, summary.rows);
            let ids: std::collections::BTreeSet<_> = rows.iter().map(|row| row.id).collect();
            prop_assert_eq!(ids.len(), rows.len());
            for (label, _, share) in sizes {
                let part = &summary.datasets[label];
                prop_assert!((part.rows as f64 - share * rows.len() as f64).abs() < 1.0 + 1e-6);
            }
        }
    }
}
