//! How far two numbers are apart, NaN and infinities included.

use std::fmt;

use serde::{Serialize, Serializer};

/// A number that JSON may not be able to hold: NaN and infinities are written
/// as text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Real(pub f64);

impl Serialize for Real {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.is_finite() {
            true => serializer.serialize_f64(self.0),
            false => serializer.collect_str(self),
        }
    }
}

impl Real {
    /// Three significant digits, for people; the data has them all.
    pub fn short(self) -> String {
        digits(self.0)
    }
}

impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let x = self.0;
        match x.abs() {
            m if m.is_finite() && m != 0.0 && !(1e-4..1e7).contains(&m) => write!(f, "{x:e}"),
            _ => write!(f, "{x}"),
        }
    }
}

/// How far numbers are apart at most: the largest absolute and the largest
/// relative difference, which need not be those of the same pair.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Gap {
    /// `|a − b|`.
    pub max_abs: Real,
    /// `|a − b| / max(|a|, |b|)`.
    pub max_rel: Real,
}

impl Gap {
    /// No difference.
    pub const ZERO: Gap = Gap {
        max_abs: Real(0.0),
        max_rel: Real(0.0),
    };

    /// Between two numbers. NaN is as far from any number as can be, and no
    /// distance from another NaN; so are infinities.
    pub fn between(a: f64, b: f64) -> Self {
        if a == b || a.is_nan() && b.is_nan() {
            return Gap::ZERO;
        }
        let abs = (a - b).abs();
        // NaN against a number, or ±∞ against anything else.
        if abs.is_nan() || a.is_infinite() || b.is_infinite() {
            return Gap {
                max_abs: Real(f64::INFINITY),
                max_rel: Real(f64::INFINITY),
            };
        }
        let scale = a.abs().max(b.abs());
        Gap {
            max_abs: Real(abs),
            // The difference of two finite numbers may be beyond the largest.
            max_rel: Real((a / scale - b / scale).abs()),
        }
    }

    /// The larger of each.
    pub fn max(self, other: Gap) -> Self {
        Gap {
            max_abs: Real(self.max_abs.0.max(other.max_abs.0)),
            max_rel: Real(self.max_rel.0.max(other.max_rel.0)),
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (abs, rel) = (digits(self.max_abs.0), digits(self.max_rel.0));
        write!(f, "max abs {abs}, max rel {rel}")
    }
}

fn digits(x: f64) -> String {
    match x.abs() {
        m if m == 0.0 || !m.is_finite() => Real(x).to_string(),
        m if (1e-3..1e4).contains(&m) => {
            let places = (2 - m.log10().floor() as i32).max(0) as usize;
            format!("{x:.places$}")
        }
        _ => format!("{x:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(a: f64, b: f64) -> (f64, f64) {
        let gap = Gap::between(a, b);
        assert_eq!(gap, Gap::between(b, a), "the order must not matter");
        (gap.max_abs.0, gap.max_rel.0)
    }

    #[test]
    fn what_is_not_a_number_is_apart_from_what_is() {
        let far = (f64::INFINITY, f64::INFINITY);
        assert_eq!(gap(f64::NAN, -f64::NAN), (0.0, 0.0));
        assert_eq!(gap(f64::INFINITY, f64::INFINITY), (0.0, 0.0));
        assert_eq!(gap(0.0, -0.0), (0.0, 0.0));
        assert_eq!(gap(f64::NAN, 1.0), far);
        assert_eq!(gap(f64::INFINITY, 1.0), far);
        assert_eq!(gap(f64::INFINITY, f64::NEG_INFINITY), far);
        assert_eq!(gap(f64::INFINITY, f64::NAN), far);
    }

    #[test]
    fn differences_are_absolute_and_relative() {
        assert_eq!(gap(1.0, 0.75), (0.25, 0.25));
        assert_eq!(gap(4.0, 3.0), (1.0, 0.25));
        assert_eq!(gap(0.0, 1e-300), (1e-300, 1.0));
        assert_eq!(gap(-1.0, 1.0), (2.0, 2.0));
        assert_eq!(gap(f64::MAX, -f64::MAX), (f64::INFINITY, 2.0));
    }

    #[test]
    fn gaps_in_words() {
        let words = |a, b| Gap::between(a, b).to_string();
        assert_eq!(words(1.0, 0.75), "max abs 0.250, max rel 0.250");
        assert_eq!(words(1e-8, 3e-8), "max abs 2.00e-8, max rel 0.667");
        assert_eq!(words(1.0, f64::NAN), "max abs inf, max rel inf");
        let json = serde_json::to_string(&Gap::between(1.0, f64::NAN)).unwrap();
        assert_eq!(json, r#"{"max_abs":"inf","max_rel":"inf"}"#);
    }
}
