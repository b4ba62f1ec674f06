//! What integration tests share: a machine that executes thread programs, the simulator that executes their PTX, and cases
//! to run on both.

pub mod case;
pub mod drive;
pub mod executor;
pub mod front;
pub mod machine;
pub mod mutants;
pub mod product;
pub mod reference;
pub mod simulator;
