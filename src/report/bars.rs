//! Bars on a terminal: one per running step, one for the run, and finished lines above them.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::style::{clean, cut, paint};
use super::words::Words;
use crate::event::{Event, Sink};
use crate::pipeline::StepName;
use crate::step::Progress;

/// How often times move on while nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// The columns that the time of a running step takes.
const TIME: usize = 7;

/// A bar per running step below the lines of what is done.
pub struct Bars {
    screen: MultiProgress,
    words: Words,
    tick: Option<Duration>,
    run: Option<ProgressBar>,
    running: BTreeMap<StepName, Running>,
}

struct Running {
    bar: ProgressBar,
    /// Whether the bar has its style for a known total.
    measured: bool,
}

impl Bars {
    /// Draws on standard error.
    pub fn new(words: Words) -> Self {
        Self::on(ProgressDrawTarget::stderr(), words, Some(TICK))
    }

    /// Draws on `target`; without a `tick` only events redraw.
    pub fn on(target: ProgressDrawTarget, words: Words, tick: Option<Duration>) -> Self {
        Bars {
            screen: MultiProgress::with_draw_target(target),
            words,
            tick,
            run: None,
            running: BTreeMap::new(),
        }
    }

    fn tell(&mut self, event: &Event) {
        let lines = self.words.lines(event);
        self.print(lines);
    }

    fn print(&mut self, lines: Vec<String>) {
        for line in lines {
            // A terminal that has gone must not stop the run.
            let _ = self.screen.println(line);
        }
    }

    fn begin(&mut self, steps: usize) {
        self.end();
        // First onto the screen: a bar of its own would draw past the others.
        let bar = self.screen.add(ProgressBar::new(steps as u64));
        let template = "{prefix} [{bar:24}] {pos}/{len} steps  {elapsed}";
        bar.set_style(style(template));
        bar.set_prefix(paint(self.words.palette().strong, self.words.title()));
        self.wake(&bar);
        self.run = Some(bar);
    }

    fn wake(&self, bar: &ProgressBar) {
        match self.tick {
            Some(tick) => bar.enable_steady_tick(tick),
            None => bar.tick(),
        }
    }

    fn start(&mut self, step: &StepName, kind: &str) {
        if self.run.is_none() {
            // Outside of a run steps come one by one: the last one is over.
            self.end();
        }
        let name = self.words.name(step);
        let room = self.words.rest(&name).saturating_sub(TIME);
        let bar = ProgressBar::no_length();
        let bar = match &self.run {
            Some(run) => self.screen.insert_before(run, bar),
            None => self.screen.add(bar),
        };
        bar.set_style(style("{spinner} {prefix}  {wide_msg} {elapsed:>6}"));
        bar.set_prefix(paint(self.words.palette().strong, name));
        let text = self.words.why(step, kind, room);
        bar.set_message(paint(self.words.palette().dim, text));
        self.wake(&bar);
        let measured = false;
        self.running.insert(step.clone(), Running { bar, measured });
    }

    fn progress(&mut self, step: &StepName, progress: &Progress) {
        let Some(running) = self.running.get_mut(step) else {
            return;
        };
        let mut text = clean(&progress.message);
        if progress.total > 0 {
            if !running.measured {
                running.measured = true;
                let template =
                    "{spinner} {prefix}  [{bar:6}] {percent:>3} %  {wide_msg} {eta:>3} left";
                running.bar.set_style(style(template));
            }
            running.bar.set_length(progress.total);
            running.bar.set_position(progress.done.min(progress.total));
        } else if progress.done > 0 {
            text = format!("{}  {text}", progress.done);
        }
        // A step without words keeps the reason why it runs.
        if !text.is_empty() {
            running.bar.set_message(cut(&text, 200));
        }
    }

    /// Takes a step's bar away and counts the step as dealt with.
    fn done(&mut self, step: &StepName) {
        self.take_away(step);
        if let Some(run) = &self.run {
            run.inc(1);
        }
    }

    fn take_away(&mut self, step: &StepName) {
        if let Some(running) = self.running.remove(step) {
            running.bar.finish_and_clear();
            self.screen.remove(&running.bar);
        }
    }

    fn end(&mut self) {
        for (_, running) in std::mem::take(&mut self.running) {
            running.bar.finish_and_clear();
            self.screen.remove(&running.bar);
        }
        if let Some(run) = self.run.take() {
            run.finish_and_clear();
            self.screen.remove(&run);
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

impl Sink for Bars {
    fn event(&mut self, event: &Event) {
        match event {
            Event::RunStarted { steps, .. } => {
                // Only for the name of the pipeline: the bar says the rest.
                let _ = self.words.lines(event);
                self.begin(*steps);
            }
            Event::StepStarted { step, kind, .. } => {
                let lines = self.words.lines(event);
                if self.words.verbose() {
                    self.print(lines);
                }
                self.start(step, kind);
            }
            Event::StepProgress { step, progress } => self.progress(step, progress),
            Event::StepDecided { step, verdict, .. } => {
                self.tell(event);
                if *verdict == crate::plan::Verdict::UpToDate {
                    self.done(step);
                }
            }
            Event::StepFinished { step, .. }
            | Event::StepRestored { step, .. }
            | Event::StepFailed { step, .. }
            | Event::StepSkipped { step, .. }
            | Event::StepCancelled { step, .. } => {
                self.done(step);
                self.tell(event);
            }
            Event::StepRetried { step, .. } => {
                self.take_away(step);
                self.tell(event);
            }
            Event::RunFinished { .. } => {
                self.end();
                self.tell(event);
            }
            Event::PhaseEnded { .. } => {}
            Event::Waiting { .. }
            | Event::OutputSetAside { .. }
            | Event::Stopping { .. }
            | Event::NotReproducible { .. }
            | Event::Warning { .. } => self.tell(event),
        }
    }
}

impl Drop for Bars {
    /// A run that ends with an error leaves no bar behind.
    fn drop(&mut self) {
        self.end();
    }
}
