//! GGUF version 3, the file format of ggml and llama.cpp: key/value pairs and named tensors.
//!
//! Little-endian throughout: the magic, the version, the numbers of tensors and
//! of pairs, the pairs, for each tensor its name, sizes (the fastest first),
//! type and place, and behind padding the data, each tensor at a multiple of
//! the alignment. f32 and f16 are all the types an adapter has.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use half::f16;

use crate::files::{self, FileError, PathContext};

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;

/// What a tensor's place is a multiple of, unless the file says otherwise.
const ALIGNMENT: usize = 32;

/// The pair that says otherwise.
const ALIGNMENT_KEY: &str = "general.alignment";

/// A value of a pair.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An unsigned number of 8 to 64 bits; written with 32.
    Unsigned(u64),
    /// A signed number.
    Signed(i64),
    /// A 32-bit floating number.
    Float(f32),
    /// A 64-bit floating number.
    Double(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(String),
    /// Values of one type.
    Array(Vec<Value>),
}

/// The values of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// 32 bits each.
    F32(Vec<f32>),
    /// 16 bits each.
    F16(Vec<f16>),
}

/// A named tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Sizes, the slowest first (the file has them the other way round).
    pub shape: Vec<usize>,
    /// Row-major.
    pub data: Data,
}

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gguf {
    /// The pairs in their order.
    pub pairs: Vec<(String, Value)>,
    /// The tensors in their order.
    pub tensors: Vec<Tensor>,
}

/// A GGUF file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is cut off, damaged or of another kind.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Data::F32(values) => values.len(),
            Data::F16(values) => values.len(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Data::F32(values) => 4 * values.len(),
            Data::F16(values) => 2 * values.len(),
        }
    }

    fn type_number(&self) -> u32 {
        match self {
            Data::F32(_) => 0,
            Data::F16(_) => 1,
        }
    }
}

impl Gguf {
    /// The value of a pair.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let pair = self.pairs.iter().find(|(name, _)| name == key);
        pair.map(|(_, value)| value)
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Writes a file; its bytes are a function of the content.
    pub fn write(&self, path: &Path) -> Result<(), GgufError> {
        let mut out = BufWriter::new(files::create(path)?);
        self.write_head(&mut out)
            .and_then(|at| self.write_data(&mut out, at))
            .and_then(|()| out.flush())
            .on("write", path)?;
        Ok(())
    }

    /// Everything before the data; how many bytes that is, without padding.
    fn write_head(&self, out: &mut BufWriter<File>) -> std::io::Result<usize> {
        let mut head = Vec::new();
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        head.extend_from_slice(&(self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            put_text(&mut head, key);
            head.extend_from_slice(&type_number(value).to_le_bytes());
            put_value(&mut head, value);
        }
        let mut at = 0;
        for tensor in &self.tensors {
            let elements = tensor.shape.iter().product::<usize>();
            assert_eq!(elements, tensor.data.len(), "{}", tensor.name);
            put_text(&mut head, &tensor.name);
            head.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            for size in tensor.shape.iter().rev() {
                head.extend_from_slice(&(*size as u64).to_le_bytes());
            }
            head.extend_from_slice(&tensor.data.type_number().to_le_bytes());
            head.extend_from_slice(&(at as u64).to_le_bytes());
            at += tensor.data.bytes().next_multiple_of(ALIGNMENT);
        }
        out.write_all(&head)?;
        Ok(head.len())
    }

    fn write_data(&self, out: &mut BufWriter<File>, head: usize) -> std::io::Result<()> {
        let pad = |out: &mut BufWriter<File>, written: usize| {
            let padding = written.next_multiple_of(ALIGNMENT) - written;
            out.write_all(&[0; ALIGNMENT][..padding])
        };
        pad(out, head)?;
        for tensor in &self.tensors {
            match &tensor.data {
                Data::F32(values) => {
                    for value in values {
                        out.write_all(&value.to_le_bytes())?;
                    }
                }
                Data::F16(values) => {
                    for value in values {
                        out.write_all(&value.to_le_bytes())?;
                    }
                }
            }
            pad(out, tensor.data.bytes())?;
        }
        Ok(())
    }

    /// Reads a whole file.
    pub fn read(path: &Path) -> Result<Self, GgufError> {
        let bytes = files::read(path)?;
        Self::parse(&bytes).map_err(|message| GgufError::Format {
            path: path.to_owned(),
            message,
        })
    }

    /// Reads the bytes of a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(4)? != MAGIC {
            return Err("it is no GGUF file".into());
        }
        let version = reader.u32()?;
        if version != VERSION {
            return Err(format!(
                "it is GGUF version {version}, but only {VERSION} is known"
            ));
        }
        let (tensors, pairs) = (reader.count(24)?, reader.count(13)?);
        let mut gguf = Gguf::default();
        for _ in 0..pairs {
            let key = reader.text()?;
            let kind = reader.u32()?;
            gguf.pairs.push((key, reader.value(kind, 0)?));
        }
        let mut places = Vec::new();
        for _ in 0..tensors {
            places.push(reader.place()?);
        }
        let alignment = match gguf.get(ALIGNMENT_KEY) {
            None => ALIGNMENT,
            Some(Value::Unsigned(n)) if n.is_power_of_two() && *n <= 1 << 20 => *n as usize,
            Some(other) => return Err(format!("{ALIGNMENT_KEY} is {other:?}")),
        };
        let start = reader.at.next_multiple_of(alignment);
        for place in places {
            gguf.tensors.push(place.read(bytes, start, alignment)?);
        }
        Ok(gguf)
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The number of a value's type as it is written.
fn type_number(value: &Value) -> u32 {
    match value {
        Value::Unsigned(n) if u32::try_from(*n).is_ok() => 4,
        Value::Unsigned(_) => 10,
        Value::Signed(_) => 11,
        Value::Float(_) => 6,
        Value::Double(_) => 12,
        Value::Bool(_) => 7,
        Value::Text(_) => 8,
        Value::Array(_) => 9,
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Unsigned(n) => match u32::try_from(*n) {
            Ok(n) => out.extend_from_slice(&n.to_le_bytes()),
            Err(_) => out.extend_from_slice(&n.to_le_bytes()),
        },
        Value::Signed(n) => out.extend_from_slice(&n.to_le_bytes()),
        Value::Float(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::Double(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::Bool(b) => out.push(u8::from(*b)),
        Value::Text(text) => put_text(out, text),
        Value::Array(values) => {
            // The widest of its unsigned numbers decides for all.
            let kind = values.iter().map(type_number).max().unwrap_or(4);
            out.extend_from_slice(&kind.to_le_bytes());
            out.extend_from_slice(&(values.len() as u64).to_le_bytes());
            for value in values {
                match value {
                    Value::Unsigned(n) if kind == 10 => out.extend_from_slice(&n.to_le_bytes()),
                    value => put_value(out, value),
                }
            }
        }
    }
}

/// A tensor's entry in the head.
struct Place {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

impl Place {
    fn read(self, bytes: &[u8], start: usize, alignment: usize) -> Result<Tensor, String> {
        let name = self.name;
        let width = match self.kind {
            0 => 4,
            1 => 2,
            kind => {
                let message = format!("the tensor '{name}' has type {kind}, not f32 or f16");
                return Err(message);
            }
        };
        let cut_off = || format!("the tensor '{name}' is cut off");
        if !self.offset.is_multiple_of(alignment as u64) {
            return Err(format!("the tensor '{name}' is not aligned"));
        }
        let elements = self
            .shape
            .iter()
            .try_fold(1usize, |n, size| n.checked_mul(*size));
        let length = elements
            .and_then(|n| n.checked_mul(width))
            .ok_or_else(cut_off)?;
        let from = usize::try_from(self.offset)
            .ok()
            .and_then(|at| start.checked_add(at));
        let to = from.and_then(|from| from.checked_add(length));
        let range = from.zip(to).ok_or_else(cut_off)?;
        let bytes = bytes.get(range.0..range.1).ok_or_else(cut_off)?;
        let data = match self.kind {
            0 => {
                let four = bytes.chunks_exact(4);
                Data::F32(
                    four.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                        .collect(),
                )
            }
            _ => {
                let two = bytes.chunks_exact(2);
                Data::F16(two.map(|b| f16::from_le_bytes([b[0], b[1]])).collect())
            }
        };
        let shape = self.shape;
        Ok(Tensor { name, shape, data })
    }
}

/// Reads the head; never beyond the bytes that are there.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(n);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or("it is cut off")?;
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("as many as asked for"))
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of things of which each takes `least` bytes.
    fn count(&mut self, least: usize) -> Result<usize, String> {
        let n = self.u64()?;
        let room = (self.bytes.len() - self.at) / least;
        let n = usize::try_from(n).ok().filter(|n| *n <= room);
        n.ok_or_else(|| "it is cut off".into())
    }

    fn text(&mut self) -> Result<String, String> {
        let n = self.count(1)?;
        let bytes = self.take(n)?;
        let text = std::str::from_utf8(bytes).map_err(|_| "a name or text is not UTF-8")?;
        Ok(text.to_owned())
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Unsigned(self.array::<1>()?[0].into()),
            1 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?)),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 if depth < 4 => {
                let kind = self.u32()?;
                let n = self.count(1)?;
                let values = (0..n).map(|_| self.value(kind, depth + 1));
                Value::Array(values.collect::<Result<_, _>>()?)
            }
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Double(f64::from_le_bytes(self.array()?)),
            kind => return Err(format!("a value has the unknown type {kind}")),
        })
    }

    fn place(&mut self) -> Result<Place, String> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        if dimensions > 4 {
            return Err(format!("the tensor '{name}' has {dimensions} dimensions"));
        }
        let sizes = (0..dimensions).map(|_| self.u64());
        let sizes = sizes.collect::<Result<Vec<u64>, _>>()?;
        let sizes = sizes.into_iter().rev().map(usize::try_from);
        let shape: Result<Vec<usize>, _> = sizes.collect();
        Ok(Place {
            shape: shape.map_err(|_| format!("the tensor '{name}' is too large"))?,
            name,
            kind: self.u32()?,
            offset: self.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(gguf: &Gguf) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        gguf.write(&path).unwrap();
        std::fs::read(&path).unwrap()
    }

    fn example() -> Gguf {
        let text = |text: &str| Value::Text(text.to_owned());
        Gguf {
            pairs: vec![
                ("general.architecture".into(), text("llama")),
                ("a.f".into(), Value::Float(16.0)),
                ("a.list".into(), Value::Array(vec![text("x"), text("ü")])),
            ],
            tensors: vec![
                Tensor {
                    name: "a".into(),
                    shape: vec![2, 3],
                    data: Data::F32(vec![1., 2., 3., 4., 5., 6.]),
                },
                Tensor {
                    name: "b".into(),
                    shape: vec![3],
                    data: Data::F16([0.5, -1.0, 2.0].map(f16::from_f32).to_vec()),
                },
            ],
        }
    }

    #[test]
    fn the_bytes_are_as_the_specification_has_them() {
        let bytes = bytes(&example());
        let mut expected = b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0".to_vec();
        expected.extend_from_slice(b"\x14\0\0\0\0\0\0\0general.architecture\x08\0\0\0");
        expected.extend_from_slice(b"\x05\0\0\0\0\0\0\0llama");
        expected.extend_from_slice(b"\x03\0\0\0\0\0\0\0a.f\x06\0\0\0\0\0\x80\x41");
        expected.extend_from_slice(b"\x06\0\0\0\0\0\0\0a.list\x09\0\0\0\x08\0\0\0");
        expected
            .extend_from_slice(b"\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0x\x02\0\0\0\0\0\0\0\xc3\xbc");
        expected.extend_from_slice(
            b"\x01\0\0\0\0\0\0\0a\x02\0\0\0\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0",
        );
        expected.extend_from_slice(b"\0\0\0\0\0\0\0\0\0\0\0\0");
        expected.extend_from_slice(b"\x01\0\0\0\0\0\0\0b\x01\0\0\0\x03\0\0\0\0\0\0\0");
        expected.extend_from_slice(b"\x01\0\0\0\x20\0\0\0\0\0\0\0");
        assert_eq!(&bytes[..expected.len()], expected);
        let start = expected.len().next_multiple_of(32);
        assert_eq!(bytes.len(), start + 64);
        assert_eq!(bytes[start + 4..start + 8], 2.0f32.to_le_bytes());
        assert_eq!(
            bytes[start + 32..start + 34],
            f16::from_f32(0.5).to_le_bytes()
        );
    }

    #[test]
    fn a_cut_off_file_is_refused() {
        let bytes = bytes(&example());
        for n in 0..bytes.len() - 26 {
            assert!(Gguf::parse(&bytes[..n]).is_err(), "{n} of {}", bytes.len());
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<u64>().prop_map(Value::Unsigned),
            (0u64..100).prop_map(Value::Unsigned),
            any::<i64>().prop_map(Value::Signed),
            (-1e9f32..1e9).prop_map(Value::Float),
            (-1e9f64..1e9).prop_map(Value::Double),
            any::<bool>().prop_map(Value::Bool),
            ".{0,8}".prop_map(Value::Text),
            prop::collection::vec(any::<u64>().prop_map(Value::Unsigned), 0..4)
                .prop_map(Value::Array),
            prop::collection::vec(".{0,4}".prop_map(Value::Text), 0..4).prop_map(Value::Array),
        ]
    }

    fn tensor() -> impl Strategy<Value = Tensor> {
        let shape = prop::collection::vec(1usize..5, 1..4);
        (".{1,12}", shape, any::<bool>(), any::<u16>()).prop_map(|(name, shape, half, seed)| {
            let n = shape.iter().product::<usize>();
            let values = (0..n).map(|i| (i as f32 + 0.5) * f32::from(seed % 977) - 3.0);
            let data = match half {
                false => Data::F32(values.collect()),
                true => Data::F16(values.map(f16::from_f32).collect()),
            };
            Tensor { name, shape, data }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]
        #[test]
        fn what_is_written_is_read_back(
            pairs in prop::collection::vec((".{1,12}", value()), 0..5),
            tensors in prop::collection::vec(tensor(), 0..4),
        ) {
            let mut pairs = pairs;
            pairs.retain(|(key, _)| key != ALIGNMENT_KEY);
            let gguf = Gguf { pairs, tensors };
            prop_assert_eq!(Gguf::parse(&bytes(&gguf)).unwrap(), gguf);
        }

        #[test]
        fn no_damage_panics(at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let mut bytes = bytes(&example());
            let at = at.index(bytes.len());
            bytes[at] = with;
            let _ = Gguf::parse(&bytes);
        }
    }
}
