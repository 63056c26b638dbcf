//! Inputs and models from the Hub: fetched once from a server that speaks its protocol, and not asked for again.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use support::Space;

const PIPELINE: &str = r#"
[steps.rows]
uses = "data.import"
files = ["hf://datasets/alice/rows@v1/train.jsonl"]
schema = "text"
"#;

const ROWS: &str = "{\"text\":\"one\"}\n{\"text\":\"two\"}\n";
const COMMIT: &str = "0123456789012345678901234567890123456789";

const FETCH: &str = r#"
[steps.base]
uses = "model.fetch"
repo = "alice/tiny"
revision = "0123456789012345678901234567890123456789"
"#;

const INDEX: &str = r#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;

/// The files of the model `alice/tiny`; nobody looks into most of them.
const MODEL: [(&str, &str); 10] = [
    ("README.md", "# Tiny"),
    ("config.json", "{\"model_type\":\"llama\"}"),
    ("generation_config.json", "{}"),
    ("model-00001-of-00002.safetensors", "first"),
    ("model-00002-of-00002.safetensors", "second"),
    ("model.safetensors.index.json", INDEX),
    ("original/model-00001-of-00002.safetensors", "another"),
    ("pytorch_model.bin", "a pickle"),
    ("tokenizer.json", "{\"model\":{}}"),
    ("tokenizer_config.json", "{}"),
];

/// A Hub with one dataset of one file and one model; what it was asked is in `asked`.
struct Hub {
    endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = Arc::clone(&log);
                std::thread::spawn(move || serve(stream, &log));
            }
        });
        Hub { endpoint, asked }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn prepare(&self, space: &Space) -> impl FnOnce(&mut Command) {
        let (endpoint, home) = (self.endpoint.clone(), space.outside("hf"));
        move |command| {
            command.env("HF_ENDPOINT", endpoint).env("HF_HOME", home);
        }
    }
}

/// Answers one request and closes the connection.
fn serve(mut stream: TcpStream, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(request)) = lines.next() else {
        return;
    };
    // The rest of the head; none of these requests has a body.
    while lines
        .next()
        .is_some_and(|line| line.is_ok_and(|l| !l.is_empty()))
    {}
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    log.lock().unwrap().push(format!("{method} {path}"));
    let (status, headers, body) = answer(path);
    let length = body.len();
    let body = if method == "HEAD" { "" } else { &body };
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
}

fn answer(path: &str) -> (&'static str, String, String) {
    let path = path.split('?').next().unwrap();
    let json = "Content-Type: application/json\r\n".to_owned();
    // A git object id, which the client takes for an ETag and does not check.
    let oid = "89d5e3a1bd1b4a3e0a3b8d2c1f0e9d8c7b6a5f4e";
    if path.starts_with("/api/datasets/alice/rows/tree/") {
        let size = ROWS.len();
        let file = format!(
            "[{{\"type\":\"file\",\"oid\":\"{oid}\",\"size\":{size},\"path\":\"train.jsonl\"}}]"
        );
        return ("200 OK", json, file);
    }
    if path == "/api/datasets/alice/rows/revision/v1" {
        let info = format!(
            "{{\"id\":\"alice/rows\",\"sha\":\"{COMMIT}\",\"private\":false,\"gated\":false,\
             \"tags\":[],\"downloads\":0,\"likes\":0,\"author\":\"alice\",\
             \"siblings\":[{{\"rfilename\":\"train.jsonl\"}}]}}"
        );
        return ("200 OK", json, info);
    }
    if path == format!("/datasets/alice/rows/resolve/{COMMIT}/train.jsonl") {
        let headers = format!("X-Repo-Commit: {COMMIT}\r\nETag: \"{oid}\"\r\n");
        return ("200 OK", headers, ROWS.to_owned());
    }
    if let Some(found) = model(path, &json, oid) {
        return found;
    }
    let headers = "X-Error-Code: RepoNotFound\r\n".to_owned();
    ("404 Not Found", headers, "{\"error\":\"no\"}".to_owned())
}

/// What the Hub says of `alice/tiny`, and of `alice/pickled`, which has no safetensors.
fn model(path: &str, json: &str, oid: &str) -> Option<(&'static str, String, String)> {
    let name = ["tiny", "pickled"]
        .into_iter()
        .find(|name| path.contains(&format!("alice/{name}/")))?;
    let has = |file: &str| name == "tiny" || !file.contains("safetensors");
    let files = || MODEL.iter().filter(|(file, _)| has(file));
    let list = |entry: &dyn Fn(&str, &str) -> String| {
        let entries: Vec<String> = files().map(|(file, text)| entry(file, text)).collect();
        format!("[{}]", entries.join(","))
    };
    if path.starts_with(&format!("/api/models/alice/{name}/tree/")) {
        let list = list(&|file, text| {
            let size = text.len();
            format!("{{\"type\":\"file\",\"oid\":\"{oid}\",\"size\":{size},\"path\":\"{file}\"}}")
        });
        return Some(("200 OK", json.to_owned(), list));
    }
    if path == format!("/api/models/alice/{name}/revision/{COMMIT}") {
        let siblings = list(&|file, _| format!("{{\"rfilename\":\"{file}\"}}"));
        let info = format!(
            "{{\"id\":\"alice/{name}\",\"sha\":\"{COMMIT}\",\"private\":false,\"gated\":false,\
             \"tags\":[],\"downloads\":0,\"likes\":0,\"author\":\"alice\",\"siblings\":{siblings}}}"
        );
        return Some(("200 OK", json.to_owned(), info));
    }
    let file = path.strip_prefix(&format!("/alice/{name}/resolve/{COMMIT}/"))?;
    let (_, text) = files().find(|(name, _)| *name == file)?;
    // An ETag of its own: the client keeps content by it.
    let etag: String = file.bytes().map(|b| format!("{b:02x}")).collect();
    let headers = format!("X-Repo-Commit: {COMMIT}\r\nETag: \"{etag}\"\r\n");
    Some(("200 OK", headers, (*text).to_owned()))
}

#[test]
fn a_model_is_fetched_with_what_training_needs_and_no_more() {
    let hub = Hub::start();
    let space = Space::new(FETCH);
    let run = space.build_with(&[], hub.prepare(&space));
    assert_eq!(run.steps("step-finished"), ["base"], "{run}");
    let names = |folder: &str| -> Vec<String> {
        let folder = space.path(&format!("cache/out/main/base/{folder}"));
        let entries = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap());
        let mut names: Vec<String> = entries
            .map(|e| e.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names("tokenizer"),
        ["tokenizer.json", "tokenizer_config.json"]
    );
    assert_eq!(
        names("model"),
        [
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "retune.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
    );
    let first = "cache/out/main/base/model/model-00001-of-00002.safetensors";
    assert_eq!(space.read(first), "first");
    let origin = space.read("cache/out/main/base/model/retune.json");
    assert!(
        origin.contains("\"repo\": \"alice/tiny\"") && origin.contains(COMMIT),
        "{origin}"
    );
    let asked = hub.asked();
    let other = |line: &&String| {
        ["README", "pytorch", "original"]
            .iter()
            .any(|name| line.contains(name))
    };
    assert_eq!(asked.iter().find(other), None, "only what is needed");
    the_next_build_asks_nobody(&space, &hub);
}

fn the_next_build_asks_nobody(space: &Space, hub: &Hub) {
    let run = space.build_with(&[], hub.prepare(space));
    assert_eq!((run.code, run.total("up_to_date")), (Some(0), 1), "{run}");
    assert_eq!(
        hub.asked(),
        Vec::<String>::new(),
        "the second build asks nobody"
    );
}

#[test]
fn a_model_needs_a_commit_and_safetensors() {
    let hub = Hub::start();
    let space = Space::new(FETCH);
    space.edit("alice/tiny", "alice/pickled");
    let run = space.build_with(&[], hub.prepare(&space));
    assert_eq!(
        (run.code, run.steps("step-failed")),
        (Some(1), vec!["base"]),
        "{run}"
    );
    assert!(
        run.err.contains("has no model.safetensors at 0123456789"),
        "{run}"
    );
    space.edit("alice/pickled", "alice/nothing");
    let run = space.build_with(&[], hub.prepare(&space));
    assert_eq!(run.code, Some(1), "{run}");
    assert!(
        run.err
            .contains("did not give hf://alice/nothing@0123456789"),
        "{run}"
    );
    space.edit(COMMIT, "main");
    let run = space.build_with(&[], hub.prepare(&space));
    assert_ne!(run.code, Some(0), "{run}");
    assert!(run.err.contains("'revision' must be a commit"), "{run}");
}

#[test]
fn a_pinned_file_is_fetched_once() {
    let hub = Hub::start();
    let space = Space::new(PIPELINE);
    let run = space.build_with(&[], hub.prepare(&space));
    assert_eq!(run.steps("step-finished"), ["rows"], "{run}");
    assert!(
        space
            .read("cache/out/main/rows/rows.jsonl")
            .contains("\"text\":\"two\"")
    );
    let asked = hub.asked();
    assert!(
        asked.iter().any(|line| line.starts_with("GET /datasets/")),
        "{asked:?}"
    );
    assert!(
        space
            .read("pipelines/main.lock")
            .contains("hf://datasets/alice/rows@v1/train.jsonl")
    );
    the_next_build_asks_nobody(&space, &hub);
}

#[test]
fn a_plan_fetches_nothing() {
    let hub = Hub::start();
    let space = Space::new(PIPELINE);
    let mut command = space.command(&["plan"]);
    hub.prepare(&space)(&mut command);
    let output = command.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("has not been fetched yet"));
    assert_eq!(hub.asked(), Vec::<String>::new());
}

#[test]
fn what_the_hub_does_not_have_fails_the_step() {
    let hub = Hub::start();
    let space = Space::new(PIPELINE);
    space.edit("alice/rows", "alice/nothing");
    let run = space.build_with(&[], hub.prepare(&space));
    assert_eq!(
        (run.code, run.steps("step-failed")),
        (Some(1), vec!["rows"]),
        "{run}"
    );
    assert!(
        run.err
            .contains("hf://datasets/alice/nothing@v1/train.jsonl"),
        "{run}"
    );
}

#[test]
fn a_hub_that_does_not_answer_holds_up_nothing_else_and_can_be_interrupted() {
    let space = Space::new(&format!(
        "{PIPELINE}\n[steps.other]\nuses = 'command'\nrun = 'echo x > x'\n\
         outputs = {{ x = 'x' }}\n"
    ));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let home = space.outside("hf");
    let running = space.start_with(&["build", "--grace", "300"], |command| {
        command.env("HF_ENDPOINT", endpoint).env("HF_HOME", home);
    });
    // Asked, and never answered.
    let (_silent, _) = listener.accept().unwrap();
    let finished = running.wait_for("step-finished", 1);
    assert_eq!(finished["step"], "other");
    running.signal(Signal::INT);
    let run = running.end();
    assert_eq!((run.code, run.total("cancelled")), (Some(130), 1), "{run}");
}
