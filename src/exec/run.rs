//! The run: steps become ready, are decided, put back or started, and finish.
//!
//! One thread owns all state. Each running job has a thread that waits for it,
//! takes its outputs into the store and reports back over a channel.

use std::collections::{BinaryHeap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::Scope;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::job::{End, JobResult, WorkFolder, prepare};
use super::outputs::{Places, SetAside, collect, same_outputs};
use super::state::{Change, State};
use super::{Executor, Running, Stop};
use crate::event::{Event, Execution, Recorder, Sink, Summary};
use crate::files;
use crate::graph::{Graph, Node, StepId};
use crate::hash::Digest;
use crate::plan::{Decided, LINEAGE_FILE, Planner, Provenance, Settled, Surroundings, Verdict};
use crate::step::{Input, OutPort, Progress, Purity, Registry, StepError};
use crate::store::{Entry, Key, Note, Output, StepRef, Store, StoreError};

/// How long finished steps may wait for the disk together.
const COMMIT_EVERY: Duration = Duration::from_millis(100);

/// How many of the last lines of a failed step's log are shown.
const LOG_TAIL: usize = 20;

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names the run's folder.
    pub run: String,
    /// How many steps may run at once.
    pub jobs: usize,
    /// How many threads a step may use.
    pub threads: usize,
    /// Whether steps that do not depend on a failed one are still run.
    pub keep_going: bool,
    /// How long stopped steps have to comply.
    pub grace: Duration,
    /// Whether steps that act on the world may run.
    pub external: bool,
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
}

impl Runner<'_> {
    /// Brings `steps` (closed under "needs", in build order) up to date.
    ///
    /// Fails only when the store does; what steps do is told by events and the
    /// summary. Also gives what is known of the steps that have their outputs.
    pub fn run(
        &self,
        steps: &[StepId],
        forced: &[StepId],
        sink: &mut dyn Sink,
    ) -> Result<(Summary, Vec<Option<Settled>>), StoreError> {
        let (sender, messages) = channel();
        std::thread::scope(|scope| {
            let mut run = Run::new(self, steps, forced, sink, sender);
            match run.until_done(scope, &messages) {
                Ok(summary) => Ok((summary, run.planner.into_settled())),
                Err(error) => {
                    run.abandon();
                    Err(error)
                }
            }
        })
    }
}

/// What a waiting thread reports.
enum Message {
    Progress(StepId, Progress),
    Ended(StepId, Box<Ended>),
}

struct Ended {
    end: Result<Vec<Output>, StepError>,
    cancelled: bool,
    result: JobResult,
    log: Option<Digest>,
    millis: u64,
}

/// A job in flight.
struct Flight {
    decided: Decided,
    /// A program of somebody else's, of which an exit after a signal says nothing.
    is_program: bool,
    work: WorkFolder,
    stop: Box<dyn Fn(Stop) + Send>,
    started: SystemTime,
}

struct Run<'a, 's> {
    with: &'a Runner<'a>,
    steps: &'a [StepId],
    forced: &'a [StepId],
    sink: &'s mut dyn Sink,
    sender: Sender<Message>,
    planner: Planner<'a>,
    states: Vec<State>,
    ready: VecDeque<StepId>,
    /// Decided to run: by weight, then by build order.
    queue: BinaryHeap<(u64, std::cmp::Reverse<usize>, StepId)>,
    decided: Vec<Option<Decided>>,
    flights: Vec<(StepId, Flight)>,
    weights: Option<Vec<u64>>,
    summary: Summary,
    stopping: Stopping,
    last_commit: Instant,
}

enum Stopping {
    No,
    /// A step failed and the others are not to be begun.
    Draining(StepId),
    /// The user asked; when the running ones are killed.
    Cancelled(Instant),
}

impl<'a, 's> Run<'a, 's> {
    fn new(
        with: &'a Runner<'a>,
        steps: &'a [StepId],
        forced: &'a [StepId],
        sink: &'s mut dyn Sink,
        sender: Sender<Message>,
    ) -> Self {
        let mut states = vec![State::Done; with.graph.nodes.len()];
        let mut ready = VecDeque::new();
        for &id in steps {
            let needs = with.graph.dependencies(id).len();
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
            planner: Planner::new(with.graph, with.around),
            states,
            ready,
            queue: BinaryHeap::new(),
            decided: vec![None; with.graph.nodes.len()],
            flights: Vec::new(),
            weights: None,
            summary: Summary::default(),
            stopping: Stopping::No,
            last_commit: Instant::now(),
        }
    }

    fn until_done<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        messages: &Receiver<Message>,
    ) -> Result<Summary, StoreError>
    where
        'a: 'scope,
    {
        loop {
            self.notice_cancel();
            self.decide_ready()?;
            self.start_queued(scope)?;
            if !self.ready.is_empty() {
                continue;
            }
            if self.flights.is_empty() {
                break;
            }
            match messages.recv_timeout(COMMIT_EVERY) {
                Ok(message) => self.handle(message)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            for message in messages.try_iter() {
                self.handle(message)?;
            }
            self.commit_if_due()?;
        }
        self.close_the_rest();
        self.with.around.store.commit()?;
        Ok(self.summary)
    }

    fn change(&mut self, id: StepId, change: Change) {
        let state = &mut self.states[id.index()];
        *state = state.after(change);
    }

    fn node(&self, id: StepId) -> &'a Node {
        self.with.graph.node(id)
    }

    fn emit(&mut self, event: Event) {
        self.sink.event(&event);
    }

    fn commit_if_due(&mut self) -> Result<(), StoreError> {
        if self.last_commit.elapsed() >= COMMIT_EVERY {
            self.with.around.store.commit()?;
            self.last_commit = Instant::now();
        }
        Ok(())
    }

    // Deciding

    fn decide_ready(&mut self) -> Result<(), StoreError> {
        while let Some(id) = self.ready.pop_front() {
            self.notice_cancel();
            if self.states[id.index()] != State::Ready {
                continue;
            }
            if !matches!(self.stopping, Stopping::No) {
                continue;
            }
            match self.planner.decide(id, self.forced.contains(&id)) {
                Ok(decided) => self.act_on(id, decided)?,
                Err(error) => self.fail(id, error.into(), None, None)?,
            }
        }
        Ok(())
    }

    fn act_on(&mut self, id: StepId, mut decided: Decided) -> Result<(), StoreError> {
        match &decided.verdict {
            Verdict::UpToDate => {
                self.summary.up_to_date += 1;
                let step = self.node(id).name.clone();
                let verdict = Verdict::UpToDate;
                self.emit(Event::StepDecided { step, verdict });
                let entry = decided.entry.take();
                let outputs = entry.map_or(Vec::new(), |entry| entry.outputs);
                self.settle(id, decided, outputs);
            }
            Verdict::Restore { .. } => {
                let step = self.node(id).name.clone();
                let verdict = decided.verdict.clone();
                self.emit(Event::StepDecided { step, verdict });
                self.restore(id, decided)?;
            }
            Verdict::Run { .. } | Verdict::Maybe { .. } => {
                let step = self.node(id).name.clone();
                let verdict = decided.verdict.clone();
                self.emit(Event::StepDecided {
                    step: step.clone(),
                    verdict,
                });
                if self.node(id).purity == Purity::External && !self.with.options.external {
                    let message = format!("{step} acts on the world and is not run from here");
                    self.emit(Event::Warning { message });
                    self.change(id, Change::Cancel);
                    self.summary.cancelled += 1;
                    return Ok(());
                }
                self.decided[id.index()] = Some(decided);
                self.change(id, Change::Queue);
                let weight = self.weight(id);
                let order = std::cmp::Reverse(id.index());
                self.queue.push((weight, order, id));
            }
        }
        Ok(())
    }

    /// How long the longest way from a step to the end of the graph takes, by
    /// the times of earlier runs.
    fn weight(&mut self, id: StepId) -> u64 {
        let weights = self.weights.get_or_insert_with(|| {
            let graph = self.with.graph;
            let mut weights = vec![0; graph.nodes.len()];
            for &id in self.steps.iter().rev() {
                let below = graph.dependents(id).iter().map(|d| weights[d.index()]);
                weights[id.index()] = below.max().unwrap_or(0) + duration(self.with, id);
            }
            weights
        });
        weights[id.index()]
    }

    fn restore(&mut self, id: StepId, decided: Decided) -> Result<(), StoreError> {
        let node = self.node(id);
        let outputs = entry_outputs(&decided);
        let previous = self.previous_outputs(node);
        let moved = self.places().put(&self.planner, node, &outputs, &previous);
        match moved {
            Ok(moved) => self.tell_moved(node, moved),
            Err(error) => return self.fail(id, not_in_place(error), None, None),
        }
        let store = self.with.around.store;
        store.note(Note::Restored(self.step_ref(node), decided.key))?;
        self.summary.restored += 1;
        self.emit(Event::StepRestored {
            step: node.name.clone(),
            key: decided.key,
        });
        self.settle(id, decided, outputs);
        Ok(())
    }

    fn places(&self) -> Places<'a> {
        Places {
            root: self.with.around.root,
            store: self.with.around.store,
        }
    }

    fn tell_moved(&mut self, node: &Node, moved: Vec<SetAside>) {
        for SetAside { path, kept } in moved {
            let step = node.name.clone();
            self.emit(Event::OutputSetAside { step, path, kept });
        }
    }

    fn step_ref(&self, node: &Node) -> StepRef {
        StepRef {
            pipeline: self.with.graph.name.to_string(),
            step: node.name.to_string(),
        }
    }

    /// The outputs of the step's last result, whether of this key or not.
    fn previous_outputs(&self, node: &Node) -> Vec<Output> {
        self.with.around.store.with_index(|index| {
            let state = index.step(self.with.graph.name.as_str(), node.name.as_str());
            let key = state.and_then(|state| state.current);
            let entry = key.and_then(|key| index.entry(&key));
            entry.map_or(Vec::new(), |entry| entry.outputs.clone())
        })
    }

    /// Notes that a step has its outputs, and readies those that waited for it.
    fn settle(&mut self, id: StepId, decided: Decided, outputs: Vec<Output>) {
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

    // Running

    fn start_queued<'scope>(&mut self, scope: &'scope Scope<'scope, '_>) -> Result<(), StoreError>
    where
        'a: 'scope,
    {
        while matches!(self.stopping, Stopping::No)
            && self.flights.len() < self.with.options.jobs
            && let Some((_, _, id)) = self.queue.pop()
        {
            let Some(decided) = self.decided[id.index()].take() else {
                continue;
            };
            if self
                .planner
                .inputs(id)
                .is_ok_and(|now| now == decided.inputs)
            {
                self.start(scope, id, decided)?;
            } else {
                self.change(id, Change::Reconsider);
                self.ready.push_back(id);
            }
        }
        Ok(())
    }

    fn start<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        id: StepId,
        decided: Decided,
    ) -> Result<(), StoreError>
    where
        'a: 'scope,
    {
        let node = self.node(id);
        let store = self.with.around.store;
        store.note(Note::Started(self.step_ref(node), decided.key))?;
        self.emit(Event::StepStarted {
            step: node.name.clone(),
            kind: node.kind.clone(),
            key: decided.key,
        });
        let launched = self
            .mend_inputs(&decided)
            .and_then(|()| self.launch(id, &decided));
        let (work, running, is_program) = match launched {
            Ok(launched) => launched,
            Err(error) => return self.fail(id, error, None, Some(decided.key)),
        };
        self.change(id, Change::Start);
        let flight = Flight {
            decided,
            is_program,
            work: work.clone(),
            stop: running.stopper(),
            started: SystemTime::now(),
        };
        self.flights.push((id, flight));
        let sender = self.sender.clone();
        scope.spawn(move || {
            let ended = see_through(running, &work, &node.outputs, store, &mut |progress| {
                // The run may be over already.
                let _ = sender.send(Message::Progress(id, progress));
            });
            let _ = sender.send(Message::Ended(id, Box::new(ended)));
        });
        Ok(())
    }

    /// Puts back outputs of other steps that somebody changed since they were
    /// put in place: the key promises their content.
    fn mend_inputs(&mut self, decided: &Decided) -> Result<(), StepError> {
        for input in &decided.inputs {
            let Provenance::Step { step, .. } = &input.from else {
                continue;
            };
            if self.planner.unchanged(input) {
                continue;
            }
            let found = self.with.graph.find(step);
            let Some((id, settled)) = found.and_then(|id| Some((id, self.planner.settled(id)?)))
            else {
                continue;
            };
            let (node, outputs) = (self.node(id), settled.outputs.clone());
            let moved = self.places().put(&self.planner, node, &outputs, &[])?;
            self.tell_moved(node, moved);
        }
        Ok(())
    }

    fn launch(
        &self,
        id: StepId,
        decided: &Decided,
    ) -> Result<(WorkFolder, Box<dyn Running>, bool), StepError> {
        let node = self.node(id);
        let name = format!("{}-{}", self.with.options.run, node.name.file());
        let work = WorkFolder::create(self.with.around.cache.join("work").join(name))?;
        let inputs = self.job_inputs(id, decided, &work)?;
        let threads = self.with.options.threads;
        let job = prepare(
            self.with.registry,
            node,
            &self.planner.manifest(id, &decided.inputs),
            inputs,
            &work,
            threads,
        )?;
        let running = self.with.executor.start(&job, &work)?;
        Ok((work, running, job.program.is_some()))
    }

    fn job_inputs(
        &self,
        id: StepId,
        decided: &Decided,
        work: &WorkFolder,
    ) -> Result<Vec<Input>, StepError> {
        let mut inputs = Vec::with_capacity(decided.inputs.len());
        for input in &decided.inputs {
            let path = match &input.from {
                Provenance::Engine(_) => {
                    let path = work.path().join(LINEAGE_FILE);
                    files::write(&path, self.planner.lineage(id))?;
                    path
                }
                _ => input.path.clone(),
            };
            inputs.push(Input {
                port: input.port.clone(),
                label: input.label.clone(),
                path,
            });
        }
        Ok(inputs)
    }

    fn handle(&mut self, message: Message) -> Result<(), StoreError> {
        match message {
            Message::Progress(id, progress) => {
                let step = self.node(id).name.clone();
                self.emit(Event::StepProgress { step, progress });
                Ok(())
            }
            Message::Ended(id, ended) => self.ended(id, *ended),
        }
    }

    fn ended(&mut self, id: StepId, ended: Ended) -> Result<(), StoreError> {
        let place = self.flights.iter().position(|(other, _)| *other == id);
        let Some(place) = place else { return Ok(()) };
        let (_, flight) = self.flights.swap_remove(place);
        let log = self.keep_log(id, &flight.work);
        // Left-overs are removed at the start of a later run, too.
        let _ = flight.work.remove();
        let stopped = matches!(self.stopping, Stopping::Cancelled(_));
        if ended.cancelled || stopped && (flight.is_program || ended.end.is_err()) {
            let store = self.with.around.store;
            store.note(Note::Failed(
                self.step_ref(self.node(id)),
                flight.decided.key,
            ))?;
            self.cancel(id);
            return Ok(());
        }
        let outputs = ended.end.clone().and_then(|outputs| {
            self.sources_unchanged(id, &flight.decided)
                .map(|()| outputs)
        });
        match outputs {
            Ok(outputs) => self.finish(id, flight, ended, outputs),
            Err(error) => self.fail(id, error, log, Some(flight.decided.key)),
        }
    }

    /// An input from outside that changed while the step ran would make the
    /// record a lie.
    fn sources_unchanged(&self, id: StepId, decided: &Decided) -> Result<(), StepError> {
        let now = self.planner.inputs(id)?;
        let changed = decided.inputs.iter().zip(&now);
        let changed = changed.filter(|(before, now)| before != now || !self.planner.unchanged(now));
        let changed = changed.map(|(before, _)| before).next();
        if changed.is_none() && now.len() == decided.inputs.len() {
            return Ok(());
        }
        let name = changed.map_or("an input", |input| input.port.as_str());
        let message = format!("input '{name}' changed while the step ran");
        Err(StepError::new(message).hint("build again"))
    }

    fn finish(
        &mut self,
        id: StepId,
        flight: Flight,
        ended: Ended,
        outputs: Vec<Output>,
    ) -> Result<(), StoreError> {
        let node = self.node(id);
        let store = self.with.around.store;
        let previous = self.previous_outputs(node);
        self.warn_of_other_result(node, &flight.decided, &outputs);
        let execution = self.execution(id, &flight, &ended, &outputs);
        let entry = Entry {
            outputs: outputs.clone(),
            record: store.put(&self.with.recorder.record(&execution))?,
            millis: ended.millis,
        };
        // Noted first: a result that cannot be put in place is not lost.
        store.note(Note::Finished(
            self.step_ref(node),
            flight.decided.key,
            entry,
        ))?;
        let moved = self.places().put(&self.planner, node, &outputs, &previous);
        match moved {
            Ok(moved) => self.tell_moved(node, moved),
            Err(error) => return self.fail(id, not_in_place(error), None, None),
        }
        self.summary.ran += 1;
        self.emit(Event::StepFinished {
            step: node.name.clone(),
            key: flight.decided.key,
            seconds: ended.millis as f64 / 1000.0,
            peak_memory: ended.result.peak_memory,
            facts: ended.result.facts,
            unchanged: same_outputs(&outputs, &previous),
        });
        self.settle(id, flight.decided, outputs);
        Ok(())
    }

    /// The same key must give the same outputs; when it does not, the user has
    /// to know that this step is not reproducible.
    fn warn_of_other_result(&mut self, node: &Node, decided: &Decided, outputs: &[Output]) {
        if let Some(entry) = &decided.entry
            && !same_outputs(&entry.outputs, outputs)
        {
            let message = format!(
                "{} gave other outputs than before for the same key: it is not reproducible",
                node.name
            );
            self.emit(Event::Warning { message });
        }
    }

    fn execution(
        &self,
        id: StepId,
        flight: &Flight,
        ended: &Ended,
        outputs: &[Output],
    ) -> Execution {
        let since = flight.started.duration_since(UNIX_EPOCH);
        let (node, decided) = (self.node(id), &flight.decided);
        Execution {
            run: self.with.options.run.clone(),
            pipeline: self.with.graph.name.clone(),
            step: node.name.clone(),
            key: decided.key,
            manifest: self.planner.manifest(id, &decided.inputs),
            sources: node.sources.clone(),
            inputs_from: decided
                .inputs
                .iter()
                .map(|input| input.from.clone())
                .collect(),
            outputs: outputs.to_vec(),
            started_ms: since.map_or(0, |d| d.as_millis() as u64),
            millis: ended.millis,
            peak_memory: ended.result.peak_memory,
            threads: self.with.options.threads,
            facts: ended.result.facts.clone(),
            log: ended.log,
        }
    }

    // Failing and stopping

    fn fail(
        &mut self,
        id: StepId,
        error: StepError,
        log: Option<PathBuf>,
        key: Option<Key>,
    ) -> Result<(), StoreError> {
        let node = self.node(id);
        if let Some(key) = key {
            self.with
                .around
                .store
                .note(Note::Failed(self.step_ref(node), key))?;
        }
        self.change(id, Change::Fail);
        self.summary.failed += 1;
        self.emit(Event::StepFailed {
            step: node.name.clone(),
            error,
            log_tail: log
                .as_deref()
                .map_or(Vec::new(), |log| files::last_lines(log, LOG_TAIL)),
            log,
        });
        self.skip_below(id);
        if !self.with.options.keep_going && matches!(self.stopping, Stopping::No) {
            self.stopping = Stopping::Draining(id);
        }
        Ok(())
    }

    fn skip_below(&mut self, failed: StepId) {
        for id in self.with.graph.cone([failed]).iter() {
            let state = self.states[id.index()];
            if id != failed && !state.is_final() && state != State::Running {
                self.skip(id, failed);
            }
        }
    }

    fn skip(&mut self, id: StepId, failed: StepId) {
        self.change(id, Change::Skip);
        self.summary.skipped += 1;
        self.emit(Event::StepSkipped {
            step: self.node(id).name.clone(),
            because: self.node(failed).name.clone(),
        });
    }

    fn cancel(&mut self, id: StepId) {
        self.change(id, Change::Cancel);
        self.summary.cancelled += 1;
        let step = self.node(id).name.clone();
        self.emit(Event::StepCancelled { step });
    }

    /// The store failed: nothing that still runs could be kept.
    fn abandon(&mut self) {
        self.flights
            .iter()
            .for_each(|(_, flight)| (flight.stop)(Stop::Kill));
        // What finished before is worth a last attempt.
        let _ = self.with.around.store.commit();
    }

    fn notice_cancel(&mut self) {
        let now = Instant::now();
        match self.stopping {
            Stopping::Cancelled(kill_at) if now >= kill_at => {
                self.flights
                    .iter()
                    .for_each(|(_, flight)| (flight.stop)(Stop::Kill));
            }
            Stopping::Cancelled(_) => {}
            _ if self.with.cancel.load(Ordering::Relaxed) => {
                let grace = self.with.options.grace;
                self.stopping = Stopping::Cancelled(now + grace);
                let grace = grace.as_secs_f64();
                self.emit(Event::Stopping { grace });
                self.flights
                    .iter()
                    .for_each(|(_, flight)| (flight.stop)(Stop::Ask));
            }
            _ => {}
        }
    }

    /// What was not begun when the run ended early.
    fn close_the_rest(&mut self) {
        for &id in self.steps {
            if self.states[id.index()].is_final() {
                continue;
            }
            match self.stopping {
                Stopping::Draining(failed) => self.skip(id, failed),
                _ => self.cancel(id),
            }
        }
    }

    /// Moves a log that says something to the run's folder.
    fn keep_log(&self, id: StepId, work: &WorkFolder) -> Option<PathBuf> {
        let log = work.log();
        if std::fs::metadata(&log).map_or(0, |meta| meta.len()) == 0 {
            return None;
        }
        let folder = self
            .with
            .around
            .cache
            .join("runs")
            .join(&self.with.options.run);
        files::create_dir(&folder).ok()?;
        let kept = folder.join(format!("{}.log", self.node(id).name.file()));
        files::rename(&log, &kept).ok()?;
        Some(kept)
    }
}

fn entry_outputs(decided: &Decided) -> Vec<Output> {
    let entry = decided.entry.as_ref();
    entry.map_or(Vec::new(), |entry| entry.outputs.clone())
}

/// The result is kept; the next build puts it in place.
fn not_in_place(error: StoreError) -> StepError {
    let error = StepError::from(error);
    StepError {
        message: "the outputs could not be put in place".to_owned(),
        causes: std::iter::once(error.message).chain(error.causes).collect(),
        hint: Some("they are kept in the store: make room for them and build again".to_owned()),
    }
}

/// What a step is assumed to take that never ran.
const UNKNOWN_MILLIS: u64 = 1000;

fn duration(with: &Runner<'_>, id: StepId) -> u64 {
    let (pipeline, step) = (with.graph.name.as_str(), with.graph.node(id).name.as_str());
    with.around.store.with_index(|index| {
        let key = index.step(pipeline, step).and_then(|state| state.current);
        let entry = key.and_then(|key| index.entry(&key));
        entry.map_or(UNKNOWN_MILLIS, |entry| entry.millis.max(1))
    })
}

/// Waits for a job and takes its outputs into the store.
fn see_through(
    running: Box<dyn Running>,
    work: &WorkFolder,
    ports: &[OutPort],
    store: &dyn Store,
    progress: &mut dyn FnMut(Progress),
) -> Ended {
    let started = Instant::now();
    let result = running.wait(progress);
    let millis = started.elapsed().as_millis() as u64;
    let end = match &result.end {
        End::Finished => collect(store, ports, &work.out()),
        End::Failed { error } => Err(error.clone()),
        End::Cancelled => Err(StepError::new("cancelled")),
    };
    Ended {
        end,
        cancelled: result.end == End::Cancelled,
        log: store_log(store, &work.log()),
        result,
        millis,
    }
}

fn store_log(store: &dyn Store, log: &Path) -> Option<Digest> {
    let bytes = std::fs::read(log).ok().filter(|bytes| !bytes.is_empty())?;
    store.put(&bytes).ok()
}
