//! Dimensions are written by name: a product or sum of them is never a number in code.

use super::Finding;
use super::repo::{File, Repo};
use super::source::words;

const RULE: &str = "dimensions-by-name";
const SUMS: &[(&str, &str)] = &[("576", "d_latent + d_rope"), ("192", "d_nope + d_rope")];

pub fn by_name(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in repo
        .sources()
        .filter(|(file, _)| file.is_product() && !holds_presets(file))
    {
        for (line, code) in source.code().filter(|(line, _)| source.is_product_line(*line)) {
            for (number, meaning) in words(code).filter_map(forbidden) {
                let message = format!("write {meaning} of the configuration, not {number}");
                findings.push(Finding::error(&file.path, line, RULE, message));
            }
        }
    }
    findings
}

fn forbidden(word: &str) -> Option<&'static (&'static str, &'static str)> {
    let plain = word.replace('_', "");
    SUMS.iter().find(|(number, _)| {
        let rest = plain.strip_prefix(number);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['u', 'i', 'f']))
    })
}

fn holds_presets(file: &File) -> bool {
    file.path.ends_with("/presets.rs") || file.path.contains("/presets/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    #[test]
    fn the_sums_are_found_as_numbers_only() {
        let text = "// 576\nconst A: usize = 576;\nconst B: u32 = 19_2u32;\nconst C: usize = 1576 + 5760 + x192;\n\
            const D: &str = \"576\";\n#[cfg(test)]\nconst E: usize = 192;\n";
        let files = [
            ("crates/ir/src/a.rs", text),
            ("crates/ir/src/presets.rs", text),
            ("codegen/tests/a.rs", text),
        ];
        assert_eq!(
            places(by_name, &files),
            ["crates/ir/src/a.rs:2", "crates/ir/src/a.rs:3"]
        );
    }
}
