//! Asynchronous copies that were issued and have not landed.
//!
//! A copy is an actor of its own: it reads and writes memory at some time between its issue and the wait that includes it.

use super::race::AsyncArrival;
use super::registers::{LANES, lanes_of};

/// One lane's `cp.async`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub lane: u32,
    /// Number among its thread's copies, from 1.
    pub number: u32,
    /// Offset in shared memory.
    pub to: u32,
    pub bytes: u32,
    /// Bytes read; the rest becomes zero.
    pub read: u32,
    /// Allocation and offset in global memory.
    pub allocation: usize,
    pub from: u64,
}

/// An arrival at an mbarrier that waits for its thread's copies.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub lane: u32,
    /// Offset of the mbarrier.
    pub barrier: u32,
    /// The copies that it waits for: up to this number.
    pub up_to: u32,
    /// What the race detector knows of it.
    pub told: Option<AsyncArrival>,
}

/// The copies of a warp.
#[derive(Debug)]
pub(crate) struct Copies {
    pending: Vec<Copy>,
    arrivals: Vec<Arrival>,
    issued: [u32; LANES],
    /// The number of the last copy in each committed group, by lane, for groups not yet waited for.
    ends: [Vec<u32>; LANES],
}

impl Default for Copies {
    fn default() -> Copies {
        Copies {
            pending: Vec::new(),
            arrivals: Vec::new(),
            issued: [0; LANES],
            ends: std::array::from_fn(|_| Vec::new()),
        }
    }
}

impl Copies {
    /// The number of a lane's next copy.
    pub(crate) fn issue(&mut self, lane: usize) -> u32 {
        self.issued[lane] += 1;
        self.issued[lane]
    }

    /// The number of a lane's latest copy.
    pub(crate) fn issued(&self, lane: usize) -> u32 {
        self.issued[lane]
    }

    /// Keeps a copy until a wait includes it.
    pub(crate) fn defer(&mut self, copy: Copy) {
        self.pending.push(copy);
    }

    /// Keeps an arrival until its copies have landed.
    pub(crate) fn defer_arrival(&mut self, arrival: Arrival) {
        self.arrivals.push(arrival);
    }

    pub(crate) fn commit(&mut self, mask: u32) {
        for lane in lanes_of(mask) {
            self.ends[lane].push(self.issued[lane]);
        }
    }

    /// The lane's copies that are complete once at most `pending` of its latest groups are not (and, with `all`, those that
    /// are in no group too): up to this number; 0 where the wait includes none.
    pub(crate) fn wait(&mut self, lane: usize, pending: u32, all: bool) -> u32 {
        let ends = &mut self.ends[lane];
        if all {
            ends.clear();
            return self.issued[lane];
        }
        let complete = ends.len().saturating_sub(pending as usize);
        ends.drain(..complete).next_back().unwrap_or(0)
    }

    /// Takes the copies out that are complete, given the number up to which each lane's are.
    pub(crate) fn take(&mut self, up_to: &[u32; LANES]) -> Vec<Copy> {
        if self.pending.is_empty() {
            return Vec::new();
        }
        let complete = |copy: &mut Copy| copy.number <= up_to[copy.lane as usize];
        self.pending.extract_if(.., complete).collect()
    }

    /// Takes the arrivals of some lanes out whose copies are complete.
    pub(crate) fn take_arrivals(&mut self, up_to: &[u32; LANES], lanes: u32) -> Vec<Arrival> {
        let complete =
            |arrival: &mut Arrival| lanes >> arrival.lane & 1 == 1 && arrival.up_to <= up_to[arrival.lane as usize];
        self.arrivals.extract_if(.., complete).collect()
    }

    /// Arrivals at an mbarrier that wait.
    pub(crate) fn arrivals_at(&self, barrier: u32) -> impl Iterator<Item = &Arrival> {
        self.arrivals.iter().filter(move |arrival| arrival.barrier == barrier)
    }
}
