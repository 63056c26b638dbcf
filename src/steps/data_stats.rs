//! `data.stats`: what is in data sets.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::write_json;
use crate::data::{self, StatsOptions};
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

impl Step for DataStats {
    type Params = Params;
    const KIND: &'static str = "data.stats";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Counts rows, characters, tokens, duplicates and metadata of data sets.";

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
        vec![OutPort::new("stats", PortType::Metrics, "stats.json")]
    }

    fn resources(_: &Params) -> Resources {
        Resources::all_cpus()
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let mut datasets = Vec::new();
        for input in context.all("datasets") {
            datasets.push((input.label.clone(), data::read_rows(&input.path)?));
        }
        let options = StatsOptions {
            by: params.by.clone(),
            max_length: params.max_length,
            tokenizer: context
                .optional("tokenizer")
                .map(|folder| folder.join("tokenizer.json")),
        };
        write_json(
            &context.output("stats.json"),
            &data::stats(&datasets, &options)?,
        )
    }
}
