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

pub use crate::core::{Core, PAGE_SIZE, shape};
pub use crate::layer::Layer;
pub use crate::work::{Limits, Subject, Work, repeat};

/// This machine and what is used of it, for titles.
pub fn machine(threads: usize) -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    format!("{model} ({:?}), {threads} threads", mlafuse_cpu::Level::detect())
}
