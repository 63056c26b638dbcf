//! The audit report as one page: no scripts, nothing fetched, light and dark.

use super::{audit_sentence, audit_verdict};
use crate::compare::{
    Difference, Gap, JsonDifference, KeyChange, Real, RowsDifference, TensorDifference,
    TensorsDifference, What,
};
use crate::record::{AuditReport, AuditVerdict, OutputAudit, StepAudit, StepResult};
use crate::report::words::duration;

/// How many lines a table of differences has; the JSON has all.
const ROWS: usize = 200;

/// The page.
pub fn audit_html(report: &AuditReport) -> String {
    let (class, mark, word) = match report.verdict {
        AuditVerdict::Same => ("same", "✓", "same"),
        AuditVerdict::Differs => ("differs", "✗", "differs"),
        AuditVerdict::CouldNotTell => ("unsure", "?", "could not tell"),
    };
    let name = escape(report.pipeline.as_str());
    let steps: String = report.steps.iter().map(step).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>audit of {name}: {word}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<p class=\"badge {class}\"><span>{mark}</span> {word}</p>\n\
         <h1>Audit of <em>{name}</em></h1>\n<p>{}.</p>\n<p class=\"dim\">{} · {}</p>\n</header>\n\
         {}<main>\n{steps}</main>\n{}</body>\n</html>\n",
        escape(&capital(&audit_sentence(report))),
        escape(&audit_verdict(report)),
        escape(&report.started),
        bar(report),
        footer(report),
    )
}

/// What came of the steps, as one bar.
fn bar(report: &AuditReport) -> String {
    let parts = [
        (StepResult::Same, "same"),
        (StepResult::WithinTolerance, "within"),
        (StepResult::Differs, "differs"),
        (StepResult::CouldNotTell, "unsure"),
        (StepResult::NotAudited, "none"),
    ];
    let told = parts.map(|(result, class)| match report.number(result) {
        0 => String::new(),
        n => format!(
            "<i class=\"{class}\" style=\"flex-grow:{n}\" title=\"{n} {}\"></i>",
            result.words()
        ),
    });
    let legend = parts.map(|(result, class)| match report.number(result) {
        0 => String::new(),
        n => format!("<li><i class=\"{class}\"></i>{n} {}</li>", result.words()),
    });
    format!(
        "<div class=\"bar\">{}</div>\n<ul class=\"legend\">{}</ul>\n",
        told.concat(),
        legend.concat()
    )
}

fn class(result: StepResult) -> &'static str {
    match result {
        StepResult::Same => "same",
        StepResult::WithinTolerance => "within",
        StepResult::Differs => "differs",
        StepResult::NotAudited => "none",
        StepResult::CouldNotTell => "unsure",
    }
}

fn step(step: &StepAudit) -> String {
    let open = match step.result {
        StepResult::Same | StepResult::NotAudited => "",
        _ => " open",
    };
    let seconds = step.seconds.map(|s| format!(" · {}", duration(s)));
    let threads = step.threads.map(|(build, audit)| match build == audit {
        true => String::new(),
        false => format!(" · threads {build} → {audit}"),
    });
    let why = step.why.as_ref();
    let why = why.map(|why| format!("<p class=\"why\">{}.</p>\n", escape(&capital(why))));
    let outputs: String = step.outputs.iter().map(output).collect();
    format!(
        "<details class=\"step\"{open}>\n<summary><b class=\"{0}\">{1}</b> \
         <strong>{2}</strong> <span class=\"dim\">{3}{4}{5}</span></summary>\n{6}{7}{outputs}\
         </details>\n",
        class(step.result),
        step.result.words(),
        escape(step.step.as_str()),
        escape(&step.kind),
        seconds.unwrap_or_default(),
        threads.unwrap_or_default(),
        why.unwrap_or_default(),
        failure(step),
    )
}

fn failure(step: &StepAudit) -> String {
    let Some(failure) = &step.failure else {
        return String::new();
    };
    let causes: String = failure
        .error
        .causes
        .iter()
        .map(|c| format!("\n{c}"))
        .collect();
    let message = format!("{}{causes}", failure.error.message);
    let tail = match &failure.log_tail[..] {
        [] => String::new(),
        lines => format!("<pre>{}</pre>\n", escape(&lines.join("\n"))),
    };
    format!("<pre class=\"error\">{}</pre>\n{tail}", escape(&message))
}

fn output(output: &OutputAudit) -> String {
    let gap = output.gap().map(|gap| format!(" · {gap}"));
    let differences = output.differences.iter();
    let differences: String = differences.map(|d| difference(d, &output.path)).collect();
    format!(
        "<section class=\"output\">\n<h3><b class=\"{0}\">{1}</b> <code>{2}</code> \
         <span class=\"dim\">tolerance {3}{4}</span></h3>\n{5}{differences}</section>\n",
        class(output.result()),
        output.result().words(),
        escape(&output.path),
        escape(&output.tolerance),
        gap.unwrap_or_default(),
        digests(output),
    )
}

fn digests(output: &OutputAudit) -> String {
    let show = |digest: &Option<String>| match digest {
        Some(digest) => format!("<code>{}</code>", escape(digest)),
        None => "<span class=\"dim\">none</span>".to_owned(),
    };
    if output.expected == output.found {
        return format!("<p class=\"digest\">{}</p>\n", show(&output.found));
    }
    format!(
        "<p class=\"digest\"><span>expected</span> {}<br><span>found</span> {}</p>\n",
        show(&output.expected),
        show(&output.found)
    )
}

fn difference(difference: &Difference, output: &str) -> String {
    let note = match difference.within {
        true => " <b class=\"within\">within tolerance</b>",
        false => "",
    };
    let body = match &difference.what {
        What::Tensors(tensors) => tensors_table(tensors),
        What::Json(json) => json_table(json),
        What::Rows(rows) => rows_table(rows),
        What::Text(text) => {
            let head = format!(
                "<p>First differs at line {}; lines {} → {}.</p>\n",
                text.line, text.old_lines, text.new_lines
            );
            head + &hunk(&text.hunk)
        }
        _ => lines(difference),
    };
    let name = match difference.path == output {
        true => String::new(),
        false => format!("<code>{}</code>", escape(&difference.path)),
    };
    let head = match name.is_empty() && note.is_empty() {
        true => String::new(),
        false => format!("<h4>{name}{note}</h4>\n"),
    };
    format!("<div class=\"file\">\n{head}{body}</div>\n")
}

fn lines(difference: &Difference) -> String {
    let lines = difference.lines();
    let lines = lines
        .iter()
        .map(|line| format!("<p>{}.</p>\n", escape(&capital(line))));
    lines.collect()
}

fn hunk(lines: &[String]) -> String {
    let line = |line: &String| {
        let tag = match line.as_bytes().first() {
            Some(b'+') => "ins",
            Some(b'-') => "del",
            _ => "span",
        };
        format!("<{tag}>{}</{tag}>\n", escape(line))
    };
    let lines: String = lines.iter().map(line).collect();
    format!("<pre class=\"diff\">{lines}</pre>\n")
}

fn table(head: &[&str], rows: Vec<String>, more: usize) -> String {
    let class = if head.len() > 3 { "numbers" } else { "values" };
    if rows.is_empty() {
        return String::new();
    }
    let head: String = head
        .iter()
        .map(|title| format!("<th>{title}</th>"))
        .collect();
    let more = match more {
        0 => String::new(),
        n => format!("<p class=\"dim\">{n} more are in the JSON.</p>\n"),
    };
    format!(
        "<div class=\"wide\"><table class=\"{class}\">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{}</tbody>\n\
         </table></div>\n{more}",
        rows.concat()
    )
}

fn cells(within: bool, cells: &[String]) -> String {
    let class = if within { " class=\"covered\"" } else { "" };
    let cells: String = cells
        .iter()
        .map(|cell| format!("<td>{}</td>", escape(cell)))
        .collect();
    format!("<tr{class}>{cells}</tr>\n")
}

fn tensors_table(tensors: &TensorsDifference) -> String {
    let rows = tensors.tensors.iter().take(ROWS).map(tensor_row);
    let more = tensors.tensors.len().saturating_sub(ROWS);
    let head = [
        "tensor",
        "type",
        "differing",
        "first",
        "old",
        "new",
        "max abs",
        "max rel",
    ];
    let differ = tensors.tensors.len();
    let note = match (differ, tensors.metadata.is_empty()) {
        (0, true) => {
            "<p>The same tensors in other bytes: another order or header.</p>\n".to_owned()
        }
        _ => format!(
            "<p>{differ} of {} tensors differ.</p>\n",
            differ + tensors.same
        ),
    };
    note + &table(&head, rows.collect(), more) + &keys_table(&tensors.metadata, 0)
}

fn tensor_row(tensor: &TensorDifference) -> String {
    let words = tensor.change.words();
    let gap = tensor.change.gap();
    let far = |number: fn(&Gap) -> Real| gap.as_ref().map_or(String::new(), |g| number(g).short());
    let row = [
        tensor.name.clone(),
        words.what,
        words.differing,
        words.first,
        words.old,
        words.new,
        far(|gap| gap.max_abs),
        far(|gap| gap.max_rel),
    ];
    cells(tensor.within, &row)
}

fn keys_table(changes: &[KeyChange], more: usize) -> String {
    let show = |value: &Option<serde_json::Value>| match value {
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let row = |change: &KeyChange| {
        let old = show(&change.old);
        cells(
            change.within,
            &[change.path.clone(), old, show(&change.new)],
        )
    };
    let rows = changes.iter().take(ROWS).map(row).collect();
    let more = more + changes.len().saturating_sub(ROWS);
    table(&["key", "old", "new"], rows, more)
}

fn json_table(json: &JsonDifference) -> String {
    match json.changes.is_empty() {
        true => "<p>The same values in other bytes: key order, spaces or how numbers are \
                 written.</p>\n"
            .to_owned(),
        false => keys_table(&json.changes, json.more),
    }
}

fn rows_table(rows: &RowsDifference) -> String {
    let mut text = format!(
        "<p>Rows {} → {}: {} differ in place, {} added, {} removed.</p>\n",
        rows.old, rows.new, rows.differing, rows.added, rows.removed
    );
    if let Some(first) = &rows.first {
        text.push_str(&format!("<p>The first is row {}.</p>\n", first.row));
        text.push_str(&keys_table(&first.changes, 0));
    }
    text
}

fn footer(report: &AuditReport) -> String {
    let row = |varied: &crate::record::Varied| {
        let row = [&varied.what, &varied.build, &varied.audit];
        cells(false, &row.map(String::clone))
    };
    let noise = match &report.noise[..] {
        [] => String::new(),
        noise => {
            let rows = noise.iter().map(row).collect();
            let table = table(&["", "build", "audit"], rows, 0);
            format!("<details>\n<summary>Different on purpose</summary>\n{table}</details>\n")
        }
    };
    let environment = serde_json::to_string_pretty(&report.environment).unwrap_or_default();
    format!(
        "<footer>\n{noise}<details>\n<summary>Where it was done</summary>\n<pre>{}</pre>\n\
         </details>\n</footer>\n",
        escape(&environment)
    )
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\u{1b}' => out.push('␛'),
            c => out.push(c),
        }
    }
    out
}

const STYLE: &str = include_str!("audit.css");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::audit::tests::report;

    #[test]
    fn the_page_holds_everything_and_needs_nothing() {
        let page = audit_html(&report());
        for part in [
            "<title>audit of demo: differs</title>",
            "model/&lt;weights&gt;",
            "no &lt;luck&gt;",
            "It acts on the world.",
            "Different on purpose",
        ] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        for foreign in ["<script", "http:", "https:", "<weights>", "src=", "@import"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }
}
