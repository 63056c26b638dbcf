//! `data.scan`: secrets and personal data in rows.

use std::collections::BTreeMap;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{labelled, write_json};
use crate::data::{self, Allowed, Personal, RuleSet, ScanAction, ScanFiles, ScanOptions};
use crate::files;
use crate::step::{Context, FieldError, InPort, OutPort, PortType, Resources, Step, StepError};

/// The kind.
pub struct DataScan;

/// What happens to what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It stays and is listed; such data cannot be released.
    Report,
    /// It is replaced by a placeholder, the same everywhere.
    Redact,
    /// The step fails.
    Fail,
    /// It is not looked for; such data cannot be released.
    Off,
}

/// Something that may stay, and why.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// Why it may stay.
    reason: String,
    /// The rule or kind of personal data that this is about; all without.
    #[serde(default)]
    rule: Option<String>,
    /// A regular expression that what was found holds.
    #[serde(default)]
    regex: Option<String>,
    /// The fingerprint of a secret, as a report says it.
    #[serde(default)]
    fingerprint: Option<String>,
    /// The origin or id of a row.
    #[serde(default)]
    row: Option<String>,
}

/// Parameters of `data.scan`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// What happens to secrets: keys, tokens, passwords.
    #[serde(default = "fail")]
    secrets: Action,
    /// What happens to personal data: e-mail addresses (`email`), telephone
    /// numbers (`phone`), public IP addresses (`ip`), payment cards (`card`),
    /// account numbers (`iban`), names of home directories (`home`).
    #[serde(default = "redact")]
    personal: Action,
    /// Other actions, by the name of a rule or a kind of personal data.
    #[serde(default)]
    actions: BTreeMap<String, Action>,
    /// Whether the built-in rules for secrets are used beside those of `rules`.
    #[serde(default = "yes")]
    builtin: bool,
    /// What may stay.
    #[serde(default)]
    allow: Vec<Allow>,
    /// How many hits the page shows; `hits.jsonl` has all.
    #[serde(default = "fifty")]
    examples: usize,
}

fn fail() -> Action {
    Action::Fail
}

fn redact() -> Action {
    Action::Redact
}

fn yes() -> bool {
    true
}

fn fifty() -> usize {
    50
}

fn action(action: Action) -> ScanAction {
    match action {
        Action::Report => ScanAction::Report,
        Action::Redact => ScanAction::Redact,
        Action::Fail => ScanAction::Fail,
        Action::Off => ScanAction::Off,
    }
}

impl Params {
    fn allowed(&self) -> Result<Vec<Allowed>, FieldError> {
        let one = |allow: &Allow| {
            let about = [&allow.regex, &allow.fingerprint, &allow.row, &allow.rule];
            if about.iter().all(|field| field.is_none()) {
                let message = "an entry without `rule`, `regex`, `fingerprint` or `row` would allow everything";
                return Err(FieldError::new("allow", message));
            }
            if allow.reason.trim().is_empty() {
                return Err(FieldError::new("allow", "an entry needs a `reason`"));
            }
            let compile = |regex: &String| {
                let compiled = Regex::new(regex);
                compiled.map_err(|e| FieldError::new("allow", format!("'{regex}': {e}")))
            };
            Ok(Allowed {
                rule: allow.rule.clone(),
                regex: allow.regex.as_ref().map(compile).transpose()?,
                fingerprint: allow.fingerprint.clone(),
                row: allow.row.clone(),
                reason: allow.reason.clone(),
            })
        };
        self.allow.iter().map(one).collect()
    }

    fn options(&self, rules: RuleSet) -> Result<ScanOptions, StepError> {
        let known = |name: &str| {
            rules.rules.iter().any(|rule| rule.id == name)
                || Personal::ALL.iter().any(|kind| kind.name() == name)
        };
        if let Some(name) = self.actions.keys().find(|name| !known(name)) {
            let message = format!("`actions`: there is no rule or kind of personal data '{name}'");
            return Err(StepError::new(message));
        }
        Ok(ScanOptions {
            secrets: action(self.secrets),
            personal: action(self.personal),
            actions: self
                .actions
                .iter()
                .map(|(name, to)| (name.clone(), action(*to)))
                .collect(),
            allowed: self.allowed().map_err(StepError::from)?,
            examples: self.examples,
            rules,
        })
    }
}

impl Step for DataScan {
    type Params = Params;
    const KIND: &'static str = "data.scan";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Looks for secrets and personal data in rows, by gitleaks' rules and its own; reports, redacts or fails.";

    fn inputs() -> Vec<InPort> {
        vec![
            InPort::one("rows", PortType::Dataset, "the rows to look through"),
            InPort::labelled("rules", PortType::File, "rule files of gitleaks (TOML)"),
        ]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("rows", PortType::Dataset, "rows.jsonl"),
            OutPort::new("hits", PortType::File, "hits.jsonl"),
            OutPort::new("report", PortType::Metrics, "report.json"),
            OutPort::new("page", PortType::Document, "report.html"),
        ]
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        params.allowed().map(drop)
    }

    fn resources(_: &Params) -> Resources {
        Resources::all_cpus()
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let mut rules = match params.builtin {
            true => RuleSet::builtin()?,
            false => RuleSet::default(),
        };
        for (label, path) in labelled(context, "rules") {
            rules.add_gitleaks(&label, &files::read_text(&path)?)?;
        }
        let options = params.options(rules)?;
        let [rows, hits] = ["rows.jsonl", "hits.jsonl"].map(|name| context.output(name));
        let to = ScanFiles {
            rows: &rows,
            hits: &hits,
        };
        let report = data::scan(context.input("rows")?, &options, &to)?;
        context.fact("rows_with_hits", report.rows_with_hits);
        write_json(&context.output("report.json"), &report)?;
        files::write(&context.output("report.html"), report.html())?;
        match report.complaint() {
            None => Ok(()),
            Some(complaint) => Err(StepError::new(complaint).hint(
                "replace them (`secrets = \"redact\"`), or say in `allow` what may stay and why",
            )),
        }
    }
}
