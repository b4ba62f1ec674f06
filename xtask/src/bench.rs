//! `cargo xtask bench`: the criterion benchmarks, the comparison with peers, plots, or the simulator's counters.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::process::{cargo, exit_code, status};
use crate::setup::python;

#[derive(clap::Args)]
#[group(multiple = false)]
pub struct Which {
    /// Our kernels and PyTorch's, transformers' and vLLM's in turn, instead of criterion: installs them into .peers first (6 GB);
    /// writes target/bench/peers.json; `-- --help` lists its options
    #[arg(long)]
    peers: bool,
    /// Time against length and batch as SVG in target/bench; `-- --help` lists its options
    #[arg(long)]
    plot: bool,
    /// What the simulator counts of one decode step, instead of timing anything: needs no GPU; `-- --help` lists its options
    #[arg(long)]
    counters: bool,
}

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Passed on
    #[arg(last = true)]
    rest: Vec<String>,
}

/// The folder in the project's root that peers are installed into.
const PEERS: &str = ".peers";

/// Runs every benchmark in the benches package, or what is asked for instead.
pub fn run(root: &Path, args: &Args) -> Result<ExitCode> {
    let binary = match args.which {
        Which { peers: true, .. } => Some("peers"),
        Which { plot: true, .. } => Some("plot"),
        Which { counters: true, .. } => Some("counters"),
        _ => None,
    };
    if binary == Some("peers") {
        install_peers(root)?;
    }
    let mut command = match binary {
        Some(binary) => cargo(
            root,
            &["run", "--release", "--quiet", "-p", "mlafuse-benches", "--bin", binary],
        ),
        None => cargo(root, &["bench", "-p", "mlafuse-benches"]),
    };
    if !args.rest.is_empty() {
        command.arg("--").args(&args.rest);
    }
    Ok(exit_code(status(&mut command)?))
}

fn install_peers(root: &Path) -> Result<()> {
    let python =
        python().context("there is no Python to install peers with (Debian: `apt-get install python3-venv`)")?;
    let installed = status(
        Command::new(python)
            .arg(root.join("benches/peers/install.py"))
            .arg(root.join(PEERS)),
    )?;
    ensure!(
        installed.success(),
        "peers could not be installed ({installed}): see above"
    );
    Ok(())
}
