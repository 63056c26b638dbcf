//! `data.import`: files of other makers into rows.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{labelled, write_json};
use crate::data::{self, FieldNames, FieldPath, LineWriter, Required, RowSink, RowsOptions};
use crate::step::{Context, FieldError, InPort, OutPort, PortType, Resources, Step, StepError};

/// The kind.
pub struct DataImport;

/// How the files write their examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Schema {
    /// `messages`, a list of `{"role", "content"}`, the last by the assistant.
    Chat,
    /// `prompt` and `completion`, each a text or a list of messages.
    PromptCompletion,
    /// `instruction`, perhaps `input`, and `output`.
    Alpaca,
    /// `text`.
    Text,
    /// `prompt`, `chosen` and `rejected`, as TRL has them.
    Preference,
}

/// What the files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// A list of objects, or an object with the list in the field `list`.
    Json,
    /// A table with commas, names in the first line.
    Csv,
    /// A table with tabs.
    Tsv,
    /// Apache Parquet.
    Parquet,
}

/// What becomes of a preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Take {
    /// It stays one.
    Both,
    /// A chat row with the better answer.
    Chosen,
    /// A chat row with the worse answer.
    Rejected,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The standing instruction.
    System,
    /// The question.
    User,
    /// The answer.
    Assistant,
}

/// Where the files have what the schema names: paths such as `answers.text[0]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    /// `messages` of `chat`.
    #[serde(default)]
    messages: Option<String>,
    /// `prompt` of `prompt-completion` and `preference`.
    #[serde(default)]
    prompt: Option<String>,
    /// `completion` of `prompt-completion`.
    #[serde(default)]
    completion: Option<String>,
    /// `instruction` of `alpaca`.
    #[serde(default)]
    instruction: Option<String>,
    /// `input` of `alpaca`.
    #[serde(default)]
    input: Option<String>,
    /// `output` of `alpaca`.
    #[serde(default)]
    output: Option<String>,
    /// `text` of `text`.
    #[serde(default)]
    text: Option<String>,
    /// `chosen` of `preference`.
    #[serde(default)]
    chosen: Option<String>,
    /// `rejected` of `preference`.
    #[serde(default)]
    rejected: Option<String>,
    /// A field with a system message that the row begins with.
    #[serde(default)]
    system: Option<String>,
    /// The field of a message with its role.
    #[serde(default)]
    role: Option<String>,
    /// The field of a message with its text.
    #[serde(default)]
    content: Option<String>,
    /// Other names of roles: `{ human = "user", gpt = "assistant" }`.
    #[serde(default)]
    roles: BTreeMap<String, Role>,
}

/// What a metadata field has to be: a type, or one of some texts.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// `text`, `integer`, `number`, `bool` or `list`.
    #[serde(default, rename = "type")]
    ty: Option<Type>,
    /// The texts that may be.
    #[serde(default)]
    one_of: Vec<String>,
}

/// A type of metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// A text that is not empty.
    Text,
    /// A number without a fraction.
    Integer,
    /// Any number.
    Number,
    /// True or false.
    Bool,
    /// A list.
    List,
}

/// Parameters of `data.import`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// How the files write their examples. What the schema does not name is
    /// kept as metadata; what it names must be there in every record.
    schema: Schema,
    /// Where the files have what the schema names, when it is elsewhere.
    #[serde(default)]
    fields: Fields,
    /// A system message that every row begins with, in place of its own.
    #[serde(default)]
    system: Option<String>,
    /// What becomes of a preference: `both`, `chosen` or `rejected`.
    #[serde(default = "both")]
    take: Take,
    /// Metadata that every row must have: `{ line = { type = "integer" },
    /// severity = { one_of = ["low", "high"] } }`.
    #[serde(default)]
    require: BTreeMap<String, Contract>,
    /// What the files are, where their names do not say.
    #[serde(default)]
    format: Option<Format>,
    /// The field of a JSON document with the list of rows.
    #[serde(default)]
    list: Option<String>,
    /// So many records at fault are dropped, counted and listed; with 0 the
    /// first one fails the step.
    #[serde(default)]
    max_faults: u64,
    /// Whether a file may have no rows.
    #[serde(default)]
    allow_empty: bool,
    /// Whether the rows are also written as Parquet (port `parquet`).
    #[serde(default = "parquet")]
    parquet: bool,
}

fn both() -> Take {
    Take::Both
}

fn parquet() -> bool {
    cfg!(feature = "parquet")
}

impl Params {
    fn options(&self) -> Result<RowsOptions, FieldError> {
        let mut options = RowsOptions::new(match self.schema {
            Schema::Chat => data::Schema::Chat,
            Schema::PromptCompletion => data::Schema::PromptCompletion,
            Schema::Alpaca => data::Schema::Alpaca,
            Schema::Text => data::Schema::Text,
            Schema::Preference => data::Schema::Preference,
        });
        options.fields = self.names()?;
        options.take = match self.take {
            Take::Both => data::Take::Both,
            Take::Chosen => data::Take::Chosen,
            Take::Rejected => data::Take::Rejected,
        };
        options.format = self.format.map(|format| match format {
            Format::Jsonl => data::Format::JsonLines,
            Format::Json => data::Format::Json,
            Format::Csv => data::Format::Separated(b','),
            Format::Tsv => data::Format::Separated(b'\t'),
            Format::Parquet => data::Format::Parquet,
        });
        let required = self.require.iter();
        options.require = required
            .map(|(name, contract)| Ok((name.clone(), contract.required(name)?)))
            .collect::<Result<_, FieldError>>()?;
        options.list.clone_from(&self.list);
        options.max_faults = self.max_faults;
        options.allow_empty = self.allow_empty;
        Ok(options)
    }

    /// The names that the schema has fields for, each with where it is.
    fn names(&self) -> Result<FieldNames, FieldError> {
        let fields = &self.fields;
        let of_schema: &[(&str, &Option<String>)] = match self.schema {
            Schema::Chat => &[("messages", &fields.messages)],
            Schema::PromptCompletion => &[
                ("prompt", &fields.prompt),
                ("completion", &fields.completion),
            ],
            Schema::Alpaca => &[
                ("instruction", &fields.instruction),
                ("input", &fields.input),
                ("output", &fields.output),
            ],
            Schema::Text => &[("text", &fields.text)],
            Schema::Preference => &[
                ("prompt", &fields.prompt),
                ("chosen", &fields.chosen),
                ("rejected", &fields.rejected),
            ],
        };
        let system = [("system", &fields.system)];
        let all = of_schema.iter().chain(&system);
        let mut paths = BTreeMap::new();
        for (name, path) in all {
            if let Some(path) = path {
                let path: FieldPath = path
                    .parse()
                    .map_err(|e| FieldError::new("fields", format!("`{name}`: {e}")))?;
                paths.insert((*name).to_owned(), path);
            }
        }
        self.unused(&paths)?;
        let role = |role: &Role| match role {
            Role::System => data::Role::System,
            Role::User => data::Role::User,
            Role::Assistant => data::Role::Assistant,
        };
        Ok(FieldNames {
            paths,
            role: fields.role.clone(),
            content: fields.content.clone(),
            roles: fields
                .roles
                .iter()
                .map(|(name, to)| (name.clone(), role(to)))
                .collect(),
            system: self.system.clone(),
        })
    }

    /// A field that the schema does not have would be of no effect.
    fn unused(&self, used: &BTreeMap<String, FieldPath>) -> Result<(), FieldError> {
        let fields = &self.fields;
        let given = [
            ("messages", &fields.messages),
            ("prompt", &fields.prompt),
            ("completion", &fields.completion),
            ("instruction", &fields.instruction),
            ("input", &fields.input),
            ("output", &fields.output),
            ("text", &fields.text),
            ("chosen", &fields.chosen),
            ("rejected", &fields.rejected),
        ];
        match given
            .iter()
            .find(|(name, path)| path.is_some() && !used.contains_key(*name))
        {
            Some((name, _)) => Err(FieldError::new(
                "fields",
                format!("`{name}` is no field of this schema"),
            )),
            None => Ok(()),
        }
    }
}

impl Contract {
    fn required(&self, name: &str) -> Result<Required, FieldError> {
        Ok(match (self.ty, &self.one_of[..]) {
            (Some(Type::Text) | None, [_, ..]) => Required::OneOf(self.one_of.clone()),
            (Some(Type::Text), []) => Required::Text,
            (Some(Type::Integer), []) => Required::Integer,
            (Some(Type::Number), []) => Required::Number,
            (Some(Type::Bool), []) => Required::Bool,
            (Some(Type::List), []) => Required::List,
            _ => {
                let message = format!("`{name}` takes either `type` or `one_of` (a list of texts)");
                return Err(FieldError::new("require", message));
            }
        })
    }
}

impl Step for DataImport {
    type Params = Params;
    const KIND: &'static str = "data.import";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Reads JSON lines, JSON, CSV and Parquet (packed, in archives and folders) into rows; a missing or ill-typed field is an error with file, line and field.";

    fn inputs() -> Vec<InPort> {
        vec![InPort::many(
            "files",
            PortType::Any,
            "files, archives or folders of one schema",
        )]
    }

    fn outputs(params: &Params) -> Vec<OutPort> {
        let mut outputs = vec![
            OutPort::new("rows", PortType::Dataset, "rows.jsonl"),
            OutPort::new("summary", PortType::Metrics, "summary.json"),
        ];
        if params.parquet {
            outputs.push(OutPort::new("parquet", PortType::File, "rows.parquet"));
        }
        outputs
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        if params.parquet && !parquet() {
            let message = "this retune was built without Parquet (cargo feature `parquet`)";
            return Err(FieldError::new("parquet", message));
        }
        if params.take != Take::Both && params.schema != Schema::Preference {
            return Err(FieldError::new("take", "only a preference has two answers"));
        }
        params.options().map(drop)
    }

    fn resources(_: &Params) -> Resources {
        Resources::all_cpus()
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let options = params.options().map_err(StepError::from)?;
        let files = labelled(context, "files");
        let mut lines = LineWriter::create(&context.output("rows.jsonl"))?;
        #[cfg(feature = "parquet")]
        let summary = if params.parquet {
            let mut table = data::RowsWriter::create(&context.output("rows.parquet"))?;
            let sinks: &mut [&mut dyn RowSink] = &mut [&mut lines, &mut table];
            let summary = data::import_rows(&files, &options, sinks)?;
            table.finish()?;
            summary
        } else {
            data::import_rows(&files, &options, &mut [&mut lines])?
        };
        #[cfg(not(feature = "parquet"))]
        let summary = data::import_rows(&files, &options, &mut [&mut lines as &mut dyn RowSink])?;
        lines.finish()?;
        context.fact("rows", summary.rows);
        if summary.dropped > 0 {
            context.fact("dropped", summary.dropped);
        }
        write_json(&context.output("summary.json"), &summary)
    }
}
