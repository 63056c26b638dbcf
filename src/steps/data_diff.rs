//! `data.diff`: how two versions of a data set differ.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::write_json;
use crate::data::{self, DiffOptions};
use crate::files;
use crate::step::{Context, InPort, OutPort, PortType, Resources, Step, StepError};

/// The kind.
pub struct DataDiff;

/// Parameters of `data.diff`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Metadata fields whose values are counted on both sides.
    #[serde(default = "usual_fields")]
    by: Vec<String>,
    /// How many rows of each sort are shown.
    #[serde(default = "twenty")]
    examples: usize,
}

fn usual_fields() -> Vec<String> {
    ["task", "tool", "severity", "language", "source"]
        .map(str::to_owned)
        .to_vec()
}

fn twenty() -> usize {
    20
}

impl Step for DataDiff {
    type Params = Params;
    const KIND: &'static str = "data.diff";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Tells which rows of a data set came, went and changed, and what that shifts.";

    fn inputs() -> Vec<InPort> {
        vec![
            InPort::one("before", PortType::Dataset, "the data set as it was"),
            InPort::one("now", PortType::Dataset, "the data set as it is"),
        ]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("diff", PortType::Metrics, "diff.json"),
            OutPort::new("page", PortType::Document, "diff.html"),
        ]
    }

    fn resources(_: &Params) -> Resources {
        Resources::all_cpus()
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let options = DiffOptions {
            by: params.by.clone(),
            examples: params.examples,
        };
        let found = data::diff(context.input("before")?, context.input("now")?, &options)?;
        for (name, n) in [
            ("added", found.added),
            ("removed", found.removed),
            ("changed", found.changed),
        ] {
            context.fact(name, n);
        }
        write_json(&context.output("diff.json"), &found)?;
        Ok(files::write(&context.output("diff.html"), found.html())?)
    }
}
