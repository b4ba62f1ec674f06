//! Addresses to places in memory, with their checks.

use super::address::{from_generic, to_generic};
use super::block::{Block, Stop};
use super::memory::Access;
use super::registers::{LANES, lanes_of};
use super::report::Checker;
use super::warp::Warp;
use crate::program::op::{Address, Base, Space};

/// The allocation that was accessed last: most accesses stay in it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    index: usize,
    base: u64,
    end: u64,
}

/// Addresses below it come of adding an offset to a null pointer.
const NULL_PAGE: u64 = 1 << 16;

/// What an instruction does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// The lanes of an access that lie in one space, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub space: Space,
    pub mask: u32,
    /// Bytes of each lane.
    pub bytes: u32,
    /// Offsets in the space; in global memory within the allocation.
    pub offsets: [u64; LANES],
    /// Allocations, in global memory.
    pub allocations: [usize; LANES],
}

impl Places {
    /// One of the lanes.
    pub(crate) fn only(&self, lane: usize) -> Places {
        Places {
            mask: 1 << lane,
            ..*self
        }
    }
}

impl Block<'_> {
    /// The address of every lane, in the operand's space.
    pub(crate) fn addresses(&self, warp: &Warp, index: usize, address: &Address) -> [u64; LANES] {
        let offset = address.offset as u64;
        match address.base {
            Base::None => [offset; LANES],
            Base::Word(reg) => warp
                .registers
                .lanes(reg)
                .map(|base| u64::from(base.wrapping_add(offset as u32))),
            Base::Wide(reg) => warp.registers.get::<u64>(reg).map(|base| base.wrapping_add(offset)),
            Base::Frame => [u64::from(warp.fragments[index].local_base).wrapping_add(offset); LANES],
        }
    }

    /// The places of as many of the lanes in `rest` as lie in one space, which it takes out of `rest`: generic addresses may
    /// lie in several.
    pub(crate) fn places(
        &mut self,
        warp: &Warp,
        (space, addresses): (Space, &[u64; LANES]),
        rest: &mut u32,
        bytes: u32,
        direction: Direction,
    ) -> Result<Places, Stop> {
        if space != Space::Generic {
            return self.resolve(warp, space, addresses, std::mem::take(rest), bytes, direction);
        }
        let (space, _) = from_generic(addresses[rest.trailing_zeros() as usize % LANES]);
        let part = *rest & super::registers::bits(|lane| from_generic(addresses[lane]).0 == space);
        *rest &= !part;
        let inner = addresses.map(|address| from_generic(address).1);
        self.resolve(warp, space, &inner, part, bytes, direction)
    }

    /// The places of lanes that must all lie in shared memory.
    pub(crate) fn shared_places(
        &mut self,
        warp: &Warp,
        index: usize,
        address: &Address,
        mask: u32,
        bytes: u32,
        direction: Direction,
    ) -> Result<Places, Stop> {
        let addresses = self.addresses(warp, index, address);
        let mut rest = mask;
        let places = self.places(warp, (address.space, &addresses), &mut rest, bytes, direction)?;
        if rest == 0 && places.space == Space::Shared {
            return Ok(places);
        }
        let message = "an address that is not in shared memory".to_owned();
        Err(self.fault(warp, mask, Checker::Memcheck, message))
    }

    /// Checks the alignment and the bounds of lanes of one space.
    pub(crate) fn resolve(
        &mut self,
        warp: &Warp,
        space: Space,
        addresses: &[u64; LANES],
        mask: u32,
        bytes: u32,
        direction: Direction,
    ) -> Result<Places, Stop> {
        let mut places = Places {
            space,
            mask,
            bytes,
            offsets: [0; LANES],
            allocations: [0; LANES],
        };
        if space == Space::Param && direction == Direction::Write && mask != 0 {
            let lane = mask.trailing_zeros() as usize;
            let address = addresses[lane];
            let message =
                format!("write of {bytes} bytes at offset {address:#x} of parameter memory, which is read-only");
            return Err(self.memory_fault(warp, lane, space, address, message));
        }
        let limit = match space {
            Space::Shared => u64::from(self.shared.bytes()),
            Space::Local => u64::from(warp.local.bytes()),
            Space::Param => self.env.params.len() as u64,
            Space::Global | Space::Const | Space::Generic => u64::MAX,
        };
        for lane in lanes_of(mask) {
            let address = addresses[lane];
            if !address.is_multiple_of(u64::from(bytes)) {
                let message = format!(
                    "{} of {bytes} bytes at {address:#x}, which is not a multiple of {bytes}",
                    verb(direction)
                );
                return Err(self.memory_fault(warp, lane, space, address, message));
            }
            if limit != u64::MAX {
                if address.checked_add(u64::from(bytes)).is_none_or(|end| end > limit) {
                    let message = format!(
                        "{} of {bytes} bytes at offset {address:#x} of {} memory, which has {limit} bytes",
                        verb(direction),
                        space_name(space)
                    );
                    return Err(self.memory_fault(warp, lane, space, address, message));
                }
                places.offsets[lane] = address;
                continue;
            }
            let window = self.global_window(warp, lane, address, bytes, direction)?;
            places.offsets[lane] = address - window.base;
            places.allocations[lane] = window.index;
        }
        Ok(places)
    }

    /// Global places of lanes whose alignment is another matter.
    pub(crate) fn resolve_unaligned(
        &mut self,
        warp: &Warp,
        addresses: &[u64; LANES],
        mask: u32,
        bytes: u32,
    ) -> Result<Places, Stop> {
        let mut places = Places {
            space: Space::Global,
            mask,
            bytes,
            offsets: [0; LANES],
            allocations: [0; LANES],
        };
        for lane in lanes_of(mask) {
            let window = self.global_window(warp, lane, addresses[lane], bytes, Direction::Read)?;
            places.offsets[lane] = addresses[lane] - window.base;
            places.allocations[lane] = window.index;
        }
        Ok(places)
    }

    /// The allocation of a global access.
    #[inline(always)]
    fn global_window(
        &mut self,
        warp: &Warp,
        lane: usize,
        address: u64,
        bytes: u32,
        direction: Direction,
    ) -> Result<Window, Stop> {
        let mut window = self.window;
        if address < window.base || address >= window.end {
            let Some(index) = self.env.memory.find(address) else {
                let what = self.what_lies_at(address);
                let message = format!(
                    "{} of {bytes} bytes at {address:#x}, in no allocation: {what}",
                    verb(direction)
                );
                return Err(self.memory_fault(warp, lane, Space::Global, address, message));
            };
            let allocation = self.env.memory.allocation(index);
            window = Window {
                index,
                base: allocation.base,
                end: allocation.end(),
            };
            self.window = window;
        }
        if u64::from(bytes) > window.end - address {
            let allocation = self.env.memory.allocation(window.index);
            let message = format!(
                "{} of {bytes} bytes at {address:#x} reaches past the end of {} ({} bytes)",
                verb(direction),
                allocation.name,
                allocation.bytes
            );
            return Err(self.memory_fault(warp, lane, Space::Global, address, message));
        }
        if direction == Direction::Write && self.env.memory.allocation(window.index).access == Access::ReadOnly {
            let name = &self.env.memory.allocation(window.index).name;
            let message = format!("write of {bytes} bytes at {address:#x} to {name}, which is read-only");
            return Err(self.memory_fault(warp, lane, Space::Global, address, message));
        }
        Ok(window)
    }

    /// What an address outside of every allocation is.
    fn what_lies_at(&self, address: u64) -> String {
        let (space, _) = from_generic(address);
        if space != Space::Global {
            return format!("an address of {} memory", space_name(space));
        }
        if address < NULL_PAGE {
            return "a null pointer".to_owned();
        }
        let near = self.env.memory.nearest(address);
        near.map_or("there are no allocations".to_owned(), |(_, near)| near)
    }

    fn memory_fault(&mut self, warp: &Warp, lane: usize, space: Space, address: u64, message: String) -> Stop {
        let mut report = self.new_report(warp, 1 << lane, Checker::Memcheck, message);
        report.address = Some(address);
        let is_global = matches!(space, Space::Global | Space::Const) && from_generic(address).0 == Space::Global;
        if is_global && address >= NULL_PAGE {
            report.allocation = self
                .env
                .memory
                .nearest(address)
                .map(|(allocation, _)| allocation.name.clone());
        }
        self.env.reports.submit_fault(report, self.pc);
        Stop
    }

    /// Reports a read of bytes that nothing wrote.
    pub(crate) fn uninitialised(&mut self, warp: &Warp, lane: usize, places: &Places) -> Result<(), Stop> {
        if !self.env.options.checks.initialised {
            return Ok(());
        }
        let offset = places.offsets[lane];
        let (name, address) = self.describe(places.space, places.allocations[lane], offset);
        let bytes = places.bytes;
        let message = format!("read of {bytes} bytes at {name}, of which some were never written");
        let mut report = self.new_report(warp, 1 << lane, Checker::Initcheck, message);
        report.address = Some(address);
        report.allocation = self.allocation_name(places.space, places.allocations[lane]);
        self.submit(report)
    }

    /// A place in words, and its address.
    pub(crate) fn describe(&self, space: Space, allocation: usize, offset: u64) -> (String, u64) {
        match space {
            Space::Global | Space::Const | Space::Generic => {
                let allocation = self.env.memory.allocation(allocation);
                let address = allocation.base + offset;
                (format!("{address:#x} ({} + {offset})", allocation.name), address)
            }
            _ => (format!("offset {offset:#x} of {} memory", space_name(space)), offset),
        }
    }

    pub(crate) fn allocation_name(&self, space: Space, allocation: usize) -> Option<String> {
        match space {
            Space::Global | Space::Const => Some(self.env.memory.allocation(allocation).name.clone()),
            _ => None,
        }
    }

    /// `isspacep`: the lanes whose generic address lies in a space.
    pub(crate) fn in_space(&self, addresses: &[u64; LANES], space: Space) -> u32 {
        super::registers::bits(|lane| {
            let (found, address) = from_generic(addresses[lane]);
            let constant = || {
                let index = self.env.memory.find(to_generic(found, address));
                index.is_some_and(|index| self.env.memory.allocation(index).constant)
            };
            match space {
                Space::Const => found == Space::Global && constant(),
                // The kernel's parameters lie in the window of global memory (PTX ISA, `isspacep`).
                Space::Global => found == Space::Param || found == Space::Global && !constant(),
                space => found == space,
            }
        })
    }
}

fn verb(direction: Direction) -> &'static str {
    match direction {
        Direction::Read => "read",
        Direction::Write => "write",
    }
}

pub(crate) fn space_name(space: Space) -> &'static str {
    match space {
        Space::Shared => "shared",
        Space::Local => "local",
        Space::Param => "parameter",
        Space::Const => "constant",
        Space::Global | Space::Generic => "global",
    }
}
