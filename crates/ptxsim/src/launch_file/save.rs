//! Writing outputs to a safetensors file, whole or not at all.

use std::cmp::Reverse;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::SafeTensorError;
use safetensors::tensor::{Metadata, TensorInfo};
use tempfile::NamedTempFile;

use super::run::Output;

/// Bytes before the header: its length.
const LENGTH_BYTES: usize = 8;
/// Tensor data starts on a multiple of this.
const ALIGNMENT: usize = 64;

/// Outputs that cannot be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is there is a folder or a device, which a file must not replace.
    #[error("cannot write {}: it is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The outputs have no place in one file.
    #[error("cannot write {}: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SafeTensorError,
    },
}

/// A file to be written.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
}

impl Target {
    /// Makes sure that the file can be written, before anybody waits for what goes into it. Nothing is changed.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn new(path: &Path) -> Result<Target, SaveError> {
        let path = path.to_owned();
        // A rename would quietly replace a device such as /dev/null by a file.
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            return Err(SaveError::NotAFile { path });
        }
        match temporary_beside(&path) {
            Ok(_removed_again) => Ok(Target { path }),
            Err(source) => Err(SaveError::Write { path, source }),
        }
    }

    /// Writes the outputs to a temporary file beside it, which is then renamed.
    ///
    /// # Errors
    /// Where that fails; the file is as it was then.
    pub fn save(&self, outputs: &[Output]) -> Result<(), SaveError> {
        let path = || self.path.clone();
        let format = |source| SaveError::Format { path: path(), source };
        let write = |source| SaveError::Write { path: path(), source };
        let mut ordered: Vec<&Output> = outputs.iter().collect();
        // The widest elements first, so that all are aligned.
        ordered.sort_by_key(|output| Reverse(output.element.bytes()));
        let header = header(&ordered).map_err(format)?;
        let temporary = temporary_beside(&self.path).map_err(write)?;
        fill(temporary.as_file(), &header, &ordered).map_err(write)?;
        temporary.persist(&self.path).map_err(|failed| write(failed.error))?;
        Ok(())
    }
}

fn fill(file: &fs::File, header: &[u8], outputs: &[&Output]) -> io::Result<()> {
    let mut writer = BufWriter::new(file);
    writer.write_all(&(header.len() as u64).to_le_bytes())?;
    writer.write_all(header)?;
    outputs.iter().try_for_each(|output| writer.write_all(&output.bytes))?;
    writer.flush()?;
    file.sync_all()
}

/// The JSON header, padded so that the data after it is aligned.
fn header(outputs: &[&Output]) -> Result<Vec<u8>, SafeTensorError> {
    let mut start = 0;
    let info = |output: &&Output| {
        let offsets = (start, start + output.bytes.len());
        start = offsets.1;
        let info = TensorInfo {
            dtype: output.element.dtype(),
            shape: output.shape.clone(),
            data_offsets: offsets,
        };
        (output.name.clone(), info)
    };
    let metadata = Metadata::new(None, outputs.iter().map(info).collect())?;
    let mut header = serde_json::to_vec(&metadata)?;
    let length = header.len() + LENGTH_BYTES;
    header.resize(length.next_multiple_of(ALIGNMENT) - LENGTH_BYTES, b' ');
    Ok(header)
}

/// With the permissions of any new file, where tempfile's own choice is the owner's alone.
fn temporary_beside(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".ptxsim-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder.unwrap_or(Path::new(".")))
}
