//! Files as the rest of the crate sees them: errors that carry the path, atomic writes, stat tuples and advisory locks.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Something could not be done with a path.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} {}", .path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl FileError {
    /// The operating system's kind of error.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// The path the operation was about.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Adds what was attempted, and where, to an I/O error.
pub trait PathContext<T> {
    /// `action` completes "failed to …".
    fn on(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T> PathContext<T> for io::Result<T> {
    fn on(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError {
            action,
            path: path.to_owned(),
            source,
        })
    }
}

/// Reads a whole file.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).on("read", path)
}

/// Reads a whole UTF-8 file.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).on("read", path)
}

/// Opens a file for reading.
pub fn open(path: &Path) -> Result<File, FileError> {
    File::open(path).on("open", path)
}

/// Creates or empties a file for writing. For files nobody else reads before
/// they are complete; otherwise use [`write_atomic`].
pub fn create(path: &Path) -> Result<File, FileError> {
    File::create(path).on("create", path)
}

/// Writes a whole file in place.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<(), FileError> {
    fs::write(path, bytes).on("write", path)
}

/// Copies the bytes of a file, not its permissions: what is read-only in a
/// cache is not where it is copied to.
pub fn copy(from: &Path, to: &Path) -> Result<(), FileError> {
    let (mut bytes, mut copy) = (open(from)?, create(to)?);
    io::copy(&mut bytes, &mut copy).on("copy", from).map(drop)
}

/// Creates a folder and its parents.
pub fn create_dir(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).on("create folder", path)
}

/// Moves a file or folder; what is at the new path is replaced.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).on("move", from)
}

/// Writes a file so that a reader sees either the old bytes or all of the new
/// ones: into a temporary file beside it, made durable, then renamed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    create_dir(folder)?;
    let mut temporary = tempfile::Builder::new()
        .prefix(".retune-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .on("create a temporary file in", folder)?;
    temporary.write_all(bytes).on("write", path)?;
    temporary.as_file().sync_data().on("sync", path)?;
    temporary
        .persist(path)
        .map_err(|e| e.error)
        .on("replace", path)?;
    Ok(())
}

/// As [`write_atomic`], and when it returns the file is found under its name
/// even if the power fails: otherwise the old one may be.
pub fn write_durable(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_atomic(path, bytes)?;
    sync_folder(path)
}

/// Makes the name of a file durable.
pub fn sync_folder(path: &Path) -> Result<(), FileError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    match open(folder)?.sync_all() {
        // Some file systems cannot do that to a folder.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced.on("sync", folder),
    }
}

/// As [`write_atomic`], but what is written may be lost when the power fails: for
/// what is checked when it is read and can be made anew.
pub fn write_cache(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    create_dir(folder)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = Path::new(&temporary);
    write(temporary, bytes)?;
    rename(temporary, path)
}

/// Removes a file or a whole folder; that it is already gone is no error.
pub fn remove(path: &Path) -> Result<(), FileError> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).or_else(|_| {
            // Programs leave folders behind that even their owner may not change.
            make_writable(path);
            fs::remove_dir_all(path)
        }),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.on("remove", path),
    }
}

fn make_writable(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    // What cannot be changed here is reported by the removal that follows.
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o755));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            make_writable(&entry.path());
        }
    }
}

/// What must be unchanged for a cached digest of a file to be believed.
///
/// `ctime` catches an edit of the same size whose mtime was put back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change of content, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Time of the last change of the inode, nanoseconds since the epoch.
    pub ctime_ns: i64,
    /// File type and permission bits.
    pub mode: u32,
}

impl Stat {
    /// The stat tuple of a path, not following a symbolic link.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from_raw(&rustix::fs::lstat(path)?))
    }

    /// The stat tuple of what `name` in the open folder `dir` leads to; of a
    /// symbolic link that of its target.
    pub fn at(dir: impl AsFd, name: &[u8]) -> io::Result<Self> {
        use rustix::fs::{AtFlags, statat};
        let stat = Self::from_raw(&statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?);
        if !stat.is_symlink() {
            return Ok(stat);
        }
        Ok(Self::from_raw(&statat(&dir, name, AtFlags::empty())?))
    }

    /// The stat tuple of an open file.
    pub fn of_file(file: &File) -> io::Result<Self> {
        Ok(Self::from_raw(&rustix::fs::fstat(file)?))
    }

    #[cfg_attr(
        all(target_os = "linux", target_pointer_width = "64"),
        expect(clippy::unnecessary_cast, reason = "the types differ between systems")
    )]
    fn from_raw(raw: &rustix::fs::Stat) -> Self {
        let nanos = |seconds: i64, nanos: i64| seconds.wrapping_mul(1_000_000_000) + nanos;
        Stat {
            dev: raw.st_dev as u64,
            ino: raw.st_ino as u64,
            size: raw.st_size as u64,
            mtime_ns: nanos(raw.st_mtime as i64, raw.st_mtime_nsec as i64),
            ctime_ns: nanos(raw.st_ctime as i64, raw.st_ctime_nsec as i64),
            mode: raw.st_mode as u32,
        }
    }

    /// Whether this is a regular file.
    pub fn is_file(&self) -> bool {
        self.mode & 0o170000 == 0o100000
    }

    /// Whether this is a folder.
    pub fn is_dir(&self) -> bool {
        self.mode & 0o170000 == 0o040000
    }

    /// Whether this is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.mode & 0o170000 == 0o120000
    }

    /// Whether the owner may execute the file.
    pub fn is_executable(&self) -> bool {
        self.mode & 0o100 != 0
    }
}

/// How often a lock that another process holds is asked for.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// An exclusive advisory lock on a file; it dies with the process that holds it.
pub struct Lock(File);

/// Who holds a lock, in the words the holder wrote into it.
#[derive(Debug)]
pub struct Holder(String);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "another process"
        } else {
            &self.0
        })
    }
}

impl Lock {
    /// Takes the lock and writes `holder` into it for others to read. When
    /// somebody has it, `waiting` is called once and the call waits; none if
    /// `cancel` was set meanwhile.
    pub fn acquire(
        path: &Path,
        holder: &str,
        cancel: &AtomicBool,
        waiting: impl FnOnce(Holder),
    ) -> Result<Option<Self>, FileError> {
        if let Some(folder) = path.parent() {
            create_dir(folder)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .on("open", path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Only for the message: an unreadable holder is "another process".
                let _ = file.read_to_string(&mut text);
                waiting(Holder(text.trim().to_owned()));
                if !wait_for_lock(&file, cancel).on("lock", path)? {
                    return Ok(None);
                }
            }
            Err(fs::TryLockError::Error(e)) => return Err(e).on("lock", path),
        }
        let mut lock = Lock(file);
        lock.write_holder(holder).on("write", path)?;
        Ok(Some(lock))
    }

    /// Who holds the lock now; none when nobody does.
    pub fn holder(path: &Path) -> Result<Option<Holder>, FileError> {
        let mut file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.on("open", path)?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Only for the message: an unreadable holder is "another process".
                let _ = file.read_to_string(&mut text);
                Ok(Some(Holder(text.trim().to_owned())))
            }
            Err(fs::TryLockError::Error(e)) => Err(e).on("lock", path),
        }
    }

    fn write_holder(&mut self, holder: &str) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.rewind()?;
        self.0.write_all(holder.as_bytes())
    }
}

/// Asks again and again, for a call that blocks would not see `cancel`: it is
/// taken up again after a signal. Returns whether the lock was had.
fn wait_for_lock(file: &File, cancel: &AtomicBool) -> io::Result<bool> {
    while !cancel.load(Ordering::Relaxed) {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(ASK_EVERY),
            Err(fs::TryLockError::Error(e)) => return Err(e),
        }
    }
    Ok(false)
}

/// How much of the end of a log is looked at.
const LOG_END: u64 = 64 << 10;

/// The last lines of a file of text, at most `n`; none where it cannot be read.
pub fn last_lines(path: &Path, n: usize) -> Vec<String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(io::SeekFrom::Start(length.saturating_sub(LOG_END)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(n)..];
    last.iter().map(|line| (*line).to_owned()).collect()
}

/// `path` relative to `base` where it lies below it, for messages and records.
pub fn relative<'a>(path: &'a Path, base: &Path) -> &'a Path {
    path.strip_prefix(base).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atomic_write_replaces_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/file");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn the_last_lines_of_a_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert!(last_lines(&path, 3).is_empty());
        fs::write(&path, b"a\nb\n\xffc").unwrap();
        assert_eq!(last_lines(&path, 2), ["b", "\u{fffd}c"]);
        let long: String = (0..100_000).map(|n| format!("line {n}\n")).collect();
        fs::write(&path, long).unwrap();
        assert_eq!(last_lines(&path, 2), ["line 99998", "line 99999"]);
        assert!(last_lines(&path, 100_000)[1].starts_with("line "));
    }

    #[test]
    fn errors_name_the_path() {
        let error = read(Path::new("/no/such/file")).unwrap_err();
        assert_eq!(error.to_string(), "failed to read /no/such/file");
    }

    #[test]
    fn stat_sees_a_same_size_edit_with_its_mtime_restored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "aaaa").unwrap();
        let before = Stat::of(&path).unwrap();
        let mtime = fs::metadata(&path).unwrap().modified().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&path, "bbbb").unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_modified(mtime).unwrap();
        let after = Stat::of(&path).unwrap();
        assert_eq!(before.mtime_ns, after.mtime_ns);
        assert_eq!(before.size, after.size);
        assert_ne!(before, after);
    }

    #[test]
    fn a_second_lock_waits_and_learns_for_whom() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let go = &AtomicBool::new(false);
        let first = Lock::acquire(&path, "pid 1, building x", go, |_| panic!("free")).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let other = path.clone();
        let waiter = std::thread::spawn(move || {
            let go = &AtomicBool::new(false);
            Lock::acquire(&other, "pid 2", go, |holder| {
                sender.send(holder.to_string()).unwrap()
            })
            .unwrap()
        });
        assert_eq!(receiver.recv().unwrap(), "pid 1, building x");
        let holder = Lock::holder(&path)
            .unwrap()
            .map(|holder| holder.to_string());
        assert_eq!(holder.as_deref(), Some("pid 1, building x"));
        let stop = &AtomicBool::new(true);
        let none = Lock::acquire(&path, "pid 3", stop, |_| {}).unwrap();
        assert!(none.is_none(), "told to stop while another has it");
        drop(first);
        assert!(waiter.join().unwrap().is_some());
    }
}
