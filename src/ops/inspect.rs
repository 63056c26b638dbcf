//! Looking without touching: plan, why, and what watch has to watch.

use std::path::PathBuf;

use super::workspace::{environment, find_step, find_steps, needed};
use super::{BuildOptions, HubAccess, OpsError, Workspace, registry, step_name};
use crate::graph::{Graph, Origin, StepId};
use crate::pipeline::{Diagnostics, Overrides};
use crate::plan::{PlannedStep, Planner, Surroundings};
use crate::store::LocalStore;

/// What a build with these options would do, step by step in build order.
pub fn plan(workspace: &Workspace, options: &BuildOptions) -> Result<Vec<PlannedStep>, OpsError> {
    let (graph, _) = workspace.load(&options.overrides, &registry())?;
    let targets = find_steps(&graph, &options.targets)?;
    let forced = find_steps(&graph, &options.force)?;
    dry_run(workspace, &graph, &needed(&graph, &targets), &forced)
}

/// What a build would do for one step, and why.
pub fn why(
    workspace: &Workspace,
    overrides: &Overrides,
    step: &str,
) -> Result<PlannedStep, OpsError> {
    let (graph, _) = workspace.load(overrides, &registry())?;
    let id = find_step(&graph, step)?;
    let mut plan = dry_run(workspace, &graph, &needed(&graph, &[id]), &[])?;
    let name = &graph.node(id).name;
    let at = plan.iter().position(|step| step.name == *name);
    Ok(plan.swap_remove(at.expect("a step is among those it needs")))
}

fn dry_run(
    workspace: &Workspace,
    graph: &Graph,
    steps: &[StepId],
    forced: &[StepId],
) -> Result<Vec<PlannedStep>, OpsError> {
    let (store, _) = workspace.open_store()?;
    let environment = environment();
    let mut planner = Planner::new(graph, surroundings(workspace, &store, &environment));
    let plan = planner.dry_run(steps, &|id| forced.contains(&id));
    plan.map_err(|(id, source)| OpsError::Input {
        step: step_name(graph, id),
        source,
    })
}

/// Surroundings in which nothing is fetched.
pub(super) fn surroundings<'a>(
    workspace: &'a Workspace,
    store: &'a LocalStore,
    environment: &'a std::collections::BTreeMap<String, String>,
) -> Surroundings<'a> {
    Surroundings {
        root: &workspace.root,
        cache: &workspace.cache,
        store,
        environment,
        hub: &HubAccess { fetch: false },
    }
}

/// The warnings about the pipeline file.
pub fn warnings(workspace: &Workspace, overrides: &Overrides) -> Result<Diagnostics, OpsError> {
    Ok(workspace.load(overrides, &registry())?.1)
}

/// What a change of which asks for another build.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The project root, absolute.
    pub root: PathBuf,
    /// The pipeline file, absolute.
    pub pipeline: PathBuf,
    /// Files, folders and globs that steps read, relative to the root.
    pub sources: Vec<String>,
    /// Folders that retune itself writes, absolute.
    pub ignored: Vec<PathBuf>,
}

/// What watch has to watch.
pub fn watched(workspace: &Workspace, overrides: &Overrides) -> Result<Watched, OpsError> {
    let (graph, _) = workspace.load(overrides, &registry())?;
    let mut sources = Vec::new();
    let mut ignored = vec![workspace.cache.clone()];
    for node in &graph.nodes {
        for input in &node.inputs {
            if let Origin::Path(path) = &input.from {
                sources.push(path.clone());
            }
        }
        ignored.extend(node.out.as_ref().map(|out| workspace.root.join(out)));
    }
    sources.sort();
    sources.dedup();
    Ok(Watched {
        pipeline: workspace.root.join(&workspace.pipeline),
        root: workspace.root.clone(),
        sources,
        ignored,
    })
}
