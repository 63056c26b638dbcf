//! Doing one step again: in a clean folder, from its recorded inputs, with noise.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::noise::Noise;
use super::plant;
use crate::event::Event;
use crate::exec::{End, Executor, LocalExecutor, Share, Stop, WorkFolder, prepare, visible_gpus};
use crate::files;
use crate::graph::Node;
use crate::ops::OpsError;
use crate::plan::{Decided, Manifest, Provenance};
use crate::record::AuditFailure;
use crate::step::{Checkpoint, Grant, Input, Registry, StepError};
use crate::store::{Entry, LocalStore};

/// How often a running step's audit looks whether it was stopped.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How many of the last lines of a failed step's log are shown.
const LOG_TAIL: usize = 10;

/// What steps are done again with.
pub(super) struct Rebuilder<'a> {
    pub registry: &'a Registry,
    pub store: &'a LocalStore,
    pub noise: &'a Noise,
    /// For steps that are programs of somebody else's.
    pub commands: LocalExecutor,
    /// For built-in kinds.
    pub kinds: LocalExecutor,
    /// An empty folder.
    pub clean: PathBuf,
    /// Where a build does steps, if programs are traced: each step is then
    /// done again there and from the build's own inputs, so that whatever it
    /// reaches for by a path is found.
    pub trace: Option<PathBuf>,
    /// The project's folder.
    pub project: &'a Path,
    pub cancel: &'a AtomicBool,
    pub grace: Duration,
}

/// A step to do again.
pub(super) struct Task<'a> {
    /// Its place in the report.
    pub at: usize,
    pub node: &'a Node,
    pub manifest: Manifest,
    pub decided: Decided,
    /// Its recorded result.
    pub entry: Entry,
    /// How many threads it might use in the build.
    pub threads: usize,
    /// The bytes of the lineage file, if it reads one.
    pub lineage: Option<Vec<u8>>,
}

/// How doing a step again ended.
pub(super) enum Rebuilt {
    /// Its outputs are in the work folder.
    Finished(WorkFolder, f64),
    /// It failed.
    Failed(AuditFailure),
    /// The user stopped the audit.
    Stopped,
}

impl Rebuilder<'_> {
    /// Does a step again, telling of it; the caller removes the folder
    /// [`Rebuilder::folder`] when it is done with the outputs.
    pub fn rebuild(
        &self,
        task: &Task<'_>,
        tell: &mut dyn FnMut(Event),
    ) -> Result<(Rebuilt, Vec<String>), OpsError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Ok((Rebuilt::Stopped, Vec::new()));
        }
        let place = match &self.trace {
            None => self.folder(task).join("work"),
            Some(_) => self.folder(task),
        };
        let mut undeclared = Vec::new();
        let mut attempt = 1;
        loop {
            tell(self.started(task, attempt));
            let work = WorkFolder::create(place.clone())?;
            let started = Instant::now();
            let inputs = self.inputs(task)?;
            let outcome = self.run(task, inputs, &work, tell, &mut undeclared);
            let stopped = self.cancel.load(Ordering::Relaxed);
            let rebuilt = match outcome {
                Ok(()) => Rebuilt::Finished(work, started.elapsed().as_secs_f64()),
                Err(_) if stopped => Rebuilt::Stopped,
                Err(error) => {
                    // A step that the build tries again is tried again here.
                    if let Some(wait) = task.node.settings.wait_after(attempt) {
                        if self.cancelled_within(wait) {
                            return Ok((Rebuilt::Stopped, undeclared));
                        }
                        files::remove(&place)?;
                        files::remove(&self.folder(task).join("inputs"))?;
                        attempt += 1;
                        continue;
                    }
                    Rebuilt::Failed(AuditFailure {
                        error,
                        log_tail: files::last_lines(&work.log(), LOG_TAIL),
                    })
                }
            };
            return Ok((rebuilt, undeclared));
        }
    }

    fn started(&self, task: &Task<'_>, attempt: u32) -> Event {
        Event::StepStarted {
            step: task.node.name.clone(),
            kind: task.node.kind.clone(),
            key: task.decided.key,
            attempt,
            resources: Grant {
                cpus: self.noise.threads(task.threads) as u32,
                ..Grant::default()
            },
            work: None,
        }
    }

    /// Waits; whether the user stopped the audit meanwhile.
    fn cancelled_within(&self, wait: Duration) -> bool {
        let began = Instant::now();
        let cancelled = || self.cancel.load(Ordering::Relaxed);
        while began.elapsed() < wait && !cancelled() {
            std::thread::sleep(LOOK_EVERY.min(wait.saturating_sub(began.elapsed())));
        }
        cancelled()
    }

    /// Where a step is done again.
    pub fn folder(&self, task: &Task<'_>) -> PathBuf {
        let name = format!("{}-{}", task.at, task.node.name.file());
        match &self.trace {
            None => self.clean.join(name),
            Some(work) => work.join(format!("audit-{name}")),
        }
    }

    fn run(
        &self,
        task: &Task<'_>,
        inputs: Vec<Input>,
        work: &WorkFolder,
        tell: &mut dyn FnMut(Event),
        undeclared: &mut Vec<String>,
    ) -> Result<(), StepError> {
        let threads = self.noise.threads(task.threads);
        let mut job = prepare(
            self.registry,
            task.node,
            &task.manifest,
            inputs,
            work,
            self.project,
            Share {
                threads,
                checkpoint: self.checkpoint(task)?,
                variables: gpus(task),
            },
        )?;
        for (name, value) in self.noise.thread_variables(threads) {
            job.environment.entry(name).or_insert(value);
        }
        job.trace = self.trace.is_some();
        let executor = match job.program.is_some() {
            true => &self.commands,
            false => &self.kinds,
        };
        let running = executor.start(&job, work)?;
        let stop = running.stopper();
        let ended = AtomicBool::new(false);
        let result = std::thread::scope(|scope| {
            // The wait itself does not return before the step ends.
            let watcher = scope.spawn(|| self.stop_if_cancelled(stop, &ended));
            let result = running.wait(&mut |progress| {
                let step = task.node.name.clone();
                tell(Event::StepProgress { step, progress });
            });
            ended.store(true, Ordering::Relaxed);
            watcher.thread().unpark();
            result
        });
        let accesses = result.accesses.iter();
        undeclared.extend(accesses.map(|access| access.words(self.project)));
        match result.end {
            End::Finished => Ok(()),
            End::Failed { error } => Err(error),
            End::Cancelled => Err(StepError::new("cancelled")),
        }
    }

    /// An empty place for checkpoints: an audit begins anew.
    fn checkpoint(&self, task: &Task<'_>) -> Result<Option<Checkpoint>, StepError> {
        let Some(every) = task.node.settings.checkpoint else {
            return Ok(None);
        };
        let folder = self.folder(task).join("checkpoint");
        files::create_dir(&folder)?;
        Ok(Some(Checkpoint {
            folder,
            binding: task.decided.key.0,
            every,
        }))
    }

    /// Asks a step to stop when the user stops the audit, and kills it when the
    /// grace period is over; returns when the step has ended.
    fn stop_if_cancelled(&self, stop: impl Fn(Stop), ended: &AtomicBool) {
        let mut asked: Option<Instant> = None;
        while !ended.load(Ordering::Relaxed) {
            match asked {
                None if self.cancel.load(Ordering::Relaxed) => {
                    stop(Stop::Ask);
                    asked = Some(Instant::now());
                }
                Some(at) if at.elapsed() >= self.grace => stop(Stop::Kill),
                _ => {}
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    /// The recorded inputs under other paths than the build had.
    fn inputs(&self, task: &Task<'_>) -> Result<Vec<Input>, OpsError> {
        let folder = self.folder(task).join("inputs");
        files::create_dir(&folder)?;
        let mut inputs = Vec::new();
        for (i, input) in task.decided.inputs.iter().enumerate() {
            let place = folder.join(i.to_string());
            let path = match &input.from {
                Provenance::Step { .. } | Provenance::Path(_) | Provenance::Hub(_)
                    if self.trace.is_some() && input.path.exists() =>
                {
                    input.path.clone()
                }
                Provenance::Step { .. } => {
                    let path = place.join(input.path.file_name().unwrap_or_default());
                    files::create_dir(&place)?;
                    plant::artifact(self.store, &input.artifact, &path, self.noise)?;
                    path
                }
                Provenance::Engine(_) => {
                    let bytes = task.lineage.as_deref().unwrap_or_default();
                    files::write(&place, bytes)?;
                    place
                }
                Provenance::Path(_) | Provenance::Hub(_) => {
                    plant::source(&place, &input.path, self.noise)?
                }
            };
            inputs.push(Input {
                port: input.port.clone(),
                label: input.label.clone(),
                path,
            });
        }
        Ok(inputs)
    }
}

/// A step that asked for no GPU sees none, as in a build; others see all.
fn gpus(task: &Task<'_>) -> BTreeMap<String, String> {
    match task.node.settings.resources.gpus.is_none() {
        true => visible_gpus(&[]),
        false => BTreeMap::new(),
    }
}
