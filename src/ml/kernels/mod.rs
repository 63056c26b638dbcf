//! The CPU operations a decoder needs, in f32, with the same bits on every machine.
//!
//! How: a sum is always taken in one written-down order (a fixed chain of
//! fused multiply-adds in [`gemm`], a fixed tree of sixteen lanes elsewhere),
//! no operation calls the system's mathematics library, and threads only ever
//! share out disjoint outputs. Instruction sets differ in speed, never in
//! bits: the functions are written once and compiled for each of them.

pub mod attention;
pub mod bf16;
pub mod elementwise;
mod gemm;
mod isa;
mod lanes;
pub mod loss;
pub mod norm;
mod pack;
mod rows;
mod tile;

pub use gemm::{Operand, Packed, Term, View, gemm, gemm_packed, sum_of_products};
pub use isa::Isa;
pub use rows::{FEW, Part, gemm_few};

/// Rows a parallel task takes at once.
const ROWS: usize = 32;
