//! Giving back disk space: what nothing needs any more, shown first and deleted on request.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::lock_files::LockFiles;
use super::{OpsError, Workspace};
use crate::event::Sink;
use crate::files::{self, Lock as BuildLock};
use crate::hash::Digest;
use crate::pipeline::Overrides;
use crate::store::{Entry, Holdings, Key, LocalStore, References, StepRef, Store};

/// What to keep beyond what must be kept.
#[derive(Debug, Clone)]
pub struct GcOptions {
    /// Delete; otherwise only look.
    pub delete: bool,
    /// How many of the newest runs keep their results and logs.
    pub keep_runs: usize,
    /// Delete results, oldest first, only until the objects have at most this
    /// many bytes; without it all that nothing needs goes.
    pub max_size: Option<u64>,
    /// Whether outputs that were edited and set aside go, too: nobody can make
    /// those again.
    pub edited: bool,
    /// Values that replace those of the pipeline files.
    pub overrides: Overrides,
}

/// A sort of thing that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Garbage {
    /// Results that no lock file, no step and no recent run needs.
    Results,
    /// Objects to which nothing leads.
    Orphans,
    /// Files that killed runs left between the objects.
    Strays,
    /// Logs of old runs.
    Runs,
    /// Work folders of runs that were killed.
    Work,
    /// Checkpoints of keys that no step is at.
    Checkpoints,
    /// What is kept to be faster, of pipelines that are gone.
    Graphs,
    /// What was damaged and was moved out of the way.
    Damaged,
    /// Outputs that were edited and set aside.
    Edited,
}

/// How much of one sort goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many results, objects, files or folders.
    pub count: usize,
    /// Their bytes. For results those that nothing else needs.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What a collection found, and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Whether it was deleted.
    pub deleted: bool,
    /// What goes, by sort.
    pub garbage: BTreeMap<Garbage, Amount>,
    /// The results that stay, with the bytes of all objects that stay.
    pub kept: Amount,
    /// Edited outputs that were set aside and stay.
    pub edited_kept: Amount,
    /// How many different lock files were asked.
    pub lock_files: usize,
    /// How many branches and tags they were looked for on; none outside of a
    /// repository.
    pub branches: Option<usize>,
    /// By how many bytes what must stay is above the wanted size.
    pub over: Option<u64>,
    /// Whether the user stopped it before all was deleted.
    pub stopped: bool,
}

impl GcReport {
    /// Bytes that go, or went.
    pub fn bytes(&self) -> u64 {
        self.garbage.values().map(|amount| amount.bytes).sum()
    }
}

/// Looks for what nothing needs, and deletes it if told to: then under the
/// build lock, so that no build is in flight. None if the user stopped the
/// waiting for it.
pub fn gc(
    workspace: &Workspace,
    options: &GcOptions,
    cancel: &AtomicBool,
    sink: &mut dyn Sink,
) -> Result<Option<GcReport>, OpsError> {
    let _lock;
    let store = if options.delete {
        let Some(lock) = super::build::lock_store(workspace, "gc", cancel, sink)? else {
            return Ok(None);
        };
        _lock = lock;
        workspace.open_store()?.0
    } else {
        workspace.look_into_store()?
    };
    let plan = Plan::make(workspace, &store, options)?;
    let stopped = options.delete && !plan.carry_out(&store, cancel)?;
    let mut report = plan.report;
    report.deleted = options.delete;
    report.stopped = stopped;
    Ok(Some(report))
}

/// A result with what its record says of how it came to be.
pub(super) struct StoredResult {
    pub key: Key,
    pub entry: Entry,
    /// None if the record is lost.
    pub made: Option<Made>,
}

/// The part of a record that matters here.
#[derive(Debug, Clone, serde::Deserialize)]
pub(super) struct Made {
    pub run: String,
    pub pipeline: String,
    pub step: String,
    pub manifest: MadeBy,
    pub started_ms: u64,
    #[serde(default)]
    pub log: Option<Digest>,
}

/// The part of a manifest that matters here.
#[derive(Debug, Clone, serde::Deserialize)]
pub(super) struct MadeBy {
    pub kind: String,
}

impl StoredResult {
    /// All results of a store, oldest first.
    pub(super) fn all(store: &LocalStore) -> Vec<Self> {
        let entries: Vec<(Key, Entry)> = store.with_index(|index| {
            let entries = index.entries();
            entries.map(|(key, entry)| (*key, entry.clone())).collect()
        });
        let mut results: Vec<StoredResult> = entries
            .into_iter()
            .map(|(key, entry)| StoredResult {
                made: store
                    .get(&entry.record)
                    .ok()
                    .and_then(|record| serde_json::from_slice(&record).ok()),
                key,
                entry,
            })
            .collect();
        results.sort_by_key(|result| (result.started_ms(), result.key));
        results
    }

    pub(super) fn log(&self) -> Option<Digest> {
        self.made.as_ref()?.log
    }

    /// When it was made; the beginning of time where nobody knows.
    pub(super) fn started_ms(&self) -> u64 {
        self.made.as_ref().map_or(0, |made| made.started_ms)
    }
}

/// What is to go.
struct Plan {
    keys: Vec<Key>,
    steps: Vec<StepRef>,
    objects: Vec<Digest>,
    /// Files and folders outside of the objects, and strays among them.
    paths: Vec<PathBuf>,
    report: GcReport,
}

impl Plan {
    fn make(
        workspace: &Workspace,
        store: &LocalStore,
        options: &GcOptions,
    ) -> Result<Self, OpsError> {
        let locks = LockFiles::read(workspace)?;
        let live = Live::look(workspace, store, options);
        let results = StoredResult::all(store);
        let runs = newest_runs(workspace, &results, options.keep_runs);
        let mut plan = Plan {
            keys: Vec::new(),
            steps: live.gone.clone(),
            objects: Vec::new(),
            paths: Vec::new(),
            report: GcReport {
                lock_files: locks.files,
                branches: locks.names,
                ..GcReport::default()
            },
        };
        let holdings = store.holdings()?;
        let needed = |result: &StoredResult| {
            let made = result.made.as_ref();
            locks.digests.contains(&result.key.0)
                || live.keys.contains(&result.key)
                || made.is_some_and(|made| runs.contains(&made.run))
        };
        plan.results(store, &holdings, &locks, &results, needed, options.max_size);
        for path in holdings.strays {
            plan.path(Garbage::Strays, path);
        }
        plan.folders(workspace, &live, &runs, options);
        Ok(plan)
    }

    /// Chooses the results that go, and finds the objects that go with them.
    fn results(
        &mut self,
        store: &LocalStore,
        holdings: &Holdings,
        locks: &LockFiles,
        results: &[StoredResult],
        needed: impl Fn(&StoredResult) -> bool,
        max_size: Option<u64>,
    ) {
        let mut references = References::default();
        for digest in &locks.digests {
            if holdings.objects.contains_key(digest) {
                references.add(store, *digest);
            }
        }
        for result in results {
            references.add_entry(store, &result.entry, result.log());
        }
        let mut left = holdings.bytes();
        for (digest, bytes) in &holdings.objects {
            if !references.has(digest) {
                self.objects.push(*digest);
                self.add(Garbage::Orphans, *bytes);
                left -= bytes;
            }
        }
        let size = |digest: &Digest| holdings.objects.get(digest).copied().unwrap_or_default();
        for result in results.iter().filter(|result| !needed(result)) {
            if max_size.is_some_and(|max| left <= max) {
                break;
            }
            let free = references.remove_entry(&result.entry, result.log());
            let bytes = free.iter().map(size).sum::<u64>();
            left -= bytes;
            self.objects.extend(free);
            self.keys.push(result.key);
            self.add(Garbage::Results, bytes);
        }
        self.report.kept = Amount {
            count: results.len() - self.keys.len(),
            bytes: left,
        };
        self.report.over = max_size
            .and_then(|max| left.checked_sub(max))
            .filter(|over| *over > 0);
    }

    fn add(&mut self, what: Garbage, bytes: u64) {
        self.report.garbage.entry(what).or_default().add(bytes);
    }

    fn path(&mut self, what: Garbage, path: PathBuf) {
        self.add(what, size_below(&path));
        self.paths.push(path);
    }

    /// What lies beside the objects.
    fn folders(
        &mut self,
        workspace: &Workspace,
        live: &Live,
        runs: &BTreeSet<String>,
        options: &GcOptions,
    ) {
        let cache = &workspace.cache;
        let name = |path: &Path| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        for run in inside(&cache.join("runs")) {
            if !runs.contains(&name(&run)) {
                self.path(Garbage::Runs, run);
            }
        }
        // While somebody builds, work is in progress there.
        let builds = || BuildLock::holder(&cache.join("lock")).is_ok_and(|it| it.is_some());
        if options.delete || !builds() {
            for work in inside(&cache.join("work")) {
                self.path(Garbage::Work, work);
            }
        }
        for checkpoint in inside(&cache.join("checkpoints")) {
            if !live.is_at(&name(&checkpoint)) {
                self.path(Garbage::Checkpoints, checkpoint);
            }
        }
        let kept = ["graphs", "snapshots"].map(|folder| inside(&cache.join(folder)));
        for graph in kept.into_iter().flatten() {
            if live.knows_all && !live.stems.contains(&name(&graph)) {
                self.path(Garbage::Graphs, graph);
            }
        }
        let damaged = [cache.join("journal.damaged"), cache.join("damaged")];
        for path in damaged.into_iter().filter(|path| path.exists()) {
            self.path(Garbage::Damaged, path);
        }
        for edited in inside(&cache.join("edited")) {
            match options.edited {
                true => self.path(Garbage::Edited, edited),
                false => self.report.edited_kept.add(size_below(&edited)),
            }
        }
    }

    /// Deletes; false if the user stopped it half-way. In this order: what
    /// speaks of objects goes first, so that whatever happens nothing speaks of
    /// an object that is gone.
    fn carry_out(&self, store: &LocalStore, cancel: &AtomicBool) -> Result<bool, OpsError> {
        store.forget(&self.keys, &self.steps)?;
        for digest in &self.objects {
            if cancel.load(Ordering::Relaxed) {
                break;
            }
            store.drop_object(digest)?;
        }
        for path in &self.paths {
            if cancel.load(Ordering::Relaxed) {
                break;
            }
            files::remove(path)?;
        }
        store.stats().save()?;
        Ok(!cancel.load(Ordering::Relaxed))
    }
}

/// The steps of the project's pipelines, and the keys they stand at.
struct Live {
    keys: HashSet<Key>,
    /// Keys whose run did not finish, and may go on from a checkpoint.
    unfinished: HashSet<String>,
    /// Steps the store knows and no pipeline has any more.
    gone: Vec<StepRef>,
    /// The stems of the pipeline files.
    stems: BTreeSet<String>,
    /// Whether every pipeline that uses this store is known.
    knows_all: bool,
}

impl Live {
    fn look(workspace: &Workspace, store: &LocalStore, options: &GcOptions) -> Self {
        let mut steps: HashSet<StepRef> = HashSet::new();
        let mut stems = BTreeSet::new();
        // A store elsewhere may be that of other projects, too.
        let store_folder = fs::canonicalize(&workspace.cache);
        let mut knows_all = store_folder.is_ok_and(|it| it.starts_with(&workspace.root));
        for pipeline in workspace.siblings() {
            let stem = pipeline.pipeline.file_stem();
            stems.extend(stem.map(|stem| stem.to_string_lossy().into_owned()));
            let Ok((graph, _)) = pipeline.load(&options.overrides) else {
                knows_all = false;
                continue;
            };
            steps.extend(graph.nodes.iter().map(|node| StepRef {
                pipeline: graph.name.to_string(),
                step: node.name.to_string(),
            }));
        }
        let mut live = Live {
            keys: HashSet::new(),
            unfinished: HashSet::new(),
            gone: Vec::new(),
            stems,
            knows_all,
        };
        store.with_index(|index| {
            for (pipeline, step, state) in index.steps() {
                let step = StepRef {
                    pipeline: pipeline.to_owned(),
                    step: step.to_owned(),
                };
                if knows_all && !steps.contains(&step) {
                    live.gone.push(step);
                    continue;
                }
                live.keys.extend(state.current);
                live.keys.extend(state.unfinished);
                live.unfinished
                    .extend(state.unfinished.map(|key| key.to_string()));
            }
        });
        live.gone.sort();
        live
    }

    /// Whether a folder of checkpoints, named after a key, may still be of use.
    fn is_at(&self, name: &str) -> bool {
        let hex = name.find(|c: char| !c.is_ascii_hexdigit());
        let hex = &name[..hex.unwrap_or(name.len())];
        self.unfinished.iter().any(|key| key.starts_with(hex))
    }
}

/// The names of the newest runs, by what is in the store and by their logs.
fn newest_runs(workspace: &Workspace, results: &[StoredResult], keep: usize) -> BTreeSet<String> {
    let logs = inside(&workspace.cache.join("runs")).into_iter();
    let logs = logs.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let results = results.iter();
    let runs: BTreeSet<String> = results
        .filter_map(|result| Some(result.made.as_ref()?.run.clone()))
        .chain(logs)
        .collect();
    // Their names begin with the time.
    runs.into_iter().rev().take(keep).collect()
}

/// What is in a folder, sorted; nothing if it is not there.
pub(super) fn inside(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Bytes of all files at and below a path.
pub(super) fn size_below(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => inside(path).iter().map(|path| size_below(path)).sum(),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    }
}
