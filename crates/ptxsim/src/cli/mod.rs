//! Each command is a module with its clap arguments and a `run` that gives an [`Answer`]; printing, errors and the exit
//! status are here.

mod check;
mod findings;
mod flags;
mod mma;
mod mutate;
mod progress;
mod run;
mod stats;
mod table;

use clap::{Parser, Subcommand, ValueEnum};
use serde_json::Value;
use std::io::{self, Write};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Executes and checks PTX on the CPU.
#[derive(Parser)]
#[command(name = "ptxsim", version, propagate_version = true, after_help = AFTER_HELP)]
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

const AFTER_HELP: &str = "\
Examples:
  ptxsim run LAUNCH.json --out OUT.safetensors --stats
  ptxsim check LAUNCH.json
  ptxsim mutate LAUNCH.json

Exit status: 0 done, 1 ran and found a mismatch, 2 bad usage or bad input.";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// One JSON object, and nothing else.
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a kernel once, with checkers, and compares its outputs with a reference.
    Run(run::Args),
    /// Runs a kernel under every kind of schedule with every checker.
    Check(check::Args),
    /// Removes or weakens each barrier, wait and fence in turn, and lists what no check notices.
    Mutate(mutate::Args),
    /// Compares the exact tensor-core mode with outputs recorded on GPUs.
    Mma(mma::Args),
}

/// What a command has to say.
struct Answer {
    text: String,
    json: Value,
    /// Whether it found a fault or a mismatch.
    fault: bool,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_tracing(cli.verbose);
    let answer = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(args),
        Command::Mutate(args) => mutate::run(args),
        Command::Mma(args) => mma::run(args),
    };
    match answer.and_then(|answer| print(&answer, cli.format)) {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(1),
        Err(error) => {
            // Where stderr is closed nobody is told; the status stays.
            // The libraries' messages are whole: each says its cause itself.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Prints the answer; whether it is of a fault.
fn print(answer: &Answer, format: Format) -> anyhow::Result<bool> {
    let text = match format {
        Format::Text => answer.text.trim_end().to_owned(),
        Format::Json => serde_json::to_string(&answer.json)?,
    };
    match writeln!(io::stdout(), "{text}") {
        // A reader such as `head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(answer.fault),
        printed => printed.map(|()| answer.fault).map_err(Into::into),
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
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_writer(io::stderr)
        .init();
}
