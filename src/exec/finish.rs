//! Finishing: outputs into the store and in place, the record, and what else a step that ended leaves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::attempt::log_lost;
use super::job::WorkFolder;
use super::outputs::{Places, SetAside, same_outputs};
use super::run::{Ended, Flight, Run};
use super::stop::Stopping;
use crate::event::{Event, Execution, Known, OtherOutput, Phase};
use crate::files;
use crate::graph::{Node, StepId};
use crate::hash::Digest;
use crate::plan::{Decided, Provenance, ResolvedInput};
use crate::step::{OutPort, PortType, StepError};
use crate::store::{Entry, Note, Output, Shape, Store, StoreError};

impl<'a> Run<'a, '_> {
    pub(super) fn ended(&mut self, id: StepId, mut ended: Ended) -> Result<(), StoreError> {
        let place = self.flights.iter().position(|(other, _)| *other == id);
        let Some(place) = place else { return Ok(()) };
        let (_, flight) = self.flights.swap_remove(place);
        self.landed(id, flight.decided.key);
        if self.with.options.phases {
            self.tell_phase(Phase::Store, Some(id), ended.storing);
        }
        let log = self.keep_log(id, &flight.work, ended.log);
        if let (None, Err(error)) = (&log, &mut ended.end) {
            // Before what takes the room is removed.
            log_lost(error, &flight.work.log(), self.with.around.cache);
        }
        if let Err(error) = &mut ended.end {
            self.keep_reports(id, &flight.work, error);
        }
        self.work_folders.give_back(flight.work.clone());
        for message in ended.result.warnings.clone() {
            self.emit(Event::Warning { message });
        }
        self.forget_mixed_checkpoint(id, &flight);
        // What a program does after a signal says nothing of its outputs.
        let in_vain = flight.is_program && flight.asked || ended.end.is_err();
        let cancelled = matches!(self.stopping, Stopping::Cancelled(_)) && flight.asked;
        let stopped = cancelled || flight.recalled.is_some();
        if !stopped
            && in_vain
            && let Some(error) = flight.limit.exceeded()
        {
            return self.failed(id, flight, &ended, error, log);
        }
        if ended.cancelled || stopped && in_vain {
            return self.stopped(id, &flight);
        }
        let outputs = ended
            .end
            .clone()
            .and_then(|outputs| self.sources_unchanged(id, &flight).map(|()| outputs));
        match outputs {
            Ok(outputs) => self.finish(id, flight, ended, outputs),
            // It ended before it could stop, and its own source changed.
            Err(_) if flight.recalled.is_some() => self.stopped(id, &flight),
            Err(error) => self.failed(id, flight, &ended, error, log),
        }
    }

    /// What a step kept while its inputs changed under it is of no one key:
    /// nobody may go on from it.
    fn forget_mixed_checkpoint(&self, id: StepId, flight: &Flight) {
        if let Some(folder) = &flight.checkpoint
            && self.sources_unchanged(id, flight).is_err()
        {
            // What cannot be removed now is bound to fail again, and is said then.
            let _ = files::remove(folder);
        }
    }

    /// A step that was asked to stop did.
    fn stopped(&mut self, id: StepId, flight: &Flight) -> Result<(), StoreError> {
        let step = self.step_ref(self.node(id));
        let store = self.with.around.store;
        store.note(Note::Failed(step, flight.decided.key))?;
        let changed = flight.recalled.map(|it| self.node(it.by).name.clone());
        self.cancel(id, changed);
        Ok(())
    }

    /// An input that changed while the step ran would make the record a lie,
    /// and so would one that changed and is again what it was.
    pub(super) fn sources_unchanged(&self, id: StepId, flight: &Flight) -> Result<(), StepError> {
        let (now, before) = (self.planner.inputs(id)?, &flight.decided.inputs);
        let mut pairs = before.iter().zip(&now);
        let changed = pairs.find(|(before, now)| before != now || !self.unchanged(now));
        if changed.is_some() || now.len() != before.len() {
            let name = changed.map_or("an input", |(before, _)| before.port.as_str());
            let message = format!("input '{name}' changed while the step ran");
            return Err(StepError::new(message).hint("build again"));
        }
        let Some(touched) = self.touched(flight, &now) else {
            return Ok(());
        };
        if let Some(recall) = self.with.recall {
            recall.note_touch();
        }
        let name = &touched.port;
        let message = format!(
            "input '{name}' changed while the step ran, though it is again what it was: \
             who knows what the step has read"
        );
        let hint = "build again; a step that changes or links its own input needs a copy of it";
        Err(StepError::new(message).hint(hint))
    }

    /// An input that somebody wrote to since the step began, of those that were
    /// just looked at.
    pub(super) fn touched<'i>(
        &self,
        flight: &Flight,
        now: &'i [ResolvedInput],
    ) -> Option<&'i ResolvedInput> {
        let traces = self.planner.traces(now);
        let mut pairs = now.iter().zip(flight.traces.iter().zip(&traces));
        let (input, _) = pairs.find(|(_, (before, now))| before != now)?;
        Some(input)
    }

    /// Whether an input that was just looked at is what was hashed. Keeps the listings of the user's
    /// folders on the way: the store has no copy of their files, and `why` is
    /// to say which of them changed.
    fn unchanged(&self, input: &ResolvedInput) -> bool {
        let store = self.with.around.store;
        let foreign = matches!(input.from, Provenance::Path(_) | Provenance::Hub(_));
        if !foreign {
            return self.planner.unchanged(input);
        }
        if input.artifact.shape != Shape::Folder {
            return true;
        }
        store.stats().refresh(&input.path);
        let mut keep = |digest, bytes: &[u8]| {
            // Without it `why` says less, which is no reason to fail.
            let _ = store.keep_listing(digest, bytes);
        };
        let now = store.stats().content_listed(&input.path, &mut keep);
        now.is_ok_and(|now| now == input.artifact)
    }

    pub(super) fn finish(
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
        let record = store.put(&self.with.recorder.record(&execution))?;
        let entry = Entry {
            outputs: outputs.clone(),
            record,
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
            Err(error) => {
                self.spent.extend(flight.checkpoint);
                return self.fail(id, not_in_place(error), None, None);
            }
        }
        self.spent.extend(flight.checkpoint);
        self.summary.ran += 1;
        self.emit(Event::StepFinished {
            step: node.name.clone(),
            key: flight.decided.key,
            seconds: ended.millis as f64 / 1000.0,
            peak_memory: ended.result.peak_memory,
            facts: ended.result.facts,
            unchanged: same_outputs(&outputs, &previous),
            record: Some(record),
        });
        self.settle(id, flight.decided, outputs);
        Ok(())
    }

    pub(super) fn restore(&mut self, id: StepId, decided: Decided) -> Result<(), StoreError> {
        let node = self.node(id);
        let outputs = entry_outputs(&decided);
        let previous = self.previous_outputs(node);
        let began = self.phase_begins();
        let moved = self.places().put(&self.planner, node, &outputs, &previous);
        self.phase_ended(Phase::Restore, Some(id), began);
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

    pub(super) fn places(&self) -> Places<'a> {
        Places {
            root: self.with.around.root,
            store: self.with.around.store,
        }
    }

    pub(super) fn tell_moved(&mut self, node: &Node, moved: Vec<SetAside>) {
        for SetAside { path, kept } in moved {
            let step = node.name.clone();
            self.emit(Event::OutputSetAside { step, path, kept });
        }
    }

    /// The outputs of the step's last result, whether of this key or not.
    pub(super) fn previous_outputs(&self, node: &Node) -> Vec<Output> {
        self.with.around.store.with_index(|index| {
            let state = index.step(self.with.graph.name.as_str(), node.name.as_str());
            let key = state.and_then(|state| state.current);
            let entry = key.and_then(|key| index.entry(&key));
            entry.map_or(Vec::new(), |entry| entry.outputs)
        })
    }

    /// The same key must give the same outputs; when it does not, the user has
    /// to know that this step is not reproducible.
    pub(super) fn warn_of_other_result(
        &mut self,
        node: &Node,
        decided: &Decided,
        outputs: &[Output],
    ) {
        let Some(entry) = &decided.entry else { return };
        let outputs = OtherOutput::between(&digests(&entry.outputs), &digests(outputs));
        if !outputs.is_empty() {
            self.emit(Event::NotReproducible {
                step: node.name.clone(),
                key: decided.key,
                known: Known::Store,
                outputs,
            });
        }
    }

    pub(super) fn execution(
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
            threads: flight.threads,
            resources: flight.grant.clone(),
            failed_attempts: self
                .queue
                .as_ref()
                .map_or(Vec::new(), |queue| queue.failed_attempts(id).to_vec()),
            sandbox: ended.result.sandbox.clone(),
            facts: ended.result.facts.clone(),
            log: ended.log.object,
        }
    }

    /// The folder of what this run leaves beside outputs.
    fn run_folder(&self) -> PathBuf {
        let runs = self.with.around.cache.join("runs");
        runs.join(&self.with.options.run)
    }

    /// Moves the documents and metrics that a failed step has written to the
    /// run's folder, and says where they are: a gate's report is what the user
    /// wants to read then. They are no outputs, and no step sees them.
    fn keep_reports(&self, id: StepId, work: &WorkFolder, error: &mut StepError) {
        let node = self.node(id);
        let folder = self
            .run_folder()
            .join(format!("{}.failed", node.name.file()));
        let told = |port: &&OutPort| matches!(port.ty, PortType::Document | PortType::Metrics);
        let mut kept: Vec<(PortType, PathBuf)> = Vec::new();
        for port in node.outputs.iter().filter(told) {
            let (from, to) = (work.out().join(&port.path), folder.join(&port.path));
            let parent = to.parent().unwrap_or(&folder);
            if from.is_file()
                && files::create_dir(parent).is_ok()
                && files::rename(&from, &to).is_ok()
            {
                kept.push((port.ty, to));
            }
        }
        let page = kept.iter().find(|(ty, _)| *ty == PortType::Document);
        let Some((_, path)) = page.or(kept.first()) else {
            return;
        };
        let read = format!("its report is {}", path.display());
        error.hint = Some(match error.hint.take() {
            Some(hint) => format!("{hint}; {read}"),
            None => read,
        });
    }

    /// Moves a log that says something to the run's folder.
    fn keep_log(&self, id: StepId, work: &WorkFolder, log: KeptLog) -> Option<PathBuf> {
        if !log.said {
            return None;
        }
        let (log, folder) = (work.log(), self.run_folder());
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

/// Longer logs are not held in memory.
const LONG_LOG: u64 = 1 << 20;

/// What there is of a step's log.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KeptLog {
    /// Whether it says anything.
    said: bool,
    /// The object that it is in the store.
    pub(super) object: Option<Digest>,
}

/// Puts a log into the store; it stays where it is, too.
pub(super) fn store_log(store: &dyn Store, work: &WorkFolder) -> KeptLog {
    let log = work.log();
    let length = std::fs::metadata(&log).map_or(0, |meta| meta.len());
    let object = match length {
        0 => None,
        1..LONG_LOG => std::fs::read(&log)
            .ok()
            .and_then(|log| store.put(&log).ok()),
        _ => {
            let copy = work.path().join("log.copy");
            let copied = std::fs::copy(&log, &copy).is_ok();
            let taken = copied.then(|| store.take(&copy).ok()).flatten();
            taken.map(|artifact| artifact.digest)
        }
    };
    KeptLog {
        said: length > 0,
        object,
    }
}

/// How many of the last lines of a failed step's log are shown.
const LOG_TAIL: usize = 20;

/// The end of a failed step's log, if it has one.
pub(super) fn last_lines(log: Option<&Path>) -> Vec<String> {
    log.map_or(Vec::new(), |log| files::last_lines(log, LOG_TAIL))
}

/// Outputs by path.
fn digests(outputs: &[Output]) -> BTreeMap<String, Digest> {
    let outputs = outputs.iter();
    outputs
        .map(|output| (output.path.clone(), output.artifact.digest))
        .collect()
}
