//! Reading one safetensors file.
//!
//! The layout is 8 bytes of header length (little-endian), the JSON header, then the tensors' bytes
//! back to back. The header is parsed and checked by the `safetensors` crate. The two lengths around
//! it are checked here: the crate's own sum of them can overflow, which panics in debug builds.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::{DType, HostTensor, Result, StoredTensor, TensorError};

const LENGTH_BYTES: usize = 8;
/// The format's own limit.
pub(crate) const MAX_HEADER_BYTES: u64 = 100_000_000;
const MAX_NEAR_NAMES: usize = 3;

/// An open, memory-mapped safetensors file.
///
/// Tensors taken from it share the map and keep it alive; none is copied unless it is unaligned.
/// The file must not be changed in place while it is mapped: a program that shortens it makes a
/// later read fail with a bus error. Replacing it by a rename, as [`crate::write_safetensors`]
/// does, is safe.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    map: Arc<Mmap>,
    data_start: usize,
    metadata: Metadata,
    names: Vec<String>,
}

impl SafetensorsFile {
    /// Maps the file and checks its whole header. Tensors of types that this crate does not know
    /// are no error until they are asked for.
    ///
    /// # Errors
    /// [`TensorError::Io`], [`TensorError::NotAFile`], [`TensorError::Truncated`],
    /// [`TensorError::HeaderLength`], [`TensorError::Header`], [`TensorError::DataLength`]; each
    /// names the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let map = map_file(path)?;
        let header = header_range(path, &map)?;
        let metadata: Metadata =
            serde_json::from_slice(&map[header.clone()]).map_err(|source| TensorError::Header {
                path: path.into(),
                source,
            })?;
        let (expected, got) = (metadata.data_len(), map.len() - header.end);
        if expected != got {
            return Err(TensorError::DataLength {
                path: path.into(),
                expected: expected as u64,
                got: got as u64,
            });
        }
        tracing::debug!(path = %path.display(), bytes = map.len(), "mapped safetensors file");
        Ok(Self {
            path: path.into(),
            map: Arc::new(map),
            data_start: header.end,
            names: names_in_file_order(&metadata),
            metadata,
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors' names in the order of their data in the file; empty tensors that share a place
    /// come by name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whether the file has a tensor of this name, of whatever type.
    pub fn contains(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    /// The tensor, without copying it unless the file stores it unaligned.
    ///
    /// # Errors
    /// [`TensorError::MissingTensor`], with up to three near names;
    /// [`TensorError::UnsupportedDType`]; [`TensorError::TensorInFile`].
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        self.stored(name)?.read()
    }

    /// The tensor, of any type, which must have this shape.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor), and [`TensorError::TensorShape`].
    pub fn tensor_shaped(&self, name: &str, shape: &[usize]) -> Result<HostTensor> {
        self.stored_shaped(name, shape)?.read()
    }

    /// The tensor, of any type, which must have this shape; to be read later.
    ///
    /// # Errors
    /// [`TensorError::MissingTensor`], [`TensorError::UnsupportedDType`], [`TensorError::TensorShape`].
    pub fn stored_shaped(&self, name: &str, shape: &[usize]) -> Result<StoredTensor> {
        let stored = self.stored(name)?;
        if stored.shape != shape {
            return Err(TensorError::TensorShape {
                path: self.path.clone(),
                name: name.to_owned(),
                expected: shape.to_vec(),
                got: stored.shape,
            });
        }
        Ok(stored)
    }

    fn stored(&self, name: &str) -> Result<StoredTensor> {
        let info = self.metadata.info(name).ok_or_else(|| TensorError::MissingTensor {
            path: self.path.clone(),
            name: name.to_owned(),
            near: near_names(name, self.names()),
        })?;
        let dtype = supported(info.dtype).ok_or_else(|| TensorError::UnsupportedDType {
            path: self.path.clone(),
            name: name.to_owned(),
            found: info.dtype.to_string(),
        })?;
        Ok(StoredTensor {
            path: self.path.clone(),
            name: name.to_owned(),
            dtype,
            shape: info.shape.clone(),
            map: Arc::clone(&self.map),
            range: self.byte_range(info),
        })
    }

    /// In the map. `open` checked that the offsets are in order and end where the file does.
    fn byte_range(&self, info: &TensorInfo) -> Range<usize> {
        let (start, end) = info.data_offsets;
        self.data_start + start..self.data_start + end
    }
}

/// Up to three of `names`, those that share the longest beginning and end with `name`.
pub(crate) fn near_names<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut scored: Vec<_> = names
        .map(|other| (common_ends(name, other), other))
        .filter(|&(score, _)| score > 0)
        .collect();
    scored.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    scored.truncate(MAX_NEAR_NAMES);
    scored.into_iter().map(|(_, other)| other.to_owned()).collect()
}

fn common_ends(a: &str, b: &str) -> usize {
    let same = |(x, y): &(u8, u8)| x == y;
    let prefix = a.bytes().zip(b.bytes()).take_while(same).count();
    let suffix = a.bytes().rev().zip(b.bytes().rev()).take_while(same).count();
    prefix + suffix
}

/// Fails for anything but a regular file: opening a pipe would wait for ever.
pub(crate) fn regular_file_bytes(path: &Path) -> Result<u64> {
    let found = fs::metadata(path).map_err(|source| io_error("open", path, source))?;
    if !found.is_file() {
        return Err(TensorError::NotAFile { path: path.into() });
    }
    Ok(found.len())
}

pub(crate) fn io_error(action: &'static str, path: &Path, source: std::io::Error) -> TensorError {
    TensorError::Io {
        action,
        path: path.into(),
        source,
    }
}

fn map_file(path: &Path) -> Result<Mmap> {
    regular_file_bytes(path)?;
    let file = File::open(path).map_err(|source| io_error("open", path, source))?;
    // SAFETY: the map is read-only and private to this crate, which never writes through it. That no
    // other program changes the file in place is the documented condition of `SafetensorsFile`; our
    // own writer replaces files by renaming.
    unsafe { Mmap::map(&file) }.map_err(|source| io_error("map", path, source))
}

/// Where the header is; its end is where the data starts.
fn header_range(path: &Path, file: &[u8]) -> Result<Range<usize>> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(TensorError::Truncated {
            path: path.into(),
            expected: LENGTH_BYTES as u64,
            got: file.len() as u64,
        });
    };
    let found = u64::from_le_bytes(*length);
    let allowed = MAX_HEADER_BYTES.min(rest.len() as u64);
    if found > allowed {
        return Err(TensorError::HeaderLength {
            path: path.into(),
            found,
            allowed,
        });
    }
    Ok(LENGTH_BYTES..LENGTH_BYTES + found as usize)
}

/// Sorted here because the crate keeps the tensors in a hash map, which leaves the order of empty
/// ones to chance.
fn names_in_file_order(metadata: &Metadata) -> Vec<String> {
    let mut tensors: Vec<_> = metadata.tensors().into_iter().collect();
    tensors.sort_by(|a, b| a.1.data_offsets.cmp(&b.1.data_offsets).then(a.0.cmp(&b.0)));
    tensors.into_iter().map(|(name, _)| name).collect()
}

fn supported(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F64 => Some(DType::F64),
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::I32 => Some(DType::I32),
        Dtype::I64 => Some(DType::I64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_bytes(bytes: &[u8]) -> Result<SafetensorsFile> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("case.safetensors");
        fs::write(&path, bytes).unwrap();
        SafetensorsFile::open(&path)
    }

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn bad_files_are_named_errors() {
        let one = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let cases: [(&str, Vec<u8>, &str); 7] = [
            (
                "empty",
                vec![],
                "truncated: a safetensors file has at least 8 bytes, got 0",
            ),
            ("short", vec![1; 7], "got 7"),
            (
                "absurd",
                [0xff; 16].to_vec(),
                "header length 18446744073709551615: at most 8 bytes",
            ),
            ("not json", file("{oops", &[]), "bad safetensors header"),
            (
                "short data",
                file(one, &[0; 3]),
                "describes 4 bytes of tensor data, the file has 3",
            ),
            ("long data", file(one, &[0; 5]), "the file has 5"),
            (
                "gap",
                file(&one.replace("[0,4]", "[4,8]"), &[0; 8]),
                "bad safetensors header",
            ),
        ];
        for (what, bytes, text) in cases {
            let message = open_bytes(&bytes).unwrap_err().to_string();
            assert!(
                message.contains("case.safetensors") && message.contains(text),
                "{what}: {message}"
            );
        }
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        // Eight tensors of nearly 2^61 bytes and one of 56 end 8 bytes short of 2^64: adding the
        // header to that overflows.
        let each = (1u64 << 61) - 8;
        let mut entries: Vec<String> = (0..8)
            .map(|i| {
                let (start, end) = (i * each, (i + 1) * each);
                format!(
                    r#""t{i}":{{"dtype":"F64","shape":[{}],"data_offsets":[{start},{end}]}}"#,
                    each / 8
                )
            })
            .collect();
        let (start, end) = (8 * each, 8 * each + 56);
        entries.push(format!(
            r#""t8":{{"dtype":"F64","shape":[7],"data_offsets":[{start},{end}]}}"#
        ));
        let header = format!("{{{}}}", entries.join(","));
        let error = open_bytes(&file(&header, &[])).unwrap_err();
        assert!(matches!(error, TensorError::DataLength { got: 0, .. }), "{error}");
    }

    #[test]
    fn a_missing_file_and_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let missing = SafetensorsFile::open(dir.path().join("absent.safetensors")).unwrap_err();
        assert!(missing.to_string().contains("cannot open") && missing.to_string().contains("absent"));
        let folder = SafetensorsFile::open(dir.path()).unwrap_err();
        assert!(matches!(folder, TensorError::NotAFile { .. }), "{folder}");
    }

    #[test]
    fn no_tensors_and_empty_tensors() {
        assert_eq!(open_bytes(&file("{}", &[])).unwrap().names().count(), 0);
        let header = r#"{"b":{"dtype":"F64","shape":[0,3],"data_offsets":[0,0]},
            "a":{"dtype":"I64","shape":[0],"data_offsets":[0,0]}}"#;
        let empty = open_bytes(&file(header, &[])).unwrap();
        assert_eq!(empty.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(empty.tensor("b").unwrap().shape(), [0, 3]);
        assert!(empty.tensor("b").unwrap().as_f64().unwrap().is_empty());
        let huge = header.replace("[0,3]", "[0,9223372036854775808]");
        let error = open_bytes(&file(&huge, &[])).unwrap().tensor("b").unwrap_err();
        assert!(matches!(error, TensorError::TensorInFile { .. }), "{error}");
    }

    #[test]
    fn unaligned_tensors_are_copied_and_aligned_ones_are_not() {
        let header = r#"{"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[1],"data_offsets":[4,6]}}"#;
        for pad in 0..8 {
            let header = format!("{header}{}", " ".repeat(pad));
            let data = [7i32.to_le_bytes().as_slice(), &half::f16::ONE.to_le_bytes()].concat();
            let file = open_bytes(&file(&header, &data)).unwrap();
            let (a, b) = (file.tensor("a").unwrap(), file.tensor("b").unwrap());
            assert_eq!(a.as_i32().unwrap(), [7]);
            assert_eq!(b.as_f16().unwrap(), [half::f16::ONE]);
            let is_mapped = |t: &HostTensor| file.map.as_ptr_range().contains(&t.bytes().as_ptr());
            assert_eq!(is_mapped(&a), file.data_start.is_multiple_of(4));
            assert_eq!(is_mapped(&b), file.data_start.is_multiple_of(2));
        }
    }

    #[test]
    fn wrong_requests_name_file_and_tensor() {
        let header = r#"{"q_a_proj.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
            "flags":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}"#;
        let file = open_bytes(&file(header, &[0; 6])).unwrap();
        let cases = [
            (
                file.tensor("q_proj.weight"),
                "no tensor \"q_proj.weight\"; near names: q_a_proj.weight",
            ),
            (file.tensor("flags"), "\"flags\" has element type U8"),
            (
                file.tensor_shaped("q_a_proj.weight", &[2, 2]),
                "expected shape [2, 2], got [1]",
            ),
        ];
        for (result, text) in cases {
            let message = result.unwrap_err().to_string();
            assert!(
                message.contains("case.safetensors") && message.contains(text),
                "{message}"
            );
        }
        assert!(file.contains("flags") && !file.contains("q_proj.weight"));
    }
}
