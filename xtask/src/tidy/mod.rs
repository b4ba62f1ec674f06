//! `cargo xtask tidy`: the repository's rules as code. Each rule is a function from the files to its findings.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use repo::Repo;

mod cuda_text;
mod dependencies;
mod dimensions;
mod hosts;
mod layers;
mod manifest;
mod markers;
mod members;
mod plain_text;
mod pure;
mod repo;
mod runtime_only;
mod size;
mod source;

/// A place that breaks a rule.
#[derive(Debug, PartialEq)]
struct Finding {
    path: String,
    /// Counted from 1.
    line: usize,
    rule: &'static str,
    message: String,
    severity: Severity,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Severity {
    Error,
    /// Printed, and nothing more.
    Warning,
}

impl Finding {
    fn error(path: &str, line: usize, rule: &'static str, message: impl Into<String>) -> Self {
        let (path, message, severity) = (path.to_owned(), message.into(), Severity::Error);
        Self {
            path,
            line,
            rule,
            message,
            severity,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            rule,
            message,
            severity,
        } = self;
        let note = if *severity == Severity::Warning {
            " (warning)"
        } else {
            ""
        };
        write!(f, "{path}:{line}: {rule}: {message}{note}")
    }
}

const RULES: &[fn(&Repo) -> Vec<Finding>] = &[
    runtime_only::no_cudarc_elsewhere,
    layers::point_one_way,
    pure::no_outside_world,
    cuda_text::only_in_the_printer,
    cuda_text::mnemonics_in_one_table,
    cuda_text::no_includes,
    markers::nothing_left_open,
    dimensions::by_name,
    hosts::none_named,
    members::share_lints_and_describe_themselves,
    size::files_are_short,
    dependencies::explained_and_used,
    plain_text::clean_and_small,
];

pub fn run(root: &Path) -> Result<ExitCode> {
    Ok(match check(root)? {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Prints every finding; whether none is an error.
pub fn check(root: &Path) -> Result<bool> {
    let repo = Repo::read(root)?;
    let findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(&repo)).collect();
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .count();
    println!(
        "tidy: {} files, {} rules, {errors} errors",
        repo.files.len(),
        RULES.len()
    );
    Ok(errors == 0)
}

/// The findings of `rule` on a made-up repository, each as `path:line`.
#[cfg(test)]
fn places(rule: fn(&Repo) -> Vec<Finding>, files: &[(&str, &str)]) -> Vec<String> {
    rule(&Repo::made_up(files))
        .iter()
        .map(|finding| format!("{}:{}", finding.path, finding.line))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_prints_as_path_line_rule_message() {
        let finding = Finding::error("a/b.rs", 7, "rule", "message");
        assert_eq!(finding.to_string(), "a/b.rs:7: rule: message");
    }

    #[test]
    fn an_error_on_disk_fails_the_check_and_ignored_folders_do_not() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| std::fs::write(root.path().join(path), text).unwrap();
        std::fs::create_dir(root.path().join("target")).unwrap();
        write(".gitignore", "/target\n");
        write("target/junk.rs", "todo!() \n");
        write("README.md", "fine\n");
        assert!(check(root.path()).unwrap());
        write("README.md", "not fine \n");
        assert!(!check(root.path()).unwrap());
    }
}
