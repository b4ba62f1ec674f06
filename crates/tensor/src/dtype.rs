//! Element types.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::TensorError;

/// The type of a tensor's elements.
///
/// Text, in `Display`, `FromStr` and serde alike, is the lower-case name: `f64`, `f32`, `f16`,
/// `bf16`, `i32`, `i64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32: 8 exponent bits, 7 stored mantissa bits.
    BF16,
    /// Two's complement, 32 bits.
    I32,
    /// Two's complement, 64 bits.
    I64,
}

impl DType {
    /// Every element type, in declaration order.
    pub const ALL: [Self; 6] = [Self::F64, Self::F32, Self::F16, Self::BF16, Self::I32, Self::I64];

    /// Bytes of one element.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// Whether elements are floating-point numbers.
    pub const fn is_float(self) -> bool {
        match self {
            Self::F64 | Self::F32 | Self::F16 | Self::BF16 => true,
            Self::I32 | Self::I64 => false,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::I32 => "i32",
            Self::I64 => "i64",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DType {
    type Err = TensorError;

    fn from_str(text: &str) -> Result<Self, TensorError> {
        Self::ALL
            .into_iter()
            .find(|dtype| dtype.name() == text)
            .ok_or_else(|| TensorError::UnknownDType { found: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_in_display_and_serde() {
        for dtype in DType::ALL {
            let text = dtype.to_string();
            assert_eq!(text.parse::<DType>().unwrap(), dtype);
            assert_eq!(serde_json::to_string(&dtype).unwrap(), format!("\"{text}\""));
        }
        assert_eq!(format!("[{:>5}]", DType::BF16), "[ bf16]");
    }

    #[test]
    fn unknown_text_names_what_is_allowed() {
        let message = "fp8".parse::<DType>().unwrap_err().to_string();
        assert!(message.contains("\"fp8\"") && message.contains("bf16"), "{message}");
    }

    #[test]
    fn sizes() {
        assert_eq!(DType::ALL.map(DType::size_bytes), [8, 4, 2, 2, 4, 8]);
        assert_eq!(DType::ALL.map(DType::is_float), [true, true, true, true, false, false]);
    }
}
