//! From a keeper to a program: what lies between clone and exec, and what the system says of children.

use std::ffi::{CStr, c_char, c_int};
use std::io;
use std::os::fd::BorrowedFd;

use rustix::process::Pid;

use super::keeper::Launch;

/// A child that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) pid: i32,
    /// As `wait` gives it.
    pub(super) status: i32,
    /// The most memory that it, or a child that it waited for, held, in bytes.
    /// Never less than the keeper's own peak, which a child takes over.
    pub(super) peak: u64,
}

/// A child that has ended, or none yet; an error when there are no children.
#[expect(unsafe_code, reason = "no safe face gives a child's own usage")]
pub(super) fn reap() -> io::Result<Option<Ended>> {
    let mut status = 0;
    // SAFETY: all zeros is a valid `rusage`, and both pointers are to locals.
    let (pid, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let pid = libc::wait4(-1, &mut status, libc::WNOHANG, &mut usage);
        (pid, usage)
    };
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(Ended {
            pid,
            status,
            peak: usage.ru_maxrss as u64 * unit,
        })),
    }
}

/// Reads from another file as standard input.
#[expect(unsafe_code, reason = "no safe face without another feature")]
pub(super) fn replace_input(file: &std::fs::File) -> io::Result<()> {
    // SAFETY: both are open, and nobody holds standard input as an owned file.
    match unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(file), 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

pub(super) use system::{adopt_orphans, children, children_of, fork, has_children, start};

/// Pointers to strings, with a null at the end and one at the start to spare.
struct Pointers(Vec<*const c_char>);

impl Pointers {
    fn new<'a>(strings: impl ExactSizeIterator<Item = &'a CStr>) -> Self {
        let mut pointers = Vec::with_capacity(strings.len() + 2);
        pointers.push(std::ptr::null());
        pointers.extend(strings.map(CStr::as_ptr));
        pointers.push(std::ptr::null());
        Pointers(pointers)
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::os::fd::AsRawFd;
    use std::sync::atomic::{AtomicI32, Ordering};

    use rustix::process::{WaitId, WaitIdOptions, WaitOptions, waitid};

    use super::*;

    /// Makes this process the parent of whatever its descendants leave behind,
    /// and gives it a name of its own: who kills every `retune` wants the steps
    /// to end, which is what this process is for.
    pub(in crate::exec) fn adopt_orphans(name: &CStr) -> io::Result<()> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(rustix::thread::set_name(name)?)
    }

    /// A second process; none in the second one itself.
    pub(in crate::exec) fn fork() -> io::Result<Option<Pid>> {
        // SAFETY: this process has one thread, so the child may do anything.
        #[expect(unsafe_code, reason = "a fork has no safe face")]
        match unsafe { libc::fork() } {
            ..0 => Err(io::Error::last_os_error()),
            child => Ok(Pid::from_raw(child)),
        }
    }

    /// The children of this process.
    pub(in crate::exec) fn children() -> Vec<Pid> {
        children_of(rustix::process::getpid())
    }

    /// Whether this process has children, a group that one of them led or not.
    pub(in crate::exec) fn has_children(_group: Pid) -> bool {
        let here = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::All, here).is_ok()
    }

    /// The children of a process.
    pub(in crate::exec) fn children_of(parent: Pid) -> Vec<Pid> {
        let me = parent.as_raw_nonzero().get();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let mine = processes.filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name, in brackets, may hold anything; behind it: state, parent.
            let (_, rest) = stat.rsplit_once(')')?;
            let parent: i32 = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
            (parent == me).then(|| Pid::from_raw(pid)).flatten()
        });
        mine.collect()
    }

    /// Everything the child needs, laid out before it is made.
    struct Plan<'a> {
        launch: &'a Launch,
        files: [c_int; 3],
        arguments: Pointers,
        environment: Pointers,
        keeper: c_int,
        /// The error number with which it failed.
        failed: AtomicI32,
    }

    /// Starts a program in a process group of its own, which dies with this
    /// process. The child borrows this process's memory until it is another
    /// program, so that nothing is copied: what `posix_spawn` does, which
    /// cannot ask for the death signal.
    #[expect(unsafe_code, reason = "clone and exec have no safe face")]
    pub(in crate::exec) fn start(launch: &Launch, files: [BorrowedFd<'_>; 3]) -> io::Result<Pid> {
        let mut plan = Plan {
            launch,
            files: files.map(|file| file.as_raw_fd()),
            arguments: Pointers::new(launch.arguments.iter().map(|text| &**text)),
            environment: Pointers::new(launch.environment.iter().map(|text| &**text)),
            keeper: rustix::process::getpid().as_raw_nonzero().get(),
            failed: AtomicI32::new(0),
        };
        let mut stack = [0u128; 2048];
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: this process has one thread, which sleeps until the child has
        // ended or is another program; the child's stack is large enough for
        // `child`, aligned, and outlives it, as `plan` does.
        let pid = unsafe {
            let top = stack.as_mut_ptr_range().end.cast();
            libc::clone(child, top, flags, (&raw mut plan).cast())
        };
        if pid == -1 {
            return Err(io::Error::last_os_error());
        }
        match plan.failed.load(Ordering::Relaxed) {
            0 => Pid::from_raw(pid).ok_or_else(|| io::Error::other("no process")),
            error => {
                // Its end is nobody's business: it never was the program.
                let _ = rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::empty());
                Err(io::Error::from_raw_os_error(error))
            }
        }
    }

    /// What the child does: system calls only.
    #[expect(
        unsafe_code,
        reason = "between clone and exec there are only system calls"
    )]
    extern "C" fn child(plan: *mut libc::c_void) -> c_int {
        // SAFETY: it is the `Plan` of `start`, which waits meanwhile. Nothing
        // here allocates or takes a lock; `arguments` has one place to spare at
        // its start; all strings end in a null.
        unsafe {
            let plan = &mut *plan.cast::<Plan<'_>>();
            become_the_program(plan);
            let error = *libc::__errno_location();
            plan.failed.store(error.max(1), Ordering::Relaxed);
            libc::_exit(127)
        }
    }

    /// Returns only when the system refuses.
    #[expect(
        unsafe_code,
        reason = "between clone and exec there are only system calls"
    )]
    unsafe fn become_the_program(plan: &mut Plan<'_>) {
        // SAFETY: see `child`.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // It may have died before.
            if libc::getppid() != plan.keeper {
                libc::_exit(127);
            }
            let [input, output, error] = plan.files;
            // A session of its own: a group to be signalled, and no terminal
            // to be stopped by when it is read.
            if libc::setsid() == -1
                || libc::chdir(plan.launch.folder.as_ptr()) == -1
                || libc::dup2(input, 0) == -1
                || libc::dup2(output, 1) == -1
                || libc::dup2(error, 2) == -1
            {
                return;
            }
            // What somebody above has left open is no business of a step.
            // Kernels before 5.11 refuse.
            let (first, last) = (3 as libc::c_uint, libc::c_uint::MAX);
            libc::syscall(
                libc::SYS_close_range,
                first,
                last,
                libc::CLOSE_RANGE_CLOEXEC,
            );
            // Rust ignores it, and what is ignored stays so across exec.
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            let program = plan.launch.program.as_ptr();
            let environment = plan.environment.0.as_ptr().add(1);
            let arguments = &mut plan.arguments.0;
            libc::execve(program, arguments.as_ptr().add(1), environment);
            if *libc::__errno_location() == libc::ENOEXEC {
                // A script that does not say for what is one for the shell, by
                // old custom.
                arguments[0] = c"sh".as_ptr();
                arguments[1] = program;
                libc::execve(c"/bin/sh".as_ptr(), arguments.as_ptr(), environment);
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    /// Only Linux can.
    pub(in crate::exec) fn adopt_orphans(_name: &CStr) -> io::Result<()> {
        Ok(())
    }

    /// Not where there are no orphans to adopt.
    pub(in crate::exec) fn fork() -> io::Result<Option<Pid>> {
        Ok(None)
    }

    /// The step's program only, which has been waited for.
    pub(in crate::exec) fn children() -> Vec<Pid> {
        Vec::new()
    }

    /// As above.
    pub(in crate::exec) fn children_of(_parent: Pid) -> Vec<Pid> {
        Vec::new()
    }

    /// Whether anything is left of a group that a child led.
    pub(in crate::exec) fn has_children(group: Pid) -> bool {
        rustix::process::test_kill_process_group(group).is_ok()
    }

    /// Starts a program in a process group of its own.
    pub(in crate::exec) fn start(launch: &Launch, files: [BorrowedFd<'_>; 3]) -> io::Result<Pid> {
        let text = |text: &CStr| OsStr::from_bytes(text.to_bytes()).to_owned();
        let [input, output, error] = files;
        let mut command = Command::new(text(&launch.program));
        let (name, arguments) = match launch.arguments.split_first() {
            Some((name, arguments)) => (text(name), arguments),
            None => (text(&launch.program), &[][..]),
        };
        command.arg0(name).args(arguments.iter().map(|a| text(a)));
        command.env_clear();
        for variable in &launch.environment {
            let bytes = variable.to_bytes();
            let at = bytes.iter().position(|b| *b == b'=');
            let at = at.unwrap_or(bytes.len());
            let value = bytes.get(at + 1..).unwrap_or_default();
            command.env(OsStr::from_bytes(&bytes[..at]), OsStr::from_bytes(value));
        }
        command.current_dir(text(&launch.folder)).process_group(0);
        command.stdin(Stdio::from(input.try_clone_to_owned()?));
        command.stdout(Stdio::from(output.try_clone_to_owned()?));
        command.stderr(Stdio::from(error.try_clone_to_owned()?));
        Ok(Pid::from_child(&command.spawn()?))
    }
}
