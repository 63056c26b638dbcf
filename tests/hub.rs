//! Inputs from the Hub: fetched once from a server that speaks its protocol, and not asked for again.

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

/// A Hub with one dataset of one file; what it was asked is in `asked`.
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
    let headers = "X-Error-Code: RepoNotFound\r\n".to_owned();
    ("404 Not Found", headers, "{\"error\":\"no\"}".to_owned())
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
    let run = space.build_with(&[], hub.prepare(&space));
    assert_eq!((run.code, run.total("up_to_date")), (Some(0), 1), "{run}");
    assert_eq!(
        hub.asked(),
        Vec::<String>::new(),
        "the second build asks nobody"
    );
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
