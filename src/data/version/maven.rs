//! Maven's order of versions, as its POM reference describes it ("Version Order Specification").

use std::cmp::Ordering;

/// A token with the sign before it; a change between digits and letters counts as a hyphen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    dot: bool,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Number(u128),
    Word(String),
}

/// The qualifiers that come before a release, the release, and the one after it.
const WORDS: [&str; 7] = ["alpha", "beta", "milestone", "rc", "snapshot", "", "sp"];
/// The place of the release among them.
const RELEASE: usize = 5;

/// The order of two versions.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (tokens(a), tokens(b));
    for at in 0..a.len().max(b.len()) {
        let order = match (a.get(at), b.get(at)) {
            (Some(a), Some(b)) => token_order(a, b),
            (Some(a), None) => against_nothing(&a.value),
            (None, Some(b)) => against_nothing(&b.value).reverse(),
            (None, None) => Ordering::Equal,
        };
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// Whether a version comes before its release.
pub fn is_prerelease(version: &str) -> bool {
    let early = |token: &Token| match &token.value {
        Value::Word(word) => rank(word).0 < RELEASE,
        Value::Number(_) => false,
    };
    tokens(version).iter().any(early)
}

fn token_order(a: &Token, b: &Token) -> Ordering {
    // .qualifier = -qualifier < -number < .number
    let class = |token: &Token| match (&token.value, token.dot) {
        (Value::Word(_), _) => 0,
        (Value::Number(_), false) => 1,
        (Value::Number(_), true) => 2,
    };
    match (&a.value, &b.value) {
        (Value::Word(a), Value::Word(b)) => rank(a).cmp(&rank(b)),
        (Value::Number(x), Value::Number(y)) if a.dot == b.dot => x.cmp(y),
        _ => class(a).cmp(&class(b)),
    }
}

fn against_nothing(value: &Value) -> Ordering {
    match value {
        Value::Number(0) => Ordering::Equal,
        Value::Number(_) => Ordering::Greater,
        Value::Word(word) => rank(word).cmp(&rank("")),
    }
}

/// Known qualifiers by their place, others behind them by the alphabet.
fn rank(word: &str) -> (usize, &str) {
    match WORDS.iter().position(|known| *known == word) {
        Some(place) => (place, ""),
        None => (WORDS.len(), word),
    }
}

fn tokens(version: &str) -> Vec<Token> {
    let version = version.trim().to_ascii_lowercase();
    let mut all: Vec<Token> = Vec::new();
    let mut dot = true;
    let mut rest = version.as_str();
    loop {
        let digits = rest.starts_with(|c: char| c.is_ascii_digit());
        let end = rest.find(|c: char| c == '.' || c == '-' || c.is_ascii_digit() != digits);
        let (text, behind) = rest.split_at(end.unwrap_or(rest.len()));
        let followed_by_digit = behind.starts_with(|c: char| c.is_ascii_digit());
        all.push(Token {
            dot,
            value: value(text, digits, followed_by_digit),
        });
        match behind.chars().next() {
            None => break,
            Some(sign @ ('.' | '-')) => {
                dot = sign == '.';
                rest = &behind[1..];
            }
            Some(_) => {
                dot = false;
                rest = behind;
            }
        }
    }
    trimmed(all)
}

fn value(text: &str, digits: bool, followed_by_digit: bool) -> Value {
    if text.is_empty() {
        return Value::Number(0);
    }
    if digits {
        return Value::Number(text.parse().unwrap_or(u128::MAX));
    }
    let word = match text {
        "a" if followed_by_digit => "alpha",
        "b" if followed_by_digit => "beta",
        "m" if followed_by_digit => "milestone",
        "cr" => "rc",
        "final" | "ga" | "release" => "",
        other => other,
    };
    Value::Word(word.to_owned())
}

/// Without what says nothing (0, "", final, ga) at the end and before each hyphen.
fn trimmed(all: Vec<Token>) -> Vec<Token> {
    let mut kept: Vec<Token> = Vec::new();
    let nothing = |token: &Token| match &token.value {
        Value::Number(n) => *n == 0,
        Value::Word(word) => word.is_empty(),
    };
    let trim = |kept: &mut Vec<Token>| {
        while kept.last().is_some_and(nothing) {
            kept.pop();
        }
    };
    for token in all {
        if !token.dot {
            trim(&mut kept);
        }
        kept.push(token);
    }
    trim(&mut kept);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_reference() {
        let less = |a: &str, b: &str| {
            assert_eq!(compare(a, b), Ordering::Less, "{a} {b}");
            assert_eq!(compare(b, a), Ordering::Greater, "{b} {a}");
        };
        let same = |a: &str, b: &str| assert_eq!(compare(a, b), Ordering::Equal, "{a} {b}");
        less("1", "1.1");
        less("1-snapshot", "1");
        less("1", "1-sp");
        less("1-foo2", "1-foo10");
        same("1.foo", "1-foo");
        less("1-foo", "1-1");
        less("1-1", "1.1");
        for other in ["1-ga", "1-0", "1.0", "1"] {
            same("1.ga", other);
        }
        less("1-ga", "1-sp");
        less("1-ga.1", "1-sp.1");
        less("1-sp-1", "1-ga-1");
        same("1-ga-1", "1-1");
        same("1-a1", "1-alpha-1");
        for (a, b) in [
            ("1.0-alpha-1", "1.0-beta-1"),
            ("1.0-beta9", "1.0-milestone1"),
            ("1.0-M1", "1.0-RC1"),
            ("1.0-CR1", "1.0-SNAPSHOT"),
            ("2.0.1", "2.0.1-xyz"),
            ("4.1.106.Final", "4.1.124.Final"),
            ("33.1.0-android", "33.1.0-jre"),
            ("9.9", "10.0"),
        ] {
            less(a, b);
        }
    }

    proptest! {
        #[test]
        fn the_order_is_total(
            all in prop::collection::vec("[0-9]{1,2}([.-]([0-9]{1,2}|alpha|beta|m|rc|sp|ga|final|jre)){0,3}", 3),
        ) {
            let [a, b, c] = [&all[0], &all[1], &all[2]];
            prop_assert_eq!(compare(a, b), compare(b, a).reverse());
            prop_assert_eq!(compare(a, a), Ordering::Equal);
            if compare(a, b) != Ordering::Greater && compare(b, c) != Ordering::Greater {
                prop_assert_ne!(compare(a, c), Ordering::Greater);
            }
        }
    }
}
