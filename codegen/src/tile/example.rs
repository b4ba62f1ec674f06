//! A small attention over a paged cache, for tests: each statement stands in it at least once.
//!
//! It is shaped like the real kernel but simpler: the angles come one row of a table for each row of q, and the rotated
//! columns stand first.

use super::{
    Access, Axis, BLayout, Columns, Expr, Form, Pairing, Param, ParamId, ParamKind, ReduceOp, Rows, Space, Stmt, Tile,
    TileId, TileProgram, VarId, View,
};
use mlafuse_ir::plan::BufferId;
use mlafuse_ir::size::Symbol;
use mlafuse_tensor::DType;

pub(super) const Q: ParamId = ParamId(0);
pub(super) const CACHE: ParamId = ParamId(1);
pub(super) const BLOCK_TABLE: ParamId = ParamId(2);
pub(super) const KV_LEN: ParamId = ParamId(3);
pub(super) const COS: ParamId = ParamId(4);
pub(super) const SIN: ParamId = ParamId(5);
pub(super) const OUT: ParamId = ParamId(6);
pub(super) const T: ParamId = ParamId(7);
pub(super) const B: ParamId = ParamId(8);
pub(super) const P: ParamId = ParamId(9);
pub(super) const R: ParamId = ParamId(10);
pub(super) const G: ParamId = ParamId(11);

pub(super) const Q_RAW: TileId = TileId(0);
pub(super) const COS_S: TileId = TileId(1);
pub(super) const SIN_S: TileId = TileId(2);
pub(super) const Q_ROT: TileId = TileId(3);
pub(super) const Q_S: TileId = TileId(4);
pub(super) const KV: TileId = TileId(5);
pub(super) const S: TileId = TileId(6);
pub(super) const PROB: TileId = TileId(7);
pub(super) const O: TileId = TileId(8);
pub(super) const LIMIT: TileId = TileId(9);
pub(super) const M: TileId = TileId(10);
pub(super) const M_OLD: TileId = TileId(11);
pub(super) const ALPHA: TileId = TileId(12);
pub(super) const PART: TileId = TileId(13);
pub(super) const L: TileId = TileId(14);

pub(super) const LEN: VarId = VarId(0);
pub(super) const TILE: VarId = VarId(1);
pub(super) const TOTAL: VarId = VarId(2);
pub(super) const SEQUENCE: VarId = VarId(3);

const HEADS: usize = 4;

/// Positions in the body of [`attention`].
pub(super) mod at {
    pub(in crate::tile) const IF: usize = 2;
    pub(in crate::tile) const LOAD_Q: usize = 3;
    pub(in crate::tile) const ROTATE: usize = 7;
    pub(in crate::tile) const STAGE_Q: usize = 8;
    pub(in crate::tile) const FILL_PART: usize = 11;
    pub(in crate::tile) const FOR: usize = 12;
    pub(in crate::tile) const FINISH: usize = 13;
    pub(in crate::tile) const STORE: usize = 15;
    pub(in crate::tile) const TOTAL: usize = 16;
    // Within the loop.
    pub(in crate::tile) const LOAD_KV: usize = 0;
    pub(in crate::tile) const GEMM_S: usize = 2;
    pub(in crate::tile) const MAP_S: usize = 3;
    pub(in crate::tile) const MAX: usize = 5;
    pub(in crate::tile) const SCALE_PART: usize = 7;
    pub(in crate::tile) const SUM: usize = 10;
    pub(in crate::tile) const GEMM_O: usize = 12;
}

/// 4 heads, d_latent 32, d_rope 16; 16 rows (token × head) a block, 16 cached tokens a tile.
pub(crate) fn attention() -> TileProgram {
    let (rows, tokens, d_latent, d_rope) = (16, 16, 32, 16);
    let d = d_latent + d_rope;
    TileProgram {
        name: "mla_tiny".to_string(),
        doc: vec!["softmax(q · kᵀ) · v over each sequence's pages".to_string()],
        params: params(),
        grid: [(Expr::from(T) * HEADS).ceil_div(rows), B.into(), 1.into()],
        tiles: vec![
            shared("q_raw", DType::BF16, rows, d),
            shared("cos_s", DType::F32, rows, d_rope / 2),
            shared("sin_s", DType::F32, rows, d_rope / 2),
            fragment("q_rot", rows, d),
            shared("q_s", DType::BF16, rows, d),
            shared("kv", DType::BF16, tokens, d),
            fragment("s", rows, tokens),
            shared("p", DType::BF16, rows, tokens),
            fragment("o", rows, d_latent),
            vector("limit", rows, Form::RowVector),
            vector("m", rows, Form::RowVector),
            vector("m_old", rows, Form::RowVector),
            vector("alpha", rows, Form::RowVector),
            vector("part", rows, Form::RowPartial),
            vector("l", rows, Form::RowVector),
        ],
        vars: ["len", "t", "total", "b"].map(str::to_string).into(),
        body: body(rows, tokens, d_latent, d_rope),
    }
}

fn params() -> Vec<Param> {
    vec![
        tensor("q", DType::BF16, Access::Read),
        tensor("cache", DType::BF16, Access::Read),
        tensor("block_table", DType::I32, Access::Read),
        tensor("kv_len", DType::I32, Access::Read),
        tensor("cos", DType::F32, Access::Read),
        tensor("sin", DType::F32, Access::Read),
        tensor("out", DType::BF16, Access::Write),
        Param {
            name: "T".to_string(),
            kind: ParamKind::Scalar(Symbol::T),
        },
        Param {
            name: "B".to_string(),
            kind: ParamKind::Scalar(Symbol::B),
        },
        Param {
            name: "entries".to_string(),
            kind: ParamKind::Scalar(Symbol::P),
        },
        Param {
            name: "R".to_string(),
            kind: ParamKind::Scalar(Symbol::R),
        },
        Param {
            name: "G".to_string(),
            kind: ParamKind::Scalar(Symbol::G),
        },
    ]
}

fn body(rows: usize, tokens: usize, d_latent: usize, d_rope: usize) -> Vec<Stmt> {
    let (d, len) = (d_latent + d_rope, Expr::Var(LEN));
    vec![
        Stmt::Comment("Sequences without tokens have no output.".to_string()),
        Stmt::Let {
            var: LEN,
            value: Expr::Load(KV_LEN, Box::new(Expr::Block(Axis::Y))),
        },
        Stmt::If {
            cond: len.clone().le(0),
            body: vec![Stmt::Return],
        },
        load(Q_RAW, d, rows_of(Q, d, rows)),
        load(COS_S, d_rope / 2, rows_of(COS, d_rope / 2, rows)),
        load(SIN_S, d_rope / 2, rows_of(SIN, d_rope / 2, rows)),
        load(LIMIT, 1, length_of_every_row(rows)),
        Stmt::Rotate {
            dst: Q_ROT,
            src: Q_RAW,
            cos: COS_S,
            sin: SIN_S,
            pairing: Pairing::Interleaved,
            d: d_rope,
        },
        Stmt::Stage { dst: Q_S, src: Q_ROT },
        Stmt::Fill { dst: O, value: 0.0 },
        Stmt::Fill { dst: M, value: -1e30 },
        Stmt::Fill { dst: PART, value: 0.0 },
        Stmt::For {
            var: TILE,
            start: 0.into(),
            end: len.ceil_div(tokens),
            pipelined: true,
            body: step(tokens, d, d_latent),
        },
        Stmt::Finish { dst: L, src: PART },
        Stmt::Map {
            dst: O,
            value: Expr::Tile(O) / Expr::Tile(L).max(1e-30f32),
        },
        Stmt::Store {
            dst: View {
                mask: Some(LIMIT),
                ..rows_of(OUT, d_latent, rows)
            },
            src: O,
            cols: 0..d_latent,
        },
        Stmt::Sum {
            var: TOTAL,
            index: SEQUENCE,
            count: B.into(),
            value: Expr::Load(KV_LEN, Box::new(SEQUENCE.into())),
        },
    ]
}

/// The loop over the cached tokens: online softmax.
fn step(tokens: usize, d: usize, d_latent: usize) -> Vec<Stmt> {
    let (s, m, key) = (Expr::Tile(S), Expr::Tile(M), Expr::Var(TILE) * tokens + Expr::Col);
    let visible = key.to_float().lt(LIMIT);
    vec![
        load(KV, d, cached_rows(tokens, d)),
        Stmt::Fill { dst: S, value: 0.0 },
        Stmt::Gemm {
            acc: S,
            a: Q_S,
            a_start: 0.into(),
            b: KV,
            layout: BLayout::Nk,
            b_cols: 0..d,
        },
        Stmt::Map {
            dst: S,
            value: visible.select(s.clone() * 0.125f32, f32::NEG_INFINITY),
        },
        Stmt::Map {
            dst: M_OLD,
            value: m.clone(),
        },
        Stmt::Reduce {
            op: ReduceOp::Max,
            dst: M,
            src: S,
        },
        Stmt::Map {
            dst: ALPHA,
            value: (Expr::Tile(M_OLD) - m.clone()).exp2(),
        },
        Stmt::Map {
            dst: PART,
            value: Expr::Tile(PART) * ALPHA,
        },
        Stmt::Map {
            dst: O,
            value: Expr::Tile(O) * ALPHA,
        },
        Stmt::Map {
            dst: S,
            value: (s - m).exp2(),
        },
        Stmt::Reduce {
            op: ReduceOp::Sum,
            dst: PART,
            src: S,
        },
        Stmt::Stage { dst: PROB, src: S },
        Stmt::Gemm {
            acc: O,
            a: PROB,
            a_start: 0.into(),
            b: KV,
            layout: BLayout::Kn,
            b_cols: 0..d_latent,
        },
    ]
}

fn tensor(name: &str, dtype: DType, access: Access) -> Param {
    Param {
        name: name.to_string(),
        kind: ParamKind::Tensor {
            dtype,
            access,
            buffer: BufferId(0),
        },
    }
}

pub(super) fn shared(name: &str, dtype: DType, rows: usize, cols: usize) -> Tile {
    Tile {
        name: name.to_string(),
        dtype,
        rows,
        cols,
        space: Space::Shared,
        form: Form::Matrix,
    }
}

pub(super) fn fragment(name: &str, rows: usize, cols: usize) -> Tile {
    Tile {
        name: name.to_string(),
        dtype: DType::F32,
        rows,
        cols,
        space: Space::Fragment,
        form: Form::Matrix,
    }
}

fn vector(name: &str, rows: usize, form: Form) -> Tile {
    Tile {
        name: name.to_string(),
        dtype: DType::F32,
        rows,
        cols: 1,
        space: Space::Fragment,
        form,
    }
}

fn load(dst: TileId, cols: usize, src: View) -> Stmt {
    let cols: Columns = 0..cols;
    Stmt::Load { dst, cols, src }
}

/// This block's rows of a matrix \[B, T * HEADS, width\].
fn rows_of(param: ParamId, width: usize, rows: usize) -> View {
    let limit = Expr::from(T) * HEADS;
    View {
        param,
        offset: Expr::Block(Axis::Y) * limit.clone() * width,
        rows: Rows::Strided {
            start: Expr::Block(Axis::X) * rows,
            stride: width.into(),
            limit,
        },
        col_start: 0.into(),
        col_limit: width.into(),
        col_stride: 1.into(),
        align: 8,
        mask: None,
    }
}

/// The sequence's length, repeated.
fn length_of_every_row(rows: usize) -> View {
    View {
        offset: Expr::Block(Axis::Y),
        rows: Rows::Strided {
            start: 0.into(),
            stride: 0.into(),
            limit: rows.into(),
        },
        align: 1,
        ..rows_of(KV_LEN, 1, rows)
    }
}

/// Tile `t` of the cached tokens.
fn cached_rows(tokens: usize, d: usize) -> View {
    View {
        param: CACHE,
        offset: 0.into(),
        rows: Rows::Paged {
            start: Expr::Var(TILE) * tokens,
            limit: LEN.into(),
            table: BLOCK_TABLE,
            table_offset: Expr::Block(Axis::Y) * P,
            page_size: 64,
            page_stride: G.into(),
            row_stride: R.into(),
        },
        col_start: 0.into(),
        col_limit: d.into(),
        col_stride: 1.into(),
        align: 8,
        mask: None,
    }
}
