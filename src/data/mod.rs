//! Data: rows and how they come, what they are made of, what is wrong with them, and how they are split.
//!
//! The room knows nothing of the engine. A [`Row`] is what training and
//! evaluation read; every row has a content id and an origin, so that any later
//! artefact can point at it. Files of rows go past as a stream: `stream` works on
//! blocks of lines with all cores and hands the results on in order, `places`
//! finds a row again by its number, `columns` keeps numbers of all rows on disk.
//!
//! In: `source` opens and unpacks, `items`, `strict` and `parquet` read
//! records, `import` makes rows of them; `reports` makes findings of
//! scanners' reports (`version` knows ecosystems), `template` rows of
//! findings, `mix` and `augment` rows of rows. Wrong: `words`, `shingle`,
//! `near` and `nearest` compare rows; `check` is the gate, `scan` looks for
//! secrets, `license` at licences, `overlap` for evaluation rows. Out:
//! `split` with its proof, `leak`; `stats`, `diff`, and [`page`], which all
//! reports are written with.

mod augment;
mod check;
mod columns;
mod diff;
mod encoding;
mod error;
mod field;
mod finding;
mod import;
mod items;
mod jsonl;
mod key;
mod language;
mod leak;
mod license;
mod mix;
mod near;
mod nearest;
mod overlap;
pub mod page;
#[cfg(feature = "parquet")]
mod parquet;
mod places;
mod reports;
mod row;
mod scan;
mod select;
mod shingle;
mod source;
mod split;
mod stats;
mod stream;
mod strict;
mod template;
mod version;
mod words;

pub use augment::{AUGMENTED, AugmentRule, AugmentSummary, Change, augment};
pub use check::{
    CheckOptions, CheckReport, CheckResult, Cluster, Contradiction, Example, Limit, Pattern, check,
};
pub use diff::{DataDiff, DiffOptions, DiffRow, Shift, diff};
pub use error::DataError;
pub use field::{BadPath, FieldPath};
pub use finding::{Finding, Package, Severity};
pub use import::{
    FieldNames, Record, Required, RowSink, RowsOptions, RowsSummary, Schema, Take, import_rows,
    read_records,
};
pub use jsonl::{Lines, Rows, Sorted, read_jsonl, read_rows, write_jsonl, write_rows};
pub use leak::{LeakReport, PairReport, find_leaks};
pub use license::{License, LicenseLine, LicenseOptions, LicenseReport, Terms, licenses};
pub use mix::{MixOptions, MixPart, MixSummary, mix};
pub use near::{Banding, HASHES, NearOptions};
pub use overlap::{
    Contamination, Match, OverlapFiles, OverlapOptions, OverlapReport, Reference, References, Rule,
    Rules, SetReport, decontaminate,
};
#[cfg(feature = "parquet")]
pub use parquet::RowsWriter;
pub use reports::{
    ImportOptions, ImportSummary, Report, ReportSummary, ToolSummary, import_findings,
    read_findings, read_report,
};
pub use row::{Content, Message, Role, Row, RowId};
pub use scan::{
    Allowed, Hit, Personal, Rule as SecretRule, RuleSet, ScanAction, ScanFiles, ScanOptions,
    ScanReport, scan,
};
pub use select::select;
pub use shingle::View;
pub use source::Format;
pub use split::{AUGMENTED_FROM, SplitOptions, SplitSummary, split, test_digest};
pub use stats::{DatasetStats, Distribution, Ratio, Stats, StatsOptions, TooLong, stats};
pub use stream::{Block, Blocks, Line, LineWriter, each_line, each_row, parse_line, to_line};
pub use template::{BuildSummary, Item, Templates};
pub use version::Ecosystem;
