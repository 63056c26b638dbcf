//! The table of results: a row for each cell of a matrix, with what its current result measured.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::inspect::dry_run;
use super::workspace::{find_steps, needed};
use super::{OpsError, Workspace};
use crate::graph::{Graph, Node, StepId};
use crate::pipeline::{Overrides, StepName};
use crate::plan::{Detail, Key, PlannedStep, Reason, Verdict};
use crate::step::PortType;
use crate::store::{Entry, LocalStore, Shape, Store};

/// A metrics file above this is not looked into.
const LARGEST: u64 = 4 << 20;

/// The results of the cells of one step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// The step as the pipeline file names it.
    pub step: String,
    /// The axes of its matrix, sorted.
    pub axes: Vec<String>,
    /// The names of everything that any row measured, sorted.
    pub columns: Vec<String>,
    /// The cells, in the order of the matrix.
    pub rows: Vec<Row>,
}

/// The result of one cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The step.
    pub name: StepName,
    /// The values of the axes.
    pub cell: BTreeMap<String, Value>,
    /// The values as the cell's name has them, in the order of the axes.
    #[serde(skip)]
    pub texts: Vec<String>,
    /// Where it stands.
    pub state: Standing,
    /// How long the execution took whose result it is.
    pub seconds: Option<f64>,
    /// What was measured. What is not here was not measured, or not by the
    /// result that the pipeline file asks for now.
    pub metrics: BTreeMap<String, Value>,
}

/// Where a cell stands. Only the first two have a result to tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Its outputs are in place.
    Current,
    /// Its outputs are in the store, not in place.
    Stored,
    /// It was built from other parameters or inputs than it has now.
    Stale,
    /// It failed or was stopped the last time.
    Unfinished,
    /// It was never built.
    NotBuilt,
    /// It waits for a step that has to run first, or an input cannot be had.
    Unknown,
}

impl Standing {
    /// A word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Standing::Current => "current",
            Standing::Stored => "stored",
            Standing::Stale => "stale",
            Standing::Unfinished => "unfinished",
            Standing::NotBuilt => "not built",
            Standing::Unknown => "unknown",
        }
    }

    fn of(verdict: &Verdict) -> Self {
        let has = |reason| verdict.reasons().contains(&reason);
        match verdict {
            Verdict::UpToDate => Standing::Current,
            Verdict::Restore { .. } => Standing::Stored,
            Verdict::Maybe { .. } | Verdict::Error { .. } | Verdict::Blocked { .. } => {
                Standing::Unknown
            }
            Verdict::Run { .. } if has(Reason::DidNotFinish) => Standing::Unfinished,
            Verdict::Run { .. } if has(Reason::NeverBuilt) => Standing::NotBuilt,
            Verdict::Run { .. } => Standing::Stale,
        }
    }
}

/// The results of the steps that are asked for; without any, of every step
/// that has a matrix.
pub fn table(
    workspace: &Workspace,
    overrides: &Overrides,
    steps: &[String],
) -> Result<Vec<Table>, OpsError> {
    let (graph, _) = workspace.load(overrides)?;
    let mut chosen = find_steps(&graph, steps)?;
    if steps.is_empty() {
        chosen = graph
            .ids()
            .filter(|id| graph.node(*id).cell.is_some())
            .collect();
    }
    let plan = dry_run(
        workspace,
        &graph,
        &needed(&graph, &chosen),
        &[],
        Detail::default(),
    )?;
    let plan: BTreeMap<&StepName, &PlannedStep> =
        plan.iter().map(|step| (&step.name, step)).collect();
    let store = workspace.look_into_store()?;
    let mut tables: Vec<Table> = Vec::new();
    for id in chosen {
        let node = graph.node(id);
        if tables
            .last()
            .is_none_or(|table| table.step != node.name.base())
        {
            tables.push(Table::empty(&graph, id));
        }
        if let (Some(table), Some(planned)) = (tables.last_mut(), plan.get(&node.name)) {
            table.rows.push(row(node, planned, &store));
        }
    }
    for table in &mut tables {
        let names = table.rows.iter().flat_map(|row| row.metrics.keys());
        table.columns = names
            .collect::<BTreeSet<_>>()
            .into_iter()
            .cloned()
            .collect();
    }
    Ok(tables)
}

impl Table {
    fn empty(graph: &Graph, id: StepId) -> Self {
        let node = graph.node(id);
        let cell = node.cell.iter().flat_map(|cell| &cell.0);
        Table {
            step: node.name.base().to_owned(),
            axes: cell.map(|at| at.axis.to_string()).collect(),
            columns: Vec::new(),
            rows: Vec::new(),
        }
    }
}

fn row(node: &Node, planned: &PlannedStep, store: &LocalStore) -> Row {
    let state = Standing::of(&planned.verdict);
    let has_result = matches!(state, Standing::Current | Standing::Stored);
    let entry = planned.key.filter(|_| has_result);
    let entry = entry.and_then(|key: Key| store.entry(&key));
    let measured = entry.map(|entry| measured(node, &entry, store));
    let coordinates = || node.cell.iter().flat_map(|cell| &cell.0);
    // Each column has a name of its own.
    let taken = |name: &str| {
        ["step", "state", "seconds"].contains(&name) || coordinates().any(|at| &*at.axis == name)
    };
    let own = |(name, value): (String, Value)| match taken(&name) {
        true => (format!("metrics.{name}"), value),
        false => (name, value),
    };
    Row {
        name: node.name.clone(),
        cell: coordinates()
            .map(|at| (at.axis.to_string(), at.value.clone()))
            .collect(),
        texts: coordinates().map(|at| at.text.to_string()).collect(),
        state,
        seconds: measured.as_ref().and_then(|(seconds, _)| *seconds),
        metrics: measured
            .map(|(_, metrics)| metrics.into_iter().map(own).collect())
            .unwrap_or_default(),
    }
}

#[derive(serde::Deserialize)]
struct Record {
    millis: u64,
    #[serde(default)]
    facts: BTreeMap<String, Value>,
}

/// How long a result took, and every number in its record's facts and in its
/// metrics. All is read from the store, where nobody edits it.
fn measured(
    node: &Node,
    entry: &Entry,
    store: &LocalStore,
) -> (Option<f64>, BTreeMap<String, Value>) {
    let record = store.get(&entry.record).ok();
    let record: Option<Record> = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let seconds = record.as_ref().map(|record| record.millis as f64 / 1e3);
    let mut metrics = BTreeMap::new();
    let ports = node.outputs.iter().zip(&entry.outputs);
    let files: Vec<_> = ports
        .filter(|(port, _)| port.ty == PortType::Metrics)
        .collect();
    for (port, output) in &files {
        if output.artifact.shape == Shape::Folder || output.artifact.size > LARGEST {
            continue;
        }
        let bytes = store.get(&output.artifact.digest).unwrap_or_default();
        let Ok(value) = serde_json::from_slice::<Value>(&bytes) else {
            continue;
        };
        let prefix = match files.len() {
            1 => "",
            _ => &port.name,
        };
        flatten(prefix, &value, &mut metrics);
    }
    for (name, value) in record.map(|record| record.facts).unwrap_or_default() {
        let mut facts = BTreeMap::new();
        flatten(&name, &value, &mut facts);
        for (name, value) in facts {
            match metrics.get(&name) {
                Some(other) if *other != value => metrics.insert(format!("facts.{name}"), value),
                _ => metrics.insert(name, value),
            };
        }
    }
    (seconds, metrics)
}

/// The numbers in a value, with the keys that lead to them between dots.
fn flatten(path: &str, value: &Value, numbers: &mut BTreeMap<String, Value>) {
    match value {
        Value::Number(_) | Value::Bool(_) => drop(numbers.insert(path.to_owned(), value.clone())),
        Value::Object(map) => {
            for (key, value) in map {
                match path {
                    "" => flatten(key, value, numbers),
                    path => flatten(&format!("{path}.{key}"), value, numbers),
                }
            }
        }
        Value::Null | Value::String(_) | Value::Array(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_found_at_any_depth() {
        let mut numbers = BTreeMap::new();
        let value = json!({"loss": 2.5, "by": {"task": {"a": 1, "ok": true}}, "n": [1], "s": "x"});
        flatten("", &value, &mut numbers);
        let found: Vec<(&str, &Value)> = numbers.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let (one, yes, loss) = (json!(1), json!(true), json!(2.5));
        assert_eq!(
            found,
            [("by.task.a", &one), ("by.task.ok", &yes), ("loss", &loss)]
        );
    }

    #[test]
    fn only_a_result_of_the_current_key_counts() {
        let run = |reason| {
            Standing::of(&Verdict::Run {
                reasons: vec![reason],
            })
        };
        assert_eq!(run(Reason::NeverBuilt), Standing::NotBuilt);
        assert_eq!(run(Reason::DidNotFinish), Standing::Unfinished);
        assert_eq!(run(Reason::KindVersion { old: 1, new: 2 }), Standing::Stale);
        assert_eq!(
            Standing::of(&Verdict::Maybe { waits_for: vec![] }),
            Standing::Unknown
        );
    }
}
