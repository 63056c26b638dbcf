//! What a step kind is: the trait it implements, its typed ports, and what it sees while it runs.
//!
//! A kind is a unit type that implements [`Step`]. Its parameters are one
//! struct: the doc comments become the JSON schema, serde's defaults become
//! recorded defaults, and *every* field enters the step's key, so that a kind
//! cannot forget one. [`Registry`] holds the kinds a build knows.

mod context;
mod port;
mod registry;
mod resources;
mod sandbox;
mod wiring;

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use context::{Cancelled, Checkpoint, Context, Every, Input, Progress, ProgressSink};
pub use port::{Arity, InPort, OutPort, PortType, Purity};
pub use registry::{Kind, Registry, Shape, schema_of};
pub use resources::{Cpus, Gpus, Grant, Resources, Resumes, processors};
pub use sandbox::{Sandbox, SandboxParam};
pub use wiring::{Wired, WiredInput, Wiring};

/// Effective parameters of a step by name, defaults included.
pub type Params = Map<String, Value>;

/// One kind of step, such as `lora.train`.
///
/// `run` is a pure function of the parameters and the content of the inputs
/// (unless [`Step::PURITY`] says otherwise): no clock, no network, no path and
/// no thread count may show in what it writes.
pub trait Step: Send + Sync + 'static {
    /// The parameters. Derive `Deserialize` with `#[serde(deny_unknown_fields)]`,
    /// `Serialize` and `JsonSchema`, and give defaults by `#[serde(default…)]`.
    ///
    /// A field named `seed` is filled from `[pipeline] seed` when the step
    /// does not set it. Fields and ports cannot have the names that every step
    /// may use: `uses`, `description`, `out` and the settings.
    type Params: DeserializeOwned + Serialize + JsonSchema;

    /// The name users write behind `uses =`.
    const KIND: &'static str;
    /// Raised whenever the same parameters and inputs give other bytes than before.
    const VERSION: u32;
    /// One sentence for `retune kinds` and the schema.
    const ABOUT: &'static str;
    /// Whether a result may be cached and restored.
    const PURITY: Purity = Purity::Pure;
    /// Whether it keeps checkpoints from which another attempt goes on.
    const RESUMES: Resumes = Resumes::Never;
    /// Whether `run` uses the network; the sandbox refuses it to others.
    const NETWORK: bool = false;

    /// The input ports, in the order in which they enter the key.
    fn inputs() -> Vec<InPort>;

    /// The output ports; the first is the one that `@step` alone refers to.
    fn outputs(params: &Self::Params) -> Vec<OutPort>;

    /// Checks that no single field's type can express (`min > max`, say).
    fn check(_params: &Self::Params) -> Result<(), FieldError> {
        Ok(())
    }

    /// Whether [`Step::check_wiring`] is to be asked.
    const LOOKS_BACK: bool = false;

    /// Checks what the inputs of step number `step` come from, before anything
    /// runs: what is wrong at the end of a pipeline is not found after hours.
    fn check_wiring(
        _params: &Self::Params,
        _step: usize,
        _wiring: &dyn Wiring,
    ) -> Result<(), FieldError> {
        Ok(())
    }

    /// For kinds whose work is another program: what to start instead of
    /// calling [`Step::run`].
    fn program(
        _params: &Self::Params,
        _context: &Context<'_>,
    ) -> Option<Result<Program, StepError>> {
        None
    }

    /// Names of environment variables whose values enter the key and are
    /// handed to the program.
    fn environment(_params: &Self::Params) -> Vec<String> {
        Vec::new()
    }

    /// Inputs and outputs that the parameters mention by label, as
    /// `${inputs.LABEL}` or `${outputs.LABEL}`: the graph checks that they exist.
    fn mentions(_params: &Self::Params) -> Vec<Mention> {
        Vec::new()
    }

    /// What a step asks of the machine where the pipeline file says nothing.
    fn resources(_params: &Self::Params) -> Resources {
        Resources::default()
    }

    /// Does the work: reads the inputs and writes every declared output.
    fn run(params: &Self::Params, context: &mut Context<'_>) -> Result<(), StepError>;
}

/// A program to start for a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// What it is held to; none if it may touch whatever its user may.
    pub sandbox: Option<Sandbox>,
}

/// A label in a parameter's text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mention {
    /// `${inputs.LABEL}`: the path of what is behind the label of the port `inputs`.
    Input(String),
    /// `${inputs.LABEL[*]}`: the paths of all cells of a matrix behind the label.
    Inputs(String),
    /// `${outputs.LABEL}`: the path of the output of that name.
    Output(String),
}

impl fmt::Display for Mention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mention::Input(label) => write!(f, "${{inputs.{label}}}"),
            Mention::Inputs(label) => write!(f, "${{inputs.{label}[*]}}"),
            Mention::Output(label) => write!(f, "${{outputs.{label}}}"),
        }
    }
}

/// A parameter has a value that its kind refuses.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct FieldError {
    /// The parameter (`outputs.model` for a part of one), or none when the
    /// fault is not in a single one.
    pub field: Option<String>,
    /// What is wrong with it, as it reads on behind the parameter's name:
    /// `must be at least 1`.
    pub message: String,
}

impl FieldError {
    /// A fault of one parameter.
    pub fn new(field: &str, message: impl Into<String>) -> Self {
        FieldError {
            field: Some(field.to_owned()),
            message: message.into(),
        }
    }
}

/// Why a step failed, for a person: the message, its causes, and what to do.
///
/// Every error converts into it by `?`, its sources becoming the causes.
#[derive(Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct StepError {
    /// What went wrong, lower case, with the place.
    pub message: String,
    /// Why, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl StepError {
    /// An error without causes.
    pub fn new(message: impl Into<String>) -> Self {
        StepError {
            message: message.into(),
            causes: Vec::new(),
            hint: None,
        }
    }

    /// Adds what the user can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl<E: std::error::Error> From<E> for StepError {
    fn from(error: E) -> Self {
        let mut causes = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            causes.push(first_paragraph(&cause.to_string()));
            source = cause.source();
        }
        StepError {
            message: first_paragraph(&error.to_string()),
            causes,
            hint: None,
        }
    }
}

/// Cuts the backtrace that some libraries append to their error text when
/// `RUST_BACKTRACE` is set, so that messages do not depend on the shell.
fn first_paragraph(text: &str) -> String {
    let end = text.find("\n   0: ").unwrap_or(text.len());
    text[..end].trim_end().to_owned()
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}
