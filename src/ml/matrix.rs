//! Frozen matrices as products read them: f32, or bf16 in half the memory, mapped from the file where it has them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kernels::{Operand, View, bf16};
use super::tensors::TensorError;
use crate::files::{self, PathContext, Stat};

/// What frozen matrices are held and multiplied in; sums, norms, biases,
/// activations and adapters are f32 in either case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE single precision.
    #[default]
    F32,
    /// The upper half of an f32: its range with 8 bits of precision.
    Bf16,
}

impl Dtype {
    /// Whether it is the default, which no key and no record mentions.
    pub fn is_f32(&self) -> bool {
        *self == Dtype::F32
    }
}

/// A safetensors file in memory that is read when it is used.
///
/// The kernel brings pages in as they are touched. If the file becomes shorter
/// meanwhile, touching what is gone ends the process by `SIGBUS`; whether it
/// was written to is what [`Mapped::unchanged`] tells. Neither passes for a result.
pub struct Mapped {
    path: PathBuf,
    file: File,
    opened: Stat,
    map: Mmap,
}

impl Mapped {
    /// Maps a file.
    pub fn open(path: &Path) -> Result<Self, TensorError> {
        let file = files::open(path)?;
        let opened = Stat::of_file(&file).on("read", path)?;
        #[expect(unsafe_code, reason = "a map of a file that others could write to")]
        // SAFETY: only bytes are read, of which all values are valid; what
        // happens when the file changes is said above.
        let map = unsafe { Mmap::map(&file) }.on("map", path)?;
        Ok(Mapped {
            path: path.to_owned(),
            file,
            opened,
            map,
        })
    }

    /// An error if the file was written to since it was opened.
    pub fn unchanged(&self) -> Result<(), TensorError> {
        let now = Stat::of_file(&self.file).on("read", &self.path)?;
        let same = |stat: &Stat| (stat.size, stat.mtime_ns);
        match same(&now) == same(&self.opened) {
            true => Ok(()),
            false => Err(TensorError::Format {
                path: self.path.clone(),
                message: "it was changed while it was in use; begin again".to_owned(),
            }),
        }
    }
}

/// A matrix of bf16, row-major.
pub struct Half {
    rows: usize,
    cols: usize,
    storage: Storage,
}

enum Storage {
    Owned(Vec<u16>),
    Mapped { file: Arc<Mapped>, from: usize },
}

impl Half {
    /// A matrix of bf16 bits.
    pub fn new(rows: usize, cols: usize, data: Vec<u16>) -> Self {
        assert_eq!(data.len(), rows * cols, "a matrix has its elements");
        let storage = Storage::Owned(data);
        Half {
            rows,
            cols,
            storage,
        }
    }

    /// The nearest matrix to one of f32, ties to even.
    pub fn rounded(rows: usize, cols: usize, data: &[f32]) -> Self {
        let mut half = vec![0; data.len()];
        bf16::round_all(data, &mut half);
        Half::new(rows, cols, half)
    }

    /// A matrix that begins at byte `from` of a file; none where its elements
    /// do not lie as this processor reads them.
    pub fn mapped(rows: usize, cols: usize, file: &Arc<Mapped>, from: usize) -> Option<Self> {
        let bytes = file.map.get(from..from + 2 * rows * cols)?;
        let fits =
            cfg!(target_endian = "little") && bytemuck::try_cast_slice::<u8, u16>(bytes).is_ok();
        let file = Arc::clone(file);
        let storage = Storage::Mapped { file, from };
        fits.then_some(Half {
            rows,
            cols,
            storage,
        })
    }

    /// Its elements as bits.
    pub fn data(&self) -> &[u16] {
        match &self.storage {
            Storage::Owned(data) => data,
            Storage::Mapped { file, from } => {
                bytemuck::cast_slice(&file.map[*from..from + 2 * self.rows * self.cols])
            }
        }
    }

    /// As the right side of a product.
    pub fn operand(&self) -> Operand<'_> {
        Operand::Bf16(View::new(self.data(), self.rows, self.cols))
    }

    /// One row in f32.
    pub fn row(&self, row: usize) -> impl Iterator<Item = f32> {
        let data = &self.data()[row * self.cols..][..self.cols];
        data.iter().map(|bits| bf16::widen(*bits))
    }

    /// The file it is mapped from.
    pub fn file(&self) -> Option<&Arc<Mapped>> {
        match &self.storage {
            Storage::Owned(_) => None,
            Storage::Mapped { file, .. } => Some(file),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_to_while_it_is_mapped_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, [0x80, 0x3f, 0x00, 0x40]).unwrap();
        let file = Arc::new(Mapped::open(&path).unwrap());
        let half = Half::mapped(1, 2, &file, 0).unwrap();
        assert_eq!(half.row(0).collect::<Vec<_>>(), [1.0, 2.0]);
        file.unchanged().unwrap();
        let longer = [0x80, 0x3f, 0x00, 0x40, 0, 0];
        std::fs::write(&path, longer).unwrap();
        let error = file.unchanged().unwrap_err().to_string();
        assert!(error.contains("was changed while it was in use"), "{error}");
    }

    #[test]
    fn a_matrix_that_lies_askew_or_beyond_the_file_is_not_mapped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, [0; 9]).unwrap();
        let file = Arc::new(Mapped::open(&path).unwrap());
        assert!(Half::mapped(2, 2, &file, 0).is_some());
        assert!(Half::mapped(2, 2, &file, 1).is_none());
        assert!(Half::mapped(2, 2, &file, 2).is_none());
    }
}
