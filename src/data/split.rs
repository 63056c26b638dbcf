//! Leak-proof splits: what belongs together stays together, by group, by equal prompt and by near-duplicate cluster.

use std::collections::BTreeMap;

use super::near::{UnionFind, distinctive, near_pairs};
use super::{DataError, Row, RowId};
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
    /// Metadata fields; rows that agree in one of them stay together.
    pub group: Vec<String>,
    /// Rows at least this similar stay together, 0 (exclusive) to 1.
    pub near: f64,
    /// 5-grams that more than this share of the rows hold are boilerplate.
    pub boilerplate: f64,
    /// A metadata field whose values are spread evenly over the splits.
    pub stratify: Option<String>,
}

/// The rows of each split, in the order of the input.
#[derive(Debug, Clone, PartialEq)]
pub struct Splits {
    /// To learn from.
    pub train: Vec<Row>,
    /// To watch while training.
    pub validation: Vec<Row>,
    /// To judge by in the end.
    pub test: Vec<Row>,
    /// How many units of rows that belong together there were.
    pub units: usize,
}

/// The names of the splits in the order in which they are filled.
pub const SPLITS: [&str; 3] = ["train", "validation", "test"];

/// Rows that belong together.
struct Unit {
    rows: Vec<usize>,
    stratum: String,
    rank: Digest,
}

/// The digest of what comes before the answer, or of the whole text.
pub(super) fn prompt_digest(row: &Row) -> Digest {
    let mut encoder = Encoder::new("retune.prompt.1");
    match row.prompt() {
        [] => encoder.digest(&row.id.0),
        prompt => {
            for message in prompt {
                encoder.str(message.role.name()).str(&message.content);
            }
            &mut encoder
        }
    };
    encoder.digest_of()
}

/// Splits rows. Fails when a row lacks a group field, or when a split with a
/// share above 0 would be empty.
pub fn split(rows: Vec<Row>, options: &SplitOptions) -> Result<Splits, DataError> {
    let units = units(&rows, options)?;
    let count = units.len();
    let largest = units.iter().map(|unit| unit.rows.len()).max().unwrap_or(0);
    let assigned = assign(&units, rows.len(), options);
    let mut splits: [Vec<Row>; 3] = Default::default();
    let total = rows.len();
    for (row, to) in rows.into_iter().zip(assigned) {
        splits[to].push(row);
    }
    let shares = [
        1.0 - options.validation - options.test,
        options.validation,
        options.test,
    ];
    for ((name, share), rows) in SPLITS.iter().zip(shares).zip(&splits) {
        if rows.is_empty() && share > 0.0 {
            return Err(DataError::Invalid(format!(
                "the {name} split would be empty: {total} rows fall into {count} units that must stay \
                 together, the largest of {largest} rows; take more rows, a larger share of {name}, fewer \
                 `group` fields, or a higher `near`"
            )));
        }
    }
    let [train, validation, test] = splits;
    Ok(Splits {
        train,
        validation,
        test,
        units: count,
    })
}

fn units(rows: &[Row], options: &SplitOptions) -> Result<Vec<Unit>, DataError> {
    let mut together = UnionFind::new(rows.len());
    let mut first: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        let mut keys = vec![(String::new(), prompt_digest(row).to_string())];
        for field in &options.group {
            let value = row
                .meta_text(field)
                .ok_or_else(|| missing(row, "group", field))?;
            keys.push((field.clone(), value));
        }
        for key in keys {
            together.join(i, *first.entry(key).or_insert(i));
        }
    }
    for (i, j) in near_pairs(&distinctive(rows, options.boilerplate), options.near) {
        together.join(i, j);
    }
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for i in 0..rows.len() {
        members.entry(together.root(i)).or_default().push(i);
    }
    members
        .into_values()
        .map(|ids| unit(rows, ids, options))
        .collect()
}

fn unit(rows: &[Row], ids: Vec<usize>, options: &SplitOptions) -> Result<Unit, DataError> {
    let mut strata: BTreeMap<String, usize> = BTreeMap::new();
    if let Some(field) = &options.stratify {
        for &i in &ids {
            let value = rows[i]
                .meta_text(field)
                .ok_or_else(|| missing(&rows[i], "stratify", field))?;
            *strata.entry(value).or_default() += 1;
        }
    }
    // The most frequent value; of several, the first by name.
    let stratum = strata
        .iter()
        .rev()
        .max_by_key(|(_, n)| **n)
        .map(|(value, _)| value.clone());
    // A unit's rank depends on its content alone, not on the order of the rows.
    let least: Option<RowId> = ids.iter().map(|&i| rows[i].id).min();
    let mut encoder = Encoder::new("retune.split.1");
    encoder.u64(options.seed);
    if let Some(id) = least {
        encoder.digest(&id.0);
    }
    Ok(Unit {
        rows: ids,
        stratum: stratum.unwrap_or_default(),
        rank: encoder.digest_of(),
    })
}

fn missing(row: &Row, param: &str, field: &str) -> DataError {
    let known: Vec<&str> = row.meta.keys().map(String::as_str).collect();
    DataError::Invalid(format!(
        "row {} ({}) has no metadata field `{field}`, which `{param}` names; it has: {}",
        row.id.0.short(),
        row.origin,
        known.join(", ")
    ))
}

/// The split of each row. Stratum by stratum, units come in a seeded order;
/// each goes to the split that is furthest from its share, validation and test
/// taking only what fits; what a stratum leaves open the next one may fill.
fn assign(units: &[Unit], rows: usize, options: &SplitOptions) -> Vec<usize> {
    let mut strata: BTreeMap<&str, Vec<&Unit>> = BTreeMap::new();
    for unit in units {
        strata.entry(&unit.stratum).or_default().push(unit);
    }
    let mut assigned = vec![0; rows];
    let mut open = [0.0; 3];
    for units in strata.values_mut() {
        units.sort_by_key(|unit| unit.rank);
        let size: usize = units.iter().map(|unit| unit.rows.len()).sum();
        open[1] += size as f64 * options.validation;
        open[2] += size as f64 * options.test;
        open[0] += size as f64 * (1.0 - options.validation - options.test);
        let whole = open;
        for unit in units.iter() {
            let size = unit.rows.len() as f64;
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
            for &row in &unit.rows {
                assigned[row] = to;
            }
        }
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Content, Message, Role, find_leaks};
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
        let error = split(rows, &options(1)).unwrap_err().to_string();
        assert!(
            error.contains("validation split would be empty: 10 rows fall into 1 units"),
            "{error}"
        );
        let mut by_nothing = options(1);
        by_nothing.group = vec!["repo".into()];
        let error = split(vec![row(1, 1, 1)], &by_nothing)
            .unwrap_err()
            .to_string();
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
        let splits = split(rows, &options).unwrap();
        for part in [&splits.validation, &splits.test] {
            let even = part
                .iter()
                .filter(|r| r.meta_text("tool").unwrap() == "t0")
                .count();
            assert_eq!((even, part.len()), (20, 40));
        }
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
            let units = units(&rows, &options).unwrap();
            let largest = units.iter().map(|u| u.rows.len()).max().unwrap();
            let total = rows.len();
            let Ok(splits) = split(rows.clone(), &options) else {
                // Refused only when one unit leaves too little for the others.
                prop_assert!(largest * 3 > total);
                return Ok(());
            };
            let parts = [&splits.train, &splits.validation, &splits.test];
            prop_assert_eq!(parts.iter().map(|p| p.len()).sum::<usize>(), total);
            let files = |part: &Vec<Row>| part.iter().map(|r| r.meta_text("file").unwrap()).collect::<BTreeSet<_>>();
            for i in 0..3 {
                for j in i + 1..3 {
                    prop_assert!(files(parts[i]).is_disjoint(&files(parts[j])));
                }
            }
            for part in [&splits.validation, &splits.test] {
                let target = total as f64 * 0.2;
                prop_assert!(part.len() as f64 <= target + 1.0);
                prop_assert!(part.len() as f64 >= target - largest as f64 - 1.0);
            }
            let report = find_leaks(&parts.map(Vec::as_slice), &options);
            prop_assert_eq!(report.leaks(), 0);
            let mut turned = rows;
            turned.reverse();
            let again = split(turned, &options).unwrap();
            let ids = |part: &[Row]| part.iter().map(|r| r.id).collect::<BTreeSet<_>>();
            prop_assert_eq!(ids(&again.test), ids(&splits.test), "the order of rows does not matter");
        }
    }
}
