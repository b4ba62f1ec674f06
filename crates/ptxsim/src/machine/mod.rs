//! Executes a kernel on a grid of blocks.

mod access;
pub(crate) mod address;
pub(crate) mod alu;
mod asynchronous;
mod atomic;
mod barrier;
mod block;
mod call;
mod collective;
mod copies;
pub mod counters;
mod environment;
mod execute;
pub mod launch;
mod local;
mod matrix;
mod mbarrier;
pub mod memory;
mod observe;
pub mod options;
pub(crate) mod race;
pub mod registers;
pub mod report;
mod shared;
mod transfer;
mod warp;

#[cfg(test)]
mod tests;

pub use counters::{Class, Counters, Statistics, Traffic};
pub use launch::{LaunchConfig, LaunchError, Outcome, launch};
pub use memory::{Access, Contents, Memory, MemoryError};
pub use options::{Asynchrony, Checks, MmaArithmetic, Options, Schedule};
pub use report::{Checker, Report, SourceLine};
