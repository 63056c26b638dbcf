//! The store's state: how much it holds of what, and whether all of it is what its name says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use super::gc::{GcOptions, StoredResult, gc, inside, size_below};
use super::{OpsError, Workspace};
use crate::event::Sink;
use crate::files::Stat;
use crate::graph::{Graph, Node};
use crate::hash::Digest;
use crate::pipeline::Overrides;
use crate::store::{
    Artifact, Key, Listing, LocalStore, Output, Shape, StatCache, Store, StoreError, walk,
};

/// How much the store holds of what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CacheStats {
    /// How many objects there are.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The bytes that all results would have if none shared anything.
    pub unshared_bytes: u64,
    /// How many results there are.
    pub results: usize,
    /// By kind, the largest first.
    pub kinds: Vec<Group>,
    /// By pipeline and step, the largest first.
    pub steps: Vec<Group>,
    /// By the time since they were made: a day, a week, a month, longer.
    pub ages: Vec<Group>,
    /// Bytes of the outputs in place, of all pipelines of the project.
    pub in_place: u64,
    /// Of these, the bytes that are copies of objects: they take the room a
    /// second time, unless the file system shares the blocks.
    pub copies: u64,
    /// Bytes that `gc` would free.
    pub garbage: u64,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// Records in the journal.
    pub journal_notes: usize,
    /// Records that a compacted journal would have.
    pub journal_needed: usize,
    /// Bytes of what is kept to be faster: graphs, snapshots, digests by stat tuple.
    pub caches: u64,
    /// Bytes of logs of runs, by run.
    pub logs: u64,
    /// Bytes of edited outputs that were set aside.
    pub edited: u64,
}

/// A part of the results.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Group {
    /// What they have in common.
    pub name: String,
    /// How many there are.
    pub results: usize,
    /// The bytes of their outputs; what several results share counts once.
    pub bytes: u64,
}

/// Counts what the store holds; `now_ms` is milliseconds since the epoch, and
/// `keep_runs` what `gc` would be told.
pub fn stats(
    workspace: &Workspace,
    overrides: &Overrides,
    keep_runs: usize,
    now_ms: u64,
) -> Result<CacheStats, OpsError> {
    let store = workspace.look_into_store()?;
    let holdings = store.holdings()?;
    let results = StoredResult::all(&store);
    let options = GcOptions {
        delete: false,
        keep_runs,
        max_size: None,
        edited: false,
        overrides: overrides.clone(),
    };
    let garbage = gc(
        workspace,
        &options,
        &AtomicBool::new(false),
        &mut |_: &_| {},
    )?;
    let sizes = |result: &StoredResult| -> u64 {
        let outputs = result.entry.outputs.iter();
        outputs.map(|output| output.artifact.size).sum()
    };
    let (journal_notes, journal_needed) = store.with_index(|index| index.length());
    let unknown = || "(record lost)".to_owned();
    let made = |result: &StoredResult, name: &dyn Fn(&super::gc::Made) -> String| {
        result.made.as_ref().map_or_else(unknown, name)
    };
    let by = |name: &dyn Fn(&StoredResult) -> String| groups(&store, &results, name);
    let (in_place, copies) = in_place(workspace, &store, overrides);
    let mut ages = by(&|result| age(now_ms.saturating_sub(result.started_ms())).to_owned());
    ages.sort_by_key(|group| AGES.iter().position(|(_, name)| *name == group.name));
    Ok(CacheStats {
        objects: holdings.objects.len(),
        bytes: holdings.bytes(),
        unshared_bytes: results.iter().map(sizes).sum(),
        results: results.len(),
        kinds: by(&|result| made(result, &|made| made.manifest.kind.clone())),
        steps: by(&|result| made(result, &|made| format!("{}/{}", made.pipeline, made.step))),
        ages,
        in_place,
        copies,
        garbage: garbage.map_or(0, |report| report.bytes()),
        journal_bytes: size_below(&workspace.cache.join("journal")),
        journal_notes,
        journal_needed,
        caches: ["graphs", "snapshots", "stat"]
            .map(|name| size_below(&workspace.cache.join(name)))
            .iter()
            .sum(),
        logs: size_below(&workspace.cache.join("runs")),
        edited: size_below(&workspace.cache.join("edited")),
    })
}

/// Ages by their least number of days, the oldest last.
const AGES: [(u64, &str); 4] = [
    (0, "today"),
    (1, "this week"),
    (7, "this month"),
    (30, "older"),
];

fn age(millis: u64) -> &'static str {
    let days = millis / (24 * 60 * 60 * 1000);
    let fitting = AGES.iter().rev().find(|(least, _)| days >= *least);
    fitting.map_or(AGES[0].1, |(_, name)| name)
}

/// The results by what `name` gives, the largest group first.
fn groups(
    store: &LocalStore,
    results: &[StoredResult],
    name: &dyn Fn(&StoredResult) -> String,
) -> Vec<Group> {
    let mut found: BTreeMap<String, (usize, HashMap<Digest, u64>)> = BTreeMap::new();
    for result in results {
        let (count, objects) = found.entry(name(result)).or_default();
        *count += 1;
        for output in &result.entry.outputs {
            if objects.contains_key(&output.artifact.digest) {
                continue;
            }
            walk(store, &output.artifact, &mut |_, artifact| {
                let bytes = match artifact.shape {
                    Shape::Folder => 0,
                    Shape::File | Shape::Executable => artifact.size,
                };
                objects.insert(artifact.digest, bytes);
            });
        }
    }
    let group = |(name, (results, objects)): (String, (usize, HashMap<Digest, u64>))| Group {
        name,
        results,
        bytes: objects.values().sum(),
    };
    let mut groups: Vec<Group> = found.into_iter().map(group).collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.bytes));
    groups
}

/// The bytes of the outputs in place, and of those that are files of their own
/// beside the object with the same content.
fn in_place(workspace: &Workspace, store: &LocalStore, overrides: &Overrides) -> (u64, u64) {
    let (mut all, mut copies) = (0, 0);
    let mut count = |path: &Path, artifact: Artifact| {
        let Ok(stat) = Stat::of(path) else { return };
        if !stat.is_file() || stat.size != artifact.size {
            return;
        }
        all += stat.size;
        let object = Stat::of(&store.object_path(&artifact.digest));
        let is_copy = |object: Stat| (object.dev, object.ino) != (stat.dev, stat.ino);
        copies += stat.size * u64::from(object.is_ok_and(is_copy));
    };
    for pipeline in workspace.siblings() {
        // The outputs of a pipeline that is broken at the moment are not counted.
        let Ok((graph, _)) = pipeline.load(overrides) else {
            continue;
        };
        for node in &graph.nodes {
            let folder = workspace.output_folder(&graph, node);
            for output in current_outputs(store, &graph, node) {
                let place = folder.join(&output.path);
                walk(store, &output.artifact, &mut |path, artifact| match path
                    .as_os_str()
                    .is_empty()
                {
                    true => count(&place, artifact),
                    false => count(&place.join(path), artifact),
                });
            }
        }
    }
    (all, copies)
}

/// The outputs of the result that a step stands at.
fn current_outputs(store: &LocalStore, graph: &Graph, node: &Node) -> Vec<Output> {
    store.with_index(|index| {
        let state = index.step(graph.name.as_str(), node.name.as_str());
        let entry = state.and_then(|state| index.entry(&state.current?));
        entry.map_or(Vec::new(), |entry| entry.outputs.clone())
    })
}

/// How to check the store.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// Whether what can be mended is.
    pub repair: bool,
    /// Values that replace those of the pipeline files.
    pub overrides: Overrides,
}

/// What checking the store found, and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// How many objects were read and hashed.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How many results were looked at.
    pub results: usize,
    /// What is wrong.
    pub damage: Vec<Damage>,
    /// Whether it was to be mended.
    pub repaired: bool,
    /// Whether the user stopped it.
    pub stopped: bool,
}

impl CheckReport {
    /// Whether something is wrong and stays so.
    pub fn is_unsound(&self) -> bool {
        self.damage.iter().any(|damage| damage.mended.is_none())
    }
}

/// An object that is missing or is not what its name says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// What it should be.
    pub digest: Digest,
    /// What is there instead; none if nothing is or it cannot be read.
    pub found: Option<Digest>,
    /// What needs it, as `pipeline/step output`.
    pub needed_by: Vec<String>,
    /// What was done about it; none if nothing was.
    pub mended: Option<Mended>,
}

/// What was done about a damaged or lost object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mended {
    /// It was taken from an output or a log in place that still is what it was.
    Retaken,
    /// The results that need it are given up: the next build makes them again.
    GivenUp,
    /// Nothing needs it; what was there was moved aside.
    MovedAside,
}

/// Reads every object again and looks whether all that results refer to is
/// there; with `repair`, under the build lock, mends what can be mended. None
/// if the user stopped the waiting for it.
pub fn check(
    workspace: &Workspace,
    options: &CheckOptions,
    cancel: &AtomicBool,
    sink: &mut dyn Sink,
) -> Result<Option<CheckReport>, OpsError> {
    let _lock;
    let store = if options.repair {
        let lock = super::build::lock_store(workspace, "cache verify", cancel, sink)?;
        let Some(lock) = lock else { return Ok(None) };
        _lock = lock;
        workspace.open_store()?.0
    } else {
        workspace.look_into_store()?
    };
    let mut check = Check {
        workspace,
        store: &store,
        results: StoredResult::all(&store),
        report: CheckReport {
            repaired: options.repair,
            ..CheckReport::default()
        },
    };
    let damaged = check.read_objects(cancel)?;
    match options.repair && !check.report.stopped {
        true => check.repair(&damaged, &options.overrides)?,
        false => check.tell(&damaged),
    }
    Ok(Some(check.report))
}

/// Damaged objects with what they are; none where they cannot be read.
type Found = BTreeMap<Digest, Option<Digest>>;

struct Check<'a> {
    workspace: &'a Workspace,
    store: &'a LocalStore,
    results: Vec<StoredResult>,
    report: CheckReport,
}

impl Check<'_> {
    /// The objects that are not what their names say, with what they are.
    fn read_objects(&mut self, cancel: &AtomicBool) -> Result<Found, OpsError> {
        let holdings = self.store.holdings()?;
        self.report.objects = holdings.objects.len();
        self.report.bytes = holdings.bytes();
        self.report.results = self.results.len();
        let objects: Vec<&Digest> = holdings.objects.keys().collect();
        let read = |digest: &&Digest| {
            if cancel.load(Ordering::Relaxed) {
                return None;
            }
            let found = match Digest::of_file(&self.store.object_path(digest)) {
                Ok((found, _)) => Some(found),
                // Collected meanwhile; if anything needs it, that is lost.
                Err(e) if e.kind() == ErrorKind::NotFound => return None,
                Err(_) => None,
            };
            (found != Some(**digest)).then_some((**digest, found))
        };
        let damaged = objects.par_iter().filter_map(read).collect();
        self.report.stopped = cancel.load(Ordering::Relaxed);
        Ok(damaged)
    }

    /// Everything that results refer to and that is not there whole, with what
    /// refers to it.
    fn lost(&self, damaged: &Found) -> BTreeMap<Digest, BTreeSet<String>> {
        let mut lost: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
        let gone = |digest: &Digest| {
            damaged.contains_key(digest) || !self.store.object_path(digest).is_file()
        };
        for result in &self.results {
            let mut need = |digest: Digest, what: &str| {
                if gone(&digest) {
                    let by = format!("{} {what}", result.name());
                    lost.entry(digest).or_default().insert(by);
                }
            };
            need(result.entry.record, "record");
            result.log().into_iter().for_each(|log| need(log, "log"));
            for output in &result.entry.outputs {
                walk(self.store, &output.artifact, &mut |path, artifact| {
                    let path = Path::new(&output.path).join(path).display().to_string();
                    // The output itself has nothing behind its path.
                    need(artifact.digest, path.trim_end_matches('/'));
                });
            }
        }
        lost
    }

    /// Tells of damage without mending any.
    fn tell(&mut self, damaged: &Found) {
        let mut lost = self.lost(damaged);
        for digest in damaged.keys() {
            lost.entry(*digest).or_default();
        }
        for (digest, by) in lost {
            self.note(damaged, digest, by, None);
        }
    }

    fn note(
        &mut self,
        damaged: &Found,
        digest: Digest,
        needed_by: BTreeSet<String>,
        mended: Option<Mended>,
    ) {
        self.report.damage.push(Damage {
            digest,
            found: damaged.get(&digest).copied().flatten(),
            needed_by: needed_by.into_iter().collect(),
            mended,
        });
    }

    fn repair(&mut self, damaged: &Found, overrides: &Overrides) -> Result<(), OpsError> {
        let aside = self.workspace.cache.join("damaged");
        for digest in damaged.keys() {
            self.store.set_object_aside(digest, &aside)?;
        }
        let copies = self.copies(overrides);
        let mut retaken = BTreeMap::new();
        // A folder's listing that is had again shows what else of it is gone.
        let lost = loop {
            let mut lost = self.lost(&Found::new());
            let before = retaken.len();
            for (digest, by) in &mut lost {
                if self.retake(digest, copies.get(digest))? {
                    retaken.insert(*digest, std::mem::take(by));
                }
            }
            if retaken.len() == before {
                break lost;
            }
        };
        let given_up = self.give_up(&lost)?;
        let aside = damaged
            .keys()
            .filter(|digest| !retaken.contains_key(digest) && !lost.contains_key(digest));
        for digest in aside {
            self.note(damaged, *digest, BTreeSet::new(), Some(Mended::MovedAside));
        }
        for (digest, by) in retaken {
            self.note(damaged, digest, by, Some(Mended::Retaken));
        }
        for (digest, by) in lost {
            let mended = given_up.contains(&digest).then_some(Mended::GivenUp);
            self.note(damaged, digest, by, mended);
        }
        self.report.damage.sort_by_key(|damage| damage.digest);
        self.store.commit()?;
        Ok(self.store.stats().save()?)
    }

    /// Puts an object back from a copy of it.
    fn retake(&self, digest: &Digest, copy: Option<&Copy>) -> Result<bool, OpsError> {
        let taken = match copy {
            None => Ok(false),
            Some(Copy::File(path)) => self.store.adopt(path, digest),
            Some(Copy::Folder(listing)) => self.store.put(&listing.to_bytes()).map(|_| true),
        };
        match taken {
            // The copy went away meanwhile.
            Err(StoreError::File(e)) if e.kind() == ErrorKind::NotFound => Ok(false),
            taken => Ok(taken?),
        }
    }

    /// Marks results as lost whose outputs the store cannot give any more;
    /// gives the objects that are missing for that. A lost record or log makes
    /// no result useless.
    fn give_up(
        &self,
        lost: &BTreeMap<Digest, BTreeSet<String>>,
    ) -> Result<BTreeSet<Digest>, OpsError> {
        let mut given_up = BTreeSet::new();
        let mut keys: Vec<Key> = Vec::new();
        for result in &self.results {
            let mut missing = false;
            for output in &result.entry.outputs {
                walk(self.store, &output.artifact, &mut |_, artifact| {
                    if lost.contains_key(&artifact.digest) {
                        missing = true;
                        given_up.insert(artifact.digest);
                    }
                });
            }
            keys.extend(missing.then_some(result.key));
        }
        if !keys.is_empty() {
            self.store.commit()?;
            self.store.forget(&keys, &[])?;
        }
        Ok(given_up)
    }

    /// Where copies of objects may be: the outputs in place of the project's
    /// steps, and the logs of runs. Everything there is hashed afresh.
    fn copies(&self, overrides: &Overrides) -> HashMap<Digest, Copy> {
        let mut copies = HashMap::new();
        let fresh = StatCache::empty();
        let mut folders: Vec<PathBuf> = vec![
            self.workspace.cache.join("out"),
            self.workspace.cache.join("runs"),
        ];
        for pipeline in self.workspace.siblings() {
            // A pipeline that is broken at the moment has its outputs in the
            // store's folder at least.
            let Ok((graph, _)) = pipeline.load(overrides) else {
                continue;
            };
            let outs = graph.nodes.iter().filter_map(|node| node.out.as_ref());
            folders.extend(outs.map(|out| self.workspace.root.join(out)));
        }
        for folder in folders {
            collect(&fresh, &folder, &mut copies);
        }
        copies
    }
}

impl StoredResult {
    fn name(&self) -> String {
        match &self.made {
            Some(made) => format!("{}/{}", made.pipeline, made.step),
            None => format!("the result of key {}", self.key.short()),
        }
    }
}

/// Where an object's bytes can be had from.
enum Copy {
    File(PathBuf),
    Folder(Listing),
}

/// Notes every file and folder below `path` by its content.
fn collect(fresh: &StatCache, path: &Path, copies: &mut HashMap<Digest, Copy>) -> Option<Artifact> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    if meta.is_dir() {
        for path in inside(path) {
            collect(fresh, &path, copies);
        }
        // What has no content, such as a socket, is in no result either.
        let listing = fresh.listing(path).ok()?;
        let artifact = listing.artifact();
        copies.insert(artifact.digest, Copy::Folder(listing));
        return Some(artifact);
    }
    let artifact = fresh.content(path).ok().filter(|_| meta.is_file())?;
    copies.insert(artifact.digest, Copy::File(path.to_owned()));
    Some(artifact)
}
