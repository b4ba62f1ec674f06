//! Types of tensors' elements.

use safetensors::Dtype;

use crate::numeric::fp8::Fp8;
use crate::numeric::half_ops::{HalfFormat, f16_value};

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// FP8 with 4 exponent bits.
    F8E4m3,
    /// FP8 with 5 exponent bits.
    F8E5m2,
    /// Signed.
    I64,
    /// Signed.
    I32,
    /// Signed.
    I16,
    /// Signed.
    I8,
    /// Unsigned.
    U64,
    /// Unsigned.
    U32,
    /// Unsigned.
    U16,
    /// Unsigned.
    U8,
    /// A byte, 0 or 1.
    Bool,
}

use ElementType::*;

/// Every type with its name in a launch file and its type in a safetensors file.
const TYPES: [(ElementType, &str, Dtype); 15] = [
    (F64, "f64", Dtype::F64),
    (F32, "f32", Dtype::F32),
    (F16, "f16", Dtype::F16),
    (Bf16, "bf16", Dtype::BF16),
    (F8E4m3, "f8_e4m3", Dtype::F8_E4M3),
    (F8E5m2, "f8_e5m2", Dtype::F8_E5M2),
    (I64, "i64", Dtype::I64),
    (I32, "i32", Dtype::I32),
    (I16, "i16", Dtype::I16),
    (I8, "i8", Dtype::I8),
    (U64, "u64", Dtype::U64),
    (U32, "u32", Dtype::U32),
    (U16, "u16", Dtype::U16),
    (U8, "u8", Dtype::U8),
    (Bool, "bool", Dtype::BOOL),
];

impl ElementType {
    /// The type that a launch file calls so.
    pub fn parse(name: &str) -> Option<ElementType> {
        TYPES
            .iter()
            .find(|(_, other, _)| *other == name)
            .map(|(element, ..)| *element)
    }

    /// The names of all types.
    pub fn names() -> String {
        TYPES.map(|(_, name, _)| name).join(", ")
    }

    /// The type of a safetensors file's tensor, if it is one of these.
    pub fn from_dtype(dtype: Dtype) -> Option<ElementType> {
        TYPES
            .iter()
            .find(|(.., other)| *other == dtype)
            .map(|(element, ..)| *element)
    }

    fn row(self) -> &'static (ElementType, &'static str, Dtype) {
        // The table is in the order of the variants, which a test holds it to.
        &TYPES[self as usize]
    }

    /// The name in a launch file.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The type in a safetensors file.
    pub fn dtype(self) -> Dtype {
        self.row().2
    }

    /// The size of an element.
    pub fn bytes(self) -> usize {
        match self {
            F64 | I64 | U64 => 8,
            F32 | I32 | U32 => 4,
            F16 | Bf16 | I16 | U16 => 2,
            F8E4m3 | F8E5m2 | I8 | U8 | Bool => 1,
        }
    }

    /// The value of an element, of which there must be as many bytes as it has; 64-bit integers are rounded.
    pub fn value(self, element: &[u8]) -> f64 {
        let mut wide = [0; 8];
        wide[..self.bytes()].copy_from_slice(&element[..self.bytes()]);
        let bits = u64::from_le_bytes(wide);
        match self {
            F64 => f64::from_bits(bits),
            F32 => f32::from_bits(bits as u32).into(),
            F16 => f16_value(bits as u16).into(),
            Bf16 => HalfFormat::Bf16.value(bits as u16).into(),
            F8E4m3 => Fp8::E4m3.value(bits as u8).into(),
            F8E5m2 => Fp8::E5m2.value(bits as u8).into(),
            I64 => bits as i64 as f64,
            I32 => (bits as i32).into(),
            I16 => (bits as i16).into(),
            I8 => (bits as i8).into(),
            U64 => bits as f64,
            U32 | U16 | U8 | Bool => (bits as u32).into(),
        }
    }

    /// What is saved for an element that was never written: NaN, or 0 where the type has none.
    pub fn unwritten(self) -> &'static [u8] {
        match self {
            F64 => &[0, 0, 0, 0, 0, 0, 0xf8, 0x7f],
            F32 => &[0, 0, 0xc0, 0x7f],
            F16 => &[0, 0x7e],
            Bf16 => &[0xc0, 0x7f],
            F8E4m3 | F8E5m2 => &[0x7f],
            I64 | I32 | I16 | I8 | U64 | U32 | U16 | U8 | Bool => &[0; 8][..self.bytes()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        for (element, name, dtype) in TYPES {
            assert_eq!((element.name(), element.dtype()), (name, dtype));
            assert_eq!(ElementType::parse(name), Some(element));
            assert_eq!(ElementType::from_dtype(dtype), Some(element));
            assert_eq!(element.bytes() * 8, dtype.bitsize(), "{name}");
            assert_eq!(element.unwritten().len(), element.bytes(), "{name}");
            let is_float = !matches!(name.as_bytes()[0], b'i' | b'u') && name != "bool";
            assert_eq!(element.value(element.unwritten()).is_nan(), is_float, "{name}");
        }
    }

    #[test]
    fn values() {
        assert_eq!(F32.value(&1.5_f32.to_le_bytes()), 1.5);
        assert_eq!(F16.value(&[0x00, 0x3c]), 1.0);
        assert_eq!(Bf16.value(&[0x80, 0xbf]), -1.0);
        assert_eq!(F8E4m3.value(&[0x38]), 1.0);
        assert_eq!(I8.value(&[0xff]), -1.0);
        assert_eq!(I64.value(&(-3_i64).to_le_bytes()), -3.0);
        assert_eq!(U64.value(&u64::MAX.to_le_bytes()), 2_f64.powi(64));
        assert_eq!(F32.value(&f32::NEG_INFINITY.to_le_bytes()), f64::NEG_INFINITY);
    }
}
