//! `data.mix`: several data sets by shares of the result.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{labelled, write_json};
use crate::data::{self, LineWriter, MixOptions};
use crate::step::{
    Context, FieldError, InPort, Mention, OutPort, PortType, Resources, Step, StepError,
};

/// The kind.
pub struct DataMix;

/// Parameters of `data.mix`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The share of the result that each data set has, to within one row:
    /// `{ new = 0.85, replay = 0.15 }`. They sum to 1.
    shares: BTreeMap<String, f64>,
    /// Rows of the result; as many as there are without a row twice when it is
    /// left out.
    #[serde(default)]
    #[schemars(range(min = 1))]
    rows: Option<u64>,
    /// Whether rows may stand several times where a data set has too few.
    #[serde(default)]
    repeat: bool,
    /// Seed of the choice; that of the pipeline when it is not set here.
    #[serde(default)]
    seed: u64,
}

impl Step for DataMix {
    type Params = Params;
    const KIND: &'static str = "data.mix";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Mixes data sets by declared shares of the result, and records the real ones.";

    fn inputs() -> Vec<InPort> {
        let about = "the data sets, each under the label that `shares` names";
        vec![InPort::labelled("datasets", PortType::Dataset, about)]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("rows", PortType::Dataset, "rows.jsonl"),
            OutPort::new("summary", PortType::Metrics, "summary.json"),
        ]
    }

    fn mentions(params: &Params) -> Vec<Mention> {
        params.shares.keys().cloned().map(Mention::Input).collect()
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        if params
            .shares
            .values()
            .any(|share| !(0.0..=1.0).contains(share))
        {
            return Err(FieldError::new("shares", "must each lie between 0 and 1"));
        }
        let sum: f64 = params.shares.values().sum();
        if (sum - 1.0).abs() > 1e-9 {
            return Err(FieldError::new(
                "shares",
                format!("must sum to 1, not to {sum}"),
            ));
        }
        if params.repeat && params.rows.is_none() {
            return Err(FieldError::new(
                "repeat",
                "needs `rows`, the number of rows of the result",
            ));
        }
        Ok(())
    }

    fn resources(_: &Params) -> Resources {
        Resources::all_cpus()
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let options = MixOptions {
            shares: params.shares.clone(),
            rows: params.rows,
            repeat: params.repeat,
            seed: params.seed,
        };
        let to = LineWriter::create(&context.output("rows.jsonl"))?;
        let summary = data::mix(&labelled(context, "datasets"), &options, to)?;
        for (label, part) in &summary.datasets {
            context.fact(&format!("share of {label}"), part.real_share);
        }
        write_json(&context.output("summary.json"), &summary)
    }
}
