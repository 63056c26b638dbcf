//! Building: load, lock, run, and write down what came of it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::graph_cache::Identity;
use super::snapshot::{self, Looked, Snapshot};
use super::workspace::{Loaded, environment, find_steps, needed};
use super::{HubAccess, OpsError, Workspace};
use crate::event::{Event, Known, OtherOutput, Phase, Sink, Summary};
use crate::exec::{Limits, LocalExecutor, Options, Recall, RunError, Runner};
use crate::files::{self, Lock as BuildLock};
use crate::graph::{Graph, InputRef, Node, Origin, StepId};
use crate::hash::Digest;
use crate::pipeline::{Overrides, PipelineName, StepName};
use crate::plan::{Provenance, Settled, Surroundings};
use crate::record::{
    Lock, LockedStep, ProvenanceRecorder, RUN_FORMAT, RUNS, RunHeader, RunLog, stamp,
};
use crate::step::{Registry, processors};
use crate::store::{LocalStore, StatCache};

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
                jobs: processors(),
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

/// Builds.
pub fn build(
    workspace: &Workspace,
    options: &BuildOptions,
    cancel: &AtomicBool,
    sink: &mut dyn Sink,
) -> Result<Summary, OpsError> {
    build_unless_recalled(workspace, options, Asked::by(cancel), sink)
}

/// How a build is asked to end before all is done.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// Set by the user.
    pub(super) cancel: &'a AtomicBool,
    /// Told by a watch of changes.
    pub(super) recall: Option<&'a Recall>,
}

impl<'a> Asked<'a> {
    /// Only by the user.
    pub(super) fn by(cancel: &'a AtomicBool) -> Self {
        let recall = None;
        Asked { cancel, recall }
    }
}

/// Builds, and ends early when a change makes what was done stale.
pub(super) fn build_unless_recalled(
    workspace: &Workspace,
    options: &BuildOptions,
    asked: Asked<'_>,
    sink: &mut dyn Sink,
) -> Result<Summary, OpsError> {
    let started = Instant::now();
    let snapshot = snapshot_of(workspace, options);
    let (mut lock, mut told) = (None, None);
    if let Some(snapshot) = snapshot {
        let Some(taken) = wait_for_lock(workspace, &snapshot.pipeline, asked.cancel, sink)? else {
            return Ok(nothing_begun(snapshot.len()));
        };
        lock = Some(taken);
        told = build_shortly(snapshot, workspace, options, started, asked, sink)?;
    }
    match told {
        Some(summary) => Ok(summary),
        None => build_at_length(workspace, options, started, lock, asked, sink),
    }
}

/// The snapshot that may make a build short: one of everything, that nobody
/// wants to run in any case.
fn snapshot_of(workspace: &Workspace, options: &BuildOptions) -> Option<Snapshot> {
    let all = options.targets.is_empty() && options.force.is_empty();
    // Pools of the command line are compared with those of the graph; phases
    // are told of those of the long way.
    if !all || !options.limits.pools.is_empty() || options.phases {
        return None;
    }
    let identity = Identity {
        path: &workspace.shown_pipeline(),
        overrides: &options.overrides,
        registry: &workspace.registry,
    };
    Snapshot::open(workspace, &identity)
}

/// Builds with the snapshot's help: nothing if all is as it was, else the
/// steps that look at what changed and those below them. None where that
/// cannot be told from the snapshot.
fn build_shortly(
    mut snapshot: Snapshot,
    workspace: &Workspace,
    options: &BuildOptions,
    started: Instant,
    asked: Asked<'_>,
    sink: &mut dyn Sink,
) -> Result<Option<Summary>, OpsError> {
    if !snapshot.same_values(&environment()) || asked.cancel.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let stats = StatCache::open(&workspace.cache.join("stat"));
    match snapshot.look(&workspace.root, &stats) {
        Looked::Same { touched } => {
            stats.save()?;
            let summary = all_up_to_date(&snapshot, workspace, options, sink)?;
            let seconds = started.elapsed().as_secs_f64();
            sink.event(&Event::RunFinished { summary, seconds });
            if touched {
                snapshot.keep(workspace);
            }
            if options.last {
                std::mem::forget(snapshot);
            }
            Ok(Some(summary))
        }
        // Of a part of the graph it is not known what all above was decided
        // from, which a watch asks for that tells of changes.
        Looked::Changed(_) if asked.recall.is_some() => {
            stats.save()?;
            Ok(None)
        }
        Looked::Changed(changed) => {
            let steps = snapshot.steps_of(&changed, &workspace.root, &stats);
            let loaded = workspace.load_part(snapshot.made_from, snapshot.text(), &steps);
            let Some(loaded) = loaded else {
                stats.save()?;
                return Ok(None);
            };
            let store = workspace.open_store()?;
            store.0.stats().absorb(stats);
            let build = Build::new(workspace, &loaded, &store.0, options, asked);
            let part = Part::of(&loaded.graph, &store.0, &steps).filter(|_| store.1.is_none());
            let Some(part) = part else {
                store.0.stats().save()?;
                return Ok(None);
            };
            let run = |sink: &mut dyn Sink| build.run_part(part, snapshot, sink);
            let summary = build.logged(started, sink, run)?;
            if options.last {
                std::mem::forget((loaded, store));
            }
            Ok(Some(summary))
        }
        Looked::Otherwise => {
            stats.save()?;
            Ok(None)
        }
    }
}

fn all_up_to_date(
    snapshot: &Snapshot,
    workspace: &Workspace,
    options: &BuildOptions,
    sink: &mut dyn Sink,
) -> Result<Summary, OpsError> {
    sink.event(&Event::RunStarted {
        run: run_name(&workspace.cache),
        pipeline: snapshot.pipeline.clone(),
        steps: snapshot.len(),
        jobs: options.limits.jobs,
    });
    remove_leftovers(&workspace.cache)?;
    for step in snapshot.steps() {
        sink.event(&step.up_to_date());
    }
    Ok(Summary {
        up_to_date: snapshot.len(),
        ..Summary::default()
    })
}

/// The steps of a graph that a change may reach.
struct Part {
    /// In build order.
    steps: Vec<StepId>,
    /// What those read from that are not among them.
    settled: Vec<(StepId, Settled)>,
}

impl Part {
    /// None where what the others came to is not known, or not enough.
    fn of(graph: &Graph, store: &LocalStore, changed: &[StepName]) -> Option<Self> {
        let changed: Option<Vec<StepId>> = changed.iter().map(|name| graph.find(name)).collect();
        let reached = graph.cone(changed?);
        let order = graph.order().iter().copied();
        let steps: Vec<StepId> = order.filter(|id| reached.contains(*id)).collect();
        let mut settled = BTreeMap::new();
        for &id in &steps {
            // How all the others came to be is more than is known here.
            let lineage = |input: &InputRef| input.from == Origin::Lineage;
            if graph.node(id).inputs.iter().any(lineage) {
                return None;
            }
            for &needed in graph.dependencies(id) {
                if !reached.contains(needed) && !settled.contains_key(&needed) {
                    settled.insert(needed, current(graph, store, needed)?);
                }
            }
        }
        let settled = settled.into_iter().collect();
        Some(Part { steps, settled })
    }
}

/// What a step that is up to date came to, without its inputs.
fn current(graph: &Graph, store: &LocalStore, id: StepId) -> Option<Settled> {
    store.with_index(|index| {
        let state = index.step(graph.name.as_str(), graph.node(id).name.as_str())?;
        let key = state.current?;
        Some(Settled {
            key,
            inputs: Vec::new(),
            outputs: index.entry(&key)?.outputs,
        })
    })
}

/// Builds with the graph and the store at hand.
fn build_at_length(
    workspace: &Workspace,
    options: &BuildOptions,
    started: Instant,
    lock: Option<BuildLock>,
    asked: Asked<'_>,
    sink: &mut dyn Sink,
) -> Result<Summary, OpsError> {
    let loaded = workspace.load_with_origin(&options.overrides)?;
    let graph = &loaded.graph;
    tell_phase(options, Phase::Load, started, sink);
    let mut forced = find_steps(graph, &options.force)?;
    forced.sort();
    let targets = find_steps(graph, &options.targets)?;
    check_pools(graph, &options.limits)?;
    let steps = needed(graph, &targets);
    Lock::refuse_conflict(&workspace.lock_file())?;
    let lock = match lock {
        Some(lock) => Some(lock),
        None => {
            let mut waited = false;
            let mut noting = |event: &Event| {
                waited |= matches!(event, Event::Waiting { .. });
                sink.event(event);
            };
            let lock = wait_for_lock(workspace, &graph.name, asked.cancel, &mut noting)?;
            if waited && lock.is_some() {
                // What was read may be another pipeline by now.
                return build_at_length(workspace, options, started, lock, asked, sink);
            }
            lock
        }
    };
    let Some(_lock) = lock else {
        return Ok(nothing_begun(steps.len()));
    };
    for warning in &loaded.warnings.list {
        let message = warning.message.clone();
        sink.event(&Event::Warning { message });
    }
    let opening = Instant::now();
    let (store, warning) = workspace.open_store()?;
    loaded.keep();
    tell_phase(options, Phase::Open, opening, sink);
    if let Some(message) = warning {
        sink.event(&Event::Warning { message });
    }
    let build = Build::new(workspace, &loaded, &store, options, asked);
    let run = |sink: &mut dyn Sink| build.run(&steps, &forced, sink);
    let summary = build.logged(started, sink, run)?;
    if options.last {
        std::mem::forget((loaded, store));
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
fn nothing_begun(steps: usize) -> Summary {
    Summary {
        cancelled: steps,
        ..Summary::default()
    }
}

/// One build at a time per store; none if the user stopped the waiting.
pub(super) fn wait_for_lock(
    workspace: &Workspace,
    pipeline: &PipelineName,
    cancel: &AtomicBool,
    sink: &mut dyn Sink,
) -> Result<Option<BuildLock>, OpsError> {
    lock_store(workspace, pipeline.as_str(), cancel, sink)
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
    loaded: &'a Loaded,
    graph: &'a Graph,
    registry: &'a Registry,
    store: &'a LocalStore,
    options: &'a BuildOptions,
    run: String,
    asked: Asked<'a>,
}

impl<'a> Build<'a> {
    fn new(
        workspace: &'a Workspace,
        loaded: &'a Loaded,
        store: &'a LocalStore,
        options: &'a BuildOptions,
        asked: Asked<'a>,
    ) -> Self {
        store.use_hard_links(loaded.graph.hard_links);
        Build {
            workspace,
            loaded,
            graph: &loaded.graph,
            registry: &workspace.registry,
            store,
            options,
            run: run_name(&workspace.cache),
            asked,
        }
    }

    /// Runs, and keeps the run's log; a log that cannot be kept is no reason
    /// to fail.
    fn logged(
        &self,
        started: Instant,
        sink: &mut dyn Sink,
        run: impl FnOnce(&mut dyn Sink) -> Result<Summary, OpsError>,
    ) -> Result<Summary, OpsError> {
        let mut log = RunLog::new(&self.workspace.cache, self.header());
        let result = {
            let mut both = |event: &Event| {
                log.event(event);
                sink.event(event);
            };
            let result = run(&mut both);
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
        sink: &mut dyn Sink,
    ) -> Result<Summary, OpsError> {
        self.begin(steps.len(), sink)?;
        let environment = environment();
        let settled = Vec::new();
        let mut told = BTreeSet::new();
        let mut telling = |event: &Event| {
            if let Event::NotReproducible { step, .. } = event {
                told.insert(step.clone());
            }
            sink.event(event);
        };
        let (summary, settled) =
            self.execute(steps, forced, settled, &environment, &mut telling)?;
        let lock = self.write_lock(&settled, &told, sink)?;
        self.keep_snapshot(&environment, &settled, lock);
        self.store.stats().save()?;
        if self.options.last {
            std::mem::forget(settled);
        }
        Ok(summary)
    }

    /// Runs a part of the graph; all other steps are as the snapshot says.
    fn run_part(
        &self,
        part: Part,
        mut snapshot: Snapshot,
        sink: &mut dyn Sink,
    ) -> Result<Summary, OpsError> {
        self.begin(snapshot.len(), sink)?;
        let names = part.steps.iter().map(|id| &self.graph.node(*id).name);
        let names: HashSet<&StepName> = names.collect();
        for step in snapshot.steps() {
            if !names.contains(&step.name) {
                sink.event(&step.up_to_date());
            }
        }
        let environment = environment();
        let (mut summary, settled) =
            self.execute(&part.steps, &[], part.settled, &environment, sink)?;
        summary.up_to_date += snapshot.len() - part.steps.len();
        let lock = self.write_in_lock(&part.steps, &settled, snapshot.lock())?;
        let kept = lock.is_some_and(|lock| {
            let build = self.to_snapshot(snapshot.made_from, &environment, &settled, lock);
            summary.complete() && snapshot.update(&build, &names)
        });
        match kept {
            true => snapshot.keep(self.workspace),
            false => Snapshot::forget(self.workspace),
        }
        self.store.stats().save()?;
        if self.options.last {
            std::mem::forget((settled, snapshot));
        }
        Ok(summary)
    }

    fn begin(&self, steps: usize, sink: &mut dyn Sink) -> Result<(), OpsError> {
        sink.event(&Event::RunStarted {
            run: self.run.clone(),
            pipeline: self.graph.name.clone(),
            steps,
            jobs: self.options.limits.jobs,
        });
        remove_leftovers(&self.workspace.cache)
    }

    fn execute(
        &self,
        steps: &[StepId],
        forced: &[StepId],
        settled: Vec<(StepId, Settled)>,
        environment: &BTreeMap<String, String>,
        sink: &mut dyn Sink,
    ) -> Result<(Summary, Vec<Option<Settled>>), OpsError> {
        let program = std::env::current_exe().map_err(OpsError::OwnPath)?;
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
                environment,
                hub: &HubAccess::new(self.workspace, Some(self.asked.cancel)),
            },
            executor: &LocalExecutor::new(program, std::env::vars_os()),
            recorder: &ProvenanceRecorder::new(root),
            options: &options,
            cancel: self.asked.cancel,
            recall: self.asked.recall,
            settled,
        };
        let ran = runner.run(steps, forced, sink);
        ran.map_err(|error| self.explain(error))
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
    /// lines, steps that are gone lose them. Gives the digest of its text.
    fn write_lock(
        &self,
        settled: &[Option<Settled>],
        told: &BTreeSet<StepName>,
        sink: &mut dyn Sink,
    ) -> Result<Digest, OpsError> {
        let path = self.workspace.lock_file();
        let steps = self.graph.nodes.iter().zip(settled);
        let built = |(node, settled): (&Node, &Option<Settled>)| {
            Some((node.name.clone(), locked(settled.as_ref()?)))
        };
        let mut lock = Lock {
            steps: steps.clone().filter_map(built).collect(),
        };
        // The usual case by far, and then the file need not be understood.
        if lock.steps.len() == self.graph.nodes.len()
            && let Some(digest) = lock.is_at(&path)
        {
            return Ok(digest);
        }
        let mut old = Lock::read(&path)?.unwrap_or_default();
        let untold = lock.steps.iter().filter(|(step, _)| !told.contains(*step));
        tell_not_reproducible(&old, untold, sink);
        for (node, _) in steps.filter(|(_, settled)| settled.is_none()) {
            let kept = old.steps.remove(&node.name);
            lock.steps
                .extend(kept.map(|step| (node.name.clone(), step)));
        }
        Ok(lock.write(&path)?)
    }

    /// Brings the blocks of some steps in the lock file up to date, which has
    /// one for each step. Gives the digest of its text; none where somebody
    /// edited the file in the meantime, so that the other blocks may be wrong.
    fn write_in_lock(
        &self,
        steps: &[StepId],
        settled: &[Option<Settled>],
        was: Digest,
    ) -> Result<Option<Digest>, OpsError> {
        let path = self.workspace.lock_file();
        let built = |id: &StepId| {
            let settled = settled[id.index()].as_ref()?;
            Some((self.graph.node(*id).name.clone(), locked(settled)))
        };
        let built: BTreeMap<StepName, LockedStep> = steps.iter().filter_map(built).collect();
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        let Some(text) = Lock::replace_in(&old, &built) else {
            let mut lock = Lock::read(&path)?.unwrap_or_default();
            lock.steps.extend(built);
            lock.write(&path)?;
            return Ok(None);
        };
        if text != old {
            files::write_durable(&path, text.as_bytes())?;
        }
        let untouched = Digest::of(old.as_bytes()) == was;
        Ok(untouched.then(|| Digest::of(text.as_bytes())))
    }

    /// Keeps a snapshot if every step has its outputs.
    fn keep_snapshot(
        &self,
        environment: &BTreeMap<String, String>,
        settled: &[Option<Settled>],
        lock: Digest,
    ) {
        let Some(made_from) = self.loaded.made_from else {
            return;
        };
        // Warnings are to be seen every time.
        if !self.loaded.warnings.list.is_empty() || settled.iter().any(Option::is_none) {
            return;
        }
        let build = self.to_snapshot(made_from, environment, settled, lock);
        match build.snapshot() {
            Some(snapshot) => snapshot.keep(self.workspace),
            None => Snapshot::forget(self.workspace),
        }
    }

    fn to_snapshot<'b>(
        &'b self,
        made_from: Digest,
        environment: &'b BTreeMap<String, String>,
        settled: &'b [Option<Settled>],
        lock: Digest,
    ) -> snapshot::Build<'b> {
        snapshot::Build {
            workspace: self.workspace,
            graph: self.graph,
            made_from,
            text: self.loaded.text,
            environment,
            settled,
            lock,
            store: self.store,
        }
    }
}

/// Tells of steps whose lines in the lock file had the same key and other
/// outputs.
fn tell_not_reproducible<'a>(
    old: &Lock,
    steps: impl Iterator<Item = (&'a StepName, &'a LockedStep)>,
    sink: &mut dyn Sink,
) {
    for (step, now) in steps {
        let Some(known) = old.steps.get(step).filter(|known| known.key == now.key) else {
            continue;
        };
        let outputs = OtherOutput::between(&known.outputs, &now.outputs);
        if !outputs.is_empty() {
            sink.event(&Event::NotReproducible {
                step: step.clone(),
                key: now.key,
                known: Known::Lock,
                outputs,
            });
        }
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
