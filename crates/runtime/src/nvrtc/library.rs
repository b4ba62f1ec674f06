//! Opens the found library, once for the process, and makes cudarc use it.
//!
//! cudarc panics when a library or a function is missing. So every function used here is looked up
//! first, and it is checked that cudarc's own handle leads to the very same functions.
//!
//! cudarc's result codes are those of CUDA 12.9, up to 16. NVRTC 13 adds 17 (writing a time trace)
//! and 18 (installing headers): nothing called here returns them.

use std::ffi::{c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use cudarc::nvrtc::{result::NvrtcError as CudarcError, sys};
use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};

use super::alias;
use super::error::NvrtcError;

/// Every function of NVRTC that this crate calls through cudarc.
const FUNCTIONS: [&str; 12] = [
    "nvrtcVersion",
    "nvrtcGetNumSupportedArchs",
    "nvrtcGetSupportedArchs",
    "nvrtcCreateProgram",
    "nvrtcCompileProgram",
    "nvrtcDestroyProgram",
    "nvrtcGetProgramLogSize",
    "nvrtcGetProgramLog",
    "nvrtcGetPTXSize",
    "nvrtcGetPTX",
    "nvrtcGetCUBINSize",
    "nvrtcGetCUBIN",
];

/// The opened library. It is never closed.
#[derive(Debug)]
pub(super) struct Library {
    path: PathBuf,
    /// (major, minor).
    pub version: (u32, u32),
    /// Supported architectures, ascending.
    pub archs: Vec<u32>,
    /// Whether this NVRTC takes `--no-cache` (those before 12.8 refuse it, and do not cache).
    pub takes_no_cache: AtomicBool,
    /// What the loader must keep: NVRTC, its alias, its builtins.
    _handles: Vec<Handle>,
}

static LIBRARY: OnceLock<Library> = OnceLock::new();

/// The process's NVRTC: opens `path` at the first call.
pub(super) fn open(path: &Path) -> Result<&'static Library, NvrtcError> {
    static OPENING: Mutex<()> = Mutex::new(());
    let library = match LIBRARY.get() {
        Some(library) => library,
        None => {
            // A panic while opening leaves nothing half-done behind the lock.
            let _guard = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
            match LIBRARY.get() {
                Some(library) => library,
                None => {
                    let library = open_first(path)?;
                    LIBRARY.get_or_init(|| library)
                }
            }
        }
    };
    same(library, path)
}

fn same(library: &'static Library, path: &Path) -> Result<&'static Library, NvrtcError> {
    let resolved = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if library.path != path && resolved(&library.path) != resolved(path) {
        return Err(NvrtcError::AlreadyLoaded {
            loaded: library.path.clone(),
            asked: path.to_owned(),
        });
    }
    Ok(library)
}

fn open_first(path: &Path) -> Result<Library, NvrtcError> {
    let start = Instant::now();
    let handle = dlopen(path).map_err(|err| NvrtcError::Load {
        path: path.to_owned(),
        reason: err.to_string(),
    })?;
    for symbol in FUNCTIONS {
        if address(&handle, symbol).is_none() {
            return Err(NvrtcError::MissingSymbol {
                path: path.to_owned(),
                symbol,
            });
        }
    }
    let alias = make_cudarc_use(&handle, path)?;
    let version = version()?;
    let builtins = open_builtins(path, version);
    let archs = supported_archs()?;
    tracing::debug!(path = %path.display(), ?version, ms = start.elapsed().as_secs_f64() * 1e3, "opened NVRTC");
    Ok(Library {
        path: path.to_owned(),
        version,
        archs,
        takes_no_cache: AtomicBool::new(true),
        _handles: [Some(handle), alias, builtins].into_iter().flatten().collect(),
    })
}

/// Opens the builtins beside the library, or beside the file it is a link to.
///
/// NVRTC opens them by bare name at the first compile; without this it would find them only where
/// its own run path or the loader's leads. Where there are none, its own search decides.
fn open_builtins(path: &Path, version: (u32, u32)) -> Option<Handle> {
    let name = format!("libnvrtc-builtins.so.{}.{}", version.0, version.1);
    let resolved = std::fs::canonicalize(path).ok();
    [Some(path), resolved.as_deref()]
        .into_iter()
        .flatten()
        .map(|library| library.with_file_name(&name))
        .find_map(|builtins| builtins.is_file().then(|| dlopen(&builtins).ok())?)
}

fn dlopen(path: &Path) -> Result<Handle, libloading::Error> {
    // SAFETY: opening a library runs its constructors. The file is one that the user chose or
    // installed as NVRTC, and NVRTC's constructors have no preconditions.
    unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
}

fn address(handle: &Handle, symbol: &str) -> Option<*mut c_void> {
    // SAFETY: the symbol is only taken as an address and never called through this type.
    let found = unsafe { handle.get::<*mut c_void>(symbol.as_bytes()) };
    found.ok().map(|symbol| symbol.as_raw_ptr())
}

/// Puts the library where cudarc's search by bare name finds it first, and checks that it did.
fn make_cudarc_use(handle: &Handle, path: &Path) -> Result<Option<Handle>, NvrtcError> {
    let not_selectable = |reason: String| NvrtcError::NotSelectable {
        path: path.to_owned(),
        reason,
    };
    // Where the alias cannot be made, the library's own SONAME may still be the one that cudarc
    // opens: the check below decides.
    let (alias, failure) = match alias::load(path) {
        Ok(alias) => (Some(alias), String::new()),
        Err(err) => (None, format!(" (an alias could not be made: {err})")),
    };
    // SAFETY: opens and closes libraries named libnvrtc; the first candidate is already loaded.
    if !unsafe { sys::is_culib_present() } {
        return Err(not_selectable(format!("it finds none{failure}")));
    }
    // SAFETY: does not panic, since a candidate is present.
    let cudarc_library = unsafe { sys::culib() };
    for symbol in FUNCTIONS {
        // SAFETY: the symbol is only taken as an address, to be compared.
        let theirs = unsafe {
            let found = cudarc_library.get::<*mut c_void>(symbol.as_bytes());
            found.ok().and_then(|symbol| symbol.try_as_raw_ptr())
        };
        if theirs.is_none() || theirs != address(handle, symbol) {
            return Err(not_selectable(format!("its {symbol} is another{failure}")));
        }
    }
    Ok(alias)
}

fn version() -> Result<(u32, u32), NvrtcError> {
    let (mut major, mut minor): (c_int, c_int) = (0, 0);
    // SAFETY: both pointers are to live integers.
    let result = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    check("nvrtcVersion", result.result())?;
    Ok((major.unsigned_abs(), minor.unsigned_abs()))
}

fn supported_archs() -> Result<Vec<u32>, NvrtcError> {
    let mut count: c_int = 0;
    // SAFETY: the pointer is to a live integer.
    let result = unsafe { sys::nvrtcGetNumSupportedArchs(&raw mut count) };
    check("nvrtcGetNumSupportedArchs", result.result())?;
    let mut archs = vec![0 as c_int; usize::try_from(count).unwrap_or(0)];
    // SAFETY: the function writes as many integers as it just announced.
    let result = unsafe { sys::nvrtcGetSupportedArchs(archs.as_mut_ptr()) };
    check("nvrtcGetSupportedArchs", result.result())?;
    Ok(archs.into_iter().map(c_int::unsigned_abs).collect())
}

/// Turns a result of cudarc's into ours.
pub(super) fn check<T>(function: &'static str, result: Result<T, CudarcError>) -> Result<T, NvrtcError> {
    result.map_err(|err| NvrtcError::Call {
        function,
        code: format!("{:?}", err.0),
    })
}
