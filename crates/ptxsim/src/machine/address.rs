//! The generic address space: which addresses mean which memory.
//!
//! Real windows differ and are not documented; these are far apart, so that an address computed in 32 bits hits none.

use crate::program::op::Space;

/// Variables of the module.
pub(crate) const MODULE_BASE: u64 = 0x0001_0000_0000;
/// Allocations of the launch.
pub(crate) const HEAP_BASE: u64 = 0x0100_0000_0000;
/// Shared memory of the block.
pub(crate) const SHARED: u64 = 0x7000_0000_0000;
/// Local memory of the thread.
pub(crate) const LOCAL: u64 = 0x7100_0000_0000;
/// Parameters of the kernel.
pub(crate) const PARAM: u64 = 0x7200_0000_0000;
/// Functions: their addresses are numbers, with no memory behind them.
pub(crate) const FUNCTIONS: u64 = 0x7300_0000_0000;
/// Bytes of each window.
pub(crate) const WINDOW: u64 = 1 << 32;

/// An address of a space as a generic one.
pub(crate) fn to_generic(space: Space, address: u64) -> u64 {
    match space {
        Space::Shared => SHARED + address,
        Space::Local => LOCAL + address,
        Space::Param => PARAM + address,
        Space::Generic | Space::Global | Space::Const => address,
    }
}

/// A generic address as one of the space that it lies in.
pub(crate) fn from_generic(address: u64) -> (Space, u64) {
    for (space, base) in [(Space::Shared, SHARED), (Space::Local, LOCAL), (Space::Param, PARAM)] {
        if (base..base + WINDOW).contains(&address) {
            return (space, address - base);
        }
    }
    (Space::Global, address)
}
