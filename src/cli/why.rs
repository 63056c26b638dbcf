//! `retune why`: everything that changed about one step, or about each cell of a matrix.

use super::Session;
use super::args::Why;
use super::exit::Exit;
use super::problem::Failure;
use crate::{ops, report};

/// How many files are named of an input where not all are asked for.
const NAMED: usize = 10;

pub(super) fn run(session: &Session, args: &Why) -> Result<Exit, Failure> {
    let workspace = session.workspace()?;
    let files = if args.all { usize::MAX } else { NAMED };
    let steps = ops::why(&workspace, &session.overrides(), &args.step, files)?;
    let output = &session.output;
    match &steps[..] {
        [step] if args.json => output.print_json(step)?,
        steps if args.json => output.print_json(&steps)?,
        steps => {
            let text = steps.iter().map(|step| report::explain(step, &output.out));
            output.print(&text.collect::<String>())?;
        }
    }
    Ok(match steps.iter().any(|step| step.verdict.is_error()) {
        true => Exit::System,
        false => Exit::Fine,
    })
}
