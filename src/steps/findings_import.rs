//! `findings.import`: scanner reports into one record.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{labelled, write_json};
use crate::data::{self, ImportOptions};
use crate::step::{Context, FieldError, InPort, OutPort, PortType, Step, StepError};

/// The kind.
pub struct FindingsImport;

/// Parameters of `findings.import`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Prefixes to cut off the files that reports name, such as the folder of
    /// the machine that ran the scan.
    #[serde(default)]
    strip: Vec<String>,
    /// Lines of the scanned source to keep before and after each finding.
    #[serde(default = "three")]
    context_lines: usize,
    /// How many findings each scanner must have reported, duplicates included:
    /// `{ semgrep = 107, gitleaks = 0 }`. The step fails when a count is off.
    #[serde(default)]
    expect: BTreeMap<String, u64>,
    /// By what share a count may differ from the expected one, 0 to 1.
    #[serde(default)]
    tolerance: f64,
}

fn three() -> usize {
    3
}

impl Step for FindingsImport {
    type Params = Params;
    const KIND: &'static str = "findings.import";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Reads scanner reports (SARIF 2.1.0 of any tool; JSON of Semgrep, Trivy, OSV-Scanner, Checkov, ZAP, Gitleaks, Bandit) into one record, identical findings once.";

    fn inputs() -> Vec<InPort> {
        vec![
            InPort::many("reports", PortType::File, "the reports of the scanners"),
            InPort::optional(
                "source",
                PortType::Folder,
                "the scanned code, to take excerpts from",
            ),
        ]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("findings", PortType::Findings, "findings.jsonl"),
            OutPort::new("summary", PortType::Metrics, "summary.json"),
        ]
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        if !(0.0..=1.0).contains(&params.tolerance) {
            return Err(FieldError::new("tolerance", "must lie between 0 and 1"));
        }
        Ok(())
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let options = ImportOptions {
            strip: params.strip.clone(),
            source: context.optional("source").map(Into::into),
            context_lines: params.context_lines,
            expect: params.expect.clone(),
            tolerance: params.tolerance,
        };
        let reports = labelled(context, "reports");
        let (findings, summary) = data::import_findings(&reports, &options)?;
        data::write_jsonl(&context.output("findings.jsonl"), &findings)?;
        write_json(&context.output("summary.json"), &summary)
    }
}
