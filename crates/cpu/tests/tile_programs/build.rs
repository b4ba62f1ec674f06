//! Building tile programs in few words, and running them.

use half::{bf16, f16};
use mlafuse_codegen::tile::{
    Access, BLayout, Expr, Form, Param, ParamId, ParamKind, Rows, Space, Stmt, Tile, TileId, TileProgram, VarId, View,
};
use mlafuse_cpu::{CpuBuffer, CpuError, CpuKernel, Level, Options};
use mlafuse_ir::plan::BufferId;
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_tensor::DType;

/// A program under construction, of one block until `grid` is set.
pub struct Build(pub TileProgram);

impl Build {
    pub fn new() -> Build {
        Build(TileProgram {
            name: "k".to_string(),
            doc: Vec::new(),
            params: Vec::new(),
            grid: [1.into(), 1.into(), 1.into()],
            tiles: Vec::new(),
            vars: Vec::new(),
            body: Vec::new(),
        })
    }

    fn param(&mut self, name: &str, kind: ParamKind) -> ParamId {
        self.0.params.push(Param {
            name: name.to_string(),
            kind,
        });
        ParamId(self.0.params.len() - 1)
    }

    pub fn input(&mut self, name: &str, dtype: DType) -> ParamId {
        let kind = ParamKind::Tensor {
            dtype,
            access: Access::Read,
            buffer: BufferId(0),
        };
        self.param(name, kind)
    }

    pub fn output(&mut self, name: &str, dtype: DType) -> ParamId {
        let kind = ParamKind::Tensor {
            dtype,
            access: Access::Write,
            buffer: BufferId(0),
        };
        self.param(name, kind)
    }

    pub fn scalar(&mut self, symbol: Symbol) -> ParamId {
        self.param(&symbol.to_string(), ParamKind::Scalar(symbol))
    }

    fn tile(&mut self, dtype: DType, rows: usize, cols: usize, space: Space, form: Form) -> TileId {
        let id = self.0.tiles.len();
        self.0.tiles.push(Tile {
            name: format!("t{id}"),
            dtype,
            rows,
            cols,
            space,
            form,
        });
        TileId(id)
    }

    pub fn shared(&mut self, dtype: DType, rows: usize, cols: usize) -> TileId {
        self.tile(dtype, rows, cols, Space::Shared, Form::Matrix)
    }

    pub fn fragment(&mut self, rows: usize, cols: usize) -> TileId {
        self.tile(DType::F32, rows, cols, Space::Fragment, Form::Matrix)
    }

    pub fn vector(&mut self, rows: usize) -> TileId {
        self.tile(DType::F32, rows, 1, Space::Fragment, Form::RowVector)
    }

    pub fn partial(&mut self, rows: usize) -> TileId {
        self.tile(DType::F32, rows, 1, Space::Fragment, Form::RowPartial)
    }

    pub fn var(&mut self, name: &str) -> VarId {
        self.0.vars.push(name.to_string());
        VarId(self.0.vars.len() - 1)
    }

    pub fn push(&mut self, stmt: Stmt) {
        self.0.body.push(stmt);
    }

    pub fn load(&mut self, dst: TileId, src: View) {
        let cols = 0..self.0.tile(dst).cols;
        self.push(Stmt::Load { dst, cols, src });
    }

    pub fn store(&mut self, dst: View, src: TileId) {
        let cols = 0..self.0.tile(src).cols;
        self.push(Stmt::Store { dst, src, cols });
    }

    pub fn fill(&mut self, dst: TileId, value: f32) {
        self.push(Stmt::Fill { dst, value });
    }

    pub fn map(&mut self, dst: TileId, value: impl Into<Expr>) {
        self.push(Stmt::Map {
            dst,
            value: value.into(),
        });
    }

    pub fn gemm(&mut self, acc: TileId, a: TileId, b: TileId, layout: BLayout) {
        let n = self.0.tile(acc).cols;
        let b_cols = if layout == BLayout::Nk {
            0..self.0.tile(b).cols
        } else {
            0..n
        };
        self.push(Stmt::Gemm {
            acc,
            a,
            a_start: 0.into(),
            b,
            layout,
            b_cols,
        });
    }

    /// Runs it at every level, poisoned and not, with one thread and with three; every output must be bitwise the same
    /// within a level. Gives the bytes of the buffers at each level.
    pub fn run_all(&self, dims: &Dims, buffers: &[Vec<u8>]) -> Vec<(Level, Vec<Vec<u8>>)> {
        let levels = Level::available();
        let run = |level, poison, threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let options = Options { level, poison };
            pool.install(|| run(&self.0, options, dims, buffers)).unwrap()
        };
        let both = levels.map(|level| {
            let first = run(level, true, 1);
            assert!(first == run(level, false, 1), "poison changed the result");
            assert!(first == run(level, false, 3), "threads changed the result");
            (level, first)
        });
        both.collect()
    }

    /// Runs it once, poisoned.
    pub fn run(&self, dims: &Dims, buffers: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, CpuError> {
        let options = Options {
            level: Level::detect(),
            poison: true,
        };
        self.run_with(options, dims, buffers)
    }

    /// Runs it once.
    pub fn run_with(&self, options: Options, dims: &Dims, buffers: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, CpuError> {
        run(&self.0, options, dims, buffers)
    }
}

fn run(program: &TileProgram, options: Options, dims: &Dims, buffers: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, CpuError> {
    let kernel = CpuKernel::prepare_with(program, options)?;
    let buffers: Vec<CpuBuffer> = buffers.iter().map(|bytes| CpuBuffer::from_bytes(bytes)).collect();
    kernel.launch(dims, &buffers.iter().collect::<Vec<_>>())?;
    Ok(buffers.iter().map(CpuBuffer::bytes).collect())
}

/// A row-major matrix of `rows` × `cols`.
pub fn matrix(param: ParamId, rows: impl Into<Expr>, cols: usize) -> View {
    View {
        param,
        offset: 0.into(),
        rows: Rows::Strided {
            start: 0.into(),
            stride: cols.into(),
            limit: rows.into(),
        },
        col_start: 0.into(),
        col_limit: cols.into(),
        col_stride: 1.into(),
        align: 1,
        mask: None,
    }
}

/// A vector of `rows` elements, one a tile row.
pub fn column(param: ParamId, rows: impl Into<Expr>) -> View {
    matrix(param, rows, 1)
}

/// Reproducible values in about -2..2.
pub fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 4.0
    };
    (0..n).map(next).collect()
}

/// Those values, rounded to bf16.
pub fn bf16_values(n: usize, seed: u64) -> Vec<f32> {
    values(n, seed)
        .into_iter()
        .map(|x| bf16::from_f32(x).to_f32())
        .collect()
}

pub fn f32_bytes(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_ne_bytes()).collect()
}

pub fn bf16_bytes(x: &[f32]) -> Vec<u8> {
    x.iter()
        .flat_map(|&x| bf16::from_f32(x).to_bits().to_ne_bytes())
        .collect()
}

pub fn f16_bytes(x: &[f32]) -> Vec<u8> {
    x.iter()
        .flat_map(|&x| f16::from_f32(x).to_bits().to_ne_bytes())
        .collect()
}

pub fn i32_bytes(x: &[i32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_ne_bytes()).collect()
}

pub fn to_f32(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_ne_bytes(*b))
        .collect()
}

pub fn bf16_to_f32(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|b| bf16::from_bits(u16::from_ne_bytes(*b)).to_f32())
        .collect()
}

/// Asserts that each element is within `tolerance` of the expected one, relative to 1 + its size.
pub fn assert_close(got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (i, (&x, &y)) in got.iter().zip(expected).enumerate() {
        let close = (f64::from(x) - y).abs() <= tolerance * (1.0 + y.abs());
        assert!(close, "element {i} is {x}, not {y}");
    }
}
