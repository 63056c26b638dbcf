//! Each reader on a small report, its faults, and the counts of real reports.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::data::Severity;

fn read(report: &Value) -> Result<Vec<Finding>, String> {
    let reports =
        read_report("r.json", report.to_string().as_bytes()).map_err(|e| e.to_string())?;
    Ok(reports.into_iter().flat_map(|r| r.findings).collect())
}

fn one(report: &Value) -> Finding {
    let mut findings = read(report).unwrap();
    assert_eq!(findings.len(), 1);
    findings.remove(0)
}

fn sarif() -> Value {
    json!({"version": "2.1.0", "runs": [{
        "tool": {"driver": {"name": "Semgrep OSS", "semanticVersion": "1.2.3", "rules": [
            {"id": "r", "defaultConfiguration": {"level": "error"}, "shortDescription": {"text": "Short"},
             "properties": {"tags": ["CWE-95: x", "security"]}}]}},
        "results": [{"ruleId": "r", "message": {"text": "m"},
            "locations": [{"physicalLocation": {
                "artifactLocation": {"uri": "file:///a%20b/c.kt"},
                "region": {"startLine": 3, "endLine": 4, "snippet": {"text": "code"}}}}],
            "fixes": [{"artifactChanges": [{"replacements": [{"insertedContent": {"text": "new"}}]}]}]}]}]})
}

#[test]
fn sarif_takes_the_level_from_the_rule_when_the_result_has_none() {
    let finding = one(&sarif());
    assert_eq!(finding.tool, "semgrep");
    assert_eq!(finding.tool_version.as_deref(), Some("1.2.3"));
    assert_eq!(finding.severity, Severity::High);
    assert_eq!(finding.severity_original.as_deref(), Some("error"));
    assert_eq!(finding.cwe, ["CWE-95"]);
    assert_eq!(finding.title, "Short");
    assert_eq!(finding.file.as_deref(), Some("/a b/c.kt"));
    assert_eq!((finding.start_line, finding.end_line), (Some(3), Some(4)));
    assert_eq!(finding.fix.as_deref(), Some("new"));
    assert_eq!(finding.origin, "r.json $.runs[0].results[0]");
}

#[test]
fn every_malformed_sarif_names_file_and_json_path() {
    let remove = |pointer: &str, field: &str| {
        let mut report = sarif();
        report
            .pointer_mut(pointer)
            .unwrap()
            .as_object_mut()
            .unwrap()
            .remove(field);
        report
    };
    let set = |pointer: &str, value: Value| {
        let mut report = sarif();
        *report.pointer_mut(pointer).unwrap() = value;
        report
    };
    for (report, at, message) in [
        (remove("", "version"), "at $:", "missing field `version`"),
        (
            set("/version", json!("1.0.0")),
            "at $.version:",
            "SARIF 1.0.0 is not supported",
        ),
        (
            remove("/runs/0", "results"),
            "at $.runs[0]:",
            "the scan did not finish",
        ),
        (
            set("/runs/0/results", json!({})),
            "at $.runs[0].results:",
            "expected a list, found an object",
        ),
        (
            remove("/runs/0/results/0", "message"),
            "at $.runs[0].results[0]:",
            "missing field `message`",
        ),
        (
            set("/runs/0/results/0/ruleId", json!(7)),
            "at $.runs[0].results[0].ruleId:",
            "expected a string, found a number",
        ),
        (
            set(
                "/runs/0/results/0/locations/0/physicalLocation/region/startLine",
                json!(-1),
            ),
            "region.startLine:",
            "expected a whole number",
        ),
        (
            set(
                "/runs/0/tool/driver/rules/0/defaultConfiguration/level",
                json!("awful"),
            ),
            "at $.runs[0].results[0]:",
            "unknown level 'awful'",
        ),
        (
            set("/runs/0/tool/driver", json!({})),
            "driver:",
            "missing field `name`",
        ),
    ] {
        let error = read(&report).unwrap_err();
        assert!(
            error.contains("r.json") && error.contains(at),
            "{error}\nhas not: {at}"
        );
        assert!(error.contains(message), "{error}\nhas not: {message}");
    }
    let cut = read_report("r.json", &sarif().to_string().as_bytes()[..100]).unwrap_err();
    assert!(
        cut.to_string().contains("r.json at line 1 column 100"),
        "{cut}"
    );
    assert!(
        read(&json!({"hello": 1}))
            .unwrap_err()
            .contains("no report of a known kind")
    );
}

#[test]
fn semgrep_json() {
    let report = json!({"version": "1", "errors": [], "paths": {}, "results": [{
        "check_id": "r", "path": "a.py", "start": {"line": 1, "col": 2}, "end": {"line": 1, "col": 9},
        "extra": {"message": "m", "severity": "ERROR", "lines": "requires login", "fix": "new",
                  "metadata": {"cwe": "CWE-327: x", "own": 1}}}]});
    let finding = one(&report);
    assert_eq!((finding.severity, finding.code), (Severity::High, None));
    assert_eq!(finding.cwe, ["CWE-327"]);
    assert_eq!(finding.metadata["own"], 1);
    let mut broken = report.clone();
    broken["results"][0]["extra"]
        .as_object_mut()
        .unwrap()
        .remove("severity");
    let error = read(&broken).unwrap_err();
    assert!(
        error.contains("r.json at $.results[0].extra: missing field `severity`"),
        "{error}"
    );
}

#[test]
fn bandit_json() {
    let finding = one(&json!({"errors": [], "metrics": {}, "results": [{
        "test_id": "B303", "test_name": "md5", "issue_text": "weak", "filename": "./a.py",
        "line_number": 7, "line_range": [7, 8], "col_offset": 4, "issue_severity": "MEDIUM",
        "issue_cwe": {"id": 327}, "code": "6 \n7     md5()\n8     )\n"}]}));
    assert_eq!((finding.start_line, finding.end_line), (Some(7), Some(8)));
    assert_eq!(finding.code.as_deref(), Some("\n    md5()\n    )"));
    assert_eq!(finding.cwe, ["CWE-327"]);
}

#[test]
fn checkov_json_single_many_and_empty() {
    let single = json!({"check_type": "dockerfile", "summary": {"checkov_version": "3"}, "results": {
        "failed_checks": [{"check_id": "CKV_DOCKER_3", "check_name": "user", "file_path": "/Dockerfile",
            "file_line_range": [1, 5], "resource": "/Dockerfile.", "severity": null,
            "code_block": [[1, "FROM a\n"], [2, "RUN b\n"]]}]}});
    let finding = one(&single);
    assert_eq!(finding.severity, Severity::Unknown);
    assert_eq!(finding.file.as_deref(), Some("Dockerfile"));
    assert_eq!(finding.code.as_deref(), Some("FROM a\nRUN b\n"));
    assert_eq!(read(&json!([single, single])).unwrap().len(), 2);
    assert_eq!(
        read(&json!({"passed": 0, "failed": 0, "checkov_version": "3"}))
            .unwrap()
            .len(),
        0
    );
}

#[test]
fn trivy_json_vulnerability_misconfiguration_and_secret() {
    let report = json!({"SchemaVersion": 2, "ArtifactName": "img:1", "ArtifactType": "container_image",
        "Results": [{"Target": "app.jar", "Type": "jar",
            "Vulnerabilities": [{"VulnerabilityID": "CVE-1", "PkgName": "io.netty:netty", "Title": "t",
                "InstalledVersion": "4.1.106.Final", "FixedVersion": "4.2.4.Final, 4.1.124.Final",
                "Severity": "HIGH", "CweIDs": ["CWE-770"], "CVSS": {"ghsa": {"V3Score": 5.0}, "nvd": {"V3Score": 7.5}}}],
            "Misconfigurations": [{"ID": "DS002", "Title": "root", "Severity": "HIGH", "Resolution": "add USER"}],
            "Secrets": [{"RuleID": "key", "Title": "Key", "Severity": "CRITICAL", "StartLine": 2}]}]});
    let findings = read(&report).unwrap();
    let package = findings[0].package.as_ref().unwrap();
    assert_eq!(package.upgrade.as_deref(), Some("4.1.124.Final"));
    assert_eq!(findings[0].cvss, Some(7.5));
    assert_eq!(findings[0].target.as_deref(), Some("img:1"));
    assert_eq!(findings[1].help.as_deref(), Some("add USER"));
    assert_eq!(findings[2].severity, Severity::Critical);
}

#[test]
fn osv_zap_and_gitleaks_json() {
    let finding = one(
        &json!({"results": [{"source": {"path": "/w/lock", "type": "lockfile"}, "packages": [{
        "package": {"name": "p", "version": "1.0", "ecosystem": "PyPI"},
        "groups": [{"ids": ["G-1"], "max_severity": "9.8"}],
        "vulnerabilities": [{"id": "G-1", "aliases": ["CVE-2", "CVE-1"], "affected": [
            {"package": {"name": "p", "ecosystem": "PyPI"}, "ranges": [{"type": "ECOSYSTEM",
             "events": [{"introduced": "0"}, {"fixed": "1.0.1"}]}]},
            {"package": {"name": "other", "ecosystem": "PyPI"}, "ranges": [{"type": "ECOSYSTEM",
             "events": [{"fixed": "9"}]}]}]}]}]}]}),
    );
    assert_eq!(finding.severity, Severity::Critical);
    assert_eq!(finding.package.unwrap().fixed, ["1.0.1"]);
    let finding = one(
        &json!({"@programName": "ZAP", "@version": "2", "site": [{"@name": "http://h", "alerts": [{
        "alertRef": "1-1", "name": "n", "riskcode": "2", "cweid": "942", "desc": "<p>a &lt;b</p>",
        "instances": [{"uri": "http://h/x", "method": "GET"}]}]}]}),
    );
    assert_eq!(
        (finding.message.as_str(), finding.severity),
        ("a <b", Severity::Medium)
    );
    let finding = one(
        &json!([{"RuleID": "r", "Description": "d", "File": "f", "StartLine": 1, "Secret": "s3"}]),
    );
    assert!(!serde_json::to_string(&finding).unwrap().contains("s3"));
    assert_eq!(read(&json!([])).unwrap().len(), 0);
}

fn import(
    reports: &[Value],
    options: &ImportOptions,
) -> Result<(Vec<Finding>, ImportSummary), DataError> {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<(String, PathBuf)> = reports
        .iter()
        .enumerate()
        .map(|(i, report)| {
            let path = folder.path().join(i.to_string());
            std::fs::write(&path, report.to_string()).unwrap();
            (format!("r{i}"), path)
        })
        .collect();
    import_findings(&files, options)
}

#[test]
fn duplicates_are_dropped_and_counted_and_counts_are_held_to_the_baseline() {
    let mut options = ImportOptions::default();
    options.strip.push("/a b/".into());
    options.expect.insert("semgrep".into(), 2);
    let (findings, summary) = import(&[sarif(), sarif()], &options).unwrap();
    assert_eq!((summary.raw, summary.duplicates, findings.len()), (2, 1, 1));
    assert_eq!(findings[0].file.as_deref(), Some("c.kt"));
    assert_eq!(findings[0].language.as_deref(), Some("kotlin"));
    options.expect.insert("semgrep".into(), 107);
    let error = import(&[sarif()], &options).unwrap_err().to_string();
    assert!(
        error.contains("expected 107 findings of semgrep"),
        "{error}"
    );
    options.expect = BTreeMap::from([("trivy".into(), 1)]);
    let error = import(&[sarif()], &options).unwrap_err().to_string();
    assert!(
        error.contains("no report of it was read (read: semgrep)"),
        "{error}"
    );
}

#[test]
fn source_gives_code_and_context_and_a_wrong_source_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("c.kt"), "1\n2\n3\n4\n5\n6\n").unwrap();
    let mut options = ImportOptions {
        strip: vec!["/a b/".into()],
        source: Some(root.path().to_owned()),
        context_lines: 1,
        ..ImportOptions::default()
    };
    let (findings, summary) = import(&[sarif()], &options).unwrap();
    assert_eq!(findings[0].code.as_deref(), Some("3\n4"));
    assert_eq!(findings[0].context.as_deref(), Some("2\n3\n4\n5"));
    assert_eq!(summary.without_source, Some(0));
    std::fs::write(root.path().join("c.kt"), "1\n").unwrap();
    let error = import(&[sarif()], &options).unwrap_err().to_string();
    assert!(error.contains("not the one that was scanned"), "{error}");
    options.strip.clear();
    let (_, summary) = import(&[sarif()], &options).unwrap();
    assert_eq!(
        summary.without_source,
        Some(1),
        "an absolute path is not followed"
    );
}

/// The reports of a real project, kept outside of the repository.
#[test]
fn real_reports_give_the_known_counts() {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/webauthn/scanner_reports");
    if !root.is_dir() {
        eprintln!("skipped: {} is not there", root.display());
        return;
    }
    let mut files: Vec<(String, PathBuf)> = Vec::new();
    for folder in std::fs::read_dir(&root).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            files.push((
                path.strip_prefix(&root).unwrap().display().to_string(),
                path,
            ));
        }
    }
    files.sort();
    let (findings, summary) = import_findings(&files, &ImportOptions::default()).unwrap();
    let counts = |tool: &str| {
        let counts = &summary.tools[tool];
        (counts.raw, counts.duplicates, counts.findings)
    };
    assert_eq!(counts("trivy"), (168, 84, 84));
    assert_eq!(
        counts("semgrep"),
        (214, 107, 107),
        "JSON and SARIF hold the same findings"
    );
    assert_eq!(counts("osv-scanner"), (46, 0, 46));
    assert_eq!(counts("checkov"), (10, 0, 10));
    assert_eq!(counts("zap"), (9, 0, 9));
    assert_eq!(counts("gitleaks"), (0, 0, 0));
    assert_eq!(findings.len(), 84 + 107 + 46 + 10 + 9);
    for finding in &findings {
        let Some(package) = &finding.package else {
            continue;
        };
        let (Some(installed), Some(upgrade)) = (&package.installed, &package.upgrade) else {
            continue;
        };
        assert!(
            crate::data::Ecosystem::Maven
                .compare(upgrade, installed)
                .is_gt()
        );
    }
}
