//! The run: steps become ready, are decided, put back or started, and finish.
//!
//! One thread owns all state. Each running job has one of the crew that waits
//! for it, takes its outputs into the store and reports back over a channel.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use super::attempt::TimeLimit;
use super::crew::Crew;
use super::finish::KeptLog;
use super::job::{JobResult, WorkFolder, WorkFolders};
use super::machine::Limits;
use super::queue::{Impossible, Queue};
use super::recall::{Recall, Recalled};
use super::state::{Change, State};
use super::stop::Stopping;
use super::{Executor, Stop};
use crate::event::{Event, Phase, Recorder, Sink, Summary};
use crate::graph::{Graph, Node, StepId};
use crate::plan::{Decided, InputError, Planner, Settled, Surroundings, Verdict};
use crate::step::{Grant, Progress, Purity, Registry, StepError};
use crate::store::{Output, StepRef, Store, StoreError, Trace};

/// How long finished steps may wait for the disk together.
const COMMIT_EVERY: Duration = Duration::from_millis(100);

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names the run's folder.
    pub run: String,
    /// What may be handed out to steps.
    pub limits: Limits,
    /// Whether steps that do not depend on a failed one are still run.
    pub keep_going: bool,
    /// How long stopped steps have to comply.
    pub grace: Duration,
    /// Whether steps that act on the world may run.
    pub external: bool,
    /// Whether to tell of the phases of the run's own work.
    pub phases: bool,
}

/// Everything a run works with.
pub struct Runner<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// The kinds.
    pub registry: &'a Registry,
    /// Where it looks.
    pub around: Surroundings<'a>,
    /// What starts jobs.
    pub executor: &'a dyn Executor,
    /// What makes records.
    pub recorder: &'a dyn Recorder,
    /// How to run.
    pub options: &'a Options,
    /// Set by the user to stop.
    pub cancel: &'a AtomicBool,
    /// What is known of steps that are not among those to bring up to date,
    /// and that those read from.
    pub settled: Vec<(StepId, Settled)>,
    /// Asked by a watch when something changed.
    pub recall: Option<&'a Recall>,
}

impl Runner<'_> {
    /// Brings `steps` (in build order, closed under "needs" but for those that
    /// are settled) up to date.
    ///
    /// Fails only when the store does, or before anything runs when a step asks
    /// for more than there is; what steps do is told by events and the summary.
    /// Also gives what is known of the steps that have their outputs.
    pub fn run(
        &self,
        steps: &[StepId],
        forced: &[StepId],
        sink: &mut dyn Sink,
    ) -> Result<(Summary, Vec<Option<Settled>>), RunError> {
        let (sender, messages) = channel();
        std::thread::scope(|scope| {
            let crew = Crew::new(scope);
            let mut run = Run::new(self, steps, forced, sink, sender);
            let done = catch_unwind(AssertUnwindSafe(|| run.until_done(&crew, &messages)));
            match done {
                Ok(Ok(summary)) => Ok((summary, run.planner.into_settled())),
                Ok(Err(error)) => {
                    run.abandon();
                    Err(error)
                }
                Err(panic) => {
                    // The crew waits for what runs.
                    run.abandon();
                    resume_unwind(panic)
                }
            }
        })
    }
}

/// A run could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Steps ask for more than there is.
    #[error("steps ask for more than there is")]
    Impossible(Vec<Impossible>),
}

/// What a waiting thread reports.
pub(super) enum Message {
    /// What a step takes from outside was fetched and hashed.
    Looked(StepId, Result<(), InputError>, Duration),
    /// What had finished before is durable.
    Committed(Result<(), StoreError>, Duration),
    Progress(StepId, Progress),
    Ended(StepId, Box<Ended>),
    /// What one of the crew did beside the steps panicked.
    Panicked(Box<dyn std::any::Any + Send>),
}

/// Does what one of the crew does; a panic is a message like any other.
fn caught<T>(task: impl FnOnce() -> T) -> Result<T, Message> {
    catch_unwind(AssertUnwindSafe(task)).map_err(Message::Panicked)
}

pub(super) struct Ended {
    pub(super) end: Result<Vec<Output>, StepError>,
    pub(super) cancelled: bool,
    pub(super) result: JobResult,
    pub(super) log: KeptLog,
    pub(super) millis: u64,
    /// How long its outputs took to take in.
    pub(super) storing: Duration,
}

/// A job in flight.
pub(super) struct Flight {
    pub(super) decided: Decided,
    /// Of its inputs, as they were when it began.
    pub(super) traces: Vec<Option<Trace>>,
    /// A program of somebody else's, of which an exit after a signal says nothing.
    pub(super) is_program: bool,
    pub(super) work: WorkFolder,
    pub(super) stop: Box<dyn Fn(Stop) + Send>,
    /// Set when its process has ended; its outputs are taken in then.
    pub(super) over: Arc<AtomicBool>,
    /// Whether it was asked to stop before that.
    pub(super) asked: bool,
    pub(super) started: SystemTime,
    /// What it was given.
    pub(super) grant: Grant,
    pub(super) threads: usize,
    pub(super) limit: TimeLimit,
    /// Set when it is stale and was asked to stop.
    pub(super) recalled: Option<Recalled>,
    pub(super) checkpoint: Option<PathBuf>,
}

impl Flight {
    /// Asks it to stop, or kills it; nothing can be done to one that is over.
    pub(super) fn stop(&mut self, how: Stop) {
        if !self.over.load(Ordering::Acquire) {
            self.asked = true;
            (self.stop)(how);
        }
    }
}

pub(super) struct Run<'a, 's> {
    pub(super) with: &'a Runner<'a>,
    pub(super) steps: &'a [StepId],
    pub(super) forced: &'a [StepId],
    pub(super) sink: &'s mut dyn Sink,
    pub(super) sender: Sender<Message>,
    pub(super) planner: Planner<'a>,
    pub(super) states: Vec<State>,
    pub(super) ready: VecDeque<StepId>,
    /// Made when the first step is to run.
    pub(super) queue: Option<Queue>,
    pub(super) flights: Vec<(StepId, Flight)>,
    pub(super) work_folders: WorkFolders,
    pub(super) summary: Summary,
    pub(super) stopping: Stopping,
    pub(super) last_commit: Instant,
    /// Checkpoints that are of no use once the results are durable.
    pub(super) spent: Vec<PathBuf>,
    /// Those of them whose results are being made durable.
    pub(super) about_to_go: Vec<PathBuf>,
    pub(super) committing: bool,
    /// Steps whose inputs are being looked at, or were.
    pub(super) looking: BTreeSet<StepId>,
    pub(super) looked: BTreeSet<StepId>,
}

impl<'a, 's> Run<'a, 's> {
    fn new(
        with: &'a Runner<'a>,
        steps: &'a [StepId],
        forced: &'a [StepId],
        sink: &'s mut dyn Sink,
        sender: Sender<Message>,
    ) -> Self {
        let mut planner = Planner::new(with.graph, with.around);
        for (id, settled) in &with.settled {
            planner.settle(*id, settled.clone());
        }
        let mut states = vec![State::Done; with.graph.nodes.len()];
        let mut ready = VecDeque::new();
        for &id in steps {
            let needs = with.graph.dependencies(id).iter();
            let needs = needs.filter(|step| planner.settled(**step).is_none());
            let needs = needs.count();
            states[id.index()] = match needs {
                0 => State::Ready,
                n => State::Waiting(n as u32),
            };
            if needs == 0 {
                ready.push_back(id);
            }
        }
        Run {
            with,
            steps,
            forced,
            sink,
            sender,
            planner,
            states,
            ready,
            queue: None,
            flights: Vec::new(),
            work_folders: WorkFolders::new(with.around.cache.join("work"), &with.options.run),
            summary: Summary::default(),
            stopping: Stopping::No,
            last_commit: Instant::now(),
            spent: Vec::new(),
            about_to_go: Vec::new(),
            committing: false,
            looking: BTreeSet::new(),
            looked: BTreeSet::new(),
        }
    }

    fn until_done<'scope>(
        &mut self,
        crew: &Crew<'scope, '_>,
        messages: &Receiver<Message>,
    ) -> Result<Summary, RunError>
    where
        'a: 'scope,
    {
        loop {
            self.notice_cancel();
            self.notice_recall();
            self.notice_time_limits();
            self.wake_rested();
            self.decide_ready(crew)?;
            self.start_queued(crew)?;
            if !self.ready.is_empty() {
                continue;
            }
            let rest = self.queue.as_ref().and_then(Queue::next_wake);
            let rest = rest.filter(|_| matches!(self.stopping, Stopping::No));
            if self.flights.is_empty() && self.looking.is_empty() && rest.is_none() {
                break;
            }
            let wait = rest.map_or(COMMIT_EVERY, |rest| rest.min(COMMIT_EVERY));
            // A time-out is the only error: this run keeps a sender itself.
            if let Ok(message) = messages.recv_timeout(wait) {
                self.handle(message)?;
            }
            for message in messages.try_iter() {
                self.handle(message)?;
            }
            self.commit_if_due(crew);
        }
        while self.committing {
            // This run keeps a sender itself.
            let Ok(message) = messages.recv() else { break };
            self.handle(message)?;
        }
        self.work_folders.remove();
        self.close_the_rest();
        self.commit()?;
        Ok(self.summary)
    }

    pub(super) fn change(&mut self, id: StepId, change: Change) {
        let state = &mut self.states[id.index()];
        *state = state.after(change);
    }

    pub(super) fn node(&self, id: StepId) -> &'a Node {
        self.with.graph.node(id)
    }

    pub(super) fn emit(&mut self, event: Event) {
        self.sink.event(&event);
    }

    pub(super) fn step_ref(&self, node: &Node) -> StepRef {
        StepRef {
            pipeline: self.with.graph.name.to_string(),
            step: node.name.to_string(),
        }
    }

    /// Has what has finished made durable: on another thread, for a disk takes
    /// its time.
    fn commit_if_due<'scope>(&mut self, crew: &Crew<'scope, '_>)
    where
        'a: 'scope,
    {
        if self.committing || self.last_commit.elapsed() < COMMIT_EVERY {
            return;
        }
        self.committing = true;
        self.about_to_go.append(&mut self.spent);
        let (store, sender) = (self.with.around.store, self.sender.clone());
        crew.run(move || {
            let began = Instant::now();
            let committed = caught(|| store.commit());
            let message = committed.map(|it| Message::Committed(it, began.elapsed()));
            // The run may be over already.
            let _ = sender.send(message.unwrap_or_else(|panic| panic));
        });
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        let began = self.phase_begins();
        self.with.around.store.commit()?;
        self.phase_ended(Phase::Commit, None, began);
        self.about_to_go.append(&mut self.spent);
        self.remove_spent();
        Ok(())
    }

    /// Now, if anybody wants to know.
    pub(super) fn phase_begins(&self) -> Option<Instant> {
        self.with.options.phases.then(Instant::now)
    }

    pub(super) fn phase_ended(&mut self, phase: Phase, id: Option<StepId>, began: Option<Instant>) {
        if let Some(began) = began {
            self.tell_phase(phase, id, began.elapsed());
        }
    }

    pub(super) fn tell_phase(&mut self, phase: Phase, id: Option<StepId>, took: Duration) {
        let step = id.map(|id| self.node(id).name.clone());
        let seconds = took.as_secs_f64();
        self.emit(Event::PhaseEnded {
            phase,
            step,
            seconds,
        });
    }

    fn tell_if_asked(&mut self, phase: Phase, id: Option<StepId>, took: Duration) {
        if self.with.options.phases {
            self.tell_phase(phase, id, took);
        }
    }

    fn handle(&mut self, message: Message) -> Result<(), StoreError> {
        match message {
            Message::Progress(id, progress) => {
                let step = self.node(id).name.clone();
                self.emit(Event::StepProgress { step, progress });
                Ok(())
            }
            Message::Ended(id, ended) => self.ended(id, *ended),
            // It would have gone on here, and nobody is to wait for it for ever.
            Message::Panicked(panic) => resume_unwind(panic),
            Message::Looked(id, looked, took) => {
                self.tell_if_asked(Phase::Decide, Some(id), took);
                self.looked_at(id, looked)
            }
            Message::Committed(committed, took) => {
                self.tell_if_asked(Phase::Commit, None, took);
                committed?;
                self.committing = false;
                self.last_commit = Instant::now();
                self.remove_spent();
                Ok(())
            }
        }
    }

    // Deciding

    fn decide_ready<'scope>(&mut self, crew: &Crew<'scope, '_>) -> Result<(), StoreError>
    where
        'a: 'scope,
    {
        while let Some(id) = self.ready.pop_front() {
            self.notice_cancel();
            if self.states[id.index()] != State::Ready {
                continue;
            }
            if !matches!(self.stopping, Stopping::No) {
                continue;
            }
            if self.is_to_look(id) {
                self.look(crew, id);
                continue;
            }
            let began = self.phase_begins();
            let decided = self.planner.decide(id, self.forced.contains(&id));
            self.phase_ended(Phase::Decide, Some(id), began);
            match decided {
                Ok(decided) => self.act_on(id, decided)?,
                Err(error) => self.fail(id, error.into(), None, None)?,
            }
        }
        Ok(())
    }

    /// What takes long is done beside: always when something may have to be
    /// fetched, or the user could not stop it, and while other steps run, which
    /// must not wait for it.
    fn is_to_look(&self, id: StepId) -> bool {
        let others_wait = !self.flights.is_empty();
        !self.looked.contains(&id) && self.planner.may_take_long(id, others_wait)
    }

    fn look<'scope>(&mut self, crew: &Crew<'scope, '_>, id: StepId)
    where
        'a: 'scope,
    {
        self.looking.insert(id);
        let (look, sender) = (self.planner.look_ahead(id), self.sender.clone());
        crew.run(move || {
            let began = Instant::now();
            let looked = caught(look);
            let message = looked.map(|it| Message::Looked(id, it, began.elapsed()));
            // The run may be over already.
            let _ = sender.send(message.unwrap_or_else(|panic| panic));
        });
    }

    fn looked_at(&mut self, id: StepId, looked: Result<(), InputError>) -> Result<(), StoreError> {
        self.looking.remove(&id);
        self.looked.insert(id);
        match looked {
            // Not begun: closed with the others when the run ends.
            _ if !matches!(self.stopping, Stopping::No) => Ok(()),
            _ if self.with.cancel.load(Ordering::Relaxed) => Ok(()),
            Ok(()) => {
                self.ready.push_back(id);
                Ok(())
            }
            Err(error) => self.fail(id, error.into(), None, None),
        }
    }

    fn act_on(&mut self, id: StepId, mut decided: Decided) -> Result<(), StoreError> {
        match &decided.verdict {
            Verdict::UpToDate => {
                self.summary.up_to_date += 1;
                let step = self.node(id).name.clone();
                let (key, verdict) = (decided.key, Verdict::UpToDate);
                self.emit(Event::StepDecided { step, key, verdict });
                let entry = decided.entry.take();
                let outputs = entry.map_or(Vec::new(), |entry| entry.outputs);
                self.settle(id, decided, outputs);
            }
            Verdict::Restore { .. } => {
                let step = self.node(id).name.clone();
                let (key, verdict) = (decided.key, decided.verdict.clone());
                self.emit(Event::StepDecided { step, key, verdict });
                self.restore(id, decided)?;
            }
            // All but the first are said of plans only.
            Verdict::Run { .. }
            | Verdict::Maybe { .. }
            | Verdict::Error { .. }
            | Verdict::Blocked { .. } => {
                let step = self.node(id).name.clone();
                let verdict = decided.verdict.clone();
                self.emit(Event::StepDecided {
                    step: step.clone(),
                    key: decided.key,
                    verdict,
                });
                if self.node(id).purity == Purity::External && !self.with.options.external {
                    let message = format!("{step} acts on the world and is not run from here");
                    self.emit(Event::Warning { message });
                    self.change(id, Change::Cancel);
                    self.summary.cancelled += 1;
                    return Ok(());
                }
                self.enqueue(id, decided);
            }
        }
        Ok(())
    }

    /// Notes that a step has its outputs, and readies those that waited for it.
    pub(super) fn settle(&mut self, id: StepId, decided: Decided, outputs: Vec<Output>) {
        let settled = Settled {
            key: decided.key,
            inputs: decided.inputs,
            outputs,
        };
        self.planner.settle(id, settled);
        self.change(id, Change::Finish);
        for &dependent in self.with.graph.dependents(id) {
            if matches!(self.states[dependent.index()], State::Waiting(_)) {
                self.change(dependent, Change::InputKnown);
                if self.states[dependent.index()] == State::Ready {
                    self.ready.push_back(dependent);
                }
            }
        }
    }
}
