//! Bars: how long the rows of data sets are, and how many have each value of a field.

use std::collections::BTreeMap;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::chart::{Area, ChartError, Drawn, FAINT, INK, TRAINING, VALIDATION, px, svg, text};

/// Size of a histogram, in pixels.
const PANEL: (u32, u32) = (420, 280);
/// Panels beside each other before a new row begins.
const COLUMNS: usize = 3;
/// Height of the title above all panels.
const TITLE: u32 = 44;
/// Bars of a histogram.
const BINS: u64 = 40;
/// Bars of a field; what is rarer is summed up.
const VALUES: usize = 12;
/// Height of such a bar with the room around it.
const BAR: u32 = 22;

/// One data set of a histogram.
pub struct Histogram<'a> {
    /// Its name.
    pub label: &'a str,
    /// How many rows have each length.
    pub counts: &'a BTreeMap<u64, u64>,
    /// The most that fits and the share of rows over it.
    pub limit: Option<(u64, f64)>,
}

/// Draws a histogram for each data set, with its median, 95th percentile and
/// the limit.
pub fn lengths(title: &str, unit: &str, sets: &[Histogram<'_>]) -> Result<String, ChartError> {
    let columns = sets.len().clamp(1, COLUMNS);
    let rows = sets.len().div_ceil(columns).max(1);
    let size = (PANEL.0 * columns as u32, TITLE + PANEL.1 * rows as u32);
    svg(size, |root| {
        let below = headed(root, title)?;
        for (panel, set) in below.split_evenly((rows, columns)).iter().zip(sets) {
            histogram(panel, unit, set)?;
        }
        Ok(())
    })
}

fn headed<'a>(root: &Area<'a>, title: &str) -> Result<Area<'a>, Box<dyn std::error::Error>> {
    let (top, below) = root.split_vertically(px(TITLE));
    let style = text(22).pos(Pos::new(HPos::Center, VPos::Center));
    let middle = (top.dim_in_pixel().0 as i32 / 2, px(TITLE / 2 + 4) as i32);
    top.draw_text(title, &style, middle)?;
    Ok(below)
}

/// The width of a bin: 1, 2 or 5 times a power of ten, so that edges are round.
fn bin_width(most: u64) -> u64 {
    let least = most.div_ceil(BINS).max(1);
    let mut ten = 1;
    loop {
        if let Some(width) = [1, 2, 5].map(|n| n * ten).into_iter().find(|&w| w >= least) {
            return width;
        }
        ten *= 10;
    }
}

/// The length that a share of the rows has at most.
fn percentile(counts: &BTreeMap<u64, u64>, percent: u64) -> u64 {
    let wanted = (counts.values().sum::<u64>() * percent)
        .div_ceil(100)
        .max(1);
    let mut met = 0;
    let found = counts.iter().find(|(_, n)| {
        met += **n;
        met >= wanted
    });
    found.map_or(0, |(length, _)| *length)
}

fn histogram(area: &Area<'_>, unit: &str, set: &Histogram<'_>) -> Drawn {
    // A few long rows would press all others together: they go to the last bar.
    let most = percentile(set.counts, 99).max(1) * 5 / 4;
    let most = most
        .min(set.counts.last_key_value().map_or(1, |(length, _)| *length))
        .max(1);
    let width = bin_width(most + 1);
    let last = most / width;
    let mut bins: BTreeMap<u64, u64> = BTreeMap::new();
    for (length, n) in set.counts {
        *bins.entry((length / width).min(last)).or_default() += n;
    }
    let high = bins.values().copied().max().unwrap_or(1) as f64 * 1.18;
    let end = ((last + 1) * width) as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(set.label, text(18))
        .margin(px(10))
        .margin_right(px(18))
        .x_label_area_size(px(44))
        .y_label_area_size(px(60))
        .build_cartesian_2d(0.0..end, 0.0..high)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(FAINT.stroke_width(px(1)))
        .light_line_style(TRANSPARENT)
        .axis_style(INK.stroke_width(px(1)))
        .set_all_tick_mark_size(px(5))
        .x_labels(6)
        .y_labels(5)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .label_style(text(14))
        .axis_desc_style(text(15))
        .x_desc(unit)
        .y_desc("rows")
        .draw()?;
    chart.draw_series(bins.iter().map(|(bin, n)| {
        let (from, to) = ((bin * width) as f64, ((bin + 1) * width) as f64);
        let gap = (to - from) * 0.06;
        Rectangle::new(
            [(from + gap, 0.0), (to - gap, *n as f64)],
            TRAINING.mix(0.75).filled(),
        )
    }))?;
    let mut marks = vec![
        (percentile(set.counts, 50), "half".to_owned(), INK),
        (percentile(set.counts, 95), "95 %".to_owned(), INK),
    ];
    if let Some((limit, share)) = set.limit {
        marks.push((
            limit,
            format!("limit, {:.1} % over", share * 100.0),
            VALIDATION,
        ));
    }
    for (level, (at, name, colour)) in marks.into_iter().enumerate() {
        let at = at as f64;
        if at > end {
            continue;
        }
        let line = [(at, 0.0), (at, high)];
        chart.draw_series([PathElement::new(line, colour.stroke_width(px(1)))])?;
        // Names to the inside, each a line lower, so that none hides another.
        let left = at > end * 0.6;
        let side = if left { HPos::Right } else { HPos::Left };
        let style = text(13).color(&colour).pos(Pos::new(side, VPos::Top));
        let shift = end * if left { -0.012 } else { 0.012 };
        let place = (at + shift, high * (1.0 - 0.075 * level as f64));
        chart.draw_series([Text::new(name, place, style)])?;
    }
    Ok(())
}

/// Draws the values of fields as bars, the most frequent first, with their share of all rows.
pub fn categories(
    title: &str,
    rows: u64,
    fields: &[(&str, &BTreeMap<String, u64>)],
) -> Result<String, ChartError> {
    let columns = fields.len().clamp(1, COLUMNS);
    let lists: Vec<(&str, Vec<(String, u64)>)> = fields
        .iter()
        .map(|(field, counts)| (*field, most_frequent(counts)))
        .collect();
    let heights: Vec<u32> = lists
        .chunks(columns)
        .map(|row| {
            44 + BAR
                * row
                    .iter()
                    .map(|(_, list)| list.len() as u32)
                    .max()
                    .unwrap_or(0)
        })
        .collect();
    let size = (
        PANEL.0 * columns as u32,
        TITLE + heights.iter().sum::<u32>().max(BAR),
    );
    svg(size, |root| {
        let mut below = headed(root, title)?;
        for (row, height) in lists.chunks(columns).zip(&heights) {
            let (line, rest) = below.split_vertically(px(*height));
            for (panel, (field, list)) in line.split_evenly((1, columns)).iter().zip(row) {
                field_bars(panel, field, list, rows)?;
            }
            below = rest;
        }
        Ok(())
    })
}

/// The most frequent values, and the others as one.
fn most_frequent(counts: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let mut list: Vec<(String, u64)> = counts.iter().map(|(name, n)| (name.clone(), *n)).collect();
    list.sort_by_key(|(name, n)| (std::cmp::Reverse(*n), name.clone()));
    if list.len() > VALUES {
        let rest = list.split_off(VALUES - 1);
        let sum = rest.iter().map(|(_, n)| n).sum();
        list.push((format!("{} others", rest.len()), sum));
    }
    list
}

fn field_bars(area: &Area<'_>, field: &str, list: &[(String, u64)], rows: u64) -> Drawn {
    const NAMES: u32 = 130;
    const COUNTS: u32 = 110;
    let caption = text(18).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw_text(field, &caption, (px(NAMES) as i32, px(18) as i32))?;
    let room = f64::from(area.dim_in_pixel().0) - f64::from(px(NAMES + COUNTS));
    let most = list.iter().map(|(_, n)| *n).max().unwrap_or(1).max(1) as f64;
    for (i, (name, n)) in list.iter().enumerate() {
        let top = px(36 + BAR * i as u32) as i32;
        let middle = top + px(BAR / 2) as i32;
        let (left, length) = (px(NAMES) as i32, (room * *n as f64 / most) as i32);
        let bar = [
            (left, top + px(3) as i32),
            (left + length.max(1), top + px(BAR - 3) as i32),
        ];
        area.draw(&Rectangle::new(bar, TRAINING.mix(0.75).filled()))?;
        let name: String = match name.chars().count() {
            0..=18 => name.clone(),
            _ => name.chars().take(17).chain(['…']).collect(),
        };
        let style = text(14).pos(Pos::new(HPos::Right, VPos::Center));
        area.draw_text(&name, &style, (left - px(8) as i32, middle))?;
        let share = *n as f64 / rows.max(1) as f64 * 100.0;
        let style = text(13).pos(Pos::new(HPos::Left, VPos::Center));
        let place = (left + length + px(6) as i32, middle);
        area.draw_text(&format!("{n} ({share:.1} %)"), &style, place)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_of_bins_are_round() {
        assert_eq!(
            [1, 40, 41, 150, 2000, 2001].map(bin_width),
            [1, 1, 2, 5, 50, 100]
        );
    }

    #[test]
    fn charts_say_what_they_count_and_have_stable_bytes() {
        let counts: BTreeMap<u64, u64> = (20..900u64)
            .map(|n| (n, 1000 / (10 + n.abs_diff(250))))
            .chain([(90_000, 1)])
            .collect();
        let draw = || {
            let set = |label, limit| Histogram {
                label,
                counts: &counts,
                limit,
            };
            lengths(
                "Length",
                "tokens",
                &[set("train", Some((512, 0.25))), set("test", None)],
            )
            .unwrap()
        };
        let svg = draw();
        assert_eq!(svg, draw());
        for text in ["train", "test", "tokens", "limit, 25.0 % over", "95 %"] {
            assert!(svg.contains(text), "{text}");
        }
        let names: BTreeMap<String, u64> = (0..30)
            .map(|i| (format!("CWE-{i}, a rather long name"), 100 / (i + 1)))
            .collect();
        let tools = BTreeMap::from([("semgrep".to_owned(), 90), ("bandit".to_owned(), 12)]);
        let other = categories("Rows by", 400, &[("cwe", &names), ("tool", &tools)]).unwrap();
        for text in ["semgrep", "19 others", "90 (22.5 %)"] {
            assert!(other.contains(text), "{text}");
        }
        let none = categories("Rows by", 0, &[]).unwrap();
        assert!(none.contains("Rows by"));
        if let Some(folder) = std::env::var_os("RETUNE_TEST_BARS") {
            std::fs::write(std::path::Path::new(&folder).join("lengths.svg"), &svg).unwrap();
            std::fs::write(std::path::Path::new(&folder).join("categories.svg"), &other).unwrap();
        }
    }
}
