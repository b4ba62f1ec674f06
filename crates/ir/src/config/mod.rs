//! The shape of one MLA model: what a checkpoint's `config.json` (or a short inline form) says about its attention.
//!
//! [`MlaConfig::from_json`] follows Hugging Face transformers' configuration classes: the same fields, the same
//! defaults, the same fallbacks. Whatever it had to assume stands in [`MlaConfig::notes`]. Every value that comes
//! out has been checked, so that products of dimensions cannot overflow 64 bits.

mod checkpoint_json;
mod error;
mod family;
mod fields;
mod inline;
mod json;
mod rope_fields;

pub use error::ConfigError;

use serde::Serialize;

/// Largest value any one dimension may have; keeps every product of dimensions that names a tensor below 2^60 bytes.
pub const MAX_DIM: usize = 1 << 20;
/// Most query heads.
pub const MAX_HEADS: usize = 1 << 16;
/// Most layers.
pub const MAX_LAYERS: usize = 1 << 16;
/// Longest context a config may claim, in tokens.
pub const MAX_POSITION: usize = 1 << 30;
/// The latent norms' epsilon in transformers: the class default, whatever `rms_norm_eps` says (that is the outer norms').
pub const LATENT_NORM_EPS: f64 = 1e-6;

/// One attention layer's shape and constants, with the checkpoint's field name in brackets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MlaConfig {
    /// The checkpoint's `model_type`, or `unknown` where it has none.
    pub model_type: String,
    /// D, width of the residual stream (`hidden_size`).
    pub d_model: usize,
    /// H, query heads (`num_attention_heads`).
    pub n_heads: usize,
    /// d_c, width of the cached latent (`kv_lora_rank`).
    pub d_latent: usize,
    /// d_r, width of the shared rope key (`qk_rope_head_dim`); even, 0 for a model without one.
    pub d_rope: usize,
    /// d_n, content part of a query or key head (`qk_nope_head_dim`).
    pub d_nope: usize,
    /// d_v, value head (`v_head_dim`).
    pub d_v: usize,
    /// d_q, the query latent (`q_lora_rank`); `None` where one `q_proj` makes the query.
    pub d_q_latent: Option<usize>,
    /// Whether q_a_proj, kv_a_proj_with_mqa and o_proj carry a bias.
    pub attention_bias: bool,
    /// Epsilon of the two latent norms; always [`LATENT_NORM_EPS`].
    pub latent_norm_eps: f64,
    /// How the rope parts of q and k are rotated.
    pub rope: RopeConfig,
    /// Factor on q·k before softmax: (d_nope + d_rope)^-1/2, times mscale² under YaRN.
    pub softmax_scale: f64,
    /// Factor on the whole query (content and rope): LongCat's sqrt(d_model / d_q_latent), else 1.
    pub q_latent_scale: f64,
    /// Factor on the normed latent before it is cached, k_pe excepted: LongCat's sqrt(d_model / d_latent), else 1.
    pub latent_scale: f64,
    /// Decoder layers, those without MLA included (`num_hidden_layers`, LongCat's `num_layers`).
    pub n_layers: usize,
    /// Attentions in one layer: 2 in LongCat, else 1.
    pub attentions_per_layer: usize,
    /// Which layers (from 0) have MLA, where not all do (Kimi-Linear); ascending.
    pub mla_layers: Option<Vec<usize>>,
    /// Longest context in tokens (`max_position_embeddings`).
    pub max_position: usize,
    /// Where the checkpoint keeps its layers: `model.layers`, or below a multimodal model's language part.
    pub layers_prefix: String,
    /// What was assumed: defaults taken, an unknown model type, the epsilon used.
    pub notes: Vec<String>,
}

/// Rotary embedding of the rope parts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RopeConfig {
    /// Base of the frequencies (`rope_theta`), above 1.
    pub theta: f64,
    /// Which elements form a rotated pair.
    pub pairing: RopePairing,
    /// How the frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// Which elements of a rope part (d_rope wide) are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RopePairing {
    /// (2i, 2i + 1): DeepSeek's checkpoints.
    Interleaved,
    /// (i, i + d_rope/2): MiniCPM3.
    HalfSplit,
    /// The rope part is used as it is (Kimi-Linear). Not the same as d_rope = 0: the shared key part is still there.
    Unrotated,
}

/// Long-context scaling of the frequencies, with transformers' parameters.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum RopeScaling {
    /// Plain rope.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// Stretch, above 0.
        factor: f64,
    },
    /// YaRN (arXiv 2309.00071), as DeepSeek uses it.
    Yarn {
        /// Stretch of the low frequencies, above 0.
        factor: f64,
        /// Context the model was trained on before stretching, in tokens.
        original_max_position: usize,
        /// Rotations over the original context above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is divided by `factor`.
        beta_slow: f64,
        /// Numerator's coefficient of the factor on cos and sin; 0 where absent.
        mscale: f64,
        /// Denominator's coefficient, and the softmax scale's; 0 where absent.
        mscale_all_dim: f64,
        /// Overrides the factor on cos and sin.
        attention_factor: Option<f64>,
        /// Whether the ramp's ends are rounded to whole dimensions (transformers' default).
        truncate: bool,
    },
    /// LongRoPE (arXiv 2402.13753): a divisor for each frequency.
    LongRope {
        /// Divisors up to `original_max_position` tokens, [d_rope/2].
        short_factor: Vec<f64>,
        /// Divisors beyond it, [d_rope/2].
        long_factor: Vec<f64>,
        /// Context the model was trained on before stretching, in tokens.
        original_max_position: usize,
        /// Factor on cos and sin: transformers' sqrt(1 + ln(factor) / ln(original)), or the config's own.
        attention_factor: f64,
    },
}

/// KV-cache size of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KvCacheBytes {
    /// In one attention: (d_latent + d_rope) elements, without the row's padding.
    pub per_attention: usize,
    /// In the whole model: every MLA attention of every layer.
    pub model: usize,
}

impl MlaConfig {
    /// Reads the text of a `config.json`; `file` names it in errors.
    ///
    /// # Errors
    /// [`ConfigError`] where the text isn't JSON, isn't an MLA model's config, holds a value that isn't allowed,
    /// or asks for something that isn't supported.
    pub fn from_json(text: &str, file: &str) -> Result<MlaConfig, ConfigError> {
        fields::from_json(text, file)
    }

    /// Reads the short form `heads=20,d_latent=256,...`: `heads` and `d_model` required, the other dimensions with
    /// DeepSeek-V3's defaults, rope of base 10000; `rope=interleaved|half|none`, and `yarn=FACTOR` for DeepSeek-V3's YaRN.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key, what was found and what is allowed.
    pub fn from_inline(text: &str) -> Result<MlaConfig, ConfigError> {
        inline::from_inline(text)
    }

    /// The config as a `config.json` that transformers and [`MlaConfig::from_json`] read back to the same shape.
    pub fn to_checkpoint_json(&self) -> serde_json::Value {
        checkpoint_json::to_checkpoint_json(self)
    }

    /// Width of a query or key head, d_nope + d_rope.
    pub fn d_qk(&self) -> usize {
        self.d_nope + self.d_rope
    }

    /// Elements in one cache row: the latent, then the rope key.
    pub fn cache_row_elems(&self) -> usize {
        self.d_latent + self.d_rope
    }

    /// Elements from one cache row to the next: the row padded to 16 bytes.
    pub fn cache_row_stride(&self, bytes_per_elem: usize) -> usize {
        let lane = (16 / bytes_per_elem.max(1)).max(1);
        self.cache_row_elems().next_multiple_of(lane)
    }

    /// MLA attentions in the whole model.
    pub fn attention_count(&self) -> usize {
        let layers = self.mla_layers.as_ref().map_or(self.n_layers, Vec::len);
        layers * self.attentions_per_layer
    }

    /// Whether a layer (from 0) has MLA.
    pub fn has_mla(&self, layer: usize) -> bool {
        layer < self.n_layers && self.mla_layers.as_ref().is_none_or(|layers| layers.contains(&layer))
    }

    /// KV-cache bytes one token takes with elements of `bytes_per_elem` bytes.
    pub fn kv_cache_bytes_per_token(&self, bytes_per_elem: usize) -> KvCacheBytes {
        let per_attention = self.cache_row_elems() * bytes_per_elem;
        KvCacheBytes {
            per_attention,
            model: per_attention * self.attention_count(),
        }
    }
}

/// YaRN's magnitude: 0.1 · coefficient · ln(factor) + 1, and 1 where nothing is stretched.
pub(crate) fn yarn_mscale(factor: f64, coefficient: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * coefficient * factor.ln() + 1.0
    }
}

#[cfg(test)]
mod tests;
