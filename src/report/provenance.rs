//! A record as a person reads it.

use serde_json::Value;

use super::style::{Palette, clean, paint};
use super::words::duration;
use crate::record::StoredRecord;

/// A record, section by section.
pub fn provenance_text(record: &StoredRecord, palette: &Palette) -> String {
    let run = &record.execution;
    let title = paint(palette.strong, &run.step);
    let mut text = format!("{title} ({} {})\n", run.manifest.kind, run.manifest.version);
    let when = jiff::Timestamp::from_millisecond(run.started_ms as i64);
    let mut facts = vec![
        ("key", run.key.to_string()),
        ("run", run.run.clone()),
        (
            "started",
            when.map_or(String::new(), |when| format!("{when:.0}")),
        ),
        ("took", duration(run.millis as f64 / 1000.0)),
        ("threads", run.threads.to_string()),
    ];
    let memory = run
        .peak_memory
        .map(|bytes| format!("{} MiB", bytes.div_ceil(1 << 20)));
    facts.extend(memory.map(|memory| ("memory", memory)));
    let sandbox = Some(&run.sandbox).filter(|held| !held.is_empty());
    facts.extend(sandbox.map(|held| ("sandbox", held.clone())));
    facts.extend(run.log.map(|log| ("log", log.to_string())));
    let facts = facts
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value, String::new()));
    text.push_str(&rows(facts.collect(), palette));
    for (title, lines) in sections(record) {
        if !lines.is_empty() {
            text.push_str(&format!("\n{}\n", paint(palette.strong, title)));
            text.push_str(&rows(lines, palette));
        }
    }
    text
}

/// A name, a value, and what is said of it.
type Row = (String, String, String);

fn sections(record: &StoredRecord) -> [(&'static str, Vec<Row>); 6] {
    let run = &record.execution;
    let params = run.manifest.params.iter().map(|(name, value)| {
        let source = run.sources.get(name);
        let source = source.map(ToString::to_string).unwrap_or_default();
        (name.clone(), value.to_string(), source)
    });
    let variables = run.manifest.environment.iter().map(|(name, value)| {
        let value = value.clone().unwrap_or_else(|| "unset".to_owned());
        (name.clone(), value, String::new())
    });
    let inputs = run.manifest.inputs.iter().zip(&run.inputs_from);
    let inputs = inputs.map(|(input, from)| {
        let name = match input.label.as_str() {
            "" => input.port.clone(),
            label => format!("{}[{label}]", input.port),
        };
        (name, input.digest.to_string(), from.to_string())
    });
    let outputs = run.outputs.iter().map(|output| {
        let size = format!("{} bytes", output.artifact.size);
        (
            output.path.clone(),
            output.artifact.digest.to_string(),
            size,
        )
    });
    let facts = run.facts.iter();
    let facts = facts.map(|(name, value)| (name.clone(), value.to_string(), String::new()));
    let mut environment = Vec::new();
    leaves("", &record.environment, &mut environment);
    [
        ("parameters", params.collect()),
        ("variables", variables.collect()),
        ("inputs", inputs.collect()),
        ("outputs", outputs.collect()),
        ("measured", facts.collect()),
        ("environment", environment),
    ]
}

/// Every value of a nested object by its path.
fn leaves(path: &str, value: &Value, found: &mut Vec<Row>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let dot = if path.is_empty() { "" } else { "." };
                leaves(&format!("{path}{dot}{key}"), value, found);
            }
        }
        Value::String(text) => found.push((path.to_owned(), text.clone(), String::new())),
        Value::Array(items) => {
            let text = |item: &Value| item.as_str().map_or(item.to_string(), str::to_owned);
            let items: Vec<String> = items.iter().map(text).collect();
            found.push((path.to_owned(), items.join(" "), String::new()));
        }
        value => found.push((path.to_owned(), value.to_string(), String::new())),
    }
}

fn rows(rows: Vec<Row>, palette: &Palette) -> String {
    let width = rows.iter().map(|(name, ..)| name.chars().count()).max();
    let width = width.unwrap_or(0).min(24);
    let line = |(name, value, note): &Row| {
        let note = match note.as_str() {
            "" => String::new(),
            note => format!("  {}", paint(palette.dim, clean(note))),
        };
        format!("  {:width$}  {}{note}\n", clean(name), clean(value))
    };
    rows.iter().map(line).collect()
}
