//! A kind of step of one's own, and a pipeline that is built with it:
//! `cargo run --example own_kind [DIR]`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use retune::event::Event;
use retune::ops::{self, BuildOptions, Workspace};
use retune::step::{Context, InPort, OutPort, PortType, Step, StepError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

// The kind: what it is called, what it takes, what it gives, and its work.

/// Every field enters the step's key; the comments become the schema.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    /// Words with fewer letters are not counted.
    #[serde(default)]
    shortest: usize,
}

struct CountWords;

impl Step for CountWords {
    type Params = Params;
    const KIND: &'static str = "words.count";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Counts the words of a text.";

    fn inputs() -> Vec<InPort> {
        vec![InPort::one("text", PortType::File, "the text")]
    }

    fn outputs(_: &Params) -> Vec<OutPort> {
        vec![OutPort::new("count", PortType::Metrics, "count.json")]
    }

    fn run(params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        let text = std::fs::read_to_string(context.input("text")?)?;
        let words = text.split_whitespace();
        let words = words
            .filter(|word| word.chars().count() >= params.shortest)
            .count();
        std::fs::write(
            context.output("count.json"),
            format!("{{\"words\": {words}}}\n"),
        )?;
        Ok(())
    }
}

// The program: the built-in kinds and this one, and one build.

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut kinds = ops::registry();
    kinds.add::<CountWords>();
    // A step runs as a process of its own, which is this program again.
    if let Some(code) = ops::step_process(&kinds) {
        return Ok(code);
    }
    let project = std::env::args_os()
        .nth(1)
        .map_or_else(sample, |folder| Ok(folder.into()))?;
    let workspace = Workspace::find(&project, None, None)?.with_kinds(kinds);
    let never = AtomicBool::new(false);
    let summary = ops::build(&workspace, &BuildOptions::default(), &never, &mut tell)?;
    for table in ops::table(&workspace, &Default::default(), &["count".to_owned()])? {
        for row in table.rows {
            println!("{}: {} words", row.name, row.metrics["words"]);
        }
    }
    Ok(ExitCode::from(u8::from(!summary.complete())))
}

/// What is told of a run are events.
fn tell(event: &Event) {
    match event {
        Event::StepFinished { step, .. } => println!("ran {step}"),
        Event::StepFailed { step, error, .. } => println!("{step} failed: {error}"),
        _ => {}
    }
}

/// A project to try it on: a text, counted in two ways.
fn sample() -> std::io::Result<PathBuf> {
    let project = std::env::temp_dir().join("retune-own-kind");
    std::fs::create_dir_all(project.join("pipelines"))?;
    std::fs::write(project.join("text.txt"), "a text of no great length\n")?;
    std::fs::write(
        project.join("pipelines/words.toml"),
        r#"
[steps.count]
uses = "words.count"
matrix = { shortest = [0, 3] }
shortest = "${matrix.shortest}"
text = "text.txt"
"#,
    )?;
    Ok(project)
}
