//! The kinds of steps, one file each: thin glue from ports to domain code.

mod command;

use crate::step::Registry;

pub use command::Command;

/// Adds every built-in kind.
pub fn register(registry: &mut Registry) {
    registry.add::<Command>();
}
