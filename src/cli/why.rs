//! `retune why`: everything that changed about one step.

use super::Session;
use super::args::Why;
use super::exit::Exit;
use super::problem::Failure;
use crate::{ops, report};

pub(super) fn run(session: &Session, args: &Why) -> Result<Exit, Failure> {
    let workspace = session.workspace()?;
    let step = ops::why(&workspace, &session.overrides(), &args.step)?;
    let output = &session.output;
    if args.json {
        output.print_json(&step)?;
    } else {
        output.print(&report::explain(&step, &output.out))?;
    }
    Ok(Exit::Fine)
}
