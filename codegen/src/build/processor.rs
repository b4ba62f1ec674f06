//! What schedules for the CPU follow from, and how it cuts contractions.

use mlafuse_tensor::DType;

/// A processor, as far as its schedules depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Threads that blocks are shared out to.
    pub threads: usize,
    /// Bytes of a core's second-level cache.
    pub second_level: usize,
    /// Rows of bf16 weights are multiplied where they lie, if they are whole cache lines, with nothing made of them first.
    pub streams_bf16: bool,
}

/// What a block of attention holds a row or a key of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AttentionWidths {
    /// Bytes that an element is kept in.
    pub size: usize,
    /// Columns of a key, and of a query.
    pub key: usize,
    /// Columns of a value.
    pub value: usize,
}

impl AttentionWidths {
    /// Bytes of a block: queries and keys, scores and weights, the values' packed form and their sums.
    fn bytes(&self, rows: usize, keys: usize) -> usize {
        let AttentionWidths { size, key, value } = *self;
        size * key * (rows + keys) + (4 + size) * rows * keys + value * (size * keys + 4 * rows)
    }
}

/// Elements of a cache line.
const LINE: usize = 32;
/// Rows that are few: their operand's packed form is small, and each column of the other is used once.
const FEW: usize = 32;
/// Blocks for each thread where a block's work is a stream of weights, so that no thread waits long for the last.
const BLOCKS: usize = 32;
/// Rows, columns and depth of a large block whose operands are copied: they and the sums are what a second-level cache holds.
const WIDE: usize = 256;
/// The deepest step whose columns are packed at once.
const DEEP: usize = 4096;

impl Processor {
    /// One of which nothing is known.
    pub const PLAIN: Processor = Processor {
        threads: 1,
        second_level: 1 << 20,
        streams_bf16: false,
    };

    /// Rows and keys of the blocks of attention with so many rows: what a second-level cache holds. Rows first, for which keys
    /// are read and values packed once.
    pub(super) fn attention(&self, rows: usize, widths: AttentionWidths) -> [usize; 2] {
        let blocks = [128, 64, 32, 16].map(|block| [256, 128, 64].map(|keys| [rows.min(block), keys]));
        let fits = |&[rows, keys]: &[usize; 2]| widths.bytes(rows, keys) <= self.second_level;
        blocks.into_iter().flatten().find(fits).unwrap_or([rows.min(16), 64])
    }

    /// Rows, columns and depth of the blocks of a contraction with so many, of operands of this type.
    pub(super) fn contraction(&self, dtype: DType, [m, n, k]: [usize; 3]) -> [usize; 3] {
        if !self.streams_bf16 || dtype != DType::BF16 || !k.is_multiple_of(LINE) {
            // Both are copied: the larger a block, the less often, as long as there are blocks for all threads.
            let all = m.div_ceil(WIDE).saturating_mul(n.div_ceil(WIDE));
            let side = if m > FEW && all >= self.threads.saturating_mul(4) {
                WIDE
            } else {
                WIDE / 4
            };
            return [m.min(side), n.min(side), k.min(WIDE)];
        }
        if m <= FEW {
            // Whole rows of weights, which then arrive as long streams.
            let columns = n.div_ceil(BLOCKS * self.threads.max(1)).next_multiple_of(16);
            return [m, columns.min(256).min(n), k];
        }
        let depth = if k <= DEEP { k } else { DEEP / 2 };
        // The packed columns that a block keeps, of two bytes an element, are half of the cache.
        let columns = (self.second_level / 4 / depth).clamp(64, 256) / 16 * 16;
        [m.min(128), columns.min(n), depth]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_attention_fit_the_cache() {
        let widths = |size| AttentionWidths {
            size,
            key: 576,
            value: 512,
        };
        let of = |second_level, rows, size| {
            let processor = Processor {
                second_level,
                ..Processor::PLAIN
            };
            processor.attention(rows, widths(size))
        };
        assert_eq!([2, 6].map(|size| of(2 << 20, 128, size)), [[128, 256], [128, 128]]);
        assert_eq!((of(1 << 20, 4096, 2), of(256 << 10, 128, 2)), ([128, 128], [32, 64]));
        assert_eq!(
            (of(2 << 20, 20, 2), of(0, 128, 2), of(0, 1, 4)),
            ([20, 256], [16, 64], [1, 64])
        );
    }

    #[test]
    fn few_rows_take_whole_rows_of_weights() {
        let processor = |threads| Processor {
            threads,
            streams_bf16: true,
            ..Processor::PLAIN
        };
        assert_eq!(processor(2).contraction(DType::BF16, [1, 7168, 16384]), [1, 112, 16384]);
        assert_eq!(processor(64).contraction(DType::BF16, [4, 7168, 16384]), [4, 16, 16384]);
        assert_eq!(processor(1).contraction(DType::BF16, [1, 576, 2048]), [1, 32, 2048]);
        assert_eq!(processor(1).contraction(DType::BF16, [3, 7, 64]), [3, 7, 64]);
    }

    #[test]
    fn many_rows_pack_what_a_cache_holds() {
        let processor = Processor {
            threads: 2,
            streams_bf16: true,
            second_level: 2 << 20,
        };
        assert_eq!(processor.contraction(DType::BF16, [2048, 3072, 2048]), [128, 256, 2048]);
        assert_eq!(
            processor.contraction(DType::BF16, [2048, 7168, 16384]),
            [128, 256, 2048]
        );
        assert_eq!(processor.contraction(DType::BF16, [40, 40, 64]), [40, 40, 64]);
    }

    #[test]
    fn depths_that_are_no_lines_are_cut() {
        let processor = Processor {
            threads: 2,
            streams_bf16: true,
            ..Processor::PLAIN
        };
        assert_eq!(processor.contraction(DType::BF16, [1, 7168, 1000]), [1, 64, 256]);
        assert_eq!(processor.contraction(DType::F32, [1, 7168, 2048]), [1, 64, 256]);
        assert_eq!(Processor::PLAIN.contraction(DType::BF16, [1, 7168, 2048]), [1, 64, 256]);
        assert_eq!(
            Processor::PLAIN.contraction(DType::BF16, [2048, 576, 2048]),
            [256, 256, 256]
        );
        assert_eq!(
            Processor::PLAIN.contraction(DType::BF16, [300, 200, 2048]),
            [64, 64, 256]
        );
    }
}
