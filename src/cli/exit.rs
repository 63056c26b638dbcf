//! The exit codes, which `--help` and `docs/cli.md` promise.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Fine = 0,
    /// A step failed, or `verify` or `audit` found a difference.
    Failed = 1,
    /// `plan --check` found something stale.
    Stale = 2,
    /// The pipeline file is wrong.
    Pipeline = 3,
    /// The command line is wrong.
    Usage = 4,
    /// The operating system, the store or the network refused.
    System = 5,
    /// `audit` found no difference, but could not compare everything.
    Unsure = 6,
    /// The user stopped it.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}
