//! The watcher: looks at the calls of a program and its children, and names what is not declared.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{
    Access as Mode, AtFlags, CWD, FileType, Mode as Bits, OFlags, ResolveFlags, accessat, fstat,
    openat, openat2,
};
use rustix::io::Errno;

use super::calls::{Intent, Touch, touches};
use super::notify::{self, Call};
use super::report::{Access, KEPT, What};
use super::rules::Rules;

/// Watches one program and all that it starts.
pub struct Watcher<'a> {
    rules: &'a Rules,
    /// Whether undeclared accesses are refused.
    held: bool,
    /// Whether Landlock keeps abstract sockets apart.
    scoped: bool,
    found: BTreeMap<(What, String), Seen>,
    more: usize,
}

/// How much of a message's header tells of its name, and how far apart the
/// headers of many lie.
const NAME: usize = 12;
const MESSAGE: u64 = size_of::<libc::mmsghdr>() as u64;

/// Who did something first, and how.
struct Seen {
    program: String,
    through: Option<String>,
}

/// What a path leads to.
struct Place {
    path: PathBuf,
    /// None if it is yet to be made.
    kind: Option<FileType>,
    /// A way to it that does not depend on the name.
    fd: Option<OwnedFd>,
}

impl Place {
    fn is_folder(&self) -> bool {
        self.kind == Some(FileType::Directory)
    }
}

impl<'a> Watcher<'a> {
    /// A watcher over these rules.
    pub fn new(rules: &'a Rules, held: bool, scoped: bool) -> Self {
        Watcher {
            rules,
            held,
            scoped,
            found: BTreeMap::new(),
            more: 0,
        }
    }

    /// Answers calls until `ended` becomes readable.
    pub fn serve(&mut self, listener: &OwnedFd, ended: &OwnedFd) -> io::Result<()> {
        loop {
            let mut fds = [
                PollFd::new(listener, PollFlags::IN),
                PollFd::new(ended, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let (asked, over) = (fds[0].revents(), fds[1].revents());
            // What it left running may ask for ever.
            if !over.is_empty() || asked == PollFlags::HUP {
                return Ok(());
            }
            if asked.contains(PollFlags::IN) {
                self.one(listener.as_fd())?;
            }
        }
    }

    fn one(&mut self, listener: BorrowedFd<'_>) -> io::Result<()> {
        if let Some(call) = notify::receive(listener)? {
            let fine = self.look(&call);
            let refused = self.held && !fine;
            notify::answer(listener, &call, refused.then_some(libc::EACCES));
        }
        Ok(())
    }

    /// What was found: the accesses, and how many more there were.
    pub fn into_found(self) -> (Vec<Access>, usize) {
        let accesses = self.found.into_iter().map(|((what, target), seen)| Access {
            what,
            target,
            program: seen.program,
            through: seen.through,
        });
        (accesses.collect(), self.more)
    }

    /// Whether a call touches only what it may; what else it touches is noted.
    fn look(&mut self, call: &Call) -> bool {
        let mut through = None;
        let undeclared = match call.number {
            libc::SYS_socket => self.socket(call),
            libc::SYS_connect => self.argument(call, 1, What::Connect),
            libc::SYS_bind => self.argument(call, 1, What::Listen),
            libc::SYS_sendto => self.sent_to(call),
            libc::SYS_sendmsg => self.message(call, call.arguments[1], call.arguments[2]),
            libc::SYS_sendmmsg => self.messages(call),
            libc::SYS_prctl => Some((What::Hide, process_name(call.thread))),
            number => {
                let touches = touches(number, &call.arguments);
                touches.iter().find_map(|touch| {
                    let undeclared = self.touch(call, touch)?;
                    through = self.system_path(call, touch);
                    Some(undeclared)
                })
            }
        };
        let undeclared = match call.is_hidden() {
            true => Some((What::Hide, process_name(call.thread))),
            false => undeclared,
        };
        let Some((what, target)) = undeclared else {
            return true;
        };
        if self.found.len() >= KEPT {
            self.more += usize::from(!self.found.contains_key(&(what, target)));
        } else {
            let seen = || Seen {
                program: process_name(call.thread),
                through,
            };
            self.found.entry((what, target)).or_insert_with(seen);
        }
        false
    }

    // Paths

    fn touch(&self, call: &Call, touch: &Touch) -> Option<(What, String)> {
        let path = match touch.path {
            0 => Vec::new(),
            path => call.path(path)?,
        };
        let changes = matches!(touch.intent, Intent::Change { .. });
        if path.is_empty() && !changes {
            return None;
        }
        let (what, place) = match touch.intent {
            Intent::Open(flags) => self.open(call, touch, &path, flags)?,
            Intent::OpenHow(how) => {
                let flags = call.memory(how, 8);
                let flags = u64::from_ne_bytes(flags.try_into().ok()?);
                self.open(call, touch, &path, flags as i32)?
            }
            Intent::Run => return self.run(call, touch, &path),
            Intent::Change { .. } if path.is_empty() => {
                (What::Write, place_of(base(call, touch.folder)?)?)
            }
            Intent::Change { follow } => {
                let place = existing(call, touch.folder, &path, follow)?;
                (What::Write, place)
            }
            Intent::Remove => (What::Write, existing(call, touch.folder, &path, false)?),
            Intent::Make => (What::Write, to_be_made(call, touch.folder, &path)?),
            Intent::Replace => {
                let place = existing(call, touch.folder, &path, false)
                    .or_else(|| to_be_made(call, touch.folder, &path))?;
                (What::Write, place)
            }
            Intent::Root => {
                let place = existing(call, touch.folder, &path, true)?;
                return Some((What::Root, place.path.display().to_string()));
            }
            Intent::Link => (What::Read, existing(call, touch.folder, &path, false)?),
        };
        self.undeclared(what, &place)
    }

    /// What opening means: reading, listing or writing.
    fn open(&self, call: &Call, touch: &Touch, path: &[u8], flags: i32) -> Option<(What, Place)> {
        if flags & libc::O_PATH != 0 {
            return None;
        }
        let temporary = flags & libc::O_TMPFILE == libc::O_TMPFILE;
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
        if !writes && !temporary && self.is_plainly_system(path) {
            return None;
        }
        let follow = flags & libc::O_NOFOLLOW == 0;
        let Some(place) = existing(call, touch.folder, path, follow) else {
            let makes = flags & libc::O_CREAT != 0;
            let place = makes.then(|| to_be_made(call, touch.folder, path))??;
            return Some((What::Write, place));
        };
        if flags & libc::O_CREAT != 0 && flags & libc::O_EXCL != 0 && !temporary {
            return None;
        }
        let what = match (writes || temporary, place.is_folder()) {
            (true, true) if !temporary => return None,
            (true, _) => What::Write,
            (false, true) => What::List,
            (false, false) => What::Read,
        };
        Some((what, place))
    }

    fn run(&self, call: &Call, touch: &Touch, path: &[u8]) -> Option<(What, String)> {
        if self.is_plainly_system(path) {
            return None;
        }
        let place = existing(call, touch.folder, path, true)?;
        if place.kind != Some(FileType::RegularFile) {
            return None;
        }
        let script = place.fd.as_ref().and_then(interpreter);
        self.undeclared(What::Run, &place).or_else(|| {
            // The kernel opens the interpreter of a script without a call.
            let interpreter = existing(call, libc::AT_FDCWD, &script?, true)?;
            self.undeclared(What::Run, &interpreter)
        })
    }

    /// Whether a path needs no closer look to be read: it names a part of the
    /// system, and no link on it leads elsewhere.
    fn is_plainly_system(&self, path: &[u8]) -> bool {
        self.names_system(path) && !has_link(path)
    }

    /// Whether a path names a part of the system.
    fn names_system(&self, path: &[u8]) -> bool {
        path.starts_with(b"/")
            && self.rules.system.cover(Path::new(OsStr::from_bytes(path)))
            && !path.windows(4).any(|part| part == b"/../")
            && !path.ends_with(b"/..")
    }

    /// The path of the system by which a call came to what is none of it.
    fn system_path(&self, call: &Call, touch: &Touch) -> Option<String> {
        let path = call.path(touch.path)?;
        let within = self.names_system(&path) && !path.starts_with(b"/proc/");
        within.then(|| String::from_utf8_lossy(&path).into_owned())
    }

    fn undeclared(&self, what: What, place: &Place) -> Option<(What, String)> {
        let may = match what {
            What::Write => self.rules.may_write(&place.path),
            // Devices may be listed.
            What::List if place.path == Path::new("/dev") => true,
            _ => self.rules.may_read(&place.path),
        };
        if may || is_nowhere(&place.path) || !allowed_to_user(what, place) {
            return None;
        }
        Some((what, place.path.display().to_string()))
    }

    // The network

    fn socket(&self, call: &Call) -> Option<(What, String)> {
        let [domain, kind, protocol] = [0, 1, 2].map(|n| call.arguments[n] as i32);
        let kind = kind & 0xf;
        let ip = matches!(domain, libc::AF_INET | libc::AF_INET6);
        // TCP is left to Landlock and to `connect`, which knows where to.
        let tcp = kind == libc::SOCK_STREAM && matches!(protocol, 0 | libc::IPPROTO_TCP);
        let local = [libc::AF_UNIX, libc::AF_NETLINK, libc::AF_ALG].contains(&domain);
        if local || ip && (tcp || !self.held) {
            return None;
        }
        let name = match (ip, kind) {
            (true, libc::SOCK_DGRAM) => "UDP".to_owned(),
            (true, libc::SOCK_RAW) => "raw IP".to_owned(),
            (true, _) => format!("IP (protocol {protocol})"),
            (false, _) => format!("family {domain}"),
        };
        Some((What::Socket, name))
    }

    /// The address that a call is about: its argument `n`, the length behind it.
    fn argument(&self, call: &Call, n: usize, what: What) -> Option<(What, String)> {
        let length = call.arguments[n + 1] as u32;
        self.address(call, call.arguments[n], length, what)
    }

    fn sent_to(&self, call: &Call) -> Option<(What, String)> {
        let addressee = self.argument(call, 4, What::Connect);
        addressee.or_else(|| self.fast_open(call.arguments[3]))
    }

    /// Whom the message at `header` in the caller's memory is sent to.
    fn message(&self, call: &Call, header: u64, flags: u64) -> Option<(What, String)> {
        // It begins with where the name lies and how long that is.
        let head = call.memory(header, NAME);
        let name = u64::from_ne_bytes(head.get(..8)?.try_into().ok()?);
        let length = u32::from_ne_bytes(head.get(8..NAME)?.try_into().ok()?);
        let addressee = match name {
            0 => None,
            name => self.address(call, name, length, What::Connect),
        };
        addressee.or_else(|| self.fast_open(flags))
    }

    fn messages(&self, call: &Call) -> Option<(What, String)> {
        let [_, first, count, flags, ..] = call.arguments;
        // The kernel takes no more of them at once.
        let headers = (0..count.min(1024)).map(|n| first + n * MESSAGE);
        let mut addressees = headers.map(|header| self.message(call, header, flags));
        addressees.find_map(|addressee| addressee)
    }

    /// What connects without a `connect`. No other use of the flag, so that it
    /// need not be known to whom.
    fn fast_open(&self, flags: u64) -> Option<(What, String)> {
        let fast_open = flags as i32 & libc::MSG_FASTOPEN != 0;
        fast_open.then(|| (What::Socket, "TCP fast open".to_owned()))
    }

    fn address(&self, call: &Call, at: u64, length: u32, what: What) -> Option<(What, String)> {
        let bytes = call.memory(at, length.min(128) as usize);
        let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
        match i32::from(family) {
            libc::AF_UNIX => self.local_socket(call, &bytes[2..], what),
            libc::AF_INET | libc::AF_INET6 => Some((what, ip(&bytes)?.to_string())),
            _ => None,
        }
    }

    fn local_socket(&self, call: &Call, name: &[u8], what: What) -> Option<(What, String)> {
        match name {
            [] => None,
            [0, ..] if what == What::Connect && self.held && !self.scoped => {
                let name = String::from_utf8_lossy(&name[1..]).into_owned();
                Some((what, format!("the socket @{name}")))
            }
            [0, ..] => None,
            name => {
                let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
                if what == What::Listen {
                    let place = to_be_made(call, libc::AT_FDCWD, &name[..end])?;
                    return self.undeclared(What::Write, &place);
                }
                let place = existing(call, libc::AT_FDCWD, &name[..end], true)?;
                let may = self.rules.may_connect(&place.path);
                (!may).then(|| (what, format!("the socket {}", place.path.display())))
            }
        }
    }
}

/// Whether there is a link on the way to what is at an absolute path.
fn has_link(path: &[u8]) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = openat2(CWD, path, flags, Bits::empty(), ResolveFlags::NO_SYMLINKS);
    matches!(opened, Err(Errno::LOOP | Errno::NOSYS))
}

/// Whether something has no place among files: a pipe, a socket, memory.
fn is_nowhere(path: &Path) -> bool {
    !path.is_absolute() || path.as_os_str().as_bytes().starts_with(b"/memfd:")
}

/// Whether the user could do it without a sandbox: otherwise it fails anyway.
fn allowed_to_user(what: What, place: &Place) -> bool {
    let mode = match what {
        What::Write => Mode::WRITE_OK,
        What::Run => Mode::EXEC_OK,
        _ => Mode::READ_OK,
    };
    // What is to be made, and what is removed, is a matter of its folder.
    let path = match &place.fd {
        Some(_) => place.path.as_path(),
        None => place.path.parent().unwrap_or(&place.path),
    };
    accessat(CWD, path, mode, AtFlags::EACCESS).is_ok()
}

/// What is at a path as a thread sees it.
fn existing(call: &Call, folder: i32, path: &[u8], follow: bool) -> Option<Place> {
    let path = as_seen(call, path);
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, !follow);
    let fd = match path.is_absolute() {
        true => openat(CWD, &path, flags, Bits::empty()),
        false => openat(&base(call, folder)?, &path, flags, Bits::empty()),
    };
    place_of(fd.ok()?)
}

fn place_of(fd: OwnedFd) -> Option<Place> {
    let stat = fstat(&fd).ok()?;
    Some(Place {
        path: real_path(&fd)?,
        kind: Some(FileType::from_raw_mode(stat.st_mode)),
        fd: Some(fd),
    })
}

/// The place of something that is not there yet, in a folder that is.
fn to_be_made(call: &Call, folder: i32, path: &[u8]) -> Option<Place> {
    if existing(call, folder, path, false).is_some() {
        return None;
    }
    let trimmed = path.len() - path.iter().rev().take_while(|b| **b == b'/').count();
    let path = &path[..trimmed];
    let (parent, name) = match path.iter().rposition(|b| *b == b'/') {
        Some(0) => (&b"/"[..], &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b"."[..], path),
    };
    let parent = existing(call, folder, parent, true).filter(Place::is_folder)?;
    Some(Place {
        path: parent.path.join(OsStr::from_bytes(name)),
        kind: None,
        fd: None,
    })
}

/// What a thread's relative paths start from.
fn base(call: &Call, folder: i32) -> Option<OwnedFd> {
    let path = match folder {
        libc::AT_FDCWD => format!("/proc/{}/cwd", call.thread),
        fd => format!("/proc/{}/fd/{fd}", call.thread),
    };
    openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Bits::empty()).ok()
}

/// A path whose `self` is the thread, not this process.
fn as_seen(call: &Call, path: &[u8]) -> PathBuf {
    let own = format!("/proc/{}", call.thread);
    let fd = |n: &[u8]| [own.as_bytes(), b"/fd/", n].concat();
    let bytes = match path {
        b"/dev/stdin" => fd(b"0"),
        b"/dev/stdout" => fd(b"1"),
        b"/dev/stderr" => fd(b"2"),
        _ => {
            let instead = [
                (&b"/proc/self"[..], own.clone()),
                (b"/proc/thread-self", own.clone()),
                (b"/dev/fd", format!("{own}/fd")),
            ];
            let found = instead.iter().find_map(|(name, own)| {
                let rest = path.strip_prefix(*name)?;
                let whole = rest.is_empty() || rest.starts_with(b"/");
                whole.then(|| [own.as_bytes(), rest].concat())
            });
            found.unwrap_or_else(|| path.to_owned())
        }
    };
    OsString::from_vec(bytes).into()
}

fn real_path(fd: &OwnedFd) -> Option<PathBuf> {
    use std::os::fd::AsRawFd;
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()
}

/// The interpreter that a script names in its first line.
fn interpreter(fd: &OwnedFd) -> Option<Vec<u8>> {
    use std::os::fd::AsRawFd;
    let mut head = [0; 256];
    let mut file = fs::File::open(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
    let n = file.read(&mut head).ok()?;
    let line = head[..n]
        .strip_prefix(b"#!")?
        .split(|b| *b == b'\n')
        .next()?;
    let name = line
        .trim_ascii()
        .split(|b| b.is_ascii_whitespace())
        .next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// The name of the process that a thread is one of: threads may have their own.
fn process_name(thread: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    let process = process.unwrap_or_default().trim();
    let name = fs::read_to_string(format!("/proc/{process}/comm"));
    name.unwrap_or_default().trim_end().to_owned()
}

/// An internet address from the bytes of the kernel's structure.
fn ip(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    if i32::from(family) == libc::AF_INET {
        let address: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
        return Some((Ipv4Addr::from(address), port).into());
    }
    let address: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
    Some((Ipv6Addr::from(address), port).into())
}
