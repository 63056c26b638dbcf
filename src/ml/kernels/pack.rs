//! Operands in the order in which tiles read them, as words of 32 bits.
//!
//! A word is an f32, or two bf16 that follow each other along k, the even one
//! in the low half. The right side lies in panels of [`NR`] columns, [depth,
//! NR]; the left side in rows of a fixed stride.

use std::ops::Range;

use super::bf16;
use super::gemm::{NR, View};
use super::isa::{Isa, Level, dispatched};

/// Panel `col..` of B in f32, for the elements `k`.
pub fn panel(isa: Isa, b: View<'_>, k: &Range<usize>, col: usize, out: &mut [u32]) {
    let width = NR.min(b.cols() - col);
    let (row_stride, col_stride) = b.strides();
    let data = &b.data()[k.start * row_stride + col * col_stride..];
    if col_stride == 1 {
        for (p, line) in out.chunks_exact_mut(NR).enumerate() {
            let row = &data[p * row_stride..][..width];
            line[..width].copy_from_slice(bytemuck::cast_slice(row));
        }
    } else if row_stride == 1 {
        transpose(isa, data, col_stride, width, k.len(), out, NR);
    } else {
        for (p, line) in out.chunks_exact_mut(NR).enumerate() {
            for (j, o) in line[..width].iter_mut().enumerate() {
                *o = data[p * row_stride + j * col_stride].to_bits();
            }
        }
    }
    clear_beyond(width, out);
}

/// Panel `col..` of B in bf16, for the elements `k`; an odd last one is paired with a zero.
pub fn panel_bf16(isa: Isa, b: View<'_, u16>, k: &Range<usize>, col: usize, out: &mut [u32]) {
    let width = NR.min(b.cols() - col);
    let (row_stride, col_stride) = b.strides();
    let data = &b.data()[k.start * row_stride + col * col_stride..];
    let pairs = k.len() / 2;
    if col_stride == 1 {
        for (p, line) in out.chunks_exact_mut(NR).enumerate() {
            let even = &data[2 * p * row_stride..][..width];
            match p < pairs {
                true => join(isa, even, &data[(2 * p + 1) * row_stride..][..width], line),
                false => join(isa, even, &[0; NR][..width], line),
            }
        }
    } else {
        let at = |j: usize, k: usize| u32::from(data[k * row_stride + j * col_stride]);
        if row_stride == 1 {
            transpose(isa, data, col_stride, width, pairs, out, NR);
        } else {
            for (p, line) in out.chunks_exact_mut(NR).take(pairs).enumerate() {
                for (j, o) in line[..width].iter_mut().enumerate() {
                    *o = at(j, 2 * p) | at(j, 2 * p + 1) << 16;
                }
            }
        }
        if k.len() % 2 == 1 {
            for (j, o) in out[pairs * NR..][..width].iter_mut().enumerate() {
                *o = at(j, k.len() - 1);
            }
        }
    }
    clear_beyond(width, out);
}

/// Zeros in the columns that B does not have.
fn clear_beyond(width: usize, out: &mut [u32]) {
    if width < NR {
        out.chunks_exact_mut(NR)
            .for_each(|line| line[width..].fill(0));
    }
}

dispatched! {
    fn join(even: &[u16], odd: &[u16], out: &mut [u32]) {
        for ((o, even), odd) in out.iter_mut().zip(even).zip(odd) {
            *o = u32::from(*even) | u32::from(*odd) << 16;
        }
    }
}

dispatched! {
    /// A panel of pairs as f32 in the order of their multiply-adds: of each pair the odd one first.
    pub fn widen_panel(words: &[u32], out: &mut [u32]) {
        for (words, out) in words.chunks_exact(NR).zip(out.chunks_exact_mut(2 * NR)) {
            let (first, second) = out.split_at_mut(NR);
            for j in 0..NR {
                first[j] = bf16::factor((words[j] >> 16) as u16).to_bits();
                second[j] = bf16::factor(words[j] as u16).to_bits();
            }
        }
    }
}

dispatched! {
    /// [`bf16::magnitude`] of f32 in words.
    pub fn magnitude(words: &[u32]) -> u32 {
        bf16::magnitude(words.iter().copied())
    }
}

/// How the left side is packed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// f32 in order.
    F32,
    /// Rounded, in pairs.
    Pairs,
    /// Rounded, as f32, of each pair the odd one first.
    Swapped,
}

/// Rows `rows` of A, elements `k`, into lines of `stride` words.
pub fn rows(
    isa: Isa,
    a: View<'_>,
    rows: Range<usize>,
    k: &Range<usize>,
    form: Form,
    stride: usize,
    out: &mut [u32],
) {
    let (row_stride, col_stride) = a.strides();
    let data = &a.data()[rows.start * row_stride + k.start * col_stride..];
    let mut line = Vec::new();
    if col_stride != 1 && row_stride == 1 && form == Form::F32 {
        transpose(isa, data, col_stride, k.len(), rows.len(), out, stride);
        return;
    }
    for (r, out) in out.chunks_mut(stride).take(rows.len()).enumerate() {
        let row = &data[r * row_stride..];
        let row = if col_stride == 1 {
            &row[..k.len()]
        } else {
            line.clear();
            line.extend(row.iter().step_by(col_stride).take(k.len()));
            &line[..]
        };
        match form {
            Form::F32 => out[..row.len()].copy_from_slice(bytemuck::cast_slice(row)),
            Form::Pairs => bf16::round_pairs(isa, row, &mut out[..k.len().div_ceil(2)]),
            Form::Swapped => swapped(isa, row, &mut out[..k.len().next_multiple_of(2)]),
        }
    }
}

dispatched! {
    fn swapped(row: &[f32], out: &mut [u32]) {
        let (pairs, rest) = row.as_chunks::<2>();
        for (o, pair) in out.chunks_exact_mut(2).zip(pairs) {
            o[0] = u32::from(bf16::round(pair[1])) << 16;
            o[1] = u32::from(bf16::round(pair[0])) << 16;
        }
        if let ([last], [.., a, b]) = (rest, out) {
            (*a, *b) = (0, u32::from(bf16::round(*last)) << 16);
        }
    }
}

/// Words to transpose: row r of them begins `stride` bytes after the one before.
#[derive(Clone, Copy)]
struct Words<'a> {
    bytes: &'a [u8],
    stride: usize,
    rows: usize,
    cols: usize,
}

/// out[c, r] ← src[r, c] for `rows` rows of `cols` words, rows `stride` elements
/// apart: a word is one f32, or two bf16.
fn transpose<T: bytemuck::Pod>(
    isa: Isa,
    src: &[T],
    stride: usize,
    rows: usize,
    cols: usize,
    out: &mut [u32],
    out_stride: usize,
) {
    let src = Words {
        bytes: bytemuck::cast_slice(src),
        stride: size_of::<T>() * stride,
        rows,
        cols,
    };
    transpose_words(isa, src, out, out_stride);
}

fn transpose_words(isa: Isa, src: Words<'_>, out: &mut [u32], out_stride: usize) {
    if src.rows == 0 || src.cols == 0 {
        return;
    }
    assert!(src.bytes.len() >= (src.rows - 1) * src.stride + 4 * src.cols);
    assert!(out.len() >= (src.cols - 1) * out_stride + src.rows && out_stride >= src.rows);
    let (mut rows, mut cols) = (0, 0);
    #[cfg(target_arch = "x86_64")]
    if isa.0 != Level::Scalar {
        (rows, cols) = (src.rows / 8 * 8, src.cols / 8 * 8);
        #[expect(
            unsafe_code,
            reason = "the processor has the Isa, and the sizes are checked"
        )]
        // SAFETY: all words and places of these rows and columns are inside the slices.
        unsafe {
            x86::transpose(src, rows, cols, out, out_stride);
        }
    }
    let one = |r: usize, c: usize| {
        let at = r * src.stride + 4 * c;
        u32::from_le_bytes([0, 1, 2, 3].map(|i| src.bytes[at + i]))
    };
    for c in 0..src.cols {
        let first = if c < cols { rows } else { 0 };
        for r in first..src.rows {
            out[c * out_stride + r] = one(r, c);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Words;
    use std::arch::x86_64::*;

    /// The first `rows` rows and `cols` columns, both multiples of eight.
    ///
    /// # Safety
    /// They are inside of `src`, and where they go to is inside of `out`.
    #[expect(
        unsafe_code,
        reason = "vector loads and stores where the caller checked"
    )]
    #[target_feature(enable = "avx2")]
    pub unsafe fn transpose(
        src: Words<'_>,
        rows: usize,
        cols: usize,
        out: &mut [u32],
        out_stride: usize,
    ) {
        let (from, to) = (src.bytes.as_ptr(), out.as_mut_ptr());
        for c in (0..cols).step_by(8) {
            for r in (0..rows).step_by(8) {
                // SAFETY: as promised.
                unsafe {
                    let load =
                        |i: usize| _mm256_loadu_ps(from.add((r + i) * src.stride + 4 * c).cast());
                    let columns = eight_by_eight([0, 1, 2, 3, 4, 5, 6, 7].map(load));
                    for (i, column) in columns.into_iter().enumerate() {
                        _mm256_storeu_ps(to.add((c + i) * out_stride + r).cast(), column);
                    }
                }
            }
        }
    }

    /// Shuffles move bits; it does not matter what numbers they are.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn eight_by_eight(rows: [__m256; 8]) -> [__m256; 8] {
        let [a, b, c, d, e, f, g, h] = rows;
        let (ab, ab2) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd, cd2) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        let (ef, ef2) = (_mm256_unpacklo_ps(e, f), _mm256_unpackhi_ps(e, f));
        let (gh, gh2) = (_mm256_unpacklo_ps(g, h), _mm256_unpackhi_ps(g, h));
        let low = [
            _mm256_shuffle_ps::<0x44>(ab, cd),
            _mm256_shuffle_ps::<0xee>(ab, cd),
            _mm256_shuffle_ps::<0x44>(ab2, cd2),
            _mm256_shuffle_ps::<0xee>(ab2, cd2),
        ];
        let high = [
            _mm256_shuffle_ps::<0x44>(ef, gh),
            _mm256_shuffle_ps::<0xee>(ef, gh),
            _mm256_shuffle_ps::<0x44>(ef2, gh2),
            _mm256_shuffle_ps::<0xee>(ef2, gh2),
        ];
        let join = |i: usize| _mm256_permute2f128_ps::<0x20>(low[i], high[i]);
        let join2 = |i: usize| _mm256_permute2f128_ps::<0x31>(low[i], high[i]);
        [
            join(0),
            join(1),
            join(2),
            join(3),
            join2(0),
            join2(1),
            join2(2),
            join2(3),
        ]
    }
}
