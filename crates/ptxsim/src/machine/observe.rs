//! Tells the race detector of accesses, and makes its conflicts reports.

use super::access::Places;
use super::block::{Block, Stop};
use super::copies::Copy;
use super::race::{Access, Actor, Conflict, GlobalPlace, Kind, Place, Scope, Strength};
use super::report::Checker;
use super::warp::Warp;
use crate::program::op::{Order, Space};

/// Most bytes that the detector takes at once.
const MOST: u32 = 16;

impl Kind {
    /// The kind of a load or store.
    pub(crate) fn of(write: bool, order: Order) -> Kind {
        match (write, order.strong) {
            (false, false) => Kind::Read,
            (true, false) => Kind::Write,
            (false, true) => Kind::StrongRead(order.scope),
            (true, true) => Kind::StrongWrite(order.scope),
        }
    }
}

impl<'a> Block<'a> {
    /// A lane's access to its place. A write of what is there already, as `same` says, does not race with another write.
    #[inline]
    pub(crate) fn observe(
        &mut self,
        warp: &Warp,
        lane: usize,
        places: &Places,
        kind: Kind,
        same: bool,
    ) -> Result<(), Stop> {
        if self.races.is_none() {
            return Ok(());
        }
        let access = Access {
            thread: warp.index * 32 + lane as u32,
            actor: Actor::Sync,
            kind,
            bytes: places.bytes,
            line: self.env.kernel.code[self.pc as usize].line,
        };
        let place = (places.space, places.allocations[lane], places.offsets[lane]);
        self.tell(warp, lane, place, access, same)
    }

    /// A copy that was issued: what it reads and what it writes.
    pub(crate) fn observe_copy(&mut self, warp: &Warp, copy: &Copy, to: &Places, from: &Places) -> Result<(), Stop> {
        let (lane, thread) = (copy.lane as usize, warp.index * 32 + copy.lane);
        let Some(races) = &mut self.races else {
            return Ok(());
        };
        let number = races.issue_async(thread);
        let access = Access {
            thread,
            actor: Actor::Async(number),
            kind: Kind::Read,
            bytes: copy.read,
            line: self.env.kernel.code[self.pc as usize].line,
        };
        if copy.read > 0 {
            let place = (Space::Global, from.allocations[lane], from.offsets[lane]);
            self.tell(warp, lane, place, access, false)?;
        }
        let write = Access {
            kind: Kind::Write,
            bytes: copy.bytes,
            ..access
        };
        self.tell(warp, lane, (Space::Shared, 0, to.offsets[lane]), write, false)
    }

    /// An operation on an mbarrier: setting it up is a write, the others are atomic.
    pub(crate) fn observe_mbarrier(&mut self, warp: &Warp, lane: usize, offset: u32, init: bool) -> Result<(), Stop> {
        if self.races.is_none() {
            return Ok(());
        }
        let access = Access {
            thread: warp.index * 32 + lane as u32,
            actor: Actor::Sync,
            kind: if init {
                Kind::Write
            } else {
                Kind::StrongWrite(Scope::Block)
            },
            bytes: 8,
            line: self.env.kernel.code[self.pc as usize].line,
        };
        self.tell(warp, lane, (Space::Shared, 0, offset.into()), access, false)
    }

    fn tell(
        &mut self,
        warp: &Warp,
        lane: usize,
        (space, allocation, offset): (Space, usize, u64),
        access: Access,
        same: bool,
    ) -> Result<(), Stop> {
        let env = self.env;
        let mut at = 0;
        while at < access.bytes {
            let part = Access {
                bytes: (access.bytes - at).min(MOST),
                ..access
            };
            let Some(races) = &mut self.races else {
                return Ok(());
            };
            let start = offset + u64::from(at);
            let mut conflict = None;
            match (space, &env.shadow) {
                (Space::Shared, _) => conflict = races.shared(start as u32, &part),
                (Space::Global, Some(shadow)) if env.memory.allocation(allocation).is_writable() => {
                    races.global(shadow, allocation, [(start, part)], |_, found| conflict = Some(found));
                }
                _ => {}
            }
            if let Some(conflict) = conflict {
                let harmless = same && conflict.previous.kind == Kind::Write && !conflict.previous.asynchronous;
                if !harmless {
                    self.race(warp, lane, (space, allocation, start), conflict)?;
                }
            }
            at += part.bytes;
        }
        Ok(())
    }

    fn race(
        &mut self,
        warp: &Warp,
        lane: usize,
        (space, allocation, offset): (Space, usize, u64),
        conflict: Conflict,
    ) -> Result<(), Stop> {
        let (name, address) = self.describe(space, allocation, offset);
        let (current, previous) = (&conflict.current, &conflict.previous);
        let [x, y, _] = self.env.config.grid;
        let elsewhere = match previous.block == current.block {
            true => String::new(),
            false => {
                let block = [previous.block % x, previous.block / x % y, previous.block / x / y];
                format!(" of block {}", super::report::triple(block))
            }
        };
        let message = format!(
            "{} by thread {} races with {} by thread {}{elsewhere} at PTX line {}, at {name}: {}",
            what(current.kind, current.asynchronous),
            super::report::triple(self.thread_index(current.thread)),
            what(previous.kind, previous.asynchronous),
            super::report::triple(self.thread_index(previous.thread)),
            previous.line,
            conflict.missing
        );
        let mut report = self.new_report(warp, 1 << lane, Checker::Racecheck, message);
        report.address = Some(address);
        report.allocation = self.allocation_name(space, allocation);
        self.submit(report)
    }

    /// A global place of a strong access, locked against other blocks until the detector knows of the access.
    pub(crate) fn lock_place(&self, places: &Places, lane: usize) -> Option<GlobalPlace<'a>> {
        let env = self.env;
        match places.space {
            Space::Global => {
                let base = env.memory.allocation(places.allocations[lane]).base;
                env.shadow
                    .as_ref()
                    .map(|shadow| shadow.place(base + places.offsets[lane]))
            }
            _ => None,
        }
    }

    /// A strong access of one lane, which may order what others do.
    pub(crate) fn strong(
        &mut self,
        warp: &Warp,
        lane: usize,
        places: &Places,
        order: Order,
        effect: Effect,
        lock: Option<GlobalPlace<'_>>,
    ) {
        let Some(races) = &mut self.races else { return };
        let thread = warp.index * 32 + lane as u32;
        let strength = |synchronises| Strength {
            synchronises,
            scope: order.scope,
        };
        let mut lock = lock;
        if effect.reads
            && let Some(place) = place(places, lane, &mut lock)
        {
            races.strong_read(place, thread, strength(order.acquire));
        }
        if effect.writes
            && let Some(place) = place(places, lane, &mut lock)
        {
            races.strong_write(place, thread, strength(order.release), effect.atomic);
        }
    }
}

/// Where a strong access goes; `None` where no other thread can go.
fn place<'p, 'g>(places: &Places, lane: usize, lock: &'p mut Option<GlobalPlace<'g>>) -> Option<Place<'p, 'g>> {
    match (places.space, lock) {
        (Space::Shared, _) => Some(Place::Shared(places.offsets[lane] as u32)),
        (_, Some(lock)) => Some(Place::Global(lock)),
        _ => None,
    }
}

/// What a strong access does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effect {
    pub reads: bool,
    pub writes: bool,
    pub atomic: bool,
}

impl Effect {
    pub(crate) const READ: Effect = Effect {
        reads: true,
        writes: false,
        atomic: false,
    };
    pub(crate) const WRITE: Effect = Effect {
        reads: false,
        writes: true,
        atomic: false,
    };
}

fn what(kind: Kind, asynchronous: bool) -> &'static str {
    match (kind, asynchronous) {
        (Kind::Read, false) => "a read",
        (Kind::Write, false) => "a write",
        (Kind::StrongRead(_), _) => "a volatile or atomic read",
        (Kind::StrongWrite(_), _) => "a volatile or atomic write",
        (Kind::Read, true) => "the read of an asynchronous copy",
        (Kind::Write, true) => "the write of an asynchronous copy",
    }
}
