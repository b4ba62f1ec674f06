//! What is told of two plans.

use serde::Serialize;

use crate::{Limits, Work};

/// Two plans of one graph on one device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// The device's name.
    pub device: String,
    /// Whether times are a model's rather than a clock's.
    pub modelled: bool,
    /// Whether `bytes` were counted by the device rather than from the plan.
    pub bytes_measured: bool,
    /// Runs of each plan that the times are medians of.
    pub runs: usize,
    /// What bounds are relative to.
    pub limits: Limits,
    /// The plans.
    pub plans: Profiles,
}

/// The profiles of both plans.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profiles {
    /// As few kernels as are known.
    pub fused: PlanProfile,
    /// A kernel for each node.
    pub unfused: PlanProfile,
}

impl Profiles {
    /// Both with their names.
    pub fn named(&self) -> [(&'static str, &PlanProfile); 2] {
        [("fused", &self.fused), ("unfused", &self.unfused)]
    }
}

/// One plan: sums over its kernels, and the kernels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanProfile {
    /// Kernel launches of one step.
    pub launches: usize,
    /// Microseconds, where there is a clock.
    pub us: Option<f64>,
    /// Bytes moved.
    pub bytes: u64,
    /// Bytes that the kernels must move.
    pub minimal_bytes: u64,
    /// Operations of the graph's contractions.
    pub flops: u64,
    /// Sums of what a simulator counted.
    #[serde(flatten)]
    pub simulated: Option<Simulated>,
    /// Parts into which attention splits the cached tokens of a sequence.
    pub splits: usize,
    /// What was not fused, and why.
    pub notes: Vec<String>,
    /// In order of launch.
    pub kernels: Vec<KernelProfile>,
}

impl PlanProfile {
    /// Sums `kernels` up.
    pub fn new(kernels: Vec<KernelProfile>, splits: usize, notes: Vec<String>) -> PlanProfile {
        let count = |f: fn(&KernelProfile) -> u64| kernels.iter().map(f).sum();
        PlanProfile {
            launches: kernels.iter().map(|kernel| kernel.launches).sum(),
            us: kernels.iter().map(|kernel| kernel.us).sum(),
            bytes: count(|kernel| kernel.bytes),
            minimal_bytes: count(|kernel| kernel.minimal_bytes),
            flops: count(|kernel| kernel.flops),
            simulated: kernels.iter().map(|kernel| kernel.simulated).sum(),
            splits,
            notes,
            kernels,
        }
    }

    /// Microseconds by the clock, or else by the model.
    pub fn time(&self) -> Option<f64> {
        self.us.or(self.simulated.map(|simulated| simulated.modelled_us))
    }
}

/// One kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelProfile {
    /// Its name in the plan.
    pub name: String,
    /// Launches of one step.
    pub launches: usize,
    /// Median of the runs in microseconds, where there is a clock.
    pub us: Option<f64>,
    /// Bytes moved.
    pub bytes: u64,
    /// Bytes that it must move.
    pub minimal_bytes: u64,
    /// Operations of the graph's contractions.
    pub flops: u64,
    /// What it waits for at least.
    pub bound: Bound,
    /// 100 × the time that its bound allows / its time; of a simulated kernel the modelled time of what it must do / that of what it
    /// did. `None` where there is nothing to do.
    pub percent_of_bound: Option<f64>,
    /// What a simulator counted.
    #[serde(flatten)]
    pub simulated: Option<Simulated>,
}

impl KernelProfile {
    /// A kernel that a clock timed.
    pub(crate) fn timed(name: &str, work: Work, us: f64, limits: &Limits) -> KernelProfile {
        let (bound, seconds) = bound(work.bytes, work.flops, limits);
        KernelProfile {
            name: name.to_string(),
            launches: 1,
            us: Some(us),
            bytes: work.bytes,
            minimal_bytes: work.bytes,
            flops: work.flops,
            bound,
            percent_of_bound: percent(seconds, us / 1e6),
            simulated: None,
        }
    }

    /// A kernel that a simulator executed; the model's time is that of the bytes it moved and the operations it executed.
    pub(crate) fn simulated(name: &str, work: Work, bytes: u64, counts: Simulated, limits: &Limits) -> KernelProfile {
        let (_, least) = bound(work.bytes, work.flops, limits);
        // Where there are no tensor cores in it, what is executed is at least what is asked for.
        let (bound, seconds) = bound(bytes, work.flops.max(counts.executed_flops), limits);
        KernelProfile {
            name: name.to_string(),
            launches: 1,
            us: None,
            bytes,
            minimal_bytes: work.bytes,
            flops: work.flops,
            bound,
            percent_of_bound: percent(least, seconds),
            simulated: Some(Simulated {
                modelled_us: seconds * 1e6,
                ..counts
            }),
        }
    }

    /// Microseconds by the clock, or else by the model.
    pub fn time(&self) -> Option<f64> {
        self.us.or(self.simulated.map(|simulated| simulated.modelled_us))
    }
}

/// The slower of memory and arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Moving its bytes.
    Memory,
    /// Computing its operations.
    Compute,
}

impl Bound {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Memory => "memory",
            Bound::Compute => "compute",
        }
    }
}

fn bound(bytes: u64, flops: u64, limits: &Limits) -> (Bound, f64) {
    let (memory, compute) = limits.seconds(bytes, flops);
    if compute > memory {
        (Bound::Compute, compute)
    } else {
        (Bound::Memory, memory)
    }
}

fn percent(least: f64, taken: f64) -> Option<f64> {
    (taken > 0.0).then(|| 100.0 * least / taken)
}

/// What a simulator counted of a kernel, or of all kernels of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Simulated {
    /// The time that a part's data sheet allows for the bytes moved and the operations executed; nothing else is modelled.
    pub modelled_us: f64,
    /// Operations of tensor cores, padding included.
    pub executed_flops: u64,
    /// Instructions of warps.
    pub instructions: u64,
    /// Passes through the banks of shared memory.
    pub shared_wavefronts: u64,
    /// Those that would do without bank conflicts.
    pub shared_wavefronts_ideal: u64,
    /// Sectors of global memory that instructions asked for, caches not considered.
    pub global_sectors: u64,
    /// Barriers that warps arrived at.
    pub barriers: u64,
}

impl std::iter::Sum for Simulated {
    fn sum<I: Iterator<Item = Simulated>>(counts: I) -> Simulated {
        counts.fold(Simulated::default(), |sum, counts| Simulated {
            modelled_us: sum.modelled_us + counts.modelled_us,
            executed_flops: sum.executed_flops + counts.executed_flops,
            instructions: sum.instructions + counts.instructions,
            shared_wavefronts: sum.shared_wavefronts + counts.shared_wavefronts,
            shared_wavefronts_ideal: sum.shared_wavefronts_ideal + counts.shared_wavefronts_ideal,
            global_sectors: sum.global_sectors + counts.global_sectors,
            barriers: sum.barriers + counts.barriers,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn limits() -> Limits {
        Limits {
            bytes_per_s: 1e9,
            flops_per_s: 1e10,
            source: "made up".into(),
        }
    }

    fn work(bytes: u64, flops: u64) -> Work {
        Work { bytes, flops }
    }

    /// A copy that takes twice its bound, and a product that takes its bound.
    pub(crate) fn timed_plan() -> PlanProfile {
        let kernels = [("copy", work(1000, 0), 2.0), ("product", work(1000, 50_000), 5.0)];
        let kernels = kernels.map(|(name, work, us)| KernelProfile::timed(name, work, us, &limits()));
        PlanProfile::new(kernels.to_vec(), 1, Vec::new())
    }

    pub(crate) fn simulated_plan() -> PlanProfile {
        let counts = |instructions| Simulated {
            executed_flops: 80_000,
            instructions,
            ..Simulated::default()
        };
        let kernels = [("a", 70), ("b", 30)].map(|(name, instructions)| {
            KernelProfile::simulated(name, work(1000, 20_000), 3200, counts(instructions), &limits())
        });
        PlanProfile::new(kernels.to_vec(), 1, Vec::new())
    }

    #[test]
    fn a_kernel_is_held_to_the_slower_limit() {
        let plan = timed_plan();
        let [copy, product] = plan.kernels.as_slice() else {
            panic!()
        };
        assert_eq!((copy.bound, copy.percent_of_bound), (Bound::Memory, Some(50.0)));
        assert_eq!((product.bound, product.percent_of_bound), (Bound::Compute, Some(100.0)));
    }

    #[test]
    fn a_simulated_kernel_is_held_to_what_it_had_to_do() {
        let plan = simulated_plan();
        let kernel = &plan.kernels[0];
        // 80,000 operations take 8 us, 3200 bytes 3.2; the 20,000 that are asked for would take 2.
        assert_eq!((kernel.bound, kernel.percent_of_bound), (Bound::Compute, Some(25.0)));
        assert_eq!(kernel.time(), Some(8.0));
        assert_eq!(kernel.us, None);
    }

    #[test]
    fn a_plan_is_the_sum_of_its_kernels() {
        let plan = timed_plan();
        assert_eq!(
            (plan.launches, plan.us, plan.bytes, plan.flops),
            (2, Some(7.0), 2000, 50_000)
        );
        assert_eq!(plan.simulated, None);
        let plan = simulated_plan();
        assert_eq!(
            (plan.us, plan.bytes, plan.minimal_bytes, plan.flops),
            (None, 6400, 2000, 40_000)
        );
        let counts = plan.simulated.unwrap();
        assert_eq!((counts.instructions, counts.executed_flops), (100, 160_000));
        assert_eq!(plan.time(), Some(16.0));
    }

    #[test]
    fn counts_stand_beside_the_other_fields() {
        let json = serde_json::to_value(simulated_plan()).unwrap();
        assert_eq!(json["instructions"], 100);
        assert_eq!(json["kernels"][0]["executed_flops"], 80_000);
        assert!(json["us"].is_null() && json["kernels"][0]["us"].is_null());
        let json = serde_json::to_value(timed_plan()).unwrap();
        assert!(json.get("instructions").is_none());
        assert_eq!(json["kernels"][1]["bound"], "compute");
    }
}
