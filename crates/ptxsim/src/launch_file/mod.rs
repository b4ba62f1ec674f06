//! Launch files: a kernel, its grid, its arguments and what it should give, as JSON beside the PTX and the tensors.
//!
//! ```json
//! { "ptx": "mm.ptx", "entry": "mm", "grid": [2, 2, 1], "block": [128, 1, 1], "dynamic_shared": 73728,
//!   "args": [ {"tensor": "in.safetensors#a"}, {"output": "c", "dtype": "f32", "shape": [128, 256]},
//!             {"inout": "in.safetensors#x"}, {"i32": 128}, {"f32": 0.1}, {"null": 0} ],
//!   "reference": {"file": "want.safetensors", "rel_l2": 3e-3} }
//! ```
//!
//! Nothing in a launch file or in the files that it names is trusted.

mod arguments;
mod element;
mod error;
mod files;
mod json;
mod parse;
mod reference;
mod run;
mod save;
mod scalar;
mod tensors;

use std::path::{Path, PathBuf};

use crate::machine::LaunchConfig;
use crate::parallel::cores;
use crate::program::{Kernel, Target as Gpu};
use arguments::{Argument, Arguments, Buffer};
use json::Json;
use parse::Description;
use tensors::TensorFiles;

pub use element::ElementType;
pub use error::LaunchFileError;
pub(crate) use files::memory_allowed;
pub use reference::Error;
pub use run::{Output, Run};
pub use save::{SaveError, Target};

/// Most bytes of a launch file.
const MAX_JSON_BYTES: u64 = 16 << 20;
/// Most bytes of a PTX file.
const MAX_PTX_BYTES: u64 = 1 << 30;

/// A launch, ready to run: every file that it names is read or mapped, the kernel is decoded, and the arguments suit it.
#[derive(Clone, Debug)]
pub struct LaunchFile {
    path: PathBuf,
    ptx_path: PathBuf,
    ptx: String,
    kernel: Kernel,
    config: LaunchConfig,
    arguments: Vec<Argument>,
    buffers: Vec<Buffer>,
    reference: Option<reference::Reference>,
}

impl LaunchFile {
    /// Reads a launch file and all that it names.
    ///
    /// # Errors
    /// Where a file cannot be read, a field is not as it should be, the PTX has an error or what is not simulated, or the
    /// arguments do not suit the kernel.
    pub fn read(path: &Path) -> Result<LaunchFile, LaunchFileError> {
        let bytes = files::read(path, MAX_JSON_BYTES)?;
        let json: Json = serde_json::from_slice(&bytes).map_err(|source| LaunchFileError::Json {
            path: path.to_owned(),
            source,
        })?;
        let description = parse::parse(path, &json)?;
        let ptx = read_text(&description.ptx)?;
        let kernel = decode(&description, &ptx)?;
        if description.args.len() != kernel.params.len() {
            return Err(LaunchFileError::ArgumentCount {
                path: path.to_owned(),
                kernel: kernel.name,
                expected: kernel.params.len(),
                found: description.args.len(),
            });
        }
        let mut files = TensorFiles::new(path.parent().unwrap_or(Path::new("")));
        let Arguments { arguments, buffers } = Arguments::new(&description.args, &kernel, &mut files)?;
        memory_suffices(path, &kernel, description.config, &buffers)?;
        let reference = description
            .reference
            .map(|reference| reference::Reference::open(&reference, &buffers, &mut files));
        Ok(LaunchFile {
            path: path.to_owned(),
            ptx_path: description.ptx,
            ptx,
            kernel,
            config: description.config,
            arguments,
            buffers,
            reference: reference.transpose()?,
        })
    }

    /// The launch file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The PTX file's path.
    pub fn ptx_path(&self) -> &Path {
        &self.ptx_path
    }

    /// A line of the PTX, from 1, without the space around it.
    pub fn ptx_line(&self, line: u32) -> Option<&str> {
        let index = usize::try_from(line).ok()?.checked_sub(1)?;
        self.ptx.lines().nth(index).map(str::trim)
    }

    /// The kernel.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The launch's shape.
    pub fn config(&self) -> LaunchConfig {
        self.config
    }

    /// Whether there are expected outputs.
    pub fn has_reference(&self) -> bool {
        self.reference.is_some()
    }

    /// Warps of a block, of as many as a block can have.
    pub fn warps(&self) -> u32 {
        let threads = self.config.block.iter().fold(1_u32, |a, b| a.saturating_mul(*b));
        threads.min(Gpu::MAX_THREADS).div_ceil(32)
    }

    /// Blocks of the grid.
    pub fn blocks(&self) -> u64 {
        let extents = self.config.grid.iter();
        extents.fold(1, |blocks, extent| blocks.saturating_mul(u64::from(*extent)))
    }

    /// Bytes of memory that one run takes at least.
    pub fn bytes(&self) -> u64 {
        self.buffers.iter().map(|buffer| buffer.bytes).sum()
    }
}

/// PTX is ASCII but for comments and strings.
fn read_text(path: &Path) -> Result<String, LaunchFileError> {
    let bytes = files::read(path, MAX_PTX_BYTES)?;
    String::from_utf8(bytes).map_err(|error| LaunchFileError::Text {
        path: path.to_owned(),
        offset: error.utf8_error().valid_up_to(),
    })
}

fn decode(description: &Description<'_>, ptx: &str) -> Result<Kernel, LaunchFileError> {
    let path = &description.ptx;
    let module = crate::parse::parse(ptx).map_err(|source| LaunchFileError::Ptx {
        path: path.clone(),
        source,
    })?;
    Kernel::new(&module, &description.entry).map_err(|source| LaunchFileError::Decode {
        path: path.clone(),
        source,
    })
}

/// Refuses what this machine cannot hold before any of it is asked for.
fn memory_suffices(
    path: &Path,
    kernel: &Kernel,
    config: LaunchConfig,
    buffers: &[Buffer],
) -> Result<(), LaunchFileError> {
    let allowed = memory_allowed();
    let of_buffers = buffers
        .iter()
        .map(|buffer| (format!("`{}`", buffer.name), u128::from(buffer.bytes)));
    let of_variables = kernel
        .variables
        .iter()
        .map(|variable| (format!("variable `{}`", variable.name), u128::from(variable.bytes)));
    let of_threads = ("registers and local memory".to_owned(), threads_bytes(kernel, config));
    let mut sum = 0_u128;
    for (what, bytes) in of_buffers.chain(of_variables).chain([of_threads]) {
        sum = sum.saturating_add(bytes);
        if sum > u128::from(allowed) {
            return Err(LaunchFileError::TooMuchMemory {
                path: path.to_owned(),
                what,
                bytes,
                allowed,
            });
        }
    }
    Ok(())
}

/// Bytes of the registers and local memory of the blocks that run at once.
fn threads_bytes(kernel: &Kernel, config: LaunchConfig) -> u128 {
    let product = |extents: [u32; 3], most: u128| {
        let extents = extents.iter().map(|extent| u128::from(*extent));
        extents.fold(1_u128, |a, b| a.saturating_mul(b)).min(most)
    };
    let threads = product(config.block, Gpu::MAX_THREADS.into());
    let blocks = product(config.grid, cores() as u128);
    let frame = kernel.functions.first().map_or(0, |kernel| kernel.frame_bytes);
    // A register has four bytes; each byte of local memory has a mark of whether it was written.
    let each = 4 * u128::from(kernel.slots) + 2 * u128::from(frame);
    threads * blocks * each
}
