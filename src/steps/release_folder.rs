//! `release.folder`: everything of a release in one place.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::labelled;
use crate::release::folder;
use crate::step::{Context, FieldError, InPort, OutPort, PortType, Step, StepError, Wired, Wiring};

/// The kind.
pub struct ReleaseFolder;

/// Parameters of `release.folder`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Released data that no `data.scan` has looked through, by its path in the
    /// release, with the reason; the manifest says it.
    #[serde(default)]
    unscanned: BTreeMap<String, String>,
}

impl Step for ReleaseFolder {
    type Params = Params;
    const KIND: &'static str = "release.folder";
    const VERSION: u32 = 2;
    const ABOUT: &'static str =
        "Collects files and folders under their labels as paths, with a manifest of digests.";

    fn inputs() -> Vec<InPort> {
        let about = "what to collect; the label is the path inside the release";
        vec![InPort::labelled("files", PortType::Any, about)]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![OutPort::new("release", PortType::Folder, "release")]
    }

    const LOOKS_BACK: bool = true;

    /// Rows are not released unless they were looked through for secrets and
    /// personal data, and what was found is gone.
    fn check_wiring(params: &Params, step: usize, wiring: &dyn Wiring) -> Result<(), FieldError> {
        let inputs = wiring.inputs(step);
        let files = || inputs.iter().filter(|input| input.port == "files");
        if let Some(label) = params
            .unscanned
            .keys()
            .find(|label| !files().any(|f| f.label == **label))
        {
            let message = format!("`{label}` is not among the files of the release");
            return Err(FieldError::new("unscanned", message));
        }
        for file in files().filter(|file| !params.unscanned.contains_key(file.label)) {
            let Some((from, PortType::Dataset)) = file.from else {
                continue;
            };
            if let Some(why) = unscanned(from, wiring, &mut BTreeMap::new()) {
                let label = file.label;
                let message = format!(
                    "cannot release what may hold secrets: '{label}' {why}; put a data.scan before it that \
                     fails or redacts, or give the reason in `unscanned = {{ \"{label}\" = \"…\" }}`"
                );
                return Err(FieldError::new("files", message));
            }
        }
        Ok(())
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let items = labelled(context, "files");
        let release = context.output("release");
        let manifest = folder::assemble(&release, &items, &params.unscanned)?;
        context.fact("files", manifest.files.len());
        Ok(())
    }
}

/// Why the rows of a step were not looked through, as the end of a sentence;
/// none when all that it makes rows of was.
fn unscanned(
    step: usize,
    wiring: &dyn Wiring,
    known: &mut BTreeMap<usize, Option<String>>,
) -> Option<String> {
    if let Some(known) = known.get(&step) {
        return known.clone();
    }
    let made = wiring.step(step);
    let why = match made.kind {
        "data.scan" => left_in(&made),
        _ => {
            let rows = wiring.inputs(step);
            let rows = rows.iter().filter_map(|input| match input.from {
                Some((from, PortType::Dataset)) => Some(from),
                _ => None,
            });
            let mut before: Vec<usize> = rows.collect();
            before.dedup();
            match before.is_empty() {
                true => Some("holds rows that no data.scan has looked through".to_owned()),
                false => before
                    .into_iter()
                    .find_map(|from| unscanned(from, wiring, known)),
            }
        }
    };
    known.insert(step, why.clone());
    why
}

/// What a scan leaves in the rows.
fn left_in(scan: &Wired<'_>) -> Option<String> {
    let leaves = |action: &Value| matches!(action.as_str(), Some("report" | "off"));
    let classes = ["secrets", "personal"].map(|class| (class.to_owned(), scan.params.get(class)));
    let others = scan
        .params
        .get("actions")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    let others = others.map(|(rule, action)| (rule.clone(), Some(action)));
    let mut all = classes.into_iter().chain(others);
    let (name, action) =
        all.find_map(|(name, action)| Some((name, action.filter(|a| leaves(a))?)))?;
    Some(format!(
        "was looked through, but '{}' leaves what it finds (`{name} = {action}`)",
        scan.name
    ))
}
