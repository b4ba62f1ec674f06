//! The step of an online softmax ([`mlafuse_codegen::tile::Softmax`]) in few passes over the scores.
//!
//! Where the scores lie transposed, sixteen rows side by side are the lanes of a vector ([`lanes`]); else each row is
//! walked along, in the same order of additions as the expansion.

#[cfg(target_arch = "x86_64")]
mod lanes;

use crate::convert::Element;
use crate::expr::Scalar;
use crate::gemm::bf16::{Fetch, ROWS};
use crate::level::{Level, Loop};
use crate::math::exp2;
use crate::rows::{fold, stage};
use crate::scratch::Slot;

/// Lines that are fetched beside each pair of keys where the scores lie transposed: a core that computes exponentials has time
/// for so many.
const LINES: usize = 2;

/// A compiled step.
#[derive(Clone, Debug)]
pub(crate) struct SoftmaxStep {
    pub(crate) scores: Slot,
    /// More than 0.
    pub(crate) scale: f32,
    /// The key of the first column.
    pub(crate) first: Scalar,
    pub(crate) visible: Slot,
    pub(crate) max: Slot,
    pub(crate) sum: Slot,
    pub(crate) decay: Slot,
    pub(crate) weights: Slot,
    pub(crate) element: Element,
}

/// The tiles of a step.
struct Tiles<'a> {
    scores: &'a mut [f32],
    visible: &'a [f32],
    max: &'a mut [f32],
    sum: &'a mut [f32],
    decay: &'a mut [f32],
    weights: &'a mut [f32],
}

impl SoftmaxStep {
    /// Lines that it has time to fetch: none but where the scores lie transposed.
    pub(crate) fn fetches(&self) -> usize {
        match self.scores.transposed {
            true => LINES * self.scores.rows.div_ceil(2) * self.scores.cols.div_ceil(ROWS),
            false => 0,
        }
    }

    /// Runs it for scores whose first column belongs to key `first`.
    /// Meanwhile `fetch` is fetched, where the step does such.
    pub(crate) fn run(&self, level: Level, first: i64, arena: &mut [f32], fetch: Fetch<'_>) {
        let slots = [self.scores, self.visible, self.max, self.sum, self.decay, self.weights];
        // Tiles never overlap, so all borrows are there.
        let Ok([scores, visible, max, sum, decay, weights]) = arena.get_disjoint_mut(slots.map(|slot| slot.range()))
        else {
            return;
        };
        let tiles = Tiles {
            scores,
            visible,
            max,
            sum,
            decay,
            weights,
        };
        #[cfg(target_arch = "x86_64")]
        if self.scores.transposed {
            return lanes::run(self, first, tiles, fetch);
        }
        level.run(Rows {
            step: self,
            first,
            tiles,
        });
        stage(level, self.weights, self.scores, self.element, arena);
    }
}

/// How many of `keys` keys from `first` on are before `visible`.
fn seen(first: i64, keys: usize, visible: f32) -> usize {
    let sees = |key: usize| (first.saturating_add(key as i64) as f32) < visible;
    match keys.checked_sub(1) {
        Some(last) if sees(last) => keys,
        _ => (0..keys).take_while(|&key| sees(key)).count(),
    }
}

struct Rows<'a> {
    step: &'a SoftmaxStep,
    first: i64,
    tiles: Tiles<'a>,
}

impl Loop for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Rows { step, first, tiles } = self;
        let Slot { rows, cols, stride, .. } = step.scores;
        for row in 0..rows {
            let line = &mut tiles.scores[row * stride..][..cols];
            let (there, beyond) = line.split_at_mut(seen(first, cols, tiles.visible[row]));
            there.iter_mut().for_each(|x| *x *= step.scale);
            let before = tiles.max[row];
            let max = before.max(fold(there, f32::NEG_INFINITY, f32::max));
            let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
            let decay = exp2::<FMA>(before - base);
            there.iter_mut().for_each(|x| *x = exp2::<FMA>(*x - base));
            beyond.fill(0.0);
            (tiles.max[row], tiles.decay[row]) = (max, decay);
            tiles.sum[row] = tiles.sum[row] * decay + fold(there, 0.0, |a, b| a + b);
        }
    }
}
