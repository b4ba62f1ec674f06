//! The file of one entry: magic, version, BLAKE3 of the rest, key, then length-prefixed sections: the
//! description as JSON, NVRTC's log, PTX and CUBIN.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::nvrtc::{Compiled, CudaSource, KernelResources};

const MAGIC: &[u8; 8] = b"MLAFUSE\n";
const VERSION: u32 = 2;
pub(super) const CHECKED_FROM: usize = 8 + 4 + 32;
/// No kernel comes near this; a larger file is not read at all.
const LARGEST_ENTRY: u64 = 256 << 20;

/// Why an entry cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum EntryError {
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
    #[error("expected log, PTX and CUBIN, got {got} sections")]
    Sections { got: usize },
    #[error("its description: {0}")]
    Description(#[from] serde_json::Error),
    #[error("its text is not UTF-8")]
    NotText(#[from] std::string::FromUtf8Error),
}

/// The description.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Meta {
    pub name: String,
    pub arch: String,
    resources: Vec<KernelResources>,
    /// Nanoseconds: an integer comes back from JSON as it was.
    compile_ns: u64,
}

/// Checks an entry and splits it into its description and the sections after that.
pub(super) fn sections<'a>(bytes: &'a [u8], key: &blake3::Hash) -> Result<(Meta, Vec<&'a [u8]>), EntryError> {
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
    let mut rest = checked.strip_prefix(key.as_bytes()).ok_or(EntryError::OtherKey)?;
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

pub(super) fn encode(key: &blake3::Hash, source: &CudaSource, compiled: &Compiled) -> Result<Vec<u8>, EntryError> {
    let meta = serde_json::to_vec(&Meta {
        name: source.name.clone(),
        arch: source.arch.clone(),
        resources: compiled.resources.clone(),
        compile_ns: (compiled.compile_ms * 1e6).round() as u64,
    })?;
    let mut checked = key.as_bytes().to_vec();
    for section in [&meta, compiled.log.as_bytes(), compiled.ptx.as_bytes(), &compiled.cubin] {
        checked.extend((section.len() as u64).to_le_bytes());
        checked.extend(section);
    }
    let version = VERSION.to_le_bytes();
    let checksum = blake3::hash(&checked);
    Ok([MAGIC, version.as_slice(), checksum.as_bytes(), &checked].concat())
}

pub(super) fn decode(bytes: &[u8], key: &blake3::Hash) -> Result<Compiled, EntryError> {
    let (meta, content) = sections(bytes, key)?;
    let [log, ptx, cubin] = content[..] else {
        return Err(EntryError::Sections { got: content.len() });
    };
    Ok(Compiled {
        log: String::from_utf8(log.to_vec())?,
        ptx: String::from_utf8(ptx.to_vec())?,
        cubin: cubin.to_vec(),
        resources: meta.resources,
        compile_ms: meta.compile_ns as f64 / 1e6,
    })
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, EntryError> {
    let metadata = fs::metadata(path)?;
    // Anything else (a pipe) could block.
    if !metadata.is_file() {
        return Err(EntryError::NotAFile);
    }
    if metadata.len() > LARGEST_ENTRY {
        return Err(EntryError::TooLarge { bytes: metadata.len() });
    }
    Ok(fs::read(path)?)
}
