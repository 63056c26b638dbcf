//! Everything that ends a command early: how it is shown, and which exit code it gives.

use std::io;

use super::exit::Exit;
use super::output::EventsError;
use crate::ops::{InitError, OpsError, WatchError};
use crate::report::{Palette, Problem};

/// Why a command could not do its work.
#[derive(Debug)]
pub enum Failure {
    /// What was asked for could not be done.
    Ops(OpsError),
    /// The loop of `watch` ended.
    Watch(WatchError),
    /// The quick start could not be written.
    Init(InitError),
    /// The events could not be written.
    Events(EventsError),
    /// Results could not be written.
    Output(io::Error),
    /// Signals could not be handled.
    Signals(io::Error),
}

impl Failure {
    /// How the command ends.
    pub fn exit(&self) -> Exit {
        match self {
            Failure::Ops(error) => ops_exit(error),
            Failure::Init(InitError::Exists { .. }) => Exit::Usage,
            Failure::Watch(_)
            | Failure::Init(_)
            | Failure::Events(_)
            | Failure::Output(_)
            | Failure::Signals(_) => Exit::System,
        }
    }

    /// What a person reads.
    pub fn render(&self, palette: &Palette) -> String {
        let problem = match self {
            Failure::Ops(error) => return render_ops(error, palette),
            Failure::Watch(error) => with_hint(Problem::of(error), error.hint()),
            Failure::Init(error) => with_hint(Problem::of(error), error.hint()),
            Failure::Events(error) => Problem::of(error),
            Failure::Output(error) => Problem {
                causes: vec![error.to_string()],
                ..Problem::new("failed to write the result")
            },
            Failure::Signals(error) => Problem {
                causes: vec![error.to_string()],
                ..Problem::new("failed to listen to signals")
            },
        };
        problem.render(palette)
    }
}

fn with_hint(problem: Problem, hint: Option<&str>) -> Problem {
    match hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// The exit code of an error of the operations.
fn ops_exit(error: &OpsError) -> Exit {
    match error {
        OpsError::Pipeline(_) => Exit::Pipeline,
        OpsError::System(_) => Exit::System,
    }
}

/// An error of the operations as a person reads it.
pub fn render_ops(error: &OpsError, palette: &Palette) -> String {
    match error {
        OpsError::Pipeline(diagnostics) => diagnostics.render(palette.colour) + "\n",
        error => Problem::of(error).render(palette),
    }
}

macro_rules! from {
    ($error:ty, $variant:ident) => {
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Failure::$variant(error)
            }
        }
    };
}

from!(OpsError, Ops);
from!(WatchError, Watch);
from!(InitError, Init);
from!(EventsError, Events);
from!(io::Error, Output);
