//! Where the elements of a tile lie: in shared memory, and over the threads of a block.

use mlafuse_tensor::DType;

/// Bytes of one bank group: what one lane of an ldmatrix reads, and the unit that a swizzle moves.
pub const CHUNK_BYTES: usize = 16;

/// The place of a matrix in shared memory: rows of 16-byte chunks, swizzled so that any eight consecutive rows have a
/// given chunk in eight different bank groups.
///
/// A row of `chunks` = odd · 2^a chunks starts at bank group `row · chunks mod 8`, so rows 8 / 2^a apart collide; XOR-ing the
/// low `a` bits of the chunk index with the row bits that the start does not see makes all eight differ. `a` is at most 3,
/// and only the low three bits of the row take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedLayout {
    /// Rows of one stage.
    pub rows: usize,
    /// Columns, in elements.
    pub cols: usize,
    /// Element type.
    pub dtype: DType,
}

impl SharedLayout {
    /// Elements in a chunk.
    pub fn chunk_elems(&self) -> usize {
        CHUNK_BYTES / self.dtype.size_bytes()
    }

    /// Chunks in a row; a partly used last chunk counts.
    pub fn chunks(&self) -> usize {
        self.cols.div_ceil(self.chunk_elems())
    }

    /// Bytes from one row to the next.
    pub fn pitch(&self) -> usize {
        self.chunks() * CHUNK_BYTES
    }

    /// Bytes of one stage.
    pub fn bytes(&self) -> usize {
        self.rows * self.pitch()
    }

    /// How many low bits of the chunk index are swizzled.
    pub fn swizzle_bits(&self) -> u32 {
        self.chunks().trailing_zeros().min(3)
    }

    /// What the chunk index of `row` is XOR-ed with.
    pub fn swizzle(&self, row: usize) -> usize {
        let bits = self.swizzle_bits();
        (row >> (3 - bits)) & ((1 << bits) - 1)
    }

    /// Byte offset of an element within a stage.
    pub fn offset(&self, row: usize, col: usize) -> usize {
        let chunk = col / self.chunk_elems();
        let within = col % self.chunk_elems() * self.dtype.size_bytes();
        row * self.pitch() + (chunk ^ self.swizzle(row)) * CHUNK_BYTES + within
    }
}

/// How a fragment is spread over the threads of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentLayout {
    /// The accumulator of `mma.m16n8`: warps form a grid, each has `tiles_m` × `tiles_n` tiles of 16 × 8; a lane has rows
    /// lane / 4 and lane / 4 + 8, columns 2 (lane mod 4) and the next of each.
    Mma {
        /// Warps along the rows.
        warps_m: usize,
        /// Warps along the columns.
        warps_n: usize,
        /// 16-row tiles of a warp.
        tiles_m: usize,
        /// 8-column tiles of a warp.
        tiles_n: usize,
    },
    /// The same accumulator with the columns on the side of 16, for few rows: warps form a grid, each has `tiles_m` ×
    /// `tiles_n` tiles of 8 × 16; a lane has rows 2 (lane mod 4) and the next, columns lane / 4 and lane / 4 + 8 of each.
    MmaTransposed {
        /// Warps along the rows.
        warps_m: usize,
        /// Warps along the columns.
        warps_n: usize,
        /// 8-row tiles of a warp.
        tiles_m: usize,
        /// 16-column tiles of a warp.
        tiles_n: usize,
    },
    /// Each warp owns whole rows; lane l has columns l, l + 32, ...
    Rows {
        /// Warps of the block.
        warps: usize,
        /// Rows of a warp.
        rows: usize,
        /// Columns of a lane in each row.
        cols: usize,
    },
}

/// One element's place: the thread, and the index in the thread's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Thread of the block.
    pub thread: usize,
    /// Register of the thread.
    pub register: usize,
}

impl FragmentLayout {
    /// The accumulator of the tensor core, or its transpose, over a grid of warps with so many tiles each.
    pub fn mma(transposed: bool, [warps_m, warps_n]: [usize; 2], [tiles_m, tiles_n]: [usize; 2]) -> FragmentLayout {
        match transposed {
            false => FragmentLayout::Mma {
                warps_m,
                warps_n,
                tiles_m,
                tiles_n,
            },
            true => FragmentLayout::MmaTransposed {
                warps_m,
                warps_n,
                tiles_m,
                tiles_n,
            },
        }
    }

    /// Registers of a matrix in each thread.
    pub fn registers(&self) -> usize {
        match *self {
            FragmentLayout::Mma { tiles_m, tiles_n, .. } | FragmentLayout::MmaTransposed { tiles_m, tiles_n, .. } => {
                tiles_m * tiles_n * 4
            }
            FragmentLayout::Rows { rows, cols, .. } => rows * cols,
        }
    }

    /// Registers of a row vector in each thread.
    pub fn row_registers(&self) -> usize {
        match *self {
            FragmentLayout::Mma { tiles_m, .. } | FragmentLayout::MmaTransposed { tiles_m, .. } => tiles_m * 2,
            FragmentLayout::Rows { rows, .. } => rows,
        }
    }

    /// Rows of the whole matrix.
    pub fn rows(&self) -> usize {
        match *self {
            FragmentLayout::Mma { warps_m, tiles_m, .. } => warps_m * tiles_m * 16,
            FragmentLayout::MmaTransposed { warps_m, tiles_m, .. } => warps_m * tiles_m * 8,
            FragmentLayout::Rows { warps, rows, .. } => warps * rows,
        }
    }

    /// Columns of the whole matrix.
    pub fn cols(&self) -> usize {
        match *self {
            FragmentLayout::Mma { warps_n, tiles_n, .. } => warps_n * tiles_n * 8,
            FragmentLayout::MmaTransposed { warps_n, tiles_n, .. } => warps_n * tiles_n * 16,
            FragmentLayout::Rows { cols, .. } => cols * 32,
        }
    }

    /// Threads that hold it.
    pub fn threads(&self) -> usize {
        match *self {
            FragmentLayout::Mma { warps_m, warps_n, .. } | FragmentLayout::MmaTransposed { warps_m, warps_n, .. } => {
                warps_m * warps_n * 32
            }
            FragmentLayout::Rows { warps, .. } => warps * 32,
        }
    }

    /// The place of element (row, col). The definition that the lowering's index expressions are tested against.
    pub fn place(&self, row: usize, col: usize) -> Place {
        match *self {
            FragmentLayout::Mma {
                warps_n,
                tiles_m,
                tiles_n,
                ..
            } => {
                let (warp_m, in_m) = (row / (16 * tiles_m), row % (16 * tiles_m));
                let (warp_n, in_n) = (col / (8 * tiles_n), col % (8 * tiles_n));
                let lane = (in_m % 8) * 4 + (in_n % 8) / 2;
                let (tile_m, half) = (in_m / 16, in_m % 16 / 8);
                let (tile_n, odd) = (in_n / 8, in_n % 2);
                Place {
                    thread: (warp_m * warps_n + warp_n) * 32 + lane,
                    register: (tile_m * tiles_n + tile_n) * 4 + half * 2 + odd,
                }
            }
            FragmentLayout::MmaTransposed {
                warps_n,
                tiles_m,
                tiles_n,
                ..
            } => {
                let (warp_m, in_m) = (row / (8 * tiles_m), row % (8 * tiles_m));
                let (warp_n, in_n) = (col / (16 * tiles_n), col % (16 * tiles_n));
                let lane = (in_n % 8) * 4 + (in_m % 8) / 2;
                let (tile_m, odd) = (in_m / 8, in_m % 2);
                let (tile_n, half) = (in_n / 16, in_n % 16 / 8);
                Place {
                    thread: (warp_m * warps_n + warp_n) * 32 + lane,
                    register: (tile_m * tiles_n + tile_n) * 4 + half * 2 + odd,
                }
            }
            FragmentLayout::Rows { rows, cols, .. } => Place {
                thread: row / rows * 32 + col % 32,
                register: row % rows * cols + col / 32,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn dtypes() -> impl Strategy<Value = DType> {
        prop_oneof![Just(DType::BF16), Just(DType::F16), Just(DType::F32)]
    }

    fn fragments() -> impl Strategy<Value = FragmentLayout> {
        let grid = (any::<bool>(), 1..4usize, 1..5usize, 1..3usize, 1..6usize).prop_map(
            |(transposed, warps_m, warps_n, tiles_m, tiles_n)| {
                FragmentLayout::mma(transposed, [warps_m, warps_n], [tiles_m, tiles_n])
            },
        );
        let rows = (1..9usize, 1..4usize, 1..6usize).prop_map(|(warps, rows, cols)| FragmentLayout::Rows {
            warps,
            rows,
            cols,
        });
        prop_oneof![grid, rows]
    }

    proptest! {
        #[test]
        fn every_element_has_bytes_of_its_own(rows in 1..40usize, cols in 1..200usize, dtype in dtypes()) {
            let layout = SharedLayout { rows, cols, dtype };
            let size = dtype.size_bytes();
            let mut taken = BTreeSet::new();
            for (row, col) in (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c))) {
                let at = layout.offset(row, col);
                prop_assert!(at.is_multiple_of(size) && at + size <= layout.bytes());
                prop_assert!(taken.insert(at), "({row}, {col}) shares its bytes");
            }
        }

        /// The eight row addresses of each 8 × 8 matrix that ldmatrix reads fall in eight different bank groups.
        #[test]
        fn eight_rows_of_a_chunk_have_no_bank_conflict(cols in 1..1200usize, chunk in 0..300usize, row in 0..9usize, dtype in dtypes()) {
            let layout = SharedLayout { rows: 80, cols, dtype };
            let chunk = chunk % layout.chunks();
            let first = row * 8;
            let groups: BTreeSet<usize> = (first..first + 8)
                .map(|r| layout.offset(r, chunk * layout.chunk_elems()) / CHUNK_BYTES % 8)
                .collect();
            prop_assert_eq!(groups.len(), 8);
        }

        #[test]
        fn a_fragment_fills_all_registers_once(layout in fragments()) {
            let mut taken = BTreeSet::new();
            for (row, col) in (0..layout.rows()).flat_map(|r| (0..layout.cols()).map(move |c| (r, c))) {
                let place = layout.place(row, col);
                prop_assert!(place.thread < layout.threads() && place.register < layout.registers());
                prop_assert!(taken.insert(place), "({row}, {col}) shares its register");
            }
            prop_assert_eq!(taken.len(), layout.threads() * layout.registers());
        }
    }
}
