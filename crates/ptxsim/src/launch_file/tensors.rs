//! Tensors of safetensors files, mapped.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::tensor::Metadata;

use super::element::ElementType;
use super::json::Field;
use super::{LaunchFileError, files};

const LENGTH_BYTES: usize = 8;
/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Most names that a message lists.
const MAX_NAMES: usize = 12;

/// A mapped file. It must not be shortened while it is mapped.
#[derive(Debug)]
pub(super) struct TensorFile {
    path: PathBuf,
    map: Mmap,
    data_start: usize,
    metadata: Metadata,
}

/// A tensor of a file.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    file: Arc<TensorFile>,
    pub name: String,
    pub element: ElementType,
    pub shape: Vec<usize>,
    place: Range<usize>,
}

impl Tensor {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.file.map[self.place.clone()]
    }

    /// Whether both are the same tensor of the same file.
    pub(super) fn is(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.file, &other.file) && self.name == other.name
    }
}

impl TensorFile {
    pub(super) fn open(path: &Path) -> Result<TensorFile, LaunchFileError> {
        let (file, _) = files::open(path)?;
        // SAFETY: the map is read-only and never written through. That nobody shortens the file meanwhile is what every
        // reader of a mapped file relies on.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| LaunchFileError::Read {
            path: path.to_owned(),
            source,
        })?;
        let damaged = |message| LaunchFileError::Safetensors {
            path: path.to_owned(),
            message,
        };
        let header = header(&map).map_err(damaged)?;
        let metadata: Metadata =
            serde_json::from_slice(&map[header.clone()]).map_err(|error| damaged(error.to_string()))?;
        let (described, found) = (metadata.data_len(), map.len() - header.end);
        if described != found {
            let message = format!("its header describes {described} bytes of data, it has {found}");
            return Err(damaged(message));
        }
        Ok(TensorFile {
            path: path.to_owned(),
            map,
            data_start: header.end,
            metadata,
        })
    }

    /// The tensors' names in order.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = self.metadata.offset_keys();
        names.sort();
        names
    }

    /// A tensor that `field` asks for.
    pub(super) fn tensor(self: &Arc<Self>, name: &str, field: &Field<'_>) -> Result<Tensor, LaunchFileError> {
        let info = self
            .metadata
            .info(name)
            .ok_or_else(|| field.unexpected(self.listed()))?;
        let element = ElementType::from_dtype(info.dtype).ok_or_else(|| {
            let found = format!("a tensor of type {:?}", info.dtype);
            field.wrong(found, ElementType::names())
        })?;
        let (start, end) = info.data_offsets;
        Ok(Tensor {
            file: Arc::clone(self),
            name: name.to_owned(),
            element,
            shape: info.shape.clone(),
            // The header's check has found that the offsets are in order and end where the file does.
            place: self.data_start + start..self.data_start + end,
        })
    }

    fn listed(&self) -> String {
        let names = self.names();
        let more = if names.len() > MAX_NAMES { ", ..." } else { "" };
        let first: Vec<&str> = names.iter().take(MAX_NAMES).map(String::as_str).collect();
        format!(
            "the name of a tensor of {}: {}{more}",
            self.path.display(),
            first.join(", ")
        )
    }
}

/// Where the header is. Checked here because the crate's own sum of the lengths can overflow.
fn header(file: &[u8]) -> Result<Range<usize>, String> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(format!("it has {} bytes, fewer than any", file.len()));
    };
    let length = u64::from_le_bytes(*length);
    let allowed = MAX_HEADER_BYTES.min(rest.len() as u64);
    if length > allowed {
        return Err(format!("its header length is {length}, at most {allowed} is possible"));
    }
    Ok(LENGTH_BYTES..LENGTH_BYTES + length as usize)
}

/// The tensor files that a launch file names, each mapped once.
#[derive(Debug)]
pub(super) struct TensorFiles<'a> {
    /// Where the launch file lies.
    folder: &'a Path,
    files: BTreeMap<PathBuf, Arc<TensorFile>>,
}

impl<'a> TensorFiles<'a> {
    pub(super) fn new(folder: &'a Path) -> TensorFiles<'a> {
        let files = BTreeMap::new();
        TensorFiles { folder, files }
    }

    pub(super) fn open(&mut self, name: &str) -> Result<Arc<TensorFile>, LaunchFileError> {
        let path = self.folder.join(name);
        if let Some(file) = self.files.get(&path) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(TensorFile::open(&path)?);
        self.files.insert(path, Arc::clone(&file));
        Ok(file)
    }

    /// The tensor of a field such as `"in.safetensors#a"`.
    pub(super) fn tensor(&mut self, field: &Field<'_>) -> Result<Tensor, LaunchFileError> {
        let expected = "a file and a tensor of it, as in \"in.safetensors#a\"";
        let text = field.string(expected)?;
        match text.rsplit_once('#') {
            Some((file, name)) if !file.is_empty() && !name.is_empty() => self.open(file)?.tensor(name, field),
            _ => Err(field.unexpected(expected)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_bytes(bytes: &[u8]) -> Result<TensorFile, LaunchFileError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("case.safetensors");
        std::fs::write(&path, bytes).unwrap();
        TensorFile::open(&path)
    }

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn damaged_files_are_named_errors() {
        let one = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let each = (1_u64 << 61) - 8;
        let tensors: Vec<String> = (0..9)
            .map(|i| {
                let (start, count) = (i * each, if i == 8 { 7 } else { each / 8 });
                let end = start + count * 8;
                format!(r#""t{i}":{{"dtype":"F64","shape":[{count}],"data_offsets":[{start},{end}]}}"#)
            })
            .collect();
        let cases: [(Vec<u8>, &str); 8] = [
            (vec![], "it has 0 bytes"),
            (vec![1; 7], "it has 7 bytes"),
            (vec![0xff; 16], "header length is 18446744073709551615, at most 8"),
            (file("{oops", &[]), "not a safetensors file"),
            (file(one, &[0; 3]), "describes 4 bytes of data, it has 3"),
            (file(one, &[0; 5]), "it has 5"),
            (file(&one.replace("[0,4]", "[4,8]"), &[0; 8]), "not a safetensors file"),
            // The sum of these lengths ends 8 bytes short of 2^64.
            (file(&format!("{{{}}}", tensors.join(",")), &[]), "it has 0"),
        ];
        for (bytes, text) in cases {
            let message = open_bytes(&bytes).unwrap_err().to_string();
            assert!(
                message.contains("case.safetensors") && message.contains(text),
                "{message}"
            );
        }
        let whole = open_bytes(&file(one, &1.5_f32.to_le_bytes())).unwrap();
        assert_eq!(whole.names(), ["a"]);
    }
}
