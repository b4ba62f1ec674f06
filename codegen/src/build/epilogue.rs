//! What a contraction's kernel does to its sums before they go to memory, in f32.

use super::error::BuildError;
use super::program::ProgramBuilder;
use crate::tile::{Expr, Stmt, TileId};
use mlafuse_ir::graph::{Op, ValueId};
use mlafuse_ir::plan::View;

/// The nodes after a contraction, each of the one before.
#[derive(Default)]
pub(super) struct Epilogue<'a> {
    steps: Vec<Step>,
    /// What is added: of the result's shape, or a suffix of it.
    pub bias: Option<&'a View>,
    /// What rows are multiplied with: of a prefix of the result's shape.
    pub factors: Option<&'a View>,
}

enum Step {
    Scale(f32),
    Bias,
    Factors,
}

impl<'a> Epilogue<'a> {
    pub fn new(p: &ProgramBuilder<'a>, chain: &[ValueId]) -> Result<Epilogue<'a>, BuildError> {
        let mut epilogue = Epilogue::default();
        for &value in chain {
            let node = p.node(value);
            let operand = node.args.get(1).map(|&arg| p.view(arg)).transpose()?;
            match (&node.op, operand) {
                (Op::Cast, _) => {}
                (&Op::Scale { factor }, _) => epilogue.steps.push(Step::Scale(factor as f32)),
                (Op::Add, Some(bias)) if epilogue.bias.is_none() => {
                    epilogue.bias = Some(bias);
                    epilogue.steps.push(Step::Bias);
                }
                (Op::ScaleRows, Some(factors)) if epilogue.factors.is_none() => {
                    epilogue.factors = Some(factors);
                    epilogue.steps.push(Step::Factors);
                }
                _ => {
                    let expected = "scale and cast, one add and one scale_rows";
                    return Err(p.unsupported("epilogue of a contraction", node.op.word().into(), expected));
                }
            }
        }
        Ok(epilogue)
    }

    /// The axis of the bias and that of the factors which go with axis `axis` of a result of `rank` dimensions.
    pub fn axes(&self, axis: usize, rank: usize) -> [Option<usize>; 2] {
        let bias = self.bias.and_then(|view| (axis + view.shape.len()).checked_sub(rank));
        let factors = self.factors.filter(|view| axis < view.shape.len()).map(|_| axis);
        [bias, factors]
    }

    /// Applies the steps to `acc`; `bias` is a fragment of its shape, `factors` a row vector.
    pub fn apply(&self, body: &mut Vec<Stmt>, acc: TileId, bias: Option<TileId>, factors: Option<TileId>) {
        let value = self.steps.iter().fold(Expr::from(acc), |value, step| match step {
            Step::Scale(factor) => value * *factor,
            Step::Bias => bias.into_iter().fold(value, |value, bias| value + bias),
            Step::Factors => factors.into_iter().fold(value, |value, factors| value * factors),
        });
        if value != Expr::from(acc) {
            body.push(Stmt::Map { dst: acc, value });
        }
    }
}
