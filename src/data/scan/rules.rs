//! Rules for secrets, as gitleaks writes them: a regular expression, keywords, an entropy, allow-lists.

use std::collections::BTreeSet;

use regex::{Regex, RegexBuilder};
use serde::Deserialize;

use super::builtin;
use crate::data::DataError;

/// The largest compiled form of a rule's expression, in bytes: gitleaks has some that repeat a lot.
const LARGEST: usize = 64 << 20;

/// What a secret looks like.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name.
    pub id: String,
    /// What it finds, for people.
    pub description: String,
    /// The expression.
    pub regex: Regex,
    /// The group of the expression that is the secret; 0: the first that
    /// matched, or all.
    pub group: usize,
    /// Bits per character that the secret has at least.
    pub entropy: Option<f64>,
    /// One of these stands in the text, in any case; none: the rule always runs.
    pub keywords: Vec<String>,
    /// What is no secret though it looks like one.
    pub allowed: Vec<AllowList>,
}

/// What is allowed.
#[derive(Debug, Clone)]
pub struct AllowList {
    /// Expressions that what is looked at holds.
    regexes: Vec<Regex>,
    target: Target,
    /// Words that the secret holds, in lower case.
    stopwords: Vec<String>,
    /// Expressions that the origin of the row holds.
    paths: Vec<Regex>,
    /// Whether all kinds of conditions have to hold, not one of them.
    all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Target {
    Secret,
    Match,
    Line,
}

/// All rules that rows are looked through by.
#[derive(Debug, Clone, Default)]
pub struct RuleSet {
    /// The rules in their order.
    pub rules: Vec<Rule>,
    /// Allow-lists of all rules.
    pub allowed: Vec<AllowList>,
}

#[derive(Deserialize)]
struct RuleFile {
    #[serde(default)]
    rules: Vec<RawRule>,
    #[serde(default)]
    allowlist: Option<RawAllow>,
    #[serde(default)]
    allowlists: Vec<RawAllow>,
    #[serde(default)]
    extend: Option<Extend>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Extend {
    #[serde(default)]
    use_default: bool,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    disabled_rules: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRule {
    id: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    regex: Option<String>,
    #[serde(default)]
    secret_group: usize,
    #[serde(default)]
    entropy: Option<f64>,
    #[serde(default)]
    keywords: Vec<String>,
    #[serde(default)]
    allowlist: Option<RawAllow>,
    #[serde(default)]
    allowlists: Vec<RawAllow>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawAllow {
    #[serde(default)]
    condition: Option<String>,
    #[serde(default)]
    regexes: Vec<String>,
    #[serde(default)]
    regex_target: Option<String>,
    #[serde(default)]
    stopwords: Vec<String>,
    #[serde(default)]
    paths: Vec<String>,
    #[serde(default)]
    target_rules: Vec<String>,
}

impl RuleSet {
    /// Our own rules.
    pub fn builtin() -> Result<Self, DataError> {
        let mut set = RuleSet::default();
        for (id, description, regex, entropy, keywords) in builtin::RULES {
            set.rules.push(Rule {
                id: (*id).to_owned(),
                description: (*description).to_owned(),
                regex: compile("the built-in rules", id, regex)?,
                group: 0,
                entropy: *entropy,
                keywords: keywords.iter().map(|word| (*word).to_owned()).collect(),
                allowed: Vec::new(),
            });
        }
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let raw = RawAllow {
            regexes: texts(builtin::ALLOWED),
            stopwords: texts(builtin::STOPWORDS),
            ..RawAllow::default()
        };
        set.allowed
            .push(AllowList::new("the built-in rules", "allowlist", raw)?);
        Ok(set)
    }

    /// Adds the rules of a gitleaks file; one that names an earlier rule takes
    /// its place. A rule for paths alone finds nothing in rows and is left out.
    /// `label` stands for the file in errors.
    pub fn add_gitleaks(&mut self, label: &str, text: &str) -> Result<(), DataError> {
        let file: RuleFile = toml::from_str(text).map_err(|e| {
            DataError::Invalid(format!(
                "failed to read the rules of {label}: {}",
                e.to_string().trim()
            ))
        })?;
        if let Some(extend) = &file.extend {
            self.extend(label, extend)?;
        }
        for raw in file.rules {
            let Some(regex) = &raw.regex else { continue };
            let mut allowed = Vec::new();
            for list in raw.allowlist.into_iter().chain(raw.allowlists) {
                allowed.push(AllowList::new(label, &raw.id, list)?);
            }
            let rule = Rule {
                regex: compile(label, &raw.id, regex)?,
                description: raw.description,
                group: raw.secret_group,
                entropy: raw.entropy,
                keywords: raw
                    .keywords
                    .iter()
                    .map(|word| word.to_lowercase())
                    .collect(),
                id: raw.id,
                allowed,
            };
            if rule.group >= rule.regex.captures_len() {
                let (id, group) = (rule.id, rule.group);
                return Err(DataError::Invalid(format!(
                    "{label}: rule '{id}' has no group {group}"
                )));
            }
            self.rules.retain(|other| other.id != rule.id);
            self.rules.push(rule);
        }
        for list in file.allowlist.into_iter().chain(file.allowlists) {
            let targets: BTreeSet<String> = list.target_rules.iter().cloned().collect();
            let list = AllowList::new(label, "allowlist", list)?;
            if targets.is_empty() {
                self.allowed.push(list);
            } else {
                let meant = self
                    .rules
                    .iter_mut()
                    .filter(|rule| targets.contains(&rule.id));
                meant.for_each(|rule| rule.allowed.push(list.clone()));
            }
        }
        Ok(())
    }

    fn extend(&mut self, label: &str, extend: &Extend) -> Result<(), DataError> {
        if let Some(path) = &extend.path {
            return Err(DataError::Invalid(format!(
                "{label} extends '{path}', which is no input of this step; give that file to `rules` before this one"
            )));
        }
        if extend.use_default && self.rules.is_empty() {
            *self = RuleSet::builtin()?;
        }
        self.rules
            .retain(|rule| !extend.disabled_rules.contains(&rule.id));
        Ok(())
    }
}

fn compile(label: &str, id: &str, regex: &str) -> Result<Regex, DataError> {
    let built = RegexBuilder::new(regex).size_limit(LARGEST).build();
    built.map_err(|e| {
        DataError::Invalid(format!(
            "{label}: rule '{id}' is no regular expression here (RE2's \\Q…\\E and \\C are not known): {e}"
        ))
    })
}

impl AllowList {
    fn new(label: &str, id: &str, raw: RawAllow) -> Result<Self, DataError> {
        let all = |list: &[String]| {
            let compiled = list.iter().map(|regex| compile(label, id, regex));
            compiled.collect::<Result<Vec<Regex>, DataError>>()
        };
        Ok(AllowList {
            regexes: all(&raw.regexes)?,
            target: match raw.regex_target.as_deref() {
                None | Some("" | "secret") => Target::Secret,
                Some("match") => Target::Match,
                Some("line") => Target::Line,
                Some(other) => {
                    let message = format!("{label}: rule '{id}': unknown regexTarget '{other}'");
                    return Err(DataError::Invalid(message));
                }
            },
            stopwords: raw
                .stopwords
                .iter()
                .map(|word| word.to_lowercase())
                .collect(),
            paths: all(&raw.paths)?,
            all: raw
                .condition
                .is_some_and(|c| matches!(c.as_str(), "AND" | "and" | "&&")),
        })
    }

    /// Whether a secret in a row is one that the list allows.
    pub fn allows(&self, secret: &str, whole: &str, line: &str, origin: &str) -> bool {
        let target = match self.target {
            Target::Secret => secret,
            Target::Match => whole,
            Target::Line => line,
        };
        let lower = secret.to_lowercase();
        let checks = [
            (
                !self.regexes.is_empty(),
                self.regexes.iter().any(|regex| regex.is_match(target)),
            ),
            (
                !self.stopwords.is_empty(),
                self.stopwords.iter().any(|word| lower.contains(word)),
            ),
            (
                !self.paths.is_empty(),
                self.paths.iter().any(|regex| regex.is_match(origin)),
            ),
        ];
        let mut asked = checks.iter().filter(|(asked, _)| *asked).peekable();
        asked.peek().is_some()
            && match self.all {
                true => asked.all(|(_, holds)| *holds),
                false => asked.any(|(_, holds)| *holds),
            }
    }
}

/// Shannon's entropy of a text, bits per character.
pub fn entropy(text: &str) -> f64 {
    let mut counts: std::collections::BTreeMap<char, f64> = Default::default();
    for c in text.chars() {
        *counts.entry(c).or_default() += 1.0;
    }
    let n: f64 = counts.values().sum();
    counts
        .values()
        .map(|count| -(count / n) * libm::log2(count / n))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gitleaks_files_are_read_and_their_faults_said() {
        let text = r#"
            title = "t"
            [extend]
            useDefault = true
            disabledRules = ["jwt"]
            [[rules]]
            id = "my-token"
            description = "d"
            regex = '''(?i)mytoken[=:]\s*['"]?([a-z0-9]{12})'''
            secretGroup = 1
            entropy = 2.5
            keywords = ["MyToken"]
            [[rules.allowlists]]
            regexTarget = "line"
            regexes = ["test-only"]
            [[rules]]
            id = "path-only"
            path = '''\.env$'''
            [allowlist]
            stopwords = ["EXAMPLE"]
        "#;
        let mut set = RuleSet::default();
        set.add_gitleaks("r.toml", text).unwrap();
        assert!(
            set.rules
                .iter()
                .all(|rule| rule.id != "jwt" && rule.id != "path-only")
        );
        let rule = set.rules.last().unwrap();
        assert_eq!(
            (rule.id.as_str(), rule.group, rule.keywords[0].as_str()),
            ("my-token", 1, "mytoken")
        );
        assert!(rule.allowed[0].allows("s", "m", "a test-only line", "o"));
        assert!(
            set.allowed
                .last()
                .unwrap()
                .allows("myExamplekey", "", "", "")
        );
        for (from, to, message) in [
            (
                "secretGroup = 1",
                "secretGroup = 3",
                "rule 'my-token' has no group 3",
            ),
            (
                "mytoken[",
                "mytoken(",
                "rule 'my-token' is no regular expression here",
            ),
            ("\"line\"", "\"word\"", "unknown regexTarget 'word'"),
            (
                "useDefault = true",
                "path = \"x.toml\"",
                "extends 'x.toml', which is no input",
            ),
            ("id = \"my-token\"", "", "missing field `id`"),
        ] {
            let error = RuleSet::default().add_gitleaks("r.toml", &text.replace(from, to));
            let error = error.unwrap_err().to_string();
            assert!(
                error.contains(message) && error.contains("r.toml"),
                "{error}"
            );
        }
    }

    #[test]
    fn entropy_is_that_of_shannon() {
        assert_eq!(entropy("aaaa"), 0.0);
        assert_eq!(entropy("abcd"), 2.0);
        assert!((entropy("aab") - 0.9183).abs() < 1e-4);
    }
}
