//! Looking without touching: plan, why, and what watch has to watch.

use std::collections::{BTreeMap, BTreeSet};

use super::estimate::{Estimate, estimate};
use super::workspace::{environment, find_step, find_steps, needed};
use super::{BuildOptions, HubAccess, OpsError, Workspace};
use crate::graph::{Graph, Origin, StepId, is_glob};
use crate::pipeline::{Diagnostics, Overrides, PipelineName, StepName};
use crate::plan::{Detail, EXAMPLES, PlannedStep, Planner, Surroundings};
use crate::store::LocalStore;
use crate::watch::Watched;

/// What a build would do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The steps in build order.
    pub steps: Vec<PlannedStep>,
    /// How long it would take by the times of earlier runs, if any is known.
    pub estimate: Option<Estimate>,
}

/// What a build with these options would do, step by step in build order.
pub fn plan(workspace: &Workspace, options: &BuildOptions) -> Result<Plan, OpsError> {
    let (graph, _) = workspace.load(&options.overrides)?;
    let targets = find_steps(&graph, &options.targets)?;
    let forced = find_steps(&graph, &options.force)?;
    let detail = Detail {
        folders: true,
        files: EXAMPLES,
    };
    let ids = needed(&graph, &targets);
    let mut steps = dry_run(workspace, &graph, &ids, &forced, detail)?;
    let estimate = estimate(&graph, &ids, &mut steps, options.limits.jobs);
    Ok(Plan {
        pipeline: graph.name.clone(),
        steps,
        estimate,
    })
}

/// What a build would do for one step, or for each of several cells of a
/// matrix, and why; at most `files` are named of an input.
pub fn why(
    workspace: &Workspace,
    overrides: &Overrides,
    step: &str,
    files: usize,
) -> Result<Vec<PlannedStep>, OpsError> {
    let (graph, _) = workspace.load(overrides)?;
    let ids = find_step(&graph, step)?;
    let folders = true;
    let detail = Detail { folders, files };
    let mut plan = dry_run(workspace, &graph, &needed(&graph, &ids), &[], detail)?;
    let asked: BTreeSet<&StepName> = ids.iter().map(|id| &graph.node(*id).name).collect();
    plan.retain(|step| asked.contains(&step.name));
    Ok(plan)
}

pub(super) fn dry_run(
    workspace: &Workspace,
    graph: &Graph,
    steps: &[StepId],
    forced: &[StepId],
    detail: Detail,
) -> Result<Vec<PlannedStep>, OpsError> {
    let store = workspace.look_into_store()?;
    let environment = environment();
    let hub = HubAccess::new(workspace, None);
    let around = surroundings(workspace, &store, &environment, &hub);
    let mut planner = Planner::new(graph, around).with_detail(detail);
    Ok(planner.dry_run(steps, &|id| forced.contains(&id)))
}

/// Surroundings in which nothing is fetched.
pub(super) fn surroundings<'a>(
    workspace: &'a Workspace,
    store: &'a LocalStore,
    environment: &'a BTreeMap<String, String>,
    hub: &'a HubAccess<'a>,
) -> Surroundings<'a> {
    Surroundings {
        root: &workspace.root,
        cache: &workspace.cache,
        store,
        environment,
        hub,
    }
}

/// The warnings about the pipeline file.
pub fn warnings(workspace: &Workspace, overrides: &Overrides) -> Result<Diagnostics, OpsError> {
    Ok(workspace.load(overrides)?.1)
}

/// What a change of which asks for another build.
pub fn watched(workspace: &Workspace, overrides: &Overrides) -> Result<Watched, OpsError> {
    let (graph, _) = workspace.load(overrides)?;
    let root = &workspace.root;
    let mut watched = Watched {
        root: root.clone(),
        paths: [root.join(&workspace.pipeline)].into(),
        globs: [].into(),
        ignored: [workspace.cache.clone(), workspace.lock_file()].into(),
    };
    for node in &graph.nodes {
        for input in &node.inputs {
            match &input.from {
                Origin::Path(path) if is_glob(path) => watched.globs.extend([path.clone()]),
                Origin::Path(path) => watched.paths.extend([root.join(path)]),
                _ => {}
            }
        }
        watched
            .ignored
            .extend(node.out.as_ref().map(|out| root.join(out)));
    }
    Ok(watched)
}
