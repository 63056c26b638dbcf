//! The rules, and a built-in kind that is held to them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::landlock::kernel_abi;
use super::rules::{Personal, Rules};
use crate::exec::job::{End, FORMAT, Job, JobResult, WorkFolder};
use crate::exec::work;
use crate::step::{Context, InPort, Input, OutPort, PortType, Registry, Sandbox, Step, StepError};

/// Reads its input and whatever `also` names.
struct Curious;

#[derive(Deserialize, Serialize, JsonSchema)]
struct CuriousParams {
    also: PathBuf,
    network: bool,
}

impl Step for Curious {
    type Params = CuriousParams;
    const KIND: &'static str = "test.curious";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Reads what it should not.";

    fn inputs() -> Vec<InPort> {
        vec![InPort::one("from", PortType::File, "what it may read")]
    }

    fn outputs(_: &CuriousParams) -> Vec<OutPort> {
        vec![OutPort::new("copy", PortType::File, "copy")]
    }

    fn run(params: &CuriousParams, context: &mut Context<'_>) -> Result<(), StepError> {
        let text = crate::files::read(context.input("from")?)?;
        crate::files::write(&context.output("copy"), text)?;
        if params.network {
            std::net::TcpListener::bind("127.0.0.1:0")?;
        }
        // Threads that the kind starts are held as well.
        let also = params.also.clone();
        thread::spawn(move || crate::files::read(&also))
            .join()
            .unwrap()?;
        Ok(())
    }
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("work/out")).unwrap();
        fs::create_dir_all(folder.path().join("work/tmp")).unwrap();
        fs::write(folder.path().join("input"), "in").unwrap();
        fs::write(folder.path().join("secret"), "no").unwrap();
        Place { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn job(&self) -> Job {
        Job {
            format: FORMAT,
            step: "a".to_owned(),
            project: self.path(""),
            kind: Curious::KIND.to_owned(),
            version: 1,
            params: Default::default(),
            inputs: vec![Input {
                port: "from".to_owned(),
                label: String::new(),
                path: self.path("input"),
            }],
            checkpoint: None,
            threads: 1,
            environment: BTreeMap::new(),
            program: None,
            trace: false,
        }
    }

    /// Does a curious job in a thread of its own, which is held for good.
    fn curious(&self, also: &str, network: bool) -> JobResult {
        let mut job = self.job();
        let params = CuriousParams {
            also: self.path(also),
            network,
        };
        job.params = match serde_json::to_value(params).unwrap() {
            serde_json::Value::Object(map) => map,
            _ => unreachable!(),
        };
        let work_folder = WorkFolder::at(self.path("work"));
        fs::write(work_folder.job(), serde_json::to_vec(&job).unwrap()).unwrap();
        let file = work_folder.job();
        let mut registry = Registry::new();
        registry.add::<Curious>();
        thread::scope(|scope| {
            scope.spawn(|| work(&file, &registry)).join().unwrap();
        });
        let bytes = fs::read(work_folder.result()).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }
}

#[test]
fn a_built_in_kind_reads_its_inputs_and_nothing_else() {
    if kernel_abi() < 3 {
        eprintln!(
            "SKIPPED: this kernel's Landlock has interface {}",
            kernel_abi()
        );
        return;
    }
    let place = Place::new();
    let result = place.curious("input", false);
    assert_eq!(result.end, End::Finished);
    assert!(
        result.sandbox.starts_with("landlock abi "),
        "{}",
        result.sandbox
    );
    let End::Failed { error } = place.curious("secret", false).end else {
        panic!("it read the secret");
    };
    let secret = place.path("secret").display().to_string();
    assert_eq!(error.message, format!("failed to read {secret}"));
    assert!(
        error.causes[0].starts_with("Permission denied"),
        "{error:?}"
    );
    let End::Failed { error } = place.curious("input", true).end else {
        panic!("it listened");
    };
    assert!(error.message.starts_with("Permission denied"), "{error:?}");
}

fn rules(place: &Place, job: &Job, home: &str, path: &str) -> Rules {
    let environment = BTreeMap::from([
        ("HOME".into(), place.path(home).into()),
        ("PATH".into(), place.path(path).into()),
    ]);
    let argv = ["sh".to_owned()];
    let folder = WorkFolder::at(place.path("work"));
    Rules::of_program(job, &argv, &Sandbox::default(), &folder, &environment).unwrap()
}

#[test]
fn the_rules_of_a_program_are_its_ports_and_the_system() {
    let place = Place::new();
    let rules = rules(&place, &place.job(), "home", "none");
    for path in ["/usr/bin/env", "/etc/passwd"] {
        assert!(rules.may_read(Path::new(path)), "{path}");
        assert!(!rules.may_write(Path::new(path)), "{path}");
    }
    for (path, read, write) in [
        ("input", true, false),
        ("secret", false, false),
        ("work/out/x", true, true),
        ("work/tmp/x", true, true),
        ("work/job.json", false, false),
    ] {
        let path = place.path(path);
        assert_eq!(rules.may_read(&path), read, "{path:?}");
        assert_eq!(rules.may_write(&path), write, "{path:?}");
    }
    assert!(!rules.network);
}

#[test]
fn an_installation_is_read_but_neither_project_nor_home_is() {
    let place = Place::new();
    for folder in [
        "home/venv/bin",
        "home/venv/lib",
        "home/tools/bin",
        "home/tools/lib",
        "home/bin",
    ] {
        fs::create_dir_all(place.path(folder)).unwrap();
    }
    fs::create_dir_all(place.path("base/bin")).unwrap();
    fs::create_dir_all(place.path("base/lib")).unwrap();
    let settings = format!("home = {}\n", place.path("base/bin").display());
    fs::write(place.path("home/venv/pyvenv.cfg"), settings).unwrap();
    let mut job = place.job();
    job.project = place.path("project");
    let read = |path: &str, wanted: &[&str]| {
        let rules = rules(&place, &job, "home", path);
        let places = [
            "home/venv/x",
            "base/lib/x",
            "home/tools/lib/x",
            "home/tools/x",
            "home/bin/x",
            "home/x",
        ];
        let found: Vec<&str> = places
            .into_iter()
            .filter(|p| rules.may_read(&place.path(p)))
            .collect();
        assert_eq!(found, wanted, "{path}");
    };
    read("home/venv/bin", &["home/venv/x", "base/lib/x"]);
    read("home/tools/bin", &["home/tools/lib/x"]);
    read("home/bin", &["home/bin/x"]);
    read("home", &[]);
    // A project that lies in an installation stays shut.
    job.project = place.path("home/venv/lib");
    let rules = rules_of(&place, &job);
    assert!(rules.may_read(&place.path("home/venv/bin/x")));
    assert!(!rules.may_read(&place.path("home/venv/lib/x")));
}

#[test]
fn links_among_settings_lead_to_settings_but_not_to_what_is_personal() {
    let place = Place::new();
    for (file, to) in [
        ("run/resolv.conf", "resolv.conf"),
        ("home/mine.conf", "mine.conf"),
        ("project/ours.conf", "ours.conf"),
        ("run/folder/file", "folder"),
    ] {
        let file = place.path(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "").unwrap();
        let target = if to == "folder" {
            file.parent().unwrap()
        } else {
            &file
        };
        fs::create_dir_all(place.path("etc")).unwrap();
        symlink(target, place.path("etc").join(to)).unwrap();
    }
    let mut job = place.job();
    job.project = place.path("project");
    let personal = Personal::new(&job, Some(&place.path("home")));
    let mut rules = Rules::default();
    rules.settings(&place.path("etc"), &personal);
    let found: Vec<_> = rules.system.iter().collect();
    assert_eq!(found, [place.path("run/resolv.conf")]);
}

fn rules_of(place: &Place, job: &Job) -> Rules {
    rules(place, job, "home", "home/venv/bin")
}
