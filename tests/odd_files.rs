//! Files as users really have them: links that lead nowhere, sockets, strange names, holes, coarse clocks, no rights, and changes at the wrong moment.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use support::{Run, Space};

/// A step that lists a folder's files with their sizes.
const LIST: &str = r#"
[steps.list]
uses = "command"
run = "echo list >> RUNS; cd ${inputs.d} && find . -type f | LC_ALL=C sort | xargs -d '\n' cat > $OLDPWD/list.txt"
inputs = { d = "data/d" }
outputs = { list = "list.txt" }
"#;

const OUT: &str = "cache/out/main/list/list.txt";
const NOTHING: [&str; 0] = [];

fn space() -> Space {
    let space = Space::new(LIST);
    space.write("data/d/a", "a\n");
    space
}

/// The build fails with this in its message, and works once `mend` was called.
#[track_caller]
fn refused(space: &Space, words: &str, mend: impl FnOnce()) {
    let run = space.build(&[]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(run.err.contains(words), "{words}: {run}");
    assert!(run.err.contains("list"), "the step is named: {run}");
    assert_eq!(space.ran(), NOTHING, "nothing ran on half an input");
    mend();
    assert_eq!(space.rerun(), ["list"]);
}

#[test]
fn a_link_that_leads_nowhere_is_said() {
    let space = space();
    symlink("nowhere", space.path("data/d/link")).unwrap();
    refused(&space, "data/d/link", || space.remove("data/d/link"));
}

#[test]
fn links_that_lead_to_each_other_are_said() {
    let space = space();
    symlink("two", space.path("data/d/one")).unwrap();
    symlink("one", space.path("data/d/two")).unwrap();
    refused(&space, "data/d/one", || {
        fs::remove_file(space.path("data/d/one")).unwrap();
        fs::remove_file(space.path("data/d/two")).unwrap();
    });
}

#[test]
fn a_link_to_a_folder_above_is_said() {
    let space = space();
    symlink("..", space.path("data/d/up")).unwrap();
    refused(&space, "leads back to a folder that holds it", || {
        fs::remove_file(space.path("data/d/up")).unwrap();
    });
}

#[test]
fn sockets_and_pipes_are_said_and_not_waited_for() {
    let space = space();
    let socket = UnixListener::bind(space.path("data/d/socket")).unwrap();
    refused(
        &space,
        "data/d/socket is neither a file nor a folder",
        || {
            drop(socket);
            fs::remove_file(space.path("data/d/socket")).unwrap();
        },
    );
    let made = Command::new("mkfifo")
        .arg(space.path("data/d/pipe"))
        .status();
    assert!(made.unwrap().success());
    space.write("data/d/a", "other\n");
    refused(&space, "data/d/pipe is neither a file nor a folder", || {
        fs::remove_file(space.path("data/d/pipe")).unwrap();
    });
}

#[test]
fn a_link_to_a_file_counts_by_what_it_leads_to() {
    let space = space();
    space.write("elsewhere", "one\n");
    symlink(space.path("elsewhere"), space.path("data/d/link")).unwrap();
    space.edit("-type f", "-not -type d");
    assert_eq!(space.rerun(), ["list"]);
    assert_eq!(space.read(OUT), "a\none\n");
    space.write("elsewhere", "two\n");
    assert_eq!(space.rerun(), ["list"]);
    assert_eq!(space.read(OUT), "a\ntwo\n");
    assert_eq!(space.rerun(), NOTHING);
}

#[test]
fn any_name_that_the_system_allows_is_fine_in_an_input_folder() {
    let space = space();
    let long = "n".repeat(255);
    let names: [&[u8]; 6] = [
        b"not utf-8 \xff\xfe",
        long.as_bytes(),
        b" leading space",
        b"-rf",
        "ä/日本語".as_bytes(),
        b"quote'\"$`;&|*?",
    ];
    let folder = space.path("data/d");
    for name in names {
        let path = folder.join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, name).unwrap();
        assert_eq!(space.rerun(), ["list"], "{}", path.display());
        assert_eq!(space.rerun(), NOTHING, "{}", path.display());
        fs::write(&path, "changed").unwrap();
        assert_eq!(space.rerun(), ["list"], "{}", path.display());
    }
    for verb in [&["verify"][..], &["plan", "--json"], &["why", "list"]] {
        let run = space.retune(verb);
        assert_eq!(run.code, Some(0), "{run}");
    }
}

#[test]
fn any_name_that_the_system_allows_is_fine_in_an_output_folder() {
    let space = Space::new(
        r#"
        [steps.make]
        uses = "command"
        run = '''echo make >> RUNS; mkdir -p d/empty d/sub; cat ${inputs.seed} > "$(printf 'd/not utf-8 \377')"
        echo x > "$(printf 'd/sub/new\nline')"; echo y > d/$(printf 'n%.0s' $(seq 255))'''
        inputs = { seed = "data/seed" }
        outputs = { d = "d/" }
        [steps.use]
        uses = "command"
        run = "echo use >> RUNS; find ${inputs.d} -type f | wc -l > n; find ${inputs.d} -type d | wc -l >> n"
        inputs = { d = "@make" }
        outputs = { n = "n" }
        "#,
    );
    space.write("data/seed", "seed\n");
    assert_eq!(space.rerun(), ["make", "use"]);
    let first = space.read("cache/out/main/use/n");
    // Of the name with a line break `wc` sees two lines.
    assert_eq!(first, "4\n3\n");
    assert_eq!(space.rerun(), NOTHING);
    space.remove("cache/out");
    assert_eq!(space.rerun(), NOTHING, "put back from the store");
    assert!(space.exists("cache/out/main/make/d/empty"));
    let odd = space
        .path("cache/out/main/make/d")
        .join(OsStr::from_bytes(b"not utf-8 \xff"));
    assert_eq!(fs::read(odd).unwrap(), b"seed\n");
    let run = space.retune(&["verify"]);
    assert_eq!(run.code, Some(0), "{run}");
    let run = space.retune(&["audit"]);
    assert_eq!(run.code, Some(0), "{run}");
}

#[test]
fn an_empty_folder_counts() {
    let space = space();
    assert_eq!(space.rerun(), ["list"]);
    fs::create_dir(space.path("data/d/empty")).unwrap();
    assert_eq!(space.rerun(), ["list"]);
    space.remove("data/d/empty");
    assert_eq!(space.rerun(), NOTHING, "its result is restored");
    fs::remove_file(space.path("data/d/a")).unwrap();
    space.edit("xargs -d '\\n' cat", "xargs -r -d '\\n' cat");
    assert_eq!(space.rerun(), ["list"], "an input that is an empty folder");
}

#[test]
fn a_file_that_nobody_may_read_is_said() {
    if rustix::process::geteuid().is_root() {
        // To root everything is readable: let somebody else build.
        return as_nobody();
    }
    let space = space();
    unreadable(&space, |space| space.build(&[]));
}

fn unreadable(space: &Space, build: impl Fn(&Space) -> Run) {
    let secret = space.path("data/d/secret");
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    let run = build(space);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(run.err.contains("data/d/secret"), "{run}");
    assert!(run.err.contains("Permission denied"), "{run}");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let run = build(space);
    assert_eq!(run.code, Some(0), "{run}");
}

fn as_nobody() {
    let there = Command::new("setpriv").arg("--version").output();
    if there.is_err() {
        println!("skipped: run as root, and there is no setpriv");
        return;
    }
    let space = space();
    // Others may not be let into the folder that the program is in.
    let program = space.outside("retune");
    fs::copy(support::program(), &program).unwrap();
    open_to_all(&space.outside(""));
    unreadable(&space, |space| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command
            .arg(&program)
            .arg("build")
            .current_dir(space.path(""));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap());
        command.stdin(std::process::Stdio::null());
        Run::of(&mut command)
    });
}

/// Gives a folder and what is in it to everybody.
fn open_to_all(folder: &Path) {
    let done = Command::new("chmod")
        .args(["-R", "a+rwX"])
        .arg(folder)
        .status();
    assert!(done.unwrap().success());
}

#[test]
fn a_file_with_holes_is_read_without_taking_memory() {
    let space = Space::new(
        r#"
        [steps.size]
        uses = "command"
        run = "wc -c < ${inputs.big} > size.txt"
        inputs = { big = "data/big" }
        outputs = { size = "size.txt" }
        "#,
    );
    // 100 GB in the long run.
    let size = std::env::var("RETUNE_SPARSE_GB").ok();
    let size = size.map_or(1, |n| n.parse::<u64>().expect("a number")) * 1_000_000_000;
    space.write("data/big", "start");
    fs::File::options()
        .write(true)
        .open(space.path("data/big"))
        .unwrap()
        .set_len(size)
        .unwrap();
    space.edit("wc -c <", "stat -c %s");
    let run = space.built(&[]);
    assert_eq!(
        space.read("cache/out/main/size/size.txt"),
        format!("{size}\n")
    );
    assert_eq!(run.total("ran"), 1);
    assert_eq!(space.built(&[]).total("ran"), 0);
}

#[test]
fn files_that_change_while_they_are_hashed_never_give_a_wrong_result() {
    let space = Space::new(
        r#"
        [steps.copy]
        uses = "command"
        run = "cat ${inputs.a} ${inputs.b} > copy"
        inputs = { a = "data/a", b = "data/b" }
        outputs = { copy = "copy" }
        "#,
    );
    let text = |n: usize| format!("{n:08}\n").repeat(40_000);
    space.write("data/a", &text(0));
    space.write("data/b", &text(0));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                // In place, so that a reader can see half of it.
                fs::write(space.path("data/a"), text(n)).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
        });
        for _ in 0..20 {
            let run = space.build(&[]);
            assert!(matches!(run.code, Some(0 | 1)), "{run}");
            if run.code == Some(1) {
                assert!(run.err.contains("changed while"), "{run}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    space.built(&[]);
    let expected = space.read("data/a") + &space.read("data/b");
    assert_eq!(space.read("cache/out/main/copy/copy"), expected);
    let lock = space.read("pipelines/main.lock");
    space.remove("cache");
    space.built(&[]);
    assert_eq!(space.read("pipelines/main.lock"), lock);
}

#[test]
fn a_clock_that_was_set_back_hides_no_change() {
    let there = Command::new("faketime").arg("--version").output();
    if there.is_err() {
        println!("skipped: there is no faketime");
        return;
    }
    let space = space();
    let at = |when: &str| {
        let mut command = Command::new("faketime");
        command
            .arg("-f")
            .arg(when)
            .arg(support::program())
            .arg("build");
        command
            .current_dir(space.path(""))
            .stdin(std::process::Stdio::null());
        let run = Run::of(&mut command);
        assert_eq!(run.code, Some(0), "{run}");
        space.ran()
    };
    assert_eq!(at("+3d"), ["list"], "the clock is three days ahead");
    space.write("data/d/a", "b\n");
    assert_eq!(at("+0"), ["list"], "and put right");
    space.write("data/d/a", "c\n");
    assert_eq!(at("-3d"), ["list"], "three days behind");
    space.write("data/d/a", "d\n");
    assert_eq!(at("-3d"), ["list"]);
    assert_eq!(space.read(OUT), "d\n");
    assert_eq!(at("+0"), NOTHING);
}

#[test]
fn the_same_size_and_old_times_hide_no_change() {
    let space = space();
    assert_eq!(space.rerun(), ["list"]);
    let file = space.path("data/d/a");
    let times = fs::metadata(&file).unwrap().modified().unwrap();
    for text in ["b\n", "c\n"] {
        fs::write(&file, text).unwrap();
        let open = fs::File::options().write(true).open(&file).unwrap();
        open.set_modified(times).unwrap();
        assert_eq!(space.rerun(), ["list"]);
        assert_eq!(space.read(OUT), text);
    }
}

/// A file system in a file, which goes with the test.
struct Mount {
    at: PathBuf,
}

impl Mount {
    fn ext4(space: &Space, at: &Path, options: &[&str]) -> Option<Self> {
        let image = space.outside("image");
        fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        let mut make = Command::new("mkfs.ext4");
        make.arg("-q").args(options).arg(&image);
        let made = make.output().is_ok_and(|output| output.status.success());
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&image).arg(at);
        if made && mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Mount { at: at.to_owned() });
        }
        println!("skipped: no file system can be made and mounted here");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

#[test]
fn time_stamps_of_whole_seconds_hide_no_change() {
    let space = space();
    fs::create_dir(space.path("coarse")).unwrap();
    // Small inodes have no room for fractions of a second.
    let Some(_mount) = Mount::ext4(&space, &space.path("coarse"), &["-I", "128"]) else {
        return;
    };
    space.edit("data/d", "coarse/d");
    space.write("coarse/d/a", "0\n");
    let stamp = fs::metadata(space.path("coarse/d/a")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mtime_nsec(&stamp), 0);
    for n in 0..12 {
        // In place and of the same size, so that only the times can tell.
        fs::write(space.path("coarse/d/a"), format!("{}\n", n % 10)).unwrap();
        space.built(&[]);
        assert_eq!(space.read(OUT), format!("{}\n", n % 10));
    }
}

#[test]
fn a_store_without_hard_links_and_shared_blocks() {
    if !support::has_strace() {
        return;
    }
    let space = Space::new(
        r#"
        [steps.big]
        uses = "command"
        run = "mkdir d; head -c 3000000 /dev/zero > d/big; cp ${inputs.text} d/small; cp d/big one"
        inputs = { text = "data/text" }
        outputs = { d = "d/", one = "one" }
        "#,
    );
    space.write("data/text", "text\n");
    let build = || {
        let mut command = Command::new("strace");
        command.args(["-f", "--quiet=all", "-o", "/dev/null"]);
        command.args(["-e", "inject=link,linkat:error=EPERM"]);
        command.args(["-e", "inject=copy_file_range:error=EXDEV"]);
        command.arg(support::program()).arg("build");
        command
            .current_dir(space.path(""))
            .stdin(std::process::Stdio::null());
        let run = Run::of(&mut command);
        assert_eq!(run.code, Some(0), "{run}");
    };
    build();
    let out = space.path("cache/out/main/big/d/big");
    assert_eq!(fs::metadata(&out).unwrap().len(), 3_000_000);
    space.remove("cache/out");
    build();
    assert_eq!(fs::metadata(&out).unwrap().len(), 3_000_000);
    let run = space.retune(&["verify"]);
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(space.built(&[]).total("up_to_date"), 1);
}

/// An output, and one in a folder, are edited in the moment in which the build
/// has put them in place and has not yet gone on: to text of the same size.
#[test]
fn an_edit_right_after_an_output_was_put_in_place() {
    if !support::has_strace() {
        return;
    }
    let space = Space::new(
        r#"
        [steps.file]
        uses = "command"
        run = "cat ${inputs.text} > one"
        inputs = { text = "data/text" }
        outputs = { one = "one" }

        [steps.folder]
        uses = "command"
        run = "mkdir d; cat ${inputs.text} > d/two"
        inputs = { text = "data/text" }
        outputs = { d = "d/" }
        "#,
    );
    let outputs = ["cache/out/main/file/one", "cache/out/main/folder/d/two"];
    for text in ["text\n", "more\n"] {
        space.write("data/text", text);
        let mut command = Command::new("strace");
        command.args(["-f", "--quiet=all", "-o", "/dev/null", "-e"]);
        // Moving returns late: the file is there and the build not yet on.
        command.arg("inject=rename,renameat,renameat2:delay_exit=200000");
        command.arg(support::program()).arg("build");
        command
            .current_dir(space.path(""))
            .stdin(std::process::Stdio::null());
        std::thread::scope(|scope| {
            for path in outputs.map(|path| space.path(path)) {
                scope.spawn(move || {
                    support::wait_for("the output", || {
                        let made = fs::read_to_string(&path).ok();
                        made.filter(|made| made == text)
                    });
                    edit_in_place(&path, "edit\n");
                });
            }
            let run = Run::of(&mut command);
            assert_eq!(run.code, Some(0), "{run}");
        });
        for path in outputs {
            assert_eq!(space.read(path), "edit\n", "edited during the build");
        }
        assert_eq!(space.built(&[]).total("restored"), 2, "{text}");
        for path in outputs {
            assert_eq!(space.read(path), text);
        }
    }
}

/// Writes into the file itself, with the rights it has afterwards.
fn edit_in_place(path: &Path, text: &str) {
    let rights = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, rights).unwrap();
}

#[test]
fn a_pipeline_without_steps() {
    let space = Space::new("[pipeline]\nname = 'empty'\n");
    let run = space.built(&[]);
    assert_eq!(run.total("ran"), 0);
    for verb in ["plan", "verify", "audit", "graph"] {
        let run = space.retune(&[verb]);
        assert_eq!(run.signal, None, "{verb}: {run}");
        assert!(!run.err.contains("panicked"), "{verb}: {run}");
    }
}
