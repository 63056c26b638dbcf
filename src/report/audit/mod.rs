//! What an audit found, for the terminal and as a page.

mod html;

use super::style::{Palette, clean, paint};
use super::words::count;
use crate::record::{AuditReport, AuditVerdict, OutputAudit, StepAudit, StepResult};

pub use html::audit_html;

/// A line for each step, and below it what differs and how.
pub fn audit_text(report: &AuditReport, palette: &Palette) -> String {
    let names = report.steps.iter().map(|step| step.step.as_str().len());
    let width = names.max().unwrap_or(0);
    report
        .steps
        .iter()
        .map(|step| step_text(step, width, palette))
        .collect()
}

/// How long a line may be before it goes on below.
const SCREEN: usize = 80;

fn step_text(step: &StepAudit, width: usize, palette: &Palette) -> String {
    let words = step.result.words();
    let result = paint(style(step.result, palette), words);
    let mut lines = vec![format!("{:width$}  {result}", step.step)];
    if let Some(why) = &step.why {
        let length = width.max(step.step.as_str().chars().count()) + 2 + words.len() + 2;
        match length + why.chars().count() <= SCREEN {
            true => lines[0].push_str(&format!(": {why}")),
            false => lines.push(format!("    {why}")),
        }
    }
    let undeclared = step.undeclared.iter();
    lines.extend(undeclared.map(|what| format!("    it {}", clean(what))));
    for output in &step.outputs {
        lines.extend(output_lines(output, palette));
    }
    if let Some(failure) = &step.failure {
        lines.push(format!("    it failed: {}", clean(&failure.error.message)));
        let causes = failure.error.causes.iter();
        lines.extend(causes.map(|cause| format!("    {}", clean(cause))));
        let tail = failure.log_tail.iter();
        lines.extend(tail.map(|line| format!("    | {}", clean(line))));
    }
    lines.join("\n") + "\n"
}

fn output_lines(output: &OutputAudit, palette: &Palette) -> Vec<String> {
    let mut lines = Vec::new();
    if output.result() == StepResult::CouldNotTell {
        lines.push(format!("    {}: nothing to compare it with", output.path));
    }
    for difference in &output.differences {
        let covered = match difference.within {
            true => format!(" ({} allowed)", output.tolerance),
            false => String::new(),
        };
        let path = paint(palette.strong, clean(&difference.path));
        let mut told = difference.lines().into_iter();
        let first = told.next().unwrap_or_default();
        lines.push(format!("    {path}: {}{covered}", plain(&first)));
        lines.extend(told.map(|line| format!("      {}", plain(&line))));
    }
    lines
}

/// Without control characters, but with the spaces that a diff begins with.
fn plain(line: &str) -> String {
    line.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn style(result: StepResult, palette: &Palette) -> anstyle::Style {
    match result {
        StepResult::Same => palette.good,
        StepResult::Differs => palette.bad,
        _ => palette.warn,
    }
}

/// `3 steps: 2 the same, 1 different`.
pub fn audit_verdict(report: &AuditReport) -> String {
    let mut text = format!(
        "{}: {} the same",
        count(report.steps.len(), "step"),
        report.number(StepResult::Same)
    );
    for (result, what) in [
        (StepResult::WithinTolerance, "within tolerance"),
        (StepResult::Differs, "different"),
        (StepResult::NotAudited, "not audited"),
        (StepResult::CouldNotTell, "not to be told"),
    ] {
        match report.number(result) {
            0 => {}
            n => text.push_str(&format!(", {n} {what}")),
        }
    }
    text
}

/// A sentence on what the audit comes to.
pub fn audit_sentence(report: &AuditReport) -> String {
    let what = match report.rebuilt {
        true => "rebuilt in a clean folder and compared with",
        false => "not rebuilt; the recorded results compared with",
    };
    let verdict = match report.verdict {
        AuditVerdict::Same if report.number(StepResult::WithinTolerance) > 0 => {
            "the same, within declared tolerances"
        }
        AuditVerdict::Same => "the same",
        AuditVerdict::Differs => "differs",
        AuditVerdict::CouldNotTell => "could not tell",
    };
    format!("{what} {}: {verdict}", report.against.words())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::compare::{Difference, What};
    use crate::record::{AUDIT_FORMAT, Against, AuditFailure, Environment, Varied};
    use crate::step::StepError;
    use std::path::Path;

    pub fn step(name: &str, result: StepResult) -> StepAudit {
        StepAudit {
            why: None,
            ..StepAudit::without(&name.parse().unwrap(), "command", result, String::new())
        }
    }

    pub fn report() -> AuditReport {
        let digest = |byte: char| Some(byte.to_string().repeat(64));
        let what = What::Digest {
            old: "a".repeat(64).parse().unwrap(),
            new: "b".repeat(64).parse().unwrap(),
        };
        let mut differs = step("stage1", StepResult::Differs);
        differs.outputs.push(OutputAudit {
            path: "model".into(),
            name: "model".into(),
            expected: digest('a'),
            found: digest('b'),
            tolerance: "bitwise".into(),
            differences: vec![Difference::new("model/<weights>", what)],
        });
        let mut failed = step("broken", StepResult::Differs);
        failed.failure = Some(AuditFailure {
            error: StepError::new("the program ended with exit code 3"),
            log_tail: vec!["no <luck>".into()],
        });
        let mut upload = step("upload", StepResult::NotAudited);
        upload.why = Some("it acts on the world".into());
        let steps = vec![step("split", StepResult::Same), differs, failed, upload];
        AuditReport {
            format: AUDIT_FORMAT,
            pipeline: "demo".parse().unwrap(),
            started: "2026-01-01T00:00:00Z".into(),
            verdict: AuditReport::verdict_of(&steps),
            against: Against::Records,
            rebuilt: true,
            noise: vec![Varied {
                what: "umask".into(),
                build: "022".into(),
                audit: "077".into(),
            }],
            steps,
            environment: Environment::capture(Path::new("/")),
        }
    }

    #[test]
    fn an_audit_as_text() {
        let report = report();
        insta::assert_snapshot!(audit_text(&report, &Palette::new(false)), @"
        split   same
        stage1  differs
            model/<weights>: aaaaaaaaaaaa → bbbbbbbbbbbb
        broken  differs
            it failed: the program ended with exit code 3
            | no <luck>
        upload  not audited: it acts on the world
        ");
        assert_eq!(
            audit_verdict(&report),
            "4 steps: 1 the same, 2 different, 1 not audited"
        );
        assert_eq!(
            audit_sentence(&report),
            "rebuilt in a clean folder and compared with the records of the build: differs"
        );
    }
}
