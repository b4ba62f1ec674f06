//! CUDA C++ to PTX and CUBIN with NVRTC alone: no toolkit, no headers, no GPU.
//!
//! [`Nvrtc::locate`] finds the library's file without opening it, which takes well under a
//! millisecond; opening it takes 5 to 50 ms and happens at the first compile. So a program whose
//! kernels are all in the [`crate::cache::KernelCache`] never opens it. A process uses one NVRTC.

mod alias;
mod compile;
mod elf;
mod error;
mod find;
mod library;
mod log;
pub mod testing;

pub(crate) use compile::options;
pub use compile::{Compiled, CudaSource};
pub use error::{NvrtcError, SourceLine};
pub use find::{FoundBy, Looked, NvrtcLocation};
pub use log::{KernelResources, LogError, parse_resources};

use std::path::Path;
use std::sync::Arc;

use library::Library;

/// An NVRTC that was found; cheap to clone, usable from several threads at once.
#[derive(Debug, Clone)]
pub struct Nvrtc {
    found: Arc<find::Found>,
}

impl Nvrtc {
    /// Finds NVRTC's file and checks its headers, without opening it as a library.
    ///
    /// Looks at `option` (a file, or a folder) if given, else at the environment variable
    /// `MLAFUSE_NVRTC`; either must hold a usable NVRTC. Then in turn: the set-up folder `.nvrtc`
    /// upward of the current folder and of the executable, and `nvrtc` in the user's data folder;
    /// `CUDA_HOME` and `CUDA_PATH`; the nvidia wheels of Python environments; the loader's path.
    /// In a folder the highest version wins.
    ///
    /// # Errors
    /// [`NvrtcError::NotFound`] with every place looked in, or [`NvrtcError::Unusable`] for an
    /// explicit choice that does not work.
    pub fn locate(option: Option<&Path>) -> Result<Nvrtc, NvrtcError> {
        let found = find::find(&find::Surroundings::of_process(option))?;
        Ok(Nvrtc { found: Arc::new(found) })
    }

    /// [`Nvrtc::locate`], and opens the library now.
    ///
    /// # Errors
    /// As `locate`, and those of opening it: see [`Nvrtc::version`].
    pub fn load(option: Option<&Path>) -> Result<Nvrtc, NvrtcError> {
        let nvrtc = Nvrtc::locate(option)?;
        nvrtc.library()?;
        Ok(nvrtc)
    }

    /// Where it lies, and how it was found.
    pub fn location(&self) -> &NvrtcLocation {
        &self.found.location
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        &self.found.location.path
    }

    /// A text that differs for every build of NVRTC: the library's GNU build id, else its path,
    /// size and time of change. It stands for the version in cache keys, because asking the
    /// library for its version means opening it, and because it also tells patch releases apart.
    pub fn identity(&self) -> &str {
        &self.found.identity
    }

    /// (major, minor), as (12, 9). Opens the library if that has not been done.
    ///
    /// # Errors
    /// [`NvrtcError::Load`], [`NvrtcError::MissingSymbol`], [`NvrtcError::Call`]; and
    /// [`NvrtcError::AlreadyLoaded`] when this process already uses another NVRTC.
    pub fn version(&self) -> Result<(u32, u32), NvrtcError> {
        Ok(self.library()?.version)
    }

    /// The architectures it compiles for, as numbers: 80 for sm_80. Opens the library if needed.
    ///
    /// # Errors
    /// As [`Nvrtc::version`].
    pub fn supported_archs(&self) -> Result<&'static [u32], NvrtcError> {
        Ok(&self.library()?.archs)
    }

    /// Compiles one translation unit to PTX and CUBIN. Opens the library if needed. Threads may
    /// compile at the same time, and do run in parallel.
    ///
    /// # Errors
    /// As [`Nvrtc::version`]; [`NvrtcError::UnsupportedArch`]; [`NvrtcError::Compile`] with
    /// NVRTC's log; [`NvrtcError::BadInput`] for NUL bytes; [`NvrtcError::ResourceLog`] when the
    /// log does not tell every kernel's resources.
    pub fn compile(&self, source: &CudaSource) -> Result<Compiled, NvrtcError> {
        compile::compile(self.library()?, source)
    }

    fn library(&self) -> Result<&'static Library, NvrtcError> {
        library::open(self.path())
    }
}

#[cfg(test)]
impl Nvrtc {
    /// An NVRTC that cannot be opened: whatever succeeds with it did not open it.
    pub(crate) fn unloadable(identity: &str) -> Nvrtc {
        Nvrtc {
            found: Arc::new(find::Found {
                location: NvrtcLocation {
                    path: "/nonexistent/libnvrtc.so.12".into(),
                    source: FoundBy::Option,
                },
                identity: identity.to_owned(),
            }),
        }
    }
}
