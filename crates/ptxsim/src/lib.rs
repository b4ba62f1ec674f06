//! Executes and checks PTX on the CPU.
//!
//! This version reads PTX ([`parse`]) and knows the arithmetic of its instructions ([`numeric`]), tensor cores bit for bit
//! included ([`vectors`] holds them to outputs recorded on GPUs). It does not execute kernels yet.

pub mod ast;
mod lex;
pub mod numeric;
pub mod parse;
pub mod vectors;
