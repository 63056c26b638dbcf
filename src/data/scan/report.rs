//! The pass over the rows of a file: what is found is reported, redacted, or a reason to stop.

use std::collections::BTreeMap;
use std::path::Path;

use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::personal::Personal;
use super::rules::RuleSet;
use super::text::{By, Found, Scanner};
use crate::data::page::{Cell, Excerpt, Page, Verdict};
use crate::data::{
    Blocks, Content, DataError, Line, LineWriter, Message, Row, RowId, each_line, parse_line,
    to_line,
};
use crate::hash::{Digest, Encoder};

/// Characters around a hit in the page.
const AROUND: usize = 40;

/// What happens to what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScanAction {
    /// It stays and is listed.
    Report,
    /// It is replaced by a placeholder and listed.
    Redact,
    /// The step fails.
    Fail,
    /// It is not looked for.
    Off,
}

/// Something that may stay.
#[derive(Debug, Clone)]
pub struct Allowed {
    /// The rule or kind that it is about; all without.
    pub rule: Option<String>,
    /// What was found matches this.
    pub regex: Option<Regex>,
    /// What was found has this fingerprint, as a report says it.
    pub fingerprint: Option<String>,
    /// The row from this origin or with this id.
    pub row: Option<String>,
    /// Why.
    pub reason: String,
}

/// How rows are looked through.
#[derive(Debug, Clone)]
pub struct ScanOptions {
    /// The rules for secrets.
    pub rules: RuleSet,
    /// What happens to secrets.
    pub secrets: ScanAction,
    /// What happens to personal data.
    pub personal: ScanAction,
    /// Other actions, by rule or kind.
    pub actions: BTreeMap<String, ScanAction>,
    /// What may stay.
    pub allowed: Vec<Allowed>,
    /// How many hits the page shows; the hits file has all.
    pub examples: usize,
}

/// Something that was found. It is never repeated: a secret is known by a
/// fingerprint, personal data by its place alone (numbers of which there are
/// few could be found again from a fingerprint).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hit {
    /// The rule, or the kind of personal data.
    pub rule: String,
    /// What happened to it.
    pub action: ScanAction,
    /// The row in the result.
    pub row: RowId,
    /// Where the row is from.
    pub origin: String,
    /// The part of the row: `messages[1]`, `text`, `meta.file`.
    pub part: String,
    /// Its first byte in that part, before anything was redacted.
    pub start: u64,
    /// Its bytes.
    pub length: u64,
    /// The first characters of a keyed digest of a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// What stands in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placeholder: Option<String>,
    /// Why it may stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
}

/// What was found. `report.json` is this record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScanReport {
    /// Version of this file's format.
    pub format: u32,
    /// Rows that were looked through.
    pub rows: u64,
    /// Rows in which something was found that is not allowed.
    pub rows_with_hits: u64,
    /// Rows that were changed.
    pub redacted_rows: u64,
    /// What was found, by action; `allowed` apart.
    pub hits: BTreeMap<String, u64>,
    /// What was found and is not allowed, by rule.
    pub by_rule: BTreeMap<String, u64>,
    /// How many rules and kinds were looked for.
    pub rules: u64,
    /// The first hits that are not allowed, each with the text around it and
    /// what was found blotted out.
    pub examples: Vec<(Hit, Excerpt)>,
}

/// Where the pass writes.
pub struct ScanFiles<'a> {
    /// The rows of the result.
    pub rows: &'a Path,
    /// All hits, one a line.
    pub hits: &'a Path,
}

/// Looks through the rows of a file, and writes what becomes of them.
/// Placeholders are numbered by kind in the order of the file, the same for
/// the same secret.
pub fn scan(
    rows: &Path,
    options: &ScanOptions,
    to: &ScanFiles<'_>,
) -> Result<ScanReport, DataError> {
    let on = |action: ScanAction| action != ScanAction::Off;
    let personal = Personal::ALL
        .into_iter()
        .filter(|kind| on(options.of_kind(*kind)));
    let mut set = options.rules.clone();
    set.rules.retain(|rule| on(options.of_rule(&rule.id)));
    let scanner = Scanner::new(set, personal.collect())?;
    let mut pass = Pass {
        options,
        scanner: &scanner,
        numbers: BTreeMap::new(),
        next: BTreeMap::new(),
        hits: LineWriter::create(to.hits)?,
        report: ScanReport {
            format: 1,
            rows: 0,
            rows_with_hits: 0,
            redacted_rows: 0,
            hits: BTreeMap::new(),
            by_rule: BTreeMap::new(),
            rules: (scanner.rules().len() + Personal::ALL.len()) as u64,
            examples: Vec::new(),
        },
    };
    let mut kept = LineWriter::create(to.rows)?;
    let work = |line: Line<'_>| {
        let row: Row = parse_line(rows, line)?;
        let found = look(&row, &scanner);
        // A clean row goes on as the line it is.
        Ok((
            line.bytes.to_vec(),
            (!found.is_empty()).then_some((row, found)),
        ))
    };
    each_line(Blocks::open(rows)?, work, |(line, found)| {
        pass.report.rows += 1;
        match found {
            None => kept.line(&line),
            Some((row, found)) => kept.line(&pass.row(row, found, line)?),
        }
    })?;
    kept.finish()?;
    pass.hits.finish()?;
    Ok(pass.report)
}

impl ScanOptions {
    fn of_rule(&self, id: &str) -> ScanAction {
        self.actions.get(id).copied().unwrap_or(self.secrets)
    }

    fn of_kind(&self, kind: Personal) -> ScanAction {
        self.actions
            .get(kind.name())
            .copied()
            .unwrap_or(self.personal)
    }
}

/// A part of a row and what was found in it.
struct Part {
    name: String,
    found: Vec<Found>,
}

/// All texts of a row that hold something, metadata too.
fn look(row: &Row, scanner: &Scanner) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut add = |name: String, text: &str| {
        let found = scanner.look(text, &row.origin);
        if !found.is_empty() {
            parts.push(Part { name, found });
        }
    };
    let mut copy = row.clone();
    each_text(&mut copy, &mut |name, text| add(name.to_owned(), text));
    parts
}

/// Hands every text of a row to `each`, under its name, to be changed.
fn each_text(row: &mut Row, each: &mut dyn FnMut(&str, &mut String)) {
    let turns = |name: &str, turns: &mut Vec<Message>, each: &mut dyn FnMut(&str, &mut String)| {
        for (i, turn) in turns.iter_mut().enumerate() {
            each(&format!("{name}[{i}]"), &mut turn.content);
        }
    };
    match &mut row.content {
        Content::Messages(messages) => turns("messages", messages, each),
        Content::Text(text) => each("text", text),
        Content::Preference {
            prompt,
            chosen,
            rejected,
        } => {
            turns("prompt", prompt, each);
            each("chosen", chosen);
            each("rejected", rejected);
        }
    }
    for (name, value) in &mut row.meta {
        each_value(&format!("meta.{name}"), value, each);
    }
}

fn each_value(name: &str, value: &mut Value, each: &mut dyn FnMut(&str, &mut String)) {
    match value {
        Value::String(text) => each(name, text),
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                each_value(&format!("{name}[{i}]"), item, each);
            }
        }
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                each_value(&format!("{name}.{key}"), value, each);
            }
        }
        _ => {}
    }
}

/// The fingerprint of a secret.
fn fingerprint(secret: &str) -> String {
    let mut encoder = Encoder::new("retune.secret.1");
    encoder.str(secret);
    encoder.digest_of().to_string()[..16].to_owned()
}

/// The pass while rows go past, in order.
struct Pass<'a> {
    options: &'a ScanOptions,
    scanner: &'a Scanner,
    /// The placeholder of each secret, by its digest.
    numbers: BTreeMap<Digest, String>,
    /// How many placeholders of each name there are.
    next: BTreeMap<String, u64>,
    hits: LineWriter,
    report: ScanReport,
}

impl Pass<'_> {
    fn name(&self, by: By) -> &str {
        match by {
            By::Rule(at) => &self.scanner.rules()[at].id,
            By::Personal(kind) => kind.name(),
        }
    }

    fn action(&self, by: By) -> ScanAction {
        match by {
            By::Rule(at) => self.options.of_rule(&self.scanner.rules()[at].id),
            By::Personal(kind) => self.options.of_kind(kind),
        }
    }

    /// A row in which something was found: its line in the result.
    fn row(&mut self, row: Row, parts: Vec<Part>, line: Vec<u8>) -> Result<Vec<u8>, DataError> {
        let mut hits: Vec<(Hit, Excerpt)> = Vec::new();
        let mut changed = row.clone();
        let mut by_name: BTreeMap<String, Vec<Found>> = parts
            .into_iter()
            .map(|part| (part.name, part.found))
            .collect();
        each_text(&mut changed, &mut |name, text| {
            if let Some(found) = by_name.remove(name) {
                *text = self.part(&row, name, text, found, &mut hits);
            }
        });
        let redacted = hits.iter().any(|(hit, _)| hit.placeholder.is_some());
        let result = match redacted {
            true => Row::new(changed.content, changed.meta, changed.origin),
            false => row,
        };
        self.report.redacted_rows += u64::from(redacted);
        let open = hits.iter().any(|(hit, _)| hit.allowed.is_none());
        self.report.rows_with_hits += u64::from(open);
        for (mut hit, excerpt) in hits {
            hit.row = result.id;
            self.hits.line(&to_line(&hit)?)?;
            self.count(hit, excerpt);
        }
        if redacted { to_line(&result) } else { Ok(line) }
    }

    fn count(&mut self, hit: Hit, excerpt: Excerpt) {
        let action = match (&hit.allowed, hit.action) {
            (Some(_), _) => "allowed",
            (_, ScanAction::Redact) => "redacted",
            (_, ScanAction::Fail) => "failed",
            _ => "reported",
        };
        *self.report.hits.entry(action.to_owned()).or_default() += 1;
        if hit.allowed.is_none() {
            *self.report.by_rule.entry(hit.rule.clone()).or_default() += 1;
            if self.report.examples.len() < self.options.examples {
                self.report.examples.push((hit, excerpt));
            }
        }
    }

    /// One text of a row: its hits are added, and what it becomes is returned.
    fn part(
        &mut self,
        row: &Row,
        name: &str,
        text: &str,
        found: Vec<Found>,
        hits: &mut Vec<(Hit, Excerpt)>,
    ) -> String {
        let blotted = blot(text, &found);
        let mut result = String::with_capacity(text.len());
        let mut at = 0;
        for one in found {
            let secret = &text[one.range.clone()];
            let rule = self.name(one.by).to_owned();
            let print = matches!(one.by, By::Rule(_)).then(|| fingerprint(secret));
            let allowed = self.allowed(row, &rule, secret, print.as_deref());
            let action = self.action(one.by);
            let replaced = (allowed.is_none() && action == ScanAction::Redact)
                .then(|| self.placeholder(one.by, secret));
            result.push_str(&text[at..one.range.start]);
            result.push_str(replaced.as_deref().unwrap_or(secret));
            at = one.range.end;
            let hit = Hit {
                rule,
                action,
                row: row.id,
                origin: row.origin.clone(),
                part: name.to_owned(),
                start: one.range.start as u64,
                length: one.range.len() as u64,
                fingerprint: print,
                placeholder: replaced,
                allowed,
            };
            hits.push((hit, around(&blotted, one.range.start)));
        }
        result.push_str(&text[at..]);
        result
    }

    fn allowed(&self, row: &Row, rule: &str, secret: &str, print: Option<&str>) -> Option<String> {
        let holds = |allowed: &&Allowed| {
            let asked = [
                allowed.rule.as_ref().map(|name| name == rule),
                allowed.regex.as_ref().map(|regex| regex.is_match(secret)),
                allowed
                    .fingerprint
                    .as_ref()
                    .map(|wanted| print.is_some_and(|print| print == wanted)),
                allowed
                    .row
                    .as_ref()
                    .map(|wanted| *wanted == row.origin || *wanted == row.id.to_string()),
            ];
            asked.iter().flatten().all(|holds| *holds)
        };
        self.options
            .allowed
            .iter()
            .find(holds)
            .map(|allowed| allowed.reason.clone())
    }

    /// `<EMAIL_1>`; a name of a home directory stays a name, so that paths do.
    fn placeholder(&mut self, by: By, secret: &str) -> String {
        let name = match by {
            By::Rule(_) => "SECRET".to_owned(),
            By::Personal(kind) => kind.name().to_uppercase(),
        };
        let mut encoder = Encoder::new("retune.placeholder.1");
        encoder.str(&name).str(secret);
        let key = encoder.digest_of();
        if let Some(known) = self.numbers.get(&key) {
            return known.clone();
        }
        let next = self.next.entry(name.clone()).or_default();
        *next += 1;
        let placeholder = match by {
            By::Personal(Personal::Home) => format!("user{next}"),
            _ => format!("<{name}_{next}>"),
        };
        self.numbers.insert(key, placeholder.clone());
        placeholder
    }
}

/// The text with everything that was found blotted out, sign by sign, so that
/// places stay: a report does not repeat what it warns of.
fn blot(text: &str, found: &[Found]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for one in found {
        out.push_str(&text[at..one.range.start]);
        // One byte for each, so that byte ranges stay.
        out.extend(std::iter::repeat_n('*', one.range.len()));
        at = one.range.end;
    }
    out.push_str(&text[at..]);
    out
}

/// The text around a place that is blotted out.
fn around(blotted: &str, start: usize) -> Excerpt {
    let length = blotted[start..].bytes().take_while(|b| *b == b'*').count();
    Excerpt::around(
        blotted,
        std::slice::from_ref(&(start..start + length)),
        AROUND,
    )
}

impl ScanReport {
    /// What was found and makes the step fail.
    pub fn failed(&self) -> u64 {
        self.hits.get("failed").copied().unwrap_or(0)
    }

    /// What a build that stops here says; none when nothing makes it.
    pub fn complaint(&self) -> Option<String> {
        let failed = self
            .examples
            .iter()
            .filter(|(hit, _)| hit.action == ScanAction::Fail);
        let mut lines = vec![format!(
            "{} secrets or personal data in {} of {} rows must not stay:",
            self.failed(),
            self.rows_with_hits,
            self.rows
        )];
        for (hit, _) in failed.take(5) {
            let print = hit
                .fingerprint
                .as_ref()
                .map_or(String::new(), |print| format!(", fingerprint {print}"));
            lines.push(format!(
                "  {}: {} in {} at byte {}{print}",
                hit.origin, hit.rule, hit.part, hit.start
            ));
        }
        (self.failed() > 0).then(|| lines.join("\n"))
    }

    /// The page.
    pub fn html(&self) -> String {
        let verdict = match (self.failed(), self.by_rule.is_empty()) {
            (0, true) => Verdict::Pass,
            (0, false) => Verdict::Warn,
            _ => Verdict::Fail,
        };
        let mut page = Page::new("Secrets and personal data", Some(verdict));
        page.text(&format!(
            "{} rows were looked through by {} rules; something was found in {} of them, and {} were redacted.",
            self.rows, self.rules, self.rows_with_hits, self.redacted_rows
        ));
        let lines = |counts: &BTreeMap<String, u64>| -> Vec<Vec<Cell>> {
            counts
                .iter()
                .map(|(name, n)| vec![Cell::code(name), Cell::Count(*n)])
                .collect()
        };
        page.table(&["what happened", "hits"], &lines(&self.hits));
        page.table(
            &["rule", "hits that are not allowed"],
            &lines(&self.by_rule),
        );
        for (hit, excerpt) in &self.examples {
            let note = format!("{} in {} at byte {}", hit.rule, hit.part, hit.start);
            page.row(
                &hit.origin,
                &note,
                &[(
                    hit.placeholder.as_deref().unwrap_or("found"),
                    excerpt.clone(),
                )],
            );
        }
        page.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Role, read_rows, write_rows};
    use serde_json::json;

    fn options() -> ScanOptions {
        ScanOptions {
            rules: RuleSet::builtin().unwrap(),
            secrets: ScanAction::Redact,
            personal: ScanAction::Redact,
            actions: BTreeMap::new(),
            allowed: Vec::new(),
            examples: 10,
        }
    }

    fn chat(prompt: &str, answer: &str) -> Row {
        let turns = vec![
            Message::new(Role::User, prompt),
            Message::new(Role::Assistant, answer),
        ];
        Row::new(Content::Messages(turns), BTreeMap::new(), "d.jsonl:1")
    }

    fn run(rows: &[Row], options: &ScanOptions) -> (Vec<Row>, ScanReport, String) {
        let folder = tempfile::tempdir().unwrap();
        let [from, kept, hits] = ["from", "kept", "hits"].map(|name| folder.path().join(name));
        write_rows(&from, rows).unwrap();
        let report = scan(
            &from,
            options,
            &ScanFiles {
                rows: &kept,
                hits: &hits,
            },
        )
        .unwrap();
        (
            read_rows(&kept).unwrap(),
            report,
            std::fs::read_to_string(&hits).unwrap(),
        )
    }

    #[test]
    fn redaction_is_consistent_recorded_and_repeats_nothing() {
        let key = ["gh", "p_", "q8Zr2Lw9Xc4Vb7Nm1Kj5Hg3Fd6Sa0PoIuYtR"].concat();
        let mut rows = vec![
            chat("mail ann@corp.io and bob@corp.io", &format!("use {key}")),
            chat("nothing here", "at all"),
            chat("ann@corp.io again", "in /home/carla/x and /home/carla/y"),
        ];
        rows[2].meta.insert(
            "file".into(),
            json!(["/Users/carla/src", {"by": "bob@corp.io"}]),
        );
        let (kept, report, hits) = run(&rows, &options());
        assert_eq!(
            kept[0].texts().collect::<Vec<_>>(),
            ["mail <EMAIL_1> and <EMAIL_2>", "use <SECRET_1>"]
        );
        assert_eq!(kept[1], rows[1]);
        assert_eq!(
            kept[2].texts().collect::<Vec<_>>(),
            ["<EMAIL_1> again", "in /home/user1/x and /home/user1/y"]
        );
        assert_eq!(
            kept[2].meta["file"],
            json!(["/Users/user1/src", {"by": "<EMAIL_2>"}])
        );
        assert_eq!(
            (report.rows, report.rows_with_hits, report.redacted_rows),
            (3, 2, 2)
        );
        assert_eq!(
            report.by_rule,
            [
                ("email".into(), 4),
                ("github-token".into(), 1),
                ("home".into(), 3)
            ]
            .into()
        );
        let told = format!(
            "{hits}{}{}",
            serde_json::to_string(&report).unwrap(),
            report.html()
        );
        for secret in [key.as_str(), "ann@corp", "bob@corp", "carla"] {
            assert!(!told.contains(secret), "{secret} is repeated: {told}");
        }
        assert!(hits.contains(&fingerprint(&key)));
    }

    #[test]
    fn what_is_allowed_stays_with_its_reason_and_the_rest_fails() {
        let mut options = options();
        options.personal = ScanAction::Fail;
        options.actions.insert("ip".into(), ScanAction::Report);
        options.actions.insert("home".into(), ScanAction::Off);
        options.allowed.push(Allowed {
            rule: Some("email".into()),
            regex: Some(Regex::new("@corp\\.io$").unwrap()),
            fingerprint: None,
            row: None,
            reason: "the project's own list".into(),
        });
        let rows = [chat("ann@corp.io and x@other.io at 8.8.8.8", "/home/carla")];
        let (kept, report, hits) = run(&rows, &options);
        assert_eq!(kept, rows);
        assert_eq!(
            report.hits,
            [
                ("allowed".into(), 1),
                ("failed".into(), 1),
                ("reported".into(), 1)
            ]
            .into()
        );
        assert!(hits.contains("the project's own list"));
        let complaint = report.complaint().unwrap();
        assert!(
            complaint.contains("d.jsonl:1: email in messages[0] at byte 16"),
            "{complaint}"
        );
    }
}
