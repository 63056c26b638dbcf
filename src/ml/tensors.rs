//! Named f32 tensors and their safetensors files, whose bytes are stable.
//!
//! The header is written here, sorted and with one metadata entry: the
//! `safetensors` crate keeps metadata in a hash map, which would give a file
//! another digest in every process.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::files::{self, FileError, PathContext};

/// The position of a tensor in a [`Tensors`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TensorId(usize);

impl TensorId {
    /// The place in [`Tensors::iter`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// One named tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// As in files.
    pub name: String,
    /// Sizes, the slowest first.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: Vec<f32>,
}

/// A list of named tensors: weights, their gradients, an optimizer's moments.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tensors(Vec<Tensor>);

/// A safetensors file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is cut off or not a safetensors file at all.
    #[error("failed to read {}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        message: String,
    },
    /// A tensor that the configuration asks for is not there.
    #[error("{}: the tensor '{name}' is missing; is a file of the model not here, or config.json that of another one?", path.display())]
    Missing {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor is there that the configuration does not ask for.
    #[error("{}: the tensor '{name}' has no place in a model as config.json describes it", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{}: the tensor '{name}' has shape {found:?}, not {wanted:?} as the configuration says; use the configuration it was saved with", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// In the file.
        found: Vec<usize>,
        /// By the configuration.
        wanted: Vec<usize>,
    },
    /// A tensor is of a type that cannot be widened to f32.
    #[error("{}: the tensor '{name}' is {dtype}, not f32, f16 or bf16", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
}

impl Tensors {
    /// Adds a tensor of zeros.
    pub fn push(&mut self, name: String, shape: Vec<usize>) -> TensorId {
        let data = vec![0.0; shape.iter().product()];
        self.0.push(Tensor { name, shape, data });
        TensorId(self.0.len() - 1)
    }

    /// The same names and shapes, filled with zeros.
    pub fn zeros_like(&self) -> Self {
        let mut zeros = Tensors::default();
        for tensor in &self.0 {
            zeros.push(tensor.name.clone(), tensor.shape.clone());
        }
        zeros
    }

    /// Sets every element to 0.
    pub fn clear(&mut self) {
        for tensor in &mut self.0 {
            tensor.data.fill(0.0);
        }
    }

    /// Number of elements in all tensors.
    pub fn elements(&self) -> usize {
        let elements = |tensor: &Tensor| tensor.shape.iter().product::<usize>();
        self.0.iter().map(elements).sum()
    }

    /// The values of a tensor.
    pub fn get(&self, id: TensorId) -> &[f32] {
        &self.0[id.0].data
    }

    /// The values of a tensor, to change.
    pub fn get_mut(&mut self, id: TensorId) -> &mut [f32] {
        &mut self.0[id.0].data
    }

    /// A tensor with its name.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.0[id.0]
    }

    /// All tensors in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Tensor> {
        self.0.iter()
    }

    /// All tensors in their order, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.0.iter_mut()
    }

    /// Writes all tensors, sorted by name, as f32.
    pub fn write(&self, path: &Path) -> Result<(), TensorError> {
        let mut sorted: Vec<&Tensor> = self.0.iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        let mut out = BufWriter::new(files::create(path)?);
        let header = header(&sorted);
        let mut write = |bytes: &[u8]| out.write_all(bytes).on("write", path);
        write(&(header.len() as u64).to_le_bytes())?;
        write(header.as_bytes())?;
        for tensor in sorted {
            for value in &tensor.data {
                write(&value.to_le_bytes())?;
            }
        }
        out.flush().on("write", path)?;
        Ok(())
    }

    /// Fills every tensor from the safetensors files in `paths`, f16 and bf16
    /// widened. Tensors of the files that are not wanted are left alone.
    pub fn read(&mut self, paths: &[PathBuf]) -> Result<(), TensorError> {
        let mut missing: BTreeSet<usize> = (0..self.0.len()).collect();
        for path in paths {
            let bytes = files::read(path)?;
            let file = parse(path, &bytes)?;
            for i in missing.clone() {
                if let Ok(view) = file.tensor(&self.0[i].name) {
                    fill(path, &mut self.0[i], &view)?;
                    missing.remove(&i);
                }
            }
        }
        match missing.first() {
            None => Ok(()),
            Some(i) => Err(TensorError::Missing {
                path: paths.first().cloned().unwrap_or_default(),
                name: self.0[*i].name.clone(),
            }),
        }
    }
}

/// The files that hold a model's tensors: one, or those of a sharded model's index.
pub fn model_files(model: &Path) -> Result<Vec<PathBuf>, TensorError> {
    let index = model.join("model.safetensors.index.json");
    if !index.exists() {
        return Ok(vec![model.join("model.safetensors")]);
    }
    let text = files::read_text(&index)?;
    let bad = |message: &str| TensorError::Format {
        path: index.clone(),
        message: message.to_owned(),
    };
    let value: Value = serde_json::from_str(&text).map_err(|e| bad(&e.to_string()))?;
    let map = value["weight_map"].as_object();
    let map = map.ok_or_else(|| bad("the field `weight_map` is missing"))?;
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    Ok(names.into_iter().map(|name| model.join(name)).collect())
}

/// Names of the tensors in a file, sorted.
pub fn names(path: &Path) -> Result<Vec<String>, TensorError> {
    let bytes = files::read(path)?;
    let file = parse(path, &bytes)?;
    let mut names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>, TensorError> {
    SafeTensors::deserialize(bytes).map_err(|e| TensorError::Format {
        path: path.to_owned(),
        message: format!("{e}; the file may be cut off: fetch or make it again"),
    })
}

fn fill(
    path: &Path,
    tensor: &mut Tensor,
    view: &safetensors::tensor::TensorView<'_>,
) -> Result<(), TensorError> {
    if view.shape() != tensor.shape {
        return Err(TensorError::Shape {
            path: path.to_owned(),
            name: tensor.name.clone(),
            found: view.shape().to_vec(),
            wanted: tensor.shape.clone(),
        });
    }
    let data = view.data();
    let two = |widen: fn([u8; 2]) -> f32| data.chunks_exact(2).map(move |b| widen([b[0], b[1]]));
    match view.dtype() {
        Dtype::F32 => {
            for (out, b) in tensor.data.iter_mut().zip(data.chunks_exact(4)) {
                *out = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        Dtype::F16 => {
            let values = two(|b| half::f16::from_le_bytes(b).to_f32());
            tensor.data.iter_mut().zip(values).for_each(|(o, v)| *o = v);
        }
        Dtype::BF16 => {
            let values = two(|b| half::bf16::from_le_bytes(b).to_f32());
            tensor.data.iter_mut().zip(values).for_each(|(o, v)| *o = v);
        }
        dtype => {
            return Err(TensorError::Type {
                path: path.to_owned(),
                name: tensor.name.clone(),
                dtype: format!("{dtype:?}"),
            });
        }
    }
    Ok(())
}

/// The JSON header, padded with spaces to a multiple of eight bytes. The one
/// metadata entry is what other libraries ask for before they load a file.
fn header(sorted: &[&Tensor]) -> String {
    let mut text = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut at = 0;
    for tensor in sorted {
        let end = at + 4 * tensor.data.len();
        let name = Value::String(tensor.name.clone());
        let shape = &tensor.shape;
        let shape = shape.iter().map(usize::to_string).collect::<Vec<_>>();
        let shape = shape.join(",");
        let entry =
            format!(r#",{name}:{{"dtype":"F32","shape":[{shape}],"data_offsets":[{at},{end}]}}"#);
        text.push_str(&entry);
        at = end;
    }
    text.push('}');
    let width = text.len().next_multiple_of(8);
    let padding = width - text.len();
    let _ = write!(text, "{:padding$}", "");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Tensors {
        let mut tensors = Tensors::default();
        let b = tensors.push("b".into(), vec![2, 3]);
        let a = tensors.push("a".into(), vec![1]);
        tensors
            .get_mut(b)
            .copy_from_slice(&[1., 2., 3., 4., 5., 6.]);
        tensors.get_mut(a)[0] = -0.5;
        tensors
    }

    #[test]
    fn a_file_is_read_back_and_its_bytes_are_pinned() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let tensors = example();
        tensors.write(&path).unwrap();
        let mut back = tensors.zeros_like();
        back.read(std::slice::from_ref(&path)).unwrap();
        assert_eq!(back, tensors);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(
            std::str::from_utf8(&bytes[8..bytes.len() - 28])
                .unwrap()
                .trim_end(),
            r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]}}"#
        );
        assert_eq!((bytes.len() - 28) % 8, 0);
    }

    #[test]
    fn missing_cut_off_and_wrong_files_say_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        example().write(&path).unwrap();
        let paths = [path.clone()];
        let mut wanted = example();
        wanted.push("c".into(), vec![1]);
        let error = wanted.read(&paths).unwrap_err().to_string();
        assert!(error.contains("the tensor 'c' is missing;"), "{error}");
        let mut wanted = Tensors::default();
        wanted.push("b".into(), vec![3, 2]);
        let error = wanted.read(&paths).unwrap_err().to_string();
        assert!(error.contains("has shape [2, 3], not [3, 2]"), "{error}");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(matches!(
            example().read(&paths).unwrap_err(),
            TensorError::Format { .. }
        ));
    }
}
