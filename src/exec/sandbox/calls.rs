//! The system calls that take paths: what each one does to which path.

use libc::{AT_FDCWD, O_CREAT, O_TRUNC, O_WRONLY};

/// What a call means to do at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Open with these flags.
    Open(i32),
    /// Open with the flags that lie at this address.
    OpenHow(u64),
    /// Run.
    Run,
    /// Change what is there, links followed or not. Without a path it is the
    /// folder's descriptor itself, which may be a file's.
    Change { follow: bool },
    /// Make it the root of all paths.
    Root,
    /// Make something where nothing is.
    Make,
    /// Remove or move away what is there.
    Remove,
    /// Move something there, over what is there.
    Replace,
    /// Link what is there under another name.
    Link,
}

/// One path of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touch {
    /// What is meant to be done.
    pub intent: Intent,
    /// The folder that a relative path starts from.
    pub folder: i32,
    /// Where the path lies in the caller's memory; 0 for none.
    pub path: u64,
}

/// Calls by which files and sockets are reached that neither paths nor
/// arguments in registers tell of, or that are newer than most kernels and do
/// what a call of [`PATHS`] does: these have no names in the `libc` crate.
pub const UNSEEN: &[i64] = &[
    libc::SYS_io_uring_setup,
    SETXATTRAT,
    REMOVEXATTRAT,
    FILE_SETATTR,
];

/// The same on all architectures, as all numbers of their age.
const SETXATTRAT: i64 = 463;
const REMOVEXATTRAT: i64 = 466;
const FILE_SETATTR: i64 = 469;

/// The calls of [`touches`].
pub const PATHS: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_truncate,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fsetxattr,
    libc::SYS_fremovexattr,
    libc::SYS_chroot,
    #[cfg(not(target_arch = "riscv64"))]
    libc::SYS_renameat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
];

const CHANGE: Intent = Intent::Change { follow: true };
const CHANGE_LINK: Intent = Intent::Change { follow: false };

/// What a call does to which paths.
pub fn touches(number: i64, a: &[u64; 6]) -> Vec<Touch> {
    let at = |intent, folder: u64, path| Touch {
        intent,
        folder: folder as i32,
        path,
    };
    let here = |intent, path| Touch {
        intent,
        folder: AT_FDCWD,
        path,
    };
    let change_at = |flags: u64| Intent::Change {
        follow: flags as i32 & libc::AT_SYMLINK_NOFOLLOW == 0,
    };
    use Intent::*;
    match number {
        libc::SYS_openat => vec![at(Open(a[2] as i32), a[0], a[1])],
        libc::SYS_openat2 => vec![at(OpenHow(a[2]), a[0], a[1])],
        libc::SYS_execve => vec![here(Run, a[0])],
        libc::SYS_execveat => vec![at(Run, a[0], a[1])],
        libc::SYS_truncate | libc::SYS_setxattr | libc::SYS_removexattr => {
            vec![here(CHANGE, a[0])]
        }
        libc::SYS_lsetxattr | libc::SYS_lremovexattr => vec![here(CHANGE_LINK, a[0])],
        libc::SYS_fchmod | libc::SYS_fchown | libc::SYS_fsetxattr | libc::SYS_fremovexattr => {
            vec![at(CHANGE, a[0], 0)]
        }
        libc::SYS_chroot => vec![here(Root, a[0])],
        libc::SYS_mkdirat | libc::SYS_mknodat => vec![at(Make, a[0], a[1])],
        libc::SYS_symlinkat => vec![at(Make, a[1], a[2])],
        libc::SYS_linkat => vec![at(Link, a[0], a[1]), at(Make, a[2], a[3])],
        libc::SYS_unlinkat => vec![at(Remove, a[0], a[1])],
        libc::SYS_renameat2 => vec![at(Remove, a[0], a[1]), at(Replace, a[2], a[3])],
        #[cfg(not(target_arch = "riscv64"))]
        libc::SYS_renameat => vec![at(Remove, a[0], a[1]), at(Replace, a[2], a[3])],
        libc::SYS_fchmodat => vec![at(CHANGE, a[0], a[1])],
        libc::SYS_fchmodat2 | libc::SYS_utimensat => vec![at(change_at(a[3]), a[0], a[1])],
        libc::SYS_fchownat => vec![at(change_at(a[4]), a[0], a[1])],
        #[cfg(target_arch = "x86_64")]
        _ => older(number, a),
        #[cfg(not(target_arch = "x86_64"))]
        _ => Vec::new(),
    }
}

/// The calls that newer architectures do without.
#[cfg(target_arch = "x86_64")]
fn older(number: i64, a: &[u64; 6]) -> Vec<Touch> {
    use Intent::*;
    let here = |intent, path| Touch {
        intent,
        folder: AT_FDCWD,
        path,
    };
    match number {
        libc::SYS_open => vec![here(Open(a[1] as i32), a[0])],
        libc::SYS_creat => vec![here(Open(O_CREAT | O_WRONLY | O_TRUNC), a[0])],
        libc::SYS_mkdir | libc::SYS_mknod => vec![here(Make, a[0])],
        libc::SYS_symlink => vec![here(Make, a[1])],
        libc::SYS_link => vec![here(Link, a[0]), here(Make, a[1])],
        libc::SYS_rmdir | libc::SYS_unlink => vec![here(Remove, a[0])],
        libc::SYS_rename => vec![here(Remove, a[0]), here(Replace, a[1])],
        libc::SYS_chmod | libc::SYS_chown | libc::SYS_utime | libc::SYS_utimes => {
            vec![here(CHANGE, a[0])]
        }
        libc::SYS_lchown => vec![here(CHANGE_LINK, a[0])],
        libc::SYS_futimesat => vec![Touch {
            intent: CHANGE,
            folder: a[0] as i32,
            path: a[1],
        }],
        _ => Vec::new(),
    }
}
