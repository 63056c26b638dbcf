//! The crew: threads that see jobs through, made when all are busy and kept for the next job.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::Scope;

type Task<'scope> = Box<dyn FnOnce() + Send + 'scope>;

/// Threads of a scope that wait for tasks; they end when the crew is dropped.
pub struct Crew<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    tasks: Sender<Task<'scope>>,
    waiting: Arc<Mutex<Receiver<Task<'scope>>>>,
    /// Threads that have nothing to do and no task on the way to them.
    idle: Arc<AtomicUsize>,
}

impl<'scope, 'env> Crew<'scope, 'env> {
    /// A crew without a thread yet.
    pub fn new(scope: &'scope Scope<'scope, 'env>) -> Self {
        let (tasks, waiting) = channel();
        Crew {
            scope,
            tasks,
            waiting: Arc::new(Mutex::new(waiting)),
            idle: Arc::default(),
        }
    }

    /// Runs a task at once, on a thread of its own while it lasts.
    pub fn run(&self, task: impl FnOnce() + Send + 'scope) {
        let one_less = |idle: usize| idle.checked_sub(1);
        let free = self
            .idle
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
        if free.is_err() {
            self.hire();
        }
        // The crew holds the other end itself.
        let _ = self.tasks.send(Box::new(task));
    }

    fn hire(&self) {
        let (waiting, idle) = (Arc::clone(&self.waiting), Arc::clone(&self.idle));
        self.scope.spawn(move || {
            while let Some(task) = next(&waiting) {
                task();
                idle.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
}

fn next<'scope>(waiting: &Mutex<Receiver<Task<'scope>>>) -> Option<Task<'scope>> {
    let waiting = waiting.lock().unwrap_or_else(|e| e.into_inner());
    waiting.recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_run_side_by_side_on_as_few_threads_as_do() {
        let (sender, seen) = channel();
        std::thread::scope(|scope| {
            let crew = Crew::new(scope);
            let task = |sender: Sender<_>, open: Receiver<()>| {
                move || {
                    sender.send(std::thread::current().id()).unwrap();
                    let _ = open.recv();
                }
            };
            let mut gates = Vec::new();
            for _ in 0..3 {
                let (gate, open) = channel();
                crew.run(task(sender.clone(), open));
                gates.push(gate);
            }
            let first: std::collections::HashSet<_> = seen.iter().take(3).collect();
            assert_eq!(first.len(), 3, "none waits for another");
            drop(gates);
            while crew.idle.load(Ordering::SeqCst) < 3 {
                std::thread::yield_now();
            }
            for _ in 0..9 {
                let (_, open) = channel();
                crew.run(task(sender.clone(), open));
                assert!(first.contains(&seen.recv().unwrap()), "threads are kept");
                while crew.idle.load(Ordering::SeqCst) < 3 {
                    std::thread::yield_now();
                }
            }
        });
    }
}
