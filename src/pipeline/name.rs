//! Names that are safe as file names and as keys: letters, digits, `-` and `_`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
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
                if is_name(text) {
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
    /// The name of a step: `[A-Za-z0-9][A-Za-z0-9_-]*`.
    StepName
}

name! {
    /// The name of a pipeline: `[A-Za-z0-9][A-Za-z0-9_-]*`.
    PipelineName
}

impl PipelineName {
    /// What stands in for a name that has been reported as a bad one.
    pub(super) fn fallback() -> Self {
        PipelineName("pipeline".into())
    }
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
}
