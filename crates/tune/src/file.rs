//! The file that records are added to, one whole line at a time, by several processes at once if need be.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::record::{Fact, print};
use crate::{Key, Records};

/// A file of records.
#[derive(Clone, Debug)]
pub struct RecordFile {
    path: PathBuf,
}

/// A failure to read or write one.
#[derive(Debug, thiserror::Error)]
#[error("tuning records: cannot {action} {}: {reason}", .path.display())]
pub struct FileError {
    /// What was tried.
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub reason: io::Error,
}

impl RecordFile {
    /// The file at `path`, which need not exist. It is made at the first record, for the user alone as is the folder it is in,
    /// where that is not there either: who can write here decides how kernels run.
    pub fn new(path: impl Into<PathBuf>) -> RecordFile {
        RecordFile { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds; damaged lines are warned of.
    ///
    /// # Errors
    /// Where it is there and cannot be read.
    pub fn read(&self) -> Result<Records, FileError> {
        Records::read(&self.path).map_err(|reason| self.failed("read", reason))
    }

    /// Adds a fact, which is on the disk when this returns: one whole line in one piece.
    pub(crate) fn add(&self, key: &Key, fact: &Fact) -> Result<(), FileError> {
        let added = print(key, fact)
            .map_err(io::Error::other)
            .and_then(|line| self.append(line));
        added.map_err(|reason| self.failed("write", reason))
    }

    fn append(&self, mut line: String) -> io::Result<()> {
        let mut file = self.open()?;
        // Ends when the file is closed.
        file.lock()?;
        if !ends_with_newline(&mut file)? {
            // Somebody was interrupted: what there is of that line is not to spoil this one.
            line.insert(0, '\n');
        }
        file.write_all(line.as_bytes())?;
        file.sync_data()
    }

    fn open(&self) -> io::Result<File> {
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        options.open(&self.path)
    }

    fn failed(&self, action: &'static str, reason: io::Error) -> FileError {
        FileError {
            action,
            path: self.path.clone(),
            reason,
        }
    }
}

/// Of an empty file too: nothing stands before what comes.
fn ends_with_newline(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Candidate, Outcome};
    use crate::testing::{attention_plan, dims, key};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn fact(width: usize) -> Fact {
        Fact::Candidate(Candidate {
            schedule: format!("block 1x{width}, warps 1x1, stages 1").parse().unwrap(),
            outcome: Outcome::Fails {
                failed: "no".to_string(),
            },
        })
    }

    #[test]
    fn a_line_that_was_cut_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = RecordFile::new(dir.path().join("new/records.jsonl"));
        let key = key(&attention_plan(), "attention", &dims(4, 100));
        assert_eq!(file.read().unwrap(), Records::default());
        file.add(&key, &fact(1)).unwrap();
        let whole = fs::read_to_string(file.path()).unwrap();
        fs::write(file.path(), whole.clone() + &whole[..40]).unwrap();
        file.add(&key, &fact(2)).unwrap();
        let (records, damages) = Records::parse(&fs::read(file.path()).unwrap());
        assert_eq!(records.get(&key).unwrap().candidates.len(), 2);
        assert_eq!(damages.iter().map(|damage| damage.line).collect::<Vec<_>>(), [2]);
        assert_eq!(file.read().unwrap(), records);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(file.path()), mode(file.path().parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn several_add_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = RecordFile::new(dir.path().join("records.jsonl"));
        let key = key(&attention_plan(), "attention", &dims(4, 100));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (file, key) = (&file, &key);
                scope.spawn(move || (1..=20).for_each(|i| file.add(key, &fact(100 * thread + i)).unwrap()));
            }
        });
        let (records, damages) = Records::parse(&fs::read(file.path()).unwrap());
        assert_eq!((records.get(&key).unwrap().candidates.len(), damages.len()), (80, 0));
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = RecordFile::new(dir.path());
        let key = key(&attention_plan(), "attention", &dims(4, 100));
        let error = file.add(&key, &fact(1)).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("tuning records: cannot write {}", dir.path().display())),
            "{error}"
        );
        assert!(file.read().unwrap_err().to_string().contains("not a regular file"));
    }
}
