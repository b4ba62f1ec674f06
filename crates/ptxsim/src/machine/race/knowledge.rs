//! What is known of the actors of blocks.

use std::sync::Arc;

/// How far each actor of one block is known: at index `2 * thread` the thread's epoch, after it the number of its
/// asynchronous operations known complete.
pub(super) type Epochs = Arc<[u32]>;

/// The epochs of several blocks, sorted by block.
#[derive(Clone, Debug, Default)]
pub(super) struct Knowledge {
    parts: Vec<(u32, Epochs)>,
}

impl Knowledge {
    /// Of some blocks, with one more that is not among them.
    pub(super) fn with(&self, block: u32, epochs: Epochs) -> Knowledge {
        let mut parts = self.parts.clone();
        let at = parts.partition_point(|part| part.0 < block);
        parts.insert(at, (block, epochs));
        Knowledge { parts }
    }

    /// The same without one block, if it is there, and that block's epochs.
    pub(super) fn without(self: &Arc<Knowledge>, block: u32) -> (Arc<Knowledge>, Option<&Epochs>) {
        let Some(epochs) = self.of(block) else {
            return (self.clone(), None);
        };
        let parts = self.parts.iter().filter(|part| part.0 != block).cloned().collect();
        (Arc::new(Knowledge { parts }), Some(epochs))
    }

    /// How far an actor is known.
    pub(super) fn get(&self, block: u32, actor: u32) -> u32 {
        self.of(block).map_or(0, |epochs| epochs[actor as usize])
    }

    fn of(&self, block: u32) -> Option<&Epochs> {
        let at = self.parts.binary_search_by_key(&block, |part| part.0).ok()?;
        Some(&self.parts[at].1)
    }

    fn covers(&self, other: &Knowledge) -> bool {
        let covered = |(block, epochs): &(u32, Epochs)| self.of(*block).is_some_and(|own| covers(own, epochs));
        other.parts.iter().all(covered)
    }

    /// What either of two knows. One of the two is given back where it knows all that the other does.
    pub(super) fn join(one: &Arc<Knowledge>, two: &Arc<Knowledge>) -> Arc<Knowledge> {
        if Arc::ptr_eq(one, two) || one.covers(two) {
            return one.clone();
        }
        if two.covers(one) {
            return two.clone();
        }
        let mut parts = one.parts.clone();
        for (block, epochs) in &two.parts {
            match parts.binary_search_by_key(block, |part| part.0) {
                Ok(at) if covers(&parts[at].1, epochs) => {}
                Ok(at) => parts[at].1 = parts[at].1.iter().zip(&**epochs).map(|(a, b)| *a.max(b)).collect(),
                Err(at) => parts.insert(at, (*block, epochs.clone())),
            }
        }
        Arc::new(Knowledge { parts })
    }
}

/// Whether no epoch is behind.
pub(super) fn covers(one: &[u32], two: &[u32]) -> bool {
    std::ptr::eq(one, two) || one.iter().zip(two).all(|(a, b)| a >= b)
}

/// Raises epochs to those of `other`.
pub(super) fn raise(epochs: &mut [u32], other: &[u32]) {
    for (epoch, other) in epochs.iter_mut().zip(other) {
        *epoch = (*epoch).max(*other);
    }
}
