//! The drawing as a page: folded and in full, with a table of all steps; a few lines of script add moving, zooming and searching.

use std::fmt::Write;

use super::group::{Grouped, apart};
use super::svg::{Frame, anchor, drawing, grouped, signs, style};
use super::{Diagram, Step, counts, escape, escaped};

/// More steps than this are not drawn one by one.
const MOST: usize = 1500;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page: one file that needs no other.
pub fn html(diagram: &Diagram) -> String {
    let folded = grouped(diagram);
    let every = apart(diagram);
    let mut text =
        String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    let _ = write!(
        text,
        "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{} – pipeline</title>\n<style>\n{STYLE}{}</style>\n</head>\n<body>\n",
        escaped(&diagram.title),
        style(),
    );
    text.push_str(
        "<svg width=\"0\" height=\"0\" style=\"position:absolute\" aria-hidden=\"true\">\n",
    );
    signs(&mut text);
    text.push_str("</svg>\n");
    head(&mut text, diagram);
    drawings(&mut text, diagram, &folded, &every);
    table(&mut text, diagram);
    let _ = write!(text, "<script>\n{SCRIPT}</script>\n</body>\n</html>\n");
    text
}

fn head(text: &mut String, diagram: &Diagram) {
    let _ = write!(
        text,
        "<header>\n<h1>{}</h1>\n<p>{}</p>\n<ul class=\"legend\">",
        escaped(&diagram.title),
        escaped(&diagram.subtitle),
    );
    for (state, n) in counts(diagram.steps.iter()) {
        let _ = write!(
            text,
            "<li><svg class=\"sign\" aria-hidden=\"true\"><use href=\"#sign-{}\" class=\"{0}\"/></svg>{n} {}</li>",
            state.class(),
            state.words(),
        );
    }
    text.push_str("</ul>\n</header>\n");
}

fn drawings(text: &mut String, diagram: &Diagram, folded: &Grouped, every: &Grouped) {
    let choice = folded != every && diagram.steps.len() <= MOST;
    text.push_str("<main>\n");
    if choice {
        text.push_str(
            "<input type=\"radio\" name=\"view\" id=\"folded\" checked>\
             <label for=\"folded\">alike steps folded</label>\n\
             <input type=\"radio\" name=\"view\" id=\"every\">\
             <label for=\"every\">every step</label>\n",
        );
    }
    text.push_str("<div class=\"stage first\" tabindex=\"0\">\n");
    let first = match choice || diagram.steps.len() > MOST {
        true => folded,
        false => every,
    };
    drawing(text, diagram, first, Frame::Bare);
    text.push_str("</div>\n");
    if choice {
        text.push_str("<div class=\"stage second\" tabindex=\"0\">\n");
        drawing(text, diagram, every, Frame::Bare);
        text.push_str("</div>\n");
    }
    text.push_str("</main>\n");
}

fn table(text: &mut String, diagram: &Diagram) {
    text.push_str(
        "<table>\n<thead><tr><th>step</th><th>kind</th><th>state</th><th>time</th><th>more</th></tr></thead>\n<tbody>\n",
    );
    for step in &diagram.steps {
        row(text, step);
    }
    text.push_str("</tbody>\n</table>\n");
}

fn row(text: &mut String, step: &Step) {
    let chain = if step.critical {
        " class=\"chain\""
    } else {
        ""
    };
    let _ = write!(
        text,
        "<tr id=\"step-{}\"{chain}><th>{}</th><td>{}</td><td><svg class=\"sign\" aria-hidden=\"true\">\
         <use href=\"#sign-{}\" class=\"{3}\"/></svg>{}</td><td class=\"number\">{}</td><td>",
        escaped(&anchor(&step.name)),
        escaped(&step.name),
        escaped(&step.kind),
        step.state.class(),
        step.state.words(),
        escaped(&step.time),
    );
    if !step.facts.is_empty() {
        text.push_str("<details><summary>");
        let (_, first) = &step.facts[0];
        let short: String = first.chars().take(60).collect();
        escape(text, &short);
        if short.len() < first.len() {
            text.push('…');
        }
        text.push_str("</summary><dl>");
        for (heading, fact) in &step.facts {
            let _ = write!(text, "<dt>{heading}</dt><dd>{}</dd>", escaped(fact));
        }
        text.push_str("</dl></details>");
    }
    text.push_str("</td></tr>\n");
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn diagram(n: usize) -> Diagram {
        let step = |n| Step {
            name: format!("s{n}"),
            kind: "k".into(),
            state: State::Run,
            time: String::new(),
            critical: false,
            facts: vec![("why", "never <built>".into())],
        };
        Diagram {
            title: "p".into(),
            subtitle: String::new(),
            steps: (0..n).map(step).collect(),
            edges: (1..n).map(|n| (0, n)).collect(),
        }
    }

    #[test]
    fn a_small_pipeline_has_one_drawing() {
        let page = html(&diagram(3));
        assert_eq!(page.matches("class=\"stage ").count(), 1);
        assert!(!page.contains("type=\"radio\""));
        assert_eq!(page.matches("<tr id=\"step-s").count(), 3);
        assert!(page.contains("never &lt;built&gt;") && !page.contains("<built>"));
    }

    #[test]
    fn a_large_one_has_two_and_a_huge_one_only_the_folded() {
        let stages = |n| html(&diagram(n)).matches("class=\"stage ").count();
        assert_eq!((stages(600), stages(MOST + 1)), (2, 1));
    }

    #[test]
    fn the_page_loads_nothing() {
        let page = html(&diagram(100)).replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("src="));
    }
}
