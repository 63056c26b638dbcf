//! The planner: keys and verdicts for the steps of a graph, one by one, as their inputs become known.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::changes::{EXAMPLES, FileChanges, compare_folders};
use super::decide::{Fault, Standing, Stored, decide};
use super::inputs::{self, Hub, InputError, Provenance, ResolvedInput};
use super::key::{Comparison, FORMAT, Ingredients, InputContent, Manifest};
use super::lineage::lineage;
use super::verdict::{Reason, Verdict};
use crate::files;
use crate::graph::{Graph, InputRef, Node, Origin, StepId};
use crate::hash::Digest;
use crate::pipeline::StepName;
use crate::store::{
    Artifact, Entry, Key, Listing, LocalStore, Output, Shape, StepState, Store, Trace,
};

/// The name of the lineage file in a step's work folder.
pub const LINEAGE_FILE: &str = "lineage.json";

/// What is known of a step that has its outputs.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The key they stand for.
    pub key: Key,
    /// The inputs.
    pub inputs: Vec<ResolvedInput>,
    /// The outputs, in the order of the ports.
    pub outputs: Vec<Output>,
}

/// A step whose inputs are known and for which it was decided what to do.
#[derive(Debug, Clone)]
pub struct Decided {
    /// The key.
    pub key: Key,
    /// The inputs.
    pub inputs: Vec<ResolvedInput>,
    /// What to do.
    pub verdict: Verdict,
    /// What the store has for the key.
    pub entry: Option<Entry>,
    /// When its inputs had been looked at.
    pub at: Instant,
}

/// The line of a plan for one step.
#[derive(Debug, Clone, serde::Serialize)]
pub struct PlannedStep {
    /// The step.
    pub name: StepName,
    /// Its kind.
    pub kind: String,
    /// Its key, if its inputs are known.
    pub key: Option<Key>,
    /// What would be done.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// How long it took when its current result was made, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub millis: Option<u64>,
    /// Whether it is on the longest chain of steps to be run, by those times.
    pub critical: bool,
}

/// Where a planner looks.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The project root: source paths are relative to it.
    pub root: &'a Path,
    /// The store's folder.
    pub cache: &'a Path,
    /// The store.
    pub store: &'a LocalStore,
    /// The process's environment, of which steps see what they declare.
    pub environment: &'a BTreeMap<String, String>,
    /// Where references to the Hub are looked up.
    pub hub: &'a dyn Hub,
}

impl Surroundings<'_> {
    fn hub_input(
        &self,
        reference: &InputRef,
        hub: &crate::graph::HubRef,
    ) -> Result<ResolvedInput, InputError> {
        let port = || reference.port.clone();
        let path = self
            .hub
            .locate(hub)
            .map_err(|source| InputError::Hub {
                port: port(),
                reference: hub.to_string(),
                source,
            })?
            .ok_or_else(|| InputError::NotFetched {
                port: port(),
                reference: hub.to_string(),
            })?;
        let artifact = self
            .store
            .stats()
            .content(&path)
            .map_err(|source| InputError::Content {
                port: port(),
                source,
            })?;
        Ok(ResolvedInput {
            port: port(),
            label: reference.label.clone(),
            path,
            artifact,
            from: Provenance::Hub(hub.to_string()),
        })
    }
}

/// From this size on a file is not hashed in passing.
const LARGE: u64 = 1 << 20;

/// From this size on nobody is to wait for the hashing of a file.
const HUGE: u64 = 64 << 20;

/// Whether hashing may take long; folders and patterns hold who knows what.
fn is_large(path: &Path) -> bool {
    !std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() < LARGE)
}

fn is_huge(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() >= HUGE)
}

/// Knows which steps are settled and decides about the others.
pub struct Planner<'a> {
    graph: &'a Graph,
    around: Surroundings<'a>,
    settled: Vec<Option<Settled>>,
    /// Folders that retune writes, relative to the root: no glob reaches in.
    own: Arc<[PathBuf]>,
    detail: Detail,
    /// The step at fault, of steps that cannot run, by the index of the step.
    at_fault: Vec<Option<StepId>>,
}

/// How much reasons say.
#[derive(Debug, Clone, Copy)]
pub struct Detail {
    /// Whether changed folders are looked into, which lists them again.
    pub folders: bool,
    /// How many files are named of each input.
    pub files: usize,
}

impl Default for Detail {
    /// What a build tells of.
    fn default() -> Self {
        Detail {
            folders: false,
            files: EXAMPLES,
        }
    }
}

impl<'a> Planner<'a> {
    /// A planner that knows of no step's outputs yet.
    pub fn new(graph: &'a Graph, around: Surroundings<'a>) -> Self {
        let cache = files::relative(around.cache, around.root).to_owned();
        let outs = graph.outs.iter();
        Planner {
            graph,
            around,
            settled: vec![None; graph.nodes.len()],
            own: outs.map(PathBuf::from).chain([cache]).collect(),
            detail: Detail::default(),
            at_fault: vec![None; graph.nodes.len()],
        }
    }

    /// Has reasons say more, or less.
    pub fn with_detail(mut self, detail: Detail) -> Self {
        self.detail = detail;
        self
    }

    /// Notes that a step's outputs are known.
    pub fn settle(&mut self, id: StepId, settled: Settled) {
        self.settled[id.index()] = Some(settled);
    }

    /// What is known of a step's outputs.
    pub fn settled(&self, id: StepId) -> Option<&Settled> {
        self.settled[id.index()].as_ref()
    }

    /// Everything that is known, by the index of the step.
    pub fn into_settled(self) -> Vec<Option<Settled>> {
        self.settled
    }

    /// The bytes of the lineage file of a step, all of whose inputs are settled.
    pub fn lineage(&self, id: StepId) -> Vec<u8> {
        lineage(self.graph, id, |step| self.settled(step))
    }

    /// Finds and hashes the inputs of a step whose upstream steps are settled.
    pub fn inputs(&self, id: StepId) -> Result<Vec<ResolvedInput>, InputError> {
        let mut found = Vec::new();
        for reference in &self.graph.node(id).inputs {
            match &reference.from {
                Origin::Step { step, output } => {
                    found.extend(self.step_output(reference, *step, *output));
                }
                Origin::Path(path) => found.extend(inputs::source(
                    self.around.root,
                    &self.own,
                    self.around.store.stats(),
                    &reference.port,
                    &reference.label,
                    path,
                )?),
                Origin::Hub(hub) => found.push(self.around.hub_input(reference, hub)?),
                Origin::Lineage => found.push(self.lineage_input(reference, id)),
            }
        }
        Ok(found)
    }

    /// Whether deciding about a step may take long: something may have to be
    /// fetched, or what it takes from outside is large: huge and not known yet,
    /// if nothing but the user would wait for it.
    pub fn may_take_long(&self, id: StepId, others_wait: bool) -> bool {
        let stats = self.around.store.stats();
        let inputs = self.graph.node(id).inputs.iter();
        inputs.into_iter().any(|input| match &input.from {
            Origin::Hub(_) => true,
            Origin::Path(path) => {
                let path = self.around.root.join(path);
                match others_wait {
                    true => is_large(&path),
                    false => !stats.knows(&path) && is_huge(&path),
                }
            }
            Origin::Step { .. } | Origin::Lineage => false,
        })
    }

    /// Fetches and hashes what a step takes from outside, so that deciding is
    /// quick: the digests are remembered. For another thread.
    pub fn look_ahead(
        &self,
        id: StepId,
    ) -> impl FnOnce() -> Result<(), InputError> + Send + use<'a> {
        let (node, around, own) = (self.graph.node(id), self.around, Arc::clone(&self.own));
        move || {
            for reference in &node.inputs {
                match &reference.from {
                    Origin::Hub(hub) => drop(around.hub_input(reference, hub)?),
                    Origin::Path(path) => {
                        let (port, label) = (&reference.port, &reference.label);
                        let stats = around.store.stats();
                        inputs::source(around.root, &own, stats, port, label, path)?;
                    }
                    Origin::Step { .. } | Origin::Lineage => {}
                }
            }
            Ok(())
        }
    }

    fn step_output(
        &self,
        reference: &InputRef,
        step: StepId,
        output: usize,
    ) -> Option<ResolvedInput> {
        let node = self.graph.node(step);
        let made = self.settled(step)?.outputs.get(output)?;
        Some(ResolvedInput {
            port: reference.port.clone(),
            label: visible_label(reference, node, output),
            path: self.output_folder(node).join(&made.path),
            artifact: made.artifact,
            from: Provenance::Step {
                step: node.name.clone(),
                output: node.outputs[output].name.clone(),
            },
        })
    }

    fn lineage_input(&self, reference: &InputRef, id: StepId) -> ResolvedInput {
        let bytes = self.lineage(id);
        ResolvedInput {
            port: reference.port.clone(),
            label: String::new(),
            // Written into the step's work folder when it runs.
            path: PathBuf::from(LINEAGE_FILE),
            artifact: Artifact {
                digest: Digest::of(&bytes),
                shape: Shape::File,
                size: bytes.len() as u64,
            },
            from: Provenance::Engine("lineage".to_owned()),
        }
    }

    /// Everything that enters the key of a step.
    pub fn manifest(&self, id: StepId, inputs: &[ResolvedInput]) -> Manifest {
        let node = self.graph.node(id);
        let content = |input: &ResolvedInput| {
            InputContent::new(&input.port, &input.label, input.file(), &input.artifact)
        };
        let variable = |name: &String| (name.clone(), self.around.environment.get(name).cloned());
        Manifest {
            format: FORMAT,
            kind: node.kind.clone(),
            version: node.version,
            params: node.params.clone(),
            inputs: inputs.iter().map(content).collect(),
            environment: node.environment.iter().map(variable).collect(),
        }
    }

    /// The key of a step: that of its manifest, which need not be made for it.
    fn key(&self, id: StepId, inputs: &[ResolvedInput]) -> Key {
        let node = self.graph.node(id);
        let inputs = inputs.iter().map(|input| {
            let Artifact { shape, digest, .. } = input.artifact;
            (
                &input.port[..],
                &input.label[..],
                input.file(),
                (shape, digest),
            )
        });
        // Sorted and without repetition, as the manifest's map is.
        let variable = |name: &'a String| {
            let value = self.around.environment.get(name);
            (&name[..], value.map(String::as_str))
        };
        Ingredients {
            format: FORMAT,
            kind: &node.kind,
            version: node.version,
            params: &node.params,
            inputs,
            environment: node.environment.iter().map(variable),
        }
        .key()
    }

    /// Decides what to do for a step whose upstream steps are settled.
    pub fn decide(&self, id: StepId, forced: bool) -> Result<Decided, InputError> {
        let inputs = self.inputs(id)?;
        let at = Instant::now();
        let key = self.key(id, &inputs);
        debug_assert_eq!(key, self.manifest(id, &inputs).key());
        let node = self.graph.node(id);
        let entry = self.around.store.entry(&key);
        let state = self.state(node);
        let is_current = state.as_ref().is_some_and(|s| s.current == Some(key));
        let faults = match &entry {
            Some(entry) if is_current => self.faults(node, &entry.outputs),
            _ => Vec::new(),
        };
        let standing = Standing {
            key,
            forced,
            state: state.as_ref(),
            stored: self.stored(entry.as_ref(), is_current.then_some(&faults)),
            outputs: faults.into_iter().map(|(_, fault)| fault).collect(),
        };
        let verdict = decide(&standing, || {
            self.differences(node, &self.manifest(id, &inputs), &inputs, &state)
        });
        Ok(Decided {
            key,
            inputs,
            verdict,
            entry,
            at,
        })
    }

    fn state(&self, node: &Node) -> Option<StepState> {
        self.around.store.with_index(|index| {
            index
                .step(self.graph.name.as_str(), node.name.as_str())
                .cloned()
        })
    }

    /// Whether the store can give the outputs of an entry. Of a current entry
    /// only those at fault are asked for: the others are in place.
    fn stored(&self, entry: Option<&Entry>, at_fault: Option<&Vec<(usize, Fault)>>) -> Stored {
        let Some(entry) = entry else {
            return Stored::Nothing;
        };
        let lost = |output: &&Output| !self.around.store.holds(&output.artifact);
        let lost = match at_fault {
            Some(faults) => faults.iter().map(|(i, _)| &entry.outputs[*i]).find(lost),
            None => entry.outputs.iter().find(lost),
        };
        match lost {
            Some(output) => Stored::Lost(output.path.clone()),
            None => Stored::Whole,
        }
    }

    /// Whether what is behind an input from another step, or from outside, now
    /// is what was hashed.
    pub fn unchanged(&self, input: &ResolvedInput) -> bool {
        match input.from {
            Provenance::Engine(_) => true,
            _ => {
                let now = self.around.store.stats().content(&input.path);
                now.is_ok_and(|now| same_content(&now, &input.artifact))
            }
        }
    }

    /// The traces of inputs that were just looked at; none of what lies in the
    /// step's own folder.
    pub fn traces(&self, inputs: &[ResolvedInput]) -> Vec<Option<Trace>> {
        let stats = self.around.store.stats();
        let trace = |input: &ResolvedInput| match input.from {
            Provenance::Step { .. } => Some(stats.trace(&input.path, true)),
            Provenance::Path(_) | Provenance::Hub(_) => Some(stats.trace(&input.path, false)),
            Provenance::Engine(_) => None,
        };
        inputs.iter().map(trace).collect()
    }

    /// The outputs on disk that are not what they should be, by their position.
    pub fn faults(&self, node: &Node, outputs: &[Output]) -> Vec<(usize, Fault)> {
        let folder = self.output_folder(node);
        let mut faults = Vec::new();
        for (i, output) in outputs.iter().enumerate() {
            let path = folder.join(&output.path);
            let shown = || {
                files::relative(&path, self.around.root)
                    .display()
                    .to_string()
            };
            match self.around.store.stats().content(&path) {
                Ok(found) if same_content(&found, &output.artifact) => {}
                Err(e) if e.is_missing() && !path.exists() => {
                    faults.push((i, Fault::Missing(shown())));
                }
                _ => faults.push((i, Fault::Edited(shown()))),
            }
        }
        faults
    }

    /// Where an edited output of a step is moved before the right one is put
    /// in its place.
    pub fn aside_folder(&self, node: &Node) -> PathBuf {
        let aside = self.around.cache.join("edited");
        aside
            .join(self.graph.name.as_str())
            .join(&*node.name.folder())
    }

    /// Where a step's outputs appear.
    pub fn output_folder(&self, node: &Node) -> PathBuf {
        match &node.out {
            Some(folder) => self.around.root.join(folder),
            None => {
                let out = self.around.cache.join("out");
                out.join(self.graph.name.as_str())
                    .join(&*node.name.folder())
            }
        }
    }

    fn differences(
        &self,
        node: &Node,
        manifest: &Manifest,
        inputs: &[ResolvedInput],
        state: &Option<StepState>,
    ) -> Vec<Reason> {
        let current = state.as_ref().and_then(|s| s.current);
        let old = current.and_then(|key| self.recorded_manifest(&key));
        let with = Comparison {
            sources: &node.sources,
            folder: &|old, new| self.folder_changes(old, new, inputs),
            limit: self.detail.files,
        };
        match old {
            Some(old) => manifest.differences(&old, &with),
            None => vec![Reason::NeverBuilt],
        }
    }

    /// What changed inside of a folder. The old listings are in the store if
    /// the folder was a step's output, or was kept when the step ran.
    fn folder_changes(
        &self,
        old: &InputContent,
        new: &InputContent,
        inputs: &[ResolvedInput],
    ) -> Option<FileChanges> {
        if !self.detail.folders {
            return None;
        }
        let store = self.around.store;
        let before = store.kept_listing(&old.digest)?;
        let same = |input: &&ResolvedInput| {
            let (a, b) = (&input.artifact, new);
            (a.digest, &input.port, &input.label) == (b.digest, &b.port, &b.label)
        };
        let input = inputs.iter().find(same)?;
        let mut listings = HashMap::new();
        if !matches!(input.from, Provenance::Step { .. }) {
            let mut keep = |digest: Digest, bytes: &[u8]| {
                listings.extend(Listing::from_bytes(bytes, digest).map(|l| (digest, l)));
            };
            store.stats().content_listed(&input.path, &mut keep).ok()?;
        }
        let listing = |digest: &Digest| match listings.get(digest) {
            Some(listing) => Some(listing.clone()),
            None => store.kept_listing(digest),
        };
        let now = listing(&new.digest)?;
        compare_folders(&before, &now, &listing, self.detail.files)
    }

    /// The manifest kept in the record of a key's execution.
    pub fn recorded_manifest(&self, key: &Key) -> Option<Manifest> {
        #[derive(serde::Deserialize)]
        struct Recorded {
            manifest: Manifest,
        }
        let entry = self.around.store.entry(key)?;
        let bytes = self.around.store.get(&entry.record).ok()?;
        let recorded: Recorded = serde_json::from_slice(&bytes).ok()?;
        Some(recorded.manifest)
    }

    /// Plans the given steps (closed under "needs") without doing anything.
    /// A step that cannot run hides no other, as in `build --keep-going`.
    pub fn dry_run(
        &mut self,
        steps: &[StepId],
        forced: &dyn Fn(StepId) -> bool,
    ) -> Vec<PlannedStep> {
        let mut plan = Vec::with_capacity(steps.len());
        for &id in steps {
            let (key, verdict) = self.foresee(id, forced(id));
            let node = self.graph.node(id);
            plan.push(PlannedStep {
                name: node.name.clone(),
                kind: node.kind.clone(),
                key,
                verdict,
                millis: self.last_millis(node),
                critical: false,
            });
        }
        plan
    }

    fn foresee(&mut self, id: StepId, forced: bool) -> (Option<Key>, Verdict) {
        let needed = self.graph.dependencies(id).iter();
        if let Some(fault) = needed.filter_map(|up| self.at_fault[up.index()]).next() {
            self.at_fault[id.index()] = Some(fault);
            let by = self.graph.node(fault).name.clone();
            return (None, Verdict::Blocked { by });
        }
        let waits_for = self.unsettled_inputs(id);
        if !waits_for.is_empty() {
            let node = self.graph.node(id);
            return (None, self.verdict_unknown(node, forced, waits_for));
        }
        match self.decide(id, forced) {
            Ok(decided) => {
                self.settle_if_known(id, &decided);
                (Some(decided.key), decided.verdict)
            }
            Err(error) => {
                self.at_fault[id.index()] = Some(id);
                let causes = causes(&error);
                (None, Verdict::Error { causes })
            }
        }
    }

    /// How long a step took when its current result was made.
    pub fn last_millis(&self, node: &Node) -> Option<u64> {
        let key = self.state(node)?.current?;
        let index = |index: &crate::store::Index| Some(index.entry(&key)?.millis);
        self.around.store.with_index(index)
    }

    fn unsettled_inputs(&self, id: StepId) -> Vec<StepName> {
        let open = |step: &&StepId| self.settled(**step).is_none();
        let needed = self.graph.dependencies(id).iter().filter(open);
        needed
            .map(|step| self.graph.node(*step).name.clone())
            .collect()
    }

    /// A step that was never built will run whatever its inputs turn out to be.
    fn verdict_unknown(&self, node: &Node, forced: bool, waits_for: Vec<StepName>) -> Verdict {
        let built = self
            .state(node)
            .is_some_and(|state| state.current.is_some());
        let reasons = match (forced, built) {
            (true, _) => vec![Reason::Forced],
            (false, false) => vec![Reason::NeverBuilt],
            (false, true) => return Verdict::Maybe { waits_for },
        };
        Verdict::Run { reasons }
    }

    fn settle_if_known(&mut self, id: StepId, decided: &Decided) {
        let known = matches!(decided.verdict, Verdict::UpToDate | Verdict::Restore { .. });
        if let (true, Some(entry)) = (known, &decided.entry) {
            self.settle(
                id,
                Settled {
                    key: decided.key,
                    inputs: decided.inputs.clone(),
                    outputs: entry.outputs.clone(),
                },
            );
        }
    }
}

/// An error and what led to it, outermost first, each said once.
fn causes(error: &InputError) -> Vec<String> {
    let mut causes = vec![error.to_string()];
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let text = error.to_string();
        if causes.last() != Some(&text) {
            causes.push(text);
        }
        source = error.source();
    }
    causes
}

/// A step's output has a label only where the port gives it one, so that a step
/// can be renamed without rebuilding those that read from it.
fn visible_label(reference: &InputRef, node: &Node, output: usize) -> String {
    let written = reference.label.strip_prefix('@');
    let plain = written == Some(node.name.as_str())
        || written == Some(&format!("{}.{}", node.name, node.outputs[output].name));
    match plain {
        true => String::new(),
        false => reference.label.clone(),
    }
}

/// Outputs are written read-only, so that only bytes and the executable bit count.
fn same_content(a: &Artifact, b: &Artifact) -> bool {
    a.digest == b.digest && a.shape == b.shape
}
