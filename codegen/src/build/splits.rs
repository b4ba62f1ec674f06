//! The split plan of attention, computed by every block from the lengths on the device.
//!
//! A launch's arguments say how many splits a sequence may have (`Z`), how many blocks the batch should make (`W`) and how
//! many tokens are worth a split (`F`); none of them follows from a length, so that the same launch serves any lengths.

use super::program::ProgramBuilder;
use crate::schedule::Schedule;
use crate::tile::{Expr, Stmt};
use mlafuse_ir::plan::{AttentionRegion, View as Placed};
use mlafuse_ir::size::{Dims, Size, Symbol};

/// A `W` under which the batch asks nothing of a sequence: no batch has as many tiles, and sums with it stay below 2^31.
pub const UNBALANCED: usize = 1 << 30;

/// What a block is given.
pub(super) struct Split {
    /// Its first tile of cached tokens.
    pub begin: Expr,
    /// One past the last; not past `begin` where the split does not exist.
    pub end: Expr,
    /// Whether the sequence has no split but the first.
    pub whole: Expr,
}

/// Split number `split` of a sequence of `kv_len` tokens, in a batch of sequences with these lengths and as many `rows` of
/// queries each.
///
/// A split has as many tiles as let all splits of the batch together make `W` blocks, but no fewer than let the sequence's
/// own be `Z`, nor than hold `F` tokens. A ragged batch so comes out even: short sequences have few splits, and those
/// that a sequence does not have are the last.
pub(super) fn split(
    p: &mut ProgramBuilder,
    body: &mut Vec<Stmt>,
    kv_lens: &Placed,
    kv_len: Expr,
    rows: &Size,
    split: Expr,
) -> Split {
    let block_n = p.schedule.block_n;
    let sequence = p.var("sequence");
    let value = p.load_int(kv_lens, sequence.into()).ceil_div(block_n);
    let total = p.var("total");
    body.push(Stmt::Sum {
        var: total,
        index: sequence,
        count: p.symbol(Symbol::B),
        value,
    });
    let row_blocks = p.row_blocks::<1>(&[], rows);
    let [most, blocks, fewest] = [Symbol::Z, Symbol::W, Symbol::F].map(|symbol| p.symbol(symbol));
    let wanted = p.bind(body, "wanted", (blocks / row_blocks).max(1));
    let all = p.bind(body, "all", kv_len.ceil_div(block_n));
    let share = Expr::from(total)
        .ceil_div(wanted)
        .max(all.clone().ceil_div(most))
        .max(fewest.ceil_div(block_n));
    let share = p.bind(body, "share", share);
    let begin = p.bind(body, "begin", split * share.clone());
    let end = p.bind(body, "end", (begin.clone() + share.clone()).min(all.clone()));
    Split {
        whole: all.le(share),
        begin,
        end,
    }
}

/// How many splits each sequence has in a launch of the sizes in `dims` where all have `S` cached tokens, at least 1; `None`
/// where a symbol is unbound.
pub fn splits_of_equals(region: &AttentionRegion, schedule: &Schedule, dims: &Dims) -> Option<usize> {
    let [sequences, tokens, cached] = [dims.get(Symbol::B)?, dims.get(Symbol::T)?, dims.get(Symbol::S)?];
    let [most, blocks, fewest] = [dims.get(Symbol::Z)?, dims.get(Symbol::W)?, dims.get(Symbol::F)?];
    let row_blocks = (tokens * region.n_heads).div_ceil(schedule.block_m).max(1);
    let tiles = cached.div_ceil(schedule.block_n);
    let even = (sequences * tiles).div_ceil((blocks / row_blocks).max(1));
    let share = even
        .max(tiles.div_ceil(most.max(1)))
        .max(fewest.div_ceil(schedule.block_n));
    Some(tiles.div_ceil(share.max(1)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::build;
    use crate::tile::{Axis, TileProgram, VarId};
    use mlafuse_ir::config::MlaConfig;
    use mlafuse_ir::layer::{LayerOptions, build_layer};
    use mlafuse_ir::plan::{RegionKind, fused};
    use mlafuse_ir::rewrite::{Machine, rewrite};
    use mlafuse_tensor::DType;
    use proptest::prelude::*;

    const HEADS: usize = 24;

    /// The attention of a small layer, and its region.
    fn attention(schedule: &Schedule) -> (TileProgram, AttentionRegion) {
        let config =
            MlaConfig::from_inline("heads=24,d_model=8,d_latent=16,d_rope=4,d_nope=4,d_v=4,d_q_latent=8").unwrap();
        let options = LayerOptions {
            dtype: DType::BF16,
            page_size: 16,
            coupled_rope: false,
        };
        let typical = [Symbol::B, Symbol::T, Symbol::P, Symbol::N, Symbol::L].into_iter();
        let typical = typical.fold(Dims::new().with(Symbol::S, 4096), |dims, symbol| dims.with(symbol, 1));
        let graph = build_layer(&config, &options).unwrap();
        let plan = fused(&rewrite(&graph, &typical, &Machine::default()).unwrap().graph).unwrap();
        let region = plan.kernel("attention").unwrap();
        let RegionKind::Attention(attention) = &region.kind else {
            panic!("expected attention")
        };
        (build(&plan, region, schedule).unwrap(), attention.clone())
    }

    /// The tiles of each split of sequence `b`, as the program finds them.
    fn planned(program: &TileProgram, dims: &Dims, kv_lens: &[usize], b: usize) -> Vec<[i64; 2]> {
        let blocks = dims.get(Symbol::Z).unwrap() as i64;
        let split = |z: i64| {
            let mut vars = vec![None; program.vars.len()];
            let value = |vars: &[Option<i64>], expr: &Expr| {
                expr.integer(&|leaf| match leaf {
                    Expr::Var(VarId(var)) => vars[*var],
                    Expr::Block(Axis::X) => Some(0),
                    Expr::Block(Axis::Y) => Some(b as i64),
                    Expr::Block(Axis::Z) => Some(z),
                    // Both lengths are loaded; the new tokens do not matter here.
                    Expr::Load(_, index) => {
                        let at = index.integer(&|leaf| match leaf {
                            Expr::Var(VarId(var)) => vars[*var],
                            _ => Some(b as i64),
                        })?;
                        kv_lens.get(at as usize).map(|&len| len as i64)
                    }
                    other => program.scalar(other, dims),
                })
            };
            for stmt in &program.body {
                match stmt {
                    Stmt::Let { var, value: expr } => vars[var.0] = value(&vars, expr),
                    Stmt::Sum {
                        var,
                        index,
                        count,
                        value: expr,
                    } => {
                        let count = value(&vars, count).unwrap();
                        let each = (0..count).map(|i| {
                            vars[index.0] = Some(i);
                            value(&vars, expr).unwrap()
                        });
                        vars[var.0] = Some(each.sum());
                    }
                    _ => {}
                }
            }
            ["begin", "end"].map(|name| vars[program.vars.iter().position(|var| var == name).unwrap()].unwrap())
        };
        (0..blocks).map(split).collect()
    }

    fn schedule(block_m: usize, block_n: usize) -> Schedule {
        Schedule {
            block_m,
            block_n,
            block_k: 0,
            warps_m: 1,
            warps_n: 1,
            warps_k: 1,
            transposed: false,
            stages: 1,
        }
    }

    fn dims(sequences: usize, [most, blocks, fewest]: [usize; 3]) -> Dims {
        let symbols = [Symbol::B, Symbol::T, Symbol::Z, Symbol::W, Symbol::F];
        let values = [sequences, 1, most, blocks, fewest];
        symbols.into_iter().zip(values).collect()
    }

    proptest! {
        #[test]
        fn splits_share_the_work(
            kv_lens in proptest::collection::vec(prop_oneof![0usize..70, 0usize..5000], 1..6),
            block_m in 1usize..40,
            block_n in 1usize..130,
            told in (1usize..40, 1usize..200, 1usize..300),
        ) {
            let (program, region) = attention(&schedule(block_m, block_n));
            let [most, blocks, fewest]: [usize; 3] = told.into();
            let dims = dims(kv_lens.len(), told.into());
            let row_blocks = HEADS.div_ceil(block_m);
            let tiles: usize = kv_lens.iter().map(|len| len.div_ceil(block_n)).sum();
            let mut count = 0;
            for b in 0..kv_lens.len() {
                let splits = planned(&program, &dims, &kv_lens, b);
                let there: Vec<[i64; 2]> = splits.iter().copied().filter(|[begin, end]| begin < end).collect();
                // Those that are there come first, one after the other, and hold every tile.
                prop_assert_eq!(&there[..], &splits[..there.len()]);
                let ends = there.iter().map(|[_, end]| *end);
                prop_assert!(there.iter().map(|[begin, _]| *begin).eq([0].into_iter().chain(ends).take(there.len())));
                prop_assert_eq!(there.last().map_or(0, |[_, end]| *end), kv_lens[b].div_ceil(block_n) as i64);
                // All but the last are as long, and worth it.
                if let [rest @ .., _] = &there[..] {
                    prop_assert!(rest.iter().all(|[begin, end]| (end - begin) as usize * block_n >= fewest));
                }
                count += there.len();
            }
            // No more blocks than are wanted, but for a last, shorter split of each sequence.
            prop_assert!(count <= (blocks / row_blocks).max(1) + kv_lens.len(), "{count} splits of {tiles} tiles");
            // Alone, a sequence that no other weighs against has as many as it may have.
            let alone = dims_of_equal(&dims, kv_lens[0]);
            let splits = planned(&program, &alone, &kv_lens[..1], 0);
            let there = splits.iter().filter(|[begin, end]| begin < end).count();
            prop_assert_eq!(there.max(1), splits_of_equals(&region, &schedule(block_m, block_n), &alone).unwrap());
            prop_assert!(there <= most);
        }
    }

    proptest! {
        /// As many blocks wanted as there are processors: none of them has more than its share of the whole.
        #[test]
        fn two_sequences_come_out_even(
            kv_lens in proptest::array::uniform2(1usize..20_000),
            processors in 1usize..70,
        ) {
            let (program, _) = attention(&schedule(HEADS, 64));
            let dims = dims(2, [processors, processors, 1]);
            let tiles: usize = kv_lens.iter().map(|len| len.div_ceil(64)).sum();
            let share = tiles.div_ceil(processors) as i64;
            let sizes = (0..2).flat_map(|b| planned(&program, &dims, &kv_lens, b)).map(|[begin, end]| end - begin);
            let (whole, rest): (Vec<i64>, Vec<i64>) = sizes.filter(|&size| size > 0).partition(|&size| size == share);
            let of_rest = if rest.iter().sum::<i64>() <= share { rest.len().min(1) } else { rest.len() };
            prop_assert!(rest.iter().all(|&size| size < share) && whole.len() + of_rest <= processors);
        }
    }

    fn dims_of_equal(dims: &Dims, cached: usize) -> Dims {
        dims.clone().with(Symbol::B, 1).with(Symbol::S, cached)
    }

    #[test]
    fn a_ragged_batch_is_balanced() {
        let (program, _) = attention(&schedule(HEADS, 64));
        let lens = [64, 30_000, 640, 0];
        let dims = dims(4, [16, 16, 128]);
        let tiles = |b| -> Vec<i64> {
            let splits = planned(&program, &dims, &lens, b);
            splits
                .iter()
                .map(|[begin, end]| end - begin)
                .filter(|&tiles| tiles > 0)
                .collect()
        };
        // 480 tiles over 16 blocks.
        assert_eq!((tiles(0), tiles(2), tiles(3)), (vec![1], vec![10], vec![]));
        assert_eq!(tiles(1), [vec![30; 15], vec![19]].concat());
    }

    #[test]
    fn a_fixed_split_is_its_tokens_whatever_the_batch() {
        let (program, _) = attention(&schedule(HEADS, 64));
        let of = |lens: &[usize], b| planned(&program, &dims(lens.len(), [8, UNBALANCED, 500]), lens, b);
        let alone = of(&[1000], 0);
        assert_eq!(alone[..3], [[0, 8], [8, 16], [16, 16]]);
        assert_eq!(of(&[7, 1000, 4000], 1), alone);
    }
}
