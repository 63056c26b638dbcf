//! What a command step may touch beside its inputs and outputs, as the pipeline file says it.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A program that is held to its declared inputs and outputs.
///
/// Written as `true`, `"if-available"`, or a table of what else is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Whether the step fails on a system that cannot hold it.
    pub required: bool,
    /// Files and folders that may be read without being inputs: their content
    /// is not in the key.
    pub read: Vec<String>,
    /// Files and folders that may be written.
    pub write: Vec<String>,
    /// Whether the network may be used.
    pub network: bool,
}

impl Default for Sandbox {
    fn default() -> Self {
        Sandbox {
            required: true,
            read: Vec::new(),
            write: Vec::new(),
            network: false,
        }
    }
}

const IF_AVAILABLE: &str = "if-available";

/// The table.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Whether the step fails on a system that cannot hold it.
    #[serde(default = "yes")]
    required: bool,
    /// Files and folders that may be read without being inputs; relative to
    /// the project, or `~/…`, or absolute. Their content is not in the key.
    #[serde(default)]
    read: Vec<String>,
    /// Files and folders that may be written, such as a tool's own cache.
    #[serde(default)]
    write: Vec<String>,
    /// Whether the network may be used.
    #[serde(default)]
    network: bool,
}

fn yes() -> bool {
    true
}

impl From<Table> for Sandbox {
    fn from(table: Table) -> Self {
        Sandbox {
            required: table.required,
            read: table.read,
            write: table.write,
            network: table.network,
        }
    }
}

/// For the schema only.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Written {
    Switch(bool),
    IfAvailable(IfAvailable),
    Table(Table),
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
enum IfAvailable {
    #[serde(rename = "if-available")]
    IfAvailable,
}

/// The parameter `sandbox` of a kind: none when it is `false` or left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[schemars(with = "Written")]
pub struct SandboxParam(pub Option<Sandbox>);

impl SandboxParam {
    /// Whether there is no sandbox; the parameter is left out of the key then.
    pub fn is_off(&self) -> bool {
        self.0.is_none()
    }
}

impl Serialize for SandboxParam {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(sandbox) = &self.0 else {
            return serializer.serialize_bool(false);
        };
        let bare = Sandbox {
            required: sandbox.required,
            ..Sandbox::default()
        };
        if *sandbox == bare {
            return match sandbox.required {
                true => serializer.serialize_bool(true),
                false => serializer.serialize_str(IF_AVAILABLE),
            };
        }
        let mut table = serializer.serialize_struct("Sandbox", 4)?;
        table.serialize_field("required", &sandbox.required)?;
        table.serialize_field("read", &sandbox.read)?;
        table.serialize_field("write", &sandbox.write)?;
        table.serialize_field("network", &sandbox.network)?;
        table.end()
    }
}

impl<'de> Deserialize<'de> for SandboxParam {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyForm)
    }
}

struct AnyForm;

impl<'de> Visitor<'de> for AnyForm {
    type Value = SandboxParam;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false, \"if-available\" or a table of read, write, network, required")
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<Self::Value, E> {
        Ok(SandboxParam(on.then(Sandbox::default)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        if text != IF_AVAILABLE {
            return Err(E::invalid_value(serde::de::Unexpected::Str(text), &self));
        }
        Ok(SandboxParam(Some(Sandbox {
            required: false,
            ..Sandbox::default()
        })))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let table = Table::deserialize(MapAccessDeserializer::new(map))?;
        Ok(SandboxParam(Some(table.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(value: Value) -> Result<SandboxParam, String> {
        serde_json::from_value(value).map_err(|e| e.to_string())
    }

    #[test]
    fn every_form_is_read_and_written_back_alike() {
        for (written, kept) in [
            (json!(false), json!(false)),
            (json!(true), json!(true)),
            (json!({}), json!(true)),
            (json!("if-available"), json!("if-available")),
            (json!({ "required": false }), json!("if-available")),
            (
                json!({ "network": true, "read": ["~/models"] }),
                json!({ "required": true, "read": ["~/models"], "write": [], "network": true }),
            ),
        ] {
            let once = read(written).unwrap();
            let value = serde_json::to_value(&once).unwrap();
            assert_eq!(value, kept);
            assert_eq!(read(value).unwrap(), once);
        }
    }

    #[test]
    fn other_values_are_refused_with_what_is_expected() {
        let error = read(json!("yes")).unwrap_err();
        assert!(
            error.contains("expected true, false, \"if-available\""),
            "{error}"
        );
        let error = read(json!({ "reads": [] })).unwrap_err();
        assert!(error.contains("unknown field `reads`"), "{error}");
        assert!(read(json!(1)).is_err());
    }
}
