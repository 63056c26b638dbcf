//! Report pages: one HTML file of headings, verdicts, tables and excerpts with marked spans, that reads alone.
//!
//! No scripts, nothing fetched, light and dark, fit to print. A page is made of
//! what its JSON record says and adds nothing to it.

use std::fmt::Write;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Over its limit, and the pipeline file says to go on.
    Warn,
    /// Over its limit.
    Fail,
}

impl Verdict {
    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        }
    }

    fn mark(self) -> &'static str {
        match self {
            Verdict::Pass => "✓",
            Verdict::Warn => "!",
            Verdict::Fail => "✗",
        }
    }
}

/// A piece of a text with the places that matter: a few characters around each
/// marked span, `…` for what is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Excerpt(Vec<Piece>);

/// A run of characters of an excerpt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The characters.
    pub text: String,
    /// Whether they are what the excerpt is about.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub marked: bool,
}

impl Excerpt {
    /// The start of a text, at most `most` characters.
    pub fn start(text: &str, most: usize) -> Self {
        let mut excerpt = Excerpt::default();
        let end = text.char_indices().nth(most).map(|(at, _)| at);
        excerpt.push(&text[..end.unwrap_or(text.len())], false);
        if end.is_some() {
            excerpt.push("…", false);
        }
        excerpt
    }

    /// The spans of `text` (byte ranges; out of order, overlapping or between
    /// two bytes of a character they are brought into order), each with up to
    /// `around` characters before and behind it.
    pub fn around(text: &str, spans: &[Range<usize>], around: usize) -> Self {
        let mut excerpt = Excerpt::default();
        let mut at = 0;
        for span in in_order(text, spans) {
            let before = back(text, span.start, around);
            let behind = if at == 0 {
                0
            } else {
                forward(text, at, around)
            };
            if before > behind {
                excerpt.push(&text[at..behind], false);
                excerpt.push("…", false);
                excerpt.push(&text[before..span.start], false);
            } else {
                excerpt.push(&text[at..span.start], false);
            }
            excerpt.push(&text[span.clone()], true);
            at = span.end;
        }
        let end = forward(text, at, around);
        excerpt.push(&text[at..end], false);
        if end < text.len() {
            excerpt.push("…", false);
        }
        excerpt
    }

    /// The pieces in their order.
    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// The text without marks.
    pub fn plain(&self) -> String {
        self.0.iter().map(|piece| piece.text.as_str()).collect()
    }

    fn push(&mut self, text: &str, marked: bool) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(last) if last.marked == marked => last.text.push_str(text),
            _ => self.0.push(Piece {
                text: text.to_owned(),
                marked,
            }),
        }
    }

    fn html(&self) -> String {
        let piece = |piece: &Piece| match piece.marked {
            true => format!("<mark>{}</mark>", escape(&piece.text)),
            false => escape(&piece.text),
        };
        self.0.iter().map(piece).collect()
    }
}

/// The spans as whole characters inside the text, sorted, none touching another.
fn in_order(text: &str, spans: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut sorted: Vec<Range<usize>> = spans
        .iter()
        .map(|span| floor(text, span.start)..floor(text, span.end.max(span.start)))
        .collect();
    sorted.sort_by_key(|span| (span.start, span.end));
    let mut apart: Vec<Range<usize>> = Vec::with_capacity(sorted.len());
    for span in sorted {
        match apart.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => apart.push(span),
        }
    }
    apart
}

/// The start of the character that byte `at` belongs to, or the end of the text.
fn floor(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at.min(text.len()))
}

/// The place `count` characters before `at`.
fn back(text: &str, at: usize, count: usize) -> usize {
    let mut before = text[..at].char_indices().rev();
    match count.checked_sub(1) {
        None => at,
        Some(n) => before.nth(n).map_or(0, |(at, _)| at),
    }
}

/// The place `count` characters behind `at`.
fn forward(text: &str, at: usize, count: usize) -> usize {
    let behind = text[at..].char_indices().nth(count);
    behind.map_or(text.len(), |(n, _)| at + n)
}

/// What stands in a cell of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A path, an id, a name of a field.
    Code(String),
    /// A count; digits in groups of three.
    Count(u64),
    /// A share, 0 to 1, as a percentage with one decimal.
    Share(f64),
    /// How a check came out.
    Verdict(Verdict),
    /// A piece of a text.
    Excerpt(Excerpt),
    /// Nothing was measured.
    Missing,
}

impl Cell {
    /// Words.
    pub fn text(text: impl Into<String>) -> Self {
        Cell::Text(text.into())
    }

    /// A path, an id, a name of a field.
    pub fn code(text: impl Into<String>) -> Self {
        Cell::Code(text.into())
    }

    fn html(&self) -> String {
        match self {
            Cell::Text(text) => format!("<td>{}</td>", escape(text)),
            Cell::Code(text) => format!("<td><code>{}</code></td>", escape(text)),
            Cell::Count(n) => format!("<td class=\"n\">{}</td>", grouped(*n)),
            Cell::Share(share) => format!("<td class=\"n\">{:.1} %</td>", share * 100.0),
            Cell::Verdict(v) => format!("<td>{}</td>", badge(*v, v.name())),
            Cell::Excerpt(e) => format!("<td class=\"x\">{}</td>", e.html()),
            Cell::Missing => "<td class=\"dim\">not measured</td>".to_owned(),
        }
    }
}

/// A number with its digits in groups of three: `1 234 567`, narrow spaces.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

fn badge(verdict: Verdict, word: &str) -> String {
    let (class, mark) = (verdict.name(), verdict.mark());
    format!(
        "<b class=\"{class}\"><span>{mark}</span> {}</b>",
        escape(word)
    )
}

/// A page that is being written.
pub struct Page {
    title: String,
    body: String,
}

impl Page {
    /// A page with a title and how the whole came out.
    pub fn new(title: &str, verdict: Option<Verdict>) -> Self {
        let badge = verdict.map_or(String::new(), |v| {
            format!("<p class=\"badge\">{}</p>\n", badge(v, v.name()))
        });
        Page {
            title: title.to_owned(),
            body: format!("<header>\n{badge}<h1>{}</h1>\n</header>\n", escape(title)),
        }
    }

    /// A heading, with how its part came out.
    pub fn heading(&mut self, text: &str, verdict: Option<Verdict>) -> &mut Self {
        let badge = verdict.map_or(String::new(), |v| format!(" {}", badge(v, v.name())));
        self.add(format_args!("<h2>{}{badge}</h2>\n", escape(text)))
    }

    /// A paragraph.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.add(format_args!("<p>{}</p>\n", escape(text)))
    }

    /// A table; nothing at all when it has no rows.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<Cell>]) -> &mut Self {
        if rows.is_empty() {
            return self;
        }
        let head: String = head
            .iter()
            .map(|h| format!("<th>{}</th>", escape(h)))
            .collect();
        self.add(format_args!(
            "<div class=\"wide\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        ));
        for row in rows {
            let cells: String = row.iter().map(Cell::html).collect();
            self.add(format_args!("<tr>{cells}</tr>\n"));
        }
        self.add(format_args!("</tbody></table></div>\n"))
    }

    /// One row of a data set: where it is from, and named parts of it.
    pub fn row(&mut self, origin: &str, note: &str, parts: &[(&str, Excerpt)]) -> &mut Self {
        let (origin, note) = (&shortened(origin), &shortened(note));
        let note = match note.as_str() {
            "" => String::new(),
            note => format!(" <span class=\"dim\">{}</span>", escape(note)),
        };
        self.add(format_args!(
            "<section class=\"row\">\n<h3><code>{}</code>{note}</h3>\n",
            escape(origin)
        ));
        for (name, excerpt) in parts {
            let (name, text) = (escape(&shortened(name)), excerpt.html());
            self.add(format_args!("<h4>{name}</h4>\n<pre>{text}</pre>\n"));
        }
        self.add(format_args!("</section>\n"))
    }

    /// Adds what `content` writes behind a line that opens it.
    pub fn fold(
        &mut self,
        summary: &str,
        open: bool,
        content: impl FnOnce(&mut Page),
    ) -> &mut Self {
        let open = if open { " open" } else { "" };
        let summary = escape(summary);
        self.add(format_args!(
            "<details{open}>\n<summary>{summary}</summary>\n"
        ));
        content(self);
        self.add(format_args!("</details>\n"))
    }

    /// A drawing, an `<svg>` element as our own charts are.
    pub fn drawing(&mut self, svg: &str) -> &mut Self {
        self.add(format_args!("<figure>{svg}</figure>\n"))
    }

    /// The whole page.
    pub fn finish(&self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{}</body>\n</html>\n",
            escape(&self.title),
            self.body
        )
    }

    fn add(&mut self, text: std::fmt::Arguments<'_>) -> &mut Self {
        // Writing to a string cannot fail.
        let _ = self.body.write_fmt(text);
        self
    }
}

/// A text for people in which digests are as short as elsewhere: rows that were
/// made of a finding have its id for an origin.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 12;
    const WHOLE: usize = 64;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        let run = &rest[at..];
        let end = run
            .find(|c: char| !c.is_ascii_hexdigit())
            .unwrap_or(run.len());
        out.push_str(&rest[..at]);
        out.push_str(if end == WHOLE {
            &run[..SHOWN]
        } else {
            &run[..end]
        });
        rest = &run[end..];
    }
    out + rest
}

/// Text as HTML; what cannot stand in a page (control characters) as its picture.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            '\u{0}'..='\u{1f}' => out.extend(char::from_u32(0x2400 + c as u32)),
            c => out.push(c),
        }
    }
    out
}

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1f2328; --dim: #636c76; --line: #d1d9e0; --soft: #f6f8fa;
  --pass: #1a7f37; --warn: #9a6700; --fail: #cf222e; --mark: #fff0b3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9198a1; --line: #3d444d; --soft: #151b23;
  --pass: #3fb950; --warn: #d29922; --fail: #f85149; --mark: #6b5300; } body { background: #0d1117; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: .2rem 0 1rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: .95rem; margin: .8rem 0 .2rem; font-weight: 600; } h4 { font-size: .8rem; margin: .5rem 0 .1rem; color: var(--dim); }
b.pass { color: var(--pass); } b.warn { color: var(--warn); } b.fail { color: var(--fail); }
.badge { margin: 0; font-size: 1.05rem; } .dim { color: var(--dim); font-weight: 400; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: .5rem 0; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; white-space: nowrap; } td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.x, pre { white-space: pre-wrap; overflow-wrap: anywhere; } code, pre, td.x { font: 13px/1.45 ui-monospace, monospace; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; padding: .5rem .7rem; margin: .2rem 0; }
mark { background: var(--mark); color: inherit; border-radius: 3px; padding: 0 1px; }
details { margin: .5rem 0; } summary { cursor: pointer; } section.row { border-left: 3px solid var(--line); padding-left: .8rem; margin: 1rem 0; }
figure { margin: 1rem 0; overflow-x: auto; } figure svg { max-width: 100%; height: auto; }
@media print { body { max-width: none; margin: 0; } section.row { break-inside: avoid; } }
";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(excerpt: &Excerpt) -> String {
        let piece = |p: &Piece| match p.marked {
            true => format!("[{}]", p.text),
            false => p.text.clone(),
        };
        excerpt.pieces().iter().map(piece).collect()
    }

    #[test]
    fn an_excerpt_shows_the_spans_and_a_little_around_them() {
        let around = |text: &str, spans: &[(usize, usize)], around: usize| {
            let spans: Vec<Range<usize>> = spans.iter().map(|&(from, to)| from..to).collect();
            shown(&Excerpt::around(text, &spans, around))
        };
        let text = "The quick brown fox jumps over the lazy dog";
        assert_eq!(around(text, &[(10, 15)], 4), "…ick [brown] fox…");
        assert_eq!(around(text, &[(40, 43), (4, 9)], 2), "…e [quick] b…y [dog]");
        assert_eq!(around(text, &[(0, 3)], 4), "[The] qui…");
        assert_eq!(
            around(text, &[(4, 9), (10, 15)], 3),
            "…he [quick] [brown] fo…"
        );
        assert_eq!(around("äöü", &[(1, 3)], 9), "[ä]öü");
        assert_eq!(shown(&Excerpt::start("äöü", 2)), "äö…");
    }

    #[test]
    fn digests_are_short_and_other_words_whole() {
        let digest = "0123456789abcdef".repeat(4);
        assert_eq!(
            shortened(&format!("@{digest}, face of data/a.jsonl:12")),
            "@0123456789ab, face of data/a.jsonl:12"
        );
    }

    #[test]
    fn nothing_of_the_data_is_taken_for_html() {
        let mut page = Page::new("a <b>", Some(Verdict::Fail));
        page.heading("h", None)
            .table(
                &["<th>"],
                &[vec![Cell::text("<script>"), Cell::Count(1234567)]],
            )
            .row("f<1", "n&", &[("prompt", Excerpt::start("\u{0}<i>", 9))]);
        let html = page.finish();
        assert!(
            !html.contains("<script>") && !html.contains("<i>"),
            "{html}"
        );
        assert!(html.contains("␀&lt;i&gt;") && html.contains("1\u{202f}234\u{202f}567"));
    }

    proptest! {
        #[test]
        fn any_spans_give_an_excerpt_of_the_text(
            text in "[a-zäß€😀 ]{0,60}",
            spans in prop::collection::vec((0usize..80, 0usize..20), 0..5),
            around in 0usize..8,
        ) {
            let spans: Vec<_> = spans.into_iter().map(|(at, n)| at..at + n).collect();
            let excerpt = Excerpt::around(&text, &spans, around);
            for part in excerpt.plain().split('…') {
                prop_assert!(text.contains(part));
            }
            let marked: usize = excerpt.pieces().iter().filter(|p| p.marked).map(|p| p.text.len()).sum();
            let wanted: usize = in_order(&text, &spans).iter().map(|s| s.len()).sum();
            prop_assert_eq!(marked, wanted);
        }
    }
}
