//! Mutation testing: each barrier, wait and fence of a kernel is removed or weakened in turn, and the checks must notice.

mod mutants;

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::check::{CheckOptions, Progress, check, run_trials, short_trials};
use crate::launch_file::{LaunchFile, LaunchFileError, Run};
use crate::machine::Options;
use crate::parallel::in_order;
use crate::program::Kernel;
use crate::trial::{Finding, Limits, Trial};
use mutants::Stock;

pub use mutants::Mutant;

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// A check noticed it; what it found first.
    Killed(Box<Finding>),
    /// None did.
    Survived {
        /// Whether the launch executes the instruction at all.
        reached: bool,
    },
}

/// How mutants are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MutateOptions {
    /// Whether what survives a short list of runs is put to all of a check's.
    pub thorough: bool,
    /// What bounds each run of the kernel itself; mutants get a small multiple of the steps that it takes.
    pub limits: Limits,
}

/// What mutation testing found.
#[derive(Clone, Debug)]
pub struct MutateResult {
    /// What is wrong with the kernel as it is. Where there is anything, no mutant was tried.
    pub findings: Vec<Finding>,
    /// The mutants in order of the code.
    pub mutants: Vec<(Mutant, Fate)>,
}

/// Tries every mutant of a launch file's kernel.
///
/// # Errors
/// Where the launch cannot begin.
pub fn mutate(
    launch: &LaunchFile,
    options: &MutateOptions,
    progress: Progress<'_>,
) -> Result<MutateResult, LaunchFileError> {
    let trials = short_trials(launch);
    let (_, result) = run_trials(launch, launch.kernel(), &trials, &options.limits, &|_, _| ())?;
    let findings = result.findings;
    if !findings.is_empty() {
        let mutants = Vec::new();
        return Ok(MutateResult { findings, mutants });
    }
    let trier = Trier::new(launch, options, trials)?;
    let mutants = trier.fates(progress)?;
    Ok(MutateResult { findings, mutants })
}

/// What mutants are tried with.
struct Trier<'a> {
    launch: &'a LaunchFile,
    stock: Stock,
    /// The kernel as it is, counted line by line.
    base: Run,
    trials: Vec<Trial>,
    limits: Limits,
    workers: usize,
    thorough: bool,
}

impl<'a> Trier<'a> {
    fn new(launch: &'a LaunchFile, options: &MutateOptions, trials: Vec<Trial>) -> Result<Trier<'a>, LaunchFileError> {
        let (workers, limits) = options.limits.side_by_side(launch);
        let counted = Options {
            step_limit: limits.steps,
            threads: limits.threads,
            line_counters: true,
            ..Options::default()
        };
        let base = launch.run(launch.kernel(), &counted)?;
        let steps = steps_allowed(base.outcome.statistics.total.instructions, launch.blocks());
        let steps = steps.min(limits.steps);
        Ok(Trier {
            launch,
            stock: Stock::new(launch.kernel()),
            base,
            trials,
            limits: Limits { steps, ..limits },
            workers,
            thorough: options.thorough,
        })
    }

    fn fates(&self, progress: Progress<'_>) -> Result<Vec<(Mutant, Fate)>, LaunchFileError> {
        let mutants = &self.stock.mutants;
        let done = AtomicUsize::new(0);
        progress(0, mutants.len());
        let work = |index: usize| {
            let mutant = &mutants[index];
            let fate = self.fate(mutant).map(|fate| (mutant.clone(), fate));
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, mutants.len());
            fate
        };
        in_order(mutants.len(), self.workers, work, Result::is_err)
            .into_iter()
            .collect()
    }

    fn fate(&self, mutant: &Mutant) -> Result<Fate, LaunchFileError> {
        let lines = &self.base.outcome.statistics.lines;
        let reached = lines.contains_key(&mutant.ptx_line);
        if !reached {
            return Ok(Fate::Survived { reached });
        }
        let kernel = self.stock.kernel(mutant);
        for trial in &self.trials {
            let run = trial.run(self.launch, &kernel, &self.limits)?;
            let findings = trial.judge(self.launch, &run, Some((&Trial::BASELINE, &self.base)));
            if let Some(finding) = findings.into_iter().next() {
                return Ok(Fate::Killed(Box::new(finding)));
            }
        }
        let killed = if self.thorough { self.all_trials(&kernel)? } else { None };
        Ok(killed.map_or(Fate::Survived { reached }, |finding| Fate::Killed(Box::new(finding))))
    }

    fn all_trials(&self, kernel: &Kernel) -> Result<Option<Finding>, LaunchFileError> {
        let options = CheckOptions {
            limits: self.limits,
            ..CheckOptions::default()
        };
        let result = check(self.launch, kernel, &options, &|_, _| ())?;
        Ok(result.findings.into_iter().next())
    }
}

/// Steps that a block of a mutant may take: one that spins takes more than any block of the kernel itself.
fn steps_allowed(instructions: u64, blocks: u64) -> u64 {
    let average = instructions / blocks.max(1);
    // Blocks may differ: no block takes more than all of them.
    instructions
        .saturating_add(average.saturating_mul(20))
        .saturating_add(10_000)
}
