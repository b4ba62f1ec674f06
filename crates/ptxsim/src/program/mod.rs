//! A kernel made executable: every name resolved, every operand in a slot, every opcode known.

pub(crate) mod alu;
mod asynchronous;
mod calls;
mod control;
mod decoder;
mod error;
mod memory;
pub(crate) mod op;
mod operands;
mod references;
mod scope;
mod special;
mod tensor;
mod variables;
mod warp;

use std::collections::BTreeMap;

use crate::ast::{self, FunctionKind, Module, Performance};
use crate::machine::report::SourceLine;

pub use error::DecodeError;
use op::Inst;

/// The first slot of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reg(pub(crate) u32);

impl Reg {
    /// Where the first word lies in the register file.
    #[inline(always)]
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The slot of a further word.
    #[inline(always)]
    pub fn word(self, word: u32) -> Reg {
        Reg(self.0 + word)
    }
}

/// A predicate register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pred(pub(crate) u32);

impl Pred {
    /// The predicate at a place.
    pub(crate) fn at(place: u32) -> Pred {
        Pred(place)
    }

    /// Where it lies among the predicates.
    #[inline(always)]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What `.target` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The compute capability: 80 of `sm_80`, 90 of `sm_90a`.
    pub sm: u32,
    /// Shared memory that one block may have, in bytes.
    pub max_shared_bytes: u32,
}

impl Target {
    /// Most threads of a block.
    pub const MAX_THREADS: u32 = 1024;

    fn parse(name: &str) -> Option<Target> {
        let digits = name.strip_prefix("sm_")?;
        let sm: u32 = digits
            .trim_end_matches(|c: char| c.is_ascii_alphabetic())
            .parse()
            .ok()?;
        // CUDA C++ Programming Guide, "Technical specifications per compute capability".
        let kilobytes = match sm {
            80 | 87 => 163,
            86 | 89 | 120.. => 99,
            90..=119 => 227,
            _ => 64,
        };
        Some(Target {
            sm,
            max_shared_bytes: kilobytes * 1024,
        })
    }
}

/// A parameter of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name in the PTX.
    pub name: String,
    /// Where it lies in the parameter space, in bytes.
    pub offset: u32,
    /// Its size in bytes.
    pub bytes: u32,
}

/// A module-level variable in `.global` or `.const` space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GlobalVariable {
    pub name: String,
    pub address: u64,
    pub bytes: u64,
    /// The initial contents, as far as given; the rest is zero.
    pub contents: Vec<u8>,
    pub read_only: bool,
}

/// Where a formal or actual parameter of a device function lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the frame's local memory.
    Memory { offset: u32, bytes: u32 },
    /// In registers.
    Register { reg: Reg, words: u32 },
}

/// A function of the code.
#[derive(Clone, Debug, Default)]
pub(crate) struct Function {
    pub name: String,
    /// Where it begins.
    pub entry: u32,
    /// Bytes of local memory that a frame takes.
    pub frame_bytes: u32,
    /// Its registers, saved where it calls itself: first slot and one past the last.
    pub registers: (u32, u32),
    /// Likewise its predicates.
    pub predicates: (u32, u32),
    pub params: Vec<Place>,
    pub returns: Vec<Place>,
}

impl Function {
    /// The slots that a call of this function writes to: its registers, and parameters that are registers.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Reg> {
        let formal = self.params.iter().chain(&self.returns).flat_map(|place| match place {
            Place::Register { reg, words } => reg.0..reg.0 + words,
            Place::Memory { .. } => 0..0,
        });
        (self.registers.0..self.registers.1).chain(formal).map(Reg)
    }
}

/// Registers that the hardware sets and that stay the same while a thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    /// `%lanemask_eq`, `le`, `lt`, `ge`, `gt`.
    LaneMask(u8),
    /// A number that is the same for every thread.
    Fixed(u32),
    /// The block's number in the grid, as %smid and as the low word of %gridid's place.
    SmId,
    NSmId,
    DynamicSharedBytes,
    TotalSharedBytes,
}

/// A kernel, ready to launch.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The entry's name.
    pub name: String,
    /// What it was compiled for.
    pub target: Target,
    /// Its parameters in order.
    pub params: Vec<Param>,
    /// Bytes of the parameter space.
    pub param_bytes: u32,
    /// Bytes of shared memory that the PTX declares, with padding for the alignment of dynamic shared memory.
    pub static_shared_bytes: u32,
    /// `.maxntid` and the like.
    pub performance: Performance,
    pub(crate) code: Vec<Inst>,
    /// `functions[0]` is the kernel itself.
    pub(crate) functions: Vec<Function>,
    pub(crate) slots: u32,
    pub(crate) predicates: u32,
    /// Slots that hold the same word in every thread.
    pub(crate) constants: Vec<(Reg, u32)>,
    pub(crate) specials: Vec<(Special, Reg)>,
    pub(crate) variables: Vec<GlobalVariable>,
    pub(crate) sources: Vec<SourceLine>,
}

impl Kernel {
    /// Makes an entry of a module executable, with every function that it can reach.
    ///
    /// # Errors
    /// Where the module has no such entry, and at the first instruction or declaration that cannot be executed, with its line.
    pub fn new(module: &Module, entry: &str) -> Result<Kernel, DecodeError> {
        decoder::decode(module, entry)
    }

    /// The names of a module's kernels, in order.
    pub fn entries(module: &Module) -> Vec<&str> {
        let defined = |function: &&ast::Function| function.kind == FunctionKind::Entry && function.body.is_some();
        let entries = decoder::functions(module).filter(defined);
        entries.map(|function| function.name.as_str()).collect()
    }

    /// The CUDA source line of an instruction.
    pub(crate) fn source(&self, inst: &Inst) -> Option<&SourceLine> {
        self.sources.get(inst.source as usize)
    }

    /// A new slot that holds this word in every thread.
    pub(crate) fn add_constant(&mut self, word: u32) -> Reg {
        let reg = Reg(self.slots);
        self.slots += 1;
        self.constants.push((reg, word));
        reg
    }

    /// PTX lines to CUDA source lines, as far as the PTX has `.loc`.
    pub fn source_lines(&self) -> BTreeMap<u32, SourceLine> {
        let line = |inst: &Inst| Some((inst.line, self.source(inst)?.clone()));
        self.code.iter().filter_map(line).collect()
    }
}
