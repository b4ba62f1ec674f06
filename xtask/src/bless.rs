//! `cargo xtask bless`: rewrites the expectations of file tests.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::process::{exit_code, status};
use crate::{setup, test};

#[derive(clap::Args)]
pub struct Args {
    /// Bless only the tests whose name contains one of these
    filter: Vec<String>,
}

/// Runs the tests with BLESS=1 and lists the files that differ from the last commit.
pub fn run(root: &Path, args: &Args) -> Result<ExitCode> {
    let nvrtc = setup::ensure(root, None)?;
    let mut command = test::test_command(root, &args.filter, test::Cases::Usual)?;
    let tests = status(test::with_nvrtc(&mut command, Some(&nvrtc)).env("BLESS", "1"))?;
    println!("changed expectations (read them before you commit them):");
    // Expectations stand beside the tests that write them, and are neither source nor manifests.
    status(Command::new("git").current_dir(root).args([
        "status", "--short", "--", "crates", "codegen", "tests", ":!*.rs", ":!*.toml",
    ]))?;
    Ok(exit_code(tests))
}
