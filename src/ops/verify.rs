//! Verifying: every output, object and record read again and compared with what was recorded.

use super::workspace::environment;
use super::{HubAccess, OpsError, Workspace, inspect};
use crate::graph::{Graph, Node};
use crate::hash::Digest;
use crate::pipeline::{Overrides, StepName};
use crate::plan::Planner;
use crate::record::Lock;
use crate::store::{Artifact, Entry, LocalStore, Shape, StatCache, Store};

/// What verifying found.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct VerifyReport {
    /// How many digests were recomputed and compared.
    pub checked: usize,
    /// What is not as recorded.
    pub faults: Vec<VerifyFault>,
    /// Steps that have no result yet.
    pub not_built: Vec<StepName>,
}

/// Something that is not as recorded.
#[derive(Debug, Clone, serde::Serialize)]
pub struct VerifyFault {
    /// The step.
    pub step: StepName,
    /// The output's path in the step's folder, `record`, or `key`.
    pub output: String,
    /// The digest that was recorded.
    pub expected: Digest,
    /// The digest now; none when it is missing or cannot be read.
    pub found: Option<Digest>,
    /// `output`, `store`, `record` or `lock`.
    pub place: &'static str,
}

/// Re-hashes everything, trusting no cache.
pub fn verify(workspace: &Workspace, overrides: &Overrides) -> Result<VerifyReport, OpsError> {
    let (graph, _) = workspace.load(overrides)?;
    let store = workspace.look_into_store()?;
    let lock = Lock::read(&workspace.lock_file())?;
    let environment = environment();
    let hub = HubAccess::new(workspace, None);
    let planner = Planner::new(
        &graph,
        inspect::surroundings(workspace, &store, &environment, &hub),
    );
    let mut check = Check {
        graph: &graph,
        store: &store,
        planner,
        fresh: StatCache::empty(),
        report: VerifyReport::default(),
    };
    for node in &graph.nodes {
        check.step(node, lock.as_ref());
    }
    Ok(check.report)
}

struct Check<'a> {
    graph: &'a Graph,
    store: &'a LocalStore,
    planner: Planner<'a>,
    fresh: StatCache,
    report: VerifyReport,
}

impl Check<'_> {
    fn step(&mut self, node: &Node, lock: Option<&Lock>) {
        let (pipeline, step) = (self.graph.name.as_str(), node.name.as_str());
        let current = self.store.with_index(|index| {
            let key = index.step(pipeline, step)?.current?;
            Some((key, index.entry(&key)?))
        });
        let locked = lock.and_then(|lock| lock.steps.get(&node.name));
        let Some((key, entry)) = current else {
            self.report.not_built.push(node.name.clone());
            if let Some(locked) = locked {
                self.compare(node, "key", "lock", locked.key.0, None);
            }
            return;
        };
        self.outputs(node, &entry);
        self.compare(
            node,
            "record",
            "record",
            entry.record,
            self.object(&entry.record),
        );
        let Some(locked) = locked else {
            return;
        };
        self.compare(node, "key", "lock", locked.key.0, Some(key.0));
        for (path, expected) in &locked.outputs {
            let made = entry.outputs.iter().find(|output| output.path == *path);
            let found = made.map(|output| output.artifact.digest);
            self.compare(node, path, "lock", *expected, found);
        }
    }

    fn outputs(&mut self, node: &Node, entry: &Entry) {
        let folder = self.planner.output_folder(node);
        for output in &entry.outputs {
            let expected = output.artifact.digest;
            let found = self.fresh.content(&folder.join(&output.path)).ok();
            let found = found.map(|artifact| artifact.digest);
            self.compare(node, &output.path, "output", expected, found);
            self.stored(node, &output.path, &output.artifact);
        }
    }

    /// Every object behind an artifact.
    fn stored(&mut self, node: &Node, path: &str, artifact: &Artifact) {
        let found = self.object(&artifact.digest);
        self.compare(node, path, "store", artifact.digest, found);
        if artifact.shape != Shape::Folder || found != Some(artifact.digest) {
            return;
        }
        let bytes = self.store.get(&artifact.digest).unwrap_or_default();
        let listing = crate::store::Listing::from_bytes(&bytes, artifact.digest);
        for entry in listing.map_or(Vec::new(), |listing| listing.entries) {
            let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            self.stored(node, &path, &entry.artifact);
        }
    }

    fn object(&self, digest: &Digest) -> Option<Digest> {
        let path = self.store.object_path(digest);
        self.fresh
            .content(&path)
            .ok()
            .map(|artifact| artifact.digest)
    }

    fn compare(
        &mut self,
        node: &Node,
        output: &str,
        place: &'static str,
        expected: Digest,
        found: Option<Digest>,
    ) {
        self.report.checked += 1;
        if found != Some(expected) {
            self.report.faults.push(VerifyFault {
                step: node.name.clone(),
                output: output.to_owned(),
                expected,
                found,
                place,
            });
        }
    }
}
