//! The online softmax of attention: it takes in one tile of keys after another and keeps, for each row, the maximum, the
//! sum and the weighted values so far (FlashAttention, arXiv 2205.14135). In base 2, with log2(e) in the scale.

use super::program::ProgramBuilder;
use crate::tile::{BLayout, Columns, Expr, Softmax, Stmt, TileId};
use mlafuse_tensor::DType;
use std::f32::consts::{LN_2, LOG2_E};

/// The tiles of one softmax.
pub(super) struct OnlineSoftmax {
    scores: TileId,
    weights: TileId,
    /// The weighted values.
    pub out: TileId,
    /// Number of keys each row sees.
    visible: TileId,
    max: TileId,
    max_before: TileId,
    /// max, but 0 where it is -inf.
    base: TileId,
    decay: TileId,
    partial_sum: TileId,
    sum: TileId,
}

/// A tile of keys, with the values that belong to them.
pub(super) struct KeyTile {
    /// The queries, shared; as wide as the keys.
    pub queries: TileId,
    /// Shared.
    pub keys: TileId,
    /// Columns of the keys' tile: all.
    pub key_cols: usize,
    /// Shared; it may be the keys' tile.
    pub values: TileId,
    /// The columns of it that are values, as many as `out` has.
    pub value_cols: Columns,
    /// The first key.
    pub first: Expr,
}

impl OnlineSoftmax {
    /// The tiles, for weights in `dtype` and values of `value_width` columns.
    pub fn declare(p: &mut ProgramBuilder, dtype: DType, value_width: usize) -> OnlineSoftmax {
        let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
        OnlineSoftmax {
            scores: p.fragment("scores_f", block_m, block_n),
            weights: p.shared("weights_s", dtype, block_m, block_n),
            out: p.fragment("out_f", block_m, value_width),
            visible: p.row_vector("visible", block_m),
            max: p.row_vector("max", block_m),
            max_before: p.row_vector("max_before", block_m),
            base: p.row_vector("base", block_m),
            decay: p.row_vector("decay", block_m),
            partial_sum: p.row_partial("partial_sum", block_m),
            sum: p.row_vector("sum", block_m),
        }
    }

    /// Nothing seen yet; each row will see the keys before `visible`, a float.
    pub fn begin(&self, visible: Expr) -> [Stmt; 4] {
        let fill = |dst, value| Stmt::Fill { dst, value };
        [
            Stmt::Map {
                dst: self.visible,
                value: visible,
            },
            fill(self.max, f32::NEG_INFINITY),
            fill(self.partial_sum, 0.0),
            fill(self.out, 0.0),
        ]
    }

    /// Takes in one tile of keys; scores are queries · keys · `scale`.
    pub fn step(&self, tile: KeyTile, scale: f64) -> Vec<Stmt> {
        let OnlineSoftmax {
            scores,
            weights,
            out,
            visible,
            max,
            max_before,
            base,
            decay,
            partial_sum,
            ..
        } = *self;
        let step = Softmax {
            scores,
            scale: scale as f32 * LOG2_E,
            first: tile.first,
            visible,
            max,
            sum: partial_sum,
            decay,
            weights,
            max_before,
            base,
        };
        vec![
            Stmt::Fill {
                dst: scores,
                value: 0.0,
            },
            Stmt::Gemm {
                acc: scores,
                a: tile.queries,
                a_start: 0.into(),
                b: tile.keys,
                layout: BLayout::Nk,
                b_cols: 0..tile.key_cols,
            },
            Stmt::Softmax(Box::new(step)),
            Stmt::Map {
                dst: out,
                value: Expr::from(out) * decay,
            },
            Stmt::Gemm {
                acc: out,
                a: weights,
                a_start: 0.into(),
                b: tile.values,
                layout: BLayout::Kn,
                b_cols: tile.value_cols,
            },
        ]
    }

    /// Puts the sums together; [`Self::divide`] is what is left to do.
    pub fn finish(&self) -> [Stmt; 2] {
        let OnlineSoftmax {
            decay,
            partial_sum,
            sum,
            ..
        } = *self;
        [
            Stmt::Finish {
                dst: sum,
                src: partial_sum,
            },
            Stmt::Map {
                dst: decay,
                value: self.saw_some().select(Expr::from(1.0f32) / sum, 0.0f32),
            },
        ]
    }

    /// After [`Self::finish`]: divides the weighted values by the sum; rows that saw no key become zeros.
    pub fn divide(&self) -> Stmt {
        Stmt::Map {
            dst: self.out,
            value: Expr::from(self.out) * self.decay,
        }
    }

    /// After [`Self::finish`]: a vector with the natural log-sum-exp of each row, -inf for those that saw no key.
    pub fn log_sum_exp(&self) -> (Stmt, TileId) {
        let lse = (Expr::from(self.max) + Expr::from(self.sum).log2()) * LN_2;
        let value = self.saw_some().select(lse, f32::NEG_INFINITY);
        (Stmt::Map { dst: self.max, value }, self.max)
    }

    /// A vector that all rows have `value` in: what stands for the log-sum-exp of a softmax over nothing.
    pub fn empty_log_sum_exp(&self, value: Expr) -> (Stmt, TileId) {
        (Stmt::Map { dst: self.sum, value }, self.sum)
    }

    fn saw_some(&self) -> Expr {
        Expr::from(0.0f32).lt(self.sum)
    }
}
