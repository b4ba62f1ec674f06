//! cudarc stays behind the runtime: nothing else may depend on how CUDA is reached.

use super::Finding;
use super::manifest::{self, Manifest};
use super::repo::Repo;
use super::source::{Source, words};

const RULE: &str = "cudarc-in-runtime";
const HOME: &str = "crates/runtime/";

pub fn no_cudarc_elsewhere(repo: &Repo) -> Vec<Finding> {
    let outside = |path: &str| !path.starts_with(HOME);
    let named = |source: &Source| -> Vec<usize> {
        let lines = source
            .code()
            .filter(|(_, code)| words(code).any(|word| word == "cudarc"));
        lines.map(|(line, _)| line).collect()
    };
    let sources = repo.sources().filter(|(file, _)| outside(&file.path));
    let mut findings: Vec<Finding> = sources
        .flat_map(|(file, source)| named(source).into_iter().map(|line| (&file.path, line)))
        .map(|(path, line)| Finding::error(path, line, RULE, "only crates/runtime may name cudarc"))
        .collect();
    let manifests = manifest::members(repo);
    let dependants = manifests
        .iter()
        .filter(|manifest| outside(&manifest.path) && depends(manifest));
    findings.extend(dependants.map(|manifest| {
        Finding::error(
            &manifest.path,
            manifest.line_of("cudarc"),
            RULE,
            "only crates/runtime may depend on cudarc",
        )
    }));
    findings
}

fn depends(manifest: &Manifest) -> bool {
    manifest.dependencies().iter().any(|dependency| dependency == "cudarc")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    #[test]
    fn it_is_found_in_code_and_manifests_but_not_in_comments() {
        let files = [
            ("Cargo.toml", "[workspace.dependencies]\ncudarc = \"0\"\n"),
            ("crates/runtime/Cargo.toml", "[dependencies]\ncudarc.workspace = true\n"),
            ("crates/runtime/src/lib.rs", "use cudarc::driver;\n"),
            (
                "crates/cpu/Cargo.toml",
                "[dependencies]\nhalf = \"2\"\ncudarc.workspace = true\n",
            ),
            ("crates/cpu/src/lib.rs", "//! Not cudarc.\nuse cudarc::driver;\n"),
        ];
        assert_eq!(
            places(no_cudarc_elsewhere, &files),
            ["crates/cpu/src/lib.rs:2", "crates/cpu/Cargo.toml:3"]
        );
    }
}
