//! `mlafuse presets`: the known shapes.

use crate::output::{Align, Report, table};
use anyhow::Result;
use mlafuse_ir::presets::{self, Preset};
use serde_json::{Value, json};

/// No options but the global ones.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  mlafuse presets --format json")]
pub struct Args {}

/// The cache is counted in bf16.
const CACHE_ELEMENT_BYTES: usize = 2;

pub fn run(_: &Args) -> Result<Report> {
    let presets = presets::all()?;
    let heading = [
        ("name", Align::Left),
        ("d_model", Align::Right),
        ("heads", Align::Right),
        ("d_q_latent", Align::Right),
        ("d_latent", Align::Right),
        ("d_rope", Align::Right),
        ("d_nope", Align::Right),
        ("d_v", Align::Right),
        ("layers", Align::Right),
        ("cache B/token/layer", Align::Right),
        ("cache B/token", Align::Right),
    ];
    let rows: Vec<_> = presets.iter().map(row).collect();
    let text =
        table(heading, &rows) + "\nCache bytes are bf16's. Any other shape: --model heads=N,d_model=N,d_latent=N,...\n";
    let json: Vec<Value> = presets.iter().map(object).collect();
    Ok(Report::new(text, json!({ "presets": json })))
}

fn row(Preset { name, config }: &Preset) -> [String; 11] {
    let bytes = config.kv_cache_bytes_per_token(CACHE_ELEMENT_BYTES);
    let q_latent = config.d_q_latent.map_or("-".to_string(), |d_q| d_q.to_string());
    let numbers = [
        config.d_latent,
        config.d_rope,
        config.d_nope,
        config.d_v,
        config.attention_count(),
    ];
    let [d_latent, d_rope, d_nope, d_v, layers] = numbers.map(|n| n.to_string());
    [
        name.to_string(),
        config.d_model.to_string(),
        config.n_heads.to_string(),
        q_latent,
        d_latent,
        d_rope,
        d_nope,
        d_v,
        layers,
        bytes.per_attention.to_string(),
        bytes.model.to_string(),
    ]
}

fn object(Preset { name, config }: &Preset) -> Value {
    let bytes = config.kv_cache_bytes_per_token(CACHE_ELEMENT_BYTES);
    json!({
        "name": name,
        "model_type": config.model_type,
        "d_model": config.d_model,
        "n_heads": config.n_heads,
        "d_q_latent": config.d_q_latent,
        "d_latent": config.d_latent,
        "d_rope": config.d_rope,
        "d_nope": config.d_nope,
        "d_v": config.d_v,
        "attentions": config.attention_count(),
        "cache_bytes_per_token_layer": bytes.per_attention,
        "cache_bytes_per_token": bytes.model,
    })
}
