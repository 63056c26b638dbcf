//! The command line: arguments in, output and an exit code out; one file per verb.

mod args;
mod audit;
mod build;
mod cache;
mod chat;
mod diff;
mod exit;
mod gc;
mod generate;
mod graph;
mod init;
mod kinds;
mod lock;
mod log;
mod output;
mod plan;
mod problem;
mod record;
mod runs;
mod schema;
mod signals;
mod status;
mod table;
mod talk;
mod verify;
mod watch;
mod why;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser};

use args::{Cli, Global, Verb};
use exit::Exit;
use output::Output;
use problem::Failure;

use crate::event::Event;
use crate::ops::{self, OpsError, Workspace};
use crate::pipeline::Overrides;
use crate::step::Registry;

/// Runs the program with its arguments, the first of which is its own name,
/// for pipelines whose steps use these kinds.
pub fn run(arguments: impl IntoIterator<Item = OsString>, registry: Registry) -> ExitCode {
    // A step's process: thousands of them may be started, so nothing is set up before.
    if let Some(code) = ops::step_process(&registry) {
        return code;
    }
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.len() < 2 {
        return help();
    }
    match Cli::try_parse_from(arguments) {
        Ok(cli) => run_verb(cli, registry).into(),
        Err(error) => {
            // Nowhere to write is no reason to fail in another way.
            let _ = error.print();
            match error.use_stderr() {
                true => Exit::Usage.into(),
                false => Exit::Fine.into(),
            }
        }
    }
}

fn help() -> ExitCode {
    let _ = Cli::command().print_help();
    Exit::Fine.into()
}

fn run_verb(cli: Cli, registry: Registry) -> Exit {
    let output = Output::new(&cli.global);
    let session = Session {
        global: cli.global,
        output,
        registry: Arc::new(registry),
    };
    let result = match cli.verb {
        Verb::Build(args) => build::run(&session, &args),
        Verb::Plan(args) => plan::run(&session, &args),
        Verb::Why(args) => why::run(&session, &args),
        Verb::Table(args) => table::run(&session, &args),
        Verb::Graph(args) => graph::run(&session, &args),
        Verb::Status(args) => status::run(&session, &args),
        Verb::Runs(args) => runs::run(&session, &args),
        Verb::Log(args) => log::run(&session, &args),
        Verb::Watch(args) => watch::run(&session, &args),
        Verb::Verify(args) => verify::run(&session, &args),
        Verb::Audit(args) => audit::run(&session, &args),
        Verb::Diff(args) => diff::run(&session, &args),
        Verb::Record(args) => record::run(&session, &args),
        Verb::Gc(args) => gc::run(&session, &args),
        Verb::Cache(args) => cache::run(&session, &args),
        Verb::Lock(args) => lock::run(&session, &args),
        Verb::Generate(args) => generate::run(&session, &args),
        Verb::Chat(args) => chat::run(&session, &args),
        Verb::Schema => schema::run(&session),
        Verb::Kinds(args) => kinds::run(&session, &args),
        Verb::Init(args) => init::run(&session, &args),
    };
    result.unwrap_or_else(|failure: Failure| {
        output.say(&failure.render(&output.err));
        failure.exit()
    })
}

/// What every verb has at hand.
struct Session {
    global: Global,
    output: Output,
    registry: Arc<Registry>,
}

impl Session {
    /// The folder to work in.
    fn folder(&self) -> PathBuf {
        self.global.directory.clone().unwrap_or_else(|| ".".into())
    }

    fn workspace(&self) -> Result<Workspace, OpsError> {
        let Global {
            pipeline, cache, ..
        } = &self.global;
        let found = Workspace::find(&self.folder(), pipeline.as_deref(), cache.as_deref())?;
        Ok(found.with_kinds(Arc::clone(&self.registry)))
    }

    /// The project, whatever pipelines it has.
    fn project(&self) -> Result<Workspace, OpsError> {
        let Global {
            pipeline, cache, ..
        } = &self.global;
        Workspace::any(&self.folder(), pipeline.as_deref(), cache.as_deref())
    }

    /// Tells for whom a verb waits that is no build.
    fn tell_of_waiting(&self) -> impl FnMut(&Event) + use<> {
        let output = self.output;
        move |event: &Event| {
            if let Event::Waiting { holder } = event {
                output.say(&format!("waiting for {holder}\n"));
            }
        }
    }

    /// What replaces values of the pipeline file: `--set` and `RETUNE_…`.
    fn overrides(&self) -> Overrides {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            name.starts_with("RETUNE_").then_some(())?;
            Some((name, value.into_string().ok()?))
        });
        Overrides {
            set: self.global.set.clone(),
            env: variables.collect(),
        }
    }
}
