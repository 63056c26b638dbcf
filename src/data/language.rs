//! Which languages rows are in: natural ones by an estimate, those of code by the names on its fences.

use super::Row;
use super::shingle::View;

/// Bytes of prose that are looked at, about.
const LOOKED_AT: usize = 300;
/// Letters below which nothing is said.
const ENOUGH: usize = 40;

/// The ISO 639-3 code of the language that a row's prompt is written in, as
/// the trigrams of its first words tell (whatlang, after Cavnar and Trenkle
/// 1994); `unknown` where there is too little prose, or it could be several.
pub fn natural_language(row: &Row) -> &'static str {
    // The last question: what comes before is often one text for all rows.
    let texts = View::Prompt.texts(row);
    let prose = texts.last().map_or(String::new(), |text| prose(text));
    if prose.chars().filter(|c| c.is_alphabetic()).count() < ENOUGH {
        return "unknown";
    }
    match whatlang::detect(&prose) {
        Some(found) if found.is_reliable() => found.lang().code(),
        _ => "unknown",
    }
}

/// The beginning of a text, without what stands in code fences and spans.
fn prose(text: &str) -> String {
    let mut found = String::new();
    let mut fenced = false;
    for line in text.lines() {
        if is_fence(line) {
            fenced = !fenced;
        } else if !fenced {
            let spans = line.split('`').step_by(2);
            spans.for_each(|span| found.push_str(span));
            found.push(' ');
        }
        if found.len() >= LOOKED_AT {
            break;
        }
    }
    found
}

fn is_fence(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("```") || line.starts_with("~~~")
}

/// The names on a row's opening code fences, in lower case, sorted, each once.
pub fn code_languages(row: &Row) -> Vec<String> {
    let mut names = Vec::new();
    for text in row.texts() {
        let mut fenced = false;
        for line in text.lines().filter(|line| is_fence(line)) {
            fenced = !fenced;
            let name = line.trim_start().trim_start_matches(['`', '~']).trim();
            let name = name.split([' ', ',', '{']).next().unwrap_or("");
            if fenced && !name.is_empty() && name.len() <= 20 {
                names.push(name.to_lowercase());
            }
        }
    }
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Content, Message, Role};

    fn row(prompt: &str, answer: &str) -> Row {
        let turns = vec![
            Message::new(
                Role::System,
                "Du bist ein Programm, das immer auf Deutsch antworten soll.",
            ),
            Message::new(Role::User, prompt),
            Message::new(Role::Assistant, answer),
        ];
        Row::new(Content::Messages(turns), Default::default(), "t:1")
    }

    #[test]
    fn the_question_decides_and_code_does_not() {
        let english =
            "Please explain why this function opens a file that nobody ever closes again.";
        let german =
            "Bitte erkläre, warum diese Funktion eine Datei öffnet, die niemand wieder schließt.";
        assert_eq!(natural_language(&row(english, "")), "eng");
        assert_eq!(natural_language(&row(german, "")), "deu");
        assert_eq!(natural_language(&row("ok?", "")), "unknown");
        let code = format!("```kotlin\nfun die der das(und: Wort) {{}}\n```\n{english}");
        assert_eq!(natural_language(&row(&code, "")), "eng");
    }

    #[test]
    fn fences_name_code() {
        let answer = "```Kotlin\nx\n```\n~~~ yaml\ny\n~~~\n```\nplain\n```\n```kotlin\nz\n```";
        assert_eq!(code_languages(&row("q", answer)), ["kotlin", "yaml"]);
    }
}
