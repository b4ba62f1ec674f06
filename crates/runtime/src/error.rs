//! What can go wrong on a device, and on the way to one.

use mlafuse_codegen::build::BuildError;
use mlafuse_codegen::lower::LowerError;
use mlafuse_codegen::schedule::Schedule;
use mlafuse_codegen::tile::LaunchError;
use mlafuse_cpu::CpuError;
use mlafuse_ir::target::Arch;
use ptxsim::machine::Report;

use crate::compile::Rejected;
use crate::nvrtc::NvrtcError;

/// An error of a device or of compiling for one.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A device that this version cannot drive, or that is not here.
    #[error("device {device}: {reason}; devices here: {here}")]
    NoDevice {
        /// The device as asked for.
        device: String,
        /// Why it cannot be used.
        reason: String,
        /// What can be used.
        here: &'static str,
    },
    /// A level of the processor's instructions that there is not, or not here.
    #[error("{} is `{found}`; allowed on this processor: {allowed}", crate::CPU_LEVEL)]
    CpuLevel {
        /// The level as asked for.
        found: String,
        /// Those that this processor has.
        allowed: String,
    },
    /// A device whose kernels cannot be compiled.
    #[error("device {device} executes what NVRTC compiles: {reason}{}", mend(reason))]
    NoNvrtc {
        /// The device.
        device: String,
        /// What is wrong with NVRTC.
        reason: Box<NvrtcError>,
    },
    /// More memory than can be had.
    #[error("{device}: cannot allocate {bytes} bytes")]
    OutOfMemory {
        /// The device.
        device: String,
        /// The bytes asked for.
        bytes: usize,
    },
    /// A buffer that another device allocated.
    #[error("device {device}: a buffer is another device's")]
    ForeignBuffer {
        /// The device that cannot use it.
        device: String,
    },
    /// A size of a plan's buffer that a launch does not tell, or that is too large to count.
    #[error("plan {plan}: the size of buffer {buffer}, {size} elements, is unknown or too large with {dims}")]
    BufferSize {
        /// The plan's graph.
        plan: String,
        /// The buffer.
        buffer: String,
        /// Its size, in symbols.
        size: String,
        /// The symbols' values.
        dims: String,
    },
    /// An input that was not bound.
    #[error("plan {plan}: input {name} is missing")]
    MissingInput {
        /// The plan's graph.
        plan: String,
        /// The input.
        name: String,
    },
    /// An input that is smaller than the plan reads.
    #[error("plan {plan}: input {name} has {found} bytes; expected at least {expected}")]
    InputSize {
        /// The plan's graph.
        plan: String,
        /// The input.
        name: String,
        /// Bytes the plan reads.
        expected: usize,
        /// Bytes it has.
        found: usize,
    },
    /// A kernel parameter that names no buffer which the plan's region uses.
    #[error("kernel {kernel}: parameter {param} is no buffer that its region reads or writes")]
    Parameter {
        /// The kernel.
        kernel: String,
        /// The parameter.
        param: String,
    },
    /// A schedule that somebody suggested, of tiles far beyond a core's caches.
    #[error("kernel {kernel} under {schedule}: {found} bytes of scratch a thread, allowed: {allowed}")]
    Scratch {
        /// The kernel.
        kernel: String,
        /// The schedule.
        schedule: Schedule,
        /// What it takes.
        found: usize,
        /// The most.
        allowed: usize,
    },
    /// No tile program.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// No thread program.
    #[error(transparent)]
    Lower(Box<LowerError>),
    /// Sizes that a kernel cannot be launched in.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The CPU executor failed.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// NVRTC failed.
    #[error(transparent)]
    Nvrtc(#[from] NvrtcError),
    /// No schedule keeps its values in registers.
    #[error("kernel {kernel} for {arch}: every schedule fails:{}", listed(rejected))]
    NoSchedule {
        /// The kernel.
        kernel: String,
        /// The architecture.
        arch: Arch,
        /// Each schedule and what is wrong with it, as tried.
        rejected: Vec<Rejected>,
    },
    /// PTX that the simulator does not know.
    #[error("kernel {kernel} for {arch}: its PTX cannot be simulated: {reason}")]
    Ptx {
        /// The kernel.
        kernel: String,
        /// The architecture.
        arch: Arch,
        /// What is wrong, with the line.
        reason: String,
    },
    /// The simulator refuses a launch.
    #[error(transparent)]
    SimLaunch(#[from] ptxsim::machine::LaunchError),
    /// A copy outside of the simulator's memory.
    #[error("simulator: {0}")]
    SimMemory(#[from] ptxsim::machine::MemoryError),
    /// What the simulator's checkers found.
    #[error("kernel {kernel} does not run soundly on the simulator of {arch}:{}", told(reports))]
    Checker {
        /// The kernel.
        kernel: String,
        /// The architecture.
        arch: Arch,
        /// The findings, at least one.
        reports: Vec<Report>,
    },
    /// NVRTC's log does not tell the kernel's resources.
    #[error("kernel {kernel} for {arch}: the compiled module has no kernel of that name")]
    NoResources {
        /// The kernel.
        kernel: String,
        /// The architecture.
        arch: Arch,
    },
}

impl From<LowerError> for RuntimeError {
    fn from(error: LowerError) -> RuntimeError {
        RuntimeError::Lower(Box::new(error))
    }
}

fn listed(rejected: &[Rejected]) -> String {
    rejected
        .iter()
        .map(|rejected| format!("\n  {}: {}", rejected.schedule, rejected.reason))
        .collect()
}

fn told(reports: &[Report]) -> String {
    reports.iter().map(|report| format!("\n{report}")).collect()
}

/// Where the error does not tell how to get NVRTC, it is about one that was named.
fn mend(reason: &NvrtcError) -> &'static str {
    match reason {
        NvrtcError::NotFound { .. } => "",
        _ => "; `cargo xtask setup` installs one that is found without being named",
    }
}
