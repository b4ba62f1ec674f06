//! Matrix products on tensor cores, or in f32 by fused multiply-add.

use super::fragment::{RowSlot, counted, let_stmt, unrolled};
use super::sync::{Kind, Op};
use super::{Cx, LowerError};
use crate::layout::{CHUNK_BYTES, FragmentLayout};
use crate::thread::{Expr, Intrinsic, Stmt, Ty};
use crate::tile::{self, BLayout, Columns, Form, TileId};
use mlafuse_tensor::DType;

/// How often the loop over the depth is unrolled: eight 16-byte chunks, the period of the swizzle.
const DEPTH_UNROLL: u32 = 4;

/// Depth of one tensor-core product of 16-bit elements.
const DEPTH: usize = 16;

/// The operands of one gemm.
struct Gemm<'a> {
    acc: TileId,
    a: TileId,
    /// First column of a that is used.
    a_start: Expr,
    b: TileId,
    layout: BLayout,
    b_cols: &'a Columns,
    depth: usize,
    /// Warps that share out the depth, a product of the tensor core at a time.
    warps_k: usize,
    tiles_m: usize,
    tiles_n: usize,
    dtype: DType,
}

impl Gemm<'_> {
    /// Where a warp's first product begins, as row and chunk of a and of b. Warps that share out the depth take its products
    /// in turns.
    fn starts(&self, [a_row, a_chunk]: [Expr; 2], [b_row, b_chunk]: [Expr; 2]) -> Vec<Stmt> {
        let before = |each: usize| match self.warps_k {
            1 => Expr::Int(0),
            _ => Expr::name("warp_k") * each,
        };
        let (b_row, b_chunk) = match self.layout {
            BLayout::Nk => (b_row, b_chunk + before(2)),
            BLayout::Kn => (b_row + before(DEPTH), b_chunk),
        };
        vec![
            let_stmt(Ty::I32, "a_row", a_row),
            let_stmt(Ty::I32, "a_chunk", a_chunk + before(2)),
            let_stmt(Ty::I32, "b_row", b_row),
            let_stmt(Ty::I32, "b_chunk", b_chunk),
        ]
    }

    /// What lies between a warp's first product and that of step k, where one product is `each` deep.
    fn step(&self, each: usize) -> Expr {
        Expr::name("k") * (each * self.warps_k)
    }

    /// The loop over the warp's products, of which `body` is one.
    fn over_depth(&self, body: Vec<Stmt>) -> Stmt {
        let count = self.depth / DEPTH / self.warps_k;
        counted("k", count, DEPTH_UNROLL.min(count as u32), body)
    }
}

impl Cx<'_> {
    /// Tensor cores eat 16 × 16 and 16 × 8 pieces: the shared tiles must hold whole ones.
    pub(super) fn check_operands(&self) -> Result<(), LowerError> {
        self.check_operands_in(&self.program.body)
    }

    fn check_operands_in(&self, body: &[tile::Stmt]) -> Result<(), LowerError> {
        for stmt in body {
            match stmt {
                tile::Stmt::For { body, .. } | tile::Stmt::If { body, .. } => self.check_operands_in(body)?,
                tile::Stmt::Gemm {
                    acc,
                    a,
                    a_start,
                    b,
                    layout,
                    b_cols,
                } => {
                    let depth = layout.depth(self.program.tile(*b), b_cols);
                    self.multiple(*a, "columns in use", depth, DEPTH * self.warps_k(*acc))?;
                    self.multiple(*b, "columns before the first in use", b_cols.start, 8)?;
                    self.check_start(*a, a_start)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// `ldmatrix` reads whole chunks.
    fn check_start(&self, a: TileId, start: &tile::Expr) -> Result<(), LowerError> {
        let layout = self.shared.placed(a).layout;
        let multiple = layout.chunk_elems();
        if layout.dtype == DType::F32 || self.scalar(start).divided(multiple as i64).is_some() {
            return Ok(());
        }
        Err(LowerError::Start {
            kernel: self.program.name.clone(),
            tile: self.tile_name(a).to_string(),
            start: tile::expr_text(self.program, start),
            multiple,
        })
    }

    fn multiple(&self, tile: TileId, what: &'static str, found: usize, multiple: usize) -> Result<(), LowerError> {
        match found.is_multiple_of(multiple) {
            true => Ok(()),
            false => Err(LowerError::Operand {
                kernel: self.program.name.clone(),
                tile: self.tile_name(tile).to_string(),
                what,
                found,
                multiple,
            }),
        }
    }

    /// Warps that share out the depth of a product into `acc`.
    fn warps_k(&self, acc: TileId) -> usize {
        match self.program.tile(acc).form {
            Form::MatrixPartial => self.schedule.warps_k,
            _ => 1,
        }
    }

    pub(super) fn gemm(&self, [acc, a, b]: [TileId; 3], a_start: &tile::Expr, layout: BLayout, b_cols: &Columns) -> Op {
        let (transposed, tiles_m, tiles_n) = match self.fragments.layout(acc) {
            FragmentLayout::Mma { tiles_m, tiles_n, .. } => (false, tiles_m, tiles_n),
            FragmentLayout::MmaTransposed { tiles_m, tiles_n, .. } => (true, tiles_m, tiles_n),
            FragmentLayout::Rows { .. } => unreachable!("a program with a gemm has fragments as the tensor core has"),
        };
        let dtype = self.program.tile(a).dtype;
        let gemm = Gemm {
            acc,
            a,
            a_start: self.scalar(a_start),
            b,
            layout,
            b_cols,
            depth: layout.depth(self.program.tile(b), b_cols),
            warps_k: self.warps_k(acc),
            tiles_m,
            tiles_n,
            dtype,
        };
        let stmts = match (dtype, transposed) {
            (DType::F32, _) => self.multiply_add(&gemm),
            (_, false) => self.tensor_core(&gemm),
            (_, true) => self.tensor_core_transposed(&gemm),
        };
        Op {
            comment: None,
            stmts,
            accesses: vec![self.access(a, Kind::Read), self.access(b, Kind::Read)],
        }
    }

    /// One `mma.m16n8k16` after another over the depth.
    fn tensor_core(&self, gemm: &Gemm) -> Vec<Stmt> {
        let lane = || Expr::name("lane");
        // ldmatrix: lane l gives the address of row l mod 8 of matrix l / 8.
        let a_row = self.warp_m(gemm.acc) * (16 * gemm.tiles_m) + lane().bit_and(15);
        let (b_row, b_chunk) = match gemm.layout {
            BLayout::Nk => (
                Expr::name("warp_n") * (8 * gemm.tiles_n) + lane().bit_and(7) + lane().shift_right(4) * 8,
                lane().shift_right(3).bit_and(1),
            ),
            BLayout::Kn => (
                lane().bit_and(15),
                Expr::name("warp_n") * gemm.tiles_n + lane().shift_right(4),
            ),
        };
        let mut out = gemm.starts([a_row, lane().shift_right(4)], [b_row, b_chunk]);
        let mut body = vec![array("a_regs", gemm.tiles_m * 4)];
        body.extend(unrolled("mt", gemm.tiles_m, |mt| {
            let address = self.a_address(gemm, mt.clone() * 16);
            vec![load_matrix(Intrinsic::LoadMatrix4, "a_regs", mt * 4, address)]
        }));
        body.push(array("b_regs", 4));
        let product = |mt: &Expr, nt: Expr, b_at: i64| {
            let acc = (mt.clone() * gemm.tiles_n + nt) * 4;
            self.mma(gemm, acc, ("a_regs", mt.clone() * 4), ("b_regs", Expr::Int(b_at)))
        };
        let pairs = gemm.tiles_n / 2;
        if pairs > 0 {
            body.extend(unrolled("np", pairs, |np| {
                let mut inner = vec![self.load_b(gemm, np.clone() * 2, true)];
                inner.extend(unrolled("mt", gemm.tiles_m, |mt| {
                    vec![product(&mt, np.clone() * 2, 0), product(&mt, np * 2 + 1, 2)]
                }));
                inner
            }));
        }
        if gemm.tiles_n % 2 == 1 {
            let last = || Expr::from(gemm.tiles_n - 1);
            body.push(self.load_b(gemm, last(), false));
            body.extend(unrolled("mt", gemm.tiles_m, |mt| vec![product(&mt, last(), 0)]));
        }
        out.push(gemm.over_depth(body));
        out
    }

    /// The transposed product: b is the side of 16 rows, a that of 8 columns.
    fn tensor_core_transposed(&self, gemm: &Gemm) -> Vec<Stmt> {
        let lane = || Expr::name("lane");
        let (b_row, b_chunk) = match gemm.layout {
            BLayout::Nk => (
                Expr::name("warp_n") * (16 * gemm.tiles_n) + lane().bit_and(15),
                lane().shift_right(4),
            ),
            BLayout::Kn => (
                lane().bit_and(7) + lane().shift_right(4) * 8,
                Expr::name("warp_n") * (2 * gemm.tiles_n) + lane().shift_right(3).bit_and(1),
            ),
        };
        let a_row = self.warp_m(gemm.acc) * (8 * gemm.tiles_m) + lane().bit_and(7);
        // Two tiles are read at once where there are two.
        let a_row = match gemm.tiles_m {
            1 => a_row,
            _ => a_row + lane().shift_right(4) * 8,
        };
        let mut out = gemm.starts([a_row, lane().shift_right(3).bit_and(1)], [b_row, b_chunk]);
        let mut body = vec![array("a_regs", gemm.tiles_m * 2)];
        let load_a = |intrinsic, mt: Expr| {
            let address = self.a_address(gemm, mt.clone() * 8);
            load_matrix(intrinsic, "a_regs", mt * 2, address)
        };
        if gemm.tiles_m > 1 {
            body.extend(unrolled("mp", gemm.tiles_m / 2, |mp| {
                vec![load_a(Intrinsic::LoadMatrix4, mp * 2)]
            }));
        }
        if gemm.tiles_m % 2 == 1 {
            body.push(load_a(Intrinsic::LoadMatrix2, (gemm.tiles_m - 1).into()));
        }
        body.push(array("b_regs", 4));
        body.extend(unrolled("nt", gemm.tiles_n, |nt| {
            let (address, intrinsic) = match gemm.layout {
                BLayout::Nk => (self.b_address(gemm, nt.clone() * 16, 0.into()), Intrinsic::LoadMatrix4),
                BLayout::Kn => (
                    self.b_address(gemm, 0.into(), nt.clone() * 2),
                    Intrinsic::LoadMatrix4Transposed,
                ),
            };
            let mut inner = vec![load_matrix(intrinsic, "b_regs", 0.into(), address)];
            inner.extend(unrolled("mt", gemm.tiles_m, |mt| {
                let acc = (mt.clone() * gemm.tiles_n + nt) * 4;
                vec![self.mma(gemm, acc, ("b_regs", 0.into()), ("a_regs", mt * 2))]
            }));
            inner
        }));
        out.push(gemm.over_depth(body));
        out
    }

    /// What `ldmatrix` reads of a in step k, `rows` below the first.
    fn a_address(&self, gemm: &Gemm, rows: Expr) -> Expr {
        // a_chunk is below what k is multiplied by, a power of two: XOR for + lets the part that varies with k be a constant.
        let chunk = gemm.step(2).xor(Expr::name("a_chunk"));
        let low = Expr::name("lane").bit_and(7);
        let (base, first) = self.first_chunk(gemm);
        self.chunk_address(gemm.a, base, Expr::name("a_row") + rows, &low, chunk + first)
    }

    /// What `ldmatrix` reads of b in step k, so many rows (Nk) or chunks (Kn) beyond the first.
    fn b_address(&self, gemm: &Gemm, rows: Expr, chunks: Expr) -> Expr {
        let low = Expr::name("lane").bit_and(7);
        let (row, chunk) = match gemm.layout {
            BLayout::Nk => (Expr::name("b_row") + rows, gemm.step(2).xor(Expr::name("b_chunk"))),
            BLayout::Kn => (Expr::name("b_row") + gemm.step(DEPTH), Expr::name("b_chunk") + chunks),
        };
        self.chunk_address(gemm.b, self.tile_base(gemm.b), row, &low, chunk + gemm.b_cols.start / 8)
    }

    /// Where the columns of a that are used begin: an address, and chunks after it. A start that leaves alone the bits of
    /// the chunk index that are swizzled is the address's, so that what varies with k stays a constant.
    fn first_chunk(&self, gemm: &Gemm) -> (Expr, Expr) {
        let layout = self.shared.placed(gemm.a).layout;
        let base = self.tile_base(gemm.a);
        let per_chunk = layout.chunk_elems() as i64;
        match gemm.a_start.divided(per_chunk << layout.swizzle_bits()) {
            Some(periods) => (base + periods * (CHUNK_BYTES << layout.swizzle_bits()), Expr::Int(0)),
            None => (base, gemm.a_start.clone() / per_chunk as usize),
        }
    }

    /// The b registers of n-tile `nt` and, where `pair`, the next.
    fn load_b(&self, gemm: &Gemm, nt: Expr, pair: bool) -> Stmt {
        let (address, transposed) = match gemm.layout {
            BLayout::Nk => (self.b_address(gemm, nt * 8, 0.into()), false),
            BLayout::Kn => (self.b_address(gemm, 0.into(), nt), true),
        };
        let intrinsic = match (pair, transposed) {
            (true, false) => Intrinsic::LoadMatrix4,
            (true, true) => Intrinsic::LoadMatrix4Transposed,
            (false, false) => Intrinsic::LoadMatrix2,
            (false, true) => Intrinsic::LoadMatrix2Transposed,
        };
        load_matrix(intrinsic, "b_regs", 0.into(), address)
    }

    /// One product: the accumulators at `acc`, the registers of the side of 16 and those of the side of 8.
    fn mma(&self, gemm: &Gemm, acc: Expr, (rows, rows_at): (&str, Expr), (cols, cols_at): (&str, Expr)) -> Stmt {
        let array = |name: &str| Expr::Array(name.to_string());
        Stmt::Do {
            intrinsic: Intrinsic::Mma(gemm.dtype),
            args: vec![
                array(self.tile_name(gemm.acc)),
                acc,
                array(rows),
                rows_at,
                array(cols),
                cols_at,
            ],
        }
    }

    /// f32: every thread sums the elements it holds, in the order of the depth.
    fn multiply_add(&self, gemm: &Gemm) -> Vec<Stmt> {
        let k = || match gemm.warps_k {
            1 => Expr::name("k"),
            warps => Expr::name("k") * warps + Expr::name("warp_k"),
        };
        let name = self.tile_name(gemm.acc);
        let row_work = |slot: &RowSlot| {
            let mut inner = vec![let_stmt(
                Ty::F32,
                "a_value",
                self.load_element(gemm.a, slot.row.clone(), &slot.row_low, k() + gemm.a_start.clone()),
            )];
            inner.extend(self.each_col(gemm.acc, slot, |element| {
                let (row, col) = match gemm.layout {
                    BLayout::Nk => (element.col.clone(), k() + gemm.b_cols.start),
                    BLayout::Kn => (k(), element.col.clone() + gemm.b_cols.start),
                };
                let b = self.load_element(gemm.b, row.clone(), &row.bit_and(7), col);
                let at = || element.register.clone();
                let value = Expr::register(name, at()) + Expr::name("a_value") * b;
                vec![Stmt::Set {
                    name: name.to_string(),
                    at: at(),
                    value,
                }]
            }));
            inner
        };
        vec![counted(
            "k",
            gemm.depth / gemm.warps_k,
            1,
            self.each_row(gemm.acc, row_work),
        )]
    }
}

fn array(name: &str, len: usize) -> Stmt {
    Stmt::Array {
        ty: Ty::U32,
        name: name.to_string(),
        len,
    }
}

fn load_matrix(intrinsic: Intrinsic, registers: &str, at: Expr, address: Expr) -> Stmt {
    Stmt::Do {
        intrinsic,
        args: vec![Expr::Array(registers.to_string()), at, address],
    }
}
