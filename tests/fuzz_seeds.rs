//! Replays the seeds of the fuzz targets, and every prefix and many a flipped byte of it.

use std::fs;
use std::path::Path;

#[path = "../fuzz/checks.rs"]
mod checks;

/// Runs a check over the seeds files of a target, whole and damaged.
fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let mut files = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        files += 1;
        check(&bytes);
        let step = (bytes.len() / 40).max(1);
        for at in (0..bytes.len()).step_by(step) {
            check(&bytes[..at]);
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            check(&flipped);
        }
    }
    assert!(files > 0, "no seeds in {}", folder.display());
}

#[test]
fn pipeline_files() {
    replay("pipeline", checks::pipeline);
}

#[test]
fn journals() {
    replay("journal", checks::journal);
}

#[test]
fn lock_files() {
    replay("lock", checks::lock);
}
