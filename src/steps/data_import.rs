//! `data.import`: JSON lines of other makers into rows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{labelled, write_json};
use crate::data;
use crate::step::{Context, InPort, OutPort, PortType, Step, StepError};

/// The kind.
pub struct DataImport;

/// How the files write their examples.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Schema {
    /// `messages`, a list of `{"role", "content"}`, the last by the assistant.
    Chat,
    /// `prompt` and `completion`.
    PromptCompletion,
    /// `instruction`, perhaps `input`, and `output`.
    Alpaca,
    /// `text`.
    Text,
}

/// Parameters of `data.import`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// How the files write their examples. What the schema does not name is
    /// kept as metadata; what it names must be there in every line.
    schema: Schema,
}

impl Step for DataImport {
    type Params = Params;
    const KIND: &'static str = "data.import";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Reads JSON lines (chat, prompt-completion, alpaca, text) into rows; a missing field is an error with file and line.";

    fn inputs() -> Vec<InPort> {
        vec![InPort::many(
            "files",
            PortType::File,
            "JSON lines files of one schema",
        )]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("rows", PortType::Dataset, "rows.jsonl"),
            OutPort::new("summary", PortType::Metrics, "summary.json"),
        ]
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let schema = match params.schema {
            Schema::Chat => data::Schema::Chat,
            Schema::PromptCompletion => data::Schema::PromptCompletion,
            Schema::Alpaca => data::Schema::Alpaca,
            Schema::Text => data::Schema::Text,
        };
        let (rows, summary) = data::import_rows(&labelled(context, "files"), schema)?;
        data::write_rows(&context.output("rows.jsonl"), &rows)?;
        write_json(&context.output("summary.json"), &summary)
    }
}
