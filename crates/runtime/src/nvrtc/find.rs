//! Finds NVRTC's file. Nothing is opened as a library and Python is never run: this costs a few
//! dozen directory look-ups.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::elf;
use super::error::NvrtcError;
use crate::folders::{data_folder, variable};

/// How a library was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundBy {
    /// The caller named it.
    Option,
    /// The environment variable `MLAFUSE_NVRTC`.
    Environment,
    /// The project's set-up folder `.nvrtc`, or `nvrtc` in the user's data folder.
    Setup,
    /// `CUDA_HOME`.
    CudaHome,
    /// `CUDA_PATH`.
    CudaPath,
    /// A Python environment's nvidia wheel, or a conda environment.
    Python,
    /// The folders the dynamic loader searches.
    Loader,
}

impl fmt::Display for FoundBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FoundBy::Option => "the option",
            FoundBy::Environment => "MLAFUSE_NVRTC",
            FoundBy::Setup => "set-up folder",
            FoundBy::CudaHome => "CUDA_HOME",
            FoundBy::CudaPath => "CUDA_PATH",
            FoundBy::Python => "Python environment",
            FoundBy::Loader => "loader's path",
        })
    }
}

/// A found library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvrtcLocation {
    /// The library's file, absolute.
    pub path: PathBuf,
    /// How it was found.
    pub source: FoundBy,
}

/// A place that was looked in without success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// Why this place was looked in.
    pub source: FoundBy,
    /// The folder.
    pub place: PathBuf,
    /// What was wrong.
    pub outcome: String,
}

impl fmt::Display for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Looked { source, place, outcome } = self;
        write!(f, "{source}: {}: {outcome}", place.display())
    }
}

/// A found library and what stands for its version in cache keys.
#[derive(Debug)]
pub(super) struct Found {
    pub location: NvrtcLocation,
    pub identity: String,
}

/// Everything the search depends on, so that tests can set it.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    pub option: Option<PathBuf>,
    pub mlafuse_nvrtc: Option<PathBuf>,
    pub current_dir: Option<PathBuf>,
    pub executable_dir: Option<PathBuf>,
    pub data_dir: Option<PathBuf>,
    pub cuda_home: Option<PathBuf>,
    pub cuda_path: Option<PathBuf>,
    pub virtual_env: Option<PathBuf>,
    pub conda_prefix: Option<PathBuf>,
    pub path: Option<OsString>,
    pub python_installations: Vec<PathBuf>,
    pub loader_folders: Vec<PathBuf>,
}

impl Surroundings {
    /// This process's environment.
    pub fn of_process(option: Option<&Path>) -> Surroundings {
        let folder = |name| variable(name).map(PathBuf::from);
        Surroundings {
            option: option.map(Path::to_owned),
            mlafuse_nvrtc: folder("MLAFUSE_NVRTC"),
            current_dir: std::env::current_dir().ok(),
            executable_dir: std::env::current_exe()
                .ok()
                .and_then(|exe| exe.parent().map(Path::to_owned)),
            data_dir: data_folder().ok(),
            cuda_home: folder("CUDA_HOME"),
            cuda_path: folder("CUDA_PATH"),
            virtual_env: folder("VIRTUAL_ENV"),
            conda_prefix: folder("CONDA_PREFIX"),
            path: variable("PATH"),
            python_installations: python_installations(),
            loader_folders: loader_folders(),
        }
    }

    /// The folders to look in after the explicit choices, in order.
    fn places(&self) -> Vec<(FoundBy, PathBuf)> {
        let mut places = Vec::new();
        let mut add = |source, place: PathBuf| {
            if !places.contains(&(source, place.clone())) {
                places.push((source, place));
            }
        };
        for start in [&self.current_dir, &self.executable_dir].into_iter().flatten() {
            for folder in start.ancestors() {
                add(FoundBy::Setup, folder.join(".nvrtc"));
            }
        }
        if let Some(data) = &self.data_dir {
            add(FoundBy::Setup, data.join("nvrtc"));
        }
        if let Some(cuda) = &self.cuda_home {
            add(FoundBy::CudaHome, cuda.clone());
        }
        if let Some(cuda) = &self.cuda_path {
            add(FoundBy::CudaPath, cuda.clone());
        }
        if let Some(conda) = &self.conda_prefix {
            add(FoundBy::Python, conda.clone());
        }
        for prefix in self.python_prefixes() {
            for packages in package_folders(&prefix) {
                add(FoundBy::Python, packages);
            }
        }
        for folder in &self.loader_folders {
            add(FoundBy::Loader, folder.clone());
        }
        places
    }

    /// Prefixes of Python installations: active environments, `python3` on PATH (as named, and
    /// with links resolved), and the usual installations.
    fn python_prefixes(&self) -> Vec<PathBuf> {
        let mut prefixes: Vec<PathBuf> = [&self.virtual_env, &self.conda_prefix]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        let path = self.path.clone().unwrap_or_default();
        for bin in std::env::split_paths(&path) {
            for name in ["python3", "python"] {
                let python = bin.join(name);
                let resolved = fs::canonicalize(&python);
                for file in resolved.is_ok().then_some(python).into_iter().chain(resolved) {
                    prefixes.extend(file.parent().and_then(Path::parent).map(Path::to_owned));
                }
            }
        }
        prefixes.extend(self.python_installations.iter().cloned());
        prefixes
    }
}

/// Finds NVRTC; see [`super::Nvrtc::locate`].
pub(super) fn find(surroundings: &Surroundings) -> Result<Found, NvrtcError> {
    let explicit = [
        (FoundBy::Option, &surroundings.option),
        (FoundBy::Environment, &surroundings.mlafuse_nvrtc),
    ];
    if let Some((source, path)) = explicit
        .into_iter()
        .find_map(|(source, path)| Some((source, path.as_ref()?)))
    {
        return find_explicit(source, path);
    }
    let mut looked = Vec::new();
    for (source, place) in surroundings.places() {
        match best_under(&place, source) {
            Ok(found) => return Ok(found),
            Err(outcome) => looked.push(Looked { source, place, outcome }),
        }
    }
    Err(NvrtcError::NotFound { looked })
}

fn find_explicit(source: FoundBy, path: &Path) -> Result<Found, NvrtcError> {
    let found = match fs::metadata(path) {
        Err(err) => Err(format!("which cannot be read: {err}")),
        Ok(metadata) if metadata.is_dir() => {
            best_under(path, source).map_err(|outcome| format!("a folder in which {outcome}"))
        }
        Ok(_) => check_file(path, source).map_err(|reason| format!("which {reason}")),
    };
    found.map_err(|reason| NvrtcError::Unusable {
        source_of_path: source,
        path: path.to_owned(),
        reason,
    })
}

/// The highest version among the libraries in `root` and the sub-folders where toolkits and
/// wheels put them; or, in words, why there is none.
fn best_under(root: &Path, source: FoundBy) -> Result<Found, String> {
    if !root.is_dir() {
        return Err("no such folder".to_owned());
    }
    let mut libraries: Vec<(Vec<u32>, PathBuf)> = library_folders(root, source)
        .iter()
        .flat_map(|folder| children(folder))
        .filter_map(|file| Some((library_version(file.file_name()?)?, file)))
        .collect();
    // Highest first; among equals the order of the folders stands.
    libraries.sort_by(|(a, _), (b, _)| b.cmp(a));
    let mut refused = Vec::new();
    for (_, file) in libraries {
        match check_file(&file, source) {
            Ok(found) => return Ok(found),
            Err(reason) => refused.push(format!("{} {reason}", file.display())),
        }
    }
    if refused.is_empty() {
        return Err("there is no libnvrtc.so".to_owned());
    }
    Err(refused.join("; "))
}

fn library_folders(root: &Path, source: FoundBy) -> Vec<PathBuf> {
    let mut folders = vec![root.to_owned()];
    if source == FoundBy::Loader {
        return folders;
    }
    // The set-up folder may hold an unpacked wheel per version.
    if source == FoundBy::Setup {
        folders.extend(children(root));
    }
    let below = ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"];
    let roots = folders.clone();
    for root in &roots {
        folders.extend(below.iter().map(|sub| root.join(sub)));
        // Wheels: nvidia/cuda_nvrtc/lib (CUDA 12), nvidia/cu13/lib.
        folders.extend(children(&root.join("nvidia")).iter().map(|dir| dir.join("lib")));
    }
    folders
}

/// The numbers of `libnvrtc.so.12.9.86`, none for a plain `libnvrtc.so`, `None` for other names
/// (`libnvrtc-builtins`, `libnvrtc.alt`).
fn library_version(name: &OsStr) -> Option<Vec<u32>> {
    let rest = name.to_str()?.strip_prefix("libnvrtc.so")?;
    if rest.is_empty() {
        return Some(Vec::new());
    }
    rest.strip_prefix('.')?
        .split('.')
        .map(|part| part.parse().ok())
        .collect()
}

/// Checks one file, in words on failure, and takes its identity.
fn check_file(file: &Path, source: FoundBy) -> Result<Found, String> {
    let build_id = elf::inspect(file).map_err(|err| err.to_string())?;
    let path = std::path::absolute(file).map_err(|err| err.to_string())?;
    let identity = match build_id {
        Some(id) => format!("build-id {id}"),
        None => file_identity(&path)?,
    };
    Ok(Found {
        location: NvrtcLocation { path, source },
        identity,
    })
}

/// What tells a file without a build id apart: its resolved path, size and time of change.
fn file_identity(path: &Path) -> Result<String, String> {
    let resolved = fs::canonicalize(path).map_err(|err| err.to_string())?;
    let metadata = fs::metadata(&resolved).map_err(|err| err.to_string())?;
    let changed = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    Ok(format!(
        "file {} of {} bytes, changed {}",
        resolved.display(),
        metadata.len(),
        changed.as_nanos()
    ))
}

/// Prefixes that PATH need not lead to: pyenv's versions (its `python3` is a script), packages
/// that the user or the administrator installed beside the system's Python.
fn python_installations() -> Vec<PathBuf> {
    let home = variable("HOME").map(PathBuf::from);
    let pyenv = variable("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| home.as_ref().map(|home| home.join(".pyenv")));
    let mut prefixes: Vec<PathBuf> = pyenv
        .into_iter()
        .flat_map(|root| children(&root.join("versions")))
        .collect();
    prefixes.extend(home.map(|home| home.join(".local")));
    prefixes.push("/usr/local".into());
    prefixes
}

/// `site-packages` and `dist-packages` of a Python prefix.
fn package_folders(prefix: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for lib in ["lib", "lib64"] {
        let versions = children(&prefix.join(lib)).into_iter().filter(|folder| {
            folder
                .file_name()
                .and_then(OsStr::to_str)
                .is_some_and(|name| name.starts_with("python3"))
        });
        for version in versions {
            let both = ["site-packages", "dist-packages"].map(|name| version.join(name));
            found.extend(both.into_iter().filter(|folder| folder.is_dir()));
        }
    }
    found
}

/// What the dynamic loader searches: `LD_LIBRARY_PATH`, the folders of its configuration files,
/// and the usual system folders.
fn loader_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = variable("LD_LIBRARY_PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .filter(|folder| folder.is_absolute())
        .collect();
    let mut files = vec![PathBuf::from("/etc/ld.so.conf")];
    files.extend(children(Path::new("/etc/ld.so.conf.d")));
    for file in files {
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines = text.lines().map(str::trim);
        folders.extend(lines.filter(|line| line.starts_with('/')).map(PathBuf::from));
    }
    for system in ["/lib64", "/usr/lib64", "/lib", "/usr/lib"] {
        folders.push(system.into());
    }
    folders
}

/// A folder's entries in reverse order of name, so that the same is found each time and newer
/// versions come first; none where it cannot be read.
fn children(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    entries.sort_unstable_by(|a, b| b.cmp(a));
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that passes the header checks.
    fn put_library(folder: &Path, name: &str) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        let path = folder.join(name);
        fs::write(&path, super::super::alias::library_bytes(name, "/x")).unwrap();
        path
    }

    fn found(surroundings: &Surroundings) -> (PathBuf, FoundBy) {
        let location = find(surroundings).unwrap().location;
        (location.path, location.source)
    }

    #[test]
    fn versions_by_name() {
        let version = |name: &str| library_version(OsStr::new(name));
        assert_eq!(version("libnvrtc.so.12.9.86"), Some(vec![12, 9, 86]));
        assert_eq!(version("libnvrtc.so"), Some(vec![]));
        for other in [
            "libnvrtc.alt.so.12",
            "libnvrtc-builtins.so.12.9",
            "libnvrtc.so.",
            "libnvrtc.so.x",
            "libnvrtc.so.99999999999",
        ] {
            assert_eq!(version(other), None, "{other}");
        }
    }

    #[test]
    fn the_highest_usable_version_wins() {
        let dir = tempfile::tempdir().unwrap();
        let surroundings = Surroundings {
            option: Some(dir.path().to_owned()),
            ..Surroundings::default()
        };
        let nine = put_library(dir.path(), "libnvrtc.so.9");
        put_library(dir.path(), "libnvrtc.so");
        put_library(dir.path(), "libnvrtc.alt.so.14");
        assert_eq!(found(&surroundings).0, nine);
        let twelve = put_library(&dir.path().join("nvidia/cuda_nvrtc/lib"), "libnvrtc.so.12");
        fs::write(dir.path().join("libnvrtc.so.13"), "cut short").unwrap();
        assert_eq!(found(&surroundings), (twelve, FoundBy::Option));
    }

    #[test]
    fn an_explicit_choice_never_falls_through() {
        let dir = tempfile::tempdir().unwrap();
        let good = dir.path().join("good");
        put_library(&good, "libnvrtc.so.12");
        let text = dir.path().join("text");
        fs::write(&text, "not a library").unwrap();
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        for bad in [dir.path().join("absent"), text, empty] {
            let surroundings = Surroundings {
                mlafuse_nvrtc: Some(bad.clone()),
                cuda_home: Some(good.clone()),
                ..Surroundings::default()
            };
            let message = find(&surroundings).unwrap_err().to_string();
            assert!(
                message.contains("MLAFUSE_NVRTC") && message.contains(&*bad.to_string_lossy()),
                "{message}"
            );
            let surroundings = Surroundings {
                option: Some(good.clone()),
                ..surroundings
            };
            assert_eq!(found(&surroundings).1, FoundBy::Option);
        }
    }

    #[test]
    fn places_are_tried_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let surroundings = Surroundings {
            current_dir: Some(at("work/a/b")),
            executable_dir: Some(at("install/bin")),
            data_dir: Some(at("data")),
            cuda_home: Some(at("cuda")),
            virtual_env: Some(at("venv")),
            path: Some(at("py/bin").into()),
            loader_folders: vec![at("system")],
            ..Surroundings::default()
        };
        fs::create_dir_all(at("py/bin")).unwrap();
        fs::write(at("py/bin/python3"), "").unwrap();
        // From the last choice to the first: each one added must win over those before.
        for (folder, source) in [
            ("system", FoundBy::Loader),
            ("py/lib/python3.11/site-packages/nvidia/cu13/lib", FoundBy::Python),
            (
                "venv/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib",
                FoundBy::Python,
            ),
            ("cuda/targets/x86_64-linux/lib", FoundBy::CudaHome),
            ("data/nvrtc", FoundBy::Setup),
            ("install/.nvrtc/lib", FoundBy::Setup),
            ("work/.nvrtc/12.9/nvidia/cuda_nvrtc/lib", FoundBy::Setup),
        ] {
            let library = put_library(&at(folder), "libnvrtc.so.12");
            assert_eq!(found(&surroundings), (library, source), "{folder}");
        }
    }

    #[test]
    fn a_failed_search_lists_every_place_and_the_mend() {
        let dir = tempfile::tempdir().unwrap();
        let damaged = dir.path().join("damaged");
        fs::create_dir(&damaged).unwrap();
        fs::write(damaged.join("libnvrtc.so.12"), "cut short").unwrap();
        let surroundings = Surroundings {
            cuda_home: Some(dir.path().join("absent")),
            cuda_path: Some(damaged),
            loader_folders: vec![dir.path().to_owned()],
            ..Surroundings::default()
        };
        let message = find(&surroundings).unwrap_err().to_string();
        for part in [
            "CUDA_HOME",
            "no such folder",
            "CUDA_PATH",
            "libnvrtc.so.12 is not a 64-bit",
            "loader's path",
            "cargo xtask setup",
            "pip install nvidia-cuda-nvrtc-cu12",
        ] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }

    #[test]
    fn identity_changes_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = put_library(dir.path(), "libnvrtc.so.12");
        let identity = || check_file(&file, FoundBy::Option).unwrap().identity;
        let before = identity();
        assert_eq!(before, identity());
        let mut bytes = fs::read(&file).unwrap();
        bytes.push(0);
        fs::write(&file, bytes).unwrap();
        assert_ne!(before, identity());
    }
}
