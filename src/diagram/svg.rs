//! The drawing as SVG, in light and dark, readable without colour: every state has a sign of its own.

use std::fmt::Write;

use super::group::{Group, Grouped, apart, folded};
use super::layout::{Gaps, Layout, Point, Size, layout};
use super::{Diagram, State, Step, counts, escape, escaped, tooltip};

const MARGIN: f64 = 24.0;
const BOX_HEIGHT: f64 = 46.0;
const GAPS: Gaps = Gaps {
    layer: 56.0,
    box_: 14.0,
    line: 12.0,
};
/// Widths of characters, on the safe side, of the name and of the line below.
const NAME_CHAR: f64 = 7.6;
const LINE_CHAR: f64 = 6.3;
/// What is beside the name: the bar, the sign, the margins.
const BESIDE: f64 = 46.0;
const NARROWEST: f64 = 120.0;
const WIDEST: f64 = 250.0;
/// Of how many steps of a box the tooltip tells.
const NAMED: usize = 12;

/// How many alike steps are folded into one box where not all are wanted.
pub(super) const FOLD: usize = 5;
/// Drawings of at most this many steps fold nothing but the cells of matrices.
const SMALL: usize = 40;

/// Colours by state: the box, its border, the sign; in light and in dark.
const COLOURS: [(&str, [&str; 3], [&str; 3]); 7] = [
    (
        "ok",
        ["#eefbf1", "#9fd3ad", "#1a7f37"],
        ["#12261a", "#2b5738", "#57ab5a"],
    ),
    (
        "restore",
        ["#eaf4ff", "#9cc6f0", "#0969da"],
        ["#12213a", "#28508a", "#6cb6ff"],
    ),
    (
        "maybe",
        ["#fffaeb", "#dfc98a", "#9a6700"],
        ["#292213", "#6a551f", "#c69026"],
    ),
    (
        "run",
        ["#fff1d6", "#e0a84a", "#9a6700"],
        ["#33260f", "#8a6520", "#e0a840"],
    ),
    (
        "blocked",
        ["#f4f5f7", "#c4cad1", "#6e7781"],
        ["#1c2128", "#444c56", "#8b949e"],
    ),
    (
        "bad",
        ["#ffebe9", "#f0938c", "#cf222e"],
        ["#341a1d", "#8c3a3a", "#f47067"],
    ),
    (
        "running",
        ["#f3edff", "#b294ec", "#8250df"],
        ["#241b3a", "#5f46a0", "#b083f0"],
    ),
];

/// The drawing alone. Without `all`, alike steps of large pipelines and cells
/// of matrices are folded.
pub fn svg(diagram: &Diagram, all: bool) -> String {
    let grouped = match all {
        true => apart(diagram),
        false => grouped(diagram),
    };
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    drawing(&mut text, diagram, &grouped, Frame::Whole);
    text
}

/// The boxes of a drawing that is not to show every step.
pub(super) fn grouped(diagram: &Diagram) -> Grouped {
    let is_cell = |step: &Step| step.name.contains('[');
    if diagram.steps.len() <= SMALL && !diagram.steps.iter().any(is_cell) {
        return apart(diagram);
    }
    folded(diagram, FOLD)
}

/// What a drawing has around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// It stands alone: with title, legend and colours.
    Whole,
    /// It is a part of a page that has all that.
    Bare,
}

/// Adds a drawing.
pub(super) fn drawing(text: &mut String, diagram: &Diagram, grouped: &Grouped, frame: Frame) {
    let width = box_width(diagram, grouped);
    let size = Size {
        width,
        height: BOX_HEIGHT,
    };
    let sizes = vec![size; grouped.groups.len()];
    let places = layout(&sizes, &grouped.edges, GAPS);
    let top = match frame {
        Frame::Whole => 84.0,
        Frame::Bare => MARGIN,
    };
    let legend = counts(diagram.steps.iter());
    let least = match frame {
        Frame::Whole => legend_width(&legend).max(320.0),
        Frame::Bare => 0.0,
    };
    let whole = (
        places.width.max(least) + 2.0 * MARGIN,
        places.height + top + MARGIN,
    );
    let _ = writeln!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w:.0} {h:.0}\" \
         width=\"{w:.0}\" height=\"{h:.0}\" role=\"img\" aria-label=\"{}\">",
        escaped(&diagram.title),
        w = whole.0,
        h = whole.1,
    );
    if frame == Frame::Whole {
        let _ = write!(text, "<style>\n{}{}</style>\n", style(), page_style());
        signs(text);
        text.push_str("<rect class=\"page\" width=\"100%\" height=\"100%\"/>\n");
        head(text, diagram, &legend);
    }
    let _ = writeln!(text, "<g transform=\"translate({MARGIN} {top})\">");
    lines(text, diagram, grouped, &places);
    for (group, at) in grouped.groups.iter().zip(&places.boxes) {
        step_box(text, diagram, group, *at, width);
    }
    text.push_str("</g>\n</svg>\n");
}

fn box_width(diagram: &Diagram, grouped: &Grouped) -> f64 {
    let wanted = |group: &Group| {
        let name = title(group).chars().count() as f64 * NAME_CHAR;
        let line = second_line(diagram, group).chars().count() as f64 * LINE_CHAR;
        name.max(line) + BESIDE
    };
    let widest = grouped.groups.iter().map(wanted).fold(NARROWEST, f64::max);
    widest.min(WIDEST).ceil()
}

fn head(text: &mut String, diagram: &Diagram, legend: &[(State, usize)]) {
    let _ = writeln!(
        text,
        "<text class=\"title\" x=\"{MARGIN}\" y=\"32\">{}<tspan class=\"dim sub\" dx=\"10\">{}</tspan></text>",
        escaped(&diagram.title),
        escaped(&diagram.subtitle),
    );
    let mut x = MARGIN;
    for (state, n) in legend {
        let words = legend_words(*state, *n);
        let _ = writeln!(
            text,
            "<use href=\"#sign-{}\" class=\"{0}\" x=\"{x:.0}\" y=\"46\" width=\"14\" height=\"14\"/>\
             <text class=\"line\" x=\"{:.0}\" y=\"57\">{words}</text>",
            state.class(),
            x + 19.0,
        );
        x += legend_item(&words);
    }
}

fn legend_words(state: State, n: usize) -> String {
    format!("{n} {}", state.words())
}

fn legend_item(words: &str) -> f64 {
    words.chars().count() as f64 * LINE_CHAR + 36.0
}

fn legend_width(legend: &[(State, usize)]) -> f64 {
    let items = legend
        .iter()
        .map(|(s, n)| legend_item(&legend_words(*s, *n)));
    items.sum()
}

/// Whether a line is on the longest chain: both ends are, and nothing of the
/// chain lies between them.
fn critical(diagram: &Diagram, from: &Group, to: &Group) -> bool {
    let chain = |group: &Group| {
        let steps = group.steps.iter().copied();
        steps
            .filter(|&s| diagram.steps[s].critical)
            .collect::<Vec<_>>()
    };
    let (from, to) = (chain(from), chain(to));
    let (Some(&last), Some(&first)) = (from.last(), to.first()) else {
        return false;
    };
    let between = &diagram.steps[last + 1..first.max(last + 1)];
    !between.iter().any(|step| step.critical)
}

fn lines(text: &mut String, diagram: &Diagram, grouped: &Grouped, places: &Layout) {
    // The highlighted ones last, to lie on top.
    for on_chain in [false, true] {
        for (line, (from, to)) in places.lines.iter().zip(&grouped.edges) {
            let (from, to) = (&grouped.groups[*from], &grouped.groups[*to]);
            if critical(diagram, from, to) == on_chain {
                let class = if on_chain { "edge chain" } else { "edge" };
                let _ = writeln!(text, "<path class=\"{class}\" d=\"{}\"/>", path(line));
            }
        }
    }
}

/// Curves from layer to layer, straight past the boxes of a layer, with an
/// arrow's head at the end.
fn path(points: &[Point]) -> String {
    let mut path = format!("M{:.1} {:.1}", points[0].x, points[0].y);
    for pair in points.chunks(2) {
        let [a, b] = pair else { continue };
        if *a != points[0] {
            let _ = write!(path, "L{:.1} {:.1}", a.x, a.y);
        }
        let middle = (a.x + b.x) / 2.0;
        match (a.y - b.y).abs() < 0.05 {
            true => {
                let _ = write!(path, "H{:.1}", b.x);
            }
            false => {
                let _ = write!(
                    path,
                    "C{middle:.1} {:.1} {middle:.1} {:.1} {:.1} {:.1}",
                    a.y, b.y, b.x, b.y
                );
            }
        }
    }
    path + "m-5 -3.5l5 3.5l-5 3.5"
}

/// What a box says below its name.
fn second_line(diagram: &Diagram, group: &Group) -> String {
    let first = &diagram.steps[group.steps[0]];
    let time = match &group.steps[..] {
        [only] => diagram.steps[*only].time.clone(),
        several => format!("{} steps", several.len()),
    };
    match time.is_empty() {
        true => first.kind.clone(),
        false => format!("{} · {time}", first.kind),
    }
}

fn title(group: &Group) -> String {
    match group.steps.len() {
        1 => group.name.clone(),
        n => format!("{} ×{n}", group.name),
    }
}

fn fitting(text: &str, room: f64, char: f64) -> String {
    let most = (room / char).floor() as usize;
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    kept + "…"
}

fn step_box(text: &mut String, diagram: &Diagram, group: &Group, at: Point, width: f64) {
    let steps = || group.steps.iter().map(|&step| &diagram.steps[step]);
    // The one that most wants to be seen.
    let state = steps()
        .map(|step| step.state)
        .max()
        .unwrap_or(State::UpToDate);
    let chain = if steps().any(|step| step.critical) {
        " chain"
    } else {
        ""
    };
    let first = &diagram.steps[group.steps[0]];
    let _ = write!(
        text,
        "<a href=\"#step-{}\" class=\"step {}{chain}\" transform=\"translate({:.1} {:.1})\"><title>",
        escaped(&anchor(&first.name)),
        state.class(),
        at.x,
        at.y,
    );
    escape(text, &about(diagram, group));
    text.push_str("</title>");
    if group.steps.len() > 1 {
        let _ = write!(
            text,
            "<rect class=\"box\" x=\"5\" y=\"5\" width=\"{width}\" height=\"{BOX_HEIGHT}\" rx=\"7\"/>"
        );
    }
    let _ = write!(
        text,
        "<rect class=\"box\" width=\"{width}\" height=\"{BOX_HEIGHT}\" rx=\"7\"/>\
         <text class=\"name\" x=\"12\" y=\"19\">{}</text>\
         <text class=\"dim line\" x=\"12\" y=\"36\">{}</text>\
         <use href=\"#sign-{}\" x=\"{:.0}\" y=\"8\" width=\"14\" height=\"14\"/>",
        escaped(&fitting(&title(group), width - BESIDE + 6.0, NAME_CHAR)),
        escaped(&fitting(
            &second_line(diagram, group),
            width - 20.0,
            LINE_CHAR
        )),
        state.class(),
        width - 23.0,
    );
    if group.steps.len() > 1 {
        shares(text, &counts(steps()), group.steps.len(), width);
    }
    text.push_str("</a>\n");
}

/// The states of the steps of a box, as a bar at its lower side.
fn shares(text: &mut String, counts: &[(State, usize)], total: usize, width: f64) {
    let room = width - 24.0;
    let mut x = 12.0;
    for (state, n) in counts {
        let share = room * *n as f64 / total as f64;
        let _ = write!(
            text,
            "<rect class=\"share {}\" x=\"{x:.1}\" y=\"{}\" width=\"{share:.1}\" height=\"3\"/>",
            state.class(),
            BOX_HEIGHT - 5.0,
        );
        x += share;
    }
}

fn about(diagram: &Diagram, group: &Group) -> String {
    if let [only] = group.steps[..] {
        return tooltip(&diagram.steps[only]);
    }
    let steps = || group.steps.iter().map(|&step| &diagram.steps[step]);
    let told = counts(steps())
        .into_iter()
        .map(|(state, n)| legend_words(state, n));
    let told: Vec<String> = told.collect();
    let mut about = format!("{}\n{}", title(group), told.join(", "));
    for step in steps().take(NAMED) {
        let _ = write!(
            about,
            "\n{}: {} {}",
            step.name,
            step.state.words(),
            step.time
        );
    }
    let more = group.steps.len().saturating_sub(NAMED);
    if more > 0 {
        let _ = write!(about, "\n… and {more} more");
    }
    about
}

/// A step's name as the name of a place in a page.
pub(super) fn anchor(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let mut anchor = String::new();
    for c in name.chars() {
        match plain(c) {
            true => anchor.push(c),
            false => {
                let _ = write!(anchor, ":{:x}", u32::from(c));
            }
        }
    }
    anchor
}

/// The signs of the states, for `use`.
pub(super) fn signs(text: &mut String) {
    const SIGNS: [(&str, &str); 7] = [
        ("ok", "<path d=\"M3 7.5l3 3l5.5-6\"/>"),
        (
            "restore",
            "<path d=\"M11.2 5A5 5 0 1 0 12 8M11.6 1.6V5H8.2\"/>",
        ),
        (
            "maybe",
            "<path d=\"M4.4 5a2.7 2.7 0 1 1 3.9 2.4c-1 .5-1.3 1-1.3 1.9M7 11.6v.6\"/>",
        ),
        ("run", "<path class=\"full\" d=\"M4 2.5v9l7.5-4.5z\"/>"),
        ("blocked", "<path d=\"M3 7h8\"/>"),
        ("bad", "<path d=\"M3.5 3.5l7 7M10.500 3.500l-7 7\"/>"),
        (
            "running",
            "<circle cx=\"7\" cy=\"7\" r=\"5\"/><circle class=\"full\" cx=\"7\" cy=\"7\" r=\"2\"/>",
        ),
    ];
    text.push_str("<defs>\n");
    for (class, drawing) in SIGNS {
        let _ = writeln!(
            text,
            "<symbol id=\"sign-{class}\" viewBox=\"0 0 14 14\">{drawing}</symbol>"
        );
    }
    text.push_str("</defs>\n");
}

/// The styles of drawings.
pub(super) fn style() -> String {
    let mut style = String::from(
        "svg{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}\n\
         .name{font-size:13px;font-weight:600}.line{font-size:11px}\n\
         .box{stroke-width:1}.chain .box{stroke-width:2}\n\
         .edge{fill:none;stroke-width:1.2}.edge.chain{stroke-width:2.4}\n\
         symbol path,symbol circle{fill:none;stroke-width:1.8;stroke-linecap:round;stroke-linejoin:round}\n\
         a.step{cursor:pointer}a.step:hover .box{stroke-width:2.500}\n",
    );
    style.push_str(&scheme(false));
    let dark = scheme(true);
    let _ = write!(style, "@media (prefers-color-scheme:dark){{\n{dark}}}\n");
    style
}

fn scheme(dark: bool) -> String {
    let (ink, dim, edge, chain) = match dark {
        false => ("#1f2328", "#59636e", "#b6bec7", "#57606a"),
        true => ("#e6edf3", "#9198a1", "#4a525c", "#b1bac4"),
    };
    let mut style = format!(
        ".name,.title,.line{{fill:{ink}}}.dim{{fill:{dim}}}\
         .edge{{stroke:{edge}}}.edge.chain{{stroke:{chain}}}\n"
    );
    for (class, light, darker) in COLOURS {
        let [fill, stroke, sign] = if dark { darker } else { light };
        let _ = writeln!(
            style,
            ".{class} .box{{fill:{fill};stroke:{stroke}}}.{class}.chain .box{{stroke:{sign}}}\
             .{class} use,use.{class}{{stroke:{sign};color:{sign}}}.share.{class}{{fill:{sign}}}"
        );
    }
    style + ".full{fill:currentColor!important}\n"
}

/// What a drawing that stands alone has besides.
fn page_style() -> &'static str {
    ".title{font-size:17px;font-weight:600}.sub{font-size:12px;font-weight:400}\n\
     .page{fill:#fff}\n@media (prefers-color-scheme:dark){.page{fill:#0d1117}}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, state: State) -> Step {
        Step {
            name: name.into(),
            kind: "command".into(),
            state,
            time: "1.0 s".into(),
            critical: false,
            facts: vec![
                ("key", "0123".into()),
                ("input", "a <b> & \"c\"\u{7}".into()),
            ],
        }
    }

    fn diagram() -> Diagram {
        let mut steps = vec![step("rows", State::UpToDate)];
        steps.extend((0..6).map(|n| step(&format!("train[seed={n}]"), State::Run)));
        steps.push(step(
            "a-step-whose-name-is-much-too-long-for-any-box",
            State::Failed,
        ));
        let mut edges: Vec<_> = (1..7).map(|n| (0, n)).collect();
        edges.extend((1..7).map(|n| (n, 7)));
        Diagram {
            title: "p & q".into(),
            subtitle: "8 steps".into(),
            steps,
            edges,
        }
    }

    #[test]
    fn foreign_text_cannot_end_an_element() {
        let text = svg(&diagram(), true);
        assert!(text.contains("p &amp; q") && text.contains("a &lt;b&gt; &amp; &quot;c&quot; "));
        assert!(!text.contains('\u{7}'));
        assert_eq!(text.matches("<a ").count(), 8);
        assert_eq!(text.matches("</a>").count(), 8);
    }

    #[test]
    fn folded_drawings_have_fewer_boxes_and_tell_of_all_steps() {
        let text = svg(&diagram(), false);
        assert_eq!(text.matches("<a ").count(), 3);
        assert!(text.contains("train[…] ×6\n6 to run\ntrain[seed=0]: to run 1.0 s"));
    }

    #[test]
    fn every_state_has_colours_and_a_sign() {
        let mut text = style();
        signs(&mut text);
        for state in State::ALL {
            let class = state.class();
            assert!(text.contains(&format!("\n.{class} .box")), "{class}");
            assert!(text.contains(&format!("id=\"sign-{class}\"")), "{class}");
        }
    }

    #[test]
    fn anchors_are_different_for_different_names() {
        assert_eq!(anchor("a-b_c.1"), "a-b_c.1");
        assert_ne!(anchor("a[b=1]"), anchor("a[b:1]"));
    }

    #[test]
    fn the_chain_is_drawn_from_step_to_step() {
        let mut diagram = diagram();
        for critical in [0, 3, 7] {
            diagram.steps[critical].critical = true;
        }
        let text = svg(&diagram, true);
        assert_eq!(text.matches("class=\"edge chain\"").count(), 2);
    }
}
