//! Debounced file events: which inputs of a pipeline changed since one last looked.
//!
//! Folders are watched, never files, so that an editor that saves by renaming
//! is seen like one that writes in place. Events queue up while nobody waits;
//! call [`Watcher::update`] *before* reading the inputs, and no change is lost:
//! what happens later is in the queue, what happened before is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use globset::{GlobBuilder, GlobMatcher};
use notify::event::{AccessKind, AccessMode, EventKind, MetadataKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::files::Stat;

/// How long it must be quiet before changes are reported.
const QUIET: Duration = Duration::from_millis(100);
/// How long a program that never stops writing can put a report off.
const LONGEST: Duration = Duration::from_secs(2);
/// How soon a cancelled wait ends.
const POLL: Duration = Duration::from_millis(100);
/// How long to rest between two looks at all files, where there are no events.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// And at least this many times as long as a look takes.
const LOOK_SHARE: u32 = 20;

/// Too many files are open, or too many programs watch some.
const EMFILE: i32 = rustix::io::Errno::MFILE.raw_os_error();

/// What a pipeline reads, and what is not to be looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// The project root: absolute, without symbolic links.
    pub root: PathBuf,
    /// Files, and folders of which everything counts; absolute or relative to
    /// the root. They need not exist.
    pub paths: BTreeSet<PathBuf>,
    /// Globs relative to the root.
    pub globs: BTreeSet<String>,
    /// Files and folders that retune itself writes; they win over the above.
    pub ignored: BTreeSet<PathBuf>,
}

/// What happened to the watched things.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// What changed, relative to the root where it lies below it.
    pub paths: BTreeSet<PathBuf>,
    /// Events were lost by the operating system: anything may have changed.
    pub rescan: bool,
}

impl Changed {
    fn is_empty(&self) -> bool {
        self.paths.is_empty() && !self.rescan
    }
}

/// Files could not be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The operating system's interface did not open.
    #[error("failed to start watching files")]
    Start(#[source] notify::Error),
    /// One folder could not be added.
    #[error("failed to watch {}", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: notify::Error,
    },
    /// The operating system watches as much as it is allowed to.
    #[error("failed to watch {}: too many folders are watched", .path.display())]
    TooMany {
        /// The folder that was one too many.
        path: PathBuf,
    },
    /// A glob is not one.
    #[error("failed to read the glob '{pattern}'")]
    Glob {
        /// As it is written.
        pattern: String,
        /// Why.
        source: globset::Error,
    },
    /// The operating system stopped telling of changes.
    #[error("file events ended unexpectedly")]
    Ended,
}

impl WatchError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            WatchError::TooMany { .. } => {
                Some("raise the limit (Linux: sysctl fs.inotify.max_user_watches=524288)")
            }
            WatchError::Start(_) if self.is_limit() => {
                Some("raise the limit (Linux: sysctl fs.inotify.max_user_instances=512)")
            }
            _ => None,
        }
    }

    /// Whether the operating system watches as much as it is allowed to.
    fn is_limit(&self) -> bool {
        match self {
            WatchError::TooMany { .. } => true,
            WatchError::Start(source) => match &source.kind {
                notify::ErrorKind::MaxFilesWatch => true,
                notify::ErrorKind::Io(e) => e.raw_os_error() == Some(EMFILE),
                _ => false,
            },
            _ => false,
        }
    }
}

/// Watches what a pipeline reads.
pub struct Watcher {
    source: Source,
    interest: Interest,
    /// What was found and not told yet.
    pending: Changed,
    /// Why files are looked at again and again instead of waiting for events.
    fallen_back: Option<WatchError>,
}

/// Where changes are learnt from.
enum Source {
    Events(Events),
    /// Looks at everything again and again.
    Polling(Polling),
}

impl Watcher {
    /// Starts watching. Where the operating system does not watch as much as
    /// that, looks at the files again and again: [`Watcher::fallen_back`].
    pub fn new(watched: &Watched) -> Result<Self, WatchError> {
        let mut watcher = Watcher {
            source: Source::Polling(Polling::default()),
            interest: Interest::default(),
            pending: Changed::default(),
            fallen_back: None,
        };
        match Events::new() {
            Ok(events) => watcher.source = Source::Events(events),
            Err(error) if error.is_limit() => watcher.fallen_back = Some(error),
            Err(error) => return Err(error),
        }
        watcher.update(watched)?;
        Ok(watcher)
    }

    /// Looks at other things from now on; what was not told yet is kept. Also
    /// finds folders that were created or replaced since.
    pub fn update(&mut self, watched: &Watched) -> Result<(), WatchError> {
        self.interest = Interest::new(watched)?;
        if let Source::Events(events) = &mut self.source {
            match events.arm(&self.interest) {
                Err(error) if error.is_limit() => {
                    // What the queue still holds is told with the rest.
                    self.pending.rescan |= events.drain(&self.interest, &mut self.pending);
                    self.fallen_back = Some(error);
                    self.source = Source::Polling(Polling::default());
                }
                armed => armed?,
            }
        }
        if let Source::Polling(polling) = &mut self.source {
            polling.look(&self.interest, &mut self.pending);
        }
        Ok(())
    }

    /// Why this polls, if it does and that was not asked before.
    pub fn fallen_back(&mut self) -> Option<WatchError> {
        self.fallen_back.take()
    }

    /// Waits until something changed and it has then been quiet for a moment,
    /// and tells what. None when `cancel` was set; what was found by then is
    /// told the next time.
    pub fn wait(&mut self, cancel: &AtomicBool) -> Result<Option<Changed>, WatchError> {
        let mut since = Instant::now();
        loop {
            let calm = self.pending.is_empty();
            let quiet = match &mut self.source {
                Source::Events(events) => events.next(
                    if calm { POLL } else { QUIET },
                    &self.interest,
                    &mut self.pending,
                )?,
                Source::Polling(polling) => {
                    polling.pause(cancel);
                    polling.look(&self.interest, &mut self.pending)
                }
            };
            if cancel.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if calm {
                since = Instant::now();
            }
            if !self.pending.is_empty() && (quiet || since.elapsed() > LONGEST) {
                return Ok(Some(std::mem::take(&mut self.pending)));
            }
        }
    }
}

/// Events of the operating system.
struct Events {
    notify: RecommendedWatcher,
    queue: Receiver<notify::Result<Event>>,
    /// The folders now watched, with their device and inode.
    folders: BTreeMap<PathBuf, (u64, u64)>,
}

impl Events {
    fn new() -> Result<Self, WatchError> {
        let (sender, queue) = channel();
        let handler = move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, tells_of_change) {
                // Nobody listens any more: nothing is to be told.
                let _ = sender.send(event);
            }
        };
        Ok(Events {
            notify: notify::recommended_watcher(handler).map_err(WatchError::Start)?,
            queue,
            folders: BTreeMap::new(),
        })
    }

    /// Watches the folders of interest and no others. Looks again until it
    /// finds no new one: what is created before the folder above it is watched
    /// is told by no event.
    fn arm(&mut self, interest: &Interest) -> Result<(), WatchError> {
        loop {
            let wanted = interest.folders();
            let gone: Vec<PathBuf> = self
                .folders
                .iter()
                .filter(|(path, id)| wanted.get(*path) != Some(id))
                .map(|(path, _)| path.clone())
                .collect();
            for path in gone {
                self.folders.remove(&path);
                // It may have been dropped already because the folder went away.
                let _ = self.notify.unwatch(&path);
            }
            let mut is_new = false;
            for (path, id) in wanted {
                if !self.folders.contains_key(&path) && self.watch(&path)? {
                    self.folders.insert(path, id);
                    is_new = true;
                }
            }
            if !is_new {
                return Ok(());
            }
        }
    }

    /// Whether the folder is there to be watched.
    fn watch(&mut self, path: &Path) -> Result<bool, WatchError> {
        let path = path.to_owned();
        match self.notify.watch(&path, RecursiveMode::NonRecursive) {
            Ok(()) => Ok(true),
            Err(source) => match source.kind {
                notify::ErrorKind::PathNotFound => Ok(false),
                notify::ErrorKind::MaxFilesWatch => Err(WatchError::TooMany { path }),
                _ => Err(WatchError::Folder { path, source }),
            },
        }
    }

    /// Waits for an event; true when there was none for that long.
    fn next(
        &mut self,
        patience: Duration,
        interest: &Interest,
        changed: &mut Changed,
    ) -> Result<bool, WatchError> {
        match self.queue.recv_timeout(patience) {
            Ok(event) => self.note(event, interest, changed),
            Err(RecvTimeoutError::Timeout) => return Ok(true),
            Err(RecvTimeoutError::Disconnected) => return Err(WatchError::Ended),
        }
        Ok(false)
    }

    /// Takes note of all that is in the queue; whether that may not be all.
    fn drain(&mut self, interest: &Interest, changed: &mut Changed) -> bool {
        while let Ok(event) = self.queue.try_recv() {
            self.note(event, interest, changed);
        }
        // Between the last event and the first look, anything may happen.
        true
    }

    fn note(&mut self, event: notify::Result<Event>, interest: &Interest, changed: &mut Changed) {
        let Ok(event) = event else {
            changed.rescan = true;
            return;
        };
        changed.rescan |= event.need_rescan();
        for path in &event.paths {
            if interest.concerns(path, &event.kind, &self.folders) {
                let path = crate::files::relative(path, &interest.root);
                changed.paths.insert(path.to_owned());
            }
            if moves(&event.kind) {
                // The watch went with the folder: the next update sets one
                // again, whether or not a folder is back by then.
                self.folders.remove(path);
            }
        }
    }
}

/// The stat tuples of everything of interest, looked at again and again.
#[derive(Default)]
struct Polling {
    /// None before the first look.
    seen: Option<BTreeMap<PathBuf, Stat>>,
    /// How long the last look took.
    took: Duration,
}

impl Polling {
    /// Rests between two looks, so that they take a small part of the time.
    fn pause(&self, cancel: &AtomicBool) {
        let until = Instant::now() + (self.took * LOOK_SHARE).max(LOOK_EVERY);
        while Instant::now() < until && !cancel.load(Ordering::Relaxed) {
            std::thread::sleep(QUIET);
        }
    }

    /// Takes note of what is not as it was; true when all is as it was.
    fn look(&mut self, interest: &Interest, changed: &mut Changed) -> bool {
        let start = Instant::now();
        let now = interest.files();
        self.took = start.elapsed();
        let Some(before) = self.seen.replace(now) else {
            return true;
        };
        let now = self.seen.iter().flatten();
        let mut quiet = true;
        let other = now.filter(|(path, stat)| before.get(*path) != Some(stat));
        let other = other.map(|(path, _)| path);
        let gone = before.keys().filter(|path| Stat::of(path).is_err());
        for path in other.chain(gone) {
            quiet = false;
            let path = crate::files::relative(path, &interest.root);
            changed.paths.insert(path.to_owned());
        }
        quiet
    }
}

/// Leaves out what only reads.
fn tells_of_change(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Modify(ModifyKind::Metadata(kind)) => kind != MetadataKind::AccessTime,
        _ => true,
    }
}

/// Whether something came, went or got another name.
fn moves(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::Any
            | EventKind::Create(_)
            | EventKind::Remove(_)
            | EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Any)
    )
}

/// [`Watched`] with absolute paths and compiled globs.
#[derive(Default)]
struct Interest {
    root: PathBuf,
    paths: BTreeSet<PathBuf>,
    globs: Vec<Glob>,
    ignored: BTreeSet<PathBuf>,
}

struct Glob {
    matcher: GlobMatcher,
    /// The part before the first wildcard, absolute.
    base: PathBuf,
    /// How many folders below the base a match can lie; none without a limit.
    depth: Option<usize>,
}

impl Glob {
    fn new(root: &Path, pattern: &str) -> Result<Self, WatchError> {
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        let glob = glob.map_err(|source| WatchError::Glob {
            pattern: pattern.to_owned(),
            source,
        })?;
        let parts: Vec<&str> = pattern.split('/').collect();
        let wild = |part: &&str| part.contains(['*', '?', '[', '{', '\\']);
        let literal = parts.iter().position(wild).unwrap_or(parts.len() - 1);
        let deep = parts[literal..]
            .iter()
            .any(|part| part.contains("**") || part.contains('{'));
        Ok(Glob {
            matcher: glob.compile_matcher(),
            base: root.join(parts[..literal].join("/")),
            depth: (!deep).then(|| parts.len() - literal - 1),
        })
    }

    /// Whether matches may lie below the folder `path`.
    fn reaches_below(&self, path: &Path) -> bool {
        path.strip_prefix(&self.base).is_ok_and(|rest| {
            self.depth
                .is_none_or(|depth| rest.components().count() <= depth)
        })
    }
}

impl Interest {
    fn new(watched: &Watched) -> Result<Self, WatchError> {
        let root = &watched.root;
        let globs = watched.globs.iter();
        let globs: Vec<Glob> = globs
            .map(|pattern| Glob::new(root, pattern))
            .collect::<Result<_, _>>()?;
        let mut interest = Interest {
            root: root.clone(),
            paths: BTreeSet::new(),
            globs,
            ignored: watched.ignored.iter().map(|p| root.join(p)).collect(),
        };
        // A link counts where it is and where it leads, and so do those that
        // are found in the folders that it may lead to.
        let bases = interest.globs.iter().map(|glob| &glob.base);
        let elsewhere = bases.flat_map(|base| locations(base).split_off(1));
        let paths = watched.paths.iter().flat_map(|p| locations(&root.join(p)));
        let mut open: Vec<PathBuf> = paths.chain(elsewhere).collect();
        while !open.is_empty() {
            interest.paths.extend(open.drain(..));
            interest.walk(&mut |path, seen| {
                if seen == Seen::Link {
                    open.extend(locations(path));
                }
            });
            open.retain(|path| !interest.paths.contains(path));
        }
        Ok(interest)
    }

    fn ignores(&self, path: &Path) -> bool {
        path.ancestors().any(|part| self.ignored.contains(part))
    }

    /// Whether an event at `path` may have changed what the pipeline reads.
    fn concerns<V>(&self, path: &Path, kind: &EventKind, folders: &BTreeMap<PathBuf, V>) -> bool {
        if self.ignores(path) {
            return false;
        }
        let folder = folders.contains_key(path) || path.is_dir();
        if folder && !moves(kind) {
            return false;
        }
        let within = path.ancestors().any(|part| self.paths.contains(part));
        let above = moves(kind) && self.paths.iter().any(|p| p.starts_with(path));
        within
            || above
            || self.globs.iter().any(|glob| {
                let relative = crate::files::relative(path, &self.root);
                glob.matcher.is_match(relative)
                    || folder && glob.reaches_below(path)
                    || moves(kind) && glob.base.starts_with(path)
            })
    }

    /// The folders to be watched: those that hold the paths, the paths that
    /// are folders with all below, and what the globs reach. The folders from
    /// the root down to them are watched too, to see one of them moved. Links
    /// are not among them: two watches on one folder would be one.
    fn folders(&self) -> BTreeMap<PathBuf, (u64, u64)> {
        let mut folders = BTreeMap::new();
        for path in &self.paths {
            self.add_ancestors(path, &mut folders);
        }
        for glob in &self.globs {
            self.add_ancestors(&glob.base, &mut folders);
        }
        self.walk(&mut |path, seen| {
            if let Seen::Folder(id) = seen {
                folders.insert(path.to_owned(), id);
            }
        });
        folders
    }

    fn add_ancestors(&self, path: &Path, folders: &mut BTreeMap<PathBuf, (u64, u64)>) {
        for folder in path.ancestors().skip(1) {
            let found = identity(folder);
            folders.extend(found.map(|id| (folder.to_owned(), id)));
            let outside = !folder.starts_with(&self.root);
            if folder == self.root || (outside && found.is_some()) {
                return;
            }
        }
    }

    /// The stat tuples of all files and links of interest. Folders are told by
    /// what is in them.
    fn files(&self) -> BTreeMap<PathBuf, Stat> {
        let mut files = BTreeMap::new();
        self.walk(&mut |path, seen| {
            let within = || path.ancestors().any(|part| self.paths.contains(part));
            let relative = crate::files::relative(path, &self.root);
            let matches = || {
                self.globs
                    .iter()
                    .any(|glob| glob.matcher.is_match(relative))
            };
            if matches!(seen, Seen::File | Seen::Link)
                && (within() || matches())
                && let Ok(stat) = Stat::of(path)
            {
                files.insert(path.to_owned(), stat);
            }
        });
        files
    }

    /// Calls `found` with everything at and below the paths and in what the
    /// globs reach. Goes through no link.
    fn walk(&self, found: &mut dyn FnMut(&Path, Seen)) {
        let mut done = BTreeSet::new();
        for path in &self.paths {
            self.walk_below(path, None, &mut done, found);
        }
        for glob in &self.globs {
            // Folders that were walked without a limit are through.
            self.walk_below(&glob.base, glob.depth, &mut done.clone(), found);
        }
    }

    fn walk_below(
        &self,
        path: &Path,
        depth: Option<usize>,
        done: &mut BTreeSet<PathBuf>,
        found: &mut dyn FnMut(&Path, Seen),
    ) {
        let seen = Seen::at(path);
        let mut open = vec![(path.to_owned(), seen, 0)];
        while let Some((path, seen, level)) = open.pop() {
            if self.ignores(&path) || done.contains(&path) {
                continue;
            }
            found(&path, seen);
            if !matches!(seen, Seen::Folder(_)) {
                continue;
            }
            for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
                let Ok(ty) = entry.file_type() else { continue };
                if ty.is_file() {
                    // The usual case by far: no stat, no place in the queue.
                    if !self.ignored.contains(&entry.path()) {
                        found(&entry.path(), Seen::File);
                    }
                } else if ty.is_symlink() || depth.is_none_or(|depth| level < depth) {
                    let path = entry.path();
                    open.push((path.clone(), Seen::at(&path), level + 1));
                }
            }
            if depth.is_none() {
                done.insert(path);
            }
        }
    }
}

/// What a walk finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// With device and inode.
    Folder((u64, u64)),
    File,
    Link,
    Nothing,
}

impl Seen {
    fn at(path: &Path) -> Self {
        match Stat::of(path) {
            Ok(stat) if stat.is_dir() => Seen::Folder((stat.dev, stat.ino)),
            Ok(stat) if stat.is_symlink() => Seen::Link,
            Ok(_) => Seen::File,
            Err(_) => Seen::Nothing,
        }
    }
}

/// Device and inode of a folder that is no link.
fn identity(path: &Path) -> Option<(u64, u64)> {
    match Seen::at(path) {
        Seen::Folder(id) => Some(id),
        _ => None,
    }
}

/// More links than this on the way to a file lead nowhere.
const MOST_LINKS: usize = 40;

/// The path, and what it becomes as one link on it after another is followed:
/// a change of any of those places changes what is behind the path.
fn locations(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    while let Some(next) = found.last().and_then(|path| first_link_followed(path)) {
        if found.contains(&next) || found.len() > MOST_LINKS {
            break;
        }
        found.push(next);
    }
    found
}

/// The path with the first link on it replaced by where that leads.
fn first_link_followed(path: &Path) -> Option<PathBuf> {
    let mut ancestors: Vec<&Path> = path.ancestors().collect();
    ancestors.reverse();
    for part in ancestors {
        if let Ok(target) = fs::read_link(part) {
            let rest = path.strip_prefix(part).ok()?;
            let target = part.parent()?.join(target);
            return Some(
                normal(&target)
                    .components()
                    .chain(rest.components())
                    .collect(),
            );
        }
    }
    None
}

/// Without `.` and `..`; of a path without links before a `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(normal.pop()),
            part => normal.push(part),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Project {
        _folder: tempfile::TempDir,
        root: PathBuf,
        watched: Watched,
    }

    impl Project {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path().canonicalize().unwrap();
            let watched = Watched {
                root: root.clone(),
                paths: ["pipelines/p.toml", "data/a.csv", "docs"]
                    .into_iter()
                    .map(PathBuf::from)
                    .collect(),
                globs: BTreeSet::from(["reports/*.json".into(), "src/**/*.kt".into()]),
                ignored: BTreeSet::from(["cache".into(), "docs/generated".into()]),
            };
            let project = Project {
                _folder: folder,
                root,
                watched,
            };
            project.write("pipelines/p.toml", "one");
            project.write("data/a.csv", "one");
            project.write("docs/deep/note.md", "one");
            project.write("docs/generated/x", "one");
            project.write("reports/a.json", "one");
            project.write("src/main/A.kt", "one");
            project.write("cache/x", "one");
            project
        }

        fn path(&self, path: &str) -> PathBuf {
            self.root.join(path)
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn watcher(&self) -> Watcher {
            Watcher::new(&self.watched).unwrap()
        }
    }

    /// What changed, or nothing when it stays quiet for half a second.
    fn next(watcher: &mut Watcher) -> Vec<String> {
        let cancel = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (done, finished) = channel::<()>();
            let cancel = &cancel;
            scope.spawn(move || {
                if finished.recv_timeout(Duration::from_millis(700)).is_err() {
                    cancel.store(true, Ordering::Relaxed);
                }
            });
            let changed = watcher.wait(cancel).unwrap().unwrap_or_default();
            let _ = done.send(());
            assert!(!changed.rescan);
            let shown = |path: &PathBuf| path.display().to_string();
            changed.paths.iter().map(shown).collect()
        })
    }

    #[test]
    fn a_file_written_in_place() {
        let project = Project::new();
        let mut watcher = project.watcher();
        project.write("data/a.csv", "two");
        assert_eq!(next(&mut watcher), ["data/a.csv"]);
        assert!(next(&mut watcher).is_empty(), "reported once");
    }

    #[test]
    fn a_file_saved_by_renaming() {
        let project = Project::new();
        let mut watcher = project.watcher();
        for _ in 0..3 {
            project.write("data/.a.csv.tmp", "new");
            fs::rename(project.path("data/.a.csv.tmp"), project.path("data/a.csv")).unwrap();
            assert_eq!(next(&mut watcher), ["data/a.csv"]);
        }
    }

    #[test]
    fn a_file_deleted_and_created_again() {
        let project = Project::new();
        let mut watcher = project.watcher();
        fs::remove_file(project.path("data/a.csv")).unwrap();
        assert_eq!(next(&mut watcher), ["data/a.csv"]);
        project.write("data/a.csv", "two");
        assert_eq!(next(&mut watcher), ["data/a.csv"]);
    }

    #[test]
    fn a_burst_is_one_change() {
        let project = Project::new();
        let mut watcher = project.watcher();
        for i in 0..50 {
            project.write(&format!("reports/{}.json", i % 5), &i.to_string());
        }
        project.write("pipelines/p.toml", "two");
        let changed = next(&mut watcher);
        assert_eq!(changed.len(), 6, "{changed:?}");
        assert!(next(&mut watcher).is_empty());
    }

    #[test]
    fn changes_while_nobody_waits_are_kept() {
        let project = Project::new();
        let mut watcher = project.watcher();
        project.write("data/a.csv", "two");
        std::thread::sleep(Duration::from_millis(300));
        watcher.update(&project.watched).unwrap();
        assert_eq!(next(&mut watcher), ["data/a.csv"]);
    }

    #[test]
    fn new_files_matching_a_glob_and_no_others() {
        let project = Project::new();
        let mut watcher = project.watcher();
        project.write("reports/b.json", "new");
        project.write("reports/b.txt", "new");
        project.write("src/main/B.kt", "new");
        project.write("src/main/B.java", "new");
        assert_eq!(next(&mut watcher), ["reports/b.json", "src/main/B.kt"]);
        fs::create_dir(project.path("src/test")).unwrap();
        assert_eq!(next(&mut watcher), ["src/test"], "it may hold matches");
        watcher.update(&project.watched).unwrap();
        project.write("src/test/T.kt", "new");
        assert_eq!(next(&mut watcher), ["src/test/T.kt"]);
        fs::rename(project.path("src/test"), project.path("elsewhere")).unwrap();
        assert_eq!(next(&mut watcher), ["src/test"]);
        fs::create_dir(project.path("reports/below")).unwrap();
        assert!(next(&mut watcher).is_empty(), "the glob ends above it");
    }

    #[test]
    fn input_folders_count_with_all_below_and_own_outputs_never() {
        let project = Project::new();
        let mut watcher = project.watcher();
        project.write("docs/deep/note.md", "two");
        project.write("docs/deep/new.md", "new");
        project.write("docs/generated/x", "two");
        project.write("cache/x", "two");
        project.write("data/unrelated", "new");
        assert_eq!(
            next(&mut watcher),
            ["docs/deep/new.md", "docs/deep/note.md"]
        );
        let _ = fs::read(project.path("docs/deep/note.md")).unwrap();
        assert!(next(&mut watcher).is_empty(), "reading is no change");
    }

    #[test]
    fn a_folder_above_an_input_moved_away_and_put_back() {
        let project = Project::new();
        let mut watcher = project.watcher();
        fs::rename(project.path("data"), project.path("old")).unwrap();
        assert_eq!(next(&mut watcher), ["data"]);
        watcher.update(&project.watched).unwrap();
        project.write("data/a.csv", "two");
        assert!(!next(&mut watcher).is_empty());
        watcher.update(&project.watched).unwrap();
        project.write("data/a.csv", "three");
        assert_eq!(next(&mut watcher), ["data/a.csv"]);
    }

    #[test]
    fn a_folder_moved_away_and_back_at_once() {
        let project = Project::new();
        let mut watcher = project.watcher();
        fs::rename(project.path("data"), project.path("old")).unwrap();
        fs::rename(project.path("old"), project.path("data")).unwrap();
        assert_eq!(next(&mut watcher), ["data"]);
        watcher.update(&project.watched).unwrap();
        project.write("data/a.csv", "two");
        assert_eq!(next(&mut watcher), ["data/a.csv"]);
    }

    #[test]
    fn an_input_whose_folder_is_yet_to_be_made() {
        let mut project = Project::new();
        project.watched.paths.insert("later/deep/x.csv".into());
        let mut watcher = project.watcher();
        project.write("later/deep/x.csv", "new");
        assert!(!next(&mut watcher).is_empty());
        watcher.update(&project.watched).unwrap();
        project.write("later/deep/x.csv", "two");
        assert_eq!(next(&mut watcher), ["later/deep/x.csv"]);
    }

    #[test]
    fn a_linked_input_counts_where_it_leads() {
        let mut project = Project::new();
        project.write("elsewhere/real.csv", "one");
        std::os::unix::fs::symlink("../elsewhere/real.csv", project.path("data/link.csv")).unwrap();
        project.watched.paths.insert("data/link.csv".into());
        let mut watcher = project.watcher();
        project.write("elsewhere/real.csv", "two");
        assert_eq!(next(&mut watcher), ["elsewhere/real.csv"]);
    }

    #[test]
    fn lost_events_ask_for_a_full_round() {
        let mut events = Events::new().unwrap();
        let mut note = |event| {
            let mut changed = Changed::default();
            events.note(event, &Interest::default(), &mut changed);
            changed.rescan
        };
        let lost = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        assert!(note(Ok(lost)));
        assert!(note(Err(notify::Error::generic("broken"))));
        assert!(!note(Ok(Event::new(EventKind::Other))));
    }

    #[test]
    fn every_link_on_the_way_to_a_linked_input_counts() {
        let project = Project::new();
        project.write("elsewhere/one.csv", "one");
        project.write("elsewhere/two.csv", "two");
        let link = |to: &str, at: &str| {
            let _ = fs::remove_file(project.path(at));
            fs::create_dir_all(project.path(at).parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(to, project.path(at)).unwrap();
        };
        link("../elsewhere/one.csv", "links/second");
        link("../links/second", "data/first");
        let mut watched = project.watched.clone();
        watched.paths.insert("data/first".into());
        let mut watcher = Watcher::new(&watched).unwrap();
        link("../elsewhere/two.csv", "links/second");
        assert_eq!(next(&mut watcher), ["links/second"]);
        watcher.update(&watched).unwrap();
        project.write("elsewhere/two.csv", "three");
        assert_eq!(next(&mut watcher), ["elsewhere/two.csv"]);
    }

    #[test]
    fn links_inside_of_an_input_folder_count_where_they_lead() {
        let project = Project::new();
        project.write("elsewhere/deep/x", "one");
        project.write("elsewhere/file", "one");
        let link = |to: &str, at: &str| {
            std::os::unix::fs::symlink(project.path(to), project.path(at)).unwrap();
        };
        link("elsewhere/deep", "docs/linked");
        link("elsewhere/file", "docs/file");
        link("docs", "docs/deep/loop");
        let mut watcher = project.watcher();
        project.write("elsewhere/deep/x", "two");
        assert!(!next(&mut watcher).is_empty());
        project.write("elsewhere/file", "two");
        assert!(!next(&mut watcher).is_empty());
        assert!(next(&mut watcher).is_empty());
    }

    #[test]
    fn a_tree_that_grows_while_it_is_armed_is_watched_whole() {
        let project = Project::new();
        let stop = AtomicBool::new(false);
        let deepest = std::thread::scope(|scope| {
            let grower = scope.spawn(|| {
                let mut path = project.path("docs/grown");
                let mut n = 0;
                // Once at least: it may come to its turn when the watcher is armed.
                while n == 0 || !stop.load(Ordering::Relaxed) && n < 200 {
                    path.push("x");
                    fs::create_dir_all(&path).unwrap();
                    n += 1;
                }
                path
            });
            let mut watcher = project.watcher();
            stop.store(true, Ordering::Relaxed);
            let deepest = grower.join().unwrap();
            // Whatever was created after the last look is told, and seen then.
            while !next(&mut watcher).is_empty() {
                watcher.update(&project.watched).unwrap();
            }
            fs::write(deepest.join("file"), "new").unwrap();
            assert!(!next(&mut watcher).is_empty());
            deepest
        });
        assert!(deepest.join("file").exists());
    }

    #[test]
    fn polling_finds_what_events_would_tell() {
        let mut project = Project::new();
        project.watched.paths.insert("later/x.csv".into());
        let mut watcher = project.watcher();
        watcher.source = Source::Polling(Polling::default());
        watcher.update(&project.watched).unwrap();
        assert!(poll(&mut watcher).is_empty());
        project.write("docs/deep/note.md", "changed");
        project.write("docs/generated/x", "own");
        project.write("cache/x", "own");
        project.write("reports/b.json", "new");
        project.write("reports/b.txt", "no match");
        project.write("later/x.csv", "new");
        fs::remove_file(project.path("data/a.csv")).unwrap();
        let all = [
            "data/a.csv",
            "docs/deep/note.md",
            "later/x.csv",
            "reports/b.json",
        ];
        assert_eq!(poll(&mut watcher), all);
        assert!(poll(&mut watcher).is_empty());
        // A change while something else begins to be of interest is kept.
        project.write("docs/deep/note.md", "again");
        project.watched.paths.insert("src".into());
        watcher.update(&project.watched).unwrap();
        assert!(poll(&mut watcher).contains(&"docs/deep/note.md".to_owned()));
    }

    /// One look.
    fn poll(watcher: &mut Watcher) -> Vec<String> {
        let Source::Polling(polling) = &mut watcher.source else {
            panic!("events");
        };
        polling.look(&watcher.interest, &mut watcher.pending);
        let changed = std::mem::take(&mut watcher.pending);
        let shown = |path: &PathBuf| path.display().to_string();
        changed.paths.iter().map(shown).collect()
    }

    #[test]
    fn what_was_found_before_a_cancelled_wait_is_told_by_the_next() {
        let project = Project::new();
        let mut watcher = project.watcher();
        project.write("data/a.csv", "two");
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(watcher.wait(&AtomicBool::new(true)).unwrap(), None);
        assert_eq!(next(&mut watcher), ["data/a.csv"]);
    }

    #[test]
    fn a_folder_of_ten_thousand_files_takes_one_watch() {
        let project = Project::new();
        for i in 0..10_000 {
            fs::write(project.path(&format!("docs/{i}")), "").unwrap();
        }
        let mut watcher = project.watcher();
        let Source::Events(events) = &watcher.source else {
            panic!("no events");
        };
        assert!(events.folders.len() < 12, "{:?}", events.folders);
        fs::write(project.path("docs/77"), "changed").unwrap();
        assert_eq!(next(&mut watcher), ["docs/77"]);
    }

    #[test]
    fn a_glob_that_is_none_is_an_error() {
        let mut project = Project::new();
        project.watched.globs = BTreeSet::from(["data/[".to_owned()]);
        let error = Watcher::new(&project.watched).err().unwrap();
        assert_eq!(error.to_string(), "failed to read the glob 'data/['");
    }
}
