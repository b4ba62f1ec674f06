//! Flags that several commands have, and how their values are read.

use clap::ValueEnum;
use ptxsim::machine::{Asynchrony, Checks, MmaArithmetic};
use ptxsim::numeric::approx::Approx;
use ptxsim::trial::Limits;
use std::path::PathBuf;

/// What every command that runs a launch file takes.
#[derive(clap::Args)]
pub struct Launch {
    /// The launch: PTX, grid, arguments and what they should give.
    #[arg(value_name = "LAUNCH.json")]
    pub path: PathBuf,
    /// Threads to use [default: one for each core].
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Warp instructions that one block may execute; more is a report.
    #[arg(long, value_name = "N", default_value_t = Limits::default().steps, value_parser = clap::value_parser!(u64).range(1..))]
    pub step_limit: u64,
}

impl Launch {
    pub fn limits(&self) -> Limits {
        Limits {
            steps: self.step_limit,
            threads: self.threads,
        }
    }
}

/// Most threads; more than any machine's.
const MAX_THREADS: usize = 1024;

fn threads(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=MAX_THREADS).contains(number));
    number.ok_or_else(|| format!("expected a number from 1 to {MAX_THREADS}"))
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AsyncFlag {
    /// As late as the waits allow.
    Lazy,
    /// At issue.
    Eager,
}

impl From<AsyncFlag> for Asynchrony {
    fn from(flag: AsyncFlag) -> Asynchrony {
        match flag {
            AsyncFlag::Lazy => Asynchrony::Lazy,
            AsyncFlag::Eager => Asynchrony::Eager,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckFlag {
    /// Only what ends a launch anyway: wild accesses, deadlock, the step limit.
    None,
    /// Uninitialised reads, races and misused barriers too.
    All,
}

impl From<CheckFlag> for Checks {
    fn from(flag: CheckFlag) -> Checks {
        match flag {
            CheckFlag::None => Checks::NONE,
            CheckFlag::All => Checks::ALL,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MmaFlag {
    /// Sums in f32, one product after the other.
    Fast,
    /// As the tensor cores of the PTX's target, bit for bit.
    Exact,
}

impl From<MmaFlag> for MmaArithmetic {
    fn from(flag: MmaFlag) -> MmaArithmetic {
        match flag {
            MmaFlag::Fast => MmaArithmetic::Fast,
            MmaFlag::Exact => MmaArithmetic::Exact,
        }
    }
}

/// Reads `rounded` or `perturb:SEED`.
pub fn approx(text: &str) -> Result<Approx, String> {
    let seed = text.strip_prefix("perturb:").map(str::parse);
    match (text, seed) {
        ("rounded", _) => Ok(Approx::Rounded),
        (_, Some(Ok(seed))) => Ok(Approx::Perturb(seed)),
        _ => Err("expected rounded or perturb:SEED".to_owned()),
    }
}
