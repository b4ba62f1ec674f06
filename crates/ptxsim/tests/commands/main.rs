//! The commands that run launch files: status, output, files.

mod case;
mod check;
mod errors;
mod mutate;
mod run;
