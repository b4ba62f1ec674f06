//! No package registry is named by host: a mirror or an offline cache must do as well.

use super::Finding;
use super::repo::Repo;

const RULE: &str = "no-registry-hosts";

/// Written in two parts, so that this file keeps its own rule.
const HOSTS: &[&str] = &[
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("npmjs", ".org"),
    concat!("npmjs", ".com"),
    concat!("deb.debian", ".org"),
    concat!("proxy.golang", ".org"),
];

pub fn none_named(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, text) in repo.texts().filter(|(file, _)| file.path != "Cargo.lock") {
        for (index, line) in text.lines().enumerate() {
            let line = (index + 1, line.to_lowercase());
            for host in HOSTS.iter().filter(|host| line.1.contains(**host)) {
                findings.push(Finding::error(
                    &file.path,
                    line.0,
                    RULE,
                    format!("names the registry host {host}"),
                ));
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
    fn a_host_is_found_outside_the_lock_file() {
        let text = format!("fine\nsee https://{}/simple\n", HOSTS[1]);
        let files = [("README.md", text.as_str()), ("Cargo.lock", text.as_str())];
        assert_eq!(places(none_named, &files), ["README.md:2"]);
    }
}
