//! One text, looked through by all rules: keywords first, expressions only where one of theirs stands.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

use super::personal::Personal;
use super::rules::{Rule, RuleSet, entropy};
use crate::data::DataError;

/// What was found in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The bytes of the text.
    pub range: Range<usize>,
    /// By which rule.
    pub by: By,
}

/// What a thing was found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// The rule for secrets with this number.
    Rule(usize),
    /// A kind of personal data.
    Personal(Personal),
}

/// Rules made ready to look through texts.
pub struct Scanner {
    set: RuleSet,
    keywords: AhoCorasick,
    /// The rule of each keyword.
    rule_of: Vec<usize>,
    /// Rules without a keyword.
    always: Vec<usize>,
    personal: Vec<Personal>,
}

impl Scanner {
    /// A scanner for secrets by `set` and for these kinds of personal data.
    pub fn new(set: RuleSet, personal: Vec<Personal>) -> Result<Self, DataError> {
        let mut words = Vec::new();
        let (mut rule_of, mut always) = (Vec::new(), Vec::new());
        for (at, rule) in set.rules.iter().enumerate() {
            if rule.keywords.is_empty() {
                always.push(at);
            }
            for word in &rule.keywords {
                words.push(word.clone());
                rule_of.push(at);
            }
        }
        let keywords = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .build(&words)
            .map_err(|e| {
                DataError::Invalid(format!("failed to read the keywords of rules: {e}"))
            })?;
        Ok(Scanner {
            set,
            keywords,
            rule_of,
            always,
            personal,
        })
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.set.rules
    }

    /// Everything found in a text, by place; of what overlaps the first by
    /// rule, so that nothing is counted twice. `origin` is the row's.
    pub fn look(&self, text: &str, origin: &str) -> Vec<Found> {
        let mut found = Vec::new();
        for at in self.candidates(text) {
            self.apply(at, text, origin, &mut found);
        }
        for kind in &self.personal {
            let by = By::Personal(*kind);
            found.extend(kind.find(text).into_iter().map(|range| Found { range, by }));
        }
        let mut apart: Vec<Found> = Vec::with_capacity(found.len());
        for one in found {
            let overlaps = |other: &Found| {
                one.range.start < other.range.end && other.range.start < one.range.end
            };
            if !apart.iter().any(overlaps) {
                apart.push(one);
            }
        }
        apart.sort_by_key(|one| one.range.start);
        apart
    }

    /// The rules of which a keyword stands in the text, in their order.
    fn candidates(&self, text: &str) -> Vec<usize> {
        let mut rules = self.always.clone();
        let met = self.keywords.find_overlapping_iter(text);
        rules.extend(met.map(|found| self.rule_of[found.pattern().as_usize()]));
        rules.sort_unstable();
        rules.dedup();
        rules
    }

    fn apply(&self, at: usize, text: &str, origin: &str, found: &mut Vec<Found>) {
        let rule = &self.set.rules[at];
        for captures in rule.regex.captures_iter(text) {
            let Some(whole) = captures.get(0) else {
                continue;
            };
            let secret = match rule.group {
                0 => (1..captures.len()).find_map(|n| captures.get(n).filter(|m| !m.is_empty())),
                group => captures.get(group),
            };
            let secret = secret.unwrap_or(whole);
            if secret.is_empty()
                || rule
                    .entropy
                    .is_some_and(|least| entropy(secret.as_str()) < least)
            {
                continue;
            }
            let line = line_of(text, whole.range());
            let lists = rule.allowed.iter().chain(&self.set.allowed);
            let mut lists =
                lists.map(|list| list.allows(secret.as_str(), whole.as_str(), line, origin));
            if !lists.any(|allowed| allowed) {
                let by = By::Rule(at);
                found.push(Found {
                    range: secret.range(),
                    by,
                });
            }
        }
    }
}

/// The lines that a range touches.
fn line_of(text: &str, range: Range<usize>) -> &str {
    let start = text[..range.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[range.end..]
        .find('\n')
        .map_or(text.len(), |at| range.end + at);
    &text[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random-looking characters that no scanner of sources takes for a secret here.
    fn random(alphabet: &str, n: usize) -> String {
        let alphabet: Vec<char> = alphabet.chars().collect();
        (0..n as u64)
            .map(|i| {
                alphabet[(crate::data::words::mix(i * 77 + 5) % alphabet.len() as u64) as usize]
            })
            .collect()
    }

    const LETTERS: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

    fn names(text: &str) -> Vec<String> {
        let scanner = Scanner::new(RuleSet::builtin().unwrap(), Personal::ALL.to_vec()).unwrap();
        let name = |found: Found| match found.by {
            By::Rule(at) => scanner.rules()[at].id.clone(),
            By::Personal(kind) => kind.name().to_owned(),
        };
        scanner.look(text, "t:1").into_iter().map(name).collect()
    }

    #[test]
    fn the_built_in_rules_find_what_they_are_for() {
        let upper = random("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16);
        let hex = random("0123456789abcdef", 64);
        for (text, rule) in [
            (
                format!("AWS_ACCESS_KEY_ID={}{upper}", "AKIA"),
                "aws-access-key",
            ),
            (
                format!("aws_secret_access_key = \"{}\"", random(LETTERS, 40)),
                "aws-secret-key",
            ),
            (
                format!("token: {}{}", "ghp_", random(LETTERS, 36)),
                "github-token",
            ),
            (
                format!("{}{}", "glpat-", random(LETTERS, 20)),
                "gitlab-token",
            ),
            (
                format!("{}{}", "hf_", random(&LETTERS[..52], 34)),
                "huggingface-token",
            ),
            (
                format!("{}{} ", "AIza", random(LETTERS, 35)),
                "google-api-key",
            ),
            (format!("{}{}", "npm_", random(LETTERS, 36)), "npm-token"),
            (format!("{}{}", "pypi-", random(LETTERS, 60)), "pypi-token"),
            (
                format!("{}{}", "sk_live_", random(LETTERS, 24)),
                "stripe-key",
            ),
            (
                format!("{}{}", "xoxb-", random("0123456789-abcdef", 40)),
                "slack-token",
            ),
            (format!("{}{}", "dop_v1_", hex), "digitalocean-token"),
            (
                format!(
                    "-----BEGIN {0} KEY-----\n{1}\n-----END {0} KEY-----",
                    "RSA PRIVATE",
                    random(LETTERS, 80)
                ),
                "private-key",
            ),
            (
                format!("postgres://app:{}@db.host/x", random(LETTERS, 12)),
                "url-password",
            ),
            (
                format!("client_secret: '{}'", random(LETTERS, 24)),
                "generic-secret",
            ),
            (
                format!("  API_TOKEN={}", random(LETTERS, 32)),
                "generic-secret-bare",
            ),
            (
                format!("Authorization: Bearer {}", random(LETTERS, 30)),
                "authorization-header",
            ),
        ] {
            assert_eq!(names(&text), [rule], "{rule}");
        }
    }

    #[test]
    fn what_stands_for_a_secret_is_none() {
        for text in [
            "password = os.environ['DB_PASSWORD']",
            "api_key: \"${API_KEY}\"",
            "token = \"<your token>\"",
            "secret: 'YOUR_API_KEY_EXAMPLE'",
            "password = \"aaaaaaaaaaaa\"",
            "https://user:$PASSWORD@host/",
            "the token: a word of the text",
            "git@github.com:org/repo.git and https://host:8080/path@x",
        ] {
            assert!(names(text).is_empty(), "{text}: {:?}", names(text));
        }
    }
}
