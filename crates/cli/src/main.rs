//! The mlafuse command line.
//!
//! Each command is a module with its clap arguments and a `run` that gives a [`Report`]; printing, errors and the exit
//! status are here. Status 0: done; 1: ran, and found a mismatch or a fault; 2: bad usage or bad input.

mod cache;
mod doctor;
mod emit;
mod failure;
mod files;
mod model;
mod options;
mod output;
mod presets;
mod profile;
mod progress;
mod random;
mod run;
mod tune;
mod verify;

use clap::{Parser, Subcommand};
use output::{Format, Report};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// A kernel-fusion compiler for Multi-head Latent Attention: any shape, CUDA C++ through NVRTC alone, checked on the CPU.
#[derive(Parser)]
#[command(name = "mlafuse", version, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    /// How results are printed to stdout.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    format: Format,
    /// Tell on stderr what is done; twice for details.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Start here:
  mlafuse doctor
  mlafuse presets
  mlafuse emit --model deepseek-v3 --phase decode --arch sm_80 --stage resources
  mlafuse run --checkpoint examples/deepseek-v3-tiny \\
      --input examples/deepseek-v3-tiny/io.safetensors --output out.safetensors

Exit status: 0 done, 1 ran and found a mismatch or a fault, 2 bad usage or bad input.";

#[derive(Subcommand)]
enum Command {
    /// What this machine has: NVRTC, driver, GPUs, CPU features, cache; what is missing and how to mend it.
    Doctor(doctor::Args),
    /// The known models' shapes, with their cache bytes a token.
    Presets(presets::Args),
    /// Shows a layer at any stage on its way from graph to machine code.
    Emit(emit::Args),
    /// Runs one attention layer of a checkpoint: a prefill, then single-token steps on the paged cache.
    Run(run::Args),
    /// A property run: random shapes, lengths, pages and inputs against the f64 reference; what fails is made smaller.
    Verify(verify::Args),
    /// Finds the fastest schedule of each kernel, measured or modelled, and records it for launches to take.
    Tune(tune::Args),
    /// Fused against unfused, kernel by kernel: time, bytes, FLOPs, and how near each is to what the machine allows.
    Profile(profile::Args),
    /// The folder of compiled kernels.
    Cache(cache::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_tracing(cli.verbose);
    let printed = command(cli.command).and_then(|report| {
        output::print(&report, cli.format)?;
        Ok(report.mismatch)
    });
    match printed {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(1),
        Err(error) => {
            output::note(&format!("error: {}", failure::message(&error)));
            ExitCode::from(if failure::is_finding(&error) { 1 } else { 2 })
        }
    }
}

fn command(command: Command) -> anyhow::Result<Report> {
    match command {
        Command::Doctor(args) => doctor::run(&args),
        Command::Presets(args) => presets::run(&args),
        Command::Emit(args) => emit::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Tune(args) => tune::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Cache(args) => cache::run(&args),
    }
}

/// Traces go to stderr: warnings always, more with -v, and what `RUST_LOG` asks for where it is set.
fn start_tracing(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(match verbose {
            0 => tracing_subscriber::fmt::format::FmtSpan::NONE,
            _ => tracing_subscriber::fmt::format::FmtSpan::CLOSE,
        })
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Help is broken at 100 columns: an example that is longer could not be pasted.
    #[test]
    fn examples_are_not_broken() {
        let cli = Cli::command();
        for command in cli.get_subcommands().chain([&cli]) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let mut examples = help.lines().filter(|line| line.starts_with(' '));
            let long = examples.find(|line| line.chars().count() > 100);
            assert_eq!(long, None, "{}", command.get_name());
        }
    }
}
