//! A model of what a build must come to, and random histories of edits, damage, kills and reruns that it has to agree with.
//!
//! `RETUNE_MODEL_CASES` sets how many histories are tried.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::process::Signal;
use support::{Run, Space, files};

/// What stands behind a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    File(String),
    Folder(BTreeMap<String, String>),
}

impl Value {
    fn text(&self) -> String {
        match self {
            Value::File(text) => text.clone(),
            Value::Folder(files) => files.values().cloned().collect(),
        }
    }

    /// How a script reads it.
    fn operand(&self, label: &str) -> String {
        match self {
            Value::File(_) => format!("${{inputs.{label}}}"),
            Value::Folder(_) => format!("${{inputs.{label}}}/*"),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Op {
    /// All inputs, one after the other.
    Cat,
    /// The first line: hides most changes from the steps below.
    Head,
    /// How many lines.
    Count,
    /// A folder with one file an input.
    Folder,
}

/// A step: what it does with which of the things before it.
#[derive(Debug, Clone)]
struct Work {
    op: Op,
    inputs: Vec<usize>,
}

/// Something that happens to a project.
#[derive(Debug, Clone)]
enum Action {
    Write {
        source: usize,
        text: usize,
    },
    Touch {
        source: usize,
    },
    PutInFolder {
        name: usize,
        text: usize,
    },
    TakeFromFolder {
        name: usize,
    },
    Change {
        step: usize,
        work: Work,
    },
    Add {
        work: Work,
    },
    RemoveLast,
    EditOutput {
        step: usize,
    },
    RemoveOutput {
        step: usize,
    },
    RemoveAllOutputs,
    /// What may be thrown away at any time: everything but journal and objects.
    RemoveShortcuts,
    /// A byte of one of the files below `cache`, by shares of all files and bytes.
    Flip {
        file: u16,
        byte: u16,
    },
    Cut {
        file: u16,
        byte: u16,
    },
    RemoveObject {
        file: u16,
    },
    Build,
    Killed {
        millis: u64,
    },
    TwoBuilds,
}

const SOURCES: usize = 3;
const TEXTS: [&str; 4] = ["one\n", "two\nlines\n", "two\nother lines\n", ""];

/// The model: the pipeline, its sources, and what was built of it.
struct Model {
    space: Space,
    sources: Vec<String>,
    folder: BTreeMap<String, String>,
    steps: Vec<Work>,
    /// What has certainly been built.
    built: BTreeSet<Key>,
    /// Whether the store was damaged, so that less is in it than was built.
    damaged: bool,
    /// What killed builds may have built.
    perhaps: BTreeSet<Key>,
}

/// What makes the result of a step what it is.
type Key = (String, Vec<(String, Value)>);

impl Model {
    fn new(steps: Vec<Work>) -> Self {
        let model = Model {
            space: Space::empty(),
            sources: vec![TEXTS[0].to_owned(); SOURCES],
            folder: BTreeMap::from([("a".to_owned(), TEXTS[1].to_owned())]),
            steps,
            built: BTreeSet::new(),
            damaged: false,
            perhaps: BTreeSet::new(),
        };
        for (i, text) in model.sources.iter().enumerate() {
            model.space.write(&source(i), text);
        }
        model.space.write("data/folder/a", TEXTS[1]);
        model
    }

    /// The things a step can read: the folder, the sources, the steps before it.
    fn values(&self) -> (Vec<Value>, Vec<Key>) {
        let mut values = vec![Value::Folder(self.folder.clone())];
        values.extend(self.sources.iter().cloned().map(Value::File));
        let mut keys = Vec::new();
        for (i, work) in self.steps.iter().enumerate() {
            let inputs = work.inputs(values.len());
            let read = inputs.iter().enumerate();
            let read: Vec<(String, Value)> = read
                .map(|(n, &at)| (format!("{n} {}", visible(at)), values[at].clone()))
                .collect();
            keys.push((work.script(i, &values), read));
            values.push(work.result(&inputs, &values));
        }
        (values, keys)
    }

    fn write_pipeline(&self) {
        let (values, _) = self.values();
        let mut text = String::new();
        for (i, work) in self.steps.iter().enumerate() {
            let inputs = work.inputs(SOURCES + 1 + i);
            let wires = inputs.iter().enumerate();
            let wires: Vec<String> = wires
                .map(|(n, &at)| format!("i{n} = \"{}\"", wire(at)))
                .collect();
            let out = match work.op {
                Op::Folder => "out/",
                _ => "out.txt",
            };
            let script = work.script(i, &values);
            let _ = write!(
                text,
                "[steps.t{i}]\nuses = 'command'\nrun = '''{script}'''\n\
                 inputs = {{ {} }}\noutputs = {{ out = '{out}' }}\n\n",
                wires.join(", ")
            );
        }
        self.space.pipeline(&text);
    }

    fn output(&self, step: usize) -> String {
        let name = match self.steps[step].op {
            Op::Folder => "out",
            _ => "out.txt",
        };
        format!("cache/out/main/t{step}/{name}")
    }

    fn apply(&mut self, action: &Action) {
        match action {
            Action::Write { source: at, text } => {
                self.sources[*at] = TEXTS[*text].to_owned();
                self.space.write(&source(*at), TEXTS[*text]);
            }
            Action::Touch { source: at } => {
                self.space.write(&source(*at), &self.sources[*at]);
            }
            Action::PutInFolder { name, text } => {
                let name = ["a", "b", "c"][*name];
                self.folder.insert(name.to_owned(), TEXTS[*text].to_owned());
                let path = format!("data/folder/{name}");
                self.space.write(&path, TEXTS[*text]);
            }
            Action::TakeFromFolder { name } => {
                let name = ["b", "c"][*name];
                if self.folder.remove(name).is_some() {
                    self.space.remove(&format!("data/folder/{name}"));
                }
            }
            Action::Change { step, work } => {
                let at = step % self.steps.len();
                self.steps[at] = work.clone();
            }
            Action::Add { work } => self.steps.push(work.clone()),
            Action::RemoveLast if self.steps.len() > 1 => drop(self.steps.pop()),
            Action::RemoveLast => {}
            Action::EditOutput { step } => self.edit_output(step % self.steps.len()),
            Action::RemoveOutput { step } => {
                let path = self.output(step % self.steps.len());
                if self.space.exists(&path) {
                    self.space.remove(&path);
                }
            }
            Action::RemoveAllOutputs => self.remove(&["out"]),
            Action::RemoveShortcuts => self.remove(&["stat", "graphs", "snapshots", "hub"]),
            Action::Flip { file, byte } => self.damage(*file, *byte, |bytes, at| bytes[at] ^= 0x11),
            Action::Cut { file, byte } => self.damage(*file, *byte, |bytes, at| bytes.truncate(at)),
            Action::RemoveObject { file } => {
                let objects = files(&self.space.path("cache/objects"));
                if let Some(object) = share(&objects, *file) {
                    fs::remove_file(object).unwrap();
                    self.damaged = true;
                }
            }
            Action::Build => self.build(),
            Action::Killed { millis } => self.killed(*millis),
            Action::TwoBuilds => self.two_builds(),
        }
    }

    fn edit_output(&self, step: usize) {
        let path = match self.steps[step].op {
            Op::Folder => self.output(step) + "/more",
            _ => self.output(step),
        };
        if self.space.exists(&self.output(step)) {
            self.space.write(&path, "edited\n");
        }
    }

    fn remove(&self, names: &[&str]) {
        for name in names {
            let path = format!("cache/{name}");
            if self.space.exists(&path) {
                self.space.remove(&path);
            }
        }
    }

    fn damage(&mut self, file: u16, byte: u16, spoil: impl FnOnce(&mut Vec<u8>, usize)) {
        let mut found = files(&self.space.path("cache"));
        found.retain(|path| !path.ends_with("lock"));
        let Some(path) = share(&found, file) else {
            return;
        };
        let mut bytes = fs::read(path).unwrap();
        if bytes.is_empty() {
            return;
        }
        let at = usize::from(byte) * bytes.len() / (usize::from(u16::MAX) + 1);
        spoil(&mut bytes, at);
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(path, bytes).unwrap();
        self.damaged = true;
    }

    /// Builds; everything must be as the model has it.
    fn build(&mut self) {
        self.write_pipeline();
        self.space.ran();
        let mut run = self.space.build(&[]);
        if self.damaged && run.code == Some(5) {
            run = self.without_the_damaged_file(run);
        }
        assert_eq!(run.code, Some(0), "{run}");
        self.check(&run);
    }

    /// A damaged head may look like that of a newer program, whose files are
    /// not touched: the user has to say that it may go.
    fn without_the_damaged_file(&self, run: Run) -> Run {
        assert!(run.err.contains("was written by a newer retune"), "{run}");
        self.remove(&["journal"]);
        self.space.build(&[])
    }

    fn killed(&mut self, millis: u64) {
        self.write_pipeline();
        let running = self.space.start(&["build"]);
        std::thread::sleep(Duration::from_millis(millis));
        running.signal(Signal::KILL);
        running.end();
        self.space.wait_until_idle();
        let (_, keys) = self.values();
        self.perhaps.extend(keys);
    }

    fn two_builds(&mut self) {
        self.write_pipeline();
        self.space.ran();
        let other = self.space.start(&["build"]);
        let run = self.space.build(&[]);
        let other = other.end();
        if !self.damaged {
            assert_eq!((run.code, other.code), (Some(0), Some(0)), "{run}\n{other}");
        }
        if run.code == Some(0) && other.code == Some(0) {
            self.check(&run);
        }
    }

    fn check(&mut self, run: &Run) {
        let (values, keys) = self.values();
        for (i, expected) in values[SOURCES + 1..].iter().enumerate() {
            let found = self.read(i);
            assert_eq!(&found, expected, "step t{i}\n{run}");
        }
        self.check_what_ran(&keys, run);
        self.built.extend(keys);
        self.perhaps.clear();
    }

    /// Exactly what was never built before, in any state of the project, ran.
    fn check_what_ran(&self, keys: &[Key], run: &Run) {
        let ran = self.space.ran();
        if self.damaged {
            return;
        }
        let new = |(_, key): &(usize, &Key)| !self.built.contains(*key);
        let steps = keys.iter().enumerate().filter(new);
        let may: BTreeSet<String> = steps.clone().map(|(i, _)| format!("t{i}")).collect();
        let must = steps.filter(|(_, key)| !self.perhaps.contains(*key));
        let must: BTreeSet<String> = must.map(|(i, _)| format!("t{i}")).collect();
        let once: BTreeSet<String> = ran.iter().cloned().collect();
        assert_eq!(once.len(), ran.len(), "a step ran twice: {ran:?}\n{run}");
        assert!(once.is_subset(&may), "ran {once:?}, new {may:?}\n{run}");
        assert!(must.is_subset(&once), "ran {once:?}, new {must:?}\n{run}");
    }

    fn read(&self, step: usize) -> Value {
        let path = self.space.path(&self.output(step));
        let text = |path| fs::read_to_string(path).unwrap();
        if !path.is_dir() {
            return Value::File(text(path));
        }
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
        Value::Folder(
            entries
                .map(|e| (e.file_name().into_string().unwrap(), text(e.path())))
                .collect(),
        )
    }

    /// The end of a history: nothing is left to do, nothing is wrong, and a
    /// build from nothing comes to the same lock file.
    fn finish(&mut self) {
        self.build();
        let plan = self.space.retune(&["plan", "--check"]);
        assert_eq!(plan.code, Some(0), "{plan}");
        if !self.damaged {
            let verify = self.space.retune(&["verify"]);
            assert_eq!(verify.code, Some(0), "{verify}");
        }
        let lock = self.space.read("pipelines/main.lock");
        self.space.remove("cache");
        self.space.remove("pipelines/main.lock");
        self.space.built(&[]);
        assert_eq!(self.space.read("pipelines/main.lock"), lock);
    }
}

impl Work {
    /// Which of `n` things it reads, each once.
    fn inputs(&self, n: usize) -> Vec<usize> {
        let mut seen = BTreeSet::new();
        let inputs = self.inputs.iter().map(|at| at % n);
        inputs.filter(|at| seen.insert(*at)).collect()
    }

    fn script(&self, i: usize, values: &[Value]) -> String {
        let inputs = self.inputs(SOURCES + 1 + i);
        let operands = inputs.iter().enumerate();
        let operands: Vec<String> = operands
            .map(|(n, &at)| values[at].operand(&format!("i{n}")))
            .collect();
        let all = operands.join(" ");
        let does = match self.op {
            Op::Cat => format!("cat {all} > out.txt"),
            Op::Head => format!("cat {all} | head -n 1 > out.txt"),
            Op::Count => format!("cat {all} | grep -c ^ > out.txt || true"),
            Op::Folder => {
                let each = operands.iter().enumerate();
                let each: Vec<String> = each
                    .map(|(n, operand)| format!("cat {operand} > out/i{n}"))
                    .collect();
                format!("mkdir out && {}", each.join(" && "))
            }
        };
        format!("echo t{i} >> RUNS && {does}")
    }

    fn result(&self, inputs: &[usize], values: &[Value]) -> Value {
        let texts: Vec<String> = inputs.iter().map(|&at| values[at].text()).collect();
        let all = texts.concat();
        match self.op {
            Op::Cat => Value::File(all),
            Op::Head => Value::File(all.split_inclusive('\n').take(1).collect()),
            Op::Count => Value::File(format!("{}\n", all.lines().count())),
            Op::Folder => Value::Folder(
                texts
                    .into_iter()
                    .enumerate()
                    .map(|(n, text)| (format!("i{n}"), text))
                    .collect(),
            ),
        }
    }
}

fn source(i: usize) -> String {
    format!("data/s{i}.txt")
}

/// What the pipeline file writes for a thing.
fn wire(at: usize) -> String {
    match at {
        0 => "data/folder".to_owned(),
        at if at <= SOURCES => source(at - 1),
        at => format!("@t{}", at - SOURCES - 1),
    }
}

/// The file name that a step sees of a thing; of outputs it follows from the shape.
fn visible(at: usize) -> String {
    match at {
        at if at <= SOURCES => wire(at),
        _ => String::new(),
    }
}

fn share<T>(all: &[T], share: u16) -> Option<&T> {
    all.get(usize::from(share) * all.len() / (usize::from(u16::MAX) + 1))
}

fn work() -> impl Strategy<Value = Work> {
    let op = prop_oneof![
        3 => Just(Op::Cat),
        3 => Just(Op::Head),
        1 => Just(Op::Count),
        2 => Just(Op::Folder),
    ];
    let inputs = prop::collection::vec(0usize..100, 1..4);
    (op, inputs).prop_map(|(op, inputs)| Work { op, inputs })
}

fn action() -> impl Strategy<Value = Action> {
    let (source, text) = (0..SOURCES, 0..TEXTS.len());
    prop_oneof![
        4 => (source.clone(), text.clone())
            .prop_map(|(source, text)| Action::Write { source, text }),
        1 => source.prop_map(|source| Action::Touch { source }),
        2 => (0usize..3, text).prop_map(|(name, text)| Action::PutInFolder { name, text }),
        1 => (0usize..2).prop_map(|name| Action::TakeFromFolder { name }),
        2 => (0usize..10, work()).prop_map(|(step, work)| Action::Change { step, work }),
        1 => work().prop_map(|work| Action::Add { work }),
        1 => Just(Action::RemoveLast),
        1 => (0usize..10).prop_map(|step| Action::EditOutput { step }),
        1 => (0usize..10).prop_map(|step| Action::RemoveOutput { step }),
        1 => Just(Action::RemoveAllOutputs),
        1 => Just(Action::RemoveShortcuts),
        6 => Just(Action::Build),
        3 => (0u64..150).prop_map(|millis| Action::Killed { millis }),
        1 => Just(Action::TwoBuilds),
    ]
}

fn damage() -> impl Strategy<Value = Action> {
    prop_oneof![
        (any::<u16>(), any::<u16>()).prop_map(|(file, byte)| Action::Flip { file, byte }),
        (any::<u16>(), any::<u16>()).prop_map(|(file, byte)| Action::Cut { file, byte }),
        any::<u16>().prop_map(|file| Action::RemoveObject { file }),
    ]
}

fn check(actions: impl Strategy<Value = Action>) {
    let cases = std::env::var("RETUNE_MODEL_CASES").ok();
    let cases = cases.map_or(12, |n| n.parse().expect("a number"));
    let config = Config {
        failure_persistence: None,
        max_shrink_iters: 64,
        ..Config::with_cases(cases)
    };
    let steps = prop::collection::vec(work(), 1..7);
    let history = (steps, prop::collection::vec(actions, 4..16));
    let tried = TestRunner::new(config).run(&history, |(steps, actions)| {
        let mut model = Model::new(steps);
        actions.iter().for_each(|action| model.apply(action));
        model.finish();
        Ok(())
    });
    if let Err(error) = tried {
        panic!("{error}");
    }
}

#[test]
fn any_history_of_edits_kills_and_reruns_comes_to_the_same_as_a_clean_build() {
    check(action());
}

#[test]
fn a_damaged_store_costs_reruns_but_never_a_wrong_result() {
    check(prop_oneof![4 => action(), 1 => damage()]);
}
