//! Cargo.toml files, as far as the rules read them.

use toml::{Table, Value};

use super::repo::Repo;

pub struct Manifest<'a> {
    pub path: String,
    /// An empty table where the file does not parse; cargo itself says so before any rule could.
    pub table: Table,
    text: &'a str,
}

/// The members' manifests. A package with a workspace of its own, such as fuzz targets, is none.
pub fn members(repo: &Repo) -> Vec<Manifest<'_>> {
    let files = repo.texts().filter(|(file, _)| file.path.ends_with("/Cargo.toml"));
    files
        .map(|(file, text)| Manifest::new(&file.path, text))
        .filter(|manifest| !manifest.table.contains_key("workspace"))
        .collect()
}

/// The workspace's manifest.
pub fn root(repo: &Repo) -> Option<Manifest<'_>> {
    Some(Manifest::new("Cargo.toml", repo.text("Cargo.toml")?))
}

impl<'a> Manifest<'a> {
    fn new(path: &str, text: &'a str) -> Self {
        Self {
            path: path.to_owned(),
            table: text.parse().unwrap_or_default(),
            text,
        }
    }

    /// The value at `keys`, one table inside another.
    pub fn get(&self, keys: &[&str]) -> Option<&Value> {
        let (first, rest) = keys.split_first()?;
        rest.iter()
            .try_fold(self.table.get(*first)?, |value, key| value.get(*key))
    }

    /// `package.name`, or nothing.
    pub fn name(&self) -> &str {
        self.get(&["package", "name"])
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Every dependency, those for some targets only included.
    pub fn dependencies(&self) -> Vec<String> {
        let targets = self.table.get("target").and_then(Value::as_table);
        let tables = targets.into_iter().flat_map(Table::values).filter_map(Value::as_table);
        tables.chain([&self.table]).flat_map(dependencies_of).collect()
    }

    /// The first line that sets `key`, counted from 1; 1 where there is none.
    pub fn line_of(&self, key: &str) -> usize {
        let sets = |line: &str| {
            line.strip_prefix(key)
                .is_some_and(|rest| rest.starts_with([' ', '.', '=']))
        };
        self.text.lines().position(sets).map_or(1, |index| index + 1)
    }
}

fn dependencies_of(table: &Table) -> Vec<String> {
    let kinds = ["dependencies", "build-dependencies", "dev-dependencies"];
    let tables = kinds
        .iter()
        .filter_map(|kind| table.get(*kind).and_then(Value::as_table));
    tables.flat_map(Table::keys).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_of_every_kind_are_listed() {
        let text = "[dependencies]\na = \"1\"\n[dev-dependencies]\nb.workspace = true\n[target.'cfg(unix)'.dependencies]\nc = \"1\"\n";
        let manifest = Manifest::new("x/Cargo.toml", text);
        assert_eq!(manifest.dependencies(), ["c", "a", "b"]);
        assert_eq!(manifest.line_of("b"), 4);
    }
}
