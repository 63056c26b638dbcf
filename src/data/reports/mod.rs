//! Scanner reports of all formats into findings: told apart by their structure, never by their path.

mod native;
mod node;
mod sarif;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::DataError;
use super::finding::{Finding, language_of};
use crate::files;
use node::Node;

/// What one run of one scanner reported.
#[derive(Debug)]
pub struct Report {
    /// The scanner, as in [`Finding::tool`].
    pub tool: String,
    /// Its version where the report gives it.
    pub tool_version: Option<String>,
    /// `sarif` or `json`.
    pub format: &'static str,
    /// The findings in the order of the report, duplicates included.
    pub findings: Vec<Finding>,
}

/// Reads one report; `label` stands for the file in errors and origins.
pub fn read_report(label: &str, bytes: &[u8]) -> Result<Vec<Report>, DataError> {
    let value: Value = serde_json::from_slice(bytes).map_err(|e| DataError::Document {
        path: label.to_owned(),
        at: format!("line {} column {}", e.line(), e.column()),
        message: super::jsonl::json_message(&e),
    })?;
    let root = Node::root(label, &value);
    let mut reports = dispatch(&root)?;
    for report in &mut reports {
        for finding in &mut report.findings {
            finding.tool_version.clone_from(&report.tool_version);
        }
    }
    Ok(reports)
}

/// Tells the formats apart by the fields only they have.
fn dispatch(root: &Node<'_>) -> Result<Vec<Report>, DataError> {
    let one = |report: Result<Report, DataError>| report.map(|r| vec![r]);
    if let Value::Array(items) = root.value() {
        return match items.first() {
            Some(first) if first.get("check_type").is_some() => one(native::checkov(root)),
            Some(first) if first.get("RuleID").is_some() => one(native::gitleaks(root)),
            None => one(native::gitleaks(root)),
            Some(_) => Err(unknown(root)),
        };
    }
    let object = root.object()?;
    let has = |name: &str| object.contains_key(name);
    if has("runs") || object.get("$schema").is_some_and(is_sarif_schema) {
        sarif::read(root)
    } else if has("@programName") || has("site") {
        one(native::zap(root))
    } else if has("SchemaVersion") && (has("Results") || has("ArtifactName")) {
        one(native::trivy(root))
    } else if has("check_type") || has("checkov_version") {
        one(native::checkov(root))
    } else if has("results") && has("metrics") {
        one(native::bandit(root))
    } else if has("results") && has("paths") {
        one(native::semgrep(root))
    } else if has("results") && (has("experimental_config") || object.len() == 1) {
        one(native::osv(root))
    } else {
        Err(unknown(root))
    }
}

fn is_sarif_schema(schema: &Value) -> bool {
    schema.as_str().is_some_and(|url| url.contains("sarif"))
}

fn unknown(root: &Node<'_>) -> DataError {
    root.fault(
        "this is no report of a known kind (SARIF 2.1.0, or JSON of Semgrep, Trivy, OSV-Scanner, \
         Checkov, ZAP, Gitleaks or Bandit)",
    )
}

/// One name for each scanner, whatever a report calls it.
fn tool_name(name: &str) -> String {
    let lower = name.trim().to_ascii_lowercase();
    for known in [
        "semgrep",
        "trivy",
        "checkov",
        "osv-scanner",
        "gitleaks",
        "bandit",
    ] {
        if lower.starts_with(known) {
            return known.to_owned();
        }
    }
    match lower.as_str() {
        "owasp zap" | "zap" | "zaproxy" => "zap".to_owned(),
        _ => lower,
    }
}

/// The value behind `name: ` on a line of a message.
fn package_line<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    message
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

fn join<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(" ")
}

/// How findings are imported.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Prefixes to cut off the files that reports name (a build machine's folder).
    pub strip: Vec<String>,
    /// The scanned code.
    pub source: Option<PathBuf>,
    /// Lines of context before and after a finding.
    pub context_lines: usize,
    /// How many findings each scanner must have reported, duplicates included.
    pub expect: BTreeMap<String, u64>,
    /// By what share of the expected number the count may be off, 0 to 1.
    pub tolerance: f64,
}

/// What was imported. `summary.json` is this record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImportSummary {
    /// Version of this file's format.
    pub format: u32,
    /// Findings kept.
    pub findings: u64,
    /// Findings reported, duplicates included.
    pub raw: u64,
    /// Findings that another one says already.
    pub duplicates: u64,
    /// The same by scanner.
    pub tools: BTreeMap<String, ToolSummary>,
    /// Findings kept, by severity.
    pub severities: BTreeMap<String, u64>,
    /// The reports in the order in which they were read.
    pub reports: Vec<ReportSummary>,
    /// Findings whose file is not in the scanned source (absent without one).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub without_source: Option<u64>,
}

/// The counts of one scanner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ToolSummary {
    /// Findings reported.
    pub raw: u64,
    /// Findings that another one says already.
    pub duplicates: u64,
    /// Findings kept.
    pub findings: u64,
    /// Distinct rules among them.
    pub rules: u64,
}

/// The count of one report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportSummary {
    /// The file.
    pub report: String,
    /// The scanner.
    pub tool: String,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_version: Option<String>,
    /// `sarif` or `json`.
    pub format: String,
    /// Findings reported.
    pub raw: u64,
}

/// Reads reports into findings: identical ones once (the first is kept),
/// sorted by tool, rule, place and id. `reports` holds a label (what errors
/// and origins call the file) and a path each.
pub fn import_findings(
    reports: &[(String, PathBuf)],
    options: &ImportOptions,
) -> Result<(Vec<Finding>, ImportSummary), DataError> {
    let mut summary = ImportSummary {
        format: 1,
        findings: 0,
        raw: 0,
        duplicates: 0,
        tools: BTreeMap::new(),
        severities: BTreeMap::new(),
        reports: Vec::new(),
        without_source: None,
    };
    let mut kept: BTreeMap<_, Finding> = BTreeMap::new();
    for (label, path) in reports {
        for report in read_report(label, &files::read(path)?)? {
            let raw = report.findings.len() as u64;
            let counts = summary.tools.entry(report.tool.clone()).or_default();
            counts.raw += raw;
            for mut finding in report.findings {
                finish(&mut finding, &options.strip);
                match kept.entry(finding.id) {
                    Entry::Occupied(_) => counts.duplicates += 1,
                    Entry::Vacant(place) => {
                        place.insert(finding);
                    }
                }
            }
            summary.reports.push(ReportSummary {
                report: label.clone(),
                tool: report.tool,
                tool_version: report.tool_version,
                format: report.format.to_owned(),
                raw,
            });
        }
    }
    check_counts(&summary.tools, options)?;
    let mut findings: Vec<Finding> = kept.into_values().collect();
    findings.sort_by(|a, b| place(a).cmp(&place(b)));
    if let Some(root) = &options.source {
        summary.without_source = Some(source::add(&mut findings, root, options.context_lines)?);
    }
    count(&mut summary, &findings);
    Ok((findings, summary))
}

fn place(finding: &Finding) -> impl Ord + '_ {
    let file = finding.file.as_deref();
    (
        &finding.tool,
        &finding.rule,
        file,
        finding.start_line,
        finding.id,
    )
}

/// Brings a finding into its canonical form and gives it its id.
fn finish(finding: &mut Finding, strip: &[String]) {
    if let Some(file) = &mut finding.file {
        let prefix = strip
            .iter()
            .find(|prefix| file.starts_with(prefix.as_str()));
        let rest = prefix.map_or(file.as_str(), |prefix| {
            file[prefix.len()..].trim_start_matches('/')
        });
        *file = rest.strip_prefix("./").unwrap_or(rest).to_owned();
        finding.language = language_of(file).map(str::to_owned);
    }
    for list in [&mut finding.cwe, &mut finding.aliases] {
        let set: BTreeSet<String> = std::mem::take(list).into_iter().collect();
        *list = set.into_iter().collect();
    }
    finding.id = finding.identity();
}

fn check_counts(
    tools: &BTreeMap<String, ToolSummary>,
    options: &ImportOptions,
) -> Result<(), DataError> {
    for (tool, &expected) in &options.expect {
        let Some(counts) = tools.get(tool) else {
            let read: Vec<&str> = tools.keys().map(String::as_str).collect();
            return Err(DataError::Invalid(format!(
                "expected {expected} findings of {tool}, but no report of it was read (read: {})",
                read.join(", ")
            )));
        };
        let allowed = expected as f64 * options.tolerance;
        if (counts.raw as f64 - expected as f64).abs() > allowed {
            return Err(DataError::Invalid(format!(
                "expected {expected} findings of {tool} (tolerance {}), the reports hold {}: \
                 the scan changed or is incomplete; if this is right, change `expect`",
                options.tolerance, counts.raw
            )));
        }
    }
    Ok(())
}

fn count(summary: &mut ImportSummary, findings: &[Finding]) {
    let mut rules: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for finding in findings {
        rules
            .entry(&finding.tool)
            .or_default()
            .insert(&finding.rule);
        *summary
            .severities
            .entry(finding.severity.name().to_owned())
            .or_default() += 1;
    }
    for (tool, counts) in &mut summary.tools {
        counts.findings = counts.raw - counts.duplicates;
        counts.rules = rules.get(tool.as_str()).map_or(0, |set| set.len() as u64);
        summary.raw += counts.raw;
        summary.duplicates += counts.duplicates;
    }
    summary.findings = findings.len() as u64;
}

/// Reads the findings file that [`import_findings`]'s result was written to.
pub fn read_findings(path: &Path) -> Result<Vec<Finding>, DataError> {
    super::read_jsonl(path)
}
