//! Scratch memory of one thread: the tiles of the block it runs, registers for expressions, a packing buffer.

use std::cell::Cell;
use std::ops::Range;

use crate::expr::Registers;
use crate::gemm::bf16::{Ahead, ROWS};
use crate::gemm::split::PIECES;
use crate::lines::{Line, Lines};
use crate::view::Place;

/// f32 past the end of every slot, so that a vector that starts inside a row may be read whole.
const SLACK: usize = 64;

/// What a slot holds of each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elements {
    /// An f32.
    Floats,
    /// A bf16's bits, two in each f32's place.
    Halves,
    /// The bits of the three bf16s that an f32 is the sum of, in a plane of such halves each.
    Pieces,
}

impl Elements {
    /// Planes of halves.
    pub(crate) fn planes(self) -> usize {
        match self {
            Elements::Floats => 0,
            Elements::Halves => 1,
            Elements::Pieces => PIECES,
        }
    }
}

/// The place of a tile in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// First element.
    pub(crate) start: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Elements from one row to the next: 1 for vectors.
    pub(crate) stride: usize,
    /// f32 of the arena, padding and slack included.
    pub(crate) len: usize,
    pub(crate) elements: Elements,
    /// It holds the transpose of the tile: rows and columns here are the other way round.
    pub(crate) transposed: bool,
}

impl Slot {
    /// The slot of a tile at `start`. Rows of matrices are whole cache lines, and never a multiple of 512 bytes apart, so
    /// that walking down a column does not stay in few cache sets. There are whole multiples of ROWS, so that a tile of an
    /// AMX register may hang over the last.
    pub(crate) fn new(start: usize, rows: usize, cols: usize, vector: bool) -> Option<Slot> {
        let stride = match (vector, cols.checked_next_multiple_of(16)?) {
            (true, _) => 1,
            (false, padded) if padded.is_multiple_of(128) => padded.checked_add(16)?,
            (false, padded) => padded,
        };
        let all_rows = if vector {
            rows
        } else {
            rows.checked_next_multiple_of(ROWS)?
        };
        let len = all_rows
            .checked_mul(stride)?
            .checked_add(SLACK)?
            .checked_next_multiple_of(16)?;
        Some(Slot {
            start,
            rows,
            cols,
            stride,
            len,
            elements: Elements::Floats,
            transposed: false,
        })
    }

    /// The slot of the transpose of a matrix of `rows` × `cols`.
    pub(crate) fn of_transpose(start: usize, rows: usize, cols: usize) -> Option<Slot> {
        Some(Slot {
            transposed: true,
            ..Slot::new(start, cols, rows, false)?
        })
    }

    /// The slot of a matrix of halves or pieces at `start`: rows are whole cache lines, as above.
    pub(crate) fn of_halves(start: usize, rows: usize, cols: usize, elements: Elements) -> Option<Slot> {
        let stride = match cols.checked_next_multiple_of(32)? {
            padded if padded.is_multiple_of(256) => padded.checked_add(32)?,
            padded => padded,
        };
        let plane = rows.checked_next_multiple_of(ROWS)?.checked_mul(stride)?;
        let halves = plane.checked_mul(elements.planes())?;
        Some(Slot {
            start,
            rows,
            cols,
            stride,
            len: (halves / 2).checked_add(SLACK)?,
            elements,
            transposed: false,
        })
    }

    /// Rows and columns of the tile.
    pub(crate) fn shape(&self) -> [usize; 2] {
        match self.transposed {
            true => [self.cols, self.rows],
            false => [self.rows, self.cols],
        }
    }

    /// Halves from one plane to the next.
    pub(crate) fn plane(&self) -> usize {
        self.rows.next_multiple_of(ROWS) * self.stride
    }

    /// All its elements.
    pub(crate) fn range(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    /// The elements `cols` of row `row`.
    pub(crate) fn row(&self, row: usize, cols: Range<usize>) -> Range<usize> {
        let start = self.start + row * self.stride;
        start + cols.start..start + cols.end
    }
}

/// What a kernel needs of a thread.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Needs {
    /// f32 of all tiles.
    pub(crate) arena: usize,
    pub(crate) vars: usize,
    /// Counters of present rows.
    pub(crate) present: usize,
    /// Registers of the largest map, and their length.
    pub(crate) floats: usize,
    pub(crate) ints: usize,
    pub(crate) masks: usize,
    pub(crate) scalars: usize,
    pub(crate) line: usize,
    /// f32 of a packed panel group of a gemm.
    pub(crate) panel: usize,
    /// Words of the packed operands of the gemms of halves and pieces.
    pub(crate) packed: usize,
    /// Tiles.
    pub(crate) tiles: usize,
    /// Loads to tiles.
    pub(crate) loads: usize,
    /// Gemms of halves and pieces.
    pub(crate) products: usize,
}

/// Scratch of one thread; grows to what the largest kernel so far needs.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    memory: Lines,
    work: Work,
}

/// What a kernel has of a thread's scratch.
pub(crate) struct Parts<'a> {
    /// The tiles, 64-byte aligned.
    pub(crate) arena: &'a mut [f32],
    /// The packed operands of the gemms of halves and pieces; a row of a packed tile is a line.
    pub(crate) packed: &'a mut [u32],
    pub(crate) work: &'a mut Work,
}

/// The parts of the scratch beside the tiles.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) vars: Vec<i64>,
    pub(crate) present: Vec<usize>,
    pub(crate) registers: Registers,
    pub(crate) panel: Vec<f32>,
    /// By tile: whether it is zeros that are not written yet.
    pub(crate) blank: Vec<bool>,
    /// By tile: how often it has been written.
    pub(crate) versions: Vec<u64>,
    /// By gemm of halves or pieces: what it has packed.
    pub(crate) packings: Vec<Option<Packing>>,
    /// By load: what it brought last and how many rows of it are there, where its columns of the tile have that still.
    pub(crate) loaded: Vec<Option<(Place, usize)>>,
    /// By tile: what its last load left in device memory.
    pub(crate) borrowed: Vec<Borrowed>,
    /// What the next round of the innermost loop will leave there.
    pub(crate) ahead: Ahead,
    /// The load that finds there what it is about to leave.
    pub(crate) ready: Option<usize>,
}

/// The rows of a tile that a load left where they lie, in groups of [`ROWS`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Borrowed {
    /// The tensor.
    pub(crate) tensor: usize,
    /// Elements from one row to the next.
    pub(crate) stride: usize,
    /// By group: its first element; none where the rows were copied to the tile.
    pub(crate) groups: Vec<Option<usize>>,
}

/// What a packed operand was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packing {
    /// The tile's version.
    pub(crate) version: u64,
    pub(crate) columns: usize,
    pub(crate) depth: usize,
    /// First column of a.
    pub(crate) a_col: usize,
}

impl Work {
    /// Forgets what tiles and packed operands hold: another kernel has others there.
    pub(crate) fn begin(&mut self) {
        self.packings.fill(None);
        self.loaded.fill(None);
    }
}

impl Scratch {
    /// The parts for a kernel with these needs.
    pub(crate) fn fit(&mut self, needs: &Needs) -> Parts<'_> {
        let lines = |words: usize| (words * size_of::<u32>()).div_ceil(Line::BYTES);
        let (arena, packed) = (lines(needs.arena), lines(needs.packed));
        if self.memory.len() < arena + packed {
            self.memory = Lines::spread(arena + packed);
        }
        grow(&mut self.work.vars, needs.vars, 0);
        grow(&mut self.work.present, needs.present, 0);
        grow(&mut self.work.panel, needs.panel, 0.0);
        grow(&mut self.work.blank, needs.tiles, false);
        grow(&mut self.work.versions, needs.tiles, 0);
        grow(&mut self.work.packings, needs.products, None);
        grow(&mut self.work.loaded, needs.loads, None);
        grow(&mut self.work.borrowed, needs.tiles, Borrowed::default());
        self.work.registers.fit(needs);
        let (arena, packed) = self.memory[..arena + packed].split_at_mut(arena);
        Parts {
            arena: bytemuck::cast_slice_mut(arena),
            packed: bytemuck::cast_slice_mut(packed),
            work: &mut self.work,
        }
    }
}

/// Makes `vec` at least `len` long; what it held is lost then.
pub(crate) fn grow<T: Clone>(vec: &mut Vec<T>, len: usize, value: T) {
    if vec.len() < len {
        *vec = vec![value; len];
    }
}

thread_local! {
    static SCRATCH: Cell<Option<Scratch>> = const { Cell::new(None) };
}

/// Runs `work` with this thread's scratch.
pub(crate) fn with_scratch<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    let mut scratch = SCRATCH.take().unwrap_or_default();
    let result = work(&mut scratch);
    SCRATCH.set(Some(scratch));
    result
}
