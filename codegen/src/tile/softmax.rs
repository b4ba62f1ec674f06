//! The step of an online softmax as one op, for backends to which a pass over the scores for each part of it is dear.

use super::{Expr, ReduceOp, Stmt, TileId};

/// What a tile of scores \[m, n\] does to a softmax in base 2 that takes in one tile after another (FlashAttention, arXiv
/// 2205.14135).
///
/// It means [`Softmax::expansion`]; afterwards `scores`, `max_before` and `base` are as if never written. No tile has two
/// parts in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax {
    /// Fragment.
    pub scores: TileId,
    /// What they are multiplied by.
    pub scale: f32,
    /// The key that the first column belongs to.
    pub first: Expr,
    /// Row vector: each row sees the keys before this one, a float.
    pub visible: TileId,
    /// Row vector: the largest scaled score so far.
    pub max: TileId,
    /// Row partial: the sum of the weights so far.
    pub sum: TileId,
    /// Row vector: becomes what sums up to here are to be multiplied by.
    pub decay: TileId,
    /// Shared \[m, n\]: becomes the weights.
    pub weights: TileId,
    /// Row vector of the expansion's: `max` as it was.
    pub max_before: TileId,
    /// Row vector of the expansion's: `max`, but 0 where it is -inf.
    pub base: TileId,
}

impl Softmax {
    /// The tiles, each once.
    pub fn tiles(&self) -> [TileId; 8] {
        let Softmax {
            scores,
            visible,
            max,
            sum,
            decay,
            weights,
            max_before,
            base,
            ..
        } = *self;
        [scores, visible, max, sum, decay, weights, max_before, base]
    }

    /// Whether it leaves `tile` as if never written.
    pub fn uses_up(&self, tile: TileId) -> bool {
        [self.scores, self.max_before, self.base].contains(&tile)
    }

    /// The same in other ops.
    pub fn expansion(&self) -> Vec<Stmt> {
        let [scores, visible, max, sum, decay, weights, max_before, base] = self.tiles();
        let key = (self.first.clone() + Expr::Col).to_float();
        let scaled = Expr::from(scores) * self.scale;
        let map = |dst, value| Stmt::Map { dst, value };
        vec![
            map(scores, key.lt(visible).select(scaled, f32::NEG_INFINITY)),
            map(max_before, max.into()),
            Stmt::Reduce {
                op: ReduceOp::Max,
                dst: max,
                src: scores,
            },
            map(base, Expr::from(max).equals(f32::NEG_INFINITY).select(0.0f32, max)),
            map(decay, (Expr::from(max_before) - base).exp2()),
            map(scores, (Expr::from(scores) - base).exp2()),
            map(sum, Expr::from(sum) * decay),
            Stmt::Reduce {
                op: ReduceOp::Sum,
                dst: sum,
                src: scores,
            },
            Stmt::Stage {
                dst: weights,
                src: scores,
            },
        ]
    }
}
