//! NVRTC, the kernel cache, and the device boundary.
//!
//! [`open`] opens a [`Device`], [`Executable`] runs a plan on one, [`compile_region`] makes a kernel of a plan into PTX and
//! CUBIN for a GPU, with or without one being there.

pub mod cache;
mod compile;
mod cpu;
mod device;
pub mod driver;
mod error;
mod executable;
pub mod folders;
mod frame;
mod level;
pub mod nvrtc;
mod processor;
mod schedules;
mod sim;
mod spec;
mod splits;
mod temporaries;

pub use compile::{CompiledKernel, Rejected, Resources, SourceKernel, compile_region, compile_under, region_source};
pub use device::{Buffer, Device, Identity, Kernel, Parts, Prepared, open};
pub use error::RuntimeError;
pub use executable::{Executable, KernelTime, Run};
pub use frame::Frame;
pub use level::{CPU_LEVEL, cpu_level};
pub use ptxsim::machine::{Counters, Statistics};
pub use schedules::{NoSchedules, Schedules};
pub use sim::SimBuffer;
pub use spec::{DeviceSpec, DeviceSpecError};
pub use splits::{Splits, UnknownSplits, few_tokens, with_splits};
