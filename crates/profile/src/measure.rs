//! Runs both plans and puts together what they cost.

use std::collections::BTreeMap;
use std::sync::Arc;

use mlafuse_ir::plan::Plan;
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_runtime::{Buffer, Device, Executable, KernelTime, Schedules, Splits, Statistics};
use mlafuse_tensor::DType;

use crate::{
    KernelProfile, Limits, PlanProfile, Profile, ProfileError, Profiles, Simulated, kernel_work, memory, random_inputs,
};

/// The plans to compare, both of one graph's inputs.
#[derive(Clone, Debug)]
pub struct Plans {
    /// As few kernels as are known.
    pub fused: Plan,
    /// A kernel for each node.
    pub unfused: Plan,
}

/// How they are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Runs of each plan that are timed, after one that is not; as many as take about three seconds where `None`. A device
    /// that counts instead of being timed runs each once.
    pub repeat: Option<usize>,
    /// The type that is computed in.
    pub dtype: DType,
    /// How fused attention splits the cached tokens.
    pub splits: Splits,
}

/// What the runs of both plans may take together where their number is not given.
const SECONDS: f64 = 3.0;
const FEWEST_RUNS: usize = 3;
const MOST_RUNS: usize = 101;
/// Bytes of a DRAM sector.
const SECTOR: u64 = 32;

/// Runs both plans in launches of the sizes in `dims` on random inputs and a filled cache, in turn, so that both meet the same
/// machine. Kernels run under the schedules that `schedules` suggests, where it does. `step` is called after every run, with the number of runs that are known to come in all.
///
/// # Errors
/// Those of the device, and of sizes without a value.
pub fn profile(
    device: &Arc<dyn Device>,
    plans: Plans,
    schedules: &dyn Schedules,
    dims: &Dims,
    options: Options,
    step: &dyn Fn(usize),
) -> Result<Profile, ProfileError> {
    let room = dims.get(Symbol::S).unwrap_or(0);
    let sizes = &options.splits.bind(dims, room, device.as_ref());
    memory::check(&plans.fused, &plans.unfused, sizes)?;
    let inputs = random_inputs(device.as_ref(), &plans.fused, sizes)?;
    let [mut fused, mut unfused] = [
        Subject::new(device, plans.fused, schedules, dims)?,
        Subject::new(device, plans.unfused, schedules, dims)?,
    ];
    let both = [&mut fused, &mut unfused];
    for subject in both {
        subject.warm_up(sizes, &inputs)?;
        step(2);
    }
    let counts = fused.counts() && unfused.counts();
    let runs = match options.repeat {
        _ if counts => 1,
        Some(repeat) => repeat.max(1),
        None => runs_within(fused.seconds() + unfused.seconds()),
    };
    if !counts {
        let all = 2 + 2 * runs;
        for _ in 0..runs {
            fused.time(sizes, &inputs)?;
            step(all);
            unfused.time(sizes, &inputs)?;
            step(all);
        }
    }
    let limits = match device.target() {
        Some(target) => Limits::of_target(target, options.dtype),
        None => Limits::measure(options.dtype)?,
    };
    Ok(Profile {
        device: device.name(),
        modelled: counts,
        bytes_measured: counts,
        runs,
        plans: Profiles {
            fused: fused.report(sizes, &limits)?,
            unfused: unfused.report(sizes, &limits)?,
        },
        limits,
    })
}

fn runs_within(seconds: f64) -> usize {
    ((SECONDS / seconds.max(1e-6)) as usize).clamp(FEWEST_RUNS, MOST_RUNS)
}

/// A plan under measurement.
struct Subject {
    executable: Executable,
    /// The first run's launches, with counts where the device counts.
    first: Vec<KernelTime>,
    /// Milliseconds of each kernel in each timed run.
    times: Vec<Vec<f64>>,
}

impl Subject {
    fn new(
        device: &Arc<dyn Device>,
        plan: Plan,
        schedules: &dyn Schedules,
        dims: &Dims,
    ) -> Result<Subject, ProfileError> {
        Ok(Subject {
            times: vec![Vec::new(); plan.kernels.len()],
            executable: Executable::with_schedules(Arc::clone(device), plan, dims, schedules)?,
            first: Vec::new(),
        })
    }

    fn warm_up(&mut self, dims: &Dims, inputs: &BTreeMap<String, Buffer>) -> Result<(), ProfileError> {
        self.first = self.executable.run(dims, inputs)?.kernels;
        Ok(())
    }

    fn time(&mut self, dims: &Dims, inputs: &BTreeMap<String, Buffer>) -> Result<(), ProfileError> {
        let run = self.executable.run(dims, inputs)?;
        for (times, kernel) in self.times.iter_mut().zip(run.kernels) {
            times.push(kernel.ms);
        }
        Ok(())
    }

    /// Whether the device counts what its kernels do.
    fn counts(&self) -> bool {
        self.first.iter().all(|kernel| kernel.statistics.is_some())
    }

    /// Of the first run.
    fn seconds(&self) -> f64 {
        self.first.iter().map(|kernel| kernel.ms).sum::<f64>() / 1e3
    }

    fn report(self, dims: &Dims, limits: &Limits) -> Result<PlanProfile, ProfileError> {
        // What is moved of partial results follows from the splits that there are.
        let splits = self.executable.splits_of_equals(dims);
        let dims = dims.clone().with(Symbol::Z, splits);
        let plan = self.executable.plan();
        let mut kernels = Vec::with_capacity(plan.kernels.len());
        for ((region, first), times) in plan.kernels.iter().zip(&self.first).zip(self.times) {
            let work = kernel_work(plan, region, &dims)?;
            kernels.push(match &first.statistics {
                Some(statistics) => {
                    let (bytes, counts) = (moved(statistics), counted(statistics));
                    KernelProfile::simulated(&region.name, work, bytes, counts, limits)
                }
                None => KernelProfile::timed(&region.name, work, median(times) * 1e3, limits),
            });
        }
        Ok(PlanProfile::new(kernels, splits, plan.notes.clone()))
    }
}

/// Bytes of the sectors that a launch read and wrote, each once.
fn moved(statistics: &Statistics) -> u64 {
    let sectors = statistics
        .traffic
        .iter()
        .map(|traffic| traffic.sectors_read + traffic.sectors_written);
    SECTOR * sectors.sum::<u64>()
}

fn counted(statistics: &Statistics) -> Simulated {
    let total = &statistics.total;
    Simulated {
        modelled_us: 0.0,
        executed_flops: total.tensor_flops,
        instructions: total.instructions,
        shared_wavefronts: total.shared_wavefronts,
        shared_wavefronts_ideal: total.shared_wavefronts_ideal,
        global_sectors: total.global_sectors(),
        barriers: total.barriers,
    }
}

/// The middle one; of an even number the mean of the middle two; 0 of none.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    match times.len() {
        0 => 0.0,
        n if n % 2 == 1 => times[n / 2],
        n => (times[n / 2 - 1] + times[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlafuse_ir::plan::unfused;
    use mlafuse_ir::text::parse;
    use mlafuse_runtime::{DeviceSpec, NoSchedules, open};
    use std::cell::RefCell;

    #[test]
    fn both_plans_are_timed_in_turn() {
        let text = "graph g { %x = input \"x\" : f32[T, 64] %w = input \"w\" : f32[32, 64]
            %y = einsum \"t d, q d -> t q\" %x, %w : f32[T, 32] %z = scale factor=2.0 %y : f32[T, 32] output \"z\" %z }";
        let plan = unfused(&parse(text).unwrap()).unwrap();
        let plans = Plans {
            fused: plan.clone(),
            unfused: plan,
        };
        let device = open(DeviceSpec::Cpu).unwrap();
        let (steps, dims) = (RefCell::new(Vec::new()), Dims::new().with(Symbol::T, 5));
        let options = Options {
            repeat: Some(4),
            dtype: DType::F32,
            splits: Splits::Balanced,
        };
        let profile = profile(&device, plans, &NoSchedules, &dims, options, &|of| {
            steps.borrow_mut().push(of)
        })
        .unwrap();
        assert_eq!(steps.into_inner(), [&[2; 2][..], &[10; 8]].concat());
        assert_eq!((profile.runs, profile.modelled), (4, false));
        for (_, plan) in profile.plans.named() {
            assert_eq!((plan.launches, plan.flops), (2, 2 * 5 * 32 * 64));
            let sum: f64 = plan.kernels.iter().filter_map(|kernel| kernel.us).sum();
            assert!(plan.us == Some(sum) && sum > 0.0);
            assert!(plan.kernels.iter().all(|kernel| kernel.percent_of_bound > Some(0.0)));
        }
    }

    #[test]
    fn the_middle_is_found() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(Vec::new()), 0.0);
    }

    #[test]
    fn short_runs_are_repeated_more_often() {
        assert_eq!([0.0, 0.1, 100.0].map(runs_within), [MOST_RUNS, 30, FEWEST_RUNS]);
    }
}
