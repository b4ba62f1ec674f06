//! The device boundary: memory, kernels, and how a device is named.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use mlafuse_codegen::schedule::Schedule;
use mlafuse_codegen::tile::TileProgram;
use mlafuse_cpu::CpuBuffer;
use mlafuse_ir::plan::{Plan, Region};
use mlafuse_ir::size::Dims;
use mlafuse_ir::target::{Arch, TargetError};

use crate::RuntimeError;
use crate::cpu::Cpu;
use crate::driver::{self, Driver};

/// What computes.
///
/// Text, in `Display` and `FromStr` alike: `cpu`, `sim`, `sim:sm_90a`, `cuda`, `cuda:1`, `reference`, `reference:f64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeviceSpec {
    /// This machine's processor.
    #[default]
    Cpu,
    /// The PTX simulator.
    Sim {
        /// What it simulates; `None` leaves the choice to it.
        arch: Option<Arch>,
    },
    /// A GPU.
    Cuda {
        /// Its number, from 0.
        ordinal: usize,
    },
    /// The graph interpreter, which is no [`Device`]: it executes no kernels.
    Reference {
        /// In f64 rather than f32.
        f64: bool,
    },
}

/// A text that names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceSpecError {
    /// Not a device's name.
    #[error(
        "device \"{found}\": expected cpu, sim, sim:ARCH (as sim:sm_90a), cuda, cuda:NUMBER, reference or reference:f64"
    )]
    Name {
        /// The text.
        found: String,
    },
    /// The simulator of no architecture.
    #[error("device \"{found}\": {reason}")]
    Arch {
        /// The text.
        found: String,
        /// The architectures.
        reason: TargetError,
    },
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceSpec::Cpu => f.pad("cpu"),
            DeviceSpec::Sim { arch: None } => f.pad("sim"),
            DeviceSpec::Sim { arch: Some(arch) } => f.pad(&format!("sim:{arch}")),
            DeviceSpec::Cuda { ordinal: 0 } => f.pad("cuda"),
            DeviceSpec::Cuda { ordinal } => f.pad(&format!("cuda:{ordinal}")),
            DeviceSpec::Reference { f64: false } => f.pad("reference"),
            DeviceSpec::Reference { f64: true } => f.pad("reference:f64"),
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = DeviceSpecError;

    fn from_str(text: &str) -> Result<DeviceSpec, DeviceSpecError> {
        let unknown = || DeviceSpecError::Name {
            found: text.to_string(),
        };
        let (name, rest) = text
            .split_once(':')
            .map_or((text, None), |(name, rest)| (name, Some(rest)));
        match (name, rest) {
            ("cpu", None) => Ok(DeviceSpec::Cpu),
            ("sim", None) => Ok(DeviceSpec::Sim { arch: None }),
            ("sim", Some(arch)) => match arch.parse() {
                Ok(arch) => Ok(DeviceSpec::Sim { arch: Some(arch) }),
                Err(reason) => Err(DeviceSpecError::Arch {
                    found: text.to_string(),
                    reason,
                }),
            },
            ("cuda", None) => Ok(DeviceSpec::Cuda { ordinal: 0 }),
            ("cuda", Some(ordinal)) if ordinal.bytes().all(|b| b.is_ascii_digit()) => Ok(DeviceSpec::Cuda {
                ordinal: ordinal.parse().map_err(|_| unknown())?,
            }),
            ("reference", None) => Ok(DeviceSpec::Reference { f64: false }),
            ("reference", Some("f64")) => Ok(DeviceSpec::Reference { f64: true }),
            _ => Err(unknown()),
        }
    }
}

/// Memory of a device. Clones are the same memory.
#[derive(Clone, Debug)]
pub enum Buffer {
    /// Memory of this machine.
    Host(Arc<CpuBuffer>),
}

impl Buffer {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Buffer::Host(buffer) => buffer.len(),
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Something that runs kernels.
pub trait Device: Send + Sync {
    /// Its name, for people.
    fn name(&self) -> String;

    /// New memory of `bytes` zero bytes.
    ///
    /// # Errors
    /// [`RuntimeError::OutOfMemory`].
    fn alloc(&self, bytes: usize) -> Result<Buffer, RuntimeError>;

    /// Copies `from` to the bytes of `buffer` from `offset` on.
    ///
    /// # Errors
    /// Where that reaches past the end.
    fn write(&self, buffer: &Buffer, offset: usize, from: &[u8]) -> Result<(), RuntimeError>;

    /// Copies the bytes of `buffer` from `offset` on to `out`.
    ///
    /// # Errors
    /// Where that reaches past the end.
    fn read(&self, buffer: &Buffer, offset: usize, out: &mut [u8]) -> Result<(), RuntimeError>;

    /// How this device runs a kernel of a plan, for launches of about the sizes in `dims`.
    ///
    /// # Errors
    /// Where no schedule fits.
    fn schedule(&self, plan: &Plan, region: &Region, dims: &Dims) -> Result<Schedule, RuntimeError>;

    /// Into how many parts attention splits the cached tokens (the symbol `Z`) in launches of these sizes. The result
    /// depends on nothing but `dims`, so that equal launches give equal bits.
    fn splits(&self, dims: &Dims) -> usize;

    /// Makes a program executable.
    ///
    /// # Errors
    /// Where the program is not sound or does not fit the device.
    fn prepare(&self, program: &TileProgram, schedule: &Schedule) -> Result<Box<dyn Kernel>, RuntimeError>;
}

/// A program that a device can launch.
pub trait Kernel: Send + Sync {
    /// Runs it to its end. `buffers` are bound to the program's tensor parameters, in their order, `dims` to its scalars.
    ///
    /// # Errors
    /// Where a symbol is unbound or a buffer does not fit.
    fn launch(&self, dims: &Dims, buffers: &[&Buffer]) -> Result<(), RuntimeError>;
}

/// What [`open`] opens.
const HERE: &str = "cpu (and reference, the interpreter)";

/// Opens a device.
///
/// # Errors
/// [`RuntimeError::NoDevice`] for the simulator and for GPUs, which this version does not drive, and for the reference,
/// which executes graphs and no kernels.
pub fn open(spec: DeviceSpec) -> Result<Arc<dyn Device>, RuntimeError> {
    let reason = match spec {
        DeviceSpec::Cpu => return Ok(Arc::new(Cpu::new())),
        DeviceSpec::Sim { .. } => "this version has no PTX simulator".to_string(),
        DeviceSpec::Cuda { .. } => format!("this version does not run on GPUs ({})", driver()),
        DeviceSpec::Reference { .. } => "the interpreter executes graphs, not kernels".to_string(),
    };
    Err(RuntimeError::NoDevice {
        device: spec.to_string(),
        reason,
        here: HERE,
    })
}

fn driver() -> String {
    match driver::probe() {
        Driver::Present {
            version: (major, minor),
            ..
        } => format!("a driver for CUDA {major}.{minor} was found"),
        Driver::Missing { reason } => format!("and no CUDA driver was found: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for text in [
            "cpu",
            "sim",
            "sim:sm_90a",
            "cuda",
            "cuda:1",
            "reference",
            "reference:f64",
        ] {
            let spec: DeviceSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), text);
        }
        assert_eq!("cuda:0".parse(), Ok(DeviceSpec::Cuda { ordinal: 0 }));
    }

    #[test]
    fn what_is_allowed_is_said() {
        for text in [
            "",
            "gpu",
            "cpu:0",
            "cuda:",
            "cuda:-1",
            "cuda:99999999999999999999",
            "reference:f32",
            "CPU",
        ] {
            let error = text.parse::<DeviceSpec>().unwrap_err().to_string();
            assert!(
                error.contains(&format!("\"{text}\"")) && error.contains("reference:f64"),
                "{error}"
            );
        }
        let error = "sim:sm_70".parse::<DeviceSpec>().unwrap_err().to_string();
        assert!(error.contains("sim:sm_70") && error.contains("sm_80"), "{error}");
    }

    #[test]
    fn devices_that_are_not_here_are_named() {
        for (spec, words) in [
            ("sim:sm_80", "simulator"),
            ("cuda:3", "driver"),
            ("reference", "interpreter"),
        ] {
            let Err(error) = open(spec.parse().unwrap()) else {
                panic!("{spec} was opened")
            };
            let error = error.to_string();
            assert!(
                error.starts_with(&format!("device {spec}: ")) && error.contains(words),
                "{error}"
            );
            assert!(error.contains("devices here: cpu"), "{error}");
        }
        assert!(open(DeviceSpec::Cpu).is_ok());
    }
}
