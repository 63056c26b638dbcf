//! What lock files ask the store to keep: those of every branch, tag and worktree of the repository, and those on disk.

use std::collections::{BTreeSet, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::workspace::PIPELINES;
use super::{OpsError, Workspace};
use crate::files;
use crate::hash::Digest;

/// The digests in all lock files, keys and outputs alike.
#[derive(Debug, Default)]
pub(super) struct LockFiles {
    /// Every digest that a lock file writes.
    pub digests: HashSet<Digest>,
    /// How many different lock files there are.
    pub files: usize,
    /// How many branches, tags and other names of commits were looked at; none
    /// outside of a repository.
    pub names: Option<usize>,
}

/// Variables that would lead git to another repository than the project's,
/// such as a hook has.
const MISLEADING: [&str; 4] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
];

impl LockFiles {
    /// Reads them all. A repository that git cannot read is an error: nobody
    /// knows then what its branches need.
    pub(super) fn read(workspace: &Workspace) -> Result<Self, OpsError> {
        let mut found = LockFiles::default();
        let mut on_disk: BTreeSet<PathBuf> = locks_in(&workspace.root.join(PIPELINES)).collect();
        on_disk.insert(workspace.lock_file());
        let root = &workspace.root;
        if root.ancestors().any(|folder| folder.join(".git").exists()) {
            let git = Git(root);
            let prefix = git.text(&["rev-parse", "--show-prefix"], "")?;
            let (mut blobs, names) = git.committed()?;
            for worktree in git.worktrees()? {
                let git = Git(&worktree);
                on_disk.extend(locks_in(&worktree.join(prefix.trim_end()).join(PIPELINES)));
                on_disk.extend(git.tracked(&mut blobs)?);
            }
            for text in git.blobs(&blobs)? {
                found.add(&text);
            }
            found.names = Some(names);
        }
        for path in on_disk {
            match files::read(&path) {
                Ok(text) => found.add(&text),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(found)
    }

    /// Takes every digest out of a text, so that lock files of a newer program,
    /// damaged ones and both sides of a conflict count, too. Lock files of
    /// other programs hold digests of another kind, which do no harm.
    fn add(&mut self, text: &[u8]) {
        let before = self.digests.len();
        let words = text.split(|b| !b.is_ascii_hexdigit());
        let digests =
            words.filter_map(|word| std::str::from_utf8(word).ok()?.parse::<Digest>().ok());
        self.digests.extend(digests);
        self.files += usize::from(self.digests.len() > before);
    }
}

fn locks_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|end| end == "lock"))
}

/// Git's plumbing in a folder.
struct Git<'a>(&'a Path);

impl Git<'_> {
    fn run(&self, arguments: &[&str], input: &str) -> Result<Vec<u8>, OpsError> {
        let failed = |why: String| OpsError::Git {
            command: format!("git {}", arguments.join(" ")),
            why,
        };
        let mut command = Command::new("git");
        command.arg("-C").arg(self.0).args(arguments);
        for name in MISLEADING {
            command.env_remove(name);
        }
        // Neither write nor fetch anything; and messages as everywhere.
        command.envs([
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("LC_ALL", "C"),
        ]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        let mut stdin = child.stdin.take();
        let output = std::thread::scope(|scope| {
            // At once with reading, or both would wait for each other. A git
            // that stops reading early says why itself.
            scope.spawn(move || stdin.take().map(|mut to| to.write_all(input.as_bytes())));
            child.wait_with_output()
        });
        let output = output.map_err(|e| failed(e.to_string()))?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(failed(
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            )),
        }
    }

    fn text(&self, arguments: &[&str], input: &str) -> Result<String, OpsError> {
        let bytes = self.run(arguments, input)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The lock files in the trees of all branches, tags, remote branches,
    /// stashes and checked-out commits; and how many names those have.
    fn committed(&self) -> Result<(BTreeSet<String>, usize), OpsError> {
        let format = "--format=%(objectname) %(objecttype) %(*objecttype)";
        let names = self.text(&["for-each-ref", format], "")?;
        let commits = names
            .lines()
            .filter(|line| line.split(' ').skip(1).any(|ty| ty == "commit"))
            .filter_map(|line| line.split(' ').next().map(str::to_owned));
        let commits: Vec<String> = commits.collect();
        let worktrees = self.text(&["worktree", "list", "--porcelain"], "")?;
        let heads = worktrees
            .lines()
            .filter_map(|line| line.strip_prefix("HEAD "))
            .filter(|head| head.bytes().any(|b| b != b'0'));
        let tips: BTreeSet<&str> = commits.iter().map(String::as_str).chain(heads).collect();
        let trees: String = tips.iter().map(|tip| format!("{tip}^{{tree}}\n")).collect();
        if trees.is_empty() {
            return Ok((BTreeSet::new(), 0));
        }
        // Each object once, however many branches share it.
        let listed = self.run(&["rev-list", "--objects", "--no-walk", "--stdin"], &trees)?;
        let blobs = listed
            .split(|b| *b == b'\n')
            .filter(|line| line.ends_with(b".lock"));
        let blobs = blobs.filter_map(|line| line.split(|b| *b == b' ').next());
        let blobs = blobs.map(|id| String::from_utf8_lossy(id).into_owned());
        Ok((blobs.collect(), commits.len()))
    }

    /// The folders that are checked out, this one among them.
    fn worktrees(&self) -> Result<Vec<PathBuf>, OpsError> {
        let list = self.text(&["worktree", "list", "--porcelain"], "")?;
        let paths = list
            .lines()
            .filter_map(|line| line.strip_prefix("worktree "));
        // One that was deleted by hand has nothing left to read.
        let there = paths.map(PathBuf::from).filter(|path| path.is_dir());
        // A bare repository is listed, too, and has no files.
        Ok(there.filter(|path| path.join(".git").exists()).collect())
    }

    /// The lock files on disk that git knows of; what it has staged of them,
    /// the sides of a merge in progress included, goes to `blobs`.
    fn tracked(&self, blobs: &mut BTreeSet<String>) -> Result<Vec<PathBuf>, OpsError> {
        let listed = self.run(&["ls-files", "-s", "-z", "--", "*.lock"], "")?;
        let mut paths = Vec::new();
        for line in listed.split(|b| *b == 0).filter(|line| !line.is_empty()) {
            let tab = line.iter().position(|b| *b == b'\t').unwrap_or(line.len());
            let head = String::from_utf8_lossy(&line[..tab]);
            blobs.extend(head.split(' ').nth(1).map(str::to_owned));
            let name: &std::ffi::OsStr =
                std::os::unix::ffi::OsStrExt::from_bytes(line.get(tab + 1..).unwrap_or_default());
            paths.push(self.0.join(name));
        }
        Ok(paths)
    }

    /// The bytes of objects.
    fn blobs(&self, ids: &BTreeSet<String>) -> Result<Vec<Vec<u8>>, OpsError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let arguments = ["cat-file", "--batch"];
        let wanted: String = ids.iter().map(|id| format!("{id}\n")).collect();
        let bytes = self.run(&arguments, &wanted)?;
        let mut rest = &bytes[..];
        let mut blobs = Vec::new();
        while !rest.is_empty() {
            let (blob, tail) = batched(rest).ok_or_else(|| OpsError::Git {
                command: format!("git {}", arguments.join(" ")),
                why: "a lock file of a branch is not in this clone".to_owned(),
            })?;
            blobs.push(blob.to_owned());
            rest = tail;
        }
        Ok(blobs)
    }
}

/// The first object of a batch, `ID TYPE SIZE\nBYTES\n`, and the rest.
fn batched(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    let size = std::str::from_utf8(&bytes[..end]).ok()?.split(' ').nth(2)?;
    let (blob, rest) = bytes[end + 1..].split_at_checked(size.parse().ok()?)?;
    Some((blob, rest.strip_prefix(b"\n")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_found_in_whatever_a_lock_file_has_become() {
        let [a, b, c] = [b"a", b"b", b"c"].map(|text| Digest::of(text));
        let mut found = LockFiles::default();
        found.add(format!("<<<<<<< x\nkey = \"{a}\"\n=======\nkey = \"{b}\"\n").as_bytes());
        found.add(format!("format = 99\nwhat = [{c}, \"{}\"]", &a.to_string()[1..]).as_bytes());
        found.add(b"# no digest");
        assert_eq!(found.digests, HashSet::from([a, b, c]));
        assert_eq!(found.files, 2);
    }

    #[test]
    fn a_batch_is_taken_apart_and_a_missing_object_noticed() {
        let bytes = b"12ab blob 3\na\nb\n34cd blob 0\n\n56ef missing\n";
        let (blob, rest) = batched(bytes).unwrap();
        assert_eq!(blob, b"a\nb");
        let (blob, rest) = batched(rest).unwrap();
        assert_eq!(blob, b"");
        assert_eq!(batched(rest), None);
    }
}
