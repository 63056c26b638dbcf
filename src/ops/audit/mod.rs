//! Auditing: each step is done again from its recorded inputs in a clean folder elsewhere, and the digests are compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::build::{cores, wait_for_lock};
use super::workspace::{environment, find_steps};
use super::{BuildOptions, HubAccess, OpsError, Workspace, inspect};
use crate::event::{Event, Sink};
use crate::exec::{End, Executor, LocalExecutor, Stop, WorkFolder, prepare};
use crate::files::{self, FileError, PathContext};
use crate::graph::{Graph, Node, StepId};
use crate::pipeline::StepName;
use crate::plan::{Decided, Key, Planner, Provenance, Settled, Verdict};
use crate::record::differences;
use crate::step::{Input, Purity, Registry, StepError};
use crate::store::{Entry, LocalStore, StatCache, Store, StoreError};

/// How often a running step's audit looks whether it was stopped.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How many of the last lines of a failed step's log are shown.
const LOG_TAIL: usize = 10;

/// What an audit found, step by step in build order.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct AuditReport {
    /// The steps.
    pub steps: Vec<(StepName, Audited)>,
}

/// What an audit found of a step.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Audited {
    /// Every output came out bit for bit as recorded.
    Same,
    /// These outputs did not, one line each.
    Differs(Vec<String>),
    /// It was not done again, and is not meant to be, for this reason.
    NotAudited(String),
    /// There is no result to compare with, for this reason.
    NoResult(String),
}

impl AuditReport {
    /// Whether every step that can be audited came out the same.
    pub fn agrees(&self) -> bool {
        !self
            .steps
            .iter()
            .any(|(_, audited)| matches!(audited, Audited::Differs(_) | Audited::NoResult(_)))
    }
}

/// Does the targets again (without targets: every step) and compares.
///
/// Each step gets the *recorded* inputs, so that a difference is shown at the
/// step that causes it and not at all those below it.
pub fn audit(
    workspace: &Workspace,
    options: &BuildOptions,
    cancel: &AtomicBool,
    sink: &mut dyn Sink,
) -> Result<AuditReport, OpsError> {
    let (graph, _) = workspace.load(&options.overrides)?;
    let targets = find_steps(&graph, &options.targets)?;
    let Some(_lock) = wait_for_lock(workspace, &graph, cancel, sink)? else {
        return Ok(AuditReport::default());
    };
    let (store, _) = workspace.open_store()?;
    let environment = environment();
    let hub = HubAccess::new(workspace, false);
    let program = std::env::current_exe().map_err(OpsError::OwnPath)?;
    let clean = tempfile::Builder::new().prefix("retune-audit-").tempdir();
    let clean = clean.on("create a folder in", &std::env::temp_dir())?;
    let mut audit = Audit {
        graph: &graph,
        registry: &workspace.registry,
        store: &store,
        planner: Planner::new(
            &graph,
            inspect::surroundings(workspace, &store, &environment, &hub),
        ),
        executor: LocalExecutor::new(program, std::env::vars_os()),
        clean: clean.path(),
        report: AuditReport::default(),
        cancel,
    };
    for &id in graph.order() {
        let wanted = targets.is_empty() || targets.contains(&id);
        audit.step(id, wanted, sink)?;
    }
    Ok(audit.report)
}

struct Audit<'a> {
    graph: &'a Graph,
    registry: &'a Registry,
    store: &'a LocalStore,
    planner: Planner<'a>,
    executor: LocalExecutor,
    clean: &'a Path,
    report: AuditReport,
    cancel: &'a AtomicBool,
}

impl Audit<'_> {
    fn step(&mut self, id: StepId, wanted: bool, sink: &mut dyn Sink) -> Result<(), OpsError> {
        let node = self.graph.node(id);
        let current = match self.current(id) {
            Ok(current) => current,
            Err(why) => {
                if wanted {
                    self.note(node, Audited::NoResult(why));
                }
                return Ok(());
            }
        };
        let (decided, entry) = current;
        if wanted {
            let audited = self.again(id, &decided, &entry, sink)?;
            self.note(node, audited);
        }
        self.planner.settle(
            id,
            Settled {
                key: decided.key,
                inputs: decided.inputs,
                outputs: entry.outputs,
            },
        );
        Ok(())
    }

    fn note(&mut self, node: &Node, audited: Audited) {
        self.report.steps.push((node.name.clone(), audited));
    }

    /// The step's recorded result, if it is the current one.
    fn current(&self, id: StepId) -> Result<(Decided, Entry), String> {
        let open = |step: &&StepId| self.planner.settled(**step).is_none();
        if let Some(step) = self.graph.dependencies(id).iter().find(open) {
            return Err(format!(
                "its input {} has no current result",
                self.graph.node(*step).name
            ));
        }
        let decided = self.planner.decide(id, false).map_err(|e| e.to_string())?;
        match (&decided.verdict, decided.entry.clone()) {
            (Verdict::UpToDate | Verdict::Restore { .. }, Some(entry)) => Ok((decided, entry)),
            _ => Err("it has no current result: build first".to_owned()),
        }
    }

    fn again(
        &self,
        id: StepId,
        decided: &Decided,
        entry: &Entry,
        sink: &mut dyn Sink,
    ) -> Result<Audited, OpsError> {
        let node = self.graph.node(id);
        if self.cancel.load(Ordering::Relaxed) {
            return Ok(stopped());
        }
        if node.purity == Purity::External {
            return Ok(Audited::NotAudited("it acts on the world".to_owned()));
        }
        sink.event(&Event::StepStarted {
            step: node.name.clone(),
            kind: node.kind.clone(),
            key: decided.key,
        });
        let work = WorkFolder::create(self.clean.join(&*node.name.file()).join("work"))?;
        let started = Instant::now();
        let outcome = self.run(id, decided, &work, sink)?;
        let seconds = started.elapsed().as_secs_f64();
        let (step, key) = (node.name.clone(), decided.key);
        let (audited, event) = match outcome {
            Ok(()) => {
                let audited = self.compare(entry, &work);
                let event = finished(step, key, seconds, &audited);
                (audited, event)
            }
            Err(_) if self.cancel.load(Ordering::Relaxed) => {
                (stopped(), Event::StepCancelled { step })
            }
            Err(error) => {
                let audited = Audited::Differs(failure(&error, &work));
                (audited, failed(step, error))
            }
        };
        sink.event(&event);
        files::remove(&self.clean.join(&*node.name.file()))?;
        Ok(audited)
    }

    fn run(
        &self,
        id: StepId,
        decided: &Decided,
        work: &WorkFolder,
        sink: &mut dyn Sink,
    ) -> Result<Result<(), StepError>, OpsError> {
        let node = self.graph.node(id);
        let inputs = self.inputs(id, decided)?;
        let job = prepare(
            self.registry,
            node,
            &self.planner.manifest(id, &decided.inputs),
            inputs,
            work,
            cores(),
        );
        let started = job.and_then(|job| self.executor.start(&job, work));
        let running = match started {
            Ok(running) => running,
            Err(error) => return Ok(Err(error)),
        };
        let step = node.name.clone();
        let stop = running.stopper();
        let ended = AtomicBool::new(false);
        let result = std::thread::scope(|scope| {
            // The wait itself does not return before the step ends.
            let watcher = scope.spawn(|| kill_if_cancelled(stop, self.cancel, &ended));
            let result = running.wait(&mut |progress| {
                let step = step.clone();
                sink.event(&Event::StepProgress { step, progress });
            });
            ended.store(true, Ordering::Relaxed);
            watcher.thread().unpark();
            result
        });
        Ok(match result.end {
            End::Finished => Ok(()),
            End::Failed { error } => Err(error),
            End::Cancelled => Err(StepError::new("cancelled")),
        })
    }

    /// The recorded inputs under other paths than the build had.
    fn inputs(&self, id: StepId, decided: &Decided) -> Result<Vec<Input>, OpsError> {
        let name = self.graph.node(id).name.file();
        let folder = self.clean.join(&*name).join("inputs");
        files::create_dir(&folder)?;
        let mut inputs = Vec::new();
        for (i, input) in decided.inputs.iter().enumerate() {
            let place = folder.join(i.to_string());
            let path = match &input.from {
                Provenance::Step { .. } => {
                    let path = place.join(input.path.file_name().unwrap_or_default());
                    self.store.place(&input.artifact, &path)?;
                    path
                }
                Provenance::Engine(_) => {
                    files::write(&place, self.planner.lineage(id))?;
                    place
                }
                Provenance::Path(_) | Provenance::Hub(_) => elsewhere(&place, &input.path)?,
            };
            inputs.push(Input {
                port: input.port.clone(),
                label: input.label.clone(),
                path,
            });
        }
        Ok(inputs)
    }

    fn compare(&self, entry: &Entry, work: &WorkFolder) -> Audited {
        let stats = StatCache::empty();
        let lines: Vec<String> = entry
            .outputs
            .iter()
            .flat_map(|output| {
                let path = work.out().join(&output.path);
                differences(self.store, &stats, &output.artifact, &output.path, &path)
            })
            .collect();
        match lines.is_empty() {
            true => Audited::Same,
            false => Audited::Differs(lines),
        }
    }
}

fn finished(step: StepName, key: Key, seconds: f64, audited: &Audited) -> Event {
    Event::StepFinished {
        step,
        key,
        seconds,
        peak_memory: None,
        facts: BTreeMap::new(),
        unchanged: *audited == Audited::Same,
    }
}

/// The log's end is in the report.
fn failed(step: StepName, error: StepError) -> Event {
    Event::StepFailed {
        step,
        error,
        log_tail: Vec::new(),
        log: None,
    }
}

fn stopped() -> Audited {
    Audited::NotAudited("the audit was stopped".to_owned())
}

/// How a step failed that had worked in the build, with the end of its log.
fn failure(error: &StepError, work: &WorkFolder) -> Vec<String> {
    let mut lines = vec![format!("it failed: {}", error.message)];
    lines.extend(error.causes.iter().cloned());
    let log = std::fs::read(work.log()).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let log: Vec<&str> = log.lines().collect();
    let tail = log[log.len().saturating_sub(LOG_TAIL)..].iter();
    lines.extend(tail.map(|line| format!("| {line}")));
    lines
}

/// Kills a step when the user stops the audit; returns when the step has ended.
fn kill_if_cancelled(stop: impl Fn(Stop), cancel: &AtomicBool, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        if cancel.load(Ordering::Relaxed) {
            stop(Stop::Kill);
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// The source under another path: hard links where they can be had, copies
/// elsewhere, and no symbolic links, which a step could tell from files.
fn elsewhere(place: &Path, source: &Path) -> Result<PathBuf, StoreError> {
    files::create_dir(place)?;
    let path = place.join(source.file_name().unwrap_or_default());
    mirror(source, &path)?;
    Ok(path)
}

fn mirror(source: &Path, path: &Path) -> Result<(), FileError> {
    let real = fs::canonicalize(source).on("find", source)?;
    if !real.is_dir() {
        return match fs::hard_link(&real, path) {
            Ok(()) => Ok(()),
            Err(_) => fs::copy(&real, path).on("copy", &real).map(|_| ()),
        };
    }
    files::create_dir(path)?;
    for entry in fs::read_dir(&real).on("list", &real)? {
        let entry = entry.on("list", &real)?;
        mirror(&entry.path(), &path.join(entry.file_name()))?;
    }
    Ok(())
}
