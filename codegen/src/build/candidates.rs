//! The schedules of a region: those that fit a part, best first, and the one for the CPU.

use super::axes::{Plane, plane};
use super::cost::{self, Needs, needs, seconds};
use super::error::BuildError;
use super::processor::{AttentionWidths, Processor};
use super::program::ProgramBuilder;
use super::{Product, build, contract, product};
use crate::schedule::Schedule;
use crate::tile::TileProgram;
use mlafuse_ir::graph::{Op, ValueId};
use mlafuse_ir::plan::{Plan, Region, RegionKind, UpProjectionRegion, View};
use mlafuse_ir::size::{Dim, Dims, Size};
use mlafuse_ir::target::Target;
use mlafuse_tensor::DType;

/// Columns that the CPU makes of an up-projection at a time.
const UP_COLUMNS: usize = 512;

/// How a region's schedules are enumerated.
pub(super) enum Family {
    /// Rows of attention: tokens × heads.
    Attention {
        rows: usize,
        widths: AttentionWidths,
    },
    /// New tokens of one head.
    Prefill {
        tokens: usize,
    },
    Contraction {
        m: usize,
        n: usize,
        k: usize,
    },
    /// A contraction whose first operand is put together from splits, a piece of the depth at a time.
    Projection {
        m: usize,
        n: usize,
        k: usize,
    },
    /// All columns of a head at once, of depth k, and then n columns of what is made of them.
    UpProjection {
        m: usize,
        n: usize,
        k: usize,
    },
    /// Whole rows of `cols` elements, in pieces.
    Rows {
        rows: usize,
        cols: usize,
    },
    /// Rows that must be held whole.
    WholeRows {
        rows: usize,
        cols: usize,
    },
}

/// One of everything; also for questions whose answer no schedule changes.
const ONE: Schedule = Schedule {
    block_m: 1,
    block_n: 1,
    block_k: 1,
    warps_m: 1,
    warps_n: 1,
    warps_k: 1,
    transposed: false,
    stages: 1,
};

/// The schedules under which `target` can run the region, the fastest by the cost model first.
///
/// `dims` are the typical sizes of a launch; those that are absent are taken as one sequence, one new token and 4096
/// cached ones.
///
/// # Errors
/// [`BuildError::NoSchedule`] where none fits, and whatever [`build`] says of the region.
pub fn candidates(plan: &Plan, region: &Region, target: &Target, dims: &Dims) -> Result<Vec<Schedule>, BuildError> {
    let mut fitting = Vec::new();
    let mut refused: Option<(Needs, String)> = None;
    for schedule in gpu_schedules(&family(plan, region, dims)?) {
        let program = build(plan, region, &schedule)?;
        let needs = needs(&program, &schedule);
        let fits = needs.shared <= target.shared_per_block && needs.registers <= target.registers_per_thread;
        if fits {
            fitting.push((seconds(&program, &schedule, target, dims, needs), schedule));
        } else if refused
            .as_ref()
            .is_none_or(|(least, _)| excess(needs, target) < excess(*least, target))
        {
            refused = Some((needs, words(&program)));
        }
    }
    // Between equals, more warps have more on its way.
    let order = |schedule: &Schedule| (std::cmp::Reverse(schedule.warps_k), *schedule);
    fitting.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| order(&a.1).cmp(&order(&b.1))));
    match refused {
        Some((needs, shape)) if fitting.is_empty() => Err(no_schedule(region, target, needs, shape)),
        _ => Ok(fitting.into_iter().map(|(_, schedule)| schedule).collect()),
    }
}

/// The least seconds in which `target` could do what the blocks of the region's kernel do under the first of its [`candidates`],
/// what several of them do again included, the launch apart: what fusions are weighed by. `dims` are as theirs, and tell how
/// many splits `Z` there are.
///
/// # Errors
/// As [`candidates`].
pub fn least_seconds(plan: &Plan, region: &Region, target: &Target, dims: &Dims) -> Result<f64, BuildError> {
    let first = candidates(plan, region, target, dims)?.into_iter().next();
    let seconds = |schedule| {
        Ok(cost::least_seconds(
            &build(plan, region, &schedule)?,
            &schedule,
            target,
            dims,
        ))
    };
    first.map_or(Ok(f64::INFINITY), seconds)
}

/// How far beyond the part's limits: bytes of shared memory, then registers.
fn excess(needs: Needs, target: &Target) -> (usize, usize) {
    (
        needs.shared.saturating_sub(target.shared_per_block),
        needs.registers.saturating_sub(target.registers_per_thread),
    )
}

fn words(program: &TileProgram) -> String {
    program.doc.first().cloned().unwrap_or_default()
}

fn no_schedule(region: &Region, target: &Target, needs: Needs, shape: String) -> BuildError {
    let (limit, needed, allowed) = if needs.shared > target.shared_per_block {
        ("bytes of shared memory a block", needs.shared, target.shared_per_block)
    } else {
        ("registers a thread", needs.registers, target.registers_per_thread)
    };
    let target = format!("{} ({})", target.name, target.arch);
    BuildError::NoSchedule {
        kernel: region.name.clone(),
        shape,
        target,
        limit,
        needed,
        allowed,
    }
}

pub(super) fn family(plan: &Plan, region: &Region, dims: &Dims) -> Result<Family, BuildError> {
    let number = |size: &Size| size.value(&known(size, dims)).unwrap_or(usize::MAX).max(1);
    let missing = |value: ValueId| BuildError::NotInMemory {
        kernel: region.name.clone(),
        value: plan
            .graph
            .nodes
            .get(value.0)
            .map_or_else(|| value.0.to_string(), |node| node.name.clone()),
    };
    let rows_of = |view: &View| {
        let Plane { rows, cols, .. } = plane(&view.shape, [view]);
        (number(&rows.extent), number(&cols.extent))
    };
    let value = match &region.kind {
        RegionKind::Attention(attention) => {
            let query = attention.queries.first().map(|part| part.value);
            let view = query
                .and_then(|value| plan.view(value))
                .ok_or_else(|| missing(attention.cache))?;
            let tokens = view.shape.get(1).map_or(1, |&dim| number(&Size::one().times(dim)));
            let cache = &plan.graph.ty(attention.cache);
            return Ok(Family::Attention {
                rows: tokens.saturating_mul(attention.n_heads).max(1),
                widths: AttentionWidths {
                    // An f32 as the three bf16s that AMX multiplies it as.
                    size: match cache.dtype {
                        DType::F32 => 3 * DType::BF16.size_bytes(),
                        dtype => dtype.size_bytes(),
                    },
                    key: cache.shape.last().map_or(0, |&dim| number(&Size::one().times(dim))),
                    value: attention.values.len(),
                },
            });
        }
        RegionKind::Prefill(prefill) => {
            let view = plan.view(prefill.output).ok_or_else(|| missing(prefill.output))?;
            let tokens = view.shape.get(1).map_or(1, |&dim| number(&Size::one().times(dim)));
            return Ok(Family::Prefill { tokens });
        }
        RegionKind::Combine(combine) => combine.output,
        RegionKind::UpProjection(projection) => {
            return up_projection(plan, projection, number).ok_or_else(|| missing(projection.product));
        }
        RegionKind::Node(value) => *value,
    };
    let view = plan.view(value).ok_or_else(|| missing(value))?;
    if let RegionKind::Combine(combine) = &region.kind {
        let (rows, cols) = rows_of(view);
        return Ok(match combine.projection {
            Some(_) => Family::Projection {
                m: rows.div_ceil(combine.n_heads.max(1)),
                n: cols,
                k: combine.columns,
            },
            // A block has the rows of one sequence.
            None => Family::Rows {
                rows: number(&Size::product(view.shape.get(1..3).unwrap_or_default())),
                cols,
            },
        });
    }
    if let Some(Product { product, spec, .. }) = product(plan, region) {
        let program = ProgramBuilder::new(plan, region, ONE);
        let [m, n, k] = contract::extents(&program, [product, value], spec)?.map(|size| number(&size));
        return Ok(Family::Contraction { m, n, k });
    }
    Ok(match &plan.graph.node(value).op {
        // A block has the rows of one token: the dimensions between the token and the last.
        Op::Rope { .. } => {
            let middle = view
                .shape
                .get(2..view.shape.len().saturating_sub(1))
                .unwrap_or_default();
            let cols = view.shape.last().map_or(1, |&dim| number(&Size::one().times(dim)));
            Family::WholeRows {
                rows: number(&Size::product(middle)),
                cols,
            }
        }
        Op::Mask => {
            let middle = view
                .shape
                .get(2..view.shape.len().saturating_sub(1))
                .unwrap_or_default();
            Family::Rows {
                rows: number(&Size::product(middle)),
                cols: rows_of(view).1,
            }
        }
        Op::CacheWrite => {
            let latent = plan.graph.node(value).args.get(1).copied().unwrap_or(value);
            let shape = &plan.graph.ty(latent).shape;
            let extent = |dim: Option<&Dim>| dim.map_or(1, |&dim| number(&Size::one().times(dim)));
            Family::Rows {
                rows: extent(shape.get(1)),
                cols: extent(shape.last()),
            }
        }
        _ => {
            let (rows, cols) = rows_of(view);
            Family::Rows { rows, cols }
        }
    })
}

fn up_projection(plan: &Plan, region: &UpProjectionRegion, number: impl Fn(&Size) -> usize) -> Option<Family> {
    let node = plan.graph.nodes.get(region.product.0)?;
    let Op::Einsum(spec) = &node.op else { return None };
    let depth = spec.a.iter().position(|label| !spec.out.contains(label))?;
    let k = *plan.graph.ty(*node.args.first()?).shape.get(depth)?;
    // The widest of what is made by a contraction.
    let widths = region.parts.iter().filter_map(|part| {
        let node = plan.graph.node(part.value);
        let made = matches!(node.op, Op::Einsum(_));
        node.ty.shape.last().copied().filter(|_| made)
    });
    Some(Family::UpProjection {
        m: number(&Size::product(node.ty.shape.get(..2)?)),
        n: widths.map(|dim| number(&Size::one().times(dim))).max().unwrap_or(1),
        k: number(&Size::one().times(k)),
    })
}

/// `dims` with a typical value for each symbol of `size` that has none.
fn known(size: &Size, dims: &Dims) -> Dims {
    use mlafuse_ir::size::Symbol;
    size.symbols
        .iter()
        .fold(dims.clone(), |dims, &symbol| match dims.get(symbol) {
            Some(_) => dims,
            None => dims.with(symbol, if symbol == Symbol::S { 4096 } else { 1 }),
        })
}

fn gpu_schedules(family: &Family) -> Vec<Schedule> {
    match *family {
        Family::Attention { rows, .. } => attention_schedules(&[16, 32, 64], rows),
        Family::Prefill { tokens } => attention_schedules(&[16, 32, 64, 128], tokens),
        Family::Contraction { m, n, k } => contraction_schedules([m, n, k], true),
        Family::UpProjection { m, n, k } => contraction_schedules([m, n, k], false),
        Family::Projection { m, n, k } => {
            let mut found = contraction_schedules([m, n, k], false);
            let widest = found.iter().map(|schedule| schedule.block_n).max().unwrap_or(0);
            // The piece of the depth is a fragment first. Every block of columns puts its rows together anew.
            found.retain(|schedule| {
                let columns = schedule.tensor_tile()[1] * schedule.warps_n;
                schedule.block_k.is_multiple_of(columns) && schedule.block_n >= n.min(widest)
            });
            found
        }
        Family::Rows { rows, cols } => {
            let widths = [32, 64, 128, 256, 512, 1024, 2048];
            let enough = cols.saturating_add(31) / 32 * 32;
            let widest = widths.into_iter().find(|&width| width >= enough).unwrap_or(2048);
            row_schedules(rows, widths.into_iter().filter(|&width| width <= widest))
        }
        Family::WholeRows { rows, cols } => row_schedules(rows, [cols.next_multiple_of(32)]),
    }
}

/// `warps` laid in all ways over a block of rows × cols of which each has whole pieces of the size `piece`.
fn layouts(warps: usize, [rows, cols]: [usize; 2], piece: [usize; 2]) -> impl Iterator<Item = (usize, usize)> {
    let divisors = (1..=warps).filter(move |&warps_m| warps.is_multiple_of(warps_m));
    divisors
        .map(move |warps_m| (warps_m, warps / warps_m))
        .filter(move |&(m, n)| rows.is_multiple_of(piece[0] * m) && cols.is_multiple_of(piece[1] * n))
}

/// Whether a block of this size is the least there is, or less than twice as large as what it covers.
fn enough(block: usize, least: usize, extent: usize) -> bool {
    block == least || block < extent.saturating_mul(2)
}

/// With blocks of these `heights` over `rows` rows.
fn attention_schedules(heights: &[usize], rows: usize) -> Vec<Schedule> {
    let mut found = Vec::new();
    for &block_m in heights.iter().filter(|&&block_m| enough(block_m, 16, rows)) {
        for block_n in [16, 32, 64] {
            let laid = |warps| layouts(warps, [block_m, block_n], [16, 8]);
            for (warps_m, warps_n) in [4, 8].into_iter().flat_map(laid) {
                let of = |stages| Schedule {
                    block_m,
                    block_n,
                    block_k: 0,
                    warps_m,
                    warps_n,
                    stages,
                    ..ONE
                };
                found.extend((1..=3).map(of));
            }
        }
    }
    found
}

/// Schedules of \[m, k\] · \[k, n\]. Blocks that have all rows, up to 64, may be transposed, and then, if `splits_depth`,
/// share out the depth over warps as well.
fn contraction_schedules([m, n, k]: [usize; 3], splits_depth: bool) -> Vec<Schedule> {
    let mut found = Vec::new();
    let few = m.checked_next_multiple_of(8).filter(|&rows| rows <= 64);
    let blocks = [16, 32, 64, 128].into_iter().filter(|&block| enough(block, 16, m));
    let blocks = blocks.map(|block_m| (block_m, false));
    for (block_m, transposed) in few.map(|rows| (rows, true)).into_iter().chain(blocks) {
        // Few rows leave little to do: narrow blocks share the weights out to more of the part, and each has much on its way.
        let (narrowest, deepest) = if transposed { (16, 256) } else { (32, 128) };
        let widths = [16, 32, 64, 128].into_iter().filter(|&block| block >= narrowest);
        for block_n in widths.filter(|&block| enough(block, narrowest, n)) {
            let depths = [32, 64, 128, 256].into_iter().filter(|&block| block <= deepest);
            for block_k in depths.filter(|&block| enough(block, 32, k)) {
                let block = Schedule {
                    block_m,
                    block_n,
                    block_k,
                    transposed,
                    ..ONE
                };
                let most_k = if splits_depth && transposed { block_k / 16 } else { 1 };
                found.extend(contraction_warps(block, most_k));
            }
        }
    }
    found
}

/// A contraction's `block` with up to eight warps, `most_k` of them along the depth, and up to four stages.
fn contraction_warps(block: Schedule, most_k: usize) -> Vec<Schedule> {
    let mut found = Vec::new();
    let (shape, fewest) = ([block.block_m, block.block_n], (block.block_n / 16).min(4));
    // A warp writes whole sectors: 16 columns of two bytes. Of few rows it has all, so that one warp reads each weight.
    let piece = [if block.transposed { block.block_m } else { 16 }, 16];
    for warps in [1, 2, 4, 8].into_iter().filter(|&warps| warps >= fewest) {
        for warps_k in [1, 2, 4, 8].into_iter().filter(|&warps_k| warps_k <= most_k.min(warps)) {
            for (warps_m, warps_n) in layouts(warps / warps_k, shape, piece) {
                let of = |stages| Schedule {
                    warps_m,
                    warps_n,
                    warps_k,
                    stages,
                    ..block
                };
                found.extend((1..=4).map(of));
            }
        }
    }
    found
}

/// Each warp has whole rows. Blocks of fewer than four warps would leave an SM's other threads empty.
fn row_schedules(rows: usize, widths: impl IntoIterator<Item = usize>) -> Vec<Schedule> {
    let mut found = Vec::new();
    for block_n in widths {
        for warps_m in [4, 8] {
            let heights = [1, 2, 4].map(|each| each * warps_m).into_iter();
            let of = |block_m| Schedule {
                block_m,
                block_n,
                block_k: 0,
                warps_m,
                ..ONE
            };
            found.extend(heights.filter(|&block_m| enough(block_m, 4, rows)).map(of));
        }
    }
    found
}

/// The type of the second operand of a region's first contraction; f32 where it has none.
fn dtype(plan: &Plan, region: &Region) -> DType {
    let operand = product(plan, region).and_then(|found| plan.graph.node(found.product).args.get(1).copied());
    operand.map_or(DType::F32, |operand| plan.graph.ty(operand).dtype)
}

/// Blocks of one height, at most `most`: a last block with few tokens would see as many keys as one that is full.
pub(super) fn even_height(tokens: usize, most: usize) -> usize {
    tokens.div_ceil(tokens.div_ceil(most))
}

/// The schedule for a processor: tiles that stay in a core's caches, no larger than the region. A contraction's bits do not
/// depend on it.
///
/// `dims` are the launch's sizes; absent ones are taken as [`candidates`] does.
///
/// # Errors
/// [`BuildError::NotInMemory`] for a region that is not the plan's.
pub fn cpu_schedule(plan: &Plan, region: &Region, processor: &Processor, dims: &Dims) -> Result<Schedule, BuildError> {
    let contraction = |sizes| processor.contraction(dtype(plan, region), sizes);
    let [block_m, block_n, block_k] = match family(plan, region, dims)? {
        Family::Attention { rows, widths } => {
            let [rows, keys] = processor.attention(rows, widths);
            [rows, keys, 0]
        }
        Family::Prefill { tokens } => [even_height(tokens, 256), 128, 0],
        Family::Contraction { m, n, k } => contraction([m, n, k]),
        Family::UpProjection { m, n, k } => {
            let [block_m, _, block_k] = contraction([m, usize::MAX, k]);
            [block_m, n.min(UP_COLUMNS), block_k]
        }
        // Every block of columns puts its rows together anew, and every piece of the depth asks each split for its weight.
        Family::Projection { m, n, k } => [m.min(64), n.min(256), k.min(512)],
        Family::Rows { rows, cols } => {
            // Few rows are shared out, too.
            let even = rows.div_ceil(processor.threads.max(1));
            [even.min(16), cols.min(1024), 0]
        }
        Family::WholeRows { rows, cols } => [rows.min(16), cols, 0],
    };
    Ok(Schedule {
        block_m,
        block_n,
        block_k,
        ..ONE
    })
}
