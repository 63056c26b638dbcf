//! `hf://…@revision`: a pinned reference to a file or repository on the Hub.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A repository on the Hub at one revision, or a file or folder in it:
/// `hf://[datasets/]OWNER/NAME@REVISION[/PATH]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HubRef {
    /// Whether it is a data set; otherwise it is a model.
    pub dataset: bool,
    /// `OWNER/NAME`.
    pub repo: String,
    /// A commit or a tag.
    pub revision: String,
    /// What of the repository is meant; all of it if none.
    pub path: Option<String>,
}

/// Why a text is not a reference to the Hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHubRef {
    /// There is no `@REVISION`.
    #[error("a Hub reference needs a revision")]
    Unpinned,
    /// The revision is a branch, whose content changes.
    #[error("'{0}' is a branch, not a pinned revision")]
    Branch(String),
    /// Anything else.
    #[error("not a Hub reference: {0}")]
    Malformed(&'static str),
}

impl HubRef {
    /// What every reference starts with.
    pub const SCHEME: &str = "hf://";

    /// Reads a reference.
    pub fn parse(text: &str) -> Result<Self, BadHubRef> {
        let rest = text
            .strip_prefix(Self::SCHEME)
            .ok_or(BadHubRef::Malformed("it does not start with hf://"))?;
        let (dataset, rest) = match rest.strip_prefix("datasets/") {
            Some(rest) => (true, rest),
            None => (false, rest.strip_prefix("models/").unwrap_or(rest)),
        };
        let (repo, pin) = rest.split_once('@').ok_or(BadHubRef::Unpinned)?;
        let (revision, path) = match pin.split_once('/') {
            Some((revision, path)) => (revision, Some(path)),
            None => (pin, None),
        };
        if !matches!(repo.split('/').collect::<Vec<_>>()[..], [a, b] if part(a) && part(b)) {
            return Err(BadHubRef::Malformed("the repository is not OWNER/NAME"));
        }
        if revision.is_empty() {
            return Err(BadHubRef::Unpinned);
        }
        if !part(revision) {
            return Err(BadHubRef::Malformed(
                "the revision is not a commit or a tag",
            ));
        }
        if ["main", "master", "HEAD"].contains(&revision) {
            return Err(BadHubRef::Branch(revision.to_owned()));
        }
        let folded = path.map(|path| path.trim_end_matches('/'));
        if folded.is_some_and(|path| path.is_empty() || !path.split('/').all(inner)) {
            return Err(BadHubRef::Malformed(
                "the path in the repository is not relative",
            ));
        }
        Ok(HubRef {
            dataset,
            repo: repo.to_owned(),
            revision: revision.to_owned(),
            path: folded.map(str::to_owned),
        })
    }
}

/// Whether `text` can be an owner, a name or a revision.
fn part(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn inner(component: &str) -> bool {
    !matches!(component, "" | "." | "..")
}

impl fmt::Display for HubRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folder = if self.dataset { "datasets/" } else { "" };
        write!(f, "{}{folder}{}@{}", Self::SCHEME, self.repo, self.revision)?;
        match &self.path {
            Some(path) => write!(f, "/{path}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_written_alike() {
        for text in [
            "hf://owner/name@1a2b3c",
            "hf://datasets/owner/name@v1.0/data/train.jsonl",
            "hf://o/n.m-x_y@abc/config.json",
        ] {
            assert_eq!(HubRef::parse(text).unwrap().to_string(), text);
        }
        let model = HubRef::parse("hf://models/a/b@c").unwrap();
        assert!(!model.dataset && model.repo == "a/b");
    }

    #[test]
    fn a_reference_must_be_pinned_and_relative() {
        assert_eq!(HubRef::parse("hf://a/b"), Err(BadHubRef::Unpinned));
        assert_eq!(HubRef::parse("hf://a/b@"), Err(BadHubRef::Unpinned));
        assert!(matches!(
            HubRef::parse("hf://a/b@main"),
            Err(BadHubRef::Branch(_))
        ));
        for bad in [
            "hf://a@1",
            "hf://a/b/c@1",
            "hf://../b@1",
            "hf://a/b@1/../x",
            "hf://a/b@1//x",
            "hf://a/b@1/",
            "hf://a/b@..",
            "http://a/b@1",
        ] {
            assert!(
                matches!(HubRef::parse(bad), Err(BadHubRef::Malformed(_))),
                "{bad}"
            );
        }
    }
}
