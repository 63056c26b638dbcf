//! `retune generate`: answers to prompts, as text or as lines of JSON.

use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::Serialize;

use super::Session;
use super::args::Generate;
use super::exit::Exit;
use super::problem::Failure;
use super::signals::stop_on_signals;
use super::talk::{self, Writer};
use crate::files;
use crate::ops::{
    Finish, Generation, OpsError, Options, Prompt, Question, Talk, TalkError, questions,
};

/// Prompts that are answered before their answers are written.
const BATCH: usize = 16;

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    /// The number of the prompt, from 0.
    prompt: usize,
    /// The number of the answer to it, from 0.
    sample: u64,
    text: &'a str,
    token_ids: &'a [u32],
    finish: Finish,
    prompt_tokens: usize,
}

pub(super) fn run(session: &Session, args: &Generate) -> Result<Exit, Failure> {
    let stop = stop_on_signals().map_err(Failure::Signals)?;
    let questions = asked(args)?;
    let workspace = talk::workspace(session, &args.talk)?;
    let finder = talk::finder(session, &workspace, &args.talk, &stop)?;
    talk::with_threads(&args.talk, || {
        let (talk, options) = talk::open(session, &finder, &args.talk, args.quiet)?;
        let system = args.talk.system.as_deref();
        let prompt = |question: &Question| question.prompt(&talk.generator, system);
        let prompts: Vec<Prompt> = questions.iter().map(prompt).collect::<Result<_, _>>()?;
        let start = Instant::now();
        let work = Work {
            args,
            talk: &talk,
            options: &options,
            stop: &stop,
        };
        let tokens = match &prompts[..] {
            [only] if args.samples == 1 && !args.json => work.stream(only)?,
            all => work.batches(all)?,
        };
        if !args.quiet {
            session
                .output
                .say(&speed(tokens, start.elapsed().as_secs_f64()));
        }
        Ok(match stop.load(Ordering::Relaxed) {
            true => Exit::Interrupted,
            false => Exit::Fine,
        })
    })
}

fn speed(tokens: usize, seconds: f64) -> String {
    let speed = tokens as f64 / seconds.max(1e-9);
    format!("{tokens} tokens in {seconds:.1} s ({speed:.1} tokens/s)\n")
}

/// What the arguments, the file or standard input ask.
fn asked(args: &Generate) -> Result<Vec<Question>, Failure> {
    if let Some(prompt) = &args.prompt {
        return Ok(vec![Question::of(prompt, args.raw)]);
    }
    match args.file.as_deref() {
        Some(path) if path != Path::new("-") => {
            let text = files::read_text(path).map_err(OpsError::File)?;
            Ok(questions(&path.display().to_string(), &text, args.raw)?)
        }
        Some(_) => Ok(questions("standard input", &standard_input()?, args.raw)?),
        None if io::stdin().is_terminal() => Err(TalkError::NoPrompt.into()),
        None => {
            let text = standard_input()?;
            let text = text.strip_suffix('\n').unwrap_or(&text);
            match text.trim().is_empty() {
                true => Err(TalkError::NoPrompt.into()),
                false => Ok(vec![Question::of(text, args.raw)]),
            }
        }
    }
}

fn standard_input() -> Result<String, Failure> {
    let mut text = String::new();
    let read = io::stdin().lock().read_to_string(&mut text);
    read.map_err(|e| TalkError::StandardInput(e).into())
        .map(|_| text)
}

/// Answering.
struct Work<'a> {
    args: &'a Generate,
    talk: &'a Talk,
    options: &'a Options,
    stop: &'a AtomicBool,
}

impl Work<'_> {
    /// One answer, written as it comes; says how many tokens it has.
    fn stream(&self, prompt: &Prompt) -> Result<usize, Failure> {
        let generator = &self.talk.generator;
        let mut writer = Writer::new(self.stop);
        let give = |piece: &str| writer.give(piece);
        let mut session = generator.session();
        let answer = generator.answer(&mut session, prompt, 0, self.options, give);
        writer.end_line();
        let answer = answer.map_err(TalkError::Generate)?;
        writer.finish()?;
        Ok(answer.token_ids.len())
    }

    /// All answers, some prompts at a time.
    fn batches(&self, prompts: &[Prompt]) -> Result<usize, Failure> {
        let mut writer = Writer::new(self.stop);
        let mut tokens = 0;
        let size = (BATCH / self.args.samples.min(BATCH as u64) as usize).max(1);
        for (batch, prompts) in prompts.chunks(size).enumerate() {
            if self.stop.load(Ordering::Relaxed) || writer.ended() {
                break;
            }
            let answers = self
                .talk
                .generator
                .answers(prompts, self.args.samples, self.options);
            let answers = answers.map_err(TalkError::Generate)?;
            for (i, answer) in answers.iter().enumerate() {
                let number = i / self.args.samples as usize;
                tokens += answer.token_ids.len();
                self.write(
                    &mut writer,
                    batch * size + number,
                    i,
                    &prompts[number],
                    answer,
                )?;
            }
        }
        writer.finish()?;
        Ok(tokens)
    }

    fn write(
        &self,
        writer: &mut Writer<'_>,
        number: usize,
        answer: usize,
        prompt: &Prompt,
        generation: &Generation,
    ) -> Result<(), Failure> {
        let line = Line {
            prompt: number,
            sample: answer as u64 % self.args.samples,
            text: &generation.text,
            token_ids: &generation.token_ids,
            finish: generation.finish,
            prompt_tokens: prompt.tokens.len(),
        };
        let text = match self.args.json {
            true => serde_json::to_string(&line).map_err(io::Error::from)? + "\n",
            false => generation.text.clone() + "\n",
        };
        // The batch is written whole; whether to go on is asked before the next.
        let _ = writer.give(&text);
        Ok(())
    }
}
