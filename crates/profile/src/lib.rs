//! Fused against unfused: what each kernel of two plans of one graph costs, and how near it is to what the machine allows.
//!
//! [`profile()`] runs both plans on a device with random inputs and gives a [`Profile`]; [`chrome_trace`] makes a trace of it.
//! [`kernel_work`] counts what a kernel must move and compute from the plan alone; [`random_buffer`] makes memory for whoever
//! times single kernels.
//!
//! *Bytes* are what the device counted where it counts (the simulator: DRAM sectors that the kernel touched, each once), else
//! what the kernel must move ([`kernel_work`]). *FLOPs* are those of the graph's contractions, 2 for each multiply-add: masked
//! scores are among them, norms and exponentials are not. The *bound* is the slower of moving the bytes and computing the
//! FLOPs at the machine's [`Limits`].

mod error;
mod inputs;
mod limits;
mod measure;
mod memory;
mod rate;
mod report;
mod sweep;
mod trace;
mod work;

pub use error::ProfileError;
pub use inputs::{Random, random_buffer, random_inputs};
pub use limits::Limits;
pub use measure::{Options, Plans, median, profile};
pub use memory::free_memory;
pub use rate::Rate;
pub use report::{Bound, KernelProfile, PlanProfile, Profile, Profiles, Simulated};
pub use sweep::Sweep;
pub use trace::chrome_trace;
pub use work::{Work, kernel_work};
