//! Writes a config back in the checkpoint's own terms.

use serde_json::{Map, Value, json};

use super::family::{LatentScaleRule, PairingRule, family};
use super::{MlaConfig, RopePairing, RopeScaling};

pub(super) fn to_checkpoint_json(config: &MlaConfig) -> Value {
    let mut fields = json!({
        "model_type": config.model_type,
        "hidden_size": config.d_model,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_heads,
        "q_lora_rank": config.d_q_latent,
        "kv_lora_rank": config.d_latent,
        "qk_nope_head_dim": config.d_nope,
        "qk_rope_head_dim": config.d_rope,
        "v_head_dim": config.d_v,
        "rms_norm_eps": config.latent_norm_eps,
        "max_position_embeddings": config.max_position,
        "attention_bias": config.attention_bias,
        "num_hidden_layers": config.n_layers,
        "rope_theta": config.rope.theta,
        "rope_scaling": scaling(&config.rope.scaling),
    });
    if let Value::Object(map) = &mut fields {
        add_where_not_default(config, map);
    }
    match config.layers_prefix.as_str() {
        "language_model.model.layers" => json!({ "text_config": fields }),
        "language.model.layers" => json!({ "language_config": fields }),
        _ => fields,
    }
}

/// Fields that only some model types have.
fn add_where_not_default(config: &MlaConfig, map: &mut Map<String, Value>) {
    let mut add = |name: &str, value: Value| map.insert(name.to_owned(), value);
    if config.rope.pairing == RopePairing::Unrotated {
        add("mla_use_nope", json!(true));
    } else if family(&config.model_type).pairing == PairingRule::Field {
        add(
            "rope_interleave",
            json!(config.rope.pairing == RopePairing::Interleaved),
        );
    }
    if config.attentions_per_layer != 1 {
        add("num_layers", json!(config.n_layers));
        add(
            "num_hidden_layers",
            json!(config.n_layers * config.attentions_per_layer),
        );
    }
    if family(&config.model_type).latent_scale != LatentScaleRule::Never {
        add("mla_scale_q_lora", json!(config.q_latent_scale != 1.0));
        add("mla_scale_kv_lora", json!(config.latent_scale != 1.0));
    }
    if let Some(layers) = &config.mla_layers {
        let from_one: Vec<usize> = layers.iter().map(|layer| layer + 1).collect();
        add("linear_attn_config", json!({ "full_attn_layers": from_one }));
    }
}

fn scaling(scaling: &RopeScaling) -> Value {
    match scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "type": "linear", "factor": factor }),
        RopeScaling::Yarn {
            factor,
            original_max_position,
            beta_fast,
            beta_slow,
            mscale,
            mscale_all_dim,
            attention_factor,
            truncate,
        } => json!({
            "type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original_max_position,
            "beta_fast": beta_fast,
            "beta_slow": beta_slow,
            "mscale": mscale,
            "mscale_all_dim": mscale_all_dim,
            "attention_factor": attention_factor,
            "truncate": truncate,
        }),
        RopeScaling::LongRope {
            short_factor,
            long_factor,
            original_max_position,
            attention_factor,
        } => json!({
            "type": "longrope",
            "short_factor": short_factor,
            "long_factor": long_factor,
            "original_max_position_embeddings": original_max_position,
            "attention_factor": attention_factor,
        }),
    }
}
