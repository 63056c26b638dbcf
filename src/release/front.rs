//! The YAML front matter of a Hugging Face model card.

use std::fmt::Write;

use serde::Serialize;

/// What the front matter says; what is not known is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Front {
    /// An SPDX-like identifier of the Hub, `apache-2.0`.
    pub license: Option<String>,
    /// Language codes.
    pub language: Vec<String>,
    /// `peft` for adapters.
    pub library_name: Option<String>,
    /// The Hub id of the base model.
    pub base_model: Option<String>,
    /// `adapter` for adapters.
    pub base_model_relation: Option<String>,
    /// Hub ids of data sets.
    pub datasets: Vec<String>,
    /// Free tags.
    pub tags: Vec<String>,
    /// The Hub's task name, `text-generation`.
    pub pipeline_tag: Option<String>,
}

impl Front {
    /// The front matter with its `---` lines.
    pub fn to_yaml(&self) -> String {
        let mut yaml = String::from("---\n");
        scalar(&mut yaml, "license", &self.license);
        list(&mut yaml, "language", &self.language);
        scalar(&mut yaml, "library_name", &self.library_name);
        scalar(&mut yaml, "base_model", &self.base_model);
        scalar(&mut yaml, "base_model_relation", &self.base_model_relation);
        list(&mut yaml, "datasets", &self.datasets);
        list(&mut yaml, "tags", &self.tags);
        scalar(&mut yaml, "pipeline_tag", &self.pipeline_tag);
        yaml.push_str("---\n");
        yaml
    }
}

fn scalar(yaml: &mut String, key: &str, value: &Option<String>) {
    if let Some(value) = value {
        let _ = writeln!(yaml, "{key}: {}", quoted(value));
    }
}

fn list(yaml: &mut String, key: &str, values: &[String]) {
    if !values.is_empty() {
        let _ = writeln!(yaml, "{key}:");
    }
    for value in values {
        let _ = writeln!(yaml, "- {}", quoted(value));
    }
}

/// A double-quoted scalar, so that `no` stays a language and `1e3` a name. The
/// escapes are those that YAML shares with JSON.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out_and_strings_stay_strings() {
        assert_eq!(Front::default().to_yaml(), "---\n---\n");
        let front = Front {
            language: vec!["no".into()],
            base_model: Some("a: \"b\"\n# c".into()),
            ..Front::default()
        };
        assert_eq!(
            front.to_yaml(),
            "---\nlanguage:\n- \"no\"\nbase_model: \"a: \\\"b\\\"\\u000a# c\"\n---\n"
        );
    }
}
