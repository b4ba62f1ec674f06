//! Thread programs: what one thread of a kernel does.
//!
//! A typed syntax tree of loops, register arrays, index expressions and intrinsics. The lowering ([`crate::lower`]) makes
//! it from a tile program, [`crate::cuda`] prints it; neither attention nor tiles are known here.

mod expr;
mod text;
mod verify;

pub use expr::{Binary, Expr, Ty};
pub use verify::{ThreadError, verify};

use mlafuse_tensor::DType;

/// What a kernel parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamTy {
    /// A pointer to device memory.
    Pointer {
        /// Element type.
        dtype: DType,
        /// Whether the kernel writes through it.
        written: bool,
    },
    /// A 32-bit integer.
    I32,
    /// A 64-bit integer.
    I64,
}

/// A kernel parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// What it is.
    pub ty: ParamTy,
}

/// An operation that a thread does beside plain arithmetic. What each is called in CUDA and in PTX stands in
/// [`crate::cuda`]'s intrinsic table alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Intrinsic {
    /// 2^x, flushing subnormals: (x).
    Exp2,
    /// log2(x): (x).
    Log2,
    /// 1 / sqrt(x): (x).
    Rsqrt,
    /// The float of lane `lane ^ mask`: (x, mask).
    ShuffleXor,
    /// The sum of an i32 over the lanes of a warp, all of which are there: (x).
    WarpSum,
    /// A 16-bit or 32-bit memory element as f32: (element).
    ToFloat(DType),
    /// An f32 rounded to nearest even to the element type: (x).
    FromFloat(DType),
    /// Two f32 rounded and packed, the first in the low half: (low, high).
    Pack2(DType),
    /// One f32 from shared memory: (address).
    LoadSharedF32,
    /// One 16-bit element from shared memory: (address).
    LoadShared16,
    /// One f32 to shared memory: (address, x).
    StoreSharedF32,
    /// A 32-bit word to shared memory: (address, word).
    StoreShared32,
    /// One 16-bit element to shared memory: (address, element).
    StoreShared16,
    /// Two adjacent f32 of device memory, 8-byte aligned, into r\[at..at + 2\]: (register array, at, pointer, index).
    LoadGlobalF32x2,
    /// Two adjacent f32 to device memory, 8-byte aligned: (pointer, index, low, high).
    StoreGlobalF32x2,
    /// Two adjacent 16-bit elements, packed, to device memory, 4-byte aligned: (pointer, index, word).
    StoreGlobal16x2,
    /// Four adjacent 16-bit elements, packed in two words, to device memory, 8-byte aligned: (pointer, index, low, high).
    StoreGlobal16x4,
    /// Asynchronous copy of `bytes` (4, 8 or 16) from device to shared memory: (address, pointer, index, bytes that are
    /// there; the rest becomes zero).
    CopyAsync(DType, u8),
    /// Ends a group of asynchronous copies.
    CopyCommit,
    /// Waits until at most `n` groups of asynchronous copies are under way.
    CopyWait(u8),
    /// Four 8 × 8 matrices of 16-bit elements into r\[at..at + 4\]: (register array, at, row address).
    LoadMatrix4,
    /// The same, each matrix transposed.
    LoadMatrix4Transposed,
    /// Two 8 × 8 matrices into r\[at..at + 2\]: (register array, at, row address).
    LoadMatrix2,
    /// The same, each matrix transposed.
    LoadMatrix2Transposed,
    /// 16 × 8 += 16 × 16 · 16 × 8 in f32: (accumulators, at, a registers, at, b registers, at).
    Mma(DType),
    /// Barrier of the whole block.
    Barrier,
}

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Stmt {
    /// Words for the reader.
    Comment(String),
    /// Binds a name to a value that does not change.
    Let {
        /// Its type.
        ty: Ty,
        /// The name.
        name: String,
        /// The value.
        value: Expr,
    },
    /// Declares an array of registers.
    Array {
        /// Element type.
        ty: Ty,
        /// The name.
        name: String,
        /// Number of elements.
        len: usize,
    },
    /// Sets one register of an array.
    Set {
        /// The array.
        name: String,
        /// Which.
        at: Expr,
        /// The value.
        value: Expr,
    },
    /// Sets one element of device memory (already of the element type).
    StoreGlobal {
        /// Pointer parameter.
        pointer: String,
        /// Element index.
        index: Expr,
        /// The value.
        value: Expr,
    },
    /// Runs the body for var in start..end by one.
    For {
        /// The variable (i32).
        var: String,
        /// First value.
        start: Expr,
        /// One past the last.
        end: Expr,
        /// How often the compiler is asked to unroll: 0 fully, 1 not, else so many times.
        unroll: u32,
        /// The statements.
        body: Vec<Stmt>,
    },
    /// Runs the body iff the condition holds.
    If {
        /// The condition.
        cond: Expr,
        /// The statements.
        body: Vec<Stmt>,
    },
    /// Statements whose names end with them.
    Scope {
        /// The statements.
        body: Vec<Stmt>,
    },
    /// An intrinsic done for its effect.
    Do {
        /// Which.
        intrinsic: Intrinsic,
        /// Its operands.
        args: Vec<Expr>,
    },
    /// Ends the thread.
    Return,
}

/// A kernel as each of its threads runs it.
#[derive(Clone, Debug, PartialEq)]
pub struct ThreadProgram {
    /// The kernel's name.
    pub name: String,
    /// What it computes and how it is scheduled, for the head of text and source.
    pub doc: Vec<String>,
    /// Parameters in launch order.
    pub params: Vec<Param>,
    /// Threads of a block.
    pub threads: usize,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: usize,
    /// The statements.
    pub body: Vec<Stmt>,
}

impl ThreadProgram {
    /// Calls `visit` on every statement, outer before inner.
    pub fn walk<'a>(&'a self, visit: &mut impl FnMut(&'a Stmt)) {
        fn go<'a>(body: &'a [Stmt], visit: &mut impl FnMut(&'a Stmt)) {
            for stmt in body {
                visit(stmt);
                if let Stmt::For { body, .. } | Stmt::If { body, .. } | Stmt::Scope { body } = stmt {
                    go(body, visit);
                }
            }
        }
        go(&self.body, visit);
    }
}
