//! The file of one entry: magic, version, BLAKE3 of the rest, key, then length-prefixed sections: the
//! description as JSON, and the content (kernel: log, PTX, CUBIN; blob: its bytes).

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::nvrtc::{Compiled, CudaSource, KernelResources};

const MAGIC: &[u8; 8] = b"MLAFUSE\n";
const VERSION: u32 = 1;
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
pub(super) enum Meta {
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

pub(super) fn encode(key: &blake3::Hash, meta: &Meta, sections: &[&[u8]]) -> Result<Vec<u8>, EntryError> {
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
pub(super) fn decode<'a>(bytes: &'a [u8], key: &blake3::Hash) -> Result<(Meta, Vec<&'a [u8]>), EntryError> {
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

pub(super) fn encode_kernel(
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
    let Compiled { log, ptx, cubin, .. } = compiled;
    encode(key, &meta, &[log.as_bytes(), ptx.as_bytes(), cubin])
}

pub(super) fn decode_kernel(bytes: &[u8], key: &blake3::Hash) -> Result<Compiled, EntryError> {
    let (meta, content) = decode(bytes, key)?;
    let Meta::Kernel {
        resources, compile_ns, ..
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

pub(super) fn decode_blob(bytes: &[u8], key: &blake3::Hash) -> Result<Vec<u8>, EntryError> {
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
