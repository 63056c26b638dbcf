//! The log of a run, `cache/runs/RUN/events.jsonl`: written line by line as the run goes, so that a kill loses at most the last line.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::event::{Event, Sink, Stamped};
use crate::files::{self, FileError, PathContext};
use crate::pipeline::{PipelineName, StepName};
use crate::plan::{Key, Verdict};

/// The version of `events.jsonl`.
///
/// 1: a line with a [`RunHeader`], then events as `--events` writes them,
/// without progress, and lines of `UpToDate` in place of those decisions.
pub const RUN_FORMAT: u32 = 1;

/// The folder of all runs in the store's folder.
pub const RUNS: &str = "runs";
/// The log's name in a run's folder.
pub(super) const EVENTS: &str = "events.jsonl";

/// The first line of a run's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunHeader {
    /// The version of the format.
    pub format: u32,
    /// The run's name; names sort by time.
    pub run: String,
    /// What the user asked for: `build`, `watch`, …
    pub verb: String,
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The steps asked for; none means all.
    pub targets: Vec<String>,
    /// The process.
    pub pid: u32,
    /// When it began, RFC 3339 in UTC.
    pub started: String,
}

/// Steps that were found up to date, with their keys: thousands of them in a
/// line, for most runs find most steps so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct UpToDate {
    #[serde(rename = "up-to-date")]
    pub steps: Vec<(StepName, Key)>,
}

/// Writes a run's log. A run that does nothing leaves no trace: the file is
/// made when the first step is begun, put back or given up.
pub struct RunLog {
    folder: PathBuf,
    header: RunHeader,
    clock: fn() -> jiff::Timestamp,
    file: Option<File>,
    /// Steps found up to date since the last line.
    up_to_date: UpToDate,
    /// The lines of what was told before there was reason to make the file.
    early: Vec<u8>,
    error: Option<FileError>,
}

impl RunLog {
    /// The log of a run that begins now.
    pub fn new(cache: &Path, header: RunHeader) -> Self {
        RunLog {
            folder: cache.join(RUNS).join(&header.run),
            header,
            clock: jiff::Timestamp::now,
            file: None,
            up_to_date: UpToDate { steps: Vec::new() },
            early: Vec::new(),
            error: None,
        }
    }

    /// The first error; nothing was written after it, and the run went on.
    pub fn into_error(self) -> Option<FileError> {
        self.error
    }

    fn stamped<'a>(&self, event: &'a Event) -> Stamped<&'a Event> {
        Stamped {
            time: stamp((self.clock)()),
            event,
        }
    }

    fn open(&mut self) -> Result<&mut File, FileError> {
        let path = self.folder.join(EVENTS);
        files::create_dir(&self.folder)?;
        let mut file = files::create(&path)?;
        let mut lines = line(&self.header);
        lines.append(&mut self.early);
        file.write_all(&lines).on("write", &path)?;
        Ok(self.file.insert(file))
    }

    fn write(&mut self, event: &Event) -> Result<(), FileError> {
        let mut lines = Vec::new();
        if !self.up_to_date.steps.is_empty() {
            lines.extend(line(&self.up_to_date));
            self.up_to_date.steps.clear();
        }
        lines.extend(line(&self.stamped(event)));
        let file = match self.file.as_mut() {
            Some(file) => file,
            None => self.open()?,
        };
        let written = file.write_all(&lines);
        written.on("write", &self.folder.join(EVENTS))
    }
}

/// RFC 3339 in UTC, to the millisecond.
pub fn stamp(time: jiff::Timestamp) -> String {
    format!("{time:.3}")
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("plain data");
    line.push(b'\n');
    line
}

impl Sink for RunLog {
    fn event(&mut self, event: &Event) {
        if self.error.is_some() {
            return;
        }
        match event {
            Event::StepDecided {
                step,
                key,
                verdict: Verdict::UpToDate,
            } => self.up_to_date.steps.push((step.clone(), *key)),
            Event::StepProgress { .. } | Event::PhaseEnded { .. } => {}
            // A run that is refused before it does anything has done nothing.
            Event::Waiting { .. }
            | Event::RunStarted { .. }
            | Event::Warning { .. }
            | Event::StepDecided { .. }
                if self.file.is_none() =>
            {
                let early = line(&self.stamped(event));
                self.early.extend(early);
            }
            Event::RunFinished { .. } if self.file.is_none() => {}
            event => self.error = self.write(event).err(),
        }
    }
}
