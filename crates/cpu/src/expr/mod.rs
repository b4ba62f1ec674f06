//! Expressions: scalars ([`scalar`]) and values for every element of a tile ([`map`]).

mod map;
mod scalar;

pub(crate) use map::{MapCode, Registers};
pub(crate) use scalar::{At, Env, Kind, Names, Scalar, kind, load_int};
