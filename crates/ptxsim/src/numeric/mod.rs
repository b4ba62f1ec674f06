//! Arithmetic of the PTX instructions, as pure functions on bit patterns.
//!
//! Nothing here knows of threads, memory or instructions' text (but for the few `parse` functions that map an
//! instruction's modifiers to a value). Floating-point values travel as their bits, because NaN payloads and the sign of
//! zero are part of the result; f32 results that are NaN are the canonical `0x7fffffff`, as the PTX ISA says.

pub mod approx;
pub mod bits;
pub mod compare;
pub mod cvt;
pub mod float;
pub mod fp8;
pub mod half_ops;
pub mod integer;
pub mod mma;
pub mod soft;
pub mod tensor_core;

#[cfg(test)]
mod tests;

pub use soft::{Format, Rounding};

/// The NaN that f32 operations produce.
pub const NAN_F32: u32 = 0x7fff_ffff;
/// The NaN that f64 operations produce where no operand was a NaN.
pub const NAN_F64: u64 = 0xfff8_0000_0000_0000;
/// The NaN that f16 and bf16 operations produce.
pub const NAN_HALF: u16 = 0x7fff;
