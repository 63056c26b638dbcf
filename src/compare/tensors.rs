//! Two safetensors files, tensor by tensor: how far values are apart, and where they first differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Serialize;
use serde_json::Value;

use super::bytes::{PIECE, fill};
use super::json::KeyChange;
use super::{Gap, TOLD, Tolerance, count};
use crate::files::{self, FileError, PathContext};

/// A header above this is damage, not data; as the format's own crate has it.
const LONGEST_HEADER: u64 = 100_000_000;

/// How two files of tensors differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorsDifference {
    /// The tensors that differ, by name.
    pub tensors: Vec<TensorDifference>,
    /// How many tensors are the same, bit for bit.
    pub same: usize,
    /// What differs in the file's own metadata.
    pub metadata: Vec<KeyChange>,
}

/// A tensor that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorDifference {
    /// Its name.
    pub name: String,
    /// Whether the declared tolerance covers it.
    pub within: bool,
    /// How it differs.
    #[serde(flatten)]
    pub change: TensorChange,
}

/// How a tensor differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum TensorChange {
    /// Only the new file has it.
    Added {
        /// Its type.
        dtype: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Only the old file has it.
    Removed {
        /// Its type.
        dtype: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// It has another type.
    Dtype {
        /// Before.
        old: String,
        /// Now.
        new: String,
    },
    /// It has another shape.
    Shape {
        /// Before.
        old: Vec<usize>,
        /// Now.
        new: Vec<usize>,
    },
    /// Some of its values differ.
    Values {
        /// Its type.
        dtype: String,
        /// Its shape.
        shape: Vec<usize>,
        /// How many values it has.
        elements: u64,
        /// How many of them differ in a bit.
        differing: u64,
        /// The index of the first that does, dimension by dimension.
        first: Vec<usize>,
        /// Its value before.
        old: String,
        /// Its value now.
        new: String,
        /// How far values are apart at most; none for types whose values are
        /// not read here.
        #[serde(skip_serializing_if = "Option::is_none")]
        gap: Option<Gap>,
        /// How many values are NaN in only one of the files.
        nans: u64,
    },
}

/// A change of a tensor in words, part by part; what there is not is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TensorWords {
    /// Its type and shape, or what became of them.
    pub what: String,
    /// How many of its values differ, or that it came or went.
    pub differing: String,
    /// The index of the first that does.
    pub first: String,
    /// Its value before.
    pub old: String,
    /// Its value now.
    pub new: String,
}

impl TensorChange {
    /// The words.
    pub fn words(&self) -> TensorWords {
        let only = |dtype: &str, shape: &[usize], differing: &str| TensorWords {
            what: format!("{dtype}{shape:?}"),
            differing: differing.to_owned(),
            ..TensorWords::default()
        };
        let other = |what: String| TensorWords {
            what,
            ..TensorWords::default()
        };
        match self {
            TensorChange::Added { dtype, shape } => only(dtype, shape, "added"),
            TensorChange::Removed { dtype, shape } => only(dtype, shape, "removed"),
            TensorChange::Dtype { old, new } => other(format!("type {old} → {new}")),
            TensorChange::Shape { old, new } => other(format!("shape {old:?} → {new:?}")),
            TensorChange::Values {
                dtype,
                shape,
                elements,
                differing,
                first,
                old,
                new,
                nans,
                ..
            } => TensorWords {
                what: format!("{dtype}{shape:?}"),
                differing: match nans {
                    0 => format!("{differing} of {elements}"),
                    n => format!("{differing} of {elements} ({n} NaN on one side only)"),
                },
                first: format!("{first:?}"),
                old: old.clone(),
                new: new.clone(),
            },
        }
    }

    /// How far its values are apart at most, where they are read.
    pub fn gap(&self) -> Option<Gap> {
        match self {
            TensorChange::Values { gap, .. } => *gap,
            _ => None,
        }
    }
}

impl TensorDifference {
    pub(super) fn line(&self) -> String {
        let words = self.change.words();
        let mut text = format!("{} {}", self.name, words.what);
        if !words.differing.is_empty() {
            text.push_str(&format!(": {}", words.differing));
        }
        if !words.first.is_empty() {
            let TensorWords {
                first, old, new, ..
            } = &words;
            text.push_str(&format!(", first at {first} {old} → {new}"));
        }
        if let Some(gap) = self.change.gap() {
            text.push_str(&format!(", {gap}"));
        }
        match self.within {
            true => text + " (within tolerance)",
            false => text,
        }
    }
}

impl TensorsDifference {
    pub(super) fn gap(&self) -> Option<Gap> {
        let gaps = self.tensors.iter().filter_map(|tensor| tensor.change.gap());
        gaps.reduce(Gap::max)
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let (covered, not): (Vec<_>, Vec<_>) = self.tensors.iter().partition(|t| t.within);
        let told = not.into_iter().chain(covered).take(TOLD);
        let mut lines: Vec<String> = told.map(TensorDifference::line).collect();
        let metadata = self.metadata.iter().take(TOLD);
        lines.extend(metadata.map(|change| format!("metadata {}", change.line())));
        if lines.is_empty() {
            return vec!["the same tensors in other bytes: another order or header".to_owned()];
        }
        if self.tensors.len() > TOLD {
            lines.push(format!(
                "{} more",
                count(self.tensors.len() - TOLD, "tensor")
            ));
        }
        let all = self.tensors.len() + self.same;
        let differ = self.tensors.len();
        let gap = self.gap().map(|gap| format!(": {gap}")).unwrap_or_default();
        lines.push(format!("{differ} of {} differ{gap}", count(all, "tensor")));
        lines
    }
}

/// Compares two safetensors files; none where one of them is not one. The
/// second value says whether the tolerance covers all.
pub(super) fn difference(
    old: &Path,
    new: &Path,
    tolerance: &Tolerance,
) -> Result<Option<(TensorsDifference, bool)>, FileError> {
    let (Some(mut a), Some(mut b)) = (Tensors::open(old)?, Tensors::open(new)?) else {
        return Ok(None);
    };
    let mut found = TensorsDifference {
        tensors: Vec::new(),
        same: 0,
        metadata: metadata(&a.header, &b.header, tolerance),
    };
    let (left, right) = (a.infos(), b.infos());
    let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    for name in names {
        let change = match (left.get(name), right.get(name)) {
            (Some(x), Some(y)) if x.dtype != y.dtype => Some(TensorChange::Dtype {
                old: type_name(x.dtype),
                new: type_name(y.dtype),
            }),
            (Some(x), Some(y)) if x.shape != y.shape => Some(TensorChange::Shape {
                old: x.shape.clone(),
                new: y.shape.clone(),
            }),
            (Some(x), Some(y)) => values(&mut a, x, &mut b, y)?,
            (Some(x), None) => Some(TensorChange::Removed {
                dtype: type_name(x.dtype),
                shape: x.shape.clone(),
            }),
            (None, y) => y.map(|y| TensorChange::Added {
                dtype: type_name(y.dtype),
                shape: y.shape.clone(),
            }),
        };
        let Some(change) = change else {
            found.same += 1;
            continue;
        };
        let gap = match &change {
            TensorChange::Values { gap, .. } => *gap,
            _ => None,
        };
        found.tensors.push(TensorDifference {
            name: name.clone(),
            within: gap.is_some() && values_within(&mut a, &mut b, name, gap, tolerance)?,
            change,
        });
    }
    let within = found.tensors.iter().all(|tensor| tensor.within)
        && found.metadata.iter().all(|change| change.within)
        && !tolerance.is_bitwise();
    Ok(Some((found, within)))
}

fn metadata(a: &Metadata, b: &Metadata, tolerance: &Tolerance) -> Vec<KeyChange> {
    let sorted = |header: &Metadata| -> BTreeMap<String, String> {
        let map = header.metadata().clone().unwrap_or_default();
        map.into_iter().collect()
    };
    let (a, b) = (sorted(a), sorted(b));
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let changed = keys.into_iter().filter(|key| a.get(*key) != b.get(*key));
    changed
        .map(|key| {
            let value = |map: &BTreeMap<String, String>| map.get(key).cloned().map(Value::String);
            let path = format!("/__metadata__/{key}");
            KeyChange {
                within: tolerance.ignores(&path),
                path,
                old: value(&a),
                new: value(&b),
            }
        })
        .collect()
}

/// A safetensors file whose header has been read.
struct Tensors<'a> {
    path: &'a Path,
    file: File,
    header: Metadata,
    /// Where the tensors' bytes begin.
    start: u64,
}

impl<'a> Tensors<'a> {
    /// Reads the header; none where it is not one, or not of this file.
    fn open(path: &'a Path) -> Result<Option<Self>, FileError> {
        let mut file = files::open(path)?;
        let length = file.metadata().on("read", path)?.len();
        let mut head = [0; 8];
        if fill(&mut file, &mut head).on("read", path)? < head.len() {
            return Ok(None);
        }
        let n = u64::from_le_bytes(head);
        if n > LONGEST_HEADER || n > length - 8 {
            return Ok(None);
        }
        let mut header = vec![0; n as usize];
        file.read_exact(&mut header).on("read", path)?;
        let Ok(header) = serde_json::from_slice::<Metadata>(&header) else {
            return Ok(None);
        };
        let start = 8 + n;
        let whole = start + header.data_len() as u64 == length;
        Ok(whole.then_some(Tensors {
            path,
            file,
            header,
            start,
        }))
    }

    fn infos(&self) -> BTreeMap<String, TensorInfo> {
        let tensors = self.header.tensors().into_iter();
        tensors.map(|(name, info)| (name, info.clone())).collect()
    }

    fn seek(&mut self, info: &TensorInfo) -> Result<(), FileError> {
        let at = self.start + info.data_offsets.0 as u64;
        let sought = self.file.seek(SeekFrom::Start(at));
        sought.map(drop).on("seek in", self.path)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), FileError> {
        self.file.read_exact(buffer).on("read", self.path)
    }
}

/// Goes through two tensors of one type and shape, a piece at a time.
fn pieces(
    a: &mut Tensors<'_>,
    x: &TensorInfo,
    b: &mut Tensors<'_>,
    y: &TensorInfo,
    mut piece: impl FnMut(&[u8], &[u8]),
) -> Result<(), FileError> {
    a.seek(x)?;
    b.seek(y)?;
    let mut left = x.data_offsets.1 - x.data_offsets.0;
    let (mut old, mut new) = (vec![0; PIECE.min(left)], vec![0; PIECE.min(left)]);
    while left > 0 {
        let n = left.min(PIECE);
        a.read(&mut old[..n])?;
        b.read(&mut new[..n])?;
        piece(&old[..n], &new[..n]);
        left -= n;
    }
    Ok(())
}

/// How the values of two tensors of one type and shape differ.
fn values(
    a: &mut Tensors<'_>,
    x: &TensorInfo,
    b: &mut Tensors<'_>,
    y: &TensorInfo,
) -> Result<Option<TensorChange>, FileError> {
    let size = (x.dtype.bitsize() / 8).max(1);
    let numeric = number(x.dtype, &[0; 16]).is_some();
    let (mut at, mut differing, mut nans) = (0, 0, 0);
    let mut gap = Gap::ZERO;
    let mut first = None;
    pieces(a, x, b, y, |old, new| {
        if old == new {
            at += old.len() / size;
            return;
        }
        for (p, q) in old.chunks_exact(size).zip(new.chunks_exact(size)) {
            if p != q {
                differing += 1;
                if first.is_none() {
                    first = Some((at, text(x.dtype, p), text(x.dtype, q)));
                }
                if let (Some(p), Some(q)) = (number(x.dtype, p), number(x.dtype, q)) {
                    nans += u64::from(p.is_nan() != q.is_nan());
                    gap = gap.max(Gap::between(p, q));
                }
            }
            at += 1;
        }
    })?;
    Ok(first.map(|(at, old, new)| TensorChange::Values {
        dtype: type_name(x.dtype),
        shape: x.shape.clone(),
        elements: x.shape.iter().product::<usize>() as u64,
        differing,
        first: index(at, &x.shape),
        old,
        new,
        gap: numeric.then_some(gap),
        nans,
    }))
}

/// Whether every pair of values is covered: the largest absolute and the
/// largest relative difference may be those of different pairs, of which each
/// is covered by the other limit.
fn values_within(
    a: &mut Tensors<'_>,
    b: &mut Tensors<'_>,
    name: &str,
    gap: Option<Gap>,
    tolerance: &Tolerance,
) -> Result<bool, FileError> {
    if gap.is_some_and(|gap| tolerance.covers(gap)) {
        return Ok(true);
    }
    let infos = (a.header.info(name).cloned(), b.header.info(name).cloned());
    let ((Some(x), Some(y)), Some(_)) = (infos, tolerance.limits) else {
        return Ok(false);
    };
    let size = (x.dtype.bitsize() / 8).max(1);
    let mut within = true;
    pieces(a, &x, b, &y, |old, new| {
        let pairs = old.chunks_exact(size).zip(new.chunks_exact(size));
        for (p, q) in pairs.filter(|(p, q)| p != q) {
            let pair = number(x.dtype, p).zip(number(x.dtype, q));
            within &= pair.is_some_and(|(p, q)| tolerance.covers(Gap::between(p, q)));
        }
    })?;
    Ok(within)
}

/// The position of an element, dimension by dimension.
fn index(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (place, size) in index.iter_mut().zip(shape).rev() {
        *place = at % size;
        at /= size;
    }
    index
}

fn type_name(dtype: Dtype) -> String {
    format!("{dtype:?}").to_lowercase()
}

/// The first bytes as an array.
fn head<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

/// A value as a number; none for types that are not read here. A 64-bit
/// integer is rounded, which shows only in differences above 2^53.
fn number(dtype: Dtype, bytes: &[u8]) -> Option<f64> {
    Some(match dtype {
        Dtype::BOOL | Dtype::U8 => f64::from(bytes[0]),
        Dtype::I8 => f64::from(bytes[0] as i8),
        Dtype::U16 => f64::from(u16::from_le_bytes(head(bytes))),
        Dtype::I16 => f64::from(i16::from_le_bytes(head(bytes))),
        Dtype::U32 => f64::from(u32::from_le_bytes(head(bytes))),
        Dtype::I32 => f64::from(i32::from_le_bytes(head(bytes))),
        Dtype::U64 => u64::from_le_bytes(head(bytes)) as f64,
        Dtype::I64 => i64::from_le_bytes(head(bytes)) as f64,
        Dtype::F16 => f16::from_le_bytes(head(bytes)).to_f64(),
        Dtype::BF16 => bf16::from_le_bytes(head(bytes)).to_f64(),
        Dtype::F32 => f64::from(f32::from_le_bytes(head(bytes))),
        Dtype::F64 => f64::from_le_bytes(head(bytes)),
        _ => return None,
    })
}

/// A value as a person reads it; the bytes of types that are not read here.
fn text(dtype: Dtype, bytes: &[u8]) -> String {
    match dtype {
        Dtype::U64 => u64::from_le_bytes(head(bytes)).to_string(),
        Dtype::I64 => i64::from_le_bytes(head(bytes)).to_string(),
        // As many digits as its type has.
        Dtype::F32 => format!("{:?}", f32::from_le_bytes(head(bytes))),
        Dtype::F16 => format!("{:?}", f16::from_le_bytes(head(bytes))),
        Dtype::BF16 => format!("{:?}", bf16::from_le_bytes(head(bytes))),
        _ => match number(dtype, bytes) {
            Some(number) if dtype == Dtype::F64 => format!("{number:?}"),
            Some(number) => number.to_string(),
            None => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Limits;
    use proptest::prelude::*;
    use safetensors::tensor::TensorView;

    /// Name, type, shape, bytes.
    type Made = (String, Dtype, Vec<usize>, Vec<u8>);

    fn write(path: &Path, tensors: &[Made], metadata: Option<(&str, &str)>) {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
            (name.clone(), view)
        });
        let metadata = metadata.map(|(key, value)| [(key.to_owned(), value.to_owned())].into());
        let bytes = safetensors::serialize(views, metadata).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn between(
        old: &[Made],
        new: &[Made],
        tolerance: &Tolerance,
    ) -> Option<(TensorsDifference, bool)> {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        write(&a, old, Some(("format", "pt")));
        write(&b, new, Some(("format", "pt")));
        difference(&a, &b, tolerance).unwrap()
    }

    fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Made {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        (name.to_owned(), Dtype::F32, shape.to_vec(), bytes)
    }

    fn limits(max_abs: f64, max_rel: f64) -> Tolerance {
        Tolerance {
            limits: Some(Limits { max_abs, max_rel }),
            ..Tolerance::default()
        }
    }

    #[test]
    fn tensors_in_words() {
        let old = [
            f32s("a", &[2, 2], &[1.0, 2.0, 3.0, f32::NAN]),
            f32s("gone", &[1], &[0.0]),
            f32s("same", &[1], &[f32::NAN]),
            f32s("wide", &[2], &[0.0, 0.0]),
        ];
        let new = [
            f32s("a", &[2, 2], &[1.0, 2.5, f32::INFINITY, 4.0]),
            f32s("new", &[1], &[0.0]),
            f32s("same", &[1], &[f32::NAN]),
            f32s("wide", &[2, 1], &[0.0, 0.0]),
        ];
        let (found, within) = between(&old, &new, &Tolerance::default()).unwrap();
        assert!(!within);
        insta::assert_snapshot!(found.lines().join("\n"), @"
        a f32[2, 2]: 3 of 4 (1 NaN on one side only), first at [0, 1] 2.0 → 2.5, max abs inf, max rel inf
        gone f32[1]: removed
        new f32[1]: added
        wide shape [2] → [2, 1]
        4 of 5 tensors differ: max abs inf, max rel inf
        ");
    }

    #[test]
    fn each_pair_of_values_is_held_to_the_limits() {
        let old = [f32s("a", &[2], &[1000.0, 1e-9])];
        let new = [f32s("a", &[2], &[1000.5, 2e-9])];
        // The first pair is covered by the relative limit, the second by the absolute one.
        let (_, within) = between(&old, &new, &limits(1e-6, 1e-3)).unwrap();
        assert!(within);
        for tolerance in [limits(1e-6, 0.0), limits(0.0, 1e-3), Tolerance::default()] {
            assert!(!between(&old, &new, &tolerance).unwrap().1);
        }
        let nan = [f32s("a", &[2], &[f32::NAN, 1e-9])];
        assert!(!between(&old, &nan, &limits(1e30, 1e30)).unwrap().1);
    }

    #[test]
    fn metadata_is_told_and_can_be_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let tensor = [f32s("a", &[1], &[1.0])];
        write(&a, &tensor, Some(("date", "1")));
        write(&b, &tensor, Some(("date", "2")));
        let (found, within) = difference(&a, &b, &limits(1.0, 0.0)).unwrap().unwrap();
        assert_eq!(
            found.lines()[0],
            "metadata /__metadata__/date: \"1\" → \"2\""
        );
        assert!(!within);
        let tolerance = Tolerance {
            ignore: vec!["/__metadata__/date".into()],
            ..Tolerance::default()
        };
        assert!(difference(&a, &b, &tolerance).unwrap().unwrap().1);
    }

    #[test]
    fn a_damaged_file_is_not_read_as_tensors() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        write(&a, &[f32s("a", &[2], &[1.0, 2.0])], None);
        let whole = std::fs::read(&a).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&b, &whole[..cut]).unwrap();
            assert!(difference(&a, &b, &Tolerance::default()).unwrap().is_none());
        }
    }

    const TYPES: [Dtype; 12] = [
        Dtype::BF16,
        Dtype::F16,
        Dtype::F32,
        Dtype::F64,
        Dtype::I8,
        Dtype::U8,
        Dtype::I16,
        Dtype::U16,
        Dtype::I32,
        Dtype::U32,
        Dtype::I64,
        Dtype::U64,
    ];

    /// The bytes of a small whole number, which every type can hold.
    fn encode(dtype: Dtype, x: i8) -> Vec<u8> {
        let float = f32::from(x);
        match dtype {
            Dtype::BF16 => bf16::from_f32(float).to_le_bytes().to_vec(),
            Dtype::F16 => f16::from_f32(float).to_le_bytes().to_vec(),
            Dtype::F32 => float.to_le_bytes().to_vec(),
            Dtype::F64 => f64::from(x).to_le_bytes().to_vec(),
            Dtype::I8 | Dtype::U8 => x.to_le_bytes().to_vec(),
            Dtype::I16 | Dtype::U16 => i16::from(x).to_le_bytes().to_vec(),
            Dtype::I32 | Dtype::U32 => i32::from(x).to_le_bytes().to_vec(),
            _ => i64::from(x).to_le_bytes().to_vec(),
        }
    }

    fn tensor() -> impl Strategy<Value = (Dtype, Vec<usize>, Vec<i8>)> {
        let shape = prop::collection::vec(1..5_usize, 0..4);
        (prop::sample::select(&TYPES[..]), shape).prop_flat_map(|(dtype, shape)| {
            let n: usize = shape.iter().product();
            let values = prop::collection::vec(0..100_i8, n);
            (Just(dtype), Just(shape), values)
        })
    }

    proptest! {
        /// One planted change is found at its place, with its numbers.
        #[test]
        fn a_planted_change_is_found(
            tensors in prop::collection::vec(tensor(), 1..6),
            pick in any::<prop::sample::Index>(),
            place in any::<prop::sample::Index>(),
            step in 1..27_i8,
        ) {
            let make = |tensors: &[(Dtype, Vec<usize>, Vec<i8>)]| -> Vec<Made> {
                tensors.iter().enumerate().map(|(i, (dtype, shape, values))| {
                    let bytes = values.iter().flat_map(|x| encode(*dtype, *x)).collect();
                    (format!("t{i}"), *dtype, shape.clone(), bytes)
                }).collect()
            };
            let mut changed = tensors.clone();
            let which = pick.index(tensors.len());
            let shape = changed[which].1.clone();
            let values = &mut changed[which].2;
            let at = place.index(values.len());
            let before = values[at];
            values[at] += step;
            let (found, within) =
                between(&make(&tensors), &make(&changed), &Tolerance::default()).unwrap();
            prop_assert!(!within);
            prop_assert_eq!(found.same, tensors.len() - 1);
            prop_assert_eq!(found.tensors.len(), 1);
            prop_assert_eq!(&found.tensors[0].name, &format!("t{which}"));
            let TensorChange::Values { differing, first, gap, .. } = &found.tensors[0].change else {
                panic!("{found:?}");
            };
            prop_assert_eq!(*differing, 1);
            let flat = first.iter().zip(shape.iter()).fold(0, |flat, (i, n)| flat * n + i);
            prop_assert_eq!(flat, at);
            let (a, b) = (f64::from(before), f64::from(before + step));
            prop_assert_eq!(gap.unwrap().max_abs.0, b - a);
            prop_assert!((gap.unwrap().max_rel.0 - (b - a) / b).abs() < 1e-12);
            let close = limits(f64::from(step), 0.0);
            prop_assert!(between(&make(&tensors), &make(&changed), &close).unwrap().1);
        }
    }
}
