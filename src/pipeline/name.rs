//! Names that are safe as file names and as keys: letters, digits, `-` and `_`, and for a cell of a matrix the cell.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hash::Digest;

/// A name has characters that it must not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a name: letters, digits, '-' and '_', the first a letter or digit")]
pub struct BadName(String);

/// Whether `text` is `[A-Za-z0-9][A-Za-z0-9_-]*`.
pub(crate) fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Whether `text` is a name, or one with a cell in brackets behind it.
fn is_step_name(text: &str) -> bool {
    match text.split_once('[') {
        None => is_name(text),
        Some((base, cell)) => {
            let cell = cell.strip_suffix(']').unwrap_or_default();
            is_name(base) && cell.contains('=') && !cell.chars().any(char::is_control)
        }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                if $valid(text) {
                    Ok($name(text.into()))
                } else {
                    Err(BadName(text.to_owned()))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name! {
    /// The name of a step: `[A-Za-z0-9][A-Za-z0-9_-]*`. A cell of a matrix is a
    /// step of its own and has the cell behind the name: `stage1[lr=1e-4,rank=8]`.
    StepName, is_step_name
}

name! {
    /// The name of a pipeline: `[A-Za-z0-9][A-Za-z0-9_-]*`.
    PipelineName, is_name
}

impl PipelineName {
    /// What stands in for a name that has been reported as a bad one.
    pub(super) fn fallback() -> Self {
        PipelineName("pipeline".into())
    }
}

/// A file's name may have 255 bytes; a cell leaves room for what is put
/// before and behind it.
const LONGEST_CELL: usize = 120;

impl StepName {
    /// The name as the pipeline file has it, without the cell.
    pub fn base(&self) -> &str {
        self.split().0
    }

    /// The cell of a matrix: `lr=1e-4,rank=8`.
    pub fn cell(&self) -> Option<&str> {
        self.split().1
    }

    fn split(&self) -> (&str, Option<&str>) {
        match self.0.split_once('[') {
            Some((base, cell)) => (base, cell.strip_suffix(']')),
            None => (&self.0, None),
        }
    }

    /// The name of the cell with that text.
    pub(super) fn with_cell(&self, cell: &str) -> Self {
        StepName(format!("{}[{cell}]", self.base()).into())
    }

    /// The folder of what belongs to the step alone, relative to one for all
    /// steps: its name, and for a cell one within that of the whole matrix.
    pub fn folder(&self) -> Cow<'_, str> {
        self.path('/')
    }

    /// A file's name: one component of a path.
    pub fn file(&self) -> Cow<'_, str> {
        self.path(',')
    }

    fn path(&self, between: char) -> Cow<'_, str> {
        match self.split() {
            (base, Some(cell)) => format!("{base}{between}{}", file_safe(cell)).into(),
            (base, None) => base.into(),
        }
    }
}

/// The text of a cell as part of a file's name. What had to be replaced or cut
/// is told apart by a digest, behind a `~` that no cell's text has otherwise.
pub(super) fn file_safe(cell: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+=,@%~".contains(c);
    if cell.len() <= LONGEST_CELL && cell.chars().all(plain) {
        return cell.into();
    }
    let mut name = String::new();
    for c in cell.chars().filter(|c| !"\"'[]{}".contains(*c)) {
        if name.len() == LONGEST_CELL / 2 {
            break;
        }
        name.push(if plain(c) { c } else { '_' });
    }
    let digest = Digest::of(cell.as_bytes()).short();
    format!("{name}~{digest}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_file_names() {
        for good in ["a", "stage1", "A-b_c", "0"] {
            assert_eq!(good.parse::<StepName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "_a", ".", "..", "a/b", "a.b", "a b", "ä", "a\n"] {
            assert!(bad.parse::<StepName>().is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<StepName>("\"../x\"").is_err());
    }

    fn name(text: &str) -> StepName {
        text.parse().unwrap()
    }

    #[test]
    fn a_cell_is_a_part_of_the_name() {
        let cell = name("stage1[lr=1e-4,rank=8]");
        assert_eq!(
            (cell.base(), cell.cell()),
            ("stage1", Some("lr=1e-4,rank=8"))
        );
        assert_eq!(name("stage1").cell(), None);
        for bad in [
            "a[]", "a[x=1", "a[x]", "[x=1]", "a.b[x=1]", "a[x=1]b", "a[x=\n]",
        ] {
            assert!(bad.parse::<StepName>().is_err(), "{bad:?}");
        }
        assert!("a[x=1]".parse::<PipelineName>().is_err());
    }

    #[test]
    fn a_cell_is_safe_as_a_file_name() {
        let cell = name("stage1[lr=1e-4,rank=8]");
        assert_eq!(cell.folder(), "stage1/lr=1e-4,rank=8");
        assert_eq!(cell.file(), "stage1,lr=1e-4,rank=8");
        assert_eq!(name("stage1").folder(), "stage1");
        let outside = name("a[data=../../x]").folder().into_owned();
        assert!(outside.starts_with("a/data=.._.._x~"), "{outside}");
        assert_ne!(name("a[x=\"a b\"]").folder(), name("a[x=\"a_b\"]").folder());
        let long = name(&format!("a[x={}]", "y".repeat(400)));
        assert!(long.file().len() < 100, "{}", long.file());
        let wide = name(&format!("a[x={}]", "\u{1f600}".repeat(100)));
        assert!(wide.file().is_ascii());
    }
}
