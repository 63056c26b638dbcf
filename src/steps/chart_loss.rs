//! `chart.loss`: training logs as a picture.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::labelled;
use crate::files;
use crate::release::chart::{self, Log};
use crate::step::{Context, InPort, OutPort, PortType, Step, StepError};

/// The kind.
pub struct ChartLoss;

/// Parameters of `chart.loss`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// What stands above the panels.
    #[serde(default = "title")]
    title: String,
}

fn title() -> String {
    "Loss by training step".to_owned()
}

impl Step for ChartLoss {
    type Params = Params;
    const KIND: &'static str = "chart.loss";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Draws training logs as SVG: the loss, its moving mean, and validation points.";

    fn inputs() -> Vec<InPort> {
        vec![InPort::labelled(
            "logs",
            PortType::Log,
            "training logs, one panel each",
        )]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![OutPort::new("chart", PortType::Document, "loss.svg")]
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let logs = labelled(context, "logs")
            .iter()
            .map(|(label, path)| Log::read(label, path))
            .collect::<Result<Vec<_>, _>>()?;
        let svg = chart::loss(&params.title, &logs)?;
        files::write(&context.output("loss.svg"), svg)?;
        Ok(())
    }
}
