//! Compiled kernels, kept between runs.
//!
//! The cache is content-addressed: an entry's file name is a hash of everything its content
//! depends on, so entries never go stale and nothing is ever updated. No failure of the cache
//! fails a compile: what cannot be read is compiled again, what cannot be written is warned of
//! once. An entry carries a checksum; a damaged one is a miss and is rewritten.

mod entry;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::folders::cache_folder;
use crate::nvrtc::{self, Compiled, CudaSource, Nvrtc, NvrtcError};
use entry::{EntryError, Meta, decode, encode, read_file, sections};

/// A folder of cached kernels; may be shared by threads and processes.
#[derive(Debug)]
pub struct KernelCache {
    folder: Option<PathBuf>,
    /// Whether a failure to read or write the folder was already warned of.
    warned: AtomicBool,
}

/// How [`KernelCache::get_or_compile`] came by its result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CacheOutcome {
    /// Whether the kernel came from the cache.
    pub from_cache: bool,
    /// Wall time of the whole call in milliseconds.
    pub ms: f64,
}

/// An entry, as [`KernelCache::list`] tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// The key in hex, which is the file's name without its ending.
    pub key: String,
    /// What it holds.
    pub content: CacheContent,
    /// The file's size in bytes.
    pub bytes: u64,
    /// Time since it was written; none where the clock does not say.
    pub age: Option<Duration>,
}

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheContent {
    /// A compiled source.
    Kernel {
        /// The source's name.
        name: String,
        /// Its architecture.
        arch: String,
    },
    /// A file that will be treated as a miss.
    Damaged {
        /// What is wrong with it.
        reason: String,
    },
}

/// What [`KernelCache::clear`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Files.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

/// A failure of `list` or `clear`, the only calls here that report one.
#[derive(Debug, thiserror::Error)]
#[error("cache: {action} {}: {reason}", .path.display())]
pub struct CacheError {
    /// What was tried.
    pub action: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub reason: io::Error,
}

const ENDING: &str = "mlk";
const TEMPORARY_PREFIX: &str = ".mlafuse-";

impl KernelCache {
    /// The cache in `folder`, which is created (mode 0700) at the first write.
    pub fn open(folder: impl Into<PathBuf>) -> KernelCache {
        KernelCache {
            folder: Some(folder.into()),
            warned: AtomicBool::new(false),
        }
    }

    /// A cache that holds nothing: every look-up misses, nothing is written.
    pub fn disabled() -> KernelCache {
        KernelCache {
            folder: None,
            warned: AtomicBool::new(false),
        }
    }

    /// The cache in the user's cache folder ([`cache_folder`]); disabled, with a warning, where
    /// there is no such folder.
    pub fn of_user() -> KernelCache {
        match cache_folder() {
            Ok(folder) => KernelCache::open(folder),
            Err(err) => {
                tracing::warn!("kernels are not cached: {err}");
                KernelCache::disabled()
            }
        }
    }

    /// The folder; none when disabled.
    pub fn path(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The compiled kernel, from the cache if it is there. A hit does not open NVRTC.
    ///
    /// The key is made of the source's name, text and architecture, every option passed to NVRTC,
    /// NVRTC's [identity](Nvrtc::identity) and this crate's version.
    ///
    /// # Errors
    /// Those of [`Nvrtc::compile`]; never one of the cache.
    pub fn get_or_compile(&self, nvrtc: &Nvrtc, source: &CudaSource) -> Result<(Compiled, CacheOutcome), NvrtcError> {
        let start = Instant::now();
        let outcome = |from_cache| CacheOutcome {
            from_cache,
            ms: start.elapsed().as_secs_f64() * 1e3,
        };
        let key = kernel_key(nvrtc, source);
        if let Some(compiled) = self.read(&key) {
            tracing::debug!(name = %source.name, "kernel from the cache");
            return Ok((compiled, outcome(true)));
        }
        let compiled = nvrtc.compile(source)?;
        self.write(&key, source, &compiled);
        Ok((compiled, outcome(false)))
    }

    /// Every entry, in order of key. A folder that does not exist has none.
    ///
    /// # Errors
    /// [`CacheError`] when the folder cannot be read.
    pub fn list(&self) -> Result<Vec<CacheEntry>, CacheError> {
        let mut entries = Vec::new();
        for path in self.files()? {
            let Some(key) = entry_key(&path) else {
                continue;
            };
            // An entry that another process just removed is not one.
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            entries.push(CacheEntry {
                content: describe(&path, &key),
                key: key.to_hex().to_string(),
                bytes: metadata.len(),
                age: metadata
                    .modified()
                    .ok()
                    .and_then(|written| SystemTime::now().duration_since(written).ok()),
            });
        }
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    /// Removes every entry and left-over temporary file of this cache, and no other file.
    ///
    /// # Errors
    /// [`CacheError`] when the folder cannot be read or a file cannot be removed.
    pub fn clear(&self) -> Result<Cleared, CacheError> {
        let mut cleared = Cleared::default();
        for path in self.files()? {
            let is_temporary = path
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(TEMPORARY_PREFIX));
            if !is_temporary && entry_key(&path).is_none() {
                continue;
            }
            let bytes = fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
            match fs::remove_file(&path) {
                Ok(()) => {
                    cleared.files += 1;
                    cleared.bytes += bytes;
                }
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(reason) => return Err(failed("removing", &path, reason)),
            }
        }
        Ok(cleared)
    }

    /// The folder's files, whoever's they are.
    fn files(&self) -> Result<Vec<PathBuf>, CacheError> {
        let Some(folder) = &self.folder else {
            return Ok(Vec::new());
        };
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(reason) => return Err(failed("reading", folder, reason)),
        };
        let files = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_ok_and(|file_type| !file_type.is_dir()));
        Ok(files.map(|entry| entry.path()).collect())
    }

    /// Reads and decodes an entry; whatever is wrong with it makes a miss.
    fn read(&self, key: &blake3::Hash) -> Option<Compiled> {
        let path = entry_path(self.folder.as_ref()?, key);
        match read_file(&path).and_then(|bytes| decode(&bytes, key)) {
            Ok(kernel) => Some(kernel),
            Err(EntryError::Io(err)) if err.kind() == io::ErrorKind::NotFound => None,
            Err(EntryError::Io(err)) => {
                self.warn_once(&path, &err.to_string());
                None
            }
            Err(err) => {
                tracing::warn!(path = %path.display(), "cache entry is damaged, made anew: {err}");
                None
            }
        }
    }

    fn write(&self, key: &blake3::Hash, source: &CudaSource, compiled: &Compiled) {
        let Some(folder) = &self.folder else { return };
        let path = entry_path(folder, key);
        let bytes = encode(key, source, compiled).map_err(io::Error::other);
        let written = bytes.and_then(|bytes| {
            self.create_folder(folder)?;
            write_whole(folder, &path, &bytes)
        });
        if let Err(err) = written {
            self.warn_once(&path, &err.to_string());
        }
    }

    /// Creates the folder for the user alone: who can write here decides what runs on the GPU.
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        let Ok(metadata) = fs::metadata(folder) else {
            let mut builder = fs::DirBuilder::new();
            return builder.recursive(true).mode(0o700).create(folder);
        };
        if metadata.permissions().mode() & 0o022 != 0 {
            self.warn_once(folder, "others may write to this folder");
        }
        Ok(())
    }

    fn warn_once(&self, path: &Path, problem: &str) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(path = %path.display(), "kernel cache: {problem}");
        }
    }
}

fn failed(action: &'static str, path: &Path, reason: io::Error) -> CacheError {
    CacheError {
        action,
        path: path.to_owned(),
        reason,
    }
}

/// The file appears whole or not at all, and survives a crash once it has appeared.
fn write_whole(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn entry_path(folder: &Path, key: &blake3::Hash) -> PathBuf {
    folder.join(format!("{}.{ENDING}", key.to_hex()))
}

/// The key in an entry's file name; none for files that are not of this cache.
fn entry_key(path: &Path) -> Option<blake3::Hash> {
    if path.extension()? != ENDING {
        return None;
    }
    blake3::Hash::from_hex(path.file_stem()?.to_str()?).ok()
}

fn describe(path: &Path, key: &blake3::Hash) -> CacheContent {
    let meta = read_file(path).and_then(|bytes| Ok(sections(&bytes, key)?.0));
    match meta {
        Ok(Meta { name, arch, .. }) => CacheContent::Kernel { name, arch },
        Err(err) => CacheContent::Damaged {
            reason: err.to_string(),
        },
    }
}

/// BLAKE3 over length-prefixed fields, so that no two lists of fields give the same bytes.
fn kernel_key(nvrtc: &Nvrtc, source: &CudaSource) -> blake3::Hash {
    let options = nvrtc::options(source, true);
    let version = env!("CARGO_PKG_VERSION");
    let fixed = [version, &source.name, &source.text, &source.arch, nvrtc.identity()];
    let mut hasher = blake3::Hasher::new();
    for field in fixed.into_iter().chain(options.iter().map(String::as_str)) {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field.as_bytes());
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests;
