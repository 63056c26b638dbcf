//! `release.card`: the model card, from what was recorded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::labelled;
use crate::files;
use crate::release::card::{self, Metrics, Statement};
use crate::release::{Front, Lineage};
use crate::step::{Context, InPort, OutPort, PortType, Step, StepError};

/// The kind.
pub struct ReleaseCard;

/// Parameters of `release.card`: what the author states. Numbers come from
/// the inputs.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The card's heading.
    title: String,
    /// One paragraph about the model.
    #[serde(default)]
    summary: Option<String>,
    /// What the model is for.
    #[serde(default)]
    intended_use: Option<String>,
    /// What it is not for.
    #[serde(default)]
    out_of_scope: Option<String>,
    /// Known limits, beside those that the metrics show.
    #[serde(default)]
    limitations: Vec<String>,
    /// Path of the recipe inside the release, to refer to it.
    #[serde(default)]
    recipe: Option<String>,
    /// The licence's identifier on the Hub, `apache-2.0`.
    #[serde(default)]
    license: Option<String>,
    /// Language codes.
    #[serde(default)]
    language: Vec<String>,
    /// The base model's id on the Hub, where it does not follow from the inputs.
    #[serde(default)]
    base_model: Option<String>,
    /// Ids of data sets on the Hub.
    #[serde(default)]
    datasets: Vec<String>,
    /// Tags.
    #[serde(default)]
    tags: Vec<String>,
    /// The Hub's name of the task, `text-generation`.
    #[serde(default)]
    pipeline_tag: Option<String>,
}

impl Params {
    fn statement(&self) -> Statement {
        Statement {
            title: self.title.clone(),
            summary: self.summary.clone(),
            intended_use: self.intended_use.clone(),
            out_of_scope: self.out_of_scope.clone(),
            limitations: self.limitations.clone(),
            recipe: self.recipe.clone(),
            front: Front {
                license: self.license.clone(),
                language: self.language.clone(),
                base_model: self.base_model.clone(),
                datasets: self.datasets.clone(),
                tags: self.tags.clone(),
                pipeline_tag: self.pipeline_tag.clone(),
                ..Front::default()
            },
        }
    }
}

impl Step for ReleaseCard {
    type Params = Params;
    const KIND: &'static str = "release.card";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Writes the model card: what was recorded, and \"not measured\" where nothing was.";

    fn inputs() -> Vec<InPort> {
        let charts = "pictures; the label is the path inside the release";
        vec![
            InPort::labelled(
                "metrics",
                PortType::Metrics,
                "what the card may say numbers of",
            ),
            InPort::labelled("charts", PortType::Document, charts),
            InPort::optional(
                "template",
                PortType::File,
                "a minijinja template of your own",
            ),
            InPort::lineage(),
        ]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![OutPort::new("card", PortType::Document, "README.md")]
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let lineage = Lineage::read(context.input("lineage")?)?;
        let metrics = labelled(context, "metrics")
            .iter()
            .map(|(label, path)| Metrics::read(label, path))
            .collect::<Result<Vec<_>, _>>()?;
        let charts: Vec<String> = context
            .all("charts")
            .map(|chart| chart.label.clone())
            .collect();
        let template = context
            .optional("template")
            .map(files::read_text)
            .transpose()?;
        let text = card::card(
            &params.statement(),
            &lineage,
            &metrics,
            &charts,
            template.as_deref(),
        )?;
        files::write(&context.output("README.md"), text)?;
        Ok(())
    }
}
