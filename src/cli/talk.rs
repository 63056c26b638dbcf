//! What `generate` and `chat` share: whom to ask, the options, text that appears as it is written.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Session;
use super::args;
use super::problem::Failure;
use crate::ops::{self, Choice, Finder, Options, Sampling, TalkError, Workspace};

/// The most tokens of an answer where neither the user nor the model says.
const MAX_NEW_TOKENS: usize = 512;

/// The project, read as far as references to its steps need.
pub fn workspace(session: &Session, args: &args::Talk) -> Result<Workspace, Failure> {
    Ok(match names_steps(args) {
        true => session.workspace()?,
        false => session.project()?,
    })
}

fn names_steps(args: &args::Talk) -> bool {
    let references = args.model.iter().chain(&args.tokenizer);
    let mut references = references.chain(&args.adapter);
    references.any(|reference| reference.starts_with('@'))
}

/// What finds models in the project.
pub fn finder<'a>(
    session: &Session,
    workspace: &'a Workspace,
    args: &args::Talk,
    stop: &'a AtomicBool,
) -> Result<Finder<'a>, TalkError> {
    Finder::new(workspace, &session.overrides(), names_steps(args), stop)
}

/// What is asked, with the first of the adapters.
pub fn choice(args: &args::Talk) -> Choice {
    Choice {
        model: args.model.clone(),
        tokenizer: args.tokenizer.clone(),
        adapter: args.adapter.first().cloned(),
    }
}

/// Opens the model and says which of its makers' advice is taken.
pub fn open(
    session: &Session,
    finder: &Finder<'_>,
    args: &args::Talk,
    quiet: bool,
) -> Result<(ops::Talk, Options), Failure> {
    let mut talk = ops::open_model(&finder.locate(&choice(args))?)?;
    if let Some(day) = args.date {
        talk.generator.tokenizer_mut().set_today(day);
    }
    let options = options(&talk, args)?;
    let mut taken = talk.defaults.clone();
    let given = &args.sampling;
    taken.temperature = taken.temperature.filter(|_| given.temperature.is_none());
    taken.top_k = taken.top_k.filter(|_| given.top_k.is_none());
    taken.top_p = taken.top_p.filter(|_| given.top_p.is_none());
    taken.min_p = taken.min_p.filter(|_| given.min_p.is_none());
    let penalty = taken.repetition_penalty;
    taken.repetition_penalty = penalty.filter(|_| given.repetition_penalty.is_none());
    taken.max_new_tokens = taken
        .max_new_tokens
        .filter(|_| args.max_new_tokens.is_none());
    let taken = taken.describe();
    if !taken.is_empty() && !quiet {
        session
            .output
            .say(&format!("as the model advises: {taken}\n"));
    }
    Ok((talk, options))
}

fn options(talk: &ops::Talk, args: &args::Talk) -> Result<Options, Failure> {
    let (given, advised) = (&args.sampling, talk.defaults.sampling(args.sampling.seed));
    let sampling = Sampling {
        temperature: given.temperature.unwrap_or(advised.temperature),
        top_k: given.top_k.unwrap_or(advised.top_k),
        top_p: given.top_p.unwrap_or(advised.top_p),
        min_p: given.min_p.unwrap_or(advised.min_p),
        repetition_penalty: given
            .repetition_penalty
            .unwrap_or(advised.repetition_penalty),
        seed: given.seed,
    };
    sampling.check().map_err(TalkError::Sampling)?;
    let tokenizer = talk.generator.tokenizer();
    let stop_id = |token: &String| {
        let id = tokenizer.token_id(token).or_else(|| token.parse().ok());
        id.ok_or_else(|| TalkError::NoToken(token.clone()))
    };
    let stop_ids: Result<Vec<u32>, TalkError> = args.stop_token.iter().map(stop_id).collect();
    let advised = talk.defaults.max_new_tokens;
    Ok(Options {
        max_new_tokens: args.max_new_tokens.or(advised).unwrap_or(MAX_NEW_TOKENS),
        sampling,
        stop: args.stop.clone(),
        stop_ids: stop_ids?,
    })
}

/// Runs `work` with as many threads as were asked for.
pub fn with_threads<R: Send>(
    args: &args::Talk,
    work: impl FnOnce() -> Result<R, Failure> + Send,
) -> Result<R, Failure> {
    let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let threads = args.threads.unwrap_or_else(cores);
    ops::with_threads(threads, work).map_err(|e| Failure::Output(io::Error::other(e)))?
}

/// Standard output as text appears on it, until nobody reads or somebody asks to stop.
pub struct Writer<'a> {
    stop: &'a AtomicBool,
    /// What went wrong; that the reader has gone is not told.
    failed: Option<io::Error>,
    ended: bool,
    /// Whether the last character begins a line.
    fresh: bool,
}

impl<'a> Writer<'a> {
    /// Writes until `stop` is set.
    pub fn new(stop: &'a AtomicBool) -> Self {
        Writer {
            stop,
            failed: None,
            ended: false,
            fresh: true,
        }
    }

    /// Writes a piece at once.
    pub fn give(&mut self, piece: &str) -> ControlFlow<()> {
        if !self.ended && !piece.is_empty() {
            let mut out = io::stdout().lock();
            let written = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
            if let Err(error) = written {
                self.ended = true;
                self.failed = Some(error).filter(|e| e.kind() != io::ErrorKind::BrokenPipe);
            }
            self.fresh = piece.ends_with('\n');
        }
        match self.ended || self.stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Ends a line that was begun, or an answer without any text.
    pub fn end_line(&mut self) {
        if !self.fresh {
            // What is wrong with the stream is kept.
            let _ = self.give("\n");
        }
        self.fresh = true;
    }

    /// Whether nobody reads any more.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// What went wrong, if anything did.
    pub fn finish(self) -> io::Result<()> {
        self.failed.map_or(Ok(()), Err)
    }
}
