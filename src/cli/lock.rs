//! `retune lock`: checks the lock file, makes it anew, or merges two for git.

use super::Session;
use super::args::Lock;
use super::exit::Exit;
use super::problem::Failure;
use crate::ops::{self, LockReport, LockStanding};
use crate::pipeline::StepName;
use crate::report::count;

pub(super) fn run(session: &Session, args: &Lock) -> Result<Exit, Failure> {
    if let Some([base, ours, theirs]) = args.merge.as_deref() {
        let conflicts = ops::merge_locks(base, ours, theirs)?;
        return merged(session, &conflicts);
    }
    let workspace = session.workspace()?;
    let overrides = session.overrides();
    let report = match args.repair {
        true => ops::repair_lock(&workspace, &overrides)?,
        false => ops::check_lock(&workspace, &overrides)?,
    };
    let output = &session.output;
    match args.json {
        true => output.print_json(&report)?,
        false => output.print(&text(&report))?,
    }
    output.say(&verdict(&report, args.repair));
    Ok(match args.repair || report.is_current() {
        true => Exit::Fine,
        false => Exit::Stale,
    })
}

fn merged(session: &Session, conflicts: &[StepName]) -> Result<Exit, Failure> {
    if conflicts.is_empty() {
        return Ok(Exit::Fine);
    }
    let names: Vec<&str> = conflicts.iter().map(StepName::as_str).collect();
    session.output.say(&format!(
        "both sides changed {}: {}\n`retune lock --repair` settles it when the rest of the merge is done\n",
        count(conflicts.len(), "step"),
        names.join(", ")
    ));
    Ok(Exit::Failed)
}

/// The steps of which there is something to say.
fn text(report: &LockReport) -> String {
    let said = |finding: &ops::LockFinding| {
        let words = words(&finding.standing)?;
        Some(format!("{}: {words}\n", finding.step))
    };
    report.steps.iter().filter_map(said).collect()
}

fn words(standing: &LockStanding) -> Option<String> {
    Some(match standing {
        LockStanding::Known | LockStanding::FromStore => return None,
        LockStanding::Unknown { waits_for } => {
            let names: Vec<&str> = waits_for.iter().map(StepName::as_str).collect();
            format!("cannot be told before {} built", built(&names))
        }
        LockStanding::Other { locked, now } => format!(
            "the lock file has key {}, and it is {} now",
            locked.short(),
            now.short()
        ),
        LockStanding::OtherOutputs => {
            "the same key as in the lock file, and other outputs".to_owned()
        }
        LockStanding::Absent => "not in the lock file".to_owned(),
        LockStanding::Gone => "in the lock file, and not in the pipeline".to_owned(),
        LockStanding::Kept => {
            "kept: the store has no result, and the lock file one for this key".to_owned()
        }
        LockStanding::KeptAsIs => {
            "kept as it was: its key cannot be told before its inputs are built".to_owned()
        }
        LockStanding::LeftOut => "left out: nothing is certain before it is built".to_owned(),
    })
}

fn built(names: &[&str]) -> String {
    match names {
        [name] => format!("{name} is"),
        names => format!("{} are", names.join(", ")),
    }
}

fn verdict(report: &LockReport, repaired: bool) -> String {
    let of = |wanted: fn(&LockStanding) -> bool| {
        let steps = report.steps.iter();
        steps.filter(|finding| wanted(&finding.standing)).count()
    };
    let steps = count(report.steps.len(), "step");
    if !repaired {
        return match report.is_current() {
            true => format!("{steps}: the lock file says what is\n"),
            false => format!("{steps}: the lock file does not say what is\n"),
        };
    }
    let store = of(|standing| *standing == LockStanding::FromStore);
    let out = of(|standing| *standing == LockStanding::LeftOut);
    let kept = report.steps.len() - store - out;
    let written = match report.written {
        true => "",
        false => "; the file was right",
    };
    let build = match out {
        0 => "",
        _ => "\n`retune build` adds what was left out",
    };
    format!("{steps}: {store} from the store, {kept} kept, {out} left out{written}{build}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::LockFinding;

    #[test]
    fn only_what_is_not_as_it_should_be_is_told() {
        let finding = |step: &str, standing| LockFinding {
            step: step.parse().unwrap(),
            standing,
        };
        let waits_for = vec!["a".parse().unwrap(), "b".parse().unwrap()];
        let report = LockReport {
            steps: vec![
                finding("a", LockStanding::FromStore),
                finding("b", LockStanding::LeftOut),
                finding("c", LockStanding::KeptAsIs),
                finding("d", LockStanding::Unknown { waits_for }),
            ],
            written: true,
        };
        insta::assert_snapshot!(text(&report), @"
        b: left out: nothing is certain before it is built
        c: kept as it was: its key cannot be told before its inputs are built
        d: cannot be told before a, b are built
        ");
        insta::assert_snapshot!(verdict(&report, true), @"
        4 steps: 1 from the store, 2 kept, 1 left out
        `retune build` adds what was left out
        ");
    }
}
