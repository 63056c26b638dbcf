//! `retune table`: the results of the cells of a matrix, side by side.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde_json::Value;

use super::Session;
use super::args::Table as Args;
use super::exit::Exit;
use super::problem::Failure;
use crate::ops::{self, Row, Standing, Table};
use crate::pipeline::suggest;
use crate::report::{Palette, duration};

/// How much of an axis's value is shown.
const WIDEST: usize = 32;

pub(super) fn run(session: &Session, args: &Args) -> Result<Exit, Failure> {
    let workspace = session.workspace()?;
    let mut tables = ops::table(&workspace, &session.overrides(), &args.steps)?;
    let output = &session.output;
    if tables.is_empty() {
        output.say("no step has a matrix\n");
    }
    if let Some(problem) = choose(&mut tables, args) {
        output.say(&format!("error: {problem}\n"));
        return Ok(Exit::Usage);
    }
    if args.json {
        output.print_json(&tables)?;
    } else if args.csv {
        output.print(&csv(&tables))?;
    } else {
        let mut notes = String::new();
        let mut texts = Vec::new();
        for table in &tables {
            let shown = Shown::new(table, output.width, args.columns.is_empty());
            texts.push(shown.text(&output.out));
            notes.push_str(&shown.note());
        }
        output.print(&texts.join("\n"))?;
        output.say(&notes);
    }
    Ok(Exit::Fine)
}

/// Keeps the columns and the order that are asked for; says what is not there.
fn choose(tables: &mut [Table], args: &Args) -> Option<String> {
    let measured: BTreeSet<String> = tables.iter().flat_map(|t| t.columns.clone()).collect();
    let axes: BTreeSet<String> = tables.iter().flat_map(|t| t.axes.clone()).collect();
    let by = args
        .sort
        .as_deref()
        .map(|by| by.strip_prefix('-').unwrap_or(by));
    let unknown = |name: &&str| !measured.contains(*name);
    let wrong = args.columns.iter().map(String::as_str).find(unknown);
    let sortable = |name: &&str| {
        measured.contains(*name) || axes.contains(*name) || ["state", "seconds"].contains(name)
    };
    let wrong = wrong.or_else(|| by.filter(|name| !sortable(name)));
    if let Some(name) = wrong {
        let known = measured.iter().chain(&axes).map(String::as_str);
        let hint = suggest(name, known, "the columns are");
        let hint = hint.map_or(String::new(), |hint| format!("\nhint: {hint}"));
        return Some(format!("there is no column '{name}'{hint}"));
    }
    for table in tables {
        if !args.columns.is_empty() {
            let there = |name: &&String| table.columns.contains(name);
            table.columns = args.columns.iter().filter(there).cloned().collect();
        }
        if let Some(by) = by {
            let descending = args.sort.as_deref() != Some(by);
            table.rows.sort_by(|a, b| compare(a, b, by, descending));
        }
    }
    None
}

/// Rows by one column; those without a value are last either way.
fn compare(a: &Row, b: &Row, by: &str, descending: bool) -> Ordering {
    let value = |row: &Row| match by {
        "state" => Some(Value::from(row.state as u64)),
        "seconds" => row.seconds.map(Value::from),
        by => row.metrics.get(by).or_else(|| row.cell.get(by)).cloned(),
    };
    match (value(a), value(b)) {
        (Some(a), Some(b)) => {
            let order = match (a.as_f64(), b.as_f64()) {
                (Some(a), Some(b)) => a.total_cmp(&b),
                _ => text(&a).cmp(&text(&b)),
            };
            if descending { order.reverse() } else { order }
        }
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// A table laid out for a number of columns on the screen.
struct Shown<'a> {
    table: &'a Table,
    columns: Vec<&'a str>,
    left_out: usize,
}

impl<'a> Shown<'a> {
    fn new(table: &'a Table, width: usize, may_leave_out: bool) -> Self {
        let mut columns: Vec<&str> = table.columns.iter().map(String::as_str).collect();
        if may_leave_out {
            // What tells the cells apart first, and then what is least nested.
            let same = |name: &str| {
                let mut values = table.rows.iter().filter_map(|row| row.metrics.get(name));
                let first = values.next();
                table.rows.len() > 1 && values.all(|value| Some(value) == first)
            };
            columns.sort_by_key(|name| (same(name), name.matches('.').count(), *name));
        }
        let mut shown = Shown {
            table,
            columns: Vec::new(),
            left_out: 0,
        };
        for (n, name) in columns.iter().enumerate() {
            shown.columns.push(name);
            if may_leave_out && shown.width() > width && n > 0 {
                shown.columns.pop();
                shown.left_out += 1;
            }
        }
        shown
    }

    fn width(&self) -> usize {
        let lines = self.cells();
        widths(&lines)
            .iter()
            .map(|width| width + 2)
            .sum::<usize>()
            .saturating_sub(2)
    }

    /// The heading and the rows, without their padding.
    fn cells(&self) -> Vec<Vec<String>> {
        let table = self.table;
        let mut heading: Vec<String> = match table.axes.is_empty() {
            true => vec!["STEP".to_owned()],
            false => table.axes.clone(),
        };
        heading.push("STATE".to_owned());
        heading.extend(self.columns.iter().map(|name| (*name).to_owned()));
        heading.push("TIME".to_owned());
        let row = |row: &Row| {
            let mut line: Vec<String> = match row.texts.is_empty() {
                true => vec![row.name.to_string()],
                false => row.texts.iter().map(|text| short(text)).collect(),
            };
            line.push(row.state.word().to_owned());
            line.extend(
                self.columns
                    .iter()
                    .map(|name| rounded(row.metrics.get(*name))),
            );
            line.push(row.seconds.map_or("-".to_owned(), duration));
            line
        };
        std::iter::once(heading)
            .chain(table.rows.iter().map(row))
            .collect()
    }

    fn text(&self, palette: &Palette) -> String {
        let lines = self.cells();
        let widths = widths(&lines);
        let left = self.table.axes.len().max(1) + 1;
        let strong = palette.strong;
        let mut text = format!("{strong}{}{strong:#}\n", self.table.step);
        for (n, line) in lines.iter().enumerate() {
            let mut row = String::new();
            for (at, (cell, &width)) in line.iter().zip(&widths).enumerate() {
                let padded = match at < left {
                    true => format!("{cell:<width$}"),
                    false => format!("{cell:>width$}"),
                };
                let style = (n > 0 && at + 1 == left).then(|| style(self.table, n - 1, palette));
                let style = style.unwrap_or_default();
                row.push_str(&format!("{style}{padded}{style:#}  "));
            }
            text.push_str(row.trim_end());
            text.push('\n');
        }
        text
    }

    fn note(&self) -> String {
        match self.left_out {
            0 => String::new(),
            n => format!(
                "{}: {n} more columns; choose with --columns, or see --csv and --json\n",
                self.table.step
            ),
        }
    }
}

fn style(table: &Table, row: usize, palette: &Palette) -> anstyle::Style {
    match table.rows[row].state {
        Standing::Current | Standing::Stored => palette.good,
        Standing::Unfinished => palette.bad,
        Standing::Stale | Standing::NotBuilt | Standing::Unknown => palette.warn,
    }
}

fn widths(lines: &[Vec<String>]) -> Vec<usize> {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |at: usize| lines.iter().map(move |line| line[at].chars().count()).max();
    (0..columns).map(|at| width(at).unwrap_or(0)).collect()
}

fn short(text: &str) -> String {
    match text.chars().count() > WIDEST {
        true => text.chars().take(WIDEST - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// A number for people: five digits that count. What is missing is no zero.
fn rounded(value: Option<&Value>) -> String {
    match value {
        None => "-".to_owned(),
        Some(Value::Number(number)) if !number.is_f64() => number.to_string(),
        Some(value) => match value.as_f64() {
            None => value.to_string(),
            Some(0.0) => "0".to_owned(),
            Some(number) => {
                let magnitude = number.abs().log10().floor();
                if !(-4.0..9.0).contains(&magnitude) {
                    return format!("{number:.4e}");
                }
                let decimals = (4.0 - magnitude).max(0.0) as usize;
                let text = format!("{number:.decimals$}");
                match text.contains('.') {
                    true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                    false => text,
                }
            }
        },
    }
}

/// One table for all steps: numbers as they were measured, empty where none was.
fn csv(tables: &[Table]) -> String {
    let axes: BTreeSet<&String> = tables.iter().flat_map(|table| &table.axes).collect();
    let mut columns: Vec<&String> = Vec::new();
    for name in tables.iter().flat_map(|table| &table.columns) {
        if !columns.contains(&name) {
            columns.push(name);
        }
    }
    let mut heading = vec!["step".to_owned()];
    heading.extend(axes.iter().map(|axis| axis.to_string()));
    heading.extend(["state".to_owned(), "seconds".to_owned()]);
    heading.extend(columns.iter().map(|name| name.to_string()));
    let mut csv = record(&heading);
    for row in tables.iter().flat_map(|table| &table.rows) {
        let mut line = vec![row.name.base().to_owned()];
        line.extend(
            axes.iter()
                .map(|axis| row.cell.get(*axis).map_or(String::new(), text)),
        );
        line.push(row.state.word().to_owned());
        line.push(
            row.seconds
                .map_or(String::new(), |seconds| seconds.to_string()),
        );
        line.extend(
            columns
                .iter()
                .map(|name| row.metrics.get(*name).map_or(String::new(), text)),
        );
        csv.push_str(&record(&line));
    }
    csv
}

/// A line of CSV, as RFC 4180 quotes it.
fn record(fields: &[String]) -> String {
    let field = |field: &String| match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.clone(),
    };
    let fields: Vec<String> = fields.iter().map(field).collect();
    fields.join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(lr: f64, state: Standing, loss: Option<f64>) -> Row {
        Row {
            name: format!("train[lr={lr}]").parse().unwrap(),
            cell: [("lr".to_owned(), json!(lr))].into(),
            texts: vec![lr.to_string()],
            state,
            seconds: loss.map(|_| 1.5),
            metrics: loss
                .iter()
                .map(|loss| ("loss".to_owned(), json!(loss)))
                .collect(),
        }
    }

    fn table() -> Table {
        Table {
            step: "train".to_owned(),
            axes: vec!["lr".to_owned()],
            columns: vec!["loss".to_owned()],
            rows: vec![
                row(0.5, Standing::Current, Some(2.123456)),
                row(0.25, Standing::Stale, None),
                row(0.125, Standing::Stored, Some(0.0)),
            ],
        }
    }

    fn args(sort: Option<&str>, columns: &[&str]) -> Args {
        Args {
            steps: Vec::new(),
            sort: sort.map(str::to_owned),
            columns: columns.iter().map(|c| (*c).to_owned()).collect(),
            json: false,
            csv: false,
        }
    }

    #[test]
    fn what_is_missing_is_no_zero() {
        let table = table();
        let shown = Shown::new(&table, 80, true);
        insta::assert_snapshot!(shown.text(&Palette::new(false)), @r"
        train
        lr     STATE      loss   TIME
        0.5    current  2.1235  1.5 s
        0.25   stale         -      -
        0.125  stored        0  1.5 s
        ");
        insta::assert_snapshot!(csv(&[table]), @r"
        step,lr,state,seconds,loss
        train,0.5,current,1.5,2.123456
        train,0.25,stale,,
        train,0.125,stored,1.5,0.0
        ");
    }

    #[test]
    fn missing_rows_are_last_in_either_order() {
        for (sort, want) in [("loss", [0.125, 0.5, 0.25]), ("-loss", [0.5, 0.125, 0.25])] {
            let mut tables = [table()];
            assert_eq!(choose(&mut tables, &args(Some(sort), &[])), None);
            let order: Vec<f64> = tables[0]
                .rows
                .iter()
                .filter_map(|r| r.cell["lr"].as_f64())
                .collect();
            assert_eq!(order, want);
        }
        let wrong = choose(&mut [table()], &args(None, &["los"]));
        assert_eq!(
            wrong.unwrap(),
            "there is no column 'los'\nhint: did you mean 'loss'?"
        );
    }

    #[test]
    fn columns_that_do_not_fit_are_said() {
        let mut wide = table();
        for n in 0..9 {
            let name = format!("metric.number{n}");
            wide.rows[0].metrics.insert(name.clone(), json!(n));
            wide.columns.push(name);
        }
        let shown = Shown::new(&wide, 60, true);
        assert!(
            shown
                .text(&Palette::new(false))
                .lines()
                .all(|line| line.chars().count() <= 60)
        );
        assert!(
            shown.note().starts_with("train: 8 more columns"),
            "{}",
            shown.note()
        );
    }

    #[test]
    fn numbers_are_rounded_for_people_alone() {
        for (value, text) in [
            (json!(2.123456), "2.1235"),
            (json!(123456.7), "123457"),
            (json!(0.5), "0.5"),
            (json!(1e-7), "1.0000e-7"),
            (json!(12), "12"),
            (json!(true), "true"),
        ] {
            assert_eq!(rounded(Some(&value)), text);
        }
    }
}
