//! `recipe.toml`: a pipeline file that runs again exactly what ran, with the expected digests as comments.

use std::fmt::Write;

use serde_json::Value;
use toml::Value as Toml;

use super::lineage::{Lineage, LineageInput, LineageStep};

/// A lineage that cannot be written as a pipeline file.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// An input's origin names none or several of step, path and hub.
    #[error("step '{step}': the origin of input '{port}' is not one step, path or hub reference")]
    Origin {
        /// The step.
        step: String,
        /// The port.
        port: String,
    },
    /// A parameter has no TOML form.
    #[error("step '{step}': the parameter '{param}' has no TOML form ({why})")]
    Param {
        /// The step.
        step: String,
        /// The parameter.
        param: String,
        /// Why.
        why: &'static str,
    },
}

/// The pipeline file of a lineage.
///
/// Every parameter has its effective value, so that neither a changed default
/// nor an override can make the rerun differ. Digests stand in comments: a
/// pipeline file holds what to do, not what came out.
pub fn recipe(lineage: &Lineage) -> Result<String, RecipeError> {
    let pipeline = &lineage.pipeline;
    let mut text = String::from(
        "# What ran, as a pipeline file: every parameter is the effective one.\n\
         # A digest beside an input or an output is the blake3 of its content; a\n\
         # rerun that agrees with them is the same run.\n\n[pipeline]\n",
    );
    let _ = writeln!(text, "name = {}", string(&pipeline.name));
    if !pipeline.description.is_empty() {
        let _ = writeln!(text, "description = {}", string(&pipeline.description));
    }
    let _ = writeln!(text, "seed = {}", pipeline.seed);
    for step in &lineage.steps {
        text.push('\n');
        write_step(&mut text, step)?;
    }
    Ok(text)
}

fn write_step(text: &mut String, step: &LineageStep) -> Result<(), RecipeError> {
    for output in &step.outputs {
        let _ = writeln!(text, "# output {} = {}", output.port, output.digest);
    }
    let _ = writeln!(text, "[steps.{}]", key(&step.name));
    let _ = writeln!(
        text,
        "uses = {} # version {}",
        string(&step.kind),
        step.version
    );
    let mut ports: Vec<&str> = Vec::new();
    for input in &step.inputs {
        // What the engine supplies by itself is not written in a pipeline file.
        if input.from.is_some() && !ports.contains(&input.port.as_str()) {
            ports.push(&input.port);
        }
    }
    for port in ports {
        let inputs: Vec<&LineageInput> = step.inputs.iter().filter(|i| i.port == port).collect();
        write_port(text, step, port, &inputs)?;
    }
    let mut params: Vec<_> = step.params.iter().collect();
    params.sort_by_key(|(name, _)| *name);
    for (name, value) in params {
        let fault = |why| RecipeError::Param {
            step: step.name.clone(),
            param: name.clone(),
            why,
        };
        // TOML has no null: a parameter that is not set is left out.
        if let Some(value) = to_toml(value).map_err(fault)? {
            let _ = writeln!(text, "{} = {value}", key(name));
        }
    }
    Ok(())
}

/// One thing as a string, several as an array, labelled ones as a table. A
/// label differs from the reference itself; see [`LineageInput::label`].
fn write_port(
    text: &mut String,
    step: &LineageStep,
    port: &str,
    inputs: &[&LineageInput],
) -> Result<(), RecipeError> {
    let mut references = Vec::new();
    for input in inputs {
        let reference = input.from.as_ref().and_then(|from| from.reference());
        references.push(reference.ok_or_else(|| RecipeError::Origin {
            step: step.name.clone(),
            port: port.to_owned(),
        })?);
        let _ = writeln!(
            text,
            "# input {port} {} = {}",
            line(&input.label),
            input.digest
        );
    }
    let _ = write!(text, "{} = ", key(port));
    let labelled = inputs.iter().zip(&references).any(|(i, r)| is_label(i, r));
    match &references[..] {
        _ if labelled => {
            let pairs: Vec<String> = inputs
                .iter()
                .zip(&references)
                .map(|(input, reference)| format!("{} = {}", key(&input.label), string(reference)))
                .collect();
            let _ = writeln!(text, "{{ {} }}", pairs.join(", "));
        }
        [one] => {
            let _ = writeln!(text, "{}", string(one));
        }
        several => {
            let items: Vec<String> = several.iter().map(|r| string(r)).collect();
            let _ = writeln!(text, "[{}]", items.join(", "));
        }
    }
    Ok(())
}

/// Whether the pipeline gave the input a label: otherwise its label is the
/// reference itself, or `@step` for a step's first output.
fn is_label(input: &LineageInput, reference: &str) -> bool {
    // The values of a cell may hold dots; an output's name does not.
    let short = match reference.starts_with('@') {
        true => reference
            .rsplit_once('.')
            .map_or(reference, |(step, _)| step),
        false => reference.split('.').next().unwrap_or_default(),
    };
    input.label != reference && input.label != short
}

/// A key as TOML writes it: bare where that is possible.
fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) {
        name.to_owned()
    } else {
        string(name)
    }
}

/// A basic one-line string.
fn string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Text that a pipeline file does not take for a reference.
fn escaped(text: &str) -> String {
    text.replace("${params.", "$${params.")
        .replace("${matrix.", "$${matrix.")
}

/// Text that fits behind a `#`.
fn line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

/// A JSON value as inline TOML; none for null.
fn to_toml(value: &Value) -> Result<Option<String>, &'static str> {
    Ok(Some(match value {
        Value::Null => return Ok(None),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(n), _, _) => n.to_string(),
            (None, Some(_), _) => return Err("integers end at 2⁶³ − 1"),
            (None, None, Some(x)) => Toml::Float(x).to_string(),
            (None, None, None) => return Err("no 64-bit number"),
        },
        Value::String(text) => string(&escaped(text)),
        Value::Array(items) => {
            let mut parts = Vec::with_capacity(items.len());
            for item in items {
                parts.push(to_toml(item)?.ok_or("null inside a list")?);
            }
            format!("[{}]", parts.join(", "))
        }
        Value::Object(map) => {
            let mut sorted: Vec<_> = map.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            let mut parts = Vec::with_capacity(sorted.len());
            for (name, value) in sorted {
                if let Some(value) = to_toml(value)? {
                    parts.push(format!("{} = {value}", key(name)));
                }
            }
            format!("{{ {} }}", parts.join(", "))
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::lineage::tests::sample;
    use serde_json::json;

    #[test]
    fn a_recipe_parses_and_holds_every_parameter_and_input() {
        let lineage = sample();
        let text = recipe(&lineage).unwrap();
        let parsed: toml::Table = text.parse().unwrap();
        let pipeline = parsed["pipeline"].as_table().unwrap();
        assert_eq!(pipeline["name"].as_str(), Some("quick \"start\""));
        assert_eq!(pipeline["description"].as_str(), Some("two\nlines"));
        assert_eq!(pipeline["seed"].as_integer(), Some(7));
        let steps = parsed["steps"].as_table().unwrap();
        assert_eq!(steps.len(), lineage.steps.len());
        for step in &lineage.steps {
            let written = steps[&step.name].as_table().unwrap();
            assert_eq!(written["uses"].as_str(), Some(step.kind.as_str()));
            let mut keys: Vec<&str> = vec!["uses"];
            let set = step.params.iter().filter(|(_, value)| !value.is_null());
            keys.extend(set.map(|(name, _)| name.as_str()));
            let given = step.inputs.iter().filter(|input| input.from.is_some());
            keys.extend(given.map(|input| input.port.as_str()));
            keys.sort_unstable();
            keys.dedup();
            let mut found: Vec<&str> = written.keys().map(String::as_str).collect();
            found.sort_unstable();
            assert_eq!(found, keys, "{}", step.name);
            for (name, value) in &step.params {
                if !value.is_null() {
                    assert_eq!(&serde_json::to_value(&written[name]).unwrap(), value);
                }
            }
        }
    }

    #[test]
    fn inputs_are_written_as_one_many_or_labelled() {
        let text = recipe(&sample()).unwrap();
        let parsed: toml::Table = text.parse().unwrap();
        let steps = serde_json::to_value(&parsed["steps"]).unwrap();
        assert_eq!(
            steps["import"]["files"],
            json!(["data/a.jsonl", "data/b.jsonl"])
        );
        assert_eq!(steps["stage1"]["model"], json!("hf://org/tiny@abc"));
        assert_eq!(steps["stage2"]["adapter"], json!("@stage1.adapter"));
        let adapters = json!({"stage1": "@stage1.adapter", "stage 2": "@stage2.adapter"});
        assert_eq!(steps["generate"]["adapters"], adapters);
        assert_eq!(
            steps["score"]["generations"],
            json!("@generate.generations")
        );
    }

    #[test]
    fn every_digest_stands_in_a_comment() {
        let lineage = sample();
        let text = recipe(&lineage).unwrap();
        for step in &lineage.steps {
            for output in &step.outputs {
                let line = format!("# output {} = {}\n", output.port, output.digest);
                assert!(text.contains(&line), "{line}");
            }
            for input in step.inputs.iter().filter(|input| input.from.is_some()) {
                assert!(text.contains(&format!("{} = {}\n", input.label, input.digest)));
            }
        }
    }

    #[test]
    fn what_toml_cannot_say_is_an_error_that_names_the_parameter() {
        for value in [json!([null]), json!(u64::MAX)] {
            let mut lineage = sample();
            lineage.steps[1].params.insert("x".into(), value);
            let fault = recipe(&lineage).unwrap_err().to_string();
            assert!(
                fault.starts_with("step 'split': the parameter 'x'"),
                "{fault}"
            );
        }
        let mut lineage = sample();
        lineage.steps[0].inputs[0].from = Some(Default::default());
        assert!(matches!(recipe(&lineage), Err(RecipeError::Origin { .. })));
    }

    #[test]
    fn a_label_cannot_break_out_of_its_comment() {
        let mut lineage = sample();
        lineage.steps[4].inputs[0].label = "a\nseed = 9".into();
        let parsed: toml::Table = recipe(&lineage).unwrap().parse().unwrap();
        let step = parsed["steps"]["generate"].as_table().unwrap();
        assert!(!step.contains_key("seed"));
        assert!(
            step["adapters"]
                .as_table()
                .unwrap()
                .contains_key("a\nseed = 9")
        );
    }
}
