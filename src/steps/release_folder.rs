//! `release.folder`: everything of a release in one place.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::labelled;
use crate::release::folder;
use crate::step::{Context, InPort, OutPort, PortType, Step, StepError};

/// The kind.
pub struct ReleaseFolder;

/// Parameters of `release.folder`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {}

impl Step for ReleaseFolder {
    type Params = Params;
    const KIND: &'static str = "release.folder";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Collects files and folders under their labels as paths, with a manifest of digests.";

    fn inputs() -> Vec<InPort> {
        let about = "what to collect; the label is the path inside the release";
        vec![InPort::labelled("files", PortType::Any, about)]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![OutPort::new("release", PortType::Folder, "release")]
    }

    fn run(_: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let items = labelled(context, "files");
        let manifest = folder::assemble(&context.output("release"), &items)?;
        context.fact("files", manifest.files.len());
        Ok(())
    }
}
