//! `retune audit`: everything rebuilt in a clean folder, and the digests compared.

use std::sync::atomic::Ordering;

use serde::Serialize;

use super::args::Audit;
use super::exit::Exit;
use super::problem::Failure;
use super::{Session, build, signals};
use crate::ops::{self, AuditReport, Audited};
use crate::report::{Palette, count};

#[derive(Serialize)]
struct Row<'a> {
    step: &'a str,
    result: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    differences: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
}

pub(super) fn run(session: &Session, args: &Audit) -> Result<Exit, Failure> {
    let workspace = session.workspace()?;
    let options = build::options(session, &args.run, false);
    let stop = signals::stop_on_signals().map_err(Failure::Signals)?;
    let report = session.output.report(&args.run, |sink| {
        ops::audit(&workspace, &options, &stop, sink)
    })??;
    let output = &session.output;
    let rows = rows(&report);
    if args.json {
        output.print_json(&rows)?;
    } else {
        output.print(&text(&rows, &output.out))?;
    }
    output.say(&format!("{}\n", verdict(&rows)));
    Ok(exit(&rows, stop.load(Ordering::Relaxed)))
}

fn rows(report: &AuditReport) -> Vec<Row<'_>> {
    report
        .steps
        .iter()
        .map(|(step, audited)| {
            let (result, differences, why): (_, &[String], _) = match audited {
                Audited::Same => ("same", &[], None),
                Audited::Differs(lines) => ("differs", lines, None),
                Audited::NotAudited(why) => ("not audited", &[], Some(why.as_str())),
                Audited::NoResult(why) => ("no result", &[], Some(why.as_str())),
            };
            Row {
                step: step.as_str(),
                result,
                differences,
                why,
            }
        })
        .collect()
}

fn text(rows: &[Row<'_>], palette: &Palette) -> String {
    let width = rows.iter().map(|row| row.step.len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let style = match row.result {
            "same" => palette.good,
            "differs" => palette.bad,
            _ => palette.warn,
        };
        let Row { step, result, .. } = row;
        let why = row.why.map(|why| format!(": {why}")).unwrap_or_default();
        text.push_str(&format!("{step:width$}  {style}{result}{style:#}{why}\n"));
        for line in row.differences {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text
}

fn number(rows: &[Row<'_>], result: &str) -> usize {
    rows.iter().filter(|row| row.result == result).count()
}

fn verdict(rows: &[Row<'_>]) -> String {
    let mut text = format!(
        "{}: {} the same",
        count(rows.len(), "step"),
        number(rows, "same")
    );
    for (result, what) in [("differs", "different"), ("not audited", "not audited")] {
        match number(rows, result) {
            0 => {}
            n => text.push_str(&format!(", {n} {what}")),
        }
    }
    text
}

fn exit(rows: &[Row<'_>], stopped: bool) -> Exit {
    if number(rows, "differs") + number(rows, "no result") > 0 {
        Exit::Failed
    } else if stopped {
        Exit::Interrupted
    } else {
        Exit::Fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_as_text() {
        let lines = vec!["model.safetensors: 3a… in the record, 4b… now".to_owned()];
        let report = AuditReport {
            steps: vec![
                ("split".parse().unwrap(), Audited::Same),
                ("stage1".parse().unwrap(), Audited::Differs(lines)),
                (
                    "upload".parse().unwrap(),
                    Audited::NotAudited("acts on the world".into()),
                ),
            ],
        };
        let rows = rows(&report);
        insta::assert_snapshot!(text(&rows, &Palette::new(false)), @"
        split   same
        stage1  differs
            model.safetensors: 3a… in the record, 4b… now
        upload  not audited: acts on the world
        ");
        assert_eq!(
            verdict(&rows),
            "3 steps: 1 the same, 1 different, 1 not audited"
        );
        assert_eq!(exit(&rows, true), Exit::Failed);
        assert_eq!(exit(&rows[..1], false), Exit::Fine);
        assert_eq!(exit(&rows[..1], true), Exit::Interrupted);
    }
}
