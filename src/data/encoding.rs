//! Broken characters in texts: what a wrong decoding leaves behind.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// UTF-8 that was read as Windows-1252 or Latin-1: a lead byte's letter and a
/// continuation byte's sign, as in `Ã©` for `é` or `â€™` for `’`.
static MOJIBAKE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let continuation = "\u{80}-\u{bf}€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ";
    let two = format!("[ÃÂ][{continuation}]");
    let three = format!("[âãäåæçèéêëìíï][{continuation}]{{2}}");
    let four = format!("ð[{continuation}]{{3}}");
    Regex::new(&format!("{two}|{three}|{four}")).ok()
});

/// An escape that stayed an escape: half of a character above U+FFFF.
static ESCAPE: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}").ok());

/// What is wrong with a text, with the byte ranges of each kind.
pub fn faults_of(text: &str) -> Vec<(&'static str, Vec<Range<usize>>)> {
    let mut found = Vec::new();
    let mut add = |kind, spans: Vec<Range<usize>>| {
        if !spans.is_empty() {
            found.push((kind, spans));
        }
    };
    add("replacement character", chars(text, |c| c == '\u{fffd}'));
    add("NUL or control character", chars(text, is_control));
    add("byte order mark", chars(text, |c| c == '\u{feff}'));
    add("wrongly decoded (mojibake)", matches(&MOJIBAKE, text));
    add("half of a surrogate pair", lone_surrogates(text));
    found
}

fn chars(text: &str, is: impl Fn(char) -> bool) -> Vec<Range<usize>> {
    let found = text.char_indices().filter(|(_, c)| is(*c));
    found.map(|(at, c)| at..at + c.len_utf8()).collect()
}

/// What no text holds: controls but for line ends, tabs, form feeds, and the
/// escape that begins a terminal's colours; and noncharacters.
fn is_control(c: char) -> bool {
    let usual = matches!(c, '\t' | '\n' | '\r' | '\u{c}' | '\u{1b}');
    (c.is_control() && !usual) || matches!(c, '\u{fffe}' | '\u{ffff}')
}

fn matches(regex: &LazyLock<Option<Regex>>, text: &str) -> Vec<Range<usize>> {
    let found = regex.iter().flat_map(|regex| regex.find_iter(text));
    found.map(|m| m.range()).collect()
}

/// Surrogate escapes in words that are not a high one followed by a low one.
fn lone_surrogates(text: &str) -> Vec<Range<usize>> {
    let all = matches(&ESCAPE, text);
    let high = |range: &Range<usize>| matches!(text.as_bytes()[range.start + 3], b'8'..=b'9' | b'a'..=b'b' | b'A'..=b'B');
    let mut lone = Vec::new();
    let mut at = 0;
    while at < all.len() {
        let pair = high(&all[at])
            && all
                .get(at + 1)
                .is_some_and(|next| next.start == all[at].end && !high(next));
        if !pair {
            lone.push(all[at].clone());
        }
        at += if pair { 2 } else { 1 };
    }
    lone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<&'static str> {
        faults_of(text).into_iter().map(|(kind, _)| kind).collect()
    }

    #[test]
    fn broken_texts_are_told_from_foreign_ones() {
        for (text, kind) in [
            ("caf\u{fffd}", "replacement character"),
            ("a\0b", "NUL or control character"),
            ("\u{feff}{}", "byte order mark"),
            ("cafÃ©", "wrongly decoded (mojibake)"),
            ("itâ€™s", "wrongly decoded (mojibake)"),
            ("ðŸ˜€", "wrongly decoded (mojibake)"),
            (r"\ud83d alone", "half of a surrogate pair"),
            (r"\ude00\ud83d", "half of a surrogate pair"),
        ] {
            assert_eq!(kinds(text), [kind], "{text:?}");
        }
        for text in [
            "café – naïve 日本語 😀",
            "Ânimo, âge, ÃO",
            r"\ud83d\ude00",
            "a\tb\r\n\u{1b}[1m",
            "São Ângelo",
        ] {
            assert!(kinds(text).is_empty(), "{text:?} {:?}", kinds(text));
        }
    }
}
