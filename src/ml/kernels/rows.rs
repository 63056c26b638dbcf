//! Products with few rows: every weight is read once, where it lies, by all threads.
//!
//! A token's linear layers are bound by memory traffic, so nothing is packed
//! or copied: tiles of 16 weight rows are transposed in registers on their way
//! to the multiply-adds. An element of the product is what [`super::gemm`]
//! says it is, with the same bits.

use rayon::prelude::*;

use super::gemm::KC;
use super::isa::{Isa, Level};

/// Weight rows of a tile.
const TILE: usize = 16;
/// Rows of the left side that a tile is multiplied with at once.
const GROUP: usize = 8;
/// Rows of the left side up to which [`gemm_few`] is the faster way.
pub const FEW: usize = 24;
/// Multiply-adds below which products stay on one thread.
const SMALL: usize = 1 << 16;
/// Tasks for each thread.
const TASKS: usize = 3;

/// The sums of a tile for the rows of a group.
type Sums = [[f32; TILE]; GROUP];

/// One of the products of a common left side.
pub struct Part<'a> {
    /// Row-major [columns of the product, k].
    pub weights: &'a [f32],
    /// The product, row-major, [rows, columns].
    pub out: &'a mut [f32],
    /// Whether the product is added to `out`.
    pub accumulate: bool,
}

/// Columns of one product, for one thread.
struct Task<'a> {
    weights: &'a [f32],
    /// These columns of every row of the product.
    lines: Vec<&'a mut [f32]>,
    accumulate: bool,
}

/// C ← X·Wᵀ, or C ← C + X·Wᵀ, for every part. X is row-major, [rows, k].
pub fn gemm_few(isa: Isa, x: &[f32], rows: usize, parts: Vec<Part<'_>>) {
    if rows == 0 || parts.is_empty() {
        return;
    }
    let k = x.len() / rows;
    assert_eq!(
        x.len(),
        rows * k,
        "the left side has a row that is not whole"
    );
    let columns: usize = parts.iter().map(|part| part.out.len() / rows).sum();
    let threads = rayon::current_num_threads();
    if threads == 1 || rows * k * columns < SMALL {
        for task in parts
            .into_iter()
            .flat_map(|part| split(part, rows, k, usize::MAX))
        {
            work(isa, x, k, task);
        }
        return;
    }
    let share = columns.div_ceil(threads * TASKS).next_multiple_of(TILE);
    let tasks = parts
        .into_iter()
        .flat_map(|part| split(part, rows, k, share));
    let tasks: Vec<Task<'_>> = tasks.collect();
    tasks.into_par_iter().for_each(|task| work(isa, x, k, task));
}

/// Tasks of at most `share` columns.
fn split(part: Part<'_>, rows: usize, k: usize, share: usize) -> Vec<Task<'_>> {
    let columns = part.out.len() / rows;
    assert!(
        part.weights.len() == columns * k && part.out.len() == columns * rows,
        "the sides of a product do not fit"
    );
    let mut tasks: Vec<Task<'_>> = (0..columns)
        .step_by(share.min(columns.max(1)))
        .map(|from| Task {
            weights: &part.weights[from * k..(from.saturating_add(share)).min(columns) * k],
            lines: Vec::with_capacity(rows),
            accumulate: part.accumulate,
        })
        .collect();
    for line in part.out.chunks_exact_mut(columns.max(1)) {
        for (task, line) in tasks.iter_mut().zip(line.chunks_mut(share.min(columns))) {
            task.lines.push(line);
        }
    }
    tasks
}

fn work(isa: Isa, x: &[f32], k: usize, mut task: Task<'_>) {
    let columns = task.lines.first().map_or(0, |line| line.len());
    if k == 0 {
        if !task.accumulate {
            task.lines.iter_mut().for_each(|line| line.fill(0.0));
        }
        return;
    }
    for from in (0..columns).step_by(TILE) {
        let width = TILE.min(columns - from);
        let weights = &task.weights[from * k..(from + width) * k];
        for block in (0..k).step_by(KC) {
            let depth = KC.min(k - block);
            let first = block == 0 && !task.accumulate;
            for (group, lines) in task.lines.chunks_mut(GROUP).enumerate() {
                let x = &x[group * GROUP * k..][..lines.len() * k];
                let mut sums: Sums = [[0.0; TILE]; GROUP];
                let tile = Tile {
                    weights,
                    x,
                    k,
                    block,
                    depth,
                    rows: lines.len(),
                };
                tile.multiply(isa, width, &mut sums);
                for (line, sums) in lines.iter_mut().zip(&sums) {
                    add(&mut line[from..from + width], sums, first);
                }
            }
        }
    }
}

#[inline]
fn add(line: &mut [f32], sums: &[f32; TILE], first: bool) {
    for (c, sum) in line.iter_mut().zip(sums) {
        *c = if first { *sum } else { *c + sum };
    }
}

/// Some rows of X and a tile of weights, in one block of k.
struct Tile<'a> {
    /// At most [`TILE`] whole rows.
    weights: &'a [f32],
    /// `rows` whole rows.
    x: &'a [f32],
    k: usize,
    block: usize,
    depth: usize,
    rows: usize,
}

impl Tile<'_> {
    fn multiply(&self, isa: Isa, width: usize, sums: &mut Sums) {
        assert!(self.weights.len() == width * self.k && self.x.len() == self.rows * self.k);
        assert!(self.block + self.depth <= self.k && self.rows <= GROUP);
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            #[expect(
                unsafe_code,
                reason = "the processor has the Isa, and the sizes are checked"
            )]
            Level::Avx512 | Level::Avx512Bf16 if width == TILE => unsafe {
                x86::by_rows_avx512(self, sums)
            },
            #[cfg(target_arch = "x86_64")]
            #[expect(
                unsafe_code,
                reason = "the processor has the Isa, and the sizes are checked"
            )]
            Level::Avx2 if width == TILE => unsafe { x86::by_rows_avx2(self, sums) },
            _ => self.multiply_plain(isa, sums),
        }
    }

    /// The definition; also for the last columns where they fill no tile.
    fn multiply_plain(&self, isa: Isa, sums: &mut Sums) {
        let block = self.block..self.block + self.depth;
        for (j, weights) in self.weights.chunks_exact(self.k).enumerate() {
            for (x, sums) in self.x.chunks_exact(self.k).zip(sums.iter_mut()) {
                sums[j] = chain(isa, &x[block.clone()], &weights[block.clone()]);
            }
        }
    }
}

super::isa::dispatched! {
    /// Σ xᵢ·wᵢ as one chain of fused multiply-adds.
    fn chain(x: &[f32], w: &[f32]) -> f32 {
        x.iter().zip(w).fold(0.0, |sum, (x, w)| x.mul_add(*w, sum))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{GROUP, Sums, TILE, Tile};
    use std::arch::x86_64::*;

    /// Calls the variant for the tile's number of rows.
    macro_rules! by_rows {
        ($tile:expr, $sums:expr, $variant:ident) => {
            match $tile.rows {
                1 => $variant::<1>($tile, $sums),
                2 => $variant::<2>($tile, $sums),
                3 => $variant::<3>($tile, $sums),
                4 => $variant::<4>($tile, $sums),
                5 => $variant::<5>($tile, $sums),
                6 => $variant::<6>($tile, $sums),
                7 => $variant::<7>($tile, $sums),
                _ => $variant::<GROUP>($tile, $sums),
            }
        };
    }

    /// # Safety
    /// The tile has 16 whole rows of weights, and its block lies within k.
    #[expect(unsafe_code, reason = "vector code behind a checked caller")]
    #[target_feature(enable = "avx2,fma,avx512f")]
    pub unsafe fn by_rows_avx512(tile: &Tile<'_>, sums: &mut Sums) {
        // SAFETY: as promised.
        unsafe { by_rows!(tile, sums, avx512) }
    }

    /// # Safety
    /// As for [`by_rows_avx512`].
    #[expect(unsafe_code, reason = "vector code behind a checked caller")]
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn by_rows_avx2(tile: &Tile<'_>, sums: &mut Sums) {
        // SAFETY: as promised.
        unsafe { by_rows!(tile, sums, avx2) }
    }

    /// Sixteen k at a time: a cache line of each weight row is read whole, for
    /// rows that lie a power of two apart share few places in the cache, and
    /// transposing 16 × 16 leaves a register for each k with the 16 rows side
    /// by side. The same place in the next tile is asked for ahead: sixteen
    /// rows read side by side are more than the processor foresees.
    ///
    /// # Safety
    /// As for [`by_rows_avx512`]; the tile has M rows of X.
    #[expect(
        unsafe_code,
        reason = "vector loads inside slices that the caller checked"
    )]
    #[inline]
    #[target_feature(enable = "avx2,fma,avx512f")]
    unsafe fn avx512<const M: usize>(tile: &Tile<'_>, sums: &mut Sums) {
        let k = tile.k;
        let mut totals = [_mm512_setzero_ps(); M];
        let weights = tile.weights.as_ptr().wrapping_add(tile.block);
        let x = tile.x.as_ptr().wrapping_add(tile.block);
        let whole = tile.depth / TILE * TILE;
        // SAFETY: rows 0..16 at columns below `depth` of the block, as promised.
        unsafe {
            for p in (0..whole).step_by(TILE) {
                let w = weights.add(p);
                let mut lines = [_mm512_setzero_ps(); TILE];
                for (row, line) in lines.iter_mut().enumerate() {
                    *line = _mm512_loadu_ps(w.add(row * k));
                    _mm_prefetch::<_MM_HINT_T1>(w.wrapping_add((TILE + row) * k).cast());
                }
                transpose(&mut lines);
                for (m, total) in totals.iter_mut().enumerate() {
                    for (i, column) in lines.iter().enumerate() {
                        let x = _mm512_set1_ps(*x.add(m * k + p + i));
                        *total = _mm512_fmadd_ps(x, *column, *total);
                    }
                }
            }
            for p in whole..tile.depth {
                let mut column = [0.0f32; TILE];
                for (row, out) in column.iter_mut().enumerate() {
                    *out = *weights.add(row * k + p);
                }
                let column = _mm512_loadu_ps(column.as_ptr());
                for (m, total) in totals.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*x.add(m * k + p));
                    *total = _mm512_fmadd_ps(x, column, *total);
                }
            }
            for (total, sums) in totals.iter().zip(sums) {
                _mm512_storeu_ps(sums.as_mut_ptr(), *total);
            }
        }
    }

    /// Rows ↔ columns of 16 × 16: first inside of the 4 × 4 blocks, then the blocks.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn transpose(lines: &mut [__m512; TILE]) {
        let pd = _mm512_castps_pd;
        // Of rows 4g to 4g + 3, blocks[g][c] has in lane l column 4l + c.
        let mut blocks = [[_mm512_setzero_ps(); 4]; 4];
        for (rows, block) in lines.chunks_exact(4).zip(&mut blocks) {
            let low = pd(_mm512_unpacklo_ps(rows[0], rows[1]));
            let high = pd(_mm512_unpackhi_ps(rows[0], rows[1]));
            let low2 = pd(_mm512_unpacklo_ps(rows[2], rows[3]));
            let high2 = pd(_mm512_unpackhi_ps(rows[2], rows[3]));
            *block = [
                _mm512_castpd_ps(_mm512_unpacklo_pd(low, low2)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(low, low2)),
                _mm512_castpd_ps(_mm512_unpacklo_pd(high, high2)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(high, high2)),
            ];
        }
        for c in 0..4 {
            let [a, b, d, e] = [blocks[0][c], blocks[1][c], blocks[2][c], blocks[3][c]];
            // Lanes 0 and 2, and 1 and 3, of each pair; then those of the pairs.
            let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
            let odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
            let even2 = _mm512_shuffle_f32x4::<0b10_00_10_00>(d, e);
            let odd2 = _mm512_shuffle_f32x4::<0b11_01_11_01>(d, e);
            lines[c] = _mm512_shuffle_f32x4::<0b10_00_10_00>(even, even2);
            lines[4 + c] = _mm512_shuffle_f32x4::<0b10_00_10_00>(odd, odd2);
            lines[8 + c] = _mm512_shuffle_f32x4::<0b11_01_11_01>(even, even2);
            lines[12 + c] = _mm512_shuffle_f32x4::<0b11_01_11_01>(odd, odd2);
        }
    }

    /// As [`avx512`], in two halves of 8 rows and four k at a time: lane q of
    /// line i is four floats of weight row 4q + i, and transposing 4 × 4 in
    /// each lane leaves a register for each k.
    ///
    /// # Safety
    /// As for [`avx512`].
    #[expect(
        unsafe_code,
        reason = "vector loads inside slices that the caller checked"
    )]
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const M: usize>(tile: &Tile<'_>, sums: &mut Sums) {
        const HALF: usize = TILE / 2;
        let k = tile.k;
        let whole = tile.depth / 4 * 4;
        for half in [0, HALF] {
            let mut totals = [_mm256_setzero_ps(); M];
            let weights = tile.weights.as_ptr().wrapping_add(half * k + tile.block);
            let x = tile.x.as_ptr().wrapping_add(tile.block);
            // SAFETY: rows 0..8 of the half at columns below `depth` of the block, as promised.
            unsafe {
                for p in (0..whole).step_by(4) {
                    let w = weights.add(p);
                    if p % 16 == 0 {
                        for row in 0..HALF {
                            let line = w.wrapping_add((TILE + row) * k);
                            _mm_prefetch::<_MM_HINT_T1>(line.cast());
                        }
                    }
                    let four = |row: usize| _mm_loadu_ps(w.add(row * k));
                    let mut lines = [_mm256_setzero_ps(); 4];
                    for (i, line) in lines.iter_mut().enumerate() {
                        let low = _mm256_castps128_ps256(four(i));
                        *line = _mm256_insertf128_ps::<1>(low, four(4 + i));
                    }
                    let low = _mm256_unpacklo_ps(lines[0], lines[1]);
                    let high = _mm256_unpackhi_ps(lines[0], lines[1]);
                    let low2 = _mm256_unpacklo_ps(lines[2], lines[3]);
                    let high2 = _mm256_unpackhi_ps(lines[2], lines[3]);
                    let pd = _mm256_castps_pd;
                    let columns = [
                        _mm256_castpd_ps(_mm256_unpacklo_pd(pd(low), pd(low2))),
                        _mm256_castpd_ps(_mm256_unpackhi_pd(pd(low), pd(low2))),
                        _mm256_castpd_ps(_mm256_unpacklo_pd(pd(high), pd(high2))),
                        _mm256_castpd_ps(_mm256_unpackhi_pd(pd(high), pd(high2))),
                    ];
                    for (m, total) in totals.iter_mut().enumerate() {
                        for (i, column) in columns.iter().enumerate() {
                            let x = _mm256_set1_ps(*x.add(m * k + p + i));
                            *total = _mm256_fmadd_ps(x, *column, *total);
                        }
                    }
                }
                for p in whole..tile.depth {
                    let mut column = [0.0f32; HALF];
                    for (row, out) in column.iter_mut().enumerate() {
                        *out = *weights.add(row * k + p);
                    }
                    let column = _mm256_loadu_ps(column.as_ptr());
                    for (m, total) in totals.iter_mut().enumerate() {
                        let x = _mm256_set1_ps(*x.add(m * k + p));
                        *total = _mm256_fmadd_ps(x, column, *total);
                    }
                }
                for (total, sums) in totals.iter().zip(sums.iter_mut()) {
                    _mm256_storeu_ps(sums.as_mut_ptr().add(half), *total);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ml::kernels::{View, gemm};
    use crate::ml::rng::Stream;
    use proptest::prelude::*;

    fn random(seed: u64, name: &str, n: usize) -> Vec<f32> {
        let mut out = vec![0.0; n];
        Stream::new(seed, name, 0, "").normal(0.0, 1.0, &mut out);
        out
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|x| x.to_bits()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(80))]
        #[test]
        fn the_bits_are_those_of_every_other_product(
            rows in 1usize..20, n in 1usize..80, other in 1usize..40, k in 1usize..600,
            accumulate: bool, threads in 1usize..4, seed: u64,
        ) {
            let (x, start) = (random(seed, "x", rows * k), random(seed, "c", rows * n));
            let weights = [random(seed, "v", n * k), random(seed, "w", other * k)];
            let mut wanted = [start.clone(), vec![0.0; rows * other]];
            let view = View::new(&x, rows, k);
            let isa = Isa::scalar();
            gemm(isa, view, View::new(&weights[0], n, k).t(), &mut wanted[0], n, accumulate);
            gemm(isa, view, View::new(&weights[1], other, k).t(), &mut wanted[1], other, false);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for isa in Isa::available() {
                let mut found = [start.clone(), vec![1.0; rows * other]];
                let [a, b] = &mut found;
                let part = |i: usize, out, accumulate| Part { weights: &weights[i], out, accumulate };
                let parts = vec![part(0, a, accumulate), part(1, b, false)];
                pool.install(|| gemm_few(isa, &x, rows, parts));
                prop_assert_eq!(bits(&found[0]), bits(&wanted[0]), "{}", isa);
                prop_assert_eq!(bits(&found[1]), bits(&wanted[1]), "{}", isa);
            }
        }
    }

    #[test]
    fn an_empty_sum_is_zero() {
        let mut out = vec![1.0; 4];
        let part = Part {
            weights: &[],
            out: &mut out,
            accumulate: false,
        };
        gemm_few(Isa::detect(), &[], 2, vec![part]);
        assert_eq!(out, [0.0; 4]);
    }
}
