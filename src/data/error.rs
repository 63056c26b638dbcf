//! What can go wrong with data, always with the place.

use std::path::Path;

use crate::files::FileError;

/// Data could not be read, made or written.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A line of a JSON lines file is not what it should be.
    #[error("failed to read line {line} of {path} ({path}:{line}): {message}")]
    Line {
        /// The file, as the caller named it.
        path: String,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it, with the field where one is at fault.
        message: String,
    },
    /// A JSON document is not what it should be.
    #[error("failed to read {path} at {at}: {message}")]
    Document {
        /// The file, as the caller named it.
        path: String,
        /// The JSON path, `$.runs[0].results[3].message`.
        at: String,
        /// What is wrong there.
        message: String,
    },
    /// Anything else, the whole sentence being in the message.
    #[error("{0}")]
    Invalid(String),
}

impl DataError {
    /// A fault of one line.
    pub fn line(path: &Path, line: u64, message: impl Into<String>) -> Self {
        DataError::Line {
            path: path.display().to_string(),
            line,
            message: message.into(),
        }
    }
}
