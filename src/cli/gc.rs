//! `retune gc`: what nothing needs any more, shown, and deleted on request.

use super::args::Gc;
use super::exit::Exit;
use super::problem::Failure;
use super::{Session, signals};
use crate::ops::{self, Amount, Garbage, GcOptions, GcReport};
use crate::report::{bytes, count};

pub(super) fn run(session: &Session, args: &Gc) -> Result<Exit, Failure> {
    let workspace = session.project()?;
    let options = GcOptions {
        delete: args.delete,
        keep_runs: args.keep_runs,
        max_size: args.max_size,
        edited: args.edited,
        overrides: session.overrides(),
    };
    let stop = signals::stop_on_signals().map_err(Failure::Signals)?;
    let report = ops::gc(&workspace, &options, &stop, &mut session.tell_of_waiting())?;
    let Some(report) = report else {
        return Ok(Exit::Interrupted);
    };
    let output = &session.output;
    match args.json {
        true => output.print_json(&report)?,
        false => output.print(&text(&report))?,
    }
    output.say(&notes(&report));
    Ok(match report.stopped {
        true => Exit::Interrupted,
        false => Exit::Fine,
    })
}

fn text(report: &GcReport) -> String {
    let mut text = String::new();
    for (what, amount) in &report.garbage {
        let Amount { count, bytes: size } = amount;
        let line = format!("{count:>8}  {:>11}  {}\n", bytes(*size), words(*what));
        text.push_str(&line);
    }
    text
}

fn words(what: Garbage) -> &'static str {
    match what {
        Garbage::Results => "results that no lock file, step or recent run needs",
        Garbage::Orphans => "objects that belong to no result",
        Garbage::Strays => "files that killed runs left between the objects",
        Garbage::Runs => "folders of logs of old runs",
        Garbage::Work => "work folders of killed runs",
        Garbage::Checkpoints => "checkpoints that no step can go on from",
        Garbage::Graphs => "cached graphs and snapshots of pipelines that are gone",
        Garbage::Damaged => "damaged files that were moved out of the way",
        Garbage::Edited => "folders of edited outputs that were set aside",
    }
}

fn notes(report: &GcReport) -> String {
    let total = bytes(report.bytes());
    let mut notes = match (report.deleted, report.garbage.is_empty()) {
        (_, true) => "nothing to delete\n".to_owned(),
        (true, false) if report.stopped => "stopped before all of it was deleted\n".to_owned(),
        (true, false) => format!("{total} deleted\n"),
        (false, false) => format!("{total} would go; `retune gc --delete` deletes it\n"),
    };
    let kept = &report.kept;
    notes.push_str(&format!(
        "{} ({}) kept: {}{}\n",
        count(kept.count, "result"),
        bytes(kept.bytes),
        count(report.lock_files, "lock file"),
        match report.branches {
            Some(n) => format!(" on disk and under {} of git", count(n, "name")),
            None => ", and no git repository to look for others in".to_owned(),
        }
    ));
    if report.edited_kept.count > 0 {
        notes.push_str(&format!(
            "{} of edited outputs stay in cache/edited; --edited deletes them, too\n",
            bytes(report.edited_kept.bytes)
        ));
    }
    if let Some(over) = report.over {
        notes.push_str(&format!(
            "what is needed is {} above --max-size\n",
            bytes(over)
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> GcReport {
        let amount = |count, bytes| Amount { count, bytes };
        GcReport {
            garbage: [
                (Garbage::Results, amount(12, 3 << 30)),
                (Garbage::Work, amount(1, 17)),
            ]
            .into(),
            kept: amount(19, 5 << 20),
            edited_kept: amount(1, 2048),
            lock_files: 2,
            branches: Some(3),
            over: Some(4096),
            ..GcReport::default()
        }
    }

    #[test]
    fn what_goes_and_what_stays() {
        insta::assert_snapshot!(text(&report()), @"
              12      3.0 GiB  results that no lock file, step or recent run needs
               1         17 B  work folders of killed runs
        ");
        insta::assert_snapshot!(notes(&report()), @"
        3.0 GiB would go; `retune gc --delete` deletes it
        19 results (5.0 MiB) kept: 2 lock files on disk and under 3 names of git
        2.0 KiB of edited outputs stay in cache/edited; --edited deletes them, too
        what is needed is 4.0 KiB above --max-size
        ");
    }

    #[test]
    fn nothing_and_all_done() {
        assert_eq!(
            notes(&GcReport::default()),
            "nothing to delete\n0 results (0 B) kept: 0 lock files, and no git repository to look for others in\n"
        );
        let done = GcReport {
            deleted: true,
            ..report()
        };
        assert!(notes(&done).starts_with("3.0 GiB deleted\n"));
    }
}
