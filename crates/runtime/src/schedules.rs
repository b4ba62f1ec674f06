//! Where good schedules are known: what an executable asks before it takes the device's own.

use mlafuse_codegen::schedule::Schedule;
use mlafuse_ir::plan::{Plan, Region};
use mlafuse_ir::size::Dims;

use crate::Device;

/// What is known of good schedules. Nothing of it is trusted: a device refuses what it cannot run.
pub trait Schedules: Send + Sync {
    /// The schedule for launches of `region` of about the sizes in `dims`; `None` where nothing is known.
    fn suggest(&self, device: &dyn Device, plan: &Plan, region: &Region, dims: &Dims) -> Option<Schedule>;
}

/// Nothing is known: every kernel runs under the device's own schedule.
pub struct NoSchedules;

impl Schedules for NoSchedules {
    fn suggest(&self, _: &dyn Device, _: &Plan, _: &Region, _: &Dims) -> Option<Schedule> {
        None
    }
}
