//! `cargo xtask bench`: the criterion benchmarks, or the simulator's counters.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::process::{cargo, exit_code, status};

#[derive(clap::Args)]
pub struct Args {
    /// What the simulator counts of one decode step, instead of timing anything: needs no GPU; `-- --help` lists its options
    #[arg(long)]
    counters: bool,
    /// Passed on
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Runs every benchmark in the benches package, or its counters.
pub fn run(root: &Path, args: &Args) -> Result<ExitCode> {
    let command = match args.counters {
        true => [
            "run",
            "--release",
            "--quiet",
            "-p",
            "mlafuse-benches",
            "--bin",
            "counters",
        ]
        .as_slice(),
        false => &["bench", "-p", "mlafuse-benches"],
    };
    let mut command = cargo(root, command);
    if !args.rest.is_empty() {
        command.arg("--").args(&args.rest);
    }
    Ok(exit_code(status(&mut command)?))
}
