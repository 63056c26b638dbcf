//! A full disk at every write of a build: it is said, nothing counts that is not whole, and the next build goes on.
//!
//! The writes fail through `strace`, which makes the n-th call of a kind fail;
//! a small file system in memory fails by itself. Each test says so and passes
//! where the machine lets it do neither.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use retune::hash::Digest;
use support::{Run, Space, has_strace, program, results};

const PIPELINE: &str = r#"
[steps.rows]
uses = "data.import"
files = ["data/rows.jsonl"]
schema = "text"

[steps.folder]
uses = "command"
run = "mkdir d && cat ${inputs.rows} > d/one && head -c 3000 /dev/zero > d/two"
inputs = { rows = "@rows" }
outputs = { d = "d/" }

[steps.end]
uses = "command"
run = "cat ${inputs.d}/* > all && wc -c < all > end.txt"
inputs = { d = "@folder" }
outputs = { end = "end.txt" }
"#;

/// The calls by which something gets onto a disk.
const CALLS: [&str; 5] = [
    "write,pwrite64,writev,copy_file_range,sendfile",
    "openat,creat",
    "rename,renameat,renameat2,link,linkat",
    "mkdir,mkdirat",
    "fsync,fdatasync,syncfs,ftruncate",
];

fn space() -> Space {
    let space = Space::new(PIPELINE);
    space.write("data/rows.jsonl", "{\"text\": \"row\"}\n");
    space
}

/// A build in which the n-th of some calls says that the disk is full, in each
/// thread of the driver. None when the build made fewer of them.
fn build_with_a_full_disk(space: &Space, calls: &str, n: usize) -> Option<Run> {
    let log = space.outside("strace");
    let mut command = Command::new("strace");
    command.args(["-f", "--quiet=all", "-o"]).arg(&log);
    command.arg("-e").arg(format!("trace={calls}"));
    // Only files that are opened for writing can be refused for want of room.
    command
        .arg("-e")
        .arg(format!("inject={calls}:error=ENOSPC:when={n}"));
    command
        .arg(program())
        .arg("build")
        .current_dir(space.path(""));
    command.env_clear().stdin(Stdio::null());
    for name in ["PATH", "HOME"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    let run = Run::of(&mut command);
    let log = fs::read_to_string(&log).unwrap();
    log.contains("INJECTED").then_some(run)
}

fn undisturbed() -> BTreeMap<String, Digest> {
    let space = space();
    space.built(&[]);
    results(&space)
}

/// After whatever went wrong: what is there is right, and a build completes it.
fn recovers(space: &Space, wanted: &BTreeMap<String, Digest>, after: &str) {
    let run = space.build(&[]);
    assert_eq!(run.code, Some(0), "after {after}: {run}");
    assert_eq!(&results(space), wanted, "after {after}");
    let verify = space.retune(&["verify"]);
    assert_eq!(verify.code, Some(0), "after {after}: {verify}");
}

#[test]
fn at_every_write_of_a_build() {
    if !has_strace() {
        return;
    }
    let wanted = undisturbed();
    for calls in CALLS {
        let mut failed = 0;
        // Opening fails so early and so often that each place is a case of its own.
        for n in 1..200 {
            let space = space();
            let Some(run) = build_with_a_full_disk(&space, calls, n) else {
                break;
            };
            assert_ne!(run.code, None, "{calls} {n}: {run}");
            assert!(!run.err.contains("panicked"), "{calls} {n}: {run}");
            match run.code {
                // The call was one that may fail, such as that for a log.
                Some(0) => assert_eq!(results(&space), wanted, "{calls} {n}: {run}"),
                _ => {
                    failed += 1;
                    assert!(run.err.contains("error"), "{calls} {n}: {run}");
                }
            }
            recovers(&space, &wanted, &format!("{calls} {n}"));
        }
        assert!(failed > 0, "no build failed for {calls}");
    }
}

#[test]
fn a_small_file_system_that_fills_up() {
    let wanted = undisturbed();
    for size in ["24k", "40k", "64k", "96k", "128k", "192k"] {
        let space = space();
        fs::create_dir(space.path("cache")).unwrap();
        let cache = space.path("cache");
        let Some(mount) = Mount::tmpfs(&cache, size) else {
            return;
        };
        let run = space.build(&[]);
        assert!(!run.err.contains("panicked"), "{size}: {run}");
        if run.code != Some(0) {
            // A program that fails for want of room may have none to say so in its log.
            let lost = run
                .err
                .contains("its log could not be kept: no space is left on");
            let said = run.err.contains("No space left on device");
            assert!(said || lost, "{size}: {run}");
            assert!(!lost || run.err.contains("hint: "), "{size}: {run}");
        }
        mount.grow("16m");
        recovers(&space, &wanted, size);
    }
}

/// The journal may grow no further than into the middle of a record.
#[test]
fn a_journal_that_reaches_the_limit_of_a_files_size() {
    let space = space();
    for n in 0..40 {
        space.write("data/rows.jsonl", &format!("{{\"text\": \"row {n}\"}}\n"));
        space.built(&[]);
    }
    let wanted = results(&space);
    for more in [20, 130, 250, 400] {
        let length = fs::metadata(space.path("cache/journal")).unwrap().len();
        let row = format!("{{\"text\": \"{more} more\"}}\n");
        space.write("data/rows.jsonl", &row);
        let script = "trap '' XFSZ; exec prlimit --fsize=\"$0\" \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, &(length + more).to_string()]);
        command.arg(program()).arg("build");
        command.current_dir(space.path("")).stdin(Stdio::null());
        let run = Run::of(&mut command);
        assert_eq!(run.code, Some(5), "{more}: {run}");
        assert!(run.err.contains("cache/journal"), "{more}: {run}");
        // Nothing torn is left, and what was there before is whole.
        space.write("data/rows.jsonl", "{\"text\": \"row 39\"}\n");
        let run = space.built(&[]);
        assert!(!run.err.contains("damaged"), "{more}: {run}");
        assert_eq!(results(&space), wanted, "{more}");
    }
}

/// A file system that goes with the test.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn tmpfs(at: &'a Path, size: &str) -> Option<Self> {
        let size = format!("size={size}");
        let mount = ["-t", "tmpfs", "-o", &size, "tmpfs"];
        let done = Command::new("mount").args(mount).arg(at).output();
        if done.is_ok_and(|output| output.status.success()) {
            return Some(Mount(at));
        }
        println!("skipped: a file system can only be mounted by root");
        None
    }

    fn grow(&self, size: &str) {
        let size = format!("remount,size={size}");
        let done = Command::new("mount")
            .args(["-o", &size])
            .arg(self.0)
            .status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}
