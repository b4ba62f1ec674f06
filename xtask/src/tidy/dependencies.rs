//! Every outside dependency is explained in the architecture page, and used.

use toml::{Table, Value};

use super::Finding;
use super::manifest;
use super::repo::Repo;

const RULE: &str = "dependencies";
const PAGE: &str = "docs/architecture.md";

pub fn explained_and_used(repo: &Repo) -> Vec<Finding> {
    let Some(root) = manifest::root(repo) else {
        return Vec::new();
    };
    let used: Vec<String> = manifest::members(repo)
        .iter()
        .flat_map(|member| member.dependencies())
        .collect();
    let page = repo.text(PAGE).unwrap_or_default();
    let listed = root.get(&["workspace", "dependencies"]).and_then(Value::as_table);
    let outside = listed
        .into_iter()
        .flat_map(Table::iter)
        .filter(|(_, value)| value.get("path").is_none());

    let mut findings = Vec::new();
    for (name, _) in outside {
        let mut add = |message: String| {
            findings.push(Finding::error(&root.path, root.line_of(name), RULE, message));
        };
        if !page.contains(&format!("`{name}`")) {
            add(format!("{PAGE} does not say what `{name}` is for"));
        }
        if !used.contains(name) {
            add(format!("no member uses `{name}`"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    #[test]
    fn an_unexplained_or_unused_dependency_is_found() {
        let files = [
            (
                "Cargo.toml",
                "[workspace.dependencies]\nours = { path = \"ours\" }\nhalf = \"2\"\nrayon = \"1\"\nserde = { version = \"1\" }\n",
            ),
            (
                "ours/Cargo.toml",
                "[dependencies]\nhalf.workspace = true\n[dev-dependencies]\nrayon.workspace = true\n",
            ),
            (PAGE, "`half` for bf16, `serde` for files\n"),
        ];
        assert_eq!(places(explained_and_used, &files), ["Cargo.toml:4", "Cargo.toml:5"]);
    }
}
