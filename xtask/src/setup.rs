//! `cargo xtask setup`: makes NVRTC, NVIDIA's run-time compiler for CUDA C++, available on Linux.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::process::status;

#[derive(clap::Args)]
pub struct Args {
    /// CUDA major version to look for and to install [default: any found, else 12 is installed]
    #[arg(long, value_parser = clap::value_parser!(u8).range(12..=13))]
    cuda: Option<u8>,
}

/// The folder in the project's root that set-up installs into.
const FOLDER: &str = ".nvrtc";

const ADVICE: &str = "install Python 3 with pip (Debian: `apt-get install python3-pip`) and run `cargo xtask setup` again, \
    or set MLAFUSE_NVRTC to the path of a libnvrtc.so";

pub fn run(root: &Path, args: &Args) -> Result<ExitCode> {
    ensure(root, args.cuda)?;
    Ok(ExitCode::SUCCESS)
}

/// The NVRTC library's path: found, or else installed into the project's root.
pub fn ensure(root: &Path, cuda: Option<u8>) -> Result<PathBuf> {
    if let Some((library, place)) = find(root, cuda)? {
        println!("NVRTC: {} ({place})", library.display());
        return Ok(library);
    }
    let library = install(root, cuda.unwrap_or(12))?;
    println!("NVRTC: installed {}", library.display());
    Ok(library)
}

/// Looks where mlafuse itself looks, in the same order, and says which place had it.
fn find(root: &Path, cuda: Option<u8>) -> Result<Option<(PathBuf, &'static str)>> {
    if let Some(path) = std::env::var_os("MLAFUSE_NVRTC") {
        let path = PathBuf::from(path);
        ensure!(
            path.exists(),
            "MLAFUSE_NVRTC is `{}`: no such file or folder",
            path.display()
        );
        return Ok(Some((path, "MLAFUSE_NVRTC")));
    }
    let places = [
        ("installed by set-up", wheel_folders(&root.join(FOLDER))),
        ("CUDA_HOME", toolkit_folders("CUDA_HOME")),
        ("CUDA_PATH", toolkit_folders("CUDA_PATH")),
        ("Python packages", python_folders()),
        ("the loader's path", loader_folders()),
    ];
    Ok(places
        .into_iter()
        .find_map(|(place, folders)| Some((library_in(&folders, cuda)?, place))))
}

/// An NVRTC in `folders`, of CUDA version `cuda` where one is asked for, else the newest, as mlafuse chooses.
fn library_in(folders: &[PathBuf], cuda: Option<u8>) -> Option<PathBuf> {
    let versions = cuda.map_or(vec![13, 12], |version| vec![version]);
    versions
        .iter()
        .flat_map(|version| {
            let name = format!("libnvrtc.so.{version}");
            folders.iter().map(move |folder| folder.join(&name))
        })
        .find(|path| path.is_file())
}

/// The `nvidia/*/lib` folders of a site-packages folder, where the wheels put their libraries.
fn wheel_folders(site_packages: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(site_packages.join("nvidia")) else {
        return Vec::new();
    };
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path().join("lib")).collect();
    folders.sort();
    folders
}

fn toolkit_folders(variable: &str) -> Vec<PathBuf> {
    let Some(toolkit) = std::env::var_os(variable).map(PathBuf::from) else {
        return Vec::new();
    };
    ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"]
        .map(|folder| toolkit.join(folder))
        .to_vec()
}

fn python_folders() -> Vec<PathBuf> {
    let Some(python) = python() else {
        return Vec::new();
    };
    let listed = Command::new(python)
        .args(["-c", "import sys; print('\\n'.join(sys.path))"])
        .output();
    let paths = listed.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&paths)
        .lines()
        .filter(|line| !line.is_empty())
        .flat_map(|line| wheel_folders(Path::new(line)))
        .collect()
}

fn loader_folders() -> Vec<PathBuf> {
    let set = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let standard = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/cuda/lib64",
    ];
    std::env::split_paths(&set)
        .filter(|folder| !folder.as_os_str().is_empty())
        .chain(standard.map(PathBuf::from))
        .collect()
}

/// The name of a Python that runs.
pub fn python() -> Option<&'static str> {
    ["python3", "python"]
        .into_iter()
        .find(|name| runs(name, &["--version"]))
}

fn runs(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
    status(&mut command).is_ok_and(|status| status.success())
}

/// Installs the wheel beside its place, then renames it there, so that it is there whole or not at all.
fn install(root: &Path, cuda: u8) -> Result<PathBuf> {
    let Some(python) = python() else {
        bail!("NVRTC was not found, and there is no Python to install it with: {ADVICE}");
    };
    if !runs(python, &["-m", "pip", "--version"]) {
        bail!("NVRTC was not found, and `{python} -m pip`, which would install it, does not run: {ADVICE}");
    }
    let requirement = match cuda {
        12 => "nvidia-cuda-nvrtc-cu12==12.9.*",
        _ => "nvidia-cuda-nvrtc==13.*",
    };
    let target = root.join(FOLDER);
    std::fs::create_dir_all(&target).with_context(|| format!("cannot make the folder {}", target.display()))?;
    let temporary = tempfile::Builder::new()
        .prefix("partial-")
        .tempdir_in(&target)
        .with_context(|| format!("cannot make a folder in {}", target.display()))?;
    println!("NVRTC: not found; installing {requirement} with pip");
    let pip = status(&mut pip_install(python, requirement, temporary.path()))?;
    ensure!(
        pip.success(),
        "pip could not install {requirement} ({pip}): see its message above, or {ADVICE}"
    );
    let library = library_in(&wheel_folders(temporary.path()), Some(cuda))
        .with_context(|| format!("{requirement} holds no libnvrtc.so.{cuda}"))?;
    move_package(temporary.path(), &library, &target)
}

fn pip_install(python: &str, requirement: &str, target: &Path) -> Command {
    let mut command = Command::new(python);
    command
        .args(["-m", "pip", "install", "--no-deps", "--only-binary=:all:"])
        .arg("--target")
        .arg(target)
        .arg(requirement)
        // Nothing outside `target` changes, so pip need not warn of being root.
        .env("PIP_ROOT_USER_ACTION", "ignore");
    command
}

/// Moves the package folder that holds `library` from `from` to `to`; gives the library's new path.
fn move_package(from: &Path, library: &Path, to: &Path) -> Result<PathBuf> {
    let inside = library.strip_prefix(from)?;
    let package = inside
        .ancestors()
        .nth(2)
        .context("a library outside a package's lib folder")?;
    let place = to.join(package);
    if place.exists() {
        // A package without its library: the search did not find it, so what stands here is of no use.
        std::fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    std::fs::create_dir_all(place.parent().unwrap_or(to))?;
    std::fs::rename(from.join(package), &place)
        .with_context(|| format!("cannot move the library to {}", place.display()))?;
    Ok(to.join(inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }

    #[test]
    fn the_wanted_version_is_found_among_wheels() {
        let site = tempfile::tempdir().unwrap();
        let twelve = site.path().join("nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
        let thirteen = site.path().join("nvidia/cu13/lib/libnvrtc.so.13");
        touch(&thirteen);
        assert_eq!(library_in(&wheel_folders(site.path()), Some(12)), None);
        touch(&twelve);
        let folders = wheel_folders(site.path());
        assert_eq!(library_in(&folders, Some(12)), Some(twelve));
        assert_eq!(library_in(&folders, Some(13)), Some(thirteen));
        assert_eq!(library_in(&folders, None), library_in(&folders, Some(13)));
    }

    #[test]
    fn a_package_replaces_a_broken_one_and_leaves_others() {
        let target = tempfile::tempdir().unwrap();
        let other = target.path().join("nvidia/cu13/lib/libnvrtc.so.13");
        let broken = target.path().join("nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so");
        touch(&other);
        touch(&broken);
        let partial = target.path().join("partial-1");
        let library = partial.join("nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
        touch(&library);
        let moved = move_package(&partial, &library, target.path()).unwrap();
        assert_eq!(moved, target.path().join("nvidia/cuda_nvrtc/lib/libnvrtc.so.12"));
        assert!(moved.is_file() && other.is_file() && !broken.exists() && !library.exists());
    }
}
