//! Why a launch file cannot be used.

use std::path::PathBuf;

use crate::machine::{LaunchError, MemoryError};
use crate::parse::ParseError;
use crate::program::DecodeError;

/// Why a launch file cannot be used. Each message names the file, and the field where one is at fault.
#[derive(Debug, thiserror::Error)]
pub enum LaunchFileError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder, a pipe or a device.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A file that is longer than any of its kind.
    #[error("{} has {found} bytes; at most {allowed} are read", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// Most bytes.
        allowed: u64,
    },
    /// The launch file is not JSON, or has a field twice.
    #[error("{} is not JSON as a launch file has it: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong.
        source: serde_json::Error,
    },
    /// A field that no launch file has.
    #[error("{}: unknown field `{field}`; allowed: {allowed}", path.display())]
    UnknownField {
        /// The launch file.
        path: PathBuf,
        /// The field, as in `args[3].dtpye`.
        field: String,
        /// The fields that are known there.
        allowed: String,
    },
    /// A field that must be there.
    #[error("{}: no field `{field}`; expected {expected}", path.display())]
    MissingField {
        /// The launch file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What it holds.
        expected: String,
    },
    /// A field with a value that is not allowed.
    #[error("{}: `{field}` is {found}; expected {expected}", path.display())]
    Field {
        /// The launch file.
        path: PathBuf,
        /// The field, as in `args[3].shape`.
        field: String,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// A field that is right but not supported by this version.
    #[error("{}: `{field}` is not implemented yet: {what}", path.display())]
    NotImplemented {
        /// The launch file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What is lacking.
        what: &'static str,
    },
    /// More or fewer arguments than the kernel has parameters.
    #[error("{}: `args` has {found} arguments; kernel `{kernel}` has {expected} parameters", path.display())]
    ArgumentCount {
        /// The launch file.
        path: PathBuf,
        /// The kernel.
        kernel: String,
        /// Its parameters.
        expected: usize,
        /// The arguments.
        found: usize,
    },
    /// Memory that no machine of this size should be asked for.
    #[error("{}: {what} needs {bytes} bytes; a launch may have {allowed} here", path.display())]
    TooMuchMemory {
        /// The launch file.
        path: PathBuf,
        /// What needs it.
        what: String,
        /// How much.
        bytes: u128,
        /// How much there may be.
        allowed: u64,
    },
    /// A tensor file is damaged.
    #[error("{} is not a safetensors file: {message}", path.display())]
    Safetensors {
        /// The tensor file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The PTX cannot be read.
    #[error("{}:{source}", path.display())]
    Ptx {
        /// The PTX file.
        path: PathBuf,
        /// Where, and what is wrong.
        source: ParseError,
    },
    /// The PTX is not text.
    #[error("{} is not UTF-8 text: byte {offset} is invalid", path.display())]
    Text {
        /// The PTX file.
        path: PathBuf,
        /// The first such byte.
        offset: usize,
    },
    /// The kernel cannot be executed.
    #[error("{}: {source}", path.display())]
    Decode {
        /// The PTX file.
        path: PathBuf,
        /// Where, and what is wrong.
        source: DecodeError,
    },
    /// The launch does not suit the kernel or its target.
    #[error("{}: {source}", path.display())]
    Launch {
        /// The launch file.
        path: PathBuf,
        /// What is wrong.
        source: LaunchError,
    },
    /// Memory cannot be had.
    #[error("{}: {source}", path.display())]
    Memory {
        /// The launch file.
        path: PathBuf,
        /// What is wrong.
        source: MemoryError,
    },
}
