//! Reads an MLA model's `config.json`.

use serde_json::{Map, Value};

use super::error::ConfigError;
use super::family::{Family, KNOWN, LatentScaleRule, PairingRule, family};
use super::json::{Section, parse_object};
use super::rope_fields::{RopeReading, read_rope};
use super::{LATENT_NORM_EPS, MAX_DIM, MAX_HEADS, MAX_LAYERS, MAX_POSITION, MlaConfig, RopeConfig, RopePairing};

/// Where multimodal configs keep the language model, and where their checkpoints keep its layers.
const NESTED: [(&str, &str, &str); 2] = [
    ("text_config", "text_config.", "language_model.model.layers"),
    ("language_config", "language_config.", "language.model.layers"),
];

/// Fields no MLA model works without; transformers has defaults for them, but a wrong guess here would only show
/// as a shape mismatch much later.
const REQUIRED: [&str; 6] = [
    "kv_lora_rank",
    "qk_rope_head_dim",
    "qk_nope_head_dim",
    "v_head_dim",
    "hidden_size",
    "num_attention_heads",
];

pub(super) fn from_json(text: &str, file: &str) -> Result<MlaConfig, ConfigError> {
    let root = parse_object(text, file)?;
    let (section, layers_prefix) = language_model(file, &root)?;
    let model_type = section.string("model_type")?.unwrap_or("unknown");
    let family = family(model_type);
    check_required(&section, model_type, &family)?;
    refuse_unsupported(&section)?;

    let mut notes = Vec::new();
    if !family.known {
        notes.push(format!(
            "model type `{model_type}` isn't known (known: {KNOWN}); read as DeepSeek-V3's attention with this config's sizes"
        ));
    }
    let d_model = dimension(&section, "hidden_size")?;
    let n_heads = required(&section, "num_attention_heads", 1, MAX_HEADS)?;
    let d_latent = dimension(&section, "kv_lora_rank")?;
    let d_rope = rope_width(&section)?;
    let d_nope = dimension(&section, "qk_nope_head_dim")?;
    let d_v = value_width(&section, &family, d_model, n_heads, &mut notes)?;
    let d_q_latent = query_latent(&section, &family, &mut notes)?;
    let n_layers = layer_count(&section, &family, &mut notes)?;
    let max_position = max_position(&section, &family, &mut notes)?;
    let reading = read_rope(&section, &family, d_rope, max_position, &mut notes)?;
    let pairing = pairing(&section, model_type, &family, &mut notes)?;
    let (q_latent_scale, latent_scale) = latent_scales(&section, &family, d_model, d_q_latent, d_latent, &mut notes)?;
    note_norm_eps(&section, &mut notes)?;

    let RopeReading { theta, scaling, mscale } = reading;
    Ok(MlaConfig {
        model_type: model_type.to_owned(),
        d_model,
        n_heads,
        d_latent,
        d_rope,
        d_nope,
        d_v,
        d_q_latent,
        attention_bias: section.boolean("attention_bias")?.unwrap_or(false),
        latent_norm_eps: LATENT_NORM_EPS,
        rope: RopeConfig {
            theta,
            pairing,
            scaling,
        },
        softmax_scale: softmax_scale(d_nope, d_rope, mscale),
        q_latent_scale,
        latent_scale,
        n_layers,
        attentions_per_layer: family.attentions_per_layer,
        mla_layers: mla_layers(&section, n_layers)?,
        max_position,
        layers_prefix: layers_prefix.to_owned(),
        notes,
    })
}

/// (d_nope + d_rope)^-1/2 · mscale²: the scale of the query width that was trained, not of the absorbed one.
pub(super) fn softmax_scale(d_nope: usize, d_rope: usize, mscale: f64) -> f64 {
    ((d_nope + d_rope) as f64).powf(-0.5) * mscale * mscale
}

/// The object that describes the language model, and its layers' prefix.
fn language_model<'a>(file: &'a str, root: &'a Map<String, Value>) -> Result<(Section<'a>, &'static str), ConfigError> {
    let section = Section {
        file,
        path: "",
        map: root,
    };
    if section.get("kv_lora_rank").is_none() {
        for (field, path, layers) in NESTED {
            if let Some(map) = section.object(field)? {
                return Ok((Section { file, path, map }, layers));
            }
        }
    }
    Ok((section, "model.layers"))
}

fn check_required(section: &Section, model_type: &str, family: &Family) -> Result<(), ConfigError> {
    let absent = |field: &str| match field {
        "v_head_dim" if family.d_v_from_d_model => false,
        // Null means "no latent" here; elsewhere null is reported as a wrong value.
        "kv_lora_rank" => section.get(field).is_none(),
        _ => !section.map.contains_key(field),
    };
    let missing: Vec<String> = REQUIRED
        .iter()
        .filter(|field| absent(field))
        .map(|field| format!("`{}{field}`", section.path))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (file, missing) = (section.file.to_owned(), missing.join(", "));
    if section.get("kv_lora_rank").is_none() {
        return Err(ConfigError::NotMla {
            file,
            model_type: super::error::shortened(model_type),
            missing,
        });
    }
    Err(ConfigError::Missing { file, missing })
}

/// Features that would change the result without changing a shape.
fn refuse_unsupported(section: &Section) -> Result<(), ConfigError> {
    if section.get("index_topk").is_some() {
        return Err(section.unsupported(
            "sparse attention (`index_topk`)",
            "dense attention over the whole context",
        ));
    }
    if section.boolean("mla_use_output_gate")? == Some(true) {
        return Err(section.unsupported("an output gate (`mla_use_output_gate`)", "attention without one"));
    }
    Ok(())
}

fn required(section: &Section, field: &str, least: usize, most: usize) -> Result<usize, ConfigError> {
    section
        .integer(field, least, most)?
        .ok_or_else(|| ConfigError::Missing {
            file: section.file.to_owned(),
            missing: format!("`{}{field}`", section.path),
        })
}

fn dimension(section: &Section, field: &str) -> Result<usize, ConfigError> {
    required(section, field, 1, MAX_DIM)
}

fn rope_width(section: &Section) -> Result<usize, ConfigError> {
    const FIELD: &str = "qk_rope_head_dim";
    let d_rope = required(section, FIELD, 0, MAX_DIM)?;
    if d_rope % 2 == 1 {
        return Err(section.refuse(FIELD, &Value::from(d_rope), "an even number: rope rotates pairs"));
    }
    Ok(d_rope)
}

fn value_width(
    section: &Section,
    family: &Family,
    d_model: usize,
    n_heads: usize,
    notes: &mut Vec<String>,
) -> Result<usize, ConfigError> {
    if !family.d_v_from_d_model {
        return dimension(section, "v_head_dim");
    }
    if let Some(d_v) = section.integer_or_null("v_head_dim", 1, MAX_DIM)? {
        return Ok(d_v);
    }
    let d_v = d_model / n_heads;
    if d_v == 0 {
        return Err(section.refuse(
            "num_attention_heads",
            &Value::from(n_heads),
            format!("at most hidden_size ({d_model}), or an explicit v_head_dim"),
        ));
    }
    notes.push(format!(
        "`v_head_dim` is absent: hidden_size / num_attention_heads = {d_v}"
    ));
    Ok(d_v)
}

/// Absent and null differ: null says that there is no query latent, absent takes the model type's default.
fn query_latent(section: &Section, family: &Family, notes: &mut Vec<String>) -> Result<Option<usize>, ConfigError> {
    const FIELD: &str = "q_lora_rank";
    if !section.map.contains_key(FIELD) {
        notes.push(match family.d_q_latent {
            Some(d_q) => format!("`{FIELD}` is absent: {d_q}"),
            None => format!("`{FIELD}` is absent: no query latent"),
        });
        return Ok(family.d_q_latent);
    }
    match section.integer_or_null(FIELD, 1, MAX_DIM) {
        Err(ConfigError::Field {
            file,
            field,
            found,
            allowed,
        }) => Err(ConfigError::Field {
            file,
            field,
            found,
            allowed: format!("{allowed}, or null for no query latent"),
        }),
        other => other,
    }
}

fn layer_count(section: &Section, family: &Family, notes: &mut Vec<String>) -> Result<usize, ConfigError> {
    // transformers makes LongCat's num_hidden_layers count attentions; its num_layers counts layers.
    let fields = match family.attentions_per_layer {
        1 => ["num_hidden_layers", "num_layers"],
        _ => ["num_layers", "num_hidden_layers"],
    };
    for field in fields {
        if let Some(count) = section.integer(field, 1, MAX_LAYERS)? {
            return Ok(count);
        }
    }
    notes.push(format!("`num_hidden_layers` is absent: {}", family.n_layers));
    Ok(family.n_layers)
}

fn max_position(section: &Section, family: &Family, notes: &mut Vec<String>) -> Result<usize, ConfigError> {
    for field in ["max_position_embeddings", "model_max_length"] {
        if let Some(longest) = section.integer(field, 1, MAX_POSITION)? {
            return Ok(longest);
        }
    }
    notes.push(format!("`max_position_embeddings` is absent: {}", family.max_position));
    Ok(family.max_position)
}

fn pairing(
    section: &Section,
    model_type: &str,
    family: &Family,
    notes: &mut Vec<String>,
) -> Result<RopePairing, ConfigError> {
    let asked = section.boolean("rope_interleave")?;
    match section.boolean("mla_use_nope")? {
        Some(true) => return Ok(RopePairing::Unrotated),
        None if model_type == "kimi_linear" => {
            notes.push("`mla_use_nope` is absent: the shared key part is rotated, in interleaved pairs".to_owned());
        }
        _ => {}
    }
    match family.pairing {
        PairingRule::Fixed(pairing) => {
            let interleaved = pairing == RopePairing::Interleaved;
            if asked.is_some_and(|asked| asked != interleaved) {
                notes.push(format!("`rope_interleave` has no effect for model type `{model_type}`"));
            }
            Ok(pairing)
        }
        PairingRule::Field => {
            if asked.is_none() && !family.known {
                notes.push("`rope_interleave` is absent: interleaved pairs".to_owned());
            }
            Ok(if asked.unwrap_or(true) {
                RopePairing::Interleaved
            } else {
                RopePairing::HalfSplit
            })
        }
    }
}

/// LongCat's factors on the query and on the normed latent.
fn latent_scales(
    section: &Section,
    family: &Family,
    d_model: usize,
    d_q_latent: Option<usize>,
    d_latent: usize,
    notes: &mut Vec<String>,
) -> Result<(f64, f64), ConfigError> {
    let mut wanted = |field: &str| -> Result<bool, ConfigError> {
        let asked = section.boolean(field)?;
        let scales = match family.latent_scale {
            LatentScaleRule::Never => false,
            LatentScaleRule::UnlessDenied => asked.unwrap_or(true),
            LatentScaleRule::WhereAsked => asked.unwrap_or(false),
        };
        if asked.is_some_and(|asked| asked != scales) {
            notes.push(format!("`{field}` has no effect for this model type"));
        }
        Ok(scales)
    };
    let ratio = |rank: usize| (d_model as f64 / rank as f64).sqrt();
    let (query, latent) = (wanted("mla_scale_q_lora")?, wanted("mla_scale_kv_lora")?);
    let query = d_q_latent.filter(|_| query).map_or(1.0, ratio);
    Ok((query, if latent { ratio(d_latent) } else { 1.0 }))
}

fn note_norm_eps(section: &Section, notes: &mut Vec<String>) -> Result<(), ConfigError> {
    let outer = section.number("rms_norm_eps", "a number from 0 to 1", |eps| (0.0..=1.0).contains(&eps))?;
    notes.push(match outer {
        Some(outer) if outer != LATENT_NORM_EPS => format!(
            "the latent norms use eps {LATENT_NORM_EPS:e}, as transformers does; rms_norm_eps = {outer:e} is the outer norms'"
        ),
        _ => format!("the latent norms use eps {LATENT_NORM_EPS:e}"),
    });
    Ok(())
}

/// Kimi-Linear's list of full-attention layers, which counts from 1.
fn mla_layers(section: &Section, n_layers: usize) -> Result<Option<Vec<usize>>, ConfigError> {
    const FIELD: &str = "full_attn_layers";
    let Some(map) = section.object("linear_attn_config")? else {
        return Ok(None);
    };
    let path = format!("{}linear_attn_config.", section.path);
    let linear = Section {
        file: section.file,
        path: &path,
        map,
    };
    let Some(value) = linear.get(FIELD) else {
        return Ok(None);
    };
    let allowed = format!("a list of layers from 1 to {n_layers}, each once");
    let refused = || linear.refuse(FIELD, value, allowed.as_str());
    let mut layers = Vec::new();
    for entry in value.as_array().ok_or_else(refused)? {
        let layer = entry.as_u64().and_then(|layer| usize::try_from(layer).ok());
        match layer {
            Some(layer) if (1..=n_layers).contains(&layer) => layers.push(layer - 1),
            _ => return Err(refused()),
        }
    }
    let count = layers.len();
    layers.sort_unstable();
    layers.dedup();
    if layers.is_empty() || layers.len() != count {
        return Err(refused());
    }
    Ok(Some(layers))
}
