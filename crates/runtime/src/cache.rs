//! Compiled kernels and small choices, kept between runs.
//!
//! The cache is content-addressed: an entry's file name is a hash of everything its content
//! depends on, so entries never go stale and nothing is ever updated. No failure of the cache
//! fails a compile: what cannot be read is compiled again, what cannot be written is warned of
//! once. An entry carries a checksum; a damaged one is a miss and is rewritten.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::folders::cache_folder;
use crate::nvrtc::{self, Compiled, CudaSource, KernelResources, Nvrtc, NvrtcError};

/// A folder of cached kernels and blobs; may be shared by threads and processes.
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
    /// Bytes put by [`KernelCache::put_blob`].
    Blob {
        /// Their kind.
        kind: String,
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

const KERNEL_ENDING: &str = "mlk";
const BLOB_ENDING: &str = "mlb";
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
    pub fn get_or_compile(
        &self,
        nvrtc: &Nvrtc,
        source: &CudaSource,
    ) -> Result<(Compiled, CacheOutcome), NvrtcError> {
        let start = Instant::now();
        let outcome = |from_cache| CacheOutcome {
            from_cache,
            ms: start.elapsed().as_secs_f64() * 1e3,
        };
        let key = kernel_key(nvrtc, source);
        if let Some(compiled) = self.read(&key, KERNEL_ENDING, decode_kernel) {
            tracing::debug!(name = %source.name, "kernel from the cache");
            return Ok((compiled, outcome(true)));
        }
        let compiled = nvrtc.compile(source)?;
        self.write(&key, KERNEL_ENDING, || {
            encode_kernel(&key, source, &compiled)
        });
        Ok((compiled, outcome(false)))
    }

    /// Bytes put before under this kind and key by the same version of this crate. The caller
    /// puts everything they depend on into the key.
    pub fn get_blob(&self, kind: &str, key: &str) -> Option<Vec<u8>> {
        let hash = blob_key(kind, key);
        self.read(&hash, BLOB_ENDING, decode_blob)
    }

    /// Keeps bytes under a kind and a key, replacing earlier ones. Failures are warned of once.
    pub fn put_blob(&self, kind: &str, key: &str, bytes: &[u8]) {
        let hash = blob_key(kind, key);
        self.write(&hash, BLOB_ENDING, || {
            let meta = Meta::Blob {
                kind: kind.to_owned(),
            };
            encode(&hash, &meta, &[bytes])
        });
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
    fn read<T>(
        &self,
        key: &blake3::Hash,
        ending: &str,
        decode: fn(&[u8], &blake3::Hash) -> Result<T, EntryError>,
    ) -> Option<T> {
        let path = entry_path(self.folder.as_ref()?, key, ending);
        match read_file(&path).and_then(|bytes| decode(&bytes, key)) {
            Ok(content) => Some(content),
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

    fn write(
        &self,
        key: &blake3::Hash,
        ending: &str,
        encode: impl FnOnce() -> Result<Vec<u8>, EntryError>,
    ) {
        let Some(folder) = &self.folder else { return };
        let path = entry_path(folder, key, ending);
        let written = encode().map_err(io::Error::other).and_then(|bytes| {
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
    let mut file = tempfile::Builder::new()
        .prefix(TEMPORARY_PREFIX)
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn read_file(path: &Path) -> Result<Vec<u8>, EntryError> {
    let metadata = fs::metadata(path)?;
    // Anything else (a pipe) could block.
    if !metadata.is_file() {
        return Err(EntryError::NotAFile);
    }
    if metadata.len() > LARGEST_ENTRY {
        return Err(EntryError::TooLarge {
            bytes: metadata.len(),
        });
    }
    Ok(fs::read(path)?)
}

fn entry_path(folder: &Path, key: &blake3::Hash, ending: &str) -> PathBuf {
    folder.join(format!("{}.{ending}", key.to_hex()))
}

/// The key in an entry's file name; none for files that are not of this cache.
fn entry_key(path: &Path) -> Option<blake3::Hash> {
    let ending = path.extension()?.to_str()?;
    if ending != KERNEL_ENDING && ending != BLOB_ENDING {
        return None;
    }
    blake3::Hash::from_hex(path.file_stem()?.to_str()?).ok()
}

fn describe(path: &Path, key: &blake3::Hash) -> CacheContent {
    let meta = read_file(path).and_then(|bytes| Ok(decode(&bytes, key)?.0));
    match meta {
        Ok(Meta::Kernel { name, arch, .. }) => CacheContent::Kernel { name, arch },
        Ok(Meta::Blob { kind }) => CacheContent::Blob { kind },
        Err(err) => CacheContent::Damaged {
            reason: err.to_string(),
        },
    }
}

// Keys: BLAKE3 over length-prefixed fields, so that no two lists of fields give the same bytes.

fn kernel_key(nvrtc: &Nvrtc, source: &CudaSource) -> blake3::Hash {
    let options = nvrtc::options(source, true);
    let fixed = [
        "kernel",
        &source.name,
        &source.text,
        &source.arch,
        nvrtc.identity(),
    ];
    hash(fixed.into_iter().chain(options.iter().map(String::as_str)))
}

fn blob_key(kind: &str, key: &str) -> blake3::Hash {
    hash(["blob", kind, key].into_iter())
}

fn hash<'a>(fields: impl Iterator<Item = &'a str>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for field in std::iter::once(env!("CARGO_PKG_VERSION")).chain(fields) {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field.as_bytes());
    }
    hasher.finalize()
}

// An entry: magic, version, BLAKE3 of the rest, key, then length-prefixed sections: the
// description as JSON, and the content (kernel: log, PTX, CUBIN; blob: its bytes).

const MAGIC: &[u8; 8] = b"MLAFUSE\n";
const VERSION: u32 = 1;
const CHECKED_FROM: usize = 8 + 4 + 32;
/// No kernel comes near this; a larger file is not read at all.
const LARGEST_ENTRY: u64 = 256 << 20;

/// Why an entry cannot be used.
#[derive(Debug, thiserror::Error)]
enum EntryError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is not a file")]
    NotAFile,
    #[error("it has {bytes} bytes, at most {LARGEST_ENTRY} are read")]
    TooLarge { bytes: u64 },
    #[error("it ends too early")]
    Truncated,
    #[error("it does not begin as a cache entry")]
    NotAnEntry,
    #[error("expected format {VERSION}, got {got}")]
    OtherVersion { got: u32 },
    #[error("its checksum does not match its content")]
    Checksum,
    #[error("it is another key's entry")]
    OtherKey,
    #[error("expected {expected} sections, got {got}")]
    Sections { expected: usize, got: usize },
    #[error("its description: {0}")]
    Description(#[from] serde_json::Error),
    #[error("expected a {expected}")]
    OtherKind { expected: &'static str },
    #[error("its text is not UTF-8")]
    NotText(#[from] std::string::FromUtf8Error),
}

#[derive(Debug, Serialize, Deserialize)]
enum Meta {
    Kernel {
        name: String,
        arch: String,
        resources: Vec<KernelResources>,
        /// Nanoseconds: an integer comes back from JSON as it was.
        compile_ns: u64,
    },
    Blob {
        kind: String,
    },
}

fn encode(key: &blake3::Hash, meta: &Meta, sections: &[&[u8]]) -> Result<Vec<u8>, EntryError> {
    let meta = serde_json::to_vec(meta)?;
    let mut checked = key.as_bytes().to_vec();
    for section in std::iter::once(meta.as_slice()).chain(sections.iter().copied()) {
        checked.extend((section.len() as u64).to_le_bytes());
        checked.extend(section);
    }
    let version = VERSION.to_le_bytes();
    let checksum = blake3::hash(&checked);
    Ok([MAGIC, version.as_slice(), checksum.as_bytes(), &checked].concat())
}

/// Checks an entry and splits it into its description and the sections after that.
fn decode<'a>(bytes: &'a [u8], key: &blake3::Hash) -> Result<(Meta, Vec<&'a [u8]>), EntryError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(EntryError::NotAnEntry)?;
    let version = rest.first_chunk().ok_or(EntryError::Truncated)?;
    match u32::from_le_bytes(*version) {
        VERSION => {}
        got => return Err(EntryError::OtherVersion { got }),
    }
    let checksum = bytes.get(12..CHECKED_FROM).ok_or(EntryError::Truncated)?;
    let checked = bytes.get(CHECKED_FROM..).ok_or(EntryError::Truncated)?;
    if blake3::hash(checked).as_bytes() != checksum {
        return Err(EntryError::Checksum);
    }
    let mut rest = checked
        .strip_prefix(key.as_bytes())
        .ok_or(EntryError::OtherKey)?;
    let mut sections = Vec::new();
    while !rest.is_empty() {
        let (len, after) = rest.split_first_chunk().ok_or(EntryError::Truncated)?;
        let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| EntryError::Truncated)?;
        let (section, after) = after.split_at_checked(len).ok_or(EntryError::Truncated)?;
        sections.push(section);
        rest = after;
    }
    let (meta, content) = sections.split_first().ok_or(EntryError::Truncated)?;
    Ok((serde_json::from_slice(meta)?, content.to_vec()))
}

fn encode_kernel(
    key: &blake3::Hash,
    source: &CudaSource,
    compiled: &Compiled,
) -> Result<Vec<u8>, EntryError> {
    let meta = Meta::Kernel {
        name: source.name.clone(),
        arch: source.arch.clone(),
        resources: compiled.resources.clone(),
        compile_ns: (compiled.compile_ms * 1e6).round() as u64,
    };
    let Compiled {
        log, ptx, cubin, ..
    } = compiled;
    encode(key, &meta, &[log.as_bytes(), ptx.as_bytes(), cubin])
}

fn decode_kernel(bytes: &[u8], key: &blake3::Hash) -> Result<Compiled, EntryError> {
    let (meta, content) = decode(bytes, key)?;
    let Meta::Kernel {
        resources,
        compile_ns,
        ..
    } = meta
    else {
        return Err(EntryError::OtherKind { expected: "kernel" });
    };
    let [log, ptx, cubin] = exactly(content)?;
    Ok(Compiled {
        log: String::from_utf8(log.to_vec())?,
        ptx: String::from_utf8(ptx.to_vec())?,
        cubin: cubin.to_vec(),
        resources,
        compile_ms: compile_ns as f64 / 1e6,
    })
}

fn decode_blob(bytes: &[u8], key: &blake3::Hash) -> Result<Vec<u8>, EntryError> {
    let (meta, content) = decode(bytes, key)?;
    let Meta::Blob { .. } = meta else {
        return Err(EntryError::OtherKind { expected: "blob" });
    };
    let [content] = exactly(content)?;
    Ok(content.to_vec())
}

fn exactly<const N: usize>(sections: Vec<&[u8]>) -> Result<[&[u8]; N], EntryError> {
    let got = sections.len();
    sections
        .try_into()
        .map_err(|_| EntryError::Sections { expected: N, got })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvrtc::testing::nvrtc_or_skip;

    fn source(text: &str) -> CudaSource {
        CudaSource {
            name: "k.cu".into(),
            text: text.into(),
            arch: "sm_80".into(),
            options: vec![],
        }
    }

    fn compiled(ptx_len: usize) -> Compiled {
        Compiled {
            ptx: "p".repeat(ptx_len),
            cubin: (0..ptx_len).map(|i| i as u8).collect(),
            log: "log".into(),
            resources: vec![KernelResources {
                name: "k".into(),
                registers: 255,
                spill_store_bytes: 1,
                spill_load_bytes: 2,
                stack_bytes: 3,
                static_shared_bytes: 4,
                constant_bytes: None,
                barriers: Some(1),
            }],
            compile_ms: 18_647_342.0 / 1e6,
        }
    }

    /// A cache with one kernel, and an NVRTC that would fail if it were opened.
    fn filled(folder: &Path, kernel: &Compiled) -> (KernelCache, Nvrtc, CudaSource, PathBuf) {
        let cache = KernelCache::open(folder);
        let (nvrtc, source) = (Nvrtc::unloadable("build 1"), source("text"));
        let key = kernel_key(&nvrtc, &source);
        cache.write(&key, KERNEL_ENDING, || encode_kernel(&key, &source, kernel));
        let path = entry_path(folder, &key, KERNEL_ENDING);
        (cache, nvrtc, source, path)
    }

    #[test]
    fn a_hit_is_the_same_fast_and_does_not_open_nvrtc() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = compiled(200_000);
        let (cache, nvrtc, source, _) = filled(dir.path(), &kernel);
        let mut best = f64::INFINITY;
        for _ in 0..20 {
            let (got, outcome) = cache.get_or_compile(&nvrtc, &source).unwrap();
            assert_eq!(got, kernel);
            assert!(outcome.from_cache);
            best = best.min(outcome.ms);
        }
        assert!(best < 2.0, "{best} ms");
    }

    #[test]
    fn every_part_of_the_source_is_in_the_key() {
        let nvrtc = Nvrtc::unloadable("build 1");
        let base = source("text");
        let with = |change: fn(&mut CudaSource)| {
            let mut changed = base.clone();
            change(&mut changed);
            kernel_key(&nvrtc, &changed)
        };
        let mut keys = vec![
            kernel_key(&nvrtc, &base),
            kernel_key(&Nvrtc::unloadable("build 2"), &base),
            with(|s| s.text.push(' ')),
            with(|s| s.name = "other".into()),
            with(|s| s.arch = "sm_90".into()),
            with(|s| s.options = vec!["-DA".into()]),
            with(|s| s.options = vec!["-DA".into(), "-DB".into()]),
            with(|s| s.options = vec!["-DA-DB".into()]),
            with(|s| {
                s.name = "k.cut".into();
                s.text = "ext".into();
            }),
            blob_key("k.cu", "text"),
            blob_key("k.cut", "ext"),
        ];
        assert_eq!(kernel_key(&nvrtc, &base), keys[0]);
        let count = keys.len();
        keys.sort_by_key(|key| *key.as_bytes());
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn compiles_once_then_hits() {
        let Some(nvrtc) = nvrtc_or_skip() else { return };
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        let cache = KernelCache::open(&folder);
        let source = source("extern \"C\" __global__ void k(int* p) { p[0] = 7; }");
        let (cold, outcome) = cache.get_or_compile(&nvrtc, &source).unwrap();
        assert!(!outcome.from_cache);
        let (warm, outcome) = cache.get_or_compile(&nvrtc, &source).unwrap();
        assert!(outcome.from_cache);
        assert_eq!(cold, warm);
        let mode = fs::metadata(&folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let disabled = KernelCache::disabled();
        for _ in 0..2 {
            let (again, outcome) = disabled.get_or_compile(&nvrtc, &source).unwrap();
            assert!(!outcome.from_cache);
            assert_eq!(again.ptx, cold.ptx);
        }
    }

    #[test]
    fn a_damaged_entry_is_compiled_again_and_rewritten() {
        let Some(nvrtc) = nvrtc_or_skip() else { return };
        let dir = tempfile::tempdir().unwrap();
        let cache = KernelCache::open(dir.path());
        let source = source("extern \"C\" __global__ void k(int* p) { p[0] = 7; }");
        let (cold, _) = cache.get_or_compile(&nvrtc, &source).unwrap();
        let path = entry_path(dir.path(), &kernel_key(&nvrtc, &source), KERNEL_ENDING);
        let whole = fs::read(&path).unwrap();
        for cut in [0, 7, 43, 100, whole.len() - 1] {
            fs::write(&path, &whole[..cut]).unwrap();
            let (again, outcome) = cache.get_or_compile(&nvrtc, &source).unwrap();
            assert!(!outcome.from_cache, "cut at {cut}");
            assert_eq!((&again.ptx, &again.cubin), (&cold.ptx, &cold.cubin));
            let (_, outcome) = cache.get_or_compile(&nvrtc, &source).unwrap();
            assert!(outcome.from_cache, "cut at {cut}");
        }
    }

    #[test]
    fn a_cache_that_cannot_work_costs_only_time() {
        let Some(nvrtc) = nvrtc_or_skip() else { return };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "in the way").unwrap();
        let source = source("extern \"C\" __global__ void k(int* p) { p[0] = 7; }");
        for folder in [file.clone(), file.join("below")] {
            let cache = KernelCache::open(folder);
            for _ in 0..2 {
                let (_, outcome) = cache.get_or_compile(&nvrtc, &source).unwrap();
                assert!(!outcome.from_cache);
            }
            assert!(cache.warned.load(Ordering::Relaxed));
            cache.put_blob("choice", "key", b"x");
            assert_eq!(cache.get_blob("choice", "key"), None);
            assert!(cache.list().is_err());
        }
        // A folder where an entry should be: the miss stays a miss, nothing else fails.
        let cache = KernelCache::open(dir.path());
        let path = entry_path(dir.path(), &kernel_key(&nvrtc, &source), KERNEL_ENDING);
        fs::create_dir(path).unwrap();
        let (_, outcome) = cache.get_or_compile(&nvrtc, &source).unwrap();
        assert!(!outcome.from_cache);
    }

    #[test]
    fn blobs_are_kept_by_kind_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let cache = KernelCache::open(dir.path());
        assert_eq!(cache.get_blob("schedule", "a"), None);
        cache.put_blob("schedule", "a", b"one");
        cache.put_blob("schedule", "a", b"two");
        cache.put_blob("schedule", "../b", b"");
        cache.put_blob("other", "a", b"three");
        assert_eq!(cache.get_blob("schedule", "a").unwrap(), b"two");
        assert_eq!(cache.get_blob("schedule", "../b").unwrap(), b"");
        assert_eq!(cache.get_blob("other", "a").unwrap(), b"three");
        assert_eq!(KernelCache::disabled().get_blob("other", "a"), None);
    }

    #[test]
    fn list_and_clear_see_only_their_own_files() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            KernelCache::open(dir.path().join("none")).list().unwrap(),
            []
        );
        let (cache, _, _, path) = filled(dir.path(), &compiled(100));
        cache.put_blob("schedule", "a", b"one");
        let foreign = ["notes.txt", "abc.mlk", "records.jsonl"];
        for name in foreign {
            fs::write(dir.path().join(name), "mine").unwrap();
        }
        fs::write(dir.path().join(".mlafuse-left"), "over").unwrap();
        let damaged = path.with_file_name(format!("{}.mlk", "0".repeat(64)));
        fs::copy(&path, damaged).unwrap();

        let list = cache.list().unwrap();
        let contents: Vec<&CacheContent> = list.iter().map(|entry| &entry.content).collect();
        assert_eq!(list.len(), 3);
        assert!(matches!(contents[0], CacheContent::Damaged { reason } if reason.contains("key")));
        assert!(contents.contains(&&CacheContent::Kernel {
            name: "k.cu".into(),
            arch: "sm_80".into()
        }));
        assert!(contents.contains(&&CacheContent::Blob {
            kind: "schedule".into()
        }));
        let bytes: u64 = list.iter().map(|entry| entry.bytes).sum();

        let cleared = cache.clear().unwrap();
        assert_eq!((cleared.files, cleared.bytes), (4, bytes + 4));
        assert_eq!(cache.list().unwrap(), []);
        for name in foreign {
            assert!(dir.path().join(name).exists(), "{name}");
        }
    }

    #[test]
    fn writers_of_one_entry_do_not_disturb_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let cache = KernelCache::open(dir.path());
        cache.put_blob("kind", "key", &[0; 4096]);
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let cache = KernelCache::open(dir.path());
                scope.spawn(move || {
                    for _ in 0..20 {
                        cache.put_blob("kind", "key", &[thread; 4096]);
                        let got = cache.get_blob("kind", "key").unwrap();
                        assert!(got.len() == 4096 && got.iter().all(|byte| *byte == got[0]));
                    }
                    assert!(!cache.warned.load(Ordering::Relaxed));
                });
            }
        });
        assert_eq!(cache.clear().unwrap().files, 1);
    }

    /// A small generator (SplitMix64), so that a failure repeats by its seed.
    fn random(state: &mut u64) -> usize {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as u32 as usize
    }

    fn mutate(bytes: &mut Vec<u8>, state: &mut u64) {
        let at = random(state) % bytes.len().max(1);
        match random(state) % 6 {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random(state) as u8),
            2 => drop(bytes.drain(at..(at + random(state) % 40).min(bytes.len()))),
            3 => bytes.extend(vec![0; random(state) % 40]),
            // An absurd length, wherever it falls.
            4 => bytes
                .iter_mut()
                .skip(at)
                .take(8)
                .for_each(|byte| *byte = 0xff),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (random(state) % 8);
                }
            }
        }
    }

    #[test]
    fn mutated_entries_are_misses_or_identical() {
        let key = blob_key("kind", "key");
        let kernel = compiled(300);
        let whole = encode_kernel(&key, &source("text"), &kernel).unwrap();
        for seed in 0..20_000 {
            let mut state = seed;
            let mut bytes = whole.clone();
            for _ in 0..=random(&mut state) % 3 {
                mutate(&mut bytes, &mut state);
            }
            if let Ok(got) = decode_kernel(&bytes, &key) {
                assert_eq!(got, kernel, "seed {seed}");
            }
            // Past the checksum the sections themselves must hold: mend it and try again.
            if bytes.len() > CHECKED_FROM {
                let checksum = blake3::hash(&bytes[CHECKED_FROM..]);
                bytes[12..CHECKED_FROM].copy_from_slice(checksum.as_bytes());
                let _ = decode_kernel(&bytes, &key);
                let _ = decode_blob(&bytes, &key);
            }
        }
    }
}
