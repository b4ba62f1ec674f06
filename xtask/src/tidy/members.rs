//! Every crate takes the workspace's lints and says what it is.

use toml::Value;

use super::Finding;
use super::manifest;
use super::repo::Repo;

const RULE: &str = "members";

pub fn share_lints_and_describe_themselves(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for manifest in manifest::members(repo) {
        let mut add = |message: &str| findings.push(Finding::error(&manifest.path, 1, RULE, message));
        if manifest.get(&["lints", "workspace"]).and_then(Value::as_bool) != Some(true) {
            add("`[lints] workspace = true` is missing");
        }
        let description = manifest.get(&["package", "description"]).and_then(Value::as_str);
        if description.is_none_or(|text| text.trim().is_empty()) {
            add("`package.description` is missing");
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    #[test]
    fn missing_lints_and_descriptions_are_found() {
        let files = [
            ("Cargo.toml", "[workspace]\n"),
            (
                "a/Cargo.toml",
                "[package]\ndescription = \"A\"\n[lints]\nworkspace = true\n",
            ),
            ("b/Cargo.toml", "[package]\ndescription = \"B\"\n"),
            (
                "c/Cargo.toml",
                "[package]\ndescription = \"\"\n[lints]\nworkspace = true\n",
            ),
        ];
        assert_eq!(
            places(share_lints_and_describe_themselves, &files),
            ["b/Cargo.toml:1", "c/Cargo.toml:1"]
        );
    }
}
