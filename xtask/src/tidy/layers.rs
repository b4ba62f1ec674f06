//! Dependencies between our crates point one way.

use super::Finding;
use super::manifest::{self, Manifest};
use super::repo::Repo;

const RULE: &str = "layering";

/// What a crate may depend on.
struct Layer {
    name: &'static str,
    on: &'static [&'static str],
}

const fn layer(name: &'static str, on: &'static [&'static str]) -> Layer {
    Layer { name, on }
}

const ALL: &[&str] = &[
    "mlafuse",
    "mlafuse-tune",
    "mlafuse-profile",
    "mlafuse-runtime",
    "mlafuse-cpu",
    "mlafuse-codegen",
    "mlafuse-ir",
    "mlafuse-tensor",
];

const LAYERS: &[Layer] = &[
    layer("mlafuse-cli", ALL),
    layer(
        "mlafuse-tests",
        &[
            "mlafuse",
            "mlafuse-runtime",
            "mlafuse-cpu",
            "mlafuse-codegen",
            "mlafuse-ir",
            "mlafuse-tensor",
            "ptxsim",
        ],
    ),
    layer("mlafuse-benches", ALL),
    layer(
        "mlafuse",
        &[
            "mlafuse-tune",
            "mlafuse-profile",
            "mlafuse-runtime",
            "mlafuse-codegen",
            "mlafuse-ir",
            "mlafuse-tensor",
        ],
    ),
    layer(
        "mlafuse-tune",
        &[
            "mlafuse-profile",
            "mlafuse-runtime",
            "mlafuse-codegen",
            "mlafuse-ir",
            "mlafuse-tensor",
        ],
    ),
    layer(
        "mlafuse-profile",
        &["mlafuse-runtime", "mlafuse-cpu", "mlafuse-ir", "mlafuse-tensor"],
    ),
    layer(
        "mlafuse-runtime",
        &[
            "mlafuse-cpu",
            "mlafuse-codegen",
            "mlafuse-ir",
            "mlafuse-tensor",
            "ptxsim",
        ],
    ),
    layer("mlafuse-cpu", &["mlafuse-codegen", "mlafuse-ir", "mlafuse-tensor"]),
    layer("mlafuse-codegen", &["mlafuse-ir", "mlafuse-tensor"]),
    layer("mlafuse-ir", &["mlafuse-tensor"]),
    layer("mlafuse-tensor", &[]),
    layer("ptxsim", &[]),
    layer("xtask", &[]),
];

pub fn point_one_way(repo: &Repo) -> Vec<Finding> {
    let manifests = manifest::members(repo);
    let ours: Vec<&str> = manifests.iter().map(Manifest::name).collect();
    manifests
        .iter()
        .flat_map(|manifest| wrong_edges(manifest, &ours))
        .collect()
}

fn wrong_edges(manifest: &Manifest, ours: &[&str]) -> Vec<Finding> {
    let name = manifest.name();
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
        let message = format!("`{name}` has no place in the layers: add it to xtask/src/tidy/layers.rs");
        return vec![Finding::error(&manifest.path, manifest.line_of("name"), RULE, message)];
    };
    let allowed = |name: &str| layer.on.contains(&name);
    let dependencies = manifest.dependencies();
    let wrong = dependencies
        .iter()
        .filter(|found| ours.contains(&found.as_str()) && !allowed(found));
    wrong
        .map(|found| {
            let message = format!("`{name}` may depend on [{}], not on `{}`", layer.on.join(", "), found);
            Finding::error(&manifest.path, manifest.line_of(found), RULE, message)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    #[test]
    fn an_edge_upwards_is_found() {
        let files = [
            ("crates/ir/Cargo.toml", "[package]\nname = \"mlafuse-ir\"\n"),
            (
                "codegen/Cargo.toml",
                "[package]\nname = \"mlafuse-codegen\"\n[dependencies]\nmlafuse-ir.workspace = true\n",
            ),
            (
                "crates/tensor/Cargo.toml",
                "[package]\nname = \"mlafuse-tensor\"\n[dev-dependencies]\nmlafuse-ir = { path = \"../ir\" }\n",
            ),
        ];
        assert_eq!(places(point_one_way, &files), ["crates/tensor/Cargo.toml:4"]);
    }

    #[test]
    fn a_crate_without_a_layer_is_found() {
        let files = [("crates/new/Cargo.toml", "[package]\nname = \"mlafuse-new\"\n")];
        assert_eq!(places(point_one_way, &files), ["crates/new/Cargo.toml:2"]);
    }
}
