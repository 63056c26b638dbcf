//! The keeper's own side: one order after the other, until the driver is gone.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::Stop;
use super::keeper::{Launch, Order, Report};
use super::launch::{self, Ended};

/// How long killed processes may take to be gone before the next step is begun
/// nevertheless: one that waits for a broken disk may take forever.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves the driver at the other end of standard input.
pub fn keep() -> ExitCode {
    match Keeping::begin().and_then(|mut keeping| keeping.until_driver_is_gone()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the keeper of a step failed: {error}");
            end_children();
            ExitCode::FAILURE
        }
    }
}

struct Keeping {
    inbox: Inbox,
    /// Readable when a child has ended.
    endings: UnixStream,
    nothing: OwnedFd,
}

/// Why waiting for a step is over.
enum Over {
    Ended(Ended),
    DriverGone,
}

impl Keeping {
    fn begin() -> io::Result<Self> {
        launch::adopt_orphans()?;
        let (endings, signalled) = UnixStream::pair()?;
        endings.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(signal_hook::consts::SIGCHLD, signalled)?;
        Ok(Keeping {
            inbox: Inbox::new(io::stdin().as_fd().try_clone_to_owned()?.into()),
            endings,
            nothing: std::fs::File::open("/dev/null")?.into(),
        })
    }

    fn until_driver_is_gone(&mut self) -> io::Result<()> {
        while let Some(order) = self.inbox.next()? {
            // What is to be stopped when nothing runs has just ended.
            let Order::Start(launch) = order else {
                continue;
            };
            let Some(report) = self.see_through(&launch)? else {
                break;
            };
            self.inbox.socket.write_all(&report.to_bytes())?;
        }
        end_children();
        Ok(())
    }

    /// Starts a program and waits for its end; none if the driver is gone.
    fn see_through(&mut self, launch: &Launch) -> io::Result<Option<Report>> {
        let [output, error] = self.inbox.files()?;
        let files = [self.nothing.as_fd(), output.as_fd(), error.as_fd()];
        let started = launch::start(launch, files);
        drop((output, error));
        let program = match started {
            Ok(program) => program,
            Err(error) => {
                let number = error.raw_os_error().unwrap_or(0);
                return Ok(Some(Report::NotStarted(number)));
            }
        };
        match self.wait(launch.number, program)? {
            Over::DriverGone => Ok(None),
            Over::Ended(ended) => {
                // What the step left running must not go on writing. Where
                // there are no orphans to adopt, its group is all that is known.
                if cfg!(not(target_os = "linux")) {
                    let _ = kill_process_group(program, Signal::KILL);
                }
                end_children();
                Ok(Some(Report::Ended {
                    status: ended.status,
                    peak: ended.peak,
                }))
            }
        }
    }

    fn wait(&mut self, number: u64, program: Pid) -> io::Result<Over> {
        loop {
            while let Some(ended) = launch::reap()? {
                // The others are orphans of the step.
                if ended.pid == program.as_raw_nonzero().get() {
                    return Ok(Over::Ended(ended));
                }
            }
            if !self.sleep()? {
                continue;
            }
            match self.inbox.next()? {
                None => return Ok(Over::DriverGone),
                Some(Order::Stop(of, stop)) if of == number => {
                    let signal = match stop {
                        Stop::Ask => Signal::TERM,
                        Stop::Kill => Signal::KILL,
                    };
                    // It has not been waited for, so the number is still its own.
                    let _ = kill_process_group(program, signal);
                }
                Some(Order::Stop(..)) => {}
                Some(Order::Start(_)) => {
                    return Err(io::Error::other("two steps at once"));
                }
            }
        }
    }

    /// Sleeps until there is an order, or a child has ended; says whether there
    /// is an order.
    fn sleep(&mut self) -> io::Result<bool> {
        if self.inbox.whole().is_some() {
            return Ok(true);
        }
        let mut fds = [
            PollFd::new(&self.inbox.socket, PollFlags::IN),
            PollFd::new(&self.endings, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => return Ok(false),
            polled => polled?,
        };
        let [ordered, ended] = fds.map(|fd| !fd.revents().is_empty());
        if ended {
            // How many have ended is seen by asking.
            let _ = self.endings.read(&mut [0; 64]);
        }
        Ok(ordered)
    }
}

/// Kills and reaps children, and what becomes a child by that, until there are none.
fn end_children() {
    let start = Instant::now();
    loop {
        loop {
            match launch::reap() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                // No children: by far the usual case, and all it costs.
                Err(_) => return,
            }
        }
        if start.elapsed() > PATIENCE {
            return;
        }
        for child in launch::children() {
            let _ = kill_process(child, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Orders as they come in, and the files that came with them.
struct Inbox {
    socket: UnixStream,
    bytes: Vec<u8>,
    files: VecDeque<OwnedFd>,
}

impl Inbox {
    fn new(socket: UnixStream) -> Self {
        Inbox {
            socket,
            bytes: Vec::new(),
            files: VecDeque::new(),
        }
    }

    /// The length of the first order that is wholly here, without its frame.
    fn whole(&self) -> Option<usize> {
        let length = self.bytes.first_chunk().copied().map(u32::from_le_bytes)? as usize;
        (self.bytes.len() >= 4 + length).then_some(length)
    }

    /// The next order; none when the driver is gone.
    fn next(&mut self) -> io::Result<Option<Order>> {
        loop {
            if let Some(length) = self.whole() {
                let order = postcard::from_bytes(&self.bytes[4..4 + length]);
                self.bytes.drain(..4 + length);
                return order.map(Some).map_err(io::Error::other);
            }
            if self.receive()? == 0 {
                return Ok(None);
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = [0; 16 * 1024];
        let got = rustix::io::retry_on_intr(|| {
            recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut buffer)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
        });
        let got = match got {
            Ok(got) => got.bytes,
            // As good as gone.
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(e) => return Err(e.into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.files.extend(files);
            }
        }
        self.bytes.extend_from_slice(&buffer[..got]);
        Ok(got)
    }

    /// Standard output and error of the launch at hand.
    fn files(&mut self) -> io::Result<[OwnedFd; 2]> {
        match (self.files.pop_front(), self.files.pop_front()) {
            (Some(output), Some(error)) => Ok([output, error]),
            _ => Err(io::Error::other("a launch without its files")),
        }
    }
}
