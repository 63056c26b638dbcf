//! Programs that would go around the sandbox: what its watcher could not see, it refuses.
//!
//! The program that a step runs is this test's own, started again for its
//! [`program`]. Without Landlock in the kernel these tests say so and do nothing.
#![cfg(target_os = "linux")]

mod support;

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::DumpableBehavior;
use support::{Run, Space, can_hold};

/// What the program is to do, and at which socket.
const DO: &str = "EVADE";
const AT: &str = "EVADE_AT";

/// What a step runs; says how it went in `out.txt`.
#[test]
#[ignore = "it is a step's program"]
fn program() {
    let at = PathBuf::from(std::env::var_os(AT).unwrap_or_default());
    let went = match std::env::var(DO).unwrap_or_default().as_str() {
        "hide" => hide().and_then(|()| send_to(&at)),
        "send" => send_to(&at),
        "connect" => UnixStream::connect(&at).map(drop),
        "sendmsg" => send_message(&at, false),
        "sendmmsg" => send_message(&at, true),
        "io_uring" => io_uring(),
        "chmod" => fs::File::open(&at)
            .and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o777))),
        "root" => std::os::unix::fs::chroot(&at),
        other => panic!("what is {other}?"),
    };
    let words = went.map_or_else(|e| e.to_string(), |()| "done".to_owned());
    fs::write("out.txt", words).unwrap();
}

fn hide() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(
        DumpableBehavior::NotDumpable,
    )?)
}

fn send_to(at: &Path) -> io::Result<()> {
    UnixDatagram::unbound()?.send_to(b"x", at).map(drop)
}

#[expect(unsafe_code, reason = "no safe face sends a message to a name")]
fn send_message(at: &Path, many: bool) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    // SAFETY: all zeros is valid for these; every pointer is to a local that
    // outlives the calls.
    let sent = unsafe {
        let mut name: libc::sockaddr_un = std::mem::zeroed();
        name.sun_family = libc::AF_UNIX as u16;
        for (to, from) in name.sun_path.iter_mut().zip(at.as_os_str().as_bytes()) {
            *to = *from as libc::c_char;
        }
        let mut byte = [b'x'];
        let mut part = libc::iovec {
            iov_base: byte.as_mut_ptr().cast(),
            iov_len: 1,
        };
        let mut message: libc::mmsghdr = std::mem::zeroed();
        message.msg_hdr.msg_name = (&raw mut name).cast();
        message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_un>() as u32;
        message.msg_hdr.msg_iov = &raw mut part;
        message.msg_hdr.msg_iovlen = 1;
        match many {
            true => libc::sendmmsg(socket.as_raw_fd(), &raw mut message, 1, 0) as isize,
            false => libc::sendmsg(socket.as_raw_fd(), &raw const message.msg_hdr, 0),
        }
    };
    (sent > 0)
        .then_some(())
        .ok_or_else(io::Error::last_os_error)
}

#[expect(unsafe_code, reason = "no safe face makes a ring")]
fn io_uring() -> io::Result<()> {
    let mut parameters = [0u64; 32];
    // SAFETY: the kernel's structure has 120 bytes.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    (ring >= 0)
        .then_some(())
        .ok_or_else(io::Error::last_os_error)
}

/// A project whose step `a` is held and runs this program to do `what`; `at`
/// is relative to the project.
fn space(what: &str, at: &str) -> Space {
    let space = Space::empty();
    let program = std::env::current_exe().unwrap();
    let program = program.display();
    space.pipeline(&format!(
        "[steps.a]\nuses = 'command'\noutputs = {{ out = 'out.txt' }}\n\
         sandbox = {{ read = ['{program}'] }}\nrun = '''\n\
         {DO}={what} {AT}={} exec {program} --exact program --ignored\n'''\n",
        space.path(at).display(),
    ));
    space
}

/// What went wrong with step `a`.
#[track_caller]
fn refused(run: &Run) -> String {
    assert_eq!(run.code, Some(1), "{run}");
    let failed = run.of_kind("step-failed");
    failed[0]["error"]["message"].as_str().unwrap().to_owned()
}

/// Lets another user build, who may not look into every process.
fn as_nobody(space: &Space, command: &mut Command) {
    const NOBODY: u32 = 65534;
    if rustix::process::geteuid().is_root() {
        give_away(&space.outside(""), NOBODY);
        command.uid(NOBODY).gid(NOBODY);
    }
    command.env("HOME", space.outside(""));
}

fn give_away(path: &Path, to: u32) {
    chown(path, Some(to), Some(to)).unwrap();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => give_away(&path, to),
            false => chown(&path, Some(to), Some(to)).unwrap(),
        }
    }
}

/// A server at `sock` in the project.
fn server(space: &Space) -> UnixDatagram {
    let server = UnixDatagram::bind(space.path("sock")).unwrap();
    server.set_nonblocking(true).unwrap();
    server
}

#[track_caller]
fn heard_nothing(server: &UnixDatagram) {
    let error = server.recv(&mut [0]).expect_err("it was reached");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_program_that_hides_its_memory_is_refused() {
    if !can_hold() {
        return;
    }
    let space = space("hide", "sock");
    let server = server(&space);
    let run = space.build_with(&[], |command| as_nobody(&space, command));
    let message = refused(&run);
    assert!(
        message.starts_with("step a hid the memory of evasion"),
        "{message}"
    );
    heard_nothing(&server);
}

#[test]
fn a_program_that_nobody_may_read_is_refused() {
    if !can_hold() {
        return;
    }
    let space = space("send", "sock");
    let server = server(&space);
    // Its file may be run and not read, and so may its memory not be.
    let program = std::env::current_exe().unwrap();
    fs::create_dir(space.path("bin")).unwrap();
    let hidden = space.path("bin/hidden");
    fs::copy(&program, &hidden).unwrap();
    space.edit(
        &program.display().to_string(),
        &hidden.display().to_string(),
    );
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o111)).unwrap();
    let run = space.build_with(&[], |command| as_nobody(&space, command));
    assert_eq!(
        refused(&run),
        "step a hid the memory of hidden, so that nobody can tell what it touches"
    );
    heard_nothing(&server);
    // Without a sandbox it works, and a trace owns up to what it did not see.
    space.edit("sandbox", "# sandbox");
    let run = space.build_with(&[], |command| as_nobody(&space, command));
    assert_eq!(run.code, Some(0), "{run}");
    let mut command = space.command(&["audit", "--trace"]);
    as_nobody(&space, &mut command);
    let run = Run::of(&mut command);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(
        run.out.contains("    it hid the memory of hidden\n"),
        "{run}"
    );
}

#[test]
fn where_no_memory_can_be_read_the_filter_is_done_without() {
    if !can_hold() || !support::has_strace() {
        return;
    }
    let space = space("send", "sock");
    let _server = server(&space);
    let build = || {
        let mut command = Command::new("strace");
        command.args(["-f", "--seccomp-bpf", "-o", "/dev/null"]);
        command.args(["-e", "trace=process_vm_readv"]);
        command.args(["-e", "inject=process_vm_readv:error=EPERM"]);
        command.arg(support::program()).arg("build");
        Run::of(command.current_dir(space.path("")))
    };
    let run = build();
    assert_eq!(run.code, Some(1), "{run}");
    let message = "the sandbox cannot be had here: this system lets no program look into";
    assert!(run.err.contains(message), "{run}");
    space.edit("sandbox = {", "sandbox = { required = false,");
    let run = build();
    assert_eq!(run.code, Some(0), "{run}");
    let warning = "a ran without its full sandbox: this system lets no program look into";
    assert!(run.err.contains(warning), "{run}");
    let held = space.records("a")[0]["sandbox"].clone();
    assert!(
        held.as_str().unwrap().starts_with("landlock abi "),
        "{held}"
    );
    assert!(!held.as_str().unwrap().contains("seccomp"), "{held}");
}

#[test]
fn a_datagram_to_an_undeclared_socket_is_refused_and_named() {
    if !can_hold() {
        return;
    }
    for way in ["send", "sendmsg", "sendmmsg"] {
        let space = space(way, "sock");
        let server = server(&space);
        let message = format!(
            "step a connected to the socket {}, which it does not declare",
            space.path("sock").display()
        );
        assert_eq!(refused(&space.build(&[])), message, "{way}");
        heard_nothing(&server);
        // What may be written may be talked to.
        space.edit("sandbox = {", "sandbox = { write = ['sock'],");
        space.built(&[]);
        assert_eq!(space.read("cache/out/main/a/out.txt"), "done", "{way}");
        assert_eq!(server.recv(&mut [0]).unwrap(), 1, "{way}");
    }
}

#[test]
fn what_happens_unseen_is_missing() {
    if !can_hold() {
        return;
    }
    let space = space("io_uring", "sock");
    space.built(&[]);
    assert_eq!(
        space.read("cache/out/main/a/out.txt"),
        "Function not implemented (os error 38)"
    );
}

#[test]
fn a_change_through_a_descriptor_is_refused_and_named() {
    if !can_hold() {
        return;
    }
    let space = space("chmod", "input");
    space.edit("outputs", "inputs = { input = 'input' }\noutputs");
    space.write("input", "");
    let mode = || fs::metadata(space.path("input")).unwrap().permissions();
    let before = mode();
    let message = "step a wrote input, which it does not declare";
    assert_eq!(refused(&space.build(&[])), message);
    assert_eq!(before, mode());
}

#[test]
fn another_root_is_refused() {
    if !can_hold() {
        return;
    }
    let space = space("root", "data");
    fs::create_dir(space.path("data")).unwrap();
    let message = "step a made data the root of its paths, so that nobody can tell what it touches";
    assert_eq!(refused(&space.build(&[])), message);
}
