//! Nothing is left open: no skipped test, no placeholder, no note to come back.

use super::Finding;
use super::repo::Repo;
use super::source::words;

const RULE: &str = "nothing-open";
const CODE: &[&str] = &["#[ignore", "todo!", "dbg!"];
const NOTES: &[&str] = &["TODO", "FIXME"];

/// String literals may hold any of these; everything else, prose included, may not.
pub fn nothing_left_open(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, text) in repo.texts().filter(|(file, _)| file.path != "Cargo.lock") {
        let mut add = |line, what: &str| {
            findings.push(Finding::error(
                &file.path,
                line,
                RULE,
                format!("`{what}` must not stay"),
            ));
        };
        let mut note = |(line, text): (usize, &str)| {
            for what in NOTES.iter().filter(|what| words(text).any(|word| word == **what)) {
                add(line, what);
            }
        };
        let Some(source) = &file.source else {
            text.lines()
                .enumerate()
                .for_each(|(index, line)| note((index + 1, line)));
            continue;
        };
        source.code().chain(source.comments()).for_each(note);
        for (line, code) in source.code() {
            for what in CODE.iter().filter(|what| code.contains(**what)) {
                add(line, what);
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    #[test]
    fn each_marker_is_found() {
        let rust = "// TODO: x\nfn f() {\n    todo!()\n}\n#[ignore = \"slow\"]\nfn g() { dbg!(1); }\nconst T: &str = \"TODO\";\n";
        let files = [("a.rs", rust), ("b.sh", "# FIXME\nautodoc TODOS\n")];
        assert_eq!(
            places(nothing_left_open, &files),
            ["a.rs:1", "a.rs:3", "a.rs:5", "a.rs:6", "b.sh:1"]
        );
    }
}
