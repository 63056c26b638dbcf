//! The kernel's side of watching: installing a filter, receiving calls, answering them, reading the caller's memory.

#![expect(unsafe_code, reason = "seccomp has no safe face")]

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

use super::filter::Filter;

/// A call that waits for an answer.
#[derive(Debug)]
pub struct Call {
    /// Names the call to the kernel.
    pub id: u64,
    /// The thread that makes it.
    pub thread: u32,
    /// Its number.
    pub number: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// Whether the system let nobody look into the thread's memory.
    hidden: Cell<bool>,
}

/// Puts this thread and all it starts under a filter. Privileges can no longer
/// be gained.
pub fn install(filter: &Filter) -> io::Result<()> {
    seccomp(filter, 0).map(drop)
}

/// The same; also gives where the calls that the filter asks about appear.
pub fn install_watched(filter: &Filter) -> io::Result<OwnedFd> {
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // Signals must not make a call be asked about twice (Linux 5.19).
    let fd = seccomp(filter, flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
        .or_else(|_| seccomp(filter, flags))?;
    // Caller and watcher take turns: best on one processor (Linux 6.6).
    const SYNC_WAKE_UP: libc::c_ulong = 1;
    // SAFETY: the kernel takes the flag as a number. Without it all works, slower.
    unsafe {
        libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP);
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn seccomp(filter: &Filter, flags: libc::c_ulong) -> io::Result<i32> {
    rustix::thread::set_no_new_privs(true)?;
    let program = libc::sock_fprog {
        len: filter.0.len() as u16,
        filter: filter.0.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the program, which lives until the call is over.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    match result {
        ..0 => Err(io::Error::last_os_error()),
        fd => Ok(fd as i32),
    }
}

/// The next call; none if its thread was killed meanwhile.
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<Option<Call>> {
    // SAFETY: all bits zero is what the kernel wants to find in it.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `seccomp_notif` to where one lies.
    let result = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut call,
        )
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENOENT | libc::EINTR) => Ok(None),
            _ => Err(error),
        };
    }
    Ok(Some(Call {
        id: call.id,
        thread: call.pid,
        number: i64::from(call.data.nr),
        arguments: call.data.args,
        hidden: Cell::new(false),
    }))
}

/// Lets a call go on, or fail with an error.
pub fn answer(listener: BorrowedFd<'_>, call: &Call, error: Option<i32>) {
    let mut answer = libc::seccomp_notif_resp {
        id: call.id,
        val: 0,
        error: error.map_or(0, |error| -error),
        flags: match error {
            None => libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            Some(_) => 0,
        },
    };
    // The thread may have been killed meanwhile.
    // SAFETY: the kernel reads one `seccomp_notif_resp` from where one lies.
    let _ = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw mut answer,
        )
    };
}

/// A page: memory is there or not by whole ones.
const PAGE: usize = 4096;

impl Call {
    /// Whether something of the thread's memory was asked for in vain, because
    /// its program may not be looked into.
    pub fn is_hidden(&self) -> bool {
        self.hidden.get()
    }

    /// Reads up to `most` bytes of the thread's memory; fewer where it ends.
    pub fn memory(&self, address: u64, most: usize) -> Vec<u8> {
        let mut bytes = vec![0u8; most];
        let mut done = 0;
        while done < most {
            let at = address.wrapping_add(done as u64);
            let length = (PAGE - at as usize % PAGE).min(most - done);
            match peek(self.thread, at, &mut bytes[done..done + length]) {
                Ok(0) => break,
                Ok(got) => done += got,
                Err(error) => {
                    // No memory there, or no thread any more: the call fails.
                    let fails = [Some(libc::EFAULT), Some(libc::ESRCH)];
                    self.hidden.set(!fails.contains(&error.raw_os_error()));
                    break;
                }
            }
            // The rest of a page is enough for most paths.
            if most >= PAGE && bytes[..done].contains(&0) {
                break;
            }
        }
        bytes.truncate(done);
        bytes
    }

    /// Reads a path from the thread's memory.
    pub fn path(&self, address: u64) -> Option<Vec<u8>> {
        if address == 0 {
            return None;
        }
        let mut bytes = self.memory(address, libc::PATH_MAX as usize);
        let end = bytes.iter().position(|b| *b == 0)?;
        bytes.truncate(end);
        Some(bytes)
    }
}

/// Whether the memory of a child that was forked just now can be read.
pub fn may_look_into(child: Pid) -> bool {
    // The child has it at the same address.
    static THERE: u8 = 1;
    let child = child.as_raw_nonzero().get() as u32;
    peek(child, (&raw const THERE) as usize as u64, &mut [0]).is_ok()
}

/// Reads what lies at `address` in a thread's memory into `bytes`. Says how
/// much of it there was.
fn peek(thread: u32, address: u64, bytes: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let remote = libc::iovec {
        iov_base: address as usize as *mut libc::c_void,
        iov_len: bytes.len(),
    };
    // SAFETY: `local` is `bytes`; the kernel checks `remote`.
    let got = unsafe {
        libc::process_vm_readv(
            thread as libc::pid_t,
            &raw const local,
            1,
            &raw const remote,
            1,
            0,
        )
    };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}
