//! The split plan of attention, computed by every block from the lengths on the device.
//!
//! A launch's arguments say how many splits a sequence may have (`Z`), how many blocks the batch should make (`W`) and how
//! many tokens are worth a split (`F`); none of them follows from a length, so that the same launch serves any lengths.

use super::program::ProgramBuilder;
use crate::schedule::Schedule;
use crate::tile::{Expr, Stmt};
use mlafuse_ir::plan::{AttentionRegion, View as Placed};
use mlafuse_ir::size::{Dims, Size, Symbol};

/// What a block is given.
pub(super) struct Split {
    /// Its first tile of cached tokens.
    pub begin: Expr,
    /// One past the last; not past `begin` where the split does not exist.
    pub end: Expr,
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
    let end = p.bind(body, "end", (begin.clone() + share).min(all));
    Split { begin, end }
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
