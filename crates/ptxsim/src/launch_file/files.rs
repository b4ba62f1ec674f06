//! Opening files that nobody vouches for.

use std::fs::{self, File};
use std::path::Path;

use super::LaunchFileError;

/// A regular file and its size: opening a pipe would wait for ever.
pub(super) fn open(path: &Path) -> Result<(File, u64), LaunchFileError> {
    let read = |source| LaunchFileError::Read {
        path: path.to_owned(),
        source,
    };
    let found = fs::metadata(path).map_err(read)?;
    if !found.is_file() {
        return Err(LaunchFileError::NotAFile { path: path.to_owned() });
    }
    Ok((File::open(path).map_err(read)?, found.len()))
}

/// A file's contents, of which there may be `allowed` bytes.
pub(super) fn read(path: &Path, allowed: u64) -> Result<Vec<u8>, LaunchFileError> {
    let (_, found) = open(path)?;
    if found > allowed {
        return Err(LaunchFileError::TooLong {
            path: path.to_owned(),
            found,
            allowed,
        });
    }
    fs::read(path).map_err(|source| LaunchFileError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Most bytes of memory that a launch may have, however much the machine has.
const MOST_MEMORY: u64 = 64 << 30;

/// How much memory a launch may have: half of what the machine says is free. Asking for more than there is would get this
/// process killed without a word.
pub(crate) fn memory_allowed() -> u64 {
    let free = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| available(&text));
    free.map_or(MOST_MEMORY, |free| (free / 2).min(MOST_MEMORY))
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory() {
        let text = "MemTotal:       24000000 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(available(text), Some(1 << 20));
        assert_eq!(available("MemTotal: 1 kB"), None);
        assert!((1 << 20..=MOST_MEMORY).contains(&memory_allowed()));
    }
}
