//! A compiled program, and running it for one block.

use std::ops::Range;

use mlafuse_codegen::tile::{BLayout, ReduceOp};

use crate::convert::Element;
use crate::error::Fault;
use crate::expr::{At, Env, MapCode, Scalar};
use crate::gemm::bf16::{self, Beside, Fetch, Halves, Lent, Operand, Side, Sums};
use crate::gemm::split::{self, Pairs};
use crate::gemm::{Acc, Matrix, Sizes, gemm};
use crate::level::Level;
use crate::memory::Bound;
use crate::rows::{Rotation, reduce, rotate, scale_rows, stage};
use crate::scratch::{Borrowed, Elements, Packing, Parts, Slot, Work};
use crate::softmax::SoftmaxStep;
use crate::view::{Transfer, add_rows, borrow, load, look_up, store};

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
        /// Parts in which the rows are fetched, beside products of the body, that its first step, a load, will borrow in the next
        /// round.
        fetches: usize,
    },
    If {
        cond: Scalar,
        body: Vec<Step>,
    },
    Return,
    Load(Box<LoadStep>),
    /// A tile that is zeros has them written.
    Settle {
        dst: Slot,
        tile: usize,
    },
    /// Stores after row i of the tile is multiplied by element i of `by`.
    Store {
        transfer: Box<Transfer>,
        by: Option<Slot>,
    },
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
    /// The tile becomes zeros, which are written where something else than a gemm or a scale comes to it.
    Blank {
        tile: usize,
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
    /// Element (i, j) of dst times element i of `by`.
    Scale {
        dst: Slot,
        by: Slot,
        tile: usize,
    },
    /// dst\[i, j\] += by\[i\] · rows\[i, j\], where the rows lie.
    AddRows {
        rows: Box<Transfer>,
        dst: Slot,
        by: Slot,
    },
    Softmax {
        step: Box<SoftmaxStep>,
        /// Of the weights, as those of a `Stage`'s tile.
        present: Range<usize>,
        tile: usize,
    },
    Rotate(Box<Rotation>),
}

/// A compiled load.
#[derive(Clone, Debug)]
pub(crate) struct LoadStep {
    pub(crate) transfer: Transfer,
    pub(crate) present: Option<usize>,
    pub(crate) tile: usize,
    /// Index of the load in [`Work::loaded`].
    pub(crate) load: usize,
    /// Rows may stay where they lie.
    pub(crate) borrows: bool,
    /// A gemm after it that takes its rows as they are and packs columns of them, which is done as they come.
    pub(crate) next: Option<Box<GemmStep>>,
    /// Nothing else writes these columns of the tile: they keep what they were loaded with, from block to block.
    pub(crate) keeps: bool,
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
    /// The tile of b where its rows may have been left in device memory.
    pub(crate) b_borrowed: Option<usize>,
    /// The tile of acc where a gemm can begin its sums instead of adding them to zeros.
    pub(crate) begins: Option<usize>,
    /// Of a gemm of halves or pieces.
    pub(crate) packed: Option<PackedOperand>,
    /// A gemm after it that multiplies by the same rows, whose packed operand is made meanwhile.
    pub(crate) next: Option<Box<GemmStep>>,
}

impl GemmStep {
    /// The part that it has in fetching ahead: none while it packs something else. One that meets rows of memory for the first
    /// time waits for these already.
    pub(crate) fn fetches(&self) -> usize {
        match (&self.packed, &self.next) {
            (Some(_), None) if self.acc.transposed => 1,
            (Some(_), None) => 3,
            _ => 0,
        }
    }
}

/// The operand of a gemm that is packed; it stays so while its tile does not change.
#[derive(Clone, Debug)]
pub(crate) struct PackedOperand {
    /// Index of the gemm in [`Work::packings`].
    pub(crate) product: usize,
    pub(crate) tile: usize,
    pub(crate) side: Side,
    /// Its place in [`Parts::packed`].
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
    pub(crate) fn block(&self, steps: &[Step], block: [i64; 3], parts: &mut Parts<'_>) -> Result<(), Fault> {
        let Parts { arena, packed, work } = parts;
        if self.poison {
            arena.fill(f32::NAN);
            work.loaded.fill(None);
        }
        work.present
            .iter_mut()
            .take(self.present)
            .for_each(|rows| *rows = usize::MAX);
        work.blank.fill(false);
        work.ahead.clear();
        Block {
            launch: self,
            block,
            arena,
            packed,
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
    packed: &'a mut [u32],
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
            Step::For {
                var,
                start,
                end,
                body,
                fetches,
            } => {
                let (start, end) = (self.scalar(start)?, self.scalar(end)?);
                for i in start..end {
                    if let (Some(Step::Load(load)), 1..) = (body.first(), *fetches) {
                        self.work.ready = self.hand_over(load, i);
                        self.work.ahead.clear();
                        if i + 1 < end {
                            self.work.vars[*var] = i + 1;
                            self.look_ahead(load, i + 1, *fetches);
                        }
                    }
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
            Step::Load(step) => self.load(step)?,
            Step::Settle { dst, tile } => self.settle(*dst, *tile),
            Step::Store { transfer, by } => {
                let env = env(self.launch, self.block, &self.work.vars);
                store(transfer, *by, self.launch.level, &env, self.arena)?;
            }
            Step::Stage {
                dst,
                src,
                element,
                present,
                tile,
            } => {
                self.work.versions[*tile] += 1;
                stage(self.launch.level, *dst, *src, *element, self.arena);
                self.work.present[present.clone()].fill(usize::MAX);
            }
            Step::Fill { dst, value } => {
                (0..dst.rows).for_each(|row| self.arena[dst.row(row, 0..dst.cols)].fill(*value));
            }
            Step::Blank { tile } => self.work.blank[*tile] = true,
            Step::Gemm(step) => self.gemm(step)?,
            Step::Map(map) => {
                let env = env(self.launch, self.block, &self.work.vars);
                map.run(self.launch.level, &env, self.arena, &mut self.work.registers)?;
            }
            Step::Reduce { op, dst, src } => reduce(self.launch.level, *op, *dst, *src, self.arena),
            Step::Copy { dst, src } => self.arena.copy_within(src.range(), dst.start),
            Step::Scale { dst, by, tile } => {
                // Zeros stay zeros times what is finite.
                let finite = || self.arena[by.start..by.start + dst.rows].iter().all(|x| x.is_finite());
                if !(self.work.blank[*tile] && finite()) {
                    self.settle(*dst, *tile);
                    scale_rows(self.launch.level, *dst, *by, self.arena);
                }
            }
            Step::AddRows { rows, dst, by } => {
                let env = env(self.launch, self.block, &self.work.vars);
                add_rows(rows, [*dst, *by], self.launch.level, &env, self.arena)?;
            }
            Step::Softmax { step, present, tile } => {
                let first = self.scalar(&step.first)?;
                self.work.versions[*tile] += 1;
                let share = self.work.ahead.share_of(step.fetches());
                let fetch = Fetch::new(lent(self.launch.tensors, &self.work.ahead.rows, 0), share);
                step.run(self.launch.level, first, self.arena, fetch);
                self.work.present[present.clone()].fill(usize::MAX);
            }
            Step::Rotate(rotation) => rotate(rotation, self.arena),
        }
        Ok(Flow::Next)
    }

    fn settle(&mut self, dst: Slot, tile: usize) {
        if std::mem::take(&mut self.work.blank[tile]) {
            self.arena[dst.range()].fill(0.0);
        }
    }

    fn scalar(&self, scalar: &Scalar) -> Result<i64, Fault> {
        scalar.eval(&env(self.launch, self.block, &self.work.vars), At::BLOCK)
    }

    /// A tile that has what it is to be loaded with is left as it is; so is what a gemm has made of it.
    fn load(&mut self, step: &LoadStep) -> Result<(), Fault> {
        let env = env(self.launch, self.block, &self.work.vars);
        let place = match step.keeps {
            true => step.transfer.place(&env)?,
            false => None,
        };
        let rows = match self.work.loaded[step.load].take() {
            Some((before, rows)) if Some(before) == place => rows,
            _ => {
                self.work.versions[step.tile] += 1;
                match step.borrows {
                    true if self.work.ready.take() == Some(step.load) => step.transfer.tile.rows,
                    true => borrow(&step.transfer, &env, self.arena, &mut self.work.borrowed[step.tile])?,
                    false => self.load_and_pack(step)?,
                }
            }
        };
        self.work.loaded[step.load] = place.map(|place| (place, rows));
        if let Some(counter) = step.present {
            self.work.present[counter] = rows;
        }
        Ok(())
    }

    /// What was noted of `round` is what `load` borrows now, if all of it lies in memory: it becomes that, and the load is given.
    fn hand_over(&mut self, load: &LoadStep, round: i64) -> Option<usize> {
        let Work { ahead, borrowed, .. } = &mut *self.work;
        let groups = ahead.rows.groups.iter().flatten().count();
        let whole = groups * bf16::ROWS == load.transfer.tile.rows;
        (ahead.of == Some((load.load, round)) && whole).then(|| {
            std::mem::swap(&mut ahead.rows, &mut borrowed[load.tile]);
            load.load
        })
    }

    /// Notes what `load` would borrow now, which is in `round`, to be fetched in so many parts.
    fn look_ahead(&mut self, load: &LoadStep, round: i64, parts: usize) {
        let env = env(self.launch, self.block, &self.work.vars);
        let ahead = &mut self.work.ahead;
        look_up(&load.transfer, &env, self.arena, &mut ahead.rows);
        ahead.of = Some((load.load, round));
        ahead.begin(load.transfer.cols.len(), parts);
    }

    /// What was packed of a tile some of whose rows are absent is of no use: a gemm leaves these out.
    fn load_and_pack(&mut self, step: &LoadStep) -> Result<usize, Fault> {
        let env = env(self.launch, self.block, &self.work.vars);
        let level = self.launch.level;
        let next = step.next.as_deref();
        let Some((next, packed)) = next.and_then(|next| Some((next, next.packed.as_ref()?))) else {
            return load(&step.transfer, level, &env, self.arena, None);
        };
        let words = &mut self.packed[packed.words.clone()];
        let packing = Packing {
            version: self.work.versions[packed.tile],
            columns: next.acc.cols,
            depth: next.depth,
            a_col: 0,
        };
        let pairs = Pairs::new(words, [next.b_col, packing.columns], packing.depth);
        let rows = load(&step.transfer, level, &env, self.arena, Some(pairs))?;
        self.work.packings[packed.product] = Some(packing).filter(|packing| rows == packing.depth);
        Ok(rows)
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
        let [m, n] = acc.shape();
        let mut sizes = Sizes { m, n, k: depth };
        let whole = sizes;
        let b_rows = match self.launch.poison {
            true => usize::MAX,
            false => self.present(&step.b_present),
        };
        if !self.launch.poison {
            sizes.m = sizes.m.min(self.present(&step.a_present));
            match layout {
                BLayout::Nk => sizes.n = sizes.n.min(b_rows),
                BLayout::Kn => sizes.k = sizes.k.min(b_rows),
            }
        }
        let fresh = match step.begins {
            Some(tile) if sizes == whole => std::mem::take(&mut self.work.blank[tile]),
            Some(tile) => {
                self.settle(acc, tile);
                false
            }
            None => false,
        };
        // a and b may be one tile, acc is another: acc's part of the arena is cut out.
        let (before, rest) = self.arena.split_at_mut(acc.start);
        let (to, after) = rest.split_at_mut(acc.len);
        let part = |slot: Slot| match slot.start.checked_sub(acc.start + acc.len) {
            Some(start) => &after[start..start + slot.len],
            None => &before[slot.range()],
        };
        let transposed = acc.transposed;
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
        let plane = |slot: Slot, plane: usize, col: usize| Halves {
            data: &bytemuck::cast_slice(part(slot))[plane * slot.plane() + col..],
            stride: slot.stride,
        };
        let operand = |col: usize| Operand {
            tile: plane(b, 0, col),
            lent: step
                .b_borrowed
                .map(|tile| lent(self.launch.tensors, &self.work.borrowed[tile], col)),
        };
        let packing = Packing {
            version: self.work.versions[packed.tile],
            columns: match packed.side {
                Side::A => sizes.m,
                Side::B => sizes.n,
                Side::Neither => 0,
            },
            depth: sizes.k,
            a_col,
        };
        let before = self.work.packings[packed.product].replace(packing);
        let next = step
            .next
            .as_deref()
            .and_then(|next| Some((next, next.packed.as_ref()?)));
        // No two gemms have words in common, so both borrows are there.
        let next_words = next.map_or(0..0, |(_, packed)| packed.words.clone());
        let Ok([words, next_words]) = self.packed.get_disjoint_mut([packed.words.clone(), next_words]) else {
            return Ok(());
        };
        let stale = before != Some(packing);
        let beside = next.and_then(|(next, packed)| {
            let packing = Packing {
                version: self.work.versions[packed.tile],
                columns: next.acc.cols,
                depth: next.depth.min(b_rows),
                a_col: 0,
            };
            let before = self.work.packings[packed.product].replace(packing);
            Some((next.b_col, packing)).filter(|_| before != Some(packing))
        });
        if b.elements == Elements::Pieces {
            let planes = |slot, col| [0, 1, 2].map(|i| plane(slot, i, col));
            let (of_a, of_b) = (planes(a, a_col), planes(b, b_col));
            if stale {
                split::pack(packed.side, sizes, of_a, of_b, layout, words);
            }
            split::gemm(
                sizes,
                split::Sums { acc, fresh },
                of_a,
                of_b,
                layout,
                packed.side,
                words,
            );
            return Ok(());
        }
        let (a, b) = (plane(a, 0, a_col), operand(b_col));
        if stale {
            bf16::pack(packed.side, sizes, a, b, layout, words);
        }
        let fetch = match next {
            Some(_) => Fetch::NONE,
            None => {
                let share = self.work.ahead.share(step.fetches());
                Fetch::new(lent(self.launch.tensors, &self.work.ahead.rows, 0), share)
            }
        };
        let sums = Sums {
            acc,
            transposed,
            fresh,
            beside: beside.map(|(col, packing)| Beside {
                b: operand(col),
                n: packing.columns,
                k: packing.depth,
                words: next_words,
            }),
            fetch,
        };
        bf16::gemm(level, sizes, sums, a, b, packed.side, words);
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

/// The rows that were left in device memory, from column `col` on.
fn lent<'a>(tensors: &'a [Bound<'a>], borrowed: &'a Borrowed, col: usize) -> Lent<'a> {
    let data: &[u16] = match tensors.get(borrowed.tensor) {
        // Buffers are aligned, and a bf16 tensor's elements whole.
        Some(Bound::Read(bytes)) => bytemuck::try_cast_slice(&bytes[..bytes.len() & !1]).unwrap_or_default(),
        _ => &[],
    };
    Lent {
        memory: Halves {
            data: data.get(col..).unwrap_or_default(),
            stride: borrowed.stride,
        },
        groups: &borrowed.groups,
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
