//! `cargo xtask demo`: what mlafuse does, on a small checkpoint and without a GPU.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::process::{cargo, exit_code, status};
use crate::setup;

/// How a user starts mlafuse from the repository.
const MLAFUSE: &[&str] = &[
    "run",
    "--quiet",
    "--release",
    "-p",
    "mlafuse-cli",
    "--bin",
    "mlafuse",
    "--",
];

/// Where the demo's output goes; git ignores it, and it stays to be looked at.
const OUTPUT_FOLDER: &str = "target/demo";

struct Step {
    shows: &'static str,
    /// Words after `mlafuse`, apart by spaces.
    args: &'static str,
}

const STEPS: &[Step] = &[
    Step {
        shows: "what this machine has: NVRTC, driver, CPU features",
        args: "doctor",
    },
    Step {
        shows: "the layer after the rewrites: W_UK and W_UV are absorbed",
        args: "emit --model examples/deepseek-v3-tiny --phase decode --arch sm_80 --stage rewritten",
    },
    Step {
        shows: "the plan: what was fused, what was not and why",
        args: "emit --model examples/deepseek-v3-tiny --phase decode --arch sm_80 --stage plan",
    },
    Step {
        shows: "the fused kernels, compiled by NVRTC: registers, spills, shared memory",
        args: "emit --model examples/deepseek-v3-tiny --phase decode --arch sm_80 --stage resources",
    },
    Step {
        shows: "the fused layer, prefill and decode, on the CPU against expected outputs",
        args: "run --checkpoint examples/deepseek-v3-tiny --input examples/deepseek-v3-tiny/io.safetensors --output target/demo/out.safetensors --expect examples/deepseek-v3-tiny/io.safetensors --device cpu",
    },
    Step {
        shows: "the same layer as the PTX that NVRTC makes, every kernel in the simulator with its checkers and counters",
        args: "run --checkpoint examples/deepseek-v3-tiny --input examples/deepseek-v3-tiny/io.safetensors --output target/demo/simulated.safetensors --expect examples/deepseek-v3-tiny/io.safetensors --device sim:sm_80",
    },
];

/// Sets up, builds, and runs the steps; stops at the first failure with its status.
pub fn run(root: &Path) -> Result<ExitCode> {
    setup::ensure(root, None)?;
    let built = status(&mut cargo(
        root,
        &["build", "--release", "-p", "mlafuse-cli", "--bin", "mlafuse"],
    ))?;
    if !built.success() {
        return Ok(exit_code(built));
    }
    let output = root.join(OUTPUT_FOLDER);
    std::fs::create_dir_all(&output).with_context(|| format!("cannot make the folder {}", output.display()))?;
    for (number, step) in STEPS.iter().enumerate() {
        println!("\n[{}/{}] {}", number + 1, STEPS.len(), step.shows);
        println!("$ cargo {} {}", MLAFUSE.join(" "), step.args);
        let status = status(cargo(root, MLAFUSE).args(step.args.split(' ')))?;
        if !status.success() {
            eprintln!("demo: step {} failed: {status}", number + 1);
            return Ok(exit_code(status));
        }
    }
    Ok(ExitCode::SUCCESS)
}
