//! What is different between two states of a pipeline, as a person reads it.

use super::change::change_lines;
use super::style::{Palette, clean, cut, paint};
use super::words::count;
use crate::compare::KeyChange;
use crate::hash::Digest;
use crate::record::{DataChange, StateDiff, StepChange, StepDiff};

/// Step by step, then the environment.
pub fn diff_text(diff: &StateDiff, palette: &Palette) -> String {
    let (old, new) = (&diff.old, &diff.new);
    let mut lines = vec![format!(
        "{} {} → {} {}",
        old.kind, old.name, new.kind, new.name
    )];
    for step in &diff.steps {
        lines.extend(step_lines(step, palette));
    }
    if !diff.environment.is_empty() {
        lines.push(paint(palette.strong, "environment"));
    }
    for change in &diff.environment {
        let steps = format!(" ({})", count(change.steps.len(), "step"));
        lines.extend(setting_lines(&change.change, &steps));
    }
    lines.push(format!("{} the same", count(diff.same, "step")));
    lines.join("\n") + "\n"
}

fn step_lines(step: &StepDiff, palette: &Palette) -> Vec<String> {
    let (style, word) = match step.change {
        StepChange::Added => (palette.good, "only in the second"),
        StepChange::Removed => (palette.warn, "only in the first"),
        StepChange::Changed => (palette.warn, "changed"),
        StepChange::NotReproducible => {
            (palette.bad, "not reproducible: the same key, other outputs")
        }
        StepChange::Unknown => (palette.warn, "the same key; its outputs are not known"),
        StepChange::Ended => (palette.bad, "ended in another way"),
    };
    let mut lines = vec![format!(
        "{}  {}",
        paint(palette.strong, &step.step),
        paint(style, word)
    )];
    if let [Some(old), Some(new)] = step.ends
        && (old != new || step.change == StepChange::Ended)
    {
        lines.push(format!("    {old} → {new}"));
    }
    let settings = step.settings.iter();
    lines.extend(settings.flat_map(|change| setting_lines(change, "")));
    lines.extend(step.data.iter().take(NAMED).flat_map(data_lines));
    lines.extend(more(step.data.len(), "input").map(|more| format!("    {more}")));
    for output in &step.outputs {
        let [old, new] = output.digests.map(Digest::short_or_nothing);
        let path = clean(&output.path);
        lines.push(format!("    output {path}: {old} → {new}"));
        lines.extend(
            output
                .rows
                .iter()
                .map(|row| format!("      {}", clean(row))),
        );
        for difference in &output.differences {
            let mut told = difference.lines().into_iter();
            let first = told.next().unwrap_or_default();
            let name = match difference.path == output.path {
                true => String::new(),
                false => format!("{}: ", clean(&difference.path)),
            };
            lines.push(format!("      {name}{first}"));
            lines.extend(told.map(|line| format!("      {line}")));
        }
        lines.extend(
            output
                .note
                .iter()
                .map(|note| format!("      {}", clean(note))),
        );
    }
    lines.extend(
        step.notes
            .iter()
            .map(|note| format!("    note: {}", clean(note))),
    );
    lines
}

/// How many inputs, and how many files of one, are named.
const NAMED: usize = 10;

/// `and 3 more inputs`, if there are more than are named.
fn more(n: usize, what: &str) -> Option<String> {
    let more = n.checked_sub(NAMED).filter(|more| *more > 0)?;
    let noun = if more == 1 { "" } else { "s" };
    Some(format!("and {more} more {what}{noun} (--json has all)"))
}

/// How long a line may be.
const WIDTH: usize = 80;

/// A setting on one line, or with its values below it, from where they differ.
fn setting_lines(change: &KeyChange, note: &str) -> Vec<String> {
    let (Some(old), Some(new)) = (&change.old, &change.new) else {
        let line = format!("    {}{note}", clean(&change.line()));
        return vec![cut(&line, WIDTH)];
    };
    let lines = change_lines(&change.path, [old, new], note, WIDTH - 4);
    lines
        .into_iter()
        .map(|line| format!("    {line}"))
        .collect()
}

fn data_lines(data: &DataChange) -> Vec<String> {
    let [old, new] = data.digests.map(Digest::short_or_nothing);
    let rows = data.rows.map(|rows| {
        format!(
            "      rows {} → {}: {} added, {} removed",
            rows.old, rows.new, rows.added, rows.removed
        )
    });
    let (input, from) = (clean(&data.input), clean(&data.from));
    let mut lines = vec![format!("    input {input} ({from}): {old} → {new}")];
    lines.extend(rows);
    if let Some(files) = &data.files {
        lines.push(format!("      {}", clean(&files.words("file"))));
        let named = files.files.iter().take(NAMED);
        lines.extend(named.map(|file| format!("        {}", clean(&file.to_string()))));
        let more = more(files.files.len(), "file");
        lines.extend(more.map(|more| format!("        {more}")));
    }
    lines.extend(
        data.note
            .iter()
            .map(|note| format!("      {}", clean(note))),
    );
    lines
}
