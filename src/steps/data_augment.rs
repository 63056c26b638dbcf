//! `data.augment`: more training rows by declared rules.

use std::collections::BTreeMap;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::write_json;
use crate::data::{self, AugmentRule, Change, LineWriter, View};
use crate::step::{Context, FieldError, InPort, OutPort, PortType, Resources, Step, StepError};

/// The kind.
pub struct DataAugment;

/// What of a row a rule changes.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum On {
    /// The last question.
    Prompt,
    /// The answer.
    Answer,
    /// All but system messages.
    Row,
}

/// One rule: exactly one of `find` with `replace`, `words` and `template`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name, which rows made by it carry.
    name: String,
    /// What it changes.
    #[serde(default = "prompt")]
    on: On,
    /// A regular expression.
    #[serde(default)]
    find: Option<String>,
    /// What its matches become; `$1` is its first group.
    #[serde(default)]
    replace: Option<String>,
    /// Words, each with those that it may become.
    #[serde(default)]
    words: BTreeMap<String, Vec<String>>,
    /// A minijinja template that sees `text`, `prompt`, `answer` and `meta`.
    #[serde(default)]
    template: Option<String>,
    /// The share of rows that it is tried on.
    #[serde(default = "one")]
    share: f64,
}

/// Parameters of `data.augment`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The rules; each makes at most one row of a row.
    rules: Vec<Rule>,
    /// Seed of what is drawn; that of the pipeline when it is not set here.
    #[serde(default)]
    seed: u64,
}

fn prompt() -> On {
    On::Prompt
}

fn one() -> f64 {
    1.0
}

impl Rule {
    fn read(&self) -> Result<AugmentRule, FieldError> {
        let fault =
            |message: String| FieldError::new("rules", format!("'{}': {message}", self.name));
        let change = match (
            &self.find,
            &self.replace,
            self.words.is_empty(),
            &self.template,
        ) {
            (Some(find), Some(replace), true, None) => {
                let regex = Regex::new(find).map_err(|e| fault(e.to_string()))?;
                Change::Replace(regex, replace.clone())
            }
            (None, None, false, None) => {
                let lower = self
                    .words
                    .iter()
                    .map(|(word, others)| (word.to_lowercase(), others.clone()));
                Change::Words(lower.collect())
            }
            (None, None, true, Some(template)) => Change::Template(template.clone()),
            _ => {
                let message = "takes exactly one of `find` with `replace`, `words` and `template`";
                return Err(fault(message.to_owned()));
            }
        };
        if !(0.0..=1.0).contains(&self.share) {
            return Err(fault("`share` must lie between 0 and 1".to_owned()));
        }
        Ok(AugmentRule {
            name: self.name.clone(),
            on: match self.on {
                On::Prompt => View::Prompt,
                On::Answer => View::Answer,
                On::Row => View::Row,
            },
            change,
            share: self.share,
        })
    }
}

impl Step for DataAugment {
    type Params = Params;
    const KIND: &'static str = "data.augment";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Adds rows that declared rules make of training rows; each names the row it is made of.";

    fn inputs() -> Vec<InPort> {
        vec![InPort::one("rows", PortType::Dataset, "the train split")]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("rows", PortType::Dataset, "rows.jsonl"),
            OutPort::new("summary", PortType::Metrics, "summary.json"),
        ]
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        let mut names = std::collections::BTreeSet::new();
        for rule in &params.rules {
            rule.read()?;
            if !names.insert(&rule.name) {
                return Err(FieldError::new(
                    "rules",
                    format!("two rules are called '{}'", rule.name),
                ));
            }
        }
        Ok(())
    }

    fn resources(_: &Params) -> Resources {
        Resources::all_cpus()
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let rules = params
            .rules
            .iter()
            .map(Rule::read)
            .collect::<Result<Vec<_>, _>>();
        let rules = rules.map_err(StepError::from)?;
        let to = LineWriter::create(&context.output("rows.jsonl"))?;
        let summary = data::augment(context.input("rows")?, &rules, params.seed, to)?;
        context.fact("made", summary.made);
        write_json(&context.output("summary.json"), &summary)
    }
}
