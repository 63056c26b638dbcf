//! The two streams: results on standard output, reporters and problems on standard error.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Instant;

use anstream::{AutoStream, ColorChoice};
use serde::Serialize;

use super::args::{Color, Global, Run};
use crate::event::{Event, Sink};
use crate::files::{self, FileError};
use crate::report::{Bars, JsonLines, Palette, Plain, Profile, Tee, Words};

/// What is known of the streams.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Styles of standard output.
    pub out: Palette,
    /// Styles of standard error.
    pub err: Palette,
    /// Columns for tables and lines.
    pub width: usize,
    verbose: bool,
}

/// Columns where nothing is known.
const WIDTH: usize = 80;

impl Output {
    /// Looks at the streams, at `--color` and at the environment's wishes.
    pub fn new(global: &Global) -> Self {
        match global.color {
            Color::Auto => ColorChoice::Auto,
            Color::Always => ColorChoice::Always,
            Color::Never => ColorChoice::Never,
        }
        .write_global();
        let colour = |choice| Palette::new(choice != ColorChoice::Never);
        Output {
            out: colour(AutoStream::choice(&io::stdout())),
            err: colour(AutoStream::choice(&io::stderr())),
            width: terminal_width().unwrap_or(WIDTH),
            verbose: global.verbose,
        }
    }

    /// Writes a result. That the reader has gone (`| head`) is no error.
    pub fn print(&self, text: &str) -> io::Result<()> {
        self.print_bytes(text.as_bytes())
    }

    /// Writes a result that may be anything.
    pub fn print_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// Writes a result as JSON.
    pub fn print_json(&self, value: &impl Serialize) -> io::Result<()> {
        self.print(&(serde_json::to_string_pretty(value)? + "\n"))
    }

    /// Says something to a person.
    pub fn say(&self, text: &str) {
        // There is nowhere left to complain to.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    /// Runs `work` with the reporters that the options ask for.
    pub fn report<T>(
        &self,
        run: &Run,
        work: impl FnOnce(&mut dyn Sink) -> T,
    ) -> Result<T, EventsError> {
        let mut screen = self.screen(run.quiet);
        let events = run.events.as_deref().map(events_file).transpose()?;
        let mut lines = events.map(|file| JsonLines::new(file, jiff::Timestamp::now));
        let profile = run.profile.as_deref().map(files::create).transpose()?;
        let start = Instant::now();
        let mut profile = profile.map(|file| (file, Profile::new(move || start.elapsed())));
        let mut sinks = Tee::new().with(&mut *screen);
        if let Some(lines) = &mut lines {
            sinks = sinks.with(lines);
        }
        if let Some((_, profile)) = &mut profile {
            sinks = sinks.with(profile);
        }
        let result = work(&mut sinks);
        drop(sinks);
        drop(screen);
        lines
            .map_or(Ok(()), JsonLines::finish)
            .map_err(EventsError::Write)?;
        if let Some((mut file, profile)) = profile {
            let written = file.write_all(profile.into_json().as_bytes());
            written.map_err(EventsError::Profile)?;
        }
        Ok(result)
    }

    fn screen(&self, quiet: bool) -> Box<dyn Sink> {
        let here = std::env::current_dir().unwrap_or_default();
        let words = Words::new(self.err, self.width, self.verbose).relative_to(here);
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if io::stderr().is_terminal() && !quiet && !dumb {
            return Box::new(Bars::new(words));
        }
        let start = Instant::now();
        let plain = Plain::new(io::stderr(), words, move || start.elapsed());
        if quiet {
            Box::new(Quiet(plain))
        } else {
            Box::new(plain)
        }
    }
}

/// The columns of the terminal that either stream is.
fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stderr())
        .or_else(|_| rustix::termios::tcgetwinsize(io::stdout()));
    size.ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|&columns| columns > 0)
}

/// Lets only failures and warnings through.
struct Quiet<S>(S);

impl<S: Sink> Sink for Quiet<S> {
    fn event(&mut self, event: &Event) {
        if let Event::StepFailed { .. }
        | Event::Warning { .. }
        | Event::NotReproducible { .. }
        | Event::OutputSetAside { .. } = event
        {
            self.0.event(event);
        }
    }
}

/// The file of events could not be written.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// It could not be created.
    #[error(transparent)]
    Create(#[from] FileError),
    /// A line could not be written; the run itself went on.
    #[error("failed to write the events")]
    Write(#[source] io::Error),
    /// The trace could not be written; the run itself went on.
    #[error("failed to write the profile")]
    Profile(#[source] io::Error),
}

fn events_file(path: &Path) -> Result<Box<dyn Write>, FileError> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    let file: File = files::create(path)?;
    Ok(Box::new(file))
}
