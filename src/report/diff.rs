//! What is different between two states of a pipeline, as a person reads it.

use super::style::{Palette, clean, paint};
use super::words::count;
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
        let steps = count(change.steps.len(), "step");
        lines.push(format!("    {} ({steps})", clean(&change.change.line())));
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
    for change in &step.settings {
        lines.push(format!("    {}", clean(&change.line())));
    }
    lines.extend(step.data.iter().flat_map(data_lines));
    for output in &step.outputs {
        let [old, new] = output.digests.map(short);
        let path = clean(&output.path);
        lines.push(format!("    output {path}: {old} → {new}"));
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

fn data_lines(data: &DataChange) -> Vec<String> {
    let [old, new] = data.digests.map(short);
    let rows = data.rows.map(|rows| {
        format!(
            "      rows {} → {}: {} added, {} removed",
            rows.old, rows.new, rows.added, rows.removed
        )
    });
    let (input, from) = (clean(&data.input), clean(&data.from));
    let mut lines = vec![format!("    input {input} ({from}): {old} → {new}")];
    lines.extend(rows);
    lines.extend(
        data.note
            .iter()
            .map(|note| format!("      {}", clean(note))),
    );
    lines
}

fn short(digest: Option<Digest>) -> String {
    digest.map_or("nothing".to_owned(), |digest| digest.short())
}
