//! How a device is named.

use std::fmt;
use std::str::FromStr;

use mlafuse_ir::target::{Arch, TargetError};

/// What computes.
///
/// Text, in `Display` and `FromStr` alike: `cpu`, `sim`, `sim:sm_90a`, `cuda`, `cuda:1`, `reference`, `reference:f64`. A
/// simulator without its checkers has `,unchecked` behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeviceSpec {
    /// This machine's processor.
    #[default]
    Cpu,
    /// The PTX simulator.
    Sim {
        /// What it simulates; `None` leaves the choice to it.
        arch: Option<Arch>,
        /// Whether it looks for races, reads of what nothing wrote and misuse of barriers, which takes longer.
        checked: bool,
    },
    /// A GPU.
    Cuda {
        /// Its number, from 0.
        ordinal: usize,
    },
    /// The graph interpreter, which is no [`Device`](crate::Device): it executes no kernels.
    Reference {
        /// In f64 rather than f32.
        f64: bool,
    },
}

impl DeviceSpec {
    /// The simulator of an architecture, with its checkers.
    pub fn sim(arch: Arch) -> DeviceSpec {
        DeviceSpec::Sim {
            arch: Some(arch),
            checked: true,
        }
    }
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

/// Behind the name of a simulator without checkers.
const UNCHECKED: &str = ",unchecked";

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceSpec::Cpu => f.pad("cpu"),
            DeviceSpec::Sim { arch, checked } => {
                let arch = arch.map_or_else(String::new, |arch| format!(":{arch}"));
                f.pad(&format!("sim{arch}{}", if *checked { "" } else { UNCHECKED }))
            }
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
            ("cuda", None) => Ok(DeviceSpec::Cuda { ordinal: 0 }),
            ("cuda", Some(ordinal)) if ordinal.bytes().all(|b| b.is_ascii_digit()) => Ok(DeviceSpec::Cuda {
                ordinal: ordinal.parse().map_err(|_| unknown())?,
            }),
            ("reference", None) => Ok(DeviceSpec::Reference { f64: false }),
            ("reference", Some("f64")) => Ok(DeviceSpec::Reference { f64: true }),
            _ => sim(text)?.ok_or_else(unknown),
        }
    }
}

/// A simulator's name; `None` where it is none.
fn sim(text: &str) -> Result<Option<DeviceSpec>, DeviceSpecError> {
    let (name, checked) = text.strip_suffix(UNCHECKED).map_or((text, true), |name| (name, false));
    if name == "sim" {
        return Ok(Some(DeviceSpec::Sim { arch: None, checked }));
    }
    let arch = name.strip_prefix("sim:").map(|arch| {
        arch.parse().map_err(|reason| DeviceSpecError::Arch {
            found: text.to_string(),
            reason,
        })
    });
    let arch = arch.transpose()?;
    Ok(arch.map(|arch| DeviceSpec::Sim {
        arch: Some(arch),
        checked,
    }))
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
            "sim,unchecked",
            "sim:sm_80,unchecked",
            "cuda",
            "cuda:1",
            "reference",
            "reference:f64",
        ] {
            let spec: DeviceSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), text);
        }
        assert_eq!("cuda:0".parse(), Ok(DeviceSpec::Cuda { ordinal: 0 }));
        assert_eq!("sim:sm_120".parse(), Ok(DeviceSpec::sim(Arch::Sm120)));
    }

    #[test]
    fn what_is_allowed_is_said() {
        for text in [
            "",
            "gpu",
            "cpu:0",
            "cpu,unchecked",
            "simulator",
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
}
