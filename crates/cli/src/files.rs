//! Output files that appear whole or not at all.

use anyhow::{Context, Result, bail};
use mlafuse_tensor::write_file_atomic;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Files on their way to a folder. They are written to a temporary folder on the same file system, and each is moved into
/// place by [`OutFiles::publish`]; dropped before that, nothing is left.
pub struct OutFiles {
    folder: PathBuf,
    staging: TempDir,
    /// Relative to the folder.
    files: Vec<PathBuf>,
}

impl OutFiles {
    /// For files in `folder`, which is made at the end where it isn't there.
    pub fn new(folder: &Path) -> Result<OutFiles> {
        let folder = std::path::absolute(folder).with_context(|| format!("--out {}", folder.display()))?;
        let Some(there) = folder.ancestors().find(|path| path.exists()) else {
            bail!("--out {}: no folder above it exists", folder.display());
        };
        if !there.is_dir() {
            bail!("--out {}: {} is not a folder", folder.display(), there.display());
        }
        let staging = tempfile::Builder::new().prefix(".mlafuse-").tempdir_in(there);
        let staging = staging.with_context(|| format!("--out {}: cannot write there", folder.display()))?;
        Ok(OutFiles {
            folder,
            staging,
            files: Vec::new(),
        })
    }

    /// A path to write the file `name` to; its folder exists.
    pub fn path(&mut self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.staging.path().join(&name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        self.files.push(name.as_ref().to_owned());
        Ok(path)
    }

    /// Adds a file.
    pub fn write(&mut self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(name)?;
        Ok(write_file_atomic(path, bytes.as_ref())?)
    }

    /// Moves every file into place; gives their paths.
    pub fn publish(self) -> Result<Vec<PathBuf>> {
        // Before the first is moved, so that what can be foreseen stops them all.
        if let Some(file) = self
            .files
            .iter()
            .map(|file| self.folder.join(file))
            .find(|file| file.is_dir())
        {
            bail!("cannot write {}: it is a folder", file.display());
        }
        let mut published = Vec::with_capacity(self.files.len());
        for file in &self.files {
            let (from, to) = (self.staging.path().join(file), self.folder.join(file));
            let parent = to.parent().unwrap_or(&self.folder);
            fs::create_dir_all(parent).with_context(|| format!("cannot make the folder {}", parent.display()))?;
            fs::rename(&from, &to).with_context(|| format!("cannot write {}", to.display()))?;
            published.push(to);
        }
        Ok(published)
    }
}

/// Whether a file can be written at `path`, as far as can be told without writing it: asked before long work.
pub fn check_output_file(flag: &str, path: &Path) -> Result<()> {
    if path.is_dir() {
        bail!("{flag} {}: it is a folder; a file name is needed", path.display());
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if !parent.is_dir() {
        bail!("{flag} {}: {} is not a folder", path.display(), parent.display());
    }
    let probe = tempfile::Builder::new().prefix(".mlafuse-").tempfile_in(parent);
    probe.with_context(|| format!("{flag} {}: cannot write in {}", path.display(), parent.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_appear_together_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/b");
        let mut files = OutFiles::new(&out).unwrap();
        files.write("k/x.ptx", "text").unwrap();
        assert!(!out.exists());
        drop(files);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut files = OutFiles::new(&out).unwrap();
        files.write("k/x.ptx", "text").unwrap();
        assert_eq!(files.publish().unwrap(), [out.join("k/x.ptx")]);
        assert_eq!(fs::read_to_string(out.join("k/x.ptx")).unwrap(), "text");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = OutFiles::new(&file.join("below")).err().unwrap().to_string();
        assert!(error.contains("file is not a folder"), "{error}");
        assert!(check_output_file("--output", &file.join("x")).is_err());
        assert!(check_output_file("--output", dir.path()).is_err());
        assert!(check_output_file("--output", &file).is_ok());
    }
}
