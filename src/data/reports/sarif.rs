//! SARIF 2.1.0 of any tool.

use serde_json::Value;

use super::node::Node;
use super::{Report, package_line, tool_name};
use crate::data::finding::{Finding, Package, Severity, cwe_ids};
use crate::data::{DataError, Ecosystem};

/// The runs of a SARIF log.
pub fn read(root: &Node<'_>) -> Result<Vec<Report>, DataError> {
    let version = root.field("version")?;
    if version.str()? != "2.1.0" {
        return Err(version.fault(format!(
            "SARIF {} is not supported, only 2.1.0",
            version.str()?
        )));
    }
    root.field("runs")?.items()?.iter().map(run).collect()
}

fn run(run: &Node<'_>) -> Result<Report, DataError> {
    let driver = run.field("tool")?.field("driver")?;
    let tool = tool_name(&driver.text("name")?);
    let version = match driver.opt_text("version")? {
        Some(version) => Some(version),
        None => driver.opt_text("semanticVersion")?,
    };
    let rules = driver.list("rules")?;
    // A run without `results` did not get as far as reporting (§3.14.23).
    let results = run
        .get("results")?
        .ok_or_else(|| run.fault("missing field `results`: the scan did not finish"))?;
    let target = match run.get("properties")? {
        Some(properties) => properties.opt_text("imageName")?,
        None => None,
    };
    let mut findings = Vec::new();
    for result in results.items()? {
        let rule = rule_of(&result, &rules)?;
        let mut finding = finding(&tool, &result, rule)?;
        finding.target.clone_from(&target);
        findings.push(finding);
    }
    Ok(Report {
        tool,
        tool_version: version,
        format: "sarif",
        findings,
    })
}

/// The description of a result's rule: by index, else by id (§3.27.6).
fn rule_of<'r, 'a>(
    result: &Node<'a>,
    rules: &'r [Node<'a>],
) -> Result<Option<&'r Node<'a>>, DataError> {
    if let Some(index) = result.get("ruleIndex")? {
        // −1 stands for "not given".
        if index.value().as_i64() == Some(-1) {
            return Ok(None);
        }
        let at = usize::try_from(index.u64()?).unwrap_or(usize::MAX);
        let message = format!("rule {at} of {}", rules.len());
        return rules.get(at).map(Some).ok_or_else(|| index.fault(message));
    }
    let Some(id) = result.opt_text("ruleId")? else {
        return Ok(None);
    };
    for rule in rules {
        if rule.field("id")?.str()? == id {
            return Ok(Some(rule));
        }
    }
    Ok(None)
}

fn finding(tool: &str, result: &Node<'_>, rule: Option<&Node<'_>>) -> Result<Finding, DataError> {
    let id = match (result.opt_text("ruleId")?, rule) {
        (Some(id), _) => id,
        (None, Some(rule)) => rule.text("id")?,
        (None, None) => return Err(result.fault("missing field `ruleId`")),
    };
    let message = message(&result.field("message")?, rule)?;
    let mut finding = Finding::new(tool, id, message);
    finding.origin = result.origin();
    locate(&mut finding, result)?;
    if let Some(rule) = rule {
        describe(&mut finding, rule)?;
    }
    rate(&mut finding, result, rule)?;
    finding.fix = fix(result)?;
    if tool == "trivy" {
        trivy(&mut finding);
    }
    Ok(finding)
}

/// The text of a message, looked up in the rule when only its id is given.
fn message(message: &Node<'_>, rule: Option<&Node<'_>>) -> Result<String, DataError> {
    if let Some(text) = message.opt_text("text")? {
        return Ok(text);
    }
    if let (Some(id), Some(rule)) = (message.opt_text("id")?, rule) {
        return rule.field("messageStrings")?.field(&id)?.text("text");
    }
    message.text("text")
}

fn locate(finding: &mut Finding, result: &Node<'_>) -> Result<(), DataError> {
    let locations = result.list("locations")?;
    let Some(location) = locations.first() else {
        return Ok(());
    };
    let Some(physical) = location.get("physicalLocation")? else {
        return Ok(());
    };
    if let Some(artifact) = physical.get("artifactLocation")? {
        finding.file = artifact.opt_text("uri")?.map(|uri| decode(&uri));
    }
    if let Some(region) = physical.get("region")? {
        finding.start_line = region.opt_u64("startLine")?;
        finding.end_line = region.opt_u64("endLine")?.or(finding.start_line);
        finding.start_column = region.opt_u64("startColumn")?;
        finding.end_column = region.opt_u64("endColumn")?;
        if let Some(snippet) = region.get("snippet")? {
            finding.code = snippet.opt_text("text")?;
        }
    }
    Ok(())
}

/// A URI as a path: without `file://`, percent escapes resolved.
fn decode(uri: &str) -> String {
    let text = uri.strip_prefix("file://").unwrap_or(uri);
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escape = (bytes[i] == b'%')
            .then(|| text.get(i + 1..i + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(escape.unwrap_or(bytes[i]));
        i += if escape.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

fn describe(finding: &mut Finding, rule: &Node<'_>) -> Result<(), DataError> {
    for name in ["shortDescription", "name", "fullDescription"] {
        let title = match rule.get(name)? {
            Some(node) if node.value().is_string() => Some(node.str()?.to_owned()),
            Some(node) => node.opt_text("text")?,
            None => None,
        };
        if let Some(title) = title {
            finding.title = title;
            break;
        }
    }
    if let Some(help) = rule.get("help")? {
        finding.help = help.opt_text("text")?;
    }
    let Some(properties) = rule.get("properties")? else {
        return Ok(());
    };
    for name in ["tags", "cwe"] {
        for tag in properties.strings(name)? {
            finding.cwe.extend(cwe_ids(&tag));
        }
    }
    if let Some(score) = properties.get("security-severity")? {
        finding.cvss = Some(score.f64()?);
    }
    for (name, value) in properties.object()? {
        finding.metadata.insert(name.clone(), value.clone());
    }
    Ok(())
}

/// The tool's own word where the result carries one, else the score of the
/// rule, else the level: the result's, the rule's, or SARIF's default.
fn rate(
    finding: &mut Finding,
    result: &Node<'_>,
    rule: Option<&Node<'_>>,
) -> Result<(), DataError> {
    if let Some(properties) = result.get("properties")? {
        for name in ["issue_severity", "severity"] {
            let word = properties.object()?.get(name).and_then(Value::as_str);
            if let Some((word, severity)) = word.and_then(|w| Some((w, Severity::from_word(w)?))) {
                finding.severity = severity;
                finding.severity_original = Some(word.to_owned());
                return Ok(());
            }
        }
    }
    if let Some(score) = finding.cvss {
        finding.severity = Severity::from_score(score);
        finding.severity_original = Some(score.to_string());
        return Ok(());
    }
    let mut level = result.opt_text("level")?;
    if let (None, Some(rule)) = (&level, rule)
        && let Some(configuration) = rule.get("defaultConfiguration")?
    {
        level = configuration.opt_text("level")?;
    }
    let level = level.unwrap_or_else(|| "warning".to_owned());
    finding.severity = Severity::from_word(&level)
        .ok_or_else(|| result.fault(format!("unknown level '{level}'")))?;
    finding.severity_original = Some(level);
    Ok(())
}

/// The text the first fix puts in, when it is a single replacement.
fn fix(result: &Node<'_>) -> Result<Option<String>, DataError> {
    let fixes = result.list("fixes")?;
    let Some(fix) = fixes.first() else {
        return Ok(None);
    };
    let changes = fix.field("artifactChanges")?.items()?;
    let [change] = changes.as_slice() else {
        return Ok(None);
    };
    let replacements = change.field("replacements")?.items()?;
    let [replacement] = replacements.as_slice() else {
        return Ok(None);
    };
    match replacement.get("insertedContent")? {
        Some(content) => content.opt_text("text"),
        None => Ok(None),
    }
}

/// What Trivy puts into the lines of its message.
fn trivy(finding: &mut Finding) {
    if let Some(word) = package_line(&finding.message, "Severity")
        && let Some(severity) = Severity::from_word(word)
    {
        finding.severity_original = Some(word.to_owned());
        finding.severity = severity;
    }
    let Some(name) = package_line(&finding.message, "Package") else {
        return;
    };
    let installed = package_line(&finding.message, "Installed Version").map(str::to_owned);
    let fixed: Vec<String> = package_line(&finding.message, "Fixed Version")
        .unwrap_or("")
        .split(',')
        .map(|v| v.trim().to_owned())
        .filter(|v| !v.is_empty())
        .collect();
    let ecosystem = name.contains(':').then(|| "Maven".to_owned());
    finding.package = Some(Package {
        name: name.to_owned(),
        upgrade: installed
            .as_deref()
            .and_then(|v| Ecosystem::of(ecosystem.as_deref()).upgrade(v, &fixed)),
        ecosystem,
        installed,
        fixed,
    });
}
