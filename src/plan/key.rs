//! The manifest of a key: everything that makes a step's result what it is, kept so that "why" is a comparison of two of them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::changes::FileChanges;
use super::verdict::Reason;
use crate::hash::{Digest, Encoder};
use crate::pipeline::ValueSource;
use crate::step::Params;
use crate::store::{Artifact, Key, Shape};

/// The version of the encoding below. Raising it makes every key new.
///
/// 1: kind, version, parameters, inputs (port, label, file name, shape, digest), environment.
pub const FORMAT: u32 = 1;

/// Everything that enters a key. What is not here cannot change a result: no
/// times, absolute paths, host names, comments, key order or thread counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The encoding's version.
    pub format: u32,
    /// The kind.
    pub kind: String,
    /// The kind's version.
    pub version: u32,
    /// Every effective parameter.
    pub params: Params,
    /// Every input, in the order of the ports.
    pub inputs: Vec<InputContent>,
    /// The declared environment variables.
    pub environment: BTreeMap<String, Option<String>>,
}

/// What stands behind an input port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputContent {
    /// The port.
    pub port: String,
    /// The label or relative path that the step can see; empty for a step's output.
    pub label: String,
    /// The file name that the step can see, on which it may act.
    pub file: String,
    /// The content.
    pub digest: Digest,
    /// File, executable or folder.
    pub shape: Shape,
}

impl InputContent {
    /// The content `artifact` behind a port.
    pub fn new(port: &str, label: &str, file: &str, artifact: &Artifact) -> Self {
        InputContent {
            port: port.to_owned(),
            label: label.to_owned(),
            file: file.to_owned(),
            digest: artifact.digest,
            shape: artifact.shape,
        }
    }
}

/// What a manifest holds, borrowed: most keys are only compared, and then
/// nothing need be copied.
pub(super) struct Ingredients<'a, I, E> {
    pub format: u32,
    pub kind: &'a str,
    pub version: u32,
    pub params: &'a Params,
    /// Port, label, file name, and shape with digest.
    pub inputs: I,
    /// Variables with their values, sorted.
    pub environment: E,
}

impl<'a, I, E> Ingredients<'a, I, E>
where
    I: ExactSizeIterator<Item = (&'a str, &'a str, &'a str, (Shape, Digest))>,
    E: ExactSizeIterator<Item = (&'a str, Option<&'a str>)>,
{
    /// The key: the digest of all this, framed.
    pub fn key(self) -> Key {
        let mut encoder = Encoder::new("retune key");
        encoder.u64(u64::from(self.format));
        encoder.str(self.kind).u64(u64::from(self.version));
        encoder.list(self.params.len());
        let mut params: Vec<(&String, &Value)> = self.params.iter().collect();
        params.sort_unstable_by_key(|(name, _)| *name);
        for (name, value) in params {
            encoder.str(name).value(value);
        }
        encoder.list(self.inputs.len());
        for (port, label, file, artifact) in self.inputs {
            encoder.str(port).str(label).str(file);
            encoder.u64(shape_code(artifact.0)).digest(&artifact.1);
        }
        encoder.list(self.environment.len());
        for (name, value) in self.environment {
            encoder.str(name);
            match value {
                Some(value) => encoder.str(value),
                None => encoder.value(&Value::Null),
            };
        }
        Key(encoder.digest_of())
    }
}

impl Manifest {
    /// The key.
    pub fn key(&self) -> Key {
        let inputs = self.inputs.iter();
        let environment = self.environment.iter();
        Ingredients {
            format: self.format,
            kind: &self.kind,
            version: self.version,
            params: &self.params,
            inputs: inputs.map(|i| (&i.port[..], &i.label[..], &i.file[..], (i.shape, i.digest))),
            environment: environment.map(|(name, value)| (&name[..], value.as_deref())),
        }
        .key()
    }

    /// What is different from `old`, one reason for each component.
    pub fn differences(&self, old: &Manifest, with: &Comparison<'_>) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if self.kind != old.kind {
            reasons.push(Reason::Kind {
                old: old.kind.clone(),
                new: self.kind.clone(),
            });
        } else if self.version != old.version {
            reasons.push(Reason::KindVersion {
                old: old.version,
                new: self.version,
            });
        }
        self.changed_params(old, with.sources, &mut reasons);
        self.changed_inputs(old, with, &mut reasons);
        self.changed_environment(old, &mut reasons);
        reasons
    }

    fn changed_params(
        &self,
        old: &Manifest,
        sources: &BTreeMap<String, ValueSource>,
        reasons: &mut Vec<Reason>,
    ) {
        let names: BTreeSet<&String> = self.params.keys().chain(old.params.keys()).collect();
        for name in names {
            let (before, now) = (old.params.get(name), self.params.get(name));
            if before != now {
                reasons.push(Reason::Param {
                    name: name.clone(),
                    old: before.cloned(),
                    new: now.cloned(),
                    source: sources.get(name).cloned(),
                });
            }
        }
    }

    fn changed_inputs(&self, old: &Manifest, with: &Comparison<'_>, reasons: &mut Vec<Reason>) {
        let (before, now) = (by_port(&old.inputs), by_port(&self.inputs));
        let ports: BTreeSet<&str> = before.keys().chain(now.keys()).copied().collect();
        let nothing = BTreeMap::new();
        let told = reasons.len();
        for port in ports {
            let before = before.get(port).unwrap_or(&nothing);
            let now = now.get(port).unwrap_or(&nothing);
            if before.len().max(now.len()) < MANY {
                with.each(port, before, now, reasons);
            } else {
                let changes = with.all(before, now);
                let port = port.to_owned();
                reasons.extend((!changes.is_empty()).then_some(Reason::Inputs { port, changes }));
            }
        }
        if reasons.len() == told && self.inputs != old.inputs {
            reasons.push(Reason::InputOrder);
        }
    }

    fn changed_environment(&self, old: &Manifest, reasons: &mut Vec<Reason>) {
        let names = self.environment.keys().chain(old.environment.keys());
        for name in names.collect::<BTreeSet<_>>() {
            let before = old.environment.get(name).cloned().flatten();
            let now = self.environment.get(name).cloned().flatten();
            if before != now {
                reasons.push(Reason::Environment {
                    name: name.clone(),
                    old: before,
                    new: now,
                });
            }
        }
    }
}

/// From this many inputs on, those of a port are told of together.
const MANY: usize = 8;

/// What two manifests are compared with besides themselves.
pub struct Comparison<'a> {
    /// Where the values of the new manifest's parameters come from.
    pub sources: &'a BTreeMap<String, ValueSource>,
    /// What changed inside of a folder, old and new, where that can be told.
    pub folder: &'a dyn Fn(&InputContent, &InputContent) -> Option<FileChanges>,
    /// How many files are named of each input.
    pub limit: usize,
}

/// Inputs of one port by label; several of the same label are numbered.
type ByLabel<'a> = BTreeMap<(&'a str, usize), &'a InputContent>;

impl Comparison<'_> {
    /// One reason for each input that changed.
    fn each(&self, port: &str, before: &ByLabel, now: &ByLabel, reasons: &mut Vec<Reason>) {
        let labels: BTreeSet<_> = before.keys().chain(now.keys()).copied().collect();
        for label in labels {
            let (was, is) = (before.get(&label), now.get(&label));
            if was == is {
                continue;
            }
            let folders = was.zip(is).filter(|(was, is)| {
                was.shape == Shape::Folder && is.shape == Shape::Folder && was.digest != is.digest
            });
            reasons.push(Reason::Input {
                port: shown(port, label),
                old: was.map(|i| i.digest),
                new: is.map(|i| i.digest),
                files: folders.and_then(|(was, is)| (self.folder)(was, is)),
            });
        }
    }

    /// How the inputs of a port changed as a whole.
    fn all(&self, before: &ByLabel, now: &ByLabel) -> FileChanges {
        let mut changes = FileChanges::new();
        let name = |(label, n): (&str, usize)| match n {
            1 if !label.is_empty() => label.to_owned(),
            n => format!("{label}#{n}"),
        };
        let gone = before.iter().filter(|(label, _)| !now.contains_key(*label));
        for (label, was) in gone {
            changes.push(name(*label), Some(was.digest), None);
        }
        for (label, is) in now {
            changes.present();
            let was = before.get(label);
            if was != Some(is) {
                changes.push(name(*label), was.map(|i| i.digest), Some(is.digest));
            }
        }
        changes.finish(self.limit)
    }
}

/// `port`, `port[label]`, or `port#2` for the second one without a label.
fn shown(port: &str, (label, n): (&str, usize)) -> String {
    let mut shown = port.to_owned();
    if !label.is_empty() {
        shown.push_str(&format!("[{label}]"));
    }
    if n > 1 {
        shown.push_str(&format!("#{n}"));
    }
    shown
}

fn by_port(inputs: &[InputContent]) -> BTreeMap<&str, ByLabel<'_>> {
    let mut ports: BTreeMap<&str, ByLabel<'_>> = BTreeMap::new();
    let mut times: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for input in inputs {
        let n = times.entry((&input.port, &input.label)).or_default();
        *n += 1;
        let port = ports.entry(&input.port).or_default();
        port.insert((&input.label, *n), input);
    }
    ports
}

fn shape_code(shape: Shape) -> u64 {
    match shape {
        Shape::File => 0,
        Shape::Executable => 1,
        Shape::Folder => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn manifest() -> Manifest {
        let Value::Object(params) = json!({"rank": 8, "learning_rate": 5e-5}) else {
            unreachable!()
        };
        Manifest {
            format: FORMAT,
            kind: "lora.train".into(),
            version: 1,
            params,
            inputs: vec![InputContent {
                port: "train".into(),
                label: String::new(),
                file: "rows.jsonl".into(),
                digest: Digest::of(b"rows"),
                shape: Shape::File,
            }],
            environment: BTreeMap::from([("CUDA".into(), None)]),
        }
    }

    /// Golden bytes: if this fails, every user's store becomes worthless.
    /// Raise [`FORMAT`] on purpose or mend the encoding.
    #[test]
    fn golden_key() {
        assert_eq!(
            manifest().key().to_string(),
            GOLDEN,
            "the encoding of keys changed"
        );
    }
    const GOLDEN: &str = "0c6565870e75352fcb2caab998aafd902b450123193ed6e7eab654c5704a6cfd";

    fn differences(new: &Manifest, old: &Manifest) -> Vec<Reason> {
        let with = Comparison {
            sources: &BTreeMap::new(),
            folder: &|_, _| None,
            limit: 3,
        };
        new.differences(old, &with)
    }

    fn changed(change: impl FnOnce(&mut Manifest)) -> Vec<String> {
        let old = manifest();
        let mut new = manifest();
        change(&mut new);
        assert_ne!(new.key(), old.key(), "the key did not change");
        let reasons = differences(&new, &old);
        assert!(!reasons.is_empty(), "a changed key without a reason");
        reasons.iter().map(|r| r.to_string()).collect()
    }

    #[test]
    fn key_changes_with_the_kind() {
        assert_eq!(changed(|m| m.kind = "x".into()), ["kind: lora.train → x"]);
    }

    #[test]
    fn key_changes_with_the_kind_version() {
        assert_eq!(changed(|m| m.version = 2), ["kind version: 1 → 2"]);
    }

    #[test]
    fn key_changes_with_a_param_value() {
        assert_eq!(
            changed(|m| m.params["rank"] = json!(16)),
            ["param rank: 8 → 16"]
        );
    }

    #[test]
    fn key_changes_with_a_param_added_or_removed() {
        let added = changed(|m| {
            m.params.insert("alpha".into(), json!(1));
        });
        assert_eq!(added, ["param alpha: added 1"]);
        let removed = changed(|m| {
            m.params.remove("rank");
        });
        assert_eq!(removed, ["param rank: removed 8"]);
    }

    #[test]
    fn key_changes_with_an_input_content() {
        let reasons = changed(|m| m.inputs[0].digest = Digest::of(b"other"));
        assert_eq!(reasons.len(), 1);
        assert!(reasons[0].starts_with("input train: "), "{reasons:?}");
    }

    #[test]
    fn key_changes_with_an_input_added_or_removed() {
        let added = changed(|m| {
            let mut more = m.inputs[0].clone();
            more.port = "validation".into();
            m.inputs.push(more);
        });
        assert!(added[0].starts_with("input validation: added"));
        changed(|m| m.inputs.clear());
    }

    #[test]
    fn key_changes_with_an_input_label_file_name_and_exec_bit() {
        changed(|m| m.inputs[0].label = "a".into());
        changed(|m| m.inputs[0].file = "rows.txt".into());
        changed(|m| m.inputs[0].shape = Shape::Executable);
    }

    #[test]
    fn key_changes_with_the_order_of_several_inputs() {
        let mut two = manifest();
        two.inputs.push(InputContent {
            digest: Digest::of(b"more"),
            ..two.inputs[0].clone()
        });
        let mut swapped = two.clone();
        swapped.inputs.swap(0, 1);
        assert_ne!(two.key(), swapped.key());
        assert_eq!(differences(&swapped, &two).len(), 2);
    }

    #[test]
    fn labelled_inputs_in_another_order_are_a_reason() {
        let mut two = manifest();
        two.inputs[0].label = "a".into();
        two.inputs.push(InputContent {
            label: "b".into(),
            ..two.inputs[0].clone()
        });
        let mut swapped = two.clone();
        swapped.inputs.swap(0, 1);
        let reasons = differences(&swapped, &two);
        assert_eq!(reasons, [Reason::InputOrder]);
    }

    #[test]
    fn many_inputs_of_a_port_are_one_reason() {
        let input = |n: usize, content: &str| InputContent {
            label: format!("data/{n:03}.json"),
            digest: Digest::of(content.as_bytes()),
            ..manifest().inputs[0].clone()
        };
        let mut old = manifest();
        old.inputs = (0..128).map(|n| input(n, "x")).collect();
        let mut new = old.clone();
        (5..9).for_each(|n| new.inputs[n] = input(n, "y"));
        new.inputs.remove(100);
        new.inputs.push(input(200, "x"));
        let reasons = differences(&new, &old);
        let words: Vec<String> = reasons.iter().map(Reason::to_string).collect();
        assert_eq!(
            words,
            [
                "input train: 4 of 128 changed, e.g. data/005.json, data/006.json, \
              data/007.json (+1 added, 1 removed)"
            ]
        );
    }

    #[test]
    fn key_changes_with_a_declared_variable() {
        let reasons = changed(|m| {
            m.environment.insert("CUDA".into(), Some(String::new()));
        });
        assert_eq!(reasons, ["environment CUDA: added "]);
    }

    #[test]
    fn key_changes_with_the_format() {
        let mut new = manifest();
        new.format += 1;
        assert_ne!(new.key(), manifest().key());
    }

    #[test]
    fn key_does_not_depend_on_the_order_of_params() {
        let mut new = manifest();
        let mut reversed = Params::new();
        for (name, value) in manifest().params.into_iter().rev() {
            reversed.insert(name, value);
        }
        new.params = reversed;
        assert_eq!(new.key(), manifest().key());
    }
}
