//! One run of a launch under one schedule, and what is wrong with it.

use std::fmt;

use crate::launch_file::{ElementType, LaunchFile, LaunchFileError, Output, Run, memory_allowed};
use crate::machine::{Asynchrony, Checks, MmaArithmetic, Options, Report, Schedule};
use crate::numeric::approx::Approx;
use crate::parallel::cores;
use crate::program::Kernel;

/// How a launch is run once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trial {
    /// The order of warps.
    pub schedule: Schedule,
    /// When asynchronous operations take effect.
    pub asynchrony: Asynchrony,
    /// Sums of `mma`.
    pub mma: MmaArithmetic,
    /// The approximate functions.
    pub approx: Approx,
}

/// A report, and the run that it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The report.
    pub report: Report,
    /// The run.
    pub trial: Trial,
}

/// What bounds each run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Warp instructions that one block may execute.
    pub steps: u64,
    /// Threads that all runs together take; `None` for the machine's cores.
    pub threads: Option<usize>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            steps: Options::default().step_limit,
            threads: None,
        }
    }
}

impl Limits {
    /// How many runs may go on at once, as far as there is memory for each; and what bounds one of those.
    ///
    /// Each takes one thread, so that the order of blocks is the same in all. Where only one run fits, it takes all threads.
    pub(crate) fn side_by_side(&self, launch: &LaunchFile) -> (usize, Limits) {
        let threads = self.threads.unwrap_or_else(cores).max(1) as u64;
        // The checkers keep several bytes for one of the kernel's.
        let each = launch.bytes().saturating_mul(8).max(1);
        match threads.min(memory_allowed() / each) {
            0 | 1 => (1, *self),
            workers => {
                let threads = Some(1);
                (workers as usize, Limits { threads, ..*self })
            }
        }
    }
}

impl Trial {
    /// The run that others are compared with.
    pub(crate) const BASELINE: Trial = Trial {
        schedule: Schedule::Fixed,
        asynchrony: Asynchrony::Lazy,
        mma: MmaArithmetic::Fast,
        approx: Approx::Rounded,
    };

    /// Whether its results must be the same, bit for bit, as those of every other such run.
    fn is_bitwise(&self) -> bool {
        self.mma == MmaArithmetic::default() && self.approx == Approx::default()
    }

    fn options(&self, limits: &Limits) -> Options {
        Options {
            schedule: self.schedule,
            asynchrony: self.asynchrony,
            mma: self.mma,
            approx: self.approx,
            checks: Checks::ALL,
            step_limit: limits.steps,
            threads: limits.threads,
            ..Options::default()
        }
    }

    /// Runs a kernel with every checker.
    pub(crate) fn run(&self, launch: &LaunchFile, kernel: &Kernel, limits: &Limits) -> Result<Run, LaunchFileError> {
        launch.run(kernel, &self.options(limits))
    }

    /// What is wrong with a run: the checkers' reports; else how its outputs differ from those of `first`, another trial's
    /// run, and from the reference.
    pub(crate) fn judge(&self, launch: &LaunchFile, run: &Run, first: Option<(&Trial, &Run)>) -> Vec<Finding> {
        let mut reports = run.outcome.reports.clone();
        if reports.is_empty() && run.outcome.completed {
            let same = first.filter(|(trial, _)| trial.is_bitwise() && self.is_bitwise());
            reports
                .extend(same.and_then(|(trial, first)| self.difference(launch, &run.outputs, trial, &first.outputs)));
            reports.extend(launch.compare(&run.outputs).1);
        }
        let finding = |report| Finding { report, trial: *self };
        reports.into_iter().map(finding).collect()
    }

    /// A report on the first output that is not the same in both runs.
    fn difference(
        &self,
        launch: &LaunchFile,
        outputs: &[Output],
        other_trial: &Trial,
        others: &[Output],
    ) -> Option<Report> {
        let (output, other) = outputs.iter().zip(others).find(|(a, b)| a.bytes != b.bytes)?;
        let size = output.element.bytes();
        let mut elements = output.bytes.chunks_exact(size).zip(other.bytes.chunks_exact(size));
        let element = elements.position(|(a, b)| a != b)?;
        let value = |output: &Output| shown(output.element, &output.bytes[element * size..][..size]);
        let message = format!(
            "output `{}` is not the same in every run: at {:?} it is {} with {self}, and {} with {other_trial}",
            output.name,
            output.index(element),
            value(output),
            value(other),
        );
        Some(launch.report(output, message))
    }
}

/// `1.5 (0x3fc0)`.
fn shown(element: ElementType, bytes: &[u8]) -> String {
    let bits: String = bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect();
    format!("{} (0x{bits})", element.value(bytes))
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "schedule {}, async {}", self.schedule, self.asynchrony)?;
        if self.mma == MmaArithmetic::Exact {
            f.write_str(", mma exact")?;
        }
        match self.approx {
            Approx::Rounded => Ok(()),
            Approx::Perturb(seed) => write!(f, ", approx perturb:{seed}"),
        }
    }
}

impl Finding {
    /// The report in one sentence that names its place and the run.
    pub fn message(&self) -> String {
        let report = &self.report;
        let place = place(report).map_or(String::new(), |place| format!("{place}; "));
        format!("{} ({place}{})", report.message, self.trial)
    }
}

/// Where a report is from, as far as it says.
pub(crate) fn place(report: &Report) -> Option<String> {
    if report.ptx_line == 0 {
        return None;
    }
    let source = report
        .source
        .as_ref()
        .map_or(String::new(), |source| format!(" ({source})"));
    let address = report
        .address
        .map_or(String::new(), |address| format!(", address {address:#x}"));
    Some(format!(
        "PTX line {}{source}, block {:?}, thread {:?}{address}",
        report.ptx_line, report.block, report.thread
    ))
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n    {}", self.report, self.trial)
    }
}
