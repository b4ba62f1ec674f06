//! How a tile program is cut into blocks, warps and pipeline stages.

use std::fmt;
use std::str::FromStr;

/// Rows and columns of one product of the tensor core.
const TENSOR_CORE: [usize; 2] = [16, 8];

/// The choices of one kernel. Every value is legal by construction where it comes from [`crate::build`]'s candidates.
///
/// Text, in `Display` and `FromStr` alike: `block 64x32x128, warps 2x4, stages 3`, without the third size of the block where
/// that is 0; `block 8x32x128 transposed, warps 1x2x4, stages 3` where gemms are transposed and warps share the depth out.
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

/// A text that is no [`Schedule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("schedule \"{found}\": expected a text such as \"block 64x32x128, warps 2x4, stages 3\"")]
pub struct UnknownSchedule {
    /// The text.
    pub found: String,
}

impl FromStr for Schedule {
    type Err = UnknownSchedule;

    fn from_str(text: &str) -> Result<Schedule, UnknownSchedule> {
        parse(text).ok_or_else(|| UnknownSchedule {
            found: text.to_string(),
        })
    }
}

fn parse(text: &str) -> Option<Schedule> {
    let (block, rest) = text.strip_prefix("block ")?.split_once(", warps ")?;
    let (warps, stages) = rest.split_once(", stages ")?;
    let (sizes, transposed) = match block.strip_suffix(" transposed") {
        Some(sizes) => (sizes, true),
        None => (block, false),
    };
    let (block_m, block_n, block_k) = match *numbers(sizes)?.as_slice() {
        [m, n] => (m, n, 0),
        [m, n, k] => (m, n, k),
        _ => return None,
    };
    let (warps_m, warps_n, warps_k) = match *numbers(warps)?.as_slice() {
        [m, n] => (m, n, 1),
        [m, n, k] if k > 1 => (m, n, k),
        _ => return None,
    };
    let [stages] = *numbers(stages)?.as_slice() else {
        return None;
    };
    Some(Schedule {
        block_m,
        block_n,
        block_k,
        warps_m,
        warps_n,
        warps_k,
        transposed,
        stages,
    })
}

/// Positive numbers in digits, with an `x` between each two.
fn numbers(text: &str) -> Option<Vec<usize>> {
    let number = |digits: &str| {
        let plain = digits.starts_with(|first: char| ('1'..='9').contains(&first));
        digits.parse().ok().filter(|_| plain)
    };
    text.split('x').map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn texts_are_read_back(
            sizes in proptest::array::uniform7(1usize..1 << 40),
            whole in any::<bool>(),
            transposed in any::<bool>(),
        ) {
            let [block_m, block_n, block_k, warps_m, warps_n, warps_k, stages] = sizes;
            let block_k = if whole { block_k } else { 0 };
            let warps_k = warps_k.saturating_sub(1 << 39).max(1);
            let schedule = Schedule { block_m, block_n, block_k, warps_m, warps_n, warps_k, transposed, stages };
            prop_assert_eq!(schedule.to_string().parse(), Ok(schedule));
        }

        #[test]
        fn no_text_is_read_otherwise(text in "(block )?[0-9x, a-s-]{0,40}") {
            if let Ok(schedule) = text.parse::<Schedule>() {
                prop_assert_eq!(schedule.to_string(), text);
            }
        }
    }

    #[test]
    fn texts_that_are_no_schedule_are_refused() {
        for text in [
            "",
            "block 64, warps 2x4, stages 3",
            "block 64x32x128x1, warps 2x4, stages 3",
            "block 64x32x0, warps 2x4, stages 3",
            "block 64x+32, warps 2x4, stages 3",
            "block 64x32, warps 2x4, stages 99999999999999999999",
            "block 64x32, warps 2x4, stages 3 ",
            "block 64x32, warps 2x4x1, stages 3",
            "block 64x32  transposed, warps 2x4, stages 3",
        ] {
            let error = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("schedule \"{text}\": expected")), "{error}");
        }
    }
}
