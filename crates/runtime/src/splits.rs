//! How attention splits the cached tokens: what a launch is told, from capacities alone. The kernels make the plan of it, from
//! the lengths on the device.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use mlafuse_codegen::build::UNBALANCED;
use mlafuse_ir::size::{Dims, Symbol};

use crate::Device;

/// Fewest cached tokens of a balanced split.
const FEWEST_TOKENS: usize = 128;
/// Most balanced splits of a sequence: each adds a partial result that the combine reads.
const MOST_SPLITS: usize = 16;
/// Most tokens of a fixed split, so that sums of 32 bits hold them.
const MOST_TOKENS: usize = 1 << 30;
/// New tokens of a sequence from which on there are blocks enough without splitting.
const LONG: usize = 9;

/// How attention splits the cached tokens of a sequence over blocks.
///
/// Text, in `Display` and `FromStr` alike: `balanced`, `fixed:512`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Splits {
    /// As the lengths of the whole batch suggest, so that a ragged batch keeps the device evenly busy. The same batch with the
    /// same room gives the same bits.
    #[default]
    Balanced,
    /// So many tokens each, in whole tiles of the kernel: a sequence's result does not depend on the others of its batch.
    /// The partial results of all splits that a sequence has room for are in memory, so the fewer tokens the more memory.
    Fixed {
        /// Tokens of a split; more than 2^30 count as 2^30.
        tokens: NonZeroUsize,
    },
}

impl Splits {
    /// `dims` with what the kernels of a launch are told (`Z`, `W` and `F`), where no sequence of the launch may have more than
    /// `room` cached tokens. Nothing in it depends on a length. Launches of long prefills are not split.
    pub fn bind(self, dims: &Dims, room: usize, device: &dyn Device) -> Dims {
        let blocks = device.blocks(dims.get(Symbol::B).unwrap_or(1));
        let (blocks, fewest) = match self {
            _ if !few_tokens(dims) => (blocks, 1),
            Splits::Balanced => (blocks, FEWEST_TOKENS),
            Splits::Fixed { tokens } => (UNBALANCED, tokens.get().min(MOST_TOKENS)),
        };
        // No sequence has more splits than all are to have blocks; the combine looks for each.
        dims.clone()
            .with(Symbol::Z, self.most(dims, room).min(blocks))
            .with(Symbol::W, blocks)
            .with(Symbol::F, fewest)
    }

    /// The splits `Z` that a sequence of a launch of the sizes in `dims` may have, of at most `room` cached tokens.
    pub fn most(self, dims: &Dims, room: usize) -> usize {
        match self {
            _ if !few_tokens(dims) => 1,
            Splits::Balanced => room.div_ceil(FEWEST_TOKENS).clamp(1, MOST_SPLITS),
            Splits::Fixed { tokens } => room.div_ceil(tokens.get().min(MOST_TOKENS)).max(1),
        }
    }

    /// The B, T and S that kernels are made for which launches of the sizes in `dims` share, each rounded up to a power of two.
    /// Of a few new tokens S is the room, so that a sequence may grow under the same kernels.
    pub fn class(self, dims: &Dims, room: usize) -> [usize; 3] {
        let size = |symbol| dims.get(symbol).unwrap_or(1);
        let cached = if few_tokens(dims) { room } else { size(Symbol::S) };
        let [sequences, cached] = match self {
            Splits::Balanced => [size(Symbol::B), cached],
            Splits::Fixed { .. } => [MEDIUM_BATCH, MEDIUM_LENGTH],
        };
        [sequences, size(Symbol::T), cached].map(|size| size.max(1).next_power_of_two())
    }
}

/// Sequences and cached tokens that kernels are made for where their choice must not depend on the batch.
const MEDIUM_BATCH: usize = 16;
const MEDIUM_LENGTH: usize = 4096;

/// `dims` with what kernels are told of splits: as they are where they say it, else balanced for `S` cached tokens.
pub fn with_splits(dims: &Dims, device: &dyn Device) -> Dims {
    match dims.get(Symbol::Z) {
        Some(_) => dims.clone(),
        None => Splits::Balanced.bind(dims, dims.get(Symbol::S).unwrap_or(0), device),
    }
}

/// Whether a launch of these sizes is of a few new tokens a sequence: decode, and not a long prefill.
pub fn few_tokens(dims: &Dims) -> bool {
    dims.get(Symbol::T).is_some_and(|new| new < LONG)
}

/// A text that names no [`Splits`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("splits \"{found}\": expected balanced, or fixed:TOKENS with 1 to 2^30 tokens (as fixed:512)")]
pub struct UnknownSplits {
    /// The text.
    pub found: String,
}

impl fmt::Display for Splits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Splits::Balanced => f.pad("balanced"),
            Splits::Fixed { tokens } => f.pad(&format!("fixed:{tokens}")),
        }
    }
}

impl FromStr for Splits {
    type Err = UnknownSplits;

    fn from_str(text: &str) -> Result<Splits, UnknownSplits> {
        let unknown = || UnknownSplits {
            found: text.to_string(),
        };
        if text == "balanced" {
            return Ok(Splits::Balanced);
        }
        let tokens = text.strip_prefix("fixed:").ok_or_else(unknown)?;
        let digits = tokens.bytes().all(|byte| byte.is_ascii_digit());
        let tokens = tokens.parse().ok().filter(|_| digits);
        let tokens = tokens.filter(|tokens: &NonZeroUsize| tokens.get() <= MOST_TOKENS);
        tokens.map(|tokens| Splits::Fixed { tokens }).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceSpec, open};

    fn told(splits: Splits, new: usize, room: usize) -> [usize; 3] {
        let device = open(DeviceSpec::Cpu).unwrap();
        let dims = splits.bind(&Dims::new().with(Symbol::T, new), room, device.as_ref());
        [Symbol::Z, Symbol::W, Symbol::F].map(|symbol| dims.get(symbol).unwrap())
    }

    #[test]
    fn large_caches_are_split_and_long_prefills_are_not() {
        for (new, room, expected) in [(1, 0, 1), (1, 129, 2), (8, 1000, 8), (1, 1 << 20, 16), (9, 1000, 1)] {
            let [most, blocks, fewest] = told(Splits::Balanced, new, room);
            assert!(blocks >= 1 && fewest >= 1);
            assert_eq!(most, expected.min(blocks));
        }
    }

    #[test]
    fn fixed_splits_have_their_tokens_and_nobody_elses() {
        let fixed: Splits = "fixed:100".parse().unwrap();
        assert_eq!(told(fixed, 1, 1000), [10, UNBALANCED, 100]);
        assert_eq!(told(fixed, 1, 0), [1, UNBALANCED, 100]);
        assert_eq!(told(fixed, 9, 1000)[0], 1);
    }

    #[test]
    fn what_is_said_of_splits_stays() {
        let device = open(DeviceSpec::Cpu).unwrap();
        let dims = Dims::new().with(Symbol::T, 1).with(Symbol::S, 300);
        assert_eq!(
            with_splits(&dims, device.as_ref()).get(Symbol::Z),
            Some(3.min(device.blocks(1)))
        );
        let told = dims.with(Symbol::Z, 7);
        assert_eq!(with_splits(&told, device.as_ref()), told);
    }

    #[test]
    fn texts_are_read_back() {
        for text in ["balanced", "fixed:1", "fixed:512"] {
            assert_eq!(text.parse::<Splits>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "fixed",
            "fixed:",
            "fixed:0",
            "fixed:-1",
            "fixed:+5",
            "fixed:99999999999",
            "even",
        ] {
            let error = text.parse::<Splits>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("splits \"{text}\": expected balanced")),
                "{error}"
            );
        }
    }
}
