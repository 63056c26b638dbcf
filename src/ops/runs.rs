//! What was done before and is being done now: runs, logs of steps, and the state of everything.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::workspace::find_step;
use super::{BuildOptions, OpsError, Workspace, inspect};
use crate::event::Summary;
use crate::exec::WorkFolder;
use crate::files::Lock;
use crate::hash::Digest;
use crate::pipeline::{Overrides, PipelineName, StepName};
use crate::record::{
    RunHeader, RunLine, RunRecord, StepEnd, StepInRun, attempt_log, find_run, list_runs, step_log,
};
use crate::store::{LocalStore, Store};

/// A run and how it ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunInfo {
    /// What it was.
    #[serde(flatten)]
    pub header: RunHeader,
    /// How it ended, if it did.
    pub result: RunResult,
    /// How many steps ended how.
    pub summary: Option<Summary>,
    /// Wall time in seconds.
    pub seconds: Option<f64>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunResult {
    /// Every step has its outputs.
    Fine,
    /// A step failed.
    Failed,
    /// The user stopped it.
    Stopped,
    /// It goes on.
    Running,
    /// It did not come to its end.
    Killed,
}

impl RunResult {
    /// One word for tables.
    pub fn word(self) -> &'static str {
        match self {
            RunResult::Fine => "fine",
            RunResult::Failed => "failed",
            RunResult::Stopped => "stopped",
            RunResult::Running => "running",
            RunResult::Killed => "killed",
        }
    }
}

/// The last `limit` runs that did something, the last one first.
pub fn runs(workspace: &Workspace, limit: usize) -> Result<Vec<RunInfo>, OpsError> {
    let busy = building(workspace)?.is_some();
    let names = list_runs(&workspace.cache);
    let newest = names.last().cloned();
    let mut runs = Vec::new();
    for name in names.iter().rev().take(limit) {
        // One that cannot be read, or that gc removed just now, hides no other.
        if let Ok(line) = RunLine::read(&workspace.cache, name) {
            runs.push(info(line, busy && newest.as_ref() == Some(name)));
        }
    }
    Ok(runs)
}

/// `going`: whether a build runs now, and this is the last run begun.
fn info(line: RunLine, going: bool) -> RunInfo {
    let result = match &line.end {
        Some((summary, _)) if summary.complete() => RunResult::Fine,
        Some((summary, _)) if summary.failed > 0 => RunResult::Failed,
        Some(_) => RunResult::Stopped,
        None if going && is_alive(line.header.pid) => RunResult::Running,
        None => RunResult::Killed,
    };
    RunInfo {
        result,
        summary: line.end.map(|(summary, _)| summary),
        seconds: line.end.map(|(_, seconds)| seconds),
        header: line.header,
    }
}

/// Whether a process of that number is there.
fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

/// Who builds in this store now, in words.
fn building(workspace: &Workspace) -> Result<Option<String>, OpsError> {
    let holder = Lock::holder(&workspace.cache.join("lock"))?;
    Ok(holder.map(|holder| holder.to_string()))
}

/// The run that goes on, if one does and has begun a step.
fn current_run(workspace: &Workspace) -> Result<Option<RunRecord>, OpsError> {
    let Some(last) = runs(workspace, 1)?.pop() else {
        return Ok(None);
    };
    match last.result {
        RunResult::Running => Ok(Some(RunRecord::read(&workspace.cache, &last.header.run)?)),
        _ => Ok(None),
    }
}

/// What a step printed when it was last run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepLog {
    /// The step.
    pub step: StepName,
    /// The run; none when only the record of its result is left.
    pub run: Option<String>,
    /// How it ended; none when only the record of its result is left.
    pub end: Option<StepEnd>,
    /// Where the log is.
    #[serde(skip)]
    pub source: LogSource,
}

/// Where a log is.
#[derive(Debug, Clone, PartialEq)]
pub enum LogSource {
    /// In this file, which grows while the step runs.
    File(PathBuf),
    /// Read from the store.
    Stored(Vec<u8>),
    /// The step printed nothing.
    Nothing,
}

/// Finds the logs of the last execution of a step, or of each of several cells
/// of a matrix, or of that in the run `wanted`.
pub fn logs(
    workspace: &Workspace,
    overrides: &Overrides,
    step: &str,
    wanted: Option<&str>,
) -> Result<Vec<StepLog>, OpsError> {
    let cache = &workspace.cache;
    let runs = match wanted {
        Some(wanted) => vec![find_run(cache, wanted)?],
        None => list_runs(cache),
    };
    let graph = workspace.load(overrides).map(|(graph, _)| graph);
    // A step may be gone from the pipeline file by now, or the file be broken.
    let asked = match (&graph, step.parse::<StepName>()) {
        (Ok(graph), parsed) => match (find_step(graph, step), parsed) {
            (Ok(ids), _) => ids.iter().map(|id| graph.node(*id).name.clone()).collect(),
            (Err(_), Ok(name)) if executed(cache, &runs, &name).is_some() => vec![name],
            (Err(error), _) => return Err(error),
        },
        (Err(_), Ok(name)) => vec![name],
        (Err(_), Err(_)) => return Err(graph.map(|_| ()).expect_err("seen to be one")),
    };
    let log = |name: StepName| match executed(cache, &runs, &name) {
        Some((run, step)) => Ok(of_run(workspace, run, name, &step)),
        None => match (wanted, runs.first()) {
            (Some(_), Some(run)) => Err(OpsError::NotInRun {
                step: name,
                run: run.clone(),
            }),
            _ => of_record(
                workspace,
                &graph.as_ref().ok().map(|g| g.name.clone()),
                name,
            ),
        },
    };
    asked.into_iter().map(log).collect()
}

/// The last of these runs in which a step was executed, and what came of it.
fn executed(cache: &Path, runs: &[String], name: &StepName) -> Option<(String, StepInRun)> {
    runs.iter().rev().find_map(|run| {
        let record = RunRecord::read(cache, run).ok()?;
        let step = record.steps.get(name)?.clone();
        let tried = step.started.is_some() || step.end == StepEnd::Failed;
        tried.then(|| (run.clone(), step))
    })
}

/// What the record of a step's current result has.
fn of_record(
    workspace: &Workspace,
    pipeline: &Option<PipelineName>,
    name: StepName,
) -> Result<StepLog, OpsError> {
    let store = workspace.look_into_store()?;
    let pipeline = pipeline.as_ref();
    match pipeline.and_then(|pipeline| recorded(&store, pipeline, &name)) {
        Some(source) => Ok(StepLog {
            step: name,
            run: None,
            end: None,
            source,
        }),
        None => Err(OpsError::NeverRun(name)),
    }
}

fn of_run(workspace: &Workspace, run: String, name: StepName, step: &StepInRun) -> StepLog {
    let kept = step_log(&workspace.cache, &run, &name);
    let working = working_log(workspace, step);
    let files = working.into_iter().chain([kept]);
    let source = files.into_iter().find(|path| path.is_file());
    StepLog {
        end: Some(step.end),
        step: name,
        run: Some(run),
        source: source.map_or(LogSource::Nothing, LogSource::File),
    }
}

/// The log that a running step writes. Another step has its folder afterwards.
fn working_log(workspace: &Workspace, step: &StepInRun) -> Option<PathBuf> {
    let work = step
        .work
        .as_ref()
        .filter(|_| step.end == StepEnd::Running)?;
    Some(WorkFolder::at(workspace.cache.join(work)).log())
}

/// What there is to follow of a step in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Following {
    /// The run.
    pub run: String,
    /// The log of each attempt that was begun; one that printed nothing may
    /// have none.
    pub attempts: Vec<PathBuf>,
    /// Whether the last of them goes on.
    pub running: bool,
    /// Whether no other will be begun.
    pub over: bool,
}

/// Looks what there is to follow of a step now: in the build that goes on, or
/// in `run`, which was that when this was last asked. None if there is none.
pub fn following(
    workspace: &Workspace,
    step: &str,
    run: Option<&str>,
) -> Result<Option<Following>, OpsError> {
    let current = current_run(workspace)?;
    let goes_on = |run: &str| current.as_ref().is_some_and(|c| c.header.run == run);
    let over = run.is_some_and(|run| !goes_on(run));
    let record = match (current, run) {
        (_, Some(run)) if over => RunRecord::read(&workspace.cache, run)?,
        (Some(current), _) => current,
        (None, _) => return Ok(None),
    };
    let run = record.header.run.clone();
    let name = step.parse::<StepName>().ok();
    let found = name.and_then(|name| record.steps.get_key_value(&name));
    let Some((name, step)) = found else {
        return Ok(Some(Following {
            run,
            attempts: Vec::new(),
            running: false,
            over,
        }));
    };
    let running = step.end == StepEnd::Running && !over;
    let ended = !matches!(step.end, StepEnd::Running | StepEnd::Open);
    let log = |(n, attempt): (usize, &u32)| match n + 1 == step.attempts.len() {
        true => working_log(workspace, step)
            .filter(|_| running)
            .unwrap_or_else(|| step_log(&workspace.cache, &run, name)),
        false => attempt_log(&workspace.cache, &run, name, *attempt),
    };
    Ok(Some(Following {
        attempts: step.attempts.iter().enumerate().map(log).collect(),
        running,
        over: over || ended,
        run: run.clone(),
    }))
}

/// The log that belongs to a step's current result.
fn recorded(store: &LocalStore, pipeline: &PipelineName, step: &StepName) -> Option<LogSource> {
    #[derive(serde::Deserialize)]
    struct Recorded {
        log: Option<Digest>,
    }
    let record = store.with_index(|index| {
        let key = index.step(pipeline.as_str(), step.as_str())?.current?;
        Some(index.entry(&key)?.record)
    })?;
    let record: Recorded = serde_json::from_slice(&store.get(&record).ok()?).ok()?;
    Some(match record.log {
        Some(log) => LogSource::Stored(store.get(&log).ok()?),
        None => LogSource::Nothing,
    })
}

/// The state of everything.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// How many steps a plan says what of, by the word of the verdict.
    pub steps: BTreeMap<&'static str, usize>,
    /// Steps that failed or were stopped when they last ran.
    pub unfinished: Vec<StepName>,
    /// The last run that did something.
    pub last_run: Option<RunInfo>,
    /// Who builds now, in words.
    pub building: Option<String>,
    /// The steps that run now, and since when.
    pub running: Vec<RunningStep>,
    /// What is in the store.
    pub store: StoreSize,
}

/// A step that runs now.
#[derive(Debug, Clone, Serialize)]
pub struct RunningStep {
    /// The step.
    pub step: StepName,
    /// Since when, RFC 3339 in UTC.
    pub since: Option<String>,
}

/// What the store's index knows without looking at the files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StoreSize {
    /// How many results it holds.
    pub results: usize,
    /// Bytes of their outputs, what several have in common counted once.
    pub bytes: u64,
}

/// Looks at the pipeline, its steps, the last run and the store.
pub fn status(workspace: &Workspace, overrides: &Overrides) -> Result<Status, OpsError> {
    let options = BuildOptions {
        overrides: overrides.clone(),
        ..BuildOptions::default()
    };
    let plan = inspect::plan(workspace, &options)?;
    let store = workspace.look_into_store()?;
    let running = running_now(workspace)?;
    let mut steps = BTreeMap::new();
    for step in &plan.steps {
        *steps.entry(step.verdict.word()).or_default() += 1;
    }
    let unfinished = |name: &StepName| {
        let runs = running.iter().any(|running| running.step == *name);
        !runs && is_unfinished(&store, &plan.pipeline, name)
    };
    let names = plan.steps.iter().map(|step| &step.name);
    Ok(Status {
        steps,
        unfinished: names.filter(|name| unfinished(name)).cloned().collect(),
        last_run: runs(workspace, 1)?.pop(),
        building: building(workspace)?,
        store: store_size(&store),
        pipeline: plan.pipeline,
        running,
    })
}

/// The steps that run now.
pub(super) fn running_now(workspace: &Workspace) -> Result<Vec<RunningStep>, OpsError> {
    let current = current_run(workspace)?;
    Ok(current.as_ref().map_or(Vec::new(), running_steps))
}

/// The steps that a run has begun and not ended.
fn running_steps(run: &RunRecord) -> Vec<RunningStep> {
    let running = |(name, step): (&StepName, &StepInRun)| {
        (step.end == StepEnd::Running).then(|| RunningStep {
            step: name.clone(),
            since: step.started.clone(),
        })
    };
    run.steps.iter().filter_map(running).collect()
}

/// Whether a step failed or was stopped when it last ran.
pub(super) fn is_unfinished(store: &LocalStore, pipeline: &PipelineName, step: &StepName) -> bool {
    store.with_index(|index| {
        let state = index.step(pipeline.as_str(), step.as_str());
        state.is_some_and(|state| state.unfinished.is_some())
    })
}

fn store_size(store: &LocalStore) -> StoreSize {
    store.with_index(|index| {
        let mut size = StoreSize::default();
        let mut seen = HashSet::new();
        for (_, entry) in index.entries() {
            size.results += 1;
            for output in &entry.outputs {
                if seen.insert(output.artifact.digest) {
                    size.bytes += output.artifact.size;
                }
            }
        }
        size
    })
}
