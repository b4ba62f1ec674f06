//! Products of bf16 tiles with AMX.
//!
//! Tile registers 0 to 3 are sums, 4 and 5 rows of one operand as it lies, 6 and 7 packed columns of the other. The
//! compiler never uses them, so that inline assembly has them to itself; each thread configures them once.
//!
//! A block of sums is up to four tiles. It is stored, and the next loaded, between the instructions of the next block's
//! first step, so that these do not wait for the last of the block before.

mod setup;
mod shape;
pub(in crate::gemm) mod tile;

use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

pub(crate) use setup::{configure, is_available};
use shape::Shape;

use super::super::{Acc, Sizes};
use super::pack::{Columns, transposed as transposed_tile};
use super::{Fetch, Halves, K_STEP, Operand, Packed, ROWS};

/// acc \[m, n\] = rows of a · packed b, plus what it was unless `fresh`.
pub(super) fn straight<'a>(sizes: Sizes, acc: Acc<'a>, a: Halves<'a>, b: Packed<'a>, fresh: bool, fetch: Fetch<'a>) {
    let Sizes { m, n, .. } = sizes;
    product([m, n], acc, Operand { tile: a, lent: None }, b, fresh, None, fetch);
}

/// accᵀ \[n, m\] = rows of b · packed a, plus what it was unless `fresh`.
/// Meanwhile `beside` is packed.
pub(super) fn turned<'a>(
    sizes: Sizes,
    acc: Acc<'a>,
    b: Operand<'a>,
    a: Packed<'a>,
    fresh: bool,
    beside: Option<Columns<'a>>,
    fetch: Fetch<'a>,
) {
    let Sizes { m, n, .. } = sizes;
    product([n, m], acc, b, a, fresh, beside, fetch);
}

/// acc \[m, n\] += (rows of b · packed a)ᵀ.
pub(super) fn transposed(sizes: Sizes, acc: Acc<'_>, b: Operand<'_>, a: Packed<'_>) {
    let Sizes { m, n, .. } = sizes;
    let (rows, columns) = (n.div_ceil(ROWS), m.div_ceil(ROWS));
    check(b, rows, a, columns);
    assert!(acc.data.len() >= (m - 1) * acc.stride + rows * ROWS);
    configure();
    let mut sums = [0.0f32; 4 * ROWS * ROWS];
    for column in (0..columns).step_by(2) {
        for row in (0..rows).step_by(2) {
            let (r, c) = ((rows - row).min(2), (columns - column).min(2));
            let to = Acc {
                data: &mut sums,
                stride: 2 * ROWS,
            };
            let mut run = Run::new(b, a, to, true);
            let places = [(0, 0), (0, 1), (1, 0), (1, 1)];
            let there = || places.into_iter().filter(|&(i, j)| i < r && j < c);
            match (r, c) {
                (2, 2) => run.block(Shape::TwoByTwo, [row, column], [0, 0], 0..a.steps()),
                _ => there().for_each(|(i, j)| run.block(Shape::One, [row + i, column + j], [i, j], 0..a.steps())),
            }
            run.end();
            for (i, j) in there() {
                let first = (column + j) * ROWS;
                let to = &mut acc.data[first * acc.stride + (row + i) * ROWS..];
                let from = &sums[i * ROWS * 2 * ROWS + j * ROWS..];
                // SAFETY: AMX implies AVX-512; acc has rows up to m and whole tiles of columns, `sums` a whole tile.
                unsafe { add_transposed(from, to, acc.stride, (m - first).min(ROWS)) };
            }
        }
    }
}

fn check(x: Operand<'_>, rows: usize, p: Packed<'_>, columns: usize) {
    assert!(p.pairs > 0 && (2 * p.pairs).is_multiple_of(K_STEP));
    for group in (0..rows).map(|row| x.group(row)) {
        assert!(group.data.len() >= (ROWS - 1) * group.stride + 2 * p.pairs);
    }
    assert!(p.words.len() >= columns * p.pairs * ROWS);
}

/// The first `rows` rows of `to` += the transpose of a tile whose rows are 2 · ROWS apart.
///
/// # Safety
/// `from` has a whole tile, `to` so many rows of ROWS.
#[target_feature(enable = "avx512f")]
unsafe fn add_transposed(from: &[f32], to: &mut [f32], stride: usize, rows: usize) {
    let mut tile = [_mm512_setzero_si512(); ROWS];
    for (i, row) in tile.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *row = unsafe { _mm512_loadu_si512(from.as_ptr().add(i * 2 * ROWS).cast()) };
    }
    for (i, row) in transposed_tile(tile).into_iter().enumerate().take(rows) {
        // SAFETY: the caller's promise.
        unsafe {
            let at = to.as_mut_ptr().add(i * stride);
            _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), _mm512_castsi512_ps(row)));
        }
    }
}

/// Steps of k that a block takes at most: two tiles of rows over so many stay in the first-level cache while the columns pass
/// by, which are loaded with the hint (`t1`) to leave it alone.
const STEPS: usize = 18;

/// sums \[rows, columns\] = x · p, plus what they were unless `fresh`; meanwhile `beside` is packed and `fetch` fetched.
fn product<'a>(
    [rows, columns]: [usize; 2],
    acc: Acc<'a>,
    x: Operand<'a>,
    p: Packed<'a>,
    fresh: bool,
    beside: Option<Columns<'a>>,
    fetch: Fetch<'a>,
) {
    let (rows, columns) = (rows.div_ceil(ROWS), columns.div_ceil(ROWS));
    check(x, rows, p, columns);
    assert!(acc.data.len() >= (rows * ROWS - 1) * acc.stride + columns * ROWS);
    configure();
    let steps = p.steps();
    let pieces = steps.div_ceil(STEPS);
    let piece = steps.div_ceil(pieces);
    let mut run = Run::new(x, p, acc, fresh);
    (run.beside, run.fetch) = (beside, fetch);
    run.share_out([rows, columns]);
    for row in (0..rows - rows % 2).step_by(2) {
        for first in (0..steps).step_by(piece) {
            for column in (0..columns - columns % 2).step_by(2) {
                let at = [row, column];
                run.block(Shape::TwoByTwo, at, at, first..(first + piece).min(steps));
            }
        }
    }
    // The last column and row where their number is odd.
    if columns % 2 == 1 {
        for row in (0..rows).step_by(4) {
            run.strip(Shape::FourByOne, row..rows.min(row + 4), |row| [row, columns - 1]);
        }
    }
    if rows % 2 == 1 {
        let even = columns - columns % 2;
        for column in (0..even).step_by(4) {
            run.strip(Shape::OneByFour, column..even.min(column + 4), |column| {
                [rows - 1, column]
            });
        }
    }
    run.end();
}

/// Steps of a block between two parts of what is packed beside it: the processor works ahead that far, and does both at once.
const PAUSE: usize = 9;

/// Tiles of rows and of columns of sums from which on computing takes longer than fetching.
const LARGE: usize = 4;

/// How sums begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    Zero,
    /// With what they are.
    Load,
    /// They are in the registers.
    GoOn,
}

/// What the assembly is told of a block; the offsets there are those of the fields here.
#[repr(C)]
struct Block {
    /// Rows: their first element (0), and bytes from one to the next (32).
    x: [*const u16; 4],
    x_stride: [usize; 4],
    /// Packed columns (64).
    p: [*const u32; 4],
    /// Sums (96).
    c: [*mut f32; 4],
    /// Where the sums go that the registers hold (128), and bytes between their rows (160).
    held: [*mut f32; 4],
    held_stride: usize,
    /// Bytes between the rows of sums (168).
    stride: usize,
    /// Lines that are fetched beside each step (176).
    lines: usize,
}

/// One product's blocks of sums, one after another.
struct Run<'a> {
    x: Operand<'a>,
    p: Packed<'a>,
    sums: *mut f32,
    stride: usize,
    fresh: bool,
    block: Block,
    /// The shape of the block that the registers hold, and where its first tile goes.
    held: Option<(Shape, *mut f32)>,
    /// What is packed meanwhile, and how many pieces of it after PAUSE steps of two by two.
    beside: Option<Columns<'a>>,
    pieces: usize,
    /// What is fetched meanwhile: how many lines beside each step, and the next one, or how many lines of each group.
    fetch: Fetch<'a>,
    lines: usize,
    ahead: *const u16,
    of_each: usize,
    /// Where registers go that hold nothing.
    nowhere: [f32; ROWS * ROWS],
    borrow: PhantomData<&'a mut [f32]>,
}

/// A row tile into a register: where its pointer and its stride stand in the block.
macro_rules! rows {
    ($load:literal, $tile:literal, $at:literal, $stride:literal) => {
        concat!(
            "mov {t}, [{b} + ",
            $at,
            "]\n mov {s}, [{b} + ",
            $stride,
            "]\n add {t}, {kx}\n ",
            $load,
            " ",
            $tile,
            ", [{t} + {s}]\n"
        )
    };
}

/// A packed tile into a register.
macro_rules! packed {
    ($load:literal, $tile:literal, $at:literal) => {
        concat!(
            "mov {t}, [{b} + ",
            $at,
            "]\n add {t}, {kp}\n ",
            $load,
            " ",
            $tile,
            ", [{t} + {ps}]\n"
        )
    };
}

/// Sums that go on.
macro_rules! go_on {
    ($tile:literal, $at:literal, $held:literal) => {
        ""
    };
}

/// Puts away what a register of sums holds, and begins it at zero.
macro_rules! zero {
    ($tile:literal, $at:literal, $held:literal) => {
        concat!(
            "mov {t}, [{b} + ",
            $held,
            "]\n mov {s}, [{b} + 160]\n tilestored [{t} + {s}], ",
            $tile,
            "\n tilezero ",
            $tile,
            "\n"
        )
    };
}

/// Puts away what a register of sums holds, and begins it with what the sums are.
macro_rules! load {
    ($tile:literal, $at:literal, $held:literal) => {
        concat!(
            "mov {t}, [{b} + ",
            $held,
            "]\n mov {s}, [{b} + 160]\n tilestored [{t} + {s}], ",
            $tile,
            "\n mov {t}, [{b} + ",
            $at,
            "]\n mov {s}, [{b} + 168]\n tileloadd ",
            $tile,
            ", [{t} + {s}]\n"
        )
    };
}

macro_rules! two_by_two {
    ($begin:ident) => {
        concat!(
            rows!("tileloadd", "tmm4", 0, 32),
            packed!("tileloaddt1", "tmm6", 64),
            $begin!("tmm0", 96, 128),
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            packed!("tileloaddt1", "tmm7", 72),
            $begin!("tmm1", 104, 136),
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            rows!("tileloadd", "tmm5", 8, 40),
            $begin!("tmm2", 112, 144),
            "tdpbf16ps tmm2, tmm5, tmm6\n",
            $begin!("tmm3", 120, 152),
            "tdpbf16ps tmm3, tmm5, tmm7\n"
        )
    };
}

macro_rules! four_by_one {
    ($begin:ident) => {
        concat!(
            packed!("tileloadd", "tmm6", 64),
            rows!("tileloadd", "tmm4", 0, 32),
            $begin!("tmm0", 96, 128),
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            rows!("tileloadd", "tmm5", 8, 40),
            $begin!("tmm1", 104, 136),
            "tdpbf16ps tmm1, tmm5, tmm6\n",
            rows!("tileloadd", "tmm4", 16, 48),
            $begin!("tmm2", 112, 144),
            "tdpbf16ps tmm2, tmm4, tmm6\n",
            rows!("tileloadd", "tmm5", 24, 56),
            $begin!("tmm3", 120, 152),
            "tdpbf16ps tmm3, tmm5, tmm6\n"
        )
    };
}

macro_rules! one_by_four {
    ($begin:ident) => {
        concat!(
            rows!("tileloadd", "tmm4", 0, 32),
            packed!("tileloaddt1", "tmm6", 64),
            $begin!("tmm0", 96, 128),
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            packed!("tileloaddt1", "tmm7", 72),
            $begin!("tmm1", 104, 136),
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            packed!("tileloaddt1", "tmm6", 80),
            $begin!("tmm2", 112, 144),
            "tdpbf16ps tmm2, tmm4, tmm6\n",
            packed!("tileloaddt1", "tmm7", 88),
            $begin!("tmm3", 120, 152),
            "tdpbf16ps tmm3, tmm4, tmm7\n"
        )
    };
}

macro_rules! one {
    ($begin:ident) => {
        concat!(
            rows!("tileloadd", "tmm4", 0, 32),
            packed!("tileloadd", "tmm6", 64),
            $begin!("tmm0", 96, 128),
            "tdpbf16ps tmm0, tmm4, tmm6\n"
        )
    };
}

/// Steps of a block beside which the next block's sums are fetched: in each of them four rows of two tiles.
const FETCH_STEPS: usize = 2 * ROWS / 4;

/// A step's part of the next block's sums.
macro_rules! fetch {
    () => {
        concat!(
            "prefetcht0 [{next}]\n prefetcht0 [{next} + 64]\n add {next}, {cs}\n",
            "prefetcht0 [{next}]\n prefetcht0 [{next} + 64]\n add {next}, {cs}\n",
            "prefetcht0 [{next}]\n prefetcht0 [{next} + 64]\n add {next}, {cs}\n",
            "prefetcht0 [{next}]\n prefetcht0 [{next} + 64]\n add {next}, {cs}\n"
        )
    };
}

/// Nothing of them.
macro_rules! leave {
    () => {
        "/* {next} {cs} */"
    };
}

/// All steps of a block, from step `$first` on.
macro_rules! steps {
    ($run:ident, $shape:ident, $begin:ident, $steps:ident) => {
        steps!($run, $shape, $begin, $steps, leave)
    };
    ($run:ident, $shape:ident, $begin:ident, $steps:ident, $fetch:ident) => {
        asm!(
            $shape!($begin),
            "2:",
            $fetch!(),
            "mov {t}, [{b} + 176]",
            "test {t}, {t}",
            "jz 5f",
            "4:",
            "prefetcht1 [{ahead}]",
            "add {ahead}, 64",
            "dec {t}",
            "jnz 4b",
            "5:",
            "dec {n}",
            "jz 3f",
            "add {kx}, 64",
            "add {kp}, 1024",
            $shape!(go_on),
            "jmp 2b",
            "3:",
            next = inout(reg) $run.block.c[0].wrapping_add(2 * ROWS) => _,
            cs = in(reg) $run.block.stride,
            b = in(reg) &raw const $run.block,
            t = out(reg) _,
            s = out(reg) _,
            kx = inout(reg) 64 * $steps.start => _,
            kp = inout(reg) 1024 * $steps.start => _,
            ps = in(reg) 64usize,
            n = inout(reg) $steps.len() => _,
            ahead = inout(reg) $run.ahead,
            options(nostack),
        )
    };
}

impl<'a> Run<'a> {
    /// Of rows of x and columns of p that [`check`] has seen, and sums with room for their tiles.
    fn new(x: Operand<'a>, p: Packed<'a>, sums: Acc<'a>, fresh: bool) -> Run<'a> {
        let nobody = std::ptr::null_mut();
        Run {
            x,
            p,
            sums: sums.data.as_mut_ptr(),
            stride: sums.stride,
            fresh,
            block: Block {
                x: [std::ptr::null(); 4],
                x_stride: [0; 4],
                p: [std::ptr::null(); 4],
                c: [nobody; 4],
                held: [nobody; 4],
                held_stride: 0,
                stride: 4 * sums.stride,
                lines: 0,
            },
            held: None,
            beside: None,
            pieces: 0,
            fetch: Fetch::NONE,
            lines: 0,
            of_each: 0,
            ahead: std::ptr::null(),
            nowhere: [0.0; ROWS * ROWS],
            borrow: PhantomData,
        }
    }

    /// Shares what is done beside the product out to its steps, for this many tiles of rows and columns.
    fn share_out(&mut self, [rows, columns]: [usize; 2]) {
        let steps = (rows * columns * self.p.steps()).div_ceil(4);
        self.pieces = self
            .beside
            .as_ref()
            .map_or(0, Columns::left)
            .div_ceil((steps / PAUSE).max(1));
        (self.lines, self.of_each) = match rows.min(columns) >= LARGE {
            true => (self.fetch.total().div_ceil(steps), 0),
            false => (0, self.fetch.lines().div_ceil(steps)),
        };
    }

    /// The blocks of a strip of tiles: one where it has four, else a block each.
    fn strip(&mut self, whole: Shape, tiles: Range<usize>, place: impl Fn(usize) -> [usize; 2]) {
        let steps = 0..self.p.steps();
        if tiles.len() == 4 {
            let at = place(tiles.start);
            return self.block(whole, at, at, steps);
        }
        for at in tiles.map(place) {
            self.block(Shape::One, at, at, steps.clone());
        }
    }

    /// The sums at tile `to` (row, column) += steps of rows of x and columns of p from tile `from` on. They are stored with
    /// the next block, or at the end.
    fn block(&mut self, shape: Shape, from: [usize; 2], to: [usize; 2], steps: Range<usize>) {
        if self.held.is_some_and(|(held, _)| held != shape) {
            self.store();
        }
        let [rows, columns] = shape.tiles();
        let block = &mut self.block;
        for i in 0..rows {
            let group = self.x.group(from[0] + i);
            (block.x[i], block.x_stride[i]) = (group.data.as_ptr(), 2 * group.stride);
        }
        for j in 0..columns {
            block.p[j] = self.p.words[(from[1] + j) * self.p.pairs * ROWS..].as_ptr();
        }
        let at = self.sums.wrapping_add(to[0] * ROWS * self.stride + to[1] * ROWS);
        block.c = shape.sums(at, self.stride);
        // Not what `c` was: the processor would wait for that to be written, and so for all before it.
        (block.held, block.held_stride) = match self.held {
            Some((_, held)) => (shape.sums(held, self.stride), block.stride),
            None => ([self.nowhere.as_mut_ptr(); 4], 4 * ROWS),
        };
        self.held = Some((shape, at));
        let first = match self.fresh && steps.start == 0 {
            true => Begin::Zero,
            false => Begin::Load,
        };
        self.steps(shape, first, steps);
    }

    /// Does the steps of a block, and its part of what is done beside the product.
    fn steps(&mut self, shape: Shape, first: Begin, steps: Range<usize>) {
        let apart = match (self.pieces, self.of_each) {
            (0, 0) => steps.len(),
            (_, 0) => PAUSE,
            _ => shape.pause(),
        };
        let mut begin = first;
        for start in steps.clone().step_by(apart) {
            let end = steps.end.min(start + apart);
            self.look_ahead(end - start);
            self.some_steps(shape, begin, start..end);
            begin = Begin::GoOn;
            if let Some(beside) = &mut self.beside {
                beside.advance(self.pieces);
            }
            self.fetch.advance(self.of_each * apart);
        }
    }

    /// Decides which lines are fetched beside the next steps, one after another.
    fn look_ahead(&mut self, steps: usize) {
        (self.ahead, self.block.lines) = match self.fetch.take(self.lines * steps) {
            Some((first, _)) => (first, self.lines),
            None => (std::ptr::null(), 0),
        };
    }

    fn some_steps(&mut self, shape: Shape, begin: Begin, steps: Range<usize>) {
        // SAFETY: `new`'s callers have checked that x, p and the sums have the tiles, and the steps are p's.
        unsafe {
            match (shape, begin) {
                (Shape::TwoByTwo, Begin::Zero) => steps!(self, two_by_two, zero, steps),
                (Shape::TwoByTwo, Begin::Load) if steps.len() <= FETCH_STEPS => {
                    steps!(self, two_by_two, load, steps, fetch)
                }
                (Shape::TwoByTwo, Begin::Load) => steps!(self, two_by_two, load, steps),
                (Shape::TwoByTwo, Begin::GoOn) => steps!(self, two_by_two, go_on, steps),
                (Shape::FourByOne, Begin::Zero) => steps!(self, four_by_one, zero, steps),
                (Shape::FourByOne, Begin::Load) => steps!(self, four_by_one, load, steps),
                (Shape::FourByOne, Begin::GoOn) => steps!(self, four_by_one, go_on, steps),
                (Shape::OneByFour, Begin::Zero) => steps!(self, one_by_four, zero, steps),
                (Shape::OneByFour, Begin::Load) => steps!(self, one_by_four, load, steps),
                (Shape::OneByFour, Begin::GoOn) => steps!(self, one_by_four, go_on, steps),
                (Shape::One, Begin::Zero) => steps!(self, one, zero, steps),
                (Shape::One, Begin::Load) => steps!(self, one, load, steps),
                (Shape::One, Begin::GoOn) => steps!(self, one, go_on, steps),
            }
        }
    }

    /// Ends the product.
    fn end(&mut self) {
        self.store();
        self.pack();
    }

    /// Packs what is left.
    fn pack(&mut self) {
        if let Some(mut beside) = self.beside.take() {
            beside.finish();
        }
    }

    /// Stores what the registers hold.
    fn store(&mut self) {
        let Some((held, at)) = self.held.take() else { return };
        let (cs, [c0, c1, c2, c3]) = (self.block.stride, held.sums(at, self.stride));
        // SAFETY: the sums have the tiles of the last block.
        unsafe {
            tile::store::<0>(c0, cs);
            if held != Shape::One {
                tile::store::<1>(c1, cs);
                tile::store::<2>(c2, cs);
                tile::store::<3>(c3, cs);
            }
        }
    }
}
