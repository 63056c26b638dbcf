//! The snapshot of a pipeline that is up to date, kept under `cache/snapshots/`: a build that changes nothing looks at every path once and reads nothing else.
//!
//! It holds what a whole build came to: from what the graph was made, the
//! values of the declared variables, what every glob matched, and for every
//! path that was looked at (sources, outputs, the pipeline file, the lock file,
//! the journal) its stat tuple and digest. Format 1: the line `retune snapshot
//! 1`, the first eight bytes of the blake3 of what follows, and that (see
//! [`Snapshot::to_bytes`]).
//!
//! It is an optimisation only. Where it is absent, damaged or of another format
//! the build goes the long way, which writes it anew. Why it cannot lie:
//!
//! | what happens | why the snapshot is not believed |
//! |---|---|
//! | a source or an output is edited, also with its times put back | its stat tuple differs; it is hashed, and its digest counts |
//! | a file is edited within the clock's granularity of being hashed, or after the clock was set back | [`Known::vouches_for`](crate::store::Known::vouches_for) says no: it is hashed |
//! | a file appears in, or goes from, a folder or the reach of a glob | folders are listed and globs expanded each time |
//! | the pipeline file, an override, the program, a kind's version, a declared variable changes | each is part of what is compared |
//! | the pipeline file is edited while a build runs | the text that was built is not the one on disk: no snapshot is written |
//! | the lock file is edited, or a merge changes it | it is one of the files looked at |
//! | a build fails or is interrupted; another pipeline is built; gc, `audit` or compaction writes history | the journal is another, and it is one of the files looked at |
//! | a part of the pipeline is built | likewise, unless nothing was to be done, and then nothing changed |
//! | something else in `cache/` is edited | the long way does not ask it either when all outputs are in place |
//! | the snapshot is edited | its check does not fit |
//! | a kill while it is written | it is written beside and renamed; after a power failure its check may not fit |

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::Workspace;
use super::graph_cache::Identity;
use crate::event::Event;
use crate::files;
use crate::graph::{Graph, Node, Origin, StepId, is_glob};
use crate::hash::{Digest, Encoder};
use crate::pipeline::{PipelineName, StepName};
use crate::plan::{Key, Provenance, Settled, Verdict, expand};
use crate::store::{Artifact, Change, LocalStore, Row, StatCache};

const MAGIC: &[u8] = b"retune snapshot 1\n";

/// The folder of snapshots in the store's folder.
const FOLDER: &str = "snapshots";

/// What a whole build of a pipeline came to.
#[derive(Debug, PartialEq)]
pub(super) struct Snapshot {
    /// From what the graph was made.
    pub made_from: Digest,
    /// The name of the pipeline.
    pub pipeline: PipelineName,
    /// The declared variables and the digest of their values.
    variables: Vec<String>,
    values: Digest,
    /// Folders that globs do not look into.
    own: Vec<PathBuf>,
    globs: Vec<Glob>,
    /// In the order in which they are decided when nothing is to be done.
    steps: Vec<Step>,
    /// What the steps look at, by place: a root, or behind them a glob.
    looks_at: Vec<u32>,
    /// Folders from which roots are looked at.
    bases: Vec<PathBuf>,
    /// Each path that was looked at, sorted by base. The first are [`FIXED`].
    roots: Vec<Root>,
    row: Row,
}

/// The roots before those of the steps: pipeline file, lock file, journal.
const FIXED: usize = 3;

#[derive(Debug, PartialEq)]
struct Glob {
    pattern: String,
    /// The digest of the names that it matched.
    matched: Digest,
}

#[derive(Debug, PartialEq)]
pub(super) struct Step {
    pub name: StepName,
    /// What its outputs are stored under.
    key: Key,
    /// How many of `looks_at` are its own.
    looks_at: u32,
}

impl Step {
    /// What is told of it when nothing is to be done.
    pub fn up_to_date(&self) -> Event {
        Event::StepDecided {
            step: self.name.clone(),
            key: self.key,
            verdict: Verdict::UpToDate,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Root {
    base: u32,
    /// Its node in the row.
    at: u32,
}

/// What looking at everything again found.
#[derive(Debug)]
pub(super) enum Looked {
    /// All content is the same.
    Same {
        /// Whether files had to be read to know.
        touched: bool,
    },
    /// These roots are not what they were, and all else is.
    Changed(Vec<(u32, Change)>),
    /// What the engine reads itself, or what a glob matches, is not what it was.
    Otherwise,
}

/// Where the snapshot of a pipeline lies.
fn file(workspace: &Workspace) -> Option<PathBuf> {
    let stem = workspace.pipeline.file_stem()?;
    Some(workspace.cache.join(FOLDER).join(stem))
}

impl Snapshot {
    /// The snapshot of the workspace's pipeline, if the pipeline file is the
    /// one that it was made from and so is everything else that a graph is
    /// made from.
    pub fn open(workspace: &Workspace, identity: &Identity<'_>) -> Option<Self> {
        let bytes = std::fs::read(file(workspace)?).ok()?;
        let mut snapshot = Snapshot::from_bytes(&bytes)?;
        drop(bytes);
        let root = open_folder(&workspace.root).ok()?;
        let at = snapshot.roots[0].at as usize;
        if snapshot.bases[snapshot.roots[0].base as usize] != Path::new("")
            || snapshot.row.look(at, &root, &mut Vec::new()) > Change::Touched
        {
            return None;
        }
        let text = snapshot.row.known(at).digest;
        (identity.with_text(&text)? == snapshot.made_from).then_some(snapshot)
    }

    /// How many steps there are.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// The steps in the order in which they are decided.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter()
    }

    /// Whether the declared variables have the values they had.
    pub fn same_values(&self, environment: &BTreeMap<String, String>) -> bool {
        digest_values(&self.variables, environment) == self.values
    }

    /// Looks at every path again; what had to be read again is noted here and
    /// in `stats`.
    pub fn look(&mut self, project: &Path, stats: &StatCache) -> Looked {
        let mut changed = Vec::new();
        let mut touched = false;
        let mut buffer = Vec::new();
        let mut open = None;
        for i in 0..self.roots.len() {
            let Root { base, at } = self.roots[i];
            if open.as_ref().is_none_or(|(of, _)| *of != base) {
                open = Some((base, open_folder(&project.join(&self.bases[base as usize]))));
            }
            let change = match &open {
                Some((_, Ok(folder))) => self.row.look(at as usize, folder, &mut buffer),
                _ => Change::Shape,
            };
            if change == Change::Nothing {
                continue;
            }
            touched = true;
            if i < FIXED {
                match change {
                    Change::Touched => continue,
                    _ => return Looked::Otherwise,
                }
            }
            if change < Change::Shape {
                self.tell(i, project, stats, true);
            }
            if change > Change::Touched {
                changed.push((i as u32, change));
            }
        }
        let same = self.globs.iter().all(|glob| {
            let names = expand(project, &self.own, "", &glob.pattern);
            names.is_ok_and(|names| digest_names(&names) == glob.matched)
        });
        match (same, changed.is_empty()) {
            (false, _) => Looked::Otherwise,
            (true, true) => Looked::Same { touched },
            (true, false) => Looked::Changed(changed),
        }
    }

    /// Spares others the reading of what was read here.
    fn tell(&self, root: usize, project: &Path, stats: &StatCache, is_new: bool) {
        let path = project.join(self.path(root));
        let mut row = Row::default();
        let at = self.roots[root].at as usize;
        row.append(path.as_os_str().as_bytes(), &self.row, at);
        stats.learn_row(&path, row, is_new);
    }

    /// The steps that look at one of these; what else they look at counts as
    /// seen a moment ago.
    pub fn steps_of(
        &self,
        changed: &[(u32, Change)],
        project: &Path,
        stats: &StatCache,
    ) -> Vec<StepName> {
        let mut found = vec![Change::Nothing; self.roots.len() + self.globs.len()];
        for &(root, change) in changed {
            found[root as usize] = change;
        }
        let mut steps = Vec::new();
        for (step, looks_at) in self.each() {
            if looks_at
                .iter()
                .all(|&at| found[at as usize] == Change::Nothing)
            {
                continue;
            }
            steps.push(step.name.clone());
            for root in looks_at.iter().map(|&at| at as usize) {
                if root >= self.roots.len() || found[root] == Change::Shape {
                    continue;
                }
                if found[root] == Change::Nothing {
                    self.tell(root, project, stats, false);
                }
                stats.refresh(&project.join(self.path(root)));
            }
        }
        steps
    }

    /// The steps with what they look at.
    fn each(&self) -> impl Iterator<Item = (&Step, &[u32])> {
        let mut rest = &self.looks_at[..];
        self.steps.iter().map(move |step| {
            let (own, others) = rest.split_at(step.looks_at as usize);
            rest = others;
            (step, own)
        })
    }

    /// The path of a root, relative to the project where it lies in it.
    fn path(&self, root: usize) -> PathBuf {
        let Root { base, at } = self.roots[root];
        let name = std::ffi::OsStr::from_bytes(self.row.name(at as usize));
        self.bases[base as usize].join(name)
    }

    /// Keeps the snapshot. Where it cannot be written it is merely not kept.
    pub fn keep(&self, workspace: &Workspace) {
        if let Some(file) = file(workspace) {
            let _ = files::write_cache(&file, &self.to_bytes());
        }
    }

    /// Removes what is kept: it is not right any more.
    pub fn forget(workspace: &Workspace) {
        if let Some(file) = file(workspace) {
            let _ = files::remove(&file);
        }
    }
}

fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(File::from(openat(CWD, path, flags, Mode::empty())?))
}

fn digest_values(variables: &[String], environment: &BTreeMap<String, String>) -> Digest {
    let mut encoder = Encoder::new("retune values");
    for name in variables {
        encoder.str(name);
        match environment.get(name) {
            Some(value) => encoder.str(value),
            None => encoder.list(0),
        };
    }
    encoder.digest_of()
}

fn digest_names(names: &[String]) -> Digest {
    let mut encoder = Encoder::new("retune names");
    for name in names {
        encoder.str(name);
    }
    encoder.digest_of()
}

// Making one

/// What a snapshot is made of.
pub(super) struct Build<'a> {
    pub workspace: &'a Workspace,
    pub graph: &'a Graph,
    /// From what the graph was made, and the text that was read.
    pub made_from: Digest,
    pub text: Digest,
    pub environment: &'a BTreeMap<String, String>,
    pub settled: &'a [Option<Settled>],
    /// What the lock file is meant to say.
    pub lock: Digest,
    pub store: &'a LocalStore,
}

impl Build<'_> {
    /// The snapshot of a build after which every step is up to date; none
    /// where something of it cannot be vouched for.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let variables: BTreeSet<&String> = self
            .graph
            .nodes
            .iter()
            .flat_map(|node| &node.environment)
            .collect();
        let variables: Vec<String> = variables.into_iter().cloned().collect();
        let mut roots = Roots::new(self);
        roots.fixed(&self.workspace.pipeline, Some(self.text))?;
        let lock = self.workspace.pipeline.with_extension("lock");
        roots.fixed(&lock, Some(self.lock))?;
        roots.fixed(&self.relative(&self.workspace.cache.join("journal")), None)?;
        let (mut steps, mut looks_at) = (Vec::new(), Vec::new());
        for id in decided_order(self.graph) {
            let before = looks_at.len();
            let node = self.graph.node(id);
            let settled = self.settled[id.index()].as_ref()?;
            roots.step(node, settled, &mut looks_at)?;
            steps.push(Step {
                name: node.name.clone(),
                key: settled.key,
                looks_at: (looks_at.len() - before) as u32,
            });
        }
        let mut snapshot = Snapshot {
            made_from: self.made_from,
            pipeline: self.graph.name.clone(),
            values: digest_values(&variables, self.environment),
            variables,
            own: roots.own.clone(),
            globs: Vec::new(),
            steps,
            looks_at: Vec::new(),
            bases: Vec::new(),
            roots: Vec::new(),
            row: Row::default(),
        };
        roots.into(&mut snapshot, &looks_at);
        Some(snapshot)
    }

    fn relative(&self, path: &Path) -> PathBuf {
        files::relative(path, &self.workspace.root).to_owned()
    }
}

/// All steps in the order in which they are decided when nothing is to be done.
fn decided_order(graph: &Graph) -> Vec<StepId> {
    let needs = |id: &StepId| graph.dependencies(*id).len();
    let mut open: Vec<usize> = graph.ids().map(|id| needs(&id)).collect();
    let first = graph.order().iter().copied();
    let mut ready: VecDeque<StepId> = first.filter(|id| needs(id) == 0).collect();
    let mut order = Vec::with_capacity(graph.nodes.len());
    while let Some(id) = ready.pop_front() {
        order.push(id);
        for &dependent in graph.dependents(id) {
            open[dependent.index()] -= 1;
            if open[dependent.index()] == 0 {
                ready.push_back(dependent);
            }
        }
    }
    order
}

/// Collects the paths that were looked at.
struct Roots<'a> {
    build: &'a Build<'a>,
    own: Vec<PathBuf>,
    by_path: HashMap<PathBuf, u32>,
    paths: Vec<PathBuf>,
    rows: Vec<Arc<Row>>,
    globs: Vec<Glob>,
    glob_by_pattern: HashMap<String, (usize, Vec<String>)>,
}

/// Stands for a glob in what steps look at until the number of roots is known.
const GLOB: u32 = 1 << 31;

impl<'a> Roots<'a> {
    fn new(build: &'a Build<'a>) -> Self {
        let outs = build.graph.outs.iter();
        let cache = build.relative(&build.workspace.cache);
        Roots {
            build,
            own: outs.map(PathBuf::from).chain([cache]).collect(),
            by_path: HashMap::new(),
            paths: Vec::new(),
            rows: Vec::new(),
            globs: Vec::new(),
            glob_by_pattern: HashMap::new(),
        }
    }

    /// A file that the engine reads or writes itself, with what is in it.
    fn fixed(&mut self, path: &Path, expected: Option<Digest>) -> Option<()> {
        let fresh = StatCache::empty();
        let absolute = self.build.workspace.root.join(path);
        let found = fresh.content(&absolute).ok()?;
        if expected.is_some_and(|expected| expected != found.digest) {
            return None;
        }
        self.paths.push(path.to_owned());
        self.rows.push(fresh.recall(&absolute)?);
        Some(())
    }

    fn root(&mut self, path: PathBuf, artifact: &Artifact) -> Option<u32> {
        if let Some(&root) = self.by_path.get(&path) {
            return is_content(&self.rows[root as usize], artifact).then_some(root);
        }
        let absolute = self.build.workspace.root.join(&path);
        let row = self.build.store.stats().recall(&absolute)?;
        if !is_content(&row, artifact) {
            return None;
        }
        let root = self.paths.len() as u32;
        self.by_path.insert(path.clone(), root);
        self.paths.push(path);
        self.rows.push(row);
        Some(root)
    }

    /// What a step looks at by itself: sources and its own outputs.
    fn step(&mut self, node: &Node, settled: &Settled, looks_at: &mut Vec<u32>) -> Option<()> {
        let mut expected = Vec::new();
        for input in &node.inputs {
            match &input.from {
                Origin::Path(path) if is_glob(path) => {
                    let glob = self.glob(path)?;
                    looks_at.push(GLOB + glob as u32);
                    expected.extend_from_slice(&self.glob_by_pattern[path].1);
                }
                Origin::Path(path) => expected.push(path.clone()),
                // What the Hub's cache says is asked each time.
                Origin::Hub(_) => return None,
                Origin::Step { .. } | Origin::Lineage => {}
            }
        }
        let mut sources = Vec::new();
        for input in &settled.inputs {
            if let Provenance::Path(path) = &input.from {
                sources.push(path);
                looks_at.push(self.root(PathBuf::from(path), &input.artifact)?);
            }
        }
        // A glob may match other files by now than those the step has seen.
        if !sources.iter().copied().eq(&expected) {
            return None;
        }
        let folder = match &node.out {
            Some(folder) => PathBuf::from(folder),
            None => {
                let out = self.build.workspace.cache.join("out");
                let out = out.join(self.build.graph.name.as_str());
                self.build.relative(&out.join(&*node.name.folder()))
            }
        };
        for output in &settled.outputs {
            looks_at.push(self.root(folder.join(&output.path), &output.artifact)?);
        }
        Some(())
    }

    fn glob(&mut self, pattern: &str) -> Option<usize> {
        if let Some((glob, _)) = self.glob_by_pattern.get(pattern) {
            return Some(*glob);
        }
        let names = expand(&self.build.workspace.root, &self.own, "", pattern).ok()?;
        let glob = self.globs.len();
        self.globs.push(Glob {
            pattern: pattern.to_owned(),
            matched: digest_names(&names),
        });
        self.glob_by_pattern
            .insert(pattern.to_owned(), (glob, names));
        Some(glob)
    }

    fn into(self, snapshot: &mut Snapshot, looks_at: &[u32]) {
        let (bases, base_of) = bases(&self.paths);
        // The engine's own files first, then base by base, each opened once.
        let mut order: Vec<usize> = (0..self.paths.len()).collect();
        order[FIXED..].sort_by_key(|&i| base_of[i]);
        let mut place = vec![0; order.len()];
        for (new, &old) in order.iter().enumerate() {
            place[old] = new as u32;
            let base = base_of[old];
            let name = files::relative(&self.paths[old], &bases[base as usize]);
            let at = snapshot
                .row
                .append(name.as_os_str().as_bytes(), &self.rows[old], 0);
            snapshot.roots.push(Root {
                base,
                at: at as u32,
            });
        }
        let globs_at = order.len() as u32;
        snapshot.looks_at = looks_at
            .iter()
            .map(|&look| match look < GLOB {
                true => place[look as usize],
                false => look - GLOB + globs_at,
            })
            .collect();
        snapshot.bases = bases;
        snapshot.globs = self.globs;
    }
}

/// A folder with at least so many paths in it is opened to look at them.
const WORTH_OPENING: usize = 4;

/// The folders from which to look at the paths, and for each path which of
/// them: the one it lies in, the one above, or the project's.
fn bases(paths: &[PathBuf]) -> (Vec<PathBuf>, Vec<u32>) {
    let mut bases = vec![PathBuf::new()];
    let mut base_of = vec![None; paths.len()];
    for levels in 1..=2 {
        let mut inside: HashMap<&Path, Vec<usize>> = HashMap::new();
        for (i, path) in paths.iter().enumerate().skip(FIXED) {
            if base_of[i].is_none()
                && let Some(folder) = path.ancestors().nth(levels)
            {
                inside.entry(folder).or_default().push(i);
            }
        }
        let mut inside: Vec<_> = inside.into_iter().collect();
        inside.retain(|(folder, of)| of.len() >= WORTH_OPENING && *folder != Path::new(""));
        inside.sort();
        for (folder, of) in inside {
            for i in of {
                base_of[i] = Some(bases.len() as u32);
            }
            bases.push(folder.to_owned());
        }
    }
    let base_of = base_of.into_iter().map(|base| base.unwrap_or(0));
    (bases, base_of.collect())
}

// Bringing one up to date

impl Snapshot {
    /// Notes what a build of the steps in `built` came to, of which all others
    /// are as they were; false where something of it cannot be vouched for.
    pub fn update(&mut self, build: &Build<'_>, built: &HashSet<&StepName>) -> bool {
        self.try_update(build, built).is_some()
    }

    fn try_update(&mut self, build: &Build<'_>, built: &HashSet<&StepName>) -> Option<()> {
        let mut fixed = Roots::new(build);
        fixed.fixed(&self.path(0), Some(build.text))?;
        fixed.fixed(&self.path(1), Some(build.lock))?;
        fixed.fixed(&self.path(2), None)?;
        let mut rows: Vec<(usize, Arc<Row>)> = fixed.rows.into_iter().enumerate().collect();
        for (step, looks_at) in self.each() {
            if built.contains(&step.name) {
                let id = build.graph.find(&step.name)?;
                let settled = build.settled[id.index()].as_ref()?;
                rows.extend(self.rows_of(build, looks_at, settled)?);
            }
        }
        let others = self.looked_at_by_others(built);
        let changed = |(root, row): &&(usize, Arc<Row>)| {
            let before = self.row.known(self.roots[*root].at as usize);
            row.known(0).artifact() != before.artifact()
        };
        // A source may have been edited meanwhile, after the steps to build
        // were chosen: those that were not have to be asked about it.
        if rows.iter().filter(changed).any(|(root, _)| others[*root]) {
            return None;
        }
        for (root, row) in rows {
            self.put(root, &row);
        }
        for step in &mut self.steps {
            if built.contains(&step.name) {
                let id = build.graph.find(&step.name)?;
                step.key = build.settled[id.index()].as_ref()?.key;
            }
        }
        Some(())
    }

    /// For each root whether a step looks at it that is not in `built`.
    fn looked_at_by_others(&self, built: &HashSet<&StepName>) -> Vec<bool> {
        let mut others = vec![false; self.roots.len() + self.globs.len()];
        for (step, looks_at) in self.each() {
            if !built.contains(&step.name) {
                looks_at.iter().for_each(|&at| others[at as usize] = true);
            }
        }
        others
    }

    /// The digest of the pipeline file's text.
    pub fn text(&self) -> Digest {
        self.row.known(self.roots[0].at as usize).digest
    }

    /// The digest of the lock file as it was.
    pub fn lock(&self) -> Digest {
        self.row.known(self.roots[1].at as usize).digest
    }

    /// What was seen at the roots of a step that was built.
    fn rows_of(
        &self,
        build: &Build<'_>,
        looks_at: &[u32],
        settled: &Settled,
    ) -> Option<Vec<(usize, Arc<Row>)>> {
        let sources = settled.inputs.iter().filter_map(|input| match &input.from {
            Provenance::Path(path) => Some((Some(path), input.artifact)),
            _ => None,
        });
        let outputs = settled.outputs.iter();
        let outputs = outputs.map(|output| (None, output.artifact));
        let expected: Vec<_> = sources.chain(outputs).collect();
        let roots = looks_at.iter().map(|&at| at as usize);
        let roots: Vec<usize> = roots.filter(|at| *at < self.roots.len()).collect();
        if roots.len() != expected.len() {
            return None;
        }
        let mut rows = Vec::with_capacity(roots.len());
        for (root, (source, artifact)) in roots.into_iter().zip(expected) {
            let path = self.path(root);
            let row = build
                .store
                .stats()
                .recall(&build.workspace.root.join(&path))?;
            let same = is_content(&row, &artifact);
            if !same || source.is_some_and(|source| Path::new(source) != path) {
                return None;
            }
            rows.push((root, row));
        }
        Some(rows)
    }

    fn put(&mut self, root: usize, row: &Row) {
        if self.row.replace(self.roots[root].at as usize, row) {
            return;
        }
        let mut all = Row::default();
        for (i, of) in self.roots.iter_mut().enumerate() {
            let at = of.at as usize;
            let name = self.row.name(at);
            of.at = match i == root {
                true => all.append(name, row, 0),
                false => all.append(name, &self.row, at),
            } as u32;
        }
        self.row = all;
    }
}

/// Whether that is what a row's first node stands for; sizes follow from the content.
fn is_content(row: &Row, artifact: &Artifact) -> bool {
    let seen = row.known(0).artifact();
    (seen.digest, seen.shape) == (artifact.digest, artifact.shape)
}

// On disk

impl Snapshot {
    /// The magic, the check, and then, each list after its length: from what
    /// the graph was made, the pipeline, variables, their values' digest, own
    /// folders, globs (pattern, digest), bases, steps (name, key, how many it
    /// looks at), what they look at, roots (base, node), the row.
    fn to_bytes(&self) -> Vec<u8> {
        let mut to = Writer(MAGIC.to_vec());
        to.0.extend_from_slice(&[0; 8]);
        to.digest(&self.made_from).text(self.pipeline.as_str());
        to.list(&self.variables, |to, name| to.text(name));
        to.digest(&self.values);
        to.list(&self.own, |to, path| to.path(path));
        to.list(&self.globs, |to, glob| {
            to.text(&glob.pattern).digest(&glob.matched)
        });
        to.list(&self.bases, |to, path| to.path(path));
        to.list(&self.steps, |to, step| {
            to.text(step.name.as_str())
                .digest(&step.key.0)
                .u32(step.looks_at)
        });
        to.list(&self.looks_at, |to, look| to.u32(*look));
        to.list(&self.roots, |to, root| to.u32(root.base).u32(root.at));
        self.row.write(&mut to.0);
        let mut bytes = to.0;
        let start = MAGIC.len() + 8;
        let check = Digest::of(&bytes[start..]).prefix();
        bytes[MAGIC.len()..start].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (check, body) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
        if Digest::of(body).prefix().to_le_bytes() != *check {
            return None;
        }
        let mut from = Reader(body);
        let snapshot = Snapshot {
            made_from: from.digest()?,
            pipeline: from.text()?.parse().ok()?,
            variables: from.list(|from| Some(from.text()?.to_owned()))?,
            values: from.digest()?,
            own: from.list(Reader::path)?,
            globs: from.list(|from| {
                Some(Glob {
                    pattern: from.text()?.to_owned(),
                    matched: from.digest()?,
                })
            })?,
            bases: from.list(Reader::path)?,
            steps: from.list(|from| {
                Some(Step {
                    name: from.text()?.parse().ok()?,
                    key: Key(from.digest()?),
                    looks_at: from.u32()?,
                })
            })?,
            looks_at: from.list(Reader::u32)?,
            roots: from.list(|from| {
                Some(Root {
                    base: from.u32()?,
                    at: from.u32()?,
                })
            })?,
            row: Row::parse(from.0)?.0,
        };
        snapshot.is_sound().then_some(snapshot)
    }

    /// Whether everything that is pointed to is there.
    fn is_sound(&self) -> bool {
        let looks: usize = self.steps.iter().map(|step| step.looks_at as usize).sum();
        let there = self.roots.len() + self.globs.len();
        self.roots.len() >= FIXED
            && looks == self.looks_at.len()
            && self.looks_at.iter().all(|&look| (look as usize) < there)
            && self.roots.iter().all(|root| {
                (root.base as usize) < self.bases.len() && (root.at as usize) < self.row.len()
            })
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, n: u32) -> &mut Self {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    fn path(&mut self, path: &Path) -> &mut Self {
        self.bytes(path.as_os_str().as_bytes())
    }

    fn digest(&mut self, digest: &Digest) -> &mut Self {
        self.0.extend_from_slice(digest.as_bytes());
        self
    }

    fn list<T>(&mut self, items: &[T], write: impl for<'w> Fn(&'w mut Self, &T) -> &'w mut Self) {
        self.u32(items.len() as u32);
        for item in items {
            write(self, item);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = self.u32()?;
        self.take(n as usize)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn path(&mut self) -> Option<PathBuf> {
        Some(std::ffi::OsStr::from_bytes(self.bytes()?).into())
    }

    fn digest(&mut self) -> Option<Digest> {
        Some(Digest::from_bytes(self.take(32)?.try_into().ok()?))
    }

    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let n = self.u32()?;
        // No item is shorter than four bytes: a wrong length is not believed.
        let mut items = Vec::with_capacity((n as usize).min(self.0.len() / 4));
        for _ in 0..n {
            items.push(read(self)?);
        }
        Some(items)
    }
}
