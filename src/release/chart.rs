//! `loss.svg`: training logs as one panel each: the loss, its moving mean, and validation points.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::FontTransform;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Deserialize;

use crate::data::{self, DataError};

/// One line of a training log; what the chart does not show is ignored.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Line {
    step: u64,
    #[serde(default)]
    loss: Option<f64>,
    #[serde(default)]
    validation_loss: Option<f64>,
}

/// What one training run logged.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// The run's label.
    pub label: String,
    /// Training loss by step, nats per token.
    pub training: Vec<(u64, f64)>,
    /// Validation loss by step, nats per token.
    pub validation: Vec<(u64, f64)>,
}

/// A chart could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// A log could not be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// There is no log.
    #[error("there is no training log to draw")]
    NoLog,
    /// A log holds no loss.
    #[error("the training log '{0}' holds no loss")]
    Empty(String),
    /// The drawing library refused.
    #[error("failed to draw the chart: {0}")]
    Draw(String),
}

impl Log {
    /// Reads a `log.jsonl`.
    pub fn read(label: &str, path: &Path) -> Result<Self, ChartError> {
        let lines: Vec<Line> = data::read_jsonl(path)?;
        let points = |value: fn(&Line) -> Option<f64>| {
            let point = |line: &Line| Some((line.step, value(line)?));
            lines.iter().filter_map(point).collect::<Vec<_>>()
        };
        let log = Log {
            label: label.to_owned(),
            training: points(|line| line.loss),
            validation: points(|line| line.validation_loss),
        };
        if log.training.is_empty() && log.validation.is_empty() {
            return Err(ChartError::Empty(label.to_owned()));
        }
        Ok(log)
    }
}

/// Plotters rounds to whole units: with several a pixel, curves stay smooth.
const UNITS: u32 = 4;
/// Size of one panel, in pixels.
const PANEL: (u32, u32) = (420, 320);
/// Panels beside each other before a new row begins.
const COLUMNS: usize = 3;
/// Height of the title above all panels.
const TITLE: u32 = 44;
/// More raw points than this are thinned: the eye cannot tell them apart.
const MOST_POINTS: usize = 1000;

/// Okabe and Ito's blue and vermilion, told apart by every kind of eye.
pub(super) const TRAINING: RGBColor = RGBColor(0, 114, 178);
pub(super) const VALIDATION: RGBColor = RGBColor(213, 94, 0);
pub(super) const INK: RGBColor = RGBColor(51, 51, 51);
pub(super) const FAINT: RGBColor = RGBColor(225, 225, 225);

/// Draws the logs as SVG text. The same logs give the same bytes.
pub fn loss(title: &str, logs: &[Log]) -> Result<String, ChartError> {
    if logs.is_empty() {
        return Err(ChartError::NoLog);
    }
    let columns = logs.len().min(COLUMNS);
    let rows = logs.len().div_ceil(columns);
    let size = (PANEL.0 * columns as u32, TITLE + PANEL.1 * rows as u32);
    svg(size, |root| draw(root, title, logs, (rows, columns)))
}

/// What `draw` draws on white, `size` in pixels, as SVG text.
pub(super) fn svg(
    size: (u32, u32),
    draw: impl FnOnce(&Area<'_>) -> Drawn,
) -> Result<String, ChartError> {
    let units = (size.0 * UNITS, size.1 * UNITS);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, units).into_drawing_area();
        let drawn = root
            .fill(&WHITE)
            .map_err(Into::into)
            .and_then(|()| draw(&root))
            .and_then(|()| Ok(root.present()?));
        drawn.map_err(|e| ChartError::Draw(e.to_string()))?;
    }
    let extent = |(width, height): (u32, u32)| format!("width=\"{width}\" height=\"{height}\"");
    Ok(svg.replacen(&extent(units), &extent(size), 1))
}

/// Pixels as units.
pub(super) const fn px(pixels: u32) -> u32 {
    pixels * UNITS
}

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(root: &Area<'_>, title: &str, logs: &[Log], grid: (usize, usize)) -> Drawn {
    let (top, below) = root.split_vertically(px(TITLE));
    let style = text(22).pos(Pos::new(HPos::Center, VPos::Center));
    let middle = (top.dim_in_pixel().0 as i32 / 2, px(TITLE / 2 + 4) as i32);
    top.draw_text(title, &style, middle)?;
    for (panel, log) in below.split_evenly(grid).iter().zip(logs) {
        draw_panel(panel, log)?;
    }
    Ok(())
}

fn draw_panel(area: &Area<'_>, log: &Log) -> Drawn {
    let (x, y) = ranges(log);
    let mut chart = ChartBuilder::on(area)
        .caption(&log.label, text(18))
        .margin(px(10))
        .margin_right(px(18))
        .x_label_area_size(px(44))
        .y_label_area_size(px(60))
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(FAINT.stroke_width(px(1)))
        .light_line_style(TRANSPARENT)
        .axis_style(INK.stroke_width(px(1)))
        .set_all_tick_mark_size(px(5))
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.2}"))
        .label_style(text(14))
        .axis_desc_style(text(15))
        .x_desc("step")
        .y_desc("loss (nats/token)")
        .draw()?;
    let raw = thinned(&log.training);
    if !raw.is_empty() {
        let smooth = thinned(&smoothed(&log.training));
        let faint = TRAINING.mix(0.35).stroke_width(px(1));
        let strong = TRAINING.stroke_width(px(2));
        chart
            .draw_series(LineSeries::new(points(&raw), faint))?
            .label("training")
            .legend(move |(x, y)| swatch(x, y, faint));
        chart
            .draw_series(LineSeries::new(points(&smooth), strong))?
            .label("training, smoothed")
            .legend(move |(x, y)| swatch(x, y, strong));
    }
    if !log.validation.is_empty() {
        let dot = |at| Circle::new(at, px(4), VALIDATION.filled());
        let line = VALIDATION.mix(0.6).stroke_width(px(1));
        chart.draw_series(LineSeries::new(points(&log.validation), line))?;
        chart
            .draw_series(points(&log.validation).map(dot))?
            .label("validation")
            .legend(|(x, y)| Circle::new((x + px(9) as i32, y), px(4), VALIDATION.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(FAINT)
        .label_font(text(14))
        .legend_area_size(px(26))
        .margin(px(6))
        .draw()?;
    Ok(())
}

fn swatch(x: i32, y: i32, style: ShapeStyle) -> PathElement<(i32, i32)> {
    PathElement::new([(x, y), (x + px(18) as i32, y)], style)
}

/// The viewer's own sans-serif: no font is needed to draw.
pub(super) fn text(size: u32) -> TextStyle<'static> {
    let font = FontDesc::new(
        FontFamily::SansSerif,
        f64::from(px(size)),
        FontStyle::Normal,
    );
    font.transform(FontTransform::None).color(&INK)
}

fn points(series: &[(u64, f64)]) -> impl Iterator<Item = (f64, f64)> + '_ {
    series.iter().map(|(step, loss)| (*step as f64, *loss))
}

/// What the axes show: all steps from 0, all losses with a margin.
fn ranges(log: &Log) -> (std::ops::Range<f64>, std::ops::Range<f64>) {
    let all = || points(&log.training).chain(points(&log.validation));
    let last = all().map(|(x, _)| x).fold(1.0, f64::max);
    let low = all().map(|(_, y)| y).fold(f64::INFINITY, f64::min);
    let high = all().map(|(_, y)| y).fold(f64::NEG_INFINITY, f64::max);
    let range = high - low;
    let margin = (range * 0.06).max(0.01);
    // The legend stands at the upper right: a curve that is there gets room below it.
    let crowded = all().any(|(x, y)| x > 0.5 * last && y > low + 0.7 * range);
    let top = high + margin + if crowded { 0.35 * range } else { 0.0 };
    let bottom = match low < 0.0 {
        true => low - margin,
        false => (low - margin).max(0.0),
    };
    (0.0..last * 1.02, bottom..top)
}

/// The mean over about a twentieth of the run around each point, over what
/// there is of it at the ends.
fn smoothed(series: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let reach = (series.len() / 40).max(2);
    let mean = |(i, (step, _)): (usize, &(u64, f64))| {
        let end = (i + reach + 1).min(series.len());
        let around = &series[i.saturating_sub(reach)..end];
        let sum: f64 = around.iter().map(|(_, loss)| loss).sum();
        (*step, sum / around.len() as f64)
    };
    series.iter().enumerate().map(mean).collect()
}

/// Every k-th point and the last, at most about [`MOST_POINTS`].
fn thinned(series: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let every = series.len().div_ceil(MOST_POINTS).max(1);
    let mut kept: Vec<_> = series.iter().step_by(every).copied().collect();
    if let Some(last) = series.last().filter(|last| kept.last() != Some(last)) {
        kept.push(*last);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(label: &str, steps: u64) -> Log {
        let loss = |step: u64| 2.0 + 6.0 * (-(step as f64) / 80.0).exp();
        let noise = |step: u64| ((step * 7919) % 101) as f64 / 200.0 - 0.25;
        Log {
            label: label.into(),
            training: (1..=steps).map(|s| (s, loss(s) + noise(s))).collect(),
            validation: (1..=steps / 50)
                .map(|s| (s * 50, loss(s * 50) + 0.1))
                .collect(),
        }
    }

    #[test]
    fn a_chart_has_a_panel_per_log_and_stable_bytes() {
        let logs = [log("base <1>", 300), log("stage1", 200), log("stage2", 200)];
        let svg = loss("Loss", &logs).unwrap();
        assert_eq!(svg, loss("Loss", &logs).unwrap());
        for text in [
            "Loss",
            "base &lt;1&gt;",
            "stage1",
            "stage2",
            "nats/token",
            "validation",
        ] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(svg.contains("font-family=\"sans-serif\""));
        if let Some(path) = std::env::var_os("RETUNE_TEST_CHART") {
            std::fs::write(path, &svg).unwrap();
        }
    }

    #[test]
    fn one_point_and_a_constant_loss_can_be_drawn() {
        let one = Log {
            label: "one".into(),
            training: vec![(1, 2.0)],
            validation: vec![],
        };
        let svg = loss("Loss", &[one]).unwrap();
        assert!(!svg.contains("validation") && !svg.contains("NaN"));
    }

    #[test]
    fn a_log_is_read_from_its_lines_and_must_hold_a_loss() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let lines = "{\"step\":1,\"tokens\":9,\"loss\":2.5,\"learning_rate\":0.1,\"grad_norm\":1}\n{\"step\":1,\"validation_loss\":2.25}\n";
        std::fs::write(&path, lines).unwrap();
        let log = Log::read("a", &path).unwrap();
        assert_eq!(
            (log.training, log.validation),
            (vec![(1, 2.5)], vec![(1, 2.25)])
        );
        std::fs::write(&path, "{\"step\":1}\n").unwrap();
        assert!(matches!(Log::read("a", &path), Err(ChartError::Empty(_))));
        assert!(matches!(loss("", &[]), Err(ChartError::NoLog)));
    }

    #[test]
    fn smoothing_keeps_a_constant_and_thinning_keeps_the_ends() {
        let pair = smoothed(&[(1, 1.0), (2, 3.0)]);
        assert_eq!(pair, [(1, 2.0), (2, 2.0)]);
        let flat: Vec<(u64, f64)> = (0..5000).map(|s| (s, 1.5)).collect();
        assert!(smoothed(&flat).iter().all(|(_, y)| (y - 1.5).abs() < 1e-12));
        let thin = thinned(&flat);
        assert!(thin.len() <= MOST_POINTS + 1);
        assert_eq!((thin[0].0, thin[thin.len() - 1].0), (0, 4999));
    }
}
