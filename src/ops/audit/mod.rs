//! Auditing: each step is done again from its recorded inputs in a clean folder elsewhere, and what comes out is compared.

mod judge;
mod noise;
mod plant;
mod rebuild;
mod reference;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use super::build::wait_for_lock;
use super::workspace::{environment, find_steps};
use super::{HubAccess, OpsError, Workspace, inspect};
use crate::event::{Event, Sink};
use crate::exec::LocalExecutor;
use crate::files::PathContext;
use crate::graph::{Graph, StepId};
use crate::pipeline::Overrides;
use crate::plan::{Decided, Planner, Provenance, Settled, Verdict};
use crate::record::{AUDIT_FORMAT, AuditReport, Environment, StepAudit, StepResult, step_result};
use crate::step::{Purity, Registry};
use crate::store::{Entry, LocalStore, Store};

use judge::{Found, Judge};
use noise::Noise;
use rebuild::{Rebuilder, Rebuilt, Task};
use reference::Reference;

pub use noise::NoiseLevel;

/// What to audit and how.
#[derive(Debug, Clone)]
pub struct AuditOptions {
    /// The steps to audit; all if empty.
    pub targets: Vec<String>,
    /// How many steps may be done at once.
    pub jobs: usize,
    /// Values that replace those of the file.
    pub overrides: Overrides,
    /// How long stopped steps have to comply.
    pub grace: Duration,
    /// How much is made different from the build.
    pub noise: NoiseLevel,
    /// A lock file, a folder or a project to compare with; the own records
    /// without it.
    pub against: Option<PathBuf>,
    /// Whether steps are done again, or their recorded results compared.
    pub rebuild: bool,
    /// Whether to tell what programs touch without declaring it.
    pub trace: bool,
}

/// Does the targets again (without targets: every step) and compares.
///
/// Each step gets the *recorded* inputs, so that a difference is shown at the
/// step that causes it and not at all those below it.
pub fn audit(
    workspace: &Workspace,
    options: &AuditOptions,
    cancel: &AtomicBool,
    sink: &mut dyn Sink,
) -> Result<AuditReport, OpsError> {
    let (graph, _) = workspace.load(&options.overrides)?;
    let targets = find_steps(&graph, &options.targets)?;
    let reference = match &options.against {
        None => Reference::Records,
        Some(path) => Reference::find(workspace, &graph, path, &targets)?,
    };
    let started = jiff::Timestamp::now();
    let clean = tempfile::Builder::new().prefix("retune-audit-").tempdir();
    let clean = clean.on("create a folder in", &std::env::temp_dir())?;
    // The umask of this process is another one while this is alive.
    let level = match options.rebuild {
        true => options.noise,
        false => NoiseLevel::None,
    };
    let mut report = AuditReport {
        format: AUDIT_FORMAT,
        pipeline: graph.name.clone(),
        started: format!("{started:.0}"),
        verdict: AuditReport::verdict_of(&[]),
        against: reference.against(),
        rebuilt: options.rebuild,
        noise: Vec::new(),
        steps: Vec::new(),
        environment: Environment::capture(&workspace.root),
    };
    let Some(_lock) = wait_for_lock(workspace, &graph.name, cancel, sink)? else {
        return Ok(report);
    };
    let (store, _) = workspace.open_store()?;
    let noise = Noise::make(level, clean.path())?;
    let survey = Survey {
        workspace,
        graph: &graph,
        store: &store,
        targets: &targets,
        reference: &reference,
        rebuild: options.rebuild,
    };
    let (steps, tasks) = survey.take()?;
    report.steps = steps;
    let audit = Audit {
        rebuilder: rebuilder(
            &workspace.registry,
            &store,
            &noise,
            clean.path(),
            workspace,
            cancel,
            options,
        )?,
        judge: Judge {
            store: &store,
            reference: &reference,
            scratch: clean.path().join("expected"),
        },
        rebuild: options.rebuild,
    };
    for (at, audited) in audit.all(tasks, options.jobs, sink)? {
        report.steps[at] = audited;
    }
    if options.rebuild {
        report.noise = noise.varied.clone();
    }
    report.verdict = AuditReport::verdict_of(&report.steps);
    Ok(report)
}

fn rebuilder<'a>(
    registry: &'a Registry,
    store: &'a LocalStore,
    noise: &'a Noise,
    folder: &Path,
    workspace: &'a Workspace,
    cancel: &'a AtomicBool,
    options: &AuditOptions,
) -> Result<Rebuilder<'a>, OpsError> {
    let program = std::env::current_exe().map_err(OpsError::OwnPath)?;
    let executor = |variables: &[_]| {
        LocalExecutor::new(program.clone(), std::env::vars_os()).with_variables(variables)
    };
    Ok(Rebuilder {
        registry,
        store,
        noise,
        commands: executor(&noise.commands),
        kinds: executor(&noise.kinds),
        clean: noise::elsewhere(folder),
        trace: options.trace.then(|| workspace.cache.join("work")),
        project: &workspace.root,
        cancel,
        grace: options.grace,
    })
}

/// What there is to audit.
struct Survey<'a> {
    workspace: &'a Workspace,
    graph: &'a Graph,
    store: &'a LocalStore,
    targets: &'a [StepId],
    reference: &'a Reference,
    rebuild: bool,
}

impl<'a> Survey<'a> {
    /// A line of the report for each wanted step, and what is to be done for
    /// those that can be audited.
    fn take(&self) -> Result<(Vec<StepAudit>, Vec<Task<'a>>), OpsError> {
        let environment = environment();
        let hub = HubAccess::new(self.workspace, None);
        let around = inspect::surroundings(self.workspace, self.store, &environment, &hub);
        let mut planner = Planner::new(self.graph, around);
        let (mut steps, mut tasks) = (Vec::new(), Vec::new());
        for &id in self.graph.order() {
            let found = self.current(&planner, id);
            if self.wants(id) {
                match &found {
                    Ok((decided, entry)) => {
                        let task = self.task(&planner, id, decided, entry, steps.len());
                        steps.push(self.waiting(&task));
                        tasks.extend(self.audits(&task).then_some(task));
                    }
                    Err(why) => steps.push(self.untold(id, why.clone())),
                }
            }
            if let Ok((decided, entry)) = found {
                let settled = Settled {
                    key: decided.key,
                    inputs: decided.inputs,
                    outputs: entry.outputs,
                };
                planner.settle(id, settled);
            }
        }
        Ok((steps, tasks))
    }

    fn wants(&self, id: StepId) -> bool {
        match self.reference.only() {
            Some(only) => id == only,
            None => self.targets.is_empty() || self.targets.contains(&id),
        }
    }

    /// Steps that act on the world are not done again.
    fn audits(&self, task: &Task<'_>) -> bool {
        !self.rebuild || task.node.purity != Purity::External
    }

    /// What stands in the report until a step was audited.
    fn waiting(&self, task: &Task<'_>) -> StepAudit {
        let (result, why) = match self.audits(task) {
            true => (StepResult::CouldNotTell, "the audit was stopped"),
            false => (StepResult::NotAudited, "it acts on the world"),
        };
        let node = task.node;
        StepAudit {
            key: Some(task.decided.key),
            ..StepAudit::without(&node.name, &node.kind, result, why.to_owned())
        }
    }

    fn untold(&self, id: StepId, why: String) -> StepAudit {
        let node = self.graph.node(id);
        StepAudit::without(&node.name, &node.kind, StepResult::CouldNotTell, why)
    }

    /// The step's recorded result, if it is the current one.
    fn current(&self, planner: &Planner<'_>, id: StepId) -> Result<(Decided, Entry), String> {
        let open = |step: &&StepId| planner.settled(**step).is_none();
        if let Some(step) = self.graph.dependencies(id).iter().find(open) {
            return Err(format!(
                "its input {} has no current result",
                self.graph.node(*step).name
            ));
        }
        let decided = planner.decide(id, false).map_err(|e| e.to_string())?;
        match (&decided.verdict, decided.entry.clone()) {
            (Verdict::UpToDate | Verdict::Restore { .. }, Some(entry)) => Ok((decided, entry)),
            _ => Err("it has no current result: build first".to_owned()),
        }
    }

    fn task(
        &self,
        planner: &Planner<'_>,
        id: StepId,
        decided: &Decided,
        entry: &Entry,
        at: usize,
    ) -> Task<'a> {
        let mut inputs = decided.inputs.iter();
        let lineage = inputs.any(|input| matches!(input.from, Provenance::Engine(_)));
        Task {
            at,
            node: self.graph.node(id),
            manifest: planner.manifest(id, &decided.inputs),
            decided: decided.clone(),
            entry: entry.clone(),
            threads: recorded_threads(self.store, entry).unwrap_or_else(crate::step::processors),
            lineage: lineage.then(|| planner.lineage(id)),
        }
    }
}

/// How many threads the step might use in the build.
fn recorded_threads(store: &LocalStore, entry: &Entry) -> Option<usize> {
    #[derive(serde::Deserialize)]
    struct Recorded {
        threads: usize,
    }
    let bytes = store.get(&entry.record).ok()?;
    let recorded: Recorded = serde_json::from_slice(&bytes).ok()?;
    Some(recorded.threads)
}

/// The audit of several steps.
struct Audit<'a> {
    rebuilder: Rebuilder<'a>,
    judge: Judge<'a>,
    rebuild: bool,
}

/// What a thread that audits reports.
enum Message {
    Event(Box<Event>),
    Done(usize, Box<Result<StepAudit, OpsError>>),
}

impl Audit<'_> {
    /// Audits the steps, some at once; gives each with its place in the report.
    fn all(
        &self,
        tasks: Vec<Task<'_>>,
        jobs: usize,
        sink: &mut dyn Sink,
    ) -> Result<Vec<(usize, StepAudit)>, OpsError> {
        let threads = jobs.clamp(1, tasks.len().max(1));
        let queue = Mutex::new(tasks.into_iter());
        let (sender, messages) = channel();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let (sender, queue) = (sender.clone(), &queue);
                scope.spawn(move || self.work(queue, &sender));
            }
            drop(sender);
            let mut audited = Vec::new();
            for message in messages {
                match message {
                    Message::Event(event) => sink.event(&event),
                    Message::Done(at, step) => audited.push((at, (*step)?)),
                }
            }
            Ok(audited)
        })
    }

    fn work<'t>(&self, queue: &Mutex<impl Iterator<Item = Task<'t>>>, sender: &Sender<Message>) {
        loop {
            let next = queue.lock().unwrap_or_else(|e| e.into_inner()).next();
            let Some(task) = next else { return };
            let mut tell = |event| {
                // Nobody listens any more once another step could not be audited.
                let _ = sender.send(Message::Event(Box::new(event)));
            };
            let audited = self.step(&task, &mut tell);
            let done = Message::Done(task.at, Box::new(audited));
            if sender.send(done).is_err() {
                return;
            }
        }
    }

    fn step(&self, task: &Task<'_>, tell: &mut dyn FnMut(Event)) -> Result<StepAudit, OpsError> {
        if !self.rebuild {
            return Ok(self.judge.step(task, Found::Recorded));
        }
        let (rebuilt, undeclared) = self.rebuilder.rebuild(task, tell)?;
        let audited = match rebuilt {
            Rebuilt::Finished(work, seconds) => StepAudit {
                seconds: Some(seconds),
                threads: Some((task.threads, self.rebuilder.noise.threads(task.threads))),
                ..self.judge.step(task, Found::Rebuilt(&work.out()))
            },
            Rebuilt::Failed(failure) => StepAudit {
                result: StepResult::Differs,
                why: Some("it failed in the audit".to_owned()),
                failure: Some(failure),
                ..judge::empty(task)
            },
            Rebuilt::Stopped => StepAudit {
                result: StepResult::CouldNotTell,
                why: Some("the audit was stopped".to_owned()),
                ..judge::empty(task)
            },
        };
        let audited = with_undeclared(audited, undeclared);
        if let Some(event) = ended(task, &audited) {
            tell(event);
        }
        crate::files::remove(&self.rebuilder.folder(task))?;
        Ok(audited)
    }
}

/// A step that touched what it does not declare has not shown that its result
/// is that of its inputs.
fn with_undeclared(mut audited: StepAudit, undeclared: Vec<String>) -> StepAudit {
    if let Some(first) = undeclared.first() {
        let more = match undeclared.len() - 1 {
            0 => String::new(),
            1 => " and did one thing more".to_owned(),
            n => format!(" and did {n} things more"),
        };
        audited.result = StepResult::Differs;
        audited
            .why
            .get_or_insert(format!("it {first}{more}, which it does not declare"));
        audited.undeclared = undeclared;
    }
    audited
}

/// What is told of the end of a step that was begun.
fn ended(task: &Task<'_>, audited: &StepAudit) -> Option<Event> {
    let step = task.node.name.clone();
    Some(match (&audited.failure, audited.seconds) {
        (Some(failure), _) => Event::StepFailed {
            step,
            error: failure.error.clone(),
            // It is in the report.
            log_tail: Vec::new(),
            log: None,
        },
        (None, Some(seconds)) => Event::StepFinished {
            step,
            key: task.decided.key,
            seconds,
            peak_memory: None,
            facts: BTreeMap::new(),
            unchanged: step_result(&audited.outputs) == StepResult::Same,
            record: None,
        },
        (None, None) => Event::StepCancelled {
            step,
            changed: None,
        },
    })
}
