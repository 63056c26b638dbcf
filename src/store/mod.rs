//! The content-addressed store under `cache/`: objects, history, and the digests of files by stat tuple.
//!
//! | file | written by |
//! |---|---|
//! | `objects/ab/cdef…` | [`LocalStore`]: any bytes, named by their blake3; a folder is a [`Listing`] |
//! | `journal` | [`Journal`](journal::Journal): [`Note`]s |
//! | `stat` | [`StatCache`] |

pub mod journal;
mod local;
mod object;
mod seen;
mod stat;
mod upkeep;

pub use journal::{Index, Note, StepRef, StepState};
pub use local::{LocalStore, Store, StoreError};
pub use object::{Artifact, BadListing, Entry, Key, ListEntry, Listing, Output, Shape};
pub use seen::{Change, Known, Row};
pub use stat::{ContentError, StatCache, Trace};
pub use upkeep::{Holdings, References, walk};
