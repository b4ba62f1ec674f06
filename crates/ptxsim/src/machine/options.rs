//! How a launch is executed.

use std::fmt;
use std::str::FromStr;

use crate::numeric::approx::Approx;

/// In which order warps run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// Each warp runs until it must wait, in order.
    #[default]
    Fixed,
    /// A warp drawn with this seed runs for a few instructions, then another.
    Random(u64),
    /// As `Fixed`, but this warp of each block runs only when no other can.
    Starve(u32),
}

/// When asynchronous operations take effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Asynchrony {
    /// As late as the waits allow: shows a missing wait.
    #[default]
    Lazy,
    /// At issue: shows a missing barrier before a buffer is written again.
    Eager,
}

/// What is looked for beyond what stops a launch anyway (accesses outside of allocations, deadlock, the step limit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Reads of bytes that nothing wrote.
    pub initialised: bool,
    /// Accesses of which one is a write and that nothing orders.
    pub races: bool,
    /// Barriers that are used against their rules.
    pub synchronisation: bool,
}

impl Checks {
    /// Every check.
    pub const ALL: Checks = Checks {
        initialised: true,
        races: true,
        synchronisation: true,
    };
    /// None.
    pub const NONE: Checks = Checks {
        initialised: false,
        races: false,
        synchronisation: false,
    };
}

/// How `mma` forms sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MmaArithmetic {
    /// In f32, one product after the other.
    #[default]
    Fast,
    /// As the tensor cores of the module's `.target` do, bit for bit.
    Exact,
}

/// How a launch is executed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// The order of warps.
    pub schedule: Schedule,
    /// When asynchronous operations take effect.
    pub asynchrony: Asynchrony,
    /// What is looked for.
    pub checks: Checks,
    /// Sums of `mma`.
    pub mma: MmaArithmetic,
    /// The approximate functions.
    pub approx: Approx,
    /// Warp instructions that one block may execute; more is a report.
    pub step_limit: u64,
    /// Blocks that run at once; `None` for the machine's cores.
    pub threads: Option<usize>,
    /// Whether counters are kept for each PTX line as well.
    pub line_counters: bool,
    /// After this many reports a launch ends.
    pub max_reports: usize,
}

/// Warp instructions that a block may execute where nothing else is said.
pub const STEP_LIMIT: u64 = 1 << 28;

impl Default for Options {
    fn default() -> Options {
        Options {
            schedule: Schedule::default(),
            asynchrony: Asynchrony::default(),
            checks: Checks::ALL,
            mma: MmaArithmetic::default(),
            approx: Approx::default(),
            step_limit: STEP_LIMIT,
            threads: None,
            line_counters: false,
            max_reports: 16,
        }
    }
}

/// A text that names no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("schedule \"{found}\": expected fixed, random:SEED or starve:WARP")]
pub struct ScheduleError {
    /// The text.
    pub found: String,
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Schedule, ScheduleError> {
        let error = || ScheduleError { found: text.to_owned() };
        match text.split_once(':') {
            None if text == "fixed" => Ok(Schedule::Fixed),
            Some(("random", seed)) => seed.parse().map(Schedule::Random).map_err(|_| error()),
            Some(("starve", warp)) => warp.parse().map(Schedule::Starve).map_err(|_| error()),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Schedule::Fixed => f.write_str("fixed"),
            Schedule::Random(seed) => write!(f, "random:{seed}"),
            Schedule::Starve(warp) => write!(f, "starve:{warp}"),
        }
    }
}

impl fmt::Display for Asynchrony {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Asynchrony::Lazy => "lazy",
            Asynchrony::Eager => "eager",
        })
    }
}
