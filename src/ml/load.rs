//! A model's weights from its safetensors files, tensor by tensor: no file is in memory a second time.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::kernels::bf16;
use super::matrix::{Dtype, Half, Mapped};
use super::tensors::{TensorError, Tensors};
use super::weights::Source;

/// Fills every tensor from the safetensors files in `paths`; a tensor in the
/// files that has no place must be `spare`. With [`Dtype::Bf16`], matrices are
/// not filled but returned, by the number of their tensor, and their place is
/// given up: those that are bf16 in the file stay there and are mapped, the
/// others are rounded.
pub fn load(
    tensors: &mut Tensors,
    paths: &[PathBuf],
    spare: impl Fn(&str) -> bool,
    dtype: Dtype,
) -> Result<Vec<Option<Half>>, TensorError> {
    let known: BTreeSet<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
    let mut halves: Vec<Option<Half>> = tensors.iter().map(|_| None).collect();
    let mut missing: BTreeSet<usize> = (0..halves.len()).collect();
    for path in paths {
        let mut source = Source::open(path)?;
        let mut names = source.tensors().keys();
        if let Some(name) = names.find(|name| !known.contains(*name) && !spare(name)) {
            return Err(TensorError::Unknown {
                path: path.clone(),
                name: name.clone(),
            });
        }
        let mut map = None;
        for (i, tensor) in tensors.iter_mut().enumerate() {
            if !missing.contains(&i) || !source.has(&tensor.name, &tensor.shape)? {
                continue;
            }
            match (dtype, &tensor.shape[..]) {
                (Dtype::Bf16, [rows, cols]) => {
                    tensor.data = Vec::new();
                    let half = half(&mut source, &tensor.name, (*rows, *cols), &mut map)?;
                    halves[i] = Some(half);
                }
                _ => source.fill(&tensor.name, &mut tensor.data)?,
            }
            missing.remove(&i);
        }
    }
    let Some(first) = missing.first() else {
        return Ok(halves);
    };
    let tensor = tensors.iter().nth(*first);
    Err(TensorError::Missing {
        path: paths.first().cloned().unwrap_or_default(),
        name: tensor.map(|tensor| tensor.name.clone()).unwrap_or_default(),
    })
}

/// One matrix in bf16; `map` is the file once a matrix is mapped from it.
fn half(
    source: &mut Source,
    name: &str,
    (rows, cols): (usize, usize),
    map: &mut Option<Arc<Mapped>>,
) -> Result<Half, TensorError> {
    if let Some(from) = source.place_of_bf16(name) {
        let file = match map {
            Some(file) => file,
            None => map.insert(Arc::new(Mapped::open(source.path())?)),
        };
        if let Some(half) = Half::mapped(rows, cols, file, from) {
            return Ok(half);
        }
    }
    let mut data = Vec::with_capacity(rows * cols);
    source.each(name, |values| {
        data.extend(values.iter().map(|x| bf16::round(*x)))
    })?;
    Ok(Half::new(rows, cols, data))
}
