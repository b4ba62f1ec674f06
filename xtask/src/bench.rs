//! `cargo xtask bench`: the criterion benchmarks.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::process::{cargo, exit_code, status};

/// Runs every benchmark in the benches package.
pub fn run(root: &Path) -> Result<ExitCode> {
    let status = status(&mut cargo(root, &["bench", "-p", "mlafuse-benches"]))?;
    Ok(exit_code(status))
}
