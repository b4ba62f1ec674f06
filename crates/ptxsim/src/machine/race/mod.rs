//! Finds accesses that race: two to the same bytes, one of them a write, that nothing orders.
//!
//! Every access is compared with the earlier ones by vector clocks ([`clock`]), so what is found depends on which
//! synchronisation was executed, not on the order in which the simulator happened to run the threads. No race among the
//! accesses made is missed and none is invented, up to the first conflict at each place; after one the new access alone is
//! remembered, so that one mistake does not fill the report.
//!
//! Actors are the threads and, one by one, their asynchronous copies: a copy is after everything that its thread did
//! before it was issued, and before something else only once a wait for it is. The lanes of a warp are threads like any
//! others: executing together orders nothing.
//!
//! This module knows no instructions and no values. [`BlockRaces`] holds one block's clocks and its shared memory,
//! [`GlobalShadow`] what all blocks of a launch share.

mod access;
mod block;
mod cell;
mod clock;
mod knowledge;
mod place;
mod shadow;
mod side;
mod strong;

pub(crate) use access::{Access, Actor, Conflict, Kind, Scope};
pub(crate) use block::{AsyncArrival, BlockRaces};
pub(crate) use place::GlobalPlace;
pub(crate) use shadow::GlobalShadow;
pub(crate) use strong::{Place, Strength};

#[cfg(test)]
mod tests;
