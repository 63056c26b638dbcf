//! Matrix products whose bits depend on the operands alone.
//!
//! Every element of C is Σ over k in blocks of a fixed length: inside a block
//! one chain of fused multiply-adds that starts at 0, and the blocks' sums are
//! added to C in order, those of several [`Term`]s one behind the other. Tile
//! sizes, packing and threads only decide when an element is computed. (After
//! the blocking of Goto and van de Geijn, "Anatomy of high-performance matrix
//! multiplication", 2008.)
//!
//! With an f32 right side a block is 256 elements, and the chain runs upward in
//! k. With a bf16 right side the left side is rounded to bf16, a block is 512
//! elements, and the chain takes them in pairs, of each pair the odd element
//! first, with the multiply-add of [`bf16::multiply_add`]: what `VDPBF16PS`
//! does. An odd last element is paired with zeros. Sums are f32 in both.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::bf16;
use super::isa::{Isa, Level};
use super::pack::{self, Form};
use super::tile::{self, LINE, Lines, Target, WIDE, Word};

/// Elements of k in one chain of multiply-adds of f32. Part of what the numbers are: never change it.
pub(super) const KC: usize = 256;
/// As [`KC`], of bf16.
const KC_BF16: usize = 512;
/// Rows of a tile.
pub(super) const MR: usize = 12;
/// Columns of a tile.
pub(super) const NR: usize = 32;
/// Columns of B that are packed at once.
const NC: usize = 32 * NR;
/// Words of B that are packed at once, unless one block has more.
const WORDS: usize = 1 << 20;
/// Most rows of a task: few, so that tasks can be shared out evenly.
const MC: usize = 4 * MR;
/// Multiply-adds below which a product stays on one thread.
const SMALL: usize = 1 << 20;

/// A matrix somewhere in a slice.
#[derive(Clone, Copy)]
pub struct View<'a, T = f32> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T: Copy> View<'a, T> {
    /// A row-major matrix without gaps.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows begin `stride` elements apart.
    pub fn strided(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Self {
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

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from one row to the next, and from one column to the next.
    pub(super) fn strides(&self) -> (usize, usize) {
        (self.row_stride, self.col_stride)
    }

    /// From the first element on.
    pub(super) fn data(&self) -> &'a [T] {
        self.data
    }
}

/// The right side of a product, and with it what the product computes in.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    /// f32.
    F32(View<'a>),
    /// bf16, as bits.
    Bf16(View<'a, u16>),
}

impl Operand<'_> {
    /// The transposed matrix.
    pub fn t(self) -> Self {
        match self {
            Operand::F32(view) => Operand::F32(view.t()),
            Operand::Bf16(view) => Operand::Bf16(view.t()),
        }
    }

    /// Rows and columns.
    pub fn size(&self) -> (usize, usize) {
        match self {
            Operand::F32(view) => (view.rows, view.cols),
            Operand::Bf16(view) => (view.rows, view.cols),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Operand::F32(_) => Kind::F32,
            Operand::Bf16(_) => Kind::Bf16,
        }
    }

    fn pack_panel(&self, isa: Isa, k: &Range<usize>, col: usize, out: &mut [u32]) {
        match self {
            Operand::F32(view) => pack::panel(isa, *view, k, col, out),
            Operand::Bf16(view) => pack::panel_bf16(isa, *view, k, col, out),
        }
    }
}

impl<'a> From<View<'a>> for Operand<'a> {
    fn from(view: View<'a>) -> Self {
        Operand::F32(view)
    }
}

/// What a product computes in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    F32,
    Bf16,
}

impl Kind {
    /// Elements of k in one chain of multiply-adds.
    fn block(self) -> usize {
        match self {
            Kind::F32 => KC,
            Kind::Bf16 => KC_BF16,
        }
    }

    /// Packed words of so many elements of k.
    fn words(self, k: usize) -> usize {
        match self {
            Kind::F32 => k,
            Kind::Bf16 => k.div_ceil(2),
        }
    }

    /// How the left side is packed, and its words of so many elements of k.
    fn left(self, isa: Isa, k: usize) -> (Form, usize) {
        match (self, isa.0) {
            (Kind::F32, _) => (Form::F32, k),
            #[cfg(target_arch = "x86_64")]
            (Kind::Bf16, Level::Avx2 | Level::Avx512) => (Form::Swapped, k.next_multiple_of(2)),
            (Kind::Bf16, _) => (Form::Pairs, k.div_ceil(2)),
        }
    }
}

/// One product of a sum of products: A·B.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    /// [m, k].
    pub a: View<'a>,
    /// [k, n].
    pub b: Operand<'a>,
}

/// The right side of a product in the order in which tiles read it: panels of
/// 32 columns, each with k contiguous, the last one filled up with zeros.
pub struct Packed {
    kind: Kind,
    k: usize,
    n: usize,
    panels: Vec<u32>,
}

impl Packed {
    /// Packs B [k, n], to be used in many products.
    pub fn new<'a>(b: impl Into<Operand<'a>>) -> Self {
        let b = b.into();
        let ((k, n), kind, isa) = (b.size(), b.kind(), Isa::detect());
        let depth = kind.words(k);
        let mut panels = vec![0; n.div_ceil(NR) * NR * depth];
        if k > 0 {
            let all = panels.par_chunks_mut(depth * NR).enumerate();
            all.for_each(|(j, panel)| b.pack_panel(isa, &(0..k), j * NR, panel));
        }
        Packed { kind, k, n, panels }
    }

    /// Columns of the product.
    pub fn cols(&self) -> usize {
        self.n
    }

    /// The pieces of a product with all of it.
    fn pieces<'a>(&'a self, a: View<'a>) -> Vec<Piece<'a>> {
        let blocks = (0..self.k).step_by(self.kind.block());
        blocks
            .map(|from| {
                let k = from..(from + self.kind.block()).min(self.k);
                let first = self.kind.words(k.start) * NR;
                Piece {
                    a,
                    kind: self.kind,
                    panels: &self.panels[first.min(self.panels.len())..],
                    stride: self.kind.words(self.k) * NR,
                    k,
                }
            })
            .collect()
    }
}

/// One block of k of one term, its right side packed.
#[derive(Clone)]
struct Piece<'a> {
    a: View<'a>,
    kind: Kind,
    k: Range<usize>,
    /// From the first panel's first word on.
    panels: &'a [u32],
    /// Words from one panel to the next.
    stride: usize,
}

impl Piece<'_> {
    fn panel(&self, j: usize) -> &[u32] {
        &self.panels[j * self.stride..][..self.kind.words(self.k.len()) * NR]
    }
}

/// One block of k of one term.
struct Block<'a> {
    term: Term<'a>,
    k: Range<usize>,
}

impl<'a> Block<'a> {
    fn all(terms: &[Term<'a>]) -> Vec<Self> {
        let blocks = terms.iter().flat_map(|term| {
            let (k, step) = (term.b.size().0, term.b.kind().block());
            let range = move |from: usize| from..(from + step).min(k);
            (0..k).step_by(step).map(move |from| Block {
                term: *term,
                k: range(from),
            })
        });
        blocks.collect()
    }

    /// Words of a panel.
    fn panel(&self) -> usize {
        self.term.b.kind().words(self.k.len()) * NR
    }

    fn piece<'p>(&self, panels: &'p [u32]) -> Piece<'p>
    where
        'a: 'p,
    {
        Piece {
            a: self.term.a,
            kind: self.term.b.kind(),
            k: self.k.clone(),
            panels,
            stride: self.panel(),
        }
    }
}

/// C ← A·B, or C ← C + A·B when `accumulate`. C [m, n] is row-major with rows
/// `ldc` elements apart.
pub fn gemm(isa: Isa, a: View<'_>, b: View<'_>, c: &mut [f32], ldc: usize, accumulate: bool) {
    sum_of_products(isa, &[Term { a, b: b.into() }], c, ldc, accumulate);
}

/// C ← Σ A·B over the terms, in order, or C ← C + that when `accumulate`.
pub fn sum_of_products(isa: Isa, terms: &[Term<'_>], c: &mut [f32], ldc: usize, accumulate: bool) {
    let (m, n, k) = check(terms);
    if m == 0 || n == 0 {
        return;
    }
    let blocks = Block::all(terms);
    if m * n * k < SMALL {
        on_one_thread(isa, &blocks, (m, n), c, ldc, accumulate);
    } else if m <= 2 * MR && n > NR {
        by_columns((m, n), c, ldc, accumulate, |j, out| {
            let mut words = BUFFERS.take();
            pack_panels(isa, &blocks, j..j + 1, &mut words.right);
            let pieces = split(&blocks, 1, &words.right);
            multiply_rows(isa, &pieces, 0, (m, NR), out, NR, accumulate);
            BUFFERS.set(words);
        });
    } else {
        let mut words = BUFFERS.take();
        for col in (0..n).step_by(NC) {
            let panels = col / NR..(n.min(col + NC)).div_ceil(NR);
            let width = NC.min(n - col);
            let mut rest = &blocks[..];
            let mut add = accumulate;
            while !rest.is_empty() || !add {
                let now = fitting(rest, panels.len());
                let (now, then) = rest.split_at(now);
                pack_all(isa, now, panels.clone(), &mut words.right);
                let pieces = split(now, panels.len(), &words.right);
                by_rows(isa, &pieces, (m, width), &mut c[col..], ldc, add);
                (rest, add) = (then, true);
            }
        }
        BUFFERS.set(words);
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
    let terms = [Term { a, b: b.into() }];
    let (m, n, _) = check(&terms);
    on_one_thread(isa, &Block::all(&terms), (m, n), c, ldc, accumulate);
}

/// A product with a right side that was packed before.
pub fn gemm_packed(isa: Isa, a: View<'_>, b: &Packed, c: &mut [f32], ldc: usize, accumulate: bool) {
    assert_eq!(a.cols, b.k, "the sides of a product do not fit");
    let (m, n) = (a.rows, b.n);
    if m == 0 || n == 0 {
        return;
    }
    let pieces = b.pieces(a);
    if m * n * b.k < SMALL || rayon::current_num_threads() == 1 {
        multiply_rows(isa, &pieces, 0, (m, n), c, ldc, accumulate);
    } else if m <= 2 * MR {
        by_columns((m, n), c, ldc, accumulate, |j, out| {
            let mut pieces = pieces.clone();
            for piece in &mut pieces {
                piece.panels = &piece.panels[j * piece.stride..];
            }
            multiply_rows(isa, &pieces, 0, (m, NR), out, NR, accumulate);
        });
    } else {
        by_rows(isa, &pieces, (m, n), c, ldc, accumulate);
    }
}

/// Rows, columns, and all terms' k of a sum whose terms fit each other.
fn check(terms: &[Term<'_>]) -> (usize, usize, usize) {
    let sizes = |term: &Term<'_>| (term.a.rows, term.b.size().1);
    let (m, n) = terms.first().map_or((0, 0), sizes);
    for term in terms {
        assert_eq!(
            term.a.cols,
            term.b.size().0,
            "the sides of a product do not fit"
        );
        assert_eq!(sizes(term), (m, n), "the terms of a sum do not fit");
    }
    (m, n, terms.iter().map(|term| term.a.cols).sum())
}

/// How many of the blocks are packed at once.
fn fitting(blocks: &[Block<'_>], panels: usize) -> usize {
    let mut words = 0;
    let fit = blocks.iter().take_while(|block| {
        words += block.panel() * panels;
        words <= WORDS
    });
    fit.count().max(1).min(blocks.len())
}

/// The packed panels of blocks that lie one behind the other in `words`.
fn split<'p>(blocks: &[Block<'p>], panels: usize, words: &'p [u32]) -> Vec<Piece<'p>> {
    let mut at = 0;
    let pieces = blocks.iter().map(|block| {
        let from = at;
        at += block.panel() * panels;
        block.piece(&words[from..at])
    });
    pieces.collect()
}

/// Makes room for panels of blocks and lists them: the words of each with its block and number.
fn places<'w, 'b, 'a>(
    blocks: &'b [Block<'a>],
    panels: Range<usize>,
    words: &'w mut Vec<u32>,
) -> Vec<(&'w mut [u32], &'b Block<'a>, usize)> {
    let needed: usize = blocks
        .iter()
        .map(|block| block.panel() * panels.len())
        .sum();
    if words.len() < needed {
        words.resize(needed, 0);
    }
    let mut rest = &mut words[..];
    let mut places = Vec::with_capacity(blocks.len() * panels.len());
    for block in blocks {
        for j in panels.clone() {
            let (panel, behind) = rest.split_at_mut(block.panel());
            places.push((panel, block, j));
            rest = behind;
        }
    }
    places
}

/// Packs panels of all blocks, one behind the other.
fn pack_panels(isa: Isa, blocks: &[Block<'_>], panels: Range<usize>, words: &mut Vec<u32>) {
    for (panel, block, j) in places(blocks, panels, words) {
        block.term.b.pack_panel(isa, &block.k, j * NR, panel);
    }
}

/// [`pack_panels`] with all threads.
fn pack_all(isa: Isa, blocks: &[Block<'_>], panels: Range<usize>, words: &mut Vec<u32>) {
    let places = places(blocks, panels, words);
    places.into_par_iter().for_each(|(panel, block, j)| {
        block.term.b.pack_panel(isa, &block.k, j * NR, panel);
    });
}

fn on_one_thread(
    isa: Isa,
    blocks: &[Block<'_>],
    (m, n): (usize, usize),
    c: &mut [f32],
    ldc: usize,
    accumulate: bool,
) {
    let mut words = BUFFERS.take();
    let panels = n.div_ceil(NR);
    pack_panels(isa, blocks, 0..panels, &mut words.right);
    let pieces = split(blocks, panels, &words.right);
    multiply_rows(isa, &pieces, 0, (m, n), c, ldc, accumulate);
    BUFFERS.set(words);
}

/// Many rows: threads share them out.
fn by_rows(
    isa: Isa,
    pieces: &[Piece<'_>],
    (m, n): (usize, usize),
    c: &mut [f32],
    ldc: usize,
    accumulate: bool,
) {
    let tasks = (2 * rayon::current_num_threads()).max(1);
    let rows = m.div_ceil(tasks).next_multiple_of(MR).min(MC);
    let end = (m - 1) * ldc + n;
    c[..end]
        .par_chunks_mut(rows * ldc)
        .enumerate()
        .for_each(|(i, c)| {
            let row = i * rows;
            multiply_rows(isa, pieces, row, (rows.min(m - row), n), c, ldc, accumulate);
        });
}

/// Few rows, many columns: threads share out the panels. `multiply` is given a
/// panel's number and its columns of C, [m, NR].
fn by_columns(
    (m, n): (usize, usize),
    c: &mut [f32],
    ldc: usize,
    accumulate: bool,
    multiply: impl Fn(usize, &mut [f32]) + Sync,
) {
    let mut columns = vec![0.0; n.div_ceil(NR) * NR * m];
    let all = columns.par_chunks_mut(m * NR).enumerate();
    all.with_min_len(2).for_each(|(j, out)| {
        if accumulate {
            let width = NR.min(n - j * NR);
            for (r, out) in out.chunks_exact_mut(NR).enumerate() {
                out[..width].copy_from_slice(&c[r * ldc + j * NR..][..width]);
            }
        }
        multiply(j, out);
    });
    for (j, out) in columns.chunks_exact(m * NR).enumerate() {
        let width = NR.min(n - j * NR);
        for (r, out) in out.chunks_exact(NR).enumerate() {
            c[r * ldc + j * NR..][..width].copy_from_slice(&out[..width]);
        }
    }
}

/// Words that a thread keeps for packing.
#[derive(Default)]
struct Buffers {
    right: Vec<u32>,
    left: Vec<u32>,
    wide: Vec<u32>,
}

thread_local! {
    /// Taken while in use: a thread that waits for others may begin another product.
    static BUFFERS: RefCell<Buffers> = RefCell::default();
    /// For the inner part of a product, during which a thread does not wait.
    static INNER: RefCell<Buffers> = RefCell::default();
}

/// `rows` rows of C from `row` on, and `n` columns, of which `c` begins with the first.
fn multiply_rows(
    isa: Isa,
    pieces: &[Piece<'_>],
    row: usize,
    (rows, n): (usize, usize),
    c: &mut [f32],
    ldc: usize,
    accumulate: bool,
) {
    if pieces.is_empty() && !accumulate {
        c.chunks_mut(ldc)
            .take(rows)
            .for_each(|line| line[..n].fill(0.0));
    }
    INNER.with_borrow_mut(|buffers| {
        for (index, piece) in pieces.iter().enumerate() {
            let (form, depth) = piece.kind.left(isa, piece.k.len());
            let stride = if form == Form::Swapped { WIDE } else { LINE };
            let needed = rows.next_multiple_of(MR) * stride;
            if buffers.left.len() < needed {
                buffers.left.resize(needed, 0);
            }
            let lines = &mut buffers.left[..needed];
            pack::rows(isa, piece.a, row..row + rows, &piece.k, form, stride, lines);
            let left = Left {
                isa,
                form,
                stride,
                depth,
                rows,
                words: lines,
            };
            left.multiply(piece, n, &mut buffers.wide, c, ldc, accumulate || index > 0);
        }
    });
}

/// The packed left side of a block for some rows.
struct Left<'a> {
    isa: Isa,
    form: Form,
    stride: usize,
    depth: usize,
    rows: usize,
    words: &'a [u32],
}

impl Left<'_> {
    fn multiply(
        &self,
        piece: &Piece<'_>,
        n: usize,
        wide: &mut Vec<u32>,
        c: &mut [f32],
        ldc: usize,
        add: bool,
    ) {
        let least = match self.form {
            Form::Swapped => self.least(),
            _ => u32::MAX,
        };
        for j in 0..n.div_ceil(NR) {
            let mut panel = piece.panel(j);
            let mut plain = true;
            if self.form == Form::Swapped {
                wide.resize(2 * panel.len(), 0);
                pack::widen_panel(self.isa, panel, wide);
                panel = wide;
                plain = bf16::plain(least, pack::magnitude(self.isa, panel));
            }
            for top in (0..self.rows).step_by(MR) {
                let lines = Lines {
                    words: &self.words[top * self.stride..],
                    stride: self.stride,
                    depth: self.depth,
                    height: MR.min(self.rows - top),
                };
                let width = NR.min(n - j * NR);
                let c = &mut c[top * ldc + j * NR..];
                let target = Target { c, ldc, width, add };
                match plain {
                    true => tile::multiply(self.isa, self.word(), lines, panel, target),
                    false => tile::multiply_slowly(lines, panel, target),
                }
            }
        }
    }

    fn word(&self) -> Word {
        match self.form {
            Form::Pairs => Word::Pair,
            Form::F32 | Form::Swapped => Word::Single,
        }
    }

    /// The least [`pack::magnitude`] of the rows.
    fn least(&self) -> u32 {
        let lines = self.words.chunks(self.stride).take(self.rows);
        let least = lines.map(|line| pack::magnitude(self.isa, &line[..self.depth]));
        least.min().unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ml::rng::Stream;
    use proptest::prelude::*;

    fn at<T: Copy>(view: View<'_, T>, row: usize, col: usize) -> T {
        view.data[row * view.row_stride + col * view.col_stride]
    }

    /// The definition at the head of this file, as a loop.
    fn reference(a: View<'_>, b: View<'_>, c: &mut [f32], ldc: usize, accumulate: bool) {
        for i in 0..a.rows {
            for j in 0..b.cols {
                let mut total = if accumulate { c[i * ldc + j] } else { 0.0 };
                for from in (0..a.cols).step_by(256) {
                    let mut chain = 0.0f32;
                    for p in from..(from + 256).min(a.cols) {
                        chain = at(a, i, p).mul_add(at(b, p, j), chain);
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

    /// Sums of products in bf16 by the definition, in pairs and blocks.
    fn reference_bf16(a: View<'_>, b: View<'_, u16>, c: &mut [f32], accumulate: bool) {
        let (k, n) = (b.rows, b.cols);
        for (i, c) in c.chunks_exact_mut(n).enumerate() {
            for (j, c) in c.iter_mut().enumerate() {
                for from in (0..k).step_by(512) {
                    let mut chain = 0.0f32;
                    for p in (from..(from + 512).min(k)).step_by(2) {
                        for p in [p + 1, p] {
                            let (x, y) = match p < k {
                                true => (bf16::round(at(a, i, p)), at(b, p, j)),
                                false => (0, 0),
                            };
                            chain = bf16::multiply_add(bf16::factor(x), bf16::factor(y), chain);
                        }
                    }
                    *c = if from > 0 || accumulate {
                        *c + chain
                    } else {
                        chain
                    };
                }
            }
        }
    }

    /// Normal numbers times powers of two: now and then zero or too small to be normal.
    fn wild(seed: u64, name: &str, spread: i32, n: usize) -> Vec<f32> {
        let stream = Stream::new(seed, name, 0, "");
        let mut out = vec![0.0; n];
        stream.normal(0.0, 1.0, &mut out);
        let exponents = Stream::new(seed, name, 1, "");
        for (i, x) in out.iter_mut().enumerate() {
            let power = (exponents.uniform64(i as u64) * f64::from(2 * spread + 1)) as i32 - spread;
            *x = (f64::from(*x) * 2f64.powi(power)) as f32;
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn bf16_has_the_bits_of_its_definition_on_every_instruction_set(
            m in 1usize..30, n in 1usize..70, k in 1usize..1200, b_t: bool,
            accumulate: bool, threads in 1usize..4, spread in 0i32..90, seed: u64,
        ) {
            let (a, b) = (wild(seed, "a", spread, m * k), wild(seed, "b", spread, k * n));
            let b: Vec<u16> = b.into_iter().map(bf16::round).collect();
            let a = View::new(&a, m, k);
            let b = if b_t { View::new(&b, n, k).t() } else { View::new(&b, k, n) };
            let start = wild(seed, "c", spread, m * n);
            let mut wanted = start.clone();
            reference_bf16(a, b, &mut wanted, accumulate);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for isa in Isa::available() {
                let (mut c, mut d) = (start.clone(), start.clone());
                pool.install(|| {
                    let b = Operand::Bf16(b);
                    sum_of_products(isa, &[Term { a, b }], &mut c, n, accumulate);
                    gemm_packed(isa, a, &Packed::new(b), &mut d, n, accumulate);
                });
                prop_assert_eq!(bits(&c), bits(&wanted), "{}", isa);
                prop_assert_eq!(bits(&d), bits(&wanted), "{} packed", isa);
            }
        }
    }

    /// The terms of a sum are added one behind the other, in whatever precision.
    #[test]
    fn a_sum_of_products_is_its_terms_in_order() {
        let (m, n) = (100, 130);
        let (x, low) = (wild(1, "x", 0, m * 700), wild(1, "low", 0, m * 16));
        let (w, b) = (wild(1, "w", 0, n * 700), wild(1, "b", 0, n * 16));
        let w: Vec<u16> = w.into_iter().map(bf16::round).collect();
        let w = Operand::Bf16(View::new(&w, n, 700)).t();
        let terms = [
            Term {
                a: View::new(&x, m, 700),
                b: w,
            },
            Term {
                a: View::new(&low, m, 16),
                b: Operand::F32(View::new(&b, n, 16)).t(),
            },
        ];
        for isa in Isa::available() {
            let (mut together, mut apart) = (vec![0.0; m * n], vec![0.0; m * n]);
            sum_of_products(isa, &terms, &mut together, n, false);
            sum_of_products(isa, &terms[..1], &mut apart, n, false);
            sum_of_products(isa, &terms[1..], &mut apart, n, true);
            assert_eq!(bits(&together), bits(&apart), "{isa}");
        }
    }

    /// More columns, and more of k, than are packed at once.
    #[test]
    fn a_large_product_is_that_of_its_parts() {
        let (m, n, k) = (30, NC + 70, 2100);
        let (a, b) = (wild(1, "a", 0, m * k), wild(1, "b", 0, n * k));
        let half: Vec<u16> = b.iter().map(|x| bf16::round(*x)).collect();
        let (a, b) = (View::new(&a, m, k), View::new(&b, n, k).t());
        let half = View::new(&half, n, k).t();
        let columns = [0, 31, NC - 1, NC, NC + 69];
        for isa in Isa::available().into_iter().skip(1) {
            let mut c = vec![0.0; m * n];
            let mut d = vec![0.0; m * n];
            gemm(isa, a, b, &mut c, n, false);
            let term = Term {
                a,
                b: Operand::Bf16(half),
            };
            sum_of_products(isa, &[term], &mut d, n, false);
            for col in columns {
                let one: Vec<f32> = (0..k).map(|p| at(b, p, col)).collect();
                let one_half: Vec<u16> = (0..k).map(|p| at(half, p, col)).collect();
                let (mut wanted, mut wanted_half) = (vec![0.0; m], vec![0.0; m]);
                reference(a, View::new(&one, k, 1), &mut wanted, 1, false);
                reference_bf16(a, View::new(&one_half, k, 1), &mut wanted_half, false);
                let column = |c: &[f32]| c.iter().skip(col).step_by(n).copied().collect::<Vec<_>>();
                assert_eq!(bits(&column(&c)), bits(&wanted), "{isa}, column {col}");
                assert_eq!(
                    bits(&column(&d)),
                    bits(&wanted_half),
                    "{isa}, bf16, column {col}"
                );
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
