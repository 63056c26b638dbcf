//! Plans as tables: what would be done for each step, and why.

use super::change::change_lines;
use super::style::{Palette, clean, paint};
use crate::plan::{FileChange, PlannedStep, Reason, Verdict};

/// What stands before a reason on a line of its own.
const INDENT: &str = "    ";

/// How long a reason may be before the values in it go below each other.
const LONGEST: usize = 76;

/// The widest column of names; a longer name has a line of its own.
const WIDEST_NAME: usize = 32;

/// Plans of more steps than this are folded.
const FOLD_FROM: usize = 24;

/// A row: one step, or several in a row of which the same is said.
struct Row<'a> {
    steps: &'a [PlannedStep],
}

impl Row<'_> {
    /// The name, or the first and the last one.
    fn name(&self) -> String {
        match self.steps {
            [only] => only.name.to_string(),
            [first, .., last] => format!("{} … {}", first.name, last.name),
            [] => String::new(),
        }
    }

    fn kind(&self) -> String {
        match self.steps {
            [only] => only.kind.clone(),
            several => format!("{} steps", several.len()),
        }
    }

    fn verdict(&self) -> &Verdict {
        &self.steps[0].verdict
    }

    fn reasons(&self) -> Vec<String> {
        match self.steps {
            // Each of several waits for something else.
            [_, _, ..] if matches!(self.verdict(), Verdict::Maybe { .. }) => Vec::new(),
            _ => reasons(self.verdict()),
        }
    }
}

/// Whether the same can be said of two steps.
fn alike(a: &PlannedStep, b: &PlannedStep) -> bool {
    match (&a.verdict, &b.verdict) {
        (Verdict::Error { .. }, _) => false,
        (Verdict::Maybe { .. }, Verdict::Maybe { .. }) => true,
        (a, b) => a == b,
    }
}

/// Every step on its own, or steps in a row of which the same is said as one.
fn rows(steps: &[PlannedStep], fold: bool) -> Vec<Row<'_>> {
    if fold && steps.len() > FOLD_FROM {
        let rows = steps.chunk_by(alike);
        return rows.map(|steps| Row { steps }).collect();
    }
    steps.chunks(1).map(|steps| Row { steps }).collect()
}

/// A table of steps, kinds, verdicts and reasons. A reason that fits in
/// `width` columns shares the line of its step; nothing is cut. With `fold`,
/// steps of a large plan of which the same is said share a line.
pub fn table(steps: &[PlannedStep], palette: &Palette, width: usize, fold: bool) -> String {
    let rows: Vec<_> = rows(steps, fold)
        .into_iter()
        .map(|row| (row.name(), row.kind(), row))
        .collect();
    let widest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0).max(4);
    let name = widest(&mut rows.iter().map(|(name, ..)| name.chars().count()));
    let name = name.min(WIDEST_NAME);
    let kind = widest(&mut rows.iter().map(|(_, kind, _)| kind.chars().count()));
    let mut text = format!(
        "{:name$}  {:kind$}  {:10}  WHY\n",
        "STEP", "KIND", "VERDICT"
    );
    for (step, of, row) in rows {
        let word = row.verdict().word();
        let mut line = format!("{step:name$}  {of:kind$}  ");
        if step.chars().count() > name {
            text.push_str(&format!("{step}\n"));
            line = format!("{:name$}  {of:kind$}  ", "");
        }
        let style = verdict_style(row.verdict(), palette);
        let padding = " ".repeat(10_usize.saturating_sub(word.len()));
        text.push_str(&line);
        text.push_str(&paint(style, word));
        let room = width.saturating_sub(line.chars().count() + 12);
        match &row.reasons()[..] {
            [] => text.push('\n'),
            [only] if only.chars().count() <= room && !only.contains('\n') => {
                text.push_str(&format!("{padding}  {only}\n"));
            }
            several => {
                text.push('\n');
                for line in several.iter().flat_map(|reason| reason.lines()) {
                    text.push_str(&format!("{INDENT}{line}\n"));
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
    let files = files(&step.verdict);
    for (i, reason) in reasons(&step.verdict).iter().enumerate() {
        for line in reason.lines() {
            text.push_str(&format!("  {line}\n"));
        }
        for file in files.get(i).copied().unwrap_or_default() {
            let file = clean(&file.to_string());
            text.push_str(&paint(palette.dim, format!("    {file}")));
            text.push('\n');
        }
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
        Verdict::Error { .. } => "cannot run",
        Verdict::Blocked { .. } => "cannot run",
    }
}

fn verdict_style(verdict: &Verdict, palette: &Palette) -> anstyle::Style {
    match verdict {
        Verdict::UpToDate => palette.good,
        Verdict::Restore { .. } => palette.strong,
        Verdict::Run { .. } | Verdict::Maybe { .. } => palette.warn,
        Verdict::Error { .. } | Verdict::Blocked { .. } => palette.bad,
    }
}

fn reasons(verdict: &Verdict) -> Vec<String> {
    match verdict {
        Verdict::Maybe { waits_for } => {
            let names: Vec<&str> = waits_for.iter().map(|step| step.as_str()).collect();
            vec![format!("waits for {}", names.join(", "))]
        }
        Verdict::Error { causes } => causes.iter().map(|cause| clean(cause)).collect(),
        Verdict::Blocked { by } => vec![format!("{by} cannot run")],
        verdict => verdict.reasons().iter().map(reason_text).collect(),
    }
}

/// A reason, on several lines where the values of a parameter are long.
fn reason_text(reason: &Reason) -> String {
    let Reason::Param {
        name,
        old: Some(old),
        new: Some(new),
        source,
    } = reason
    else {
        return clean(&reason.to_string());
    };
    let source = source.as_ref().map(|source| format!(" ({source})"));
    let head = format!("param {name}");
    change_lines(&head, [old, new], &source.unwrap_or_default(), LONGEST).join("\n")
}

/// The files behind each reason, where they say more than the reason does.
fn files(verdict: &Verdict) -> Vec<&[FileChange]> {
    let files = verdict.reasons().iter().map(Reason::files);
    files
        .map(|files| if files.len() > 1 { files } else { &[] })
        .collect()
}
