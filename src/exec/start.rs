//! Starting: what has a place is looked at once more, put in order, and handed to the executor.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::Running;
use super::attempt::TimeLimit;
use super::crew::Crew;
use super::finish::{KeptLog, store_log};
use super::job::{End, Job, JobResult, Share, WorkFolder, prepare};
use super::outputs::collect;
use super::run::{Ended, Flight, Message, Run, RunError};
use super::state::Change;
use super::stop::Stopping;
use super::worker::text_of;
use crate::event::Event;
use crate::files;
use crate::graph::StepId;
use crate::plan::{Decided, LINEAGE_FILE, Provenance};
use crate::step::{Grant, Input, OutPort, StepError};
use crate::store::{Note, Store, StoreError, Trace};

/// Inputs that were looked at so recently are not looked at again.
const JUST_NOW: Duration = Duration::from_millis(100);

/// A job that was started.
struct Launched {
    work: WorkFolder,
    traces: Vec<Option<Trace>>,
    running: Box<dyn Running>,
    job: Job,
}

impl<'a> Run<'a, '_> {
    pub(super) fn start_queued<'scope>(&mut self, crew: &Crew<'scope, '_>) -> Result<(), RunError>
    where
        'a: 'scope,
    {
        while matches!(self.stopping, Stopping::No)
            && let Some((id, decided, grant)) = self.next_queued()?
        {
            // Whatever changes from here on is found when the step has ended.
            let just_now = decided.at.elapsed() < JUST_NOW;
            let as_decided = just_now
                || self
                    .planner
                    .inputs(id)
                    .is_ok_and(|now| now == decided.inputs);
            // Whatever was read for the decision may have taken its time.
            self.notice_cancel();
            if !matches!(self.stopping, Stopping::No) {
                self.queue().release(id);
            } else if as_decided {
                self.start(crew, id, decided, grant)?;
            } else {
                self.queue().release(id);
                self.reconsider(id);
            }
        }
        Ok(())
    }

    fn start<'scope>(
        &mut self,
        crew: &Crew<'scope, '_>,
        id: StepId,
        decided: Decided,
        grant: Grant,
    ) -> Result<(), StoreError>
    where
        'a: 'scope,
    {
        let node = self.node(id);
        let store = self.with.around.store;
        store.note(Note::Started(self.step_ref(node), decided.key))?;
        let attempt = self.queue().attempt(id);
        let work = self.work_folders.take();
        let folder = work.as_ref().ok().map(|work| {
            let folder = files::relative(work.path(), self.with.around.cache);
            folder.to_owned()
        });
        self.emit(Event::StepStarted {
            step: node.name.clone(),
            kind: node.kind.clone(),
            key: decided.key,
            attempt,
            resources: grant.clone(),
            work: folder,
        });
        let launched = work
            .map_err(StepError::from)
            .and_then(|work| self.launch(work, id, &decided, &grant));
        let Launched {
            work,
            traces,
            running,
            job,
        } = match launched {
            Ok(launched) => launched,
            Err(error) => {
                self.queue().release(id);
                return self.fail(id, error, None, Some(decided.key));
            }
        };
        self.change(id, Change::Start);
        let over = Arc::new(AtomicBool::new(false));
        let flight = Flight {
            decided,
            traces,
            over: Arc::clone(&over),
            asked: false,
            is_program: job.program.is_some(),
            work: work.clone(),
            stop: running.stopper(),
            started: SystemTime::now(),
            grant,
            threads: job.threads,
            limit: TimeLimit::new(node.settings.timeout),
            recalled: None,
            checkpoint: job.checkpoint.map(|checkpoint| checkpoint.folder),
        };
        self.flights.push((id, flight));
        let (sender, began) = (self.sender.clone(), Instant::now());
        crew.run(move || {
            let seen_through = catch_unwind(AssertUnwindSafe(|| {
                let result = running.wait(&mut |progress| {
                    // The run may be over already.
                    let _ = sender.send(Message::Progress(id, progress));
                });
                over.store(true, Ordering::Release);
                take_in(result, began.elapsed(), &work, &node.outputs, store)
            }));
            let ended = seen_through
                .unwrap_or_else(|panic| Ended::failed(own_fault(&*panic), began.elapsed()));
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
        &mut self,
        work: WorkFolder,
        id: StepId,
        decided: &Decided,
        grant: &Grant,
    ) -> Result<Launched, StepError> {
        let launched = self.mend_inputs(decided).and_then(|()| {
            let traces = self.planner.traces(&decided.inputs);
            let (running, job) = self.launch_in(&work, id, decided, grant)?;
            Ok((traces, running, job))
        });
        match launched {
            Ok((traces, running, job)) => Ok(Launched {
                work,
                traces,
                running,
                job,
            }),
            Err(error) => {
                self.work_folders.give_back(work);
                Err(error)
            }
        }
    }

    fn launch_in(
        &mut self,
        work: &WorkFolder,
        id: StepId,
        decided: &Decided,
        grant: &Grant,
    ) -> Result<(Box<dyn Running>, Job), StepError> {
        let inputs = self.job_inputs(id, decided, work)?;
        let checkpoint = self.checkpoint(id, decided.key)?;
        let machine = &self.queue().machine;
        let share = Share {
            threads: machine.threads(grant),
            variables: machine.variables(grant),
            checkpoint,
        };
        let manifest = self.planner.manifest(id, &decided.inputs);
        let node = self.node(id);
        let (registry, root) = (self.with.registry, self.with.around.root);
        let job = prepare(registry, node, &manifest, inputs, work, root, share)?;
        let running = self.with.executor.start(&job, work)?;
        Ok((running, job))
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
}

/// A panic of what sees a job through.
fn own_fault(panic: &(dyn std::any::Any + Send)) -> StepError {
    StepError::new(format!("retune failed over the step: {}", text_of(panic)))
        .hint("this is a fault in retune; standard error says where")
}

impl Ended {
    /// A job of which no more is known than that it is not to be had.
    fn failed(error: StepError, took: Duration) -> Self {
        Ended {
            end: Err(error.clone()),
            cancelled: false,
            result: JobResult::bare(End::Failed { error }),
            log: KeptLog::default(),
            millis: took.as_millis() as u64,
            storing: Duration::ZERO,
        }
    }
}

/// Takes the outputs of a job that has ended into the store.
fn take_in(
    result: JobResult,
    took: Duration,
    work: &WorkFolder,
    ports: &[OutPort],
    store: &dyn Store,
) -> Ended {
    let storing = Instant::now();
    let end = match &result.end {
        End::Finished => collect(store, ports, &work.out()),
        End::Failed { error } => Err(error.clone()),
        End::Cancelled => Err(StepError::new("cancelled")),
    };
    Ended {
        end,
        storing: storing.elapsed(),
        cancelled: result.end == End::Cancelled,
        log: store_log(store, work),
        result,
        millis: took.as_millis() as u64,
    }
}
