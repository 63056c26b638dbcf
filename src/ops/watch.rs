//! The loop of `watch`: look at what is read, build, wait for a change, and again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::build::{Asked, build_unless_recalled};
use super::workspace::find_steps;
use super::{BuildOptions, OpsError, Workspace, watched};
use crate::event::{Event, Sink};
use crate::exec::Recall;
use crate::graph::Graph;
use crate::pipeline::StepName;
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

/// What a change during a build does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnChange {
    /// Running steps that it makes stale are stopped, and when those that are
    /// not have finished, the next round begins. A step whose source changed
    /// would fail for it at its end anyway.
    #[default]
    Cancel,
    /// The round is finished first.
    Queue,
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
    on_change: OnChange,
    cancel: &AtomicBool,
    sink: &mut dyn Sink,
    mut notice: impl FnMut(Notice<'_>),
) -> Result<(), WatchError> {
    let mut interest = only_the_pipeline(workspace);
    let mut watcher = Watcher::new(&interest)?;
    let mut options = options.clone();
    // Whether a step lost its result because an input was written to, though it
    // is what it was. If that is the step itself, it would never end.
    let mut touched = false;
    loop {
        // A pipeline that cannot be read fails below and keeps what was watched.
        if let Ok(current) = watched(workspace, &options.overrides) {
            interest = current;
        }
        watcher.update(&interest)?;
        if let Some(why) = watcher.fallen_back() {
            notice(Notice::FallenBack(&why));
        }
        let mut round = Round::new(workspace, &options, cancel);
        let recall = match touched {
            true => Recall::patient(),
            false => Recall::default(),
        };
        let (built, meanwhile) = match on_change {
            OnChange::Cancel => round.listening(&recall, &mut watcher, &interest, sink),
            OnChange::Queue => {
                let built = round.build(None, sink);
                (built, Ok(Changed::default()))
            }
        };
        let left = round.forced_left();
        if let Err(error) = built {
            notice(Notice::Failed(&error));
        }
        if cancel.load(Ordering::Relaxed) {
            return Ok(());
        }
        options.force = left;
        let meanwhile = meanwhile?;
        let again = touched && recall.touched();
        touched = recall.touched();
        if meanwhile != Changed::default() && !again {
            notice(Notice::Changed(&meanwhile));
            continue;
        }
        notice(Notice::Waiting(&interest));
        match watcher.wait(cancel)? {
            Some(changed) => notice(Notice::Changed(&changed)),
            None => return Ok(()),
        }
    }
}

/// One build of the loop.
struct Round<'a> {
    workspace: &'a Workspace,
    options: &'a BuildOptions,
    cancel: &'a AtomicBool,
    /// The steps that were to run in any case.
    forced: BTreeSet<StepName>,
    /// The steps that a change stopped, or kept from being begun.
    put_off: BTreeSet<StepName>,
}

impl<'a> Round<'a> {
    fn new(workspace: &'a Workspace, options: &'a BuildOptions, cancel: &'a AtomicBool) -> Self {
        Round {
            workspace,
            options,
            cancel,
            forced: BTreeSet::new(),
            put_off: BTreeSet::new(),
        }
    }

    fn build(&mut self, recall: Option<&Recall>, sink: &mut dyn Sink) -> Result<(), OpsError> {
        let (workspace, options) = (self.workspace, self.options);
        if !options.force.is_empty() {
            let (graph, _) = workspace.load(&options.overrides)?;
            let forced = find_steps(&graph, &options.force)?.into_iter();
            self.forced = forced.map(|id| graph.node(id).name.clone()).collect();
        }
        let asked = Asked {
            cancel: self.cancel,
            recall,
        };
        let put_off = &mut self.put_off;
        let mut noting = |event: &Event| {
            if let Event::StepCancelled {
                step,
                changed: Some(_),
            } = event
            {
                put_off.insert(step.clone());
            }
            sink.event(event);
        };
        build_unless_recalled(workspace, options, asked, &mut noting).map(drop)
    }

    /// The steps that are still to run in any case, as far as there are any such.
    fn forced_left(&self) -> Vec<String> {
        let left: Vec<&StepName> = self.forced.intersection(&self.put_off).collect();
        if left.is_empty() {
            return Vec::new();
        }
        let now = self.workspace.load(&self.options.overrides).ok();
        let exists = |name: &&&StepName| {
            let find = |(graph, _): &(Graph, _)| graph.find(name).is_some();
            now.as_ref().is_none_or(find)
        };
        let left = left.iter().filter(exists);
        left.map(|name| name.to_string()).collect()
    }

    /// Builds, and recalls what becomes stale meanwhile; also tells what changed.
    fn listening(
        &mut self,
        recall: &Recall,
        watcher: &mut Watcher,
        interest: &Watched,
        sink: &mut dyn Sink,
    ) -> (Result<(), OpsError>, Result<Changed, WatchError>) {
        let over = AtomicBool::new(false);
        let workspace = self.workspace;
        let overrides = &self.options.overrides;
        std::thread::scope(|scope| {
            let over = &over;
            let load = || Some(workspace.load(overrides).ok()?.0);
            let listener = scope.spawn(move || listen(watcher, interest, recall, load, over));
            let built = {
                let _over = SetOnDrop(over);
                self.build(Some(recall), sink)
            };
            let meanwhile = listener.join();
            (built, meanwhile.unwrap_or(Err(WatchError::Ended)))
        })
    }
}

/// Ends the listening however the build ends.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Tells the build of changes until it is over; gives them all.
fn listen(
    watcher: &mut Watcher,
    interest: &Watched,
    recall: &Recall,
    load: impl Fn() -> Option<Graph>,
    over: &AtomicBool,
) -> Result<Changed, WatchError> {
    let mut all = Changed::default();
    while let Some(changed) = watcher.wait(over)? {
        // Folders that came or were replaced are looked at from now on.
        watcher.update(interest)?;
        // Whatever changed: the pipeline file may be behind a link.
        recall.ask(load());
        all.paths.extend(changed.paths);
        all.rescan |= changed.rescan;
    }
    Ok(all)
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
