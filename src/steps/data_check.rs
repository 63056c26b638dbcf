//! `data.check`: the gate between data and training.

use std::collections::BTreeMap;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{labelled, write_json};
use crate::data::{
    self, Banding, CheckOptions, Contradiction, HASHES, Limit, NearOptions, Pattern, View,
};
use crate::files;
use crate::step::{Context, FieldError, InPort, OutPort, PortType, Resources, Step, StepError};

/// The kind.
pub struct DataCheck;

/// What happens when a check finds more than its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The step fails, and nothing that takes its rows runs.
    Fail,
    /// The report says so, and the build goes on.
    Warn,
    /// The check is not made.
    Off,
}

/// Which part of a row is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum On {
    /// The whole row.
    Row,
    /// What comes before the answer.
    Prompt,
    /// The answer.
    Answer,
}

/// Distinct prompts.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DistinctPrompts {
    /// The share of rows with a prompt of their own that must be reached.
    min_share: f64,
    /// What happens below it.
    action: Action,
}

/// Rows whose content an earlier row has.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Duplicates {
    /// The share of such rows that may be.
    max_share: f64,
    /// What happens above it.
    action: Action,
}

/// Rows that are nearly an earlier one.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NearDuplicates {
    /// Jaccard similarity over word 5-grams from which on rows are near.
    threshold: f64,
    /// What is compared: `row`, `prompt` or `answer`.
    on: On,
    /// MinHash-LSH: bands, and hashes in each.
    bands: usize,
    /// Hashes in a band; `bands` times this is at most 112.
    rows: usize,
    /// The share of such rows that may be.
    max_share: f64,
    /// What happens above it.
    action: Action,
}

/// Answers with a placeholder.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Placeholders {
    /// Whether the usual ones are looked for: TODO, FIXME, XXX, "unknown" as a
    /// value, lorem ipsum, "your code here", "insert … here".
    usual: bool,
    /// More of them, regular expressions under their names.
    patterns: BTreeMap<String, String>,
    /// The share of such rows that may be.
    max_share: f64,
    /// What happens above it.
    action: Action,
}

/// A rule that prompts state and answers must keep.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name in the report.
    name: String,
    /// Rows whose prompt this regular expression is found in are looked at; all when it is left out.
    #[serde(default)]
    prompt: String,
    /// Their answers must not hold this.
    #[serde(default)]
    forbidden: Option<String>,
    /// Their answers must hold this.
    #[serde(default)]
    required: Option<String>,
}

/// Answers that contradict their prompt.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Contradictions {
    /// What answers must keep to.
    rules: Vec<Rule>,
    /// The share of rows that break a rule, of those it is about, that may be.
    max_share: f64,
    /// What happens above it.
    action: Action,
}

/// Answers that repeat their prompt.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Copies {
    /// An answer is a copy when at least this share of its 5-grams stands in the prompt.
    overlap: f64,
    /// The share of such rows that may be.
    max_share: f64,
    /// What happens above it.
    action: Action,
}

/// How even the values of a metadata field are.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Balance {
    /// The field; the check is not made without it. Rows without it are at fault.
    by: Option<String>,
    /// The largest share that one value may have.
    max_share: f64,
    /// The least share that every value must have.
    min_share: f64,
    /// What happens otherwise.
    action: Action,
}

/// Rows of the other data sets that stand in this one.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Leaks {
    /// Jaccard similarity over word 5-grams from which on a row is one of this data set's.
    threshold: f64,
    /// What is compared: `row`, `prompt` or `answer`.
    on: On,
    /// The share of such rows that may be.
    max_share: f64,
    /// What happens above it.
    action: Action,
}

macro_rules! defaults {
    ($($name:ident { $($field:ident: $value:expr),* $(,)? })*) => {$(
        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $value),* }
            }
        }
    )*};
}

defaults! {
    DistinctPrompts { min_share: 0.5, action: Action::Fail }
    Duplicates { max_share: 0.0, action: Action::Fail }
    NearDuplicates {
        threshold: 0.8, on: On::Row, bands: Banding::USUAL.bands, rows: Banding::USUAL.rows,
        max_share: 0.2, action: Action::Warn,
    }
    Placeholders { usual: true, patterns: BTreeMap::new(), max_share: 0.0, action: Action::Fail }
    Contradictions { rules: Vec::new(), max_share: 0.0, action: Action::Fail }
    Copies { overlap: 0.9, max_share: 0.01, action: Action::Fail }
    Balance { by: None, max_share: 0.9, min_share: 0.0, action: Action::Warn }
    Leaks { threshold: 0.8, on: On::Row, max_share: 0.0, action: Action::Fail }
}

/// Rows that have a fault of one kind.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// The share of such rows that may be.
    max_share: f64,
    /// What happens above it.
    action: Action,
}

impl Default for Faults {
    fn default() -> Self {
        Faults {
            max_share: 0.0,
            action: Action::Fail,
        }
    }
}

/// Parameters of `data.check`. Every check has a limit and an `action`: `fail`,
/// `warn` or `off`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Rows with a prompt of their own: at least half.
    #[serde(default)]
    distinct_prompts: DistinctPrompts,
    /// Rows whose content an earlier row has: none.
    #[serde(default)]
    duplicates: Duplicates,
    /// Rows nearly an earlier one: more than a fifth is a warning.
    #[serde(default)]
    near_duplicates: NearDuplicates,
    /// Answers with a placeholder: none.
    #[serde(default)]
    placeholders: Placeholders,
    /// Rows without an answer or with an empty text: none.
    #[serde(default)]
    empty: Faults,
    /// Answers that contradict their prompt, by declared rules: none.
    #[serde(default)]
    contradictions: Contradictions,
    /// Answers that repeat their prompt: at most one in a hundred.
    #[serde(default)]
    copies: Copies,
    /// Rows with broken characters: none.
    #[serde(default)]
    encoding: Faults,
    /// How even the values of a metadata field are.
    #[serde(default)]
    balance: Balance,
    /// Rows of `against` that stand here: none.
    #[serde(default)]
    leaks: Leaks,
    /// 5-grams that more than this share of the rows hold (and more than 16
    /// rows) are a template's and do not count for similarity; 1 counts all.
    #[serde(default = "one")]
    boilerplate: f64,
    /// How many rows of a check the report shows.
    #[serde(default = "twenty")]
    examples: usize,
}

fn one() -> f64 {
    1.0
}

fn twenty() -> usize {
    20
}

/// Placeholders that every data set is looked through for.
const USUAL: [(&str, &str); 6] = [
    ("TODO", r"\bTODO\b"),
    ("FIXME", r"\bFIXME\b"),
    ("XXX", r"\bXXX\b"),
    (
        "unknown",
        r"(?im)(^|[:=]\s*)['\x22`]?unknown['\x22`]?\s*[.,;]?\s*$",
    ),
    ("lorem ipsum", r"(?i)\blorem ipsum\b"),
    (
        "text to be replaced",
        r"(?i)\b(your|add|insert|put|implement)( your| the| \w+)? (code|implementation|text|logic|answer) (goes )?here\b|<\s*(insert|your)\b[^>\n]{0,40}>|\[(insert|your)\b[^\]\n]{0,40}\]",
    ),
];

impl Params {
    fn options(&self) -> Result<CheckOptions, FieldError> {
        let at = |field: &'static str, e: String| FieldError::new(field, e);
        Ok(CheckOptions {
            distinct_prompts: on(self.distinct_prompts.action)
                .map(|fails| (self.distinct_prompts.min_share, fails)),
            duplicates: limit(self.duplicates.max_share, self.duplicates.action),
            near: self.near(),
            placeholders: limit(self.placeholders.max_share, self.placeholders.action)
                .map(|limit| Ok((self.patterns()?, limit)))
                .transpose()
                .map_err(|e| at("placeholders", e))?,
            empty: limit(self.empty.max_share, self.empty.action),
            contradictions: limit(self.contradictions.max_share, self.contradictions.action)
                .filter(|_| !self.contradictions.rules.is_empty())
                .map(|limit| Ok((self.rules()?, limit)))
                .transpose()
                .map_err(|e| at("contradictions", e))?,
            copies: limit(self.copies.max_share, self.copies.action)
                .map(|limit| (self.copies.overlap, limit)),
            encoding: limit(self.encoding.max_share, self.encoding.action),
            balance: self.balance.by.clone().and_then(|by| {
                let limit = limit(self.balance.max_share, self.balance.action)?;
                Some((by, limit, self.balance.min_share))
            }),
            leaks: limit(self.leaks.max_share, self.leaks.action)
                .map(|limit| (self.leaks.threshold, view(self.leaks.on), limit)),
            boilerplate: self.boilerplate,
            examples: self.examples,
        })
    }

    fn near(&self) -> Option<(NearOptions, View, Limit)> {
        let near = &self.near_duplicates;
        let limit = limit(near.max_share, near.action)?;
        let banding = Banding {
            bands: near.bands,
            rows: near.rows,
        };
        let options = NearOptions {
            threshold: near.threshold,
            banding,
        };
        Some((options, view(near.on), limit))
    }

    fn patterns(&self) -> Result<Vec<Pattern>, String> {
        let usual = USUAL.iter().filter(|_| self.placeholders.usual);
        let usual = usual.map(|(name, regex)| ((*name).to_owned(), (*regex).to_owned()));
        let own = self.placeholders.patterns.clone();
        let all = usual.chain(own);
        all.map(|(name, regex)| {
            let regex = compile(&name, &regex)?;
            Ok(Pattern { name, regex })
        })
        .collect()
    }

    fn rules(&self) -> Result<Vec<Contradiction>, String> {
        let one = |rule: &Rule| {
            let some = |regex: &Option<String>| {
                let compiled = regex.as_ref().map(|regex| compile(&rule.name, regex));
                compiled.transpose()
            };
            if rule.forbidden.is_none() && rule.required.is_none() {
                return Err(format!(
                    "rule '{}' has neither `forbidden` nor `required`",
                    rule.name
                ));
            }
            Ok(Contradiction {
                name: rule.name.clone(),
                prompt: compile(&rule.name, &rule.prompt)?,
                forbidden: some(&rule.forbidden)?,
                required: some(&rule.required)?,
            })
        };
        self.contradictions.rules.iter().map(one).collect()
    }

    fn shares(&self) -> [(&'static str, f64); 15] {
        [
            ("distinct_prompts", self.distinct_prompts.min_share),
            ("duplicates", self.duplicates.max_share),
            ("near_duplicates", self.near_duplicates.threshold),
            ("near_duplicates", self.near_duplicates.max_share),
            ("placeholders", self.placeholders.max_share),
            ("empty", self.empty.max_share),
            ("contradictions", self.contradictions.max_share),
            ("copies", self.copies.overlap),
            ("copies", self.copies.max_share),
            ("encoding", self.encoding.max_share),
            ("balance", self.balance.max_share),
            ("balance", self.balance.min_share),
            ("leaks", self.leaks.threshold),
            ("leaks", self.leaks.max_share),
            ("boilerplate", self.boilerplate),
        ]
    }
}

fn compile(name: &str, regex: &str) -> Result<Regex, String> {
    Regex::new(regex).map_err(|e| format!("'{name}' is no regular expression: {e}"))
}

/// Whether a check is made and, if so, whether it can fail.
fn on(action: Action) -> Option<bool> {
    (action != Action::Off).then_some(action == Action::Fail)
}

fn limit(share: f64, action: Action) -> Option<Limit> {
    on(action).map(|fails| Limit { share, fails })
}

fn view(on: On) -> View {
    match on {
        On::Row => View::Row,
        On::Prompt => View::Prompt,
        On::Answer => View::Answer,
    }
}

impl Step for DataCheck {
    type Params = Params;
    const KIND: &'static str = "data.check";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Fails before training when rows are duplicates, placeholders, contradictions, broken or leaked; passes them on otherwise.";

    fn inputs() -> Vec<InPort> {
        vec![
            InPort::one("rows", PortType::Dataset, "the rows to check"),
            InPort::labelled(
                "against",
                PortType::Dataset,
                "data sets that must not hold the same rows",
            ),
        ]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![
            OutPort::new("rows", PortType::Dataset, "rows.jsonl"),
            OutPort::new("report", PortType::Metrics, "report.json"),
            OutPort::new("page", PortType::Document, "report.html"),
        ]
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        for (field, share) in params.shares() {
            if !(0.0..=1.0).contains(&share) {
                return Err(FieldError::new(
                    field,
                    "shares and similarities lie between 0 and 1",
                ));
            }
        }
        let near = &params.near_duplicates;
        if near.threshold == 0.0 || params.leaks.threshold == 0.0 {
            let field = if near.threshold == 0.0 {
                "near_duplicates"
            } else {
                "leaks"
            };
            return Err(FieldError::new(field, "`threshold` must be above 0"));
        }
        if near.bands * near.rows > HASHES || near.bands * near.rows == 0 {
            let message = format!("`bands` times `rows` must be between 1 and {HASHES}");
            return Err(FieldError::new("near_duplicates", message));
        }
        params.options().map(drop)
    }

    fn resources(_: &Params) -> Resources {
        Resources::all_cpus()
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let options = params.options().map_err(StepError::from)?;
        let rows = context.input("rows")?.to_owned();
        let against = labelled(context, "against");
        let report = data::check(&rows, &against, &options, context.out)?;
        write_json(&context.output("report.json"), &report)?;
        files::write(&context.output("report.html"), report.html())?;
        context.fact("checks", report.checks.len());
        if let Some(complaint) = report.complaint() {
            let hint = "mend the data, or raise the limit of a check (`action = \"warn\"` goes on)";
            return Err(StepError::new(complaint).hint(hint));
        }
        Ok(files::copy(&rows, &context.output("rows.jsonl"))?)
    }
}
