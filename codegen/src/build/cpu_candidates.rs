//! The schedules that are worth measuring on a processor.
//!
//! Every one gives a right program. A simple model leaves out those that cannot be good: tiles larger than a core's own
//! cache, blocks that leave threads idle or are mostly padding. The rest is measured.

use super::candidates::{Family, cpu_schedule, even_height, family};
use super::cost::blocks;
use super::processor::Processor;
use super::{BuildError, build};
use crate::schedule::Schedule;
use crate::tile::TileProgram;
use mlafuse_ir::plan::{Plan, Region};
use mlafuse_ir::size::Dims;

/// Most schedules of a region: more would take longer to measure than they can bring.
const MOST: usize = 32;
/// A schedule that computes and waits this much more than the best is left out.
const MOST_WASTE: f64 = 1.3;

/// Schedules of a region, that of [`cpu_schedule`] first and then the nearest to it before others, so that whoever has little
/// time measures the likely ones.
///
/// `dims` are the launch's sizes; absent ones are taken as [`super::candidates`] does.
///
/// # Errors
/// Those of [`build`].
pub fn cpu_candidates(
    plan: &Plan,
    region: &Region,
    processor: &Processor,
    dims: &Dims,
) -> Result<Vec<Schedule>, BuildError> {
    let default = cpu_schedule(plan, region, processor, dims)?;
    let family = family(plan, region, dims)?;
    let mut found = Vec::new();
    for blocks in blockings(&family) {
        let schedule = with_blocks(default, blocks);
        if schedule == default {
            continue;
        }
        let program = build(plan, region, &schedule)?;
        if scratch_bytes(&program) <= processor.second_level {
            found.push((schedule, waste(&family, &program, &schedule, dims, processor)));
        }
    }
    let least = found.iter().map(|&(_, waste)| waste).fold(f64::INFINITY, f64::min);
    let mut kept: Vec<Schedule> = found
        .into_iter()
        .filter(|&(_, waste)| waste <= MOST_WASTE * least)
        .map(|(schedule, _)| schedule)
        .collect();
    kept.sort_by(|a, b| {
        let by_distance = distance(a, &default).total_cmp(&distance(b, &default));
        by_distance.then(a.cmp(b))
    });
    kept.insert(0, default);
    kept.truncate(MOST);
    Ok(kept)
}

fn with_blocks(default: Schedule, [block_m, block_n, block_k]: [usize; 3]) -> Schedule {
    Schedule {
        block_m,
        block_n,
        block_k,
        ..default
    }
}

/// Blocks of a family, none larger than the region.
fn blockings(family: &Family) -> Vec<[usize; 3]> {
    let up_to = |sizes: &[usize], extent: usize| sizes.iter().map(|&size| size.min(extent).max(1)).collect::<Vec<_>>();
    let [heights, widths, depths] = match *family {
        Family::Attention { rows, .. } => [
            up_to(&[16, 32, 64, 128, 256], rows),
            vec![32, 64, 128, 256, 512, 1024],
            vec![0],
        ],
        Family::Prefill { tokens } => [
            [32, 64, 128, 256].map(|most| even_height(tokens, most)).to_vec(),
            vec![32, 64, 128, 256, 512, 1024],
            vec![0],
        ],
        Family::Contraction { m, n, k } | Family::UpProjection { m, n, k } => [
            up_to(&[16, 32, 64, 128, 256], m),
            up_to(&[16, 32, 64, 128, 256, 512], n),
            up_to(&[64, 128, 256, 512, 1024, 2048], k),
        ],
        Family::Projection { m, n, k } => [
            up_to(&[16, 32, 64, 128], m),
            up_to(&[64, 128, 256, 512], n),
            up_to(&[64, 128, 256, 512], k),
        ],
        Family::Rows { rows, cols } => [up_to(&[1, 4, 16, 64], rows), up_to(&[256, 1024, 4096], cols), vec![0]],
        Family::WholeRows { rows, cols } => [up_to(&[1, 4, 16, 64], rows), vec![cols], vec![0]],
    };
    // Sizes ascend; those beyond the region are all the region's.
    let [heights, widths, depths] = [heights, widths, depths].map(|mut sizes| {
        sizes.dedup();
        sizes
    });
    let mut all = Vec::new();
    for &m in &heights {
        for &n in &widths {
            all.extend(depths.iter().map(|&k| [m, n, k]));
        }
    }
    all
}

/// Bytes of a block's tiles.
fn scratch_bytes(program: &TileProgram) -> usize {
    let bytes = |(rows, cols, element): (usize, usize, usize)| rows.saturating_mul(cols).saturating_mul(element);
    let tiles = program.tiles.iter();
    tiles
        .map(|tile| bytes((tile.rows, tile.cols, tile.dtype.size_bytes())))
        .fold(0, usize::saturating_add)
}

/// How many times what is needed is computed or waited for: padding of the last blocks, and threads without one.
fn waste(family: &Family, program: &TileProgram, schedule: &Schedule, dims: &Dims, processor: &Processor) -> f64 {
    let padded = |extent: usize, block: usize| (extent.div_ceil(block) * block) as f64 / extent as f64;
    let padding = match *family {
        Family::Attention { rows, .. } => padded(rows, schedule.block_m),
        Family::Prefill { tokens } => padded(tokens, schedule.block_m),
        Family::Contraction { m, n, .. } | Family::UpProjection { m, n, .. } | Family::Projection { m, n, .. } => {
            padded(m, schedule.block_m) * padded(n, schedule.block_n)
        }
        Family::Rows { rows, .. } | Family::WholeRows { rows, .. } => padded(rows, schedule.block_m),
    };
    let threads = processor.threads.max(1);
    let blocks = blocks(program, schedule, threads, dims);
    padding * padded(blocks.max(1), threads)
}

/// How often sizes must be doubled or halved to come from one to the other.
fn distance(a: &Schedule, b: &Schedule) -> f64 {
    let apart = |a: usize, b: usize| (a.max(1) as f64 / b.max(1) as f64).log2().abs();
    apart(a.block_m, b.block_m) + apart(a.block_n, b.block_n) + apart(a.block_k, b.block_k)
}
