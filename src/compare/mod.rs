//! How two versions of a file or folder differ, in terms of what they are: tensors, JSON, rows, text, bytes.
//!
//! Plain paths in, plain data out: nothing here knows of steps or stores. Files
//! are read piece by piece where they may be large.

mod bytes;
mod json;
mod number;
mod rows;
mod tensors;
mod text;
mod tolerance;
mod tree;

use serde::Serialize;

use crate::hash::Digest;

pub use bytes::BytesDifference;
pub use json::{JsonDifference, KeyChange, json_changes};
pub use number::{Gap, Real};
pub use rows::{RowsDifference, rows_between};
pub use tensors::{TensorChange, TensorDifference, TensorWords, TensorsDifference};
pub use text::TextDifference;
pub use tolerance::{Limits, Tolerance};
pub use tree::{compare, compare_files};

/// One file or folder that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The output's path, and below it that of the file, with `/`.
    pub path: String,
    /// Whether a declared tolerance covers all of it.
    pub within: bool,
    /// How it differs.
    #[serde(flatten)]
    pub what: What,
}

/// How a file or folder differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What {
    /// It is not there any more.
    Removed,
    /// It was not there before.
    Added,
    /// A file became a folder, say, or executable.
    Shape {
        /// Before.
        old: &'static str,
        /// Now.
        new: &'static str,
    },
    /// Only the digests are known.
    Digest {
        /// Before.
        old: Digest,
        /// Now.
        new: Digest,
    },
    /// Two safetensors files.
    Tensors(TensorsDifference),
    /// Two JSON documents.
    Json(JsonDifference),
    /// Two files with a JSON value on each line.
    Rows(RowsDifference),
    /// Two texts.
    Text(TextDifference),
    /// Two files of anything else.
    Bytes(BytesDifference),
    /// It could not be read.
    Unreadable {
        /// Why.
        why: String,
    },
}

impl Difference {
    /// A difference that no tolerance covers.
    pub fn new(path: &str, what: What) -> Self {
        Difference {
            path: path.to_owned(),
            within: false,
            what,
        }
    }

    /// The difference in words: what a person reads, line by line, without the path.
    pub fn lines(&self) -> Vec<String> {
        match &self.what {
            What::Removed => vec!["not there any more".to_owned()],
            What::Added => vec!["was not there before".to_owned()],
            What::Shape { old, new } => vec![format!("was {old}, is {new}")],
            What::Digest { old, new } => vec![format!("{} → {}", old.short(), new.short())],
            What::Tensors(tensors) => tensors.lines(),
            What::Json(json) => json.lines(),
            What::Rows(rows) => rows.lines(),
            What::Text(text) => text.lines(),
            What::Bytes(bytes) => vec![bytes.line()],
            What::Unreadable { why } => vec![format!("cannot be compared: {why}")],
        }
    }

    /// How far numbers are apart at most, where that was measured.
    pub fn gap(&self) -> Option<Gap> {
        match &self.what {
            What::Tensors(tensors) => tensors.gap(),
            What::Json(json) => json.gap,
            What::Rows(rows) => rows.gap,
            _ => None,
        }
    }
}

/// How many of several things are told in words; all are in the data.
const TOLD: usize = 5;

/// `1 row`, `3 rows`.
fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// `text` on one line and not too long.
fn brief(text: &str) -> String {
    const LONGEST: usize = 72;
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST + 1)
        .collect();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
