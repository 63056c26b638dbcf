//! Licences of rows, and whether what is made of them can be released under another.
//!
//! Expressions are SPDX's (`MIT OR Apache-2.0`). What a licence asks for is a
//! small table of our own, for the licences that data and code come under; it
//! is no legal advice, and a licence that is not in it is one to look at.

use std::collections::BTreeMap;
use std::path::Path;

use globset::{Glob, GlobMatcher};
use serde::{Deserialize, Serialize};
use spdx::expression::ExprNode;
use spdx::identifiers::LICENSES;
use spdx::{Expression, LicenseItem, ParseMode};

use super::page::{Cell, Page, Verdict};
use super::stream::each_row;
use super::{DataError, Row};

/// What a licence asks of what is made of its work, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Terms {
    /// Nothing.
    PublicDomain,
    /// To be named.
    Permissive,
    /// That changes of the work itself stay under it.
    WeakCopyleft,
    /// That all that is made of it comes under it.
    StrongCopyleft,
    /// That nobody makes money of it.
    NonCommercial,
    /// That nothing is made of it.
    NoDerivatives,
    /// It is not in the table.
    Unknown,
}

impl Terms {
    /// The words in reports.
    pub fn name(self) -> &'static str {
        match self {
            Terms::PublicDomain => "public domain",
            Terms::Permissive => "permissive",
            Terms::WeakCopyleft => "weak copyleft",
            Terms::StrongCopyleft => "strong copyleft",
            Terms::NonCommercial => "non-commercial",
            Terms::NoDerivatives => "no derivatives",
            Terms::Unknown => "not known here",
        }
    }
}

/// What an SPDX id stands for. The longest beginning decides.
const TABLE: &[(&str, Terms)] = &[
    ("CC0-", Terms::PublicDomain),
    ("Unlicense", Terms::PublicDomain),
    ("PDDL-", Terms::PublicDomain),
    ("0BSD", Terms::PublicDomain),
    ("MIT-0", Terms::PublicDomain),
    ("WTFPL", Terms::PublicDomain),
    ("MIT", Terms::Permissive),
    ("Apache-", Terms::Permissive),
    ("BSD-", Terms::Permissive),
    ("ISC", Terms::Permissive),
    ("Zlib", Terms::Permissive),
    ("BSL-1.0", Terms::Permissive),
    ("Python-", Terms::Permissive),
    ("PSF-", Terms::Permissive),
    ("PostgreSQL", Terms::Permissive),
    ("NCSA", Terms::Permissive),
    ("Artistic-2.0", Terms::Permissive),
    ("UPL-", Terms::Permissive),
    ("CC-BY-", Terms::Permissive),
    ("ODC-By-", Terms::Permissive),
    ("CDLA-Permissive-", Terms::Permissive),
    ("MPL-", Terms::WeakCopyleft),
    ("LGPL-", Terms::WeakCopyleft),
    ("EPL-", Terms::WeakCopyleft),
    ("CDDL-", Terms::WeakCopyleft),
    ("GPL-", Terms::StrongCopyleft),
    ("AGPL-", Terms::StrongCopyleft),
    ("EUPL-", Terms::StrongCopyleft),
    ("OSL-", Terms::StrongCopyleft),
    ("CC-BY-SA-", Terms::StrongCopyleft),
    ("ODbL-", Terms::StrongCopyleft),
    ("CDLA-Sharing-", Terms::StrongCopyleft),
    ("GFDL-", Terms::StrongCopyleft),
    ("CC-BY-NC-", Terms::NonCommercial),
    ("CC-BY-NC-SA-", Terms::NonCommercial),
    ("CC-BY-ND-", Terms::NoDerivatives),
    ("CC-BY-NC-ND-", Terms::NoDerivatives),
];

fn terms_of(id: &str) -> Terms {
    let fits = TABLE.iter().filter(|(start, _)| id.starts_with(start));
    fits.max_by_key(|(start, _)| start.len())
        .map_or(Terms::Unknown, |(_, terms)| *terms)
}

/// An SPDX expression and what it asks for: of `OR` the least, of `AND` the most.
#[derive(Debug, Clone, PartialEq)]
pub struct License {
    text: String,
    terms: Terms,
    /// The single licence that it is, if it is one.
    single: Option<String>,
}

impl License {
    /// Reads an expression, ids in any case (as model cards write them).
    pub fn parse(text: &str) -> Result<Self, DataError> {
        let expression = Expression::parse_mode(&in_spdx_case(text), ParseMode::LAX).map_err(|e| {
            DataError::Invalid(format!(
                "'{text}' is no SPDX licence expression ({}); the ids are listed at spdx.org/licenses",
                e.reason
            ))
        })?;
        let mut stack: Vec<Terms> = Vec::new();
        let mut ids = Vec::new();
        for node in expression.iter() {
            match node {
                ExprNode::Req(req) => {
                    let id = match &req.req.license {
                        LicenseItem::Spdx { id, .. } => id.name.to_owned(),
                        LicenseItem::Other(other) => other.to_string(),
                    };
                    stack.push(terms_of(&id));
                    ids.push(id);
                }
                ExprNode::Op(op) => {
                    let (b, a) = (stack.pop(), stack.pop());
                    let (Some(a), Some(b)) = (a, b) else { continue };
                    stack.push(match op {
                        spdx::expression::Operator::And => a.max(b),
                        spdx::expression::Operator::Or => a.min(b),
                    });
                }
            }
        }
        Ok(License {
            text: text.to_owned(),
            terms: stack.pop().unwrap_or(Terms::Unknown),
            single: if let [id] = &ids[..] {
                Some(id.clone())
            } else {
                None
            },
        })
    }

    /// What it asks for.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// Why work under this licence cannot be released under `release`; none when it can.
    pub fn conflict(&self, release: &License) -> Option<String> {
        if self.single.is_some() && self.single == release.single {
            return None;
        }
        match self.terms {
            Terms::PublicDomain | Terms::Permissive => None,
            Terms::WeakCopyleft => match release.terms {
                Terms::PublicDomain => Some(
                    "its texts stay under it, and the release gives all rights away".to_owned(),
                ),
                _ => None,
            },
            Terms::StrongCopyleft => Some(format!(
                "what is made of it comes under it, not under {}",
                release.text
            )),
            Terms::NonCommercial if release.terms == Terms::NonCommercial => None,
            Terms::NonCommercial => Some(format!(
                "it forbids commercial use, which {} allows",
                release.text
            )),
            Terms::NoDerivatives => {
                Some("it forbids what is made of it, which a training set is".to_owned())
            }
            Terms::Unknown => Some(
                "what it asks for is not known here: read it, and declare it by another expression"
                    .to_owned(),
            ),
        }
    }
}

/// The expression with its ids and operators in the case that SPDX writes them.
fn in_spdx_case(text: &str) -> String {
    let word = |word: &str| {
        let same = |name: &&&str| name.eq_ignore_ascii_case(word);
        let known = LICENSES.iter().map(|license| &license.name);
        let operators = ["AND", "OR", "WITH"];
        known
            .clone()
            .find(same)
            .or_else(|| operators.iter().find(same))
            .map_or(word, |name| *name)
            .to_owned()
    };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find([' ', '(', ')']) {
        out.push_str(&word(&rest[..at]));
        out.push_str(&rest[at..=at]);
        rest = &rest[at + 1..];
    }
    out + &word(rest)
}

/// Where rows' licences are said.
#[derive(Debug, Clone)]
pub struct LicenseOptions {
    /// The metadata field with a row's own licence.
    pub field: String,
    /// Licences of sources: a glob over origins, and the expression.
    pub sources: Vec<(String, String)>,
    /// The licence of the release.
    pub release: String,
}

/// One licence that rows have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LicenseLine {
    /// What it asks for.
    pub terms: Terms,
    /// Rows under it.
    pub rows: u64,
    /// The files they are from, with their rows.
    pub sources: BTreeMap<String, u64>,
    /// Why it cannot be part of the release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<String>,
}

/// The licences of a data set. `licenses.json` is this record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LicenseReport {
    /// Version of this file's format.
    pub format: u32,
    /// Rows.
    pub rows: u64,
    /// The licence of the release.
    pub release: String,
    /// Each licence that rows have.
    pub licenses: BTreeMap<String, LicenseLine>,
    /// Rows of which no licence is said, by the files they are from. Nothing is guessed.
    pub unlicensed: BTreeMap<String, u64>,
}

/// Counts the licences of the rows of a file.
pub fn licenses(rows: &Path, options: &LicenseOptions) -> Result<LicenseReport, DataError> {
    let release = License::parse(&options.release)?;
    let mut sources: Vec<(GlobMatcher, String)> = Vec::new();
    for (glob, license) in &options.sources {
        License::parse(license)?;
        let compiled = Glob::new(glob)
            .map_err(|e| DataError::Invalid(format!("`sources`: '{glob}' is no glob: {e}")))?;
        sources.push((compiled.compile_matcher(), license.clone()));
    }
    let mut report = LicenseReport {
        format: 1,
        rows: 0,
        release: options.release.clone(),
        licenses: BTreeMap::new(),
        unlicensed: BTreeMap::new(),
    };
    let work = |_, row: Row| {
        let file = row
            .origin
            .rsplit_once(':')
            .map_or(row.origin.as_str(), |(file, _)| file)
            .to_owned();
        let by_source = || {
            sources
                .iter()
                .find(|(glob, _)| glob.is_match(&file))
                .map(|(_, license)| license.clone())
        };
        let license = row.meta_text(&options.field).or_else(by_source);
        Ok((row.origin, file, license))
    };
    each_row(rows, work, |(origin, file, license)| {
        report.rows += 1;
        let Some(text) = license else {
            *report.unlicensed.entry(file).or_default() += 1;
            return Ok(());
        };
        if !report.licenses.contains_key(&text) {
            let license = License::parse(&text)
                .map_err(|e| DataError::Invalid(format!("the row of {origin}: {e}")))?;
            report.licenses.insert(
                text.clone(),
                LicenseLine {
                    terms: license.terms(),
                    rows: 0,
                    sources: BTreeMap::new(),
                    conflict: license.conflict(&release),
                },
            );
        }
        if let Some(line) = report.licenses.get_mut(&text) {
            line.rows += 1;
            *line.sources.entry(file).or_default() += 1;
        }
        Ok(())
    })?;
    Ok(report)
}

impl LicenseReport {
    /// Rows of which no licence is said.
    pub fn unlicensed_rows(&self) -> u64 {
        self.unlicensed.values().sum()
    }

    /// What a build that stops here says: conflicts, and rows without a
    /// licence where those count. None when there is nothing.
    pub fn complaint(&self, unlicensed_fail: bool) -> Option<String> {
        let conflicts = self.licenses.iter().filter_map(|(name, line)| {
            let conflict = line.conflict.as_ref()?;
            Some(format!("  {} rows under {name}: {conflict}", line.rows))
        });
        let mut lines: Vec<String> = conflicts.collect();
        if unlicensed_fail && self.unlicensed_rows() > 0 {
            let files: Vec<&str> = self.unlicensed.keys().map(String::as_str).take(5).collect();
            lines.push(format!(
                "  {} rows of which no licence is said ({})",
                self.unlicensed_rows(),
                files.join(", ")
            ));
        }
        (!lines.is_empty()).then(|| {
            format!(
                "the rows cannot be released under {}:\n{}",
                self.release,
                lines.join("\n")
            )
        })
    }

    /// The page.
    pub fn html(&self, unlicensed_fail: bool) -> String {
        let verdict = match (self.complaint(unlicensed_fail), self.unlicensed_rows()) {
            (Some(_), _) => Verdict::Fail,
            (None, 0) => Verdict::Pass,
            _ => Verdict::Warn,
        };
        let mut page = Page::new("Licences", Some(verdict));
        page.text(&format!(
            "{} rows, to be released under {}.",
            self.rows, self.release
        ));
        let line = |(name, line): (&String, &LicenseLine)| {
            let sources: Vec<String> = line
                .sources
                .iter()
                .map(|(file, n)| format!("{file} ({n})"))
                .collect();
            vec![
                Cell::code(name),
                Cell::text(line.terms.name()),
                Cell::Count(line.rows),
                Cell::text(line.conflict.as_deref().unwrap_or("can be part of it")),
                Cell::text(sources.join(", ")),
            ]
        };
        let head = ["licence", "terms", "rows", "in this release", "sources"];
        page.table(&head, &self.licenses.iter().map(line).collect::<Vec<_>>());
        let without: Vec<Vec<Cell>> = self
            .unlicensed
            .iter()
            .map(|(file, n)| vec![Cell::code(file), Cell::Count(*n)])
            .collect();
        page.table(&["source without a licence", "rows"], &without);
        page.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Content, write_rows};

    #[test]
    fn terms_follow_the_expression() {
        for (text, terms) in [
            ("MIT", Terms::Permissive),
            ("apache-2.0", Terms::Permissive),
            ("CC-BY-4.0", Terms::Permissive),
            ("CC-BY-SA-4.0", Terms::StrongCopyleft),
            ("CC-BY-NC-SA-4.0", Terms::NonCommercial),
            ("CC-BY-NC-ND-4.0", Terms::NoDerivatives),
            ("CC0-1.0", Terms::PublicDomain),
            ("GPL-3.0-only OR MIT", Terms::Permissive),
            ("MIT AND LGPL-2.1-or-later", Terms::WeakCopyleft),
            (
                "(MIT OR GPL-2.0-only) AND CC-BY-NC-4.0",
                Terms::NonCommercial,
            ),
            ("LicenseRef-house", Terms::Unknown),
        ] {
            assert_eq!(License::parse(text).unwrap().terms(), terms, "{text}");
        }
        let error = License::parse("MIT or whatever").unwrap_err().to_string();
        assert!(error.contains("is no SPDX licence expression"), "{error}");
    }

    #[test]
    fn conflicts_and_missing_licences_are_counted_by_source() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        let row = |origin: &str, license: Option<&str>| {
            let meta = license
                .map(|l| ("license".to_owned(), l.into()))
                .into_iter()
                .collect();
            Row::new(Content::Text(origin.into()), meta, origin)
        };
        let rows = [
            row("a/x.jsonl:1", None),
            row("a/x.jsonl:2", Some("CC-BY-NC-4.0")),
            row("b/y.jsonl:1", None),
            row("c/z.jsonl:1", None),
        ];
        write_rows(&path, &rows).unwrap();
        let options = LicenseOptions {
            field: "license".into(),
            sources: vec![
                ("a/*".into(), "MIT".into()),
                ("b/*".into(), "GPL-3.0-only".into()),
            ],
            release: "apache-2.0".into(),
        };
        let report = licenses(&path, &options).unwrap();
        assert_eq!(report.licenses["MIT"].rows, 1);
        assert_eq!(report.unlicensed, [("c/z.jsonl".into(), 1)].into());
        let complaint = report.complaint(true).unwrap();
        for part in [
            "under apache-2.0",
            "1 rows under CC-BY-NC-4.0",
            "1 rows under GPL-3.0-only",
            "c/z.jsonl",
        ] {
            assert!(complaint.contains(part), "{complaint}");
        }
        let same = LicenseOptions {
            release: "GPL-3.0-only".into(),
            ..options
        };
        let report = licenses(&path, &same).unwrap();
        assert_eq!(report.licenses["GPL-3.0-only"].conflict, None);
        assert!(
            !report
                .complaint(false)
                .unwrap()
                .contains("GPL-3.0-only: what")
        );
    }
}
