//! Colours by what they mean; none of them carries anything that the words do not.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};

/// The styles of a stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct Palette {
    /// Something is as it should be.
    pub good: Style,
    /// Something failed.
    pub bad: Style,
    /// Something a person should look at.
    pub warn: Style,
    /// What a person looks for first.
    pub strong: Style,
    /// What a person reads last.
    pub dim: Style,
    /// Whether there are any styles.
    pub colour: bool,
}

impl Palette {
    /// With colours, or with no escape sequence at all.
    pub fn new(colour: bool) -> Self {
        if !colour {
            return Self::default();
        }
        Palette {
            good: AnsiColor::Green.on_default().bold(),
            bad: AnsiColor::Red.on_default().bold(),
            warn: AnsiColor::Yellow.on_default().bold(),
            strong: Style::new().bold(),
            dim: Style::new().dimmed(),
            colour,
        }
    }
}

/// `text` in a style.
pub(super) fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// `text` on one line, without escape sequences and other control characters,
/// as a terminal would leave it: after the last carriage return.
pub(super) fn clean(text: &str) -> String {
    let text = text.trim_end();
    let text = text.rsplit('\r').next().unwrap_or(text);
    anstream::adapter::strip_str(text)
        .to_string()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// `text` in at most `columns` characters, an ellipsis in place of the rest.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(columns.saturating_sub(1)).collect();
    short.truncate(short.trim_end().len());
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        assert_eq!(clean("10 %\r20 %\r\u{1b}[32mdone\u{1b}[0m\n"), "done");
        assert_eq!(clean("a\tb\u{8}"), "a b");
    }

    #[test]
    fn cutting_counts_characters() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("äöüß", 3), "äö…");
        assert_eq!(cut("ab cd", 4), "ab…");
    }

    #[test]
    fn without_colour_there_is_no_escape() {
        assert_eq!(paint(Palette::new(false).bad, "x"), "x");
        assert_eq!(paint(Palette::new(true).strong, "x"), "\u{1b}[1mx\u{1b}[0m");
    }
}
