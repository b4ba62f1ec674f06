//! The text form of a graph: printed by [`print()`], read back by [`parse()`].
//!
//! ```text
//! graph tiny {
//!   # from here to the end of the line is a comment
//!   %hidden = input "hidden" : bf16[B, T, 64]
//!   %w_dq = weight "W_DQ" : bf16[16, 64]
//!   %c_q = einsum "b t d, q d -> b t q" %hidden, %w_dq : bf16[B, T, 16]
//!   %small = scale factor=0.125 %c_q : bf16[B, T, 16]
//!   output "out" %small
//! }
//! ```
//! Each node is `%name = op`, the op's attributes, its arguments with commas between, and its type: the storage type
//! and the shape, whose dimensions are numbers or one upper-case letter. Line breaks mean nothing.

mod lex;
mod parse;
mod print;

pub use parse::{ParseError, parse};
pub use print::print;
