//! The JSON Schema: what it says of kinds, ports and parameters.

use regex::Regex;
use serde_json::{Value, json};

use super::registry;
use retune::graph::schema;
use retune::step::Registry;

fn of(kind: &str) -> Value {
    schema(&registry())["$defs"][kind].take()
}

#[test]
fn every_kind_has_a_branch_that_takes_no_other_fields() {
    let registry = registry();
    let schema = schema(&registry);
    let branches = &schema["properties"]["steps"]["additionalProperties"]["oneOf"];
    assert_eq!(branches.as_array().unwrap().len(), registry.iter().count());
    for kind in registry.iter() {
        let branch = &schema["$defs"][kind.name()];
        assert_eq!(branch["properties"]["uses"]["const"], kind.name());
        assert_eq!(branch["additionalProperties"], json!(false));
        assert_eq!(branch["required"][0], "uses");
    }
    assert!(!schema.to_string().contains("\"default\":null"));
}

#[test]
fn ports_and_parameters_are_described() {
    let train = of("lora.train");
    let properties = &train["properties"];
    assert_eq!(
        properties["model"]["description"],
        "the base model (a model)"
    );
    assert_eq!(
        properties["epochs"]["description"],
        "How often the rows are seen."
    );
    assert_eq!(properties["epochs"]["default"], 1);
    let mut required: Vec<&str> = train["required"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    required.sort_unstable();
    assert_eq!(required, ["learning_rate", "model", "train", "uses"]);
    assert!(of("release.card")["properties"].get("lineage").is_none());
}

#[test]
fn a_typed_value_may_be_a_reference() {
    let reference = json!({ "$ref": "#/$defs/reference" });
    let train = of("lora.train");
    let properties = &train["properties"];
    assert_eq!(properties["learning_rate"]["anyOf"][1], reference);
    assert_eq!(properties["learning_rate"]["anyOf"][0]["type"], "number");
    // Also within a table, and not where any string will do.
    let lora = &properties["lora"]["anyOf"][0]["properties"];
    assert_eq!(lora["rank"]["anyOf"][1], reference);
    assert_eq!(
        lora["targets"]["anyOf"][0]["items"],
        json!({ "type": "string" })
    );
    let run = &of("command")["properties"]["run"]["anyOf"];
    assert!(!run.as_array().unwrap().contains(&reference), "{run}");
}

#[test]
fn patterns_tell_inputs_apart() {
    let schema = schema(&registry());
    let input = schema["$defs"]["input"]["anyOf"].as_array().unwrap();
    let patterns: Vec<Regex> = input
        .iter()
        .map(|branch| Regex::new(branch["pattern"].as_str().unwrap()).unwrap())
        .collect();
    for (text, fits) in [
        ("@step", Some(0)),
        ("@step.output", Some(0)),
        ("hf://a/b@c", Some(1)),
        ("hf://datasets/a/b@c/d/e.json", Some(1)),
        ("data/*.jsonl", Some(2)),
        ("hf/x", Some(2)),
        ("home", Some(2)),
        ("h", Some(2)),
        ("${params.rows}", Some(2)),
        ("hf://a/b", None),
        ("/etc", None),
        ("@", None),
        ("@a b", None),
        ("", None),
    ] {
        let found = patterns.iter().position(|pattern| pattern.is_match(text));
        assert_eq!(found, fits, "{text:?}");
    }
    let reference = schema["$defs"]["reference"]["pattern"].as_str().unwrap();
    let reference = Regex::new(reference).unwrap();
    assert!(reference.is_match("${params.rate}"));
    assert!(!reference.is_match("x${params.rate}") && !reference.is_match("${param.rate}"));
}

#[test]
fn without_kinds_there_are_no_steps() {
    let schema = schema(&Registry::new());
    assert_eq!(
        schema["properties"]["steps"]["additionalProperties"],
        json!(false)
    );
}
