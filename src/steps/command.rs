//! The kind `command`: any program with declared inputs, outputs and environment.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::step::{
    Context, FieldError, InPort, Input, Mention, OutPort, PortType, Program, Resumes, SandboxParam,
    Step, StepError,
};

/// Runs a program in an empty folder, where it writes the declared outputs.
pub struct Command;

/// The parameters of `command`.
///
/// In `run`, `${inputs.LABEL}` is the path of an input and `${outputs.LABEL}`
/// that of an output; `$${inputs.` and `$${outputs.` stand for themselves
/// without the first `$`. `${inputs.LABEL[*]}` is the paths of all cells of a
/// matrix behind a label. In a step with `checkpoint = true`, `${checkpoint}`
/// is the folder that outlives a failed attempt. In a script for the shell the paths are quoted as
/// the place needs it.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// A script for `sh -c`, or a program and its arguments as an array.
    pub run: Run,
    /// What it writes, by label: a path in its working folder, or a table
    /// with `path` and `type`.
    #[serde(default)]
    pub outputs: BTreeMap<String, Output>,
    /// The environment variables that it sees; their values enter the key.
    #[serde(default)]
    pub env: Vec<String>,
    /// Whether the program is held to what is declared: an undeclared read,
    /// write or use of the network fails and is named. On some systems only;
    /// `"if-available"` goes on without it elsewhere. A table allows more.
    // Not in the key when it is off, so that keys of before stay; in the key
    // when it is on, so that turning it on runs the step and proves it.
    #[serde(default, skip_serializing_if = "SandboxParam::is_off")]
    pub sandbox: SandboxParam,
}

/// What to run.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Run {
    /// A script for `sh -c`.
    Script(String),
    /// A program and its arguments.
    Program(Vec<String>),
}

impl Run {
    fn texts(&self) -> &[String] {
        match self {
            Run::Script(script) => std::slice::from_ref(script),
            Run::Program(argv) => argv,
        }
    }
}

/// A declared output.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(from = "Declared")]
pub struct Output {
    path: String,
    #[serde(rename = "type")]
    ty: PortType,
}

/// An output as the pipeline file says it.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Declared {
    /// A file, or a folder if it ends in `/`.
    Path(String),
    /// A path with what lies there.
    Typed(Typed),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Typed {
    /// Where it lies in the working folder.
    path: String,
    /// What it is; by default a file, or a folder if the path ends in `/`.
    #[serde(rename = "type")]
    ty: Option<PortType>,
}

impl From<Declared> for Output {
    fn from(declared: Declared) -> Self {
        let (path, ty) = match declared {
            Declared::Path(path) => (path, None),
            Declared::Typed(Typed { path, ty }) => (path, ty),
        };
        let usual = match path.ends_with('/') {
            true => PortType::Folder,
            false => PortType::File,
        };
        Output {
            ty: ty.unwrap_or(usual),
            path,
        }
    }
}

impl Step for Command {
    type Params = Params;
    const KIND: &'static str = "command";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Runs a program with declared inputs, outputs and environment.";

    const RESUMES: Resumes = Resumes::IfAsked;

    fn inputs() -> Vec<InPort> {
        let about = "what the program reads, by label";
        vec![InPort::labelled("inputs", PortType::Any, about)]
    }

    fn outputs(params: &Params) -> Vec<OutPort> {
        let outputs = params.outputs.iter();
        outputs
            .map(|(label, output)| OutPort::new(label, output.ty, &output.path))
            .collect()
    }

    fn check(params: &Params) -> Result<(), FieldError> {
        if params
            .run
            .texts()
            .first()
            .is_none_or(|text| text.trim().is_empty())
        {
            return Err(FieldError::new("run", "must not be empty"));
        }
        if let Some(label) = params.outputs.keys().find(|label| !is_label(label)) {
            let message = "must have a name of letters, digits, '-' and '_'";
            return Err(FieldError::new(&format!("outputs.{label}"), message));
        }
        let variable = |name: &&String| !is_variable(name);
        if let Some(name) = params.env.iter().find(variable) {
            let message = format!("must hold names of environment variables, not '{name}'");
            return Err(FieldError::new("env", message));
        }
        Ok(())
    }

    fn program(params: &Params, context: &Context<'_>) -> Option<Result<Program, StepError>> {
        Some(program(params, context))
    }

    fn environment(params: &Params) -> Vec<String> {
        params.env.clone()
    }

    fn mentions(params: &Params) -> Vec<Mention> {
        let pieces = params.run.texts().iter().flat_map(|text| pieces(text));
        let found: BTreeSet<Mention> = pieces
            .filter_map(|piece| match piece {
                Piece::Text(_) | Piece::Checkpoint => None,
                Piece::Input(label) => Some(Mention::Input(label.to_owned())),
                Piece::Inputs(label) => Some(Mention::Inputs(label.to_owned())),
                Piece::Output(label) => Some(Mention::Output(label.to_owned())),
            })
            .collect();
        found.into_iter().collect()
    }

    fn run(_: &Params, _: &mut Context<'_>) -> Result<(), StepError> {
        Err(StepError::new(
            "a command runs as a program of its own, not in this process",
        ))
    }
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn is_variable(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn program(params: &Params, context: &Context<'_>) -> Result<Program, StepError> {
    let argv = match &params.run {
        Run::Script(script) => {
            let script = script_with_paths(script, params, context)?;
            vec!["sh".to_owned(), "-c".to_owned(), script]
        }
        Run::Program(argv) => {
            let mut words = Vec::with_capacity(argv.len());
            for text in argv {
                words.extend(arguments(text, params, context)?);
            }
            words
        }
    };
    Ok(Program {
        argv,
        sandbox: params.sandbox.0.clone(),
    })
}

/// The arguments that a text of `run` stands for: one, but for gathered inputs
/// that are all of the text.
fn arguments(text: &str, params: &Params, context: &Context<'_>) -> Result<Vec<String>, StepError> {
    let pieces = pieces(text);
    if let [piece @ Piece::Inputs(_)] = &pieces[..] {
        return values(piece, params, context);
    }
    let mut argument = String::new();
    for piece in &pieces {
        argument.push_str(&values(piece, params, context)?.join(" "));
    }
    Ok(vec![argument])
}

/// A part of a text of `run`.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Input(&'a str),
    /// All cells behind a label.
    Inputs(&'a str),
    Output(&'a str),
    Checkpoint,
}

/// Splits a text at its `${inputs.LABEL}`, `${outputs.LABEL}` and
/// `${checkpoint}`.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut start, mut at) = (0, 0);
    while let Some(found) = text[at..].find("${") {
        let open = at + found;
        at = open + 2;
        let Some((inner, mention)) = mention(&text[at..]) else {
            continue;
        };
        if text[start..open].ends_with('$') {
            // Escaped: the first `$` is left out.
            pieces.push(Piece::Text(&text[start..open - 1]));
            start = open;
        } else {
            pieces.push(Piece::Text(&text[start..open]));
            pieces.push(mention);
            at += inner.len() + 1;
            start = at;
        }
    }
    pieces.push(Piece::Text(&text[start..]));
    pieces.retain(|piece| *piece != Piece::Text(""));
    pieces
}

/// The mention whose inside `text` starts with.
fn mention(text: &str) -> Option<(&str, Piece<'_>)> {
    let (inner, _) = text.split_once('}')?;
    if inner == "checkpoint" {
        return Some((inner, Piece::Checkpoint));
    }
    let piece = inner
        .strip_prefix("inputs.")
        .map(|label| match label.strip_suffix("[*]") {
            Some(label) => Piece::Inputs(label),
            None => Piece::Input(label),
        })
        .or_else(|| inner.strip_prefix("outputs.").map(Piece::Output))?;
    Some((inner, piece))
}

/// The texts that a piece stands for.
fn values(
    piece: &Piece<'_>,
    params: &Params,
    context: &Context<'_>,
) -> Result<Vec<String>, StepError> {
    let missing = |what, label| StepError::new(format!("there is no {what} '{label}'"));
    match piece {
        Piece::Text(text) => Ok(vec![(*text).to_owned()]),
        // Without the setting it is a variable of the script's own.
        Piece::Checkpoint => match context.checkpoint {
            None => Ok(vec!["${checkpoint}".to_owned()]),
            Some(place) => {
                let folder = place.folder.to_str();
                let folder = folder.ok_or_else(|| {
                    StepError::new("the path of the checkpoint folder is not UTF-8")
                })?;
                Ok(vec![folder.to_owned()])
            }
        },
        Piece::Output(label) => match params.outputs.get(*label) {
            Some(output) => Ok(vec![output.path.trim_end_matches('/').to_owned()]),
            None => Err(missing("output", label)),
        },
        Piece::Input(label) => {
            let mut inputs = context.all("inputs");
            let input = inputs.find(|input| input.label == **label);
            Ok(vec![path(input.ok_or_else(|| missing("input", label))?)?])
        }
        Piece::Inputs(label) => {
            let start = format!("{label}[");
            let inputs = context.all("inputs");
            let cells = inputs.filter(|input| input.label.starts_with(&start));
            cells.map(path).collect()
        }
    }
}

fn path(input: &Input) -> Result<String, StepError> {
    let path = input.path.to_str().map(str::to_owned);
    path.ok_or_else(|| {
        StepError::new(format!(
            "the path of the input '{}' is not UTF-8",
            input.label
        ))
    })
}

/// A script with its paths, quoted as the place of each needs it.
fn script_with_paths(
    script: &str,
    params: &Params,
    context: &Context<'_>,
) -> Result<String, StepError> {
    let mut text = String::with_capacity(script.len());
    let mut quote = Quote::None;
    for piece in pieces(script) {
        let values = values(&piece, params, context)?;
        let own = piece == Piece::Checkpoint && context.checkpoint.is_none();
        if own || matches!(piece, Piece::Text(_)) {
            let script = values.concat();
            quote = quote.after(&script);
            text.push_str(&script);
        } else {
            let paths: Vec<String> = values.iter().map(|path| quote.protect(path)).collect();
            text.push_str(&paths.join(" "));
        }
    }
    Ok(text)
}

/// The quotes that a place in a script is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quote {
    None,
    Single,
    Double,
}

impl Quote {
    fn after(mut self, text: &str) -> Self {
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            self = match (self, c) {
                (Quote::None, '\'') => Quote::Single,
                (Quote::None, '"') => Quote::Double,
                (Quote::Single, '\'') | (Quote::Double, '"') => Quote::None,
                (Quote::None | Quote::Double, '\\') => {
                    chars.next();
                    self
                }
                _ => self,
            };
        }
        self
    }

    fn protect(self, path: &str) -> String {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+,:@%=".contains(&b);
        if path.bytes().all(plain) {
            return path.to_owned();
        }
        match self {
            Quote::None => format!("'{}'", path.replace('\'', r"'\''")),
            Quote::Single => path.replace('\'', r"'\''"),
            Quote::Double => {
                let mut text = String::with_capacity(path.len() + 2);
                for c in path.chars() {
                    if matches!(c, '\\' | '"' | '$' | '`') {
                        text.push('\\');
                    }
                    text.push(c);
                }
                text
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::Registry;
    use serde_json::{Value, json};
    use std::path::{Path, PathBuf};
    use std::sync::atomic::AtomicBool;

    fn params(value: Value) -> Params {
        serde_json::from_value(value).unwrap()
    }

    fn argv(value: Value, path: &str) -> Vec<String> {
        let inputs = [Input {
            port: "inputs".to_owned(),
            label: "rows".to_owned(),
            path: PathBuf::from(path),
        }];
        let cancel = AtomicBool::new(false);
        let context = Context {
            inputs: &inputs,
            out: Path::new("/out"),
            checkpoint: None,
            threads: 1,
            cancel: &cancel,
            sink: &mut (),
            facts: BTreeMap::new(),
        };
        program(&params(value), &context).unwrap().argv
    }

    #[test]
    fn a_script_goes_to_the_shell_with_its_paths() {
        let run = json!({
            "run": "wc ${inputs.rows} > ${outputs.count} # ${HOME} $${inputs.rows}",
            "outputs": { "count": "count.txt" },
        });
        let script = "wc /a/rows.jsonl > count.txt # ${HOME} ${inputs.rows}";
        assert_eq!(argv(run, "/a/rows.jsonl"), ["sh", "-c", script]);
    }

    #[test]
    fn paths_are_quoted_as_their_place_needs_it() {
        let script = r#"a ${inputs.rows} "b ${inputs.rows}" 'c ${inputs.rows}' \"${inputs.rows}"#;
        let got = &argv(json!({ "run": script }), "/my $dir's/x")[2];
        let want =
            r#"a '/my $dir'\''s/x' "b /my \$dir's/x" 'c /my $dir'\''s/x' \"'/my $dir'\''s/x'"#;
        assert_eq!(got, want);
    }

    #[test]
    fn the_shell_reads_a_quoted_path_back() {
        let path = "/a b/$x`y\"z'\\";
        for script in [
            "printf %s ${inputs.rows}",
            "printf %s \"${inputs.rows}\"",
            "printf %s '${inputs.rows}'",
        ] {
            let argv = argv(json!({ "run": script }), path);
            let shell = std::process::Command::new(&argv[0])
                .args(&argv[1..])
                .output();
            assert_eq!(
                String::from_utf8(shell.unwrap().stdout).unwrap(),
                path,
                "{script}"
            );
        }
    }

    #[test]
    fn a_program_gets_its_arguments_as_they_are() {
        let run = json!({
            "run": ["tool", "--in=${inputs.rows}", "-o", "${outputs.model}", "$HOME"],
            "outputs": { "model": { "path": "model/", "type": "model" } },
        });
        let want = ["tool", "--in=/a b/x", "-o", "model", "$HOME"];
        assert_eq!(argv(run, "/a b/x"), want);
    }

    #[test]
    fn the_cells_behind_a_label_are_several_words() {
        let input = |label: &str, path: &str| Input {
            port: "inputs".to_owned(),
            label: label.to_owned(),
            path: PathBuf::from(path),
        };
        let inputs = [
            input("s[x=1]", "/a b"),
            input("s[x=2]", "/c"),
            input("s2", "/d"),
        ];
        let cancel = AtomicBool::new(false);
        let context = Context {
            inputs: &inputs,
            out: Path::new("/out"),
            checkpoint: None,
            threads: 1,
            cancel: &cancel,
            sink: &mut (),
            facts: BTreeMap::new(),
        };
        let argv = |value| program(&params(value), &context).unwrap().argv;
        let list =
            json!({ "run": ["cat", "${inputs.s[*]}", "${inputs.s2}", "--all=${inputs.s[*]}"] });
        assert_eq!(argv(list), ["cat", "/a b", "/c", "/d", "--all=/a b /c"]);
        let script = json!({ "run": "cat ${inputs.s[*]} ${inputs.s2}" });
        assert_eq!(argv(script)[2], "cat '/a b' /c /d");
        let mentioned = Command::mentions(&params(json!({ "run": "cat ${inputs.s[*]}" })));
        assert_eq!(mentioned, [Mention::Inputs("s".to_owned())]);
    }

    #[test]
    fn outputs_have_types() {
        let params = params(json!({
            "run": "true",
            "outputs": {
                "a": "a.txt",
                "b": "b/",
                "c": { "path": "c.jsonl", "type": "dataset" },
                "d": { "path": "d/" },
            },
        }));
        let types: Vec<_> = Command::outputs(&params)
            .iter()
            .map(|port| port.ty)
            .collect();
        let want = [
            PortType::File,
            PortType::Folder,
            PortType::Dataset,
            PortType::Folder,
        ];
        assert_eq!(types, want);
    }

    #[test]
    fn bad_parameters_are_refused_by_name() {
        for (value, field) in [
            (json!({ "run": " " }), "run"),
            (json!({ "run": [] }), "run"),
            (
                json!({ "run": "x", "outputs": { "a b": "x" } }),
                "outputs.a b",
            ),
            (json!({ "run": "x", "env": ["A=b"] }), "env"),
        ] {
            let error = Command::check(&params(value)).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field));
        }
    }

    #[test]
    fn effective_parameters_are_read_back_alike() {
        let mut registry = Registry::new();
        registry.add::<Command>();
        let kind = registry.get("command").unwrap();
        let fields = json!({ "run": "x", "outputs": { "a": "a/" } });
        let once = kind.resolve(fields.as_object().unwrap().clone()).unwrap();
        assert_eq!(
            once["outputs"]["a"],
            json!({ "path": "a/", "type": "folder" })
        );
        assert_eq!(kind.resolve(once.clone()).unwrap(), once);
    }

    #[test]
    fn mentions_are_found_once_each() {
        let params =
            params(json!({ "run": ["${inputs.a}${outputs.b}", "$${inputs.c} ${inputs.a}"] }));
        let want = [
            Mention::Input("a".to_owned()),
            Mention::Output("b".to_owned()),
        ];
        assert_eq!(Command::mentions(&params), want);
    }
}
