//! `retune init`: the quick start, written into a folder.

use super::Session;
use super::args::Init;
use super::exit::Exit;
use super::problem::Failure;
use crate::ops;
use crate::report::count;

pub(super) fn run(session: &Session, args: &Init) -> Result<Exit, Failure> {
    let folder = match &args.folder {
        Some(folder) => session.folder().join(folder),
        None => session.folder(),
    };
    let done = ops::init(&folder)?;
    let mut text = format!(
        "wrote {} to {}\n",
        count(done.written.len(), "file"),
        folder.display()
    );
    for kept in &done.kept {
        text.push_str(&format!("kept {} as it is\n", kept.display()));
    }
    let place = match folder.as_os_str() == "." {
        true => String::new(),
        false => format!(" -C {}", folder.display()),
    };
    text.push_str(&format!("next: retune{place} build\n"));
    session.output.say(&text);
    Ok(Exit::Fine)
}
