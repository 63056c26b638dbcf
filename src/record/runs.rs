//! Runs as their logs tell of them: listing, naming and reading them back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::run_log::{EVENTS, RUN_FORMAT, RUNS, RunHeader, UpToDate};
use crate::event::{Event, Stamped, Summary};
use crate::files::{self, FileError, PathContext};
use crate::hash::Digest;
use crate::pipeline::StepName;
use crate::plan::Key;

/// A run cannot be told of.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no run at all.
    #[error("there is no run yet")]
    None,
    /// No run has that name.
    #[error("there is no run '{0}'")]
    NoSuch(String),
    /// Several runs have names that begin so.
    #[error("there are {count} runs whose names begin with '{name}'")]
    Ambiguous {
        /// As given.
        name: String,
        /// How many.
        count: usize,
    },
    /// Its log does not begin as one does.
    #[error("{} is not the log of a run", .0.display())]
    Damaged(PathBuf),
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The names of all runs that have a log, oldest first.
pub fn list_runs(cache: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(cache.join(RUNS)) else {
        return Vec::new();
    };
    let name = |entry: fs::DirEntry| {
        let logged = entry.path().join(EVENTS).is_file();
        logged.then(|| entry.file_name().into_string().ok())?
    };
    let mut names: Vec<String> = entries.flatten().filter_map(name).collect();
    names.sort();
    names
}

/// The name of the run that `wanted` stands for: its name, the beginning of it
/// where only one begins so, `last`, or `last~1` for the one before.
pub fn find_run(cache: &Path, wanted: &str) -> Result<String, RunError> {
    let names = list_runs(cache);
    if let Some(back) = back(wanted) {
        if names.is_empty() {
            return Err(RunError::None);
        }
        let at = names.len().checked_sub(back.saturating_add(1));
        let found = at.map(|at| names[at].clone());
        return found.ok_or_else(|| RunError::NoSuch(wanted.to_owned()));
    }
    let matching: Vec<&String> = names.iter().filter(|n| n.starts_with(wanted)).collect();
    match &matching[..] {
        _ if wanted.is_empty() => Err(RunError::NoSuch(String::new())),
        [] => Err(RunError::NoSuch(wanted.to_owned())),
        [only] => Ok((*only).clone()),
        several => match several.iter().find(|name| **name == wanted) {
            Some(exact) => Ok((*exact).clone()),
            None => Err(RunError::Ambiguous {
                name: wanted.to_owned(),
                count: several.len(),
            }),
        },
    }
}

/// How many runs before the last one `last`, `last~` and `last~N` mean.
fn back(wanted: &str) -> Option<usize> {
    match wanted.strip_prefix("last")? {
        "" => Some(0),
        rest => match rest.strip_prefix('~')? {
            "" => Some(1),
            n => n.parse().ok(),
        },
    }
}

/// How a run went, as far as its log says.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRecord {
    /// What it was.
    pub header: RunHeader,
    /// The steps it decided about, skipped or stopped.
    pub steps: BTreeMap<StepName, StepInRun>,
    /// How many steps ended how, and the seconds it took; none for a run that
    /// goes on or was killed.
    pub end: Option<(Summary, f64)>,
    /// All that happened, without progress and up-to-date steps.
    pub events: Vec<Stamped>,
}

/// A step in a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StepInRun {
    /// What its result is stored under; none for a step that was not decided.
    pub key: Option<Key>,
    /// How it ended.
    pub end: StepEnd,
    /// When it was last started, RFC 3339 in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// The numbers of the attempts that were begun, as they were.
    #[serde(skip)]
    pub attempts: Vec<u32>,
    /// The work folder it was last given, relative to the store's.
    #[serde(skip)]
    pub work: Option<PathBuf>,
    /// The record of what it did, an object of the store; none where it did
    /// not run to its end, or an older program ran it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<Digest>,
    /// How long it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// How a step ended in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepEnd {
    /// Nothing was to be done.
    UpToDate,
    /// Its outputs were put back from the store.
    Restored,
    /// It ran and finished.
    Ran,
    /// It ran, or tried to, and failed.
    Failed,
    /// It was not tried because an input failed.
    Skipped,
    /// It was stopped, or not begun, on the user's request.
    Cancelled,
    /// The log ends while it ran.
    Running,
    /// The log ends before it was begun.
    #[default]
    Open,
}

impl RunRecord {
    /// Reads the log of a run. What it ends with in the middle of a line, and
    /// events that only a newer program knows, are passed over.
    pub fn read(cache: &Path, run: &str) -> Result<Self, RunError> {
        let path = cache.join(RUNS).join(run).join(EVENTS);
        let bytes = files::read(&path)?;
        let mut lines = whole_lines(&bytes);
        let header = lines.next().and_then(header);
        let mut record = RunRecord {
            header: header.ok_or(RunError::Damaged(path))?,
            steps: BTreeMap::new(),
            end: None,
            events: Vec::new(),
        };
        lines.for_each(|line| record.line(line));
        Ok(record)
    }

    fn line(&mut self, line: &[u8]) {
        if let Ok(UpToDate { steps }) = serde_json::from_slice(line) {
            for (step, key) in steps {
                self.step(&step, StepEnd::UpToDate).key = Some(key);
            }
        } else if let Ok(stamped) = serde_json::from_slice::<Stamped>(line) {
            self.event(&stamped);
            self.events.push(stamped);
        }
    }

    fn step(&mut self, step: &StepName, end: StepEnd) -> &mut StepInRun {
        let step = self.steps.entry(step.clone()).or_default();
        step.end = end;
        step
    }

    fn event(&mut self, Stamped { time, event }: &Stamped) {
        match event {
            Event::StepDecided { step, key, .. } => {
                self.step(step, StepEnd::Open).key = Some(*key);
            }
            Event::StepStarted {
                step,
                key,
                work,
                attempt,
                ..
            } => {
                let step = self.step(step, StepEnd::Running);
                step.attempts.push(*attempt);
                step.key = Some(*key);
                step.work = work.clone();
                step.started = Some(time.clone());
            }
            Event::StepFinished {
                step,
                key,
                seconds,
                record,
                ..
            } => {
                let step = self.step(step, StepEnd::Ran);
                step.key = Some(*key);
                step.record = *record;
                step.seconds = Some(*seconds);
            }
            Event::StepRetried { step, .. } => self.step(step, StepEnd::Open).seconds = None,
            Event::StepRestored { step, key } => {
                self.step(step, StepEnd::Restored).key = Some(*key);
            }
            Event::StepFailed { step, .. } => drop(self.step(step, StepEnd::Failed)),
            Event::StepSkipped { step, .. } => drop(self.step(step, StepEnd::Skipped)),
            Event::StepCancelled { step, .. } => drop(self.step(step, StepEnd::Cancelled)),
            Event::RunFinished { summary, seconds } => self.end = Some((*summary, *seconds)),
            _ => {}
        }
    }
}

/// A run in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct RunLine {
    /// What it was.
    pub header: RunHeader,
    /// How it ended; none for a run that goes on or was killed.
    pub end: Option<(Summary, f64)>,
}

/// How much of a log's end is looked at for the run's end.
const TAIL: u64 = 4096;

impl RunLine {
    /// Reads the first and the last line of a log, however long it is.
    pub fn read(cache: &Path, run: &str) -> Result<Self, RunError> {
        let path = cache.join(RUNS).join(run).join(EVENTS);
        let mut file = files::open(&path)?;
        let (head, tail) = ends(&mut file).on("read", &path)?;
        let header = whole_lines(&head).next().and_then(header);
        let last = whole_lines(&tail).last();
        let last = last.and_then(|line| serde_json::from_slice::<Stamped>(line).ok());
        Ok(RunLine {
            header: header.ok_or(RunError::Damaged(path))?,
            end: match last.map(|stamped| stamped.event) {
                Some(Event::RunFinished { summary, seconds }) => Some((summary, seconds)),
                _ => None,
            },
        })
    }
}

/// The first bytes of a file up to a whole line, and its last bytes.
fn ends(file: &mut File) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.contains(&b'\n') {
        if file.take(TAIL).read_to_end(&mut head)? == 0 {
            break;
        }
    }
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok((head, tail))
}

fn header(line: &[u8]) -> Option<RunHeader> {
    let header: RunHeader = serde_json::from_slice(line).ok()?;
    // What a newer program adds is passed over; what it changes cannot be read.
    (header.format <= RUN_FORMAT).then_some(header)
}

/// The lines that have their end: one that has not is still being written, or
/// was when its writer was killed.
fn whole_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let whole = bytes.iter().rposition(|b| *b == b'\n').unwrap_or(0);
    bytes[..whole].split(|b| *b == b'\n')
}

/// The log of a step in a run: what it printed.
pub fn step_log(cache: &Path, run: &str, step: &StepName) -> PathBuf {
    let folder = cache.join(RUNS).join(run);
    folder.join(format!("{}.log", step.file()))
}

/// The log of an attempt that another followed.
pub fn attempt_log(cache: &Path, run: &str, step: &StepName, attempt: u32) -> PathBuf {
    step_log(cache, run, step).with_extension(format!("attempt-{attempt}.log"))
}

#[cfg(test)]
mod tests {
    use super::super::run_log::RunLog;
    use super::*;
    use crate::event::Sink;
    use crate::plan::Verdict;

    fn name(text: &str) -> StepName {
        text.parse().unwrap()
    }

    fn key(text: &str) -> Key {
        Key(Digest::of(text.as_bytes()))
    }

    fn header(run: &str) -> RunHeader {
        RunHeader {
            format: RUN_FORMAT,
            run: run.into(),
            verb: "build".into(),
            pipeline: "p".parse().unwrap(),
            targets: Vec::new(),
            pid: 7,
            started: "2026-01-01T00:00:00.000Z".into(),
        }
    }

    fn up_to_date(step: &str) -> Event {
        Event::StepDecided {
            step: name(step),
            key: key(step),
            verdict: Verdict::UpToDate,
        }
    }

    fn restored(step: &str) -> Event {
        Event::StepRestored {
            step: name(step),
            key: key(step),
        }
    }

    fn finished() -> Event {
        Event::RunFinished {
            summary: Summary {
                restored: 1,
                up_to_date: 3,
                ..Summary::default()
            },
            seconds: 1.5,
        }
    }

    fn log(cache: &Path, run: &str, events: &[Event]) {
        let mut log = RunLog::new(cache, header(run));
        events.iter().for_each(|event| log.event(event));
        assert!(log.into_error().is_none());
    }

    #[test]
    fn a_run_comes_back_with_the_keys_of_all_steps() {
        let cache = tempfile::tempdir().unwrap();
        let events = [up_to_date("a"), up_to_date("b"), restored("c")];
        log(
            cache.path(),
            "1",
            &[&events[..], &[up_to_date("d"), finished()]].concat(),
        );
        let run = RunRecord::read(cache.path(), "1").unwrap();
        assert_eq!(run.header, header("1"));
        let steps = run.steps.iter();
        let steps: Vec<_> = steps.map(|(n, s)| (n.as_str(), s.end, s.key)).collect();
        use StepEnd::{Restored, UpToDate};
        assert_eq!(
            steps,
            [
                ("a", UpToDate),
                ("b", UpToDate),
                ("c", Restored),
                ("d", UpToDate)
            ]
            .map(|(n, end)| (n, end, Some(key(n))))
        );
        assert_eq!(run.end.unwrap().0.up_to_date, 3);
        let line = RunLine::read(cache.path(), "1").unwrap();
        assert_eq!((line.header, line.end), (run.header, run.end));
    }

    #[test]
    fn a_run_that_does_nothing_leaves_no_trace() {
        let cache = tempfile::tempdir().unwrap();
        log(cache.path(), "1", &[up_to_date("a"), finished()]);
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_torn_log_is_read_up_to_the_tear() {
        let cache = tempfile::tempdir().unwrap();
        let events = [restored("a"), up_to_date("b"), restored("c"), finished()];
        log(cache.path(), "1", &events);
        let path = cache.path().join("runs/1/events.jsonl");
        let whole = fs::read(&path).unwrap();
        let full = RunRecord::read(cache.path(), "1").unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            match RunRecord::read(cache.path(), "1") {
                Ok(part) => {
                    assert_eq!(part.end, None);
                    assert!(part.events.iter().eq(&full.events[..part.events.len()]));
                    assert_eq!(RunLine::read(cache.path(), "1").unwrap().end, None);
                }
                Err(error) => assert!(matches!(error, RunError::Damaged(_))),
            }
        }
    }

    #[test]
    fn runs_are_found_by_name_beginning_and_age() {
        let cache = tempfile::tempdir().unwrap();
        let find = |wanted: &str| find_run(cache.path(), wanted);
        assert!(matches!(find("last"), Err(RunError::None)));
        for run in ["20260101-1", "20260102-1", "20260102-12"] {
            log(cache.path(), run, &[restored("a")]);
        }
        for (wanted, found) in [
            ("last", "20260102-12"),
            ("last~0", "20260102-12"),
            ("last~", "20260102-1"),
            ("last~2", "20260101-1"),
            ("20260101", "20260101-1"),
            ("20260102-1", "20260102-1"),
        ] {
            assert_eq!(find(wanted).unwrap(), found, "{wanted}");
        }
        for wanted in ["last~3", "last~99999999999999999999", "2027", ""] {
            assert!(matches!(find(wanted), Err(RunError::NoSuch(_))), "{wanted}");
        }
        let several = find("20260102");
        assert!(matches!(several, Err(RunError::Ambiguous { count: 2, .. })));
    }

    #[test]
    fn a_newer_log_is_not_misread() {
        let cache = tempfile::tempdir().unwrap();
        log(cache.path(), "1", &[restored("a")]);
        let path = cache.path().join("runs/1/events.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("\"format\":1", "\"format\":2", 1)).unwrap();
        let read = RunRecord::read(cache.path(), "1");
        assert!(matches!(read, Err(RunError::Damaged(_))));
        let later = text + "{\"time\":\"t\",\"event\":\"something-new\"}\n";
        fs::write(&path, later).unwrap();
        let run = RunRecord::read(cache.path(), "1").unwrap();
        assert_eq!(run.events.len(), 1);
    }
}
