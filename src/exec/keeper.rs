//! Keepers, as the driver sees them: small processes of this program that start steps, wait for them and end all that is left of them.
//!
//! A keeper has one step at a time. It is small, so that starting a program
//! costs the same however large the build is; it adopts what the step's
//! programs leave behind (a session of its own included), so that nothing
//! outlives the step; and when the driver dies in whatever way, the socket
//! between the two closes, and the keeper ends everything. When the keeper is
//! killed, its guard does: the process that it was forked from.

use std::ffi::{CString, OsString};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::{Deserialize, Serialize};

use super::Stop;
use super::descriptors;

/// The hidden verb by which this program becomes a keeper; its standard input
/// is the socket. How many files steps may have open follows where that is not
/// what the driver may.
pub const VERB: &str = "__keep";

/// What the driver asks of a keeper: a length, then this.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Start this; the files for standard output and error come along.
    Start(Launch),
    /// Signal the processes of the launch of that number, if it still runs.
    Stop(u64, Stop),
}

/// A program to start.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Launch {
    /// Tells launches of one keeper apart.
    pub(super) number: u64,
    /// The path of the program.
    pub(super) program: CString,
    /// The arguments, of which the first is the program's name.
    pub(super) arguments: Vec<CString>,
    /// The whole environment, `NAME=value`.
    pub(super) environment: Vec<CString>,
    /// The folder to work in.
    pub(super) folder: CString,
}

/// What a keeper says of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// The system refused to start it, with this error number.
    NotStarted(i32),
    /// It ended.
    Ended {
        /// As `wait` gives it.
        status: i32,
        /// The most memory that it, or a child that it waited for, held, in bytes.
        peak: u64,
    },
}

impl Report {
    pub(super) const LENGTH: usize = 16;

    pub(super) fn to_bytes(self) -> [u8; Report::LENGTH] {
        let (tag, value, peak) = match self {
            Report::NotStarted(error) => (0u32, error, 0),
            Report::Ended { status, peak } => (1, status, peak),
        };
        let mut bytes = [0; Report::LENGTH];
        bytes[..4].copy_from_slice(&tag.to_le_bytes());
        bytes[4..8].copy_from_slice(&value.to_le_bytes());
        bytes[8..].copy_from_slice(&peak.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; Report::LENGTH]) -> Self {
        let [a, b, c, d, e, f, g, h, peak @ ..] = bytes;
        let value = i32::from_le_bytes([e, f, g, h]);
        match u32::from_le_bytes([a, b, c, d]) {
            0 => Report::NotStarted(value),
            _ => Report::Ended {
                status: value,
                peak: u64::from_le_bytes(peak),
            },
        }
    }
}

/// A keeper of this driver. Dropping it ends its process.
pub(super) struct Keeper {
    socket: Arc<UnixStream>,
    /// Orders come from several threads.
    orders: Arc<Mutex<()>>,
    launches: u64,
    child: Child,
}

impl Keeper {
    /// Starts a keeper, which is this program: `door` leads to it, and `name` is
    /// what it is called.
    pub(super) fn start(door: &Path, name: &Path) -> std::io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        let mut command = Command::new(door);
        command.arg0(name);
        // Of the environment only what the loader of this program may need.
        let loader = std::env::var_os("LD_LIBRARY_PATH");
        let loader = loader.map(|path| (OsString::from("LD_LIBRARY_PATH"), path));
        command.arg(VERB);
        command.args(descriptors::before().map(|files| files.to_string()));
        command.env_clear().envs(loader);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        // Out of reach of a terminal's Ctrl-C: stopping is the driver's to say.
        let child = command.process_group(0).spawn()?;
        Ok(Keeper {
            socket: Arc::new(socket),
            orders: Arc::default(),
            launches: 0,
            child,
        })
    }

    /// Has the keeper start a program; `files` are its standard output and
    /// error. Gives what stops it.
    pub(super) fn launch(
        &mut self,
        mut launch: Launch,
        files: [BorrowedFd<'_>; 2],
    ) -> std::io::Result<Stopper> {
        self.launches += 1;
        launch.number = self.launches;
        let number = launch.number;
        let frame = frame(&Order::Start(launch));
        let _one_at_a_time = lock(&self.orders);
        send_with(&self.socket, &frame, files)?;
        Ok(Stopper {
            socket: Arc::clone(&self.socket),
            orders: Arc::clone(&self.orders),
            number,
        })
    }

    /// Waits for the end of what was launched last.
    pub(super) fn wait(&mut self) -> std::io::Result<Report> {
        let mut bytes = [0; Report::LENGTH];
        (&*self.socket).read_exact(&mut bytes)?;
        Ok(Report::from_bytes(bytes))
    }
}

impl Keeper {
    /// Has it end, without waiting for that.
    pub(super) fn dismiss(&self) {
        // It ends when nobody can give it orders any more.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.dismiss();
        let _ = self.child.wait();
    }
}

/// Stops what was launched, from any thread and at any time.
#[derive(Clone)]
pub(super) struct Stopper {
    socket: Arc<UnixStream>,
    orders: Arc<Mutex<()>>,
    number: u64,
}

impl Stopper {
    pub(super) fn stop(&self, stop: Stop) {
        let _one_at_a_time = lock(&self.orders);
        // A keeper that is gone has ended everything.
        let _ = (&*self.socket).write_all(&frame(&Order::Stop(self.number, stop)));
    }
}

fn lock(orders: &Mutex<()>) -> MutexGuard<'_, ()> {
    orders.lock().unwrap_or_else(|e| e.into_inner())
}

fn frame(order: &Order) -> Vec<u8> {
    let bytes = postcard::to_extend(order, vec![0; 4]);
    let mut bytes = bytes.expect("orders are plain data");
    let length = (bytes.len() - 4) as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// Sends bytes; the files go with the first of them.
fn send_with(
    mut socket: &UnixStream,
    bytes: &[u8],
    files: [BorrowedFd<'_>; 2],
) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(
            socket.as_fd(),
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    })?;
    socket.write_all(&bytes[sent..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_round_trip() {
        let ended = Report::Ended {
            status: -7,
            peak: 1 << 40,
        };
        for report in [Report::NotStarted(2), ended] {
            assert_eq!(Report::from_bytes(report.to_bytes()), report);
        }
    }
}
