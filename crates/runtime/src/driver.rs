//! Which NVIDIA driver this machine has, without ever failing: its absence is an answer.

use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_uint};

/// The driver's library, as the loader knows it.
pub const LIBRARY: &str = "libcuda.so.1";

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// No usable driver library.
    Missing {
        /// The loader's words.
        reason: String,
    },
    /// The library is there.
    Present {
        /// The newest CUDA version it serves, (major, minor).
        version: (u32, u32),
        /// Its GPUs in order of their ordinals, or why it has none to offer.
        gpus: Result<Vec<Gpu>, String>,
    },
}

/// A GPU as the driver tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its product name.
    pub name: String,
    /// Its compute capability, (8, 0) for sm_80.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub sm_count: u32,
}

type Init = unsafe extern "C" fn(c_uint) -> c_int;
type ToInt = unsafe extern "C" fn(*mut c_int) -> c_int;
type DeviceGet = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
type DeviceName = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
type DeviceAttribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;

/// `CU_DEVICE_ATTRIBUTE_...` numbers of cuda.h.
const MULTIPROCESSOR_COUNT: c_int = 16;
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;

struct Functions {
    init: Init,
    version: ToInt,
    count: ToInt,
    get: DeviceGet,
    name: DeviceName,
    attribute: DeviceAttribute,
}

/// Looks for the driver and asks it for its GPUs. Creates no context.
pub fn probe() -> Driver {
    // SAFETY: loading the driver runs its initialisers, which NVIDIA makes for being loaded by any process.
    let library = match unsafe { Library::new(LIBRARY) } {
        Ok(library) => library,
        Err(error) => {
            return Driver::Missing { reason: words(&error) };
        }
    };
    // SAFETY: the types are those of cuda.h for these names; `library` outlives every call below.
    let functions = unsafe { functions(&library) };
    match functions {
        Ok(functions) => functions.ask(),
        Err(error) => Driver::Missing {
            reason: format!("{LIBRARY} lacks a function: {}", words(&error)),
        },
    }
}

/// The loader's own words, which the error's text leaves out.
fn words(error: &libloading::Error) -> String {
    match error {
        libloading::Error::DlOpen { source } | libloading::Error::DlSym { source } => source.to_string(),
        other => other.to_string(),
    }
}

/// # Safety
/// The functions must not be called after `library` is dropped.
unsafe fn functions(library: &Library) -> Result<Functions, libloading::Error> {
    // SAFETY: each type is the function's in cuda.h; the caller keeps the library.
    unsafe {
        Ok(Functions {
            init: *library.get::<Init>("cuInit")?,
            version: *library.get::<ToInt>("cuDriverGetVersion")?,
            count: *library.get::<ToInt>("cuDeviceGetCount")?,
            get: *library.get::<DeviceGet>("cuDeviceGet")?,
            name: *library.get::<DeviceName>("cuDeviceGetName")?,
            attribute: *library.get::<DeviceAttribute>("cuDeviceGetAttribute")?,
        })
    }
}

impl Functions {
    fn ask(&self) -> Driver {
        let mut version: c_int = 0;
        // SAFETY: writes one int; allowed before cuInit. On failure the version stays 0.
        let _ = unsafe { (self.version)(&mut version) };
        let version = u32::try_from(version).unwrap_or(0);
        Driver::Present {
            version: (version / 1000, version % 1000 / 10),
            gpus: self.gpus(),
        }
    }

    fn gpus(&self) -> Result<Vec<Gpu>, String> {
        // SAFETY: takes flags, which must be 0.
        checked("cuInit", unsafe { (self.init)(0) })?;
        let mut count: c_int = 0;
        // SAFETY: writes one int; the driver is initialised.
        checked("cuDeviceGetCount", unsafe { (self.count)(&mut count) })?;
        (0..count).map(|ordinal| self.gpu(ordinal)).collect()
    }

    fn gpu(&self, ordinal: c_int) -> Result<Gpu, String> {
        let mut device: c_int = 0;
        // SAFETY: writes one int; the ordinal is below the count.
        checked("cuDeviceGet", unsafe { (self.get)(&mut device, ordinal) })?;
        let mut name: [c_char; 256] = [0; 256];
        // SAFETY: writes at most 255 bytes and a NUL to `name`.
        checked("cuDeviceGetName", unsafe {
            (self.name)(name.as_mut_ptr(), 255, device)
        })?;
        // SAFETY: the last byte is still 0, so the text ends inside `name`.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        let attribute = |which: c_int| {
            let mut value: c_int = 0;
            // SAFETY: writes one int; the device is the driver's own.
            checked("cuDeviceGetAttribute", unsafe {
                (self.attribute)(&mut value, which, device)
            })?;
            Ok::<u32, String>(u32::try_from(value).unwrap_or(0))
        };
        let capability = (attribute(CAPABILITY_MAJOR)?, attribute(CAPABILITY_MINOR)?);
        Ok(Gpu {
            name,
            capability,
            sm_count: attribute(MULTIPROCESSOR_COUNT)?,
        })
    }
}

fn checked(function: &str, code: c_int) -> Result<(), String> {
    match code {
        0 => Ok(()),
        100 => Err("the driver finds no GPU".to_string()),
        code => Err(format!("{function} failed with code {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_or_its_absence_is_told() {
        match probe() {
            Driver::Missing { reason } => assert!(!reason.is_empty()),
            Driver::Present { version, .. } => assert!(version.0 >= 10, "{version:?}"),
        }
    }
}
