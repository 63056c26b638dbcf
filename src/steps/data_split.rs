//! `data.split`: train, validation and test, with the proof that nothing leaks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::write_json;
use crate::data::{self, SplitOptions};
use crate::files;
use crate::hash::Digest;
use crate::step::{Context, FieldError, InPort, OutPort, PortType, Resources, Step, StepError};

/// The kind.
pub struct DataSplit;

/// Parameters of `data.split`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Seed of the assignment; that of the pipeline when it is not set here.
    #[serde(default)]
    seed: u64,
    /// Share of rows for validation, 0 to 1.
    #[serde(default = "tenth")]
    validation: f64,
    /// Share of rows for the test, 0 to 1; the rest is for training.
    #[serde(default = "tenth")]
    test: f64,
    /// Metadata fields, or expressions such as `meta.cve or meta.package`; rows
    /// that agree in one of them never straddle. `group` is the finding that a
    /// row was built from.
    #[serde(default)]
    group: Vec<String>,
    /// Rows at least this similar never straddle: Jaccard over word 5-grams
    /// with digits normalised, above 0 and at most 1.
    #[serde(default = "four_fifths")]
    near: f64,
    /// 5-grams that more than this share of the rows hold (and more than 16
    /// rows) are a template's and do not count for similarity.
    #[serde(default = "tenth")]
    boilerplate: f64,
    /// A metadata field or an expression whose values are spread evenly over
    /// the splits.
    #[serde(default)]
    stratify: Option<String>,
    /// The digest of the test split as a report gave it (`test_digest`): the
    /// step fails when the split would hold other rows.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    frozen_test: Option<Digest>,
}

fn tenth() -> f64 {
    0.1
}

fn four_fifths() -> f64 {
    0.8
}

impl Step for DataSplit {
    type Params = Params;
    const KIND: &'static str = "data.split";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Splits rows by group and near-duplicate cluster; fails unless its own leak report is all zero.";

    fn inputs() -> Vec<InPort> {
        vec![InPort::one("rows", PortType::Dataset, "what to split")]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("train", PortType::Dataset, "train.jsonl"),
            OutPort::new("validation", PortType::Dataset, "validation.jsonl"),
            OutPort::new("test", PortType::Dataset, "test.jsonl"),
            OutPort::new("report", PortType::Metrics, "leaks.json"),
            OutPort::new("page", PortType::Document, "leaks.html"),
        ]
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        for (field, value) in [
            ("validation", params.validation),
            ("test", params.test),
            ("boilerplate", params.boilerplate),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(FieldError::new(field, "must lie between 0 and 1"));
            }
        }
        if params.validation + params.test >= 1.0 {
            return Err(FieldError::new(
                "test",
                "with `validation` leaves nothing for training",
            ));
        }
        if !(params.near > 0.0 && params.near <= 1.0) {
            return Err(FieldError::new("near", "must be above 0 and at most 1"));
        }
        Ok(())
    }

    fn resources(_: &Params) -> Resources {
        Resources::all_cpus()
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let options = SplitOptions {
            seed: params.seed,
            validation: params.validation,
            test: params.test,
            group: params.group.clone(),
            near: params.near,
            boilerplate: params.boilerplate,
            stratify: params.stratify.clone(),
        };
        let files =
            ["train.jsonl", "validation.jsonl", "test.jsonl"].map(|name| context.output(name));
        let to = [0, 1, 2].map(|i| files[i].as_path());
        let summary = data::split(context.input("rows")?, &options, to)?;
        // The proof is about what was written, so it is read back.
        let mut report = data::find_leaks(to, &options)?;
        report.units = Some(summary.units as u64);
        report.test_digest = Some(summary.test);
        context.fact("test_digest", summary.test.to_string());
        write_json(&context.output("leaks.json"), &report)?;
        files::write(&context.output("leaks.html"), report.html())?;
        report.check()?;
        frozen(params, summary.test)
    }
}

/// Whether the test split is the one that the pipeline file froze.
fn frozen(params: &Params, found: Digest) -> Result<(), StepError> {
    match params.frozen_test {
        Some(frozen) if frozen != found => {
            let message =
                format!("the test split is not the frozen one: it is {found}, frozen was {frozen}");
            Err(StepError::new(message).hint(
                "scores on another test split cannot be compared with earlier ones: restore the rows it was \
                 made of, or set `frozen_test` to the new digest and measure all models again",
            ))
        }
        _ => Ok(()),
    }
}
