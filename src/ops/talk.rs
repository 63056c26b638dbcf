//! A model to talk to: found by path, step or Hub reference, opened, and the prompts it is given.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::{Map, Value};

use super::workspace::find_step;
use super::{HubAccess, OpsError, Workspace};
use crate::data::{Message, Role};
use crate::graph::{Graph, HubRef, Node, Origin, StepId};
use crate::ml::generate::{BadSampling, GenerateError, Generator, Prompt};
use crate::ml::generation_config::{Defaults, DefaultsError};
use crate::ml::tokenizer::TokenizerError;
use crate::pipeline::{Address, Overrides};
use crate::plan::Hub;
use crate::step::PortType;

/// What to talk to. Each is a folder, `@STEP`, `@STEP.OUTPUT` or a pinned
/// reference to the Hub.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// The base model, or a step that made an adapter.
    pub model: Option<String>,
    /// The tokenizer; without it that of the step or of the model's folder.
    pub tokenizer: Option<String>,
    /// The adapter on it.
    pub adapter: Option<String>,
}

/// The folders of what to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The base model.
    pub model: PathBuf,
    /// Its tokenizer.
    pub tokenizer: PathBuf,
    /// The adapter on it.
    pub adapter: Option<PathBuf>,
}

/// There is nobody to talk to, or nothing to say.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    /// The project or its pipeline cannot be read.
    #[error(transparent)]
    Ops(#[from] OpsError),
    /// Nothing says which model is meant.
    #[error("there is no model to talk to")]
    NoModel,
    /// Nothing is at a path.
    #[error("there is no {what} in {}", path.display())]
    NoFolder {
        /// What was looked for.
        what: PortType,
        /// Where.
        path: PathBuf,
        /// Whether a step has that name.
        step: bool,
    },
    /// A step has not been built.
    #[error("step '{step}' has no {what} yet")]
    NotBuilt {
        /// The step.
        step: String,
        /// What it would make.
        what: PortType,
    },
    /// A step has no such output.
    #[error("step '{step}' makes no {what}")]
    NoOutput {
        /// The step.
        step: String,
        /// What was looked for.
        what: PortType,
        /// What it makes.
        makes: Vec<String>,
    },
    /// A reference means several cells of a matrix.
    #[error("'{reference}' means {} steps: {}", cells.len(), cells.join(", "))]
    ManyCells {
        /// The reference.
        reference: String,
        /// The steps.
        cells: Vec<String>,
    },
    /// The model's folder has no tokenizer, and none is given.
    #[error("there is no tokenizer beside the model in {}", .0.display())]
    NoTokenizer(PathBuf),
    /// The Hub did not give something.
    #[error("failed to fetch {reference}")]
    Hub {
        /// The reference.
        reference: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is nothing to answer.
    #[error("there is no prompt")]
    NoPrompt,
    /// Standard input cannot be read.
    #[error("failed to read standard input")]
    StandardInput(#[source] std::io::Error),
    /// An option has a value that means nothing.
    #[error(transparent)]
    Sampling(#[from] BadSampling),
    /// The tokenizer has no such token.
    #[error("the tokenizer has no token '{0}'")]
    NoToken(String),
    /// The model cannot be opened or cannot answer.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The model's advice cannot be read.
    #[error(transparent)]
    Defaults(#[from] DefaultsError),
    /// A line of a file of prompts is none.
    #[error("{path}:{line}: {message}")]
    BadPrompt {
        /// The file.
        path: String,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        message: String,
    },
}

impl TalkError {
    /// What may help.
    pub fn hint(&self) -> Option<String> {
        match self {
            TalkError::Ops(error) => error.hint(),
            TalkError::NoModel => Some(
                "give one with --model: a folder, @STEP, or hf://OWNER/NAME@REVISION".to_owned(),
            ),
            TalkError::NoFolder { path, step, .. } if *step => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                Some(format!("what a step made is written @{name}"))
            }
            TalkError::NotBuilt { step, .. } => Some(format!("`retune build {step}` makes it")),
            TalkError::NoOutput { makes, .. } => Some(format!("it makes {}", makes.join(", "))),
            TalkError::ManyCells { cells, .. } => {
                Some(format!("choose one, such as @{}", cells[0]))
            }
            TalkError::NoPrompt => {
                Some("give one as an argument, on standard input, or many with --file".to_owned())
            }
            TalkError::NoTokenizer(_) => Some("give one with --tokenizer".to_owned()),
            _ => None,
        }
    }

    /// Whether what was asked for is wrong, rather than what is there.
    pub fn is_usage(&self) -> bool {
        match self {
            TalkError::Hub { .. }
            | TalkError::Defaults(_)
            | TalkError::StandardInput(_)
            | TalkError::Ops(_) => false,
            TalkError::Generate(error) => match error {
                GenerateError::TooLong { .. }
                | GenerateError::EmptyPrompt
                | GenerateError::Vocabulary { .. } => true,
                GenerateError::Tokenizer(error) => matches!(
                    error,
                    TokenizerError::NoTemplate
                        | TokenizerError::Template(_)
                        | TokenizerError::NoMessages
                ),
                _ => false,
            },
            _ => true,
        }
    }
}

/// A model that was opened.
pub struct Talk {
    /// What answers.
    pub generator: Generator,
    /// What the model's makers advise.
    pub defaults: Defaults,
}

/// Finds models for people to talk to.
pub struct Finder<'a> {
    workspace: &'a Workspace,
    /// The pipeline, where a reference to a step needs it.
    graph: Option<Graph>,
    hub: HubAccess<'a>,
}

impl<'a> Finder<'a> {
    /// A finder in a project. The pipeline is only read when `steps` may be
    /// referred to; fetching from the Hub ends when `stop` is set.
    pub fn new(
        workspace: &'a Workspace,
        overrides: &Overrides,
        steps: bool,
        stop: &'a AtomicBool,
    ) -> Result<Self, TalkError> {
        let graph = match steps {
            true => Some(workspace.load(overrides)?.0),
            false => None,
        };
        Ok(Finder {
            workspace,
            graph,
            hub: HubAccess::new(workspace, Some(stop)),
        })
    }

    /// The folders of what was chosen.
    pub fn locate(&self, choice: &Choice) -> Result<Located, TalkError> {
        let (mut model, mut adapter) = (choice.model.as_deref(), choice.adapter.as_deref());
        // A step that makes an adapter stands for it, on its own base.
        if let Some(reference) = model
            && adapter.is_none()
            && self.makes_only_an_adapter(reference)?
        {
            (model, adapter) = (None, Some(reference));
        }
        let adapter_step = adapter
            .map(|adapter| self.step(adapter))
            .transpose()?
            .flatten();
        let model_step = model.map(|model| self.step(model)).transpose()?.flatten();
        let model = match model {
            Some(model) => self.find(model, PortType::Model)?,
            None => {
                let found = self.input(adapter_step, "model")?;
                found.ok_or(TalkError::NoModel)?
            }
        };
        let tokenizer = match &choice.tokenizer {
            Some(tokenizer) => self.find(tokenizer, PortType::Tokenizer)?,
            None => self.tokenizer(&model, [adapter_step, model_step])?,
        };
        let adapter = adapter.map(|adapter| self.find(adapter, PortType::Adapter));
        Ok(Located {
            model,
            tokenizer,
            adapter: adapter.transpose()?,
        })
    }

    /// Where an adapter is.
    pub fn adapter(&self, reference: &str) -> Result<PathBuf, TalkError> {
        self.find(reference, PortType::Adapter)
    }

    /// The tokenizer that a step used, or the one beside the model.
    fn tokenizer(&self, model: &Path, steps: [Option<StepId>; 2]) -> Result<PathBuf, TalkError> {
        for step in steps {
            if let Some(found) = self.input(step, "tokenizer")? {
                return Ok(found);
            }
        }
        match model.join("tokenizer.json").exists() {
            true => Ok(model.to_owned()),
            false => Err(TalkError::NoTokenizer(model.to_owned())),
        }
    }

    fn makes_only_an_adapter(&self, reference: &str) -> Result<bool, TalkError> {
        let (Some(step), Some(graph)) = (self.step(reference)?, &self.graph) else {
            return Ok(false);
        };
        let makes = |ty| {
            graph
                .node(step)
                .outputs
                .iter()
                .any(|output| output.ty == ty)
        };
        let said = split(reference).and_then(|(_, output)| output);
        let said = said.map(|name| {
            graph
                .node(step)
                .outputs
                .iter()
                .any(|o| o.name == name && o.ty == PortType::Adapter)
        });
        Ok(said.unwrap_or(makes(PortType::Adapter) && !makes(PortType::Model)))
    }

    /// The step that a reference means, if it means one.
    fn step(&self, reference: &str) -> Result<Option<StepId>, TalkError> {
        let (Some(graph), Some((address, _))) = (&self.graph, split(reference)) else {
            return Ok(None);
        };
        match find_step(graph, &address)?[..] {
            [step] => Ok(Some(step)),
            ref several => Err(TalkError::ManyCells {
                reference: reference.to_owned(),
                cells: several
                    .iter()
                    .map(|id| graph.node(*id).name.to_string())
                    .collect(),
            }),
        }
    }

    fn find(&self, reference: &str, what: PortType) -> Result<PathBuf, TalkError> {
        if let (Some(step), Some(graph)) = (self.step(reference)?, &self.graph) {
            let output = split(reference).and_then(|(_, output)| output);
            return self.output(graph, graph.node(step), output, what);
        }
        if reference.starts_with(HubRef::SCHEME) {
            return self.fetch(reference);
        }
        let path = self.workspace.root.join(reference);
        match path.is_dir() {
            true => Ok(path),
            false => Err(TalkError::NoFolder {
                what,
                step: self.is_step(reference),
                path,
            }),
        }
    }

    /// Whether the pipeline, if there is one, has a step of that name.
    fn is_step(&self, name: &str) -> bool {
        let graph = self.workspace.load(&Overrides::default());
        graph.is_ok_and(|(graph, _)| find_step(&graph, name).is_ok())
    }

    fn fetch(&self, reference: &str) -> Result<PathBuf, TalkError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| TalkError::Hub {
            reference: reference.to_owned(),
            source,
        };
        let parsed = HubRef::parse(reference).map_err(|bad| failed(Box::new(bad)))?;
        let found = self.hub.locate(&parsed).map_err(failed)?;
        found.ok_or_else(|| failed("it is not here".into()))
    }

    /// A step's output of the type, or of the name, in its place.
    fn output(
        &self,
        graph: &Graph,
        node: &Node,
        name: Option<&str>,
        what: PortType,
    ) -> Result<PathBuf, TalkError> {
        let fits = |output: &&crate::step::OutPort| match name {
            Some(name) => output.name == name,
            None => output.ty == what,
        };
        let output = node.outputs.iter().find(fits);
        let output = output.ok_or_else(|| TalkError::NoOutput {
            step: node.name.to_string(),
            what,
            makes: node
                .outputs
                .iter()
                .map(|output| output.name.clone())
                .collect(),
        })?;
        let path = self.workspace.output_folder(graph, node).join(&output.path);
        match path.is_dir() {
            true => Ok(path),
            false => Err(TalkError::NotBuilt {
                step: node.name.to_string(),
                what,
            }),
        }
    }

    /// What stands behind an input port of a step.
    fn input(&self, step: Option<StepId>, port: &str) -> Result<Option<PathBuf>, TalkError> {
        let (Some(step), Some(graph)) = (step, &self.graph) else {
            return Ok(None);
        };
        let input = graph
            .node(step)
            .inputs
            .iter()
            .find(|input| input.port == port);
        let Some(input) = input else {
            return Ok(None);
        };
        match &input.from {
            Origin::Step { step, output } => {
                let node = graph.node(*step);
                let output = &node.outputs[*output];
                self.output(graph, node, Some(&output.name), output.ty)
                    .map(Some)
            }
            Origin::Path(path) => Ok(Some(self.workspace.root.join(path))),
            Origin::Hub(reference) => {
                let text = reference.to_string();
                self.fetch(&text).map(Some)
            }
            Origin::Lineage => Ok(None),
        }
    }
}

/// The step's address and the output of `@STEP` or `@STEP.OUTPUT`.
fn split(reference: &str) -> Option<(String, Option<&str>)> {
    let text = reference.strip_prefix('@')?;
    let (_, rest) = Address::leading(text).ok()?;
    let address = text[..text.len() - rest.len()].to_owned();
    Some((address, rest.strip_prefix('.')))
}

/// Opens what was found.
pub fn open_model(located: &Located) -> Result<Talk, TalkError> {
    let defaults = Defaults::read(&located.model)?;
    let adapter = located.adapter.as_deref();
    let generator = Generator::open(&located.model, &located.tokenizer, adapter)?;
    Ok(Talk {
        generator,
        defaults,
    })
}

/// What a model is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// A conversation, to be put through the chat template.
    Chat(Vec<Message>),
    /// A text to go on from.
    Raw(String),
}

impl Question {
    /// A user's question, or with `raw` a text to go on from.
    pub fn of(text: &str, raw: bool) -> Self {
        match raw {
            true => Question::Raw(text.to_owned()),
            false => Question::Chat(vec![Message::new(Role::User, text)]),
        }
    }

    /// As a prompt; `system` goes before a conversation that has no system message.
    pub fn prompt(&self, generator: &Generator, system: Option<&str>) -> Result<Prompt, TalkError> {
        let messages = match self {
            Question::Raw(text) => return Ok(generator.raw(text)?),
            Question::Chat(messages) => messages,
        };
        let begun = messages
            .first()
            .is_some_and(|first| first.role == Role::System);
        let system = system.filter(|_| !begun);
        let system = system.map(|text| Message::new(Role::System, text));
        let messages: Vec<Message> = system.into_iter().chain(messages.iter().cloned()).collect();
        Ok(generator.chat(&messages)?)
    }
}

/// The questions in JSON lines: `messages` (an answer at the end is left
/// out), `prompt`, `instruction` with or without `input`, or `text`, which is
/// gone on from. `label` is what errors call the file.
pub fn questions(label: &str, text: &str, raw: bool) -> Result<Vec<Question>, TalkError> {
    let lines = (1..).zip(text.lines());
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    let question = |(line, text): (u64, &str)| {
        let object = serde_json::from_str(text).map_err(|e| e.to_string());
        let question = object.and_then(|object| question(object, raw));
        question.map_err(|message| TalkError::BadPrompt {
            path: label.to_owned(),
            line,
            message,
        })
    };
    lines.map(question).collect()
}

fn question(mut object: Map<String, Value>, raw: bool) -> Result<Question, String> {
    let text = |value: Value, field: &str| match value {
        Value::String(text) if !text.trim().is_empty() => Ok(text),
        other => Err(format!("field `{field}`: expected a text, found {other}")),
    };
    if let Some(messages) = object.remove("messages") {
        let mut messages: Vec<Message> =
            serde_json::from_value(messages).map_err(|e| format!("field `messages`: {e}"))?;
        messages.pop_if(|last| last.role == Role::Assistant);
        return match messages.is_empty() {
            true => Err("field `messages` has nothing to answer".to_owned()),
            false => Ok(Question::Chat(messages)),
        };
    }
    if let Some(prompt) = object.remove("prompt") {
        return Ok(Question::of(&text(prompt, "prompt")?, raw));
    }
    if let Some(instruction) = object.remove("instruction") {
        let mut question = text(instruction, "instruction")?;
        match object.remove("input") {
            None | Some(Value::Null) => {}
            Some(Value::String(input)) if input.trim().is_empty() => {}
            Some(input) => question = format!("{question}\n\n{}", text(input, "input")?),
        }
        return Ok(Question::of(&question, raw));
    }
    match object.remove("text") {
        Some(whole) => Ok(Question::Raw(text(whole, "text")?)),
        None => Err("expected `messages`, `prompt`, `instruction` or `text`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_schema_are_questions() {
        let text = concat!(
            r#"{"messages":[{"role":"user","content":"u"},{"role":"assistant","content":"a"}],"id":1}"#,
            "\n\n",
            r#"{"prompt":"p","completion":"c"}"#,
            "\n",
            r#"{"instruction":"i","input":"x","output":"o"}"#,
            "\n",
            r#"{"text":"t"}"#,
        );
        let user = |text: &str| Question::of(text, false);
        let found = questions("f", text, false).unwrap();
        assert_eq!(found[..3], [user("u"), user("p"), user("i\n\nx")]);
        assert_eq!(found[3], Question::Raw("t".to_owned()));
        assert_eq!(
            questions("f", r#"{"prompt":"p"}"#, true).unwrap(),
            [Question::Raw("p".into())]
        );
    }

    #[test]
    fn a_line_that_asks_nothing_is_told_with_its_number() {
        let error = |line: &str| {
            let text = format!("{{\"prompt\":\"p\"}}\n{line}");
            questions("f.jsonl", &text, false).unwrap_err().to_string()
        };
        insta::assert_snapshot!(error("{}"), @"f.jsonl:2: expected `messages`, `prompt`, `instruction` or `text`");
        insta::assert_snapshot!(error(r#"{"prompt":1}"#), @"f.jsonl:2: field `prompt`: expected a text, found 1");
        insta::assert_snapshot!(error(r#"{"messages":[]}"#), @"f.jsonl:2: field `messages` has nothing to answer");
        assert!(error("[").starts_with("f.jsonl:2: "));
    }

    #[test]
    fn a_reference_is_a_step_and_perhaps_its_output() {
        let address = |text: &str| split(text).map(|(a, o)| (a, o.map(str::to_owned)));
        let some = |a: &str, o: Option<&str>| Some((a.to_owned(), o.map(str::to_owned)));
        assert_eq!(address("@stage1"), some("stage1", None));
        assert_eq!(address("@stage1.adapter"), some("stage1", Some("adapter")));
        assert_eq!(
            address("@s[rank=8,lr=1e-4].adapter"),
            some("s[rank=8,lr=1e-4]", Some("adapter"))
        );
        assert_eq!(address("folder"), None);
    }
}
