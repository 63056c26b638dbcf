//! The JSON Schema of the pipeline file, for editors: one branch per kind.

use serde_json::{Map, Value, json};

use super::check::required;
use crate::step::{Arity, InPort, Kind, Registry};

const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9_-]*$";
/// The name of a step, which may be one cell of a matrix.
const STEP_NAME: &str = r"^[A-Za-z0-9][A-Za-z0-9_-]*(\[.+\])?$";
/// A whole-string reference to a parameter or to an axis.
const REFERENCE: &str = r"^\$\{(params|matrix)\.[A-Za-z0-9][A-Za-z0-9_-]*\}$";
const STEP: &str = r"^@[A-Za-z0-9][A-Za-z0-9_-]*(\[.+\])?(\.[^.\s]+)?$";
/// Cells of a matrix.
const CELLS: &str = r"^@[A-Za-z0-9][A-Za-z0-9_-]*\[.+\](\.[^.\s]+)?$";
/// A step whose matrix is taken over.
const WHOLE: &str = r"^@[A-Za-z0-9][A-Za-z0-9_-]*$";
const HUB: &str = r"^hf://((datasets|models)/)?[^/@\s]+/[^/@\s]+@[^/@\s]+(/.+)?$";
/// Anything that starts neither with `@` or `/` nor with `hf://`.
const PATH: &str = "^([^@/h].*|h([^f].*)?|hf([^:].*)?|hf:([^/].*)?|hf:/([^/].*)?)$";

/// The JSON Schema (draft 2020-12) of a pipeline file with the kinds of
/// `registry`.
pub fn schema(registry: &Registry) -> Value {
    let mut defs = Map::new();
    defs.insert("input".to_owned(), input());
    defs.insert("reference".to_owned(), reference());
    defs.insert("matrix".to_owned(), matrix());
    let mut branches = Vec::new();
    for kind in registry.iter() {
        defs.insert(kind.name().to_owned(), branch(kind));
        branches.push(json!({ "$ref": format!("#/$defs/{}", kind.name()) }));
    }
    let step = match branches.is_empty() {
        true => Value::Bool(false),
        false => json!({ "oneOf": branches }),
    };
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "retune pipeline",
        "type": "object",
        "properties": {
            "pipeline": header(),
            "params": {
                "description": "Values that steps refer to as \"${params.NAME}\".",
                "type": "object",
                "propertyNames": { "pattern": NAME },
            },
            "steps": {
                "description": "The steps by name.",
                "type": "object",
                "propertyNames": { "pattern": STEP_NAME },
                "additionalProperties": step,
            },
        },
        "additionalProperties": false,
        "$defs": defs,
    })
}

fn header() -> Value {
    json!({
        "description": "What holds for the whole pipeline.",
        "type": "object",
        "properties": {
            "name": {
                "description": "The name of the pipeline; by default that of the file.",
                "type": "string",
                "pattern": NAME,
            },
            "description": { "description": "What it is for.", "type": "string" },
            "seed": {
                "description": "The seed of every step that does not set its own.",
                "type": "integer",
                "minimum": 0,
                "default": 0,
            },
            "pools": super::build::pools_schema(),
            "hard_links": {
                "description": "Whether large outputs in place are the files of the store, \
                                which saves room and leaves nobody a second copy.",
                "type": "boolean",
                "default": false,
            },
        },
        "additionalProperties": false,
    })
}

fn input() -> Value {
    json!({
        "type": "string",
        "anyOf": [
            { "pattern": STEP, "description": "An output of another step: @step.output." },
            { "pattern": HUB, "description": "A pinned Hub reference: hf://owner/name@commit." },
            { "pattern": PATH, "description": "A path relative to the project root." },
        ],
    })
}

fn reference() -> Value {
    json!({
        "description": "The value of a parameter, ${params.NAME}, or of an axis, ${matrix.AXIS}.",
        "type": "string",
        "pattern": REFERENCE,
    })
}

fn matrix() -> Value {
    let from = json!({
        "description": "The step whose cells are taken over: @step.",
        "type": "string",
        "pattern": WHOLE,
    });
    let cells = |about: &str| {
        json!({
            "description": about,
            "type": "array",
            "items": { "type": "object", "propertyNames": { "pattern": NAME }, "minProperties": 1 },
        })
    };
    let values = json!({ "type": "array", "minItems": 1 });
    json!({
        "description": "Makes one step of each combination of the values of its axes.",
        "anyOf": [from, {
            "type": "object",
            "properties": {
                "from": from,
                "include": cells("Cells that are added; each names every axis."),
                "exclude": cells("Cells that are left out: those with these values."),
            },
            "propertyNames": { "pattern": NAME },
            "additionalProperties": { "anyOf": [values, { "$ref": "#/$defs/reference" }] },
            "minProperties": 1,
        }],
    })
}

/// What a step of one kind may hold.
fn branch(kind: &dyn Kind) -> Value {
    let mut properties = common(kind);
    let mut needed = vec!["uses".to_owned()];
    let ports = kind.inputs();
    for port in ports.iter().filter(|port| port.arity != Arity::Lineage) {
        properties.insert(port.name.to_owned(), port_schema(port));
        if matches!(port.arity, Arity::One | Arity::Many) {
            needed.push(port.name.to_owned());
        }
    }
    let schema = kind.schema();
    if let Some(schema) = schema.as_object() {
        let own = schema.get("properties").and_then(Value::as_object);
        for (name, param) in own.into_iter().flatten() {
            properties.insert(name.clone(), with_references(param));
        }
        needed.extend(
            required(schema)
                .filter(|name| *name != "seed")
                .map(str::to_owned),
        );
    }
    json!({
        "title": kind.name(),
        "description": kind.about(),
        "type": "object",
        "properties": properties,
        "required": needed,
        "additionalProperties": false,
    })
}

/// The fields that every step may hold.
fn common(kind: &dyn Kind) -> Map<String, Value> {
    let fields = [
        (
            "uses",
            json!({ "description": kind.about(), "const": kind.name() }),
        ),
        (
            "description",
            json!({ "description": "What the step is for.", "type": "string" }),
        ),
        (
            "out",
            json!({
                "description": "The folder, relative to the project root, where the outputs \
                                appear; by default cache/out/PIPELINE/STEP.",
                "type": "string",
                "minLength": 1,
            }),
        ),
        ("matrix", json!({ "$ref": "#/$defs/matrix" })),
    ];
    let named = fields.map(|(name, schema)| (name.to_owned(), schema));
    let settings = super::settings::properties().into_iter();
    let settings = settings.map(|(name, schema)| (name, with_references(&schema)));
    named.into_iter().chain(settings).collect()
}

fn port_schema(port: &InPort) -> Value {
    let about = format!("{} ({})", port.about, super::wiring::noun(port.ty));
    let input = json!({ "$ref": "#/$defs/input" });
    match port.arity {
        Arity::Many => json!({
            "description": about,
            "anyOf": [input, { "type": "array", "items": input, "minItems": 1 }],
        }),
        Arity::Labelled => json!({
            "description": about,
            "anyOf": [
                { "type": "object", "additionalProperties": input },
                { "type": "string", "pattern": CELLS },
            ],
        }),
        Arity::One | Arity::Optional | Arity::Lineage => {
            json!({ "description": about, "$ref": "#/$defs/input" })
        }
    }
}

/// The schema of a parameter, or of a part of one, that may also be given by
/// a reference to `[params]`.
fn with_references(schema: &Value) -> Value {
    let Some(schema) = schema.as_object() else {
        return schema.clone();
    };
    let mut inner = Map::new();
    let mut outer = Map::new();
    for (key, value) in schema {
        match key.as_str() {
            "default" if value.is_null() => {}
            "description" | "default" | "title" => {
                outer.insert(key.clone(), value.clone());
            }
            _ => {
                inner.insert(key.clone(), parts(key, value));
            }
        }
    }
    if takes_any_string(schema) {
        inner.append(&mut outer);
        return Value::Object(inner);
    }
    let own = Value::Object(inner);
    outer.insert(
        "anyOf".to_owned(),
        json!([own, { "$ref": "#/$defs/reference" }]),
    );
    Value::Object(outer)
}

/// Allows references within the parts of a schema.
fn parts(key: &str, value: &Value) -> Value {
    match (key, value) {
        ("properties", Value::Object(map)) => map
            .iter()
            .map(|(name, schema)| (name.clone(), with_references(schema)))
            .collect(),
        ("items" | "additionalProperties", schema) => with_references(schema),
        ("prefixItems", Value::Array(list)) => list.iter().map(with_references).collect(),
        ("anyOf" | "oneOf" | "allOf", Value::Array(list)) => list.iter().map(inside).collect(),
        _ => value.clone(),
    }
}

/// Allows references in the parts of an alternative, not in its place.
fn inside(schema: &Value) -> Value {
    let Some(schema) = schema.as_object() else {
        return schema.clone();
    };
    schema
        .iter()
        .map(|(key, value)| (key.clone(), parts(key, value)))
        .collect()
}

fn takes_any_string(schema: &Map<String, Value>) -> bool {
    let string = |ty: &Value| ty == "string";
    let typed = match schema.get("type") {
        Some(Value::Array(list)) => list.iter().any(string),
        Some(ty) => string(ty),
        None => !["anyOf", "oneOf", "allOf", "const", "enum"]
            .iter()
            .any(|key| schema.contains_key(*key)),
    };
    let limited = ["const", "enum", "pattern"]
        .iter()
        .any(|key| schema.contains_key(*key));
    let alternatives = schema.get("anyOf").or_else(|| schema.get("oneOf"));
    let alternatives = alternatives.and_then(Value::as_array);
    let alternative = alternatives
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .any(takes_any_string);
    (typed && !limited) || alternative
}
