//! The model card: a template filled from the lineage and from metrics files, and from nothing else.
//!
//! Whatever a template asks for and no input holds is printed as "not
//! measured", in our template and in a user's alike.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Output, State, UndefinedBehavior, Value};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::front::Front;
use super::lineage::{Lineage, LineageInput, LineageOutput, LineageStep, PipelineInfo};
use crate::files::{self, FileError};
use crate::hash::Digest;

/// The built-in template.
const TEMPLATE: &str = include_str!("card.md.jinja");
/// What stands where no input holds a value.
const NOT_MEASURED: &str = "not measured";

/// What the author states, as opposed to what was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Statement {
    /// The card's heading.
    pub title: String,
    /// One paragraph about the model.
    pub summary: Option<String>,
    /// What the model is for.
    pub intended_use: Option<String>,
    /// What it is not for.
    pub out_of_scope: Option<String>,
    /// Limits known to the author, beside those the metrics show.
    pub limitations: Vec<String>,
    /// Path of the recipe inside the release.
    pub recipe: Option<String>,
    /// Front matter the author vouches for.
    pub front: Front,
}

/// A metrics file.
#[derive(Debug, Clone)]
pub struct Metrics {
    label: String,
    digest: Digest,
    data: Json,
}

/// A card could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A metrics file is no JSON object.
    #[error("failed to read the metrics '{label}' ({path})")]
    Metrics {
        /// Its label.
        label: String,
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The template is wrong.
    #[error("failed to fill the card's template: {0}")]
    Template(String),
    /// The author's base model is not the one that was trained.
    #[error("the card says base_model = \"{said}\", but the recorded base model is {proven}")]
    BaseModel {
        /// What the author wrote.
        said: String,
        /// What the lineage shows.
        proven: String,
    },
}

impl Metrics {
    /// Reads a metrics file: any JSON object.
    pub fn read(label: &str, path: &Path) -> Result<Self, CardError> {
        let bytes = files::read(path)?;
        let data: BTreeMap<String, Json> =
            serde_json::from_slice(&bytes).map_err(|source| CardError::Metrics {
                label: label.to_owned(),
                path: path.display().to_string(),
                source,
            })?;
        Ok(Metrics {
            label: label.to_owned(),
            digest: Digest::of(&bytes),
            data: data.into_iter().collect(),
        })
    }
}

/// The card. `charts` are the paths of pictures inside the release; `template`
/// is a user's own in place of the built-in one.
pub fn card(
    statement: &Statement,
    lineage: &Lineage,
    metrics: &[Metrics],
    charts: &[String],
    template: Option<&str>,
) -> Result<String, CardError> {
    let front = front(&statement.front, lineage)?;
    let values = View {
        front: front.to_yaml(),
        card: statement,
        pipeline: &lineage.pipeline,
        sources: sources(lineage),
        stages: stages(lineage, metrics),
        metrics: metrics.iter().map(|m| Report::of(m, lineage)).collect(),
        alarms: alarms(metrics),
        charts: charts.iter().map(|path| Chart::of(path)).collect(),
        provenance: provenance(lineage),
    };
    environment()
        .render_named_str("card", template.unwrap_or(TEMPLATE), Serde(values))
        .map(|text| tidy(&text))
        .map_err(|e| CardError::Template(message(&e)))
}

/// What a template sees.
#[derive(Serialize)]
struct View<'a> {
    front: String,
    card: &'a Statement,
    pipeline: &'a PipelineInfo,
    sources: Vec<Source>,
    stages: Vec<Stage<'a>>,
    metrics: Vec<Report<'a>>,
    alarms: Vec<Alarm<'a>>,
    charts: Vec<Chart>,
    provenance: Vec<Provenance<'a>>,
}

/// One line with the place; the library's debug form would quote the template.
fn message(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Never two blank lines in a row: loops that yield nothing leave gaps.
fn tidy(text: &str) -> String {
    let mut tidy = String::with_capacity(text.len());
    let mut blank = false;
    for line in text.lines().map(str::trim_end) {
        if !(blank && line.is_empty()) {
            tidy.push_str(line);
            tidy.push('\n');
        }
        blank = line.is_empty();
    }
    tidy
}

/// The author's front matter and what the lineage proves.
fn front(stated: &Front, lineage: &Lineage) -> Result<Front, CardError> {
    let mut front = stated.clone();
    let mut outputs = lineage.steps.iter().flat_map(|step| &step.outputs);
    let has_adapter = outputs.any(|output| output.ty == "adapter");
    if let Some(proven) = base_model(lineage) {
        match &front.base_model {
            Some(said) if *said != proven => {
                return Err(CardError::BaseModel {
                    said: said.clone(),
                    proven,
                });
            }
            _ => front.base_model = Some(proven),
        }
    }
    if has_adapter {
        front.library_name.get_or_insert_with(|| "peft".to_owned());
        if !front.tags.iter().any(|tag| tag == "lora") {
            front.tags.push("lora".to_owned());
        }
        if front.base_model.is_some() {
            front.base_model_relation = Some("adapter".to_owned());
        }
    }
    Ok(front)
}

/// The Hub id behind the `model` port of a step that makes an adapter.
fn base_model(lineage: &Lineage) -> Option<String> {
    let trains = |step: &&LineageStep| step.outputs.iter().any(|o| o.ty == "adapter");
    let inputs = lineage.steps.iter().filter(trains).flat_map(|s| &s.inputs);
    let mut models = inputs.filter(|input| input.port == "model");
    models.find_map(|input| {
        let from = input.from.as_ref()?;
        match (&from.hub, &from.step) {
            (Some(reference), _) => {
                let id = reference.trim_start_matches("hf://");
                Some(id.split('@').next().unwrap_or(id).to_owned())
            }
            (None, Some(step)) => fetched(lineage, step),
            (None, None) => None,
        }
    })
}

/// The repository that a step fetched.
fn fetched(lineage: &Lineage, step: &str) -> Option<String> {
    let fetches = |found: &&LineageStep| found.name == step && found.kind == "model.fetch";
    let step = lineage.steps.iter().find(fetches)?;
    Some(step.params.get("repo")?.as_str()?.to_owned())
}

#[derive(Serialize)]
struct Chart {
    name: String,
    path: String,
}

impl Chart {
    fn of(path: &str) -> Self {
        let file = path.rsplit('/').next().unwrap_or(path);
        let name = file.split('.').next().unwrap_or(file);
        Chart {
            name: name.to_owned(),
            path: path.to_owned(),
        }
    }
}

/// A metrics file with the step that wrote it, found by its digest.
#[derive(Serialize)]
struct Report<'a> {
    label: &'a str,
    digest: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    /// Whether a training step wrote it, whose section shows it.
    training: bool,
    data: &'a Json,
}

impl<'a> Report<'a> {
    fn of(metrics: &'a Metrics, lineage: &'a Lineage) -> Self {
        let step = lineage.producer(&metrics.digest).map(|(step, _)| step);
        Report {
            label: &metrics.label,
            digest: metrics.digest,
            step: step.map(|step| step.name.as_str()),
            kind: step.map(|step| step.kind.as_str()),
            training: step.is_some_and(is_training),
            data: &metrics.data,
        }
    }
}

fn is_training(step: &LineageStep) -> bool {
    let makes = |output: &LineageOutput| matches!(output.ty.as_str(), "adapter" | "model");
    step.outputs.iter().any(makes)
}

/// A step that makes a model or an adapter.
#[derive(Serialize)]
struct Stage<'a> {
    name: &'a str,
    kind: &'a str,
    version: u32,
    params: Vec<Fact>,
    inputs: Vec<StageInput<'a>>,
    /// Whether the step tells how it went; an initialisation does not.
    reports: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<&'a Json>,
}

#[derive(Serialize)]
struct StageInput<'a> {
    port: &'a str,
    reference: String,
}

fn stages<'a>(lineage: &'a Lineage, metrics: &'a [Metrics]) -> Vec<Stage<'a>> {
    let steps = lineage.steps.iter().filter(|step| is_training(step));
    steps
        .map(|step| {
            let wrote = |m: &&Metrics| step.outputs.iter().any(|o| o.digest == m.digest);
            let reference = |input: &'a LineageInput| {
                Some(StageInput {
                    port: &input.port,
                    reference: input.from.as_ref()?.reference()?,
                })
            };
            Stage {
                name: &step.name,
                kind: &step.kind,
                version: step.version,
                params: flatten(&Json::Object(step.params.clone())),
                inputs: step.inputs.iter().filter_map(reference).collect(),
                reports: step.outputs.iter().any(|o| o.ty == "metrics"),
                measured: metrics.iter().find(wrote).map(|m| &m.data),
            }
        })
        .collect()
}

/// Something that no step made.
#[derive(Serialize)]
struct Source {
    reference: String,
    digest: Digest,
    steps: Vec<String>,
}

fn sources(lineage: &Lineage) -> Vec<Source> {
    let mut sources: BTreeMap<(String, Digest), Vec<String>> = BTreeMap::new();
    for step in &lineage.steps {
        for input in &step.inputs {
            let Some(from) = input.from.as_ref().filter(|from| from.step.is_none()) else {
                continue;
            };
            let reference = from.reference().unwrap_or_default();
            let users = sources.entry((reference, input.digest)).or_default();
            if !users.contains(&step.name) {
                users.push(step.name.clone());
            }
        }
    }
    sources
        .into_iter()
        .map(|((reference, digest), steps)| Source {
            reference,
            digest,
            steps,
        })
        .collect()
}

#[derive(Serialize)]
struct Provenance<'a> {
    step: &'a str,
    kind: &'a str,
    version: u32,
    port: &'a str,
    size: u64,
    digest: Digest,
}

fn provenance(lineage: &Lineage) -> Vec<Provenance<'_>> {
    let rows = lineage.steps.iter().flat_map(|step| {
        step.outputs.iter().map(|output| Provenance {
            step: &step.name,
            kind: &step.kind,
            version: step.version,
            port: &output.port,
            size: output.size,
            digest: output.digest,
        })
    });
    rows.collect()
}

#[derive(Serialize)]
struct Alarm<'a> {
    label: &'a str,
    message: &'a str,
}

/// The messages under `alarms` of every metrics file, each once.
fn alarms(metrics: &[Metrics]) -> Vec<Alarm<'_>> {
    let mut alarms: Vec<Alarm<'_>> = Vec::new();
    for metrics in metrics {
        let raised = metrics.data.get("alarms").and_then(Json::as_array);
        for alarm in raised.into_iter().flatten() {
            let message = alarm.get("message").and_then(Json::as_str);
            let message = message.or(alarm.as_str()).unwrap_or_default();
            if !message.is_empty() && alarms.iter().all(|other| other.message != message) {
                let label = &metrics.label;
                alarms.push(Alarm { label, message });
            }
        }
    }
    alarms
}

/// A name and a value for a table.
#[derive(Debug, PartialEq, Serialize)]
struct Fact {
    name: String,
    value: String,
}

/// Every single value of a JSON object under its dotted name, sorted; lists of
/// single values are one value, lists of objects and `format` are left out.
fn flatten(json: &Json) -> Vec<Fact> {
    let mut facts = BTreeMap::new();
    flatten_into(json, String::new(), &mut facts);
    let facts = facts.into_iter().filter(|(name, _)| name != "format");
    facts.map(|(name, value)| Fact { name, value }).collect()
}

fn flatten_into(json: &Json, name: String, facts: &mut BTreeMap<String, String>) {
    match json {
        Json::Object(map) => {
            for (key, value) in map {
                let dotted = if name.is_empty() {
                    key.clone()
                } else {
                    format!("{name}.{key}")
                };
                flatten_into(value, dotted, facts);
            }
        }
        Json::Array(items) => {
            let single: Vec<String> = items.iter().filter_map(single).collect();
            if single.len() == items.len() && !items.is_empty() {
                facts.insert(name, single.join(", "));
            }
        }
        other => {
            if let Some(value) = single(other) {
                facts.insert(name, value);
            }
        }
    }
}

fn single(json: &Json) -> Option<String> {
    match json {
        Json::Bool(b) => Some(b.to_string()),
        Json::Number(n) => Some(n.to_string()),
        Json::String(text) => Some(text.clone()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

/// The template language: what is missing prints as [`NOT_MEASURED`].
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    environment.set_syntax(syntax.build().expect("the usual delimiters are valid"));
    environment.set_formatter(
        |out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value| match value.is_undefined()
            || value.is_none()
        {
            true => Ok(out.write_str(NOT_MEASURED)?),
            false => minijinja::escape_formatter(out, state, value),
        },
    );
    environment.add_filter("cell", |text: &Value| cell(&text_of(text)));
    environment.add_filter("line", |text: &Value| one_line(&text_of(text)));
    environment.add_filter("metric", |name: String| metric(&name));
    environment.add_filter("metric_names", metric_names);
    environment.add_filter("named", named);
    environment.add_filter("score", |score: Option<Serde<Score>>| {
        score.map_or(NOT_MEASURED.to_owned(), |score| score.0.to_string())
    });
    environment.add_filter("select_kind", |reports: Vec<Value>, kind: String| {
        let is = |report: &Value| kind_of(report).as_deref() == Some(kind.as_str());
        reports.into_iter().filter(is).collect::<Vec<_>>()
    });
    environment.add_filter("reject_kind", |reports: Vec<Value>, kinds: Vec<String>| {
        let keep = |report: &Value| kind_of(report).is_none_or(|kind| !kinds.contains(&kind));
        reports.into_iter().filter(keep).collect::<Vec<_>>()
    });
    environment.add_filter("reject_training", |reports: Vec<Value>| {
        let training = |r: &Value| r.get_attr("training").is_ok_and(|v| v.is_true());
        reports
            .into_iter()
            .filter(|r| !training(r))
            .collect::<Vec<_>>()
    });
    environment.add_function(
        "facts",
        |data: Option<Serde<Json>>, but: Option<Vec<String>>| {
            let data = data.map_or(Json::Null, |data| data.0);
            facts(&data, &but.unwrap_or_default())
        },
    );
    environment
}

fn text_of(value: &Value) -> String {
    if value.is_undefined() || value.is_none() {
        NOT_MEASURED.to_owned()
    } else {
        value.to_string()
    }
}

fn kind_of(report: &Value) -> Option<String> {
    report.get_attr("kind").ok()?.as_str().map(str::to_owned)
}

/// The table of everything a metrics file measured, but for some top keys.
fn facts(data: &Json, but: &[String]) -> String {
    let top = |fact: &Fact| fact.name.split('.').next().unwrap_or_default().to_owned();
    let mut facts = flatten(data);
    facts.retain(|fact| !but.contains(&top(fact)));
    if facts.is_empty() {
        return format!("{NOT_MEASURED}\n");
    }
    let mut table = String::from("| measured | value |\n|---|---|\n");
    for fact in facts {
        table.push_str(&format!(
            "| {} | {} |\n",
            cell(&fact.name),
            cell(&fact.value)
        ));
    }
    table
}

/// Text that cannot break out of a table cell.
fn cell(text: &str) -> String {
    one_line(text)
        .replace('\\', "\\\\")
        .replace('|', "\\|")
        .replace('<', "&lt;")
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// The name of a metric for people.
fn metric(name: &str) -> String {
    match name {
        "exact_match" => "exact match".to_owned(),
        "normalised_match" => "normalised match".to_owned(),
        "chrf" => "chrF".to_owned(),
        "truncated" => "unfinished answers".to_owned(),
        other => other.strip_prefix("field.").unwrap_or(other).to_owned(),
    }
}

/// The names of all metrics of a scores file, in their order.
fn metric_names(scores: Serde<Json>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for model in scores.0["models"].as_array().into_iter().flatten() {
        for score in model["overall"]["metrics"].as_array().into_iter().flatten() {
            if let Some(name) = score["name"]
                .as_str()
                .filter(|n| !names.iter().any(|o| o == n))
            {
                names.push(name.to_owned());
            }
        }
    }
    names
}

/// The item of a list with that name.
fn named(items: Vec<Value>, name: String) -> Option<Value> {
    let is = |item: &Value| {
        item.get_attr("name")
            .is_ok_and(|n| n.as_str() == Some(&name))
    };
    items.into_iter().find(is)
}

/// A score of `scores.json`, as far as the card shows it.
#[derive(Deserialize)]
struct Score {
    unit: String,
    value: f64,
    interval: Option<Interval>,
    change: Option<Change>,
}

#[derive(Deserialize)]
struct Interval {
    low: f64,
    high: f64,
}

#[derive(Deserialize)]
struct Change {
    value: f64,
    p: f64,
}

impl std::fmt::Display for Score {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |value: f64| match self.unit.as_str() {
            "proportion" => format!("{:.1} %", 100.0 * value),
            "points" => format!("{value:.1}"),
            "perplexity" => format!("{value:.2}"),
            _ => format!("{value:.3}"),
        };
        f.write_str(&number(self.value))?;
        if let Some(Interval { low, high }) = &self.interval {
            write!(f, " [{}, {}]", number(*low), number(*high))?;
        }
        if let Some(Change { value, p }) = &self.change {
            let sign = if *value < 0.0 { "−" } else { "+" };
            let p = if *p < 0.0001 {
                format!("{p:.0e}")
            } else {
                format!("{p:.4}")
            };
            // The difference of two shares is in percentage points.
            let size = number(value.abs()).replace('%', "pp");
            write!(f, "<br>Δ {sign}{size}, p = {p}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::lineage::tests::sample;
    use serde_json::json;

    /// Metrics as if read from the file that a step of the sample wrote.
    fn metrics(label: &str, step_output: u8, data: Json) -> Metrics {
        let digest = Digest::from_bytes([step_output; 32]);
        let label = label.to_owned();
        Metrics {
            label,
            digest,
            data,
        }
    }

    fn all_metrics() -> Vec<Metrics> {
        let score = |name: &str, unit: &str, value: f64, change: Json| {
            json!({"name": name, "unit": unit, "higher_is_better": true, "n": 40, "value": value,
                "interval": {"low": value / 2.0, "high": value * 2.0}, "change": change})
        };
        let change = json!({"value": 0.125, "test": "mcnemar_exact", "p": 0.03125});
        let scores = json!({"format": 1, "rows": 40, "baseline": "base", "confidence": 0.95, "samples": 1000,
            "models": [
                {"model": "base", "overall": {"n": 40, "metrics": [score("exact_match", "proportion", 0.25, Json::Null)]}, "by": {}},
                {"model": "stage1", "overall": {"n": 40, "metrics": [
                    score("exact_match", "proportion", 0.375, change),
                    score("loss", "nats_per_token", 1.75, Json::Null)]}, "by": {}}],
            "alarms": [{"kind": "small_sample", "models": [], "message": "only 40 | rows"}]});
        vec![
            metrics(
                "leaks",
                5,
                json!({"format": 1, "rows": {"train": 321, "test": 40}, "pairs": [{"left": "train", "right": "test", "exact": 0, "near": 0, "group": 0, "shared_answers": 17, "highest_similarity": 0.625}]}),
            ),
            metrics(
                "stage1",
                12,
                json!({"format": 1, "final_loss": 1.5625, "config": {"rank": 99},
                "validation": [{"step": 50, "loss": 3.5}, {"step": 60, "loss": 2.125}]}),
            ),
            metrics("stage2", 22, json!({"format": 1, "final_loss": 0.78125})),
            metrics("scores", 31, scores),
        ]
    }

    fn statement() -> Statement {
        Statement {
            title: "Tiny".into(),
            limitations: vec!["Too small for use.".into()],
            front: Front {
                license: Some("apache-2.0".into()),
                language: vec!["en".into()],
                ..Front::default()
            },
            ..Statement::default()
        }
    }

    fn render(metrics: &[Metrics]) -> String {
        let charts = ["charts/loss.svg".to_owned()];
        card(&statement(), &sample(), metrics, &charts, None).unwrap()
    }

    #[test]
    fn a_card_shows_what_was_recorded() {
        let card = render(&all_metrics());
        if let Some(path) = std::env::var_os("RETUNE_TEST_CARD") {
            std::fs::write(path, &card).unwrap();
        }
        assert!(!card.contains("99"), "{card}");
        for text in [
            "license: \"apache-2.0\"\n",
            "library_name: \"peft\"\nbase_model: \"org/tiny\"\nbase_model_relation: \"adapter\"",
            "| `data/a.jsonl` | import |",
            "| rows.train | 321 |",
            "| train, test | 0 | 0 | 0 | 17 | 0.625 |",
            "### stage1 (`lora.train`, version 2)",
            "| learning_rate | 0.00005 |",
            "| targets | q_proj, v_proj |",
            "| final_loss | 1.5625 |",
            "Validation loss after step 60: 2.125 nats per token.",
            "train `@split.train`, adapter `@stage1.adapter`.\n",
            "| final_loss | 0.78125 |",
            "![loss](<charts/loss.svg>)",
            "| model | n | exact match | loss |",
            "| base | 40 | 25.0 % [12.5 %, 50.0 %] | not measured |",
            "| stage1 | 40 | 37.5 % [18.8 %, 75.0 %]<br>Δ +12.5 pp, p = 0.0312 | 1.750 [0.875, 3.500] |",
            "- only 40 | rows (`scores`)",
            "- Too small for use.",
            "| score | `eval.score` 1 | scores | 131 |",
        ] {
            assert!(card.contains(text), "{text}\n----\n{card}");
        }
    }

    #[test]
    fn losses_of_answers_stand_in_the_evaluation() {
        let mut lineage = sample();
        let digest = Digest::from_bytes([41; 32]).to_string();
        let step = json!({"name": "retention", "kind": "eval.loss", "version": 1,
            "params": {}, "inputs": [], "outputs": [{"port": "metrics", "type": "metrics",
            "path": "loss.json", "digest": digest, "size": 9}]});
        lineage.steps.push(serde_json::from_value(step).unwrap());
        let data = json!({"format": 1, "models": {"stage2": {"loss": 1.375}}});
        let mut all = all_metrics();
        all.push(metrics("retention", 41, data));
        let card = card(&statement(), &lineage, &all, &[], None).unwrap();
        let (_, evaluation) = card.split_once("## Evaluation").unwrap();
        for text in ["### retention\n\n", "| models.stage2.loss | 1.375 |"] {
            assert!(evaluation.contains(text), "{text}\n----\n{card}");
        }
    }

    #[test]
    fn a_removed_metrics_input_takes_its_numbers_along() {
        let all = all_metrics();
        let numbers = [
            (
                "leaks",
                vec!["321", "0.625"],
                "Rows per split: not measured",
            ),
            (
                "stage1",
                vec!["1.5625"],
                "Course of the training: not measured",
            ),
            (
                "stage2",
                vec!["0.78125"],
                "Course of the training: not measured",
            ),
            (
                "scores",
                vec!["25.0 %", "37.5 %", "1.750", "only 40"],
                "Exact match: not measured",
            ),
        ];
        let full = render(&all);
        assert!(!full.contains("Exact match: not measured"), "{full}");
        for (label, gone, instead) in numbers {
            let rest: Vec<Metrics> = all.iter().filter(|m| m.label != label).cloned().collect();
            let card = render(&rest);
            assert!(card.contains(instead), "without {label}: {instead}\n{card}");
            for number in gone {
                assert!(full.contains(number), "{number}");
                assert!(!card.contains(number), "without {label}: {number}\n{card}");
            }
        }
    }

    #[test]
    fn our_template_holds_no_number_of_its_own() {
        let mut environment = Environment::new();
        environment.add_template("t", TEMPLATE).unwrap();
        let mut prose = TEMPLATE.replace("blake3", "");
        for (open, close) in [("{{", "}}"), ("{%", "%}")] {
            while let Some(start) = prose.find(open) {
                let end = start + prose[start..].find(close).unwrap() + close.len();
                prose.replace_range(start..end, "");
            }
        }
        let digit = prose
            .lines()
            .find(|line| line.contains(|c: char| c.is_ascii_digit()));
        assert_eq!(digit, None);
    }

    #[test]
    fn what_a_users_template_asks_for_in_vain_is_not_measured() {
        let fill = |text: &str| card(&statement(), &sample(), &all_metrics(), &[], Some(text));
        let text = "{{ metrics[9].data.models.x.y }} {{ nothing|score }} {{ scores.speed }} {{ pipeline.seed }}";
        let expected = "not measured not measured not measured 7\n";
        assert_eq!(fill(text).unwrap(), expected);
        let fault = fill("a\n{{ x|nofilter }}").unwrap_err().to_string();
        assert!(
            fault.contains("nofilter") && fault.contains("card:2"),
            "{fault}"
        );
    }

    #[test]
    fn a_base_model_that_was_not_trained_is_refused() {
        let mut statement = statement();
        statement.front.base_model = Some("org/huge".into());
        let fault = card(&statement, &sample(), &[], &[], None).unwrap_err();
        assert!(fault.to_string().ends_with("is org/tiny"), "{fault}");
    }

    #[test]
    fn metrics_that_no_step_wrote_belong_to_no_section() {
        let mut all = all_metrics();
        all.iter_mut()
            .for_each(|m| m.digest = Digest::of(b"foreign"));
        let card = render(&all);
        assert!(card.contains("Exact match: not measured"), "{card}");
        assert!(!card.contains("37.5 %"), "{card}");
    }

    #[test]
    fn facts_are_flat_sorted_and_without_the_format() {
        let facts = flatten(
            &json!({"format": 1, "b": {"d": [1, 2], "c": null}, "a": "x", "e": [{"f": 1}]}),
        );
        let pairs: Vec<(&str, &str)> = facts.iter().map(|f| (&*f.name, &*f.value)).collect();
        assert_eq!(pairs, [("a", "x"), ("b.d", "1, 2")]);
    }
}
