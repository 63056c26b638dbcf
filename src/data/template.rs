//! Chat rows from findings by templates: one file, one task.
//!
//! A template file is TOML front matter between two `+++` lines and three
//! blocks in the language of minijinja (Jinja2's):
//!
//! ```jinja
//! +++
//! task = "analysis"
//! when = "finding.code is defined"
//! +++
//! {% block system %}You review code.{% endblock %}
//! {% block user %}{{ finding.message }}{% endblock %}
//! {% block assistant %}severity: {{ finding.severity }}{% endblock %}
//! ```
//!
//! `when` is an expression; without it the template takes every finding.
//! `system` may be left out. A template sees `finding` (the record as the
//! findings file holds it) or, of any other table, `record` (its fields by
//! name), `task`, and each table of the step under its label. What is not
//! defined is an error, never an empty string.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value as Jinja};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::finding::Finding;
use super::import::Record;
use super::{Content, DataError, Message, Role, Row};
use crate::files;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Front {
    task: String,
    when: Option<String>,
}

/// One thing that templates make rows of.
pub struct Item {
    /// Under which name templates see it: `finding` or `record`.
    variable: &'static str,
    value: Jinja,
    /// What errors call it.
    name: String,
    /// The origin of its rows.
    origin: String,
    /// What it is counted under when no template takes it.
    kind: String,
    /// Metadata of its rows, beside the template's.
    meta: BTreeMap<String, Value>,
}

impl From<&Finding> for Item {
    fn from(finding: &Finding) -> Self {
        Item {
            variable: "finding",
            value: Jinja::from(Serde(finding)),
            name: format!(
                "finding {} ({}) of {}",
                finding.id.short(),
                finding.rule,
                finding.origin
            ),
            origin: format!("@{}", finding.id),
            kind: finding.rule.clone(),
            meta: finding_meta(finding),
        }
    }
}

impl Item {
    /// A record of a table; `keep` are the fields that become metadata.
    pub fn record(record: Record, keep: &[String]) -> Result<Self, DataError> {
        let origin = format!("{}:{}", record.label, record.place);
        let mut meta = BTreeMap::new();
        for field in keep {
            let value = record.fields.get(field).ok_or_else(|| DataError::Line {
                path: record.label.clone(),
                line: record.place,
                message: format!("missing field `{field}`, which `keep` names"),
            })?;
            meta.insert(field.clone(), value.clone());
        }
        meta.entry("group".to_owned())
            .or_insert_with(|| origin.clone().into());
        Ok(Item {
            variable: "record",
            value: Jinja::from(Serde(&record.fields)),
            name: format!("the record of {origin}"),
            kind: record.label,
            origin,
            meta,
        })
    }
}

/// The templates of a step, ready to be applied.
pub struct Templates {
    environment: Environment<'static>,
    fronts: Vec<(String, Front)>,
}

/// What was built. `summary.json` is this record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuildSummary {
    /// Version of this file's format.
    pub format: u32,
    /// Rows written.
    pub rows: u64,
    /// Rows whose content another row has already.
    pub duplicates: u64,
    /// Findings or records read.
    pub findings: u64,
    /// Findings or records that no template took.
    pub unmatched: u64,
    /// Rules of the findings, or files of the records, that no template took,
    /// with their numbers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unmatched_rules: BTreeMap<String, u64>,
    /// Rows by task.
    pub tasks: BTreeMap<String, u64>,
    /// Rows by template, before duplicates were dropped.
    pub templates: BTreeMap<String, u64>,
}

fn fault(template: &str, line: Option<usize>, message: impl Into<String>) -> DataError {
    let at = line.map_or(String::new(), |line| format!(":{line}"));
    DataError::Invalid(format!(
        "failed to use template {template}{at}: {}",
        message.into()
    ))
}

fn jinja_fault(template: &str, item: Option<&Item>, error: &minijinja::Error) -> DataError {
    let mut message = error.kind().to_string();
    if let Some(detail) = error.detail() {
        message = format!("{message}: {detail}");
    }
    if let Some(item) = item {
        message = format!("{message}, for {}", item.name);
    }
    let hint = if error.kind() == ErrorKind::UndefinedError {
        "; guard it with `is defined`, or narrow the template by `when`"
    } else {
        ""
    };
    fault(template, error.line(), message + hint)
}

/// The front matter, and the template with the front matter's lines left blank
/// so that line numbers stay those of the file.
fn split_front(label: &str, text: &str) -> Result<(Front, String), DataError> {
    let mut lines = text.lines();
    if lines.next().map(str::trim_end) != Some("+++") {
        return Err(fault(
            label,
            Some(1),
            "the file must begin with a `+++` line",
        ));
    }
    let front: Vec<&str> = lines
        .by_ref()
        .take_while(|line| line.trim_end() != "+++")
        .collect();
    let body: Vec<&str> = lines.collect();
    if front.len() + 1 == text.lines().count() {
        return Err(fault(
            label,
            None,
            "the front matter has no closing `+++` line",
        ));
    }
    let parsed = toml::from_str(&front.join("\n")).map_err(|e| {
        fault(
            label,
            None,
            format!("the front matter is at fault: {}", e.message()),
        )
    })?;
    Ok((parsed, "\n".repeat(front.len() + 2) + &body.join("\n")))
}

/// Takes the common indentation off a piece of code.
fn dedent(text: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    let common = lines().map(indent).min().unwrap_or(0);
    let cut = |line: &str| line.get(common..).unwrap_or("").trim_end().to_owned();
    let all: Vec<String> = text.lines().map(cut).collect();
    all.join("\n").trim_matches('\n').to_owned()
}

impl Templates {
    /// Reads template files. `files` holds a label (what errors call it) and a
    /// path each; `tables` are TOML or JSON files that templates see by label.
    pub fn read(
        files: &[(String, PathBuf)],
        tables: &[(String, PathBuf)],
    ) -> Result<Self, DataError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.add_filter("dedent", |text: &str| dedent(text));
        for (label, path) in tables {
            if ["finding", "record", "task"].contains(&label.as_str()) {
                return Err(DataError::Invalid(format!(
                    "a table cannot be called '{label}'"
                )));
            }
            environment.add_global(label.clone(), Jinja::from(Serde(read_table(path)?)));
        }
        let mut fronts = Vec::new();
        for (label, path) in files {
            let (front, body) = split_front(label, &files::read_text(path)?)?;
            environment
                .add_template_owned(label.clone(), body)
                .map_err(|e| jinja_fault(label, None, &e))?;
            fronts.push((label.clone(), front));
        }
        Ok(Templates {
            environment,
            fronts,
        })
    }

    /// The row that one template makes of one thing, if it takes it.
    fn apply(&self, label: &str, front: &Front, item: &Item) -> Result<Option<Row>, DataError> {
        let fail = |error: minijinja::Error| jinja_fault(label, Some(item), &error);
        let scope = Jinja::from(BTreeMap::from([
            (item.variable, item.value.clone()),
            ("task", front.task.as_str().into()),
        ]));
        if let Some(when) = &front.when {
            let expression = self.environment.compile_expression(when).map_err(fail)?;
            if !expression.eval(scope.clone()).map_err(fail)?.is_true() {
                return Ok(None);
            }
        }
        let template = self.environment.get_template(label).map_err(fail)?;
        let mut rendered = template.render_captured(scope).map_err(fail)?;
        let mut messages = Vec::new();
        for role in [Role::System, Role::User, Role::Assistant] {
            let text = match rendered.with_state_mut(|state| state.render_block(role.name())) {
                Ok(text) => text,
                Err(e) if e.kind() == ErrorKind::UnknownBlock && role == Role::System => continue,
                Err(e) if e.kind() == ErrorKind::UnknownBlock => {
                    return Err(fault(
                        label,
                        None,
                        format!("block `{}` is missing", role.name()),
                    ));
                }
                Err(e) => return Err(fail(e)),
            };
            let text = text.trim();
            if text.is_empty() {
                let message = format!("block `{}` is empty for {}", role.name(), item.name);
                return Err(fault(label, None, message));
            }
            messages.push(Message::new(role, text));
        }
        let content = Content::Messages(messages);
        let name = label.rsplit('/').next().unwrap_or(label);
        let mut meta = item.meta.clone();
        meta.insert("task".to_owned(), front.task.clone().into());
        meta.insert("template".to_owned(), name.into());
        Ok(Some(Row::new(content, meta, item.origin.clone())))
    }

    /// Applies every template to every thing (the errors of `items` end it).
    /// Rows go to `sink` in the order of the things, and for one in the order
    /// of the templates; of rows with the same content the first is kept.
    pub fn build(
        &self,
        items: impl Iterator<Item = Result<Item, DataError>>,
        mut sink: impl FnMut(Row) -> Result<(), DataError>,
    ) -> Result<BuildSummary, DataError> {
        let mut summary = BuildSummary {
            format: 1,
            rows: 0,
            duplicates: 0,
            findings: 0,
            unmatched: 0,
            unmatched_rules: BTreeMap::new(),
            tasks: BTreeMap::new(),
            templates: self
                .fronts
                .iter()
                .map(|(label, _)| (label.clone(), 0))
                .collect(),
        };
        // 64 bits of each id.
        let mut seen = HashSet::new();
        for item in items {
            let item = item?;
            summary.findings += 1;
            let mut taken = false;
            for (label, front) in &self.fronts {
                let Some(row) = self.apply(label, front, &item)? else {
                    continue;
                };
                taken = true;
                *summary.templates.entry(label.clone()).or_default() += 1;
                if seen.insert(row.id.0.prefix()) {
                    *summary.tasks.entry(front.task.clone()).or_default() += 1;
                    summary.rows += 1;
                    sink(row)?;
                } else {
                    summary.duplicates += 1;
                }
            }
            if !taken {
                summary.unmatched += 1;
                *summary.unmatched_rules.entry(item.kind).or_default() += 1;
            }
        }
        if summary.rows == 0 {
            return Err(DataError::Invalid(format!(
                "no template took any of the {} findings; check the `when` of each template",
                summary.findings
            )));
        }
        Ok(summary)
    }
}

fn read_table(path: &Path) -> Result<Value, DataError> {
    let text = files::read_text(path)?;
    let json = path.extension().is_some_and(|e| e == "json");
    let parsed = if json {
        serde_json::from_str(&text).map_err(|e| e.to_string())
    } else {
        toml::from_str(&text).map_err(|e| e.to_string())
    };
    parsed.map_err(|e| DataError::Invalid(format!("failed to read table {}: {e}", path.display())))
}

fn finding_meta(finding: &Finding) -> BTreeMap<String, Value> {
    let mut meta = BTreeMap::new();
    let mut put = |field: &str, value: Value| meta.insert(field.to_owned(), value);
    put("tool", finding.tool.clone().into());
    put("rule", finding.rule.clone().into());
    put("severity", finding.severity.name().into());
    put("group", finding.id.to_string().into());
    if !finding.cwe.is_empty() {
        put("cwe", finding.cwe.clone().into());
    }
    if let Some(file) = &finding.file {
        put("file", file.clone().into());
    }
    if let Some(language) = &finding.language {
        put("language", language.clone().into());
    }
    if let Some(package) = &finding.package {
        put("package", package.name.clone().into());
    }
    meta
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "+++\ntask = \"analysis\"\nwhen = \"finding.severity == 'high'\"\n+++\n\
        {% set note = advice[finding.rule] %}\n\
        {% block system %}Be short.{% endblock %}\n\
        {% block user %}{{ finding.message }}\n{{ finding.code | dedent }}{% endblock %}\n\
        {% block assistant %}{{ note.why }}{% endblock %}\n";

    fn finding(rule: &str, severity: super::super::Severity) -> Finding {
        let mut finding = Finding::new("semgrep", rule, "do not");
        finding.severity = severity;
        finding.code = Some("    if x:\n        y()".into());
        finding.file = Some("app/a.py".into());
        finding.id = finding.identity();
        finding
    }

    fn build(template: &str, findings: &[Finding]) -> Result<(Vec<Row>, BuildSummary), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jinja");
        std::fs::write(&path, template).unwrap();
        let table = folder.path().join("advice.toml");
        std::fs::write(&table, "[r1]\nwhy = \"because\"\n").unwrap();
        Templates::read(&[("t/t.jinja".into(), path)], &[("advice".into(), table)])
            .and_then(|templates| {
                let mut rows = Vec::new();
                let items = findings.iter().map(|finding| Ok(Item::from(finding)));
                let summary = templates.build(items, |row| {
                    rows.push(row);
                    Ok(())
                })?;
                Ok((rows, summary))
            })
            .map_err(|e| e.to_string())
    }

    #[test]
    fn rows_say_what_the_template_says() {
        use super::super::Severity::{High, Low};
        let findings = [finding("r1", High), finding("r1", High), finding("r2", Low)];
        let (rows, summary) = build(GOOD, &findings).unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].prompt()[1].content, "do not\nif x:\n    y()");
        assert_eq!(rows[0].answer(), Some("because"));
        assert_eq!(rows[0].origin, format!("@{}", findings[0].id));
        assert_eq!(rows[0].meta_text("file").as_deref(), Some("app/a.py"));
        assert_eq!((summary.duplicates, summary.unmatched), (1, 1));
        assert_eq!(summary.unmatched_rules["r2"], 1);
    }

    #[test]
    fn faults_name_template_line_and_finding() {
        use super::super::Severity::High;
        let one = [finding("r1", High)];
        let other = [finding("r9", High)];
        for (template, findings, parts) in [
            (
                GOOD.replace("finding.message", "finding.mesage"),
                &one,
                vec!["t/t.jinja:7", "undefined", "(r1)"],
            ),
            (
                GOOD.to_owned(),
                &other,
                vec!["t/t.jinja", "undefined", "(r9)"],
            ),
            (
                GOOD.replace("{% endblock %}\n{% block user %}", ""),
                &one,
                vec!["t/t.jinja:"],
            ),
            (
                GOOD.replace("block user", "block usr"),
                &one,
                vec!["block `user` is missing"],
            ),
            (
                GOOD.replace("when", "wen"),
                &one,
                vec!["unknown field `wen`"],
            ),
            (
                GOOD.replace("'high'", "'low'"),
                &one,
                vec!["no template took any of the 1 findings"],
            ),
            (
                GOOD.replacen("+++", "---", 1),
                &one,
                vec!["t/t.jinja:1", "`+++`"],
            ),
            (
                GOOD.replace("{{ note.why }}", " "),
                &one,
                vec!["block `assistant` is empty"],
            ),
        ] {
            let error = build(&template, findings).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{error}\nhas not: {part}");
            }
        }
    }
}
