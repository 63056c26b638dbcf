//! Augmentation by declared rules: rows made of rows, which say of which.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::{Environment, UndefinedBehavior, context, value::Serde};
use regex::Regex;
use serde::{Deserialize, Serialize};

use super::shingle::View;
use super::split::AUGMENTED_FROM;
use super::stream::{LineWriter, each_row, to_line};
use super::{Content, DataError, Role, Row};
use crate::hash::Encoder;

/// The metadata field that is true for rows made by augmentation.
pub const AUGMENTED: &str = "augmented";

/// What a rule does to a text.
#[derive(Debug, Clone)]
pub enum Change {
    /// Every match of an expression becomes a text (`$1` is its first group).
    Replace(Regex, String),
    /// Every one of these words becomes one of its others, drawn by the seed.
    Words(BTreeMap<String, Vec<String>>),
    /// The text becomes what a minijinja template makes of `text`, `prompt`,
    /// `answer` and `meta`.
    Template(String),
}

/// One rule.
#[derive(Debug, Clone)]
pub struct AugmentRule {
    /// Its name.
    pub name: String,
    /// What of a row it changes: its last question, its answer, or all of it.
    pub on: View,
    /// What it does.
    pub change: Change,
    /// The share of rows that it is tried on, 0 to 1, drawn by the seed.
    pub share: f64,
}

/// What was made. `summary.json` is this record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AugmentSummary {
    /// Version of this file's format.
    pub format: u32,
    /// Rows that there were; they stay.
    pub originals: u64,
    /// Rows that were made.
    pub made: u64,
    /// Rows by rule.
    pub by_rule: BTreeMap<String, u64>,
    /// Times that a rule changed nothing, or made what was there already.
    pub unchanged: BTreeMap<String, u64>,
}

/// Writes the rows of a file, each followed by what the rules make of it. What
/// is made has the metadata `augmented`, `augmented_from` (the row it is made
/// of) and `augmented_by` (the rule).
pub fn augment(
    rows: &Path,
    rules: &[AugmentRule],
    seed: u64,
    mut to: LineWriter,
) -> Result<AugmentSummary, DataError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    for rule in rules {
        if let Change::Template(text) = &rule.change {
            environment
                .add_template_owned(rule.name.clone(), text.clone())
                .map_err(|e| {
                    DataError::Invalid(format!("rule '{}' has a template at fault: {e}", rule.name))
                })?;
        }
    }
    let mut summary = AugmentSummary {
        format: 1,
        ..AugmentSummary::default()
    };
    let work = |_, row: Row| {
        if row.meta.get(AUGMENTED).is_some_and(|value| value == true) {
            return Err(DataError::Invalid(format!(
                "the row of {} is augmented already; take the rows from before",
                row.origin
            )));
        }
        let mut made: Vec<(usize, Option<Row>)> = Vec::new();
        for (at, rule) in rules.iter().enumerate() {
            let draws = Draws::new(seed, &rule.name, &row);
            if draws.uniform(0) < rule.share {
                let new = apply(rule, &row, &draws, &environment)?;
                let known = |new: &Row| {
                    let before = made.iter().filter_map(|(_, row)| row.as_ref());
                    new.id == row.id || before.into_iter().any(|old| old.id == new.id)
                };
                made.push((at, new.filter(|new| !known(new))));
            }
        }
        let mut lines = vec![to_line(&row)?];
        let mut counts = Vec::new();
        for (at, new) in made {
            counts.push((at, new.is_some()));
            if let Some(new) = new {
                lines.push(to_line(&new)?);
            }
        }
        Ok((lines, counts))
    };
    each_row(rows, work, |(lines, counts)| {
        summary.originals += 1;
        for (at, made) in counts {
            let name = rules[at].name.clone();
            match made {
                true => *summary.by_rule.entry(name).or_default() += 1,
                false => *summary.unchanged.entry(name).or_default() += 1,
            }
        }
        lines.iter().try_for_each(|line| to.line(line))
    })?;
    summary.made = summary.by_rule.values().sum();
    to.finish()?;
    Ok(summary)
}

/// Numbers drawn for a rule and a row.
struct Draws {
    key: crate::hash::Digest,
}

impl Draws {
    fn new(seed: u64, rule: &str, row: &Row) -> Self {
        let mut encoder = Encoder::new("retune.augment.1");
        encoder.u64(seed).str(rule).digest(&row.id.0);
        Draws {
            key: encoder.digest_of(),
        }
    }

    /// The n-th number, in [0, 1).
    fn uniform(&self, n: u64) -> f64 {
        let mut encoder = Encoder::new("retune.draw.1");
        encoder.digest(&self.key).u64(n);
        (encoder.digest_of().prefix() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn apply(
    rule: &AugmentRule,
    row: &Row,
    draws: &Draws,
    environment: &Environment<'_>,
) -> Result<Option<Row>, DataError> {
    let mut content = row.content.clone();
    let mut failed = None;
    let mut drawn = 0;
    for_texts(&mut content, rule.on, &mut |text| match changed(
        rule,
        row,
        text,
        draws,
        &mut drawn,
        environment,
    ) {
        Ok(new) => *text = new,
        Err(e) => failed = Some(e),
    });
    if let Some(failed) = failed {
        return Err(failed);
    }
    let mut meta = row.meta.clone();
    meta.insert(AUGMENTED.to_owned(), true.into());
    meta.insert(AUGMENTED_FROM.to_owned(), row.id.to_string().into());
    meta.insert("augmented_by".to_owned(), rule.name.clone().into());
    Ok(Some(Row::new(content, meta, row.origin.clone())))
}

fn changed(
    rule: &AugmentRule,
    row: &Row,
    text: &str,
    draws: &Draws,
    drawn: &mut u64,
    environment: &Environment<'_>,
) -> Result<String, DataError> {
    match &rule.change {
        Change::Replace(regex, by) => Ok(regex.replace_all(text, by.as_str()).into_owned()),
        Change::Words(words) => Ok(other_words(text, words, draws, drawn)),
        Change::Template(_) => {
            let prompt = View::Prompt.texts(row).join("\n");
            let scope = context! {
                text => text,
                prompt => prompt,
                answer => row.answer(),
                meta => minijinja::Value::from(Serde(&row.meta)),
            };
            let rendered = environment
                .get_template(&rule.name)
                .and_then(|template| template.render(scope));
            let rendered = rendered.map_err(|e| {
                DataError::Invalid(format!(
                    "rule '{}' at the row of {}: {e}",
                    rule.name, row.origin
                ))
            })?;
            match rendered.trim() {
                "" => Err(DataError::Invalid(format!(
                    "rule '{}' makes an empty text of the row of {}",
                    rule.name, row.origin
                ))),
                text => Ok(text.to_owned()),
            }
        }
    }
}

/// Words for others; a capital at the beginning stays one.
fn other_words(
    text: &str,
    words: &BTreeMap<String, Vec<String>>,
    draws: &Draws,
    drawn: &mut u64,
) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for (range, _) in super::words::words(text) {
        let word = &text[range.clone()];
        let Some(others) = words
            .get(&word.to_lowercase())
            .filter(|others| !others.is_empty())
        else {
            continue;
        };
        *drawn += 1;
        let pick = (draws.uniform(*drawn) * others.len() as f64) as usize;
        out.push_str(&text[at..range.start]);
        let mut other = others[pick.min(others.len() - 1)].chars();
        match other.next() {
            Some(first) if word.starts_with(char::is_uppercase) => out.extend(first.to_uppercase()),
            first => out.extend(first),
        }
        out.push_str(other.as_str());
        at = range.end;
    }
    out.push_str(&text[at..]);
    out
}

/// The texts that a rule changes.
fn for_texts(content: &mut Content, on: View, each: &mut dyn FnMut(&mut String)) {
    match content {
        Content::Text(text) => each(text),
        Content::Messages(messages) => {
            let answered = messages
                .last()
                .is_some_and(|last| last.role == Role::Assistant);
            let answer = messages.len() - 1;
            let question = messages
                .iter()
                .rposition(|message| message.role == Role::User);
            for (at, message) in messages.iter_mut().enumerate() {
                let meant = match on {
                    View::Row => message.role != Role::System,
                    View::Answer => answered && at == answer,
                    View::Prompt => Some(at) == question,
                };
                if meant {
                    each(&mut message.content);
                }
            }
        }
        Content::Preference {
            prompt,
            chosen,
            rejected,
        } => {
            if on != View::Answer
                && let Some(question) = prompt
                    .iter_mut()
                    .rfind(|message| message.role == Role::User)
            {
                each(&mut question.content);
            }
            if on != View::Prompt {
                each(chosen);
                each(rejected);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Message, read_rows, write_rows};

    fn chat(prompt: &str, answer: &str) -> Row {
        let turns = vec![
            Message::new(Role::User, prompt),
            Message::new(Role::Assistant, answer),
        ];
        let meta = BTreeMap::from([("tool".to_owned(), "semgrep".into())]);
        Row::new(Content::Messages(turns), meta, "d:1")
    }

    fn run(rows: &[Row], rules: &[AugmentRule]) -> Result<(Vec<Row>, AugmentSummary), String> {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        write_rows(&from, rows).unwrap();
        let summary = augment(&from, rules, 1, LineWriter::create(&to).unwrap());
        let summary = summary.map_err(|e| e.to_string())?;
        Ok((read_rows(&to).unwrap(), summary))
    }

    fn rule(name: &str, on: View, change: Change) -> AugmentRule {
        AugmentRule {
            name: name.into(),
            on,
            change,
            share: 1.0,
        }
    }

    #[test]
    fn what_is_made_says_of_what_and_by_what() {
        let rows = [
            chat("Fix the error in line 7", "done"),
            chat("nothing to do", "done"),
        ];
        let words = BTreeMap::from([
            ("error".to_owned(), vec!["fault".to_owned()]),
            ("fix".into(), vec!["mend".into()]),
        ]);
        let rules = [
            rule("words", View::Prompt, Change::Words(words)),
            rule(
                "lines",
                View::Prompt,
                Change::Replace(Regex::new(r"line (\d+)").unwrap(), "L$1".into()),
            ),
            rule(
                "asked",
                View::Prompt,
                Change::Template("{{ meta.tool }} says: {{ text }}".into()),
            ),
        ];
        let (made, summary) = run(&rows, &rules).unwrap();
        let prompts: Vec<&str> = made
            .iter()
            .map(|row| row.prompt()[0].content.as_str())
            .collect();
        assert_eq!(
            prompts,
            [
                "Fix the error in line 7",
                "Mend the fault in line 7",
                "Fix the error in L7",
                "semgrep says: Fix the error in line 7",
                "nothing to do",
                "semgrep says: nothing to do",
            ]
        );
        assert_eq!(made[1].meta[AUGMENTED_FROM], rows[0].id.to_string());
        assert_eq!(made[1].meta["augmented_by"], "words");
        assert_eq!(
            (summary.originals, summary.made, summary.unchanged["words"]),
            (2, 4, 1)
        );
        let error = run(&made, &rules).unwrap_err();
        assert!(error.contains("is augmented already"), "{error}");
        let bad = [rule(
            "x",
            View::Prompt,
            Change::Template("{{ nope }}".into()),
        )];
        assert!(
            run(&rows, &bad)
                .unwrap_err()
                .contains("rule 'x' at the row of d:1")
        );
    }

    #[test]
    fn a_share_is_drawn_by_the_seed() {
        let rows: Vec<Row> = (0..400)
            .map(|i| chat(&format!("line {i}"), "done"))
            .collect();
        let mut some = rule(
            "some",
            View::Prompt,
            Change::Replace(Regex::new("line").unwrap(), "row".into()),
        );
        some.share = 0.25;
        let (_, one) = run(&rows, &[some.clone()]).unwrap();
        let (_, two) = run(&rows, &[some]).unwrap();
        assert_eq!(one, two);
        assert!((70..130).contains(&one.made), "{one:?}");
    }
}
