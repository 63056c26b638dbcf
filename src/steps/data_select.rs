//! `data.select`: the rows for which an expression holds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::write_json;
use crate::data;
use crate::step::{Context, InPort, OutPort, PortType, Step, StepError};

/// The kind.
pub struct DataSelect;

/// Parameters of `data.select`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// A minijinja expression over `meta`, `origin` and `id` of a row, such as
    /// `meta.task == 'fix'`; rows for which it is true are kept.
    keep: String,
}

impl Step for DataSelect {
    type Params = Params;
    const KIND: &'static str = "data.select";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Keeps the rows for which an expression over their metadata holds.";

    fn inputs() -> Vec<InPort> {
        vec![InPort::one(
            "rows",
            PortType::Dataset,
            "the rows to choose from",
        )]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("rows", PortType::Dataset, "rows.jsonl"),
            OutPort::new("summary", PortType::Metrics, "summary.json"),
        ]
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let rows = data::read_rows(context.input("rows")?)?;
        let total = rows.len();
        let kept = data::select(rows, &params.keep)?;
        data::write_rows(&context.output("rows.jsonl"), &kept)?;
        let summary = json!({ "format": 1, "kept": kept.len(), "of": total });
        write_json(&context.output("summary.json"), &summary)
    }
}
