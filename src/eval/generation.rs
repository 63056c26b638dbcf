//! One line of `generations.jsonl`: what a model answered to a row.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::data::{self, DataError, RowId, Sorted};

/// The model name of the base model, which no adapter may use as a label.
pub const BASE: &str = "base";

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model ended its answer.
    Stop,
    /// The limit on new tokens, or the model's context, cut it off.
    Length,
}

/// What one model answered to one row, and how likely it found the right answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// The row's id.
    pub row: RowId,
    /// [`BASE`] or the adapter's label.
    pub model: String,
    /// The prompt exactly as the model saw it, rendered by the chat template.
    pub prompt: String,
    /// The row's answer.
    pub expected: String,
    /// What the model wrote.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// How many tokens it wrote.
    pub tokens: u64,
    /// Mean loss over the tokens of the expected answer, nats per token;
    /// absent when it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// How many tokens `loss` is the mean of.
    #[serde(default)]
    pub answer_tokens: u64,
    /// The row's meta fields.
    #[serde(serialize_with = "sorted")]
    pub meta: BTreeMap<String, Value>,
}

fn sorted<S: Serializer>(meta: &BTreeMap<String, Value>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(meta.iter().map(|(name, value)| (name, Sorted(value))))
}

/// Reads a `generations.jsonl`.
pub fn read(path: &Path) -> Result<Vec<Generation>, DataError> {
    data::read_jsonl(path)
}

/// Writes a `generations.jsonl`, one compact object a line.
pub fn write(path: &Path, generations: &[Generation]) -> Result<(), DataError> {
    data::write_jsonl(path, generations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Digest;
    use proptest::prelude::*;

    fn generation() -> impl Strategy<Value = Generation> {
        let loss = proptest::option::of(0.0..20.0f64);
        let meta = proptest::collection::btree_map("[a-z]{1,4}", ".*".prop_map(Value::from), 0..3);
        let texts = (".*", ".*", any::<String>());
        (any::<[u8; 32]>(), texts, any::<bool>(), loss, meta).prop_map(
            |(row, (model, prompt, text), stopped, loss, meta)| Generation {
                row: RowId(Digest::from_bytes(row)),
                model,
                expected: prompt.clone(),
                prompt,
                text,
                finish: if stopped {
                    Finish::Stop
                } else {
                    Finish::Length
                },
                tokens: 3,
                loss,
                answer_tokens: 7,
                meta,
            },
        )
    }

    proptest! {
        #[test]
        fn a_file_round_trips(written in proptest::collection::vec(generation(), 0..5)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("g.jsonl");
            write(&path, &written).unwrap();
            prop_assert_eq!(read(&path).unwrap(), written);
        }
    }

    #[test]
    fn the_line_format_is_pinned() {
        let line = format!(
            r#"{{"row":"{}","model":"base","prompt":"p","expected":"e","text":"t","finish":"length","tokens":2,"loss":0.5,"answer_tokens":4,"meta":{{"tool":"x"}}}}"#,
            "ab".repeat(32)
        );
        let parsed: Generation = serde_json::from_str(&line).unwrap();
        assert_eq!(serde_json::to_string(&parsed).unwrap(), line);
    }

    #[test]
    fn a_bad_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g.jsonl");
        std::fs::write(&path, "{\"row\":1}\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("g.jsonl:1"), "{error}");
    }
}
