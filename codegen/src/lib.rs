//! Schedules, tile programs, thread programs and the CUDA C++ printer.

pub mod build;
pub mod cuda;
pub mod layout;
pub mod lower;
pub mod schedule;
pub mod thread;
pub mod tile;
