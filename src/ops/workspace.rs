//! The project: its root, its pipeline file, its store; and loading the graph.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::OpsError;
use super::graph_cache::{GraphCache, Identity};
use super::lock_files::locks_below;
use crate::files;
use crate::graph::{CACHE, Graph, Node, StepId};
use crate::hash::Digest;
use crate::pipeline::{Address, Cell, Diagnostics, Overrides, Source, StepName};
use crate::step::Registry;
use crate::store::LocalStore;

/// Where pipelines are kept.
pub const PIPELINES: &str = "pipelines";
/// The pipelines that are built when none is named, first found first.
const DEFAULTS: [&str; 2] = ["default", "quickstart"];

/// A project and the pipeline at hand.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The folder that paths in the pipeline file are relative to.
    pub root: PathBuf,
    /// The pipeline file, relative to the root where it lies below it.
    pub pipeline: PathBuf,
    /// The store's folder.
    pub cache: PathBuf,
    /// The kinds that steps may use.
    pub registry: Arc<Registry>,
}

impl Workspace {
    /// Finds the pipeline file in the project at `root`: `pipeline` is a path
    /// or the stem of a file in `pipelines/`. Without it, the only file there,
    /// or `default.toml`, or `quickstart.toml`. Steps may use the built-in
    /// kinds; see [`Workspace::with_kinds`].
    pub fn find(
        root: &Path,
        pipeline: Option<&str>,
        cache: Option<&Path>,
    ) -> Result<Self, OpsError> {
        let root = std::fs::canonicalize(root).map_err(|source| OpsError::Root {
            path: root.to_owned(),
            source,
        })?;
        let pipeline = match pipeline {
            Some(name) => named(&root, name)?,
            None => only_or_default(&root)?,
        };
        let cache = cache.unwrap_or(Path::new(CACHE));
        Ok(Workspace {
            cache: root.join(cache),
            root,
            pipeline,
            registry: Arc::new(super::registry()),
        })
    }

    /// The same project, whose steps may use these kinds.
    pub fn with_kinds(mut self, registry: impl Into<Arc<Registry>>) -> Self {
        self.registry = registry.into();
        self
    }

    /// The project at `root` for what concerns the store, which all pipelines
    /// share: any of them will do, or one that is yet to be written.
    pub fn any(
        root: &Path,
        pipeline: Option<&str>,
        cache: Option<&Path>,
    ) -> Result<Self, OpsError> {
        match Self::find(root, pipeline, cache) {
            Err(OpsError::WhichPipeline(stems)) => {
                Self::find(root, stems.first().map(String::as_str), cache)
            }
            Err(OpsError::NoPipeline(_)) => {
                let root = std::fs::canonicalize(root).map_err(|source| OpsError::Root {
                    path: root.to_owned(),
                    source,
                })?;
                Ok(Workspace {
                    cache: root.join(cache.unwrap_or(Path::new(CACHE))),
                    pipeline: Path::new(PIPELINES).join("default.toml"),
                    root,
                    registry: Arc::new(super::registry()),
                })
            }
            found => found,
        }
    }

    /// This pipeline and all others of the project: those in `pipelines/`, and
    /// those anywhere else that have a lock file beside them.
    pub fn siblings(&self) -> Vec<Workspace> {
        let in_folder = |stem: String| Path::new(PIPELINES).join(format!("{stem}.toml"));
        let others = stems(&self.root).into_iter().map(in_folder);
        let mut paths: Vec<PathBuf> = others.collect();
        let built = locks_below(&self.root, &self.cache).into_iter();
        let built = built.map(|lock| {
            let file = lock.with_extension("toml");
            files::relative(&file, &self.root).to_owned()
        });
        for path in built.chain([self.pipeline.clone()]) {
            if !paths.contains(&path) && self.root.join(&path).is_file() {
                paths.push(path);
            }
        }
        let with = |pipeline| Workspace {
            pipeline,
            ..self.clone()
        };
        paths.into_iter().map(with).collect()
    }

    /// The lock file beside the pipeline file.
    pub fn lock_file(&self) -> PathBuf {
        self.root.join(&self.pipeline).with_extension("lock")
    }

    /// Reads and checks the pipeline file, or takes its graph from the cache;
    /// the diagnostics are warnings.
    pub fn load(&self, overrides: &Overrides) -> Result<(Graph, Diagnostics), OpsError> {
        let loaded = self.load_with_origin(overrides)?;
        Ok((loaded.graph, loaded.warnings))
    }

    /// As [`Workspace::load`], and says what the graph was made from.
    pub(super) fn load_with_origin(&self, overrides: &Overrides) -> Result<Loaded, OpsError> {
        let registry = &*self.registry;
        let source = Source {
            path: self.shown_pipeline(),
            text: files::read_text(&self.root.join(&self.pipeline))?,
        };
        let identity = Identity {
            path: &source.path,
            overrides,
            registry,
        };
        let text = Digest::of(source.text.as_bytes());
        let cache = GraphCache::new(&self.cache, &identity, &text);
        let made_from = cache.as_ref().map(GraphCache::made_from);
        let loaded = |graph, warnings, unkept| Loaded {
            graph,
            warnings,
            text,
            made_from,
            unkept,
        };
        if let Some(graph) = cache.as_ref().and_then(GraphCache::read) {
            return Ok(loaded(graph, Diagnostics::new(source, Vec::new()), None));
        }
        let (graph, warnings) = Graph::load(source, overrides, registry)?;
        // Warnings are to be seen every time.
        let cache = cache.filter(|_| warnings.list.is_empty());
        let unkept = cache.filter(|cache| !cache.write(&graph));
        Ok(loaded(graph, warnings, unkept))
    }

    /// Of the graph that was made from `made_from`, the pipeline file's text
    /// among it, what a change of the named steps may reach; none where it is
    /// not in the cache.
    pub(super) fn load_part(
        &self,
        made_from: Digest,
        text: Digest,
        named: &[StepName],
    ) -> Option<Loaded> {
        let path = self.shown_pipeline();
        let cache = GraphCache::at(&self.cache, &path, made_from)?;
        let graph = cache.read_part(named)?;
        let source = Source {
            path,
            text: String::new(),
        };
        Some(Loaded {
            graph,
            // A graph with warnings is not kept.
            warnings: Diagnostics::new(source, Vec::new()),
            text,
            made_from: Some(made_from),
            unkept: None,
        })
    }

    /// The pipeline file as messages name it.
    pub(super) fn shown_pipeline(&self) -> String {
        self.pipeline.display().to_string()
    }

    /// Where the outputs of a step appear.
    pub(super) fn output_folder(&self, graph: &Graph, node: &Node) -> PathBuf {
        match &node.out {
            Some(folder) => self.root.join(folder),
            None => {
                let out = self.cache.join("out").join(graph.name.as_str());
                out.join(&*node.name.folder())
            }
        }
    }

    /// Opens the store to look at; needs no lock and writes nothing.
    pub fn look_into_store(&self) -> Result<LocalStore, OpsError> {
        Ok(LocalStore::look(&self.cache)?)
    }

    /// Opens the store under the build lock; the second value is a warning.
    pub fn open_store(&self) -> Result<(LocalStore, Option<String>), OpsError> {
        let (store, cut) = LocalStore::open(&self.cache)?;
        let warning = (cut > 0).then(|| {
            format!("the last {cut} bytes of the store's journal were damaged and are cut off (the whole is kept in journal.damaged)")
        });
        Ok((store, warning))
    }
}

/// A graph and where it comes from.
pub(super) struct Loaded {
    pub graph: Graph,
    pub warnings: Diagnostics,
    /// The digest of the pipeline file's text.
    pub text: Digest,
    /// The digest of everything the graph was made from; none where this
    /// program cannot tell itself from another one.
    pub made_from: Option<Digest>,
    /// Where to keep the graph once there is a store.
    unkept: Option<GraphCache>,
}

impl Loaded {
    /// Keeps the graph, for the build that will find a store.
    pub(super) fn keep(&self) {
        if let Some(cache) = &self.unkept {
            cache.write(&self.graph);
        }
    }
}

fn named(root: &Path, name: &str) -> Result<PathBuf, OpsError> {
    let as_path = Path::new(name);
    if name.ends_with(".toml") && root.join(as_path).is_file() {
        return Ok(as_path.to_owned());
    }
    let in_folder = Path::new(PIPELINES).join(format!("{name}.toml"));
    if root.join(&in_folder).is_file() {
        return Ok(in_folder);
    }
    Err(OpsError::NoSuchPipeline {
        name: name.to_owned(),
        known: stems(root),
    })
}

fn only_or_default(root: &Path) -> Result<PathBuf, OpsError> {
    let stems = stems(root);
    let default = DEFAULTS
        .iter()
        .find(|name| stems.iter().any(|s| s == *name));
    let stem = match (stems.as_slice(), default) {
        ([], _) => return Err(OpsError::NoPipeline(root.join(PIPELINES))),
        ([only], _) => only.as_str(),
        (_, Some(default)) => default,
        (_, None) => return Err(OpsError::WhichPipeline(stems)),
    };
    Ok(Path::new(PIPELINES).join(format!("{stem}.toml")))
}

/// The stems of the files in `pipelines/`, sorted.
fn stems(root: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root.join(PIPELINES)) else {
        return Vec::new();
    };
    let stem = |path: PathBuf| {
        let toml = path.extension().is_some_and(|e| e == "toml");
        toml.then(|| path.file_stem()?.to_str().map(str::to_owned))
            .flatten()
    };
    let mut stems: Vec<_> = entries.flatten().filter_map(|e| stem(e.path())).collect();
    stems.sort();
    stems
}

/// The steps that addresses mean: `split`, `stage1` with all its cells,
/// `stage1[rank=8]`; each once, in the order in which they are asked for.
pub fn find_steps(graph: &Graph, addresses: &[String]) -> Result<Vec<StepId>, OpsError> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for address in addresses {
        let steps = find_step(graph, address)?;
        found.extend(steps.into_iter().filter(|id| seen.insert(*id)));
    }
    Ok(found)
}

/// The steps that one address means: several only for cells of a matrix.
pub fn find_step(graph: &Graph, text: &str) -> Result<Vec<StepId>, OpsError> {
    let named = text.parse::<StepName>().ok();
    if let Some(id) = named.and_then(|name| graph.find(&name)) {
        return Ok(vec![id]);
    }
    let address = Address::parse(text).map_err(|bad| OpsError::BadAddress {
        text: text.to_owned(),
        why: bad.to_string(),
    })?;
    let all = graph.cells(&address.base);
    let plain = address.base.parse::<StepName>().ok();
    let plain = plain.and_then(|name| graph.find(&name));
    if all.is_empty() && plain.is_none() {
        let names = graph.nodes.iter().map(|node| node.name.base());
        return Err(OpsError::NoSuchStep {
            closest: crate::pipeline::closest(&address.base, names).map(str::to_owned),
            name: address.base,
        });
    }
    let cell = |id: &StepId| graph.node(*id).cell.as_ref();
    let meant = |id: &StepId| cell(id).is_some_and(|cell| address.cells.contains(cell));
    let found: Vec<StepId> = all.iter().copied().filter(meant).collect();
    if found.is_empty() {
        let cells: Vec<&Cell> = all.iter().filter_map(cell).collect();
        let (message, hint) = match cells.is_empty() {
            true => ("it has no matrix".to_owned(), None),
            false => address.cells.missing(&cells),
        };
        return Err(OpsError::NoSuchCell {
            step: address.base,
            message,
            hint,
        });
    }
    Ok(found)
}

/// The targets and all they need, in build order; everything without targets.
pub fn needed(graph: &Graph, targets: &[StepId]) -> Vec<StepId> {
    if targets.is_empty() {
        return graph.order().to_vec();
    }
    let set = graph.closure(targets.iter().copied());
    let order = graph.order().iter().copied();
    order.filter(|id| set.contains(*id)).collect()
}

/// The environment as text; variables that are not UTF-8 cannot be declared.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
