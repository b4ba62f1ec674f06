//! A compiled program, and running it for one block.

use std::ops::Range;

use mlafuse_codegen::tile::{BLayout, ReduceOp};

use crate::convert::{Element, bf16_row, round_row};
use crate::error::Fault;
use crate::expr::{At, Env, MapCode, Scalar};
use crate::gemm::bf16::{self, Halves};
use crate::gemm::{Acc, Matrix, Sizes, gemm};
use crate::level::Level;
use crate::memory::Bound;
use crate::rows::{Rotation, reduce, rotate};
use crate::scratch::{Packing, Slot, Work};
use crate::view::{Transfer, load, store};

/// A compiled statement. `present` names counters of [`Work::present`]: how many leading rows of a shared tile the last
/// load of some columns found there; what is beyond is zero.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Let {
        var: usize,
        value: Scalar,
    },
    Sum {
        var: usize,
        index: usize,
        count: Scalar,
        value: Scalar,
    },
    For {
        var: usize,
        start: Scalar,
        end: Scalar,
        body: Vec<Step>,
    },
    If {
        cond: Scalar,
        body: Vec<Step>,
    },
    Return,
    Load {
        transfer: Box<Transfer>,
        present: Option<usize>,
        tile: usize,
    },
    Store(Box<Transfer>),
    Stage {
        dst: Slot,
        src: Slot,
        element: Element,
        present: Range<usize>,
        tile: usize,
    },
    Fill {
        dst: Slot,
        value: f32,
    },
    Gemm(Box<GemmStep>),
    Map(Box<MapCode>),
    Reduce {
        op: ReduceOp,
        dst: Slot,
        src: Slot,
    },
    Copy {
        dst: Slot,
        src: Slot,
    },
    Rotate(Box<Rotation>),
}

/// A compiled gemm.
#[derive(Clone, Debug)]
pub(crate) struct GemmStep {
    pub(crate) acc: Slot,
    pub(crate) a: Slot,
    /// First column of a that is used.
    pub(crate) a_start: Scalar,
    pub(crate) b: Slot,
    pub(crate) layout: BLayout,
    pub(crate) depth: usize,
    /// First column of b that is used.
    pub(crate) b_col: usize,
    pub(crate) a_present: Range<usize>,
    pub(crate) b_present: Range<usize>,
    /// Of a gemm of bf16 tiles.
    pub(crate) packed: Option<PackedOperand>,
}

/// The operand of a gemm that is packed; it stays so while its tile does not change.
#[derive(Clone, Debug)]
pub(crate) struct PackedOperand {
    /// Index of the gemm in [`Work::packings`].
    pub(crate) product: usize,
    pub(crate) tile: usize,
    /// Its place in [`Work::packed`].
    pub(crate) words: Range<usize>,
}

/// Whether the block goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Ended,
}

/// What the blocks of a launch share.
pub(crate) struct Launch<'a> {
    pub(crate) level: Level,
    /// Tiles start as NaN, and gemm leaves out no absent row, so that what a GPU would make of garbage shows.
    pub(crate) poison: bool,
    pub(crate) params: &'a [i64],
    pub(crate) tensors: &'a [Bound<'a>],
    pub(crate) present: usize,
}

impl Launch<'_> {
    /// Runs `steps` for the block at `block`.
    pub(crate) fn block(
        &self,
        steps: &[Step],
        block: [i64; 3],
        arena: &mut [f32],
        work: &mut Work,
    ) -> Result<(), Fault> {
        if self.poison {
            arena.fill(f32::NAN);
        }
        work.packings.fill(None);
        work.present
            .iter_mut()
            .take(self.present)
            .for_each(|rows| *rows = usize::MAX);
        Block {
            launch: self,
            block,
            arena,
            work,
        }
        .steps(steps)
        .map(|_| ())
    }
}

struct Block<'a> {
    launch: &'a Launch<'a>,
    block: [i64; 3],
    arena: &'a mut [f32],
    work: &'a mut Work,
}

impl Block<'_> {
    fn steps(&mut self, steps: &[Step]) -> Result<Flow, Fault> {
        for step in steps {
            if self.step(step)? == Flow::Ended {
                return Ok(Flow::Ended);
            }
        }
        Ok(Flow::Next)
    }

    fn step(&mut self, step: &Step) -> Result<Flow, Fault> {
        match step {
            Step::Let { var, value } => self.work.vars[*var] = self.scalar(value)?,
            Step::Sum {
                var,
                index,
                count,
                value,
            } => {
                let mut sum = 0i64;
                for i in 0..self.scalar(count)? {
                    self.work.vars[*index] = i;
                    sum = sum.checked_add(self.scalar(value)?).ok_or(Fault::Overflow)?;
                }
                self.work.vars[*var] = sum;
            }
            Step::For { var, start, end, body } => {
                for i in self.scalar(start)?..self.scalar(end)? {
                    self.work.vars[*var] = i;
                    if self.steps(body)? == Flow::Ended {
                        return Ok(Flow::Ended);
                    }
                }
            }
            Step::If { cond, body } => {
                if self.scalar(cond)? != 0 {
                    return self.steps(body);
                }
            }
            Step::Return => return Ok(Flow::Ended),
            Step::Load {
                transfer,
                present,
                tile,
            } => {
                self.work.versions[*tile] += 1;
                let env = env(self.launch, self.block, &self.work.vars);
                let rows = load(transfer, self.launch.level, &env, self.arena)?;
                if let Some(counter) = *present {
                    self.work.present[counter] = rows;
                }
            }
            Step::Store(transfer) => store(transfer, &env(self.launch, self.block, &self.work.vars), self.arena)?,
            Step::Stage {
                dst,
                src,
                element,
                present,
                tile,
            } => {
                self.work.versions[*tile] += 1;
                self.stage(*dst, *src, *element);
                self.work.present[present.clone()].fill(usize::MAX);
            }
            Step::Fill { dst, value } => {
                (0..dst.rows).for_each(|row| self.arena[dst.row(row, 0..dst.cols)].fill(*value));
            }
            Step::Gemm(step) => self.gemm(step)?,
            Step::Map(map) => {
                let env = env(self.launch, self.block, &self.work.vars);
                map.run(self.launch.level, &env, self.arena, &mut self.work.registers)?;
            }
            Step::Reduce { op, dst, src } => reduce(self.launch.level, *op, *dst, *src, self.arena),
            Step::Copy { dst, src } => self.arena.copy_within(src.range(), dst.start),
            Step::Rotate(rotation) => rotate(rotation, self.arena),
        }
        Ok(Flow::Next)
    }

    fn scalar(&self, scalar: &Scalar) -> Result<i64, Fault> {
        scalar.eval(&env(self.launch, self.block, &self.work.vars), At::BLOCK)
    }

    fn stage(&mut self, dst: Slot, src: Slot, element: Element) {
        // Tiles never overlap, so both borrows are there.
        let Ok([to, from]) = self.arena.get_disjoint_mut([dst.range(), src.range()]) else {
            return;
        };
        if dst.halves {
            let to: &mut [u16] = bytemuck::cast_slice_mut(to);
            for row in 0..src.rows {
                let from = &from[row * src.stride..][..src.cols];
                let to = &mut to[row * dst.stride..][..dst.stride];
                bf16_row(self.launch.level, from, &mut to[..src.cols]);
                to[src.cols..].fill(0);
            }
            return;
        }
        for row in 0..src.rows {
            let from = &from[row * src.stride..][..src.cols];
            round_row(
                self.launch.level,
                element,
                from,
                &mut to[row * dst.stride..][..src.cols],
            );
        }
    }

    fn gemm(&mut self, step: &GemmStep) -> Result<(), Fault> {
        let GemmStep {
            acc,
            a,
            b,
            layout,
            depth,
            b_col,
            ..
        } = *step;
        let start = self.scalar(&step.a_start)?;
        let fits = |start: &usize| *start <= a.cols - depth;
        let a_col = usize::try_from(start).ok().filter(fits).ok_or(Fault::Columns {
            start,
            depth,
            cols: a.cols,
        })?;
        let mut sizes = Sizes {
            m: acc.rows,
            n: acc.cols,
            k: depth,
        };
        if !self.launch.poison {
            sizes.m = sizes.m.min(self.present(&step.a_present));
            let b_rows = self.present(&step.b_present);
            match layout {
                BLayout::Nk => sizes.n = sizes.n.min(b_rows),
                BLayout::Kn => sizes.k = sizes.k.min(b_rows),
            }
        }
        // a and b may be one tile, acc is another: acc's part of the arena is cut out.
        let (before, rest) = self.arena.split_at_mut(acc.start);
        let (to, after) = rest.split_at_mut(acc.len);
        let part = |slot: Slot| match slot.start.checked_sub(acc.start + acc.len) {
            Some(start) => &after[start..start + slot.len],
            None => &before[slot.range()],
        };
        let acc = Acc {
            data: to,
            stride: acc.stride,
        };
        let level = self.launch.level;
        let Some(packed) = &step.packed else {
            let a = Matrix {
                data: &part(a)[a_col..],
                stride: a.stride,
            };
            let b = Matrix {
                data: &part(b)[b_col..],
                stride: b.stride,
            };
            gemm(level, sizes, acc, a, b, layout, &mut self.work.panel);
            return Ok(());
        };
        let a = Halves {
            data: &bytemuck::cast_slice(part(a))[a_col..],
            stride: a.stride,
        };
        let b = Halves {
            data: &bytemuck::cast_slice(part(b))[b_col..],
            stride: b.stride,
        };
        let words = &mut self.work.packed[packed.words.clone()];
        let packing = Packing {
            version: self.work.versions[packed.tile],
            columns: match bf16::packed_side(level, layout) {
                bf16::Side::A => sizes.m,
                bf16::Side::B => sizes.n,
            },
            depth: sizes.k,
            a_col,
        };
        let before = self.work.packings[packed.product].replace(packing);
        if before != Some(packing) {
            bf16::pack(level, sizes, a, b, layout, words);
        }
        bf16::gemm(level, sizes, acc, a, b, layout, words);
        Ok(())
    }

    /// Rows of a tile that may be other than zero; `usize::MAX` where that is not known.
    fn present(&self, counters: &Range<usize>) -> usize {
        self.work.present[counters.clone()]
            .iter()
            .copied()
            .max()
            .unwrap_or(usize::MAX)
    }
}

fn env<'a>(launch: &Launch<'a>, block: [i64; 3], vars: &'a [i64]) -> Env<'a> {
    Env {
        params: launch.params,
        vars,
        block,
        tensors: launch.tensors,
    }
}
