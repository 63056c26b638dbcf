//! Where things lie: relative paths in normal form, and who writes where.

use std::collections::{BTreeMap, BTreeSet};

use crate::pipeline::{Diagnostic, Pipeline, RawStep, Span};
use crate::step::OutPort;

/// The store's default place in the project root.
pub const CACHE: &str = "cache";

/// Why a path cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadPath {
    #[error("is empty")]
    Empty,
    #[error("is absolute")]
    Absolute,
    #[error("leads out of its folder")]
    Escapes,
    #[error("has a control character")]
    Control,
}

/// A relative path with `/` between components and without `.`, `..`, empty
/// components and a `/` at the end.
pub(super) fn normal(path: &str) -> Result<String, BadPath> {
    let drive = path.as_bytes().get(1) == Some(&b':');
    if path.starts_with(['/', '\\']) || path == "~" || path.starts_with("~/") || drive {
        return Err(BadPath::Absolute);
    }
    if path.chars().any(char::is_control) {
        return Err(BadPath::Control);
    }
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    if parts.clone().any(|part| part == "..") {
        return Err(BadPath::Escapes);
    }
    let parts: Vec<&str> = parts.collect();
    match parts.is_empty() {
        true => Err(BadPath::Empty),
        false => Ok(parts.join("/")),
    }
}

/// Whether a path is a pattern for many files.
pub fn is_glob(path: &str) -> bool {
    path.contains(['*', '?', '[', '{'])
}

/// The folder of a glob that all its matches lie in; a plain path itself.
fn fixed(path: &str) -> &str {
    let Some(at) = path.find(['*', '?', '[', '{']) else {
        return path;
    };
    path[..at].rfind('/').map_or("", |slash| &path[..slash])
}

/// Whether `path` is `folder` or lies in it.
fn within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Pairs of paths of which the first holds the second (or is the same), by index.
fn nested(paths: &[&str]) -> Vec<(usize, usize)> {
    let mut sorted: Vec<usize> = (0..paths.len()).collect();
    // By components, so that what a folder holds comes right behind it.
    sorted.sort_by(|&a, &b| paths[a].split('/').cmp(paths[b].split('/')));
    let mut pairs = Vec::new();
    let mut holder: Option<usize> = None;
    for at in sorted {
        match holder {
            Some(holder) if within(paths[at], paths[holder]) => pairs.push((holder, at)),
            _ => holder = Some(at),
        }
    }
    pairs
}

/// Brings the paths of a step's outputs into normal form and refuses those
/// that leave the step's folder or lie in each other.
pub(super) fn outputs(raw: &RawStep, outputs: &mut [OutPort], faults: &mut Vec<Diagnostic>) {
    let before = faults.len();
    for output in &mut *outputs {
        match normal(&output.path) {
            Ok(path) => output.path = path,
            Err(bad) => faults.push(bad_output(raw, output, bad)),
        }
    }
    if faults.len() > before {
        return;
    }
    let paths: Vec<&str> = outputs.iter().map(|output| output.path.as_str()).collect();
    for (a, b) in nested(&paths) {
        // The fault is at the one that comes later in the file.
        let (a, b) = in_order(a, b, |i| place(raw, &outputs[i]).start);
        let (first, second) = (&outputs[a], &outputs[b]);
        let message = match first.path == second.path {
            true => format!("two outputs of the step '{}' have the same path", raw.name),
            false => format!("two outputs of the step '{}' lie in each other", raw.name),
        };
        let fault = Diagnostic::error(place(raw, second), message)
            .label(format!("the path of '{}' is {}", second.name, second.path));
        let first_label = format!("the path of '{}' is {}", first.name, first.path);
        faults.push(if place(raw, first) == place(raw, second) {
            fault.note(first_label)
        } else {
            fault.also(place(raw, first), first_label)
        });
    }
}

fn in_order(a: usize, b: usize, key: impl Fn(usize) -> usize) -> (usize, usize) {
    if (key(a), a) <= (key(b), b) {
        (a, b)
    } else {
        (b, a)
    }
}

fn bad_output(raw: &RawStep, output: &OutPort, bad: BadPath) -> Diagnostic {
    let message = match bad {
        BadPath::Escapes => format!("the output '{}' leaves the step's folder", output.name),
        bad => format!("the path of the output '{}' {bad}", output.name),
    };
    Diagnostic::error(place(raw, output), message)
        .label("must lie in the step's own folder")
        .hint("a path here is relative to the step's output folder, without '..'".to_owned())
}

/// Where the file says the path of an output, if the kind lets it.
fn place(raw: &RawStep, output: &OutPort) -> Span {
    let field = raw.fields.iter().find(|field| field.key == "outputs");
    field
        .and_then(|field| field.spans.value(&output.name).value("path").span.clone())
        .unwrap_or_else(|| raw.name_span.clone())
}

/// The folders in which the outputs of all steps appear.
pub(super) struct Outs {
    /// The folder of the steps that do not choose one, without the step's name.
    default: String,
    /// The folders that steps choose, with the steps.
    chosen: BTreeMap<String, usize>,
    /// The folder of each step.
    pub folders: Vec<Option<String>>,
}

impl Outs {
    /// Decides every step's folder; refuses those that lie in each other or
    /// outside of the project.
    pub(super) fn new(pipeline: &Pipeline, faults: &mut Vec<Diagnostic>) -> Self {
        let default = format!("{CACHE}/out/{}", pipeline.name);
        let mut chosen: Vec<(String, usize)> = Vec::new();
        let mut folders = Vec::with_capacity(pipeline.steps.len());
        for (at, raw) in pipeline.steps.iter().enumerate() {
            let own = raw.out.as_ref().filter(|field| !field.value.is_null());
            let own = own.and_then(|field| match folder(field.value.as_str()) {
                Ok(folder) => Some(folder),
                Err(message) => {
                    let fault = Diagnostic::error(field.value_span(), message);
                    faults.push(fault.note(field.origin()).hint(format!(
                        "it is a folder relative to the project root, by default {default}/{}",
                        raw.name
                    )));
                    None
                }
            });
            chosen.extend(own.clone().map(|folder| (folder, at)));
            folders.push(own);
        }
        overlaps(pipeline, &chosen, faults);
        Outs {
            default,
            chosen: chosen.into_iter().collect(),
            folders,
        }
    }

    /// The step among whose outputs an input path lies, or whose outputs lie
    /// in it.
    pub(super) fn owner<'a>(&self, path: &str, pipeline: &'a Pipeline) -> Option<&'a RawStep> {
        let stem = fixed(path);
        let contains = |folder: &str| !is_glob(path) && within(folder, stem);
        if within(stem, &self.default) || contains(&self.default) {
            let rest = stem.strip_prefix(&self.default).unwrap_or_default();
            let name = rest.trim_start_matches('/').split('/').next();
            let named = |raw: &&RawStep| Some(raw.name.base()) == name;
            return pipeline.steps.iter().find(named).or(pipeline.steps.first());
        }
        let found = self
            .chosen
            .iter()
            .find(|(folder, _)| within(stem, folder) || contains(folder));
        found.map(|(_, &at)| &pipeline.steps[at])
    }
}

fn folder(text: Option<&str>) -> Result<String, String> {
    let text = text.ok_or_else(|| "'out' must be a string".to_owned())?;
    let folder = normal(text).map_err(|bad| match bad {
        BadPath::Escapes => "the folder 'out' leads out of the project".to_owned(),
        bad => format!("the folder 'out' {bad}"),
    })?;
    if within(&folder, CACHE) {
        return Err(format!(
            "the folder 'out' lies in {CACHE}/, which holds the store"
        ));
    }
    Ok(folder)
}

fn overlaps(pipeline: &Pipeline, chosen: &[(String, usize)], faults: &mut Vec<Diagnostic>) {
    let paths: Vec<&str> = chosen.iter().map(|(folder, _)| folder.as_str()).collect();
    let place = |at: usize| {
        let raw = &pipeline.steps[chosen[at].1];
        let span = raw.out.as_ref().and_then(|field| field.value_span());
        span.unwrap_or_else(|| raw.name_span.clone())
    };
    let mut told = BTreeSet::new();
    for (a, b) in nested(&paths) {
        let (a, b) = in_order(a, b, |at| place(at).start);
        // Of the cells of a matrix one pair is enough.
        let base = |at: usize| pipeline.steps[chosen[at].1].name.base();
        if !told.insert((base(a), base(b))) {
            continue;
        }
        let name = |at: usize| &pipeline.steps[chosen[at].1].name;
        let relation = match paths[a] == paths[b] {
            true => "the same folder",
            false => "folders that lie in each other",
        };
        let message = format!("'{}' and '{}' write to {relation}", name(a), name(b));
        faults.push(
            Diagnostic::error(place(b), message)
                .label(format!("the folder of '{}'", name(b)))
                .also(place(a), format!("the folder of '{}'", name(a))),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_brought_into_normal_form() {
        assert_eq!(normal("a//b/./c/").unwrap(), "a/b/c");
        assert_eq!(normal("./@a").unwrap(), "@a");
        assert_eq!(normal("..a/b..").unwrap(), "..a/b..");
        for (path, bad) in [
            ("", BadPath::Empty),
            (".", BadPath::Empty),
            ("/etc", BadPath::Absolute),
            ("~/x", BadPath::Absolute),
            ("C:/x", BadPath::Absolute),
            ("../x", BadPath::Escapes),
            ("a/../b", BadPath::Escapes),
            ("a\nb", BadPath::Control),
        ] {
            assert_eq!(normal(path), Err(bad), "{path:?}");
        }
    }

    #[test]
    fn nested_paths_are_found() {
        // `a-b` sorts between `a` and `a/b` as text.
        let paths = ["a/b", "a-b", "a", "c", "c", "a/b/c"];
        assert_eq!(nested(&paths), vec![(2, 0), (2, 5), (3, 4)]);
    }

    #[test]
    fn globs_lie_in_their_fixed_part() {
        assert_eq!(fixed("data/x/*.json"), "data/x");
        assert_eq!(fixed("*.json"), "");
        assert_eq!(fixed("data/a.json"), "data/a.json");
    }
}
