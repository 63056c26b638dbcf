//! Content digests and the framed canonical encoding of keys; the only user of blake3.
//!
//! Nothing else in the crate hashes bytes, and nothing hashes the output of a
//! serializer: a dependency that switches on a feature (key order, float
//! printing) must never change a digest. What is hashed is written by
//! [`Encoder`], whose bytes are pinned in a test.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use rayon::prelude::*;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

/// The blake3 digest of some content, written as 64 lower-case hex characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of everything `reader` yields, and how many bytes that were.
    pub fn of_reader(mut reader: impl Read) -> io::Result<(Self, u64)> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = Vec::with_capacity(PIECE);
        let mut total = 0;
        loop {
            buffer.clear();
            let n = (&mut reader).take(PIECE as u64).read_to_end(&mut buffer)?;
            hasher.update(&buffer);
            total += n as u64;
            if n < PIECE {
                return Ok((Digest(*hasher.finalize().as_bytes()), total));
            }
        }
    }

    /// The digest of a file's bytes, and its size in bytes.
    pub fn of_file(path: &Path) -> io::Result<(Self, u64)> {
        Self::of_open(&File::open(path)?)
    }

    /// The digest of the bytes of an open file that nobody has read from yet,
    /// and its size in bytes. Fails with `UnexpectedEof` where a large file
    /// becomes shorter meanwhile.
    pub fn of_open(file: &File) -> io::Result<(Self, u64)> {
        let size = file.metadata()?.len();
        match size > 2 * SUBTREE {
            true => Ok((of_subtrees(file, size, SUBTREE)?, size)),
            false => Self::of_reader(file),
        }
    }

    /// The raw 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A digest from its raw 32 bytes, as an on-disk format of ours holds them.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Digest(bytes)
    }

    /// The first 12 hex characters: enough for a person to compare.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }

    /// The same of what may not be there.
    pub fn short_or_nothing(digest: Option<Digest>) -> String {
        digest.map_or_else(|| "nothing".to_owned(), |digest| digest.short())
    }

    /// The first eight bytes as a number, to seed or to check with.
    pub fn prefix(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(first)
    }
}

/// The digest of bytes that come piece by piece.
#[derive(Default)]
pub struct Running(blake3::Hasher);

impl Running {
    /// The next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all pieces so far.
    pub fn digest(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// Bytes that are read at once: they stay in a core's own cache, and a buffer of
/// them is not mapped and unmapped each time, as one of 128 KiB is by glibc.
const PIECE: usize = 64 << 10;

/// Bytes of the parts of a large file that are hashed side by side.
const SUBTREE: u64 = 8 << 20;

/// The digest of a file of more than one subtree of `length` bytes, a power of
/// two from 1024 on. Each core reads parts of the file and hashes them, and then
/// the tree above the parts is made: what blake3 does with bytes in memory (its
/// paper, section 2.1), here without memory for the bytes or a map of the file,
/// through which a file that becomes shorter would end the process.
fn of_subtrees(file: &File, size: u64, length: u64) -> io::Result<Digest> {
    let parts = (0..size.div_ceil(length)).into_par_iter();
    let values: io::Result<Vec<[u8; 32]>> = parts
        .map_init(
            || vec![0; PIECE.min(length as usize)],
            |buffer, part| of_subtree(file, part * length..size.min((part + 1) * length), buffer),
        )
        .collect();
    let values = values?;
    let (left, right) = halves(&values);
    let root = merge_subtrees_root(&merged(left), &merged(right), Mode::Hash);
    Ok(Digest(*root.as_bytes()))
}

fn of_subtree(file: &File, bytes: Range<u64>, buffer: &mut [u8]) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(bytes.start);
    let mut at = bytes.start;
    while at < bytes.end {
        let n = buffer.len().min((bytes.end - at) as usize);
        file.read_exact_at(&mut buffer[..n], at)?;
        hasher.update(&buffer[..n]);
        at += n as u64;
    }
    Ok(hasher.finalize_non_root())
}

/// The chaining value of the tree above some subtrees.
fn merged(values: &[[u8; 32]]) -> [u8; 32] {
    match values {
        [one] => *one,
        _ => {
            let (left, right) = halves(values);
            merge_subtrees_non_root(&merged(left), &merged(right), Mode::Hash)
        }
    }
}

/// The left half has as many subtrees as there are, in a power of two, below all.
fn halves(values: &[[u8; 32]]) -> (&[[u8; 32]], &[[u8; 32]]) {
    values.split_at(values.len().next_power_of_two() / 2)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

/// A digest was not written as 64 hex characters.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a digest (64 hex characters)")]
pub struct BadDigest(String);

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        blake3::Hash::from_hex(text)
            .map(|hash| Digest(*hash.as_bytes()))
            .map_err(|_| BadDigest(text.to_owned()))
    }
}

/// Text where people read, the 32 bytes where they do not.
impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(self),
            false => serializer.serialize_bytes(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Takes text or bytes where they lie: a store's history holds thousands.
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Digest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("64 hex characters or 32 bytes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Digest, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Digest, E> {
                let whole = <[u8; 32]>::try_from(bytes);
                let wrong = |_| E::invalid_length(bytes.len(), &self);
                Ok(Digest(whole.map_err(wrong)?))
            }
        }
        match deserializer.is_human_readable() {
            true => deserializer.deserialize_str(Visitor),
            false => deserializer.deserialize_bytes(Visitor),
        }
    }
}

/// Writes values as framed bytes: every item is a tag, a length and its bytes,
/// so that no two different values share an encoding.
///
/// Lengths and integers are 64-bit little-endian; maps are sorted by the bytes
/// of their keys; a float is the bits of its `f64` (with `-0.0` kept apart).
#[derive(Default)]
pub struct Encoder(Vec<u8>);

impl Encoder {
    /// An empty encoding that starts with `domain`, which keeps encodings of
    /// different things apart.
    pub fn new(domain: &str) -> Self {
        let mut encoder = Encoder(Vec::with_capacity(256));
        encoder.str(domain);
        encoder
    }

    fn frame(&mut self, tag: u8, bytes: &[u8]) -> &mut Self {
        self.0.push(tag);
        self.0
            .extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    /// A string.
    pub fn str(&mut self, text: &str) -> &mut Self {
        self.frame(b's', text.as_bytes())
    }

    /// Raw bytes (a file name that is not UTF-8, say).
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.frame(b'y', bytes)
    }

    /// An unsigned integer.
    pub fn u64(&mut self, n: u64) -> &mut Self {
        self.frame(b'u', &n.to_le_bytes())
    }

    /// A digest.
    pub fn digest(&mut self, digest: &Digest) -> &mut Self {
        self.frame(b'd', digest.as_bytes())
    }

    /// The start of a sequence of `n` items, which the caller writes next.
    pub fn list(&mut self, n: usize) -> &mut Self {
        self.frame(b'l', &(n as u64).to_le_bytes())
    }

    /// A JSON value, independent of the order in which its maps hold their keys.
    pub fn value(&mut self, value: &Value) -> &mut Self {
        match value {
            Value::Null => self.frame(b'n', &[]),
            Value::Bool(b) => self.frame(b'b', &[u8::from(*b)]),
            Value::Number(n) => {
                if let Some(n) = n.as_u64() {
                    self.u64(n)
                } else if let Some(n) = n.as_i64() {
                    self.frame(b'i', &n.to_le_bytes())
                } else {
                    let x = n.as_f64().unwrap_or(f64::NAN);
                    self.frame(b'f', &x.to_bits().to_le_bytes())
                }
            }
            Value::String(text) => self.str(text),
            Value::Array(items) => {
                self.list(items.len());
                for item in items {
                    self.value(item);
                }
                self
            }
            Value::Object(map) => {
                self.frame(b'm', &(map.len() as u64).to_le_bytes());
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
                for (key, value) in entries {
                    self.str(key).value(value);
                }
                self
            }
        }
    }

    /// The bytes written so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The digest of the bytes written so far.
    pub fn digest_of(&self) -> Digest {
        Digest::of(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn digest_is_blake3_and_round_trips() {
        let empty = Digest::of(b"");
        assert_eq!(
            empty.to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
        assert_eq!(empty.to_string().parse::<Digest>().unwrap(), empty);
        assert!("xyz".parse::<Digest>().is_err());
    }

    #[test]
    fn reader_gives_the_digest_of_the_bytes_at_every_buffer_edge() {
        for n in [
            0, 1, 65535, 65536, 65537, 4_259_839, 4_259_840, 4_259_841, 9_000_000,
        ] {
            let bytes: Vec<u8> = (0..n)
                .map(|i: u32| (i.wrapping_mul(2654435761) >> 24) as u8)
                .collect();
            let (digest, size) = Digest::of_reader(&bytes[..]).unwrap();
            assert_eq!(
                (digest, size),
                (Digest::of(&bytes), u64::from(n)),
                "{n} bytes"
            );
        }
    }

    #[test]
    fn golden_bytes_of_the_encoding() {
        let mut encoder = Encoder::new("t");
        encoder
            .u64(1)
            .value(&json!({"b": [true, null], "a": 0.5, "c": -1}));
        let hex: String = encoder
            .as_bytes()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(
            hex,
            concat!(
                "73",
                "0100000000000000",
                "74", // "t"
                "75",
                "0800000000000000",
                "0100000000000000", // 1
                "6d",
                "0800000000000000",
                "0300000000000000", // map of 3
                "73",
                "0100000000000000",
                "61", // "a"
                "66",
                "0800000000000000",
                "000000000000e03f", // 0.5
                "73",
                "0100000000000000",
                "62", // "b"
                "6c",
                "0800000000000000",
                "0200000000000000", // list of 2
                "62",
                "0100000000000000",
                "01", // true
                "6e",
                "0000000000000000", // null
                "73",
                "0100000000000000",
                "63", // "c"
                "69",
                "0800000000000000",
                "ffffffffffffffff", // -1
            )
        );
    }

    #[test]
    fn a_file_in_parts_has_the_digest_of_the_whole() {
        use std::io::Write;
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..70_000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        file.write_all(&bytes).unwrap();
        for length in [1024, 2048, 8192] {
            let around = |n: u64| [n * length - 1, n * length, n * length + 1];
            for size in [2, 3, 4, 5, 8].into_iter().flat_map(around) {
                let size = size.clamp(length + 1, bytes.len() as u64);
                let whole = Digest::of(&bytes[..size as usize]);
                let parts = of_subtrees(&file, size, length).unwrap();
                assert_eq!(parts, whole, "{size} bytes in parts of {length}");
            }
        }
        let beyond = of_subtrees(&file, 80_000, 1024).unwrap_err();
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_large_file_has_the_digest_of_its_bytes() {
        use std::io::{Seek, Write};
        let mut file = tempfile::tempfile().unwrap();
        let bytes = vec![7; 2 * SUBTREE as usize + 1000];
        file.write_all(&bytes).unwrap();
        file.rewind().unwrap();
        let expected = (Digest::of(&bytes), bytes.len() as u64);
        assert_eq!(Digest::of_open(&file).unwrap(), expected);
        assert_eq!(Digest::of_reader(&bytes[..]).unwrap(), expected);
    }

    #[test]
    fn key_order_does_not_matter_and_types_do() {
        let digest = |v: Value| {
            let mut e = Encoder::new("t");
            e.value(&v);
            e.digest_of()
        };
        let a: Value = serde_json::from_str(r#"{"x":1,"y":2}"#).unwrap();
        let b: Value = serde_json::from_str(r#"{"y":2,"x":1}"#).unwrap();
        assert_eq!(digest(a), digest(b));
        assert_ne!(digest(json!(1)), digest(json!(1.0)));
        assert_ne!(digest(json!("1")), digest(json!(1)));
        assert_ne!(digest(json!(["ab", "c"])), digest(json!(["a", "bc"])));
        assert_ne!(digest(json!([[], 1])), digest(json!([[1]])));
    }
}
