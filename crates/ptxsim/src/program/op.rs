//! Executable instructions.

use super::alu::Alu;
use super::{Place, Pred, Reg};
use crate::ast::Type;
use crate::machine::race::Scope;
use crate::numeric::integer::IntType;
use crate::numeric::mma::Mma;

/// One instruction.
#[derive(Clone, Debug)]
pub(crate) struct Inst {
    pub op: Op,
    pub guard: Option<Guard>,
    /// The line of the PTX text, from 1.
    pub line: u32,
    /// Index into the kernel's source lines; past their end where there is none.
    pub source: u32,
}

/// The predicate under which lanes take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guard {
    pub pred: Pred,
    pub negated: bool,
}

/// A predicate as a source; a constant one has no register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PredSource {
    /// `None` is true.
    pub pred: Option<Pred>,
    pub negated: bool,
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Nothing that can be observed here: hints, prefetches, `griddepcontrol`.
    Nop,
    /// A function of registers, lane by lane.
    Alu(Alu),
    /// `%clock`, `%clock64`, `%globaltimer`: a number that grows.
    Clock {
        dst: Reg,
        words: u32,
    },
    /// The address of a variable in the frame.
    FrameAddress {
        dst: Reg,
        words: u32,
        offset: u32,
    },
    Load(Load),
    Store(Store),
    Atomic(Atomic),
    /// `isspacep`.
    IsSpace {
        dst: Pred,
        space: Space,
        address: Reg,
    },
    CpAsync(CpAsync),
    CpAsyncCommit,
    /// Waits until at most `pending` of the latest groups are incomplete; for uncommitted ones too with `all`.
    CpAsyncWait {
        pending: u32,
        all: bool,
    },
    /// An arrival at an mbarrier when the thread's copies so far have landed.
    CpAsyncArrive {
        address: Address,
        noinc: bool,
    },
    Mbarrier(Mbarrier),
    /// `mbarrier.pending_count`.
    PendingCount {
        dst: Reg,
        state: Reg,
    },
    /// `createpolicy`: a cache policy, which means nothing here.
    Policy {
        dst: Reg,
    },
    /// `nanosleep`: lets others run.
    Yield,
    LdMatrix(MatrixMove),
    StMatrix(MatrixMove),
    /// `movmatrix`: an 8×8 matrix of 16-bit elements transposed across the warp.
    MoveMatrix {
        dst: Reg,
        src: Reg,
    },
    Mma(Box<MmaOp>),
    Shuffle(Shuffle),
    Vote(Vote),
    Match(Match),
    Redux(Redux),
    /// `elect.sync`: the lowest lane of the mask.
    Elect {
        dst: Option<Reg>,
        pred: Pred,
        members: Reg,
    },
    ActiveMask {
        dst: Reg,
    },
    Barrier(Barrier),
    /// `bar.warp.sync`.
    WarpSync {
        members: Reg,
    },
    Fence(Fence),
    Branch {
        target: u32,
    },
    /// `brx.idx`.
    BranchIndexed {
        index: Reg,
        targets: Box<[u32]>,
    },
    Call(Box<Call>),
    Return,
    Exit,
    Trap,
    /// The host's `__assertfail`: message, file, line and function as the call's parameters.
    AssertFail,
    /// The host's `vprintf`, which prints nothing here: its result, 0, goes to the frame's memory.
    Print {
        result: u32,
    },
}

/// Where memory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Const,
    /// The kernel's parameters.
    Param,
}

/// What an address starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// The offset is the address.
    None,
    /// A 32-bit register.
    Word(Reg),
    /// A 64-bit register.
    Wide(Reg),
    /// The frame's local memory.
    Frame,
}

/// `[base+offset]` in a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub space: Space,
    pub base: Base,
    pub offset: i64,
}

/// Strength and ordering of a memory operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// Volatile, relaxed or stronger: such accesses of the same place do not race with each other.
    pub strong: bool,
    pub acquire: bool,
    pub release: bool,
    /// Whom a strong access reaches.
    pub scope: Scope,
}

/// `ld`.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub address: Address,
    /// One register an element; `None` drops it.
    pub dst: Box<[Option<Reg>]>,
    /// Bytes of an element: 1, 2, 4, 8 or 16.
    pub bytes: u32,
    /// Narrow elements are extended by their sign.
    pub signed: bool,
    /// Slots of each destination.
    pub words: u32,
    /// Bytes of each destination.
    pub register_bytes: u32,
    pub order: Order,
}

/// `st`.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub address: Address,
    pub src: Box<[Reg]>,
    pub bytes: u32,
    pub order: Order,
}

/// Read-modify-write functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AtomicFunction {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareAndSwap,
    Increment,
    Decrement,
}

/// `atom` and `red`.
#[derive(Clone, Debug)]
pub(crate) struct Atomic {
    pub function: AtomicFunction,
    pub ty: Type,
    pub address: Address,
    /// The old value; `None` for `red`.
    pub dst: Option<Box<[Reg]>>,
    pub operand: Box<[Reg]>,
    /// The new value of a compare-and-swap, whose `operand` is what is compared.
    pub swap: Option<Reg>,
    pub order: Order,
}

/// `cp.async`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpAsync {
    pub dst: Address,
    pub src: Address,
    pub bytes: u32,
    /// Bytes read; the rest of `bytes` becomes zero.
    pub src_bytes: Option<Reg>,
    /// Where it holds nothing is read and all becomes zero.
    pub ignore: Option<PredSource>,
}

/// Operations on an mbarrier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mbarrier {
    pub address: Address,
    pub function: MbarrierFunction,
    pub order: Order,
}

/// Operations on an mbarrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MbarrierFunction {
    Init {
        count: Reg,
    },
    Invalidate,
    Arrive {
        state: Option<Reg>,
        count: Option<Reg>,
        drop: bool,
        complete: bool,
    },
    /// Waiting for the phase of a state, or of a parity.
    Test {
        done: Pred,
        phase: MbarrierPhase,
        blocking: bool,
    },
}

/// Which phase is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MbarrierPhase {
    State(Reg),
    Parity(Reg),
}

/// `ldmatrix` and `stmatrix`.
#[derive(Clone, Debug)]
pub(crate) struct MatrixMove {
    pub address: Address,
    /// One register for each 8×8 matrix of 16-bit elements (or two for one of 16×16 bytes).
    pub registers: Box<[Reg]>,
    pub transposed: bool,
    pub shape: MatrixShape,
}

/// Shapes of `ldmatrix` and `stmatrix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MatrixShape {
    /// `m8n8.b16`.
    M8N8B16,
    /// `m16n16.b8`, always transposed; two registers a matrix.
    M16N16B8,
    /// `stmatrix` `m16n8.b8`, always transposed; one register a matrix.
    M16N8B8,
}

/// `mma.sync`.
#[derive(Clone, Debug)]
pub(crate) struct MmaOp {
    pub mma: Mma,
    pub d: Box<[Reg]>,
    pub a: Box<[Reg]>,
    pub b: Box<[Reg]>,
    pub c: Box<[Reg]>,
}

/// Modes of `shfl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

/// `shfl.sync`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shuffle {
    pub mode: ShuffleMode,
    pub dst: Option<Reg>,
    /// Whether the source lane was in range.
    pub in_range: Option<Pred>,
    pub value: Reg,
    pub lane: Reg,
    /// Clamp and segment mask.
    pub control: Reg,
    pub members: Reg,
}

/// Results of `vote.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteResult {
    All(Pred),
    Any(Pred),
    Uniform(Pred),
    Ballot(Reg),
}

/// `vote.sync`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vote {
    pub result: VoteResult,
    pub source: PredSource,
    pub members: Reg,
}

/// Kinds of `match.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MatchKind {
    /// The members with the lane's value.
    Any,
    /// All members if they have one value, else none; and whether they have.
    All(Option<Pred>),
}

/// `match.sync`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Match {
    pub dst: Option<Reg>,
    pub kind: MatchKind,
    pub value: Reg,
    /// Of 64 bits.
    pub wide: bool,
    pub members: Reg,
}

/// Functions of `redux.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReduxFunction {
    Add,
    Min(IntType),
    Max(IntType),
    And,
    Or,
    Xor,
    MinMaxF32 { max: bool, abs: bool, nan: bool },
}

/// `redux.sync`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Redux {
    pub function: ReduxFunction,
    pub dst: Reg,
    pub value: Reg,
    pub members: Reg,
}

/// What a barrier does besides counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarrierKind {
    Sync,
    Arrive,
    Popc { dst: Reg, source: PredSource },
    And { dst: Pred, source: PredSource },
    Or { dst: Pred, source: PredSource },
}

/// `bar` and `barrier`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Barrier {
    pub kind: BarrierKind,
    /// 0 to 15.
    pub id: Reg,
    /// Threads that take part; every one of the block where `None`.
    pub count: Option<Reg>,
    /// Every lane of a warp takes part together.
    pub aligned: bool,
}

/// `fence` and `membar`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    /// One between proxies, which are one here, orders nothing.
    pub orders: bool,
    pub scope: Scope,
}

/// A call of a device function.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub target: CallTarget,
    pub arguments: Box<[Place]>,
    pub returns: Box<[Place]>,
}

/// What is called.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CallTarget {
    /// Index into the kernel's functions.
    Direct(u32),
    /// A register with a function's address.
    Indirect(Reg),
}

impl Op {
    /// Whether mutation testing removes it: what orders, waits or synchronises.
    pub(crate) fn synchronises(&self) -> bool {
        matches!(
            self,
            Op::Barrier(_)
                | Op::WarpSync { .. }
                | Op::Fence(_)
                | Op::CpAsyncWait { .. }
                | Op::CpAsyncCommit
                | Op::CpAsyncArrive { .. }
        ) || matches!(
            self,
            Op::Mbarrier(Mbarrier {
                function: MbarrierFunction::Arrive { .. } | MbarrierFunction::Test { .. },
                ..
            })
        )
    }
}
