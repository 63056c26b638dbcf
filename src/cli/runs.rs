//! `retune runs`: what was done before.

use jiff::Timestamp;

use super::Session;
use super::args::Runs;
use super::exit::Exit;
use super::problem::Failure;
use crate::event::Summary;
use crate::ops::{self, RunInfo, RunResult};
use crate::report::{Palette, ago, duration};

/// How many runs are listed where the user does not say.
const LISTED: usize = 20;

pub(super) fn run(session: &Session, args: &Runs) -> Result<Exit, Failure> {
    let workspace = session.workspace()?;
    let runs = ops::runs(&workspace, args.limit.unwrap_or(LISTED))?;
    let output = &session.output;
    if args.json {
        output.print_json(&runs)?;
    } else if runs.is_empty() {
        output.say("nothing was run yet\n");
    } else {
        output.print(&table(&runs, Timestamp::now(), &output.out))?;
    }
    Ok(Exit::Fine)
}

fn table(runs: &[RunInfo], now: Timestamp, palette: &Palette) -> String {
    let heads = ["RUN", "AGO", "VERB", "PIPELINE", "TOOK", "RESULT"];
    let cells = |info: &RunInfo| {
        [
            info.header.run.clone(),
            since(&info.header.started, now),
            info.header.verb.clone(),
            info.header.pipeline.to_string(),
            info.seconds.map_or("-".to_owned(), duration),
            info.result.word().to_owned(),
        ]
    };
    let rows: Vec<[String; 6]> = runs.iter().map(cells).collect();
    let widths: [usize; 6] = std::array::from_fn(|i| {
        let widths = rows.iter().map(|row| row[i].chars().count());
        widths.fold(heads[i].len(), usize::max)
    });
    let mut text = line(&heads, &widths, anstyle::Style::new(), "STEPS");
    for (info, row) in runs.iter().zip(&rows) {
        let row = row.each_ref().map(String::as_str);
        let steps = info.summary.as_ref().map_or(String::new(), done);
        text.push_str(&line(&row, &widths, style(info.result, palette), &steps));
    }
    text
}

fn line(cells: &[&str; 6], widths: &[usize; 6], style: anstyle::Style, last: &str) -> String {
    let [run, ago, verb, pipeline, took, result] = *cells;
    let [w0, w1, w2, w3, w4, w5] = *widths;
    let gap = " ".repeat(w5 - result.chars().count());
    let line = format!(
        "{run:w0$}  {ago:w1$}  {verb:w2$}  {pipeline:w3$}  {took:>w4$}  \
         {style}{result}{style:#}{gap}  {last}"
    );
    line.trim_end().to_owned() + "\n"
}

/// The style of a result.
pub(super) fn style(result: RunResult, palette: &Palette) -> anstyle::Style {
    match result {
        RunResult::Fine => palette.good,
        RunResult::Failed | RunResult::Killed => palette.bad,
        RunResult::Stopped => palette.warn,
        RunResult::Running => palette.strong,
    }
}

/// How long ago a moment was.
pub(super) fn since(moment: &str, now: Timestamp) -> String {
    let then: Result<Timestamp, _> = moment.parse();
    then.map_or("?".to_owned(), |then| {
        ago(now.duration_since(then).as_secs_f64())
    })
}

/// `3 ran, 1 failed`: all but what needed nothing.
pub(super) fn done(summary: &Summary) -> String {
    let parts = [
        (summary.failed, "failed"),
        (summary.ran, "ran"),
        (summary.restored, "restored"),
        (summary.skipped, "skipped"),
        (summary.cancelled, "stopped"),
    ];
    let told = parts.iter().filter(|(n, _)| *n > 0);
    let told: Vec<String> = told.map(|(n, what)| format!("{n} {what}")).collect();
    told.join(", ")
}
