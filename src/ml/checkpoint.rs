//! Checkpoints of a training run: all that an interrupted run needs to go on with the same bits.
//!
//! Order, dropout and initial values are functions of a seed and of the step,
//! so that the place in the run stands for the generator's state as well.
//!
//! `training.state`, format 1: the line `retune training 1`, the digest that
//! binds it to one run, the length of a JSON head and the head, the trained
//! tensors and both moments of the optimizer as little-endian f32 in the
//! head's order, and the blake3 of all that.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::optim::Optimizer;
use super::tensors::Tensors;
use super::train::{LogLine, Summary};
use crate::files::{self, FileError, PathContext};
use crate::hash::Digest;

const MAGIC: &[u8] = b"retune training 1\n";
const DIGEST: usize = 32;

/// Writing may take at most one part of the time in so many.
const SHARE: u32 = 20;

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
}

/// The place where one run keeps its checkpoints.
pub struct Checkpoints {
    folder: PathBuf,
    binding: Digest,
    every: Duration,
    last: Instant,
    cost: Duration,
    /// The step of the checkpoint that is there.
    saved: Option<u64>,
    found: Option<Found>,
}

/// A checkpoint that was read.
struct Found {
    head: Head,
    data: Vec<f32>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    position: Position,
    /// The optimizer's, as bits.
    powers: (u64, u64),
    tensors: Vec<(String, Vec<usize>)>,
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
    /// Looks for the checkpoint of the run that `binding` stands for; writes
    /// one at most `every` so often, and never so often that it takes more
    /// than a twentieth of the time, unless `every` is zero: after each step then.
    pub fn open(folder: &Path, binding: Digest, every: Duration) -> (Self, Result<(), Unusable>) {
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
            saved: None,
            found,
        };
        (checkpoints, outcome)
    }

    /// Puts the checkpoint that was found into a run's tensors and optimizer;
    /// gives where the run stands then.
    pub(super) fn resume(
        &mut self,
        params: &mut Tensors,
        optimizer: &mut Optimizer,
    ) -> Option<Position> {
        let Found { head, data } = self.found.take()?;
        let shapes = shapes(params);
        if shapes != head.tensors || data.len() != 3 * params.elements() {
            return None;
        }
        let mut rest = &data[..];
        let (first, second) = optimizer.moments_mut();
        for tensors in [params, first, second] {
            for tensor in tensors.iter_mut() {
                let (own, others) = rest.split_at(tensor.data.len());
                tensor.data.copy_from_slice(own);
                rest = others;
            }
        }
        let (one, two) = head.powers;
        optimizer.set_powers((f64::from_bits(one), f64::from_bits(two)));
        self.saved = Some(head.position.step);
        Some(head.position)
    }

    /// Whether the time has come for another one.
    pub(super) fn due(&self) -> bool {
        let pause = match self.every.is_zero() {
            true => Duration::ZERO,
            false => self.every.max(self.cost * (SHARE - 1)),
        };
        self.last.elapsed() >= pause
    }

    /// Writes a checkpoint, unless that of this step is there already.
    pub(super) fn save(
        &mut self,
        position: &Position,
        params: &Tensors,
        optimizer: &Optimizer,
    ) -> Result<(), FileError> {
        if position.step == 0 || self.saved == Some(position.step) {
            return Ok(());
        }
        let started = Instant::now();
        let written = self.write(position, params, optimizer);
        // Also after a failure: a full disk is not to be tried at every step.
        self.last = Instant::now();
        self.cost = self.last - started;
        written.map(|()| self.saved = Some(position.step))
    }

    fn write(
        &self,
        position: &Position,
        params: &Tensors,
        optimizer: &Optimizer,
    ) -> Result<(), FileError> {
        let path = self.folder.join("training.tmp");
        let (one, two) = optimizer.powers();
        let head = Head {
            position: position.clone(),
            powers: (one.to_bits(), two.to_bits()),
            tensors: shapes(params),
        };
        let head = serde_json::to_vec(&head).expect("plain data");
        let mut out = BufWriter::new(files::create(&path)?);
        let mut write = |bytes: &[u8]| out.write_all(bytes).on("write", &path);
        write(MAGIC)?;
        write(self.binding.as_bytes())?;
        write(&(head.len() as u64).to_le_bytes())?;
        write(&head)?;
        let (first, second) = optimizer.moments();
        for tensor in [params, first, second].into_iter().flat_map(Tensors::iter) {
            for value in &tensor.data {
                write(&value.to_le_bytes())?;
            }
        }
        out.flush().on("write", &path)?;
        let (check, _) = Digest::of_file(&path).on("read", &path)?;
        out.write_all(check.as_bytes()).on("write", &path)?;
        let file = out
            .into_inner()
            .map_err(|e| e.into_error())
            .on("write", &path)?;
        file.sync_data().on("sync", &path)?;
        files::rename(&path, &self.folder.join("training.state"))
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
    let sizes = head
        .tensors
        .iter()
        .map(|(_, shape)| shape.iter().product::<usize>());
    let mut data = Vec::with_capacity(3 * sizes.sum::<usize>());
    let mut value = [0; 4];
    while bytes.read_exact(&mut value).is_ok() {
        data.push(f32::from_le_bytes(value));
    }
    Some(Some(Found { head, data }))
}
