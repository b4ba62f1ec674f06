//! Finding the fastest schedules of a plan's kernels, and remembering them.
//!
//! [`tune`] judges the schedules that are worth trying for each kernel and launch size ([`Task`]) by a [`Judge`]: a device that
//! is timed ([`Timed`]) or, where there is none, the model on what the compiler made of a kernel ([`Modelled`]). What it finds
//! goes to a [`RecordFile`] at once, so that whoever is interrupted goes on where it ended. [`Records`] are what such files say;
//! launches take the schedules of the nearest of them.

mod file;
mod judge;
mod key;
mod modelled;
mod race;
mod record;
mod records;
mod timed;
mod tuner;

#[cfg(test)]
mod testing;

pub use file::{FileError, RecordFile};
pub use judge::{Contest, Judge, TuneError};
pub use key::Key;
pub use modelled::Modelled;
pub use record::{Candidate, Choice, Damage, Outcome};
pub use records::{Entry, Records};
pub use timed::Timed;
pub use tuner::{Limits, Task, Tuned, tune};
