//! A value that changed: old and new on one line, or below each other from where they differ.

use serde_json::Value;

use super::style::{clean, cut};

/// How much of what is the same comes before what differs.
const BEFORE: usize = 20;

/// `head: old → new (note)`, or three lines where that is longer than `width`.
pub(super) fn change_lines(
    head: &str,
    [old, new]: [&Value; 2],
    note: &str,
    width: usize,
) -> Vec<String> {
    let line = clean(&format!("{head}: {old} → {new}{note}"));
    if line.chars().count() <= width {
        return vec![line];
    }
    let [old, new] = [old, new].map(|value| match value {
        // Without the signs that a text takes in JSON.
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    let same = old.chars().zip(new.chars()).take_while(|(a, b)| a == b);
    let same = same.count();
    let value = |sign: &str, value: &str| {
        let shown = match same > width / 2 {
            true => format!("…{}", value.chars().skip(same - BEFORE).collect::<String>()),
            false => value.to_owned(),
        };
        // A text may have many lines.
        let shown: String = shown
            .chars()
            .map(|c| if c == '\r' { ' ' } else { c })
            .collect();
        cut(&format!("  {sign} {}", clean(&shown)), width)
    };
    vec![
        clean(&format!("{head}{note}:")),
        value("-", &old),
        value("+", &new),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_does_not_fit_goes_below_from_where_it_differs() {
        let lines = |old: Value, new: Value| change_lines("param x", [&old, &new], " (file)", 40);
        assert_eq!(lines(json!(1), json!("b")), ["param x: 1 → \"b\" (file)"]);
        let long = "word ".repeat(12);
        assert_eq!(
            lines(
                json!(format!("{long}\n\"old\"")),
                json!(format!("{long}\n\"new\" {long}"))
            ),
            [
                "param x (file):",
                "  - …rd word word word  \"old\"",
                "  + …rd word word word  \"new\" word word…",
            ]
        );
        assert_eq!(
            lines(json!(format!("a {long}")), json!("b")),
            [
                "param x (file):",
                "  - a word word word word word word wor…",
                "  + b"
            ]
        );
    }
}
