//! The words of every event: the lines that stay on the screen, for bars and plain lines alike.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::problem::Problem;
use super::style::{Palette, clean, cut, paint};
use crate::event::{Event, Known, OtherOutput, Summary};
use crate::hash::Digest;
use crate::pipeline::StepName;
use crate::plan::{Reason, Verdict};
use crate::step::{Progress, StepError};

/// The narrowest column of step names.
const NAME: usize = 10;
/// The widest column of step names; longer names push their line to the right.
const NAME_LIMIT: usize = 24;

/// How many skipped steps are named; a failure may have thousands below it.
const SKIPPED: usize = 10;

/// Turns events into lines.
pub struct Words {
    palette: Palette,
    /// Columns of a line; what is beyond is cut where a record has it too.
    width: usize,
    /// Whether steps of which nothing is done are listed.
    verbose: bool,
    name_width: usize,
    title: String,
    reasons: BTreeMap<StepName, Vec<Reason>>,
    started: BTreeSet<StepName>,
    failed: Vec<StepName>,
    /// How many steps were skipped so far.
    skipped: usize,
    /// Paths below it are shown relative to it.
    folder: PathBuf,
}

impl Words {
    /// Lines of at most `width` columns where they can be cut.
    pub fn new(palette: Palette, width: usize, verbose: bool) -> Self {
        Words {
            palette,
            width: width.max(40),
            verbose,
            name_width: NAME,
            title: "retune".to_owned(),
            reasons: BTreeMap::new(),
            started: BTreeSet::new(),
            failed: Vec::new(),
            skipped: 0,
            folder: PathBuf::new(),
        }
    }

    /// Shows paths relative to the folder the user is in.
    pub fn relative_to(mut self, folder: PathBuf) -> Self {
        self.folder = folder;
        self
    }

    pub(super) fn palette(&self) -> &Palette {
        &self.palette
    }

    pub(super) fn verbose(&self) -> bool {
        self.verbose
    }

    /// The pipeline's name.
    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// The step's name, padded to the column that all names share.
    pub(super) fn name(&mut self, step: &StepName) -> String {
        let length = step.as_str().chars().count();
        self.name_width = self.name_width.max(length.min(NAME_LIMIT));
        format!("{step:<width$}", width = self.name_width)
    }

    /// A step's kind and the first reason why it runs, right of its name.
    pub(super) fn why(&self, step: &StepName, kind: &str, room: usize) -> String {
        let reasons = self.reasons.get(step).map_or(&[][..], Vec::as_slice);
        let (text, more) = match reasons {
            [] => (kind.to_owned(), String::new()),
            [only] => (format!("{kind}: {only}"), String::new()),
            [first, rest @ ..] => {
                let more = format!(", +{} more", rest.len());
                (format!("{kind}: {first}"), more)
            }
        };
        let room = room.saturating_sub(more.len());
        cut(&clean(&text), room) + &more
    }

    /// The lines that an event leaves.
    pub fn lines(&mut self, event: &Event) -> Vec<String> {
        let Palette {
            good,
            bad,
            warn,
            dim,
            ..
        } = self.palette;
        match event {
            Event::Waiting { holder } => vec![format!("waiting for {}", clean(holder))],
            Event::RunStarted {
                pipeline,
                steps,
                jobs,
                ..
            } => {
                self.title = pipeline.to_string();
                self.reasons.clear();
                self.started.clear();
                self.failed.clear();
                self.skipped = 0;
                let jobs = match jobs {
                    0 | 1 => "one at a time".to_owned(),
                    jobs => format!("{jobs} at a time"),
                };
                vec![format!("{pipeline}: {}, {jobs}", count(*steps, "step"))]
            }
            Event::StepDecided { step, verdict, .. } => self.decided(step, verdict),
            Event::StepStarted { step, kind, .. } => {
                self.started.insert(step.clone());
                self.begun(step, kind)
            }
            Event::StepProgress { .. } | Event::PhaseEnded { .. } => Vec::new(),
            Event::StepFinished { step, .. } => {
                vec![format!(
                    "{} {}  {}",
                    paint(good, "✓"),
                    self.name(step),
                    self.finished(event)
                )]
            }
            Event::StepRestored { step, .. } => {
                vec![format!(
                    "{} {}  restored",
                    paint(good, "✓"),
                    self.name(step)
                )]
            }
            Event::StepFailed {
                step,
                error,
                log_tail,
                log,
            } => {
                self.failed.push(step.clone());
                let mut lines = vec![format!("{} {}  failed", paint(bad, "✗"), self.name(step))];
                lines.extend(self.failure(error, log_tail, log.as_deref()));
                lines
            }
            Event::StepRetried {
                step,
                attempt,
                attempts,
                error,
                wait,
                log_tail,
                log,
            } => {
                let text = format!(
                    "attempt {attempt} of {attempts} failed; again in {}",
                    duration(*wait)
                );
                let mut lines = vec![format!("{} {}  {text}", paint(warn, "↻"), self.name(step))];
                lines.extend(self.failure(error, log_tail, log.as_deref()));
                lines
            }
            Event::StepSkipped { step, because } => {
                self.skipped += 1;
                if self.skipped > SKIPPED && !self.verbose {
                    return Vec::new();
                }
                let text = paint(dim, format!("skipped: {because} failed"));
                vec![format!("- {}  {text}", self.name(step))]
            }
            // Those that were not begun are only counted.
            Event::StepCancelled { step, .. } if !self.started.contains(step) => Vec::new(),
            Event::StepCancelled { step, changed } => {
                let text = match changed {
                    None => "stopped".to_owned(),
                    Some(changed) if changed == step => "stopped: it changed".to_owned(),
                    Some(changed) => format!("stopped: {changed} changed"),
                };
                vec![format!("- {}  {}", self.name(step), paint(dim, text))]
            }
            Event::OutputSetAside { step, path, kept } => {
                let head = paint(warn, "warning:");
                vec![
                    format!("{head} {step}: {path} was edited and is put back"),
                    format!("  the edited version is now {kept}"),
                ]
            }
            Event::Stopping { grace } => vec![format!(
                "stopping: running steps have {}; Ctrl-C again kills them",
                duration(*grace)
            )],
            Event::NotReproducible {
                step,
                known,
                outputs,
                ..
            } => self.not_reproducible(step, *known, outputs),
            Event::Warning { message } => {
                vec![format!(
                    "{} {}",
                    paint(warn, "warning:"),
                    message.trim_end()
                )]
            }
            Event::RunFinished { summary, seconds } => self.ended(summary, *seconds),
        }
    }

    fn not_reproducible(
        &self,
        step: &StepName,
        known: Known,
        outputs: &[OtherOutput],
    ) -> Vec<String> {
        let head = paint(self.palette.bad, "not reproducible:");
        let known = match known {
            Known::Store => "it gave before for the same key",
            Known::Lock => "the lock file has for the same key",
        };
        let mut lines = vec![format!("{head} {step} gave other outputs than {known}")];
        lines.extend(outputs.iter().map(|output| {
            let [known, now] = [output.known, output.now].map(Digest::short_or_nothing);
            format!("  {}: {known} → {now}", clean(&output.path))
        }));
        lines
    }

    fn decided(&mut self, step: &StepName, verdict: &Verdict) -> Vec<String> {
        if *verdict != Verdict::UpToDate {
            let reasons = verdict.reasons().to_vec();
            self.reasons.insert(step.clone(), reasons);
            return Vec::new();
        }
        if !self.verbose {
            return Vec::new();
        }
        let text = paint(self.palette.dim, "up to date");
        vec![format!("  {}  {text}", self.name(step))]
    }

    fn begun(&mut self, step: &StepName, kind: &str) -> Vec<String> {
        let name = self.name(step);
        let text = self.why(step, kind, self.rest(&name));
        vec![format!("  {name}  {}", paint(self.palette.dim, text))]
    }

    /// The columns right of a name.
    pub(super) fn rest(&self, name: &str) -> usize {
        self.width.saturating_sub(name.chars().count() + 4)
    }

    fn finished(&mut self, event: &Event) -> String {
        let Event::StepFinished {
            step,
            seconds,
            peak_memory,
            facts,
            unchanged,
            ..
        } = event
        else {
            return String::new();
        };
        let mut text = format!("{:>8}", duration(*seconds));
        let mut parts: Vec<String> = Vec::new();
        parts.extend(unchanged.then(|| "unchanged".to_owned()));
        parts.extend(
            peak_memory
                .filter(|_| self.verbose)
                .map(|bytes| format!("{} MiB", bytes.div_ceil(1 << 20))),
        );
        // What was measured comes before what was counted and what was named.
        let mut facts: Vec<_> = facts.iter().collect();
        facts.sort_by_key(|(_, value)| (!value.is_f64(), !value.is_number()));
        parts.extend(
            facts
                .into_iter()
                .filter_map(|(name, value)| fact(name, value)),
        );
        let name = self.name(step);
        let room = self.rest(&name);
        for part in parts {
            let grown = format!("{text}  {part}");
            if !self.verbose && grown.chars().count() > room {
                text.push_str(" …");
                break;
            }
            text = grown;
        }
        text
    }

    fn failure(&self, error: &StepError, log_tail: &[String], log: Option<&Path>) -> Vec<String> {
        let problem = Problem::from(error).render(&self.palette);
        let mut lines: Vec<String> = problem.lines().map(str::to_owned).collect();
        if let Some(log) = log {
            let tail = match log_tail.len() {
                0 => "",
                _ => ", which ends with",
            };
            let head = paint(self.palette.strong, "log:");
            let log = log.strip_prefix(&self.folder).unwrap_or(log);
            lines.push(format!("{head} {}{tail}", log.display()));
        }
        let bar = paint(self.palette.dim, "|");
        lines.extend(
            log_tail
                .iter()
                .map(|line| format!("  {bar} {}", clean(line))),
        );
        lines
    }

    fn ended(&self, summary: &Summary, seconds: f64) -> Vec<String> {
        let mut lines = Vec::new();
        if self.failed.len() > 1 {
            let names: Vec<&str> = self.failed.iter().map(StepName::as_str).collect();
            let text = format!("failed: {}", names.join(", "));
            lines.push(cut(&text, self.width));
        }
        let style = match summary {
            summary if summary.complete() => self.palette.good,
            summary if summary.failed > 0 => self.palette.bad,
            _ => self.palette.warn,
        };
        let title = paint(style, format!("{}:", self.title));
        let took = duration(seconds);
        lines.push(format!("{title} {} in {took}", tally(summary)));
        lines
    }
}

/// `14 steps: 3 ran, 1 restored, 10 up to date`; what is zero is left out.
fn tally(summary: &Summary) -> String {
    let parts = [
        (summary.ran, "ran"),
        (summary.restored, "restored"),
        (summary.up_to_date, "up to date"),
        (summary.failed, "failed"),
        (summary.skipped, "skipped"),
        (summary.cancelled, "stopped"),
    ];
    let total = parts.iter().map(|(n, _)| n).sum();
    let told: Vec<String> = parts
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{n} {what}"))
        .collect();
    match total {
        0 => "nothing to do".to_owned(),
        total => format!("{}: {}", count(total, "step"), told.join(", ")),
    }
}

/// How far a step is: `120/600  20 %  loss 2.31`.
pub(super) fn progress(progress: &Progress) -> String {
    let Progress {
        done,
        total,
        message,
    } = progress;
    let mut parts = Vec::new();
    if *total > 0 {
        let percent = (*done).min(*total) as f64 / *total as f64 * 100.0;
        parts.push(format!("{done}/{total}  {percent:.0} %"));
    } else if *done > 0 {
        parts.push(done.to_string());
    }
    if !message.is_empty() {
        parts.push(clean(message));
    }
    parts.join("  ")
}

/// `name value` for values that fit on a line.
fn fact(name: &str, value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => clean(text),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.to_string(),
            (None, Some(real)) => significant(real),
            (None, None) => number.to_string(),
        },
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    Some(format!("{} {text}", name.replace('_', " ")))
}

/// Four significant digits.
fn significant(x: f64) -> String {
    let magnitude = x.abs();
    if magnitude != 0.0 && !(1e-3..1e6).contains(&magnitude) {
        return format!("{x:.3e}");
    }
    let digits = match magnitude {
        m if m < 10.0 => 3,
        m if m < 100.0 => 2,
        m if m < 1000.0 => 1,
        _ => 0,
    };
    format!("{x:.digits$}")
}

/// `1 step`, `3 steps`.
pub fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// `512 B`, `1.5 KiB`, `20.0 GiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut size = n as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// Seconds as a person says them: `0.02 s`, `12.3 s`, `1 min 05 s`, `2 h 03 min`.
pub fn duration(seconds: f64) -> String {
    // As many whole seconds as `Duration` would hold are enough.
    let whole = seconds.round() as u64;
    if seconds < 0.995 {
        format!("{:.2} s", seconds.max(0.0))
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else if whole < 3600 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        format!("{} h {:02} min", whole / 3600, whole % 3600 / 60)
    }
}

/// How long ago something was: `12 s`, `5 min`, `3 h`, `12 d`.
pub fn ago(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes() {
        for (seconds, text) in [
            (-3.0, "0 s"),
            (59.9, "59 s"),
            (60.0, "1 min"),
            (7200.0, "2 h"),
            (4e5, "4 d"),
        ] {
            assert_eq!(ago(seconds), text);
        }
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 20, "1.0 MiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn durations() {
        for (seconds, text) in [
            (-1.0, "0.00 s"),
            (0.004, "0.00 s"),
            (0.996, "1.0 s"),
            (12.34, "12.3 s"),
            (59.96, "1 min 00 s"),
            (65.0, "1 min 05 s"),
            (7_380.0, "2 h 03 min"),
            (f64::NAN, "0 min 00 s"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn sizes() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (20 << 30, "20.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn numbers() {
        for (x, text) in [
            (0.0, "0.000"),
            (2.31468, "2.315"),
            (-31.46, "-31.46"),
            (5100.4, "5100"),
            (0.00005, "5.000e-5"),
            (12_345_678.9, "1.235e7"),
        ] {
            assert_eq!(significant(x), text);
        }
    }
}
