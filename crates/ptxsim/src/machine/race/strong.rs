//! Release and acquire through strong accesses and fences.
//!
//! As in PTX's memory model: what a thread did before a release operation on a place, or before a fence, is told by its
//! strong writes of that place, respectively of any place, from then on; atomic operations pass on what the value they
//! replace told. A strong read brings it to the thread by an acquire operation on the place, itself or a later one, or by a
//! later fence. Either holds towards the threads that the scopes of all the operations involved reach.

use std::collections::HashMap;
use std::sync::Arc;

use super::access::Scope;
use super::block::BlockRaces;
use super::clock::Clock;
use super::knowledge::Knowledge;
use super::place::{self, GlobalPlace, Reach};

/// Where a strong access goes.
#[derive(Debug)]
pub(crate) enum Place<'p, 'g> {
    /// An offset in shared memory.
    Shared(u32),
    /// An address in global memory.
    Global(&'p mut GlobalPlace<'g>),
}

/// How strong a strong access is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strength {
    /// Whether it is an acquire (of a read) or a release (of a write) by itself; otherwise relaxed or volatile.
    pub synchronises: bool,
    /// Whom it reaches.
    pub scope: Scope,
}

/// A place as a thread remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Shared(u32),
    Global(u64),
}

/// What a thread released or saw, which later accesses and fences of it refer to.
#[derive(Debug, Default)]
pub(super) struct History {
    /// At its last fence.
    fence: Released,
    /// At its last release operation on each place, since the last fence that reaches every block.
    releases: HashMap<Key, Released>,
    /// What it saw at each place and did not acquire.
    seen: HashMap<Key, Reach>,
}

/// A thread's knowledge at its last release of either reach.
#[derive(Clone, Debug, Default)]
struct Released {
    narrow: Option<Release>,
    wide: Option<Release>,
}

/// A release: when, in the thread's epochs, and what.
#[derive(Clone, Debug)]
struct Release {
    epoch: u32,
    knowledge: Arc<Knowledge>,
}

impl Released {
    fn set(&mut self, scope: Scope, release: &Release) {
        self.narrow = Some(release.clone());
        if scope == Scope::Device {
            self.wide = Some(release.clone());
        }
    }
}

/// The later of two releases of one thread, which knows all that the earlier one does.
fn later(one: Option<&Release>, two: Option<&Release>) -> Option<Arc<Knowledge>> {
    let latest = one.into_iter().chain(two).max_by_key(|release| release.epoch);
    latest.map(|release| release.knowledge.clone())
}

impl History {
    /// What a strong write of a place tells.
    fn told(&self, key: Key, scope: Scope) -> Reach {
        let release = self.releases.get(&key);
        let narrow = later(
            self.fence.narrow.as_ref(),
            release.and_then(|release| release.narrow.as_ref()),
        );
        let wide = later(
            self.fence.wide.as_ref(),
            release.and_then(|release| release.wide.as_ref()),
        );
        Reach {
            narrow,
            wide: wide.filter(|_| scope == Scope::Device),
        }
    }

    /// What a fence of this scope acquires of all that was seen.
    fn acquire(&mut self, scope: Scope) -> Vec<Arc<Knowledge>> {
        let mut acquired = Vec::new();
        for seen in self.seen.values_mut() {
            acquired.extend(seen.narrow.take());
            if scope == Scope::Device {
                acquired.extend(seen.wide.take());
            }
        }
        self.seen.retain(|_, seen| !seen.is_empty());
        acquired
    }
}

impl Place<'_, '_> {
    fn key(&self) -> Key {
        match self {
            Place::Shared(offset) => Key::Shared(*offset),
            Place::Global(place) => Key::Global(place.address()),
        }
    }

    /// Only the block itself reaches its shared memory.
    fn scope(&self, scope: Scope) -> Scope {
        match self {
            Place::Shared(_) => Scope::Block,
            Place::Global(_) => scope,
        }
    }
}

impl BlockRaces {
    /// `fence.acq_rel`, `fence.sc` or `membar`.
    pub(crate) fn fence(&mut self, thread: u32, scope: Scope) {
        let acquired = self.history(thread).acquire(scope);
        for knowledge in &acquired {
            self.learn(thread, knowledge);
        }
        let release = self.release(thread);
        let history = self.history(thread);
        history.fence.set(scope, &release);
        if scope == Scope::Device {
            // What the fence tells includes them.
            history.releases.clear();
        }
    }

    /// A strong write, or the write of an atomic operation (`atomic`), of which the read is to be told first.
    pub(crate) fn strong_write(&mut self, place: Place, thread: u32, strength: Strength, atomic: bool) {
        let (key, scope) = (place.key(), place.scope(strength.scope));
        if strength.synchronises {
            let release = self.release(thread);
            self.history(thread)
                .releases
                .entry(key)
                .or_default()
                .set(scope, &release);
        }
        let told = self.history(thread).told(key, scope);
        let block = self.block();
        match place {
            Place::Shared(offset) => place::write(self.places(), offset.into(), block, atomic, told),
            Place::Global(place) => place.write(block, atomic, told),
        }
    }

    /// A strong read, or the read of an atomic operation that gives the old value (`red` gives none and reads nothing).
    pub(crate) fn strong_read(&mut self, place: Place, thread: u32, strength: Strength) {
        let (key, scope) = (place.key(), place.scope(strength.scope));
        let block = self.block();
        let mut seen = match place {
            Place::Shared(offset) => self.places().get(&offset.into()).map(|place| place.read(block)),
            Place::Global(place) => Some(place.read(block)),
        }
        .unwrap_or_default();
        if scope == Scope::Block {
            seen.wide = None;
        }
        if strength.synchronises {
            self.acquire(thread, key, scope, seen);
        } else if !seen.is_empty() {
            self.history(thread).seen.entry(key).or_default().join(seen);
        }
    }

    /// An acquire operation on a place, which covers earlier reads of the place too.
    fn acquire(&mut self, thread: u32, key: Key, scope: Scope, seen: Reach) {
        let mut all = self.history(thread).seen.remove(&key).unwrap_or_default();
        all.join(seen);
        if let Some(narrow) = all.narrow.take() {
            self.learn(thread, &narrow);
        }
        if scope == Scope::Device
            && let Some(wide) = all.wide.take()
        {
            self.learn(thread, &wide);
        }
        if !all.is_empty() {
            self.history(thread).seen.insert(key, all);
        }
    }

    /// What the thread knows now, to be told to others; its epoch ends.
    fn release(&mut self, thread: u32) -> Release {
        let block = self.block();
        let clock: &mut Clock = self.clock(thread);
        let release = Release {
            epoch: clock.epoch,
            knowledge: clock.publish(block, thread),
        };
        clock.epoch += 1;
        release
    }
}
