//! `retune status`: the state of the steps, the last run, the build that goes on, the store.

use jiff::Timestamp;

use super::Session;
use super::args::Status;
use super::exit::Exit;
use super::problem::Failure;
use super::runs::{done, since, style};
use crate::ops::{self, RunInfo};
use crate::report::{Palette, bytes, count, duration};

/// How many steps are named on a line.
const NAMED: usize = 5;

pub(super) fn run(session: &Session, args: &Status) -> Result<Exit, Failure> {
    let workspace = session.workspace()?;
    let status = ops::status(&workspace, &session.overrides())?;
    let output = &session.output;
    if args.json {
        output.print_json(&status)?;
    } else {
        output.print(&text(&status, Timestamp::now(), &output.out))?;
    }
    Ok(Exit::Fine)
}

fn text(status: &ops::Status, now: Timestamp, palette: &Palette) -> String {
    let mut text = String::new();
    let mut line = |head: &str, body: String| {
        let strong = palette.strong;
        text.push_str(&format!("{strong}{head:9}{strong:#} {body}\n"));
    };
    let total = status.steps.values().sum();
    line(
        "pipeline",
        format!("{}: {}", status.pipeline, count(total, "step")),
    );
    line("steps", verdicts(status));
    if !status.unfinished.is_empty() {
        let names = status.unfinished.iter().map(|name| name.as_str());
        line("failed", format!("{} when last run", named(names)));
    }
    match &status.last_run {
        Some(run) => line("last run", last_run(run, now, palette)),
        None => line("last run", "none".to_owned()),
    }
    if let Some(holder) = &status.building {
        line("building", holder.clone());
    }
    let since = |since: &Option<String>| {
        let since = since.as_ref().map(|since_| self::since(since_, now));
        since.map_or(String::new(), |since| format!(" (for {since})"))
    };
    let running = status.running.iter();
    let running: Vec<String> = running
        .map(|running| format!("{}{}", running.step, since(&running.since)))
        .collect();
    if !running.is_empty() {
        line("running", named(running.iter().map(String::as_str)));
    }
    let store = &status.store;
    let results = count(store.results, "result");
    line(
        "store",
        format!("{results}, {} of outputs", bytes(store.bytes)),
    );
    text
}

fn verdicts(status: &ops::Status) -> String {
    let words = [
        ("up to date", "up to date"),
        ("run", "to run"),
        ("restore", "to restore"),
        ("maybe", "that may have to run"),
        ("error", "that cannot run"),
        ("blocked", "blocked by those"),
    ];
    let told = words.iter().filter_map(|(word, said)| {
        let n = status.steps.get(word)?;
        Some(format!("{n} {said}"))
    });
    told.collect::<Vec<_>>().join(", ")
}

fn last_run(run: &RunInfo, now: Timestamp, palette: &Palette) -> String {
    let style = style(run.result, palette);
    let mut text = format!(
        "{}, {} ago: {} {style}{}{style:#}",
        run.header.run,
        since(&run.header.started, now),
        run.header.verb,
        run.result.word(),
    );
    if let Some(seconds) = run.seconds {
        text.push_str(&format!(" after {}", duration(seconds)));
    }
    let done = run.summary.as_ref().map(done);
    if let Some(done) = done.filter(|done| !done.is_empty()) {
        text.push_str(&format!("\n{:10}{done}", ""));
    }
    text
}

/// The first few names, and how many more there are.
fn named<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let named: Vec<&str> = names.take(NAMED).collect();
    match more {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
