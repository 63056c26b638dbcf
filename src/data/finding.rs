//! The finding: one record for what any scanner reports.

use std::collections::BTreeMap;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::jsonl::Sorted;
use crate::hash::{Digest, Encoder};

/// How bad a finding is, on one scale for all tools. The order is by weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The report does not say.
    Unknown,
    /// Worth knowing.
    Info,
    /// Minor.
    Low,
    /// To be fixed.
    Medium,
    /// To be fixed soon.
    High,
    /// To be fixed now.
    Critical,
}

impl Severity {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Unknown => "unknown",
            Severity::Info => "info",
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }

    /// From a tool's own word, in any case; none for a word no tool uses.
    ///
    /// `error`, `warning` and `note` are SARIF's levels and Semgrep's older
    /// severities, which the tools themselves equate with high, medium and low.
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word.trim().to_ascii_lowercase().as_str() {
            "critical" => Severity::Critical,
            "high" | "error" => Severity::High,
            "medium" | "moderate" | "warning" => Severity::Medium,
            "low" | "note" => Severity::Low,
            "info" | "informational" | "none" | "negligible" => Severity::Info,
            "unknown" | "undefined" => Severity::Unknown,
            _ => return None,
        })
    }

    /// From a CVSS base score, by the qualitative scale of CVSS v3.1 §5 and v4.0 §6.
    pub fn from_score(score: f64) -> Self {
        match score {
            s if s >= 9.0 => Severity::Critical,
            s if s >= 7.0 => Severity::High,
            s if s >= 4.0 => Severity::Medium,
            s if s > 0.0 => Severity::Low,
            _ => Severity::Info,
        }
    }
}

/// The dependency a finding is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// The name in its ecosystem (`group:artifact` for Maven).
    pub name: String,
    /// `Maven`, `npm`, `PyPI`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecosystem: Option<String>,
    /// The version in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed: Option<String>,
    /// The versions that hold the fix, as the report lists them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fixed: Vec<String>,
    /// The fixed version to go to: see [`super::Ecosystem::upgrade`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<String>,
}

/// One finding of one scanner. Fields a report does not give are absent; none
/// is ever filled with a placeholder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// The digest of what identifies the finding (see [`Finding::identity`]).
    pub id: Digest,
    /// The scanner, lower case: `semgrep`, `trivy`, `osv-scanner`, ….
    pub tool: String,
    /// The scanner's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_version: Option<String>,
    /// The rule or advisory id.
    pub rule: String,
    /// A short name of the rule.
    pub title: String,
    /// What the scanner says about this finding.
    pub message: String,
    /// The severity on the common scale.
    pub severity: Severity,
    /// The severity as the report has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity_original: Option<String>,
    /// CVSS base score, 0 to 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cvss: Option<f64>,
    /// CVSS vector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cvss_vector: Option<String>,
    /// Weaknesses, `CWE-79`, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cwe: Vec<String>,
    /// Other ids of the same vulnerability (CVE, GHSA), sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The image, site or lockfile that was scanned, where the report names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The file, relative to the scanned root, or the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The language of the file, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// First line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_line: Option<u64>,
    /// Last line, inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_line: Option<u64>,
    /// First column, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_column: Option<u64>,
    /// Column after the last character.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_column: Option<u64>,
    /// The code at the location, from the scanned source where it is given,
    /// else from the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The code with the lines around it, from the scanned source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// What the scanner would put in the place of the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// The scanner's advice in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The dependency at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<Package>,
    /// What else the rule says about itself, as the report has it.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        serialize_with = "sorted"
    )]
    pub metadata: BTreeMap<String, Value>,
    /// Report and JSON path: `reports/semgrep.json $.results[3]`.
    pub origin: String,
}

fn sorted<S: Serializer>(map: &BTreeMap<String, Value>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut out = serializer.serialize_map(Some(map.len()))?;
    for (key, value) in map {
        out.serialize_entry(key, &Sorted(value))?;
    }
    out.end()
}

impl Finding {
    /// A finding with the fields every report gives.
    pub fn new(tool: &str, rule: impl Into<String>, message: impl Into<String>) -> Self {
        let (rule, message) = (rule.into(), message.into());
        Finding {
            id: Digest::of(b""),
            tool: tool.to_owned(),
            tool_version: None,
            title: rule.clone(),
            rule,
            message,
            severity: Severity::Unknown,
            severity_original: None,
            cvss: None,
            cvss_vector: None,
            cwe: Vec::new(),
            aliases: Vec::new(),
            target: None,
            file: None,
            language: None,
            start_line: None,
            end_line: None,
            start_column: None,
            end_column: None,
            code: None,
            context: None,
            fix: None,
            help: None,
            package: None,
            metadata: BTreeMap::new(),
            origin: String::new(),
        }
    }

    /// The digest of tool, rule, message, target, place and package: two
    /// reports of the same scan in two formats give the same identity.
    pub fn identity(&self) -> Digest {
        let mut encoder = Encoder::new("retune.finding.1");
        encoder.str(&self.tool).str(&self.rule).str(&self.message);
        let package = self.package.as_ref();
        for text in [
            self.target.as_deref(),
            self.file.as_deref(),
            package.map(|p| p.name.as_str()),
            package.and_then(|p| p.installed.as_deref()),
        ] {
            encoder
                .list(usize::from(text.is_some()))
                .str(text.unwrap_or(""));
        }
        for n in [
            self.start_line,
            self.end_line,
            self.start_column,
            self.end_column,
        ] {
            encoder.list(usize::from(n.is_some())).u64(n.unwrap_or(0));
        }
        encoder.digest_of()
    }
}

/// The `CWE-n` ids in a text such as `CWE-89: Improper …` or `external/cwe/cwe-089`.
pub(super) fn cwe_ids(text: &str) -> Vec<String> {
    let lower = text.to_ascii_lowercase();
    let mut found = Vec::new();
    for (at, _) in lower.match_indices("cwe-") {
        let digits: String = lower[at + 4..]
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        if let Ok(number) = digits.parse::<u32>() {
            found.push(format!("CWE-{number}"));
        }
    }
    found
}

/// The base score of a CVSS vector of version 2.0, 3.0, 3.1 or 4.0; none for
/// another text, and for a vector that lacks a base metric.
pub fn base_score(vector: &str) -> Option<f64> {
    const V2: &[&str] = &["AV", "AC", "Au", "C", "I", "A"];
    const V3: &[&str] = &["AV", "AC", "PR", "UI", "S", "C", "I", "A"];
    const V4: &[&str] = &[
        "AV", "AC", "AT", "PR", "UI", "VC", "VI", "VA", "SC", "SI", "SA",
    ];
    let text = vector.trim().trim_matches(['(', ')']);
    let (version, metrics) = match text.split_once('/') {
        Some((version, metrics)) if version.starts_with("CVSS:") => (version, metrics),
        _ => ("", text),
    };
    let base = match version {
        "" => V2,
        "CVSS:3.0" | "CVSS:3.1" => V3,
        "CVSS:4.0" => V4,
        _ => return None,
    };
    // What is known of exploits or of a user's own systems is no base metric.
    let metric = |name: &&str| {
        metrics
            .split('/')
            .find(|m| m.split_once(':').is_some_and(|(n, _)| n == *name))
    };
    let metrics: Vec<&str> = base.iter().map(metric).collect::<Option<_>>()?;
    let metrics = metrics.join("/");
    let text = if version.is_empty() {
        metrics
    } else {
        format!("{version}/{metrics}")
    };
    let vector: cvss::Cvss = text.parse().ok()?;
    // Scores have one decimal; what binary fractions add is not one.
    Some((vector.score() * 10.0).round() / 10.0)
}

/// The language of a file by its name, or none when the name does not tell.
pub(super) fn language_of(file: &str) -> Option<&'static str> {
    let name = file.rsplit('/').next().unwrap_or(file);
    if name.starts_with("Dockerfile") || name.ends_with(".dockerfile") {
        return Some("dockerfile");
    }
    let (_, extension) = name.rsplit_once('.')?;
    Some(match extension.to_ascii_lowercase().as_str() {
        "kt" | "kts" => "kotlin",
        "java" => "java",
        "ts" | "tsx" => "typescript",
        "js" | "jsx" | "mjs" | "cjs" => "javascript",
        "py" => "python",
        "rs" => "rust",
        "go" => "go",
        "rb" => "ruby",
        "php" => "php",
        "cs" => "csharp",
        "c" | "h" => "c",
        "cc" | "cpp" | "hpp" => "cpp",
        "swift" => "swift",
        "sh" | "bash" => "shell",
        "tf" => "terraform",
        "yml" | "yaml" => "yaml",
        "json" => "json",
        "xml" => "xml",
        "html" => "html",
        "sql" => "sql",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severities_of_all_tools_meet_on_one_scale() {
        assert_eq!(Severity::from_word("ERROR"), Some(Severity::High));
        assert_eq!(Severity::from_word("Moderate"), Some(Severity::Medium));
        assert_eq!(Severity::from_word("weird"), None);
        assert_eq!(Severity::from_score(9.0), Severity::Critical);
        assert_eq!(Severity::from_score(6.9), Severity::Medium);
        assert_eq!(Severity::from_score(0.0), Severity::Info);
        assert!(Severity::Critical > Severity::High);
    }

    #[test]
    fn vectors_of_all_versions_have_the_published_scores() {
        for (vector, score) in [
            // FIRST's own examples: CVE-2002-0392, CVE-2013-1937, CVE-2014-0160, CVE-2022-41741.
            ("AV:N/AC:L/Au:N/C:N/I:N/A:C", 7.8),
            ("CVSS:3.0/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", 6.1),
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:N", 7.5),
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8),
            (
                "CVSS:4.0/AV:L/AC:L/AT:P/PR:L/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N",
                7.3,
            ),
            (
                "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N",
                9.3,
            ),
        ] {
            assert_eq!(base_score(vector), Some(score), "{vector}");
        }
        let v4 = "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N";
        assert_eq!(base_score(&format!("{v4}/E:U")), base_score(v4));
        assert_eq!(base_score("CVSS:3.1/AV:N"), None);
        assert_eq!(base_score("high"), None);
    }

    #[test]
    fn cwe_ids_of_all_spellings() {
        assert_eq!(cwe_ids("CWE-95: Improper …"), ["CWE-95"]);
        assert_eq!(cwe_ids("external/cwe/cwe-089"), ["CWE-89"]);
        assert!(cwe_ids("LOW").is_empty());
    }

    #[test]
    fn languages_by_name() {
        assert_eq!(language_of("a/b/Main.kt"), Some("kotlin"));
        assert_eq!(language_of("docker/Dockerfile.dev"), Some("dockerfile"));
        assert_eq!(language_of("LICENSE"), None);
    }
}
