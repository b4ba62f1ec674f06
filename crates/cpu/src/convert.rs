//! Element types: reading rows of them as f32, rounding f32 to them, storing them.

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use mlafuse_tensor::DType;

use crate::level::{Level, Loop};
use crate::memory::{Stores, store_halves, store_words};

/// The element types that the executor moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    Bf16,
    F16,
    I32,
}

impl Element {
    /// The executor's type for `dtype`; `None` where it has none.
    pub(crate) fn of(dtype: DType) -> Option<Element> {
        match dtype {
            DType::F32 => Some(Element::F32),
            DType::BF16 => Some(Element::Bf16),
            DType::F16 => Some(Element::F16),
            DType::I32 => Some(Element::I32),
            DType::F64 | DType::I64 => None,
        }
    }

    /// Bytes an element.
    pub(crate) fn size(self) -> usize {
        match self {
            Element::F32 | Element::I32 => 4,
            Element::Bf16 | Element::F16 => 2,
        }
    }

    /// One element as f32; 0 where `bytes` is too short, which callers rule out.
    fn read_one(self, bytes: &[u8]) -> f32 {
        let half = || bytes.first_chunk().map_or(0, |&b| u16::from_ne_bytes(b));
        let word = || bytes.first_chunk().map_or(0, |&b| u32::from_ne_bytes(b));
        match self {
            Element::F32 => f32::from_bits(word()),
            Element::I32 => word() as i32 as f32,
            Element::Bf16 => bf16_to_f32(half()),
            Element::F16 => f16::from_bits(half()).to_f32(),
        }
    }
}

#[inline(always)]
fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest bf16's bits, ties to even; a NaN stays one.
#[inline(always)]
fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if x.is_nan() { quiet } else { rounded }) as u16
}

/// Reads `out.len()` consecutive elements of `bytes`, which holds exactly these.
pub(crate) fn read_row(level: Level, element: Element, bytes: &[u8], out: &mut [f32]) {
    level.run(ReadRow { element, bytes, out });
}

struct ReadRow<'a> {
    element: Element,
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl Loop for ReadRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        match self.element {
            Element::F32 => words(self.bytes, self.out, f32::from_bits),
            Element::I32 => words(self.bytes, self.out, |w| w as i32 as f32),
            Element::Bf16 => {
                let halves = self.bytes.as_chunks::<2>().0;
                self.out
                    .iter_mut()
                    .zip(halves)
                    .for_each(|(to, from)| *to = bf16_to_f32(u16::from_ne_bytes(*from)));
            }
            Element::F16 => read_f16(self.bytes, self.out),
        }
    }
}

/// Adds the f32 of `bytes`, times `factor`, to the elements of `to`; rounded after each.
pub(crate) fn add_row(level: Level, bytes: &[u8], factor: f32, to: &mut [f32]) {
    level.run(AddRow { bytes, factor, to });
}

struct AddRow<'a> {
    bytes: &'a [u8],
    factor: f32,
    to: &'a mut [f32],
}

impl Loop for AddRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let floats = self.bytes.as_chunks::<4>().0;
        let pairs = self.to.iter_mut().zip(floats);
        pairs.for_each(|(to, from)| *to += f32::from_ne_bytes(*from) * self.factor);
    }
}

#[inline(always)]
fn words(bytes: &[u8], out: &mut [f32], convert: impl Fn(u32) -> f32) {
    let words = bytes.as_chunks::<4>().0;
    out.iter_mut()
        .zip(words)
        .for_each(|(to, from)| *to = convert(u32::from_ne_bytes(*from)));
}

/// f16 goes through the half crate's slice conversions, which use F16C where there is one.
fn read_f16(bytes: &[u8], out: &mut [f32]) {
    let mut buffer = [0u16; 64];
    for (out, bytes) in out.chunks_mut(64).zip(bytes.chunks(128)) {
        let halves = &mut buffer[..out.len()];
        halves
            .iter_mut()
            .zip(bytes.as_chunks::<2>().0)
            .for_each(|(to, from)| *to = u16::from_ne_bytes(*from));
        halves.reinterpret_cast::<f16>().convert_to_f32_slice(out);
    }
}

/// Reads elements `step` bytes apart; `bytes` starts with the first and ends with or after the last.
pub(crate) fn read_strided(element: Element, bytes: &[u8], step: usize, out: &mut [f32]) {
    for (j, to) in out.iter_mut().enumerate() {
        *to = element.read_one(bytes.get(j * step..).unwrap_or_default());
    }
}

/// `to` = `from` rounded to `element`, kept as f32.
pub(crate) fn round_row(level: Level, element: Element, from: &[f32], to: &mut [f32]) {
    level.run(RoundRow { element, from, to });
}

/// `to` = the bits of `from` rounded to bf16.
pub(crate) fn bf16_row(level: Level, from: &[f32], to: &mut [u16]) {
    level.run(Bf16Row { from, to });
}

struct Bf16Row<'a> {
    from: &'a [f32],
    to: &'a mut [u16],
}

impl Loop for Bf16Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let pairs = self.to.iter_mut().zip(self.from);
        pairs.for_each(|(to, from)| *to = bf16_bits(*from));
    }
}

/// Copies `out.len()` two-byte elements `step` bytes apart, the first at the start of `bytes`.
pub(crate) fn copy_halves(bytes: &[u8], step: usize, out: &mut [u16]) {
    if step == 2 {
        let halves = bytes.as_chunks::<2>().0;
        return out
            .iter_mut()
            .zip(halves)
            .for_each(|(to, from)| *to = u16::from_ne_bytes(*from));
    }
    for (j, to) in out.iter_mut().enumerate() {
        let half = bytes.get(j * step..).and_then(|rest| rest.first_chunk());
        *to = half.map_or(0, |&half| u16::from_ne_bytes(half));
    }
}

struct RoundRow<'a> {
    element: Element,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Loop for RoundRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let pairs = self.to.iter_mut().zip(self.from);
        match self.element {
            Element::F32 => pairs.for_each(|(to, from)| *to = *from),
            Element::Bf16 => pairs.for_each(|(to, from)| *to = bf16_to_f32(bf16_bits(*from))),
            Element::F16 => pairs.for_each(|(to, from)| *to = f16::from_f32(*from).to_f32()),
            Element::I32 => pairs.for_each(|(to, from)| *to = from.round_ties_even()),
        }
    }
}

/// Elements that are rounded, and then stored, at a time.
const PIECE: usize = 256;

/// Stores `from`, rounded, to the elements `first`, `first + step`, ..., all inside the buffer.
pub(crate) fn store_row(level: Level, element: Element, stores: Stores<'_>, first: usize, step: usize, from: &[f32]) {
    let mut at = first;
    for from in from.chunks(PIECE) {
        match element {
            Element::F32 => spread(
                stores.words(),
                [at, step],
                bytemuck::cast_slice(from),
                store_words,
                AtomicU32::store,
            ),
            Element::I32 => {
                let mut words = [0u32; PIECE];
                let rounded = words.iter_mut().zip(from);
                rounded.for_each(|(to, from)| *to = from.round_ties_even() as i32 as u32);
                spread(
                    stores.words(),
                    [at, step],
                    &words[..from.len()],
                    store_words,
                    AtomicU32::store,
                );
            }
            Element::Bf16 | Element::F16 => {
                let mut halves = [0u16; PIECE];
                let halves = &mut halves[..from.len()];
                match element {
                    Element::Bf16 => bf16_row(level, from, halves),
                    _ => halves.reinterpret_cast_mut::<f16>().convert_from_f32_slice(from),
                }
                spread(stores.halves(), [at, step], halves, store_halves, AtomicU16::store);
            }
        }
        at += from.len() * step;
    }
}

/// Stores the values to the elements `first`, `first + step`, ...: neighbours by `run`, others by `one`.
fn spread<A, T: Copy>(
    to: &[A],
    [first, step]: [usize; 2],
    from: &[T],
    run: impl Fn(&[A], &[T]),
    one: impl Fn(&A, T, Ordering),
) {
    let to = to.get(first..).unwrap_or_default();
    match step {
        1 => run(to, from),
        _ => from.iter().enumerate().for_each(|(j, value)| {
            if let Some(to) = to.get(j * step) {
                one(to, *value, Ordering::Relaxed);
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuBuffer;
    use half::bf16;

    fn samples() -> Vec<f32> {
        let mut all: Vec<f32> = (0..200_000u32)
            .map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761)))
            .collect();
        // Halfway cases of bf16, both parities.
        all.extend((0..64u32).map(|i| f32::from_bits(0x3f80_8000 + (i << 16))));
        all.extend([
            f32::MAX,
            f32::MIN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            65504.0,
            65520.0,
            1e-8,
            f32::NAN,
        ]);
        all
    }

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    #[test]
    fn rounding_is_that_of_half() {
        let from = samples();
        for level in [Level::Portable, Level::detect()] {
            let mut to = vec![0.0; from.len()];
            round_row(level, Element::Bf16, &from, &mut to);
            assert!(from.iter().zip(&to).all(|(&x, &y)| same(bf16::from_f32(x).to_f32(), y)));
            round_row(level, Element::F16, &from, &mut to);
            assert!(from.iter().zip(&to).all(|(&x, &y)| same(f16::from_f32(x).to_f32(), y)));
        }
    }

    #[test]
    fn every_half_is_read_exactly() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_ne_bytes).collect();
        let mut out = vec![0.0; 65536];
        for level in [Level::Portable, Level::detect()] {
            read_row(level, Element::Bf16, &bytes, &mut out);
            assert!(
                (0..=u16::MAX)
                    .zip(&out)
                    .all(|(h, &x)| same(bf16::from_bits(h).to_f32(), x))
            );
            read_row(level, Element::F16, &bytes, &mut out);
            assert!(
                (0..=u16::MAX)
                    .zip(&out)
                    .all(|(h, &x)| same(f16::from_bits(h).to_f32(), x))
            );
        }
        let mut few = [0.0; 3];
        read_strided(Element::Bf16, &bytes[2 * 0x3f80..], 2 * 0x80, &mut few);
        assert_eq!(few, [1.0, 2.0, 4.0]);
    }

    #[test]
    fn strided_stores_leave_gaps() {
        let buffer = CpuBuffer::zeroed(14);
        {
            let mut lock = buffer.lock_write().unwrap();
            store_row(Level::detect(), Element::Bf16, lock.stores(), 1, 2, &[1.0, 2.0, 3.0]);
        }
        let bytes = buffer.bytes();
        let halves: Vec<f32> = bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|b| bf16::from_bits(u16::from_ne_bytes(*b)).to_f32())
            .collect();
        assert_eq!(halves, [0.0, 1.0, 0.0, 2.0, 0.0, 3.0, 0.0]);
    }
}
