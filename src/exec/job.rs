//! The one door for execution: a job that a process is handed, and the result it leaves behind.
//!
//! Both are JSON files in the step's work folder, so that a process started by
//! anything (this program, a cluster's scheduler) can do the work. The result
//! file, never an exit code alone, says how a built-in kind ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::{self, FileError};
use crate::graph::Node;
use crate::pipeline::StepName;
use crate::plan::Manifest;
use crate::step::{Checkpoint, Context, Input, Params, Program, Registry, StepError};

/// The version of both files. 2: `checkpoint` says how often to write.
pub const FORMAT: u32 = 2;

/// What a process is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The version of the format.
    pub format: u32,
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
        kind: node.kind.clone(),
        version: node.version,
        params: node.params.clone(),
        checkpoint: share.checkpoint,
        threads: share.threads,
        environment,
        program: program.transpose()?,
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
        Ok(folder)
    }

    /// Where the work folder of a step in a run is.
    pub fn place(cache: &Path, run: &str, step: &StepName) -> Self {
        WorkFolder(cache.join("work").join(format!("{run}-{}", step.file())))
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
}
