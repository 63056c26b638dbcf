//! The settings of a step, checked: how it runs, never what it makes, so that none enters a key.
//!
//! To add one: its name in [`SETTINGS`](crate::pipeline::SETTINGS), a field of
//! `Written` (its comment is the schema's description) and one of [`Settings`].

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::check::check;
use crate::compare::{Limits, Tolerance};
use crate::pipeline::{Diagnostic, Field, RawSettings, Span, Spans, suggest, units};
use crate::step::{Cpus, Every, Gpus, OutPort, Resources, Resumes, schema_of};

/// How often a step that keeps checkpoints writes one by default.
const CHECKPOINT_EVERY: Every = Every::Time(Duration::from_secs(60));

/// How a step is run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// What it asks of the machine.
    pub resources: Resources,
    /// The line of the file that says so, from 1.
    pub resources_line: Option<usize>,
    /// Whether and how it is tried again.
    pub retry: Option<Box<Retry>>,
    /// How long an attempt may take.
    pub timeout: Option<Duration>,
    /// Steps of a higher priority start before others.
    pub priority: i32,
    /// How often it is to write a checkpoint, if it is given a place for them.
    pub checkpoint: Option<Every>,
    /// What may differ in an audit, by the name of the output.
    pub tolerance: BTreeMap<String, Tolerance>,
}

/// How a step that failed is tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// How often at most.
    pub times: u32,
    /// How long to wait before the first time.
    pub wait: Duration,
    /// What the wait is multiplied with from time to time.
    pub factor: f64,
    /// The longest wait.
    pub max_wait: Duration,
    /// What the second attempt asks of the machine.
    pub resources: Resources,
    /// What the memory asked for is multiplied with from attempt to attempt
    /// after that.
    pub grow: f64,
}

impl Settings {
    /// What the `attempt`-th attempt, from 1, asks of the machine.
    pub fn resources(&self, attempt: u32) -> Resources {
        let Some(retry) = self.retry.as_ref().filter(|_| attempt > 1) else {
            return self.resources.clone();
        };
        let mut resources = retry.resources.clone();
        let grown = resources.memory as f64 * power(retry.grow, attempt - 2);
        resources.memory = grown as u64;
        resources
    }

    /// Whether what the second attempt asks of the memory is no figure of the
    /// file's, but came out of growing.
    pub fn memory_is_grown(&self) -> bool {
        let grown = |retry: &Retry| self.resources.memory as f64 * retry.grow;
        let retry = self.retry.as_ref().filter(|retry| retry.grow > 1.0);
        retry.is_some_and(|retry| retry.resources.memory == grown(retry) as u64)
    }

    /// How long to wait after the `attempt`-th attempt, from 1, has failed;
    /// none when there is to be no other.
    pub fn wait_after(&self, attempt: u32) -> Option<Duration> {
        let retry = self.retry.as_ref()?;
        if attempt > retry.times {
            return None;
        }
        let wait = retry.wait.as_secs_f64() * power(retry.factor, attempt - 1);
        let wait = Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX);
        Some(wait.min(retry.max_wait))
    }

    /// How many attempts there are at most.
    pub fn attempts(&self) -> u32 {
        let retry = self.retry.as_ref();
        retry.map_or(0, |retry| retry.times).saturating_add(1)
    }
}

/// The number in "50 steps".
fn steps(text: &str) -> Option<u64> {
    let number = text.trim().strip_suffix("steps")?.trim_end();
    number.parse().ok().filter(|number| *number > 0)
}

fn power(base: f64, exponent: u32) -> f64 {
    base.powi(i32::try_from(exponent).unwrap_or(i32::MAX))
}

// As the file says them

/// The settings as the file says them.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Written {
    /// Whether the step is given a folder that outlives a failed or stopped
    /// attempt, from which the next one goes on; or how often it writes into
    /// it: "5min", "50 steps".
    checkpoint: Option<Checkpoint>,
    /// Steps of a higher priority start before others.
    priority: i32,
    /// What the step asks of the machine while it runs.
    resources: Option<Asked>,
    /// How often, after which waits and with which resources it is tried
    /// again when it fails.
    retry: Option<WrittenRetry>,
    /// What may differ in an audit without being a difference, by the name of
    /// the output; where nothing is said every bit counts.
    tolerances: BTreeMap<String, WrittenTolerance>,
    /// How long an attempt may take: seconds, or "90s", "2h 30min". It is
    /// then asked to stop, and killed after the grace period.
    timeout: Option<Amount>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Checkpoint {
    Whether(bool),
    Every(String),
}

/// A number, or a text with a unit.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Amount {
    Number(f64),
    Text(String),
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Asked {
    /// Processors and with them threads, or "all".
    cpus: Option<AskedCpus>,
    /// Memory to count with: "8GiB", or bytes.
    memory: Option<Amount>,
    /// GPUs: whole ones, or a share of one, such as 0.5.
    #[schemars(range(min = 0))]
    gpus: Option<f64>,
    /// Shares of the pools that [pipeline] declares.
    pools: BTreeMap<String, u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum AskedCpus {
    Count(#[schemars(range(min = 1))] u32),
    Word(AllCpus),
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum AllCpus {
    All,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WrittenRetry {
    /// How often at most.
    times: u32,
    /// How long to wait before the first time; a second by default.
    wait: Option<Amount>,
    /// What the wait is multiplied with from time to time.
    #[serde(default = "two")]
    #[schemars(range(min = 1))]
    factor: f64,
    /// The longest wait; ten minutes by default.
    max_wait: Option<Amount>,
    /// What to ask of the machine instead, from the second attempt on.
    #[serde(default)]
    resources: Asked,
    /// What the memory asked for is multiplied with from attempt to attempt,
    /// up to what the machine has.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    grow: f64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WrittenTolerance {
    /// How far two numbers may be apart: |a - b|.
    #[schemars(range(min = 0))]
    max_abs: Option<f64>,
    /// How far two numbers may be apart: |a - b| / max(|a|, |b|). Either limit
    /// is enough.
    #[schemars(range(min = 0))]
    max_rel: Option<f64>,
    /// JSON pointers of what is not compared; * stands for any key or index.
    #[serde(default)]
    ignore: Vec<String>,
}

fn two() -> f64 {
    2.0
}

fn one() -> f64 {
    1.0
}

/// The JSON schema of every setting, by name.
pub(super) fn properties() -> Map<String, Value> {
    match schema_of::<Written>()["properties"].take() {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Checks the settings of steps.
pub(super) struct Checker {
    properties: Option<Map<String, Value>>,
    pools: BTreeMap<String, u64>,
}

/// What a kind says of how its steps run.
pub(super) struct Usual<'a> {
    /// The kind.
    pub kind: &'a str,
    /// What a step asks of the machine that says nothing; none when that is
    /// not known because of other faults.
    pub resources: Option<Resources>,
    /// Whether it keeps checkpoints; none when the kind is not known.
    pub resumes: Option<Resumes>,
    /// Its outputs; none when they are not known because of other faults.
    pub outputs: Option<&'a [OutPort]>,
}

impl Checker {
    /// A checker for steps that may ask for these pools.
    pub(super) fn new(pools: BTreeMap<String, u64>) -> Self {
        Checker {
            properties: None,
            pools,
        }
    }

    /// The pools and their sizes.
    pub(super) fn into_pools(self) -> BTreeMap<String, u64> {
        self.pools
    }

    /// The settings of a step, faults reported.
    pub(super) fn settings(
        &mut self,
        raw: &RawSettings,
        usual: Usual<'_>,
        faults: &mut Vec<Diagnostic>,
    ) -> Settings {
        let mut written = Written::default();
        if let Some(map) = self.values(raw, faults) {
            // What does not fit the schema has been reported.
            written = serde_json::from_value(Value::Object(map)).unwrap_or_default();
        }
        let mut reader = Reader {
            raw,
            pools: &self.pools,
            faults,
        };
        reader.read(written, usual)
    }

    /// The values of the settings that have no fault; none when none is set.
    fn values(
        &mut self,
        raw: &RawSettings,
        faults: &mut Vec<Diagnostic>,
    ) -> Option<Map<String, Value>> {
        let mut map = Map::new();
        for field in raw.iter() {
            let schema = &self.properties.get_or_insert_with(properties)[&field.key];
            let own = faults.len();
            check(schema, &field.value, &field.spans, &field.key, faults);
            note(&mut faults[own..], field);
            if faults.len() == own {
                map.insert(field.key.clone(), field.value.clone());
            }
        }
        (!map.is_empty()).then_some(map)
    }
}

fn note(faults: &mut [Diagnostic], field: &Field) {
    for fault in faults {
        fault.note = field.origin();
    }
}

struct Reader<'a> {
    raw: &'a RawSettings,
    pools: &'a BTreeMap<String, u64>,
    faults: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    fn read(&mut self, written: Written, usual: Usual<'_>) -> Settings {
        let checkpoint = self.checkpoint(written.checkpoint, &usual);
        let asked = written.resources.unwrap_or_default();
        let resources = self.resources(asked, usual.resources.unwrap_or_default(), "resources");
        let retry = written.retry.map(|retry| self.retry(retry, &resources));
        let tolerance = self.tolerance(written.tolerances, usual.outputs);
        let timeout = self.amount(written.timeout, "timeout", units::duration);
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            self.fault("timeout", "must be above 0".to_owned());
        }
        Settings {
            resources,
            resources_line: None,
            retry: retry.map(Box::new),
            timeout,
            priority: written.priority,
            checkpoint,
            tolerance,
        }
    }

    fn tolerance(
        &mut self,
        written: BTreeMap<String, WrittenTolerance>,
        outputs: Option<&[OutPort]>,
    ) -> BTreeMap<String, Tolerance> {
        let mut read = BTreeMap::new();
        for (name, written) in written {
            let at = format!("tolerances.{name}");
            let known = outputs.is_none_or(|ports| ports.iter().any(|port| port.name == name));
            if !known {
                let names = outputs.unwrap_or_default().iter();
                let names: Vec<&str> = names.map(|port| port.name.as_str()).collect();
                let message = format!("is no output of the step, which has: {}", names.join(", "));
                self.fault(&at, message);
            }
            if let Some(wrong) = written.ignore.iter().find(|p| !p.starts_with('/')) {
                let message = format!("must hold JSON pointers such as /seconds, not '{wrong}'");
                self.fault(&format!("{at}.ignore"), message);
            }
            let given = written.max_abs.is_some() || written.max_rel.is_some();
            let limits = given.then(|| Limits {
                max_abs: written.max_abs.unwrap_or(0.0),
                max_rel: written.max_rel.unwrap_or(0.0),
            });
            let ignore = written.ignore;
            read.insert(name, Tolerance { limits, ignore });
        }
        read
    }

    fn checkpoint(&mut self, written: Option<Checkpoint>, usual: &Usual<'_>) -> Option<Every> {
        let asked = match written {
            None => return (usual.resumes == Some(Resumes::Always)).then_some(CHECKPOINT_EVERY),
            Some(Checkpoint::Whether(false)) => None,
            Some(Checkpoint::Whether(true)) => Some(CHECKPOINT_EVERY),
            Some(Checkpoint::Every(text)) => match steps(&text) {
                Some(steps) => Some(Every::Steps(steps)),
                None => {
                    let text = Some(Amount::Text(text));
                    let time = self.amount(text, "checkpoint", units::duration);
                    time.map(Every::Time)
                }
            },
        };
        if asked.is_some() && usual.resumes == Some(Resumes::Never) {
            let message = format!("cannot be had: {} keeps no checkpoints", usual.kind);
            self.fault("checkpoint", message);
        }
        asked
    }

    fn resources(&mut self, asked: Asked, usual: Resources, at: &str) -> Resources {
        let memory = self.amount(asked.memory, &format!("{at}.memory"), units::bytes);
        let gpus = asked.gpus.and_then(|gpus| {
            let read = Gpus::new(gpus);
            if read.is_none() {
                let message = "must be whole or, for a share of one, below 1";
                self.fault(&format!("{at}.gpus"), message.to_owned());
            }
            read
        });
        for name in asked.pools.keys() {
            self.pool(name, &format!("{at}.pools"));
        }
        let cpus = asked.cpus.map(|cpus| match cpus {
            AskedCpus::Count(n) => Cpus::Count(n),
            AskedCpus::Word(AllCpus::All) => Cpus::All,
        });
        let mut pools = usual.pools;
        pools.extend(asked.pools);
        Resources {
            cpus: cpus.unwrap_or(usual.cpus),
            memory: memory.unwrap_or(usual.memory),
            gpus: gpus.unwrap_or(usual.gpus),
            pools,
        }
    }

    fn pool(&mut self, name: &str, at: &str) {
        if self.pools.contains_key(name) {
            return;
        }
        let pools = self.spans(at);
        let place = pools.and_then(|pools| pools.key(name));
        let hint = suggest(name, self.pools.keys().map(String::as_str), "the pools are");
        let hint =
            hint.unwrap_or_else(|| format!("declare it: [pipeline] pools = {{ {name} = 1 }}"));
        let fault = Diagnostic::error(place, format!("there is no pool '{name}'"));
        self.faults.push(fault.hint(hint));
    }

    fn retry(&mut self, written: WrittenRetry, resources: &Resources) -> Retry {
        let wait = self.amount(written.wait, "retry.wait", units::duration);
        let max = self.amount(written.max_wait, "retry.max_wait", units::duration);
        let mut usual = resources.clone();
        usual.memory = (usual.memory as f64 * written.grow) as u64;
        Retry {
            times: written.times,
            wait: wait.unwrap_or(Duration::from_secs(1)),
            factor: written.factor,
            max_wait: max.unwrap_or(Duration::from_secs(600)),
            resources: self.resources(written.resources, usual, "retry.resources"),
            grow: written.grow,
        }
    }

    fn amount<T>(
        &mut self,
        amount: Option<Amount>,
        at: &str,
        parse: fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = match amount? {
            Amount::Number(number) => number.to_string(),
            Amount::Text(text) => text,
        };
        match parse(&text) {
            Ok(value) => Some(value),
            Err(message) => {
                self.fault(at, format!("cannot be '{text}': {message}"));
                None
            }
        }
    }

    fn fault(&mut self, at: &str, message: String) {
        let field = self.field(at);
        let note = field.and_then(Field::origin);
        let fault = Diagnostic::error(self.place(at), format!("'{at}' {message}"));
        self.faults.push(fault.note(note));
    }

    fn field(&self, at: &str) -> Option<&Field> {
        self.raw.field(at.split('.').next()?)
    }

    /// Where the value at a path such as `retry.wait` is written.
    fn place(&self, at: &str) -> Option<Span> {
        self.spans(at)?.span.clone()
    }

    fn spans(&self, at: &str) -> Option<&Spans> {
        let spans = &self.field(at)?.spans;
        Some(at.split('.').skip(1).fold(spans, Spans::value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::SETTINGS;

    #[test]
    fn every_setting_has_a_schema_that_describes_it() {
        let properties = properties();
        let names: Vec<&str> = properties.keys().map(String::as_str).collect();
        assert_eq!(names, SETTINGS);
        for (name, schema) in &properties {
            assert!(schema["description"].is_string(), "{name}: {schema}");
        }
    }

    fn retry() -> Settings {
        Settings {
            retry: Some(Box::new(Retry {
                times: 3,
                wait: Duration::from_secs(10),
                factor: 3.0,
                max_wait: Duration::from_secs(60),
                resources: Resources {
                    memory: 100,
                    ..Resources::default()
                },
                grow: 1.5,
            })),
            ..Settings::default()
        }
    }

    #[test]
    fn waits_grow_up_to_the_longest_and_end() {
        let seconds = |attempt| retry().wait_after(attempt).map(|wait| wait.as_secs());
        let waits: Vec<_> = (1..=4).map(seconds).collect();
        assert_eq!(waits, [Some(10), Some(30), Some(60), None]);
        assert_eq!(Settings::default().wait_after(1), None);
    }

    #[test]
    fn later_attempts_ask_for_more() {
        let memory: Vec<u64> = (1..=3).map(|n| retry().resources(n).memory).collect();
        assert_eq!(memory, [0, 100, 150]);
    }
}
