//! Auditing: each step is done again from its recorded inputs in a clean folder elsewhere, and the digests are compared.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::build::{cores, wait_for_lock};
use super::workspace::{environment, find_steps};
use super::{BuildOptions, HubAccess, OpsError, Workspace, inspect, registry};
use crate::event::{Event, Sink};
use crate::exec::{End, Executor, LocalExecutor, WorkFolder, prepare};
use crate::files::{self, PathContext};
use crate::graph::{Graph, Node, StepId};
use crate::pipeline::StepName;
use crate::plan::{Decided, Planner, Provenance, Settled, Verdict};
use crate::record::differences;
use crate::step::{Input, Purity, Registry, StepError};
use crate::store::{Entry, LocalStore, StatCache, Store, StoreError};

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
    /// It was not done again, for this reason.
    NotAudited(String),
}

impl AuditReport {
    /// Whether every audited step came out the same.
    pub fn agrees(&self) -> bool {
        !self
            .steps
            .iter()
            .any(|(_, audited)| matches!(audited, Audited::Differs(_)))
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
    let registry = registry();
    let (graph, _) = workspace.load(&options.overrides, &registry)?;
    let targets = find_steps(&graph, &options.targets)?;
    let _lock = wait_for_lock(workspace, &graph, sink)?;
    let (store, _) = workspace.open_store()?;
    let environment = environment();
    let hub = HubAccess::new(workspace, false);
    let program = std::env::current_exe().map_err(OpsError::OwnPath)?;
    let clean = tempfile::Builder::new().prefix("retune-audit-").tempdir();
    let clean = clean.on("create a folder in", &std::env::temp_dir())?;
    let mut audit = Audit {
        graph: &graph,
        registry: &registry,
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
                    self.note(node, Audited::NotAudited(why));
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
            return Ok(Audited::NotAudited("the audit was stopped".to_owned()));
        }
        if node.purity == Purity::External {
            return Ok(Audited::NotAudited("it acts on the world".to_owned()));
        }
        sink.event(&Event::StepStarted {
            step: node.name.clone(),
            kind: node.kind.clone(),
            key: decided.key,
        });
        let work = WorkFolder::create(self.clean.join(node.name.as_str()).join("work"))?;
        let audited = match self.run(id, decided, &work, sink)? {
            Ok(()) => self.compare(entry, &work),
            Err(error) => Audited::Differs(vec![format!("it failed: {error:?}")]),
        };
        files::remove(&self.clean.join(node.name.as_str()))?;
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
        let result = running.wait(&mut |progress| {
            if self.cancel.load(Ordering::Relaxed) {
                stop(crate::exec::Stop::Kill);
            }
            let step = step.clone();
            sink.event(&Event::StepProgress { step, progress });
        });
        Ok(match result.end {
            End::Finished => Ok(()),
            End::Failed { error } => Err(error),
            End::Cancelled => Err(StepError::new("cancelled")),
        })
    }

    /// The recorded inputs under other paths than the build had.
    fn inputs(&self, id: StepId, decided: &Decided) -> Result<Vec<Input>, OpsError> {
        let name = self.graph.node(id).name.as_str();
        let folder = self.clean.join(name).join("inputs");
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
                Provenance::Path(_) | Provenance::Hub(_) => link(&place, &input.path)?,
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
        let stats = StatCache::open(Path::new("/dev/null"));
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

/// A link under another path, so that big sources are not copied.
fn link(place: &Path, source: &Path) -> Result<PathBuf, StoreError> {
    files::create_dir(place)?;
    let path = place.join(source.file_name().unwrap_or_default());
    std::os::unix::fs::symlink(source, &path).on("link", &path)?;
    Ok(path)
}
