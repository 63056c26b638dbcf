//! `retune plan`: what a build would do, and why.

use std::collections::BTreeMap;

use super::Session;
use super::args::Plan;
use super::exit::Exit;
use super::problem::Failure;
use crate::ops::{self, BuildOptions};
use crate::plan::{PlannedStep, Verdict};
use crate::report;

pub(super) fn run(session: &Session, args: &Plan) -> Result<Exit, Failure> {
    let workspace = session.workspace()?;
    let options = BuildOptions {
        targets: args.targets.clone(),
        force: args.force.clone(),
        overrides: session.overrides(),
        last: true,
        ..BuildOptions::default()
    };
    let steps = ops::plan(&workspace, &options)?;
    let output = &session.output;
    if args.json {
        output.print_json(&steps)?;
    } else {
        output.print(&report::table(&steps, &output.out, output.width))?;
        output.say(&format!("{}\n", tally(&steps)));
    }
    let stale = steps.iter().any(|step| step.verdict != Verdict::UpToDate);
    Ok(if args.check && stale {
        Exit::Stale
    } else {
        Exit::Fine
    })
}

/// `14 steps: 3 run, 11 up to date`.
fn tally(steps: &[PlannedStep]) -> String {
    let mut verdicts: BTreeMap<&str, usize> = BTreeMap::new();
    for step in steps {
        *verdicts.entry(step.verdict.word()).or_default() += 1;
    }
    let told: Vec<String> = ["run", "restore", "maybe", "up to date"]
        .iter()
        .filter_map(|word| Some(format!("{} {word}", verdicts.get(word)?)))
        .collect();
    let steps = report::count(steps.len(), "step");
    match told.is_empty() {
        true => steps,
        false => format!("{steps}: {}", told.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_leaves_out_what_is_not_there() {
        let step = |verdict| PlannedStep {
            name: "a".parse().unwrap(),
            kind: "k".into(),
            key: None,
            verdict,
        };
        let run = Verdict::Run { reasons: vec![] };
        assert_eq!(tally(&[]), "0 steps");
        assert_eq!(tally(&[step(Verdict::UpToDate)]), "1 step: 1 up to date");
        assert_eq!(
            tally(&[step(Verdict::UpToDate), step(run.clone()), step(run)]),
            "3 steps: 2 run, 1 up to date"
        );
    }
}
