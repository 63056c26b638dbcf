//! The other side of the door: a process that was handed a job, does it and leaves a result.

use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::job::{End, FORMAT, Job, JobResult, WorkFolder};
use super::sandbox;
use crate::files;
use crate::step::{Context, Progress, ProgressSink, Registry, StepError};

/// Progress goes to the caller at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Does the job in the file `job` and leaves its result beside it. Returns
/// whether the job finished.
pub fn work(job: &Path, registry: &Registry) -> bool {
    die_with_parent();
    take_name();
    let folder = WorkFolder::of_job(job);
    let cancel = stop_flag();
    let (mut facts, mut held) = (BTreeMap::new(), sandbox::NONE.to_owned());
    let end = match attempt(job, &folder, registry, &cancel, &mut facts, &mut held) {
        Ok(()) => End::Finished,
        Err(_) if cancel.load(Ordering::Relaxed) => End::Cancelled,
        Err(error) => End::Failed { error },
    };
    let finished = end == End::Finished;
    let result = JobResult {
        facts,
        peak_memory: peak_memory(),
        sandbox: held,
        ..JobResult::bare(end)
    };
    let bytes = serde_json::to_vec(&result).expect("plain data");
    match files::write_atomic(&folder.result(), &bytes) {
        Ok(()) => finished,
        Err(error) => {
            tell_failed(error.into());
            false
        }
    }
}

/// The way that is left when not even the result can be written, as on a full
/// disk: through the pipe that carries progress.
fn tell_failed(error: StepError) {
    let result = JobResult::bare(End::Failed { error });
    let line = serde_json::to_string(&result).expect("plain data");
    // Whoever would read it may be gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn attempt(
    job: &Path,
    folder: &WorkFolder,
    registry: &Registry,
    cancel: &AtomicBool,
    facts: &mut BTreeMap<String, Value>,
    held: &mut String,
) -> Result<(), StepError> {
    let job: Job = serde_json::from_slice(&files::read(job)?)?;
    let kind = registry
        .get(&job.kind)
        .filter(|kind| kind.version() == job.version && job.format == FORMAT)
        .ok_or_else(|| {
            StepError::new(format!(
                "this program has no kind {} {}",
                job.kind, job.version
            ))
            .hint("the program was replaced while a build was running: build again")
        })?;
    // From here on only its ports are in view.
    *held = sandbox::hold_worker(&job, folder, kind.network());
    let mut sink = Lines {
        last: None,
        out: std::io::stdout(),
    };
    let out = folder.out();
    let mut context = Context {
        inputs: &job.inputs,
        out: &out,
        checkpoint: job.checkpoint.as_ref(),
        threads: job.threads,
        cancel,
        sink: &mut sink,
        facts: BTreeMap::new(),
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| kind.run(&job.params, &mut context)));
    *facts = std::mem::take(&mut context.facts);
    outcome.unwrap_or_else(|panic| Err(explain_panic(&*panic)))
}

/// What a panic says.
pub(super) fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>();
    let text = text.map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_default()
}

fn explain_panic(panic: &(dyn std::any::Any + Send)) -> StepError {
    StepError::new(format!("the step panicked: {}", text_of(panic)))
        .hint("this is a fault in retune; the log says where")
}

/// A killed build must not leave its steps running.
fn die_with_parent() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, set_parent_process_death_signal};
        // Without it a step that outlives its build merely works for nothing.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
    }
}

/// Is called as the program is, not as the link by which it was started.
fn take_name() {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::ffi::OsStrExt;
        let path = std::env::args_os().next().unwrap_or_default();
        let name = Path::new(&path).file_name().unwrap_or_default();
        if let Ok(name) = std::ffi::CString::new(name.as_bytes()) {
            // For people only.
            let _ = rustix::thread::set_name(&name);
        }
    }
}

fn stop_flag() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        // Without it the signal ends the process, which is a stop as well.
        let _ = signal_hook::flag::register(signal, Arc::clone(&flag));
    }
    flag
}

/// Progress as JSON lines on standard output.
struct Lines<W> {
    last: Option<Instant>,
    out: W,
}

impl<W: Write + Send> ProgressSink for Lines<W> {
    fn progress(&mut self, progress: &Progress) {
        let due = self
            .last
            .is_none_or(|last| last.elapsed() >= PROGRESS_EVERY);
        if due || (progress.total > 0 && progress.done == progress.total) {
            self.last = Some(Instant::now());
            let line = serde_json::to_string(progress).expect("plain data");
            // Nobody listening is no reason to stop working.
            let _ = writeln!(self.out, "{line}");
            let _ = self.out.flush();
        }
    }
}

/// The most memory this process ever held, in bytes.
pub(super) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
