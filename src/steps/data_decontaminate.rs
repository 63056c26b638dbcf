//! `data.decontaminate`: training rows without what evaluation sets hold.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{labelled, write_json};
use crate::data::{self, OverlapFiles, OverlapOptions, References, Rules};
use crate::files;
use crate::step::{Context, FieldError, InPort, OutPort, PortType, Resources, Step, StepError};

/// The kind.
pub struct DataDecontaminate;

/// What happens to contaminated rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// They are left out, and listed.
    Remove,
    /// They stay, and are listed.
    Report,
    /// The step fails when there is one.
    Fail,
}

/// Parameters of `data.decontaminate`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// What happens to contaminated rows: `remove`, `report` or `fail`.
    #[serde(default = "remove")]
    action: Action,
    /// A row that shares 13 consecutive words with a question or an answer is
    /// contaminated (GPT-3).
    #[serde(default = "yes")]
    any_13_gram: bool,
    /// A row with at least this share of the 8-grams of a question and its
    /// answer is contaminated (PaLM takes 0.7); 0 switches the rule off.
    #[serde(default = "seven_tenths")]
    share_of_8_grams: f64,
    /// A row whose score by IDF-weighted 5-grams over question, answer and
    /// passage (AI2's decon) is at least this for rows of 50 words and more is
    /// contaminated; a row of 20 words and less has to agree in full. 0
    /// switches the rule off.
    #[serde(default = "four_fifths")]
    weighted_score: f64,
    /// n-grams that more than this share of the evaluation rows hold (and more
    /// than 16 rows) are a template's and do not count.
    #[serde(default = "tenth")]
    common: f64,
    /// How many matches the report shows; `matches.jsonl` has all.
    #[serde(default = "hundred")]
    examples: usize,
}

fn remove() -> Action {
    Action::Remove
}

fn yes() -> bool {
    true
}

fn seven_tenths() -> f64 {
    0.7
}

fn four_fifths() -> f64 {
    0.8
}

fn tenth() -> f64 {
    0.1
}

fn hundred() -> usize {
    100
}

impl Step for DataDecontaminate {
    type Params = Params;
    const KIND: &'static str = "data.decontaminate";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Removes or reports training rows that hold rows of evaluation sets, by n-gram overlap, and shows the words that agree.";

    fn inputs() -> Vec<InPort> {
        vec![
            InPort::one("rows", PortType::Dataset, "the training rows"),
            InPort::labelled(
                "against",
                PortType::Dataset,
                "evaluation sets in the row format, each under its name",
            ),
            InPort::labelled(
                "references",
                PortType::File,
                "evaluation sets in decon's reference format (JSON lines, also gzipped)",
            ),
        ]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("rows", PortType::Dataset, "rows.jsonl"),
            OutPort::new("removed", PortType::Dataset, "removed.jsonl"),
            OutPort::new("matches", PortType::File, "matches.jsonl"),
            OutPort::new("report", PortType::Metrics, "report.json"),
            OutPort::new("page", PortType::Document, "report.html"),
        ]
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        for (field, value) in [
            ("share_of_8_grams", params.share_of_8_grams),
            ("weighted_score", params.weighted_score),
            ("common", params.common),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(FieldError::new(field, "must lie between 0 and 1"));
            }
        }
        Ok(())
    }

    fn resources(_: &Params) -> Resources {
        Resources::all_cpus()
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let mut references = References::default();
        for (label, path) in labelled(context, "against") {
            references.add_rows(&label, &path)?;
        }
        for (label, path) in labelled(context, "references") {
            references.add_records(&label, &path)?;
        }
        let on = |limit: f64| (limit > 0.0).then_some(limit);
        let options = OverlapOptions {
            rules: Rules {
                thirteen: params.any_13_gram,
                eight: on(params.share_of_8_grams),
                weighted: on(params.weighted_score),
            },
            common: params.common,
            remove: params.action == Action::Remove,
            examples: params.examples,
        };
        let [kept, removed, matches] =
            ["rows.jsonl", "removed.jsonl", "matches.jsonl"].map(|name| context.output(name));
        let to = OverlapFiles {
            kept: &kept,
            removed: &removed,
            matches: &matches,
        };
        let report = data::decontaminate(context.input("rows")?, &references, &options, &to)?;
        context.fact("contaminated", report.contaminated);
        write_json(&context.output("report.json"), &report)?;
        files::write(&context.output("report.html"), report.html())?;
        if params.action == Action::Fail && report.contaminated > 0 {
            return Err(StepError::new(report.complaint()));
        }
        Ok(())
    }
}
