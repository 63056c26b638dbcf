//! Debounced file events: which inputs of a pipeline changed since one last looked.
//!
//! Folders are watched, never files, so that an editor that saves by renaming
//! is seen like one that writes in place. Events queue up while nobody waits;
//! call [`Watcher::update`] *before* reading the inputs, and no change is lost:
//! what happens later is in the queue, what happened before is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
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
            _ => None,
        }
    }
}

/// Watches what a pipeline reads.
pub struct Watcher {
    notify: RecommendedWatcher,
    events: Receiver<notify::Result<Event>>,
    /// The folders now watched, with their device and inode.
    folders: BTreeMap<PathBuf, (u64, u64)>,
    interest: Interest,
}

impl Watcher {
    /// Starts watching.
    pub fn new(watched: &Watched) -> Result<Self, WatchError> {
        let (sender, events) = channel();
        let handler = move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, tells_of_change) {
                // Nobody listens any more: nothing is to be told.
                let _ = sender.send(event);
            }
        };
        let mut watcher = Watcher {
            notify: notify::recommended_watcher(handler).map_err(WatchError::Start)?,
            events,
            folders: BTreeMap::new(),
            interest: Interest::default(),
        };
        watcher.update(watched)?;
        Ok(watcher)
    }

    /// Looks at other things from now on; queued events stay queued. Also
    /// finds folders that were created or replaced since.
    pub fn update(&mut self, watched: &Watched) -> Result<(), WatchError> {
        self.interest = Interest::new(watched)?;
        let wanted = self.interest.folders();
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
        for (path, id) in wanted {
            if !self.folders.contains_key(&path) && self.watch(&path)? {
                self.folders.insert(path, id);
            }
        }
        Ok(())
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

    /// Waits until something changed and it has then been quiet for a moment,
    /// and tells what. None when `cancel` was set.
    pub fn wait(&mut self, cancel: &AtomicBool) -> Result<Option<Changed>, WatchError> {
        let mut changed = Changed::default();
        let mut since = Instant::now();
        loop {
            let calm = changed.is_empty();
            let event = self.events.recv_timeout(if calm { POLL } else { QUIET });
            if cancel.load(Ordering::Relaxed) {
                return Ok(None);
            }
            match event {
                Ok(event) => self.note(event, &mut changed),
                Err(RecvTimeoutError::Disconnected) => return Err(WatchError::Ended),
                Err(RecvTimeoutError::Timeout) if !calm => return Ok(Some(changed)),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if calm {
                since = Instant::now();
            } else if since.elapsed() > LONGEST {
                return Ok(Some(changed));
            }
        }
    }

    fn note(&mut self, event: notify::Result<Event>, changed: &mut Changed) {
        let Ok(event) = event else {
            changed.rescan = true;
            return;
        };
        changed.rescan |= event.need_rescan();
        for path in &event.paths {
            if self.interest.concerns(path, &event.kind, &self.folders) {
                let path = crate::files::relative(path, &self.interest.root);
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
        let mut paths: BTreeSet<PathBuf> = watched.paths.iter().map(|p| root.join(p)).collect();
        // A link counts where it is and where it leads.
        let targets: Vec<PathBuf> = paths
            .iter()
            .filter_map(|path| fs::canonicalize(path).ok())
            .collect();
        paths.extend(targets);
        Ok(Interest {
            root: root.clone(),
            paths,
            globs: watched
                .globs
                .iter()
                .map(|pattern| Glob::new(root, pattern))
                .collect::<Result<_, _>>()?,
            ignored: watched.ignored.iter().map(|p| root.join(p)).collect(),
        })
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
    /// the root down to them are watched too, to see one of them moved.
    fn folders(&self) -> BTreeMap<PathBuf, (u64, u64)> {
        let mut folders = BTreeMap::new();
        for path in &self.paths {
            self.add_ancestors(path, &mut folders);
            self.add_tree(path, None, &mut folders);
        }
        for glob in &self.globs {
            self.add_ancestors(&glob.base, &mut folders);
            self.add_tree(&glob.base, glob.depth, &mut folders);
        }
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

    fn add_tree(
        &self,
        folder: &Path,
        depth: Option<usize>,
        folders: &mut BTreeMap<PathBuf, (u64, u64)>,
    ) {
        let mut open = vec![(folder.to_owned(), 0)];
        while let Some((folder, level)) = open.pop() {
            let Some(id) = identity(&folder).filter(|_| !self.ignores(&folder)) else {
                continue;
            };
            if depth.is_none_or(|depth| level < depth) {
                let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
                let below = entries.filter(|entry| entry.file_type().is_ok_and(|ty| ty.is_dir()));
                open.extend(below.map(|entry| (entry.path(), level + 1)));
            }
            folders.insert(folder, id);
        }
    }
}

/// Device and inode of a folder (or of a link, which stands for where it leads).
fn identity(path: &Path) -> Option<(u64, u64)> {
    let stat = Stat::of(path).ok()?;
    (stat.is_dir() || stat.is_symlink() && path.is_dir()).then_some((stat.dev, stat.ino))
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
        let project = Project::new();
        let mut watcher = project.watcher();
        let mut changed = Changed::default();
        let lost = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        watcher.note(Ok(lost), &mut changed);
        assert!(changed.rescan);
        let mut changed = Changed::default();
        watcher.note(Err(notify::Error::generic("broken")), &mut changed);
        assert!(changed.rescan);
    }

    #[test]
    fn a_glob_that_is_none_is_an_error() {
        let mut project = Project::new();
        project.watched.globs = BTreeSet::from(["data/[".to_owned()]);
        let error = Watcher::new(&project.watched).err().unwrap();
        assert_eq!(error.to_string(), "failed to read the glob 'data/['");
    }
}
