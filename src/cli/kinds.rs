//! `retune kinds`: what steps can do.

use serde::Serialize;

use super::Session;
use super::args::Kinds;
use super::exit::Exit;
use super::problem::Failure;
use crate::ops;

#[derive(Serialize)]
struct Kind {
    name: String,
    version: u32,
    about: String,
}

pub(super) fn run(session: &Session, args: &Kinds) -> Result<Exit, Failure> {
    let kinds: Vec<Kind> = ops::kinds(&session.registry)
        .into_iter()
        .map(|(name, version, about)| Kind {
            name: name.to_string(),
            version,
            about: about.to_string(),
        })
        .collect();
    if args.json {
        session.output.print_json(&kinds)?;
    } else {
        session.output.print(&table(&kinds))?;
    }
    Ok(Exit::Fine)
}

fn table(kinds: &[Kind]) -> String {
    let width = kinds
        .iter()
        .map(|kind| kind.name.len())
        .max()
        .unwrap_or(0)
        .max(4);
    let mut text = format!("{:width$}  VERSION  ABOUT\n", "KIND");
    for Kind {
        name,
        version,
        about,
    } in kinds
    {
        let indent = width + 11;
        let mut lines = wrap(about, LINE - indent).into_iter();
        let first = lines.next().unwrap_or_default();
        text.push_str(&format!("{name:width$}  {version:>7}  {first}\n"));
        for line in lines {
            text.push_str(&format!("{:indent$}{line}\n", ""));
        }
    }
    text
}

/// How long a line may be.
const LINE: usize = 80;

/// The words of a text in lines of at most `width` characters; a longer word
/// stands alone.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
