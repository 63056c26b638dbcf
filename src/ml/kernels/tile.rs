//! Tiles: the sums of a few rows and one panel over one block of k, in registers.

use super::bf16;
use super::gemm::{MR, NR};
use super::isa::{Isa, Level};

/// Words in a line of the packed left side.
pub const LINE: usize = 256;
/// The same where bf16 was widened.
pub const WIDE: usize = 2 * LINE;

/// Rows of the left side that a tile reads, `stride` words apart.
#[derive(Clone, Copy)]
pub struct Lines<'a> {
    /// From the tile's first row on.
    pub words: &'a [u32],
    /// [`LINE`] or [`WIDE`].
    pub stride: usize,
    /// Words of k.
    pub depth: usize,
    /// Rows that count, at most [`MR`].
    pub height: usize,
}

/// Where the sums go: rows of C `ldc` elements apart.
pub struct Target<'a> {
    /// From the tile's first element on.
    pub c: &'a mut [f32],
    /// Distance of rows.
    pub ldc: usize,
    /// Columns that count, at most [`NR`].
    pub width: usize,
    /// Whether the sums are added to what is there.
    pub add: bool,
}

/// What a word is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// An f32.
    Single,
    /// Two bf16.
    Pair,
}

/// Sums of one tile; `panel` is [depth, NR].
pub fn multiply(isa: Isa, word: Word, lines: Lines<'_>, panel: &[u32], target: Target<'_>) {
    let Lines {
        stride,
        depth,
        height,
        ..
    } = lines;
    assert!(depth <= stride && (1..=MR).contains(&height) && panel.len() == depth * NR);
    let tall = [1, 4, 8, MR]
        .into_iter()
        .find(|tall| *tall >= height)
        .unwrap_or(MR);
    assert!(lines.words.len() >= (tall - 1) * stride + depth);
    let columns = if target.width <= NR / 2 { NR / 2 } else { NR };
    let tile = Tile {
        word,
        tall,
        stride,
        depth,
        columns,
    };
    if height == tall && target.width == columns {
        assert!(target.c.len() >= (tall - 1) * target.ldc + columns);
        tile.run(isa, lines.words, panel, target.c, target.ldc, target.add);
        return;
    }
    let mut sums = [0.0; MR * NR];
    tile.run(isa, lines.words, panel, &mut sums, NR, false);
    for (r, sums) in sums.chunks_exact(NR).take(height).enumerate() {
        let line = &mut target.c[r * target.ldc..][..target.width];
        match target.add {
            true => line.iter_mut().zip(sums).for_each(|(c, sum)| *c += sum),
            false => line.copy_from_slice(&sums[..target.width]),
        }
    }
}

/// The size of a tile as it is computed: more than what counts at the edges.
#[derive(Clone, Copy)]
struct Tile {
    word: Word,
    tall: usize,
    stride: usize,
    depth: usize,
    columns: usize,
}

impl Tile {
    fn run(self, isa: Isa, a: &[u32], b: &[u32], c: &mut [f32], ldc: usize, add: bool) {
        match isa.0 {
            Level::Scalar => self.scalar(a, b, c, ldc, add),
            #[cfg(target_arch = "x86_64")]
            level => x86::run(level, self, a, b, c, ldc, add),
        }
    }

    /// The definition.
    fn scalar(self, a: &[u32], b: &[u32], c: &mut [f32], ldc: usize, add: bool) {
        for r in 0..self.tall {
            for j in 0..self.columns {
                let mut sum = 0.0f32;
                for p in 0..self.depth {
                    let (a, b) = (a[r * self.stride + p], b[p * NR + j]);
                    sum = match self.word {
                        Word::Single => f32::from_bits(a).mul_add(f32::from_bits(b), sum),
                        Word::Pair => bf16::dot_pair(sum, a, b),
                    };
                }
                let c = &mut c[r * ldc + j];
                *c = if add { *c + sum } else { sum };
            }
        }
    }
}

/// The sums of a tile of widened bf16 by the definition of a multiply-add, for
/// the rare operands so small that plain multiply-adds differ from it.
pub fn multiply_slowly(lines: Lines<'_>, panel: &[u32], target: Target<'_>) {
    for r in 0..lines.height {
        for j in 0..target.width {
            let line = &lines.words[r * lines.stride..][..lines.depth];
            let column = panel.iter().skip(j).step_by(NR);
            let sum = line.iter().zip(column).fold(0.0, |sum, (a, b)| {
                bf16::multiply_add(f32::from_bits(*a), f32::from_bits(*b), sum)
            });
            let c = &mut target.c[r * target.ldc + j];
            *c = if target.add { *c + sum } else { sum };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LINE, Level, NR, Tile, WIDE, Word};
    use std::arch::x86_64::*;

    /// A pointer to each operand and how C is written.
    #[derive(Clone, Copy)]
    struct Place {
        a: *const u32,
        b: *const u32,
        c: *mut f32,
        ldc: usize,
        depth: usize,
        add: bool,
    }

    pub fn run(level: Level, t: Tile, a: &[u32], b: &[u32], c: &mut [f32], ldc: usize, add: bool) {
        let place = Place {
            a: a.as_ptr(),
            b: b.as_ptr(),
            c: c.as_mut_ptr(),
            ldc,
            depth: t.depth,
            add,
        };
        macro_rules! heights {
            ($f:ident, $stride:ident, $vectors:literal) => {
                match t.tall {
                    1 => $f::<1, $vectors, $stride>(place),
                    4 => $f::<4, $vectors, $stride>(place),
                    8 => $f::<8, $vectors, $stride>(place),
                    _ => $f::<12, $vectors, $stride>(place),
                }
            };
        }
        macro_rules! widths {
            ($f:ident, $stride:ident) => {
                match t.columns == NR {
                    true => heights!($f, $stride, 2),
                    false => heights!($f, $stride, 1),
                }
            };
        }
        #[expect(
            unsafe_code,
            reason = "the processor has the Isa, and `multiply` checked the sizes"
        )]
        // SAFETY: `tall` lines of `depth` words, `depth` lines of the panel and
        // `tall` rows of `columns` elements of C are there.
        unsafe {
            match (level, t.word, t.stride == LINE) {
                (Level::Avx512Bf16, Word::Pair, true) => widths!(bf16_512, LINE),
                (Level::Avx2, Word::Single, true) => widths!(f32_256, LINE),
                (Level::Avx2, Word::Single, false) => widths!(f32_256, WIDE),
                (Level::Avx512 | Level::Avx512Bf16, Word::Single, true) => widths!(f32_512, LINE),
                (Level::Avx512 | Level::Avx512Bf16, Word::Single, false) => widths!(f32_512, WIDE),
                (_, Word::Pair, _) | (Level::Scalar, ..) => t.scalar(a, b, c, ldc, add),
            }
        }
    }

    /// H × 16 V sums in H V registers.
    ///
    /// # Safety
    /// H lines of `a`, `depth` lines of `b` and H rows of `c` are there.
    #[expect(
        unsafe_code,
        reason = "vector loads and stores that the caller checked"
    )]
    #[target_feature(enable = "avx512f")]
    unsafe fn f32_512<const H: usize, const V: usize, const S: usize>(p: Place) {
        let mut sums = [[_mm512_setzero_ps(); V]; H];
        // SAFETY: as promised.
        unsafe {
            for k in 0..p.depth {
                let mut line = [_mm512_setzero_ps(); V];
                for (v, line) in line.iter_mut().enumerate() {
                    *line = _mm512_loadu_ps(p.b.add(k * NR + 16 * v).cast());
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let a = _mm512_set1_ps(*p.a.add(r * S + k).cast());
                    for (sum, line) in sums.iter_mut().zip(line) {
                        *sum = _mm512_fmadd_ps(a, line, *sum);
                    }
                }
            }
            store_512(p, sums);
        }
    }

    /// As [`f32_512`], with dot products of pairs.
    ///
    /// # Safety
    /// As there.
    #[expect(
        unsafe_code,
        reason = "vector loads and stores that the caller checked"
    )]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn bf16_512<const H: usize, const V: usize, const S: usize>(p: Place) {
        let mut sums = [[_mm512_setzero_ps(); V]; H];
        // SAFETY: as promised.
        unsafe {
            for k in 0..p.depth {
                let mut line = [_mm512_setzero_si512(); V];
                for (v, line) in line.iter_mut().enumerate() {
                    *line = _mm512_loadu_si512(p.b.add(k * NR + 16 * v).cast());
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let a = _mm512_set1_epi32(*p.a.add(r * S + k).cast());
                    for (sum, line) in sums.iter_mut().zip(line) {
                        *sum = _mm512_dpbf16_ps(*sum, pairs(a), pairs(line));
                    }
                }
            }
            store_512(p, sums);
        }
    }

    /// Integers as the pairs of bf16 that they hold.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn pairs(words: __m512i) -> __m512bh {
        #[expect(unsafe_code, reason = "there is no cast between the two types")]
        // SAFETY: both are 512 plain bits.
        unsafe {
            std::mem::transmute::<__m512i, __m512bh>(words)
        }
    }

    /// Adds sums to C, or writes them there.
    ///
    /// # Safety
    /// H rows of 16 V elements of `c` are there.
    #[expect(
        unsafe_code,
        reason = "vector loads and stores that the caller checked"
    )]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store_512<const H: usize, const V: usize>(p: Place, sums: [[__m512; V]; H]) {
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                // SAFETY: as promised.
                unsafe {
                    let c = p.c.add(r * p.ldc + 16 * v);
                    let sum = if p.add {
                        _mm512_add_ps(_mm512_loadu_ps(c), sum)
                    } else {
                        sum
                    };
                    _mm512_storeu_ps(c, sum);
                }
            }
        }
    }

    /// H × 16 V sums in parts of at most 6 × 16.
    ///
    /// # Safety
    /// As for [`f32_512`].
    #[expect(unsafe_code, reason = "the same promise is passed on")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn f32_256<const H: usize, const V: usize, const S: usize>(p: Place) {
        let step = if H == 12 { 6 } else { H.min(4) };
        for v in 0..V {
            for top in (0..H).step_by(step) {
                let (a, b) = (p.a.wrapping_add(top * S), p.b.wrapping_add(16 * v));
                let c = p.c.wrapping_add(top * p.ldc + 16 * v);
                let part = Place { a, b, c, ..p };
                // SAFETY: a part of what was promised.
                unsafe {
                    match step {
                        6 => part_256::<6, S>(part),
                        4 => part_256::<4, S>(part),
                        _ => part_256::<1, S>(part),
                    }
                }
            }
        }
    }

    /// H × 16 sums in 2 H registers.
    ///
    /// # Safety
    /// As for [`f32_512`].
    #[expect(
        unsafe_code,
        reason = "vector loads and stores that the caller checked"
    )]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn part_256<const H: usize, const S: usize>(p: Place) {
        let mut sums = [[_mm256_setzero_ps(); 2]; H];
        // SAFETY: as promised.
        unsafe {
            for k in 0..p.depth {
                let b: *const f32 = p.b.add(k * NR).cast();
                let line = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let a = _mm256_set1_ps(*p.a.add(r * S + k).cast());
                    sums[0] = _mm256_fmadd_ps(a, line[0], sums[0]);
                    sums[1] = _mm256_fmadd_ps(a, line[1], sums[1]);
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    let c = p.c.add(r * p.ldc + 8 * v);
                    let sum = if p.add {
                        _mm256_add_ps(_mm256_loadu_ps(c), sum)
                    } else {
                        sum
                    };
                    _mm256_storeu_ps(c, sum);
                }
            }
        }
    }
}
