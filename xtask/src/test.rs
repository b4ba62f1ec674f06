//! `cargo xtask test`: every check of the repository.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::process::{cargo, status};
use crate::{setup, tidy};

#[derive(clap::Args, Default)]
pub struct Args {
    /// Run many more cases per property: PROPTEST_CASES=2000 and MLAFUSE_DEEP=1
    #[arg(long)]
    deep: bool,
    /// Do not set up NVRTC; tests that need it may skip
    #[arg(long)]
    no_nvrtc: bool,
    /// Run only the tests whose name contains one of these, and no other check
    filter: Vec<String>,
}

/// How many cases property tests run.
#[derive(Clone, Copy, PartialEq)]
pub enum Cases {
    /// 32, or what PROPTEST_CASES says.
    Usual,
    /// 2000, with the tests that are too long for every day.
    Deep,
}

/// Whether a CI service runs us.
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// Runs every check, or only the tests that `args.filter` names. All checks run even when one fails.
/// The tests come last, so that their runner's closing line ends the output.
pub fn run(root: &Path, args: &Args, ci: bool) -> Result<ExitCode> {
    let nvrtc = match args.no_nvrtc {
        true => None,
        false => Some(setup::ensure(root, None)?),
    };
    let cases = if args.deep { Cases::Deep } else { Cases::Usual };
    let mut steps = Vec::new();
    if args.filter.is_empty() {
        steps.extend(checks(root));
        let doc_tests = cargo(root, &["test", "--workspace", "--doc"]);
        steps.push(("doc tests", Step::Tests(doc_tests)));
    }
    let tests = test_command(root, &args.filter, cases)?;
    steps.push(("tests", Step::Tests(tests)));

    let mut results = Vec::new();
    for (name, step) in steps {
        println!("==> {name}");
        let start = Instant::now();
        let passed = match step {
            Step::Rules => tidy::check(root)?,
            Step::Lint(mut command) => passes(&mut command, ci)?,
            Step::Tests(mut command) => passes(with_nvrtc(&mut command, nvrtc.as_ref()), ci)?,
        };
        let took = start.elapsed();
        println!("{}", line(name, passed, took));
        results.push((name, passed, took));
    }
    Ok(summary(&results))
}

enum Step {
    Rules,
    Lint(Command),
    Tests(Command),
}

fn checks(root: &Path) -> Vec<(&'static str, Step)> {
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    // The command's binary is left out: its page would overwrite that of the library of the same name.
    let pages = ["doc", "--workspace", "--no-deps", "--exclude", "mlafuse-cli"];
    let mut doc = cargo(root, &pages);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    vec![
        ("format", Step::Lint(cargo(root, &["fmt", "--all", "--check"]))),
        ("rules", Step::Rules),
        ("clippy", Step::Lint(cargo(root, &clippy))),
        ("docs", Step::Lint(doc)),
    ]
}

/// The command that runs the workspace's tests: nextest, or cargo's own runner where nextest is absent.
pub fn test_command(root: &Path, filter: &[String], cases: Cases) -> Result<Command> {
    let mut command = if has_nextest(root)? {
        let mut command = cargo(root, &["nextest", "run", "--workspace"]);
        if cases == Cases::Deep {
            command.args(["--profile", "deep"]);
        }
        command
    } else {
        println!("cargo-nextest is not installed: running the tests with `cargo test`");
        cargo(
            root,
            &["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"],
        )
    };
    command.arg("--").args(filter);
    // Kernels of tests are none of the user's.
    if std::env::var_os("MLAFUSE_CACHE").is_none() {
        command.env("MLAFUSE_CACHE", root.join("target/test-kernels"));
    }
    match cases {
        Cases::Deep => {
            command.env("PROPTEST_CASES", "2000").env("MLAFUSE_DEEP", "1");
        }
        Cases::Usual if std::env::var_os("PROPTEST_CASES").is_none() => {
            command.env("PROPTEST_CASES", "32");
        }
        Cases::Usual => {}
    }
    Ok(command)
}

fn has_nextest(root: &Path) -> Result<bool> {
    let mut probe = cargo(root, &["nextest", "--version"]);
    let found = status(probe.stdout(Stdio::null()).stderr(Stdio::null()))?;
    Ok(found.success())
}

/// With a library that set-up found or installed, a test that needs NVRTC fails rather than skips.
pub fn with_nvrtc<'a>(command: &'a mut Command, library: Option<&PathBuf>) -> &'a mut Command {
    match library {
        Some(path) => command.env("MLAFUSE_REQUIRE_NVRTC", "1").env("MLAFUSE_NVRTC", path),
        None => command.env_remove("MLAFUSE_REQUIRE_NVRTC"),
    }
}

fn passes(command: &mut Command, ci: bool) -> Result<bool> {
    if ci {
        // Checkpoints beside the repository must be there for CI; elsewhere tests that want them say that they skip.
        command
            .stdin(Stdio::null())
            .env("CARGO_TERM_COLOR", "never")
            .env("MLAFUSE_REQUIRE_FIXTURES", "1");
    }
    Ok(status(command)?.success())
}

fn line(name: &str, passed: bool, took: Duration) -> String {
    let verdict = if passed { "ok" } else { "FAILED" };
    format!("    {name:<10} {verdict:<6} {:>7.1} s", took.as_secs_f64())
}

fn summary(results: &[(&str, bool, Duration)]) -> ExitCode {
    println!("==> summary");
    for (name, passed, took) in results {
        println!("{}", line(name, *passed, *took));
    }
    let failed: Vec<&str> = results.iter().filter(|step| !step.1).map(|step| step.0).collect();
    if failed.is_empty() {
        println!("every step passed");
        return ExitCode::SUCCESS;
    }
    println!("failed: {}", failed.join(", "));
    ExitCode::FAILURE
}
