//! How a tile program is cut into blocks, warps and pipeline stages.

use std::fmt;

/// Rows and columns of one product of the tensor core.
const TENSOR_CORE: [usize; 2] = [16, 8];

/// The choices of one kernel. Every value is legal by construction where it comes from [`crate::build`]'s candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Schedule {
    /// Rows of the block: heads × tokens of attention, rows of a contraction, rows of a row-wise kernel.
    pub block_m: usize,
    /// Columns of the block: cached tokens of attention, columns of a contraction, columns at a time of a row-wise kernel.
    pub block_n: usize,
    /// Depth of one step of a contraction; 0 where nothing is stepped over.
    pub block_k: usize,
    /// Warps along the rows of a fragment.
    pub warps_m: usize,
    /// Warps along the columns of a fragment.
    pub warps_n: usize,
    /// Warps that share out the depth of a product and sum up what each has, where the kernel has such sums; a power of two.
    pub warps_k: usize,
    /// Whether gemms compute their transpose: the columns, of which a contraction of few rows has many more, are then the 16
    /// of the tensor core's 16 × 8.
    pub transposed: bool,
    /// Copies of each pipelined shared tile, and splits whose parts a combine loads at a time; 1 loads and waits.
    pub stages: usize,
}

impl Schedule {
    /// Threads of a block.
    pub fn threads(&self) -> usize {
        32 * self.warps()
    }

    /// Warps of a block.
    pub fn warps(&self) -> usize {
        self.warps_m * self.warps_n * self.warps_k
    }

    /// Rows and columns of the pieces that the tensor core makes of a fragment.
    pub fn tensor_tile(&self) -> [usize; 2] {
        let [m, n] = TENSOR_CORE;
        if self.transposed { [n, m] } else { [m, n] }
    }

    /// How many of the warps along the depth share out `rows` rows of what is no part of a sum; the others hold copies.
    pub(crate) fn row_shares(&self, rows: usize) -> usize {
        let pieces = rows / (self.tensor_tile()[0] * self.warps_m);
        1 << (pieces | self.warps_k).trailing_zeros()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}x{}", self.block_m, self.block_n)?;
        if self.block_k > 0 {
            write!(f, "x{}", self.block_k)?;
        }
        if self.transposed {
            write!(f, " transposed")?;
        }
        write!(f, ", warps {}x{}", self.warps_m, self.warps_n)?;
        if self.warps_k > 1 {
            write!(f, "x{}", self.warps_k)?;
        }
        write!(f, ", stages {}", self.stages)
    }
}
