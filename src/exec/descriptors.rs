//! How many files this process may have open: as many as it is allowed to, while steps get what they would have had without it.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What this process has open besides what jobs need.
const OWN: u64 = 24;

/// What a job needs: the socket to its keeper, a pipe, and what is open while
/// its outputs are taken in.
const JOB: u64 = 4;

/// The most that a system takes for no limit at all.
const MANY: u64 = if cfg!(target_os = "macos") {
    10_240
} else {
    1 << 20
};

/// How many files a process that was started now could have open before this
/// one asked for more; none where it did not.
static BEFORE: OnceLock<Option<u64>> = OnceLock::new();

/// Raises this process's limit to the highest there is. What a step gets is not
/// raised: programs that call `select` break where files have high numbers.
pub(super) fn raise() {
    BEFORE.get_or_init(|| {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let (before, most) = (current?, maximum.unwrap_or(MANY).min(MANY));
        let raised = Rlimit {
            current: Some(most),
            maximum,
        };
        (most > before && setrlimit(Resource::Nofile, raised).is_ok()).then_some(before)
    });
}

/// The limit that this process's children are to have, if not its own.
pub(super) fn before() -> Option<u64> {
    BEFORE.get().copied().flatten()
}

/// Gives this process, and what it starts, that limit.
pub(super) fn lower(current: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let lowered = Rlimit {
        current: Some(current),
        maximum,
    };
    // Steps have a higher one then, which few mind.
    let _ = setrlimit(Resource::Nofile, lowered);
}

/// How many files this process may have open, and how many jobs may run at once
/// for that; none where there is no limit.
pub(super) fn jobs() -> Option<(u64, usize)> {
    let files = getrlimit(Resource::Nofile).current?;
    let jobs = (files.saturating_sub(OWN) / JOB).max(1);
    Some((files, usize::try_from(jobs).unwrap_or(usize::MAX)))
}
