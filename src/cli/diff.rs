//! `retune diff`: what is different between two runs, lock files or commits.

use super::Session;
use super::args::Diff;
use super::exit::Exit;
use super::problem::Failure;
use crate::{ops, report};

pub(super) fn run(session: &Session, args: &Diff) -> Result<Exit, Failure> {
    let workspace = session.workspace()?;
    let found = ops::diff(&workspace, &args.old, &args.new)?;
    let output = &session.output;
    if args.json {
        output.print_json(&found)?;
    } else {
        output.print(&report::diff_text(&found, &output.out))?;
    }
    Ok(Exit::Fine)
}
