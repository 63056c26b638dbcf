//! The crew: threads that see jobs through, made when all are busy and kept for the next job.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::Scope;

type Task<'scope> = Box<dyn FnOnce() + Send + 'scope>;

/// Threads of a scope that wait for tasks; they end when the crew is dropped.
pub struct Crew<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    work: Arc<Work<'scope>>,
}

/// What the threads wait for. Not a channel behind a lock, where each task
/// wakes a second thread that then waits in place of the first.
#[derive(Default)]
struct Work<'scope> {
    state: Mutex<State<'scope>>,
    news: Condvar,
}

#[derive(Default)]
struct State<'scope> {
    tasks: VecDeque<Task<'scope>>,
    /// Threads that have nothing to do and no task on the way to them.
    idle: usize,
    over: bool,
}

impl<'scope, 'env> Crew<'scope, 'env> {
    /// A crew without a thread yet.
    pub fn new(scope: &'scope Scope<'scope, 'env>) -> Self {
        Crew {
            scope,
            work: Arc::default(),
        }
    }

    /// Runs a task at once, on a thread of its own while it lasts.
    pub fn run(&self, task: impl FnOnce() + Send + 'scope) {
        let mut state = self.work.lock();
        state.tasks.push_back(Box::new(task));
        let Some(idle) = state.idle.checked_sub(1) else {
            drop(state);
            return self.hire();
        };
        state.idle = idle;
        drop(state);
        self.work.news.notify_one();
    }

    fn hire(&self) {
        let work = Arc::clone(&self.work);
        self.scope.spawn(move || {
            while let Some(task) = work.next() {
                task();
                work.lock().idle += 1;
            }
        });
    }
}

impl Drop for Crew<'_, '_> {
    fn drop(&mut self) {
        self.work.lock().over = true;
        self.work.news.notify_all();
    }
}

impl<'scope> Work<'scope> {
    fn lock(&self) -> MutexGuard<'_, State<'scope>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The next task; none when there will be no more.
    fn next(&self) -> Option<Task<'scope>> {
        let mut state = self.lock();
        loop {
            if let Some(task) = state.tasks.pop_front() {
                return Some(task);
            }
            if state.over {
                return None;
            }
            let woken = self.news.wait(state);
            state = woken.unwrap_or_else(|e| e.into_inner());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

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
            while crew.work.lock().idle < 3 {
                std::thread::yield_now();
            }
            for _ in 0..9 {
                let (_, open) = channel();
                crew.run(task(sender.clone(), open));
                assert!(first.contains(&seen.recv().unwrap()), "threads are kept");
                while crew.work.lock().idle < 3 {
                    std::thread::yield_now();
                }
            }
        });
    }
}
