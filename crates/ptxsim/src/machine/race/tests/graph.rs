//! What is before what, as a graph: a node for each event, with all of its ancestors.

use super::trace::{Range, Space};
use super::*;

/// A thread of a block.
pub(super) type Id = (u32, u32);

/// The events so far.
#[derive(Default)]
pub(super) struct Graph {
    /// Whether each node is after each earlier one.
    after: Vec<Vec<bool>>,
    /// The last node of each thread.
    last: std::collections::HashMap<Id, usize>,
    fences: Vec<(Id, usize, Scope)>,
    writes: Vec<StrongWrite>,
    reads: Vec<StrongRead>,
    accesses: Vec<(Range, Kind, u32, usize)>,
}

/// A place: the block for shared memory, and a number.
pub(super) type Key = (Option<u32>, u32);

struct StrongWrite {
    id: Id,
    key: Key,
    node: usize,
    strength: Strength,
    /// The writes whose releases a read of this one observes.
    observed: Vec<usize>,
}

struct StrongRead {
    id: Id,
    key: Key,
    node: usize,
    scope: Scope,
    observed: Vec<usize>,
}

impl Graph {
    /// An event after these nodes.
    pub(super) fn node(&mut self, after: &[usize]) -> usize {
        let node = self.after.len();
        let mut ancestors = vec![false; node + 1];
        for &parent in after {
            ancestors[parent] = true;
            for (ancestor, is) in self.after[parent].iter().enumerate() {
                ancestors[ancestor] |= is;
            }
        }
        self.after.push(ancestors);
        node
    }

    /// An event of a thread, after what it did before and after these nodes.
    pub(super) fn event(&mut self, id: Id, after: &[usize]) -> usize {
        let parents: Vec<usize> = self.last.get(&id).into_iter().chain(after).copied().collect();
        let node = self.node(&parents);
        self.last.insert(id, node);
        node
    }

    pub(super) fn fence(&mut self, id: Id, scope: Scope) {
        let released = self.releases(id, None, scope);
        let node = self.event(id, &released);
        self.fences.push((id, node, scope));
    }

    pub(super) fn strong_write(&mut self, id: Id, key: Key, strength: Strength, atomic: bool) {
        let node = self.event(id, &[]);
        let replaced = self.writes.iter().rfind(|write| write.key == key);
        let mut observed = replaced
            .filter(|_| atomic)
            .map_or_else(Vec::new, |write| write.observed.clone());
        observed.push(self.writes.len());
        let write = StrongWrite {
            id,
            key,
            node,
            strength,
            observed,
        };
        self.writes.push(write);
    }

    pub(super) fn strong_read(&mut self, id: Id, key: Key, strength: Strength) {
        let read = self.event(id, &[]);
        let write = self.writes.iter().rfind(|write| write.key == key);
        let observed = write.map_or_else(Vec::new, |write| write.observed.clone());
        self.reads.push(StrongRead {
            id,
            key,
            node: read,
            scope: strength.scope,
            observed,
        });
        if strength.synchronises {
            let released = self.releases(id, Some(key), strength.scope);
            self.event(id, &released);
        }
    }

    /// The releases that an acquire of a thread, on a place or by a fence on all, synchronises with.
    fn releases(&self, id: Id, key: Option<Key>, scope: Scope) -> Vec<usize> {
        let mut nodes = Vec::new();
        for read in self
            .reads
            .iter()
            .filter(|read| read.id == id && key.is_none_or(|key| key == read.key))
        {
            for write in read.observed.iter().map(|&write| &self.writes[write]) {
                for (node, release) in self.releases_of(write) {
                    let wide = [scope, read.scope, write.strength.scope, release];
                    if write.id.0 == id.0 || wide.iter().all(|scope| *scope == Scope::Device) {
                        assert!(node < self.after.len() && read.node < self.after.len());
                        nodes.push(node);
                    }
                }
            }
        }
        nodes
    }

    /// The release operations and fences that a strong write tells of, with their scopes.
    fn releases_of(&self, write: &StrongWrite) -> Vec<(usize, Scope)> {
        let operations = self.writes.iter().filter(|other| {
            other.id == write.id && other.key == write.key && other.node <= write.node && other.strength.synchronises
        });
        let fences = self
            .fences
            .iter()
            .filter(|(id, node, _)| *id == write.id && *node < write.node);
        let operations = operations.map(|other| (other.node, other.strength.scope));
        operations
            .chain(fences.map(|(_, node, scope)| (*node, *scope)))
            .collect()
    }

    /// An access by the event `node` of `block`: whether it races with an earlier one.
    pub(super) fn access(&mut self, range: Range, kind: Kind, block: u32, node: usize) -> bool {
        let races = self
            .accesses
            .iter()
            .any(|(other, other_kind, other_block, other_node)| {
                let same = other.space == range.space && (range.space == Space::Global || *other_block == block);
                let overlap = range.offset < other.offset + other.bytes && other.offset < range.offset + range.bytes;
                let ordered = *other_node == node || self.after[node].get(*other_node).copied().unwrap_or_default();
                same && overlap && conflict(kind, *other_kind, block == *other_block) && !ordered
            });
        self.accesses.push((range, kind, block, node));
        races
    }
}

fn conflict(one: Kind, two: Kind, same_block: bool) -> bool {
    let strong = |kind| match kind {
        Kind::Read | Kind::Write => false,
        Kind::StrongRead(scope) | Kind::StrongWrite(scope) => same_block || scope == Scope::Device,
    };
    let write = |kind| matches!(kind, Kind::Write | Kind::StrongWrite(_));
    (write(one) || write(two)) && !(strong(one) && strong(two))
}
