//! Scalar arguments.

use super::LaunchFileError;
use super::element::ElementType;
use super::json::{Field, Json};
use crate::numeric::half_ops::{bf16_from_f32, f16_from_f32, f16_value};

/// The types that a scalar argument may have.
pub(super) const NAMES: [&str; 12] = [
    "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f16", "bf16", "f32", "f64",
];

/// The bytes of a scalar of one of the [`NAMES`].
pub(super) fn encode(element: ElementType, field: &Field<'_>) -> Result<Vec<u8>, LaunchFileError> {
    let (from, to) = match element {
        ElementType::I8 => (i8::MIN.into(), i8::MAX.into()),
        ElementType::I16 => (i16::MIN.into(), i16::MAX.into()),
        ElementType::I32 => (i32::MIN.into(), i32::MAX.into()),
        ElementType::I64 => (i64::MIN.into(), i64::MAX.into()),
        ElementType::U8 => (0, u8::MAX.into()),
        ElementType::U16 => (0, u16::MAX.into()),
        ElementType::U32 => (0, u32::MAX.into()),
        ElementType::U64 => (0, u64::MAX.into()),
        _ => return float(element, field),
    };
    let value: i128 = field.integer(from, to)?;
    Ok(value.to_le_bytes()[..element.bytes()].to_vec())
}

fn float(element: ElementType, field: &Field<'_>) -> Result<Vec<u8>, LaunchFileError> {
    let value = match field.value {
        Json::Float(value) => *value,
        Json::Integer(value) => *value as f64,
        Json::String(text) if text == "inf" => f64::INFINITY,
        Json::String(text) if text == "-inf" => f64::NEG_INFINITY,
        Json::String(text) if text == "nan" => f64::NAN,
        _ => return Err(field.unexpected("a number, \"inf\", \"-inf\" or \"nan\"")),
    };
    let narrow = value as f32;
    let (bytes, stored) = match element {
        ElementType::F64 => (value.to_le_bytes().to_vec(), value),
        ElementType::F16 => {
            let bits = f16_from_f32(narrow);
            (bits.to_le_bytes().to_vec(), f16_value(bits).into())
        }
        ElementType::Bf16 => {
            let bits = bf16_from_f32(narrow);
            (
                bits.to_le_bytes().to_vec(),
                f32::from_bits(u32::from(bits) << 16).into(),
            )
        }
        _ => (narrow.to_le_bytes().to_vec(), f64::from(narrow)),
    };
    if stored.is_infinite() && value.is_finite() {
        return Err(field.unexpected(format!("a number within the range of {}", element.name())));
    }
    Ok(bytes)
}
