//! Lines without movement, for logs and pipes.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use super::style::paint;
use super::words::{Words, progress};
use crate::event::{Event, Sink};
use crate::pipeline::StepName;

/// A step's progress is told this often at most.
const EVERY: Duration = Duration::from_secs(10);

/// Writes one line per event, and now and then how far the running steps are.
pub struct Plain<W> {
    out: W,
    words: Words,
    clock: Box<dyn FnMut() -> Duration>,
    told: BTreeMap<StepName, Duration>,
}

impl<W: Write> Plain<W> {
    /// Writes to `out`; `clock` gives the time since any fixed moment.
    pub fn new(out: W, words: Words, clock: impl FnMut() -> Duration + 'static) -> Self {
        Plain {
            out,
            words,
            clock: Box::new(clock),
            told: BTreeMap::new(),
        }
    }

    /// In one piece, so that others who write there do not get in between.
    fn lines(&mut self, lines: &[String]) {
        let mut text = lines.join("\n");
        if !lines.is_empty() {
            text.push('\n');
            // A reader that has gone must not stop the run.
            let _ = self.out.write_all(text.as_bytes());
        }
    }
}

impl<W: Write> Sink for Plain<W> {
    fn event(&mut self, event: &Event) {
        match event {
            Event::StepStarted { step, .. } => {
                self.told.insert(step.clone(), (self.clock)());
            }
            Event::StepProgress {
                step,
                progress: far,
            } => {
                let now = (self.clock)();
                let last = self.told.entry(step.clone()).or_insert(now);
                if now.saturating_sub(*last) >= EVERY {
                    *last = now;
                    let text = paint(self.words.palette().dim, progress(far));
                    let line = format!("  {}  {text}", self.words.name(step));
                    self.lines(&[line]);
                }
            }
            _ => {}
        }
        let lines = self.words.lines(event);
        self.lines(&lines);
    }
}
