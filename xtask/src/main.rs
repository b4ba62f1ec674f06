//! `cargo xtask`: set-up, demo, tests, benches and repository rules.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

mod bench;
mod bless;
mod demo;
mod process;
mod setup;
mod test;
mod tidy;

/// The project's own tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Make NVRTC available: find it, or install its wheel into .nvrtc
    Setup(setup::Args),
    /// Set up, build, and show what mlafuse does on a small checkpoint
    Demo,
    /// Set up and run every check: format, rules, lints, docs, tests
    Test(test::Args),
    /// Run the benchmarks, compare with peers, plot, or print the simulator's counters of a decode step
    Bench(bench::Args),
    /// Run the tests and rewrite the expectations they compare with
    Bless(bless::Args),
    /// Check the repository's rules
    Tidy,
    /// What .ci/run does under CI: `test` without colours and without standard input
    Ci,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let root = root()?;
    match task {
        Task::Setup(args) => setup::run(&root, &args),
        Task::Demo => demo::run(&root),
        Task::Test(args) => test::run(&root, &args, test::in_ci()),
        Task::Bench(args) => bench::run(&root, &args),
        Task::Bless(args) => bless::run(&root, &args),
        Task::Tidy => tidy::run(&root),
        Task::Ci => test::run(&root, &test::Args::default(), true),
    }
}

/// The workspace's root. Cargo names this package's folder at run time; a binary started by hand uses the one it was built in.
fn root() -> Result<PathBuf> {
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package
        .parent()
        .map(Path::to_path_buf)
        .with_context(|| format!("{} has no parent folder", package.display()))
}
