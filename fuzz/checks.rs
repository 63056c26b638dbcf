//! What must hold for any bytes: shared by the fuzz targets and by the test that replays their seeds.

#![allow(dead_code, reason = "each target uses one of these")]

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use retune::graph::Graph;
use retune::hash::Digest;
use retune::pipeline::{Overrides, Source};
use retune::record::{Lock, LockError};
use retune::step::Registry;
use retune::store::journal::Journal;
use retune::store::{Entry, Key, Note, StepRef};

thread_local! {
    static REGISTRY: Registry = retune::ops::registry();
    static FILE: RefCell<Option<(tempfile::TempDir, PathBuf)>> = const { RefCell::new(None) };
}

/// A file that holds `bytes`, in memory where the system has a place for that.
fn file(bytes: &[u8]) -> PathBuf {
    FILE.with_borrow_mut(|file| {
        let (_, path) = file.get_or_insert_with(|| {
            let memory = std::path::Path::new("/dev/shm");
            let folder = match memory.is_dir() {
                true => tempfile::tempdir_in(memory),
                false => tempfile::tempdir(),
            };
            let folder = folder.expect("a temporary folder");
            let path = folder.path().join("file");
            (folder, path)
        });
        fs::write(&*path, bytes).expect("the temporary folder can be written to");
        path.clone()
    })
}

/// A pipeline file is a graph or a report with places in the text; the same twice.
pub fn pipeline(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let load = || {
        let source = Source {
            path: "pipelines/fuzz.toml".to_owned(),
            text: text.to_owned(),
        };
        REGISTRY.with(|registry| Graph::load(source, &Overrides::default(), registry))
    };
    match (load(), load()) {
        (Ok((graph, warnings)), Ok((again, _))) => {
            assert_eq!(graph, again);
            warnings.render(false);
            let order = graph.order();
            assert_eq!(order.len(), graph.nodes.len(), "every step has its place");
        }
        (Err(faults), Err(again)) => {
            assert!(faults.errors() > 0, "refused without a reason");
            for fault in &faults.list {
                let spans = fault
                    .span
                    .iter()
                    .chain(fault.also.iter().map(|(span, _)| span));
                for span in spans {
                    assert!(
                        text.get(span.clone()).is_some(),
                        "{span:?} is not in the text"
                    );
                }
            }
            assert_eq!(faults.render(false), again.render(false));
            faults.render(true);
        }
        _ => panic!("accepted once and refused once"),
    }
}

/// Opening a journal mends it: what is appended afterwards is there, nothing
/// more is cut, and looking at it says the same as opening it.
pub fn journal(bytes: &[u8]) {
    let path = file(bytes);
    let looked = Journal::read(&path);
    let Ok(mut opened) = Journal::open(&path) else {
        assert!(looked.is_err(), "can be looked at, but not opened");
        assert_eq!(fs::read(&path).unwrap(), bytes, "refused and yet changed");
        return;
    };
    let looked = looked.expect("what can be opened can be looked at");
    let entries = |index: &retune::store::Index| {
        let mut all: Vec<_> = index.entries().map(|(k, e)| (*k, e)).collect();
        all.sort_by_key(|(key, _)| *key);
        all
    };
    assert_eq!(entries(&looked), entries(&opened.index));
    let step = StepRef {
        pipeline: "p".to_owned(),
        step: "s".to_owned(),
    };
    let (key, record) = (Key(Digest::of(b"key")), Digest::of(b"record"));
    let entry = Entry {
        outputs: Vec::new(),
        record,
        millis: 1,
    };
    let note = Note::Finished(step, key, entry.clone());
    opened.journal.append(&[note]).unwrap();
    let again = Journal::open(&path).unwrap();
    assert_eq!(again.cut, 0, "a mended journal needs no mending");
    assert_eq!(again.index.entry(&key), Some(entry));
    assert_eq!(again.index.step("p", "s").unwrap().current, Some(key));
}

/// A lock file that can be read comes out of writing and reading as it was.
pub fn lock(bytes: &[u8]) {
    let path = file(bytes);
    match Lock::read(&path) {
        Ok(Some(lock)) => {
            fs::write(&path, lock.to_text()).unwrap();
            let again = Lock::read(&path).unwrap();
            assert_eq!(again, Some(lock));
        }
        Ok(None) => panic!("the file is there"),
        Err(LockError::File(error)) => {
            assert!(std::str::from_utf8(bytes).is_err(), "{error}");
        }
        Err(error) => drop(error.to_string()),
    }
}
