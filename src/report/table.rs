//! Plans as tables: what would be done for each step, and why.

use super::style::{Palette, clean, paint};
use crate::plan::{PlannedStep, Reason, Verdict};

/// What stands before a reason on a line of its own.
const INDENT: &str = "    ";

/// The widest column of names; a longer name has a line of its own.
const WIDEST_NAME: usize = 32;

/// A table of steps, kinds, verdicts and reasons. A reason that fits in
/// `width` columns shares the line of its step; nothing is cut.
pub fn table(steps: &[PlannedStep], palette: &Palette, width: usize) -> String {
    let widest = |column: fn(&PlannedStep) -> usize, least: usize| {
        steps.iter().map(column).max().unwrap_or(0).max(least)
    };
    let length = |step: &PlannedStep| step.name.as_str().chars().count();
    let name = widest(length, 4).min(WIDEST_NAME);
    let kind = widest(|step| step.kind.len(), 4);
    let mut text = format!(
        "{:name$}  {:kind$}  {:10}  WHY\n",
        "STEP", "KIND", "VERDICT"
    );
    for step in steps {
        let word = step.verdict.word();
        let mut line = format!("{:name$}  {:kind$}  ", step.name, step.kind);
        if length(step) > name {
            text.push_str(&format!("{}\n", step.name));
            line = format!("{:name$}  {:kind$}  ", "", step.kind);
        }
        let style = verdict_style(&step.verdict, palette);
        let padding = " ".repeat(10_usize.saturating_sub(word.len()));
        text.push_str(&line);
        text.push_str(&paint(style, word));
        let room = width.saturating_sub(line.chars().count() + 12);
        let reasons = reasons(&step.verdict);
        match &reasons[..] {
            [] => text.push('\n'),
            [only] if only.chars().count() <= room => {
                text.push_str(&format!("{padding}  {only}\n"));
            }
            several => {
                text.push('\n');
                for reason in several {
                    text.push_str(&format!("{INDENT}{reason}\n"));
                }
            }
        }
    }
    text
}

/// One step's verdict with every reason in full.
pub fn explain(step: &PlannedStep, palette: &Palette) -> String {
    let name = paint(palette.strong, &step.name);
    let style = verdict_style(&step.verdict, palette);
    let verdict = paint(style, sentence(&step.verdict));
    let mut text = format!("{name} ({}): {verdict}\n", step.kind);
    for reason in reasons(&step.verdict) {
        text.push_str(&format!("  {reason}\n"));
    }
    if let Some(key) = &step.key {
        text.push_str(&paint(palette.dim, format!("  key {key}")));
        text.push('\n');
    }
    text
}

fn sentence(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::UpToDate => "up to date",
        Verdict::Restore { .. } => "would be restored from the store, because",
        Verdict::Run { .. } => "would run, because",
        Verdict::Maybe { .. } => "not known yet",
    }
}

fn verdict_style(verdict: &Verdict, palette: &Palette) -> anstyle::Style {
    match verdict {
        Verdict::UpToDate => palette.good,
        Verdict::Restore { .. } => palette.strong,
        Verdict::Run { .. } | Verdict::Maybe { .. } => palette.warn,
    }
}

fn reasons(verdict: &Verdict) -> Vec<String> {
    let shown = |reason: &Reason| clean(&reason.to_string());
    match verdict {
        Verdict::Maybe { waits_for } => {
            let names: Vec<&str> = waits_for.iter().map(|step| step.as_str()).collect();
            vec![format!("waits for {}", names.join(", "))]
        }
        verdict => verdict.reasons().iter().map(shown).collect(),
    }
}
