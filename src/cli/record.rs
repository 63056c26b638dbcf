//! `retune record`: how a step's current result came to be.

use super::Session;
use super::args::Record;
use super::exit::Exit;
use super::problem::Failure;
use crate::{ops, report};

pub(super) fn run(session: &Session, args: &Record) -> Result<Exit, Failure> {
    let workspace = session.workspace()?;
    let found = ops::provenance(&workspace, &session.overrides(), &args.step)?;
    let output = &session.output;
    if args.json {
        let records: Vec<_> = found.iter().map(|found| &found.json).collect();
        output.print_json(&records)?;
        return Ok(Exit::Fine);
    }
    let texts = found
        .iter()
        .map(|found| report::provenance_text(&found.record, &output.out));
    output.print(&texts.collect::<Vec<_>>().join("\n"))?;
    Ok(Exit::Fine)
}
