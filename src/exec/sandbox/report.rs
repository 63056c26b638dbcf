//! The report: what a program that was held or watched touched beside what is declared.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Judged;
use crate::exec::job::{End, WorkFolder};
use crate::files::{self, FileError};
use crate::step::StepError;

/// How many accesses a report keeps; a program may make millions.
pub const KEPT: usize = 1000;

/// How many accesses an error lists.
const LISTED: usize = 10;

/// What was done to something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A file was read.
    Read,
    /// A program was run.
    Run,
    /// Something was made, changed or removed.
    Write,
    /// The network or a socket was used.
    Connect,
    /// A port was taken.
    Listen,
    /// A socket of this sort was opened.
    Socket,
    /// A folder was listed.
    List,
    /// A program made itself one that nobody can look into.
    Hide,
    /// A program made a folder the root of its paths.
    Root,
}

/// One thing that a program touched without declaring it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Access {
    /// What it did.
    pub what: What,
    /// To what: a real path, an address, or a program's name.
    pub target: String,
    /// The name of the process.
    pub program: String,
    /// The path of the system by which it came there, if it was one: a link on
    /// it leads to the target.
    #[serde(default)]
    pub through: Option<String>,
}

impl Access {
    /// The target, relative to the project where it lies in it.
    pub fn place(&self, project: &Path) -> String {
        match Path::new(&self.target).strip_prefix(project) {
            Ok(inside) if inside.as_os_str().is_empty() => ".".to_owned(),
            Ok(inside) => inside.display().to_string(),
            Err(_) => self.target.clone(),
        }
    }

    /// `read data/secret.txt`.
    pub fn words(&self, project: &Path) -> String {
        let through = self.through.as_ref();
        let through = through.map_or(String::new(), |path| format!(" through {path}"));
        self.deed(&self.place(project)) + &through
    }

    fn deed(&self, place: &str) -> String {
        match self.what {
            What::Read => format!("read {place}"),
            What::Run => format!("ran {place}"),
            What::Write => format!("wrote {place}"),
            What::Connect => format!("connected to {place}"),
            What::Listen => format!("listened on {place}"),
            What::Socket => format!("opened a {place} socket"),
            What::List => format!("listed {place}"),
            What::Hide => format!("hid the memory of {place}"),
            What::Root => format!("made {place} the root of its paths"),
        }
    }

    /// What is wrong with that.
    fn fault(&self) -> &'static str {
        match self.what {
            What::Hide | What::Root => "so that nobody can tell what it touches",
            _ => "which it does not declare",
        }
    }

    /// Whether it may have changed what the program wrote. A listing that was
    /// refused is left to the program: interpreters look into every folder of
    /// their search path and go on without.
    fn is_fatal(&self) -> bool {
        self.what != What::List
    }

    fn hint(&self, project: &Path) -> String {
        let place = self.through.clone();
        let place = place.unwrap_or_else(|| self.place(project));
        let within = Path::new(&self.target).starts_with(project);
        match self.what {
            What::Read | What::List | What::Run => {
                let first = if within {
                    "add it to `inputs`, or "
                } else {
                    ""
                };
                format!("{first}allow it: sandbox = {{ read = [\"{place}\"] }}")
            }
            What::Write => format!(
                "write below the working folder or $TMPDIR, or allow it: \
                 sandbox = {{ write = [\"{}\"] }}",
                folder_of(&place)
            ),
            What::Connect | What::Listen | What::Socket => {
                "allow it: sandbox = { network = true }".to_owned()
            }
            What::Hide => "only programs that may be read, and that do not set \
                           PR_SET_DUMPABLE to 0, can be held: run it without `sandbox`"
                .to_owned(),
            What::Root => {
                "a program that does this cannot be held: run it without `sandbox`".to_owned()
            }
        }
    }
}

fn folder_of(place: &str) -> &str {
    match place.rsplit_once('/') {
        Some((folder, _)) if !folder.is_empty() => folder,
        Some(_) => "/",
        None => ".",
    }
}

/// What the watcher leaves behind.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// What held the program, for the record.
    pub held: String,
    /// What of the sandbox could not be had, and why.
    pub lacking: Option<String>,
    /// Why the program was not started.
    pub failed: Option<StepError>,
    /// What it touched without declaring it, refused if it was held.
    pub accesses: Vec<Access>,
    /// How many more accesses there were.
    pub more: usize,
}

impl Report {
    /// Reads the report of a work folder.
    pub fn read(folder: &WorkFolder) -> Option<Self> {
        let bytes = files::read(&folder.report()).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Whether something was refused that a program must not go on without.
    pub fn is_fatal(&self) -> bool {
        self.accesses.iter().any(Access::is_fatal)
    }

    /// Writes it.
    pub fn write(&self, folder: &WorkFolder) -> Result<(), FileError> {
        let bytes = serde_json::to_vec(self).expect("plain data");
        files::write(&folder.report(), bytes)
    }
}

/// The error of a held program that was refused something.
pub fn refusal(job: &Judged, report: &Report, end: &End) -> Option<StepError> {
    let failed = match end {
        End::Finished => None,
        End::Failed { error } => Some(error),
        End::Cancelled => return None,
    };
    let fatal: Vec<&Access> = report.accesses.iter().filter(|a| a.is_fatal()).collect();
    let Some(first) = fatal.first() else {
        return unlisted(job, report, failed?);
    };
    let also = |access: &&Access| format!("it also {}", access.words(&job.project));
    let mut causes: Vec<String> = fatal[1..].iter().take(LISTED).map(also).collect();
    let more = fatal.len().saturating_sub(1 + LISTED) + report.more;
    if more > 0 {
        causes.push(format!("and {more} more"));
    }
    causes.push(match failed {
        Some(error) => error.message.clone(),
        None => "the program went on, but not as it would have without the sandbox".to_owned(),
    });
    let words = first.words(&job.project);
    Some(StepError {
        message: format!("step {} {words}, {}", job.step, first.fault()),
        causes,
        hint: Some(first.hint(&job.project)),
    })
}

/// A program that failed by itself, perhaps because a folder seemed empty to it.
fn unlisted(job: &Judged, report: &Report, failed: &StepError) -> Option<StepError> {
    let access = report.accesses.first()?;
    let place = access.place(&job.project);
    let mut error = failed.clone();
    error.causes.push(format!(
        "the sandbox let it not list {place}, which it does not declare"
    ));
    error.hint = error.hint.or_else(|| Some(access.hint(&job.project)));
    Some(error)
}
