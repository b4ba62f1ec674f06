//! Writing files whole or not at all.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use tempfile::NamedTempFile;

use crate::safetensors_file::io_error;
use crate::{DType, HostTensor, Result, TensorError};

/// Tensor data starts on a multiple of this, so that a mapped tensor is as aligned as an owned one.
const DATA_ALIGNMENT: usize = 64;
const LENGTH_BYTES: usize = 8;
const BUFFER_BYTES: usize = 1 << 20;

/// Writes a safetensors file, whole or not at all (see [`write_file_atomic`]).
///
/// Tensors are stored widest element type first, so that each is aligned, and in the order given
/// within a type. The same tensors give the same bytes.
///
/// # Errors
/// [`TensorError::TensorName`] for a name that appears twice or is `__metadata__`;
/// [`TensorError::FileTooLong`]; those of [`write_file_atomic`].
pub fn write_safetensors(path: impl AsRef<Path>, tensors: &[(&str, HostTensor)]) -> Result<()> {
    let path = path.as_ref();
    check_names(path, tensors)?;
    let mut ordered: Vec<&(&str, HostTensor)> = tensors.iter().collect();
    ordered.sort_by_key(|(_, tensor)| Reverse(tensor.dtype().size_bytes()));
    let header = header(path, &ordered)?;
    write_whole(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        ordered
            .iter()
            .try_for_each(|(_, tensor)| file.write_all(tensor.bytes()))
    })
}

/// Writes `bytes` to `path`, whole or not at all: to a temporary file in the same folder, which is
/// flushed to the disk and then renamed. On any failure `path` is as it was, and nothing is left
/// beside it. A symbolic link at `path` is replaced, not followed.
///
/// # Errors
/// [`TensorError::Io`]; [`TensorError::NotAFile`] where `path` is a folder, pipe or device.
pub fn write_file_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    write_whole(path.as_ref(), |file| file.write_all(bytes))
}

fn write_whole(path: &Path, fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> Result<()> {
    // A rename would quietly replace a device such as /dev/null by a file.
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(TensorError::NotAFile { path: path.into() });
    }
    let dir = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let temp = temp_file_in(dir).map_err(|source| io_error("create a file in", dir, source))?;
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, temp.as_file());
    fill(&mut writer)
        .and_then(|()| writer.flush())
        .and_then(|()| temp.as_file().sync_all())
        .map_err(|source| io_error("write", path, source))?;
    drop(writer);
    temp.persist(path)
        .map_err(|failed| io_error("write", path, failed.error))?;
    sync_dir(dir);
    tracing::debug!(path = %path.display(), "wrote file");
    Ok(())
}

/// With the permissions of any new file, where tempfile's own choice is the owner's alone.
fn temp_file_in(dir: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".mlafuse-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(dir)
}

/// Makes the rename last through a power cut. The file is whole either way, and some file systems
/// cannot do it, so a failure is no error.
fn sync_dir(dir: &Path) {
    if let Err(error) = File::open(dir).and_then(|dir| dir.sync_all()) {
        tracing::debug!(dir = %dir.display(), %error, "cannot flush the folder");
    }
}

fn check_names(path: &Path, tensors: &[(&str, HostTensor)]) -> Result<()> {
    let mut seen = BTreeSet::from(["__metadata__"]);
    match tensors.iter().find(|(name, _)| !seen.insert(name)) {
        Some((name, _)) => Err(TensorError::TensorName {
            path: path.into(),
            name: (*name).to_owned(),
        }),
        None => Ok(()),
    }
}

/// The JSON header, padded with spaces so that the data after it is aligned.
fn header(path: &Path, ordered: &[&(&str, HostTensor)]) -> Result<Vec<u8>> {
    let too_long = || TensorError::FileTooLong { path: path.into() };
    let mut infos = Vec::with_capacity(ordered.len());
    let mut start = 0usize;
    for (name, tensor) in ordered {
        let end = start.checked_add(tensor.bytes().len()).ok_or_else(too_long)?;
        let info = TensorInfo {
            dtype: file_dtype(tensor.dtype()),
            shape: tensor.shape().to_vec(),
            data_offsets: (start, end),
        };
        infos.push(((*name).to_owned(), info));
        start = end;
    }
    let metadata = Metadata::new(None, infos).map_err(|_| too_long())?;
    let bad_header = |source| TensorError::Header {
        path: path.into(),
        source,
    };
    let mut header = serde_json::to_vec(&metadata).map_err(bad_header)?;
    let data_start = (LENGTH_BYTES + header.len()).next_multiple_of(DATA_ALIGNMENT);
    header.resize(data_start - LENGTH_BYTES, b' ');
    Ok(header)
}

fn file_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SafetensorsFile;

    fn files_in(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn failures_leave_nothing_behind_and_the_old_file_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        write_file_atomic(&path, b"old").unwrap();
        let full = |file: &mut BufWriter<&File>| {
            file.write_all(&[0; 3 * BUFFER_BYTES])?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        };
        let error = write_whole(&path, full).unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(files_in(dir.path()), ["out"]);

        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        assert!(matches!(
            write_file_atomic(&folder, b"x"),
            Err(TensorError::NotAFile { .. })
        ));
        let absent = write_file_atomic(dir.path().join("no/such/out"), b"x").unwrap_err();
        assert!(absent.to_string().contains("no/such"), "{absent}");
        assert_eq!(files_in(dir.path()), ["folder", "out"]);
        write_file_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_any_new_file() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        write_file_atomic(dir.path().join("ours"), b"x").unwrap();
        fs::write(dir.path().join("std"), b"x").unwrap();
        let mode = |name| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("ours"), mode("std"));
    }

    #[test]
    fn names_that_cannot_be_stored_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let x = HostTensor::zeros(DType::F32, &[1]).unwrap();
        for names in [["a", "a"], ["b", "__metadata__"]] {
            let path = dir.path().join("out.safetensors");
            let error = write_safetensors(&path, &names.map(|name| (name, x.clone()))).unwrap_err();
            assert!(error.to_string().contains(&format!("{:?}", names[1])), "{error}");
        }
        assert!(files_in(dir.path()).is_empty());
    }

    #[test]
    fn every_tensor_is_mapped_aligned_in_a_stable_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.safetensors");
        let types = [DType::BF16, DType::F32, DType::F64, DType::F16, DType::I64, DType::I32];
        let names = ["z", "y", "x", "w", "v", "u"];
        let tensors: Vec<_> = names
            .into_iter()
            .zip(types.map(|t| HostTensor::zeros(t, &[3]).unwrap()))
            .collect();
        write_safetensors(&path, &tensors).unwrap();
        let file = SafetensorsFile::open(&path).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["x", "v", "y", "u", "z", "w"]);
        for name in names {
            assert!(format!("{:?}", file.tensor(name).unwrap()).contains("mapped"), "{name}");
        }
        assert_eq!(file.tensor("x").unwrap().bytes().as_ptr().addr() % DATA_ALIGNMENT, 0);
    }

    #[test]
    fn a_file_can_replace_the_one_its_tensors_are_mapped_from() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.safetensors");
        write_safetensors(&path, &[("a", HostTensor::from_f32(&[2], &[1.0, 2.0]).unwrap())]).unwrap();
        let a = SafetensorsFile::open(&path).unwrap().tensor("a").unwrap();
        write_safetensors(&path, &[("b", a.slice_outer(1..2).unwrap())]).unwrap();
        assert_eq!(a.to_f32_vec(), [1.0, 2.0]);
        assert_eq!(
            SafetensorsFile::open(&path).unwrap().tensor("b").unwrap().to_f32_vec(),
            [2.0]
        );
    }
}
