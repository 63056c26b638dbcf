//! Building: load, lock, run, and write down what came of it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::workspace::{environment, find_steps, needed};
use super::{HubAccess, OpsError, Workspace};
use crate::event::{Event, Phase, Sink, Summary};
use crate::exec::{Limits, LocalExecutor, Options, RunError, Runner};
use crate::files::{self, Lock as BuildLock};
use crate::graph::{Graph, Node, StepId};
use crate::pipeline::Overrides;
use crate::plan::{Provenance, Settled, Surroundings};
use crate::record::{
    Lock, LockedStep, ProvenanceRecorder, RUN_FORMAT, RUNS, RunHeader, RunLog, stamp,
};
use crate::step::Registry;
use crate::store::LocalStore;

/// What to build and how.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// The steps wanted, with all they need; everything if empty.
    pub targets: Vec<String>,
    /// What may be handed out to steps; what it does not say is found out.
    pub limits: Limits,
    /// Whether steps that do not depend on a failed one are still run.
    pub keep_going: bool,
    /// Steps that run whether they are up to date or not.
    pub force: Vec<String>,
    /// Values that replace those of the file.
    pub overrides: Overrides,
    /// How long stopped steps have to comply.
    pub grace: Duration,
    /// Whether watch builds: steps that act on the world do not run.
    pub from_watch: bool,
    /// Whether to tell of the phases of the build's own work.
    pub phases: bool,
    /// Whether the process ends after this build, so that the memory of a
    /// large graph need not be given back piece by piece.
    pub last: bool,
}

impl Default for BuildOptions {
    fn default() -> Self {
        BuildOptions {
            targets: Vec::new(),
            limits: Limits {
                jobs: cores(),
                ..Limits::default()
            },
            keep_going: false,
            force: Vec::new(),
            overrides: Overrides::default(),
            grace: Duration::from_secs(5),
            from_watch: false,
            phases: false,
            last: false,
        }
    }
}

/// Processors that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Builds.
pub fn build(
    workspace: &Workspace,
    options: &BuildOptions,
    cancel: &AtomicBool,
    sink: &mut dyn Sink,
) -> Result<Summary, OpsError> {
    let started = Instant::now();
    let (graph, warnings) = workspace.load(&options.overrides)?;
    tell_phase(options, Phase::Load, started, sink);
    for warning in &warnings.list {
        let message = warning.message.clone();
        sink.event(&Event::Warning { message });
    }
    let mut forced = find_steps(&graph, &options.force)?;
    forced.sort();
    let targets = find_steps(&graph, &options.targets)?;
    check_pools(&graph, &options.limits)?;
    let steps = needed(&graph, &targets);
    Lock::refuse_conflict(&workspace.lock_file())?;
    let Some(_lock) = wait_for_lock(workspace, &graph, cancel, sink)? else {
        return Ok(nothing_begun(&steps));
    };
    let opening = Instant::now();
    let (store, warning) = workspace.open_store()?;
    tell_phase(options, Phase::Open, opening, sink);
    if let Some(message) = warning {
        sink.event(&Event::Warning { message });
    }
    let build = Build {
        workspace,
        graph: &graph,
        registry: &workspace.registry,
        store: &store,
        options,
        run: run_name(&workspace.cache),
    };
    let summary = build.logged(&steps, &forced, cancel, started, sink)?;
    if options.last {
        std::mem::forget(graph);
    }
    Ok(summary)
}

/// Pools of the command line must be pools of the file.
fn check_pools(graph: &Graph, limits: &Limits) -> Result<(), OpsError> {
    let unknown = |name: &&String| !graph.pools.contains_key(*name);
    let Some(name) = limits.pools.keys().find(unknown) else {
        return Ok(());
    };
    let names = graph.pools.keys().map(String::as_str);
    Err(OpsError::NoSuchPool {
        name: name.clone(),
        closest: crate::pipeline::closest(name, names).map(str::to_owned),
    })
}

fn tell_phase(options: &BuildOptions, phase: Phase, began: Instant, sink: &mut dyn Sink) {
    if options.phases {
        sink.event(&Event::PhaseEnded {
            phase,
            step: None,
            seconds: began.elapsed().as_secs_f64(),
        });
    }
}

/// The summary of a run that was stopped before its turn came.
fn nothing_begun(steps: &[StepId]) -> Summary {
    Summary {
        cancelled: steps.len(),
        ..Summary::default()
    }
}

/// One build at a time per store; none if the user stopped the waiting.
pub(super) fn wait_for_lock(
    workspace: &Workspace,
    graph: &Graph,
    cancel: &AtomicBool,
    sink: &mut dyn Sink,
) -> Result<Option<BuildLock>, OpsError> {
    lock_store(workspace, graph.name.as_str(), cancel, sink)
}

/// The store's lock, for `work` as others are told who wait for it.
pub(super) fn lock_store(
    workspace: &Workspace,
    work: &str,
    cancel: &AtomicBool,
    sink: &mut dyn Sink,
) -> Result<Option<BuildLock>, OpsError> {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC");
    let holder = format!(
        "process {}, which has been at '{work}' since {now}",
        std::process::id(),
    );
    let path = workspace.cache.join("lock");
    let lock = BuildLock::acquire(&path, &holder, cancel, |holder| {
        let holder = holder.to_string();
        sink.event(&Event::Waiting { holder });
    });
    lock.map_err(|error| match error.kind() {
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => OpsError::ReadOnlyStore {
            path: workspace.cache.clone(),
            source: error,
        },
        _ => error.into(),
    })
}

/// A name that no other run has, under the build lock. Names sort by time.
fn run_name(cache: &Path) -> String {
    let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S.%3f");
    let now = now.to_string();
    let taken = |name: &String| cache.join(RUNS).join(name).exists();
    // A clock that was set back comes by the same moment twice.
    let again = (2..).map(|n| format!("{now}-{n}"));
    let mut names = std::iter::once(now.clone()).chain(again);
    names.find(|name| !taken(name)).expect("numbers do not end")
}

struct Build<'a> {
    workspace: &'a Workspace,
    graph: &'a Graph,
    registry: &'a Registry,
    store: &'a LocalStore,
    options: &'a BuildOptions,
    run: String,
}

impl Build<'_> {
    /// Runs, and keeps the run's log; a log that cannot be kept is no reason
    /// to fail.
    fn logged(
        &self,
        steps: &[StepId],
        forced: &[StepId],
        cancel: &AtomicBool,
        started: Instant,
        sink: &mut dyn Sink,
    ) -> Result<Summary, OpsError> {
        let mut log = RunLog::new(&self.workspace.cache, self.header());
        let result = {
            let mut both = |event: &Event| {
                log.event(event);
                sink.event(event);
            };
            let result = self.run(steps, forced, cancel, &mut both);
            match &result {
                Ok(summary) => both(&Event::RunFinished {
                    summary: *summary,
                    seconds: started.elapsed().as_secs_f64(),
                }),
                Err(error) => log.event(&Event::Warning {
                    message: error.to_string(),
                }),
            }
            result
        };
        if let Some(error) = log.into_error() {
            let message = format!("the run could not be logged: {error}");
            sink.event(&Event::Warning { message });
        }
        result
    }

    fn header(&self) -> RunHeader {
        RunHeader {
            format: RUN_FORMAT,
            run: self.run.clone(),
            verb: match self.options.from_watch {
                true => "watch".to_owned(),
                false => "build".to_owned(),
            },
            pipeline: self.graph.name.clone(),
            targets: self.options.targets.clone(),
            pid: std::process::id(),
            started: stamp(jiff::Timestamp::now()),
        }
    }

    fn run(
        &self,
        steps: &[StepId],
        forced: &[StepId],
        cancel: &AtomicBool,
        sink: &mut dyn Sink,
    ) -> Result<Summary, OpsError> {
        sink.event(&Event::RunStarted {
            run: self.run.clone(),
            pipeline: self.graph.name.clone(),
            steps: steps.len(),
            jobs: self.options.limits.jobs,
        });
        remove_leftovers(&self.workspace.cache)?;
        let program = std::env::current_exe().map_err(OpsError::OwnPath)?;
        let environment = environment();
        let root = &self.workspace.root;
        let options = Options {
            run: self.run.clone(),
            limits: self.options.limits.clone(),
            keep_going: self.options.keep_going,
            grace: self.options.grace,
            external: !self.options.from_watch,
            phases: self.options.phases,
        };
        let runner = Runner {
            graph: self.graph,
            registry: self.registry,
            around: Surroundings {
                root,
                cache: &self.workspace.cache,
                store: self.store,
                environment: &environment,
                hub: &HubAccess::new(self.workspace, Some(cancel)),
            },
            executor: &LocalExecutor::new(program, std::env::vars_os()),
            recorder: &ProvenanceRecorder::new(root),
            options: &options,
            cancel,
        };
        let ran = runner.run(steps, forced, sink);
        let (summary, settled) = ran.map_err(|error| self.explain(error))?;
        self.write_lock(&settled)?;
        self.store.stats().save()?;
        if self.options.last {
            std::mem::forget(settled);
        }
        Ok(summary)
    }

    fn explain(&self, error: RunError) -> OpsError {
        match error {
            RunError::Store(error) => error.into(),
            RunError::Impossible(steps) => OpsError::Impossible {
                file: self.workspace.pipeline.clone(),
                steps,
            },
        }
    }

    /// Brings the lock file up to date: steps that were not built keep their
    /// lines, steps that are gone lose them.
    fn write_lock(&self, settled: &[Option<Settled>]) -> Result<(), OpsError> {
        let path = self.workspace.lock_file();
        let steps = self.graph.nodes.iter().zip(settled);
        let built = |(node, settled): (&Node, &Option<Settled>)| {
            Some((node.name.clone(), locked(settled.as_ref()?)))
        };
        let mut lock = Lock {
            steps: steps.clone().filter_map(built).collect(),
        };
        // The usual case by far, and then the file need not be understood.
        if lock.steps.len() == self.graph.nodes.len() && lock.is_at(&path) {
            return Ok(());
        }
        let mut old = Lock::read(&path)?.unwrap_or_default();
        for (node, _) in steps.filter(|(_, settled)| settled.is_none()) {
            let kept = old.steps.remove(&node.name);
            lock.steps
                .extend(kept.map(|step| (node.name.clone(), step)));
        }
        Ok(lock.write(&path)?)
    }
}

pub(super) fn locked(settled: &Settled) -> LockedStep {
    let mut sources = BTreeMap::new();
    for input in &settled.inputs {
        if let Provenance::Path(name) | Provenance::Hub(name) = &input.from {
            sources.insert(name.clone(), input.artifact.digest);
        }
    }
    let outputs = settled.outputs.iter();
    LockedStep {
        key: settled.key,
        sources,
        outputs: outputs
            .map(|o| (o.path.clone(), o.artifact.digest))
            .collect(),
    }
}

/// Work folders of runs that were killed. Nobody else builds: the lock is held.
fn remove_leftovers(cache: &Path) -> Result<(), OpsError> {
    let work = cache.join("work");
    if let Ok(entries) = std::fs::read_dir(&work) {
        for entry in entries.flatten() {
            files::remove(&entry.path())?;
        }
    }
    Ok(())
}
