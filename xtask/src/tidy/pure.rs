//! ir and codegen depend on their inputs alone: no I/O, environment, clock or hash order, so that source is byte-identical.

use super::Finding;
use super::repo::Repo;
use super::source::words;

const RULE: &str = "pure-compiler";
const MODULES: &[&str] = &["fs", "env", "time", "net"];
const TYPES: &[&str] = &["HashMap", "HashSet"];

pub fn no_outside_world(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in repo.sources() {
        if !(file.path.starts_with("crates/ir/src/") || file.path.starts_with("codegen/src/")) {
            continue;
        }
        let code = source.product_code();
        let mut add = |line, what: &str| {
            let message = format!("{what} is not for the compiler: the same inputs must give the same source");
            findings.push(Finding::error(&file.path, line, RULE, message));
        };
        for (at, module) in std_modules(&code) {
            if MODULES.contains(&module) {
                add(code[..at].matches('\n').count() + 1, &format!("std::{module}"));
            }
        }
        for (index, line) in code.lines().enumerate() {
            for name in TYPES.iter().filter(|name| words(line).any(|word| word == **name)) {
                add(index + 1, name);
            }
        }
    }
    findings
}

/// The modules of std that `code` names, each with its place: `std::m`, and each `m` of `std::{m, n::o}`.
fn std_modules(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("std::") {
        let at = start + "std::".len();
        if !code[at..].starts_with('{') {
            found.push((at, name_at(&code[at..])));
            continue;
        }
        let mut depth = 0;
        for (offset, c) in code[at..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if depth == 1 && matches!(c, '{' | ',') {
                let rest = &code[at + offset + 1..];
                let entry = rest.trim_start();
                found.push((code.len() - entry.len(), name_at(entry)));
            }
        }
    }
    found
}

fn name_at(code: &str) -> &str {
    let end = code.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    &code[..end.unwrap_or(code.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    #[test]
    fn the_outside_world_is_found_in_every_spelling() {
        let text = "use std::fmt;\nuse std::fs;\nuse std::{\n    fmt::{self, Write},\n    time::Instant,\n};\n\
            fn f() { std::env::var(\"A\"); }\nuse std::collections::{BTreeMap, HashMap};\n// std::net\n";
        let files = [("codegen/src/a.rs", text), ("crates/cpu/src/a.rs", text)];
        assert_eq!(
            places(no_outside_world, &files),
            [
                "codegen/src/a.rs:2",
                "codegen/src/a.rs:5",
                "codegen/src/a.rs:7",
                "codegen/src/a.rs:8"
            ]
        );
    }

    #[test]
    fn tests_may_read_files() {
        let files = [("crates/ir/src/a.rs", "#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n")];
        assert!(places(no_outside_world, &files).is_empty());
    }
}
