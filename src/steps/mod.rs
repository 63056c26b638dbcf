//! The kinds of steps, one file each: thin glue from ports to domain code.

mod command;

pub use command::Command;
