//! From tile programs to thread programs, for the sm_80 family: `mma.sync`, `ldmatrix`, `cp.async`.
//!
//! Assigns a layout to every fragment and a swizzled place to every shared tile, pipelines the loads of marked loops,
//! lowers each tile op to loops over registers, and leaves barriers and waits to one def-use pass (`sync`).

mod copy;
mod fragment;
mod gemm;
mod names;
mod parts;
mod pipeline;
mod rowwise;
mod scalar;
mod shared;
mod store;
mod sync;

use crate::schedule::Schedule;
use crate::thread::{self, ThreadProgram};
use crate::tile::{self, Form, TileProgram};
use fragment::Fragments;
use mlafuse_ir::target::Target;
use shared::SharedPlan;
use sync::{Item, Op};

/// Why a tile program has no thread program.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum LowerError {
    /// A fragment's size does not suit the warps.
    #[error("kernel `{kernel}`: {rows}x{cols} fragment `{tile}` does not divide over {schedule}: {rule}")]
    Fragment {
        /// The kernel.
        kernel: String,
        /// The fragment.
        tile: String,
        /// Its rows.
        rows: usize,
        /// Its columns.
        cols: usize,
        /// The schedule.
        schedule: Box<Schedule>,
        /// What is required.
        rule: String,
    },
    /// A number of warps along the depth that does not divide it as the tensor core's steps do.
    #[error("kernel `{kernel}`: {found} warps share out the depth ({schedule}); a power of two is needed")]
    Warps {
        /// The kernel.
        kernel: String,
        /// The schedule.
        schedule: Box<Schedule>,
        /// Warps along the depth.
        found: usize,
    },
    /// A gemm operand whose size does not suit the tensor core.
    #[error("kernel `{kernel}`: gemm operand `{tile}` has {found} {what}; a multiple of {multiple} is needed")]
    Operand {
        /// The kernel.
        kernel: String,
        /// The shared tile.
        tile: String,
        /// Columns or rows.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// What they must be a multiple of.
        multiple: usize,
    },
    /// A gemm whose first operand is used from a column on that may lie inside a chunk of shared memory.
    #[error("kernel `{kernel}`: a gemm uses `{tile}` from column {start} on, which may be no multiple of {multiple}")]
    Start {
        /// The kernel.
        kernel: String,
        /// The shared tile.
        tile: String,
        /// The first column.
        start: String,
        /// What it must be a multiple of, for all that is known when kernels are made.
        multiple: usize,
    },
    /// More shared memory than a block may have.
    #[error("kernel `{kernel}` needs {needed} bytes of shared memory a block ({schedule}); {target} allows {allowed}")]
    SharedMemory {
        /// The kernel.
        kernel: String,
        /// The schedule.
        schedule: Box<Schedule>,
        /// Bytes needed.
        needed: usize,
        /// The target's name and architecture.
        target: String,
        /// Bytes allowed.
        allowed: usize,
    },
    /// The tile program is malformed.
    #[error(transparent)]
    Tile(#[from] tile::TileError),
    /// The lowering made a malformed thread program.
    #[error(transparent)]
    Thread(#[from] thread::ThreadError),
}

/// Dynamic shared memory of one block, in bytes.
pub fn shared_bytes(program: &TileProgram, schedule: &Schedule) -> usize {
    SharedPlan::new(program, schedule).bytes
}

/// The thread program of `program` under `schedule`, checked against the limits of `target`.
pub fn lower(program: &TileProgram, schedule: &Schedule, target: &Target) -> Result<ThreadProgram, LowerError> {
    tile::verify(program)?;
    if !schedule.warps_k.is_power_of_two() {
        return Err(LowerError::Warps {
            kernel: program.name.clone(),
            schedule: Box::new(*schedule),
            found: schedule.warps_k,
        });
    }
    let program = &names::renamed(program);
    let shared = SharedPlan::new(program, schedule);
    if shared.bytes > target.shared_per_block {
        return Err(LowerError::SharedMemory {
            kernel: program.name.clone(),
            schedule: Box::new(*schedule),
            needed: shared.bytes,
            target: format!("{} ({})", target.name, target.arch),
            allowed: target.shared_per_block,
        });
    }
    let cx = Cx {
        program,
        schedule: *schedule,
        fragments: Fragments::assign(program, schedule)?,
        shared,
    };
    cx.check_operands()?;
    let mut items = vec![Item::Raw(cx.prelude())];
    cx.body(&program.body, &mut items);
    let lowered = ThreadProgram {
        name: program.name.clone(),
        doc: program.doc.clone(),
        params: program.params.iter().map(scalar::param).collect(),
        threads: schedule.threads(),
        shared_bytes: cx.shared.bytes,
        body: sync::synchronize(items),
    };
    thread::verify(&lowered)?;
    Ok(lowered)
}

/// What every part of the lowering of one program looks at.
struct Cx<'a> {
    program: &'a TileProgram,
    schedule: Schedule,
    fragments: Fragments,
    shared: SharedPlan,
}

impl Cx<'_> {
    fn body(&self, body: &[tile::Stmt], items: &mut Vec<Item>) {
        for stmt in body {
            self.stmt(stmt, items);
        }
    }

    fn stmt(&self, stmt: &tile::Stmt, items: &mut Vec<Item>) {
        use tile::Stmt;
        match stmt {
            Stmt::Comment(words) => items.push(Item::Raw(vec![thread::Stmt::Comment(words.clone())])),
            Stmt::Let { var, value } => items.push(Item::Raw(vec![self.let_scalar(*var, value)])),
            Stmt::Sum {
                var,
                index,
                count,
                value,
            } => {
                items.push(Item::Raw(vec![self.comment(stmt)]));
                items.push(Item::Raw(self.sum(*var, *index, count, value)));
            }
            Stmt::For {
                var,
                start,
                end,
                pipelined,
                body,
            } => {
                self.for_loop(*var, [start, end], *pipelined, body, items);
            }
            Stmt::If { cond, body } => {
                let mut inner = Vec::new();
                self.body(body, &mut inner);
                items.push(Item::If {
                    cond: self.scalar(cond),
                    body: inner,
                });
            }
            Stmt::Return => items.push(Item::Return),
            Stmt::Load { dst, cols, src } => items.push(self.commented(stmt, self.load(*dst, cols, src))),
            Stmt::Store { dst, src, cols } => items.push(self.commented(stmt, self.store(dst, *src, cols))),
            Stmt::Stage { dst, src } => items.push(self.commented(stmt, self.stage(*dst, *src))),
            Stmt::Fill { dst, value } => items.push(self.commented(stmt, self.fill(*dst, *value))),
            Stmt::Gemm {
                acc,
                a,
                a_start,
                b,
                layout,
                b_cols,
            } => {
                items.push(self.commented(stmt, self.gemm([*acc, *a, *b], a_start, *layout, b_cols)));
            }
            Stmt::Map { dst, value } => items.push(self.commented(stmt, self.map(*dst, value))),
            Stmt::Reduce { op, dst, src } => {
                items.push(Item::Raw(vec![self.comment(stmt)]));
                items.extend(self.reduce(*op, *dst, *src).into_iter().map(Item::Op));
            }
            Stmt::Finish { dst, src } => {
                items.push(Item::Raw(vec![self.comment(stmt)]));
                let ops = match self.program.tile(*src).form {
                    Form::MatrixPartial => self.sum_parts(*dst, *src).to_vec(),
                    _ => self.finish(*dst, *src),
                };
                items.extend(ops.into_iter().map(Item::Op));
            }
            Stmt::Softmax(step) => self.body(&step.expansion(), items),
            Stmt::Rotate {
                dst,
                src,
                cos,
                sin,
                pairing,
                d,
            } => {
                items.push(self.commented(stmt, self.rotate(*dst, *src, [*cos, *sin], *pairing, *d)));
            }
        }
    }

    fn comment(&self, stmt: &tile::Stmt) -> thread::Stmt {
        thread::Stmt::Comment(tile::stmt_text(self.program, stmt))
    }

    /// The op with the tile statement it came from above it.
    fn commented(&self, stmt: &tile::Stmt, mut op: Op) -> Item {
        op.comment = Some(self.comment(stmt));
        Item::Op(op)
    }
}
