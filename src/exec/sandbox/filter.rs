//! The system call filter: which calls of a program its watcher is asked about, and which fail at once.

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO, SECCOMP_RET_USER_NOTIF, sock_filter,
};

use super::calls;

/// The name of this machine's system call numbers, as the kernel says it.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_00b7);
#[cfg(target_arch = "riscv64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_00f3);
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
const ARCHITECTURE: Option<u32> = None;

/// Numbers from here on belong to x32 programs, which nobody has.
const X32: u32 = 0x4000_0000;

/// Offsets in the kernel's `seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

/// The lower half of an argument; the upper one lies 4 bytes behind it.
const fn argument(n: u32) -> u32 {
    16 + 8 * n
}

const REFUSE: u32 = SECCOMP_RET_ERRNO | libc::EACCES as u32;
const MISSING: u32 = SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// A filter, ready for the kernel.
pub struct Filter(pub Vec<sock_filter>);

impl Filter {
    /// The filter of a watched program; none on machines whose calls this
    /// program does not know. If it is held, what the watcher could not see
    /// fails.
    pub fn watched(held: bool, network: bool) -> Option<Self> {
        let mut filter = Filter::new(if held { MISSING } else { SECCOMP_RET_ALLOW })?;
        // These would do the calls below unseen; programs fall back to them.
        for number in calls::UNSEEN {
            filter.answer(*number, MISSING);
        }
        for number in calls::PATHS {
            filter.answer(*number, SECCOMP_RET_USER_NOTIF);
        }
        if held {
            filter.hiding();
        }
        if !network {
            for number in [libc::SYS_socket, libc::SYS_connect, libc::SYS_bind] {
                filter.answer(number, SECCOMP_RET_USER_NOTIF);
            }
            // The names of their addressees lie where no filter looks.
            for number in [libc::SYS_sendmsg, libc::SYS_sendmmsg] {
                filter.answer(number, SECCOMP_RET_USER_NOTIF);
            }
            filter.addressed(libc::SYS_sendto, 4);
        }
        Some(filter.end())
    }

    /// The filter of a built-in kind that uses no network: no sockets but
    /// those between processes of this machine.
    pub fn without_network() -> Option<Self> {
        let mut filter = Filter::new(MISSING)?;
        filter.answer(libc::SYS_io_uring_setup, MISSING);
        filter.jump(BPF_JEQ, libc::SYS_socket as u32, 0, 3);
        filter.load(argument(0));
        filter.jump(BPF_JEQ, libc::AF_UNIX as u32, 1, 0);
        filter.answer_now(REFUSE);
        filter.answer_now(SECCOMP_RET_ALLOW);
        Some(filter)
    }

    /// Calls with the numbers of another architecture get `foreign`.
    fn new(foreign: u32) -> Option<Self> {
        let mut filter = Filter(Vec::new());
        filter.load(ARCH);
        filter.jump(BPF_JEQ, ARCHITECTURE?, 1, 0);
        filter.answer_now(foreign);
        filter.load(NUMBER);
        if cfg!(target_arch = "x86_64") {
            filter.jump(BPF_JGE, X32, 0, 1);
            filter.answer_now(foreign);
        }
        Some(filter)
    }

    /// The rest is allowed.
    fn end(mut self) -> Self {
        self.answer_now(SECCOMP_RET_ALLOW);
        self
    }

    /// Gives a call an answer whatever its arguments.
    fn answer(&mut self, number: i64, action: u32) {
        self.jump(BPF_JEQ, number as u32, 0, 1);
        self.answer_now(action);
    }

    /// Asks about a call by which a program hides its memory from its watcher.
    fn hiding(&mut self) {
        self.jump(BPF_JEQ, libc::SYS_prctl as u32, 0, 6);
        self.load(argument(0));
        self.jump(BPF_JEQ, libc::PR_SET_DUMPABLE as u32, 0, 3);
        self.load(argument(1));
        self.jump(BPF_JEQ, 1, 1, 0);
        self.answer_now(SECCOMP_RET_USER_NOTIF);
        self.answer_now(SECCOMP_RET_ALLOW);
    }

    /// Asks about a call only if its argument `address` is not null.
    fn addressed(&mut self, number: i64, address: u32) {
        self.jump(BPF_JEQ, number as u32, 0, 6);
        self.load(argument(address));
        self.jump(BPF_JEQ, 0, 0, 2);
        self.load(argument(address) + 4);
        self.jump(BPF_JEQ, 0, 1, 0);
        self.answer_now(SECCOMP_RET_USER_NOTIF);
        self.answer_now(SECCOMP_RET_ALLOW);
    }

    fn load(&mut self, offset: u32) {
        self.push(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
    }

    fn jump(&mut self, test: u32, value: u32, if_so: u8, if_not: u8) {
        self.push(BPF_JMP | test | BPF_K, value, if_so, if_not);
    }

    fn answer_now(&mut self, action: u32) {
        self.push(BPF_RET | BPF_K, action, 0, 0);
    }

    fn push(&mut self, code: u32, k: u32, jt: u8, jf: u8) {
        let code = code as u16;
        self.0.push(sock_filter { code, jt, jf, k });
    }
}
