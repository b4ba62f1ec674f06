//! The repository's files, read once.

use std::path::Path;

use anyhow::{Context, Result};
use walkdir::{DirEntry, WalkDir};

use super::source::Source;

pub struct Repo {
    /// Sorted by path.
    pub files: Vec<File>,
}

pub struct File {
    /// From the root, with `/` between folders.
    pub path: String,
    pub bytes: u64,
    /// `None` for a file that is not UTF-8 text.
    pub text: Option<String>,
    /// For `.rs` files.
    pub source: Option<Source>,
}

impl Repo {
    /// Reads every file below `root`, but for what a folder's .gitignore names by `/name` lines, and git's own.
    pub fn read(root: &Path) -> Result<Self> {
        let kept = |entry: &DirEntry| {
            let name = entry.file_name().to_string_lossy();
            entry.depth() == 0 || !(name == ".git" || is_ignored(entry.path(), &name))
        };
        let mut files = Vec::new();
        for entry in WalkDir::new(root).sort_by_file_name().into_iter().filter_entry(kept) {
            let entry = entry?;
            if entry.file_type().is_file() {
                files.push(read_file(root, entry.path())?);
            }
        }
        Ok(Self { files })
    }

    #[cfg(test)]
    pub fn made_up(files: &[(&str, &str)]) -> Self {
        let file = |(path, text): &(&str, &str)| File::new(path.to_string(), text.as_bytes().to_vec());
        Self {
            files: files.iter().map(file).collect(),
        }
    }

    /// The text files with their text.
    pub fn texts(&self) -> impl Iterator<Item = (&File, &str)> {
        self.files.iter().filter_map(|file| Some((file, file.text.as_deref()?)))
    }

    /// The Rust files with their code, strings and comments told apart.
    pub fn sources(&self) -> impl Iterator<Item = (&File, &Source)> {
        self.files.iter().filter_map(|file| Some((file, file.source.as_ref()?)))
    }

    pub fn text(&self, path: &str) -> Option<&str> {
        self.texts().find(|(file, _)| file.path == path).map(|(_, text)| text)
    }
}

impl File {
    pub fn new(path: String, content: Vec<u8>) -> Self {
        let bytes = content.len() as u64;
        let text = String::from_utf8(content).ok().filter(|text| !text.contains('\0'));
        let source = text
            .as_deref()
            .filter(|_| path.ends_with(".rs"))
            .map(|text| Source::new(text, is_test_path(&path)));
        Self {
            path,
            bytes,
            text,
            source,
        }
    }

    /// Whether the file lies in the `src` folder of one of the packages that make up the product.
    pub fn is_product(&self) -> bool {
        (self.path.starts_with("crates/") || self.path.starts_with("codegen/")) && self.path.contains("/src/")
    }
}

fn is_test_path(path: &str) -> bool {
    let mut folders = path.split('/').rev().skip(1);
    folders.any(|folder| folder == "tests" || folder == "benches")
        || path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
}

/// Whether the .gitignore beside a file or folder names it.
fn is_ignored(path: &Path, name: &str) -> bool {
    let beside = path.with_file_name(".gitignore");
    let text = std::fs::read_to_string(beside).unwrap_or_default();
    let mut names = text.lines().filter_map(|line| line.trim().strip_prefix('/'));
    names.any(|other| other.trim_end_matches('/') == name)
}

fn read_file(root: &Path, path: &Path) -> Result<File> {
    let content = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let inside = path.strip_prefix(root)?;
    let parts: Vec<_> = inside
        .components()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect();
    Ok(File::new(parts.join("/"), content))
}
