//! Two JSON documents: every key that differs, with its old and new value.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::{Gap, TOLD, Tolerance, brief};

/// How many changes are kept; the rest are counted.
const KEPT: usize = 1000;

/// Documents above this are compared as bytes.
const LARGEST: u64 = 256 << 20;

/// How two documents differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JsonDifference {
    /// What differs, in the order of the documents.
    pub changes: Vec<KeyChange>,
    /// How many more do.
    pub more: usize,
    /// How far numbers are apart at most, where any are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
}

/// A key whose value differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeyChange {
    /// The JSON pointer of the key.
    pub path: String,
    /// Its value before; none where the key is new.
    pub old: Option<Value>,
    /// Its value now; none where the key is gone.
    pub new: Option<Value>,
    /// Whether the declared tolerance covers it.
    pub within: bool,
}

impl KeyChange {
    /// `/key: old → new`.
    pub fn line(&self) -> String {
        let show = |value: &Option<Value>| match value {
            Some(value) => brief(&value.to_string()),
            None => "nothing".to_owned(),
        };
        let path = match self.path.as_str() {
            "" => "the whole",
            path => path,
        };
        let note = match self.within {
            true => " (within tolerance)",
            false => "",
        };
        format!("{path}: {} → {}{note}", show(&self.old), show(&self.new))
    }
}

/// The differences of two values, collected.
pub(super) struct Walk<'a> {
    tolerance: &'a Tolerance,
    pub changes: Vec<KeyChange>,
    pub more: usize,
    pub gap: Option<Gap>,
    /// Whether everything so far is covered by the tolerance.
    pub within: bool,
}

impl<'a> Walk<'a> {
    pub fn new(tolerance: &'a Tolerance) -> Self {
        Walk {
            tolerance,
            changes: Vec::new(),
            more: 0,
            gap: None,
            within: true,
        }
    }

    pub fn values(&mut self, path: &str, old: &Value, new: &Value) {
        match (old, new) {
            (Value::Object(a), Value::Object(b)) => {
                for (key, value) in a {
                    let below = format!("{path}/{}", escape(key));
                    match b.get(key) {
                        Some(other) => self.values(&below, value, other),
                        None => self.change(below, Some(value), None),
                    }
                }
                for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                    self.change(format!("{path}/{}", escape(key)), None, Some(value));
                }
            }
            (Value::Array(a), Value::Array(b)) => {
                for i in 0..a.len().max(b.len()) {
                    let below = format!("{path}/{i}");
                    match (a.get(i), b.get(i)) {
                        (Some(x), Some(y)) => self.values(&below, x, y),
                        (x, y) => self.change(below, x, y),
                    }
                }
            }
            (a, b) if a == b => {}
            (a, b) => self.change(path.to_owned(), Some(a), Some(b)),
        }
    }

    fn change(&mut self, path: String, old: Option<&Value>, new: Option<&Value>) {
        let numbers = old.and_then(Value::as_f64).zip(new.and_then(Value::as_f64));
        let gap = numbers.map(|(a, b)| Gap::between(a, b));
        let ignored = self.tolerance.ignores(&path);
        let within = ignored || gap.is_some_and(|gap| self.tolerance.covers(gap));
        self.within &= within;
        if let Some(gap) = gap.filter(|_| !ignored) {
            self.gap = Some(self.gap.unwrap_or(Gap::ZERO).max(gap));
        }
        if self.changes.len() == KEPT {
            self.more += 1;
            return;
        }
        self.changes.push(KeyChange {
            path,
            old: old.cloned(),
            new: new.cloned(),
            within,
        });
    }
}

/// A key as a JSON pointer writes it.
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Every key whose value differs between two values, up to a thousand.
pub fn json_changes(old: &Value, new: &Value) -> Vec<KeyChange> {
    let bitwise = Tolerance::default();
    let mut walk = Walk::new(&bitwise);
    walk.values("", old, new);
    walk.changes
}

impl JsonDifference {
    pub(super) fn lines(&self) -> Vec<String> {
        let total = self.changes.len() + self.more;
        if total == 0 {
            return vec![
                "the same values in other bytes: key order, spaces or how numbers are written"
                    .to_owned(),
            ];
        }
        // What no tolerance covers comes first.
        let (covered, not): (Vec<_>, Vec<_>) = self.changes.iter().partition(|c| c.within);
        let told = not.into_iter().chain(covered).take(TOLD);
        let mut lines: Vec<String> = told.map(KeyChange::line).collect();
        if total > TOLD {
            lines.push(format!("{} more keys differ", total - TOLD));
        }
        lines.extend(self.gap.map(|gap| format!("numbers: {gap}")));
        lines
    }
}

/// Compares two files as JSON; none where one of them is not (or, if asked for,
/// holds neither an object nor a list), or is too large. The second value says
/// whether the tolerance covers all.
pub(super) fn difference(
    old: &Path,
    new: &Path,
    tolerance: &Tolerance,
    documents: bool,
) -> Option<(JsonDifference, bool)> {
    let read = |path: &Path| -> Option<Value> {
        let small = fs::metadata(path).is_ok_and(|meta| meta.len() <= LARGEST);
        let bytes = small.then(|| fs::read(path).ok())??;
        serde_json::from_slice(&bytes).ok()
    };
    let (old, new) = (read(old)?, read(new)?);
    let document = |value: &Value| value.is_object() || value.is_array();
    if documents && !(document(&old) && document(&new)) {
        return None;
    }
    let mut walk = Walk::new(tolerance);
    walk.values("", &old, &new);
    let within = walk.within && !tolerance.is_bitwise();
    let found = JsonDifference {
        changes: walk.changes,
        more: walk.more,
        gap: walk.gap,
    };
    Some((found, within))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Limits;
    use serde_json::json;

    fn walk(tolerance: &Tolerance, old: Value, new: Value) -> (Vec<String>, bool) {
        let mut walk = Walk::new(tolerance);
        walk.values("", &old, &new);
        let lines = walk.changes.iter().map(KeyChange::line).collect();
        (lines, walk.within)
    }

    #[test]
    fn every_key_is_named_with_both_values() {
        let (lines, within) = walk(
            &Tolerance::default(),
            json!({"loss": 0.5, "a/b": {"c~": [1, 2]}, "gone": null, "same": 1}),
            json!({"loss": 0.25, "a/b": {"c~": [1, 3, 4]}, "new": "x", "same": 1}),
        );
        assert_eq!(
            lines,
            [
                "/a~1b/c~0/1: 2 → 3",
                "/a~1b/c~0/2: nothing → 4",
                "/gone: null → nothing",
                "/loss: 0.5 → 0.25",
                "/new: nothing → \"x\"",
            ]
        );
        assert!(!within);
    }

    #[test]
    fn tolerances_cover_numbers_and_pointers_and_nothing_else() {
        let tolerance = Tolerance {
            limits: Some(Limits {
                max_abs: 0.1,
                max_rel: 0.0,
            }),
            ignore: vec!["/seconds".into()],
        };
        let old = json!({"loss": 1.0, "seconds": 3, "name": "a"});
        let close = json!({"loss": 1.05, "seconds": 999, "name": "a"});
        assert_eq!(walk(&tolerance, old.clone(), close).0.len(), 2);
        let close = json!({"loss": 1.05, "seconds": 999, "name": "a"});
        assert!(walk(&tolerance, old.clone(), close).1);
        for far in [
            json!({"loss": 1.2, "seconds": 3, "name": "a"}),
            json!({"loss": 1.0, "seconds": 3, "name": "b"}),
            json!({"loss": "1.0", "seconds": 3, "name": "a"}),
            json!({"loss": 1.0, "seconds": 3}),
        ] {
            assert!(!walk(&tolerance, old.clone(), far.clone()).1, "{far}");
        }
    }

    #[test]
    fn thousands_of_changes_are_counted() {
        let old: Vec<i32> = (0..3000).collect();
        let new: Vec<i32> = (0..3000).map(|x| x + 1).collect();
        let tolerance = Tolerance::default();
        let mut walk = Walk::new(&tolerance);
        walk.values("", &json!(old), &json!(new));
        assert_eq!((walk.changes.len(), walk.more), (KEPT, 3000 - KEPT));
    }
}
