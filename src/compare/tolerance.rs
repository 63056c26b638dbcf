//! What may differ without being a difference: declared per output, and told whenever it is made use of.

use serde::{Deserialize, Serialize};

use super::Gap;

/// What may differ in an output. The default is nothing: bit for bit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tolerance {
    /// How far numbers may be apart; none where every bit counts.
    pub limits: Option<Limits>,
    /// JSON pointers of what is not compared, in documents and in rows; `*`
    /// stands for any one key or index.
    pub ignore: Vec<String>,
}

/// How far two numbers may be apart: either is enough.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// `|a − b|` up to this.
    pub max_abs: f64,
    /// `|a − b| / max(|a|, |b|)` up to this.
    pub max_rel: f64,
}

impl Tolerance {
    /// Whether every bit counts.
    pub fn is_bitwise(&self) -> bool {
        self.limits.is_none() && self.ignore.is_empty()
    }

    /// Whether a pair of numbers so far apart counts as the same.
    pub fn covers(&self, gap: Gap) -> bool {
        self.limits.is_some_and(|limits| {
            gap.max_abs.0 <= limits.max_abs || gap.max_rel.0 <= limits.max_rel
        })
    }

    /// Whether what is at a JSON pointer is not compared.
    pub fn ignores(&self, pointer: &str) -> bool {
        self.ignore.iter().any(|pattern| matches(pattern, pointer))
    }

    /// In the words of the pipeline file.
    pub fn words(&self) -> String {
        let mut parts = Vec::new();
        if let Some(limits) = self.limits {
            for (name, value) in [("max_abs", limits.max_abs), ("max_rel", limits.max_rel)] {
                parts.extend((value > 0.0).then(|| format!("{name} {value:e}")));
            }
            if parts.is_empty() {
                parts.push("the same values".to_owned());
            }
        }
        if !self.ignore.is_empty() {
            parts.push(format!("ignore {}", self.ignore.join(" ")));
        }
        match parts.is_empty() {
            true => "bitwise".to_owned(),
            false => parts.join(", "),
        }
    }
}

/// Whether `pointer` is at or below what `pattern` names.
fn matches(pattern: &str, pointer: &str) -> bool {
    let mut found = pointer.split('/');
    pattern
        .split('/')
        .all(|part| found.next().is_some_and(|key| part == "*" || part == key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_ignored_with_all_below_them() {
        let tolerance = Tolerance {
            ignore: vec!["/seconds".into(), "/rows/*/time".into()],
            ..Tolerance::default()
        };
        for (pointer, ignored) in [
            ("/seconds", true),
            ("/seconds/0", true),
            ("/seconds_total", false),
            ("/rows/7/time/zone", true),
            ("/rows/7", false),
            ("", false),
        ] {
            assert_eq!(tolerance.ignores(pointer), ignored, "{pointer}");
        }
    }

    #[test]
    fn either_limit_is_enough_and_no_limit_covers_nan() {
        let limits = |max_abs, max_rel| Tolerance {
            limits: Some(Limits { max_abs, max_rel }),
            ..Tolerance::default()
        };
        assert!(limits(0.5, 0.0).covers(Gap::between(100.0, 100.5)));
        assert!(limits(0.0, 0.01).covers(Gap::between(100.0, 100.5)));
        assert!(!limits(0.4, 0.001).covers(Gap::between(100.0, 100.5)));
        assert!(!limits(1e300, 1e300).covers(Gap::between(f64::NAN, 1.0)));
        assert!(!Tolerance::default().covers(Gap::ZERO), "every bit counts");
        assert_eq!(limits(1e-6, 0.0).words(), "max_abs 1e-6");
        assert_eq!(Tolerance::default().words(), "bitwise");
    }
}
