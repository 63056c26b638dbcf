//! `retune log`: what a step printed when it last ran, or prints now.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::Session;
use super::args::Log;
use super::exit::Exit;
use super::problem::Failure;
use crate::files::{self, FileError};
use crate::ops::{self, Following, LogSource, OpsError, StepLog, Workspace};

/// How often a log that is followed is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct Printed<'a> {
    #[serde(flatten)]
    log: &'a StepLog,
    text: String,
    #[serde(skip)]
    bytes: Vec<u8>,
}

pub(super) fn run(session: &Session, args: &Log) -> Result<Exit, Failure> {
    let workspace = session.workspace()?;
    if args.follow && follow(session, &workspace, &args.step)? {
        return Ok(Exit::Fine);
    }
    let run = args.run.as_deref();
    let logs = ops::logs(&workspace, &session.overrides(), &args.step, run)?;
    let printed = logs.iter().map(printed);
    let printed: Vec<Printed<'_>> = printed
        .collect::<Result<_, FileError>>()
        .map_err(OpsError::File)?;
    match &printed[..] {
        [only] if args.json => session.output.print_json(only)?,
        all if args.json => session.output.print_json(&all)?,
        [only] => print(session, only)?,
        several => {
            for printed in several {
                session
                    .output
                    .print(&format!("==> {} <==\n", printed.log.step))?;
                print(session, printed)?;
            }
        }
    }
    Ok(Exit::Fine)
}

fn printed(log: &StepLog) -> Result<Printed<'_>, FileError> {
    let bytes = match &log.source {
        LogSource::File(path) => files::read(path)?,
        LogSource::Stored(bytes) => bytes.clone(),
        LogSource::Nothing => Vec::new(),
    };
    Ok(Printed {
        log,
        text: String::from_utf8_lossy(&bytes).into_owned(),
        bytes,
    })
}

fn print(session: &Session, printed: &Printed<'_>) -> io::Result<()> {
    session.output.print_bytes(&printed.bytes)?;
    if printed.bytes.is_empty() {
        let step = &printed.log.step;
        session.output.say(&format!("{step} printed nothing\n"));
    }
    Ok(())
}

/// Prints what a step prints until it ends, through all its attempts; false if
/// it is not going to run.
fn follow(session: &Session, workspace: &Workspace, step: &str) -> Result<bool, Failure> {
    let Some(mut now) = ops::following(workspace, step, None)? else {
        return Ok(false);
    };
    let run = now.run.clone();
    let look = || ops::following(workspace, step, Some(&run));
    // What has ended before the first look is not followed any more.
    let before = now.attempts.len() - usize::from(now.running);
    let mut printed = before;
    loop {
        while let Some(log) = now.attempts.get(printed) {
            let running = now.running && printed + 1 == now.attempts.len();
            let goes_on = || match look() {
                Ok(Some(now)) => now.running && now.attempts.len() == printed + 1,
                _ => false,
            };
            let whole = match running {
                true => print_growing(session, log, goes_on)?,
                false => print_whole(session, log)?,
            };
            if !whole {
                break;
            }
            printed += 1;
        }
        if now.over {
            return Ok(printed > before);
        }
        std::thread::sleep(LOOK_EVERY);
        now = look()?.unwrap_or(Following { over: true, ..now });
    }
}

/// Prints a file that grows until it does not `go_on` and all of it is
/// printed; false if it was moved too soon. It may be moved meanwhile.
fn print_growing(session: &Session, path: &Path, goes_on: impl Fn() -> bool) -> io::Result<bool> {
    let Ok(mut file) = File::open(path) else {
        return Ok(false);
    };
    // By now the place may be another step's, and so the file.
    if !goes_on() {
        return Ok(false);
    }
    loop {
        let last = !goes_on();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        session.output.print_bytes(&bytes)?;
        if last {
            return Ok(true);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Prints the log of an attempt that has ended. It may have printed nothing.
fn print_whole(session: &Session, path: &Path) -> io::Result<bool> {
    if let Ok(bytes) = fs::read(path) {
        session.output.print_bytes(&bytes)?;
    }
    Ok(true)
}
