//! Comparing answers: whole, normalised, and by their `Name: value` lines.

/// The value of the first line `name: value` of an answer: names compare
/// without case, Markdown emphasis and list marks around the name are
/// ignored, and the value is [`normalise`]d. None when there is no such line
/// or it has no value.
pub fn field(answer: &str, name: &str) -> Option<String> {
    answer.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        let is_mark = |c: char| c.is_whitespace() || "*_-#>`".contains(c);
        if !key.trim_matches(is_mark).eq_ignore_ascii_case(name) {
            return None;
        }
        let value = normalise(value.trim_matches(|c: char| is_mark(c)));
        (!value.is_empty()).then_some(value)
    })
}

/// Lower case, white space runs as one space, none at the ends.
pub fn normalise(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !normal.is_empty() {
            normal.push(' ');
        }
        normal.extend(word.chars().flat_map(char::to_lowercase));
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_behind_marks_and_without_case() {
        let answer = "Intro: none\n- **Severity:** HIGH \ncwe:  CWE-79\nSeverity: low";
        assert_eq!(field(answer, "Severity").as_deref(), Some("high"));
        assert_eq!(field(answer, "CWE").as_deref(), Some("cwe-79"));
        assert_eq!(field(answer, "Fix"), None);
        assert_eq!(field("Severity:\n", "Severity"), None);
    }

    #[test]
    fn normalising_ignores_case_and_white_space_only() {
        assert_eq!(normalise("  A\n\tB  c. "), "a b c.");
        assert_ne!(normalise("a-b"), normalise("a b"));
    }
}
