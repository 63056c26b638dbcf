//! `data.license`: whether rows may be released under a licence.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::write_json;
use crate::data::{self, License, LicenseOptions};
use crate::files;
use crate::step::{Context, FieldError, InPort, OutPort, PortType, Resources, Step, StepError};

/// The kind.
pub struct DataLicense;

/// What happens when something cannot be released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The step fails.
    Fail,
    /// The report says so.
    Warn,
}

/// Parameters of `data.license`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The licence of the release, an SPDX expression such as `Apache-2.0`.
    release: String,
    /// Licences of sources: a glob over the files that rows are from, and the
    /// expression. A row's own licence comes first.
    #[serde(default)]
    sources: BTreeMap<String, String>,
    /// The metadata field with a row's own licence.
    #[serde(default = "license")]
    field: String,
    /// What happens when a licence conflicts with that of the release.
    #[serde(default = "fail")]
    conflicts: Action,
    /// What happens when rows have no licence.
    #[serde(default = "fail")]
    unlicensed: Action,
}

fn license() -> String {
    "license".to_owned()
}

fn fail() -> Action {
    Action::Fail
}

impl Step for DataLicense {
    type Params = Params;
    const KIND: &'static str = "data.license";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Counts the licences of rows and sources (SPDX), and fails when they conflict with that of the release.";

    fn inputs() -> Vec<InPort> {
        vec![InPort::one("rows", PortType::Dataset, "the rows")]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("rows", PortType::Dataset, "rows.jsonl"),
            OutPort::new("report", PortType::Metrics, "licenses.json"),
            OutPort::new("page", PortType::Document, "licenses.html"),
        ]
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        let readable = |field: &'static str, text: &str| {
            let read = License::parse(text).map(drop);
            read.map_err(|e| FieldError::new(field, e.to_string()))
        };
        readable("release", &params.release)?;
        params
            .sources
            .values()
            .try_for_each(|text| readable("sources", text))
    }

    fn resources(_: &Params) -> Resources {
        Resources::all_cpus()
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let rows = context.input("rows")?.to_owned();
        let options = LicenseOptions {
            field: params.field.clone(),
            sources: params.sources.clone().into_iter().collect(),
            release: params.release.clone(),
        };
        let report = data::licenses(&rows, &options)?;
        let unlicensed_fail = params.unlicensed == Action::Fail;
        write_json(&context.output("licenses.json"), &report)?;
        files::write(
            &context.output("licenses.html"),
            report.html(unlicensed_fail),
        )?;
        let complaint = match params.conflicts {
            Action::Fail => report.complaint(unlicensed_fail),
            Action::Warn if unlicensed_fail && report.unlicensed_rows() > 0 => {
                report.complaint(true)
            }
            Action::Warn => None,
        };
        if let Some(complaint) = complaint {
            let hint = "leave those rows out, release under another licence, or say what a source is under by `sources`";
            return Err(StepError::new(complaint).hint(hint));
        }
        Ok(files::copy(&rows, &context.output("rows.jsonl"))?)
    }
}
