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

#[cfg(test)]
mod tests {
    use super::super::example::{fragment, shared};
    use super::super::{Form, Tile, TileProgram, verify};
    use super::*;
    use mlafuse_tensor::DType;

    const STEP: usize = 4;

    /// A step on 16 × 32 scores; `change` is made to it.
    fn program(change: impl FnOnce(&mut Softmax)) -> TileProgram {
        let [scores, visible, max, sum, decay, weights, max_before, base] = std::array::from_fn(TileId);
        let vector = |name: &str, form| Tile {
            form,
            cols: 1,
            ..fragment(name, 16, 1)
        };
        let mut tiles = vec![fragment("scores", 16, 32)];
        tiles.extend(["visible", "max"].map(|name| vector(name, Form::RowVector)));
        tiles.push(vector("sum", Form::RowPartial));
        tiles.push(vector("decay", Form::RowVector));
        tiles.push(shared("weights", DType::BF16, 16, 32));
        tiles.extend(["max_before", "base"].map(|name| vector(name, Form::RowVector)));
        let mut step = Softmax {
            scores,
            scale: 0.5,
            first: 64.into(),
            visible,
            max,
            sum,
            decay,
            weights,
            max_before,
            base,
        };
        change(&mut step);
        let fills = [scores, visible, max, sum].map(|dst| Stmt::Fill { dst, value: 0.0 });
        TileProgram {
            name: "step".into(),
            doc: Vec::new(),
            params: Vec::new(),
            grid: [1, 1, 1].map(|blocks| blocks.into()),
            tiles,
            vars: Vec::new(),
            body: fills.into_iter().chain([Stmt::Softmax(Box::new(step))]).collect(),
        }
    }

    fn fault(program: &TileProgram) -> String {
        verify(program).expect_err("a fault").fault.to_string()
    }

    #[test]
    fn a_step_writes_what_it_makes_and_uses_up_the_rest() {
        let mut program = program(|_| ());
        let read = |tile| Stmt::Map {
            dst: TileId(1),
            value: Expr::Tile(TileId(tile)),
        };
        let step = &program.body[STEP];
        assert_eq!(
            super::super::stmt_text(&program, step),
            "softmax weights <- scores*0.5, keys 64.. < visible, max max, sum sum, decay decay, by way of max_before, base"
        );
        program.body.extend([2, 4].map(read));
        assert_eq!(verify(&program), Ok(()));
        for (tile, name) in [(6, "max_before"), (7, "base")] {
            let mut program = program.clone();
            program.body.push(read(tile));
            let expected = format!("columns 0..1 of `{name}` may be read before they are written");
            assert_eq!(fault(&program), expected);
        }
        let step = program.body[STEP].clone();
        program.body.push(step);
        assert_eq!(
            fault(&program),
            "columns 0..32 of `scores` may be read before they are written"
        );
    }

    #[test]
    fn a_step_is_checked_as_its_expansion() {
        let mut unwritten = program(|_| ());
        unwritten.body.remove(2);
        assert_eq!(
            fault(&unwritten),
            "columns 0..1 of `max` may be read before they are written"
        );
        assert_eq!(
            fault(&program(|step| step.base = step.max)),
            "`max` is given twice, expected different tiles"
        );
        let message = fault(&program(|step| step.weights = TileId(99)));
        assert!(message.contains("tile 99"), "{message}");
    }
}
