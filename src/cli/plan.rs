//! `retune plan`: what a build would do, and why.

use std::collections::BTreeMap;

use super::Session;
use super::args::Plan;
use super::exit::Exit;
use super::problem::Failure;
use crate::ops::{self, BuildOptions, Estimate, Limits};
use crate::plan::{PlannedStep, Verdict};
use crate::report;

pub(super) fn run(session: &Session, args: &Plan) -> Result<Exit, Failure> {
    let workspace = session.workspace()?;
    let limits = BuildOptions::default().limits;
    let options = BuildOptions {
        targets: args.targets.clone(),
        limits: Limits {
            jobs: args.jobs.unwrap_or(limits.jobs),
            ..limits
        },
        force: args.force.clone(),
        overrides: session.overrides(),
        last: true,
        ..BuildOptions::default()
    };
    let plan = ops::plan(&workspace, &options)?;
    let output = &session.output;
    if args.json {
        output.print_json(&plan.steps)?;
    } else {
        let fold = !session.global.verbose;
        output.print(&report::table(&plan.steps, &output.out, output.width, fold))?;
        output.say(&format!("{}\n", tally(&plan, output.width)));
    }
    Ok(exit(&plan.steps, args.check))
}

fn exit(steps: &[PlannedStep], check: bool) -> Exit {
    let stale = steps.iter().any(|step| step.verdict != Verdict::UpToDate);
    if steps.iter().any(|step| step.verdict.is_error()) {
        Exit::System
    } else if check && stale {
        Exit::Stale
    } else {
        Exit::Fine
    }
}

/// `14 steps: 3 run, 11 up to date`, how long that would take, and the longest chain.
fn tally(plan: &ops::Plan, width: usize) -> String {
    let mut verdicts: BTreeMap<&str, usize> = BTreeMap::new();
    for step in &plan.steps {
        *verdicts.entry(step.verdict.word()).or_default() += 1;
    }
    let words = ["run", "restore", "maybe", "error", "blocked", "up to date"];
    let told: Vec<String> = words
        .iter()
        .filter_map(|word| Some(format!("{} {word}", verdicts.get(word)?)))
        .collect();
    let mut text = report::count(plan.steps.len(), "step");
    if !told.is_empty() {
        text.push_str(&format!(": {}", told.join(", ")));
    }
    if let Some(estimate) = &plan.estimate {
        let maybe = verdicts.contains_key("maybe");
        text.push_str(&format!("\n{}", time(estimate, maybe)));
        if estimate.chain.len() > 1 {
            text.push_str(&format!("\n{}", chain(estimate, width)));
        }
    }
    text
}

/// `about 2 min 05 s`, and what that leaves out.
fn time(estimate: &Estimate, maybe: bool) -> String {
    let seconds = estimate.millis as f64 / 1000.0;
    let most = if maybe { "at most about" } else { "about" };
    let unknown = match estimate.unknown {
        0 => String::new(),
        n => format!(" and {} not timed yet", report::count(n, "step")),
    };
    format!("{most} {}{unknown}", report::duration(seconds))
}

/// The chain's first and last steps, as many as fit.
fn chain(estimate: &Estimate, width: usize) -> String {
    let names: Vec<&str> = estimate.chain.iter().map(|name| name.as_str()).collect();
    let seconds = estimate.chain_millis as f64 / 1000.0;
    let line = |chain: &[&str]| {
        let chain = chain.join(" → ");
        format!("longest chain: {chain} ({})", report::duration(seconds))
    };
    let whole = line(&names);
    if whole.chars().count() <= width {
        return whole;
    }
    let shortened = |ends: usize| {
        let more = format!("… {} more …", names.len() - 2 * ends);
        let head = names[..ends].iter().copied();
        let tail = names[names.len() - ends..].iter().copied();
        line(&head.chain([more.as_str()]).chain(tail).collect::<Vec<_>>())
    };
    let most = (names.len() - 1) / 2;
    let mut lines = (1..=most).rev().map(shortened);
    lines
        .find(|line| line.chars().count() <= width)
        .unwrap_or_else(|| format!("longest chain: {}", report::duration(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, verdict: Verdict) -> PlannedStep {
        PlannedStep {
            name: name.parse().unwrap(),
            kind: "k".into(),
            key: None,
            verdict,
            millis: None,
            critical: false,
        }
    }

    fn plan(steps: Vec<PlannedStep>, estimate: Option<Estimate>) -> ops::Plan {
        ops::Plan {
            pipeline: "p".parse().unwrap(),
            steps,
            estimate,
        }
    }

    fn told(steps: Vec<PlannedStep>) -> String {
        tally(&plan(steps, None), 80)
    }

    #[test]
    fn a_tally_leaves_out_what_is_not_there() {
        let run = || step("a", Verdict::Run { reasons: vec![] });
        let done = || step("b", Verdict::UpToDate);
        assert_eq!(told(vec![]), "0 steps");
        assert_eq!(told(vec![done()]), "1 step: 1 up to date");
        assert_eq!(
            told(vec![done(), run(), run()]),
            "3 steps: 2 run, 1 up to date"
        );
    }

    #[test]
    fn an_estimate_says_what_it_leaves_out() {
        let waits_for = vec!["a".parse().unwrap()];
        let steps = vec![
            step("a", Verdict::Run { reasons: vec![] }),
            step("b", Verdict::Maybe { waits_for }),
        ];
        let chain = (0..9).map(|n| format!("s{n}").parse().unwrap()).collect();
        let estimate = Estimate {
            millis: 125_000,
            work_millis: 200_000,
            unknown: 1,
            chain,
            chain_millis: 92_000,
        };
        insta::assert_snapshot!(tally(&plan(steps, Some(estimate)), 60), @"
        2 steps: 1 run, 1 maybe
        at most about 2 min 05 s and 1 step not timed yet
        longest chain: s0 → s1 → … 5 more … → s7 → s8 (1 min 32 s)
        ");
    }

    #[test]
    fn what_cannot_run_is_said_by_the_exit_code() {
        let by = "a".parse().unwrap();
        let blocked = [step("b", Verdict::Blocked { by })];
        assert_eq!(exit(&blocked, true), Exit::System);
        assert_eq!(exit(&[step("a", Verdict::UpToDate)], true), Exit::Fine);
        let run = [step("a", Verdict::Run { reasons: vec![] })];
        assert_eq!(exit(&run, true), Exit::Stale);
        assert_eq!(exit(&run, false), Exit::Fine);
    }
}
