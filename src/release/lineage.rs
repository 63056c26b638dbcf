//! The lineage file: kind, effective parameters, and input and output digests of every upstream step.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::files::{self, FileError};
use crate::hash::Digest;

/// The newest lineage format this version reads. 1: the first.
pub const FORMAT: u32 = 1;

/// How the inputs of a step came to be, as the engine tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// The version of the format.
    pub format: u32,
    /// The pipeline's own fields.
    pub pipeline: PipelineInfo,
    /// Every upstream step in build order.
    pub steps: Vec<LineageStep>,
}

/// What `[pipeline]` says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PipelineInfo {
    /// The pipeline's name.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// The seed that steps without one of their own use.
    #[serde(default)]
    pub seed: u64,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LineageStep {
    /// Its name in the pipeline.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// The kind's version.
    pub version: u32,
    /// Every effective parameter.
    #[serde(default)]
    pub params: Map<String, Value>,
    /// Its inputs in the order of ports; a port that takes several appears
    /// several times.
    #[serde(default)]
    pub inputs: Vec<LineageInput>,
    /// Its outputs in the order of ports.
    #[serde(default)]
    pub outputs: Vec<LineageOutput>,
}

/// One input of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LineageInput {
    /// The port.
    pub port: String,
    /// For labelled ports the label, else how the pipeline refers to it.
    #[serde(default)]
    pub label: String,
    /// Where it comes from; absent for what the engine itself supplies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
    /// Digest of its content.
    pub digest: Digest,
}

/// Where an input comes from: exactly one of step, path and hub.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The step whose output it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The output's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// A path relative to the project root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A pinned Hub reference, `hf://…@revision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
}

impl Origin {
    /// The reference as a pipeline file writes it.
    pub fn reference(&self) -> Option<String> {
        match (&self.step, &self.output, &self.path, &self.hub) {
            (Some(step), Some(output), None, None) => Some(format!("@{step}.{output}")),
            (Some(step), None, None, None) => Some(format!("@{step}")),
            (None, None, Some(path), None) => Some(path.clone()),
            (None, None, None, Some(hub)) => Some(hub.clone()),
            _ => None,
        }
    }
}

/// One output of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LineageOutput {
    /// Its name.
    pub port: String,
    /// Its port type.
    #[serde(rename = "type")]
    pub ty: String,
    /// Where it lies in the step's output folder.
    pub path: String,
    /// Digest of its content.
    pub digest: Digest,
    /// Bytes in all its files.
    pub size: u64,
}

/// The lineage file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LineageError {
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not a lineage file.
    #[error("failed to read the lineage {0}")]
    Json(String, #[source] serde_json::Error),
    /// A newer version of this program wrote it.
    #[error("the lineage has format {0}, and this version reads up to {FORMAT}")]
    Newer(u32),
}

impl Lineage {
    /// Reads a lineage file.
    pub fn read(path: &Path) -> Result<Self, LineageError> {
        let text = files::read_text(path)?;
        let lineage: Lineage = serde_json::from_str(&text)
            .map_err(|e| LineageError::Json(path.display().to_string(), e))?;
        if lineage.format > FORMAT {
            return Err(LineageError::Newer(lineage.format));
        }
        Ok(lineage)
    }

    /// The step and output whose content has this digest; the first in build
    /// order, which is the one that made it.
    pub fn producer(&self, digest: &Digest) -> Option<(&LineageStep, &LineageOutput)> {
        self.steps.iter().find_map(|step| {
            let output = step.outputs.iter().find(|o| o.digest == *digest)?;
            Some((step, output))
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// A pipeline of an import, a split, two stages, and scores.
    pub fn sample() -> Lineage {
        let digest = |n: u8| Digest::from_bytes([n; 32]).to_string();
        let from = |step: &str, output: &str| json!({"step": step, "output": output});
        let out = |port: &str, ty: &str, path: &str, n: u8| json!({"port": port, "type": ty, "path": path, "digest": digest(n), "size": 100 + u32::from(n)});
        let stage = |name: &str, n: u8, extra: Value| {
            let mut inputs = vec![
                json!({"port": "model", "label": "hf://org/tiny@abc", "from": {"hub": "hf://org/tiny@abc"}, "digest": digest(90)}),
                json!({"port": "train", "label": "@split.train", "from": from("split", "train"), "digest": digest(4)}),
            ];
            if !extra.is_null() {
                inputs.push(extra);
            }
            json!({"name": name, "kind": "lora.train", "version": 2,
                "params": {"rank": 8, "learning_rate": 5e-5, "targets": ["q_proj", "v_proj"], "warmup": null, "seed": 3},
                "inputs": inputs,
                "outputs": [out("adapter", "adapter", "adapter", n), out("log", "log", "log.jsonl", n + 1), out("metrics", "metrics", "training.json", n + 2)]})
        };
        let resumed = json!({"port": "adapter", "label": "@stage1.adapter", "from": from("stage1", "adapter"), "digest": digest(10)});
        serde_json::from_value(json!({"format": 1,
            "pipeline": {"name": "quick \"start\"", "description": "two\nlines", "seed": 7},
            "steps": [
                {"name": "import", "kind": "data.import", "version": 1, "params": {"schema": "chat"},
                 "inputs": [
                    {"port": "files", "label": "data/a.jsonl", "from": {"path": "data/a.jsonl"}, "digest": digest(1)},
                    {"port": "files", "label": "data/b.jsonl", "from": {"path": "data/b.jsonl"}, "digest": digest(2)}],
                 "outputs": [out("rows", "dataset", "rows.jsonl", 3)]},
                {"name": "split", "kind": "data.split", "version": 1, "params": {},
                 "inputs": [{"port": "rows", "label": "@import.rows", "from": from("import", "rows"), "digest": digest(3)}],
                 "outputs": [out("train", "dataset", "train.jsonl", 4), out("report", "metrics", "leaks.json", 5)]},
                stage("stage1", 10, Value::Null),
                stage("stage2", 20, resumed),
                {"name": "generate", "kind": "eval.generate", "version": 1, "params": {"max_new_tokens": 64},
                 "inputs": [
                    {"port": "adapters", "label": "stage1", "from": from("stage1", "adapter"), "digest": digest(10)},
                    {"port": "adapters", "label": "stage 2", "from": from("stage2", "adapter"), "digest": digest(20)}],
                 "outputs": [out("generations", "generations", "generations.jsonl", 30)]},
                {"name": "score", "kind": "eval.score", "version": 1, "params": {},
                 "inputs": [
                    {"port": "generations", "label": "@generate", "from": from("generate", "generations"), "digest": digest(30)},
                    {"port": "lineage", "label": "", "digest": digest(99)}],
                 "outputs": [out("scores", "metrics", "scores.json", 31)]}
            ]}))
        .unwrap()
    }

    #[test]
    fn an_origin_is_exactly_one_thing() {
        let both = Origin {
            path: Some("a".into()),
            hub: Some("hf://x@y".into()),
            ..Origin::default()
        };
        assert_eq!(both.reference(), None);
    }

    #[test]
    fn the_producer_of_a_digest_is_found() {
        let lineage = sample();
        let (step, output) = lineage.producer(&Digest::from_bytes([31; 32])).unwrap();
        assert_eq!(
            (step.name.as_str(), output.port.as_str()),
            ("score", "scores")
        );
        assert!(lineage.producer(&Digest::of(b"")).is_none());
    }
}
