//! `retune schema`: the JSON Schema of pipeline files.

use super::Session;
use super::exit::Exit;
use super::problem::Failure;
use crate::ops;

pub(super) fn run(session: &Session) -> Result<Exit, Failure> {
    session.output.print_json(&ops::schema(&session.registry))?;
    Ok(Exit::Fine)
}
