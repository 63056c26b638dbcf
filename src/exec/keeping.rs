//! The keeper's own side: one order after the other, until the driver is gone.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{
    Pid, Signal, WaitOptions, getpgid, kill_process, kill_process_group, waitpid,
};

use super::Stop;
use super::descriptors;
use super::keeper::{Launch, Order, Report};
use super::launch::{self, Ended};
use super::sandbox;

/// How long killed processes may take to be gone before the next step is begun
/// nevertheless: one that waits for a broken disk may take forever.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves the driver at the other end of standard input.
pub fn keep(files: Option<&OsStr>) -> ExitCode {
    if let Some(files) = files.and_then(|files| files.to_str()?.parse().ok()) {
        descriptors::lower(files);
    }
    if let Err(error) = leave_a_guard() {
        // It would only be needed if this process was killed.
        eprintln!("the keeper of a step has no guard: {error}");
    }
    match Keeping::begin().and_then(|mut keeping| keeping.until_driver_is_gone()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the keeper of a step failed: {error}");
            end_children();
            ExitCode::FAILURE
        }
    }
}

/// Goes on in a child of this process, which stands guard: when the keeper is
/// killed, alone or with its driver, what its step has started becomes the
/// guard's, which ends it. The death signal reaches the step's program only.
fn leave_a_guard() -> io::Result<()> {
    if cfg!(not(target_os = "linux")) {
        // There is nothing that leads from a child to what it left behind.
        return Ok(());
    }
    launch::adopt_orphans(c"step-guard")?;
    let Some(keeper) = launch::fork()? else {
        return Ok(());
    };
    // The socket is to close with the keeper.
    launch::replace_input(&std::fs::File::open("/dev/null")?)?;
    while let Err(rustix::io::Errno::INTR) = waitpid(Some(keeper), WaitOptions::empty()) {}
    end_children();
    std::process::exit(0)
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
        launch::adopt_orphans(c"step-keeper")?;
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
        match self.wait(launch, program)? {
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

    fn wait(&mut self, launch: &Launch, program: Pid) -> io::Result<Over> {
        let mut asked = false;
        loop {
            while let Some(ended) = launch::reap()? {
                // The others are orphans of the step.
                if ended.pid != program.as_raw_nonzero().get() {
                    continue;
                }
                if asked && !self.let_finish(launch, program)? {
                    return Ok(Over::DriverGone);
                }
                return Ok(Over::Ended(ended));
            }
            if !self.sleep(None)? {
                continue;
            }
            match self.ordered(launch)? {
                None => return Ok(Over::DriverGone),
                Some(Some(Stop::Ask)) => {
                    asked = true;
                    ask(launch, program);
                }
                Some(Some(Stop::Kill)) => {
                    asked = false;
                    // It has not been waited for, so the number is still its own.
                    let _ = kill_process_group(program, Signal::KILL);
                }
                Some(None) => {}
            }
        }
    }

    /// The program that was asked to stop has ended, as a shell does at once;
    /// what it had started may be at its checkpoint. Waits for the end of all,
    /// until it is to be killed; false if the driver is gone.
    fn let_finish(&mut self, launch: &Launch, program: Pid) -> io::Result<bool> {
        let mut asked = BTreeSet::new();
        // Where there are no orphans to adopt, nobody tells of their end.
        let every = (!cfg!(target_os = "linux")).then_some(Duration::from_millis(20));
        loop {
            while matches!(launch::reap(), Ok(Some(_))) {}
            if !launch::has_children(program) {
                return Ok(true);
            }
            // The others of its group were asked with it.
            for child in launch::children() {
                if getpgid(Some(child)) != Ok(program) && asked.insert(child.as_raw_nonzero()) {
                    let _ = kill_process(child, Signal::TERM);
                }
            }
            if !self.sleep(every)? {
                continue;
            }
            match self.ordered(launch)? {
                None => return Ok(false),
                Some(Some(Stop::Kill)) => return Ok(true),
                Some(_) => {}
            }
        }
    }

    /// What is to be done about a launch: nothing, if an order was about one
    /// before; none if the driver is gone.
    fn ordered(&mut self, launch: &Launch) -> io::Result<Option<Option<Stop>>> {
        match self.inbox.next()? {
            None => Ok(None),
            Some(Order::Stop(of, stop)) => Ok(Some((of == launch.number).then_some(stop))),
            Some(Order::Start(_)) => Err(io::Error::other("two steps at once")),
        }
    }

    /// Sleeps until there is an order, a child has ended or time is over; says
    /// whether there is an order.
    fn sleep(&mut self, at_most: Option<Duration>) -> io::Result<bool> {
        if self.inbox.whole().is_some() {
            return Ok(true);
        }
        let mut fds = [
            PollFd::new(&self.inbox.socket, PollFlags::IN),
            PollFd::new(&self.endings, PollFlags::IN),
        ];
        let at_most = at_most.and_then(|time| Timespec::try_from(time).ok());
        match poll(&mut fds, at_most.as_ref()) {
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

/// Asks a program to stop, and all of its group.
fn ask(launch: &Launch, program: Pid) {
    // It has not been waited for, so the number is still its own.
    let _ = kill_process_group(program, Signal::TERM);
    // What is held in a sandbox is a child, which may have left the group.
    let verb = launch.arguments.get(1).map(|verb| verb.to_bytes());
    if verb != Some(sandbox::VERB.as_bytes()) {
        return;
    }
    for child in launch::children_of(program) {
        if getpgid(Some(child)) != Ok(program) {
            let _ = kill_process(child, Signal::TERM);
        }
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
