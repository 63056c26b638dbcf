//! Safetensors files one tensor at a time and in their own types, for weights that need not fit into memory together.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::Value;

use super::tensors::TensorError;
use crate::files::{self, FileError, PathContext};

/// A header above this is damage, not data; as the format's own crate has it.
const LONGEST_HEADER: u64 = 100_000_000;

/// A safetensors file to read from.
pub struct Source {
    path: PathBuf,
    file: File,
    /// Where the data begins.
    start: u64,
    tensors: BTreeMap<String, TensorInfo>,
    format: Option<String>,
}

impl Source {
    /// Reads the header.
    pub fn open(path: &Path) -> Result<Self, TensorError> {
        let bad = |message: &str| TensorError::Format {
            path: path.to_owned(),
            message: format!("{message}; the file may be cut off"),
        };
        let mut file = files::open(path)?;
        let length = file.metadata().on("read", path)?.len();
        let mut head = [0; 8];
        if length < 8 {
            return Err(bad("it is shorter than a header"));
        }
        file.read_exact(&mut head).on("read", path)?;
        let n = u64::from_le_bytes(head);
        if n > LONGEST_HEADER || n > length - 8 {
            return Err(bad("its header is longer than itself"));
        }
        let mut header = vec![0; n as usize];
        file.read_exact(&mut header).on("read", path)?;
        let header: Metadata = serde_json::from_slice(&header).map_err(|e| bad(&e.to_string()))?;
        let start = 8 + n;
        if start + header.data_len() as u64 != length {
            return Err(bad("its length is not what its header says"));
        }
        let tensors = header.tensors().into_iter();
        let format = header.metadata().as_ref().and_then(|all| all.get("format"));
        Ok(Source {
            path: path.to_owned(),
            file,
            start,
            tensors: tensors.map(|(name, info)| (name, info.clone())).collect(),
            format: format.cloned(),
        })
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The library the file says it is for.
    pub fn format(&self) -> Option<&str> {
        self.format.as_deref()
    }

    /// The bytes of a tensor.
    pub fn read(&mut self, name: &str) -> Result<Vec<u8>, TensorError> {
        let info = self.tensors.get(name).ok_or_else(|| TensorError::Missing {
            path: self.path.clone(),
            name: name.to_owned(),
        })?;
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        let at = SeekFrom::Start(self.start + from as u64);
        self.file.seek(at).on("seek in", &self.path)?;
        self.file.read_exact(&mut bytes).on("read", &self.path)?;
        Ok(bytes)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a tensor of that name, which must have that shape.
    pub fn has(&self, name: &str, wanted: &[usize]) -> Result<bool, TensorError> {
        match self.tensors.get(name) {
            None => Ok(false),
            Some(info) if info.shape == wanted => Ok(true),
            Some(info) => Err(TensorError::Shape {
                path: self.path.clone(),
                name: name.to_owned(),
                found: info.shape.clone(),
                wanted: wanted.to_vec(),
            }),
        }
    }

    /// The byte of the file at which a tensor begins that is bf16.
    pub fn place_of_bf16(&self, name: &str) -> Option<usize> {
        let info = self.tensors.get(name)?;
        let from = self.start as usize + info.data_offsets.0;
        (info.dtype == Dtype::BF16).then_some(from)
    }

    /// A tensor of numbers into `out`, which has room for its elements.
    pub fn fill(&mut self, name: &str, out: &mut [f32]) -> Result<(), TensorError> {
        let mut at = 0;
        self.each(name, |values| {
            out[at..at + values.len()].copy_from_slice(values);
            at += values.len();
        })
    }

    /// A tensor of numbers as f32, some at a time.
    pub fn each(&mut self, name: &str, mut take: impl FnMut(&[f32])) -> Result<(), TensorError> {
        /// Bytes at a time, a multiple of every element's.
        const PART: usize = 1 << 18;
        let info = self.tensors.get(name).ok_or_else(|| TensorError::Missing {
            path: self.path.clone(),
            name: name.to_owned(),
        })?;
        let (dtype, (from, to)) = (info.dtype, info.data_offsets);
        let at = SeekFrom::Start(self.start + from as u64);
        self.file.seek(at).on("seek in", &self.path)?;
        let mut bytes = vec![0; PART.min(to - from)];
        for part in (from..to).step_by(PART) {
            let bytes = &mut bytes[..PART.min(to - part)];
            self.file.read_exact(bytes).on("read", &self.path)?;
            let values = widen(dtype, bytes).ok_or_else(|| TensorError::Type {
                path: self.path.clone(),
                name: name.to_owned(),
                dtype: format!("{dtype:?}"),
            })?;
            take(&values);
        }
        Ok(())
    }

    /// A tensor of numbers as f32.
    pub fn values(&mut self, name: &str) -> Result<Vec<f32>, TensorError> {
        let bytes = self.read(name)?;
        let dtype = self.tensors[name].dtype;
        widen(dtype, &bytes).ok_or_else(|| TensorError::Type {
            path: self.path.clone(),
            name: name.to_owned(),
            dtype: format!("{dtype:?}"),
        })
    }

    /// As [`Source::values`], of a tensor that must have this shape.
    pub fn shaped(&mut self, name: &str, wanted: &[usize]) -> Result<Vec<f32>, TensorError> {
        let found = self.tensors.get(name).map(|info| info.shape.clone());
        match found {
            Some(found) if found != wanted => Err(TensorError::Shape {
                path: self.path.clone(),
                name: name.to_owned(),
                found,
                wanted: wanted.to_vec(),
            }),
            _ => self.values(name),
        }
    }
}

/// What a tensor in a file to be written is like.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Sizes, the slowest first.
    pub shape: Vec<usize>,
}

impl Described {
    fn bytes(&self) -> usize {
        (self.shape.iter().product::<usize>() * self.dtype.bitsize()).div_ceil(8)
    }
}

/// A safetensors file to write; its bytes are a function of what is put into it.
pub struct Sink {
    path: PathBuf,
    out: BufWriter<File>,
    left: std::vec::IntoIter<usize>,
}

impl Sink {
    /// Writes the header; `tensors` must be sorted by name.
    pub fn create(path: &Path, format: &str, tensors: &[Described]) -> Result<Self, TensorError> {
        debug_assert!(tensors.is_sorted_by(|a, b| a.name < b.name));
        let header = header(format, tensors);
        let mut out = BufWriter::new(files::create(path)?);
        out.write_all(&(header.len() as u64).to_le_bytes())
            .and_then(|()| out.write_all(header.as_bytes()))
            .on("write", path)?;
        let sizes: Vec<usize> = tensors.iter().map(Described::bytes).collect();
        Ok(Sink {
            path: path.to_owned(),
            out,
            left: sizes.into_iter(),
        })
    }

    /// Writes the next tensor.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        assert_eq!(self.left.next(), Some(bytes.len()), "as in the header");
        self.out.write_all(bytes).on("write", &self.path)
    }

    /// Completes the file.
    pub fn finish(mut self) -> Result<(), FileError> {
        assert!(self.left.len() == 0, "every tensor was written");
        self.out.flush().on("write", &self.path)
    }
}

/// Bytes of a type as f32; none for types that are not floating or too wide.
pub fn widen(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let two = bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    Some(match dtype {
        Dtype::F32 => {
            let four = bytes.chunks_exact(4);
            four.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect()
        }
        Dtype::F16 => two.map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => two.map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        _ => return None,
    })
}

/// Values as bytes of a type, rounded to the nearest; none where a finite
/// value is too large for it or the type is not one of f32, f16 and bf16.
pub fn narrow(dtype: Dtype, values: &[f32]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(values.len() * dtype.bitsize() / 8);
    for value in values {
        let narrowed = match dtype {
            Dtype::F32 => {
                bytes.extend_from_slice(&value.to_le_bytes());
                *value
            }
            Dtype::F16 => {
                let half = f16::from_f32(*value);
                bytes.extend_from_slice(&half.to_le_bytes());
                half.to_f32()
            }
            Dtype::BF16 => {
                let half = bf16::from_f32(*value);
                bytes.extend_from_slice(&half.to_le_bytes());
                half.to_f32()
            }
            _ => return None,
        };
        if value.is_finite() && !narrowed.is_finite() {
            return None;
        }
    }
    Some(bytes)
}

/// The JSON header, sorted and padded to a multiple of eight bytes.
fn header(format: &str, tensors: &[Described]) -> String {
    let format = Value::String(format.to_owned());
    let mut text = format!(r#"{{"__metadata__":{{"format":{format}}}"#);
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.bytes();
        let name = Value::String(tensor.name.clone());
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        let (dtype, shape) = (dtype_name(tensor.dtype), shape.join(","));
        text.push_str(&format!(
            r#",{name}:{{"dtype":{dtype},"shape":[{shape}],"data_offsets":[{at},{end}]}}"#
        ));
        at = end;
    }
    text.push('}');
    let padding = text.len().next_multiple_of(8) - text.len();
    text.push_str(&" ".repeat(padding));
    text
}

fn dtype_name(dtype: Dtype) -> String {
    serde_json::to_string(&dtype).expect("an enum without content serializes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ml::tensors::Tensors;

    #[test]
    fn a_file_has_the_same_bytes_as_tensors_write_and_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        let mut tensors = Tensors::default();
        let id = tensors.push("a\"ä".into(), vec![2, 3]);
        tensors
            .get_mut(id)
            .copy_from_slice(&[1., -2., 3., 1e30, 0.1, -0.0]);
        tensors.push("b".into(), vec![1]);
        tensors.write(&one).unwrap();
        let described: Vec<Described> = tensors
            .iter()
            .map(|tensor| Described {
                name: tensor.name.clone(),
                dtype: Dtype::F32,
                shape: tensor.shape.clone(),
            })
            .collect();
        let mut sink = Sink::create(&two, "pt", &described).unwrap();
        for tensor in tensors.iter() {
            sink.put(&narrow(Dtype::F32, &tensor.data).unwrap())
                .unwrap();
        }
        sink.finish().unwrap();
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
        let mut source = Source::open(&two).unwrap();
        assert_eq!(source.format(), Some("pt"));
        assert_eq!(source.values("a\"ä").unwrap(), tensors.get(id));
        assert!(matches!(
            source.values("c"),
            Err(TensorError::Missing { .. })
        ));
    }

    #[test]
    fn narrow_types_round_and_refuse_what_is_too_large() {
        for dtype in [Dtype::F16, Dtype::BF16] {
            let bytes = narrow(dtype, &[1.0, -0.5, 3.140625]).unwrap();
            assert_eq!(widen(dtype, &bytes).unwrap(), [1.0, -0.5, 3.140625]);
            assert_eq!(narrow(dtype, &[f32::MAX]), None);
            assert!(narrow(dtype, &[f32::INFINITY]).is_some());
        }
        assert_eq!(narrow(Dtype::I64, &[1.0]), None);
        assert_eq!(widen(Dtype::I64, &[0; 8]), None);
    }

    #[test]
    fn a_file_cut_off_anywhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t");
        let mut tensors = Tensors::default();
        tensors.push("b".into(), vec![1]);
        tensors.write(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for n in 0..bytes.len() {
            std::fs::write(&path, &bytes[..n]).unwrap();
            assert!(Source::open(&path).is_err(), "{n}");
        }
    }
}
