//! What is wrong with a pipeline file: message, place, hint, and how a person sees it.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// A range of bytes in a source text.
pub type Span = Range<usize>;

/// The columns of text in notes and hints.
const WIDTH: usize = 64;
/// The columns that a source line with its carets should fit into.
const COLUMNS: usize = 80;
/// How many diagnostics are shown in full.
const SHOWN: usize = 20;

/// The text of a pipeline file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// Where it is from, as shown to people: relative to the project root.
    pub path: String,
    /// Its content.
    pub text: String,
}

impl Source {
    /// The line (from 1) and the column (in characters, from 1) of a byte.
    pub fn position(&self, byte: usize) -> (usize, usize) {
        let before = self.text.get(..byte).unwrap_or(&self.text);
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.bytes().filter(|&b| b == b'\n').count() + 1;
        (line, before[start..].chars().count() + 1)
    }
}

/// Whether a diagnostic forbids going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The pipeline cannot be used.
    Error,
    /// The pipeline can be used, but something in it has no effect.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether it forbids going on.
    pub severity: Severity,
    /// What is wrong, lower case, without a full stop.
    pub message: String,
    /// Where; none when it is not in the file (an override, say).
    pub span: Option<Span>,
    /// What is written beside the carets; may be empty.
    pub label: String,
    /// Other places that matter, with what to say of each.
    pub also: Vec<(Span, String)>,
    /// What a reader should know besides.
    pub note: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error at a place of the file, if it has one.
    pub fn error(span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Error,
            message: message.into(),
            span: span.into(),
            label: String::new(),
            also: Vec::new(),
            note: None,
            hint: None,
        }
    }

    /// A warning at a place of the file, if it has one.
    pub fn warning(span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Warning,
            ..Self::error(span, message)
        }
    }

    /// Sets what is written beside the carets.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Points at another place.
    pub fn also(mut self, span: Span, label: impl Into<String>) -> Self {
        self.also.push((span, label.into()));
        self
    }

    /// Adds what a reader should know besides.
    pub fn note(mut self, note: impl Into<Option<String>>) -> Self {
        self.note = note.into();
        self
    }

    /// Adds what to do.
    pub fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }

    fn render(&self, source: &Source, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let (text, first_line, start) = self.excerpt(source);
        let local = |span: &Span| clamp(span.start - start..span.end - start, text);
        let (beside, below) = match self.label_fits(source) {
            true => (self.label.as_str(), ""),
            false => ("", self.label.as_str()),
        };
        let mut group = Group::with_title(level.primary_title(&self.message));
        if let Some(span) = &self.span {
            let mut snippet = Snippet::source(text)
                .path(&source.path)
                .line_start(first_line)
                .annotation(annotation(AnnotationKind::Primary, local(span), beside));
            for (span, label) in &self.also {
                let context = annotation(AnnotationKind::Context, local(span), label);
                snippet = snippet.annotation(context);
            }
            group = group.element(snippet);
        }
        if !below.is_empty() {
            group = group.element(Level::NOTE.message(wrap(below)));
        }
        if let Some(note) = &self.note {
            group = group.element(Level::NOTE.message(wrap(note)));
        }
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(wrap(hint)));
        }
        renderer.render(&[group])
    }

    /// Whether the label has room beside the carets.
    fn label_fits(&self, source: &Source) -> bool {
        let end = self.span.as_ref().map_or(0, |span| span.end);
        let (line, column) = source.position(end);
        let gutter = line.ilog10() as usize + 4;
        gutter + column + self.label.chars().count() <= COLUMNS
    }

    /// The whole lines that the spans lie in, with the number of the first
    /// and the byte at which it starts, so that a long file is not scanned
    /// for each diagnostic.
    fn excerpt<'a>(&self, source: &'a Source) -> (&'a str, usize, usize) {
        let spans = || self.span.iter().chain(self.also.iter().map(|(s, _)| s));
        let text = &source.text;
        let first = spans().map(|s| s.start).min().unwrap_or(0).min(text.len());
        let last = spans().map(|s| s.end).max().unwrap_or(0).min(text.len());
        let bytes = text.as_bytes();
        let start = bytes[..first].iter().rposition(|&b| b == b'\n');
        let start = start.map_or(0, |at| at + 1);
        let end = bytes[last..].iter().position(|&b| b == b'\n');
        let end = end.map_or(text.len(), |at| last + at);
        let line = bytes[..start].iter().filter(|&&b| b == b'\n').count() + 1;
        (text.get(start..end).unwrap_or(text), line, start)
    }
}

fn annotation<'a>(
    kind: AnnotationKind,
    span: Span,
    label: &'a str,
) -> annotate_snippets::Annotation<'a> {
    let label = (!label.is_empty()).then_some(label);
    kind.span(span).label(label)
}

/// Keeps a span inside of `text` and on its character boundaries.
fn clamp(span: Span, text: &str) -> Span {
    let floor = |at: usize| {
        (0..=at.min(text.len()))
            .rev()
            .find(|&at| text.is_char_boundary(at))
            .unwrap_or(0)
    };
    let start = floor(span.start);
    start..floor(span.end).max(start)
}

/// Breaks text into lines of at most [`WIDTH`] characters, at spaces.
fn wrap(text: &str) -> String {
    let mut wrapped = String::with_capacity(text.len());
    for (number, line) in text.lines().enumerate() {
        if number > 0 {
            wrapped.push('\n');
        }
        let mut column = 0;
        for word in line.split(' ') {
            let width = word.chars().count();
            if column > 0 && column + 1 + width > WIDTH {
                wrapped.push('\n');
                column = 0;
            } else if column > 0 {
                wrapped.push(' ');
                column += 1;
            }
            wrapped.push_str(word);
            column += width;
        }
    }
    wrapped
}

/// Everything that is wrong with one pipeline file, sorted by place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    /// The file.
    pub source: Source,
    /// What is wrong with it: what has no place first, then from top to bottom.
    pub list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Sorts `list` by place.
    pub fn new(source: Source, mut list: Vec<Diagnostic>) -> Self {
        let place = |d: &Diagnostic| d.span.as_ref().map(|span| (span.start, span.end));
        list.sort_by(|a, b| (place(a), &a.message).cmp(&(place(b), &b.message)));
        list.dedup();
        Diagnostics { source, list }
    }

    /// How many errors there are (warnings not counted).
    pub fn errors(&self) -> usize {
        let error = |d: &&Diagnostic| d.severity == Severity::Error;
        self.list.iter().filter(error).count()
    }

    /// The diagnostics as a person reads them, with the source lines; in
    /// colour (ANSI escapes) when asked for. Ends without a line feed.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled().hyperlink(false)
        } else {
            Renderer::plain()
        };
        let renderer = renderer.term_width(COLUMNS);
        let mut blocks: Vec<String> = self
            .list
            .iter()
            .take(SHOWN)
            .map(|diagnostic| diagnostic.render(&self.source, &renderer))
            .collect();
        if self.list.len() > SHOWN {
            blocks.push(format!("… and {} more", self.list.len() - SHOWN));
        }
        blocks.join("\n\n")
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// The candidate that `wrong` is most likely a slip of, if one is near enough.
pub fn closest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = wrong.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::jaro_winkler(&lower, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(score, _)| *score >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))
        .map(|(_, candidate)| candidate)
}

/// `did you mean '…'?`, or else what there is.
pub fn suggest<'a, I>(wrong: &str, candidates: I, what: &str) -> Option<String>
where
    I: IntoIterator<Item = &'a str>,
    I::IntoIter: Clone,
{
    const LISTED: usize = 16;
    let candidates = candidates.into_iter();
    if let Some(candidate) = closest(wrong, candidates.clone()) {
        return Some(format!("did you mean '{candidate}'?"));
    }
    let mut all: Vec<&str> = candidates.collect();
    all.sort_unstable();
    if all.is_empty() {
        return None;
    }
    let more = if all.len() > LISTED { ", …" } else { "" };
    all.truncate(LISTED);
    Some(format!("{what}: {}{more}", all.join(", ")))
}
