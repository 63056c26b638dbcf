//! Leak-proof splits: what belongs together stays together, by group, by equal prompt and by near-duplicate cluster.
//!
//! The rows go past three times: for what they are grouped by, for their
//! near-duplicates, and to their splits, as the lines they are.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rayon::prelude::*;

use super::augment::AUGMENTED;
use super::columns::Columns;
use super::key::{GroupKey, prompt_digest};
use super::near::{Banding, NearOptions, UnionFind, near};
use super::places::Places;
use super::shingle::{Frequencies, View};
use super::stream::LineWriter;
use super::{DataError, Row, RowId};
use crate::files::PathContext;
use crate::hash::{Digest, Encoder};

/// How rows are split.
#[derive(Debug, Clone)]
pub struct SplitOptions {
    /// Seed of the assignment.
    pub seed: u64,
    /// Share of rows for validation, 0 to 1.
    pub validation: f64,
    /// Share of rows for the test, 0 to 1.
    pub test: f64,
    /// What rows are kept together by: metadata fields or expressions; rows
    /// that agree in one of them stay together.
    pub group: Vec<String>,
    /// Rows at least this similar stay together, 0 (exclusive) to 1.
    pub near: f64,
    /// 5-grams that more than this share of the rows hold are boilerplate.
    pub boilerplate: f64,
    /// A metadata field or an expression whose values are spread evenly over the splits.
    pub stratify: Option<String>,
}

/// The names of the splits in the order in which they are filled.
pub const SPLITS: [&str; 3] = ["train", "validation", "test"];

/// What a split came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitSummary {
    /// Units of rows that belong together.
    pub units: usize,
    /// What the test split holds, by the ids of its rows: what a pipeline file
    /// freezes. See [`test_digest`].
    pub test: Digest,
}

/// Rows that belong together.
struct Unit {
    /// The first of its rows.
    root: u32,
    size: u32,
    /// The number of its stratum's name, in order of names.
    stratum: u32,
    /// Its place in the seeded order: the halves of a number, upper first, so
    /// that a unit takes 20 bytes.
    rank: [u32; 2],
}

/// Splits the rows of a file into the files `to` (train, validation, test).
/// Fails when a row lacks a group field, or when a split with a share above 0
/// would be empty.
pub fn split(
    rows: &Path,
    options: &SplitOptions,
    to: [&Path; 3],
) -> Result<SplitSummary, DataError> {
    let folder = to[0].parent().unwrap_or(Path::new("."));
    let facts = Facts::read(rows, options, folder)?;
    let units = facts.units(options)?;
    let count = units.len();
    let largest = units.iter().map(|unit| unit.size).max().unwrap_or(0);
    let assigned = assign(units, &facts, options);
    refuse_empty(&assigned, (count, largest), options)?;
    let mut writers = Vec::with_capacity(3);
    for path in to {
        writers.push(LineWriter::create(path)?);
    }
    facts
        .places
        .each_line_as_it_is(|number, line| writers[usize::from(assigned[number])].line(line))?;
    for writer in writers {
        writer.finish()?;
    }
    let test = (0..assigned.len()).filter(|&row| assigned[row] == 2);
    Ok(SplitSummary {
        units: count,
        test: test_digest(
            test.map(|row| facts.ids.get(row))
                .collect::<Result<_, _>>()?,
        ),
    })
}

/// The digest of a set of rows: that of their ids, sorted, each once.
pub fn test_digest(mut ids: Vec<RowId>) -> Digest {
    ids.sort_unstable();
    ids.dedup();
    let mut encoder = Encoder::new("retune.rows.1");
    encoder.list(ids.len());
    for id in &ids {
        encoder.digest(&id.0);
    }
    encoder.digest_of()
}

/// What is known of the rows before they are split.
struct Facts {
    places: Places,
    ids: Ids,
    /// The first bytes of each row's id, as a number that sorts as ids do.
    short_ids: Vec<u64>,
    /// What belongs together.
    together: UnionFind,
    /// Each row's stratum, by the number of its name.
    strata: Vec<u32>,
}

impl Facts {
    fn read(rows: &Path, options: &SplitOptions, folder: &Path) -> Result<Self, DataError> {
        let groups = GroupKey::all(&options.group, "group")?;
        let stratify = options.stratify.as_deref();
        let stratify = stratify
            .map(|text| GroupKey::new(text, "stratify"))
            .transpose()?;
        // Lineage, prompt, and each group.
        let mut columns = Columns::new(folder, 2 + groups.len())?;
        let mut ids = Ids::new(folder)?;
        let mut short_ids = Vec::new();
        let mut names: BTreeMap<String, u32> = BTreeMap::new();
        let mut strata = Vec::new();
        let work = |_, row: Row| {
            if row.meta.get(AUGMENTED).is_some_and(|value| value == true) {
                return Err(DataError::Invalid(format!(
                    "the row of {} was made by augmentation: what is measured must not be; split first, \
                     and give the train split to data.augment",
                    row.origin
                )));
            }
            let mut numbers = vec![origin(&row)?.prefix(), prompt_digest(&row).prefix()];
            for group in &groups {
                numbers.push(Digest::of(group.of(&row)?.as_bytes()).prefix());
            }
            let stratum = stratify.as_ref().map(|by| by.of(&row)).transpose()?;
            Ok((row.id, numbers, stratum.unwrap_or_default()))
        };
        let places = Places::read(&[rows], work, |(id, numbers, stratum)| {
            columns.push(&numbers)?;
            ids.push(id)?;
            short_ids.push(order(id));
            let next = names.len() as u32;
            strata.push(*names.entry(stratum).or_insert(next));
            Ok(())
        })?;
        // By the order of their names, not of the rows.
        let mut number = vec![0; names.len()];
        for (place, old) in names.into_values().enumerate() {
            number[old as usize] = place as u32;
        }
        strata
            .iter_mut()
            .for_each(|stratum| *stratum = number[*stratum as usize]);
        let together = together(&places, columns, options, folder)?;
        Ok(Facts {
            places,
            ids,
            short_ids,
            together,
            strata,
        })
    }

    /// The units, in the order of their first rows.
    fn units(&self, options: &SplitOptions) -> Result<Vec<Unit>, DataError> {
        let root = |row: u32| self.together.find(row as usize);
        let mut members: Vec<u32> = (0..self.strata.len() as u32).collect();
        members.par_sort_unstable_by_key(|&row| (root(row), row));
        let count = members
            .iter()
            .filter(|&&row| root(row) == row as usize)
            .count();
        let mut units = Vec::with_capacity(count);
        for run in members.chunk_by(|a, b| root(*a) == root(*b)) {
            units.push(self.unit(run, options.seed)?);
        }
        Ok(units)
    }

    /// The unit of some rows, the first of which is its root.
    fn unit(&self, members: &[u32], seed: u64) -> Result<Unit, DataError> {
        let rows = || members.iter().map(|row| *row as usize);
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        for row in rows() {
            *counts.entry(self.strata[row]).or_default() += 1;
        }
        // The most frequent value; of several, the first by name.
        let most = counts.iter().rev().max_by_key(|(_, n)| **n);
        // A unit's rank depends on its content alone, not on the order of the rows.
        let short = rows().map(|row| self.short_ids[row]).min().unwrap_or(0);
        let mut least: Option<RowId> = None;
        for row in rows().filter(|&row| self.short_ids[row] == short) {
            let id = self.ids.get(row)?;
            least = Some(least.map_or(id, |least| least.min(id)));
        }
        let mut encoder = Encoder::new("retune.split.1");
        encoder.u64(seed);
        if let Some(id) = least {
            encoder.digest(&id.0);
        }
        let rank = order(RowId(encoder.digest_of()));
        Ok(Unit {
            root: members[0],
            size: members.len() as u32,
            stratum: most.map_or(0, |(stratum, _)| *stratum),
            rank: [(rank >> 32) as u32, rank as u32],
        })
    }
}

/// What belongs together: rows of one origin, prompt or group, and near ones.
fn together(
    places: &Places,
    mut columns: Columns,
    options: &SplitOptions,
    folder: &Path,
) -> Result<UnionFind, DataError> {
    let frequencies = Frequencies::of(places, View::Row, options.boilerplate)?;
    let by = NearOptions {
        threshold: options.near,
        banding: Banding::for_threshold(options.near),
    };
    let mut together = near(places, &frequencies, &by, folder)?.clusters;
    for column in 0..columns.count() {
        together.join_equal(&mut columns.column(column)?);
    }
    Ok(together)
}

/// The row that this one was made of by augmentation, or itself: both stay together.
fn origin(row: &Row) -> Result<Digest, DataError> {
    match row.meta_text(AUGMENTED_FROM) {
        None => Ok(row.id.0),
        Some(parent) => parent.parse().map_err(|_| {
            DataError::Invalid(format!(
                "row {} ({}): the metadata field `{AUGMENTED_FROM}` is '{parent}', not the id of a row; \
                 it names the row that this one was made of",
                row.id.0.short(),
                row.origin
            ))
        }),
    }
}

/// The metadata field with the id of the row that a row was made of by augmentation.
pub const AUGMENTED_FROM: &str = "augmented_from";

/// The first eight bytes of an id, as a number that sorts as ids do.
fn order(id: RowId) -> u64 {
    id.0.prefix().swap_bytes()
}

/// The ids of all rows, on disk.
struct Ids {
    folder: std::path::PathBuf,
    file: std::fs::File,
    pending: Vec<u8>,
    written: u64,
}

impl Ids {
    fn new(folder: &Path) -> Result<Self, DataError> {
        let file = tempfile::tempfile_in(folder).on("create a temporary file in", folder)?;
        Ok(Ids {
            folder: folder.to_owned(),
            file,
            pending: Vec::new(),
            written: 0,
        })
    }

    fn push(&mut self, id: RowId) -> Result<(), DataError> {
        self.pending.extend_from_slice(id.0.as_bytes());
        if self.pending.len() >= 1 << 20 {
            let wrote = self.file.write_all_at(&self.pending, self.written);
            wrote.on("write a temporary file in", &self.folder)?;
            self.written += self.pending.len() as u64;
            self.pending.clear();
        }
        Ok(())
    }

    fn get(&self, row: usize) -> Result<RowId, DataError> {
        let at = row as u64 * 32;
        let mut bytes = [0; 32];
        match at.checked_sub(self.written) {
            Some(at) => bytes.copy_from_slice(&self.pending[at as usize..at as usize + 32]),
            None => {
                let read = self.file.read_exact_at(&mut bytes, at);
                read.on("read a temporary file in", &self.folder)?;
            }
        }
        Ok(RowId(Digest::from_bytes(bytes)))
    }
}

fn refuse_empty(
    assigned: &[u8],
    (units, largest): (usize, u32),
    options: &SplitOptions,
) -> Result<(), DataError> {
    let shares = [
        1.0 - options.validation - options.test,
        options.validation,
        options.test,
    ];
    let mut rows = [0usize; 3];
    for to in assigned {
        rows[usize::from(*to)] += 1;
    }
    for ((name, share), count) in SPLITS.iter().zip(shares).zip(rows) {
        if count == 0 && share > 0.0 {
            return Err(DataError::Invalid(format!(
                "the {name} split would be empty: {} rows fall into {} units that must stay \
                 together, the largest of {largest} rows; take more rows, a larger share of {name}, fewer \
                 `group` fields, or a higher `near`",
                assigned.len(),
                units
            )));
        }
    }
    Ok(())
}

/// The split of each row. Stratum by stratum, units come in a seeded order;
/// each goes to the split that is furthest from its share, validation and test
/// taking only what fits; what a stratum leaves open the next one may fill.
fn assign(mut units: Vec<Unit>, facts: &Facts, options: &SplitOptions) -> Vec<u8> {
    units.par_sort_unstable_by_key(|unit| (unit.stratum, unit.rank, unit.root));
    let mut by_root = vec![0u8; facts.strata.len()];
    let mut open = [0.0; 3];
    for units in units.chunk_by(|a, b| a.stratum == b.stratum) {
        let size: usize = units.iter().map(|unit| unit.size as usize).sum();
        open[1] += size as f64 * options.validation;
        open[2] += size as f64 * options.test;
        open[0] += size as f64 * (1.0 - options.validation - options.test);
        let whole = open;
        for unit in units {
            let size = f64::from(unit.size);
            let fits = |to: usize| to == 0 || size <= open[to] + 0.5;
            let need = |to: usize| {
                if whole[to] > 0.0 {
                    open[to] / whole[to]
                } else {
                    f64::NEG_INFINITY
                }
            };
            let to = (0..3)
                .filter(|&to| fits(to))
                .max_by(|&a, &b| need(a).total_cmp(&need(b)).then(b.cmp(&a)))
                .unwrap_or(0);
            open[to] -= size;
            by_root[unit.root as usize] = to as u8;
        }
    }
    (0..by_root.len())
        .map(|row| by_root[facts.together.find(row)])
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::data::{Content, LeakReport, Message, Role, find_leaks, read_rows, write_rows};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn options(seed: u64) -> SplitOptions {
        SplitOptions {
            seed,
            validation: 0.2,
            test: 0.2,
            group: vec!["file".into()],
            near: 0.8,
            boilerplate: 0.1,
            stratify: None,
        }
    }

    /// The leaks of splits that are written for it.
    pub fn leaks(splits: [&[Row]; 3], options: &SplitOptions) -> LeakReport {
        let folder = tempfile::tempdir().unwrap();
        let paths = SPLITS.map(|name| folder.path().join(name));
        for (path, rows) in paths.iter().zip(splits) {
            write_rows(path, rows).unwrap();
        }
        find_leaks([&paths[0], &paths[1], &paths[2]], options).unwrap()
    }

    /// The splits of rows that are written for it.
    fn split(rows: &[Row], options: &SplitOptions) -> Result<[Vec<Row>; 3], DataError> {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("rows");
        write_rows(&from, rows).unwrap();
        let paths = SPLITS.map(|name| folder.path().join(name));
        super::split(&from, options, [&paths[0], &paths[1], &paths[2]])?;
        Ok(paths.map(|path| read_rows(&path).unwrap()))
    }

    /// A row of `words` pseudo-random words; the same `topic` gives near-duplicates.
    fn row(topic: u64, file: u64, line: u64) -> Row {
        let words: Vec<String> = (0..30)
            .map(|n| {
                Digest::of(&[topic as u8, n])
                    .short()
                    .replace(|c: char| c.is_ascii_digit(), "g")
            })
            .collect();
        let messages = vec![
            Message::new(
                Role::User,
                format!("what of {} line {line}", words.join(" ")),
            ),
            Message::new(Role::Assistant, format!("answer {topic}")),
        ];
        let meta = BTreeMap::from([
            ("file".to_owned(), format!("f{file}").into()),
            ("tool".to_owned(), format!("t{}", topic % 2).into()),
        ]);
        Row::new(Content::Messages(messages), meta, format!("x:{line}"))
    }

    #[test]
    fn a_split_that_would_be_empty_is_an_error_that_says_why() {
        let rows: Vec<Row> = (0..10).map(|i| row(1, 1, i)).collect();
        let error = split(&rows, &options(1)).unwrap_err().to_string();
        assert!(
            error.contains("validation split would be empty: 10 rows fall into 1 units"),
            "{error}"
        );
        let mut by_nothing = options(1);
        by_nothing.group = vec!["repo".into()];
        let error = split(&[row(1, 1, 1)], &by_nothing).unwrap_err().to_string();
        assert!(
            error.contains("no metadata field `repo`") && error.contains("file, tool"),
            "{error}"
        );
    }

    #[test]
    fn strata_are_spread() {
        let rows: Vec<Row> = (0..200).map(|i| row(i, i, i)).collect();
        let mut options = options(3);
        options.stratify = Some("tool".into());
        let [_, validation, test] = split(&rows, &options).unwrap();
        for part in [&validation, &test] {
            let even = part
                .iter()
                .filter(|r| r.meta_text("tool").unwrap() == "t0")
                .count();
            assert_eq!((even, part.len()), (20, 40));
        }
    }

    fn largest_unit(rows: &[Row], options: &SplitOptions) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("rows");
        write_rows(&from, rows).unwrap();
        let facts = Facts::read(&from, options, folder.path()).unwrap();
        let units = facts.units(options).unwrap();
        units.iter().map(|unit| unit.size as usize).max().unwrap()
    }

    #[test]
    fn what_was_augmented_stays_with_its_parent_and_an_expression_groups() {
        let mut rows: Vec<Row> = (0..60).map(|i| row(i, i, i)).collect();
        let parents: Vec<RowId> = rows.iter().map(|row| row.id).collect();
        for (i, parent) in parents.iter().enumerate() {
            let mut child = row(1000 + i as u64, 500 + i as u64, i as u64);
            child
                .meta
                .insert(AUGMENTED_FROM.into(), parent.to_string().into());
            rows.push(child);
        }
        let mut options = options(3);
        options.group = vec!["'odd' if meta.none else meta.file".into()];
        let splits = split(&rows, &options).unwrap();
        for part in &splits {
            let ids: BTreeSet<String> = part.iter().map(|row| row.id.to_string()).collect();
            for child in part.iter().filter_map(|row| row.meta_text(AUGMENTED_FROM)) {
                assert!(ids.contains(&child));
            }
        }
        rows[0].meta.insert(AUGMENTED_FROM.into(), "row 7".into());
        let error = split(&rows, &options).unwrap_err().to_string();
        assert!(error.contains("is 'row 7', not the id of a row"), "{error}");
        options.group = vec!["meta.file or".into()];
        let error = split(&rows, &options).unwrap_err().to_string();
        assert!(
            error.contains("`group`: 'meta.file or' is no expression"),
            "{error}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn nothing_straddles_and_sizes_are_near_the_shares(
            keys in prop::collection::vec((0u64..60, 0u64..80), 60..160),
            seed in any::<u64>(),
        ) {
            let rows: Vec<Row> = keys.iter().enumerate().map(|(i, &(t, f))| row(t, f, i as u64)).collect();
            let options = options(seed);
            let largest = largest_unit(&rows, &options);
            let total = rows.len();
            let Ok(splits) = split(&rows, &options) else {
                // Refused only when one unit leaves too little for the others.
                prop_assert!(largest * 3 > total);
                return Ok(());
            };
            let parts = [&splits[0], &splits[1], &splits[2]];
            prop_assert_eq!(parts.iter().map(|p| p.len()).sum::<usize>(), total);
            let files = |part: &Vec<Row>| part.iter().map(|r| r.meta_text("file").unwrap()).collect::<BTreeSet<_>>();
            for i in 0..3 {
                for j in i + 1..3 {
                    prop_assert!(files(parts[i]).is_disjoint(&files(parts[j])));
                }
            }
            for part in &splits[1..] {
                let target = total as f64 * 0.2;
                prop_assert!(part.len() as f64 <= target + 1.0);
                prop_assert!(part.len() as f64 >= target - largest as f64 - 1.0);
            }
            let report = leaks([&splits[0], &splits[1], &splits[2]], &options);
            prop_assert_eq!(report.leaks(), 0);
            let mut turned = rows;
            turned.reverse();
            let again = split(&turned, &options).unwrap();
            let ids = |part: &[Row]| part.iter().map(|r| r.id).collect::<BTreeSet<_>>();
            prop_assert_eq!(ids(&again[2]), ids(&splits[2]), "the order of rows does not matter");
        }
    }
}
