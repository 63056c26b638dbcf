//! `retune graph`: the steps and what they need of each other.

use super::Session;
use super::args::{Format, Graph};
use super::exit::Exit;
use super::problem::Failure;
use crate::ops::{self, GraphFormat};

pub(super) fn run(session: &Session, args: &Graph) -> Result<Exit, Failure> {
    let workspace = session.workspace()?;
    let format = match args.format {
        Format::Text => GraphFormat::Text,
        Format::Dot => GraphFormat::Dot,
        Format::Mermaid => GraphFormat::Mermaid,
    };
    let text = ops::graph(&workspace, &session.overrides(), format)?;
    session.output.print(&text)?;
    Ok(Exit::Fine)
}
