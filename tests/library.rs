//! The engine as a crate: the example with a kind of its own, run as a program.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use retune::event::{Event, Execution, Recorder};
use retune::exec::{
    Executor, Job, JobResult, Limits, LocalExecutor, Options, Runner, Running, Stop, WorkFolder,
};
use retune::graph::HubRef;
use retune::ops::{Workspace, registry};
use retune::plan::{Hub, Surroundings};
use retune::step::{Progress, StepError};
use retune::store::LocalStore;
use support::Run;

/// The example's program. `cargo test` builds it; a run of this file alone may
/// not have.
fn example() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let program = own
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/own_kind");
    if !program.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--example", "own_kind"]);
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().unwrap().success());
    }
    program
}

const PIPELINE: &str = r#"
[steps.count]
uses = "words.count"
matrix = { shortest = [0, 3] }
shortest = "${matrix.shortest}"
text = "@text"

[steps.text]
uses = "command"
run = "echo one or two > text"
outputs = { text = "text" }
"#;

#[test]
fn an_own_kind_runs_in_the_programs_own_processes() {
    let space = support::Space::new(PIPELINE);
    let program = example();
    let build = || Run::of(Command::new(&program).arg(space.path("")));
    let first = build();
    assert_eq!(first.code, Some(0), "{first}");
    insta::assert_snapshot!(sorted(&first.out), @"
    count[shortest=0]: 3 words
    count[shortest=3]: 2 words
    ran count[shortest=0]
    ran count[shortest=3]
    ran text
    ");
    let again = build();
    insta::assert_snapshot!(again.out, @"
    count[shortest=0]: 3 words
    count[shortest=3]: 2 words
    ");
    // The plain program does not know the kind and says so.
    let plain = space.retune(&["plan"]);
    assert_eq!(plain.code, Some(3), "{plain}");
    assert!(
        plain.err.contains("there is no kind 'words.count'"),
        "{plain}"
    );
}

#[test]
fn the_kind_of_the_example_takes_less_than_forty_lines() {
    let text = include_str!("../examples/own_kind.rs");
    let start = text.find("/// Every field").unwrap();
    let end = text.find("// The program:").unwrap();
    let lines = text[start..end]
        .lines()
        .filter(|line| !line.trim().is_empty());
    // Four more register and hand it over.
    assert!(lines.count() + 4 < 40);
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// An executor with a fault of its own.
struct Faulty(LocalExecutor);

impl Executor for Faulty {
    fn start(&self, job: &Job, folder: &WorkFolder) -> Result<Box<dyn Running>, StepError> {
        let job_of_b = job.step == "b";
        let running = self.0.start(job, folder)?;
        Ok(match job_of_b {
            true => running,
            false => Box::new(Fault(running)),
        })
    }
}

struct Fault(Box<dyn Running>);

impl Running for Fault {
    fn stopper(&self) -> Box<dyn Fn(Stop) + Send> {
        self.0.stopper()
    }

    fn wait(self: Box<Self>, _progress: &mut dyn FnMut(Progress)) -> JobResult {
        panic!("out of paper")
    }
}

struct NoHub;

impl Hub for NoHub {
    fn locate(
        &self,
        _reference: &HubRef,
    ) -> Result<Option<PathBuf>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(None)
    }
}

struct NoRecord;

impl Recorder for NoRecord {
    fn record(&self, _execution: &Execution) -> Vec<u8> {
        b"{}".to_vec()
    }
}

/// Brings both steps of a project up to date with a faulty executor.
fn run_with_a_fault(root: &Path, program: PathBuf) -> (retune::event::Summary, Vec<Event>) {
    let workspace = Workspace::find(root, None, None).unwrap();
    let (graph, _) = workspace.load(&Default::default()).unwrap();
    let (store, _) = LocalStore::open(&workspace.cache).unwrap();
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let runner = Runner {
        graph: &graph,
        registry: &registry(),
        around: Surroundings {
            root: &workspace.root,
            cache: &workspace.cache,
            store: &store,
            environment: &environment,
            hub: &NoHub,
        },
        executor: &Faulty(LocalExecutor::new(program, std::env::vars_os())),
        recorder: &NoRecord,
        options: &Options {
            run: "run".to_owned(),
            limits: Limits {
                jobs: 1,
                ..Limits::default()
            },
            keep_going: true,
            grace: Duration::from_secs(1),
            external: false,
            phases: false,
        },
        cancel: &AtomicBool::new(false),
        settled: Vec::new(),
        recall: None,
    };
    let steps = ["a", "b"].map(|name| graph.find(&name.parse().unwrap()).unwrap());
    let mut events = Vec::new();
    let mut sink = |event: &Event| events.push(event.clone());
    let (summary, _) = runner.run(&steps, &[], &mut sink).unwrap();
    (summary, events)
}

#[test]
fn a_fault_over_a_step_fails_that_step_and_keeps_nobody_waiting() {
    let space = support::Space::new(
        "[steps.a]\nuses = 'command'\nrun = 'sleep 300'\n\
         [steps.b]\nuses = 'command'\nrun = 'true'\n",
    );
    let (summary, events) = run_with_a_fault(&space.path(""), support::program());
    assert_eq!((summary.failed, summary.ran), (1, 1));
    let failed = events.iter().find_map(|event| match event {
        Event::StepFailed { step, error, .. } => Some((step.as_str(), error)),
        _ => None,
    });
    let (step, error) = failed.unwrap();
    assert_eq!(step, "a");
    assert_eq!(error.message, "retune failed over the step: out of paper");
    assert!(error.hint.as_ref().unwrap().contains("a fault in retune"));
}
