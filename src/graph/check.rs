//! A field's value against the JSON schema of its kind, each fault at its own place.

use serde_json::{Map, Number, Value};

use crate::pipeline::{Diagnostic, Spans, closest, suggest};

/// Checks `value` against `schema` and reports each fault where it stands.
/// `at` is the field as people write it, such as `outputs.model`.
///
/// Knows what schemars writes for the types of parameters. What it does not
/// know it lets through: reading the parameters comes afterwards.
pub(super) fn check(
    schema: &Value,
    value: &Value,
    spans: &Spans,
    at: &str,
    faults: &mut Vec<Diagnostic>,
) {
    let Some(schema) = schema.as_object() else {
        return;
    };
    // A null stands for something that has been reported already.
    if value.is_null() || schema.contains_key("$ref") {
        return;
    }
    if let Some(all) = schema.get("allOf").and_then(Value::as_array) {
        for part in all {
            check(part, value, spans, at, faults);
        }
    }
    if let Some(branches) = branches(schema) {
        return check_branches(&branches, value, spans, at, faults);
    }
    if let Some(allowed) = literals(schema) {
        return check_literal(&allowed, value, spans, at, faults);
    }
    let types = types(schema);
    if !types.is_empty() && !types.iter().any(|ty| is_a(value, ty)) {
        faults.push(wrong_type(&types, value, spans, at));
        return;
    }
    match value {
        Value::Number(number) => check_bounds(schema, number, spans, at, faults),
        Value::String(text) => check_length(schema, text.chars().count(), spans, at, faults),
        Value::Array(items) => check_items(schema, items, spans, at, faults),
        Value::Object(map) => check_table(schema, map, spans, at, faults),
        Value::Null | Value::Bool(_) => {}
    }
}

/// The alternatives of a schema, without null: nothing in TOML is null.
fn branches(schema: &Map<String, Value>) -> Option<Vec<&Value>> {
    let list = schema.get("anyOf").or_else(|| schema.get("oneOf"))?;
    let list = list.as_array()?.iter();
    Some(list.filter(|branch| branch["type"] != "null").collect())
}

/// The values that a schema lists.
fn literals(schema: &Map<String, Value>) -> Option<Vec<&Value>> {
    if let Some(value) = schema.get("const") {
        return Some(vec![value]);
    }
    let list = schema.get("enum")?.as_array()?.iter();
    Some(list.filter(|value| !value.is_null()).collect())
}

/// The JSON types that a schema allows, without null; empty for all of them.
fn types(schema: &Map<String, Value>) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(ty)) => vec![ty],
        Some(Value::Array(list)) => {
            let names = list.iter().filter_map(Value::as_str);
            names.filter(|ty| *ty != "null").collect()
        }
        _ => Vec::new(),
    }
}

fn is_a(value: &Value, ty: &str) -> bool {
    match ty {
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    }
}

fn noun(ty: &str) -> &str {
    match ty {
        "integer" => "an integer",
        "number" => "a number",
        "string" => "a string",
        "boolean" => "true or false",
        "array" => "an array",
        "object" => "a table",
        other => other,
    }
}

/// What a value is, for the label beside it.
pub(super) fn describe(value: &Value) -> String {
    const LONGEST: usize = 24;
    match value {
        Value::String(text) if text.chars().count() > LONGEST => {
            let start: String = text.chars().take(LONGEST).collect();
            format!("the string {:?}", start + "…")
        }
        Value::String(text) => format!("the string {text:?}"),
        Value::Number(number) => format!("the number {number}"),
        Value::Bool(value) => value.to_string(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "a table".to_owned(),
        Value::Null => "nothing".to_owned(),
    }
}

fn fault(spans: &Spans, value: &Value, message: String) -> Diagnostic {
    Diagnostic::error(spans.span.clone(), message).label(format!("is {}", describe(value)))
}

fn wrong_type(types: &[&str], value: &Value, spans: &Spans, at: &str) -> Diagnostic {
    let nouns: Vec<&str> = types.iter().map(|ty| noun(ty)).collect();
    let message = format!("'{at}' must be {}", nouns.join(" or "));
    fault(spans, value, message).hint(retype(types, value))
}

/// What to write instead, where a value is nearly of the right type.
fn retype(types: &[&str], value: &Value) -> Option<String> {
    let numeric = types.contains(&"number") || types.contains(&"integer");
    match value {
        Value::String(text) if text.contains("${") => {
            Some("a parameter is referred to as \"${params.NAME}\"".to_owned())
        }
        Value::String(text) if numeric && text.parse::<f64>().is_ok_and(f64::is_finite) => {
            Some(format!("write it without quotes: {text}"))
        }
        Value::String(text)
            if types.contains(&"boolean") && ["true", "false"].contains(&&**text) =>
        {
            Some(format!("write it without quotes: {text}"))
        }
        Value::Number(number) if types.contains(&"integer") => {
            let whole = number
                .as_f64()
                .filter(|n| n.fract() == 0.0 && n.abs() < 1e15)?;
            Some(format!("write {whole:.0}"))
        }
        Value::String(text) if types.contains(&"array") => Some(format!("write [{text:?}]")),
        Value::Number(_) | Value::Bool(_) if types.contains(&"string") => {
            Some(format!("write it in quotes: \"{value}\""))
        }
        _ => None,
    }
}

fn check_literal(
    allowed: &[&Value],
    value: &Value,
    spans: &Spans,
    at: &str,
    faults: &mut Vec<Diagnostic>,
) {
    if allowed.contains(&value) {
        return;
    }
    let list: Vec<String> = allowed.iter().map(|v| v.to_string()).collect();
    let list = list.join(", ");
    let names = allowed.iter().filter_map(|v| v.as_str());
    let near = value.as_str().and_then(|text| closest(text, names));
    let near = near.map(|name| format!("did you mean '{name}'?"));
    // A long list has its place in the hint.
    let (message, hint) = match allowed.len() {
        1 => (format!("'{at}' must be {list}"), near),
        _ if list.len() <= 40 => (format!("'{at}' must be one of {list}"), near),
        _ => (
            format!("'{at}' has a value that it cannot have"),
            near.or_else(|| Some(format!("its values are {list}"))),
        ),
    };
    faults.push(fault(spans, value, message).hint(hint));
}

/// One of several schemas must fit. Reports the faults of the one that was
/// probably meant.
fn check_branches(
    branches: &[&Value],
    value: &Value,
    spans: &Spans,
    at: &str,
    faults: &mut Vec<Diagnostic>,
) {
    if let [only] = branches {
        return check(only, value, spans, at, faults);
    }
    let objects = branches.iter().filter_map(|branch| branch.as_object());
    let lists: Option<Vec<Vec<&Value>>> = objects.clone().map(literals).collect();
    if let Some(lists) = lists {
        return check_literal(&lists.concat(), value, spans, at, faults);
    }
    if let (Some(tag), Some(map)) = (tag(branches), value.as_object()) {
        let constants: Vec<&Value> = branches
            .iter()
            .map(|b| &b["properties"][tag]["const"])
            .collect();
        if let Some(value) = map.get(tag).filter(|value| !constants.contains(value)) {
            let at = format!("{at}.{tag}");
            return check_literal(&constants, value, spans.value(tag), &at, faults);
        }
    }
    let mut best: Option<Vec<Diagnostic>> = None;
    for branch in branches {
        let mut own = Vec::new();
        check(branch, value, spans, at, &mut own);
        if own.is_empty() {
            return;
        }
        let meant = branch
            .as_object()
            .is_some_and(|branch| meant(branch, value));
        if meant && best.as_ref().is_none_or(|best| own.len() < best.len()) {
            best = Some(own);
        }
    }
    faults.extend(best.unwrap_or_else(|| {
        let nouns: Vec<String> = objects.map(expected).collect();
        let message = format!("'{at}' must be {}", nouns.join(" or "));
        vec![fault(spans, value, message)]
    }));
}

/// The field whose constant tells all alternatives apart, if they are tables
/// that have one.
fn tag<'a>(branches: &[&'a Value]) -> Option<&'a str> {
    let first = branches.first()?.get("properties")?.as_object()?;
    let everywhere = |name: &&String| {
        let constant = |branch: &&Value| branch["properties"][name.as_str()].get("const").is_some();
        branches.iter().all(constant)
    };
    first.keys().find(everywhere).map(String::as_str)
}

/// Whether a branch was probably meant: the type is right and, in a table, so
/// are the constants.
fn meant(branch: &Map<String, Value>, value: &Value) -> bool {
    let types = types(branch);
    let typed = types.iter().any(|ty| is_a(value, ty)) && literals(branch).is_none();
    let (Some(map), Some(properties)) = (value.as_object(), branch.get("properties")) else {
        return typed;
    };
    let constant = |(key, schema): (&String, &Value)| match schema.get("const") {
        Some(constant) => map.get(key) == Some(constant),
        None => true,
    };
    typed
        && properties
            .as_object()
            .is_none_or(|all| all.iter().all(constant))
}

/// What a branch takes, in words.
fn expected(branch: &Map<String, Value>) -> String {
    if let Some(literals) = literals(branch) {
        let list: Vec<String> = literals.iter().map(|v| v.to_string()).collect();
        return list.join(" or ");
    }
    let nouns: Vec<&str> = types(branch).into_iter().map(noun).collect();
    nouns.join(" or ")
}

fn check_bounds(
    schema: &Map<String, Value>,
    number: &Number,
    spans: &Spans,
    at: &str,
    faults: &mut Vec<Diagnostic>,
) {
    let value = number.as_f64().unwrap_or(0.0);
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    let (low, high) = format_range(schema.get("format").and_then(Value::as_str));
    let low = bound("minimum").or(low).filter(|low| value < *low);
    let high = bound("maximum").or(high).filter(|high| value > *high);
    let above = bound("exclusiveMinimum").filter(|low| value <= *low);
    let below = bound("exclusiveMaximum").filter(|high| value >= *high);
    let rule = low.map(|low| format!("at least {low}"));
    let rule = rule.or_else(|| high.map(|high| format!("at most {high}")));
    let rule = rule.or_else(|| above.map(|low| format!("above {low}")));
    if let Some(rule) = rule.or_else(|| below.map(|high| format!("below {high}"))) {
        let message = format!("'{at}' must be {rule}");
        faults.push(fault(spans, &Value::Number(number.clone()), message));
    }
}

/// The range of an integer type that schemars only names. (64 bits are
/// checked when the parameters are read: a float is not exact there.)
fn format_range(format: Option<&str>) -> (Option<f64>, Option<f64>) {
    match format {
        Some("uint8") => (Some(0.0), Some(f64::from(u8::MAX))),
        Some("uint16") => (Some(0.0), Some(f64::from(u16::MAX))),
        Some("uint32") => (Some(0.0), Some(f64::from(u32::MAX))),
        Some("uint" | "uint64") => (Some(0.0), None),
        Some("int8") => (Some(f64::from(i8::MIN)), Some(f64::from(i8::MAX))),
        Some("int16") => (Some(f64::from(i16::MIN)), Some(f64::from(i16::MAX))),
        Some("int32") => (Some(f64::from(i32::MIN)), Some(f64::from(i32::MAX))),
        _ => (None, None),
    }
}

fn check_length(
    schema: &Map<String, Value>,
    length: usize,
    spans: &Spans,
    at: &str,
    faults: &mut Vec<Diagnostic>,
) {
    let least = schema.get("minLength").and_then(Value::as_u64).unwrap_or(0);
    if (length as u64) < least {
        let message = match least {
            1 => format!("'{at}' must not be empty"),
            _ => format!("'{at}' must have at least {least} characters"),
        };
        faults.push(Diagnostic::error(spans.span.clone(), message));
    }
}

fn check_items(
    schema: &Map<String, Value>,
    items: &[Value],
    spans: &Spans,
    at: &str,
    faults: &mut Vec<Diagnostic>,
) {
    let count = |key: &str| schema.get(key).and_then(Value::as_u64);
    let (least, most) = (count("minItems"), count("maxItems"));
    let (few, many) = (
        least.is_some_and(|least| (items.len() as u64) < least),
        most.is_some_and(|most| items.len() as u64 > most),
    );
    if few || many {
        let message = match (least, most) {
            (Some(1), None) => format!("'{at}' must not be empty"),
            (Some(a), Some(b)) if a == b => format!("'{at}' must have {a} items"),
            (Some(least), _) if few => format!("'{at}' must have at least {least} items"),
            (_, most) => format!("'{at}' must have at most {} items", most.unwrap_or(0)),
        };
        let label = format!("has {}", items.len());
        faults.push(Diagnostic::error(spans.span.clone(), message).label(label));
    }
    let first = schema.get("prefixItems").and_then(Value::as_array);
    for (i, item) in items.iter().enumerate() {
        let own = first
            .and_then(|first| first.get(i))
            .or_else(|| schema.get("items"));
        if let Some(own) = own {
            check(own, item, spans.item(i), &format!("{at}[{i}]"), faults);
        }
    }
}

fn check_table(
    schema: &Map<String, Value>,
    map: &Map<String, Value>,
    spans: &Spans,
    at: &str,
    faults: &mut Vec<Diagnostic>,
) {
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object);
    let properties = properties.unwrap_or(&none);
    let others = schema.get("additionalProperties");
    for (key, value) in map {
        let inner = format!("{at}.{key}");
        match properties.get(key).or(others) {
            Some(Value::Bool(false)) => {
                let known = properties.keys().map(String::as_str);
                let fault = Diagnostic::error(spans.key(key), format!("unknown field '{inner}'"))
                    .label(format!("not a field of '{at}'"))
                    .hint(suggest(key, known, "its fields are"));
                faults.push(fault);
            }
            Some(own) => check(own, value, spans.value(key), &inner, faults),
            None => {}
        }
    }
    for key in required(schema).filter(|key| !map.contains_key(*key)) {
        let message = format!("'{at}' lacks the field '{key}'");
        faults.push(Diagnostic::error(spans.span.clone(), message));
    }
}

/// The names that a schema of a table requires.
pub(super) fn required(schema: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let list = schema.get("required").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}
