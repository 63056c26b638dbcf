//! `data.stats`: what is in data sets.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{labelled, write_json};
use crate::data::{self, Stats, StatsOptions};
use crate::files;
use crate::release::bars::{self, Histogram};
use crate::release::chart::ChartError;
use crate::step::{Context, InPort, OutPort, PortType, Resources, Step, StepError};

/// The kind.
pub struct DataStats;

/// Parameters of `data.stats`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Metadata fields whose values are counted.
    #[serde(default = "usual_fields")]
    by: Vec<String>,
    /// Metadata fields that are true or false, or numbers: their share and mean.
    #[serde(default = "usual_ratios")]
    ratios: Vec<String>,
    /// Whether the languages of prose are estimated and those of code counted.
    #[serde(default = "yes")]
    languages: bool,
    /// Rows with more tokens are counted as too long.
    #[serde(default)]
    max_length: Option<usize>,
}

fn usual_fields() -> Vec<String> {
    [
        "task", "tool", "severity", "language", "cwe", "source", "quality",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn usual_ratios() -> Vec<String> {
    ["quality", "enhanced"].map(str::to_owned).to_vec()
}

fn yes() -> bool {
    true
}

impl Step for DataStats {
    type Params = Params;
    const KIND: &'static str = "data.stats";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Counts rows, characters, tokens, duplicates, languages and metadata of data sets, and draws them.";

    fn inputs() -> Vec<InPort> {
        vec![
            InPort::labelled(
                "datasets",
                PortType::Dataset,
                "the data sets, each under a label",
            ),
            InPort::optional("tokenizer", PortType::Tokenizer, "to count tokens with"),
        ]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("stats", PortType::Metrics, "stats.json"),
            OutPort::new("lengths", PortType::Document, "lengths.svg"),
            OutPort::new("categories", PortType::Document, "categories.svg"),
            OutPort::new("page", PortType::Document, "report.html"),
        ]
    }

    fn resources(_: &Params) -> Resources {
        Resources::all_cpus()
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let options = StatsOptions {
            by: params.by.clone(),
            ratios: params.ratios.clone(),
            languages: params.languages,
            max_length: params.max_length,
            tokenizer: context
                .optional("tokenizer")
                .map(|folder| folder.join("tokenizer.json")),
        };
        let stats = data::stats(&labelled(context, "datasets"), &options)?;
        write_json(&context.output("stats.json"), &stats)?;
        let charts = [lengths(&stats, &options)?, categories(&stats)?];
        files::write(&context.output("lengths.svg"), &charts[0])?;
        files::write(&context.output("categories.svg"), &charts[1])?;
        Ok(files::write(
            &context.output("report.html"),
            stats.html(&charts),
        )?)
    }
}

/// How long rows are, a panel for each data set.
fn lengths(stats: &Stats, options: &StatsOptions) -> Result<String, ChartError> {
    let unit = if options.tokenizer.is_some() {
        "tokens"
    } else {
        "characters"
    };
    let sets = stats.datasets.iter();
    let panels: Vec<Histogram<'_>> = sets
        .map(|(label, set)| Histogram {
            label,
            counts: &set.lengths,
            limit: set
                .too_long
                .as_ref()
                .map(|over| (over.max_length, over.share)),
        })
        .collect();
    bars::lengths(&format!("Length of rows in {unit}"), unit, &panels)
}

/// How many rows have each value of the fields that are counted.
fn categories(stats: &Stats) -> Result<String, ChartError> {
    let total = &stats.total;
    let by = total
        .by
        .iter()
        .map(|(field, counts)| (field.as_str(), counts));
    let others = [
        ("language", &total.languages),
        ("code", &total.code_languages),
    ];
    let panels: Vec<(&str, &BTreeMap<String, u64>)> = by
        .chain(others)
        .filter(|(_, counts)| !counts.is_empty())
        .collect();
    bars::categories("Rows by", total.rows, &panels)
}
