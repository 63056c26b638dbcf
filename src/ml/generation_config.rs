//! What a model's folder says about generation: `generation_config.json`, as Hugging Face writes it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::sampling::Sampling;
use crate::files::{self, FileError};

/// The file.
pub const FILE: &str = "generation_config.json";

/// What a folder says about generation cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DefaultsError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not what it should be.
    #[error("{}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// What a model's makers advise; none where they say nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Defaults {
    /// 0 where `do_sample` is not true, for then the rest is not meant.
    pub temperature: Option<f64>,
    /// As [`Sampling::top_k`].
    pub top_k: Option<usize>,
    /// As [`Sampling::top_p`].
    pub top_p: Option<f64>,
    /// As [`Sampling::min_p`].
    pub min_p: Option<f64>,
    /// As [`Sampling::repetition_penalty`]; holds without sampling, too.
    pub repetition_penalty: Option<f64>,
    /// The most new tokens.
    pub max_new_tokens: Option<usize>,
}

impl Defaults {
    /// Reads a model folder; nothing is advised where the file is not there.
    ///
    /// As in `transformers`, temperature (1 where none is given), top_k, top_p
    /// and min_p count only with `do_sample: true`.
    pub fn read(model: &Path) -> Result<Self, DefaultsError> {
        let Some((path, object)) = object(model, FILE)? else {
            return Ok(Defaults::default());
        };
        let number = |name: &str| number(&path, &object, name);
        let whole = |name: &str| Ok::<_, DefaultsError>(number(name)?.map(|x| x as usize));
        let mut defaults = Defaults {
            repetition_penalty: number("repetition_penalty")?,
            max_new_tokens: whole("max_new_tokens")?,
            ..Defaults::default()
        };
        if object.get("do_sample") != Some(&Value::Bool(true)) {
            return Ok(defaults);
        }
        defaults.temperature = Some(number("temperature")?.unwrap_or(1.0));
        defaults.top_k = whole("top_k")?;
        defaults.top_p = number("top_p")?;
        defaults.min_p = number("min_p")?;
        Ok(defaults)
    }

    /// Sampling as advised, greedy where nothing is.
    pub fn sampling(&self, seed: u64) -> Sampling {
        let plain = Sampling::default();
        Sampling {
            temperature: self.temperature.unwrap_or(plain.temperature),
            top_k: self.top_k.unwrap_or(plain.top_k),
            top_p: self.top_p.unwrap_or(plain.top_p),
            min_p: self.min_p.unwrap_or(plain.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(plain.repetition_penalty),
            seed,
        }
    }

    /// What is advised, as `name value` with commas between; empty for nothing.
    pub fn describe(&self) -> String {
        let whole = |x: Option<usize>| x.map(|x| x.to_string());
        let float = |x: Option<f64>| x.map(|x| x.to_string());
        let all = [
            ("temperature", float(self.temperature)),
            ("top_k", whole(self.top_k)),
            ("top_p", float(self.top_p)),
            ("min_p", float(self.min_p)),
            ("repetition_penalty", float(self.repetition_penalty)),
            ("max_new_tokens", whole(self.max_new_tokens)),
        ];
        let said = all.into_iter();
        let said = said.filter_map(|(name, value)| Some(format!("{name} {}", value?)));
        said.collect::<Vec<_>>().join(", ")
    }
}

/// The tokens that end an answer by `generation_config.json`, or by
/// `config.json` where that file is not there or names none.
pub fn stop_ids(model: &Path) -> Result<Vec<u32>, DefaultsError> {
    for name in [FILE, "config.json"] {
        let Some((path, object)) = object(model, name)? else {
            continue;
        };
        let id = |value: &Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| DefaultsError::Content {
                path: path.clone(),
                message: format!("eos_token_id: {value} is no token's id"),
            })
        };
        match object.get("eos_token_id") {
            None | Some(Value::Null) => {}
            Some(Value::Array(ids)) => return ids.iter().map(id).collect(),
            Some(one) => return Ok(vec![id(one)?]),
        }
    }
    Ok(Vec::new())
}

/// A file and the object in it.
type Found = (PathBuf, Map<String, Value>);

/// The object in a file of the folder, if the file is there.
fn object(folder: &Path, name: &str) -> Result<Option<Found>, DefaultsError> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(None);
    }
    let text = files::read_text(&path)?;
    match serde_json::from_str(&text) {
        Ok(object) => Ok(Some((path, object))),
        Err(error) => Err(DefaultsError::Content {
            path,
            message: error.to_string(),
        }),
    }
}

fn number(
    path: &Path,
    object: &Map<String, Value>,
    name: &str,
) -> Result<Option<f64>, DefaultsError> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) if number >= 0.0 => Ok(Some(number)),
            _ => Err(DefaultsError::Content {
                path: path.to_owned(),
                message: format!("{name}: {value} is no number of at least 0"),
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn advice_on_sampling_counts_only_with_do_sample() {
        let read = |text: &str| Defaults::read(folder(&[(FILE, text)]).path()).unwrap();
        let qwen = r#"{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [1, 2]}"#;
        let sampling = read(qwen).sampling(3);
        assert_eq!(
            (
                sampling.temperature,
                sampling.top_k,
                sampling.top_p,
                sampling.seed
            ),
            (0.6, 20, 0.95, 3)
        );
        assert_eq!(
            read(qwen).describe(),
            "temperature 0.6, top_k 20, top_p 0.95"
        );
        let greedy = read(&qwen.replace("true", "false"));
        assert!(greedy.sampling(0).is_greedy());
        assert_eq!(greedy.describe(), "");
        assert_eq!(read(r#"{"do_sample": true}"#).temperature, Some(1.0));
        assert_eq!(
            Defaults::read(folder(&[]).path()).unwrap(),
            Defaults::default()
        );
    }

    #[test]
    fn stop_tokens_are_one_or_a_list() {
        let ids = |files: &[(&str, &str)]| stop_ids(folder(files).path()).unwrap();
        let config = ("config.json", r#"{"eos_token_id": 7}"#);
        assert_eq!(
            ids(&[(FILE, r#"{"eos_token_id": [1, 106]}"#), config]),
            [1, 106]
        );
        assert_eq!(ids(&[(FILE, "{}"), config]), [7]);
        assert_eq!(ids(&[config]), [7]);
        assert!(ids(&[]).is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_told_with_the_file() {
        let error = |text: &str| {
            let folder = folder(&[(FILE, text)]);
            let stops = stop_ids(folder.path()).err().map(|e| e.to_string());
            stops.or(Defaults::read(folder.path()).err().map(|e| e.to_string()))
        };
        assert!(error("[").unwrap().contains("generation_config.json: "));
        assert!(
            error(r#"{"eos_token_id": "a"}"#)
                .unwrap()
                .contains("is no token's id")
        );
        assert!(
            error(r#"{"repetition_penalty": "x"}"#)
                .unwrap()
                .contains("is no number")
        );
    }
}
