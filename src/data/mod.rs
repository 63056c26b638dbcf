//! Data: rows and their JSON lines files, scanner findings, templates, splits and statistics.
//!
//! The room knows nothing of the engine. A [`Row`] is what training and
//! evaluation read; every row has a content id and an origin, so that any later
//! artefact can point at it.

mod error;
mod jsonl;
mod row;

pub use error::DataError;
pub use jsonl::{Lines, Rows, Sorted, read_jsonl, read_rows, write_jsonl, write_rows};
pub use row::{Content, Message, Role, Row, RowId};
