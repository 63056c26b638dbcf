//! Checkpoints of a training run: all that an interrupted run needs to go on with the same bits.
//!
//! Order, dropout and initial values are functions of a seed and of the step,
//! so that the place in the run stands for the generator's state as well.
//!
//! `training.state`, format 2: the line `retune training 2`, the digest that
//! binds it to one run, the length of a JSON head and the head, the trained
//! tensors, the best ones so far where the run keeps them, and the optimizer's
//! moments, all as little-endian f32 or bytes in the head's order, and the
//! blake3 of all that. (1 had no best tensors and no bytes.)
//!
//! The run waits until its state is in the system's hands, which hashes and
//! copies it once; that it gets to the disk is another thread's to wait for.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::optim::{Optimizer, Part, PartMut};
use super::saved::Kept;
use super::stopping::Watch;
use super::summary::{LogLine, Summary};
use super::tensors::Tensors;
use crate::files::{self, FileError, PathContext};
use crate::hash::{Digest, Running};

const MAGIC: &[u8] = b"retune training 2\n";
const DIGEST: usize = 32;

/// A run may wait for its checkpoints at most one part of its time in so many.
const SHARE: u32 = 100;

/// Values that are turned into bytes at once.
const PIECE: usize = 16 << 10;

/// How often a run writes a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cadence {
    /// At most so often, and less often where it would take more than a
    /// hundredth of the time; after each step when it is zero.
    Time(Duration),
    /// After every so many steps, whatever it takes.
    Steps(u64),
}

/// Where a run stands after a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Steps done.
    pub step: u64,
    /// Micro-batches done.
    pub micro_batch: u64,
    /// What the run came to so far.
    pub summary: Summary,
    /// The lines of the log so far.
    pub lines: Vec<LogLine>,
    /// What its validations came to.
    pub watch: Watch,
    /// The intermediate results that are there.
    pub results: Vec<Kept>,
}

/// The place where one run keeps its checkpoints.
pub struct Checkpoints {
    folder: PathBuf,
    binding: Digest,
    every: Cadence,
    last: Instant,
    cost: Duration,
    waited: Duration,
    /// The step of the checkpoint that is there.
    saved: Option<u64>,
    found: Option<Found>,
    /// The step of one that is on its way to the disk.
    pending: Option<(u64, JoinHandle<Result<(), FileError>>)>,
}

/// A checkpoint that was read.
struct Found {
    head: Head,
    data: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    position: Position,
    /// The optimizer's, as bits.
    powers: (u64, u64),
    tensors: Vec<(String, Vec<usize>)>,
    /// Whether the best tensors follow those of the last step.
    best: bool,
}

/// What a run is besides its place: all that it changes as it goes.
pub(super) struct State<'a> {
    /// What is trained.
    pub(super) params: &'a Tensors,
    /// As it was after the best validation, where the run keeps that.
    pub(super) best: Option<&'a Tensors>,
    /// The moments.
    pub(super) optimizer: &'a Optimizer,
}

/// A checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its bytes are not those that were written.
    #[error("{} is damaged", .0.display())]
    Damaged(PathBuf),
    /// It is not of this run.
    #[error("{} belongs to another run", .0.display())]
    Foreign(PathBuf),
}

impl Checkpoints {
    /// Looks for the checkpoint of the run that `binding` stands for.
    pub fn open(folder: &Path, binding: Digest, every: Cadence) -> (Self, Result<(), Unusable>) {
        let (found, outcome) = match read(&folder.join("training.state"), binding) {
            Ok(found) => (found, Ok(())),
            Err(error) => (None, Err(error)),
        };
        let checkpoints = Checkpoints {
            folder: folder.to_owned(),
            binding,
            every,
            last: Instant::now(),
            cost: Duration::ZERO,
            waited: Duration::ZERO,
            saved: None,
            found,
            pending: None,
        };
        (checkpoints, outcome)
    }

    /// The folder, which a run may keep other things in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The place in the run that the checkpoint that was found is of.
    pub(super) fn found(&self) -> Option<&Position> {
        self.found.as_ref().map(|found| &found.head.position)
    }

    /// Does not use the checkpoint that was found.
    pub(super) fn forget(&mut self) {
        self.found = None;
    }

    /// Puts the checkpoint that was found into a run's tensors and optimizer;
    /// gives where the run stands then, and its best tensors.
    pub(super) fn resume(
        &mut self,
        params: &mut Tensors,
        optimizer: &mut Optimizer,
    ) -> Option<(Position, Option<Tensors>)> {
        let Found { head, data } = self.found.take()?;
        if shapes(params) != head.tensors {
            return None;
        }
        let mut best = head.best.then(|| params.zeros_like());
        let floats = |tensors: &Tensors| 4 * tensors.elements();
        let wanted = floats(params) + best.as_ref().map_or(0, floats) + optimizer.bytes();
        if data.len() != wanted {
            return None;
        }
        let tensors = [Some(params), best.as_mut()].into_iter().flatten();
        let values = tensors.flat_map(Tensors::iter_mut);
        let mut parts: Vec<PartMut<'_>> = values
            .map(|tensor| PartMut::Floats(&mut tensor.data))
            .collect();
        parts.extend(optimizer.parts_mut());
        fill(parts, &data);
        let (one, two) = head.powers;
        optimizer.set_powers((f64::from_bits(one), f64::from_bits(two)));
        self.saved = Some(head.position.step);
        Some((head.position, best))
    }

    /// Whether another one is to be written after this step.
    pub(super) fn due(&self, step: u64) -> bool {
        match self.every {
            Cadence::Steps(steps) => step.is_multiple_of(steps.max(1)),
            Cadence::Time(Duration::ZERO) => true,
            Cadence::Time(every) => self.last.elapsed() >= every.max(self.cost * (SHARE - 1)),
        }
    }

    /// Writes a checkpoint, unless that of this step is there already. An
    /// error may be that of the one before.
    pub(super) fn save(&mut self, position: &Position, state: State<'_>) -> Result<(), FileError> {
        let started = Instant::now();
        let before = self.settle();
        if position.step == 0 || self.saved == Some(position.step) {
            return before;
        }
        let written = self.write(position, state);
        // Also after a failure: a full disk is not to be tried at every step.
        self.last = Instant::now();
        self.cost = self.last - started;
        self.waited += self.cost;
        let file = written?;
        let (temporary, path) = (self.temporary(), self.folder.join("training.state"));
        let work = move || {
            file.sync_data().on("sync", &temporary)?;
            files::rename(&temporary, &path)
        };
        self.pending = Some((position.step, thread::spawn(work)));
        before
    }

    /// How long the run has waited for its checkpoints.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// The step of the checkpoint that is on the disk.
    pub(super) fn settled(&self) -> Option<u64> {
        self.saved
    }

    /// Waits until the checkpoint that was written last is on the disk.
    pub(super) fn settle(&mut self) -> Result<(), FileError> {
        let Some((step, thread)) = self.pending.take() else {
            return Ok(());
        };
        let ended = thread.join().unwrap_or_else(|_| {
            Err(std::io::Error::other("the thread ended")).on("sync", &self.temporary())
        });
        ended.map(|()| self.saved = Some(step))
    }

    fn temporary(&self) -> PathBuf {
        self.folder.join("training.tmp")
    }

    fn write(&self, position: &Position, state: State<'_>) -> Result<File, FileError> {
        let path = self.temporary();
        let (one, two) = state.optimizer.powers();
        let head = Head {
            position: position.clone(),
            powers: (one.to_bits(), two.to_bits()),
            tensors: shapes(state.params),
            best: state.best.is_some(),
        };
        let head = serde_json::to_vec(&head).expect("plain data");
        let mut out = BufWriter::with_capacity(4 * PIECE, files::create(&path)?);
        let mut hash = Running::default();
        let mut write = |bytes: &[u8]| {
            hash.update(bytes);
            out.write_all(bytes).on("write", &path)
        };
        write(MAGIC)?;
        write(self.binding.as_bytes())?;
        write(&(head.len() as u64).to_le_bytes())?;
        write(&head)?;
        let mut bytes = Vec::with_capacity(4 * PIECE);
        for part in state.parts() {
            match part {
                Part::Bytes(codes) => write(codes)?,
                Part::Floats(values) => {
                    for values in values.chunks(PIECE) {
                        bytes.clear();
                        bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
                        write(&bytes)?;
                    }
                }
            }
        }
        let check = hash.digest();
        out.write_all(check.as_bytes()).on("write", &path)?;
        out.into_inner()
            .map_err(|e| e.into_error())
            .on("write", &path)
    }
}

impl State<'_> {
    /// All of it in the order of the file.
    fn parts(&self) -> Vec<Part<'_>> {
        let tensors = [Some(self.params), self.best].into_iter().flatten();
        let values = tensors.flat_map(Tensors::iter);
        let mut parts: Vec<Part<'_>> = values.map(|tensor| Part::Floats(&tensor.data)).collect();
        parts.extend(self.optimizer.parts());
        parts
    }
}

impl Drop for Checkpoints {
    /// Nobody writes into the folder any more when this is gone.
    fn drop(&mut self) {
        let _ = self.settle();
    }
}

/// Fills pieces, one behind the other, from bytes that are as many.
fn fill(parts: Vec<PartMut<'_>>, mut data: &[u8]) {
    for part in parts {
        match part {
            PartMut::Floats(values) => {
                let (own, rest) = data.split_at(4 * values.len());
                for (value, b) in values.iter_mut().zip(own.chunks_exact(4)) {
                    *value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
                data = rest;
            }
            PartMut::Bytes(codes) => {
                let (own, rest) = data.split_at(codes.len());
                codes.copy_from_slice(own);
                data = rest;
            }
        }
    }
}

fn shapes(tensors: &Tensors) -> Vec<(String, Vec<usize>)> {
    let shape = |tensor: &super::tensors::Tensor| (tensor.name.clone(), tensor.shape.clone());
    tensors.iter().map(shape).collect()
}

/// Reads a checkpoint; none if there is none.
fn read(path: &Path, binding: Digest) -> Result<Option<Found>, Unusable> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).on("open", path)?,
    };
    let damaged = || Unusable::Damaged(path.to_owned());
    let size = file.metadata().on("read", path)?.len();
    let body = size.checked_sub(DIGEST as u64).ok_or_else(damaged)?;
    let (found, _) = Digest::of_reader((&file).take(body)).on("read", path)?;
    let mut check = [0; DIGEST];
    (&file).read_exact(&mut check).on("read", path)?;
    if found.as_bytes() != &check {
        return Err(damaged());
    }
    let bytes = BufReader::new(files::open(path)?).take(body);
    parse(bytes, binding)
        .ok_or_else(damaged)?
        .ok_or_else(|| Unusable::Foreign(path.to_owned()))
        .map(Some)
}

/// None for what no program of ours wrote; within that, none for another run's.
fn parse(mut bytes: impl Read, binding: Digest) -> Option<Option<Found>> {
    let mut magic = [0; MAGIC.len()];
    bytes.read_exact(&mut magic).ok()?;
    let mut bound = [0; DIGEST];
    bytes.read_exact(&mut bound).ok()?;
    if magic != MAGIC || bound != *binding.as_bytes() {
        return Some(None);
    }
    let mut length = [0; 8];
    bytes.read_exact(&mut length).ok()?;
    let mut head = Vec::new();
    let length = u64::from_le_bytes(length);
    (&mut bytes).take(length).read_to_end(&mut head).ok()?;
    let head: Head = serde_json::from_slice(&head).ok()?;
    let mut data = Vec::new();
    bytes.read_to_end(&mut data).ok()?;
    Some(Some(Found { head, data }))
}
