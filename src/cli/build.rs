//! `retune build`: brings steps up to date.

use std::sync::atomic::Ordering;

use super::args::{Build, Machine, Run};
use super::exit::Exit;
use super::problem::Failure;
use super::{Session, signals};
use crate::event::Summary;
use crate::ops::{self, BuildOptions, Limits};

pub(super) fn run(session: &Session, args: &Build) -> Result<Exit, Failure> {
    let workspace = session.workspace()?;
    let mut options = options(session, &args.run, false);
    options.limits = limits(&args.run, &args.machine);
    let stop = signals::stop_on_signals().map_err(Failure::Signals)?;
    let summary = session.output.report(&args.run, |sink| {
        ops::build(&workspace, &options, &stop, sink)
    })??;
    Ok(exit(&summary, stop.load(Ordering::Relaxed)))
}

/// The options of a build as the command line gives them.
pub(super) fn options(session: &Session, run: &Run, from_watch: bool) -> BuildOptions {
    BuildOptions {
        targets: run.targets.clone(),
        limits: limits(run, &Machine::default()),
        keep_going: run.keep_going,
        force: run.force.clone(),
        overrides: session.overrides(),
        grace: run.grace,
        from_watch,
        phases: run.profile.is_some(),
        last: !from_watch,
    }
}

/// What may be handed out to steps.
pub(super) fn limits(run: &Run, machine: &Machine) -> Limits {
    Limits {
        jobs: run.jobs.unwrap_or_else(crate::step::processors),
        cpus: machine.cpus,
        memory: machine.memory,
        gpus: machine.gpus.clone().map(|list| list.0),
        pools: machine.pool.iter().cloned().collect(),
    }
}

/// How a command that ran steps ends.
pub(super) fn exit(summary: &Summary, stopped: bool) -> Exit {
    if summary.failed > 0 {
        Exit::Failed
    } else if stopped && !summary.complete() {
        Exit::Interrupted
    } else if !summary.complete() {
        Exit::Failed
    } else {
        Exit::Fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_of_a_build() {
        let summary = |failed, skipped, cancelled| Summary {
            failed,
            skipped,
            cancelled,
            ran: 1,
            ..Summary::default()
        };
        assert_eq!(exit(&summary(0, 0, 0), false), Exit::Fine);
        assert_eq!(
            exit(&summary(0, 0, 0), true),
            Exit::Fine,
            "it came too late"
        );
        assert_eq!(exit(&summary(1, 2, 0), false), Exit::Failed);
        assert_eq!(exit(&summary(1, 0, 1), true), Exit::Failed);
        assert_eq!(exit(&summary(0, 0, 1), true), Exit::Interrupted);
    }
}
