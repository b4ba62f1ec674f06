//! What `--model` names.

use anyhow::{Context, Result, bail};
use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::presets;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What `--model` takes, for `--help`.
pub const MODEL_HELP: &str = "A preset (`mlafuse presets`), a config.json, a folder that holds one, or \
    heads=20,d_model=2560,d_latent=256,... (DeepSeek-V3's sizes where left out; rope=half or none, yarn=40)";

/// A longer config.json is none.
const LARGEST_CONFIG: u64 = 16 << 20;

/// The shape that `--model` names.
pub fn resolve(model: &str) -> Result<MlaConfig> {
    if presets::names().any(|name| name == model) {
        return Ok(presets::preset(model)?);
    }
    let path = Path::new(model);
    if path.exists() {
        return read_config(path);
    }
    if model.contains('=') {
        return MlaConfig::from_inline(model).context("--model");
    }
    let known = presets::names().collect::<Vec<_>>().join(", ");
    bail!(
        "--model `{model}`: no preset of this name and no such file or folder; allowed: a preset ({known}), a config.json, \
         a folder that holds one, or heads=N,d_model=N,..."
    )
}

/// Reads a `config.json`, or that of a folder.
pub fn read_config(path: &Path) -> Result<MlaConfig> {
    let file = config_file(path);
    let name = file.display().to_string();
    let text = read_text(&file).with_context(|| format!("cannot read {name}"))?;
    Ok(MlaConfig::from_json(&text, &name)?)
}

fn config_file(path: &Path) -> PathBuf {
    if path.is_dir() {
        path.join("config.json")
    } else {
        path.to_owned()
    }
}

/// The text of a regular file; opening a pipe would wait for ever.
fn read_text(file: &Path) -> Result<String> {
    let metadata = fs::metadata(file)?;
    if !metadata.is_file() {
        bail!("it is not a regular file");
    }
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(LARGEST_CONFIG + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_CONFIG {
        bail!("it has {} bytes; at most {LARGEST_CONFIG} are allowed", metadata.len());
    }
    String::from_utf8(bytes).context("it is not UTF-8 text")
}
