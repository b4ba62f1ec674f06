//! Source files stay short enough to be read in one go.

use super::repo::Repo;
use super::{Finding, Severity};

const RULE: &str = "short-files";
const AIM: usize = 600;
const LIMIT: usize = 800;

pub fn files_are_short(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, text) in repo.texts() {
        if !(file.path.ends_with(".rs") && file.path.contains("/src/")) {
            continue;
        }
        let lines = text.lines().count();
        if lines > AIM {
            let message = format!("{lines} lines: aim for {AIM}, at most {LIMIT}");
            let severity = if lines > LIMIT {
                Severity::Error
            } else {
                Severity::Warning
            };
            let finding = Finding::error(&file.path, lines, RULE, message);
            findings.push(Finding { severity, ..finding });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_a_warning_then_an_error() {
        let file = |lines| "x\n".repeat(lines);
        let (short, long, too_long) = (file(AIM), file(AIM + 1), file(LIMIT + 1));
        let repo = Repo::made_up(&[
            ("a/src/a.rs", &short),
            ("a/src/b.rs", &long),
            ("a/src/c.rs", &too_long),
            ("a/c.md", &too_long),
        ]);
        let found: Vec<(String, Severity)> = files_are_short(&repo)
            .into_iter()
            .map(|finding| (finding.path, finding.severity))
            .collect();
        let expected = [("a/src/b.rs", Severity::Warning), ("a/src/c.rs", Severity::Error)];
        assert_eq!(found, expected.map(|(path, severity)| (path.to_owned(), severity)));
    }
}
