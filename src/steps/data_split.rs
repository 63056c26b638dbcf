//! `data.split`: train, validation and test, with the proof that nothing leaks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::write_json;
use crate::data::{self, SplitOptions};
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
    /// Metadata fields; rows that agree in one of them never straddle.
    /// `group` is the finding that a row was built from.
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
    /// A metadata field whose values are spread evenly over the splits.
    #[serde(default)]
    stratify: Option<String>,
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
    const VERSION: u32 = 1;
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
        let splits = data::split(data::read_rows(context.input("rows")?)?, &options)?;
        let files =
            ["train.jsonl", "validation.jsonl", "test.jsonl"].map(|name| context.output(name));
        for (path, rows) in files
            .iter()
            .zip([&splits.train, &splits.validation, &splits.test])
        {
            data::write_rows(path, rows)?;
        }
        // The proof is about what was written, so it is read back.
        let [train, validation, test] = [0, 1, 2].map(|i| data::read_rows(&files[i]));
        let mut report = data::find_leaks(&[&train?, &validation?, &test?], &options);
        report.units = Some(splits.units as u64);
        write_json(&context.output("leaks.json"), &report)?;
        Ok(report.check()?)
    }
}
