//! The one door for execution: a job that a process is handed, and the result it leaves behind.
//!
//! Both are JSON files in the step's work folder, so that a process started by
//! anything (this program, a cluster's scheduler) can do the work. The result
//! file, never an exit code alone, says how a built-in kind ended.

use std::collections::BTreeMap;
use std::fs::FileType;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::sandbox::{self, Access};
use crate::files::{self, FileError, PathContext, Stat};
use crate::graph::Node;
use crate::plan::Manifest;
use crate::step::{Checkpoint, Context, Input, Params, Program, Registry, StepError};

/// The version of both files. 2: `checkpoint` says how often to write. 3: by
/// time or by steps.
pub const FORMAT: u32 = 3;

/// What a process is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The version of the format.
    pub format: u32,
    /// The step's name, for messages.
    pub step: String,
    /// The project's folder, which the sandbox keeps shut.
    pub project: PathBuf,
    /// The kind.
    pub kind: String,
    /// The kind's version, which the process must know.
    pub version: u32,
    /// The effective parameters.
    pub params: Params,
    /// The inputs.
    pub inputs: Vec<Input>,
    /// Where to keep what another attempt goes on from.
    pub checkpoint: Option<Checkpoint>,
    /// How many threads may be used.
    pub threads: usize,
    /// The variables of the step's share, and those that are declared and set.
    pub environment: BTreeMap<String, String>,
    /// The program to start, for kinds that are one.
    #[serde(skip)]
    pub program: Option<Program>,
    /// Whether to tell what its program touches beside what is declared,
    /// instead of holding it to that.
    #[serde(skip)]
    pub trace: bool,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// The version of the format.
    pub format: u32,
    /// The end.
    #[serde(flatten)]
    pub end: End,
    /// What the step measured about itself.
    #[serde(default)]
    pub facts: BTreeMap<String, Value>,
    /// Peak resident memory in bytes, where it is known.
    #[serde(default)]
    pub peak_memory: Option<u64>,
    /// What held it to what it declares: `landlock abi 7, seccomp` or `none`.
    #[serde(default = "unheld")]
    pub sandbox: String,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What its program touched without declaring it, if it was traced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accesses: Vec<Access>,
    /// Whether another attempt would fail for the same reason: the sandbox
    /// refused something, or could not be had.
    #[serde(skip)]
    pub refused: bool,
}

fn unheld() -> String {
    sandbox::NONE.to_owned()
}

impl JobResult {
    /// An end of which nothing else is known.
    pub fn bare(end: End) -> Self {
        JobResult {
            format: FORMAT,
            end,
            facts: BTreeMap::new(),
            peak_memory: None,
            sandbox: unheld(),
            warnings: Vec::new(),
            accesses: Vec::new(),
            refused: false,
        }
    }
}

/// The end of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "end")]
pub enum End {
    /// It did its work; whether every output is there is for the caller to see.
    Finished,
    /// It could not.
    Failed {
        /// Why.
        error: StepError,
    },
    /// It was asked to stop.
    Cancelled,
}

/// What a job is given besides its inputs.
#[derive(Debug, Clone, Default)]
pub struct Share {
    /// How many threads may be used.
    pub threads: usize,
    /// The variables that tell of GPUs and the like.
    pub variables: BTreeMap<String, String>,
    /// Where to keep what another attempt goes on from.
    pub checkpoint: Option<Checkpoint>,
}

/// Where programs look for how many threads they may use.
const THREADS: &str = "OMP_NUM_THREADS";

/// Where a program finds its checkpoint folder.
const CHECKPOINT: &str = "RETUNE_CHECKPOINT";

/// The job of a step: built-in kinds are handed their parameters, others give
/// the program to start.
pub fn prepare(
    registry: &Registry,
    node: &Node,
    manifest: &Manifest,
    inputs: Vec<Input>,
    work: &WorkFolder,
    project: &Path,
    share: Share,
) -> Result<Job, StepError> {
    let kind = registry
        .get(&node.kind)
        .ok_or_else(|| StepError::new(format!("there is no kind {}", node.kind)))?;
    let program = kind.program(
        &node.params,
        &Context {
            inputs: &inputs,
            out: &work.out(),
            checkpoint: share.checkpoint.as_ref(),
            threads: share.threads,
            cancel: &AtomicBool::new(false),
            sink: &mut (),
            facts: BTreeMap::new(),
        },
    );
    let mut environment = share.variables;
    environment.insert(THREADS.to_owned(), share.threads.to_string());
    if let Some(place) = &share.checkpoint {
        let folder = place.folder.to_string_lossy().into_owned();
        environment.insert(CHECKPOINT.to_owned(), folder);
    }
    let set = manifest.environment.iter();
    environment.extend(set.filter_map(|(name, value)| Some((name.clone(), value.clone()?))));
    Ok(Job {
        format: FORMAT,
        step: node.name.to_string(),
        project: project.to_owned(),
        kind: node.kind.clone(),
        version: node.version,
        params: node.params.clone(),
        checkpoint: share.checkpoint,
        threads: share.threads,
        environment,
        program: program.transpose()?,
        trace: false,
        inputs,
    })
}

/// A job's folder: `job.json`, `result.json`, `log`, `out/` and `tmp/`.
#[derive(Debug, Clone)]
pub struct WorkFolder(PathBuf);

impl WorkFolder {
    /// Makes a fresh folder; whatever was there is removed.
    pub fn create(path: PathBuf) -> Result<Self, FileError> {
        files::remove(&path)?;
        let folder = WorkFolder(path);
        files::create_dir(&folder.out())?;
        files::create_dir(&folder.tmp())?;
        Ok(folder)
    }

    /// The folder at a path, as an event tells it.
    pub fn at(path: PathBuf) -> Self {
        WorkFolder(path)
    }

    /// The folder that holds a job file.
    pub fn of_job(job: &Path) -> Self {
        WorkFolder(job.parent().unwrap_or(Path::new(".")).to_owned())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The job.
    pub fn job(&self) -> PathBuf {
        self.0.join("job.json")
    }

    /// The result.
    pub fn result(&self) -> PathBuf {
        self.0.join("result.json")
    }

    /// What a program is held to.
    pub(super) fn guard(&self) -> PathBuf {
        self.0.join("guard")
    }

    /// What it touched beside.
    pub(super) fn report(&self) -> PathBuf {
        self.0.join("report.json")
    }

    /// Everything the process printed.
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Where the outputs are written.
    pub fn out(&self) -> PathBuf {
        self.0.join("out")
    }

    /// For temporary files.
    pub fn tmp(&self) -> PathBuf {
        self.0.join("tmp")
    }

    /// Removes the folder and all in it.
    pub fn remove(&self) -> Result<(), FileError> {
        files::remove(&self.0)
    }

    /// Empties the folder for the next job, but for an empty log.
    fn clear(&self) -> Result<(), FileError> {
        for (path, ty) in entries(&self.0)? {
            let name = path.file_name();
            if ty.is_dir() && (name == Some("out".as_ref()) || name == Some("tmp".as_ref())) {
                for (path, _) in entries(&path)? {
                    files::remove(&path)?;
                }
            } else if !(ty.is_file() && path == self.log() && is_empty(&path)) {
                files::remove(&path)?;
            }
        }
        Ok(())
    }

    /// Whether the folders of an emptied folder are as they were made.
    fn is_fresh(&self, mode: u32) -> bool {
        [self.out(), self.tmp()].iter().all(|folder| {
            let stat = Stat::of(folder);
            stat.is_ok_and(|stat| stat.is_dir() && stat.mode == mode)
        })
    }
}

fn is_empty(file: &Path) -> bool {
    std::fs::symlink_metadata(file).is_ok_and(|meta| meta.len() == 0)
}

fn entries(folder: &Path) -> Result<Vec<(PathBuf, FileType)>, FileError> {
    let entries = std::fs::read_dir(folder).on("list", folder)?;
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.on("list", folder)?;
        Ok((entry.path(), entry.file_type().on("list", folder)?))
    };
    entries.map(entry).collect()
}

/// The work folders of a run. Making and removing one costs more than starting
/// a program, so that a step gets one that another has left, emptied.
pub struct WorkFolders {
    /// The path of each, but for a number.
    stem: PathBuf,
    made: usize,
    free: Vec<WorkFolder>,
    /// The mode of folders in a new one.
    mode: Option<u32>,
}

impl WorkFolders {
    /// Work folders in `folder` for the run of that name.
    pub fn new(folder: PathBuf, run: &str) -> Self {
        WorkFolders {
            stem: folder.join(run),
            made: 0,
            free: Vec::new(),
            mode: None,
        }
    }

    /// An empty work folder.
    pub fn take(&mut self) -> Result<WorkFolder, FileError> {
        if let Some(folder) = self.free.pop() {
            return Ok(folder);
        }
        self.made += 1;
        let mut path = self.stem.clone().into_os_string();
        path.push(format!("-{}", self.made));
        let folder = WorkFolder::create(path.into())?;
        self.mode = Stat::of(&folder.out()).ok().map(|stat| stat.mode);
        Ok(folder)
    }

    /// Takes a folder back of which nothing is needed any more.
    pub fn give_back(&mut self, folder: WorkFolder) {
        let fresh = |mode| folder.clear().is_ok() && folder.is_fresh(mode);
        if self.mode.is_some_and(fresh) {
            self.free.push(folder);
        } else {
            // What cannot be removed now is at the start of a later run.
            let _ = folder.remove();
        }
    }

    /// Removes the folders that nobody has.
    pub fn remove(&mut self) {
        for folder in self.free.drain(..) {
            // See above.
            let _ = folder.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn folders() -> (tempfile::TempDir, WorkFolders) {
        let space = tempfile::tempdir().unwrap();
        let folders = WorkFolders::new(space.path().join("work"), "run");
        (space, folders)
    }

    /// Whether there is nothing but the two empty folders.
    fn is_as_made(folder: &WorkFolder) -> bool {
        let names = entries(folder.path()).unwrap();
        let inside = |path: PathBuf| entries(&path).unwrap().len();
        names.len() == 2 && inside(folder.out()) + inside(folder.tmp()) == 0
    }

    #[test]
    fn a_folder_is_used_again_without_what_was_in_it() {
        let (_space, mut folders) = folders();
        let first = folders.take().unwrap();
        assert!(is_as_made(&first));
        fs::write(first.log(), "said").unwrap();
        fs::write(first.result(), "{}").unwrap();
        fs::create_dir_all(first.out().join("a/b")).unwrap();
        fs::set_permissions(first.out().join("a"), PermissionsExt::from_mode(0o500)).unwrap();
        fs::write(first.tmp().join(".x"), "").unwrap();
        let path = first.path().to_owned();
        folders.give_back(first);
        let again = folders.take().unwrap();
        assert_eq!(again.path(), path);
        assert!(is_as_made(&again));
        let other = folders.take().unwrap();
        assert_ne!(other.path(), path);
        folders.give_back(other);
        folders.give_back(again);
        folders.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_that_a_step_has_spoilt_is_not_used_again() {
        let spoil: [fn(&WorkFolder); 3] = [
            |work| {
                fs::remove_dir(work.out()).unwrap();
                symlink("/tmp", work.out()).unwrap();
            },
            |work| fs::set_permissions(work.tmp(), PermissionsExt::from_mode(0o700)).unwrap(),
            |work| fs::remove_dir_all(work.path()).unwrap(),
        ];
        for spoil in spoil {
            let (_space, mut folders) = folders();
            let work = folders.take().unwrap();
            spoil(&work);
            folders.give_back(work);
            assert!(is_as_made(&folders.take().unwrap()));
            assert_eq!(folders.made, 2);
        }
    }
}
