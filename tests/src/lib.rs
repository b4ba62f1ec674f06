//! What integration tests share: a machine that executes thread programs, and cases to run on it.

pub mod case;
pub mod machine;
pub mod reference;
