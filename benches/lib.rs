//! What the benchmarks share: work of ours with its inputs, this machine's limits, peers to compare with, and the simulator's
//! counters.

pub mod case;
pub mod core;
pub mod counters;
pub mod layer;
pub mod peer;
pub mod plot;
pub mod report;
pub mod work;

use mlafuse::DeviceSpec;
use mlafuse_runtime::{Identity, open};

pub use crate::core::{Core, PAGE_SIZE, shape};
pub use crate::layer::Layer;
pub use crate::work::{Limits, Subject, Work, repeat};

/// This machine and what is used of it, for titles.
///
/// # Errors
/// Where the CPU device cannot be had as the environment says.
pub fn machine(threads: usize) -> anyhow::Result<String> {
    let Identity { part, instructions, .. } = open(DeviceSpec::Cpu)?.identity();
    Ok(format!("{part} ({instructions}), {threads} threads"))
}
