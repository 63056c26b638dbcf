//! The tools' own JSON: Semgrep, Trivy, OSV-Scanner, Checkov, ZAP, Gitleaks and Bandit.

use std::collections::BTreeMap;

use super::node::Node;
use super::{Report, join};
use crate::data::finding::{Finding, Package, Severity, base_score, cwe_ids};
use crate::data::{DataError, Ecosystem};

fn report(tool: &str, tool_version: Option<String>, findings: Vec<Finding>) -> Report {
    Report {
        tool: tool.to_owned(),
        tool_version,
        format: "json",
        findings,
    }
}

/// Sets both severities from a tool's own word.
fn rate(finding: &mut Finding, word: &Node<'_>) -> Result<(), DataError> {
    let text = word.str()?;
    finding.severity = Severity::from_word(text)
        .ok_or_else(|| word.fault(format!("unknown severity '{text}'")))?;
    finding.severity_original = Some(text.to_owned());
    Ok(())
}

/// Semgrep `--json`.
pub fn semgrep(root: &Node<'_>) -> Result<Report, DataError> {
    let version = root.opt_text("version")?;
    let results = root.field("results")?.items()?;
    let findings = results.iter().map(semgrep_result);
    Ok(report(
        "semgrep",
        version,
        findings.collect::<Result<_, _>>()?,
    ))
}

fn semgrep_result(result: &Node<'_>) -> Result<Finding, DataError> {
    let extra = result.field("extra")?;
    let mut finding = Finding::new("semgrep", result.text("check_id")?, extra.text("message")?);
    finding.origin = result.origin();
    finding.file = Some(result.text("path")?);
    let (start, end) = (result.field("start")?, result.field("end")?);
    finding.start_line = Some(start.field("line")?.u64()?);
    finding.end_line = Some(end.field("line")?.u64()?);
    finding.start_column = start.opt_u64("col")?;
    finding.end_column = end.opt_u64("col")?;
    rate(&mut finding, &extra.field("severity")?)?;
    // Without an account Semgrep writes "requires login" here.
    finding.code = extra
        .opt_text("lines")?
        .filter(|text| text != "requires login");
    finding.fix = extra.opt_text("fix")?;
    if let Some(metadata) = extra.get("metadata")? {
        for cwe in metadata.strings("cwe")? {
            finding.cwe.extend(cwe_ids(&cwe));
        }
        for (name, value) in metadata.object()? {
            finding.metadata.insert(name.clone(), value.clone());
        }
    }
    Ok(finding)
}

/// Bandit `-f json`.
pub fn bandit(root: &Node<'_>) -> Result<Report, DataError> {
    let results = root.field("results")?.items()?;
    let findings = results.iter().map(bandit_result);
    Ok(report("bandit", None, findings.collect::<Result<_, _>>()?))
}

fn bandit_result(result: &Node<'_>) -> Result<Finding, DataError> {
    let mut finding = Finding::new(
        "bandit",
        result.text("test_id")?,
        result.text("issue_text")?,
    );
    finding.origin = result.origin();
    finding.title = result.text("test_name")?;
    finding.file = Some(result.text("filename")?);
    finding.start_line = Some(result.field("line_number")?.u64()?);
    let range = result.list("line_range")?;
    finding.end_line = match range.last() {
        Some(last) => Some(last.u64()?),
        None => finding.start_line,
    };
    // Bandit counts columns from 0.
    finding.start_column = result.opt_u64("col_offset")?.map(|n| n + 1);
    finding.end_column = result.opt_u64("end_col_offset")?.map(|n| n + 1);
    rate(&mut finding, &result.field("issue_severity")?)?;
    finding.code = result.opt_text("code")?.map(|code| without_numbers(&code));
    if let Some(cwe) = result.get("issue_cwe")?
        && let Some(id) = cwe.opt_u64("id")?
    {
        finding.cwe.push(format!("CWE-{id}"));
    }
    Ok(finding)
}

/// Bandit's excerpt without the line numbers it puts before each line.
fn without_numbers(code: &str) -> String {
    let strip = |line: &str| {
        let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
        rest.strip_prefix(' ').unwrap_or(rest).to_owned()
    };
    code.lines().map(strip).collect::<Vec<_>>().join("\n")
}

/// Checkov `-o json`: one report, a list of them, or the empty summary.
pub fn checkov(root: &Node<'_>) -> Result<Report, DataError> {
    let reports = if root.value().is_array() {
        root.items()?
    } else {
        vec![root.clone()]
    };
    let (mut version, mut findings) = (None, Vec::new());
    for part in reports {
        let Some(results) = part.get("results")? else {
            // Nothing was found to check: {"passed": 0, "failed": 0, …}.
            version = part.opt_text("checkov_version")?.or(version);
            continue;
        };
        if let Some(summary) = part.get("summary")? {
            version = summary.opt_text("checkov_version")?.or(version);
        }
        for check in results.field("failed_checks")?.items()? {
            findings.push(checkov_check(&check)?);
        }
    }
    Ok(report("checkov", version, findings))
}

fn checkov_check(check: &Node<'_>) -> Result<Finding, DataError> {
    let name = check.text("check_name")?;
    let message = match check.opt_text("resource")? {
        Some(resource) => format!("{name} (resource {resource})"),
        None => name.clone(),
    };
    let mut finding = Finding::new("checkov", check.text("check_id")?, message);
    finding.origin = check.origin();
    finding.title = name;
    let file = check.text("file_path")?;
    finding.file = Some(file.trim_start_matches('/').to_owned());
    if let Some(range) = check.get("file_line_range")? {
        let lines = range.items()?;
        // Line 0 stands for the file as a whole.
        let first = lines.first().map(Node::u64).transpose()?;
        finding.start_line = first.map(|line| line.max(1));
        finding.end_line = lines.last().map(Node::u64).transpose()?;
    }
    if let Some(severity) = check.get("severity")? {
        rate(&mut finding, &severity)?;
    }
    let mut code = String::new();
    for line in check.list("code_block")? {
        if let [_, text] = line.items()?.as_slice() {
            code.push_str(text.str()?);
        }
    }
    finding.code = (!code.is_empty()).then_some(code);
    finding.help = check.opt_text("guideline")?;
    Ok(finding)
}

/// Trivy `--format json`.
pub fn trivy(root: &Node<'_>) -> Result<Report, DataError> {
    let artifact = root.opt_text("ArtifactName")?;
    let image = root.opt_text("ArtifactType")?.as_deref() == Some("container_image");
    let mut findings = Vec::new();
    for result in root.list("Results")? {
        let file = result.text("Target")?;
        let ecosystem = result.opt_text("Type")?;
        for node in result.list("Vulnerabilities")? {
            findings.push(trivy_vulnerability(&node, ecosystem.as_deref())?);
        }
        for node in result.list("Misconfigurations")? {
            findings.push(trivy_misconfiguration(&node)?);
        }
        for node in result.list("Secrets")? {
            findings.push(trivy_secret(&node)?);
        }
        for finding in &mut findings {
            finding.file.get_or_insert_with(|| file.clone());
        }
    }
    if image {
        for finding in &mut findings {
            finding.target.clone_from(&artifact);
        }
    }
    let version = match root.get("Trivy")? {
        Some(trivy) => trivy.opt_text("Version")?,
        None => None,
    };
    Ok(report("trivy", version, findings))
}

fn trivy_vulnerability(node: &Node<'_>, ecosystem: Option<&str>) -> Result<Finding, DataError> {
    let rule = node.text("VulnerabilityID")?;
    let title = node.opt_text("Title")?;
    let description = node.opt_text("Description")?;
    let message = description
        .or_else(|| title.clone())
        .unwrap_or_else(|| rule.clone());
    let mut finding = Finding::new("trivy", rule, message);
    finding.origin = node.origin();
    if let Some(title) = title {
        finding.title = title;
    }
    rate(&mut finding, &node.field("Severity")?)?;
    finding.file = node.opt_text("PkgPath")?;
    for cwe in node.strings("CweIDs")? {
        finding.cwe.extend(cwe_ids(&cwe));
    }
    let installed = node.opt_text("InstalledVersion")?;
    let fixed: Vec<String> = node
        .opt_text("FixedVersion")?
        .iter()
        .flat_map(|text| text.split(','))
        .map(|v| v.trim().to_owned())
        .filter(|v| !v.is_empty())
        .collect();
    finding.package = Some(Package {
        name: node.text("PkgName")?,
        ecosystem: ecosystem.map(str::to_owned),
        upgrade: installed
            .as_deref()
            .and_then(|v| Ecosystem::of(ecosystem).upgrade(v, &fixed)),
        installed,
        fixed,
    });
    if let Some(scores) = node.get("CVSS")? {
        cvss_of_trivy(&mut finding, &scores)?;
    }
    Ok(finding)
}

/// The score of the national database when it is there, else of the first source by name.
fn cvss_of_trivy(finding: &mut Finding, scores: &Node<'_>) -> Result<(), DataError> {
    let mut sources: Vec<&String> = scores.object()?.keys().collect();
    sources.sort_by_key(|name| (name.as_str() != "nvd", name.as_str()));
    for source in sources {
        let source = scores.field(source)?;
        for version in ["V40", "V3", "V2"] {
            let vector = source.opt_text(&format!("{version}Vector"))?;
            let score = match source.get(&format!("{version}Score"))? {
                Some(score) => Some(score.f64()?),
                None => vector.as_deref().and_then(base_score),
            };
            if score.is_some() {
                (finding.cvss, finding.cvss_vector) = (score, vector);
                return Ok(());
            }
        }
    }
    Ok(())
}

fn trivy_misconfiguration(node: &Node<'_>) -> Result<Finding, DataError> {
    let message = match node.opt_text("Message")? {
        Some(message) => message,
        None => node.text("Title")?,
    };
    let mut finding = Finding::new("trivy", node.text("ID")?, message);
    finding.origin = node.origin();
    finding.title = node.text("Title")?;
    finding.help = node.opt_text("Resolution")?;
    rate(&mut finding, &node.field("Severity")?)?;
    if let Some(cause) = node.get("CauseMetadata")? {
        finding.start_line = cause.opt_u64("StartLine")?;
        finding.end_line = cause.opt_u64("EndLine")?;
    }
    Ok(finding)
}

fn trivy_secret(node: &Node<'_>) -> Result<Finding, DataError> {
    let mut finding = Finding::new("trivy", node.text("RuleID")?, node.text("Title")?);
    finding.origin = node.origin();
    finding.title = node.text("Title")?;
    rate(&mut finding, &node.field("Severity")?)?;
    finding.start_line = node.opt_u64("StartLine")?;
    finding.end_line = node.opt_u64("EndLine")?;
    finding.code = node.opt_text("Match")?;
    Ok(finding)
}

/// OSV-Scanner `--format json`.
pub fn osv(root: &Node<'_>) -> Result<Report, DataError> {
    let mut findings = Vec::new();
    for result in root.field("results")?.items()? {
        let source = result.field("source")?.text("path")?;
        for entry in result.field("packages")?.items()? {
            let package = entry.field("package")?;
            let scores = osv_scores(&entry)?;
            for vulnerability in entry.list("vulnerabilities")? {
                let mut finding = osv_vulnerability(&vulnerability, &package, &scores)?;
                finding.file = Some(source.clone());
                findings.push(finding);
            }
        }
    }
    Ok(report("osv-scanner", None, findings))
}

/// The highest score of each vulnerability's group.
fn osv_scores(entry: &Node<'_>) -> Result<BTreeMap<String, f64>, DataError> {
    let mut scores = BTreeMap::new();
    for group in entry.list("groups")? {
        if group.opt_text("max_severity")?.is_none() {
            continue;
        }
        let score = group.field("max_severity")?.f64()?;
        for id in group.strings("ids")? {
            scores.insert(id, score);
        }
    }
    Ok(scores)
}

fn osv_vulnerability(
    node: &Node<'_>,
    package: &Node<'_>,
    scores: &BTreeMap<String, f64>,
) -> Result<Finding, DataError> {
    let id = node.text("id")?;
    let summary = node.opt_text("summary")?;
    let details = node.opt_text("details")?;
    let message = summary
        .clone()
        .or(details.clone())
        .unwrap_or_else(|| id.clone());
    let mut finding = Finding::new("osv-scanner", id, message);
    finding.origin = node.origin();
    if let Some(summary) = summary {
        finding.title = summary;
    }
    finding.help = details;
    finding.aliases = node.strings("aliases")?;
    finding.cvss = scores.get(&finding.rule).copied();
    if let Some(severity) = node.list("severity")?.last() {
        finding.cvss_vector = severity.opt_text("score")?;
        finding.severity_original.clone_from(&finding.cvss_vector);
    }
    if finding.cvss.is_none() {
        finding.cvss = finding.cvss_vector.as_deref().and_then(base_score);
    }
    finding.severity = finding.cvss.map_or(Severity::Unknown, Severity::from_score);
    if let Some(specific) = node.get("database_specific")? {
        for cwe in specific.strings("cwe_ids")? {
            finding.cwe.extend(cwe_ids(&cwe));
        }
        if let Some(word) = specific.get("severity")?
            && word.value().is_string()
        {
            rate(&mut finding, &word)?;
        }
    }
    finding.package = Some(osv_package(node, package)?);
    Ok(finding)
}

/// The package with every version that some range of the advisory calls fixed.
fn osv_package(node: &Node<'_>, package: &Node<'_>) -> Result<Package, DataError> {
    let (name, ecosystem) = (package.text("name")?, package.opt_text("ecosystem")?);
    let mut fixed = Vec::new();
    for affected in node.list("affected")? {
        let Some(of) = affected.get("package")? else {
            continue;
        };
        if of.text("name")? != name || of.opt_text("ecosystem")? != ecosystem {
            continue;
        }
        for range in affected.list("ranges")? {
            if range.opt_text("type")?.as_deref() == Some("GIT") {
                continue;
            }
            for event in range.list("events")? {
                fixed.extend(event.opt_text("fixed")?);
            }
        }
    }
    let installed = package.opt_text("version")?;
    Ok(Package {
        name,
        upgrade: installed
            .as_deref()
            .and_then(|v| Ecosystem::of(ecosystem.as_deref()).upgrade(v, &fixed)),
        ecosystem,
        installed,
        fixed,
    })
}

/// ZAP's traditional JSON report: one finding an alert, its instances in the metadata.
pub fn zap(root: &Node<'_>) -> Result<Report, DataError> {
    let mut findings = Vec::new();
    for site in root.field("site")?.items()? {
        let name = site.text("@name")?;
        for alert in site.field("alerts")?.items()? {
            let mut finding = zap_alert(&alert)?;
            finding.target = Some(name.clone());
            findings.push(finding);
        }
    }
    Ok(report("zap", root.opt_text("@version")?, findings))
}

fn zap_alert(alert: &Node<'_>) -> Result<Finding, DataError> {
    let rule = match alert.opt_text("alertRef")? {
        Some(reference) => reference,
        None => alert.text("pluginid")?,
    };
    let mut finding = Finding::new("zap", rule, plain(&alert.text("desc")?));
    finding.origin = alert.origin();
    finding.title = alert.text("name")?;
    finding.help = alert.opt_text("solution")?.map(|html| plain(&html));
    let risk = alert.field("riskcode")?;
    finding.severity = match risk.u64()? {
        0 => Severity::Info,
        1 => Severity::Low,
        2 => Severity::Medium,
        3 => Severity::High,
        n => return Err(risk.fault(format!("unknown risk code {n}"))),
    };
    finding.severity_original = alert.opt_text("riskdesc")?;
    // -1 and 0 stand for "no weakness assigned".
    if let Some(id) = alert
        .opt_text("cweid")?
        .and_then(|id| id.parse::<u32>().ok())
        && id > 0
    {
        finding.cwe.push(format!("CWE-{id}"));
    }
    let instances = alert.list("instances")?;
    if let Some(first) = instances.first() {
        finding.file = first.opt_text("uri")?;
        finding.code = first.opt_text("evidence")?;
        finding
            .metadata
            .insert("instances".into(), instances.len().into());
        for name in ["method", "param", "attack"] {
            if let Some(text) = first.opt_text(name)? {
                finding.metadata.insert(name.into(), text.into());
            }
        }
    }
    Ok(finding)
}

/// Text without tags, and the usual entities resolved.
fn plain(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut inside = false;
    for c in html.chars() {
        match c {
            '<' => inside = true,
            '>' if inside => {
                inside = false;
                text.push(' ');
            }
            c if !inside => text.push(c),
            _ => {}
        }
    }
    let text = text
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&amp;", "&");
    join(text.split_whitespace())
}

/// Gitleaks `--report-format json`. The secret itself is never taken over.
pub fn gitleaks(root: &Node<'_>) -> Result<Report, DataError> {
    let results = root.items()?;
    let findings = results.iter().map(gitleaks_result);
    Ok(report(
        "gitleaks",
        None,
        findings.collect::<Result<_, _>>()?,
    ))
}

fn gitleaks_result(result: &Node<'_>) -> Result<Finding, DataError> {
    let mut finding = Finding::new(
        "gitleaks",
        result.text("RuleID")?,
        result.text("Description")?,
    );
    finding.origin = result.origin();
    finding.title.clone_from(&finding.message);
    finding.file = Some(result.text("File")?);
    finding.start_line = Some(result.field("StartLine")?.u64()?);
    finding.end_line = result.opt_u64("EndLine")?.or(finding.start_line);
    finding.start_column = result.opt_u64("StartColumn")?;
    finding.end_column = result.opt_u64("EndColumn")?;
    finding.cwe.push("CWE-798".to_owned());
    Ok(finding)
}
