//! Matrix products as tile programs, for what the lowering makes of gemms.

use crate::case::{Numbers, bytes, element, half_place};
use crate::executor::Executor;
use crate::machine::{DeviceBuffer, Memory};
use half::{bf16, f16};
use mlafuse_codegen::lower::lower;
use mlafuse_codegen::schedule::Schedule;
use mlafuse_codegen::thread::ThreadProgram;
use mlafuse_codegen::tile::{
    Access, Axis, BLayout, Expr, Form, Param, ParamId, ParamKind, Rows, Space, Stmt, Tile, TileId, TileProgram, VarId,
    View,
};
use mlafuse_ir::plan::BufferId;
use mlafuse_ir::size::Dims;
use mlafuse_ir::target::Target;
use mlafuse_tensor::DType;

const A: ParamId = ParamId(0);
const B: ParamId = ParamId(1);
const OUT: ParamId = ParamId(2);

const A_S: TileId = TileId(0);
const B_S: TileId = TileId(1);
const ACC: TileId = TileId(2);
const SUM: TileId = TileId(3);

const STEP: VarId = VarId(0);

/// out \[m, n\] = a \[m, k\] · b.
#[derive(Clone, Debug)]
pub struct Product {
    /// Rows of out.
    pub m: usize,
    /// Columns of out.
    pub n: usize,
    /// What is summed over.
    pub k: usize,
    /// Type of a and b.
    pub dtype: DType,
    /// Type of out.
    pub out: DType,
    /// How b lies.
    pub layout: BLayout,
    /// Whether a block holds its rows of a whole while b streams by.
    pub resident: bool,
    /// Seeds the numbers.
    pub seed: u64,
}

/// Products of 1 to 64 rows, whose depth the warps of a block share out, with the schedule of each: sums that lie in the
/// place of the tiles or beside a tile that stays, and more warps than there are pieces of rows to add up.
pub fn few_rows() -> Vec<(Product, Schedule)> {
    let of = |(m, layout, dtype, resident, warps_k, stages)| {
        let product = Product {
            m,
            n: 40,
            k: 400,
            dtype,
            out: dtype,
            layout,
            resident,
            seed: 5,
        };
        let schedule = Schedule {
            block_m: m.next_multiple_of(8),
            block_n: 32,
            block_k: 128,
            warps_m: 1,
            warps_n: 1,
            warps_k,
            transposed: true,
            stages,
        };
        (product, schedule)
    };
    let cases = [
        (1, BLayout::Nk, DType::BF16, false, 8, 3),
        (8, BLayout::Kn, DType::F16, false, 4, 2),
        (16, BLayout::Nk, DType::BF16, true, 4, 1),
        (17, BLayout::Nk, DType::F32, false, 4, 2),
        (33, BLayout::Kn, DType::BF16, false, 2, 3),
        (64, BLayout::Nk, DType::F16, false, 8, 2),
    ];
    cases.map(of).into()
}

impl Product {
    /// Computes it on `executor` under `schedule` and compares each element with f64.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn check<E: Executor>(
        &self,
        executor: &mut E,
        schedule: &Schedule,
        target: &Target,
    ) -> Result<E::Stats, String> {
        let program = self.program(schedule);
        let threads = lower(&program, schedule, target).map_err(|error| error.to_string())?;
        self.execute(executor, &program, &threads)
            .map_err(|what| format!("{self:?}, {schedule}: {what}"))
    }

    /// Runs `threads`, which was made from `program`, and compares as [`Product::check`] does.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn execute<E: Executor>(
        &self,
        executor: &mut E,
        program: &TileProgram,
        threads: &ThreadProgram,
    ) -> Result<E::Stats, String> {
        let launch = program.launch(&Dims::new()).map_err(|error| error.to_string())?;
        let mut numbers = Numbers::new(self.seed);
        let mut draw = |count: usize| -> Vec<f64> { (0..count).map(|_| self.round(numbers.normal())).collect() };
        let (a, b) = (draw(self.m * self.k), draw(self.n * self.k));
        let out = DeviceBuffer::empty(self.m * self.n * self.out.size_bytes());
        let mut memory = Memory {
            buffers: vec![self.buffer(&a), self.buffer(&b), out],
        };
        let stats = executor.execute(threads, &launch, &mut memory)?;
        self.compare(&a, &b, &memory.buffers[OUT.0])?;
        Ok(stats)
    }

    fn compare(&self, a: &[f64], b: &[f64], out: &DeviceBuffer) -> Result<(), String> {
        let of_b = |p: usize, j: usize| match self.layout {
            BLayout::Nk => b[j * self.k + p],
            BLayout::Kn => b[p * self.n + j],
        };
        if let Some(at) = out.written.iter().position(|&written| !written) {
            return Err(format!("byte {at} is not written"));
        }
        let unit = half_place(self.out);
        for at in 0..self.m * self.n {
            let (i, j) = (at / self.n, at % self.n);
            let terms = (0..self.k).map(|p| a[i * self.k + p] * of_b(p, j));
            let (want, size) = terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + f64::abs(x)));
            let got = element(out, self.out, at).unwrap_or(f64::NAN);
            // The tensor core may cut what a term has below 2⁻²⁴ of the largest.
            let allowed = 1e-6 * size + unit * want.abs() + 1e-6;
            if got.is_nan() || (got - want).abs() > allowed {
                return Err(format!("row {i}, column {j}: got {got}, expected {want}"));
            }
        }
        Ok(())
    }

    fn round(&self, x: f64) -> f64 {
        match self.dtype {
            DType::BF16 => bf16::from_f64(x).to_f64(),
            DType::F16 => f16::from_f64(x).to_f64(),
            _ => f64::from(x as f32),
        }
    }

    fn buffer(&self, values: &[f64]) -> DeviceBuffer {
        DeviceBuffer::holding(values.iter().flat_map(|&x| bytes(self.dtype, x)).collect())
    }

    /// Elements of a row's start that certainly lie on a 16-byte boundary together.
    fn align(&self, cols: usize) -> usize {
        [8, 4, 2, 1].into_iter().find(|&n| cols.is_multiple_of(n)).unwrap_or(1)
    }

    fn view(&self, param: ParamId, rows: usize, cols: usize, start: [Expr; 2]) -> View {
        let [row, col] = start;
        View {
            param,
            offset: 0.into(),
            rows: Rows::Strided {
                start: row,
                stride: cols.into(),
                limit: rows.into(),
            },
            col_start: col,
            col_limit: cols.into(),
            col_stride: 1.into(),
            align: self.align(cols),
            mask: None,
        }
    }

    /// The program for `schedule`: a block has block_m × block_n of out and goes over k in steps of block_k, each of its warps
    /// along the depth over a part of each step.
    pub fn program(&self, schedule: &Schedule) -> TileProgram {
        let Schedule {
            block_m,
            block_n,
            block_k,
            ..
        } = *schedule;
        let &Product { m, n, k, layout, .. } = self;
        let steps = k.div_ceil(block_k);
        let (row, col) = (|| Expr::Block(Axis::X) * block_m, || Expr::Block(Axis::Y) * block_n);
        let depth = || Expr::from(STEP) * block_k;
        let load = |dst, cols: usize, src| Stmt::Load {
            dst,
            cols: 0..cols,
            src,
        };
        let a_cols = if self.resident { steps * block_k } else { block_k };
        let a_start = if self.resident { depth() } else { 0.into() };
        let load_a = |start| load(A_S, a_cols, self.view(A, m, k, [row(), start]));
        let (b_shape, load_b) = match layout {
            BLayout::Nk => (
                [block_n, block_k],
                load(B_S, block_k, self.view(B, n, k, [col(), depth()])),
            ),
            BLayout::Kn => (
                [block_k, block_n],
                load(B_S, block_n, self.view(B, k, n, [depth(), col()])),
            ),
        };
        let gemm = Stmt::Gemm {
            acc: ACC,
            a: A_S,
            a_start,
            b: B_S,
            layout,
            b_cols: 0..b_shape[1],
        };
        let (before, inside) = match self.resident {
            true => (vec![load_a(0.into())], vec![load_b, gemm]),
            false => (vec![], vec![load_a(depth()), load_b, gemm]),
        };
        let mut body = vec![Stmt::Fill { dst: ACC, value: 0.0 }];
        body.extend(before);
        body.push(Stmt::For {
            var: STEP,
            start: 0.into(),
            end: steps.into(),
            pipelined: true,
            body: inside,
        });
        let (form, src) = match schedule.warps_k {
            1 => (Form::Matrix, ACC),
            _ => (Form::MatrixPartial, SUM),
        };
        if src == SUM {
            body.push(Stmt::Finish { dst: SUM, src: ACC });
        }
        body.push(Stmt::Store {
            dst: self.view(OUT, m, n, [row(), col()]),
            src,
            cols: 0..block_n,
        });
        TileProgram {
            name: "product".into(),
            doc: vec![],
            params: vec![
                tensor("a", self.dtype, Access::Read, 0),
                tensor("b", self.dtype, Access::Read, 1),
                tensor("out", self.out, Access::Write, 2),
            ],
            grid: [m.div_ceil(block_m).into(), n.div_ceil(block_n).into(), 1.into()],
            tiles: vec![
                tile("a_s", self.dtype, [block_m, a_cols], Space::Shared, Form::Matrix),
                tile("b_s", self.dtype, b_shape, Space::Shared, Form::Matrix),
                tile("acc", DType::F32, [block_m, block_n], Space::Fragment, form),
                tile("sum", DType::F32, [block_m, block_n], Space::Fragment, Form::Matrix),
            ],
            vars: vec!["step".into()],
            body,
        }
    }
}

fn tensor(name: &str, dtype: DType, access: Access, buffer: usize) -> Param {
    Param {
        name: name.into(),
        kind: ParamKind::Tensor {
            dtype,
            access,
            buffer: BufferId(buffer),
        },
    }
}

fn tile(name: &str, dtype: DType, [rows, cols]: [usize; 2], space: Space, form: Form) -> Tile {
    Tile {
        name: name.into(),
        dtype,
        rows,
        cols,
        space,
        form,
    }
}
