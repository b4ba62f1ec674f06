//! Contractions: any einsum of two operands as a batch of matrix products, and what is done to each element of the result on
//! its way to memory.
//!
//! Labels are batch, m, n or k by where they stand. Neighbours that both of their operands walk as one dimension are
//! merged; what stays apart from the last m or n label becomes part of the batch, what stays apart from the last
//! k label an outer loop.

use super::axes::{Axis, collapse, innermost};
use super::cached_rows::CachedOperand;
use super::epilogue::Epilogue;
use super::error::BuildError;
use super::operand::{Operand, check_product};
use super::program::{ProgramBuilder, Span, block_x, block_y, blocks, indexed};
use crate::tile::{Access, Expr, Stmt, TileProgram};
use mlafuse_ir::graph::{EinsumSpec, ValueId};
use mlafuse_ir::plan::View;
use mlafuse_ir::size::Size;
use mlafuse_tensor::DType;

// Positions of the operands in an axis.
const A: usize = 0;
const B: usize = 1;
const OUT: usize = 2;
const BIAS: usize = 3;
const FACTORS: usize = 4;

/// The contraction's dimensions in its operands, its result, and what its epilogue reads.
type Dim = Axis<5>;

/// A contraction as a batch of products \[m, k\] · \[k, n\].
struct Shape {
    /// Batch, and the m and n dimensions that do not merge; their strides are 0 where an operand does not have them.
    batch: Vec<Dim>,
    m: Dim,
    n: Dim,
    /// k dimensions that do not merge.
    outer_k: Vec<Dim>,
    k: Dim,
}

fn shape(
    program: &ProgramBuilder,
    spec: &EinsumSpec,
    [a, b, out]: [&View; 3],
    epilogue: &Epilogue,
) -> Result<Shape, BuildError> {
    let roles = spec.roles();
    if let Some(label) = roles.sum_a.iter().chain(&roles.sum_b).next() {
        let found = format!("`{label}` of {spec}");
        return Err(program.unsupported(
            "label of one operand that is summed",
            found,
            "labels of both to be summed",
        ));
    }
    let views = [a, b, out, epilogue.bias.unwrap_or(out), epilogue.factors.unwrap_or(out)];
    let axis = |label: &&str| {
        let [in_a, in_b, in_out] = [&spec.a, &spec.b, &spec.out].map(|list| list.iter().position(|l| l == label));
        let [in_bias, in_factors] = in_out.map_or([None; 2], |axis| epilogue.axes(axis, spec.out.len()));
        let at = [in_a, in_b, in_out, in_bias, in_factors];
        let dim = (0..3).find_map(|i| views[i].shape.get(at[i]?).copied());
        Axis::new(dim.unwrap_or(1.into()), views, at)
    };
    let (m, outer_m) = innermost(roles.m.iter().map(axis));
    let (n, outer_n) = innermost(roles.n.iter().map(axis));
    let (k, outer_k) = innermost(roles.k.iter().map(axis));
    let mut batch = collapse(roles.batch.iter().map(axis));
    batch.extend(outer_m);
    batch.extend(outer_n);
    Ok(Shape {
        batch,
        m,
        n,
        outer_k,
        k,
    })
}

/// The m, n and k of the products whose sums become `value`.
pub(super) fn extents(
    p: &ProgramBuilder,
    [product, value]: [ValueId; 2],
    spec: &EinsumSpec,
) -> Result<[Size; 3], BuildError> {
    let [a, b] = p.args(product)?;
    let cached = CachedOperand::of(p, a)?;
    let views = [first(p, a, &cached)?, p.view(b)?, p.view(value)?];
    let Shape { m, n, k, .. } = shape(p, spec, views, &Epilogue::default())?;
    Ok([m.extent, n.extent, k.extent])
}

/// How the first operand is walked: where it lies, or as rows of the cache.
fn first<'v>(p: &ProgramBuilder<'v>, a: ValueId, cached: &'v Option<CachedOperand>) -> Result<&'v View, BuildError> {
    match cached {
        Some(cached) => Ok(&cached.walked),
        None => p.view(a),
    }
}

/// The kernel of `product`, whose elements become those of `value` by the epilogue.
pub(super) fn build(
    mut p: ProgramBuilder,
    [product, value]: [ValueId; 2],
    spec: &EinsumSpec,
    epilogue: &Epilogue,
) -> Result<TileProgram, BuildError> {
    let [a, b] = p.args(product)?;
    let cached = CachedOperand::of(&p, a)?;
    let views = [first(&p, a, &cached)?, p.view(b)?, p.view(value)?];
    check_product(&p, [views[A], views[B]])?;
    let shape = shape(&p, spec, views, epilogue)?;
    let (block_m, block_n, block_k) = (p.schedule.block_m, p.schedule.block_n, p.schedule.block_k);
    let a_s = p.shared("a_s", p.dtype(views[A]), block_m, block_k);

    let grid = [
        p.row_blocks(&shape.batch, &shape.m.extent),
        blocks(&mut p, &shape.n.extent, block_n),
        1.into(),
    ];
    let mut body = Vec::new();
    let place = p.place(&mut body, block_x(), &shape.batch, &shape.m.extent);
    let outer_k: Vec<_> = shape
        .outer_k
        .iter()
        .map(|axis| (p.var("k_outer"), p.extent(&axis.extent)))
        .collect();
    let mut indices = place.outer.clone();
    indices.extend(outer_k.iter().map(|(var, _)| Expr::from(*var)));
    let summed: Vec<Dim> = shape.batch.iter().chain(&shape.outer_k).cloned().collect();

    let step = p.var("k");
    let (m, n, k) = (
        p.extent(&shape.m.extent),
        p.extent(&shape.n.extent),
        p.extent(&shape.k.extent),
    );
    let depth = || Span::block(step, block_k, k.clone());
    let columns = || Span::block(block_y(), block_n, n.clone());
    let src = match &cached {
        Some(cached) => {
            // Sequences are the outermost dimension: their rows do not merge.
            let sequence = place.outer.first().cloned().unwrap_or(0.into());
            let kv_len = cached.begin(&mut p, &mut body, sequence.clone(), place.row.clone());
            cached
                .rows
                .rows(&mut p, &sequence, [place.row.clone(), kv_len], depth())?
        }
        None => {
            let outer = indexed(&summed, &indices, A);
            let matrix = p.matrix(views[A], Access::Read, &outer, &shape.m.strides[A], &shape.k.strides[A]);
            p.rows(&matrix, place.row.clone(), m.clone(), depth())
        }
    };
    let load_a = Stmt::Load {
        dst: a_s,
        cols: 0..block_k,
        src,
    };
    let of_b = indexed(&summed, &indices, B);
    let strides = [&shape.n.strides[B], &shape.k.strides[B]];
    let b = Operand::new(&mut p, "b_s", views[B], &of_b, strides, [block_n, block_k]);
    let load_b = b.load(&mut p, columns(), depth());
    let acc = p.accumulator("acc", block_m, block_n);
    body.push(Stmt::Fill { dst: acc, value: 0.0 });
    let end = blocks(&mut p, &shape.k.extent, block_k);
    let mut loops = Stmt::For {
        var: step,
        start: 0.into(),
        end,
        pipelined: true,
        body: vec![load_a, load_b, b.gemm(acc, a_s)],
    };
    for (var, end) in outer_k.into_iter().rev() {
        loops = Stmt::For {
            var,
            start: 0.into(),
            end,
            pipelined: false,
            body: vec![loops],
        };
    }
    body.push(loops);
    let acc = p.finished(&mut body, "sum", acc);

    let at = |p: &mut ProgramBuilder, view: &View, i: usize, access: Access, cols: Span| {
        let outer = indexed(&shape.batch, &place.outer, i);
        let matrix = p.matrix(view, access, &outer, &shape.m.strides[i], &shape.n.strides[i]);
        p.rows(&matrix, place.row.clone(), m.clone(), cols)
    };
    let bias = epilogue.bias.map(|view| {
        let dst = p.fragment("bias_f", block_m, block_n);
        let src = at(&mut p, view, BIAS, Access::Read, columns());
        body.push(Stmt::Load {
            dst,
            cols: 0..block_n,
            src,
        });
        dst
    });
    let factors = epilogue.factors.map(|view| {
        let dst = p.row_vector("factors", block_m);
        let src = at(&mut p, view, FACTORS, Access::Read, Span::whole(1usize));
        body.push(Stmt::Load { dst, cols: 0..1, src });
        dst
    });
    epilogue.apply(&mut body, acc, bias, factors);
    let dst = at(&mut p, views[OUT], OUT, Access::Write, columns());
    body.push(Stmt::Store {
        dst,
        src: acc,
        cols: 0..block_n,
    });
    let types = views.map(|view| p.dtype(view));
    Ok(p.finish(doc(spec, &shape, types), grid, body))
}

fn doc(spec: &EinsumSpec, shape: &Shape, types: [DType; 3]) -> Vec<String> {
    let Shape {
        batch,
        m,
        n,
        outer_k,
        k,
    } = shape;
    let product = |axes: &[Dim]| -> String { axes.iter().map(|axis| format!("{} × ", axis.extent)).collect() };
    let (batch, outer_k) = (product(batch), product(outer_k));
    vec![
        format!("contraction {spec}"),
        format!(
            "{batch}[{}, {outer_k}{}] · [{outer_k}{}, {}], {} to {}",
            m.extent, k.extent, k.extent, n.extent, types[A], types[OUT]
        ),
    ]
}
