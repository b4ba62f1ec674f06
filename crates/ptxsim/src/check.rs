//! Checking a launch: every kind of schedule, both extremes of asynchrony, every checker.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::launch_file::{LaunchFile, LaunchFileError, Run};
use crate::machine::{Asynchrony, MmaArithmetic, Schedule};
use crate::numeric::approx::Approx;
use crate::parallel::in_order;
use crate::program::Kernel;
use crate::trial::{Finding, Limits, Trial};

/// Most warps that are starved in turn where not every one is asked for.
const STARVED_WARPS: u32 = 8;
/// The seed of the run with perturbed approximate functions.
const PERTURB_SEED: u64 = 1;

/// How thoroughly a launch is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckOptions {
    /// Random schedules.
    pub seeds: u64,
    /// Whether each warp of the block is starved in turn, or eight of them.
    pub all_warps: bool,
    /// What bounds each run.
    pub limits: Limits,
}

impl Default for CheckOptions {
    fn default() -> CheckOptions {
        CheckOptions {
            seeds: 4,
            all_warps: false,
            limits: Limits::default(),
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckResult {
    /// What is wrong in the first run that has a fault.
    pub findings: Vec<Finding>,
    /// Runs up to that one, or all.
    pub runs: usize,
    /// Runs that there would be without a fault.
    pub planned: usize,
}

/// Told how many runs of how many are done.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// Runs a kernel under every kind of schedule, both asynchronous modes and every checker; once with exact tensor cores; and
/// once with perturbed approximate functions. The kernel may be a changed copy of the launch file's.
///
/// Outputs must be the same bit for bit in all runs but the last two, and agree with the reference in all. Stops at the first
/// run that has a fault.
///
/// # Errors
/// Where the launch cannot begin.
pub fn check(
    launch: &LaunchFile,
    kernel: &Kernel,
    options: &CheckOptions,
    progress: Progress<'_>,
) -> Result<CheckResult, LaunchFileError> {
    let trials = trials(launch, options);
    let (_, result) = run_trials(launch, kernel, &trials, &options.limits, progress)?;
    Ok(result)
}

/// Runs trials until one has a fault; gives the first one's run as well.
pub(crate) fn run_trials(
    launch: &LaunchFile,
    kernel: &Kernel,
    trials: &[Trial],
    limits: &Limits,
    progress: Progress<'_>,
) -> Result<(Run, CheckResult), LaunchFileError> {
    let planned = trials.len();
    progress(0, planned);
    let (workers, limits) = limits.side_by_side(launch);
    let (first, others) = trials.split_first().unwrap_or((&Trial::BASELINE, &[]));
    let base = first.run(launch, kernel, &limits)?;
    let findings = first.judge(launch, &base, None);
    progress(1, planned);
    let mut result = CheckResult {
        findings,
        runs: 1,
        planned,
    };
    if result.findings.is_empty() {
        let rest = compare_trials(launch, kernel, others, (first, &base), (workers, &limits), progress)?;
        result.runs += rest.len();
        result.findings = rest.into_iter().flatten().collect();
    }
    Ok((base, result))
}

/// The findings of each trial, up to the first that has any.
fn compare_trials(
    launch: &LaunchFile,
    kernel: &Kernel,
    trials: &[Trial],
    first: (&Trial, &Run),
    (workers, limits): (usize, &Limits),
    progress: Progress<'_>,
) -> Result<Vec<Vec<Finding>>, LaunchFileError> {
    let done = AtomicUsize::new(1);
    let work = |index: usize| -> Result<Vec<Finding>, LaunchFileError> {
        let trial: &Trial = &trials[index];
        let run = trial.run(launch, kernel, limits)?;
        let findings = trial.judge(launch, &run, Some(first));
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        progress(done, trials.len() + 1);
        Ok(findings)
    };
    let has_fault = |result: &Result<Vec<Finding>, LaunchFileError>| !matches!(result, Ok(found) if found.is_empty());
    in_order(trials.len(), workers, work, has_fault).into_iter().collect()
}

/// Every run of a check; the first is the one that the others are compared with.
fn trials(launch: &LaunchFile, options: &CheckOptions) -> Vec<Trial> {
    let random = (1..=options.seeds).map(Schedule::Random);
    let starve = starved(launch.warps(), options.all_warps).map(Schedule::Starve);
    let schedules = std::iter::once(Schedule::Fixed).chain(starve).chain(random);
    let both = |schedule| {
        [Asynchrony::Lazy, Asynchrony::Eager].map(|asynchrony| Trial {
            schedule,
            asynchrony,
            ..Trial::BASELINE
        })
    };
    let mma = MmaArithmetic::Exact;
    let approx = Approx::Perturb(PERTURB_SEED);
    let arithmetic = [
        Trial { mma, ..Trial::BASELINE },
        Trial {
            approx,
            ..Trial::BASELINE
        },
    ];
    schedules.flat_map(both).chain(arithmetic).collect()
}

/// All warps, or some that lie evenly, the first and the last among them.
fn starved(warps: u32, all: bool) -> impl Iterator<Item = u32> {
    let count = if all { warps } else { warps.min(STARVED_WARPS) };
    let last = u64::from(warps.saturating_sub(1));
    (0..count).map(move |index| (u64::from(index) * last / u64::from(count - 1).max(1)) as u32)
}

/// A short list of runs that catches most faults: what mutants are put to.
pub(crate) fn short_trials(launch: &LaunchFile) -> Vec<Trial> {
    use Asynchrony::{Eager, Lazy};
    let last = launch.warps().saturating_sub(1);
    let list = [
        (Schedule::Fixed, Lazy),
        (Schedule::Fixed, Eager),
        (Schedule::Starve(0), Lazy),
        (Schedule::Starve(last), Eager),
        (Schedule::Starve(last), Lazy),
        (Schedule::Random(1), Lazy),
        (Schedule::Random(2), Eager),
    ];
    let trial = |(schedule, asynchrony)| Trial {
        schedule,
        asynchrony,
        ..Trial::BASELINE
    };
    list.map(trial).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starved_warps_lie_evenly() {
        let warps = |count, all| starved(count, all).collect::<Vec<_>>();
        assert_eq!(warps(1, false), [0]);
        assert_eq!(warps(3, false), [0, 1, 2]);
        assert_eq!(warps(8, false), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(warps(32, false), [0, 4, 8, 13, 17, 22, 26, 31]);
        assert_eq!(warps(12, true).len(), 12);
    }
}
