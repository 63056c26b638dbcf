//! `data.build`: chat rows from findings by templates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{labelled, write_json};
use crate::data::{self, Templates};
use crate::step::{Context, InPort, OutPort, PortType, Step, StepError};

/// The kind.
pub struct DataBuild;

/// Parameters of `data.build`: none; what a template takes stands in its front matter.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {}

impl Step for DataBuild {
    type Params = Params;
    const KIND: &'static str = "data.build";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Makes chat rows from findings by minijinja templates; what a template uses must be there.";

    fn inputs() -> Vec<InPort> {
        vec![
            InPort::one("findings", PortType::Findings, "what to make rows of"),
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

    fn run(_: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let tables = labelled(context, "tables");
        let templates = Templates::read(&labelled(context, "templates"), &tables)?;
        let findings = data::read_findings(context.input("findings")?)?;
        let (rows, summary) = templates.build(&findings)?;
        data::write_rows(&context.output("rows.jsonl"), &rows)?;
        write_json(&context.output("summary.json"), &summary)
    }
}
