//! Instructions as text, run on registers that a test fills, and compared lane by lane with the host's arithmetic.

mod bits;
mod compare;
mod convert;
mod doubles;
mod errors;
mod files;
mod floats;
mod halves;
mod integers;
mod moves;

use crate::machine::options::Options;
use crate::machine::registers::{LANES, Lanes, Registers, Word};
use crate::program::op::Op;
use crate::program::{DecodeError, Kernel, Pred, Reg};

/// Declared first, so that slots are known: `%h` at 0, `%r` at 8, `%d` at 16, `%q` at 32; predicates at 0.
const DECLARATIONS: &str =
    ".reg .b16 %h<8>; .reg .b32 %r<8>; .reg .b64 %d<8>; .reg .b128 %q<2>; .reg .b8 %c<4>; .reg .pred %p<8>;";

/// A 16-bit register.
pub(super) fn h(index: u32) -> Reg {
    Reg(index)
}

/// A 32-bit register.
pub(super) fn r(index: u32) -> Reg {
    Reg(8 + index)
}

/// A 64-bit register.
pub(super) fn d(index: u32) -> Reg {
    Reg(16 + 2 * index)
}

/// A 128-bit register.
pub(super) fn q(index: u32) -> Reg {
    Reg(32 + 4 * index)
}

/// An 8-bit register.
pub(super) fn c(index: u32) -> Reg {
    Reg(40 + index)
}

/// Decodes a kernel of these instructions.
pub(super) fn decode(body: &str) -> Result<Kernel, DecodeError> {
    let text = format!(
        ".version 8.8\n.target sm_100\n.address_size 64\n.global .b32 table[4];\n\
         .visible .entry k(.param .u64 first, .param .u64 second) {{ {DECLARATIONS} .local .b8 depot[16]; .shared .b32 tile[8];\n{body} }}"
    );
    let module = crate::parse::parse(&text).expect(body);
    Kernel::new(&module, "k")
}

/// The message of instructions that cannot be decoded.
pub(super) fn error(body: &str) -> String {
    match decode(body) {
        Ok(_) => format!("no error: {body}"),
        Err(error) => error.to_string(),
    }
}

/// A kernel and one warp's registers.
pub(super) struct Warp {
    kernel: Kernel,
    pub registers: Registers,
    pub options: Options,
}

impl Warp {
    pub fn new(body: &str) -> Warp {
        let kernel = decode(body).expect(body);
        let mut image = vec![[0; LANES]; kernel.slots as usize];
        for (reg, word) in &kernel.constants {
            image[reg.index()] = [*word; LANES];
        }
        Warp {
            registers: Registers::new(&image, kernel.predicates as usize),
            kernel,
            options: Options::default(),
        }
    }

    /// Sets a register in every lane.
    pub fn set<T: Word>(mut self, reg: Reg, value: impl Fn(usize) -> T) -> Warp {
        self.registers.set(u32::MAX, reg, &std::array::from_fn(value));
        self
    }

    /// Sets a predicate in every lane.
    pub fn predicate(mut self, index: u32, bits: u32) -> Warp {
        self.registers.set_predicate(u32::MAX, Pred(index), bits);
        self
    }

    /// Runs the instructions once in every lane.
    pub fn run(self) -> Warp {
        self.run_in(u32::MAX)
    }

    /// Runs the instructions once in the lanes of `mask`.
    pub fn run_in(mut self, mask: u32) -> Warp {
        for inst in &self.kernel.code {
            let guard = inst.guard.map_or(u32::MAX, |guard| {
                self.registers.predicate(guard.pred) ^ if guard.negated { u32::MAX } else { 0 }
            });
            match &inst.op {
                Op::Alu(alu) => super::execute(alu, &mut self.registers, mask & guard, &self.options),
                Op::Exit => {}
                other => panic!("{other:?} is not of this family"),
            }
        }
        self
    }

    pub fn get<T: Word>(&self, reg: Reg) -> [T; LANES] {
        self.registers.get(reg)
    }

    pub fn bits(&self, index: u32) -> u32 {
        self.registers.predicate(Pred(index))
    }
}

/// Values that reach every corner of an integer operation, a different one in each lane.
pub(super) fn corner(lane: usize) -> u64 {
    let corners = [
        0,
        1,
        2,
        31,
        32,
        33,
        0x7fff,
        0x8000,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
    ];
    match lane {
        0..12 => corners[lane],
        12..16 => u64::MAX >> (lane - 12),
        _ => (lane as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
    }
}

/// As `corner`, in another order.
pub(super) fn other(lane: usize) -> u64 {
    corner((lane * 7 + 3) % LANES)
}

/// Of each lane.
pub(super) fn lanes<T>(value: impl FnMut(usize) -> T) -> [T; LANES] {
    std::array::from_fn(value)
}

/// A mask of the lanes for which `test` holds.
pub(super) fn mask(test: impl Fn(usize) -> bool) -> u32 {
    crate::machine::registers::bits(test)
}

/// Runs `d = op(r1, r2)` on corners.
pub(super) fn words(body: &str, mask: u32) -> Lanes {
    let warp = Warp::new(body)
        .set(r(0), |_| 77u32)
        .set(r(1), |lane| corner(lane) as u32)
        .set(r(2), |lane| other(lane) as u32)
        .set(r(3), |lane| corner(lane / 2) as u32);
    warp.run_in(mask).get(r(0))
}
