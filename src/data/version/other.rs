//! Versions of an ecosystem that is not known: numbers as numbers, pre-releases before the release.

use std::cmp::Ordering;

/// A part of a version. Qualifiers below [`Part::Release`] come before the
/// release they qualify (`1.0-rc1` < `1.0`), those above come after it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Pre(u8, String),
    Release,
    Post(String),
    Number(u128),
}

/// The order of versions in Maven, npm, PyPI and their like: numbers as
/// numbers, pre-releases before the release, `Final`/`GA` the release itself.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (parts(a), parts(b));
    let length = a.len().max(b.len());
    for i in 0..length {
        // A missing part is the release, and the release equals `.0`.
        let (left, right) = (a.get(i), b.get(i));
        let order = match (left, right) {
            (Some(x), Some(y)) => x.cmp(y),
            (Some(x), None) => against_nothing(x),
            (None, Some(y)) => against_nothing(y).reverse(),
            (None, None) => Ordering::Equal,
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

fn against_nothing(part: &Part) -> Ordering {
    match part {
        Part::Number(0) => Ordering::Equal,
        other => other.cmp(&Part::Release),
    }
}

/// The parts of a version; an epoch (`1:2.3`) is the first of them, build
/// metadata behind `+` is left out.
fn parts(version: &str) -> Vec<Part> {
    let version = version.trim().trim_start_matches(['v', 'V', '=']);
    let (epoch, rest) = match version.split_once(':') {
        Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
        None => (0, version),
    };
    let rest = rest.split('+').next().unwrap_or(rest);
    let mut parts = vec![Part::Number(epoch)];
    for piece in rest.split(['.', '-', '_', '~']) {
        let mut piece = piece;
        while !piece.is_empty() {
            let digit = piece.starts_with(|c: char| c.is_ascii_digit());
            let end = piece
                .find(|c: char| c.is_ascii_digit() != digit)
                .unwrap_or(piece.len());
            let (token, after) = piece.split_at(end);
            piece = after;
            if digit {
                parts.push(Part::Number(token.parse().unwrap_or(u128::MAX)));
            } else {
                parts.extend(qualifier(token));
            }
        }
    }
    parts
}

fn qualifier(word: &str) -> Option<Part> {
    let word = word.to_ascii_lowercase();
    Some(match word.as_str() {
        "final" | "ga" | "release" => return None,
        "dev" => Part::Pre(0, word),
        "snapshot" => Part::Pre(5, word),
        "alpha" | "a" => Part::Pre(1, "alpha".into()),
        "beta" | "b" => Part::Pre(2, "beta".into()),
        "milestone" | "m" | "pre" | "preview" => Part::Pre(3, "milestone".into()),
        "rc" | "cr" | "c" => Part::Pre(4, "rc".into()),
        _ => Part::Post(word),
    })
}

/// Whether a version comes before its release.
pub fn is_prerelease(version: &str) -> bool {
    parts(version)
        .iter()
        .any(|part| matches!(part, Part::Pre(..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_versions() {
        for (low, high) in [
            ("1.9", "1.10"),
            ("2.14.0-rc2", "2.14.0"),
            ("1.0-alpha1", "1.0-beta1"),
            ("1.0rc1", "1.0"),
            ("1.0-SNAPSHOT", "1.0"),
            ("4.1.106.Final", "4.1.124.Final"),
            ("3.0.13-0ubuntu3.4", "3.0.13-0ubuntu3.5"),
            ("9.9", "1:1.0"),
            ("1.0", "1.0.post1"),
        ] {
            assert_eq!(compare(low, high), Ordering::Less, "{low} {high}");
            assert_eq!(compare(high, low), Ordering::Greater, "{high} {low}");
        }
        assert_eq!(compare("1.0", "v1.0.0"), Ordering::Equal);
        assert_eq!(compare("4.1.0.Final", "4.1.0"), Ordering::Equal);
    }
}
