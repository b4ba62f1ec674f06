//! Places in memory through which threads synchronise: what strong writes published there.

use std::sync::{Arc, MutexGuard};

use super::knowledge::Knowledge;
use super::shadow::Places;

/// What a strong read of a place can learn.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// Released towards every block.
    wide: Option<Arc<Knowledge>>,
    /// By block, what its threads released towards it alone or towards all.
    narrow: Vec<(u32, Arc<Knowledge>)>,
}

/// What a thread can tell or learn, by how far that reaches.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    /// Among threads of one block.
    pub narrow: Option<Arc<Knowledge>>,
    /// Among blocks.
    pub wide: Option<Arc<Knowledge>>,
}

/// A place in global memory, locked ([`super::GlobalShadow::place`]).
#[derive(Debug)]
pub(crate) struct GlobalPlace<'a> {
    address: u64,
    places: MutexGuard<'a, Places>,
}

impl Published {
    /// A strong write of a thread of `block`. One that is no atomic operation hides what earlier ones published.
    pub(super) fn write(&mut self, block: u32, atomic: bool, released: Reach) {
        if !atomic {
            *self = Published::default();
        }
        add(&mut self.wide, released.wide);
        let Some(narrow) = released.narrow else {
            return;
        };
        match self.narrow.binary_search_by_key(&block, |part| part.0) {
            Ok(at) => self.narrow[at].1 = Knowledge::join(&self.narrow[at].1, &narrow),
            Err(at) => self.narrow.insert(at, (block, narrow)),
        }
    }

    /// What a strong read of a thread of `block` sees.
    pub(super) fn read(&self, block: u32) -> Reach {
        let narrow = self.narrow.binary_search_by_key(&block, |part| part.0).ok();
        Reach {
            narrow: narrow.map(|at| self.narrow[at].1.clone()),
            wide: self.wide.clone(),
        }
    }
}

impl Reach {
    pub(super) fn is_empty(&self) -> bool {
        self.narrow.is_none() && self.wide.is_none()
    }

    /// Adds what else was seen.
    pub(super) fn join(&mut self, other: Reach) {
        add(&mut self.narrow, other.narrow);
        add(&mut self.wide, other.wide);
    }
}

fn add(known: &mut Option<Arc<Knowledge>>, more: Option<Arc<Knowledge>>) {
    *known = match (known.take(), more) {
        (Some(known), Some(more)) => Some(Knowledge::join(&known, &more)),
        (known, more) => known.or(more),
    };
}

impl<'a> GlobalPlace<'a> {
    pub(super) fn new(address: u64, places: MutexGuard<'a, Places>) -> GlobalPlace<'a> {
        GlobalPlace { address, places }
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// What was published here; most places have nothing, and take no memory.
    pub(super) fn read(&self, block: u32) -> Reach {
        self.places
            .get(&self.address)
            .map_or_else(Reach::default, |published| published.read(block))
    }

    pub(super) fn write(&mut self, block: u32, atomic: bool, released: Reach) {
        write(&mut self.places, self.address, block, atomic, released);
    }
}

/// A strong write at an address.
pub(super) fn write(places: &mut Places, address: u64, block: u32, atomic: bool, released: Reach) {
    if !released.is_empty() {
        places.entry(address).or_default().write(block, atomic, released);
    } else if !atomic {
        places.remove(&address);
    }
}
