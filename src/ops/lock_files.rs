//! What lock files ask the store to keep: those of every branch, tag and worktree of the repository, and those on disk.

use std::collections::{BTreeSet, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::workspace::PIPELINES;
use super::{OpsError, Workspace};
use crate::files;
use crate::hash::Digest;
use crate::record::Lock;

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
        on_disk.extend(locks_below(&workspace.root, &workspace.cache));
        let root = &workspace.root;
        if root.ancestors().any(|folder| folder.join(".git").exists()) {
            let git = Git(root);
            let prefix = git.text(&["rev-parse", "--show-prefix"], "")?;
            let (mut blobs, names) = git.committed()?;
            for worktree in git.worktrees()? {
                let git = Git(&worktree);
                let project = worktree.join(prefix.trim_end());
                on_disk.extend(locks_in(&project.join(PIPELINES)));
                on_disk.extend(locks_below(&project, &workspace.cache));
                on_disk.extend(git.tracked(&mut blobs)?);
            }
            for (_, text) in git.objects(&blobs)? {
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
    paths.filter(|path| is_lock(path))
}

/// The lock files of pipelines below a folder, by what is in them: a pipeline
/// file may lie anywhere. Does not look into repositories' own folders, the
/// store `cache`, and what symbolic links lead to.
pub(super) fn locks_below(folder: &Path, cache: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(ty) if ty.is_dir() && entry.file_name() != ".git" && path != cache => {
                    open.push(path);
                }
                Ok(ty) if ty.is_file() && is_lock(&path) => {
                    // One that cannot be read cannot be told to be one of ours.
                    let text = files::read(&path).unwrap_or_default();
                    found.extend(Lock::is_one(&text).then_some(path));
                }
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn is_lock(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "lock")
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
        let stashed = self.stashed()?;
        let tips = commits.iter().map(String::as_str).chain(heads);
        let tips = tips.chain(stashed.split_ascii_whitespace());
        let trees = tips.map(|tip| format!("{tip}^{{tree}}")).collect();
        Ok((self.locks_in_trees(trees)?, commits.len()))
    }

    /// The commits that stashes consist of: of each the tree, what was staged,
    /// and what git did not know of. Only the newest stash has a name.
    fn stashed(&self) -> Result<String, OpsError> {
        let stash = self.text(&["for-each-ref", "refs/stash"], "")?;
        match stash.is_empty() {
            true => Ok(String::new()),
            false => self.text(&["log", "-g", "--format=%H %P", "refs/stash"], ""),
        }
    }

    /// The lock files below trees. Each tree is read once, however many
    /// branches share it, and each name in it counts, whatever other names the
    /// same content has.
    fn locks_in_trees(&self, trees: BTreeSet<String>) -> Result<BTreeSet<String>, OpsError> {
        let mut blobs = BTreeSet::new();
        let (mut seen, mut open) = (BTreeSet::new(), trees);
        while !open.is_empty() {
            let mut inside = BTreeSet::new();
            for (id, tree) in self.objects(&open)? {
                let entries = entries(&tree, id.len() / 2).ok_or_else(|| OpsError::Git {
                    command: format!("git cat-file --batch of {id}"),
                    why: "it is no tree".to_owned(),
                })?;
                for (mode, name, id) in entries {
                    match mode {
                        b"40000" => drop(inside.insert(id)),
                        // Neither symbolic links nor submodules.
                        _ if mode.starts_with(b"100") && name.ends_with(b".lock") => {
                            blobs.insert(id);
                        }
                        _ => {}
                    }
                }
                seen.insert(id);
            }
            open = inside.difference(&seen).cloned().collect();
        }
        Ok(blobs)
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

    /// The ids and the bytes of objects.
    fn objects(&self, ids: &BTreeSet<String>) -> Result<Vec<(String, Vec<u8>)>, OpsError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let arguments = ["cat-file", "--batch"];
        let wanted: String = ids.iter().map(|id| format!("{id}\n")).collect();
        let bytes = self.run(&arguments, &wanted)?;
        let mut rest = &bytes[..];
        let mut objects = Vec::new();
        while !rest.is_empty() {
            let (id, object, tail) = batched(rest).ok_or_else(|| OpsError::Git {
                command: format!("git {}", arguments.join(" ")),
                why: "a folder or a lock file of a branch is not in this clone".to_owned(),
            })?;
            objects.push((id.to_owned(), object.to_owned()));
            rest = tail;
        }
        Ok(objects)
    }
}

/// The first object of a batch, `ID TYPE SIZE\nBYTES\n`: its id, its bytes, and
/// the rest.
fn batched(bytes: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    let mut head = std::str::from_utf8(&bytes[..end]).ok()?.split(' ');
    let (id, size) = (head.next()?, head.nth(1)?);
    let (object, rest) = bytes[end + 1..].split_at_checked(size.parse().ok()?)?;
    Some((id, object, rest.strip_prefix(b"\n")?))
}

/// What a tree's bytes say of one entry: mode, name and id.
type TreeEntry<'a> = (&'a [u8], &'a [u8], String);

/// The entries of a tree, each `MODE NAME\0` and the bytes of an id, of which
/// there are `width`.
fn entries(mut tree: &[u8], width: usize) -> Option<Vec<TreeEntry<'_>>> {
    let mut entries = Vec::new();
    while !tree.is_empty() {
        let space = tree.iter().position(|b| *b == b' ')?;
        let (mode, rest) = (&tree[..space], &tree[space + 1..]);
        let end = rest.iter().position(|b| *b == 0)?;
        let (id, tail) = rest[end + 1..].split_at_checked(width)?;
        let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
        entries.push((mode, &rest[..end], id));
        tree = tail;
    }
    Some(entries)
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
        let (id, blob, rest) = batched(bytes).unwrap();
        assert_eq!((id, blob), ("12ab", &b"a\nb"[..]));
        let (id, blob, rest) = batched(rest).unwrap();
        assert_eq!((id, blob), ("34cd", &b""[..]));
        assert_eq!(batched(rest), None);
    }

    #[test]
    fn a_tree_is_taken_apart_and_a_torn_one_noticed() {
        let tree = b"40000 a b\0\x01\x02100644 c.lock\0\xff\x00";
        let found = entries(tree, 2).unwrap();
        let (a, c) = (b"a b".as_slice(), b"c.lock".as_slice());
        let wanted = [(&b"40000"[..], a, "0102"), (&b"100644"[..], c, "ff00")];
        assert_eq!(
            found,
            wanted.map(|(mode, name, id)| (mode, name, id.to_owned()))
        );
        assert_eq!(entries(&tree[..tree.len() - 1], 2), None);
    }
}
