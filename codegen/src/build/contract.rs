//! Contractions: any einsum of two operands as a batch of matrix products.
//!
//! Labels are batch, m, n or k by where they stand. Neighbours that both of their operands walk as one dimension are
//! merged; what stays apart from the last m or n label becomes part of the batch, what stays apart from the last
//! k label an outer loop.

use super::axes::{Axis, collapse, innermost};
use super::cached_rows::CachedOperand;
use super::error::BuildError;
use super::program::{ProgramBuilder, Span, block_x, block_y, blocks, indexed};
use crate::tile::{Access, BLayout, Expr, Stmt, TileProgram};
use mlafuse_ir::graph::{EinsumSpec, ValueId};
use mlafuse_ir::plan::View;
use mlafuse_ir::size::Size;

// Positions of the operands in an axis.
const A: usize = 0;
const B: usize = 1;
const OUT: usize = 2;

/// A contraction as a batch of products \[m, k\] · \[k, n\].
struct Shape {
    /// Batch, and the m and n dimensions that do not merge; their strides are 0 where an operand does not have them.
    batch: Vec<Axis<3>>,
    m: Axis<3>,
    n: Axis<3>,
    /// k dimensions that do not merge.
    outer_k: Vec<Axis<3>>,
    k: Axis<3>,
}

fn shape(program: &ProgramBuilder, spec: &EinsumSpec, views: [&View; 3]) -> Result<Shape, BuildError> {
    let roles = spec.roles();
    if let Some(label) = roles.sum_a.iter().chain(&roles.sum_b).next() {
        let found = format!("`{label}` of {spec}");
        return Err(program.unsupported(
            "label of one operand that is summed",
            found,
            "labels of both to be summed",
        ));
    }
    let axis = |label: &&str| {
        let at = [&spec.a, &spec.b, &spec.out].map(|list| list.iter().position(|l| l == label));
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

/// The m, n and k of the products.
pub(super) fn extents(p: &ProgramBuilder, value: ValueId, spec: &EinsumSpec) -> Result<[Size; 3], BuildError> {
    let [a, b] = p.args(value)?;
    let cached = CachedOperand::of(p, a)?;
    let Shape { m, n, k, .. } = shape(p, spec, [first(p, a, &cached)?, p.view(b)?, p.view(value)?])?;
    Ok([m.extent, n.extent, k.extent])
}

/// How the first operand is walked: where it lies, or as rows of the cache.
fn first<'v>(p: &ProgramBuilder<'v>, a: ValueId, cached: &'v Option<CachedOperand>) -> Result<&'v View, BuildError> {
    match cached {
        Some(cached) => Ok(&cached.walked),
        None => p.view(a),
    }
}

pub(super) fn build(mut p: ProgramBuilder, value: ValueId, spec: &EinsumSpec) -> Result<TileProgram, BuildError> {
    let [a, b] = p.args(value)?;
    let cached = CachedOperand::of(&p, a)?;
    let views = [first(&p, a, &cached)?, p.view(b)?, p.view(value)?];
    let types = views.map(|view| p.dtype(view));
    if types[A] != types[B] {
        let found = format!("{} and {}", types[A], types[B]);
        return Err(p.unsupported("operands' types", found, "one type"));
    }
    p.check_block_k()?;
    let shape = shape(&p, spec, views)?;
    let (block_m, block_n, block_k) = (p.schedule.block_m, p.schedule.block_n, p.schedule.block_k);
    // b is read along the dimension in which its elements are neighbours.
    let layout = if shape.k.strides[B] != Size::one() && shape.n.strides[B] == Size::one() {
        BLayout::Kn
    } else {
        BLayout::Nk
    };
    let a_s = p.shared("a_s", types[A], block_m, block_k);
    let b_s = match layout {
        BLayout::Nk => p.shared("b_s", types[B], block_n, block_k),
        BLayout::Kn => p.shared("b_s", types[B], block_k, block_n),
    };
    let acc = p.fragment("acc", block_m, block_n);

    let grid = [
        p.row_blocks(&shape.batch, &shape.m.extent),
        blocks(&mut p, &shape.n.extent, block_n),
        1.into(),
    ];
    let mut body = Vec::new();
    let place = p.place(&mut body, block_x(), &shape.batch, &shape.m.extent);
    body.push(Stmt::Fill { dst: acc, value: 0.0 });
    let outer_k: Vec<_> = shape
        .outer_k
        .iter()
        .map(|axis| (p.var("k_outer"), p.extent(&axis.extent)))
        .collect();
    let mut indices = place.outer.clone();
    indices.extend(outer_k.iter().map(|(var, _)| Expr::from(*var)));
    let summed: Vec<Axis<3>> = shape.batch.iter().chain(&shape.outer_k).cloned().collect();

    let step = p.var("k");
    let (m, n, k) = (
        p.extent(&shape.m.extent),
        p.extent(&shape.n.extent),
        p.extent(&shape.k.extent),
    );
    let span = Span::block(step, block_k, k.clone());
    let src = match &cached {
        Some(cached) => {
            // Sequences are the outermost dimension: their rows do not merge.
            let sequence = place.outer.first().cloned().unwrap_or(0.into());
            let kv_len = cached.begin(&mut p, &mut body, sequence.clone(), place.row.clone());
            cached.rows(&mut p, &sequence, [place.row.clone(), kv_len], span)?
        }
        None => {
            let rows_of_a = p.matrix(
                views[A],
                Access::Read,
                &indexed(&summed, &indices, A),
                &shape.m.strides[A],
                &shape.k.strides[A],
            );
            p.rows(&rows_of_a, place.row.clone(), m.clone(), span)
        }
    };
    let load_a = Stmt::Load {
        dst: a_s,
        cols: 0..block_k,
        src,
    };
    let of_b = indexed(&summed, &indices, B);
    let (n_stride, k_stride) = (&shape.n.strides[B], &shape.k.strides[B]);
    let (src, cols) = match layout {
        BLayout::Nk => {
            let matrix = p.matrix(views[B], Access::Read, &of_b, n_stride, k_stride);
            (
                p.rows(
                    &matrix,
                    block_y() * block_n,
                    n.clone(),
                    Span::block(step, block_k, k.clone()),
                ),
                0..block_k,
            )
        }
        BLayout::Kn => {
            let matrix = p.matrix(views[B], Access::Read, &of_b, k_stride, n_stride);
            let span = Span::block(block_y(), block_n, n.clone());
            (p.rows(&matrix, Expr::from(step) * block_k, k.clone(), span), 0..block_n)
        }
    };
    let load_b = Stmt::Load {
        dst: b_s,
        cols: cols.clone(),
        src,
    };
    let gemm = Stmt::Gemm {
        acc,
        a: a_s,
        a_start: 0.into(),
        b: b_s,
        layout,
        b_cols: cols,
    };
    let end = blocks(&mut p, &shape.k.extent, block_k);
    let mut loops = Stmt::For {
        var: step,
        start: 0.into(),
        end,
        pipelined: true,
        body: vec![load_a, load_b, gemm],
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

    let of_out = indexed(&shape.batch, &place.outer, OUT);
    let matrix = p.matrix(
        views[OUT],
        Access::Write,
        &of_out,
        &shape.m.strides[OUT],
        &shape.n.strides[OUT],
    );
    let dst = p.rows(&matrix, place.row, m, Span::block(block_y(), block_n, n));
    body.push(Stmt::Store {
        dst,
        src: acc,
        cols: 0..block_n,
    });
    Ok(p.finish(doc(spec, &shape, types), grid, body))
}

fn doc(spec: &EinsumSpec, shape: &Shape, types: [mlafuse_tensor::DType; 3]) -> Vec<String> {
    let Shape {
        batch,
        m,
        n,
        outer_k,
        k,
    } = shape;
    let product = |axes: &[Axis<3>]| -> String { axes.iter().map(|axis| format!("{} × ", axis.extent)).collect() };
    let (batch, outer_k) = (product(batch), product(outer_k));
    vec![
        format!("contraction {spec}"),
        format!(
            "{batch}[{}, {outer_k}{}] · [{outer_k}{}, {}], {} to {}",
            m.extent, k.extent, k.extent, n.extent, types[A], types[OUT]
        ),
    ]
}
