//! The loop of `watch`: look at what is read, build, wait for a change, and again.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{BuildOptions, OpsError, Workspace, build, watched};
use crate::event::Sink;
use crate::watch::{Changed, WatchError, Watched, Watcher};

/// What the loop tells besides the events of its builds.
pub enum Notice<'a> {
    /// A round is over and the next one waits for a change of these.
    Waiting(&'a Watched),
    /// A change starts the next round.
    Changed(&'a Changed),
    /// A round ended early; the loop goes on.
    Failed(&'a OpsError),
    /// The system does not tell of changes; they are looked for.
    FallenBack(&'a WatchError),
}

/// Builds whenever an input changes, until `cancel` is set.
///
/// What is watched is looked up before each build, so that whatever the build
/// reads is watched by then. A round that fails (a pipeline file in the middle
/// of an edit, a failed step) ends only that round. Only the file events
/// themselves can end the loop with an error.
pub fn watch(
    workspace: &Workspace,
    options: &BuildOptions,
    cancel: &AtomicBool,
    sink: &mut dyn Sink,
    mut notice: impl FnMut(Notice<'_>),
) -> Result<(), WatchError> {
    let mut interest = only_the_pipeline(workspace);
    let mut watcher = Watcher::new(&interest)?;
    let mut options = options.clone();
    loop {
        // A pipeline that cannot be read fails below and keeps what was watched.
        if let Ok(current) = watched(workspace, &options.overrides) {
            interest = current;
        }
        watcher.update(&interest)?;
        if let Some(why) = watcher.fallen_back() {
            notice(Notice::FallenBack(&why));
        }
        if let Err(error) = build(workspace, &options, cancel, sink) {
            notice(Notice::Failed(&error));
        }
        if cancel.load(Ordering::Relaxed) {
            return Ok(());
        }
        // What was to run in any case has run.
        options.force.clear();
        notice(Notice::Waiting(&interest));
        match watcher.wait(cancel)? {
            Some(changed) => notice(Notice::Changed(&changed)),
            None => return Ok(()),
        }
    }
}

/// What to watch while the pipeline has never been readable.
fn only_the_pipeline(workspace: &Workspace) -> Watched {
    Watched {
        root: workspace.root.clone(),
        paths: [workspace.pipeline.clone()].into(),
        globs: [].into(),
        ignored: [workspace.cache.clone()].into(),
    }
}
