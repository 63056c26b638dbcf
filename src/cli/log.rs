//! `retune log`: what a step printed when it last ran, or prints now.

use std::fs::File;
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

/// Prints what a step prints until it ends; false if it is not going to run.
fn follow(session: &Session, workspace: &Workspace, step: &str) -> Result<bool, Failure> {
    let mut seen = None;
    loop {
        match ops::following(workspace, step)? {
            Following::Nothing => return Ok(seen.is_some()),
            // It ended before the first look.
            Following::Ended(_) if seen.is_none() => return Ok(false),
            Following::Ended(started) if seen == started => return Ok(true),
            Following::Running { started, log } if seen.as_ref() != Some(&started) => {
                seen = Some(started.clone());
                let ended = || match ops::following(workspace, step) {
                    Ok(Following::Running { started: now, .. }) => now != started,
                    _ => true,
                };
                print_growing(session, &log, ended)?;
            }
            _ => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// Prints a file that grows until `ended` and all of it is printed. The file
/// may be moved meanwhile.
fn print_growing(session: &Session, path: &Path, ended: impl Fn() -> bool) -> io::Result<()> {
    let Ok(mut file) = File::open(path) else {
        return Ok(());
    };
    loop {
        let last = ended();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        session.output.print_bytes(&bytes)?;
        if last {
            return Ok(());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
