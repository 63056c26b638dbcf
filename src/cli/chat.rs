//! `retune chat`: a conversation, turn by turn, on a terminal or from a script on standard input.

use std::io::{self, BufRead, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Session;
use super::args::Chat;
use super::exit::Exit;
use super::problem::Failure;
use super::signals::ask_on_interrupts;
use super::talk::{self, Writer};
use crate::ops::{self, Finder, Message, Options, Role, TalkError};

const HELP: &str = "\
/reset          forget the conversation
/system [TEXT]  begin anew with this system message, or without one
/adapter        list the adapters
/adapter WHICH  use an adapter: its number, a folder, @STEP, or none
/quit           end (so does Ctrl-D); Ctrl-C stops an answer
";

pub(super) fn run(session: &Session, args: &Chat) -> Result<Exit, Failure> {
    let stop = ask_on_interrupts().map_err(Failure::Signals)?;
    let workspace = talk::workspace(session, &args.talk)?;
    let finder = talk::finder(session, &workspace, &args.talk, &stop)?;
    talk::with_threads(&args.talk, || {
        let (talk, options) = talk::open(session, &finder, &args.talk, false)?;
        let mut conversation = Conversation {
            session,
            finder: &finder,
            stop: &stop,
            options,
            memory: talk.generator.session(),
            talk,
            system: args.talk.system.clone(),
            turns: Vec::new(),
            adapters: args.talk.adapter.clone(),
            failed: false,
        };
        conversation.converse()
    })
}

struct Conversation<'a> {
    session: &'a Session,
    finder: &'a Finder<'a>,
    /// Set to stop an answer.
    stop: &'a AtomicBool,
    options: Options,
    talk: ops::Talk,
    /// What the model has read.
    memory: ops::Session,
    system: Option<String>,
    turns: Vec<Message>,
    /// Those that may be chosen by number.
    adapters: Vec<String>,
    /// Whether a line could not be answered or obeyed.
    failed: bool,
}

/// What becomes of the conversation.
#[derive(PartialEq, Eq)]
enum Next {
    Line,
    End,
}

impl Conversation<'_> {
    fn converse(&mut self) -> Result<Exit, Failure> {
        let person = io::stdin().is_terminal();
        if person {
            self.session
                .output
                .say("/help lists what there is beside talking\n");
        }
        loop {
            if person {
                self.session.output.say("> ");
            }
            let mut line = String::new();
            let read = io::stdin().lock().read_line(&mut line);
            if read.map_err(TalkError::StandardInput)? == 0 {
                break;
            }
            if self.line(line.trim_end_matches(['\n', '\r']))? == Next::End {
                break;
            }
        }
        if person {
            self.session.output.say("\n");
        }
        Ok(match self.failed && !person {
            true => Exit::Failed,
            false => Exit::Fine,
        })
    }

    fn line(&mut self, line: &str) -> Result<Next, Failure> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        match word {
            _ if line.trim().is_empty() => {}
            "/quit" | "/exit" => return Ok(Next::End),
            "/help" => self.session.output.say(HELP),
            "/reset" => self.turns.clear(),
            "/system" => {
                self.system = Some(rest.to_owned()).filter(|text| !text.is_empty());
                self.turns.clear();
            }
            "/adapter" => {
                let done = self.adapter(rest);
                self.tell(done);
            }
            command if command.starts_with('/') && !command[1..].contains('/') => {
                self.failed = true;
                let said = format!("there is no command {command}; /help lists them\n");
                self.session.output.say(&said);
            }
            _ => return self.answer(line),
        }
        Ok(Next::Line)
    }

    /// What went wrong with a line is told, and the conversation goes on.
    fn tell(&mut self, done: Result<(), TalkError>) {
        if let Err(error) = done {
            self.failed = true;
            let output = &self.session.output;
            output.say(&Failure::Talk(error).render(&output.err));
        }
    }

    fn adapter(&mut self, which: &str) -> Result<(), TalkError> {
        let chosen = which.parse::<usize>().ok();
        let chosen = chosen.and_then(|number| self.adapters.get(number.checked_sub(1)?));
        match which {
            "" => {
                for (number, adapter) in (1..).zip(&self.adapters) {
                    self.session.output.say(&format!("{number}  {adapter}\n"));
                }
                return Ok(());
            }
            "none" => self.talk.generator.set_adapter(None)?,
            which => {
                let found = self.finder.adapter(chosen.map_or(which, String::as_str))?;
                self.talk.generator.set_adapter(Some(&found))?;
            }
        }
        // What was read by another model is of no use.
        self.memory = self.talk.generator.session();
        Ok(())
    }

    fn answer(&mut self, text: &str) -> Result<Next, Failure> {
        self.stop.store(false, Ordering::Relaxed);
        self.turns.push(Message::new(Role::User, text));
        let system = self.system.as_ref();
        let system = system.map(|text| Message::new(Role::System, text.as_str()));
        let messages: Vec<Message> = system
            .into_iter()
            .chain(self.turns.iter().cloned())
            .collect();
        let mut writer = Writer::new(self.stop);
        let generator = &self.talk.generator;
        let answered = generator.chat(&messages).and_then(|prompt| {
            let give = |piece: &str| writer.give(piece);
            generator.answer(&mut self.memory, &prompt, 0, &self.options, give)
        });
        match answered {
            Ok(answer) => self.turns.push(Message::new(Role::Assistant, answer.text)),
            Err(error) => {
                // As if it had not been said.
                self.turns.pop();
                self.tell(Err(error.into()));
            }
        }
        writer.end_line();
        let next = if writer.ended() {
            Next::End
        } else {
            Next::Line
        };
        writer.finish()?;
        Ok(next)
    }
}
