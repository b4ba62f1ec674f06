//! Scalar expressions, parameters and variables.

use super::Cx;
use super::fragment::let_stmt;
use crate::thread::{self, Expr, Intrinsic, ParamTy, Ty};
use crate::tile::{self, Binary, ParamKind, TileId, Unary, VarId};
use mlafuse_tensor::DType;

/// Lanes of a warp.
const WARP: usize = 32;
/// The loop in which the lanes of a warp go through values in turns.
const TURN: &str = "warps_turn";

/// What stands for the leaves that only a map has.
pub(super) struct Element<'a> {
    pub row: Expr,
    pub col: Expr,
    pub tile: &'a dyn Fn(TileId) -> Expr,
}

/// The parameter as a thread sees it.
pub(super) fn param(param: &tile::Param) -> thread::Param {
    let ty = match param.kind {
        ParamKind::Tensor { dtype, access, .. } => ParamTy::Pointer {
            dtype,
            written: access == tile::Access::Write,
        },
        ParamKind::Scalar(symbol) if symbol.is_stride() => ParamTy::I64,
        ParamKind::Scalar(_) => ParamTy::I32,
    };
    thread::Param {
        name: param.name.clone(),
        ty,
    }
}

impl Cx<'_> {
    /// An expression that is the same for the whole block.
    pub(super) fn scalar(&self, e: &tile::Expr) -> Expr {
        self.expr(e, None)
    }

    /// An expression that is the same for a whole row of a view.
    pub(super) fn of_row(&self, e: &tile::Expr, row: Expr) -> Expr {
        let element = Element {
            row,
            col: Expr::Int(0),
            tile: &|_| unreachable!("a verified program has tiles in maps only"),
        };
        self.expr(e, Some(&element))
    }

    /// The declaration of a scalar variable.
    pub(super) fn let_scalar(&self, var: VarId, value: &tile::Expr) -> thread::Stmt {
        thread::Stmt::Let {
            ty: self.ty(value),
            name: self.var_name(var).to_string(),
            value: self.scalar(value),
        }
    }

    /// The declaration of a sum: each warp adds up all values, each lane every 32nd, so that no barrier is needed.
    pub(super) fn sum(&self, var: VarId, index: VarId, count: &tile::Expr, value: &tile::Expr) -> Vec<thread::Stmt> {
        let (index, count) = (self.var_name(index), self.scalar(count));
        let of_lane = format!("lane_of_{}", self.var_name(var));
        let sum = || Expr::register(&of_lane, Expr::Int(0));
        let set = |value: Expr| thread::Stmt::Set {
            name: of_lane.clone(),
            at: Expr::Int(0),
            value,
        };
        let body = vec![
            let_stmt(Ty::I32, index, Expr::name(TURN) * WARP + Expr::name("lane")),
            thread::Stmt::If {
                cond: Expr::name(index).lt(count.clone()),
                body: vec![set(sum() + self.scalar(value))],
            },
        ];
        vec![
            thread::Stmt::Array {
                ty: Ty::I32,
                name: of_lane.clone(),
                len: 1,
            },
            set(Expr::Int(0)),
            thread::Stmt::For {
                var: TURN.to_string(),
                start: Expr::Int(0),
                end: (count + (WARP - 1)) / WARP,
                unroll: 4,
                body,
            },
            let_stmt(Ty::I32, self.var_name(var), Expr::call(Intrinsic::WarpSum, [sum()])),
        ]
    }

    pub(super) fn var_name(&self, var: VarId) -> &str {
        &self.program.vars[var.0]
    }

    /// An expression at one element of a map.
    pub(super) fn expr(&self, e: &tile::Expr, at: Option<&Element>) -> Expr {
        use tile::Expr as T;
        match e {
            T::Int(n) => Expr::Int(*n),
            T::Float(x) => Expr::Float(*x),
            T::Param(p) => Expr::name(&self.program.param(*p).name),
            T::Var(v) => Expr::name(self.var_name(*v)),
            T::Block(axis) => Expr::Block(*axis),
            T::Load(p, index) => Expr::Global(self.program.param(*p).name.clone(), Box::new(self.expr(index, at))),
            T::Unary(op, a) => unary(*op, self.expr(a, at)),
            T::Binary(op, a, b) => {
                let op = binary(*op, self.ty(a) == Ty::F32);
                Expr::binary(op, self.expr(a, at), self.expr(b, at))
            }
            T::Select(c, a, b) => self.expr(c, at).select(self.expr(a, at), self.expr(b, at)),
            T::Tile(_) | T::Row | T::Col => match (e, at) {
                (T::Tile(t), Some(at)) => (at.tile)(*t),
                (T::Row, Some(at)) => at.row.clone(),
                (_, Some(at)) => at.col.clone(),
                (_, None) => unreachable!("a verified program has rows, columns and tiles in maps only"),
            },
        }
    }

    /// The type of a tile expression on a GPU.
    fn ty(&self, e: &tile::Expr) -> Ty {
        use tile::Expr as T;
        match e {
            T::Int(_) | T::Block(_) | T::Row | T::Col => Ty::I32,
            T::Float(_) | T::Tile(_) => Ty::F32,
            T::Load(p, _) => match self.program.tensor_dtype(*p) {
                Some(DType::F32) => Ty::F32,
                _ => Ty::I32,
            },
            T::Param(p) => match param(self.program.param(*p)).ty {
                ParamTy::I64 => Ty::I64,
                _ => Ty::I32,
            },
            T::Var(v) => self
                .let_value(&self.program.body, *v)
                .map_or(Ty::I32, |value| self.ty(value)),
            T::Unary(Unary::Wide, _) => Ty::I64,
            T::Unary(..) => Ty::F32,
            T::Binary(Binary::Lt | Binary::Le | Binary::Eq | Binary::And, ..) => Ty::Bool,
            T::Binary(_, a, b) | T::Select(_, a, b) => match (self.ty(a), self.ty(b)) {
                (Ty::I64, _) | (_, Ty::I64) => Ty::I64,
                (ty, _) => ty,
            },
        }
    }

    /// What `var` is bound to by `let`; `None` for a loop's variable.
    fn let_value<'a>(&self, body: &'a [tile::Stmt], var: VarId) -> Option<&'a tile::Expr> {
        body.iter().find_map(|stmt| match stmt {
            tile::Stmt::Let { var: v, value } if *v == var => Some(value),
            tile::Stmt::For { body, .. } | tile::Stmt::If { body, .. } => self.let_value(body, var),
            _ => None,
        })
    }
}

fn unary(op: Unary, a: Expr) -> Expr {
    match op {
        Unary::Wide => a.cast(Ty::I64),
        Unary::ToFloat => a.cast(Ty::F32),
        Unary::Exp2 => Expr::call(Intrinsic::Exp2, [a]),
        Unary::Log2 => Expr::call(Intrinsic::Log2, [a]),
        Unary::Rsqrt => Expr::call(Intrinsic::Rsqrt, [a]),
    }
}

fn binary(op: Binary, float: bool) -> thread::Binary {
    use thread::Binary as B;
    match (op, float) {
        (Binary::Add, _) => B::Add,
        (Binary::Sub, _) => B::Sub,
        (Binary::Mul, _) => B::Mul,
        (Binary::Div, _) => B::Div,
        (Binary::Rem, _) => B::Rem,
        (Binary::Min, true) => B::FMin,
        (Binary::Max, true) => B::FMax,
        (Binary::Min, false) => B::Min,
        (Binary::Max, false) => B::Max,
        (Binary::Lt, _) => B::Lt,
        (Binary::Le, _) => B::Le,
        (Binary::Eq, _) => B::Eq,
        (Binary::And, _) => B::And,
    }
}
