//! Everything that ends a command early: how it is shown, and which exit code it gives.

use std::io;

use super::exit::Exit;
use super::output::EventsError;
use crate::ops::{InitError, OpsError, RunError, TalkError, WatchError};
use crate::report::{Palette, Problem};

/// Why a command could not do its work.
#[derive(Debug)]
pub enum Failure {
    /// What was asked for could not be done.
    Ops(OpsError),
    /// The loop of `watch` ended.
    Watch(WatchError),
    /// The quick start could not be written.
    Init(InitError),
    /// There is nobody to talk to, or nothing to say.
    Talk(TalkError),
    /// The events could not be written.
    Events(EventsError),
    /// Results could not be written.
    Output(io::Error),
    /// Signals could not be handled.
    Signals(io::Error),
}

impl Failure {
    /// How the command ends.
    pub fn exit(&self) -> Exit {
        match self {
            Failure::Ops(error) => ops_exit(error),
            Failure::Init(InitError::Exists { .. }) => Exit::Usage,
            Failure::Talk(TalkError::Ops(error)) => ops_exit(error),
            Failure::Talk(error) if error.is_usage() => Exit::Usage,
            Failure::Watch(_)
            | Failure::Init(_)
            | Failure::Talk(_)
            | Failure::Events(_)
            | Failure::Output(_)
            | Failure::Signals(_) => Exit::System,
        }
    }

    /// What a person reads.
    pub fn render(&self, palette: &Palette) -> String {
        let problem = match self {
            Failure::Ops(error) => return render_ops(error, palette),
            Failure::Watch(error) => with_hint(Problem::of(error), error.hint()),
            Failure::Init(error) => with_hint(Problem::of(error), error.hint()),
            Failure::Talk(TalkError::Ops(error)) => return render_ops(error, palette),
            Failure::Talk(error) => with_hint(Problem::of(error), error.hint().as_deref()),
            Failure::Events(error) => Problem::of(error),
            Failure::Output(error) => Problem {
                causes: vec![error.to_string()],
                ..Problem::new("failed to write the result")
            },
            Failure::Signals(error) => Problem {
                causes: vec![error.to_string()],
                ..Problem::new("failed to listen to signals")
            },
        };
        problem.render(palette)
    }
}

fn with_hint(problem: Problem, hint: Option<&str>) -> Problem {
    match hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// The exit code of an error of the operations.
fn ops_exit(error: &OpsError) -> Exit {
    match error {
        OpsError::Pipeline(_) | OpsError::Impossible { .. } => Exit::Pipeline,
        OpsError::Root { .. }
        | OpsError::NoPipeline(_)
        | OpsError::WhichPipeline(_)
        | OpsError::NoSuchPipeline { .. }
        | OpsError::NoSuchStep { .. }
        | OpsError::BadAddress { .. }
        | OpsError::WhoseFolder { .. }
        | OpsError::NoSuchCell { .. }
        | OpsError::NoSuchPool { .. }
        | OpsError::NotInRun { .. }
        | OpsError::NeverRun(_) => Exit::Usage,
        OpsError::Run(RunError::File(_) | RunError::Damaged(_)) => Exit::System,
        OpsError::Run(_) => Exit::Usage,
        OpsError::NoRecord { .. }
        | OpsError::Reference { .. }
        | OpsError::Lock(_)
        | OpsError::Store(_)
        | OpsError::File(_)
        | OpsError::Git { .. }
        | OpsError::ReadOnlyStore { .. }
        | OpsError::OwnPath(_) => Exit::System,
    }
}

/// An error of the operations as a person reads it.
pub fn render_ops(error: &OpsError, palette: &Palette) -> String {
    if let OpsError::Pipeline(diagnostics) = error {
        return diagnostics.render(palette.colour) + "\n";
    }
    with_hint(Problem::of(error), error.hint().as_deref()).render(palette)
}

macro_rules! from {
    ($error:ty, $variant:ident) => {
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Failure::$variant(error)
            }
        }
    };
}

from!(OpsError, Ops);
from!(WatchError, Watch);
from!(InitError, Init);
from!(TalkError, Talk);
from!(EventsError, Events);
from!(io::Error, Output);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Diagnostic, Diagnostics, Source};

    fn shown(failure: impl Into<Failure>) -> (Exit, String) {
        let failure = failure.into();
        (failure.exit(), failure.render(&Palette::new(false)))
    }

    #[test]
    fn a_wrong_pipeline_is_shown_with_its_lines() {
        let source = Source {
            path: "pipelines/p.toml".into(),
            text: "[steps.a]\nuses = \"x\"\n".into(),
        };
        let fault = Diagnostic::error(17..20, "there is no kind 'x'");
        let (exit, text) = shown(OpsError::Pipeline(Diagnostics::new(source, vec![fault])));
        assert_eq!(exit, Exit::Pipeline);
        assert!(text.contains("pipelines/p.toml:2:8"), "{text}");
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"));
    }

    #[test]
    fn a_folder_without_a_pipeline_hints_at_init() {
        let (exit, text) = shown(OpsError::NoPipeline("/project/pipelines".into()));
        assert_eq!(exit, Exit::Usage);
        insta::assert_snapshot!(text, @r"
        error: there is no pipeline in /project/pipelines
        hint: `retune init` writes the quick start's pipeline and data
        ");
    }

    #[test]
    fn wrong_names_are_wrong_usage() {
        let step = OpsError::NoSuchStep {
            name: "stag1".into(),
            closest: Some("stage1".into()),
        };
        let (exit, text) = shown(step);
        assert_eq!(exit, Exit::Usage);
        assert!(text.ends_with("hint: did you mean 'stage1'?\n"), "{text}");
        let known = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(shown(OpsError::WhichPipeline(known.clone())).0, Exit::Usage);
        let name = "c".to_owned();
        assert_eq!(
            shown(OpsError::NoSuchPipeline { name, known }).0,
            Exit::Usage
        );
    }

    #[test]
    fn the_system_refusing_is_its_own_code() {
        let missing = crate::files::read(std::path::Path::new("/no/such/file")).unwrap_err();
        let (exit, text) = shown(OpsError::File(missing));
        assert_eq!(exit, Exit::System);
        insta::assert_snapshot!(text, @r"
        error: failed to read /no/such/file
          1: No such file or directory (os error 2)
        ");
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(shown(full()).0, Exit::System);
        assert_eq!(shown(EventsError::Write(full())).0, Exit::System);
        assert_eq!(shown(WatchError::Ended).0, Exit::System);
        assert_eq!(Failure::Signals(full()).exit(), Exit::System);
        let path = "/project".into();
        let (_, text) = shown(WatchError::TooMany { path });
        assert!(text.contains("hint: raise the limit"), "{text}");
    }

    #[test]
    fn init_over_files_is_wrong_usage() {
        let first = "/project/pipelines/quickstart.toml".into();
        let (exit, text) = shown(InitError::Exists { first, more: 3 });
        assert_eq!(exit, Exit::Usage);
        assert!(text.contains("already exists, and 3 more"), "{text}");
    }
}
