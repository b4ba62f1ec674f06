//! Memory between kernels: buffers that are never in use at the same time share it.

use super::{Buffer, BufferId, BufferRole, Plan};
use crate::size::Dims;
use std::cmp::Reverse;
use std::ops::RangeInclusive;

/// Every placement starts at a multiple of this, as device allocations do.
pub const ARENA_ALIGN: usize = 256;

/// One piece of memory for all of a plan's temporary buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arena {
    /// Bytes it takes.
    pub bytes: usize,
    /// Bytes that the buffers would take side by side.
    pub separate_bytes: usize,
    /// Where each buffer lies, in the order of the plan's buffers.
    pub placements: Vec<Placement>,
}

/// Where a temporary buffer lies in the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The buffer.
    pub buffer: BufferId,
    /// The kernels during which it holds something, by their place in the plan.
    pub lifetime: RangeInclusive<usize>,
    /// Bytes from the arena's start, a multiple of [`ARENA_ALIGN`].
    pub offset: usize,
    /// Bytes the kernels may use of it.
    pub bytes: usize,
}

/// A buffer whose bytes cannot be counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the size of buffer {buffer}, {size} elements, is unknown or too large")]
pub struct SizeError {
    /// The buffer.
    pub buffer: String,
    /// Its size, in symbols.
    pub size: String,
}

impl Buffer {
    /// The bytes it takes in a launch of the sizes in `dims`; no more than one allocation can have.
    ///
    /// # Errors
    /// Where a symbol has no value, or the bytes are more than that.
    pub fn bytes(&self, dims: &Dims) -> Result<usize, SizeError> {
        let elements = self.size.value(dims);
        let bytes = elements.and_then(|elements| elements.checked_mul(self.dtype.size_bytes()));
        bytes
            .filter(|&bytes| bytes <= isize::MAX as usize)
            .ok_or_else(|| self.size_error())
    }

    fn size_error(&self) -> SizeError {
        SizeError {
            buffer: self.name.clone(),
            size: self.size.to_string(),
        }
    }
}

/// A buffer to be placed.
#[derive(Clone, Debug)]
struct Wanted {
    buffer: BufferId,
    lifetime: RangeInclusive<usize>,
    bytes: usize,
}

impl Plan {
    /// From the first kernel that uses a buffer to the last, by their place in the plan; `None` where none does.
    pub fn lifetime(&self, id: BufferId) -> Option<RangeInclusive<usize>> {
        let uses = |index: &usize| {
            let kernel = self.kernels.get(*index);
            kernel.is_some_and(|kernel| kernel.reads.contains(&id) || kernel.writes.contains(&id))
        };
        let mut users = (0..self.kernels.len()).filter(uses);
        let first = users.next()?;
        Some(first..=users.next_back().unwrap_or(first))
    }

    /// Places the temporary buffers that kernels use, in launches of the sizes in `dims`.
    ///
    /// # Errors
    /// Names the buffer whose size is unknown, or with which the bytes are more than can be counted.
    pub fn arena(&self, dims: &Dims) -> Result<Arena, SizeError> {
        let mut wanted = Vec::new();
        for (index, buffer) in self.buffers.iter().enumerate() {
            let id = BufferId(index);
            if let (BufferRole::Temp, Some(lifetime)) = (&buffer.role, self.lifetime(id)) {
                wanted.push(Wanted {
                    buffer: id,
                    lifetime,
                    bytes: buffer.bytes(dims)?,
                });
            }
        }
        place(wanted).map_err(|id| self.buffer(id).size_error())
    }
}

/// The largest first, each in the smallest gap that is wide enough between those it lives together with ("greedy by size" of
/// Pisarchyk and Lee, arXiv 2001.03288). The error is the buffer with which the bytes no longer fit an allocation.
fn place(wanted: Vec<Wanted>) -> Result<Arena, BufferId> {
    let mut arena = Arena {
        bytes: 0,
        separate_bytes: 0,
        placements: Vec::with_capacity(wanted.len()),
    };
    let mut order = wanted;
    order.sort_by_key(|wanted| (Reverse(wanted.bytes), wanted.buffer));
    for Wanted {
        buffer,
        lifetime,
        bytes,
    } in order
    {
        let padded = bytes.checked_next_multiple_of(ARENA_ALIGN);
        let separate = padded.and_then(|padded| padded.checked_add(arena.separate_bytes));
        // The arena is never larger than this sum, so that its offsets and end need no check of their own.
        let separate = separate.filter(|&sum| sum <= isize::MAX as usize).ok_or(buffer)?;
        let padded = separate - arena.separate_bytes;
        let offset = gap(&arena.placements, &lifetime, padded);
        arena.separate_bytes = separate;
        arena.bytes = arena.bytes.max(offset + padded);
        arena.placements.push(Placement {
            buffer,
            lifetime,
            offset,
            bytes,
        });
    }
    arena.placements.sort_by_key(|placement| placement.buffer);
    Ok(arena)
}

/// Where `padded` bytes fit among what lives at the same time.
fn gap(placed: &[Placement], lifetime: &RangeInclusive<usize>, padded: usize) -> usize {
    let alive =
        |other: &&Placement| other.lifetime.start() <= lifetime.end() && lifetime.start() <= other.lifetime.end();
    let mut together: Vec<&Placement> = placed.iter().filter(alive).collect();
    together.sort_by_key(|placement| placement.offset);
    let (mut end, mut best): (usize, Option<(usize, usize)>) = (0, None);
    for other in together {
        let width = other.offset.saturating_sub(end);
        if width >= padded && best.is_none_or(|(least, _)| width < least) {
            best = Some((width, end));
        }
        end = end.max(other.offset + other.bytes.next_multiple_of(ARENA_ALIGN));
    }
    best.map_or(end, |(_, offset)| offset)
}

#[cfg(test)]
mod tests;
