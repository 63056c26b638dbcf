//! `retune verify`: every output, hashed again and compared with its records.

use super::Session;
use super::args::Verify;
use super::exit::Exit;
use super::problem::Failure;
use crate::ops::{self, VerifyReport};
use crate::report::{Palette, count};

pub(super) fn run(session: &Session, args: &Verify) -> Result<Exit, Failure> {
    let workspace = session.workspace()?;
    let found = ops::verify(&workspace, &session.overrides())?;
    let output = &session.output;
    if args.json {
        output.print_json(&found)?;
    } else {
        output.print(&text(&found, &output.out))?;
    }
    output.say(&format!("{}\n", verdict(&found)));
    Ok(match found.faults.is_empty() {
        true => Exit::Fine,
        false => Exit::Failed,
    })
}

fn text(report: &VerifyReport, palette: &Palette) -> String {
    let bad = palette.bad;
    let mut text = String::new();
    for fault in &report.faults {
        let found = match fault.found {
            Some(digest) => format!("is {digest}"),
            None => "is missing".to_owned(),
        };
        let place = fault.place;
        text.push_str(&format!(
            "{bad}✗{bad:#} {} {} ({place})\n",
            fault.step, fault.output
        ));
        text.push_str(&format!("    should be {}\n", fault.expected));
        text.push_str(&format!("    {found}\n"));
    }
    for step in &report.not_built {
        text.push_str(&format!("- {step} has no result yet\n"));
    }
    text
}

fn verdict(report: &VerifyReport) -> String {
    let checked = count(report.checked, "digest");
    match report.faults.len() {
        0 => format!("{checked} checked, no difference"),
        n => format!("{checked} checked, {}", count(n, "difference")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Digest;
    use crate::ops::VerifyFault;

    fn report() -> VerifyReport {
        let fault = |place, found| VerifyFault {
            step: "split".parse().unwrap(),
            output: "train.jsonl".into(),
            expected: Digest::of(b"a"),
            found,
            place,
        };
        VerifyReport {
            checked: 3,
            faults: vec![
                fault("output", Some(Digest::of(b"b"))),
                fault("store", None),
            ],
            not_built: vec!["card".parse().unwrap()],
        }
    }

    #[test]
    fn faults_are_shown_with_both_digests() {
        insta::assert_snapshot!(text(&report(), &Palette::new(false)), @"
        ✗ split train.jsonl (output)
            should be 17762fddd969a453925d65717ac3eea21320b66b54342fde15128d6caf21215f
            is 10e5cf3d3c8a4f9f3468c8cc58eea84892a22fdadbc1acb22410190044c1d553
        ✗ split train.jsonl (store)
            should be 17762fddd969a453925d65717ac3eea21320b66b54342fde15128d6caf21215f
            is missing
        - card has no result yet
        ");
        assert_eq!(verdict(&report()), "3 digests checked, 2 differences");
    }
}
