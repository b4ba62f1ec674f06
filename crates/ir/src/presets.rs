//! Known models' shapes: the attention fields of their `config.json`, read by the same code as any other config.

use thiserror::Error;

use crate::config::{ConfigError, MlaConfig};

/// Why there is no such preset.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum PresetError {
    /// The name isn't in the table.
    #[error("no preset `{name}`; known: {known}")]
    Unknown {
        /// The name as given.
        name: String,
        /// The known names.
        known: String,
    },
    /// The table's own text was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// A named shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Preset {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its shape.
    pub config: MlaConfig,
}

/// The names, in the order [`all`] gives them.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name)
}

/// The shape of a known model.
///
/// # Errors
/// [`PresetError::Unknown`] lists the known names.
pub fn preset(name: &str) -> Result<MlaConfig, PresetError> {
    match TABLE.iter().find(|(known, _)| *known == name) {
        Some((name, text)) => Ok(MlaConfig::from_json(text, name)?),
        None => {
            let known = names().collect::<Vec<_>>().join(", ");
            Err(PresetError::Unknown {
                name: name.to_owned(),
                known,
            })
        }
    }
}

/// Every known model.
///
/// # Errors
/// None in practice: a test reads the whole table.
pub fn all() -> Result<Vec<Preset>, PresetError> {
    names()
        .map(|name| {
            Ok(Preset {
                name,
                config: preset(name)?,
            })
        })
        .collect()
}

const DEEPSEEK_V3: &str = r#"{
    "model_type": "deepseek_v3", "hidden_size": 7168, "num_attention_heads": 128, "num_hidden_layers": 61,
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "attention_bias": false, "rms_norm_eps": 1e-6, "max_position_embeddings": 163840, "rope_theta": 10000,
    "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
        "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
}"#;

const TABLE: [(&str, &str); 10] = [
    (
        "deepseek-v2",
        r#"{
    "model_type": "deepseek_v2", "hidden_size": 5120, "num_attention_heads": 128, "num_hidden_layers": 60,
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "attention_bias": false, "rms_norm_eps": 1e-6, "max_position_embeddings": 163840, "rope_theta": 10000,
    "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
        "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707}
}"#,
    ),
    (
        "deepseek-v2-lite",
        r#"{
    "model_type": "deepseek_v2", "hidden_size": 2048, "num_attention_heads": 16, "num_hidden_layers": 27,
    "q_lora_rank": null, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "attention_bias": false, "rms_norm_eps": 1e-6, "max_position_embeddings": 163840, "rope_theta": 10000,
    "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
        "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707}
}"#,
    ),
    ("deepseek-v3", DEEPSEEK_V3),
    ("deepseek-r1", DEEPSEEK_V3),
    (
        "kimi-k2",
        r#"{
    "model_type": "kimi_k2", "hidden_size": 7168, "num_attention_heads": 64, "num_hidden_layers": 61,
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "attention_bias": false, "rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "rope_theta": 50000,
    "rope_scaling": {"type": "yarn", "factor": 32, "original_max_position_embeddings": 4096,
        "beta_fast": 1, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
}"#,
    ),
    (
        "kimi-linear",
        r#"{
    "model_type": "kimi_linear", "hidden_size": 2304, "num_attention_heads": 32, "num_hidden_layers": 27,
    "q_lora_rank": null, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "mla_use_nope": true, "rms_norm_eps": 1e-5, "model_max_length": 1048576, "rope_theta": 10000,
    "linear_attn_config": {"full_attn_layers": [4, 8, 12, 16, 20, 24, 27]}
}"#,
    ),
    (
        "minicpm3",
        r#"{
    "model_type": "minicpm3", "hidden_size": 2560, "num_attention_heads": 40, "num_hidden_layers": 62,
    "q_lora_rank": 768, "kv_lora_rank": 256, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64,
    "attention_bias": false, "rms_norm_eps": 1e-5, "max_position_embeddings": 32768, "rope_theta": 10000,
    "rope_scaling": {"type": "longrope", "original_max_position_embeddings": 32768,
        "short_factor": [1.0591234137867171, 1.1241891283591912, 1.2596935748670968, 1.5380380402321725,
            2.093982484148734, 3.1446935121267696, 4.937952647693647, 7.524541999994549,
            10.475458000005451, 13.062047352306353, 14.85530648787323, 15.906017515851266,
            16.461961959767827, 16.740306425132907, 16.87581087164081, 16.940876586213285],
        "long_factor": [1.0591234137867171, 1.1241891283591912, 1.2596935748670968, 1.5380380402321725,
            2.093982484148734, 3.1446935121267696, 4.937952647693647, 7.524541999994549,
            10.475458000005451, 13.062047352306353, 14.85530648787323, 15.906017515851266,
            16.461961959767827, 16.740306425132907, 16.87581087164081, 16.940876586213285]}
}"#,
    ),
    (
        "glm-4.7-flash",
        r#"{
    "model_type": "glm4_moe_lite", "hidden_size": 2048, "num_attention_heads": 20, "num_hidden_layers": 47,
    "q_lora_rank": 768, "kv_lora_rank": 512, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256,
    "attention_bias": false, "rms_norm_eps": 1e-5, "max_position_embeddings": 202752, "rope_theta": 1000000
}"#,
    ),
    (
        "longcat-flash",
        r#"{
    "model_type": "longcat_flash", "hidden_size": 6144, "num_attention_heads": 64, "num_layers": 28,
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "mla_scale_q_lora": true, "mla_scale_kv_lora": true,
    "attention_bias": false, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072, "rope_theta": 10000000
}"#,
    ),
    (
        "youtu-llm",
        r#"{
    "model_type": "youtu", "hidden_size": 2048, "num_attention_heads": 16, "num_hidden_layers": 32,
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "attention_bias": false, "rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "rope_interleave": true,
    "rope_theta": 1600000
}"#,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KvCacheBytes, RopePairing};

    #[test]
    fn every_preset_reads_and_only_its_epsilon_is_noted() {
        let all = all().unwrap();
        assert_eq!(all.len(), TABLE.len());
        for Preset { name, config } in all {
            assert_eq!(config.notes.len(), 1, "{name}: {:?}", config.notes);
            assert!(config.notes[0].contains("eps"), "{name}: {:?}", config.notes);
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let message = preset("deepseek-v9").unwrap_err().to_string();
        assert!(message.contains("`deepseek-v9`"), "{message}");
        assert!(names().all(|name| message.contains(name)), "{message}");
    }

    #[test]
    fn the_cache_of_a_token_has_its_published_size() {
        let bytes = |name: &str| preset(name).unwrap().kv_cache_bytes_per_token(2);
        // DeepSeek-V3's report: 70.272 KB a token in bf16.
        assert_eq!(
            bytes("deepseek-v3"),
            KvCacheBytes {
                per_attention: 1152,
                model: 70_272
            }
        );
        assert_eq!(bytes("longcat-flash").model, 2 * 28 * 1152);
        assert_eq!(bytes("kimi-linear").model, 7 * 1152);
        assert_eq!(
            bytes("minicpm3"),
            KvCacheBytes {
                per_attention: 576,
                model: 62 * 576
            }
        );
    }

    #[test]
    fn the_model_families_differ_where_they_should() {
        let minicpm3 = preset("minicpm3").unwrap();
        assert_eq!(minicpm3.rope.pairing, RopePairing::HalfSplit);
        let kimi = preset("kimi-linear").unwrap();
        assert_eq!((kimi.rope.pairing, kimi.d_rope), (RopePairing::Unrotated, 64));
        assert!(kimi.has_mla(3) && kimi.has_mla(26) && !kimi.has_mla(4));
        let longcat = preset("longcat-flash").unwrap();
        assert_eq!((longcat.q_latent_scale, longcat.latent_scale), (2.0, 12f64.sqrt()));
        let glm = preset("glm-4.7-flash").unwrap();
        assert_eq!((glm.d_qk(), glm.d_v, glm.softmax_scale), (256, 256, 1.0 / 16.0));
    }
}
