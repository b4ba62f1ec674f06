//! `mma.sync` on whole warps: which element each lane's registers hold, and the product itself.
//!
//! A tile is 16×8×k. With w elements in a register, register r, element i of lane l = 4·g + t holds
//! A[g + 8·(r mod 2), t·w + i + 4·w·(r div 2)], B[t·w + i + 4·w·r, g], and for 32-bit accumulators
//! C[g + 8·(r div 2), 2·t + r mod 2], for f16 ones C[g + 8·r, 2·t + i] (PTX ISA, "Matrix fragments for mma.m16n8k…").

use super::float::canonical_f32;
use super::fp8::{self, Fp8};
use super::half_ops::{f16_from_f32, f16_value};
use super::soft::Format;
use super::tensor_core::{self, Accumulator, Factor, Lanes, TensorCore};

const M: usize = 16;
const N: usize = 8;
const LANES: usize = 32;
/// One register of every lane of a warp.
pub type WarpRegister = [u32; LANES];
/// Bits of C or D.
type Tile = [[u32; N]; M];

/// Types of A's and B's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// f32 of which the last 13 bits are ignored.
    Tf32,
    /// FP8 with 3 fraction bits.
    E4m3,
    /// FP8 with 2 fraction bits.
    E5m2,
    /// Signed byte.
    S8,
    /// Unsigned byte.
    U8,
}

impl Element {
    fn parse(modifier: &str) -> Option<Element> {
        Some(match modifier {
            "f16" => Element::F16,
            "bf16" => Element::Bf16,
            "tf32" => Element::Tf32,
            "e4m3" => Element::E4m3,
            "e5m2" => Element::E5m2,
            "s8" => Element::S8,
            "u8" => Element::U8,
            _ => return None,
        })
    }

    /// Size in bytes, as registers hold it.
    pub fn bytes(self) -> usize {
        match self {
            Element::Tf32 => 4,
            Element::F16 | Element::Bf16 => 2,
            Element::E4m3 | Element::E5m2 | Element::S8 | Element::U8 => 1,
        }
    }

    fn is_integer(self) -> bool {
        matches!(self, Element::S8 | Element::U8)
    }

    fn is_fp8(self) -> bool {
        matches!(self, Element::E4m3 | Element::E5m2)
    }

    fn min_exponent(self) -> i32 {
        match self {
            Element::F16 => Format::F16.min_exponent(),
            Element::E4m3 => fp8::E4M3.min_exponent(),
            Element::E5m2 => fp8::E5M2.min_exponent(),
            Element::Bf16 | Element::Tf32 | Element::S8 | Element::U8 => Format::F32.min_exponent(),
        }
    }

    /// The values of the elements that start at bit `shift` of every lane's register. A format at a time, for the
    /// conversion to vectorise.
    #[inline(always)]
    fn values(self, register: &WarpRegister, shift: u32) -> [f32; LANES] {
        match self {
            Element::F16 => register.map(|word| f16_value((word >> shift) as u16)),
            Element::Bf16 => register.map(|word| f32::from_bits((word >> shift) << 16)),
            Element::Tf32 => register.map(|word| f32::from_bits(word & 0xffff_e000)),
            Element::E4m3 => register.map(|word| Fp8::E4m3.value((word >> shift) as u8)),
            Element::E5m2 => register.map(|word| Fp8::E5m2.value((word >> shift) as u8)),
            Element::S8 => register.map(|word| f32::from((word >> shift) as i8)),
            Element::U8 => register.map(|word| f32::from((word >> shift) as u8)),
        }
    }
}

/// Types of the accumulator, C and D.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccumulatorType {
    /// Two to a register.
    F16,
    /// One to a register.
    F32,
    /// One to a register, wrapping unless `satfinite`.
    S32,
}

/// An `mma.sync` instruction's shape and types; M = 16, N = 8, A by rows, B by columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mma {
    k: usize,
    a: Element,
    b: Element,
    accumulator: AccumulatorType,
    saturate: bool,
}

/// How floating-point sums are formed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MmaMode {
    /// f32, one product after the other.
    #[default]
    Fast,
    /// As this generation's tensor cores do it, bit for bit.
    Exact(TensorCore),
}

/// An `mma` that is not modelled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{opcode} is not modelled (m16n8 with row.col, k and types as in the PTX ISA's table of dense mma)")]
pub struct MmaError {
    /// The instruction's opcode.
    pub opcode: String,
}

impl Mma {
    /// An instruction of this depth and these types, if there is one.
    pub fn new(k: usize, a: Element, b: Element, accumulator: AccumulatorType, saturate: bool) -> Option<Mma> {
        let same_kind = a == b || (a.is_integer() && b.is_integer()) || (a.is_fp8() && b.is_fp8());
        let depth = k * a.bytes() == 16 || k * a.bytes() == 32;
        let sums = match accumulator {
            AccumulatorType::S32 => a.is_integer(),
            AccumulatorType::F16 => a == Element::F16 || a.is_fp8(),
            AccumulatorType::F32 => !a.is_integer(),
        };
        let saturates = !saturate || a.is_integer();
        (same_kind && depth && sums && saturates).then_some(Mma {
            k,
            a,
            b,
            accumulator,
            saturate,
        })
    }

    /// Reads an opcode split at its dots: `mma sync aligned m16n8k16 row col f32 bf16 bf16 f32`.
    pub fn parse<S: AsRef<str>>(opcode: &[S]) -> Result<Mma, MmaError> {
        Self::parse_parts(opcode).ok_or_else(|| MmaError {
            opcode: opcode.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join("."),
        })
    }

    fn parse_parts<S: AsRef<str>>(opcode: &[S]) -> Option<Mma> {
        let mut parts = opcode
            .iter()
            .map(AsRef::as_ref)
            .skip_while(|part| !part.starts_with("m16n8k"));
        let k = parts
            .next()?
            .strip_prefix("m16n8k")?
            .parse()
            .ok()
            .filter(|k| *k <= 32)?;
        if (parts.next()?, parts.next()?) != ("row", "col") {
            return None;
        }
        let saturate = opcode.iter().any(|part| part.as_ref() == "satfinite");
        let types: Vec<&str> = parts
            .filter(|part| !matches!(*part, "satfinite" | "kind::f8f6f4"))
            .collect();
        let [d, a, b, c] = types[..] else { return None };
        let accumulator = match (d, c) {
            ("f32", "f32") => AccumulatorType::F32,
            ("f16", "f16") => AccumulatorType::F16,
            ("s32", "s32") => AccumulatorType::S32,
            _ => return None,
        };
        Mma::new(k, Element::parse(a)?, Element::parse(b)?, accumulator, saturate)
    }

    /// Registers a lane holds of A.
    pub fn a_registers(&self) -> usize {
        2 * self.b_registers()
    }

    /// Registers a lane holds of B.
    pub fn b_registers(&self) -> usize {
        self.k * self.b.bytes() / 16
    }

    /// Registers a lane holds of C, and of D.
    pub fn c_registers(&self) -> usize {
        if self.accumulator == AccumulatorType::F16 { 2 } else { 4 }
    }

    /// Floating-point or integer operations: a multiplication and an addition each.
    pub fn operations(&self) -> u64 {
        (2 * M * N * self.k) as u64
    }

    /// D = A·B + C. Missing registers read as zero, further ones are ignored.
    pub fn run(&self, mode: MmaMode, a: &[WarpRegister], b: &[WarpRegister], c: &[WarpRegister]) -> Vec<WarpRegister> {
        let mut d = [[0; LANES]; 4];
        self.run_into(mode, a, b, c, &mut d);
        d[..self.c_registers()].to_vec()
    }

    /// As `run`, into the first `c_registers` of `d`.
    pub fn run_into(
        &self,
        mode: MmaMode,
        a: &[WarpRegister],
        b: &[WarpRegister],
        c: &[WarpRegister],
        d: &mut [WarpRegister; 4],
    ) {
        let (a, b) = (
            &a[..a.len().min(self.a_registers())],
            &b[..b.len().min(self.b_registers())],
        );
        let mut tile: Tile = [[0; N]; M];
        gather_accumulator(self.accumulator, c, &mut tile);
        self.multiply(mode, a, b, &mut tile);
        scatter_accumulator(self.accumulator, &tile, d);
    }

    fn multiply(&self, mode: MmaMode, a: &[WarpRegister], b: &[WarpRegister], c: &mut Tile) {
        match self.k {
            4 => self.multiply_depth::<4>(mode, a, b, c),
            8 => self.multiply_depth::<8>(mode, a, b, c),
            16 => self.multiply_depth::<16>(mode, a, b, c),
            _ => self.multiply_depth::<32>(mode, a, b, c),
        }
    }

    fn multiply_depth<const K: usize>(&self, mode: MmaMode, a: &[WarpRegister], b: &[WarpRegister], c: &mut Tile) {
        let mut rows = [[0f32; K]; M];
        let mut columns = [[0f32; N]; K];
        gather_rows(self.a, a, &mut rows);
        gather_columns(self.b, b, &mut columns);
        match (mode, self.accumulator) {
            (_, AccumulatorType::S32) => integer(self.saturate, &rows, &columns, c),
            (MmaMode::Fast, AccumulatorType::F16) => {
                let mut sums = c.map(|row| row.map(|bits| f16_value(bits as u16)));
                fast(&rows, &columns, &mut sums);
                *c = sums.map(|row| row.map(|sum| u32::from(f16_from_f32(sum))));
            }
            (MmaMode::Fast, AccumulatorType::F32) => {
                let mut sums = c.map(|row| row.map(f32::from_bits));
                fast(&rows, &columns, &mut sums);
                *c = sums.map(|row| row.map(canonical_f32));
            }
            (MmaMode::Exact(core), _) => self.exact(core, &rows, &columns, c),
        }
    }

    fn exact<const K: usize>(&self, core: TensorCore, rows: &[[f32; K]; M], columns: &[[f32; N]; K], c: &mut Tile) {
        let accumulator = if self.accumulator == AccumulatorType::F16 {
            Accumulator::F16
        } else {
            Accumulator::F32
        };
        let arithmetic = core.arithmetic(self.a.bytes(), accumulator);
        let mut lanes = [Lanes::ZERO; K];
        for (lanes, values) in lanes.iter_mut().zip(columns) {
            for (n, value) in values.iter().enumerate() {
                lanes.set(n, Factor::new(*value, self.b.min_exponent()));
            }
        }
        let special = !rows
            .iter()
            .flatten()
            .chain(columns.iter().flatten())
            .all(|value| value.is_finite());
        for (row, sums) in rows.iter().zip(c.iter_mut()) {
            let factors = row.map(|value| Factor::new(value, self.a.min_exponent()));
            *sums = tensor_core::dot(arithmetic, &factors, &lanes, *sums, special);
        }
    }
}

/// Four rows at a time, so that their sums stay in registers and do not wait for each other.
fn fast<const K: usize>(rows: &[[f32; K]; M], columns: &[[f32; N]; K], sums: &mut [[f32; N]; M]) {
    for (rows, sums) in rows.as_chunks::<4>().0.iter().zip(sums.as_chunks_mut::<4>().0) {
        let mut totals = *sums;
        for (k, column) in columns.iter().enumerate() {
            for r in 0..4 {
                for n in 0..N {
                    totals[r][n] += rows[r][k] * column[n];
                }
            }
        }
        *sums = totals;
    }
}

/// Products of bytes are exact in f32, and so are sums of 32 of them.
fn integer<const K: usize>(saturate: bool, rows: &[[f32; K]; M], columns: &[[f32; N]; K], c: &mut Tile) {
    let mut sums = [[0f32; N]; M];
    fast(rows, columns, &mut sums);
    for (old, sum) in c.iter_mut().flatten().zip(sums.iter().flatten()) {
        let (addend, dot) = (*old as i32, *sum as i32);
        *old = if saturate {
            addend.saturating_add(dot)
        } else {
            addend.wrapping_add(dot)
        } as u32;
    }
}

/// A's rows. Within each 4·w elements of depth, they come in the order (element of the register, thread of the group), in
/// which four lanes' values lie side by side; `gather_columns` uses the same order, and no sum depends on it but for the
/// rounding of the fast mode.
#[inline(always)]
fn gather_rows<const K: usize>(element: Element, registers: &[WarpRegister], rows: &mut [[f32; K]; M]) {
    let width = 4 / element.bytes();
    for (index, register) in registers.iter().enumerate() {
        for i in 0..width {
            let values = element.values(register, (8 * element.bytes() * i) as u32);
            let depth = (index / 2 * width + i) * 4;
            for (quad, row) in values.as_chunks::<4>().0.iter().zip(&mut rows[8 * (index % 2)..]) {
                row[depth..depth + 4].copy_from_slice(quad);
            }
        }
    }
}

/// B's columns, depth first, in the order of `gather_rows`.
#[inline(always)]
fn gather_columns<const K: usize>(element: Element, registers: &[WarpRegister], columns: &mut [[f32; N]; K]) {
    let width = 4 / element.bytes();
    for (index, register) in registers.iter().enumerate() {
        for i in 0..width {
            let values = element.values(register, (8 * element.bytes() * i) as u32);
            let depth = (index * width + i) * 4;
            for (thread, row) in columns[depth..depth + 4].iter_mut().enumerate() {
                *row = std::array::from_fn(|group| values[4 * group + thread]);
            }
        }
    }
}

fn gather_accumulator(kind: AccumulatorType, c: &[WarpRegister], tile: &mut Tile) {
    for (index, register) in c.iter().take(4).enumerate() {
        for (lane, word) in register.iter().enumerate() {
            let (row, column) = (lane / 4, lane % 4 * 2);
            if kind == AccumulatorType::F16 {
                tile[row + 8 * (index % 2)][column] = word & 0xffff;
                tile[row + 8 * (index % 2)][column + 1] = word >> 16;
            } else {
                tile[row + 8 * (index / 2)][column + index % 2] = *word;
            }
        }
    }
}

fn scatter_accumulator(kind: AccumulatorType, tile: &Tile, d: &mut [WarpRegister; 4]) {
    let half = kind == AccumulatorType::F16;
    for (index, register) in d.iter_mut().take(if half { 2 } else { 4 }).enumerate() {
        for (lane, word) in register.iter_mut().enumerate() {
            let (row, column) = (lane / 4, lane % 4 * 2);
            *word = if half {
                tile[row + 8 * index][column] | tile[row + 8 * index][column + 1] << 16
            } else {
                tile[row + 8 * (index / 2)][column + index % 2]
            };
        }
    }
}
