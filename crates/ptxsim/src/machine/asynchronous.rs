//! `cp.async`: issue, and landing.

use super::access::{Direction, Places};
use super::barrier::predicate;
use super::block::{Block, Stop};
use super::copies::Copy;
use super::options::Asynchrony;
use super::registers::{LANES, bits, lanes_of};
use super::report::Checker;
use super::warp::Warp;
use crate::program::op::{CpAsync, Space};

impl Block<'_> {
    pub(crate) fn cp_async(&mut self, warp: &mut Warp, index: usize, op: &CpAsync, mask: u32) -> Result<(), Stop> {
        let to = self.addresses(warp, index, &op.dst);
        let to = self.resolve(warp, Space::Shared, &to, mask, op.bytes, Direction::Write)?;
        let mut read = match op.src_bytes {
            Some(reg) => *warp.registers.lanes(reg),
            None => [op.bytes; LANES],
        };
        if let Some(lane) = lanes_of(mask).find(|lane| read[*lane] > op.bytes) {
            let message = format!("a copy of {} bytes that reads {}", op.bytes, read[lane]);
            return Err(self.fault(warp, 1 << lane, Checker::Memcheck, message));
        }
        if let Some(ignore) = op.ignore {
            let ignored = predicate(warp, ignore);
            read = std::array::from_fn(|lane| if ignored >> lane & 1 == 1 { 0 } else { read[lane] });
        }
        let from = self.copy_sources(warp, index, op, mask, &read)?;
        self.count(&to, Direction::Write);
        for lane in lanes_of(mask) {
            let copy = Copy {
                lane: lane as u32,
                number: warp.copies.issue(lane),
                to: to.offsets[lane] as u32,
                bytes: op.bytes,
                read: read[lane],
                allocation: from.allocations[lane],
                from: from.offsets[lane],
            };
            self.observe_copy(warp, &copy, &to, &from)?;
            match self.env.options.asynchrony {
                Asynchrony::Eager => self.make(&copy),
                Asynchrony::Lazy => warp.copies.defer(copy),
            }
        }
        Ok(())
    }

    /// Where the lanes read. A lane that reads nothing needs no address that is right.
    fn copy_sources(
        &mut self,
        warp: &Warp,
        index: usize,
        op: &CpAsync,
        mask: u32,
        read: &[u32; LANES],
    ) -> Result<Places, Stop> {
        let addresses = self.addresses(warp, index, &op.src);
        let mut all = Places {
            space: Space::Global,
            mask: 0,
            bytes: op.bytes,
            offsets: [0; LANES],
            allocations: [0; LANES],
        };
        let mut rest = mask & bits(|lane| read[lane] > 0);
        while rest != 0 {
            let bytes = read[rest.trailing_zeros() as usize];
            let part = rest & bits(|lane| read[lane] == bytes);
            if let Some(lane) = lanes_of(part).find(|lane| !addresses[*lane].is_multiple_of(u64::from(op.bytes))) {
                let message = format!(
                    "a copy of {} bytes from {:#x}, which is not a multiple of that",
                    op.bytes, addresses[lane]
                );
                return Err(self.fault(warp, 1 << lane, Checker::Memcheck, message));
            }
            let places = self.resolve_unaligned(warp, &addresses, part, bytes)?;
            self.count(&places, Direction::Read);
            for lane in lanes_of(part) {
                all.offsets[lane] = places.offsets[lane];
                all.allocations[lane] = places.allocations[lane];
                let allocation = self.env.memory.allocation(places.allocations[lane]);
                if !allocation.is_written(places.offsets[lane], u64::from(bytes)) {
                    self.uninitialised(warp, lane, &places)?;
                }
            }
            all.mask |= part;
            rest &= !part;
        }
        Ok(all)
    }

    /// Moves a copy's bytes.
    fn make(&mut self, copy: &Copy) {
        let mut at = 0;
        while at < copy.bytes {
            let bytes = (copy.read.saturating_sub(at)).min(4);
            let value = match bytes {
                0 => 0,
                bytes => {
                    let allocation = self.env.memory.allocation(copy.allocation);
                    allocation.load(copy.from + u64::from(at), bytes)
                }
            };
            self.shared.store(copy.to + at, 4, value);
            at += 4;
        }
    }

    /// `cp.async.wait_group` and `cp.async.wait_all`.
    pub(crate) fn wait_copies(&mut self, warp: &mut Warp, mask: u32, pending: u32, all: bool) {
        let mut up_to = [0; LANES];
        for lane in lanes_of(mask) {
            up_to[lane] = warp.copies.wait(lane, pending, all);
        }
        self.land(warp, mask, &up_to);
        if let Some(races) = &mut self.races {
            lanes_of(mask).for_each(|lane| races.complete_async(warp.index * 32 + lane as u32, up_to[lane]));
        }
    }

    /// Lands the copies of lanes up to a number, then the arrivals that waited for them.
    pub(crate) fn land(&mut self, warp: &mut Warp, mask: u32, up_to: &[u32; LANES]) {
        for copy in warp.copies.take(up_to) {
            self.make(&copy);
        }
        for arrival in warp.copies.take_arrivals(up_to, mask) {
            self.copies_arrive(&arrival);
        }
    }
}
