//! Matrix products whose bits depend on the operands alone.
//!
//! Every element of C is Σ over k in blocks of [`KC`]: inside a block one
//! chain of fused multiply-adds that starts at 0 and runs upward in k, and the
//! blocks' sums are added to C in order. Tile sizes, packing and threads only
//! decide when an element is computed. (After the blocking of Goto and van de
//! Geijn, "Anatomy of high-performance matrix multiplication", 2008.)

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::isa::{Isa, Level};

/// Length of one chain of multiply-adds. Part of what the numbers are: never change it.
pub(super) const KC: usize = 256;
/// Rows of a tile.
const MR: usize = 12;
/// Columns of a tile.
const NR: usize = 32;
/// Columns of B that are packed at once.
const NC: usize = 32 * NR;
/// Most rows of a task.
const MC: usize = 8 * MR;
/// Multiply-adds below which a product stays on one thread.
const SMALL: usize = 1 << 20;

type Tile = [f32; MR * NR];

/// A matrix somewhere in a slice.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> View<'a> {
    /// A row-major matrix without gaps.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows begin `stride` elements apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        let needed = match (rows, cols) {
            (0, _) | (_, 0) => 0,
            _ => (rows - 1) * stride + cols,
        };
        assert!(data.len() >= needed, "a matrix reaches beyond its slice");
        View {
            data,
            rows,
            cols,
            row_stride: stride,
            col_stride: 1,
        }
    }

    /// The transposed matrix.
    pub fn t(self) -> Self {
        View {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    #[inline(always)]
    fn at(&self, row: usize, col: usize) -> f32 {
        self.data[row * self.row_stride + col * self.col_stride]
    }
}

/// The right side of a product in the order in which tiles read it: panels of
/// `NR` columns, each with k contiguous, the last one filled up with zeros.
pub struct Packed {
    k: usize,
    n: usize,
    panels: Vec<f32>,
}

impl Packed {
    /// Packs B [k, n], to be used in many products.
    pub fn new(b: View<'_>) -> Self {
        let (k, n) = (b.rows, b.cols);
        let mut panels = vec![0.0; n.div_ceil(NR) * NR * k];
        if k > 0 {
            panels
                .par_chunks_mut(k * NR)
                .enumerate()
                .for_each(|(j, panel)| pack_panel(b, j * NR, panel));
        }
        Packed { k, n, panels }
    }

    /// Columns of the product.
    pub fn cols(&self) -> usize {
        self.n
    }
}

fn pack_panel(b: View<'_>, col: usize, panel: &mut [f32]) {
    let width = NR.min(b.cols - col);
    if b.col_stride == 1 {
        for (p, row) in panel.chunks_exact_mut(NR).enumerate() {
            let start = p * b.row_stride + col;
            row[..width].copy_from_slice(&b.data[start..start + width]);
            row[width..].fill(0.0);
        }
    } else {
        for j in 0..width {
            for (p, row) in panel.chunks_exact_mut(NR).enumerate() {
                row[j] = b.at(p, col + j);
            }
        }
        for row in panel.chunks_exact_mut(NR) {
            row[width..].fill(0.0);
        }
    }
}

/// [`MR`] rows of A over one block of k, wherever they lie.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [f32],
    row_stride: usize,
    col_stride: usize,
    depth: usize,
}

impl<'a> Rows<'a> {
    /// Rows from `row` on, in place when all of them exist, else copied into
    /// `buffer` and filled up with zeros.
    fn new(a: View<'a>, row: usize, block: &Range<usize>, buffer: &'a mut Vec<f32>) -> Self {
        let depth = block.len();
        if row + MR <= a.rows {
            let start = row * a.row_stride + block.start * a.col_stride;
            return Rows {
                data: &a.data[start..],
                row_stride: a.row_stride,
                col_stride: a.col_stride,
                depth,
            };
        }
        buffer.clear();
        buffer.resize(MR * depth, 0.0);
        for (r, line) in buffer.chunks_exact_mut(depth).enumerate() {
            if row + r < a.rows {
                for (p, out) in line.iter_mut().enumerate() {
                    *out = a.at(row + r, block.start + p);
                }
            }
        }
        Rows {
            data: buffer,
            row_stride: depth,
            col_stride: 1,
            depth,
        }
    }

    /// One more than the greatest index in use.
    fn end(&self) -> usize {
        (MR - 1) * self.row_stride + (self.depth - 1) * self.col_stride + 1
    }
}

/// C ← A·B, or C ← C + A·B when `accumulate`. C [m, n] is row-major with rows
/// `ldc` elements apart.
pub fn gemm(isa: Isa, a: View<'_>, b: View<'_>, c: &mut [f32], ldc: usize, accumulate: bool) {
    assert_eq!(a.cols, b.rows, "the sides of a product do not fit");
    let (k, n) = (b.rows, b.cols);
    if a.rows == 0 || n == 0 {
        return;
    }
    if small(a.rows, n, k) {
        return gemm_serial(isa, a, b, c, ldc, accumulate);
    }
    let mut col = 0;
    while col < n {
        let width = NC.min(n - col);
        let block = View {
            data: &b.data[col * b.col_stride..],
            cols: width,
            ..b
        };
        gemm_packed(isa, a, &Packed::new(block), &mut c[col..], ldc, accumulate);
        col += width;
    }
}

/// [`gemm`] on the calling thread alone, for products inside of parallel work.
pub fn gemm_serial(
    isa: Isa,
    a: View<'_>,
    b: View<'_>,
    c: &mut [f32],
    ldc: usize,
    accumulate: bool,
) {
    assert_eq!(a.cols, b.rows, "the sides of a product do not fit");
    let (k, n) = (b.rows, b.cols);
    PANELS.with_borrow_mut(|panels| {
        panels.resize(n.div_ceil(NR) * NR * k, 0.0);
        for (j, panel) in panels.chunks_exact_mut((k * NR).max(1)).enumerate() {
            pack_panel(b, j * NR, panel);
        }
        multiply_rows(isa, a, 0, k, n, panels, c, ldc, accumulate);
    });
}

/// [`gemm`] with a right side that was packed before.
pub fn gemm_packed(isa: Isa, a: View<'_>, b: &Packed, c: &mut [f32], ldc: usize, accumulate: bool) {
    assert_eq!(a.cols, b.k, "the sides of a product do not fit");
    let (m, k, n) = (a.rows, b.k, b.n);
    if m == 0 || n == 0 {
        return;
    }
    if small(m, n, k) {
        multiply_rows(isa, a, 0, k, n, &b.panels, c, ldc, accumulate);
    } else if m <= 2 * MR {
        multiply_columns(isa, a, b, c, ldc, accumulate);
    } else {
        let tasks = (2 * rayon::current_num_threads()).max(1);
        let rows = m.div_ceil(tasks).next_multiple_of(MR).min(MC);
        let end = (m - 1) * ldc + n;
        c[..end]
            .par_chunks_mut(rows * ldc)
            .enumerate()
            .for_each(|(i, c)| {
                multiply_rows(isa, a, i * rows, k, n, &b.panels, c, ldc, accumulate);
            });
    }
}

fn small(m: usize, n: usize, k: usize) -> bool {
    m * n * k < SMALL || rayon::current_num_threads() == 1
}

thread_local! {
    /// Borrowed only while no other task can run on the thread.
    static PANELS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The rows of C that lie in `c`, which begins at row `row` of A.
#[expect(clippy::too_many_arguments, reason = "the parts of one product")]
fn multiply_rows(
    isa: Isa,
    a: View<'_>,
    row: usize,
    k: usize,
    n: usize,
    panels: &[f32],
    c: &mut [f32],
    ldc: usize,
    accumulate: bool,
) {
    let held = if c.len() < n {
        0
    } else {
        (c.len() - n) / ldc + 1
    };
    let rows = held.min(a.rows - row);
    if k == 0 && !accumulate {
        for line in c.chunks_mut(ldc).take(rows) {
            line[..n].fill(0.0);
        }
    }
    let mut buffer = Vec::new();
    for from in (0..k).step_by(KC) {
        let block = from..(from + KC).min(k);
        let first = !accumulate && from == 0;
        for (j, panel) in panels.chunks_exact(k * NR).enumerate() {
            let panel = &panel[block.start * NR..block.end * NR];
            let width = NR.min(n - j * NR);
            for done in (0..rows).step_by(MR) {
                let mut tile: Tile = [0.0; MR * NR];
                let lines = Rows::new(a, row + done, &block, &mut buffer);
                multiply_tile(isa, lines, panel, &mut tile);
                let c = &mut c[done * ldc + j * NR..];
                add_tile(&tile, c, ldc, MR.min(rows - done), width, first);
            }
        }
    }
}

/// Adds the sums of a tile to C, or overwrites C with them when they are the `first`.
#[inline]
fn add_tile(tile: &Tile, c: &mut [f32], ldc: usize, height: usize, width: usize, first: bool) {
    for (r, sums) in tile.chunks_exact(NR).take(height).enumerate() {
        let line = &mut c[r * ldc..r * ldc + width];
        if first {
            line.copy_from_slice(&sums[..width]);
        } else {
            for (c, sum) in line.iter_mut().zip(sums) {
                *c += sum;
            }
        }
    }
}

/// Few rows, many columns: threads share out the panels.
fn multiply_columns(
    isa: Isa,
    a: View<'_>,
    b: &Packed,
    c: &mut [f32],
    ldc: usize,
    accumulate: bool,
) {
    let (m, k, n) = (a.rows, b.k, b.n);
    let mut columns = vec![0.0; b.panels.len() / k.max(1) * m];
    columns
        .par_chunks_mut(m * NR)
        .zip(b.panels.par_chunks(k * NR))
        .with_min_len(4)
        .enumerate()
        .for_each(|(j, (out, panel))| {
            let width = NR.min(n - j * NR);
            if accumulate {
                for r in 0..m {
                    let start = r * ldc + j * NR;
                    out[r * NR..r * NR + width].copy_from_slice(&c[start..start + width]);
                }
            }
            multiply_rows(isa, a, 0, k, NR, panel, out, NR, accumulate);
        });
    for (j, out) in columns.chunks_exact(m * NR).enumerate() {
        let width = NR.min(n - j * NR);
        for r in 0..m {
            let start = r * ldc + j * NR;
            c[start..start + width].copy_from_slice(&out[r * NR..r * NR + width]);
        }
    }
}

/// The sums of one tile over one block; `panel` is [depth, NR].
fn multiply_tile(isa: Isa, rows: Rows<'_>, panel: &[f32], tile: &mut Tile) {
    assert!(panel.len() == rows.depth * NR && rows.data.len() >= rows.end());
    match isa.0 {
        Level::Scalar => tile_scalar(rows, panel, tile),
        #[cfg(target_arch = "x86_64")]
        #[expect(
            unsafe_code,
            reason = "the processor has the Isa, and the sizes are checked"
        )]
        Level::Avx2 => unsafe { x86::tile_avx2(rows, panel, tile) },
        #[cfg(target_arch = "x86_64")]
        #[expect(
            unsafe_code,
            reason = "the processor has the Isa, and the sizes are checked"
        )]
        Level::Avx512 => unsafe { x86::tile_avx512(rows, panel, tile) },
    }
}

fn tile_scalar(rows: Rows<'_>, panel: &[f32], tile: &mut Tile) {
    for (p, b) in panel.chunks_exact(NR).enumerate() {
        for (r, line) in tile.chunks_exact_mut(NR).enumerate() {
            let a = rows.data[r * rows.row_stride + p * rows.col_stride];
            for (sum, b) in line.iter_mut().zip(b) {
                *sum = a.mul_add(*b, *sum);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{MR, NR, Rows, Tile};
    use std::arch::x86_64::*;

    /// All 12 × 32 sums in 24 registers.
    ///
    /// # Safety
    /// `panel` holds `rows.depth` lines and `rows.data` reaches `rows.end()`.
    #[expect(
        unsafe_code,
        reason = "vector loads inside slices that the caller checked"
    )]
    #[target_feature(enable = "avx512f")]
    pub unsafe fn tile_avx512(rows: Rows<'_>, panel: &[f32], tile: &mut Tile) {
        let mut sums = [[_mm512_setzero_ps(); 2]; MR];
        let (mut a, mut b) = (rows.data.as_ptr(), panel.as_ptr());
        for _ in 0..rows.depth {
            // SAFETY: a line of `panel` and a column of `rows`, as promised.
            unsafe {
                let line = [_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16))];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let a = _mm512_set1_ps(*a.add(r * rows.row_stride));
                    sums[0] = _mm512_fmadd_ps(a, line[0], sums[0]);
                    sums[1] = _mm512_fmadd_ps(a, line[1], sums[1]);
                }
            }
            a = a.wrapping_add(rows.col_stride);
            b = b.wrapping_add(NR);
        }
        for (line, sums) in tile.chunks_exact_mut(NR).zip(sums) {
            // SAFETY: `line` holds 32 elements.
            unsafe {
                _mm512_storeu_ps(line.as_mut_ptr(), sums[0]);
                _mm512_storeu_ps(line.as_mut_ptr().add(16), sums[1]);
            }
        }
    }

    /// Four parts of 6 × 16 sums, each in 12 registers.
    ///
    /// # Safety
    /// As for [`tile_avx512`].
    #[expect(
        unsafe_code,
        reason = "vector loads inside slices that the caller checked"
    )]
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn tile_avx2(rows: Rows<'_>, panel: &[f32], tile: &mut Tile) {
        const HEIGHT: usize = MR / 2;
        for (top, left) in [(0, 0), (0, 16), (HEIGHT, 0), (HEIGHT, 16)] {
            let mut sums = [[_mm256_setzero_ps(); 2]; HEIGHT];
            let mut a = rows.data.as_ptr().wrapping_add(top * rows.row_stride);
            let mut b = panel.as_ptr().wrapping_add(left);
            for _ in 0..rows.depth {
                // SAFETY: half a line of `panel` and of a column of `rows`, as promised.
                unsafe {
                    let line = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let a = _mm256_set1_ps(*a.add(r * rows.row_stride));
                        sums[0] = _mm256_fmadd_ps(a, line[0], sums[0]);
                        sums[1] = _mm256_fmadd_ps(a, line[1], sums[1]);
                    }
                }
                a = a.wrapping_add(rows.col_stride);
                b = b.wrapping_add(NR);
            }
            let lines = tile.chunks_exact_mut(NR).skip(top);
            for (line, sums) in lines.zip(sums) {
                // SAFETY: `line` holds 32 elements and `left` is at most 16.
                unsafe {
                    _mm256_storeu_ps(line.as_mut_ptr().add(left), sums[0]);
                    _mm256_storeu_ps(line.as_mut_ptr().add(left + 8), sums[1]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ml::rng::Stream;
    use proptest::prelude::*;

    /// The definition at the head of this file, as a loop.
    fn reference(a: View<'_>, b: View<'_>, c: &mut [f32], ldc: usize, accumulate: bool) {
        for i in 0..a.rows {
            for j in 0..b.cols {
                let mut total = if accumulate { c[i * ldc + j] } else { 0.0 };
                for from in (0..a.cols).step_by(KC) {
                    let mut chain = 0.0f32;
                    for p in from..(from + KC).min(a.cols) {
                        chain = a.at(i, p).mul_add(b.at(p, j), chain);
                    }
                    total = if from == 0 && !accumulate {
                        chain
                    } else {
                        total + chain
                    };
                }
                c[i * ldc + j] = total;
            }
        }
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|x| x.to_bits()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn every_variant_gives_the_bits_of_the_definition(
            m in 1usize..70, n in 1usize..140, k in 1usize..600, gap in 0usize..3,
            a_t: bool, b_t: bool, accumulate: bool, threads in 1usize..4, seed: u64,
        ) {
            let random = |name: &str, n: usize| {
                let mut out = vec![0.0; n];
                Stream::new(seed, name, 0, "").normal(0.0, 1.0, &mut out);
                out
            };
            let (a, b) = (random("a", m * k), random("b", k * n));
            let a = if a_t { View::new(&a, k, m).t() } else { View::new(&a, m, k) };
            let b = if b_t { View::new(&b, n, k).t() } else { View::new(&b, k, n) };
            let ldc = n + gap;
            let start = random("c", m * ldc);
            let mut wanted = start.clone();
            reference(a, b, &mut wanted, ldc, accumulate);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for isa in Isa::available() {
                let (mut c, mut d) = (start.clone(), start.clone());
                pool.install(|| {
                    gemm(isa, a, b, &mut c, ldc, accumulate);
                    gemm_packed(isa, a, &Packed::new(b), &mut d, ldc, accumulate);
                });
                prop_assert_eq!(bits(&c), bits(&wanted), "{}", isa);
                prop_assert_eq!(bits(&d), bits(&wanted), "{} packed", isa);
            }
        }
    }

    #[test]
    fn an_empty_sum_is_zero() {
        let mut c = vec![1.0; 4];
        gemm(
            Isa::detect(),
            View::new(&[], 2, 0),
            View::new(&[], 0, 2),
            &mut c,
            2,
            false,
        );
        assert_eq!(c, [0.0; 4]);
    }
}
