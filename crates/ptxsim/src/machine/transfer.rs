//! Loads and stores.

use super::access::{Direction, Places};
use super::block::{Block, Stop};
use super::observe::Effect;
use super::race::Kind;
use super::registers::{LANES, Lanes, lanes_of};
use super::shared::wavefronts;
use super::warp::Warp;
use crate::program::op::{Load, Space, Store};

/// The words, or narrower elements, of an access: one of each lane side by side.
type Units = [Lanes; 8];

impl Block<'_> {
    pub(crate) fn load(&mut self, warp: &mut Warp, index: usize, load: &Load, mask: u32) -> Result<(), Stop> {
        let (env, bytes) = (self.env, load.bytes * load.dst.len() as u32);
        let addresses = self.addresses(warp, index, &load.address);
        let (mut rest, mut units): (u32, Units) = (mask, [[0; LANES]; 8]);
        while rest != 0 {
            let space = (load.address.space, &addresses);
            let places = self.places(warp, space, &mut rest, bytes, Direction::Read)?;
            if !load.order.strong {
                self.read(warp, &places, load, &mut units)?;
                continue;
            }
            self.polls += 1;
            // Lane by lane, so that no other block comes between a value and what it tells of.
            for lane in lanes_of(places.mask) {
                let lock = self.lock_place(&places, lane);
                let _whole = (bytes > 4).then(|| env.wide_atomics.lock());
                self.read(warp, &places.only(lane), load, &mut units)?;
                self.strong(warp, lane, &places, load.order, Effect::READ, lock);
            }
        }
        let words = load.bytes.div_ceil(4) as usize;
        for (element, dst) in load.dst.iter().enumerate() {
            let Some(dst) = *dst else { continue };
            if load.bytes < 4 {
                let unused = 32 - 8 * load.bytes;
                let extend = |value: u32| match load.signed {
                    true => ((value << unused) as i32 >> unused) as u32,
                    false => value,
                };
                let mut low = units[element].map(extend);
                if load.words == 2 {
                    let high = low.map(|value| if load.signed { (value as i32 >> 31) as u32 } else { 0 });
                    warp.registers.set(mask, dst.word(1), &high);
                }
                if load.register_bytes < 4 {
                    low = low.map(|value| value & ((1 << (8 * load.register_bytes)) - 1));
                }
                warp.registers.set(mask, dst, &low);
                continue;
            }
            for word in 0..words {
                warp.registers
                    .set(mask, dst.word(word as u32), &units[element * words + word]);
            }
            for word in words..load.words as usize {
                let last = &units[element * words + words - 1];
                let high = last.map(|value| if load.signed { (value as i32 >> 31) as u32 } else { 0 });
                warp.registers.set(mask, dst.word(word as u32), &high);
            }
        }
        Ok(())
    }

    /// Reads the lanes' bytes.
    fn read(&mut self, warp: &Warp, places: &Places, load: &Load, units: &mut Units) -> Result<(), Stop> {
        let (bytes, unit, kind) = (places.bytes, load.bytes.min(4), Kind::of(false, load.order));
        self.count(places, Direction::Read);
        for lane in lanes_of(places.mask) {
            let offset = places.offsets[lane];
            let written = match places.space {
                Space::Shared => {
                    for (number, at) in (0..bytes).step_by(unit as usize).enumerate() {
                        units[number][lane] = self.shared.load(offset as u32 + at, unit);
                    }
                    self.shared.is_written(offset as u32, bytes)
                }
                Space::Local => {
                    let mut data = [0; 32];
                    let written = warp.local.read(lane, offset as u32, &mut data[..bytes as usize]);
                    spread(&data[..bytes as usize], unit, lane, units);
                    written
                }
                Space::Param => {
                    let range = offset as usize..offset as usize + bytes as usize;
                    spread(&self.env.params[range], unit, lane, units);
                    true
                }
                Space::Global | Space::Const | Space::Generic => {
                    let allocation = self.env.memory.allocation(places.allocations[lane]);
                    for (number, at) in (0..bytes).step_by(unit as usize).enumerate() {
                        units[number][lane] = allocation.load(offset + u64::from(at), unit);
                    }
                    allocation.is_written(offset, u64::from(bytes))
                }
            };
            if !written {
                self.uninitialised(warp, lane, places)?;
            }
            self.observe(warp, lane, places, kind, false)?;
        }
        Ok(())
    }

    pub(crate) fn store(&mut self, warp: &mut Warp, index: usize, store: &Store, mask: u32) -> Result<(), Stop> {
        let (env, bytes) = (self.env, store.bytes * store.src.len() as u32);
        let addresses = self.addresses(warp, index, &store.address);
        let mut rest = mask;
        while rest != 0 {
            let space = (store.address.space, &addresses);
            let places = self.places(warp, space, &mut rest, bytes, Direction::Write)?;
            self.count(&places, Direction::Write);
            let mut units: Units = [[0; LANES]; 8];
            let words = store.bytes.div_ceil(4) as usize;
            for (element, src) in store.src.iter().enumerate() {
                for word in 0..words {
                    units[element * words + word] = *warp.registers.lanes(src.word(word as u32));
                }
            }
            for lane in lanes_of(places.mask) {
                let lock = if store.order.strong {
                    self.lock_place(&places, lane)
                } else {
                    None
                };
                let _whole = (store.order.strong && bytes > 4).then(|| env.wide_atomics.lock());
                self.store_lane(warp, lane, &places, store, &units)?;
                if store.order.strong {
                    self.strong(warp, lane, &places, store.order, Effect::WRITE, lock);
                }
            }
            self.progress += 1;
        }
        Ok(())
    }

    fn store_lane(
        &mut self,
        warp: &mut Warp,
        lane: usize,
        places: &Places,
        store: &Store,
        units: &Units,
    ) -> Result<(), Stop> {
        let (offset, unit, kind) = (places.offsets[lane], store.bytes.min(4), Kind::of(true, store.order));
        let mask = if unit == 4 { u32::MAX } else { (1 << (8 * unit)) - 1 };
        let value = |number: usize| units[number][lane] & mask;
        let steps = (0..places.bytes).step_by(unit as usize).enumerate();
        match places.space {
            Space::Shared => {
                let offset = offset as u32;
                if self.races.is_some() {
                    // Several threads that store the same value do not race: no order of theirs can be told apart.
                    let same = steps
                        .clone()
                        .all(|(n, at)| self.shared.load(offset + at, unit) == value(n));
                    self.observe(warp, lane, places, kind, same)?;
                }
                for (number, at) in steps {
                    self.shared.store(offset + at, unit, value(number));
                }
            }
            Space::Local => {
                for (number, at) in steps {
                    let data = value(number).to_le_bytes();
                    warp.local.write(lane, offset as u32 + at, &data[..unit as usize]);
                }
            }
            _ => {
                let env = self.env;
                let allocation = env.memory.allocation(places.allocations[lane]);
                if self.races.is_some() {
                    let same = steps
                        .clone()
                        .all(|(n, at)| allocation.load(offset + u64::from(at), unit) == value(n));
                    self.observe(warp, lane, places, kind, same)?;
                }
                for (number, at) in steps {
                    allocation.store(offset + u64::from(at), unit, value(number));
                }
            }
        }
        Ok(())
    }

    /// Counts an access of all lanes.
    pub(crate) fn count(&mut self, places: &Places, direction: Direction) {
        match places.space {
            Space::Shared => {
                let offsets = places.offsets.map(|offset| offset as u32);
                let (passes, ideal) = wavefronts(&offsets, places.mask, places.bytes);
                self.counters.shared_wavefronts += passes;
                self.counters.shared_wavefronts_ideal += ideal;
            }
            Space::Global | Space::Const | Space::Generic => self.count_global(places, direction),
            Space::Local | Space::Param => {}
        }
    }

    fn count_global(&mut self, places: &Places, direction: Direction) {
        let bytes = places.bytes;
        let write = direction == Direction::Write;
        // A lane has at most 32 bytes, which begin in one sector and end in it or the next.
        let (mut seen, mut sectors) = ([(0, 0); 2 * LANES], 0);
        for lane in lanes_of(places.mask) {
            let (allocation, offset) = (places.allocations[lane], places.offsets[lane]);
            for sector in offset / 32..=(offset + u64::from(bytes) - 1) / 32 {
                // Most often the lane before has it.
                if !seen[..sectors].iter().rev().any(|known| *known == (allocation, sector)) {
                    seen[sectors] = (allocation, sector);
                    sectors += 1;
                }
            }
            self.env
                .memory
                .allocation(allocation)
                .touch(offset, u64::from(bytes), write);
        }
        let (sectors, requested) = (sectors as u64, u64::from(places.mask.count_ones() * bytes));
        let counters = &mut self.counters;
        // Lanes that share bytes need fewer than they ask for.
        counters.global_sectors_ideal += requested.div_ceil(32).min(sectors);
        if write {
            counters.global_bytes_written += requested;
            counters.global_sectors_written += sectors;
        } else {
            counters.global_bytes_read += requested;
            counters.global_sectors_read += sectors;
        }
    }
}

/// Bytes of a lane to units.
fn spread(bytes: &[u8], unit: u32, lane: usize, units: &mut Units) {
    for (number, chunk) in bytes.chunks(unit as usize).enumerate() {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        units[number][lane] = u32::from_le_bytes(word);
    }
}
