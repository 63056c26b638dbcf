//! A run as a trace that Perfetto and Chrome show: a lane for each step that runs at the same time as others.
//!
//! The JSON format of trace events: complete events (`X`) for spans, `C` for
//! counters, `b` and `e` for waiting, `M` for the lanes' names; times in
//! microseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::event::{Event, Phase, Sink};
use crate::pipeline::StepName;

/// The process of the trace.
const PROCESS: u64 = 1;
/// The lane of the scheduler; steps run in the lanes after it.
const SCHEDULER: u64 = 0;

/// Gathers what happens, to be written as one JSON document.
pub struct Profile {
    clock: Box<dyn FnMut() -> Duration>,
    events: Vec<Value>,
    /// Who is in which lane since when; the first lane is at 0.
    lanes: Vec<Option<StepName>>,
    running: BTreeMap<StepName, Running>,
    /// Steps that were decided to run and are not yet begun.
    waiting: BTreeSet<StepName>,
    /// The end of the last span of the scheduler, and of each lane: clocks
    /// that are read one after the other must not make spans overlap.
    ends: BTreeMap<u64, u64>,
}

struct Running {
    lane: u64,
    since: u64,
    /// The end of the last span within its own.
    within: u64,
    kind: String,
}

impl Profile {
    /// `clock` gives the time since the run began.
    pub fn new(clock: impl FnMut() -> Duration + 'static) -> Self {
        Profile {
            clock: Box::new(clock),
            events: vec![
                name("process_name", SCHEDULER, "retune"),
                name("thread_name", SCHEDULER, "scheduler"),
            ],
            lanes: Vec::new(),
            running: BTreeMap::new(),
            waiting: BTreeSet::new(),
            ends: BTreeMap::new(),
        }
    }

    /// The document.
    pub fn into_json(self) -> String {
        let document = json!({"displayTimeUnit": "ms", "traceEvents": self.events});
        document.to_string() + "\n"
    }

    fn now(&mut self) -> u64 {
        u64::try_from((self.clock)().as_micros()).unwrap_or(u64::MAX)
    }

    /// A span in a lane that ends now, not before the last one of the lane.
    fn span(&mut self, lane: u64, name: &str, from: u64, to: u64, args: Value) {
        let from = from.max(self.ends.get(&lane).copied().unwrap_or(0));
        let to = to.max(from);
        self.ends.insert(lane, to);
        let cat = if lane == SCHEDULER {
            "scheduler"
        } else {
            "step"
        };
        self.complete(lane, cat, name, (from, to), args);
    }

    fn complete(&mut self, lane: u64, cat: &str, name: &str, (from, to): (u64, u64), args: Value) {
        self.events.push(json!({
            "ph": "X", "cat": cat, "pid": PROCESS, "tid": lane, "name": name, "ts": from,
            "dur": to - from, "args": args,
        }));
    }

    fn counter(&mut self, now: u64) {
        self.events.push(json!({
            "ph": "C", "cat": "queue", "pid": PROCESS, "tid": SCHEDULER, "name": "steps", "ts": now,
            "args": {"running": self.running.len(), "queued": self.waiting.len()},
        }));
    }

    fn wait(&mut self, phase: &str, step: &StepName, now: u64) {
        self.events.push(json!({
            "ph": phase, "cat": "queue", "id": step.as_str(), "pid": PROCESS, "tid": SCHEDULER,
            "name": format!("{step} waits"), "ts": now, "args": {},
        }));
    }

    fn stop_waiting(&mut self, step: &StepName, now: u64) {
        if self.waiting.remove(step) {
            self.wait("e", step, now);
        }
    }

    fn start(&mut self, step: &StepName, kind: &str, now: u64) {
        self.stop_waiting(step, now);
        // A step that is tried again has its lane already.
        self.end(step, now, "tried again", Value::Null);
        let free = self.lanes.iter().position(Option::is_none);
        let at = free.unwrap_or_else(|| {
            self.lanes.push(None);
            let lane = self.lanes.len() as u64;
            self.events
                .push(name("thread_name", lane, &format!("lane {lane}")));
            self.lanes.len() - 1
        });
        self.lanes[at] = Some(step.clone());
        let running = Running {
            lane: at as u64 + 1,
            since: now,
            within: now,
            kind: kind.to_owned(),
        };
        self.running.insert(step.clone(), running);
        self.counter(now);
    }

    /// The span of a step that ends now, and gives its lane free.
    fn end(&mut self, step: &StepName, now: u64, how: &str, more: Value) {
        let Some(running) = self.running.remove(step) else {
            return;
        };
        self.lanes[running.lane as usize - 1] = None;
        let args = json!({"kind": running.kind, "end": how, "more": more});
        self.span(running.lane, step.as_str(), running.since, now, args);
        self.counter(now);
    }

    fn phase(&mut self, phase: Phase, step: Option<&StepName>, seconds: f64, now: u64) {
        let long = (seconds * 1e6) as u64;
        let args = step.map_or(json!({}), |step| json!({"step": step.as_str()}));
        let running = step.and_then(|step| self.running.get_mut(step));
        let Some(running) = running.filter(|_| phase == Phase::Store) else {
            let from = now.saturating_sub(long);
            return self.span(SCHEDULER, phase.word(), from, now, args);
        };
        // Within the step's own span: the thread that waits for it does this.
        let from = now.saturating_sub(long).max(running.within);
        running.within = now;
        let lane = running.lane;
        self.complete(lane, "store", phase.word(), (from, now), args);
    }
}

fn name(what: &str, lane: u64, name: &str) -> Value {
    json!({"ph": "M", "pid": PROCESS, "tid": lane, "name": what, "args": {"name": name}})
}

impl Sink for Profile {
    fn event(&mut self, event: &Event) {
        let now = self.now();
        match event {
            Event::StepDecided { step, verdict, .. } if verdict.word() == "run" => {
                // It may be decided again while it waits.
                if self.waiting.insert(step.clone()) {
                    self.wait("b", step, now);
                }
                self.counter(now);
            }
            Event::StepStarted { step, kind, .. } => self.start(step, kind, now),
            Event::StepFinished { step, facts, .. } => {
                self.end(step, now, "finished", json!(facts));
            }
            Event::StepFailed { step, error, .. } => {
                self.stop_waiting(step, now);
                self.end(step, now, "failed", json!(error.message));
            }
            Event::StepRetried {
                step, error, wait, ..
            } => {
                let more = json!({"error": error.message, "again_in": wait});
                self.end(step, now, "tried again", more);
                if self.waiting.insert(step.clone()) {
                    self.wait("b", step, now);
                }
            }
            Event::StepCancelled { step, .. } | Event::StepSkipped { step, .. } => {
                self.stop_waiting(step, now);
                self.end(step, now, "stopped", Value::Null);
            }
            Event::PhaseEnded {
                phase,
                step,
                seconds,
            } => self.phase(*phase, step.as_ref(), *seconds, now),
            Event::RunFinished { .. } => {
                // What was still running belongs to a run that ended early.
                let left: Vec<StepName> = self.running.keys().cloned().collect();
                left.iter()
                    .for_each(|step| self.end(step, now, "ended", Value::Null));
                let left: Vec<StepName> = self.waiting.iter().cloned().collect();
                left.iter().for_each(|step| self.stop_waiting(step, now));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::event::Summary;
    use crate::hash::Digest;
    use crate::plan::{Key, Verdict};
    use crate::step::{Grant, StepError};
    use proptest::prelude::*;

    fn step(n: usize) -> StepName {
        format!("s{n}").parse().unwrap()
    }

    fn key() -> Key {
        Key(Digest::of(b"key"))
    }

    fn decided(n: usize) -> Event {
        Event::StepDecided {
            step: step(n),
            key: key(),
            verdict: Verdict::Run { reasons: vec![] },
        }
    }

    fn started(n: usize) -> Event {
        Event::StepStarted {
            step: step(n),
            kind: "k".into(),
            key: key(),
            attempt: 1,
            resources: Grant::default(),
            work: None,
        }
    }

    fn ended(n: usize, how: u8) -> Event {
        match how {
            0 => Event::StepFinished {
                step: step(n),
                key: key(),
                seconds: 1.0,
                peak_memory: None,
                facts: BTreeMap::new(),
                unchanged: false,
                record: None,
            },
            1 => Event::StepFailed {
                step: step(n),
                error: StepError::new("no"),
                log_tail: Vec::new(),
                log: None,
            },
            _ => Event::StepCancelled {
                step: step(n),
                changed: None,
            },
        }
    }

    fn finished() -> Event {
        let (summary, seconds) = (Summary::default(), 1.0);
        Event::RunFinished { summary, seconds }
    }

    /// The trace of events, each a tick of the clock after the one before.
    fn trace(events: &[(u64, Event)]) -> Vec<Value> {
        let time = Rc::new(Cell::new(0));
        let clock = Rc::clone(&time);
        let mut profile = Profile::new(move || Duration::from_micros(clock.get()));
        for (tick, event) in events {
            time.set(time.get() + tick);
            profile.event(event);
        }
        let document: Value = serde_json::from_str(&profile.into_json()).unwrap();
        document["traceEvents"].as_array().unwrap().clone()
    }

    fn number(event: &Value, field: &str) -> u64 {
        event[field].as_u64().unwrap_or_else(|| panic!("{event}"))
    }

    /// Spans of a lane lie beside or inside of each other.
    fn check(events: &[Value]) {
        for event in events {
            assert!(
                matches!(event["ph"].as_str(), Some("X" | "M" | "C" | "b" | "e")),
                "{event}"
            );
            assert!(
                event["name"].is_string() && event["pid"].is_u64(),
                "{event}"
            );
        }
        let spans: Vec<&Value> = events.iter().filter(|e| e["ph"] == "X").collect();
        for (i, a) in spans.iter().enumerate() {
            let (from, to) = (number(a, "ts"), number(a, "ts") + number(a, "dur"));
            for b in spans[..i].iter().filter(|b| b["tid"] == a["tid"]) {
                let (start, end) = (number(b, "ts"), number(b, "ts") + number(b, "dur"));
                let beside = to <= start || end <= from;
                let inside = (start <= from && to <= end) || (from <= start && end <= to);
                assert!(beside || inside, "{a}\n{b}");
            }
        }
        let waits = |phase: &str| events.iter().filter(|e| e["ph"] == phase).count();
        assert_eq!(waits("b"), waits("e"), "every waiting ends");
    }

    #[test]
    fn steps_that_run_at_once_have_lanes_of_their_own() {
        let store = Event::PhaseEnded {
            phase: Phase::Store,
            step: Some(step(0)),
            seconds: 4e-6,
        };
        let events = [
            (0, decided(0)),
            (1, decided(1)),
            (5, started(0)),
            (5, started(1)),
            (10, store),
            (1, ended(0, 0)),
            (3, decided(2)),
            (1, started(2)),
            (5, ended(1, 1)),
            (5, ended(2, 0)),
            (1, finished()),
        ];
        let events = trace(&events);
        check(&events);
        let spans = events.iter().filter(|e| e["ph"] == "X");
        let spans: Vec<(&str, u64, u64, u64)> = spans
            .map(|e| {
                let name = e["name"].as_str().unwrap();
                (name, number(e, "tid"), number(e, "ts"), number(e, "dur"))
            })
            .collect();
        assert_eq!(
            spans,
            [
                ("store", 1, 17, 4),
                ("s0", 1, 6, 16),
                ("s1", 2, 11, 20),
                ("s2", 1, 26, 10),
            ]
        );
    }

    proptest! {
        #[test]
        fn spans_of_a_lane_do_not_overlap(
            plan in prop::collection::vec((0..8_usize, 0..7_u8, 0..50_u64, 0..100_u32), 0..80),
        ) {
            let mut events = Vec::new();
            for (n, what, tick, micros) in plan {
                let seconds = f64::from(micros) * 1e-6;
                events.push((tick, match what {
                    0 => decided(n),
                    1 | 2 => started(n),
                    3..=4 => ended(n, what - 3),
                    5 => Event::PhaseEnded { phase: Phase::Store, step: Some(step(n)), seconds },
                    _ => Event::PhaseEnded { phase: Phase::Decide, step: Some(step(n)), seconds },
                }));
            }
            events.push((1, finished()));
            check(&trace(&events));
        }
    }
}
