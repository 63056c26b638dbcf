//! The process between retune and a program that is held or watched.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, WaitOptions, WaitStatus, getppid, pidfd_getfd,
    pidfd_open, set_parent_process_death_signal, waitpid,
};
use serde::{Deserialize, Serialize};

use super::filter::Filter;
use super::report::Report;
use super::rules::Rules;
use super::watcher::Watcher;
use super::{Guard, Mode, NONE, landlock, notify, unavailable};
use crate::exec::job::WorkFolder;
use crate::files;
use crate::step::StepError;

/// What the child says of itself to its watcher before it becomes the program.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Word {
    /// The interface of the Landlock that holds it.
    landlock: Option<u32>,
    /// Where in its hands its calls are asked about, if they are.
    listener: Option<i32>,
    /// What could not be had.
    lacking: Option<String>,
    /// Why it does not become the program.
    failed: Option<StepError>,
}

/// The most that a word takes; longer ones are cut by the socket.
const WORD: usize = 16 * 1024;

/// See [`super::enter`].
pub fn enter(guard: &Path, argv: &[OsString]) -> ExitCode {
    die_with_parent();
    match read(guard).and_then(|guard| run(&guard, argv)) {
        Ok(status) => end_like(status),
        Err(error) => {
            eprintln!("{}", error.message);
            error.causes.iter().for_each(|cause| eprintln!("  {cause}"));
            ExitCode::FAILURE
        }
    }
}

fn read(guard: &Path) -> Result<Guard, StepError> {
    Ok(postcard::from_bytes(&files::read(guard)?)?)
}

fn run(guard: &Guard, argv: &[OsString]) -> Result<WaitStatus, StepError> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let Some(child) = fork()? else {
        drop(ours);
        become_program(guard, argv, &theirs);
    };
    drop(theirs);
    ignore_requests();
    // Where only ancestors may look into a process (Yama), what the program
    // leaves to itself must stay a descendant of this one.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    send(
        &ours,
        &[u8::from(notify::may_look_into(child))],
        SendFlags::empty(),
    )?;
    let (status, report) = watch(guard, child, &ours)?;
    report.write(&WorkFolder::at(guard.folder.clone().into()))?;
    Ok(status)
}

/// A second process; none in the second one itself.
fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: this process has one thread, so the child may do anything.
    #[expect(unsafe_code, reason = "a fork has no safe face")]
    let child = unsafe { libc::fork() };
    match child {
        ..0 => Err(io::Error::last_os_error()),
        child => Ok(Pid::from_raw(child)),
    }
}

// The child

fn become_program(guard: &Guard, argv: &[OsString], watcher: &OwnedFd) -> ! {
    die_with_parent();
    let word = match take_on(guard, is_seen(watcher)) {
        Ok((word, _listener)) => {
            say(watcher, &word);
            let failed = Some(execute(argv));
            Word { failed, ..word }
        }
        Err(failed) => Word {
            failed: Some(failed),
            ..Word::default()
        },
    };
    say(watcher, &word);
    std::process::exit(127)
}

/// Whether the watcher can look into this process: it says so first.
fn is_seen(watcher: &OwnedFd) -> bool {
    let mut word = [0];
    let heard = recv(watcher, &mut word, RecvFlags::empty());
    heard.is_ok() && word == [1]
}

/// Takes the rules upon this process, which its watcher can look into if it is
/// `seen`.
fn take_on(guard: &Guard, seen: bool) -> Result<(Word, Option<OwnedFd>), StepError> {
    let held = guard.mode != Mode::Watch;
    let optional = guard.mode == (Mode::Hold { required: false });
    let mut lacking = Vec::new();
    let mut lack = |why: String| match optional {
        true => {
            lacking.push(why);
            Ok(None)
        }
        false => Err(unavailable(&why)),
    };
    let landlock = match held.then(|| landlock::restrict(&guard.rules)).transpose() {
        Ok(abi) => abi,
        Err(why) => lack(why)?,
    };
    let listener = match filter(held, guard.rules.network, seen) {
        Ok(listener) => Some(listener),
        Err(why) => {
            lack(why)?;
            None
        }
    };
    let word = Word {
        landlock,
        listener: listener.as_ref().map(AsRawFd::as_raw_fd),
        lacking: (!lacking.is_empty()).then(|| lacking.join("; ")),
        failed: None,
    };
    Ok((word, listener))
}

fn filter(held: bool, network: bool, seen: bool) -> Result<OwnedFd, String> {
    if !seen {
        return Err("this system lets no program look into another's memory, \
                    not even into its child's (kernel.yama.ptrace_scope?)"
            .to_owned());
    }
    let filter = Filter::watched(held, network)
        .ok_or_else(|| "this machine's system calls are not known".to_owned())?;
    notify::install_watched(&filter)
        .map_err(|e| format!("the kernel refused the system call filter: {e}"))
}

fn execute(argv: &[OsString]) -> StepError {
    let error = Command::new(&argv[0]).args(&argv[1..]).exec();
    StepError {
        message: format!("failed to start {}", argv[0].display()),
        causes: vec![error.to_string()],
        hint: (error.kind() == io::ErrorKind::NotFound)
            .then(|| "is it installed and on PATH?".to_owned()),
    }
}

fn say(to: &OwnedFd, word: &Word) {
    // Not postcard, which cannot read an error without causes. Not `sendmsg`,
    // which waits for the watcher that this is to reach.
    let bytes = serde_json::to_vec(word).expect("plain data");
    // A watcher that is gone takes this process with it.
    let _ = send(to, &bytes, SendFlags::empty());
}

// The watcher

fn watch(guard: &Guard, child: Pid, socket: &OwnedFd) -> Result<(WaitStatus, Report), StepError> {
    let mut report = Report::default();
    let word = hear(socket)?;
    if let Some(listener) = word.listener {
        let held = guard.mode != Mode::Watch;
        let scoped = word.landlock.is_some_and(|abi| abi >= 6);
        let mut watcher = Watcher::new(&guard.rules, held, scoped);
        let ended = pidfd_open(child, PidfdFlags::empty())?;
        // It has it until it becomes the program, which it asks about.
        let listener = pidfd_getfd(&ended, listener, PidfdGetfdFlags::empty())?;
        watcher.serve(&listener, &ended)?;
        (report.accesses, report.more) = watcher.into_found();
    }
    // If it could not become the program there is a second word.
    let second = match word.failed {
        Some(_) => Word::default(),
        None => hear(socket).unwrap_or_default(),
    };
    report.held = held_by(guard, &word);
    report.failed = word.failed.or(second.failed);
    report.lacking = word.lacking;
    loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok((status, report)),
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn held_by(guard: &Guard, word: &Word) -> String {
    match guard.mode {
        Mode::Watch => NONE.to_owned(),
        Mode::Hold { .. } => named(word.landlock, word.listener.is_some()),
    }
}

fn named(landlock: Option<u32>, filter: bool) -> String {
    match (landlock, filter) {
        (Some(abi), true) => format!("landlock abi {abi}, seccomp"),
        (Some(abi), false) => format!("landlock abi {abi}"),
        (None, true) => "seccomp".to_owned(),
        (None, false) => NONE.to_owned(),
    }
}

fn hear(from: &OwnedFd) -> Result<Word, StepError> {
    let mut bytes = vec![0; WORD];
    let (length, _) = recv(from, &mut bytes, RecvFlags::empty())?;
    if length == 0 {
        return Ok(Word::default());
    }
    Ok(serde_json::from_slice(&bytes[..length])?)
}

/// Requests to stop go to the whole process group: they are for the program.
fn ignore_requests() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: ignoring a signal runs no code of ours.
        #[expect(unsafe_code, reason = "dispositions have no safe face")]
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

/// Ends this process as the program ended.
fn end_like(status: WaitStatus) -> ExitCode {
    if let Some(signal) = status.terminating_signal() {
        // The core, if any, is the program's.
        let none = rustix::process::Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
        // SAFETY: the default disposition runs no code of ours.
        #[expect(unsafe_code, reason = "dispositions have no safe face")]
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
    ExitCode::from(status.exit_status().map_or(1, |code| code as u8))
}

/// A program must not outlive its watcher, nor that its build.
fn die_with_parent() {
    let parent = getppid();
    // Without it a step that outlives its build merely works for nothing.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    if getppid() != parent {
        std::process::exit(1);
    }
}

// Built-in kinds

/// See [`super::hold_worker`].
pub fn hold_worker(rules: &Rules) -> String {
    let landlock = landlock::restrict(rules).ok();
    let filter = Filter::without_network().filter(|_| !rules.network);
    let filtered = filter.is_some_and(|filter| notify::install(&filter).is_ok());
    named(landlock, filtered)
}
