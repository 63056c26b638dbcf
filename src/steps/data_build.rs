//! `data.build`: chat rows from findings or any table by templates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{labelled, write_json};
use crate::data::{self, Item, LineWriter, Templates};
use crate::step::{Context, InPort, OutPort, PortType, Step, StepError};

/// The kind.
pub struct DataBuild;

/// Parameters of `data.build`; what a template takes stands in its front matter.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Fields of the records of `table` that become metadata of their rows.
    #[serde(default)]
    keep: Vec<String>,
}

impl Step for DataBuild {
    type Params = Params;
    const KIND: &'static str = "data.build";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Makes chat rows from findings or any table by minijinja templates; what a template uses must be there.";

    fn inputs() -> Vec<InPort> {
        vec![
            InPort::optional("findings", PortType::Findings, "what to make rows of"),
            InPort::labelled(
                "table",
                PortType::Any,
                "files of records to make rows of (JSON lines, JSON, CSV, Parquet)",
            ),
            InPort::many(
                "templates",
                PortType::File,
                "front matter and the blocks system, user, assistant",
            ),
            InPort::labelled(
                "tables",
                PortType::File,
                "TOML or JSON files that templates see under their label",
            ),
        ]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("rows", PortType::Dataset, "rows.jsonl"),
            OutPort::new("summary", PortType::Metrics, "summary.json"),
        ]
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let tables = labelled(context, "tables");
        let templates = Templates::read(&labelled(context, "templates"), &tables)?;
        let mut items: Vec<Item> = match context.optional("findings") {
            Some(path) => data::read_findings(path)?.iter().map(Item::from).collect(),
            None => Vec::new(),
        };
        for record in data::read_records(&labelled(context, "table"))? {
            items.push(Item::record(record, &params.keep)?);
        }
        if items.is_empty() && context.optional("findings").is_none() {
            let message =
                "there is nothing to make rows of: neither `findings` nor `table` is given";
            return Err(StepError::new(message));
        }
        let mut rows = LineWriter::create(&context.output("rows.jsonl"))?;
        let summary = templates.build(items.into_iter().map(Ok), |row| rows.value(&row))?;
        rows.finish()?;
        write_json(&context.output("summary.json"), &summary)
    }
}
